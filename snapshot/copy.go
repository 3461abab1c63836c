package snapshot

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/index"
	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/repo/storage"
)

// What a copy does with a snapshot.
const (
	CopyNew       = "new"       // the other repository does not have it: it is to be copied
	CopyPresent   = "present"   // the other repository has it
	CopyForgotten = "forgotten" // it was forgotten in the other repository, and is not brought back
	CopyDone      = "copied"
	CopyDamaged   = "damaged" // something of it cannot be read
)

// A CopiedSnapshot is a snapshot that a copy is about.
type CopiedSnapshot struct {
	*Snapshot
	State string
	Notes int         // tags and holds that the other repository lacks, or lacked
	Lost  []PathError // where it is damaged: what cannot be read, the first of it

	broken bool // the other repository has it, and its manifest cannot be read
}

// A CopyPlan says what a copy would do. Its snapshots are in the order in which they are copied, oldest first.
type CopyPlan struct {
	Snapshots []*CopiedSnapshot
	from, to  *repo.Repository
	there     []repo.SnapshotRef // in the other repository
	notes     map[repo.SnapshotID][]repo.Annotation
	heals     bool
	aside     map[repo.SnapshotID]repo.SnapshotRef // what heals: manifests that cannot be read and were put aside
}

// Count returns how many snapshots are in a state.
func (p *CopyPlan) Count(state string) (n int) {
	for _, s := range p.Snapshots {
		if s.State == state {
			n++
		}
	}
	return n
}

// ErrSameRepository refuses to copy a repository into itself.
var ErrSameRepository = errors.New("both are the same repository")

// PlanCopy finds out which of the snapshots of a repository another one lacks. A copy has the id of what it is a copy of, so
// that names are all that is compared. Nothing is changed.
func PlanCopy(ctx context.Context, from, to *repo.Repository, snaps []*Snapshot) (*CopyPlan, error) {
	if from.ID() == to.ID() {
		return nil, ErrSameRepository
	}
	p := &CopyPlan{from: from, to: to}
	var err error
	if p.there, err = to.Snapshots(ctx); err != nil {
		return nil, err
	}
	forgotten, err := to.Forgotten(ctx)
	if err != nil {
		return nil, err
	}
	if p.notes, err = to.Annotations(ctx); err != nil {
		return nil, err
	}
	states := map[repo.SnapshotID]string{}
	for _, ref := range forgotten {
		// One that cannot be read was not forgotten by anybody: a repair put it aside.
		var damage *repo.DamageError
		if _, err := to.Manifest(ctx, ref); !errors.As(err, &damage) {
			states[ref.ID] = CopyForgotten
		}
	}
	for _, ref := range p.there {
		states[ref.ID] = CopyPresent
	}
	for _, s := range snaps {
		c := &CopiedSnapshot{Snapshot: s, State: cmp.Or(states[s.Ref.ID], CopyNew)}
		if c.State != CopyForgotten {
			c.Notes = len(p.missingNotes(s))
		}
		p.Snapshots = append(p.Snapshots, c)
	}
	slices.SortStableFunc(p.Snapshots, func(a, b *CopiedSnapshot) int {
		return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(a.Ref.ID.String(), b.Ref.ID.String()))
	})
	return p, nil
}

// missingNotes returns the notes of a snapshot that the other repository lacks.
func (p *CopyPlan) missingNotes(s *Snapshot) (missing []repo.Annotation) {
	for _, n := range s.Notes {
		if n.Damage == nil && !slices.ContainsFunc(p.notes[s.Ref.ID], func(o repo.Annotation) bool {
			return o.Time.Equal(n.Time) && string(o.Data) == string(n.Data)
		}) {
			missing = append(missing, n)
		}
	}
	return missing
}

// CopyOptions are the options of Copy.
type CopyOptions struct {
	Level   chunk.Level // of what is compressed anew: folders, and what shares a frame with what is not copied
	Uploads int         // packs on their way at a time; 0 = 8: a few, and more where that moves more bytes a second

	// UploadBudget and Until end the copy as they end a backup: what was copied of a snapshot becomes a checkpoint, and the
	// error is a *StoppedError.
	UploadBudget       int64
	Until              time.Time
	CheckpointInterval time.Duration // 0 = 5 minutes

	Monitor  Monitor   // may be nil
	Progress *Progress // may be nil
}

// A CopyReport says what a copy did; the plan's snapshots say what became of each.
type CopyReport struct {
	Bytes   CopyBytes
	Blobs   BlobCounts
	Stopped *StoppedError // nil: it was not
	Lost    int64         // files and folders that could not be read, of all snapshots
	Seconds float64
}

// CopyBytes are a copy's bytes.
type CopyBytes struct {
	Downloaded int64 `json:"downloaded"` // of packs of data of the first repository
	Read       int64 `json:"read"`       // plaintext of the blobs that were read
	New        int64 `json:"new"`        // plaintext of those that were stored
	Uploaded   int64 `json:"uploaded"`   // packs of the other repository
}

// Copy copies the snapshots of the plan that the other repository lacks, and the tags and holds of all of them. Every blob
// is verified on the way. A snapshot that cannot be read to its end is not stored, and named by the report; the others are
// copied all the same.
//
// Where ctx ends, or the budget or the window does, what was copied of a snapshot becomes a checkpoint, from which the next
// copy goes on.
func (p *CopyPlan) Copy(ctx context.Context, o CopyOptions) (*CopyReport, error) {
	return p.run(ctx, o, func(ctx context.Context, k *copying, s *CopiedSnapshot) error {
		if s.State == CopyNew {
			if err := k.snapshot(ctx, s, nil); err != nil {
				return err
			}
		}
		if s.State != CopyDone && s.State != CopyPresent {
			return nil
		}
		return p.copyNotes(k.store, s)
	})
}

