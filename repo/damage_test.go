package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/index"
	"github.com/whole-tale/wtsnap/repo/storage"
	"github.com/whole-tale/wtsnap/repo/storage/mem"
	"github.com/whole-tale/wtsnap/repo/storage/storagetest"
)

// damaged is a repository of which one object is damaged.
type damaged struct {
	t    *testing.T
	fx   *fixture
	tr   *testRepo
	kind string // of the object
	name string
	how  string
}

// damageOp is what is tried on a damaged repository. It returns the error that the caller sees; what it
// reads without an error it compares.
type damageOp struct {
	name string
	run  func(ctx context.Context, d *damaged, r *Repository) error
}

func damageOps() []damageOp {
	return []damageOp{
		{"Open", func(ctx context.Context, d *damaged, _ *Repository) error {
			_, err := Open(ctx, d.tr.mem, OpenOptions{Password: d.tr.pass})
			return err
		}},
		{"LoadIndex", func(ctx context.Context, d *damaged, r *Repository) error { return r.LoadIndex(ctx) }},
		{"Manifest", func(ctx context.Context, d *damaged, r *Repository) error {
			var errs []error
			for ref := range d.fx.must {
				_, err := r.Manifest(ctx, ref)
				errs = append(errs, err)
			}
			return errors.Join(errs...)
		}},
		{"ReadBlobs", func(ctx context.Context, d *damaged, r *Repository) error { // and Blob
			var errs []error
			for ref, c := range d.fx.must {
				errs = append(errs, holds(ctx, r, ref, c))
			}
			return errors.Join(errs...)
		}},
		{"Annotations", func(ctx context.Context, d *damaged, r *Repository) error {
			notes, err := r.Annotations(ctx)
			for id, list := range notes {
				for _, n := range list {
					if n.Damage != nil { // it is told, and stops nothing
						err = errors.Join(err, n.Damage)
						continue
					}
					if id == d.fx.forgotten.ID && string(n.Data) != "note" {
						err = errors.Join(err, fmt.Errorf("a wrong note: %q", n.Data))
					}
				}
			}
			return err
		}},
		{"Ledger", func(ctx context.Context, d *damaged, r *Repository) error {
			records, err := r.Ledger(ctx, LedgerCheck)
			for _, rec := range records {
				if string(rec.Data) != "a record" {
					err = errors.Join(err, fmt.Errorf("a wrong record: %q", rec.Data))
				}
			}
			return err
		}},
		{"PlanPrune", func(ctx context.Context, d *damaged, r *Repository) error {
			_, _, err := prune(ctx, r, PruneOptions{Grace: MinGrace})
			return err
		}},
		{"Backup", func(ctx context.Context, d *damaged, r *Repository) error {
			ref, err := backup(ctx, r, newContent)
			if err != nil {
				return err
			}
			// What it relies on may be what is damaged; what it stored is not.
			if d.kind != "data pack" && d.kind != "tree pack" {
				return holds(ctx, reopen(r, d.tr.mem), ref, newContent)
			}
			return nil
		}},
		{"Undelete", func(ctx context.Context, d *damaged, r *Repository) error {
			return r.Undelete(ctx, []SnapshotRef{d.fx.forgotten})
		}},
		{"Keys", func(ctx context.Context, d *damaged, r *Repository) error {
			_, err := r.Keys(ctx)
			return err
		}},
		{"RepairIndex", func(ctx context.Context, d *damaged, r *Repository) error {
			_, err := r.RepairIndex(ctx, false)
			return err
		}},
	}
}

// blocked says what each kind of damaged object stops. Everything else must succeed: above all, no backup
// is stopped by what it does not need. What is here may fail, and "!" must.
var blocked = map[string]map[string]string{
	"config":        {"Open": "!"},
	"key":           {"Open": "", "Keys": ""},
	"other key":     {"Keys": "", "Open": "swap"},
	"data pack":     {"ReadBlobs": "", "PlanPrune": "", "RepairIndex": ""},
	"tree pack":     {"ReadBlobs": "", "PlanPrune": "", "RepairIndex": ""},
	"index segment": {"LoadIndex": "!", "ReadBlobs": "!", "PlanPrune": "!", "Backup": "!"},
	"manifest":      {"Manifest": "!", "ReadBlobs": "!", "PlanPrune": "!"},
	"forgotten":     {"Undelete": "!"},
	"annotation":    {"Annotations": "!"},
	"condemned":     {},
	"ledger":        {"Ledger": "!"},
	"lease":         {"PlanPrune": "", "Undelete": "", "RepairIndex": ""},
}

