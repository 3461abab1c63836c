package mongo

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/whole-tale/wtsnap/mongo/internal/mongotest"
	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/snapshot"
)

// restoreTo restores into a server, and returns what was said.
func (v *vault) restoreTo(uri string, t *Restorer, o snapshot.RestoreOptions) (*snapshot.RestoreReport, *recorder, error) {
	v.t.Helper()
	mon := &recorder{}
	if t.pause == 0 {
		t.pause = time.Microsecond
	}
	o.Target, o.Foreign, o.Monitor = snapshot.TargetSpec{Kind: snapshot.TargetMongoDB, Path: uri}, t, mon
	rep, err := snapshot.Restore(v.t.Context(), v.r, o)
	return rep, mon, err
}

// restored restores without any problem.
func (v *vault) restored(uri string, t *Restorer, o snapshot.RestoreOptions) snapshot.Documents {
	v.t.Helper()
	rep, mon, err := v.restoreTo(uri, t, o)
	must(v.t, err)
	if rep.Problems > 0 || rep.Documents.Failed > 0 {
		v.t.Fatalf("problems: %v", mon.problems)
	}
	return *rep.Documents
}

// dumpFolder is a dump that the real mongodump would make of a server.
func dumpFolder(t *testing.T, s *mongotest.Server, args ...string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "dump")
	mongotest.Run(t, "mongodump", append([]string{"--uri", s.URI(), "--out", out}, args...)...)
	return out
}

// stateOf is a server's state without what no restore brings.
func stateOf(s *mongotest.Server) map[string]string {
	m := s.State()
	delete(m, "admin.system.version")
	return m
}

// goldenServer has the golden dump.
func goldenServer(t *testing.T, o mongotest.Options) *mongotest.Server {
	s := mongotest.Start(t, o)
	s.LoadFolder(t, golden("100.10-dir"))
	// Servers move _id to the front, so that this document cannot come back as it is.
	s.Update("girder.types", "idlast", bson.D{{Key: "_id", Value: "idlast"}, {Key: "v", Value: 1}})
	return s
}

// TestRestoreGolden restores a real dump into servers of several ages and roles: all that was there is there again.
func TestRestoreGolden(t *testing.T) {
	v := newVault(t)
	s := v.backup(dumped(golden("100.10-dir"), nil))
	for _, o := range []mongotest.Options{{}, {Role: mongotest.Standalone, Version: "4.4.29"}, {Role: mongotest.Mongos, Version: "8.0.4"}, {Version: "8.3.0", Members: 3}} {
		t.Run(fmt.Sprintf("%s, role %d", o.Version, o.Role), func(t *testing.T) {
			to := mongotest.Start(t, o)
			v.t = t
			docs := v.restored(to.URI(), &Restorer{}, snapshot.RestoreOptions{Snapshot: s, Path: "mongo", Verify: true})
			like := o
			if o.Version == "8.3.0" {
				like.Version = "8.0.4"
			}
			want := stateOf(goldenServer(t, like))
			if o.Version == "8.3.0" { // a time series is one collection there
				delete(want, "girder.system.buckets.tsx")
				delete(want, "girder.tsx")
				if n := len(to.Documents("girder.tsx")); n != 1 {
					t.Errorf("%d buckets", n)
				}
			}
			got := stateOf(to)
			for ns := range want {
				if got[ns] != want[ns] {
					t.Errorf("%s:\n%s\nwant\n%s", ns, got[ns], want[ns])
				}
			}
			if docs.Inserted < 70 || len(want) < 8 {
				t.Errorf("%+v", docs)
			}
			if _, ok := got["wtsnap.restores"]; ok {
				t.Error("the journal was left behind")
			}
		})
	}
}

