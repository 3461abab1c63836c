package mongotest

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// TestMongodumpOfTheFake: the real mongodump, reading the fake, writes the golden folder again, byte for byte.
func TestMongodumpOfTheFake(t *testing.T) {
	golden := filepath.Join("testdata", "100.10-dir")
	for _, o := range []Options{{}, {Version: "5.0.9", Role: Mongos}} {
		s := Start(t, o)
		s.LoadFolder(t, golden)
		out := t.TempDir()
		Run(t, "mongodump", "--uri", s.URI(), "--out", out)
		files := 0
		err := filepath.WalkDir(golden, func(path string, d os.DirEntry, err error) error {
			rel, _ := filepath.Rel(golden, path)
			if err != nil || d.IsDir() || rel == "oplog.bson" {
				return err
			}
			files++
			want, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			got, err := os.ReadFile(filepath.Join(out, rel))
			if err != nil {
				return err
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s: %s differs:\n%s\nwant\n%s", o.Version, rel, shorten(got), shorten(want))
			}
			return nil
		})
		ok(t, err)
		if files < 18 {
			t.Errorf("%d files", files)
		}
	}
}

func shorten(b []byte) string {
	if len(b) > 2000 {
		b = b[:2000]
	}
	return string(b)
}

// TestMongorestoreIntoTheFake: the real mongorestore brings a folder into an empty fake, with users and indexes.
func TestMongorestoreIntoTheFake(t *testing.T) {
	from := Start(t, Options{})
	from.LoadFolder(t, filepath.Join("testdata", "100.10-dir"))
	from.Delete("girder.types", "idlast") // servers would move its _id to the front
	out := t.TempDir()
	Run(t, "mongodump", "--uri", from.URI(), "--out", out)
	to := Start(t, Options{})
	said := Run(t, "mongorestore", "--uri", to.URI(), "--drop", out)
	if !strings.Contains(said, " 0 document(s) failed") {
		t.Errorf("mongorestore said:\n%s", said)
	}
	want, got := from.State(), to.State()
	delete(want, "admin.system.version")
	for ns := range want {
		if got[ns] != want[ns] {
			t.Errorf("%s:\n%s\nwant\n%s", ns, got[ns], want[ns])
		}
	}
	if len(want) < 8 {
		t.Errorf("%d namespaces", len(want))
	}
}

// TestOplogDumpOfTheFake: mongodump --oplog takes the oplog of the fake, and bsondump reads it.
func TestOplogDumpOfTheFake(t *testing.T) {
	s := Start(t, Options{})
	for i := range 1000 {
		s.Insert("d.c", bson.D{{Key: "_id", Value: i}})
	}
	var once atomic.Bool
	s.OnCommand(func(c Call) *Outcome {
		if c.Name == "getMore" && once.CompareAndSwap(false, true) { // written while the collection is read
			s.Insert("d.c", bson.D{{Key: "_id", Value: -1}})
			s.Update("d.c", 5, bson.D{{Key: "$set", Value: bson.D{{Key: "x", Value: 1}}}})
			s.Delete("d.c", 6)
		}
		return nil
	})
	out := t.TempDir()
	Run(t, "mongodump", "--uri", s.URI(), "--oplog", "--out", out)
	said := Run(t, "bsondump", filepath.Join(out, "oplog.bson"))
	for _, op := range []string{`"op":"i"`, `"op":"u"`, `"op":"d"`} {
		if !strings.Contains(said, op) {
			t.Errorf("oplog.bson lacks %s:\n%s", op, said)
		}
	}
}

