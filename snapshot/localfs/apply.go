package localfs

import (
	"bytes"
	"errors"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// A target is an entry whose metadata are read or written: an open file or folder (fd), a pinned inode (fd, pinned), or
// a name in a folder (fd < 0).
type target struct {
	fd     int
	pinned bool // fd is O_PATH
	owned  bool // fd is to be closed
	dir    int
	name   string
	parent parent // to be closed
}

func (t target) close() {
	if t.owned {
		unix.Close(t.fd)
	}
	t.parent.close()
}

// ApplyOptions change what Apply restores. The zero value restores everything.
type ApplyOptions struct {
	NoOwner  bool // leave owner and group as they are
	NoXattrs bool // leave extended attributes and ACLs as they are
}

// Apply gives the entry at path its metadata: owner, extended attributes (those it has and should not have are removed),
// permissions, and time of last change. The entry must be of the type that m says (*TypeError). A folder's turn comes
// after everything below it, since new entries change its time and its mode may forbid them.
//
// It goes on after a failure. SplitPrivilege takes the error apart into what the caller has no privilege for and what
// really failed. Where the owner cannot be restored, setuid and setgid bits are dropped, as cp and tar do.
func (r *Root) Apply(path string, m *Meta, xattrs []Xattr, o ApplyOptions) error {
	t, now, err := r.pin(path)
	if err != nil {
		return pathError("apply metadata", path, err)
	}
	defer t.close()
	if now.Type != m.Type {
		return &TypeError{path, now.Type, m.Type}
	}
	return apply(t, path, now, m, xattrs, o)
}

// Apply is Root.Apply for a file that is open for writing. All writes must have been made: they change the time, and
// clear capabilities and setuid bits.
func (f *File) Apply(m *Meta, xattrs []Xattr, o ApplyOptions) error {
	now, err := f.Meta()
	if err != nil {
		return err
	}
	if m.Type != TypeFile {
		return &TypeError{f.name, TypeFile, m.Type}
	}
	return apply(target{fd: f.fd}, f.name, now, m, xattrs, o)
}

// apply keeps to the only order that works on Linux: chown clears setuid and setgid bits and security.capability, so it
// comes first. User attributes need write permission, so they come before the mode. Setting an ACL rewrites the mode's
// group bits and may clear setgid, and a chmod writes the group bits into the ACL's mask, where those of m are those
// that the snapshot's ACL had: so the ACL comes before chmod. All of them leave mtime alone, but not every file system
// does: so it comes last.
func apply(t target, path string, now Meta, m *Meta, xattrs []Xattr, o ApplyOptions) error {
	a := applying{t: t, path: path, now: now, want: m}
	if !o.NoOwner {
		a.owner()
	}
	if !o.NoXattrs {
		a.xattrs(xattrs)
	}
	if m.Type != TypeSymlink {
		a.mode()
	}
	if err := t.setMTime(m.MTime); refused(err) {
		a.skip(SkippedTimes, "set the time of", err)
	} else {
		a.fail("set the time of", err)
	}
	return a.err()
}

type applying struct {
	t       target
	path    string
	now     Meta // kept up to date but for what changed says
	want    *Meta
	changed bool // the mode may have been changed by the kernel
	errs    []error
	priv    *PrivilegeError
}

func (a *applying) fail(op string, err error) {
	if err != nil {
		a.errs = append(a.errs, pathError(op, a.path, err))
	}
}

func (a *applying) skip(what Skipped, op string, err error) {
	if a.priv == nil {
		a.priv = &PrivilegeError{Err: pathError(op, a.path, err)}
	}
	a.priv.What |= what
}

func (a *applying) err() error {
	switch {
	case len(a.errs) > 0:
		return &applyError{errors.Join(a.errs...), a.priv}
	case a.priv != nil:
		return a.priv
	}
	return nil
}

// refused tells a lack of privilege from other failures. File systems without owners or modes answer EPERM or ENOTSUP.
func refused(err error) bool {
	return errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) || unsupported(err)
}

func unsupported(err error) bool {
	return errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.ENOSYS)
}

