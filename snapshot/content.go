package snapshot

import (
	"context"
	"encoding/binary"
	"fmt"
	"iter"
	"math"
	"slices"

	"github.com/whole-tale/wtsnap/chunk"
)

// A ListRef refers from a page of a content list to one of the level below.
type ListRef struct {
	Size int64 // bytes of content there
	ID   chunk.ID
}

// A ContentPage is one decoded page of a content list: parts at level 0, else references.
type ContentPage struct {
	Level uint8
	Parts []Part
	Refs  []ListRef
}

// DecodeContentPage decodes a page of a content list. It keeps nothing of data.
func DecodeContentPage(data []byte) (*ContentPage, error) {
	d := decoder{data: data}
	level, count := d.header(pageList, listPageMax)
	page := &ContentPage{Level: level}
	if count == 0 {
		d.fail("an empty content list")
	}
	size := int64(0)
	for i := 0; i < count && d.err == nil; i++ {
		if level == 0 {
			p := d.part()
			size += p.Len()
			page.Parts = append(page.Parts, p)
		} else {
			r := ListRef{Size: int64(d.bounded(math.MaxInt64, "a size")), ID: d.id()}
			d.must(r.Size > 0)
			size += r.Size
			page.Refs = append(page.Refs, r)
		}
		if size < 0 {
			d.fail("the sizes overflow")
		}
	}
	if err := d.end(); err != nil {
		return nil, fmt.Errorf("decoding a page of a content list: %w", err)
	}
	return page, nil
}

// size returns the bytes of content that the page covers.
func (p *ContentPage) size() (size int64) {
	for _, part := range p.Parts {
		size += part.Len()
	}
	for _, ref := range p.Refs {
		size += ref.Size
	}
	return size
}

// A ListBuilder gathers a file's parts: the first MaxInline in memory, more of them in pages like a FolderBuilder's. It
// is for one goroutine.
type ListBuilder struct {
	put    PutFunc
	inline []Part
	pages  []*openPage
	size   int64
	err    error
}

// NewListBuilder returns a builder for the content of one file.
func NewListBuilder(put PutFunc) *ListBuilder { return &ListBuilder{put: put} }

// Add appends a part; of length 0, it is left out. Neighbouring holes are joined as long as they are inline.
func (b *ListBuilder) Add(p Part) error {
	if b.err != nil {
		return b.err
	}
	if p.Len() == 0 {
		return nil
	}
	if err := checkPart(p); err != nil {
		return err
	}
	if b.size += p.Len(); b.size < 0 {
		b.err = fmt.Errorf("a file of more than 2^63 bytes")
		return b.err
	}
	if len(b.pages) == 0 {
		if n := len(b.inline); n > 0 && p.IsHole() && b.inline[n-1].IsHole() {
			b.inline[n-1].HoleSize += p.HoleSize
			return nil
		}
		if len(b.inline) < MaxInline {
			b.inline = append(b.inline, p)
			return nil
		}
		for _, p := range b.inline {
			if err := b.addPart(p); err != nil {
				return err
			}
		}
		b.inline = nil
	}
	return b.addPart(p)
}

func (b *ListBuilder) addPart(part Part) error {
	p, err := b.page(0)
	if err != nil {
		return err
	}
	p.buf = appendPart(p.buf, part)
	added(p, part.ID, part.Len())
	return nil
}

func added(p *openPage, id chunk.ID, size int64) {
	p.count++
	p.size += size
	p.done = p.count >= listPageMax || p.count >= listPageMin && id[0]&listPageMask == 0
}

func (b *ListBuilder) page(level int) (*openPage, error) {
	if level == len(b.pages) {
		if level > maxLevel {
			b.err = fmt.Errorf("a file of more than %d levels of parts", maxLevel)
			return nil, b.err
		}
		p := &openPage{}
		p.reset(pageList, level)
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

func (b *ListBuilder) flush(level int) error {
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
	up.buf = appendRef(up.buf, ListRef{p.size, id})
	added(up, id, p.size)
	p.reset(pageList, level)
	return nil
}

func appendRef(dst []byte, r ListRef) []byte {
	return append(binary.AppendUvarint(dst, uint64(r.Size)), r.ID[:]...)
}

// Clone returns a builder that goes on from here on its own.
func (b *ListBuilder) Clone() *ListBuilder {
	c := *b
	c.inline = slices.Clone(b.inline)
	c.pages = make([]*openPage, len(b.pages))
	for i, p := range b.pages {
		c.pages[i] = p.clone()
	}
	return &c
}

// Finish stores what is left and sets n's content and size. The builder cannot be used any more.
func (b *ListBuilder) Finish(n *Node) error {
	if b.err != nil {
		return b.err
	}
	n.Size, n.Content, n.ContentRoot, n.ContentLevel = b.size, nil, chunk.ID{}, 0
	if len(b.pages) == 0 {
		n.Content = b.inline
		return nil
	}
	for level := 0; ; level++ {
		if level == len(b.pages)-1 {
			id, err := b.put(b.pages[level].bytes())
			n.ContentRoot, n.ContentLevel = id, uint8(level)
			return err
		}
		if err := b.flush(level); err != nil {
			return err
		}
	}
}

// A PlacedPart is a part and where in the file it begins.
type PlacedPart struct {
	Offset int64
	Part
}

// Parts iterates over a file's parts from the one that holds the byte at offset from on (0: all of them). After an error
// it ends. Pages before from are not read.
func (n *Node) Parts(ctx context.Context, load LoadFunc, from int64) iter.Seq2[PlacedPart, error] {
	return func(yield func(PlacedPart, error) bool) {
		if n.ContentRoot.IsZero() {
			off := int64(0)
			for _, p := range n.Content {
				if off+p.Len() > from && !yield(PlacedPart{off, p}, nil) {
					return
				}
				off += p.Len()
			}
			return
		}
		w := listWalk{ctx: ctx, load: load, from: from, yield: yield}
		w.walk(n.ContentRoot, n.ContentLevel, 0, n.Size)
	}
}

type listWalk struct {
	ctx   context.Context
	load  LoadFunc
	from  int64
	yield func(PlacedPart, error) bool
}

// walk reports whether to go on.
func (w *listWalk) walk(id chunk.ID, level uint8, off, size int64) bool {
	page, err := loadContentPage(w.ctx, w.load, id, level, size)
	if err != nil {
		w.yield(PlacedPart{}, err)
		return false
	}
	for _, p := range page.Parts {
		if off+p.Len() > w.from && !w.yield(PlacedPart{off, p}, nil) {
			return false
		}
		off += p.Len()
	}
	for _, ref := range page.Refs {
		if off+ref.Size > w.from && !w.walk(ref.ID, level-1, off, ref.Size) {
			return false
		}
		off += ref.Size
	}
	return true
}

func loadContentPage(ctx context.Context, load LoadFunc, id chunk.ID, level uint8, size int64) (*ContentPage, error) {
	data, err := load(ctx, id)
	if err != nil {
		return nil, err
	}
	page, err := DecodeContentPage(data)
	switch {
	case err != nil:
		return nil, fmt.Errorf("page %s: %w", id.Short(), err)
	case page.Level != level:
		return nil, fmt.Errorf("page %s: level %d where %d belongs", id.Short(), page.Level, level)
	case page.size() != size:
		return nil, fmt.Errorf("page %s: %d bytes of content where %d belong", id.Short(), page.size(), size)
	}
	return page, nil
}
