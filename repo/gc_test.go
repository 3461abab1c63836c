package repo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/index"
	"github.com/whole-tale/wtsnap/repo/storage"
	"github.com/whole-tale/wtsnap/repo/storage/storagetest"
)

// must0 and must fail the test on an error.
func must0(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// writer is a session of its own process that a test drives step by step.
type writer struct {
	t testing.TB
	r *Repository
	s *Session
	w *Writer
}

func (tr *testRepo) begin(st storage.Storage) *writer {
	tr.t.Helper()
	r := tr.open(st)
	s, err := r.Begin(context.Background(), SessionOptions{Level: chunk.LevelFastest})
	must0(tr.t, err)
	return &writer{tr.t, r, s, s.Writer()}
}

// put puts a tree of blobs and returns the tree's id.
func (w *writer) put(blobs [][]byte) chunk.ID {
	w.t.Helper()
	id, err := w.tryPut(blobs)
	must0(w.t, err)
	return id
}

func (w *writer) tryPut(blobs [][]byte) (chunk.ID, error) {
	var ids []chunk.ID
	for _, b := range blobs {
		id, _, err := w.w.Put(context.Background(), index.Data, b)
		if err != nil {
			return id, err
		}
		ids = append(ids, id)
	}
	id, _, err := w.w.Put(context.Background(), index.Tree, encodeIDs(treeMagic, ids))
	return id, err
}

func (w *writer) payload(trees ...chunk.ID) Payload {
	return Payload{Instance: "a", Time: nextTime(), Data: encodeIDs(manifestMagic, trees)}
}

func (w *writer) commit(trees ...chunk.ID) SnapshotRef {
	w.t.Helper()
	ref, err := w.s.Commit(context.Background(), w.payload(trees...))
	must0(w.t, err)
	return ref
}

func (w *writer) close() {
	w.t.Helper()
	must0(w.t, w.s.Close(context.Background()))
}

func forget(t testing.TB, r *Repository, refs ...SnapshotRef) {
	t.Helper()
	must0(t, r.Forget(context.Background(), refs))
}

// A blob that two writers stored at once lies in two packs. However prune chooses among the copies,
// one of them stays.
func TestPruneKeepsOneOfTwoCopies(t *testing.T) {
	for _, grace := range []time.Duration{0, MinGrace} {
		synctest.Test(t, func(t *testing.T) {
			tr := newRepo(t)
			shared := words("shared")
			a, b := tr.begin(tr.st), tr.begin(tr.st)
			// Both store the shared blob; a's frame has waste beside it, b's second pack is a copy.
			ta, tb := a.put(append(words("waste of a"), shared...)), b.put(append(words("waste of b"), shared...))
			ra, rb := a.commit(ta), b.commit(tb)
			a.close()
			b.close()
			keep := tr.backup(content{shared})
			forget(t, tr.open(tr.st), ra, rb)
			for range 3 {
				tr.prune(PruneOptions{Grace: grace})
				mustHold(t, tr.open(tr.st), keep, content{shared})
				time.Sleep(2 * time.Hour)
			}
			if n := len(list(t, tr.mem, packsDir)); n != 2 {
				t.Errorf("%d packs are left, want one of data and one of trees", n)
			}
		})
	}
}

// A prune of a repository in which nothing has changed does nothing, whatever the size of its packs.
func TestPruneOfNothing(t *testing.T) {
	for _, n := range []int{1, 5, 300} {
		tr := newRepo(t)
		var blobs [][]byte
		for i := range n {
			blobs = append(blobs, word(string(rune('a'+i%20))+strings.Repeat("z", i/20), 60+i))
		}
		tr.backup(content{blobs})
		tr.backup(content{words("second")})
		for range 2 {
			rep, plan := tr.prune(PruneOptions{})
			if rep.Rewritten != 0 || rep.Condemned.Packs != 0 || plan.UnusedLeft != 0 {
				t.Errorf("%d blobs: prune rewrote %d bytes and condemned %d packs, %d bytes unused", n, rep.Rewritten, rep.Condemned.Packs, plan.UnusedLeft)
			}
		}
	}
}

// A writer that was suspended for longer than its lease lives fails, at whichever call it wakes up.
func TestSuspendedWriter(t *testing.T) {
	// The machine is suspended at the n-th change of the writer, and wakes with the timers that ran out.
	for n := 0; ; n++ {
		done := false
		synctest.Test(t, func(t *testing.T) {
			tr := newRepo(t)
			old := tr.backup(content{words("a", "b")})
			var changes atomic.Int64
			var awake atomic.Pointer[chan struct{}]
			// Without the referee: what the sleeper does at last may break its rules, but does not last.
			st := &hooked{Storage: tr.mem, before: func(kind, name string) {
				if kind != "put" && kind != "delete" {
					return
				}
				if wake := awake.Load(); wake != nil { // a renewal of the lease; it runs on when the machine wakes
					<-*wake
					return
				}
				if changes.Add(1) == int64(n+1) {
					wake := make(chan struct{})
					awake.Store(&wake)
					forget(t, tr.open(tr.st), old)
					for range 3 {
						time.Sleep(leaseDead + time.Hour)
						tr.prune(PruneOptions{Grace: MinGrace})
					}
					awake.Store(nil)
					close(wake)
				}
			}}
			r := tr.open(st)
			ref, err := backup(context.Background(), r, content{words("a", "b", "c")})
			done = changes.Load() <= int64(n)
			if !done && err == nil && len(list(t, tr.mem, packsDir)) == 0 {
				t.Error("nothing is stored")
			}
			if err == nil {
				mustHold(t, tr.open(tr.st), ref, content{words("a", "b", "c")})
			} else if !errors.Is(err, ErrLeaseLost) && !isDamage(err, DamageMissing) {
				t.Errorf("suspended at change %d: %v", n, err)
			}
			// Whatever was committed is whole.
			for _, ref := range must[[]SnapshotRef](t)(r.Snapshots(t.Context())) {
				manifest, err := r.Manifest(t.Context(), ref)
				must0(t, err)
				if err := tr.whole(t.Context(), tr.mem, manifest); err != nil {
					t.Errorf("suspended at change %d: a snapshot is broken: %v", n, err)
				}
			}
		})
		if t.Failed() {
			t.Fatalf("suspended at change %d", n)
		}
		if done {
			if n < 5 {
				t.Fatalf("only %d changes", n)
			}
			return
		}
	}
}

// A lease that was not renewed in time stays lost, even if a renewal succeeds later.
func TestLeaseStaysLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := newRepo(t)
		var down atomic.Bool
		f := storagetest.NewFault(tr.st)
		w := tr.begin(&downStorage{f, &down})
		tree := w.put(words("a"))
		down.Store(true)
		time.Sleep(leaseAlive + time.Hour)
		down.Store(false)
		time.Sleep(2 * leaseRenew) // renewals work again
		_, err := w.s.Commit(t.Context(), w.payload(tree))
		if !errors.Is(err, ErrLeaseLost) {
			t.Errorf("commit: %v", err)
		}
		w.close()
		if n := list(t, tr.mem, leasesDir); len(n) != 0 {
			t.Errorf("leases left: %q", n)
		}
	})
}

