package mongo

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/whole-tale/wtsnap/mongo/internal/mongotest"
	"github.com/whole-tale/wtsnap/mongo/ownership/girdertest"
	"github.com/whole-tale/wtsnap/snapshot"
)

// scribble is one write of many kinds.
func scribble(s *mongotest.Server, rnd *rand.Rand, i int, rename bool) {
	names := []string{"girder.user", "girder.item", "other.thing"}
	ns := names[rnd.IntN(len(names))]
	docs := s.Documents(ns)
	var id any
	if len(docs) > 0 {
		id = docs[rnd.IntN(len(docs))].Lookup("_id")
	}
	switch n := rnd.IntN(30); {
	case n < 8 || id == nil:
		s.Insert(ns, bson.D{{Key: "_id", Value: 100000 + i}, {Key: "n", Value: i}, {Key: "sub", Value: bson.D{{Key: "x", Value: i}}}})
	case n < 22:
		s.Update(ns, id, bson.D{{Key: "$set", Value: bson.D{{Key: "n", Value: -i}, {Key: fmt.Sprint("f", i%7), Value: fmt.Sprint(i)}}}})
	case n < 25:
		s.Delete(ns, id)
	case n == 25:
		s.Transaction(mongotest.TxOptions{PerEntry: 1, Prepare: i%2 == 0}, func(tx *mongotest.Tx) {
			for k := range 3 {
				tx.Insert("girder.user", bson.D{{Key: "_id", Value: fmt.Sprint("tx", i, " ", k)}})
			}
		})
	case n == 26:
		s.Insert("girder.new", bson.D{{Key: "_id", Value: i}})
	case n == 27 && rename && len(s.Documents("girder.new")) > 0:
		s.Rename("girder.new", "other.moved", true)
	case n == 28 && i%3 == 0:
		s.Drop("other.thing")
		s.Insert("other.thing", bson.D{{Key: "_id", Value: "first"}})
	default:
		s.Advance(1)
	}
}

// states are the documents of all collections, sorted within each.
func stateAt(s *mongotest.Server, at bson.Timestamp) map[string][]string {
	out := map[string][]string{}
	for _, ns := range []string{"girder.user", "girder.item", "girder.new", "other.thing", "other.moved"} {
		for _, d := range s.DocumentsAt(ns, at) {
			out[ns] = append(out[ns], string(d))
		}
		slices.Sort(out[ns])
	}
	return out
}

func dumpState(t *testing.T, d *Dump) map[string][]string {
	t.Helper()
	out := map[string][]string{}
	for i := range d.Collections() {
		c := &d.Collections()[i]
		docs := d.Documents(t.Context(), c)
		for {
			doc, err := docs.Next()
			if err == io.EOF {
				break
			}
			must(t, err)
			must(t, doc.Validate())
			out[c.Namespace()] = append(out[c.Namespace()], string(doc))
		}
		must(t, docs.Close())
		slices.Sort(out[c.Namespace()])
	}
	return out
}

func sameState(t *testing.T, at snapshot.Timestamp, got, want map[string][]string) {
	t.Helper()
	for ns, docs := range want {
		if !slices.Equal(docs, got[ns]) {
			t.Errorf("at %s: %s has %d documents, the server had %d, or others", at, ns, len(got[ns]), len(docs))
		}
	}
	for ns, docs := range got {
		if len(docs) > 0 && len(want[ns]) == 0 {
			t.Errorf("at %s: %s should not be there", at, ns)
		}
	}
}

