package snapshot

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/index"
	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/repo/storage/mem"
	"github.com/whole-tale/wtsnap/repo/storage/storagetest"
	"github.com/whole-tale/wtsnap/snapshot/localfs"
)

// A history is a repository whose snapshots a test makes from descriptions instead of files.
type history struct {
	t *testing.T
	r *repo.Repository
}

// newHistory makes an empty one, which is checked at the end of the test.
func newHistory(t *testing.T) *history {
	t.Helper()
	key, err := repo.NewKeyFile()
	if err != nil {
		t.Fatal(err)
	}
	st := storagetest.NewReferee(t, mem.New())
	r, err := repo.Init(t.Context(), st, repo.InitOptions{Password: key})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		rep, err := r.Check(context.Background(), repo.CheckOptions{References: References(TreeLoader(r)), ReadShare: 1})
		if err != nil || len(rep.Problems) > 0 {
			t.Errorf("check at the end: %v, %v", err, rep.Problems)
		}
	})
	return &history{t, r}
}

// An entry describes one entry of a snapshot: a folder where below is set, else a file with content.
type entry struct {
	content string
	below   map[string]entry
	change  func(*Node) // applied last
}

// save makes a snapshot of a folder with what top says.
func (h *history) save(m Manifest, top map[string]entry) *Snapshot {
	h.t.Helper()
	ctx := h.t.Context()
	s, err := h.r.Begin(ctx, repo.SessionOptions{})
	if err != nil {
		h.t.Fatal(err)
	}
	defer s.Close(ctx)
	w := s.Writer()
	put := func(data []byte) (chunk.ID, error) {
		id, _, err := w.Put(ctx, index.Tree, data)
		return id, err
	}
	var folder func(entries map[string]entry) (chunk.ID, int64)
	folder = func(entries map[string]entry) (chunk.ID, int64) {
		names := make([]string, 0, len(entries))
		for name := range entries {
			names = append(names, name)
		}
		slices.Sort(names)
		b := NewFolderBuilder(h.r.Hasher(), put)
		sum := int64(0)
		for _, name := range names {
			e := entries[name]
			n := &Node{Name: name, Meta: localfs.Meta{Type: localfs.TypeFile, Mode: 0o644, MTime: 1, CTime: 1, Nlink: 1}}
			switch {
			case e.below != nil:
				n.Type, n.Mode = localfs.TypeDir, 0o755
				n.Subtree, n.Size = folder(e.below)
				m.Dirs++
			case e.content != "":
				id, _, err := w.Put(ctx, index.Data, []byte(e.content))
				if err != nil {
					h.t.Fatal(err)
				}
				n.Content, n.Size = []Part{{ID: id, Size: uint32(len(e.content))}}, int64(len(e.content))
				fallthrough
			default:
				m.Files++
			}
			if e.change != nil {
				e.change(n)
			}
			sum += n.Size
			if err := b.Add(n); err != nil {
				h.t.Fatal(err)
			}
		}
		id, err := b.Finish()
		if err != nil {
			h.t.Fatal(err)
		}
		return id, sum
	}
	m.Root, m.Bytes = folder(top)
	if m.Instance == "" {
		m.Instance = "inst"
	}
	data, err := EncodeManifest(&m)
	if err != nil {
		h.t.Fatal(err)
	}
	ref, err := s.Commit(ctx, repo.Payload{Instance: m.Instance, Time: m.Time, Data: data})
	if err != nil {
		h.t.Fatal(err)
	}
	return &Snapshot{Ref: ref, Manifest: &m}
}

// at is a time of the tests' month.
func at(day, hour int) time.Time { return time.Date(2026, 11, day, hour, 0, 0, 0, time.UTC) }

