package repo

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/index"
	"github.com/whole-tale/wtsnap/repo/storage"
	"github.com/whole-tale/wtsnap/repo/storage/mem"
)

// A walk drives writers, prunes, a forgetter, a reader and one who merges the index through one interleaving of their backend
// calls, with a clock that jumps and machines that are suspended.
type walk struct {
	t    *testing.T
	tr   *testRepo
	rng  *rand.Rand
	seed uint64

	mu        sync.Mutex
	parked    []*call
	running   int // actors that have not ended
	wakeful   int // the higher, the rarer are suspensions
	committed map[SnapshotRef]bool
	trace     []string

	tally *tally
}

// tally counts what the walks came across.
type tally struct {
	Walks, Calls, Commits, Checkpoints, Rescues, Swept, Condemned, Absolved, LeasesLost, Busy, Undeleted, SweptUndeletes, Suspensions, Merges int
}

// call is a backend call that waits for its turn.
type call struct {
	a    *actor
	what string
	turn chan struct{}
}

// actor is one process on a machine of its own.
type actor struct {
	name      string
	w         *walk
	speed     int           // how likely its calls are to be next; machines differ
	asleep    chan struct{} // not nil while its machine is suspended
	slept     bool          // it ever was
	sleptLong bool
	sleptAt   time.Time
}

// gate is an actor's storage: each call waits for its turn.
type gate struct {
	*mem.Storage
	a *actor
}

func (g *gate) wait(kind, name string) {
	w := g.a.w
	if g.background(kind, name) {
		w.mu.Lock()
		asleep := g.a.asleep
		w.mu.Unlock()
		if asleep != nil {
			<-asleep
		}
		return
	}
	c := &call{g.a, kind + " " + name, make(chan struct{})}
	w.mu.Lock()
	w.parked = append(w.parked, c)
	w.mu.Unlock()
	<-c.turn
}

// background reports whether the call is a renewal of a lease. Renewals hold a mutex, which a bubble does
// not take for being blocked; they run at once, unless the machine is suspended.
func (g *gate) background(kind, name string) bool {
	rest, ok := strings.CutPrefix(name, leasesDir)
	if !ok || kind == "list" || kind == "get" {
		return false
	}
	id, count, _ := strings.Cut(rest, "-")
	n, _ := strconv.Atoi(count)
	if kind == "put" {
		return n > 1
	}
	_, err := g.Storage.Stat(context.Background(), fmt.Sprintf("%s%s-%d", leasesDir, id, n+1))
	return err == nil
}

func (g *gate) Put(ctx context.Context, name string, data []byte) (storage.Info, error) {
	g.wait("put", name)
	return g.a.w.tr.st.Put(ctx, name, data)
}

func (g *gate) Get(ctx context.Context, name string, offset, length int64, dst []byte) ([]byte, error) {
	g.wait("get", name)
	return g.Storage.Get(ctx, name, offset, length, dst)
}

func (g *gate) List(ctx context.Context, prefix string, fn func(storage.Info) error) error {
	g.wait("list", prefix)
	return g.Storage.List(ctx, prefix, fn)
}

func (g *gate) Delete(ctx context.Context, name string) error {
	g.wait("delete", name)
	return g.a.w.tr.st.Delete(ctx, name)
}

// start runs an actor.
func (w *walk) start(name string, run func(a *actor, r *Repository) error) {
	a := &actor{name: name, w: w, speed: 1 << w.rng.IntN(7)}
	w.running++
	go func() {
		err := run(a, w.tr.open(&gate{w.tr.mem, a}))
		w.mu.Lock()
		defer w.mu.Unlock()
		w.running--
		if err == nil {
			return
		}
		switch {
		case errors.Is(err, ErrLeaseLost) && a.sleptLong:
			w.tally.LeasesLost++
		case a.sleptLong && isDamage(err, DamageMissing, DamageBlobGone): // noticed before the lease was looked at
		default:
			w.t.Errorf("seed %d: %s: %v", w.seed, name, err)
		}
	}()
}

