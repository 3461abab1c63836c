package repo

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/index"
	"github.com/whole-tale/wtsnap/repo/storage/storagetest"
)

// of begins a session of an instance.
func (tr *testRepo) of(instance string) *writer {
	tr.t.Helper()
	r := tr.open(tr.st)
	s, err := r.Begin(context.Background(), SessionOptions{Instance: instance, Level: chunk.LevelFastest})
	must0(tr.t, err)
	return &writer{tr.t, r, s, s.Writer()}
}

// kill ends a session as SIGKILL does: nothing of it is stored any more. It returns the packs that no segment
// lists.
func (w *writer) kill() (stored []index.PackID) {
	w.t.Helper()
	must0(w.t, w.s.slots.idle(context.Background()))
	w.s.lease.stop()
	w.s.cancel()
	if len(w.s.packs) == 0 {
		w.t.Fatal("no pack is stored that no segment lists")
	}
	for _, p := range w.s.packs {
		stored = append(stored, p.ID)
	}
	return stored
}

func halves(n int) (blobs [][]byte) {
	for i := range n {
		blobs = append(blobs, noise(uint64(i)+1, packBytes/2-4096))
	}
	return blobs
}

// What a killed session had uploaded is used by the next one of its instance at once, and by others after a while.
func TestAdopt(t *testing.T) {
	for _, c := range []struct {
		name, instance string
		pause          time.Duration
		adopted        bool
	}{
		{"the same instance", "a", 0, true},
		{"another one", "b", 0, false},
		{"another one, later", "b", time.Hour, true},
		{"none", "", time.Hour, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tr := newRepo(t)
				tr.backup(content{words("x")})
				blobs := halves(2*openPacks + 2)
				first := tr.of("a")
				first.put(blobs)
				stored := len(first.kill())
				time.Sleep(c.pause)
				w := tr.of(c.instance)
				tree := w.put(blobs)
				want := int64(0)
				if c.adopted {
					want = int64(2 * stored)
				}
				if got := w.s.Stats().BlobsReused; got != want {
					t.Errorf("%d blobs were found again, want %d of %d packs", got, want, stored)
				}
				ref := w.commit(tree)
				w.close()
				mustHold(t, tr.open(tr.st), ref, content{blobs})
				// The lease of the killed one is still there; nothing is adopted a second time, nor listed twice.
				before := len(list(t, tr.mem, indexDir))
				w = tr.of(c.instance)
				w.close()
				if c.adopted && len(list(t, tr.mem, indexDir)) != before {
					t.Error("something was adopted again")
				}
			})
		})
	}
}

// A prune condemns what a session has just adopted: the session rescues it.
func TestAdoptedThenCondemned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := newRepo(t)
		tr.backup(content{words("x")})
		blobs := halves(2*openPacks + 2)
		first := tr.of("a")
		first.put(blobs)
		orphans := first.kill()
		w := tr.of("a")
		condemnByHand(t, tr, orphans...)
		tree := w.put(blobs)
		ref := w.commit(tree)
		w.close()
		for range 3 {
			time.Sleep(3 * 24 * time.Hour)
			tr.prune(PruneOptions{Grace: MinGrace})
		}
		mustHold(t, tr.open(tr.st), ref, content{blobs})
	})
}

// What is on a condemned list before a session begins is left alone.
func TestCondemnedIsNotAdopted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := newRepo(t)
		tr.backup(content{words("x")})
		blobs := halves(2*openPacks + 2)
		first := tr.of("a")
		first.put(blobs)
		orphans := first.kill()
		condemnByHand(t, tr, orphans...)
		w := tr.of("a")
		tree := w.put(blobs)
		if got := w.s.Stats().BlobsReused; got != 0 {
			t.Errorf("%d blobs of condemned packs are relied upon", got)
		}
		ref := w.commit(tree)
		w.close()
		time.Sleep(3 * 24 * time.Hour)
		tr.prune(PruneOptions{Grace: MinGrace})
		mustHold(t, tr.open(tr.st), ref, content{blobs})
	})
}

// A storage that fails in the midst of it makes no lease stay.
func TestAdoptFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := newRepo(t)
		blobs := halves(2*openPacks + 2)
		first := tr.of("a")
		first.put(blobs)
		first.kill()
		leases := len(list(t, tr.mem, leasesDir))
		f := storagetest.NewFault(tr.st)
		f.Only(func(op storagetest.Op) bool {
			return op.Kind == storagetest.Get && strings.HasPrefix(op.Name, packsDir)
		}).At(0, storagetest.NotDone)
		if _, err := tr.open(f).Begin(t.Context(), SessionOptions{Instance: "a"}); err == nil {
			t.Fatal("nobody noticed that the storage failed")
		}
		if n := len(list(t, tr.mem, leasesDir)); n != leases {
			t.Errorf("%d leases, there were %d", n, leases)
		}
		w := tr.of("a")
		ref := w.commit(w.put(blobs))
		w.close()
		mustHold(t, tr.open(tr.st), ref, content{blobs})
	})
}
