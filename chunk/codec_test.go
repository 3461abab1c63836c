package chunk_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/whole-tale/wtsnap/chunk"
)

func eachLevel(f func(chunk.Level, *chunk.Codec)) {
	for l := chunk.LevelDefault; l <= chunk.LevelNone; l++ {
		f(l, chunk.NewCodec(l))
	}
}

func TestCodecRoundTrip(t *testing.T) {
	const most = 3 << 20
	inputs := map[string][]byte{
		"zeros": make([]byte, most), "text": text(1, most), "floats": floats(1, most), "noise": noise(1, most),
	}
	eachLevel(func(l chunk.Level, c *chunk.Codec) {
		for _, n := range []int{0, 1, 31, 32, 100, 1000, 16 << 10, 200_000, 1 << 20, most} {
			for name, data := range inputs {
				data := data[:n]
				stored, enc := c.Encode([]byte("front"), data)
				if !bytes.HasPrefix(stored, []byte("front")) {
					t.Fatalf("%v: %s of %d: Encode overwrote dst", l, name, n)
				}
				stored = stored[5:]
				switch {
				case enc == chunk.Raw && !bytes.Equal(stored, data):
					t.Errorf("%v: %s of %d: raw is not the plaintext", l, name, n)
				case enc == chunk.Zstd && len(stored) > n-n/32:
					t.Errorf("%v: %s of %d: compressed to %d", l, name, n, len(stored))
				case enc == chunk.ZstdDelta || l == chunk.LevelNone && enc != chunk.Raw:
					t.Errorf("%v: %s of %d: stored as %v", l, name, n, enc)
				case enc == chunk.Raw && l != chunk.LevelNone && n > 1000 && name != "noise":
					t.Errorf("%v: %s of %d: stored raw", l, name, n)
				}
				got, err := chunk.NewCodec(chunk.LevelDefault).Decode([]byte("FRONT"), stored, enc, nil, n)
				if err != nil || string(got[:5]) != "FRONT" || !bytes.Equal(got[5:], data) {
					t.Errorf("%v: %s of %d: decoded to %d bytes, %v", l, name, n, len(got)-5, err)
				}
			}
		}
	})
}

// The library's default level stores what has no matches raw, float arrays
// with their even exponents too.
func TestEncodeFloats(t *testing.T) {
	data := floats(1, 384<<10)
	out, enc := chunk.NewCodec(chunk.LevelDefault).Encode(nil, data)
	if enc != chunk.Zstd || len(out) > len(data)*95/100 {
		t.Errorf("%d bytes of floats became %d, %v", len(data), len(out), enc)
	}
}

// Evenly spread bytes take a path without entropy coding, which must not miss
// repetitions, and which what is a little uneven must not take.
func TestEncodeNoise(t *testing.T) {
	c := chunk.NewCodec(chunk.LevelDefault)
	part := noise(1, 200<<10)
	if out, enc := c.Encode(nil, append(bytes.Clone(part), part...)); enc != chunk.Zstd || len(out) > 205<<10 {
		t.Errorf("noise twice: %v, %d bytes", enc, len(out))
	}
	uneven := noise(2, 400<<10)
	for i := range uneven {
		if i%3 == 0 {
			uneven[i] &= 0x07
		}
	}
	if out, enc := c.Encode(nil, uneven); enc != chunk.Zstd || len(out) > len(uneven)*97/100 {
		t.Errorf("uneven noise: %v, %d of %d bytes", enc, len(out), len(uneven))
	}
	// Sampled pieces alone do not decide.
	mixed := append(noise(3, 200<<10), text(3, 200<<10)...)
	if out, enc := c.Encode(nil, mixed); enc != chunk.Zstd || len(out) > 300<<10 {
		t.Errorf("half noise, half text: %v, %d bytes", enc, len(out))
	}
}

