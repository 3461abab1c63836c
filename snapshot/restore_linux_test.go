package snapshot

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"testing"
)

func TestRestoreDiskFull(t *testing.T) {
	dst := t.TempDir()
	if err := syscall.Mount("tmpfs", dst, "tmpfs", 0, "size=1m,mode=755"); err != nil {
		t.Skipf("no small file system to fill: mount: %v", err)
	}
	t.Cleanup(func() { must(t, syscall.Unmount(dst, 0)) })
	src := t.TempDir()
	for i := range 20 {
		write(t, fmt.Sprintf("%s/%d", src, i), bytesOf(uint64(i), 200_000))
	}
	d := newDepot(t).checked()
	s := d.save(map[string]string{"l": src})
	o := RestoreOptions{Snapshot: s, Path: "l", Target: to(dst)}
	rep, err := Restore(t.Context(), d.r, o)
	var full *DiskFullError
	if !errors.As(err, &full) || rep.Problems > 0 || rep.Files.New == 0 {
		t.Fatalf("%v, %+v", err, rep)
	}
	if lies := liars(t, src, dst); lies != nil {
		t.Errorf("%q look complete and are not", lies)
	}
	must(t, syscall.Mount("tmpfs", dst, "tmpfs", syscall.MS_REMOUNT, "size=20m"))
	again := d.restore(o)
	sameTrees(t, src, dst)
	if again.Bytes.Skipped == 0 {
		t.Errorf("nothing of the first run was of use: %+v", again)
	}
}

func TestRestoreDeleteStaysOnOneFileSystem(t *testing.T) {
	src, dst := t.TempDir(), t.TempDir()
	for i := range 10 {
		write(t, fmt.Sprintf("%s/%d", src, i), []byte("x"))
	}
	write(t, src+"/was", []byte("a file"))
	d := newDepot(t).checked()
	s := d.save(map[string]string{"l": src})
	o := RestoreOptions{Snapshot: s, Path: "l", Target: to(dst), Delete: true}
	d.restore(o)
	must(t, os.Remove(dst+"/was"))
	for _, at := range []string{"/extra/mounted", "/was"} {
		must(t, os.MkdirAll(dst+at, 0o755))
		if err := syscall.Mount("tmpfs", dst+at, "tmpfs", 0, ""); err != nil {
			t.Skipf("cannot mount: %v", err)
		}
		t.Cleanup(func() { must(t, syscall.Unmount(dst+at, 0)) })
		write(t, dst+at+"/precious", []byte("p"))
	}
	rep, err := Restore(t.Context(), d.r, o)
	must(t, err)
	if !fileExists(dst+"/extra/mounted/precious") || !fileExists(dst+"/was/precious") {
		t.Error("deleted into a mounted file system")
	}
	if rep.Problems != 1 || rep.Delete.Kept == 0 {
		t.Errorf("%+v, %+v", rep, rep.Delete)
	}
}
