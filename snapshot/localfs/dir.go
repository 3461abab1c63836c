package localfs

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// A Dir is an open folder to read from. It must be closed. All methods but Entries and Close may be called concurrently.
// A name that CheckName refuses is a *NameError.
//
// A walk holds one descriptor for each level that it keeps open.
type Dir struct {
	fd   int
	name string
}

const dirFlags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC

// OpenDir opens the folder at path. The user named it, so symbolic links in path are followed, the last one too.
func OpenDir(path string) (*Dir, error) {
	fd, err := openQuietly(unix.AT_FDCWD, path, dirFlags)
	if err != nil {
		return nil, pathError("open", path, err)
	}
	return &Dir{fd, path}, nil
}

// Lstat returns the metadata of the entry at path, of the link itself where path ends in a symbolic link.
func Lstat(path string) (Meta, error) {
	var m Meta
	err := statPath(path, false, &m)
	return m, pathError("lstat", path, err)
}

// Stat returns the metadata of what path leads to.
func Stat(path string) (Meta, error) {
	var m Meta
	err := statPath(path, true, &m)
	return m, pathError("stat", path, err)
}

// IsMountPoint reports whether a file system (or, on Linux 5.8 and newer, a bind mount) is mounted at path. Symbolic
// links in path are followed.
func IsMountPoint(path string) (bool, error) {
	if path == "" {
		return false, pathError("stat", path, unix.ENOENT)
	}
	if mounted, known, err := mountRoot(unix.AT_FDCWD, path); err != nil || known {
		return mounted, pathError("stat", path, err)
	}
	return otherDevice(path)
}

// otherDevice is IsMountPoint for systems that do not tell: a mount's root has another device than its parent, or is its
// own parent. It misses bind mounts of the same file system.
func otherDevice(path string) (bool, error) {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return false, err
	}
	if real, err = filepath.Abs(real); err != nil {
		return false, err
	}
	self, err := Stat(real)
	if err != nil {
		return false, err
	}
	parent, err := Stat(filepath.Dir(real))
	if err != nil {
		return false, err
	}
	return self.Dev != parent.Dev || self.Ino == parent.Ino, nil
}

// Close closes the folder.
func (d *Dir) Close() error {
	err := unix.Close(d.fd)
	d.fd = -1
	return pathError("close", d.name, err)
}

// Name returns the name that the folder was opened with.
func (d *Dir) Name() string { return d.name }

// Entries appends the folder's entries to dst, without "." and "..", in the order of their names' bytes. It may be
// called again to read the folder anew. The names of one call share memory: to keep one for long, clone it.
func (d *Dir) Entries(dst []Entry) ([]Entry, error) {
	start := len(dst)
	dst, err := readEntries(d.fd, dst)
	if err != nil {
		return dst[:start], pathError("readdir", d.name, err)
	}
	slices.SortFunc(dst[start:], func(a, b Entry) int { return strings.Compare(a.Name, b.Name) })
	return dst, nil
}

// Meta returns the metadata of the folder itself.
func (d *Dir) Meta() (Meta, error) {
	var m Meta
	err := statFD(d.fd, &m)
	return m, pathError("stat", d.name, err)
}

// Stat returns the metadata of an entry, without following it.
func (d *Dir) Stat(name string) (Meta, error) {
	var m Meta
	if err := CheckName(name); err != nil {
		return m, err
	}
	if err := statAt(d.fd, name, &m); err != nil {
		return m, pathError("lstat", name, err)
	}
	return m, nil
}

// OpenDir opens a folder in this one. A symbolic link is not followed (ErrSymlink).
func (d *Dir) OpenDir(name string) (*Dir, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	fd, err := openQuietly(d.fd, name, dirFlags|unix.O_NOFOLLOW)
	if err != nil {
		return nil, pathError("open", name, d.whyNot(name, err))
	}
	return &Dir{fd, name}, nil
}

// OpenFile opens a regular file in this folder to read it, and returns its metadata as they are now, so that the
// caller can see whether it is still the inode of an earlier Stat. Anything else is not opened, or closed at once: a
// *TypeError, or ErrSymlink. A FIFO that took a file's place does not make it wait.
func (d *Dir) OpenFile(name string) (*File, Meta, error) {
	var m Meta
	if err := CheckName(name); err != nil {
		return nil, m, err
	}
	fd, err := openQuietly(d.fd, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC)
	if err == unix.EAGAIN {
		// Another process holds a lease on the file (Samba does) and has been asked to give it up.
		fd, err = reopenWaiting(d.fd, name)
	}
	if err != nil {
		return nil, m, pathError("open", name, d.whyNot(name, err))
	}
	f, m, err := newFile(fd, name)
	return f, m, err
}

// ReadLink returns the target of a symbolic link.
func (d *Dir) ReadLink(name string) (string, error) {
	if err := CheckName(name); err != nil {
		return "", err
	}
	target, err := readLinkAt(d.fd, name)
	return target, pathError("readlink", name, err)
}

// Xattrs returns the extended attributes of the folder itself, ordered by name.
func (d *Dir) Xattrs() ([]Xattr, error) {
	x, err := readXattrs(target{fd: d.fd})
	return x, pathError("xattrs", d.name, err)
}

// XattrsOf returns the extended attributes of an entry of any type, without following or opening it, ordered by name. A
// file system that has none is not an error. For a file that is open, File.Xattrs is quicker and cannot meet another
// inode.
func (d *Dir) XattrsOf(name string) ([]Xattr, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	x, err := readXattrs(target{fd: -1, dir: d.fd, name: name})
	return x, pathError("xattrs", name, err)
}

// whyNot turns what the system says of a symbolic link, which differs between systems and flags, into ErrSymlink.
func (d *Dir) whyNot(name string, err error) error { return whyNot(d.fd, name, err) }

func whyNot(dir int, name string, err error) error {
	if err != unix.ELOOP && err != unix.ENOTDIR && err != unix.EMLINK {
		if errors.Is(err, unix.ENXIO) || errors.Is(err, unix.EOPNOTSUPP) { // a socket, a device without driver
			var m Meta
			if statAt(dir, name, &m) == nil && m.Type != TypeFile {
				return &TypeError{name, m.Type, TypeFile}
			}
		}
		return err
	}
	var m Meta
	if statAt(dir, name, &m) != nil {
		return err
	}
	switch {
	case m.Type == TypeSymlink:
		return ErrSymlink
	case err == unix.ENOTDIR:
		return &TypeError{name, m.Type, TypeDir}
	}
	return err
}

// openQuietly opens without touching the access time, which only the owner and root may ask for.
func openQuietly(dir int, name string, flags int) (int, error) {
	if oNoATime != 0 {
		fd, err := openAt(dir, name, flags|oNoATime, 0)
		if err != unix.EPERM {
			return fd, err
		}
	}
	return openAt(dir, name, flags, 0)
}

func openAt(dir int, name string, flags int, perm uint32) (fd int, err error) {
	for {
		fd, err = unix.Openat(dir, name, flags, perm)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

func readLinkAt(dir int, name string) (string, error) {
	var small [256]byte
	buf := small[:]
	for {
		n, err := unix.Readlinkat(dir, name, buf)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return "", err
		case n < len(buf):
			return string(buf[:n]), nil
		default:
			buf = make([]byte, 4*len(buf))
		}
	}
}
