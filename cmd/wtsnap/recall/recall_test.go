package recall

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

func at(day int) time.Time { return time.Date(2026, 11, day, 3, 0, 0, 0, time.UTC) }

func TestUpdate(t *testing.T) {
	path := Path(filepath.Join(t.TempDir(), "new", "cache"), "box:repo")
	if got := Read(path); got != nil {
		t.Fatalf("%v of no file", got)
	}
	update := func(listed, read []Snapshot, want ...Snapshot) {
		t.Helper()
		if err := Update(path, listed, read); err != nil {
			t.Fatal(err)
		}
		if got := Read(path); !slices.EqualFunc(got, want, equal) {
			t.Errorf("remembered %v, want %v", got, want)
		}
	}
	a, b, c := Snapshot{ID: "aa", Time: at(1)}, Snapshot{ID: "bb", Time: at(2), Instance: "web"}, Snapshot{ID: "cc", Time: at(3)}
	whole := Snapshot{ID: "aa", Time: at(1), Instance: "db", Labels: []string{"homes", "mongo"}}
	update([]Snapshot{a, b}, []Snapshot{whole}, b, whole)
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("%v, %v", info.Mode(), err)
	}
	update([]Snapshot{a, b, c}, nil, c, b, whole) // what was read before stays known
	update([]Snapshot{a, c}, nil, c, whole)       // one was forgotten
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if Read(path) != nil {
		t.Error("a damaged file counts as none")
	}
	update([]Snapshot{b}, nil, b)
}

func TestUpdateIsBounded(t *testing.T) {
	path := Path(t.TempDir(), "repo")
	var listed []Snapshot
	for i := range most + 10 {
		listed = append(listed, Snapshot{ID: time.Unix(int64(i), 0).UTC().Format("150405"), Time: time.Unix(int64(i), 0)})
	}
	if err := Update(path, listed, nil); err != nil {
		t.Fatal(err)
	}
	if got := Read(path); len(got) != most || !got[0].Time.Equal(listed[most+9].Time) {
		t.Errorf("%d remembered, the newest of %v", len(got), got[0].Time)
	}
}
