package snapshot

import (
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/index"
	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/repo/storage/cache"
	"github.com/whole-tale/wtsnap/repo/storage/count"
	"github.com/whole-tale/wtsnap/repo/storage/storagetest"
)

// Reading many folders over a line of 300 ms takes few requests, which read ahead, with or without a local cache; several
// that read the same at once do not read it twice. The clock is simulated.
func TestFoldersAreReadAhead(t *testing.T) {
	v := newVault(t)
	const folders, files = 150, 60
	for i := range folders {
		for j := range files {
			v.write(fmt.Sprintf("home%d/dir%03d/a file of some name %d-%d.txt", i%5, i, i, j), fmt.Sprint(i, j))
		}
	}
	rep := v.backup()
	tree := func(t *testing.T, r *repo.Repository, load LoadFunc) (entries int) {
		must(t, Walk(t.Context(), load, rep.Snapshot.RootNode(), "", func(_ string, _ *Node, err error) error {
			entries++
			return err
		}))
		return entries
	}
	for _, c := range []struct {
		name string
		run  func(t *testing.T, r *repo.Repository, load LoadFunc) (entries int)
		want int // entries
	}{
		{"ls -R", tree, 1 + 5 + folders + folders*files},
		{"check", func(t *testing.T, r *repo.Repository, load LoadFunc) int {
			data, err := r.Manifest(t.Context(), rep.Snapshot.Ref)
			must(t, err)
			var pages atomic.Int64
			must(t, References(load)(t.Context(), data, func(kind index.Kind, _ chunk.ID) bool {
				if kind == index.Tree {
					pages.Add(1)
				}
				return true
			}))
			return int(pages.Load())
		}, 2 + 5 + folders},
	} {
		for _, dir := range []string{"", t.TempDir()} {
			t.Run(fmt.Sprintf("%s, cache %v", c.name, dir != ""), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					thin := storagetest.NewThin(v.st, storagetest.ThinOptions{Latency: 300 * time.Millisecond, Up: 1e6, Down: 1e6})
					counted := count.New(thin)
					o := repo.OpenOptions{Password: v.key}
					if dir != "" {
						o.Cached = cache.New(counted, cache.Options{Dir: dir + "/" + t.Name(), Prefixes: []string{"packs/"}})
					}
					r, err := repo.Open(t.Context(), counted, o)
					must(t, err)
					must(t, r.LoadIndex(t.Context()))
					var bytes int64
					for _, p := range r.Index().Packs() {
						if p.Kind == index.Tree {
							bytes += p.Size
						}
					}
					before, start := counted.Counts(), time.Now()
					if got := c.run(t, r, TreeLoader(r)); got != c.want {
						t.Errorf("%d entries, want %d", got, c.want)
					}
					took, got := time.Since(start), counted.Counts().Sub(before)
					t.Logf("%d gets of %d bytes, of which there are %d, in %v", got.Get, got.Downloaded, bytes, took)
					if got.Get > 12 || got.Downloaded > 5*bytes { // without reading ahead it takes one for each folder
						t.Errorf("%d gets of %d bytes for folders of %d", got.Get, got.Downloaded, bytes)
					}
					if most := 14*300*time.Millisecond + time.Duration(5*bytes)*time.Microsecond; took > most { // the order of the reads decides
						t.Errorf("it took %v, want %v at most", took, most)
					}
				})
			})
		}
	}
}
