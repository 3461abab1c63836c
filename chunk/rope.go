package chunk

import (
	"fmt"
	"slices"
)

// Texts are the byte strings that the pieces of ropes lie in. The zero value is empty. It is for one goroutine, with the
// ropes of it; whoever changes the bytes changes the ropes too.
type Texts struct{ all [][]byte }

// NewRope returns an empty rope of the texts. Ropes of the same texts are put together without looking at each piece.
func (t *Texts) NewRope() *Rope { return &Rope{texts: t} }

// Reset forgets the texts. No rope of them may be used any more.
func (t *Texts) Reset() {
	clear(t.all)
	t.all = t.all[:0]
}

func (t *Texts) add(p []byte) uint32 {
	t.all = append(t.all, p)
	return uint32(len(t.all) - 1)
}

// Rope is a text made of pieces of other texts, which it refers to and does not copy. The zero value is empty. It is for
// one goroutine.
//
// A chain of patches is followed upwards from its base, or put together two by two and its base put in last: that takes as
// many steps as there are pieces times the logarithm of the chain's length, instead of times the length.
type Rope struct {
	texts  *Texts  // nil: none yet
	pieces []piece // none is empty
	size   int
	open   bool // it has unknown bytes
}

// piece is n bytes of a text, from at on. Ropes of deltas have thousands, which each delta of a chain copies: hence no
// pointers.
type piece struct{ text, at, n uint32 }

func (r *Rope) bytesOf(p piece) []byte { return r.texts.all[p.text][p.at : p.at+p.n] }

// unknown is the text that On puts in later.
const unknown = 1<<32 - 1

// SetUnknown makes the rope n bytes that are not known yet. What patches make of it, On makes known.
func (r *Rope) SetUnknown(n int) {
	r.pieces, r.size, r.open = append(r.pieces[:0], piece{unknown, 0, uint32(n)}), n, true
}

// On makes dst what r is when the unknown bytes that it rests on are base, a rope of the same texts.
func (r *Rope) On(dst *Rope, base *Rope) error {
	out := slices.Grow(dst.pieces[:0], len(r.pieces)+len(base.pieces)) // mostly all there will be
	below := base.pieces
	i, start := 0, uint32(0) // the piece of the base where the last one ended, as in ropeCursor, whose work this is in one loop
	for _, p := range r.pieces {
		if p.text != unknown {
			out = append(out, p)
			continue
		}
		end := p.at + p.n
		if int(end) > base.size {
			return fmt.Errorf("patch: a base of %d bytes where there should be more: %w", base.size, ErrCorrupt)
		}
		for p.at < start {
			i--
			start -= below[i].n
		}
		for p.at >= start+below[i].n {
			start += below[i].n
			i++
		}
		q := below[i]
		skip := p.at - start
		q.at += skip
		q.n -= skip
		for start+below[i].n < end {
			out = append(out, q)
			start += below[i].n
			i++
			q = below[i]
			skip = 0
		}
		q.n = end - start - skip
		out = append(out, q)
	}
	dst.pieces, dst.size, dst.texts, dst.open = out, r.size, r.texts, base.open
	dst.settle()
	return nil
}

// settle copies the text together if its pieces are so short that following them costs more.
func (r *Rope) settle() {
	if r.open || len(r.pieces) <= 64+r.size/minPiece {
		return
	}
	flat := r.AppendTo(make([]byte, 0, r.size))
	r.Reset()
	r.Append(flat)
}

// minPiece is how short, in bytes, the pieces of a rope may be on average before they are copied together: following a piece
// then costs as much as copying it.
const minPiece = 48

// Len returns the length in bytes.
func (r *Rope) Len() int { return r.size }

// Reset empties the rope and keeps its memory.
func (r *Rope) Reset() { r.pieces, r.size, r.open = r.pieces[:0], 0, false }

// Append adds p to the end. It keeps p.
func (r *Rope) Append(p []byte) {
	if len(p) == 0 {
		return
	}
	if r.texts == nil {
		r.texts = &Texts{}
	}
	r.pieces = append(r.pieces, piece{r.texts.add(p), 0, uint32(len(p))})
	r.size += len(p)
}

// AppendRope adds the text of o to the end.
func (r *Rope) AppendRope(o *Rope) {
	if r.texts == nil {
		r.texts = o.texts
	}
	if r.texts != o.texts {
		for _, p := range o.pieces {
			r.Append(o.bytesOf(p))
		}
		return
	}
	r.pieces = append(r.pieces, o.pieces...)
	r.size += o.size
}

// AppendTo appends the text to dst.
func (r *Rope) AppendTo(dst []byte) []byte {
	for _, p := range r.pieces {
		dst = append(dst, r.bytesOf(p)...)
	}
	return dst
}

// Bytes returns the text: the memory that it was made of, if that is one piece, and else a copy that it puts into scratch.
// The bytes must not be changed.
func (r *Rope) Bytes(scratch *[]byte) []byte {
	if len(r.pieces) == 1 {
		return r.bytesOf(r.pieces[0])
	}
	*scratch = r.AppendTo((*scratch)[:0])
	return *scratch
}

// ropeCursor is a place in a rope: the text begins at start with piece i. Places are mostly asked for in their order, so
// that walking from the last one beats searching.
type ropeCursor struct {
	r        *Rope
	i, start int
}

// copyTo appends n > 0 bytes from offset off to dst, a rope of the same texts. The range must be within the rope.
func (c *ropeCursor) copyTo(dst *Rope, off, n int) {
	pieces := c.r.pieces
	i, start := c.i, c.start
	for off < start {
		i--
		start -= int(pieces[i].n)
	}
	for off >= start+int(pieces[i].n) {
		start += int(pieces[i].n)
		i++
	}
	first, skip := i, off-start
	for end := off + n; start+int(pieces[i].n) < end; i++ {
		start += int(pieces[i].n)
	}
	c.i, c.start = i, start
	at := len(dst.pieces)
	dst.pieces = append(dst.pieces, pieces[first:i+1]...)
	dst.size += n
	dst.pieces[len(dst.pieces)-1].n = uint32(off + n - start)
	dst.pieces[at].at += uint32(skip)
	dst.pieces[at].n -= uint32(skip)
}
