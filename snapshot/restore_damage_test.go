package snapshot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"testing"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/index"
	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/repo/storage"
	"github.com/whole-tale/wtsnap/repo/storage/local"
	"github.com/whole-tale/wtsnap/snapshot/localfs"
)

func TestRestoreDamaged(t *testing.T) {
	src := t.TempDir()
	write(t, src+"/a/whole", bytesOf(1, 200_000))
	write(t, src+"/b/whole", bytesOf(2, 3000))
	d := newDepot(t)
	d.save(map[string]string{"l": src}) // a pack of its own
	write(t, src+"/a/torn", append(bytesOf(1, 200_000), bytesOf(3, 2<<20)...))
	write(t, src+"/b/lost", bytesOf(4, 100_000))
	must(t, os.Link(src+"/b/lost", src+"/b/lost too"))
	first := d.packs(index.Data)
	s := d.save(map[string]string{"l": src})
	for name, damage := range map[string]func(pack string){
		"deleted": func(pack string) { must(t, d.st.Delete(t.Context(), pack)) },
		"flipped": func(pack string) {
			data, err := d.st.Get(t.Context(), pack, 0, -1, nil)
			must(t, err)
			for i := 0; i < len(data); i += 500 {
				data[i] ^= 1
			}
			must(t, d.st.Delete(t.Context(), pack))
			_, err = d.st.Put(t.Context(), pack, data)
			must(t, err)
		},
	} {
		kept := map[string][]byte{}
		for pack := range d.packs(index.Data) {
			if !first[pack] {
				data, err := d.st.Get(t.Context(), pack, 0, -1, nil)
				must(t, err)
				kept[pack] = data
				damage(pack)
			}
		}
		if len(kept) == 0 {
			t.Fatal("nothing to damage")
		}
		d.reopen()
		dst := t.TempDir() + "/dst"
		rep, err := Restore(t.Context(), d.r, RestoreOptions{Snapshot: s, Path: "l", Target: to(dst)})
		must(t, err)
		var paths []string
		for _, e := range rep.Errors {
			paths = append(paths, e.Path)
		}
		if len(paths) != 3 || rep.Damaged != 2 || rep.Files.Failed != 2 || rep.Files.New != 2 ||
			!strings.Contains(strings.Join(paths, " "), "l/a/torn") || !strings.Contains(strings.Join(paths, " "), "l/b/lost too") {
			t.Errorf("%s: %+v", name, rep)
		}
		if lies := liars(t, src, dst); lies != nil {
			t.Errorf("%s: %q look complete and are not", name, lies)
		}
		for _, whole := range []string{"a/whole", "b/whole"} {
			want, err := os.ReadFile(src + "/" + whole)
			must(t, err)
			if got, err := os.ReadFile(dst + "/" + whole); err != nil || string(got) != string(want) {
				t.Errorf("%s: %s is not as it should be: %v", name, whole, err)
			}
		}
		// Repaired, the same command completes it.
		for pack, data := range kept {
			must(t, d.st.Delete(t.Context(), pack))
			_, err := d.st.Put(t.Context(), pack, data)
			must(t, err)
		}
		d.restore(RestoreOptions{Snapshot: s, Path: "l", Target: to(dst)})
		sameTrees(t, src, dst)
	}

	for pack := range d.packs(index.Tree) {
		must(t, d.st.Delete(t.Context(), pack))
	}
	d.reopen()
	var damaged *repo.DamageError
	if _, err := Restore(t.Context(), d.r, RestoreOptions{Snapshot: s, Path: "l", Target: to(t.TempDir())}); !errors.As(err, &damaged) {
		t.Errorf("without trees: %v", err)
	}
}

// packs lists the packs of a kind.
func (d *depot) packs(kind index.Kind) map[string]bool {
	d.t.Helper()
	names := map[string]bool{}
	must(d.t, d.r.LoadIndex(d.t.Context()))
	for _, p := range d.r.Index().Packs() {
		if p.Kind == kind {
			must(d.t, d.st.List(d.t.Context(), "packs/", func(i storage.Info) error {
				if strings.HasSuffix(i.Name, p.ID.String()) {
					names[i.Name] = true
				}
				return nil
			}))
		}
	}
	return names
}

