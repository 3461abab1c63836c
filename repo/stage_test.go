package repo

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/index"
	"github.com/whole-tale/wtsnap/repo/storage/count"
)

// mapFrames is a FrameCache in memory.
type mapFrames struct {
	mu               sync.Mutex
	m                map[[16]byte][]byte
	flushed, dropped int
	full             bool
	spoil            bool // what it gives has changed
}

func newMapFrames() *mapFrames { return &mapFrames{m: map[[16]byte][]byte{}} }

func (c *mapFrames) Has(id [16]byte) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.m[id] != nil
}

func (c *mapFrames) Get(id [16]byte, dst []byte) ([]byte, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := append(dst[:0], c.m[id]...)
	if c.spoil && len(out) > 0 {
		out[len(out)/2] ^= 1
	}
	return out, len(out) > 0
}

func (c *mapFrames) Put(id [16]byte, sealed []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.full {
		c.m[id] = slices.Clone(sealed)
	}
}

func (c *mapFrames) Drop(id [16]byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dropped++
	delete(c.m, id)
}

func (c *mapFrames) Flush() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.flushed++
}

// A night stores versions of one stream, as a backup does.
type night struct {
	tr     *testRepo
	frames FrameCache
	mode   DeltaMode
	near   bool
	ahead  int // blobs that are expected ahead
}

// version returns blobs of size bytes; in each, some bytes depend on v.
func version(v, blobs, size int) [][]byte {
	var out [][]byte
	for i := range blobs {
		b := noise(uint64(i)+1, size)
		copy(b[size/2:], fmt.Sprintf("version %d of blob %d", v, i))
		out = append(out, b)
	}
	return out
}

// run stores blobs, each as what may be a delta to its predecessor in old, and returns the calls and the stats.
func (n *night) run(old, blobs [][]byte) (count.Counts, SessionStats) {
	t := n.tr.t
	t.Helper()
	st := count.New(n.tr.st)
	r := n.tr.open(st)
	r.stage = newStage(r, &OpenOptions{Frames: n.frames, Near: n.near})
	ctx := context.Background()
	s, err := r.Begin(ctx, SessionOptions{Level: chunk.LevelFastest, Delta: n.mode})
	must0(t, err)
	before := st.Counts()
	w := s.Writer()
	var ids []chunk.ID
	h := r.Hasher()
	for i, b := range blobs {
		hint := Hint{Keep: true}
		if i < len(old) {
			hint.Bases = []chunk.ID{h.Sum(old[i])}
			if n.ahead > 0 && i%n.ahead == 0 {
				var next []chunk.ID
				for _, b := range old[i:min(i+n.ahead, len(old))] {
					next = append(next, h.Sum(b))
				}
				s.r.stage.expect(s.index, next) // not Expect, so that reading begins at a known moment
			}
		}
		id, _, err := w.PutHinted(ctx, index.Data, b, hint)
		must0(t, err)
		ids = append(ids, id)
	}
	got := st.Counts().Sub(before)
	tree, _, err := w.Put(ctx, index.Tree, encodeIDs(treeMagic, ids))
	must0(t, err)
	ref, err := s.Commit(ctx, Payload{Instance: "a", Time: nextTime(), Data: encodeIDs(manifestMagic, []chunk.ID{tree})})
	must0(t, err)
	must0(t, s.Close(ctx))
	mustHold(t, n.tr.open(n.tr.st), ref, content{blobs})
	return got, s.Stats()
}

