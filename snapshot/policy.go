package snapshot

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// A Policy says which snapshots of an instance to keep. A snapshot stays if any rule keeps it. The zero Policy is the
// default one: Within a week.
//
// Hourly to Yearly keep the newest snapshot of each of that many hours, days, weeks (of ISO 8601), months and years in
// which there is one. Negative numbers mean all of them.
type Policy struct {
	Within  Span // keep all that are at most so much older than the newest complete one
	Last    int
	Hourly  int
	Daily   int
	Weekly  int
	Monthly int
	Yearly  int
	Tags    []string // keep all that have one of these
}

// defaultWithin is what the zero Policy keeps.
var defaultWithin = Span{Days: 7}

// futureMargin is how much later than now a snapshot may be dated: clocks differ a little, and of several backups in
// one second each is dated a second after the other.
const futureMargin = time.Hour

// IsZero reports whether no rule was set.
func (p Policy) IsZero() bool {
	return p.Within.IsZero() && p.Last == 0 && p.Hourly == 0 && p.Daily == 0 && p.Weekly == 0 && p.Monthly == 0 &&
		p.Yearly == 0 && len(p.Tags) == 0
}

// A Decision says what a policy does with a snapshot, and why.
type Decision struct {
	Snapshot *Snapshot
	Keep     bool
	Reasons  []string // at least one
}

func (d *Decision) keep(reason string) {
	d.Keep = true
	d.Reasons = append(d.Reasons, reason)
}

// ApplyPolicy decides on each snapshot, instance by instance; the decisions are in the order of snaps. Hours, days and
// so on are those of now's time zone. Whatever the policy:
//
//   - the newest complete snapshot of each instance stays;
//   - a snapshot that is held stays;
//   - all of an instance stay while one of them is unlike those before it, and nobody has released it;
//   - a snapshot that is dated more than an hour after now stays, and counts for no rule: some clock was wrong, and it
//     must not make others look old;
//   - an incomplete snapshot never takes the place of a complete one: the rules count those that lack a source by
//     themselves;
//   - captures of an oplog count for no rule; the newest stays;
//   - a checkpoint goes once there is a newer complete snapshot; of newer ones the newest stays, and the one that
//     holds the most.
func ApplyPolicy(snaps []*Snapshot, p Policy, now time.Time) []Decision {
	if p.IsZero() {
		p.Within = defaultWithin
	}
	decisions := make([]Decision, len(snaps))
	of := map[*Snapshot]*Decision{}
	for i, s := range snaps {
		decisions[i].Snapshot = s
		of[s] = &decisions[i]
	}
	sorted := slices.Clone(snaps)
	SortSnapshots(sorted)
	groups := map[string][]*Decision{}
	for _, s := range slices.Backward(sorted) {
		groups[s.Instance] = append(groups[s.Instance], of[s])
	}
	for instance, group := range groups {
		p.applyTo(group, now)
		for _, s := range HeldBy(snaps, instance) {
			for _, d := range group {
				if !d.Keep {
					d.Reasons = nil
				}
				d.keep("retention is held: snapshot " + s.Ref.ID.Short() + " is unlike those before it")
			}
		}
	}
	return decisions
}

// applyTo decides on the snapshots of one instance, newest first.
func (p Policy) applyTo(group []*Decision, now time.Time) {
	var complete, partial, checkpoints, oplogs []*Decision
	for _, d := range group {
		s := d.Snapshot
		if h := s.Hold(); h.Active(now) {
			d.keep(h.reason(now.Location()))
		}
		switch {
		case s.HoldsOplog():
			oplogs = append(oplogs, d)
		case s.Time.After(now.Add(futureMargin)):
			d.keep("dated in the future")
		case s.Checkpoint:
			checkpoints = append(checkpoints, d)
		case s.Complete:
			complete = append(complete, d)
		default:
			partial = append(partial, d)
		}
	}
	// The newest complete one, and the newest that no wrong clock has dated.
	if i := slices.IndexFunc(group, func(d *Decision) bool {
		return d.Snapshot.Finished()
	}); i >= 0 {
		group[i].keep("the newest complete one")
	}
	reference := now
	var newest time.Time
	if len(complete) > 0 {
		newest = complete[0].Snapshot.Time
		reference = newest.In(now.Location())
		if !slices.Contains(complete[0].Reasons, "the newest complete one") {
			complete[0].keep("the newest complete one that is not dated in the future")
		}
	}
	p.rules(complete, reference, now.Location())
	if len(partial) > 0 && partial[0].Snapshot.Time.After(newest) {
		partial[0].keep("incomplete, but newer than the newest complete one")
	}
	p.rules(partial, reference, now.Location())
	keepCheckpoints(checkpoints, newest)
	keepOplogs(oplogs)
	for _, d := range group {
		if !d.Keep && len(d.Reasons) == 0 {
			d.Reasons = []string{"no rule keeps it"}
		}
	}
}

