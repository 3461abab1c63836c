package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"

	"github.com/zeebo/blake3"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/index"
)

func noise(seed uint64, n int) []byte {
	out := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16), 1}).Read(out)
	return out
}

func TestRoundTripSizes(t *testing.T) {
	sizes := []int{0, 1, 2, 31, 32, 33, 4095, treeFrame - 1, treeFrame, smallBlob + 1, dataFrame - 1, dataFrame, dataFrame + 1,
		1 << 20, packBytes - Overhead - 1, index.MaxFrameSize - 1, index.MaxFrameSize}
	for _, random := range []bool{false, true} {
		t.Run(fmt.Sprintf("random=%v", random), func(t *testing.T) {
			tr := newRepo(t)
			var blobs [][]byte
			for i, n := range sizes {
				if random {
					blobs = append(blobs, noise(uint64(i)+7, n))
				} else {
					blobs = append(blobs, bytes.Repeat([]byte{byte(i), 'a'}, (n+1)/2)[:n])
				}
			}
			c := content{blobs, words("x", "y")}
			ref := tr.backup(c)
			r := tr.open(tr.st)
			mustHold(t, r, ref, c)
			for _, b := range blobs {
				got, err := r.Blob(t.Context(), r.Hasher().Sum(b))
				if err != nil || !bytes.Equal(got, b) {
					t.Errorf("blob of %d bytes: %d bytes, %v", len(b), len(got), err)
				}
				if n, ok := r.Size(r.Hasher().Sum(b)); !ok || int(n) != len(b) {
					t.Errorf("size of a blob of %d bytes: %d, %v", len(b), n, ok)
				}
			}
		})
	}
}

// A blob that is larger than a frame can be is refused, and the session fails rather than store a
// snapshot without it.
func TestBlobTooLarge(t *testing.T) {
	tr := newRepo(t)
	s, err := tr.open(tr.st).Begin(t.Context(), SessionOptions{Level: chunk.LevelNone})
	if err != nil {
		t.Fatal(err)
	}
	_, _, perr := s.Writer().Put(t.Context(), index.Data, make([]byte, index.MaxFrameSize+1))
	_, cerr := s.Commit(t.Context(), Payload{Instance: "a", Time: nextTime(), Data: []byte(manifestMagic)})
	if perr == nil && cerr == nil {
		t.Error("a blob beyond the limit was stored")
	}
	if perr == nil {
		t.Errorf("Put accepted a blob beyond the limit; only Commit failed: %v", cerr)
	}
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if n := len(list(t, tr.mem, packsDir)); n != 0 {
		t.Errorf("%d packs stored", n)
	}
}

func TestSmallBlobsShareFrames(t *testing.T) {
	tr := newRepo(t)
	var blobs [][]byte
	for i := range 3000 {
		blobs = append(blobs, word(fmt.Sprint("small", i), 40+i%1000))
	}
	ref := tr.backup(content{blobs})
	r := tr.open(tr.st)
	mustHold(t, r, ref, content{blobs})
	frames := r.Index().FrameCount()
	if frames < 4 || frames > 20 {
		t.Errorf("%d small blobs lie in %d frames", len(blobs), frames)
	}
}

func TestDuplicatesConcurrently(t *testing.T) {
	tr := newRepo(t)
	ctx := t.Context()
	s, err := tr.open(tr.st).Begin(ctx, SessionOptions{Level: chunk.LevelFastest, Uploads: 3})
	if err != nil {
		t.Fatal(err)
	}
	const writers, distinct = 8, 60
	ids := make([][]chunk.ID, writers)
	added := make([]int, writers)
	var wg sync.WaitGroup
	for g := range writers {
		w := s.Writer()
		wg.Go(func() {
			order := rand.New(rand.NewPCG(uint64(g), 1)).Perm(distinct)
			ids[g] = make([]chunk.ID, distinct)
			for _, i := range order {
				n := 1000 * (i + 1)
				if i%7 == 0 {
					n = smallBlob + i
				}
				buf := noise(uint64(i), n)
				id, first, err := w.Put(ctx, index.Data, buf)
				if err != nil {
					t.Error(err)
					return
				}
				clear(buf) // the session may not keep it
				if first {
					added[g]++
				}
				if !s.Use(id) {
					t.Error("a blob that was just put is not there")
				}
				ids[g][i] = id
			}
		})
	}
	wg.Wait()
	total := 0
	for g := range writers {
		total += added[g]
		if !slices.Equal(ids[g], ids[0]) {
			t.Error("writers got different ids")
		}
	}
	if total != distinct {
		t.Errorf("%d blobs were added, want %d", total, distinct)
	}
	tree, _, err := s.Writer().Put(ctx, index.Tree, encodeIDs(treeMagic, ids[0]))
	if err != nil {
		t.Fatal(err)
	}
	ref, err := s.Commit(ctx, Payload{Instance: "a", Time: nextTime(), Data: encodeIDs(manifestMagic, []chunk.ID{tree})})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(ctx); err != nil {
		t.Fatal(err)
	}
	st := s.Stats()
	if st.BlobsNew != distinct+1 || st.BlobsReused != (writers-1)*distinct {
		t.Errorf("stats: %+v", st)
	}
	if packs := list(t, tr.mem, packsDir); int64(len(packs)) != st.Packs || st.Packs != 2 {
		t.Errorf("%d packs stored, stats say %d; partial packs of the writers should have been merged into 2", len(packs), st.Packs)
	}
	mustHold(t, tr.open(tr.st), ref, content{blobsOf(distinct)})
}

