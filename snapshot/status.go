package snapshot

import (
	"cmp"
	"slices"
	"time"
)

// An InstanceStatus says how an instance stands.
type InstanceStatus struct {
	Instance  string
	Newest    *Snapshot     // the newest complete one; nil = none
	Latest    *Snapshot     // the newest of all, if it is newer than Newest and not complete; else nil
	Promised  time.Duration // how old Newest may be; 0 = nothing was promised
	Age       time.Duration // of Newest; 0 where there is none
	Late      bool
	Future    bool // Newest is dated more than an hour after now: a clock is wrong, and the age says nothing
	Snapshots int  // complete ones
	Oldest    time.Time
	Sources   []SourceStatus // ordered by label
	Oplog     []*Snapshot    // what was captured of oplogs
	List      []*Snapshot    // all of them, oldest first
	Held      []*Snapshot    // those that are unlike the ones before: while there are any, no rule forgets anything
}

// A SourceStatus says when a source of an instance was last saved to its end.
type SourceStatus struct {
	Label  string
	Newest *Snapshot // the newest complete snapshot that has it
	Age    time.Duration
	Late   bool
}

// Status says how each instance stands, ordered by name: those that have snapshots, and those of which something is
// promised. Snapshots that are dated into the future count as of now.
//
// A source is one that the newest complete snapshot has, or that is expected; expected are labels by instance.
func Status(snaps []*Snapshot, promised map[string]time.Duration, expected map[string][]string, now time.Time) []InstanceStatus {
	of := map[string][]*Snapshot{}
	for name := range promised {
		of[name] = nil
	}
	for _, s := range snaps {
		of[s.Instance] = append(of[s.Instance], s)
	}
	var out []InstanceStatus
	for name, list := range of {
		SortSnapshots(list)
		out = append(out, statusOf(name, list, promised[name], expected[name], now))
	}
	slices.SortFunc(out, func(a, b InstanceStatus) int { return cmp.Compare(a.Instance, b.Instance) })
	return out
}

func statusOf(name string, list []*Snapshot, promised time.Duration, expected []string, now time.Time) InstanceStatus {
	st := InstanceStatus{Instance: name, Promised: promised, Held: HeldBy(list, name), List: list}
	newest := map[string]*Snapshot{}
	for _, s := range list {
		if s.HoldsOplog() {
			if !s.Checkpoint {
				st.Oplog = append(st.Oplog, s)
			}
			continue
		}
		if !s.Complete || s.Checkpoint {
			if st.Newest == nil || s.Time.After(st.Newest.Time) {
				st.Latest = s
			}
			continue
		}
		if st.Snapshots == 0 {
			st.Oldest = s.Time
		}
		st.Snapshots++
		st.Newest, st.Latest = s, nil
		for _, src := range s.Sources {
			newest[src.Label] = s
		}
	}
	if st.Newest != nil {
		st.Age = max(0, now.Sub(st.Newest.Time))
		st.Future = st.Newest.Time.After(now.Add(futureMargin))
	}
	st.Late = promised > 0 && (st.Newest == nil || st.Age > promised)
	labels := slices.Clone(expected)
	if st.Newest != nil && len(expected) == 0 {
		for _, src := range st.Newest.Sources {
			labels = append(labels, src.Label)
		}
	}
	slices.Sort(labels)
	for _, label := range slices.Compact(labels) {
		s := SourceStatus{Label: label, Newest: newest[label]}
		if s.Newest != nil {
			s.Age = max(0, now.Sub(s.Newest.Time))
		}
		s.Late = promised > 0 && (s.Newest == nil || s.Age > promised)
		st.Late = st.Late || s.Late
		st.Sources = append(st.Sources, s)
	}
	return st
}
