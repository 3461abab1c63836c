package mongo

import (
	"context"
	"fmt"
	"iter"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/whole-tale/wtsnap/mongo/internal/mongotest"
	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/snapshot"
)

func (v *vault) compare(uri string, t *Restorer, o snapshot.RestoreOptions) *Comparison {
	v.t.Helper()
	if o.Progress == nil {
		o.Progress = &snapshot.Progress{}
	}
	o.Target, o.Monitor = snapshot.TargetSpec{Kind: snapshot.TargetMongoDB, Path: uri}, &recorder{}
	rep, err := t.Compare(v.t.Context(), v.r, o)
	must(v.t, err)
	rep.Seconds, rep.Target = 0, ""
	return rep
}

// TestCompareGolden: what a restore brought back is equal, with all types, views, capped collections and time series.
func TestCompareGolden(t *testing.T) {
	v := newVault(t)
	snap := v.backup(dumped(golden("100.10-dir"), nil))
	for _, version := range []string{"", "8.3.0"} {
		s := mongotest.Start(t, mongotest.Options{Version: version})
		v.restored(s.URI(), &Restorer{}, snapshot.RestoreOptions{Snapshot: snap})
		rep := v.compare(s.URI(), &Restorer{}, snapshot.RestoreOptions{Snapshot: snap})
		if !rep.Equal || rep.Documents != (ComparedDocuments{Equal: 79}) || len(rep.Collections) < 9 {
			t.Errorf("%q: %+v", version, rep)
		}
	}
}

// TestCompare finds each kind of difference, and no other.
func TestCompare(t *testing.T) {
	v, _, s := pair(t, 3000)
	s.CreateIndexes("d.c", bson.D{{Key: "key", Value: bson.D{{Key: "v", Value: 1}}}, {Key: "name", Value: "v_1"}})
	s.Insert("d.same", item(1, "x"))
	s.Insert("d.gone", item(1, "x"), item(2, "x"))
	snap := v.backup(dumped(folderOf(t, s), nil))
	if rep := v.compare(s.URI(), &Restorer{}, snapshot.RestoreOptions{Snapshot: snap}); !rep.Equal || rep.Documents.Equal != 3003 {
		t.Errorf("%+v", rep)
	}
	for i := range 20 {
		s.Delete("d.c", 100+i)
	}
	for i := range 10 {
		s.Update("d.c", 2400+i, item(2400+i, "new"))
	}
	s.Insert("d.c", item(-1, "since"))
	s.Update("d.same", 1, bson.D{{Key: "_id", Value: int64(1)}, {Key: "v", Value: "x"}}) // the same _id for a server, another content
	s.CreateIndexes("d.c", bson.D{{Key: "key", Value: bson.D{{Key: "w", Value: 1}}}, {Key: "name", Value: "w_1"}})
	s.Drop("d.gone")
	s.Insert("d.new", item(1, "x"), item(2, "x"))
	rep := v.compare(s.URI(), &Restorer{}, snapshot.RestoreOptions{Snapshot: snap})
	want := map[string]ComparedCollection{
		"d.c":    {From: "d.c", Documents: ComparedDocuments{Equal: 2970, Differ: 10, Missing: 20, Extra: 1}, Indexes: []string{"w_1 is extra"}},
		"d.gone": {From: "d.gone", Missing: true, Documents: ComparedDocuments{Missing: 2}},
		"d.new":  {Documents: ComparedDocuments{Extra: 2}},
		"d.same": {From: "d.same", Documents: ComparedDocuments{Differ: 1}},
	}
	got := map[string]ComparedCollection{}
	for _, c := range rep.Collections {
		if c.Namespace == "d.c" && len(c.Examples) != maxExamples || c.Namespace == "d.same" && cmp.Diff(c.Examples, []Example{{"differs", `{"$numberInt":"1"}`}}) != "" && cmp.Diff(c.Examples, []Example{{"differs", `{"$numberLong":"1"}`}}) != "" {
			t.Errorf("examples: %v", c.Examples)
		}
		name := c.Namespace
		c.Examples, c.Namespace = nil, ""
		if len(c.Options) == 0 {
			c.Options = nil
		}
		if len(c.Indexes) == 0 {
			c.Indexes = nil
		}
		got[name] = c
	}
	if diff := cmp.Diff(want, got); diff != "" || rep.Equal {
		t.Errorf("%v, -want +got\n%s", rep.Equal, diff)
	}
	// A part of it, and under another name.
	if rep := v.compare(s.URI(), &Restorer{}, snapshot.RestoreOptions{Snapshot: snap, Path: "mongo/d/same.bson"}); len(rep.Collections) != 1 || rep.Equal {
		t.Errorf("%+v", rep)
	}
	if rep := v.compare(s.URI(), &Restorer{From: []string{"d.gone"}, To: []string{"d.new"}, Include: []Pattern{"d.gone"}}, snapshot.RestoreOptions{Snapshot: snap}); !rep.Equal || rep.Documents.Equal != 2 {
		t.Errorf("%+v", rep)
	}
}

