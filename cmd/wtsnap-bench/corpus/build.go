package corpus

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"github.com/pkg/xattr"
)

// The steps of a builder. Names are relative to the home.

func (b *builder) do(step func() error) {
	if b.err == nil {
		b.err = b.ctx.Err()
	}
	if b.err == nil {
		b.err = step()
	}
}

// create opens a new file with its folders. The file is nil after an error.
func (b *builder) create(name string, mode os.FileMode) (f *os.File, err error) {
	b.do(func() error {
		path := filepath.Join(b.root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		f, err = os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		b.files++
		return f.Chmod(mode)
	})
	return f, b.err
}

func (b *builder) file(name string, content []byte, mode os.FileMode) {
	f, err := b.create(name, mode)
	if err == nil {
		_, err = f.Write(content)
	}
	b.close(f, err)
}

// copy takes at most size bytes of a file of the machine; one that vanished meanwhile becomes an empty file.
func (b *builder) copy(from, name string, size int64, mode os.FileMode) {
	f, err := b.create(name, mode)
	if err == nil {
		if source, openErr := os.Open(from); openErr == nil {
			_, err = io.Copy(f, io.LimitReader(source, size))
			source.Close()
		}
	}
	b.close(f, err)
}

func (b *builder) folder(name string, mode os.FileMode) {
	b.do(func() error {
		path := filepath.Join(b.root, name)
		if err := os.MkdirAll(path, 0o755); err != nil {
			return err
		}
		return syscall.Chmod(path, uint32(mode)) // os.Chmod has the setgid bit elsewhere
	})
}

func (b *builder) link(name, link string) {
	b.do(func() error {
		path := filepath.Join(b.root, link)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		return os.Link(filepath.Join(b.root, name), path)
	})
}

func (b *builder) remove(name string) {
	b.do(func() error { return os.Remove(filepath.Join(b.root, name)) })
}

func (b *builder) symlink(target, name string) {
	b.do(func() error { return os.Symlink(target, filepath.Join(b.root, name)) })
}

// xattr sets an extended attribute where the file system has them.
func (b *builder) xattr(name, key, value string) {
	b.do(func() error {
		err := xattr.Set(filepath.Join(b.root, name), key, []byte(value))
		if errors.Is(err, syscall.ENOTSUP) || errors.Is(err, syscall.EPERM) {
			return nil
		}
		return err
	})
}
