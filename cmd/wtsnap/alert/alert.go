// Package alert tells people and monitors how a job ended, or that it did not run.
//
// A message is sent once: what an alert has told is remembered (State), and told again only where the cause is another,
// where Repeat says so, or where it could not be delivered. An alert that cannot be delivered is itself told, by the
// caller and by the other alerts.
package alert

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/whole-tale/wtsnap/cmd/wtsnap/config"
	"github.com/whole-tale/wtsnap/cmd/wtsnap/job"
)

// A Message is what people are told.
type Message struct {
	Event config.Event `json:"event"`
	Cause string       `json:"cause"` // equal for the same trouble
	Title string       `json:"title"`
	Text  string       `json:"text"`
	Time  time.Time    `json:"time"`
}

// MessageOf is what there is to say about a run, after what was before it. There is nothing to say (nil) of a success
// behind a success but OnSuccess.
func MessageOf(r *job.Report, before *State, host string) *Message {
	m := &Message{Time: r.End}
	where := r.Job
	if r.Instance != "" {
		where = r.Instance + ": " + r.Job
	}
	var cause []string
	for _, s := range r.Steps {
		if s.Status == job.Failed || s.Status == job.Warning {
			cause = append(cause, fmt.Sprintf("%s %d", s.Name, s.Exit))
		}
	}
	m.Cause = strings.Join(cause, ", ")
	switch {
	case r.Status == job.Failed:
		m.Event, m.Title = config.OnFailure, "backup job failed: "+where
	case !before.Failing.IsZero() || !before.Late.IsZero():
		m.Event, m.Title = config.OnRecovery, "backup job works again: "+where
	case r.Status == job.Warning:
		m.Event, m.Title = config.OnWarning, "backup job ended with warnings: "+where
	default:
		m.Event, m.Title = config.OnSuccess, "backup job done: "+where
	}
	m.Text = Text(r, host)
	return m
}

// LateMessage says that a job, or an instance's snapshots, are later than promised.
func LateMessage(what, detail string, now time.Time) *Message {
	return &Message{Event: config.OnLate, Cause: "late", Title: "backup is late: " + what, Text: detail, Time: now}
}

// Text is a report for people, without names of files.
func Text(r *job.Report, host string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "job %s", r.Job)
	if r.Instance != "" {
		fmt.Fprintf(&b, " of %s", r.Instance)
	}
	if host != "" {
		fmt.Fprintf(&b, " on %s", host)
	}
	fmt.Fprintf(&b, ": %s (exit code %d)\nfrom %s to %s\n", r.Status, r.Exit, r.Start.Format(stamp), r.End.Format(stamp))
	for _, s := range r.Steps {
		fmt.Fprintf(&b, "  %-8s %s", s.Name, s.Status)
		if s.Seconds >= 1 {
			fmt.Fprintf(&b, ", %s", time.Duration(s.Seconds*float64(time.Second)).Round(time.Second))
		}
		b.WriteByte('\n')
		if s.Message != "" {
			b.WriteString("    " + s.Message + "\n")
		}
		if s.Hint != "" {
			b.WriteString("    try: " + s.Hint + "\n")
		}
	}
	return b.String()
}

const stamp = "2006-01-02 15:04:05 MST"

// wanted are the events that an alert is about if it does not say.
var wanted = []config.Event{config.OnFailure, config.OnLate, config.OnRecovery}

// due reports whether an alert is to tell a message after what it told last.
func due(a *config.Alert, m *Message, last Sent) bool {
	on := a.On
	if len(on) == 0 {
		on = wanted
	}
	if !slices.Contains(on, m.Event) {
		return false
	}
	if last.Event != string(m.Event) || last.Cause != m.Cause || m.Event == config.OnSuccess {
		return true
	}
	return !a.Repeat.IsZero() && !m.Time.Before(last.Time.Add(a.Repeat.Duration()))
}

// Deliver tells a message, and what earlier ones could not be told, by all alerts that are about the job; it takes what
// it did into the state. The error names the alerts that could not be delivered.
func (t Teller) Deliver(ctx context.Context, alerts map[string]*config.Alert, s *State, m *Message) error {
	var names []string
	for name, a := range alerts {
		if a.Notify != nil && (len(a.Jobs) == 0 || slices.Contains(a.Jobs, s.Job)) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	var failed []error
	// Those that failed last time come first, so that the others can tell of it.
	slices.SortStableFunc(names, func(a, b string) int { return len(s.Sent[b].Unsent) - len(s.Sent[a].Unsent) })
	for _, name := range names {
		a, last := alerts[name], s.Sent[name]
		pending := last.Pending
		if m != nil && due(a, m, last) {
			pending = m
		}
		if pending == nil {
			continue
		}
		text := *pending
		if pending != m {
			text.Text = "(could not be delivered at " + pending.Time.Format(stamp) + ")\n" + text.Text
		}
		for _, err := range failed {
			text.Text += "\n" + err.Error() + "\n"
		}
		sent := Sent{Event: string(pending.Event), Cause: pending.Cause, Time: pending.Time}
		if err := t.notify(ctx, a.Notify, &text); err != nil {
			err = fmt.Errorf("the alert %s could not be delivered: %w", name, err)
			failed = append(failed, err)
			sent = last
			sent.Unsent, sent.Pending = err.Error(), pending
		}
		s.Sent[name] = sent
	}
	return errors.Join(failed...)
}
