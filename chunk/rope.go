package chunk

// Rope is a text made of pieces of other texts, which it refers to and does not copy. The zero value is empty. It is for
// one goroutine; whoever changes the bytes that it was made of changes it too.
type Rope struct {
	parts [][]byte // none is empty
	size  int
}

// Len returns the length in bytes.
func (r *Rope) Len() int { return r.size }

// Reset empties the rope and keeps its memory.
func (r *Rope) Reset() {
	clear(r.parts)
	r.parts, r.size = r.parts[:0], 0
}

// Append adds p to the end. It keeps p.
func (r *Rope) Append(p []byte) {
	if len(p) > 0 {
		r.parts = append(r.parts, p)
		r.size += len(p)
	}
}

// AppendRope adds the text of o to the end.
func (r *Rope) AppendRope(o *Rope) {
	r.parts = append(r.parts, o.parts...)
	r.size += o.size
}

// AppendTo appends the text to dst.
func (r *Rope) AppendTo(dst []byte) []byte {
	for _, p := range r.parts {
		dst = append(dst, p...)
	}
	return dst
}

// Bytes returns the text: the memory that it was made of, if that is one piece, and else a copy that it puts into scratch.
// The bytes must not be changed.
func (r *Rope) Bytes(scratch *[]byte) []byte {
	if len(r.parts) == 1 {
		return r.parts[0]
	}
	*scratch = r.AppendTo((*scratch)[:0])
	return *scratch
}

// ropeCursor is a place in a rope: the text begins at start with part i. Places are mostly asked for in their order, so
// that walking from the last one beats searching.
type ropeCursor struct {
	r        *Rope
	i, start int
}

// copyTo appends n bytes from offset off to dst. The range must be within the rope.
func (c *ropeCursor) copyTo(dst *Rope, off, n int) {
	parts := c.r.parts
	for off < c.start {
		c.i--
		c.start -= len(parts[c.i])
	}
	for off >= c.start+len(parts[c.i]) {
		c.start += len(parts[c.i])
		c.i++
	}
	dst.size += n
	if first := parts[c.i][off-c.start:]; len(first) >= n {
		dst.parts = append(dst.parts, first[:n])
		return
	} else {
		dst.parts = append(dst.parts, first)
		n -= len(first)
	}
	c.start += len(parts[c.i])
	c.i++
	from := c.i
	for n > 0 && len(parts[c.i]) <= n {
		n -= len(parts[c.i])
		c.start += len(parts[c.i])
		c.i++
	}
	dst.parts = append(dst.parts, parts[from:c.i]...)
	if n > 0 {
		dst.parts = append(dst.parts, parts[c.i][:n])
	}
	if c.i == len(parts) { // the cursor stays on a part
		c.i--
		c.start -= len(parts[c.i])
	}
}
