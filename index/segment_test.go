package index_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/index"
)

var update = flag.Bool("update", false, "write the golden files of a new format version")

// numbered returns a key that can be told in a hex dump.
func numbered(n byte) (k index.Key) {
	for i := range k {
		k[i] = n
	}
	return k
}

// goldenPacks use every feature of the format: both kinds, all encodings, runs
// of several frames and of one, several blobs a frame, an empty blob, sizes of
// one to four bytes, bases in the same pack, before it, after it and elsewhere,
// and hashes of two kinds and none.
func goldenPacks() []index.Pack {
	id := func(n byte) (id index.PackID) {
		for i := range id {
			id[i] = n
		}
		return id
	}
	return []index.Pack{{
		ID: id(0xa1), Kind: index.Data, Size: 2_000_000, Hash: "sha1:000102030405060708090a0b0c0d0e0f10111213",
		Frames: []index.Frame{
			{Offset: 0, Length: 300_040, Encoding: chunk.Raw, Blobs: []index.Blob{{numbered(1), 300_000}}},
			{Offset: 300_040, Length: 200_000, Encoding: chunk.Zstd, Blobs: []index.Blob{{numbered(2), 500_000}}},
			{Offset: 500_040, Length: 90, Encoding: chunk.Zstd, Blobs: []index.Blob{{numbered(3), 100}, {numbered(4), 0}, {numbered(5), 16000}}},
			{Offset: 500_130, Length: 1_400_000, Encoding: chunk.Zstd, Blobs: []index.Blob{{numbered(6), index.MaxFrameSize}}},
		},
	}, {
		ID: id(0xa2), Kind: index.Data, Size: 13_500, Hash: "",
		Frames: []index.Frame{
			{Offset: 0, Length: 1000, Encoding: chunk.ZstdDelta, Bases: []index.Key{numbered(1), numbered(2), numbered(0xee)},
				Blobs: []index.Blob{{numbered(7), 300_000}}},
			{Offset: 1000, Length: 500, Encoding: chunk.ZstdDelta, Bases: []index.Key{numbered(3)}, Blobs: []index.Blob{{numbered(8), 120}}},
			{Offset: 1500, Length: 12_000, Encoding: chunk.ZstdDelta, Bases: []index.Key{numbered(9), numbered(10), numbered(1)},
				Blobs: []index.Blob{{numbered(9), 1}, {numbered(1), 300_000}}},
		},
	}, {
		ID: id(0xa3), Kind: index.Tree, Size: 4096, Hash: "md5:00112233445566778899aabbccddeeff",
		Frames: []index.Frame{
			{Offset: 0, Length: 127, Encoding: chunk.Raw, Blobs: []index.Blob{{numbered(10), 87}}},
		},
	}}
}

// golden compares with a hex dump, which a new format version adds beside
// those of the old ones.
func golden(t *testing.T, name string, got []byte) []byte {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(hex.Dump(got)), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var want []byte
	for line := range strings.Lines(string(text)) {
		if len(line) < 60 {
			continue // the end offset
		}
		b, err := hex.DecodeString(strings.ReplaceAll(line[10:58], " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, b...)
	}
	if d := cmp.Diff(string(text), hex.Dump(got)); d != "" {
		t.Errorf("%s: -want +got\n%s", name, d)
	}
	return want
}

func TestGolden(t *testing.T) {
	packs := goldenPacks()
	enc, err := index.AppendSegment(nil, packs)
	if err != nil {
		t.Fatal(err)
	}
	got, err := index.DecodeSegment(golden(t, "segment-v1.hex", enc))
	if d := cmp.Diff(packs, got); err != nil || d != "" {
		t.Errorf("%v: -want +got\n%s", err, d)
	}
	for i, p := range packs {
		enc, err := index.AppendFrames(nil, p.Frames)
		if err != nil {
			t.Fatal(err)
		}
		got, err := index.DecodeFrames(golden(t, fmt.Sprintf("frames-v1-%d.hex", i), enc))
		if d := cmp.Diff(p.Frames, got); err != nil || d != "" {
			t.Errorf("%v: -want +got\n%s", err, d)
		}
	}
}

func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var packs []index.Pack
		for i := range rapid.IntRange(0, 5).Draw(t, "packs") {
			packs = append(packs, genPack(t, i))
		}
		prefix := []byte("in front")
		enc, err := index.AppendSegment(prefix, packs)
		if err != nil || !bytes.HasPrefix(enc, prefix) {
			t.Fatal(err)
		}
		got, err := index.DecodeSegment(enc[len(prefix):])
		if err != nil {
			t.Fatal(err)
		}
		if len(packs)+len(got) > 0 && !reflect.DeepEqual(got, packs) {
			t.Fatalf("segment: -want +got\n%s", cmp.Diff(packs, got))
		}
		for _, p := range packs {
			enc, err := index.AppendFrames(nil, p.Frames)
			if err != nil {
				t.Fatal(err)
			}
			got, err := index.DecodeFrames(enc)
			if err != nil || !reflect.DeepEqual(got, p.Frames) {
				t.Fatalf("directory: %v: -want +got\n%s", err, cmp.Diff(p.Frames, got))
			}
		}
	})
}

