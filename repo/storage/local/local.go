// Package local keeps objects as files below a folder, without rclone.
//
// A put is durable when it returns: the bytes are written to a temporary file in
// the object's folder, synced, renamed, and the folder is synced. Readers see a
// whole object or none. Temporary files start with a dot, which no object does;
// one left by a process that died is removed when it is a day old.
package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/whole-tale/wtsnap/repo/storage"
)

const (
	tempPrefix = ".tmp-"
	tempAge    = 24 * time.Hour // a younger temporary file may belong to a writer at work
	listers    = 8              // folders read at once: what a disk with a queue likes, and few enough for memory
)

// Storage is a storage.Storage in a folder.
type Storage struct {
	dir   string
	swept sync.Map // folders whose old temporary files are gone
}

// Open returns the storage in dir. The folder need not exist: Put makes it.
func Open(dir string) (*Storage, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, &storage.Error{Op: "open", Name: dir, Err: err}
	}
	fi, err := os.Stat(abs)
	if err == nil && !fi.IsDir() {
		err = fmt.Errorf("%w: not a folder", storage.ErrConfig)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, failed("open", dir, err)
	}
	return &Storage{dir: abs}, nil
}

// Put writes, syncs and renames.
func (s *Storage) Put(ctx context.Context, name string, data []byte) (storage.Info, error) {
	err := ctx.Err()
	if err == nil {
		err = storage.CheckPut(name, data)
	}
	if err != nil {
		return storage.Info{}, failed("put", name, err)
	}
	path := s.path(name)
	folder := filepath.Dir(path)
	s.sweep(folder)
	f, err := createTemp(folder)
	if errors.Is(err, fs.ErrNotExist) {
		if err = makeFolder(folder); err == nil {
			f, err = createTemp(folder)
		}
	}
	if err != nil {
		return storage.Info{}, failed("put", name, err)
	}
	info, err := fill(ctx, f, data)
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return storage.Info{}, failed("put", name, err)
	}
	if err := syncFolder(folder); err != nil {
		return storage.Info{}, failed("put", name, err)
	}
	return storage.Info{Name: name, Size: info.Size(), ModTime: info.ModTime()}, nil
}

// Get reads a range.
func (s *Storage) Get(ctx context.Context, name string, offset, length int64, dst []byte) ([]byte, error) {
	f, fi, err := s.open(ctx, name)
	if err != nil {
		return dst[:0], failed("get", name, err)
	}
	defer f.Close()
	n, err := storage.CheckRange(fi.Size(), offset, length)
	if err != nil {
		return dst[:0], failed("get", name, err)
	}
	if int64(cap(dst)) < n {
		dst = make([]byte, n)
	}
	dst = dst[:n]
	if _, err := f.ReadAt(dst, offset); err != nil && n > 0 {
		if err == io.EOF {
			err = storage.ErrShort
		}
		return dst[:0], failed("get", name, err)
	}
	return dst, nil
}

// Stat describes the object; a folder does not have a hash at hand.
func (s *Storage) Stat(ctx context.Context, name string) (storage.Info, error) {
	err := ctx.Err()
	if err == nil {
		err = storage.CheckName(name)
	}
	var fi fs.FileInfo
	if err == nil {
		fi, err = os.Stat(s.path(name))
	}
	if err == nil && !fi.Mode().IsRegular() {
		err = storage.ErrNotExist
	}
	if err != nil {
		return storage.Info{}, failed("stat", name, err)
	}
	return storage.Info{Name: name, Size: fi.Size(), ModTime: fi.ModTime()}, nil
}

// List reads several folders at once.
func (s *Storage) List(ctx context.Context, prefix string, fn func(storage.Info) error) error {
	if err := storage.CheckPrefix(prefix); err != nil {
		return failed("list", prefix, err)
	}
	if err := ctx.Err(); err != nil {
		return failed("list", prefix, err)
	}
	if fi, err := os.Stat(s.dir); err == nil && !fi.IsDir() {
		return failed("list", prefix, syscall.ENOTDIR)
	}
	l := lister{st: s, fn: fn}
	l.group, l.ctx = errgroup.WithContext(ctx)
	l.group.SetLimit(listers)
	l.group.Go(func() error { return l.folder(strings.TrimSuffix(prefix, "/")) })
	err := l.group.Wait()
	if l.fnErr != nil {
		return l.fnErr
	}
	if err != nil {
		return failed("list", prefix, err)
	}
	return nil
}

// Delete removes the file. Its folder stays: another writer may be about to use it.
func (s *Storage) Delete(ctx context.Context, name string) error {
	err := ctx.Err()
	if err == nil {
		err = storage.CheckName(name)
	}
	if err == nil {
		err = os.Remove(s.path(name))
	}
	if err != nil && !absent(err) {
		return failed("delete", name, err)
	}
	return nil
}

func (s *Storage) path(name string) string {
	return filepath.Join(s.dir, filepath.FromSlash(name))
}

