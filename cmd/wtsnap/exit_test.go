package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/index"
	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/repo/storage"
	"github.com/whole-tale/wtsnap/repo/storage/local"
	"github.com/whole-tale/wtsnap/snapshot"
)

func TestExitCode(t *testing.T) {
	auth := &storage.Error{Op: "get", Name: "config", Kind: storage.ErrAuth, Hint: "reconnect"}
	for _, c := range []struct {
		err  error
		want int
	}{
		{nil, 0},
		{errors.New("x"), 1},
		{usagef("", "x"), 2},
		{&snapshot.AmbiguousError{Prefix: "3"}, 2},
		{&storage.Error{Op: "open", Kind: storage.ErrConfig}, 2},
		{&statusError{code: exitPartial}, 3},
		{backupStatus(&snapshot.BackupReport{Snapshot: checkpoint()}, errors.New("the budget is used up")), 4},
		{auth, 5},
		{fmt.Errorf("opening: %w", repo.ErrNoRepository), 10},
		{fmt.Errorf("pruning: %w", repo.ErrBusy), 11},
		{repo.ErrWrongPassword, 12},
		{&repo.DamageError{}, 13},
		{&snapshot.GuardError{}, 14},
		{&snapshot.TargetGuardError{}, 15},
		// The gravest counts.
		{errors.Join(repo.ErrBusy, auth), 5},
		{errors.Join(&snapshot.GuardError{}, auth, &repo.DamageError{}), 13},
		{&statusError{code: exitPartial, err: &repo.DamageError{}}, 13},
		{backupStatus(&snapshot.BackupReport{Snapshot: checkpoint()}, auth), 5},
	} {
		if got := exitCode(t.Context(), c.err); got != c.want {
			t.Errorf("%v: %d, want %d", c.err, got, c.want)
		}
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errInterrupted)
	for _, err := range []error{context.Canceled, fmt.Errorf("x: %w", errInterrupted), backupStatus(&snapshot.BackupReport{Snapshot: checkpoint()}, context.Canceled)} {
		if got := exitCode(ctx, err); got != exitInterrupted {
			t.Errorf("interrupted, %v: %d", err, got)
		}
	}
	if got := exitCode(ctx, repo.ErrWrongPassword); got != exitPassword {
		t.Errorf("a failure before the interruption: %d", got)
	}
}

func checkpoint() *snapshot.Snapshot {
	return &snapshot.Snapshot{Manifest: &snapshot.Manifest{Checkpoint: true}}
}

