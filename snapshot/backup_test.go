package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/index"
	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/repo/storage/storagetest"
	"github.com/whole-tale/wtsnap/snapshot/exclude"
	"github.com/whole-tale/wtsnap/snapshot/localfs"
)

// fill makes a small source of everything that needs no privilege: 65 names of 64 files.
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
	sparse := v.write("home2/sparse", "begin")
	must(v.t, os.Truncate(sparse, 10<<20))
	f, err := os.OpenFile(sparse, os.O_WRONLY, 0)
	must(v.t, err)
	_, err = f.WriteAt([]byte("middle"), 5<<20)
	must(v.t, err)
	must(v.t, f.Close())
	must(v.t, os.Symlink("../nowhere/\xfe", filepath.Join(v.src, "names/link")))
	must(v.t, os.Link(filepath.Join(v.src, "home0/large.bin"), filepath.Join(v.src, "home1/linked.bin")))
	must(v.t, os.Mkdir(filepath.Join(v.src, "void"), 0o700))
	must(v.t, syscall.Mkfifo(filepath.Join(v.src, "fifo"), 0o640))
	if err := unix.Setxattr(filepath.Join(v.src, "home0/empty"), "user.note", []byte("x"), 0); err != nil && err != unix.ENOTSUP {
		must(v.t, err)
	}
	if os.Geteuid() == 0 {
		root, err := localfs.OpenRoot(v.src)
		must(v.t, err)
		must(v.t, root.Mknod("null", localfs.TypeCharDevice, localfs.MakeRDev(1, 3)))
		must(v.t, root.Close())
		must(v.t, os.Chown(filepath.Join(v.src, "home1"), 1234, 4321))
	}
}

func TestBackupAndRestore(t *testing.T) {
	v := newVault(t)
	v.fill()
	v.settle()
	first := v.backup()
	v.counts(first, FileCounts{New: 65})
	v.same(first)
	if n := v.node(first, "homes/home2/sparse"); len(n.Content) < 3 || n.Size != 10<<20 {
		t.Errorf("the sparse file has %d bytes in %d parts", n.Size, len(n.Content))
	}
	if m := first.Snapshot; m.Files != 65 || m.Dirs != 17 || !m.Complete || m.Checkpoint || m.Bytes != first.Bytes.Processed ||
		len(m.Sources) != 1 || m.Sources[0].Files != 65 {
		t.Errorf("manifest %+v", m.Manifest)
	}
	if data, err := v.r.Manifest(t.Context(), first.Snapshot.Ref); err != nil {
		t.Error(err)
	} else if m, err := DecodeManifest(data); err != nil || m.Root != first.Snapshot.Root {
		t.Errorf("stored manifest %+v, %v", m, err)
	}

	v.fault.Reset()
	v.fault.Record()
	second := v.backup()
	v.counts(second, FileCounts{Unchanged: 65})
	if second.Bytes.Read != 0 || second.Blobs.New != 0 || second.Bytes.Uploaded != 0 {
		t.Errorf("an unchanged night: bytes %+v, blobs %+v", second.Bytes, second.Blobs)
	}
	if first.Snapshot.Root != second.Snapshot.Root {
		t.Error("the same source gave another tree")
	}
	stored := map[string]int{}
	for _, op := range v.fault.Ops() {
		if op.Kind == storagetest.Put {
			stored[strings.SplitAfter(op.Name, "/")[0]]++
		}
	}
	if stored["packs/"] != 0 || stored["index/"] != 0 || stored["snapshots/"] != 1 {
		t.Errorf("an unchanged night stored %v", stored)
	}
	if second.Snapshot.Parent != first.Snapshot.Ref.ID {
		t.Errorf("its parent is %s", second.Snapshot.Parent)
	}
}