// rules applies what the user asked for to the snapshots of one kind, newest first.
func (p Policy) rules(list []*Decision, reference time.Time, zone *time.Location) {
	if !p.Within.IsZero() {
		since := p.Within.Before(reference)
		for _, d := range list {
			if !d.Snapshot.Time.Before(since) {
				d.keep("within " + p.Within.String())
			}
		}
	}
	for i, d := range list {
		if p.Last < 0 || i < p.Last {
			d.keep("among the last " + countText(p.Last))
		}
		if i := slices.IndexFunc(d.Snapshot.CurrentTags(), func(tag string) bool { return slices.Contains(p.Tags, tag) }); i >= 0 {
			d.keep("tag " + d.Snapshot.CurrentTags()[i])
		}
	}
	for _, rule := range []struct {
		n      int
		name   string
		period func(t time.Time) string
	}{
		{p.Hourly, "hourly", func(t time.Time) string { return t.Format("2006-01-02 15 -0700") }},
		{p.Daily, "daily", func(t time.Time) string { return t.Format("2006-01-02") }},
		{p.Weekly, "weekly", func(t time.Time) string { y, w := t.ISOWeek(); return fmt.Sprintf("%d-%d", y, w) }},
		{p.Monthly, "monthly", func(t time.Time) string { return t.Format("2006-01") }},
		{p.Yearly, "yearly", func(t time.Time) string { return t.Format("2006") }},
	} {
		last, left := "", rule.n
		for _, d := range list {
			period := rule.period(d.Snapshot.Time.In(zone))
			if left == 0 {
				break
			}
			if period != last {
				last = period
				left--
				d.keep(rule.name + " " + countText(rule.n))
			}
		}
	}
}

func countText(n int) string {
	if n < 0 {
		return "(all)"
	}
	return fmt.Sprint(n)
}

// keepCheckpoints decides on checkpoints, newest first.
func keepCheckpoints(list []*Decision, newest time.Time) {
	var most *Decision
	for i, d := range list {
		if !d.Snapshot.Time.After(newest) {
			d.Reasons = append(d.Reasons, "a checkpoint, and a newer snapshot is complete")
			continue
		}
		if i == 0 {
			d.keep("the newest checkpoint, and nothing complete is newer")
		}
		if most == nil || d.Snapshot.Bytes > most.Snapshot.Bytes {
			most = d
		}
	}
	if most != nil && most != list[0] {
		most.keep("the checkpoint that holds the most, and nothing complete is newer")
	}
	for _, d := range list {
		if !d.Keep && len(d.Reasons) == 0 {
			d.Reasons = []string{"a checkpoint that a newer one replaces"}
		}
	}
}

// keepOplogs decides on captures of an oplog, newest first: the newest of each label has all that is still needed.
func keepOplogs(list []*Decision) {
	labels := map[string]bool{}
	for _, d := range list {
		for _, src := range d.Snapshot.Sources {
			if d.Snapshot.Complete && !labels[src.Label] {
				labels[src.Label] = true
				d.keep("the oplog since the oldest dump")
			}
		}
		if !d.Keep {
			d.Reasons = append(d.Reasons, "a newer capture of the oplog takes its place")
		}
	}
}

// String returns the rules as the flags of the command line.
func (p Policy) String() string {
	if p.IsZero() {
		p.Within = defaultWithin
	}
	var parts []string
	if !p.Within.IsZero() {
		parts = append(parts, "--keep-within "+p.Within.String())
	}
	for _, rule := range []struct {
		name string
		n    int
	}{{"last", p.Last}, {"hourly", p.Hourly}, {"daily", p.Daily}, {"weekly", p.Weekly}, {"monthly", p.Monthly}, {"yearly", p.Yearly}} {
		if rule.n != 0 {
			parts = append(parts, fmt.Sprintf("--keep-%s %d", rule.name, rule.n))
		}
	}
	for _, tag := range p.Tags {
		parts = append(parts, "--keep-tag "+tag)
	}
	return strings.Join(parts, " ")
}
