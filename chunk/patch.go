package chunk

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
)

// A patch says how each of several blobs is made of pieces of its base and of new bytes, the literals. Patches of patches
// are followed without making what lies between: a reader makes the pieces of each level of the ones below it, and copies
// bytes once, at the end. What a chain of patches costs a reader is therefore little more than their own bytes.
//
// The stored form is specified in docs/format.md.

// PatchWriter collects the blobs of a patch. It is for one goroutine.
type PatchWriter struct {
	match    matcher
	ops      []byte
	literals []byte
	sizes    []uint32
	// Before the last Add.
	lastOps, lastLiterals int
	anchor                span // of the last Add: the longest match that reaches into the second half, or else of all
	from, to              int  // the bytes of the base that its matches lie in
	check                 Patch
	checked               Rope
}

// Reset makes the patch empty.
func (w *PatchWriter) Reset() {
	w.ops, w.literals, w.sizes = w.ops[:0], w.literals[:0], w.sizes[:0]
	w.lastOps, w.lastLiterals = 0, 0
}

// Blobs returns how many blobs were added.
func (w *PatchWriter) Blobs() int { return len(w.sizes) }

// Size returns the bytes of instructions and literals before compression.
func (w *PatchWriter) Size() int { return len(w.ops) + len(w.literals) }

// Add appends a blob as its differences from base. It returns the bytes of instructions that this takes, and the literals,
// which are valid until the next call. Nothing of src and base is kept.
func (w *PatchWriter) Add(src, base []byte) (ops int, literals []byte) {
	w.lastOps, w.lastLiterals = len(w.ops), len(w.literals)
	w.anchor, w.from, w.to = span{}, len(base), 0
	at, expect := 0, 0
	for _, s := range w.match.diff(src, base) {
		if late := s.src+s.n > len(src)/2; late && w.anchor.src+w.anchor.n <= len(src)/2 || s.n > w.anchor.n {
			w.anchor = s
		}
		w.from, w.to = min(w.from, s.base), max(w.to, s.base+s.n)
		w.ops = binary.AppendUvarint(w.ops, uint64(s.src-at))
		w.literals = append(w.literals, src[at:s.src]...)
		expect += s.src - at
		w.ops = binary.AppendUvarint(w.ops, uint64(s.n))
		w.ops = binary.AppendVarint(w.ops, int64(s.base-expect))
		at, expect = s.src+s.n, s.base+s.n
	}
	if at < len(src) {
		w.ops = binary.AppendUvarint(w.ops, uint64(len(src)-at))
		w.literals = append(w.literals, src[at:]...)
	}
	w.sizes = append(w.sizes, uint32(len(src)))
	return len(w.ops) - w.lastOps, w.literals[w.lastLiterals:]
}

// Anchor returns where the longest run of bytes that the blob added last has in common with its base ends in either, if
// there is one the longest that reaches into the blob's second half: 0 and 0 if there is none.
func (w *PatchWriter) Anchor() (src, base int) {
	return w.anchor.src + w.anchor.n, w.anchor.base + w.anchor.n
}

// Used returns the part of its base that the blob added last has copies of; where it has none, from is not below to.
func (w *PatchWriter) Used() (from, to int) { return w.from, w.to }

// Join appends the blobs of o.
func (w *PatchWriter) Join(o *PatchWriter) {
	w.ops, w.literals, w.sizes = append(w.ops, o.ops...), append(w.literals, o.literals...), append(w.sizes, o.sizes...)
}

// Verify reports whether the blob that was added last is src, given base again.
func (w *PatchWriter) Verify(src, base []byte) bool {
	size := w.sizes[len(w.sizes)-1:]
	w.check = Patch{ops: w.ops[w.lastOps:], literals: w.literals[w.lastLiterals:], blobs: w.check.blobs[:0], pieces: w.check.pieces[:0]}
	var b Rope
	b.Append(base)
	if _, err := w.check.parse(size); err != nil || w.check.Apply(&w.checked, 0, &b) != nil || w.checked.Len() != len(src) {
		return false
	}
	start := uint32(0)
	for _, p := range w.checked.pieces {
		if !bytes.Equal(w.checked.bytesOf(p, start), src[start:p.end]) {
			return false
		}
		start = p.end
	}
	w.checked.Reset()
	return true
}

