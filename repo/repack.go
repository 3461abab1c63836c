package repo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/index"
)

// What a prune writes anew.

// rewrite stores the used blobs of the packs to be repacked in new packs, and lists them. Frames that
// are used wholly are copied as they are, after they were opened and verified.
func (p *PrunePlan) rewrite(ctx context.Context) (stored int64, err error) {
	s := newSession(ctx, p.r, SessionOptions{Level: p.o.Level}, p.lease)
	s.index = p.index
	defer s.stop(ctx)
	w := s.Writer()
	// First of all, so that no copy in a pack that goes counts as one that stays.
	for _, id := range p.condemn {
		p.index.Condemn(id)
	}
	for _, ref := range p.repack {
		p.index.Condemn(p.index.Pack(ref).ID)
	}
	var scratch frameScratch
	parts := p.parts()
	last := index.PackID{}
	err = inOrder(ctx, len(parts), repackAhead, func(i int) int64 { return int64(parts[i].end - parts[i].start) },
		func(ctx context.Context, i int) ([]byte, error) { return p.fetchPart(ctx, &parts[i]) },
		func(i int, sealed []byte) error {
			if id := parts[i].info.ID; id != last {
				if last = id; p.late(s) {
					return errLate
				}
			}
			return p.putPart(ctx, s, w, &parts[i], sealed, &scratch)
		})
	if err == errLate {
		p.leave(last)
	} else if err != nil {
		return 0, err
	}
	if err := s.flush(ctx); err != nil {
		return 0, err
	}
	return s.stats.stored.Load(), nil
}

// errLate ends the rewriting of packs.
var errLate = errors.New("the time is over")

// late reports whether it is time to upload what was rewritten, and nothing more.
func (p *PrunePlan) late(s *Session) bool {
	return !p.o.Until.IsZero() && p.o.Until.Sub(time.Now().Round(0)) <= s.Drain()
}

// leave takes the packs from first on out of the plan: a later prune rewrites them.
func (p *PrunePlan) leave(first index.PackID) {
	i := slices.IndexFunc(p.repack, func(ref index.PackRef) bool { return p.index.Pack(ref).ID == first })
	for _, ref := range p.repack[i:] {
		info, used := p.index.Pack(ref), p.usedBytes(ref)
		p.index.Absolve(info.ID)
		p.Repack.Packs--
		p.Repack.Bytes -= info.Size
		p.RepackBytes -= used
		p.Used.add(info.Size)
		p.keep = append(p.keep, info.ID)
		p.UnusedLeft += max(int64(info.DataSize)-used, 0)
	}
	p.repack = p.repack[:i]
}

// repackAhead is how much is read ahead while packs are written anew.
var repackAhead = ahead{transfers: 16, bytes: 24 << 20}

// repackPart is a range of a pack with frames that are used, wholly or in part.
type repackPart struct {
	info   index.PackInfo
	frames []repackFrame
	start  uint32
	end    uint32
}

// repackFrame is a frame that is used.
type repackFrame struct {
	index.Frame
	first index.BlobRef
	whole bool // every blob of it is used
}

// parts lists what must be read of the packs to be repacked, in their order in the repository.
func (p *PrunePlan) parts() []repackPart {
	var parts []repackPart
	for _, ref := range p.repack {
		info := p.index.Pack(ref)
		blob := info.FirstBlob
		var part *repackPart // of this pack
		for _, f := range p.index.Frames(ref) {
			rf, used := repackFrame{Frame: f, first: blob}, 0
			for range f.Blobs {
				if p.used.Has(blob) {
					used++
				}
				blob++
			}
			if used == 0 {
				continue
			}
			rf.whole = used == len(f.Blobs)
			if part == nil || f.Offset > part.end+maxGap || f.Offset+f.Length-part.start > maxRange {
				parts = append(parts, repackPart{info: info, start: f.Offset})
				part = &parts[len(parts)-1]
			}
			part.frames, part.end = append(part.frames, rf), f.Offset+f.Length
		}
	}
	return parts
}

func (p *PrunePlan) fetchPart(ctx context.Context, part *repackPart) ([]byte, error) {
	sealed, err := p.r.storeFor(part.info.Kind).Get(ctx, packName(part.info.ID), int64(part.start), int64(part.end-part.start), nil)
	if err != nil {
		return nil, packError(part.info.ID, err)
	}
	return sealed, nil
}

// putPart stores what is used of a part. A delta that is copied as it is was verified when it was made, and is opened
// here; applying it again would take its bases, which lie elsewhere.
func (p *PrunePlan) putPart(ctx context.Context, s *Session, w *Writer, part *repackPart, sealed []byte, scratch *frameScratch) (err error) {
	for i := range part.frames {
		f := &part.frames[i]
		frame := sealed[f.Offset-part.start:][:f.Length]
		if f.whole && len(f.Bases) > 0 {
			scratch.ad = frameAD(scratch.ad[:0], part.info.Kind, &f.Frame)
			if scratch.stored, err = p.r.keys.open(scratch.stored[:0], frame, scratch.ad); err != nil {
				return &DamageError{Kind: DamageOpen, Object: packName(part.info.ID), Detail: fmt.Sprintf("the frame at %d can't be read", f.Offset), Err: err}
			}
			if err := s.putSealed(ctx, part.info.Kind, f.Frame, frame); err != nil {
				return err
			}
			continue
		}
		if f.Encoding == chunk.Patched {
			if err := p.putPatches(ctx, w, part.info, f, frame, scratch); err != nil {
				return err
			}
			continue
		}
		plain, err := p.r.decodeFrame(ctx, p.index, part.info.ID, part.info.Kind, &f.Frame, frame, scratch)
		if err != nil {
			return err
		}
		if f.whole {
			err = s.putSealed(ctx, part.info.Kind, f.Frame, frame)
		} else {
			err = p.putUsed(ctx, w, part.info.Kind, f.first, f.Frame, plain)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// putPatches stores the used blobs of a frame of patches as patches.
func (p *PrunePlan) putPatches(ctx context.Context, w *Writer, info index.PackInfo, f *repackFrame, sealed []byte, scratch *frameScratch) error {
	patch, err := p.r.openPatch(info.ID, info.Kind, &f.Frame, sealed, scratch)
	if err != nil {
		return err
	}
	frame := index.Frame{Encoding: chunk.Patched}
	each := len(f.Bases) / len(f.Blobs)
	var keep []int
	for i, b := range f.Blobs {
		if p.used.Has(f.first + index.BlobRef(i)) {
			keep = append(keep, i)
			frame.Blobs = append(frame.Blobs, b)
			frame.Bases = append(frame.Bases, f.Bases[i*each:(i+1)*each]...)
		}
	}
	var part chunk.PatchWriter
	patch.Subset(&part, keep)
	return w.addPatch(ctx, w.part(info.Kind).shelf, frame, &part, false)
}

func (p *PrunePlan) putUsed(ctx context.Context, w *Writer, kind index.Kind, first index.BlobRef, f index.Frame, plain []byte) error {
	pos := uint32(0)
	for i, b := range f.Blobs {
		if p.used.Has(first + index.BlobRef(i)) {
			if _, _, err := w.Put(ctx, kind, plain[pos:pos+b.Size]); err != nil {
				return err
			}
		}
		pos += b.Size
	}
	return nil
}
