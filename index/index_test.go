package index_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"runtime"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/index"
)

// key returns a key that is as good as random, the same for the same n.
func key(n int) index.Key {
	var k index.Key
	h := hasher.Sum(binary.AppendUvarint(nil, uint64(n)))
	copy(k[:], h[:])
	return k
}

func packID(n int) index.PackID {
	return index.PackID(hasher.Sum(binary.AppendUvarint(nil, uint64(n))))
}

var hasher = chunk.NewHasher([32]byte{})

func segmentID(n int) index.SegmentID { return index.SegmentID(key(1000 + n)) }

// makePack returns a pack of n frames of a blob each, the way a writer of
// large chunks makes them.
func makePack(r *rand.Rand, id, n int) index.Pack {
	p := index.Pack{Kind: index.Data, Hash: fmt.Sprintf("sha1:%040x", id), Frames: make([]index.Frame, n)}
	binary.LittleEndian.PutUint64(p.ID[:], r.Uint64())
	blobs := make([]index.Blob, n)
	var end uint32
	for i := range p.Frames {
		binary.LittleEndian.PutUint64(blobs[i].Key[:], r.Uint64())
		binary.LittleEndian.PutUint64(blobs[i].Key[8:], r.Uint64())
		blobs[i].Size = 128<<10 + r.Uint32N(512<<10)
		p.Frames[i] = index.Frame{Offset: end, Length: blobs[i].Size / 2, Encoding: chunk.Zstd, Blobs: blobs[i : i+1]}
		end += p.Frames[i].Length
	}
	p.Size = int64(end) + 4096
	return p
}

// keys are those of genPack, and some more that are in no pack.
var keys = func() (keys []index.Key) {
	for n := range 64 {
		keys = append(keys, key(n))
	}
	return keys
}()

// genPack draws a pack whose keys are of few, so that blobs lie in several
// packs and bases are found.
func genPack(t *rapid.T, id int) index.Pack {
	p := index.Pack{
		ID:   packID(id),
		Kind: rapid.SampledFrom([]index.Kind{index.Data, index.Tree}).Draw(t, "kind"),
		Hash: rapid.SampledFrom([]string{"", "sha1:00ff", "quickxor:0123456789abcdef"}).Draw(t, "hash"),
	}
	anyKey := rapid.SampledFrom(keys[:60])
	var end uint32
	for range rapid.IntRange(1, 6).Draw(t, "frames") {
		f := index.Frame{Offset: end, Length: rapid.Uint32Range(1, 1<<20).Draw(t, "length")}
		f.Encoding = chunk.Encoding(rapid.IntRange(0, 2).Draw(t, "encoding"))
		if f.Encoding == chunk.ZstdDelta {
			f.Bases = rapid.SliceOfN(anyKey, 1, 4).Draw(t, "bases")
		}
		for range rapid.IntRange(1, 5).Draw(t, "blobs") {
			f.Blobs = append(f.Blobs, index.Blob{
				Key:  anyKey.Draw(t, "key"),
				Size: rapid.Uint32Range(0, 1<<20).Draw(t, "size"),
			})
		}
		p.Frames = append(p.Frames, f)
		end += f.Length
	}
	p.Size = int64(end) + rapid.Int64Range(0, 5000).Draw(t, "rest")
	return p
}

// model is what an Index should hold, the simple way.
type model struct {
	packs     []index.Pack
	segments  [][]index.SegmentID
	condemned map[index.PackID]bool
}

func (m *model) find(id index.PackID) int {
	return slices.IndexFunc(m.packs, func(p index.Pack) bool { return p.ID == id })
}

func (m *model) lookups(k index.Key) []index.Location {
	var good, bad []index.Location
	frame, blob := 0, 0
	for ref, p := range m.packs {
		for _, f := range p.Frames {
			var pos uint32
			for _, b := range f.Blobs {
				if b.Key == k {
					l := index.Location{
						Pack: index.PackRef(ref), PackID: p.ID, Kind: p.Kind,
						Frame: index.FrameRef(frame), Offset: f.Offset, Length: f.Length,
						Encoding: f.Encoding, Bases: f.Bases, FrameSize: f.Size(),
						Pos: pos, Size: b.Size, Ordinal: index.BlobRef(blob),
					}
					if m.condemned[p.ID] {
						bad = append(bad, l)
					} else {
						good = append(good, l)
					}
				}
				pos += b.Size
				blob++
			}
			frame++
		}
	}
	return append(good, bad...)
}

func TestIndexAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x := index.New()
		m := &model{condemned: make(map[index.PackID]bool)}
		anyID := rapid.Map(rapid.IntRange(0, 12), packID)
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				n := rapid.IntRange(0, 12).Draw(t, "pack")
				seg := segmentID(rapid.IntRange(0, 3).Draw(t, "segment"))
				i := m.find(packID(n))
				p := index.Pack{ID: packID(n)}
				if i < 0 {
					p = genPack(t, n)
				}
				ref, err := x.AddPack(seg, p)
				if err != nil {
					t.Fatal(err)
				}
				if i < 0 {
					i = len(m.packs)
					m.packs, m.segments = append(m.packs, p), append(m.segments, nil)
				}
				if !slices.Contains(m.segments[i], seg) {
					m.segments[i] = append(m.segments[i], seg)
				}
				if int(ref) != i {
					t.Fatalf("pack %d has ordinal %d", i, ref)
				}
			},
			"condemn": func(t *rapid.T) {
				id := anyID.Draw(t, "pack")
				x.Condemn(id)
				m.condemned[id] = true
			},
			"absolve": func(t *rapid.T) {
				id := anyID.Draw(t, "pack")
				x.Absolve(id)
				delete(m.condemned, id)
			},
			"": func(t *rapid.T) { compare(t, x, m) },
		})
	})
}

func compare(t *rapid.T, x *index.Index, m *model) {
	blobs, frames := 0, 0
	for ref, info := range x.Packs() {
		p := m.packs[ref]
		last := p.Frames[len(p.Frames)-1]
		want := index.PackInfo{
			ID: p.ID, Kind: p.Kind, Size: p.Size, DataSize: last.Offset + last.Length, Hash: p.Hash,
			Condemned: m.condemned[p.ID], Segments: m.segments[ref],
			FirstFrame: index.FrameRef(frames), Frames: len(p.Frames), FirstBlob: index.BlobRef(blobs),
		}
		var got []index.Frame
		for fref, f := range x.Frames(ref) {
			if int(fref) != frames {
				t.Fatalf("frame %d has ordinal %d", frames, fref)
			}
			got = append(got, f)
			first := index.BlobRef(blobs)
			for _, b := range f.Blobs {
				if of, start := x.FrameOf(index.BlobRef(blobs)); start != first || !reflect.DeepEqual(of, f) {
					t.Fatalf("FrameOf(%d) = %+v from blob %d, want %+v from %d", blobs, of, start, f, first)
				}
				if k, l := x.At(index.BlobRef(blobs)); k != b.Key || l.Ordinal != index.BlobRef(blobs) || l.Frame != fref {
					t.Fatalf("blob %d is %v at %+v, want %v in frame %d", blobs, k, l, b.Key, fref)
				}
				blobs++
			}
			frames++
		}
		want.Blobs = blobs - int(want.FirstBlob)
		if !reflect.DeepEqual(info, want) {
			t.Fatalf("pack %d: -want +got\n%s", ref, cmp.Diff(want, info))
		}
		if !reflect.DeepEqual(got, p.Frames) {
			t.Fatalf("frames of pack %d: -want +got\n%s", ref, cmp.Diff(p.Frames, got))
		}
		if found, ok := x.FindPack(p.ID); !ok || found != ref {
			t.Fatalf("FindPack(%v) = %d, %v, want %d", p.ID, found, ok, ref)
		}
	}
	if x.Len() != blobs || x.FrameCount() != frames || x.PackCount() != len(m.packs) {
		t.Fatalf("%d blobs, %d frames, %d packs, want %d, %d, %d",
			x.Len(), x.FrameCount(), x.PackCount(), blobs, frames, len(m.packs))
	}
	for _, k := range keys {
		want := m.lookups(k)
		if got := x.Lookups(k); !reflect.DeepEqual(got, want) {
			t.Fatalf("Lookups: -want +got\n%s", cmp.Diff(want, got))
		}
		got, ok := x.Lookup(k)
		if ok != (len(want) > 0) || ok && !reflect.DeepEqual(got, want[0]) {
			t.Fatalf("Lookup = %+v, %v, want the first of %+v", got, ok, want)
		}
		if want := ok && !m.condemned[got.PackID]; x.Has(k) != want {
			t.Fatalf("Has = %v, want %v", !want, want)
		}
	}
}

