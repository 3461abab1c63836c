package count_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/whole-tale/wtsnap/repo/storage"
	"github.com/whole-tale/wtsnap/repo/storage/count"
	"github.com/whole-tale/wtsnap/repo/storage/mem"
	"github.com/whole-tale/wtsnap/repo/storage/storagetest"
)

func TestConformance(t *testing.T) {
	storagetest.Run(t, func(*testing.T) storage.Storage { return count.New(mem.New()) })
}

func TestCounts(t *testing.T) {
	ctx := t.Context()
	st := count.New(mem.New())
	for _, name := range []string{"a", "b"} {
		if _, err := st.Put(ctx, name, []byte("12345")); err != nil {
			t.Fatal(err)
		}
	}
	before := st.Counts()
	if _, err := st.Get(ctx, "a", 1, 3, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := st.Get(ctx, "missing", 0, -1, nil); err == nil {
		t.Fatal("got a missing object")
	}
	if err := st.List(ctx, "", func(storage.Info) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if _, err := st.Stat(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	if err := st.Delete(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(count.Counts{Put: 2, Uploaded: 10}, before); diff != "" {
		t.Error(diff)
	}
	want := count.Counts{Get: 2, Stat: 1, List: 1, Delete: 1, Failed: 1, Listed: 2, Downloaded: 3}
	if diff := cmp.Diff(want, st.Counts().Sub(before)); diff != "" {
		t.Error(diff)
	}
	if n := st.Counts().Calls(); n != 7 {
		t.Errorf("%d calls, want 7", n)
	}
}