// TestRestoreDamaged loses stored data: the restore into a server fails, names a collection that is not whole, and what it has
// inserted is nothing but what was stored.
func TestRestoreDamaged(t *testing.T) {
	v := newUncheckedVault(t)
	s := v.backup(dumped(golden("100.10-dir"), nil))
	v.loseData()
	to := mongotest.Start(t, mongotest.Options{})
	_, mon, err := v.restoreTo(to.URI(), &Restorer{}, snapshot.RestoreOptions{Snapshot: s, Path: "mongo", Verify: true})
	said := strings.Join(append(mon.problems, fmt.Sprint(err)), "\n")
	var damage *repo.DamageError
	if !errors.As(err, &damage) || !strings.Contains(said, "girder") || !strings.Contains(said, "packs/") {
		t.Errorf("it said:\n%s", said)
	}
	for ns, n := range to.State() {
		if len(to.Documents(ns)) > 0 && strings.HasPrefix(ns, "girder.") {
			t.Errorf("%s has documents that are in no pack: %s", ns, n)
		}
	}
}

// TestRestoreIsMongorestores: the real mongorestore makes of the same dump what we make.
func TestRestoreIsMongorestores(t *testing.T) {
	from := goldenServer(t, mongotest.Options{})
	from.Delete("girder.types", "idlast")
	for i := range 3000 {
		from.Insert("girder.many", bson.D{{Key: "_id", Value: i}, {Key: "s", Value: strings.Repeat("x", i%300)}})
	}
	from.CreateIndexes("girder.many", bson.D{{Key: "key", Value: bson.D{{Key: "s", Value: 1}, {Key: "_id", Value: -1}}}, {Key: "name", Value: "s"}})
	dir := dumpFolder(t, from)
	theirs := mongotest.Start(t, mongotest.Options{})
	mongotest.Run(t, "mongorestore", "--uri", theirs.URI(), dir)
	v := newVault(t)
	ours := mongotest.Start(t, mongotest.Options{})
	v.restored(ours.URI(), &Restorer{}, snapshot.RestoreOptions{Snapshot: v.backup(dumped(dir, nil)), Verify: true})
	if diff := cmp.Diff(stateOf(theirs), stateOf(ours)); diff != "" {
		t.Errorf("-mongorestore +wtsnap\n%s", diff)
	}
	if diff := cmp.Diff(stateOf(from), stateOf(ours)); diff != "" {
		t.Errorf("-before +after\n%s", diff)
	}
	if diff := cmp.Diff(from.Documents("girder.many"), ours.Documents("girder.many")); diff != "" {
		t.Errorf("another order: %s", diff)
	}
}

// TestRestoreIntoFerret restores into an independent server.
func TestRestoreIntoFerret(t *testing.T) {
	uri := mongotest.Ferret(t)
	from := mongotest.Start(t, mongotest.Options{Role: mongotest.Standalone})
	for i := range 2500 {
		from.Insert("girder.user", bson.D{{Key: "_id", Value: bson.NewObjectID()}, {Key: "login", Value: fmt.Sprint("u", i)}, {Key: "n", Value: int64(i)}})
	}
	from.CreateIndexes("girder.user", bson.D{{Key: "key", Value: bson.D{{Key: "login", Value: 1}}}, {Key: "name", Value: "login_1"}, {Key: "unique", Value: true}})
	v := newVault(t)
	s := v.backup(dumped(folderOf(t, from), nil))
	if docs := v.restored(uri, &Restorer{}, snapshot.RestoreOptions{Snapshot: s, Verify: true}); docs.Inserted != 2500 {
		t.Errorf("%+v", docs)
	}
	again := mongotest.Run(t, "mongodump", "--uri", uri, "--db", "girder", "--out", filepath.Join(t.TempDir(), "again"))
	if !strings.Contains(again, "(2500 documents)") {
		t.Errorf("mongodump says\n%s", again)
	}
	if docs := v.restored(uri, &Restorer{Mode: InsertMissing}, snapshot.RestoreOptions{Snapshot: s}); docs.Equal != 2500 || docs.Inserted != 0 {
		t.Errorf("once more: %+v", docs)
	}
	if docs := v.restored(uri, &Restorer{Mode: DropExisting}, snapshot.RestoreOptions{Snapshot: s, Verify: true}); docs.Inserted != 2500 {
		t.Errorf("with a drop: %+v", docs)
	}
	var guard *snapshot.TargetGuardError
	if _, _, err := v.restoreTo(uri, &Restorer{}, snapshot.RestoreOptions{Snapshot: s}); !errors.As(err, &guard) {
		t.Errorf("err = %v", err)
	}
}