// A delta has about the size of what zstd makes of two files: the update, not
// the chunk.
func TestDeltaSize(t *testing.T) {
	old, new := documents(1, 512<<10, 10)
	whole, _ := chunk.NewCodec(chunk.LevelDefault).Encode(nil, new)
	limit := len(whole) / 50
	if patch := patchFrom(t, old, new); patch > 0 {
		t.Logf("zstd --patch-from: %d bytes; by itself: %d", patch, len(whole))
		limit = patch * 3 / 2
	}
	for _, l := range []chunk.Level{chunk.LevelFastest, chunk.LevelDefault, chunk.LevelBetter, chunk.LevelBest} {
		c := chunk.NewCodec(l)
		delta, ok := c.EncodeDelta(nil, new, old)
		t.Logf("%v: %d bytes", l, len(delta))
		if !ok || len(delta) > limit {
			t.Errorf("%v: delta of %d bytes (%v), want at most %d", l, len(delta), ok, limit)
		}
		got, err := c.Decode(nil, delta, chunk.ZstdDelta, old, len(new))
		if err != nil || !bytes.Equal(got, new) {
			t.Errorf("%v: decoded to %d bytes, %v", l, len(got), err)
		}
		unpatch(t, old, delta, new)
	}
}

// patchFrom returns the size of the reference implementation's delta, or 0
// where it is not installed.
func patchFrom(t *testing.T, old, new []byte) int {
	t.Helper()
	out, err := zstdTool(t, map[string][]byte{"old": old, "new": new}, "-q", "-c", "--patch-from=old", "new")
	if errors.Is(err, exec.ErrNotFound) {
		t.Log("zstd is not installed: not compared with zstd --patch-from")
		return 0
	}
	if err != nil {
		t.Fatal(err)
	}
	return len(out)
}

// unpatch lets the reference implementation decode a delta.
func unpatch(t *testing.T, old, delta, want []byte) {
	t.Helper()
	got, err := zstdTool(t, map[string][]byte{"old": old, "delta.zst": delta}, "-q", "-d", "-c", "--patch-from=old", "delta.zst")
	if errors.Is(err, exec.ErrNotFound) {
		t.Log("zstd is not installed: deltas not decoded by it")
		return
	}
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("zstd decodes the delta to %d bytes, %v", len(got), err)
	}
}

func zstdTool(t *testing.T, files map[string][]byte, args ...string) ([]byte, error) {
	t.Helper()
	dir := t.TempDir()
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("zstd", args...)
	cmd.Dir = dir
	return cmd.Output()
}

// Matches must be found at both ends of a base of up to 2 MiB, and at the end
// of a larger one, by encoders that have seen other bases before.
func TestDeltaReach(t *testing.T) {
	c := chunk.NewCodec(chunk.LevelDefault)
	for _, n := range []int{1, 100, 10_000, 100_000, 1 << 20, 2 << 20, 5 << 20, 12 << 20} {
		base := noise(uint64(n), n)
		part := min(n, 512<<10)
		for name, src := range map[string][]byte{
			"start": base[:part], "end": base[n-part:], "both": append(bytes.Clone(base[n-part:]), base[:part]...),
		} {
			if n > 2<<20 && name != "end" {
				continue
			}
			if len(src) < 100 {
				src = append(bytes.Clone(src), make([]byte, 100)...)
			}
			delta, ok := c.EncodeDelta([]byte("front"), src, base)
			if !ok || len(delta) > 300+len(src)/500 || string(delta[:5]) != "front" {
				t.Errorf("%s of a base of %d: delta of %d bytes for %d, %v", name, n, len(delta), len(src), ok)
				continue
			}
			got, err := c.Decode(nil, delta[5:], chunk.ZstdDelta, base, len(src))
			if err != nil || !bytes.Equal(got, src) {
				t.Errorf("%s of a base of %d: decoded to %d bytes, %v", name, n, len(got), err)
			}
		}
	}
}

func TestDeltaRefused(t *testing.T) {
	c := chunk.NewCodec(chunk.LevelDefault)
	doc := text(1, 10_000)
	for name, in := range map[string]struct {
		c         *chunk.Codec
		src, base []byte
	}{
		"unrelated noise": {c, noise(1, 100_000), noise(2, 100_000)},
		"no source":       {c, nil, doc},
		"no base":         {c, doc, nil},
		"too large":       {c, doc, make([]byte, chunk.MaxDelta)},
		"no compression":  {chunk.NewCodec(chunk.LevelNone), doc, doc},
	} {
		if out, ok := in.c.EncodeDelta([]byte("front"), in.src, in.base); ok || string(out) != "front" {
			t.Errorf("%s: %d bytes, %v", name, len(out), ok)
		}
	}
}

