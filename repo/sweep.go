package repo

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/whole-tale/wtsnap/index"
	"github.com/whole-tale/wtsnap/repo/storage"
)

// putCondemned stores a condemned list. Packs that are damaged stay on it as long as a snapshot needs
// them.
func (r *Repository) putCondemned(ctx context.Context, packs []index.PackID, damaged bool) (condemnedList, error) {
	id, err := randomID()
	if err != nil {
		return condemnedList{}, err
	}
	c := condemnedList{ID: hex.EncodeToString(id[:]), Time: time.Now().UTC(), Damaged: damaged, packs: packs}
	c.name = condemnedDir + c.ID
	for _, pack := range packs {
		c.Packs = append(c.Packs, pack.String())
	}
	data, err := json.Marshal(c)
	if err != nil {
		return condemnedList{}, err
	}
	return c, r.writeObject(ctx, c.name, data)
}

// doSweep removes what the chosen lists name. The manifests that were forgotten before and lose something
// by it go first: what can still be brought back is whole. Then go the packs' lines in the index, the
// packs, and the lists.
func (p *PrunePlan) doSweep(ctx context.Context) error {
	gone := map[index.PackID]bool{}
	for _, list := range p.sweep {
		for _, id := range list.remove {
			gone[id] = true
		}
	}
	if err := p.sweepForgotten(ctx, gone); err != nil {
		return err
	}
	if err := p.rewriteSegments(ctx, gone); err != nil {
		return err
	}
	for id := range gone {
		if err := p.remove(ctx, packName(id)); err != nil {
			return err
		}
	}
	for _, list := range p.sweep {
		if list.partly {
			continue // as after a prune that died here, the next one goes on with it
		}
		if err := p.remove(ctx, list.name); err != nil {
			return err
		}
	}
	return nil
}

// remove removes an object, unless others may have taken this prune for dead meanwhile.
func (p *PrunePlan) remove(ctx context.Context, name string) error {
	if err := p.lease.check(); err != nil {
		return err
	}
	// Through the cache, so that it forgets the object as well.
	if err := p.r.cached.Delete(ctx, name); err != nil {
		return fmt.Errorf("removing %s: %w", name, err)
	}
	return nil
}

// sweepForgotten removes the manifests whose data is about to go, and the notes on them.
func (p *PrunePlan) sweepForgotten(ctx context.Context, gone map[index.PackID]bool) error {
	doomed, err := p.doomed(ctx, gone)
	if err != nil || len(doomed) == 0 {
		return err
	}
	notes, err := p.r.annotationInfos(ctx)
	if err != nil {
		return err
	}
	refs, err := p.r.Snapshots(ctx)
	if err != nil {
		return err
	}
	for _, ref := range refs {
		delete(notes, ref.ID) // one whose manifest was damaged and is there again has the same
	}
	for _, ref := range doomed {
		for _, info := range append(notes[ref.ID], storage.Info{Name: ref.forgottenName()}) {
			if err := p.remove(ctx, info.Name); err != nil {
				return err
			}
		}
	}
	return nil
}

// doomed returns the forgotten snapshots that refer to something that is not in the index but for the
// packs of gone. One whose references can't be found out stays.
func (p *PrunePlan) doomed(ctx context.Context, gone map[index.PackID]bool) ([]SnapshotRef, error) {
	if len(gone) == 0 {
		return nil, nil
	}
	refs, err := p.r.Forgotten(ctx)
	if err != nil {
		return nil, err
	}
	var doomed []SnapshotRef
	for _, ref := range refs {
		data, err := p.r.Manifest(ctx, ref)
		if errors.Is(err, storage.ErrNotExist) {
			continue
		}
		var damage *DamageError
		if errors.As(err, &damage) { // it can't be brought back in any case
			doomed = append(doomed, ref)
			continue
		}
		m := newMarker(p.index, gone)
		m.keep = p.used // a repack writes these anew
		if err == nil {
			err = p.o.References(ctx, data, m.visit)
		}
		if err != nil && !errors.As(err, &damage) {
			return nil, fmt.Errorf("forgotten snapshot %s: %w", ref.ID.Short(), err)
		}
		if m.err() != nil {
			doomed = append(doomed, ref)
		}
	}
	return doomed, nil
}

// rewriteSegments replaces the index segments that list a pack of gone by ones that do not, and merges
// those that the plan says. Memory: the packs of one new segment.
func (p *PrunePlan) rewriteSegments(ctx context.Context, gone map[index.PackID]bool) error {
	if len(gone) == 0 && len(p.merge) == 0 {
		return nil
	}
	w := segmentWriter{r: p.r, seen: map[index.PackID]bool{}}
	old, err := p.writeSegments(ctx, gone, &w)
	if err = errors.Join(err, w.takeBack(ctx, p.lease)); err != nil {
		return err
	}
	for _, id := range old {
		if err := p.remove(ctx, segmentName(id)); err != nil {
			return err
		}
	}
	return nil
}

// writeSegments stores the new segments, and returns those that they replace.
func (p *PrunePlan) writeSegments(ctx context.Context, gone map[index.PackID]bool, w *segmentWriter) (old []index.SegmentID, err error) {
	sizes, err := p.r.segmentSizes(ctx)
	if err != nil {
		return nil, err
	}
	ids := slices.SortedFunc(maps.Keys(sizes), func(a, b index.SegmentID) int { return slices.Compare(a[:], b[:]) })
	for _, id := range ids {
		packs, err := p.r.readSegment(ctx, id)
		if errors.Is(err, storage.ErrNotExist) {
			continue // a writer has merged it, or had slept and took it back
		}
		if err != nil {
			return nil, err
		}
		if !slices.Contains(p.merge, id) && !slices.ContainsFunc(packs, func(q index.Pack) bool { return gone[q.ID] }) {
			continue
		}
		old = append(old, id)
		for _, q := range packs {
			if gone[q.ID] {
				continue
			}
			if err := w.add(ctx, q); err != nil {
				return nil, err
			}
		}
	}
	return old, w.flush(ctx)
}