// folderOf writes what a server has as mongodump does, without the real tool.
func folderOf(t *testing.T, s *mongotest.Server) string {
	files := map[string]string{}
	for _, ns := range s.Namespaces() {
		db, name, _ := strings.Cut(ns, ".")
		meta := bson.D{{Key: "indexes", Value: s.Indexes(ns)}, {Key: "uuid", Value: fmt.Sprintf("%x", s.UUID(ns))}, {Key: "collectionName", Value: name}, {Key: "type", Value: "collection"}}
		if o := s.CollectionOptions(ns); len(o) > 5 {
			meta = append(bson.D{{Key: "options", Value: o}}, meta...)
		}
		text, err := bson.MarshalExtJSON(meta, true, false)
		must(t, err)
		files[db+"/"+name+".metadata.json"] = string(text)
		var data []byte
		for _, d := range s.Documents(ns) {
			data = append(data, d...)
		}
		files[db+"/"+name+".bson"] = string(data)
	}
	return makeFiles(t, files)
}

func item(id int, value any) bson.D { return bson.D{{Key: "_id", Value: id}, {Key: "v", Value: value}} }

// pair is a snapshot of a collection d.c of n documents, and a server with the same.
func pair(t *testing.T, n int) (*vault, *snapshot.Snapshot, *mongotest.Server) {
	t.Helper()
	s := mongotest.Start(t, mongotest.Options{})
	for i := range n {
		s.Insert("d.c", item(i, "old"))
	}
	v := newVault(t)
	return v, v.backup(dumped(folderOf(t, s), nil)), s
}

// TestRestoreModes restores over a collection that has changed since, in each mode, tried first.
func TestRestoreModes(t *testing.T) {
	type counts = snapshot.Documents
	for _, c := range []struct {
		mode RestoreMode
		want counts
		left int // documents with another content afterwards
		n    int
	}{
		{InsertMissing, counts{Inserted: 20, Equal: 2470, Differ: 10}, 11, 2501},
		{Overwrite, counts{Inserted: 20, Equal: 2470, Overwritten: 10}, 1, 2501},
		{DropExisting, counts{Inserted: 2500}, 0, 2500},
	} {
		v, snap, s := pair(t, 2500)
		for i := range 20 {
			s.Delete("d.c", 100+i)
		}
		for i := range 10 {
			s.Update("d.c", 2400+i, item(2400+i, "new"))
		}
		s.Insert("d.c", item(-1, "since"))
		before := stateOf(s)
		if docs := v.restored(s.URI(), &Restorer{Mode: c.mode}, snapshot.RestoreOptions{Snapshot: snap, DryRun: true}); docs != c.want {
			t.Errorf("mode %d, tried: %+v, want %+v", c.mode, docs, c.want)
		}
		if diff := cmp.Diff(before, stateOf(s)); diff != "" {
			t.Errorf("mode %d: trying changed something: %s", c.mode, diff)
		}
		if docs := v.restored(s.URI(), &Restorer{Mode: c.mode}, snapshot.RestoreOptions{Snapshot: snap, Verify: true}); docs != c.want {
			t.Errorf("mode %d: %+v, want %+v", c.mode, docs, c.want)
		}
		left := 0
		for _, d := range s.Documents("d.c") {
			if d.Lookup("v").StringValue() != "old" {
				left++
			}
		}
		if n := len(s.Documents("d.c")); left != c.left || n != c.n {
			t.Errorf("mode %d: %d of %d documents are others, want %d of %d", c.mode, left, n, c.left, c.n)
		}
	}
	v, snap, s := pair(t, 10)
	before := stateOf(s)
	var guard *snapshot.TargetGuardError
	if _, _, err := v.restoreTo(s.URI(), &Restorer{}, snapshot.RestoreOptions{Snapshot: snap}); !errors.As(err, &guard) || !strings.Contains(guard.Reason, "d.c is there already") {
		t.Errorf("without a mode: %v", err)
	}
	if diff := cmp.Diff(before, stateOf(s)); diff != "" {
		t.Error(diff)
	}
}

