package repo

import (
	"bytes"
	"context"
	"fmt"
	"sync"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/index"
)

// Writer returns a writer for one goroutine.
func (s *Session) Writer() *Writer {
	w := &Writer{s: s}
	w.parts[0] = part{shelf: &s.data, patches: &s.patches[0], frameBytes: dataFrame}
	w.parts[1] = part{shelf: &s.trees, patches: &s.patches[1], frameBytes: treeFrame}
	s.mu.Lock()
	s.writers = append(s.writers, w)
	s.mu.Unlock()
	return w
}

// Writer adds blobs to the repository: it hashes, compresses and seals them in the caller's goroutine.
type Writer struct {
	s               *Session
	mu              sync.Mutex        // held during Put; Session.flush takes it
	parts           [2]part           // data, tree
	stored          []byte            // scratch: the encoded frame
	check           []byte            // scratch: the frame decoded again
	base            []byte            // scratch: the bases of a delta
	patch           chunk.PatchWriter // scratch: the delta
	misses, skipped int               // deltas since the last one that paid: those that were tried, and not
	ended           ending            // of the blob that was put last
	putOff          bool              // it was put off
	sealed          []byte            // scratch: the sealed frame
	ad              []byte            // scratch: what it is bound to
}

// part is the frame of one kind that a writer has begun.
type part struct {
	shelf      *shelf
	patches    *patchShelf
	frameBytes int
	plain      []byte
	blobs      []index.Blob
	keep       bool // the frame is worth a place in the local cache
}

// A Hint tells what is known of a blob before it is put.
type Hint struct {
	// Bases are the blobs that it probably resembles: what was at its place before.
	Bases []chunk.ID
	// Guess says that Bases are no more than a guess, as of a file that is new: where guesses were wrong too often, they are
	// not followed any more.
	Guess bool
	// Spare are blobs that may hold what Bases do not. They are read from a backend only for much of it.
	Spare []chunk.ID
	// PutOff says that the blob will be put once more, with Spare: where a delta against Bases leaves much, it is not
	// stored, and Writer.PutOff says so.
	PutOff bool
	// Keep says that it may well be such a base the next time, so that it is worth a place in the local cache.
	Keep bool
	// Like knows what the blobs of the same stream are like, so that compression takes no time that it is not worth; or nil.
	Like *chunk.Effort
}

// Put stores data as a blob unless the repository has it, and marks it as relied upon. data is not
// kept. An error is final for the session.
func (w *Writer) Put(ctx context.Context, kind index.Kind, data []byte) (id chunk.ID, added bool, err error) {
	return w.PutHinted(ctx, kind, data, Hint{})
}

// PutDelta is Put, told which blobs data probably resembles: what was at its place before. If data is
// new, and a delta against them is small enough, that is what is stored.
func (w *Writer) PutDelta(ctx context.Context, kind index.Kind, data []byte, bases []chunk.ID) (id chunk.ID, added bool, err error) {
	return w.PutHinted(ctx, kind, data, Hint{Bases: bases})
}

// PutHinted is PutDelta, told more.
func (w *Writer) PutHinted(ctx context.Context, kind index.Kind, data []byte, h Hint) (id chunk.ID, added bool, err error) {
	s := w.s
	if len(data) > index.MaxFrameSize {
		return id, false, s.fail(fmt.Errorf("a blob of %d bytes is too large, the limit is %d", len(data), index.MaxFrameSize))
	}
	id = s.r.keys.hasher.Sum(data)
	s.stats.processed.Add(int64(len(data)))
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended, w.putOff = ending{}, false
	if s.Use(id) {
		s.stats.reused.Add(1)
		s.r.stage.unneeded(h.Bases)
		return id, false, nil
	}
	if err := s.failed(); err != nil {
		return id, false, err
	}
	d := w.delta(ctx, data, &h)
	if h.PutOff && d.leaves >= muchLeft {
		w.putOff = true // and not claimed: others may store it
		return id, false, nil
	}
	if !s.claim(index.KeyOf(id), len(data)) {
		return id, false, nil
	}
	p := w.part(kind)
	h.Keep = h.Keep && kind == index.Data && s.o.Delta != DeltaOff
	blob := index.Blob{Key: index.KeyOf(id), Size: uint32(len(data))}
	done, err := w.putDelta(ctx, p, blob, d, h.Keep)
	if !done && err == nil {
		err = w.putWhole(ctx, p, blob, data, &h)
	}
	if err != nil {
		return id, false, s.fail(err)
	}
	return id, true, nil
}

// PutOff reports whether the blob that was put last was not stored, as its Hint asked for.
func (w *Writer) PutOff() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.putOff
}

// claim reports whether the caller is the first to store a blob that the repository does not have.
func (s *Session) claim(key index.Key, size int) bool {
	if !s.pending.claim(key) {
		s.stats.reused.Add(1)
		return false
	}
	s.stats.new.Add(1)
	s.stats.newBytes.Add(int64(size))
	return true
}

func (w *Writer) part(kind index.Kind) *part { return &w.parts[kind-index.Data] }