var universe = []string{"a", "b", "c", "d", "e"}

// draw returns some of the universe's words.
func (w *walk) draw() [][]byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	var names []string
	for _, n := range universe {
		if w.rng.IntN(2) == 0 {
			names = append(names, n)
		}
	}
	return words(names...)
}

func (w *walk) chance(percent int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.rng.IntN(100) < percent
}

func (w *walk) writer(a *actor, r *Repository) (err error) {
	ctx := context.Background()
	s, err := r.Begin(ctx, SessionOptions{Level: chunk.LevelNone, Uploads: 1})
	if err != nil {
		return err
	}
	defer func() {
		cerr := s.Close(ctx)
		if err == nil {
			err = cerr
		}
	}()
	c := content{w.draw()}
	manifest, err := putContent(ctx, s, c)
	if err != nil {
		return err
	}
	p := Payload{Instance: "a", Time: nextTime(), Data: manifest}
	if w.chance(30) {
		if _, err := s.Checkpoint(ctx, p); err != nil {
			return err
		}
		w.count(&w.tally.Checkpoints)
		p.Time = nextTime()
		c = append(c, w.draw())
		if p.Data, err = putContent(ctx, s, c); err != nil {
			return err
		}
	}
	before := s.Stats().BlobsNew
	ref, err := s.Commit(ctx, p)
	if err != nil {
		return err
	}
	w.count(&w.tally.Commits)
	if s.Stats().BlobsNew > before {
		w.count(&w.tally.Rescues)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.committed[ref] = true
	return nil
}

func (w *walk) count(n *int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	*n++
}

func (w *walk) pruner(a *actor, r *Repository) error {
	for range 5 {
		rep, plan, err := prune(context.Background(), r, PruneOptions{Grace: MinGrace, Level: chunk.LevelNone})
		if errors.Is(err, ErrBusy) {
			w.count(&w.tally.Busy)
		} else if err != nil {
			return err
		} else {
			w.mu.Lock()
			w.tally.Swept += rep.Deleted.Packs
			w.tally.Condemned += rep.Condemned.Packs
			w.tally.Absolved += plan.Absolved
			w.mu.Unlock()
		}
		time.Sleep(MinGrace + 10*time.Minute)
	}
	return nil
}

// forgetter forgets snapshots and brings some back.
func (w *walk) forgetter(a *actor, r *Repository) error {
	ctx := context.Background()
	for range 5 {
		refs, err := r.Snapshots(ctx)
		if err != nil {
			return err
		}
		if len(refs) > 0 {
			n := 1
			if w.chance(50) {
				n = len(refs)
			}
			if err := r.Forget(ctx, refs[:n]); err != nil && !errors.Is(err, storage.ErrNotExist) { // a checkpoint that its writer removed
				return err
			}
		}
		time.Sleep(30 * time.Minute)
		if w.chance(30) {
			refs, err := r.Forgotten(ctx)
			if err != nil {
				return err
			}
			if len(refs) > 0 {
				err := r.Undelete(ctx, refs[len(refs)-1:])
				switch {
				case err == nil:
					w.count(&w.tally.Undeleted)
				case errors.Is(err, ErrBusy):
					w.count(&w.tally.Busy)
				case errors.Is(err, ErrSwept):
					w.count(&w.tally.SweptUndeletes)
				default:
					return err
				}
			}
		}
	}
	return nil
}

// reader reads snapshots with an index that grows old.
func (w *walk) reader(a *actor, r *Repository) error {
	ctx := context.Background()
	if err := r.LoadIndex(ctx); err != nil {
		return err
	}
	for range 3 {
		refs, err := r.Snapshots(ctx)
		if err != nil {
			return err
		}
		for _, ref := range refs {
			if err := w.read(ctx, r, ref); err != nil {
				// It may have been forgotten and swept, or a checkpoint whose writer has committed.
				if _, serr := w.tr.mem.Stat(ctx, ref.name()); serr == nil {
					return fmt.Errorf("reading %s: %w", ref.ID.Short(), err)
				}
			}
		}
	}
	return nil
}

// merger merges the index, as writers do where there are many segments.
func (w *walk) merger(a *actor, r *Repository) error {
	before := len(list(w.t, w.tr.mem, indexDir))
	err := mergeAll(context.Background(), r)
	if err == nil && len(list(w.t, w.tr.mem, indexDir)) < before {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.tally.Merges++
	}
	return err
}

func (w *walk) read(ctx context.Context, r *Repository, ref SnapshotRef) error {
	manifest, err := r.Manifest(ctx, ref)
	if err != nil {
		return err
	}
	return references(r)(ctx, manifest, func(index.Kind, chunk.ID) bool {
		return true
	})
}

// run lets one waiting call after the other proceed, in an order drawn from the seed, until all actors
// have ended.
func (w *walk) run() {
	jumps := []time.Duration{time.Minute, 40 * time.Minute, 70 * time.Minute, 3 * time.Hour, 13 * time.Hour, leaseDead + time.Hour}
	for {
		synctest.Wait()
		w.mu.Lock()
		if w.running == 0 || w.t.Failed() {
			w.mu.Unlock()
			return
		}
		var ready []*call
		for _, c := range w.parked {
			if c.a.asleep == nil {
				ready = append(ready, c)
			}
		}
		dice := w.rng.IntN(100)
		switch {
		case len(ready) == 0 || dice < 4:
			// The longer, the rarer.
			d := jumps[min(w.rng.IntN(len(jumps)), w.rng.IntN(len(jumps)))]
			var wake *actor
			for _, c := range w.parked {
				if c.a.asleep != nil && (len(ready) == 0 || w.rng.IntN(2) == 0) {
					wake = c.a
				}
			}
			w.mu.Unlock()
			time.Sleep(d)
			if wake != nil {
				w.wake(wake)
			}
			continue
		case dice < 6 && w.rng.IntN(w.wakeful) == 0:
			a := ready[w.rng.IntN(len(ready))].a
			a.asleep, a.slept, a.sleptAt = make(chan struct{}), true, time.Now()
			w.tally.Suspensions++
			w.trace = append(w.trace, a.name+" is suspended")
			w.mu.Unlock()
			continue
		}
		sum := 0
		for _, c := range ready {
			sum += c.a.speed
		}
		next := w.rng.IntN(sum)
		c := ready[0]
		for _, c = range ready {
			if next -= c.a.speed; next < 0 {
				break
			}
		}
		w.parked = slices.DeleteFunc(w.parked, func(o *call) bool { return o == c })
		w.tally.Calls++
		w.trace = append(w.trace, fmt.Sprintf("%s %s: %s", time.Now().Format("02 15:04"), c.a.name, c.what))
		w.mu.Unlock()
		close(c.turn)
		if strings.HasPrefix(c.what, "delete packs/") {
			synctest.Wait()
			w.whole("after " + c.what)
		}
	}
}

func (w *walk) wake(a *actor) {
	w.mu.Lock()
	asleep := a.asleep
	a.asleep = nil
	a.sleptLong = a.sleptLong || time.Since(a.sleptAt) > pruneAlive
	w.trace = append(w.trace, a.name+" wakes")
	w.mu.Unlock()
	if asleep != nil {
		close(asleep)
	}
	synctest.Wait() // the renewal of its lease goes first
}

// whole fails if a snapshot that was committed is there and not whole.
func (w *walk) whole(when string) {
	refs, err := w.tr.open(w.tr.mem).Snapshots(context.Background())
	if err != nil {
		w.t.Errorf("seed %d: %s: %v", w.seed, when, err)
	}
	for _, ref := range refs {
		w.mu.Lock()
		known := w.committed[ref]
		w.mu.Unlock()
		if !known {
			continue
		}
		manifest, err := w.tr.open(w.tr.mem).Manifest(context.Background(), ref)
		if err == nil {
			err = w.tr.whole(context.Background(), w.tr.mem, manifest)
		}
		if err != nil {
			w.t.Errorf("seed %d: %s: snapshot %s lost something: %v", w.seed, when, ref.ID.Short(), err)
		}
	}
}

// TestInterleavings walks through interleavings of two writers, two prunes, a forgetter and a reader.
// WTSNAP_SEED chooses one.
func TestInterleavings(t *testing.T) {
	first, n := uint64(1), uint64(budget(400))
	if s := os.Getenv("WTSNAP_SEED"); s != "" {
		seed, err := strconv.ParseUint(s, 10, 64)
		must0(t, err)
		first, n = seed, 1
	}
	var sum tally
	base := newRepo(t)
	for seed := first; seed < first+n; seed++ {
		synctest.Test(t, func(t *testing.T) {
			tr := base.at(t, base.mem.Clone())
			w := &walk{t: t, tr: tr, rng: rand.New(rand.NewPCG(seed, 1)), seed: seed, committed: map[SnapshotRef]bool{}, tally: &sum, wakeful: 1 + int(seed%40)}
			for _, c := range []content{{words("a", "b")}, {words("b", "c")}, {words("c", "d", "e")}} {
				w.committed[tr.backup(c)] = true
			}
			refs := must[[]SnapshotRef](t)(tr.open(tr.st).Snapshots(t.Context()))
			forget(t, tr.open(tr.st), refs[0])
			tr.prune(PruneOptions{Grace: MinGrace})
			// From here on the sleepers' last acts may break the referee's rules; they do not last.
			tr.st = tr.mem
			w.start("writer A", w.writer)
			w.start("writer B", w.writer)
			w.start("prune 1", w.pruner)
			if seed%2 == 0 {
				w.start("prune 2", w.pruner)
			}
			w.start("forgetter", w.forgetter)
			if seed%3 == 0 {
				w.start("reader", w.reader)
			}
			if seed%5 < 3 {
				w.start("merger", w.merger)
			}
			w.run()
			sum.Walks++
			w.whole("at the end")
			if !t.Failed() {
				for range 3 {
					time.Sleep(leaseDead + time.Hour)
					tr.prune(PruneOptions{Grace: MinGrace})
				}
				w.whole("cleaned")
				rep := checkAll(t, tr.open(tr.mem))
				for _, p := range rep.Problems {
					t.Errorf("seed %d: %+v", seed, p)
				}
				if rep.Orphans.Packs+rep.Condemned.Packs != 0 {
					t.Errorf("seed %d: left over: %+v", seed, rep)
				}
			}
			if t.Failed() {
				t.Logf("trace:\n%s", strings.Join(w.trace, "\n"))
				w.release()
			}
		})
		if t.Failed() {
			return
		}
	}
	t.Logf("%+v", sum)
	if n > 100 {
		for what, n := range map[string]int{"rescues": sum.Rescues, "sweeps": sum.Swept, "absolved packs": sum.Absolved,
			"lost leases": sum.LeasesLost, "busy prunes": sum.Busy, "undeletes": sum.Undeleted, "checkpoints": sum.Checkpoints, "merges": sum.Merges} {
			if n == 0 {
				t.Errorf("no %s: the walks are vacuous", what)
			}
		}
	}
}

// release lets all that waits go on, so that a failed walk ends.
func (w *walk) release() {
	for {
		synctest.Wait()
		w.mu.Lock()
		if w.running == 0 {
			w.mu.Unlock()
			return
		}
		parked := w.parked
		w.parked = nil
		w.mu.Unlock()
		for _, c := range parked {
			if c.a.asleep != nil {
				w.wake(c.a)
			}
			close(c.turn)
		}
		if len(parked) == 0 {
			time.Sleep(time.Hour)
		}
	}
}
