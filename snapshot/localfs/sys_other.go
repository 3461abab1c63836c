//go:build darwin || freebsd

package localfs

import (
	"os"

	"golang.org/x/sys/unix"
)

const (
	oNoATime = 0
	oPath    = 0
)

func statAt(dir int, name string, m *Meta) error {
	return stat(m, func(st *unix.Stat_t) error { return unix.Fstatat(dir, name, st, unix.AT_SYMLINK_NOFOLLOW) })
}

func statFD(fd int, m *Meta) error {
	return stat(m, func(st *unix.Stat_t) error { return unix.Fstat(fd, st) })
}

func statPath(path string, follow bool, m *Meta) error {
	if follow {
		return stat(m, func(st *unix.Stat_t) error { return unix.Stat(path, st) })
	}
	return stat(m, func(st *unix.Stat_t) error { return unix.Lstat(path, st) })
}

func stat(m *Meta, call func(*unix.Stat_t) error) error {
	var st unix.Stat_t
	for {
		switch err := call(&st); err {
		case nil:
			fromStat(m, &st)
			return nil
		case unix.EINTR:
		default:
			return err
		}
	}
}

func fromStat(m *Meta, st *unix.Stat_t) {
	*m = Meta{
		Type:   typeOfMode(uint32(st.Mode)),
		Mode:   uint32(st.Mode) & 0o7777,
		UID:    st.Uid,
		GID:    st.Gid,
		Size:   st.Size,
		Blocks: st.Blocks,
		MTime:  nanos(st.Mtim.Unix()),
		CTime:  nanos(st.Ctim.Unix()),
		BTime:  nanos(st.Btim.Unix()),
		Dev:    uint64(st.Dev),
		Ino:    st.Ino,
		Nlink:  uint32(st.Nlink),
	}
	if m.BTime < 0 { // freebsd says -1 for unknown
		m.BTime = 0
	}
	if m.Type.IsDevice() {
		rdev := uint64(st.Rdev)
		m.RDev = MakeRDev(unix.Major(rdev), unix.Minor(rdev))
	}
}

func typeOfMode(mode uint32) Type {
	switch mode & unix.S_IFMT {
	case unix.S_IFREG:
		return TypeFile
	case unix.S_IFDIR:
		return TypeDir
	case unix.S_IFLNK:
		return TypeSymlink
	case unix.S_IFBLK:
		return TypeBlockDevice
	case unix.S_IFCHR:
		return TypeCharDevice
	case unix.S_IFIFO:
		return TypeFIFO
	case unix.S_IFSOCK:
		return TypeSocket
	}
	return TypeUnknown
}

func mountRoot(int, string) (mounted, known bool, err error) { return false, false, nil }

// readEntries reads through package os, on a descriptor of its own.
func readEntries(fd int, dst []Entry) ([]Entry, error) {
	own, err := openAt(fd, ".", dirFlags, 0)
	if err != nil {
		return dst, err
	}
	f := os.NewFile(uintptr(own), ".")
	defer f.Close()
	list, err := f.ReadDir(-1)
	if err != nil {
		return dst, err
	}
	for _, e := range list {
		dst = append(dst, Entry{e.Name(), typeOfFileMode(e.Type())})
	}
	return dst, nil
}

func typeOfFileMode(mode os.FileMode) Type {
	switch mode.Type() {
	case 0:
		return TypeFile
	case os.ModeDir:
		return TypeDir
	case os.ModeSymlink:
		return TypeSymlink
	case os.ModeDevice:
		return TypeBlockDevice
	case os.ModeDevice | os.ModeCharDevice:
		return TypeCharDevice
	case os.ModeNamedPipe:
		return TypeFIFO
	case os.ModeSocket:
		return TypeSocket
	}
	return TypeUnknown
}

// reopenWaiting: leases are Linux's.
func reopenWaiting(int, string) (int, error) { return -1, unix.EAGAIN }

func punchHole(int, int64, int64) error { return unix.EOPNOTSUPP }

func openBeneath(int, string, int, uint32) (fd int, ok bool, err error) { return -1, false, nil }

func pinAt(dir int, name string) (target, Meta, error) {
	var m Meta
	err := statAt(dir, name, &m)
	return target{fd: -1, dir: dir, name: name}, m, err
}

func (t target) chown(uid, gid int) error {
	if t.fd >= 0 {
		return unix.Fchown(t.fd, uid, gid)
	}
	return unix.Fchownat(t.dir, t.name, uid, gid, unix.AT_SYMLINK_NOFOLLOW)
}

func (t target) chmod(mode uint32) error {
	if t.fd >= 0 {
		return unix.Fchmod(t.fd, mode)
	}
	return unix.Fchmodat(t.dir, t.name, mode, unix.AT_SYMLINK_NOFOLLOW)
}

// setMTime leaves the access time at the same time, where the system has no way to omit it; through a descriptor it is
// exact to the microsecond only.
func (t target) setMTime(ns int64) error {
	if t.fd >= 0 {
		tv := unix.NsecToTimeval(ns)
		return unix.Futimes(t.fd, []unix.Timeval{tv, tv})
	}
	ts := unix.NsecToTimespec(ns)
	return unix.UtimesNanoAt(t.dir, t.name, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
}
