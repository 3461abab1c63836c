package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/pkg/xattr"
	"golang.org/x/sys/unix"
)

const memoryFolder = "/dev/shm"

// places makes the folders that everything happens in. Restores go to memory where they fit: a file system with a
// journal makes whoever comes second wait for what the first one wrote.
func (b *bench) places(dir, targets string) error {
	if targets == "" {
		targets = dir
		if free, err := free(memoryFolder); err == nil && free > 2*max(b.size.Bytes, b.size.Dump) {
			targets = memoryFolder
		}
	}
	var err error
	if b.dir, err = os.MkdirTemp(dir, "wtsnap-bench-"); err != nil {
		return err
	}
	if b.targets, err = os.MkdirTemp(targets, "wtsnap-bench-"); err != nil {
		return errors.Join(err, os.RemoveAll(b.dir))
	}
	b.xattrs = xattr.Set(b.targets, "user.wtsnap", nil) == nil
	b.report.Targets = targets
	if !b.xattrs {
		b.report.Targets += " (which has no extended attributes: these were not compared)"
	}
	return nil
}

func (b *bench) clean() error { return errors.Join(os.RemoveAll(b.dir), os.RemoveAll(b.targets)) }

func free(dir string) (int64, error) {
	var stat unix.Statfs_t
	if err := unix.Statfs(dir, &stat); err != nil {
		return 0, err
	}
	return int64(stat.Bavail) * int64(stat.Bsize), nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// machine describes what the figures depend on.
func machine() string {
	text := fmt.Sprintf("%d cores, %s/%s", runtime.NumCPU(), runtime.GOOS, runtime.GOARCH)
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return text
	}
	for line := range strings.Lines(string(info)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			return text + ", " + strings.TrimSpace(value)
		}
	}
	return text
}

func writeJSON(path string, document any) error {
	b, err := json.MarshalIndent(document, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o644)
}
