package repo

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/index"
	"github.com/whole-tale/wtsnap/repo/storage"
)

const (
	// smallBlob is the size from which a blob gets a frame of its own; smaller ones share.
	smallBlob = 128 << 10
	// dataFrame and treeFrame are the plaintext sizes at which a shared frame is closed. A reader of one
	// blob fetches and opens its whole frame.
	dataFrame = 256 << 10
	treeFrame = 128 << 10
	// segmentPacks is how many packs are uploaded before they are listed in an index segment, so that a
	// killed run loses little.
	segmentPacks = 32
	// readsAhead is how many reads ahead are on their way at a time, of stageReads requests each.
	readsAhead = 2
)

// SessionOptions are the options of Begin.
type SessionOptions struct {
	// Instance is whose session it is. What an earlier one of the same instance had uploaded when it was killed is found
	// again at once; "" = after half an hour.
	Instance string
	Level    chunk.Level // of compression
	Delta    DeltaMode
	// Uploads is how many packs may be on their way at a time; 0 means 8. Each holds a pack in memory. It begins with 4, or 1
	// where the repository is near, and goes on with more where they move more bytes a second.
	Uploads int
	// OnUpload is called after each stored pack, from any goroutine. It may be nil.
	OnUpload func(bytes int64)
}

// SessionStats counts what a session did.
type SessionStats struct {
	BlobsNew, BlobsReused, BlobsDelta int64
	BytesProcessed                    int64 // plaintext handed to Put
	BytesNew                          int64 // plaintext of new blobs
	BytesStored                       int64 // what the packs of new blobs have in bytes
	BytesPlanned                      int64 // what packs have in bytes that are stored, on their way, or filling
	Packs                             int64
}

// Session is one writer's work, from its lease to its manifest. Its methods may be called
// concurrently; each Writer belongs to one goroutine.
//
// Memory: up to openPacks packs of data and one of trees (16 MiB each), one for each upload on its way,
// per writer a frame of each kind, with its compressed form and what it decompresses to, and up to
// openPatches frames of patches of each kind (patchBytes each).
type Session struct {
	r       *Repository
	o       SessionOptions
	index   *index.Index
	codec   *chunk.Codec
	lease   *lease
	pending pendingSet
	used    usedSet
	sound   soundSet
	depths  depthMemo
	ends    chainEnds
	guesses guesses
	ctx     context.Context // of the uploads: they go on when the caller is interrupted, until Close
	cancel  context.CancelFunc
	slots   *uploads
	ahead   *semaphore.Weighted // reads of bases ahead of their use
	buffers bufferStack
	data    shelf
	trees   shelf
	patches [2]patchShelf // of data, of trees

	mu          sync.Mutex
	writers     []*Writer
	packs       []index.Pack // stored, in no segment yet
	checkpoints []SnapshotRef
	err         error // the first failure; sticky
	closed      bool

	stats struct{ new, reused, delta, processed, newBytes, stored, packs, planned atomic.Int64 }
}

// Begin starts a session: condemned lists, lease, index. Every other writer and prune may be at work.
// Close must be called, after Commit too.
func (r *Repository) Begin(ctx context.Context, o SessionOptions) (*Session, error) {
	l, err := r.newLeaseOf(ctx, leaseWriter, o.Instance)
	if err != nil {
		return nil, err
	}
	if err := r.LoadIndex(ctx); err != nil {
		return nil, errors.Join(err, l.remove(context.WithoutCancel(ctx)))
	}
	s := newSession(ctx, r, o, l)
	if !r.stage.near {
		s.data.early = []int{packBytes} // the line has nothing to do until then
	}
	if err := s.adopt(ctx); err != nil {
		s.cancel()
		return nil, errors.Join(err, l.remove(context.WithoutCancel(ctx)))
	}
	return s, nil
}

// newSession makes a session under a lease that is the caller's.
func newSession(ctx context.Context, r *Repository, o SessionOptions, l *lease) *Session {
	s := &Session{r: r, o: o, index: r.Index(), codec: chunk.NewCodec(o.Level), lease: l,
		slots: newUploads(o.Uploads, r.stage.near), ahead: semaphore.NewWeighted(readsAhead)}
	s.data = shelf{s: s, kind: index.Data, max: openPacks}
	if r.stage.near {
		s.data.max = nearPacks
	}
	s.trees = shelf{s: s, kind: index.Tree, max: 1}
	s.patches[0].shelf, s.patches[1].shelf = &s.data, &s.trees
	s.ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	return s
}

