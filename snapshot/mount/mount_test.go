package mount_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pkg/xattr"

	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/repo/storage"
	"github.com/whole-tale/wtsnap/repo/storage/mem"
	"github.com/whole-tale/wtsnap/snapshot"
	"github.com/whole-tale/wtsnap/snapshot/mount"
)

// A world is a repository, a folder that is backed up into it, and what a mounted file system complained about.
type world struct {
	t   *testing.T
	st  *mem.Storage
	r   *repo.Repository
	src string

	mu      sync.Mutex
	trouble []error
}

func newWorld(t *testing.T) *world {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("mounts are tried on Linux only")
	}
	if f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0); err != nil {
		t.Skipf("this machine mounts no FUSE file systems: %v", err)
	} else {
		f.Close()
	}
	key, err := repo.NewKeyFile()
	must(t, err)
	w := &world{t: t, st: mem.New(), src: filepath.Join(t.TempDir(), "src")}
	w.r, err = repo.Init(t.Context(), w.st, repo.InitOptions{Password: key})
	must(t, err)
	must(t, os.Mkdir(w.src, 0o755))
	return w
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (w *world) write(name string, data []byte) {
	w.t.Helper()
	path := filepath.Join(w.src, name)
	must(w.t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(w.t, os.WriteFile(path, data, 0o640))
}

func (w *world) backup(instance string) *snapshot.Snapshot {
	w.t.Helper()
	spec, err := snapshot.ParseSource("homes=" + w.src)
	must(w.t, err)
	rep, err := snapshot.Backup(w.t.Context(), w.r, snapshot.BackupOptions{Instance: instance, Sources: []snapshot.SourceSpec{spec}, AllowShrink: true})
	must(w.t, err)
	if rep.Snapshot == nil || !rep.Snapshot.Complete {
		w.t.Fatalf("no complete snapshot: %+v", rep)
	}
	return rep.Snapshot
}

// mount mounts, and unmounts at the end of the test.
func (w *world) mount(o mount.Options) string {
	w.t.Helper()
	dir := w.t.TempDir()
	mounted, ended := make(chan struct{}), make(chan error, 1)
	o.Mounted = func() { close(mounted) }
	o.Trouble = func(err error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.trouble = append(w.trouble, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() { ended <- mount.Mount(ctx, w.r, dir, o) }()
	select {
	case <-mounted:
	case err := <-ended:
		cancel()
		if errors.Is(err, fs.ErrPermission) {
			w.t.Skipf("this user may not mount: %v", err)
		}
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			w.t.Errorf("unmounting: %v", err)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			w.t.Errorf("it is still mounted: %v %v", left, err)
		}
	})
	return dir
}

// troubles returns what was complained about since the last call.
func (w *world) troubles() []error {
	w.mu.Lock()
	defer w.mu.Unlock()
	defer func() { w.trouble = nil }()
	return w.trouble
}

func random(seed uint64, n int) []byte {
	data := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	r.Read(data)
	return data
}

// compare compares all of two trees: names, types, contents, modes, owners, times, links, attributes.
func compare(t *testing.T, want, got string) int {
	t.Helper()
	seen := 0
	inodes := map[uint64]uint64{}
	must(t, filepath.WalkDir(want, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(want, path)
		other := filepath.Join(got, rel)
		a, err := os.Lstat(path)
		if err != nil {
			return err
		}
		b, err := os.Lstat(other)
		if err != nil {
			return err
		}
		seen++
		sa, sb := a.Sys().(*syscall.Stat_t), b.Sys().(*syscall.Stat_t)
		if a.Mode() != b.Mode() || !a.ModTime().Equal(b.ModTime()) || sa.Uid != sb.Uid || sa.Gid != sb.Gid || sa.Rdev != sb.Rdev {
			t.Errorf("%q: %v %v %d %d %d, want %v %v %d %d %d", rel, b.Mode(), b.ModTime(), sb.Uid, sb.Gid, sb.Rdev, a.Mode(), a.ModTime(), sa.Uid, sa.Gid, sa.Rdev)
		}
		if a.IsDir() {
			return compareNames(path, other)
		}
		if sa.Nlink != sb.Nlink || a.Size() != b.Size() {
			t.Errorf("%q: %d links, %d bytes, want %d, %d", rel, sb.Nlink, b.Size(), sa.Nlink, a.Size())
		}
		if ino, ok := inodes[sa.Ino]; ok && ino != sb.Ino {
			t.Errorf("%q: not the same inode as its other names", rel)
		}
		inodes[sa.Ino] = sb.Ino
		return compareContent(path, other, a.Mode())
	}))
	return seen
}

