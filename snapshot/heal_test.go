package snapshot

import (
	"bytes"
	"context"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/whole-tale/wtsnap/index"
	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/repo/storage/storagetest"
)

// harm deletes an object, or flips a bit in the middle of it.
func (d *depot) harm(name, how string) {
	d.t.Helper()
	ctx := d.t.Context()
	data, err := d.st.Get(ctx, name, 0, -1, nil)
	must(d.t, err)
	must(d.t, d.st.Delete(ctx, name))
	if how == "delete" {
		return
	}
	data = bytes.Clone(data)
	if how == "truncate" {
		data = data[:len(data)/2]
	} else {
		data[len(data)/3] ^= 1
	}
	_, err = d.st.Put(ctx, name, data)
	must(d.t, err)
}

// objects lists the names of a kind: packs of data or of trees, from the largest on, or what lies below a prefix.
func (d *depot) objects(kind string) (names []string) {
	d.t.Helper()
	if kind != "data" && kind != "tree" {
		content, err := storagetest.Content(d.st)
		must(d.t, err)
		for name := range content {
			if strings.HasPrefix(name, kind) {
				names = append(names, name)
			}
		}
		slices.Sort(names)
		return names
	}
	sizes := map[string]int64{}
	for _, p := range d.r.Index().Packs() {
		if (p.Kind == index.Data) == (kind == "data") {
			name := "packs/" + p.ID.String()[:1] + "/" + p.ID.String()
			names, sizes[name] = append(names, name), p.Size
		}
	}
	slices.SortFunc(names, func(a, b string) int { return int(sizes[b] - sizes[a]) })
	return names
}

func (d *depot) problems() []repo.Problem {
	d.t.Helper()
	rep, err := d.r.Check(context.Background(), repo.CheckOptions{References: References(TreeLoader(d.r)), ReadShare: 1})
	must(d.t, err)
	return rep.Problems
}

// giveUp does what wtsnap repair index and wtsnap repair packs --read-data do.
func (d *depot) giveUp() *repo.PackRepair {
	d.t.Helper()
	ctx := d.t.Context()
	_, err := d.r.RepairIndex(ctx, false)
	must(d.t, err)
	d.reopen()
	var ids []index.PackID
	for _, p := range d.problems() {
		if name, ok := strings.CutPrefix(p.Object, "packs/"); ok {
			id, err := index.ParsePackID(filepath.Base(name))
			must(d.t, err)
			if _, ok := d.r.Index().FindPack(id); ok && !slices.Contains(ids, id) {
				ids = append(ids, id)
			}
		}
	}
	rep, err := d.r.RepairPacks(ctx, ids, false)
	must(d.t, err)
	d.reopen()
	return rep
}

var harms = []struct{ name, kind, how string }{
	{"data pack lost", "data", "delete"},
	{"data pack changed", "data", "flip"},
	{"data pack cut short", "data", "truncate"},
	{"tree pack lost", "tree", "delete"},
	{"tree pack changed", "tree", "flip"},
	{"index segment lost", "index/", "delete"},
	{"index segment changed", "index/", "flip"},
	{"manifest changed", "snapshots/", "flip"},
	{"manifest cut short", "snapshots/", "truncate"},
}

// Whatever is damaged, another copy heals it: nothing is left to complain about, and all is restored as it was. The largest
// pack of data has what the deltas of all nights rest on.
func TestHealFromACopy(t *testing.T) {
	for _, h := range harms {
		t.Run(h.name, func(t *testing.T) {
			m := newMirror(t)
			m.vault = newUncheckedVault(t)
			snaps := m.nights(3)
			was := filepath.Join(t.TempDir(), "was")
			m.restore(RestoreOptions{Snapshot: snaps[1], Path: "homes", Target: to(was)})
			m.copy()
			m.harm(m.objects(h.kind)[0], h.how)
			m.reopen()
			if h.kind != "index/" { // which nothing works without, and which says so by an error
				if len(m.problems()) == 0 {
					t.Fatal("the damage is not noticed")
				}
			}
			m.giveUp()
			p, err := PlanHeal(t.Context(), m.r, m.other.r)
			must(t, err)
			if len(p.Snapshots) != 3 {
				t.Fatalf("%d snapshots are in both", len(p.Snapshots))
			}
			_, err = p.Heal(t.Context(), CopyOptions{})
			must(t, err)
			for _, s := range p.Snapshots {
				if s.State != HealDone && s.State != HealWhole {
					t.Errorf("snapshot %s: %s, %v", s.Ref.ID.Short(), s.State, s.Lost)
				}
			}
			m.reopen()
			if left := m.problems(); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
			for _, s := range snaps {
				is := filepath.Join(t.TempDir(), "is")
				snap, _, err := Resolve(t.Context(), m.r, s.Ref.ID.String(), Selector{})
				must(t, err)
				m.restore(RestoreOptions{Snapshot: snap, Path: "homes", Target: to(is)})
				if s == snaps[1] {
					sameTrees(t, was, is)
				}
			}
		})
	}
}

// A backup of the same files heals what it can.
func TestHealByBackup(t *testing.T) {
	for _, h := range harms[:7] {
		t.Run(h.name, func(t *testing.T) {
			v := newUncheckedVault(t)
			v.write("a", strings.Repeat("some text\n", 1000))
			v.random("dir/b", 700<<10)
			v.settle()
			v.backup()
			v.harm(v.objects(h.kind)[0], h.how)
			v.reopen()
			v.giveUp()
			rep, err := v.try(t.Context())
			must(t, err)
			v.reopen()
			if left := v.problems(); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
			v.same(rep)
		})
	}
}

