package snapshot

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"time"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/snapshot/exclude"
)

const (
	// checkpointEvery is how much a killed run can lose, in time.
	checkpointEvery = 5 * time.Minute
	// checkpointGrace is how long an interrupted run may take to store its last checkpoint.
	checkpointGrace = 30 * time.Second
	// sampleNights is in how many nights all bytes are read again.
	sampleNights = 64
)

// BackupOptions are the options of Backup.
type BackupOptions struct {
	Instance string // required
	Sources  []SourceSpec
	Exclude  ExcludeOptions
	Stdin    io.Reader // for sources that read it
	Host     string    // for people
	Program  string    // for people: name and version
	Tags     []string
	Time     time.Time // of the snapshot; zero = now

	// Replaces are snapshots that the new one holds all of that is still needed: they are removed as soon as it is stored.
	Replaces []*Snapshot

	AllowShrink bool // a source may have lost most of its files, see GuardError
	ReadAll     bool // read unchanged files too

	Level   chunk.Level // of compression
	Delta   repo.DeltaMode
	Workers int   // 0 = GOMAXPROCS
	Uploads int   // packs on their way at a time; 0 = 8: a few, and more where that moves more bytes a second
	Memory  int64 // bytes; 0 = no bound but that of newPlan, with which Workers and buffers are lowered

	// UploadBudget is how many bytes of packs the run may store, 0 = any number; Until is when it must be done, zero =
	// whenever it is. Where either ends it, what was saved becomes a checkpoint, and the error is a *StoppedError.
	UploadBudget int64
	Until        time.Time

	CheckpointInterval time.Duration // 0 = 5 minutes, negative = none but on interruption
	SampleNights       int           // 0 = 64, negative = nothing is read again
	Estimate           bool          // count what is to do where no parent tells, for Progress' totals

	Monitor  Monitor   // may be nil
	Progress *Progress // may be nil

	timed bool             // Time is the machine's
	ticks <-chan time.Time // if not nil, when checkpoints are made, instead of each CheckpointInterval
}

// ExcludeOptions say what of a source is left out.
type ExcludeOptions struct {
	Patterns      []exclude.Pattern // relative to the source's root
	Caches        bool              // leave out what is in folders with a CACHEDIR.TAG
	MaxSize       exclude.SizeLimit
	OneFileSystem bool          // do not enter other file systems; their mount points are saved as empty folders
	Only          *exclude.List // if not nil, what it names is saved, but for what the others leave out
}

// A BackupReport says what a backup did. Bytes and files count what was done so far where the backup failed.
type BackupReport struct {
	Snapshot *Snapshot // nil: none was stored
	Sources  []Source
	Files    FileCounts
	Bytes    ByteCounts
	Blobs    BlobCounts
	Seconds  float64
	Problems int64       // entries that could not be saved, or not as they should be: exit code 3
	Errors   []PathError // the first of them

	// Of a run that was stopped:
	Stopped    *StoppedError // nil: it was not
	Unfinished []Unfinished  // what the checkpoint lacks
	Left       *Remainder    // nil: not known
}

// FileCounts are regular files against the parent snapshot. A file is changed where its content, mode, owner, time or
// extended attributes are.
type FileCounts struct {
	New       int64 `json:"new"`
	Changed   int64 `json:"changed"`
	Unchanged int64 `json:"unchanged"`
	Removed   int64 `json:"removed"`
}

// ByteCounts are a backup's bytes.
type ByteCounts struct {
	Read      int64 `json:"read"`       // from the sources
	Processed int64 `json:"processed"`  // of all regular files, read or not
	Uploaded  int64 `json:"uploaded"`   // packs
	StoredNew int64 `json:"stored_new"` // what new blobs have in packs
}

// BlobCounts are a backup's blobs.
type BlobCounts struct {
	New    int64 `json:"new"`
	Reused int64 `json:"reused"`
	Delta  int64 `json:"delta"`
}

// A SourceError says why a source could not be saved at all.
type SourceError struct {
	Label, Path string
	Err         error
}

func (e *SourceError) Error() string {
	return fmt.Sprintf("source %s (%q): %v", e.Label, e.Path, e.Err)
}
func (e *SourceError) Unwrap() error { return e.Err }

