package snapshot

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestStatus(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	snap := func(instance string, hours int, complete bool, labels ...string) *Snapshot {
		s := &Snapshot{Manifest: &Manifest{Instance: instance, Time: now.Add(-time.Duration(hours) * time.Hour), Complete: complete}}
		for _, l := range labels {
			s.Sources = append(s.Sources, Source{Label: l})
		}
		return s
	}
	checkpoint := snap("late", 1, true, "homes")
	checkpoint.Checkpoint = true
	snaps := []*Snapshot{
		snap("good", 3, true, "homes", "mongo"), snap("good", 30, true, "homes"), snap("good", 200, true, "homes"),
		checkpoint, snap("late", 31, true, "homes"), snap("late", 2, false, "homes"),
		snap("half", 40, true, "homes", "mongo"), snap("half", 2, true, "homes"),
		snap("free", 9000, true, "homes"), snap("future", -48, true, "homes"), snap("broken", 1, false, "homes"),
	}
	promised := map[string]time.Duration{"good": 30 * time.Hour, "late": 30 * time.Hour, "half": 30 * time.Hour, "never": 30 * time.Hour, "future": time.Hour, "broken": time.Hour}
	expected := map[string][]string{"half": {"mongo", "homes"}, "never": {"homes"}}
	var got []string
	for _, s := range Status(snaps, promised, expected, now) {
		text := fmt.Sprintf("%s: %d, %v late:%v future:%v latest:%v", s.Instance, s.Snapshots, s.Age, s.Late, s.Future, s.Latest != nil)
		for _, src := range s.Sources {
			text += fmt.Sprintf(" %s:%v:%v", src.Label, src.Age, src.Late)
		}
		got = append(got, text)
	}
	want := `broken: 0, 0s late:true future:false latest:true
free: 1, 9000h0m0s late:false future:false latest:false homes:9000h0m0s:false
future: 1, 0s late:false future:true latest:false homes:0s:false
good: 3, 3h0m0s late:false future:false latest:false homes:3h0m0s:false mongo:3h0m0s:false
half: 2, 2h0m0s late:true future:false latest:false homes:2h0m0s:false mongo:40h0m0s:true
late: 1, 31h0m0s late:true future:false latest:true homes:31h0m0s:true
never: 0, 0s late:true future:false latest:false homes:0s:true`
	if text := strings.Join(got, "\n"); text != want {
		t.Errorf("got\n%s\nwant\n%s", text, want)
	}
}
