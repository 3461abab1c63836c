package repo

import (
	"bytes"
	"context"
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
	// deltaDecode says what decoding a delta of zstd costs a reader over following a patch: as much as reading one more
	// stored byte for each so many bytes of plaintext.
	deltaDecode = 64
)

// delta is what a blob has in common with others.
type delta struct {
	encoding chunk.Encoding // Raw: it is to be stored whole
	stored   []byte         // where the encoding is ZstdDelta; a patch is in the writer
	bases    *deltaBases
	size     int
	leaves   int // bytes of the blob that are in none of the bases
}

// delta looks for data in what the hint names. It finds nothing where that does not pay, where the bases can't be had, and
// where a reader would have to read too much. w.mu is held.
func (w *Writer) delta(ctx context.Context, data []byte, h *Hint) delta {
	if len(h.Bases) == 0 || len(data) < minDelta || w.s.o.Delta == DeltaOff || w.s.o.Level == chunk.LevelNone {
		return delta{}
	}
	// Where delta after delta did not pay (a file of noise that was replaced), most are not tried: reading
	// the bases and looking for what is not there costs more than storing the blob.
	if w.misses >= deltaTries {
		if w.skipped++; w.skipped%deltaTries != 0 {
			return delta{}
		}
	}
	if h.Guess {
		return w.guess(ctx, data, h)
	}
	b := w.findBases(ctx, h.Bases)
	if len(b.keys) == 0 {
		return delta{}
	}
	w.misses++
	if len(h.Spare) > 0 {
		w.addSpare(ctx, b, data, h.Spare)
		w.base = b.plain
	}
	d := delta{bases: b, size: len(data)}
	d.encoding, d.stored, d.leaves = w.encodeDelta(data, b, h)
	return d
}

// putDelta stores a blob as a delta. It reports false where there is none. w.mu is held.
func (w *Writer) putDelta(ctx context.Context, p *part, blob index.Blob, d delta, keep bool) (bool, error) {
	if d.encoding == chunk.Raw {
		return false, nil
	}
	if slices.ContainsFunc(d.bases.keys, func(key index.Key) bool { return !w.s.useStored(key) }) { // condemned since, or absent but for what nearby has
		return false, nil
	}
	w.misses, w.skipped = 0, 0
	w.s.stats.delta.Add(1)
	if d.encoding == chunk.ZstdDelta {
		return true, w.addEncoded(ctx, p.shelf, index.Frame{Encoding: d.encoding, Bases: d.bases.keys, Blobs: []index.Blob{blob}}, d.stored, keep)
	}
	src, base := w.patch.Anchor()
	w.ended = d.bases.ending(d.size-src, base)
	return true, p.patches.add(ctx, w, &w.patch, blob, d.bases, keep)
}

// encodeDelta makes data a patch, in w.patch, or returns it as a delta of zstd where that is much smaller: where data and
// base differ every few bytes. Where neither pays it returns Raw. What it returns or makes was decoded again. leaves is how
// many bytes of data were not found in the bases. Where these are a guess, a patch must find a quarter; and nothing more is
// done where that is enough for data to be put off.
func (w *Writer) encodeDelta(data []byte, b *deltaBases, h *Hint) (encoding chunk.Encoding, stored []byte, leaves int) {
	codec, patch := w.s.codec, &w.patch
	patch.Reset()
	ops, literals := patch.Add(data, b.plain)
	if b.trim(patch.Used()) {
		patch.Reset()
		ops, literals = patch.Add(data, b.plain)
	}
	base, leaves := b.plain, len(literals)
	if h.PutOff && leaves >= muchLeft || h.Guess && leaves > len(data)-len(data)/4 {
		return chunk.Raw, nil, leaves
	}
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
			return chunk.Raw, nil, leaves
		}
		if ok {
			var err error
			if w.check, err = codec.Decode(w.check[:0], w.stored, chunk.ZstdDelta, base, len(data)); err != nil || !bytes.Equal(w.check, data) {
				return chunk.Raw, nil, leaves
			}
			return chunk.ZstdDelta, w.stored, min(leaves, len(w.stored))
		}
	}
	if !patch.Verify(data, base) {
		return chunk.Raw, nil, leaves
	}
	return chunk.Patched, nil, leaves
}