func blobsOf(distinct int) (out [][]byte) {
	for i := range distinct {
		n := 1000 * (i + 1)
		if i%7 == 0 {
			n = smallBlob + i
		}
		out = append(out, noise(uint64(i), n))
	}
	return out
}

func TestPackFiles(t *testing.T) {
	tr := newRepo(t)
	var blobs [][]byte
	for i := range 40 {
		blobs = append(blobs, noise(uint64(i)+100, 900_000+i))
	}
	ref, st, err := backupWith(t.Context(), tr.open(tr.st), content{blobs, words("a")}, SessionOptions{Level: chunk.LevelNone, Uploads: 3})
	if err != nil {
		t.Fatal(err)
	}
	r := tr.open(tr.st)
	mustHold(t, r, ref, content{blobs, words("a")})
	var stored int64
	names := list(t, tr.mem, packsDir)
	if len(names) != 4 || int64(len(names)) != st.Packs {
		t.Errorf("%d packs, stats %+v; want 3 of data and 1 of trees", len(names), st)
	}
	for _, name := range names {
		file, err := tr.mem.Get(t.Context(), name, 0, -1, nil)
		if err != nil {
			t.Fatal(err)
		}
		stored += int64(len(file))
		id := index.PackID(blake3.Sum256(file))
		if packName(id) != name {
			t.Errorf("%s is not named by its content", name)
		}
		if n := len(file); padme(n) != n {
			t.Errorf("%s has %d bytes, no Padmé length", name, n)
		}
		if len(file) > packBytes+packBytes/8 {
			t.Errorf("%s has %d bytes", name, len(file))
		}
		kind, frames, err := parsePack(r.keys, file)
		if err != nil {
			t.Fatal(err)
		}
		ref, ok := r.Index().FindPack(id)
		if !ok || !sameFrames(frames, r.Index(), ref) || r.Index().Pack(ref).Kind != kind {
			t.Errorf("%s: directory and index differ", name)
		}
		if h := r.Index().Pack(ref).Hash; h == "" {
			t.Errorf("%s: the backend's hash is not in the index", name)
		}
	}
	if stored != st.BytesStored {
		t.Errorf("%d bytes stored, stats say %d", stored, st.BytesStored)
	}
	if st.BytesProcessed != st.BytesNew || st.BlobsReused != 0 {
		t.Errorf("stats: %+v", st)
	}
	// Again: nothing new.
	_, st, err = backupWith(t.Context(), tr.open(tr.st), content{blobs, words("a")}, SessionOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if st.BlobsNew != 0 || st.Packs != 0 || st.BytesNew != 0 || st.BlobsReused != 43 {
		t.Errorf("stats of the second run: %+v", st)
	}
}

func TestPadme(t *testing.T) {
	last := 0
	for n := range 300_000 {
		p := padme(n)
		switch {
		case p < n, p < last:
			t.Fatalf("padme(%d) = %d after %d", n, p, last)
		case padme(p) != p:
			t.Fatalf("padme(%d) = %d, and that becomes %d", n, p, padme(p))
		case n > 8 && float64(p-n) > 0.12*float64(n):
			t.Fatalf("padme(%d) = %d: more than 12 %%", n, p)
		}
		last = p
	}
}

// Compression, writers and uploads change how blobs are stored and never what is read.
func TestMetamorphic(t *testing.T) {
	var blobs [][]byte
	for i := range 60 {
		n := []int{10, 3000, 90_000, 140_000, 700_000}[i%5]
		blobs = append(blobs, word(fmt.Sprint("meta", i), n))
	}
	for _, level := range []chunk.Level{chunk.LevelNone, chunk.LevelFastest, chunk.LevelDefault, chunk.LevelBetter, chunk.LevelBest} {
		for _, writers := range []int{1, 3} {
			for _, uploads := range []int{1, 4} {
				t.Run(fmt.Sprintf("%v/%d/%d", level, writers, uploads), func(t *testing.T) {
					tr := newRepo(t)
					ctx := t.Context()
					s, err := tr.open(tr.st).Begin(ctx, SessionOptions{Level: level, Uploads: uploads})
					if err != nil {
						t.Fatal(err)
					}
					ids := make([]chunk.ID, len(blobs))
					var wg sync.WaitGroup
					for g := range writers {
						w := s.Writer()
						wg.Go(func() {
							for i := g; i < len(blobs); i += writers {
								id, _, err := w.Put(ctx, index.Data, blobs[i])
								if err != nil {
									t.Error(err)
								}
								ids[i] = id
							}
						})
					}
					wg.Wait()
					tree, _, err := s.Writer().Put(ctx, index.Tree, encodeIDs(treeMagic, ids))
					if err != nil {
						t.Fatal(err)
					}
					ref, err := s.Commit(ctx, Payload{Instance: "a", Time: nextTime(), Data: encodeIDs(manifestMagic, []chunk.ID{tree})})
					if err := errors.Join(err, s.Close(ctx)); err != nil {
						t.Fatal(err)
					}
					mustHold(t, tr.open(tr.st), ref, content{blobs})
				})
			}
		}
	}
}

// Many goroutines read trees one by one while the cache of frames evicts.
func TestBlobConcurrently(t *testing.T) {
	tr := newRepo(t)
	var blobs [][]byte
	for i := range 24 {
		blobs = append(blobs, noise(uint64(i)+500, 1<<20+i))
	}
	tr.backup(content{blobs})
	r := tr.open(tr.st)
	if err := r.LoadIndex(t.Context()); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for g := range 6 {
		wg.Go(func() {
			for _, i := range rand.New(rand.NewPCG(uint64(g), 5)).Perm(len(blobs)) {
				got, err := r.Blob(t.Context(), r.Hasher().Sum(blobs[i]))
				if err != nil || !bytes.Equal(got, blobs[i]) {
					t.Errorf("blob %d: %v", i, err)
				}
			}
		})
	}
	wg.Wait()
	c := r.frames.lone
	c.mu.Lock()
	defer c.mu.Unlock()
	if sum := len(c.m) << 20; c.size > c.limit || sum < c.limit/2 || sum > c.limit {
		t.Errorf("the frame cache holds %d frames of 1 MiB, %d bytes; its limit is %d", len(c.m), c.size, c.limit)
	}
}

// The reader whose context ends does not spoil the read of another one that waits for the same frame.
func TestBlobWaitsForOther(t *testing.T) {
	tr := newRepo(t)
	tr.backup(content{words("a")})
	id := tr.r.Hasher().Sum(words("a")[0])
	started := make(chan struct{})
	hang := &hangOnce{Storage: tr.mem, started: started}
	r := tr.open(hang)
	if err := r.LoadIndex(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan error, 1)
	go func() {
		_, err := r.Blob(ctx, id)
		first <- err
	}()
	<-started
	second := make(chan error, 1)
	go func() {
		_, err := r.Blob(t.Context(), id)
		second <- err
	}()
	for waiting := false; !waiting; runtime.Gosched() {
		r.frames.lone.mu.Lock()
		waiting = len(r.frames.lone.wait) == 1
		r.frames.lone.mu.Unlock()
	}
	cancel()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("the cancelled reader: %v", err)
	}
	if err := <-second; err != nil {
		t.Errorf("the other reader: %v", err)
	}
}

// Both halves of an id count.
func TestWrongSecondHalf(t *testing.T) {
	tr := newRepo(t)
	tr.backup(content{words("a")})
	id := tr.r.Hasher().Sum(words("a")[0])
	id[31] ^= 1
	r := tr.open(tr.st)
	if err := r.LoadIndex(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Blob(t.Context(), id); !isDamage(err, DamageBlob) {
		t.Errorf("Blob: %v", err)
	}
	err := r.ReadBlobs(t.Context(), []chunk.ID{id}, ReadOptions{}, func(int, []byte) error { return nil })
	if !isDamage(err, DamageBlob) {
		t.Errorf("ReadBlobs: %v", err)
	}
}

func isDamage(err error, kinds ...string) bool {
	var d *DamageError
	return errors.As(err, &d) && (len(kinds) == 0 || slices.Contains(kinds, d.Kind))
}
