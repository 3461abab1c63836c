package reader

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"

	"github.com/zeebo/blake3"
)

const (
	kindData = 1
	kindTree = 2

	maxPack  = 64 << 20
	maxFrame = 16 << 20
	maxChain = 64
	maxHeld  = 256 << 20 // of decoded frames
)

// A key is the first half of a blob's id.
type key [16]byte

// A frame lies in a pack, and holds blobs.
type frame struct {
	pack     string
	kind     byte
	offset   int64
	length   uint64 // sealed
	encoding uint64
	keys     []key
	sizes    []uint64
	bases    []key
}

// A place is where a blob is.
type place struct {
	frame *frame
	nth   int
}

// LoadIndex learns from the index segments where every blob is.
func (r *Repository) LoadIndex() error {
	names, err := r.names("index")
	if err != nil {
		return err
	}
	r.blobs = map[key]place{}
	for _, name := range names {
		content, err := r.object(name, 64<<20)
		if err == nil {
			err = r.segment(content)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func (r *Repository) segment(content []byte) error {
	in := input{rest: content}
	if in.byte() != 1 {
		return errors.New("an index segment of another version")
	}
	var listed numbering
	for range in.count() {
		pack, kind := hex.EncodeToString(in.bytes(32)), in.byte()
		if n := in.uvarint(); n > 0 { // the backend's hash: its name and the digest
			in.bytes(n)
			in.bytes(in.uvarint())
		}
		in.uvarint() // what the file has besides frames
		r.add(pack, kind, &in, &listed)
	}
	return in.end()
}

// LoadDirectories learns the same from the packs themselves, without the index.
func (r *Repository) LoadDirectories() error {
	names, err := r.names("packs")
	if err != nil {
		return err
	}
	r.blobs = map[key]place{}
	for _, name := range names {
		if err := r.directory(name); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func (r *Repository) directory(name string) error {
	file, err := os.ReadFile(filepath.Join(r.dir, filepath.FromSlash(name)))
	if err != nil {
		return err
	}
	sum := blake3.Sum256(file)
	if id := path.Base(name); id != hex.EncodeToString(sum[:]) || name != "packs/"+id[:1]+"/"+id {
		return errors.New("the name is not the hash of the content")
	}
	const sealedTrailer = 24 + 8 + 16
	if len(file) < sealedTrailer {
		return errors.New("too short for a pack")
	}
	trailer, err := r.unsealAs("wtsnap trailer", nil, file[len(file)-sealedTrailer:])
	if err != nil {
		return err
	}
	offset, length := uint64(binary.LittleEndian.Uint32(trailer)), uint64(binary.LittleEndian.Uint32(trailer[4:]))
	if offset+length > uint64(len(file)) {
		return errors.New("the trailer points outside of the pack")
	}
	directory, err := r.unsealAs("wtsnap directory", nil, file[offset:offset+length])
	if err != nil {
		return err
	}
	in := input{rest: directory}
	kind := in.byte()
	if in.byte() != 1 {
		return errors.New("a directory of another version")
	}
	r.add(path.Base(name), kind, &in, &numbering{})
	return in.end()
}

// A numbering has the blobs of a directory or a segment, by which bases are told.
type numbering struct {
	keys []key
	next int64
}

// add reads FRAMES.
func (r *Repository) add(pack string, kind byte, in *input, listed *numbering) {
	frames := make([]*frame, in.count())
	offset := int64(0)
	for i := range frames {
		frames[i] = &frame{pack: pack, kind: kind, offset: offset, length: in.uvarint()}
		if frames[i].length > maxPack {
			in.fail("a frame that is larger than a pack")
			return
		}
		offset += int64(frames[i].length)
	}
	for i, encoding := range in.runs(len(frames)) {
		frames[i].encoding = encoding
	}
	for i, blobs := range in.runs(len(frames)) {
		if blobs > uint64(len(in.rest)) {
			in.fail("counts more blobs than there are")
			return
		}
		frames[i].sizes = make([]uint64, blobs)
		frames[i].keys = make([]key, blobs)
	}
	for _, f := range frames {
		sum := uint64(0)
		for i := range f.sizes {
			f.sizes[i] = in.uvarint()
			if sum += f.sizes[i]; f.sizes[i] > maxFrame || sum > maxFrame {
				in.fail("a frame that holds too much")
				return
			}
		}
	}
	for _, f := range frames {
		for i := range f.keys {
			copy(f.keys[i][:], in.bytes(16))
			listed.keys = append(listed.keys, f.keys[i])
			r.blobs[f.keys[i]] = place{f, i}
		}
	}
	for _, f := range frames {
		if f.encoding >= 2 {
			f.bases = make([]key, in.count())
		}
		for i := range f.bases {
			f.bases[i] = in.base(listed)
		}
	}
}

// runs reads n values, each with how often it follows itself.
func (in *input) runs(n int) []uint64 {
	values := make([]uint64, 0, n)
	for len(values) < n && in.err == nil {
		v, times := in.uvarint(), in.uvarint()
		if times == 0 || times > uint64(n-len(values)) {
			in.fail("a run of a wrong length")
		}
		for range times {
			if in.err != nil {
				return make([]uint64, n)
			}
			values = append(values, v)
		}
	}
	return values
}

func (in *input) base(listed *numbering) key {
	v := in.uvarint()
	if v == 0 {
		var k key
		copy(k[:], in.bytes(16))
		return k
	}
	v--
	o := listed.next + (int64(v>>1) ^ -int64(v&1))
	if o < 0 || o >= int64(len(listed.keys)) {
		in.fail("a base that is not listed")
		return key{}
	}
	listed.next = o + 1
	return listed.keys[o]
}

// blob gives the content of the blob id of the kind.
func (r *Repository) blob(kind byte, id []byte) ([]byte, error) {
	var k key
	copy(k[:], id)
	plain, err := r.byKey(kind, k, 0)
	if err != nil {
		return nil, fmt.Errorf("blob %x: %w", id, err)
	}
	if string(r.hash(plain)) != string(id) {
		return nil, fmt.Errorf("blob %x: its content has another hash", id)
	}
	return plain, nil
}

func (r *Repository) hash(plain []byte) []byte {
	h, err := blake3.NewKeyed(r.blobKey)
	if err != nil {
		panic(err) // a key of 32 bytes
	}
	h.Write(plain)
	return h.Sum(nil)
}

func (r *Repository) byKey(kind byte, k key, depth int) ([]byte, error) {
	p, ok := r.blobs[k]
	switch {
	case !ok:
		return nil, fmt.Errorf("%x is in no pack", k)
	case p.frame.kind != kind:
		return nil, fmt.Errorf("%x is of another kind", k)
	case depth > maxChain:
		return nil, errors.New("too long a chain of deltas")
	}
	blobs, err := r.frameOf(p.frame, depth)
	if err != nil {
		return nil, fmt.Errorf("pack %s, at %d: %w", p.frame.pack[:8], p.frame.offset, err)
	}
	return blobs[p.nth], nil
}

// frameOf decodes a frame, or remembers it.
func (r *Repository) frameOf(f *frame, depth int) ([][]byte, error) {
	if blobs, ok := r.decoded[f]; ok {
		return blobs, nil
	}
	stored, err := r.stored(f)
	if err != nil {
		return nil, err
	}
	bases := make([][]byte, len(f.bases))
	for i, k := range f.bases {
		if bases[i], err = r.byKey(f.kind, k, depth+1); err != nil {
			return nil, err
		}
	}
	blobs, size, err := f.decode(stored, bases)
	if err != nil {
		return nil, err
	}
	if r.held += size; r.held > maxHeld || r.decoded == nil {
		r.decoded, r.held = map[*frame][][]byte{}, size
	}
	r.decoded[f] = blobs
	return blobs, nil
}

// stored opens a frame where it lies.
func (r *Repository) stored(f *frame) ([]byte, error) {
	file, err := os.Open(filepath.Join(r.dir, "packs", f.pack[:1], f.pack))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	sealed := make([]byte, f.length)
	if _, err := file.ReadAt(sealed, f.offset); err != nil {
		return nil, err
	}
	what := []byte{f.kind, byte(f.encoding)}
	what = binary.AppendUvarint(what, uint64(len(f.bases)))
	for _, k := range f.bases {
		what = append(what, k[:]...)
	}
	what = binary.AppendUvarint(what, uint64(len(f.keys)))
	for i, k := range f.keys {
		what = append(what, k[:]...)
		what = binary.AppendUvarint(what, f.sizes[i])
	}
	return r.unsealAs("wtsnap frame", what, sealed)
}

// decode takes a frame's stored form apart into its blobs, and says how many bytes they have.
func (f *frame) decode(stored []byte, bases [][]byte) ([][]byte, int, error) {
	size := uint64(0)
	for _, n := range f.sizes {
		size += n
	}
	var plain []byte
	var err error
	switch f.encoding {
	case 0:
		plain = stored
	case 1:
		plain, err = decompress(stored, size, nil)
	case 2:
		var dictionary []byte
		for _, b := range bases {
			dictionary = append(dictionary, b...)
		}
		plain, err = decompress(stored, size, dictionary)
	case 3:
		blobs, err := f.patch(stored, bases)
		return blobs, int(size), err
	default:
		err = fmt.Errorf("an unknown encoding %d", f.encoding)
	}
	if err != nil {
		return nil, 0, err
	}
	if uint64(len(plain)) != size {
		return nil, 0, fmt.Errorf("has %d bytes instead of %d", len(plain), size)
	}
	blobs := make([][]byte, len(f.sizes))
	for i, n := range f.sizes {
		blobs[i], plain = plain[:n:n], plain[n:]
	}
	return blobs, int(size), nil
}

// patch makes blobs of pieces of their bases and of new bytes.
func (f *frame) patch(stored []byte, bases [][]byte) ([][]byte, error) {
	if len(f.keys) == 0 || len(bases)%len(f.keys) != 0 {
		return nil, errors.New("a patch whose bases are not as many for each blob")
	}
	sum := uint64(0)
	for _, n := range f.sizes {
		sum += n
	}
	in := input{rest: stored}
	size, compressed := in.uvarint(), in.uvarint()
	if size > sum+uint64(len(f.sizes)) {
		return nil, errors.New("a patch with more instructions than it can have")
	}
	var program input
	if compressed == 0 {
		program.rest = in.bytes(size)
	} else {
		plain, err := decompress(in.bytes(compressed), size, nil)
		if err != nil {
			return nil, err
		}
		program.rest = plain
	}
	if in.err != nil {
		return nil, in.err
	}
	pieces, literals, err := f.instructions(&program)
	if err != nil {
		return nil, err
	}
	text := in.rest
	if literals != uint64(len(text)) {
		if text, err = decompress(text, literals, nil); err != nil {
			return nil, err
		}
	}
	each := len(bases) / len(f.keys)
	blobs := make([][]byte, len(f.keys))
	for i := range blobs {
		base := baseText(f.bases[i*each:][:each], bases[i*each:][:each])
		for _, p := range pieces[i] {
			if !p.copied {
				blobs[i], text = append(blobs[i], text[:p.length]...), text[p.length:]
				continue
			}
			if p.at < 0 || uint64(p.at) > uint64(len(base)) || p.length > uint64(len(base))-uint64(p.at) {
				return nil, errors.New("a patch that copies from outside of its base")
			}
			blobs[i] = append(blobs[i], base[p.at:uint64(p.at)+p.length]...)
		}
	}
	return blobs, nil
}

// A piece of a blob is copied from its base text, or taken from the literals.
type piece struct {
	copied bool
	at     int64
	length uint64
}

// instructions reads what a patch does for each blob, and how many literals it takes.
func (f *frame) instructions(in *input) (pieces [][]piece, literals uint64, err error) {
	pieces = make([][]piece, len(f.sizes))
	for i, left := range f.sizes {
		end := int64(0)
		for left > 0 && in.err == nil {
			l := in.uvarint()
			if l > left {
				in.fail("more literals than the blob has bytes")
				break
			}
			pieces[i] = append(pieces[i], piece{length: l})
			literals += l
			if left -= l; left == 0 {
				break
			}
			n, d := in.uvarint(), in.zigzag()
			if n == 0 || n > left {
				in.fail("a copy of a wrong length")
				break
			}
			at := end + d + int64(l)
			pieces[i] = append(pieces[i], piece{copied: true, at: at, length: n})
			end = at + int64(n)
			left -= n
		}
	}
	return pieces, literals, in.end()
}

// baseText puts a blob's bases end to end; one that is the same as the one before it, at the end, only fills the list up.
func baseText(keys []key, bases [][]byte) []byte {
	n := len(keys)
	for n > 1 && keys[n-1] == keys[n-2] {
		n--
	}
	return bytes.Join(bases[:n], nil)
}
