package repo

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/index"
)

// want is one requested blob.
type want struct {
	root  index.BlobRef // the first of the whole blobs that its chain of deltas ends at, or itself
	blob  index.BlobRef
	frame index.FrameRef
	i     int32
}

// batch is one pass of ReadBlobs.
type batch struct {
	r     *Repository
	x     *index.Index
	ids   []chunk.ID
	o     ReadOptions
	fn    func(i int, data []byte) error
	retry bool

	mu      sync.Mutex
	left    []int32 // vanished, to be tried again
	scratch sync.Pool
}

// plan finds the requested blobs and sorts them by where their whole blobs lie.
func (b *batch) plan(only []int32) ([]want, error) {
	wants := make([]want, 0, len(b.ids))
	find := func(i int32) error {
		loc, ok := b.x.Lookup(index.KeyOf(b.ids[i]))
		if !ok {
			return b.bad(i, &DamageError{Kind: DamageBlobGone, Object: "blob " + b.ids[i].String(), Detail: "no pack of the index holds it",
				Hint: "wtsnap repair index, if packs are there that the index does not list"})
		}
		wants = append(wants, want{root: rootOf(b.x, loc), blob: loc.Ordinal, frame: loc.Frame, i: i})
		return nil
	}
	if only == nil {
		for i := range b.ids {
			if err := find(int32(i)); err != nil {
				return nil, err
			}
		}
	}
	for _, i := range only {
		if err := find(i); err != nil {
			return nil, err
		}
	}
	// Blobs have ordinals in the order of their packs and, within, of their places.
	slices.SortFunc(wants, func(a, b want) int {
		return cmp.Or(cmp.Compare(a.root, b.root), cmp.Compare(a.blob, b.blob), cmp.Compare(a.i, b.i))
	})
	return wants, nil
}

// rootOf follows a chain of first bases to its end.
func rootOf(x *index.Index, loc index.Location) index.BlobRef {
	for depth := 0; len(loc.Bases) > 0 && depth < maxDepth; depth++ {
		base, ok := x.Lookup(loc.Bases[0])
		if !ok {
			break
		}
		loc = base
	}
	return loc.Ordinal
}

// bad handles a blob that can't be read.
func (b *batch) bad(i int32, err error) error {
	if b.retry && vanished(err) {
		b.mu.Lock()
		b.left = append(b.left, i)
		b.mu.Unlock()
		return nil
	}
	if b.o.OnError != nil {
		return b.o.OnError(int(i), err)
	}
	return err
}

// span returns how many of the sorted wants make a unit.
func (b *batch) span(wants []want) int {
	_, first := b.x.At(wants[0].root)
	end := first.Offset + first.Length
	for n := 1; n < len(wants); n++ {
		if wants[n].root == wants[n-1].root {
			continue
		}
		_, loc := b.x.At(wants[n].root)
		if loc.Frame == first.Frame {
			continue
		}
		if loc.Pack != first.Pack || loc.Offset > end+maxGap || loc.Offset+loc.Length-first.Offset > maxRange {
			return n
		}
		end = loc.Offset + loc.Length
	}
	return len(wants)
}

// unit is what one worker reads together: frames, and the bases that they need.
type unit struct {
	b      *batch
	frames map[index.FrameRef]*unitFrame
	order  []*unitFrame // by place
	s      *unitScratch
}

// unitFrame is a frame of a unit.
type unitFrame struct {
	index.Frame
	pack   index.PackRef
	packID index.PackID
	kind   index.Kind
	first  index.BlobRef
	sealed []byte
	err    error  // why it can't be had
	shared bool   // it is somebody's base, or several blobs are wanted from it: keep plain
	plain  []byte // decoded, if shared
	sums   []chunk.ID
	busy   bool // being decoded: a chain that comes back here is a loop
	bases  []unitBase
}

// unitBase is a blob that a delta rests on.
type unitBase struct {
	frame     *unitFrame
	pos, size uint32
}

// unitScratch holds the buffers of one readUnit.
type unitScratch struct {
	raw   []byte
	frame frameScratch
}

// need adds the frame of a blob to the unit, and the frames of its bases.
func (u *unit) need(blob index.BlobRef, depth int) *unitFrame {
	_, loc := u.b.x.At(blob)
	if f := u.frames[loc.Frame]; f != nil {
		return f
	}
	frame, first := u.b.x.FrameOf(blob)
	f := &unitFrame{Frame: frame, pack: loc.Pack, packID: loc.PackID, kind: loc.Kind, first: first}
	u.frames[loc.Frame] = f
	u.order = append(u.order, f)
	for _, key := range frame.Bases {
		if loc, ok := u.b.x.Lookup(key); ok && depth < maxDepth {
			base := u.need(loc.Ordinal, depth+1)
			base.shared = true
			f.bases = append(f.bases, unitBase{base, loc.Pos, loc.Size})
		} else {
			f.err = &DamageError{Kind: DamageBlobGone, Object: "blob " + key.String(), Detail: "the base of a delta is in no pack of the index"}
		}
	}
	return f
}

