package snapshot

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/index"
	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/snapshot/localfs"
)

// A backup is one run of Backup.
//
// Walkers (backup_walk.go) list folders and decide, for each entry, whether the parent snapshot's node will do. What
// must be read becomes a job. One walker does the folders that no parent has, depth first, so that what lies together
// is stored together; known folders, where there is little to store, are shared out among all walkers.
//
// Workers take jobs, one at a time: a batch of small files of one folder, or one chunk of a large file, which its own
// reader goroutine cuts. Each worker has a repository writer, so all CPU work happens in workers, on all cores within
// one large file too.
//
// A folder is finished by whoever resolves its last entry (folder.resolve), so nobody waits for anybody, but for the
// limits:
//
// Memory: with W workers, R readers, C chunks on their way, U uploads, packs of P bytes (16 MiB) and chunks of at most M
// bytes (1 MiB),
//
//	(4+U)*P + W*(2*M + a writer's 10*M) + (C+4*R)*M + 2*depth*windowLimit nodes + 16 bytes a file of the parent
//
// where the last term appears only when a hard link turns up that the parent did not have; the garbage collector may let
// that double. Streams of a StreamSource or an archive add 2*M each, and their trees are in memory whole.
type backup struct {
	r    *repo.Repository
	s    *repo.Session
	o    *BackupOptions
	plan backupPlan

	excludes map[string]*excluder // by label
	parents  map[string][]*parentSnap
	fail     func(error)             // ends the run
	halt     context.CancelCauseFunc // ends it with a checkpoint
	failure  error                   // the first that ended it; written under mu

	// gate is held shared by whoever puts a blob or changes what a checkpoint reads, and exclusively by a checkpoint.
	// It must not be taken twice, and nothing that waits for another holder may be done under it.
	gate    sync.RWMutex
	jobs    chan backupJob
	walkers sync.WaitGroup      // and readers: whoever may send jobs
	tokens  *semaphore.Weighted // for further walkers
	readers chan *chunk.Splitter
	flight  *semaphore.Weighted // chunks that were cut and are not stored yet
	waiting *semaphore.Weighted // and those of large files that were put off
	buffers sync.Pool           // of *[]byte, for chunks
	root    *openFolder

	treeMu  sync.Mutex
	treePut putHinted

	owners        ownerTable
	uploadedBytes atomic.Int64
	problems      atomic.Int64
	mu            sync.Mutex
	errors        []PathError
	begun         []*backupSource
	stored        int64       // new blobs at the last checkpoint
	last          *Snapshot   // the last checkpoint
	counted       atomic.Bool // Progress' totals are whole
}

// putHinted stores a blob, as a delta against some others if that pays.
type putHinted func(data []byte, h repo.Hint) (chunk.ID, error)

// A backupJob runs in a worker, with the gate held shared.
type backupJob func(w *backupWorker)

// A backupWorker is a goroutine with what it needs to store data.
type backupWorker struct {
	*backup
	put    func(data []byte, h repo.Hint) (id chunk.ID, added bool, err error) // data blobs
	ended  func() (base chunk.ID, rest int, ok bool)
	putOff func() bool
	split  *chunk.Splitter
	buf    []byte
}

// A backupPlan is how many of everything there are.
type backupPlan struct {
	workers, walkers, readers, chunks, late, uploads int
}

const (
	packMemory  = 16 << 20
	openPacks   = 4  // that a repo.Session fills at a time
	writerBufs  = 10 // of a repo.Writer, its encoder included, in chunks of the largest size
	maxUploads  = 8  // where nothing bounds them
	minUploads  = 2  // keep a line busy: workers rather become fewer
	maxBatch    = 64 // files in a job
	batchBytes  = 256 << 10
	windowLimit = 1024 // entries of a folder that wait for one before them
)

// newPlan lowers what the options ask for until it fits into their memory. The least is one of each.
func newPlan(o *BackupOptions, maxChunk int64) (p backupPlan) {
	p = backupPlan{workers: o.Workers, uploads: o.Uploads}
	if p.uploads <= 0 {
		p.uploads = maxUploads
	}
	// What may be put off is not worth a worker: it gets what is left.
	defer func() {
		if o.Memory > 0 {
			p.late = int(min(int64(p.late), max(o.Memory-p.memory(maxChunk), 0)/maxChunk))
		}
	}()
	shape := func() int64 {
		p.walkers = 2 * p.workers
		p.readers = max(1, min(p.workers, 4))
		p.chunks = p.workers + p.readers
		p.late = 2 * p.readers
		return p.memory(maxChunk)
	}
	for shape() > o.Memory && o.Memory > 0 {
		switch {
		case p.uploads > minUploads:
			p.uploads--
		case p.workers > 1:
			p.workers--
		case p.uploads > 1:
			p.uploads--
		default:
			return p
		}
	}
	return p
}

