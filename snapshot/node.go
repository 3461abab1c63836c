package snapshot

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/snapshot/localfs"
)

// A Node is one entry of a folder in a snapshot.
//
// Size in Meta is what the snapshot holds: of a file the bytes of its parts, holes included; of a symbolic link the
// length of its target; of a folder the bytes of all files below it; 0 of everything else. Blocks is not stored.
type Node struct {
	Name string // raw bytes
	localfs.Meta
	Target string          // of symbolic links
	Xattrs []localfs.Xattr // ordered by name
	Flags  NodeFlags

	// A file's content is either Content, of at most MaxInline parts, or the list tree at ContentRoot.
	Content      []Part
	ContentRoot  chunk.ID // zero: Content holds all parts
	ContentLevel uint8    // of the page ContentRoot

	Subtree chunk.ID // of folders: the root page
}

// IsDir reports whether the node is a folder.
func (n *Node) IsDir() bool { return n.Type == localfs.TypeDir }

// IsFile reports whether the node is a regular file.
func (n *Node) IsFile() bool { return n.Type == localfs.TypeFile }

// NodeFlags say what is particular about a node.
type NodeFlags uint8

const (
	// FlagTorn marks a file that changed while it was read: its bytes may never have been in the file at one time.
	FlagTorn NodeFlags = 1 << iota
	// FlagPartial marks a folder that does not hold all that the source's did: its entries could not be listed, or the
	// snapshot is a checkpoint and the folder was not finished. Of a file, only the beginning was saved: such a node is in
	// checkpoints only.
	FlagPartial

	knownFlags = FlagTorn | FlagPartial
)

// A Part is a piece of a file's content: a blob, or a hole, which reads as zeros.
type Part struct {
	ID       chunk.ID // zero: a hole
	Size     uint32   // bytes of the blob
	HoleSize int64    // bytes of the hole
}

// IsHole reports whether the part has no blob.
func (p Part) IsHole() bool { return p.ID.IsZero() }

// Len returns the part's length in bytes.
func (p Part) Len() int64 {
	if p.IsHole() {
		return p.HoleSize
	}
	return int64(p.Size)
}

// Limits of the encoding. A decoder refuses what is beyond them.
const (
	MaxInline   = 32      // parts in a node
	maxName     = 4 << 10 // bytes
	maxTarget   = 64 << 10
	maxXattrs   = 4096 // of one node
	maxXattrKey = 255
	maxNode     = 1 << 20 // bytes of one encoded node
	idSize      = len(chunk.ID{})
)

// ErrNodeTooLarge is returned for a node whose metadata do not fit into a tree: mostly megabytes of extended attributes.
var ErrNodeTooLarge = errors.New("its metadata are too large to be stored")

var errTruncated = errors.New("it ends too early")

// Bits of a node's field mask.
const (
	hasMode    = 1 << iota // differs from the node before
	hasOwner               // differs from the node before
	hasDev                 // differs from the node before
	hasNlink               // is not 1
	hasCTime               // differs from the mtime
	hasBTime               // is known
	hasXattrs              // there are some
	hasFlags               // there are some
	hasList                // content in a list tree
	knownMasks = 1<<iota - 1
)

// before is what a node's encoding takes from the node before it in the page. It starts out as zeros.
type before struct {
	mode, uid, gid uint32
	dev, ino       uint64
	mtime          int64 // whole seconds
}

// appendNode encodes n. b is updated.
func appendNode(dst []byte, n *Node, b *before) ([]byte, error) {
	if err := checkNode(n); err != nil {
		return dst, err
	}
	start := len(dst)
	mask := uint64(0)
	set := func(bit uint64, on bool) {
		if on {
			mask |= bit
		}
	}
	set(hasMode, n.Mode != b.mode)
	set(hasOwner, n.UID != b.uid || n.GID != b.gid)
	set(hasDev, n.Dev != b.dev)
	set(hasNlink, n.Nlink != 1)
	set(hasCTime, n.CTime != n.MTime)
	set(hasBTime, n.BTime != 0)
	set(hasXattrs, len(n.Xattrs) > 0)
	set(hasFlags, n.Flags != 0)
	set(hasList, !n.ContentRoot.IsZero())

	dst = append(dst, byte(n.Type))
	dst = binary.AppendUvarint(dst, mask)
	dst = appendString(dst, n.Name)
	if mask&hasMode != 0 {
		dst = binary.AppendUvarint(dst, uint64(n.Mode))
	}
	if mask&hasOwner != 0 {
		dst = binary.AppendUvarint(dst, uint64(n.UID))
		dst = binary.AppendUvarint(dst, uint64(n.GID))
	}
	if mask&hasDev != 0 {
		dst = binary.AppendUvarint(dst, n.Dev)
	}
	dst = binary.AppendVarint(dst, int64(n.Ino-b.ino))
	if mask&hasNlink != 0 {
		dst = binary.AppendUvarint(dst, uint64(n.Nlink))
	}
	mtime, _ := splitTime(n.MTime)
	dst = appendTime(dst, n.MTime, b.mtime)
	ctime := mtime
	if mask&hasCTime != 0 {
		dst = appendTime(dst, n.CTime, mtime)
		ctime, _ = splitTime(n.CTime)
	}
	if mask&hasBTime != 0 {
		dst = appendTime(dst, n.BTime, ctime)
	}
	if mask&hasXattrs != 0 {
		dst = binary.AppendUvarint(dst, uint64(len(n.Xattrs)))
		for _, x := range n.Xattrs {
			dst = appendString(dst, x.Name)
			dst = appendString(dst, x.Value)
		}
	}
	if mask&hasFlags != 0 {
		dst = append(dst, byte(n.Flags))
	}
	dst = appendPayload(dst, n)
	if len(dst)-start > maxNode {
		return dst[:start], fmt.Errorf("%w (%d bytes)", ErrNodeTooLarge, len(dst)-start)
	}
	*b = before{n.Mode, n.UID, n.GID, n.Dev, n.Ino, mtime}
	return dst, nil
}

