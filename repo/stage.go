package repo

import (
	"cmp"
	"context"
	"slices"
	"sync"

	"github.com/zeebo/blake3"
	"golang.org/x/sync/errgroup"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/index"
	"github.com/whole-tale/wtsnap/repo/storage"
)

// FrameCache keeps sealed frames on this machine from run to run: those that deltas were made against, and those that
// the next deltas will be made against. Nothing depends on it. Its methods may be called concurrently, and fail silently:
// what it gives is opened and verified as what comes from the backend is.
type FrameCache interface {
	Has(id [16]byte) bool
	// Get appends a frame to dst[:0].
	Get(id [16]byte, dst []byte) ([]byte, bool)
	// Put keeps a frame, if there is room. It keeps nothing of sealed itself.
	Put(id [16]byte, sealed []byte)
	// Drop removes a frame that does not open.
	Drop(id [16]byte)
	// Flush stores what was put.
	Flush()
}

// A DeltaMode says where the bases of deltas may come from.
type DeltaMode uint8

const (
	DeltaAuto  DeltaMode = iota // from the local cache, and from the repository where that costs less than it saves
	DeltaCache                  // from the local cache alone
	DeltaOff                    // there are no deltas
)

const (
	// stageBytes bounds the sealed frames that are kept in memory ahead of their use.
	stageBytes = 16 << 20
	// stageReads is how many ranges are read at a time, and stageAhead how many sealed bytes are read ahead at once.
	stageReads = 4
	stageAhead = 12 << 20
	// largeGap is how much that nobody asked for yet is read at most to save a request.
	largeGap = 1 << 20
	// hintBytes is how much plaintext is expected before it is read ahead; what is needed at once is read at once.
	hintBytes = 8 << 20
	hintMost  = 4096 // blobs
	// worthDown is how many bytes may come down for one that is stored of the blobs that become deltas by it. A byte down
	// is taken to cost a quarter of one that goes up, since the lines that are slow are mostly slower up, and a delta to
	// save three quarters of a blob.
	worthDown = 3
)

// stage brings sealed frames from the backend by few large reads, several at a time, ahead of their use where that is
// known, and keeps them for a while: in memory up to stageBytes, and in the local cache those that may be bases again.
type stage struct {
	r     *Repository
	local FrameCache // nil: none
	near  bool       // reading from the backend costs nothing

	mu     sync.Mutex
	frames map[frameKey][]byte
	order  []frameKey // of frames: those that were used or that nobody has asked for, and then the others, as they came
	spare  int        // how many of order are of the first kind
	bytes  int
	unused int                        // bytes of the others
	held   map[frameKey]bool          // known to be in the local cache
	coming map[frameKey]chan struct{} // closed when the read has ended
	hints  map[index.Key]int          // blobs that may soon be bases, and the bytes of their plaintext
	next   []index.Key                // the hints as they came; some may have been taken back
	hinted int                        // sum of hints

	crowded bool // the local cache is full
	trees   map[index.PackID]*treePack
}

func newStage(r *Repository, o *OpenOptions) *stage {
	return &stage{r: r, local: o.Frames, near: o.Near, frames: map[frameKey][]byte{}, held: map[frameKey]bool{}, coming: map[frameKey]chan struct{}{},
		hints: map[index.Key]int{}, trees: map[index.PackID]*treePack{}}
}

// frameID names a frame by its description, which it is sealed with. It is the same where prune copies it to.
func frameID(kind index.Kind, f *index.Frame) (id [16]byte) {
	sum := blake3.Sum256(frameAD(nil, kind, f))
	return [16]byte(sum[:16])
}

// keep puts a new frame into the local cache.
func (s *stage) keep(kind index.Kind, f *index.Frame, sealed []byte) {
	if s.local != nil {
		s.local.Put(frameID(kind, f), sealed)
	}
}

func (s *stage) flush() {
	if s.local != nil {
		s.local.Flush()
	}
}