// Backup saves the sources as one snapshot.
//
// Trouble with single entries goes to the Monitor and into the report. A source that is missing altogether makes the
// snapshot incomplete; where no source could be saved there is no snapshot, and the error joins a *SourceError each. The
// same error comes beside a full report where a MongoDB could not be saved to its end. A source that its guard refuses is
// left out, the others make an incomplete snapshot, and the error is a *GuardError beside a full report. Where a source is
// unlike what it was in the nights before, the error is an *AnomalyError beside a full report. Where ctx ends,
// a checkpoint is stored, and the error is ctx's; where the budget or the window does, it is a *StoppedError.
//
// Write order: the session stores packs, index and manifest in this order; the manifest is handed over after every
// Put and Use that it relies on.
func Backup(ctx context.Context, r *repo.Repository, o BackupOptions) (report *BackupReport, err error) {
	began := time.Now()
	if err := o.prepare(began); err != nil {
		return nil, err
	}
	b := newRun(r, &o)
	for i := range o.Sources {
		spec := &o.Sources[i]
		if b.excludes[spec.Label], err = newExcluder(o.Exclude, spec.Exclude); err != nil {
			return nil, err
		}
	}
	outer := ctx
	ctx, b.halt = context.WithCancelCause(ctx)
	defer b.halt(nil)
	b.s, err = r.Begin(ctx, repo.SessionOptions{Instance: o.Instance, Level: o.Level, Delta: o.Delta, Uploads: b.plan.uploads, OnUpload: b.uploaded})
	if err != nil {
		return nil, err
	}
	defer func() {
		cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), checkpointGrace)
		defer cancel()
		if cerr := b.s.Close(cctx); cerr != nil {
			err = errors.Join(err, cerr)
		}
		if report != nil {
			report.Seconds = time.Since(began).Seconds()
		}
	}()

	// What is stored is stored with a context that outlives an interruption by the time that a checkpoint may take.
	// Who is stopped by a budget may take as long as it takes, and by a window a little.
	store, stop := outlive(outer, checkpointGrace)
	defer stop()
	if !o.Until.IsZero() {
		var cancel context.CancelFunc
		store, cancel = context.WithDeadline(store, o.Until.Add(windowGrace))
		defer cancel()
	}
	results, err := b.sources(ctx, store)
	report = b.report(results)
	if err != nil {
		if ctx.Err() != nil {
			report.Snapshot, err = b.interrupted(ctx, store)
			if errors.As(err, &report.Stopped) {
				report.Unfinished, report.Left = b.unfinished(), b.remainder()
			}
			b.fill(report) // the checkpoint counts
		}
		return report, err
	}
	return report, b.commit(store, report, results)
}

// prepare checks the options and fills in defaults.
func (o *BackupOptions) prepare(now time.Time) error {
	if o.Instance == "" {
		return errors.New("a backup needs the name of the instance that it is of")
	}
	if err := CheckSources(o.Sources); err != nil {
		return err
	}
	o.Sources = slices.Clone(o.Sources)
	slices.SortFunc(o.Sources, func(a, b SourceSpec) int { return cmp.Compare(a.Label, b.Label) })
	if o.Time.IsZero() {
		o.Time, o.timed = now, true
	}
	o.Time = o.Time.UTC().Truncate(time.Second)
	if o.Workers <= 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	if o.CheckpointInterval == 0 {
		o.CheckpointInterval = checkpointEvery
	}
	if o.SampleNights == 0 {
		o.SampleNights = sampleNights
	}
	if o.Monitor == nil {
		o.Monitor = quiet{}
	}
	if o.Progress == nil {
		o.Progress = &Progress{}
	}
	if o.Stdin == nil {
		o.Stdin = os.Stdin
	}
	return nil
}

// follow makes the snapshot newer than the newest one of its instance: names have whole seconds. A clock that is far
// behind is left alone.
func (o *BackupOptions) follow(newest time.Time) {
	if next := newest.Add(time.Second); o.timed && o.Time.Before(next) && next.Sub(o.Time) < time.Minute {
		o.Time = next
	}
}

// outlive returns a context that ends grace after ctx does, or when stop is called.
func outlive(ctx context.Context, grace time.Duration) (context.Context, func()) {
	out, cancel := context.WithCancel(context.WithoutCancel(ctx))
	unhook := context.AfterFunc(ctx, func() { time.AfterFunc(grace, cancel) })
	return out, func() { unhook(); cancel() }
}

// sources saves one source after the other, while workers and checkpoints go on. An error ends the run. The sources come
// back in the order of their labels.
func (b *backup) sources(ctx, store context.Context) ([]*backupSource, error) {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	b.fail = func(err error) {
		b.mu.Lock()
		if b.failure == nil {
			b.failure = err
		}
		b.mu.Unlock()
		fail(err)
	}
	parents, err := findParents(ctx, b.r, b.o)
	if err != nil {
		return nil, err
	}
	b.parents = parents
	if len(parents) == 0 {
		b.s.StartEarly()
	}
	b.estimate(ctx)
	wait := b.start(ctx, store)
	var results []*backupSource
	defer func() {
		wait()
		for _, s := range results {
			s.links.abandon()
		}
	}()
	for i := range b.o.Sources {
		s := b.newSource(&b.o.Sources[i], parents[b.o.Sources[i].Label])
		s.place = b.root.open(nil)
		results = append(results, s)
	}
	err = b.passes(ctx, store, b.o.byRank(results))
	return slices.DeleteFunc(slices.Clone(results), func(s *backupSource) bool { return s.began.IsZero() }), err
}

