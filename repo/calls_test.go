package repo

import (
	"fmt"
	"testing"

	"github.com/whole-tale/wtsnap/repo/storage/count"
)

// A night in which nothing changes takes the same few calls, whatever the repository's size.
func TestCallsOfAnUnchangedNight(t *testing.T) {
	var first count.Counts
	for i, snapshots := range []int{1, 10, 60} {
		tr := newRepo(t)
		c := content{words("a", "b"), words("c")}
		tr.backup(c)
		for n := 1; n < snapshots; n++ {
			tr.backup(append(content{words(fmt.Sprint("other", n))}, c...))
		}
		if snapshots > 1 {
			tr.prune(PruneOptions{}) // as nights do; it merges small packs and, beyond 16, index segments
			tr.prune(PruneOptions{})
		}
		segments := int64(len(list(t, tr.mem, indexDir)))
		st := count.New(tr.st)
		r := tr.open(st)
		_, stats, err := backupWith(t.Context(), r, c, SessionOptions{})
		must0(t, err)
		got := st.Counts()
		t.Logf("%2d snapshots, %2d packs, %d segments: %+v", snapshots, len(list(t, tr.mem, packsDir)), segments, got)
		if stats.BlobsNew != 0 || stats.Packs != 0 {
			t.Errorf("something was stored: %+v", stats)
		}
		if got.Put != 2 || got.Delete != 1 || got.List != 6 || got.Stat != 0 || got.Get != segments {
			t.Errorf("%d snapshots: %+v; want 2 puts (lease, manifest), 1 delete (lease), 6 lists, a get for each of %d segments", snapshots, got, segments)
		}
		if segments > mergeSegments+2 {
			t.Errorf("%d index segments", segments)
		}
		if i == 0 {
			first = got
		} else if got.Put != first.Put || got.List != first.List || got.Delete != first.Delete {
			t.Errorf("calls depend on the size: %+v, %+v", first, got)
		}
		// The same process again, as the daemon does: the index is there.
		before := st.Counts()
		_, _, err = backupWith(t.Context(), r, c, SessionOptions{})
		must0(t, err)
		if again := st.Counts().Sub(before); again.Get != 0 || again.Put != 2 {
			t.Errorf("the second night in one process: %+v", again)
		}
	}
}

// A condemned list, of which there is mostly one, is read once by a session, not at each look.
func TestCallsWithCondemnedLists(t *testing.T) {
	tr := newRepo(t)
	c := content{words("a")}
	old := tr.backup(content{words("old")})
	tr.backup(c)
	forget(t, tr.open(tr.st), old)
	tr.prune(PruneOptions{Grace: MinGrace})
	if n := len(list(t, tr.mem, condemnedDir)); n != 1 {
		t.Fatalf("%d condemned lists", n)
	}
	st := count.New(tr.st)
	_, _, err := backupWith(t.Context(), tr.open(st), c, SessionOptions{})
	must0(t, err)
	if got, want := st.Counts().Get, int64(len(list(t, tr.mem, indexDir))+1); got != want {
		t.Errorf("%d gets, want %d", got, want)
	}
}

// What a prune costs where there is nothing to do.
func TestCallsOfAnIdlePrune(t *testing.T) {
	tr := newRepo(t)
	for n := range 5 {
		tr.backup(content{words(fmt.Sprint(n))})
	}
	st := count.New(tr.st)
	_, _, err := prune(t.Context(), tr.open(st), PruneOptions{Grace: MinGrace})
	must0(t, err)
	got := st.Counts()
	t.Logf("5 snapshots: %+v", got)
	if got.Put != 1 || got.Delete != 1 { // the lease
		t.Errorf("an idle prune changes something: %+v", got)
	}
}
