package mongo

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/whole-tale/wtsnap/mongo/internal/mongotest"
	"github.com/whole-tale/wtsnap/snapshot"
)

// account is a user or a role, as a server keeps it.
func account(name, db, secret string) bson.D {
	return bson.D{{Key: "_id", Value: db + "." + name}, {Key: "user", Value: name}, {Key: "db", Value: db}, {Key: "credentials", Value: secret}}
}

// found is what is to say of each collection that is not equal.
func found(rep *Comparison) map[string]ComparedDocuments {
	out := map[string]ComparedDocuments{}
	for _, c := range rep.Collections {
		if !c.Equal() {
			out[c.Namespace] = c.Documents
		}
	}
	return out
}

// TestCompareUsers: users and roles are compared, as far as the dump may have them.
func TestCompareUsers(t *testing.T) {
	s := mongotest.Start(t, mongotest.Options{})
	fill(s, 3)
	s.Insert("admin.system.users", account("alice", "admin", "hush"), account("bob", "girder", "hush"), account("carol", "girder", "hush"))
	v := newVault(t)
	snap := v.backup(native(t, SourceOptions{Address: s.URI()}))
	compare := func(uri string, r *Restorer, path string) *Comparison {
		t.Helper()
		return v.compare(uri, r, snapshot.RestoreOptions{Snapshot: snap, Path: path})
	}
	if rep := compare(s.URI(), &Restorer{}, ""); !rep.Equal || rep.Documents.Equal != 3+3+1+3 {
		t.Errorf("%+v", rep)
	}
	s.Update("admin.system.users", "girder.bob", account("bob", "girder", "other"))
	s.Delete("admin.system.users", "girder.carol")
	s.Insert("admin.system.users", account("dave", "admin", "hush"))
	s.Insert("admin.system.roles", account("reader", "girder", ""))
	want := map[string]ComparedDocuments{"admin.system.users": {Equal: 1, Differ: 1, Missing: 1, Extra: 1}, "admin.system.roles": {Extra: 1}}
	rep := compare(s.URI(), &Restorer{}, "")
	if diff := cmp.Diff(want, found(rep)); diff != "" || rep.Equal {
		t.Errorf("-want +got\n%s", diff)
	}
	for _, c := range rep.Collections {
		for _, e := range c.Examples {
			if strings.Contains(e.ID, "hush") {
				t.Errorf("a secret is shown: %v", e)
			}
		}
	}
	// Where they are not asked for, or not in what is compared, they do not count.
	for name, rep := range map[string]*Comparison{
		"no users":     compare(s.URI(), &Restorer{NoUsers: true}, ""),
		"one database": compare(s.URI(), &Restorer{}, "mongo/girder"),
		"chosen":       compare(s.URI(), &Restorer{Include: []Pattern{"girder.*"}}, ""),
		"left out":     compare(s.URI(), &Restorer{Exclude: []Pattern{"admin.*"}}, ""),
		"in the URI":   compare(strings.Replace(s.URI(), "/?", "/girder?", 1), &Restorer{}, ""),
	} {
		if !rep.Equal {
			t.Errorf("%s: %+v", name, found(rep))
		}
	}
	// What may not be read is said, and the rest is compared.
	s.Fail("find", "admin.system.users", 0, mongotest.Outcome{Error: mongotest.Unauthorized})
	s.Fail("count", "admin.system.roles", 0, mongotest.Outcome{Error: mongotest.Unauthorized})
	rep = compare(s.URI(), &Restorer{}, "")
	if n := len(found(rep)); n != 1 || rep.Equal || rep.Documents.Equal != 7 {
		t.Errorf("%+v", rep)
	}
	for _, c := range rep.Collections {
		if c.Namespace == "admin.system.users" && !strings.Contains(c.Error, "--no-users") {
			t.Errorf("error %q", c.Error)
		}
	}
}