// memory is what the plan takes, but for pieces that are put off.
func (p *backupPlan) memory(maxChunk int64) int64 {
	return int64(openPacks+p.uploads)*packMemory + int64(p.workers*(2+writerBufs)+p.chunks+2*p.readers)*maxChunk
}

func newRun(r *repo.Repository, o *BackupOptions) *backup {
	b := &backup{r: r, o: o, excludes: map[string]*excluder{}}
	params := r.ChunkParams()
	b.plan = newPlan(o, int64(params.Max))
	b.jobs = make(chan backupJob, 4*b.plan.workers)
	b.tokens = semaphore.NewWeighted(int64(b.plan.walkers))
	b.waiting = semaphore.NewWeighted(int64(b.plan.late))
	b.flight = semaphore.NewWeighted(int64(b.plan.chunks))
	b.readers = make(chan *chunk.Splitter, b.plan.readers)
	for range b.plan.readers {
		b.readers <- chunk.NewSplitter(nil, params)
	}
	b.buffers.New = func() any { buf := make([]byte, 0, params.Max); return &buf }
	b.root = b.newFolder(nil, Node{Meta: localfs.Meta{Type: localfs.TypeDir, Mode: 0o755, Nlink: 1}})
	return b
}

// start starts the workers and the checkpoints. store outlives ctx: what was begun is stored. The function that it
// returns waits for all of them; nobody may send jobs any more but walkers and readers.
func (b *backup) start(ctx, store context.Context) (wait func()) {
	params := b.r.ChunkParams()
	trees := b.s.Writer()
	b.treePut = func(data []byte, h repo.Hint) (chunk.ID, error) {
		id, _, err := trees.PutHinted(store, index.Tree, data, h)
		return id, err
	}
	var workers sync.WaitGroup
	for range b.plan.workers {
		writer := b.s.Writer()
		w := &backupWorker{backup: b, split: chunk.NewSplitter(nil, params), buf: make([]byte, 0, params.Max)}
		w.ended, w.putOff = writer.Ended, writer.PutOff
		w.put = func(data []byte, h repo.Hint) (chunk.ID, bool, error) {
			id, added, err := writer.PutHinted(store, index.Data, data, h)
			if err != nil {
				b.fail(err)
			}
			b.spend()
			return id, added, err
		}
		workers.Go(func() {
			for j := range b.jobs {
				b.gate.RLock()
				j(w)
				b.gate.RUnlock()
			}
		})
	}
	stop := make(chan struct{})
	var checkpoints sync.WaitGroup
	if b.o.CheckpointInterval > 0 {
		checkpoints.Go(func() { b.checkpoints(ctx, store, stop) })
	}
	if !b.o.Until.IsZero() {
		checkpoints.Go(func() { b.watch(ctx, stop) })
	}
	return func() {
		b.walkers.Wait()
		close(b.jobs)
		workers.Wait()
		close(stop)
		checkpoints.Wait()
	}
}

// send hands a job to the workers. It reports false where the run has ended.
func (b *backup) send(ctx context.Context, j backupJob) bool {
	select {
	case b.jobs <- j:
		return true
	case <-ctx.Done():
		return false
	}
}

// putTree stores a page of a content list. The gate is held.
func (b *backup) putTree(data []byte) (chunk.ID, error) { return b.putPage(data, nil) }

// putPage stores a tree page. The gate is held. Trees have a writer of their own, so that they lie together.
func (b *backup) putPage(data []byte, bases []chunk.ID) (chunk.ID, error) {
	b.treeMu.Lock()
	defer b.treeMu.Unlock()
	id, err := b.treePut(data, repo.Hint{Bases: bases})
	if err != nil {
		b.fail(err)
	}
	return id, err
}

// load reads a tree page of a parent.
func (b *backup) load(ctx context.Context, id chunk.ID) ([]byte, error) { return b.r.Blob(ctx, id) }

func (b *backup) uploaded(bytes int64) {
	b.uploadedBytes.Add(bytes)
	b.o.Progress.Transferred.Add(bytes)
}

