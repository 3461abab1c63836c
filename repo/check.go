package repo

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

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
	// Within chooses the packs to read such that runs like this one read every pack within that time, and ReadBudget
	// bounds the bytes that this one reads; 0: what is to be read is spread over the time. What was read when is in the
	// ledger. Zero: ReadShare decides.
	Within     time.Duration
	ReadBudget int64
	// Record notes in the ledger which packs were read.
	Record  bool
	Workers int // packs read at a time; 0 means 4
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
	Coverage                *Coverage // with CheckOptions.Within
	Unrecorded              error     // why the ledger does not tell what was read
}

// checker is one run of Check.
type checker struct {
	r   *Repository
	o   CheckOptions
	x   *index.Index
	rep *CheckReport

	mu      sync.Mutex
	present map[index.PackID]bool // packs that are there, with the right size
	givenUp map[index.PackID]bool // condemned packs: whether because they are damaged
	stored  map[index.PackID]time.Time
	read    []index.PackRef        // read whole, and as they were stored
	whole   []index.PackID         // of these, the packs without a bad blob
	bad     map[index.BlobRef]bool // blobs of frames that were read and could not be
	deltas  []index.BlobRef        // blobs of frames that were read, that rest on others, and that are not known to be sound
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
	c := &checker{r: r, o: o, rep: &CheckReport{}, present: map[index.PackID]bool{}, stored: map[index.PackID]time.Time{},
		bad: map[index.BlobRef]bool{}, filed: map[string]bool{}}
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
	defer c.record(ctx)
	// Packs before snapshots: what can't be read in them tells which snapshots are affected.
	if err := c.readData(ctx); err != nil {
		return c.rep, err
	}
	if err := c.snapshots(ctx, backend, refs); err != nil {
		return c.rep, err
	}
	if err := c.others(backend); err != nil {
		return c.rep, err
	}
	if r.witness != nil {
		c.rep.Problems = append(c.rep.Problems, r.witness.Problems()...)
	}
	slices.SortStableFunc(c.rep.Problems, func(a, b Problem) int { return strings.Compare(a.Object, b.Object) })
	for i := range c.rep.Problems {
		if p := &c.rep.Problems[i]; p.Hint == "" {
			p.Hint = whatToDo(p.Object)
		}
	}
	return c.rep, nil
}

// whatToDo says what can be done about damage to an object of which nothing else is known.
func whatToDo(object string) string {
	for _, h := range []struct{ prefix, hint string }{
		{configName, configHint},
		{keysDir, "remove that password, with another one (wtsnap key remove), and add it again (wtsnap key add)"},
		{packsDir, healHint},
		{indexDir, "the index can be rebuilt from the packs: wtsnap repair index"},
		{snapshotsDir, "wtsnap repair packs --from another copy of the repository stores it anew; wtsnap repair snapshots puts it aside: other snapshots do not depend on it"},
		{forgottenDir, "that snapshot was forgotten and can't be brought back; remove the object, or leave it to a prune"},
		{annotationsDir, "it is a tag or a hold of one snapshot: remove the object, and set the tag or the hold again"},
		{condemnedDir, "the next prune removes it: wtsnap prune"},
		{leasesDir, "leave it: 48 hours after it was stored it is taken for that of a dead process, and the next prune removes it"},
		{"snapshot ", "an older snapshot may have this whole; the next backup stores anew what the sources still have"},
	} {
		if strings.HasPrefix(object, h.prefix) {
			return h.hint
		}
	}
	return "wtsnap check --read-data names all that is damaged"
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
		data, errs[i] = c.r.getObject(ctx, infos[i].Name)
		return data, ctx.Err()
	}
	err = inOrder(ctx, len(infos), smallAhead, func(i int) int64 { return infos[i].Size }, get, func(i int, data []byte) error {
		if errs[i] == nil { // here, so that one at a time is decompressed
			data, errs[i] = c.r.openGot(ctx, infos[i].Name, data)
		}
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
	c.givenUp = map[index.PackID]bool{}
	for _, list := range lists {
		for _, id := range list.packs {
			c.x.Condemn(id)
			c.givenUp[id] = c.givenUp[id] || list.Damaged
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
		time time.Time
	}
	stored := map[index.PackID]seen{}
	err := c.r.st.List(ctx, packsDir, func(i storage.Info) error {
		id, err := index.ParsePackID(path.Base(i.Name))
		if err != nil || i.Name != packName(id) {
			c.problem(Problem{Kind: DamageIndex, Object: i.Name, Detail: "is not the name of a pack", Hint: "remove it if you put it there"})
			return nil
		}
		stored[id] = seen{i.Size, i.Hash, i.ModTime}
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
			c.stored[info.ID] = got.time
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
		return 0, c.damage(ref.Name(), err)
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
		var infos []storage.Info
		if err := c.r.st.List(ctx, dir, func(i storage.Info) error { infos = append(infos, i); return nil }); err != nil {
			return fmt.Errorf("listing %s: %w", dir, err)
		}
		for _, i := range infos {
			name := i.Name
			var err error
			switch {
			case dir == keysDir && i.Size > maxKeyObject:
				err = &DamageError{Kind: DamageSize, Object: name, Detail: fmt.Sprintf("has %d bytes, a key object has %d at most", i.Size, maxKeyObject)}
			case dir == keysDir:
				_, err = c.r.readKeyObject(ctx, name)
			default:
				if err = checkStored(name, i.Size); err == nil {
					_, err = c.r.readObject(ctx, name)
				}
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
