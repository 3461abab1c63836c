// Package index says which blob lies where. It owns the compact in-memory Index
// and the two encodings that fill it: the directory at the end of each pack,
// and the segment, a list of packs, that saves reading those directories.
//
// A blob is the unit of deduplication, a frame (one large blob, or a run of
// small ones) the unit of compression and sealing, a pack the unit of upload.
//
// Invariants:
//
//   - An Index only grows. PackRef, FrameRef and BlobRef are ordinals in the
//     order of arrival and stay valid, with the same meaning, for its life.
//   - A blob may lie in several packs. Among copies, those in packs that are not
//     condemned come first, then the one added first.
//   - Memory is at most 40 bytes a blob where each blob has a frame of its own,
//     tables included; bases of delta frames cost 16 bytes each on top.
//
// The package does no I/O and does not seal: what comes in was opened, and what
// goes out is sealed elsewhere. The bytes are specified in docs/format.md.
package index

import (
	"encoding/binary"
	"math"
	"slices"
	"sync"
	"unsafe"

	"github.com/whole-tale/wtsnap/chunk"
)

// PackRef is a pack's ordinal in an Index.
type PackRef uint32

// FrameRef is a frame's ordinal in an Index. The frames of a pack are
// consecutive, in their order in the pack.
type FrameRef uint32

// BlobRef is the ordinal of one copy of a blob in an Index. The blobs of a frame
// are consecutive, and so are those of a pack.
type BlobRef uint32

// Location says where a copy of a blob lies, and what it takes to read it.
type Location struct {
	Pack      PackRef
	PackID    PackID
	Kind      Kind
	Frame     FrameRef
	Offset    uint32 // of the frame's sealed bytes in the pack
	Length    uint32 // sealed bytes of the frame
	Encoding  chunk.Encoding
	Bases     []Key  // of the blob; shared with the Index, not to be written to
	FrameSize uint32 // bytes of the frame's plaintext
	Pos       uint32 // of the blob in the frame's plaintext
	Size      uint32 // bytes of the blob
	Ordinal   BlobRef
}

// PackInfo is what an Index knows of a pack, apart from its frames.
type PackInfo struct {
	ID         PackID
	Kind       Kind
	Size       int64  // bytes of the file
	DataSize   uint32 // bytes of its frames
	Hash       string // as the backend reports it, or ""
	Condemned  bool
	Segments   []SegmentID // the segments that list the pack, in the order they were added
	FirstFrame FrameRef
	Frames     int
	FirstBlob  BlobRef
	Blobs      int
}

// shards is the number of tables that the keys are spread over: the writer
// holds the lock while one grows, which is then a matter of a millisecond even
// at 10 million blobs.
const shards = 256

// Index tells where blobs lie. Any number of goroutines may read it while
// others add to it. References that it did not hand out make it panic, as an
// index out of range does.
type Index struct {
	mu sync.RWMutex

	// A blob is 20 bytes here, and 5 slots of 1/0.8 to 1/0.64 in the table. Its
	// size is the distance to the next one, or to the end of the frame.
	byKey [shards]table
	blobs paged[blobEntry]
	frame rank // which blobs begin a frame

	// A frame is 8 bytes. Its length is the distance to the next one, or to the
	// end of the pack's frames.
	frames paged[frameEntry]
	pack   rank // which frames begin a pack
	delta  rank // which frames have bases
	deltas paged[baseRange]
	bases  paged[Key]

	byID      table
	packs     paged[packEntry]
	hashes    []byte   // of the backends, end to end
	hashNames []string // few

	segments   []SegmentID
	segmentRef map[SegmentID]uint32
	more       map[PackRef][]uint32 // segments of a pack beyond its first

	condemned      map[PackID]struct{} // known to the index or not
	condemnedPacks int                 // packs of the index that are condemned
}

type blobEntry struct {
	key   Key
	start uint32 // position in the frame's plaintext
}

