package repo

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/index"
	"github.com/whole-tale/wtsnap/repo/storage"
)

// Repository is an open repository. Its methods may be called concurrently.
type Repository struct {
	st      storage.Storage // the backend
	cached  storage.Storage // the same through a local cache: for index, manifests and tree packs
	config  config
	master  [keySize]byte
	pol     chunk.Pol // the chunker's, where it is another repository's; else 0
	key     KeyInfo
	keys    *keys
	frames  *frameCaches
	stage   *stage
	readers sync.Pool // of *textReader

	witness  Witness            // nil: nobody watches
	onDamage func(*DamageError) // may be nil

	denied   atomic.Bool   // the storage did not let something be removed
	loading  chan struct{} // held, as one element, by LoadIndex
	mu       sync.Mutex    // guards what LoadIndex replaces
	index    *index.Index
	segments map[index.SegmentID]bool // those in index
	lists    map[string]condemnedList // those that are there, by name, as of the last look
	unlisted bool                     // index may have packs that no segment lists: the next LoadIndex builds it anew
}

// InitOptions are the options of Init.
type InitOptions struct {
	Password []byte    // required; the content of a key file (NewKeyFile) needs no slow derivation
	KDF      KDFParams // zero: RFC 9106's second recommendation
	Label    string    // of the first key
	// CutAs is a repository whose files are cut at the same places as the new one's, so that what is copied from it is shared
	// with what is backed up directly. Nil: the new one cuts as none does.
	CutAs *Repository
}

// OpenOptions are the options of Open.
type OpenOptions struct {
	Password []byte
	// Ask, where it is not nil, yields the password instead: it is called once the repository is known to be there, with 0,
	// and again after each password that is wrong, with how many those were. Its error ends Open.
	Ask func(wrong int) ([]byte, error)
	// Cached is the same storage behind a local cache, for the objects that are worth a copy: index
	// segments, manifests, annotations and packs of trees. Nil: no cache.
	Cached storage.Storage
	// Frames keeps the bases of deltas from run to run. Nil: they are read from the storage.
	Frames FrameCache
	// Near says that reading from the storage costs nothing: it is a folder of this machine.
	Near bool
	// OnDamage is called for damage that stops nothing, each time that it is met, from any goroutine. It may be nil.
	OnDamage func(*DamageError)
}

// Init makes a repository. It fails with ErrExists where a config is already, or keys and data without
// one. The key is stored before the config: what has a config has a key. Keys alone are what an Init
// that was interrupted leaves; they are removed.
func Init(ctx context.Context, st storage.Storage, o InitOptions) (*Repository, error) {
	if _, err := st.Stat(ctx, configName); err == nil {
		return nil, ErrExists
	} else if !errors.Is(err, storage.ErrNotExist) {
		return nil, fmt.Errorf("looking for a repository: %w", err)
	}
	for _, dir := range []string{packsDir, indexDir, snapshotsDir} {
		err := st.List(ctx, dir, func(storage.Info) error { return ErrExists })
		if errors.Is(err, ErrExists) {
			return nil, fmt.Errorf("%w, without its config: wtsnap repair config makes it anew", ErrExists)
		}
		if err != nil {
			return nil, fmt.Errorf("looking for a repository: %w", err)
		}
	}
	stale, err := keyNames(ctx, st)
	if err != nil {
		return nil, fmt.Errorf("looking for a repository: %w", err)
	}
	for _, name := range stale {
		if err := st.Delete(ctx, name); err != nil {
			return nil, fmt.Errorf("removing the key of an init that was interrupted: %w", err)
		}
	}
	id, err := randomID()
	if err != nil {
		return nil, err
	}
	c := config{Format: FormatVersion, ID: hex.EncodeToString(id[:]), Made: time.Now().UTC().Truncate(time.Second)}
	var master [keySize]byte
	if _, err := io.ReadFull(rand.Reader, master[:]); err != nil {
		return nil, fmt.Errorf("reading random bytes: %w", err)
	}
	var pol chunk.Pol
	if o.CutAs != nil {
		pol = o.CutAs.ChunkParams().Pol
	}
	keyName, data, err := newKeyObject(c.ID, master, o.Password, o.KDF, o.Label, pol)
	if err != nil {
		return nil, err
	}
	if _, err := st.Put(ctx, keyName, data); err != nil {
		return nil, fmt.Errorf("storing the key: %w", err)
	}
	data, err = json.Marshal(c)
	if err != nil {
		return nil, err
	}
	if _, err := st.Put(ctx, configName, append(data, '\n')); err != nil {
		return nil, fmt.Errorf("storing the config: %w", err)
	}
	return Open(ctx, st, OpenOptions{Password: o.Password})
}

