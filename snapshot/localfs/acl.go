package localfs

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// IsACL reports whether an attribute is a POSIX ACL, whose value holds user and group ids.
func IsACL(name string) bool { return name == aclAccess || name == aclDefault }

// MapACL returns a POSIX ACL, as Xattr.Value holds it, with the users and groups in it replaced: for a restore on a
// machine with other ids.
//
// The format is that of Linux (include/uapi/linux/posix_acl_xattr.h): a version, which is 2, in 4 bytes, then entries of
// 8 bytes: tag 2, permissions 2, id 4, all little endian.
func MapACL(value []byte, uid, gid func(uint32) uint32) ([]byte, error) {
	const header, entry = 4, 8
	const tagUser, tagGroup = 0x02, 0x08
	if len(value) < header || (len(value)-header)%entry != 0 || binary.LittleEndian.Uint32(value) != 2 {
		return nil, fmt.Errorf("malformed POSIX ACL of %d bytes", len(value))
	}
	mapped := bytes.Clone(value)
	for e := mapped[header:]; len(e) > 0; e = e[entry:] {
		id := binary.LittleEndian.Uint32(e[4:])
		switch binary.LittleEndian.Uint16(e) {
		case tagUser:
			id = uid(id)
		case tagGroup:
			id = gid(id)
		}
		binary.LittleEndian.PutUint32(e[4:], id)
	}
	return mapped, nil
}
