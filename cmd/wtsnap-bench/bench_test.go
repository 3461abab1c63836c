package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/whole-tale/wtsnap/cmd/wtsnap-bench/report"
)

// TestMain lets the test program be the helper that starts what is measured.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == helperName {
		if err := command(context.Background(), os.Args[1:], os.Stdout, os.Stderr); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func invoke(args ...string) (stdout, stderr string, err error) {
	var out, log strings.Builder
	err = command(context.Background(), args, &out, &log)
	return out.String(), log.String(), err
}

// copying is a program with restic's command line that keeps a copy of the newest night. It is told by its name what to
// do badly.
const copying = `#!/bin/sh
set -e
case "$1" in
version) echo "copying 1.0" ;;
init) test "$RESTIC_PASSWORD" ;;
backup) for last; do :; done; rm -rf "$RESTIC_REPOSITORY/copy"; cp -Rp "$last" "$RESTIC_REPOSITORY/copy" ;;
restore) cp -Rp "$RESTIC_REPOSITORY/copy" "$5/dump"
	case "$0" in *lossy) chmod 700 "$5/dump/girder" ;; esac ;;
check) case "$0" in *failing) echo "cannot read" >&2; exit 7 ;; esac ;;
forget) ;;
*) exit 64 ;;
esac
`

