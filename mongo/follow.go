package mongo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	driver "go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"go.mongodb.org/mongo-driver/v2/mongo/readconcern"

	"github.com/whole-tale/wtsnap/mongo/oplog"
	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/snapshot"
	"github.com/whole-tale/wtsnap/snapshot/localfs"
)

const (
	// OplogLabel is the label of a captured oplog where none is given.
	OplogLabel = "oplog"
	// DefaultEvery is how old a slice may be before it is stored.
	DefaultEvery = 10 * time.Minute

	defaultSlice = 64 << 20 // bytes
	followAwait  = time.Second
	// followPatience is how long a single run tries to reach the server again; a service never gives up.
	followPatience = time.Minute
	maxBackoff     = 30 * time.Second
	commitGrace    = time.Minute // for the last slice of an interrupted run
	dumpsEvery     = time.Hour   // how often it is looked which slices the dumps still need
)

// FollowOptions are the options of Follow.
type FollowOptions struct {
	Address        string // mongodb://... of a replica set
	Password       string // for an address with a user and no password
	ReadPreference string
	Member         string

	Instance string
	Label    string        // "" = OplogLabel
	Every    time.Duration // a slice is stored when it is so old; 0 = DefaultEvery
	Slice    int64         // or when it has so many bytes, which are in memory until then; 0 = 64 MiB
	Once     bool          // end at what is the newest entry at the beginning

	Host, Program string
	Monitor       snapshot.Monitor // may be nil
	OnSlice       func(*FollowReport)
}

// A FollowReport says what was captured.
type FollowReport struct {
	Snapshot *snapshot.Snapshot // the newest; nil = there was nothing to store
	Slices   int64              // stored
	Entries  int64              // in them
	Bytes    int64              // of entries
	Uploaded int64
	Dropped  int64                // slices that no dump needs any more
	Spans    []snapshot.MongoSpan // of all slices, oldest first: between two lies a gap
	Gaps     []snapshot.MongoSpan // found by this run: between the last entry that is there and the first one after it
}

// A GapError says that entries of the oplog are lost. The capture goes on behind them.
type GapError struct{ From, To snapshot.Timestamp }

func (e *GapError) Error() string {
	return fmt.Sprintf("the oplog has a gap: what happened after %s and before %s (%s to %s) was dropped by the server before it was captured; "+
		"times after it need a new dump", e.From, e.To, clock(e.From), clock(e.To))
}

func clock(t snapshot.Timestamp) string { return t.Time().Format("2006-01-02 15:04:05 MST") }

// Follow captures a replica set's oplog: it stores what is new since the last capture as slices (oplog.Slice), each of
// which begins with the entry that the one before ends with. Only entries that the set's majority has confirmed are
// taken, so that none is rolled back. Elections and lost connections are waited out. Where the server has dropped entries
// that are not captured, the gap is a problem of the report, and the capture goes on at the oldest entry.
//
// There is one snapshot of a label's slices at a time: each replaces the one before. Slices that no dump of the same
// replica set needs, which is in a snapshot of the instance, are dropped.
//
// Without Once it goes on until ctx ends, which is no error once the last slice is stored.
//
// Memory: a slice and a batch of entries.
func Follow(ctx context.Context, r *repo.Repository, o FollowOptions) (*FollowReport, error) {
	if o.Label == "" {
		o.Label = OplogLabel
	}
	if o.Every <= 0 {
		o.Every = DefaultEvery
	}
	if o.Slice <= 0 {
		o.Slice = defaultSlice
	}
	f := &follower{o: &o, r: r, rep: &FollowReport{}}
	if err := f.load(ctx); err != nil {
		return f.rep, err
	}
	err := f.run(ctx)
	if f.s != nil {
		f.s.Close(ctx)
	}
	if ctx.Err() != nil || err == nil {
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitGrace)
		defer cancel()
		err = f.flush(grace)
	}
	f.rep.Spans = f.spans()
	return f.rep, err
}

// A follower captures an oplog.
type follower struct {
	o   *FollowOptions
	r   *repo.Repository
	rep *FollowReport
	s   *Server // nil: not connected

	known    []stored             // slices in the repository
	replaced []*snapshot.Snapshot // that hold them
	info     *snapshot.MongoInfo  // of the newest
	needed   bson.Timestamp       // the oldest that a dump needs; zero = all
	looked   time.Time            // when needed was found out

	// The slice that is being gathered: entries from first to last, but for noops. tail is the last one where it is a
	// noop that is not in buf.
	first, last bson.Timestamp
	buf, tail   []byte
	entries     int64
	began       time.Time
	gap         *GapError      // before first, not reported yet
	goal        bson.Timestamp // of a single run: the last entry to take
}