// downStorage fails every change while *down.
type downStorage struct {
	storage.Storage
	down *atomic.Bool
}

func (d *downStorage) Put(ctx context.Context, name string, data []byte) (storage.Info, error) {
	if d.down.Load() {
		return storage.Info{}, storagetest.ErrFault
	}
	return d.Storage.Put(ctx, name, data)
}

// A renewal that fails, whether stored or not, is repeated under another name, and leaves nothing.
func TestLeaseRenewalFails(t *testing.T) {
	for _, mode := range []storagetest.Mode{storagetest.NotDone, storagetest.DoneFailed} {
		for _, kind := range []storagetest.Kind{storagetest.Put, storagetest.Delete} {
			synctest.Test(t, func(t *testing.T) {
				tr := newRepo(t)
				f := storagetest.NewFault(tr.st)
				f.Only(func(op storagetest.Op) bool { return op.Kind == kind && strings.HasPrefix(op.Name, leasesDir) })
				w := tr.begin(f)
				f.Reset()
				f.At(1, mode).At(2, mode)
				time.Sleep(5*leaseRenew + time.Minute)
				if f.Hit() != 2 {
					t.Fatalf("%d faults met", f.Hit())
				}
				leases := must[[]leaseRecord](t)(tr.open(tr.st).leases(t.Context()))
				if len(leases) != 1 || time.Since(leases[0].Renewed) > leaseRenew {
					t.Errorf("leases: %+v", leases)
				}
				tree := w.put(words("a"))
				w.commit(tree)
				w.close()
				if n := list(t, tr.mem, leasesDir); len(n) != 0 {
					t.Errorf("%v %v: leases left: %q", kind, mode, n)
				}
			})
		}
	}
}

// What a dead process leaves holds up sweeping until its lease is dead, and is then cleaned up.
func TestDeadLeases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := newRepo(t)
		old := tr.backup(content{words("a")})
		f := storagetest.NewFault(tr.st)
		crashed := tr.begin(f)
		forget(t, tr.open(tr.st), old)
		tr.prune(PruneOptions{Grace: MinGrace}) // condemns; the lease has not seen it
		f.At(0, storagetest.CrashFirst)
		// The process is dead: nothing of it runs any more.
		crashed.s.cancel()
		crashed.s.lease.stop()
		f.Reset()
		time.Sleep(leaseDead - time.Hour)
		rep, plan := tr.prune(PruneOptions{Grace: MinGrace})
		if rep.Deleted.Packs != 0 || plan.Later.Packs != 2 {
			t.Errorf("swept in spite of a live lease: %+v", rep)
		}
		time.Sleep(2 * time.Hour)
		rep, _ = tr.prune(PruneOptions{Grace: MinGrace})
		if rep.Deleted.Packs != 2 {
			t.Errorf("not swept in spite of the lease being dead: %+v", rep)
		}
		if n := list(t, tr.mem, leasesDir); len(n) != 0 {
			t.Errorf("leases left: %q", n)
		}
		if n := list(t, tr.mem, condemnedDir); len(n) != 0 {
			t.Errorf("condemned lists left: %q", n)
		}
	})
}