// configHint says what to do where the config is lost.
const configHint = "wtsnap repair config makes it anew"

// overwrittenHint says what to do where no key can be read either: nothing here can bring them back.
const overwrittenHint = "the keys cannot be read either, so that somebody or something has overwritten more than this: touch nothing, and read the " +
	"storage as of a time before (\"A host that must not delete\" in docs/operations.md), or bring the folder back from a copy"

// readConfig reads the config object: ErrNoRepository, *FormatError, *DamageError.
func readConfig(ctx context.Context, st storage.Storage) (config, error) {
	data, err := st.Get(ctx, configName, 0, -1, nil)
	if errors.Is(err, storage.ErrNotExist) {
		return config{}, ErrNoRepository
	}
	if errors.Is(err, storage.ErrTooLarge) {
		return config{}, &DamageError{Kind: DamageSize, Object: configName, Detail: "is no config of a repository", Err: err, Hint: configHint}
	}
	if err != nil {
		return config{}, fmt.Errorf("reading the config: %w", err)
	}
	var c config
	if err := json.Unmarshal(data, &c); err != nil {
		return config{}, &DamageError{Kind: DamageDecode, Object: configName, Detail: "is not the config of a repository", Err: err, Hint: configHint}
	}
	if c.Format > FormatVersion {
		return config{}, &FormatError{Version: c.Format, Supported: FormatVersion}
	}
	if raw, err := hex.DecodeString(c.ID); err != nil || len(raw) != 16 || c.Format < 1 {
		return config{}, &DamageError{Kind: DamageDecode, Object: configName, Detail: "has no valid format or id", Hint: configHint}
	}
	return c, nil
}

// Open opens a repository: ErrNoRepository, ErrWrongPassword, *FormatError, *DamageError.
func Open(ctx context.Context, st storage.Storage, o OpenOptions) (*Repository, error) {
	c, err := readConfig(ctx, st)
	if errors.Is(err, ErrNoRepository) {
		if names, kerr := keyNames(ctx, st); kerr == nil && len(names) > 0 {
			err = &DamageError{Kind: DamageMissing, Object: configName, Detail: "is not there, but keys are", Hint: configHint}
		}
	}
	if damage := (*DamageError)(nil); errors.As(err, &damage) && !anyKey(ctx, st) {
		damage.Hint = overwrittenHint
	}
	if err != nil {
		return nil, err
	}
	objects, err := keyObjects(ctx, st)
	if err != nil {
		return nil, fmt.Errorf("listing keys: %w", err)
	}
	if len(objects) == 0 {
		return nil, lostMaster("no key object is left", nil)
	}
	for wrong := 0; ; wrong++ {
		if o.Ask != nil {
			if o.Password, err = o.Ask(wrong); err != nil {
				return nil, err
			}
		}
		k, s, err := findKey(ctx, st, c.ID, o.Password, objects)
		if o.Ask != nil && errors.Is(err, ErrWrongPassword) {
			continue
		}
		if err != nil {
			return nil, err
		}
		return opened(st, c, k, s, &o)
	}
}