// damagedFixture adds what newFixture lacks, and chooses the objects to damage: two of each kind, to be
// swapped for each other, of which the first is damaged.
func damagedFixture(t *testing.T) (*fixture, map[string][2]string) {
	fx := newFixture(t)
	objects := map[string][2]string{}
	synctest.Test(t, func(t *testing.T) {
		tr := fx.tr.at(t, fx.base)
		ctx := t.Context()
		time.Sleep(2 * time.Hour)
		r := tr.open(tr.st)
		info := must[KeyInfo](t)(r.AddKey(ctx, must[[]byte](t)(NewKeyFile()), KDFParams{}, "second"))
		objects["config"] = [2]string{configName}
		objects["key"] = [2]string{keysDir + tr.r.key.ID, keysDir + info.ID}
		objects["other key"] = [2]string{keysDir + info.ID, keysDir + tr.r.key.ID}
		must0(t, r.LoadIndex(ctx))
		used := map[index.PackID]bool{} // packs that a snapshot needs
		var seg []string
		for ref := range fx.must {
			manifest := must[[]byte](t)(r.Manifest(ctx, ref))
			c := must[content](t)(readContent(ctx, r, manifest))
			for _, b := range c.blobs() {
				loc, _ := r.Index().Lookup(index.KeyOf(r.Hasher().Sum(b)))
				used[loc.PackID] = true
				if len(r.Index().Lookups(index.KeyOf(r.Hasher().Sum(b)))) == 1 { // the only copy
					seg = append(seg, segmentName(r.Index().Pack(loc.Pack).Segments[0]))
				}
			}
			trees, _ := decodeIDs(manifestMagic, manifest)
			for _, id := range trees {
				loc, _ := r.Index().Lookup(index.KeyOf(id))
				used[loc.PackID] = true
			}
		}
		var data, trees []string
		for id := range used {
			ref, _ := r.Index().FindPack(id)
			if r.Index().Pack(ref).Kind == index.Data {
				data = append(data, packName(id))
			} else {
				trees = append(trees, packName(id))
			}
		}
		pair := func(names []string) [2]string {
			slices.Sort(names)
			names = slices.Compact(names)
			if len(names) < 2 {
				t.Fatalf("too few objects: %q", names)
			}
			return [2]string{names[0], names[1]}
		}
		objects["data pack"], objects["tree pack"], objects["index segment"] = pair(data), pair(trees), pair(seg)
		var manifests []string
		for ref := range fx.must {
			manifests = append(manifests, ref.Name())
		}
		objects["manifest"] = pair(manifests)
		forget(t, r, fx.victim)
		objects["forgotten"] = [2]string{fx.forgotten.forgottenName(), fx.victim.forgottenName()}
		must0(t, r.Annotate(ctx, fx.forgotten.ID, []byte("note")))
		objects["annotation"] = pair(list(t, tr.mem, annotationsDir))
		for range 2 {
			must0(t, r.AppendLedger(ctx, LedgerCheck, []byte("a record")))
		}
		objects["ledger"] = pair(list(t, tr.mem, ledgerDir))
		condemnByHand(t, tr, index.PackID{1})
		objects["condemned"] = pair(list(t, tr.mem, condemnedDir))
		for range 2 {
			w := tr.begin(tr.st)
			w.s.lease.stop()
		}
		objects["lease"] = pair(list(t, tr.mem, leasesDir))
	})
	return fx, objects
}

var damages = []string{"truncate", "truncate to a byte", "delete", "flip", "flip first", "flip last", "zero", "grow", "swap"}

// undetectable says which damage leaves no trace but an older state.
func undetectable(kind, how string) bool {
	return how == "delete" && slices.Contains([]string{"key", "other key", "manifest", "forgotten", "annotation", "condemned", "lease", "ledger"}, kind)
}

