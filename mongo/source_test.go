package mongo

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/whole-tale/wtsnap/mongo/internal/mongotest"
	"github.com/whole-tale/wtsnap/snapshot"
)

// native is a source that is a server.
func native(t testing.TB, o SourceOptions) snapshot.SourceSpec {
	t.Helper()
	o.SpoolDir = t.TempDir()
	s, err := NewSource(o)
	must(t, err)
	return snapshot.SourceSpec{Label: "mongo", Kind: snapshot.SourceMongo, Path: snapshot.RedactURI(o.Address), Stream: s}
}

// onCommand is OnCommand for a hook that is called by one connection at a time.
func onCommand(s *mongotest.Server, h mongotest.Hook) {
	var mu sync.Mutex
	s.OnCommand(func(c mongotest.Call) *mongotest.Outcome {
		mu.Lock()
		defer mu.Unlock()
		return h(c)
	})
}

func doc(id int, more ...bson.E) bson.D {
	return append(bson.D{{Key: "_id", Value: int32(id)}}, more...)
}

// biography is text of 4 KiB, so that a collection of some thousand documents takes several batches.
func biography(i int) string {
	b := make([]byte, 0, 4<<10)
	for x := uint64(i)*0x9e3779b97f4a7c15 + 1; len(b) < cap(b); x = x*6364136223846793005 + 1442695040888963407 {
		b = append(b, "abcdefghijklmnop"[x>>60], ' ')
	}
	return string(b)
}

// fill makes a database of some collections. More than a thousand documents of user are more than one batch.
func fill(s *mongotest.Server, n int) {
	for i := range n {
		s.Insert("girder.user", doc(i, bson.E{Key: "login", Value: fmt.Sprint("user", i)}, bson.E{Key: "bio", Value: biography(i)}))
		s.Insert("girder.item", doc(i, bson.E{Key: "name", Value: strings.Repeat("x", i%50)}))
	}
	s.Insert("other.thing", doc(1))
}

// What a real server's dump by mongodump was, a dump of the same server is, to the byte.
func TestDumpEqualsMongodumps(t *testing.T) {
	s := mongotest.Start(t, mongotest.Options{})
	s.LoadFolder(t, golden("100.10-dir"))
	v := newVault(t)
	snap := v.backup(native(t, SourceOptions{Address: s.URI()}))
	want, got := filesOf(t, golden("100.10-dir")), v.files(snap, "mongo")
	delete(want, "oplog.bson")
	delete(got, "prelude.json")
	delete(got, "oplog.bson") // one collection is capped
	if len(want) < 15 {
		t.Fatalf("only %d files to compare with", len(want))
	}
	names := slices.Sorted(maps.Keys(want))
	if diff := cmp.Diff(names, slices.Sorted(maps.Keys(got))); diff != "" {
		t.Fatalf("the files (-mongodump +wtsnap):\n%s", diff)
	}
	for _, name := range names {
		w, g := want[name], got[name]
		if strings.HasSuffix(name, ".metadata.json") { // of the server that was dumped then
			w, g = withoutUUID(t, w), withoutUUID(t, g)
		}
		if w != g {
			t.Errorf("%s differs:\n%q\n%q", name, w, g)
		}
	}
	m := snap.Source("mongo").Mongo
	if m == nil || m.Consistency != snapshot.MongoWindow || m.Start.IsZero() || m.Server != "7.0.14" || m.Set != "rs0" ||
		m.Member != s.Addr(0) || m.Order != snapshot.MongoNatural || m.Documents() == 0 {
		t.Errorf("the manifest says %+v", m)
	}
}

func withoutUUID(t testing.TB, text string) string {
	t.Helper()
	head, rest, ok := strings.Cut(text, `"uuid":"`)
	if !ok {
		return text
	}
	_, tail, ok := strings.Cut(rest, `",`)
	if !ok {
		t.Fatalf("metadata %s", text)
	}
	return head + tail
}

// A night in which nothing changed stores nothing, and says so.
func TestUnchangedDump(t *testing.T) {
	s := mongotest.Start(t, mongotest.Options{})
	fill(s, 2000)
	v := newVault(t)
	v.backup(native(t, SourceOptions{Address: s.URI()}))
	rep, _, err := v.try(nil, native(t, SourceOptions{Address: s.URI()}))
	must(t, err)
	if rep.Files.Unchanged != 7 || rep.Files.Changed != 0 || rep.Files.New != 0 || rep.Blobs.New > 1 { // the root: its time of reading
		t.Errorf("files %+v, blobs %+v", rep.Files, rep.Blobs)
	}
	if got := rep.Snapshot.Source("mongo").Mongo.Documents(); got != 4001 {
		t.Errorf("%d documents", got)
	}
}

