package snapshot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/index"
	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/repo/storage"
	"github.com/whole-tale/wtsnap/snapshot/localfs"
)

// What whoever has the key can store, and no backup does.

func hostileDir(name string, subtree chunk.ID) *Node {
	return &Node{Name: name, Meta: localfs.Meta{Type: localfs.TypeDir, Mode: 0o755, Nlink: 1}, Subtree: subtree}
}

func (s *saver) hostileFile(name, text string) *Node {
	id, err := s.put(index.Data)([]byte(text))
	s.must(err)
	return &Node{Name: name, Meta: localfs.Meta{Type: localfs.TypeFile, Mode: 0o644, Nlink: 1, Size: int64(len(text))},
		Content: []Part{{ID: id, Size: uint32(len(text))}}}
}

// treeBomb makes levels of folders of which each holds the next one twice: 2^levels paths in a few kilobytes.
func (s *saver) treeBomb(levels int, last *Node) *Node {
	id, _ := s.folder([]*Node{last})
	for range levels {
		id, _ = s.folder([]*Node{hostileDir("a", id), hostileDir("b", id)})
	}
	return hostileDir("bomb", id)
}

// A folder cannot contain itself, as its id is the hash of what it holds, but forty of them have a trillion paths. What
// looks at pages looks at each once; what goes through paths can be stopped.
func TestTreeBomb(t *testing.T) {
	d := newDepot(t)
	const levels = 40
	s := d.commit(func(s *saver) []*Node { return []*Node{s.treeBomb(levels, s.hostileFile("file", "text"))} })
	ctx := t.Context()
	load := TreeLoader(d.r)
	rep, err := d.r.Check(ctx, repo.CheckOptions{References: References(load), Paths: LostPaths(load), ReadShare: 1})
	if err != nil || len(rep.Problems) > 0 {
		t.Errorf("check: %v, %+v", err, rep)
	}
	if err := Find(ctx, d.r, []*Snapshot{s}, Query{Patterns: []string{"nothing"}}, func(_ *Snapshot, path string, _ *Node, err error) error {
		return fmt.Errorf("found %s, %w", path, err)
	}); err != nil {
		t.Error(err)
	}
	calls := 0
	if err := Find(ctx, d.r, []*Snapshot{s}, Query{Patterns: []string{"file"}}, func(*Snapshot, string, *Node, error) error {
		if calls++; calls == 100 {
			return ErrStop
		}
		return nil
	}); err != nil || calls != 100 {
		t.Errorf("find that is stopped: %v after %d", err, calls)
	}
	stopped, cancel := context.WithCancel(ctx)
	calls = 0
	err = Walk(stopped, load, s.RootNode(), "", func(string, *Node, error) error {
		if calls++; calls == 1000 {
			cancel()
		}
		return stopped.Err()
	})
	if !errors.Is(err, context.Canceled) || calls != 1000 {
		t.Errorf("a walk that is stopped: %v after %d", err, calls)
	}
	// A restore is stopped by what it has done: the files that it has planned.
	stopped, cancel = context.WithCancel(ctx)
	defer cancel()
	planned := 0
	_, err = Restore(stopped, d.r, RestoreOptions{Snapshot: s, Target: to(t.TempDir()), Memory: 4 << 20, OnAction: func(Action) {
		if planned++; planned == 100 {
			cancel()
		}
	}})
	if !errors.Is(err, context.Canceled) || planned < 100 {
		t.Errorf("a restore that is stopped: %v after %d", err, planned)
	}
	diff, err := Diff(ctx, d.r, DiffSide{Snapshot: s}, DiffSide{Snapshot: s}, func(Change) error { return nil })
	if err != nil {
		t.Errorf("diff with itself: %v, %+v", err, diff)
	}
}

