// Package config reads wtsnap.toml, which says what is saved, where to, when, and who hears of it.
//
// What a command's flag can say, the configuration says by the flag's name: at the top for the flags that all commands
// have, in a table named after the command for the others. So the package knows no flags; the caller hands it a
// Vocabulary of them. What no command line says - sources by name, jobs, alerts - has tables of its own.
//
// Nothing that is not understood is passed over: an unknown key, a value of the wrong kind and a name that nothing has
// are errors, all of them told at once, each with its line.
package config

import (
	"fmt"
	"slices"
	"strings"

	"github.com/whole-tale/wtsnap/snapshot"
)

// A Kind says which TOML values a flag takes.
type Kind uint8

const (
	Text Kind = iota // a string or a number
	Bool
	List // strings, or one of them
)

// A Flag is what a key of a command's table can be.
type Flag struct {
	Kind  Kind
	Usage string
	Check func(string) error // refuses bad values of Text and List; may be nil
}

// A Vocabulary holds the flags that the configuration can set.
type Vocabulary struct {
	Globals  map[string]Flag            // of every command
	Commands map[string]map[string]Flag // by command
	Source   map[string]Flag            // those of backup that a single source can have as well
}

// Values are flags by name, each with its values in the text form of the command line.
type Values map[string][]string

// Config is what a configuration says.
type Config struct {
	Path         string
	Globals      Values
	Repositories map[string]Values // further ones; chosen by -r @NAME, by jobs and by their steps
	// Elsewhere are, by the name of a further repository and by command, the flags of commands there.
	Elsewhere map[string]map[string]Values
	Sources   []Source // in the order of the file
	Commands  map[string]Values
	Jobs      map[string]*Job
	Alerts    map[string]*Alert
	Instances map[string]*Instance
}

// A Source is a source of backups.
type Source struct {
	Label  string
	From   Secret // a folder, tar:FILE, mongodb://...: as on the command line; a URI may hold a password
	Values Values
	Hooks  Hooks
}

// An Instance says what is promised of one that is watched.
type Instance struct {
	MaxAge      snapshot.Span // of its newest complete snapshot
	MaxDrillAge snapshot.Span // of its last drill
	MaxCheckAge snapshot.Span // of the last check of its repository that read data
	Repository  string        // a key of Repositories; "" = the main one
}

// A Job is what "run" does under one name.
type Job struct {
	Name       string
	Steps      []string // commands, of Steps; "forget@NAME" is one of a further repository, see SplitStep
	Schedule   string   // cron's five fields, @daily, or "02:30"; "" = only by hand
	Jitter     snapshot.Span
	Timeout    snapshot.Span // of the whole job; zero = none
	MaxAge     snapshot.Span // how old the newest complete snapshot may become; zero: twice the time between two runs
	Repository string        // a key of Repositories; "" = the main one
	Instance   string        // "" = this machine's
	Sources    []string      // labels; none = all
	Commands   map[string]Values
	Hooks      Hooks
}

// SplitStep takes a step apart: "forget@offsite" is the command forget in the repository offsite, "copy@offsite" copies from
// the job's repository to it. "" is the job's own repository.
func SplitStep(step string) (command, repository string) {
	command, repository, _ = strings.Cut(step, "@")
	return command, repository
}

// Does reports whether a step of the job is a command in a repository (a key of Repositories; "" = the main one).
func (j *Job) Does(command, repository string) bool {
	return slices.ContainsFunc(j.Steps, func(step string) bool {
		c, where := SplitStep(step)
		if where == "" {
			where = j.Repository
		}
		return c == command && where == repository
	})
}

// Others are the further repositories that steps of the job use beside the job's own, in the order of the steps.
func (j *Job) Others() (names []string) {
	for _, step := range j.Steps {
		if _, name := SplitStep(step); name != "" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// CopiesFrom reports whether the job copies from a repository to another one; both as in Does.
func (j *Job) CopiesFrom(repository, to string) bool {
	return j.Repository == repository && slices.Contains(j.Steps, "copy@"+to)
}

// Hooks are commands of the shell that run around a job or a source.
type Hooks struct {
	Before  []string // a failure keeps what follows from being done
	After   []string // when it was done without an error
	Failed  []string // when it was not
	Finally []string // in any case, last
	Timeout snapshot.Span
}

// Empty reports whether there is nothing to run.
func (h *Hooks) Empty() bool {
	return len(h.Before)+len(h.After)+len(h.Failed)+len(h.Finally) == 0
}

// An Alert is a way to tell somebody.
type Alert struct {
	Name   string
	Notify *Secret  // a URL of the notifier library: slack://, smtp://, ntfy://, generic+https://
	Ping   *Secret  // a URL of healthchecks' kind
	Jobs   []string // none = all
	On     []Event  // which outcomes are worth it; none = OnFailure, OnLate, OnExpiry, OnRecovery
	Repeat snapshot.Span

	TextFile string // a file for Prometheus' node exporter
	Checkmk  string // a file for Checkmk's spool folder
}

// An Event is why somebody is told.
type Event string

// The events.
const (
	OnSuccess  Event = "success"  // a run without a problem
	OnWarning  Event = "warning"  // a run with some, such as files that could not be read
	OnFailure  Event = "failure"  // a run that did not do what it should
	OnRecovery Event = "recovery" // the first success after a failure
	OnLate     Event = "late"     // there was no run when there should have been
	OnExpiry   Event = "expiry"   // a credential ends soon, or cannot be renewed
)

// Good reports whether the event is that nothing failed.
func (e Event) Good() bool { return e == OnSuccess || e == OnWarning || e == OnRecovery }

// Events are all events.
var Events = []Event{OnSuccess, OnWarning, OnFailure, OnRecovery, OnLate, OnExpiry}

// Source returns the source of a label.
func (c *Config) Source(label string) (Source, bool) {
	i := slices.IndexFunc(c.Sources, func(s Source) bool { return s.Label == label })
	if i < 0 {
		return Source{}, false
	}
	return c.Sources[i], true
}

// An Error is everything that is wrong with a configuration.
type Error struct {
	Path     string
	Problems []Problem // ordered by line
}

// A Problem is one thing that is wrong.
type Problem struct {
	Line int // 0: none in particular
	Key  string
	Text string
}

func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "the configuration %s cannot be used:", e.Path)
	for _, p := range e.Problems {
		b.WriteString("\n  ")
		if p.Line > 0 {
			fmt.Fprintf(&b, "line %d: ", p.Line)
		}
		if p.Key != "" {
			b.WriteString(p.Key + ": ")
		}
		b.WriteString(p.Text)
	}
	return b.String()
}
