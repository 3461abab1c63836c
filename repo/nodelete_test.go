package repo

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// Nights on a machine that may not remove anything, and a prune now and then on one that may: the nights succeed, the index
// does not grow by being merged in vain, and what is left behind holds no sweep up for longer than its own life.
func TestNightsWithoutDeletion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := newRepo(t)
		var refs []SnapshotRef
		c := content{words("a", "b")}
		for n := range 40 {
			r := tr.open(denying{tr.st})
			c = append(c[:min(len(c), 3)], words(fmt.Sprint("night", n)))
			ref, _, err := backupWith(t.Context(), r, c, SessionOptions{Instance: "a"})
			must0(t, err)
			if !r.DeletesDenied() {
				t.Fatal("the denial is not told")
			}
			refs = append(refs, ref)
			time.Sleep(24 * time.Hour)
		}
		if n := len(list(t, tr.mem, indexDir)); n > 41 {
			t.Errorf("%d index segments after 40 nights", n)
		}
		leases := must[[]leaseRecord](t)(tr.open(tr.st).leases(t.Context()))
		if len(leases) != 40 || slices.ContainsFunc(leases, func(l leaseRecord) bool { return !l.dead() }) {
			t.Errorf("%d leases are left, or some of them live", len(leases))
		}
		// A machine that may cleans up: leases, segments, and at last the packs.
		forget(t, tr.open(tr.st), refs[:39]...)
		packs := len(list(t, tr.mem, packsDir))
		for range 3 {
			tr.prune(PruneOptions{Grace: MinGrace})
			time.Sleep(2 * time.Hour)
		}
		if n := len(list(t, tr.mem, leasesDir)); n != 0 {
			t.Errorf("%d leases are left", n)
		}
		if n := len(list(t, tr.mem, packsDir)); n >= packs {
			t.Errorf("%d packs of %d are left", n, packs)
		}
		mustHold(t, tr.open(tr.st), refs[39], c)
	})
}
