package mongo

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	driver "go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"go.mongodb.org/mongo-driver/v2/mongo/readconcern"

	"github.com/whole-tale/wtsnap/mongo/layout"
	"github.com/whole-tale/wtsnap/snapshot"
)

const (
	oplogDB   = "local"
	oplogName = "oplog.rs"
	tailAwait = 500 * time.Millisecond // that the server waits for new entries
	// tailPatience is how long a window's last entry may take to be confirmed by the set's majority.
	tailPatience = 2 * time.Minute
)

// ErrRolledOver is found (errors.Is) where the oplog has dropped entries that are needed.
var ErrRolledOver = errors.New("the oplog has dropped entries that are needed: it is too small for what is written")

// oplogEnds returns the times of the oldest and of the newest entry.
func (s *Server) oplogEnds(ctx context.Context) (oldest, newest snapshot.Timestamp, err error) {
	end := func(order int) (snapshot.Timestamp, error) {
		var entry struct {
			TS bson.Timestamp `bson:"ts"`
		}
		err := s.collection(oplogDB, oplogName).FindOne(ctx, bson.D{},
			options.FindOne().SetSort(bson.D{{Key: "$natural", Value: order}}).SetProjection(bson.D{{Key: "ts", Value: 1}})).Decode(&entry)
		if errors.Is(err, driver.ErrNoDocuments) {
			return snapshot.Timestamp{}, errors.New("the oplog is empty or not there")
		}
		if err != nil {
			return snapshot.Timestamp{}, fmt.Errorf("reading the oplog: %w", err)
		}
		return timestamp(entry.TS), nil
	}
	if oldest, err = end(1); err == nil {
		newest, err = end(-1)
	}
	return oldest, newest, err
}

// collection returns a collection that is read with the server's concern.
func (s *Server) collection(db, name string) *driver.Collection {
	o := options.Collection()
	if s.concern != nil {
		o.SetReadConcern(s.concern)
	}
	return s.Client.Database(db).Collection(name, o)
}

func timestamp(t bson.Timestamp) snapshot.Timestamp { return snapshot.Timestamp{T: t.T, I: t.I} }

// windowStart returns from where on the oplog is needed to bring documents up to date that are read from now on: the
// beginning of the oldest transaction that is open, or the newest entry, which it returns besides.
func (s *Server) windowStart(ctx context.Context) (start, newest snapshot.Timestamp, err error) {
	if s.Kind != ReplicaSet {
		return start, newest, errors.New("only a replica set has an oplog to read")
	}
	s.concern = readconcern.Majority()
	_, newest, err = s.oplogEnds(ctx)
	if hasCode(err, codeReadConcernNotEnabled) { // a set that was told to do without
		s.concern = nil
		_, newest, err = s.oplogEnds(ctx)
	}
	if err != nil {
		return start, newest, err
	}
	var open struct {
		Start struct {
			TS bson.Timestamp `bson:"ts"`
		} `bson:"startOpTime"`
	}
	err = s.Client.Database("config").Collection("transactions").FindOne(ctx,
		bson.D{{Key: "state", Value: bson.D{{Key: "$in", Value: bson.A{"prepared", "inProgress"}}}}},
		options.FindOne().SetSort(bson.D{{Key: "startOpTime.ts", Value: 1}})).Decode(&open)
	if errors.Is(err, driver.ErrNoDocuments) {
		return newest, newest, nil
	}
	if err != nil {
		return start, newest, fmt.Errorf("looking for open transactions: %w", err)
	}
	if ts := timestamp(open.Start.TS); !ts.IsZero() && ts.Compare(newest) < 0 {
		return ts, newest, nil
	}
	return newest, newest, nil
}

// beginWindow fixes where the window begins, and lists the collections after that.
func (d *dump) beginWindow(ctx context.Context) error {
	start, settled, err := d.s.windowStart(ctx)
	if err != nil {
		err = fmt.Errorf("the collections cannot be made consistent: %w", err)
		return &HintError{err, "give the user the role backup (db.grantRolesToUser); or, if each collection may be as of another moment, --mongo-consistency none"}
	}
	d.start, d.settled = start, settled
	d.window.Store(true)
	return d.detailed(ctx)
}

// A tail follows the oplog into oplog.bson, from the start of a window to its end. A nil tail has nothing to do.
type tail struct {
	d     *dump
	start snapshot.Timestamp
	last  snapshot.Timestamp // entry that was put
	end   atomic.Pointer[snapshot.Timestamp]
	done  sync.WaitGroup
	err   error

	created map[string]bool // namespaces whose collection came into being within the window
}

// startTail starts to follow the oplog if a window is needed. Its failure ends everything else.
func (d *dump) startTail(ctx context.Context, fail context.CancelCauseFunc) *tail {
	if !d.window.Load() {
		return nil
	}
	t := &tail{d: d, start: d.start, created: map[string]bool{}}
	t.done.Go(func() {
		served, err := d.stream(ctx, layout.OplogFile, t.follow)
		if t.err = errors.Join(served, err); t.err != nil {
			fail(t.err)
		}
	})
	return t
}

// finish ends the window at the newest entry, unless the dump has failed, and waits until everything up to it is there.
func (t *tail) finish(ctx context.Context, failed error) error {
	if t == nil {
		return failed
	}
	var newest snapshot.Timestamp // zero: no more is needed
	if failed == nil {
		_, newest, failed = t.d.s.oplogEnds(ctx)
	}
	t.end.Store(&newest)
	t.done.Wait()
	if t.err != nil && (failed == nil || ctx.Err() != nil) { // else it is a consequence
		return t.err
	}
	return failed
}

