package snapshot

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// fill makes a small source of everything.
func (v *vault) fill() {
	v.t.Helper()
	for i := range 3 {
		for j := range 20 {
			v.write(fmt.Sprintf("home%d/dir%d/file%d.txt", i, j%4, j), fmt.Sprintf("content %d of %d\n", j, i))
		}
	}
	v.write("home0/empty", "")
	v.write("home0/large.bin", string(noise(3<<20, 1)))
	v.write("names/\xff\n\x01-", "odd")
	must(v.t, os.Symlink("../nowhere/\xfe", filepath.Join(v.src, "names/link")))
	must(v.t, os.Link(filepath.Join(v.src, "home0/large.bin"), filepath.Join(v.src, "home1/linked.bin")))
	must(v.t, os.Mkdir(filepath.Join(v.src, "void"), 0o700))
}

func TestBackupAndRestore(t *testing.T) {
	v := newVault(t)
	v.fill()
	v.settle()
	first := v.backup()
	v.counts(first, FileCounts{New: 64})
	v.same(first)

	second := v.backup()
	v.counts(second, FileCounts{Unchanged: 64})
	if second.Bytes.Read != 0 || second.Blobs.New != 0 {
		t.Errorf("an unchanged night read %d bytes and stored %d blobs", second.Bytes.Read, second.Blobs.New)
	}
	if first.Snapshot.Root != second.Snapshot.Root {
		t.Error("the same source gave another tree")
	}
}