type frameEntry struct {
	place uint32 // offset in the low 26 bits, encoding above
	size  uint32 // bytes of plaintext
}

const (
	offsetBits = 26
	offsetMask = 1<<offsetBits - 1
)

// A frame begins below MaxPackSize, so its offset fits.
const _ = uint(offsetMask - (MaxPackSize - 1))

// baseRange is a range of Index.bases that lies within one page.
type baseRange struct {
	start uint32
	n     uint8
}

const noSegment = math.MaxUint32

type packEntry struct {
	id         PackID
	size       uint32
	dataSize   uint32
	firstFrame uint32
	firstBlob  uint32
	segment    uint32 // ordinal of the first segment, or noSegment
	hash       uint32 // offset in Index.hashes
	hashName   uint8  // ordinal + 1 in Index.hashNames; 0: no hash
	hashLen    uint8
	kind       Kind
	condemned  bool
}

// New returns an empty Index.
func New() *Index {
	return &Index{
		segmentRef: make(map[SegmentID]uint32),
		more:       make(map[PackRef][]uint32),
		condemned:  make(map[PackID]struct{}),
	}
}

// hash returns where a key belongs. It is a hash already.
func (k Key) hash() (shard uint8, hash uint64) {
	return k[8], binary.LittleEndian.Uint64(k[:8])
}

func (id *PackID) hash() uint64 { return binary.LittleEndian.Uint64(id[:8]) }

// Reserve makes room for about n more blobs, which makes adding them twice as
// fast. Too large an n costs 6 bytes for each blob that does not come.
func (x *Index) Reserve(n int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	mean := float64(n) / shards
	each := int(mean + 3*math.Sqrt(mean)) // shards differ; the fullest ones grow once more
	for i := range x.byKey {
		x.byKey[i].reserve(each, x.blobHash)
	}
}

func (x *Index) blobHash(blob uint32) uint64 {
	_, h := x.blobs.at(blob).key.hash()
	return h
}

// AddPack adds the pack, as listed by the given segment; the zero SegmentID
// stands for none. A pack that is there already, which may then be given by its
// ID alone, only gains the segment and, if it had none, the backend's hash.
//
// It returns a *FormatError, and adds nothing, when p is not valid.
func (x *Index) AddPack(segment SegmentID, p Pack) (PackRef, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	ref, known := x.findPack(p.ID)
	if !known {
		if err := p.Validate(); err != nil {
			return 0, err
		}
		ref = x.addFrames(&p)
	}
	if e := x.packs.at(uint32(ref)); e.hashName == 0 && p.Hash != "" {
		if err := x.setHash(e, p.Hash); err != nil {
			return 0, err
		}
	}
	x.addSegment(ref, segment)
	return ref, nil
}

// addFrames adds a pack that is not there yet.
func (x *Index) addFrames(p *Pack) PackRef {
	ref := PackRef(x.packs.n)
	e := packEntry{
		id: p.ID, kind: p.Kind, size: uint32(p.Size), segment: noSegment,
		firstFrame: uint32(x.frames.n), firstBlob: uint32(x.blobs.n),
	}
	if _, e.condemned = x.condemned[p.ID]; e.condemned {
		x.condemnedPacks++
	}
	for i := range p.Frames {
		f := &p.Frames[i]
		var pos uint32
		for j, b := range f.Blobs {
			shard, hash := b.Key.hash()
			x.byKey[shard].insert(hash, uint32(x.blobs.n), x.blobHash)
			x.blobs.append(blobEntry{b.Key, pos})
			x.frame.append(j == 0)
			pos += b.Size
		}
		x.frames.append(frameEntry{f.Offset | uint32(f.Encoding)<<offsetBits, pos})
		x.pack.append(i == 0)
		x.delta.append(len(f.Bases) > 0)
		if len(f.Bases) > 0 {
			x.addBases(f.Bases)
		}
		e.dataSize = f.Offset + f.Length
	}
	x.packs.append(e)
	x.byID.insert(p.ID.hash(), uint32(ref), func(ref uint32) uint64 { return x.packs.at(ref).id.hash() })
	return ref
}

