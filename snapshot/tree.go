package snapshot

import (
	"context"
	"encoding/binary"
	"fmt"
	"io/fs"
	"iter"
	"sort"

	"github.com/whole-tale/wtsnap/chunk"
)

// A tree page starts with the version, what it is a page of, its level, and the count of its entries (16 bits, little
// endian). Pages of level 0 hold nodes or parts, pages of level n > 0 refer to pages of level n-1.
//
// Where a page ends depends on its entries, so that one entry more or less changes one page of each level: after an
// entry whose hash ends in zeros, once there are enough entries, or at a limit of entries or bytes. Readers must not
// rely on where.
const (
	pageVersion = 1
	pageFolder  = 'F'
	pageList    = 'L'
	pageHeader  = 5
	maxLevel    = 8

	folderPageMin   = 128
	folderPageMask  = 127
	folderPageMax   = 1024
	folderPageBytes = 256 << 10

	listPageMin  = 32
	listPageMask = 31
	listPageMax  = 256
)

// PutFunc stores a tree page and returns its id. It must not keep data.
type PutFunc func(data []byte) (chunk.ID, error)

// LoadFunc returns the tree page with the given id, verified. The caller does not change it.
type LoadFunc func(ctx context.Context, id chunk.ID) ([]byte, error)

// A PageRef refers from a folder page to one of the level below.
type PageRef struct {
	First string // the name of the first node there
	ID    chunk.ID
}

// A FolderPage is one decoded page of a folder: nodes at level 0, else references.
type FolderPage struct {
	Level uint8
	Nodes []Node // ordered by name
	Refs  []PageRef
}

// DecodeFolderPage decodes a page of a folder. It keeps nothing of data.
func DecodeFolderPage(data []byte) (*FolderPage, error) {
	d := decoder{data: data}
	level, count := d.header(pageFolder, folderPageMax)
	page := &FolderPage{Level: level}
	if level == 0 {
		if count*nodeLeast <= d.rest() {
			page.Nodes = make([]Node, 0, count)
			d.parts = make([]Part, 0, count)
		} else {
			d.fail("%d nodes in %d bytes", count, d.rest())
		}
		var b before
		for i := 0; i < count && d.err == nil; i++ {
			page.Nodes = append(page.Nodes, Node{})
			n := &page.Nodes[i]
			d.node(n, &b)
			if i > 0 && n.Name <= page.Nodes[i-1].Name {
				d.fail("the names %q and %q are out of order", page.Nodes[i-1].Name, n.Name)
			}
		}
	} else {
		for i := 0; i < count && d.err == nil; i++ {
			r := PageRef{First: d.string(maxName, "a name's length"), ID: d.id()}
			if r.First == "" || i > 0 && r.First <= page.Refs[i-1].First {
				d.fail("the pages' first names are out of order")
			}
			page.Refs = append(page.Refs, r)
		}
	}
	if err := d.end(); err != nil {
		return nil, fmt.Errorf("decoding a page of a folder: %w", err)
	}
	return page, nil
}

// nodeLeast is a lower bound of an encoded node's bytes: type, mask, name, ino, mtime.
const nodeLeast = 1 + 1 + 2 + 1 + 2

func (d *decoder) header(kind byte, most int) (level uint8, count int) {
	if len(d.data) < pageHeader {
		d.err = errTruncated
		return 0, 0
	}
	level, count = d.data[2], int(binary.LittleEndian.Uint16(d.data[3:]))
	d.pos = pageHeader
	switch {
	case d.data[0] != pageVersion:
		d.fail("it has version %d, this program reads %d", d.data[0], pageVersion)
	case d.data[1] != kind:
		d.fail("it is a page of another kind (%q)", d.data[1])
	case level > maxLevel:
		d.fail("level %d", level)
	case count > most:
		d.fail("%d entries", count)
	case count == 0 && level > 0:
		d.fail("an empty page of level %d", level)
	}
	return level, count
}

func (d *decoder) end() error {
	if d.err == nil && d.rest() > 0 {
		d.fail("%d bytes after its end", d.rest())
	}
	return d.err
}

// openPage is a page that a builder fills. It is stored when the next entry arrives, so that a page that turns out to be
// the only one is the root itself.
type openPage struct {
	buf   []byte
	count int
	done  bool // the next entry begins another page
	b     before
	first string // folders
	size  int64  // lists
}

