package repo

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/index"
)

// A damaged pack that was given up is healed by the next backup of the same data, whether prunes come
// before that or not.
func TestRepairPacksHeals(t *testing.T) {
	for _, how := range []string{"delete", "truncate", "flip"} {
		for _, prunes := range []int{0, 1, 3} {
			synctest.Test(t, func(t *testing.T) {
				tr := newRepo(t)
				c := content{{noise(1, 300_000), noise(2, 300_000), word("small", 100)}, words("other")}
				ref := tr.backup(c)
				other := tr.backup(content{words("other")})
				r := tr.open(tr.st)
				must0(t, r.LoadIndex(t.Context()))
				loc, _ := r.Index().Lookup(index.KeyOf(r.Hasher().Sum(c[0][0])))
				damageObject(t, tr.mem, packName(loc.PackID), how)
				var ids []index.PackID
				if how == "flip" { // only reading it tells
					ids = append(ids, loc.PackID)
				}
				rep := must[*PackRepair](t)(tr.open(tr.st).RepairPacks(t.Context(), ids, false))
				if len(rep.Packs) != 1 || rep.Packs[0] != loc.PackID || rep.Lost == 0 || how == "flip" && rep.Saved == 0 {
					t.Errorf("%s: %+v", how, rep)
				}
				for range prunes {
					time.Sleep(DefaultGrace)
					tr.prune(PruneOptions{Grace: MinGrace})
				}
				tr.backup(c)
				mustHold(t, tr.open(tr.mem), ref, c)
				mustHold(t, tr.open(tr.mem), other, content{words("other")})
				for range 3 {
					time.Sleep(DefaultGrace)
					tr.prune(PruneOptions{Grace: MinGrace})
				}
				rest := checkAll(t, tr.open(tr.mem))
				if len(rest.Problems) != 0 || rest.Condemned.Packs != 0 || len(list(t, tr.mem, condemnedDir)) != 0 {
					t.Errorf("%s, %d prunes: left: %+v", how, prunes, rest)
				}
				mustHold(t, tr.open(tr.mem), ref, c)
			})
		}
	}
}

// A prune has written a pack anew, and condemned the old one, when the new one is damaged. The old one has all that is
// needed: no prune removes it, whether the new pack is given up or not.
func TestDamagedAfterRepack(t *testing.T) {
	for _, how := range []string{"delete", "truncate", "flip"} {
		for _, repair := range []bool{true, false} {
			if how == "flip" && !repair {
				continue // a prune does not read what it keeps
			}
			play := func(t *testing.T) {
				tr := newRepo(t)
				kept := content{{noise(1, 300_000), word("small", 100)}}
				waste := tr.backup(content{{noise(1, 300_000), noise(2, 300_000), word("small", 100), word("waste", 3000)}})
				ref := tr.backup(kept)
				forget(t, tr.open(tr.st), waste)
				time.Sleep(time.Hour)
				if rep, _ := tr.prune(PruneOptions{Grace: DefaultGrace}); rep.Repacked.Packs == 0 {
					t.Fatal("nothing was written anew")
				}
				r := tr.open(tr.st)
				must0(t, r.LoadIndex(t.Context()))
				loc, _ := r.Index().Lookup(index.KeyOf(r.Hasher().Sum(kept[0][0])))
				damageObject(t, tr.mem, packName(loc.PackID), how)
				mustHold(t, tr.open(tr.mem), ref, kept)
				if repair {
					var ids []index.PackID
					if how == "flip" {
						ids = append(ids, loc.PackID)
					}
					rep := must[*PackRepair](t)(tr.open(tr.st).RepairPacks(t.Context(), ids, false))
					if len(rep.Packs) != 1 || rep.Lost != 0 || rep.Saved == 0 {
						t.Errorf("%+v", rep)
					}
				}
				for range 4 {
					time.Sleep(DefaultGrace + time.Hour)
					tr.prune(PruneOptions{Grace: DefaultGrace})
					mustHold(t, tr.open(tr.mem), ref, kept)
				}
				rest := checkAll(t, tr.open(tr.mem))
				if len(rest.Problems) != 0 || rest.Condemned.Packs != 0 {
					t.Errorf("left: %+v", rest)
				}
			}
			t.Run(fmt.Sprintf("%s, repaired: %v", how, repair), func(t *testing.T) { synctest.Test(t, play) })
		}
	}
}

