package index_test

import (
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/whole-tale/wtsnap/index"
)

func TestSet(t *testing.T) {
	s := index.NewSet[index.PackRef](200)
	members := []index.PackRef{0, 1, 63, 64, 127, 199}
	for _, r := range []index.PackRef{199, 64, 0, 127, 1, 63} {
		if s.Has(r) || !s.Add(r) || !s.Has(r) || s.Add(r) {
			t.Errorf("%d is not added once", r)
		}
	}
	if got := slices.Collect(s.All()); !slices.Equal(got, members) || s.Count() != len(members) {
		t.Errorf("%d members: %v, want %v", s.Count(), got, members)
	}
	for _, r := range []index.PackRef{2, 62, 65, 198, 256, 1 << 31} {
		if s.Has(r) {
			t.Errorf("%d is a member", r)
		}
	}
	for r := range s.All() {
		if r != 0 {
			t.Errorf("%d follows a break", r)
		}
		break
	}
	if e := index.NewSet[index.BlobRef](0); e.Has(0) || e.Count() != 0 {
		t.Error("the empty set has members")
	}
}

// Of many goroutines that add the same, one is told that it was the first.
func TestSetConcurrent(t *testing.T) {
	const n = 10_000
	s := index.NewSet[index.BlobRef](n)
	var added atomic.Int64
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for r := range index.BlobRef(n) {
				if s.Add(r) {
					added.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if added.Load() != n || s.Count() != n {
		t.Errorf("%d were new, %d are members, want %d", added.Load(), s.Count(), n)
	}
}
