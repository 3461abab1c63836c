package repo

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/zeebo/blake3"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/index"
)

// A pack file is, from its start:
//
//	sealed frames, end to end
//	random bytes, so that the file's length is a Padmé length
//	the sealed directory: kind, then the frames' descriptions (index.AppendFrames)
//	the sealed trailer, trailerSize bytes: where the directory starts, how long it is
//
// Its name is the BLAKE3-256 of the file. Frames are bound to their own description (frameAD), not to
// their place: a frame can be copied from pack to pack as it is.
const (
	// packBytes is the length at which a pack is closed. Box switches to chunked uploads above 50 MiB;
	// memory holds a pack a writer.
	packBytes   = 16 << 20
	trailerSize = Overhead + 8
)

const packsDir = "packs/"

func packName(id index.PackID) string {
	s := id.String()
	return packsDir + s[:1] + "/" + s
}

// frameAD describes a frame: its kind, its encoding, its bases and its blobs. Sealed with it, a frame
// opens only as what the directory and the index say that it is.
func frameAD(dst []byte, kind index.Kind, f *index.Frame) []byte {
	dst = append(dst, objectVersion)
	dst = append(dst, "wtsnap frame\x00"...)
	dst = append(dst, byte(kind), byte(f.Encoding))
	dst = binary.AppendUvarint(dst, uint64(len(f.Bases)))
	for _, b := range f.Bases {
		dst = append(dst, b[:]...)
	}
	dst = binary.AppendUvarint(dst, uint64(len(f.Blobs)))
	for _, b := range f.Blobs {
		dst = append(dst, b.Key[:]...)
		dst = binary.AppendUvarint(dst, uint64(b.Size))
	}
	return dst
}

func directoryAD() []byte { return append([]byte{objectVersion}, "wtsnap directory\x00"...) }
func trailerAD() []byte   { return append([]byte{objectVersion}, "wtsnap trailer\x00"...) }

// packBuilder collects sealed frames of one kind. One goroutine at a time.
type packBuilder struct {
	kind   index.Kind
	buf    []byte
	frames []index.Frame
	blobs  int // in the frames, with their bases
}

// addSealed appends a frame that is sealed already, as it lies in another pack or builder.
func (b *packBuilder) addSealed(f index.Frame, sealed []byte) {
	f.Offset, f.Length = uint32(len(b.buf)), uint32(len(sealed))
	b.buf = append(b.buf, sealed...)
	b.frames = append(b.frames, f)
	b.blobs += len(f.Blobs) + len(f.Bases)
}

// room is how many bytes a frame and its line in the directory may have for the file to stay within
// packBytes.
func (b *packBuilder) room() int {
	return packBytes - len(b.buf) - len(b.frames)*frameLine - b.blobs*blobLine - 64 - 2*Overhead - trailerSize
}

// planned is what the frames take, with their lines in the directory: what shelf.place counted.
func (b *packBuilder) planned() int64 {
	return int64(len(b.buf) + len(b.frames)*frameLine + b.blobs*blobLine)
}

// frameRoom is what a sealed frame takes of a pack's room.
func frameRoom(f *index.Frame, sealed int) int {
	return sealed + frameLine + (len(f.Blobs)+len(f.Bases))*blobLine
}

// frameLine and blobLine are what a frame and a blob, or a base, take in a directory in bytes at most.
const (
	frameLine = 4 + 2 + 3 + 2
	blobLine  = 16 + 4
)

// absorb moves all of o's frames to the end of b.
func (b *packBuilder) absorb(o *packBuilder) {
	for _, f := range o.frames {
		b.addSealed(f, o.buf[f.Offset:f.Offset+f.Length])
	}
	o.buf, o.frames, o.blobs = o.buf[:0], o.frames[:0], 0
}

