package localfs

import (
	"testing"

	"golang.org/x/sys/unix"
)

// BenchmarkStat compares statx, which tells the birth time, with fstatat, which does not.
func BenchmarkStat(b *testing.B) {
	d, err := OpenDir(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	defer d.Close()
	if err := unix.Mkdirat(d.fd, "some folder", 0o700); err != nil {
		b.Fatal(err)
	}
	b.Run("statx", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := d.Stat("some folder"); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("fstatat", func(b *testing.B) {
		b.ReportAllocs()
		name := append([]byte("some folder"), 0)
		for b.Loop() {
			var m Meta
			if err := fstatat(d.fd, &name[0], unix.AT_SYMLINK_NOFOLLOW, &m); err != nil {
				b.Fatal(err)
			}
		}
	})
}
