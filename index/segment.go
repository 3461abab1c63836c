package index

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/whole-tale/wtsnap/chunk"
)

const (
	directoryVersion = 1
	segmentVersion   = 1

	// The least bytes of input that a member takes: memory for a list is set
	// aside only if the input can hold as many. Each blob has a size and a key,
	// each frame a length and a blob, each pack an id, a kind, a hash, a rest,
	// and the columns of one frame.
	minBlobBytes  = 1 + len(Key{})
	minFrameBytes = 1 + minBlobBytes
	minPackBytes  = len(PackID{}) + 3 + 1 + minFrameBytes + 2 + 2
)

// AppendFrames appends the directory of a pack. It returns a *FormatError, and
// dst as it was, for frames that are not valid.
func AppendFrames(dst []byte, frames []Frame) ([]byte, error) {
	if _, err := validateFrames(frames); err != nil {
		return dst, invalid("%v", err)
	}
	e := encoder{buf: append(dst, directoryVersion)}
	e.findBases(slices.Values([][]Frame{frames}))
	e.frames(frames)
	return e.buf, nil
}

// AppendSegment appends an index segment. It returns a *FormatError, and dst as
// it was, for packs that are not valid. Packs in the order of their making give
// the shortest segment: bases of deltas are then listed before them.
func AppendSegment(dst []byte, packs []Pack) ([]byte, error) {
	for i := range packs {
		if err := packs[i].Validate(); err != nil {
			return dst, err
		}
	}
	e := encoder{buf: append(dst, segmentVersion)}
	e.findBases(func(yield func([]Frame) bool) {
		for i := range packs {
			if !yield(packs[i].Frames) {
				return
			}
		}
	})
	e.uint(len(packs))
	for i := range packs {
		e.pack(&packs[i])
	}
	return e.buf, nil
}

// DecodeFrames reads what AppendFrames wrote, and nothing else: it returns a
// *FormatError for any input that AppendFrames does not give for some frames.
// What it allocates is in proportion to the input: about 5 bytes for a byte of
// an ordinary directory, 150 where it consists of references to bases.
func DecodeFrames(data []byte) ([]Frame, error) {
	d := decoder{what: "pack directory", data: data}
	d.version(directoryVersion)
	frames := d.frames()
	d.end()
	if d.err != nil {
		return nil, d.err
	}
	return frames, nil
}

// DecodeSegment reads what AppendSegment wrote, as strictly as DecodeFrames.
func DecodeSegment(data []byte) ([]Pack, error) {
	d := decoder{what: "index segment", data: data}
	d.version(segmentVersion)
	n := d.count(minPackBytes, "packs")
	packs := make([]Pack, n)
	for i := range packs {
		d.pack(&packs[i])
	}
	d.end()
	if d.err != nil {
		return nil, d.err
	}
	return packs, nil
}

// baseRefs counts blobs and turns keys of bases into references to blobs that
// were listed before, the way both directions agree on. A base that the same
// directory or segment lists, in a pack up to the one it is mentioned in, is
// referred to by the ordinal of its first mention there, less the ordinal that
// would follow the reference before: successive deltas tend to have successive
// bases.
type baseRefs struct {
	listed int // blobs listed so far, those of the current pack included
	next   int // ordinal after that of the last reference
}

// encode returns the code for the blob of that ordinal: positive, as 0 stands
// for a key in full.
func (r *baseRefs) encode(ordinal int) uint64 {
	delta := int64(ordinal - r.next)
	r.next = ordinal + 1
	return uint64(delta<<1^delta>>63) + 1
}

// decode is the inverse of encode.
func (r *baseRefs) decode(code uint64) (ordinal int, ok bool) {
	code--
	ordinal = r.next + int(int64(code>>1)^-int64(code&1))
	if ordinal < 0 || ordinal >= r.listed {
		return 0, false
	}
	r.next = ordinal + 1
	return ordinal, true
}

// encoder appends to buf.
type encoder struct {
	buf   []byte
	refs  baseRefs
	first map[Key]int // ordinals of those blobs that are bases too
}

// findBases fills first.
func (e *encoder) findBases(packs func(yield func([]Frame) bool)) {
	e.first = firstMentions(packs, func(add func(Key)) {
		for frames := range packs {
			for i := range frames {
				for _, k := range frames[i].Bases {
					add(k)
				}
			}
		}
	})
}

// firstMentions returns, for those of the wanted keys that the packs list, the
// ordinal of the first blob with that key.
func firstMentions(packs func(yield func([]Frame) bool), wanted func(add func(Key))) map[Key]int {
	const missing = -1
	var first map[Key]int
	wanted(func(k Key) {
		if first == nil {
			first = make(map[Key]int)
		}
		first[k] = missing
	})
	if first == nil {
		return nil
	}
	ordinal := 0
	for frames := range packs {
		for i := range frames {
			for _, b := range frames[i].Blobs {
				if at, ok := first[b.Key]; ok && at == missing {
					first[b.Key] = ordinal
				}
				ordinal++
			}
		}
	}
	for k, at := range first {
		if at == missing {
			delete(first, k)
		}
	}
	return first
}

