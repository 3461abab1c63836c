package chunk_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/whole-tale/wtsnap/chunk"
)

func rope(p []byte) *chunk.Rope {
	var r chunk.Rope
	r.Append(p)
	return &r
}

// patched decodes blob i of a patch.
func patched(t *testing.T, p *chunk.Patch, i int, base *chunk.Rope) []byte {
	t.Helper()
	var text chunk.Rope
	if err := p.Apply(&text, i, base); err != nil {
		t.Fatal(err)
	}
	return text.AppendTo(nil)
}

// Changes that people and programs make to a file.
func edits(old []byte) map[string][]byte {
	n := len(old)
	with := func(at, cut int, new []byte) []byte {
		return slices.Concat(old[:at], new, old[at+cut:])
	}
	return map[string][]byte{
		"the same":            slices.Clone(old),
		"empty":               nil,
		"overwritten":         with(n/2, 500, noise(7, 500)),
		"one byte":            with(n/2, 1, []byte{old[n/2] + 1}),
		"first byte":          with(0, 1, []byte{old[0] + 1}),
		"last byte":           with(n-1, 1, []byte{old[n-1] + 1}),
		"inserted":            with(n/3, 0, noise(7, 5000)),
		"inserted at the top": with(0, 0, noise(7, 100)),
		"appended":            with(n, 0, noise(7, 5000)),
		"deleted":             with(n/3, 5000, nil),
		"cut short":           old[:n/2],
		"cut in front":        old[n/2:],
		"halves swapped":      slices.Concat(old[n/2:], old[:n/2]),
		"doubled":             slices.Concat(old, old),
		"something else":      noise(9, n),
	}
}

func TestPatchRoundTrip(t *testing.T) {
	old, _ := documents(1, 200_000, 10)
	small, short := old[:300], old[:10]
	for _, old := range [][]byte{old, small, short, nil} {
		if len(old) > 0 && len(old) < 20_000 {
			old = bytes.Clone(old)
		}
		all := map[string][]byte{"new": noise(1, 1000), "tiny": []byte("x")}
		if len(old) > 10_000 {
			all = edits(old)
		}
		var w, one, joined chunk.PatchWriter
		var sizes []uint32
		var want [][]byte
		for name, new := range all {
			_, literals := w.Add(new, old)
			if !w.Verify(new, old) {
				t.Errorf("%s: not verified", name)
			}
			if len(new) > 0 && w.Verify(new[1:], old) || w.Verify(append(slices.Clone(new), 0), old) {
				t.Errorf("%s: verified as something else", name)
			}
			if most := map[string]int{"the same": 0, "one byte": 1, "overwritten": 500, "inserted": 5000, "deleted": 0, "halves swapped": 0,
				"doubled": 0, "cut short": 0, "cut in front": 0}; name != "new" && name != "tiny" {
				if n, ok := most[name]; ok && len(literals) > n {
					t.Errorf("%s: %d literals, want at most %d", name, len(literals), n)
				}
			}
			sizes, want = append(sizes, uint32(len(new))), append(want, new)
			one.Reset()
			one.Add(new, old)
			joined.Join(&one)
		}
		eachLevel(func(l chunk.Level, c *chunk.Codec) {
			stored, ok := c.EncodePatch([]byte("front"), &w)
			if one, _ := c.EncodePatch([]byte("front"), &joined); !bytes.Equal(one, stored) {
				t.Errorf("%v: joined one by one, it is another patch", l)
			}
			if !ok || !bytes.HasPrefix(stored, []byte("front")) {
				t.Fatalf("%v: encoded to %q, %v", l, stored[:5], ok)
			}
			p, err := chunk.NewCodec(chunk.LevelDefault).DecodePatch(stored[5:], sizes)
			if err != nil {
				t.Fatalf("%v: %v", l, err)
			}
			for i := range want {
				if !bytes.Equal(patched(t, p, i, rope(old)), want[i]) {
					t.Errorf("%v: blob %d differs", l, i)
				}
			}
			var half chunk.PatchWriter
			keep := []int{0, len(want) - 1}
			p.Subset(&half, keep)
			stored, ok = c.EncodePatch(nil, &half)
			q, err := c.DecodePatch(stored, []uint32{sizes[0], sizes[len(sizes)-1]})
			if !ok || err != nil {
				t.Fatalf("%v: a part: %v", l, err)
			}
			for i, j := range keep {
				if !bytes.Equal(patched(t, q, i, rope(old)), want[j]) {
					t.Errorf("%v: blob %d of a part differs", l, j)
				}
			}
		})
	}
}

