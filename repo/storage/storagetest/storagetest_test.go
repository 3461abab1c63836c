package storagetest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/whole-tale/wtsnap/repo/storage"
	"github.com/whole-tale/wtsnap/repo/storage/mem"
)

func TestDecoratorsConform(t *testing.T) {
	for name, wrap := range map[string]func(t *testing.T) storage.Storage{
		"fault": func(*testing.T) storage.Storage { return NewFault(mem.New()).Record() },
		"hang": func(*testing.T) storage.Storage {
			return Hang{Storage: mem.New(), Match: func(Op) bool { return false }}
		},
	} {
		t.Run(name, func(t *testing.T) { Run(t, wrap) })
	}
}

// complaints is a testing.TB that keeps what would fail the test.
type complaints struct {
	testing.TB
	got []string
}

func (c *complaints) Helper() {}

func (c *complaints) Errorf(format string, args ...any) {
	c.got = append(c.got, fmt.Sprintf(format, args...))
}

func TestReferee(t *testing.T) {
	noIndexFirst := func(ctx context.Context, before storage.Storage, op Op) error {
		if !strings.HasPrefix(op.Name, "index/") {
			return nil
		}
		if _, err := before.Stat(ctx, "packs/"+strings.TrimPrefix(op.Name, "index/")); err != nil {
			return fmt.Errorf("its pack: %w", err)
		}
		return nil
	}
	for _, c := range []struct {
		name string
		ops  []Op
		want string // part of the complaint, or ""
	}{
		{"new objects", []Op{{Put, "config", []byte("a")}, {Put, "packs/a", []byte("b")}}, ""},
		{"the same again", []Op{{Put, "packs/a", []byte("b")}, {Put, "packs/a", []byte("b")}}, ""},
		{"deleted, then another", []Op{{Put, "packs/a", []byte("b")}, {Delete, "packs/a", nil}, {Put, "packs/a", []byte("c")}}, ""},
		{"overwritten", []Op{{Put, "packs/a", []byte("b")}, {Put, "packs/a", []byte("c")}}, "replaces different content"},
		{"unknown folder", []Op{{Put, "tmp/a", []byte("b")}}, "no such folder"},
		{"unknown folder deleted", []Op{{Delete, "tmp/a", nil}}, "no such folder"},
		{"index after its pack", []Op{{Put, "packs/a", []byte("b")}, {Put, "index/a", []byte("c")}}, ""},
		{"index before its pack", []Op{{Put, "index/a", []byte("c")}, {Put, "packs/a", []byte("b")}}, "its pack"},
	} {
		t.Run(c.name, func(t *testing.T) {
			tb := &complaints{TB: t}
			st := newReferee(tb, mem.New(), noIndexFirst)
			if err := Replay(st, c.ops); err != nil {
				t.Fatal(err)
			}
			got := strings.Join(tb.got, "; ")
			if (c.want == "") != (got == "") || !strings.Contains(got, c.want) {
				t.Errorf("complaints %q, want %q", got, c.want)
			}
		})
	}
}

// script is five operations; it goes on after errors, as no real caller does.
func script(st storage.Storage) (errs int) {
	ctx := context.Background()
	note := func(err error) {
		if err != nil {
			errs++
		}
	}
	_, err := st.Put(ctx, "config", []byte("c"))
	note(err)
	_, err = st.Put(ctx, "packs/a", []byte("a"))
	note(err)
	_, err = st.Get(ctx, "config", 0, -1, nil)
	note(err)
	note(st.Delete(ctx, "config"))
	_, err = st.Put(ctx, "index/a", []byte("i"))
	note(err)
	return errs
}

func TestFaultModes(t *testing.T) {
	for _, c := range []struct {
		at   int
		mode Mode
		errs int
		want []string
	}{
		{9, NotDone, 0, []string{"index/a", "packs/a"}},
		{1, NotDone, 1, []string{"index/a"}},
		{1, DoneFailed, 1, []string{"index/a", "packs/a"}},
		{3, NotDone, 1, []string{"config", "index/a", "packs/a"}},
		{3, DoneFailed, 1, []string{"index/a", "packs/a"}},
		{1, CrashFirst, 4, []string{"config"}},
		{1, CrashAfter, 3, []string{"config", "packs/a"}},
	} {
		backend := mem.New()
		f := NewFault(backend).Record().At(c.at, c.mode)
		if errs := script(f); errs != c.errs {
			t.Errorf("fault %d at %d: %d errors, want %d", c.mode, c.at, errs, c.errs)
		}
		var got []string
		objects, err := Content(backend)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"config", "index/a", "packs/a"} {
			if _, ok := objects[name]; ok {
				got = append(got, name)
			}
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("fault %d at %d (-want +got):\n%s", c.mode, c.at, diff)
		}
		replayed := mem.New()
		if err := Replay(replayed, f.Ops()); err != nil {
			t.Fatal(err)
		}
		again, _ := Content(replayed)
		if diff := cmp.Diff(objects, again); diff != "" {
			t.Errorf("replay of the record differs (-stored +replayed):\n%s", diff)
		}
	}
}

func TestFaultCountsOnlyWhatMatches(t *testing.T) {
	f := NewFault(mem.New()).Only(func(op Op) bool { return op.Kind.Changes() }).At(2, NotDone)
	if errs := script(f); errs != 1 || f.Count() != 4 || f.Hit() != 1 {
		t.Errorf("%d errors, %d counted, %d hit", errs, f.Count(), f.Hit())
	}
	f.Reset()
	if errs := script(f); errs != 0 || f.Hit() != 0 {
		t.Errorf("after Reset: %d errors, %d hit", errs, f.Hit())
	}
}

func TestHangEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := Hang{Storage: mem.New()}.Stat(ctx, "config")
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestCopy(t *testing.T) {
	a := mem.New()
	script(a)
	b, err := Copy(a)
	if err != nil {
		t.Fatal(err)
	}
	ca, _ := Content(a)
	cb, _ := Content(b)
	if len(ca) != 2 {
		t.Fatalf("%d objects", len(ca))
	}
	if diff := cmp.Diff(ca, cb); diff != "" {
		t.Error(diff)
	}
}
