package chunk

// Link is a blob of a patch, which rests on another one's text.
type Link struct {
	Patch *Patch
	Blob  int
}

// Ropes makes ropes of the same texts, and uses their memory again. The zero value is empty. It is for one goroutine.
type Ropes struct {
	texts Texts
	free  []*Rope
}

// New returns an empty rope, which is to be given back by Free.
func (s *Ropes) New() *Rope {
	if n := len(s.free); n > 0 {
		r := s.free[n-1]
		s.free = s.free[:n-1]
		return r
	}
	return s.texts.NewRope()
}

// Free takes a rope of New back.
func (s *Ropes) Free(r *Rope) {
	r.Reset()
	s.free = append(s.free, r)
}

// Reset lets go of the texts. No rope that was not given back may be used any more.
func (s *Ropes) Reset() { s.texts.Reset() }

// Chain makes dst the text of the first link, which rests on the second one's and so on; the last one rests on base. Of what
// lies between, no text is made: the links are put together two by two. Where a link does not rest on what is below it,
// the error is Apply's, and bad says which one it is.
func (s *Ropes) Chain(dst *Rope, links []Link, base *Rope) (bad int, err error) {
	c := chain{s, links, base}
	if len(links) == 1 || len(base.pieces) <= fewPieces {
		return c.join(dst, 0, len(links))
	}
	c.base = nil // put in at the end: its many pieces are gone through once
	open := s.New()
	defer s.Free(open)
	if bad, err = c.join(open, 0, len(links)); err != nil {
		return bad, err
	}
	return len(links) - 1, open.On(dst, base)
}

// fewPieces is how many pieces of a base a chain is put together on at once.
const fewPieces = 64

type chain struct {
	*Ropes
	links []Link
	base  *Rope // nil: it is left open
}

// join makes dst the text of links[from:to], of unknown bytes where that is not all down to the base.
func (c *chain) join(dst *Rope, from, to int) (bad int, err error) {
	if to-from == 1 {
		l := c.links[from]
		if to < len(c.links) || c.base == nil {
			l.Patch.Open(dst, l.Blob)
			return from, nil
		}
		return from, l.Patch.Apply(dst, l.Blob, c.base)
	}
	half := (from + to) / 2
	upper, lower := c.New(), c.New()
	defer c.Free(upper)
	defer c.Free(lower)
	if bad, err = c.join(upper, from, half); err != nil {
		return bad, err
	}
	if bad, err = c.join(lower, half, to); err != nil {
		return bad, err
	}
	return half - 1, upper.On(dst, lower)
}
