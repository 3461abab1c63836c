package repo

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/index"
	"github.com/whole-tale/wtsnap/repo/storage"
)

// CheckOptions are the options of Check.
type CheckOptions struct {
	References References
	// Paths names what in a snapshot needs a blob that is lost; it may be nil. It is called for snapshots that lose
	// something, one at a time.
	Paths LostPaths
	// ReadShare is the share of the packs, from 0 to 1, whose every byte is read, opened, decoded and
	// hashed. Which packs is drawn anew each time, unless Part says otherwise.
	ReadShare float64
	// Part and Parts choose the packs to read by their ids: part Part (from 1) of Parts. All parts
	// together read every pack once. Zero: ReadShare decides.
	Part, Parts int
	Workers     int // packs read at a time; 0 means 4
	// OnPack is called after each pack that was read, from any goroutine. It may be nil.
	OnPack func(done, total int, bytes int64)
}

// LostPaths calls found for each path of a snapshot whose content, or whose folder, needs a blob that lost reports as lost.
type LostPaths func(ctx context.Context, manifest []byte, lost func(chunk.ID) bool, found func(path string)) error

// maxLostPaths bounds the paths that a problem names.
const maxLostPaths = 1000

// Problem is one thing that is wrong.
type Problem struct {
	Kind   string `json:"kind"`   // one of the Damage constants
	Object string `json:"object"` // the object's name, or what part of a snapshot is affected
	Detail string `json:"detail"`
	Hint   string `json:"hint,omitempty"`
	// Paths are what a snapshot has lost, wholly or in part: the first of them, Lost all.
	Paths []string `json:"paths,omitempty"`
	Lost  int      `json:"lost_paths,omitempty"`
}

// CheckReport says what a check saw.
type CheckReport struct {
	Packs, Blobs, Snapshots int
	PacksRead               int
	BytesRead               int64
	Orphans                 PackTotals // packs that no index lists: waste, not a problem
	Condemned               PackTotals
	Problems                []Problem
}

// checker is one run of Check.
type checker struct {
	r   *Repository
	o   CheckOptions
	x   *index.Index
	rep *CheckReport

	mu      sync.Mutex
	present map[index.PackID]bool  // packs that are there, with the right size
	bad     map[index.BlobRef]bool // blobs of frames that were read and could not be
	deltas  []index.BlobRef        // blobs of frames that were read and that rest on others
	filed   map[string]bool        // details of what deltas met, which many of them meet
}

func (c *checker) problem(p Problem) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rep.Problems = append(c.rep.Problems, p)
}

// damage files err as a problem. Errors that are no damage, such as a backend out of reach, come back.
func (c *checker) damage(object string, err error) error {
	var d *DamageError
	var f *FormatError
	switch {
	case errors.As(err, &d):
		p := Problem{Kind: d.Kind, Object: d.Object, Detail: strings.TrimPrefix(d.Error(), "damaged: "+d.Object+": "), Hint: d.Hint}
		if object != "" && object != d.Object {
			p.Object, p.Detail = object, d.Object+": "+p.Detail
		}
		c.problem(p)
	case errors.As(err, &f):
		c.problem(Problem{Kind: DamageDecode, Object: object, Detail: f.Error()})
	case errors.Is(err, storage.ErrNotExist):
		c.problem(Problem{Kind: DamageMissing, Object: object, Detail: err.Error()})
	default:
		return err
	}
	return nil
}

// Check looks for damage. The structure is always checked: every index segment and manifest opens,
// every blob that a snapshot refers to is indexed, and its pack is there with the recorded size and,
// where the backend tells it without a download, hash. Problems are in the report; an error means that
// the check itself could not go on.
func (r *Repository) Check(ctx context.Context, o CheckOptions) (*CheckReport, error) {
	if o.Workers <= 0 {
		o.Workers = 4
	}
	c := &checker{r: r, o: o, rep: &CheckReport{}, present: map[index.PackID]bool{}, bad: map[index.BlobRef]bool{},
		filed: map[string]bool{}}
	// What the backend has counts here, not the cache's copy of it.
	backend := storage.WithCaching(ctx, storage.CacheBypass)
	// Snapshots before the index and the index before the packs: what is committed meanwhile is whole.
	refs, err := r.Snapshots(backend)
	if err != nil {
		if err := c.damage(snapshotsDir, err); err != nil {
			return c.rep, err
		}
	}
	if err := c.loadIndex(backend); err != nil {
		return c.rep, err
	}
	if err := c.packs(backend); err != nil {
		return c.rep, err
	}
	// Packs before snapshots: what can't be read in them tells which snapshots are affected.
	if err := c.readPacks(ctx); err != nil {
		return c.rep, err
	}
	if err := c.readDeltas(ctx); err != nil {
		return c.rep, err
	}
	if err := c.snapshots(ctx, backend, refs); err != nil {
		return c.rep, err
	}
	if err := c.others(backend); err != nil {
		return c.rep, err
	}
	slices.SortStableFunc(c.rep.Problems, func(a, b Problem) int { return strings.Compare(a.Object, b.Object) })
	return c.rep, nil
}

