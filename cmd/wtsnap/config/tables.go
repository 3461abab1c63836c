package config

import (
	"path/filepath"
	"slices"
	"strings"

	"github.com/whole-tale/wtsnap/cmd/wtsnap/schedule"
)

// Steps are what a job can do, in the order in which it makes sense.
var Steps = []string{"backup", "copy", "forget", "prune", "check", "drill", "status"}

// ElsewhereSteps are those of them that a job can do in another repository than its own.
var ElsewhereSteps = []string{"forget", "prune", "check", "drill", "status"}

// repository reads a further repository: global flags, and tables of the flags of commands there.
func (r *reader) repository(path []string, value any) (globals Values, commands map[string]Values) {
	globals, commands = Values{}, map[string]Values{}
	r.table(path, value, func(path []string, key string, value any) {
		if f, ok := r.v.Globals[key]; ok {
			r.flag(path, key, f, value, globals)
			return
		}
		if flags, ok := r.v.Commands[key]; ok && slices.Contains(ElsewhereSteps, key) {
			commands[key] = r.flags(path, value, flags)
			return
		}
		known := slices.Clone(ElsewhereSteps)
		for name := range r.v.Globals {
			known = append(known, name)
		}
		r.unknown(path, key, known)
	})
	return globals, commands
}

// step says what is wrong with a step of a job.
func (r *reader) step(path []string, c *Config, j *Job, step string) {
	command, where := SplitStep(step)
	_, there := c.Repositories[where]
	switch {
	case !slices.Contains(Steps, command):
		r.bad(path, "there is no step %q; there are %s", step, strings.Join(Steps, ", "))
	case command == "copy" && where == "":
		r.bad(path, "the step \"copy\" does not say where to: write \"copy@NAME\" for [repositories.NAME]")
	case !strings.Contains(step, "@"):
	case command != "copy" && !slices.Contains(ElsewhereSteps, command):
		r.bad(path, "%q: a job saves into its own repository; \"copy@%s\" copies what it saved", step, where)
	case !there:
		r.bad(path, "%q: there is no [repositories.%s]", step, where)
	case where == j.Repository && command == "copy":
		r.bad(path, "%q: this is the job's own repository", step)
	case where == j.Repository:
		r.bad(path, "%q: this is the job's own repository: write %q", step, command)
	}
}

func (r *reader) source(path []string, label string, value any) Source {
	s := Source{Label: label, Values: Values{}}
	r.table(path, value, func(path []string, key string, value any) {
		f, ok := r.v.Source[key]
		switch {
		case key == "from":
			s.From = *r.secret(path, value)
		case key == "hooks":
			s.Hooks = r.hooks(path, value)
		case ok:
			r.flag(path, key, f, value, s.Values)
		default:
			known := []string{"from", "hooks"}
			for name := range r.v.Source {
				known = append(known, name)
			}
			r.unknown(path, key, known)
		}
	})
	if s.From == (Secret{}) {
		r.bad(path, "from is missing: a folder, mongodb://..., or what else backup takes as a source")
	}
	return s
}

func (r *reader) instance(path []string, value any) *Instance {
	i := &Instance{}
	r.table(path, value, func(path []string, key string, value any) {
		switch key {
		case "max-age":
			i.MaxAge = r.span(path, value)
		case "max-drill-age":
			i.MaxDrillAge = r.span(path, value)
		case "max-check-age":
			i.MaxCheckAge = r.span(path, value)
		case "repository":
			i.Repository = r.text(path, value)
		default:
			r.unknown(path, key, []string{"max-age", "max-drill-age", "max-check-age", "repository"})
		}
	})
	return i
}

func (r *reader) job(path []string, name string, value any) *Job {
	j := &Job{Name: name, Commands: map[string]Values{}}
	r.table(path, value, func(path []string, key string, value any) {
		if flags, ok := r.v.Commands[key]; ok && slices.Contains(Steps, key) {
			j.Commands[key] = r.flags(path, value, flags)
			return
		}
		switch key {
		case "steps":
			j.Steps = r.texts(path, value)
		case "schedule":
			j.Schedule = r.text(path, value)
			if _, err := schedule.Parse(j.Schedule); err != nil {
				r.bad(path, "%v", err)
			}
		case "jitter":
			j.Jitter = r.span(path, value)
		case "timeout":
			j.Timeout = r.span(path, value)
		case "max-age":
			j.MaxAge = r.span(path, value)
		case "repository":
			j.Repository = r.text(path, value)
		case "instance":
			j.Instance = r.text(path, value)
		case "sources":
			j.Sources = r.texts(path, value)
		case "hooks":
			j.Hooks = r.hooks(path, value)
		default:
			r.unknown(path, key, append([]string{"steps", "schedule", "jitter", "timeout", "max-age", "repository", "instance",
				"sources", "hooks"}, Steps...))
		}
	})
	if len(j.Steps) == 0 {
		r.bad(path, "steps is missing, such as steps = [\"backup\", \"forget\", \"prune\", \"check\"]")
	}
	return j
}

func (r *reader) hooks(path []string, value any) (h Hooks) {
	r.table(path, value, func(path []string, key string, value any) {
		switch key {
		case "before":
			h.Before = r.texts(path, value)
		case "after":
			h.After = r.texts(path, value)
		case "failed":
			h.Failed = r.texts(path, value)
		case "finally":
			h.Finally = r.texts(path, value)
		case "timeout":
			h.Timeout = r.span(path, value)
		default:
			r.unknown(path, key, []string{"before", "after", "failed", "finally", "timeout"})
		}
	})
	return h
}

func (r *reader) alert(path []string, name string, value any) *Alert {
	a := &Alert{Name: name}
	r.table(path, value, func(path []string, key string, value any) {
		switch key {
		case "notify":
			a.Notify = r.secret(path, value)
		case "ping":
			a.Ping = r.secret(path, value)
		case "text-file":
			a.TextFile = r.file(path, value)
		case "checkmk":
			a.Checkmk = r.file(path, value)
		case "jobs":
			a.Jobs = r.texts(path, value)
		case "repeat":
			a.Repeat = r.span(path, value)
		case "on":
			for _, text := range r.texts(path, value) {
				if !slices.Contains(Events, Event(text)) {
					r.bad(path, "there is no event %q; there are success, warning, failure, recovery, late and expiry", text)
				}
				a.On = append(a.On, Event(text))
			}
		default:
			r.unknown(path, key, []string{"notify", "ping", "text-file", "checkmk", "jobs", "repeat", "on"})
		}
	})
	if a.Notify == nil && a.Ping == nil && a.TextFile == "" && a.Checkmk == "" {
		r.bad(path, "it tells nobody: notify, ping, text-file or checkmk is missing")
	}
	return a
}

// file is text that names a file whatever the current folder is.
func (r *reader) file(path []string, value any) string {
	s := r.text(path, value)
	if s != "" && !filepath.IsAbs(s) {
		r.bad(path, "write the whole path, from / on")
	}
	return s
}
