package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/whole-tale/wtsnap/cmd/wtsnap/alert"
	"github.com/whole-tale/wtsnap/cmd/wtsnap/config"
	"github.com/whole-tale/wtsnap/cmd/wtsnap/job"
	"github.com/whole-tale/wtsnap/snapshot"
)

func (a *app) runCommand() *cli.Command {
	return &cli.Command{
		Name: "run", Usage: "do a job of the configuration", ArgsUsage: "JOB",
		Description: `Does the steps of a job one after the other, runs its hooks, and tells those who want to know how it ended. While a backup fails,
or there is damage, nothing older is given up: forget and prune are left out.

Examples:

  wtsnap run nightly
  wtsnap run nightly --dry-run      what it would do

Exit codes: that of the gravest step; 11 the job is running already.`,
		Flags:  []cli.Flag{dryRunFlag("print the commands and do nothing")},
		Action: a.action(a.run),
	}
}

// jobNamed returns a job of the configuration.
func (a *app) jobNamed(name string) (*config.Job, error) {
	if a.config == nil {
		return nil, usagef("--config FILE; wtsnap config example prints one", "there is no configuration, so there is no job %s", shown(name))
	}
	if j := a.config.Jobs[name]; j != nil {
		return j, nil
	}
	var names []string
	for n := range a.config.Jobs {
		names = append(names, n)
	}
	slices.Sort(names)
	return nil, usagef("", "there is no job %s in %s: it has %s", shown(name), shown(a.config.Path), cmpOr(strings.Join(names, ", "), "none"))
}

func cmpOr(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}

func (a *app) run(c *cli.Context) error {
	args, err := a.arguments(1, 1, "the name of a job")
	if err != nil {
		return err
	}
	j, err := a.jobNamed(args[0])
	if err != nil {
		return err
	}
	if c.Bool("dry-run") {
		return a.showJob(j)
	}
	dir, err := stateDir()
	if err != nil {
		return err
	}
	unlock, err := lockJob(dir, j.Name)
	if err != nil {
		return err
	}
	defer unlock()
	rep := a.runJob(j, dir)
	a.done(rep, func(w io.Writer) { printReport(w, rep) })
	if rep.Exit == exitOK {
		return nil
	}
	text := "job " + j.Name + ": "
	var bad []string
	for _, s := range rep.Steps {
		if s.Status == job.Failed || s.Status == job.Warning {
			bad = append(bad, s.Name+" ended with exit code "+fmt.Sprint(s.Exit))
		}
	}
	return &statusError{rep.Exit, text + strings.Join(bad, "; "), "look at what is said above", nil}
}

// runJob does a job and tells of it. What is told is not lost when the run is interrupted.
func (a *app) runJob(j *config.Job, dir string) *job.Report {
	state, err := alert.LoadState(dir, j.Name)
	if err != nil {
		a.warn(err.Error())
	}
	var teller alert.Teller
	a.ping(a.ctx, teller, j, alert.PingStart, "")
	rep := job.Run(a.ctx, job.Options{Job: j, Before: state.Last, Now: a.now,
		Step: func(ctx context.Context, name string) job.Step {
			s, room := a.step(ctx, j, name)
			if room > 0 {
				free := room - 1
				state.Figures.Free = &free
			}
			return s
		},
		Hook: a.hook,
	})
	if rep.Instance == "" {
		rep.Instance = a.g.own
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(a.ctx), tellLimit)
	defer cancel()
	notices := a.keepTokens(ctx, j, rep, state)
	for _, n := range missingNotices(a.lacking) {
		notices, rep.Notices = append(notices, n), append(rep.Notices, n.Text)
	}
	host, _ := os.Hostname()
	message := alert.MessageOf(rep, state, host)
	state.Note(rep)
	failed := func(what string, err error) {
		if err != nil {
			a.warn(err.Error())
			rep.Steps = append(rep.Steps, job.Step{Name: what, Status: job.Failed, Exit: exitFailed, Message: err.Error()})
			rep.Status = job.Failed
			if rep.Exit == exitOK || rep.Exit == exitPartial {
				rep.Exit = exitFailed
			}
		}
	}
	failed("alert", teller.Deliver(ctx, a.config.Alerts, state, message))
	failed("alert", teller.DeliverNotices(ctx, a.config.Alerts, state, alert.Notices(notices, host, rep.End)))
	kind := alert.PingSuccess
	if rep.Status == job.Failed {
		kind = alert.PingFailure
	}
	failed("ping", a.ping(ctx, teller, j, kind, message.Text))
	for _, al := range a.config.Alerts {
		if len(al.Jobs) > 0 && !slices.Contains(al.Jobs, j.Name) {
			continue
		}
		if al.TextFile != "" {
			failed("metrics", alert.WriteTextFile(al.TextFile, state))
		}
		if al.Checkmk != "" {
			failed("checkmk", alert.WriteCheckmk(al.Checkmk, state))
		}
	}
	failed("state", state.Save(dir))
	return rep
}