func TestChanges(t *testing.T) {
	v := newVault(t)
	path := v.write("a/file", "0123456789")
	v.write("a/other", "other")
	v.write("z", "z")
	v.settle()
	v.backup()
	past := time.Now().Add(-time.Hour)
	step := func(name string, want FileCounts, read int64, change func()) {
		t.Run(name, func(t *testing.T) {
			change()
			v.settle()
			rep := v.backup()
			v.counts(rep, want)
			if rep.Bytes.Read != read {
				t.Errorf("read %d bytes, want %d", rep.Bytes.Read, read)
			}
			v.same(rep)
			if again := v.backup(); again.Snapshot.Root != rep.Snapshot.Root || again.Bytes.Read != 0 {
				t.Errorf("then an unchanged night: read %d bytes", again.Bytes.Read)
			}
		})
	}
	step("content", FileCounts{Changed: 1, Unchanged: 2}, 10, func() { v.write("a/file", "0123456780") })
	step("time", FileCounts{Changed: 1, Unchanged: 2}, 10, func() { must(t, os.Chtimes(path, past, past)) })
	step("content behind the time's back", FileCounts{Changed: 1, Unchanged: 2}, 10, func() {
		v.write("a/file", "9876543210")
		must(t, os.Chtimes(path, past, past))
	})
	step("only the ctime", FileCounts{Unchanged: 3}, 10, func() { must(t, os.Chtimes(path, past, past)) })
	step("mode", FileCounts{Changed: 1, Unchanged: 2}, 0, func() { must(t, os.Chmod(path, 0o600)) })
	step("another link", FileCounts{New: 1, Unchanged: 3}, 0, func() { must(t, os.Link(path, filepath.Join(v.src, "a/link"))) })
	step("a link less", FileCounts{Unchanged: 3, Removed: 1}, 0, func() { must(t, os.Remove(filepath.Join(v.src, "a/link"))) })
	step("another inode", FileCounts{Changed: 1, Unchanged: 2}, 10, func() {
		other := v.write("a/new", "abcdefghij")
		must(t, os.Chtimes(other, past, past))
		must(t, os.Rename(other, path))
	})
	step("type", FileCounts{Unchanged: 2, Removed: 1}, 0, func() {
		must(t, os.Remove(path))
		must(t, os.Symlink("other", path))
	})
	step("type again", FileCounts{New: 1, Unchanged: 2}, 3, func() {
		must(t, os.Remove(path))
		v.write("a/file/now", "dir")
	})
	step("removed", FileCounts{Unchanged: 1, Removed: 2}, 0, func() { must(t, os.RemoveAll(filepath.Join(v.src, "a"))) })
	if os.Geteuid() == 0 {
		step("owner", FileCounts{Changed: 1}, 0, func() { must(t, os.Chown(filepath.Join(v.src, "z"), 77, 88)) })
	}
	if err := unix.Setxattr(filepath.Join(v.src, "z"), "user.probe", nil, 0); err == nil {
		step("attributes", FileCounts{Changed: 1}, 0, func() { must(t, unix.Setxattr(filepath.Join(v.src, "z"), "user.x", []byte("1"), 0)) })
	}
}

// What was changed so shortly before a backup that the clock could hide a later change is read once more.
func TestRecentFilesAreReadAgain(t *testing.T) {
	v := newVault(t)
	v.write("file", "0123456789")
	v.backup()
	if rep := v.backup(); rep.Bytes.Read != 10 || rep.Files.Unchanged != 1 {
		t.Skipf("the file system's clock ticks slowly enough: read %d bytes", rep.Bytes.Read)
	}
	v.settle()
	v.backup()
	if rep := v.backup(); rep.Bytes.Read != 0 {
		t.Errorf("read %d bytes", rep.Bytes.Read)
	}
}

// Whole Tale's versions: the whole workspace as hard links, which sort before it.
func TestHardLinksAreReadOnce(t *testing.T) {
	v := newVault(t)
	const files, size = 300, 5000
	for i := range files {
		v.write(fmt.Sprintf("workspace/%d/%d", i%7, i), string(noise(size, uint64(i))))
	}
	link := func(version string) {
		must(t, filepath.WalkDir(filepath.Join(v.src, "workspace"), func(path string, e fs.DirEntry, err error) error {
			rel, _ := filepath.Rel(filepath.Join(v.src, "workspace"), path)
			to := filepath.Join(v.src, version, rel)
			if e.IsDir() {
				return os.MkdirAll(to, 0o755)
			}
			return os.Link(path, to)
		}))
	}
	link("aversion1")
	v.settle()
	rep := v.backup()
	v.counts(rep, FileCounts{New: 2 * files})
	if rep.Bytes.Read != files*size {
		t.Errorf("read %d bytes of %d", rep.Bytes.Read, files*size)
	}
	v.same(rep)
	link("aversion2")
	link("zversion3")
	v.settle()
	rep = v.backup()
	v.counts(rep, FileCounts{New: 2 * files, Unchanged: 2 * files})
	if rep.Bytes.Read != 0 {
		t.Errorf("more links: read %d bytes", rep.Bytes.Read)
	}
	v.same(rep)

	// Names of one inode that no parent has under any of them: the first one met was not compared with anything.
	must(t, os.Rename(filepath.Join(v.src, "workspace"), filepath.Join(v.src, "w")))
	v.settle()
	rep = v.backup()
	if rep.Bytes.Read != 0 {
		t.Errorf("moved links: read %d bytes", rep.Bytes.Read)
	}
	v.same(rep)
}

func TestLargeFile(t *testing.T) {
	v := newVault(t)
	v.opts.Workers = 4
	data := noise(60<<20, 5)
	path := v.write("large", string(data))
	v.settle()
	rep := v.backup()
	n := v.node(rep, "homes/large")
	if n.ContentRoot.IsZero() || n.Size != int64(len(data)) {
		t.Fatalf("%d bytes in %d inline parts", n.Size, len(n.Content))
	}
	v.same(rep)
	copy(data[30<<20:], "a small change in the middle of a large file")
	must(t, os.WriteFile(path, data, 0o644))
	v.settle()
	rep = v.backup()
	if rep.Bytes.Uploaded > 64<<10 || rep.Blobs.Delta == 0 {
		t.Errorf("a small change uploads %d bytes, %d deltas", rep.Bytes.Uploaded, rep.Blobs.Delta)
	}
	v.same(rep)
	if rep = v.backup(); rep.Bytes.Read != 0 {
		t.Errorf("an unchanged night read %d bytes", rep.Bytes.Read)
	}
}

