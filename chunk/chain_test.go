package chunk_test

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"github.com/whole-tale/wtsnap/chunk"
)

// A chain of any length makes what its patches make one after the other, and names the link that does not rest on what is
// below it.
func TestChain(t *testing.T) {
	codec := chunk.NewCodec(chunk.LevelDefault)
	link := func(next, text []byte) chunk.Link {
		var w chunk.PatchWriter
		w.Add(nil, text)
		w.Add(next, text)
		stored, _ := codec.EncodePatch(nil, &w)
		p, err := codec.DecodePatch(stored, []uint32{0, uint32(len(next))})
		if err != nil {
			t.Fatal(err)
		}
		return chunk.Link{Patch: p, Blob: 1}
	}
	old, _ := documents(3, 100_000, 10)
	text := old
	var links []chunk.Link
	var s chunk.Ropes
	for i := range 12 {
		next := slices.Clone(text)
		copy(next[7000*i:], noise(uint64(i), 100))
		next = slices.Insert(next, 5000*i, noise(uint64(i+10), 50)...)
		next = slices.Delete(next, 3000*i, 3000*i+300)
		links, text = append([]chunk.Link{link(next, text)}, links...), next
		base, got := s.New(), s.New()
		for rest, n := old, len(old)/(1+i%3*100); len(rest) > 0; { // of few pieces, or many
			n = min(n, len(rest))
			base.Append(rest[:n])
			rest = rest[n:]
		}
		if _, err := s.Chain(got, links, base); err != nil || !bytes.Equal(got.AppendTo(nil), text) {
			t.Fatalf("%d links: %v, or something else than one after the other", len(links), err)
		}
		s.Free(got)
		s.Free(base)
	}
	for bad := range links {
		broken := slices.Clone(links)
		base, got := s.New(), s.New()
		base.Append(old)
		if bad+1 < len(links) {
			broken[bad+1] = link(old[:1000], text)
		} else {
			base.Reset()
			base.Append(old[:1000])
		}
		if at, err := s.Chain(got, broken, base); at != bad && at != bad+1 || !errors.Is(err, chunk.ErrCorrupt) {
			t.Errorf("link %d, told of %d: %v", bad, at, err)
		}
		s.Free(got)
		s.Free(base)
		s.Reset()
	}
}
