package config

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/whole-tale/wtsnap/snapshot"
)

func notEmpty(s string) error {
	if s == "bad" {
		return errors.New("it is bad")
	}
	return nil
}

func vocabulary() Vocabulary {
	return Vocabulary{
		Globals: map[string]Flag{"repo": {}, "instance": {}, "password-file": {}, "connections": {Check: notEmpty}},
		Commands: map[string]map[string]Flag{
			"backup": {"exclude": {Kind: List, Check: notEmpty}, "exclude-caches": {Kind: Bool}, "compression": {}},
			"forget": {"keep-within": {}, "keep-daily": {}}, "prune": {}, "check": {"read-data": {Kind: Bool}},
			"restore": {"verify": {Kind: Bool}},
		},
		Source: map[string]Flag{"exclude": {Kind: List}, "sentinel": {}},
	}
}

const example = `version = 1
repo = "box:wtsnap"
instance = "production"
connections = 4

[backup]
exclude = ["*.tmp", "cache/"]
exclude-caches = true

[forget]
keep-within = "1w"
keep-daily = 30

[sources.homes]
from = "/srv/homes"
sentinel = ".here"
exclude = "*.o"

[sources.mongo]
from = { file = "/run/secrets/uri" }
[sources.mongo.hooks]
before = "echo hi"
timeout = "5min"

[repositories.offsite]
repo = "s3:bucket"

[instances.testing]
max-age = "36h"
repository = "offsite"

[jobs.nightly]
steps = ["backup", "forget", "prune", "check"]
schedule = "02:30"
jitter = "20min"
sources = ["mongo", "homes"]
[jobs.nightly.check]
read-data = true

[alerts.ops]
notify = { command = "pass show ops" }
on = ["failure", "recovery"]
jobs = ["nightly"]
repeat = "1d"
text-file = "/var/lib/x.prom"
`

func TestParse(t *testing.T) {
	c, err := Parse("x.toml", []byte(example), vocabulary())
	if err != nil {
		t.Fatal(err)
	}
	check := func(what string, got, want any) {
		t.Helper()
		if g, w := fmt.Sprint(got), fmt.Sprint(want); g != w {
			t.Errorf("%s: %s, want %s", what, g, w)
		}
	}
	check("globals", c.Globals, Values{"repo": {"box:wtsnap"}, "instance": {"production"}, "connections": {"4"}})
	check("backup", c.Commands["backup"], Values{"exclude": {"*.tmp", "cache/"}, "exclude-caches": {"true"}})
	check("forget", c.Commands["forget"], Values{"keep-within": {"1w"}, "keep-daily": {"30"}})
	check("sources", len(c.Sources), 2)
	check("order", c.Sources[0].Label+" "+c.Sources[1].Label, "homes mongo")
	check("homes", c.Sources[0].Values, Values{"sentinel": {".here"}, "exclude": {"*.o"}})
	check("mongo", c.Sources[1].From.File, "/run/secrets/uri")
	check("hooks", c.Sources[1].Hooks.Before, []string{"echo hi"})
	check("repositories", c.Repositories, map[string]Values{"offsite": {"repo": {"s3:bucket"}}})
	check("instances", *c.Instances["testing"], Instance{MaxAge: snapshot.Span{Time: 36 * 3600e9}, Repository: "offsite"})
	j := c.Jobs["nightly"]
	check("job", fmt.Sprintln(j.Steps, j.Schedule, j.Jitter, j.Sources, j.Commands),
		fmt.Sprintln([]string{"backup", "forget", "prune", "check"}, "02:30", "20min", []string{"mongo", "homes"}, map[string]Values{"check": {"read-data": {"true"}}}))
	a := c.Alerts["ops"]
	check("alert", fmt.Sprintln(a.Notify.Command, a.On, a.Jobs, a.Repeat, a.TextFile), fmt.Sprintln("pass show ops", []Event{OnFailure, OnRecovery}, []string{"nightly"}, "1d", "/var/lib/x.prom"))
}