// placed is a frame of the index.
type placed struct {
	index.Frame
	key   frameKey
	pack  index.PackRef
	kind  index.Kind
	first index.BlobRef
}

func placeOf(x *index.Index, loc index.Location) placed {
	f, first := x.FrameOf(loc.Ordinal)
	return placed{f, frameKey{loc.PackID, loc.Offset}, loc.Pack, loc.Kind, first}
}

// nextTo returns the frame behind p in its pack, which must not be the last one.
func nextTo(x *index.Index, p *placed) placed {
	f, first := x.FrameOf(p.first + index.BlobRef(len(p.Blobs)))
	return placed{f, frameKey{p.key.pack, f.Offset}, p.pack, p.kind, first}
}

// open decrypts a frame, which lies in into then; buf is memory for its sealed bytes.
func (s *stage) open(ctx context.Context, x *index.Index, loc index.Location, f *index.Frame, buf *[]byte, into *frameScratch) error {
	var sealed []byte
	if loc.Kind == index.Tree {
		data, err := s.tree(ctx, x, loc)
		if err != nil {
			return err
		}
		sealed = data
	} else {
		data, opened, err := s.sealed(ctx, &placed{Frame: *f, key: frameKey{loc.PackID, loc.Offset}, pack: loc.Pack, kind: loc.Kind}, buf, into)
		if err != nil || opened {
			return err
		}
		sealed = data
	}
	if err := openSealed(s.r.keys, loc.Kind, f, sealed, into); err != nil {
		return frameDamage(DamageOpen, loc.PackID, f, err)
	}
	return nil
}

// sealed returns a frame's sealed bytes, which must not be changed, and may lie in buf; or it reports that it has opened
// them already.
func (s *stage) sealed(ctx context.Context, p *placed, buf *[]byte, into *frameScratch) (data []byte, opened bool, err error) {
	for {
		s.mu.Lock()
		data, coming := s.frames[p.key], s.coming[p.key]
		s.used(p.key)
		s.mu.Unlock()
		if data != nil {
			return data, false, nil
		}
		if coming == nil {
			break
		}
		select {
		case <-coming:
		case <-ctx.Done():
			return nil, false, ctx.Err()
		}
	}
	if s.fromLocal(p, buf, into) {
		return nil, true, nil
	}
	*buf, err = s.r.st.Get(ctx, packName(p.key.pack), int64(p.Offset), int64(p.Length), *buf)
	if err != nil {
		return nil, false, packError(p.key.pack, err)
	}
	return *buf, false, nil
}

// fromLocal opens a frame from the local cache. It reports false where that is not there, or does not open.
func (s *stage) fromLocal(p *placed, buf *[]byte, into *frameScratch) bool {
	if s.local == nil {
		return false
	}
	id := frameID(p.kind, &p.Frame)
	data, ok := s.local.Get(id, *buf)
	*buf = data
	if ok && len(data) == int(p.Length) && openSealed(s.r.keys, p.kind, &p.Frame, data, into) == nil {
		return true
	}
	if ok {
		s.local.Drop(id)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.held) // whatever else went with it
	return false
}

// here reports whether a frame can be had without the backend, or is on its way. s.mu is held.
func (s *stage) here(p *placed) bool {
	if s.known(p.key) {
		return true
	}
	if s.local == nil || !s.local.Has(frameID(p.kind, &p.Frame)) {
		return false
	}
	s.held[p.key] = true
	return true
}

// known is here for what can be told of a frame without its description. s.mu is held.
func (s *stage) known(key frameKey) bool {
	if _, ok := s.frames[key]; ok || s.held[key] {
		return true
	}
	_, ok := s.coming[key]
	return ok || s.r.frames.has(key)
}

// visited are the blobs and the frames that restsOn has been at.
type visited struct {
	blobs  map[index.BlobRef]bool
	frames map[frameKey]bool
}

func newVisited() *visited { return &visited{map[index.BlobRef]bool{}, map[frameKey]bool{}} }

