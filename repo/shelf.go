package repo

import (
	"context"
	"sync"

	"github.com/whole-tale/wtsnap/index"
)

// openPacks is how many packs of data fill at a time. A frame goes into the fullest pack that has room
// for it: the packs end up full almost to the byte, so that padding them costs little. It also spreads
// neighbouring chunks over several packs, whose sizes then say less about chunks (docs/security.md).
const openPacks = 3

// nearPacks is the same in a folder of this machine, where bytes are cheaper than the memory that a pack takes.
const nearPacks = 2

// firstPack is how full the first pack of a session is that goes up early where much is to come.
const firstPack = 4 << 20

// shelf holds the packs of one kind that are filling. Its methods may be called concurrently.
type shelf struct {
	s    *Session
	kind index.Kind
	max  int

	mu    sync.Mutex
	packs []*packBuilder
	// early says how full the next packs are that go up as soon as they are, before others fill beside them; packBytes
	// is as full as can be.
	early []int
}

// add puts a sealed frame into a pack, shipping one where none has room. A pack is taken off the shelf
// only with an upload slot in hand, so that who holds all slots knows that nothing is between the two.
func (h *shelf) add(ctx context.Context, f index.Frame, sealed []byte) error {
	if h.place(f, sealed, false) {
		return nil
	}
	if err := h.s.slots.acquire(ctx); err != nil {
		return err
	}
	h.place(f, sealed, true)
	return nil
}

// place puts a sealed frame into the fullest pack that has room for it, or into a new one. If that would
// be one too many, or it is time for an early pack, it reports false; with an upload slot it ships the
// fullest pack instead.
func (h *shelf) place(f index.Frame, sealed []byte, slot bool) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	var best *packBuilder
	fullest := -1
	for i, p := range h.packs {
		if fullest < 0 || p.room() < h.packs[fullest].room() {
			fullest = i
		}
		if p.room() >= frameRoom(&f, len(sealed)) && (best == nil || p.room() < best.room()) {
			best = p
		}
	}
	early := len(h.early) > 0 && len(h.packs) == 1 && (best == nil || best.planned() >= int64(h.early[0]))
	if early {
		best = nil
	}
	switch {
	case best != nil && slot:
		defer h.s.slots.release() // another writer made room meanwhile
	case best != nil:
	case len(h.packs) < h.max && !early:
		best = h.s.newPack(h.kind)
		h.packs = append(h.packs, best)
		if slot {
			defer h.s.slots.release()
		}
	case !slot:
		return false
	default:
		h.s.start(h.packs[fullest])
		h.early = h.early[min(1, len(h.early)):]
		best = h.s.newPack(h.kind)
		h.packs[fullest] = best
	}
	best.addSealed(f, sealed)
	h.s.stats.planned.Add(int64(frameRoom(&f, len(sealed))))
	return true
}

// take empties the shelf. What fits together is together in one pack.
func (h *shelf) take() []*packBuilder {
	h.mu.Lock()
	defer h.mu.Unlock()
	packs := h.packs
	h.packs = nil
	var out []*packBuilder
	for _, p := range packs {
		if n := len(out); n > 0 && out[n-1].room() >= packBytes-p.room() {
			out[n-1].absorb(p)
			h.s.buffers.push(p.buf)
			continue
		}
		out = append(out, p)
	}
	return out
}
