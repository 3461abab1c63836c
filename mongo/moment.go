package mongo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"slices"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/whole-tale/wtsnap/mongo/layout"
	"github.com/whole-tale/wtsnap/mongo/oplog"
	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/snapshot"
)

// An Opener opens a MongoDB in a snapshot, or a part of it, as OpenDump does.
type Opener func(ctx context.Context, r *repo.Repository, s *snapshot.Snapshot, path string) (*Dump, error)

// orOpenDump makes nil the usual Opener.
func (o Opener) orOpenDump() Opener {
	if o == nil {
		return OpenDump
	}
	return o
}

// A Moment is a time of which a MongoDB's state can be made: from a dump before it and what was captured of the oplog
// since.
type Moment struct {
	At     snapshot.Timestamp // entries up to this one, included
	Dump   *snapshot.Snapshot
	Label  string // of the MongoDB in it
	Memory int64  // for the changes since the dump; 0 = oplog's default

	slices []stored
}

// EndOfSecond is the moment that a time without a counter means: after all that happened in that second.
func EndOfSecond(seconds int64) snapshot.Timestamp {
	return snapshot.Timestamp{T: uint32(min(max(seconds, 0), math.MaxUint32)), I: math.MaxUint32}
}

// An UnreachableError says that the state of a time cannot be made, why, and of which times near it can be.
type UnreachableError struct {
	At     snapshot.Timestamp
	Gap    *snapshot.MongoSpan // that lies between the dump and At; nil = there is no dump before, or nothing was captured after To
	To     snapshot.Timestamp  // up to which it was captured without a gap; zero = not at all
	Before snapshot.Timestamp  // the newest restorable time before At; zero = none
	After  snapshot.Timestamp  // the oldest one after it; zero = none
}

func (e *UnreachableError) Error() string {
	why := "no dump was made before that"
	switch {
	case e.Gap != nil:
		why = fmt.Sprintf("the oplog has a gap from %s (%s) to %s (%s)", e.Gap.From, clock(e.Gap.From), e.Gap.To, clock(e.Gap.To))
	case !e.To.IsZero():
		why = fmt.Sprintf("the oplog was captured up to %s (%s) only", e.To, clock(e.To))
	}
	at := e.At.String() + " (" + clock(e.At) + ")"
	if e.At.I == math.MaxUint32 {
		at = "the end of " + clock(e.At)
	}
	return fmt.Sprintf("the MongoDB as of %s cannot be restored: %s", at, why)
}

// Nearest says which times can be restored instead.
func (e *UnreachableError) Nearest() string {
	var out []string
	for _, t := range []snapshot.Timestamp{e.Before, e.After} {
		if !t.IsZero() {
			out = append(out, fmt.Sprintf("--at %s (%s)", t, clock(t)))
		}
	}
	return strings.Join(out, " or ")
}

// ErrNoOplog is found (errors.Is) where no oplog was captured of the MongoDB that is asked for.
var ErrNoOplog = errors.New("no oplog was captured of this MongoDB")

