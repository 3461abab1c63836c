package index

import (
	"math/bits"
	"unsafe"
)

// pageLen is the number of elements of a page: enough that the list of pages
// weighs nothing, few enough that a small repository's index is small.
const pageLen = 1024

// paged is a list that grows without moving its elements and without room to
// spare beyond its last page. Elements may be read while later ones are
// appended only under the Index's lock, as the list of pages moves.
type paged[T any] struct {
	pages []*[pageLen]T
	n     int
}

func (l *paged[T]) at(i uint32) *T { return &l.pages[i/pageLen][i%pageLen] }

func (l *paged[T]) append(v T) {
	if l.n == len(l.pages)*pageLen {
		l.pages = append(l.pages, new([pageLen]T))
	}
	l.pages[l.n/pageLen][l.n%pageLen] = v
	l.n++
}

func (l *paged[T]) memory() int64 {
	var v T
	return int64(len(l.pages))*pageLen*int64(unsafe.Sizeof(v)) + int64(cap(l.pages))*8
}

// rank is a list of bits that tells in constant time how many are set up to a
// given one (Jacobson's rank, at 2 bits a bit). Where a set bit marks the first
// member of a group, that is the group's ordinal: it takes the place of a table
// of groups' beginnings and of searching in it.
type rank struct {
	words paged[rankWord]
	n     uint32
	ones  uint32
}

type rankWord struct {
	bits   uint64
	before uint32 // bits set in all words before
}

func (r *rank) append(bit bool) {
	if r.n%64 == 0 {
		r.words.append(rankWord{before: r.ones})
	}
	if bit {
		r.words.at(r.n / 64).bits |= 1 << (r.n % 64)
		r.ones++
	}
	r.n++
}

// bit returns bit i; bits beyond the end are set, as if a group began there.
func (r *rank) bit(i uint32) bool {
	return i >= r.n || r.words.at(i/64).bits&(1<<(i%64)) != 0
}

// group returns the ordinal of the group that i is a member of: the number of
// bits set in 0 to i, less one.
func (r *rank) group(i uint32) uint32 {
	w := r.words.at(i / 64)
	return w.before + uint32(bits.OnesCount64(w.bits<<(63-i%64))) - 1
}

func (r *rank) memory() int64 { return r.words.memory() }

// table finds ordinals by hash: open addressing with linear probing, at a load
// of 0.64 to 0.8. A byte of each hash lies beside the ordinals, so that a search
// hardly ever looks at an element that is not the one. Equal hashes are found
// in the order of their insertion. Hashes must be uniform, as those of keyed
// BLAKE3 are.
type table struct {
	tags []uint8 // 0: free
	refs []uint32
	n    int
}

func tag(hash uint64) uint8 { return max(uint8(hash), 1) }

func (t *table) home(hash uint64) int {
	hi, _ := bits.Mul64(hash, uint64(len(t.tags)))
	return int(hi)
}

// probe is a search for the ordinals that were inserted under a hash.
type probe struct {
	t   *table
	i   int
	tag uint8
}

func (t *table) probe(hash uint64) probe { return probe{t, t.home(hash), tag(hash)} }

// next returns the next candidate: its hash agrees in one byte and, roughly, in
// its high bits.
func (p *probe) next() (ref uint32, ok bool) {
	tags := p.t.tags
	for i := p.i; i < len(tags); {
		switch tags[i] {
		case 0:
			p.i = i
			return 0, false
		case p.tag:
			ref = p.t.refs[i]
			if p.i = i + 1; p.i == len(tags) {
				p.i = 0
			}
			return ref, true
		}
		if i++; i == len(tags) {
			i = 0
		}
	}
	return 0, false // an empty table
}

// insert adds ref. The hashes of what is in the table are asked for when it
// grows.
func (t *table) insert(hash uint64, ref uint32, hashOf func(ref uint32) uint64) {
	if (t.n+1)*5 > len(t.tags)*4 {
		t.grow(max(8, len(t.tags)*5/4), hashOf)
	}
	t.put(hash, ref)
	t.n++
}

func (t *table) put(hash uint64, ref uint32) {
	i := t.home(hash)
	for t.tags[i] != 0 {
		if i++; i == len(t.tags) {
			i = 0
		}
	}
	t.tags[i], t.refs[i] = tag(hash), ref
}

// reserve makes room for n more at once.
func (t *table) reserve(n int, hashOf func(ref uint32) uint64) {
	if slots := (t.n+n)*5/4 + 1; slots > len(t.tags) {
		t.grow(slots, hashOf)
	}
}

// grow moves to a table of n slots.
func (t *table) grow(n int, hashOf func(ref uint32) uint64) {
	old := *t
	t.tags, t.refs = make([]uint8, n), make([]uint32, n)
	// Begin behind a free slot, so that no run is taken up in its middle and
	// equal hashes keep their order.
	start := 0
	for start < len(old.tags) && old.tags[start] != 0 {
		start++
	}
	for k := range old.tags {
		if i := (start + k) % len(old.tags); old.tags[i] != 0 {
			t.put(hashOf(old.refs[i]), old.refs[i])
		}
	}
}

func (t *table) memory() int64 { return int64(cap(t.tags)) + 4*int64(cap(t.refs)) }
