package repo

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync"

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
	// patchBytes is the size of a patch frame's instructions and literals, in bytes, at which it is closed. A reader of
	// one blob fetches and opens all of it.
	patchBytes = 128 << 10
	// deltaDecode says what decoding a delta of zstd costs a reader over following a patch: as much as reading one more
	// stored byte for each so many bytes of plaintext.
	deltaDecode = 64
)

// patchFrame is the frame of patches that a writer has begun.
type patchFrame struct {
	writer chunk.PatchWriter
	blobs  []index.Blob
	bases  [][]index.Key
	most   int    // bases of a blob
	size   int    // bytes of plaintext
	window window // where their whole blobs lie
	keep   bool   // it is worth a place in the local cache
}

// takes reports whether there is room for one more blob.
func (f *patchFrame) takes(size int, b *deltaBases) bool {
	return len(f.blobs) == 0 || f.window == b.window && f.size+size <= index.MaxFrameSize &&
		(len(f.blobs)+1)*max(f.most, len(b.keys)) <= index.MaxBases
}

// putDelta stores data as a delta against the bases. It reports false where that does not pay, where the bases can't be
// had, and where a reader would have to read too much.
func (w *Writer) putDelta(ctx context.Context, p *part, blob index.Blob, data []byte, h *Hint) (bool, error) {
	ids := h.Bases
	if len(ids) == 0 || len(data) < minDelta || w.s.o.Delta == DeltaOff || w.s.o.Level == chunk.LevelNone {
		return false, nil
	}
	// Where delta after delta did not pay (a file of noise that was replaced), most are not tried: reading
	// the bases and looking for what is not there costs more than storing the blob.
	if w.misses >= deltaTries {
		if w.skipped++; w.skipped%deltaTries != 0 {
			return false, nil
		}
	}
	b := w.findBases(ctx, blob.Key, ids)
	if len(b.keys) == 0 {
		return false, nil
	}
	f := &p.patch
	if !f.takes(len(data), b) {
		if err := w.closePatch(ctx, p); err != nil {
			return false, err
		}
	}
	w.misses++
	encoding, stored := w.encodeDelta(&f.writer, data, b)
	if encoding == chunk.Raw {
		return false, nil
	}
	if slices.ContainsFunc(b.keys, func(key index.Key) bool { return !w.s.useKey(key) }) { // condemned since
		if encoding == chunk.Patched {
			f.writer.Undo()
		}
		return false, nil
	}
	w.misses, w.skipped = 0, 0
	w.s.stats.delta.Add(1)
	if encoding == chunk.ZstdDelta {
		return true, w.addEncoded(ctx, p, index.Frame{Encoding: encoding, Bases: b.keys, Blobs: []index.Blob{blob}}, stored, h.Keep)
	}
	src, base := f.writer.Anchor()
	w.ended = b.ending(src, base, len(data))
	f.blobs, f.bases, f.keep = append(f.blobs, blob), append(f.bases, b.keys), f.keep || h.Keep
	f.most, f.size, f.window = max(f.most, len(b.keys)), f.size+len(data), b.window
	if f.writer.Size() >= patchBytes {
		return true, w.closePatch(ctx, p)
	}
	return true, nil
}

