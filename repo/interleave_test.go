package repo

import (
	"context"
	"errors"
	"fmt"
	"maps"
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
	copy *testRepo // to which snapshots are copied; nil in walks without that
	rng  *rand.Rand
	seed uint64

	mu        sync.Mutex
	parked    []*call
	running   int // actors that have not ended
	wakeful   int // the higher, the rarer are suspensions
	torn      bool
	committed map[SnapshotRef]bool
	copied    map[SnapshotRef]SnapshotRef // of those of the other repository: what they are copies of; zero: of none
	trace     []string

	bug      string   // a step of the protocol that is left out
	failures []string // what is not as it must be
	plan     *plan    // not nil: whose turn it is is not drawn

	tally *tally
}

// fail records what is not as it must be.
func (w *walk) fail(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.failures = append(w.failures, fmt.Sprintf("seed %d: ", w.seed)+fmt.Sprintf(format, args...))
}

// tally counts what the walks came across.
type tally struct {
	Walks, Calls, Commits, Checkpoints, Rescues, Swept, Condemned, Absolved, LeasesLost, Busy, Undeleted, SweptUndeletes, Suspensions, Merges,
	Copies, RepairedIndexes, RepairedPacks int
}

// call is a backend call that waits for its turn.
type call struct {
	a    *actor
	tr   *testRepo
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
	tr    *testRepo
	a     *actor
	stale []storage.Info // what a listing showed before
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
	c := &call{g.a, g.tr, kind + " " + name, make(chan struct{})}
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
	newer := false // not always the next one: a prune that took the lease for dead may have removed that
	err := g.Storage.List(context.Background(), leasesDir, func(i storage.Info) error {
		owner, count, _ := strings.Cut(strings.TrimPrefix(i.Name, leasesDir), "-")
		m, _ := strconv.Atoi(count)
		newer = newer || owner == id && m > n
		return nil
	})
	return err == nil && newer
}

func (g *gate) Put(ctx context.Context, name string, data []byte) (storage.Info, error) {
	g.wait("put", name)
	info, err := g.Storage.Put(ctx, name, data)
	if id, count, ok := strings.Cut(name, "-"); err == nil && ok && g.a.w.bug == "a renewal removes at once" {
		if n, _ := strconv.Atoi(count); n > 1 {
			err = g.Storage.Delete(ctx, fmt.Sprintf("%s-%d", id, n-1))
		}
	}
	return info, err
}

func (g *gate) Get(ctx context.Context, name string, offset, length int64, dst []byte) ([]byte, error) {
	g.wait("get", name)
	return g.Storage.Get(ctx, name, offset, length, dst)
}

// List shows a half of the names as they are at one time, and the other half as they are at a later one: what is stored or
// removed meanwhile shows up or does not.
func (g *gate) List(ctx context.Context, prefix string, fn func(storage.Info) error) error {
	g.wait("list", prefix)
	var infos []storage.Info
	keep := func(half byte) error {
		return g.Storage.List(ctx, prefix, func(i storage.Info) error {
			if i.Name[len(i.Name)-1]&1 == half {
				infos = append(infos, i)
			}
			return nil
		})
	}
	if err := keep(0); err != nil {
		return err
	}
	if g.a.w.torn {
		g.wait("list", prefix+" on")
	}
	if err := keep(1); err != nil {
		return err
	}
	infos, err := g.forget(prefix, infos)
	if err != nil {
		return err
	}
	for _, i := range infos {
		if err := fn(i); err != nil {
			return err
		}
	}
	return nil
}

func (g *gate) Delete(ctx context.Context, name string) error {
	g.wait("delete", name)
	return g.Storage.Delete(ctx, name)
}

// start runs an actor.
func (w *walk) start(name string, run func(a *actor, r *Repository) error) {
	a := &actor{name: name, w: w, speed: 1 << w.rng.IntN(7)}
	w.running++
	go func() {
		err := run(a, a.open(w.tr))
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
			w.failures = append(w.failures, fmt.Sprintf("seed %d: %s: %v", w.seed, name, err))
		}
	}()
}

