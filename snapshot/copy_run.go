package snapshot

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/repo"
)

// A copying is one run of Copy.
//
// A walker goes through the snapshot's tree and lists, in batches, what is to be built and which blobs that takes
// (copy_walk.go). The blobs of a few batches at a time are read from the first repository and stored in the other one, while
// the session uploads what is full. The builder (copy_build.go) puts the trees together in order, with the ids that the
// blobs got. So the line is busy both ways.
//
// Memory: that of a repo.Session and a repo.Copier; up to six batches of entries, of which four are being read; the ids of
// knownMost blobs, twice; and 32 bytes a tree page of what the other repository has already.
type copying struct {
	plan  *CopyPlan
	o     *CopyOptions
	s     *repo.Session
	c     *repo.Copier
	trees *repo.Writer
	store context.Context         // for what is stored: it outlives an interruption
	halt  context.CancelCauseFunc // ends the run with a checkpoint

	mu         sync.Mutex
	known, old map[chunk.ID]chunk.ID // ids of data blobs in the other repository
	lost       *CopiedSnapshot       // where damage is noted

	sound      map[chunk.ID]struct{} // tree pages of the other repository of which everything is there; the walker's
	checked    time.Time             // of the last checkpoint
	stored     int64                 // new blobs then
	uploaded   atomic.Int64
	downloaded atomic.Int64
	damaged    int64
}

// knownMost bounds the ids that are remembered. A blob whose id was dropped is read again, and not stored again.
const knownMost = 1 << 20

func (k *copying) know(from, to chunk.ID) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.known) >= knownMost {
		k.known, k.old = map[chunk.ID]chunk.ID{}, k.known
	}
	k.known[from] = to
}

// knows returns the id of a blob in the other repository, if it is known and is still there.
func (k *copying) knows(from chunk.ID) (chunk.ID, bool) {
	k.mu.Lock()
	to, ok := k.known[from]
	if !ok {
		to, ok = k.old[from]
	}
	k.mu.Unlock()
	return to, ok && k.s.Use(to)
}

func (k *copying) loadFrom(ctx context.Context, id chunk.ID) ([]byte, error) {
	return TreeLoader(k.plan.from)(ctx, id)
}

func (k *copying) loadTo(ctx context.Context, id chunk.ID) ([]byte, error) {
	return TreeLoader(k.plan.to)(ctx, id)
}

// total sets what there is to do.
func (k *copying) total() {
	for _, s := range k.plan.Snapshots {
		if s.State == CopyNew || s.State == HealNeeded {
			k.o.Progress.TotalFiles.Add(s.Files)
			k.o.Progress.TotalBytes.Add(s.Bytes)
		}
	}
}

// spend ends the run where its budget is used up.
func (k *copying) spend() {
	if k.o.UploadBudget > 0 && k.s.Stats().BytesPlanned >= k.o.UploadBudget {
		k.halt(&StoppedError{Reason: StopBudget, Budget: k.o.UploadBudget})
	}
}

// watch ends the run in time for the window.
func (k *copying) watch(ctx context.Context) (stop func()) {
	if k.o.Until.IsZero() {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	var g sync.WaitGroup
	g.Go(func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			drain := min(k.s.Drain(), longestDrain)
			if drain > 0 {
				drain += drainMargin
			}
			if k.o.Until.Sub(time.Now().Round(0)) <= drain {
				k.halt(&StoppedError{Reason: StopWindow, Until: k.o.Until})
				return
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	})
	return func() { cancel(); g.Wait() }
}

func (k *copying) report(began time.Time) *CopyReport {
	st := k.s.Stats()
	return &CopyReport{Bytes: CopyBytes{Downloaded: k.downloaded.Load(), Read: st.BytesProcessed, New: st.BytesNew, Uploaded: k.uploaded.Load()},
		Blobs: BlobCounts{New: st.BlobsNew, Reused: st.BlobsReused, Delta: st.BlobsDelta}, Lost: k.damaged, Seconds: time.Since(began).Seconds()}
}

// lose notes what of the snapshot cannot be read.
func (k *copying) lose(path string, err error) {
	k.mu.Lock()
	k.damaged++
	if len(k.lost.Lost) < maxReported {
		k.lost.Lost = append(k.lost.Lost, PathError{Path: path, Error: err.Error()})
	}
	k.mu.Unlock()
	k.o.Progress.Problems.Add(1)
	k.o.Monitor.Problem(path, err)
}

func (k *copying) isDamaged() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.lost.Lost) > 0
}

// A copyBatch is a part of a snapshot: what is to be built, and the blobs that this takes.
type copyBatch struct {
	events []copyEvent
	ids    []chunk.ID // in the first repository
	got    []chunk.ID // in the other one; zero: it could not be read
	bytes  int64      // of ids
	done   chan struct{}
}

const (
	batchesAhead = 4        // being read at a time
	copyBytes    = 16 << 20 // of blobs, after which a batch is closed
	copyEvents   = 8192
)