// What was condemned while a writer relied on it is written anew before the manifest.
func TestRescue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := newRepo(t)
		old := tr.backup(content{words("a", "b")})
		w := tr.begin(tr.st)
		tree := w.put(words("a", "b"))
		if st := w.s.Stats(); st.BlobsReused != 3 {
			t.Fatalf("nothing is relied upon: %+v", st)
		}
		forget(t, tr.open(tr.st), old)
		tr.prune(PruneOptions{Grace: MinGrace})
		time.Sleep(DefaultGrace)
		if rep, _ := tr.prune(PruneOptions{Grace: MinGrace}); rep.Deleted.Packs != 0 {
			t.Fatalf("deleted under a writer: %+v", rep)
		}
		ref := w.commit(tree)
		if st := w.s.Stats(); st.BlobsNew != 3 {
			t.Errorf("nothing was written anew: %+v", st)
		}
		w.close()
		time.Sleep(DefaultGrace)
		if rep, _ := tr.prune(PruneOptions{Grace: MinGrace}); rep.Deleted.Packs != 2 {
			t.Errorf("the old packs were not deleted: %+v", rep)
		}
		mustHold(t, tr.open(tr.st), ref, content{words("a", "b")})
	})
}

// A blob lies in two packs, the writer relies on one; when that is condemned it relies on the other,
// and when that one is condemned later as well, it saves the blob.
func TestRescueOfTheOtherCopy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := newRepo(t)
		shared := words("shared")
		a, b := tr.begin(tr.st), tr.begin(tr.st)
		ra, rb := a.commit(a.put(shared)), b.commit(b.put(append(words("b"), shared...)))
		a.close()
		b.close()
		w := tr.begin(tr.st)
		tree := w.put(shared)
		// Condemn first one copy, then the other, whichever the writer chose.
		key := index.KeyOf(tr.r.Hasher().Sum(shared[0]))
		_, chosen := w.s.index.At(w.s.index.Lookups(key)[0].Ordinal)
		prunes := tr.open(tr.st)
		first, second := ra, rb
		if refIn(t, prunes, ra, chosen.PackID) != true {
			first, second = rb, ra
		}
		forget(t, prunes, first)
		condemnByHand(t, tr, chosen.PackID)
		_, err := w.s.Checkpoint(t.Context(), w.payload(tree)) // sees the first list
		must0(t, err)
		// The checkpoint is lost, the writer goes on; the second copy goes as well.
		for _, ref := range must[[]SnapshotRef](t)(prunes.Snapshots(t.Context())) {
			if ref.ID != second.ID {
				must0(t, tr.mem.Delete(t.Context(), ref.Name()))
			}
		}
		w.s.checkpoints = nil
		forget(t, prunes, second)
		tr.prune(PruneOptions{Grace: MinGrace})
		time.Sleep(2 * time.Hour)
		must0(t, w.s.rescue(t.Context())) // up to just before the manifest: the lease has seen it all
		tr.prune(PruneOptions{Grace: MinGrace})
		time.Sleep(2 * time.Hour)
		ref := w.commit(tree)
		w.close()
		mustHold(t, tr.open(tr.st), ref, content{shared})
	})
}

// Two prunes name the same pack, the second one when the first has removed it, together with the copy that the writer relies on
// since: that copy is what is saved.
func TestGonePackCondemnedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := newRepo(t)
		shared := words("shared")
		a, b := tr.begin(tr.st), tr.begin(tr.st)
		ra, rb := a.commit(a.put(shared)), b.commit(b.put(append(words("b"), shared...)))
		a.close()
		b.close()
		for _, ref := range []SnapshotRef{ra, rb} {
			must0(t, tr.mem.Delete(t.Context(), ref.Name()))
		}
		w := tr.begin(tr.st)
		tree := w.put(shared)
		var copies []index.PackID
		for _, loc := range w.s.index.Lookups(index.KeyOf(tr.r.Hasher().Sum(shared[0]))) {
			copies = append(copies, loc.PackID)
		}
		if len(copies) != 2 {
			t.Fatalf("%d copies", len(copies))
		}
		list := condemnByHand(t, tr, copies[0])
		must0(t, w.s.rescue(t.Context()))
		must0(t, tr.mem.Delete(t.Context(), packName(copies[0])))
		must0(t, tr.mem.Delete(t.Context(), condemnedDir+list.ID))
		condemnByHand(t, tr, copies...)
		ref := w.commit(tree)
		w.close()
		mustHold(t, tr.open(tr.st), ref, content{shared})
	})
}

