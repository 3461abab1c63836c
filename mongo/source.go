package mongo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	driver "go.mongodb.org/mongo-driver/v2/mongo"
	"golang.org/x/sync/errgroup"

	"github.com/whole-tale/wtsnap/mongo/layout"
	"github.com/whole-tale/wtsnap/snapshot"
)

const (
	defaultParallel = 4       // collections at a time
	defaultSpool    = 2 << 30 // bytes
	maxAttempts     = 3       // of a dump that the server's own doings made useless
	maxTries        = 4       // of one collection
	keepAliveEvery  = 5 * time.Minute
)

// SourceOptions are the options of a Source. All but Address may be left zero.
type SourceOptions struct {
	Address        string // mongodb://... or mongodb+srv://...; the database that it names is the only one that is read
	Password       string // for an address with a user and no password
	ReadPreference string // see ConnectOptions
	Member         string
	Include        []string // patterns of namespaces; none = all
	Exclude        []string
	Consistency    snapshot.MongoConsistency // "" = the best that the server offers; MongoNone, MongoSnapshot, MongoWindow
	Order          snapshot.MongoOrder       // of documents; "" = MongoNatural
	Parallel       int                       // collections at a time; 0 = 4
	Spool          int64                     // bytes on disk that the server may be ahead of the repository; 0 = 2 GiB, < 0 = none
	SpoolDir       string                    // "" = the system's folder for temporary files

	ranges int64 // bytes from which on a collection is read in ranges; 0 = 64 MiB
}

// rangesFrom returns how large a collection must be for several readers to pay.
func (o *SourceOptions) rangesFrom() int64 {
	if o.ranges > 0 {
		return o.ranges
	}
	return 8 * rangeBytes
}

// A Source is a MongoDB that is backed up. It implements snapshot.StreamSource.
//
// Several collections are read at a time, the largest first, each by one cursor in natural order, as mongodump does; in
// the order of _id, where that is asked for, a large one by several cursors. The
// reader of each is ahead of the repository by some MiB of memory, and then by the spool: the server sees a client that
// takes what it gives. Where both are full, cursors wait, and are kept alive.
//
// Memory: for each collection at a time some 15 MiB, a batch of the driver's included; more where a single document is
// larger than 4 MiB.
type Source struct {
	o                SourceOptions
	include, exclude []Pattern
}

// NewSource checks the options. It does not connect.
func NewSource(o SourceOptions) (*Source, error) {
	if _, err := clientOptions(o.Address, &ConnectOptions{ReadPreference: o.ReadPreference, Member: o.Member}); err != nil {
		return nil, err
	}
	if _, err := databaseOf(o.Address); err != nil {
		return nil, err
	}
	s := &Source{o: o}
	var err error
	if s.include, err = ParsePatterns(o.Include); err != nil {
		return nil, err
	}
	if s.exclude, err = ParsePatterns(o.Exclude); err != nil {
		return nil, err
	}
	switch o.Consistency {
	case "", snapshot.MongoNone, snapshot.MongoSnapshot, snapshot.MongoWindow:
	default:
		return nil, fmt.Errorf("consistency %q: there are %s, %s and %s", o.Consistency, snapshot.MongoSnapshot, snapshot.MongoWindow, snapshot.MongoNone)
	}
	switch o.Order {
	case "":
		s.o.Order = snapshot.MongoNatural
	case snapshot.MongoNatural, snapshot.MongoByID:
	default:
		return nil, fmt.Errorf("order %q: there are %s and %s", o.Order, snapshot.MongoNatural, snapshot.MongoByID)
	}
	if s.o.Parallel <= 0 {
		s.o.Parallel = defaultParallel
	}
	if s.o.SpoolDir == "" {
		s.o.SpoolDir = os.TempDir()
	}
	switch {
	case s.o.Spool == 0:
		s.o.Spool = defaultSpool
	case s.o.Spool < 0:
		s.o.Spool = 0
	}
	return s, nil
}

