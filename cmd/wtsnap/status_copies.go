package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/snapshot"
)

// A copyState says how new the copies of an instance's snapshots are in a repository that a job of the configuration copies
// them to.
type copyState struct {
	Repository string  `json:"repository"`
	Instance   string  `json:"instance"`
	Newest     string  `json:"newest,omitempty"`
	Time       string  `json:"time,omitempty"`
	Seconds    float64 `json:"age_seconds"`
	Promised   float64 `json:"promised_seconds,omitempty"`
	Late       bool    `json:"late"`
	Missing    int     `json:"missing"` // complete snapshots that are newer than the newest one there
	Error      string  `json:"error,omitempty"`

	age, promised time.Duration
	err           error // that repository cannot be read
}

// text says it in words.
func (s *copyState) text() string {
	if s.err != nil {
		return "cannot be looked at: " + s.Error
	}
	text := "no complete snapshot was copied"
	if s.Newest != "" {
		text = "newest copy is " + age(s.age) + " old"
	}
	switch {
	case s.promised > 0 && s.Late:
		text += " (LATE, promised: " + age(s.promised) + ")"
	case s.promised > 0:
		text += " (promised: " + age(s.promised) + ")"
	}
	if s.Missing > 0 {
		text += "; " + plural(s.Missing, "newer snapshot is", "newer snapshots are") + " not there yet"
	}
	return text
}

// plugin is its state for monitors.
func (s *copyState) plugin() int {
	switch {
	case s.Late:
		return pluginCritical
	case s.err != nil:
		return pluginWarning
	}
	return pluginOK
}

// copies looks into the repositories that jobs copy this one's snapshots to.
func (a *app) copies(snaps []*snapshot.Snapshot, list []snapshot.InstanceStatus, now time.Time) (out []*copyState) {
	if a.config == nil {
		return nil
	}
	own := strings.TrimPrefix(a.repoName, "@")
	for _, place := range sortedKeys(a.config.Repositories) {
		promised := map[string]time.Duration{}
		for _, j := range a.config.Jobs {
			if !j.CopiesFrom(own, place) {
				continue
			}
			for i := range list {
				if of := cmpOr(j.Instance, a.g.own); of == "" || of == list[i].Instance {
					promised[list[i].Instance] = max(promised[list[i].Instance], a.promisedBy(j))
				}
			}
		}
		if len(promised) == 0 {
			continue
		}
		there, err := a.copiesIn(place)
		for _, name := range sortedKeys(promised) {
			s := &copyState{Repository: place, Instance: name, promised: promised[name], Promised: promised[name].Seconds(), err: err}
			if err != nil {
				s.Error = message(err)
			} else {
				s.compare(snaps, there, now)
			}
			out = append(out, s)
		}
	}
	return out
}

// copiesIn lists the snapshots of a further repository. Somebody waits, so it is not tried for long.
func (a *app) copiesIn(place string) ([]*snapshot.Snapshot, error) {
	before := a.g
	defer func() { a.g = before }()
	if !a.g.retrySet {
		hasty := *a.g
		hasty.retryFor, _ = snapshot.ParseDuration(doctorPatience)
		hasty.retrySet = true
		a.g = &hasty
	}
	p, err := a.furtherPlace(place)
	if err != nil {
		return nil, err
	}
	r, _, err := copyTarget.openPlace(a, p, "")
	if err != nil {
		return nil, err
	}
	snaps, err := snapshot.List(a.ctx, r, snapshot.Filter{})
	if err != nil {
		return nil, fmt.Errorf("listing the snapshots: %w", err)
	}
	return snaps, nil
}

// compare fills in what the other repository has of what is here.
func (s *copyState) compare(here, there []*snapshot.Snapshot, now time.Time) {
	own := func(snap *snapshot.Snapshot) bool {
		return snap.Instance == s.Instance && snap.Complete && !snap.Checkpoint
	}
	var newest *snapshot.Snapshot
	ids := map[repo.SnapshotID]bool{}
	for _, snap := range there {
		if own(snap) && (newest == nil || snap.Time.After(newest.Time)) {
			newest = snap
		}
		ids[snap.Ref.ID] = true
	}
	if newest != nil {
		s.age = max(0, now.Sub(newest.Time))
		s.Newest, s.Time, s.Seconds = newest.Ref.ID.String(), utc(newest.Time), s.age.Seconds()
	}
	missing := slices.DeleteFunc(slices.Clone(here), func(snap *snapshot.Snapshot) bool {
		return !own(snap) || ids[snap.Ref.ID] || newest != nil && !snap.Time.After(newest.Time)
	})
	s.Missing = len(missing)
	s.Late = s.promised > 0 && (newest == nil || s.age > s.promised)
}
