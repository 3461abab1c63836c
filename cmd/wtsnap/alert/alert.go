// Package alert tells people and monitors how a job ended, or that it did not run.
//
// A message is sent once: what an alert has told is remembered (State), and told again only where the cause is another,
// where Repeat says so, or where it could not be delivered. An alert that cannot be delivered is itself told, by the
// caller and by the other alerts.
package alert

import (
	"cmp"
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
	// Topic tells apart what goes on at the same time: "" is how the job ended. Of each topic the same cause is told once.
	Topic string       `json:"topic,omitempty"`
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
			what := s.Cause
			if what == "" {
				what = fmt.Sprintf("%s %d", s.Name, s.Exit)
			}
			if !slices.Contains(cause, what) {
				cause = append(cause, what)
			}
		}
	}
	m.Cause = strings.Join(cause, ", ")
	switch {
	case r.Status == job.Failed && r.OnlyLate():
		m.Event, m.Title = config.OnLate, "backup is late: "+where
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

// A Notice is something that is wrong although the job may have ended well, such as a credential that ends soon.
type Notice struct {
	Topic string       // what it is about
	Event config.Event // who wants to hear of it; "" = of what expires
	Cause string       // equal for the same trouble
	Title string
	Text  string
}

// Notices makes messages of notices.
func Notices(notices []Notice, host string, now time.Time) (out []*Message) {
	for _, n := range notices {
		text := n.Text
		if host != "" {
			text = "on " + host + ": " + text
		}
		out = append(out, &Message{Topic: n.Topic, Event: cmp.Or(n.Event, config.OnExpiry), Cause: n.Cause, Title: n.Title, Text: text, Time: now})
	}
	return out
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
	for _, notice := range r.Notices {
		b.WriteString(notice + "\n")
	}
	return b.String()
}

const stamp = "2006-01-02 15:04:05 MST"

// wanted are the events that an alert is about if it does not say.
var wanted = []config.Event{config.OnFailure, config.OnLate, config.OnExpiry, config.OnRecovery}

// wants reports whether an alert is about an event.
func wants(a *config.Alert, e config.Event) bool {
	if len(a.On) == 0 {
		return slices.Contains(wanted, e)
	}
	return slices.Contains(a.On, e)
}

// due reports whether an alert is to tell a message after what it told last.
func due(a *config.Alert, m *Message, last Sent) bool {
	if !wants(a, m.Event) {
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
	return t.deliver(ctx, alerts, s, s.Sent, m)
}

// DeliverNotices is Deliver of all that there is to be noticed now, each topic by itself. Topics that are over are forgotten,
// so that the same trouble is told when it comes again.
func (t Teller) DeliverNotices(ctx context.Context, alerts map[string]*config.Alert, s *State, notices []*Message) error {
	var failed []error
	now := map[string]map[string]Sent{}
	for _, m := range notices {
		sent := s.Notices[m.Topic]
		if sent == nil {
			sent = map[string]Sent{}
		}
		failed = append(failed, t.deliver(ctx, alerts, s, sent, m))
		now[m.Topic] = sent
	}
	for topic, sent := range s.Notices { // over, but not everybody could be told yet
		if now[topic] == nil && pending(sent) {
			failed = append(failed, t.deliver(ctx, alerts, s, sent, nil))
			if pending(sent) {
				now[topic] = sent
			}
		}
	}
	s.Notices = now
	return errors.Join(failed...)
}

func pending(sent map[string]Sent) bool {
	for _, s := range sent {
		if s.Pending != nil {
			return true
		}
	}
	return false
}

func (t Teller) deliver(ctx context.Context, alerts map[string]*config.Alert, s *State, told map[string]Sent, m *Message) error {
	var names []string
	for name, a := range alerts {
		if a.Notify != nil && (len(a.Jobs) == 0 || slices.Contains(a.Jobs, s.Job)) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	var failed []error
	// Those that failed last time come first, so that the others can tell of it.
	slices.SortStableFunc(names, func(a, b string) int { return len(told[b].Unsent) - len(told[a].Unsent) })
	for _, name := range names {
		a, last := alerts[name], told[name]
		pending := last.Pending
		switch {
		case m == nil:
		case due(a, m, last):
			pending = m
		case m.Event.Good() && !wants(a, m.Event): // the same trouble is told when it comes again
			last.Event, last.Cause = string(m.Event), m.Cause
			told[name] = last
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
		told[name] = sent
	}
	return errors.Join(failed...)
}