// TestMoment dumps a server while it is written to, captures its oplog, and makes its state of many moments: each is what
// the server remembers of that time.
func TestMoment(t *testing.T) {
	for _, c := range []struct {
		version string
		how     snapshot.MongoConsistency
	}{{"4.4.29", snapshot.MongoWindow}, {"7.0.14", snapshot.MongoWindow}, {"7.0.14", snapshot.MongoSnapshot}} {
		t.Run(fmt.Sprint(c.version, " ", c.how), func(t *testing.T) {
			s := mongotest.Start(t, mongotest.Options{Version: c.version})
			rnd := rand.New(rand.NewPCG(7, 7))
			fill(s, 600)
			v := newVault(t)
			calm := func() {}
			if c.how == snapshot.MongoWindow {
				var mu sync.Mutex
				n := 50000
				calm = s.OnCommand(func(c mongotest.Call) *mongotest.Outcome {
					mu.Lock()
					defer mu.Unlock()
					for end := n + 5; n < end && n < 50400 && (c.Name == "find" || c.Name == "getMore") && c.DB != "config"; n++ {
						scribble(s, rnd, n, false) // a renaming would make the dump begin anew
					}
					return nil
				})
			}
			dumped := v.backup(native(t, SourceOptions{Address: s.URI(), Consistency: c.how, Parallel: 2}))
			calm()
			info := dumped.Sources[0].Mongo
			moments := []bson.Timestamp{bson.Timestamp(info.End)}
			for i := range 500 {
				scribble(s, rnd, i, true)
				if i%25 == 0 {
					moments = append(moments, s.Now())
				}
				if i%200 == 150 {
					_, _, err := v.follow(s, func(o *FollowOptions) { o.Slice = 8 << 10 })
					must(t, err)
				}
			}
			_, _, err := v.follow(s)
			must(t, err)
			must(t, v.r.LoadIndex(t.Context()))
			for _, ts := range moments {
				at := snapshot.Timestamp(ts)
				m, err := FindMoment(t.Context(), v.r, "test", "", at)
				must(t, err)
				d, err := m.Open(t.Context(), v.r, nil, "")
				must(t, err)
				sameState(t, at, dumpState(t, d), stateAt(s, ts))
			}

			// A whole second means its end.
			last := moments[len(moments)-1]
			second := EndOfSecond(int64(last.T) - 1)
			m, err := FindMoment(t.Context(), v.r, "test", "mongo", second)
			must(t, err)
			d, err := m.Open(t.Context(), v.r, nil, "mongo/girder")
			must(t, err)
			want := stateAt(s, bson.Timestamp(second))
			for ns := range want {
				if !strings.HasPrefix(ns, "girder.") {
					delete(want, ns)
				}
			}
			sameState(t, second, dumpState(t, d), want)
			if one, err := m.Open(t.Context(), v.r, nil, "mongo/girder/user.bson"); err != nil || len(one.Collections()) != 1 {
				t.Errorf("one collection: %v", err)
			}

			// Restored into a running server, and as a folder.
			target := mongotest.Start(t, mongotest.Options{Version: c.version, NoOplog: true})
			docs := v.restored(target.URI(), &Restorer{Open: m.Open}, snapshot.RestoreOptions{Snapshot: m.Dump, Path: "mongo", Verify: true})
			if docs.Inserted == 0 {
				t.Errorf("%+v", docs)
			}
			got := map[string][]string{}
			for _, ns := range target.Namespaces() {
				for _, d := range target.Documents(ns) {
					got[ns] = append(got[ns], string(d))
				}
				slices.Sort(got[ns])
			}
			sameState(t, second, got, stateAt(s, bson.Timestamp(second)))
			dir := filepath.Join(t.TempDir(), "out")
			_, err = m.RestoreFolder(t.Context(), v.r, snapshot.RestoreOptions{Path: "mongo", Monitor: &recorder{}, Progress: &snapshot.Progress{},
				Target: snapshot.TargetSpec{Kind: snapshot.TargetFolder, Path: dir}})
			must(t, err)
			folder := v.dump(v.backup(snapshot.SourceSpec{Label: "folder", Kind: snapshot.SourceMongo, Stream: &DumpSource{Path: dir}}), "folder")
			sameState(t, second, dumpState(t, folder), stateAt(s, bson.Timestamp(second)))

			// An archive of it has the same documents, and no oplog.
			var archive bytes.Buffer
			rep, err := snapshot.Restore(t.Context(), v.r, snapshot.RestoreOptions{Snapshot: m.Dump, Path: "mongo", Stdout: &archive,
				Target: snapshot.TargetSpec{Kind: snapshot.TargetMongodump, Stdout: true}, Foreign: DumpTarget{Open: m.Open}})
			if err != nil || rep.Documents.Inserted == 0 {
				t.Fatalf("%+v, %v", rep, err)
			}
			again := v.dump(v.backup(snapshot.SourceSpec{Label: "again", Kind: snapshot.SourceMongo, Stream: &DumpSource{Path: "-", Stdin: &archive}}), "again")
			if again.oplog != nil {
				t.Error("the archive of a moment has an oplog")
			}
			sameState(t, second, dumpState(t, again), stateAt(s, bson.Timestamp(second)))
		})
	}
}