// Where bases are listed before, a reference takes the place of a key.
func TestBasesAreShort(t *testing.T) {
	const n = 100
	old := index.Pack{ID: packID(1), Kind: index.Data}
	delta := index.Pack{ID: packID(2), Kind: index.Data}
	for i := range n {
		old.Frames = append(old.Frames, index.Frame{Offset: uint32(i), Length: 1, Blobs: []index.Blob{{key(i), 9}}})
		delta.Frames = append(delta.Frames, index.Frame{
			Offset: uint32(i), Length: 1, Encoding: chunk.ZstdDelta,
			Bases: []index.Key{key(i)}, Blobs: []index.Blob{{key(n + i), 9}},
		})
	}
	old.Size, delta.Size = n, n
	size := func(packs ...index.Pack) int {
		b, err := index.AppendSegment(nil, packs)
		if err != nil {
			t.Fatal(err)
		}
		return len(b)
	}
	// All but the first reference are one byte: the next blob.
	if saved := size(delta, old) - size(old, delta); saved != n*16 {
		t.Errorf("old first saves %d bytes, want %d", saved, n*16)
	}
}

// Every proper prefix, and every continuation, is refused.
func TestDecodeCut(t *testing.T) {
	enc, err := index.AppendSegment(nil, goldenPacks())
	if err != nil {
		t.Fatal(err)
	}
	for n := range enc {
		wantFormatError(t, fmt.Sprintf("first %d bytes", n), enc[:n])
	}
	for _, b := range []byte{0, 1, 0xff} {
		wantFormatError(t, "a byte more", append(enc[:len(enc):len(enc)], b))
	}
}

func wantFormatError(t *testing.T, what string, segment []byte) {
	t.Helper()
	var fe *index.FormatError
	packs, err := index.DecodeSegment(segment)
	if !errors.As(err, &fe) || packs != nil {
		t.Errorf("%s: %d packs, %v", what, len(packs), err)
	} else if fe.Offset < 0 || fe.Offset > len(segment) || fe.Reason == "" {
		t.Errorf("%s: %+v", what, fe)
	}
}