// missing calls fn for those frames of a blob and of its bases that are not here, those of data alone, each once. s.mu is held.
func (s *stage) missing(x *index.Index, loc index.Location, v *visited, fn func(placed)) {
	if loc.Kind != index.Data || v.blobs[loc.Ordinal] {
		return
	}
	v.blobs[loc.Ordinal] = true
	if key := (frameKey{loc.PackID, loc.Offset}); !v.frames[key] {
		v.frames[key] = true
		if !s.known(key) {
			if p := placeOf(x, loc); !s.here(&p) {
				fn(p)
			}
		}
	}
	for _, base := range loc.Bases {
		if at, ok := x.Lookup(base); ok {
			s.missing(x, at, v, fn)
		}
	}
}

// afford reports whether the plaintext of a base may be read. Where the mode is DeltaAuto it reads what it takes, and
// what is expected to be needed soon, if that costs less than it saves.
func (s *stage) afford(ctx context.Context, x *index.Index, loc index.Location, mode DeltaMode) bool {
	if loc.Kind != index.Data {
		return true // the parent's trees are read in any case
	}
	if s.takes(x, loc) == 0 {
		return true
	}
	if mode != DeltaAuto {
		return false
	}
	key, _ := x.At(loc.Ordinal)
	s.read(ctx, x, key)
	cost := s.takes(x, loc)
	return cost == 0 || s.pays(x, loc, cost)
}

// takes returns the sealed bytes of the frames that a base takes and that are not here.
func (s *stage) takes(x *index.Index, loc index.Location) (bytes int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.missing(x, loc, newVisited(), func(p placed) { bytes += int64(p.Length) })
	return bytes
}

// pays reports whether the frames that a base still takes cost less than it saves. What was read ahead for it may have made
// room for other frames before it was used.
func (s *stage) pays(x *index.Index, loc index.Location, cost int64) bool {
	_, root := x.At(rootOf(x, loc))
	g := group{cost: cost, saves: int64(loc.Size) * int64(root.Length) / int64(max(root.FrameSize, 1))}
	return s.near || g.pays()
}

func (g *group) pays() bool { return g.cost <= g.saves*worthDown }

// expect says that blobs may soon be bases. It reports whether so much is expected that it is time to read ahead.
func (s *stage) expect(x *index.Index, ids []chunk.ID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range ids {
		key := index.KeyOf(id)
		if _, ok := s.hints[key]; ok || len(s.next) == hintMost {
			continue
		}
		if loc, ok := x.Lookup(key); ok {
			s.hints[key] = int(loc.Size)
			s.hinted += int(loc.Size)
			s.next = append(s.next, key)
		}
	}
	return s.hinted >= hintBytes && (s.unused < stageBytes/4)
}

// unneeded takes expectations back.
func (s *stage) unneeded(ids []chunk.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range ids {
		key := index.KeyOf(id)
		s.hinted -= s.hints[key]
		delete(s.hints, key)
	}
}

// takeHint returns what is expected first, and expects it no more. s.mu is held.
func (s *stage) takeHint() (key index.Key, ok bool) {
	for len(s.next) > 0 && !ok {
		key = s.next[0]
		s.next = s.next[1:]
		var size int
		size, ok = s.hints[key]
		s.hinted -= size
		delete(s.hints, key)
	}
	return key, ok
}

// group is a whole frame with the deltas that rest on it, of which some blobs are wanted.
type group struct {
	frames []placed
	cost   int64 // sealed bytes that must come down
	saves  int64 // sealed bytes that the wanted blobs take, about
}