// Insertions shift all that follows: the old chunk of each place must be found all the same.
func TestDeltasFollowInsertions(t *testing.T) {
	v := newVault(t)
	data := noise(20<<20, 6)
	path := v.write("grows", string(data))
	v.settle()
	v.backup()
	var grown []byte
	for i := 0; i < len(data); i += 64 << 10 {
		grown = append(append(grown, data[i:i+64<<10]...), noise(300, uint64(i))...)
	}
	must(t, os.WriteFile(path, grown, 0o644))
	v.settle()
	rep := v.backup()
	if inserted := int64(len(grown) - len(data)); rep.Bytes.Uploaded > 4*inserted {
		t.Errorf("%d inserted bytes upload %d, with %d new blobs, %d of them deltas", inserted, rep.Bytes.Uploaded, rep.Blobs.New, rep.Blobs.Delta)
	}
	v.same(rep)
}

func TestLargeFolderChangesLittle(t *testing.T) {
	v := newVault(t)
	for i := range 4000 {
		v.write(fmt.Sprintf("d/%05d", i), fmt.Sprint(i))
	}
	v.settle()
	v.backup()
	v.write("d/02000x", "new")
	v.settle()
	rep := v.backup()
	v.counts(rep, FileCounts{New: 1, Unchanged: 4000})
	if rep.Blobs.New > 8 { // the file, some pages of d, d's root, homes, the root
		t.Errorf("one more file made %d blobs", rep.Blobs.New)
	}
}

func TestDeepFolders(t *testing.T) {
	v := newVault(t)
	v.write(strings.Repeat("d/", 600)+"file", "deep")
	v.settle()
	rep := v.backup()
	v.counts(rep, FileCounts{New: 1})
	if rep := v.backup(); rep.Files.Unchanged != 1 || rep.Blobs.New != 0 {
		t.Errorf("an unchanged night: %+v, %+v", rep.Files, rep.Blobs)
	}
}

func TestOneFileAsSource(t *testing.T) {
	v := newVault(t)
	path := v.write("acme.json", "{}")
	must(t, os.Symlink("acme.json", filepath.Join(v.src, "link.json")))
	v.settle()
	for _, name := range []string{"acme.json", "link.json"} {
		v.opts.Sources = []SourceSpec{{Label: "system", Kind: SourceFolder, Path: filepath.Join(v.src, name)}}
		rep := v.backup()
		n := v.node(rep, "system/"+name)
		if n.Size != 2 || n.Type != localfs.TypeFile || rep.Snapshot.Sources[0].Kind != SourceFile || rep.Snapshot.Files != 1 {
			t.Errorf("%s: %+v in %+v", name, n, rep.Snapshot.Sources)
		}
	}
	v.opts.Sources = []SourceSpec{{Label: "system", Kind: SourceFolder, Path: path}}
	v.backup()
	if rep := v.backup(); rep.Files.Unchanged != 1 || rep.Bytes.Read != 0 {
		t.Errorf("an unchanged file: %+v", rep.Files)
	}
}

func TestSeveralSources(t *testing.T) {
	v := newVault(t)
	v.write("a/file", "a")
	v.write("b/file", "b")
	spec := func(label string) SourceSpec {
		return SourceSpec{Label: label, Kind: SourceFolder, Path: filepath.Join(v.src, label)}
	}
	v.settle()
	v.opts.Sources = []SourceSpec{spec("b"), spec("a")}
	v.backup()

	v.opts.Sources = []SourceSpec{spec("missing"), spec("a"), spec("b")}
	rep := v.backup("there is no such file or folder")
	v.counts(rep, FileCounts{Unchanged: 2})
	if rep.Snapshot.Complete || len(rep.Snapshot.Sources) != 2 {
		t.Errorf("complete: %v, sources %+v", rep.Snapshot.Complete, rep.Snapshot.Sources)
	}
	v.opts.Sources = []SourceSpec{spec("a")}
	if rep := v.backup(); !rep.Snapshot.Complete || rep.Files.Unchanged != 1 {
		t.Errorf("one source: %+v", rep.Files)
	}
	v.opts.Sources = []SourceSpec{spec("b")}
	if rep := v.backup(); rep.Files.Unchanged != 1 || rep.Bytes.Read != 0 {
		t.Errorf("the other, which only an older snapshot has: %+v", rep.Files)
	}
	v.opts.Sources = []SourceSpec{spec("missing"), spec("gone")}
	rep, err := v.try(t.Context())
	if wantError[*SourceError](t, err).Label != "gone" || rep.Snapshot != nil {
		t.Errorf("error %v, report %+v", err, rep)
	}
	snaps, err := List(t.Context(), v.r, Filter{})
	must(t, err)
	if len(snaps) != 4 {
		t.Errorf("%d snapshots", len(snaps))
	}
}