// TestMomentUnreachable: a time that cannot be made names what is missing, and the nearest ones that can.
func TestMomentUnreachable(t *testing.T) {
	s, v := mongotest.Start(t, mongotest.Options{}), newVault(t)
	s.Insert("girder.user", person(0), person(1))
	find := func(at snapshot.Timestamp) *UnreachableError {
		t.Helper()
		_, err := FindMoment(t.Context(), v.r, "test", "", at)
		e, ok := errors.AsType[*UnreachableError](err)
		if !ok {
			t.Fatalf("%s: %v", at, err)
		}
		return e
	}
	first := v.backup(native(t, SourceOptions{Address: s.URI()})).Sources[0].Mongo.End
	if _, err := FindMoment(t.Context(), v.r, "test", "", first); !errors.Is(err, ErrNoOplog) {
		t.Errorf("without a capture: %v", err)
	}
	s.Advance(10)
	s.Insert("girder.user", person(2))
	_, _, err := v.follow(s)
	must(t, err)
	end := snapshot.Timestamp(s.Now())
	s.Advance(10)
	s.Insert("girder.user", person(3))
	s.Advance(10)
	s.Insert("girder.user", person(4))
	s.TrimOplog(s.Now())
	behind := snapshot.Timestamp(s.Now())
	_, _, err = v.follow(s)
	must(t, err)
	if e := find(snapshot.Timestamp{T: first.T - 1}); e.After != first || !e.Before.IsZero() || e.Gap != nil {
		t.Errorf("before all: %+v", e)
	}
	if e := find(EndOfSecond(int64(end.T) + 5)); e.Gap != nil || e.To != end || e.Before != end {
		t.Errorf("within the gap: %+v, %v", e, e)
	}
	e := find(EndOfSecond(int64(behind.T) + 5))
	if e.Gap == nil || *e.Gap != (snapshot.MongoSpan{From: end, To: behind}) || e.Before != end || !strings.Contains(e.Error(), end.String()) || !strings.Contains(e.Error(), behind.String()) {
		t.Errorf("behind the gap: %+v, %v", e, e)
	}
	s.Advance(10)
	s.Insert("girder.user", person(5))
	second := v.backup(native(t, SourceOptions{Address: s.URI()})).Sources[0].Mongo.End
	if e := find(behind); e.After != second || e.Before != end || !strings.Contains(e.Nearest(), second.String()) {
		t.Errorf("between a gap and a dump: %+v", e)
	}
	if m, err := FindMoment(t.Context(), v.r, "test", "", second); err != nil || m.Dump.Sources[0].Mongo.End != second {
		t.Errorf("exactly a dump: %v", err)
	}
}

// TestMomentOfUser finds a user's documents as of before they were deleted, and not after.
func TestMomentOfUser(t *testing.T) {
	s, v := mongotest.Start(t, mongotest.Options{}), newVault(t)
	dir := t.TempDir()
	girdertest.New("alice", "bob").Write(t, dir)
	s.LoadFolder(t, dir)
	v.backup(native(t, SourceOptions{Address: s.URI()}))
	s.Advance(5)
	s.Update("girder.user", s.Documents("girder.user")[0].Lookup("_id"), bson.D{{Key: "$set", Value: bson.D{{Key: "size", Value: int64(5)}}}})
	before := snapshot.Timestamp(s.Now())
	s.Advance(5)
	for _, d := range s.Documents("girder.user") {
		s.Delete("girder.user", d.Lookup("_id"))
	}
	_, _, err := v.follow(s)
	must(t, err)
	must(t, v.r.LoadIndex(t.Context()))
	for at, there := range map[snapshot.Timestamp]bool{before: true, EndOfSecond(int64(before.T)): true, snapshot.Timestamp(s.Now()): false} {
		m, err := FindMoment(t.Context(), v.r, "test", "mongo", at)
		must(t, err)
		u, err := FindUser(t.Context(), v.r, UserOptions{Snapshot: m.Dump, Path: "mongo", User: "alice", Open: m.Open, Count: true})
		if there != (err == nil) {
			t.Errorf("at %s: %v", at, err)
		}
		if err == nil && u.Documents.Unix() != int64(before.T) {
			t.Errorf("at %s: the documents are of %s", at, u.Documents)
		}
	}
}
