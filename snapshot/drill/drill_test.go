package drill

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/repo/storage"
	"github.com/whole-tale/wtsnap/repo/storage/mem"
	"github.com/whole-tale/wtsnap/snapshot"
	"github.com/whole-tale/wtsnap/snapshot/localfs"
)

const day = 24 * time.Hour

// yard is a repository with homes and a dump that are backed up into it.
type yard struct {
	t     *testing.T
	r     *repo.Repository
	st    *mem.Storage
	homes string
	dump  string
	key   []byte
	now   time.Time
	seed  uint64
}

func newYard(t *testing.T) *yard {
	t.Helper()
	y := &yard{t: t, st: mem.New(), homes: filepath.Join(t.TempDir(), "homes"), dump: filepath.Join(t.TempDir(), "dump"),
		now: time.Date(2026, 11, 2, 3, 0, 0, 0, time.UTC)}
	var err error
	y.key, err = repo.NewKeyFile()
	y.must(err)
	y.r, err = repo.Init(t.Context(), y.st, repo.InitOptions{Password: y.key})
	y.must(err)
	y.must(os.MkdirAll(y.homes, 0o755))
	return y
}

func (y *yard) must(err error) {
	y.t.Helper()
	if err != nil {
		y.t.Fatal(err)
	}
}

// write makes a file of bytes that depend on its name.
func (y *yard) write(name string, size int) string {
	y.t.Helper()
	path := filepath.Join(y.homes, name)
	y.must(os.MkdirAll(filepath.Dir(path), 0o755))
	data := make([]byte, size)
	var seed [32]byte
	copy(seed[:], name)
	_, _ = rand.NewChaCha8(seed).Read(data)
	y.must(os.WriteFile(path, data, 0o640))
	return path
}

// users makes homes with some files each, of all classes of size but the largest.
func (y *yard) users(n int) {
	for i := range n {
		for j, size := range []int{100, 5000, 20_000, 300_000} {
			y.write(fmt.Sprintf("user%02d/sub/file %d", i, j), size+i)
		}
	}
}

func (y *yard) backup() *snapshot.Snapshot {
	y.t.Helper()
	o := snapshot.BackupOptions{Instance: "web", Time: y.now, SampleNights: -1, Progress: &snapshot.Progress{}, Monitor: &problems{},
		Sources: []snapshot.SourceSpec{{Label: "homes", Kind: snapshot.SourceFolder, Path: y.homes}}}
	if _, err := os.Stat(y.dump); err == nil {
		o.Sources = append(o.Sources, snapshot.SourceSpec{Label: "mongo", Kind: snapshot.SourceFolder, Path: y.dump})
	}
	rep, err := snapshot.Backup(y.t.Context(), y.r, o)
	y.must(err)
	if rep.Problems > 0 {
		y.t.Fatalf("the backup had %d problems", rep.Problems)
	}
	return rep.Snapshot
}

// reopen opens the repository with nothing in memory.
func (y *yard) reopen() {
	y.t.Helper()
	var err error
	y.r, err = repo.Open(y.t.Context(), y.st, repo.OpenOptions{Password: y.key})
	y.must(err)
	y.must(y.r.LoadIndex(y.t.Context()))
}

func (y *yard) options(s *snapshot.Snapshot) Options {
	y.t.Helper()
	records, err := Records(y.t.Context(), y.r, "web")
	y.must(err)
	y.seed++
	return Options{Newest: s, Ledger: records, Now: y.now, Live: map[string]string{"homes": y.homes}, Rand: rand.New(rand.NewPCG(1, y.seed)),
		Documents: count}
}