// TestProblems: each mistake is told with its line and what would be right.
func TestProblems(t *testing.T) {
	job := "\n[sources.h]\nfrom = \"/h\"\n[jobs.n]\nsteps = [\"backup\"]\n"
	for _, c := range []struct{ text, want string }{
		{"repo = ", "line 1: "},
		{"rpo = \"x\"", "line 1: rpo: there is no such key; did you mean repo?"},
		{"\nrepo = true", "line 2: repo: this is neither true nor false, but a text"},
		{"repo = [\"a\"]", "line 1: repo: one value can be given, not a list"},
		{"connections = \"bad\"", "line 1: connections: it is bad"},
		{"version = 2", "version: this program reads version 1"},
		{"[backup]\nexlude = []", "line 2: backup.exlude: there is no such key; did you mean exclude?"},
		{"[backup]\nexclude-caches = \"yes\"", "line 2: backup.exclude-caches: write true or false"},
		{"[backup]\nexclude = [true]", "backup.exclude: the list may hold texts only"},
		{"[backup]\nexclude = [\"a\", \"bad\"]", "backup.exclude: it is bad"},
		{"backup = 3", "line 1: backup: this is a table: [backup]"},
		{"[sources.x]", "line 1: sources.x: from is missing"},
		{"[sources.x]\nfrom = { fille = \"a\" }", "line 2: sources.x.from.fille: there is no such key; did you mean file?"},
		{"[sources.x]\nfrom = { file = \"a\", env = \"b\" }", "sources.x.from: write a text, or one of"},
		{"[sources.x]\nfrom = \"\"", "sources.x.from: it is empty"},
		{"[jobs.n]", "line 1: jobs.n: steps is missing"},
		{"[jobs.n]\nsteps = [\"backup\"]", "jobs.n: a backup needs a source"},
		{job + "schedule = \"sometimes\"", "line 6: jobs.n.schedule: \"sometimes\" is no schedule"},
		{job + "sources = [\"g\"]", "jobs.n.sources: there is no [sources.g]"},
		{job + "repository = \"g\"", "jobs.n.repository: there is no [repositories.g]"},
		{job + "timeout = \"5\"", "jobs.n.timeout: \"5\" is no length of time"},
		{job + "[jobs.n.restore]\nverify = true", "jobs.n.restore: there is no such key"},
		{job + "[jobs.n.hooks]\nbefor = \"x\"", "jobs.n.hooks.befor: there is no such key; did you mean before?"},
		{"[jobs.n]\nsteps = [\"sleep\"]", "there is no step \"sleep\""},
		{"[alerts.a]", "alerts.a: it tells nobody"},
		{"[alerts.a]\nping = \"x\"\non = [\"doom\"]", "alerts.a.on: there is no event \"doom\""},
		{"[alerts.a]\nping = \"x\"\njobs = [\"n\"]", "alerts.a.jobs: there is no [jobs.n]"},
		{"[alerts.a]\ntext-file = \"x.prom\"", "alerts.a.text-file: write the whole path"},
		{"[instances.i]\nmax-age = 3", "instances.i.max-age: write a text in quotes"},
		{"[instances.i]\nrepository = \"r\"", "instances.i.repository: there is no [repositories.r]"},
	} {
		_, err := Parse("x.toml", []byte(c.text), vocabulary())
		var e *Error
		if !errors.As(err, &e) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "x.toml") {
			t.Errorf("%q: %v; want %q", c.text, err, c.want)
		}
	}
	_, err := Parse("x.toml", []byte("rep = 1\n[backup]\nexlude = 1\n"), vocabulary())
	var e *Error
	if !errors.As(err, &e) || len(e.Problems) != 2 || e.Problems[0].Line != 1 || e.Problems[1].Line != 3 {
		t.Errorf("two problems: %v", err)
	}
}

func TestRead(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "c.toml")
	if _, err := Read(file, vocabulary()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	if err := os.WriteFile(file, []byte(example), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Read(file, vocabulary())
	if err != nil || c.Path != file {
		t.Fatal(c, err)
	}
	if err := os.WriteFile(file, make([]byte, maxSize+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(file, vocabulary()); err == nil || !strings.Contains(err.Error(), "4 MiB") {
		t.Errorf("a large file: %v", err)
	}
}

func TestSecret(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "s")
	if err := os.WriteFile(file, []byte("hush\r\nmore\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("CREDENTIALS_DIRECTORY", dir)
	t.Setenv("CONFIG_TEST_SECRET", "hush")
	ctx := context.Background()
	for _, s := range []Secret{{Text: "hush"}, {File: file}, {Command: "echo hush; echo more"}, {Credential: "s"}, {Env: "CONFIG_TEST_SECRET"}} {
		got, err := s.Read(ctx)
		if err != nil || got != "hush" {
			t.Errorf("%v: %q, %v", &s, got, err)
		}
		if text := fmt.Sprintf("%v %#v", &s, &s); strings.Contains(text, "hush") && s.Command == "" {
			t.Errorf("it prints its text: %s", text)
		}
	}
	for _, s := range []Secret{{File: file + "x"}, {Command: "echo oh no >&2; false"}, {Command: "true"}, {Credential: "none"}, {Env: "CONFIG_TEST_NOTHING"}} {
		if got, err := s.Read(ctx); err == nil || strings.Contains(err.Error(), "hush") {
			t.Errorf("%v: %q, %v", &s, got, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(example))
	f.Add([]byte("[jobs.a]\n[jobs.a.hooks]\nbefore = [1]\n[[alerts]]\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse("x", data, vocabulary())
		var e *Error
		if err != nil && (!errors.As(err, &e) || len(e.Problems) == 0 || !slices.IsSortedFunc(e.Problems, func(a, b Problem) int { return a.Line - b.Line })) {
			t.Fatalf("%v %v", c, err)
		}
	})
}