// findKey returns the key object that opens with a password, and what is in it: ErrWrongPassword, *DamageError.
func findKey(ctx context.Context, st storage.Storage, repository string, password []byte, objects []storage.Info) (*keyObject, *sealedKey, error) {
	trial := keyTrial{repository: repository, password: password}
	k, s, err := trial.find(ctx, st, objects)
	switch {
	case err != nil:
		return nil, nil, err
	case s != nil:
		return k, s, nil
	case trial.bad == len(objects):
		return nil, nil, lostMaster("no key object can be read", trial.damaged)
	case trial.damaged != nil:
		var d *DamageError
		if errors.As(trial.damaged, &d) && d.Hint == "" {
			d.Hint = "no other key opens with this password: if it was this one's, use another password (wtsnap key list works with any), " +
				"or bring the object back from a copy"
		}
		return nil, nil, trial.damaged
	}
	return nil, nil, ErrWrongPassword
}

// opened returns the repository whose key object was opened.
func opened(st storage.Storage, c config, k *keyObject, s *sealedKey, o *OpenOptions) (*Repository, error) {
	r := &Repository{st: st, cached: o.Cached, config: c, key: s.Info, index: index.New(), loading: make(chan struct{}, 1),
		segments: map[index.SegmentID]bool{}, frames: newFrameCaches()}
	if r.cached == nil {
		r.cached = st
	}
	r.onDamage = o.OnDamage
	r.stage = newStage(r, o)
	r.key.ID, r.key.Current = k.ID, true
	copy(r.master[:], s.Master)
	var err error
	if r.keys, err = deriveKeys(r.master); err != nil {
		return nil, err
	}
	if r.pol = s.Pol; r.pol != 0 {
		r.keys.params = chunk.DefaultParams(r.pol)
	}
	return r, nil
}

// lostMaster says that nothing unwraps the master key any more.
func lostMaster(why string, err error) error {
	return &DamageError{Kind: DamageMissing, Object: keysDir, Detail: why + ": the master key is lost, and with it all that is in the repository", Err: err,
		Hint: "bring an object of keys/ back from a copy of the repository; without one, no password and nobody can read any of it"}
}

// ID is the repository's random id, 32 hex digits.
func (r *Repository) ID() string { return r.config.ID }

// DeletesDenied reports whether the storage has refused to remove something, so that it was left to a prune on a machine
// that may.
func (r *Repository) DeletesDenied() bool { return r.denied.Load() }

// noteDenied reports whether err says that this machine may not remove anything.
func (r *Repository) noteDenied(err error) bool {
	denied := errors.Is(err, storage.ErrDenied) || errors.Is(err, storage.ErrReadOnly)
	if denied {
		r.denied.Store(true)
	}
	return denied
}

// ChunkParams are the chunker's parameters; its polynomial is this repository's secret.
func (r *Repository) ChunkParams() chunk.Params { return r.keys.params }

// Hasher computes the ids of this repository's blobs.
func (r *Repository) Hasher() *chunk.Hasher { return r.keys.hasher }

// Index is the index as of the last LoadIndex, plus what sessions added since.
func (r *Repository) Index() *index.Index {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.index
}

// Size returns a blob's plaintext size in bytes, from the index.
func (r *Repository) Size(id chunk.ID) (uint32, bool) {
	loc, ok := r.Index().Lookup(index.KeyOf(id))
	return loc.Size, ok
}

const (
	loadWorkers  = 8 // small objects that are read at a time
	loadDecoders = 2 // index segments in memory, decoded: each takes 5 times its size, 25 MB if it is full
)

