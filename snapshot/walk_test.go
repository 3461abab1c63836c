package snapshot

import (
	"context"
	"errors"
	"io/fs"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/whole-tale/wtsnap/index"
	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/repo/storage/storagetest"
)

func TestCleanPath(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "/": "", ".": "", "a": "a", "/a//b/": "a/b", "./a/./b": "a/b", "a/...": "a/...", "a\xff\n": "a\xff\n", " a ": " a ",
	} {
		if got, err := CleanPath(in); got != want || err != nil {
			t.Errorf("CleanPath(%q) = %q, %v; want %q", in, got, err, want)
		}
	}
	for _, in := range []string{"..", "a/../b", "a\x00"} {
		var bad *BadPathError
		if got, err := CleanPath(in); !errors.As(err, &bad) {
			t.Errorf("CleanPath(%q) = %q, %v; want a BadPathError", in, got, err)
		}
	}
}

func TestWalkAndLookup(t *testing.T) {
	src := t.TempDir()
	for _, name := range []string{"a/x", "a/y/z", "a.b", "b/c", "inv\xffalid"} {
		write(t, src+"/"+name, []byte(name))
	}
	d := newDepot(t)
	s := d.save(map[string]string{"l": src})
	load := TreeLoader(d.r)
	walk := func(fn WalkFunc) (paths []string, err error) {
		err = Walk(t.Context(), load, s.RootNode(), "", func(path string, n *Node, err error) error {
			paths = append(paths, path)
			return fn(path, n, err)
		})
		return paths, err
	}
	paths, err := walk(func(path string, n *Node, err error) error {
		got, lerr := Lookup(t.Context(), d.r, s, "/"+path+"/")
		if diff := cmp.Diff(n, got); lerr != nil || diff != "" {
			t.Errorf("Lookup(%q): %v\n%s", path, lerr, diff)
		}
		return err
	})
	must(t, err)
	if diff := cmp.Diff([]string{"l", "l/a", "l/a/x", "l/a/y", "l/a/y/z", "l/a.b", "l/b", "l/b/c", "l/inv\xffalid"}, paths); diff != "" {
		t.Error(diff)
	}
	paths, err = walk(func(path string, _ *Node, _ error) error {
		if path == "l/a" {
			return fs.SkipDir
		}
		return nil
	})
	if err != nil || len(paths) != 6 {
		t.Errorf("skipping a folder: %q, %v", paths, err)
	}
	stop := errors.New("enough")
	if _, err = walk(func(string, *Node, error) error { return stop }); err != stop {
		t.Errorf("stopping: %v", err)
	}

	if n, err := Lookup(t.Context(), d.r, s, ""); err != nil || n.Subtree != s.Root {
		t.Errorf("the root: %v", err)
	}
	for path, part := range map[string]string{"x": `"x"`, "l/a/q/r": `"l/a/q"`, "l/a/x/y": `"l/a/x"`} {
		if _, err := Lookup(t.Context(), d.r, s, path); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), part) {
			t.Errorf("Lookup(%q): %v", path, err)
		}
	}

	// A backend that fails ends the walk; damage is told, and the walk goes on.
	d.reopen()
	must(t, d.r.LoadIndex(t.Context()))
	load = TreeLoader(d.r)
	d.fault.Reset()
	d.fault.Only(nil)
	for i := range 100 {
		d.fault.At(i, storagetest.NotDone)
	}
	if _, err := walk(func(_ string, _ *Node, err error) error { return nil }); !errors.Is(err, storagetest.ErrFault) {
		t.Errorf("a failing backend: %v", err)
	}
	d.fault.Reset()
	for pack := range d.packs(index.Tree) {
		must(t, d.st.Delete(t.Context(), pack))
	}
	var damage *repo.DamageError
	told := 0
	_, err = walk(func(_ string, n *Node, err error) error {
		if errors.As(err, &damage) && n.Subtree == s.Root {
			told++
		}
		return nil
	})
	if err != nil || told != 1 {
		t.Errorf("damage told %d times, %v", told, err)
	}
	if _, err := Lookup(t.Context(), d.r, s, "l"); !errors.As(err, &damage) {
		t.Errorf("Lookup in a damaged tree: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Walk(ctx, load, s.RootNode(), "", func(string, *Node, error) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
}
