// Package localfs reads and writes the entries of a local file system with all their metadata. It is the only place of
// the project that makes file system calls of its own for user data.
//
// Reading starts with OpenDir and stays relative to open folders: no path is ever put together, so trees deeper than
// PATH_MAX work, and a folder that somebody swaps for a symbolic link while it is walked is not followed. Access times
// are left alone where the system allows it.
//
// Writing goes through a Root, a target folder that no operation leaves: not by "..", not by a symbolic link that was
// there before, and not by one that somebody puts there during the restore. Names come from a snapshot, which may be
// hostile, so each one is checked (NameError).
//
// Names are raw bytes in Go strings: they may hold newlines, invalid UTF-8 and leading dashes.
//
// Times are nanoseconds since 1970-01-01 UTC in an int64 and reach from 1677-09-21 to 2262-04-11; what lies beyond is
// clamped to these ends.
//
// What depends on the system: everything is there on Linux (5.6 or newer in few calls, older ones by longer ways), where
// metadata of entries that are not open files need a mounted /proc. On darwin and freebsd there are no extended
// attributes but those of files and folders on darwin, no holes are punched (zeros are written instead), folders'
// entries are read through package os, darwin makes no devices, FIFOs and sockets (errors.ErrUnsupported), File.Apply
// sets times to the microsecond, and a name is not pinned to its inode while metadata are applied.
package localfs

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"strings"
)

// A Type says what an entry is. The values are stable.
type Type uint8

// The types. TypeUnknown stands only in an Entry, where the file system does not tell the type without a Stat.
const (
	TypeUnknown     Type = 0
	TypeFile        Type = 1
	TypeDir         Type = 2
	TypeSymlink     Type = 3
	TypeBlockDevice Type = 4
	TypeCharDevice  Type = 5
	TypeFIFO        Type = 6
	TypeSocket      Type = 7
)

var typeNames = [...]string{"unknown", "file", "folder", "symbolic link", "block device", "character device", "FIFO", "socket"}

func (t Type) String() string {
	if int(t) < len(typeNames) {
		return typeNames[t]
	}
	return fmt.Sprintf("type %d", uint8(t))
}

// IsDevice reports whether t is a block or a character device.
func (t Type) IsDevice() bool { return t == TypeBlockDevice || t == TypeCharDevice }

// Meta is what the inode says of an entry, extended attributes aside.
type Meta struct {
	Type   Type
	Mode   uint32 // the 12 permission bits: rwx three times, setuid 04000, setgid 02000, sticky 01000
	UID    uint32
	GID    uint32
	Size   int64  // bytes; of a symbolic link, the length of its target; of a folder, whatever the file system says
	Blocks int64  // allocated, in units of 512 bytes
	MTime  int64  // ns since 1970, clamped (see the package comment)
	CTime  int64  // ns since 1970, clamped
	BTime  int64  // ns since 1970, clamped; 0 = unknown
	Dev    uint64 // the file system; it may have another number after a reboot
	Ino    uint64
	Nlink  uint32
	RDev   uint64 // major<<32 | minor, of devices only
}

// Sparse reports whether a file has fewer blocks than its size needs, which it must have to contain holes. It is the
// cheap test before File.Extents. A compressing file system says yes more often than there are holes.
func (m *Meta) Sparse() bool { return m.Type == TypeFile && m.Blocks < (m.Size+511)/512 }

// SameInode reports whether both describe the same inode.
func (m *Meta) SameInode(o *Meta) bool { return m.Dev == o.Dev && m.Ino == o.Ino }

// MakeRDev joins the numbers of a device as Meta.RDev holds them.
func MakeRDev(major, minor uint32) uint64 { return uint64(major)<<32 | uint64(minor) }

// An Xattr is one extended attribute. POSIX ACLs are among them (system.posix_acl_access, system.posix_acl_default), and
// so are file capabilities (security.capability).
type Xattr struct {
	Name  string
	Value []byte
}

// An Extent is a range of a file that holds data; what lies between extents reads as zeros.
type Extent struct {
	Offset, Length int64
}

// An Entry is a name in a folder.
type Entry struct {
	Name string
	Type Type // TypeUnknown where the file system does not say
}

// A NameError refuses a name that cannot be, or must not be, an entry below a target folder.
type NameError struct {
	Name   string
	Reason string
}

func (e *NameError) Error() string { return fmt.Sprintf("unsafe name %q: %s", e.Name, e.Reason) }

// A TypeError says that an entry is not of the type that was asked for: mostly because somebody replaced it.
type TypeError struct {
	Name      string
	Got, Want Type
}

func (e *TypeError) Error() string {
	return fmt.Sprintf("%q is a %v, not a %v", e.Name, e.Got, e.Want)
}

