package snapshot

import (
	"slices"
	"testing"
	"time"
)

func TestGroupBy(t *testing.T) {
	at := func(month time.Month, instance, host string, labels ...string) *Snapshot {
		m := &Manifest{Instance: instance, Host: host, Time: time.Date(2026, month, 15, 12, 0, 0, 0, time.Local)}
		for _, l := range labels {
			m.Sources = append(m.Sources, Source{Label: l})
		}
		return &Snapshot{Manifest: m}
	}
	a, b, c, d := at(1, "web", "h2", "homes"), at(1, "web", "h1", "homes", "mongo"), at(2, "db", "h1", "homes"), at(2, "web", "h2", "homes")
	all := []*Snapshot{a, b, c, d}
	for _, test := range []struct {
		keys   string
		values [][]string
		snaps  [][]*Snapshot
	}{
		{"instance", [][]string{{"db"}, {"web"}}, [][]*Snapshot{{c}, {a, b, d}}},
		{"labels", [][]string{{"homes"}, {"homes, mongo"}}, [][]*Snapshot{{a, c, d}, {b}}},
		{"month", [][]string{{"2026-01"}, {"2026-02"}}, [][]*Snapshot{{a, b}, {c, d}}},
		{"year", [][]string{{"2026"}}, [][]*Snapshot{all}},
		{"tags", [][]string{{""}}, [][]*Snapshot{all}},
		{"host, day", [][]string{{"h1", "2026-01-15"}, {"h1", "2026-02-15"}, {"h2", "2026-01-15"}, {"h2", "2026-02-15"}}, [][]*Snapshot{{b}, {c}, {a}, {d}}},
	} {
		keys, err := ParseGroupKeys(test.keys)
		must(t, err)
		groups := GroupBy(all, keys)
		if len(groups) != len(test.values) {
			t.Fatalf("%s: %d groups, want %d", test.keys, len(groups), len(test.values))
		}
		for i, g := range groups {
			if !slices.Equal(g.Values, test.values[i]) || !slices.Equal(g.Snapshots, test.snaps[i]) {
				t.Errorf("%s: group %d is of %q, want %q", test.keys, i, g.Values, test.values[i])
			}
		}
	}
	if GroupBy(nil, []GroupKey{ByHost}) != nil {
		t.Error("nothing has groups")
	}
	for _, bad := range []string{"", "paths", "host,host", "host,"} {
		if _, err := ParseGroupKeys(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}