// fetchRange is a range of a pack that holds frames.
type fetchRange struct {
	frames []*unitFrame
	start  uint32
	length int
}

// ranges groups the frames that one request each can fetch.
func (u *unit) ranges() (ranges []fetchRange, total int) {
	slices.SortFunc(u.order, func(a, b *unitFrame) int { return cmp.Compare(a.first, b.first) })
	for frames := u.order; len(frames) > 0; {
		first := frames[0]
		n, end := 1, first.Offset+first.Length
		for n < len(frames) && frames[n].pack == first.pack && frames[n].Offset <= end+maxGap &&
			frames[n].Offset+frames[n].Length-first.Offset <= maxRange {
			end = frames[n].Offset + frames[n].Length
			n++
		}
		ranges = append(ranges, fetchRange{frames[:n], first.Offset, int(end - first.Offset)})
		total += int(end - first.Offset)
		frames = frames[n:]
	}
	return ranges, total
}

// fetch reads the sealed frames. What can't be read is noted in the frames.
func (u *unit) fetch(ctx context.Context) error {
	ranges, total := u.ranges()
	raw := slices.Grow(u.s.raw[:0], total)[:total]
	u.s.raw = raw
	for _, r := range ranges {
		f := r.frames[0]
		got, err := u.b.r.storeFor(f.kind).Get(ctx, packName(f.packID), int64(r.start), int64(r.length), raw[:0:r.length])
		raw = raw[r.length:]
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			for _, f := range r.frames {
				f.err = packError(f.packID, err)
			}
			continue
		}
		if u.b.o.OnDownload != nil {
			u.b.o.OnDownload(int64(r.length))
		}
		for _, f := range r.frames {
			f.sealed = got[f.Offset-r.start : f.Offset-r.start+f.Length]
		}
	}
	return nil
}

// plain decodes a frame, its bases first.
func (u *unit) plain(f *unitFrame) ([]byte, error) {
	if f.err != nil || f.plain != nil {
		return f.plain, f.err
	}
	if f.busy {
		f.err = &DamageError{Kind: DamageIndex, Object: packName(f.packID), Detail: "holds a delta that rests on itself"}
		return nil, f.err
	}
	f.busy = true
	defer func() { f.busy = false }()
	var base []byte
	for _, part := range f.bases {
		plain, err := u.plain(part.frame)
		if err != nil {
			f.err = fmt.Errorf("reading a delta's base: %w", err)
			return nil, f.err
		}
		blob := plain[part.pos : part.pos+part.size]
		if len(f.bases) == 1 {
			base = blob
		} else {
			base = append(base, blob...)
		}
	}
	s := &u.s.frame
	if f.shared {
		s = &frameScratch{}
	}
	plain, err := u.b.r.openVerified(f.packID, f.kind, &f.Frame, f.sealed, base, s)
	if err != nil {
		f.err = err
	} else if f.shared {
		f.plain = plain
	}
	f.sums = s.sums
	return plain, err
}

// readUnit fetches a unit and hands out the blobs in it.
func (b *batch) readUnit(ctx context.Context, wants []want) error {
	s, ok := b.scratch.Get().(*unitScratch)
	if !ok {
		s = &unitScratch{}
	}
	defer b.scratch.Put(s)
	u := &unit{b: b, s: s, frames: map[index.FrameRef]*unitFrame{}}
	for _, w := range wants {
		u.need(w.blob, 0)
	}
	if err := u.fetch(ctx); err != nil {
		return err
	}
	for len(wants) > 0 {
		n := 1
		for n < len(wants) && wants[n].frame == wants[0].frame {
			n++
		}
		part := wants[:n]
		wants = wants[n:]
		f := u.frames[part[0].frame]
		plain, err := u.plain(f)
		if err != nil {
			if err := b.others(ctx, part, err); err != nil {
				return err
			}
			continue
		}
		for _, w := range part {
			_, loc := b.x.At(w.blob)
			if f.sums[w.blob-f.first] != b.ids[w.i] { // the index knows half of the id
				if err := b.bad(w.i, notThis(b.ids[w.i])); err != nil {
					return err
				}
				continue
			}
			if err := b.fn(int(w.i), plain[loc.Pos:loc.Pos+loc.Size]); err != nil {
				return err
			}
		}
	}
	return ctx.Err()
}

// others tries the other copies of blobs that could not be read.
func (b *batch) others(ctx context.Context, wants []want, cause error) error {
	for _, w := range wants {
		data, err := b.r.blobAt(ctx, b.x, index.KeyOf(b.ids[w.i]), 0)
		if err == nil {
			data, err = b.r.verified(b.ids[w.i], data)
		}
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err := b.bad(w.i, cause); err != nil {
				return err
			}
			continue
		}
		if err := b.fn(int(w.i), data); err != nil {
			return err
		}
	}
	return nil
}