// tellLimit bounds the telling of how a job ended.
const tellLimit = 5 * time.Minute

// ping tells the monitors of a job. A ping of the start that does not arrive is only a warning: the one of the end counts.
func (a *app) ping(ctx context.Context, teller alert.Teller, j *config.Job, kind alert.PingKind, text string) error {
	var all []error
	for name, al := range a.config.Alerts {
		if al.Ping == nil || len(al.Jobs) > 0 && !slices.Contains(al.Jobs, j.Name) {
			continue
		}
		if err := teller.Ping(ctx, al.Ping, kind, text); err != nil {
			err = fmt.Errorf("the ping %s could not be delivered: %w", name, err)
			if kind == alert.PingStart {
				a.warn(err.Error())
				continue
			}
			all = append(all, err)
		}
	}
	return errors.Join(all...)
}

// step runs a command as a step of a job. room is what the storage has room for, and one more, if the command asked.
func (a *app) step(ctx context.Context, j *config.Job, name string) (s job.Step, room int64) {
	sub := newApp(ctx, a.std)
	sub.clock, sub.typed = a.clock, a.typed
	var notes []string
	if name == "backup" {
		sub.broken = a.beforeSources(ctx, j)
	}
	if a.g.json || a.g.quiet {
		sub.std.out = io.Discard
	} else if !a.g.quiet {
		fmt.Fprintf(a.std.out, "== %s\n", name)
	}
	code, err := sub.do(a.stepArgs(j, name))
	if len(sub.watched) > 0 {
		a.lacking = sub.missing()
	}
	s = job.Step{Exit: code}
	if sub.doc != nil {
		s.Doc, _ = json.Marshal(sub.doc)
	}
	if err != nil {
		s.Message, s.Hint = sub.words(err), hint(err)
		if is[*snapshot.AnomalyError](err) || is[*snapshot.HeldError](err) { // until somebody releases it, whichever step meets it
			s.Cause = "retention is held"
		}
		sub.printError(err)
	}
	if name == "backup" {
		notes = a.afterSources(ctx, j, err == nil)
	}
	if len(notes) > 0 {
		s.Message = strings.Join(append([]string{s.Message}, notes...), "; ")
		if s.Exit == exitOK {
			s.Exit = exitFailed
		}
	}
	return s, sub.room.Load()
}

// stepArgs is a step's command line.
func (a *app) stepArgs(j *config.Job, name string) []string {
	command, where := config.SplitStep(name)
	elsewhere := where != "" && command != "copy"
	args := []string{"wtsnap"}
	for _, flag := range a.line.globals {
		switch key, _, _ := strings.Cut(strings.TrimPrefix(flag, "--"), "="); key {
		case "json", "config":
			continue
		case "repo", "password-file", "password-command":
			if elsewhere {
				continue
			}
		}
		args = append(args, flag)
	}
	args = append(args, "--config="+a.config.Path)
	switch {
	case elsewhere:
		args = append(args, "--repo=@"+where)
	case j.Repository != "" && !a.line.given["repo"]:
		args = append(args, "--repo=@"+j.Repository)
	}
	if j.Instance != "" && !a.line.given["instance"] {
		args = append(args, "--instance="+j.Instance)
	}
	args = append(args, command)
	if elsewhere { // what the job says of a command is about its own repository
		return args
	}
	if command == "copy" {
		args = append(args, "--to-repo=@"+where)
	}
	for _, key := range sortedKeys(j.Commands[command]) {
		for _, text := range j.Commands[command][key] {
			args = append(args, "--"+key+"="+text)
		}
	}
	if name == "backup" {
		for _, label := range j.Sources {
			args = append(args, "--source="+label)
		}
	}
	return args
}

func (a *app) showJob(j *config.Job) error {
	type step struct {
		Step    string   `json:"step"`
		Command []string `json:"command"`
	}
	var doc struct {
		Job   string `json:"job"`
		Steps []step `json:"steps"`
	}
	doc.Job = j.Name
	for _, name := range j.Steps {
		doc.Steps = append(doc.Steps, step{name, a.stepArgs(j, name)})
	}
	a.result(doc, func(w io.Writer) {
		for _, s := range doc.Steps {
			for i, arg := range s.Command {
				s.Command[i] = shellWord(arg)
			}
			fmt.Fprintln(w, strings.Join(s.Command, " "))
		}
	})
	return nil
}

// shellWord quotes a word for a shell where it must be.
func shellWord(s string) string {
	if s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_=./:,@%+", r))
	}) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// beforeSources runs the hooks before the job's sources and returns the sources that cannot be saved, with the reason.