// TestFerretAgreesWithTheFake: the same commands give the same replies on FerretDB, an independent server, and on the
// fake, as far as FerretDB can.
func TestFerretAgreesWithTheFake(t *testing.T) {
	ferret := connect(t, Ferret(t))
	fake := connect(t, Start(t, Options{Role: Standalone}).URI())
	doc := func(pairs ...any) bson.D {
		d := bson.D{}
		for i := 0; i < len(pairs); i += 2 {
			d = append(d, bson.E{Key: pairs[i].(string), Value: pairs[i+1]})
		}
		return d
	}
	docs := bson.A{}
	for i := range 300 {
		docs = append(docs, doc("_id", int32(i), "n", int32(i%7), "s", strings.Repeat("x", i%20), "sub", doc("a", int64(i)), "l", bson.A{int32(i), "two"}))
	}
	commands := []bson.D{
		doc("insert", "c", "documents", docs),
		doc("insert", "c", "documents", bson.A{doc("_id", 1), doc("_id", 1000), doc("_id", 2)}),
		doc("insert", "c", "documents", bson.A{doc("_id", 1), doc("_id", 1001), doc("_id", 2)}, "ordered", false),
		doc("find", "c", "filter", doc("n", 3), "sort", doc("_id", -1), "limit", 5),
		doc("find", "c", "filter", doc("_id", doc("$gte", 10, "$lt", 13.5))),
		doc("find", "c", "filter", doc("_id", doc("$in", bson.A{5, 7, 2000}))),
		doc("find", "c", "filter", doc("sub.a", doc("$gt", 297)), "projection", doc("s", 1)),
		doc("find", "c", "filter", doc("l", 5)),
		doc("find", "c", "filter", doc("$or", bson.A{doc("_id", 1), doc("s", "xxx", "n", 1)})),
		doc("find", "c", "filter", doc("none", doc("$exists", true))),
		doc("find", "nothing"),
		doc("count", "c"),
		doc("count", "c", "query", doc("n", doc("$ne", 3))),
		doc("update", "c", "updates", bson.A{doc("q", doc("_id", 3), "u", doc("$set", doc("sub.b", 1, "n", "x"), "$unset", doc("s", "")))}),
		doc("update", "c", "updates", bson.A{doc("q", doc("_id", 4), "u", doc("_id", 4, "whole", true))}),
		doc("update", "c", "updates", bson.A{doc("q", doc("_id", -4), "u", doc("$set", doc("up", "serted")), "upsert", true)}),
		doc("update", "c", "updates", bson.A{doc("q", doc("n", 5), "u", doc("$inc", doc("n", 100)), "multi", true)}),
		doc("find", "c", "filter", doc("_id", doc("$in", bson.A{-4, 3, 4, 5, 12})), "sort", doc("_id", 1)),
		doc("delete", "c", "deletes", bson.A{doc("q", doc("n", 105), "limit", 0), doc("q", doc("_id", 1), "limit", 1)}),
		doc("find", "c", "batchSize", 1000, "sort", doc("_id", 1)),
		doc("createIndexes", "c", "indexes", bson.A{doc("key", doc("n", 1, "s", -1), "name", "both"), doc("key", doc("u", 1), "name", "u")}),
		doc("listIndexes", "c"),
		doc("listIndexes", "nothing"),
		doc("create", "c"),
		doc("create", "new"),
		doc("listCollections", 1, "nameOnly", true, "filter", doc("name", "new")),
		doc("dropIndexes", "c", "index", "u"),
		doc("drop", "new"),
		doc("nonsense", 1),
	}
	for _, command := range commands {
		name := command[0].Key
		want, err1 := ferret.Database("d").RunCommand(t.Context(), command).Raw()
		got, err2 := fake.Database("d").RunCommand(t.Context(), command).Raw()
		if name == "listCollections" {
			want, got = rawOf(without(want, "cursor")), rawOf(without(got, "cursor"))
		}
		a, b := comparable(want), comparable(got)
		if (err1 == nil) != (err2 == nil) || a != b {
			t.Errorf("%s: FerretDB %v, %v\nthe fake %v, %v", shorten([]byte(rawText(rawOf(command)))), shorten([]byte(a)), err1, shorten([]byte(b)), err2)
		}
	}
}

// comparable leaves out of a reply what servers word differently.
func comparable(reply bson.Raw) string {
	if reply == nil {
		return ""
	}
	var out bson.D
	for _, e := range without(reply, "$clusterTime", "operationTime", "errmsg", "codeName", "code", "createdCollectionAutomatically", "note", "nIndexesWas", "ok", "ns") {
		v := e.Value.(bson.RawValue)
		if e.Key == "cursor" {
			e.Value = sorted(without(v.Document(), "ns", "atClusterTime"))
		}
		if e.Key == "writeErrors" {
			list, _ := v.Array().Values()
			var kept bson.A
			for _, w := range list {
				kept = append(kept, rawOf(without(w.Document(), "errmsg", "keyPattern", "keyValue")))
			}
			e.Value = kept
		}
		out = append(out, e)
	}
	return rawText(rawOf(sorted(append(bson.D{}, out...))))
}

func sorted(d bson.D) bson.D {
	slices.SortFunc(d, func(a, b bson.E) int { return strings.Compare(a.Key, b.Key) })
	return d
}
