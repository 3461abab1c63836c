package repo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/whole-tale/wtsnap/index"
	"github.com/whole-tale/wtsnap/repo/storage"
	"github.com/whole-tale/wtsnap/repo/storage/storagetest"
)

// waking is what becomes of the call in the midst of which a machine was suspended.
type waking struct {
	name   string
	before bool  // it has its effect before the machine sleeps, and not when it wakes
	err    error // what it returns
	cancel bool  // the user interrupts the program just then
}

var wakings = []waking{
	{name: "done when it wakes"},
	{name: "done when it wakes, and said to have failed", err: storagetest.ErrFault},
	{name: "done when it wakes, and interrupted", cancel: true},
	{name: "done when it wakes, and ended by an interruption", err: context.Canceled, cancel: true},
	{name: "done, and answered when it wakes", before: true},
	{name: "done, and said to have failed when it wakes", before: true, err: storagetest.ErrFault},
}

// sleeper is the storage of a machine that is suspended in the midst of its n-th call.
type sleeper struct {
	storage.Storage
	waking
	n      int
	sleep  func()
	cancel context.CancelFunc

	mu     sync.Mutex
	calls  int
	call   string        // the one in the midst of which it slept
	asleep chan struct{} // not nil while it sleeps
}

func (s *sleeper) do(ctx context.Context, kind, name string, call func() error) error {
	renewal := strings.HasPrefix(name, leasesDir) && (kind == "put" && !strings.HasSuffix(name, "-1") || kind == "delete")
	s.mu.Lock()
	asleep := s.asleep
	switch {
	case asleep != nil && renewal: // the line is down when it wakes; waiting here would hold the lease's mutex
		s.mu.Unlock()
		return storagetest.ErrFault
	case asleep != nil:
		s.mu.Unlock()
		<-asleep
		return call()
	case renewal || s.calls != s.n:
		if !renewal {
			s.calls++
		}
		s.mu.Unlock()
		if err := ctx.Err(); err != nil {
			return err
		}
		return call()
	}
	s.calls++
	s.call, s.asleep = kind+" "+name, make(chan struct{})
	s.mu.Unlock()
	var err error
	if s.before {
		err = call()
	}
	s.sleep()
	s.mu.Lock()
	close(s.asleep)
	s.asleep = nil
	s.mu.Unlock()
	if !s.before {
		err = call()
	}
	if s.waking.cancel {
		s.cancel()
	}
	if s.err != nil {
		return &storage.Error{Op: kind, Name: name, Err: s.err}
	}
	return err
}

func (s *sleeper) Put(ctx context.Context, name string, data []byte) (i storage.Info, err error) {
	err = s.do(ctx, "put", name, func() (err error) { i, err = s.Storage.Put(context.WithoutCancel(ctx), name, data); return err })
	return i, err
}

func (s *sleeper) Get(ctx context.Context, name string, offset, length int64, dst []byte) (out []byte, err error) {
	err = s.do(ctx, "get", name, func() (err error) { out, err = s.Storage.Get(ctx, name, offset, length, dst); return err })
	return out, err
}

func (s *sleeper) List(ctx context.Context, prefix string, fn func(storage.Info) error) error {
	return s.do(ctx, "list", prefix, func() error { return s.Storage.List(ctx, prefix, fn) })
}

func (s *sleeper) Delete(ctx context.Context, name string) error {
	return s.do(ctx, "delete", name, func() error { return s.Storage.Delete(context.WithoutCancel(ctx), name) })
}

// A machine is suspended for days in the midst of any call of any operation, while others forget, prune and sweep. What it does
// when it wakes leaves no segment that lists a pack which is gone, for backups would rely on that, and no snapshot that lacks
// something.
func TestSuspendedAtEveryCall(t *testing.T) {
	fx := newFixture(t)
	wakings := wakings
	if !slow() {
		wakings = wakings[:2]
	}
	total := 0
	ops := slices.DeleteFunc(operations(), func(op operation) bool { return op.broken || op.name == "prune without grace" })
	for _, op := range append(ops, listOrphans()) {
		t.Run(op.name, func(t *testing.T) {
			for _, waking := range wakings {
				n := 0
				for ; suspendedAt(t, fx, op, waking, n); n++ {
				}
				if n == 0 {
					t.Fatal("no call")
				}
				total += n
			}
		})
	}
	t.Logf("suspended %d times", total)
}