// A stored slice.
type stored struct {
	oplog.Slice
	node *snapshot.Node
	of   *snapshot.Snapshot
}

// load finds out what was captured before.
func (f *follower) load(ctx context.Context) error {
	snaps, err := snapshot.List(ctx, f.r, snapshot.Filter{Instance: f.o.Instance})
	if err != nil {
		return fmt.Errorf("looking for what was captured before: %w", err)
	}
	f.known, f.replaced, f.info = nil, nil, nil
	for _, s := range snaps {
		src := s.Source(f.o.Label)
		if !s.HoldsOplog() || src == nil || len(s.Sources) != 1 {
			if src != nil {
				return fmt.Errorf("the label %s is taken: the snapshot %s has something else of that name; choose another one", f.o.Label, s.Ref.ID.Short())
			}
			continue
		}
		slices, err := storedSlices(ctx, f.r, s, f.o.Label)
		if err != nil {
			return err
		}
		f.info = src.Mongo
		if !s.Hold().Active(time.Now()) {
			f.replaced = append(f.replaced, s)
		}
		f.known = append(f.known, slices...)
	}
	f.known = oneEach(f.known)
	f.needed, f.looked = neededFrom(snaps, f.info), time.Now()
	if n := len(f.known); n > 0 && f.last.IsZero() {
		f.last = f.spansEnd()
	}
	return nil
}

// storedSlices lists the slices in a snapshot.
func storedSlices(ctx context.Context, r *repo.Repository, s *snapshot.Snapshot, label string) (out []stored, err error) {
	root, err := snapshot.Lookup(ctx, r, s, label)
	if err != nil {
		return nil, err
	}
	err = snapshot.Walk(ctx, snapshot.TreeLoader(r), root, label, func(path string, n *snapshot.Node, err error) error {
		if err != nil || !n.IsFile() {
			return err
		}
		slice, err := oplog.ParseSlice(n.Name)
		if err != nil {
			return fmt.Errorf("%s in snapshot %s: %w", path, s.Ref.ID.Short(), err)
		}
		out = append(out, stored{slice, n, s})
		return nil
	})
	return out, err
}

// oneEach sorts slices and drops those that a later snapshot has as well.
func oneEach(list []stored) []stored {
	slices.SortStableFunc(list, func(a, b stored) int {
		if c := a.From.Compare(b.From); c != 0 {
			return c
		}
		if c := a.To.Compare(b.To); c != 0 {
			return c
		}
		return b.of.Time.Compare(a.of.Time)
	})
	return slices.CompactFunc(list, func(a, b stored) bool { return a.Slice == b.Slice })
}

// neededFrom returns from where on dumps need the oplog; zero where nothing is known.
func neededFrom(snaps []*snapshot.Snapshot, info *snapshot.MongoInfo) (from bson.Timestamp) {
	for _, s := range snaps {
		for _, src := range s.Sources {
			if m := src.Mongo; m != nil && m.Role == snapshot.MongoDump && !m.Start.IsZero() && m.SameSet(info) {
				if ts := bson.Timestamp(m.Start); from.IsZero() || ts.Before(from) {
					from = ts
				}
			}
		}
	}
	return from
}

func (f *follower) spans() (out []snapshot.MongoSpan) {
	var list []oplog.Slice
	for _, s := range f.known {
		list = append(list, s.Slice)
	}
	oplog.Sort(list)
	for _, s := range oplog.Spans(list) {
		out = append(out, snapshot.MongoSpan{From: snapshot.Timestamp(s.From), To: snapshot.Timestamp(s.To)})
	}
	return out
}

func (f *follower) spansEnd() bson.Timestamp {
	spans := f.spans()
	return bson.Timestamp(spans[len(spans)-1].To)
}