// LoadIndex brings the index up to date: it reads the segments that it does not have yet. Where a
// known segment has vanished (a prune replaced it) the index is built anew. The condemned lists are
// read first, so that what only they still hold counts as absent (docs/format.md, garbage collection).
func (r *Repository) LoadIndex(ctx context.Context) error {
	select {
	case r.loading <- struct{}{}:
		defer func() { <-r.loading }()
	case <-ctx.Done():
		return ctx.Err()
	}
	for attempt := 0; ; attempt++ {
		again, err := r.loadIndexOnce(ctx, attempt > 0)
		if err != nil || !again {
			return err
		}
		if attempt == 4 {
			return errors.New("loading the index: it kept changing; try again")
		}
	}
}

// loadIndexOnce reports whether a segment vanished between listing and reading. With anew, it keeps
// nothing of what was loaded before.
func (r *Repository) loadIndexOnce(ctx context.Context, anew bool) (again bool, err error) {
	condemned, err := r.condemnedLists(ctx)
	if err != nil {
		return false, err
	}
	listed := map[index.SegmentID]int64{} // sizes
	err = r.cached.List(ctx, indexDir, func(i storage.Info) error {
		id, err := index.ParseSegmentID(path.Base(i.Name))
		if err != nil {
			return &DamageError{Kind: DamageIndex, Object: i.Name, Detail: "is not the name of an index segment",
				Hint: "remove it if you put it there"}
		}
		if err := checkStored(i.Name, i.Size); err != nil {
			return err
		}
		listed[id] = i.Size
		return nil
	})
	if err != nil {
		return false, fmt.Errorf("listing the index: %w", err)
	}

	r.mu.Lock()
	x, have := r.index, r.segments
	anew = anew || r.unlisted
	for id := range have {
		_, ok := listed[id]
		anew = anew || !ok
	}
	if anew {
		x, have = index.New(), map[index.SegmentID]bool{}
	}
	var missing []index.SegmentID
	var bytes int64
	for id, size := range listed {
		if !have[id] {
			missing = append(missing, id)
			bytes += size
		}
	}
	r.mu.Unlock() // readers go on with the old index meanwhile
	// Before any pack is added: a segment that vanishes ends this attempt, and with the next one the list
	// may be gone, acted on, while x has packs of it.
	for _, list := range condemned {
		for _, pack := range list.packs {
			x.Condemn(pack)
		}
	}
	x.Reserve(int(bytes / segmentBlobBytes))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(loadWorkers)
	decoded := make(chan struct{}, loadDecoders)
	for _, id := range missing {
		g.Go(func() error {
			data, err := r.getObject(gctx, segmentName(id))
			decoded <- struct{}{} // from here on: what is read is small, and may decompress to the limit
			defer func() { <-decoded }()
			if err == nil {
				data, err = r.openGot(gctx, segmentName(id), data)
			}
			packs, err := decodeSegment(id, data, err)
			if err != nil {
				return err
			}
			for _, p := range packs {
				if _, err := x.AddPack(id, p); err != nil {
					return &DamageError{Kind: DamageIndex, Object: segmentName(id), Detail: "contradicts another segment", Err: err}
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		if errors.Is(err, storage.ErrNotExist) {
			return true, nil
		}
		return false, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, id := range missing {
		have[id] = true
	}
	if x != r.index {
		r.frames.clear() // it is keyed by the old index's ordinals
		r.unlisted = false
	}
	r.index, r.segments = x, have
	return false, nil
}

// distrust says that the index may have packs of a session that failed before they were listed. Nobody else knows of them,
// and a prune takes them for waste: the next session of this process must not rely on them.
func (r *Repository) distrust() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.unlisted = true
}

const indexDir = "index/"

// indexHint says what to do about a segment that can't be read.
const indexHint = "the index can be rebuilt from the packs: wtsnap repair index"

// segmentBlobBytes is about what a segment has in bytes for each blob: a key, two sizes, and the frame's.
const segmentBlobBytes = 23

func segmentName(id index.SegmentID) string { return indexDir + id.String() }

// readSegment reads one index segment.
func (r *Repository) readSegment(ctx context.Context, id index.SegmentID) ([]index.Pack, error) {
	data, err := r.readObject(ctx, segmentName(id))
	return decodeSegment(id, data, err)
}

// decodeSegment decodes the content of an index segment that was read, unless err says why it was not.
func decodeSegment(id index.SegmentID, data []byte, err error) ([]index.Pack, error) {
	if err != nil {
		var d *DamageError
		if errors.As(err, &d) && d.Hint == "" {
			d.Hint = indexHint
		}
		return nil, err
	}
	packs, err := index.DecodeSegment(data)
	if err != nil {
		return nil, &DamageError{Kind: DamageDecode, Object: segmentName(id), Detail: "is no index segment", Err: err,
			Hint: indexHint}
	}
	return packs, nil
}

// writeSegment stores packs as a new index segment. The packs must be stored. Where it fails with an id that is not zero, the
// segment may be stored all the same.
func (r *Repository) writeSegment(ctx context.Context, packs []index.Pack) (index.SegmentID, error) {
	raw, err := randomID()
	if err != nil {
		return index.SegmentID{}, err
	}
	id := index.SegmentID(raw)
	data, err := index.AppendSegment(nil, packs)
	if err != nil {
		return index.SegmentID{}, err
	}
	if err := r.writeObject(ctx, segmentName(id), data); err != nil {
		return id, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.segments[id] = true
	for _, p := range packs { // LoadIndex may have built the index anew since they were added
		if _, err := r.index.AddPack(id, p); err != nil {
			return id, fmt.Errorf("pack %s: %w", p.ID, err)
		}
	}
	return id, nil
}

// readObject reads and opens a sealed object, through the cache.
func (r *Repository) readObject(ctx context.Context, name string) ([]byte, error) {
	data, err := r.getObject(ctx, name)
	if err != nil {
		return nil, err
	}
	return r.openGot(ctx, name, data)
}

// getObject reads a sealed object, through the cache, as it is stored: openGot opens it.
func (r *Repository) getObject(ctx context.Context, name string) ([]byte, error) {
	data, err := r.cached.Get(ctx, name, 0, -1, nil)
	if errors.Is(err, storage.ErrTooLarge) {
		return nil, &DamageError{Kind: DamageSize, Object: name, Detail: "is larger than any object of its kind", Err: err}
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	return data, nil
}

// checkStored refuses an object that takes more than one of its kind does, before it is read. Sizes are those of a listing.
func checkStored(name string, size int64) error {
	if limit := int64(objectLimit(name)); size > limit+limit/4 { // sealed and padded
		return &DamageError{Kind: DamageSize, Object: name, Detail: fmt.Sprintf("has %d bytes, more than any object of its kind", size), Hint: whatToDo(name)}
	}
	return nil
}

// openGot opens what getObject returned, and reads it once more where it does not open.
func (r *Repository) openGot(ctx context.Context, name string, data []byte) ([]byte, error) {
	content, err := r.keys.openObject(name, data)
	if err == nil {
		return content, nil
	}
	// What does not open may be the cache's copy.
	data, again := r.cached.Get(storage.WithCaching(ctx, storage.CacheBypass), name, 0, -1, nil)
	if again != nil {
		return nil, errors.Join(err, fmt.Errorf("reading %s once more: %w", name, again))
	}
	return r.keys.openObject(name, data)
}

// writeObject seals content, opens it again to be sure, and stores it.
func (r *Repository) writeObject(ctx context.Context, name string, content []byte) error {
	data, err := r.keys.sealObject(name, content)
	if err != nil {
		return fmt.Errorf("sealing %s: %w", name, err)
	}
	if _, err := r.keys.openObject(name, data); err != nil {
		return fmt.Errorf("verifying %s before it is stored: %w", name, err)
	}
	if _, err := r.cached.Put(ctx, name, data); err != nil {
		return fmt.Errorf("storing %s: %w", name, err)
	}
	return nil
}
