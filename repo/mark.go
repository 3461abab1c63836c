package repo

import (
	"fmt"
	"sync"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/index"
)

// marker collects the blobs that snapshots reach: one copy of each, in a pack that is not condemned if
// there is one, and the bases of deltas. visit may be called concurrently.
type marker struct {
	x    *index.Index
	used *index.Set[index.BlobRef]

	mu   sync.Mutex
	gone error // the first blob that no pack holds
}

func (m *marker) visit(_ index.Kind, id chunk.ID) bool { return m.mark(index.KeyOf(id), 0) }

// mark reports whether the blob was not marked before.
func (m *marker) mark(key index.Key, depth int) bool {
	loc, ok := m.x.Lookup(key)
	if !ok || depth > maxDepth {
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.gone == nil {
			m.gone = &DamageError{Kind: DamageBlobGone, Object: fmt.Sprintf("blob %x", key), Detail: "no pack of the index holds it"}
		}
		return true // so that what it refers to is visited for other snapshots' sake
	}
	if !m.used.Add(loc.Ordinal) {
		return false
	}
	for _, base := range loc.Bases {
		m.mark(base, depth+1)
	}
	return true
}

func (m *marker) err() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.gone
}
