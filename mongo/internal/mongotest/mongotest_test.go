package mongotest

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"go.mongodb.org/mongo-driver/v2/mongo/readpref"
)

func connect(t testing.TB, uri string) *mongo.Client {
	t.Helper()
	c, err := mongo.Connect(options.Client().ApplyURI(uri).SetServerSelectionTimeout(10 * time.Second))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Disconnect(context.Background()) })
	return c
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestDriverReadsWhatItWrote is the life of a collection through the driver, on each role and several versions.
func TestDriverReadsWhatItWrote(t *testing.T) {
	ctx := t.Context()
	for _, o := range []Options{{}, {Role: Standalone, Version: "4.4.29"}, {Role: Mongos, Version: "8.0.4"}, {Members: 3, Version: "6.0.9"}, {User: "root", Password: "pw"}} {
		t.Run(fmt.Sprintf("role %d, %s, %d members, user %q", o.Role, o.Version, o.Members, o.User), func(t *testing.T) {
			s := Start(t, o)
			c := connect(t, s.URI())
			coll := c.Database("d").Collection("c")
			var docs []any
			for i := range 5000 {
				docs = append(docs, bson.D{{Key: "_id", Value: int32(i)}, {Key: "x", Value: i % 10}, {Key: "s", Value: strings.Repeat("a", i%50)}})
			}
			_, err := coll.InsertMany(ctx, docs)
			ok(t, err)
			_, err = coll.InsertOne(ctx, bson.D{{Key: "_id", Value: 7}})
			if !mongo.IsDuplicateKeyError(err) {
				t.Errorf("a second document of the same _id: %v", err)
			}
			_, err = coll.UpdateOne(ctx, bson.D{{Key: "_id", Value: 3}}, bson.D{{Key: "$set", Value: bson.D{{Key: "x", Value: "new"}, {Key: "a.b", Value: 1}}}})
			ok(t, err)
			_, err = coll.DeleteMany(ctx, bson.D{{Key: "x", Value: 9}})
			ok(t, err)
			_, err = coll.Indexes().CreateOne(ctx, mongo.IndexModel{Keys: bson.D{{Key: "x", Value: 1}}})
			ok(t, err)
			cur, err := coll.Find(ctx, bson.D{})
			ok(t, err)
			var got []bson.Raw
			ok(t, cur.All(ctx, &got))
			if len(got) != 4500 || !slices.EqualFunc(got, s.Documents("d.c"), slices.Equal[bson.Raw]) {
				t.Errorf("read %d documents, want 4500 as they are stored", len(got))
			}
			if got[3].Lookup("x").StringValue() != "new" || got[3].Lookup("a", "b").Int32() != 1 {
				t.Errorf("the updated document is %s", got[3])
			}
			if n := len(s.Calls("getMore")); n != 1 {
				t.Errorf("%d batches after the first of 101, want 1", n)
			}
			if n, err := coll.CountDocuments(ctx, bson.D{{Key: "_id", Value: bson.D{{Key: "$gte", Value: 100}, {Key: "$lt", Value: 110}}}}); n != 9 || err != nil {
				t.Errorf("counted %d, %v; want 9", n, err)
			}
			names, err := c.ListDatabaseNames(ctx, bson.D{})
			ok(t, err)
			if !slices.Contains(names, "d") {
				t.Errorf("databases %q", names)
			}
			specs, err := coll.Indexes().ListSpecifications(ctx)
			ok(t, err)
			if len(specs) != 2 || specs[1].Name != "x_1" {
				t.Errorf("indexes %v", specs)
			}
			if o.Role == ReplicaSet {
				if last := s.Oplog()[len(s.Oplog())-1]; last.Lookup("o", "createIndexes").StringValue() != "c" {
					t.Errorf("the oplog ends with %s", last)
				}
			}
		})
	}
}

func TestWrongPasswordIsRefused(t *testing.T) {
	s := Start(t, Options{User: "root", Password: "pw"})
	c := connect(t, strings.Replace(s.URI(), ":pw@", ":no@", 1))
	if err := c.Database("d").RunCommand(t.Context(), bson.D{{Key: "listCollections", Value: 1}}).Err(); err == nil || !strings.Contains(err.Error(), "Authentication failed") {
		t.Errorf("err = %v", err)
	}
}