// Copies must come back in the order they were added even when tables have
// grown many times in between.
func TestLookupsOrder(t *testing.T) {
	x := index.New()
	r := rand.New(rand.NewPCG(1, 1))
	var want []index.PackID
	for i := range 300 {
		p := makePack(r, i, 50)
		p.Frames[25].Blobs[0].Key = key(1)
		want = append(want, p.ID)
		mustAdd(t, x, p)
	}
	var got []index.PackID
	for _, l := range x.Lookups(key(1)) {
		got = append(got, l.PackID)
	}
	if !slices.Equal(got, want) {
		t.Errorf("%d copies, not in the order they were added", len(got))
	}
	if l, _ := x.Lookup(key(1)); l.PackID != want[0] {
		t.Errorf("Lookup prefers pack %d", l.Pack)
	}
}

func mustAdd(t testing.TB, x *index.Index, p index.Pack) {
	t.Helper()
	if _, err := x.AddPack(segmentID(0), p); err != nil {
		t.Fatal(err)
	}
}

// A pack may be seen before the backend has told its hash, and before a segment
// lists it.
func TestAddPackTwice(t *testing.T) {
	x := index.New()
	p := makePack(rand.New(rand.NewPCG(1, 1)), 1, 3)
	hash := p.Hash
	p.Hash = ""
	ref, err := x.AddPack(index.SegmentID{}, p)
	if err != nil {
		t.Fatal(err)
	}
	if info := x.Pack(ref); info.Hash != "" || info.Segments != nil || len(x.Segments()) != 0 {
		t.Errorf("at first: %+v, segments %v", info, x.Segments())
	}
	p.Hash = hash
	for _, n := range []int{5, 6, 5, 7, 6} {
		if again, err := x.AddPack(segmentID(n), p); err != nil || again != ref {
			t.Fatal(again, err)
		}
	}
	want := []index.SegmentID{segmentID(5), segmentID(6), segmentID(7)}
	if info := x.Pack(ref); info.Hash != hash || !slices.Equal(info.Segments, want) || !slices.Equal(x.Segments(), want) {
		t.Errorf("then: %+v, segments %v", info, x.Segments())
	}
	if x.Len() != 3 || x.PackCount() != 1 || len(x.Lookups(p.Frames[0].Blobs[0].Key)) != 1 {
		t.Errorf("%d blobs in %d packs", x.Len(), x.PackCount())
	}
}

func TestAddPackInvalid(t *testing.T) {
	for name, spoil := range invalidPacks {
		x := index.New()
		p := makePack(rand.New(rand.NewPCG(1, 1)), 1, 3)
		spoil(&p)
		var fe *index.FormatError
		if _, err := x.AddPack(segmentID(1), p); !errors.As(err, &fe) {
			t.Errorf("%s: %v, want a FormatError", name, err)
		}
		if _, err := index.AppendSegment(nil, []index.Pack{p}); !errors.As(err, &fe) {
			t.Errorf("%s: written as a segment: %v", name, err)
		}
		if x.Len() != 0 || x.PackCount() != 0 || len(x.Segments()) != 0 {
			t.Errorf("%s: added in part", name)
		}
	}
}

// invalidPacks spoil a pack of three frames in one way each.
var invalidPacks = map[string]func(*index.Pack){
	"kind":            func(p *index.Pack) { p.Kind = 3 },
	"no kind":         func(p *index.Pack) { p.Kind = 0 },
	"size":            func(p *index.Pack) { p.Size = index.MaxPackSize + 1 },
	"negative size":   func(p *index.Pack) { p.Size = -1 },
	"cut off":         func(p *index.Pack) { p.Size = int64(p.Frames[2].Offset+p.Frames[2].Length) - 1 },
	"hash":            func(p *index.Pack) { p.Hash = "0123" },
	"hash in capital": func(p *index.Pack) { p.Hash = "sha1:AB" },
	"hash name":       func(p *index.Pack) { p.Hash = "sha 1:ab" },
	"hash empty":      func(p *index.Pack) { p.Hash = "sha1:" },
	"no frames":       func(p *index.Pack) { p.Frames = nil },
	"gap":             func(p *index.Pack) { p.Frames[1].Offset++ },
	"frame empty":     func(p *index.Pack) { p.Frames[2].Length = 0 },
	"frame too long":  func(p *index.Pack) { p.Size, p.Frames[2].Length = index.MaxPackSize, index.MaxPackSize },
	"encoding":        func(p *index.Pack) { p.Frames[1].Encoding = 3 },
	"bases of none":   func(p *index.Pack) { p.Frames[1].Bases = []index.Key{key(1)} },
	"delta of none":   func(p *index.Pack) { p.Frames[1].Encoding = chunk.ZstdDelta },
	"no blobs":        func(p *index.Pack) { p.Frames[1].Blobs = nil },
	"blob too large":  func(p *index.Pack) { p.Frames[1].Blobs[0].Size = index.MaxFrameSize + 1 },
	"frame too large": func(p *index.Pack) {
		p.Frames[1].Blobs = []index.Blob{{Size: index.MaxFrameSize}, {Size: 1}}
	},
	"too many bases": func(p *index.Pack) {
		p.Frames[1].Encoding, p.Frames[1].Bases = chunk.ZstdDelta, make([]index.Key, index.MaxBases+1)
	},
}