// snapshot copies a snapshot. It is stored unless something of it cannot be read. With heal, which is the same snapshot in the
// other repository, only what that lacks is stored.
func (k *copying) snapshot(ctx context.Context, s *CopiedSnapshot, heal *Snapshot) error {
	k.mu.Lock()
	k.lost = s
	k.mu.Unlock()
	var checkpoints []*Snapshot
	var pairs []copyPair
	var err error
	if heal != nil {
		pairs = []copyPair{{s.RootNode(), heal.RootNode(), false}}
	} else {
		if checkpoints, err = k.plan.copyCheckpoints(ctx, s.Snapshot); err != nil {
			return err
		}
		if pairs, err = k.plan.pairs(ctx, s.Snapshot, checkpoints); err != nil {
			return err
		}
	}
	b := newCopyBuild(k, s.Snapshot)
	files, bytes := k.o.Progress.Files.Load(), k.o.Progress.Bytes.Load()
	k.checked = time.Now()
	if err := k.build(ctx, b, pairs); err != nil {
		if ctx.Err() == nil {
			return err
		}
		cause := context.Cause(ctx)
		if heal == nil && len(s.Lost) == 0 {
			if berr := b.takeRest(); berr != nil {
				return fmt.Errorf("%w (and storing a checkpoint failed: %w)", cause, berr)
			}
			if cerr := b.checkpoint(k.store); cerr != nil {
				return fmt.Errorf("%w (and storing a checkpoint failed: %w)", cause, cerr)
			}
		}
		return cause
	}
	k.o.Progress.Files.Store(files + s.Files)
	k.o.Progress.Bytes.Store(bytes + s.Bytes)
	if len(s.Lost) > 0 {
		s.State = CopyDamaged
		return nil
	}
	if heal == nil {
		return k.commit(s, b.root, checkpoints)
	}
	if err := k.s.Flush(k.store); err != nil {
		return err
	}
	s.State = HealDone
	if b.root != heal.Root {
		s.State = HealDiffers
	}
	return nil
}

func (k *copying) commit(s *CopiedSnapshot, root chunk.ID, checkpoints []*Snapshot) error {
	m := *s.Manifest
	m.Root = root
	data, err := EncodeManifest(&m)
	if err != nil {
		return err
	}
	p := repo.Payload{ID: s.Ref.ID, Instance: m.Instance, Time: m.Time, Data: data, Over: s.broken}
	for _, c := range checkpoints {
		p.Replaces = append(p.Replaces, c.Ref)
	}
	ref, err := k.s.Commit(k.store, p)
	if err != nil {
		return err
	}
	if m.Finished() {
		k.plan.to.NoteComplete(ref, m.Instance, true)
	}
	k.plan.there = append(k.plan.there, ref)
	s.State = CopyDone
	return nil
}

// build walks through the snapshot, copies its blobs and builds its trees.
func (k *copying) build(ctx context.Context, b *copyBuild, pairs []copyPair) error {
	g, gctx := errgroup.WithContext(ctx)
	ready := make(chan *copyBatch)
	slots := make(chan struct{}, batchesAhead)
	send := func(batch *copyBatch) error {
		select {
		case slots <- struct{}{}:
		case <-gctx.Done():
			return gctx.Err()
		}
		b.queued(batch)
		g.Go(func() error {
			defer func() { <-slots }()
			defer close(batch.done)
			return k.read(gctx, batch)
		})
		select {
		case ready <- batch:
			return nil
		case <-gctx.Done():
			return gctx.Err()
		}
	}
	g.Go(func() error {
		w := newCopyWalk(k, send)
		err := w.root(gctx, b.snap, pairs)
		if err == nil {
			err = w.flush()
			close(ready)
		}
		return err
	})
	g.Go(func() error {
		for {
			select {
			case batch, ok := <-ready:
				if !ok {
					return nil
				}
				select {
				case <-batch.done:
				case <-gctx.Done():
					return gctx.Err()
				}
				if gctx.Err() != nil {
					return gctx.Err() // it may not have been read to its end
				}
				if err := b.takeNext(); err != nil {
					return err
				}
			case <-gctx.Done():
				return gctx.Err()
			}
		}
	})
	return g.Wait()
}

// read copies the blobs of a batch.
func (k *copying) read(ctx context.Context, batch *copyBatch) error {
	batch.got = make([]chunk.ID, len(batch.ids))
	o := repo.ReadOptions{OnDownload: func(n int64) { k.downloaded.Add(n) }, OnError: func(i int, err error) error {
		if damage := (*repo.DamageError)(nil); errors.As(err, &damage) {
			return nil // who needs it says so
		}
		return err
	}}
	return k.c.Copy(ctx, batch.ids, o, func(i int, id chunk.ID) {
		batch.got[i] = id
		k.know(batch.ids[i], id)
		k.spend()
	})
}