// An againError says that a dump would be torn, and may succeed when it is made anew.
type againError struct{ err error }

func (e *againError) Error() string { return e.err.Error() }
func (e *againError) Unwrap() error { return e.err }

// Save implements snapshot.StreamSource. What the server does to a dump, such as renaming a collection while it is read,
// makes Save begin anew; it returns an error when that does not help.
func (s *Source) Save(ctx context.Context, sink *snapshot.Sink) error {
	past := ""
	if m := sink.PastMongo(); m != nil {
		past = m.Member
	}
	for attempt := 1; ; attempt++ {
		err := s.attempt(ctx, sink, past)
		again, ok := errors.AsType[*againError](err)
		if !ok || ctx.Err() != nil {
			return err
		}
		if attempt == maxAttempts {
			return fmt.Errorf("%w (%d times; what was read is not consistent)", again.err, attempt)
		}
		sink.Notice("", fmt.Sprintf("%v: all collections are read again", again.err))
		sink.Reset()
		past = "" // it may be gone
	}
}

func (s *Source) attempt(ctx context.Context, sink *snapshot.Sink, past string) error {
	server, err := Connect(ctx, s.o.Address, ConnectOptions{ReadPreference: s.o.ReadPreference, Member: s.o.Member,
		Past: past, Password: s.o.Password, ReadOnly: true})
	if err != nil {
		return err
	}
	defer server.Close(ctx)
	spool, err := newSpool(s.o.SpoolDir, s.o.Spool)
	if err != nil {
		return err
	}
	spool.onFailure = func(err error) {
		sink.Notice("", fmt.Sprintf("the spool cannot be used, so the server waits for the repository: %v", err))
	}
	d := newDump(&s.o, server, sink, spool, selection{database: server.Database, include: s.include, exclude: s.exclude})
	err = d.run(ctx)
	if err != nil {
		d.sink.Progress().TotalBytes.Add(-d.estimate)
	}
	return err
}

// A dump is one attempt to read a server.
type dump struct {
	o     *SourceOptions
	s     *Server
	sink  *snapshot.Sink
	spool *spool
	sel   selection
	list  []*collection
	info  snapshot.MongoInfo

	at       bson.Timestamp     // of the snapshot; zero = there is none
	start    snapshot.Timestamp // of the window, if one is needed
	settled  snapshot.Timestamp // the oplog's newest entry before the collections were listed
	noOplog  error              // why there can be no window
	window   atomic.Bool        // a window is needed to make what was read consistent
	estimate int64              // bytes, in the progress' total

	mu       sync.Mutex
	sessions map[*driver.Session]bool
	counts   map[string]*snapshot.MongoDatabase
}

func newDump(o *SourceOptions, s *Server, sink *snapshot.Sink, spool *spool, sel selection) *dump {
	return &dump{o: o, s: s, sink: sink, spool: spool, sel: sel, sessions: map[*driver.Session]bool{}}
}

func (d *dump) run(ctx context.Context) error {
	d.info = snapshot.MongoInfo{Role: snapshot.MongoDump, Server: d.s.Version, Set: d.s.Set, Member: d.s.Member,
		Consistency: snapshot.MongoNone, Order: d.o.Order, Include: d.o.Include, Exclude: d.o.Exclude}
	d.report()
	if d.sel.database == "admin" {
		d.sink.Notice("", "the address names the database admin: only that one is saved "+
			"(where it was meant for the user's password alone, write ?authSource=admin instead)")
	}
	if err := d.begin(ctx); err != nil {
		return err
	}
	if len(d.list) == 0 && d.sink.PastMongo() == nil { // else the guard has something to say
		return errors.New("there is nothing to save: no collection is there, or none that may be read or was asked for")
	}

	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var alive sync.WaitGroup
	defer alive.Wait()
	defer stop(nil)
	alive.Go(func() { d.keepAlive(ctx) })

	tail := d.startTail(ctx, stop)
	err := d.collections(ctx)
	if err == nil && !d.at.IsZero() {
		err = d.checkCatalog(ctx)
	}
	if tail == nil && err == nil {
		tail = d.startTail(ctx, stop) // the snapshot did not suffice
	}
	if err := tail.finish(ctx, err); err != nil {
		return err
	}
	d.conclude(tail)
	return d.sink.AddUndated(ctx, layout.PreludeFile,
		strings.NewReader(string(layout.MarshalPrelude(layout.Versions{Server: d.s.Version, Tool: "wtsnap"}))))
}

