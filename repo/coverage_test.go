package repo

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/whole-tale/wtsnap/index"
	"github.com/whole-tale/wtsnap/repo/storage"
	"github.com/whole-tale/wtsnap/repo/storage/storagetest"
)

const day = 24 * time.Hour

// A simulation of many nights: packs come, are rewritten and go; two machines check in turn, some nights are missed. No
// pack is ever there for much longer than the time without being read, and no run reads more than the budget.
func TestCoverageOverNights(t *testing.T) {
	const within, nights, mib = 30 * day, 200, int64(1 << 20)
	for _, c := range []struct {
		name       string
		budget     int64
		times      bool // the backend tells when a pack was stored
		missed     int  // nights of ten
		tooSmall   bool
		worstExtra time.Duration
	}{
		{"no budget", 0, true, 0, false, 2 * day},
		{"no budget, no times", 0, false, 0, false, 2 * day},
		{"missed nights", 0, true, 4, false, 6 * day},
		{"a budget that suffices", 1000 * mib, true, 0, false, 2 * day},
		{"a budget that is too small", 100 * mib, true, 0, true, 1000 * day},
	} {
		t.Run(c.name, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(1, 2))
			now := time.Date(2026, 1, 1, 3, 0, 0, 0, time.UTC)
			var all []readCandidate
			born := map[index.PackRef]time.Time{}
			add := func() {
				p := readCandidate{ref: index.PackRef(len(born)), size: 8*mib + rng.Int64N(8*mib), stored: now}
				for i := range p.id {
					p.id[i] = byte(rng.Uint32())
				}
				if !c.times {
					p.stored = time.Time{}
				}
				born[p.ref] = now
				all = append(all, p)
			}
			for range 1000 {
				add()
			}
			reads := packReads{last: map[packKey]time.Time{}}
			read := map[index.PackRef]time.Time{}
			var worst time.Duration
			small, most := 0, int64(0)
			for night := range nights {
				now = now.Add(day)
				for range 5 {
					add()
				}
				if night%20 == 10 { // a prune rewrites some
					for range 50 {
						i := rng.IntN(len(all))
						all = slices.Delete(all, i, i+1)
						add()
					}
				}
				if rng.IntN(10) < c.missed {
					continue
				}
				var sum int64
				var ids []index.PackID
				for _, ref := range reads.choose(all, within, c.budget, now) {
					i := slices.IndexFunc(all, func(p readCandidate) bool { return p.ref == ref })
					sum += all[i].size
					ids = append(ids, all[i].id)
					read[ref] = now
				}
				most = max(most, sum)
				if len(ids) == 0 {
					t.Fatal("a run reads nothing")
				}
				if c.budget > 0 && sum > c.budget {
					t.Fatalf("night %d: %d bytes, the budget is %d", night, sum, c.budget)
				}
				reads.note(ids, true, now)
				cov := reads.coverage(all, within, c.budget, now)
				if cov.All.Packs != len(all) || cov.Read.Packs+cov.New.Packs+cov.Overdue.Packs != len(all) {
					t.Fatalf("night %d: %+v", night, cov)
				}
				if cov.TooSmall {
					small++
				}
				if night == 0 && !c.tooSmall && c.missed == 0 && (cov.Full.Before(now.Add(within-2*day)) || cov.Full.After(now.Add(within+2*day))) {
					t.Errorf("everything is promised for %s, it is %s", cov.Full, now)
				}
				if night == nights-1 && !c.tooSmall && c.missed == 0 && (cov.Share() < 0.8 || cov.Overdue.Packs > 0 || !cov.Full.IsZero()) {
					t.Errorf("at the end: %+v", cov)
				}
				for _, p := range all {
					since, ok := read[p.ref]
					if !ok {
						since = born[p.ref]
					}
					worst = max(worst, now.Sub(since))
				}
			}
			t.Logf("at most %d MiB a night; a pack waited %.1f days at most; %d warnings", most/mib, worst.Hours()/24, small)
			if worst > within+c.worstExtra {
				t.Errorf("a pack was not read for %.1f days", worst.Hours()/24)
			}
			if c.tooSmall != (small > nights/2) {
				t.Errorf("%d warnings", small)
			}
		})
	}
}