// TestSnapshotSessions reads two collections at one time, in several sessions, while they are written to.
func TestSnapshotSessions(t *testing.T) {
	ctx := t.Context()
	s := Start(t, Options{})
	for i := range 300 {
		s.Insert("d.a", bson.D{{Key: "_id", Value: i}, {Key: "n", Value: 0}})
		s.Insert("d.b", bson.D{{Key: "_id", Value: i}, {Key: "n", Value: 0}})
	}
	c := connect(t, s.URI())
	session, err := c.StartSession(options.Session().SetSnapshot(true))
	ok(t, err)
	defer session.EndSession(ctx)
	readAll := func(session *mongo.Session, coll string) (out []bson.Raw, err error) {
		ctx := mongo.NewSessionContext(ctx, session)
		cur, err := c.Database("d").Collection(coll).Find(ctx, bson.D{})
		if err != nil {
			return nil, err
		}
		for cur.Next(ctx) {
			if len(out) == 50 || len(out) == 150 { // writes between batches must not be seen
				s.Insert("d."+coll, bson.D{{Key: "_id", Value: len(out) + 1000}})
				s.Update("d."+coll, 200, bson.D{{Key: "$set", Value: bson.D{{Key: "n", Value: len(out)}}}})
				s.Delete("d."+coll, 299-len(out)/50)
			}
			out = append(out, slices.Clone(cur.Current))
		}
		return out, cur.Err()
	}
	got, err := readAll(session, "a")
	ok(t, err)
	if len(got) != 300 || got[200].Lookup("n").Int32() != 0 {
		t.Errorf("read %d documents, the 200th %s", len(got), got[200])
	}
	at := session.SnapshotTime()
	if at.IsZero() {
		t.Fatal("the session has no time")
	}
	s.Update("d.b", 5, bson.D{{Key: "n", Value: 9}})
	s.Rename("d.b", "d.z", false)
	other, err := c.StartSession(options.Session().SetSnapshot(true).SetSnapshotTime(at))
	ok(t, err)
	defer other.EndSession(ctx)
	// What was renamed since is found under its old name, as 7.0 does.
	cur, err := c.Database("d").Collection("b").Find(mongo.NewSessionContext(ctx, other), bson.D{})
	ok(t, err)
	var docs []bson.Raw
	ok(t, cur.All(ctx, &docs))
	if len(docs) != 300 || docs[5].Lookup("n").Int32() != 0 {
		t.Errorf("read %d documents at the session's time", len(docs))
	}
	s.ForgetHistory(s.Now())
	_, err = readAll(other, "a")
	var ce mongo.CommandError
	if !errors.As(err, &ce) || ce.Code != 239 {
		t.Errorf("err = %v, want SnapshotTooOld", err)
	}
}

// TestFaults: what is scripted is what a client sees.
func TestFaults(t *testing.T) {
	ctx := t.Context()
	s := Start(t, Options{Members: 2})
	for i := range 1000 {
		s.Insert("d.c", bson.D{{Key: "_id", Value: i}})
	}
	uri := s.URI() + "&retryReads=false&retryWrites=false"
	c := connect(t, uri)
	coll := c.Database("d").Collection("c")
	read := func() (int, error) {
		cur, err := coll.Find(ctx, bson.D{}, options.Find().SetBatchSize(100))
		if err != nil {
			return 0, err
		}
		n := 0
		for cur.Next(ctx) {
			n++
		}
		return n, cur.Err()
	}
	if n, err := read(); n != 1000 || err != nil {
		t.Fatalf("read %d, %v", n, err)
	}
	remove := s.Fail("getMore", "d.c", 3, Outcome{Error: SnapshotTooOld})
	if n, err := read(); n != 300 || err == nil || !strings.Contains(err.Error(), "SnapshotTooOld") {
		t.Errorf("read %d, %v", n, err)
	}
	remove()
	for _, o := range []Outcome{{Drop: DropBefore}, {Drop: DropAfter}, {Drop: DropInReply, Bytes: 700}} {
		remove = s.Fail("getMore", "d.c", 2, o)
		if n, err := read(); n != 200 || !mongo.IsNetworkError(err) {
			t.Errorf("%+v: read %d, %v", o, n, err)
		}
		remove()
	}
	if n, err := read(); n != 1000 || err != nil { // and the driver knows its servers again
		t.Fatalf("read %d, %v", n, err)
	}
	s.StepDown(1)
	_, err := coll.InsertOne(ctx, bson.D{{Key: "_id", Value: -1}})
	if err == nil {
		t.Error("the old primary took a write")
	}
	if _, err := coll.InsertOne(ctx, bson.D{{Key: "_id", Value: -1}}); err != nil {
		t.Errorf("after the election: %v", err)
	}
	s.Stop(0)
	if n, err := read(); n != 1001 || err != nil {
		t.Errorf("with one member down: read %d, %v", n, err)
	}
	s.Resume(0)
	secondary := connect(t, "mongodb://"+s.Addr(0)+"/?directConnection=true")
	ok(t, secondary.Ping(ctx, readpref.Secondary()))
}