func (a *applying) owner() {
	if a.now.UID == a.want.UID && a.now.GID == a.want.GID {
		return
	}
	a.changed = true
	err := a.t.chown(int(a.want.UID), int(a.want.GID))
	switch {
	case err == nil:
		a.now.UID, a.now.GID = a.want.UID, a.want.GID
	case refused(err) || err == unix.EINVAL: // EINVAL: an id that the user namespace does not map
		a.skip(SkippedOwner, "chown", err)
		// A user may still give the entry to another of their groups.
		if a.now.GID != a.want.GID && a.t.chown(-1, int(a.want.GID)) == nil {
			a.now.GID = a.want.GID
		}
	default:
		a.fail("chown", err)
	}
}

func (a *applying) mode() {
	mode := a.want.Mode & 0o7777
	var drop uint32
	if a.now.UID != a.want.UID {
		drop |= unix.S_ISUID
	}
	if (a.now.UID != a.want.UID || a.now.GID != a.want.GID) && a.want.Type != TypeDir {
		drop |= unix.S_ISGID // of a folder it only says which group new entries get
	}
	if mode&drop != 0 {
		a.skip(SkippedSetID, "chmod", unix.EPERM)
		mode &^= drop
	}
	if !a.changed && a.now.Mode == mode {
		return
	}
	if err := a.t.chmod(mode); refused(err) {
		a.skip(SkippedMode, "chmod", err)
	} else {
		a.fail("chmod", err)
	}
}

const (
	aclAccess  = "system.posix_acl_access"
	aclDefault = "system.posix_acl_default"
	capability = "security.capability"
)

// xattrs sets and removes attributes so that those of the snapshot are left. Attributes that the system sets by itself
// (SELinux labels, for example) stay if the snapshot has none.
func (a *applying) xattrs(want []Xattr) {
	have, err := readXattrs(a.t)
	if errors.Is(err, unix.EACCES) && a.relax() {
		have, err = readXattrs(a.t)
	}
	if err != nil && !refused(err) {
		a.fail("read attributes of", err)
	}
	for _, x := range have {
		if removable(x.Name) && !slices.ContainsFunc(want, func(w Xattr) bool { return w.Name == x.Name }) {
			a.xattr("remove attribute "+x.Name+" of", x.Name, a.writable(func() error { return a.t.removeXattr(x.Name) }))
		}
	}
	for _, acls := range []bool{false, true} { // ACLs last: they may take the right to write
		for _, x := range want {
			if acls != strings.HasPrefix(x.Name, "system.") || slices.ContainsFunc(have, func(h Xattr) bool {
				return h.Name == x.Name && bytes.Equal(h.Value, x.Value)
			}) {
				continue
			}
			a.xattr("set attribute "+x.Name+" of", x.Name,
				a.writable(func() error { return a.t.setXattr(x.Name, x.Value) }))
		}
	}
}

// writable tries again with the rights that an owner's read-only entry lacks.
func (a *applying) writable(call func() error) error {
	err := call()
	if err == unix.EACCES && a.relax() {
		err = call()
	}
	return err
}

// relax gives the owner the right to read and write, and reports whether that was missing. mode comes later.
func (a *applying) relax() bool {
	if a.want.Type == TypeSymlink || a.now.Mode&0o600 == 0o600 || a.t.chmod(a.now.Mode|0o600) != nil {
		return false
	}
	a.changed = true
	a.now.Mode |= 0o600
	return true
}

func (a *applying) xattr(op, name string, err error) {
	user := strings.HasPrefix(name, "user.")
	switch {
	case err == nil:
		if name == aclAccess {
			a.changed = true
		}
	case unsupported(err):
		a.skip(SkippedNoXattr, op, err)
	case !user && (refused(err) || err == unix.EINVAL): // EINVAL: unknown label or capability, an id that is not mapped
		a.skip(SkippedXattrs, op, err)
	default:
		a.fail(op, err)
	}
}

func removable(name string) bool {
	return strings.HasPrefix(name, "user.") || strings.HasPrefix(name, "trusted.") ||
		name == aclAccess || name == aclDefault || name == capability
}

// Privileged reports whether the process runs as root, and so restores owners, devices and privileged attributes.
func Privileged() bool { return os.Geteuid() == 0 }
