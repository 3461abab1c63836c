package mongo

import (
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/whole-tale/wtsnap/mongo/internal/mongotest"
	"github.com/whole-tale/wtsnap/snapshot"
)

func TestParseReadPreference(t *testing.T) {
	for in, want := range map[string]string{
		"primary":                      "primary",
		"secondaryPreferred":           "secondaryPreferred",
		"nearest:dc=east,use=backup":   "nearest(tagSet=dc=east,use=backup)",
		"secondary:use=":               "secondary(tagSet=use=)",
		"primary:use=backup":           "", // the primary has no choice
		"fastest":                      "",
		"secondary:use":                "",
		"secondary:=x":                 "",
		"nearest:dc=east,,use=backup":  "",
		"Nearest":                      "nearest",
		"":                             "",
		"secondary:dc=east,use=a=b, c": "",
	} {
		p, err := ParseReadPreference(in)
		if got := ""; err == nil {
			got = p.String()
			if got != want {
				t.Errorf("%q is %s, want %s", in, got, want)
			}
		} else if want != "" {
			t.Errorf("%q: %v", in, err)
		}
	}
}

func TestDatabaseOf(t *testing.T) {
	for in, want := range map[string]string{
		"mongodb://h":                  "",
		"mongodb://h/":                 "",
		"mongodb://h/girder":           "girder",
		"mongodb://u:p@h,i:1/a%20b?x=": "a b",
		"mongodb://h/?x=/y":            "",
		"mongodb+srv://u@h/db?":        "db",
	} {
		if got, err := databaseOf(in); err != nil || got != want {
			t.Errorf("%s: %q, %v, want %q", in, got, err, want)
		}
	}
}

func TestDumpCommand(t *testing.T) {
	for in, want := range map[string]string{
		"mongodb://db1,db2:27018/?replicaSet=rs1":                "mongodump --host=rs1/db1,db2:27018 --oplog --archive",
		"mongodb://a:secret@db1/girder?authSource=admin":         "mongodump --host=db1 --username=a --authenticationDatabase=admin --db=girder --archive",
		"mongodb://it%27s:secret@db1/?tls=true&authSource=a%20b": `mongodump --host=db1 '--username=it'\''s' '--authenticationDatabase=a b' --ssl --archive`,
	} {
		db, err := databaseOf(in)
		must(t, err)
		if got := dumpCommand(options.Client().ApplyURI(in), db); got != want || strings.Contains(got, "secret") {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}

func TestPatterns(t *testing.T) {
	for _, bad := range []string{"", "girder", `girder.x\`, `girder.x\\\`} {
		if _, err := ParsePatterns([]string{bad}); err == nil {
			t.Errorf("%q is a pattern", bad)
		}
	}
	_, err := ParsePatterns([]string{"*", "a.*", `a.x\\`, "*.x"})
	must(t, err)
	for _, c := range []struct {
		pattern, db, name string
		want              bool
	}{
		{"*", "a", "b", true},
		{"a.*", "a", "b.c", true},
		{"a.*", "ab", "c", false},
		{"*.c", "a", "b.c", true},
		{"a.b*d", "a", "bcd", true},
		{"a.b*d", "a", "bcde", false},
		{"a.*b*b", "a", "xbxb", true},
		{"a.*b*b", "a", "xb", false},
		{`a.\*`, "a", "*", true},
		{`a.\*`, "a", "x", false},
		{`a.b\\c`, "a", `b\c`, true},
		{"a.b", "a", "b", true},
		{"a.b", "a", "bc", false},
		{"a.**", "a", "", true},
		{strings.Repeat("*a", 30), "a", strings.Repeat("a", 3000) + "b", false},
	} {
		if got := Pattern(c.pattern).Match(c.db, c.name); got != c.want {
			t.Errorf("%s takes %s.%s: %v", c.pattern, c.db, c.name, got)
		}
	}
}

// What mongodump leaves out is left out.
func TestSystemCollections(t *testing.T) {
	for ns, want := range map[string]bool{
		"girder.user": true, "girder.system.views": false, "girder.system.js": true, "girder.system.buckets.x": false, "girder.a$b": false,
		"girder.x.system.y": true, "admin.system.users": true, "admin.system.keys": false, "config.settings": true, "config.transactions": false,
		"local.oplog.rs": false, "__mdb_internal_x.y": false,
	} {
		db, name, _ := strings.Cut(ns, ".")
		if got := (&selection{}).takes(db, name); got != want {
			t.Errorf("%s is taken: %v", ns, got)
		}
	}
	if s := (&selection{database: "config"}); !s.takes("config", "transactions") || s.takes("girder", "user") {
		t.Error("the database config alone")
	}
	if s := (&selection{database: "local"}); !s.takes("local", "startup_log") {
		t.Error("the database local alone")
	}
}

// Sessions that hold a cursor are kept alive.
func TestSessionsAreRefreshed(t *testing.T) {
	s := mongotest.Start(t, mongotest.Options{})
	fill(s, 1)
	server, err := Connect(t.Context(), s.URI(), ConnectOptions{ReadOnly: true})
	must(t, err)
	defer server.Close(t.Context())
	d := newDump(&SourceOptions{}, server, nil, nil, selection{})
	d.refresh(t.Context())
	if n := len(s.Calls("refreshSessions")); n != 0 {
		t.Errorf("%d refreshes of nothing", n)
	}
	sess, err := d.session(true, bson.Timestamp{})
	must(t, err)
	d.refresh(t.Context())
	calls := s.Calls("refreshSessions")
	if len(calls) != 1 {
		t.Fatalf("%d refreshes", len(calls))
	}
	ids, err := calls[0].Body.Lookup("refreshSessions").Array().Values()
	must(t, err)
	if len(ids) != 1 || string(ids[0].Document()) != string(sess.ID()) {
		t.Errorf("refreshed %v", ids)
	}
	d.endSession(t.Context(), sess)
	d.refresh(t.Context())
	if n := len(s.Calls("refreshSessions")); n != 1 {
		t.Errorf("%d refreshes, one of them of a session that ended", n)
	}
}

// A server that is away says so in few words.
func TestNoServer(t *testing.T) {
	_, err := Connect(t.Context(), "mongodb://u:secret@127.0.0.1:1/?serverSelectionTimeoutMS=100", ConnectOptions{})
	if err == nil || strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "Servers:") || !strings.Contains(err.Error(), "127.0.0.1:1: ") {
		t.Errorf("error %v", err)
	}
	s := mongotest.Start(t, mongotest.Options{})
	_, err = Connect(t.Context(), s.URI()+"&serverSelectionTimeoutMS=100", ConnectOptions{ReadPreference: "secondary:use=backup", ReadOnly: true})
	if err == nil || !strings.Contains(err.Error(), "none is a member that was asked for") {
		t.Errorf("error %v", err)
	}
	for _, bad := range []SourceOptions{{Address: "mongodb://h", Order: "size"}, {Address: "mongodb://h", Consistency: "most"},
		{Address: "http://h"}, {Address: "mongodb://h", Member: "a", ReadPreference: "nearest"}, {Address: "mongodb://h/%zz"}} {
		if _, err := NewSource(bad); err == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
	if o := (SourceOptions{Address: "mongodb://h", Order: snapshot.MongoByID}); o.rangesFrom() < rangeBytes {
		t.Error("ranges of small collections")
	}
}
