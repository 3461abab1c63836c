package repo

import (
	"slices"
	"sync"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/index"
)

// marker collects the blobs that snapshots reach: one copy of each, in a pack that is not condemned if
// there is one, and the bases of deltas. No chain of bases among the chosen copies comes back to itself:
// two blobs may each have a copy that is a delta of the other. visit may be called concurrently.
type marker struct {
	x       *index.Index
	used    *index.Set[index.BlobRef]
	end     index.BlobRef             // what the index gained since used was made is left alone
	without map[index.PackID]bool     // packs that count as not there
	keep    *index.Set[index.BlobRef] // but for these blobs in them; may be nil

	mu   sync.Mutex
	gone error // the first blob that no pack holds
}

func newMarker(x *index.Index, without map[index.PackID]bool) *marker {
	n := x.Len()
	return &marker{x: x, used: index.NewSet[index.BlobRef](n), end: index.BlobRef(n), without: without}
}

// visit reports whether the blob was not marked before.
func (m *marker) visit(_ index.Kind, id chunk.ID) bool {
	key := index.KeyOf(id)
	if loc, ok := m.x.Lookup(key); ok && len(loc.Bases) == 0 && m.there(loc) {
		return m.used.Add(loc.Ordinal)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	first, ok := m.choose(key, nil)
	if !ok && m.gone == nil {
		m.gone = &DamageError{Kind: DamageBlobGone, Object: "blob " + key.String(), Detail: "no pack of the index holds it, or not all that it is a delta of"}
	}
	return first || !ok // so that what it refers to is visited for other snapshots' sake
}

func (m *marker) there(loc index.Location) bool {
	return loc.Ordinal < m.end && (!m.without[loc.PackID] || m.keep != nil && m.keep.Has(loc.Ordinal))
}

// choose marks a copy of the blob and copies of its bases. chain holds the deltas that rest on it.
func (m *marker) choose(key index.Key, chain []index.Key) (first, ok bool) {
	copies := m.x.Lookups(key)
	for _, loc := range copies {
		if m.used.Has(loc.Ordinal) {
			return false, true
		}
	}
	if len(chain) > maxDepth || slices.Contains(chain, key) {
		return false, false
	}
	chain = append(chain, key)
	for _, loc := range copies {
		whole := m.there(loc)
		for _, base := range loc.Bases {
			if !whole {
				break
			}
			_, whole = m.choose(base, chain)
		}
		if whole {
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