func TestDamageTable(t *testing.T) {
	fx, objects := damagedFixture(t)
	tried := 0
	for _, kind := range slices.Sorted(maps.Keys(objects)) {
		for _, how := range damages {
			if how == "swap" && objects[kind][1] == "" {
				continue
			}
			t.Run(kind+"/"+how, func(t *testing.T) {
				for _, op := range damageOps() {
					tried++
					synctest.Test(t, func(t *testing.T) { fx.tryDamaged(t, kind, objects[kind], how, op) })
				}
				tried++
				synctest.Test(t, func(t *testing.T) { fx.checkDamaged(t, kind, objects[kind], how) })
			})
		}
	}
	t.Logf("%d combinations of object, damage and operation", tried)
}

// harm damages an object in a copy of the fixture, and returns the copy and how to undo it.
func (fx *fixture) harm(t *testing.T, kind string, names [2]string, how string) (d *damaged, heal func()) {
	ctx := context.Background()
	m := fx.base.Clone()
	tr := fx.tr.bare(t, m)
	time.Sleep(4 * time.Hour)
	first := must[[]byte](t)(m.Get(ctx, names[0], 0, -1, nil))
	put := func(name string, data []byte) { must[storage.Info](t)(m.Put(ctx, name, data)) }
	if how == "swap" {
		second := must[[]byte](t)(m.Get(ctx, names[1], 0, -1, nil))
		if bytes.Equal(first, second) {
			t.Fatal("the swap changes nothing")
		}
		put(names[0], second)
		put(names[1], first)
		heal = func() { put(names[0], first); put(names[1], second) }
	} else {
		damageObject(t, m, names[0], how)
		heal = func() { put(names[0], first) }
	}
	return &damaged{t, fx, tr, kind, names[0], how}, heal
}

func (fx *fixture) tryDamaged(t *testing.T, kind string, names [2]string, how string, op damageOp) {
	d, heal := fx.harm(t, kind, names, how)
	before := must[map[string][]byte](t)(storagetest.Content(d.tr.mem))
	r := d.tr.open(d.tr.mem)
	err := op.run(t.Context(), d, r)
	policy, mayFail := blocked[kind][op.name]
	if policy == "swap" {
		mayFail = how == policy
	}
	switch {
	case err == nil && policy == "!" && !undetectable(kind, how) && !(kind == "forgotten" && how == "delete") && !(kind == "index segment" && how == "delete"):
		t.Errorf("%s succeeded", op.name)
	case err == nil:
	case !mayFail && !(how == "delete" && kind == "forgotten" && op.name == "Undelete"):
		t.Errorf("%s is stopped: %v", op.name, err)
	case !classified(err):
		t.Errorf("%s: the error says nothing about the kind: %v", op.name, err)
	case isDamage(err) && !strings.Contains(err.Error(), names[0]) && how != "delete" && !strings.Contains(err.Error(), names[1]) && op.name != "PlanPrune":
		t.Errorf("%s: the error does not name %s: %v", op.name, names[0], err)
	}
	// Nothing that was there is gone but what prune may remove, and with the object as it was all is whole.
	if op.name == "Open" || op.name == "Undelete" && err != nil {
		return
	}
	after := must[map[string][]byte](t)(storagetest.Content(d.tr.mem))
	for name := range before {
		if _, ok := after[name]; !ok && op.name == "PlanPrune" && err != nil && !strings.HasPrefix(name, leasesDir) {
			t.Errorf("a prune that failed removed %s: %v", name, err)
		}
	}
	if kind == "lease" || kind == "condemned" { // these do not come back
		heal = func() {}
	}
	heal()
	for ref, c := range fx.must {
		if err := holds(t.Context(), d.tr.open(d.tr.mem), ref, c); err != nil {
			t.Errorf("%s made it worse: snapshot %s: %v", op.name, ref.ID.Short(), err)
		}
	}
}