// All documents are as of one moment, whatever is written while they are read.
func TestSnapshotUnderWrites(t *testing.T) {
	s := mongotest.Start(t, mongotest.Options{})
	fill(s, 1500)
	v := newVault(t)
	var mu sync.Mutex // commands come over several connections
	n := 0
	onCommand(s, func(c mongotest.Call) *mongotest.Outcome {
		if c.Name == "getMore" || c.Name == "find" {
			mu.Lock()
			defer mu.Unlock()
			n++
			s.Insert("girder.user", doc(10_000+n))
			s.Insert("girder.item", doc(10_000+n))
			s.Update("girder.user", int32(7), bson.D{{Key: "$set", Value: bson.D{{Key: "n", Value: int32(n)}}}})
			s.Delete("girder.item", int32(n))
		}
		return nil
	})
	snap := v.backup(native(t, SourceOptions{Address: s.URI()}))
	m := snap.Source("mongo").Mongo
	if m.Consistency != snapshot.MongoSnapshot || n < 5 {
		t.Fatalf("%+v after %d writes", m, n)
	}
	at := bson.Timestamp{T: m.Start.T, I: m.Start.I}
	files := v.files(snap, "mongo")
	for _, ns := range []string{"girder.user", "girder.item", "other.thing"} {
		var want []byte
		for _, d := range s.DocumentsAt(ns, at) {
			want = append(want, d...)
		}
		if got := files[strings.Replace(ns, ".", "/", 1)+".bson"]; got != string(want) || len(want) == 0 {
			t.Errorf("%s is not as of %v: %d bytes, want %d", ns, m.Start, len(got), len(want))
		}
	}
}

// window returns the entries of a dump's oplog.bson.
func window(t testing.TB, data string) (entries []bson.Raw) {
	t.Helper()
	for rest := []byte(data); len(rest) > 0; {
		e := bson.Raw(rest[:int(rest[0])|int(rest[1])<<8|int(rest[2])<<16])
		must(t, e.Validate())
		entries = append(entries, e)
		rest = rest[len(e):]
	}
	return entries
}

// checkWindow compares a dump's oplog.bson with the server's oplog.
func checkWindow(t testing.TB, s *mongotest.Server, m *snapshot.MongoInfo, data string) {
	t.Helper()
	if m.Consistency != snapshot.MongoWindow || m.Start.IsZero() || m.End.Compare(m.Start) <= 0 {
		t.Fatalf("the manifest says %+v", m)
	}
	var want [][]byte
	for _, e := range s.Oplog() {
		sec, inc := e.Lookup("ts").Timestamp()
		if ts := (snapshot.Timestamp{T: sec, I: inc}); ts.Compare(m.Start) >= 0 && ts.Compare(m.End) <= 0 {
			want = append(want, e)
		}
	}
	if got := bytes.Join(want, nil); string(got) != data || len(want) < 2 {
		t.Errorf("oplog.bson has %d bytes, the oplog %d in %d entries from %v to %v", len(data), len(got), len(want), m.Start, m.End)
	}
	if len(window(t, data)) != len(want) {
		t.Error("oplog.bson has another number of entries")
	}
}

func TestWindowUnderWrites(t *testing.T) {
	for name, o := range map[string]SourceOptions{"4.4": {}, "7.0": {Consistency: snapshot.MongoWindow}} {
		t.Run(name, func(t *testing.T) {
			s := mongotest.Start(t, mongotest.Options{Version: name + ".1"})
			fill(s, 1500)
			n := 0
			onCommand(s, func(c mongotest.Call) *mongotest.Outcome {
				if c.Name == "getMore" && c.DB == "girder" {
					n++
					s.Insert("girder.user", doc(10_000+n))
				}
				return nil
			})
			v := newVault(t)
			o.Address = s.URI()
			rep, mon, err := v.try(nil, native(t, o))
			must(t, err)
			if o.Consistency == "" && !strings.Contains(strings.Join(mon.notices, "\n"), "older than 5.0") {
				t.Errorf("notices: %q", mon.notices)
			}
			files := v.files(rep.Snapshot, "mongo")
			m := rep.Snapshot.Source("mongo").Mongo
			checkWindow(t, s, m, files["oplog.bson"])
			if n < 1 || m.Documents() < 3001 {
				t.Errorf("%d writes, %d documents", n, m.Documents())
			}
		})
	}
}

