package repo

import (
	"context"
	"errors"
	"fmt"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/index"
)

// openedFrame is what a frame holds: the plaintext of its blobs, or how they are patched together.
type openedFrame struct {
	plain []byte
	patch *chunk.Patch
}

func (o *openedFrame) memory() int {
	if o.patch != nil {
		return o.patch.Memory()
	}
	return len(o.plain)
}

// openPatch opens a frame that is a patch.
func (r *Repository) openPatch(pack index.PackID, kind index.Kind, f *index.Frame, sealed []byte, s *frameScratch) (*chunk.Patch, error) {
	p := &chunk.Patch{}
	if err := r.openPatchInto(p, nil, pack, kind, f, sealed, s); err != nil {
		return nil, err
	}
	return p, nil
}

// openPatchInto is openPatch into the memory of p, and what alloc returns (chunk.Codec.DecodePatchInto).
func (r *Repository) openPatchInto(p *chunk.Patch, alloc func(int) []byte, pack index.PackID, kind index.Kind, f *index.Frame, sealed []byte, s *frameScratch) error {
	if err := openSealed(r.keys, kind, f, sealed, s); err != nil {
		return frameDamage(DamageOpen, pack, f, err)
	}
	return r.decodePatch(p, alloc, pack, f, s)
}

// decodePatch decodes a frame that was opened into s.
func (r *Repository) decodePatch(p *chunk.Patch, alloc func(int) []byte, pack index.PackID, f *index.Frame, s *frameScratch) error {
	s.sizes = s.sizes[:0]
	for _, b := range f.Blobs {
		s.sizes = append(s.sizes, b.Size)
	}
	if err := r.keys.codec.DecodePatchInto(p, alloc, s.stored, s.sizes); err != nil {
		return frameDamage(DamageDecode, pack, f, err)
	}
	return nil
}

func frameDamage(kind string, pack index.PackID, f *index.Frame, err error) error {
	return &DamageError{Kind: kind, Object: packName(pack), Detail: fmt.Sprintf("the frame at %d can't be read", f.Offset), Err: err}
}

// wrongBlob says that a blob was made of frames that opened, and is not what its key says.
func wrongBlob(pack index.PackID, offset uint32) error {
	return &DamageError{Kind: DamageBlob, Object: packName(pack), Detail: fmt.Sprintf("a blob in the frame at %d is not what its id says", offset)}
}

// baseError says that something could not be read because of what it rests on.
type baseError struct{ err error }

func (e *baseError) Error() string { return "reading a delta's base: " + e.err.Error() }
func (e *baseError) Unwrap() error { return e.err }

// onBase makes err a baseError: one, however deep the chain is.
func onBase(err error) error {
	var b *baseError
	if errors.As(err, &b) {
		return err
	}
	return &baseError{err}
}

// patchBases returns the bases of a patch's blob i.
func patchBases(f *index.Frame, i int) []index.Key {
	each := len(f.Bases) / len(f.Blobs)
	bases := f.Bases[i*each : (i+1)*each]
	for len(bases) > 1 && bases[len(bases)-1] == bases[len(bases)-2] {
		bases = bases[:len(bases)-1]
	}
	return bases
}

// textReader makes the texts of blobs, from frames that are kept in memory for a while. It is for one goroutine, and for one
// blob after the other.
type textReader struct {
	r      *Repository
	x      *index.Index
	ropes  chunk.Ropes
	frame  frameScratch
	sealed []byte
	links  []chunk.Link                  // memory for the next chain
	places []frameKey                    // of links
	made   map[index.BlobRef]*chunk.Rope // bases of several: many ways may lead to them
}

// texts returns a reader of texts; done gives it back.
func (r *Repository) texts(x *index.Index) *textReader {
	t, ok := r.readers.Get().(*textReader)
	if !ok {
		t = &textReader{made: map[index.BlobRef]*chunk.Rope{}}
	}
	t.r, t.x = r, x
	return t
}

// done ends the use of a reader, and of the texts that it made.
func (t *textReader) done() {
	for ref, text := range t.made {
		t.ropes.Free(text)
		delete(t.made, ref)
	}
	t.ropes.Reset()
	t.r.readers.Put(t)
}

