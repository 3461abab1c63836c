package chunk_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	resticchunker "github.com/restic/chunker"
	"github.com/zeebo/blake3"
	"pgregory.net/rapid"

	"github.com/whole-tale/wtsnap/chunk"
)

// testPol is the polynomial that TestDerivePol derives.
const testPol chunk.Pol = 0x3d3566d63c3b9f

// referenceCut is the definition of a cut, one byte at a time: n is the first
// length of at least Min at which the last 64 bytes, read as a polynomial over
// GF(2) with the first bit foremost, leave a remainder modulo Pol of which the
// lowest AvgBits coefficients are zero; or Max; or what there is.
func referenceCut(p chunk.Params, data []byte) int {
	for n := p.Min; n < min(len(data), p.Max); n++ {
		var rest chunk.Pol
		for _, b := range data[n-64 : n] {
			rest = (rest<<8 | chunk.Pol(b)).Mod(p.Pol)
		}
		if rest&(1<<p.AvgBits-1) == 0 {
			return n
		}
	}
	return min(len(data), p.Max)
}

func readAll(t testing.TB, s *chunk.Splitter, buf []byte) (chunks [][]byte) {
	t.Helper()
	for {
		c, err := s.Next(buf)
		if err == io.EOF {
			return chunks
		}
		if err != nil {
			t.Fatal(err)
		}
		chunks = append(chunks, bytes.Clone(c))
	}
}

// Long chunks are looked for at several places at a time: restic's chunker looks at one byte after the other.
func TestSplitterAgainstResticsChunker(t *testing.T) {
	data := noise(7, 1<<20)
	clear(data[300<<10 : 350<<10])
	rapid.Check(t, func(t *rapid.T) {
		p := chunk.Params{Pol: testPol}
		p.Min = rapid.IntRange(64, 20<<10).Draw(t, "min")
		p.Max = rapid.IntRange(p.Min, 200<<10).Draw(t, "max")
		p.AvgBits = rapid.IntRange(9, 15).Draw(t, "bits") // up to 16 cuts in a round
		rest := data[rapid.IntRange(0, len(data)-1).Draw(t, "from"):]
		base := resticchunker.NewBase(p.Pol, resticchunker.WithBaseBoundaries(uint(p.Min), uint(p.Max)), resticchunker.WithBaseAverageBits(p.AvgBits))
		next, inMemory := chunk.NewSplitter(bytes.NewReader(rest), p), chunk.NewSplitter(nil, p)
		var buf []byte
		for len(rest) > 0 {
			want := base.NextSplitPoint(rest)
			if want < 0 {
				want = len(rest)
			}
			if n := inMemory.Split(rest); n != want {
				t.Fatalf("Split: %d, want %d", n, want)
			}
			var err error
			if buf, err = next.Next(buf); err != nil || !bytes.Equal(buf, rest[:want]) {
				t.Fatalf("Next: %d bytes, %v, want %d", len(buf), err, want)
			}
			rest = rest[want:]
		}
	})
}

// shortReader reads as many bytes at a time as it likes, none included.
type shortReader struct {
	r   io.Reader
	rnd *rand.Rand
}

func (s shortReader) Read(p []byte) (int, error) {
	return s.r.Read(p[:min(len(p), s.rnd.IntN(3)*s.rnd.IntN(400))])
}

