// Package chunk turns bytes into chunks and back: where a stream is cut
// (Splitter), what a chunk is called (Hasher, ID), and in which form it is
// stored (Codec).
//
// Invariants:
//
//   - The cuts depend on the content and the Params alone, never on how the
//     bytes arrived: Splitter.Next and Splitter.Split agree on every input.
//   - An ID names plaintext. How the plaintext was compressed, or which base it
//     was a delta against, does not enter into it.
//   - Decode yields exactly the number of bytes it was asked for, or an error,
//     and allocates no more than that whatever the input claims.
//
// The package does no I/O of its own and keeps no package state. The bytes are
// specified in docs/format.md.
package chunk

import (
	"encoding/hex"
	"fmt"
	"sync"

	"github.com/zeebo/blake3"
)

// MaxSize is the largest chunk, in bytes, that Params may allow.
const MaxSize = 16 << 20

// ID names a blob: the keyed BLAKE3-256 hash of its plaintext. The key makes
// ids of different repositories unrelated, so that ids say nothing about
// content to whoever lacks the key.
type ID [32]byte

// String returns the id as 64 lower-case hex digits.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// Short returns the first 8 hex digits, for people.
func (id ID) Short() string { return hex.EncodeToString(id[:4]) }

// IsZero reports whether id is the zero value, which names no blob.
func (id ID) IsZero() bool { return id == ID{} }

// ParseID reads what String wrote. It takes lower-case digits only, so that an
// id has one spelling.
func ParseID(s string) (ID, error) {
	var id ID
	if b, err := hex.DecodeString(s); err == nil && len(b) == len(id) {
		copy(id[:], b)
		if id.String() == s {
			return id, nil
		}
	}
	return ID{}, fmt.Errorf("parse blob id %q: want %d lower-case hex digits", s, 2*len(id))
}

// Hasher computes ids under one key. It may be used from several goroutines at
// once.
type Hasher struct {
	pool sync.Pool // of *blake3.Hasher: about 10 KiB each, too much to make per chunk
}

// NewHasher returns a Hasher for the given BLAKE3 key.
func NewHasher(key [32]byte) *Hasher {
	return &Hasher{pool: sync.Pool{New: func() any {
		h, err := blake3.NewKeyed(key[:])
		if err != nil {
			panic("chunk: " + err.Error()) // only for a key that is not 32 bytes
		}
		return h
	}}}
}

// Sum returns the id of the blob with plaintext p.
func (h *Hasher) Sum(p []byte) ID {
	b := h.pool.Get().(*blake3.Hasher)
	b.Reset()
	b.Write(p) // never fails, by its documentation
	var id ID
	b.Sum(id[:0])
	h.pool.Put(b)
	return id
}