// TestRestoreSurvives loses the connection, or the primary, at each insertion in turn, before and after it was done.
func TestRestoreSurvives(t *testing.T) {
	v, snap, from := pair(t, 300)
	want := stateOf(from)
	for _, o := range []mongotest.Outcome{{Drop: mongotest.DropBefore}, {Drop: mongotest.DropAfter}, {Drop: mongotest.DropInReply, Bytes: 30}, {Error: mongotest.NotWritablePrimary}} {
		for _, command := range []string{"create", "insert", "update", "count"} {
			if command != "insert" && o.Drop != mongotest.DropAfter {
				continue
			}
			s := mongotest.Start(t, mongotest.Options{})
			s.Fail(command, "", 1, o)
			rep, mon, err := v.restoreTo(s.URI(), &Restorer{}, snapshot.RestoreOptions{Snapshot: snap})
			if err != nil || rep.Problems > 0 || rep.Documents.Inserted != 300 {
				t.Errorf("%s, %+v: %v, %v, %+v", command, o, err, mon.problems, rep.Documents)
				continue
			}
			if diff := cmp.Diff(want, stateOf(s)); diff != "" {
				t.Errorf("%s, %+v: %s", command, o, diff)
			}
		}
	}
}

// TestRestoreAgain ends a restore at each command for good, and runs it again: it finishes what was begun, and does not
// do anew what was done.
func TestRestoreAgain(t *testing.T) {
	from := mongotest.Start(t, mongotest.Options{})
	for i := range 50 {
		for _, ns := range []string{"d.a", "d.b", "e.c"} {
			from.Insert(ns, item(i, ns))
		}
	}
	from.CreateIndexes("d.a", bson.D{{Key: "key", Value: bson.D{{Key: "v", Value: 1}}}, {Key: "name", Value: "v_1"}})
	v := newVault(t)
	snap := v.backup(dumped(folderOf(t, from), nil))
	want := stateOf(from)
	for _, mode := range []RestoreMode{RefuseExisting, DropExisting} {
		for at := 1; ; at++ {
			if at > 200 {
				t.Fatal("no end")
			}
			s := mongotest.Start(t, mongotest.Options{})
			if mode == DropExisting {
				s.Insert("d.a", item(7, "to go"))
			}
			var n atomic.Int64
			remove := s.OnCommand(func(c mongotest.Call) *mongotest.Outcome {
				if slices.Contains([]string{"find", "listCollections", "endSessions"}, c.Name) {
					return nil
				}
				if n.Add(1) == int64(at) {
					return &mongotest.Outcome{Drop: []mongotest.DropKind{mongotest.DropBefore, mongotest.DropAfter}[at%2]}
				}
				return nil
			})
			_, _, err := v.restoreTo(s.URI(), &Restorer{Mode: mode, retries: -1}, snapshot.RestoreOptions{Snapshot: snap, Workers: 1})
			remove()
			if err == nil && n.Load() < int64(at) {
				break
			}
			if err == nil { // only the journal stays
				continue
			}
			rep, mon, err := v.restoreTo(s.URI(), &Restorer{Mode: mode}, snapshot.RestoreOptions{Snapshot: snap, Workers: 1})
			if err != nil || rep.Problems > 0 {
				t.Errorf("mode %d, ended at %d: %v, %v", mode, at, err, mon.problems)
				continue
			}
			if diff := cmp.Diff(want, stateOf(s)); diff != "" {
				t.Errorf("mode %d, ended at %d: %s", mode, at, diff)
			}
		}
	}
}

