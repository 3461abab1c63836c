package repo

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/index"
	"github.com/whole-tale/wtsnap/repo/storage"
)

// edited returns blob as it is after a night of small changes; the same seed makes the same ones.
func edited(blob []byte, seed uint64) []byte {
	rng := rand.New(rand.NewPCG(seed, 1))
	out := slices.Clone(blob)
	for range 1 + rng.IntN(4) {
		at := rng.IntN(len(out))
		n := min(1+rng.IntN(100), len(out)-at)
		fresh := make([]byte, n)
		for i := range fresh {
			fresh[i] = byte(rng.Uint32())
		}
		switch rng.IntN(3) {
		case 0:
			copy(out[at:], fresh)
		case 1:
			out = slices.Insert(out, at, fresh...)
		default:
			if len(out) > 3000 {
				out = slices.Delete(out, at, at+n)
			}
		}
	}
	return out
}

// blurred returns blob with every 16th byte changed: there is nothing to copy, but zstd finds something.
func blurred(blob []byte, seed uint64) []byte {
	out := slices.Clone(blob)
	for i := int(seed) % 16; i < len(out); i += 16 {
		out[i] += byte(seed) | 1
	}
	return out
}

// pastNight is a snapshot whose blobs were stored as deltas against those of an earlier one.
type pastNight struct {
	ref     SnapshotRef
	content content
	ids     []chunk.ID // of the only tree's blobs
}

// backupOver stores blobs with those of old, which may be nil, as their bases: each with the one at its place and the one
// behind it, and those of which that leaves much once more, with all of old.
func backupOver(ctx context.Context, r *Repository, old *pastNight, blobs [][]byte, o SessionOptions) (n *pastNight, st SessionStats, err error) {
	s, err := r.Begin(ctx, o)
	if err != nil {
		return nil, st, err
	}
	defer func() {
		st = s.Stats()
		err = errors.Join(err, s.Close(context.WithoutCancel(ctx)))
	}()
	w := s.Writer()
	n = &pastNight{content: content{blobs}}
	var late []int
	var hints []Hint
	for i, b := range blobs {
		h := Hint{PutOff: old != nil, Guess: i%3 == 2}
		if old != nil && i < len(old.ids) {
			h.Bases = old.ids[i:min(i+1+i%2, len(old.ids))]
		}
		id, _, err := w.PutHinted(ctx, index.Data, b, h)
		if err != nil {
			return nil, st, err
		}
		if w.PutOff() {
			late, hints = append(late, i), append(hints, Hint{Bases: h.Bases, Spare: old.ids})
		}
		n.ids = append(n.ids, id)
	}
	for i, at := range late {
		if _, _, err := w.PutHinted(ctx, index.Data, blobs[at], hints[i]); err != nil {
			return nil, st, err
		}
	}
	var bases []chunk.ID
	if old != nil {
		bases = []chunk.ID{r.Hasher().Sum(encodeIDs(treeMagic, old.ids))}
	}
	tree, _, err := w.PutDelta(ctx, index.Tree, encodeIDs(treeMagic, n.ids), bases)
	if err != nil {
		return nil, st, err
	}
	n.ref, err = s.Commit(ctx, Payload{Instance: "a", Time: nextTime(), Data: encodeIDs(manifestMagic, []chunk.ID{tree})})
	return n, st, err
}

// depths returns how deep the chains of a snapshot's blobs are, and what their frames are.
func depths(r *Repository, ids []chunk.ID) (depths []int, encodings map[chunk.Encoding]int) {
	encodings = map[chunk.Encoding]int{}
	s := &Session{index: r.Index()}
	for _, id := range ids {
		loc, _ := r.Index().Lookup(index.KeyOf(id))
		depths = append(depths, s.depth(index.KeyOf(id)))
		encodings[loc.Encoding]++
	}
	return depths, encodings
}