// run follows the oplog until ctx ends or the goal is reached, whatever happens to connections meanwhile.
func (f *follower) run(ctx context.Context) error {
	backoff := time.Second
	var lost time.Time // since when the server is away
	for ctx.Err() == nil {
		before := f.last
		err := f.follow(ctx)
		if err == nil || ctx.Err() != nil {
			return nil
		}
		if fatal, ok := errors.AsType[*fatalError](err); ok {
			return fatal.err
		}
		if gap, ok := errors.AsType[*gapError](err); ok {
			if err := f.flush(ctx); err != nil {
				return err
			}
			ts, _ := oplog.TimestampOf(gap.raw)
			f.begin(ts, gap.raw)
			f.gap = gap.GapError
			continue
		}
		if f.s != nil {
			f.s.Close(ctx)
			f.s = nil
		}
		if f.last != before || lost.IsZero() {
			lost, backoff = time.Now(), time.Second
			f.notice(fmt.Sprintf("%v; trying again", err))
		}
		if f.o.Once && time.Since(lost) > followPatience {
			return err
		}
		wait := time.NewTimer(backoff)
		select {
		case <-ctx.Done():
		case <-wait.C:
		}
		wait.Stop()
		backoff = min(2*backoff, maxBackoff)
	}
	return nil
}

// A fatalError is one that trying again does not mend.
type fatalError struct{ err error }

func (e *fatalError) Error() string { return e.err.Error() }

func (f *follower) notice(text string) {
	if f.o.Monitor != nil {
		f.o.Monitor.Notice(f.o.Label, text)
	}
}

// follow connects and takes entries until something fails, or the goal is reached.
func (f *follower) follow(ctx context.Context) error {
	if f.s == nil {
		s, err := Connect(ctx, f.o.Address, ConnectOptions{ReadPreference: f.o.ReadPreference, Member: f.o.Member, Password: f.o.Password})
		if err != nil {
			if _, old := errors.AsType[*TooOldError](err); old {
				return &fatalError{err}
			}
			return f.atFirst(err)
		}
		f.s = s
	}
	if err := f.checkServer(); err != nil {
		return &fatalError{err}
	}
	cursor, err := f.open(ctx)
	if err != nil {
		return f.atFirst(err)
	}
	defer closeCursor(ctx, cursor)
	for joined := false; ; {
		if !f.last.IsZero() && !f.goal.IsZero() && !f.last.Before(f.goal) && joined {
			return nil
		}
		if !cursor.TryNext(ctx) {
			if err := cursor.Err(); err != nil {
				return fmt.Errorf("following the oplog: %w", err)
			}
			if cursor.ID() == 0 {
				return errors.New("following the oplog: the server has closed the cursor")
			}
			if err := f.maybeFlush(ctx); err != nil {
				return err
			}
			continue
		}
		if err := f.take(cursor.Current, &joined); err != nil {
			return err
		}
		if err := f.maybeFlush(ctx); err != nil {
			return err
		}
	}
}

// atFirst makes the failure of the very first attempt fatal: an address or a password that is wrong is not waited out.
func (f *follower) atFirst(err error) error {
	if f.first.IsZero() {
		return &fatalError{err}
	}
	return err
}

func (f *follower) checkServer() error {
	if f.s.Kind != ReplicaSet {
		return fmt.Errorf("%s is no replica set: only such have an oplog (a set of one member will do)", f.s.URI)
	}
	if f.info != nil && !f.info.SameSet(&snapshot.MongoInfo{Set: f.s.Set}) {
		return fmt.Errorf("%s is the replica set %s, and the oplog that was captured under the label %s is of %s; choose another label", f.s.URI, f.s.Set, f.o.Label, f.info.Set)
	}
	return nil
}

// open opens a cursor that begins with the entry that was captured last, or with where the capture is to begin.
func (f *follower) open(ctx context.Context) (*driver.Cursor, error) {
	f.s.concern = readconcern.Majority()
	begins, ends, err := f.s.oplogEnds(ctx)
	if hasCode(err, codeReadConcernNotEnabled) {
		return nil, &fatalError{fmt.Errorf("%s does not say what its majority has confirmed (enableMajorityReadConcern is off): "+
			"what is captured might be rolled back", f.s.URI)}
	}
	if err != nil {
		return nil, err
	}
	oldest, newest := bson.Timestamp(begins), bson.Timestamp(ends)
	if f.o.Once && f.goal.IsZero() {
		f.goal = newest
	}
	from := f.last
	if from.IsZero() {
		// The first capture begins where the oldest dump does that the oplog still reaches.
		if from = newest; !f.needed.IsZero() && !f.needed.Before(oldest) && f.needed.Before(newest) {
			var entry struct {
				TS bson.Timestamp `bson:"ts"`
			}
			err := f.s.collection(oplogDB, oplogName).FindOne(ctx, bson.D{{Key: "ts", Value: bson.D{{Key: "$lte", Value: f.needed}}}},
				options.FindOne().SetSort(bson.D{{Key: "$natural", Value: -1}}).SetProjection(bson.D{{Key: "ts", Value: 1}})).Decode(&entry)
			if err != nil {
				return nil, fmt.Errorf("reading the oplog: %w", err)
			}
			from = entry.TS // a cluster time need not be that of an entry
		}
	}
	if newest.Before(from) {
		return nil, fmt.Errorf("the oplog ends at %s, before %s, which was captured: this member lags behind, or the set was restored from a backup",
			oplog.Text(newest), oplog.Text(from))
	}
	cursor, err := f.s.collection(oplogDB, oplogName).Find(ctx, bson.D{{Key: "ts", Value: bson.D{{Key: "$gte", Value: from}}}},
		options.Find().SetCursorType(options.TailableAwait).SetMaxAwaitTime(followAwait).SetBatchSize(1))
	if err != nil {
		return nil, fmt.Errorf("reading the oplog: %w", err)
	}
	cursor.SetBatchSize(0)
	return cursor, nil
}