// loadIndex loads each segment by itself, so that one damaged segment does not hide the others. Index
// segments are read from the backend, not from the cache, and so are manifests.
func (c *checker) loadIndex(ctx context.Context) error {
	c.r.mu.Lock()
	c.r.index, c.r.segments, c.r.lists = index.New(), map[index.SegmentID]bool{}, nil
	c.r.frames.clear()
	c.x = c.r.index
	c.r.mu.Unlock()
	lists, err := c.r.condemnedLists(ctx)
	if err != nil {
		return err
	}
	var infos []storage.Info
	var ids []index.SegmentID
	err = c.r.st.List(ctx, indexDir, func(i storage.Info) error {
		id, err := index.ParseSegmentID(path.Base(i.Name))
		if err != nil {
			c.problem(Problem{Kind: DamageIndex, Object: i.Name, Detail: "is not the name of an index segment", Hint: "remove it if you put it there"})
			return nil
		}
		infos, ids = append(infos, i), append(ids, id)
		return nil
	})
	if err != nil {
		return fmt.Errorf("listing the index: %w", err)
	}
	errs := make([]error, len(infos))
	get := func(ctx context.Context, i int) (data []byte, err error) {
		data, errs[i] = c.r.readObject(ctx, infos[i].Name)
		return data, ctx.Err()
	}
	err = inOrder(ctx, len(infos), smallAhead, func(i int) int64 { return infos[i].Size }, get, func(i int, data []byte) error {
		packs, err := decodeSegment(ids[i], data, errs[i])
		if errors.Is(err, storage.ErrNotExist) {
			return err
		}
		if err != nil {
			return c.damage(infos[i].Name, err)
		}
		for _, p := range packs {
			if _, err := c.x.AddPack(ids[i], p); err != nil {
				c.problem(Problem{Kind: DamageIndex, Object: infos[i].Name, Detail: err.Error()})
			}
		}
		c.r.mu.Lock()
		defer c.r.mu.Unlock()
		c.r.segments[ids[i]] = true
		return nil
	})
	if errors.Is(err, storage.ErrNotExist) { // others replace segments meanwhile
		c.rep.Problems = nil
		return c.loadIndex(ctx)
	}
	if err != nil {
		return err
	}
	for _, list := range lists {
		for _, id := range list.packs {
			c.x.Condemn(id)
		}
	}
	c.rep.Blobs = c.x.Len()
	return nil
}

// packs compares the listing of the backend with the index.
func (c *checker) packs(ctx context.Context) error {
	type seen struct {
		size int64
		hash string
	}
	stored := map[index.PackID]seen{}
	err := c.r.st.List(ctx, packsDir, func(i storage.Info) error {
		id, err := index.ParsePackID(path.Base(i.Name))
		if err != nil || i.Name != packName(id) {
			c.problem(Problem{Kind: DamageIndex, Object: i.Name, Detail: "is not the name of a pack", Hint: "remove it if you put it there"})
			return nil
		}
		stored[id] = seen{i.Size, i.Hash}
		return nil
	})
	if err != nil {
		return fmt.Errorf("listing packs: %w", err)
	}
	for _, info := range c.x.Packs() {
		got, ok := stored[info.ID]
		delete(stored, info.ID)
		if info.Condemned {
			if ok {
				c.rep.Condemned.add(got.size)
				c.present[info.ID] = got.size == info.Size
			}
			continue
		}
		c.rep.Packs++
		name := packName(info.ID)
		switch {
		case !ok:
			c.problem(Problem{Kind: DamageMissing, Object: name, Detail: "the index lists this pack, but it is not there", Hint: healHint})
		case got.size != info.Size:
			c.problem(Problem{Kind: DamageSize, Object: name, Detail: fmt.Sprintf("has %d bytes, the index says %d", got.size, info.Size), Hint: healHint})
		case got.hash != "" && info.Hash != "" && sameAlgorithm(got.hash, info.Hash) && got.hash != info.Hash:
			c.problem(Problem{Kind: DamageHash, Object: name, Detail: fmt.Sprintf("the backend says that its hash is %s, it was stored with %s", got.hash, info.Hash), Hint: healHint})
		default:
			c.present[info.ID] = true
		}
	}
	for _, s := range stored {
		c.rep.Orphans.add(s.size)
	}
	return nil
}

