package snapshot

import (
	"cmp"
	"context"
	"slices"
	"sync"

	"github.com/whole-tale/wtsnap/chunk"
)

// An aligner tells which chunks of a file's old version lie where a chunk of its new version does: the bases of deltas.
//
// Both versions are cut by content, so a cut that is in both is at the same content, even if what lies between has
// grown. The aligner follows the new chunks through the old ones: a chunk that both have says exactly where it is; else
// the end of the new chunk is taken to be the old cut next to it, if one is near, so that small insertions do not add
// up. Where every chunk has changed a little, as in a dump of a database, that is a guess, and one wrong guess makes the
// next: what the deltas found in their bases corrects it, a few chunks later.
//
// It holds a window of the old version's parts. A nil aligner knows nothing.
type aligner struct {
	b      *backup
	old    partCursor
	window []PlacedPart
	at     map[chunk.ID]int64 // end of a part of the window
	met    map[chunk.ID]bool  // of the window, in the new version too
	lost   []chunk.ID         // behind the window, and not in the new version; some
	pos    int64              // in the old version, of what the next new chunk begins with
	off    int64              // the same place in the new version
	exact  int64              // in the new version: up to there a chunk that both have says where it is
	sure   bool               // a delta has told since

	ahead    int   // parts that are expected to be bases soon, of late
	expected int64 // up to where in the old version that was said

	mu    sync.Mutex
	found alignedAt // the last that a delta told, and that was not used yet
}

// alignedAt says that a place in the new version lies in an old part, so many bytes before its end.
type alignedAt struct {
	off  int64
	base chunk.ID
	rest int
	ok   bool
}

const (
	alignAhead = 256      // parts of the window after pos
	alignBack  = 32       // and before
	alignSnap  = 64 << 10 // bytes; less than half of the least distance of two cuts
	alignNear  = 16 << 10 // the same where deltas tell: many more bytes than one chunk mostly gains or loses
	alignBases = 4        // most chunks that are named for one
	alignLost  = 16       // most chunks that are remembered as not in the new version
)

func newAligner(b *backup, old *Node) *aligner {
	return &aligner{b: b, old: newPartCursor(b.load, old), at: map[chunk.ID]int64{}, met: map[chunk.ID]bool{}}
}

// fill moves the window along.
func (a *aligner) fill(ctx context.Context) {
	i := 0
	for i < len(a.window) && a.window[i].Offset+a.window[i].Len() <= a.pos {
		i++
	}
	if drop := i - alignBack; drop > alignBack {
		a.lost = a.appendLost(a.lost, a.window[:drop])
		a.lost = a.lost[max(len(a.lost)-alignLost, 0):]
		for _, p := range a.window[:drop] {
			delete(a.at, p.ID)
			delete(a.met, p.ID)
		}
		a.window, i = append(a.window[:0], a.window[drop:]...), i-drop
	}
	for len(a.window)-i < alignAhead {
		p, ok := a.old.next(ctx)
		if !ok {
			return
		}
		if p.Offset+p.Len() <= a.pos {
			i++
		}
		a.window = append(a.window, p)
		if !p.IsHole() {
			a.at[p.ID] = p.Offset + p.Len()
		}
	}
}

// bases returns the old chunks at the place of a new one of n bytes; behind the old version's end, its last chunk, since
// what is appended mostly resembles what was there.
func (a *aligner) bases(ctx context.Context, n int) (ids []chunk.ID) {
	if a == nil {
		return nil
	}
	a.fill(ctx)
	a.correct(ctx)
	slack := int64(min(n/16, 16<<10)) // an overlap that is not worth another chunk
	for _, p := range a.window {
		if p.Offset >= a.pos+int64(n)-slack || len(ids) == alignBases {
			break
		}
		if !p.IsHole() && p.Offset+p.Len() > a.pos+slack {
			ids = append(ids, p.ID)
		}
	}
	if n := len(a.window); n > 0 && len(ids) == 0 && !a.window[n-1].IsHole() && a.window[n-1].Offset < a.pos {
		ids = append(ids, a.window[n-1].ID)
	}
	return ids
}

// appendLost appends those of the parts that are not in the new version so far.
func (a *aligner) appendLost(ids []chunk.ID, parts []PlacedPart) []chunk.ID {
	for _, p := range parts {
		if !p.IsHole() && !a.met[p.ID] {
			ids = append(ids, p.ID)
		}
	}
	return ids
}

// gone returns old chunks that are not in the new version, the last ones of those that it has come past; where it has ended,
// of all that are near. What was moved from one place of the file to another was in one of them.
func (a *aligner) gone(ended bool) []chunk.ID {
	n := len(a.window)
	if !ended {
		n, _ = slices.BinarySearchFunc(a.window, a.pos, func(p PlacedPart, pos int64) int { return cmp.Compare(p.Offset+p.Len(), pos+1) })
	}
	ids := a.appendLost(slices.Clone(a.lost), a.window[:n])
	return ids[max(len(ids)-alignLost, 0):]
}