// finish completes the file and returns its description. The file's bytes are b.buf.
func (b *packBuilder) finish(k *keys) (index.Pack, error) {
	plain, err := index.AppendFrames([]byte{byte(b.kind)}, b.frames)
	if err != nil {
		return index.Pack{}, err
	}
	directory, err := k.seal(nil, plain, directoryAD())
	if err != nil {
		return index.Pack{}, err
	}
	size := len(b.buf) + len(directory) + trailerSize
	if pad := padme(size) - size; pad > 0 {
		n := len(b.buf)
		b.buf = append(b.buf, make([]byte, pad)...)
		if _, err := io.ReadFull(rand.Reader, b.buf[n:]); err != nil {
			return index.Pack{}, fmt.Errorf("reading random bytes: %w", err)
		}
	}
	var where [8]byte
	binary.LittleEndian.PutUint32(where[:4], uint32(len(b.buf)))
	binary.LittleEndian.PutUint32(where[4:], uint32(len(directory)))
	b.buf = append(b.buf, directory...)
	if b.buf, err = k.seal(b.buf, where[:], trailerAD()); err != nil {
		return index.Pack{}, err
	}
	return index.Pack{ID: packID(b.buf), Kind: b.kind, Size: int64(len(b.buf)), Frames: b.frames}, nil
}

func packID(file []byte) index.PackID { return index.PackID(blake3.Sum256(file)) }

// openTrailer returns the place of the directory in a pack file of size bytes.
func openTrailer(k *keys, sealed []byte, size int64) (offset, length int64, err error) {
	plain, err := k.open(nil, sealed, trailerAD())
	if err != nil {
		return 0, 0, fmt.Errorf("the trailer: %w", err)
	}
	if len(plain) != 8 {
		return 0, 0, fmt.Errorf("the trailer has %d bytes, not 8", len(plain))
	}
	offset = int64(binary.LittleEndian.Uint32(plain[:4]))
	length = int64(binary.LittleEndian.Uint32(plain[4:]))
	if length < Overhead+1 || offset+length+trailerSize != size {
		return 0, 0, fmt.Errorf("the trailer says that the directory has %d bytes from %d on, the pack has %d", length, offset, size)
	}
	return offset, length, nil
}

// openDirectory decodes a sealed directory that starts at offset.
func openDirectory(k *keys, sealed []byte, offset int64) (index.Kind, []index.Frame, error) {
	plain, err := k.open(nil, sealed, directoryAD())
	if err != nil {
		return 0, nil, fmt.Errorf("the directory: %w", err)
	}
	if len(plain) == 0 {
		return 0, nil, fmt.Errorf("the directory is empty")
	}
	kind := index.Kind(plain[0])
	if kind != index.Data && kind != index.Tree {
		return 0, nil, fmt.Errorf("the directory names the unknown kind %d", kind)
	}
	frames, err := index.DecodeFrames(plain[1:])
	if err != nil {
		return 0, nil, fmt.Errorf("the directory: %w", err)
	}
	if n := len(frames); n > 0 && int64(frames[n-1].Offset)+int64(frames[n-1].Length) > offset {
		return 0, nil, fmt.Errorf("the directory describes frames beyond its own start")
	}
	return kind, frames, nil
}

// openFrame decrypts and decodes a frame and appends its plaintext, all blobs end to end, to dst.
// The blobs' hashes are the caller's to verify.
func openFrame(k *keys, kind index.Kind, f *index.Frame, sealed, base []byte, s *frameScratch) ([]byte, error) {
	if err := openSealed(k, kind, f, sealed, s); err != nil {
		return nil, err
	}
	return decodeStored(k, f, base, s)
}

// openSealed decrypts a frame into s.
func openSealed(k *keys, kind index.Kind, f *index.Frame, sealed []byte, s *frameScratch) error {
	s.ad = frameAD(s.ad[:0], kind, f)
	stored, err := k.open(s.stored[:0], sealed, s.ad)
	if err == nil {
		s.stored = stored
	}
	return err
}

// decodeStored decodes what openSealed has decrypted.
func decodeStored(k *keys, f *index.Frame, base []byte, s *frameScratch) (_ []byte, err error) {
	s.plain, err = k.codec.Decode(s.plain[:0], s.stored, f.Encoding, base, int(f.Size()))
	return s.plain, err
}

// frameScratch holds the buffers of one reading goroutine.
type frameScratch struct {
	ad, stored, plain []byte
	sums              []chunk.ID // of the blobs in plain, once they are verified
	sizes             []uint32
}