func sameAlgorithm(a, b string) bool {
	ka, _, _ := strings.Cut(a, ":")
	kb, _, _ := strings.Cut(b, ":")
	return ka == kb
}

// healHint says what to do about a pack that is damaged or gone.
const healHint = "wtsnap repair packs gives it up; the next backup then stores anew what the sources still have"

// snapshots follows every snapshot to its blobs. What several snapshots share is followed once; only if
// something is missing is each one followed by itself, so that all that are affected are named.
func (c *checker) snapshots(ctx, backend context.Context, refs []SnapshotRef) error {
	c.rep.Snapshots = len(refs)
	visited := index.NewSet[index.BlobRef](c.x.Len())
	lost := false
	err := c.r.eachManifest(backend, refs, func(ref SnapshotRef, data []byte, err error) error {
		n, err := c.follow(ctx, ref, data, err, visited, false)
		lost = lost || n > 0
		return err
	})
	if err != nil || !lost {
		return err
	}
	return c.r.eachManifest(backend, refs, func(ref SnapshotRef, data []byte, err error) error {
		_, err = c.follow(ctx, ref, data, err, index.NewSet[index.BlobRef](c.x.Len()), true)
		return err
	})
}

// follow counts the blobs of a snapshot that can't be had. The first time, without name, it files what
// is wrong with the manifest and the trees; with name it files what the snapshot has lost. err says why there is no
// manifest.
func (c *checker) follow(ctx context.Context, ref SnapshotRef, data []byte, err error, visited *index.Set[index.BlobRef], name bool) (int64, error) {
	if errors.Is(err, storage.ErrNotExist) {
		return 0, nil // forgotten meanwhile
	}
	if err != nil {
		if name {
			return 0, nil // it was filed
		}
		return 0, c.damage(ref.name(), err)
	}
	var lost atomic.Int64
	var example atomic.Pointer[chunk.ID]
	reported := map[index.Key]bool{}
	err = c.o.References(ctx, data, func(kind index.Kind, id chunk.ID) bool {
		first, whole := c.visitKey(visited, index.KeyOf(id), 0)
		if !whole {
			c.mu.Lock()
			defer c.mu.Unlock()
			if reported[index.KeyOf(id)] {
				return false
			}
			reported[index.KeyOf(id)] = true
			lost.Add(1)
			example.CompareAndSwap(nil, &id)
		}
		return first
	})
	if ctx.Err() != nil {
		return 0, ctx.Err()
	}
	if err != nil && !name {
		for _, e := range flatten(err) {
			if err := c.damage("snapshot "+ref.ID.Short(), e); err != nil {
				return 0, err
			}
		}
	}
	if n := lost.Load(); n > 0 && name {
		p := Problem{Kind: DamageBlobGone, Object: "snapshot " + ref.ID.Short(),
			Detail: fmt.Sprintf("%d of its blobs can't be had, for example %s", n, example.Load().Short()),
			Hint:   "packs that no index lists may hold them: wtsnap repair index"}
		if err := c.paths(ctx, data, reported, &p); err != nil {
			return 0, err
		}
		c.problem(p)
	}
	return lost.Load(), nil
}

// paths adds to a problem which paths of a snapshot need one of the lost blobs.
func (c *checker) paths(ctx context.Context, manifest []byte, lost map[index.Key]bool, p *Problem) error {
	if c.o.Paths == nil {
		return nil
	}
	err := c.o.Paths(ctx, manifest, func(id chunk.ID) bool { return lost[index.KeyOf(id)] }, func(path string) {
		if p.Lost++; p.Lost <= maxLostPaths {
			p.Paths = append(p.Paths, path)
		}
	})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("%s: finding out which paths are affected: %w", p.Object, err)
	}
	return nil
}

// visitKey reports whether a blob is visited for the first time, and whether it and its bases lie in
// packs that are there.
func (c *checker) visitKey(visited *index.Set[index.BlobRef], key index.Key, depth int) (first, whole bool) {
	if depth > maxDepth {
		return true, false
	}
	for _, loc := range c.x.Lookups(key) {
		if !c.present[loc.PackID] || c.isBad(loc.Ordinal) {
			continue
		}
		if !visited.Add(loc.Ordinal) {
			return false, true // otherwise it had become a bad one
		}
		whole = true
		for _, base := range loc.Bases {
			_, ok := c.visitKey(visited, base, depth+1)
			whole = whole && ok
		}
		if whole {
			return true, true
		}
		c.mu.Lock()
		c.bad[loc.Ordinal] = true
		c.mu.Unlock()
	}
	return true, false
}

