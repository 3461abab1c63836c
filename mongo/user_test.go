package mongo

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/whole-tale/wtsnap/mongo/layout"
	"github.com/whole-tale/wtsnap/mongo/ownership"
	"github.com/whole-tale/wtsnap/mongo/ownership/girdertest"
	"github.com/whole-tale/wtsnap/snapshot"
)

// wholeTale saves a generated Whole Tale: its database, homes, and the workspaces of tales.
func (v *vault) wholeTale(c *girdertest.Corpus) *snapshot.Snapshot {
	v.t.Helper()
	dump := v.t.TempDir()
	c.Write(v.t, dump)
	homes, tales := map[string]string{}, map[string]string{}
	for _, u := range c.Users {
		homes[u.Login[:1]+"/"+u.Login+"/notes.txt"] = "of " + u.Login
		tales[u.Tales[0].Hex()[:1]+"/"+u.Tales[0].Hex()+"/run.py"] = "tale of " + u.Login
	}
	srv := makeFiles(v.t, tales)
	return v.backup(dumped(dump, nil), folder("homes", makeFiles(v.t, homes)), folder("tales", srv))
}

// keysOf lists the documents of a folder of mongodump's as a corpus does.
func keysOf(t *testing.T, dir string) map[string]bool {
	t.Helper()
	got := map[string]bool{}
	for path, text := range filesOf(t, dir) {
		f := layout.Parse(path)
		if f.Kind != layout.KindData {
			continue
		}
		for rest := []byte(text); len(rest) > 0; {
			doc := bson.Raw(rest)
			n := int(uint32(doc[0]) | uint32(doc[1])<<8 | uint32(doc[2])<<16)
			got[girdertest.Key(f.DB+"."+layout.CollectionName(f.Name), doc[:n])] = true
			rest = rest[n:]
		}
	}
	return got
}

func TestRestoreUserToFolder(t *testing.T) {
	c := girdertest.New("alice", "bob", "carol")
	v := newVault(t)
	s := v.wholeTale(c)
	for _, user := range c.Users {
		u, err := FindUser(t.Context(), v.r, UserOptions{Snapshot: s, User: user.Login, Count: true})
		must(t, err)
		counted := int64(0)
		for _, n := range u.Owned.Counts {
			counted += n.Documents
		}
		if u.Owned.Map.Name != "wholetale" || counted != int64(len(c.Owned[user.Login])) {
			t.Errorf("%s: %d documents by the map %s, and there are %d", user.Login, counted, u.Owned.Map.Name, len(c.Owned[user.Login]))
		}
		var paths []string
		for _, f := range u.Files {
			paths = append(paths, f.Path+" "+f.To)
		}
		tale := user.Tales[0].Hex()
		want := []string{"homes/" + user.Login[:1] + "/" + user.Login + " home", "tales/" + tale[:1] + "/" + tale + " tale/" + tale}
		if diff := cmp.Diff(want, paths); diff != "" || len(u.Absent) != 1 || u.Absent[0].ID != user.Tales[1].Hex() {
			t.Errorf("%s, absent are %v", diff, u.Absent)
		}
		if gap, far := u.Apart(); far || gap > time.Hour || u.Home.IsZero() || u.Documents.IsZero() {
			t.Errorf("documents of %v, home of %v", u.Documents, u.Home)
		}
		dir := filepath.Join(t.TempDir(), "out")
		o := snapshot.RestoreOptions{Target: snapshot.TargetSpec{Kind: snapshot.TargetFolder, Path: dir}, NumericIDs: true, DryRun: true}
		_, err = u.RestoreFolder(t.Context(), o)
		must(t, err)
		if _, err := os.Lstat(dir); err == nil {
			t.Fatal("a dry run writes")
		}
		o.DryRun = false
		for range 2 { // the second time over the first
			rep, err := u.RestoreFolder(t.Context(), o)
			must(t, err)
			if rep.Problems > 0 || len(rep.Files) != 2 || rep.Documents == nil {
				t.Errorf("the report is %+v", rep)
			}
		}
		if diff := cmp.Diff(c.Owned[user.Login], keysOf(t, dir+"/mongo")); diff != "" {
			t.Errorf("%s: -made +restored\n%s", user.Login, diff)
		}
		files := filesOf(t, dir)
		if files["home/notes.txt"] != "of "+user.Login || files["tale/"+tale+"/run.py"] != "tale of "+user.Login {
			t.Errorf("the files are %v", len(files))
		}
		if files["mongo/girder/user.metadata.json"] == "" || files["mongo/girder/token.bson"] != "" {
			t.Error("the metadata is not there, or tokens are")
		}
		// The folder is a dump like any other.
		w := newVault(t)
		if d := w.dump(w.backup(dumped(dir+"/mongo", nil)), "mongo"); d.Collection("girder", "user") == nil {
			t.Error("the folder is no dump")
		}
	}
}

func TestFindUserElsewhere(t *testing.T) {
	c := girdertest.New("alice", "bob")
	dump := t.TempDir()
	c.Write(t, dump)
	v := newVault(t)
	// One label for everything, homes without a letter, and no tales.
	s := v.backup(dumped(dump, nil), folder("data", makeFiles(t, map[string]string{"homes/alice/x": "x", "other/alice/x": "y"})))
	u, err := FindUser(t.Context(), v.r, UserOptions{Snapshot: s, User: "alice"})
	must(t, err)
	if len(u.Files) != 1 || u.Files[0].Path != "data/homes/alice" || len(u.Absent) != 2 {
		t.Errorf("files %+v, absent %+v", u.Files, u.Absent)
	}
	m, err := ownership.Parse([]byte("extends = 'girder'\n[[files]]\nname = 'more'\nof = 'user'\npaths = ['/data/other/{login}']\n"))
	must(t, err)
	u, err = FindUser(t.Context(), v.r, UserOptions{Snapshot: s, User: "alice", Map: m})
	must(t, err)
	if len(u.Files) != 2 || u.Files[1].Path != "data/other/alice" || u.Files[1].To != "more" {
		t.Errorf("files %+v", u.Files)
	}
	var none *ownership.NoUserError
	if _, err := FindUser(t.Context(), v.r, UserOptions{Snapshot: s, User: "zoe"}); !errors.As(err, &none) {
		t.Errorf("nobody: %v", err)
	}
	if _, err := FindUser(t.Context(), v.r, UserOptions{Snapshot: v.backup(folder("homes", golden("3.2.22-dir/d"))), User: "alice"}); err == nil ||
		!strings.Contains(err.Error(), "holds no MongoDB") {
		t.Errorf("no database: %v", err)
	}
}

// TestRestoreUserDamaged loses stored data: the restore fails, and says of what.
func TestRestoreUserDamaged(t *testing.T) {
	c := girdertest.New("alice", "bob")
	v := newUncheckedVault(t)
	s := v.wholeTale(c)
	v.loseData()
	if _, err := FindUser(t.Context(), v.r, UserOptions{Snapshot: s, User: "alice"}); err == nil || !strings.Contains(err.Error(), "girder/user.bson") {
		t.Errorf("the error is %v", err)
	}
}