// A server that keeps too little of its history makes the dump go on by the oplog; what was read stays.
func TestSnapshotTooOld(t *testing.T) {
	s := mongotest.Start(t, mongotest.Options{})
	fill(s, 3000)
	done := false
	onCommand(s, func(c mongotest.Call) *mongotest.Outcome {
		if c.Name == "getMore" && c.Collection == "user" && !done {
			done = true
			s.Insert("girder.user", doc(90_000+c.Count))
			return &mongotest.Outcome{Error: mongotest.SnapshotTooOld}
		}
		return nil
	})
	v := newVault(t)
	rep, mon, err := v.try(nil, native(t, SourceOptions{Address: s.URI()}))
	must(t, err)
	if !rep.Snapshot.Complete || !strings.Contains(strings.Join(mon.notices, "\n"), "minSnapshotHistoryWindowInSeconds") {
		t.Errorf("complete %v, notices %q", rep.Snapshot.Complete, mon.notices)
	}
	files := v.files(rep.Snapshot, "mongo")
	checkWindow(t, s, rep.Snapshot.Source("mongo").Mongo, files["oplog.bson"])

	v.backup(native(t, SourceOptions{Address: s.URI(), Consistency: snapshot.MongoSnapshot}))
	done = false
	rep, mon, err = v.try(nil, native(t, SourceOptions{Address: s.URI(), Consistency: snapshot.MongoSnapshot}))
	if err == nil && rep.Snapshot.Complete {
		t.Errorf("a snapshot that the server could not give: %v", mon.notices)
	}
}

// Collections that go while they are read.
func TestCatalogChanges(t *testing.T) {
	for name, c := range map[string]struct {
		change func(s *mongotest.Server)
		o      SourceOptions
		want   snapshot.MongoConsistency
		again  bool
		files  string // that is there at the end
	}{
		"dropped":                {func(s *mongotest.Server) { s.Drop("girder.user") }, SourceOptions{}, snapshot.MongoWindow, false, "girder/item.bson"},
		"dropped, only snapshot": {func(s *mongotest.Server) { s.Drop("girder.user") }, SourceOptions{Consistency: snapshot.MongoSnapshot}, snapshot.MongoSnapshot, true, "girder/item.bson"},
		"renamed":                {func(s *mongotest.Server) { s.Rename("girder.user", "girder.people", false) }, SourceOptions{}, snapshot.MongoSnapshot, true, "girder/people.bson"},
		"renamed in a window": {func(s *mongotest.Server) { s.Rename("girder.user", "girder.people", false) }, SourceOptions{Consistency: snapshot.MongoWindow},
			snapshot.MongoWindow, true, "girder/people.bson"},
		"made and renamed in a window": {func(s *mongotest.Server) {
			s.Insert("girder.tmp", doc(1))
			s.Rename("girder.tmp", "girder.out", false)
		}, SourceOptions{Consistency: snapshot.MongoWindow}, snapshot.MongoWindow, false, "girder/user.bson"},
		"created": {func(s *mongotest.Server) { s.Insert("girder.new", doc(1)) }, SourceOptions{}, snapshot.MongoSnapshot, false, "girder/user.bson"},
	} {
		t.Run(name, func(t *testing.T) {
			s := mongotest.Start(t, mongotest.Options{})
			fill(s, 2000)
			changed := false
			onCommand(s, func(call mongotest.Call) *mongotest.Outcome {
				if call.Name == "getMore" && call.DB == "girder" && !changed {
					changed = true
					c.change(s)
				}
				return nil
			})
			v := newVault(t)
			c.o.Address = s.URI()
			rep, mon, err := v.try(nil, native(t, c.o))
			must(t, err)
			m := rep.Snapshot.Source("mongo").Mongo
			again := strings.Contains(strings.Join(mon.notices, "\n"), "read again")
			if !changed || !rep.Snapshot.Complete || m.Consistency != c.want || again != c.again {
				t.Errorf("changed %v, complete %v, %s, again %v: %q", changed, rep.Snapshot.Complete, m.Consistency, again, mon.notices)
			}
			if files := v.files(rep.Snapshot, "mongo"); files[c.files] == "" {
				t.Errorf("no %s", c.files)
			} else if m.Consistency == snapshot.MongoWindow && !again {
				checkWindow(t, s, m, files["oplog.bson"])
			}
		})
	}
}