// deltaBases are the bases of a delta.
type deltaBases struct {
	keys    []index.Key
	ids     []chunk.ID
	ends    []int    // in plain
	plain   []byte   // end to end
	windows []window // where the whole blob of each lies; the patch is in the frame of the first
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
	b.keys, b.ids, b.ends, b.windows = b.keys[first:last+1], b.ids[first:last+1], b.ends[first:last+1], b.windows[first:last+1]
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

// ending concludes from the longest run of bytes that a blob and its bases have in common: so many bytes before the blob's
// end it ends, at base.
func (b *deltaBases) ending(left, base int) ending {
	for i, end := range b.ends {
		if base <= end {
			return ending{b.ids[i], end - base - left, base > 0 && index.KeyOf(b.ids[i]) == b.keys[i]}
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
func (w *Writer) findBases(ctx context.Context, ids []chunk.ID) *deltaBases {
	b := &deltaBases{plain: w.base[:0]}
	for _, id := range ids {
		loc, ok := w.s.index.Lookup(index.KeyOf(id))
		if !ok {
			continue
		}
		c := w.s.chain(loc)
		deep := w.s.deep(id, &c)
		if w.s.ends.long(&c, deep) {
			return &deltaBases{} // a whole blob, for restores to be as fast as they were
		}
		w.readBase(ctx, b, id, loc, &c, deep, w.s.o.Delta)
	}
	w.base = b.plain
	return b
}

// deep reports whether a chain of deltas is so long that the next one is made against the whole blob at its end.
func (s *Session) deep(id chunk.ID, c *chain) bool {
	return s.depth(index.KeyOf(id)) >= regionOf(c.root).depth(c.root.PackID)
}

// readBase appends a blob to the bases, or where its chain is deep the whole one at the chain's end. It reports false where
// it cannot be had, or not for what it saves, and where it is one of them already.
func (w *Writer) readBase(ctx context.Context, b *deltaBases, id chunk.ID, loc index.Location, c *chain, deep bool, mode DeltaMode) bool {
	if deep {
		loc = c.root
	}
	key, _ := w.s.index.At(loc.Ordinal)
	if slices.Contains(b.keys, key) || len(b.plain)+int(loc.Size) > maxBase || w.s.index.Pack(loc.Pack).Condemned ||
		!w.s.r.stage.afford(ctx, w.s.index, loc, mode) {
		return false
	}
	plain, err := w.s.r.nearby(ctx, w.s.index, loc, b.plain)
	if err != nil {
		return false // the blob is stored without it; a check finds what is wrong with the base
	}
	b.plain = plain
	b.keys, b.ids, b.ends, b.windows = append(b.keys, key), append(b.ids, id), append(b.ends, len(plain)), append(b.windows, windowOf(c.root))
	return true
}

// drop takes the last base away.
func (b *deltaBases) drop() {
	n := len(b.keys) - 1
	b.keys, b.ids, b.ends, b.windows = b.keys[:n], b.ids[:n], b.ends[:n], b.windows[:n]
	b.plain = b.plain[:b.ends[n-1]]
}

const (
	// muchLeft is how many bytes of a blob that are in none of its bases are worth a look elsewhere, and spareGain how
	// many must be found there for another base: a reader reads it for them.
	muchLeft  = 16 << 10
	spareGain = 8 << 10
	// spareRead is how many must be left for a spare blob to be read from a backend.
	spareRead = 128 << 10
	// spareTries is how many spare blobs are looked at for one, and spareBases how many become its bases at most.
	spareTries = 8
	spareBases = 2
)

// addSpare appends those of the spare blobs to the bases that have most of what data does not have in common with them.
func (w *Writer) addSpare(ctx context.Context, b *deltaBases, data []byte, spare []chunk.ID) {
	spare = spare[:min(len(spare), spareTries)]
	for range spareBases {
		w.patch.Reset()
		_, literals := w.patch.Add(data, b.plain)
		left, mode := slices.Clone(literals), w.s.o.Delta
		if !w.s.r.stage.near && len(left) < spareRead {
			mode = DeltaCache
		}
		best, least := chunk.ID{}, len(left)-spareGain
		for _, id := range spare {
			if len(left) < muchLeft || !w.addBase(ctx, b, id, mode) {
				continue
			}
			w.patch.Reset()
			if _, literals = w.patch.Add(left, b.plain[b.ends[len(b.ends)-2]:]); len(literals) <= least {
				best, least = id, len(literals)
			}
			b.drop()
		}
		if best.IsZero() || !w.addBase(ctx, b, best, mode) {
			return
		}
	}
}

// addBase is readBase for a blob that need not be a base: none whose chain is to end.
func (w *Writer) addBase(ctx context.Context, b *deltaBases, id chunk.ID, mode DeltaMode) bool {
	loc, ok := w.s.index.Lookup(index.KeyOf(id))
	if !ok {
		return false
	}
	c := w.s.chain(loc)
	deep := w.s.deep(id, &c)
	return !w.s.ends.due(&c, deep) && w.readBase(ctx, b, id, loc, &c, deep, mode)
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