// Nights upon nights: every one is read as it was, the deltas are small, and no chain gets too long or too costly.
func TestNights(t *testing.T) {
	tr := newRepo(t)
	var blobs [][]byte
	for i := range 8 {
		blobs = append(blobs, word(strings.Repeat("n", i+1), []int{3000, 20_000, 150_000, 300_000}[i%4]))
	}
	var nights []*pastNight
	var old *pastNight
	var st SessionStats
	for i := range 2*writeDepth + 20 {
		n, s, err := backupOver(t.Context(), tr.open(tr.st), old, blobs, SessionOptions{Level: chunk.LevelFastest})
		must0(t, err)
		if i == 1 {
			st = s
		}
		nights, old = append(nights, n), n
		blobs = slices.Clone(blobs)
		for j := range blobs {
			blobs[j] = edited(blobs[j], uint64(100*i+j))
		}
	}
	if st.BlobsDelta < 6 || st.BytesStored > 20_000 {
		t.Errorf("the second night stored %d deltas, %d bytes", st.BlobsDelta, st.BytesStored)
	}
	r := tr.open(tr.st)
	most := 0
	for i, n := range nights {
		mustHold(t, r, n.ref, n.content)
		d, encodings := depths(r, n.ids)
		most = max(most, slices.Max(d))
		if i == 1 && encodings[chunk.Patched] == 0 {
			t.Errorf("the second night's frames are %v", encodings)
		}
	}
	if most < writeDepth || most > 2*writeDepth+1 || most >= maxDepth {
		t.Errorf("chains of up to %d deltas, want more than %d and at most %d", most, writeDepth, 2*writeDepth+1)
	}
}

// What differs every few bytes is stored by zstd, and patches may rest on that and it on patches.
func TestBothKindsOfDelta(t *testing.T) {
	tr := newRepo(t)
	blobs := [][]byte{word("both", 200_000), word("kinds", 5000)}
	var nights []*pastNight
	var old *pastNight
	for i := range 6 {
		n, _, err := backupOver(t.Context(), tr.open(tr.st), old, blobs, SessionOptions{Level: chunk.LevelDefault})
		must0(t, err)
		nights, old = append(nights, n), n
		change := edited
		if i%2 == 0 {
			change = blurred
		}
		blobs = [][]byte{change(blobs[0], uint64(i)), change(blobs[1], uint64(i+50))}
	}
	r := tr.open(tr.st)
	all := map[chunk.Encoding]int{}
	for _, n := range nights {
		mustHold(t, r, n.ref, n.content)
		_, encodings := depths(r, n.ids)
		for e, c := range encodings {
			all[e] += c
		}
	}
	if all[chunk.Patched] == 0 || all[chunk.ZstdDelta] == 0 {
		t.Errorf("stored as %v: not both kinds", all)
	}
}

// A chain whose deltas take much beside the whole blob is ended by a whole one.
func TestCostlyChainEnds(t *testing.T) {
	tr := newRepo(t)
	blob := word("costly", 200_000)
	var old *pastNight
	whole := 0
	for i := range 24 {
		n, _, err := backupOver(t.Context(), tr.open(tr.st), old, [][]byte{blob}, SessionOptions{Level: chunk.LevelFastest})
		must0(t, err)
		old = n
		r := tr.open(tr.st)
		mustHold(t, r, n.ref, n.content)
		if d, _ := depths(r, n.ids); d[0] == 0 {
			whole++
		}
		x := r.Index()
		loc, _ := x.Lookup(index.KeyOf(n.ids[0]))
		c := (&Session{index: x}).chain(loc)
		if c.bytes > share(c.root) {
			t.Errorf("night %d: %d bytes of deltas on %d of the whole blob", i, c.bytes, share(c.root))
		}
		blob = slices.Clone(blob)
		copy(blob[(i%5)*20_000:], word(strings.Repeat("m", i+1), 30_000)[:15_000]) // noise: 15 % of what is stored
	}
	if whole < 4 || whole > 12 {
		t.Errorf("%d of 24 nights stored the blob whole", whole)
	}
}

// reads counts what is fetched of packs.
type reads struct {
	storage.Storage
	mu    sync.Mutex
	calls int
	bytes int64
	times map[string][]uint8 // how often each byte of a pack was fetched
}

func (s *reads) Get(ctx context.Context, name string, offset, length int64, buf []byte) ([]byte, error) {
	data, err := s.Storage.Get(ctx, name, offset, length, buf)
	if strings.HasPrefix(name, packsDir) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.calls++
		s.bytes += int64(len(data))
		times := s.times[name]
		times = append(times, make([]uint8, max(0, int(offset)+len(data)-len(times)))...)
		for i := range data {
			times[int(offset)+i]++
		}
		s.times[name] = times
	}
	return data, err
}

