package snapshot

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/repo/storage/count"
	"github.com/whole-tale/wtsnap/snapshot/localfs"
)

// random makes a file of bytes that do not compress.
func (v *vault) random(name string, size int) {
	v.t.Helper()
	h := fnv.New64a()
	h.Write([]byte(name))
	v.write(name, string(noise(size, h.Sum64())))
}

// night runs a backup with a budget in a process of its own, as it were, and returns what it uploaded.
func (v *vault) night(budget int64) (*BackupReport, int64) {
	v.t.Helper()
	v.settle()
	v.opts.UploadBudget = budget
	counts := count.New(v.fault)
	r, err := repo.Open(v.t.Context(), counts, repo.OpenOptions{Password: v.key})
	must(v.t, err)
	v.mon.reset()
	rep, err := Backup(v.t.Context(), r, v.options())
	var stopped *StoppedError
	if err != nil && (!errors.As(err, &stopped) || stopped.Reason != StopBudget) {
		v.t.Fatal(err)
	}
	if (err == nil) != (rep.Stopped == nil) || (err == nil) != rep.Snapshot.Complete || (err != nil) != rep.Snapshot.Checkpoint {
		v.t.Fatalf("report %+v beside error %v", rep, err)
	}
	must(v.t, v.r.LoadIndex(v.t.Context()))
	return rep, counts.Counts().Uploaded
}

// A first backup in several nights uploads nothing twice, and keeps to its budget.
func TestBudgetOverNights(t *testing.T) {
	v := newVault(t)
	for i := range 12 {
		v.random(fmt.Sprintf("a/%02d", i), 300<<10)
	}
	v.random("b/large", 9<<20)
	v.random("c/small", 50<<10)
	v.opts.CheckpointInterval = -1
	v.opts.Workers = 1
	whole := int64(12*300<<10 + 9<<20 + 50<<10)
	const budget = 3 << 20
	var sum int64
	nights := 0
	for {
		nights++
		rep, up := v.night(budget)
		sum += up
		// What is in hand when it is used up still goes up, and packs are padded: a few MiB, as docs/cli/backup.md says.
		if up > budget+3<<20 {
			t.Errorf("night %d uploaded %d bytes with a budget of %d", nights, up, budget)
		}
		if rep.Snapshot.Complete {
			v.opts.UploadBudget = 0
			v.same(rep)
			break
		}
		if len(rep.Unfinished) != 1 || rep.Unfinished[0].State != "unfinished" || rep.Left == nil || rep.Left.Files == 0 {
			t.Errorf("night %d: unfinished %+v, left %+v", nights, rep.Unfinished, rep.Left)
		}
		if nights > 20 {
			t.Fatal("it does not come to an end")
		}
		// A prune between the nights takes nothing away that the next night needs.
		plan, err := v.r.PlanPrune(t.Context(), repo.PruneOptions{References: References(TreeLoader(v.r)), Grace: 0})
		must(t, err)
		_, err = plan.Execute(t.Context())
		must(t, errors.Join(err, plan.Close(t.Context())))
	}
	if nights < 4 || sum > whole+whole/10 {
		t.Errorf("%d nights, %d bytes uploaded for %d", nights, sum, whole)
	}
}