func TestDecodeErrors(t *testing.T) {
	c := chunk.NewCodec(chunk.LevelDefault)
	src := text(1, 50_000)
	stored, _ := c.Encode(nil, src)
	base := text(2, 50_000)
	delta, ok := c.EncodeDelta(nil, append(bytes.Clone(base[20_000:]), src[:20_000]...), base)
	if !ok {
		t.Fatal("no delta")
	}
	for name, in := range map[string]struct {
		src  []byte
		enc  chunk.Encoding
		base []byte
		size int
	}{
		"raw, short":        {src, chunk.Raw, nil, len(src) + 1},
		"raw, long":         {src, chunk.Raw, nil, len(src) - 1},
		"zstd, short":       {stored, chunk.Zstd, nil, len(src) + 1},
		"zstd, long":        {stored, chunk.Zstd, nil, len(src) - 1},
		"zstd, a lot less":  {stored, chunk.Zstd, nil, 10},
		"zstd, none":        {stored, chunk.Zstd, nil, 0},
		"zstd, cut":         {stored[:len(stored)-1], chunk.Zstd, nil, len(src)},
		"zstd, header only": {stored[:8], chunk.Zstd, nil, len(src)},
		"zstd, nothing":     {nil, chunk.Zstd, nil, 100},
		"zstd, raw":         {src, chunk.Zstd, nil, len(src)},
		"zstd, twice":       {append(bytes.Clone(stored), stored...), chunk.Zstd, nil, len(src)},
		"delta, no base":    {delta, chunk.ZstdDelta, nil, len(src)},
		"delta as zstd":     {delta, chunk.Zstd, nil, len(src)},
		"delta, base cut":   {delta, chunk.ZstdDelta, base[40_000:], len(src)},
		"unknown encoding":  {stored, 3, nil, len(src)},
		"negative size":     {stored, chunk.Zstd, nil, -1},
	} {
		out, err := c.Decode([]byte("front"), in.src, in.enc, in.base, in.size)
		if !errors.Is(err, chunk.ErrCorrupt) || string(out) != "front" {
			t.Errorf("%s: %d bytes, %v", name, len(out), err)
		}
	}
	// Decoders that failed, or had a base, serve others.
	for range 10 {
		if out, err := c.Decode(nil, stored, chunk.Zstd, nil, len(src)); err != nil || !bytes.Equal(out, src) {
			t.Fatalf("later: %d bytes, %v", len(out), err)
		}
	}
}