// plan returns the frames to read for blobs that are needed, and for those that are expected to be. Those are
// read that cost less than they save, and not more of them than stageAhead but for the last group, nor than there is room
// for. What is left is still expected.
func (s *stage) plan(x *index.Index, needed []index.Key) []placed {
	s.mu.Lock()
	defer s.mu.Unlock()
	most := int64(stageAhead)
	if s.local == nil || s.crowded {
		most = int64(stageBytes*3/4 - s.unused)
	}
	groups := map[frameKey]*group{}
	var order []*group
	seen := newVisited()
	var sum int64
	add := func(key index.Key) {
		loc, ok := x.Lookup(key)
		if !ok {
			return
		}
		_, root := x.At(rootOf(x, loc))
		at := frameKey{root.PackID, root.Offset}
		g := groups[at]
		if g == nil {
			g = &group{}
			groups[at] = g
			order = append(order, g)
		}
		if root.FrameSize > 0 {
			g.saves += int64(loc.Size) * int64(root.Length) / int64(root.FrameSize)
		}
		s.missing(x, loc, seen, func(p placed) {
			g.frames = append(g.frames, p)
			g.cost += int64(p.Length)
			sum += int64(p.Length)
		})
	}
	for _, key := range needed {
		add(key)
	}
	for n := len(needed); n == 0 || sum <= most; n++ {
		key, ok := s.takeHint()
		if !ok {
			break
		}
		add(key)
	}
	var list []placed
	for _, g := range order {
		if s.near || g.pays() {
			list = append(list, g.frames...)
		}
	}
	for _, p := range list {
		s.coming[p.key] = make(chan struct{})
	}
	return list
}

// span is a range of a pack that is read by one request.
type span struct {
	frames []placed // what is wanted, then what lies between
	wanted int      // of frames
	start  uint32
	end    uint32
}

// spans groups frames into ranges. What lies between two frames is read with them if it is no more than what is wanted
// before it: then others will mostly want it. It is kept, so that nothing is read twice.
func (s *stage) spans(x *index.Index, list []placed) (out []span) {
	slices.SortFunc(list, func(a, b placed) int { return cmp.Or(cmp.Compare(a.pack, b.pack), cmp.Compare(a.Offset, b.Offset)) })
	for len(list) > 0 {
		first := list[0]
		n, end, wanted := 1, first.Offset+first.Length, first.Length
		for n < len(list) && list[n].pack == first.pack && list[n].Offset <= end+max(maxGap, min(wanted, largeGap)) &&
			list[n].Offset+list[n].Length-first.Offset <= maxRange {
			end = list[n].Offset + list[n].Length
			wanted += list[n].Length
			n++
		}
		out = append(out, span{list[:n:n], n, first.Offset, end})
		list = list[n:]
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range out {
		r := &out[i]
		for n := range r.wanted - 1 {
			for p := r.frames[n]; p.Offset+p.Length < r.frames[n+1].Offset; {
				if p = nextTo(x, &p); !s.here(&p) {
					s.coming[p.key] = make(chan struct{})
					r.frames = append(r.frames, p)
				}
			}
		}
	}
	return out
}

// read reads what the needed blobs take, and what is expected to be needed soon, by few requests at a time. What fails is
// left to whoever needs it.
func (s *stage) read(ctx context.Context, x *index.Index, needed ...index.Key) {
	var g errgroup.Group
	g.SetLimit(stageReads)
	for _, r := range s.spans(x, s.plan(x, needed)) {
		g.Go(func() error {
			data, err := s.r.st.Get(ctx, packName(r.frames[0].key.pack), int64(r.start), int64(r.end-r.start), nil)
			for i, p := range r.frames {
				if err == nil {
					s.came(&p, data[p.Offset-r.start:][:p.Length], i < r.wanted)
				}
				s.arrived(p.key)
			}
			return nil
		})
	}
	_ = g.Wait()
}

func (s *stage) arrived(key frameKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.coming[key])
	delete(s.coming, key)
}

// came takes a frame that was read: into the local cache, or into memory where that has no room.
func (s *stage) came(p *placed, sealed []byte, wanted bool) {
	if s.local != nil {
		s.keep(p.kind, &p.Frame, sealed)
		if s.local.Has(frameID(p.kind, &p.Frame)) {
			return
		}
		s.mu.Lock()
		s.crowded = true
		s.mu.Unlock()
	}
	s.add(p.key, slices.Clone(sealed), wanted)
}

