package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/index"
	"github.com/whole-tale/wtsnap/repo/storage"
	"github.com/whole-tale/wtsnap/repo/storage/mem"
	"github.com/whole-tale/wtsnap/repo/storage/storagetest"
)

// fixture is a repository with something for every operation to do: snapshots, one of them forgotten and
// its packs condemned and due, one forgotten since, several segments, notes, deltas.
type fixture struct {
	tr        *testRepo
	base      *mem.Storage
	must      map[SnapshotRef]content // snapshots that no operation harms
	victim    SnapshotRef             // a snapshot to be forgotten
	forgotten SnapshotRef             // can be brought back
	inVictim  content
	lost      content // of the forgotten one

	again  bool            // the operation is repeated after a fault
	beside storage.Storage // what another process sees of the repository that is worked on
}

// newFixture makes one. Its clock is a synctest bubble's, and so is that of whatever works on it.
func newFixture(t *testing.T) *fixture {
	fx := &fixture{must: map[SnapshotRef]content{}}
	synctest.Test(t, func(t *testing.T) {
		tr := newRepo(t)
		ctx := t.Context()
		add := func(c content) SnapshotRef {
			ref := tr.backup(c)
			fx.must[ref] = c
			return ref
		}
		swept := tr.backup(content{words("a", "b", "c"), words("old")})
		add(content{words("b", "d"), words("e")})
		forget(t, tr.open(tr.st), swept)
		must0(t, tr.open(tr.st).Annotate(ctx, swept.ID, []byte("swept")))
		tr.prune(PruneOptions{Grace: MinGrace}) // condemns
		time.Sleep(MinGrace + time.Minute)
		fx.inVictim = content{words("v", "w"), words("d")}
		fx.victim = tr.backup(fx.inVictim)
		add(content{words("w", "x", "d")})
		fx.lost = content{words("l", "x", "m"), words("n")}
		fx.forgotten = tr.backup(fx.lost)
		must0(t, tr.open(tr.st).Annotate(ctx, fx.forgotten.ID, []byte("note")))
		forget(t, tr.open(tr.st), fx.forgotten)
		// A delta, and its base in another pack.
		delta := content{{word("base", 60_000)}}
		add(delta)
		edited := bytes.Clone(delta[0][0])
		copy(edited[100:], "a small change")
		w := tr.begin(tr.st)
		id, _, err := w.w.PutDelta(ctx, index.Data, edited, []chunk.ID{tr.r.Hasher().Sum(delta[0][0])})
		must0(t, err)
		tree, _, err := w.w.Put(ctx, index.Tree, encodeIDs(treeMagic, []chunk.ID{id}))
		must0(t, err)
		fx.must[w.commit(tree)] = content{{edited}}
		w.close()
		if w.s.Stats().BlobsDelta != 1 {
			t.Fatal("no delta was stored")
		}
		fx.tr, fx.base = tr, tr.mem.Clone()
	})
	return fx
}

// harmless fails unless everything that is to be there is, and check finds nothing.
func (fx *fixture) harmless(t testing.TB, tr *testRepo, when string) {
	t.Helper()
	r := tr.open(tr.mem)
	for ref, c := range fx.must {
		if err := holds(context.Background(), r, ref, c); err != nil {
			t.Errorf("%s: snapshot %s: %v", when, ref.ID.Short(), err)
		}
	}
	for _, p := range checkAll(t, tr.open(tr.mem)).Problems {
		t.Errorf("%s: %+v", when, p)
	}
	// What can still be brought back is whole.
	for _, ref := range must[[]SnapshotRef](t)(r.Forgotten(context.Background())) {
		data := must[[]byte](t)(r.Manifest(context.Background(), ref))
		if err := tr.whole(context.Background(), tr.mem, data); err != nil {
			t.Errorf("%s: forgotten snapshot %s: %v", when, ref.ID.Short(), err)
		}
	}
}

