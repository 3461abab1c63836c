package reader

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"sort"
	"strings"
	"time"
)

// A Snapshot is what a manifest says of it.
type Snapshot struct {
	Name     string    `json:"-"` // of its object
	Version  int       `json:"version"`
	Root     string    `json:"root"`
	Instance string    `json:"instance"`
	Time     time.Time `json:"time"`
	Complete bool      `json:"complete"`
}

// ID is the snapshot's id, 32 hex digits.
func (s Snapshot) ID() string {
	_, id, _ := strings.Cut(path.Base(s.Name), "-")
	return id
}

// Snapshots lists the snapshots, the oldest first.
func (r *Repository) Snapshots() ([]Snapshot, error) {
	names, err := r.names("snapshots")
	if err != nil {
		return nil, err
	}
	var list []Snapshot
	for _, name := range names {
		content, err := r.object(name, 16<<20)
		if err != nil {
			return nil, err
		}
		s := Snapshot{Name: name}
		if err := json.Unmarshal(content, &s); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if s.Version < 1 || s.Version > 3 {
			return nil, fmt.Errorf("%s: a manifest of version %d", name, s.Version)
		}
		list = append(list, s)
	}
	sort.SliceStable(list, func(i, j int) bool { return list[i].Time.Before(list[j].Time) })
	return list, nil
}

// The types of nodes.
const (
	typeFile        = 1
	typeFolder      = 2
	typeSymlink     = 3
	typeBlockDevice = 4
	typeCharDevice  = 5
	typeFIFO        = 6
	typeSocket      = 7
)

type xattr struct{ name, value string }

// A node is an entry of a folder.
type node struct {
	kind                byte
	name                string
	mode, uid, gid, dev uint64
	ino, nlink          uint64
	mtime, ctime, btime moment
	xattrs              []xattr
	parts               []part
	list                *reference // of a file with many parts
	size                uint64     // of a file, and of all files below a folder
	root                []byte     // of a folder
	target              string
	device              uint64
}

// A part of a file is a hole or a blob.
type part struct {
	size uint64
	id   []byte // nil of a hole
}

type reference struct {
	level byte
	size  uint64
	id    []byte
}

// A moment is whole seconds since 1970 and nanoseconds.
type moment struct{ seconds, nanoseconds int64 }

func (m moment) time() time.Time { return time.Unix(m.seconds, m.nanoseconds) }

func (in *input) moment(base moment) moment {
	s, ns := in.zigzag(), in.uvarint()
	if ns >= 1e9 {
		in.fail("more nanoseconds than a second has")
	}
	return moment{base.seconds + s, int64(ns)}
}

// page reads the head of a page and the number of its entries.
func (r *Repository) page(id []byte, form byte, level int) (*input, int, byte, error) {
	content, err := r.blob(kindTree, id)
	if err != nil {
		return nil, 0, 0, err
	}
	in := &input{rest: content}
	version, is, at := in.byte(), in.byte(), in.byte()
	count := in.bytes(2)
	if in.err != nil || version != 1 || is != form || at > 8 || level >= 0 && int(at) != level {
		return nil, 0, 0, fmt.Errorf("page %x is none of version 1, of this form and level", id)
	}
	return in, int(binary.LittleEndian.Uint16(count)), at, nil
}

// folder calls visit with each node of the folder with the root page id, in the order of their names. level is -1 for
// a root page.
func (r *Repository) folder(id []byte, level int, visit func(node) error) error {
	in, n, at, err := r.page(id, 'F', level)
	if err != nil {
		return err
	}
	var before node
	for range n {
		if at > 0 {
			in.string() // the first name of the page below
			child := in.bytes(32)
			if in.err != nil {
				return in.err
			}
			if err := r.folder(child, int(at)-1, visit); err != nil {
				return err
			}
			continue
		}
		before = in.node(before)
		if in.err != nil {
			return fmt.Errorf("page %x: %w", id, in.err)
		}
		if err := visit(before); err != nil {
			return err
		}
	}
	return in.end()
}

func (in *input) node(before node) node {
	n := node{kind: in.byte(), nlink: 1}
	mask := in.uvarint()
	n.name = in.string()
	if n.name == "" || n.name == "." || n.name == ".." || strings.ContainsAny(n.name, "/\x00") {
		in.fail("a name that no file can have")
	}
	n.mode, n.uid, n.gid, n.dev = before.mode, before.uid, before.gid, before.dev
	if mask&1 != 0 {
		n.mode = in.uvarint()
	}
	if mask&2 != 0 {
		n.uid, n.gid = in.uvarint(), in.uvarint()
	}
	if mask&4 != 0 {
		n.dev = in.uvarint()
	}
	n.ino = before.ino + uint64(in.zigzag())
	if mask&8 != 0 {
		n.nlink = in.uvarint()
	}
	n.mtime = in.moment(before.mtime)
	n.ctime = n.mtime
	if mask&16 != 0 {
		n.ctime = in.moment(n.mtime)
	}
	if mask&32 != 0 {
		n.btime = in.moment(n.ctime)
	}
	if mask&64 != 0 {
		n.xattrs = make([]xattr, in.count())
		for i := range n.xattrs {
			n.xattrs[i] = xattr{in.string(), in.string()}
		}
	}
	if mask&128 != 0 {
		in.byte()
	}
	in.payload(&n, mask&256 != 0)
	return n
}

func (in *input) payload(n *node, list bool) {
	switch n.kind {
	case typeFile:
		if list {
			n.list = &reference{level: in.byte(), size: in.uvarint(), id: in.bytes(32)}
			n.size = n.list.size
			return
		}
		n.parts = make([]part, in.count())
		for i := range n.parts {
			n.parts[i] = in.part()
			n.size += n.parts[i].size
		}
	case typeFolder:
		n.size, n.root = in.uvarint(), in.bytes(32)
	case typeSymlink:
		n.target = in.string()
	case typeBlockDevice, typeCharDevice:
		n.device = in.uvarint()
	case typeFIFO, typeSocket:
	default:
		in.fail("an unknown type of node")
	}
}

func (in *input) part() part {
	v := in.uvarint()
	if v&1 != 0 {
		return part{size: v >> 1}
	}
	return part{size: v >> 1, id: in.bytes(32)}
}

// content calls write with each part of a file, in order.
func (r *Repository) content(n node, write func(part) error) error {
	if n.list != nil {
		return r.contentList(n.list.id, int(n.list.level), n.list.size, write)
	}
	for _, p := range n.parts {
		if err := write(p); err != nil {
			return err
		}
	}
	return nil
}

func (r *Repository) contentList(id []byte, level int, size uint64, write func(part) error) error {
	in, n, at, err := r.page(id, 'L', level)
	if err != nil {
		return err
	}
	for range n {
		if at == 0 {
			p := in.part()
			if in.err != nil {
				return in.err
			}
			size -= p.size
			if err := write(p); err != nil {
				return err
			}
			continue
		}
		below, child := in.uvarint(), in.bytes(32)
		if in.err != nil {
			return in.err
		}
		size -= below
		if err := r.contentList(child, int(at)-1, below, write); err != nil {
			return err
		}
	}
	if size != 0 {
		return errors.New("a list of parts that has not the size it should have")
	}
	return in.end()
}
