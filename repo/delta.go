package repo

import (
	"bytes"
	"context"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/index"
)

const (
	// minDelta is the size of the smallest blob, in bytes, that is worth a frame of its own as a delta.
	minDelta = 1 << 10
	// frameCost is what a frame of its own costs over a share of one, in bytes: nonce, tag, and its line
	// with the key of a base in the pack's directory and in the index.
	frameCost = Overhead + 2*(24+16)
	// maxBase bounds the plaintext of a delta's bases, in bytes.
	maxBase = 4 << 20
	// deltaTries is how many deltas in a row may not pay before only one in as many is tried.
	deltaTries = 16
)

// delta encodes data against the bases, or returns nil where that does not pay, where the bases can't be
// had, or where a reader would have to follow too long a chain.
func (w *Writer) delta(ctx context.Context, own index.Key, data []byte, ids []chunk.ID) ([]byte, []index.Key) {
	if len(ids) == 0 || len(data) < minDelta || w.s.o.NoDelta {
		return nil, nil
	}
	// Where delta after delta did not pay (a file of noise that was replaced), most are not tried: reading
	// the bases and looking for what is not there costs more than storing the blob.
	if w.misses >= deltaTries {
		if w.skipped++; w.skipped%deltaTries != 0 {
			return nil, nil
		}
	}
	var keys []index.Key
	base := w.base[:0]
	for _, id := range ids {
		loc, ok := w.s.index.Lookup(index.KeyOf(id))
		if !ok {
			continue
		}
		if w.s.depth(loc) >= chainLimit(own) {
			_, loc = w.s.index.At(rootOf(w.s.index, loc))
		}
		key, _ := w.s.index.At(loc.Ordinal)
		if len(base)+int(loc.Size) > maxBase || w.s.index.Pack(loc.Pack).Condemned {
			continue
		}
		plain, err := w.s.r.nearby(ctx, w.s.index, loc, 0)
		if err != nil {
			continue // the blob is stored whole; a check finds what is wrong with the base
		}
		base = append(base, plain...)
		keys = append(keys, key)
	}
	w.base = base
	if len(keys) == 0 {
		return nil, nil
	}
	w.misses++
	out, ok := w.s.codec.EncodeDelta(w.stored[:0], data, base)
	if !ok {
		return nil, nil
	}
	w.stored = out
	if len(out) > len(data)/16 { // not so small that there is no question: it must beat the blob itself
		whole, _ := w.s.codec.Encode(w.check[:0], data)
		w.check = whole
		if len(out)+frameCost > len(whole)-len(whole)/8 {
			return nil, nil
		}
	}
	var err error
	if w.check, err = w.s.codec.Decode(w.check[:0], out, chunk.ZstdDelta, base, len(data)); err != nil || !bytes.Equal(w.check, data) {
		return nil, nil
	}
	w.misses, w.skipped = 0, 0
	for _, key := range keys {
		if !w.s.useKey(key) {
			return nil, nil // condemned since
		}
	}
	return out, keys
}

// chainLimit is how many deltas may lie between a blob and a whole one. Beyond it a delta is made against
// the whole one, which costs as much as all the nights since. The limit differs from blob to blob, so
// that this does not come for all of them in the same night.
func chainLimit(own index.Key) int { return writeDepth + int(own[0]%writeDepth) }

// depth is the number of deltas between a blob and a whole one, along the first bases.
func (s *Session) depth(loc index.Location) int {
	n := 0
	for len(loc.Bases) > 0 && n < maxDepth {
		n++
		base, ok := s.index.Lookup(loc.Bases[0])
		if !ok {
			break
		}
		loc = base
	}
	return n
}
