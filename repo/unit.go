package repo

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/index"
)

// want is one requested blob.
type want struct {
	root index.BlobRef // the first of the whole blobs that its chain of deltas ends at, or itself
	blob index.BlobRef
	i    int32 // in ids
}

// batch is one pass of ReadBlobs.
type batch struct {
	r     *Repository
	x     *index.Index
	ids   []chunk.ID // nil: the wants say which copies are to be read, and only keys are compared
	o     ReadOptions
	fn    func(i int, data []byte) error
	retry bool

	patches *patchReads
	reads   chan struct{} // holds an element for each request on its way
	copier  *Copier       // stores what is read in another repository, and tells found; nil: fn takes it
	found   func(i int, id chunk.ID)

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
		wants = append(wants, want{root: rootOf(b.x, loc), blob: loc.Ordinal, i: i})
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
	sortWants(wants)
	return wants, nil
}

// planCopies sorts copies of blobs, which are to be read as they are, by where their whole blobs lie.
func (b *batch) planCopies(copies []index.BlobRef) []want {
	wants := make([]want, 0, len(copies))
	for i, ref := range copies {
		_, loc := b.x.At(ref)
		wants = append(wants, want{root: rootOf(b.x, loc), blob: ref, i: int32(i)})
	}
	sortWants(wants)
	return wants
}

func sortWants(wants []want) {
	// Blobs have ordinals in the order of their packs and, within, of their places.
	slices.SortFunc(wants, func(a, b want) int {
		return cmp.Or(cmp.Compare(a.root, b.root), cmp.Compare(a.blob, b.blob), cmp.Compare(a.i, b.i))
	})
}

// read reads what was planned.
func (b *batch) read(ctx context.Context, wants []want) error {
	b.begin(wants)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(b.o.Workers)
	b.units(wants, func(part []want) {
		if gctx.Err() == nil {
			g.Go(func() error { return b.readUnit(gctx, part, nil) })
		}
	})
	return g.Wait()
}

// begin prepares for the units of the wants.
func (b *batch) begin(wants []want) {
	b.patches = newPatchReads(b, wants)
	b.reads = make(chan struct{}, 2*max(b.o.Workers, 1))
}

