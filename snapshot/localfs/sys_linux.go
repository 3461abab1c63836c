package localfs

import (
	"bytes"
	"encoding/binary"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const oNoATime = unix.O_NOATIME

const nameMax = 255

const statxMask = unix.STATX_BASIC_STATS | unix.STATX_BTIME

// statAt is fstatat without a symbolic link being followed, without an automounter being woken, and without an
// allocation: it is called for each entry of millions.
func statAt(dir int, name string, m *Meta) error {
	var path [nameMax + 1]byte
	if len(name) > nameMax {
		return unix.ENAMETOOLONG
	}
	if strings.IndexByte(name, 0) >= 0 {
		return unix.EINVAL
	}
	copy(path[:], name)
	return statx(dir, &path[0], unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, m)
}

func statFD(fd int, m *Meta) error {
	var empty byte
	return statx(fd, &empty, unix.AT_EMPTY_PATH, m)
}

func statPath(path string, follow bool, m *Meta) error {
	p, err := unix.BytePtrFromString(path)
	if err != nil {
		return err
	}
	flags := unix.AT_NO_AUTOMOUNT
	if !follow {
		flags |= unix.AT_SYMLINK_NOFOLLOW
	}
	return statx(unix.AT_FDCWD, p, flags, m)
}

func statx(dir int, path *byte, flags int, m *Meta) error {
	var st unix.Statx_t
	switch errno := rawStatx(dir, path, flags, &st); errno {
	case 0:
		fromStatx(m, &st)
		return nil
	case unix.ENOSYS, unix.EPERM: // a kernel before 4.11, or a seccomp filter that does not know the call
		return fstatat(dir, path, flags, m)
	default:
		return errno
	}
}

func fstatat(dir int, path *byte, flags int, m *Meta) error {
	var st unix.Stat_t
	for {
		err := unix.Fstatat(dir, unix.BytePtrToString(path), &st, flags)
		if err == unix.EINTR {
			continue
		}
		if err == nil {
			fromStat(m, &st)
		}
		return err
	}
}

func rawStatx(dir int, path *byte, flags int, st *unix.Statx_t) unix.Errno {
	for {
		_, _, errno := syscall.Syscall6(unix.SYS_STATX, uintptr(dir), uintptr(unsafe.Pointer(path)), uintptr(flags),
			statxMask, uintptr(unsafe.Pointer(st)), 0)
		if errno != unix.EINTR {
			return errno
		}
	}
}

func fromStatx(m *Meta, st *unix.Statx_t) {
	*m = Meta{
		Type:   typeOfMode(uint32(st.Mode)),
		Mode:   uint32(st.Mode) & 0o7777,
		UID:    st.Uid,
		GID:    st.Gid,
		Size:   clampSize(st.Size),
		Blocks: clampSize(st.Blocks),
		MTime:  nanos(st.Mtime.Sec, int64(st.Mtime.Nsec)),
		CTime:  nanos(st.Ctime.Sec, int64(st.Ctime.Nsec)),
		Dev:    MakeRDev(st.Dev_major, st.Dev_minor),
		Ino:    st.Ino,
		Nlink:  st.Nlink,
	}
	if st.Mask&unix.STATX_BTIME != 0 {
		m.BTime = nanos(st.Btime.Sec, int64(st.Btime.Nsec))
	}
	if m.Type.IsDevice() {
		m.RDev = MakeRDev(st.Rdev_major, st.Rdev_minor)
	}
}

func fromStat(m *Meta, st *unix.Stat_t) {
	dev := uint64(st.Dev)
	*m = Meta{
		Type:   typeOfMode(st.Mode),
		Mode:   st.Mode & 0o7777,
		UID:    st.Uid,
		GID:    st.Gid,
		Size:   st.Size,
		Blocks: st.Blocks,
		MTime:  nanos(st.Mtim.Unix()),
		CTime:  nanos(st.Ctim.Unix()),
		Dev:    MakeRDev(unix.Major(dev), unix.Minor(dev)),
		Ino:    st.Ino,
		Nlink:  uint32(min(uint64(st.Nlink), math.MaxUint32)),
	}
	if m.Type.IsDevice() {
		rdev := uint64(st.Rdev)
		m.RDev = MakeRDev(unix.Major(rdev), unix.Minor(rdev))
	}
}

func clampSize(n uint64) int64 { return int64(min(n, math.MaxInt64)) }

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

func typeOfDirent(t byte) Type {
	// DT_* are the file type bits of the mode, shifted by 12.
	return typeOfMode(uint32(t) << 12)
}

// mountRoot asks the kernel whether path, relative to dir, is the root of a mount, or dir itself where path is empty;
// known is false where it cannot say (before 5.8).
func mountRoot(dir int, path string) (mounted, known bool, err error) {
	p, err := unix.BytePtrFromString(path)
	if err != nil {
		return false, false, err
	}
	var st unix.Statx_t
	switch errno := rawStatx(dir, p, unix.AT_NO_AUTOMOUNT|unix.AT_EMPTY_PATH, &st); errno {
	case 0:
	case unix.ENOSYS, unix.EPERM:
		return false, false, nil
	default:
		return false, false, errno
	}
	return st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, st.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT != 0, nil
}

var direntBuffers = sync.Pool{New: func() any { return new(direntBuffer) }}

type direntBuffer struct {
	raw   [64 << 10]byte
	names []byte   // end to end
	found []dirent // in the folder's order
}

type dirent struct {
	end int // of the name, in names
	typ Type
}

// readEntries reads a folder with two allocations: one for all names, one for the entries.
func readEntries(fd int, dst []Entry) ([]Entry, error) {
	if _, err := unix.Seek(fd, 0, 0); err != nil {
		return dst, err
	}
	buf := direntBuffers.Get().(*direntBuffer)
	defer direntBuffers.Put(buf)
	buf.names, buf.found = buf.names[:0], buf.found[:0]
	for {
		n, err := unix.Getdents(fd, buf.raw[:])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return dst, err
		}
		if n <= 0 {
			break
		}
		if err := buf.take(buf.raw[:n]); err != nil {
			return dst, err
		}
	}
	names := string(buf.names)
	dst = slices.Grow(dst, len(buf.found))
	start := 0
	for _, e := range buf.found {
		dst = append(dst, Entry{names[start:e.end], e.typ})
		start = e.end
	}
	if len(buf.names) > 1<<20 { // do not keep what a huge folder needed
		buf.names, buf.found = nil, nil
	}
	return dst, nil
}