// encodeDelta adds data to the patch, or returns it as a delta of zstd where that is much smaller: where data and base
// differ every few bytes. Where neither pays it returns Raw. What it returns or adds was decoded again.
func (w *Writer) encodeDelta(patch *chunk.PatchWriter, data []byte, b *deltaBases) (encoding chunk.Encoding, stored []byte) {
	codec := w.s.codec
	ops, literals := patch.Add(data, b.plain)
	if b.trim(patch.Used()) {
		patch.Undo()
		ops, literals = patch.Add(data, b.plain)
	}
	base := b.plain
	if cost := ops + len(literals); cost > len(data)/16 { // not so little that there is no question
		w.check, _ = codec.Encode(w.check[:0], literals)
		cost = ops + len(w.check)
		ok := false
		if ops+len(literals) > len(data)/8 {
			w.stored, ok = codec.EncodeDelta(w.stored[:0], data, base)
			ok = ok && len(w.stored)+len(data)/deltaDecode < cost
		}
		if ok {
			cost = len(w.stored)
		}
		w.check, _ = codec.Encode(w.check[:0], data)
		if whole := len(w.check); cost+frameCost > whole-whole/8 {
			patch.Undo()
			return chunk.Raw, nil
		}
		if ok {
			patch.Undo()
			var err error
			if w.check, err = codec.Decode(w.check[:0], w.stored, chunk.ZstdDelta, base, len(data)); err != nil || !bytes.Equal(w.check, data) {
				return chunk.Raw, nil
			}
			return chunk.ZstdDelta, w.stored
		}
	}
	if !patch.Verify(data, base) {
		patch.Undo()
		return chunk.Raw, nil
	}
	return chunk.Patched, nil
}

// closePatch stores the patch frame that is filling.
func (w *Writer) closePatch(ctx context.Context, p *part) error {
	f := &p.patch
	if len(f.blobs) == 0 {
		return nil
	}
	frame := index.Frame{Encoding: chunk.Patched, Blobs: slices.Clone(f.blobs)}
	for _, keys := range f.bases { // equally many each: the last one is repeated
		frame.Bases = append(frame.Bases, keys...)
		for range f.most - len(keys) {
			frame.Bases = append(frame.Bases, keys[len(keys)-1])
		}
	}
	err := w.addPatch(ctx, p, frame, &f.writer)
	f.writer.Reset()
	f.blobs, f.bases, f.most, f.size, f.keep = f.blobs[:0], f.bases[:0], 0, 0, false
	return err
}

// addPatch stores a frame of patches.
func (w *Writer) addPatch(ctx context.Context, p *part, frame index.Frame, patch *chunk.PatchWriter) error {
	stored, ok := w.s.codec.EncodePatch(w.stored[:0], patch)
	if w.stored = stored; !ok {
		return fmt.Errorf("verifying compressed data before it is stored: a patch does not decode to what it was; this points to faulty memory")
	}
	return w.addEncoded(ctx, p, frame, stored, p.patch.keep)
}

// deltaBases are the bases of a delta.
type deltaBases struct {
	keys   []index.Key
	ids    []chunk.ID
	ends   []int  // in plain
	plain  []byte // end to end
	window window // where the first one's whole blob lies
}

// trim drops the bases of which nothing was used, in front and behind, and reports whether there were any.
func (b *deltaBases) trim(from, to int) bool {
	first, last := 0, len(b.ends)-1
	for first < last && b.ends[first] <= from {
		first++
	}
	for last > first && b.ends[last-1] >= to {
		last--
	}
	if from >= to || last-first == len(b.ends)-1 {
		return false
	}
	skip := 0
	if first > 0 {
		skip = b.ends[first-1]
	}
	b.plain = b.plain[skip:b.ends[last]]
	b.keys, b.ids, b.ends = b.keys[first:last+1], b.ids[first:last+1], b.ends[first:last+1]
	for i := range b.ends {
		b.ends[i] -= skip
	}
	return true
}

// ending is where in its bases a blob ends.
type ending struct {
	base chunk.ID
	rest int // bytes of the base behind it; negative: it ends behind the base
	ok   bool
}

// ending concludes from the longest run of bytes that a blob and its bases have in common.
func (b *deltaBases) ending(src, base, size int) ending {
	for i, end := range b.ends {
		if base <= end {
			return ending{b.ids[i], end - base - (size - src), base > 0 && index.KeyOf(b.ids[i]) == b.keys[i]}
		}
	}
	return ending{}
}

// Ended returns where the blob that was put last ends in its bases: in which of them, and how many bytes of that lie
// behind (fewer than none where the blob goes on behind it). It reports false for a blob of which that is not known.
func (w *Writer) Ended() (base chunk.ID, rest int, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ended.base, w.ended.rest, w.ended.ok
}

