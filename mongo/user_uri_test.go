package mongo

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/whole-tale/wtsnap/mongo/internal/mongotest"
	"github.com/whole-tale/wtsnap/mongo/ownership/girdertest"
	"github.com/whole-tale/wtsnap/snapshot"
)

// without is what Girder leaves of a corpus when it deletes a user: what lies below the user's folders is gone; tales,
// their folders and groups stay, and name the user no more.
func without(t *testing.T, c *girdertest.Corpus, u girdertest.User) map[string][]bson.Raw {
	t.Helper()
	out := map[string][]bson.Raw{}
	gone := 0
	for ns, docs := range c.Documents {
		for _, raw := range docs {
			stays := ns == "girder.tale" || ns == "girder.folder" && raw.Lookup("baseParentType").StringValue() == "collection"
			if c.Owned[u.Login][girdertest.Key(ns, raw)] && !stays {
				gone++
				continue
			}
			out[ns] = append(out[ns], forget(t, raw, u.ID))
		}
	}
	if gone < 50 {
		t.Fatalf("only %d documents are deleted", gone)
	}
	return out
}

// forget takes a user out of a document as Girder does.
func forget(t *testing.T, raw bson.Raw, id bson.ObjectID) bson.Raw {
	t.Helper()
	var doc bson.D
	must(t, bson.Unmarshal(raw, &doc))
	for i, e := range doc {
		switch e.Key {
		case "creatorId":
			if e.Value == id {
				doc[i].Value = nil
			}
		case "requests":
			doc[i].Value = slices.DeleteFunc(slices.Clone(e.Value.(bson.A)), func(v any) bool { return v == id })
		case "access":
			access := e.Value.(bson.D)
			access[0].Value = slices.DeleteFunc(slices.Clone(access[0].Value.(bson.A)), func(v any) bool { return v.(bson.D)[0].Value == id })
		}
	}
	out, err := bson.Marshal(doc)
	must(t, err)
	return out
}

