package cache_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/whole-tale/wtsnap/repo/storage"
	"github.com/whole-tale/wtsnap/repo/storage/cache"
	"github.com/whole-tale/wtsnap/repo/storage/count"
	"github.com/whole-tale/wtsnap/repo/storage/mem"
	"github.com/whole-tale/wtsnap/repo/storage/storagetest"
)

var prefixes = []string{"index/", "snapshots/"}

func TestConformance(t *testing.T) {
	for name, o := range map[string]func(t *testing.T) cache.Options{
		"everything kept": func(t *testing.T) cache.Options {
			return cache.Options{Dir: t.TempDir(), Prefixes: []string{""}}
		},
		"no folder": func(t *testing.T) cache.Options { return cache.Options{Prefixes: []string{""}} },
		"some kept": func(t *testing.T) cache.Options { return cache.Options{Dir: t.TempDir(), Prefixes: prefixes} },
		"tiny": func(t *testing.T) cache.Options {
			return cache.Options{Dir: t.TempDir(), Prefixes: []string{""}, Most: 3000}
		},
		"folder cannot be made": func(t *testing.T) cache.Options {
			file := filepath.Join(t.TempDir(), "file")
			if err := os.WriteFile(file, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			return cache.Options{Dir: filepath.Join(file, "cache"), Prefixes: []string{""}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			storagetest.Run(t, func(t *testing.T) storage.Storage { return cache.New(mem.New(), o(t)) })
		})
	}
}

// fixture is a cache over a counted storage that holds a few objects.
func fixture(t *testing.T, o cache.Options) (*cache.Storage, *count.Storage, *mem.Storage) {
	t.Helper()
	backend := mem.New()
	for _, name := range []string{"index/a", "index/b", "packs/aa/1", "snapshots/x/1"} {
		if _, err := backend.Put(t.Context(), name, bytes.Repeat([]byte(name), 100)); err != nil {
			t.Fatal(err)
		}
	}
	counted := count.New(backend)
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	if o.Prefixes == nil {
		o.Prefixes = prefixes
	}
	return cache.New(counted, o), counted, backend
}

func get(t *testing.T, ctx context.Context, st storage.Storage, name string, offset, length int64) string {
	t.Helper()
	data, err := st.Get(ctx, name, offset, length, nil)
	if err != nil {
		t.Fatalf("get %s: %v", name, err)
	}
	return string(data)
}

func gets(t *testing.T, c *count.Storage, want int64, when string) {
	t.Helper()
	if got := c.Counts().Get; got != want {
		t.Errorf("%s: %d gets from the storage so far, want %d", when, got, want)
	}
}

func TestReadThrough(t *testing.T) {
	dir := t.TempDir()
	st, counted, backend := fixture(t, cache.Options{Dir: dir})
	whole := string(bytes.Repeat([]byte("index/a"), 100))
	for range 3 {
		if got := get(t, t.Context(), st, "index/a", 0, -1); got != whole {
			t.Errorf("got %d bytes", len(got))
		}
	}
	gets(t, counted, 1, "three whole reads")
	if got := get(t, t.Context(), st, "index/a", 7, 7); got != "index/a" {
		t.Errorf("range: %q", got)
	}
	gets(t, counted, 1, "a range of a kept object")
	if got := get(t, t.Context(), st, "index/b", 7, 7); got != "index/b" {
		t.Errorf("range: %q", got)
	}
	get(t, t.Context(), st, "index/b", 0, -1)
	gets(t, counted, 2, "a range first, then the whole")
	for range 2 {
		get(t, t.Context(), st, "packs/aa/1", 0, 10)
	}
	gets(t, counted, 4, "an object that is not to be kept")
	ctx := storage.WithCaching(t.Context(), storage.CacheWhole)
	for range 2 {
		get(t, ctx, st, "packs/aa/1", 5, 10)
	}
	gets(t, counted, 5, "an object that the context wants kept")
	if _, err := st.Get(t.Context(), "index/a", 690, 20, nil); !errors.Is(err, storage.ErrShort) {
		t.Errorf("range beyond the end of a kept object: %v", err)
	}
	again := cache.New(count.New(backend), cache.Options{Dir: dir, Prefixes: prefixes})
	if got := get(t, t.Context(), again, "index/a", 0, -1); got != whole {
		t.Error("the next process got other bytes")
	}
}

func TestWriteThrough(t *testing.T) {
	st, counted, _ := fixture(t, cache.Options{})
	if _, err := st.Put(t.Context(), "index/new", []byte("new")); err != nil {
		t.Fatal(err)
	}
	if got := get(t, t.Context(), st, "index/new", 0, -1); got != "new" {
		t.Errorf("got %q", got)
	}
	gets(t, counted, 0, "an object just put")
}

func TestFailedPutIsNotKept(t *testing.T) {
	backend := mem.New()
	st := cache.New(storagetest.NewFault(backend).At(0, storagetest.NotDone), cache.Options{Dir: t.TempDir(), Prefixes: prefixes})
	if _, err := st.Put(t.Context(), "index/a", []byte("a")); err == nil {
		t.Fatal("the fault did not come through")
	}
	if _, err := st.Get(t.Context(), "index/a", 0, -1, nil); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("an object that was not stored: %v", err)
	}
}