// Who goes through far more paths than a snapshot says that it has ends with damage.
func TestTreeBombEnds(t *testing.T) {
	d := newDepot(t)
	s := d.commit(func(s *saver) []*Node { return []*Node{s.treeBomb(40, s.hostileFile("file", "text"))} })
	other := d.commit(func(s *saver) []*Node { return []*Node{s.treeBomb(40, s.hostileFile("file", "another"))} })
	ctx := t.Context()
	for name, try := range map[string]func() error{
		"find": func() error {
			return Find(ctx, d.r, []*Snapshot{s}, Query{Patterns: []string{"file"}}, func(*Snapshot, string, *Node, error) error { return nil })
		},
		"diff": func() error {
			_, err := Diff(ctx, d.r, DiffSide{Snapshot: s}, DiffSide{Snapshot: other}, func(Change) error { return nil })
			return err
		},
		"restore": func() error {
			_, err := Restore(ctx, d.r, RestoreOptions{Snapshot: s, Target: to(t.TempDir()), DryRun: true})
			return err
		},
		"copy": func() error {
			p, err := PlanCopy(ctx, d.r, newDepot(t).r, []*Snapshot{s})
			if err != nil {
				return err
			}
			_, err = p.Copy(ctx, CopyOptions{})
			return err
		},
		"tar": func() error {
			_, err := Restore(ctx, d.r, RestoreOptions{Snapshot: s, Target: TargetSpec{Kind: TargetTar, Path: t.TempDir() + "/x.tar"}, DryRun: true})
			return err
		},
	} {
		err := try()
		if damage, ok := errors.AsType[*repo.DamageError](err); !ok || damage.Kind != repo.DamageTree || !strings.Contains(err.Error(), "many more than it says") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Folders that lie in each other deeper than any backup saves are damage: whoever goes through them calls itself for each.
func TestTreeTooDeep(t *testing.T) {
	d := newDepot(t)
	chain := func(s *saver, text string) *Node {
		id, _ := s.folder([]*Node{s.hostileFile("file", text)})
		for range 2 * maxReadDepth {
			id, _ = s.folder([]*Node{hostileDir("d", id)})
		}
		return hostileDir("deep", id)
	}
	s := d.commit(func(s *saver) []*Node { return []*Node{chain(s, "text"), s.hostileFile("other", "other")} })
	second := d.commit(func(s *saver) []*Node { return []*Node{chain(s, "another text")} })
	ctx := t.Context()
	load := TreeLoader(d.r)
	is := func(what string, err error) {
		t.Helper()
		if damage, ok := errors.AsType[*repo.DamageError](err); !ok || !strings.Contains(damage.Error(), "no backup saves what lies deeper") || len(err.Error()) > 2000 {
			t.Errorf("%s: %.2000v", what, err)
		}
	}
	rep, err := d.r.Check(ctx, repo.CheckOptions{References: References(load), Paths: LostPaths(load)})
	must(t, err)
	if len(rep.Problems) != 2 || rep.Problems[0].Kind != repo.DamageTree || len(rep.Problems[0].Detail) > 2000 {
		t.Errorf("check: %.2000v", rep.Problems)
	}
	n := 0
	must(t, Find(ctx, d.r, []*Snapshot{s}, Query{Patterns: []string{"other"}}, func(_ *Snapshot, path string, _ *Node, err error) error {
		if n++; path != "other" {
			is("find", err)
		}
		return nil
	}))
	if n != 2 {
		t.Errorf("find: %d", n)
	}
	n = 0
	must(t, Walk(ctx, load, s.RootNode(), "", func(_ string, _ *Node, err error) error {
		if err != nil {
			n++
			is("walk", err)
		}
		return nil
	}))
	if n != 1 {
		t.Errorf("a walk meets %d", n)
	}
	_, err = Diff(ctx, d.r, DiffSide{Snapshot: s}, DiffSide{Snapshot: second}, func(Change) error { return nil })
	is("diff", err)
	out, err := Restore(ctx, d.r, RestoreOptions{Snapshot: s, Target: to(t.TempDir() + "/new"), DryRun: true})
	must(t, err)
	if out.Damaged != 1 || out.Problems != 1 || out.Files.New != 1 {
		t.Errorf("restore: %+v", out)
	}
	mend, err := PlanMend(ctx, d.r)
	must(t, err)
	if len(mend.Snapshots) != 2 || mend.Snapshots[0].Folders != 1 {
		t.Errorf("mend: %+v", mend.Snapshots)
	}
}

// Pages that refer to each other without getting to level 0 are no folder, and no file.
func TestPagesInPages(t *testing.T) {
	d := newDepot(t)
	s := d.commit(func(s *saver) []*Node {
		folder, _ := s.folder([]*Node{s.hostileFile("file", "text")})
		list := s.hostileFile("x", "text").Content[0].ID
		for range 1000 {
			page := appendString([]byte{pageVersion, pageFolder, 1, 1, 0}, "file")
			id, err := s.put(index.Tree)(append(page, folder[:]...))
			s.must(err)
			folder = id
			page = append([]byte{pageVersion, pageList, 1, 1, 0}, 4)
			id, err = s.put(index.Tree)(append(page, list[:]...))
			s.must(err)
			list = id
		}
		return []*Node{hostileDir("folder", folder), {Name: "list", Meta: localfs.Meta{Type: localfs.TypeFile, Mode: 0o644, Nlink: 1, Size: 4},
			ContentRoot: list, ContentLevel: 1}}
	})
	ctx := t.Context()
	load := TreeLoader(d.r)
	rep, err := d.r.Check(ctx, repo.CheckOptions{References: References(load), Paths: LostPaths(load)})
	must(t, err)
	levels := 0
	for _, p := range rep.Problems {
		if strings.Contains(p.Detail, "level 1 where 0 belongs") {
			levels++
		}
	}
	if levels != 2 || len(rep.Problems) != 2 {
		t.Errorf("check: %+v", rep.Problems)
	}
	out, err := Restore(ctx, d.r, RestoreOptions{Snapshot: s, Target: to(t.TempDir() + "/new")})
	must(t, err)
	if out.Damaged != 2 {
		t.Errorf("restore: %+v", out)
	}
	mend, err := PlanMend(ctx, d.r)
	must(t, err)
	if len(mend.Snapshots) != 1 || mend.Snapshots[0].Folders != 1 || mend.Snapshots[0].Files != 1 {
		t.Errorf("mend: %+v", mend.Snapshots)
	}
}

// A trillion paths that all need a blob that is lost are named up to a limit, and those that need none not gone through.
func TestTreeBombThatLostSomething(t *testing.T) {
	d := newDepot(t)
	var gone chunk.ID
	s := d.commit(func(s *saver) []*Node {
		file := s.hostileFile("file", "text")
		gone = file.Content[0].ID
		other := s.treeBomb(40, s.hostileFile("file", "whole"))
		other.Name = "another bomb"
		return []*Node{other, s.treeBomb(40, file)}
	})
	n := 0
	w := lostWalk{load: TreeLoader(d.r), lost: func(id chunk.ID) bool { return id == gone }, left: 5000, sound: map[chunk.ID]struct{}{},
		found: func(path string) {
			if n++; !strings.HasPrefix(path, "bomb/a/a/") || !strings.HasSuffix(path, "/file") {
				t.Errorf("found %q", path)
			}
		}}
	if _, err := w.folder(t.Context(), "", s.RootNode()); !errors.Is(err, ErrStop) || n != 5000 {
		t.Errorf("%v after %d", err, n)
	}
}

// Links to places outside the target, and entries behind such links, write nothing there.
func TestRestoreHostileLinks(t *testing.T) {
	top := t.TempDir()
	outside := top + "/outside"
	must(t, os.Mkdir(outside, 0o755))
	must(t, os.WriteFile(outside+"/victim", []byte("mine"), 0o600))
	link := func(name, target string) *Node {
		return &Node{Name: name, Meta: localfs.Meta{Type: localfs.TypeSymlink, Mode: 0o777, Nlink: 1, Size: int64(len(target))}, Target: target}
	}
	d := newDepot(t)
	// Two snapshots: what the first one leaves lies in the way of the second.
	links := d.commit(func(s *saver) []*Node {
		return []*Node{link("dir", outside), link("victim", outside+"/victim"), link("up", "../outside")}
	})
	behind := d.commit(func(s *saver) []*Node {
		evil, _ := s.folder([]*Node{s.hostileFile("evil", "evil"), s.hostileFile("victim", "evil")})
		file := s.hostileFile("victim", "evil")
		return []*Node{hostileDir("dir", evil), file, hostileDir("up", evil)}
	})
	dst := top + "/dst"
	for range 2 {
		for _, s := range []*Snapshot{links, behind, links} {
			for _, o := range []RestoreOptions{{Delete: true}, {}} {
				o.Snapshot, o.Target = s, to(dst)
				if _, err := Restore(t.Context(), d.r, o); err != nil && !strings.Contains(err.Error(), dst) {
					t.Errorf("%+v: %v", o, err)
				}
				if got, err := os.ReadFile(outside + "/victim"); err != nil || string(got) != "mine" {
					t.Fatalf("the victim: %q, %v", got, err)
				}
				if entries, err := os.ReadDir(outside); err != nil || len(entries) != 1 {
					t.Fatalf("outside: %v, %v", entries, err)
				}
				if m, err := os.Stat(outside + "/victim"); err != nil || m.Mode() != 0o600 {
					t.Fatalf("the victim's mode: %v, %v", m, err)
				}
			}
		}
	}
	if entries, err := os.ReadDir(top); err != nil || len(entries) != 2 {
		t.Errorf("beside the target: %v, %v", entries, err)
	}
}

// One page that has a link and then a folder of the same name is damage: no builder writes it, and no reader takes it.
func TestRestoreLinkAndFolderOfOneName(t *testing.T) {
	top := t.TempDir()
	outside := top + "/outside"
	must(t, os.Mkdir(outside, 0o755))
	d := newDepot(t)
	s := d.commit(func(s *saver) []*Node {
		evil, _ := s.folder([]*Node{s.hostileFile("evil", "evil")})
		var page []byte
		b := NewFolderBuilder(d.r.Hasher(), func(data []byte) (chunk.ID, error) {
			page = append([]byte(nil), data...)
			return d.r.Hasher().Sum(data), nil
		})
		s.must(b.Add(&Node{Name: "QQ", Meta: localfs.Meta{Type: localfs.TypeSymlink, Mode: 0o777, Nlink: 1, Size: int64(len(outside))}, Target: outside}))
		s.must(b.Add(hostileDir("QR", evil)))
		_, err := b.Finish()
		s.must(err)
		changed := strings.ReplaceAll(string(page), "QR", "QQ")
		if changed == string(page) {
			t.Fatal("the page has no such name")
		}
		id, err := s.put(index.Tree)([]byte(changed))
		s.must(err)
		return []*Node{hostileDir("twice", id)}
	})
	rep, err := Restore(t.Context(), d.r, RestoreOptions{Snapshot: s, Target: to(top + "/dst")})
	must(t, err)
	if rep.Damaged != 1 {
		t.Errorf("%+v", rep)
	}
	if entries, err := os.ReadDir(outside); err != nil || len(entries) != 0 {
		t.Errorf("outside: %v, %v", entries, err)
	}
}

// A manifest does not open under another instance, time or id, nor what was forgotten under another name.
func TestRenamedManifest(t *testing.T) {
	d := newDepot(t)
	s := d.commit(func(s *saver) []*Node { return []*Node{s.hostileFile("file", "text")} })
	ctx := t.Context()
	var name string
	must(t, d.st.List(ctx, "snapshots/", func(i storage.Info) error { name = i.Name; return nil }))
	data, err := d.st.Get(ctx, name, 0, -1, nil)
	must(t, err)
	instance := strings.Split(name, "/")[1]
	id := s.Ref.ID.String()
	for what, other := range map[string]string{
		"another instance": strings.Replace(name, instance, strings.Repeat("ab", 16), 1),
		"another id":       strings.Replace(name, id, strings.Repeat("cd", 16), 1),
		"another time":     "snapshots/" + instance + "/20990101T000000Z-" + id,
	} {
		_, err := d.st.Put(ctx, other, data)
		must(t, err)
		d.reopen()
		refs, err := d.r.Snapshots(ctx)
		must(t, err)
		bad := 0
		for _, ref := range refs {
			_, err := d.r.Manifest(ctx, ref)
			if damage, ok := errors.AsType[*repo.DamageError](err); ok {
				if bad++; damage.Kind != repo.DamageOpen || damage.Object != other {
					t.Errorf("%s: %v", what, err)
				}
			} else if err != nil {
				t.Errorf("%s: %v", what, err)
			}
		}
		if bad != 1 || len(refs) != 2 {
			t.Errorf("%s: %d of %d do not open", what, bad, len(refs))
		}
		rep, err := d.r.Check(ctx, repo.CheckOptions{References: References(TreeLoader(d.r))})
		must(t, err)
		if len(rep.Problems) == 0 {
			t.Errorf("%s: check finds nothing", what)
		}
		must(t, d.st.Delete(ctx, other))
	}
}
