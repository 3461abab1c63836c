package repo

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/index"
	"github.com/whole-tale/wtsnap/repo/storage"
)

// PackRepair is what RepairPacks found, and did or would do.
type PackRepair struct {
	Packs  []index.PackID // damaged or gone
	Saved  int            // blobs that can be read, or that other packs hold
	Lost   int            // blobs that can't be had; a backup of the same data stores them again
	Stored int64          // bytes of the packs that what could be read went into
}

// RepairPacks gives packs up: what can be read in them is stored anew, and they are condemned, so that
// writers count what is lost as absent and store it again where the sources still have it. Without ids it
// looks for the packs that the index lists and that are not there, or have another size; packs with
// changed bytes must be named, Check with ReadShare 1 finds them. With dryRun it only looks. ErrBusy: a
// prune is at work.
func (r *Repository) RepairPacks(ctx context.Context, ids []index.PackID, dryRun bool) (rep *PackRepair, err error) {
	l, err := r.newLease(ctx, leaseWriter)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, l.remove(context.WithoutCancel(ctx))) }()
	if !dryRun {
		if err := l.alone(ctx); err != nil {
			return nil, err
		}
	}
	if err := r.LoadIndex(ctx); err != nil {
		return nil, err
	}
	x := r.Index()
	rep = &PackRepair{Packs: ids}
	if len(ids) == 0 {
		if rep.Packs, err = r.damagedPacks(ctx, x); err != nil {
			return nil, err
		}
	}
	for _, id := range rep.Packs {
		if _, ok := x.FindPack(id); !ok {
			return nil, fmt.Errorf("pack %s: the index does not list it: %w", id, storage.ErrNotExist)
		}
		x.Condemn(id) // so that its copies do not count; dryRun or not, this process is done with them
	}
	s := newSession(ctx, r, SessionOptions{}, l)
	defer s.stop(ctx)
	for _, id := range rep.Packs {
		if err := r.salvage(ctx, s, id, rep, dryRun); err != nil {
			return rep, err
		}
	}
	if dryRun || len(rep.Packs) == 0 {
		return rep, nil
	}
	if err := s.flush(ctx); err != nil {
		return rep, err
	}
	rep.Stored = s.stats.stored.Load()
	if err := l.check(); err != nil {
		return rep, err
	}
	_, err = r.putCondemned(ctx, rep.Packs, true)
	return rep, err
}

// damagedPacks lists the packs of the index that are not there or have another size, but for those that
// are condemned already.
func (r *Repository) damagedPacks(ctx context.Context, x *index.Index) ([]index.PackID, error) {
	sizes := map[string]int64{}
	err := r.st.List(ctx, packsDir, func(i storage.Info) error {
		sizes[path.Base(i.Name)] = i.Size
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("listing packs: %w", err)
	}
	var ids []index.PackID
	for _, info := range x.Packs() {
		if size, ok := sizes[info.ID.String()]; (!ok || size != info.Size) && !info.Condemned {
			ids = append(ids, info.ID)
		}
	}
	slices.SortFunc(ids, func(a, b index.PackID) int { return slices.Compare(a[:], b[:]) })
	return ids, nil
}

// salvage stores the frames of a pack that can be read, and that hold something that no other pack has. What cannot be read
// there is taken from packs that are condemned and still there.
func (r *Repository) salvage(ctx context.Context, s *Session, id index.PackID, rep *PackRepair, dryRun bool) error {
	ctx = storage.WithCaching(ctx, storage.CacheBypass)
	ref, _ := s.index.FindPack(id)
	kind := s.index.Pack(ref).Kind
	var scratch frameScratch
	w := s.Writer()
	for _, f := range s.index.Frames(ref) {
		missing := 0
		for _, b := range f.Blobs {
			if !s.index.Has(b.Key) {
				missing++
			}
		}
		rep.Saved += len(f.Blobs) - missing
		if missing == 0 {
			continue
		}
		sealed, err := r.storeFor(kind).Get(ctx, packName(id), int64(f.Offset), int64(f.Length), nil)
		if err == nil {
			_, err = r.decodeFrame(ctx, s.index, id, kind, &f, sealed, &scratch)
		} else {
			err = packError(id, err)
		}
		var d *DamageError
		switch {
		case errors.As(err, &d):
			if err := r.salvageCopies(ctx, s, w, kind, &f, rep, dryRun); err != nil {
				return err
			}
			continue
		case err != nil:
			return err
		}
		rep.Saved += missing
		if dryRun {
			continue
		}
		if err := s.putSealed(ctx, kind, f, sealed); err != nil {
			return err
		}
	}
	return nil
}

// salvageCopies stores the blobs of a frame that lie only in packs that are condemned. The lease keeps these from being swept.
func (r *Repository) salvageCopies(ctx context.Context, s *Session, w *Writer, kind index.Kind, f *index.Frame, rep *PackRepair, dryRun bool) error {
	for _, b := range f.Blobs {
		if s.index.Has(b.Key) {
			continue // it was counted
		}
		var plain []byte
		err := error(nil)
		for _, loc := range s.index.Lookups(b.Key) {
			if slices.Contains(rep.Packs, loc.PackID) {
				continue
			}
			if plain, err = r.nearby(ctx, s.index, loc, nil); err == nil {
				break
			}
			if d := (*DamageError)(nil); !errors.As(err, &d) {
				return err
			}
		}
		if plain == nil {
			rep.Lost++
			continue
		}
		rep.Saved++
		if dryRun {
			continue
		}
		if _, _, err := w.Put(ctx, kind, plain); err != nil {
			return err
		}
	}
	return nil
}

// Losses returns a function that reports whether a blob is lost: whether no copy of it, with all that it is a delta of, lies
// in packs that are there with their size and were not given up. Packs with changed bytes are whole to it until they are
// given up. The function may be called concurrently.
func (r *Repository) Losses(ctx context.Context) (lost func(id chunk.ID) bool, err error) {
	lists, err := r.condemnedLists(ctx)
	if err != nil {
		return nil, err
	}
	if err := r.LoadIndex(ctx); err != nil {
		return nil, err
	}
	sizes := map[string]int64{}
	err = r.st.List(ctx, packsDir, func(i storage.Info) error {
		sizes[path.Base(i.Name)] = i.Size
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("listing packs: %w", err)
	}
	x, without := r.Index(), map[index.PackID]bool{}
	for _, list := range lists {
		for _, id := range list.packs {
			without[id] = without[id] || list.Damaged
		}
	}
	for _, info := range x.Packs() {
		if size, ok := sizes[info.ID.String()]; !ok || size != info.Size {
			without[info.ID] = true
		}
	}
	m := newMarker(x, without)
	return func(id chunk.ID) bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		_, ok := m.choose(index.KeyOf(id), nil, rankLost)
		return !ok
	}, nil
}