func TestExcludes(t *testing.T) {
	v := newVault(t)
	for _, name := range []string{"keep/a", "keep/b.tmp", "drop/a", "keep/drop/a", "keep/cache/data", "keep/big", "keep/nocache/data"} {
		v.write(name, name)
	}
	v.write("keep/big", strings.Repeat("x", 1000))
	v.write("keep/cache/CACHEDIR.TAG", "Signature: 8a477f597d28d172789f06886806bc55\n# comment")
	v.write("keep/nocache/CACHEDIR.TAG", "Signature: none")
	v.opts.Exclude = ExcludeOptions{Patterns: []exclude.Pattern{{Text: "*.tmp", Origin: "test"}, {Text: "/drop/", Origin: "test"}},
		Caches: true, MaxSize: exclude.SizeLimit{Bytes: 999, Origin: "--exclude-larger-than"}}
	rep := v.backup()
	var got []string
	must(t, Walk(t.Context(), v.r.Blob, &Node{Subtree: rep.Snapshot.Root}, "", func(path string, n *Node, err error) error {
		if err == nil && n.IsFile() {
			got = append(got, path)
		}
		return err
	}))
	want := []string{"homes/keep/a", "homes/keep/cache/CACHEDIR.TAG", "homes/keep/drop/a", "homes/keep/nocache/CACHEDIR.TAG", "homes/keep/nocache/data"}
	if !slices.Equal(got, want) {
		t.Errorf("saved %q, want %q", got, want)
	}
	for path, want := range map[string]string{
		"keep/a":          "included",
		"keep/b.tmp":      `excluded by "*.tmp" (test)`,
		"drop/a":          `parent folder "homes/drop" is excluded by "/drop/"`,
		"keep/cache/data": "CACHEDIR.TAG",
		"keep/big":        "larger than 999 bytes",
	} {
		for _, path := range []string{path, filepath.Join(v.src, path)} {
			got, err := Explain(v.options().Sources, v.opts.Exclude, path)
			if err != nil || !strings.Contains(got, want) {
				t.Errorf("%s: %q, %v", path, got, err)
			}
		}
	}
	if _, err := Explain(v.options().Sources, v.opts.Exclude, "/nowhere"); err == nil {
		t.Error("a path in no source was explained")
	}
	v.opts.Exclude.Patterns = []exclude.Pattern{{Text: "[", Origin: "test"}}
	if _, err := v.try(t.Context()); err == nil {
		t.Error("a bad pattern was taken")
	}
}

// TestExcludesOfASource: what one source leaves out, another keeps; what the run leaves out can be taken in again.
func TestExcludesOfASource(t *testing.T) {
	v := newVault(t)
	for _, name := range []string{"a/x.tmp", "a/x.o", "a/x.log", "b/x.tmp", "b/x.o", "b/x.log"} {
		v.write(name, name)
	}
	v.opts.Exclude = ExcludeOptions{Patterns: []exclude.Pattern{{Text: "*.tmp", Origin: "run"}}}
	v.opts.Sources = []SourceSpec{
		{Label: "a", Kind: SourceFolder, Path: filepath.Join(v.src, "a"),
			Exclude: &ExcludeOptions{Patterns: []exclude.Pattern{{Text: "*.o", Origin: "a"}, {Text: "!x.tmp", Origin: "a"}}}},
		{Label: "b", Kind: SourceFolder, Path: filepath.Join(v.src, "b")},
	}
	rep := v.backup()
	var got []string
	must(t, Walk(t.Context(), v.r.Blob, &Node{Subtree: rep.Snapshot.Root}, "", func(path string, n *Node, err error) error {
		if err == nil && n.IsFile() {
			got = append(got, path)
		}
		return err
	}))
	if want := []string{"a/x.log", "a/x.tmp", "b/x.log", "b/x.o"}; !slices.Equal(got, want) {
		t.Errorf("saved %q, want %q", got, want)
	}
	if text, err := Explain(v.options().Sources, v.opts.Exclude, filepath.Join(v.src, "a/x.o")); err != nil || !strings.Contains(text, `excluded by "*.o" (a)`) {
		t.Errorf("%q, %v", text, err)
	}
	v.opts.Sources[1].Exclude = &ExcludeOptions{Patterns: []exclude.Pattern{{Text: "[", Origin: "b"}}}
	if _, err := v.try(t.Context()); err == nil {
		t.Error("a bad pattern was taken")
	}
}

func TestOneFileSystem(t *testing.T) {
	if mounted, err := localfs.IsMountPoint("/dev/shm"); err != nil || !mounted {
		t.Skipf("no file system is mounted at /dev/shm: %v", err)
	}
	inside, err := os.CreateTemp("/dev/shm", "wtsnap-test")
	if err != nil {
		t.Skip(err)
	}
	defer os.Remove(inside.Name())
	must(t, inside.Close())
	v := newVault(t)
	v.opts.Sources = []SourceSpec{{Label: "dev", Kind: SourceFolder, Path: "/dev"}}
	v.opts.Exclude.OneFileSystem = true
	rep, err := v.try(t.Context())
	must(t, err)
	n := v.node(rep, "dev/shm")
	for c, err := range FolderNodes(t.Context(), v.r.Blob, n.Subtree) {
		t.Errorf("/dev/shm holds %v, %v", c, err)
	}
}