// refIn reports whether a blob of the snapshot lies in the pack.
func refIn(t testing.TB, r *Repository, ref SnapshotRef, pack index.PackID) bool {
	t.Helper()
	must0(t, r.LoadIndex(context.Background()))
	manifest := must[[]byte](t)(r.Manifest(context.Background(), ref))
	trees := must[[]chunk.ID](t)(decodeIDs(manifestMagic, manifest))
	loc, _ := r.Index().Lookup(index.KeyOf(trees[0]))
	dataPack, _ := r.Index().FindPack(pack)
	// The packs of one session have one segment.
	return slices.Equal(r.Index().Pack(loc.Pack).Segments, r.Index().Pack(dataPack).Segments)
}

func condemnByHand(t testing.TB, tr *testRepo, packs ...index.PackID) condemnedList {
	t.Helper()
	return must[condemnedList](t)(tr.open(tr.st).putCondemned(context.Background(), packs, false))
}

// A pack of the writer itself is condemned as an orphan between its upload and the answer to it, while
// the writer looks at the condemned lists.
func TestOwnPackCondemnedDuringUpload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := newRepo(t)
		answer := make(chan struct{})
		first := true
		w := tr.begin(&hooked{Storage: tr.st, after: func(kind, name string) {
			if kind == "put" && strings.HasPrefix(name, packsDir) && first {
				first = false
				condemnByHand(t, tr, must[index.PackID](t)(index.ParsePackID(path.Base(name))))
				<-answer
			}
		}})
		var blobs [][]byte
		for i := range openPacks + 1 {
			blobs = append(blobs, noise(uint64(i)+1, packBytes/2))
		}
		tree := w.put(blobs) // ships the first
		synctest.Wait()
		done := make(chan error)
		go func() { done <- w.s.rescue(t.Context()) }()
		synctest.Wait() // it waits for the upload
		close(answer)
		must0(t, <-done)
		// The lease has seen the list: it can be acted on.
		time.Sleep(2 * time.Hour)
		rep, _ := tr.prune(PruneOptions{Grace: MinGrace})
		if rep.Deleted.Packs != 1 {
			t.Fatalf("the condemned pack was not deleted: %+v", rep)
		}
		ref := w.commit(tree)
		w.close()
		mustHold(t, tr.open(tr.st), ref, content{blobs})
	})
}

// An index repair lists packs that no segment lists. If one of them is condemned, it must not come back
// into the index just before it is removed.
func TestRepairIndexDuringSweep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := newRepo(t)
		keep := tr.backup(content{words("keep")})
		// An upload that was never listed.
		f := storagetest.NewFault(tr.st)
		f.Only(func(op storagetest.Op) bool {
			return op.Kind == storagetest.Put && strings.HasPrefix(op.Name, indexDir)
		})
		f.At(0, storagetest.NotDone)
		if _, err := backup(t.Context(), tr.open(f), content{words("orphan")}); err == nil {
			t.Fatal("no error")
		}
		tr.prune(PruneOptions{Grace: MinGrace}) // condemns the orphans
		time.Sleep(2 * time.Hour)
		pr := tr.open(tr.st)
		plan, err := pr.PlanPrune(t.Context(), PruneOptions{References: references(pr), Grace: MinGrace})
		must0(t, err)
		if plan.Sweep.Packs == 0 {
			t.Fatalf("nothing to sweep: %+v", plan)
		}
		_, rerr := tr.open(tr.st).RepairIndex(t.Context(), false)
		_, err = plan.Execute(t.Context())
		must0(t, err)
		must0(t, plan.Close(t.Context()))
		if rerr != nil && !errors.Is(rerr, ErrBusy) {
			t.Errorf("repair: %v", rerr)
		}
		ref := tr.backup(content{words("orphan")})
		mustHold(t, tr.open(tr.st), ref, content{words("orphan")})
		mustHold(t, tr.open(tr.st), keep, content{words("keep")})
	})
}

// Two prunes at once: the second is told so, and nothing else happens.
func TestTwoPrunes(t *testing.T) {
	tr := newRepo(t)
	old := tr.backup(content{words("a")})
	keep := tr.backup(content{words("b")})
	forget(t, tr.open(tr.st), old)
	r := tr.open(tr.st)
	plan, err := r.PlanPrune(t.Context(), PruneOptions{References: references(r)})
	must0(t, err)
	other := tr.open(tr.st)
	if _, err := other.PlanPrune(t.Context(), PruneOptions{References: references(other)}); !errors.Is(err, ErrBusy) {
		t.Errorf("a second prune: %v", err)
	}
	if err := other.Undelete(t.Context(), []SnapshotRef{old}); !errors.Is(err, ErrBusy) {
		t.Errorf("undelete beside a prune: %v", err)
	}
	if _, err := other.RepairPacks(t.Context(), nil, false); !errors.Is(err, ErrBusy) {
		t.Errorf("giving packs up beside a prune: %v", err)
	}
	ref := tr.backup(content{words("c")}) // a backup is never refused
	forget(t, tr.open(tr.st), ref)
	_, err = plan.Execute(t.Context())
	must0(t, err)
	must0(t, plan.Close(t.Context()))
	mustHold(t, tr.open(tr.st), keep, content{words("b")})
	if n := list(t, tr.mem, leasesDir); len(n) != 0 {
		t.Errorf("leases left: %q", n)
	}
}