// What nothing heals is left out of snapshots that are stored anew; the originals can be brought back.
func TestMend(t *testing.T) {
	v := newUncheckedVault(t)
	v.write("small/kept", "as it was")
	v.settle()
	whole := v.backup()
	v.random("dir/lost", 300<<10)
	v.write("dir/kept", "beside it")
	v.settle()
	hurt := v.backup()
	must(t, ChangeTags(t.Context(), v.r, hurt.Snapshot.Ref.ID, []string{"release"}, nil))
	v.harm(v.objects("data")[0], "delete")
	v.reopen()
	p, err := PlanMend(t.Context(), v.r)
	must(t, err)
	if len(p.Snapshots) != 1 || p.Whole != 1 || p.Snapshots[0].Ref.ID != hurt.Snapshot.Ref.ID || !slices.Contains(p.Snapshots[0].Lost, "homes/dir/lost") {
		t.Fatalf("%+v", p.Snapshots)
	}
	must(t, p.Mend(t.Context()))
	v.giveUp()
	if left := v.problems(); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	snaps, err := List(t.Context(), v.r, Filter{})
	must(t, err)
	if len(snaps) != 2 {
		t.Fatalf("%d snapshots", len(snaps))
	}
	i := slices.IndexFunc(snaps, func(s *Snapshot) bool { return s.Ref.ID != whole.Snapshot.Ref.ID })
	mended := snaps[i]
	if mended.Complete || mended.Parent != hurt.Snapshot.Ref.ID || !slices.Equal(mended.CurrentTags(), []string{"release", MendedTag}) ||
		mended.Errors != p.Snapshots[0].Files || mended.Files != hurt.Snapshot.Files-mended.Errors || !mended.Time.Equal(hurt.Snapshot.Time) {
		t.Errorf("mended: %+v", mended.Manifest)
	}
	if _, err := Lookup(t.Context(), v.r, mended, "homes/small/kept"); err != nil {
		t.Error(err)
	}
	if n, err := Lookup(t.Context(), v.r, mended, "homes/dir"); err != nil || n.Flags&FlagPartial == 0 {
		t.Errorf("the folder is not marked: %+v, %v", n, err)
	}
	forgotten, err := v.r.Forgotten(t.Context())
	must(t, err)
	if len(forgotten) != 1 || forgotten[0].ID != hurt.Snapshot.Ref.ID {
		t.Errorf("forgotten: %v", forgotten)
	}
	if p, err = PlanMend(t.Context(), v.r); err != nil || len(p.Snapshots) != 0 || p.Whole != 2 {
		t.Errorf("again: %+v, %v", p, err)
	}
}

// A folder whose pages are lost stays, marked and without them; a manifest that cannot be read is put aside.
func TestMendFoldersAndManifests(t *testing.T) {
	v := newUncheckedVault(t)
	v.write("a/b/c", "text")
	v.settle()
	v.backup()
	v.harm(v.objects("tree")[0], "delete")
	v.write("a/d", "more")
	v.settle()
	v.reopen()
	v.giveUp()
	v.backup()
	manifests := v.objects("snapshots/")
	v.harm(manifests[1], "flip")
	v.reopen()
	p, err := PlanMend(t.Context(), v.r)
	must(t, err)
	if len(p.Snapshots) != 2 || p.Snapshots[0].Folders == 0 || p.Snapshots[1].Snapshot != nil {
		t.Fatalf("%+v", p.Snapshots)
	}
	must(t, p.Mend(t.Context()))
	v.reopen()
	for _, left := range v.problems() {
		if !strings.HasPrefix(left.Object, "forgotten/") { // until a prune removes it
			t.Errorf("left: %v", left)
		}
	}
}

// A heal was killed when it had put a manifest aside that cannot be read, or when it had stored it anew: the next one goes on
// from there, and leaves nothing.
func TestHealGoesOn(t *testing.T) {
	for _, stored := range []bool{false, true} {
		m := newMirror(t)
		m.vault = newUncheckedVault(t)
		snaps := m.nights(2)
		m.copy()
		name := m.objects("snapshots/")[0]
		whole, err := m.st.Get(t.Context(), name, 0, -1, nil)
		must(t, err)
		m.harm(name, "flip")
		m.reopen()
		refs, err := m.r.Snapshots(t.Context())
		must(t, err)
		for _, ref := range refs {
			if strings.Contains(name, ref.ID.String()) {
				must(t, m.r.PutAside(t.Context(), ref))
			}
		}
		if stored {
			_, err = m.st.Put(t.Context(), name, whole)
			must(t, err)
		}
		m.reopen()
		if aside, err := m.r.Aside(t.Context()); err != nil || len(aside) != 1 {
			t.Fatalf("put aside: %v, %v", aside, err)
		}
		p, err := PlanHeal(t.Context(), m.r, m.other.r)
		must(t, err)
		_, err = p.Heal(t.Context(), CopyOptions{})
		must(t, err)
		m.reopen()
		if left := m.problems(); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
		if forgotten := m.objects("forgotten/"); len(forgotten) > 0 {
			t.Errorf("left: %v", forgotten)
		}
		if again, err := m.r.Snapshots(t.Context()); err != nil || len(again) != len(snaps) {
			t.Errorf("%d snapshots, %v", len(again), err)
		}
	}
}
