package chunk_test

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/zeebo/blake3"

	"github.com/whole-tale/wtsnap/chunk"
)

// noise returns n bytes that do not compress, the same for the same seed.
func noise(seed uint64, n int) []byte {
	key := [32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16), 'n'}
	b := make([]byte, n)
	rand.NewChaCha8(key).Read(b)
	return b
}

// The reference implementation's test vectors
// (github.com/BLAKE3-team/BLAKE3, test_vectors.json): keyed_hash of the first n
// bytes of 0, 1, ..., 250, 0, 1, ...
func TestHasherVectors(t *testing.T) {
	var key [32]byte
	copy(key[:], "whats the Elvish word for friend")
	h := chunk.NewHasher(key)
	for _, v := range []struct {
		n    int
		want string
	}{
		{0, "92b2b75604ed3c761f9d6f62392c8a9227ad0ea3f09573e783f1498a4ed60d26"},
		{1, "6d7878dfff2f485635d39013278ae14f1454b8c0a3a2d34bc1ab38228a80c95b"},
		{1024, "75c46f6f3d9eb4f55ecaaee480db732e6c2105546f1e675003687c31719c7ba4"},
	} {
		in := make([]byte, v.n)
		for i := range in {
			in[i] = byte(i % 251)
		}
		for range 2 { // the second time with a used hasher
			if got := h.Sum(in).String(); got != v.want {
				t.Errorf("%d bytes: %s, want %s", v.n, got, v.want)
			}
		}
	}
}

func TestHasherKeyed(t *testing.T) {
	p := noise(1, 100_000)
	a, b := chunk.NewHasher([32]byte{1}).Sum(p), chunk.NewHasher([32]byte{2}).Sum(p)
	if a == b || a == blake3.Sum256(p) {
		t.Errorf("the key does not matter: %v, %v", a, b)
	}
}

func TestHasherAllocs(t *testing.T) {
	h := chunk.NewHasher([32]byte{1})
	p := noise(1, 10_000)
	if n := testing.AllocsPerRun(100, func() { h.Sum(p) }); n >= 1 {
		t.Errorf("%v allocations a hash", n)
	}
}

func TestParseID(t *testing.T) {
	id := chunk.NewHasher([32]byte{}).Sum([]byte("x"))
	got, err := chunk.ParseID(id.String())
	if err != nil || got != id || id.IsZero() || !strings.HasPrefix(id.String(), id.Short()) || len(id.Short()) != 8 {
		t.Errorf("%v (%s) came back as %v, %v", id, id.Short(), got, err)
	}
	s := id.String()
	for _, bad := range []string{"", s[:62], s + "00", strings.ToUpper(s[:63]) + "A", "g" + s[1:], " " + s[1:]} {
		if got, err := chunk.ParseID(bad); err == nil || !got.IsZero() {
			t.Errorf("ParseID(%q) = %v, %v", bad, got, err)
		}
	}
}

func BenchmarkHasher(b *testing.B) {
	h := chunk.NewHasher([32]byte{1})
	for _, n := range []int{512, 8 << 10, 384 << 10} {
		p := noise(1, n)
		b.Run(sizeName(n), func(b *testing.B) {
			b.SetBytes(int64(n))
			b.ReportAllocs()
			for b.Loop() {
				h.Sum(p)
			}
		})
	}
}