// A dump that is disturbed each time is given up, not passed off as whole.
func TestRenamedEachTime(t *testing.T) {
	s := mongotest.Start(t, mongotest.Options{})
	fill(s, 2000)
	names := []string{"girder.user", "girder.people"}
	onCommand(s, func(c mongotest.Call) *mongotest.Outcome {
		if c.Name == "getMore" && c.DB == "girder" && c.Collection != "item" {
			s.Rename(names[0], names[1], false)
			slices.Reverse(names)
		}
		return nil
	})
	v := newVault(t)
	rep, mon, err := v.try(nil, native(t, SourceOptions{Address: s.URI(), Consistency: snapshot.MongoWindow}))
	if err == nil && rep.Snapshot.Complete || len(mon.notices) != maxAttempts-1 {
		t.Errorf("%v; notices %q, problems %q", err, mon.notices, mon.problems)
	}
}

func TestRolledOver(t *testing.T) {
	s := mongotest.Start(t, mongotest.Options{})
	fill(s, 2000)
	onCommand(s, func(c mongotest.Call) *mongotest.Outcome {
		if c.Name == "find" && c.Collection == "oplog.rs" && c.Body.Lookup("tailable").Type == bson.TypeBoolean {
			s.Insert("girder.user", doc(50_000+c.Count))
			s.TrimOplog(s.Now())
		}
		return nil
	})
	v := newVault(t)
	rep, _, err := v.try(nil, native(t, SourceOptions{Address: s.URI(), Consistency: snapshot.MongoWindow}))
	if err == nil && rep.Snapshot.Complete {
		t.Fatal("a dump without a part of its window is complete")
	}
	if text := fmt.Sprint(err, rep.Errors); !strings.Contains(text, "too small for what is written") {
		t.Errorf("error %s", text)
	}
}

// An election, a lost connection, a lost cursor: the collection is read again, or all of it.
func TestDisturbances(t *testing.T) {
	for name, outcome := range map[string]mongotest.Outcome{
		"dropped before":   {Drop: mongotest.DropBefore},
		"dropped in reply": {Drop: mongotest.DropInReply, Bytes: 100},
		"cursor not found": {Error: mongotest.CursorNotFound},
		"interrupted":      {Error: mongotest.Interrupted},
	} {
		t.Run(name, func(t *testing.T) {
			s := mongotest.Start(t, mongotest.Options{})
			fill(s, 3000)
			for n := 1; n <= 3; n++ {
				remove := s.Fail("getMore", "", n, outcome)
				v := newVault(t)
				snap := v.backup(native(t, SourceOptions{Address: s.URI()}))
				if m := snap.Source("mongo").Mongo; m.Documents() != 6001 || m.Consistency != snapshot.MongoSnapshot {
					t.Errorf("failure %d: %+v", n, m)
				}
				remove()
			}
		})
	}
}

// A member that goes away for good is replaced by another one.
func TestElection(t *testing.T) {
	s := mongotest.Start(t, mongotest.Options{Members: 3})
	fill(s, 3000)
	first := true
	onCommand(s, func(c mongotest.Call) *mongotest.Outcome {
		if c.Name == "getMore" && first {
			first = false
			s.StepDown(1)
			go s.Stop(0)
			return &mongotest.Outcome{Drop: mongotest.DropBefore}
		}
		return nil
	})
	v := newVault(t)
	rep, mon, err := v.try(nil, native(t, SourceOptions{Address: s.URI() + "&serverSelectionTimeoutMS=3000"}))
	must(t, err)
	m := rep.Snapshot.Source("mongo").Mongo
	if first || !rep.Snapshot.Complete || m.Member != s.Addr(1) || m.Documents() != 6001 {
		t.Errorf("%+v; %q %q", m, mon.notices, mon.problems)
	}
}