func TestGuard(t *testing.T) {
	v := newVault(t)
	other := t.TempDir()
	must(t, os.WriteFile(filepath.Join(other, "file"), []byte("x"), 0o644))
	homes := SourceSpec{Label: "homes", Kind: SourceFolder, Path: v.src}
	refused := func(reason string, snapshots int) {
		t.Helper()
		_, err := v.try(t.Context())
		if g := wantError[*GuardError](t, err); g.Label != "homes" || !strings.Contains(g.Reason, reason) {
			t.Errorf("refused because %s, want %s", g.Reason, reason)
		}
		snaps, err := List(t.Context(), v.r, Filter{})
		must(t, err)
		if len(snaps) != snapshots {
			t.Errorf("%d snapshots, want %d", len(snaps), snapshots)
		}
	}
	v.opts.Sources = []SourceSpec{homes}
	for i := range 201 {
		v.write(fmt.Sprintf("f%03d", i), "x")
	}
	v.backup()
	for i := range 101 {
		must(t, os.Remove(filepath.Join(v.src, fmt.Sprintf("f%03d", i))))
	}
	refused("only 100 files are left of 201", 1)
	v.opts.AllowShrink = true
	v.backup()
	v.opts.AllowShrink = false
	must(t, os.Remove(filepath.Join(v.src, "f200"))) // 99 of 100
	v.backup()
	for i := 101; i < 199; i++ {
		must(t, os.Remove(filepath.Join(v.src, fmt.Sprintf("f%03d", i))))
	}
	v.backup() // 1 of 99: too few to tell
	must(t, os.Remove(filepath.Join(v.src, "f199")))
	refused("no file is left of 1", 4)

	// The other source is saved, in a snapshot that is not complete.
	v.opts.Sources = []SourceSpec{homes, {Label: "other", Kind: SourceFolder, Path: other}}
	refused("no file is left of 1", 5)
	snaps, err := List(t.Context(), v.r, Filter{Instance: "inst"})
	must(t, err)
	if s := snaps[4]; s.Complete || s.Checkpoint || len(s.Sources) != 1 || s.Sources[0].Label != "other" || s.Files != 1 {
		t.Errorf("beside a refused source: %+v", s.Manifest)
	}

	homes.Guard = Guard{MountPoint: v.src}
	v.opts.Sources = []SourceSpec{homes}
	refused("no file system is mounted", 5)
	homes.Guard = Guard{MountPoint: "/nowhere"}
	v.opts.Sources = []SourceSpec{homes}
	refused("/nowhere", 5)
	v.write("f", "x")
	homes.Guard = Guard{MountPoint: "/proc", Sentinel: "sub/.sentinel"}
	v.opts.Sources = []SourceSpec{homes}
	refused("sentinel", 5)
	v.write("sub/.sentinel", "")
	v.backup()
}

// contentOf reads a file that is m, with again as content has it.
func (v *vault) contentOf(m *localfs.Meta, file *localfs.File, again bool) (*Node, localfs.Meta) {
	v.t.Helper()
	o := v.options()
	must(v.t, o.prepare(time.Now()))
	b := newRun(v.r, &o)
	b.fail = func(err error) { v.t.Error(err) }
	put := func(data []byte, _ repo.Hint) (chunk.ID, bool, error) { return v.r.Hasher().Sum(data), true, nil }
	b.treePut = func(data []byte, h repo.Hint) (chunk.ID, error) { id, _, err := put(data, h); return id, err }
	k := &backupWorker{backup: b, put: put, split: chunk.NewSplitter(nil, v.r.ChunkParams()), buf: make([]byte, 0, v.r.ChunkParams().Max)}
	n, after, err := k.content(v.t.Context(), &fileTask{name: "f"}, file, m, again)
	must(v.t, err)
	return n, after
}

func TestSmallFileChangesWhileItIsRead(t *testing.T) {
	v := newVault(t)
	v.backup() // for the checks at the end
	path := v.write("f", "before")
	v.settle()
	d, err := localfs.OpenDir(v.src)
	must(t, err)
	defer d.Close()
	file, m, err := d.OpenFile("f")
	must(t, err)
	defer file.Close()
	must(t, os.WriteFile(path, []byte("it has grown"), 0o644))
	n, after := v.contentOf(&m, file, true)
	if n != nil || after.Size != 12 {
		t.Errorf("changed, and may be read again: %+v, size %d", n, after.Size)
	}
	n, _ = v.contentOf(&m, file, false)
	if n == nil || n.Flags != FlagTorn || n.Size != 6 {
		t.Errorf("changed, and may not be read again: %+v", n)
	}
	must(t, os.Truncate(path, 3))
	if n, _ = v.contentOf(&m, file, false); n == nil || n.Flags != FlagTorn || n.Size != 3 {
		t.Errorf("cut: %+v", n)
	}
	m = after
	must(t, os.WriteFile(path, []byte("it has grown"), 0o644))
	after, err = file.Meta()
	must(t, err)
	if n, _ = v.contentOf(&after, file, true); n == nil || n.Flags != 0 || n.Size != 12 {
		t.Errorf("at rest: %+v", n)
	}
}

