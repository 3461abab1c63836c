// Package job runs the steps of a job one after the other and says how that ended.
//
// It knows neither repositories nor commands: a step is a function of the caller's. What it owns is what follows from
// what: hooks around the steps, which steps are left out after a failure, which outcome counts for the whole.
package job

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/whole-tale/wtsnap/cmd/wtsnap/config"
)

// A Status is how a step or a job ended, from the best to the worst.
type Status string

// The statuses.
const (
	OK      Status = "ok"
	Skipped Status = "skipped" // not done because of what happened before
	Warning Status = "warning" // done, but for a part that is named
	Failed  Status = "failed"
)

// The exit codes that a job treats apart. They are those of the commands.
const (
	exitOK          = 0
	exitFailed      = 1
	exitPartial     = 3
	exitCredentials = 5
	exitLate        = 6
	exitNoRepo      = 10
	exitBusy        = 11
	exitPassword    = 12
	exitDamage      = 13
	exitGuard       = 14
	exitInterrupted = 130
)

// A Step is how one step ended.
type Step struct {
	Name    string          `json:"name"`
	Status  Status          `json:"status"`
	Exit    int             `json:"exit"`
	Seconds float64         `json:"seconds"`
	Message string          `json:"message,omitempty"` // why it is not OK
	Hint    string          `json:"hint,omitempty"`
	Cause   string          `json:"-"`                // what the trouble is, where other steps, or other runs, may meet the same; "" = Name and Exit
	Doc     json.RawMessage `json:"result,omitempty"` // the command's JSON document
	Log     string          `json:"-"`                // what the command said on standard error, its end
}

// A Report is how a job ended.
type Report struct {
	Job      string    `json:"job"`
	Instance string    `json:"instance,omitempty"`
	Start    time.Time `json:"start"`
	End      time.Time `json:"end"`
	Status   Status    `json:"status"`
	Exit     int       `json:"exit"`
	Steps    []Step    `json:"steps"`
	Notices  []string  `json:"notices,omitempty"` // what is wrong beside the steps, such as a credential that ends soon
}

// OnlyLate reports whether all that failed is that something has not happened for too long: exit code 6.
func (r *Report) OnlyLate() bool {
	late := false
	for _, s := range r.Steps {
		if s.Status == Failed {
			if s.Exit != exitLate {
				return false
			}
			late = true
		}
	}
	return late
}

// Options are how Run does its work.
type Options struct {
	Job  *config.Job
	Step func(ctx context.Context, name string) Step // does one step; Name, Status and Seconds are filled in by Run
	Hook func(ctx context.Context, kind, command string, env []string, limit time.Duration) error
	Now  func() time.Time // nil = time.Now
	// Before is how the job ended last time, or nil: damage that it found is there until it is found to be gone.
	Before *Report
	Said   func(Step) // after each step; may be nil
}

// Run does a job's steps. It always returns a whole report.
func Run(ctx context.Context, o Options) *Report {
	if o.Now == nil {
		o.Now = time.Now
	}
	j := o.Job
	r := &Report{Job: j.Name, Instance: j.Instance, Start: o.Now()}
	work, cancel := ctx, context.CancelFunc(func() {})
	if limit := j.Timeout.Duration(); limit > 0 {
		work, cancel = context.WithTimeoutCause(ctx, limit, fmt.Errorf("the job took longer than its timeout of %s", j.Timeout))
	}
	defer cancel()
	run := runner{Options: &o, r: r}
	if run.hooks(work, "before", j.Hooks.Before) {
		for _, name := range j.Steps {
			run.step(work, name)
		}
	} else {
		for _, name := range j.Steps {
			run.note(Step{Name: name, Status: Skipped, Message: "a hook before the job failed"})
		}
	}
	// What comes now happens whatever became of the job, but not without an end.
	after, stop := context.WithTimeout(context.WithoutCancel(ctx), hookGrace)
	defer stop()
	if r.worst() != Failed {
		run.hooks(after, "after", j.Hooks.After)
	}
	if r.worst() == Failed {
		run.hooks(after, "failed", j.Hooks.Failed)
	}
	run.hooks(after, "finally", j.Hooks.Finally)
	r.End = o.Now()
	r.Status, r.Exit = r.worst(), r.exit()
	return r
}

const (
	// hookGrace bounds the hooks at the end of a job, together.
	hookGrace = 30 * time.Minute
	// HookLimit bounds a hook that has no timeout of its own.
	HookLimit = 10 * time.Minute
)

type runner struct {
	*Options
	r *Report
}

func (r *runner) note(s Step) {
	r.r.Steps = append(r.r.Steps, s)
	if r.Said != nil {
		r.Said(s)
	}
}

