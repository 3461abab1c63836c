package job

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/whole-tale/wtsnap/cmd/wtsnap/config"
	"github.com/whole-tale/wtsnap/snapshot"
)

// outcome runs a job whose steps end with the given codes, and tells what was done.
func outcome(t *testing.T, j *config.Job, exits map[string]int, badHook string) (*Report, string) {
	t.Helper()
	var did []string
	r := Run(context.Background(), Options{
		Job: j,
		Step: func(_ context.Context, name string) Step {
			did = append(did, name)
			return Step{Exit: exits[name], Message: map[bool]string{true: "because"}[exits[name] != 0]}
		},
		Hook: func(_ context.Context, kind, command string, env []string, limit time.Duration) error {
			did = append(did, kind+":"+command)
			if limit <= 0 || !strings.Contains(strings.Join(env, " "), "WTSNAP_JOB="+j.Name) {
				t.Errorf("hook %s: limit %v, environment %q", command, limit, env)
			}
			if command == badHook {
				return errors.New("it failed")
			}
			return nil
		},
	})
	if r.Job != j.Name || len(r.Steps) == 0 || r.End.Before(r.Start) {
		t.Errorf("%+v", r)
	}
	return r, strings.Join(did, " ")
}

func TestRun(t *testing.T) {
	hooks := config.Hooks{Before: []string{"b1", "b2"}, After: []string{"a"}, Failed: []string{"f"}, Finally: []string{"z"}}
	all := []string{"backup", "forget", "prune", "check", "drill"}
	for _, c := range []struct {
		name    string
		exits   map[string]int
		badHook string
		did     string
		status  Status
		exit    int
	}{
		{"all is well", nil, "", "before:b1 before:b2 backup forget prune check drill after:a finally:z", OK, 0},
		{"a file could not be read", map[string]int{"backup": 3}, "", "before:b1 before:b2 backup forget prune check drill after:a finally:z", Warning, 3},
		{"another prune is at work", map[string]int{"prune": 11}, "", "before:b1 before:b2 backup forget prune check drill after:a finally:z", Warning, 11},
		{"an empty source", map[string]int{"backup": 14}, "", "before:b1 before:b2 backup check drill failed:f finally:z", Failed, 14},
		{"out of time", map[string]int{"backup": 4}, "", "before:b1 before:b2 backup check drill failed:f finally:z", Failed, 4},
		{"expired token", map[string]int{"backup": 5}, "", "before:b1 before:b2 backup failed:f finally:z", Failed, 5},
		{"damage", map[string]int{"check": 13, "drill": 1}, "", "before:b1 before:b2 backup forget prune check drill failed:f finally:z", Failed, 13},
		{"a hook before", nil, "b1", "before:b1 failed:f finally:z", Failed, 1},
		{"a hook after", nil, "a", "before:b1 before:b2 backup forget prune check drill after:a failed:f finally:z", Failed, 1},
		{"a hook at the end", nil, "z", "before:b1 before:b2 backup forget prune check drill after:a finally:z", Failed, 1},
	} {
		r, did := outcome(t, &config.Job{Name: "nightly", Steps: all, Hooks: hooks}, c.exits, c.badHook)
		if did != c.did || r.Status != c.status || r.Exit != c.exit {
			t.Errorf("%s:\n did %s, %s, %d\nwant %s, %s, %d", c.name, did, r.Status, r.Exit, c.did, c.status, c.exit)
		}
		for _, s := range r.Steps {
			if s.Status != OK && s.Message == "" {
				t.Errorf("%s: %s does not say why", c.name, s.Name)
			}
		}
	}
}