// severalPacks is so large that a session stores a pack before it has taken all of it: it fills three at a time.
const severalPacks = 80 << 20

// packs makes a large file. While its first pack is stored, the second one waits, and the reader with it.
func (v *vault) packs() string {
	v.opts.Workers, v.opts.Uploads = 1, 1
	return v.write("large", string(noise(severalPacks, 3)))
}

func TestLargeFileGrowsWhileItIsRead(t *testing.T) {
	v := newVault(t)
	path := v.packs()
	v.hook.onPack(func() {
		f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
		must(t, err)
		_, err = f.Write(noise(1<<20, 4))
		must(t, errors.Join(err, f.Close()))
	})
	rep := v.backup("changed while it was read")
	if n := v.node(rep, "homes/large"); n.Size != severalPacks || n.Flags != FlagTorn {
		t.Errorf("size %d, flags %d", n.Size, n.Flags)
	}
	v.settle()
	rep = v.backup() // a torn file is read again
	if n := v.node(rep, "homes/large"); n.Size != severalPacks+1<<20 || n.Flags != 0 {
		t.Errorf("then size %d, flags %d", n.Size, n.Flags)
	}
	v.same(rep)
}

func TestLargeFileShrinksWhileItIsRead(t *testing.T) {
	v := newVault(t)
	path := v.packs()
	v.hook.onPack(func() { must(t, os.Truncate(path, 1000)) })
	rep := v.backup("changed while it was read")
	if n := v.node(rep, "homes/large"); n.Size >= severalPacks || n.Size < 4<<20 || n.Flags != FlagTorn {
		t.Errorf("size %d, flags %d", n.Size, n.Flags)
	}
}

func TestFilesVanish(t *testing.T) {
	v := newVault(t)
	v.packs()
	v.write("large2", string(noise(2<<20, 7))) // waits for the only reader, and the walk with it
	gone, dir := v.write("vanishing", "x"), v.write("vanishing.d/file", "x")
	v.write("zz", "stays")
	v.hook.onPack(func() {
		must(t, os.Remove(gone))
		must(t, os.RemoveAll(filepath.Dir(dir)))
	})
	rep := v.backup("vanishing: it vanished", "vanishing.d: it vanished")
	v.counts(rep, FileCounts{New: 3})
	if n := v.node(rep, "homes/zz"); n.Size != 5 {
		t.Errorf("what stayed: %+v", n)
	}
}

func TestUnreadable(t *testing.T) {
	if os.Geteuid() == 0 {
		rerunAsNobody(t, "TestUnreadable")
		return
	}
	v := newVault(t)
	secret := v.write("secret", "x")
	v.write("closed/file", "x")
	v.write("plain", "x")
	closed := filepath.Join(v.src, "closed")
	must(t, os.Chmod(secret, 0))
	must(t, os.Chmod(closed, 0))
	t.Cleanup(func() { os.Chmod(closed, 0o700) })
	v.opts.Workers = 1
	rep := v.backup("closed: open: permission denied", "secret: open: permission denied")
	v.counts(rep, FileCounts{New: 1})
	if n := v.node(rep, "homes/closed"); n.Flags != FlagPartial || n.Mode != 0 {
		t.Errorf("the closed folder: %+v", n)
	}
	if !rep.Snapshot.Complete || rep.Snapshot.Errors != 2 {
		t.Errorf("manifest %+v", rep.Snapshot.Manifest)
	}
}

// A file whose inode says that nothing has changed, but which has: the sample finds it.
func TestSampleFindsFilesThatLie(t *testing.T) {
	v := newVault(t)
	v.write("lies", "the truth is this")
	v.write("honest", "nothing to say")
	v.settle()
	v.commit(func(s *saver) []*Node {
		var nodes []*Node
		for name, content := range map[string]string{"lies": "a former content!", "honest": "nothing to say"} {
			id, err := s.put(index.Data)([]byte(content))
			must(t, err)
			m, err := localfs.Lstat(filepath.Join(v.src, name))
			must(t, err)
			nodes = append(nodes, &Node{Name: name, Meta: m, Content: []Part{{ID: id, Size: uint32(m.Size)}}})
		}
		m, err := localfs.Lstat(v.src)
		must(t, err)
		n := &Node{Name: "homes", Meta: m}
		n.Subtree, n.Size = s.folder(nodes)
		s.m.Sources = []Source{{Label: "homes", Kind: SourceFolder, Path: v.src, Files: 2, Time: time.Now()}}
		return []*Node{n}
	})
	v.opts.SampleNights = -1
	rep := v.backup()
	v.counts(rep, FileCounts{Unchanged: 2})
	v.opts.SampleNights = 1
	rep = v.backup()
	v.counts(rep, FileCounts{Unchanged: 1, Changed: 1})
	if len(v.mon.notices) != 1 || !strings.Contains(v.mon.notices[0], "lies: it differs") {
		t.Errorf("notices %q", v.mon.notices)
	}
	v.same(rep)
	if rep = v.backup(); rep.Files.Unchanged != 2 || len(v.mon.notices) != 0 || rep.Bytes.Read == 0 {
		t.Errorf("the night after: %+v, %q", rep.Files, v.mon.notices)
	}
}