func TestListingDropsWhatIsGone(t *testing.T) {
	dir := t.TempDir()
	st, counted, backend := fixture(t, cache.Options{Dir: dir})
	for _, name := range []string{"index/a", "index/b", "snapshots/x/1"} {
		get(t, t.Context(), st, name, 0, -1)
	}
	if err := backend.Delete(t.Context(), "index/a"); err != nil {
		t.Fatal(err)
	}
	if _, err := backend.Put(t.Context(), "index/b", []byte("another size")); err != nil {
		t.Fatal(err)
	}
	if err := st.List(t.Context(), "index/", func(storage.Info) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if _, err := st.Get(t.Context(), "index/a", 0, -1, nil); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("an object that vanished from the listing: %v", err)
	}
	if got := get(t, t.Context(), st, "index/b", 0, -1); got != "another size" {
		t.Errorf("an object listed with another size: %q", got)
	}
	before := counted.Counts().Get
	get(t, t.Context(), st, "snapshots/x/1", 0, -1)
	gets(t, counted, before, "an object outside the listed folder")
}

func TestListingThatFailsDropsNothing(t *testing.T) {
	st, counted, _ := fixture(t, cache.Options{})
	get(t, t.Context(), st, "index/a", 0, -1)
	stop := errors.New("stop")
	if err := st.List(t.Context(), "index/", func(storage.Info) error { return stop }); err != stop {
		t.Fatal(err)
	}
	get(t, t.Context(), st, "index/a", 0, -1)
	gets(t, counted, 1, "after a listing broken off")
}