func TestParseSpec(t *testing.T) {
	for text, want := range map[string]Spec{
		"":                      {},
		"latest":                {},
		"latest~0":              {},
		"latest~2":              {Back: 2},
		":homes/alice":          {Path: "homes/alice", HasPath: true},
		"latest:":               {HasPath: true},
		"latest~1:/a//b/./c/":   {Back: 1, Path: "a/b/c", HasPath: true},
		"3F":                    {ID: "3f"},
		"3f:a:b":                {ID: "3f", Path: "a:b", HasPath: true},
		strings.Repeat("0", 32): {ID: strings.Repeat("0", 32)},
	} {
		if got, err := ParseSpec(text); err != nil || got != want {
			t.Errorf("ParseSpec(%q) = %+v, %v; want %+v", text, got, err, want)
		}
	}
	for _, text := range []string{"latest~", "latest~x", "latest~-1", "latest~+1", "newest", "homes/alice", "3f~1", strings.Repeat("0", 33)} {
		_, err := ParseSpec(text)
		var e *SpecError
		if !errors.As(err, &e) {
			t.Errorf("ParseSpec(%q): %v, want a SpecError", text, err)
		}
	}
	if _, err := ParseSpec("latest:a/../b"); err == nil {
		t.Error("a path with .. was taken")
	}
}

