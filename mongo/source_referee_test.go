package mongo

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.mongodb.org/mongo-driver/v2/bson"
	driver "go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/whole-tale/wtsnap/mongo/internal/mongotest"
	"github.com/whole-tale/wtsnap/snapshot"
)

// compareWithMongodump dumps a server with mongodump and with wtsnap: the folders are equal, but for prelude.json, which
// this mongodump does not write yet, and the oplog of the time. It returns what both have.
func compareWithMongodump(t *testing.T, uri string, o SourceOptions, args ...string) (map[string]string, *snapshot.MongoInfo) {
	t.Helper()
	dir := t.TempDir()
	mongotest.Run(t, "mongodump", append([]string{"--uri=" + uri, "--out=" + dir, "--quiet"}, args...)...)
	v := newVault(t)
	o.Address = uri
	s := v.backup(native(t, o))
	want, got := filesOf(t, dir), v.files(s, "mongo")
	delete(got, "prelude.json")
	delete(got, "oplog.bson")
	names := slices.Sorted(maps.Keys(want))
	if diff := cmp.Diff(names, slices.Sorted(maps.Keys(got))); diff != "" {
		t.Fatalf("the files (-mongodump +wtsnap):\n%s", diff)
	}
	for _, name := range names {
		if w, g := want[name], got[name]; w != g {
			t.Errorf("%s: %d bytes, mongodump has %d: %.300q, mongodump has %.300q", name, len(g), len(w), g, w)
		}
	}
	return want, s.Source("mongo").Mongo
}

// Everything that a server can have, odd names and sizes included.
func TestDumpBesideMongodump(t *testing.T) {
	for _, version := range []string{"4.4.29", "5.0.31", "6.0.19", "7.0.14", "8.0.4"} {
		t.Run(version, func(t *testing.T) {
			s := mongotest.Start(t, mongotest.Options{Version: version})
			s.LoadFolder(t, golden("100.10-dir"))
			for _, name := range []string{"with space", "a/b", "ünïcode", "per%cent", "plus+", "dot.dot", strings.Repeat("long", 57), strings.Repeat("é", 60), "system.js", "x.system.y"} {
				s.Insert("odd."+name, doc(1, bson.E{Key: "name", Value: name}))
			}
			for _, name := range []string{"system.keys", "system.roles"} {
				s.Insert("admin."+name, doc(1))
			}
			s.Insert("large.one", doc(1, bson.E{Key: "b", Value: strings.Repeat("x", 16<<20-64)}), doc(2, bson.E{Key: "b", Value: strings.Repeat("y", 9<<20)}))
			for i := range 3000 {
				s.Insert("large.many", doc(i, bson.E{Key: "b", Value: biography(i)}))
			}
			files, m := compareWithMongodump(t, s.URI(), SourceOptions{})
			if len(files) < 45 || m.Documents() < 3015 {
				t.Errorf("%d files, %d documents", len(files), m.Documents())
			}
			compareWithMongodump(t, strings.Replace(s.URI(), "/?", "/girder?", 1), SourceOptions{})
		})
	}
}

// An independent server.
func TestFerretDumpBesideMongodump(t *testing.T) {
	uri := mongotest.Ferret(t)
	fillAny(t, uri, 500)
	files, m := compareWithMongodump(t, uri, SourceOptions{})
	if len(files) < 6 || m.Documents() < 1000 || m.Consistency != snapshot.MongoNone {
		t.Errorf("%d files, %+v", len(files), m)
	}
}

// A real server, where one is given: what is there, and what the test adds.
func TestRealDumpBesideMongodump(t *testing.T) {
	uri := mongotest.RealURI(t)
	fillAny(t, uri, 3000)
	for _, how := range []snapshot.MongoConsistency{"", snapshot.MongoNone} {
		files, m := compareWithMongodump(t, uri, SourceOptions{Consistency: how, Include: []string{"wtsnap_test.*"}}, "--db=wtsnap_test")
		if len(files) < 6 || m.Documents() < 6000 {
			t.Errorf("%d files, %+v", len(files), m)
		}
	}
}

// fillAny fills the database wtsnap_test of any server with what all of them can take.
func fillAny(t *testing.T, uri string, n int) {
	t.Helper()
	client, err := driver.Connect(options.Client().ApplyURI(uri))
	must(t, err)
	defer client.Disconnect(t.Context())
	db := client.Database("wtsnap_test")
	must(t, db.Drop(t.Context()))
	for _, name := range []string{"plain", "with space/and slash"} {
		var docs []any
		for i := range n {
			docs = append(docs, doc(i, bson.E{Key: "name", Value: fmt.Sprint("n", i)}, bson.E{Key: "bio", Value: biography(i)}, bson.E{Key: "at", Value: bson.DateTime(1700000000000 + int64(i))}))
		}
		_, err := db.Collection(name).InsertMany(t.Context(), docs)
		must(t, err)
	}
	_, err = db.Collection("plain").Indexes().CreateOne(t.Context(), driver.IndexModel{Keys: bson.D{{Key: "name", Value: 1}}})
	must(t, err)
	must(t, db.CreateCollection(t.Context(), "empty"))
}