// A patch of documents is about as small as zstd's delta of them, and is found many times faster.
func TestPatchSize(t *testing.T) {
	old, new := documents(1, 512<<10, 10)
	c := chunk.NewCodec(chunk.LevelDefault)
	delta, _ := c.EncodeDelta(nil, new, old)
	var w chunk.PatchWriter
	w.Add(new, old)
	patch, ok := c.EncodePatch(nil, &w)
	t.Logf("patch %d bytes, zstd's delta %d", len(patch), len(delta))
	if !ok || len(patch) > len(delta)*5/4 {
		t.Errorf("%d bytes, zstd's delta has %d", len(patch), len(delta))
	}
}

// A chain of patches is the same text at every level, whether the levels below are made or only followed.
func TestPatchChain(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	c := chunk.NewCodec(chunk.LevelFastest)
	text, _ := documents(3, 60_000, 10)
	followed := rope(text)
	for level := range 40 {
		new := slices.Clone(text)
		for range 1 + rng.IntN(30) {
			at := rng.IntN(len(new))
			cut := min(rng.IntN(200), len(new)-at)
			switch rng.IntN(4) {
			case 0:
				new = slices.Delete(new, at, at+cut)
			case 1:
				new = slices.Insert(new, at, noise(uint64(level), cut)...)
			case 2:
				copy(new[at:], noise(uint64(level), cut))
			default:
				from := rng.IntN(len(new) - cut)
				new = slices.Insert(new, at, slices.Clone(new[from:from+cut])...)
			}
		}
		var w chunk.PatchWriter
		w.Add(new, text)
		stored, _ := c.EncodePatch(nil, &w)
		p, err := c.DecodePatch(stored, []uint32{uint32(len(new))})
		if err != nil {
			t.Fatal(err)
		}
		next := &chunk.Rope{}
		if err := p.Apply(next, 0, followed); err != nil {
			t.Fatal(err)
		}
		if followed, text = next, new; followed.Len() != len(new) || !bytes.Equal(followed.AppendTo(nil), new) {
			t.Fatalf("level %d differs", level)
		}
	}
}