// Bases that are expected come in few large reads, and from the local cache the night after that.
func TestBasesComeInFewReads(t *testing.T) {
	const blobs, size = 200, 100 << 10
	tr := newRepo(t)
	cache := newMapFrames()
	first := &night{tr: tr, mode: DeltaAuto}
	first.run(nil, version(0, blobs, size))
	n := &night{tr: tr, frames: cache, mode: DeltaAuto, ahead: 66}
	got, stats := n.run(version(0, blobs, size), version(1, blobs, size))
	if stats.BlobsDelta != blobs {
		t.Fatalf("%d deltas of %d blobs", stats.BlobsDelta, blobs)
	}
	// 20 MB by ranges of up to 4 MiB, 66 blobs (6.6 MB) at a time.
	if got.Get > 12 || got.Get < 5 {
		t.Errorf("%d gets", got.Get)
	}
	if limit := int64(blobs * size * 11 / 10); got.Downloaded > limit {
		t.Errorf("%d bytes came down for bases of %d", got.Downloaded, blobs*size)
	}
	if cache.flushed == 0 {
		t.Error("the cache was not flushed")
	}
	for v := 2; v < 5; v++ {
		got, stats = n.run(version(v-1, blobs, size), version(v, blobs, size))
		if got.Get != 0 || stats.BlobsDelta != blobs {
			t.Errorf("night %d: %d gets, %d deltas of %d blobs", v, got.Get, stats.BlobsDelta, blobs)
		}
	}
	// Another machine has no cache, or one that is full.
	for i, frames := range []FrameCache{nil, &mapFrames{full: true}} {
		other := &night{tr: tr, frames: frames, mode: DeltaAuto, ahead: 66}
		got, stats = other.run(version(4+i, blobs, size), version(5+i, blobs, size))
		if got.Get > 40 || stats.BlobsDelta != blobs {
			t.Errorf("without a cache: %d gets, %d deltas of %d blobs", got.Get, stats.BlobsDelta, blobs)
		}
	}
}

// What a first backup of streams keeps serves the first changed night.
func TestStreamsAreKeptFromTheFirstNight(t *testing.T) {
	const blobs, size = 50, 60 << 10 // several share a frame
	tr := newRepo(t)
	n := &night{tr: tr, frames: newMapFrames(), mode: DeltaCache}
	n.run(nil, version(0, blobs, size))
	got, stats := n.run(version(0, blobs, size), version(1, blobs, size))
	if got.Get != 0 || stats.BlobsDelta != blobs {
		t.Errorf("%d gets, %d deltas of %d blobs", got.Get, stats.BlobsDelta, blobs)
	}
}

// The modes differ in what they read, not in what a restore gets.
func TestDeltaModes(t *testing.T) {
	const blobs, size = 20, 200 << 10
	for _, c := range []struct {
		mode         DeltaMode
		cache        bool
		deltas, gets bool
	}{
		{DeltaAuto, false, true, true},
		{DeltaAuto, true, true, false},
		{DeltaCache, false, false, false},
		{DeltaCache, true, true, false},
		{DeltaOff, false, false, false},
		{DeltaOff, true, false, false},
	} {
		t.Run(fmt.Sprint(c.mode, c.cache), func(t *testing.T) {
			tr := newRepo(t)
			cache := newMapFrames()
			(&night{tr: tr, frames: cache, mode: DeltaAuto}).run(nil, version(0, blobs, size))
			if !c.cache {
				cache = newMapFrames()
			}
			got, stats := (&night{tr: tr, frames: cache, mode: c.mode}).run(version(0, blobs, size), version(1, blobs, size))
			if deltas := stats.BlobsDelta == blobs; deltas != c.deltas || !deltas && stats.BlobsDelta > 0 {
				t.Errorf("%d deltas of %d blobs", stats.BlobsDelta, blobs)
			}
			if (got.Get > 0) != c.gets {
				t.Errorf("%d gets", got.Get)
			}
			if c.mode == DeltaOff && !c.cache && len(cache.m) > 0 {
				t.Errorf("%d frames were kept", len(cache.m))
			}
		})
	}
}

// A small blob is not worth the large frame that it shares; where much of the frame is wanted it is. In a folder of this
// machine it always is.
func TestBasesThatCostMoreThanTheySave(t *testing.T) {
	const blobs, size = 60, 4 << 10 // one frame
	for _, c := range []struct {
		changed int
		near    bool
		deltas  bool
	}{{1, false, false}, {3, false, false}, {60, false, true}, {1, true, true}} {
		tr := newRepo(t)
		old := version(0, blobs, size)
		(&night{tr: tr, mode: DeltaAuto}).run(nil, old)
		n := &night{tr: tr, mode: DeltaAuto, ahead: 64, near: c.near}
		got, stats := n.run(old[:c.changed], version(1, c.changed, size))
		if (stats.BlobsDelta > 0) != c.deltas || (got.Get > 0) != c.deltas {
			t.Errorf("%d changed, near %v: %d deltas, %d gets", c.changed, c.near, stats.BlobsDelta, got.Get)
		}
	}
}

