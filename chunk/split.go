package chunk

import (
	"fmt"
	"io"

	"github.com/restic/chunker"
)

const (
	polDegree   = 53        // of every polynomial in use
	windowSize  = 64        // bytes under the rolling hash; also the least Min
	readSize    = 128 << 10 // bytes asked for at a time: what is read beyond a cut is copied twice
	emptyReads  = 100       // reads that return nothing before a reader counts as broken
	maxAvgBits  = 24
	defaultMin  = 128 << 10
	defaultMax  = 1 << 20
	defaultBits = 18
)

// Pol is an irreducible polynomial of degree 53 over GF(2), the modulus of the
// rolling hash. It is a secret: chunk lengths computed under a known polynomial
// tell which known files a repository holds.
type Pol = chunker.Pol

// DerivePol takes the first irreducible polynomial that r's bytes spell, eight
// bytes a candidate, so equal streams give equal polynomials. About one
// candidate in 27 is irreducible; r should not run dry before a few thousand
// bytes. It fails when r does.
func DerivePol(r io.Reader) (Pol, error) {
	p, err := chunker.DerivePolynomial(r)
	if err != nil {
		return 0, fmt.Errorf("derive chunker polynomial: %w", err)
	}
	return p, nil
}

// Params says where streams are cut. Every writer of a repository must use the
// same values, or equal content is stored twice.
type Params struct {
	Pol     Pol
	Min     int // bytes; no chunk but the last of a stream is shorter
	Max     int // bytes; no chunk is longer
	AvgBits int // beyond Min, a cut falls after 2^AvgBits bytes on average
}

// DefaultParams returns chunks of 128 KiB to 1 MiB, about 360 KiB on average:
// smaller chunks hardly deduplicate better but cost index space, larger ones
// make worse bases for deltas.
func DefaultParams(pol Pol) Params {
	return Params{Pol: pol, Min: defaultMin, Max: defaultMax, AvgBits: defaultBits}
}

// Validate reports the first reason why p cannot be used to cut a stream. It
// does not test whether Pol is irreducible; DerivePol makes it so.
func (p Params) Validate() error {
	switch {
	case p.Pol.Deg() != polDegree:
		return fmt.Errorf("chunker polynomial %v has degree %d, not %d", p.Pol, p.Pol.Deg(), polDegree)
	case p.Min < windowSize:
		return fmt.Errorf("minimum chunk size of %d bytes is below %d", p.Min, windowSize)
	case p.Max < p.Min:
		return fmt.Errorf("maximum chunk size of %d bytes is below the minimum of %d", p.Max, p.Min)
	case p.Max > MaxSize:
		return fmt.Errorf("maximum chunk size of %d bytes is above %d", p.Max, MaxSize)
	case p.AvgBits < 1 || p.AvgBits > maxAvgBits:
		return fmt.Errorf("average chunk size of 2^%d bytes is not within 2^1 to 2^%d", p.AvgBits, maxAvgBits)
	}
	return nil
}

// Splitter cuts a stream into chunks. It is for one goroutine; between streams
// Reset keeps its memory, which is at most Max bytes.
type Splitter struct {
	p    Params
	r    io.Reader
	scan *scanner // made when the first stream longer than Min turns up
	tail []byte   // read already, belongs to the next chunk
	err  error    // what r ended with, io.EOF or worse
}

// NewSplitter returns a Splitter that reads from r. It panics on parameters
// that Validate refuses. A nil r is for those who only call Split.
func NewSplitter(r io.Reader, p Params) *Splitter {
	if err := p.Validate(); err != nil {
		panic("chunk: " + err.Error())
	}
	s := &Splitter{p: p}
	s.Reset(r)
	return s
}

// Reset makes the Splitter start over with r.
func (s *Splitter) Reset(r io.Reader) {
	s.r, s.tail, s.err = r, s.tail[:0], nil
	if r == nil {
		s.err = io.EOF
	}
}

// Next returns the next chunk of the stream, and io.EOF after the last one. An
// empty stream has no chunk.
//
// The chunk is read into buf's capacity, which may be nil, and which is
// replaced by a larger array where it does not suffice: Params.Max bytes always
// do. The Splitter does not keep the chunk; it is the caller's until passed in
// again.
//
// A read error comes instead of the chunk it cut short, and again from every
// later call.
func (s *Splitter) Next(buf []byte) ([]byte, error) {
	if len(s.tail) == 0 && s.err != nil {
		return nil, s.err
	}
	buf = s.grow(buf[:0], len(s.tail))
	buf = append(buf, s.tail...)
	s.tail = s.tail[:0]

	for scanned := 0; ; {
		// What is left of the last read may hold a whole chunk.
		if s.err == nil && (len(buf) == scanned || len(buf) <= s.p.Min) {
			buf = s.fill(buf, min(max(len(buf), s.p.Min)+readSize, s.p.Max))
		}
		switch {
		case s.err != nil && s.err != io.EOF:
			return nil, s.err
		case len(buf) == 0:
			return nil, io.EOF
		case s.err == io.EOF && len(buf) <= s.p.Min:
			return buf, nil
		}
		if cut := s.cut(buf, max(scanned, s.p.Min)); cut > 0 {
			s.tail = append(s.tail, buf[cut:]...)
			return buf[:cut], nil
		}
		scanned = len(buf)
		if s.err == io.EOF {
			return buf, nil
		}
	}
}

// Split returns the length of the first chunk of a stream that lies in memory
// from that chunk to its end: 1 to len(data), or 0 for no data. The cuts are
// those of Next. It may be called between calls of Next, and leaves their
// stream alone.
func (s *Splitter) Split(data []byte) int {
	if len(data) <= s.p.Min {
		return len(data)
	}
	if n := s.cut(data, s.p.Min); n > 0 {
		return n
	}
	return len(data)
}

// cut returns the length of the chunk that data begins with, of which no length
// below from is one, or 0 where data does not reach to its end. from is at least
// Min.
func (s *Splitter) cut(data []byte, from int) int {
	if s.scan == nil {
		s.scan = newScanner(s.p.Pol, s.p.AvgBits)
	}
	to := min(len(data), s.p.Max)
	if n := s.scan.find(data, from, to); n >= 0 {
		return n
	}
	if to == s.p.Max {
		return to
	}
	return 0
}

// fill reads until buf holds n bytes, or sets s.err.
func (s *Splitter) fill(buf []byte, n int) []byte {
	buf = s.grow(buf, n)
	for empty := 0; len(buf) < n; {
		m, err := s.r.Read(buf[len(buf):n])
		buf = buf[:len(buf)+m]
		if err != nil {
			s.err = err
			return buf
		}
		if m > 0 {
			empty = 0
		} else if empty++; empty == emptyReads {
			s.err = io.ErrNoProgress
			return buf
		}
	}
	return buf
}

// grow returns buf with a capacity of at least n bytes.
func (s *Splitter) grow(buf []byte, n int) []byte {
	if n <= cap(buf) {
		return buf
	}
	return append(make([]byte, 0, min(max(n, 2*cap(buf)), s.p.Max)), buf...)
}