// tell says where the delta of a chunk that ends at off of the new version ended in its bases. It may be called by any
// goroutine.
func (a *aligner) tell(off int64, base chunk.ID, rest int, ok bool) {
	if a == nil || !ok {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if off > a.found.off {
		a.found = alignedAt{off, base, rest, true}
	}
}

// correct makes use of what was told.
func (a *aligner) correct(ctx context.Context) {
	a.mu.Lock()
	found := a.found
	a.found.ok = false
	a.mu.Unlock()
	end, ok := a.at[found.base]
	if !found.ok || !ok || found.off <= a.exact {
		return
	}
	a.sure = true
	if pos := end - int64(found.rest) + a.off - found.off; max(pos-a.pos, a.pos-pos) > alignNear {
		a.pos = pos
		a.fill(ctx)
	}
}

// placed says which chunk came.
func (a *aligner) placed(ctx context.Context, id chunk.ID, n int) {
	if a == nil {
		return
	}
	a.fill(ctx)
	a.off += int64(n)
	if end, ok := a.at[id]; ok {
		a.pos, a.exact, a.sure = end, a.off, false
		a.met[id] = true
		return
	}
	end := a.pos + int64(n)
	a.pos = end
	near := int64(alignSnap)
	if a.sure {
		near = alignNear
	}
	for _, p := range a.window {
		cut := p.Offset + p.Len()
		if d := max(cut-end, end-cut); d < near {
			a.pos, near = cut, d
		}
	}
}

// changed says that the chunk that came last is new: what is at its place in the old version is its base, and what comes
// next has probably changed as well, the further the more has.
func (a *aligner) changed(ctx context.Context) {
	a.fill(ctx)
	a.ahead = min(max(4*a.ahead, 4), alignAhead/2)
	i, _ := slices.BinarySearchFunc(a.window, a.pos, func(p PlacedPart, pos int64) int { return cmp.Compare(p.Offset+p.Len(), pos) })
	end := min(i+a.ahead, len(a.window))
	if half := i + a.ahead/2; half < end && a.window[half].Offset < a.expected {
		return // there is enough for a while
	}
	var ids []chunk.ID
	for _, p := range a.window[i:end] {
		if !p.IsHole() && p.Offset >= a.expected {
			ids = append(ids, p.ID)
		}
	}
	if end > i {
		a.expected = max(a.expected, a.window[end-1].Offset+1)
	}
	a.b.s.Expect(ids)
}

// known says that the chunk that came last is not new: the next one may not be either.
func (a *aligner) known() { a.ahead /= 2 }

// skip says that a hole came.
func (a *aligner) skip(n int64) {
	if a != nil {
		a.pos += n
		a.off += n
	}
}

// A partCursor reads the parts of a file one by one, one page of each level in memory.
type partCursor struct {
	load   LoadFunc
	inline []Part
	stack  []partPage
	root   *Node // not loaded yet
	off    int64
}

type partPage struct {
	page *ContentPage
	next int
}

func newPartCursor(load LoadFunc, n *Node) partCursor {
	c := partCursor{load: load, inline: n.Content}
	if !n.ContentRoot.IsZero() {
		c.root = n
	}
	return c
}

// next returns false after the last part, and where a page cannot be read.
func (c *partCursor) next(ctx context.Context) (PlacedPart, bool) {
	if len(c.inline) > 0 {
		p := c.inline[0]
		c.inline = c.inline[1:]
		return c.place(p), true
	}
	if c.root != nil {
		n := c.root
		c.root = nil
		if !c.push(ctx, n.ContentRoot, n.ContentLevel, n.Size) {
			return PlacedPart{}, false
		}
	}
	for len(c.stack) > 0 {
		top := &c.stack[len(c.stack)-1]
		i := top.next
		top.next++
		switch {
		case i < len(top.page.Parts):
			return c.place(top.page.Parts[i]), true
		case i < len(top.page.Refs):
			if ref := top.page.Refs[i]; !c.push(ctx, ref.ID, top.page.Level-1, ref.Size) {
				return PlacedPart{}, false
			}
		default:
			c.stack = c.stack[:len(c.stack)-1]
		}
	}
	return PlacedPart{}, false
}

func (c *partCursor) place(p Part) PlacedPart {
	placed := PlacedPart{c.off, p}
	c.off += p.Len()
	return placed
}

func (c *partCursor) push(ctx context.Context, id chunk.ID, level uint8, size int64) bool {
	page, err := loadContentPage(ctx, c.load, id, level, size)
	if err != nil {
		c.stack = nil
		return false
	}
	c.stack = append(c.stack, partPage{page, 0})
	return true
}
