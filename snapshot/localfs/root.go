package localfs

import (
	"errors"
	"io/fs"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A Root is a target folder that no operation leaves. Paths are relative to it and slash-separated; "" is the root
// itself; a path with a name that CheckName refuses is a *NameError. No symbolic link below the root is ever followed,
// whoever made it and whenever: a path that leads through one is ErrSymlink, and the caller decides whether to remove
// the link.
//
// New folders, files and nodes are for the owner alone until Apply gives them their mode, so that nobody else can
// change what is below while a restore runs. All methods may be called concurrently.
type Root struct {
	fd   int
	name string
}

// OpenRoot opens the folder at path, which the user named: symbolic links in path are followed.
func OpenRoot(path string) (*Root, error) {
	fd, err := openAt(unix.AT_FDCWD, path, dirFlags, 0)
	if err != nil {
		return nil, pathError("open", path, err)
	}
	return &Root{fd, path}, nil
}

// Close closes the root.
func (r *Root) Close() error {
	err := unix.Close(r.fd)
	r.fd = -1
	return pathError("close", r.name, err)
}

// Name returns the path that the root was opened with.
func (r *Root) Name() string { return r.name }

// Lstat returns an entry's metadata.
func (r *Root) Lstat(path string) (Meta, error) {
	var m Meta
	if path == "" {
		return m, pathError("lstat", r.name, statFD(r.fd, &m))
	}
	p, err := r.parent(path)
	if err != nil {
		return m, pathError("lstat", path, err)
	}
	defer p.close()
	return m, pathError("lstat", path, statAt(p.fd, p.base, &m))
}

// OpenDir opens a folder to read it.
func (r *Root) OpenDir(path string) (*Dir, error) {
	if path == "" {
		fd, err := openAt(r.fd, ".", dirFlags, 0)
		if err != nil {
			return nil, pathError("open", r.name, err)
		}
		return &Dir{fd, r.name}, nil
	}
	fd, err := r.open(path, dirFlags, 0)
	if err != nil {
		return nil, pathError("open", path, err)
	}
	return &Dir{fd, path}, nil
}

// OpenFile opens a regular file to read it, and returns its metadata. Anything else is a *TypeError or ErrSymlink.
func (r *Root) OpenFile(path string) (*File, Meta, error) {
	fd, err := r.open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, Meta{}, pathError("open", path, err)
	}
	f, m, err := newFile(fd, path)
	return f, m, err
}

// Create makes a new file, open for reading and writing, mode 0600. An entry of that name is fs.ErrExist.
func (r *Root) Create(path string) (*File, error) {
	fd, err := r.open(path, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, 0o600)
	if err != nil {
		return nil, pathError("create", path, err)
	}
	return &File{fd: fd, name: path}, nil
}

// OpenWrite opens an existing regular file for reading and writing, and returns its metadata. Its content is kept, and
// where it has several links (Meta.Nlink), a change shows in all of them. A file of the caller's own that the caller may
// not write is made writable. Anything but a regular file is a *TypeError or ErrSymlink.
func (r *Root) OpenWrite(path string) (*File, Meta, error) {
	const flags = unix.O_RDWR | unix.O_NONBLOCK | unix.O_NOCTTY
	fd, err := r.open(path, flags, 0)
	if errors.Is(err, unix.EACCES) && r.MakeWritable(path) == nil {
		fd, err = r.open(path, flags, 0)
	}
	if errors.Is(err, unix.EISDIR) {
		err = &TypeError{path, TypeDir, TypeFile}
	}
	if err != nil {
		return nil, Meta{}, pathError("open", path, err)
	}
	f, m, err := newFile(fd, path)
	return f, m, err
}

// MakeWritable gives the owner all rights on a folder (0700), or read and write on a file (0600), if they are missing.
// An ordinary user needs it to restore into a read-only folder; Apply puts the mode back.
func (r *Root) MakeWritable(path string) error {
	t, m, err := r.pin(path)
	if err != nil {
		return pathError("chmod", path, err)
	}
	defer t.close()
	return pathError("chmod", path, makeWritable(t, &m))
}

func makeWritable(t target, m *Meta) error {
	want := uint32(0o600)
	switch m.Type {
	case TypeSymlink:
		return nil
	case TypeDir:
		want = 0o700
	}
	if m.Mode&want == want {
		return nil
	}
	return t.chmod(m.Mode | want)
}

// Mkdir makes a folder, mode 0700. An entry of that name is fs.ErrExist.
func (r *Root) Mkdir(path string) error {
	return r.inParent("mkdir", path, func(p parent) error { return unix.Mkdirat(p.fd, p.base, 0o700) })
}