func (x *Index) addBases(bases []Key) {
	for x.bases.n%pageLen+len(bases) > pageLen {
		x.bases.append(Key{})
	}
	x.deltas.append(baseRange{uint32(x.bases.n), uint8(len(bases))})
	for _, k := range bases {
		x.bases.append(k)
	}
}

// frameBases returns the bases of a frame that has some.
func (x *Index) frameBases(frame uint32) []Key {
	r := *x.deltas.at(x.delta.group(frame))
	i := r.start % pageLen
	return x.bases.pages[r.start/pageLen][i : i+uint32(r.n) : i+uint32(r.n)]
}

func (x *Index) setHash(e *packEntry, hash string) error {
	name, digest, err := splitHash(hash)
	if err != nil {
		return invalid("pack %v: %v", e.id, err)
	}
	i := slices.Index(x.hashNames, name)
	if i < 0 {
		if len(x.hashNames) == math.MaxUint8 {
			return nil // no backends have so many; a hash is never required
		}
		i = len(x.hashNames)
		x.hashNames = append(x.hashNames, name)
	}
	e.hashName, e.hash, e.hashLen = uint8(i+1), uint32(len(x.hashes)), uint8(len(digest))
	x.hashes = append(x.hashes, digest...)
	return nil
}

func (x *Index) addSegment(ref PackRef, segment SegmentID) {
	if segment == (SegmentID{}) {
		return
	}
	s, ok := x.segmentRef[segment]
	if !ok {
		s = uint32(len(x.segments))
		x.segments = append(x.segments, segment)
		x.segmentRef[segment] = s
	}
	switch e := x.packs.at(uint32(ref)); {
	case e.segment == noSegment:
		e.segment = s
	case e.segment != s && !slices.Contains(x.more[ref], s):
		x.more[ref] = append(x.more[ref], s)
	}
}

// FindPack returns the pack of that name.
func (x *Index) FindPack(id PackID) (PackRef, bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.findPack(id)
}

func (x *Index) findPack(id PackID) (PackRef, bool) {
	for p := x.byID.probe(id.hash()); ; {
		ref, ok := p.next()
		if !ok {
			return 0, false
		}
		if x.packs.at(ref).id == id {
			return PackRef(ref), true
		}
	}
}

// Lookup returns the first copy of a blob in a pack that is not condemned, or
// else the first copy.
func (x *Index) Lookup(k Key) (Location, bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	var fallback uint32
	found := false
	shard, hash := k.hash()
	for p := x.byKey[shard].probe(hash); ; {
		ref, ok := p.next()
		switch {
		case !ok && found:
			return x.locate(fallback), true
		case !ok:
			return Location{}, false
		case x.blobs.at(ref).key != k:
		case x.condemnedPacks == 0 || !x.packOf(ref).condemned:
			return x.locate(ref), true
		case !found:
			fallback, found = ref, true
		}
	}
}

// Lookups returns all copies of a blob: those in packs that are not condemned
// first, and else in the order they were added.
func (x *Index) Lookups(k Key) []Location {
	x.mu.RLock()
	defer x.mu.RUnlock()
	var good, bad []Location
	shard, hash := k.hash()
	for p := x.byKey[shard].probe(hash); ; {
		ref, ok := p.next()
		switch {
		case !ok:
			return append(good, bad...)
		case x.blobs.at(ref).key != k:
		case x.packOf(ref).condemned:
			bad = append(bad, x.locate(ref))
		default:
			good = append(good, x.locate(ref))
		}
	}
}