func TestParseDuration(t *testing.T) {
	for text, want := range map[string]Span{
		"0": {}, "36h": {Time: 36 * time.Hour}, "7d": {Days: 7}, "1w": {Days: 7}, "6m": {Months: 6}, "1y": {Months: 12},
		"1Y6M": {Months: 18}, "1w2d": {Days: 9}, "90min": {Time: 90 * time.Minute}, "1h30min": {Time: 90 * time.Minute},
		" 15s ": {Time: 15 * time.Second},
	} {
		if got, err := ParseDuration(text); err != nil || got != want {
			t.Errorf("ParseDuration(%q) = %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "7", "d", "-1d", "1.5h", "1h30m", "1d1w", "1d1d", "3x", "99999999999999999999d", "9999999y", "1 d"} {
		_, err := ParseDuration(text)
		var e *DurationError
		if !errors.As(err, &e) {
			t.Errorf("ParseDuration(%q): %v, want a DurationError", text, err)
		}
	}
	for _, s := range []Span{{Months: 18, Days: 9, Time: 90*time.Minute + time.Second}, {Days: 7}} {
		if got, err := ParseDuration(s.String()); err != nil || got != s {
			t.Errorf("ParseDuration(%q) = %v, %v", s, got, err)
		}
	}
	if got := (Span{Months: 1}).Before(at(30, 3)); !got.Equal(time.Date(2026, 10, 30, 3, 0, 0, 0, time.UTC)) {
		t.Errorf("a month before: %v", got)
	}
}

func TestParseSince(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.FixedZone("x", 3600))
	for text, want := range map[string]time.Time{
		"2026-11-20": time.Date(2026, 11, 20, 0, 0, 0, 0, now.Location()), "Today": time.Date(2026, 11, 23, 0, 0, 0, 0, now.Location()),
		" yesterday ": time.Date(2026, 11, 22, 0, 0, 0, 0, now.Location()), "2h ago": now.Add(-2 * time.Hour),
		"2026-11-20 03:00": time.Date(2026, 11, 20, 3, 0, 0, 0, now.Location()),
	} {
		if got, err := ParseSince(text, now); err != nil || !got.Equal(want) {
			t.Errorf("ParseSince(%q) = %v, %v; want %v", text, got, err, want)
		}
	}
	if _, err := ParseSince("never", now); err == nil {
		t.Error("never was taken")
	}
}

func TestParseTime(t *testing.T) {
	berlin := time.FixedZone("CET", 3600)
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, berlin)
	local := func(month time.Month, d, h, m, s int) time.Time { return time.Date(2026, month, d, h, m, s, 0, berlin) }
	endOf := func(d int) time.Time { return local(11, d+1, 0, 0, 0).Add(-time.Nanosecond) }
	for text, want := range map[string]time.Time{
		"2026-11-20 03:00":          local(11, 20, 3, 0, 0),
		"2026-11-20T03:00:05":       local(11, 20, 3, 0, 5),
		"2026-11-20T03:00:00Z":      local(11, 20, 4, 0, 0),
		"2026-11-20t03:00:00z":      local(11, 20, 4, 0, 0),
		"2026-11-20 03:00+02:00":    local(11, 20, 2, 0, 0),
		"2026-11-20T03:00:00+01:00": local(11, 20, 3, 0, 0),
		"2026-11-20":                endOf(20),
		"Yesterday":                 endOf(20),
		"today":                     endOf(21),
		"yesterday  03:00":          local(11, 20, 3, 0, 0),
		"03:00":                     local(11, 21, 3, 0, 0),
		"now":                       now,
		"2h ago":                    local(11, 21, 10, 0, 0),
		"3 days ago":                local(11, 18, 12, 0, 0),
		"1m ago":                    local(10, 21, 12, 0, 0),
		"2026-11-20 03:00:05 CET":   local(11, 20, 3, 0, 5), // as it is shown
		"2026-11-20 03:00:05 utc":   local(11, 20, 4, 0, 5),
		"2026-11-20 03:00 GMT":      local(11, 20, 4, 0, 0),
		"2026-11-20 03:00 Z":        local(11, 20, 4, 0, 0),
		"2026-11-20 03:00:05 -0200": local(11, 20, 6, 0, 5),
		"2026-11-20 03:00 +02:00":   local(11, 20, 2, 0, 0),
	} {
		if got, err := ParseTime(text, now); err != nil || !got.Equal(want) {
			t.Errorf("ParseTime(%q) = %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "tomorrow", "2026-13-01", "2026-11-31", "20.11.2026", "25:00", "yesterday 3pm", "soon ago", "1723000000", "2026-11-20 03",
		"2026-11-20 03:00 EST", "2026-11-20 03:00 x", "2026-11-20 UTC"} {
		_, err := ParseTime(text, now)
		var e *TimeError
		if !errors.As(err, &e) || !strings.Contains(err.Error(), "2026-11-20 03:00") {
			t.Errorf("ParseTime(%q): %v, want a TimeError that names what is understood", text, err)
		}
	}
}

// TestParseTimeTwice: of an hour that the clocks show twice, the zone's name says which is meant.
func TestParseTimeTwice(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Skipf("no time zones on this machine: %v", err)
	}
	for text, hour := range map[string]int{"2026-10-25 02:30:00 CEST": 0, "2026-10-25 02:30:00 CET": 1} {
		want := time.Date(2026, 10, 25, hour, 30, 0, 0, time.UTC)
		if got, err := ParseTime(text, want.In(berlin)); err != nil || !got.Equal(want) {
			t.Errorf("%s is %v, %v; want %v", text, got, err, want)
		}
	}
}

func TestResolve(t *testing.T) {
	h := newHistory(t)
	one := map[string]entry{"homes": {below: map[string]entry{"a": {content: "x"}}}}
	var snaps []*Snapshot
	for day := 1; day <= 4; day++ {
		snaps = append(snaps, h.save(Manifest{Time: at(day, 3), Complete: true}, one))
	}
	other := h.save(Manifest{Instance: "other", Time: at(5, 3), Complete: true}, one)
	checkpoint := h.save(Manifest{Time: at(6, 3), Checkpoint: true}, one)

	for _, c := range []struct {
		spec string
		sel  Selector
		want *Snapshot
		path string
	}{
		{"latest", Selector{Own: "inst"}, snaps[3], ""},
		{"", Selector{Instance: "inst"}, snaps[3], ""},
		{"latest~3:homes", Selector{Own: "inst"}, snaps[0], "homes"},
		{"latest", Selector{Own: "inst", Instance: "other"}, other, ""},
		{"latest", Selector{Own: "inst", Incomplete: true}, checkpoint, ""},
		{"latest", Selector{Own: "inst", At: at(3, 2)}, snaps[1], ""},
		{"latest", Selector{Own: "inst", At: at(3, 3)}, snaps[2], ""},
		{"latest~1", Selector{Own: "inst", At: at(3, 3)}, snaps[1], ""},
		{checkpoint.Ref.ID.String(), Selector{}, checkpoint, ""},
		{other.Ref.ID.String()[:12] + ":homes/a", Selector{Own: "inst"}, other, "homes/a"},
	} {
		got, path, err := Resolve(t.Context(), h.r, c.spec, c.sel)
		if err != nil || got.Ref != c.want.Ref && got.Ref.ID != c.want.Ref.ID || path != c.path {
			t.Errorf("Resolve(%q, %+v) = %v, %q, %v", c.spec, c.sel, got, path, err)
		}
	}

	for _, c := range []struct {
		spec string
		sel  Selector
		want string
	}{
		{"latest~4", Selector{Own: "inst"}, "instance inst has 4 complete"},
		{"latest", Selector{Own: "inst", At: at(1, 2)}, "instance inst has none at or before"},
		{"latest", Selector{Instance: "nobody"}, "instance nobody has none"},
		{"latest", Selector{Own: "nobody"}, "instance nobody has none"},
		{snaps[0].Ref.ID.String(), Selector{Instance: "other"}, "of another instance"},
	} {
		_, _, err := Resolve(t.Context(), h.r, c.spec, c.sel)
		var e *NotFoundError
		if !errors.As(err, &e) || !strings.Contains(e.Reason, c.want) {
			t.Errorf("Resolve(%q, %+v): %v, want %q", c.spec, c.sel, err, c.want)
		}
	}

	_, _, err := Resolve(t.Context(), h.r, "latest", Selector{})
	var several *InstanceError
	if !errors.As(err, &several) || !slices.Equal(several.Instances, []string{"inst", "other"}) {
		t.Errorf("latest of two instances: %v", err)
	}

	// 17 ids share a first digit with another one.
	for i := range 17 {
		h.save(Manifest{Time: at(7, i), Complete: true}, one)
	}
	refs, err := h.r.Snapshots(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	byDigit := map[string]int{}
	for _, ref := range refs {
		byDigit[ref.ID.String()[:1]]++
	}
	for digit, n := range byDigit {
		_, _, err := Resolve(t.Context(), h.r, digit, Selector{})
		var e *AmbiguousError
		if n == 1 && err != nil || n > 1 && (!errors.As(err, &e) || len(e.Matches) != n) {
			t.Errorf("%d ids with %s: %v", n, digit, err)
		}
	}

	if err := h.r.Forget(t.Context(), []repo.SnapshotRef{snaps[0].Ref}); err != nil {
		t.Fatal(err)
	}
	_, _, err = Resolve(t.Context(), h.r, snaps[0].Ref.ID.String(), Selector{})
	var e *NotFoundError
	if !errors.As(err, &e) || !strings.Contains(e.Hint, "undelete") {
		t.Errorf("a forgotten one: %v", err)
	}
}

// TestResolveSameSecond makes snapshots faster than their times can tell.
func TestResolveSameSecond(t *testing.T) {
	h := newHistory(t)
	var made []*Snapshot
	for i := range 6 {
		m := Manifest{Time: at(1, 1), Complete: true}
		if i > 0 {
			m.Parent = made[i-1].Ref.ID
		}
		made = append(made, h.save(m, map[string]entry{"a": {content: "x"}}))
	}
	for i := range made {
		got, _, err := Resolve(t.Context(), h.r, fmt.Sprintf("latest~%d", i), Selector{})
		if err != nil || got.Ref.ID != made[5-i].Ref.ID {
			t.Errorf("latest~%d: %v, %v; want %v", i, got, err, made[5-i].Ref)
		}
	}
	list, err := List(t.Context(), h.r, Filter{})
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range ApplyPolicy(list, Policy{Last: 1}, at(2, 1)) {
		if d.Keep != (d.Snapshot.Ref.ID == made[5].Ref.ID) {
			t.Errorf("%v: %v", d.Snapshot.Ref.ID, d.Reasons)
		}
	}
}

func TestResolveOneInstance(t *testing.T) {
	h := newHistory(t)
	_, _, err := Resolve(t.Context(), h.r, "latest", Selector{})
	var e *NotFoundError
	if !errors.As(err, &e) || !strings.Contains(e.Hint, "wtsnap backup") {
		t.Errorf("an empty repository: %v", err)
	}
	top := map[string]entry{"a": {content: "x"}}
	h.save(Manifest{Time: at(1, 1), Checkpoint: true}, top)
	_, _, err = Resolve(t.Context(), h.r, "latest", Selector{})
	if !errors.As(err, &e) || !strings.Contains(e.Reason, "1 incomplete") {
		t.Errorf("a checkpoint only: %v", err)
	}
	want := h.save(Manifest{Time: at(1, 2), Complete: true}, top)
	for _, own := range []string{"", "inst", "this machine's"} {
		got, _, err := Resolve(t.Context(), h.r, "latest", Selector{Own: own})
		if err != nil || got.Ref.ID != want.Ref.ID {
			t.Errorf("own %q: %v, %v", own, got, err)
		}
	}
}

func TestTagsAndHolds(t *testing.T) {
	h := newHistory(t)
	s := h.save(Manifest{Time: at(1, 1), Complete: true, Tags: []string{"nightly"}}, map[string]entry{"a": {content: "x"}})
	load := func() *Snapshot {
		list, err := List(t.Context(), h.r, Filter{})
		if err != nil || len(list) != 1 {
			t.Fatal(list, err)
		}
		return list[0]
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	now := time.Now()
	must(ChangeTags(t.Context(), h.r, s.Ref.ID, []string{"keep", "a"}, []string{"nightly", "absent"}))
	if got := load(); !slices.Equal(got.CurrentTags(), []string{"a", "keep"}) || got.Hold() != nil {
		t.Errorf("tags %q, hold %v", got.CurrentTags(), got.Hold())
	}
	must(ChangeTags(t.Context(), h.r, s.Ref.ID, []string{"nightly", "a"}, []string{"keep"}))
	must(SetHold(t.Context(), h.r, s.Ref.ID, "audit", now.Add(time.Hour)))
	got := load()
	if !slices.Equal(got.CurrentTags(), []string{"a", "nightly"}) {
		t.Errorf("tags %q", got.CurrentTags())
	}
	if hold := got.Hold(); !hold.Active(now) || hold.Active(now.Add(2*time.Hour)) || hold.Reason != "audit" {
		t.Errorf("hold %+v", hold)
	}
	must(ReleaseHold(t.Context(), h.r, s.Ref.ID))
	if got := load(); got.Hold().Active(now) {
		t.Error("the hold was not released")
	}
	must(h.r.Annotate(t.Context(), s.Ref.ID, []byte(`{"version":2,"quarantine":true}`)))
	if got := load(); !got.Hold().Active(now) || !slices.Equal(got.CurrentTags(), []string{"a", "nightly"}) {
		t.Error("a note from the future does not hold")
	}
	for _, tag := range []string{"", "a b", "a,b", "\x1b[31m", "\xff", strings.Repeat("x", 129)} {
		var e *TagError
		if err := ChangeTags(t.Context(), h.r, s.Ref.ID, []string{tag}, nil); !errors.As(err, &e) {
			t.Errorf("tag %q: %v", tag, err)
		}
	}
	if err := CheckTag("größe-1"); err != nil {
		t.Error(err)
	}
	if err := ChangeTags(t.Context(), h.r, s.Ref.ID, nil, nil); err == nil {
		t.Error("changing nothing was taken")
	}
}