// Stats returns the counters so far.
func (s *Session) Stats() SessionStats {
	return SessionStats{BlobsNew: s.stats.new.Load(), BlobsReused: s.stats.reused.Load(), BlobsDelta: s.stats.delta.Load(),
		BytesProcessed: s.stats.processed.Load(), BytesNew: s.stats.newBytes.Load(), BytesStored: s.stats.stored.Load(),
		BytesPlanned: s.stats.planned.Load(), Packs: s.stats.packs.Load()}
}

// Drain estimates how long it takes to store what was put so far, from how fast packs were stored. 0 where none was
// stored yet, or nothing is left.
func (s *Session) Drain() time.Duration {
	left := s.stats.planned.Load() - s.stats.stored.Load()
	rate := s.slots.speed(time.Now())
	if left <= 0 || rate <= 0 {
		return 0
	}
	return time.Duration(float64(left) / rate * float64(time.Second))
}

// Use says that the snapshot to come relies on a blob. False means that the repository does not have
// it, or is about to lose it: store it anew.
func (s *Session) Use(id chunk.ID) bool { return s.useKey(index.KeyOf(id)) }

func (s *Session) useKey(key index.Key) bool { return s.pending.has(key) || s.useStored(key) }

// useStored is useKey for what is stored already. A base must be: what was claimed, and is on its way, may come to rest on
// the blob that is to rest on it, or be that blob itself.
func (s *Session) useStored(key index.Key) bool {
	loc, ok := s.index.Lookup(key)
	if !ok || s.index.Pack(loc.Pack).Condemned {
		return false
	}
	if len(loc.Bases) > 0 {
		return s.useDelta(key, map[index.Key]bool{})
	}
	return s.rely(loc)
}

// rely relies on a copy. It reports false where its pack was condemned meanwhile: a rescue, which condemns first, may have
// looked just before at what is relied upon.
func (s *Session) rely(loc index.Location) bool {
	s.used.add(loc.Ordinal)
	return !s.index.Pack(loc.Pack).Condemned
}

// useDelta relies on a copy of the blob and on copies of its bases. A delta of which a base is about to be lost counts as
// absent, and so does one that rests on itself. absent holds the blobs that are known to be so, and those that rest on this
// one: each is looked at once, however many copies there are.
func (s *Session) useDelta(key index.Key, absent map[index.Key]bool) bool {
	if absent[key] || len(absent) > maxDepth {
		return false
	}
	absent[key] = true
	age := s.sound.now()
	for _, loc := range s.index.Lookups(key) {
		whole := !s.index.Pack(loc.Pack).Condemned
		if whole && s.sound.has(loc.Ordinal) {
			delete(absent, key)
			return true
		}
		for _, base := range loc.Bases {
			whole = whole && s.useDelta(base, absent)
		}
		if whole && s.rely(loc) {
			s.sound.add(loc.Ordinal, age)
			delete(absent, key)
			return true
		}
	}
	return false
}

// Expect says that blobs may soon be bases of deltas: what is at the places of what is being read, and behind them. It
// reads them ahead, in the background, once there are many.
func (s *Session) Expect(ids []chunk.ID) {
	st := s.r.stage
	if s.o.Delta != DeltaAuto || len(ids) == 0 || !st.expect(s.index, ids) || !s.ahead.TryAcquire(1) {
		return
	}
	go func() {
		defer s.ahead.Release(1)
		st.read(s.ctx, s.index)
	}()
}

// StartEarly says, before anything is put, that more than a pack is likely to come, as of a first backup. Where the storage
// is far, a small pack then goes up while the others fill: the line is not idle, and who is interrupted soon loses less.
func (s *Session) StartEarly() {
	if !s.r.stage.near {
		s.data.early = []int{firstPack, packBytes}
	}
}

// fail records the first error; everything after it fails with the same.
func (s *Session) fail(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
	}
	return s.err
}

func (s *Session) failed() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// flush stores all that was put so far, and lists it. Writers may go on meanwhile; what they put later
// may or may not be included.
func (s *Session) flush(ctx context.Context) error {
	s.mu.Lock()
	writers := append([]*Writer(nil), s.writers...)
	s.mu.Unlock()
	for _, w := range writers {
		if err := w.drain(ctx); err != nil {
			return s.fail(err)
		}
	}
	closing := &Writer{s: s}
	for i := range s.patches {
		if err := s.patches[i].closeAll(ctx, closing); err != nil {
			return s.fail(err)
		}
	}
	for _, b := range append(s.data.take(), s.trees.take()...) {
		if err := s.ship(ctx, b); err != nil {
			return s.fail(err)
		}
	}
	if err := s.slots.idle(ctx); err != nil {
		return s.fail(err)
	}
	if err := s.failed(); err != nil {
		return err
	}
	s.mu.Lock()
	packs := s.packs
	s.packs = nil
	s.mu.Unlock()
	if err := s.list(ctx, packs); err != nil {
		return s.fail(err)
	}
	return nil
}

