package repo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/whole-tale/wtsnap/index"
	"github.com/whole-tale/wtsnap/repo/storage"
)

const (
	// mergeSegments is how many index segments may pile up before some are merged, mergeLeast how many it takes, and
	// segmentBlobs how many blobs a merged segment lists at most.
	mergeSegments = 16
	mergeLeast    = 4
	segmentBlobs  = 200_000
	// mergeMost is how many blobs are merged at most: segments are chosen by what they take, and may hold a thousand times
	// as much where somebody has made them to.
	mergeMost = 16 * segmentBlobs
)

var errMergeLarge = errors.New("segments that list too much to be merged")

func listedBlobs(packs []index.Pack) (n int64) {
	for _, p := range packs {
		for _, f := range p.Frames {
			n += int64(len(f.Blobs))
		}
	}
	return n
}

// segmentSizes returns the sizes of the index segments, from a listing.
func (r *Repository) segmentSizes(ctx context.Context) (map[index.SegmentID]int64, error) {
	sizes := map[index.SegmentID]int64{}
	err := r.cached.List(ctx, indexDir, func(i storage.Info) error {
		id, err := index.ParseSegmentID(path.Base(i.Name))
		sizes[id] = i.Size
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listing the index: %w", err)
	}
	return sizes, nil
}

// chooseMerge returns the segments that are worth merging, if there are many: such that each is no more than twice as
// large as the smaller ones together. What one night adds is so rewritten a few times, and not each time; what is as
// large as a merged segment can be is left alone.
func chooseMerge(sizes map[index.SegmentID]int64) []index.SegmentID {
	const full = segmentBlobs * segmentBlobBytes / 2
	type segment struct {
		id   index.SegmentID
		size int64
	}
	var all []segment
	for id, size := range sizes {
		if size < full {
			all = append(all, segment{id, size})
		}
	}
	if len(all) <= mergeSegments {
		return nil
	}
	slices.SortFunc(all, func(a, b segment) int { return cmp.Or(cmp.Compare(a.size, b.size), slices.Compare(a.id[:], b.id[:])) })
	for len(all) > 0 {
		n, sum := 1, all[0].size
		for n < len(all) && all[n].size <= 2*sum {
			sum += all[n].size
			n++
		}
		if n >= mergeLeast {
			var ids []index.SegmentID
			for _, s := range all[:n] {
				ids = append(ids, s.id)
			}
			return ids
		}
		all = all[n:]
	}
	return nil
}

// segmentWriter stores packs in index segments of up to segmentBlobs blobs, each pack once. Memory: the packs of one.
type segmentWriter struct {
	r     *Repository
	ids   []index.SegmentID // stored; where that failed, they may be
	seen  map[index.PackID]bool
	packs []index.Pack
	blobs int
}

func (w *segmentWriter) add(ctx context.Context, p index.Pack) error {
	if w.seen[p.ID] {
		return nil
	}
	w.seen[p.ID] = true
	w.packs = append(w.packs, p)
	for _, f := range p.Frames {
		w.blobs += len(f.Blobs)
	}
	if w.blobs >= segmentBlobs {
		return w.flush(ctx)
	}
	return nil
}

func (w *segmentWriter) flush(ctx context.Context) error {
	if len(w.packs) == 0 {
		return nil
	}
	id, err := w.r.writeSegment(ctx, w.packs)
	if id != (index.SegmentID{}) {
		w.ids = append(w.ids, id)
	}
	w.packs, w.blobs = nil, 0
	return err
}

// takeBack removes what was stored, or may be, if the lease is lost by now: the machine slept since it looked at what it lists,
// and others may have removed packs meanwhile, on which backups would rely.
func (w *segmentWriter) takeBack(ctx context.Context, l *lease) error {
	err := l.check()
	if err == nil {
		return nil
	}
	for _, id := range w.ids {
		err = errors.Join(err, w.r.dropSegment(context.WithoutCancel(ctx), id))
	}
	return err
}

// mergeIndex replaces index segments that choose picks by one, or few. Prunes replace segments as well, and then remove
// packs: a segment that lists these again would be one before its packs. So it does nothing where a prune is at work, and
// its lease, which from then on has seen no condemned list, keeps those that begin later from removing any. A segment of
// which a pack is not there stays as it is: its writer may have slept while a prune removed the pack, and is about to
// take the segment back.
//
// What is left where it is interrupted is segments that list the same packs, which is harmless.
func (r *Repository) mergeIndex(ctx context.Context, l *lease, choose func(map[index.SegmentID]int64) []index.SegmentID) error {
	if err := l.alone(ctx); errors.Is(err, ErrBusy) {
		return nil // that prune merges them
	} else if err != nil {
		return err
	}
	if r.DeletesDenied() {
		return nil // what is merged could not be removed
	}
	sizes, err := r.segmentSizes(ctx)
	if err != nil {
		return err
	}
	ids := choose(sizes)
	if len(ids) < 2 {
		return nil
	}
	segments := make([][]index.Pack, len(ids))
	var blobs atomic.Int64
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(loadDecoders)
	for i, id := range ids {
		g.Go(func() (err error) {
			if segments[i], err = r.readSegment(gctx, id); err == nil && blobs.Add(listedBlobs(segments[i])) > mergeMost {
				err = errMergeLarge
			}
			return err
		})
	}
	if err := g.Wait(); errors.Is(err, storage.ErrNotExist) || errors.Is(err, errMergeLarge) {
		return nil // another writer merges them; or they stay as they are
	} else if err != nil {
		return err
	}
	stored := map[index.PackID]int64{}
	err = r.st.List(ctx, packsDir, func(i storage.Info) error { // after the segments
		if id, err := index.ParsePackID(path.Base(i.Name)); err == nil {
			stored[id] = i.Size
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("listing packs: %w", err)
	}
	if err := l.check(); err != nil {
		return err
	}
	w := segmentWriter{r: r, seen: map[index.PackID]bool{}}
	var old []index.SegmentID
	for i, packs := range segments {
		if slices.ContainsFunc(packs, func(p index.Pack) bool { return stored[p.ID] != p.Size }) {
			continue
		}
		old = append(old, ids[i])
		for _, p := range packs {
			if err = w.add(ctx, p); err != nil {
				break
			}
		}
	}
	err = errors.Join(err, w.flush(ctx))
	if err = errors.Join(err, w.takeBack(ctx, l)); err != nil {
		return err
	}
	for _, id := range old {
		if err := r.dropSegment(ctx, id); r.noteDenied(err) {
			return nil // a prune on a machine that may removes them; two segments that list a pack are harmless
		} else if err != nil {
			return err
		}
	}
	return nil
}

// dropSegment removes a segment that others replace.
func (r *Repository) dropSegment(ctx context.Context, id index.SegmentID) error {
	if err := r.cached.Delete(ctx, segmentName(id)); err != nil {
		return fmt.Errorf("removing %s: %w", segmentName(id), err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.segments, id)
	return nil
}
