package localfs

import (
	"bytes"
	"cmp"
	"errors"
	"math"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const oPath = unix.O_PATH

// pinAt holds on to the inode that a name leads to, so that what is done to it afterwards is done to what was looked at,
// whoever renames what meanwhile.
func pinAt(dir int, name string) (target, Meta, error) {
	var m Meta
	fd, err := openAt(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return target{}, m, err
	}
	if err := statFD(fd, &m); err != nil {
		unix.Close(fd)
		return target{}, m, err
	}
	return target{fd: fd, pinned: true, owned: true}, m, nil
}

func (t target) chown(uid, gid int) error {
	return again(func() error { return unix.Fchownat(t.fd, "", uid, gid, unix.AT_EMPTY_PATH) })
}

func (t target) chmod(mode uint32) error {
	return again(func() error {
		if t.pinned {
			return t.needsProc(unix.Chmod(procPath(t.fd), mode))
		}
		return unix.Fchmod(t.fd, mode)
	})
}

func (t target) setMTime(ns int64) error {
	times := [2]unix.Timespec{{Nsec: unix.UTIME_OMIT}, timespec(ns)}
	return again(func() error {
		if t.pinned {
			return t.needsProc(unix.UtimesNanoAt(unix.AT_FDCWD, procPath(t.fd), times[:], 0))
		}
		// A null path means the descriptor itself.
		_, _, errno := syscall.Syscall6(unix.SYS_UTIMENSAT, uintptr(t.fd), 0, uintptr(unsafe.Pointer(&times)), 0, 0, 0)
		if errno != 0 {
			return errno
		}
		return nil
	})
}

// timespec clamps to the kernel's type, which has 32 bits of seconds on some machines.
func timespec(ns int64) unix.Timespec {
	if unsafe.Sizeof(unix.Timespec{}.Sec) == 4 {
		ns = max(min(ns, math.MaxInt32*second), math.MinInt32*second)
	}
	return unix.NsecToTimespec(ns)
}

func (t target) setXattr(name string, value []byte) error {
	return again(func() error {
		if t.pinned {
			return t.needsProc(unix.Setxattr(procPath(t.fd), name, value, 0))
		}
		return unix.Fsetxattr(t.fd, name, value, 0)
	})
}

func (t target) removeXattr(name string) error {
	return again(func() error {
		var err error
		if t.pinned {
			err = t.needsProc(unix.Removexattr(procPath(t.fd), name))
		} else {
			err = unix.Fremovexattr(t.fd, name)
		}
		if err == unix.ENODATA {
			return nil
		}
		return err
	})
}

var errNoProc = errors.New("/proc is not mounted, which is needed for this")

// needsProc explains the ENOENT of a path below /proc that names an open descriptor and so must exist.
func (t target) needsProc(err error) error {
	if err == unix.ENOENT && t.pinned {
		return errNoProc
	}
	return err
}

func (t target) listXattr(buf []byte) (n int, err error) {
	err = again(func() error {
		switch {
		case t.fd < 0:
			n, err = unix.Llistxattr(t.path(), buf)
		case t.pinned:
			n, err = unix.Listxattr(procPath(t.fd), buf)
			err = t.needsProc(err)
		default:
			n, err = unix.Flistxattr(t.fd, buf)
		}
		return err
	})
	return n, err
}

func (t target) getXattr(name string, buf []byte) (n int, err error) {
	err = again(func() error {
		switch {
		case t.fd < 0:
			n, err = unix.Lgetxattr(t.path(), name, buf)
		case t.pinned:
			n, err = unix.Getxattr(procPath(t.fd), name, buf)
		default:
			n, err = unix.Fgetxattr(t.fd, name, buf)
		}
		return err
	})
	return n, err
}

// path names an entry of an open folder, for calls that take no folder. The folder is reached through its descriptor.
func (t target) path() string { return "/proc/self/fd/" + strconv.Itoa(t.dir) + "/" + t.name }

// readXattrs returns all attributes whose values can be read, and the first failure.
func readXattrs(t target) ([]Xattr, error) {
	var small [512]byte
	names, err := grow(small[:], t.listXattr)
	switch {
	case err == unix.EOPNOTSUPP || err == unix.ENOSYS:
		return nil, nil
	case err == unix.ENOENT && t.fd < 0:
		var m Meta
		if statAt(t.dir, t.name, &m) == nil {
			return nil, errNoProc
		}
		return nil, err
	case err != nil || len(names) == 0:
		return nil, err
	}
	var xattrs []Xattr
	var first error
	for _, name := range strings.Split(strings.TrimSuffix(string(names), "\x00"), "\x00") {
		var small [256]byte
		value, err := grow(small[:], func(buf []byte) (int, error) { return t.getXattr(name, buf) })
		switch {
		case err == unix.ENODATA || err == unix.EOPNOTSUPP: // removed meanwhile, or not to be had
		case err != nil:
			first = cmp.Or(first, error(&xattrError{name, err}))
		default:
			xattrs = append(xattrs, Xattr{name, bytes.Clone(value)})
		}
	}
	slices.SortFunc(xattrs, func(a, b Xattr) int { return strings.Compare(a.Name, b.Name) })
	return xattrs, first
}

// An xattrError says which attribute could not be read.
type xattrError struct {
	name string
	err  error
}

func (e *xattrError) Error() string { return e.name + ": " + e.err.Error() }
func (e *xattrError) Unwrap() error { return e.err }

// grow calls with a buffer, and with a larger one as long as it is too small.
func grow(buf []byte, call func([]byte) (int, error)) ([]byte, error) {
	for {
		n, err := call(buf)
		if err == nil {
			return buf[:n], nil
		}
		if err != unix.ERANGE {
			return nil, err
		}
		if n, err = call(nil); err != nil {
			return nil, err
		}
		buf = make([]byte, n+64)
	}
}

func again(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
}
