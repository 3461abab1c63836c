package mongo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/whole-tale/wtsnap/mongo/transform"
	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/snapshot"
)

// RestoreMode says what happens to collections of the target that exist and hold documents.
type RestoreMode uint8

// The modes of a restore.
const (
	RefuseExisting RestoreMode = iota // nothing is done at all
	DropExisting                      // they are dropped, one by one, each right before it is made anew
	InsertMissing                     // documents that they lack are inserted, others stay as they are
	Overwrite                         // and documents that differ become what the dump has
)

// A Restorer brings dumps back into a running MongoDB. It is a snapshot.ForeignTarget; the zero value restores into
// databases that have none of the collections.
//
// Order, per collection: drop, create with its options, documents in the order of the dump, indexes. Then come views and
// updates, and users and roles last, because they may end the connection's own rights. Several collections are restored at
// a time.
//
// A restore that ended early is continued by running it again. While it runs, a document in the target's collection
// wtsnap.restores says which collections are done; it is removed at the end.
type Restorer struct {
	Mode      RestoreMode
	From, To  []string // renames, see ParseRenames
	Include   []Pattern
	Exclude   []Pattern
	NoIndexes bool
	NoUsers   bool // leave users and roles out
	// Updates are made after everything else, in their order, to collections that are restored.
	Updates   []transform.Statement
	Options   ConnectOptions
	Open      Opener // of the dump; nil = OpenDump
	OnlyCheck bool   // look at the target, refuse what would be refused, and do nothing

	chosen  []feed        // what is restored instead of all that the path leads to; nil = that
	pause   time.Duration // before the first retry; 0 = a second
	retries int           // 0 = maxRetries
	waiting int           // of Compare: documents whose counterpart has not come; 0 = comparedAtOnce
}

// RestoreTo restores what o.Path leads to. Trouble with one document, index or collection is reported and does not end
// it; the server staying away does.
func (t *Restorer) RestoreTo(ctx context.Context, r *repo.Repository, o snapshot.RestoreOptions, _ *snapshot.Node) (*snapshot.RestoreReport, error) {
	if o.Target.Kind != snapshot.TargetMongoDB {
		return nil, &snapshot.UnsupportedTargetError{Target: o.Target}
	}
	renames, err := ParseRenames(t.From, t.To)
	if err != nil {
		return nil, err
	}
	start := time.Now()
	d, err := t.Open.orOpenDump()(ctx, r, o.Snapshot, o.Path)
	if err != nil {
		return nil, fmt.Errorf("restore: %w", err)
	}
	s, err := Connect(ctx, o.Target.Path, t.Options)
	if err != nil {
		return nil, err
	}
	defer s.Close(ctx)
	rs := &restore{Restorer: t, r: r, o: o, d: d, s: s, renames: renames}
	rs.rep = snapshot.RestoreReport{Path: o.Path, Target: snapshot.RedactURI(o.Target.Path), DryRun: o.DryRun}
	err = interrupted(ctx, rs.run(ctx))
	rep := rs.report()
	rep.Seconds = time.Since(start).Seconds()
	return rep, err
}

// interrupted makes an error say that the context has ended, where it has: an attempt that is not repeated because of that
// ends with what the server answered.
func interrupted(ctx context.Context, err error) error {
	if err == nil || ctx.Err() == nil || errors.Is(err, ctx.Err()) {
		return err
	}
	return fmt.Errorf("%w: %w", ctx.Err(), err)
}

// restore is one call of RestoreTo.
//
// Memory: for each collection at work, three batches of insertBytes or of one longer document, what the driver makes of one,
// what the server sent of the same documents, and what Documents and, where there is an oplog, the fold need.
type restore struct {
	*Restorer
	r       *repo.Repository
	o       snapshot.RestoreOptions
	d       *Dump
	s       *Server
	renames []rename
	jobs    []*job
	auth    []feed // users, roles, and the version of their form
	updates []*update
	journal *journal // nil where none could be written

	mu  sync.Mutex // guards rep
	rep snapshot.RestoreReport
}

// A job is a collection to restore, and how far that went.
type job struct {
	feed
	db, name string // in the target
	usersOf  string // of users and roles: only of this database; "" = of all

	there   bool // it exists
	count   int64
	drop    bool
	resumed bool // an earlier run began it: what is in it is ours
	done    bool // an earlier run finished it

	head                                         []byte // of the commands that insert its documents
	total                                        int64  // documents of the dump
	inserted, equal, differ, overwritten, failed int64
	bytes, written, skipped                      int64
	sum                                          [2]uint64 // of the documents' hashes
	abandoned                                    error     // why its documents could not be restored any further
}

func (j *job) ns() string { return j.db + "." + j.name }

// merges reports whether documents that the target may have already must be looked up first.
func (j *job) merges() bool { return j.there && !j.drop && (j.count > 0 || j.resumed) }

const defaultCollections = 4 // restored at a time

