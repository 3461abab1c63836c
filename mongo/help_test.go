package mongo

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/whole-tale/wtsnap/index"
	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/repo/storage"
	"github.com/whole-tale/wtsnap/repo/storage/mem"
	"github.com/whole-tale/wtsnap/repo/storage/storagetest"
	"github.com/whole-tale/wtsnap/snapshot"
)

// A vault is a repository in memory, refereed, that is checked at the end of the test.
type vault struct {
	t   testing.TB
	r   *repo.Repository
	st  *mem.Storage
	key []byte
	now time.Time
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newVault(t testing.TB) *vault {
	t.Helper()
	v := newUncheckedVault(t)
	t.Cleanup(func() {
		rep, err := v.r.Check(context.Background(), repo.CheckOptions{References: snapshot.References(snapshot.TreeLoader(v.r)), ReadShare: 1})
		if err != nil || len(rep.Problems) > 0 {
			t.Errorf("check at the end: %v, %v", err, rep)
		}
	})
	return v
}

// newUncheckedVault is for tests that damage the repository.
func newUncheckedVault(t testing.TB) *vault {
	t.Helper()
	key, err := repo.NewKeyFile()
	must(t, err)
	v := &vault{t: t, st: mem.New(), key: key, now: time.Date(2026, 11, 20, 3, 0, 0, 0, time.UTC)}
	v.r, err = repo.Init(t.Context(), storagetest.NewReferee(t, v.st), repo.InitOptions{Password: key})
	must(t, err)
	return v
}

// loseData deletes all packs of data, and forgets what was read of them.
func (v *vault) loseData() {
	v.t.Helper()
	must(v.t, v.r.LoadIndex(v.t.Context()))
	var lost []string
	for _, p := range v.r.Index().Packs() {
		if p.Kind == index.Data {
			must(v.t, v.st.List(v.t.Context(), "packs/", func(i storage.Info) error {
				if strings.HasSuffix(i.Name, p.ID.String()) {
					lost = append(lost, i.Name)
				}
				return nil
			}))
		}
	}
	if len(lost) == 0 {
		v.t.Fatal("there are no packs of data")
	}
	for _, name := range lost {
		must(v.t, v.st.Delete(v.t.Context(), name))
	}
	var err error
	v.r, err = repo.Open(v.t.Context(), v.st, repo.OpenOptions{Password: v.key})
	must(v.t, err)
	must(v.t, v.r.LoadIndex(v.t.Context()))
}

// try backs sources up, a day after the last time.
func (v *vault) try(stdin io.Reader, specs ...snapshot.SourceSpec) (*snapshot.BackupReport, *recorder, error) {
	v.t.Helper()
	v.now = v.now.Add(24 * time.Hour)
	mon := &recorder{}
	rep, err := snapshot.Backup(v.t.Context(), v.r, snapshot.BackupOptions{Instance: "test", Sources: specs, Stdin: stdin, Time: v.now,
		Monitor: mon, SampleNights: -1})
	return rep, mon, err
}

// backup backs sources up without any problem.
func (v *vault) backup(specs ...snapshot.SourceSpec) *snapshot.Snapshot {
	v.t.Helper()
	rep, mon, err := v.try(nil, specs...)
	must(v.t, err)
	if rep.Problems > 0 || !rep.Snapshot.Complete {
		v.t.Fatalf("problems: %v", mon.problems)
	}
	return rep.Snapshot
}

// folder is a source of files.
func folder(label, path string) snapshot.SourceSpec {
	return snapshot.SourceSpec{Label: label, Kind: snapshot.SourceFolder, Path: path}
}

// A recorder is a Monitor that keeps what it hears.
type recorder struct {
	mu       sync.Mutex
	problems []string
	notices  []string
}

func (m *recorder) Problem(path string, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.problems = append(m.problems, path+": "+err.Error())
}

func (m *recorder) Notice(path, message string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.notices = append(m.notices, path+": "+message)
}

// golden returns the path of a real dump.
func golden(name string) string { return filepath.Join("testdata", name) }

func readFile(t testing.TB, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	must(t, err)
	return data
}

// documents reads all documents of a collection, end to end.
func documents(t testing.TB, d *Documents) (all []byte) {
	t.Helper()
	for {
		doc, err := d.Next()
		if err == io.EOF {
			break
		}
		must(t, err)
		must(t, doc.Validate())
		all = append(all, doc...)
	}
	must(t, d.Close())
	return all
}
