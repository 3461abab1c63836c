package exclude

import (
	"slices"
	"testing"
)

func listOf(paths ...string) *List {
	l := NewList("list")
	for _, p := range paths {
		l.Add(p)
	}
	return l
}

func TestListMatch(t *testing.T) {
	l := listOf("a/b", "a/b/c", "d", "e/f/g", "e/f")
	for _, c := range []struct {
		path  string
		isDir bool
		saved bool
	}{
		{"a", true, true}, {"a", false, false}, // the folder above, which turned out to be a file
		{"a/b", false, true}, {"a/b", true, true}, {"a/b/c", false, true}, {"a/b/other", false, true},
		{"a/x", false, false}, {"a/bb", false, false}, {"d", false, true}, {"d/e/f", false, true}, {"dd", true, false},
		{"e", true, true}, {"e/f", true, true}, {"e/f/h", false, true}, {"e/g", true, false},
	} {
		if got := !l.Match(c.path, c.isDir).Excluded; got != c.saved {
			t.Errorf("%s (folder: %v): saved %v, want %v", c.path, c.isDir, got, c.saved)
		}
	}
	if got := l.Len(); got != 3 {
		t.Errorf("%d entries, want a/b, d and e/f", got)
	}
	if why := l.Match("a/x", false).Explain("homes/a/x"); why != `"homes/a/x" is excluded by "not listed" (list)` {
		t.Error(why)
	}
	if all := listOf("x", ""); all.Match("y/z", false).Excluded || all.Empty() || all.Len() != 1 {
		t.Error("the root names everything")
	}
	if none := listOf(); !none.Empty() || !none.Match("x", true).Excluded || none.Match("x", true).Rule == nil {
		t.Error("an empty list names nothing")
	}
	if all := (*List)(nil); all.Match("x", false).Excluded || all.Empty() || all.Absent("", nil) != nil {
		t.Error("no list names everything")
	}
}

func TestListAbsent(t *testing.T) {
	l := listOf("a/b", "gone/y", "gone/x", "file/below", "there")
	kind := func(name string) (there, isDir bool) {
		return name != "gone" && name != "b", name == "a"
	}
	if got, want := l.Absent("", kind), []string{"file/below", "gone/x", "gone/y"}; !slices.Equal(got, want) {
		t.Errorf("absent from the root: %q, want %q", got, want)
	}
	if got, want := l.Absent("a", kind), []string{"a/b"}; !slices.Equal(got, want) {
		t.Errorf("absent from a: %q, want %q", got, want)
	}
	for _, folder := range []string{"there", "there/below", "elsewhere"} {
		if got := l.Absent(folder, kind); got != nil {
			t.Errorf("absent from %s: %q", folder, got)
		}
	}
}