// units calls fn for the wants of each unit.
func (b *batch) units(wants []want, fn func(part []want)) {
	for len(wants) > 0 {
		n := b.span(wants)
		fn(wants[:n])
		wants = wants[n:]
	}
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

// span returns how many of the sorted wants make a unit: those whose whole blobs lie in the same of the windows that a pack is
// divided into. Writers make no frame of patches that reaches from one window into the next, so that each is read by one unit.
// Where there are no deltas, what lies far apart in a window is read by several.
func (b *batch) span(wants []want) int {
	_, first := b.x.At(wants[0].root)
	end := first.Offset + first.Length
	gap, deltas := 0, false // the first place where the wants lie far apart; 0 = none
	for n, w := range wants {
		if n == 0 || w.root != wants[n-1].root {
			_, loc := b.x.At(w.root)
			if windowOf(loc) != windowOf(first) {
				return cut(n, gap, deltas)
			}
			if gap == 0 && loc.Offset > end+maxGap {
				gap = n
			}
			end = loc.Offset + loc.Length
		}
		deltas = deltas || w.blob != w.root
	}
	return cut(len(wants), gap, deltas)
}

// cut chooses between the end of a window and the first gap in it.
func cut(end, gap int, deltas bool) int {
	if gap == 0 || deltas {
		return end
	}
	return gap
}

// window is a part of a pack, of maxRange bytes.
type window struct {
	pack   index.PackRef
	number uint32
}

func windowOf(loc index.Location) window { return window{loc.Pack, loc.Offset / maxRange} }

// unit is what one worker reads together: frames, and the bases that they need.
type unit struct {
	b      *batch
	file   *packFile // of a pack that is in memory; nil = none
	blobs  map[index.BlobRef]*unitBlob
	frames map[index.FrameRef]*unitFrame
	order  []*unitFrame // by place
	copy   *unitCopy    // nil: nothing is copied
	last   *unitFrame   // whose plaintext lies in the scratch, if it is not shared
	s      *unitScratch
}

// unitFrame is a frame of a unit.
type unitFrame struct {
	index.Frame
	ref    index.FrameRef
	pack   index.PackRef
	packID index.PackID
	kind   index.Kind
	first  index.BlobRef
	sealed []byte
	err    error // why it can't be had
	shared bool  // it is somebody's base, or can't be had twice: its plaintext stays until its last blob has no users
	opened bool
	plain  []byte
	patch  *chunk.Patch
	users  int // blobs that somebody still needs
}

// unitBlob is a blob that is wanted, or that a delta rests on.
type unitBlob struct {
	frame     *unitFrame
	ref       index.BlobRef
	pos, size uint32
	bases     []*unitBlob
	users     int         // deltas and wants that are still to come
	text      *chunk.Rope // once it is put together, until the last user has come
	holds     []*unitBlob // whose memory the text is made of: it is a user of them
	err       error
	wanted    bool     // not only rested on
	target    chunk.ID // of a base, in the repository that it is copied to
	busy      bool     // being put together: a chain that comes back here is a loop
}

// need adds a blob to the unit, and its bases.
func (u *unit) need(ref index.BlobRef, depth int) *unitBlob {
	if blob := u.blobs[ref]; blob != nil {
		blob.users++
		return blob
	}
	_, loc := u.b.x.At(ref)
	f := u.frames[loc.Frame]
	if f == nil {
		frame, first := u.b.x.FrameOf(ref)
		f = &unitFrame{Frame: frame, ref: loc.Frame, pack: loc.Pack, packID: loc.PackID, kind: loc.Kind, first: first}
		u.frames[loc.Frame] = f
		u.order = append(u.order, f)
	}
	f.shared = f.shared || len(f.Blobs) > 1 && f.Encoding == chunk.ZstdDelta
	blob := &unitBlob{frame: f, ref: ref, pos: loc.Pos, size: loc.Size, users: 1}
	f.users++
	u.blobs[ref] = blob
	for _, key := range loc.Bases {
		base, ok := u.b.x.Lookup(key)
		if !ok || depth >= maxDepth {
			blob.err = &DamageError{Kind: DamageBlobGone, Object: "blob " + key.String(), Detail: "the base of a delta is in no pack of the index"}
			break
		}
		b := u.need(base.Ordinal, depth+1)
		b.frame.shared = true
		blob.bases = append(blob.bases, b)
	}
	return blob
}

// text returns a blob's text. It is not verified, nor is what it rests on: who wants it does that at the end.
func (u *unit) text(blob *unitBlob) (*chunk.Rope, error) {
	switch {
	case blob.text != nil || blob.err != nil:
		return blob.text, blob.err
	case blob.busy:
		return nil, &DamageError{Kind: DamageIndex, Object: packName(blob.frame.packID), Detail: "holds a delta that rests on itself"}
	}
	blob.busy = true
	text := u.s.ropes.New()
	if blob.err = u.resolve(blob, text); blob.err == nil {
		blob.text = text
	}
	blob.busy = false
	return blob.text, blob.err
}

// resolve makes text the blob's.
func (u *unit) resolve(blob *unitBlob, text *chunk.Rope) error {
	f := blob.frame
	if f.err == nil && !f.opened {
		f.err = u.open(f, blob)
	}
	if f.err != nil {
		return f.err
	}
	if f.patch == nil {
		text.Append(f.plain[blob.pos : blob.pos+blob.size])
		return nil
	}
	links := u.links(blob)
	last := links[len(links)-1]
	base, err := u.base(last)
	if err == nil {
		err = u.follow(links, text, base)
	}
	for _, b := range links[1:] {
		b.busy = false
		u.leave(b)
	}
	blob.holds = last.bases
	if len(last.bases) > 1 && err == nil {
		u.s.ropes.Free(base)
	}
	return err
}

// links returns a patched blob and those below it, each the only base of the one before, that are patches too and that nobody
// else needs: their texts need not be made, unless a copy is to rest on them. They are busy then, but for the first, which
// is already.
func (u *unit) links(blob *unitBlob) []*unitBlob {
	links := []*unitBlob{blob}
	for len(blob.bases) == 1 && (u.copy == nil || !blob.wanted) {
		next := blob.bases[0]
		f := next.frame
		if next.users != 1 || next.text != nil || next.err != nil || next.busy || f.Encoding != chunk.Patched || f.err != nil {
			break
		}
		if !f.opened {
			f.err = u.open(f, next)
		}
		if f.err != nil {
			break // as u.base finds
		}
		next.busy = true
		links, blob = append(links, next), next
	}
	return links
}

// follow makes text that of the first of a chain's links. The text of the last one's bases is base.
func (u *unit) follow(links []*unitBlob, text, base *chunk.Rope) error {
	u.s.links = u.s.links[:0]
	for _, b := range links {
		u.s.links = append(u.s.links, chunk.Link{Patch: b.frame.patch, Blob: int(b.ref - b.frame.first)})
	}
	if bad, err := u.s.ropes.Chain(text, u.s.links, base); err != nil {
		f := links[bad].frame
		return frameDamage(DamageDecode, f.packID, &f.Frame, err)
	}
	return nil
}

// open decodes a frame.
func (u *unit) open(f *unitFrame, blob *unitBlob) (err error) {
	s := &u.s.frame
	if f.Encoding == chunk.Patched {
		f.opened = true
		p := u.s.newPatch()
		if err := u.b.r.openPatchInto(p, u.s.arena.alloc, f.packID, f.kind, &f.Frame, f.sealed, s); err != nil {
			return err
		}
		f.patch = p
		return nil
	}
	var base []byte
	if len(f.Bases) > 0 {
		text, err := u.base(blob)
		if err != nil {
			return err
		}
		base = text.Bytes(&u.s.flat)
		defer u.done(blob, text)
	}
	if f.shared {
		keep := s.plain
		s.plain = u.s.plains.get(int(f.Size()) + chunk.DecodeSlack)
		defer func() { s.plain = keep }()
	} else {
		if u.last != nil {
			u.last.opened = false
		}
		u.last = f
	}
	f.opened = true
	plain, err := u.b.r.openPlain(f.packID, f.kind, &f.Frame, f.sealed, base, s)
	if err != nil {
		return err
	}
	f.plain = plain
	return nil
}

// base returns the text of a blob's bases, end to end.
func (u *unit) base(blob *unitBlob) (*chunk.Rope, error) {
	for _, b := range blob.bases {
		text, err := u.text(b)
		if err != nil {
			return nil, onBase(err)
		}
		if u.copy != nil && blob.wanted && b.target.IsZero() {
			b.target = u.copy.s.r.keys.hasher.Sum(text.Bytes(&u.s.flat))
		}
	}
	if len(blob.bases) == 1 {
		return blob.bases[0].text, nil
	}
	all := u.s.ropes.New()
	for _, b := range blob.bases {
		all.AppendRope(b.text)
	}
	return all, nil
}

// done says that a blob needs its bases no longer.
func (u *unit) done(blob *unitBlob, base *chunk.Rope) {
	for _, b := range blob.bases {
		u.leave(b)
	}
	if len(blob.bases) > 1 {
		u.s.ropes.Free(base)
	}
}

// leave says that one user of a blob has come.
func (u *unit) leave(blob *unitBlob) {
	if blob.users--; blob.users > 0 {
		return
	}
	if blob.text != nil {
		u.s.ropes.Free(blob.text)
		blob.text = nil
	}
	for _, b := range blob.holds {
		u.leave(b)
	}
	blob.holds = nil
	f := blob.frame
	if f.users--; f.users == 0 && f.shared && f.plain != nil {
		u.s.plains.put(f.plain)
		f.plain, f.opened = nil, false
	}
}

// readUnit fetches a unit and hands out the blobs in it. Whole blobs that lie in file are not fetched; nil = all are.
func (b *batch) readUnit(ctx context.Context, wants []want, file *packFile) (err error) {
	s, ok := b.scratch.Get().(*unitScratch)
	if !ok {
		s = &unitScratch{}
	}
	defer b.scratch.Put(s)
	defer s.reset()
	u := &unit{b: b, s: s, file: file, blobs: map[index.BlobRef]*unitBlob{}, frames: map[index.FrameRef]*unitFrame{}}
	if b.copier != nil {
		u.copy = b.copier.newUnit()
		defer func() { err = errors.Join(err, u.copy.finish()) }()
	}
	for _, w := range wants {
		u.need(w.blob, 0).wanted = true
	}
	if err := u.fetch(ctx); err != nil {
		return err
	}
	for len(wants) > 0 && ctx.Err() == nil {
		n := 1
		for n < len(wants) && wants[n].blob == wants[0].blob {
			n++
		}
		part := wants[:n]
		wants = wants[n:]
		if err := u.hand(ctx, part); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// hand verifies a blob and hands it to all who want it.
func (u *unit) hand(ctx context.Context, wants []want) error {
	b, blob := u.b, u.blobs[wants[0].blob]
	text, err := u.text(blob)
	if err != nil {
		return b.others(ctx, wants, err)
	}
	data := text.Bytes(&u.s.flat)
	sum := b.r.keys.hasher.Sum(data)
	for i, w := range wants {
		if !b.is(sum, w) {
			if err := b.others(ctx, wants[i:i+1], nil); err != nil {
				return err
			}
		} else if err := u.give(w, blob, data); err != nil {
			return err
		}
		u.leave(blob)
	}
	return nil
}

// give hands a verified blob to whoever wants it.
func (u *unit) give(w want, blob *unitBlob, data []byte) error {
	if u.copy != nil {
		id, err := u.copy.take(blob, data)
		if err != nil {
			return err
		}
		u.b.found(int(w.i), id)
		return nil
	}
	return u.b.fn(int(w.i), data)
}

// is reports whether a blob with that id is the wanted one.
func (b *batch) is(sum chunk.ID, w want) bool {
	if b.ids != nil {
		return sum == b.ids[w.i]
	}
	key, _ := b.x.At(w.blob)
	return index.KeyOf(sum) == key
}

// others tries the other copies of blobs that could not be read, because of cause or because they were not what their ids
// say.
func (b *batch) others(ctx context.Context, wants []want, cause error) error {
	for _, w := range wants {
		var data []byte
		var err error
		if b.ids != nil {
			if data, err = b.r.blobAt(ctx, b.x, index.KeyOf(b.ids[w.i]), 0); err == nil {
				data, err = b.r.verified(b.ids[w.i], data)
			}
		} else {
			_, loc := b.x.At(w.blob)
			data, err = b.r.blobIn(ctx, b.x, loc, 0)
		}
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if cause != nil {
				err = cause
			}
			if err := b.bad(w.i, err); err != nil {
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
