package repo

import "github.com/whole-tale/wtsnap/chunk"

// unitScratch holds the buffers of one readUnit.
type unitScratch struct {
	raw   []byte
	flat  []byte
	frame frameScratch
	ropes []*chunk.Rope // free ones, of texts
	texts chunk.Texts
	arena arena

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
	s.texts.Reset()
}

// arena hands out memory that is taken back as a whole.
type arena struct {
	blocks [][]byte
	used   int // blocks; the last one of them in part
	free   []byte
}

const arenaBlock = 4 << 20

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
