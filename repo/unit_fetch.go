package repo

import (
	"cmp"
	"context"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/index"
)

// What a unit reads of the storage.

// fetchRange is a range of a pack that holds frames.
type fetchRange struct {
	frames []*unitFrame
	start  uint32
	length int
}

// ranges groups frames that one request each can fetch.
func ranges(frames []*unitFrame) (ranges []fetchRange, total int) {
	for len(frames) > 0 {
		first := frames[0]
		n, end := 1, first.Offset+first.Length
		for n < len(frames) && frames[n].pack == first.pack && frames[n].Offset <= end+unitGap &&
			frames[n].Offset+frames[n].Length-first.Offset <= 2*maxRange {
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
	slices.SortFunc(u.order, func(a, b *unitFrame) int { return cmp.Compare(a.first, b.first) })
	going := &patchFetch{done: make(chan struct{})}
	var own, others []*unitFrame // to be fetched here, and to be had from who fetches them for several units
	for _, f := range u.order {
		if f.Encoding != chunk.Patched && u.b.patches.claim(f, going) {
			own = append(own, f)
		} else {
			others = append(others, f)
		}
	}
	err := u.fetchOwn(ctx, own)
	u.b.patches.deliver(own, going) // before it waits for others, so that no two wait for each other
	if err != nil {
		return err
	}
	var g errgroup.Group
	g.SetLimit(u.b.atOnce())
	for _, f := range others {
		g.Go(func() error {
			sealed, err := u.b.patches.get(ctx, f)
			if f.sealed = sealed; err != nil {
				f.err = packError(f.packID, err)
			}
			return ctx.Err()
		})
	}
	return g.Wait()
}

// unitReads is how many requests of a unit are on their way at a time, where the storage is far away.
const unitReads = 4

// atOnce returns how many requests of a unit may be on their way.
func (b *batch) atOnce() int {
	if b.r.stage.near {
		return 1
	}
	return unitReads
}

// get reads a range of a pack. No more than two for each worker are on their way at a time.
func (b *batch) get(ctx context.Context, kind index.Kind, pack index.PackID, start uint32, length int, dst []byte) ([]byte, error) {
	select {
	case b.reads <- struct{}{}:
		defer func() { <-b.reads }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	data, err := b.r.storeFor(kind).Get(ctx, packName(pack), int64(start), int64(length), dst)
	if err == nil && b.o.OnDownload != nil {
		b.o.OnDownload(int64(length))
	}
	return data, err
}

// fetchOwn reads the frames that no other unit fetches, by few requests.
func (u *unit) fetchOwn(ctx context.Context, frames []*unitFrame) error {
	ranges, total := ranges(frames)
	for _, r := range ranges {
		if u.inMemory(r) {
			total -= r.length
		}
	}
	raw := slices.Grow(u.s.raw[:0], total)[:total]
	u.s.raw = raw
	var g errgroup.Group
	g.SetLimit(u.b.atOnce())
	for _, r := range ranges {
		if u.inMemory(r) {
			for _, f := range r.frames {
				f.sealed = u.file.data[f.Offset:][:f.Length]
			}
			continue
		}
		dst := raw[:0:r.length]
		raw = raw[r.length:]
		g.Go(func() error {
			u.fetchRange(ctx, r, dst)
			return ctx.Err()
		})
	}
	return g.Wait()
}

// fetchRange reads the frames of a range into dst, which has room for it.
func (u *unit) fetchRange(ctx context.Context, r fetchRange, dst []byte) {
	f := r.frames[0]
	got, err := u.b.get(ctx, f.kind, f.packID, r.start, r.length, dst)
	for _, f := range r.frames {
		if err != nil {
			f.err = packError(f.packID, err)
		} else {
			f.sealed = got[f.Offset-r.start : f.Offset-r.start+f.Length]
		}
	}
}

// packFile is a pack that is in memory as a whole.
type packFile struct {
	id   index.PackID
	data []byte
}

// inMemory reports whether a range need not be fetched.
func (u *unit) inMemory(r fetchRange) bool {
	return u.file != nil && u.file.id == r.frames[0].packID && int(r.start)+r.length <= len(u.file.data)
}
