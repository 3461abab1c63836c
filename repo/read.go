package repo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/index"
	"github.com/whole-tale/wtsnap/repo/storage"
)

const (
	// maxRange is how many bytes of a pack are fetched by one request, at least a frame.
	maxRange = 4 << 20
	// maxGap is how many bytes that nobody asked for are fetched to save a request.
	maxGap = 128 << 10
	// maxDepth bounds the chain of delta bases that a reader follows.
	maxDepth = 8
	// frameCacheBytes bounds the plaintext of tree frames that is kept in memory.
	frameCacheBytes = 16 << 20
)

// storeFor returns the storage that holds packs of a kind: tree packs are worth a local copy.
func (r *Repository) storeFor(kind index.Kind) storage.Storage {
	if kind == index.Tree {
		return r.cached
	}
	return r.st
}

// readFrame fetches and opens one frame and verifies every blob in it. The result lies in s.
func (r *Repository) readFrame(ctx context.Context, x *index.Index, pack index.PackID, kind index.Kind, f *index.Frame, s *frameScratch) ([]byte, error) {
	sealed, err := r.storeFor(kind).Get(ctx, packName(pack), int64(f.Offset), int64(f.Length), nil)
	if err != nil {
		return nil, packError(pack, err)
	}
	return r.decodeFrame(ctx, x, pack, kind, f, sealed, s, 0)
}

// packError says which pack a storage error is about; what is missing or short is damage.
func packError(pack index.PackID, err error) error {
	switch {
	case errors.Is(err, storage.ErrNotExist):
		return &DamageError{Kind: DamageMissing, Object: packName(pack), Detail: "the pack is not there", Err: err,
			Hint: "wtsnap check names the snapshots that it affects"}
	case errors.Is(err, storage.ErrShort):
		return &DamageError{Kind: DamageSize, Object: packName(pack), Detail: "the pack is shorter than recorded", Err: err,
			Hint: "wtsnap check names the snapshots that it affects"}
	}
	return fmt.Errorf("reading %s: %w", packName(pack), err)
}

// decodeFrame opens a frame and verifies every blob in it. The result lies in s.
func (r *Repository) decodeFrame(ctx context.Context, x *index.Index, pack index.PackID, kind index.Kind, f *index.Frame, sealed []byte, s *frameScratch, depth int) ([]byte, error) {
	base, err := r.bases(ctx, x, f.Bases, depth)
	if err != nil {
		return nil, err
	}
	plain, err := openFrame(r.keys, kind, f, sealed, base, s)
	if err != nil {
		damage := DamageDecode
		if errors.Is(err, errOpen) {
			damage = DamageOpen
		}
		return nil, &DamageError{Kind: damage, Object: packName(pack),
			Detail: fmt.Sprintf("the frame at %d can't be read", f.Offset), Err: err}
	}
	pos := uint32(0)
	for _, b := range f.Blobs {
		if index.KeyOf(r.keys.hasher.Sum(plain[pos:pos+b.Size])) != b.Key {
			return nil, &DamageError{Kind: DamageBlob, Object: packName(pack),
				Detail: fmt.Sprintf("a blob in the frame at %d is not what its id says", f.Offset)}
		}
		pos += b.Size
	}
	return plain, nil
}

// bases returns the plaintext of a delta's bases, end to end.
func (r *Repository) bases(ctx context.Context, x *index.Index, keys []index.Key, depth int) ([]byte, error) {
	if len(keys) == 0 {
		return nil, nil
	}
	if depth >= maxDepth {
		return nil, &DamageError{Kind: DamageIndex, Object: fmt.Sprintf("blob %x", keys[0]), Detail: "its chain of delta bases is too long"}
	}
	var out []byte
	for _, key := range keys {
		plain, err := r.blobAt(ctx, x, key, depth+1)
		if err != nil {
			return nil, fmt.Errorf("reading a delta's base: %w", err)
		}
		out = append(out, plain...)
	}
	return out, nil
}

// blobAt reads one blob by its key, trying every copy that there is.
func (r *Repository) blobAt(ctx context.Context, x *index.Index, key index.Key, depth int) ([]byte, error) {
	var errs []error
	for _, loc := range x.Lookups(key) {
		f, _ := x.FrameOf(loc.Ordinal)
		var s frameScratch
		sealed, err := r.storeFor(loc.Kind).Get(ctx, packName(loc.PackID), int64(f.Offset), int64(f.Length), nil)
		if err != nil {
			errs = append(errs, packError(loc.PackID, err))
			continue
		}
		plain, err := r.decodeFrame(ctx, x, loc.PackID, loc.Kind, &f, sealed, &s, depth)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		return plain[loc.Pos : loc.Pos+loc.Size], nil
	}
	if len(errs) == 0 {
		return nil, &DamageError{Kind: DamageBlobGone, Object: fmt.Sprintf("blob %x", key), Detail: "no pack of the index holds it",
			Hint: "wtsnap repair index, if packs are there that the index does not list"}
	}
	return nil, errs[0]
}

