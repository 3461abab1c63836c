package index

import (
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/whole-tale/wtsnap/chunk"
)

// Limits of the format. What exceeds them is refused when it is written and
// when it is read.
const (
	MaxPackSize  = 64 << 20      // bytes of a pack file
	MaxFrameSize = chunk.MaxSize // bytes of plaintext of a frame, hence of a blob
	MaxBases     = 255           // bases of a delta frame
)

// Key is the first half of a chunk.ID, and stands for it in the index: half the
// memory, and half the bytes of a segment. Among n blobs, two share a key with
// probability n^2/2^129, which is 10^-20 for 2^31 blobs. Whoever reads a blob
// hashes it and compares the whole id, so a collision would be an error, never
// wrong content.
type Key [16]byte

// KeyOf returns the key of the blob named id.
func KeyOf(id chunk.ID) Key { return Key(id[:16]) }

// String returns the key in hex.
func (k Key) String() string { return hex.EncodeToString(k[:]) }

// Kind tells the packs of content from those of trees, which the cache mirrors.
// Its values are part of the format.
type Kind uint8

const (
	Data Kind = 1
	Tree Kind = 2
)

// String returns the kind's name.
func (k Kind) String() string {
	switch k {
	case Data:
		return "data"
	case Tree:
		return "tree"
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// PackID names a pack: the BLAKE3-256 hash, without a key, of the pack file.
type PackID [32]byte

// String returns the id as 64 lower-case hex digits.
func (id PackID) String() string { return hex.EncodeToString(id[:]) }

// ParsePackID reads what String wrote.
func ParsePackID(s string) (PackID, error) {
	var id PackID
	return id, parseHex(id[:], s, "pack")
}

// SegmentID names a segment: the name of its file.
type SegmentID [16]byte

// String returns the id as 32 lower-case hex digits.
func (id SegmentID) String() string { return hex.EncodeToString(id[:]) }

// ParseSegmentID reads what String wrote.
func ParseSegmentID(s string) (SegmentID, error) {
	var id SegmentID
	return id, parseHex(id[:], s, "index segment")
}

// parseHex sets id to the bytes that s spells in lower-case hex, or leaves it
// zero.
func parseHex(id []byte, s, what string) error {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(id) || hex.EncodeToString(b) != s {
		return fmt.Errorf("parse %s id %q: want %d lower-case hex digits", what, s, 2*len(id))
	}
	copy(id, b)
	return nil
}

// Blob is a blob's entry in a frame.
type Blob struct {
	Key  Key
	Size uint32 // bytes of plaintext
}

// Frame is a sealed run of blobs in a pack. Its plaintext is that of its blobs,
// end to end. The frames of a pack lie end to end too, from offset 0.
type Frame struct {
	Offset   uint32 // of the sealed bytes in the pack
	Length   uint32 // sealed bytes
	Encoding chunk.Encoding
	// Bases are the blobs that a ZstdDelta frame was encoded against, their plaintext end to end. A Patched frame has
	// equally many for each of its blobs, in their order; a base that repeats the one before is none. Others have none.
	Bases []Key
	Blobs []Blob // at least one
}

// Size returns the bytes of the frame's plaintext.
func (f *Frame) Size() uint32 {
	var n uint32
	for _, b := range f.Blobs {
		n += b.Size
	}
	return n
}

// Pack is a pack's entry in a segment.
type Pack struct {
	ID     PackID
	Kind   Kind
	Size   int64   // bytes of the file: the frames, the directory, padding
	Hash   string  // as the backend reports it, "sha1:" and lower-case hex; "" where it reports none
	Frames []Frame // at least one
}

// Validate reports the first reason why p cannot be stored: a *FormatError.
func (p *Pack) Validate() error {
	switch {
	case p.Kind != Data && p.Kind != Tree:
		return invalid("pack %v has unknown %v", p.ID, p.Kind)
	case p.Size < 0 || p.Size > MaxPackSize:
		return invalid("pack %v has a size of %d bytes, the limit is %d", p.ID, p.Size, MaxPackSize)
	}
	if _, _, err := splitHash(p.Hash); err != nil {
		return invalid("pack %v: %v", p.ID, err)
	}
	end, err := validateFrames(p.Frames)
	if err != nil {
		return invalid("pack %v: %v", p.ID, err)
	}
	if p.Size < int64(end) {
		return invalid("pack %v has frames of %d bytes in a file of %d", p.ID, end, p.Size)
	}
	return nil
}

// validateFrames checks the frames of a pack and returns where the last one
// ends.
func validateFrames(frames []Frame) (end uint32, err error) {
	if len(frames) == 0 {
		return 0, fmt.Errorf("no frames")
	}
	for i := range frames {
		f := &frames[i]
		switch {
		case f.Offset != end:
			return 0, fmt.Errorf("frame %d is at offset %d, not at the end of the one before, %d", i, f.Offset, end)
		case f.Length == 0 || f.Length > MaxPackSize-end:
			return 0, fmt.Errorf("frame %d at offset %d has a length of %d bytes", i, f.Offset, f.Length)
		case f.Encoding > chunk.Patched:
			return 0, fmt.Errorf("frame %d has unknown %v", i, f.Encoding)
		case (f.Encoding >= chunk.ZstdDelta) != (len(f.Bases) > 0) || len(f.Bases) > MaxBases:
			return 0, fmt.Errorf("frame %d is %v with %d bases", i, f.Encoding, len(f.Bases))
		case len(f.Blobs) == 0:
			return 0, fmt.Errorf("frame %d has no blobs", i)
		case f.Encoding == chunk.Patched && len(f.Bases)%len(f.Blobs) != 0:
			return 0, fmt.Errorf("frame %d is %v of %d blobs with %d bases", i, f.Encoding, len(f.Blobs), len(f.Bases))
		}
		var size uint32
		for _, b := range f.Blobs {
			if b.Size > MaxFrameSize-size {
				return 0, fmt.Errorf("frame %d has more than %d bytes of plaintext", i, MaxFrameSize)
			}
			size += b.Size
		}
		end += f.Length
	}
	return end, nil
}

const (
	maxHashName   = 32 // bytes of a hash's name
	maxHashDigest = 64 // bytes of its digest
)

// splitHash returns the parts of Pack.Hash.
func splitHash(s string) (name string, digest []byte, err error) {
	if s == "" {
		return "", nil, nil
	}
	name, text, ok := strings.Cut(s, ":")
	digest, err = hex.DecodeString(text)
	if !ok || err != nil || !validHash(name, digest) || hex.EncodeToString(digest) != text {
		return "", nil, fmt.Errorf("backend's hash %q is not a name, a colon and lower-case hex digits", s)
	}
	return name, digest, nil
}

func validHash(name string, digest []byte) bool {
	return name != "" && len(name) <= maxHashName && len(digest) > 0 && len(digest) <= maxHashDigest &&
		strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

func joinHash(name string, digest []byte) string {
	if name == "" {
		return ""
	}
	return name + ":" + hex.EncodeToString(digest)
}

// FormatError says that something is not a directory or a segment of a format
// that this version knows, or could not be written as one.
type FormatError struct {
	What   string // "pack directory", "index segment", or "" for what was to be written
	Offset int    // in bytes, where it was noticed; 0 for what was to be written
	Reason string
}

func (e *FormatError) Error() string {
	if e.What == "" {
		return "invalid index entry: " + e.Reason
	}
	return fmt.Sprintf("%s, offset %d: %s", e.What, e.Offset, e.Reason)
}

func invalid(format string, args ...any) error {
	return &FormatError{Reason: fmt.Sprintf(format, args...)}
}