func (c *checker) isBad(ref index.BlobRef) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.bad[ref]
}

// others opens what no snapshot needs to be read: forgotten manifests, notes, keys, and what coordinates
// the removal of garbage.
func (c *checker) others(ctx context.Context) error {
	if got, err := readConfig(ctx, c.r.st); errors.Is(err, ErrNoRepository) {
		c.problem(Problem{Kind: DamageMissing, Object: configName, Detail: "is not there"})
	} else if err != nil {
		if err := c.damage(configName, err); err != nil {
			return err
		}
	} else if got.ID != c.r.config.ID {
		c.problem(Problem{Kind: DamageOpen, Object: configName, Detail: "is another repository's"})
	}
	for _, dir := range []string{keysDir, forgottenDir, annotationsDir} {
		var names []string
		if err := c.r.st.List(ctx, dir, func(i storage.Info) error { names = append(names, i.Name); return nil }); err != nil {
			return fmt.Errorf("listing %s: %w", dir, err)
		}
		for _, name := range names {
			var err error
			if dir == keysDir {
				_, err = c.r.readKeyObject(ctx, name)
			} else {
				_, err = c.r.readObject(ctx, name)
			}
			if err != nil && !errors.Is(err, storage.ErrNotExist) {
				if err := c.damage(name, err); err != nil {
					return err
				}
			}
		}
	}
	if err := c.checkLedgers(ctx); err != nil {
		return err
	}
	_, lists, err := c.r.condemnedAndDamaged(ctx)
	if err != nil {
		return err
	}
	leases, err := c.r.leases(ctx)
	if err != nil {
		return err
	}
	for _, l := range leases {
		if l.damage != nil {
			lists = append(lists, damagedObject{storage.Info{Name: l.names[0]}, l.damage})
		}
	}
	for _, d := range lists {
		if err := c.damage(d.Name, d.err); err != nil {
			return err
		}
	}
	return nil
}

// flatten takes joined errors apart.
func flatten(err error) []error {
	if j, ok := err.(interface{ Unwrap() []error }); ok {
		var all []error
		for _, e := range j.Unwrap() {
			all = append(all, flatten(e)...)
		}
		return all
	}
	return []error{err}
}

// readPacks reads the chosen packs whole.
func (c *checker) readPacks(ctx context.Context) error {
	var chosen []index.PackRef
	for ref, info := range c.x.Packs() {
		if !c.present[info.ID] { // condemned ones are read too: they may hold the only copy of something
			continue
		}
		switch {
		case c.o.Parts > 0:
			if (int(info.ID[0])<<8|int(info.ID[1]))%c.o.Parts == c.o.Part-1 {
				chosen = append(chosen, ref)
			}
		case c.o.ReadShare >= 1 || c.o.ReadShare > 0 && rand.Float64() < c.o.ReadShare:
			chosen = append(chosen, ref)
		}
	}
	if len(chosen) == 0 && c.o.ReadShare > 0 { // a small share of few packs is one of them
		var all []index.PackRef
		for ref, info := range c.x.Packs() {
			if c.present[info.ID] {
				all = append(all, ref)
			}
		}
		if len(all) > 0 {
			chosen = append(chosen, all[rand.IntN(len(all))])
		}
	}
	var mu sync.Mutex
	var scratch sync.Pool
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(c.o.Workers)
	for _, ref := range chosen {
		g.Go(func() error {
			s, ok := scratch.Get().(*unitScratch)
			if !ok {
				s = &unitScratch{}
			}
			defer scratch.Put(s)
			info := c.x.Pack(ref)
			if err := c.readPack(ctx, ref, info, s); err != nil {
				if err := c.damage(packName(info.ID), err); err != nil {
					return err
				}
			}
			mu.Lock()
			defer mu.Unlock()
			c.rep.PacksRead++
			c.rep.BytesRead += info.Size
			if c.o.OnPack != nil {
				c.o.OnPack(c.rep.PacksRead, len(chosen), info.Size)
			}
			return nil
		})
	}
	return g.Wait()
}