// appendPayload encodes what depends on the type.
func appendPayload(dst []byte, n *Node) []byte {
	switch n.Type {
	case localfs.TypeFile:
		if !n.ContentRoot.IsZero() {
			dst = append(dst, n.ContentLevel)
			dst = binary.AppendUvarint(dst, uint64(n.Size))
			return append(dst, n.ContentRoot[:]...)
		}
		dst = binary.AppendUvarint(dst, uint64(len(n.Content)))
		for _, p := range n.Content {
			dst = appendPart(dst, p)
		}
	case localfs.TypeDir:
		dst = binary.AppendUvarint(dst, uint64(n.Size))
		dst = append(dst, n.Subtree[:]...)
	case localfs.TypeSymlink:
		dst = appendString(dst, n.Target)
	case localfs.TypeBlockDevice, localfs.TypeCharDevice:
		dst = binary.AppendUvarint(dst, n.RDev)
	}
	return dst
}

func appendPart(dst []byte, p Part) []byte {
	if p.IsHole() {
		return binary.AppendUvarint(dst, uint64(p.HoleSize)<<1|1)
	}
	dst = binary.AppendUvarint(dst, uint64(p.Size)<<1)
	return append(dst, p.ID[:]...)
}

// checkNode refuses what the decoder would refuse, or would not give back as it was.
func checkNode(n *Node) error {
	if err := checkName(n.Name); err != nil {
		return err
	}
	if n.Mode > 0o7777 {
		return fmt.Errorf("mode %#o is beyond the permission bits", n.Mode)
	}
	if n.Flags&^knownFlags != 0 {
		return fmt.Errorf("unknown flags %#x", uint8(n.Flags))
	}
	if len(n.Xattrs) > maxXattrs {
		return fmt.Errorf("%w (%d extended attributes)", ErrNodeTooLarge, len(n.Xattrs))
	}
	for i, x := range n.Xattrs {
		if len(x.Name) == 0 || len(x.Name) > maxXattrKey || i > 0 && x.Name <= n.Xattrs[i-1].Name {
			return fmt.Errorf("extended attribute %q is misnamed or out of order", x.Name)
		}
	}
	switch n.Type {
	case localfs.TypeFile:
		return checkContent(n)
	case localfs.TypeDir:
		if n.Size < 0 || n.Subtree.IsZero() {
			return errors.New("a folder without a subtree")
		}
	case localfs.TypeSymlink:
		if len(n.Target) == 0 || len(n.Target) > maxTarget {
			return fmt.Errorf("a symbolic link's target of %d bytes", len(n.Target))
		}
	case localfs.TypeBlockDevice, localfs.TypeCharDevice, localfs.TypeFIFO, localfs.TypeSocket:
	default:
		return fmt.Errorf("a node of %v", n.Type)
	}
	return nil
}

func checkContent(n *Node) error {
	if !n.ContentRoot.IsZero() {
		if len(n.Content) > 0 || n.Size <= 0 || n.ContentLevel > maxLevel {
			return fmt.Errorf("a content list of %d bytes at level %d", n.Size, n.ContentLevel)
		}
		return nil
	}
	if len(n.Content) > MaxInline {
		return fmt.Errorf("%d parts in a node", len(n.Content))
	}
	size := int64(0)
	for _, p := range n.Content {
		if err := checkPart(p); err != nil {
			return err
		}
		if size += p.Len(); size < 0 {
			return errors.New("the parts' sizes overflow")
		}
	}
	if size != n.Size {
		return fmt.Errorf("the parts have %d bytes, the file %d", size, n.Size)
	}
	return nil
}