// begin lists the collections and fixes the moment that they are dumped at, or where the window begins.
func (d *dump) begin(ctx context.Context) error {
	want := d.o.Consistency
	if d.s.Kind == Standalone {
		if want == snapshot.MongoSnapshot || want == snapshot.MongoWindow {
			return fmt.Errorf("a standalone server cannot be read with --mongo-consistency %s: it needs a replica set, of one member at least", want)
		}
		want = snapshot.MongoNone
		d.sink.Notice("", "a standalone server: each collection is saved as of another moment (a replica set, if only of one member, can do better)")
	}
	if want == snapshot.MongoNone {
		return d.detailed(ctx)
	}
	if want != snapshot.MongoWindow {
		err := d.beginSnapshot(ctx)
		if err == nil || want == snapshot.MongoSnapshot || ctx.Err() != nil {
			return err
		}
		if d.s.Kind == Sharded {
			return fmt.Errorf("%w, and a sharded cluster has no other way to be read consistently (--mongo-consistency none does without)", err)
		}
		d.sink.Notice("", fmt.Sprintf("%v: the oplog is read as well, to make the collections consistent", err))
	}
	return d.beginWindow(ctx)
}

// detailed lists the collections with their indexes.
func (d *dump) detailed(ctx context.Context) error {
	list, err := d.s.list(ctx, &d.sel)
	if err != nil {
		return err
	}
	d.list = list
	return d.details(ctx)
}

// dumps reports whether a namespace is among those that are asked for.
func (d *dump) dumps(ns string) bool {
	db, name, _ := strings.Cut(ns, ".")
	return d.sel.takes(db, name)
}

