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
	open   bool    // it has unknown bytes
	own    uint32  // the text of the literals of a patch whose pieces these are
	lent   bool    // the pieces are a patch's
	spare  []piece // where they are: memory of the rope
}

// piece is bytes of a text, from at on; in its rope it ends at end, where the next one begins. Ropes of deltas have thousands,
// which each delta of a chain copies: hence no pointers. The places are there to search in, as copies do not come in the
// order of their bases where records resemble each other.
type piece struct{ text, at, end uint32 }

// bytesOf returns the bytes of a piece that begins at start in its rope.
func (r *Rope) bytesOf(p piece, start uint32) []byte {
	return r.texts.all[p.text][p.at : p.at+p.end-start]
}

const (
	// unknown is the text that On puts in later.
	unknown = 1<<32 - 1
	// own is the text of a patch's literals in its pieces.
	own = 1<<32 - 2
)

// lend makes the rope pieces that it must not change, of an unknown base.
func (r *Rope) lend(pieces []piece, size int) {
	r.Reset()
	r.spare, r.lent = r.pieces, true
	r.pieces, r.size, r.open = pieces, size, true
}

// On makes dst what r is when the unknown bytes that it rests on are base, a rope of the same texts and not dst. An error, in
// whose chain is ErrCorrupt, says that they can't be.
func (r *Rope) On(dst *Rope, base *Rope) error {
	dst.Reset()
	out := slices.Grow(dst.pieces, len(r.pieces)+len(base.pieces)) // mostly all there will be
	start, i := uint32(0), 0
	for _, p := range r.pieces {
		switch p.text {
		case own:
			out = append(out, piece{r.own, p.at, p.end})
		case unknown:
			if int(p.at)+int(p.end-start) > base.size {
				return fmt.Errorf("patch: a copy of %d bytes at %d of a base of %d: %w", p.end-start, p.at, base.size, ErrCorrupt)
			}
			first := len(out)
			out, i = appendRange(out, start, base.pieces, i, p.at, p.at+p.end-start)
			if base.lent {
				base.name(out[first:])
			}
		default:
			out = append(out, p)
		}
		start = p.end
	}
	dst.pieces, dst.size, dst.texts, dst.open = out, r.size, r.texts, base.open
	dst.settle()
	return nil
}

// name says which text the literals of lent pieces are of.
func (r *Rope) name(pieces []piece) {
	for k := range pieces {
		if pieces[k].text == own {
			pieces[k].text = r.own
		}
	}
}

// appendRange appends to out, a rope's pieces that end at end, the bytes from < to of the rope that has pieces below. i is
// where the last range ended, near which the next one mostly begins; the new one is returned.
func appendRange(out []piece, end uint32, below []piece, i int, from, to uint32) ([]piece, int) {
	i = seek(below, i, from)
	q := below[i]
	start := uint32(0)
	if i > 0 {
		start = below[i-1].end
	}
	q.at += from - start
	shift := end - from // from places in below to places in out
	for q.end < to {
		out = append(out, piece{q.text, q.at, q.end + shift})
		i++
		q = below[i]
	}
	return append(out, piece{q.text, q.at, to + shift}), i
}

// seek returns the piece that holds the byte at place at, which must be there. It looks near i first.
func seek(pieces []piece, i int, at uint32) int {
	if at < pieces[i].end {
		if i == 0 || at >= pieces[i-1].end {
			return i
		}
		pieces, i = pieces[:i], 0
	} else {
		const near = 4
		for k := i + 1; k <= i+near && k < len(pieces); k++ {
			if at < pieces[k].end {
				return k
			}
		}
		i += near
	}
	for n := len(pieces) - i; n > 1; { // the first piece that ends behind at is one of n from i on
		half := n / 2
		next := i
		if pieces[i+half-1].end <= at { // as a conditional move: nobody can predict it
			next = i + half
		}
		i = next
		n -= half
	}
	return i
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
func (r *Rope) Reset() {
	if r.lent {
		r.pieces, r.spare, r.lent = r.spare, nil, false
	}
	r.pieces, r.size, r.open = r.pieces[:0], 0, false
}

// Append adds p to the end. It keeps p.
func (r *Rope) Append(p []byte) {
	if len(p) == 0 {
		return
	}
	if r.texts == nil {
		r.texts = &Texts{}
	}
	r.size += len(p)
	r.pieces = append(r.pieces, piece{r.texts.add(p), 0, uint32(r.size)})
}

// AppendRope adds the text of o to the end.
func (r *Rope) AppendRope(o *Rope) {
	if r.texts == nil {
		r.texts = o.texts
	}
	start := uint32(0)
	for _, p := range o.pieces {
		if r.texts != o.texts {
			r.Append(o.bytesOf(p, start))
		} else {
			r.size += int(p.end - start)
			r.pieces = append(r.pieces, piece{p.text, p.at, uint32(r.size)})
		}
		start = p.end
	}
}

// AppendTo appends the text to dst.
func (r *Rope) AppendTo(dst []byte) []byte {
	start := uint32(0)
	for _, p := range r.pieces {
		dst = append(dst, r.bytesOf(p, start)...)
		start = p.end
	}
	return dst
}

// Bytes returns the text: the memory that it was made of, if that is one piece, and else a copy that it puts into scratch.
// The bytes must not be changed.
func (r *Rope) Bytes(scratch *[]byte) []byte {
	if len(r.pieces) == 1 {
		return r.bytesOf(r.pieces[0], 0)
	}
	*scratch = r.AppendTo(slices.Grow((*scratch)[:0], r.size))
	return *scratch
}
