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
	// maxDepth bounds the chain of delta bases that a reader follows; writeDepth the ones that are made.
	maxDepth   = 32
	writeDepth = 8
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
	return r.openVerified(pack, kind, f, sealed, base, s)
}

// openVerified opens a frame and verifies every blob in it. The result lies in s.
func (r *Repository) openVerified(pack index.PackID, kind index.Kind, f *index.Frame, sealed, base []byte, s *frameScratch) ([]byte, error) {
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
	s.sums = s.sums[:0]
	for _, b := range f.Blobs {
		sum := r.keys.hasher.Sum(plain[pos : pos+b.Size])
		s.sums = append(s.sums, sum)
		if index.KeyOf(sum) != b.Key {
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
		return nil, &DamageError{Kind: DamageIndex, Object: "blob " + keys[0].String(), Detail: "its chain of delta bases is too long"}
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
//
// It is the second try of everything that reads, so it does not ask the local cache.
func (r *Repository) blobAt(ctx context.Context, x *index.Index, key index.Key, depth int) ([]byte, error) {
	ctx = storage.WithCaching(ctx, storage.CacheBypass)
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
		return nil, &DamageError{Kind: DamageBlobGone, Object: "blob " + key.String(), Detail: "no pack of the index holds it",
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
	plain, err := r.nearby(ctx, x, loc, 0)
	if err != nil { // another copy may be whole
		plain, cerr := r.blobAt(ctx, x, index.KeyOf(id), 0)
		if cerr != nil {
			return nil, err
		}
		return r.verified(id, plain)
	}
	return r.verified(id, plain)
}

// nearby reads a blob and keeps its frame in memory for a while, and those of its bases: what is next to
// it in the repository is mostly needed next.
func (r *Repository) nearby(ctx context.Context, x *index.Index, loc index.Location, depth int) ([]byte, error) {
	if depth > maxDepth {
		return nil, &DamageError{Kind: DamageIndex, Object: packName(loc.PackID), Detail: "holds a delta whose chain of bases is too long"}
	}
	plain, err := r.frames.get(ctx, frameKey{loc.PackID, loc.Offset}, depth, func() ([]byte, error) {
		f, _ := x.FrameOf(loc.Ordinal)
		sealed, err := r.storeFor(loc.Kind).Get(ctx, packName(loc.PackID), int64(f.Offset), int64(f.Length), nil)
		if err != nil {
			return nil, packError(loc.PackID, err)
		}
		var base []byte
		for _, key := range f.Bases {
			at, ok := x.Lookup(key)
			if !ok {
				return nil, &DamageError{Kind: DamageBlobGone, Object: "blob " + key.String(), Detail: "the base of a delta is in no pack of the index"}
			}
			blob, err := r.nearby(ctx, x, at, depth+1)
			if err != nil {
				return nil, fmt.Errorf("reading a delta's base: %w", err)
			}
			base = append(base, blob...)
		}
		return r.openVerified(loc.PackID, loc.Kind, &f, sealed, base, &frameScratch{})
	})
	if err != nil {
		return nil, err
	}
	return plain[loc.Pos : loc.Pos+loc.Size], nil
}

// verified compares all 256 bits of the id; the index knows half of them.
func (r *Repository) verified(id chunk.ID, data []byte) ([]byte, error) {
	if r.keys.hasher.Sum(data) != id {
		return nil, notThis(id)
	}
	return data, nil
}

func notThis(id chunk.ID) error {
	return &DamageError{Kind: DamageBlob, Object: "blob " + id.String(), Detail: "its bytes are not those of its id"}
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

// want is one requested blob.
type want struct {
	root  index.BlobRef // the first of the whole blobs that its chain of deltas ends at, or itself
	blob  index.BlobRef
	frame index.FrameRef
	i     int32
}

// ReadBlobs reads blobs in the order in which they lie in the repository: each frame is fetched and
// decoded once, neighbours are fetched together, and a delta is read together with its bases. fn is
// called once for each index i of ids, from several goroutines; data is valid during the call only. An
// error of fn ends the read.
//
// Memory: 16 bytes a requested blob, and per worker a unit: frames that lie within a range of 4 MiB (or
// one frame if larger), the deltas that rest on them, and the plaintext of those that are bases.
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
	wants, err := b.plan(only)
	if err != nil {
		return nil, err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(o.Workers)
	for len(wants) > 0 && gctx.Err() == nil {
		n := b.span(wants)
		part := wants[:n]
		wants = wants[n:]
		g.Go(func() error { return b.readUnit(gctx, part) })
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return b.left, ctx.Err()
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

// plan finds the requested blobs and sorts them by where their whole blobs lie.
func (b *batch) plan(only []int32) ([]want, error) {
	wants := make([]want, 0, len(b.ids))
	find := func(i int32) error {
		loc, ok := b.x.Lookup(index.KeyOf(b.ids[i]))
		if !ok {
			return b.bad(i, &DamageError{Kind: DamageBlobGone, Object: "blob " + b.ids[i].String(), Detail: "no pack of the index holds it",
				Hint: "wtsnap repair index, if packs are there that the index does not list"})
		}
		wants = append(wants, want{root: rootOf(b.x, loc), blob: loc.Ordinal, frame: loc.Frame, i: i})
		return nil
	}
	if only == nil {
		for i := range b.ids {
			if err := find(int32(i)); err != nil {
				return nil, err
			}
		}
	}
	for _, i := range only {
		if err := find(i); err != nil {
			return nil, err
		}
	}
	// Blobs have ordinals in the order of their packs and, within, of their places.
	slices.SortFunc(wants, func(a, b want) int {
		return cmp.Or(cmp.Compare(a.root, b.root), cmp.Compare(a.blob, b.blob), cmp.Compare(a.i, b.i))
	})
	return wants, nil
}

// rootOf follows a chain of first bases to its end.
func rootOf(x *index.Index, loc index.Location) index.BlobRef {
	for depth := 0; len(loc.Bases) > 0 && depth < maxDepth; depth++ {
		base, ok := x.Lookup(loc.Bases[0])
		if !ok {
			break
		}
		loc = base
	}
	return loc.Ordinal
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

// span returns how many of the sorted wants make a unit.
func (b *batch) span(wants []want) int {
	_, first := b.x.At(wants[0].root)
	end := first.Offset + first.Length
	for n := 1; n < len(wants); n++ {
		if wants[n].root == wants[n-1].root {
			continue
		}
		_, loc := b.x.At(wants[n].root)
		if loc.Frame == first.Frame {
			continue
		}
		if loc.Pack != first.Pack || loc.Offset > end+maxGap || loc.Offset+loc.Length-first.Offset > maxRange {
			return n
		}
		end = loc.Offset + loc.Length
	}
	return len(wants)
}

// unit is what one worker reads together: frames, and the bases that they need.
type unit struct {
	b      *batch
	frames map[index.FrameRef]*unitFrame
	order  []*unitFrame // by place
	s      *unitScratch
}

// unitFrame is a frame of a unit.
type unitFrame struct {
	index.Frame
	pack   index.PackRef
	packID index.PackID
	kind   index.Kind
	first  index.BlobRef
	sealed []byte
	err    error  // why it can't be had
	shared bool   // it is somebody's base, or several blobs are wanted from it: keep plain
	plain  []byte // decoded, if shared
	sums   []chunk.ID
	busy   bool // being decoded: a chain that comes back here is a loop
	bases  []unitBase
}

// unitBase is a blob that a delta rests on.
type unitBase struct {
	frame     *unitFrame
	pos, size uint32
}

// unitScratch holds the buffers of one readUnit.
type unitScratch struct {
	raw   []byte
	frame frameScratch
}

// need adds the frame of a blob to the unit, and the frames of its bases.
func (u *unit) need(blob index.BlobRef, depth int) *unitFrame {
	_, loc := u.b.x.At(blob)
	if f := u.frames[loc.Frame]; f != nil {
		return f
	}
	frame, first := u.b.x.FrameOf(blob)
	f := &unitFrame{Frame: frame, pack: loc.Pack, packID: loc.PackID, kind: loc.Kind, first: first}
	u.frames[loc.Frame] = f
	u.order = append(u.order, f)
	for _, key := range frame.Bases {
		if loc, ok := u.b.x.Lookup(key); ok && depth < maxDepth {
			base := u.need(loc.Ordinal, depth+1)
			base.shared = true
			f.bases = append(f.bases, unitBase{base, loc.Pos, loc.Size})
		} else {
			f.err = &DamageError{Kind: DamageBlobGone, Object: "blob " + key.String(), Detail: "the base of a delta is in no pack of the index"}
		}
	}
	return f
}

// fetchRange is a range of a pack that holds frames.
type fetchRange struct {
	frames []*unitFrame
	start  uint32
	length int
}

// ranges groups the frames that one request each can fetch.
func (u *unit) ranges() (ranges []fetchRange, total int) {
	slices.SortFunc(u.order, func(a, b *unitFrame) int { return cmp.Compare(a.first, b.first) })
	for frames := u.order; len(frames) > 0; {
		first := frames[0]
		n, end := 1, first.Offset+first.Length
		for n < len(frames) && frames[n].pack == first.pack && frames[n].Offset <= end+maxGap &&
			frames[n].Offset+frames[n].Length-first.Offset <= maxRange {
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
	ranges, total := u.ranges()
	raw := slices.Grow(u.s.raw[:0], total)[:total]
	u.s.raw = raw
	for _, r := range ranges {
		f := r.frames[0]
		got, err := u.b.r.storeFor(f.kind).Get(ctx, packName(f.packID), int64(r.start), int64(r.length), raw[:0:r.length])
		raw = raw[r.length:]
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			for _, f := range r.frames {
				f.err = packError(f.packID, err)
			}
			continue
		}
		if u.b.o.OnDownload != nil {
			u.b.o.OnDownload(int64(r.length))
		}
		for _, f := range r.frames {
			f.sealed = got[f.Offset-r.start : f.Offset-r.start+f.Length]
		}
	}
	return nil
}

// plain decodes a frame, its bases first.
func (u *unit) plain(f *unitFrame) ([]byte, error) {
	if f.err != nil || f.plain != nil {
		return f.plain, f.err
	}
	if f.busy {
		f.err = &DamageError{Kind: DamageIndex, Object: packName(f.packID), Detail: "holds a delta that rests on itself"}
		return nil, f.err
	}
	f.busy = true
	defer func() { f.busy = false }()
	var base []byte
	for _, part := range f.bases {
		plain, err := u.plain(part.frame)
		if err != nil {
			f.err = fmt.Errorf("reading a delta's base: %w", err)
			return nil, f.err
		}
		blob := plain[part.pos : part.pos+part.size]
		if len(f.bases) == 1 {
			base = blob
		} else {
			base = append(base, blob...)
		}
	}
	s := &u.s.frame
	if f.shared {
		s = &frameScratch{}
	}
	plain, err := u.b.r.openVerified(f.packID, f.kind, &f.Frame, f.sealed, base, s)
	if err != nil {
		f.err = err
	} else if f.shared {
		f.plain = plain
	}
	f.sums = s.sums
	return plain, err
}

// readUnit fetches a unit and hands out the blobs in it.
func (b *batch) readUnit(ctx context.Context, wants []want) error {
	s, ok := b.scratch.Get().(*unitScratch)
	if !ok {
		s = &unitScratch{}
	}
	defer b.scratch.Put(s)
	u := &unit{b: b, s: s, frames: map[index.FrameRef]*unitFrame{}}
	for _, w := range wants {
		u.need(w.blob, 0)
	}
	if err := u.fetch(ctx); err != nil {
		return err
	}
	for len(wants) > 0 {
		n := 1
		for n < len(wants) && wants[n].frame == wants[0].frame {
			n++
		}
		part := wants[:n]
		wants = wants[n:]
		f := u.frames[part[0].frame]
		plain, err := u.plain(f)
		if err != nil {
			if err := b.others(ctx, part, err); err != nil {
				return err
			}
			continue
		}
		for _, w := range part {
			_, loc := b.x.At(w.blob)
			if f.sums[w.blob-f.first] != b.ids[w.i] { // the index knows half of the id
				if err := b.bad(w.i, notThis(b.ids[w.i])); err != nil {
					return err
				}
				continue
			}
			if err := b.fn(int(w.i), plain[loc.Pos:loc.Pos+loc.Size]); err != nil {
				return err
			}
		}
	}
	return ctx.Err()
}

// others tries the other copies of blobs that could not be read.
func (b *batch) others(ctx context.Context, wants []want, cause error) error {
	for _, w := range wants {
		data, err := b.r.blobAt(ctx, b.x, index.KeyOf(b.ids[w.i]), 0)
		if err == nil {
			data, err = b.r.verified(b.ids[w.i], data)
		}
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
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

// frameCache keeps the plaintext of frames that were read last, up to a number of bytes.
type frameCache struct {
	mu    sync.Mutex
	limit int
	size  int
	tick  uint64
	m     map[frameKey]*cachedFrame
	wait  map[frameKey]chan struct{} // closed when the read that is going on has ended
}

type cachedFrame struct {
	plain []byte
	used  uint64
}

func newFrameCache(limit int) *frameCache {
	c := &frameCache{limit: limit}
	c.clear()
	return c
}

func (c *frameCache) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.m, c.wait, c.size = map[frameKey]*cachedFrame{}, map[frameKey]chan struct{}{}, 0
}

// get returns the frame's plaintext, reading it where it is not there. A reader waits for another's read
// of the same frame, but not while it reads a base (depth > 0): chains that form a loop would wait for
// each other. Failures are not kept.
func (c *frameCache) get(ctx context.Context, key frameKey, depth int, read func() ([]byte, error)) ([]byte, error) {
	for {
		c.mu.Lock()
		if f := c.m[key]; f != nil {
			c.tick++
			f.used = c.tick
			c.mu.Unlock()
			return f.plain, nil
		}
		going := c.wait[key]
		if going == nil || depth > 0 {
			break
		}
		c.mu.Unlock()
		select {
		case <-going:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	done := make(chan struct{})
	defer close(done)
	if depth == 0 {
		c.wait[key] = done
	}
	c.mu.Unlock()
	plain, err := read()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.wait[key] == done {
		delete(c.wait, key)
	}
	if err != nil || c.m[key] != nil {
		return plain, err
	}
	c.tick++
	c.m[key] = &cachedFrame{plain: plain, used: c.tick}
	c.size += len(plain)
	c.evict(key)
	return plain, nil
}

// evict drops the frames that were not used for longest, but for keep.
func (c *frameCache) evict(keep frameKey) {
	for c.size > c.limit && len(c.m) > 1 {
		oldest := keep
		for k, f := range c.m {
			if k != keep && (oldest == keep || f.used < c.m[oldest].used) {
				oldest = k
			}
		}
		c.size -= len(c.m[oldest].plain)
		delete(c.m, oldest)
	}
}
