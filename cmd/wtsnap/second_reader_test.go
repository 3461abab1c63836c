package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/pkg/xattr"

	"github.com/whole-tale/wtsnap/docs/reader"
)

// TestSecondReaderGolden lets the reader that was written from docs/format.md alone read the golden repository.
func TestSecondReaderGolden(t *testing.T) {
	for _, packsAlone := range []bool{false, true} {
		nights := secondReader(t, "testdata/golden-v1/repo", "testdata/golden-v1/key", packsAlone)
		if len(nights) != 2 {
			t.Fatalf("%d snapshots, want 2", len(nights))
		}
		for i, night := range nights {
			want, err := os.ReadFile(fmt.Sprintf("testdata/golden-v1/night-%d.txt", i+1))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), listTar(t, night)); diff != "" {
				t.Errorf("night %d, packs alone %t (-want +got):\n%s", i+1, packsAlone, diff)
			}
		}
	}
}

// TestSecondReader lets it read what wtsnap writes today, night after night, so that a change of the format without a
// change of the page is seen: patches and chains of them, content lists, folders of several pages, holes, links,
// extended attributes, with a password and with a key file, through the index and by the packs alone.
func TestSecondReader(t *testing.T) {
	clearEnvironment(t)
	for name, nights := range map[string]int{"password": 1, "key file": 4} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			repo, key, home := filepath.Join(dir, "repo"), filepath.Join(dir, "key"), filepath.Join(dir, "home")
			wtsnap := func(args ...string) string {
				t.Helper()
				code, out, errs := runArgs(t, append([]string{"-r", repo, "--cache-dir", filepath.Join(dir, "cache"), "--instance", "i"}, args...)...)
				if code != exitOK {
					t.Fatalf("wtsnap %s: exit %d: %s", strings.Join(args, " "), code, errs)
				}
				return out
			}
			if name == "password" {
				if err := os.WriteFile(key, []byte("correct horse battery staple\n"), 0o600); err != nil {
					t.Fatal(err)
				}
				wtsnap("-p", key, "init")
			} else {
				wtsnap("init", "--new-key-file", key)
			}
			h := newHome(t, home)
			for range nights {
				h.night(t)
				wtsnap("-p", key, "backup", "home="+home, "-q")
			}
			var stats struct{ Blobs struct{ Deltas int } }
			if err := json.Unmarshal([]byte(wtsnap("-p", key, "stats", "--json")), &stats); err != nil {
				t.Fatal(err)
			}
			if nights > 1 && stats.Blobs.Deltas < 50 {
				t.Errorf("%d deltas: too few to say that they can be read", stats.Blobs.Deltas)
			}
			for _, packsAlone := range []bool{false, true} {
				tars := secondReader(t, repo, key, packsAlone)
				if len(tars) != nights {
					t.Fatalf("%d snapshots, want %d", len(tars), nights)
				}
				for i, got := range tars {
					want := filepath.Join(t.TempDir(), "want.tar")
					wtsnap("-p", key, "restore", fmt.Sprintf("latest~%d", nights-1-i), "--to", "tar:"+want, "--numeric-ids", "-q")
					if diff := cmp.Diff(listTar(t, want), listTar(t, got)); diff != "" {
						t.Errorf("night %d, packs alone %t (-wtsnap +second reader):\n%s", i+1, packsAlone, diff)
					}
				}
			}
		})
	}
}

// secondReader writes each snapshot of a repository as a tar file, the oldest first.
func secondReader(t *testing.T, repo, keyFile string, packsAlone bool) (tars []string) {
	t.Helper()
	password, err := os.ReadFile(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	r, err := reader.Open(repo, strings.TrimSpace(string(password)))
	if err != nil {
		t.Fatal(err)
	}
	load := r.LoadIndex
	if packsAlone {
		load = r.LoadDirectories
	}
	if err := load(); err != nil {
		t.Fatal(err)
	}
	snapshots, err := r.Snapshots()
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range snapshots {
		file := filepath.Join(t.TempDir(), fmt.Sprintf("%d.tar", i))
		var b bytes.Buffer
		if err := r.WriteTar(&b, s); err != nil {
			t.Fatalf("snapshot %s: %v", s.ID(), err)
		}
		if err := os.WriteFile(file, b.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		tars = append(tars, file)
	}
	return tars
}

// A changingHome is a folder with one of every kind of thing that the format has a form for.
type changingHome struct {
	dir     string
	random  *rand.Rand
	records []byte // like a database: all of it stays, records here and there change
}

func newHome(t *testing.T, dir string) *changingHome {
	t.Helper()
	h := &changingHome{dir: dir, random: rand.New(rand.NewPCG(1, 2))}
	for len(h.records) < 14<<20 { // more than 32 chunks: a content list
		h.records = fmt.Appendf(h.records, "%08x record of %s, %d\n", h.random.Uint32(), strings.Repeat("words ", 12), len(h.records))
	}
	for _, folder := range []string{"many", "deep/er"} {
		if err := os.MkdirAll(filepath.Join(dir, folder), 0o750); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 1500 { // more than 1024: a folder of several pages
		h.write(t, fmt.Sprintf("many/file %04d", i), fmt.Appendf(nil, "%d", i))
	}
	h.write(t, "deep/er/empty", nil)
	h.write(t, "deep/er/noise", noise(h.random, 200_000))
	if err := os.Link(filepath.Join(dir, "deep/er/noise"), filepath.Join(dir, "deep/link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("er/empty", filepath.Join(dir, "deep/symlink")); err != nil {
		t.Fatal(err)
	}
	h.write(t, "sparse", []byte("begin"))
	if err := os.Truncate(filepath.Join(dir, "sparse"), 5<<20); err != nil {
		t.Fatal(err)
	}
	if err := xattr.Set(filepath.Join(dir, "sparse"), "user.wtsnap", []byte{0, 1, 2}); err != nil {
		t.Logf("no extended attributes here: %v", err)
	}
	return h
}

func (h *changingHome) write(t *testing.T, name string, content []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(h.dir, name), content, 0o640); err != nil {
		t.Fatal(err)
	}
}

// night changes a hundred records, adds a few, and edits a small file.
func (h *changingHome) night(t *testing.T) {
	t.Helper()
	for range 100 {
		copy(h.records[h.random.IntN(len(h.records)-8):], fmt.Sprintf("%08x", h.random.Uint32()))
	}
	h.records = fmt.Appendf(h.records, "one more at %d\n", len(h.records))
	h.write(t, "records", h.records)
	h.write(t, fmt.Sprintf("many/file %04d", h.random.IntN(1500)), noise(h.random, 50))
	h.write(t, fmt.Sprintf("many/new %d", len(h.records)), []byte("new"))
	if err := os.Chtimes(filepath.Join(h.dir, "many"), time.Time{}, time.Unix(-1, 5)); err != nil { // before 1970
		t.Fatal(err)
	}
}

func noise(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}