// cleans prunes until nothing is left to do, and fails if anything is left over.
func (fx *fixture) cleans(t testing.TB, tr *testRepo, when string) {
	t.Helper()
	for range 3 {
		time.Sleep(leaseDead + time.Hour)
		tr.prune(PruneOptions{Grace: MinGrace})
	}
	fx.harmless(t, tr, when+", cleaned")
	rep := checkAll(t, tr.open(tr.mem))
	if rep.Orphans.Packs != 0 || rep.Condemned.Packs != 0 {
		t.Errorf("%s: left after pruning: %+v", when, rep)
	}
	for _, dir := range []string{leasesDir, condemnedDir} {
		if names := list(t, tr.mem, dir); len(names) != 0 {
			t.Errorf("%s: left after pruning: %q", when, names)
		}
	}
}

// operation is something that is made to fail or to crash at each of its calls.
type operation struct {
	name  string
	setup func(t testing.TB, fx *fixture, tr *testRepo) // before faults
	run   func(ctx context.Context, fx *fixture, r *Repository) error
	done  func(t testing.TB, fx *fixture, tr *testRepo) // after success
	// broken says that the repository is not whole before the operation has succeeded.
	broken bool
}

var newContent = content{words("d", "new1", "new2"), words("new3")}

func operations() []operation {
	hasNew := func(t testing.TB, fx *fixture, tr *testRepo) {
		r := tr.open(tr.mem)
		refs := must[[]SnapshotRef](t)(r.Snapshots(context.Background()))
		mustHold(t, r, refs[len(refs)-1], newContent)
	}
	forgetVictim := func(t testing.TB, fx *fixture, tr *testRepo) { forget(t, tr.open(tr.st), fx.victim) }
	return []operation{
		{
			name: "backup",
			run: func(ctx context.Context, fx *fixture, r *Repository) (err error) {
				s, err := r.Begin(ctx, SessionOptions{Level: chunk.LevelNone})
				if err != nil {
					return err
				}
				defer func() { err = errors.Join(err, s.Close(ctx)) }()
				m, err := putContent(ctx, s, newContent[:1])
				if err != nil {
					return err
				}
				if _, err := s.Checkpoint(ctx, Payload{Instance: "a", Time: nextTime(), Data: m}); err != nil {
					return err
				}
				m, err = putContent(ctx, s, newContent)
				if err != nil {
					return err
				}
				_, err = s.Commit(ctx, Payload{Instance: "a", Time: nextTime(), Data: m})
				return err
			},
			done: hasNew,
		},
		{
			name: "backup with rescue",
			run: func(ctx context.Context, fx *fixture, r *Repository) (err error) {
				s, err := r.Begin(ctx, SessionOptions{Level: chunk.LevelNone})
				if err != nil {
					return err
				}
				defer func() { err = errors.Join(err, s.Close(ctx)) }()
				m, err := putContent(ctx, s, newContent)
				if err != nil {
					return err
				}
				// Another process condemns what this one relies on.
				other := reopen(r, fx.beside)
				if err := other.LoadIndex(ctx); err != nil {
					return err
				}
				loc, _ := other.Index().Lookup(index.KeyOf(r.Hasher().Sum(newContent[0][0])))
				if _, err := other.putCondemned(ctx, []index.PackID{loc.PackID}, false); err != nil {
					return err
				}
				before := s.Stats().BlobsNew
				_, err = s.Commit(ctx, Payload{Instance: "a", Time: nextTime(), Data: m})
				if err == nil && s.Stats().BlobsNew == before && !fx.again {
					return errNothingToDo
				}
				return err
			},
			done: hasNew,
		},
		{
			name: "forget",
			run: func(ctx context.Context, fx *fixture, r *Repository) error {
				return r.Forget(ctx, []SnapshotRef{fx.victim})
			},
			done: func(t testing.TB, fx *fixture, tr *testRepo) {
				mustHold(t, tr.open(tr.mem), fx.victim, fx.inVictim)
				if refs := must[[]SnapshotRef](t)(tr.open(tr.mem).Snapshots(context.Background())); len(refs) != len(fx.must) {
					t.Errorf("%d snapshots after forget", len(refs))
				}
			},
		},
		{
			name: "undelete",
			run: func(ctx context.Context, fx *fixture, r *Repository) error {
				return r.Undelete(ctx, []SnapshotRef{fx.forgotten})
			},
			done: func(t testing.TB, fx *fixture, tr *testRepo) {
				mustHold(t, tr.open(tr.mem), fx.forgotten, fx.lost)
				if n := len(list(t, tr.mem, forgottenDir)); n != 1 {
					t.Errorf("%d forgotten snapshots are left", n)
				}
			},
		},
		{
			name: "annotate",
			run: func(ctx context.Context, fx *fixture, r *Repository) error {
				return r.Annotate(ctx, fx.victim.ID, []byte("new note"))
			},
			done: func(t testing.TB, fx *fixture, tr *testRepo) {
				notes := must[map[SnapshotID][]Annotation](t)(tr.open(tr.mem).Annotations(context.Background()))
				if n := notes[fx.victim.ID]; len(n) == 0 || string(n[len(n)-1].Data) != "new note" {
					t.Errorf("notes: %v", notes)
				}
			},
		},
		{
			name:  "prune with grace",
			setup: forgetVictim,
			run: func(ctx context.Context, fx *fixture, r *Repository) error {
				time.Sleep(2 * time.Hour)
				rep, _, err := prune(ctx, r, PruneOptions{Grace: MinGrace})
				if err == nil && (rep.Deleted.Packs == 0 || rep.Condemned.Packs == 0 || rep.Rewritten == 0) {
					return errNothingToDo
				}
				return err
			},
		},
		{
			name:  "prune without grace",
			setup: forgetVictim,
			run: func(ctx context.Context, fx *fixture, r *Repository) error {
				rep, _, err := prune(ctx, r, PruneOptions{})
				if err == nil && (rep.Deleted.Packs == 0 || rep.Rewritten == 0) {
					return errNothingToDo
				}
				return err
			},
		},
		{
			name: "merge the index",
			run: func(ctx context.Context, fx *fixture, r *Repository) (err error) {
				p, err := r.PlanPrune(ctx, PruneOptions{References: references(r), Grace: MinGrace, MaxUnused: 1e6})
				if err != nil {
					return err
				}
				defer func() { err = errors.Join(err, p.Close(ctx)) }()
				p.merge = p.index.Segments()
				_, err = p.Execute(ctx)
				return err
			},
		},
		{
			name: "merge the index after a backup",
			run: func(ctx context.Context, fx *fixture, r *Repository) (err error) {
				s, err := r.Begin(ctx, SessionOptions{Level: chunk.LevelNone})
				if err != nil {
					return err
				}
				defer func() { err = errors.Join(err, s.Close(ctx)) }()
				m, err := putContent(ctx, s, newContent)
				if err != nil {
					return err
				}
				if _, err = s.Commit(ctx, Payload{Instance: "a", Time: nextTime(), Data: m}); err != nil {
					return err
				}
				return r.mergeIndex(ctx, s.lease, allSegments)
			},
			done: hasNew,
		},
		{
			name:   "repair index",
			broken: true,
			setup: func(t testing.TB, fx *fixture, tr *testRepo) {
				names := list(t, tr.mem, indexDir)
				must0(t, tr.mem.Delete(context.Background(), names[0]))
				damageObject(t, tr.mem, names[1], "flip")
			},
			run: func(ctx context.Context, fx *fixture, r *Repository) error {
				_, err := r.RepairIndex(ctx, false)
				return err
			},
		},
		{
			name:   "repair packs and heal",
			broken: true,
			setup: func(t testing.TB, fx *fixture, tr *testRepo) {
				r := tr.open(tr.mem)
				must0(t, r.LoadIndex(context.Background()))
				loc, _ := r.Index().Lookup(index.KeyOf(r.Hasher().Sum(words("w")[0])))
				damageObject(t, tr.mem, packName(loc.PackID), "truncate")
			},
			run: func(ctx context.Context, fx *fixture, r *Repository) error {
				if _, err := r.RepairPacks(ctx, nil, false); err != nil {
					return err
				}
				_, err := backup(ctx, r, fx.inVictim)
				return err
			},
		},
	}
}