// classified reports whether the front end can tell what is wrong.
func classified(err error) bool {
	if j, ok := err.(interface{ Unwrap() []error }); ok {
		return !slices.ContainsFunc(j.Unwrap(), func(err error) bool { return !classified(err) })
	}
	var f *FormatError
	return isDamage(err) || errors.As(err, &f) || errors.Is(err, ErrNoRepository) || errors.Is(err, ErrWrongPassword) ||
		errors.Is(err, ErrBusy) || errors.Is(err, ErrSwept) || errors.Is(err, storage.ErrNotExist)
}

// checkDamaged wants check to name what is damaged.
func (fx *fixture) checkDamaged(t *testing.T, kind string, names [2]string, how string) {
	d, heal := fx.harm(t, kind, names, how)
	rep := checkAll(t, d.tr.open(d.tr.mem))
	if len(rep.Problems) == 0 && !undetectable(kind, how) {
		t.Errorf("check sees nothing")
	}
	named := slices.ContainsFunc(rep.Problems, func(p Problem) bool {
		return strings.Contains(p.Object+p.Detail, names[0])
	})
	if !named && len(rep.Problems) > 0 && !(kind == "index segment" && how == "delete") {
		t.Errorf("check does not name %s: %+v", names[0], rep.Problems)
	}
	for _, p := range rep.Problems {
		if p.Kind == "" || p.Object == "" || p.Detail == "" || p.Hint == "" {
			t.Errorf("an empty field: %+v", p)
		}
	}
	heal()
	if rep := checkAll(t, d.tr.open(d.tr.mem)); len(rep.Problems) > 0 {
		t.Errorf("check still has problems after healing: %+v", rep.Problems)
	}
}

// After a damaged index is repaired everything is there again.
func TestRepairDamagedIndex(t *testing.T) {
	fx, _ := damagedFixture(t)
	for _, how := range []string{"truncate", "delete", "flip", "zero"} {
		synctest.Test(t, func(t *testing.T) {
			tr := fx.tr.at(t, fx.base.Clone())
			time.Sleep(4 * time.Hour)
			for _, name := range list(t, tr.mem, indexDir) {
				damageObject(t, tr.mem, name, how)
			}
			dry := must[*IndexRepair](t)(tr.open(tr.st).RepairIndex(t.Context(), true))
			if err := tr.open(tr.mem).LoadIndex(t.Context()); err == nil && how != "delete" {
				t.Errorf("%s: a dry run repaired something", how)
			}
			rep := must[*IndexRepair](t)(tr.open(tr.st).RepairIndex(t.Context(), false))
			if rep.Unlisted != dry.Unlisted || rep.Unlisted.Packs != len(list(t, tr.mem, packsDir)) || len(rep.Unreadable) != 0 {
				t.Errorf("%s: %+v, dry run %+v", how, rep, dry)
			}
			fx.harmless(t, tr, how)
		})
	}
}

// A pack that is damaged and another one that holds the same blob: everything can be read.
func TestOtherCopyIsRead(t *testing.T) {
	tr := newRepo(t)
	shared := words("shared", "too")
	a, b := tr.begin(tr.st), tr.begin(tr.st)
	ra := a.commit(a.put(shared))
	b.commit(b.put(shared))
	a.close()
	b.close()
	packs := list(t, tr.mem, packsDir)
	if len(packs) != 4 {
		t.Fatalf("%d packs", len(packs))
	}
	tr.expect(DamageHash, DamageMissing, DamageSize)
	for _, how := range []string{"flip", "delete", "truncate"} {
		for _, name := range packs {
			m := tr.mem.Clone()
			damageObject(t, m, name, how)
			if err := holds(t.Context(), tr.open(m), ra, content{shared}); err != nil {
				t.Errorf("%s %s: %v", how, name, err)
			}
		}
	}
}

// A delta that no snapshot needs any more, and whose base was lost and given up, is waste and no damage.
func TestWasteOnALostBase(t *testing.T) {
	for _, how := range []string{"delete", "flip"} {
		t.Run(how, func(t *testing.T) { wasteOnALostBase(t, how) })
	}
}

