package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/index"
	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/repo/storage/mem"
	"github.com/whole-tale/wtsnap/repo/storage/storagetest"
	"github.com/whole-tale/wtsnap/snapshot/localfs"
)

// A depot is a repository that real folders are saved into, node by node and without Backup, so that a test of Restore
// fails for Restore's reasons.
type depot struct {
	t     testing.TB
	r     *repo.Repository
	st    *mem.Storage
	fault *storagetest.Fault
	key   []byte
}

func newDepot(t testing.TB) *depot {
	t.Helper()
	key, err := repo.NewKeyFile()
	if err != nil {
		t.Fatal(err)
	}
	d := &depot{t: t, st: mem.New(), key: key}
	d.fault = storagetest.NewFault(d.st)
	if d.r, err = repo.Init(t.Context(), d.fault, repo.InitOptions{Password: key}); err != nil {
		t.Fatal(err)
	}
	return d
}

// checked lets the repository be checked at the end: for tests that do not damage it.
func (d *depot) checked() *depot {
	d.t.Cleanup(func() {
		d.fault.Reset()
		rep, err := d.r.Check(context.Background(), repo.CheckOptions{References: References(TreeLoader(d.r)), ReadShare: 1})
		if err != nil || len(rep.Problems) > 0 {
			d.t.Errorf("check at the end: %v, %v", err, rep.Problems)
		}
	})
	return d
}

// reopen opens the repository anew, with nothing in memory.
func (d *depot) reopen() {
	d.t.Helper()
	var err error
	if d.r, err = repo.Open(d.t.Context(), d.fault, repo.OpenOptions{Password: d.key}); err != nil {
		d.t.Fatal(err)
	}
}

// A saver writes one snapshot.
type saver struct {
	d *depot
	w *repo.Writer
	m Manifest
}

// commit lets fill make the root folder's nodes and stores a snapshot of them, of instance "inst".
func (d *depot) commit(fill func(s *saver) []*Node) *Snapshot {
	d.t.Helper()
	ctx := d.t.Context()
	session, err := d.r.Begin(ctx, repo.SessionOptions{})
	if err != nil {
		d.t.Fatal(err)
	}
	s := &saver{d: d, w: session.Writer(), m: Manifest{Instance: "inst", Time: time.Now().UTC().Truncate(time.Second), Complete: true,
		Owners: Owners{Users: map[uint32]string{0: "root"}, Groups: map[uint32]string{0: "root"}}}}
	s.m.Root, s.m.Bytes = s.folder(fill(s))
	data, err := EncodeManifest(&s.m)
	if err != nil {
		d.t.Fatal(err)
	}
	ref, err := session.Commit(ctx, repo.Payload{Instance: s.m.Instance, Time: s.m.Time, Data: data})
	if err == nil {
		err = session.Close(ctx)
	}
	if err != nil {
		d.t.Fatal(err)
	}
	return &Snapshot{Ref: ref, Manifest: &s.m}
}

// save stores a snapshot of folders by label.
func (d *depot) save(dirs map[string]string) *Snapshot {
	d.t.Helper()
	return d.commit(func(s *saver) []*Node {
		var labels []*Node
		for label, dir := range dirs {
			s.m.Sources = append(s.m.Sources, Source{Label: label, Kind: SourceFolder, Path: dir})
			n := s.dir(dir)
			n.Name = label
			labels = append(labels, n)
		}
		return labels
	})
}

func (s *saver) must(err error) {
	s.d.t.Helper()
	if err != nil {
		s.d.t.Fatal(err)
	}
}

func (s *saver) put(kind index.Kind) PutFunc {
	return func(data []byte) (chunk.ID, error) {
		id, _, err := s.w.Put(s.d.t.Context(), kind, data)
		return id, err
	}
}

// folder stores nodes and returns the root page and the bytes below it.
func (s *saver) folder(nodes []*Node) (chunk.ID, int64) {
	slices.SortFunc(nodes, func(a, b *Node) int { return strings.Compare(a.Name, b.Name) })
	b := NewFolderBuilder(s.d.r.Hasher(), s.put(index.Tree))
	size := int64(0)
	for _, n := range nodes {
		if n.IsFile() || n.IsDir() {
			size += n.Size
		}
		s.must(b.Add(n))
	}
	id, err := b.Finish()
	s.must(err)
	return id, size
}

// content makes the content of a file's node from its extents.
func (s *saver) content(n *Node, r io.ReaderAt, extents []localfs.Extent, size int64) {
	b := NewListBuilder(s.put(index.Tree))
	off := int64(0)
	for _, e := range append(extents, localfs.Extent{Offset: size}) {
		s.must(b.Add(Part{HoleSize: e.Offset - off}))
		off = e.Offset + e.Length
		split := chunk.NewSplitter(io.NewSectionReader(r, e.Offset, e.Length), s.d.r.ChunkParams())
		var buf []byte
		for {
			var err error
			buf, err = split.Next(buf)
			if err == io.EOF {
				break
			}
			s.must(err)
			id, _, err := s.w.Put(s.d.t.Context(), index.Data, buf)
			s.must(err)
			s.must(b.Add(Part{ID: id, Size: uint32(len(buf))}))
		}
	}
	s.must(b.Finish(n))
}