// listOrphans is a repair of the index that lists packs which nobody needs.
func listOrphans() operation {
	return operation{
		name: "repair index",
		setup: func(t testing.TB, fx *fixture, tr *testRepo) {
			f := storagetest.NewFault(tr.st)
			f.Only(func(op storagetest.Op) bool {
				return op.Kind == storagetest.Put && strings.HasPrefix(op.Name, indexDir)
			})
			f.At(0, storagetest.CrashFirst)
			if _, err := backup(context.Background(), tr.open(f), newContent); err == nil {
				t.Fatal("no error")
			}
		},
		run: func(ctx context.Context, fx *fixture, r *Repository) error {
			rep, err := r.RepairIndex(ctx, false)
			if err == nil && rep.Unlisted.Packs == 0 {
				return errNothingToDo
			}
			return err
		},
	}
}

// suspendedAt reports whether there was a call of that number.
func suspendedAt(t *testing.T, fx *fixture, op operation, waking waking, n int) (slept bool) {
	synctest.Test(t, func(t *testing.T) {
		tr := fx.tr.bare(t, fx.base.Clone()) // what the sleeper does at last may break the referee's rules, but does not last
		if op.setup != nil {
			op.setup(t, fx, tr)
		}
		if strings.HasPrefix(op.name, "prune") { // what goes, and what others remove meanwhile, is listed by one segment
			must0(t, mergeAll(context.Background(), tr.open(tr.mem)))
		}
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		st := &sleeper{Storage: tr.mem, waking: waking, n: n, cancel: cancel, sleep: func() { othersWork(t, tr) }}
		fx.beside = tr.mem
		if err := op.run(ctx, fx, tr.open(st)); errors.Is(err, errNothingToDo) && st.call == "" {
			t.Fatalf("%s: %v", op.name, err)
		}
		synctest.Wait()
		slept = st.call != ""
		for _, problem := range dangling(t, tr) {
			t.Errorf("%s, call %d (%s), %s: %s", op.name, n, st.call, waking.name, problem)
		}
	})
	return slept
}

// othersWork is what other machines do while one sleeps: they forget all snapshots but the newest, and clean up.
func othersWork(t testing.TB, tr *testRepo) {
	r := tr.open(tr.mem)
	refs := must[[]SnapshotRef](t)(r.Snapshots(context.Background()))
	forget(t, r, refs[:len(refs)-1]...)
	for range 2 {
		time.Sleep(leaseDead + time.Hour)
		tr.prune(PruneOptions{Grace: MinGrace})
	}
}

// dangling names what the index lists and is not there, and snapshots that are not whole.
func dangling(t testing.TB, tr *testRepo) (problems []string) {
	ctx := context.Background()
	var condemned []index.PackID
	for _, list := range must[[]condemnedList](t)(tr.open(tr.mem).condemnedLists(ctx)) {
		condemned = append(condemned, list.packs...)
	}
	must0(t, forEachSegment(ctx, tr.mem, tr.r.keys, func(name string, p index.Pack) error {
		if _, err := tr.mem.Stat(ctx, packName(p.ID)); errors.Is(err, storage.ErrNotExist) && !slices.Contains(condemned, p.ID) {
			problems = append(problems, fmt.Sprintf("%s lists a pack that is gone", name))
		}
		return nil
	}))
	for _, ref := range must[[]SnapshotRef](t)(tr.open(tr.mem).Snapshots(ctx)) {
		manifest, err := tr.open(tr.mem).Manifest(ctx, ref)
		if err == nil {
			err = tr.whole(ctx, tr.mem, manifest)
		}
		if err != nil {
			problems = append(problems, fmt.Sprintf("snapshot %s: %v", ref.ID.Short(), err))
		}
	}
	return problems
}
