package index

import (
	"iter"
	"math/bits"
	"sync/atomic"
)

// Set is a set of references of one kind: one bit for each that an Index has.
// Its methods may be called from several goroutines at once.
type Set[R ~uint32] struct {
	words []atomic.Uint64
}

// NewSet returns an empty set for references below n, such as Index.Len for
// BlobRefs.
func NewSet[R ~uint32](n int) *Set[R] {
	return &Set[R]{make([]atomic.Uint64, (n+63)/64)}
}

// Add adds r and reports whether it was missing; of several calls with the same
// r, one is told so. It panics when r is beyond the size that NewSet was given,
// rounded up to a multiple of 64.
func (s *Set[R]) Add(r R) bool {
	bit := uint64(1) << (r % 64)
	w := &s.words[r/64]
	return w.Load()&bit == 0 && w.Or(bit)&bit == 0
}

// Has reports whether r is in the set. What is beyond the set's size is not.
func (s *Set[R]) Has(r R) bool {
	return int(r/64) < len(s.words) && s.words[r/64].Load()&(1<<(r%64)) != 0
}

// Count returns the number of members.
func (s *Set[R]) Count() int {
	n := 0
	for i := range s.words {
		n += bits.OnesCount64(s.words[i].Load())
	}
	return n
}

// All yields the members in ascending order.
func (s *Set[R]) All() iter.Seq[R] {
	return func(yield func(R) bool) {
		for i := range s.words {
			for w := s.words[i].Load(); w != 0; w &= w - 1 {
				if !yield(R(i*64 + bits.TrailingZeros64(w))) {
					return
				}
			}
		}
	}
}
