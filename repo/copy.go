package repo

import (
	"cmp"
	"context"
	"slices"
	"sync"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/index"
)

const (
	// copyWriters is how many ranges are read and stored at a time.
	copyWriters = 4
	// deepest is how many deltas may lie below one that is copied as it is.
	deepest = maxDepth - 2
	// placedMost bounds the blobs that a Copier remembers to have stored: twice as many.
	placedMost = 1 << 20
)

// Copier copies blobs of a repository into a session of another one. A blob gets another id on the way, that of the other
// repository's key; its content is verified against the id that it had. What is stored of it is what the first repository
// has, sealed anew: whole frames as they were compressed, and deltas where the other repository has their bases. Neither is
// compressed again, and no base is read from the other repository.
//
// Its methods may be called concurrently.
type Copier struct {
	from    *Repository
	s       *Session
	writers chan *Writer

	// mu guards placed: how deep the chains of what was stored here and may not be in the index yet are. A delta is kept
	// only if its bases were placed before, or are in the index: so no two can rest on each other.
	mu          sync.Mutex
	placed, old map[index.Key]uint8
}

// NewCopier returns a Copier. The index of from must be loaded.
func NewCopier(from *Repository, s *Session) *Copier {
	c := &Copier{from: from, s: s, writers: make(chan *Writer, copyWriters), placed: map[index.Key]uint8{}}
	for range copyWriters {
		c.writers <- s.Writer()
	}
	return c
}

// Copy copies data blobs of the first repository that the session does not have yet, and calls found for each, from several
// goroutines, with the id that it has in the other one. Errors of single blobs go to o.OnError as those of ReadBlobs do.
//
// What ctx interrupts is left out; what was begun is stored whole all the same.
//
// Memory: that of ReadBlobs, and for each range a writer and the frame that it fills.
func (c *Copier) Copy(ctx context.Context, ids []chunk.ID, o ReadOptions, found func(i int, id chunk.ID)) error {
	o.Workers = copyWriters
	read := func(only []int32, retry bool) ([]int32, error) {
		b := &batch{r: c.from, x: c.from.Index(), ids: ids, o: o, retry: retry, copier: c, found: found}
		b.fn = func(i int, data []byte) error { // another copy than the one that was read first
			u := c.newUnit()
			id, err := u.put(data)
			c.writers <- u.w
			found(i, id)
			return err
		}
		wants, err := b.plan(only)
		if err != nil {
			return nil, err
		}
		if err := b.read(ctx, wants); err != nil {
			return nil, err
		}
		return b.left, ctx.Err()
	}
	left, err := read(nil, true)
	if err != nil || len(left) == 0 {
		return err
	}
	if err := c.from.LoadIndex(ctx); err != nil {
		return err
	}
	_, err = read(left, false)
	return err
}

// unitCopy is what of a unit is on its way into the other repository.
type unitCopy struct {
	c       *Copier
	s       *Session
	w       *Writer
	shared  sharedCopy
	patches []*patchCopy

	ad, stored []byte // scratch
}

// sharedCopy is a frame of several whole blobs, of which the other repository lacks some. Where it lacks all of them, the
// frame is stored as it is.
type sharedCopy struct {
	f     *unitFrame
	blobs []index.Blob
	plain []byte
}

// patchCopy is what the other repository lacks of a frame of patches.
type patchCopy struct {
	f     *unitFrame
	blobs []patchBlob
}

type patchBlob struct {
	i     int // in the frame
	blob  index.Blob
	bases []index.Key
}

func (c *Copier) newUnit() *unitCopy { return &unitCopy{c: c, s: c.s, w: <-c.writers} }

// take takes a verified blob and returns its id in the other repository.
func (u *unitCopy) take(blob *unitBlob, data []byte) (chunk.ID, error) {
	id := u.s.r.keys.hasher.Sum(data)
	u.s.stats.processed.Add(int64(len(data)))
	if u.s.Use(id) {
		u.s.stats.reused.Add(1)
		return id, nil
	}
	if err := u.s.failed(); err != nil {
		return id, err
	}
	key := index.KeyOf(id)
	if !u.s.claim(key, len(data)) {
		return id, nil
	}
	if err := u.place(blob, index.Blob{Key: key, Size: uint32(len(data))}, data); err != nil {
		return id, u.s.fail(err)
	}
	return id, nil
}

// place chooses the form in which a blob that was claimed is stored.
func (u *unitCopy) place(blob *unitBlob, b index.Blob, data []byte) error {
	f := blob.frame
	bases := u.c.settle(blob, b.Key)
	switch {
	case len(bases) > 0 && f.Encoding == chunk.Patched:
		u.s.stats.delta.Add(1)
		i := slices.IndexFunc(u.patches, func(p *patchCopy) bool { return p.f == f })
		if i < 0 {
			i = len(u.patches)
			u.patches = append(u.patches, &patchCopy{f: f})
		}
		u.patches[i].blobs = append(u.patches[i].blobs, patchBlob{int(blob.ref - f.first), b, bases})
		return nil
	case len(bases) > 0 && len(f.Blobs) == 1:
		u.s.stats.delta.Add(1)
		return u.keep(f, []index.Blob{b}, bases)
	case len(f.Bases) > 0 || f.Size() < dataFrame/2 && len(data) < smallBlob:
		return u.whole(f.kind, b, data)
	case len(f.Blobs) == 1:
		return u.keep(f, []index.Blob{b}, nil)
	}
	return u.share(f, b, data)
}