// drill does a drill, notes it, and fails where anything is left in the scratch folder.
func (y *yard) drill(o Options) *Report {
	y.t.Helper()
	base := y.t.TempDir()
	path, remove, err := NewScratch(base)
	y.must(err)
	o.Scratch = path
	rep, err := Run(y.t.Context(), y.r, o)
	y.must(err)
	left, err := os.ReadDir(path)
	y.must(err)
	if len(left) != 1 { // the lock
		y.t.Errorf("left in the scratch folder: %v", left)
	}
	y.must(remove())
	if left, err := os.ReadDir(base); err != nil || len(left) != 0 {
		y.t.Errorf("left beside the scratch folder: %v, %v", left, err)
	}
	y.must(Write(y.t.Context(), y.r, o, rep, ""))
	return rep
}

type badDocument struct{ error }

func (badDocument) Malformed() bool { return true }

// count takes each line for a document; one that begins with ! is none.
func count(_ context.Context, r io.Reader) (int64, error) {
	data, err := io.ReadAll(r)
	if err != nil {
		return 0, err
	}
	if i := bytes.IndexByte(data, '!'); i >= 0 {
		return 0, badDocument{fmt.Errorf("document %d is none", 1+bytes.Count(data[:i], []byte("\n")))}
	}
	return int64(bytes.Count(data, []byte("\n"))), nil
}

func (y *yard) names(rep *Report, old bool) (out []string) {
	for _, u := range rep.Units {
		if u.Old == old {
			out = append(out, u.Path)
		}
	}
	slices.Sort(out)
	return out
}

func TestDrill(t *testing.T) {
	y := newYard(t)
	y.users(3)
	y.write("loose", 50)
	y.write("user00/[odd] *name\\?", 70)
	y.write("user00/ends with ", 70)
	y.write("user00/two\nlines", 70)
	y.must(os.Mkdir(filepath.Join(y.homes, "empty"), 0o755))
	s := y.backup()
	rep := y.drill(y.options(s))
	if want := []string{"homes/.", "homes/empty", "homes/user00", "homes/user01", "homes/user02"}; !slices.Equal(y.names(rep, false), want) {
		t.Errorf("drilled %v, want %v", y.names(rep, false), want)
	}
	if rep.Files != 16 || rep.Live.Equal != 16 || rep.Bad != 0 || rep.Bytes < 3*325_100 {
		t.Errorf("%+v", rep)
	}
	if c := rep.Coverage; c.Units != 5 || c.InTime != 5 || len(c.Overdue) != 0 || !c.Next.Equal(y.now.Add(7*day)) {
		t.Errorf("%+v", c)
	}
	// A day later nothing is due; a week later everything is.
	y.now = y.now.Add(day)
	if rep := y.drill(y.options(s)); len(rep.Units) != 0 {
		t.Errorf("a day later: %v", y.names(rep, false))
	}
	y.now = y.now.Add(5 * day)
	if rep := y.drill(y.options(s)); len(rep.Units) != 5 {
		t.Errorf("six days later: %v", y.names(rep, false))
	}
}

// What changed since, is gone or was changed with its time set back is counted, and is no mismatch.
func TestDrillLive(t *testing.T) {
	y := newYard(t)
	for _, name := range []string{"a/same", "a/grown", "a/touched", "a/gone", "a/sneaky"} {
		y.write(name, 1000)
	}
	s := y.backup()
	path := func(name string) string { return filepath.Join(y.homes, "a", name) }
	y.must(os.WriteFile(path("grown"), make([]byte, 2000), 0o640))
	y.must(os.Chtimes(path("touched"), time.Now(), time.Now().Add(time.Hour)))
	y.must(os.Remove(path("gone")))
	fi, err := os.Stat(path("sneaky"))
	y.must(err)
	y.must(os.WriteFile(path("sneaky"), make([]byte, 1000), 0o640))
	y.must(os.Chtimes(path("sneaky"), fi.ModTime(), fi.ModTime()))
	rep := y.drill(y.options(s))
	if want := (Live{Equal: 1, Changed: 3, Gone: 1}); rep.Live != want || rep.Bad != 0 {
		t.Errorf("%+v, %v; want %+v", rep.Live, rep.Mismatches, want)
	}
}