// details asks for what the listing does not say. Collections that are gone are left out.
func (d *dump) details(ctx context.Context) error {
	gone := make([]bool, len(d.list))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for i, c := range d.list {
		g.Go(func() error {
			there, err := d.s.detail(gctx, c)
			gone[i] = !there
			switch {
			case !there:
				return nil
			case hasCode(err, codeUnauthorized):
				return nil // the documents cannot be read either, and that is reported
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	i := -1
	d.list = slices.DeleteFunc(d.list, func(*collection) bool { i++; return gone[i] })
	if d.sink.PastMongo() == nil { // else the total is that of last time
		for _, c := range d.list {
			d.estimate += c.bytes
		}
		d.sink.Progress().TotalBytes.Add(d.estimate)
	}
	return nil
}

// beginSnapshot fixes the cluster time of all reads. The catalog is not part of a snapshot: it is listed before and after
// that moment, until both lists are equal.
func (d *dump) beginSnapshot(ctx context.Context) error {
	if !d.s.AtLeast(5, 0) {
		return fmt.Errorf("the server %s is older than 5.0 and cannot read all collections at one moment", d.s.Version)
	}
	const tries = 5
	for range tries {
		before, err := d.s.list(ctx, &d.sel)
		if err != nil {
			return err
		}
		d.list = before
		start, settled, oerr := d.s.windowStart(ctx)
		at, err := d.snapshotTime(ctx)
		if err != nil {
			return err
		}
		after, err := d.s.list(ctx, &d.sel)
		if err != nil {
			return err
		}
		if !slices.EqualFunc(before, after, (*collection).same) {
			continue
		}
		d.at, d.noOplog, d.settled = at, oerr, settled
		if d.start = (snapshot.Timestamp{T: at.T, I: at.I}); oerr == nil && start.Compare(d.start) < 0 {
			d.start = start
		}
		return d.details(ctx)
	}
	return errors.New("collections are created and dropped all the time")
}

// snapshotTime lets the server choose a cluster time for a snapshot.
func (d *dump) snapshotTime(ctx context.Context) (at bson.Timestamp, err error) {
	i := slices.IndexFunc(d.list, func(c *collection) bool { name, _ := c.data(d.s); return name != "" && !c.isCapped() })
	if i < 0 {
		return at, errors.New("there is no collection that can be read as of one moment")
	}
	sess, err := d.session(true, at)
	if err != nil {
		return at, err
	}
	defer d.endSession(ctx, sess)
	name, raw := d.list[i].data(d.s)
	cursor, err := d.s.find(driver.NewSessionContext(ctx, sess), d.list[i].db, name, findOptions(1, raw).SetLimit(1))
	if err != nil {
		return at, fmt.Errorf("the server cannot read all collections at one moment: %w", err)
	}
	_ = cursor.Close(ctx)
	if at = sess.SnapshotTime(); at.IsZero() {
		return at, errors.New("the server cannot read all collections at one moment")
	}
	return at, nil
}

// collections reads all collections, the largest first.
func (d *dump) collections(ctx context.Context) error {
	d.counts = map[string]*snapshot.MongoDatabase{}
	queue := slices.Clone(d.list)
	slices.SortStableFunc(queue, func(a, b *collection) int { return cmp.Compare(b.bytes, a.bytes) })
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(d.o.Parallel)
	for _, c := range queue {
		g.Go(func() error {
			if gctx.Err() != nil {
				return context.Cause(gctx)
			}
			return d.collection(gctx, c)
		})
	}
	return g.Wait()
}

// collection reads one collection. A problem with it alone is reported, and it is left out.
func (d *dump) collection(ctx context.Context, c *collection) error {
	d.sink.Progress().SetPath(c.ns())
	var n counter
	if name, raw := c.data(d.s); name != "" {
		path := layout.DataPath(c.db, name)
		for try := 1; ; try++ {
			at := d.at
			if d.window.Load() || d.isLoose(c) {
				at = bson.Timestamp{}
			}
			n = counter{progress: d.sink.Progress()}
			served, err := d.stream(ctx, path, func(ctx context.Context, q *queue) error {
				return d.read(ctx, q, c, name, raw, at, &n)
			})
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err != nil {
				return err
			}
			if served == nil {
				break
			}
			n.forget()
			if again, err := d.judge(c, served, at, try); err != nil {
				return err
			} else if !again {
				d.sink.Problem(path, served)
				return nil
			}
		}
	}
	data, err := layout.MarshalMetadata(&c.meta)
	if err != nil {
		d.sink.Problem(layout.MetadataPath(c.db, c.name), err)
		return nil
	}
	d.mu.Lock()
	db := d.counts[c.db]
	if db == nil {
		db = &snapshot.MongoDatabase{Name: c.db}
		d.counts[c.db] = db
	}
	db.Collections++
	db.Documents += n.documents
	db.Bytes += n.bytes
	d.mu.Unlock()
	return d.sink.AddUndated(ctx, layout.MetadataPath(c.db, c.name), strings.NewReader(string(data)))
}

// isLoose reports whether a collection cannot be read at the snapshot's time: no server does that with capped ones. Where
// the oplog can be read it makes up for it; else the manifest says so.
func (d *dump) isLoose(c *collection) bool {
	if d.at.IsZero() || !c.isCapped() {
		return false
	}
	if d.o.Consistency != snapshot.MongoSnapshot && d.needWindow(fmt.Errorf("%s is capped, and no server reads such as of one moment", c.ns())) == nil {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if !slices.Contains(d.info.Loose, c.ns()) {
		d.info.Loose = append(d.info.Loose, c.ns())
		d.sink.Notice("", c.ns()+" is capped: it is saved as of another moment than the others, for no server reads such at one moment")
	}
	return true
}

// judge says what a failure to read a collection at some moment means: that it is read again, that it is a problem of
// this collection alone, or, by an error, the end of the dump or of this attempt.
func (d *dump) judge(c *collection, err error, at bson.Timestamp, try int) (again bool, end error) {
	err = fmt.Errorf("reading %s: %w", c.ns(), err)
	switch {
	case !at.IsZero() && hasCode(err, codeSnapshotTooOld, codeSnapshotUnavailable):
		return true, d.needWindow(fmt.Errorf("%w: the server keeps only so much of its history "+
			"(its parameter minSnapshotHistoryWindowInSeconds, 300 unless it is raised)", err))
	case isPassing(err) && try < maxTries:
		return true, nil
	case isPassing(err), !isAnswer(err):
		return false, &againError{err}
	}
	return false, nil
}

// needWindow turns a snapshot that cannot be kept into a window of the oplog. Where that cannot be, it returns why.
func (d *dump) needWindow(why error) error {
	if d.o.Consistency == snapshot.MongoSnapshot {
		return &HintError{why, "raise it on the server: db.adminCommand({setParameter: 1, minSnapshotHistoryWindowInSeconds: 3600}); " +
			"or allow the oplog to be used: --mongo-consistency auto"}
	}
	if d.s.Kind != ReplicaSet || d.noOplog != nil {
		if d.noOplog != nil {
			why = fmt.Errorf("%w; and the oplog, which would help, is not readable: %w", why, d.noOplog)
		}
		return &HintError{why, "raise it on the server: db.adminCommand({setParameter: 1, minSnapshotHistoryWindowInSeconds: 3600})"}
	}
	if !d.window.Swap(true) {
		d.sink.Notice("", fmt.Sprintf("%v: the oplog is read as well, to make the collections consistent", why))
	}
	return nil
}

// checkCatalog compares the collections that were read at one moment with those that there are now: one that was dropped
// meanwhile may have been read as an empty one.
func (d *dump) checkCatalog(ctx context.Context) error {
	now, err := d.s.list(ctx, &d.sel)
	if err != nil {
		return err
	}
	for _, c := range d.list {
		if slices.ContainsFunc(now, c.same) {
			continue
		}
		why := fmt.Errorf("%s was dropped or renamed while it was read", c.ns())
		if d.s.Kind != ReplicaSet || d.noOplog != nil || d.o.Consistency == snapshot.MongoSnapshot {
			return &againError{why}
		}
		return d.needWindow(why)
	}
	return nil
}

// conclude sets what the manifest says.
func (d *dump) conclude(tail *tail) {
	switch {
	case tail != nil:
		d.info.Consistency, d.info.Start, d.info.End = snapshot.MongoWindow, tail.start, tail.last
	case !d.at.IsZero():
		d.info.Consistency = snapshot.MongoSnapshot
		d.info.Start = snapshot.Timestamp{T: d.at.T, I: d.at.I}
		d.info.End = d.info.Start
	}
	d.report()
}

// report hands what is known to the manifest.
func (d *dump) report() {
	info := d.info
	d.mu.Lock()
	for _, db := range d.counts {
		info.Databases = append(info.Databases, *db)
	}
	d.mu.Unlock()
	slices.Sort(info.Loose)
	slices.SortFunc(info.Databases, func(a, b snapshot.MongoDatabase) int { return strings.Compare(a.Name, b.Name) })
	d.sink.SetMongo(&info)
}

// A HintError is an error with a remedy.
type HintError struct {
	Err  error
	Hint string
}

func (e *HintError) Error() string { return e.Err.Error() }
func (e *HintError) Unwrap() error { return e.Err }