// take reads records of struct linux_dirent64: ino 8 bytes, off 8, reclen 2, type 1, name up to a NUL, padding.
func (d *direntBuffer) take(b []byte) error {
	const header = 19
	for len(b) > 0 {
		if len(b) <= header {
			return unix.EIO
		}
		length := int(binary.NativeEndian.Uint16(b[16:]))
		if length <= header || length > len(b) {
			return unix.EIO
		}
		name := b[header:length]
		if i := bytes.IndexByte(name, 0); i >= 0 {
			name = name[:i]
		}
		if len(name) > 0 && string(name) != "." && string(name) != ".." {
			d.names = append(d.names, name...)
			d.found = append(d.found, dirent{len(d.names), typeOfDirent(b[header-1])})
		}
		b = b[length:]
	}
	return nil
}

// reopenWaiting opens a regular file that open(O_NONBLOCK) refuses because another process holds a lease on it. The
// inode is pinned first, so that what is opened without O_NONBLOCK is a regular file and cannot make us wait forever.
func reopenWaiting(dir int, name string) (int, error) {
	pin, err := openAt(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(pin)
	var m Meta
	if err := statFD(pin, &m); err != nil {
		return -1, err
	}
	if m.Type != TypeFile {
		return -1, unix.EAGAIN
	}
	return openQuietly(unix.AT_FDCWD, procPath(pin), unix.O_RDONLY|unix.O_NOCTTY|unix.O_CLOEXEC)
}

// procPath names an open descriptor, O_PATH ones too, for calls that want a path. It leads to the inode itself, also
// where that is a symbolic link.
func procPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

func punchHole(fd int, off, length int64) error {
	for {
		err := unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, length)
		if err != unix.EINTR {
			return err
		}
	}
}

// openBeneath opens path, relative to root, with no symbolic link followed anywhere. ok is false where that must be
// done name by name.
func openBeneath(root int, path string, flags int, perm uint32) (fd int, ok bool, err error) {
	if len(path) >= unix.PathMax {
		return -1, false, nil
	}
	how := unix.OpenHow{
		Flags:   uint64(flags | unix.O_CLOEXEC),
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	}
	if flags&unix.O_CREAT != 0 {
		how.Mode = uint64(perm)
	}
	for range 32 { // EAGAIN: something was renamed meanwhile
		fd, err = unix.Openat2(root, path, &how)
		switch err {
		case unix.EINTR, unix.EAGAIN:
			continue
		case unix.ENOSYS, unix.EPERM: // a kernel before 5.6, or a seccomp filter; or EPERM is meant, and the walk meets it too
			return -1, false, nil
		}
		return fd, true, err
	}
	return -1, false, nil
}

func mknodAt(dir int, name string, t Type, rdev uint64) error {
	var mode uint32
	switch t {
	case TypeBlockDevice:
		mode = unix.S_IFBLK
	case TypeCharDevice:
		mode = unix.S_IFCHR
	case TypeFIFO:
		mode = unix.S_IFIFO
	case TypeSocket:
		mode = unix.S_IFSOCK
	default:
		return unix.EINVAL
	}
	var dev uint64
	if t.IsDevice() {
		dev = unix.Mkdev(uint32(rdev>>32), uint32(rdev))
	}
	return unix.Mknodat(dir, name, mode|0o600, int(dev))
}
