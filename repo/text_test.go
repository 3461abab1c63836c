package repo

import (
	"bytes"
	"slices"
	"sync"
	"testing"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/index"
)

// Where every blob rests on two of the night before, 30 nights make 2^30 ways down to whole ones. Each blob is put together
// once for all of them: else this would not end.
func TestManyWaysToABase(t *testing.T) {
	tr := newRepo(t)
	const half = 100_000
	var blobs [][]byte
	for i := range uint64(6) {
		blobs = append(blobs, noise(i+1, 2*half))
	}
	var old *pastNight
	r := tr.open(tr.st)
	for n := range 31 {
		s, err := r.Begin(t.Context(), SessionOptions{})
		must0(t, err)
		w := s.Writer()
		night := &pastNight{}
		for i, b := range blobs {
			var h Hint
			if old != nil {
				h.Bases = []chunk.ID{old.ids[i], old.ids[(i+1)%len(blobs)]}
			}
			id, _, err := w.PutHinted(t.Context(), index.Data, b, h)
			must0(t, err)
			night.ids = append(night.ids, id)
		}
		tree, _, err := w.Put(t.Context(), index.Tree, encodeIDs(treeMagic, night.ids))
		must0(t, err)
		_, err = s.Commit(t.Context(), Payload{Instance: "a", Time: nextTime(), Data: encodeIDs(manifestMagic, []chunk.ID{tree})})
		must0(t, err)
		must0(t, s.Close(t.Context()))
		next := slices.Clone(blobs)
		for i := range blobs {
			next[i] = slices.Concat(blobs[i][half:], noise(uint64(1000*n+i), 50), blobs[(i+1)%len(blobs)][:half-50])
		}
		old, blobs = night, next
	}
	most, _ := depths(r, old.ids)
	if slices.Max(most) < 25 {
		t.Fatalf("the chains are %v deltas long: too short to show anything", most)
	}
	r = tr.open(tr.st)
	must0(t, r.LoadIndex(t.Context()))
	for i, id := range old.ids {
		got, err := r.Blob(t.Context(), id)
		must0(t, err)
		if r.Hasher().Sum(got) != id {
			t.Errorf("blob %d is something else", i)
		}
	}
}

// However many readers follow chains of patches at a time, each frame of patches is fetched once.
func TestReadersShareFrames(t *testing.T) {
	tr := newRepo(t)
	old := tenNights(t, tr)
	counted := &reads{Storage: tr.mem, times: map[string][]uint8{}}
	r := tr.open(counted)
	must0(t, r.LoadIndex(t.Context()))
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := g; i < len(old.ids); i += 4 {
				got, err := r.Blob(t.Context(), old.ids[i])
				if err != nil || !bytes.Equal(got, old.content[0][i]) {
					t.Errorf("blob %d: %v", i, err)
				}
			}
		})
	}
	wg.Wait()
	patches := 0
	for ref, p := range r.Index().Packs() {
		times := counted.times[packName(p.ID)]
		for _, f := range r.Index().Frames(ref) {
			if f.Encoding != chunk.Patched || int(f.Offset) >= len(times) || times[f.Offset] == 0 {
				continue
			}
			patches++
			if n := times[f.Offset]; n > 1 {
				t.Errorf("%s: the frame of %d patches at %d was fetched %d times", packName(p.ID), len(f.Blobs), f.Offset, n)
			}
		}
	}
	if patches < 20 {
		t.Errorf("%d frames of patches were fetched: too few to show anything", patches)
	}
}