// tenNights backs up 100 blobs on ten nights of edits and returns the last.
func tenNights(t *testing.T, tr *testRepo) (old *pastNight) {
	t.Helper()
	var blobs [][]byte
	for i := range 100 {
		blobs = append(blobs, word(strings.Repeat("o", i+1), 200_000))
	}
	for i := range 10 {
		n, _, err := backupOver(t.Context(), tr.open(tr.st), old, blobs, SessionOptions{Level: chunk.LevelFastest})
		must0(t, err)
		old = n
		blobs = slices.Clone(blobs)
		for j := range blobs {
			blobs[j] = edited(blobs[j], uint64(100*i+j))
			if i == 8 && j%2 == 1 && j+1 < len(blobs) { // cuts have moved: each rests on two
				blobs[j] = slices.Concat(blobs[j][100_000:], blobs[j+1][:100_000])
			}
		}
	}
	return old
}

// A check that reads everything reads whole blobs once, with the deltas on them.
func TestCheckReadsOnce(t *testing.T) {
	tr := newRepo(t)
	old := tenNights(t, tr)
	for parts := range 3 {
		counted := &reads{Storage: tr.mem, times: map[string][]uint8{}}
		var stored, whole int64
		for part := range max(parts, 1) {
			r := tr.open(counted)
			o := CheckOptions{References: references(r), ReadShare: 1, Parts: parts}
			if parts > 0 {
				o.Part = part + 1
			}
			rep, err := r.Check(t.Context(), o)
			must0(t, err)
			if len(rep.Problems) > 0 {
				t.Errorf("part %d of %d: %+v", part+1, parts, rep.Problems)
			}
			stored += rep.BytesRead
		}
		r := tr.open(tr.mem)
		must0(t, r.LoadIndex(t.Context()))
		for _, id := range old.ids {
			loc, _ := r.Index().Lookup(index.KeyOf(id))
			_, root := r.Index().At(rootOf(r.Index(), loc))
			whole += int64(root.Length)
		}
		t.Logf("%d parts: %d bytes fetched of %d, %d of them whole blobs", parts, counted.bytes, stored, whole)
		if stored < whole || whole < stored/3 {
			t.Fatal("there is hardly anything whole")
		}
		if parts < 2 && counted.bytes-stored > whole/4 {
			t.Errorf("%d bytes fetched of packs of %d, of which %d are whole blobs", counted.bytes, stored, whole)
		}
	}
}

// A restore after many nights fetches every byte that it needs once, also of whole blobs that deltas of several ranges rest
// on, and few ranges.
func TestNightsAreReadOnce(t *testing.T) {
	tr := newRepo(t)
	old := tenNights(t, tr)
	counted := &reads{Storage: tr.mem, times: map[string][]uint8{}}
	r := tr.open(counted)
	must0(t, r.LoadIndex(t.Context()))
	var mu sync.Mutex
	got := map[int]bool{}
	must0(t, r.ReadBlobs(t.Context(), old.ids, ReadOptions{}, func(i int, data []byte) error {
		mu.Lock()
		defer mu.Unlock()
		if got[i] || r.Hasher().Sum(data) != old.ids[i] {
			return fmt.Errorf("blob %d is wrong", i)
		}
		got[i] = true
		return nil
	}))
	if len(got) != len(old.ids) {
		t.Errorf("%d of %d blobs", len(got), len(old.ids))
	}
	var stored int64
	for ref, p := range r.Index().Packs() {
		if p.Kind == index.Data {
			stored += int64(r.Index().Pack(ref).DataSize)
		}
	}
	for name, times := range counted.times {
		again := 0
		for _, n := range times {
			again += max(0, int(n)-1)
		}
		if again > 0 {
			t.Errorf("%s: %d bytes were fetched more than once", name, again)
		}
	}
	if counted.bytes > stored || counted.calls > 60 {
		t.Errorf("%d bytes of %d in %d calls", counted.bytes, stored, counted.calls)
	}
}

