package snapshot

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/whole-tale/wtsnap/repo"
)

// fake makes a snapshot that is in no repository. i becomes its id.
func fake(i int, instance string, tm time.Time, complete, checkpoint bool, tags ...string) *Snapshot {
	return &Snapshot{Ref: repo.SnapshotRef{ID: repo.SnapshotID{byte(i >> 8), byte(i)}, Time: tm},
		Manifest: &Manifest{Instance: instance, Time: tm, Complete: complete, Checkpoint: checkpoint, Tags: tags}}
}

func held(s *Snapshot, until time.Time) *Snapshot {
	text := `{"version":1,"hold":{"since":"2026-01-01T00:00:00Z"`
	if !until.IsZero() {
		text += `,"until":"` + until.Format(time.RFC3339) + `"`
	}
	s.Notes = append(s.Notes, repo.Annotation{Data: []byte(text + "}}")})
	return s
}

// kept renders decisions as the hours that stay.
func kept(decisions []Decision) string {
	var hours []string
	for _, d := range decisions {
		if d.Keep {
			hours = append(hours, d.Snapshot.Time.UTC().Format("02T15"))
		}
	}
	return strings.Join(hours, " ")
}

func TestApplyPolicy(t *testing.T) {
	days := func(from, to, hour int) (list []*Snapshot) {
		for d := from; d <= to; d++ {
			list = append(list, fake(d, "i", at(d, hour), true, false))
		}
		return list
	}
	now := at(20, 12)
	tagged := append(days(1, 3, 3), fake(9, "i", at(1, 9), true, false, "release"))
	dst := time.FixedZone("CEST", 2*3600)
	for _, c := range []struct {
		name  string
		snaps []*Snapshot
		p     Policy
		now   time.Time
		want  string
	}{
		{"the default is a week before the newest", days(1, 20, 3), Policy{}, now, "13T03 14T03 15T03 16T03 17T03 18T03 19T03 20T03"},
		{"a week counts from the newest, not from now", days(1, 9, 3), Policy{}, now, "02T03 03T03 04T03 05T03 06T03 07T03 08T03 09T03"},
		{"last", days(1, 9, 3), Policy{Last: 2}, now, "08T03 09T03"},
		{"last, all", days(1, 3, 3), Policy{Last: -1}, now, "01T03 02T03 03T03"},
		{"the newest of each day", append(days(1, 3, 3), days(1, 3, 21)...), Policy{Daily: 2}, now, "02T21 03T21"},
		{"the newest of each hour", append(days(1, 2, 3), days(2, 3, 4)...), Policy{Hourly: 3}, now, "02T03 02T04 03T04"},
		{"weeks of ISO 8601", days(1, 16, 3), Policy{Weekly: 3}, now, "08T03 15T03 16T03"},
		{"months", days(1, 3, 3), Policy{Monthly: 5, Yearly: 5}, now, "03T03"},
		{"days are local ones", append(days(1, 2, 21), days(1, 2, 23)...), Policy{Daily: 9}, now.In(dst), "01T21 02T21 02T23"},
		{"tags", tagged, Policy{Tags: []string{"release"}}, now, "03T03 01T09"},
		{"nothing but the newest", days(1, 9, 3), Policy{Tags: []string{"none"}}, now, "09T03"},
		{"a future one makes no other look old", append(days(1, 2, 3), fake(99, "i", at(29, 1), true, false)), Policy{Last: 1}, now, "02T03 29T01"},
		{"a moment ahead is now", append(days(18, 19, 3), fake(99, "i", now.Add(time.Second), true, false)), Policy{Last: 1}, now, "20T12"},
		{"holds", append(days(1, 2, 3), held(fake(98, "i", at(1, 5), true, false), time.Time{}), held(fake(99, "i", at(1, 6), true, false), at(19, 1))),
			Policy{Last: 1}, now, "02T03 01T05"},
		{"a checkpoint goes when something complete is newer", append(days(1, 2, 3), fake(99, "i", at(1, 5), false, true)), Policy{}, now, "01T03 02T03"},
		{"the newest checkpoint stays", append(days(1, 2, 3), fake(98, "i", at(3, 5), false, true), fake(99, "i", at(4, 5), false, true)),
			Policy{Last: 1}, now, "02T03 04T05"},
		{"the incomplete do not count", append(days(1, 2, 3), fake(98, "i", at(3, 5), false, false), fake(99, "i", at(4, 5), false, false)),
			Policy{Last: 1}, now, "02T03 04T05"},
		{"the incomplete are kept by the same rules", append(days(9, 9, 3), fake(98, "i", at(1, 5), false, false), fake(99, "i", at(8, 5), false, false)),
			Policy{}, now, "09T03 08T05"},
		{"each instance by itself", append(days(1, 2, 3), fake(98, "j", at(1, 4), true, false)), Policy{Last: 1}, now, "02T03 01T04"},
	} {
		got := ApplyPolicy(c.snaps, c.p, c.now)
		if kept(got) != c.want {
			t.Errorf("%s: kept %s, want %s", c.name, kept(got), c.want)
		}
	}
}

func TestCheckpointThatHoldsTheMost(t *testing.T) {
	big, small := fake(1, "i", at(3, 5), false, true), fake(2, "i", at(4, 5), false, true)
	mid := fake(3, "i", at(3, 7), false, true)
	big.Bytes, mid.Bytes, small.Bytes = 100, 5, 10
	if got := kept(ApplyPolicy([]*Snapshot{big, mid, small}, Policy{}, at(20, 1))); got != "03T05 04T05" {
		t.Errorf("kept %s", got)
	}
}