// settle returns the bases that a blob's delta rests on, in the other repository; none where it is to be stored whole.
func (c *Copier) settle(blob *unitBlob, key index.Key) (bases []index.Key) {
	c.mu.Lock()
	defer c.mu.Unlock()
	depth := 0
	for _, b := range blob.bases {
		d, ok := c.depth(index.KeyOf(b.target))
		if depth = max(depth, d+1); !ok || b.target.IsZero() || depth > deepest {
			bases, depth = nil, 0
			break
		}
		bases = append(bases, index.KeyOf(b.target))
	}
	if len(c.placed) >= placedMost {
		c.placed, c.old = map[index.Key]uint8{}, c.placed
	}
	c.placed[key] = uint8(depth)
	return bases
}

// depth reports how many deltas lie below a blob of the other repository, and whether it can be a base. mu is held.
func (c *Copier) depth(key index.Key) (int, bool) {
	if d, ok := c.placed[key]; ok {
		return int(d), true
	}
	if d, ok := c.old[key]; ok {
		return int(d), true
	}
	if c.s.pending.has(key) || !c.s.useKey(key) { // claimed, and nobody knows yet what it will rest on; or not there
		return 0, false
	}
	return c.s.depth(key), true
}

// put stores a blob whole unless the other repository has it.
func (u *unitCopy) put(data []byte) (chunk.ID, error) {
	id := u.s.r.keys.hasher.Sum(data)
	if u.s.Use(id) || !u.s.claim(index.KeyOf(id), len(data)) {
		return id, nil
	}
	u.c.settle(&unitBlob{}, index.KeyOf(id))
	if err := u.whole(index.Data, index.Blob{Key: index.KeyOf(id), Size: uint32(len(data))}, data); err != nil {
		return id, u.s.fail(err)
	}
	return id, nil
}

func (u *unitCopy) whole(kind index.Kind, b index.Blob, data []byte) error {
	u.w.mu.Lock()
	defer u.w.mu.Unlock()
	return u.w.putWhole(u.s.ctx, u.w.part(kind), b, data, &Hint{})
}

// keep stores a frame as it was encoded, for blobs of other ids.
func (u *unitCopy) keep(f *unitFrame, blobs []index.Blob, bases []index.Key) (err error) {
	u.ad = frameAD(u.ad[:0], f.kind, &f.Frame)
	if u.stored, err = u.c.from.keys.open(u.stored[:0], f.sealed, u.ad); err != nil {
		return frameDamage(DamageOpen, f.packID, &f.Frame, err)
	}
	u.w.mu.Lock()
	defer u.w.mu.Unlock()
	return u.w.addEncoded(u.s.ctx, u.w.part(f.kind).shelf, index.Frame{Encoding: f.Encoding, Bases: bases, Blobs: slices.Clone(blobs)}, u.stored, false)
}

// share collects the blobs of a frame.
func (u *unitCopy) share(f *unitFrame, b index.Blob, data []byte) error {
	s := &u.shared
	if s.f != f {
		if err := u.endShared(); err != nil {
			return err
		}
		s.f = f
	}
	s.blobs, s.plain = append(s.blobs, b), append(s.plain, data...)
	if len(s.blobs) < len(f.Blobs) {
		return nil
	}
	err := u.keep(f, s.blobs, nil)
	s.f, s.blobs, s.plain = nil, s.blobs[:0], s.plain[:0]
	return err
}

// endShared stores what was collected of a frame whose other blobs are not needed.
func (u *unitCopy) endShared() error {
	s := &u.shared
	pos := uint32(0)
	for _, b := range s.blobs {
		if err := u.whole(s.f.kind, b, s.plain[pos:pos+b.Size]); err != nil {
			return err
		}
		pos += b.Size
	}
	s.f, s.blobs, s.plain = nil, s.blobs[:0], s.plain[:0]
	return nil
}

// finish stores what was taken and is not stored yet: also where the unit was not read to its end, since others may rely on
// what was claimed. It gives the writer back.
func (u *unitCopy) finish() error {
	err := u.endShared()
	for _, p := range u.patches {
		if err == nil {
			err = u.endPatch(p)
		}
	}
	u.c.writers <- u.w
	if err != nil {
		return u.s.fail(err)
	}
	return nil
}

// endPatch stores a frame of patches, or those of it that are needed.
func (u *unitCopy) endPatch(p *patchCopy) error {
	slices.SortFunc(p.blobs, func(a, b patchBlob) int { return cmp.Compare(a.i, b.i) })
	most := 0
	for _, b := range p.blobs {
		most = max(most, len(b.bases))
	}
	frame := index.Frame{Encoding: chunk.Patched}
	var keep []int
	for _, b := range p.blobs {
		keep = append(keep, b.i)
		frame.Blobs = append(frame.Blobs, b.blob)
		frame.Bases = append(frame.Bases, b.bases...)
		for range most - len(b.bases) { // equally many each: the last one is repeated
			frame.Bases = append(frame.Bases, b.bases[len(b.bases)-1])
		}
	}
	if len(keep) == len(p.f.Blobs) {
		return u.keep(p.f, frame.Blobs, frame.Bases)
	}
	var part chunk.PatchWriter
	p.f.patch.Subset(&part, keep)
	u.w.mu.Lock()
	defer u.w.mu.Unlock()
	return u.w.addPatch(u.s.ctx, u.w.part(p.f.kind).shelf, frame, &part, false)
}