// The member that was read last time is read again, as long as it may be.
func TestSameMember(t *testing.T) {
	s := mongotest.Start(t, mongotest.Options{Members: 3, Tags: []bson.D{{{Key: "use", Value: "app"}}, {{Key: "use", Value: "backup"}}, {{Key: "use", Value: "app"}}}})
	fill(s, 10)
	v := newVault(t)
	member := func(o SourceOptions) string {
		o.Address = s.URI()
		return v.backup(native(t, o)).Source("mongo").Mongo.Member
	}
	for i, step := range []struct {
		o    SourceOptions
		want int
	}{
		{SourceOptions{}, 0},
		{SourceOptions{ReadPreference: "secondary:use=backup"}, 1},
		{SourceOptions{}, 1},
		{SourceOptions{Member: s.Addr(2)}, 2},
		{SourceOptions{ReadPreference: "nearest:use=app"}, 2},
		{SourceOptions{ReadPreference: "primary"}, 0},
	} {
		if got := member(step.o); got != s.Addr(step.want) {
			t.Errorf("step %d: %s was read, want %s", i, got, s.Addr(step.want))
		}
	}
}

// A member that is none of the set any more is not waited for.
func TestPastMemberGone(t *testing.T) {
	s := mongotest.Start(t, mongotest.Options{Members: 2})
	fill(s, 1)
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	var asked atomic.Int64
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := gone.Accept()
			if err != nil {
				return
			}
			asked.Add(1)
			_ = conn.Close()
		}
	}()
	server, err := Connect(t.Context(), s.URI(), ConnectOptions{ReadOnly: true, Past: gone.Addr().String()})
	must(t, err)
	server.Close(t.Context())
	must(t, gone.Close())
	<-done
	if asked.Load() != 0 || server.Member != s.Addr(0) {
		t.Errorf("%d attempts to reach it, and %s was read", asked.Load(), server.Member)
	}
	for member, want := range map[string]bool{"DB1:27017": true, "db2:27017": true, "db3:27017": false, "": false} {
		if h := (helloReply{Hosts: []string{"db1:27017"}, Passives: []string{"db2:27017"}}); h.mayHave(member) != want {
			t.Errorf("%q may be a member: %v", member, !want)
		}
	}
}

func TestSelection(t *testing.T) {
	s := mongotest.Start(t, mongotest.Options{})
	fill(s, 3)
	s.Insert("girder.item.old", doc(1))
	v := newVault(t)
	for _, c := range []struct {
		o    SourceOptions
		path string
		want string
	}{
		{SourceOptions{}, "", "girder/item girder/item.old girder/user other/thing"},
		{SourceOptions{Include: []string{"girder.*"}}, "", "girder/item girder/item.old girder/user"},
		{SourceOptions{Include: []string{"girder.*"}, Exclude: []string{"*.item*"}}, "", "girder/user"},
		{SourceOptions{Exclude: []string{"girder.item"}}, "", "girder/item.old girder/user other/thing"},
		{SourceOptions{}, "other", "other/thing"},
	} {
		c.o.Address = strings.Replace(s.URI(), "/?", "/"+c.path+"?", 1)
		spec := native(t, c.o)
		v.now = v.now.AddDate(0, 0, 1)
		rep, err := snapshot.Backup(t.Context(), v.r, snapshot.BackupOptions{Instance: "test", Sources: []snapshot.SourceSpec{spec}, Time: v.now, AllowShrink: true})
		must(t, err)
		var got []string
		for _, name := range slices.Sorted(maps.Keys(v.files(rep.Snapshot, "mongo"))) {
			if name, ok := strings.CutSuffix(name, ".bson"); ok {
				got = append(got, name)
			}
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%+v saved %v, want %s", c.o, got, c.want)
		}
	}
}

func TestShrunkenServer(t *testing.T) {
	for name, change := range map[string]func(*mongotest.Server){
		"a database is gone": func(s *mongotest.Server) { s.DropDatabase("other") },
		"empty": func(s *mongotest.Server) {
			s.DropDatabase("girder")
			s.DropDatabase("other")
		},
		"half of the documents": func(s *mongotest.Server) { s.Drop("girder.user") },
	} {
		t.Run(name, func(t *testing.T) {
			s := mongotest.Start(t, mongotest.Options{})
			fill(s, 200)
			for i := range 300 {
				s.Insert("girder.user", doc(1000+i))
			}
			v := newVault(t)
			v.backup(native(t, SourceOptions{Address: s.URI()}))
			change(s)
			_, _, err := v.try(nil, native(t, SourceOptions{Address: s.URI()}))
			if guard, ok := errors.AsType[*snapshot.GuardError](err); !ok {
				t.Errorf("error %v, %v", err, guard)
			}
		})
	}
}