// Flush stores all that was put so far, and lists it: for what snapshots refer to that are there already.
func (s *Session) Flush(ctx context.Context) error {
	if err := s.flush(ctx); err != nil {
		return err
	}
	if err := s.rescue(ctx); err != nil {
		return s.fail(err)
	}
	return s.lease.check()
}

// Payload is a manifest to store: opaque to this package but for its instance and its time.
type Payload struct {
	// ID is that of the snapshot which this one is a copy of. Zero: a random one.
	ID       SnapshotID
	Instance string
	Time     time.Time // to the second, UTC
	Data     []byte
	// Over says that a manifest of this ID is there that cannot be read, to be put aside (DropAside).
	Over bool
	// Replaces are snapshots that Commit removes once this one is stored, as it does with the session's checkpoints.
	Replaces []SnapshotRef
}

// Checkpoint stores the session's data so far and a manifest for it. Commit and the next Checkpoint
// remove it again, for they hold all that it does.
func (s *Session) Checkpoint(ctx context.Context, p Payload) (SnapshotRef, error) {
	ref, err := s.commit(ctx, p)
	if err != nil {
		return ref, err
	}
	s.mu.Lock()
	old := s.checkpoints
	s.checkpoints = []SnapshotRef{ref}
	s.mu.Unlock()
	return ref, s.removeCheckpoints(ctx, old)
}

// Commit stores everything and then the manifest. No Put may be in progress.
func (s *Session) Commit(ctx context.Context, p Payload) (SnapshotRef, error) {
	ref, err := s.commit(ctx, p)
	if err != nil {
		return ref, err
	}
	s.mu.Lock()
	old := s.checkpoints
	s.checkpoints = nil
	s.mu.Unlock()
	return ref, s.removeCheckpoints(ctx, append(old, p.Replaces...))
}

func (s *Session) removeCheckpoints(ctx context.Context, refs []SnapshotRef) error {
	for _, ref := range refs {
		// Where nothing may be removed, a forget on a machine that may takes it away.
		if err := s.r.cached.Delete(ctx, ref.Name()); err != nil && !s.r.noteDenied(err) {
			return fmt.Errorf("removing a snapshot that is no longer needed: %w", err)
		}
	}
	return nil
}

// commit flushes, saves what a prune has condemned meanwhile, stores the manifest, and looks again.
func (s *Session) commit(ctx context.Context, p Payload) (SnapshotRef, error) {
	if err := s.flush(ctx); err != nil {
		return SnapshotRef{}, err
	}
	if err := s.rescue(ctx); err != nil {
		return SnapshotRef{}, s.fail(err)
	}
	if err := s.lease.check(); err != nil {
		return SnapshotRef{}, s.fail(err)
	}
	ref, err := s.r.snapshotRef(&p)
	if err == nil && p.Over { // storages may take other content of the same size for the same
		if err = s.r.PutAside(ctx, ref); errors.Is(err, storage.ErrNotExist) {
			err = nil
		}
	}
	if err != nil {
		return SnapshotRef{}, s.fail(err)
	}
	err = s.r.writeObject(ctx, ref.Name(), p.Data)
	// A machine that slept between the last check and the manifest may have slept through a sweep. A manifest that could not be
	// stored may be there all the same.
	if lost := s.lease.check(); lost != nil {
		return SnapshotRef{}, s.fail(errors.Join(lost, err, s.r.cached.Delete(context.WithoutCancel(ctx), ref.Name())))
	}
	if err != nil {
		return SnapshotRef{}, s.fail(err)
	}
	// A prune that condemned between the last look and the manifest did not see the manifest. What it
	// condemned stays until the next one, which sees it; this saves the next one from having to keep
	// whole packs.
	if err := s.rescue(ctx); err != nil {
		return ref, s.fail(err)
	}
	return ref, nil
}