// copyNotes copies what was noted about a snapshot.
func (p *CopyPlan) copyNotes(ctx context.Context, s *CopiedSnapshot) error {
	for _, n := range p.missingNotes(s.Snapshot) {
		if err := p.to.CopyAnnotation(ctx, s.Ref.ID, n); err != nil {
			return err
		}
		p.notes[s.Ref.ID] = append(p.notes[s.Ref.ID], n)
	}
	return nil
}

// run calls do for each snapshot of the plan, within one session.
func (p *CopyPlan) run(ctx context.Context, o CopyOptions, do func(ctx context.Context, k *copying, s *CopiedSnapshot) error) (report *CopyReport, err error) {
	began := time.Now()
	if o.CheckpointInterval == 0 {
		o.CheckpointInterval = checkpointEvery
	}
	if o.Monitor == nil {
		o.Monitor = quiet{}
	}
	if o.Progress == nil {
		o.Progress = &Progress{}
	}
	if err := p.from.LoadIndex(ctx); err != nil {
		return nil, err
	}
	k := &copying{plan: p, o: &o, sound: map[chunk.ID]struct{}{}, known: map[chunk.ID]chunk.ID{}}
	outer := ctx
	ctx, k.halt = context.WithCancelCause(ctx)
	defer k.halt(nil)
	store, stop := outlive(outer, checkpointGrace)
	defer stop()
	if !o.Until.IsZero() {
		var cancel context.CancelFunc
		store, cancel = context.WithDeadline(store, o.Until.Add(windowGrace))
		defer cancel()
	}
	k.store = store
	k.s, err = p.to.Begin(ctx, repo.SessionOptions{Instance: "copy of " + p.from.ID(), Level: o.Level, Uploads: o.Uploads,
		OnUpload: func(n int64) { k.uploaded.Add(n); o.Progress.Transferred.Add(n) }})
	if err != nil {
		return nil, err
	}
	defer func() {
		cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), checkpointGrace)
		defer cancel()
		err = errors.Join(err, k.s.Close(cctx))
		report = k.report(began)
		errors.As(err, &report.Stopped)
	}()
	k.c = repo.NewCopier(p.from, k.s)
	k.trees = k.s.Writer()
	k.total()
	stopWatch := k.watch(ctx)
	defer stopWatch()
	for _, s := range p.Snapshots {
		if err := do(ctx, k, s); err != nil {
			return nil, fmt.Errorf("snapshot %s: %w", s.Ref.ID.Short(), err)
		}
	}
	return nil, k.s.MergeIndex(store)
}

// copyCheckpoints finds the checkpoints that earlier copies of a snapshot have left. A copy's checkpoint has the time of what
// it is a copy of, and that for its parent.
func (p *CopyPlan) copyCheckpoints(ctx context.Context, s *Snapshot) (list []*Snapshot, err error) {
	hash := p.to.InstanceHash(s.Instance)
	for _, ref := range p.there {
		if ref.Instance != hash || !ref.Time.Equal(s.Ref.Time) {
			continue
		}
		snap, err := loadSnapshot(ctx, p.to, ref)
		var damage *repo.DamageError
		switch {
		case errors.As(err, &damage), errors.Is(err, storage.ErrNotExist):
			continue
		case err != nil:
			return nil, err
		}
		if snap.Checkpoint && snap.Parent == s.Ref.ID {
			list = append(list, snap)
		}
	}
	return list, nil
}

// A copyPair is what a snapshot has in both repositories at one place. Either may be nil.
type copyPair struct {
	from, to   *Node
	checkpoint bool // the other repository has only a beginning
}

// pairs returns what is known in both repositories and resembles the snapshot most: what was copied of it before, and the
// newest earlier snapshot of the instance, or else the oldest later one.
func (p *CopyPlan) pairs(ctx context.Context, s *Snapshot, checkpoints []*Snapshot) (pairs []copyPair, err error) {
	for _, c := range checkpoints {
		root := c.RootNode()
		root.Flags |= FlagPartial
		pairs = append(pairs, copyPair{s.RootNode(), root, true})
	}
	there := map[repo.SnapshotID]repo.SnapshotRef{}
	for _, ref := range p.there {
		there[ref.ID] = ref
	}
	var best *repo.SnapshotRef
	refs, err := p.from.Snapshots(ctx)
	if err != nil {
		return nil, err
	}
	for _, ref := range refs { // oldest first
		if there[ref.ID].ID.IsZero() || ref.Instance != s.Ref.Instance || ref.ID == s.Ref.ID {
			continue
		}
		if best == nil || !ref.Time.After(s.Ref.Time) {
			best = &ref
		}
	}
	if best == nil {
		return pairs, nil
	}
	old, err := loadSnapshot(ctx, p.from, *best)
	if err == nil {
		var copied *Snapshot
		if copied, err = loadSnapshot(ctx, p.to, there[best.ID]); err == nil {
			return append(pairs, copyPair{old.RootNode(), copied.RootNode(), false}), nil
		}
	}
	if damage := (*repo.DamageError)(nil); errors.As(err, &damage) || errors.Is(err, storage.ErrNotExist) {
		return pairs, nil // it would have saved work
	}
	return nil, err
}

// putTree stores a tree page in the other repository.
func (k *copying) putTree(data []byte, bases []chunk.ID) (chunk.ID, error) {
	id, _, err := k.trees.PutHinted(k.store, index.Tree, data, repo.Hint{Bases: bases})
	return id, err
}