// A live file with other bytes of which even the change time is that of the backup is a mismatch: of the disk, or of what was
// saved.
func TestDrillLiveMismatch(t *testing.T) {
	y := newYard(t)
	path := y.write("a/x", 1000)
	s := y.backup()
	n, err := snapshot.Lookup(t.Context(), y.r, s, "homes/a/x")
	y.must(err)
	restored := filepath.Join(t.TempDir(), "x")
	data, err := os.ReadFile(path)
	y.must(err)
	y.must(os.WriteFile(restored, data, 0o600))
	fi, err := os.Stat(path)
	y.must(err)
	data[500]++
	y.must(os.WriteFile(path, data, 0o640))
	y.must(os.Chtimes(path, fi.ModTime(), fi.ModTime()))
	d := &runner{Options: y.options(s), r: y.r, rep: &Report{}}
	task := &task{snap: s, unit: unit{Path: "homes/a", label: "homes"}}
	if err := d.live(t.Context(), task, restored, sampled{"x", n}); err != nil || d.rep.Live.Changed != 1 {
		t.Errorf("a later change time: %v, %+v", err, d.rep.Live)
	}
	m, err := localfs.Stat(path)
	y.must(err)
	as := *n
	as.CTime = m.CTime // as if nothing had been noticed
	if err := d.live(t.Context(), task, restored, sampled{"x", &as}); err == nil || !strings.Contains(err.Error(), "has other bytes") {
		t.Errorf("%v, want a mismatch", err)
	}
}

// What is on the disk after a restore is compared with what the snapshot recorded, whatever the restore said.
func TestDrillRecorded(t *testing.T) {
	y := newYard(t)
	path := y.write("a/x", 200_000)
	s := y.backup()
	n, err := snapshot.Lookup(t.Context(), y.r, s, "homes/a/x")
	y.must(err)
	d := &runner{Options: y.options(s), r: y.r, rep: &Report{}}
	y.must(d.recorded(t.Context(), path, n))
	for name, spoil := range map[string]func(string) error{
		"are not those":     func(p string) error { return patch(p, 150_000) },
		"another modific":   func(p string) error { return os.Chtimes(p, time.Now(), time.Unix(0, n.MTime+1)) },
		"bytes instead":     func(p string) error { return os.Truncate(p, 1000) },
		"mode 0600 instead": func(p string) error { return os.Chmod(p, 0o600) },
		"was not restored":  os.Remove,
		"a symbolic link":   func(p string) error { return errors.Join(os.Remove(p), os.Symlink(path, p)) },
	} {
		bad := filepath.Join(t.TempDir(), "x")
		data, err := os.ReadFile(path)
		y.must(err)
		y.must(errors.Join(os.WriteFile(bad, data, 0o640), os.Chmod(bad, 0o640), os.Chtimes(bad, time.Now(), time.Unix(0, n.MTime)), spoil(bad)))
		if name == "are not those" {
			y.must(os.Chtimes(bad, time.Now(), time.Unix(0, n.MTime)))
		}
		if err := d.recorded(t.Context(), bad, n); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%v, want %q", err, name)
		}
	}
}

func patch(path string, at int64) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], at); err != nil {
		return err
	}
	b[0]++
	_, err = f.WriteAt(b[:], at)
	return err
}