// A page is stored as a delta on one whose pack is damaged and was given up. It counts as absent, and the backup stores it
// anew: not as a delta on itself, though this process, which has the lost page in its memory or its cache, can read it.
func TestNoDeltaOnItself(t *testing.T) {
	tr := newRepo(t)
	tr.expect(DamageBlobGone, DamageOpen)
	base, edited := word("base", 60_000), word("base", 60_000)
	copy(edited[100:], "a small change")
	tr.backup(content{{base}})
	id := tr.r.Hasher().Sum(edited)
	put := func(w *writer, on chunk.ID) SnapshotRef {
		_, _, err := w.w.PutDelta(t.Context(), index.Data, edited, []chunk.ID{on})
		must0(t, err)
		tree, _, err := w.w.Put(t.Context(), index.Tree, encodeIDs(treeMagic, []chunk.ID{id}))
		must0(t, err)
		defer w.close()
		return w.commit(tree)
	}
	put(tr.begin(tr.st), tr.r.Hasher().Sum(base))
	r := tr.open(tr.mem)
	must0(t, r.LoadIndex(t.Context()))
	loc, _ := r.Index().Lookup(index.KeyOf(id))
	if len(loc.Bases) == 0 {
		t.Fatal("it is no delta")
	}
	_ = must[[]byte](t)(r.nearby(t.Context(), r.Index(), loc, nil)) // it is in memory now, and what it rests on
	lost, _ := r.Index().Lookup(loc.Bases[0])
	damageObject(t, tr.mem, packName(lost.PackID), "flip")
	rep := must[*PackRepair](t)(tr.open(tr.mem).RepairPacks(t.Context(), []index.PackID{lost.PackID}, false))
	if rep.Lost != 1 {
		t.Fatalf("%+v", rep)
	}
	s := must[*Session](t)(r.Begin(t.Context(), SessionOptions{Level: chunk.LevelFastest}))
	ref := put(&writer{t, r, s, s.Writer()}, id)
	mustHold(t, tr.open(tr.mem), ref, content{{edited}})
}

// Deltas that rest on each other, each in many copies, and on nothing that is there, are found to be absent at once.
func TestDeltasInACircle(t *testing.T) {
	tr := newRepo(t)
	s := must[*Session](t)(tr.open(tr.mem).Begin(t.Context(), SessionOptions{}))
	defer func() { must0(t, s.Close(t.Context())) }()
	keys := []index.Key{{1}, {2}, {3}}
	for n := range byte(12) {
		var frames []index.Frame
		for i, key := range keys {
			frames = append(frames, index.Frame{Encoding: chunk.ZstdDelta, Offset: uint32(100 * i), Length: 100,
				Bases: []index.Key{keys[(i+int(n)+1)%3]}, Blobs: []index.Blob{{Key: key, Size: 1000}}})
		}
		_, err := s.index.AddPack(index.SegmentID{}, index.Pack{ID: index.PackID{n + 1}, Kind: index.Tree, Size: 1000, Frames: frames})
		must0(t, err)
	}
	for _, key := range keys {
		if s.useKey(key) {
			t.Errorf("%s is there", key)
		}
	}
}

// A snapshot that was healed and then forgotten can be brought back: what is among the forgotten ones by then is not what the
// repair had put aside.
func TestForgottenWhileItIsHealed(t *testing.T) {
	tr := newRepo(t)
	ref := tr.backup(content{words("a")})
	r := tr.open(tr.mem)
	manifest, err := r.Manifest(t.Context(), ref)
	must0(t, err)
	damageObject(t, tr.mem, ref.Name(), "flip")
	must0(t, r.PutAside(t.Context(), ref))
	if err := r.DropAside(t.Context(), ref); err == nil {
		t.Error("what was put aside is dropped although the manifest is not there again")
	}
	must0(t, r.writeObject(t.Context(), ref.Name(), manifest))
	forget(t, tr.open(tr.mem), ref)
	must0(t, r.DropAside(t.Context(), ref))
	must0(t, r.Undelete(t.Context(), []SnapshotRef{ref}))
	mustHold(t, tr.open(tr.mem), ref, content{words("a")})
	must0(t, r.DropAside(t.Context(), ref)) // nothing is there
}

// A forget that was killed leaves two copies of a manifest. If the first one is damaged then, the other one is not replaced by it.
func TestPutAsideBesideAGoodCopy(t *testing.T) {
	tr := newRepo(t)
	ref := tr.backup(content{words("a")})
	data, err := tr.mem.Get(t.Context(), ref.Name(), 0, -1, nil)
	must0(t, err)
	_, err = tr.mem.Put(t.Context(), ref.forgottenName(), data)
	must0(t, err)
	damageObject(t, tr.mem, ref.Name(), "flip")
	r := tr.open(tr.mem)
	must0(t, r.PutAside(t.Context(), ref))
	must0(t, r.Undelete(t.Context(), []SnapshotRef{ref}))
	mustHold(t, tr.open(tr.mem), ref, content{words("a")})
}