func (p *openPage) reset(kind byte, level int) {
	p.buf = append(p.buf[:0], pageVersion, kind, byte(level), 0, 0)
	p.count, p.done, p.b, p.first, p.size = 0, false, before{}, "", 0
}

func (p *openPage) bytes() []byte {
	binary.LittleEndian.PutUint16(p.buf[3:], uint16(p.count))
	return p.buf
}

func (p *openPage) clone() *openPage {
	c := *p
	c.buf = append([]byte(nil), p.buf...)
	return &c
}

// A FolderBuilder writes a folder's pages. Nodes are added in the order of their names' bytes; pages are stored as they
// fill up, so that memory stays at one page a level. It is for one goroutine.
type FolderBuilder struct {
	h     *chunk.Hasher
	put   PutFunc
	pages []*openPage // by level
	last  string
	err   error
}

// NewFolderBuilder returns a builder for one folder. h decides where pages end: it is the repository's, so that page
// sizes say nothing about names.
func NewFolderBuilder(h *chunk.Hasher, put PutFunc) *FolderBuilder {
	return &FolderBuilder{h: h, put: put}
}

// Add appends a node. An error of the node itself (ErrNodeTooLarge and others) leaves the builder as it was; an error
// of put is final.
func (b *FolderBuilder) Add(n *Node) error {
	if b.err != nil {
		return b.err
	}
	if n.Name <= b.last {
		return fmt.Errorf("adding %q to a folder after %q: out of order", n.Name, b.last)
	}
	p, err := b.page(0)
	if err != nil {
		return err
	}
	buf, err := appendNode(p.buf, n, &p.b)
	if err != nil {
		return fmt.Errorf("storing %q: %w", n.Name, err)
	}
	p.buf = buf
	b.last = n.Name
	b.added(p, n.Name)
	return nil
}