// Damage to what is stored is found, named, and does not count as drilled.
func TestDrillDamage(t *testing.T) {
	for _, how := range []string{"flipped", "gone"} {
		t.Run(how, func(t *testing.T) {
			y := newYard(t)
			y.users(2)
			s := y.backup()
			var packs []string
			y.must(y.st.List(t.Context(), "packs/", func(i storage.Info) error { packs = append(packs, i.Name); return nil }))
			spoiled := 0
			for _, name := range packs {
				data, err := y.st.Get(t.Context(), name, 0, -1, nil)
				y.must(err)
				if len(data) < 200_000 { // of trees
					continue
				}
				spoiled++
				y.must(y.st.Delete(t.Context(), name))
				if how == "flipped" {
					for i := 0; i < len(data); i += 1000 {
						data[i] ^= 1
					}
					_, err = y.st.Put(t.Context(), name, data)
					y.must(err)
				}
			}
			if spoiled == 0 {
				t.Fatal("no pack of data")
			}
			y.reopen()
			rep := y.drill(y.options(s))
			if rep.Bad == 0 || rep.Damaged == 0 || len(rep.Mismatches) == 0 || !strings.HasPrefix(rep.Mismatches[0].Path, "homes/user0") {
				t.Fatalf("%+v", rep)
			}
			records, err := Records(t.Context(), y.r, "web")
			y.must(err)
			if len(records) != 1 || len(records[0].Drilled) != 0 || records[0].Bad != rep.Bad {
				t.Errorf("the ledger: %+v", records)
			}
			if got := StillWrong(records, y.now); !slices.Equal(got, []string{"homes/user00", "homes/user01"}) {
				t.Errorf("still wrong: %v", got)
			}
			mended := append(records, Record{Time: y.now, Drilled: []Drilled{{Unit: "homes/user01"}}})
			if got := StillWrong(mended, y.now); !slices.Equal(got, []string{"homes/user00"}) {
				t.Errorf("still wrong, when one was drilled again: %v", got)
			}
			if got := StillWrong(records, y.now.Add(31*day)); len(got) != 0 {
				t.Errorf("still wrong after a month: %v", got)
			}
		})
	}
}

// Over weeks, with a budget that is not enough for all at once, every user is drilled every week, of the oldest snapshot too,
// and no drill goes beyond its budget.
func TestDrillWeeks(t *testing.T) {
	y := newYard(t)
	y.users(20)
	oldest := y.backup()
	y.now = y.now.Add(7 * day)
	y.users(24)
	newest := y.backup()
	const budget = 3_000_000
	times := map[bool]map[string][]time.Time{false: {}, true: {}}
	start := y.now
	for range 21 {
		y.now = y.now.Add(day)
		y.reopen()
		o := y.options(newest)
		o.Oldest, o.Budget = oldest, budget
		rep := y.drill(o)
		if rep.Bytes > budget {
			t.Errorf("%v: %d bytes, beyond the budget", y.now, rep.Bytes)
		}
		if rep.Bad != 0 || len(rep.Coverage.Overdue) != 0 {
			t.Errorf("%v: %d mismatches, overdue: %v", y.now, rep.Bad, rep.Coverage.Overdue)
		}
		for _, u := range rep.Units {
			if u.Skipped != "" || u.Files == 0 {
				t.Errorf("%v: %+v", y.now, u)
			}
			times[u.Old][u.Path] = append(times[u.Old][u.Path], y.now)
		}
	}
	for old, want := range map[bool]int{false: 24, true: 20} {
		if len(times[old]) != want {
			t.Errorf("oldest %v: %d users were drilled, want %d", old, len(times[old]), want)
		}
		for unit, at := range times[old] {
			last := start
			for _, x := range append(at, y.now) {
				if x.Sub(last) > 7*day {
					t.Errorf("oldest %v, %s: no drill from %v to %v", old, unit, last, x)
				}
				last = x
			}
		}
	}
	records, err := Records(t.Context(), y.r, "web")
	y.must(err)
	if len(records) != 21 {
		t.Errorf("%d records", len(records))
	}
}