var errNothingToDo = errors.New("nothing to do: the test is vacuous")

// damageObject changes an object in place.
func damageObject(t testing.TB, m *mem.Storage, name, how string) {
	t.Helper()
	ctx := context.Background()
	data := bytes.Clone(must[[]byte](t)(m.Get(ctx, name, 0, -1, nil)))
	switch how {
	case "truncate":
		data = data[:len(data)*2/3]
	case "truncate to a byte":
		data = data[:1]
	case "delete":
		must0(t, m.Delete(ctx, name))
		return
	case "flip":
		data[len(data)/2] ^= 0x10
	case "flip first":
		data[0] ^= 1
	case "flip last":
		data[len(data)-1] ^= 0x80
	case "zero":
		clear(data)
	case "grow":
		data = append(data, 0)
	default:
		t.Fatalf("unknown damage %q", how)
	}
	_, err := m.Put(ctx, name, data)
	must0(t, err)
}

// Every operation fails at each of its calls in turn, once with and once without effect. The failure is
// surfaced, nothing is harmed, and the operation succeeds when it is repeated.
func TestFaultAtEveryCall(t *testing.T) {
	fx := newFixture(t)
	points := map[string]int{}
	for _, op := range operations() {
		t.Run(op.name, func(t *testing.T) {
			for _, mode := range []storagetest.Mode{storagetest.NotDone, storagetest.DoneFailed} {
				for i := 0; ; i++ {
					last := false
					synctest.Test(t, func(t *testing.T) { last = faultAt(t, fx, op, i, mode) })
					if t.Failed() {
						return
					}
					if last {
						points[op.name] += i
						break
					}
				}
			}
			if points[op.name] < 2 {
				t.Errorf("%d fault points", points[op.name])
			}
		})
	}
	total := 0
	for _, name := range slices.Sorted(maps.Keys(points)) {
		t.Logf("%4d fault points: %s", points[name], name)
		total += points[name]
	}
	t.Logf("%4d in all", total)
}