// commit stores the snapshot, unless nothing was saved.
func (b *backup) commit(ctx context.Context, report *BackupReport, results []*backupSource) error {
	var missing, refused, torn []error
	saved := 0
	complete := true
	for _, s := range results {
		if s.kind == SourceMongo { // of a database, a part is a failure, whatever else was saved
			switch {
			case s.missing != nil:
				torn = append(torn, s.missing)
			case s.cut != nil:
				torn = append(torn, &SourceError{s.spec.Label, s.spec.Path, s.cut})
			}
		}
		complete = complete && s.cut == nil
		switch {
		case s.refused != nil:
			refused = append(refused, s.refused)
		case s.missing != nil:
			missing = append(missing, s.missing)
		default:
			saved++
		}
	}
	if saved == 0 {
		return errors.Join(append(missing, refused...)...)
	}
	b.gate.RLock()
	b.root.end()
	b.gate.RUnlock()
	if !b.root.finished {
		return b.failure
	}
	complete = complete && len(missing) == 0 && len(refused) == 0
	m := b.manifest(b.root.node.Subtree, complete, false)
	m.Anomalies = b.anomalies(results)
	payload, err := EncodeManifest(m)
	if err != nil {
		return err
	}
	ref, err := b.s.Commit(ctx, repo.Payload{Instance: m.Instance, Time: m.Time, Data: payload, Replaces: b.o.replaced()})
	if err != nil {
		return fmt.Errorf("storing the snapshot: %w", err)
	}
	b.fill(report)
	report.Snapshot = &Snapshot{Ref: ref, Manifest: m}
	if m.Finished() {
		b.r.NoteComplete(ref, m.Instance, true)
	}
	if err := b.s.MergeIndex(ctx); err != nil {
		b.o.Monitor.Notice("", fmt.Sprintf("%v; the next backup tries again", err))
	}
	if len(m.Anomalies) > 0 {
		refused = append(refused, &AnomalyError{ref.ID, m.Parent, m.Anomalies})
	}
	return errors.Join(append(torn, refused...)...)
}

// manifest describes the run so far.
func (b *backup) manifest(root chunk.ID, complete, checkpoint bool) *Manifest {
	m := &Manifest{Instance: b.o.Instance, Time: b.o.Time, End: time.Now().UTC().Truncate(time.Second), Host: b.o.Host,
		Program: b.o.Program, Root: root, Tags: b.o.Tags, Complete: complete, Checkpoint: checkpoint, Errors: b.problems.Load(),
		Owners: b.owners.table()}
	if m.End.Before(m.Time) { // Time was given
		m.End = m.Time
	}
	for _, s := range b.saved() {
		d := s.describe()
		m.Sources = append(m.Sources, d)
		m.Files, m.Dirs, m.Bytes = m.Files+d.Files, m.Dirs+d.Dirs, m.Bytes+d.Bytes
		for _, p := range s.parents {
			if m.Parent.IsZero() || p.snap.Time.After(b.parentTime(m.Parent)) {
				m.Parent = p.snap.Ref.ID
			}
		}
	}
	return m
}

func (b *backup) parentTime(id repo.SnapshotID) time.Time {
	for _, list := range b.parents {
		for _, p := range list {
			if p.snap.Ref.ID == id {
				return p.snap.Time
			}
		}
	}
	return time.Time{}
}

// report gathers what was counted.
func (b *backup) report(results []*backupSource) *BackupReport {
	report := &BackupReport{Problems: b.problems.Load(), Errors: b.reported()}
	for _, s := range results {
		if s.missing == nil && s.refused == nil {
			report.Sources = append(report.Sources, s.describe())
			report.Files.Removed += s.removed()
		}
		report.Bytes.Processed += s.bytes.Load()
	}
	p := b.o.Progress
	report.Files.New, report.Files.Changed, report.Files.Unchanged = p.New.Load(), p.Changed.Load(), p.Unchanged.Load()
	report.Bytes.Read = p.Read.Load()
	b.fill(report)
	return report
}

// fill sets what the session counts.
func (b *backup) fill(report *BackupReport) {
	stats := b.s.Stats()
	report.Blobs = BlobCounts{New: stats.BlobsNew, Reused: stats.BlobsReused, Delta: stats.BlobsDelta}
	report.Bytes.StoredNew = stats.BytesStored
	report.Bytes.Uploaded = b.uploadedBytes.Load()
}