// EncodePatch appends the stored form of the patch to dst, decodes it again, and reports whether that gives the same.
func (c *Codec) EncodePatch(dst []byte, w *PatchWriter) ([]byte, bool) {
	start := len(dst)
	ops, enc := c.Encode(nil, w.ops)
	dst = binary.AppendUvarint(dst, uint64(len(w.ops)))
	if enc == Raw {
		dst = append(dst, 0)
	} else {
		dst = binary.AppendUvarint(dst, uint64(len(ops)))
	}
	dst = append(dst, ops...)
	dst, _ = c.Encode(dst, w.literals)
	p, err := c.DecodePatch(dst[start:], w.sizes)
	return dst, err == nil && bytes.Equal(p.ops, w.ops) && bytes.Equal(p.literals, w.literals)
}

// Patch is a decoded patch. It is not changed by use, and may be used from several goroutines at once.
type Patch struct {
	ops      []byte
	literals []byte
	blobs    []patchBlob
	pieces   []piece // of all blobs: of the literals, and of unknown bases
}

// patchBlob is where a blob's instructions, literals and pieces begin.
type patchBlob struct{ ops, literals, size, piece uint32 }

// Memory returns the bytes that the patch takes in memory, about.
func (p *Patch) Memory() int {
	return len(p.ops) + len(p.literals) + 16*len(p.blobs) + 12*len(p.pieces)
}

// DecodePatch is the inverse of EncodePatch, given the sizes of the blobs. Whatever src says, it allocates little more than
// twice their sum, and 24 bytes for each instruction.
func (c *Codec) DecodePatch(src []byte, sizes []uint32) (*Patch, error) {
	p := &Patch{}
	if err := c.DecodePatchInto(p, nil, src, sizes); err != nil {
		return nil, err
	}
	return p, nil
}

// DecodePatchInto is DecodePatch into the memory of p, which is not used any more, and into what alloc returns: empty slices
// with at least so much room. Nil: new memory.
func (c *Codec) DecodePatchInto(p *Patch, alloc func(n int) []byte, src []byte, sizes []uint32) error {
	if alloc == nil {
		alloc = func(n int) []byte { return make([]byte, 0, n) }
	}
	total := 0
	for _, n := range sizes {
		total += int(n)
	}
	bad := func(what string, err error) error {
		if err != nil {
			return fmt.Errorf("decode patch: %s: %w: %w", what, ErrCorrupt, err)
		}
		return fmt.Errorf("decode patch: %s: %w", what, ErrCorrupt)
	}
	size, n := shortUvarint(src)
	if n == 0 || size > uint64(total)+uint64(len(sizes)) {
		return bad("length of instructions", nil)
	}
	src = src[n:]
	stored, n := shortUvarint(src)
	enc := Zstd
	if stored == 0 {
		enc, stored = Raw, size
	}
	if n == 0 || stored > uint64(len(src)-n) || stored > size {
		return bad("stored length of instructions", nil)
	}
	src = src[n:]
	p.blobs, p.pieces = slices.Grow(p.blobs[:0], len(sizes)), p.pieces[:0]
	var err error
	if p.ops, err = c.Decode(alloc(int(size)+DecodeSlack), src[:stored], enc, nil, int(size)); err != nil {
		return bad("instructions", err)
	}
	literals := src[stored:]
	if n, err = p.parse(sizes); err != nil {
		return err
	}
	enc = Zstd
	if len(literals) >= n {
		enc = Raw
	}
	if p.literals, err = c.Decode(alloc(n+DecodeSlack), literals, enc, nil, n); err != nil {
		return bad("literals", err)
	}
	return nil
}

// parse reads the instructions of each blob, and checks all that can be checked without literals and bases. It returns how
// many literals the instructions take.
func (p *Patch) parse(sizes []uint32) (literals int, err error) {
	p.pieces = slices.Grow(p.pieces, len(p.ops)/2) // mostly all there will be
	at := 0
	for _, size := range sizes {
		p.blobs = append(p.blobs, patchBlob{uint32(at), uint32(literals), size, uint32(len(p.pieces))})
		r := patchReader{ops: p.ops[at:], literals: uint32(literals), out: p.pieces}
		if !r.read(size) {
			return 0, fmt.Errorf("decode patch: instruction %d of blob %d: %w", r.count, len(p.blobs), ErrCorrupt)
		}
		at, literals, p.pieces = at+r.pos, int(r.literals), r.out
	}
	if at != len(p.ops) {
		return 0, fmt.Errorf("decode patch: %d bytes of instructions left over: %w", len(p.ops)-at, ErrCorrupt)
	}
	return literals, nil
}

// patchReader reads a blob's instructions. Each is a number of literals, and then, unless the blob ends there, the length of a
// copy and how far from where the last copy would have gone on, behind the literals, it begins.
type patchReader struct {
	ops      []byte
	pos      int    // in ops
	literals uint32 // where the next ones begin
	out      []piece
	count    int // of instructions
}

