package main

import (
	"archive/tar"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The golden repository was made by the first version that wrote format 1: two nights of files of every kind that needs
// no root, a tar stream, a delta, a tag. Every later version reads it. It is never made again; a change of the format
// gets a golden repository of its own beside it.
func TestGoldenRepository(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("testdata/golden-v1")); err != nil {
		t.Fatal(err)
	}
	repo := []string{"-r", filepath.Join(dir, "repo"), "-p", filepath.Join(dir, "key"), "--cache-dir", "none"}
	wtsnap := func(args ...string) string {
		t.Helper()
		code, out, errs := runArgs(t, append(repo, args...)...)
		if code != exitOK {
			t.Fatalf("wtsnap %s: exit %d: %s", strings.Join(args, " "), code, errs)
		}
		return out
	}
	wtsnap("check", "--read-data")
	if out := wtsnap("snapshots", "--instance", "golden"); !strings.Contains(out, "#kept") || !strings.Contains(out, "2 snapshots") {
		t.Errorf("the list of snapshots:\n%s", out)
	}
	for night, snapshot := range map[string]string{"night-1.txt": "latest~1", "night-2.txt": "latest"} {
		file := filepath.Join(dir, night+".tar")
		wtsnap("restore", snapshot, "--instance", "golden", "--to", "tar:"+file, "--numeric-ids", "-q")
		want, err := os.ReadFile(filepath.Join("testdata/golden-v1", night))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), listTar(t, file)); diff != "" {
			t.Errorf("%s is not what it was (-want +got):\n%s", snapshot, diff)
		}
	}
	wtsnap("--instance", "golden", "backup", "src=testdata/golden-v1", "--allow-shrink", "-q") // it can be written to
	wtsnap("check", "--read-data")
}

// listTar describes every entry of an archive, in its order.
func listTar(t *testing.T, file string) string {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b strings.Builder
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return b.String()
		}
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.New()
		if _, err := io.Copy(sum, r); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%c %q %04o %d:%d %d %s %q %.8x\n", h.Typeflag, h.Name, h.Mode, h.Uid, h.Gid, h.Size,
			h.ModTime.UTC().Format("2006-01-02T15:04:05.999999999"), h.Linkname, sum.Sum(nil))
	}
}