func TestSampleCoversEverything(t *testing.T) {
	s := backupSource{nights: 64}
	const files = 2000
	seen, least, most := map[int]bool{}, files, 0
	for s.night = range s.nights {
		n := 0
		for i := range files {
			if s.turn(pathHash(0, fmt.Sprint("home/file", i/4)), i%4) {
				seen[i] = true
				n++
			}
		}
		least, most = min(least, n), max(most, n)
	}
	if len(seen) != files || least < files/64/3 || most > 3*files/64 {
		t.Errorf("%d of %d pieces in 64 nights, %d to %d a night", len(seen), files, least, most)
	}
}

// openDescriptors counts the process's open files, or returns 0 where the system does not say.
func openDescriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}
	return len(entries)
}

// interrupt cancels the first backup when its first pack is stored.
func (v *vault) interrupt() (*BackupReport, error) {
	ctx, cancel := context.WithCancel(v.t.Context())
	defer cancel()
	v.hook.onPack(cancel)
	return v.try(ctx)
}

func TestInterruptionAndResumption(t *testing.T) {
	v := newVault(t)
	v.opts.Workers, v.opts.Uploads = 1, 1
	const files, links, size = 90, 30, 1 << 20
	for i := range files {
		v.write(fmt.Sprintf("dir%d/sub/file%02d", i%6, i), string(noise(size-1000, uint64(i))))
	}
	for i := range links { // names that wait for the file that is being read
		must(t, os.Link(filepath.Join(v.src, "dir0/sub/file84"), filepath.Join(v.src, fmt.Sprintf("dir0/sub/link%d", i))))
	}
	v.settle()
	descriptors := openDescriptors(t)
	rep, err := v.interrupt()
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("error %v", err)
	}
	if now := openDescriptors(t); now != descriptors {
		t.Errorf("%d descriptors are open, %d were", now, descriptors)
	}
	s := rep.Snapshot
	if s == nil || !s.Checkpoint || s.Complete || s.Files == 0 || s.Files >= files+links {
		t.Fatalf("checkpoint %+v", s)
	}
	n := v.node(rep, "homes/dir0/sub/file00")
	if n.Size != size-1000 || v.node(rep, "homes").Flags != FlagPartial {
		t.Errorf("in the checkpoint: %+v", n)
	}
	uploaded := rep.Bytes.Uploaded
	read := rep.Bytes.Read
	v.reopen()
	rep = v.backup()
	v.counts(rep, FileCounts{New: files + 30 - s.Files, Unchanged: s.Files})
	if again := read + rep.Bytes.Read - files*(size-1000); again > 4*size {
		t.Errorf("%d bytes were read twice", again)
	}
	// What the interrupted run had put into its last packs is listed when it ends, so nothing goes up twice.
	if total := uploaded + rep.Bytes.Uploaded; total > files*size+2<<20 && uploaded > 0 {
		t.Errorf("%d bytes were uploaded for %d", total, files*size)
	}
	if rep.Snapshot.Parent != s.Ref.ID {
		t.Errorf("its parent is %s, not the checkpoint", rep.Snapshot.Parent)
	}
	v.same(rep)
	if rep := v.backup(); rep.Bytes.Read != 0 || rep.Snapshot.Parent == s.Ref.ID {
		t.Errorf("then an unchanged night reads %d bytes", rep.Bytes.Read)
	}
}

// The first snapshot was complete, then an interrupted run: its checkpoint and the complete one are both compared with.
func TestCheckpointBesideCompleteParent(t *testing.T) {
	v := newVault(t)
	for i := range 50 {
		v.write(fmt.Sprintf("z/old%d", i), fmt.Sprint(i))
	}
	v.settle()
	v.backup()
	v.opts.Workers, v.opts.Uploads = 1, 1
	const files = 80
	for i := range files {
		v.write(fmt.Sprintf("a/new%d", i), string(noise(1<<20-1, uint64(i))))
	}
	v.settle()
	rep, err := v.interrupt()
	if err == nil || rep.Snapshot == nil {
		t.Fatalf("checkpoint %+v, error %v", rep.Snapshot, err)
	}
	done := rep.Snapshot.Files
	rep = v.backup()
	if rep.Files.Unchanged < 50 || rep.Files.New > files || rep.Bytes.Read > (files+1-min(done, files))<<20 {
		t.Errorf("after %d files in the checkpoint: %+v, read %d", done, rep.Files, rep.Bytes.Read)
	}
	v.same(rep)
}

// Checkpoints all the time change nothing of what a backup stores, and none is left when it ends.
func TestCheckpointsDuringBackup(t *testing.T) {
	v := newVault(t)
	v.fill()
	for i := range 30 {
		v.write(fmt.Sprintf("more/%d/file", i), string(noise(700<<10, uint64(i))))
	}
	v.settle()
	v.checkpointing()
	v.fault.Record()
	rep := v.backup()
	made := 0
	for _, op := range v.fault.Ops() {
		if op.Kind == storagetest.Put && strings.HasPrefix(op.Name, "snapshots/") {
			made++
		}
	}
	if made < 2 {
		t.Errorf("%d manifests: no checkpoint was made", made)
	}
	snaps, err := List(t.Context(), v.r, Filter{})
	must(t, err)
	if len(snaps) != 1 || snaps[0].Checkpoint {
		t.Errorf("%d snapshots are left", len(snaps))
	}
	v.same(rep)
}

