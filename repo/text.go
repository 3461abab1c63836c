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
	s.ad = frameAD(s.ad[:0], kind, f)
	stored, err := r.keys.open(s.stored[:0], sealed, s.ad)
	if err != nil {
		return frameDamage(DamageOpen, pack, f, err)
	}
	s.stored = stored
	s.sizes = s.sizes[:0]
	for _, b := range f.Blobs {
		s.sizes = append(s.sizes, b.Size)
	}
	if err := r.keys.codec.DecodePatchInto(p, alloc, stored, s.sizes); err != nil {
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

// blobText makes dst the text of a blob, from frames that are kept in memory for a while. Where it is a patch it is not
// verified: whoever puts it together compares it with its key.
func (r *Repository) blobText(ctx context.Context, x *index.Index, loc index.Location, dst *chunk.Rope, depth int) error {
	if depth > maxDepth {
		return &DamageError{Kind: DamageIndex, Object: packName(loc.PackID), Detail: "holds a delta whose chain of bases is too long"}
	}
	opened, err := r.frames.get(ctx, frameKey{loc.PackID, loc.Offset}, depth, func() (*openedFrame, error) {
		f, _ := x.FrameOf(loc.Ordinal)
		sealed, err := r.stage.sealed(ctx, x, loc, &f)
		if err != nil {
			return nil, err
		}
		if f.Encoding == chunk.Patched {
			p, err := r.openPatch(loc.PackID, loc.Kind, &f, sealed, &frameScratch{})
			return &openedFrame{patch: p}, err
		}
		var base chunk.Rope
		if err := r.baseText(ctx, x, f.Bases, &base, depth); err != nil {
			return nil, err
		}
		plain, err := r.openVerified(loc.PackID, loc.Kind, &f, sealed, base.Bytes(new([]byte)), &frameScratch{})
		return &openedFrame{plain: plain}, err
	})
	if err != nil {
		return err
	}
	if opened.patch == nil {
		dst.Reset()
		dst.Append(opened.plain[loc.Pos : loc.Pos+loc.Size])
		return nil
	}
	var base chunk.Rope
	if err := r.baseText(ctx, x, loc.Bases, &base, depth); err != nil {
		return err
	}
	if err := opened.patch.Apply(dst, int(loc.Ordinal-x.FirstOf(loc.Ordinal)), &base); err != nil {
		return frameDamage(DamageDecode, loc.PackID, &index.Frame{Offset: loc.Offset}, err)
	}
	return nil
}

// baseText makes dst the text of bases, end to end.
func (r *Repository) baseText(ctx context.Context, x *index.Index, keys []index.Key, dst *chunk.Rope, depth int) error {
	for i, key := range keys {
		at, ok := x.Lookup(key)
		if !ok {
			return &DamageError{Kind: DamageBlobGone, Object: "blob " + key.String(), Detail: "the base of a delta is in no pack of the index"}
		}
		text := dst
		if i > 0 {
			text = &chunk.Rope{}
		}
		if err := r.blobText(ctx, x, at, text, depth+1); err != nil {
			return onBase(err)
		}
		if i > 0 {
			dst.AppendRope(text)
		}
	}
	return nil
}

// nearby appends a blob to dst, and keeps its frame in memory for a while, and those of its bases: what is next to it in
// the repository is mostly needed next.
func (r *Repository) nearby(ctx context.Context, x *index.Index, loc index.Location, dst []byte) ([]byte, error) {
	var text chunk.Rope
	if err := r.blobText(ctx, x, loc, &text, 0); err != nil {
		return dst, err
	}
	n := len(dst)
	dst = text.AppendTo(dst)
	if loc.Encoding == chunk.Patched {
		if key, _ := x.At(loc.Ordinal); index.KeyOf(r.keys.hasher.Sum(dst[n:])) != key {
			return dst[:n], wrongBlob(loc.PackID, loc.Offset)
		}
	}
	return dst, nil
}