func checkPart(p Part) error {
	if p.IsHole() {
		if p.HoleSize <= 0 || p.Size != 0 {
			return fmt.Errorf("a hole of %d bytes", p.HoleSize)
		}
		return nil
	}
	if p.Size == 0 || p.Size > chunk.MaxSize || p.HoleSize != 0 {
		return fmt.Errorf("a part of %d bytes", p.Size)
	}
	return nil
}

func checkName(name string) error {
	if len(name) > maxName {
		return fmt.Errorf("%w (a name of %d bytes)", ErrNodeTooLarge, len(name))
	}
	return localfs.CheckName(name)
}

func appendString[S string | []byte](dst []byte, s S) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(s)))
	return append(dst, s...)
}

// appendTime encodes a time as seconds after base and nanoseconds.
func appendTime(dst []byte, t, base int64) []byte {
	sec, nsec := splitTime(t)
	dst = binary.AppendVarint(dst, sec-base)
	return binary.AppendUvarint(dst, uint64(nsec))
}

// splitTime returns whole seconds, rounded down, and nanoseconds from 0 to 999,999,999.
func splitTime(t int64) (sec, nsec int64) {
	sec, nsec = t/1e9, t%1e9
	if nsec < 0 {
		sec, nsec = sec-1, nsec+1e9
	}
	return sec, nsec
}

// A decoder reads the primitives of the tree encodings. After an error it returns zeros; the first error stays.
type decoder struct {
	data  []byte
	text  string // the same bytes, made when the first string is asked for: all strings share it
	pos   int
	parts []Part // all parts of a page share one array
	err   error
}

func (d *decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf(format, args...)
		d.pos = len(d.data)
	}
}

func (d *decoder) rest() int { return len(d.data) - d.pos }

func (d *decoder) byte() byte {
	if d.pos >= len(d.data) {
		if d.err == nil {
			d.err = errTruncated
		}
		return 0
	}
	b := d.data[d.pos]
	d.pos++
	return b
}

// uvarint reads a varint of the shortest form.
func (d *decoder) uvarint() uint64 {
	if d.pos < len(d.data) && d.data[d.pos] < 0x80 {
		d.pos++
		return uint64(d.data[d.pos-1])
	}
	v, n := binary.Uvarint(d.data[d.pos:])
	switch {
	case n == 0:
		if d.err == nil {
			d.err = errTruncated
			d.pos = len(d.data)
		}
		return 0
	case n < 0 || n > 1 && d.data[d.pos+n-1] == 0:
		d.fail("a number is not in its shortest form")
		return 0
	}
	d.pos += n
	return v
}

func (d *decoder) varint() int64 {
	u := d.uvarint()
	return int64(u>>1) ^ -int64(u&1)
}

// bounded reads a varint of at most most.
func (d *decoder) bounded(most uint64, what string) uint64 {
	v := d.uvarint()
	if v > most {
		d.fail("%s of %d is beyond %d", what, v, most)
		return 0
	}
	return v
}

func (d *decoder) bytes(most int, what string) []byte {
	n := int(d.bounded(uint64(most), what))
	if n > d.rest() {
		d.err, d.pos = errTruncated, len(d.data)
		return nil
	}
	d.pos += n
	return d.data[d.pos-n : d.pos : d.pos]
}

func (d *decoder) string(most int, what string) string {
	b := d.bytes(most, what)
	if len(b) == 0 {
		return ""
	}
	if d.text == "" {
		d.text = string(d.data)
	}
	return d.text[d.pos-len(b) : d.pos]
}

func (d *decoder) id() (id chunk.ID) {
	if d.rest() < idSize {
		if d.err == nil {
			d.err, d.pos = errTruncated, len(d.data)
		}
		return id
	}
	d.pos += copy(id[:], d.data[d.pos:])
	if id.IsZero() {
		d.fail("an id of zeros")
	}
	return id
}

// time reads a time that is encoded relative to base.
func (d *decoder) time(base int64) int64 {
	sec := base + d.varint()
	nsec := int64(d.bounded(999_999_999, "a count of nanoseconds"))
	const (
		most  = math.MaxInt64 / 1_000_000_000
		least = -most - 1
	)
	switch {
	case sec > most || sec == most && nsec > math.MaxInt64%1_000_000_000,
		sec < least || sec == least && nsec < 1_000_000_000-(math.MaxInt64%1_000_000_000+1):
		d.fail("a time is out of range")
		return 0
	case sec == least: // sec * 1e9 alone would overflow
		return (sec+1)*1_000_000_000 + (nsec - 1_000_000_000)
	}
	return sec*1_000_000_000 + nsec
}