// add keeps a frame in memory for a while: those that are wanted, until they are used, rather than others.
func (s *stage) add(key frameKey, sealed []byte, wanted bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.frames[key]; ok {
		return
	}
	s.frames[key] = sealed
	s.bytes += len(sealed)
	if wanted {
		s.order = append(s.order, key)
		s.unused += len(sealed)
	} else {
		s.order = slices.Insert(s.order, s.spare, key)
		s.spare++
	}
	for s.bytes > stageBytes && len(s.order) > 1 {
		old := s.order[0]
		s.order = s.order[1:]
		s.bytes -= len(s.frames[old])
		if s.spare > 0 {
			s.spare--
		} else {
			s.unused -= len(s.frames[old])
		}
		delete(s.frames, old)
	}
}

// used notes that a frame was used: it is in memory, opened, for a while now. s.mu is held.
func (s *stage) used(key frameKey) {
	i := slices.Index(s.order, key)
	if i < s.spare {
		return
	}
	s.order = slices.Insert(slices.Delete(s.order, i, i+1), s.spare, key)
	s.spare++
	s.unused -= len(s.frames[key])
}

// treePack is what was read of a pack of trees that is not in the local cache.
type treePack struct {
	turn  chan struct{} // holds one element while it is read; who waits for it may give up
	reads int
}

const (
	// treeAhead is how many bytes of a pack of trees are read at first; then four times as many, then all of it, or
	// where there is no local cache, the next treeMost.
	treeAhead = 256 << 10
	treeMost  = 4 << 20
)

// holder is a storage that knows without a request which objects it can answer for.
type holder interface{ Holds(name string) bool }

// tree returns a sealed frame of trees. What lies behind it is mostly needed next: it is read with it, the more the
// oftener the pack is asked for, so that few pages cost few bytes and many pages few requests.
func (s *stage) tree(ctx context.Context, x *index.Index, loc index.Location) ([]byte, error) {
	key, name := frameKey{loc.PackID, loc.Offset}, packName(loc.PackID)
	get := func(st storage.Storage) ([]byte, error) {
		data, err := st.Get(ctx, name, int64(loc.Offset), int64(loc.Length), nil)
		if err != nil {
			return nil, packError(loc.PackID, err)
		}
		return data, nil
	}
	cache, ok := s.r.cached.(holder)
	if storage.CachingOf(ctx) == storage.CacheBypass {
		return get(s.r.cached)
	}
	s.mu.Lock()
	p := s.trees[loc.PackID]
	if p == nil {
		p = &treePack{turn: make(chan struct{}, 1)}
		s.trees[loc.PackID] = p
	}
	s.mu.Unlock()
	staged := func() []byte {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.frames[key]
	}
	if data := staged(); data != nil {
		return data, nil
	}
	if ok && cache.Holds(name) {
		return get(s.r.cached)
	}
	select {
	case p.turn <- struct{}{}:
		defer func() { <-p.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if data := staged(); data != nil { // another one read it meanwhile
		return data, nil
	}
	if ok && cache.Holds(name) {
		return get(s.r.cached)
	}
	info := x.Pack(loc.Pack)
	ahead := treeAhead << min(2*p.reads, 4)
	p.reads++
	if ok && (ahead > treeMost/2 || int64(ahead) >= info.Size) {
		return get(s.r.cached) // which reads and keeps all of it
	}
	end := loc.Offset + loc.Length
	var frames []index.Frame
	for _, f := range x.Frames(loc.Pack) {
		if f.Offset >= loc.Offset && int(f.Offset+f.Length-loc.Offset) <= max(ahead, int(loc.Length)) {
			frames = append(frames, f)
			end = f.Offset + f.Length
		}
	}
	data, err := s.r.st.Get(ctx, name, int64(loc.Offset), int64(end-loc.Offset), nil)
	if err != nil {
		return nil, packError(loc.PackID, err)
	}
	for _, f := range frames {
		s.add(frameKey{loc.PackID, f.Offset}, slices.Clone(data[f.Offset-loc.Offset:][:f.Length]), false)
	}
	return data[:loc.Length], nil
}
