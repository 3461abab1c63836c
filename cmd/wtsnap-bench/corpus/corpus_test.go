package corpus

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/whole-tale/wtsnap/cmd/wtsnap-bench/compare"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func tiny(t *testing.T) Size {
	size, err := ParseSize("tiny")
	must(t, err)
	return size
}

func equal(t *testing.T, a, b string) {
	t.Helper()
	result, err := compare.Trees(a, b)
	must(t, err)
	if result.Files < 10 {
		t.Fatalf("only %d files in %s", result.Files, a)
	}
	for i, d := range result.Differences {
		if i == 10 {
			t.Fatalf("and %d more", len(result.Differences)-i)
		}
		t.Errorf("%v", d)
	}
}

// machine is a tree from which homes take files as they take them from a real machine.
func machine(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	w := &writer{rng: stream(7, "machine"), words: vocabulary(7)}
	for i := range 60 {
		folder := filepath.Join(dir, "package"+w.word(), fmt.Sprint(i))
		must(t, os.MkdirAll(folder, 0o755))
		for j := range 4 {
			must(t, os.WriteFile(filepath.Join(folder, fmt.Sprintf("real%d.go", j)), w.code(3000+1000*j), 0o644))
		}
	}
	return dir
}

func makeHomes(t *testing.T, roots string, seed uint64, nights int, keep string) (*Homes, []Change) {
	t.Helper()
	h := NewHomes(filepath.Join(t.TempDir(), "homes"), seed, tiny(t), []string{roots})
	must(t, h.Make(context.Background()))
	var changes []Change
	for n := 1; n <= nights; n++ {
		var err error
		changes, err = h.Night(context.Background(), n, keep)
		must(t, err)
	}
	return h, changes
}

func TestHomesAreDeterministic(t *testing.T) {
	roots := machine(t)
	a, changes := makeHomes(t, roots, 1, 3, "")
	b, _ := makeHomes(t, roots, 1, 3, "")
	equal(t, a.Dir(), b.Dir())
	if len(changes) == 0 {
		t.Error("the third night changed nothing")
	}
	other, _ := makeHomes(t, roots, 2, 0, "")
	result, err := compare.Trees(a.Dir(), other.Dir())
	must(t, err)
	if len(result.Differences) < 100 {
		t.Errorf("another seed makes nearly the same homes: %d differences", len(result.Differences))
	}
}

func TestHomesHaveEverythingInThem(t *testing.T) {
	h, _ := makeHomes(t, machine(t), 1, 0, "")
	var files, real, links, symlinks int
	var size int64
	extensions := map[string]int{}
	must(t, filepath.WalkDir(h.Dir(), func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		switch {
		case entry.Type() == fs.ModeSymlink:
			symlinks++
		case entry.Type().IsRegular() && !strings.Contains(path, "/versions/"):
			files++
			if strings.HasPrefix(entry.Name(), "real") {
				real++
			}
			if !strings.Contains(path, "sparse") {
				size += info.Size()
			}
			extensions[filepath.Ext(path)]++
		case entry.Type().IsRegular():
			links++
		}
		return nil
	}))
	want := tiny(t)
	if files < want.Files*8/10 || files > want.Files*2 {
		t.Errorf("%d files, want about %d", files, want.Files)
	}
	if size < want.Bytes*8/10 || size > want.Bytes*12/10 {
		t.Errorf("%d bytes, want about %d", size, want.Bytes)
	}
	if real < 100 {
		t.Errorf("only %d files of the machine", real)
	}
	if links == 0 || symlinks != 36 {
		t.Errorf("%d files in versions, %d symlinks", links, symlinks)
	}
	for _, extension := range []string{".ipynb", ".csv", ".npy", ".jpg", ".h5", ".txt"} {
		if extensions[extension] == 0 {
			t.Errorf("no %s file", extension)
		}
	}
}

func TestGeneratedFilesStandInForRealOnes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "homes")
	h := NewHomes(dir, 1, tiny(t), nil)
	must(t, h.Make(context.Background()))
	projects, err := filepath.Glob(filepath.Join(dir, "*/projects/*/*/*.py"))
	must(t, err)
	if len(projects) < 100 {
		t.Errorf("%d source files without real ones", len(projects))
	}
}

