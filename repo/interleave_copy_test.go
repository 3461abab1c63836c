package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/index"
	"github.com/whole-tale/wtsnap/repo/storage"
)

// withCopy gives the walk a second repository, with a key of its own and snapshots like the first one's.
func (w *walk) withCopy(base *testRepo) {
	w.copied = map[SnapshotRef]SnapshotRef{}
	w.copy = stage3(w.t, base, func(ref SnapshotRef) { w.copied[ref] = SnapshotRef{} })
}

// castMore starts the actors that not every random walk has.
func (w *walk) castMore() {
	if w.copy != nil {
		w.start("copy", w.copier)
		if w.seed%3 == 1 {
			w.start("copy 2", w.copier)
		}
		w.start("prune of the copy", func(a *actor, _ *Repository) error { return w.pruner(a, a.open(w.copy)) })
		w.start("forgetter there", func(a *actor, _ *Repository) error { return w.forgetter(a, a.open(w.copy)) })
	}
	switch w.seed % 6 {
	case 2:
		w.start("repair index", w.indexRepairer)
	case 4, 5:
		w.start("repair packs", w.packRepairer)
	}
}

// copier copies the snapshots into the other repository.
func (w *walk) copier(a *actor, r *Repository) (err error) {
	ctx := context.Background()
	s, err := a.open(w.copy).Begin(ctx, SessionOptions{Level: chunk.LevelNone, Uploads: 1})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close(ctx)) }()
	refs, err := r.Snapshots(ctx)
	if err != nil {
		return err
	}
	if err := r.LoadIndex(ctx); err != nil {
		return err
	}
	c := NewCopier(r, s)
	for _, ref := range refs {
		manifest, err := r.Manifest(ctx, ref)
		if err == nil {
			manifest, err = copyContent(ctx, r, s, c, manifest)
		}
		if err != nil {
			if s.failed() != nil {
				return err
			}
			if _, serr := w.tr.mem.Stat(ctx, ref.Name()); serr == nil {
				return fmt.Errorf("copying %s: %w", ref.ID.Short(), err)
			}
			continue // it was forgotten and swept, or a checkpoint
		}
		to, err := s.Commit(ctx, Payload{ID: ref.ID, Instance: "a", Time: ref.Time, Data: manifest})
		if err != nil {
			return err
		}
		w.count(&w.tally.Copies)
		w.mu.Lock()
		w.copied[to] = ref
		w.mu.Unlock()
	}
	return nil
}

// copyContent copies what a manifest refers to, and returns the other repository's manifest.
func copyContent(ctx context.Context, from *Repository, s *Session, c *Copier, manifest []byte) ([]byte, error) {
	trees, err := decodeIDs(manifestMagic, manifest)
	if err != nil {
		return nil, err
	}
	w := s.Writer()
	for i, tree := range trees {
		data, err := from.Blob(ctx, tree)
		if err != nil {
			return nil, err
		}
		ids, err := decodeIDs(treeMagic, data)
		if err != nil {
			return nil, err
		}
		got := make([]chunk.ID, len(ids))
		if err := c.Copy(ctx, ids, ReadOptions{}, func(i int, id chunk.ID) { got[i] = id }); err != nil {
			return nil, err
		}
		if slices.Contains(got, chunk.ID{}) {
			return nil, errors.New("a blob was not copied")
		}
		if trees[i], _, err = w.Put(ctx, index.Tree, encodeIDs(treeMagic, got)); err != nil {
			return nil, err
		}
	}
	return encodeIDs(manifestMagic, trees), nil
}

// same fails if a copy and what it is a copy of differ.
func (w *walk) same() {
	ctx := context.Background()
	read := func(tr *testRepo, ref SnapshotRef) content {
		r := tr.open(tr.mem)
		manifest, err := r.Manifest(ctx, ref)
		if err != nil {
			return nil // forgotten and swept
		}
		c, err := readContent(ctx, r, manifest)
		if err != nil {
			return nil // forgotten: whole has read those that are not
		}
		return c
	}
	for there, here := range w.copied {
		if here == (SnapshotRef{}) {
			continue
		}
		a, b := read(w.tr, here), read(w.copy, there)
		if a != nil && b != nil && !slices.EqualFunc(a, b, func(x, y [][]byte) bool { return slices.EqualFunc(x, y, bytes.Equal) }) {
			w.fail("the copy of snapshot %s is not what it is a copy of", here.ID.Short())
		}
	}
}

// indexRepairer lists what no segment lists: what writers have just stored, too.
func (w *walk) indexRepairer(a *actor, r *Repository) error {
	rep, err := r.RepairIndex(context.Background(), false)
	if errors.Is(err, ErrBusy) {
		w.count(&w.tally.Busy)
		return nil
	}
	if err == nil && rep.Unlisted.Packs > 0 {
		w.count(&w.tally.RepairedIndexes)
	}
	return err
}

// packRepairer gives up packs that are whole: all that is in them is stored anew.
func (w *walk) packRepairer(a *actor, r *Repository) error {
	ctx := context.Background()
	for range 2 {
		if err := r.LoadIndex(ctx); err != nil {
			return err
		}
		var ids []index.PackID
		for _, info := range r.Index().Packs() {
			if !info.Condemned && w.chance(30) {
				ids = append(ids, info.ID)
			}
		}
		if len(ids) == 0 {
			continue
		}
		rep, err := r.RepairPacks(ctx, ids, false)
		switch {
		case errors.Is(err, ErrBusy):
			w.count(&w.tally.Busy)
		case errors.Is(err, storage.ErrNotExist): // a prune has removed it meanwhile
		case err != nil:
			return err
		case rep.Lost > 0:
			return fmt.Errorf("%d blobs of %d packs that are whole were lost", rep.Lost, len(ids))
		default:
			w.count(&w.tally.RepairedPacks)
		}
		if w.plan == nil {
			time.Sleep(40 * time.Minute)
		}
	}
	return nil
}
