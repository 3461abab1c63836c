package mount

import (
	"context"
	"encoding/binary"
	"errors"
	iofs "io/fs"
	"slices"
	"sync"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/zeebo/blake3"

	"github.com/whole-tale/wtsnap/snapshot"
	"github.com/whole-tale/wtsnap/snapshot/localfs"
)

// A node is an entry of a snapshot.
type node struct {
	fs.Inode
	f    *filesystem
	s    *snapshot.Snapshot
	n    *snapshot.Node
	path string // in the snapshot, for messages

	mu     sync.Mutex                // guards listed
	listed map[string]*snapshot.Node // of a folder: entries that were listed, and not looked up yet
}

// maxListed bounds node.listed. The kernel looks up what it has just listed, in that order.
const maxListed = 4096

var modes = map[localfs.Type]uint32{
	localfs.TypeFile: syscall.S_IFREG, localfs.TypeDir: syscall.S_IFDIR, localfs.TypeSymlink: syscall.S_IFLNK,
	localfs.TypeBlockDevice: syscall.S_IFBLK, localfs.TypeCharDevice: syscall.S_IFCHR, localfs.TypeFIFO: syscall.S_IFIFO,
	localfs.TypeSocket: syscall.S_IFSOCK,
}

const blockSize = 512

// attr fills in what stat shows.
func (n *node) attr(out *fuse.Attr) {
	m := &n.n.Meta
	out.Mode = modes[m.Type] | m.Mode
	out.Uid, out.Gid, out.Nlink = m.UID, m.GID, m.Nlink
	out.Atime, out.Atimensec = stamp(m.MTime)
	out.Mtime, out.Mtimensec = stamp(m.MTime)
	out.Ctime, out.Ctimensec = stamp(m.CTime)
	switch m.Type {
	case localfs.TypeFile, localfs.TypeSymlink:
		out.Size = uint64(m.Size)
		out.Blocks = (out.Size + blockSize - 1) / blockSize
	case localfs.TypeBlockDevice, localfs.TypeCharDevice:
		major, minor := uint32(m.RDev>>32), uint32(m.RDev)
		out.Rdev = minor&0xff | major<<8&0xfff00 | minor<<12&0xfff00000 // as the kernel packs them
	}
}

func stamp(ns int64) (seconds uint64, nanoseconds uint32) {
	s, rest := ns/1e9, ns%1e9
	if rest < 0 {
		s, rest = s-1, rest+1e9
	}
	return uint64(s), uint32(rest)
}

// stable returns the identity of a node. Hard links of one inode are one inode here, too: its number is a hash of the
// snapshot and of what the inode was. 0 stands for a number of its own.
func (n *node) stable() fs.StableAttr {
	a := fs.StableAttr{Mode: modes[n.n.Type]}
	if n.n.Nlink > 1 && !n.n.IsDir() {
		var id []byte
		id = append(id, n.s.Ref.ID[:]...)
		id = binary.LittleEndian.AppendUint64(id, n.n.Dev)
		id = binary.LittleEndian.AppendUint64(id, n.n.Ino)
		sum := blake3.Sum256(id)
		a.Ino = max(binary.LittleEndian.Uint64(sum[:])>>1, 2) // the upper half are numbers that go-fuse gives
	}
	return a
}

// Getattr implements fs.NodeGetattrer.
func (n *node) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	n.attr(&out.Attr)
	return 0
}

// child makes the node of an entry, which is called name.
func (n *node) child(entry *snapshot.Node) *node {
	return &node{f: n.f, s: n.s, n: entry, path: join(n.path, entry.Name)}
}

func join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}

// Lookup implements fs.NodeLookuper.
func (n *node) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	n.mu.Lock()
	entry := n.listed[name]
	delete(n.listed, name)
	n.mu.Unlock()
	if entry == nil {
		var err error
		entry, err = snapshot.LookupNode(ctx, n.f.load, n.n.Subtree, name)
		if errors.Is(err, iofs.ErrNotExist) {
			return nil, syscall.ENOENT
		}
		if err != nil {
			return nil, n.f.failed(n.path, err)
		}
	}
	c := n.child(entry)
	c.attr(&out.Attr)
	return n.NewInode(ctx, c, c.stable()), 0
}

// Readdir implements fs.NodeReaddirer.
func (n *node) Readdir(ctx context.Context) (fs.DirStream, syscall.Errno) {
	if !n.n.IsDir() {
		return nil, syscall.ENOTDIR
	}
	// The stream outlives the request that opens it.
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	d := &stream{n: n, ctx: ctx, cancel: cancel, cursor: snapshot.NewFolderCursor(n.f.load, n.n.Subtree)}
	d.advance()
	return d, 0
}

// A stream lists a folder.
type stream struct {
	n      *node
	ctx    context.Context // of the stream: the interface has none in its calls
	cancel context.CancelFunc
	cursor *snapshot.FolderCursor
	next   *snapshot.Node
	err    error
}

func (d *stream) advance() { d.next, d.err = d.cursor.Next(d.ctx) }

// HasNext implements fs.DirStream.
func (d *stream) HasNext() bool { return d.next != nil || d.err != nil }

// Next implements fs.DirStream.
func (d *stream) Next() (fuse.DirEntry, syscall.Errno) {
	if d.err != nil {
		errno := d.n.f.failed(d.n.path, d.err)
		d.next, d.err = nil, nil
		return fuse.DirEntry{}, errno
	}
	entry := d.next
	d.n.mu.Lock()
	if d.n.listed == nil || len(d.n.listed) >= maxListed {
		d.n.listed = map[string]*snapshot.Node{}
	}
	d.n.listed[entry.Name] = entry
	d.n.mu.Unlock()
	d.advance()
	return fuse.DirEntry{Name: entry.Name, Mode: modes[entry.Type]}, 0
}

// Close implements fs.DirStream.
func (d *stream) Close() { d.cancel() }

// Readlink implements fs.NodeReadlinker.
func (n *node) Readlink(context.Context) ([]byte, syscall.Errno) {
	if n.n.Type != localfs.TypeSymlink {
		return nil, syscall.EINVAL
	}
	return []byte(n.n.Target), 0
}

// Getxattr implements fs.NodeGetxattrer.
func (n *node) Getxattr(_ context.Context, name string, dest []byte) (uint32, syscall.Errno) {
	i := slices.IndexFunc(n.n.Xattrs, func(x localfs.Xattr) bool { return x.Name == name })
	if i < 0 {
		return 0, fs.ENOATTR
	}
	return fill(dest, n.n.Xattrs[i].Value)
}

// Listxattr implements fs.NodeListxattrer.
func (n *node) Listxattr(_ context.Context, dest []byte) (uint32, syscall.Errno) {
	var names []byte
	for _, x := range n.n.Xattrs {
		names = append(append(names, x.Name...), 0)
	}
	return fill(dest, names)
}

// fill answers a request for an attribute: an empty dest asks for the size.
func fill(dest, value []byte) (uint32, syscall.Errno) {
	if len(dest) > 0 && len(dest) < len(value) {
		return uint32(len(value)), syscall.ERANGE
	}
	copy(dest, value)
	return uint32(len(value)), 0
}

// Statfs implements fs.NodeStatfser: how much there is below the root, and that there is no room.
func (n *node) Statfs(_ context.Context, out *fuse.StatfsOut) syscall.Errno {
	out.Bsize, out.Frsize, out.NameLen = blockSize, blockSize, 255
	out.Blocks = uint64(n.n.Size+blockSize-1) / blockSize
	return 0
}