// TestRestoreHostile gives the restore pages that no builder writes.
func TestRestoreHostile(t *testing.T) {
	for _, name := range []string{"..", "/x", "a/", "a\x00", ". "} {
		d := newDepot(t)
		s := d.commit(func(s *saver) []*Node {
			file := func(name string) *Node {
				id, err := s.put(index.Data)([]byte("evil"))
				s.must(err)
				return &Node{Name: name, Meta: localfs.Meta{Type: localfs.TypeFile, Mode: 0o644, Nlink: 1, Size: 4}, Content: []Part{{ID: id, Size: 4}}}
			}
			folder := func(change func([]byte) []byte, nodes ...*Node) *Node {
				var page []byte
				b := NewFolderBuilder(d.r.Hasher(), func(data []byte) (chunk.ID, error) {
					page = append([]byte(nil), data...)
					return d.r.Hasher().Sum(data), nil
				})
				for _, n := range nodes {
					s.must(b.Add(n))
				}
				_, err := b.Finish()
				s.must(err)
				id, err := s.put(index.Tree)(change(page))
				s.must(err)
				return &Node{Meta: localfs.Meta{Type: localfs.TypeDir, Mode: 0o755, Nlink: 1}, Subtree: id}
			}
			good := folder(func(p []byte) []byte { return p }, file("good"))
			good.Name = "good"
			bad := folder(func(p []byte) []byte { return []byte(strings.ReplaceAll(string(p), "QQ", name)) }, file("QQ"))
			bad.Name = "bad"
			twice := folder(func(p []byte) []byte { return []byte(strings.ReplaceAll(string(p), "QR", "QQ")) }, file("QQ"), file("QR"))
			twice.Name = "twice"
			return []*Node{good, bad, twice}
		})
		top := t.TempDir()
		rep, err := Restore(t.Context(), d.r, RestoreOptions{Snapshot: s, Target: to(top + "/a/b")})
		must(t, err)
		want := int64(2)
		if name == ". " { // odd, and allowed
			want = 1
		}
		if rep.Damaged != want || rep.Problems != want {
			t.Errorf("%q: %+v", name, rep)
		}
		if entries, err := os.ReadDir(top); err != nil || len(entries) != 1 {
			t.Errorf("%q: left the target: %v, %v", name, entries, err)
		}
		if got, err := os.ReadFile(top + "/a/b/good/good"); err != nil || string(got) != "evil" {
			t.Errorf("%q: the rest: %q, %v", name, got, err)
		}
	}
}

// TestRestoreWrongSizes gives the restore files whose parts are not as long as their blobs.
func TestRestoreWrongSizes(t *testing.T) {
	d := newDepot(t)
	s := d.commit(func(s *saver) []*Node {
		var nodes []*Node
		for _, size := range []uint32{3, 4, 5} {
			id, err := s.put(index.Data)([]byte("four"))
			s.must(err)
			nodes = append(nodes, &Node{Name: fmt.Sprint(size), Content: []Part{{ID: id, Size: size}},
				Meta: localfs.Meta{Type: localfs.TypeFile, Mode: 0o644, Nlink: 1, Size: int64(size)}})
		}
		return nodes
	})
	dst := t.TempDir()
	rep, err := Restore(t.Context(), d.r, RestoreOptions{Snapshot: s, Target: to(dst)})
	must(t, err)
	if rep.Damaged != 2 || rep.Files.New != 1 || rep.Files.Failed != 2 {
		t.Errorf("%+v", rep)
	}
	if names := tarNamesOf(t, d, RestoreOptions{Snapshot: s}); len(names) != 1 || names[0] != "4" {
		t.Errorf("in a tar: %q", names)
	}
}

// TestRestoreDeep restores folders that no path reaches.
func TestRestoreDeep(t *testing.T) {
	const depth = 640 // times 7 bytes is beyond PATH_MAX
	d := newDepot(t).checked()
	s := d.commit(func(s *saver) []*Node {
		id, err := s.put(index.Data)([]byte("deep"))
		s.must(err)
		n := &Node{Name: "file", Meta: localfs.Meta{Type: localfs.TypeFile, Mode: 0o644, Nlink: 1, Size: 4, MTime: 1}, Content: []Part{{ID: id, Size: 4}}}
		for range depth {
			dir := &Node{Name: "folder", Meta: localfs.Meta{Type: localfs.TypeDir, Mode: 0o755, Nlink: 1, MTime: 1}}
			dir.Subtree, dir.Size = s.folder([]*Node{n})
			n = dir
		}
		return []*Node{n}
	})
	dst := t.TempDir()
	o := RestoreOptions{Snapshot: s, Target: to(dst), Verify: true}
	d.restore(o)
	if rep := d.restore(o); rep.Files.Unchanged != 1 || rep.Files.Verified != 1 || rep.Folders != depth {
		t.Errorf("the second time: %+v", rep)
	}
	root, err := localfs.OpenRoot(dst)
	must(t, err)
	defer root.Close()
	must(t, root.RemoveAll("folder")) // os.RemoveAll may not reach it either
}

// A folder of a snapshot that is lost on a storage whose objects are files is damage, and no path that the snapshot does not have.
func TestLostFolderIsNoMissingPath(t *testing.T) {
	src := t.TempDir()
	write(t, src+"/a", bytesOf(1, 3000))
	d := newDepot(t)
	s := d.save(map[string]string{"l": src})
	lost := d.packs(index.Tree)
	st, err := local.Open(t.TempDir())
	must(t, err)
	must(t, d.st.List(t.Context(), "", func(i storage.Info) error {
		if lost[i.Name] {
			return nil
		}
		data, err := d.st.Get(t.Context(), i.Name, 0, -1, nil)
		must(t, err)
		_, err = st.Put(t.Context(), i.Name, data)
		return err
	}))
	r, err := repo.Open(t.Context(), st, repo.OpenOptions{Password: d.key})
	must(t, err)
	must(t, r.LoadIndex(t.Context()))
	_, err = Lookup(t.Context(), r, s, "l/a")
	if damage := (*repo.DamageError)(nil); !errors.As(err, &damage) || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("looking up a path whose folder is lost: %v", err)
	}
}