// Many bases a frame, so that their ranges meet the ends of pages.
func TestBases(t *testing.T) {
	x := index.New()
	r := rand.New(rand.NewPCG(1, 1))
	var all []index.Pack
	for i := range 100 {
		p := makePack(r, i, 20)
		for j := range p.Frames {
			if n := r.IntN(index.MaxBases + 1); n > 0 && j%3 > 0 {
				p.Frames[j].Encoding = chunk.ZstdDelta
				for range n {
					p.Frames[j].Bases = append(p.Frames[j].Bases, key(r.IntN(1000)))
				}
			}
		}
		mustAdd(t, x, p)
		all = append(all, p)
	}
	for _, p := range all {
		for _, f := range p.Frames {
			if l, ok := x.Lookup(f.Blobs[0].Key); !ok || !slices.Equal(l.Bases, f.Bases) || cap(l.Bases) != len(l.Bases) {
				t.Fatalf("bases %v (of capacity %d), want %v", l.Bases, cap(l.Bases), f.Bases)
			}
		}
	}
}

func TestLookupAllocs(t *testing.T) {
	x := index.New()
	p := makePack(rand.New(rand.NewPCG(1, 1)), 1, 100)
	p.Frames[7].Encoding, p.Frames[7].Bases = chunk.ZstdDelta, []index.Key{key(1)}
	mustAdd(t, x, p)
	present, absent := p.Frames[7].Blobs[0].Key, key(8)
	if n := testing.AllocsPerRun(100, func() { x.Lookup(present); x.Has(present); x.Lookup(absent) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

// The bound must hold wherever the tables happen to stand in their growth.
func TestMemory(t *testing.T) {
	const limit = 40
	r := rand.New(rand.NewPCG(1, 1))
	x := index.New()
	worst, at := 0.0, 0
	var before, after runtime.MemStats
	runtime.GC()
	runtime.GC() // the first one leaves what pools held
	runtime.ReadMemStats(&before)
	for x.Len() < 1_000_000 {
		mustAdd(t, x, makePack(r, x.PackCount(), 64))
		// Below, the page begun of each list and the maps show.
		if n := x.Len(); n > 100_000 {
			if perBlob := float64(x.Memory()) / float64(n); perBlob > worst {
				worst, at = perBlob, n
			}
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	n := float64(x.Len())
	claimed, real := float64(x.Memory())/n, (float64(after.HeapAlloc)-float64(before.HeapAlloc))/n
	t.Logf("%d blobs in %d packs: %.1f bytes each by Memory, %.1f by the heap; at worst %.1f, with %d blobs",
		x.Len(), x.PackCount(), claimed, real, worst, at)
	if claimed > limit || real > limit || worst > limit {
		t.Errorf("more than %d bytes a blob", limit)
	}
	if real < 28 || claimed < real*0.93 || claimed > real*1.03 {
		t.Errorf("Memory does not agree with the heap")
	}
	runtime.KeepAlive(x)
}

// For the race detector: readers, a writer and a judge at once. Whatever has
// been added is found from then on.
func TestConcurrent(t *testing.T) {
	x := index.New()
	const packs, blobs = 60, 50
	r := rand.New(rand.NewPCG(1, 1))
	all := make([]index.Pack, packs)
	for i := range all {
		all[i] = makePack(r, i, blobs)
	}
	added := make(chan int)
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for n := range added {
				for _, f := range all[n].Frames {
					if l, ok := x.Lookup(f.Blobs[0].Key); !ok || l.PackID != all[n].ID || l.Size != f.Blobs[0].Size {
						t.Errorf("blob of pack %d: %+v, %v", n, l, ok)
					}
					x.Has(f.Blobs[0].Key)
				}
				for ref := range x.Packs() {
					for range x.Frames(ref) {
					}
				}
			}
		})
	}
	wg.Go(func() {
		for i := range all {
			x.Condemn(all[i].ID)
			x.Absolve(all[i].ID)
		}
	})
	for i, p := range all {
		mustAdd(t, x, p)
		added <- i
	}
	close(added)
	wg.Wait()
	if x.Len() != packs*blobs {
		t.Errorf("%d blobs", x.Len())
	}
}

func TestParseIDs(t *testing.T) {
	p, s := packID(1), segmentID(1)
	if got, err := index.ParsePackID(p.String()); err != nil || got != p {
		t.Errorf("%v came back as %v, %v", p, got, err)
	}
	if got, err := index.ParseSegmentID(s.String()); err != nil || got != s {
		t.Errorf("%v came back as %v, %v", s, got, err)
	}
	for _, bad := range []string{"", s.String(), p.String()[:62], p.String() + "00", "G" + p.String()[1:], "A" + p.String()[1:]} {
		if got, err := index.ParsePackID(bad); err == nil || got != (index.PackID{}) {
			t.Errorf("ParsePackID(%q) = %v, %v", bad, got, err)
		}
	}
	if _, err := index.ParseSegmentID(p.String()); err == nil {
		t.Error("a pack id passes for a segment id")
	}
}

func benchIndex(b *testing.B, blobs int) (*index.Index, []index.Key) {
	x := index.New()
	r := rand.New(rand.NewPCG(1, 1))
	var keys []index.Key
	for x.Len() < blobs {
		p := makePack(r, x.PackCount(), 64)
		mustAdd(b, x, p)
		for _, f := range p.Frames {
			keys = append(keys, f.Blobs[0].Key)
		}
	}
	return x, keys
}

func BenchmarkLookup(b *testing.B) {
	for _, n := range []int{10_000, 1_000_000} {
		x, inOrder := benchIndex(b, n)
		keys := slices.Clone(inOrder)
		rand.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
		absent := make([]index.Key, len(keys))
		for i, k := range keys {
			slices.Reverse(k[:])
			absent[i] = k
		}
		for _, c := range []struct {
			name string
			keys []index.Key
			f    func(index.Key) bool
			want bool
		}{
			{"Lookup", keys, func(k index.Key) bool { _, ok := x.Lookup(k); return ok }, true},
			{"Has", keys, x.Has, true},
			{"absent", absent, x.Has, false},
			{"inorder", inOrder, func(k index.Key) bool { _, ok := x.Lookup(k); return ok }, true},
		} {
			b.Run(fmt.Sprintf("%s/%d", c.name, n), func(b *testing.B) {
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					if c.f(c.keys[i%len(c.keys)]) != c.want {
						b.Fatal("wrong answer")
					}
				}
			})
		}
	}
}

// BenchmarkLoad fills an index of a million blobs from decoded and from
// encoded segments of 100 packs.
func BenchmarkLoad(b *testing.B) {
	const blobs, packBlobs, segmentPacks = 1_000_000, 64, 100
	r := rand.New(rand.NewPCG(1, 1))
	var segments [][]byte
	var bytes int
	for n := 0; n < blobs; n += packBlobs * segmentPacks {
		var packs []index.Pack
		for i := range segmentPacks {
			packs = append(packs, makePack(r, i, packBlobs))
		}
		s, err := index.AppendSegment(nil, packs)
		if err != nil {
			b.Fatal(err)
		}
		segments = append(segments, s)
		bytes += len(s)
	}
	for _, name := range []string{"decode", "add", "reserve and add"} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(bytes))
			for b.Loop() {
				x := index.New()
				if name == "reserve and add" {
					x.Reserve(blobs)
				}
				for i, s := range segments {
					packs, err := index.DecodeSegment(s)
					if err != nil {
						b.Fatal(err)
					}
					for _, p := range packs {
						if name == "decode" {
							break
						}
						if _, err := x.AddPack(segmentID(i), p); err != nil {
							b.Fatal(err)
						}
					}
				}
			}
			b.ReportMetric(float64(bytes)/blobs, "B/blob")
		})
	}
}