func (e *encoder) uint(n int) { e.buf = binary.AppendUvarint(e.buf, uint64(n)) }

func (e *encoder) pack(p *Pack) {
	name, digest, _ := splitHash(p.Hash) // was validated
	e.buf = append(e.buf, p.ID[:]...)
	e.buf = append(e.buf, byte(p.Kind))
	e.uint(len(name))
	if name != "" {
		e.buf = append(e.buf, name...)
		e.uint(len(digest))
		e.buf = append(e.buf, digest...)
	}
	last := p.Frames[len(p.Frames)-1]
	e.uint(int(p.Size) - int(last.Offset+last.Length))
	e.frames(p.Frames)
}

// frames appends the frames of one pack, column by column.
func (e *encoder) frames(frames []Frame) {
	e.uint(len(frames))
	for i := range frames {
		e.uint(int(frames[i].Length))
	}
	e.runs(frames, func(f *Frame) int { return int(f.Encoding) })
	e.runs(frames, func(f *Frame) int { return len(f.Blobs) })
	for i := range frames {
		for _, b := range frames[i].Blobs {
			e.uint(int(b.Size))
		}
	}
	for i := range frames {
		for _, b := range frames[i].Blobs {
			e.buf = append(e.buf, b.Key[:]...)
		}
		e.refs.listed += len(frames[i].Blobs)
	}
	for i := range frames {
		if len(frames[i].Bases) > 0 {
			e.bases(frames[i].Bases)
		}
	}
}

func (e *encoder) bases(bases []Key) {
	e.uint(len(bases))
	for _, k := range bases {
		if at, ok := e.first[k]; ok && at < e.refs.listed {
			e.buf = binary.AppendUvarint(e.buf, e.refs.encode(at))
		} else {
			e.uint(0)
			e.buf = append(e.buf, k[:]...)
		}
	}
}

// runs appends a column as pairs of a value and how often it repeats.
func (e *encoder) runs(frames []Frame, value func(*Frame) int) {
	for i := 0; i < len(frames); {
		v, n := value(&frames[i]), 1
		for i+n < len(frames) && value(&frames[i+n]) == v {
			n++
		}
		e.uint(v)
		e.uint(n)
		i += n
	}
}

// decoder reads data. The first error stays, and whatever is read after it is
// zero.
type decoder struct {
	what string
	data []byte
	pos  int
	err  error

	refs   baseRefs
	packs  [][]Frame // so far, the current one included
	starts []int     // ordinal of the first blob of each
	blobs  [][]Blob  // of each
	uses   []baseUse
}

// baseUse is what a base was given as, to be compared, when all blobs are
// known, with what it should have been given as.
type baseUse struct {
	key     Key
	ordinal int // -1: as a key in full
	listed  int
	offset  int
}

func (d *decoder) fail(offset int, format string, args ...any) {
	if d.err == nil {
		d.err = &FormatError{What: d.what, Offset: offset, Reason: fmt.Sprintf(format, args...)}
	}
	d.data, d.pos = nil, 0
}

func (d *decoder) left() int { return len(d.data) - d.pos }

// bytes returns the next n bytes, or nil.
func (d *decoder) bytes(n int, what string) []byte {
	if n > d.left() {
		d.fail(d.pos, "%s: %d bytes wanted, %d left", what, n, d.left())
		return nil
	}
	b := d.data[d.pos : d.pos+n]
	d.pos += n
	return b
}

// uint reads a varint in its shortest form, of at most limit.
func (d *decoder) uint(limit int, what string) int {
	return int(d.uint64(uint64(limit), what))
}

func (d *decoder) uint64(limit uint64, what string) uint64 {
	if d.pos < len(d.data) && d.data[d.pos] < 0x80 && uint64(d.data[d.pos]) <= limit {
		d.pos++
		return uint64(d.data[d.pos-1])
	}
	v, n := binary.Uvarint(d.data[d.pos:])
	switch {
	case n <= 0:
		d.fail(d.pos, "%s: not a varint", what)
		return 0
	case n > 1 && d.data[d.pos+n-1] == 0:
		d.fail(d.pos, "%s: varint is not in its shortest form", what)
		return 0
	case v > limit:
		d.fail(d.pos, "%s: %d is above %d", what, v, limit)
		return 0
	}
	d.pos += n
	return v
}

// count reads the length of a list of which each member takes at least size
// bytes of what is left.
func (d *decoder) count(size int, what string) int {
	return d.uint(d.left()/size, "number of "+what)
}

func (d *decoder) version(want byte) {
	if b := d.bytes(1, "version"); d.err == nil && b[0] != want {
		d.fail(0, "version %d is not known, only %d", b[0], want)
	}
}