func faultAt(t *testing.T, fx *fixture, op operation, i int, mode storagetest.Mode) (last bool) {
	tr := fx.tr.at(t, fx.base.Clone())
	fx.beside, fx.again = tr.st, false
	time.Sleep(3 * time.Hour) // later than anything in the fixture
	if op.setup != nil {
		op.setup(t, fx, tr)
	}
	var calls []string
	f := storagetest.NewFault(tr.st).Only(func(o storagetest.Op) bool {
		calls = append(calls, o.String())
		return true
	})
	f.At(i, mode)
	err := op.run(t.Context(), fx, tr.open(f))
	if errors.Is(err, errNothingToDo) {
		t.Fatal(err)
	}
	if f.Hit() == 0 {
		if err != nil {
			t.Errorf("without a fault: %v", err)
		}
		last = true
	}
	when := "no fault"
	if !last {
		when = fmt.Sprintf("fault %d, mode %v, %s", i, mode, calls[i])
		// A lease's former object is removed by its next renewal; a pack is read again.
		name, absent := strings.CutPrefix(calls[i], "get ")
		absent = absent && mode == storagetest.DoneFailed
		if absent { // that it is not there counts more than the fault
			_, err := tr.mem.Stat(t.Context(), name)
			absent = err != nil
		}
		if err == nil && !absent && !strings.HasPrefix(calls[i], "delete leases/") && !strings.HasPrefix(calls[i], "get packs/") {
			t.Errorf("%s: no error", when)
		}
		if err != nil && !errors.Is(err, storagetest.ErrFault) {
			t.Errorf("%s: the cause is hidden: %v", when, err)
		}
		if !op.broken {
			fx.harmless(t, tr, when)
		}
		fx.again = true
		err := op.run(t.Context(), fx, tr.open(tr.st))
		if errors.Is(err, ErrBusy) { // the lease of the failed prune is still there
			time.Sleep(leaseDead + time.Hour)
			err = op.run(t.Context(), fx, tr.open(tr.st))
		}
		if err != nil && !errors.Is(err, errNothingToDo) {
			t.Errorf("%s: repeated: %v", when, err)
		}
	}
	if op.done != nil {
		op.done(t, fx, tr)
	}
	fx.harmless(t, tr, when)
	fx.cleans(t, tr, when)
	return last
}