// hooks runs hooks of a kind; the first that fails is the last, but for those that run in any case.
func (r *runner) hooks(ctx context.Context, kind string, commands []string) bool {
	ok := true
	for _, command := range commands {
		limit := r.Job.Hooks.Timeout.Duration()
		if limit == 0 {
			limit = HookLimit
		}
		began := r.Now()
		err := r.Hook(ctx, kind, command, Environment(r.r), limit)
		if err == nil {
			continue
		}
		ok = false
		r.note(Step{Name: "hook " + kind, Status: Failed, Exit: exitFailed, Seconds: r.Now().Sub(began).Seconds(), Message: err.Error()})
		if kind == "before" {
			break
		}
	}
	return ok
}

// step does a step unless it must not be done.
func (r *runner) step(ctx context.Context, name string) {
	if why := r.unwise(ctx, name); why != "" {
		r.note(Step{Name: name, Status: Skipped, Message: why})
		return
	}
	began := r.Now()
	s := r.Step(ctx, name)
	s.Name, s.Seconds = name, r.Now().Sub(began).Seconds()
	switch s.Exit {
	case exitOK:
		s.Status = OK
	case exitPartial:
		s.Status = Warning
	case exitBusy: // another prune is at work: what is to be done is being done
		s.Status = Warning
	default:
		s.Status = Failed
		if ctx.Err() != nil && s.Exit == exitInterrupted {
			if cause := context.Cause(ctx); cause != nil {
				s.Message = cause.Error()
			}
		}
	}
	r.note(s)
}

// unwise says why a step must not be done after what happened.
func (r *runner) unwise(ctx context.Context, name string) string {
	if ctx.Err() != nil {
		return context.Cause(ctx).Error()
	}
	command, where := config.SplitStep(name)
	givesUp := command == "forget" || command == "prune"
	if givesUp && r.damaged() {
		return "nothing is given up while there is damage: the last run found some, and no check has been without since"
	}
	for _, s := range r.r.Steps {
		did, there := config.SplitStep(s.Name)
		switch s.Exit {
		case exitCredentials, exitNoRepo, exitPassword: // of a copy, those of the repository that it copies to
			if there == where || command == "copy" && there == "" {
				return "the repository cannot be used"
			}
		case exitInterrupted:
			return "interrupted"
		}
		// While a backup is in doubt, nothing older is given up.
		switch {
		case !givesUp:
		case did == "backup" && s.Status == Failed:
			return "nothing is given up while the backup fails"
		case s.Exit == exitDamage: // in whichever repository: the other one may be what heals it
			return "nothing is given up while there is damage"
		case did == "copy" && there == where && s.Status == Failed:
			return "nothing is given up there while the copy fails"
		case did == "forget" && there == where && s.Exit == exitGuard && command == "prune":
			return "nothing is given up while retention is held"
		}
	}
	return ""
}

// damaged reports whether the last run found damage, and no check of the same repository has been without in this one. What a
// copy found is gone when a copy to the same place has been without.
func (r *runner) damaged() bool {
	if r.Before == nil {
		return false
	}
	return slices.ContainsFunc(r.Before.Steps, func(s Step) bool {
		proof := s.Name
		if did, there := config.SplitStep(s.Name); did != "copy" {
			proof = "check"
			if there != "" {
				proof += "@" + there
			}
		}
		return s.Exit == exitDamage && !slices.ContainsFunc(r.r.Steps, func(s Step) bool { return s.Name == proof && s.Exit == exitOK })
	})
}

func (r *Report) worst() Status {
	order := []Status{OK, Skipped, Warning, Failed}
	worst := OK
	for _, s := range r.Steps {
		if slices.Index(order, s.Status) > slices.Index(order, worst) {
			worst = s.Status
		}
	}
	return worst
}

// exit is the code of the gravest step.
func (r *Report) exit() int {
	for _, code := range []int{exitInterrupted, exitDamage, exitCredentials, exitPassword, exitNoRepo, exitGuard} {
		if slices.ContainsFunc(r.Steps, func(s Step) bool { return s.Exit == code && s.Status == Failed }) {
			return code
		}
	}
	for _, status := range []Status{Failed, Warning} {
		for _, s := range r.Steps {
			if s.Status == status && s.Exit != exitOK {
				return s.Exit
			}
		}
	}
	return exitOK
}

// Environment is what hooks are told, in the form of os.Environ.
func Environment(r *Report) []string {
	env := []string{"WTSNAP_JOB=" + r.Job, "WTSNAP_JOB_STATUS=" + string(r.worst()), fmt.Sprintf("WTSNAP_JOB_EXIT=%d", r.exit())}
	if r.Instance != "" {
		env = append(env, "WTSNAP_JOB_INSTANCE="+r.Instance)
	}
	return env
}
