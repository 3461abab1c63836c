package localfs

import (
	"bytes"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// withFD opens an entry that is only known by name. What cannot be opened has no attributes here.
func (t target) withFD(call func(fd int) error) error {
	if t.fd >= 0 {
		return call(t.fd)
	}
	fd, err := openAt(t.dir, t.name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return unix.ENOTSUP
	}
	defer unix.Close(fd)
	return call(fd)
}

func (t target) setXattr(name string, value []byte) error {
	return t.withFD(func(fd int) error { return unix.Fsetxattr(fd, name, value, 0) })
}

func (t target) removeXattr(name string) error {
	return t.withFD(func(fd int) error { return unix.Fremovexattr(fd, name) })
}

func readXattrs(t target) (xattrs []Xattr, err error) {
	err = t.withFD(func(fd int) error {
		names := make([]byte, 64<<10)
		n, err := unix.Flistxattr(fd, names)
		if err != nil || n == 0 {
			return err
		}
		value := make([]byte, 64<<10)
		for _, name := range strings.Split(strings.TrimSuffix(string(names[:n]), "\x00"), "\x00") {
			n, err := unix.Fgetxattr(fd, name, value)
			if err == unix.ERANGE {
				if n, err = unix.Fgetxattr(fd, name, nil); err == nil {
					value = make([]byte, n)
					n, err = unix.Fgetxattr(fd, name, value)
				}
			}
			if err != nil {
				return err
			}
			xattrs = append(xattrs, Xattr{name, bytes.Clone(value[:n])})
		}
		return nil
	})
	if err == unix.ENOTSUP {
		err = nil
	}
	slices.SortFunc(xattrs, func(a, b Xattr) int { return strings.Compare(a.Name, b.Name) })
	return xattrs, err
}

func mknodAt(int, string, Type, uint64) error { return unix.ENOTSUP }