func TestNightChangesAboutOnePercent(t *testing.T) {
	keep := filepath.Join(t.TempDir(), "old")
	roots := machine(t)
	h, changes := makeHomes(t, roots, 1, 1, keep)
	fresh, _ := makeHomes(t, roots, 1, 0, "")
	var added, edited, touched int64
	for _, c := range changes {
		now, err := os.ReadFile(filepath.Join(h.Dir(), c.Path))
		must(t, err)
		if c.Old == "" {
			added += int64(len(now))
			continue
		}
		edited++
		touched += int64(len(now))
		old, err := os.ReadFile(c.Old)
		must(t, err)
		before, err := os.ReadFile(filepath.Join(fresh.Dir(), c.Path))
		must(t, err)
		if bytes.Equal(old, now) || !bytes.Equal(old, before) {
			t.Errorf("%s: equal to its old version, or that is not the old version", c.Path)
		}
	}
	aim := float64(tiny(t).Bytes) * nightPart * newPart
	if float64(added) < aim*0.8 || float64(added) > aim*2 {
		t.Errorf("%d bytes in new files, want about %.0f", added, aim)
	}
	if edited < 5 {
		t.Errorf("only %d files edited", edited)
	}
	result, err := compare.Trees(fresh.Dir(), h.Dir())
	must(t, err)
	kinds := map[compare.Kind]int{}
	for _, d := range result.Differences {
		kinds[d.Kind]++
		if strings.Contains(d.Path, "/odd/") {
			t.Errorf("the night changed %s", d.Path)
		}
	}
	for _, kind := range []compare.Kind{compare.Missing, compare.Extra, compare.Content, compare.Mode} {
		if kinds[kind] == 0 {
			t.Errorf("no difference of kind %s after a night", kind)
		}
	}
}

func TestNotebooksAreValid(t *testing.T) {
	w := &writer{rng: stream(1, "test"), words: vocabulary(1)}
	for _, n := range []int{1000, 100000} {
		b := w.make(notebook, n)
		if !json.Valid(b) || len(b) < n/2 || len(b) > 4*n+4000 {
			t.Errorf("a notebook of %d bytes: %d bytes, valid: %v", n, len(b), json.Valid(b))
		}
	}
}

func TestContentsHaveTheirLength(t *testing.T) {
	w := &writer{rng: stream(1, "test"), words: vocabulary(1)}
	for k := text; k <= notebook; k++ {
		for _, n := range []int{1, 7, 1000, 70001} {
			if got := len(w.make(k, n)); k != notebook && got != n {
				t.Errorf("%s: %d bytes, want %d", k.extension(), got, n)
			}
		}
		if got := kindOf("x" + k.extension()); got != k {
			t.Errorf("%s is taken for kind %d", k.extension(), got)
		}
	}
}

// documents splits a collection, by the length in front of each document.
func documents(t *testing.T, dump *Dump, collection string) map[string][]byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dump.Dir(), "girder", collection+".bson"))
	must(t, err)
	found := map[string][]byte{}
	for len(b) > 0 {
		n := int(binary.LittleEndian.Uint32(b))
		if n < 5 || n > len(b) || b[n-1] != 0 {
			t.Fatalf("%s: a document of %d bytes with %d left", collection, n, len(b))
		}
		const id = "\x07_id\x00"
		if !bytes.HasPrefix(b[4:], []byte(id)) {
			t.Fatalf("%s: a document that starts with %q", collection, b[4:10])
		}
		found[string(b[4+len(id):][:12])] = b[:n]
		b = b[n:]
	}
	return found
}

func TestDumpNights(t *testing.T) {
	size := tiny(t)
	size.Dump = 20e6 // enough for the parts of a percent to be met
	dump := NewDump(filepath.Join(t.TempDir(), "dump"), 1, size)
	must(t, dump.Make(context.Background()))
	before := documents(t, dump, "item")
	_, err := dump.Night(context.Background(), 1, filepath.Join(t.TempDir(), "old"))
	must(t, err)
	after := documents(t, dump, "item")
	var updated, resized, deleted, inserted int
	for id, doc := range before {
		switch now, ok := after[id]; {
		case !ok:
			deleted++
		case !bytes.Equal(doc, now):
			updated++
			if len(doc) != len(now) {
				resized++
			}
		}
	}
	for id := range after {
		if _, ok := before[id]; !ok {
			inserted++
		}
	}
	n := float64(len(before))
	for _, part := range []struct {
		name      string
		got       int
		low, high float64
	}{
		{"updated", updated, 0.005, 0.02}, {"resized", resized, 0.001, 0.02},
		{"inserted", inserted, 0.003, 0.008}, {"deleted", deleted, 0.0005, 0.005},
	} {
		if float64(part.got) < n*part.low || float64(part.got) > n*part.high {
			t.Errorf("%d of %.0f documents %s", part.got, n, part.name)
		}
	}
}

func TestDumpIsDeterministic(t *testing.T) {
	a := NewDump(filepath.Join(t.TempDir(), "dump"), 1, tiny(t))
	must(t, a.Make(context.Background()))
	for night := range 3 {
		_, err := a.Night(context.Background(), night+1, "")
		must(t, err)
	}
	b := NewDump(filepath.Join(t.TempDir(), "dump"), 1, tiny(t))
	must(t, b.Make(context.Background()))
	_, err := b.Night(context.Background(), 3, "") // a function of the night alone
	must(t, err)
	equal(t, a.Dir(), b.Dir())
}

func TestUnknownSize(t *testing.T) {
	if _, err := ParseSize("huge"); err == nil {
		t.Error("size huge is no error")
	}
}
