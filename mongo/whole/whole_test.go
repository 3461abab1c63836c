package whole_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/whole-tale/wtsnap/mongo/whole"
	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/repo/storage/mem"
	"github.com/whole-tale/wtsnap/repo/storage/storagetest"
	"github.com/whole-tale/wtsnap/snapshot"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(t, os.WriteFile(path, []byte(text), 0o644))
}

type world struct {
	t    *testing.T
	dir  string
	r    *repo.Repository
	time time.Time
}

func newWorld(t *testing.T) *world {
	key, err := repo.NewKeyFile()
	must(t, err)
	r, err := repo.Init(t.Context(), storagetest.NewReferee(t, mem.New()), repo.InitOptions{Password: key})
	must(t, err)
	return &world{t, t.TempDir(), r, time.Date(2026, 11, 20, 3, 0, 0, 0, time.UTC)}
}

func (w *world) backup(instance string, sources ...string) *snapshot.Snapshot {
	w.t.Helper()
	o := snapshot.BackupOptions{Instance: instance, Time: w.time}
	w.time = w.time.Add(time.Hour)
	for _, s := range sources {
		spec, err := snapshot.ParseSource(s)
		must(w.t, err)
		o.Sources = append(o.Sources, spec)
	}
	rep, err := snapshot.Backup(w.t.Context(), w.r, o)
	must(w.t, err)
	return rep.Snapshot
}

func (w *world) plan(o whole.Options) *whole.Plan {
	w.t.Helper()
	o.Instance, o.Journal = "web", filepath.Join(w.dir, "restores.json")
	p, err := whole.NewPlan(w.t.Context(), w.r, o)
	must(w.t, err)
	return p
}

func states(p *whole.Plan) (out []string) {
	for _, part := range p.Parts {
		out = append(out, part.Label+" "+string(part.State))
	}
	return out
}

func same(t *testing.T, got []string, want ...string) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%q, want %q", got, want)
	}
	for i := range got {
		if got[i] != want[i] {
			t.Fatalf("%q, want %q", got, want)
		}
	}
}

func run(ctx context.Context, w *world, p *whole.Plan, before func(label string)) error {
	must(w.t, p.Refused())
	return p.Run(ctx, w.r, func(part *whole.Part, do func(*snapshot.Progress)) {
		if before != nil {
			before(part.Label)
		}
		do(&snapshot.Progress{})
	})
}

// A restore that is interrupted between two parts, in one, and that then finds a target gone, does what is left.
func TestGoesOn(t *testing.T) {
	w := newWorld(t)
	src := filepath.Join(w.dir, "src")
	write(t, src+"/big/f", string(make([]byte, 1<<20)))
	write(t, src+"/small/f", "x")
	write(t, src+"/conf", "c")
	w.backup("web", "conf="+src+"/conf", "big="+src+"/big", "small="+src+"/small")
	w.backup("other", "alien="+src+"/small")
	must(t, os.Rename(src, src+".old"))

	ctx, cancel := context.WithCancel(t.Context())
	p := w.plan(whole.Options{})
	same(t, states(p), "conf planned", "small planned", "big planned")
	err := run(ctx, w, p, func(label string) {
		if label == "small" {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("interrupted: %v", err)
	}
	same(t, states(p), "conf restored", "small failed", "big not_begun")

	// What the interrupted part left is no reason to refuse.
	write(t, src+"/small/f", "x")
	p = w.plan(whole.Options{})
	same(t, states(p), "conf done", "small begun", "big planned")
	must(t, run(t.Context(), w, p, nil))
	same(t, states(p), "conf done", "small restored", "big restored")
	if got, _ := os.ReadFile(src + "/big/f"); len(got) != 1<<20 {
		t.Fatalf("big has %d bytes", len(got))
	}
	must(t, os.RemoveAll(src+"/big"))
	p = w.plan(whole.Options{})
	same(t, states(p), "conf done", "small done", "big planned")
}

// The newest complete snapshot that has a label gives it; a time and a snapshot narrow that.
func TestChooses(t *testing.T) {
	w := newWorld(t)
	src := filepath.Join(w.dir, "src")
	write(t, src+"/a/f", "1")
	write(t, src+"/b/f", "1")
	first := w.backup("web", "a="+src+"/a", "b="+src+"/b")
	write(t, src+"/b/f", "22")
	second := w.backup("web", "b="+src+"/b")
	must(t, os.Rename(src, src+".old"))
	of := func(o whole.Options) (out []string) {
		for _, part := range w.plan(o).Parts {
			out = append(out, part.Label+" "+part.Snapshot.Ref.ID.String())
		}
		return out
	}
	one, two := first.Ref.ID.String(), second.Ref.ID.String()
	same(t, of(whole.Options{}), "a "+one, "b "+two)
	same(t, of(whole.Options{At: second.Time.Add(-time.Second)}), "a "+one, "b "+one)
	same(t, of(whole.Options{Snapshot: second}), "b "+two)
}

// Nothing that is there is written over unasked, and what is refused is refused before anything is written.
func TestRefuses(t *testing.T) {
	w := newWorld(t)
	src := filepath.Join(w.dir, "src")
	write(t, src+"/a/f", "1")
	write(t, src+"/b/f", "1")
	w.backup("web", "a="+src+"/a", "b="+src+"/b")
	must(t, os.Rename(src, src+".old"))
	write(t, src+"/b/mine", "precious")
	guard := func(o whole.Options) bool {
		var e *snapshot.TargetGuardError
		return errors.As(w.plan(o).Refused(), &e)
	}
	if !guard(whole.Options{}) {
		t.Error("a folder that is not empty was not refused")
	}
	must(t, w.plan(whole.Options{Targets: map[string]string{"b": src + "/b"}}).Refused())
	must(t, w.plan(whole.Options{Targets: map[string]string{"b": whole.LeftOut}}).Refused())
	must(t, os.RemoveAll(src+"/b"))
	must(t, os.MkdirAll(src+"/b/lost+found", 0o700))
	must(t, w.plan(whole.Options{}).Refused())
	if !guard(whole.Options{OwnInstance: "db"}) {
		t.Error("another instance's machine was not refused")
	}
	must(t, w.plan(whole.Options{OwnInstance: "db", Into: "db"}).Refused())
	for _, targets := range []map[string]string{{"a": "x", "b": "x"}, {"a": "x", "b": "x/y"}, {"a": "mongodb://h/"}, {"a": "tar:-"}} {
		var e *whole.TargetError
		if err := w.plan(whole.Options{Targets: targets}).Refused(); !errors.As(err, &e) {
			t.Errorf("%v: %v", targets, err)
		}
	}
	if _, err := whole.NewPlan(t.Context(), w.r, whole.Options{Instance: "web", Targets: map[string]string{"c": "x"}}); err == nil {
		t.Error("a label that is not there was not refused")
	}
}