// Symlink makes a symbolic link that holds content. What content points to is not checked: the link is never followed.
func (r *Root) Symlink(content, path string) error {
	return r.inParent("symlink", path, func(p parent) error { return unix.Symlinkat(content, p.fd, p.base) })
}

// ReadLink returns what a symbolic link holds.
func (r *Root) ReadLink(path string) (content string, err error) {
	err = r.inParent("readlink", path, func(p parent) (err error) {
		content, err = readLinkAt(p.fd, p.base)
		return err
	})
	return content, err
}

// Link makes path another name of the entry at existing, which may be of any type but a folder.
func (r *Root) Link(existing, path string) error {
	return r.inParent("link", existing, func(from parent) error {
		return r.inParent("link", path, func(to parent) error {
			return unix.Linkat(from.fd, from.base, to.fd, to.base, 0)
		})
	})
}

// Mknod makes a device, FIFO or socket, mode 0600. rdev is that of Meta. A device that an ordinary user may not make is
// a *PrivilegeError.
func (r *Root) Mknod(path string, t Type, rdev uint64) error {
	return r.inParent("mknod", path, func(p parent) error {
		err := mknodAt(p.fd, p.base, t, rdev)
		if err == unix.EPERM && t.IsDevice() {
			return &PrivilegeError{SkippedDevices, pathError("mknod", path, err)}
		}
		return err
	})
}

// Rename gives the entry at from the name to, in place of what has that name.
func (r *Root) Rename(from, to string) error {
	return r.inParent("rename", from, func(p parent) error {
		return r.inParent("rename", to, func(q parent) error { return unix.Renameat(p.fd, p.base, q.fd, q.base) })
	})
}

// Remove removes an entry; a folder must be empty.
func (r *Root) Remove(path string) error {
	return r.inParent("remove", path, func(p parent) error {
		err := unix.Unlinkat(p.fd, p.base, 0)
		if err == unix.EISDIR || err == unix.EPERM {
			if err2 := unix.Unlinkat(p.fd, p.base, unix.AT_REMOVEDIR); err2 != unix.ENOTDIR {
				err = err2
			}
		}
		return err
	})
}