func compareNames(want, got string) error {
	names := func(dir string) (names []string, err error) {
		entries, err := os.ReadDir(dir)
		for _, e := range entries {
			names = append(names, fmt.Sprint(e.Name(), e.Type()))
		}
		return names, err
	}
	a, err := names(want)
	if err != nil {
		return err
	}
	b, err := names(got)
	if err == nil && !slices.Equal(a, b) {
		err = fmt.Errorf("%q has %q, want %q", got, b, a)
	}
	return err
}

func compareContent(want, got string, mode fs.FileMode) error {
	read := os.ReadFile
	if mode&fs.ModeSymlink != 0 {
		read = func(path string) ([]byte, error) {
			target, err := os.Readlink(path)
			return []byte(target), err
		}
	} else if !mode.IsRegular() {
		return nil
	}
	a, err := read(want)
	if err != nil {
		return err
	}
	b, err := read(got)
	if err == nil && !bytes.Equal(a, b) {
		err = fmt.Errorf("%q has other content", got)
	}
	return err
}

func TestShowsSnapshotsAsTheyWere(t *testing.T) {
	w := newWorld(t)
	w.write("notes.txt", []byte("first\n"))
	w.write("empty", nil)
	w.write("deep/er/\xff\nname", []byte("raw bytes"))
	w.write("large", random(1, 20<<20)) // more parts than a node holds
	for i := range 1500 {               // more entries than a page
		w.write(fmt.Sprintf("many/%04d", i), []byte{byte(i)})
	}
	must(t, os.Symlink("notes.txt", filepath.Join(w.src, "link")))
	must(t, os.Link(filepath.Join(w.src, "notes.txt"), filepath.Join(w.src, "deep", "hard")))
	must(t, syscall.Mkfifo(filepath.Join(w.src, "fifo"), 0o600))
	must(t, os.Chtimes(filepath.Join(w.src, "empty"), time.Unix(-5, 7), time.Unix(-5, 7)))
	must(t, os.Chmod(filepath.Join(w.src, "empty"), 0o4711|fs.ModeSetuid))
	f, err := os.Create(filepath.Join(w.src, "sparse"))
	must(t, err)
	must(t, f.Truncate(5<<20))
	_, err = f.WriteAt([]byte("data"), 3<<20)
	must(t, err)
	must(t, f.Close())
	if err := xattr.Set(filepath.Join(w.src, "notes.txt"), "user.colour", []byte("green")); err != nil && !errors.Is(err, syscall.ENOTSUP) {
		t.Fatal(err)
	}
	s := w.backup("prod")
	w.backup("other")
	dir := w.mount(mount.Options{})

	if seen := compare(t, w.src, filepath.Join(dir, "prod", "latest", "homes")); seen < 1510 {
		t.Errorf("only %d entries were compared", seen)
	}
	got, err := xattr.Get(filepath.Join(dir, "prod/latest/homes/notes.txt"), "user.colour")
	if want, werr := xattr.Get(filepath.Join(w.src, "notes.txt"), "user.colour"); werr == nil && (err != nil || !bytes.Equal(got, want)) {
		t.Errorf("attribute %q, %v", got, err)
	}
	if data, err := os.ReadFile(filepath.Join(dir, "ids", s.Ref.ID.Short(), "homes", "notes.txt")); err != nil || string(data) != "first\n" {
		t.Errorf("by id: %q, %v", data, err)
	}
	entries, err := os.ReadDir(dir)
	must(t, err)
	if len(entries) != 3 || entries[0].Name() != "ids" || entries[1].Name() != "other" || entries[2].Name() != "prod" {
		t.Errorf("the root has %v", entries)
	}
	if got := w.troubles(); len(got) > 0 {
		t.Errorf("%v", got)
	}
}

