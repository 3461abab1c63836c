package snapshot

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/snapshot/localfs"
)

func TestAlike(t *testing.T) {
	for _, names := range [][]string{ // the first is more like the second than like the third, and so on, and not like the last
		{"v1.41.0", "v1.41.1", "v1.40.2", "v1.37.0", "v1.4.0", "x1.41.0"},
		{"dump-2026-11-28.sql", "dump-2026-11-27.sql", "dump-2026-10-28.sql", "dump-2025-11-28.sql", "dump-2026-now.sql", "readme"},
		{"project-new", "project-old", "project-archive-of-last-year"},
		{"a1", "a2", "a9", "b1"},
		{"x99999999999999999999", "x1", "y"},
	} {
		last := 0
		for i := len(names) - 1; i > 0; i-- {
			l := alike(names[0], names[i])
			if l != alike(names[i], names[0]) || l < last || (l == 0) != (i == len(names)-1) || l == last && l > 0 {
				t.Errorf("%q and %q: %d, after %d", names[0], names[i], l, last)
			}
			last = l
		}
	}
}

// A kin is looked for among the last files that the walk came past, and the next.
func TestKinIsNear(t *testing.T) {
	var c pastCursor
	file := func(name string) *Node { return &Node{Name: name, Meta: localfs.Meta{Type: localfs.TypeFile}} }
	for _, name := range []string{"data-11", "data-19.meta", "data-2.meta", "data-21"} {
		c.files.add(file(name))
	}
	c.folders.add(&Node{Name: "data-20", Meta: localfs.Meta{Type: localfs.TypeDir}})
	c.head = file("data-40")
	m := localfs.Meta{Type: localfs.TypeFile}
	if n, _ := c.kin("data-22", &m); n == nil || n.Name != "data-21" {
		t.Errorf("got %v", n)
	}
	if n, _ := c.kin("data-22", &localfs.Meta{Type: localfs.TypeFile, UID: 7}); n != nil {
		t.Errorf("got %q, which is another user's", n.Name)
	}
	if n, _ := c.kin("data-39", &m); n == nil || n.Name != "data-40" {
		t.Errorf("got %v", n)
	}
	for i := range kinSpan {
		c.files.add(file(fmt.Sprintf("picture-%d", i)))
	}
	c.head = nil
	if n, _ := c.kin("data-22", &m); n != nil {
		t.Errorf("got %q, which is far", n.Name)
	}
}

// digits returns text of which only the same text is alike, and which takes half its size when it is compressed.
func digits(seed byte, n int) []byte {
	b := make([]byte, n/2)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return []byte(hex.EncodeToString(b))
}

// A new version of something under another name is stored as its difference from the old one, with and without bases at hand;
// without deltas it is stored whole, and restored as the same.
func TestNewVersionsUnderNewNames(t *testing.T) {
	change := func(b []byte) []byte {
		at := len(b) / 3
		return bytes.Join([][]byte{b[:at], b[at+20:]}, []byte("changed"))
	}
	for _, c := range []struct {
		name  string
		delta repo.DeltaMode
	}{{"auto", repo.DeltaAuto}, {"cache", repo.DeltaCache}, {"off", repo.DeltaOff}} {
		t.Run(c.name, func(t *testing.T) {
			// What chunks the files have, and so which guesses are tried, differs from repository to repository: four are tried.
			var fresh, stored, deltas, blobs int64
			for range 4 {
				v := newVault(t)
				v.opts.Delta = c.delta
				files := map[string][]byte{"logs/dump-2026-11-27.sql": digits(1, 3_000_000), "logs/dump-2026-11-27.txt": digits(2, 4000)}
				for i := range 40 {
					files[fmt.Sprintf("mod/tool@v1.9.0/sub%d/file%d.go", i%3, i)] = digits(byte(100+i), 5000+1000*i)
				}
				for name, data := range files {
					v.write(name, string(data))
				}
				v.settle()
				v.backup()
				for name, data := range files {
					name = strings.NewReplacer("v1.9.0", "v1.10.0", "11-27", "11-28").Replace(name)
					v.write(name, string(change(data)))
					if len(data) < 1_000_000 { // of the other most chunks are as they were
						fresh += int64(len(data))
					}
				}
				v.settle()
				rep := v.backup()
				stored, deltas, blobs = stored+rep.Bytes.Uploaded, deltas+rep.Blobs.Delta, blobs+rep.Blobs.New
				v.counts(rep, FileCounts{New: int64(len(files)), Unchanged: int64(len(files))})
				v.same(rep)
			}
			whole := fresh / 2
			if c.delta == repo.DeltaAuto && stored > whole/5 || c.delta != repo.DeltaAuto && stored < whole {
				t.Errorf("%d bytes for %d in new files, %d of %d blobs are deltas", stored, fresh, deltas, blobs)
			}
			if c.delta == repo.DeltaAuto && deltas < blobs/2 || c.delta == repo.DeltaOff && deltas > 0 {
				t.Errorf("%d of %d blobs are deltas", deltas, blobs)
			}
		})
	}
}

// A name that is like another's, of a file that is not, is no old version: such a file is new to the alarm and to the counts, and
// one that has the name and the times of its kin is read.
func TestKinIsNoOldVersion(t *testing.T) {
	v := newVault(t)
	v.write("a/run-1.csv", "one\n")
	old := v.write("b-1/same.csv", string(digits(3, 50_000)))
	v.settle()
	v.backup()
	v.write("a/run-2.csv", string(digits(4, 70_000)))
	path := v.write("b-2/same.csv", string(digits(5, 50_000)))
	info, err := os.Stat(old)
	must(t, err)
	must(t, os.Chtimes(path, info.ModTime(), info.ModTime()))
	must(t, os.Rename(filepath.Join(v.src, "b-1"), filepath.Join(v.src, "b-3"))) // its files are as they were
	v.settle()
	rep := v.backup()
	v.counts(rep, FileCounts{New: 3, Unchanged: 1, Removed: 1})
	v.same(rep)
}
