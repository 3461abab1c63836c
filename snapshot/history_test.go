package snapshot

import (
	"os"
	"strings"
	"testing"
)

func TestHistory(t *testing.T) {
	v := newVault(t)
	v.write("other", "of every night")
	night := func(change func(path string)) {
		path := v.src + "/dir/file"
		change(path)
		v.settle()
		v.backup()
	}
	night(func(string) {})
	night(func(string) { v.write("dir/file", "one") })
	night(func(string) {})
	night(func(string) { v.write("dir/file", "two, longer") })
	night(func(path string) { must(t, os.Chmod(path, 0o600)) })
	night(func(path string) { must(t, os.Remove(path)) })
	night(func(path string) { must(t, os.Symlink("nowhere", path)) })
	got := func(path string) string {
		versions, err := History(t.Context(), v.r, Selector{}, path)
		must(t, err)
		var words []string
		for _, v := range versions {
			words = append(words, v.Change)
			if (v.Node == nil) != (v.Change == HistoryRemoved) {
				t.Errorf("%s: node %v", v.Change, v.Node)
			}
		}
		return strings.Join(words, " ")
	}
	if got, want := got("homes/dir/file"), "new content metadata removed new"; got != want {
		t.Errorf("history: %s, want %s", got, want)
	}
	versions, err := History(t.Context(), v.r, Selector{}, "homes/dir/file")
	must(t, err)
	if first := versions[0]; first.Snapshots != 2 || first.Node.Size != 3 || first.First == first.Last {
		t.Errorf("the first version: %+v", first)
	}
	if got, want := got("homes/other"), "new"; got != want {
		t.Errorf("unchanged: %s", got)
	}
	if got := got("homes/dir"); !strings.HasPrefix(got, "new content") {
		t.Errorf("folder: %s", got)
	}
	if _, err := History(t.Context(), v.r, Selector{}, "homes/never"); err == nil {
		t.Error("a path that never was has a history")
	} else {
		wantError[*NotFoundError](t, err)
	}
}