// TestCompareUsersOfDatabase: what mongodump --dumpDbUsersAndRoles wrote is compared with the users of that database.
func TestCompareUsersOfDatabase(t *testing.T) {
	s := mongotest.Start(t, mongotest.Options{})
	s.Insert("d.c", item(1, "x"))
	s.Insert("admin.system.users", account("alice", "admin", "hush"), account("bob", "d", "hush"))
	user, err := bson.Marshal(account("bob", "d", "hush"))
	must(t, err)
	row, err := bson.Marshal(item(1, "x"))
	must(t, err)
	v := newVault(t)
	snap := v.backup(dumped(makeFiles(t, map[string]string{"d/c.bson": string(row), "d/$admin.system.users.bson": string(user)}), nil))
	for _, path := range []string{"", "mongo/d"} {
		if rep := v.compare(s.URI(), &Restorer{}, snapshot.RestoreOptions{Snapshot: snap, Path: path}); !rep.Equal || rep.Documents.Equal != 2 {
			t.Errorf("%q: %+v", path, rep)
		}
	}
	s.Insert("admin.system.users", account("carol", "d", "hush"))
	rep := v.compare(s.URI(), &Restorer{}, snapshot.RestoreOptions{Snapshot: snap})
	if diff := cmp.Diff(map[string]ComparedDocuments{"admin.system.users": {Equal: 1, Extra: 1}}, found(rep)); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

// TestCompareExtra: databases and views that only the server has are reported where a whole server was saved, and only what
// the backup was asked for.
func TestCompareExtra(t *testing.T) {
	s := mongotest.Start(t, mongotest.Options{})
	fill(s, 3)
	s.Insert("girder.token", doc(1))
	v := newVault(t)
	save := func(uri string, o SourceOptions) *snapshot.Snapshot {
		o.Address = uri
		return v.backup(native(t, o))
	}
	girder := strings.Replace(s.URI(), "/?", "/girder?", 1)
	one := save(girder, SourceOptions{})
	without := save(s.URI(), SourceOptions{Exclude: []string{"girder.token", "later.b"}})
	whole := save(s.URI(), SourceOptions{})
	s.Insert("later.a", doc(1), doc(2))
	s.Insert("later.b", doc(1))
	s.Insert("girder.new", doc(1))
	s.Create("girder.shown", bson.D{{Key: "viewOn", Value: "user"}, {Key: "pipeline", Value: bson.A{}}})
	in := func(snap *snapshot.Snapshot, uri, path string) map[string]ComparedDocuments {
		t.Helper()
		return found(v.compare(uri, &Restorer{}, snapshot.RestoreOptions{Snapshot: snap, Path: path}))
	}
	newer := map[string]ComparedDocuments{"girder.new": {Extra: 1}, "girder.shown": {}}
	all := map[string]ComparedDocuments{"girder.new": {Extra: 1}, "girder.shown": {}, "later.a": {Extra: 2}, "later.b": {Extra: 1}}
	less := map[string]ComparedDocuments{"girder.new": {Extra: 1}, "girder.shown": {}, "later.a": {Extra: 2}}
	for name, c := range map[string]struct{ want, got map[string]ComparedDocuments }{
		"whole":                      {all, in(whole, s.URI(), "")},
		"a database of it":           {newer, in(whole, s.URI(), "mongo/girder")},
		"a database by the URI":      {newer, in(whole, girder, "")},
		"one database was saved":     {newer, in(one, s.URI(), "")},
		"some were left out":         {less, in(without, s.URI(), "")},
		"and in a part":              {newer, in(without, s.URI(), "mongo/girder")},
		"one collection":             {map[string]ComparedDocuments{}, in(whole, s.URI(), "mongo/girder/item.bson")},
		"nothing where it was saved": {map[string]ComparedDocuments{}, in(whole, s.URI(), "mongo/other")},
	} {
		if diff := cmp.Diff(c.want, c.got); diff != "" {
			t.Errorf("%s: -want +got\n%s", name, diff)
		}
	}
	// Of mongodump's dumps, the version of the form of users tells those of a whole server from others.
	data, err := bson.Marshal(doc(1))
	must(t, err)
	for _, everything := range []bool{true, false} {
		files := map[string]string{"other/thing.bson": string(data)}
		if everything {
			files["admin/system.version.bson"] = string(data)
		}
		w := newVault(t)
		rep := w.compare(s.URI(), &Restorer{}, snapshot.RestoreOptions{Snapshot: w.backup(dumped(makeFiles(t, files), nil))})
		if _, ok := found(rep)["later.a"]; ok != everything {
			t.Errorf("%v: %v", everything, found(rep))
		}
	}
}
