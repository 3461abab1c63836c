package witness

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/repo/storage"
	"github.com/whole-tale/wtsnap/repo/storage/mem"
	"github.com/whole-tale/wtsnap/snapshot"
)

// view is a backend that shows less than there is.
type view struct {
	*mem.Storage
	hidden func(name string) bool // from listings
	broken error                  // what asking for an object by its name ends with
}

func (v *view) List(ctx context.Context, prefix string, fn func(storage.Info) error) error {
	return v.Storage.List(ctx, prefix, func(i storage.Info) error {
		if v.hidden != nil && v.hidden(i.Name) {
			return nil
		}
		return fn(i)
	})
}

func (v *view) Stat(ctx context.Context, name string) (storage.Info, error) {
	if v.broken != nil {
		return storage.Info{}, v.broken
	}
	return v.Storage.Stat(ctx, name)
}

// world is a repository with nights of one instance, and a machine that remembers.
type world struct {
	t    *testing.T
	view *view
	key  []byte
	dir  string
	now  time.Time
	told []Missing
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, view: &view{Storage: mem.New()}, dir: t.TempDir(), now: time.Date(2026, 11, 20, 3, 0, 0, 0, time.UTC)}
	var err error
	w.key, err = repo.NewKeyFile()
	w.must(err)
	_, err = repo.Init(t.Context(), w.view, repo.InitOptions{Password: w.key})
	w.must(err)
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// open opens the repository with the machine's witness.
func (w *world) open() (*repo.Repository, *Witness) {
	w.t.Helper()
	r, err := repo.Open(w.t.Context(), w.view, repo.OpenOptions{Password: w.key})
	w.must(err)
	wit, err := Open(r, filepath.Join(w.dir, "state", "seen.json"), func() time.Time { return w.now }, func(m Missing) { w.told = append(w.told, m) })
	w.must(err)
	return r, wit
}

// night saves a file.
func (w *world) night() repo.SnapshotRef {
	w.t.Helper()
	w.now = w.now.Add(24 * time.Hour)
	home := filepath.Join(w.dir, "home")
	w.must(os.MkdirAll(home, 0o700))
	w.must(os.WriteFile(filepath.Join(home, "file"), []byte(w.now.String()), 0o600))
	r, wit := w.open()
	rep, err := snapshot.Backup(w.t.Context(), r, snapshot.BackupOptions{Instance: "web", Time: w.now,
		Sources: []snapshot.SourceSpec{{Label: "home", Kind: snapshot.SourceFolder, Path: home}}})
	w.must(err)
	w.must(wit.Save())
	return rep.Snapshot.Ref
}

// look lists the snapshots and returns what is missed.
func (w *world) look() []Missing {
	w.t.Helper()
	w.told = nil
	r, wit := w.open()
	_, err := r.Snapshots(w.t.Context())
	w.must(err)
	w.must(wit.Save())
	return wit.Missing()
}

func (w *world) wantMissing(when string, ids ...repo.SnapshotID) {
	w.t.Helper()
	got := w.look()
	if len(got) != len(ids) || len(w.told) != len(ids) {
		w.t.Fatalf("%s: %v is missed, %v is told, want %v", when, got, w.told, ids)
	}
	for i, id := range ids {
		if got[i].Ref.ID != id {
			w.t.Errorf("%s: %v is missed, want %v", when, got[i], id)
		}
	}
}

// Whoever takes the newest snapshot away is found out, again and again, until it is back.
func TestTakenAway(t *testing.T) {
	w := newWorld(t)
	w.night()
	newest := w.night()
	w.wantMissing("before")
	data, err := w.view.Get(t.Context(), newest.Name(), 0, -1, nil)
	w.must(err)
	w.must(w.view.Delete(t.Context(), newest.Name()))
	w.wantMissing("taken away", newest.ID)
	w.wantMissing("the next day", newest.ID)
	w.night()
	w.wantMissing("after another night", newest.ID)
	if _, err := w.view.Put(t.Context(), newest.Name(), data); err != nil {
		t.Fatal(err)
	}
	w.wantMissing("it is back")
}

// A listing that lags behind is no alarm, and nor is a backend that does not answer: what cannot be found out stays as it is, and is
// found out later.
func TestNoFalseAlarm(t *testing.T) {
	w := newWorld(t)
	w.night()
	newest := w.night()
	w.view.hidden = func(name string) bool { return strings.Contains(name, newest.ID.String()) }
	w.wantMissing("a listing that lags behind")
	w.view.broken = errors.New("no route to host")
	w.wantMissing("it cannot be asked for")
	w.must(w.view.Delete(t.Context(), newest.Name()))
	w.wantMissing("it is gone, and cannot be asked for")
	w.view.hidden, w.view.broken = nil, nil
	w.wantMissing("it is gone", newest.ID)
}

// What is forgotten by its name is told to the machines that have seen it, and explains no other absence.
func TestNamed(t *testing.T) {
	w := newWorld(t)
	first := w.night()
	newest := w.night()
	r, err := repo.Open(t.Context(), w.view, repo.OpenOptions{Password: w.key}) // another machine
	w.must(err)
	w.must(r.ForgetNamed(t.Context(), []repo.SnapshotRef{newest}, "it was a test"))
	w.must(w.view.Delete(t.Context(), strings.Replace(newest.Name(), "snapshots/", "forgotten/", 1))) // swept
	w.wantMissing("forgotten by its name")
	w.now = w.now.Add(time.Hour)
	r, wit := w.open()
	_, err = r.Snapshots(t.Context())
	w.must(err)
	wit.Learn(t.Context())
	w.must(wit.Save())
	w.must(w.view.Delete(t.Context(), first.Name()))
	w.now = w.now.Add(72 * time.Hour)
	w.wantMissing("the one before it is taken away", first.ID)
}

// Of a file that cannot be read nothing is concluded: the machine remembers anew.
func TestFileThatCannotBeRead(t *testing.T) {
	w := newWorld(t)
	newest := w.night()
	path := filepath.Join(w.dir, "state", "seen.json")
	w.must(os.WriteFile(path, []byte("{"), 0o600))
	r, err := repo.Open(t.Context(), w.view, repo.OpenOptions{Password: w.key})
	w.must(err)
	wit, err := Open(r, path, time.Now, nil)
	if err == nil {
		t.Error("a file that cannot be read is no error")
	}
	_, err = r.Snapshots(t.Context())
	w.must(err)
	wit.Learn(t.Context())
	w.must(wit.Save())
	w.must(w.view.Delete(t.Context(), newest.Name()))
	w.wantMissing("after it has remembered anew", newest.ID)
}