// ErrSymlink is found (errors.Is) where a folder on the way to an entry of a Root, or the entry itself, is a symbolic
// link, which is never followed.
var ErrSymlink = errors.New("a symbolic link is in the way, which is not followed")

// Skipped is a set of what could not be restored for lack of privilege or of support by the target's file system.
type Skipped uint8

// What can be skipped.
const (
	SkippedOwner   Skipped = 1 << iota // owner or group
	SkippedSetID                       // setuid and setgid bits, dropped because the owner is another one
	SkippedMode                        // permission bits, on file systems without them or of somebody else's entry
	SkippedTimes                       // times of somebody else's entry
	SkippedDevices                     // device nodes
	SkippedXattrs                      // attributes that only root may set: trusted.*, security.*, ACLs with foreign ids
	SkippedNoXattr                     // attributes or ACLs that the target's file system does not hold
)

var skippedNames = [...]string{
	"owners and groups", "setuid and setgid bits", "permissions", "times", "device nodes",
	"privileged extended attributes", "extended attributes or ACLs that the target's file system does not know",
}

func (s Skipped) String() string {
	var parts []string
	for i, name := range skippedNames {
		if s&(1<<i) != 0 {
			parts = append(parts, name)
		}
	}
	return strings.Join(parts, ", ")
}

// A PrivilegeError says what of an entry was skipped for lack of privilege (or of support by the target's file system).
// Everything else was done.
type PrivilegeError struct {
	What Skipped
	Err  error // the first refusal
}

func (e *PrivilegeError) Error() string { return fmt.Sprintf("not restored: %v: %v", e.What, e.Err) }
func (e *PrivilegeError) Unwrap() error { return e.Err }

// SplitPrivilege takes an error of Root.Apply, File.Apply or Root.Mknod apart: into what was skipped, to be gathered
// over all entries and said once, and the rest, which is nil where nothing else failed.
func SplitPrivilege(err error) (Skipped, error) {
	switch e := err.(type) {
	case nil:
		return 0, nil
	case *PrivilegeError:
		return e.What, nil
	case *applyError:
		return e.skipped(), e.rest
	}
	return 0, err
}

// An applyError joins real failures with what was skipped.
type applyError struct {
	rest error
	priv *PrivilegeError // may be nil
}

func (e *applyError) Error() string { return e.rest.Error() }

func (e *applyError) Unwrap() []error {
	if e.priv == nil {
		return []error{e.rest}
	}
	return []error{e.rest, e.priv}
}

func (e *applyError) skipped() Skipped {
	if e.priv == nil {
		return 0
	}
	return e.priv.What
}

// CheckName returns a *NameError for a name that is not a plain entry of a folder: "", ".", "..", and any with a slash
// or a NUL byte.
func CheckName(name string) error {
	switch {
	case name == "":
		return &NameError{name, "empty"}
	case name == "." || name == "..":
		return &NameError{name, "not an entry of a folder"}
	case strings.IndexByte(name, '/') >= 0:
		return &NameError{name, "contains a slash"}
	case strings.IndexByte(name, 0) >= 0:
		return &NameError{name, "contains a NUL byte"}
	}
	return nil
}

// CheckPath checks each name of a slash-separated path relative to a Root. The empty path is the root itself.
func CheckPath(path string) error {
	for rest := path; rest != ""; {
		name, tail, more := strings.Cut(rest, "/")
		if err := CheckName(name); err != nil {
			return err
		}
		if more && tail == "" {
			return &NameError{path, "ends in a slash"}
		}
		rest = tail
	}
	return nil
}

const (
	second     = int64(1_000_000_000) // in ns
	lastSecond = math.MaxInt64 / second
	lastNanos  = math.MaxInt64 % second
)

// nanos clamps a time to what an int64 of nanoseconds holds. nsec is from 0 to 999,999,999.
func nanos(sec, nsec int64) int64 {
	switch {
	case sec > lastSecond || sec == lastSecond && nsec > lastNanos:
		return math.MaxInt64
	case sec < -lastSecond-1 || sec == -lastSecond-1 && second-nsec > lastNanos+1:
		return math.MinInt64
	case sec < 0: // the product alone may lie beyond the end
		return (sec+1)*second - (second - nsec)
	}
	return sec*second + nsec
}

// seconds is the inverse of nanos: whole seconds rounded down, and nanoseconds from 0 to 999,999,999.
func seconds(ns int64) (sec, nsec int64) {
	sec, nsec = ns/second, ns%second
	if nsec < 0 {
		sec, nsec = sec-1, nsec+second
	}
	return sec, nsec
}

func pathError(op, path string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: path, Err: err}
}
