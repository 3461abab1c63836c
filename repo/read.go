package repo

import (
	"context"
	"errors"
	"fmt"
	"runtime"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/index"
	"github.com/whole-tale/wtsnap/repo/storage"
)

const (
	// maxRange is how many bytes of a pack are fetched by one request, at least a frame.
	maxRange = 4 << 20
	// maxGap is how many bytes that nobody asked for are fetched to save a request.
	maxGap = 128 << 10
	// unitGap is the same where many ranges are read at a time, so that another request takes little of a line's time:
	// less than most whole chunks take, of which those that have newer versions are not wanted any more.
	unitGap = 32 << 10
	// maxDepth bounds the chain of delta bases that a reader follows. Writers make chains of writeDepth to twice that.
	maxDepth   = 64
	writeDepth = 31
	// loneCacheBytes and sharedCacheBytes bound the frames that are kept in memory: those that a base of a delta fills, and
	// those of trees, patches and small bases.
	loneCacheBytes   = 6 << 20
	sharedCacheBytes = 20 << 20
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
	return r.decodeFrame(ctx, x, pack, kind, f, sealed, s)
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
func (r *Repository) decodeFrame(ctx context.Context, x *index.Index, pack index.PackID, kind index.Kind, f *index.Frame, sealed []byte, s *frameScratch) ([]byte, error) {
	if f.Encoding != chunk.Patched {
		base, err := r.bases(ctx, x, f.Bases)
		if err != nil {
			return nil, err
		}
		return r.openVerified(pack, kind, f, sealed, base, s)
	}
	patch, err := r.openPatch(pack, kind, f, sealed, s)
	if err != nil {
		return nil, err
	}
	s.plain = s.plain[:0]
	for i := range f.Blobs {
		base, err := r.bases(ctx, x, patchBases(f, i))
		if err != nil {
			return nil, err
		}
		if s.plain, err = r.patched(patch, pack, f, i, base, s.plain); err != nil {
			return nil, err
		}
	}
	return s.plain, nil
}

// patched appends a patch's blob i to dst and verifies it.
func (r *Repository) patched(patch *chunk.Patch, pack index.PackID, f *index.Frame, i int, base, dst []byte) ([]byte, error) {
	var from, text chunk.Rope
	from.Append(base)
	if err := patch.Apply(&text, i, &from); err != nil {
		return dst, frameDamage(DamageDecode, pack, f, err)
	}
	n := len(dst)
	dst = text.AppendTo(dst)
	if index.KeyOf(r.keys.hasher.Sum(dst[n:])) != f.Blobs[i].Key {
		return dst, wrongBlob(pack, f.Offset)
	}
	return dst, nil
}

// openPlain opens a frame that is no patch, and says how it is damaged if it is. The result lies in s.
func (r *Repository) openPlain(pack index.PackID, kind index.Kind, f *index.Frame, sealed, base []byte, s *frameScratch) ([]byte, error) {
	if err := openSealed(r.keys, kind, f, sealed, s); err != nil {
		return nil, frameDamage(DamageOpen, pack, f, err)
	}
	plain, err := decodeStored(r.keys, f, base, s)
	if err != nil {
		return nil, frameDamage(DamageDecode, pack, f, err)
	}
	return plain, nil
}

// openVerified opens a frame and verifies every blob in it. The result lies in s.
func (r *Repository) openVerified(pack index.PackID, kind index.Kind, f *index.Frame, sealed, base []byte, s *frameScratch) ([]byte, error) {
	plain, err := r.openPlain(pack, kind, f, sealed, base, s)
	if err != nil {
		return nil, err
	}
	pos := uint32(0)
	s.sums = s.sums[:0]
	for _, b := range f.Blobs {
		sum := r.keys.hasher.Sum(plain[pos : pos+b.Size])
		s.sums = append(s.sums, sum)
		if index.KeyOf(sum) != b.Key {
			return nil, wrongBlob(pack, f.Offset)
		}
		pos += b.Size
	}
	return plain, nil
}

// bases returns the plaintext of a delta's bases, end to end.
func (r *Repository) bases(ctx context.Context, x *index.Index, keys []index.Key) (out []byte, err error) {
	for _, key := range keys {
		plain, err := r.base(ctx, x, key)
		if err != nil {
			return nil, onBase(err)
		}
		out = append(out, plain...)
	}
	return out, nil
}

// base returns the plaintext of a delta's base: of the frames that are in memory for a while, where these are good.
func (r *Repository) base(ctx context.Context, x *index.Index, key index.Key) ([]byte, error) {
	if loc, ok := x.Lookup(key); ok {
		if plain, err := r.nearby(ctx, x, loc, nil); err == nil || ctx.Err() != nil {
			return plain, err
		}
	}
	return r.blobAt(ctx, x, key, 1)
}

// blobAt reads one blob by its key, trying every copy that there is.
//
// It is the second try of everything that reads, so it does not ask the local cache.
func (r *Repository) blobAt(ctx context.Context, x *index.Index, key index.Key, depth int) ([]byte, error) {
	ctx = storage.WithCaching(ctx, storage.CacheBypass)
	var errs []error
	for _, loc := range x.Lookups(key) {
		plain, err := r.blobIn(ctx, x, loc, depth)
		if err == nil {
			return plain, nil
		}
		errs = append(errs, err)
	}
	if len(errs) == 0 {
		return nil, &DamageError{Kind: DamageBlobGone, Object: "blob " + key.String(), Detail: "no pack of the index holds it",
			Hint: "wtsnap repair index, if packs are there that the index does not list"}
	}
	return nil, errs[0]
}

// blobIn reads one copy of a blob, of its bases every copy that it takes.
func (r *Repository) blobIn(ctx context.Context, x *index.Index, loc index.Location, depth int) ([]byte, error) {
	f, first := x.FrameOf(loc.Ordinal)
	sealed, err := r.storeFor(loc.Kind).Get(ctx, packName(loc.PackID), int64(f.Offset), int64(f.Length), nil)
	if err != nil {
		return nil, packError(loc.PackID, err)
	}
	var base []byte
	for _, key := range loc.Bases {
		if depth >= maxDepth {
			return nil, &DamageError{Kind: DamageIndex, Object: "blob " + key.String(), Detail: "its chain of delta bases is too long"}
		}
		plain, err := r.blobAt(ctx, x, key, depth+1)
		if err != nil {
			return nil, onBase(err)
		}
		base = append(base, plain...)
	}
	var s frameScratch
	if f.Encoding == chunk.Patched {
		patch, err := r.openPatch(loc.PackID, loc.Kind, &f, sealed, &s)
		if err != nil {
			return nil, err
		}
		return r.patched(patch, loc.PackID, &f, int(loc.Ordinal-first), base, nil)
	}
	plain, err := r.openVerified(loc.PackID, loc.Kind, &f, sealed, base, &s)
	if err != nil {
		return nil, err
	}
	return plain[loc.Pos : loc.Pos+loc.Size], nil
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
	t := r.texts(x)
	defer t.done()
	text := t.ropes.New()
	defer t.ropes.Free(text)
	err := t.blob(ctx, loc, text, 0)
	if err == nil {
		var data []byte
		data = text.Bytes(&data)
		switch sum := r.keys.hasher.Sum(data); {
		case sum == id:
			return data, nil
		case index.KeyOf(sum) == index.KeyOf(id):
			return nil, notThis(id)
		}
		err = wrongBlob(loc.PackID, loc.Offset)
	}
	plain, cerr := r.blobAt(ctx, x, index.KeyOf(id), 0) // another copy may be whole
	if cerr != nil {
		return nil, err
	}
	return r.verified(id, plain)
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
	Workers int // ranges that are fetched and opened at a time; 0 means 4; no more than pay where the storage is near
	// OnError is called for each blob that can't be read, from any goroutine; where it returns nil the
	// others go on. Nil: the first error ends it.
	OnError func(i int, err error) error
	// OnDownload is called with the bytes of each fetched range. It may be nil.
	OnDownload func(bytes int64)
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
	if r.stage.near { // then more than there are processors to open what comes take memory alone
		o.Workers = min(o.Workers, runtime.GOMAXPROCS(0)+1)
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
	if err := b.read(ctx, wants); err != nil {
		return nil, err
	}
	return b.left, ctx.Err()
}