// A check of the real thing: what is read is recorded, another machine goes on, a repack makes packs new, damage is never
// recorded as read, and the ledger stays small.
func TestCheckWithin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := newRepo(t)
		var refs []SnapshotRef
		for n := range 12 {
			refs = append(refs, tr.backup(content{words(fmt.Sprint("a", n), "b", "c")}))
		}
		packs := len(list(t, tr.mem, packsDir))
		run := func(r *Repository) *CheckReport {
			time.Sleep(day)
			rep := must[*CheckReport](t)(r.Check(t.Context(), CheckOptions{References: references(r), Within: 10 * day, Record: true}))
			must0(t, rep.Unrecorded)
			return rep
		}
		var first *CheckReport
		read := 0
		for n := range 10 {
			rep := run(tr.open(tr.st))
			read += rep.PacksRead
			if n == 0 {
				first = rep
			}
			if rep.PacksRead == 0 || rep.PacksRead == packs {
				t.Errorf("run %d reads %d of %d packs", n, rep.PacksRead, packs)
			}
		}
		if first.Coverage.Full.IsZero() || first.Coverage.Share() > 0.5 {
			t.Errorf("after the first run: %+v", first.Coverage)
		}
		last, covering := must2(tr.open(tr.mem).LastCheck(t.Context()))
		if last == nil || covering != last || last.Coverage.Share() != 1 || last.Coverage.Read.Packs != packs || last.Coverage.Oldest.IsZero() {
			t.Errorf("after ten runs, %d packs read: %+v", read, last)
		}
		// A prune rewrites packs: they are new.
		forget(t, tr.open(tr.st), refs[:6]...)
		tr.prune(PruneOptions{Grace: MinGrace, MaxUnused: 0})
		rep := run(tr.open(tr.st))
		if rep.Coverage.New.Packs == 0 {
			t.Errorf("after a repack: %+v", rep.Coverage)
		}
		for range 60 {
			rep = run(tr.open(tr.st))
		}
		if rep.Coverage.Overdue.Packs > 0 || rep.Coverage.Share() != 1 {
			t.Errorf("in the end: %+v", rep.Coverage)
		}
		if n := len(list(t, tr.mem, ledgerDir)); n > ledgerObjects+1 {
			t.Errorf("%d objects in the ledger", n)
		}
		// A damaged pack is found when it is its turn, and stays the next one to be read.
		tr.expect(DamageHash, DamageBlobGone, DamageOpen, DamageDecode, DamageTree)
		r := tr.open(tr.mem)
		must0(t, r.LoadIndex(t.Context()))
		for _, info := range r.Index().Packs() {
			if !info.Condemned {
				damageObject(t, tr.mem, packName(info.ID), "flip")
				break
			}
		}
		found := 0
		for range 20 {
			if rep = run(tr.open(hashless{tr.st})); len(rep.Problems) > 0 {
				found++
			}
		}
		if found < 5 || rep.Coverage.Overdue.Packs != 1 {
			t.Errorf("found %d times, then %+v", found, rep.Coverage)
		}
	})
}

// hashless does not tell hashes, as a folder does not.
type hashless struct{ storage.Storage }

func (s hashless) List(ctx context.Context, prefix string, fn func(storage.Info) error) error {
	return s.Storage.List(ctx, prefix, func(i storage.Info) error { i.Hash = ""; return fn(i) })
}

func must2[A, B any](a A, b B, err error) (A, B) {
	if err != nil {
		panic(err)
	}
	return a, b
}

// What an interrupted check has read counts; where nothing can be recorded, that is told.
func TestCheckIsRecordedOrNot(t *testing.T) {
	tr := newRepo(t)
	for n := range 8 {
		tr.backup(content{words(fmt.Sprint("a", n))})
	}
	ctx, cancel := context.WithCancel(t.Context())
	r := tr.open(tr.st)
	_, err := r.Check(ctx, CheckOptions{References: references(r), ReadShare: 1, Record: true, Workers: 1,
		OnPack: func(done, _ int, _ int64) {
			if done == 3 {
				cancel()
			}
		}})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("interrupted: %v", err)
	}
	last, covering := must2(r.LastCheck(t.Context()))
	if last == nil || len(last.Packs) != 3*packPrefix || covering != nil {
		t.Errorf("recorded: %+v", last)
	}
	fault := storagetest.NewFault(tr.mem).Only(func(op storagetest.Op) bool { return op.Kind == storagetest.Put }).At(0, storagetest.NotDone)
	r = tr.open(fault)
	rep := must[*CheckReport](t)(r.Check(t.Context(), CheckOptions{References: references(r), Within: day, Record: true}))
	if !errors.Is(rep.Unrecorded, storagetest.ErrFault) || rep.Coverage == nil {
		t.Errorf("%v, %+v", rep.Unrecorded, rep.Coverage)
	}
	// A plain check writes nothing.
	before := must[map[string][]byte](t)(storagetest.Content(tr.mem))
	r = tr.open(tr.st)
	must[*CheckReport](t)(r.Check(t.Context(), CheckOptions{References: references(r), Record: true}))
	if after := must[map[string][]byte](t)(storagetest.Content(tr.mem)); len(after) != len(before) {
		t.Error("a check that reads no data has stored something")
	}
}

// Records from a clock that is wrong, and from a newer version, do not exempt anything.
func TestCheckRecordsThatTellNothing(t *testing.T) {
	now := time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	id := index.PackID{7}
	rec := func(version int, at time.Time) LedgerRecord {
		return LedgerRecord{ID: [16]byte{byte(version), byte(at.Year() - 2000)}, Time: at,
			Data: fmt.Appendf(nil, `{"version":%d,"packs":"BwAAAAAAAAAAAAAAAAAAAA==","bytes":1,"problems":0,"more":1}`, version)}
	}
	for _, c := range []struct {
		name    string
		records []LedgerRecord
		read    bool
	}{
		{"none", nil, false},
		{"good", []LedgerRecord{rec(1, now.Add(-day))}, true},
		{"newer version", []LedgerRecord{rec(2, now.Add(-day))}, false},
		{"future", []LedgerRecord{rec(1, now.AddDate(3, 0, 0))}, false},
		{"garbage", []LedgerRecord{{Data: []byte("{")}, {Data: []byte(`{"version":1,"packs":"Bw=="}`), Time: now.Add(-day)}}, false},
	} {
		reads := readsOf(c.records)
		if _, read := reads.since(&readCandidate{id: id}, now); read != c.read {
			t.Errorf("%s: read %v", c.name, read)
		}
		if chosen := reads.choose([]readCandidate{{id: id, size: 1}}, 30*day, 0, now); len(chosen) != 1 {
			t.Errorf("%s: nothing is chosen", c.name)
		}
		cov := reads.coverage([]readCandidate{{id: id, size: 1}}, 30*day, 0, now)
		if cov.All.Packs != 1 || c.read != (cov.Read.Packs == 1) {
			t.Errorf("%s: %+v", c.name, cov)
		}
	}
}
