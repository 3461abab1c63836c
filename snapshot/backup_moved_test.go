package snapshot

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// What is moved within a file is not stored again, whether it comes before or behind the place that it was taken from. Where
// chunks end differs from repository to repository, and now and then no old chunk has enough of a new one: so several are tried.
func TestMovedWithinAFile(t *testing.T) {
	const repositories = 4
	for _, c := range []struct {
		size, length int
		places       [][2]int // from where to where
	}{
		{900_000, 100_000, [][2]int{{100_000, 600_000}, {700_000, 50_000}}},
		{6_000_000, 200_000, [][2]int{{500_000, 5_000_000}, {4_500_000, 900_000}, {2_000_000, 2_900_000}}},
		{20_000_000, 300_000, [][2]int{{1_000_000, 19_000_000}, {18_000_000, 2_000_000}}},
	} {
		t.Run(fmt.Sprint(c.size), func(t *testing.T) {
			var uploaded int64
			for range repositories {
				for _, p := range c.places {
					uploaded += uploadOfMove(t, c.size, c.length, p)
				}
			}
			moved := int64(repositories * len(c.places) * c.length)
			t.Logf("%d bytes of %d that were moved are uploaded", uploaded, moved)
			if uploaded > moved/3 {
				t.Errorf("%d bytes that were moved upload %d", moved, uploaded)
			}
		})
	}
}

// uploadOfMove saves a file, moves a part of it, and returns what the next backup uploads.
func uploadOfMove(t *testing.T, size, length int, place [2]int) int64 {
	t.Helper()
	v := newVault(t)
	v.random("data", size)
	v.settle()
	v.backup()
	path := filepath.Join(v.src, "data")
	data, err := os.ReadFile(path)
	must(t, err)
	part := slices.Clone(data[place[0] : place[0]+length])
	data = slices.Insert(slices.Delete(data, place[0], place[0]+length), place[1], part...)
	must(t, os.WriteFile(path, data, 0o600))
	v.settle()
	rep := v.backup()
	v.same(rep)
	return rep.Bytes.Uploaded
}
