package snapshot

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/whole-tale/wtsnap/snapshot/exclude"
	"github.com/whole-tale/wtsnap/snapshot/localfs"
)

func TestDiff(t *testing.T) {
	h := newHistory(t)
	link := func(target string) entry {
		return entry{change: func(n *Node) { n.Type, n.Target, n.Size = localfs.TypeSymlink, target, int64(len(target)) }}
	}
	with := func(content string, change func(*Node)) entry { return entry{content: content, change: change} }
	same := map[string]entry{"one": {content: "1"}, "two": {content: "2"}}
	a := h.save(Manifest{Time: at(1, 1), Complete: true}, map[string]entry{
		"homes": {below: map[string]entry{
			"alice":   {below: map[string]entry{"gone": {content: "gone"}, "old": {below: map[string]entry{"x": {content: "xx"}}}}},
			"changed": {content: "before"}, "flips": {content: "file"}, "link": link("here"),
			"meta": {content: "m"}, "quiet": {content: "q"}, "same": {below: same},
		}},
	})
	b := h.save(Manifest{Time: at(2, 1), Complete: true}, map[string]entry{
		"homes": {below: map[string]entry{
			"alice":   {below: map[string]entry{"new\n": {content: "new"}}},
			"changed": {content: "after!!"}, "flips": {below: map[string]entry{"in": {content: "i"}}}, "link": link("there"),
			"meta":  with("m", func(n *Node) { n.Mode = 0o600 }),
			"quiet": with("q", func(n *Node) { n.Ino, n.Dev, n.CTime, n.BTime = 7, 8, 9, 10 }), "same": {below: same},
		}},
	})
	diff := func(from, to DiffSide) ([]string, DiffStats) {
		t.Helper()
		var lines []string
		stats, err := Diff(t.Context(), h.r, from, to, func(c Change) error {
			lines = append(lines, fmt.Sprintf("%s %q %d", c.Kind, c.Path, c.BytesNew))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return lines, stats
	}
	lines, stats := diff(DiffSide{a, ""}, DiffSide{b, ""})
	want := []string{
		`removed "homes/alice/gone" 0`, `added "homes/alice/new\n" 0`, `removed "homes/alice/old" 0`, `removed "homes/alice/old/x" 0`,
		`content "homes/changed" 7`, `type "homes/flips" 0`, `added "homes/flips/in" 0`, `content "homes/link" 0`, `metadata "homes/meta" 0`,
	}
	if !slices.Equal(lines, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(lines, "\n"), strings.Join(want, "\n"))
	}
	wantStats := DiffStats{Added: DiffCount{2, 0, 0}, Removed: DiffCount{2, 1, 0}, Content: DiffCount{1, 0, 1}, Type: DiffCount{0, 1, 0},
		Metadata: DiffCount{1, 0, 0}, BytesAdded: 4, BytesRemoved: 6, BytesChanged: 7}
	if stats != wantStats {
		t.Errorf("got %+v\nwant %+v", stats, wantStats)
	}

	reverse, _ := diff(DiffSide{b, ""}, DiffSide{a, ""})
	if len(reverse) != len(lines) {
		t.Errorf("%d changes one way, %d the other: %q", len(lines), len(reverse), reverse)
	}
	if lines, _ := diff(DiffSide{a, "homes/same"}, DiffSide{b, "homes/same"}); len(lines) > 0 {
		t.Errorf("equal folders differ: %q", lines)
	}
	if lines, _ := diff(DiffSide{a, "homes/changed"}, DiffSide{b, "homes/changed"}); !slices.Equal(lines, []string{`content "" 7`}) {
		t.Errorf("one file: %q", lines)
	}
	if _, err := Diff(t.Context(), h.r, DiffSide{a, "homes/nobody"}, DiffSide{b, ""}, func(Change) error { return nil }); err == nil {
		t.Error("a missing path was compared")
	}
}

func TestFind(t *testing.T) {
	h := newHistory(t)
	old := map[string]entry{"Notes.TXT": {content: "n"}, "b\xffad.csv": {content: "bb"}, "deep": {below: map[string]entry{"x.csv": {content: "xxx"}}}}
	a := h.save(Manifest{Time: at(1, 1), Complete: true}, map[string]entry{"homes": {below: map[string]entry{"alice": {below: old}}}})
	b := h.save(Manifest{Time: at(2, 1), Complete: true}, map[string]entry{"homes": {below: map[string]entry{
		"alice": {below: old},
		"bob": {below: map[string]entry{"y.csv": {content: "yyyy", change: func(n *Node) { n.MTime = at(2, 0).UnixNano() }},
			"!odd": {content: "o"}, "x.csv": {below: map[string]entry{}}}}}}})
	find := func(q Query) string {
		t.Helper()
		var lines []string
		err := Find(t.Context(), h.r, []*Snapshot{a, b}, q, func(s *Snapshot, path string, n *Node, err error) error {
			lines = append(lines, fmt.Sprintf("%d:%q", s.Time.Day(), strings.TrimPrefix(path, "homes/")))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(lines, " ")
	}
	for _, c := range []struct {
		q    Query
		want string
	}{
		{Query{Patterns: []string{"*.csv"}}, `1:"alice/b\xffad.csv" 1:"alice/deep/x.csv" 2:"alice/b\xffad.csv" 2:"alice/deep/x.csv" 2:"bob/x.csv" 2:"bob/y.csv"`},
		{Query{Patterns: []string{"x.csv/"}}, `2:"bob/x.csv"`},
		{Query{Patterns: []string{"homes/*/x.csv"}}, `2:"bob/x.csv"`},
		{Query{Patterns: []string{"homes/**/x.csv"}}, `1:"alice/deep/x.csv" 2:"alice/deep/x.csv" 2:"bob/x.csv"`},
		{Query{Patterns: []string{"notes.txt"}}, ``},
		{Query{Patterns: []string{"notes.txt", "B*.CSV"}, IgnoreCase: true}, `1:"alice/Notes.TXT" 1:"alice/b\xffad.csv" 2:"alice/Notes.TXT" 2:"alice/b\xffad.csv"`},
		{Query{Patterns: []string{"!odd"}}, `2:"bob/!odd"`},
		{Query{Path: "homes/bob", Types: []localfs.Type{localfs.TypeFile}}, `2:"bob/!odd" 2:"bob/y.csv"`},
		{Query{Path: "homes/bob/y.csv", Patterns: []string{"*.csv"}}, `2:"bob/y.csv"`},
		{Query{MinSize: 3}, `1:"alice/deep/x.csv" 2:"alice/deep/x.csv" 2:"bob/y.csv"`},
		{Query{MinSize: 2, MaxSize: 3}, `1:"alice/b\xffad.csv" 1:"alice/deep/x.csv" 2:"alice/b\xffad.csv" 2:"alice/deep/x.csv"`},
		{Query{NewerThan: at(1, 0)}, `2:"bob/y.csv"`},
		{Query{OlderThan: time.Unix(0, 2), Patterns: []string{"x.csv"}, Types: []localfs.Type{localfs.TypeFile}}, `1:"alice/deep/x.csv" 2:"alice/deep/x.csv"`},
	} {
		if got := find(c.q); got != c.want {
			t.Errorf("%+v\n got %s\nwant %s", c.q, got, c.want)
		}
	}
	calls := 0
	err := Find(t.Context(), h.r, []*Snapshot{a, b}, Query{}, func(*Snapshot, string, *Node, error) error { calls++; return ErrStop })
	if err != nil || calls != 1 {
		t.Errorf("stopped after %d calls: %v", calls, err)
	}
	var bad *exclude.PatternError
	if err := Find(t.Context(), h.r, nil, Query{Patterns: []string{"[z-"}}, nil); !errors.As(err, &bad) {
		t.Errorf("a bad pattern: %v", err)
	}
}

func TestGatherStats(t *testing.T) {
	h := newHistory(t)
	big := strings.Repeat("abcdefgh", 4<<10)
	top := map[string]entry{"l": {below: map[string]entry{"a": {content: big}, "b": {content: big}}}}
	h.save(Manifest{Time: at(1, 1), Complete: true}, top)
	last := h.save(Manifest{Time: at(2, 1), Complete: true, Instance: "other"}, top)
	st, err := GatherStats(t.Context(), h.r)
	if err != nil {
		t.Fatal(err)
	}
	size := int64(len(big))
	if st.Logical != 4*size || st.Files != 4 || st.Snapshots != 2 || len(st.Instances) != 2 {
		t.Errorf("%+v", st)
	}
	if i := st.Instances[1]; i.Instance != "other" || i.Complete != 1 || i.Logical != 2*size || !i.Newest.Equal(last.Time) {
		t.Errorf("%+v", i)
	}
	if st.Dedup < 3 || st.Dedup > 4 || st.Compression < 1 || st.Unused != 0 || st.Blobs.UsedBytes < size || st.Stored == 0 {
		t.Errorf("%+v", st)
	}
	refs, err := h.r.Snapshots(t.Context())
	if err == nil {
		err = h.r.Forget(t.Context(), refs)
	}
	if err != nil {
		t.Fatal(err)
	}
	st, err = GatherStats(t.Context(), h.r)
	if err != nil || st.Unused == 0 || st.Blobs.UsedCount != 0 || st.Dedup != 0 {
		t.Errorf("after all were forgotten: %+v, %v", st, err)
	}
}