// read appends the pieces of a blob of size bytes. It reports false where the instructions do not make one.
func (r *patchReader) read(size uint32) bool {
	expect := 0
	for end := uint32(0); end < size; {
		r.count++
		literals, ok := r.uvarint(size - end)
		if !ok {
			return false
		}
		if literals > 0 {
			end += literals
			r.out = append(r.out, piece{own, r.literals, end})
			r.literals += literals
		}
		if end == size {
			break
		}
		n, ok := r.uvarint(size - end)
		if !ok || n == 0 {
			return false
		}
		d, ok := r.uvarint(maxShift)
		if !ok || r.count > 1 && literals == 0 && d == 0 { // the last: two for what is one
			return false
		}
		from := expect + int(literals) + (int(d>>1) ^ -int(d&1))
		if from < 0 || from+int(n) > maxText {
			return false
		}
		end += n
		r.out = append(r.out, piece{unknown, uint32(from), end})
		expect = from + int(n)
	}
	return true
}

// uvarint reads a uvarint of up to limit. Most have one byte, nearly all of the others two or three.
func (r *patchReader) uvarint(limit uint32) (v uint32, ok bool) {
	switch p := r.ops[r.pos:]; {
	case len(p) > 0 && p[0] < 0x80:
		v, r.pos = uint32(p[0]), r.pos+1
	case len(p) > 1 && p[1] < 0x80 && p[1] > 0:
		v, r.pos = uint32(p[0]&0x7f)|uint32(p[1])<<7, r.pos+2
	case len(p) > 2 && p[1] >= 0x80 && p[2] < 0x80 && p[2] > 0:
		v, r.pos = uint32(p[0]&0x7f)|uint32(p[1]&0x7f)<<7|uint32(p[2])<<14, r.pos+3
	default:
		long, n := shortUvarint(p)
		r.pos += n
		return uint32(min(long, uint64(limit))), n > 0 && long <= uint64(limit)
	}
	return v, v <= limit
}

// shortUvarint reads a uvarint in its shortest form; n is 0 if there is none.
func shortUvarint(p []byte) (v uint64, n int) {
	v, n = binary.Uvarint(p)
	if n <= 0 || n > 1 && p[n-1] == 0 {
		return 0, 0
	}
	return v, n
}

// maxShift bounds how far a copy begins from where the last one would have gone on, in zigzag form.
const maxShift = 1<<31 - 1

// maxText bounds the places in a base text: its bytes are those of index.MaxBases frames at most.
const maxText = 1<<32 - 1

// Open makes dst the text of the patch's blob i, on a base that is not known yet. It is made of the patch, which must stay as
// it is for as long as dst, or a rope that is made of it, is used.
func (p *Patch) Open(dst *Rope, i int) {
	if dst.texts == nil {
		dst.texts = &Texts{}
	}
	end := len(p.pieces)
	if i+1 < len(p.blobs) {
		end = int(p.blobs[i+1].piece)
	}
	dst.lend(p.pieces[p.blobs[i].piece:end:end], int(p.blobs[i].size))
	if len(p.literals) > 0 {
		dst.own = dst.texts.add(p.literals)
	}
}

// Apply makes dst the text of the patch's blob i, of pieces of its base and of the patch. Both must stay as they are for as
// long as dst is used, which becomes a rope of the base's texts. An error, in whose chain is ErrCorrupt, says that the blob
// does not rest on that base.
func (p *Patch) Apply(dst *Rope, i int, base *Rope) error {
	if base.texts == nil {
		base.texts = &Texts{}
	}
	open := Rope{texts: base.texts}
	p.Open(&open, i)
	return open.On(dst, base)
}

// Subset appends to w the blobs of the patch whose places are in keep, ascending.
func (p *Patch) Subset(w *PatchWriter, keep []int) {
	for _, i := range keep {
		ops, literals := len(p.ops), len(p.literals)
		if i+1 < len(p.blobs) {
			ops, literals = int(p.blobs[i+1].ops), int(p.blobs[i+1].literals)
		}
		w.lastOps, w.lastLiterals = len(w.ops), len(w.literals)
		w.ops = append(w.ops, p.ops[p.blobs[i].ops:ops]...)
		w.literals = append(w.literals, p.literals[p.blobs[i].literals:literals]...)
		w.sizes = append(w.sizes, p.blobs[i].size)
	}
	w.sizes = slices.Clip(w.sizes)
}