// TestRetriedWrite: a reply that was lost does not make a retryable write happen twice.
func TestRetriedWrite(t *testing.T) {
	s := Start(t, Options{})
	s.Insert("d.c", bson.D{{Key: "_id", Value: 1}, {Key: "n", Value: 0}})
	s.Fail("update", "d.c", 1, Outcome{Drop: DropAfter})
	coll := connect(t, s.URI()).Database("d").Collection("c")
	_, err := coll.UpdateOne(t.Context(), bson.D{{Key: "_id", Value: 1}}, bson.D{{Key: "$inc", Value: bson.D{{Key: "n", Value: 1}}}})
	ok(t, err)
	if n := s.Documents("d.c")[0].Lookup("n").Int32(); n != 1 {
		t.Errorf("n = %d after one increment", n)
	}
	if n := len(s.Calls("update")); n != 2 {
		t.Errorf("%d updates, want 2", n)
	}
}

// TestTailing follows the oplog with the query that followers use, through a rollover.
func TestTailing(t *testing.T) {
	ctx := t.Context()
	s := Start(t, Options{})
	s.Insert("d.c", bson.D{{Key: "_id", Value: 1}})
	last := s.Now()
	c := connect(t, s.URI())
	find := options.Find().SetCursorType(options.TailableAwait).SetMaxAwaitTime(100 * time.Millisecond)
	cur, err := c.Database("local").Collection("oplog.rs").Find(ctx, bson.D{{Key: "ts", Value: bson.D{{Key: "$gte", Value: last}}}}, find)
	ok(t, err)
	if !cur.Next(ctx) || cur.Current.Lookup("o", "_id").Int32() != 1 {
		t.Fatalf("first: %v, %v", cur.Current, cur.Err())
	}
	go s.Insert("d.c", bson.D{{Key: "_id", Value: 2}})
	if !cur.Next(ctx) || cur.Current.Lookup("o", "_id").Int32() != 2 {
		t.Fatalf("second: %v, %v", cur.Current, cur.Err())
	}
	for i := range 10 {
		s.Insert("d.c", bson.D{{Key: "_id", Value: 10 + i}})
	}
	s.TrimOplog(s.Now())
	if cur.Next(ctx) || cur.Err() == nil || !strings.Contains(cur.Err().Error(), "CappedPositionLost") {
		t.Errorf("after the rollover: %v, %v", cur.Current, cur.Err())
	}
}

// TestZeroTimestamps: zero timestamps are filled in unless the command asks that they stay.
func TestZeroTimestamps(t *testing.T) {
	s := Start(t, Options{})
	db := connect(t, s.URI()).Database("d")
	doc := func(id int) bson.D {
		return bson.D{{Key: "z", Value: bson.Timestamp{}}, {Key: "_id", Value: id}, {Key: "in", Value: bson.D{{Key: "z", Value: bson.Timestamp{}}}}}
	}
	ok(t, db.RunCommand(t.Context(), bson.D{{Key: "insert", Value: "c"}, {Key: "documents", Value: bson.A{doc(1)}}}).Err())
	ok(t, db.RunCommand(t.Context(), bson.D{{Key: "insert", Value: "c"}, {Key: "documents", Value: bson.A{doc(2)}}, {Key: "bypassEmptyTsReplacement", Value: true}}).Err())
	got := s.Documents("d.c")
	for i, want := range []bool{false, true} {
		if e := got[i].Index(0).Key(); e != "_id" {
			t.Errorf("the first field is %s", e)
		}
		if zero := le.Uint64(got[i].Lookup("z").Value) == 0; zero != want {
			t.Errorf("document %d: zero is %v, want %v", i, zero, want)
		}
		if le.Uint64(got[i].Lookup("in", "z").Value) != 0 {
			t.Error("an inner timestamp was changed")
		}
	}
}