func (d *decoder) part() Part {
	v := d.uvarint()
	if v&1 != 0 {
		if v>>1 == 0 {
			d.fail("an empty hole")
		}
		return Part{HoleSize: int64(v >> 1)}
	}
	if v>>1 == 0 || v>>1 > chunk.MaxSize {
		d.fail("a part of %d bytes", v>>1)
	}
	return Part{Size: uint32(v >> 1), ID: d.id()}
}

// node reads a node into n, which is zero. b is updated.
func (d *decoder) node(n *Node, b *before) {
	n.Type = localfs.Type(d.byte())
	mask := d.bounded(knownMasks, "a field mask")
	n.Name = d.string(maxName, "a name's length")
	if d.err == nil {
		if err := localfs.CheckName(n.Name); err != nil {
			d.fail("%w", err)
		}
	}
	n.Mode, n.UID, n.GID, n.Dev, n.Nlink = b.mode, b.uid, b.gid, b.dev, 1
	if mask&hasMode != 0 {
		n.Mode = uint32(d.bounded(0o7777, "a mode"))
		d.must(n.Mode != b.mode)
	}
	if mask&hasOwner != 0 {
		n.UID = uint32(d.bounded(math.MaxUint32, "a uid"))
		n.GID = uint32(d.bounded(math.MaxUint32, "a gid"))
		d.must(n.UID != b.uid || n.GID != b.gid)
	}
	if mask&hasDev != 0 {
		n.Dev = d.uvarint()
		d.must(n.Dev != b.dev)
	}
	n.Ino = b.ino + uint64(d.varint())
	if mask&hasNlink != 0 {
		n.Nlink = uint32(d.bounded(math.MaxUint32, "a link count"))
		d.must(n.Nlink != 1)
	}
	n.MTime = d.time(b.mtime)
	mtime, _ := splitTime(n.MTime)
	n.CTime = n.MTime
	ctime := mtime
	if mask&hasCTime != 0 {
		n.CTime = d.time(mtime)
		ctime, _ = splitTime(n.CTime)
		d.must(n.CTime != n.MTime)
	}
	if mask&hasBTime != 0 {
		n.BTime = d.time(ctime)
		d.must(n.BTime != 0)
	}
	if mask&hasXattrs != 0 {
		d.xattrs(n)
	}
	if mask&hasFlags != 0 {
		n.Flags = NodeFlags(d.byte())
		d.must(n.Flags != 0 && n.Flags&^knownFlags == 0)
	}
	d.payload(n, mask&hasList != 0)
	*b = before{n.Mode, n.UID, n.GID, n.Dev, n.Ino, mtime}
}

func (d *decoder) must(canonical bool) {
	if !canonical {
		d.fail("a field is not in its shortest form")
	}
}

func (d *decoder) xattrs(n *Node) {
	count := d.bounded(maxXattrs, "a count of extended attributes")
	d.must(count > 0)
	if int(count)*3 > d.rest() { // a name of one byte and an empty value
		d.fail("%d extended attributes in %d bytes", count, d.rest())
		return
	}
	n.Xattrs = make([]localfs.Xattr, 0, count)
	last := ""
	for range count {
		name := d.string(maxXattrKey, "an extended attribute's name length")
		value := d.bytes(maxNode, "an extended attribute's length")
		if name <= last {
			d.fail("extended attributes are out of order")
			return
		}
		last = name
		n.Xattrs = append(n.Xattrs, localfs.Xattr{Name: name, Value: append([]byte(nil), value...)})
	}
}

// payload reads what depends on the type.
func (d *decoder) payload(n *Node, list bool) {
	if list && n.Type != localfs.TypeFile {
		d.fail("content of %v", n.Type)
	}
	switch n.Type {
	case localfs.TypeFile:
		if list {
			if n.ContentLevel = d.byte(); n.ContentLevel > maxLevel {
				d.fail("a content list of level %d", n.ContentLevel)
			}
			n.Size = int64(d.bounded(math.MaxInt64, "a size"))
			d.must(n.Size > 0)
			n.ContentRoot = d.id()
			return
		}
		count := d.bounded(MaxInline, "a count of parts")
		start := len(d.parts)
		for range count {
			p := d.part()
			d.parts = append(d.parts, p)
			if n.Size += p.Len(); n.Size < 0 {
				d.fail("the parts' sizes overflow")
			}
		}
		if count > 0 {
			n.Content = d.parts[start:len(d.parts):len(d.parts)]
		}
	case localfs.TypeDir:
		n.Size = int64(d.bounded(math.MaxInt64, "a size"))
		n.Subtree = d.id()
	case localfs.TypeSymlink:
		n.Target = d.string(maxTarget, "a target's length")
		d.must(n.Target != "")
		n.Size = int64(len(n.Target))
	case localfs.TypeBlockDevice, localfs.TypeCharDevice:
		n.RDev = d.uvarint()
	case localfs.TypeFIFO, localfs.TypeSocket:
	default:
		d.fail("a node of %v", n.Type)
	}
}