// What the cache gives is not trusted.
func TestDamagedFrameCache(t *testing.T) {
	const blobs, size = 20, 200 << 10
	tr := newRepo(t)
	cache := newMapFrames()
	n := &night{tr: tr, frames: cache, mode: DeltaAuto}
	n.run(nil, version(0, blobs, size))
	cache.spoil = true
	got, stats := n.run(version(0, blobs, size), version(1, blobs, size))
	if cache.dropped != blobs || got.Get != blobs || stats.BlobsDelta != blobs {
		t.Errorf("%d of %d frames were dropped, %d gets, %d deltas", cache.dropped, blobs, got.Get, stats.BlobsDelta)
	}
}

// Expectations that do not come true cost nothing.
func TestUnneededBasesAreNotRead(t *testing.T) {
	const blobs, size = 30, 200 << 10
	tr := newRepo(t)
	old := version(0, blobs, size)
	(&night{tr: tr, mode: DeltaAuto}).run(nil, old)
	n := &night{tr: tr, mode: DeltaAuto, ahead: blobs}
	now := slices.Clone(old)
	if got, stats := n.run(old, now); got.Get != 0 || stats.BlobsNew > 1 { // the tree is known too
		t.Errorf("nothing changed: %d gets, %+v", got.Get, stats)
	}
	now[blobs-1] = version(1, blobs, size)[blobs-1]
	got, stats := n.run(old, now)
	if got.Get != 1 || stats.BlobsDelta != 1 || got.Downloaded > 2*size {
		t.Errorf("one blob changed: %+v, %+v", got, stats)
	}
}

// Session.Expect reads ahead in the background, and Close waits for it.
func TestExpectReadsAhead(t *testing.T) {
	const blobs, size = 100, 200 << 10
	tr := newRepo(t)
	old := version(0, blobs, size)
	(&night{tr: tr, mode: DeltaAuto}).run(nil, old)
	st := count.New(tr.st)
	r := tr.open(st)
	cache := newMapFrames()
	r.stage = newStage(r, &OpenOptions{Frames: cache})
	s, err := r.Begin(t.Context(), SessionOptions{})
	must0(t, err)
	before := st.Counts()
	var ids []chunk.ID
	for _, b := range old {
		ids = append(ids, r.Hasher().Sum(b))
	}
	s.Expect(ids[:5])
	if got := st.Counts().Sub(before); got.Get != 0 {
		t.Errorf("%d gets for a few blobs that may be needed", got.Get)
	}
	s.Expect(ids)
	must0(t, s.ahead.Acquire(t.Context(), readsAhead))
	s.ahead.Release(readsAhead)
	got := st.Counts().Sub(before)
	if got.Get < 3 || got.Get > 8 || len(cache.m) < blobs/2 {
		t.Errorf("%d gets, %d frames are there", got.Get, len(cache.m))
	}
	must0(t, s.Close(t.Context()))
	s.Expect(ids)
	if after := st.Counts().Sub(before); after.Get != got.Get {
		t.Error("a closed session reads")
	}
}

// Pages of trees that lie together come together: few pages in few bytes, many in few requests.
func TestTreesComeInFewReads(t *testing.T) {
	tr := newRepo(t)
	var trees content
	for i := range 80 { // pages of about 15 KB that do not compress: 1.2 MB
		trees = append(trees, version(i, 1, 10))
		for len(trees[i]) < 450 {
			trees[i] = append(trees[i], fmt.Appendf(nil, "blob %d of %d", len(trees[i]), i))
		}
	}
	ref := tr.backup(trees)
	st := count.New(tr.st)
	r := tr.open(st)
	must0(t, r.LoadIndex(t.Context()))
	manifest, err := r.Manifest(t.Context(), ref)
	must0(t, err)
	ids, err := decodeIDs(manifestMagic, manifest)
	must0(t, err)
	before := st.Counts()
	_, err = r.Blob(t.Context(), ids[0])
	must0(t, err)
	if got := st.Counts().Sub(before); got.Get != 1 || got.Downloaded > 2*treeAhead {
		t.Errorf("one page: %+v", got)
	}
	var all []byte
	for _, id := range ids {
		data, err := r.Blob(t.Context(), id)
		must0(t, err)
		all = append(all, data...)
	}
	got := st.Counts().Sub(before)
	t.Logf("%d pages, %d bytes: %+v", len(ids), len(all), got)
	if got.Get > 3 {
		t.Errorf("%d gets for %d pages", got.Get, len(ids))
	}
	if !bytes.Contains(all, []byte(treeMagic)) {
		t.Error("no trees")
	}
}