// Every operation is cut off after each of its changes. What is there then is whole, a backup works at
// once, and prunes clean up.
func TestCrashAtEveryPrefix(t *testing.T) {
	fx := newFixture(t)
	total := 0
	for _, op := range operations() {
		t.Run(op.name, func(t *testing.T) {
			var changes []storagetest.Op
			var base *mem.Storage
			synctest.Test(t, func(t *testing.T) {
				tr := fx.tr.at(t, fx.base.Clone())
				time.Sleep(3 * time.Hour)
				if op.setup != nil {
					op.setup(t, fx, tr)
				}
				base = tr.mem.Clone()
				rec := &recorder{Storage: tr.st}
				fx.beside, fx.again = rec, false
				must0(t, op.run(t.Context(), fx, tr.open(rec)))
				changes = rec.ops
			})
			for n := range len(changes) + 1 {
				synctest.Test(t, func(t *testing.T) {
					when := "before all"
					if n > 0 {
						when = fmt.Sprintf("after %d of %d, %v", n, len(changes), changes[n-1])
					}
					m := base.Clone()
					must0(t, storagetest.Replay(m, changes[:n]))
					tr := fx.tr.at(t, m)
					time.Sleep(6 * time.Hour)
					if op.broken {
						must0(t, op.run(t.Context(), fx, tr.open(tr.st)))
					}
					fx.harmless(t, tr, when)
					ref := tr.backup(newContent)
					mustHold(t, tr.open(tr.mem), ref, newContent)
					fx.cleans(t, tr, when)
					mustHold(t, tr.open(tr.mem), ref, newContent)
				})
				if t.Failed() {
					return
				}
			}
			t.Logf("%d prefixes", len(changes)+1)
			total += len(changes) + 1
		})
	}
	t.Logf("%d prefixes in all", total)
}

// recorder keeps the changes in the order in which they were made.
type recorder struct {
	storage.Storage
	mu  sync.Mutex
	ops []storagetest.Op
}

func (r *recorder) add(op storagetest.Op) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ops = append(r.ops, op)
}

func (r *recorder) Put(ctx context.Context, name string, data []byte) (storage.Info, error) {
	i, err := r.Storage.Put(ctx, name, data)
	r.add(storagetest.Op{Kind: storagetest.Put, Name: name, Data: bytes.Clone(data)})
	return i, err
}

func (r *recorder) Delete(ctx context.Context, name string) error {
	err := r.Storage.Delete(ctx, name)
	r.add(storagetest.Op{Kind: storagetest.Delete, Name: name})
	return err
}

// Every operation meets a call that never answers, at each of its calls in turn, and is cancelled a minute
// later. It ends at once, nothing of it runs on (the bubble would not end), and nothing is harmed.
func TestCancelAtEveryCall(t *testing.T) {
	fx := newFixture(t)
	points := 0
	for _, op := range operations() {
		t.Run(op.name, func(t *testing.T) {
			for i := 0; ; i++ {
				last := false
				synctest.Test(t, func(t *testing.T) {
					tr := fx.tr.bare(t, fx.base.Clone())
					if !op.broken { // otherwise there may be nothing to judge
						tr = fx.tr.at(t, tr.mem)
					}
					fx.beside, fx.again = tr.st, true
					time.Sleep(3 * time.Hour)
					if op.setup != nil {
						op.setup(t, fx, tr)
					}
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					var mu sync.Mutex
					n, hung := 0, ""
					st := storagetest.Hang{Storage: tr.st, Match: func(o storagetest.Op) bool {
						mu.Lock()
						defer mu.Unlock()
						// What ends an operation is tried without its context; a storage gives up by itself.
						if o.Kind == storagetest.Delete && strings.HasPrefix(o.Name, leasesDir) {
							return false
						}
						if n++; n != i+1 {
							return false
						}
						hung = o.String()
						time.AfterFunc(time.Minute, cancel)
						return true
					}}
					done := make(chan error)
					start := time.Now()
					go func() { done <- op.run(ctx, fx, tr.open(st)) }()
					err := <-done
					if last = hung == ""; last {
						if err != nil {
							t.Errorf("without a cancellation: %v", err)
						}
						return
					}
					when := fmt.Sprintf("cancelled at call %d, %s", i, hung)
					// A prune with grace waits for two hours before it begins.
					if waited := time.Since(start); waited%time.Hour > 2*time.Minute {
						t.Errorf("%s: ended after %v", when, waited)
					}
					if err == nil || !errors.Is(err, context.Canceled) {
						t.Errorf("%s: %v", when, err)
					}
					if !op.broken {
						fx.harmless(t, tr, when)
						fx.cleans(t, tr, when)
					}
				})
				if t.Failed() {
					return
				}
				points++
				if last {
					break
				}
			}
		})
	}
	t.Logf("%d cancellations", points)
}

