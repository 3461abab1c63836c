package chunk_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/whole-tale/wtsnap/chunk"
)

// text returns n bytes that compress about as English does.
func text(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	words := make([]string, 5000)
	for i := range words {
		w := make([]byte, 2+r.IntN(9))
		for j := range w {
			w[j] = "etaoinshrdlcumwfgypbvkjxqz"[min(r.IntN(26), r.IntN(26))]
		}
		words[i] = string(w)
	}
	b := make([]byte, 0, n+16)
	for len(b) < n {
		b = append(b, words[int(float64(len(words))*math.Pow(r.Float64(), 3))]...)
		b = append(b, ' ')
	}
	return b[:n]
}

// floats returns n bytes of a random walk in float64: mantissas are noise,
// exponents hardly vary, and nothing repeats.
func floats(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 2))
	b := make([]byte, 0, n+8)
	for x := 100.0; len(b) < n; x += r.NormFloat64() {
		b = binary.LittleEndian.AppendUint64(b, math.Float64bits(x))
	}
	return b[:n]
}

// documents returns two versions of a dump of about n bytes: documents of 400
// bytes, of which changed in 1000 differ, one after the other.
func documents(seed uint64, n, changed int) (old, new []byte) {
	r := rand.New(rand.NewPCG(seed, 3))
	doc := func(i int) []byte {
		b := fmt.Appendf(nil, "{_id:%024x,login:user%d,", i, i)
		for len(b) < 400 {
			b = fmt.Appendf(b, "field%d:%x,", r.IntN(50), r.Uint64())
		}
		return b[:400]
	}
	for i := 0; len(old) < n; i++ {
		d := doc(i)
		old = append(old, d...)
		if r.IntN(1000) < changed {
			d = doc(i)
		}
		new = append(new, d...)
	}
	return old[:n], new[:n]
}

func sizeName(n int) string {
	if n < 1024 {
		return fmt.Sprintf("%dB", n)
	}
	return fmt.Sprintf("%dKiB", n>>10)
}

func BenchmarkSplitter(b *testing.B) {
	p := chunk.DefaultParams(testPol)
	data := noise(1, 64<<20)
	b.Run("Next", func(b *testing.B) {
		b.SetBytes(int64(len(data)))
		b.ReportAllocs()
		s := chunk.NewSplitter(nil, p)
		buf := make([]byte, p.Max)
		for b.Loop() {
			s.Reset(bytes.NewReader(data))
			for {
				if _, err := s.Next(buf); err == io.EOF {
					break
				}
			}
		}
	})
	b.Run("Split", func(b *testing.B) {
		b.SetBytes(int64(len(data)))
		b.ReportAllocs()
		s := chunk.NewSplitter(nil, p)
		for b.Loop() {
			for rest := data; len(rest) > 0; {
				rest = rest[s.Split(rest):]
			}
		}
	})
	b.Run("short", func(b *testing.B) {
		b.SetBytes(8 << 10)
		b.ReportAllocs()
		s := chunk.NewSplitter(nil, p)
		buf := make([]byte, p.Max)
		r := bytes.NewReader(nil)
		for b.Loop() {
			r.Reset(data[:8<<10])
			s.Reset(r)
			if _, err := s.Next(buf); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkEncode(b *testing.B) {
	const n = 384 << 10
	for _, in := range []struct {
		name string
		data []byte
	}{{"text", text(1, n)}, {"floats", floats(1, n)}, {"noise", noise(1, n)}, {"text4KiB", text(1, 4<<10)}} {
		for l := chunk.LevelDefault; l < chunk.LevelNone; l++ {
			b.Run(in.name+"/"+l.String(), func(b *testing.B) {
				c := chunk.NewCodec(l)
				b.SetBytes(int64(len(in.data)))
				b.ReportAllocs()
				var out []byte
				for b.Loop() {
					out, _ = c.Encode(out[:0], in.data)
				}
				b.ReportMetric(float64(len(out))/float64(len(in.data)), "ratio")
			})
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	const n = 384 << 10
	c := chunk.NewCodec(chunk.LevelDefault)
	for _, in := range []struct {
		name string
		data []byte
	}{{"text", text(1, n)}, {"floats", floats(1, n)}, {"text4KiB", text(1, 4<<10)}} {
		b.Run(in.name, func(b *testing.B) {
			stored, enc := c.Encode(nil, in.data)
			if enc != chunk.Zstd {
				b.Fatal(enc)
			}
			b.SetBytes(int64(len(in.data)))
			b.ReportAllocs()
			var out []byte
			var err error
			for b.Loop() {
				if out, err = c.Decode(out[:0], stored, enc, nil, len(in.data)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("delta", func(b *testing.B) {
		old, new := documents(1, 512<<10, 10)
		stored, ok := c.EncodeDelta(nil, new, old)
		if !ok {
			b.Fatal("no delta")
		}
		b.SetBytes(int64(len(new)))
		b.ReportAllocs()
		var out []byte
		var err error
		for b.Loop() {
			if out, err = c.Decode(out[:0], stored, chunk.ZstdDelta, old, len(new)); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkEncodeDelta(b *testing.B) {
	for _, n := range []int{64 << 10, 512 << 10, 1 << 20} {
		old, new := documents(1, n, 10)
		for l := chunk.LevelDefault; l < chunk.LevelNone; l++ {
			b.Run(sizeName(n)+"/"+l.String(), func(b *testing.B) {
				c := chunk.NewCodec(l)
				b.SetBytes(int64(n))
				b.ReportAllocs()
				var out []byte
				var ok bool
				for b.Loop() {
					if out, ok = c.EncodeDelta(out[:0], new, old); !ok {
						b.Fatal("no delta")
					}
				}
				b.ReportMetric(float64(len(out)), "stored-B")
			})
		}
	}
}