// Steps in another repository fail by themselves, and what is given up there depends on what went there.
func TestElsewhere(t *testing.T) {
	steps := []string{"backup", "copy@two", "forget", "forget@two", "prune", "prune@two", "check", "check@two"}
	for _, c := range []struct {
		name  string
		exits map[string]int
		skips string
		exit  int
	}{
		{"all is well", nil, "", 0},
		{"an empty source", map[string]int{"backup": 14}, "forget forget@two prune prune@two", 14},
		{"the copy's place is not reached", map[string]int{"copy@two": 1}, "forget@two prune@two", 1},
		{"the copy takes more than a night", map[string]int{"copy@two": 4}, "forget@two prune@two", 4},
		{"the copy's credentials are refused", map[string]int{"copy@two": 5}, "forget@two prune@two check@two", 5},
		{"there is no second repository", map[string]int{"copy@two": 10}, "forget@two prune@two check@two", 10},
		{"the first one's credentials are refused", map[string]int{"backup": 5}, "copy@two forget forget@two prune prune@two check", 5},
		{"what is to be copied is damaged", map[string]int{"copy@two": 13}, "forget forget@two prune prune@two", 13},
		{"a strange night holds the first", map[string]int{"forget": 14}, "prune", 14},
		{"a strange night holds the second", map[string]int{"forget@two": 14}, "prune@two", 14},
		{"another prune is at work there", map[string]int{"prune@two": 11}, "", 11},
	} {
		r, _ := outcome(t, &config.Job{Name: "n", Steps: steps}, c.exits, "")
		var skipped []string
		for _, s := range r.Steps {
			if s.Status == Skipped {
				skipped = append(skipped, s.Name)
			}
		}
		if got := strings.Join(skipped, " "); got != c.skips || r.Exit != c.exit {
			t.Errorf("%s: skipped %q and ended with %d, want %q and %d", c.name, got, r.Exit, c.skips, c.exit)
		}
	}
}

// TestDamageFirst: where the check comes first, nothing is given up behind it.
func TestDamageFirst(t *testing.T) {
	_, did := outcome(t, &config.Job{Name: "n", Steps: []string{"check", "forget", "prune", "backup"}}, map[string]int{"check": 13}, "")
	if did != "check backup" {
		t.Errorf("did %s", did)
	}
}

func TestTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hooked := 0
		j := &config.Job{Name: "n", Steps: []string{"backup", "check"}, Timeout: snapshot.Span{Time: time.Hour},
			Hooks: config.Hooks{Failed: []string{"f"}, Finally: []string{"z"}}}
		r := Run(t.Context(), Options{Job: j,
			Step: func(ctx context.Context, name string) Step {
				<-ctx.Done()
				return Step{Exit: exitInterrupted}
			},
			Hook: func(ctx context.Context, _, _ string, _ []string, _ time.Duration) error {
				hooked++
				return ctx.Err()
			},
		})
		if r.Status != Failed || hooked != 2 || r.End.Sub(r.Start) != time.Hour || !strings.Contains(r.Steps[0].Message, "timeout of 1h") || r.Steps[1].Status != Skipped {
			t.Errorf("%d hooks, %+v", hooked, r)
		}
	})
}

func TestEnvironment(t *testing.T) {
	r := &Report{Job: "n", Instance: "i", Steps: []Step{{Name: "backup", Status: Failed, Exit: 14}}}
	if got := fmt.Sprint(Environment(r)); got != "[WTSNAP_JOB=n WTSNAP_JOB_STATUS=failed WTSNAP_JOB_EXIT=14 WTSNAP_JOB_INSTANCE=i]" {
		t.Error(got)
	}
}

// Damage keeps everything older until a check has been without.
func TestDamageOfTheLastRun(t *testing.T) {
	damaged := &Report{Steps: []Step{{Name: "backup"}, {Name: "check", Exit: 13, Status: Failed}}}
	for _, c := range []struct {
		steps  []string
		before *Report
		want   string
	}{
		{[]string{"backup", "forget", "prune", "check"}, damaged, "backup check"},
		{[]string{"check", "forget", "prune"}, damaged, "check forget prune"},
		{[]string{"backup", "forget", "prune"}, &Report{Steps: []Step{{Name: "check"}}}, "backup forget prune"},
		{[]string{"backup", "forget", "prune"}, nil, "backup forget prune"},
		{[]string{"check", "forget"}, &Report{Steps: []Step{{Name: "check@two", Exit: 13}}}, "check"},
		{[]string{"check@two", "forget"}, &Report{Steps: []Step{{Name: "drill@two", Exit: 13}}}, "check@two forget"},
		{[]string{"check", "forget"}, &Report{Steps: []Step{{Name: "copy@two", Exit: 13}}}, "check"},
		{[]string{"copy@two", "forget"}, &Report{Steps: []Step{{Name: "copy@two", Exit: 13}}}, "copy@two forget"},
	} {
		var did []string
		r := Run(context.Background(), Options{Job: &config.Job{Name: "x", Steps: c.steps}, Before: c.before,
			Step: func(_ context.Context, name string) Step { did = append(did, name); return Step{} }})
		if got := strings.Join(did, " "); got != c.want || r.Status != map[bool]Status{true: Skipped, false: OK}[len(did) < len(c.steps)] {
			t.Errorf("%v: did %q, want %q; %s", c.steps, got, c.want, r.Status)
		}
	}
}