// FindMoment finds the newest dump of an instance that ends at or before a time, and what was captured since. label is the
// MongoDB's; "" is the only one. The error is ErrNoOplog, an *UnreachableError, or one of the repository.
func FindMoment(ctx context.Context, r *repo.Repository, instance, label string, at snapshot.Timestamp) (*Moment, error) {
	snaps, err := snapshot.List(ctx, r, snapshot.Filter{Instance: instance})
	if err != nil {
		return nil, fmt.Errorf("looking for dumps and the oplog: %w", err)
	}
	type dump struct {
		s    *snapshot.Snapshot
		src  *snapshot.Source
		info *snapshot.MongoInfo
	}
	var dumps []dump
	for _, s := range snaps {
		for i := range s.Sources {
			src := &s.Sources[i]
			m := src.Mongo
			if !s.Complete || m == nil || m.Role != snapshot.MongoDump || m.Consistency == snapshot.MongoNone || m.End.IsZero() ||
				label != "" && src.Label != label {
				continue
			}
			dumps = append(dumps, dump{s, src, m})
		}
	}
	slices.SortFunc(dumps, func(a, b dump) int { return cmp.Or(b.info.End.Compare(a.info.End), b.s.Time.Compare(a.s.Time)) })
	var list []stored
	for _, s := range snaps {
		for _, src := range s.Sources {
			if s.HoldsOplog() && slices.ContainsFunc(dumps, func(d dump) bool { return d.info.SameSet(src.Mongo) }) {
				found, err := storedSlices(ctx, r, s, src.Label)
				if err != nil {
					return nil, err
				}
				list = append(list, found...)
			}
		}
	}
	if len(list) == 0 {
		return nil, ErrNoOplog
	}
	list = oneEach(list)
	var names []oplog.Slice
	for _, s := range list {
		names = append(names, s.Slice)
	}
	oplog.Sort(names)
	spans := oplog.Spans(names)

	e := &UnreachableError{At: at}
	found := false
	for _, d := range dumps {
		end := d.info.End
		reach := end // up to which the states since the dump can be made
		for _, s := range spans {
			if s.Contains(bson.Timestamp(end), bson.Timestamp(end)) {
				reach = snapshot.Timestamp(s.To)
			}
		}
		switch {
		case end.Compare(at) > 0:
			e.After = end
		case reach.Compare(at) >= 0 || reach.T > at.T:
			return &Moment{At: at, Dump: d.s, Label: d.src.Label, slices: list}, nil
		case !found: // the newest before: what keeps it from the time
			found = true
			e.Before, e.To = reach, reach
			for i, s := range spans {
				if from := snapshot.Timestamp(s.From); from.Compare(reach) > 0 && (i == 0 || !spans[i-1].To.After(bson.Timestamp(reach))) && from.Compare(at) <= 0 {
					e.Gap = &snapshot.MongoSpan{From: reach, To: from}
					break
				}
			}
		case reach.Compare(e.Before) > 0:
			e.Before = reach
		}
	}
	return nil, e
}

// momentLog yields the entries since a dump: its own and those of the slices.
type momentLog struct {
	m     *Moment
	r     *repo.Repository
	whole *Dump
	own   bool // the slices do not reach back to the dump's beginning: oplog.bson has what they lack
}

// Entries implements oplog.Log.
func (l momentLog) Entries(ctx context.Context, from bson.Timestamp) iter.Seq2[bson.Raw, error] {
	return func(yield func(bson.Raw, error) bool) {
		var last bson.Timestamp
		send := func(docs *Documents) bool {
			defer docs.Close()
			for {
				raw, err := docs.Next()
				if err == io.EOF {
					return true
				}
				if err != nil {
					yield(nil, err)
					return false
				}
				ts, _ := oplog.TimestampOf(raw)
				if ts.Before(from) || !last.IsZero() && !ts.After(last) {
					continue
				}
				last = ts
				if !yield(raw, nil) {
					return false
				}
			}
		}
		if l.own && !from.After(bson.Timestamp(l.whole.Info.End)) {
			if docs := l.whole.Oplog(ctx); docs != nil && !send(docs) {
				return
			}
		}
		for _, s := range l.m.slices {
			if s.To.Before(from) || !last.IsZero() && !s.To.After(last) {
				continue
			}
			if bson.Timestamp(l.m.At).Before(s.From) {
				return
			}
			path := l.m.Label + " " + s.Name()
			if !send(openDocuments(ctx, l.r, s.node, path)) {
				return
			}
		}
	}
}