// TestRestoreFailures: a document that the server does not take is a problem, and the others are restored.
func TestRestoreFailures(t *testing.T) {
	v, snap, from := pair(t, 100)
	s := mongotest.Start(t, mongotest.Options{})
	s.Create("d.c", bson.D{})
	s.CreateIndexes("d.c", bson.D{{Key: "key", Value: bson.D{{Key: "v", Value: 1}}}, {Key: "name", Value: "v"}, {Key: "unique", Value: true}})
	rep, mon, err := v.restoreTo(s.URI(), &Restorer{}, snapshot.RestoreOptions{Snapshot: snap})
	must(t, err)
	if rep.Documents.Inserted != 1 || rep.Documents.Failed != 99 || rep.Problems != 99 {
		t.Errorf("%+v, %d problems, the first %s", rep.Documents, rep.Problems, mon.problems[0])
	}
	if ok, _ := s.State()["wtsnap.restores"]; ok == "" {
		t.Error("a restore that is not whole cannot be continued")
	}
	// A collection that cannot be made is given up, others are not.
	from.Insert("d.other", item(1, "x"))
	snap = v.backup(dumped(folderOf(t, from), nil))
	s = mongotest.Start(t, mongotest.Options{})
	s.OnCommand(func(c mongotest.Call) *mongotest.Outcome {
		if c.Name == "create" && c.Collection == "c" {
			return &mongotest.Outcome{Error: mongotest.Unauthorized}
		}
		return nil
	})
	rep, _, err = v.restoreTo(s.URI(), &Restorer{}, snapshot.RestoreOptions{Snapshot: snap})
	must(t, err)
	if rep.Documents.Inserted != 1 || rep.Problems != 1 || len(s.Documents("d.other")) != 1 {
		t.Errorf("%+v, %v", rep.Documents, rep.Errors)
	}
	// Somebody writes to the collection meanwhile.
	s = mongotest.Start(t, mongotest.Options{})
	s.OnCommand(func(c mongotest.Call) *mongotest.Outcome {
		if c.Name == "count" && len(s.Documents("d.c")) == 100 {
			s.Insert("d.c", item(-1, "x"))
		}
		return nil
	})
	rep, _, err = v.restoreTo(s.URI(), &Restorer{}, snapshot.RestoreOptions{Snapshot: snap})
	must(t, err)
	if rep.Problems != 1 || !strings.Contains(rep.Errors[0].Error, "101 documents, and the snapshot 100") {
		t.Errorf("%v", rep.Errors)
	}
}

// TestRestoreZeroTimestamps: they stay zero on servers that can be told so and on those that cannot.
func TestRestoreZeroTimestamps(t *testing.T) {
	from := mongotest.Start(t, mongotest.Options{})
	doc, err := bson.Marshal(bson.D{{Key: "_id", Value: 1}, {Key: "z", Value: bson.Timestamp{}}, {Key: "$d", Value: 1}})
	must(t, err)
	from.Load("d.c", doc)
	v := newVault(t)
	snap := v.backup(dumped(folderOf(t, from), nil))
	for _, version := range []string{"4.4.29", "6.0.9", "7.0.14", "8.0.4"} {
		s := mongotest.Start(t, mongotest.Options{Version: version})
		v.restored(s.URI(), &Restorer{}, snapshot.RestoreOptions{Snapshot: snap, Verify: true})
		s.Update("d.c", 1, bson.D{{Key: "_id", Value: 1}, {Key: "other", Value: true}})
		v.restored(s.URI(), &Restorer{Mode: Overwrite}, snapshot.RestoreOptions{Snapshot: snap, Verify: true})
		if got := s.Documents("d.c"); len(got) != 1 || !bytes.Equal(got[0], doc) {
			t.Errorf("%s: %v", version, got)
		}
	}
}