// The example of docs/format.md, and what writers make of a patch of which instructions and literals pay to compress.
func TestPatchGolden(t *testing.T) {
	stored, err := hex.DecodeString(strings.ReplaceAll("0a 00 030504 000413 000200 02 616263 7a7a", " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	c := chunk.NewCodec(chunk.LevelDefault)
	p, err := c.DecodePatch(stored, []uint32{12, 4})
	if err != nil {
		t.Fatal(err)
	}
	base := rope([]byte("0123456789ABCDEF"))
	for i, want := range []string{"abc567890123", "01zz"} {
		if got := patched(t, p, i, base); string(got) != want {
			t.Errorf("blob %d is %q, want %q", i, got, want)
		}
	}
	text, err := os.ReadFile("testdata/patch-v1.hex")
	if err != nil {
		t.Fatal(err)
	}
	if stored, err = hex.DecodeString(strings.Join(strings.Fields(string(text)), "")); err != nil {
		t.Fatal(err)
	}
	old, new := documents(1, 20_000, 200)
	p, err = c.DecodePatch(stored, []uint32{uint32(len(new)), uint32(len(old))})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(patched(t, p, 0, rope(old)), new) || !bytes.Equal(patched(t, p, 1, rope(new)), old) {
		t.Error("testdata/patch-v1.hex is not what it was")
	}
}

// Each line is a patch of blobs of 10 and 4 bytes with one thing wrong.
func TestPatchStrict(t *testing.T) {
	c := chunk.NewCodec(chunk.LevelDefault)
	for _, test := range []struct{ name, stored, want string }{
		{"right", "04 00 02 08 00 04 aabbccddeeff", ""},
		{"right, a copy further on", "07 00 02 04 02 00 04 01 04 aabbccddeeff", ""},
		{"nothing", "", "length of instructions"},
		{"length too large", "1100", "length of instructions"},
		{"length not the shortest", "8400 00 02 08 00 04 aabbccddeeff", "length of instructions"},
		{"stored length missing", "05", "stored length"},
		{"stored length too large", "04 05 02 08 00 04 00 00", "stored length"},
		{"instructions cut off", "05 00 02 08 00", "stored length"},
		{"instructions not zstd", "04 03 02 08 00 aabbccddeeff", "instructions"},
		{"literals beyond the blob", "02 00 0b 04", "instruction 1"},
		{"copy beyond the blob", "04 00 02 09 00 04 aabbccddeeff", "instruction 1"},
		{"copy of nothing", "04 00 02 00 00 04 aabbccddeeff", "instruction 1"},
		{"copy before the base", "04 00 02 08 09 04 aabbccddeeff", "instruction 1"},
		{"one copy written as two", "07 00 02 04 00 00 04 00 04 aabbccddeeff", "instruction 2"},
		{"number not the shortest", "05 00 8200 08 00 04 aabbccddeeff", "instruction 1"},
		{"number of three bytes not the shortest", "06 00 828000 08 00 04 aabbccddeeff", "instruction 1"},
		{"instructions end early", "03 00 02 08 00 aabbccddeeff", "instruction 1 of blob 2"},
		{"instructions left over", "05 00 02 08 00 04 00 aabbccddeeff", "left over"},
		{"too few literals", "04 00 02 08 00 04 aabbccddee", "literals"},
		{"too many literals", "04 00 02 08 00 04 aabbccddeeff00", "literals"},
	} {
		stored, err := hex.DecodeString(strings.ReplaceAll(test.stored, " ", ""))
		if err != nil {
			t.Fatal(test.name, err)
		}
		p, err := c.DecodePatch(stored, []uint32{10, 4})
		switch {
		case test.want == "" && err != nil:
			t.Errorf("%s: %v", test.name, err)
		case test.want != "" && (!errors.Is(err, chunk.ErrCorrupt) || p != nil || !strings.Contains(err.Error(), test.want)):
			t.Errorf("%s: %v, want %q", test.name, err, test.want)
		}
	}
	stored, _ := hex.DecodeString("0400020800" + "04aabbccddeeff")
	p, err := c.DecodePatch(stored, []uint32{10, 4})
	if err != nil {
		t.Fatal(err)
	}
	var text chunk.Rope
	if err := p.Apply(&text, 0, rope([]byte("0123456"))); !errors.Is(err, chunk.ErrCorrupt) {
		t.Errorf("a copy beyond the base: %v", err)
	}
}

// A small patch that claims much takes no more memory than its blobs have bytes.
func TestPatchBomb(t *testing.T) {
	const size = 8 << 20
	src := bytes.Repeat([]byte("ab"), size/2)
	c := chunk.NewCodec(chunk.LevelDefault)
	var w chunk.PatchWriter
	w.Add(src, nil)
	stored, _ := c.EncodePatch(nil, &w)
	if len(stored) > 4000 {
		t.Fatalf("%d bytes are no bomb", len(stored))
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 100 {
		if _, err := c.DecodePatch(stored, []uint32{100}); !errors.Is(err, chunk.ErrCorrupt) {
			t.Fatalf("%v", err)
		}
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > size {
		t.Errorf("%d bytes were allocated", n)
	}
}

// Pieces too small to be worth following are copied together.
func TestPatchOfManyPieces(t *testing.T) {
	base := noise(1, 1<<20)
	var src []byte
	for at := 0; at+32 <= len(base); at += 40 { // without every fifth part
		src = append(src, base[at:at+32]...)
	}
	c := chunk.NewCodec(chunk.LevelDefault)
	var w chunk.PatchWriter
	w.Add(src, base)
	stored, _ := c.EncodePatch(nil, &w)
	p, err := c.DecodePatch(stored, []uint32{uint32(len(src))})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(patched(t, p, 0, rope(base)), src) {
		t.Error("differs")
	}
}

// Copies that begin anywhere in a base of many pieces, as records that resemble each other have them.
func TestPatchesOutOfOrder(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	text := noise(1, 100_000)
	var texts chunk.Texts
	base := texts.NewRope()
	for rest := text; len(rest) > 0; {
		n := min(1+rng.IntN(1000), len(rest))
		base.Append(rest[:n])
		rest = rest[n:]
	}
	origin := base
	var later *chunk.Rope // the same with the base put in last
	c := chunk.NewCodec(chunk.LevelDefault)
	for night := range 5 {
		var next []byte
		for len(next) < 100_000 {
			at := rng.IntN(len(text) - 2000)
			next = append(next, text[at:at+50+rng.IntN(1500)]...)
			next = append(next, noise(uint64(len(next)+night), rng.IntN(20))...)
		}
		var w chunk.PatchWriter
		w.Add(next, text)
		stored, _ := c.EncodePatch(nil, &w)
		p, err := c.DecodePatch(stored, []uint32{uint32(len(next))})
		if err != nil {
			t.Fatal(err)
		}
		up, upLater := texts.NewRope(), texts.NewRope()
		if later == nil {
			p.Open(upLater, 0)
		} else if err := p.Apply(upLater, 0, later); err != nil {
			t.Fatal(err)
		}
		if err := p.Apply(up, 0, base); err != nil {
			t.Fatal(err)
		}
		got := texts.NewRope()
		if err := upLater.On(got, origin); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(up.AppendTo(nil), next) || !bytes.Equal(got.AppendTo(nil), next) {
			t.Fatalf("night %d: differs", night)
		}
		base, later, text = up, upLater, next
	}
}

// A place that does not fit into 32 bits is no place.
func TestPatchOfFarPlaces(t *testing.T) {
	far := []byte{0, 1, 0xfe, 0xff, 0xff, 0xff, 0x07} // no literals, 1 byte, 2^30-1 behind where the last copy ended
	ops := append(bytes.Repeat(far, 4), 96)
	stored := slices.Concat([]byte{byte(len(ops)), 0}, ops, noise(1, 96))
	_, err := chunk.NewCodec(chunk.LevelDefault).DecodePatch(stored, []uint32{100})
	if !errors.Is(err, chunk.ErrCorrupt) || !strings.Contains(err.Error(), "instruction 4") {
		t.Errorf("%v", err)
	}
}

func FuzzPatchDecode(f *testing.F) {
	c := chunk.NewCodec(chunk.LevelDefault)
	old, new := documents(1, 2000, 100)
	for _, src := range [][]byte{nil, new, noise(1, 100)} {
		var w chunk.PatchWriter
		w.Add(src, old)
		w.Add(old, old)
		stored, _ := c.EncodePatch(nil, &w)
		f.Add(stored, uint16(len(src)), uint16(len(old)), old)
	}
	f.Fuzz(func(t *testing.T, stored []byte, size1, size2 uint16, base []byte) {
		p, err := c.DecodePatch(stored, []uint32{uint32(size1), uint32(size2)})
		if err != nil {
			if !errors.Is(err, chunk.ErrCorrupt) {
				t.Error(err)
			}
			return
		}
		// What was decoded is what an encoder would have written.
		var w chunk.PatchWriter
		p.Subset(&w, []int{0, 1})
		again, ok := c.EncodePatch(nil, &w)
		q, err := c.DecodePatch(again, []uint32{uint32(size1), uint32(size2)})
		if !ok || err != nil {
			t.Fatalf("encoded again: %v, %v", ok, err)
		}
		for i, size := range []uint16{size1, size2} {
			var one, two chunk.Rope
			err := p.Apply(&one, i, rope(base))
			if err2 := q.Apply(&two, i, rope(base)); (err == nil) != (err2 == nil) {
				t.Fatalf("%v, %v", err, err2)
			}
			if err == nil && (one.Len() != int(size) || !bytes.Equal(one.AppendTo(nil), two.AppendTo(nil))) {
				t.Errorf("blob %d: %d bytes, not %d", i, one.Len(), size)
			}
		}
	})
}

func FuzzPatchRoundTrip(f *testing.F) {
	old, new := documents(1, 2000, 100)
	f.Add(new, old)
	f.Add(text(1, 500), []byte(nil))
	f.Add(noise(1, 500), noise(1, 400))
	f.Fuzz(func(t *testing.T, src, base []byte) {
		var w chunk.PatchWriter
		w.Add(src, base)
		if !w.Verify(src, base) {
			t.Errorf("%x from %x", src, base)
		}
	})
}

// Patches put together before their base is known make what they make one after the other.
func TestPatchesOnUnknown(t *testing.T) {
	old, _ := documents(3, 100_000, 10)
	codec := chunk.NewCodec(chunk.LevelDefault)
	var patches []*chunk.Patch
	text := old
	for i := range 6 {
		next := slices.Clone(text)
		copy(next[7000*i:], noise(uint64(i), 100))
		next = slices.Insert(next, 5000*i, noise(uint64(i+10), 50)...)
		next = slices.Delete(next, 9000*i, 9000*i+300)
		var w chunk.PatchWriter
		w.Add(next, text)
		stored, _ := codec.EncodePatch(nil, &w)
		p, err := codec.DecodePatch(stored, []uint32{uint32(len(next))})
		if err != nil {
			t.Fatal(err)
		}
		patches, text = append(patches, p), next
	}
	var texts chunk.Texts
	var compose func(from, to int) *chunk.Rope
	compose = func(from, to int) *chunk.Rope {
		r := texts.NewRope()
		mid := (from + to) / 2
		if mid == from {
			patches[from].Open(r, 0)
		} else if err := compose(mid, to).On(r, compose(from, mid)); err != nil {
			t.Fatal(err)
		}
		return r
	}
	base, got := texts.NewRope(), texts.NewRope()
	base.Append(old[:50_000])
	base.Append(old[50_000:])
	all := compose(0, len(patches))
	if err := all.On(got, base); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(new([]byte)), text) {
		t.Error("patches that were put together make something else than one after the other")
	}
	short := texts.NewRope()
	short.Append(old[:1000])
	if err := all.On(got, short); !errors.Is(err, chunk.ErrCorrupt) {
		t.Errorf("on a base that is too short: %v", err)
	}
}