// Open implements Opener: what the MongoDB was at the moment. path leads into the moment's dump, or to what was there at
// the moment, or is "". The snapshot is not looked at; it is the Dump's where it is not nil.
//
// Memory: Moment.Memory, besides what OpenDump and a reader need.
func (m *Moment) Open(ctx context.Context, r *repo.Repository, s *snapshot.Snapshot, path string) (*Dump, error) {
	whole, err := OpenDump(ctx, r, m.Dump, m.Label)
	if err != nil {
		return nil, err
	}
	path, err = snapshot.CleanPath(path)
	if err != nil {
		return nil, err
	}
	info := *whole.Info
	log := momentLog{m: m, r: r, whole: whole}
	log.own = !slices.ContainsFunc(m.spans(), func(s oplog.Span) bool {
		return s.Contains(bson.Timestamp(info.Start), bson.Timestamp(info.End))
	})
	o := oplog.Options{Start: bson.Timestamp(info.Start), End: bson.Timestamp(info.End), At: bson.Timestamp(m.At), Memory: m.Memory,
		Wants: wantsPath(m.Label, path)}
	for i := range whole.collections {
		c := &whole.collections[i]
		o.Collections = append(o.Collections, oplog.Collection{DB: c.DB, Name: c.Name, Metadata: c.Metadata})
	}
	if o.Covers, err = covers(&info); err != nil {
		return nil, err
	}
	fold, err := oplog.New(ctx, log, o)
	if err != nil {
		return nil, fmt.Errorf("bringing the dump %s to %s: %w", m.Dump.Ref.ID.Short(), clock(m.At), err)
	}
	info.Start, info.End, info.Consistency, info.Databases = m.At, m.At, snapshot.MongoSnapshot, nil
	d := &Dump{Snapshot: m.Dump, Root: whole.Root, Source: whole.Source, Info: &info, Versions: whole.Versions, Problems: whole.Problems,
		Folded: true, r: r}
	if s != nil {
		d.Snapshot = s
	}
	for _, result := range fold.Collections() {
		d.collections = append(d.collections, foldedCollection(whole, fold, result))
	}
	if len(d.collections) == 0 && path != "" && path != m.Label {
		return nil, &NoDumpError{Path: path, Hint: "there was nothing of that name at " + clock(m.At)}
	}
	return d, nil
}

func (m *Moment) spans() []oplog.Span {
	var names []oplog.Slice
	for _, s := range m.slices {
		names = append(names, s.Slice)
	}
	oplog.Sort(names)
	return oplog.Spans(names)
}

// foldedCollection makes a collection of a Dump of what a fold found.
func foldedCollection(whole *Dump, fold *oplog.Fold, r *oplog.Result) Collection {
	c := Collection{DB: r.DB, Name: r.Name, Type: layout.TypeCollection, DataName: r.Name, Metadata: r.Metadata}
	switch {
	case r.View || r.Metadata.IsView():
		c.Type, c.DataName = layout.TypeView, ""
		return c
	case r.Metadata.IsTimeseries():
		if c.Type = layout.TypeTimeseries; !viewless(whole) {
			c.DataName = layout.BucketsPrefix + r.Name
		}
	}
	c.dataPath = joinPath(whole.Root, layout.DataPath(c.DB, c.DataName))
	var base *Collection
	if r.Base >= 0 {
		base = &whole.collections[r.Base]
		c.Bytes = base.Bytes
		if base.DataName != "" && base.Name == c.Name {
			c.DataName = base.DataName
		}
	}
	if base != nil && r.Unchanged() {
		c.data, c.dataPath = base.data, base.dataPath
		return c
	}
	c.folded = func(ctx context.Context) iter.Seq2[bson.Raw, error] {
		var documents func() iter.Seq2[bson.Raw, error]
		if base != nil {
			documents = func() iter.Seq2[bson.Raw, error] { return eachDocument(whole.Documents(ctx, base)) }
		}
		return fold.Documents(ctx, r, documents)
	}
	return c
}

// viewless reports whether the server keeps time series under their own name.
func viewless(d *Dump) bool {
	var major, minor int
	_, err := fmt.Sscanf(d.Versions.Server, "%d.%d", &major, &minor)
	return err == nil && (major > 8 || major == 8 && minor >= 3)
}

// wantsPath chooses the collections below a path of a snapshot, by their names.
func wantsPath(label, path string) func(db, name string) bool {
	rest := strings.Trim(strings.TrimPrefix(path, label), "/")
	if rest == "" {
		return nil
	}
	db, file, one := strings.Cut(rest, "/")
	f := layout.Parse(db + "/" + file)
	wanted := strings.TrimPrefix(f.Name, layout.BucketsPrefix)
	return func(d, name string) bool {
		return d == db && (!one || layout.FileName(name) == wanted)
	}
}

// covers says which collections a dump has, by what it was asked for.
func covers(info *snapshot.MongoInfo) (func(db, name string) bool, error) {
	if len(info.Include)+len(info.Exclude) == 0 {
		return nil, nil
	}
	include, err := ParsePatterns(info.Include)
	if err != nil {
		return nil, err
	}
	exclude, err := ParsePatterns(info.Exclude)
	if err != nil {
		return nil, err
	}
	sel := selection{include: include, exclude: exclude}
	return func(db, name string) bool { return oplog.Dumped(db, name) && sel.takes(db, name) }, nil
}