// blob makes dst the text of a blob. It is not verified, nor is what it rests on, and what lies between it and a whole blob
// is not even made: whoever wants it compares it with its key.
func (t *textReader) blob(ctx context.Context, loc index.Location, dst *chunk.Rope, depth int) error {
	links, places := t.links[:0], t.places[:0]
	t.links, t.places = nil, nil // bases have chains of their own
	base := t.ropes.New()
	defer func() {
		t.ropes.Free(base)
		clear(links)
		t.links, t.places = links, places
	}()
	for ; ; depth++ {
		opened, err := t.open(ctx, loc, depth)
		if err != nil {
			return below(len(links), err)
		}
		if opened.patch == nil {
			base.Append(opened.plain[loc.Pos : loc.Pos+loc.Size])
			break
		}
		links = append(links, chunk.Link{Patch: opened.patch, Blob: int(loc.Ordinal - t.x.FirstOf(loc.Ordinal))})
		places = append(places, frameKey{loc.PackID, loc.Offset})
		if len(loc.Bases) != 1 {
			if err := t.bases(ctx, loc.Bases, base, depth); err != nil {
				return below(len(links)-1, err)
			}
			break
		}
		if loc, err = baseOf(t.x, loc.Bases[0]); err != nil {
			return below(len(links)-1, err)
		}
	}
	if len(links) == 0 {
		dst.AppendRope(base)
		return nil
	}
	if bad, err := t.ropes.Chain(dst, links, base); err != nil {
		return below(bad, frameDamage(DamageDecode, places[bad].pack, &index.Frame{Offset: places[bad].offset}, err))
	}
	return nil
}

// below says that err is what the n-th base of a chain was met with; 0: the first blob itself.
func below(n int, err error) error {
	if n == 0 {
		return err
	}
	return onBase(err)
}

// bases makes dst the text of bases, end to end.
func (t *textReader) bases(ctx context.Context, keys []index.Key, dst *chunk.Rope, depth int) error {
	for _, key := range keys {
		at, err := baseOf(t.x, key)
		if err != nil {
			return err
		}
		text := t.made[at.Ordinal]
		if text == nil {
			text = t.ropes.New()
			if err := t.blob(ctx, at, text, depth+1); err != nil {
				t.ropes.Free(text)
				return onBase(err)
			}
			t.made[at.Ordinal] = text
		}
		dst.AppendRope(text)
	}
	return nil
}

func baseOf(x *index.Index, key index.Key) (index.Location, error) {
	at, ok := x.Lookup(key)
	if !ok {
		return at, &DamageError{Kind: DamageBlobGone, Object: "blob " + key.String(), Detail: "the base of a delta is in no pack of the index"}
	}
	return at, nil
}

// open returns the frame that holds a blob. Two that need it read it once: whoever reads a patch or a whole frame waits
// for nobody else meanwhile.
func (t *textReader) open(ctx context.Context, loc index.Location, depth int) (*openedFrame, error) {
	if depth > maxDepth {
		return nil, &DamageError{Kind: DamageIndex, Object: packName(loc.PackID), Detail: "holds a delta whose chain of bases is too long"}
	}
	wait := depth == 0 || loc.Encoding != chunk.ZstdDelta
	return t.r.frames.of(&loc).get(ctx, frameKey{loc.PackID, loc.Offset}, wait, func() (*openedFrame, error) { return t.read(ctx, loc, depth) })
}

func (t *textReader) read(ctx context.Context, loc index.Location, depth int) (*openedFrame, error) {
	f, _ := t.x.FrameOf(loc.Ordinal)
	var base []byte
	if f.Encoding == chunk.ZstdDelta {
		text := t.ropes.New()
		defer t.ropes.Free(text)
		if err := t.bases(ctx, f.Bases, text, depth); err != nil {
			return nil, err
		}
		base = text.Bytes(&base)
	}
	if err := t.r.stage.open(ctx, t.x, loc, &f, &t.sealed, &t.frame); err != nil {
		return nil, err
	}
	if f.Encoding == chunk.Patched {
		p := &chunk.Patch{}
		return &openedFrame{patch: p}, t.r.decodePatch(p, nil, loc.PackID, &f, &t.frame)
	}
	t.frame.plain = nil // the last one stays
	plain, err := decodeStored(t.r.keys, &f, base, &t.frame)
	if err != nil {
		err = frameDamage(DamageDecode, loc.PackID, &f, err)
	}
	return &openedFrame{plain: plain}, err
}

// nearby appends a blob to dst, and keeps its frame in memory for a while, and those of its bases: what is next to it in
// the repository is mostly needed next.
func (r *Repository) nearby(ctx context.Context, x *index.Index, loc index.Location, dst []byte) ([]byte, error) {
	t := r.texts(x)
	defer t.done()
	text := t.ropes.New()
	defer t.ropes.Free(text)
	if err := t.blob(ctx, loc, text, 0); err != nil {
		return dst, err
	}
	n := len(dst)
	dst = text.AppendTo(dst)
	if key, _ := x.At(loc.Ordinal); index.KeyOf(r.keys.hasher.Sum(dst[n:])) != key {
		return dst[:n], wrongBlob(loc.PackID, loc.Offset)
	}
	return dst, nil
}
