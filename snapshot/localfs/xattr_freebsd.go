package localfs

import "golang.org/x/sys/unix"

func (t target) setXattr(string, []byte) error { return unix.ENOTSUP }

func (t target) removeXattr(string) error { return unix.ENOTSUP }

func readXattrs(target) ([]Xattr, error) { return nil, nil }

func mknodAt(dir int, name string, t Type, rdev uint64) error {
	mode, ok := map[Type]uint32{
		TypeBlockDevice: unix.S_IFBLK, TypeCharDevice: unix.S_IFCHR, TypeFIFO: unix.S_IFIFO, TypeSocket: unix.S_IFSOCK,
	}[t]
	if !ok {
		return unix.EINVAL
	}
	return unix.Mknodat(dir, name, mode|0o600, unix.Mkdev(uint32(rdev>>32), uint32(rdev)))
}