// A budget that is too small is noticed.
func TestDrillOverdue(t *testing.T) {
	y := newYard(t)
	y.users(2)
	s := y.backup()
	y.write("large/file", 500_000)
	s = y.backup()
	run := func() *Report {
		o := y.options(s)
		o.Budget = 1_000_000
		return y.drill(o)
	}
	rep := run()
	i := slices.IndexFunc(rep.Units, func(u Unit) bool { return u.Path == "homes/large" })
	if i < 0 || rep.Units[i].Skipped == "" || len(rep.Coverage.Overdue) != 0 {
		t.Fatalf("%+v", rep)
	}
	y.now = y.now.Add(8 * day)
	rep = run()
	if o := rep.Coverage.Overdue; len(o) != 1 || o[0].Unit != "homes/large" || !o[0].Time.IsZero() || rep.Coverage.InTime != 2 {
		t.Errorf("%+v", rep.Coverage)
	}
	list, c, err := Covered(t.Context(), y.r, y.options(s))
	y.must(err)
	if len(list) != 3 || len(c.Overdue) != 1 {
		t.Errorf("%v, %+v", list, c)
	}
}

func TestDrillCollections(t *testing.T) {
	y := newYard(t)
	y.users(1)
	y.must(os.MkdirAll(filepath.Join(y.dump, "girder"), 0o755))
	for name, text := range map[string]string{"user.bson": "a\nb\n", "item.bson": "a\nb\nc\n", "bad.bson": "a\n!\n", "user.metadata.json": "{}"} {
		y.must(os.WriteFile(filepath.Join(y.dump, "girder", name), []byte(text), 0o644))
	}
	y.must(os.WriteFile(filepath.Join(y.dump, "oplog.bson"), []byte("x\n"), 0o644))
	s := y.backup()
	s.Source("mongo").Kind = snapshot.SourceMongo // as package mongo saves it
	rep := y.drill(y.options(s))
	if rep.Collections != 4 || rep.Documents != 6 || rep.Bad != 1 || rep.Damaged != 0 || rep.Mismatches[0].Unit != "mongo/girder/bad.bson" ||
		!strings.Contains(rep.Mismatches[0].Error, "document 2 is none") {
		t.Errorf("%+v", rep)
	}
	if !slices.Contains(y.names(rep, false), "mongo/girder/.") {
		t.Errorf("the metadata were not drilled: %v", y.names(rep, false))
	}
	// What came back is not due again; what did not, is.
	y.now = y.now.Add(day)
	if rep := y.drill(y.options(s)); !slices.Equal(y.names(rep, false), []string{"mongo/girder/bad.bson"}) {
		t.Errorf("a day later: %v", y.names(rep, false))
	}
}

// The documents of a database are as many as the manifest counted; what was not decoded as a whole is not compared.
func TestDrillCounts(t *testing.T) {
	y := newYard(t)
	y.users(1)
	for name, text := range map[string]string{"girder/user.bson": "a\nb\n", "girder/item.bson": "a\nb\nc\n", "other/x.bson": "a\n"} {
		y.must(os.MkdirAll(filepath.Dir(filepath.Join(y.dump, name)), 0o755))
		y.must(os.WriteFile(filepath.Join(y.dump, name), []byte(text), 0o644))
	}
	s := y.backup()
	src := s.Source("mongo")
	src.Kind = snapshot.SourceMongo
	info := &snapshot.MongoInfo{Role: snapshot.MongoDump, Databases: []snapshot.MongoDatabase{{Name: "girder", Documents: 5}, {Name: "other", Documents: 1}}}
	src.Mongo = info
	if rep := y.drill(y.options(s)); rep.Bad != 0 || rep.Documents != 6 {
		t.Fatalf("%+v", rep)
	}
	info.Databases[0].Documents = 7
	o := y.options(s)
	o.Only = []string{"mongo/girder/user.bson"}
	if rep := y.drill(o); rep.Bad != 0 {
		t.Errorf("a part of a database was compared with all of it: %+v", rep.Mismatches)
	}
	o = y.options(s)
	o.Only = []string{"mongo"}
	rep := y.drill(o)
	if rep.Bad != 1 || rep.Damaged != 0 || rep.Mismatches[0].Unit != "mongo/girder" || !strings.Contains(rep.Mismatches[0].Error, "have 5 documents, and the manifest counted 7") {
		t.Errorf("%+v", rep)
	}
	if got, want := StillWrong(y.options(s).Ledger, y.now), []string{"mongo/girder/item.bson", "mongo/girder/user.bson"}; !slices.Equal(got, want) {
		t.Errorf("%v count as wrong, want %v", got, want)
	}
}