func TestSplitterAgainstReference(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := chunk.Params{Pol: testPol}
		p.Min = rapid.IntRange(64, 300).Draw(t, "min")
		p.Max = rapid.IntRange(p.Min, 1200).Draw(t, "max")
		p.AvgBits = rapid.IntRange(1, 9).Draw(t, "bits")
		seed := rapid.Uint64Range(0, 1<<16).Draw(t, "seed")
		data := noise(seed, 10*p.Max-rapid.IntRange(0, 10*p.Max).Draw(t, "less"))
		// Runs of one byte have fingerprints of their own.
		if n := rapid.IntRange(0, len(data)).Draw(t, "zeros"); n > 0 {
			clear(data[len(data)/2 : min(len(data)/2+n, len(data))])
		}

		var want [][]byte // 20 on average
		for rest := data; len(rest) > 0; {
			n := referenceCut(p, rest)
			want, rest = append(want, rest[:n]), rest[n:]
		}

		s := chunk.NewSplitter(nil, p)
		var got [][]byte
		for rest := data; len(rest) > 0; {
			n := s.Split(rest)
			got, rest = append(got, rest[:n]), rest[n:]
		}
		sameChunks(t, "Split", got, want)

		readers := map[string]func(io.Reader) io.Reader{
			"whole":          func(r io.Reader) io.Reader { return r },
			"one byte":       iotest.OneByteReader,
			"data with EOF":  iotest.DataErrReader,
			"one, with EOF":  func(r io.Reader) io.Reader { return iotest.DataErrReader(iotest.OneByteReader(r)) },
			"short and none": func(r io.Reader) io.Reader { return shortReader{r, rand.New(rand.NewPCG(seed, 0))} },
		}
		var buf []byte
		if rapid.Bool().Draw(t, "buffer") {
			buf = make([]byte, rapid.IntRange(0, 1500).Draw(t, "capacity"))
		}
		for name, wrap := range readers {
			s.Reset(wrap(bytes.NewReader(data)))
			got := [][]byte{}
			for {
				c, err := s.Next(buf)
				if err == io.EOF {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, bytes.Clone(c))
				s.Split(data) // does not disturb
			}
			sameChunks(t, name, got, want)
		}
	})
}

func sameChunks(t *rapid.T, name string, got, want [][]byte) {
	if !slices.EqualFunc(got, want, bytes.Equal) {
		t.Fatalf("%s: cut into %v, want %v", name, lengths(got), lengths(want))
	}
}

func lengths(chunks [][]byte) (n []int) {
	for _, c := range chunks {
		n = append(n, len(c))
	}
	return n
}

// The cuts of the format: if these change, nothing deduplicates against what
// was stored before.
func TestSplitterGolden(t *testing.T) {
	// Zeros, of which every window has the fingerprint 0, are cut at Min, and
	// other runs at Max.
	data := slices.Concat(noise(42, 1_500_000), make([]byte, 300_000), bytes.Repeat([]byte{1}, 1_500_000), noise(43, 700_000))
	want := []int{180329, 349052, 550606, 255196, 164881, 131072, 131072, 1048576, 609822, 368695, 210699}
	s := chunk.NewSplitter(bytes.NewReader(data), chunk.DefaultParams(testPol))
	got := lengths(readAll(t, s, nil))
	if !slices.Equal(got, want) {
		t.Errorf("cut into %v, want %v", got, want)
	}
}

// A byte put in front moves one cut and leaves the others at their content.
func TestSplitterResynchronises(t *testing.T) {
	data := noise(1, 8<<20)
	p := chunk.DefaultParams(testPol)
	old := readAll(t, chunk.NewSplitter(bytes.NewReader(data), p), nil)
	new := readAll(t, chunk.NewSplitter(io.MultiReader(strings.NewReader("x"), bytes.NewReader(data)), p), nil)
	known := make(map[string]bool)
	for _, c := range old {
		known[string(c)] = true
	}
	reused := 0
	for _, c := range new {
		if known[string(c)] {
			reused++
		}
	}
	if len(old) < 15 || reused < len(old)-4 {
		t.Errorf("%d of %d chunks found again", reused, len(old))
	}
}

func TestSplitterReadsInPlace(t *testing.T) {
	p := chunk.DefaultParams(testPol)
	buf := make([]byte, p.Max)
	s := chunk.NewSplitter(bytes.NewReader(noise(1, 8<<20)), p)
	for n := 0; ; n++ {
		c, err := s.Next(buf)
		if err == io.EOF {
			if n < 10 {
				t.Errorf("%d chunks", n)
			}
			break
		}
		if err != nil || &c[0] != &buf[0] {
			t.Fatalf("chunk %d: %v, moved %v", n, err, &c[0] != &buf[0])
		}
	}
	// A small buffer is replaced by one of at most Max.
	s.Reset(bytes.NewReader(noise(1, 8<<20)))
	for buf := make([]byte, 10); ; {
		c, err := s.Next(buf)
		if err == io.EOF {
			break
		}
		if cap(c) > p.Max {
			t.Fatalf("a chunk of %d bytes has a capacity of %d", len(c), cap(c))
		}
		buf = c
	}
}