// The largest files come last, whatever their names, and a checkpoint on the way has all the others.
func TestSmallFilesFirst(t *testing.T) {
	saved := passLimits
	passLimits = []int64{100 << 10, 1 << 20, 1 << 60}
	defer func() { passLimits = saved }()
	v := newVault(t)
	v.random("a/huge", 6<<20)
	v.random("a/late", 10<<10)
	v.random("b/large", 800<<10)
	v.random("c/d/e", 20<<10)
	v.random("c/f", 20<<10)
	must(t, os.Link(filepath.Join(v.src, "a/huge"), filepath.Join(v.src, "c/huge")))
	must(t, os.Link(filepath.Join(v.src, "c/f"), filepath.Join(v.src, "c/g")))
	v.write("u/large/x", "x")
	v.opts.CheckpointInterval = -1
	v.opts.Workers = 1
	rep, _ := v.night(2 << 20)
	if !rep.Snapshot.Checkpoint {
		t.Fatal("it was not stopped")
	}
	for _, path := range []string{"homes/a/late", "homes/b/large", "homes/c/d/e", "homes/c/f", "homes/c/g", "homes/u/large/x"} {
		if n := v.node(rep, path); n.Flags&FlagPartial != 0 {
			t.Errorf("%s is not whole", path)
		}
	}
	name := "a/huge" // the name that was met first
	if _, err := LookupNode(t.Context(), v.r.Blob, v.node(rep, "homes/a").Subtree, "huge"); err != nil {
		name = "c/huge"
	}
	if n := v.node(rep, "homes/"+name); n.Flags&FlagPartial == 0 || n.Size == 0 || n.Size >= 6<<20 {
		t.Errorf("the huge file: %d bytes, flags %d", n.Size, n.Flags)
	}
	if f := rep.Files; f.New != 6 || f.Unchanged+f.Changed != 0 {
		t.Errorf("files %+v", f)
	}
	if s := rep.Snapshot.Sources[0]; s.Files != 6 || s.Bytes != 10<<10+800<<10+3*(20<<10)+1 {
		t.Errorf("source %+v", s)
	}
	// The beginning of the huge file is restored, and named; one that is there is left alone.
	out := filepath.Join(t.TempDir(), "out")
	for range 2 {
		res, err := Restore(t.Context(), v.r, RestoreOptions{Snapshot: rep.Snapshot, Path: "homes", Target: to(out), Monitor: v.mon})
		must(t, err)
		if res.Problems == 0 || !strings.Contains(fmt.Sprint(v.mon.problems()), "only its beginning") {
			t.Errorf("restoring a file that is not whole: %d problems, %q", res.Problems, v.mon.problems())
		}
		must(t, os.WriteFile(filepath.Join(out, name), []byte("whole"), 0o600))
	}
	if data, err := os.ReadFile(filepath.Join(out, name)); err != nil || string(data) != "whole" {
		t.Errorf("the file that was there: %q, %v", data, err)
	}

	rep, _ = v.night(100 << 20)
	if s := rep.Snapshot.Sources[0]; !rep.Snapshot.Complete || s.Files != 8 || s.Dirs != 6 {
		t.Fatalf("complete %v, source %+v", rep.Snapshot.Complete, s)
	}
	v.same(rep)
	// Changes, and a large file that nothing is known of.
	v.random("c/d/e2", 3<<20)
	v.random("c/d/e", 21<<10)
	must(t, os.Remove(filepath.Join(v.src, "a/late")))
	rep, _ = v.night(100 << 20)
	v.counts(rep, FileCounts{New: 1, Changed: 1, Unchanged: 6, Removed: 1})
	v.same(rep)
}

// An entry that cannot be saved is named once, however many passes meet it.
func TestProblemsOfPasses(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root reads everything")
	}
	v := newVault(t)
	v.random("a/large", 17<<20)
	must(t, os.Chmod(v.write("a/secret", "x"), 0))
	v.opts.UploadBudget = 1 << 30
	v.backup("secret")
}

// A window that is over ends the run with what there is.
func TestWindowEnds(t *testing.T) {
	v := newVault(t)
	v.random("a", 300<<10)
	v.opts.Until = time.Now().Add(-time.Second)
	rep, err := v.try(t.Context())
	var stopped *StoppedError
	if !errors.As(err, &stopped) || stopped.Reason != StopWindow || rep.Stopped != stopped {
		t.Fatalf("error %v, report %+v", err, rep)
	}
	v.opts.Until = time.Now().Add(time.Hour)
	rep = v.backup()
	v.same(rep)
}

// Databases come before streams, and these before folders; the tree is in the order of the labels all the same.
func TestOrderOfSources(t *testing.T) {
	v := newVault(t)
	v.random("x", 10)
	var order []string
	stream := func(name string) StreamSource {
		return streamFunc(func(ctx context.Context, k *Sink) error {
			order = append(order, name)
			return k.Add(ctx, "f", Node{Meta: localfs.Meta{Type: localfs.TypeFile}}, strings.NewReader(name))
		})
	}
	v.opts.Sources = []SourceSpec{{Label: "a", Kind: SourceFolder, Path: v.src},
		{Label: "b", Kind: SourceTar, Path: "b", Stream: stream("stream")},
		{Label: "m", Kind: SourceMongo, Path: "m", Stream: stream("database")}}
	v.opts.UploadBudget = 1 << 30
	rep := v.backup()
	if got := fmt.Sprint(order); got != "[database stream]" {
		t.Errorf("order %s", got)
	}
	if len(rep.Sources) != 3 || rep.Sources[0].Label != "a" || rep.Sources[2].Label != "m" || rep.Snapshot.Sources[0].Label != "a" {
		t.Errorf("sources %+v, in the manifest %+v", rep.Sources, rep.Snapshot.Sources)
	}
}