func TestUnits(t *testing.T) {
	y := newYard(t)
	for _, name := range []string{"a/alice/x", "a/anna/x", "b/bob/x", "b/notes", "top"} {
		y.write(name, 10)
	}
	s := y.backup()
	o := y.options(s)
	o.Depth = map[string]int{"homes": 2}
	if got, want := y.names(y.drill(o), false), []string{"homes/.", "homes/a/alice", "homes/a/anna", "homes/b/.", "homes/b/bob"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	o = y.options(s)
	o.Depth, o.Only = map[string]int{"homes": 2}, []string{"homes/a/"}
	if got, want := y.names(y.drill(o), false), []string{"homes/a/alice", "homes/a/anna"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	o = y.options(s)
	o.Only = []string{"homes/c"}
	if _, err := MakePlan(t.Context(), y.r, o); err == nil {
		t.Error("a unit that is not there was taken")
	}
}

// What a killed drill left is removed by the next one, and what another one is doing is left alone.
func TestScratch(t *testing.T) {
	base := t.TempDir()
	first, remove, err := NewScratch(base)
	if err != nil {
		t.Fatal(err)
	}
	dead := filepath.Join(base, scratchPrefix+"dead")
	locked := filepath.Join(dead, "0/home")
	other := filepath.Join(base, "other")
	if err := errors.Join(os.MkdirAll(locked, 0o700), os.WriteFile(filepath.Join(locked, "secret"), []byte("x"), 0o600), os.Chmod(locked, 0o500),
		os.Mkdir(other, 0o700)); err != nil {
		t.Fatal(err)
	}
	second, removeSecond, err := NewScratch(base)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{first: true, second: true, dead: false, other: true} {
		if _, err := os.Stat(path); (err == nil) != want {
			t.Errorf("%s: there: %v, want %v", path, err == nil, want)
		}
	}
	if fi, err := os.Stat(first); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("others can read it: %v", fi.Mode())
	}
	if err := errors.Join(remove(), removeSecond()); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(base); len(left) != 1 {
		t.Errorf("left: %v", left)
	}
}

// A drill that is interrupted ends with the interruption, and leaves nothing either.
func TestDrillInterrupted(t *testing.T) {
	y := newYard(t)
	y.users(3)
	s := y.backup()
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("stop")
	o := y.options(s)
	base := t.TempDir()
	path, remove, err := NewScratch(base)
	y.must(err)
	o.Scratch = path
	o.OnUnit = func(done, _ int, _ int64) {
		if done == 1 {
			cancel(why)
		}
	}
	rep, err := Run(ctx, y.r, o)
	if err == nil || len(rep.Units) != 1 {
		t.Errorf("%v after %d units", err, len(rep.Units))
	}
	if left, err := os.ReadDir(path); err != nil || len(left) != 1 {
		t.Errorf("left: %v, %v", left, err)
	}
	y.must(remove())
}

func TestKeep(t *testing.T) {
	y := newYard(t)
	y.users(1)
	s := y.backup()
	for i := range 120 { // half of them about another user, who has left since
		y.now = y.now.Add(day)
		rep := &Report{Units: []Unit{{Path: fmt.Sprint("homes/user", i/60)}}}
		y.must(Write(t.Context(), y.r, y.options(s), rep, ""))
	}
	raw, err := y.r.Ledger(t.Context(), repo.LedgerDrill)
	y.must(err)
	if len(raw) < 90 || len(raw) == 120 {
		t.Errorf("%d records are there", len(raw))
	}
	if n := len(Keep(y.now)(raw)); n != 90 {
		t.Errorf("%d records are kept", n)
	}
	if n := len(Keep(y.now.Add(200 * day))(raw)); n != 2 { // of each unit the newest
		t.Errorf("%d records are kept after 200 days", n)
	}
}