func wasteOnALostBase(t *testing.T, how string) {
	tr := newRepo(t)
	old := content{{word("base", 60_000)}}
	first := tr.backup(old)
	edited := bytes.Clone(old[0][0])
	copy(edited[100:], "a small change")
	w := tr.begin(tr.st)
	id, _, err := w.w.PutDelta(t.Context(), index.Data, edited, []chunk.ID{tr.r.Hasher().Sum(old[0][0])})
	must0(t, err)
	tree, _, err := w.w.Put(t.Context(), index.Tree, encodeIDs(treeMagic, []chunk.ID{id}))
	must0(t, err)
	second := w.commit(tree)
	w.close()
	r := tr.open(tr.mem)
	must0(t, r.LoadIndex(t.Context()))
	loc, _ := r.Index().Lookup(index.KeyOf(tr.r.Hasher().Sum(old[0][0])))
	damageObject(t, tr.mem, packName(loc.PackID), how)
	if rep := checkAll(t, tr.open(tr.mem)); len(rep.Problems) < 3 { // the pack, and what both snapshots have lost
		t.Errorf("a damaged pack: %+v", rep.Problems)
	}
	must[*PackRepair](t)(r.RepairPacks(t.Context(), []index.PackID{loc.PackID}, false))
	if rep := checkAll(t, tr.open(tr.mem)); len(rep.Problems) != 2 {
		t.Errorf("two snapshots need what was given up: %+v", rep.Problems)
	}
	healed := tr.backup(content{{edited}})
	forget(t, tr.open(tr.mem), first, second)
	defer func() { // the copy that is whole stays
		_, _, err := prune(t.Context(), tr.open(tr.mem), PruneOptions{})
		must0(t, err)
		mustHold(t, tr.open(tr.mem), healed, content{{edited}})
	}()
	if rep := checkAll(t, tr.open(tr.mem)); len(rep.Problems) != 0 {
		t.Errorf("nothing needs the delta: %+v", rep.Problems)
	}
}

// Where a blob lies in a pack that is gone and in another one, prune keeps the other one, whether or not anybody has given
// the first one up.
func TestPruneKeepsTheCopyThatIsThere(t *testing.T) {
	tr := newRepo(t)
	shared := words("shared")
	a, b := tr.begin(tr.st), tr.begin(tr.st)
	ref := a.commit(a.put(shared))
	b.commit(b.put(shared))
	a.close()
	b.close()
	packs := list(t, tr.mem, packsDir)
	if len(packs) != 4 {
		t.Fatalf("%d packs", len(packs))
	}
	tr.expect(DamageMissing)
	for _, gone := range packs {
		for _, how := range []string{"delete", "truncate"} {
			m := tr.mem.Clone()
			damageObject(t, m, gone, how)
			_, _, err := prune(t.Context(), tr.open(m), PruneOptions{})
			must0(t, err)
			if err := holds(t.Context(), tr.open(m), ref, content{shared}); err != nil {
				t.Errorf("%s %s: %v", how, gone, err)
			}
		}
	}
}

// Objects of another repository, under names of their own, do not open.
func TestObjectsOfAnotherRepository(t *testing.T) {
	tr, other := newRepo(t), newRepo(t)
	ref := tr.backup(content{words("a")})
	theirs := other.backup(content{words("b")})
	m := tr.mem.Clone()
	for _, name := range list(t, other.mem, "") {
		if name != configName {
			_, err := m.Put(t.Context(), name, must[[]byte](t)(other.mem.Get(t.Context(), name, 0, -1, nil)))
			must0(t, err)
		}
	}
	r, err := Open(t.Context(), m, OpenOptions{Password: tr.pass})
	must0(t, err)
	if _, err := r.Manifest(t.Context(), theirs); !isDamage(err, DamageOpen) {
		t.Errorf("another repository's manifest: %v", err)
	}
	if err := r.LoadIndex(t.Context()); !isDamage(err, DamageOpen) {
		t.Errorf("another repository's index: %v", err)
	}
	if _, err := r.Manifest(t.Context(), ref); err != nil {
		t.Error(err)
	}
	var none *mem.Storage = m
	rep := checkAll(t, tr.open(none))
	if len(rep.Problems) < 2 {
		t.Errorf("problems: %+v", rep.Problems)
	}
}
