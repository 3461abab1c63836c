package snapshot

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// What is moved within a file is not stored again, whether it comes before or behind the place that it was taken from.
func TestMovedWithinAFile(t *testing.T) {
	for _, c := range []struct {
		size, length int
		places       [][2]int // from where to where
	}{
		{900_000, 100_000, [][2]int{{100_000, 600_000}, {700_000, 50_000}}},
		{6_000_000, 200_000, [][2]int{{500_000, 5_000_000}, {4_500_000, 900_000}, {2_000_000, 2_900_000}}},
		{20_000_000, 300_000, [][2]int{{1_000_000, 19_000_000}, {18_000_000, 2_000_000}}},
	} {
		for _, p := range c.places {
			t.Run(fmt.Sprint(c.size, p), func(t *testing.T) {
				v := newVault(t)
				v.random("data", c.size)
				v.settle()
				v.backup()
				path := filepath.Join(v.src, "data")
				data, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				part := slices.Clone(data[p[0] : p[0]+c.length])
				data = slices.Insert(slices.Delete(data, p[0], p[0]+c.length), p[1], part...)
				if err := os.WriteFile(path, data, 0o600); err != nil {
					t.Fatal(err)
				}
				v.settle()
				rep := v.backup()
				if rep.Bytes.Uploaded > int64(c.length)/2 || rep.Blobs.Delta == 0 {
					t.Errorf("%d bytes that were moved upload %d, %d of %d new blobs are deltas", c.length, rep.Bytes.Uploaded, rep.Blobs.Delta, rep.Blobs.New)
				}
				v.same(rep)
			})
		}
	}
}