// take takes an entry. joined: the cursor's first entry was the one that was captured last.
func (f *follower) take(raw bson.Raw, joined *bool) error {
	ts, ok := oplog.TimestampOf(raw)
	if !ok {
		return errors.New("following the oplog: an entry has no timestamp")
	}
	if !*joined {
		*joined = true
		switch {
		case ts == f.last && !f.first.IsZero():
			return nil // it is in the slice that is being gathered
		case ts == f.last || f.last.IsZero():
			f.begin(ts, raw)
			return nil
		}
		// The server has dropped the entry: there is a gap before this one.
		gap := &GapError{snapshot.Timestamp(f.last), snapshot.Timestamp(ts)}
		if !f.first.IsZero() && f.first != f.last {
			return &gapError{gap, bytes.Clone(raw)}
		}
		f.begin(ts, raw)
		f.gap = gap
		return nil
	}
	if !ts.After(f.last) {
		return fmt.Errorf("following the oplog: the entry %s comes after %s", oplog.Text(ts), oplog.Text(f.last))
	}
	f.last = ts
	if f.tail = f.tail[:0]; oplog.IsNoop(raw) {
		f.tail = append(f.tail, raw...)
		return nil
	}
	f.buf = append(f.buf, raw...)
	f.entries++
	return nil
}

// A gapError is a GapError behind which a new slice begins, when the one before it is stored.
type gapError struct {
	*GapError
	raw bson.Raw
}

// begin begins a slice with its first entry.
func (f *follower) begin(ts bson.Timestamp, raw bson.Raw) {
	f.first, f.last, f.began, f.entries = ts, ts, time.Now(), 0
	f.buf, f.tail = append(f.buf[:0], raw...), f.tail[:0]
}

// maybeFlush stores the slice if it is old or large enough.
func (f *follower) maybeFlush(ctx context.Context) error {
	if f.first == f.last || int64(len(f.buf)) < f.o.Slice && time.Since(f.began) < f.o.Every {
		return nil
	}
	if err := f.flush(ctx); err != nil {
		if f.o.Once {
			return &fatalError{err}
		}
		return err
	}
	return nil
}

// flush stores the slice that was gathered. Where that fails, the slice is still there.
func (f *follower) flush(ctx context.Context) error {
	if f.first.IsZero() || f.first == f.last && f.gap == nil && len(f.known) > 0 {
		return nil
	}
	slice := oplog.Slice{From: f.first, To: f.last}
	if time.Since(f.looked) > dumpsEvery {
		if err := f.load(ctx); err != nil {
			return err
		}
	}
	content := append(f.buf[:len(f.buf):len(f.buf)], f.tail...)
	if err := f.commit(ctx, slice, content); err != nil {
		// It may be stored nevertheless.
		if lerr := f.load(ctx); lerr != nil || !slices.ContainsFunc(f.known, func(s stored) bool { return s.Slice == slice }) {
			return err
		}
	}
	f.rep.Slices++
	f.rep.Entries += f.entries
	f.rep.Bytes += int64(len(content))
	last := lastEntry(content)
	f.begin(f.last, bytes.Clone(last))
	f.rep.Spans = f.spans()
	if f.o.OnSlice != nil {
		f.o.OnSlice(f.rep)
	}
	return nil
}

