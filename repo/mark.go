package repo

import (
	"slices"
	"sync"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/index"
)

// marker collects the blobs that snapshots reach: one copy of each, and the bases of deltas. A copy that is condemned, or
// that rests on such a one, is taken where there is no other: a backup that found no good one may have stored one beside
// it. One that was given up or is gone is taken only where there is not even a condemned one: a pack that a prune wrote
// anew may be lost while the old one is still there. No chain of bases among the chosen copies comes back to itself: two blobs may each have a copy
// that is a delta of the other. visit may be called concurrently.
type marker struct {
	x       *index.Index
	used    *index.Set[index.BlobRef]
	end     index.BlobRef             // what the index gained since used was made is left alone
	without map[index.PackID]bool     // packs that count as not there
	keep    *index.Set[index.BlobRef] // but for these blobs in them; may be nil
	poor    map[index.PackRef]rank    // packs that are not good

	mu   sync.Mutex
	weak map[index.BlobRef]rank // those of used that are not good, or rest on such
	gone error                  // the first blob that no pack holds
}

// rank says how far a copy is from being a good one.
type rank uint8

const (
	rankGood      rank = iota
	rankCondemned      // it is there
	rankLost           // it was given up, or is not there with its size
)

func newMarker(x *index.Index, without map[index.PackID]bool) *marker {
	n := x.Len()
	m := &marker{x: x, used: index.NewSet[index.BlobRef](n), end: index.BlobRef(n), without: without,
		poor: map[index.PackRef]rank{}, weak: map[index.BlobRef]rank{}}
	for ref, info := range x.Packs() {
		if info.Condemned {
			m.poor[ref] = rankCondemned
		}
	}
	return m
}

// prefer makes the marker take copies in packs that were given up, or that are not there with their size, as a listing has
// them, only where there are no others.
func (m *marker) prefer(stored map[index.PackID]int64, lists []condemnedList) {
	for ref, info := range m.x.Packs() {
		if size, ok := stored[info.ID]; !ok || size != info.Size {
			m.poor[ref] = rankLost
		}
	}
	for _, list := range lists {
		for _, id := range list.packs {
			if ref, ok := m.x.FindPack(id); ok && list.Damaged {
				m.poor[ref] = rankLost
			}
		}
	}
}

// visit reports whether the blob was not marked before.
func (m *marker) visit(_ index.Kind, id chunk.ID) bool {
	key := index.KeyOf(id)
	if loc, ok := m.x.Lookup(key); ok && len(loc.Bases) == 0 && m.there(loc) && m.poor[loc.Pack] == rankGood {
		return m.used.Add(loc.Ordinal)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var first, ok bool
	for most := rankGood; most <= rankLost && !ok; most++ {
		first, ok = m.choose(key, nil, most)
	}
	if !ok && m.gone == nil {
		m.gone = &DamageError{Kind: DamageBlobGone, Object: "blob " + key.String(), Detail: "no pack of the index holds it, or not all that it is a delta of"}
	}
	return first || !ok // so that what it refers to is visited for other snapshots' sake
}

func (m *marker) there(loc index.Location) bool {
	return loc.Ordinal < m.end && (!m.without[loc.PackID] || m.keep != nil && m.keep.Has(loc.Ordinal))
}

// choose marks a copy of the blob and copies of its bases, of those that are no worse than most. chain holds the deltas that
// rest on it.
func (m *marker) choose(key index.Key, chain []index.Key, most rank) (first, ok bool) {
	copies := m.x.Lookups(key)
	for _, loc := range copies {
		if m.used.Has(loc.Ordinal) && m.weak[loc.Ordinal] <= most {
			return false, true
		}
	}
	if len(chain) > maxDepth || slices.Contains(chain, key) {
		return false, false
	}
	chain = append(chain, key)
	for _, loc := range copies {
		whole := m.there(loc) && m.poor[loc.Pack] <= most
		for _, base := range loc.Bases {
			if !whole {
				break
			}
			_, whole = m.choose(base, chain, most)
		}
		if whole {
			if most > rankGood {
				m.weak[loc.Ordinal] = most
			} else {
				delete(m.weak, loc.Ordinal)
			}
			return m.used.Add(loc.Ordinal), true
		}
	}
	return false, false
}

func (m *marker) err() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.gone
}