// dir makes the node of a real folder.
func (s *saver) dir(path string) *Node {
	d, err := localfs.OpenDir(path)
	s.must(err)
	defer d.Close()
	m, err := d.Meta()
	s.must(err)
	n := &Node{Meta: m}
	n.Xattrs, err = d.Xattrs()
	s.must(err)
	entries, err := d.Entries(nil)
	s.must(err)
	var nodes []*Node
	for _, e := range entries {
		nodes = append(nodes, s.entry(d, path, e.Name))
	}
	n.Subtree, n.Size = s.folder(nodes)
	s.m.Dirs++
	return n
}

func (s *saver) entry(d *localfs.Dir, path, name string) *Node {
	m, err := d.Stat(name)
	s.must(err)
	n := &Node{Name: name, Meta: m}
	switch m.Type {
	case localfs.TypeDir:
		n = s.dir(filepath.Join(path, name))
		n.Name = name
	case localfs.TypeFile:
		f, m, err := d.OpenFile(name)
		s.must(err)
		defer f.Close()
		extents, err := f.Extents(m.Size)
		s.must(err)
		s.content(n, f, extents, m.Size)
		n.Xattrs, err = f.Xattrs()
		s.must(err)
		s.m.Files++
	default:
		if m.Type == localfs.TypeSymlink {
			n.Target, err = d.ReadLink(name)
			s.must(err)
		} else {
			n.Size = 0
		}
		n.Xattrs, err = d.XattrsOf(name)
		s.must(err)
	}
	return n
}

// bytesOf is what a file of the given bytes holds: noise for a seed, the same in each run.
func bytesOf(seed uint64, size int) []byte {
	p := make([]byte, size)
	src := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	src.Read(p)
	return p
}

func write(t testing.TB, path string, data []byte) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(t, os.WriteFile(path, data, 0o644))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// chtime sets an entry's time, of a link its own.
func chtime(t testing.TB, path string, ns int64) {
	t.Helper()
	must(t, apply(t, path, nil, func(m *localfs.Meta) { m.MTime = ns }))
}

// setXattr gives an entry an attribute, where there are some.
func setXattr(t testing.TB, path string, x localfs.Xattr) {
	t.Helper()
	if err := apply(t, path, []localfs.Xattr{x}, func(*localfs.Meta) {}); err != nil {
		t.Logf("no attribute in the test: %v", err)
	}
}

func apply(t testing.TB, path string, xattrs []localfs.Xattr, change func(*localfs.Meta)) error {
	t.Helper()
	root, err := localfs.OpenRoot(filepath.Dir(path))
	must(t, err)
	defer root.Close()
	m, err := root.Lstat(filepath.Base(path))
	must(t, err)
	change(&m)
	return root.Apply(filepath.Base(path), &m, xattrs, localfs.ApplyOptions{NoXattrs: xattrs == nil, NoOwner: true})
}