// page returns the level's page, with room for an entry.
func (b *FolderBuilder) page(level int) (*openPage, error) {
	if level == len(b.pages) {
		if level > maxLevel {
			b.err = fmt.Errorf("a folder of more than %d levels of pages", maxLevel)
			return nil, b.err
		}
		p := &openPage{}
		p.reset(pageFolder, level)
		b.pages = append(b.pages, p)
	}
	p := b.pages[level]
	if p.done {
		if err := b.flush(level); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func (b *FolderBuilder) added(p *openPage, name string) {
	if p.count == 0 {
		p.first = name
	}
	p.count++
	p.done = p.count >= folderPageMax || len(p.buf) >= folderPageBytes ||
		p.count >= folderPageMin && b.h.Sum([]byte(name))[0]&folderPageMask == 0
}

// flush stores the level's page and refers to it from the level above.
func (b *FolderBuilder) flush(level int) error {
	p := b.pages[level]
	id, err := b.put(p.bytes())
	if err != nil {
		b.err = err
		return err
	}
	up, err := b.page(level + 1)
	if err != nil {
		return err
	}
	up.buf = appendString(up.buf, p.first)
	up.buf = append(up.buf, id[:]...)
	b.added(up, p.first)
	p.reset(pageFolder, level)
	return nil
}

// Finish stores what is left and returns the id of the root page. The builder cannot be used any more.
func (b *FolderBuilder) Finish() (chunk.ID, error) {
	if b.err != nil {
		return chunk.ID{}, b.err
	}
	if len(b.pages) == 0 {
		if _, err := b.page(0); err != nil {
			return chunk.ID{}, err
		}
	}
	for level := 0; ; level++ {
		if level == len(b.pages)-1 {
			return b.put(b.pages[level].bytes())
		}
		if err := b.flush(level); err != nil {
			return chunk.ID{}, err
		}
	}
}

// Clone returns a builder that goes on from here on its own: what a checkpoint finishes while the run goes on.
func (b *FolderBuilder) Clone() *FolderBuilder {
	c := *b
	c.pages = make([]*openPage, len(b.pages))
	for i, p := range b.pages {
		c.pages[i] = p.clone()
	}
	return &c
}

// loadFolderPage loads and decodes a page. level < 0: of any level.
func loadFolderPage(ctx context.Context, load LoadFunc, id chunk.ID, level int, first string) (*FolderPage, error) {
	data, err := load(ctx, id)
	if err != nil {
		return nil, err
	}
	p, err := DecodeFolderPage(data)
	switch {
	case err != nil:
		return nil, fmt.Errorf("page %s: %w", id.Short(), err)
	case level >= 0 && int(p.Level) != level:
		return nil, fmt.Errorf("page %s: level %d where %d belongs", id.Short(), p.Level, level)
	case level > 0 && p.Refs[0].First != first || level == 0 && (len(p.Nodes) == 0 || p.Nodes[0].Name != first):
		return nil, fmt.Errorf("page %s: does not start with %q, as the page above says", id.Short(), first)
	}
	return p, nil
}

// A FolderCursor reads a folder's nodes in order, one page of each level in memory.
type FolderCursor struct {
	load  LoadFunc
	root  chunk.ID
	stack []cursorPage
	begun bool
	last  string
	err   error

	onLeaf func(first string, id chunk.ID) // told of each page of nodes; may be nil
}

type cursorPage struct {
	page *FolderPage
	next int
}

// NewFolderCursor returns a cursor before the first node of the folder with the given root page.
func NewFolderCursor(load LoadFunc, root chunk.ID) *FolderCursor {
	return &FolderCursor{load: load, root: root}
}

// Next returns the next node, or nil after the last one. An error is final. The node stays valid.
func (c *FolderCursor) Next(ctx context.Context) (*Node, error) {
	if c.err != nil {
		return nil, c.err
	}
	n, err := c.advance(ctx)
	if err != nil {
		c.err = err
		return nil, err
	}
	return n, nil
}

func (c *FolderCursor) advance(ctx context.Context) (*Node, error) {
	if !c.begun {
		c.begun = true
		p, err := loadFolderPage(ctx, c.load, c.root, -1, "")
		if err != nil {
			return nil, err
		}
		c.push(c.root, p)
	}
	for len(c.stack) > 0 {
		top := &c.stack[len(c.stack)-1]
		if top.page.Level == 0 {
			if top.next == len(top.page.Nodes) {
				c.stack = c.stack[:len(c.stack)-1]
				continue
			}
			n := &top.page.Nodes[top.next]
			top.next++
			if n.Name <= c.last {
				return nil, fmt.Errorf("pages are out of order: %q after %q", n.Name, c.last)
			}
			c.last = n.Name
			return n, nil
		}
		if top.next == len(top.page.Refs) {
			c.stack = c.stack[:len(c.stack)-1]
			continue
		}
		ref := top.page.Refs[top.next]
		top.next++
		p, err := loadFolderPage(ctx, c.load, ref.ID, int(top.page.Level)-1, ref.First)
		if err != nil {
			return nil, err
		}
		c.push(ref.ID, p)
	}
	return nil, nil
}

func (c *FolderCursor) push(id chunk.ID, p *FolderPage) {
	c.stack = append(c.stack, cursorPage{p, 0})
	if c.onLeaf != nil && len(p.Nodes) > 0 {
		c.onLeaf(p.Nodes[0].Name, id)
	}
}

// FolderNodes iterates over the nodes of the folder with the given root page, in order. After an error it ends.
func FolderNodes(ctx context.Context, load LoadFunc, root chunk.ID) iter.Seq2[*Node, error] {
	return func(yield func(*Node, error) bool) {
		c := NewFolderCursor(load, root)
		for {
			n, err := c.Next(ctx)
			if n == nil && err == nil || !yield(n, err) || err != nil {
				return
			}
		}
	}
}

// LookupNode returns the node called name of the folder with the given root page, reading one page a level. The error
// is fs.ErrNotExist where there is none.
func LookupNode(ctx context.Context, load LoadFunc, root chunk.ID, name string) (*Node, error) {
	return lookupNode(root, name, func(id chunk.ID, level int, first string) (*FolderPage, error) {
		return loadFolderPage(ctx, load, id, level, first)
	})
}

func lookupNode(root chunk.ID, name string, load func(id chunk.ID, level int, first string) (*FolderPage, error)) (*Node, error) {
	page, err := load(root, -1, "")
	for err == nil && page.Level > 0 {
		i := sort.Search(len(page.Refs), func(i int) bool { return page.Refs[i].First > name }) - 1
		if i < 0 {
			return nil, fs.ErrNotExist
		}
		ref := page.Refs[i]
		page, err = load(ref.ID, int(page.Level)-1, ref.First)
	}
	if err != nil {
		return nil, err
	}
	i := sort.Search(len(page.Nodes), func(i int) bool { return page.Nodes[i].Name >= name })
	if i == len(page.Nodes) || page.Nodes[i].Name != name {
		return nil, fs.ErrNotExist
	}
	return &page.Nodes[i], nil
}
