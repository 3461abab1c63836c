package drill

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	scratchPrefix = "wtsnap-drill-"
	lockName      = "lock"
)

// NewScratch makes a folder that nobody else can read for what a drill restores, below dir, which must be there. It removes
// what drills left that were killed. The function that it returns removes the folder and everything in it.
func NewScratch(dir string) (path string, remove func() error, err error) {
	if _, err := os.Stat(dir); err != nil {
		return "", nil, fmt.Errorf("making a folder for the drill: %w", err)
	}
	if err := sweep(dir); err != nil {
		return "", nil, fmt.Errorf("removing what an earlier drill left: %w", err)
	}
	if path, err = os.MkdirTemp(dir, scratchPrefix); err != nil {
		return "", nil, fmt.Errorf("making a folder for the drill: %w", err)
	}
	lock, err := lockFolder(path)
	if err != nil {
		return "", nil, errors.Join(err, os.RemoveAll(path))
	}
	return path, func() error {
		err := removeAll(path)
		_ = lock.Close()
		if err != nil {
			return fmt.Errorf("removing what the drill restored: %w", err)
		}
		return nil
	}, nil
}

func lockFolder(path string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(path, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// sweep removes the folders of drills whose process has ended.
func sweep(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.IsDir() || !strings.HasPrefix(e.Name(), scratchPrefix) {
			continue
		}
		path := filepath.Join(dir, e.Name())
		lock, err := lockFolder(path)
		if err != nil {
			continue // at work, or another user's
		}
		err = removeAll(path)
		_ = lock.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// removeAll removes a tree whose folders may not be writable.
func removeAll(path string) error {
	if err := os.RemoveAll(path); err == nil {
		return nil
	}
	_ = filepath.WalkDir(path, func(p string, e fs.DirEntry, err error) error {
		if e != nil && e.IsDir() {
			_ = os.Chmod(p, 0o700) // what stays is told below
		}
		return nil
	})
	return os.RemoveAll(path)
}