func (d *decoder) pack(p *Pack) {
	start := d.pos
	copy(p.ID[:], d.bytes(len(p.ID), "pack id"))
	p.Kind = Kind(d.uint(int(Tree), "kind"))
	if n := d.uint(maxHashName, "length of hash name"); n > 0 {
		name := string(d.bytes(n, "hash name"))
		digest := d.bytes(d.uint(maxHashDigest, "length of hash"), "hash")
		if d.err == nil && !validHash(name, digest) {
			d.fail(start, "hash named %q of %d bytes", name, len(digest))
		}
		p.Hash = joinHash(name, digest)
	}
	rest := d.uint(MaxPackSize, "size of directory")
	if p.Frames = d.frames(); d.err != nil {
		return
	}
	last := &p.Frames[len(p.Frames)-1]
	p.Size = int64(last.Offset) + int64(last.Length) + int64(rest)
	if p.Kind == 0 || p.Size > MaxPackSize {
		d.fail(start, "pack of %v and %d bytes", p.Kind, p.Size)
	}
}

// frames reads the frames of one pack.
func (d *decoder) frames() []Frame {
	start := d.pos
	n := d.count(minFrameBytes, "frames")
	frames := make([]Frame, n)
	var offset uint32
	for i := range frames {
		f := &frames[i]
		f.Offset, f.Length = offset, uint32(d.uint(MaxPackSize, "frame length"))
		offset = min(offset+f.Length, MaxPackSize) // validateFrames notices
	}
	d.runs(n, int(chunk.Patched), "encoding", func(i, v int) bool {
		frames[i].Encoding = chunk.Encoding(v)
		return true
	})
	total, room := 0, d.left()/minBlobBytes
	counts := make([]int32, n)
	d.runs(n, room, "number of blobs", func(i, v int) bool {
		counts[i] = int32(v)
		total += v
		return total <= room
	})
	if d.err != nil {
		return nil
	}
	blobs := make([]Blob, total)
	for i := range blobs {
		blobs[i].Size = uint32(d.uint(MaxFrameSize, "blob size"))
	}
	keys := d.bytes(total*len(Key{}), "keys")
	for i := range min(total, len(keys)/len(Key{})) {
		blobs[i].Key = Key(keys[i*len(Key{}):])
	}
	d.starts, d.blobs = append(d.starts, d.refs.listed), append(d.blobs, blobs)
	d.refs.listed += total
	rest := blobs
	for i := range frames {
		f := &frames[i]
		f.Blobs, rest = rest[:counts[i]:counts[i]], rest[counts[i]:]
		if f.Encoding >= chunk.ZstdDelta {
			f.Bases = d.bases()
		}
	}
	if d.err != nil {
		return nil
	}
	if _, err := validateFrames(frames); err != nil {
		d.fail(start, "%v", err)
		return nil
	}
	d.packs = append(d.packs, frames)
	return frames
}

func (d *decoder) bases() []Key {
	n := d.uint(min(MaxBases, d.left()), "number of bases")
	if n == 0 {
		return nil
	}
	bases := make([]Key, n)
	for i := range bases {
		use := baseUse{ordinal: -1, listed: d.refs.listed, offset: d.pos}
		if code := d.uint64(uint64(2*d.refs.listed+1), "reference to a base"); code == 0 {
			copy(use.key[:], d.bytes(len(use.key), "key of a base"))
		} else if ordinal, ok := d.refs.decode(code); ok {
			use.ordinal, use.key = ordinal, d.key(ordinal)
		} else {
			d.fail(use.offset, "reference to a base that is not listed")
		}
		bases[i] = use.key
		d.uses = append(d.uses, use)
	}
	return bases
}

// key returns the key of the blob with that ordinal.
func (d *decoder) key(ordinal int) Key {
	i, ok := slices.BinarySearch(d.starts, ordinal)
	if !ok {
		i--
	}
	return d.blobs[i][ordinal-d.starts[i]].Key
}

// runs reads n values of at most limit that encoder.runs wrote, until set
// returns false for one that is too much.
func (d *decoder) runs(n, limit int, what string, set func(i, v int) bool) {
	last := -1
	for i := 0; i < n; {
		at := d.pos
		v := d.uint(limit, what)
		run := d.uint(n-i, "run of "+what)
		if d.err == nil && (run == 0 || v == last) {
			d.fail(at, "%s: run is empty or continues the one before", what)
		}
		if d.err != nil {
			return
		}
		for end := i + run; i < end; i++ {
			if !set(i, v) {
				d.fail(at, "%s: more than there is room for", what)
				return
			}
		}
		last = v
	}
}

// end checks that nothing is left, and that each base was given the way the
// encoder would have.
func (d *decoder) end() {
	if d.err == nil && d.left() > 0 {
		d.fail(d.pos, "%d bytes too many", d.left())
	}
	if d.err != nil || len(d.uses) == 0 {
		return
	}
	first := firstMentions(slices.Values(d.packs), func(add func(Key)) {
		for _, u := range d.uses {
			add(u.key)
		}
	})
	for _, u := range d.uses {
		want, ok := first[u.key]
		if !ok || want >= u.listed {
			want = -1
		}
		if u.ordinal != want {
			d.fail(u.offset, "base %v is not given in its shortest form", u.key)
			return
		}
	}
}