func TestReadsAnyPiece(t *testing.T) {
	w := newWorld(t)
	content := random(2, 9<<20)
	clear(content[3<<20 : 6<<20])
	w.write("data", content)
	w.backup("prod")
	f, err := os.Open(filepath.Join(w.mount(mount.Options{}), "prod/latest/homes/data"))
	must(t, err)
	defer f.Close()
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		off := r.Int64N(int64(len(content)))
		buf := make([]byte, r.IntN(300_000))
		n, err := f.ReadAt(buf, off)
		want := content[off:min(off+int64(len(buf)), int64(len(content)))]
		if !bytes.Equal(buf[:n], want) || err != nil && err != io.EOF {
			t.Fatalf("%d bytes at %d: %d, %v", len(buf), off, n, err)
		}
	}
	for from := int64(0); from < 4<<20; from += 1<<20 + 5 { // in order, from several places, through one open file
		_, err = f.Seek(from, io.SeekStart)
		must(t, err)
		all, err := io.ReadAll(f)
		if err != nil || !bytes.Equal(all, content[from:]) {
			t.Fatalf("in order from %d: %d bytes, %v", from, len(all), err)
		}
	}
}

func TestNothingCanBeWritten(t *testing.T) {
	w := newWorld(t)
	w.write("a", []byte("a"))
	w.backup("prod")
	top := filepath.Join(w.mount(mount.Options{}), "prod/latest/homes")
	for name, err := range map[string]error{
		"write":  os.WriteFile(filepath.Join(top, "a"), []byte("b"), 0o644),
		"create": os.WriteFile(filepath.Join(top, "b"), []byte("b"), 0o644),
		"remove": os.Remove(filepath.Join(top, "a")),
		"mkdir":  os.Mkdir(filepath.Join(top, "d"), 0o755),
		"chmod":  os.Chmod(filepath.Join(top, "a"), 0o600),
	} {
		if !errors.Is(err, syscall.EROFS) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestOneFolder(t *testing.T) {
	w := newWorld(t)
	w.write("alice/a", []byte("a"))
	w.write("bob/b", []byte("b"))
	s := w.backup("prod")
	n, err := snapshot.Lookup(t.Context(), w.r, s, "homes/alice")
	must(t, err)
	if seen := compare(t, filepath.Join(w.src, "alice"), w.mount(mount.Options{Top: n, Snapshot: s})); seen != 2 {
		t.Errorf("%d entries", seen)
	}
}

// Snapshots come and go while the file system is mounted.
func TestNewSnapshotsAppear(t *testing.T) {
	w := newWorld(t)
	w.write("a", []byte("old"))
	first := w.backup("prod")
	dir := w.mount(mount.Options{Refresh: time.Nanosecond})
	w.write("a", []byte("new"))
	second := w.backup("prod")
	for id, want := range map[string]string{first.Ref.ID.Short(): "old", second.Ref.ID.Short(): "new"} {
		if data, err := os.ReadFile(filepath.Join(dir, "ids", id, "homes/a")); err != nil || string(data) != want {
			t.Errorf("%s: %q, %v", id, data, err)
		}
	}
	if data, err := os.ReadFile(filepath.Join(dir, "prod/latest/homes/a")); err != nil || string(data) != "new" {
		t.Errorf("latest: %q, %v", data, err)
	}
	must(t, w.r.Forget(t.Context(), []repo.SnapshotRef{first.Ref}))
	if names, err := os.ReadDir(filepath.Join(dir, "ids")); err != nil || len(names) != 1 {
		t.Errorf("after forgetting one: %v, %v", names, err)
	}
}

// What is damaged cannot be read, and is named; what is not can.
func TestDamage(t *testing.T) {
	w := newWorld(t)
	w.write("whole", []byte("fine"))
	w.backup("prod")
	var before []string
	list := func() (names []string) {
		must(t, w.st.List(t.Context(), "packs/", func(i storage.Info) error {
			names = append(names, i.Name)
			return nil
		}))
		return names
	}
	before = list()
	content := random(3, 2<<20)
	w.write("broken", content)
	w.backup("prod")
	for _, name := range list() {
		if info, err := w.st.Stat(t.Context(), name); err == nil && info.Size > 1<<20 && !slices.Contains(before, name) {
			must(t, w.st.Delete(t.Context(), name))
		}
	}
	top := filepath.Join(w.mount(mount.Options{}), "prod/latest/homes")
	if data, err := os.ReadFile(filepath.Join(top, "whole")); err != nil || string(data) != "fine" {
		t.Errorf("whole: %q, %v", data, err)
	}
	if got := w.troubles(); len(got) > 0 {
		t.Errorf("%v", got)
	}
	_, err := os.ReadFile(filepath.Join(top, "broken"))
	if !errors.Is(err, syscall.EIO) {
		t.Errorf("broken: %v", err)
	}
	if got := w.troubles(); len(got) == 0 || !strings.Contains(got[0].Error(), `"homes/broken"`) {
		t.Errorf("troubles: %v", got)
	}
}
