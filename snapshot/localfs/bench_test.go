package localfs

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// scan reads a tree as a backup does that finds nothing changed: list, stat, go down.
func scan(tb testing.TB, d *Dir, stats *int) {
	entries, err := d.Entries(nil)
	if err != nil {
		tb.Fatal(err)
	}
	for _, e := range entries {
		m, err := d.Stat(e.Name)
		if err != nil {
			tb.Fatal(err)
		}
		*stats++
		if m.Type == TypeDir {
			sub, err := d.OpenDir(e.Name)
			if err != nil {
				tb.Fatal(err)
			}
			scan(tb, sub, stats)
			sub.Close()
		}
	}
}

func benchTree(b *testing.B) string {
	root := b.TempDir()
	for i := range 100 {
		for j := range 10 {
			dir := filepath.Join(root, fmt.Sprintf("home%d/project-%d", i, j))
			if err := os.MkdirAll(dir, 0o700); err != nil {
				b.Fatal(err)
			}
			for k := range 39 {
				if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("result_%d_of_run.csv", k)), nil, 0o600); err != nil {
					b.Fatal(err)
				}
			}
		}
	}
	return root
}

// BenchmarkScan lists and stats about 40,000 entries.
func BenchmarkScan(b *testing.B) {
	root := benchTree(b)
	b.ReportAllocs()
	var stats int
	for b.Loop() {
		stats = 0
		d, err := OpenDir(root)
		if err != nil {
			b.Fatal(err)
		}
		scan(b, d, &stats)
		d.Close()
	}
	if stats != 40100 {
		b.Fatalf("%d entries", stats)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(stats), "ns/entry")
}

// BenchmarkReadFile opens and reads a small file with its attributes, as a first backup does.
func BenchmarkReadFile(b *testing.B) {
	root := b.TempDir()
	if err := os.WriteFile(filepath.Join(root, "file"), make([]byte, 10_000), 0o600); err != nil {
		b.Fatal(err)
	}
	d, err := OpenDir(root)
	if err != nil {
		b.Fatal(err)
	}
	defer d.Close()
	buf := make([]byte, 64<<10)
	b.ReportAllocs()
	for b.Loop() {
		f, _, err := d.OpenFile("file")
		if err != nil {
			b.Fatal(err)
		}
		if n, err := f.Read(buf); n != 10_000 || err != nil {
			b.Fatal(n, err)
		}
		if _, err := f.Xattrs(); err != nil {
			b.Fatal(err)
		}
		f.Close()
	}
}

// BenchmarkRestoreFile makes, writes and finishes a small file, three folders down.
func BenchmarkRestoreFile(b *testing.B) {
	r, err := OpenRoot(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	defer r.Close()
	for _, dir := range []string{"a", "a/b", "a/b/c"} {
		if err := r.Mkdir(dir); err != nil {
			b.Fatal(err)
		}
	}
	data := make([]byte, 10_000)
	m := Meta{Type: TypeFile, Mode: 0o644, UID: uint32(os.Geteuid()), GID: uint32(os.Getegid()), MTime: 1e18}
	b.ReportAllocs()
	for b.Loop() {
		f, err := r.Create("a/b/c/file")
		if err != nil {
			b.Fatal(err)
		}
		if _, err := f.WriteAt(data, 0); err != nil {
			b.Fatal(err)
		}
		if err := f.Apply(&m, nil, ApplyOptions{}); err != nil {
			b.Fatal(err)
		}
		f.Close()
		if err := r.Remove("a/b/c/file"); err != nil {
			b.Fatal(err)
		}
	}
}