// vanished reports whether err may mean that a prune moved things after the index was loaded.
func vanished(err error) bool {
	var d *DamageError
	return errors.As(err, &d) && (d.Kind == DamageMissing || d.Kind == DamageBlobGone)
}

// Blob returns one blob, verified. Its frame stays in memory for a while, for what is next to it is
// mostly needed next: this is for trees. The result must not be changed.
func (r *Repository) Blob(ctx context.Context, id chunk.ID) ([]byte, error) {
	data, err := r.blob(ctx, id)
	if err != nil && vanished(err) {
		if err := r.LoadIndex(ctx); err != nil {
			return nil, err
		}
		data, err = r.blob(ctx, id)
	}
	return data, err
}

func (r *Repository) blob(ctx context.Context, id chunk.ID) ([]byte, error) {
	x := r.Index()
	loc, ok := x.Lookup(index.KeyOf(id))
	if !ok {
		_, err := r.blobAt(ctx, x, index.KeyOf(id), 0)
		return nil, err
	}
	plain, err := r.frames.get(frameKey{loc.PackID, loc.Offset}, func() ([]byte, error) {
		f, _ := x.FrameOf(loc.Ordinal)
		return r.readFrame(ctx, x, loc.PackID, loc.Kind, &f, &frameScratch{})
	})
	if err != nil { // another copy may be whole
		plain, cerr := r.blobAt(ctx, x, index.KeyOf(id), 0)
		if cerr != nil {
			return nil, err
		}
		return r.verified(id, plain)
	}
	return r.verified(id, plain[loc.Pos:loc.Pos+loc.Size])
}

// verified compares all 256 bits of the id; the index knows half of them.
func (r *Repository) verified(id chunk.ID, data []byte) ([]byte, error) {
	if r.keys.hasher.Sum(data) != id {
		return nil, &DamageError{Kind: DamageBlob, Object: "blob " + id.String(), Detail: "its bytes are not those of its id"}
	}
	return data, nil
}

// ReadOptions are the options of ReadBlobs.
type ReadOptions struct {
	Workers int // ranges that are fetched and opened at a time; 0 means 4
	// OnError is called for each blob that can't be read, from any goroutine; where it returns nil the
	// others go on. Nil: the first error ends it.
	OnError func(i int, err error) error
	// OnDownload is called with the bytes of each fetched range. It may be nil.
	OnDownload func(bytes int64)
}

// want is one requested blob: its place in the request and in its frame.
type want struct {
	blob  index.BlobRef
	frame index.FrameRef
	i     int32
}

// ReadBlobs reads blobs in the order in which they lie in the repository: each frame is fetched and
// decoded once, and neighbours are fetched together. fn is called once for each index i of ids, from
// several goroutines; data is valid during the call only. An error of fn ends the read.
//
// Memory: 12 bytes a requested blob, and per worker a range (4 MiB, or one frame if larger), a frame
// and its bases.
func (r *Repository) ReadBlobs(ctx context.Context, ids []chunk.ID, o ReadOptions, fn func(i int, data []byte) error) error {
	if o.Workers <= 0 {
		o.Workers = 4
	}
	left, err := r.readBlobs(ctx, ids, nil, o, fn, true)
	if err != nil || len(left) == 0 {
		return err
	}
	// Packs that a prune has replaced since: once more, with a fresh index.
	if err := r.LoadIndex(ctx); err != nil {
		return err
	}
	_, err = r.readBlobs(ctx, ids, left, o, fn, false)
	return err
}

