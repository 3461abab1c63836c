package chunk_test

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/whole-tale/wtsnap/chunk"
)

// records returns about n bytes like those of a collection: documents with the same fields, each with a random id and
// numbers, and few texts.
func records(seed uint64, n int) (b []byte) {
	r := rand.New(rand.NewPCG(seed, 4))
	for len(b) < n {
		b = append(b, "\xd0\x00\x00\x00\x07_id\x00"...)
		b = binary.LittleEndian.AppendUint64(b, r.Uint64())
		b = binary.LittleEndian.AppendUint32(b, r.Uint32())
		b = append(b, "\x02name\x00\x09\x00\x00\x00readme.md\x00\x10size\x00"...)
		b = binary.LittleEndian.AppendUint32(b, r.Uint32N(1<<20))
		b = append(b, "\x07itemId\x00"...)
		b = binary.LittleEndian.AppendUint64(b, r.Uint64())
		b = append(b, "\x00\x00\x00\x00\x02mimeType\x00\x0b\x00\x00\x00text/plain\x00\x08public\x00\x01\x00"...)
	}
	return b[:n]
}

// A stream is compressed at the level that suits it, and never takes more than the default level makes of it.
func TestEffort(t *testing.T) {
	regular, fastest := chunk.NewCodec(chunk.LevelDefault), chunk.NewCodec(chunk.LevelFastest)
	const size, blobs = 300_000, 60
	for name, c := range map[string]struct {
		make func(seed uint64, n int) []byte
		like *chunk.Codec // what the last blobs are compressed as
	}{
		"records": {records, fastest},
		"text":    {text, regular},
	} {
		var e chunk.Effort
		sum, want := 0, 0
		for i := range blobs {
			data := c.make(uint64(i), size)
			stored, enc := regular.EncodeLike([]byte("front"), data, &e)
			if !bytes.HasPrefix(stored, []byte("front")) {
				t.Fatalf("%s: EncodeLike overwrote dst", name)
			}
			stored = stored[5:]
			got, err := regular.Decode(nil, stored, enc, nil, size)
			if err != nil || !bytes.Equal(got, data) {
				t.Fatalf("%s: blob %d: %d bytes, %v", name, i, len(got), err)
			}
			plain, _ := regular.Encode(nil, data)
			sum, want = sum+len(stored), want+len(plain)
			if i < 4 && !bytes.Equal(stored, plain) {
				t.Errorf("%s: blob %d is compressed otherwise than it is without a stream", name, i)
			}
			if i < blobs-4 {
				continue
			}
			if like, _ := c.like.Encode(nil, data); !bytes.Equal(stored, like) {
				t.Errorf("%s: blob %d has %d bytes, at the right level it has %d", name, i, len(stored), len(like))
			}
		}
		if sum > want+want/400 {
			t.Errorf("%s: %d bytes, and %d at the default level", name, sum, want)
		}
	}
}

// A stream that changes is compressed otherwise soon after.
func TestEffortChanges(t *testing.T) {
	regular := chunk.NewCodec(chunk.LevelDefault)
	var e chunk.Effort
	for i := range 120 {
		kind := records
		if i >= 40 {
			kind = text
		}
		data := kind(uint64(i), 200_000)
		stored, _ := regular.EncodeLike(nil, data, &e)
		if plain, _ := regular.Encode(nil, data); i >= 110 && !bytes.Equal(stored, plain) {
			t.Errorf("blob %d has %d bytes, at the right level it has %d", i, len(stored), len(plain))
		}
	}
}

// At other levels than the default one, and without compression, an Effort changes nothing.
func TestEffortOfOtherLevels(t *testing.T) {
	eachLevel(func(l chunk.Level, c *chunk.Codec) {
		if l == chunk.LevelDefault {
			return
		}
		var e chunk.Effort
		for i := range 10 {
			data := records(uint64(i), 50_000)
			stored, enc := c.EncodeLike(nil, data, &e)
			if want, wantEnc := c.Encode(nil, data); enc != wantEnc || !bytes.Equal(stored, want) {
				t.Errorf("%v: blob %d is stored otherwise", l, i)
			}
		}
	})
}
