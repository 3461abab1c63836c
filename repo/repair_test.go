package repo

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

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