// objects returns the files that the cache wrote.
func objects(t *testing.T, dir string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			out = append(out, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestDamagedFilesAreNotUsed(t *testing.T) {
	for name, damage := range map[string]func([]byte) []byte{
		"emptied":         func(b []byte) []byte { return nil },
		"cut":             func(b []byte) []byte { return b[:len(b)-1] },
		"cut to a few":    func(b []byte) []byte { return b[:5] },
		"one bit flipped": func(b []byte) []byte { b[13] ^= 1; return b },
		"zeroed":          func(b []byte) []byte { clear(b); return b },
		"grown":           func(b []byte) []byte { return append(b, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			st, _, backend := fixture(t, cache.Options{Dir: dir})
			want := get(t, t.Context(), st, "index/a", 0, -1)
			files := objects(t, dir)
			if len(files) != 1 {
				t.Fatalf("%d files, want 1", len(files))
			}
			b, err := os.ReadFile(files[0])
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(files[0], damage(b), 0o600); err != nil {
				t.Fatal(err)
			}
			counted := count.New(backend)
			next := cache.New(counted, cache.Options{Dir: dir, Prefixes: prefixes})
			for range 2 {
				if got := get(t, t.Context(), next, "index/a", 0, -1); got != want {
					t.Error("damaged bytes came back")
				}
			}
			gets(t, counted, 1, "two reads after the damage")
		})
	}
}

func TestBypassDropsTheCopy(t *testing.T) {
	dir := t.TempDir()
	st, counted, _ := fixture(t, cache.Options{Dir: dir})
	get(t, t.Context(), st, "index/a", 0, -1)
	get(t, storage.WithCaching(t.Context(), storage.CacheBypass), st, "index/a", 0, -1)
	gets(t, counted, 2, "a bypassing read")
	if files := objects(t, dir); len(files) != 0 {
		t.Errorf("left after the bypass: %q", files)
	}
}

func TestFolderDeletedAtAnyTime(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache")
	st, counted, _ := fixture(t, cache.Options{Dir: dir})
	for i := range 3 {
		get(t, t.Context(), st, "index/a", 0, -1)
		get(t, t.Context(), st, "index/a", 0, -1)
		gets(t, counted, int64(i+1), "a read and another")
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
}

func TestLeastRecentlyUsedGoes(t *testing.T) {
	dir := t.TempDir()
	st, counted, backend := fixture(t, cache.Options{Dir: dir, Most: 10 * (1000 + 16)})
	for i := range 10 {
		name := fmt.Sprintf("index/n%d", i)
		if _, err := backend.Put(t.Context(), name, bytes.Repeat([]byte{byte(i)}, 1000)); err != nil {
			t.Fatal(err)
		}
		get(t, t.Context(), st, name, 0, -1)
		// As if each had been used a day after the one before.
		then := time.Now().Add(time.Duration(i-20) * 24 * time.Hour)
		if err := os.Chtimes(filepath.Join(dir, name), then, then); err != nil {
			t.Fatal(err)
		}
	}
	before := counted.Counts().Get
	get(t, t.Context(), st, "index/n0", 0, -1) // the oldest is used again
	gets(t, counted, before, "a full folder")
	if _, err := st.Put(t.Context(), "index/new", make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	var total int64
	for _, path := range objects(t, dir) {
		fi, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		total += fi.Size()
	}
	if total > 10*(1000+16) {
		t.Errorf("the folder holds %d bytes, its bound is %d", total, 10*(1000+16))
	}
	for name, want := range map[string]bool{"index/n0": true, "index/n1": false, "index/n9": true, "index/new": true} {
		if _, err := os.Stat(filepath.Join(dir, name)); (err == nil) != want {
			t.Errorf("%s kept: %v, want %v", name, err == nil, want)
		}
	}
}

func TestOldTemporaryFilesGo(t *testing.T) {
	dir := t.TempDir()
	old := filepath.Join(dir, ".tmp-1")
	if err := os.WriteFile(old, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	then := time.Now().Add(-2 * time.Hour)
	if err := os.Chtimes(old, then, then); err != nil {
		t.Fatal(err)
	}
	st, _, _ := fixture(t, cache.Options{Dir: dir})
	get(t, t.Context(), st, "index/a", 0, -1)
	if _, err := os.Stat(old); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("stat of the old temporary file: %v", err)
	}
}

// slow is a storage that gives nothing before it is told to.
type slow struct {
	storage.Storage
	begin chan struct{}
}

func (s *slow) Get(ctx context.Context, name string, offset, length int64, dst []byte) ([]byte, error) {
	<-s.begin
	return s.Storage.Get(ctx, name, offset, length, dst)
}

// Several who want parts of the same object at once cause one read of it.
func TestOneReadForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const name = "packs/1/x"
		backend := &slow{mem.New(), make(chan struct{})}
		if _, err := backend.Put(t.Context(), name, bytes.Repeat([]byte("0123456789"), 1000)); err != nil {
			t.Fatal(err)
		}
		counted := count.New(backend)
		s := cache.New(counted, cache.Options{Dir: t.TempDir(), Prefixes: []string{"packs/"}})
		if s.Holds(name) {
			t.Error("it is there before it was read")
		}
		var g sync.WaitGroup
		for i := range 10 {
			g.Go(func() {
				got, err := s.Get(t.Context(), name, int64(i*10), 5, nil)
				if err != nil || string(got) != "01234" {
					t.Errorf("%q, %v", got, err)
				}
			})
		}
		synctest.Wait()
		close(backend.begin)
		g.Wait()
		if n := counted.Counts().Get; n != 1 {
			t.Errorf("%d reads", n)
		}
		if !s.Holds(name) {
			t.Error("it is not there after it was read")
		}
	})
}