// TestRestoreLarge: documents of 16 MiB, and more than a batch takes.
func TestRestoreLarge(t *testing.T) {
	from := mongotest.Start(t, mongotest.Options{NoOplog: true})
	const overhead = 4 + 1 + 4 + 4 + 1 + 2 + 4 + 1 + 1
	for i := range 3 {
		from.Insert("d.c", bson.D{{Key: "_id", Value: int32(i)}, {Key: "s", Value: strings.Repeat("x", 16<<20-overhead)}})
	}
	if n := len(from.Documents("d.c")[0]); n != 16<<20 {
		t.Fatalf("documents of %d bytes", n)
	}
	for i := range 30_000 {
		from.Insert("d.small", bson.D{{Key: "_id", Value: i}})
	}
	v := newVault(t)
	snap := v.backup(dumped(folderOf(t, from), nil))
	s := mongotest.Start(t, mongotest.Options{NoOplog: true})
	v.restored(s.URI(), &Restorer{}, snapshot.RestoreOptions{Snapshot: snap, Verify: true})
	if diff := cmp.Diff(stateOf(from), stateOf(s)); diff != "" {
		t.Error(diff)
	}
}

// TestRestoreChosen: parts, patterns, renames, and a database in the address.
func TestRestoreChosen(t *testing.T) {
	from := mongotest.Start(t, mongotest.Options{})
	for _, ns := range []string{"girder.user", "girder.item", "other.user", "config.settings"} {
		from.Insert(ns, item(1, ns))
	}
	v := newVault(t)
	folder := folderOf(t, from)
	snap := v.backup(dumped(folder, nil))
	for _, c := range []struct {
		path, db string
		t        Restorer
		want     string
	}{
		{"", "", Restorer{}, "girder.item girder.user other.user"},
		{"mongo/girder", "", Restorer{}, "girder.item girder.user"},
		{"mongo/girder", "copy", Restorer{}, "copy.item copy.user"},
		{"mongo/girder/user.bson", "copy", Restorer{}, "copy.user"},
		{"", "other", Restorer{}, "other.user"},
		{"", "", Restorer{Include: []Pattern{"*.user"}}, "girder.user other.user"},
		{"", "", Restorer{Include: []Pattern{"*.user"}, Exclude: []Pattern{"other.*"}}, "girder.user"},
		{"", "", Restorer{From: []string{"girder.*"}, To: []string{"g2.x_*"}}, "g2.x_item g2.x_user other.user"},
		{"", "", Restorer{From: []string{"$db$.$c$"}, To: []string{"all.$db$_$c$"}}, "all.girder_item all.girder_user all.other_user"},
	} {
		s := mongotest.Start(t, mongotest.Options{})
		v.restored(strings.Replace(s.URI(), "/?", "/"+c.db+"?", 1), &c.t, snapshot.RestoreOptions{Snapshot: snap, Path: c.path})
		if got := strings.Join(s.Namespaces(), " "); got != c.want {
			t.Errorf("%s to %q, %+v: %s, want %s", c.path, c.db, c.t, got, c.want)
		}
	}
	s := mongotest.Start(t, mongotest.Options{})
	for _, c := range []struct {
		db, want string
		t        Restorer
	}{
		{"nothing", "no database nothing", Restorer{}},
		{"", "nothing is chosen", Restorer{Include: []Pattern{"x.y"}}},
		{"", "both girder.user and other.user", Restorer{From: []string{"*.user"}, To: []string{"x.u*"}, Include: []Pattern{"*.user"}}},
	} {
		if c.t.From != nil {
			c.t.From, c.t.To = []string{"girder.user", "other.user"}, []string{"x.u", "x.u"}
		}
		_, _, err := v.restoreTo(strings.Replace(s.URI(), "/?", "/"+c.db+"?", 1), &c.t, snapshot.RestoreOptions{Snapshot: snap})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v", c.want, err)
		}
	}
}