// A snapshot is read while somebody brings it back: it is neither where one looks first, nor any more where one looks then.
func TestManifestOfASnapshotThatIsBroughtBack(t *testing.T) {
	tr := newRepo(t)
	ref := tr.backup(content{words("a")})
	forget(t, tr.open(tr.st), ref)
	first := true
	r := tr.open(&hooked{Storage: tr.st, before: func(kind, name string) {
		if kind == "get" && name == ref.forgottenName() && first {
			first = false
			must0(t, tr.open(tr.st).Undelete(t.Context(), []SnapshotRef{ref}))
		}
	}})
	if _, err := r.Manifest(t.Context(), ref); err != nil || first {
		t.Errorf("%v", err)
	}
}

func TestForgetUndelete(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := newRepo(t)
		a, b := tr.backup(content{words("a")}), tr.backup(content{words("b")})
		r := tr.open(tr.st)
		must0(t, r.Annotate(t.Context(), a.ID, []byte("note")))
		forget(t, r, a)
		if refs := must[[]SnapshotRef](t)(r.Snapshots(t.Context())); len(refs) != 1 || refs[0].ID != b.ID {
			t.Errorf("snapshots: %v", refs)
		}
		tr.prune(PruneOptions{Grace: MinGrace})
		must0(t, r.Undelete(t.Context(), []SnapshotRef{a}))
		mustHold(t, r, a, content{words("a")})
		time.Sleep(2 * time.Hour)
		if rep, plan := tr.prune(PruneOptions{Grace: MinGrace}); rep.Deleted.Packs != 0 || plan.Absolved != 2 {
			t.Errorf("deleted %d packs, absolved %d", rep.Deleted.Packs, plan.Absolved)
		}
		mustHold(t, tr.open(tr.st), a, content{words("a")})
		forget(t, r, a)
		for range 2 {
			tr.prune(PruneOptions{Grace: MinGrace})
			time.Sleep(2 * time.Hour)
		}
		if err := r.Undelete(t.Context(), []SnapshotRef{a}); !errors.Is(err, ErrSwept) {
			t.Errorf("undelete of what was swept: %v", err)
		}
		if n := list(t, tr.mem, annotationsDir); len(n) != 0 {
			t.Errorf("annotations left: %q", n)
		}
		if n := list(t, tr.mem, forgottenDir); len(n) != 0 {
			t.Errorf("forgotten left: %q", n)
		}
	})
}

// A reader that began before a prune goes on after it.
func TestReaderDuringPrune(t *testing.T) {
	tr := newRepo(t)
	old := tr.backup(content{words("a", "b", "c")})
	keep := tr.backup(content{words("b")})
	r := tr.open(tr.st)
	must0(t, r.LoadIndex(t.Context()))
	forget(t, tr.open(tr.st), old)
	rep, _ := tr.prune(PruneOptions{})
	if rep.Rewritten == 0 || rep.Deleted.Packs == 0 {
		t.Fatalf("nothing moved: %+v", rep)
	}
	id := r.Hasher().Sum(words("b")[0])
	if _, err := r.Blob(t.Context(), id); err != nil {
		t.Errorf("Blob with an old index: %v", err)
	}
	r = tr.open(tr.st)
	must0(t, r.LoadIndex(t.Context()))
	mustHold(t, r, keep, content{words("b")})
}

func TestReadBlobsDuringPrune(t *testing.T) {
	tr := newRepo(t)
	old := tr.backup(content{words("a", "b", "c")})
	tr.backup(content{words("b")})
	r := tr.open(tr.st)
	must0(t, r.LoadIndex(t.Context()))
	forget(t, tr.open(tr.st), old)
	tr.prune(PruneOptions{})
	ids := []chunk.ID{r.Hasher().Sum(words("b")[0]), r.Hasher().Sum(words("a")[0])}
	var bad []int
	good := 0
	err := r.ReadBlobs(t.Context(), ids, ReadOptions{OnError: func(i int, err error) error {
		if !isDamage(err, DamageBlobGone) {
			t.Errorf("blob %d: %v", i, err)
		}
		bad = append(bad, i)
		return nil
	}}, func(i int, data []byte) error {
		if i != 0 || string(data) != string(words("b")[0]) {
			t.Errorf("blob %d has wrong bytes", i)
		}
		good++
		return nil
	})
	must0(t, err)
	if good != 1 || !slices.Equal(bad, []int{1}) {
		t.Errorf("%d read, %v not", good, bad)
	}
}