// putWhole stores a blob in a frame of its own or in one that it shares. w.mu is held.
func (w *Writer) putWhole(ctx context.Context, p *part, blob index.Blob, data []byte, h *Hint) error {
	if len(data) >= smallBlob {
		return w.addFrame(ctx, p, []index.Blob{blob}, data, h)
	}
	p.plain = append(p.plain, data...)
	p.blobs = append(p.blobs, blob)
	p.keep = p.keep || h.Keep
	if len(p.plain) >= p.frameBytes {
		return w.closeFrame(ctx, p)
	}
	return nil
}

// closeFrame stores the shared frame that is filling.
func (w *Writer) closeFrame(ctx context.Context, p *part) error {
	if len(p.blobs) == 0 {
		return nil
	}
	blobs := append([]index.Blob(nil), p.blobs...) // the pack keeps them
	err := w.addFrame(ctx, p, blobs, p.plain, &Hint{Keep: p.keep})
	p.plain, p.blobs, p.keep = p.plain[:0], p.blobs[:0], false
	return err
}

// addFrame encodes plain, decodes it again to be sure, and adds it to the pack.
func (w *Writer) addFrame(ctx context.Context, p *part, blobs []index.Blob, plain []byte, h *Hint) error {
	stored, encoding := w.s.codec.EncodeLike(w.stored[:0], plain, h.Like)
	w.stored = stored
	if encoding != chunk.Raw {
		var err error
		if w.check, err = w.s.codec.Decode(w.check[:0], stored, encoding, nil, len(plain)); err != nil || !bytes.Equal(w.check, plain) {
			return fmt.Errorf("verifying compressed data before it is stored: it does not decompress to what it was (%w); "+
				"this points to faulty memory", err)
		}
	}
	return w.addEncoded(ctx, p.shelf, index.Frame{Encoding: encoding, Blobs: blobs}, stored, h.Keep)
}

// addEncoded seals stored, the encoded plaintext of f's blobs, and adds it to a pack, and to the local cache
// if it is to be kept.
func (w *Writer) addEncoded(ctx context.Context, shelf *shelf, f index.Frame, stored []byte, keep bool) (err error) {
	w.ad = frameAD(w.ad[:0], shelf.kind, &f)
	if w.sealed, err = w.s.r.keys.seal(w.sealed[:0], stored, w.ad); err != nil {
		return err
	}
	if keep {
		w.s.r.stage.keep(shelf.kind, &f, w.sealed)
	}
	return shelf.add(ctx, f, w.sealed)
}

// putSealed adds a frame as it lies in another pack; its blobs were verified.
func (s *Session) putSealed(ctx context.Context, kind index.Kind, f index.Frame, sealed []byte) error {
	if kind == index.Tree {
		return s.trees.add(ctx, f, sealed)
	}
	return s.data.add(ctx, f, sealed)
}

// drain closes the frames that the writer has begun.
func (w *Writer) drain(ctx context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range w.parts {
		if err := w.closeFrame(ctx, &w.parts[i]); err != nil {
			return err
		}
	}
	return nil
}

// usedSet is a growing set of blobs: one bit each.
type usedSet struct {
	mu   sync.Mutex
	bits []uint64
}

func (u *usedSet) add(b index.BlobRef) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for int(b/64) >= len(u.bits) {
		u.bits = append(u.bits, make([]uint64, 1+len(u.bits)/2)...)
	}
	u.bits[b/64] |= 1 << (b % 64)
}

func (u *usedSet) has(b index.BlobRef) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return int(b/64) < len(u.bits) && u.bits[b/64]&(1<<(b%64)) != 0
}

// soundSet holds the deltas that are relied upon together with all that they rest on, so that a chain is
// not followed to its end for each blob.
type soundSet struct {
	mu   sync.Mutex
	age  int // of the condemned lists that it is about
	held map[index.BlobRef]struct{}
}

func (d *soundSet) now() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.age
}

func (d *soundSet) has(b index.BlobRef) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, ok := d.held[b]
	return ok
}

// add adds what was found out at that age.
func (d *soundSet) add(b index.BlobRef, age int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if age != d.age {
		return
	}
	if d.held == nil {
		d.held = map[index.BlobRef]struct{}{}
	}
	d.held[b] = struct{}{}
}

// clear forgets all: packs were condemned.
func (d *soundSet) clear() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.age++
	d.held = nil
}

// pendingSet holds the keys of blobs that were put and are in no stored pack yet.
type pendingSet struct {
	shards [64]struct {
		mu sync.Mutex
		m  map[index.Key]struct{}
	}
}

func (p *pendingSet) claim(k index.Key) bool {
	s := &p.shards[k[0]%64]
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.m[k]; ok {
		return false
	}
	if s.m == nil {
		s.m = map[index.Key]struct{}{}
	}
	s.m[k] = struct{}{}
	return true
}

func (p *pendingSet) has(k index.Key) bool {
	s := &p.shards[k[0]%64]
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.m[k]
	return ok
}

func (p *pendingSet) remove(k index.Key) {
	s := &p.shards[k[0]%64]
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.m, k)
}