// lastEntry returns the last of several entries.
func lastEntry(data []byte) bson.Raw {
	for {
		n := int(data[0]) | int(data[1])<<8 | int(data[2])<<16 | int(data[3])<<24
		if n >= len(data) {
			return data
		}
		data = data[n:]
	}
}

// commit stores a snapshot with one more slice, in place of those before.
func (f *follower) commit(ctx context.Context, slice oplog.Slice, content []byte) error {
	keep := slices.DeleteFunc(slices.Clone(f.known), func(s stored) bool { return s.To.Before(f.needed) || s.Slice == slice })
	stream := &sliceStream{f: f, keep: keep, slice: slice, content: content}
	all := append(slices.Clone(keep), stored{Slice: slice})
	rep, err := snapshot.Backup(ctx, f.r, snapshot.BackupOptions{Instance: f.o.Instance, Host: f.o.Host, Program: f.o.Program, Monitor: f.o.Monitor,
		Sources:  []snapshot.SourceSpec{{Label: f.o.Label, Kind: snapshot.SourceMongo, Path: snapshot.RedactURI(f.o.Address), Stream: stream}},
		Replaces: f.replaced, AllowShrink: true, CheckpointInterval: -1, SampleNights: -1, Workers: 1, Uploads: 1})
	if err != nil {
		return fmt.Errorf("storing a slice of the oplog: %w", err)
	}
	if rep.Snapshot == nil || !rep.Snapshot.Complete {
		return errors.New("storing a slice of the oplog: the snapshot is not complete")
	}
	f.rep.Uploaded += rep.Bytes.Uploaded
	f.rep.Dropped += int64(len(f.known) + 1 - len(all))
	if f.gap != nil {
		f.rep.Gaps = append(f.rep.Gaps, snapshot.MongoSpan(*f.gap))
		f.gap = nil
	}
	f.rep.Snapshot, f.replaced = rep.Snapshot, []*snapshot.Snapshot{rep.Snapshot}
	f.known, f.info = nil, rep.Snapshot.Sources[0].Mongo
	list, err := storedSlices(ctx, f.r, rep.Snapshot, f.o.Label)
	f.known = oneEach(list)
	return err
}

// A sliceStream yields the slices of a capture. It implements snapshot.StreamSource.
type sliceStream struct {
	f       *follower
	keep    []stored
	slice   oplog.Slice
	content []byte
}

// Save implements snapshot.StreamSource.
func (s *sliceStream) Save(ctx context.Context, sink *snapshot.Sink) error {
	var list []oplog.Slice
	for _, old := range s.keep {
		there, err := sink.Keep(ctx, old.Name())
		if err != nil {
			return err
		}
		if !there {
			file := snapshot.OpenFile(ctx, s.f.r, old.node, s.f.o.Label+"/"+old.Name(), 0)
			err := sink.Add(ctx, old.Name(), *old.node, file)
			_ = file.Close()
			if err != nil {
				if ctx.Err() != nil {
					return err
				}
				sink.Problem(old.Name(), fmt.Errorf("this slice is lost: %w", err))
				continue
			}
		}
		list = append(list, old.Slice)
	}
	n := snapshot.Node{Meta: localfs.Meta{Type: localfs.TypeFile, Mode: 0o600, UID: uint32(os.Getuid()), GID: uint32(os.Getgid())}}
	n.MTime = int64(s.slice.To.T) * int64(time.Second)
	n.CTime = n.MTime
	if err := sink.Add(ctx, s.slice.Name(), n, bytes.NewReader(s.content)); err != nil {
		return err
	}
	if s.f.gap != nil {
		sink.Problem(s.slice.Name(), s.f.gap)
	}
	list = append(list, s.slice)
	oplog.Sort(list)
	info := &snapshot.MongoInfo{Role: snapshot.MongoOplog, Consistency: snapshot.MongoWindow}
	if server := s.f.s; server != nil {
		info.Server, info.Set, info.Member = server.Version, server.Set, server.Member
	} else if s.f.info != nil {
		info.Server, info.Set, info.Member = s.f.info.Server, s.f.info.Set, s.f.info.Member
	}
	for _, span := range oplog.Spans(list) {
		info.Spans = append(info.Spans, snapshot.MongoSpan{From: snapshot.Timestamp(span.From), To: snapshot.Timestamp(span.To)})
	}
	info.Start, info.End = info.Spans[0].From, info.Spans[len(info.Spans)-1].To
	sink.SetMongo(info)
	return nil
}