// readPack compares a pack with its name, its own directory and the index, and decodes all that is in
// it.
func (c *checker) readPack(ctx context.Context, ref index.PackRef, info index.PackInfo, s *unitScratch) error {
	file, err := c.r.st.Get(ctx, packName(info.ID), 0, -1, s.raw)
	if err != nil {
		return packError(info.ID, err)
	}
	s.raw = file
	damage := func(kind, detail string, err error) error {
		return &DamageError{Kind: kind, Object: packName(info.ID), Detail: detail, Err: err, Hint: healHint}
	}
	var failed error
	bad := 0
	blob := info.FirstBlob
	for _, f := range c.x.Frames(ref) {
		first := blob
		blob += index.BlobRef(len(f.Blobs))
		if err := c.readFrameOf(ctx, info, &f, file, s); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			failed = err
			bad++
			c.mu.Lock()
			for i := range f.Blobs {
				c.bad[first+index.BlobRef(i)] = true
			}
			c.mu.Unlock()
		} else if len(f.Bases) > 0 {
			c.mu.Lock()
			for i := range f.Blobs {
				c.deltas = append(c.deltas, first+index.BlobRef(i))
			}
			c.mu.Unlock()
		}
	}
	if packID(file) != info.ID {
		return damage(DamageHash, fmt.Sprintf("its bytes are not those that were stored; %d of its %d frames can't be read", bad, info.Frames), nil)
	}
	if failed != nil {
		return failed
	}
	kind, frames, err := parsePack(c.r.keys, file)
	if err != nil {
		return damage(DamageOpen, "its directory can't be read", err)
	}
	if kind != info.Kind || !sameFrames(frames, c.x, ref) {
		return damage(DamageIndex, "its directory and the index differ", nil)
	}
	return nil
}

// readFrameOf decodes a frame and hashes its blobs. Deltas are only opened: readDeltas reads them together with their
// bases.
func (c *checker) readFrameOf(ctx context.Context, info index.PackInfo, f *index.Frame, file []byte, s *unitScratch) error {
	end := int64(f.Offset) + int64(f.Length)
	if end > int64(len(file)) {
		return &DamageError{Kind: DamageSize, Object: packName(info.ID), Detail: "is shorter than the index says"}
	}
	sealed := file[f.Offset:end]
	switch f.Encoding {
	case chunk.Patched:
		_, err := c.r.openPatch(info.ID, info.Kind, f, sealed, &s.frame)
		return err
	case chunk.ZstdDelta:
		s.frame.ad = frameAD(s.frame.ad[:0], info.Kind, f)
		if _, err := c.r.keys.open(s.frame.stored[:0], sealed, s.frame.ad); err != nil {
			return frameDamage(DamageOpen, info.ID, f, err)
		}
		return nil
	}
	_, err := c.r.decodeFrame(ctx, c.x, info.ID, info.Kind, f, sealed, &s.frame)
	return err
}

// readDeltas puts the deltas of the packs that were read together and hashes them. It reads what they rest on, each whole
// blob once for all that rest on it.
func (c *checker) readDeltas(ctx context.Context) error {
	b := &batch{r: c.r, x: c.x, fn: func(int, []byte) error { return nil }}
	b.o = ReadOptions{Workers: c.o.Workers, OnError: func(i int, err error) error {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.bad[c.deltas[i]] = true
		var d *DamageError
		if !errors.As(err, &d) {
			return err
		}
		if vanished(err) {
			return nil // what it rests on was given up: damage to the snapshots that need it, which are followed later, if any
		}
		p := Problem{Kind: d.Kind, Object: d.Object, Detail: strings.TrimPrefix(d.Error(), "damaged: "+d.Object+": "), Hint: d.Hint}
		if id := p.Kind + p.Object + p.Detail; !c.filed[id] {
			c.filed[id] = true
			c.rep.Problems = append(c.rep.Problems, p)
		}
		return nil
	}}
	return b.read(ctx, b.planCopies(c.deltas))
}

func sameFrames(frames []index.Frame, x *index.Index, ref index.PackRef) bool {
	i := 0
	for _, f := range x.Frames(ref) {
		if i == len(frames) || f.Offset != frames[i].Offset || f.Length != frames[i].Length || f.Encoding != frames[i].Encoding ||
			!slices.Equal(f.Bases, frames[i].Bases) || !slices.Equal(f.Blobs, frames[i].Blobs) {
			return false
		}
		i++
	}
	return i == len(frames)
}

// parsePack reads the trailer and the directory of a whole pack file.
func parsePack(k *keys, file []byte) (index.Kind, []index.Frame, error) {
	if len(file) < trailerSize {
		return 0, nil, errors.New("it is too short for a trailer")
	}
	offset, length, err := openTrailer(k, file[len(file)-trailerSize:], int64(len(file)))
	if err != nil {
		return 0, nil, err
	}
	return openDirectory(k, file[offset:offset+length], offset)
}