// A check and a prune that begin before a backup commits see it whole or not at all.
func TestPlanAndCheckBesideACommit(t *testing.T) {
	tr := newRepo(t)
	tr.backup(content{words("a")})
	w := tr.begin(tr.st)
	tree := w.put(words("b"))
	commit := func() { w.commit(tree); w.close() }
	once := func(kind, dir string) storage.Storage {
		return &hooked{Storage: tr.st, before: func(k, name string) {
			if k == kind && strings.HasPrefix(name, dir) && commit != nil {
				f := commit
				commit = nil
				f()
			}
		}}
	}
	rep, err := func() (*CheckReport, error) {
		r := tr.open(once("list", packsDir))
		return r.Check(t.Context(), CheckOptions{References: references(r), ReadShare: 1})
	}()
	must0(t, err)
	if commit != nil {
		t.Fatal("no commit during the check")
	}
	for _, p := range rep.Problems {
		t.Errorf("check beside a commit: %+v", p)
	}
	for _, dir := range []string{indexDir, snapshotsDir, packsDir} {
		w = tr.begin(tr.st)
		tree = w.put(words("c" + dir))
		commit = func() { w.commit(tree); w.close() }
		if _, _, err := prune(t.Context(), tr.open(once("list", dir)), PruneOptions{Grace: MinGrace}); err != nil {
			t.Errorf("prune beside a commit, at the listing of %s: %v", dir, err)
		}
		if commit != nil {
			t.Fatal("no commit during the prune")
		}
	}
}

// Within one process, a session goes on while the index is loaded anew because a prune moved things.
func TestSessionAndReloadInOneProcess(t *testing.T) {
	tr := newRepo(t)
	old := tr.backup(content{words("a", "b")})
	tr.backup(content{words("b")})
	r := tr.open(tr.st)
	s, err := r.Begin(t.Context(), SessionOptions{})
	must0(t, err)
	w := &writer{t, r, s, s.Writer()}
	tree := w.put(words("new"))
	forget(t, tr.open(tr.st), old)
	tr.prune(PruneOptions{Grace: MinGrace})
	func() { // segments are replaced
		seg := list(t, tr.mem, indexDir)
		other := tr.open(tr.st)
		plan, err := other.PlanPrune(t.Context(), PruneOptions{References: references(other), Grace: MinGrace})
		must0(t, err)
		plan.merge = plan.index.Segments()
		_, err = plan.Execute(t.Context())
		must0(t, errors.Join(err, plan.Close(t.Context())))
		if slices.Equal(seg, list(t, tr.mem, indexDir)) {
			t.Fatal("segments were not replaced")
		}
	}()
	must0(t, r.LoadIndex(t.Context())) // as a reader of the same process would
	ref := w.commit(tree)
	w.close()
	mustHold(t, r, ref, content{words("new")})
}

// Within one process, a session does not rely on packs that an earlier one has stored and could not list, as a service's that goes
// on once the backend answers again.
func TestFailedSessionInOneProcess(t *testing.T) {
	tr := newRepo(t)
	f := storagetest.NewFault(tr.st)
	f.Only(func(op storagetest.Op) bool {
		return op.Kind == storagetest.Put && strings.HasPrefix(op.Name, indexDir)
	})
	f.At(0, storagetest.CrashFirst) // it lists nothing when it is closed, either
	r := tr.open(f)
	if _, err := backup(t.Context(), r, content{words("a", "b")}); err == nil {
		t.Fatal("no error")
	}
	if len(list(t, tr.mem, packsDir)) == 0 || len(list(t, tr.mem, indexDir)) != 0 {
		t.Fatal("no pack that no segment lists")
	}
	f.Reset()
	ref, err := backup(t.Context(), r, content{words("a", "b")})
	must0(t, err)
	mustHold(t, tr.open(tr.mem), ref, content{words("a", "b")})
}

// Within one process, plans and checks go on while a session adds to the index.
func TestPlanBesideASessionInOneProcess(t *testing.T) {
	tr := newRepo(t)
	tr.backup(content{words("a")})
	var during atomic.Pointer[func()] // manifests are read several at a time
	st := &hooked{Storage: tr.st, before: func(kind, name string) {
		if kind == "get" && strings.HasPrefix(name, snapshotsDir) {
			if f := during.Swap(nil); f != nil {
				(*f)()
			}
		}
	}}
	r := tr.open(st)
	store := func() {
		var blobs [][]byte
		for i := range 200 {
			blobs = append(blobs, word("w"+string(rune(i)), 100))
		}
		if _, err := backup(t.Context(), r, content{blobs}); err != nil {
			t.Errorf("backup: %v", err)
		}
	}
	during.Store(&store)
	_, _, err := prune(t.Context(), r, PruneOptions{Grace: MinGrace})
	must0(t, err)
	during.Store(&store)
	rep, err := r.Check(t.Context(), CheckOptions{References: references(r)})
	must0(t, err)
	for _, p := range rep.Problems {
		t.Errorf("%+v", p)
	}
}