func TestParseRenames(t *testing.T) {
	for _, c := range []struct{ from, to, ns, want string }{
		{"a.b", "c.d", "a.b", "c.d"},
		{"a.b", "c.d", "a.bc", ""},
		{"a.*", "c.*", "a.b.c", "c.b.c"},
		{"*.*", "*.copy_*", "a.b", "a.copy_b"},
		{"$x$.$y$", "$y$.$x$", "a.b", "b.a"},
		{`a.\*`, "x.y", "a.*", "x.y"},
		{`a.\*`, "x.y", "a.b", ""},
		{"prod.(x)*", "t.*", "prod.(x)1", "t.1"},
	} {
		list, err := ParseRenames([]string{c.from}, []string{c.to})
		must(t, err)
		if got, _ := list[0].apply(c.ns); got != c.want {
			t.Errorf("%s to %s: %s becomes %q, want %q", c.from, c.to, c.ns, got, c.want)
		}
	}
	for _, bad := range [][2]string{{"a.*", "b.c"}, {"a.b", "c.*"}, {"$x.b", "c.d"}, {"a.b", "$x$.y"}, {"$x$.$x$", "a.$x$"}, {`a\`, "b"}} {
		if _, err := ParseRenames([]string{bad[0]}, []string{bad[1]}); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
	if _, err := ParseRenames([]string{"a"}, nil); err == nil {
		t.Error("a name without its other")
	}
}

// TestRestoreFolded: a dump with an oplog is restored as of its end, as mongorestore --oplogReplay does.
func TestRestoreFolded(t *testing.T) {
	from := mongotest.Start(t, mongotest.Options{Version: "4.4.29"})
	for i := range 1000 {
		from.Insert("d.c", item(i, "old"))
		from.Insert("d.other", item(i, "old"))
	}
	var began atomic.Bool
	from.OnCommand(func(c mongotest.Call) *mongotest.Outcome {
		if c.Name != "getMore" || !began.CompareAndSwap(false, true) {
			return nil
		}
		for _, ns := range []string{"d.c", "d.other"} {
			from.Insert(ns, item(-1, "new"))
			from.Insert(ns, item(2000, "new"))
			from.Update(ns, 5, bson.D{{Key: "$set", Value: bson.D{{Key: "v", Value: "new"}, {Key: "x.y", Value: 1}}}})
			from.Delete(ns, 990)
			from.Delete(ns, 3)
		}
		from.CreateIndexes("d.c", bson.D{{Key: "key", Value: bson.D{{Key: "v", Value: 1}}}, {Key: "name", Value: "v_1"}})
		from.Insert("d.made", item(1, "new"))
		from.Insert("e.made", item(1, "new"))
		return nil
	})
	dir := dumpFolder(t, from, "--oplog")
	if !began.Load() {
		t.Fatal("nothing happened during the dump")
	}
	want := stateOf(from)
	v := newVault(t)
	snap := v.backup(dumped(dir, nil))
	ours := mongotest.Start(t, mongotest.Options{Version: "4.4.29"})
	v.restored(ours.URI(), &Restorer{}, snapshot.RestoreOptions{Snapshot: snap, Verify: true})
	if diff := cmp.Diff(want, stateOf(ours)); diff != "" {
		t.Errorf("-at the end +restored\n%s", diff)
	}
	theirs := mongotest.Start(t, mongotest.Options{Version: "4.4.29"})
	mongotest.Run(t, "mongorestore", "--uri", theirs.URI(), "--oplogReplay", dir)
	if diff := cmp.Diff(stateOf(theirs), stateOf(ours)); diff != "" {
		t.Errorf("-mongorestore +wtsnap\n%s", diff)
	}
	for path, want := range map[string]string{"mongo/d": "d.c d.made d.other", "mongo/d/c.bson": "d.c"} {
		part := mongotest.Start(t, mongotest.Options{})
		v.restored(part.URI(), &Restorer{}, snapshot.RestoreOptions{Snapshot: snap, Path: path, Verify: true})
		if got := strings.Join(part.Namespaces(), " "); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
		if got := part.State()["d.c"]; got != stateOf(from)["d.c"] {
			t.Errorf("%s: %s", path, got)
		}
	}
}