// open opens a repository in which the actor's calls wait for their turn.
func (a *actor) open(tr *testRepo) *Repository { return tr.open(&gate{tr.mem, tr, a, nil}) }

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
	if w.copy != nil && r.ID() == w.copy.r.ID() {
		w.copied[ref] = SnapshotRef{}
	} else {
		w.committed[ref] = true
	}
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
				if _, serr := w.tr.mem.Stat(ctx, ref.Name()); serr == nil {
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
		if w.running == 0 || len(w.failures) > 0 {
			w.mu.Unlock()
			return
		}
		if w.plan != nil {
			w.step()
			continue
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
		w.turn(c)
	}
}

// turn lets a call go on. A pack that is removed takes no snapshot with it.
func (w *walk) turn(c *call) {
	close(c.turn)
	if strings.HasPrefix(c.what, "delete packs/") {
		synctest.Wait()
		w.whole(c.tr, "after "+c.what)
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

// known reports whether a snapshot of one of the repositories was committed.
func (w *walk) known(tr *testRepo, ref SnapshotRef) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if tr == w.copy {
		_, ok := w.copied[ref]
		return ok
	}
	return w.committed[ref]
}

// whole fails if a snapshot that was committed is there and not whole.
func (w *walk) whole(tr *testRepo, when string) {
	refs, err := tr.open(tr.mem).Snapshots(context.Background())
	if err != nil {
		w.fail("%s: %v", when, err)
	}
	for _, ref := range refs {
		if !w.known(tr, ref) {
			continue
		}
		manifest, err := tr.open(tr.mem).Manifest(context.Background(), ref)
		if err == nil {
			err = tr.whole(context.Background(), tr.mem, manifest)
		}
		if err != nil {
			w.fail("%s: snapshot %s lost something: %v", when, ref.ID.Short(), err)
		}
	}
}

// forget is how the storage leaves a step of the protocol out.
func (g *gate) forget(prefix string, infos []storage.Info) ([]storage.Info, error) {
	prune := strings.HasPrefix(g.a.name, "prune")
	switch {
	case g.a.w.bug == "no lease is read" && prune && prefix == leasesDir,
		g.a.w.bug == "undelete minds no prune" && g.a.name == "forgetter" && prefix == leasesDir,
		g.a.w.bug == "merging minds no prune" && g.a.name == "merger" && prefix == leasesDir:
		return nil, nil
	case g.a.w.bug == "condemned lists are read once" && strings.HasPrefix(g.a.name, "writer") && prefix == condemnedDir:
		if g.stale == nil {
			g.stale = append([]storage.Info{}, infos...)
		}
		return g.still(), nil
	case g.a.w.bug == "leases are read first" && prune && prefix == condemnedDir:
		g.stale = nil
		return infos, g.Storage.List(context.Background(), leasesDir, func(i storage.Info) error {
			g.stale = append(g.stale, i)
			return nil
		})
	case g.a.w.bug == "leases are read first" && prune && prefix == leasesDir:
		return g.still(), nil
	}
	return infos, nil
}

// still returns what is stale and can still be read.
func (g *gate) still() []storage.Info {
	return slices.DeleteFunc(slices.Clone(g.stale), func(i storage.Info) bool {
		_, err := g.Storage.Stat(context.Background(), i.Name)
		return err != nil
	})
}

// newWalk begins a walk: three snapshots, one of them forgotten and its packs condemned.
func newWalk(t *testing.T, base *testRepo, seed uint64, sum *tally) *walk {
	w := &walk{t: t, rng: rand.New(rand.NewPCG(seed, 1)), seed: seed, committed: map[SnapshotRef]bool{}, tally: sum,
		wakeful: 1 + int(seed%40), torn: seed%4 == 3}
	w.tr = stage3(t, base, func(ref SnapshotRef) { w.committed[ref] = true })
	return w
}

// stage3 makes a repository of three snapshots, one of them forgotten and its packs condemned.
func stage3(t *testing.T, base *testRepo, made func(SnapshotRef)) *testRepo {
	tr := base.at(t, base.mem.Clone())
	for _, c := range []content{{words("a", "b")}, {words("b", "c")}, {words("c", "d", "e")}} {
		made(tr.backup(c))
	}
	refs := must[[]SnapshotRef](t)(tr.open(tr.st).Snapshots(t.Context()))
	forget(t, tr.open(tr.st), refs[0])
	tr.prune(PruneOptions{Grace: MinGrace})
	// From here on the sleepers' last acts may break the referee's rules; they do not last.
	tr.st = tr.mem
	return tr
}

// cast starts the actors of a random walk.
func (w *walk) cast() {
	w.start("writer A", w.writer)
	w.start("writer B", w.writer)
	w.start("prune 1", w.pruner)
	if w.seed%2 == 0 {
		w.start("prune 2", w.pruner)
	}
	w.start("forgetter", w.forgetter)
	if w.seed%3 == 0 {
		w.start("reader", w.reader)
	}
	if w.seed%5 < 3 {
		w.start("merger", w.merger)
	}
	w.castMore()
}

// end looks at what a walk has left.
func (w *walk) end() {
	repos := []*testRepo{w.tr}
	if w.copy != nil {
		repos = append(repos, w.copy)
	}
	for _, tr := range repos {
		w.whole(tr, "at the end")
		for range 3 {
			if len(w.failures) > 0 {
				return
			}
			time.Sleep(leaseDead + time.Hour)
			if _, _, err := prune(context.Background(), tr.open(tr.mem), PruneOptions{Grace: MinGrace}); err != nil {
				w.fail("cleaning: %v", err)
			}
		}
		w.whole(tr, "cleaned")
		rep := checkAll(w.t, tr.open(tr.mem))
		for _, p := range rep.Problems {
			w.fail("%+v", p)
		}
		if rep.Orphans.Packs+rep.Condemned.Packs != 0 {
			w.fail("left over: %+v", rep)
		}
	}
	w.same()
}

// TestInterleavings walks through interleavings of two writers, two prunes, a forgetter, a reader and one who merges.
// WTSNAP_SEED chooses one.
func TestInterleavings(t *testing.T) {
	first, n := uint64(1), uint64(budget(400))
	if s := os.Getenv("WTSNAP_SEED"); s != "" {
		seed, err := strconv.ParseUint(s, 10, 64)
		must0(t, err)
		first, n = seed, 1
	}
	var sum tally
	base, other := newRepo(t), newRepo(t)
	for seed := first; seed < first+n; seed++ {
		synctest.Test(t, func(t *testing.T) {
			w := newWalk(t, base, seed, &sum)
			if seed%4 == 1 {
				w.withCopy(other)
			}
			w.cast()
			w.run()
			sum.Walks++
			w.end()
			for _, f := range w.failures {
				t.Error(f)
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
			"lost leases": sum.LeasesLost, "busy prunes": sum.Busy, "undeletes": sum.Undeleted, "checkpoints": sum.Checkpoints, "merges": sum.Merges,
			"copies": sum.Copies, "repairs of the index": sum.RepairedIndexes, "packs given up": sum.RepairedPacks} {
			if n == 0 {
				t.Errorf("no %s: the walks are vacuous", what)
			}
		}
	}
}

// Each step of the protocol that is left out loses something in one of the walks: they would notice.
func TestInterleavingsNotice(t *testing.T) {
	base := newRepo(t)
	bugs := []string{"no lease is read", "undelete minds no prune", "leases are read first"}
	if slow() { // these take hundreds of walks
		bugs = append(bugs, "condemned lists are read once", "merging minds no prune", "a renewal removes at once")
	}
	for _, bug := range bugs {
		t.Run(bug, func(t *testing.T) {
			var sum tally
			var found []string
			seed := uint64(0)
			for ; seed < 4000 && len(found) == 0; seed++ {
				synctest.Test(t, func(t *testing.T) {
					w := newWalk(t, base, seed, &sum)
					w.bug = bug
					w.torn = w.torn || bug == "a renewal removes at once"
					w.cast()
					w.run()
					if w.end(); len(w.failures) > 0 {
						found = w.failures
						w.release()
					}
				})
			}
			if found == nil {
				t.Errorf("%d walks, and nothing is lost", seed)
				return
			}
			t.Logf("walk %d: %.200s", seed, found[0])
		})
	}
}

// plan decides whose turn it is: an actor goes on until it waits or ends, but that at some steps another one takes over.
type plan struct {
	actors  []string
	current string
	step    int
	switchs map[int]int // step -> how many actors further
}

// step lets the actor whose turn it is do one call. It is called with mu held.
func (w *walk) step() {
	p := w.plan
	parked := map[string]*call{}
	for _, c := range w.parked {
		if o := parked[c.a.name]; o == nil {
			parked[c.a.name] = c
		}
	}
	if len(parked) == 0 { // they wait for time to pass
		w.mu.Unlock()
		time.Sleep(10 * time.Minute)
		return
	}
	at := slices.Index(p.actors, p.current)
	at += p.switchs[p.step]
	for parked[p.actors[at%len(p.actors)]] == nil {
		at++
	}
	p.step++
	p.current = p.actors[at%len(p.actors)]
	c := parked[p.current]
	w.parked = slices.DeleteFunc(w.parked, func(o *call) bool { return o == c })
	w.tally.Calls++
	w.trace = append(w.trace, fmt.Sprintf("%s %s: %s", time.Now().Format("02 15:04"), c.a.name, c.what))
	w.mu.Unlock()
	if c.what == "time passes" {
		time.Sleep(MinGrace + 10*time.Minute)
	}
	w.turn(c)
}

// pass lets the grace time pass when it is the actor's turn, which it keeps.
func (a *actor) pass() { (&gate{a.w.tr.mem, a.w.tr, a, nil}).wait("time", "passes") }

// scenes are the plays whose every interleaving with few switches is tried: what relies on packs, and what removes them.
func scenes() map[string]map[string]func(w *walk) func(a *actor, r *Repository) error {
	prunes := func(w *walk) func(*actor, *Repository) error {
		return func(a *actor, r *Repository) error {
			for range 2 {
				_, _, err := prune(context.Background(), r, PruneOptions{Grace: MinGrace, Level: chunk.LevelNone})
				if err != nil && !errors.Is(err, ErrBusy) {
					return err
				}
				a.pass()
			}
			return nil
		}
	}
	writes := func(w *walk) func(*actor, *Repository) error { return w.writer }
	merges := func(w *walk) func(*actor, *Repository) error { return w.merger }
	returns := func(w *walk) func(*actor, *Repository) error {
		return func(a *actor, r *Repository) error {
			refs, err := r.Forgotten(context.Background())
			if err != nil || len(refs) == 0 {
				return err
			}
			if err := r.Undelete(context.Background(), refs); err != nil && !errors.Is(err, ErrBusy) && !errors.Is(err, ErrSwept) {
				return err
			}
			return nil
		}
	}
	type cast = map[string]func(w *walk) func(a *actor, r *Repository) error
	reads := func(w *walk) func(*actor, *Repository) error { return w.reader }
	copies := func(w *walk) func(*actor, *Repository) error { return w.copier }
	lists := func(w *walk) func(*actor, *Repository) error { return w.indexRepairer }
	givesUp := func(w *walk) func(*actor, *Repository) error { return w.packRepairer }
	there := func(on func(w *walk) func(*actor, *Repository) error) func(w *walk) func(*actor, *Repository) error {
		return func(w *walk) func(*actor, *Repository) error { // on the other repository
			return func(a *actor, _ *Repository) error { return on(w)(a, a.open(w.copy)) }
		}
	}
	return map[string]cast{
		"a restore and a prune":                       {"reader": reads, "prune 1": prunes},
		"a restore, a backup and a prune":             {"reader": reads, "writer A": writes, "prune 1": prunes},
		"a copy and a prune of what is copied":        {"copy": copies, "prune 1": prunes},
		"a copy and a prune of the copy":              {"copy": copies, "prune of the copy": there(prunes)},
		"a copy, and prunes here and there":           {"copy": copies, "prune 1": prunes, "prune of the copy": there(prunes)},
		"a copy, a backup and a prune there":          {"copy": copies, "prune of the copy": there(prunes), "writer there": there(writes)},
		"two copies and a prune of the copy":          {"copy": copies, "copy 2": copies, "prune of the copy": there(prunes)},
		"a repair of the index and a prune":           {"repair index": lists, "prune 1": prunes},
		"a repair of the index, a backup and a prune": {"repair index": lists, "writer A": writes, "prune 1": prunes},
		"a repair of packs and a prune":               {"repair packs": givesUp, "prune 1": prunes},
		"a repair of packs, a backup and a prune":     {"repair packs": givesUp, "writer A": writes, "prune 1": prunes},
		"a repair of packs, a copy and a prune":       {"repair packs": givesUp, "copy": copies, "prune 1": prunes},
		"a repair of packs and one of the index":      {"repair packs": givesUp, "repair index": lists},
		"a backup and a prune":                        {"writer A": writes, "prune 1": prunes},
		"a backup and two prunes":                     {"writer A": writes, "prune 1": prunes, "prune 2": prunes},
		"two backups and a prune":                     {"writer A": writes, "writer B": writes, "prune 1": prunes},
		"an undelete and a prune":                     {"forgetter": returns, "prune 1": prunes},
		"merging the index and a prune":               {"merger": merges, "prune 1": prunes},
		"merging the index and a backup":              {"merger": merges, "writer A": writes},
		"an undelete, a backup and a prune":           {"forgetter": returns, "writer A": writes, "prune 1": prunes},
		"two who merge the index and a prune":         {"merger": merges, "merger 2": merges, "prune 1": prunes},
	}
}

// TestFewSwitches tries every interleaving of some scenes with one switch from an actor that could go on to another one,
// and a share of those with two; all of them in the slow tier.
func TestFewSwitches(t *testing.T) {
	base, other := newRepo(t), newRepo(t)
	share := uint64(120)
	if slow() {
		share = 1
	}
	total := map[int]int{}
	all := scenes()
	for _, name := range slices.Sorted(maps.Keys(all)) {
		t.Run(name, func(t *testing.T) {
			few := fewSwitches{t: t, base: base, other: other, name: name, cast: all[name], total: total}
			few.run(share)
		})
	}
	t.Logf("interleavings by the number of switches: %v", total)
}

// fewSwitches plays a scene again and again.
type fewSwitches struct {
	t           *testing.T
	base, other *testRepo
	name        string
	cast        map[string]func(w *walk) func(a *actor, r *Repository) error
	total       map[int]int
}

// run plays all of the scene's interleavings with one switch, and of those with two one in share; with a share above 1 a
// sixth of the former.
func (f *fewSwitches) run(share uint64) {
	rng := rand.New(rand.NewPCG(1, 1))
	steps := f.play(nil)
	for i := 1; i < steps && !f.t.Failed(); i++ {
		for to := 1; to < len(f.cast) && !f.t.Failed(); to++ {
			if share > 1 && rng.IntN(6) != 0 {
				continue
			}
			more := f.play(map[int]int{i: to})
			for j := i + 1; j < more && !f.t.Failed(); j++ {
				for then := 1; then < len(f.cast); then++ {
					if rng.Uint64N(share*20/min(20, share)) == 0 {
						f.play(map[int]int{i: to, j: then})
					}
				}
			}
		}
	}
}

// play returns how many calls there were.
func (f *fewSwitches) play(switchs map[int]int) (steps int) {
	f.total[len(switchs)]++
	synctest.Test(f.t, func(t *testing.T) {
		w := newWalk(t, f.base, 0, &tally{})
		w.plan = &plan{actors: slices.Sorted(maps.Keys(f.cast)), switchs: switchs}
		w.plan.current = w.plan.actors[0]
		if f.cast["copy"] != nil {
			w.withCopy(f.other)
		}
		for _, actor := range w.plan.actors {
			w.start(actor, f.cast[actor](w))
		}
		w.run()
		w.end()
		steps = w.plan.step
		for _, failure := range w.failures {
			t.Errorf("%s, switches %v: %s", f.name, switchs, failure)
		}
		if t.Failed() {
			t.Logf("trace:\n%s", strings.Join(w.trace, "\n"))
			w.release()
		}
	})
	return steps
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
