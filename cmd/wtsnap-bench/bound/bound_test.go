package bound

import (
	"context"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func noise(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{1, byte(n), byte(n >> 8)}).Read(b)
	return b
}

// trees makes an old and a new tree: one file edited, one new, one renamed, one copied, one linked, one emptied.
func trees(t *testing.T) (old, new string) {
	old, new = t.TempDir(), t.TempDir()
	write := func(dir, name string, content []byte) {
		must(t, os.WriteFile(filepath.Join(dir, name), content, 0o644))
	}
	edited := noise(300000)
	write(old, "edited", edited)
	write(new, "edited", slices.Insert(slices.Clone(edited), 1000, noise(2000)...))
	write(new, "new", noise(5000))
	write(old, "name", noise(7000))
	write(new, "other-name", noise(7000))
	write(new, "copy", noise(7000))
	must(t, os.Link(filepath.Join(new, "new"), filepath.Join(new, "link")))
	write(old, "emptied", noise(9000))
	write(new, "emptied", nil)
	return old, new
}

func TestTreesPairsWhatHasNewContent(t *testing.T) {
	old, new := trees(t)
	pairs, err := Trees(old, new)
	must(t, err)
	want := []Pair{{old + "/edited", new + "/edited"}, {"", new + "/link"}}
	if !slices.Equal(pairs, want) {
		t.Errorf("got %v, want %v", pairs, want)
	}
}

func TestBoundIsThatOfAPerfectDelta(t *testing.T) {
	sizers := map[string]sizer{"library": withLibrary}
	if program, err := exec.LookPath("zstd"); err == nil {
		sizers["program"] = withProgram(program)
	} else {
		t.Log("no zstd program here: only the library is tested")
	}
	old, new := trees(t)
	pairs, err := Trees(old, new)
	must(t, err)
	for name, size := range sizers {
		b, err := sum(context.Background(), pairs, size, name, 2)
		must(t, err)
		if b.NewBytes < 5000 || b.NewBytes > 5100 {
			t.Errorf("%s: %d bytes for a new file of 5000", name, b.NewBytes)
		}
		if delta := b.Bytes - b.NewBytes; delta < 2000 || delta > 2200 {
			t.Errorf("%s: %d bytes for an insertion of 2000", name, delta)
		}
		if b.Files != 2 {
			t.Errorf("%s: %d files", name, b.Files)
		}
	}
}

func TestAbsentFileIsAnError(t *testing.T) {
	if _, err := Of(context.Background(), []Pair{{New: "/nowhere/at/all"}}); err == nil {
		t.Error("no error")
	}
}