// Damage to a frame that many deltas rest on, at any level: check names each snapshot that it affects and no other, and
// the others are read as they were.
func TestDamagedBase(t *testing.T) {
	tr := newRepo(t)
	aside, _, err := backupOver(t.Context(), tr.open(tr.st), nil, [][]byte{word("aside", 200_000)}, SessionOptions{Level: chunk.LevelFastest})
	must0(t, err)
	blobs := [][]byte{word("base", 200_000), word("other base", 150_000)}
	var nights []*pastNight
	var old *pastNight
	for i := range 5 {
		n, _, err := backupOver(t.Context(), tr.open(tr.st), old, blobs, SessionOptions{Level: chunk.LevelFastest})
		must0(t, err)
		nights, old = append(nights, n), n
		blobs = [][]byte{edited(blobs[0], uint64(i)), blobs[1]}
	}
	r := tr.open(tr.st)
	must0(t, r.LoadIndex(t.Context()))
	for level, n := range nights {
		loc, ok := r.Index().Lookup(index.KeyOf(n.ids[0]))
		if !ok || (level > 0) != (loc.Encoding == chunk.Patched) {
			t.Fatalf("night %d: stored as %v", level, loc.Encoding)
		}
		m := tr.mem.Clone()
		data, err := m.Get(t.Context(), packName(loc.PackID), 0, -1, nil)
		must0(t, err)
		data = slices.Clone(data)
		data[loc.Offset+loc.Length/2] ^= 1
		must0(t, m.Delete(t.Context(), packName(loc.PackID)))
		_, err = m.Put(t.Context(), packName(loc.PackID), data)
		must0(t, err)
		rep := checkAll(t, reopen(tr.r, m))
		var named []string
		for _, p := range rep.Problems {
			named = append(named, p.Object)
		}
		if !slices.Contains(named, packName(loc.PackID)) {
			t.Errorf("night %d: check does not name the pack: %q", level, named)
		}
		for later, n := range nights {
			affected := later >= level
			if slices.Contains(named, "snapshot "+n.ref.ID.Short()) != affected {
				t.Errorf("night %d damaged: night %d is affected: %v, but check says %q", level, later, affected, named)
			}
			err := holds(t.Context(), reopen(tr.r, m), n.ref, n.content)
			var d *DamageError
			if affected && (!errors.As(err, &d) || !strings.Contains(err.Error(), packName(loc.PackID))) || !affected && err != nil {
				t.Errorf("night %d damaged: reading night %d: %v", level, later, err)
			}
		}
		if err := holds(t.Context(), reopen(tr.r, m), aside.ref, aside.content); err != nil || slices.Contains(named, "snapshot "+aside.ref.ID.Short()) {
			t.Errorf("night %d: what does not rest on it: %v, %q", level, err, named)
		}
	}
}

// A prune that needs a part of a frame of patches writes that part as patches.
func TestPruneKeepsPatches(t *testing.T) {
	tr := newRepo(t)
	var blobs [][]byte
	for i := range 6 {
		blobs = append(blobs, word(strings.Repeat("p", i+1), 150_000))
	}
	o := SessionOptions{Level: chunk.LevelFastest}
	first, _, err := backupOver(t.Context(), tr.open(tr.st), nil, blobs, o)
	must0(t, err)
	for i := range blobs {
		blobs[i] = edited(blobs[i], uint64(i))
	}
	second, _, err := backupOver(t.Context(), tr.open(tr.st), first, blobs, o)
	must0(t, err)
	third, _, err := backupOver(t.Context(), tr.open(tr.st), second, append(slices.Clone(blobs[:2]), word("new", 150_000)), o)
	must0(t, err)
	must0(t, tr.open(tr.st).Forget(t.Context(), []SnapshotRef{first.ref, second.ref}))
	_, plan := tr.prune(PruneOptions{MaxUnused: 0})
	if plan.Repack.Packs == 0 {
		t.Fatal("nothing was repacked")
	}
	r := tr.open(tr.st)
	mustHold(t, r, third.ref, third.content)
	_, encodings := depths(r, third.ids)
	if encodings[chunk.Patched] != 2 {
		t.Errorf("stored as %v, want 2 patches", encodings)
	}
	var patched int
	for ref := range r.Index().Packs() {
		for _, f := range r.Index().Frames(ref) {
			if f.Encoding == chunk.Patched {
				patched += len(f.Blobs)
			}
		}
	}
	if patched > 3 { // and the tree's
		t.Errorf("%d patches are left, want no more than are needed", patched)
	}
}

// pair is two repositories to which the same happens, one of them without deltas.
type pair struct {
	t      *testing.T
	with   *testRepo
	not    *testRepo
	nights []*[2]pastNight // nil: forgotten
	deltas int64
}