// readBlobs reads ids, or only those at the places in only. With retry, what vanished is returned
// rather than reported.
func (r *Repository) readBlobs(ctx context.Context, ids []chunk.ID, only []int32, o ReadOptions, fn func(i int, data []byte) error, retry bool) (left []int32, err error) {
	b := &batch{r: r, x: r.Index(), ids: ids, o: o, fn: fn, retry: retry}
	wants := make([]want, 0, len(ids))
	plan := func(i int32) error {
		loc, ok := b.x.Lookup(index.KeyOf(ids[i]))
		if !ok {
			return b.bad(i, &DamageError{Kind: DamageBlobGone, Object: "blob " + ids[i].String(), Detail: "no pack of the index holds it",
				Hint: "wtsnap repair index, if packs are there that the index does not list"})
		}
		wants = append(wants, want{blob: loc.Ordinal, frame: loc.Frame, i: i})
		return nil
	}
	if only != nil {
		for _, i := range only {
			if err := plan(i); err != nil {
				return nil, err
			}
		}
	} else {
		for i := range ids {
			if err := plan(int32(i)); err != nil {
				return nil, err
			}
		}
	}
	// Blobs have ordinals in the order of their packs and, within, of their places.
	slices.SortFunc(wants, func(a, b want) int { return cmp.Or(cmp.Compare(a.blob, b.blob), cmp.Compare(a.i, b.i)) })
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(o.Workers)
	for len(wants) > 0 && ctx.Err() == nil {
		n := b.span(wants)
		part := wants[:n]
		wants = wants[n:]
		g.Go(func() error { return b.readRange(ctx, part) })
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil && len(wants) > 0 {
		return nil, context.Cause(ctx)
	}
	return b.left, nil
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

// span returns how many of the sorted wants one request serves.
func (b *batch) span(wants []want) int {
	_, first := b.x.At(wants[0].blob)
	end := first.Offset + first.Length
	for n := 1; n < len(wants); n++ {
		if wants[n].frame == wants[n-1].frame {
			continue
		}
		_, loc := b.x.At(wants[n].blob)
		if loc.Pack != first.Pack || loc.Offset > end+maxGap || loc.Offset+loc.Length-first.Offset > maxRange {
			return n
		}
		end = loc.Offset + loc.Length
	}
	return len(wants)
}

// rangeScratch holds the buffers of one readRange.
type rangeScratch struct {
	raw   []byte
	frame frameScratch
}

// readRange fetches one range of a pack and hands out the blobs in it.
func (b *batch) readRange(ctx context.Context, wants []want) error {
	s, ok := b.scratch.Get().(*rangeScratch)
	if !ok {
		s = &rangeScratch{}
	}
	defer b.scratch.Put(s)
	_, first := b.x.At(wants[0].blob)
	_, last := b.x.At(wants[len(wants)-1].blob)
	length := int64(last.Offset) + int64(last.Length) - int64(first.Offset)
	raw, err := b.r.storeFor(first.Kind).Get(ctx, packName(first.PackID), int64(first.Offset), length, s.raw)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return b.each(ctx, wants, packError(first.PackID, err))
	}
	s.raw = raw
	if b.o.OnDownload != nil {
		b.o.OnDownload(length)
	}
	for len(wants) > 0 {
		n := 1
		for n < len(wants) && wants[n].frame == wants[0].frame {
			n++
		}
		f, _ := b.x.FrameOf(wants[0].blob)
		sealed := raw[f.Offset-first.Offset : f.Offset-first.Offset+f.Length]
		plain, err := b.r.decodeFrame(ctx, b.x, first.PackID, first.Kind, &f, sealed, &s.frame, 0)
		if err != nil {
			if err := b.each(ctx, wants[:n], err); err != nil {
				return err
			}
		} else {
			for _, w := range wants[:n] {
				_, loc := b.x.At(w.blob)
				if err := b.fn(int(w.i), plain[loc.Pos:loc.Pos+loc.Size]); err != nil {
					return err
				}
			}
		}
		wants = wants[n:]
	}
	return ctx.Err()
}

// each tries the other copies of blobs that could not be read.
func (b *batch) each(ctx context.Context, wants []want, cause error) error {
	for _, w := range wants {
		data, err := b.r.blobAt(ctx, b.x, index.KeyOf(b.ids[w.i]), 0)
		if err != nil {
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

// frameKey names a frame by its place.
type frameKey struct {
	pack   index.PackID
	offset uint32
}

// frameCache keeps the plaintext of frames that were read last, up to a number of bytes. Two readers of
// the same frame wait for one read.
type frameCache struct {
	mu    sync.Mutex
	limit int
	size  int
	tick  uint64
	m     map[frameKey]*cachedFrame
}

type cachedFrame struct {
	once  sync.Once
	plain []byte
	err   error
	used  uint64
}

func newFrameCache(limit int) *frameCache {
	return &frameCache{limit: limit, m: map[frameKey]*cachedFrame{}}
}

func (c *frameCache) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.m, c.size = map[frameKey]*cachedFrame{}, 0
}

// get returns the frame's plaintext, reading it where it is not there. Failures are not kept.
func (c *frameCache) get(key frameKey, read func() ([]byte, error)) ([]byte, error) {
	c.mu.Lock()
	f := c.m[key]
	if f == nil {
		f = &cachedFrame{}
		c.m[key] = f
	}
	c.tick++
	f.used = c.tick
	c.mu.Unlock()
	f.once.Do(func() {
		f.plain, f.err = read()
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.m[key] != f {
			return
		}
		if f.err != nil {
			delete(c.m, key)
			return
		}
		c.size += len(f.plain)
		c.evict(key)
	})
	return f.plain, f.err
}

// evict drops the frames that were not used for longest, but for keep.
func (c *frameCache) evict(keep frameKey) {
	for c.size > c.limit {
		var oldest frameKey
		found := false
		for k, f := range c.m {
			if k != keep && f.plain != nil && (!found || f.used < c.m[oldest].used) {
				oldest, found = k, true
			}
		}
		if !found {
			return
		}
		c.size -= len(c.m[oldest].plain)
		delete(c.m, oldest)
	}
}
