package chunk

import (
	"encoding/binary"
	"math/bits"
)

// span is a run of n source bytes that the base has too.
type span struct{ src, base, n int }

const (
	// Lengths in bytes below which a match costs more than it saves: writing it down takes two or three bytes, following
	// it takes a reader time, and what is left as literals resembles other literals and compresses well. A match that
	// goes on where the base would have gone on after the last one is cheaper than any other.
	minNear = 24
	minFar  = 32

	// blockSize is the length in bytes of the blocks of the base that are indexed, and their distance: each run of
	// 2*blockSize-1 bytes that both have holds one of them.
	blockSize = 16

	// nearAhead is how many bytes behind a difference the matcher looks for the two to go on alike before it looks
	// elsewhere.
	nearAhead = 48
)

// matcher finds what a source has in common with its base: where both differ, first a little ahead at the same distance
// (something was overwritten), then anywhere (something was inserted, deleted or moved). As in rsync and the compressors of
// differences that came after it (Tridgell, "Efficient Algorithms for Sorting and Synchronization", 1999), the base is
// indexed by blocks and the source looked up at every byte; matches then grow both ways.
//
// It is for one goroutine. Its memory is an index of up to 1 byte for each byte of the largest base.
type matcher struct {
	table []uint32 // the first block with that hash: its number + 1
	shift uint
	spans []span
}

// diff returns spans in the order of the source, without overlaps. They are valid until the next call.
func (m *matcher) diff(src, base []byte) []span {
	m.spans = m.spans[:0]
	indexed := false
	for i, expect := 0, 0; i < len(src); {
		s := near(src, base, i, expect)
		if s.n == 0 {
			if !indexed {
				m.index(base)
				indexed = true
			}
			if s = m.far(src, base, i); s.n == 0 {
				break
			}
		}
		s = m.add(s)
		i, expect = s.src+s.n, s.base+s.n
	}
	return m.spans
}

// near returns a match on the line on which src[i] lies beside base[j].
func near(src, base []byte, i, j int) span {
	if len(src)-i < minNear { // the end of the source, which is cheap if it is the end of the base too
		if n := commonEnd(src[i:], base[min(j, len(base)):]); n > 4 {
			return span{len(src) - n, len(base) - n, n}
		}
	}
	for k := 0; k < nearAhead && i+k+8 <= len(src) && j+k+8 <= len(base); k++ {
		if binary.LittleEndian.Uint64(src[i+k:]) != binary.LittleEndian.Uint64(base[j+k:]) {
			continue
		}
		n := common(src[i+k:], base[j+k:])
		if n >= minNear {
			return span{i + k, j + k, n}
		}
		k += n
	}
	return span{}
}

// far returns the next match from src[i] on that is anywhere in the base. It may begin before i.
func (m *matcher) far(src, base []byte, i int) span {
	floor := 0
	if n := len(m.spans); n > 0 {
		floor = m.spans[n-1].src
	}
	for ; i+blockSize <= len(src); i++ {
		a, b := binary.LittleEndian.Uint64(src[i:]), binary.LittleEndian.Uint64(src[i+8:])
		block := m.table[blockHash(a, b)>>m.shift]
		if block == 0 {
			continue
		}
		j := int(block-1) * blockSize
		if a != binary.LittleEndian.Uint64(base[j:]) || b != binary.LittleEndian.Uint64(base[j+8:]) {
			continue
		}
		n := blockSize + common(src[i+blockSize:], base[j+blockSize:])
		back := commonEnd(src[floor:i], base[:j])
		if n+back >= minFar {
			return span{i - back, j - back, n + back}
		}
	}
	return span{}
}

// add appends a match. Earlier ones that it covers were found by chance, and go.
func (m *matcher) add(s span) span {
	for len(m.spans) > 0 {
		last := m.spans[len(m.spans)-1]
		if last.src < s.src {
			if d := last.src + last.n - s.src; d > 0 {
				s = span{s.src + d, s.base + d, s.n - d}
			}
			break
		}
		m.spans = m.spans[:len(m.spans)-1]
	}
	m.spans = append(m.spans, s)
	return s
}

func (m *matcher) index(base []byte) {
	blocks := len(base) / blockSize
	width := max(bits.Len(uint(2*blocks)), 8)
	if cap(m.table) < 1<<width {
		m.table = make([]uint32, 1<<width)
	}
	m.table = m.table[:1<<width]
	clear(m.table)
	m.shift = uint(64 - width)
	for k := blocks - 1; k >= 0; k-- {
		p := base[k*blockSize:]
		m.table[blockHash(binary.LittleEndian.Uint64(p), binary.LittleEndian.Uint64(p[8:]))>>m.shift] = uint32(k + 1)
	}
}

// blockHash mixes the two halves of a block into the upper bits.
func blockHash(a, b uint64) uint64 {
	const m1, m2 = 0x9e3779b97f4a7c15, 0xc2b2ae3d27d4eb4f // odd, of evenly mixed bits
	return (a*m1 ^ bits.RotateLeft64(b*m2, 29)) * m1
}

// common returns the length of the common beginning.
func common(a, b []byte) int {
	a = a[:min(len(a), len(b))]
	b = b[:len(a)]
	n := 0
	for ; n+8 <= len(a); n += 8 {
		if d := binary.LittleEndian.Uint64(a[n:]) ^ binary.LittleEndian.Uint64(b[n:]); d != 0 {
			return n + bits.TrailingZeros64(d)/8
		}
	}
	for n < len(a) && a[n] == b[n] {
		n++
	}
	return n
}

// commonEnd returns the length of the common end.
func commonEnd(a, b []byte) int {
	n := 0
	for n < len(a) && n < len(b) && a[len(a)-1-n] == b[len(b)-1-n] {
		n++
	}
	return n
}