// findBases reads those of the blobs that can be bases.
func (w *Writer) findBases(ctx context.Context, own index.Key, ids []chunk.ID) *deltaBases {
	b := &deltaBases{plain: w.base[:0]}
	for _, id := range ids {
		loc, ok := w.s.index.Lookup(index.KeyOf(id))
		if !ok {
			continue
		}
		c := w.s.chain(loc)
		if c.long(own) {
			return &deltaBases{} // a whole blob, for restores to be as fast as they were
		}
		if w.s.depth(index.KeyOf(id)) >= chainLimit(own) {
			loc = c.root
		}
		key, _ := w.s.index.At(loc.Ordinal)
		if slices.Contains(b.keys, key) || len(b.plain)+int(loc.Size) > maxBase || w.s.index.Pack(loc.Pack).Condemned ||
			!w.s.r.stage.afford(ctx, w.s.index, loc, w.s.o.Delta) {
			continue
		}
		plain, err := w.s.r.nearby(ctx, w.s.index, loc, b.plain)
		if err != nil {
			continue // the blob is stored whole; a check finds what is wrong with the base
		}
		b.plain = plain
		b.ids, b.ends = append(b.ids, id), append(b.ends, len(plain))
		if b.keys = append(b.keys, key); len(b.keys) == 1 {
			b.window = windowOf(c.root)
		}
	}
	w.base = b.plain
	return b
}

// chain is what lies between a blob and a whole one, along the first bases.
type chain struct {
	bytes int64 // that a reader of the blob reads for them, or that it could have read in the time that they take
	size  int64 // of the blob
	root  index.Location
}

func (s *Session) chain(loc index.Location) chain {
	c := chain{size: int64(loc.Size)}
	for n := 0; len(loc.Bases) > 0 && n < maxDepth; n++ {
		c.bytes += share(loc)
		if loc.Encoding == chunk.ZstdDelta {
			c.bytes += int64(loc.Size) / deltaDecode
		}
		base, ok := s.index.Lookup(loc.Bases[0])
		if !ok {
			break
		}
		loc = base
	}
	c.root = loc
	return c
}

// depthMemo remembers how deep the chains of deltas are.
type depthMemo struct {
	mu    sync.Mutex
	known map[index.Key]uint8
}

// depth returns how many deltas lie between a blob and whole ones at most, whichever copies and bases a reader takes.
func (s *Session) depth(key index.Key) int {
	s.depths.mu.Lock()
	defer s.depths.mu.Unlock()
	if s.depths.known == nil {
		s.depths.known = map[index.Key]uint8{}
	}
	return int(s.depthOf(key))
}

func (s *Session) depthOf(key index.Key) uint8 {
	if d, ok := s.depths.known[key]; ok {
		return d
	}
	s.depths.known[key] = maxDepth // for what rests on itself, in some copy
	d := uint8(0)
	for _, loc := range s.index.Lookups(key) {
		for _, base := range loc.Bases {
			d = max(d, min(s.depthOf(base)+1, maxDepth))
		}
	}
	if d > 0 {
		s.depths.known[key] = d
	} else {
		delete(s.depths.known, key) // whole, which is as quickly found as remembered, or not there yet
	}
	return d
}

// share is a blob's part of the stored bytes of its frame.
func share(loc index.Location) int64 {
	return int64(loc.Length) * (int64(loc.Size) + 1) / (int64(loc.FrameSize) + 1)
}

// long reports whether the chain costs a restore so much that it should end: whether reading the blob takes about one and
// a half times the bytes that it would have if it were whole, and compressed like its root. The limit differs from blob to
// blob, so that it does not come for all in the same night.
func (c chain) long(own index.Key) bool {
	root := share(c.root)
	whole := max(root, root*c.size/int64(c.root.Size+1))
	return root+c.bytes > whole*int64(1024+384+int(own[1]))/1024
}

// chainLimit is how many deltas may lie between a blob and a whole one. Beyond it a delta is made against
// the whole one, which costs as much as all the nights since. It differs from blob to blob too.
func chainLimit(own index.Key) int { return writeDepth + int(own[0])%(writeDepth+1) }
