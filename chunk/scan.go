package chunk

// laneBytes is how far each of the four lanes of a round goes. Each begins with the whole window, which is windowSize of
// laneBytes of work done twice.
const (
	laneBytes = 2 << 10
	lanes     = 4
)

// A scanner finds the lengths at which the last windowSize bytes, as a polynomial over GF(2), leave a remainder modulo
// Pol that ends in zeros: Rabin's rolling hash. One position's hash needs the one before, so that a processor mostly waits
// for its own results; but it depends on nothing before the window, so that four places are hashed at a time.
type scanner struct {
	mask uint64
	add  [256]uint64 // by the topmost 8 bits of a hash: what takes them back below the degree when it is shifted by a byte
	drop [256]uint64 // by the byte that leaves the window: its share of the hash after the shift
}

func newScanner(pol Pol, avgBits int) *scanner {
	s := &scanner{mask: 1<<avgBits - 1}
	for bit := range 8 {
		high := Pol(1) << (polDegree + bit)
		s.add[1<<bit] = uint64(high ^ high.Mod(pol))
		gone := Pol(1) << bit
		for range windowSize { // shifted by a byte windowSize times
			gone = (gone << 8).Mod(pol)
		}
		s.drop[1<<bit] = uint64(gone)
	}
	for b := range 256 {
		low := b & -b
		s.add[b] = s.add[low] ^ s.add[b&^low]
		s.drop[b] = s.drop[low] ^ s.drop[b&^low]
	}
	return s
}

// find returns the first n in [from, to) at which data may be cut, or -1. from is at least windowSize, to at most
// len(data).
func (s *scanner) find(data []byte, from, to int) int {
	n := from
	for ; n+lanes*laneBytes <= to; n += lanes * laneBytes {
		if i := s.round((*[windowSize + lanes*laneBytes]byte)(data[n-windowSize:])); i >= 0 {
			return n + i
		}
	}
	if n >= to {
		return -1
	}
	h := s.hash((*[windowSize]byte)(data[n-windowSize:]))
	for ; ; n++ {
		if h&s.mask == 0 {
			return n
		}
		if n+1 >= to {
			return -1
		}
		h = h<<8 ^ s.add[uint8(h>>(polDegree-8))] ^ uint64(data[n]) ^ s.drop[data[n-windowSize]]
	}
}

// hash returns the hash of a window.
func (s *scanner) hash(window *[windowSize]byte) (h uint64) {
	for _, b := range window {
		h = h<<8 ^ s.add[uint8(h>>(polDegree-8))] ^ uint64(b)
	}
	return h
}

// round looks at lanes*laneBytes positions, the first of them behind the first window of b.
func (s *scanner) round(b *[windowSize + lanes*laneBytes]byte) int {
	h0 := s.hash((*[windowSize]byte)(b[0*laneBytes:]))
	h1 := s.hash((*[windowSize]byte)(b[1*laneBytes:]))
	h2 := s.hash((*[windowSize]byte)(b[2*laneBytes:]))
	h3 := s.hash((*[windowSize]byte)(b[3*laneBytes:]))
	found := -1
	mask := s.mask
	for j := 0; j < laneBytes; j++ {
		if h0&mask == 0 {
			return j // the first lane is the one in front
		}
		if h1&mask == 0 || h2&mask == 0 || h3&mask == 0 {
			found = s.nearer(found, j, h1, h2, h3)
		}
		h0 = h0<<8 ^ s.add[uint8(h0>>(polDegree-8))] ^ uint64(b[windowSize+j]) ^ s.drop[b[j]]
		h1 = h1<<8 ^ s.add[uint8(h1>>(polDegree-8))] ^ uint64(b[windowSize+laneBytes+j]) ^ s.drop[b[laneBytes+j]]
		h2 = h2<<8 ^ s.add[uint8(h2>>(polDegree-8))] ^ uint64(b[windowSize+2*laneBytes+j]) ^ s.drop[b[2*laneBytes+j]]
		h3 = h3<<8 ^ s.add[uint8(h3>>(polDegree-8))] ^ uint64(b[windowSize+3*laneBytes+j]) ^ s.drop[b[3*laneBytes+j]]
	}
	return found
}

// nearer returns the first position of those found before, -1 for none, and those of step j at which a hash ends in zeros.
func (s *scanner) nearer(found, j int, hashes ...uint64) int {
	for i, h := range hashes {
		if at := (i+1)*laneBytes + j; h&s.mask == 0 && (found < 0 || at < found) {
			found = at
		}
	}
	return found
}