// problem reports that an entry could not be saved, or not as it should be.
func (b *backup) problem(s *backupSource, path string, err error) {
	path = shortPath(path)
	if s != nil && b.o.bounded() {
		if _, known := s.said.LoadOrStore(path+"\x00"+err.Error(), nil); known {
			return
		}
	}
	b.problems.Add(1)
	b.o.Progress.Problems.Add(1)
	if s != nil {
		s.problems.Add(1)
	}
	b.mu.Lock()
	if len(b.errors) < maxReported {
		b.errors = append(b.errors, PathError{Path: path, Error: err.Error()})
	}
	b.mu.Unlock()
	b.o.Monitor.Problem(path, err)
}

func (b *backup) reported() []PathError {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]PathError(nil), b.errors...)
}

// saved returns the sources that were begun, are there, and are not refused, in the order of their labels.
func (b *backup) saved() (list []*backupSource) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range b.begun {
		if s.missing == nil && s.refused == nil {
			list = append(list, s)
		}
	}
	slices.SortFunc(list, func(a, b *backupSource) int { return cmp.Compare(a.spec.Label, b.spec.Label) })
	return list
}

// checkpoints stores a checkpoint every now and then.
func (b *backup) checkpoints(ctx, store context.Context, stop <-chan struct{}) {
	ticks := b.o.ticks
	if ticks == nil {
		ticker := time.NewTicker(b.o.CheckpointInterval)
		defer ticker.Stop()
		ticks = ticker.C
	}
	for {
		select {
		case <-ticks:
			if _, err := b.checkpoint(store); err != nil {
				b.fail(fmt.Errorf("storing a checkpoint: %w", err))
				return
			}
		case <-ctx.Done():
			return
		case <-stop:
			return
		}
	}
}

// checkpoint stores what is finished as an incomplete snapshot, if something new was stored since the last one. Workers
// and walkers stand still meanwhile: they hold the gate in everything that they store.
func (b *backup) checkpoint(ctx context.Context) (*Snapshot, error) {
	b.gate.Lock()
	defer b.gate.Unlock()
	stored := b.s.Stats().BlobsNew
	if stored == b.stored {
		return nil, nil
	}
	root, err := b.root.partial(ctx)
	if err != nil || root == nil {
		return nil, err
	}
	m := b.manifest(root.Subtree, false, true)
	payload, err := EncodeManifest(m)
	if err != nil {
		return nil, err
	}
	ref, err := b.s.Checkpoint(ctx, repo.Payload{Instance: m.Instance, Time: m.Time, Data: payload})
	if err != nil {
		return nil, err
	}
	b.stored = b.s.Stats().BlobsNew
	b.last = &Snapshot{Ref: ref, Manifest: m}
	return b.last, nil
}

// interrupted stores a last checkpoint after ctx has ended and everybody has stopped. It returns ctx's error, and the
// last checkpoint: nil where there was nothing new to store in this run.
func (b *backup) interrupted(ctx, store context.Context) (*Snapshot, error) {
	cause := context.Cause(ctx)
	snap, err := b.checkpoint(store)
	if err != nil {
		return nil, fmt.Errorf("%w (and storing a checkpoint failed: %w)", cause, err)
	}
	if snap == nil {
		snap = b.last
	}
	return snap, cause
}

// ownerTable gathers the owners of entries. Names that a source brings (an archive) win over this system's.
type ownerTable struct {
	system        localfs.Owners
	mu            sync.Mutex
	users, groups map[uint32]string // "" = ask the system at the end
}

func (t *ownerTable) add(uid, gid uint32, user, group string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.users == nil {
		t.users, t.groups = map[uint32]string{}, map[uint32]string{}
	}
	if name, ok := t.users[uid]; !ok || name == "" && user != "" {
		t.users[uid] = user
	}
	if name, ok := t.groups[gid]; !ok || name == "" && group != "" {
		t.groups[gid] = group
	}
}

// table returns the names that are known.
func (t *ownerTable) table() Owners {
	t.mu.Lock()
	defer t.mu.Unlock()
	named := func(ids map[uint32]string, ask func(uint32) string) map[uint32]string {
		names := map[uint32]string{}
		for id, name := range ids {
			if name == "" {
				name = ask(id)
			}
			if name != "" {
				names[id] = name
			}
		}
		return names
	}
	return Owners{Users: named(t.users, t.system.UserName), Groups: named(t.groups, t.system.GroupName)}
}
