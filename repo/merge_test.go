package repo

import (
	"context"
	"encoding/binary"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/whole-tale/wtsnap/index"
	"github.com/whole-tale/wtsnap/repo/storage/count"
)

func allSegments(sizes map[index.SegmentID]int64) []index.SegmentID {
	return slices.SortedFunc(maps.Keys(sizes), func(a, b index.SegmentID) int { return slices.Compare(a[:], b[:]) })
}

// mergeAll merges all segments under a lease of its own.
func mergeAll(ctx context.Context, r *Repository) (err error) {
	l, err := r.newLease(ctx, leaseWriter)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.remove(context.WithoutCancel(ctx))) }()
	return r.mergeIndex(ctx, l, allSegments)
}

func TestChooseMerge(t *testing.T) {
	const full = segmentBlobs * segmentBlobBytes / 2
	for _, c := range []struct {
		name   string
		sizes  []int64
		merged int
	}{
		{"few", slices.Repeat([]int64{1000}, 16), 0},
		{"many nights", slices.Repeat([]int64{1000}, 17), 17},
		{"a first backup, and nights", append(slices.Repeat([]int64{1000}, 16), 500_000), 16},
		{"merged nights, and nights", append(slices.Repeat([]int64{1000}, 16), 16_000, 20_000), 18},
		{"large nights behind small ones", append(slices.Repeat([]int64{20_000}, 15), 1000, 1000), 15},
		{"full ones", slices.Repeat([]int64{full}, 100), 0},
		{"full ones, and nights", append(slices.Repeat([]int64{full}, 100), slices.Repeat([]int64{1000}, 16)...), 0},
		{"growing", []int64{1, 3, 10, 31, 94, 283, 850, 2551, 7654, 22963, 68890, 206671, 620014, 620014 * 3, 2_200_000, 2_200_001, 2_200_002, 2_200_003}, 5},
	} {
		sizes := map[index.SegmentID]int64{}
		for i, n := range c.sizes {
			var id index.SegmentID
			binary.BigEndian.PutUint32(id[:], uint32(i+1))
			sizes[id] = n
		}
		if got := chooseMerge(sizes); len(got) != c.merged {
			t.Errorf("%s: %d of %d are merged, want %d", c.name, len(got), len(sizes), c.merged)
		}
	}
}

// Over many nights the number of segments stays small, and what is written for that is a small multiple of what the
// nights add.
func TestChooseMergeOverYears(t *testing.T) {
	sizes := map[index.SegmentID]int64{{1}: 400_000} // the first backup
	var written, added int64
	most := 0
	for night := range 3 * 365 {
		var id index.SegmentID
		binary.BigEndian.PutUint32(id[4:], uint32(night+1))
		sizes[id] = 1000 + int64(night*7919%3000)
		added += sizes[id]
		if ids := chooseMerge(sizes); ids != nil {
			var sum int64
			for _, old := range ids {
				sum += sizes[old]
				delete(sizes, old)
			}
			written += sum
			sizes[id] = sum
		}
		most = max(most, len(sizes))
	}
	t.Logf("at most %d segments, %d bytes written for %d", most, written, added)
	if most > mergeSegments+1 || written > 20*added {
		t.Errorf("at most %d segments, %d bytes written for %d", most, written, added)
	}
}

// Nights without a prune leave few segments, and nothing is lost by merging them.
func TestNightsMergeTheIndex(t *testing.T) {
	tr := newRepo(t)
	held := map[SnapshotRef]content{}
	for n := range 3*mergeSegments + 2 {
		c := content{words("same", strings.Repeat("n", n+1))}
		r := tr.open(tr.st)
		s, err := r.Begin(t.Context(), SessionOptions{})
		must0(t, err)
		m, err := putContent(t.Context(), s, c)
		must0(t, err)
		ref, err := s.Commit(t.Context(), Payload{Instance: "a", Time: nextTime(), Data: m})
		must0(t, err)
		must0(t, s.MergeIndex(t.Context()))
		must0(t, s.Close(t.Context()))
		held[ref] = c
		if got := len(list(t, tr.mem, indexDir)); got > mergeSegments {
			t.Fatalf("night %d: %d segments", n, got)
		}
	}
	r := tr.open(tr.st)
	for ref, c := range held {
		mustHold(t, r, ref, c)
	}
	if n := len(list(t, tr.mem, leasesDir)); n > 0 {
		t.Errorf("%d leases are left", n)
	}
}

// A reader and a writer of other processes, which loaded the index before it was merged, go on.
func TestMergeBesideOthers(t *testing.T) {
	tr := newRepo(t)
	old := tr.backup(content{words("a")})
	tr.backup(content{words("b")})
	reader := tr.open(tr.st)
	must0(t, reader.LoadIndex(t.Context()))
	w := tr.begin(tr.st)
	tree := w.put(words("c", "a"))
	must0(t, mergeAll(t.Context(), tr.open(tr.st)))
	if n := len(list(t, tr.mem, indexDir)); n != 1 {
		t.Fatalf("%d segments", n)
	}
	ref := w.commit(tree)
	w.close()
	mustHold(t, reader, old, content{words("a")})
	must0(t, reader.LoadIndex(t.Context()))
	mustHold(t, reader, ref, content{words("c", "a")})
}