// Has reports whether the blob lies in a pack that is not condemned.
func (x *Index) Has(k Key) bool {
	x.mu.RLock()
	defer x.mu.RUnlock()
	shard, hash := k.hash()
	for p := x.byKey[shard].probe(hash); ; {
		ref, ok := p.next()
		switch {
		case !ok:
			return false
		case x.blobs.at(ref).key == k && (x.condemnedPacks == 0 || !x.packOf(ref).condemned):
			return true
		}
	}
}

// At returns the key and the place of one copy of a blob.
func (x *Index) At(ref BlobRef) (Key, Location) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.blobs.at(uint32(ref)).key, x.locate(uint32(ref))
}

func (x *Index) packOf(blob uint32) *packEntry {
	return x.packs.at(x.pack.group(x.frame.group(blob)))
}

func (x *Index) locate(blob uint32) Location {
	frame := x.frame.group(blob)
	f := *x.frames.at(frame)
	ref := x.pack.group(frame)
	p := x.packs.at(ref)
	l := Location{
		Pack:      PackRef(ref),
		PackID:    p.id,
		Kind:      p.kind,
		Frame:     FrameRef(frame),
		Offset:    f.place & offsetMask,
		Encoding:  chunk.Encoding(f.place >> offsetBits),
		FrameSize: f.size,
		Pos:       x.blobs.at(blob).start,
		Ordinal:   BlobRef(blob),
	}
	l.Length = x.frameEnd(frame, p) - l.Offset
	l.Size = x.blobEnd(blob, f) - l.Pos
	if x.delta.bit(frame) {
		l.Bases = x.frameBases(frame)
		if l.Encoding == chunk.Patched {
			l.Bases = x.blobBases(l.Bases, blob)
		}
	}
	return l
}

// blobBases returns a blob's own part of the bases of its frame, each once.
func (x *Index) blobBases(bases []Key, blob uint32) []Key {
	first, end := blob, blob+1
	for !x.frame.bit(first) {
		first--
	}
	for !x.frame.bit(end) {
		end++
	}
	each := uint32(len(bases)) / (end - first)
	bases = bases[(blob-first)*each:][:each:each]
	for len(bases) > 1 && bases[len(bases)-1] == bases[len(bases)-2] {
		bases = bases[: len(bases)-1 : len(bases)-1]
	}
	return bases
}

// frameEnd returns where the frame of pack p ends.
func (x *Index) frameEnd(frame uint32, p *packEntry) uint32 {
	if x.pack.bit(frame + 1) {
		return p.dataSize
	}
	return x.frames.at(frame+1).place & offsetMask
}

// blobEnd returns where the blob ends in the plaintext of frame f.
func (x *Index) blobEnd(blob uint32, f frameEntry) uint32 {
	if x.frame.bit(blob + 1) {
		return f.size
	}
	return x.blobs.at(blob + 1).start
}

// Segments returns the segments that were named to AddPack.
func (x *Index) Segments() []SegmentID {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return slices.Clone(x.segments)
}

// Len returns the number of blobs, each copy counted: BlobRefs are below it.
func (x *Index) Len() int {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.blobs.n
}

// FrameCount returns the number of frames: FrameRefs are below it.
func (x *Index) FrameCount() int {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.frames.n
}

// PackCount returns the number of packs: PackRefs are below it.
func (x *Index) PackCount() int {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.packs.n
}

// Memory returns the bytes that the index holds in memory.
func (x *Index) Memory() int64 {
	x.mu.RLock()
	defer x.mu.RUnlock()
	n := int64(unsafe.Sizeof(*x))
	for i := range x.byKey {
		n += x.byKey[i].memory()
	}
	n += x.blobs.memory() + x.frame.memory()
	n += x.frames.memory() + x.pack.memory() + x.delta.memory() + x.deltas.memory() + x.bases.memory()
	n += x.byID.memory() + x.packs.memory() + int64(cap(x.hashes))
	n += int64(len(x.segments))*mapEntry + int64(len(x.more)+len(x.condemned))*mapEntry
	return n
}

// mapEntry is about what an entry of the small maps costs.
const mapEntry = 80
