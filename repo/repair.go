package repo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/whole-tale/wtsnap/index"
	"github.com/whole-tale/wtsnap/repo/storage"
)

// IndexRepair is what RepairIndex found, and did or would do.
type IndexRepair struct {
	Unlisted   PackTotals // packs that no readable segment lists, and whose directory can be read
	Unreadable []Problem  // packs whose directory can't be read; they stay as they are
	Damaged    []string   // index segments that can't be read, by name; removed once the packs are listed
	Gone       PackTotals // packs that the index lists and that are not there; they stay listed, for check to name
}

// RepairIndex lists the packs that the index does not list, from their own directories: 2 small reads a
// pack. Segments that can't be read are removed after that. With dryRun it only looks. ErrBusy where a
// prune is at work: a pack that is about to be removed must not be listed again.
func (r *Repository) RepairIndex(ctx context.Context, dryRun bool) (rep *IndexRepair, err error) {
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
	rep = &IndexRepair{}
	listed, err := r.readableSegments(ctx, rep)
	if err != nil {
		return rep, err
	}
	var unlisted []storage.Info
	err = r.st.List(ctx, packsDir, func(i storage.Info) error {
		id, err := index.ParsePackID(path.Base(i.Name))
		if err != nil {
			return nil // check names it
		}
		if _, ok := listed[id]; !ok {
			unlisted = append(unlisted, i)
		}
		delete(listed, id)
		return nil
	})
	if err != nil {
		return rep, fmt.Errorf("listing packs: %w", err)
	}
	for _, size := range listed {
		rep.Gone.add(size)
	}
	packs, err := r.readDirectories(ctx, unlisted, rep)
	if err != nil || dryRun {
		return rep, err
	}
	if err := l.check(); err != nil {
		return rep, err // a prune may have removed some of them
	}
	if len(packs) > 0 {
		if err := r.listAnew(ctx, l, packs); err != nil {
			return rep, err
		}
	}
	for _, name := range rep.Damaged {
		if err := r.cached.Delete(ctx, name); err != nil {
			return rep, fmt.Errorf("removing the damaged %s: %w", name, err)
		}
	}
	return rep, nil
}

// listAnew stores index segments for packs that none lists. Each is stored while the lease holds, or taken back.
func (r *Repository) listAnew(ctx context.Context, l *lease, packs []index.Pack) error {
	w := segmentWriter{r: r, seen: map[index.PackID]bool{}}
	var err error
	for _, p := range packs {
		if err = w.add(ctx, p); err != nil {
			break
		}
	}
	if err == nil {
		err = w.flush(ctx)
	}
	return errors.Join(err, w.takeBack(ctx, l))
}

// readableSegments returns the packs, with their sizes, of all segments that can be read from the
// backend itself.
func (r *Repository) readableSegments(ctx context.Context, rep *IndexRepair) (map[index.PackID]int64, error) {
	listed := map[index.PackID]int64{}
	var names []string
	err := r.st.List(ctx, indexDir, func(i storage.Info) error {
		names = append(names, i.Name)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("listing the index: %w", err)
	}
	for _, name := range names {
		data, err := r.st.Get(ctx, name, 0, -1, nil)
		if errors.Is(err, storage.ErrNotExist) {
			continue // a prune replaced it
		}
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", name, err)
		}
		var packs []index.Pack
		if content, oerr := r.keys.openObject(name, data); oerr != nil {
			err = oerr
		} else {
			packs, err = index.DecodeSegment(content)
		}
		if err != nil {
			rep.Damaged = append(rep.Damaged, name)
			continue
		}
		for _, p := range packs {
			listed[p.ID] = p.Size
		}
	}
	slices.Sort(rep.Damaged)
	return listed, nil
}

// readDirectories reads the directories of packs.
func (r *Repository) readDirectories(ctx context.Context, infos []storage.Info, rep *IndexRepair) ([]index.Pack, error) {
	var mu sync.Mutex
	var packs []index.Pack
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(loadWorkers)
	for _, i := range infos {
		g.Go(func() error {
			p, err := r.readDirectory(ctx, i)
			mu.Lock()
			defer mu.Unlock()
			var d *DamageError
			switch {
			case errors.As(err, &d):
				rep.Unreadable = append(rep.Unreadable, Problem{Kind: d.Kind, Object: d.Object, Detail: d.Error(), Hint: d.Hint})
			case errors.Is(err, storage.ErrNotExist): // swept meanwhile
			case err != nil:
				return err
			default:
				rep.Unlisted.add(p.Size)
				packs = append(packs, p)
			}
			return nil
		})
	}
	err := g.Wait()
	slices.SortFunc(packs, func(a, b index.Pack) int { return slices.Compare(a.ID[:], b.ID[:]) })
	return packs, err
}

func (r *Repository) readDirectory(ctx context.Context, i storage.Info) (index.Pack, error) {
	damage := func(err error) error {
		return &DamageError{Kind: DamageOpen, Object: i.Name, Detail: "its directory can't be read", Err: err,
			Hint: "an upload that broke off leaves such a pack; prune removes it"}
	}
	id, err := index.ParsePackID(path.Base(i.Name))
	if err != nil {
		return index.Pack{}, damage(err)
	}
	if i.Size < trailerSize {
		return index.Pack{}, damage(errors.New("it is too short for a trailer"))
	}
	sealed, err := r.st.Get(ctx, i.Name, i.Size-trailerSize, trailerSize, nil)
	if err != nil {
		return index.Pack{}, fmt.Errorf("reading %s: %w", i.Name, err)
	}
	offset, length, err := openTrailer(r.keys, sealed, i.Size)
	if err != nil {
		return index.Pack{}, damage(err)
	}
	sealed, err = r.st.Get(ctx, i.Name, offset, length, nil)
	if err != nil {
		return index.Pack{}, fmt.Errorf("reading %s: %w", i.Name, err)
	}
	kind, frames, err := openDirectory(r.keys, sealed, offset)
	if err != nil {
		return index.Pack{}, damage(err)
	}
	return index.Pack{ID: id, Kind: kind, Size: i.Size, Hash: i.Hash, Frames: frames}, nil
}

// RepairConfig makes the config anew where it is lost or damaged: each key object says which repository it is of, and only the
// password opens it as that. It reports false where the config is whole. With dryRun it only looks.
func RepairConfig(ctx context.Context, st storage.Storage, password []byte, dryRun bool) (made bool, err error) {
	_, err = readConfig(ctx, st)
	var damage *DamageError
	if err == nil || !errors.Is(err, ErrNoRepository) && !errors.As(err, &damage) {
		return false, err
	}
	there := damage != nil
	objects, err := keyObjects(ctx, st)
	if err != nil {
		return false, fmt.Errorf("listing keys: %w", err)
	}
	if len(objects) == 0 {
		return false, ErrNoRepository
	}
	trial := keyTrial{password: password}
	k, _, err := trial.find(ctx, st, objects)
	if err != nil {
		return false, err
	}
	if k == nil {
		return false, ErrWrongPassword
	}
	if dryRun {
		return true, nil
	}
	data, err := json.Marshal(config{Format: FormatVersion, ID: k.Repository, Made: k.Made})
	if err != nil {
		return false, err
	}
	if there { // storages may take other content of the same size for the same
		if err := st.Delete(ctx, configName); err != nil {
			return false, fmt.Errorf("removing the damaged config: %w", err)
		}
	}
	if _, err := st.Put(ctx, configName, append(data, '\n')); err != nil {
		return false, fmt.Errorf("storing the config: %w", err)
	}
	return true, nil
}