func TestPolicyString(t *testing.T) {
	p := Policy{Within: Span{Days: 7}, Daily: 7, Monthly: -1, Tags: []string{"x"}}
	if got := p.String(); got != "--keep-within 7d --keep-daily 7 --keep-monthly -1 --keep-tag x" {
		t.Error(got)
	}
	if got := (Policy{}).String(); got != "--keep-within 7d" {
		t.Error(got)
	}
}

// TestPolicyInvariants draws histories and policies and looks at what must be true of all of them.
func TestPolicyInvariants(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := at(15, 12)
		var snaps []*Snapshot
		for i := range rapid.IntRange(0, 30).Draw(t, "snapshots") {
			instance := rapid.SampledFrom([]string{"a", "b"}).Draw(t, "instance")
			when := now.Add(time.Duration(rapid.IntRange(-60*24, 48).Draw(t, "hours")) * time.Hour)
			kind := rapid.IntRange(0, 3).Draw(t, "kind")
			s := fake(i, instance, when, kind < 2, kind == 2)
			if rapid.IntRange(0, 9).Draw(t, "tag") == 0 {
				s.Tags = []string{"t"}
			}
			if rapid.IntRange(0, 9).Draw(t, "hold") == 0 {
				held(s, time.Time{})
			}
			s.Bytes = rapid.Int64Range(0, 5).Draw(t, "bytes")
			snaps = append(snaps, s)
		}
		n := rapid.IntRange(-1, 4)
		p := Policy{Last: n.Draw(t, "last"), Hourly: n.Draw(t, "hourly"), Daily: n.Draw(t, "daily"), Weekly: n.Draw(t, "weekly"),
			Monthly: n.Draw(t, "monthly"), Yearly: n.Draw(t, "yearly"), Within: Span{Days: rapid.IntRange(0, 40).Draw(t, "within")}}
		if rapid.Bool().Draw(t, "by tag") {
			p.Tags = []string{"t"}
		}
		decisions := ApplyPolicy(snaps, p, now)
		if len(decisions) != len(snaps) {
			t.Fatalf("%d decisions on %d snapshots", len(decisions), len(snaps))
		}
		keep := map[*Snapshot]bool{}
		for i, d := range decisions {
			if d.Snapshot != snaps[i] || len(d.Reasons) == 0 {
				t.Fatalf("decision %d: %+v", i, d)
			}
			keep[d.Snapshot] = d.Keep
		}
		for _, instance := range []string{"a", "b"} {
			checkInvariants(t, snaps, keep, instance, p, now)
		}
		checkIncompleteDoNotCount(t, snaps, keep, p, now)
		checkAgain(t, snaps, keep, p, now)
	})
}

func checkInvariants(t *rapid.T, snaps []*Snapshot, keep map[*Snapshot]bool, instance string, p Policy, now time.Time) {
	var newest, newestCheckpoint *Snapshot
	complete := 0
	later := func(s, than *Snapshot) bool { return than == nil || s.Time.After(than.Time) }
	for _, s := range snaps {
		if s.Instance != instance {
			continue
		}
		past := !s.Time.After(now.Add(time.Hour))
		switch {
		case s.Complete && past:
			complete++
			if later(s, newest) {
				newest = s
			}
		case s.Checkpoint && past && later(s, newestCheckpoint):
			newestCheckpoint = s
		}
		if s.Hold().Active(now) && !keep[s] {
			t.Fatalf("a held snapshot of %v goes", s.Time)
		}
		if !past && !keep[s] {
			t.Fatalf("one dated in the future goes: %v", s.Time)
		}
	}
	stay := 0
	for _, s := range snaps {
		if s.Instance == instance && s.Complete && !s.Time.After(now.Add(time.Hour)) && keep[s] {
			stay++
		}
	}
	if complete > 0 && stay == 0 {
		t.Fatal("no complete snapshot is left")
	}
	if stay < min(p.Last, complete) {
		t.Fatalf("%d of %d complete ones stay, at least %d should", stay, complete, p.Last)
	}
	if newest != nil {
		one := false // several may have the same time
		for _, s := range snaps {
			one = one || s.Instance == instance && s.Complete && s.Time.Equal(newest.Time) && keep[s]
		}
		if !one {
			t.Fatal("the newest complete one goes")
		}
	}
	if c := newestCheckpoint; c != nil && (newest == nil || c.Time.After(newest.Time)) {
		one := false
		for _, s := range snaps {
			one = one || s.Instance == instance && s.Checkpoint && s.Time.Equal(c.Time) && keep[s]
		}
		if !one {
			t.Fatal("the newest checkpoint goes although nothing complete is newer")
		}
	}
}

// checkIncompleteDoNotCount leaves the incomplete ones out: no decision on a complete one may change.
func checkIncompleteDoNotCount(t *rapid.T, snaps []*Snapshot, keep map[*Snapshot]bool, p Policy, now time.Time) {
	var complete []*Snapshot
	for _, s := range snaps {
		if s.Complete {
			complete = append(complete, s)
		}
	}
	for _, d := range ApplyPolicy(complete, p, now) {
		if d.Keep != keep[d.Snapshot] {
			t.Fatalf("%v: kept %v with incomplete ones beside it, %v without", d.Snapshot.Time, keep[d.Snapshot], d.Keep)
		}
	}
}

// checkAgain applies the policy to what it kept: it must keep all of it.
func checkAgain(t *rapid.T, snaps []*Snapshot, keep map[*Snapshot]bool, p Policy, now time.Time) {
	var rest []*Snapshot
	for _, s := range snaps {
		if keep[s] {
			rest = append(rest, s)
		}
	}
	for _, d := range ApplyPolicy(rest, p, now) {
		if !d.Keep {
			t.Fatalf("a second time, %v goes: %s", d.Snapshot.Time, fmt.Sprint(d.Reasons))
		}
	}
}