// TestBusy runs a prune while another one has its plan.
func TestBusy(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "repo")
	st, err := local.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	r, err := repo.Init(t.Context(), st, repo.InitOptions{Password: []byte("x"), KDF: repo.KDFParams{Time: 1, Memory: 8, Threads: 1}})
	if err != nil {
		t.Fatal(err)
	}
	none := func(context.Context, []byte, func(index.Kind, chunk.ID) bool) error { return nil }
	plan, err := r.PlanPrune(t.Context(), repo.PruneOptions{References: none, Grace: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	clearEnvironment(t)
	t.Setenv("WTSNAP_PASSWORD", "x")
	if code, _, errs := runArgs(t, "-r", dir, "prune"); code != exitBusy || !strings.Contains(errs, "another prune is running") {
		t.Errorf("beside another prune: %d, %s", code, errs)
	}
	if err := plan.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if code, _, errs := runArgs(t, "-r", dir, "prune"); code != exitOK {
		t.Errorf("after the other prune: %d, %s", code, errs)
	}
}

// clearEnvironment takes the variables away that whoever runs the tests may have set.
func clearEnvironment(t *testing.T) {
	t.Helper()
	t.Setenv("STATE_DIRECTORY", "")
	t.Setenv("XDG_STATE_HOME", t.TempDir()) // which snapshots were seen
	for _, e := range os.Environ() {
		if name, _, _ := strings.Cut(e, "="); strings.HasPrefix(name, "WTSNAP_") {
			t.Setenv(name, "") // and as it was, afterwards
			if err := os.Unsetenv(name); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// runArgs runs the program in this process.
func runArgs(t *testing.T, args ...string) (code int, out, errs string) {
	t.Helper()
	var o, e bytes.Buffer
	code = run(t.Context(), std{os.Stdin, &o, &e}, append([]string{"wtsnap"}, args...))
	return code, o.String(), e.String()
}

// TestEveryFailureIsOneDocument looks at what --json prints when a command fails early.
func TestEveryFailureIsOneDocument(t *testing.T) {
	clearEnvironment(t)
	a := &app{}
	a.cli = a.newCLI()
	commands := 0
	eachPath(a.cli, func(path []*cli.Command) {
		if len(path) == 0 || len(path[len(path)-1].Subcommands) > 0 {
			return
		}
		commands++
		for _, rest := range [][]string{{"--no-such-flag"}, {"-r", filepath.Join(t.TempDir(), "none"), "a", "b", "c", "d"}} {
			args := append(append(names(path), "--json"), rest...)
			code, out, errs := runArgs(t, args...)
			var doc struct {
				Schema int
				Error  struct {
					Code    int
					Message string
				}
			}
			if err := json.Unmarshal([]byte(out), &doc); err != nil || code == 0 || doc.Schema != 1 || doc.Error.Code != code || doc.Error.Message == "" {
				t.Errorf("%q: %d, %q, %v", args, code, out, err)
			}
			if !strings.HasPrefix(errs, "wtsnap: ") || strings.Contains(errs, "\x1b") {
				t.Errorf("%q: %q", args, errs)
			}
		}
	})
	if commands < 20 {
		t.Errorf("only %d commands were tried", commands)
	}
}

// TestHelpOfEveryCommand looks at what a first-time user reads.
func TestHelpOfEveryCommand(t *testing.T) {
	clearEnvironment(t)
	a := &app{}
	a.cli = a.newCLI()
	eachPath(a.cli, func(path []*cli.Command) {
		code, out, errs := runArgs(t, append(names(path), "--help")...)
		if code != 0 || errs != "" || !strings.Contains(out, "Usage: wtsnap") {
			t.Errorf("%q: %d, %q, %q", names(path), code, out, errs)
		}
		for line := range strings.Lines(out) {
			if len(line) > 135 || strings.Contains(line, "`") || strings.Contains(line, "%!") {
				t.Errorf("%q: %q", names(path), line)
			}
		}
		if len(path) == 1 && !strings.Contains(out, "Example") && path[0].Name != "version" {
			t.Errorf("%q has no example", names(path))
		}
	})
}

func TestShown(t *testing.T) {
	for name, want := range map[string]string{"plain": "plain", "größe €": "größe €", "a\nb": `"a\nb"`, "\x1b[31m": `"\x1b[31m"`, "x\xff": `"x\xff"`,
		"": `""`, "\u202egnp.exe": `"\u202egnp.exe"`} {
		if got := shown(name); got != want {
			t.Errorf("shown(%q) = %s, want %s", name, got, want)
		}
	}
	if got := printable("a \"b\"\nc\x1b[0m"); got != "a \"b\"\nc\\x1b[0m" {
		t.Errorf("printable: %q", got)
	}
}

func TestIsFolder(t *testing.T) {
	for spec, want := range map[string]bool{"/mnt/x": true, "rel": true, "./a:b": true, "/a:b": true, "box:": false, "box:a/b": false, ":sftp,host=h:p": false} {
		if got := isFolder(spec); got != want {
			t.Errorf("isFolder(%q) = %v", spec, got)
		}
	}
	if got := shownRepo(":sftp,host=h,pass=secret:p"); strings.Contains(got, "secret") {
		t.Errorf("a password is shown: %s", got)
	}
}

func TestDocument(t *testing.T) {
	var b bytes.Buffer
	if err := writeDocument(&b, map[string]int{"n": 1}, &jsonError{Code: 3, Message: "m"}); err != nil {
		t.Fatal(err)
	}
	if got := b.String(); got != `{"schema":1,"n":1,"error":{"code":3,"message":"m"}}`+"\n" {
		t.Error(got)
	}
	b.Reset()
	s, err := startStream(&b, struct{}{}, "list")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		if err := s.add(i); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.finish(map[string]int{"sum": 1}, nil); err != nil || b.String() != `{"schema":1,"list":[0,1],"sum":1}`+"\n" {
		t.Error(b.String(), err)
	}
}
