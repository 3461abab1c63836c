package repo

import (
	"context"
	"slices"
	"sync"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/index"
)

const (
	// patchHeld bounds the sealed patches that a batch holds for units to come, in bytes.
	patchHeld = 32 << 20
	// Ranges of patches that are fetched by one request, in bytes: as many as patchHeld has room for one of each pack.
	minPatchRange, maxPatchRange = 128 << 10, 1 << 20
	// patchGap is how many bytes between them are fetched to save a request.
	patchGap = 16 << 10
)

// patchReads fetches what several units of a batch need. That is patches: what one night changed lies in few packs, in small
// frames, of which each unit needs a few; neighbours are fetched together, and wait for the units that need them. And it is
// the frames of whole blobs that deltas of another unit rest on, too: whoever needs one first fetches it for all.
type patchReads struct {
	b     *batch
	limit uint32 // bytes of a range

	mu     sync.Mutex
	needed map[index.FrameRef]*patchNeed
	queue  []index.FrameRef // of those that are held, in the order in which they were fetched
	held   int
}

// patchNeed is a frame that units are going to ask for.
type patchNeed struct {
	frame  index.FrameRef
	pack   index.PackRef
	offset uint32
	length uint32
	patch  bool
	by     []int // the units, while they are counted
	units  int   // that have not asked yet
	fetch  *patchFetch
	sealed []byte
}

// patchFetch is a request on its way.
type patchFetch struct {
	done chan struct{}
	err  error
}

// newPatchReads finds out which units need which frames: all those that are patches, and of the others those that more than
// one unit needs.
func newPatchReads(b *batch, wants []want) *patchReads {
	p := &patchReads{b: b, needed: map[index.FrameRef]*patchNeed{}}
	seen := map[index.BlobRef]int{} // by the last unit, from 1
	unit := 0
	var visit func(loc index.Location, depth int)
	visit = func(loc index.Location, depth int) {
		if depth > maxDepth || seen[loc.Ordinal] == unit {
			return
		}
		seen[loc.Ordinal] = unit
		n := p.needed[loc.Frame]
		if n == nil {
			n = &patchNeed{frame: loc.Frame, pack: loc.Pack, offset: loc.Offset, length: loc.Length, patch: loc.Encoding == chunk.Patched}
			p.needed[loc.Frame] = n
		}
		n.neededBy(unit)
		for _, key := range loc.Bases {
			if base, ok := b.x.Lookup(key); ok {
				visit(base, depth+1)
			}
		}
	}
	b.units(wants, func(part []want) {
		unit++
		for _, w := range part {
			if w.blob != w.root {
				_, loc := b.x.At(w.blob)
				visit(loc, 0)
			}
		}
	})
	if len(p.needed) > 0 {
		p.countWhole(wants)
	}
	p.trim()
	return p
}

// countWhole counts the units that want whole blobs for what they are.
func (p *patchReads) countWhole(wants []want) {
	unit := 0
	p.b.units(wants, func(part []want) {
		unit++
		for _, w := range part {
			if w.blob != w.root {
				continue
			}
			if _, loc := p.b.x.At(w.blob); p.needed[loc.Frame] != nil {
				p.needed[loc.Frame].neededBy(unit)
			}
		}
	})
}

// trim forgets the frames that one unit alone needs, but for patches.
func (p *patchReads) trim() {
	packs := map[index.PackRef]bool{}
	for ref, n := range p.needed {
		switch n.units = len(n.by); {
		case n.patch:
			packs[n.pack] = true
		case n.units < 2:
			delete(p.needed, ref)
		}
		n.by = nil
	}
	p.limit = uint32(min(max(patchHeld/max(len(packs), 1), minPatchRange), maxPatchRange))
}

func (n *patchNeed) neededBy(unit int) {
	if !slices.Contains(n.by, unit) {
		n.by = append(n.by, unit)
	}
}

// claim reports whether a unit is to fetch a frame that is no patch itself. If others need it too, they wait until it is
// delivered.
func (p *patchReads) claim(f *unitFrame, going *patchFetch) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := p.needed[f.ref]
	if n == nil {
		return true
	}
	if n.sealed != nil || n.fetch != nil {
		return false
	}
	n.fetch = going
	return true
}

// deliver says that a unit has fetched the frames that it claimed, or tried to.
func (p *patchReads) deliver(frames []*unitFrame, going *patchFetch) {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer close(going.done)
	for _, f := range frames {
		n := p.needed[f.ref]
		if n == nil || n.fetch != going {
			continue
		}
		n.fetch = nil
		if n.units--; n.units > 0 && f.sealed != nil {
			p.hold(n, slices.Clone(f.sealed))
		}
	}
	p.evict()
}

// hold keeps a frame for the units that still need it. p.mu is held.
func (p *patchReads) hold(n *patchNeed, sealed []byte) {
	n.sealed = sealed
	p.queue = append(p.queue, n.frame)
	p.held += len(sealed)
}

// evict makes room: what it drops is fetched again if need be. p.mu is held.
func (p *patchReads) evict() {
	for p.held > patchHeld && len(p.queue) > 0 {
		p.drop(p.needed[p.queue[0]])
		p.queue = p.queue[1:]
	}
}

// get returns a sealed frame to a unit that needs it. Each unit asks once.
func (p *patchReads) get(ctx context.Context, f *unitFrame) ([]byte, error) {
	for {
		p.mu.Lock()
		n := p.needed[f.ref]
		if n == nil { // a session of this process added a copy since
			n = &patchNeed{frame: f.ref, pack: f.pack, offset: f.Offset, length: f.Length, units: 1}
			p.needed[f.ref] = n
		}
		if n.sealed != nil {
			sealed := n.sealed
			if n.units--; n.units <= 0 {
				p.drop(n)
			}
			p.mu.Unlock()
			return sealed, nil
		}
		going := n.fetch
		if going == nil {
			break
		}
		p.mu.Unlock()
		select {
		case <-going.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if going.err != nil {
			return nil, going.err
		}
	}
	wanted := p.needed[f.ref]
	list, length := p.around(wanted)
	going := &patchFetch{done: make(chan struct{})}
	for _, n := range list {
		n.fetch = going
	}
	p.mu.Unlock()

	start := list[0].offset
	data, err := p.b.get(ctx, f.kind, f.packID, start, int(length), nil)
	p.mu.Lock()
	defer p.mu.Unlock()
	defer close(going.done)
	going.err = err
	for _, n := range list {
		n.fetch = nil
		if err == nil {
			p.hold(n, data[n.offset-start:][:n.length:n.length])
		}
	}
	if err != nil {
		return nil, err
	}
	sealed := wanted.sealed
	if wanted.units--; wanted.units <= 0 {
		p.drop(wanted)
	}
	p.evict()
	return sealed, nil
}

func (p *patchReads) drop(n *patchNeed) {
	if n.sealed != nil {
		p.held -= int(n.length)
		n.sealed = nil
	}
}

// around returns a frame and those behind it in its pack that are needed too, as far as one request goes.
func (p *patchReads) around(first *patchNeed) (list []*patchNeed, length uint32) {
	list, length = []*patchNeed{first}, first.length
	for ref := first.frame + 1; ; ref++ {
		n := p.needed[ref]
		if n == nil || n.units <= 0 || n.sealed != nil || n.fetch != nil || n.pack != first.pack || n.offset > first.offset+length+patchGap ||
			n.offset+n.length-first.offset > p.limit {
			return list, length
		}
		list, length = append(list, n), n.offset+n.length-first.offset
	}
}