func (s *Storage) open(ctx context.Context, name string) (*os.File, fs.FileInfo, error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	if err := storage.CheckName(name); err != nil {
		return nil, nil, err
	}
	f, err := os.Open(s.path(name))
	if err != nil {
		return nil, nil, err
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = storage.ErrNotExist
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, fi, nil
}

// lister walks folders in parallel and calls fn one at a time.
type lister struct {
	st    *Storage
	ctx   context.Context // of this one listing
	group *errgroup.Group
	mu    sync.Mutex
	fn    func(storage.Info) error
	fnErr error // what fn returned, to be passed on as it is
}

func (l *lister) folder(name string) error {
	entries, err := os.ReadDir(l.st.path(name))
	if err != nil && !absent(err) {
		return err
	}
	var infos []storage.Info
	for _, e := range entries {
		child := e.Name()
		if storage.CheckName(child) != nil {
			continue // a temporary file, or not ours
		}
		if name != "" {
			child = name + "/" + child
		}
		fi, err := info(l.st.path(child), e)
		if absent(err) {
			continue // deleted meanwhile
		}
		if err != nil {
			return err
		}
		switch {
		case fi.IsDir():
			if !l.group.TryGo(func() error { return l.folder(child) }) {
				if err := l.folder(child); err != nil {
					return err
				}
			}
		case fi.Mode().IsRegular():
			infos = append(infos, storage.Info{Name: child, Size: fi.Size(), ModTime: fi.ModTime()})
		}
	}
	return l.report(infos)
}

func (l *lister) report(infos []storage.Info) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, info := range infos {
		if err := l.ctx.Err(); err != nil {
			return err
		}
		if err := l.fn(info); err != nil {
			l.fnErr = err
			return err
		}
	}
	return l.ctx.Err()
}

// info follows a symbolic link: an administrator may have moved a folder to another disk.
func info(path string, e fs.DirEntry) (fs.FileInfo, error) {
	if e.Type()&fs.ModeSymlink != 0 {
		return os.Stat(path)
	}
	if e.IsDir() {
		return folderInfo{}, nil
	}
	return e.Info()
}

// folderInfo stands for a folder, which needs no stat.
type folderInfo struct{ fs.FileInfo }

func (folderInfo) IsDir() bool { return true }

func createTemp(folder string) (*os.File, error) {
	path := filepath.Join(folder, fmt.Sprintf("%s%016x", tempPrefix, rand.Uint64()))
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
}

// fill writes data to f, syncs and closes it.
func fill(ctx context.Context, f *os.File, data []byte) (fi fs.FileInfo, err error) {
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}()
	if _, err := f.Write(data); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := f.Sync(); err != nil {
		return nil, err
	}
	fi, err = f.Stat()
	if err == nil && fi.Size() != int64(len(data)) {
		err = fmt.Errorf("wrote %d bytes, the file has %d", len(data), fi.Size())
	}
	return fi, err
}

// makeFolder makes the folder and those above it, each one durable before the next.
func makeFolder(folder string) error {
	err := os.Mkdir(folder, 0o700)
	if errors.Is(err, fs.ErrNotExist) {
		parent := filepath.Dir(folder)
		if parent == folder {
			return err
		}
		if err := makeFolder(parent); err != nil {
			return err
		}
		err = os.Mkdir(folder, 0o700)
	}
	if errors.Is(err, fs.ErrExist) {
		return nil // another writer was faster
	}
	if err != nil {
		return err
	}
	return syncFolder(filepath.Dir(folder))
}

// syncFolder makes the names in a folder durable. File systems that cannot sync
// a folder (some network ones) say EINVAL; they keep names in their own way.
func syncFolder(folder string) error {
	f, err := os.Open(folder)
	if err != nil {
		return err
	}
	defer f.Close()
	err = f.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, errors.ErrUnsupported) {
		return nil
	}
	return err
}

// sweep removes what died writers left in the folder, once a process.
func (s *Storage) sweep(folder string) {
	if _, done := s.swept.LoadOrStore(folder, true); done {
		return
	}
	entries, err := os.ReadDir(folder)
	if err != nil {
		return // no folder yet, or Put will say what is wrong
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), tempPrefix) {
			continue
		}
		if fi, err := e.Info(); err == nil && time.Since(fi.ModTime()) > tempAge {
			_ = os.Remove(filepath.Join(folder, e.Name()))
		}
	}
}

// absent reports whether err says that there is no such file. A file where a
// folder of the name should be means the same.
func absent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}

func failed(op, name string, err error) error {
	e := &storage.Error{Op: op, Name: name, Err: err}
	switch {
	case op != "put" && absent(err):
		e.Kind = storage.ErrNotExist
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		e.Kind = storage.ErrQuota
		e.Hint = "free space there, or raise the quota"
	case errors.Is(err, syscall.EROFS):
		e.Kind = storage.ErrReadOnly
		e.Hint = "mount the file system read-write"
	case errors.Is(err, fs.ErrPermission):
		e.Kind = storage.ErrDenied
		e.Hint = "the folder needs to be readable and writable for the user that runs wtsnap"
	}
	return e
}

// Free asks the file system.
func (s *Storage) Free(context.Context) (int64, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(s.dir, &fs); err != nil {
		return storage.Unknown, failed("about", "", err)
	}
	return int64(fs.Bavail) * int64(fs.Bsize), nil
}