// TestCompareOrders: whatever the order of both sides, and however few documents may wait, the numbers are the same.
func TestCompareOrders(t *testing.T) {
	const n = 2000
	v, snap, _ := pair(t, n)
	s := mongotest.Start(t, mongotest.Options{})
	random := rand.New(rand.NewPCG(1, 2))
	for _, i := range random.Perm(n + 10) {
		switch {
		case i%100 == 7:
		case i%100 == 8:
			s.Insert("d.c", item(i, "new"))
		default:
			s.Insert("d.c", item(i, "old"))
		}
	}
	want := ComparedDocuments{Equal: n - 40, Differ: 20, Missing: 20, Extra: 9}
	for _, waiting := range []int{0, 5000, 700, 50, 10} {
		rep := v.compare(s.URI(), &Restorer{waiting: waiting, NoIndexes: true}, snapshot.RestoreOptions{Snapshot: snap})
		if rep.Documents != want {
			t.Errorf("%d may wait: %+v, want %+v", waiting, rep.Documents, want)
		}
	}
	if n := len(s.Calls("find")); n < 40 {
		t.Errorf("only %d times the server was read: the parts were not", n)
	}
}

// TestCompareFailures: what cannot be read of one collection is said, and the others are compared.
func TestCompareFailures(t *testing.T) {
	v, snap, s := pair(t, 500)
	s.Fail("find", "d.c", 1, mongotest.Outcome{Error: mongotest.Unauthorized})
	rep := v.compare(s.URI(), &Restorer{}, snapshot.RestoreOptions{Snapshot: snap})
	if rep.Equal || rep.Collections[0].Error == "" {
		t.Errorf("%+v", rep)
	}
	// Damage is said, and the other collections are compared.
	s.Insert("d.other", item(1, "x"))
	snap = v.backup(dumped(folderOf(t, s), nil))
	broken := func(ctx context.Context, r *repo.Repository, sn *snapshot.Snapshot, path string) (*Dump, error) {
		d, err := OpenDump(ctx, r, sn, path)
		if err == nil {
			c := d.Collection("d", "c")
			c.folded = failing
		}
		return d, err
	}
	rep = v.compare(s.URI(), &Restorer{Open: broken}, snapshot.RestoreOptions{Snapshot: snap})
	if rep.Equal || len(rep.Collections) != 2 || rep.Collections[0].Error == "" || !rep.Collections[1].Equal() {
		t.Errorf("%s", fmt.Sprintf("%+v", rep))
	}
}

func failing(context.Context) iter.Seq2[bson.Raw, error] {
	return func(yield func(bson.Raw, error) bool) { yield(nil, &repo.DamageError{Object: "x"}) }
}

// TestCompareFerret compares with an independent server.
func TestCompareFerret(t *testing.T) {
	uri := mongotest.Ferret(t)
	v, snap, _ := pair(t, 700)
	v.restored(uri, &Restorer{}, snapshot.RestoreOptions{Snapshot: snap})
	if rep := v.compare(uri, &Restorer{}, snapshot.RestoreOptions{Snapshot: snap}); rep.Documents != (ComparedDocuments{Equal: 700}) || !rep.Equal {
		t.Errorf("%+v", rep)
	}
}