// RemoveAll removes an entry with all that is below it, but nothing of what is mounted there, which is an error. What
// does not exist is not one. It goes on after an error and returns the first. Folders of the caller's own that lack the
// owner's rights are given them.
func (r *Root) RemoveAll(path string) error {
	err := r.inParent("remove", path, func(p parent) error {
		rm := remover{path: path}
		rm.entry(p.fd, p.base, 0)
		return rm.err
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// A remover removes one tree. Below depthMax, a folder is moved up to the top of the tree before it is emptied, so that
// the number of open descriptors is bounded whatever the depth.
type remover struct {
	path  string
	top   int // descriptor of the tree's top folder
	moved int // folders moved up
	err   error
}

const depthMax = 32

func (rm *remover) failed(name string, err error) {
	if rm.err == nil && err != nil && err != unix.ENOENT {
		rm.err = pathError("remove", rm.path+" ("+name+")", err)
	}
}

// entry removes an entry; depth is that of the folder dir.
func (rm *remover) entry(dir int, name string, depth int) {
	err := unix.Unlinkat(dir, name, 0)
	if err == nil || err == unix.ENOENT {
		return
	}
	if rmErr := unix.Unlinkat(dir, name, unix.AT_REMOVEDIR); rmErr == nil || rmErr == unix.ENOENT {
		return
	} else if rmErr == unix.ENOTDIR {
		rm.failed(name, err)
		return
	}
	if depth > depthMax {
		for range 1 << 16 { // names may be taken by what the tree holds, or is left of a former try
			rm.moved++
			err = unix.Renameat(dir, name, rm.top, ".wtsnap-remove-"+strconv.Itoa(rm.moved))
			if err == nil {
				return
			}
			if err != unix.ENOTEMPTY && err != unix.EEXIST && err != unix.ENOTDIR {
				break
			}
		}
		rm.failed(name, err)
		return
	}
	fd, err := openToEmpty(dir, name)
	if err != nil {
		rm.failed(name, whyNot(dir, name, err))
		return
	}
	defer unix.Close(fd)
	if depth == 0 {
		rm.top = fd
	}
	for {
		moved := rm.moved
		entries, err := readEntries(fd, nil)
		if err != nil {
			rm.failed(name, err)
			return
		}
		for _, e := range entries {
			rm.entry(fd, e.Name, depth+1)
		}
		if depth > 0 || rm.moved == moved {
			break
		}
	}
	if err := unix.Unlinkat(dir, name, unix.AT_REMOVEDIR); err != nil {
		rm.failed(name, err)
	}
}

func openToEmpty(dir int, name string) (int, error) {
	t, m, err := pinAt(dir, name)
	if err != nil {
		return -1, err
	}
	if m.Type == TypeDir {
		// Refused where the folder is somebody else's, whose mode may still allow what is needed.
		_ = makeWritable(t, &m)
	}
	t.close()
	fd, err := openAt(dir, name, dirFlags|unix.O_NOFOLLOW, 0)
	if err != nil {
		return -1, err
	}
	if mounted(dir, fd) {
		unix.Close(fd)
		return -1, errMounted
	}
	return fd, nil
}

var errMounted = errors.New("another file system is mounted there")

// mounted reports whether a folder, open as fd, that is an entry of parent is the root of a mount.
func mounted(parent, fd int) bool {
	if yes, known, err := mountRoot(fd, ""); err == nil && known {
		return yes
	}
	var p, m Meta
	return statFD(parent, &p) != nil || statFD(fd, &m) != nil || p.Dev != m.Dev
}

// A parent is the open folder that holds an entry.
type parent struct {
	fd    int
	owned bool // to be closed
	base  string
}

func (p parent) close() {
	if p.owned {
		unix.Close(p.fd)
	}
}

// parent opens the folder of the entry at path.
func (r *Root) parent(path string) (parent, error) {
	if path == "" {
		return parent{}, &NameError{path, "empty"}
	}
	if err := CheckPath(path); err != nil {
		return parent{}, err
	}
	i := strings.LastIndexByte(path, '/')
	if i < 0 {
		return parent{fd: r.fd, base: path}, nil
	}
	fd, err := r.openFolder(path[:i])
	if err != nil {
		return parent{}, err
	}
	return parent{fd: fd, owned: true, base: path[i+1:]}, nil
}

// openFolder opens a folder to reach its entries. path has been checked and is not empty.
func (r *Root) openFolder(path string) (int, error) {
	const flags = oPath | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	if fd, ok, err := openBeneath(r.fd, path, flags, 0); ok {
		if err == unix.ELOOP {
			err = ErrSymlink
		} else if err == unix.ENOTDIR {
			err = r.whyNotFolder(path)
		}
		return fd, err
	}
	return r.walk(path)
}

// walk is openFolder name by name.
func (r *Root) walk(path string) (int, error) {
	const flags = oPath | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	at := r.fd
	for rest := path; rest != ""; {
		var name string
		name, rest, _ = strings.Cut(rest, "/")
		fd, err := openAt(at, name, flags, 0)
		if err != nil {
			err = whyNot(at, name, err)
		}
		if at != r.fd {
			unix.Close(at)
		}
		if err != nil {
			return -1, err
		}
		at = fd
	}
	return at, nil
}

// whyNotFolder finds what stands where a folder is needed.
func (r *Root) whyNotFolder(path string) error {
	fd, err := r.walk(path)
	if err == nil { // replaced meanwhile
		unix.Close(fd)
		return unix.EAGAIN
	}
	return err
}

// open opens an entry that is neither a symbolic link nor reached through one.
func (r *Root) open(path string, flags int, perm uint32) (int, error) {
	flags |= unix.O_NOFOLLOW | unix.O_CLOEXEC
	if path == "" {
		return -1, &NameError{path, "empty"}
	}
	if err := CheckPath(path); err != nil {
		return -1, err
	}
	fd, ok, err := openBeneath(r.fd, path, flags, perm)
	if ok && err == nil {
		return fd, nil
	}
	if ok && err != unix.ELOOP && err != unix.ENOTDIR && err != unix.ENXIO && err != unix.EOPNOTSUPP {
		return -1, err
	}
	// The long way, also to find out what exactly is in the way.
	p, err := r.parent(path)
	if err != nil {
		return -1, err
	}
	defer p.close()
	fd, err = openAt(p.fd, p.base, flags, perm)
	if err != nil {
		return -1, whyNot(p.fd, p.base, err)
	}
	return fd, nil
}

// inParent runs a call on an entry's folder and wraps its error.
func (r *Root) inParent(op, path string, call func(parent) error) error {
	p, err := r.parent(path)
	if err != nil {
		return pathError(op, path, err)
	}
	defer p.close()
	for {
		err := call(p)
		if err == unix.EINTR {
			continue
		}
		switch err.(type) {
		case nil, *PrivilegeError, *fs.PathError:
			return err
		}
		return pathError(op, path, err)
	}
}

// pin holds on to an entry's inode.
func (r *Root) pin(path string) (target, Meta, error) {
	if path == "" {
		var m Meta
		err := statFD(r.fd, &m)
		return target{fd: r.fd}, m, err
	}
	p, err := r.parent(path)
	if err != nil {
		return target{}, Meta{}, err
	}
	t, m, err := pinAt(p.fd, p.base)
	if err != nil {
		p.close()
		return t, m, err
	}
	t.parent = p
	return t, m, nil
}