// Init fails at each call, or is cut off after each change, and can be repeated.
func TestInitInterrupted(t *testing.T) {
	pass := must[[]byte](t)(keyFile())
	points := 0
	for _, mode := range []storagetest.Mode{storagetest.NotDone, storagetest.DoneFailed, storagetest.CrashFirst, storagetest.CrashAfter} {
		for i := 0; ; i++ {
			m := mem.New()
			f := storagetest.NewFault(m).At(i, mode)
			_, err := Init(t.Context(), f, InitOptions{Password: pass})
			if f.Hit() == 0 {
				must0(t, err)
				break
			}
			points++
			// What a call says that fails anyway (no config is there) counts more than the fault.
			if err == nil && mode != storagetest.CrashAfter && (mode != storagetest.DoneFailed || i > 0) {
				t.Errorf("fault %d: no error", i)
			}
			r, err := Init(t.Context(), m, InitOptions{Password: pass})
			if errors.Is(err, ErrExists) {
				r, err = Open(t.Context(), m, OpenOptions{Password: pass})
			}
			if err != nil {
				t.Fatalf("fault %d, mode %v: repeated: %v", i, mode, err)
			}
			if _, err := backup(t.Context(), r, content{words("a")}); err != nil {
				t.Errorf("fault %d: backup: %v", i, err)
			}
			if keys := must[[]KeyInfo](t)(r.Keys(t.Context())); len(keys) != 1 {
				t.Errorf("fault %d: %d keys", i, len(keys))
			}
		}
	}
	t.Logf("%d fault points", points)
}

// However a change of the password fails, the old or the new one opens the repository.
func TestChangeKeyInterrupted(t *testing.T) {
	tr := newRepo(t)
	ref := tr.backup(content{words("a")})
	base := tr.mem.Clone()
	next := must[[]byte](t)(NewKeyFile())
	for _, mode := range []storagetest.Mode{storagetest.NotDone, storagetest.DoneFailed} {
		for i := 0; ; i++ {
			m := base.Clone()
			f := storagetest.NewFault(m).At(i, mode)
			r := tr.open(f)
			_, err := r.ChangeKey(t.Context(), next, KDFParams{})
			if f.Hit() > 0 && !errors.Is(err, storagetest.ErrFault) {
				t.Errorf("fault %d: %v", i, err)
			}
			opened := 0
			for _, pass := range [][]byte{tr.pass, next} {
				r, err := Open(t.Context(), m, OpenOptions{Password: pass})
				if err == nil {
					opened++
					mustHold(t, r, ref, content{words("a")})
				} else if !errors.Is(err, ErrWrongPassword) {
					t.Errorf("fault %d: open: %v", i, err)
				}
			}
			if opened == 0 {
				t.Errorf("fault %d, mode %v: no password opens the repository", i, mode)
			}
			if f.Hit() == 0 {
				must0(t, err)
				if opened != 1 {
					t.Error("the old password still opens the repository")
				}
				break
			}
		}
	}
}