// A small input that decompresses to a lot fails before it has done so, whether
// its header admits the size or not.
func TestDecodeBomb(t *testing.T) {
	const large = 256 << 20
	var hidden bytes.Buffer
	w, err := zstd.NewWriter(&hidden, zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	for range large >> 20 {
		if _, err := w.Write(make([]byte, 1<<20)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	e, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	stored, _ := chunk.NewCodec(chunk.LevelDefault).Encode(nil, make([]byte, 1000))
	for name, src := range map[string][]byte{
		"hidden":         hidden.Bytes(),
		"admitted":       e.EncodeAll(make([]byte, large), nil),
		"many frames":    bytes.Repeat(stored, 100_000),
		"claimed size":   {0x28, 0xb5, 0x2f, 0xfd, 0xe0, 0, 0, 0, 0, 0, 1, 0, 0, 0x03, 0, 0},
		"claimed window": {0x28, 0xb5, 0x2f, 0xfd, 0, 0xff, 0x03, 0, 0},
	} {
		c := chunk.NewCodec(chunk.LevelDefault)
		for _, enc := range []chunk.Encoding{chunk.Zstd, chunk.ZstdDelta} {
			if _, err := c.Decode(nil, stored, chunk.Zstd, nil, 1000); err != nil {
				t.Fatal(err)
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := c.Decode(nil, src, enc, []byte("base"), 1000)
			runtime.ReadMemStats(&after)
			if n := after.TotalAlloc - before.TotalAlloc; !errors.Is(err, chunk.ErrCorrupt) || n > 1<<20 {
				t.Errorf("%s, %v: %v, %d bytes allocated", name, enc, err, n)
			}
		}
	}
}

// For the race detector.
func TestCodecConcurrent(t *testing.T) {
	c := chunk.NewCodec(chunk.LevelDefault)
	var wg sync.WaitGroup
	for g := range uint64(4) {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(g, 0))
			for i := range uint64(20) {
				old, new := documents(g*1000+i, 2000+r.IntN(300_000), 20)
				delta, ok := c.EncodeDelta(nil, new, old)
				got, err := c.Decode(nil, delta, chunk.ZstdDelta, old, len(new))
				if !ok || err != nil || !bytes.Equal(got, new) {
					t.Errorf("delta: %v, %v", ok, err)
				}
				stored, enc := c.Encode(nil, old)
				got, err = c.Decode(nil, stored, enc, nil, len(old))
				if err != nil || !bytes.Equal(got, old) {
					t.Errorf("%v: %v", enc, err)
				}
			}
		})
	}
	wg.Wait()
}

func TestParseLevel(t *testing.T) {
	eachLevel(func(l chunk.Level, _ *chunk.Codec) {
		if got, err := chunk.ParseLevel(l.String()); err != nil || got != l {
			t.Errorf("%v came back as %v, %v", l, got, err)
		}
	})
	for _, bad := range []string{"", "Default", "3", "level 5", "raw"} {
		if l, err := chunk.ParseLevel(bad); err == nil {
			t.Errorf("ParseLevel(%q) = %v", bad, l)
		}
	}
}

func FuzzDecode(f *testing.F) {
	c := chunk.NewCodec(chunk.LevelDefault)
	old, new := documents(1, 2000, 100)
	for _, src := range [][]byte{nil, new, make([]byte, 1000), noise(1, 100)} {
		stored, enc := c.Encode(nil, src)
		f.Add(stored, byte(enc), old, uint16(len(src)))
		if delta, ok := c.EncodeDelta(nil, src, old); ok {
			f.Add(delta, byte(chunk.ZstdDelta), old, uint16(len(src)))
		}
	}
	f.Fuzz(func(t *testing.T, src []byte, enc byte, base []byte, size uint16) {
		out, err := c.Decode([]byte("front"), src, chunk.Encoding(enc), base, int(size))
		switch {
		case string(out[:5]) != "front":
			t.Errorf("dst was overwritten: %q", out[:5])
		case err != nil && (!errors.Is(err, chunk.ErrCorrupt) || len(out) != 5):
			t.Errorf("%d bytes, %v", len(out)-5, err)
		case err == nil && len(out) != 5+int(size):
			t.Errorf("%d bytes, not %d", len(out)-5, size)
		}
	})
}

func FuzzRoundTrip(f *testing.F) {
	codecs := make(map[chunk.Level]*chunk.Codec)
	eachLevel(func(l chunk.Level, c *chunk.Codec) { codecs[l] = c })
	old, new := documents(1, 2000, 100)
	f.Add(new, old, byte(0))
	f.Add(text(1, 500), []byte(nil), byte(1))
	f.Add(noise(1, 500), noise(1, 400), byte(2))
	f.Fuzz(func(t *testing.T, src, base []byte, level byte) {
		c := codecs[chunk.Level(level)%chunk.LevelBest] // best takes 40 MiB
		stored, enc := c.Encode(nil, src)
		check := func(stored []byte, enc chunk.Encoding) {
			if got, err := c.Decode(nil, stored, enc, base, len(src)); err != nil || !bytes.Equal(got, src) {
				t.Errorf("%v: %x was decoded to %x, %v", enc, src, got, err)
			}
		}
		check(stored, enc)
		if delta, ok := c.EncodeDelta(nil, src, base); ok {
			check(delta, chunk.ZstdDelta)
		}
	})
}

func ExampleCodec() {
	c := chunk.NewCodec(chunk.LevelDefault)
	old := bytes.Repeat([]byte("0123456789"), 100)
	new := append([]byte("a new beginning, "), old...)
	stored, ok := c.EncodeDelta(nil, new, old)
	plain, err := c.Decode(nil, stored, chunk.ZstdDelta, old, len(new))
	fmt.Println(ok, len(stored) < 60, bytes.Equal(plain, new), err)
	// Output: true true true <nil>
}