// rescue writes anew what the session relies on and what has been condemned since it last looked,
// until nothing is new. The lease then says what it has seen.
func (s *Session) rescue(ctx context.Context) error {
	for {
		lists, err := s.r.condemnedLists(ctx)
		if err != nil {
			return err
		}
		news := s.lease.unseen(lists)
		if len(news) == 0 {
			return nil
		}
		for _, list := range news {
			for _, pack := range list.packs {
				s.index.Condemn(pack)
			}
		}
		s.sound.clear()
		w := s.Writer()
		for _, list := range news {
			for _, pack := range list.packs {
				if err := s.rescuePack(ctx, w, pack); err != nil {
					return err
				}
			}
		}
		if err := s.flush(ctx); err != nil {
			return err
		}
		if err := s.lease.renew(ctx, lists); err != nil {
			return err
		}
	}
}

// rescuePack puts the pack's blobs that the session relies on, and that lie nowhere else, anew.
func (s *Session) rescuePack(ctx context.Context, w *Writer, id index.PackID) error {
	ref, ok := s.index.FindPack(id)
	if !ok {
		return nil // none of ours
	}
	info := s.index.Pack(ref)
	// Where there is another copy, the snapshot relies on that one from now on.
	needed := func(blob index.BlobRef, key index.Key) bool { return s.used.has(blob) && !s.useKey(key) }
	var scratch frameScratch
	blob := info.FirstBlob
	for _, f := range s.index.Frames(ref) {
		first := blob
		blob += index.BlobRef(len(f.Blobs))
		some := false
		for i, b := range f.Blobs {
			some = some || needed(first+index.BlobRef(i), b.Key)
		}
		if !some {
			continue
		}
		plain, err := s.r.readFrame(ctx, s.index, info.ID, info.Kind, &f, &scratch)
		if err != nil && !isDamaged(err) {
			return fmt.Errorf("saving data from a pack that is about to be removed: %w", err)
		}
		pos := uint32(0)
		for i, b := range f.Blobs {
			from := pos
			pos += b.Size
			if !needed(first+index.BlobRef(i), b.Key) {
				continue
			}
			var data []byte
			if err == nil {
				data = plain[from:pos]
			} else if data, ok = s.anyCopy(ctx, b.Key); !ok {
				return fmt.Errorf("saving data from a pack that is about to be removed: %w", err)
			}
			if _, _, err := w.Put(ctx, info.Kind, data); err != nil {
				return err
			}
		}
	}
	return nil
}

// anyCopy reads a blob of whatever copy there is, condemned ones included. A list may name a pack that is gone because of one
// that the lease has seen: what the session has relied on since is another copy, which is condemned as well by now.
func (s *Session) anyCopy(ctx context.Context, key index.Key) ([]byte, bool) {
	data, err := s.r.blobAt(ctx, s.index, key, 0)
	return data, err == nil
}

// MergeIndex merges index segments if there are many. It comes after Commit, and last. An error says that the next one
// has to do it: the snapshot is stored.
func (s *Session) MergeIndex(ctx context.Context) error {
	s.r.mu.Lock()
	n := len(s.r.segments)
	s.r.mu.Unlock()
	if n <= mergeSegments {
		return nil
	}
	if err := s.r.mergeIndex(ctx, s.lease, chooseMerge); err != nil {
		return fmt.Errorf("merging the index: %w", err)
	}
	return nil
}

// Close ends the session. Without a Commit it stores what was put so far and lists it, so that the
// next run need not upload it again; after an error it lists what is stored. The lease is removed last.
func (s *Session) Close(ctx context.Context) error {
	s.mu.Lock()
	closed := s.closed
	s.closed = true
	s.mu.Unlock()
	if closed {
		return nil
	}
	err := s.failed()
	if err == nil {
		err = s.flush(ctx)
	} else {
		_ = s.listStored(ctx) // otherwise they are waste
		err = nil             // it was returned to whoever met it
	}
	s.stop(ctx)
	return errors.Join(err, s.lease.remove(ctx))
}

// listStored lists the packs that were stored before the session failed.
func (s *Session) listStored(ctx context.Context) error {
	if err := s.slots.idle(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	packs := s.packs
	s.packs = nil
	s.mu.Unlock()
	return s.list(ctx, packs)
}

// stop waits for the uploads, or ends them when ctx is done. Reads ahead are ended: nobody needs them any more. Packs that could
// not be listed are known to nobody from then on.
func (s *Session) stop(ctx context.Context) {
	stop := context.AfterFunc(ctx, s.cancel)
	_ = s.slots.idle(context.WithoutCancel(ctx))
	stop()
	s.cancel()
	_ = s.ahead.Acquire(context.WithoutCancel(ctx), readsAhead)
	s.mu.Lock()
	if len(s.packs) > 0 {
		s.r.distrust()
	}
	s.mu.Unlock()
	s.r.stage.flush()
}