// While a prune is at work nothing is merged: it may be about to remove packs.
func TestNoMergeBesideAPrune(t *testing.T) {
	tr := newRepo(t)
	tr.backup(content{words("a")})
	tr.backup(content{words("b")})
	r := tr.open(tr.st)
	p, err := r.PlanPrune(t.Context(), PruneOptions{References: references(r), Grace: MinGrace})
	must0(t, err)
	before := list(t, tr.mem, indexDir)
	must0(t, mergeAll(t.Context(), tr.open(tr.st)))
	if after := list(t, tr.mem, indexDir); !slices.Equal(before, after) {
		t.Errorf("%q became %q", before, after)
	}
	must0(t, p.Close(t.Context()))
	must0(t, mergeAll(t.Context(), tr.open(tr.st)))
	if n := len(list(t, tr.mem, indexDir)); n != 1 {
		t.Errorf("%d segments", n)
	}
}

// A prune that begins during a merge removes no pack that the merged segment lists.
func TestPruneDuringAMerge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := newRepo(t)
		gone := tr.backup(content{words("gone")})
		keep := tr.backup(content{words("keep")})
		forget(t, tr.open(tr.st), gone)
		tr.prune(PruneOptions{Grace: MinGrace}) // condemns
		time.Sleep(2 * MinGrace)
		pruned := false
		st := &hooked{Storage: tr.st, before: func(kind, name string) {
			if kind == "put" && strings.HasPrefix(name, indexDir) && !pruned {
				pruned = true
				if rep, _ := tr.prune(PruneOptions{Grace: MinGrace}); rep.Deleted.Packs > 0 {
					t.Errorf("%d packs were removed under a merge", rep.Deleted.Packs)
				}
			}
		}}
		must0(t, mergeAll(t.Context(), tr.open(st)))
		if !pruned {
			t.Fatal("nothing was merged")
		}
		if rep := checkAll(t, tr.open(tr.mem)); len(rep.Problems) > 0 {
			t.Errorf("%+v", rep.Problems)
		}
		if rep, _ := tr.prune(PruneOptions{Grace: MinGrace}); rep.Deleted.Packs == 0 {
			t.Error("nothing is removed after the merge")
		}
		mustHold(t, tr.open(tr.st), keep, content{words("keep")})
	})
}

// A machine that slept while it merged, through a sweep of what it merges, leaves no segment that lists what is gone.
func TestMergeOfAMachineThatSlept(t *testing.T) {
	for _, kind := range []string{"list", "put"} { // of packs; of the merged segment
		synctest.Test(t, func(t *testing.T) {
			tr := newRepo(t)
			gone := tr.backup(content{words("gone")})
			keep := tr.backup(content{words("keep")})
			forget(t, tr.open(tr.st), gone)
			slept := false
			st := &hooked{Storage: tr.mem, before: func(k, name string) { // what it does last does not last
				if k == kind && (k == "put" && strings.HasPrefix(name, indexDir) || name == packsDir) && !slept {
					slept = true
					for range 3 { // other machines work meanwhile
						time.Sleep(leaseDead + time.Hour)
						tr.prune(PruneOptions{Grace: MinGrace})
					}
				}
			}}
			r := tr.open(st)
			l, err := r.newLease(t.Context(), leaseWriter)
			must0(t, err)
			l.stop() // a machine that sleeps renews nothing
			err = r.mergeIndex(t.Context(), l, allSegments)
			if !slept || !errors.Is(err, ErrLeaseLost) {
				t.Errorf("slept %v: %v", slept, err)
			}
			must0(t, l.remove(t.Context()))
			if rep := checkAll(t, tr.open(tr.mem)); len(rep.Problems) > 0 || rep.Condemned.Packs > 0 {
				t.Errorf("%+v", rep)
			}
			mustHold(t, tr.open(tr.st), keep, content{words("keep")})
		})
	}
}

// The calls of a night do not depend on how many packs and snapshots there are, whoever prunes or does not.
func TestCallsOfNightsWithoutPrune(t *testing.T) {
	sizes := []int{10, 100, 1000}
	tr := newRepo(t)
	same := content{words("same")}
	n := 0
	night := func(st *count.Storage, c content) count.Counts {
		s, err := tr.open(st).Begin(t.Context(), SessionOptions{})
		must0(t, err)
		m, err := putContent(t.Context(), s, c)
		must0(t, err)
		_, err = s.Commit(t.Context(), Payload{Instance: "a", Time: nextTime(), Data: m})
		must0(t, err)
		must0(t, s.MergeIndex(t.Context()))
		must0(t, s.Close(t.Context()))
		return st.Counts()
	}
	for _, size := range sizes {
		for ; n < size; n++ {
			night(count.New(tr.mem), append(content{words("night" + strings.Repeat("x", n))}, same...))
		}
		packs, segments := len(list(t, tr.mem, packsDir)), int64(len(list(t, tr.mem, indexDir)))
		got := night(count.New(tr.mem), same)
		t.Logf("%d snapshots, %d packs, %d segments: %+v", n, packs, segments, got)
		if packs < size || segments > mergeSegments {
			t.Errorf("%d packs, %d segments", packs, segments)
		}
		if got.Put != 2 || got.Delete != 1 || got.List != 6 || got.Stat != 0 || got.Get != segments {
			t.Errorf("%d snapshots: %+v; want 2 puts, 1 delete, 6 lists, a get for each of %d segments", n, got, segments)
		}
	}
}