// TestTransactionEntries: a transaction becomes visible at once, and its entries are chained.
func TestTransactionEntries(t *testing.T) {
	s := Start(t, Options{})
	s.Insert("d.c", bson.D{{Key: "_id", Value: 1}})
	before := s.Now()
	s.Transaction(TxOptions{PerEntry: 2, Prepare: true}, func(tx *Tx) {
		for i := range 5 {
			tx.Insert("d.c", bson.D{{Key: "_id", Value: 10 + i}})
		}
	})
	s.Transaction(TxOptions{Prepare: true, Abort: true}, func(tx *Tx) {
		tx.Insert("d.c", bson.D{{Key: "_id", Value: 99}})
		tx.Replace("d.c", bson.D{{Key: "_id", Value: 1}, {Key: "never", Value: true}})
		tx.Delete("d.c", 10)
	})
	if got := s.Documents("d.c"); len(got) != 6 || got[0].Lookup("never").Type != 0 || got[1].Lookup("_id").Int32() != 10 {
		t.Errorf("documents %v", got)
	}
	var kinds []string
	for _, e := range s.Oplog() {
		if t1, i1, _ := e.Lookup("ts").TimestampOK(); !after(bson.Timestamp{T: t1, I: i1}, before) {
			continue
		}
		o := e.Lookup("o").Document()
		kind := o.Index(0).Key()
		for _, flag := range []string{"partialTxn", "prepare"} {
			if truthy(o.Lookup(flag)) {
				kind += " " + flag
			}
		}
		kinds = append(kinds, kind)
	}
	want := []string{"applyOps partialTxn", "applyOps partialTxn", "applyOps prepare", "commitTransaction", "applyOps prepare", "abortTransaction"}
	if !slices.Equal(kinds, want) {
		t.Errorf("entries %q, want %q", kinds, want)
	}
}

// TestUpdateEntries: the same update as each age of servers logs it.
func TestUpdateEntries(t *testing.T) {
	for version, want := range map[string]string{
		"3.2.22": `{"$unset":{"b.c":true},"$set":{"a":{"$numberInt":"2"},"l":[{"$numberInt":"1"}]}}`,
		"4.4.29": `{"$v":{"$numberInt":"1"},"$unset":{"b.c":true},"$set":{"a":{"$numberInt":"2"},"l":[{"$numberInt":"1"}]}}`,
		"7.0.14": `{"$v":{"$numberInt":"2"},"diff":{"u":{"a":{"$numberInt":"2"}},"sb":{"d":{"c":false}},"sl":{"a":true,"l":{"$numberInt":"1"}}}}`,
	} {
		s := Start(t, Options{Version: version})
		s.Insert("d.c", bson.D{{Key: "_id", Value: 1}, {Key: "a", Value: 1}, {Key: "b", Value: bson.D{{Key: "c", Value: 1}, {Key: "d", Value: 2}}}, {Key: "l", Value: bson.A{1, 2}}})
		s.Update("d.c", 1, bson.D{{Key: "$set", Value: bson.D{{Key: "a", Value: 2}}}, {Key: "$unset", Value: bson.D{{Key: "b.c", Value: 1}}},
			{Key: "$pull", Value: bson.D{{Key: "l", Value: 2}}}})
		log := s.Oplog()
		if got := rawText(log[len(log)-1].Lookup("o").Document()); got != want {
			t.Errorf("%s: %s\nwant %s", version, got, want)
		}
	}
}

// TestGoldenFolder: what a real mongodump wrote is kept and returned byte for byte.
func TestGoldenFolder(t *testing.T) {
	dir := filepath.Join("testdata", "100.10-dir")
	s := Start(t, Options{})
	s.LoadFolder(t, dir)
	c := connect(t, s.URI())
	files := 0
	for _, db := range []string{"girder", "admin"} {
		entries, err := os.ReadDir(filepath.Join(dir, db))
		ok(t, err)
		for _, e := range entries {
			name, isData := strings.CutSuffix(e.Name(), ".bson")
			if !isData {
				continue
			}
			files++
			want, err := os.ReadFile(filepath.Join(dir, db, e.Name()))
			ok(t, err)
			name, err = url.QueryUnescape(name)
			ok(t, err)
			cur, err := c.Database(db).Collection(name).Find(t.Context(), bson.D{})
			ok(t, err)
			var got []byte
			for cur.Next(t.Context()) {
				got = append(got, cur.Current...)
			}
			ok(t, cur.Err())
			if !slices.Equal(got, want) {
				t.Errorf("%s.%s: %d bytes, want %d", db, name, len(got), len(want))
			}
		}
	}
	if files < 8 {
		t.Errorf("%d files", files)
	}
}
