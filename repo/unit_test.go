package repo

import (
	"bytes"
	"slices"
	"sync/atomic"
	"testing"
	"unsafe"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/repo/storage/count"
)

// nights makes eight nights of 45 blobs of 200,000 bytes, some of which are replaced as a whole, so that there are gaps between
// the whole blobs that the deltas of the last night rest on. With twice, every other blob rests on two.
func nights(t *testing.T, tr *testRepo, twice bool) (last, all []chunk.ID, texts [][]byte) {
	var blobs [][]byte
	for i := range 45 {
		blobs = append(blobs, noise(uint64(i+1), 200_000))
	}
	var old *pastNight
	for night := range 8 {
		next := slices.Clone(blobs)
		for i := range next {
			if night > 0 && i%7 == night {
				next[i] = noise(uint64(1000*night+i), 200_000)
				continue
			}
			next[i] = slices.Clone(next[i])
			if twice && night > 0 && i%2 == 1 && i+1 < len(blobs) {
				next[i] = append(next[i][20_000:], blobs[i+1][:20_000]...)
			}
			copy(next[i][(1000*i+20_000*night)%190_000:], noise(uint64(100*night+i), 500))
		}
		n, _, err := backupOver(t.Context(), tr.open(tr.st), old, next, SessionOptions{})
		must0(t, err)
		blobs, old = next, n
		all, texts = append(all, n.ids...), append(texts, next...)
	}
	return old.ids, all, texts
}

// Each patch is opened in one unit.
func TestPatchesAreReadByOneUnit(t *testing.T) {
	tr := newRepo(t)
	last, _, _ := nights(t, tr, false)
	r := tr.open(tr.st)
	must0(t, r.LoadIndex(t.Context()))
	b := &batch{r: r, x: r.Index(), ids: last}
	wants, err := b.plan(nil)
	must0(t, err)
	patches, units := 0, 0
	for _, n := range newPatchReads(b, wants).needed {
		if n.patch {
			patches++
			if n.units != 1 {
				t.Errorf("the patch at %d of pack %d is opened by %d units", n.offset, n.pack, n.units)
			}
		}
	}
	b.units(wants, func([]want) { units++ })
	if patches < 8 || units < 3 {
		t.Fatalf("%d patches, %d units: nothing was tried", patches, units)
	}
}

// A read of all nights puts everything together at the first attempt: memory that is used again while something is made of it
// would take a second one.
func TestUnitsReadOnce(t *testing.T) {
	tr := newRepo(t)
	_, all, texts := nights(t, tr, true)
	st := count.New(tr.st)
	r := tr.open(st)
	must0(t, r.LoadIndex(t.Context()))
	before := st.Counts()
	var ranges atomic.Int64
	o := ReadOptions{OnDownload: func(int64) { ranges.Add(1) }}
	must0(t, r.ReadBlobs(t.Context(), all, o, func(i int, data []byte) error {
		if !bytes.Equal(data, texts[i]) {
			t.Errorf("blob %d differs", i)
		}
		return nil
	}))
	if gets := st.Counts().Sub(before).Get; gets != ranges.Load() {
		t.Errorf("%d gets, %d of them for units: blobs were read once more", gets, ranges.Load())
	}
}

// Memory comes back for what is as large, and not for what is far smaller.
func TestBuffersComeBack(t *testing.T) {
	var b buffers
	first := b.get(1 << 20)[:10]
	other := b.get(1 << 20)
	b.put(first[:5])
	if again := b.get(1 << 20); unsafe.SliceData(again) != unsafe.SliceData(first) {
		t.Error("memory that came back is not used again")
	}
	b.put(other)
	if small := b.get(1000); unsafe.SliceData(small) == unsafe.SliceData(other) || cap(small) < 1000 {
		t.Errorf("%d bytes for 1000", cap(small))
	}
	for range 8 {
		b.get(1 << 20)
	}
	b.reset()
	kept := 0
	for _, p := range b.free {
		kept += cap(p)
	}
	if kept > keptBuffers || kept == 0 || len(b.taken) > 0 {
		t.Errorf("%d bytes are kept, %d taken", kept, len(b.taken))
	}
}