// Whatever operation of the storage fails: the error is told, older snapshots stay whole, and the next run is clean.
func TestStorageFails(t *testing.T) {
	for _, mode := range []storagetest.Mode{storagetest.NotDone, storagetest.DoneFailed, storagetest.CrashFirst} {
		t.Run(fmt.Sprint(mode), func(t *testing.T) {
			v := newVault(t)
			v.write("a", "first")
			first := v.backup()
			failures := 0
			for i := 0; ; i++ {
				v.write(fmt.Sprintf("dir/%d", i), fmt.Sprint("content ", i))
				v.fault.Reset()
				v.fault.At(i, mode)
				_, err := v.try(t.Context())
				hit := v.fault.Hit() > 0
				v.fault.Reset()
				v.reopen()
				if !hit {
					must(t, err)
					break
				}
				if err != nil {
					failures++
				}
				rep := v.backup()
				v.same(rep)
			}
			if failures < 4 {
				t.Errorf("%d failures", failures)
			}
			out := filepath.Join(t.TempDir(), "first")
			v.restore(RestoreOptions{Snapshot: first.Snapshot, Path: "homes", Target: to(out)})
			if data, err := os.ReadFile(filepath.Join(out, "a")); string(data) != "first" {
				t.Errorf("the first snapshot holds %q, %v", data, err)
			}
		})
	}
}

// Trees of a parent that cannot be read are no parents: what is below them is read again.
func TestDamagedParent(t *testing.T) {
	v := newUncheckedVault(t)
	for i := range 20 {
		v.write(fmt.Sprintf("dir%d/file", i), strings.Repeat(fmt.Sprint(i), 1000))
	}
	v.settle()
	v.backup()
	for _, pack := range v.packsOf(index.Tree) {
		must(t, v.st.Delete(t.Context(), "packs/"+pack[:1]+"/"+pack))
	}
	v.reopen()
	for i := range 20 {
		v.write(fmt.Sprintf("dir%d/new", i), "")
	}
	v.settle()
	rep := v.backup()
	if rep.Bytes.Read == 0 || len(v.mon.notices) == 0 {
		t.Errorf("read %d bytes, notices %q", rep.Bytes.Read, v.mon.notices)
	}
	v.same(rep)
}

func TestBackupOptionsAreChecked(t *testing.T) {
	v := newVault(t)
	v.backup()
	if _, err := Backup(t.Context(), v.r, BackupOptions{Sources: v.options().Sources}); err == nil {
		t.Error("a backup without an instance")
	}
	if _, err := Backup(t.Context(), v.r, BackupOptions{Instance: "x"}); err == nil {
		t.Error("a backup of nothing")
	}
}

func TestMemoryLowersEverything(t *testing.T) {
	o := BackupOptions{Workers: 16}
	all := newPlan(&o, 1<<20)
	o.Memory = 128 << 20
	some := newPlan(&o, 1<<20)
	o.Memory = 1
	least := newPlan(&o, 1<<20)
	if all.workers != 16 || some.workers < 2 || some.workers > 12 || least.workers != 1 || least.uploads != 1 || least.readers != 1 {
		t.Errorf("%+v, %+v, %+v", all, some, least)
	}
	v := newVault(t)
	v.fill()
	v.opts.Memory = 1
	v.settle()
	v.same(v.backup())
}

// Folders that lie deeper than any path reaches are saved as far as readers go, and what is not is said.
func TestBackupVeryDeep(t *testing.T) {
	v := newVault(t)
	root, err := os.OpenRoot(v.src)
	must(t, err)
	depth := 0
	for ; 2*depth < maxSavedPath+200; depth++ { // folder by folder: no path is as long
		must(t, root.Mkdir("d", 0o755))
		must(t, root.WriteFile("f", []byte{byte(depth), byte(depth >> 8)}, 0o644))
		next, err := root.OpenRoot("d")
		must(t, err)
		must(t, root.Close())
		root = next
	}
	must(t, root.Close())
	var last *Snapshot
	for range 2 {
		rep, err := v.try(t.Context())
		must(t, err)
		if rep.Problems != 1 || !strings.Contains(v.mon.problems()[0], "it lies too deep") {
			t.Fatalf("%d problems, %.1000v", rep.Problems, rep.Errors)
		}
		if n := rep.Snapshot.Files; n < int64(depth)-200 || n >= int64(depth) {
			t.Errorf("%d of %d files", n, depth)
		}
		last = rep.Snapshot
	}
	n := 0
	must(t, Walk(t.Context(), TreeLoader(v.r), last.RootNode(), "", func(_ string, n2 *Node, err error) error {
		if n2.IsFile() {
			n++
		}
		return err
	}))
	if n < depth-200 {
		t.Errorf("%d of %d files can be read", n, depth)
	}
}
