package local_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/whole-tale/wtsnap/repo/storage"
	"github.com/whole-tale/wtsnap/repo/storage/local"
	"github.com/whole-tale/wtsnap/repo/storage/storagetest"
)

func open(t *testing.T, dir string) *local.Storage {
	t.Helper()
	st, err := local.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func TestConformance(t *testing.T) {
	storagetest.Run(t, func(t *testing.T) storage.Storage {
		return open(t, filepath.Join(t.TempDir(), "made", "by", "put"))
	})
}

func TestModes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "repo")
	if _, err := open(t, dir).Put(t.Context(), "packs/ab/1", []byte("x")); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]os.FileMode{"": 0o700, "packs": 0o700, "packs/ab": 0o700, "packs/ab/1": 0o600} {
		fi, err := os.Stat(filepath.Join(dir, path))
		if err != nil || fi.Mode().Perm() != want {
			t.Errorf("%q has mode %v, want %v (%v)", path, fi.Mode().Perm(), want, err)
		}
	}
}

func TestOpenDoesNotMakeTheFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "repo")
	open(t, dir)
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("stat after Open: %v", err)
	}
}

func TestOpenRefusesAFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := local.Open(path); !errors.Is(err, storage.ErrConfig) {
		t.Errorf("Open of a file: %v, want ErrConfig", err)
	}
}

func TestTemporaryFiles(t *testing.T) {
	dir := t.TempDir()
	folder := filepath.Join(dir, "packs", "ab")
	if err := os.MkdirAll(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	old := filepath.Join(folder, ".tmp-0123456789abcdef")
	young := filepath.Join(folder, ".tmp-fedcba9876543210")
	other := filepath.Join(folder, ".nfs0001")
	for _, path := range []string{old, young, other} {
		if err := os.WriteFile(path, []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{old, other} {
		then := time.Now().Add(-25 * time.Hour)
		if err := os.Chtimes(path, then, then); err != nil {
			t.Fatal(err)
		}
	}
	st := open(t, dir)
	err := st.List(t.Context(), "", func(i storage.Info) error {
		t.Errorf("list shows %s", i.Name)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := st.Put(t.Context(), "packs/ab/1", []byte("x")); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{old: false, young: true, other: true} {
		if _, err := os.Stat(path); (err == nil) != want {
			t.Errorf("%s after a put: %v", filepath.Base(path), err)
		}
	}
}

func TestErrors(t *testing.T) {
	dir := t.TempDir()
	st := open(t, dir)
	if err := os.WriteFile(filepath.Join(dir, "packs"), []byte("a file where a folder should be"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := st.Put(t.Context(), "packs/ab/1", []byte("x")); err == nil || errors.Is(err, storage.ErrNotExist) {
		t.Errorf("put below a file: %v", err)
	}
	if _, err := st.Get(t.Context(), "packs/ab/1", 0, -1, nil); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("get below a file: %v, want ErrNotExist", err)
	}
	full, err := local.Open("/dev")
	if err != nil {
		t.Skip("no /dev here")
	}
	if _, err := full.Get(t.Context(), "null", 0, -1, nil); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("get of a device: %v, want ErrNotExist", err)
	}
	if proc, err := local.Open("/proc/self"); err == nil {
		if _, err := proc.Put(t.Context(), "net/x/y", []byte("x")); err == nil {
			t.Error("put into /proc succeeded")
		} else if hint := storage.Hint(err); errors.Is(err, storage.ErrDenied) && hint == "" {
			t.Errorf("no hint with %v", err)
		}
	}
}

func TestReaderSeesNoHalfObject(t *testing.T) {
	dir := t.TempDir()
	st := open(t, dir)
	a, b := bytes.Repeat([]byte("a"), 1<<20), bytes.Repeat([]byte("b"), 1<<20)
	done := make(chan error, 1)
	if _, err := st.Put(t.Context(), "leases/x", a); err != nil {
		t.Fatal(err)
	}
	go func() {
		for i := range 30 {
			data := a
			if i%2 == 0 {
				data = b
			}
			if _, err := st.Put(t.Context(), "leases/x", data); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	reads := 0
	for {
		got, err := st.Get(t.Context(), "leases/x", 0, -1, nil)
		if err != nil || !bytes.Equal(got, a) && !bytes.Equal(got, b) {
			t.Fatalf("read %d: %d bytes, %v", reads, len(got), err)
		}
		reads++
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			return
		default:
		}
	}
}

func BenchmarkPut(b *testing.B) {
	for _, size := range []int{4 << 10, 1 << 20, 16 << 20} {
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) {
			st, err := local.Open(b.TempDir())
			if err != nil {
				b.Fatal(err)
			}
			data := make([]byte, size)
			b.SetBytes(int64(size))
			for i := 0; b.Loop(); i++ {
				data[0], data[1] = byte(i), byte(i>>8)
				if _, err := st.Put(b.Context(), "packs/ab/1", data); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