func (a *app) beforeSources(ctx context.Context, j *config.Job) map[string]error {
	broken := map[string]error{}
	a.eachSource(j, func(s *config.Source) {
		for _, command := range s.Hooks.Before {
			if err := a.hook(ctx, "before "+s.Label, command, a.sourceEnv(j, s), hookTimeout(&s.Hooks)); err != nil {
				broken[s.Label] = err
				return
			}
		}
	})
	return broken
}

// afterSources runs the hooks behind the job's sources and returns what failed.
func (a *app) afterSources(ctx context.Context, j *config.Job, ok bool) (failed []string) {
	ctx = context.WithoutCancel(ctx)
	a.eachSource(j, func(s *config.Source) {
		kind, commands := "after", s.Hooks.After
		if !ok {
			kind, commands = "failed", s.Hooks.Failed
		}
		for _, set := range []struct {
			kind     string
			commands []string
		}{{kind, commands}, {"finally", s.Hooks.Finally}} {
			for _, command := range set.commands {
				if err := a.hook(ctx, set.kind+" "+s.Label, command, a.sourceEnv(j, s), hookTimeout(&s.Hooks)); err != nil {
					failed = append(failed, err.Error())
				}
			}
		}
	})
	return failed
}

func (a *app) eachSource(j *config.Job, do func(s *config.Source)) {
	for i := range a.config.Sources {
		s := &a.config.Sources[i]
		if len(j.Sources) == 0 || slices.Contains(j.Sources, s.Label) {
			do(s)
		}
	}
}

func (a *app) sourceEnv(j *config.Job, s *config.Source) []string {
	return []string{"WTSNAP_JOB=" + j.Name, "WTSNAP_JOB_SOURCE=" + s.Label}
}

func hookTimeout(h *config.Hooks) time.Duration {
	if h.Timeout.IsZero() {
		return job.HookLimit
	}
	return h.Timeout.Duration()
}

// hook runs a command of the configuration by the shell. Its output goes to standard error, which a journal keeps.
func (a *app) hook(ctx context.Context, kind, command string, env []string, limit time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("it took longer than %s", took(limit)))
	defer cancel()
	if a.g.verbose {
		a.say("hook " + kind + ": " + command)
	}
	c := exec.CommandContext(ctx, "/bin/sh", "-c", command)
	c.Stdout, c.Stderr = a.std.err, a.std.err
	c.Env = append(withoutSecrets(os.Environ()), env...)
	endGroup(c)
	if err := c.Run(); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return fmt.Errorf("the hook %q (%s) failed: %w", command, kind, err)
	}
	return nil
}

// withoutSecrets leaves the repository's password out: hooks that need it say so by naming where it is.
func withoutSecrets(environ []string) []string {
	return slices.DeleteFunc(slices.Clone(environ), func(e string) bool {
		return strings.HasPrefix(e, "WTSNAP_PASSWORD=") || strings.HasPrefix(e, "RCLONE_CONFIG_PASS=")
	})
}

// statePath returns the folder in which is remembered what outlives a run: systemd's, or the user's own.
func statePath() (string, error) {
	if dir, _, _ := strings.Cut(os.Getenv("STATE_DIRECTORY"), ":"); dir != "" {
		return dir, nil
	}
	base := os.Getenv("XDG_STATE_HOME")
	if base == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", usagef("export STATE_DIRECTORY=/var/lib/wtsnap", "there is no folder to remember in how jobs end: neither STATE_DIRECTORY nor HOME is set")
		}
		base = filepath.Join(home, ".local", "state")
	}
	return filepath.Join(base, "wtsnap"), nil
}

// stateDir is statePath of a folder that is there.
func stateDir() (string, error) {
	dir, err := statePath()
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("the folder that remembers how jobs end: %w", err)
	}
	return dir, nil
}

func printReport(w io.Writer, rep *job.Report) {
	defer func() {
		for _, text := range rep.Notices {
			fmt.Fprintf(w, "  %s\n", printable(text))
		}
	}()
	fmt.Fprintf(w, "job %s: %s, from %s to %s\n", rep.Job, rep.Status, when(rep.Start), when(rep.End))
	width := 8
	for _, s := range rep.Steps {
		width = max(width, len(s.Name))
	}
	for _, s := range rep.Steps {
		text := string(s.Status)
		if s.Exit != exitOK {
			text += fmt.Sprintf(" (exit code %d)", s.Exit)
		}
		if s.Status != job.Skipped {
			text += ", " + took(seconds(s.Seconds))
		}
		fmt.Fprintf(w, "  %-*s %s\n", width, s.Name, text)
		if s.Status != job.OK && s.Message != "" {
			fmt.Fprintf(w, "  %*s %s\n", width, "", printable(s.Message))
		}
	}
}