// The order of condemned lists and their content are what a reader of the format expects.
func TestCondemnedRecord(t *testing.T) {
	tr := newRepo(t)
	tr.backup(content{words("a")})
	var pack index.PackID
	pack[0] = 7
	c := condemnByHand(t, tr, pack)
	tr.expect()
	data := must[[]byte](t)(tr.open(tr.st).readObject(t.Context(), condemnedDir+c.ID))
	var m map[string]any
	must0(t, json.Unmarshal(data, &m))
	if len(m) != 3 || m["id"] != c.ID || len(m["packs"].([]any)) != 1 {
		t.Errorf("condemned list: %s", data)
	}
}

// A prune that sleeps after it has read the leases does not take them for dead because of that.
func TestSleepyPrune(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := newRepo(t)
		old := tr.backup(content{words("a", "b")})
		w := tr.begin(tr.st)
		tree := w.put(words("a", "b"))
		forget(t, tr.open(tr.st), old)
		tr.prune(PruneOptions{Grace: MinGrace})
		time.Sleep(2 * time.Hour)
		r := tr.open(&hooked{Storage: tr.st, before: func(kind, name string) {
			if kind == "list" && name == snapshotsDir {
				time.Sleep(leaseDead + time.Hour)
			}
		}})
		rep, _, err := prune(t.Context(), r, PruneOptions{Grace: MinGrace})
		must0(t, err)
		if rep.Deleted.Packs != 0 {
			t.Errorf("%d packs deleted under a writer", rep.Deleted.Packs)
		}
		ref := w.commit(tree)
		w.close()
		mustHold(t, tr.open(tr.st), ref, content{words("a", "b")})
	})
}

// A pack stays for the grace time after it was condemned, for restores that go by an old index, and not for longer.
func TestPruneWaitsForGrace(t *testing.T) {
	for _, grace := range []time.Duration{MinGrace, DefaultGrace} {
		synctest.Test(t, func(t *testing.T) {
			tr := newRepo(t)
			old := tr.backup(content{words("a")})
			kept := tr.backup(content{words("b")})
			forget(t, tr.open(tr.st), old)
			if rep, _ := tr.prune(PruneOptions{Grace: grace}); rep.Condemned.Packs == 0 {
				t.Fatalf("%+v", rep)
			}
			packs := list(t, tr.mem, packsDir)
			time.Sleep(grace - time.Minute)
			rep, _ := tr.prune(PruneOptions{Grace: grace})
			if now := list(t, tr.mem, packsDir); rep.Deleted.Packs != 0 || !slices.Equal(now, packs) {
				t.Errorf("before %s were over %d packs were deleted", grace, rep.Deleted.Packs)
			}
			time.Sleep(2 * time.Minute)
			if rep, _ := tr.prune(PruneOptions{Grace: grace}); rep.Deleted.Packs == 0 {
				t.Errorf("after %s nothing is deleted", grace)
			}
			mustHold(t, tr.open(tr.st), kept, content{words("b")})
		})
	}
}

// What a prune reads after its lease is there it reads in the order that the protocol needs (docs/format.md, "Garbage
// collection"): lists before leases, since a writer without a lease has to come upon each of these lists; leases before snapshots,
// since one whose lease is gone has stored its manifest; and the index last, since it lists all that these snapshots need.
func TestPruneReadsInOrder(t *testing.T) {
	tr := newRepo(t)
	tr.backup(content{words("a")})
	var mu sync.Mutex
	var order []string
	leased := false
	r := tr.open(&hooked{Storage: tr.st, before: func(kind, name string) {
		mu.Lock()
		defer mu.Unlock()
		leased = leased || kind == "put" && strings.HasPrefix(name, leasesDir)
		if leased && kind == "list" && !slices.Contains(order, name) {
			order = append(order, name)
		}
	}})
	p, err := r.PlanPrune(t.Context(), PruneOptions{References: references(r), Grace: MinGrace})
	must0(t, err)
	must0(t, p.Close(t.Context()))
	order = slices.DeleteFunc(order, func(name string) bool { return name == forgottenDir })
	if want := []string{condemnedDir, leasesDir, snapshotsDir, packsDir, indexDir}; !slices.Equal(order, want) {
		t.Errorf("read in the order %q, want %q", order, want)
	}
}

// A prune whose machine is suspended while it removes something removes nothing more: another one may have taken it for dead,
// and what it knows of the repository is old.
func TestPruneSleepsWhileItRemoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := newRepo(t)
		for _, name := range []string{"a", "b", "c"} {
			forget(t, tr.open(tr.st), tr.backup(content{words(name)}))
		}
		tr.prune(PruneOptions{Grace: MinGrace})
		time.Sleep(2 * time.Hour)
		var mu sync.Mutex // of what the renewals see, too
		var wakes time.Time
		removed := 0
		r := tr.open(&hooked{Storage: tr.st, before: func(kind, name string) {
			mu.Lock()
			if kind == "delete" && !strings.HasPrefix(name, leasesDir) {
				if removed++; removed == 1 {
					wakes = time.Now().Add(pruneAlive + time.Hour)
				}
			}
			asleep := time.Until(wakes)
			mu.Unlock()
			time.Sleep(asleep) // whatever the machine does, it goes on when it wakes
		}})
		_, _, err := prune(t.Context(), r, PruneOptions{Grace: MinGrace})
		if !errors.Is(err, ErrLeaseLost) || removed != 1 {
			t.Errorf("%d objects removed: %v", removed, err)
		}
		rep, _ := tr.prune(PruneOptions{Grace: MinGrace})
		if rep.Deleted.Packs == 0 {
			t.Errorf("the next prune deletes %+v", rep.Deleted)
		}
	})
}