func peer(t *testing.T, name string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(copying), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestRunMeasuresAndCompares(t *testing.T) {
	for _, name := range []string{"honest", "lossy", "failing"} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			file := filepath.Join(dir, "figures.json")
			stdout, stderr, err := invoke("run", "-size", "tiny", "-runs", "1", "-nights", "1", "-corpora", "dump", "-tools", "restic",
				"-program", "restic="+peer(t, name), "-dir", dir, "-targets", dir, "-json", file)
			if err != nil {
				t.Fatalf("%v\n%s", err, stderr)
			}
			var r report.Report
			b, err := os.ReadFile(file)
			if err == nil {
				err = json.Unmarshal(b, &r)
			}
			if err != nil {
				t.Fatal(err)
			}
			wantSteps := 8 // two backups, restore, night, restore, check, prune, restore
			wantText := "- restic: yes, in 3 restores"
			switch name {
			case "lossy":
				wantText = "- restic: no; in 3 restores 3 × mode differed"
			case "failing":
				wantSteps, wantText = 6, "restic, check, every byte read: restic check: exit status 7: cannot read"
			}
			if len(r.Samples) != wantSteps {
				t.Errorf("%d steps, want %d:\n%s", len(r.Samples), wantSteps, stderr)
			}
			if !strings.Contains(stdout, wantText) {
				t.Errorf("%q is not in\n%s", wantText, stdout)
			}
			first := r.Samples[0]
			if first.Wall <= 0 || first.Peak <= 0 || first.Written < 1e6 || first.Stored < 1e6 {
				t.Errorf("first backup: %+v", first)
			}
			if len(r.Corpora) != 1 || len(r.Corpora[0].Bounds) != 1 || r.Corpora[0].Bounds[0].Bytes < 1000 {
				t.Errorf("corpora: %+v", r.Corpora)
			}
			left, err := os.ReadDir(dir)
			if err != nil || len(left) != 1 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}

func TestInterruptedRunTellsWhatItMeasured(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	dir := t.TempDir()
	var stdout strings.Builder
	log := writerFunc(func(p []byte) (int, error) {
		if strings.Contains(string(p), "first backup") {
			cancel()
		}
		return len(p), nil
	})
	err := command(ctx, []string{"run", "-size", "tiny", "-runs", "1", "-nights", "1", "-corpora", "dump", "-tools", "restic",
		"-program", "restic=" + peer(t, "honest"), "-dir", dir, "-targets", dir}, &stdout, log)
	if !errors.Is(err, context.Canceled) || !strings.Contains(stdout.String(), "| first backup, dump, s |") {
		t.Errorf("%v\n%s", err, stdout.String())
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestCorpusCompareAndBound(t *testing.T) {
	dir := t.TempDir()
	before, after := filepath.Join(dir, "before"), filepath.Join(dir, "after")
	for path, nights := range map[string]string{before: "0", after: "1"} {
		if _, stderr, err := invoke("corpus", "-kind", "dump", "-size", "tiny", "-nights", nights, path); err != nil {
			t.Fatalf("%v\n%s", err, stderr)
		}
	}
	if stdout, _, err := invoke("compare", before, before); err != nil || !strings.Contains(stdout, ": 0 differences") {
		t.Errorf("compared with itself: %v\n%s", err, stdout)
	}
	stdout, _, err := invoke("compare", "-max", "3", before, after)
	if !errors.Is(err, errDiffer) || !strings.Contains(stdout, "content  girder/assetstore.bson") || !strings.Contains(stdout, "\nand ") {
		t.Errorf("compared with the next night: %v\n%s", err, stdout)
	}
	if stdout, _, err := invoke("compare", "-ignore", "content,mtime", before, after); err != nil {
		t.Errorf("what was to be ignored was not: %v\n%s", err, stdout)
	}
	if stdout, _, err := invoke("bound", before, after); err != nil || !strings.Contains(stdout, " bytes for 9 files") {
		t.Errorf("bound: %v\n%s", err, stdout)
	}
}

func TestApart(t *testing.T) {
	dir := t.TempDir()
	stdout, stderr, err := invoke("apart", "-size", "tiny", "-kind", "dump", "-nights", "1", "-files", "2", "-dir", dir)
	if err != nil {
		t.Fatalf("%v\n%s", err, stderr)
	}
	old, fresh := filepath.Join(dir, "old"), filepath.Join(dir, "fresh")
	for path, nights := range map[string]string{old: "0", fresh: "1"} {
		if _, stderr, err := invoke("corpus", "-kind", "dump", "-size", "tiny", "-nights", nights, path); err != nil {
			t.Fatalf("%v\n%s", err, stderr)
		}
	}
	again, stderr2, err := invoke("apart", "-files", "2", "-dir", dir, "-trees", old+","+fresh)
	if err != nil {
		t.Fatalf("%v\n%s", err, stderr2)
	}
	for _, table := range []string{stdout, again} {
		rows := strings.Split(strings.TrimSpace(table), "\n")
		var cells []int64
		for _, cell := range strings.Split(strings.Trim(rows[len(rows)-1], "| "), " | ") {
			n, _ := strconv.ParseInt(cell, 10, 64) // the ratio does not count
			cells = append(cells, n)
		}
		if len(rows) != 3 || len(cells) != 15 {
			t.Fatalf("%q", table)
		}
		stored, deltas := cells[2], cells[9]
		sum := cells[4] + cells[6] + cells[10] + cells[11] + cells[12] + cells[13] + cells[14]
		if stored < 1000 || deltas < 5 || stored-sum < 0 || stored-sum > stored/50 { // shares of frames are rounded down
			t.Errorf("%d bytes stored, %d of them found, %d deltas:\n%s", stored, sum, deltas, table)
		}
	}
	if strings.Count(stderr, ".bson") != 2 || strings.Count(stderr2, ".bson") != 2 {
		t.Errorf("want two files named:\n%s%s", stderr, stderr2)
	}
}

func TestBundles(t *testing.T) {
	old, fresh := t.TempDir(), t.TempDir()
	for i := range 100 {
		text := fmt.Sprintf("%0100d", i)
		for _, path := range []string{old + "/a", fresh + "/a", fresh + "/copy"} {
			if path == fresh+"/copy" && i%2 == 0 { // the others' neighbours are missing there
				continue
			}
			if err := errors.Join(os.MkdirAll(path, 0o755), os.WriteFile(fmt.Sprintf("%s/%03d", path, i), []byte(text), 0o644)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := os.WriteFile(fresh+"/a/050", []byte("changed"), 0o644); err != nil {
		t.Fatal(err)
	}
	stdout, stderr, err := invoke("bundles", "-files", "1", old, fresh)
	if want := "all of the old tree: 10000 bytes in 100 small files, 10000 bytes in 100 bundles\n" +
		"new in the new tree: 7 bytes in 1 small files, 7 bytes in 1 bundles\n"; err != nil || stdout != want {
		t.Errorf("%v %s\n%s", err, stderr, stdout)
	}
	stdout, _, err = invoke("bundles", "-files", "10000", old, fresh)
	if want := "all of the old tree: 10000 bytes in 100 small files, 10000 bytes in 1 bundles\n" +
		"new in the new tree: 7 bytes in 1 small files, 14907 bytes in 2 bundles\n"; err != nil || stdout != want {
		t.Errorf("%v\n%s", err, stdout)
	}
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{
		{}, {"fly"}, {"compare", "one"}, {"compare", "-ignore", "colour", "a", "b"}, {"corpus"}, {"run", "more"}, {"run", "-fast"},
	} {
		if _, stderr, err := invoke(args...); !errors.Is(err, errUsage) || stderr == "" {
			t.Errorf("%q: %v, %q", args, err, stderr)
		}
	}
	for _, args := range [][]string{
		{"corpus", "-size", "huge", "/nowhere"}, {"corpus", "-kind", "cats", "/nowhere"}, {"compare", "/nowhere", "/nowhere"},
		{"run", "-tools", "tar"}, {"run", "-program", "borg=/nowhere/borg"}, {"run", "-runs", "0"},
		{"apart", "-trees", "/nowhere"}, {"apart", "-kind", "cats"},
		{"bundles", "/nowhere", "/nowhere"}, {"bundles", "-files", "0", "/", "/"},
	} {
		if _, _, err := invoke(args...); err == nil || errors.Is(err, errUsage) {
			t.Errorf("%q: %v", args, err)
		}
	}
}