// Each line is a directory with one thing wrong; K stands for a key of 16
// bytes, as does L for another.
func TestDecodeFramesStrict(t *testing.T) {
	k, l := strings.Repeat("11", 16), strings.Repeat("22", 16)
	for _, c := range []struct{ name, dir, want string }{
		{"right", "01 01 05 0001 0101 09 K", ""},
		{"right, a delta", "01 01 05 0201 0101 09 K 01 00 L", ""},
		{"right, a reference", "01 02 05 05 00010201 0102 09 09 KL 01 01", ""},
		{"nothing", "", "version"},
		{"a later version", "02 01 05 0001 0101 09 K", "version 2 is not known"},
		{"no frames", "01 00", "no frames"},
		{"more frames than fit", "01 ff01 05 0001 0101 09 K", "number of frames"},
		{"varint not the shortest", "01 8100 05 0001 0101 09 K", "shortest form"},
		{"varint too long", "01 01 ffffffffffffffffffff01 0001 0101 09 K", "not a varint"},
		{"frame of no bytes", "01 01 00 0001 0101 09 K", "length of 0"},
		{"frame larger than a pack", "01 01 81808020 0001 0101 09 K", "frame length"},
		{"frames larger than a pack", "01 02 80808010 81808010 0002 0102 09 09 KK", "has a length"},
		{"unknown encoding", "01 01 05 0401 0101 09 K", "encoding"},
		{"right, a patch", "01 01 05 0301 0201 09 09 KK 02 00 L 00 L", ""},
		{"patch without bases", "01 01 05 0301 0101 09 K 00", "0 bases"},
		{"bases that its blobs cannot share", "01 01 05 0301 0201 09 09 KK 01 00 L", "2 blobs with 1 bases"},
		{"empty run", "01 01 05 0000 0001 0101 09 K", "run is empty"},
		{"run too long", "01 01 05 0002 0101 09 K", "run of encoding"},
		{"run continued", "01 02 05 05 00010001 0102 09 09 KK", "continues the one before"},
		{"frame without blobs", "01 01 05 0001 0001 09 K", "no blobs"},
		{"more blobs than fit", "01 01 05 0001 0201 09 K", "number of blobs"},
		{"more blobs than fit, in all", "01 03 05 05 05 0003 0203 09 09 09 KKK", "more than there is room for"},
		{"blob too large", "01 01 05 0001 0101 81808008 K", "blob size"},
		{"frame too large", "01 01 05 0001 0201 80808008 01 KK", "plaintext"},
		{"delta without bases", "01 01 05 0201 0101 09 K 00", "0 bases"},
		{"base not listed", "01 01 05 0201 0101 09 K 01 03", "not listed"},
		{"base before the first", "01 01 05 0201 0101 09 K 01 02", "not listed"},
		{"base in full that is listed", "01 01 05 0201 0101 09 K 01 00 K", "shortest form"},
		{"base's second mention", "01 02 05 05 00010201 0102 09 09 KK 01 03", "shortest form"},
		{"key cut off", "01 01 05 0001 0101 09 111111", "number of frames"},
		{"base cut off", "01 01 05 0201 0101 09 K 01 00 222222", "16 bytes wanted, 3 left"},
		{"something more", "01 01 05 0001 0101 09 K 00", "too many"},
	} {
		dir := strings.NewReplacer(" ", "", "K", k, "L", l).Replace(c.dir)
		data, err := hex.DecodeString(dir)
		if err != nil {
			t.Fatal(c.name, err)
		}
		frames, err := index.DecodeFrames(data)
		var fe *index.FormatError
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", c.name, err)
		case c.want != "" && (!errors.As(err, &fe) || frames != nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

func addSeeds(f *testing.F, packs []index.Pack) {
	for i := range packs {
		dir, err := index.AppendFrames(nil, packs[i].Frames)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(dir)
	}
	for n := range len(packs) + 1 {
		seg, err := index.AppendSegment(nil, packs[:n])
		if err != nil {
			f.Fatal(err)
		}
		f.Add(seg)
	}
}

func FuzzDecodeFrames(f *testing.F) {
	addSeeds(f, goldenPacks())
	f.Fuzz(func(t *testing.T, data []byte) {
		var frames []index.Frame
		var err error
		boundedAlloc(t, len(data), func() { frames, err = index.DecodeFrames(data) })
		if err != nil {
			return
		}
		if again, err := index.AppendFrames(nil, frames); err != nil || !bytes.Equal(again, data) {
			t.Errorf("%x was decoded to %+v and encoded to %x, %v", data, frames, again, err)
		}
	})
}

func FuzzDecodeSegment(f *testing.F) {
	addSeeds(f, goldenPacks())
	f.Fuzz(func(t *testing.T, data []byte) {
		var packs []index.Pack
		var err error
		boundedAlloc(t, len(data), func() { packs, err = index.DecodeSegment(data) })
		if err != nil {
			return
		}
		if again, err := index.AppendSegment(nil, packs); err != nil || !bytes.Equal(again, data) {
			t.Errorf("%x was decoded to %+v and encoded to %x, %v", data, packs, again, err)
		}
		x := index.New()
		for _, p := range packs {
			if _, err := x.AddPack(index.SegmentID{}, p); err != nil {
				t.Errorf("the index does not take %+v: %v", p, err)
			}
		}
	})
}

// boundedAlloc fails the test when f allocates out of proportion to its input.
func boundedAlloc(t *testing.T, input int, f func()) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > uint64(input)*256+64<<10 {
		t.Errorf("%d bytes allocated for %d bytes of input", n, input)
	}
}