func TestStandalone(t *testing.T) {
	s := mongotest.Start(t, mongotest.Options{Role: mongotest.Standalone})
	fill(s, 10)
	v := newVault(t)
	rep, mon, err := v.try(nil, native(t, SourceOptions{Address: s.URI()}))
	must(t, err)
	if m := rep.Snapshot.Source("mongo").Mongo; m.Consistency != snapshot.MongoNone || len(mon.notices) != 1 || !strings.Contains(mon.notices[0], "standalone") {
		t.Errorf("%+v, notices %q", m, mon.notices)
	}
	if _, _, err := v.try(nil, native(t, SourceOptions{Address: s.URI(), Consistency: snapshot.MongoSnapshot})); err == nil {
		t.Error("a snapshot of a standalone server")
	}
}

func TestSharded(t *testing.T) {
	s := mongotest.Start(t, mongotest.Options{Role: mongotest.Mongos})
	fill(s, 1500)
	v := newVault(t)
	if m := v.backup(native(t, SourceOptions{Address: s.URI()})).Source("mongo").Mongo; m.Consistency != snapshot.MongoSnapshot || m.Documents() != 3001 {
		t.Errorf("%+v", m)
	}
	s.Fail("getMore", "", 0, mongotest.Outcome{Error: mongotest.SnapshotTooOld})
	rep, _, err := v.try(nil, native(t, SourceOptions{Address: s.URI()}))
	if err == nil && rep.Snapshot.Complete {
		t.Error("half a snapshot is complete")
	}
}

func TestPasswords(t *testing.T) {
	s := mongotest.Start(t, mongotest.Options{User: "backup", Password: "s3cr3t/p@ss"})
	fill(s, 10)
	v := newVault(t)
	host := s.Addr(0) + "/?replicaSet=rs0"
	v.backup(native(t, SourceOptions{Address: "mongodb://backup:s3cr3t%2Fp%40ss@" + host}))
	v.backup(native(t, SourceOptions{Address: "mongodb://backup@" + host, Password: "s3cr3t/p@ss"}))

	for _, bad := range []string{"mongodb://backup:wr0ng@" + host, "mongodb://backup:wr0ng%zz@" + host, "mongodb://backup:wr0ng/x@" + host} {
		source, err := NewSource(SourceOptions{Address: bad, SpoolDir: t.TempDir()})
		if err == nil {
			spec := snapshot.SourceSpec{Label: "m2", Kind: snapshot.SourceMongo, Path: snapshot.RedactURI(bad), Stream: source}
			_, _, err = v.try(nil, spec)
		}
		if err == nil || strings.Contains(err.Error(), "wr0ng") {
			t.Errorf("%s: error %v", bad, err)
		}
	}
}

func TestOldServer(t *testing.T) {
	s := mongotest.Start(t, mongotest.Options{Version: "3.2.22"})
	v := newVault(t)
	_, _, err := v.try(nil, native(t, SourceOptions{Address: s.URI()}))
	if old, ok := errors.AsType[*TooOldError](err); !ok || !strings.Contains(old.Error(), "older than MongoDB 4.4") ||
		old.Command != "mongodump --host=rs0/"+s.Addr(0)+" --oplog --archive" {
		t.Errorf("error %v, %+v", err, old)
	}
}

func TestUnauthorizedCollection(t *testing.T) {
	s := mongotest.Start(t, mongotest.Options{})
	fill(s, 10)
	s.Fail("find", "girder.item", 0, mongotest.Outcome{Error: mongotest.Unauthorized})
	v := newVault(t)
	rep, mon, err := v.try(nil, native(t, SourceOptions{Address: s.URI(), Consistency: snapshot.MongoWindow}))
	must(t, err)
	if rep.Problems != 1 || !strings.Contains(mon.problems[0], "girder/item.bson") {
		t.Errorf("problems %q", mon.problems)
	}
	if files := v.files(rep.Snapshot, "mongo"); files["girder/user.bson"] == "" || files["girder/item.metadata.json"] != "" {
		t.Errorf("files %v", slices.Sorted(maps.Keys(files)))
	}
}