// inOrder puts the lists of a document in order: what was put back into one is at its end.
func inOrder(t *testing.T, raw bson.Raw) string {
	t.Helper()
	var doc bson.D
	must(t, bson.Unmarshal(raw, &doc))
	for i, e := range doc {
		if e.Key == "access" {
			list := e.Value.(bson.D)[0].Value.(bson.A)
			slices.SortFunc(list, func(a, b any) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
			doc[i].Value.(bson.D)[0].Value = list
		}
	}
	text, err := bson.MarshalExtJSON(doc, true, false)
	must(t, err)
	return string(text)
}

// load inserts documents.
func load(t *testing.T, s *Server, docs map[string][]bson.Raw) {
	t.Helper()
	for ns, list := range docs {
		f := girdertest.Namespace(ns)
		if len(list) > 0 {
			_, err := s.Client.Database(f[0]).Collection(f[1]).InsertMany(t.Context(), list)
			must(t, err)
		}
	}
}

// state reads all documents of the corpus' collections, by namespace and _id.
func state(t *testing.T, s *Server, c *girdertest.Corpus) map[string]string {
	t.Helper()
	out := map[string]string{}
	for ns := range c.Documents {
		f := girdertest.Namespace(ns)
		cur, err := s.Client.Database(f[0]).Collection(f[1]).Find(t.Context(), bson.D{})
		must(t, err)
		for cur.Next(t.Context()) {
			out[girdertest.Key(ns, cur.Current)] = inOrder(t, cur.Current)
		}
		must(t, cur.Err())
	}
	return out
}

// made is the state that the corpus has.
func made(t *testing.T, docs map[string][]bson.Raw) map[string]string {
	t.Helper()
	out := map[string]string{}
	for ns, list := range docs {
		for _, raw := range list {
			out[girdertest.Key(ns, raw)] = inOrder(t, raw)
		}
	}
	return out
}

// TestRestoreUserToURI deletes a user as Girder does, and restores her: everything is as it was, but for the lists of
// documents that others own, which are only put right if that is asked for.
func TestRestoreUserToURI(t *testing.T) {
	servers := map[string]func(t *testing.T) string{
		"fake":     func(t *testing.T) string { return mongotest.Start(t, mongotest.Options{}).URI() },
		"ferretdb": func(t *testing.T) string { return mongotest.Ferret(t) },
	}
	for name, start := range servers {
		t.Run(name, func(t *testing.T) {
			c := girdertest.New("alice", "bob", "carol")
			alice := c.Users[0]
			v := newVault(t)
			snap := v.wholeTale(c)
			uri := start(t)
			s, err := Connect(t.Context(), uri, ConnectOptions{})
			must(t, err)
			defer s.Close(t.Context())
			left := without(t, c, alice)
			load(t, s, left)
			before := state(t, s, c)

			u, err := FindUser(t.Context(), v.r, UserOptions{Snapshot: snap, User: "alice"})
			must(t, err)
			restore := func(target UserTarget, dry bool) *UserReport {
				t.Helper()
				mon := &recorder{}
				rep, err := u.RestoreURI(t.Context(), snapshot.RestoreOptions{Target: snapshot.TargetSpec{Kind: snapshot.TargetMongoDB, Path: uri},
					DryRun: dry, Monitor: mon, Progress: &snapshot.Progress{}}, target)
				must(t, err)
				if rep.Problems > 0 {
					t.Fatalf("problems: %v", mon.problems)
				}
				return rep
			}
			totals := func(rep *UserReport) (f FixCount) {
				for _, x := range rep.Fixes {
					f.Fixed, f.Fine, f.Others, f.Gone, f.Failed = f.Fixed+x.Fixed, f.Fine+x.Fine, f.Others+x.Others, f.Gone+x.Gone, f.Failed+x.Failed
				}
				return f
			}
			dry := restore(UserTarget{}, true)
			if diff := cmp.Diff(before, state(t, s, c)); diff != "" {
				t.Fatalf("a dry run changed:\n%s", diff)
			}
			rep := restore(UserTarget{}, false)
			want := made(t, c.Documents)
			for _, raw := range c.Documents["girder.instance"] { // never restored, nor repaired
				key := girdertest.Key("girder.instance", raw)
				want[key] = before[key]
			}
			whole := maps.Clone(want)
			others := map[string]bool{} // documents that others own and that alice was in
			for ns, docs := range c.Documents {
				for _, raw := range docs {
					key := girdertest.Key(ns, raw)
					if owner, ok := raw.Lookup("creatorId").ObjectIDOK(); ok && owner != alice.ID && !c.Owned["alice"][key] && before[key] != want[key] {
						others[key] = true
						want[key] = before[key]
					}
				}
			}
			if len(others) < 10 {
				t.Fatalf("alice is in only %d documents of others", len(others))
			}
			if diff := cmp.Diff(want, state(t, s, c)); diff != "" {
				t.Errorf("-wanted +restored\n%s", diff)
			}
			a, b := totals(dry), totals(rep)
			if dry.Mongo.Documents.Inserted != rep.Mongo.Documents.Inserted || rep.Mongo.Documents.Inserted < 50 {
				t.Errorf("a dry run inserts %d documents, the run %d", dry.Mongo.Documents.Inserted, rep.Mongo.Documents.Inserted)
			}
			// What a dry run finds gone is inserted by the run, and fine.
			if a.Fixed != b.Fixed || a.Fixed < 10 || b.Others != a.Others || b.Others < int64(len(others)) || b.Fine != a.Fine+a.Gone || b.Gone != 0 || b.Failed != 0 {
				t.Errorf("a dry run repairs %+v, the run %+v", a, b)
			}
			if again := totals(restore(UserTarget{}, false)); again.Fixed != 0 {
				t.Errorf("a second run repairs %+v", again)
			}
			restore(UserTarget{Shares: true}, false)
			if diff := cmp.Diff(whole, state(t, s, c)); diff != "" {
				t.Errorf("with shares: -made +restored\n%s", diff)
			}
		})
	}
}

// TestRestoreUserRefused does nothing where another user has the name, or the address names a database.
func TestRestoreUserRefused(t *testing.T) {
	c := girdertest.New("alice", "bob")
	v := newVault(t)
	snap := v.wholeTale(c)
	server := mongotest.Start(t, mongotest.Options{})
	s, err := Connect(t.Context(), server.URI(), ConnectOptions{})
	must(t, err)
	defer s.Close(t.Context())
	stranger, err := bson.Marshal(bson.D{{Key: "_id", Value: 1}, {Key: "login", Value: "other"}, {Key: "email", Value: "alice@example.org"}})
	must(t, err)
	load(t, s, map[string][]bson.Raw{"girder.user": {stranger}})
	u, err := FindUser(t.Context(), v.r, UserOptions{Snapshot: snap, User: "alice"})
	must(t, err)
	restore := func(uri string) error {
		_, err := u.RestoreURI(t.Context(), snapshot.RestoreOptions{Target: snapshot.TargetSpec{Kind: snapshot.TargetMongoDB, Path: uri},
			Monitor: &recorder{}, Progress: &snapshot.Progress{}}, UserTarget{})
		return err
	}
	var guard *snapshot.TargetGuardError
	if err := restore(server.URI()); !errors.As(err, &guard) || strings.Contains(err.Error(), girdertest.Secret) {
		t.Errorf("another alice: %v", err)
	}
	var spec *snapshot.TargetSpecError
	if err := restore(strings.Replace(server.URI(), "/?", "/girder?", 1)); !errors.As(err, &spec) {
		t.Errorf("with a database: %v", err)
	}
	if n := len(server.Documents("girder.folder")); n > 0 {
		t.Errorf("%d folders were inserted", n)
	}
}