func (p *pair) step(rt *rapid.T) error {
	ctx := p.t.Context()
	alive := []int{}
	for i, n := range p.nights {
		if n != nil {
			alive = append(alive, i)
		}
	}
	what := rapid.SampledFrom([]string{"backup", "backup", "backup", "forget", "prune", "prune all", "wait"}).Draw(rt, "step")
	if len(alive) == 0 {
		what = "backup"
	}
	repos := []*testRepo{p.with, p.not}
	switch what {
	case "backup":
		var olds [2]*pastNight
		blobs := [][]byte{word("a", 3000), word("b", 40_000), word("c", 140_000)}
		if len(alive) > 0 {
			n := p.nights[alive[rapid.IntRange(0, len(alive)-1).Draw(rt, "parent")]]
			olds = [2]*pastNight{&n[0], &n[1]}
			blobs = slices.Clone(n[0].content[0])
		}
		for i := range blobs {
			switch seed := rapid.Uint64Range(0, 40).Draw(rt, "edit"); {
			case seed < 25:
				blobs[i] = edited(blobs[i], seed)
			case seed < 32:
				blobs[i] = blurred(blobs[i], seed)
			case seed < 36:
				from := blobs[(i+1)%len(blobs)]
				at, n := len(blobs[i])/int(seed-30), min(len(from), 25_000)
				blobs[i] = slices.Concat(blobs[i][:at], from[len(from)-n:], blobs[i][at:])
				blobs[i] = blobs[i][:min(len(blobs[i]), 200_000)]
			case seed == 36:
				blobs[i] = word(strings.Repeat("f", i+1), 30_000)
			}
		}
		if rapid.IntRange(0, 4).Draw(rt, "order") == 0 {
			slices.Reverse(blobs)
		}
		var both [2]pastNight
		for i, tr := range repos {
			n, st, err := backupOver(ctx, tr.open(tr.st), olds[i], blobs, SessionOptions{Level: chunk.LevelFastest, Delta: []DeltaMode{DeltaAuto, DeltaOff}[i]})
			if err != nil {
				return err
			}
			if i == 1 && st.BlobsDelta > 0 {
				return errors.New("deltas where there should be none")
			}
			p.deltas += st.BlobsDelta
			both[i] = *n
		}
		p.nights = append(p.nights, &both)
	case "forget":
		i := alive[rapid.IntRange(0, len(alive)-1).Draw(rt, "snapshot")]
		for j, tr := range repos {
			if err := tr.open(tr.st).Forget(ctx, []SnapshotRef{p.nights[i][j].ref}); err != nil {
				return err
			}
		}
		p.nights[i] = nil
	case "prune", "prune all":
		o := PruneOptions{Grace: MinGrace, MaxUnused: float64(rapid.SampledFrom([]int{0, 5}).Draw(rt, "unused")), Level: chunk.LevelFastest}
		if what == "prune all" {
			o.Grace = 0
		}
		for _, tr := range repos {
			if _, _, err := prune(ctx, tr.open(tr.st), o); err != nil {
				return err
			}
		}
	case "wait":
		time.Sleep(time.Duration(rapid.IntRange(1, 100).Draw(rt, "minutes")) * time.Minute)
	}
	return nil
}

// same restores every snapshot from both repositories.
func (p *pair) same() error {
	for i, n := range p.nights {
		if n == nil {
			continue
		}
		for j, tr := range []*testRepo{p.with, p.not} {
			if err := holds(p.t.Context(), tr.open(tr.mem), n[j].ref, n[j].content); err != nil {
				return fmt.Errorf("snapshot %d, without deltas %v: %w", i, j == 1, err)
			}
		}
		if !slices.EqualFunc(n[0].ids, n[1].ids, func(a, b chunk.ID) bool { return a == b }) {
			return fmt.Errorf("snapshot %d has other blobs with deltas than without", i)
		}
	}
	rep, err := p.with.open(p.with.mem).Check(p.t.Context(), CheckOptions{References: references(p.with.open(p.with.mem)), ReadShare: 1})
	if err != nil {
		return err
	}
	if len(rep.Problems) > 0 {
		return fmt.Errorf("check: %+v", rep.Problems)
	}
	return nil
}

// Whatever is backed up, forgotten and pruned in whatever order: restores with deltas are those without.
func TestDeltasOnAndOff(t *testing.T) {
	checks := flag.Lookup("rapid.checks")
	before := checks.Value.String()
	t.Cleanup(func() { must0(t, checks.Value.Set(before)) })
	must0(t, checks.Value.Set(fmt.Sprint(budget(25))))
	base := newRepo(t)
	var deltas int64
	rapid.Check(t, func(rt *rapid.T) {
		var failure error
		synctest.Test(t, func(t *testing.T) {
			p := &pair{t: t, with: base.at(t, base.mem.Clone()), not: base.at(t, base.mem.Clone())}
			for range rapid.IntRange(2, 25).Draw(rt, "steps") {
				if failure = p.step(rt); failure == nil {
					failure = p.same()
				}
				if failure != nil {
					break
				}
			}
			deltas += p.deltas
		})
		if failure != nil {
			rt.Fatal(failure)
		}
	})
	if deltas == 0 {
		t.Error("no deltas: the walks are vacuous")
	}
}