// A sweep ends while a writer loads the index: what the writer has read of it by then does not count.
func TestSweepWhileTheIndexIsLoaded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := newRepo(t)
		for _, name := range []string{"a", "b", "c"} {
			tr.backup(content{words(name)})
		}
		refs := must[[]SnapshotRef](t)(tr.open(tr.st).Snapshots(t.Context()))
		forget(t, tr.open(tr.st), refs...)
		tr.prune(PruneOptions{Grace: MinGrace})
		time.Sleep(2 * time.Hour)
		pr := tr.open(tr.st)
		plan, err := pr.PlanPrune(t.Context(), PruneOptions{References: references(pr), Grace: MinGrace})
		must0(t, err)
		read := map[string]bool{}
		var mu sync.Mutex
		w := tr.begin(&hooked{Storage: tr.st, before: func(kind, name string) {
			mu.Lock()
			defer mu.Unlock()
			if kind != "get" || !strings.HasPrefix(name, indexDir) {
				return
			}
			if len(read) == 1 { // one segment is loaded
				_, err := plan.Execute(t.Context())
				must0(t, errors.Join(err, plan.Close(t.Context())))
			}
			read[name] = true
		}})
		if len(read) < 2 {
			t.Fatalf("segments read: %v", read)
		}
		ref := w.commit(w.put(words("a", "b", "c")))
		w.close()
		mustHold(t, tr.open(tr.st), ref, content{words("a", "b", "c")})
	})
}

// A prune whose time is over leaves what it has not rewritten to the next one.
func TestPruneUntil(t *testing.T) {
	tr := newRepo(t)
	keep := tr.backup(content{words("a", "b")})
	waste := tr.backup(content{words("c", "d"), words("b", "e")})
	also := tr.backup(content{words("d", "a")})
	forget(t, tr.open(tr.st), waste)
	rep, plan := tr.prune(PruneOptions{Until: time.Now()})
	if rep.Rewritten != 0 || rep.Repacked.Packs != 0 || plan.RepackBytes != 0 || rep.UnusedLeft == 0 || rep.Kept.Packs == 0 {
		t.Errorf("without any time: %+v, and a plan to rewrite %d bytes", rep, plan.RepackBytes)
	}
	for _, until := range []time.Time{time.Now().Add(time.Hour), {}} {
		mustHold(t, tr.open(tr.st), keep, content{words("a", "b")})
		mustHold(t, tr.open(tr.st), also, content{words("d", "a")})
		rep, _ := tr.prune(PruneOptions{Until: until})
		if first := !until.IsZero(); (rep.Rewritten > 0) != first {
			t.Errorf("until %v: %+v", until, rep)
		}
	}
}

// A prune that may handle few packs leaves the others, and what it has not removed of a list, to the next ones.
func TestPruneMaxPacks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := newRepo(t)
		kept := content{words("kept")}
		keep := tr.backup(kept)
		var old []SnapshotRef
		for n := range 5 { // each has packs of its own
			old = append(old, tr.backup(content{words(fmt.Sprint("waste", n))}))
		}
		for _, ref := range old {
			forget(t, tr.open(tr.st), ref)
		}
		rep, _ := tr.prune(PruneOptions{Grace: DefaultGrace, MaxPacks: 2})
		condemned := rep.Condemned.Packs
		if condemned < 6 || rep.Deleted.Packs != 0 || rep.Repacked.Packs > 2 {
			t.Fatalf("the first: %+v", rep)
		}
		packs := len(list(t, tr.mem, packsDir)) // with what merging made
		time.Sleep(DefaultGrace + time.Minute)
		for left := condemned; left > 0; {
			rep, plan := tr.prune(PruneOptions{Grace: DefaultGrace, MaxPacks: 2, MaxUnused: 100})
			want := min(2, left)
			if rep.Deleted.Packs != want || len(list(t, tr.mem, packsDir)) != packs-want {
				t.Fatalf("with %d left: %+v, %d packs of %d", left, rep, len(list(t, tr.mem, packsDir)), packs)
			}
			left -= want
			packs -= want
			if plan.Later.Packs < left || left > 0 && rep.NextSweep.IsZero() {
				t.Errorf("%d are left, and the plan says %+v, next %v", left, plan.Later, rep.NextSweep)
			}
			mustHold(t, tr.open(tr.st), keep, kept)
		}
		if left := list(t, tr.mem, condemnedDir); len(left) != 0 {
			t.Errorf("lists are left: %v", left)
		}
	})
}
