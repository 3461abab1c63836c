package repo

import (
	"slices"

	"github.com/whole-tale/wtsnap/chunk"
)

// unitScratch holds the buffers of one readUnit.
type unitScratch struct {
	raw    []byte
	flat   []byte
	frame  frameScratch
	ropes  chunk.Ropes
	links  []chunk.Link
	arena  arena   // of patches
	plains buffers // of frames that are bases

	patches []*chunk.Patch // of this unit, and behind them those of earlier ones
	opened  int            // those of this unit
}

// newPatch returns a patch whose memory is taken back after the unit.
func (s *unitScratch) newPatch() *chunk.Patch {
	if s.opened == len(s.patches) {
		s.patches = append(s.patches, &chunk.Patch{})
	}
	s.opened++
	return s.patches[s.opened-1]
}

// reset takes the memory of the last unit back.
func (s *unitScratch) reset() {
	s.opened = 0
	s.arena.reset()
	s.plains.reset()
	s.ropes.Reset()
}

// arena hands out memory that is taken back as a whole.
type arena struct {
	blocks [][]byte
	used   int // blocks; the last one of them in part
	free   []byte
}

const arenaBlock = 1 << 20

// alloc returns an empty slice with a capacity of n bytes.
func (a *arena) alloc(n int) []byte {
	for len(a.free) < n {
		if a.used == len(a.blocks) {
			a.blocks = append(a.blocks, make([]byte, max(n, arenaBlock)))
		}
		a.free = a.blocks[a.used]
		a.used++
	}
	p := a.free[:0:n]
	a.free = a.free[n:]
	return p
}

func (a *arena) reset() { a.used, a.free = 0, nil }

// buffers hands out memory that comes back piece by piece, or as a whole.
type buffers struct{ free, taken [][]byte }

// keptBuffers bounds the free memory that is kept for the next unit, in bytes.
const keptBuffers = 4 << 20

// get returns an empty slice with a capacity of n bytes at least.
func (b *buffers) get(n int) []byte {
	best := -1
	for i, p := range b.free {
		if cap(p) >= n && cap(p) <= 2*n+keptBuffers/8 && (best < 0 || cap(p) < cap(b.free[best])) {
			best = i
		}
	}
	var p []byte
	if best >= 0 {
		p = b.free[best]
		b.free = slices.Delete(b.free, best, best+1)
	} else {
		p = make([]byte, 0, n+n/8)
	}
	b.taken = append(b.taken, p)
	return p
}

// put takes back what begins where p does.
func (b *buffers) put(p []byte) {
	i := slices.IndexFunc(b.taken, func(q []byte) bool { return &q[:1][0] == &p[:1][0] })
	if i >= 0 {
		b.free = append(b.free, b.taken[i])
		b.taken = slices.Delete(b.taken, i, i+1)
	}
}

// reset takes everything back, and lets go of what is more than keptBuffers.
func (b *buffers) reset() {
	b.free = append(b.free, b.taken...)
	b.taken = slices.Delete(b.taken, 0, len(b.taken))
	size := 0
	for _, p := range b.free {
		size += cap(p)
	}
	for ; size > keptBuffers; b.free = slices.Delete(b.free, 0, 1) {
		size -= cap(b.free[0])
	}
}
