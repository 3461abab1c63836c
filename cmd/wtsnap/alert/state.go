package alert

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/whole-tale/wtsnap/cmd/wtsnap/job"
	"github.com/whole-tale/wtsnap/snapshot/localfs"
)

// A State is what is remembered of a job from one run to the next, in a file of its own.
type State struct {
	Job         string          `json:"job"`
	LastRun     time.Time       `json:"last_run,omitzero"`     // its start
	LastSuccess time.Time       `json:"last_success,omitzero"` // its end; warnings count as success
	Failing     time.Time       `json:"failing,omitzero"`      // since when
	Late        time.Time       `json:"late,omitzero"`         // since when
	Last        *job.Report     `json:"last,omitempty"`
	Sent        map[string]Sent `json:"sent,omitempty"` // by alert
	// Notices are what alerts have told of what is not how the job ended, by topic and alert.
	Notices map[string]map[string]Sent `json:"notices,omitempty"`
	Figures Figures                    `json:"figures,omitzero"`
}

// Sent is what an alert has told last, and what it could not tell yet.
type Sent struct {
	Event   string    `json:"event,omitempty"`
	Cause   string    `json:"cause,omitempty"` // which failure it was: another one is told again
	Time    time.Time `json:"time,omitzero"`
	Unsent  string    `json:"unsent,omitempty"` // why the last delivery failed
	Pending *Message  `json:"pending,omitempty"`
}

// LoadState reads the state of a job from a folder; there is none before the first run.
func LoadState(dir, name string) (*State, error) {
	s := &State{Job: name, Sent: map[string]Sent{}}
	data, err := os.ReadFile(stateFile(dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err == nil {
		err = json.Unmarshal(data, s)
	}
	if err != nil {
		// Nothing depends on it but that nobody is told twice: begin anew.
		return &State{Job: name, Sent: map[string]Sent{}}, fmt.Errorf("reading what is remembered of the job %s: %w", name, err)
	}
	if s.Sent == nil {
		s.Sent = map[string]Sent{}
	}
	return s, nil
}

// Save writes the state, whole or not at all.
func (s *State) Save(dir string) error {
	data, err := json.MarshalIndent(s, "", "\t")
	if err == nil {
		err = localfs.Replace(stateFile(dir, s.Job), append(data, '\n'), 0o600)
	}
	if err != nil {
		return fmt.Errorf("remembering how the job %s ended: %w", s.Job, err)
	}
	return nil
}

func stateFile(dir, name string) string { return filepath.Join(dir, "job-"+name+".json") }

// Note takes a run into the state.
func (s *State) Note(r *job.Report) {
	last := *r
	last.Steps = slices.Clone(r.Steps)
	for i := range last.Steps {
		last.Steps[i].Doc = nil // it may name users' files
	}
	s.LastRun, s.Last = r.Start, &last
	s.Figures.note(r)
	switch {
	case r.Status == job.Failed && r.OnlyLate():
		if s.Late.IsZero() {
			s.Late = r.End
		}
		s.Failing = time.Time{}
		return
	default:
		s.Late = time.Time{}
	}
	if r.Status == job.Failed {
		if s.Failing.IsZero() {
			s.Failing = r.End
		}
		return
	}
	s.LastSuccess, s.Failing = r.End, time.Time{}
}