// Most files are shorter than Min: they cost no table, no hashing, no memory.
func TestSplitterShort(t *testing.T) {
	p := chunk.DefaultParams(testPol)
	s := chunk.NewSplitter(nil, p)
	buf := make([]byte, p.Max)
	r := bytes.NewReader(nil)
	for _, n := range []int{0, 1, 63, 64, 65, p.Min - 1, p.Min} {
		data := noise(1, n)
		if allocs := testing.AllocsPerRun(10, func() {
			r.Reset(data)
			s.Reset(r)
			c, err := s.Next(buf)
			if n > 0 && (err != nil || !bytes.Equal(c, data)) {
				t.Errorf("%d bytes: chunk of %d, %v", n, len(c), err)
				err = nil
			} else if n > 0 {
				_, err = s.Next(buf)
			}
			if err != io.EOF {
				t.Errorf("%d bytes: %v at the end", n, err)
			}
			if s.Split(data) != n {
				t.Errorf("%d bytes: Split cuts at %d", n, s.Split(data))
			}
		}); allocs > 0 {
			t.Errorf("%d bytes: %v allocations", n, allocs)
		}
	}
}

func TestSplitterReadError(t *testing.T) {
	broken := errors.New("broken")
	p := chunk.DefaultParams(testPol)
	data := noise(1, 3<<20)
	whole := readAll(t, chunk.NewSplitter(bytes.NewReader(data), p), nil)
	for _, at := range []int{0, 1, 100_000, 1 << 20, 3<<20 - 1, 3 << 20} {
		s := chunk.NewSplitter(io.MultiReader(bytes.NewReader(data[:at]), iotest.ErrReader(broken)), p)
		n, total := 0, 0
		var err error
		for {
			var c []byte
			if c, err = s.Next(nil); err != nil {
				break
			}
			if !bytes.Equal(c, whole[n]) {
				t.Fatalf("error at %d: chunk %d is not what the whole stream has", at, n)
			}
			n++
			total += len(c)
		}
		if err != broken || total > at || total < at-p.Max {
			t.Errorf("error at %d: %v after %d bytes", at, err, total)
		}
		if _, err := s.Next(nil); err != broken {
			t.Errorf("error at %d: then %v", at, err)
		}
		s.Reset(bytes.NewReader(data))
		if got := readAll(t, s, nil); !slices.EqualFunc(got, whole, bytes.Equal) {
			t.Errorf("error at %d: after Reset cut into %v, want %v", at, lengths(got), lengths(whole))
		}
	}
	s := chunk.NewSplitter(shortReader{bytes.NewReader(data), rand.New(rand.NewPCG(0, 0))}, p)
	readAll(t, s, nil)
	s.Reset(noProgress{})
	if _, err := s.Next(nil); err != io.ErrNoProgress {
		t.Errorf("a reader that reads nothing: %v", err)
	}
}

type noProgress struct{}

func (noProgress) Read([]byte) (int, error) { return 0, nil }

func TestParamsValidate(t *testing.T) {
	good := chunk.DefaultParams(testPol)
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
	for name, spoil := range map[string]func(*chunk.Params){
		"no polynomial": func(p *chunk.Params) { p.Pol = 0 },
		"degree":        func(p *chunk.Params) { p.Pol = 1<<54 | 1 },
		"min":           func(p *chunk.Params) { p.Min = 63 },
		"max":           func(p *chunk.Params) { p.Max = p.Min - 1 },
		"large":         func(p *chunk.Params) { p.Max = chunk.MaxSize + 1 },
		"bits":          func(p *chunk.Params) { p.AvgBits = 0 },
		"many bits":     func(p *chunk.Params) { p.AvgBits = 25 },
	} {
		p := good
		spoil(&p)
		if p.Validate() == nil {
			t.Errorf("%s: %+v passes", name, p)
		}
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: a Splitter was made", name)
				}
			}()
			chunk.NewSplitter(nil, p)
		}()
	}
}

func TestDerivePol(t *testing.T) {
	xof := func(seed string) io.Reader {
		h := blake3.NewDeriveKey("wtsnap test chunker polynomial")
		fmt.Fprint(h, seed)
		return h.Digest()
	}
	got, err := chunk.DerivePol(xof("1"))
	if err != nil || got != testPol || !got.Irreducible() {
		t.Errorf("%v, %v, want %v", got, err, testPol)
	}
	if other, err := chunk.DerivePol(xof("2")); err != nil || other == got {
		t.Errorf("another stream gives %v, %v", other, err)
	}
	if _, err := chunk.DerivePol(strings.NewReader("1234567")); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a stream of seven bytes: %v", err)
	}
}