func (rs *restore) run(ctx context.Context) error {
	if err := rs.plan(ctx); err != nil {
		return err
	}
	if err := rs.planUpdates(); err != nil {
		return err
	}
	if err := rs.lookAtTarget(ctx); err != nil {
		return err
	}
	if err := rs.loadJournal(ctx); err != nil {
		return err
	}
	if err := rs.guard(ctx); err != nil {
		return err
	}
	if err := rs.decide(); err != nil {
		return err
	}
	if rs.OnlyCheck {
		return nil
	}
	if err := rs.beginJournal(ctx); err != nil {
		return err
	}
	if err := rs.collections(ctx); err != nil {
		return err
	}
	if err := rs.views(ctx); err != nil {
		return err
	}
	if err := rs.update(ctx); err != nil {
		return err
	}
	if err := rs.users(ctx); err != nil {
		return err
	}
	if rs.rep.Problems == 0 {
		rs.endJournal(ctx)
	}
	return nil
}

// collections restores what is no view, the largest first.
func (rs *restore) collections(ctx context.Context) error {
	workers := rs.o.Workers
	if workers <= 0 {
		workers = defaultCollections
	}
	var list []*job
	for _, j := range rs.jobs {
		if !j.isView() && !j.done {
			list = append(list, j)
		}
	}
	slices.SortStableFunc(list, func(a, b *job) int { return int(min(max(b.Bytes-a.Bytes, -1), 1)) })
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(workers)
	for _, j := range list {
		g.Go(func() error { return rs.collection(gctx, j) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return ctx.Err()
}

// collection restores one.
func (rs *restore) collection(ctx context.Context, j *job) error {
	rs.o.Progress.SetPath(j.ns())
	steps := []func(ctx context.Context, j *job) error{rs.prepare, rs.documents, rs.indexes, rs.verify}
	if rs.o.DryRun {
		steps = []func(ctx context.Context, j *job) error{rs.documents}
	}
	for _, step := range steps {
		var gone *abandonedError
		if err := step(ctx, j); errors.As(err, &gone) {
			j.abandoned = gone.err
			rs.problem(j, gone.err)
			break
		} else if err != nil {
			return fmt.Errorf("restoring %s: %w", j.ns(), err)
		}
	}
	rs.o.Progress.Files.Add(1)
	if rs.o.DryRun || j.abandoned != nil || j.failed > 0 {
		return nil
	}
	return rs.noteDone(ctx, j)
}

// An abandonedError ends the restore of one collection, and not that of the others.
type abandonedError struct{ err error }

func (e *abandonedError) Error() string { return e.err.Error() }
func (e *abandonedError) Unwrap() error { return e.err }

// problem reports what could not be restored of a collection.
func (rs *restore) problem(j *job, err error) { rs.problemAt(j.ns(), err) }

const maxRestoreErrors = 1000 // that a report lists; all are counted

func (rs *restore) problemAt(name string, err error) {
	var damage *repo.DamageError
	rs.mu.Lock()
	rs.rep.Problems++
	if errors.As(err, &damage) {
		rs.rep.Damaged++
	}
	if len(rs.rep.Errors) < maxRestoreErrors {
		rs.rep.Errors = append(rs.rep.Errors, snapshot.PathError{Path: name, Error: err.Error()})
	}
	rs.mu.Unlock()
	rs.o.Progress.Problems.Add(1)
	rs.o.Monitor.Problem(name, err)
}

func (rs *restore) action(op snapshot.Op, name string, bytes int64) {
	if rs.o.OnAction != nil {
		rs.o.OnAction(snapshot.Action{Op: op, Path: name, Bytes: bytes})
	}
}

// report sums up.
func (rs *restore) report() *snapshot.RestoreReport {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	docs := &snapshot.Documents{}
	for _, j := range rs.jobs {
		rs.rep.Bytes.Total += j.bytes
		rs.rep.Bytes.Written += j.written
		rs.rep.Bytes.Skipped += j.skipped
		if j.there && (j.count > 0 || j.isView()) {
			rs.rep.Existing++
		}
		docs.Inserted += j.inserted
		docs.Equal += j.equal
		docs.Differ += j.differ
		docs.Overwritten += j.overwritten
		docs.Failed += j.failed
		if j.isView() {
			continue
		}
		rs.rep.Collections = append(rs.rep.Collections, snapshot.RestoredCollection{From: j.Namespace(), Namespace: j.ns(), Dropped: j.drop,
			Documents: snapshot.Documents{Inserted: j.inserted, Equal: j.equal, Differ: j.differ, Overwritten: j.overwritten, Failed: j.failed}})
	}
	rs.rep.Documents = docs
	for _, u := range rs.updates {
		rs.rep.Updates = append(rs.rep.Updates, u.RestoredUpdate)
	}
	if rs.rep.Errors == nil {
		rs.rep.Errors = []snapshot.PathError{}
	}
	return &rs.rep
}