// follow puts the entries of the window into a queue.
func (t *tail) follow(ctx context.Context, q *queue) error {
	block := t.d.spool.block()
	since := time.Now()
	for fails := 0; ; {
		cursor, err := t.open(ctx)
		if err == nil {
			var ended bool
			before := t.last
			block, ended, err = t.drain(ctx, q, cursor, block, &since)
			closeCursor(ctx, cursor)
			if ended {
				if len(block) == 0 {
					return nil
				}
				return q.put(ctx, block)
			}
			if t.last != before {
				fails = 0
			}
		}
		if err != nil && (!isPassing(err) || hasCode(err, codeCappedPositionLost) || fails == maxTries) {
			if hasCode(err, codeCappedPositionLost) {
				err = fmt.Errorf("%w (%w)", ErrRolledOver, err)
			}
			return fmt.Errorf("following the oplog: %w", err)
		}
		if err != nil {
			fails++
		}
	}
}

// open opens a cursor that begins at the window's start, or at the entry that was put last.
func (t *tail) open(ctx context.Context) (*driver.Cursor, error) {
	from := t.start
	if !t.last.IsZero() {
		from = t.last
	}
	cursor, err := t.d.s.collection(oplogDB, oplogName).Find(ctx,
		bson.D{{Key: "ts", Value: bson.D{{Key: "$gte", Value: bson.Timestamp{T: from.T, I: from.I}}}}},
		options.Find().SetCursorType(options.TailableAwait).SetMaxAwaitTime(tailAwait).SetBatchSize(1))
	if err != nil {
		return nil, err
	}
	cursor.SetBatchSize(0) // some servers close a tailable cursor whose first batch is not full; the next may be large
	oldest, _, err := t.d.s.oplogEnds(ctx)
	if err == nil && oldest.Compare(from) > 0 {
		err = fmt.Errorf("%w (from %v on, it begins at %v)", ErrRolledOver, from, oldest)
	}
	if err != nil {
		closeCursor(ctx, cursor)
		return nil, err
	}
	return cursor, nil
}

// drain puts what a cursor yields. ended: the window is complete.
func (t *tail) drain(ctx context.Context, q *queue, cursor *driver.Cursor, block []byte, since *time.Time) (_ []byte, ended bool, err error) {
	for {
		end := t.end.Load() // before asking: what was written until then is there
		if !cursor.TryNext(ctx) {
			if err := cursor.Err(); err != nil {
				return block, false, err
			}
			switch {
			case end != nil && t.last.Compare(*end) >= 0:
				return block, true, nil
			case cursor.ID() == 0:
				return block, false, nil
			case end == nil:
				*since = time.Now()
			case time.Since(*since) > tailPatience:
				return block, false, fmt.Errorf("the majority of the replica set does not confirm the entry of %v", *end)
			}
			continue
		}
		entry := cursor.Current
		ts, skip, err := t.check(entry)
		if err != nil {
			return block, false, err
		}
		if ts.Compare(t.last) <= 0 {
			continue // the one that the cursor began with
		}
		if end != nil && ts.Compare(*end) > 0 {
			return block, true, nil
		}
		if len(block) > 0 && len(block)+len(entry) > blockBytes {
			if err := q.put(ctx, block); err != nil {
				return nil, false, err
			}
			block = t.d.spool.block()
		}
		if !skip {
			block = append(block, entry...)
		}
		t.last = ts
		*since = time.Now()
	}
}

// check returns an entry's time, and whether to skip it, since the documents of the dump have it behind them and must not
// go through it again. What makes the dump useless is an againError: a collection that is renamed may have been read under
// neither name, unless it came into being within the window, which then has all of its documents.
func (t *tail) check(entry bson.Raw) (ts snapshot.Timestamp, skip bool, err error) {
	sec, inc, ok := entry.Lookup("ts").TimestampOK()
	if !ok {
		return ts, false, errors.New("an entry of the oplog has no ts")
	}
	ts = snapshot.Timestamp{T: sec, I: inc}
	op, _ := entry.Lookup("op").StringValueOK()
	ns, _ := entry.Lookup("ns").StringValueOK()
	settled := ts.Compare(t.d.settled) <= 0
	if ns == "admin.system.version" && op != "n" && !settled {
		return ts, false, &againError{fmt.Errorf("the server was upgraded or set up at %v, while it was read", ts)}
	}
	if op != "c" {
		return ts, false, nil
	}
	db, _, _ := strings.Cut(ns, ".")
	doc, _ := entry.Lookup("o").DocumentOK()
	first, err := doc.IndexErr(0)
	if err != nil {
		return ts, false, nil
	}
	name, _ := first.Value().StringValueOK()
	switch first.Key() {
	case "create", "drop": // what is there under that name later is all of the window
		t.created[db+"."+name] = true
	case "renameCollection":
		to, _ := doc.Lookup("to").StringValueOK()
		whole := t.created[name]
		t.created[name], t.created[to] = true, whole
		switch {
		case name != "" && (whole && t.d.dumps(name) || !t.d.dumps(name) && !t.d.dumps(to)):
		case settled:
			return ts, true, nil
		default:
			return ts, false, &againError{fmt.Errorf("%s was renamed to %s at %v, while the collections were read", name, to, ts)}
		}
	case "importCollection", "startImportCollection", "commitImportCollection": // of files of another server
		if !settled {
			return ts, false, &againError{fmt.Errorf("%s of %s at %v, while the collections were read", first.Key(), name, ts)}
		}
		return ts, true, nil
	}
	return ts, false, nil
}
