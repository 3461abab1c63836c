package tool

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func program(t *testing.T, name, script string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestFind(t *testing.T) {
	t.Setenv("PATH", t.TempDir()) // nothing is in it
	restic := program(t, "restic", "echo restic 0.18.1 compiled with something\n")
	found, missing, err := Find(context.Background(), []string{"restic", "borg"}, map[string]string{"restic": restic})
	if err != nil {
		t.Fatal(err)
	}
	if len(found) != 1 || found[0].Name != "restic" || found[0].Version != "0.18.1" || found[0].Program != restic {
		t.Errorf("found %+v", found)
	}
	if len(missing) != 1 || missing[0].Name != "borg" || !strings.Contains(missing[0].Hint, "borgbackup") {
		t.Errorf("missing %+v", missing)
	}
	if _, _, err := Find(context.Background(), []string{"tar"}, nil); err == nil {
		t.Error("an unknown program is no error")
	}
	kopia := program(t, "kopia", "echo 0.21.1 build: abc from: kopia/kopia\n")
	found, _, err = Find(context.Background(), []string{"kopia"}, map[string]string{"kopia": kopia})
	if err != nil || len(found) != 1 || found[0].Version != "0.21.1" {
		t.Errorf("found %+v, %v", found, err)
	}
	broken := program(t, "restic", "exit 1\n")
	if _, _, err := Find(context.Background(), []string{"restic"}, map[string]string{"restic": broken}); err == nil {
		t.Error("a program that does not run is no error")
	}
}

func TestEveryProgramDoesEveryStep(t *testing.T) {
	job := Job{Source: "/source/homes", Part: "alice", Repo: "/repo", Cache: "/cache", Target: "/target", Number: 3}
	for name, known := range makers() {
		tool := known.make()
		for _, step := range []Step{Init, Backup, Restore, RestorePart, Check, Prune} {
			job.Step = step
			commands := tool.Commands(job)
			if len(commands) == 0 {
				t.Errorf("%s cannot %s", name, step)
			}
			for _, c := range commands {
				if line := strings.Join(c.Args, " "); strings.Contains(line, password) {
					t.Errorf("%s %s: the password is on the command line", name, step)
				}
			}
			if restored := tool.Restored(job); !strings.HasPrefix(restored, job.Target) {
				t.Errorf("%s restores to %s", name, restored)
			}
		}
		env := strings.Join(tool.Env(job), "\n")
		if !strings.Contains(env, password) || !strings.Contains(env, "HOME=/cache\n") {
			t.Errorf("%s: environment\n%s", name, env)
		}
	}
}

func TestWtsnapCommands(t *testing.T) {
	job := Job{Source: "/source/homes", Part: "alice", Target: "/target"}
	for step, want := range map[Step]string{
		Backup:      "backup --json homes=/source/homes",
		Restore:     "restore --json latest:homes --to /target",
		RestorePart: "restore --json latest:homes/alice --to /target",
		Check:       "check --json --read-data",
		Prune:       "forget --json --keep-last 1 --prune --grace 0",
	} {
		job.Step = step
		if got := strings.Join(wtsnap().Commands(job)[0].Args, " "); got != want {
			t.Errorf("%s: %q, want %q", step, got, want)
		}
	}
}

func TestWtsnapFigures(t *testing.T) {
	figures, err := wtsnap().Figures([]byte(`{"schema":1,"bytes":{"uploaded":5,"downloaded":7},"requests":{"put":3}}`))
	if err != nil || figures.Uploaded != 5 || figures.Downloaded != 7 || figures.Requests["put"] != 3 {
		t.Errorf("%+v, %v", figures, err)
	}
	if _, err := wtsnap().Figures([]byte("not JSON")); err == nil {
		t.Error("no error for what is not JSON")
	}
	if _, err := restic().Figures([]byte("not JSON")); err != nil {
		t.Errorf("restic's output is not to be read: %v", err)
	}
}

func TestKopiaRestoresWhatItStored(t *testing.T) {
	k := kopia()
	k.Learn(Job{Step: Backup, Repo: "/repo"}, []byte(`{"id":"x","rootEntry":{"obj":"kabc"}}`))
	got := k.Commands(Job{Step: RestorePart, Repo: "/repo", Part: "alice", Target: "/target"})[0].Args
	if want := []string{"restore", "kabc/alice", "/target"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestBorgKeepsItsIndexOnTheServer(t *testing.T) {
	for path, want := range map[string]bool{"index.5": true, "hints.5": true, "integrity.5": true, "data/0/5": false, "config": false} {
		if borg().Internal(path) != want {
			t.Errorf("%s is internal: %v", path, !want)
		}
	}
}