// makeHome fills dir with an entry of each kind, names that are no UTF-8, holes, attributes, links, and times and modes
// of their own. It returns how many regular files (names) there are.
func makeHome(t testing.TB, dir string) int {
	t.Helper()
	write(t, dir+"/plain", []byte("hello"))
	write(t, dir+"/empty", nil)
	write(t, dir+"/new\nline", []byte("odd"))
	write(t, dir+"/inv\xff\xfealid", []byte("no UTF-8"))
	write(t, dir+"/-rf", []byte("dash"))
	write(t, dir+"/big", bytesOf(1, 5<<20))
	write(t, dir+"/copy of big", bytesOf(1, 5<<20))
	write(t, dir+"/sub/deep/er/file", bytesOf(2, 300_000))
	write(t, dir+"/sub/program", []byte("#!/bin/sh\n"))
	must(t, os.Chmod(dir+"/sub/program", 0o755))
	write(t, dir+"/private", []byte("secret"))
	must(t, os.Chmod(dir+"/private", 0o400))
	must(t, os.Link(dir+"/big", dir+"/sub/linked"))
	must(t, os.Link(dir+"/big", dir+"/zlinked"))
	must(t, os.Symlink("plain", dir+"/symlink"))
	must(t, os.Symlink("/nowhere/\xff", dir+"/dangling"))
	must(t, os.Mkdir(dir+"/emptydir", 0o755))
	must(t, syscall.Mkfifo(dir+"/fifo", 0o640))
	f, err := os.Create(dir + "/sparse")
	must(t, err)
	_, err = f.WriteAt(bytesOf(3, 200_000), 4<<20)
	must(t, err)
	must(t, f.Truncate(9<<20))
	must(t, f.Close())
	write(t, dir+"/allhole", nil)
	must(t, os.Truncate(dir+"/allhole", 1<<20))
	files := 14 // three of them names of one
	for i := range 50 {
		write(t, fmt.Sprintf("%s/many/%03d", dir, i), bytesOf(uint64(i), 100+i*50))
		files++
	}
	setXattr(t, dir+"/plain", localfs.Xattr{Name: "user.colour", Value: []byte("blue\x00")})
	setXattr(t, dir+"/sub", localfs.Xattr{Name: "user.of", Value: []byte("folder")})
	must(t, os.Chmod(dir+"/sub/deep", 0o500))
	if os.Geteuid() == 0 {
		must(t, os.Chown(dir+"/plain", 12345, 23456))
		must(t, os.Lchown(dir+"/symlink", 12345, 23456))
		must(t, os.Chmod(dir+"/sub/program", 0o755|os.ModeSetuid))
		root, err := localfs.OpenRoot(dir)
		must(t, err)
		defer root.Close()
		if err := root.Mknod("null", localfs.TypeCharDevice, localfs.MakeRDev(1, 3)); err != nil {
			t.Logf("no device in the test: %v", err)
		}
	}
	i := int64(0)
	var paths []string
	must(t, filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		paths = append(paths, path)
		return err
	}))
	slices.Reverse(paths) // folders after what they hold
	for _, path := range paths {
		i++
		chtime(t, path, 1_600_000_000_123_456_789+i*1_000_000_007)
	}
	chtime(t, dir+"/-rf", -1_000_000_001) // before 1970
	chtime(t, dir, 1_500_000_000_000_000_001)
	return files
}

// listing describes everything below dir that a restore must bring back, one line an entry by its path.
func listing(t testing.TB, dir string, contents bool) map[string]string {
	t.Helper()
	lines := map[string]string{}
	firstName := map[inode]string{}
	var walk func(d *localfs.Dir, rel string)
	walk = func(d *localfs.Dir, rel string) {
		defer d.Close()
		entries, err := d.Entries(nil)
		must(t, err)
		for _, e := range entries {
			m, err := d.Stat(e.Name)
			must(t, err)
			x, err := d.XattrsOf(e.Name)
			must(t, err)
			path := joinPath(rel, e.Name)
			line := fmt.Sprintf("%v %04o %d:%d %d rdev %d xattrs %q", m.Type, m.Mode, m.UID, m.GID, m.MTime, m.RDev, x)
			switch m.Type {
			case localfs.TypeSymlink:
				target, err := d.ReadLink(e.Name)
				must(t, err)
				line += fmt.Sprintf(" -> %q", target)
			case localfs.TypeFile:
				if m.Nlink > 1 {
					id := inode{m.Dev, m.Ino}
					if firstName[id] == "" {
						firstName[id] = path
					}
					line += fmt.Sprintf(" same as %q", firstName[id])
				}
				line += fmt.Sprintf(" size %d", m.Size)
				if contents {
					f, _, err := d.OpenFile(e.Name)
					must(t, err)
					extents, err := f.Extents(m.Size)
					must(t, err)
					data := make([]byte, m.Size)
					_, err = f.ReadAt(data, 0)
					if err != nil && !errors.Is(err, io.EOF) {
						t.Fatal(err)
					}
					f.Close()
					line += fmt.Sprintf(" data %v %x", extents, chunk.NewHasher([32]byte{}).Sum(data))
				}
			}
			lines[path] = line
			if m.Type == localfs.TypeDir {
				sub, err := d.OpenDir(e.Name)
				must(t, err)
				walk(sub, path)
			}
		}
	}
	d, err := localfs.OpenDir(dir)
	must(t, err)
	m, err := d.Meta()
	must(t, err)
	lines["."] = fmt.Sprintf("%04o %d:%d %d", m.Mode, m.UID, m.GID, m.MTime)
	walk(d, "")
	return lines
}

func sameTrees(t testing.TB, want, got string) {
	t.Helper()
	if diff := cmp.Diff(listing(t, want, true), listing(t, got, true)); diff != "" {
		t.Errorf("%s and %s differ (-want +got):\n%s", want, got, diff)
	}
}

// to is a folder target.
func to(dir string) TargetSpec { return TargetSpec{Kind: TargetFolder, Path: dir} }

// restore restores and fails the test where that fails or reports problems.
func (d *depot) restore(o RestoreOptions) *RestoreReport {
	d.t.Helper()
	rep, err := Restore(d.t.Context(), d.r, o)
	if err != nil {
		d.t.Fatal(err)
	}
	for _, e := range rep.Errors {
		d.t.Errorf("restore: %q: %s", e.Path, e.Error)
	}
	return rep
}
