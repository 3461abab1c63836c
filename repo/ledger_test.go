package repo

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/whole-tale/wtsnap/repo/storage"
	"github.com/whole-tale/wtsnap/repo/storage/storagetest"
)

func ledgerTexts(t testing.TB, r *Repository, kind LedgerKind) []string {
	t.Helper()
	var texts []string
	for _, rec := range must[[]LedgerRecord](t)(r.Ledger(context.Background(), kind)) {
		texts = append(texts, string(rec.Data))
	}
	return texts
}

// The bytes of docs/format.md.
func TestLedgerGolden(t *testing.T) {
	records := []LedgerRecord{{ID: [16]byte{1, 2}, Time: time.Unix(1, 2).UTC(), Data: []byte("first")}, {ID: [16]byte{3}, Time: time.Unix(0, -1).UTC(), Data: nil}}
	want := "01" + "01020000000000000000000000000000" + "02ca9a3b00000000" + "05" + hex.EncodeToString([]byte("first")) +
		"03000000000000000000000000000000" + "ffffffffffffffff" + "00"
	if got := hex.EncodeToString(encodeLedger(records)); got != want {
		t.Errorf("encoded:\n%s, want\n%s", got, want)
	}
	back := must[[]LedgerRecord](t)(decodeLedger("x", must[[]byte](t)(hex.DecodeString(want))))
	if len(back) != 2 || string(back[0].Data) != "first" || !back[0].Time.Equal(records[0].Time) || back[1].ID != records[1].ID {
		t.Errorf("decoded: %+v", back)
	}
}

func FuzzLedger(f *testing.F) {
	f.Add(encodeLedger([]LedgerRecord{{ID: [16]byte{9}, Time: time.Unix(1, 0), Data: []byte("text")}}))
	f.Add([]byte{1})
	f.Add(append(append([]byte{1}, make([]byte, 24)...), 0xff, 0xff, 0xff, 0xff, 0x0f))
	f.Fuzz(func(t *testing.T, data []byte) {
		records, err := decodeLedger("ledger/check/x", data)
		if err != nil {
			if !isFiled(err) {
				t.Errorf("error of no kind: %v", err)
			}
			return
		}
		again := encodeLedger(records)
		if len(again) > len(data) {
			t.Errorf("%d bytes of %d", len(again), len(data))
		}
		back := must[[]LedgerRecord](t)(decodeLedger("x", again))
		if !slices.EqualFunc(records, back, func(a, b LedgerRecord) bool {
			return a.ID == b.ID && a.Time.Equal(b.Time) && bytes.Equal(a.Data, b.Data)
		}) {
			t.Error("decode and encode differ")
		}
	})
}

// Several machines append and tidy at once: no record is lost, none counts twice, few objects are left.
func TestLedgerOfManyWriters(t *testing.T) {
	tr := newRepo(t)
	var wg sync.WaitGroup
	for m := range 4 {
		wg.Go(func() {
			r := tr.open(tr.st)
			for i := range 40 {
				must0(t, r.AppendLedger(context.Background(), "demo", fmt.Appendf(nil, "%d-%02d", m, i)))
				if i%10 == 9 {
					if err := r.TidyLedger(context.Background(), "demo", nil); err != nil {
						t.Error(err)
					}
				}
				if _, err := r.Ledger(context.Background(), "demo"); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	r := tr.open(tr.st)
	got := ledgerTexts(t, r, "demo")
	slices.Sort(got)
	if len(got) != 160 || len(slices.Compact(got)) != 160 {
		t.Errorf("%d records", len(got))
	}
	must0(t, r.TidyLedger(t.Context(), "demo", nil))
	if n := len(list(t, tr.mem, ledgerDir)); n > ledgerObjects+1 {
		t.Errorf("%d objects are left", n)
	}
	if texts := ledgerTexts(t, r, LedgerCheck); len(texts) != 0 {
		t.Errorf("another ledger has %q", texts)
	}
}

func appendMany(t testing.TB, r *Repository, n int) {
	for i := range n {
		must0(t, r.AppendLedger(context.Background(), "demo", fmt.Append(nil, i)))
		time.Sleep(time.Second)
	}
}

// What is not worth keeping goes with the next merge, and what comes is in the order of its times.
func TestLedgerTidyDrops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := newRepo(t)
		r := tr.open(tr.st)
		appendMany(t, r, ledgerObjects+8)
		keep := func(all []LedgerRecord) []LedgerRecord { return all[len(all)-3:] }
		must0(t, r.TidyLedger(t.Context(), "demo", keep)) // three are needed, which are few objects: the others go
		if got := fmt.Sprint(ledgerTexts(t, r, "demo")); got != "[37 38 39]" {
			t.Errorf("left: %s", got)
		}
		if n := len(list(t, tr.mem, ledgerDir)); n != 3 {
			t.Errorf("%d objects", n)
		}
	})
}

// Where nothing may be deleted, merging does not go on for ever.
func TestLedgerWithoutDeletion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := newRepo(t)
		r := tr.open(denying{tr.st})
		appendMany(t, r, ledgerObjects+1)
		for range 5 {
			must0(t, r.TidyLedger(t.Context(), "demo", nil))
		}
		if n := len(list(t, tr.mem, ledgerDir)); n != ledgerObjects+2 {
			t.Errorf("%d objects, want the %d that were appended and the merged one", n, ledgerObjects+1)
		}
		if got := ledgerTexts(t, r, "demo"); len(got) != ledgerObjects+1 {
			t.Errorf("%d records", len(got))
		}
		// A machine that may delete cleans up.
		must0(t, tr.open(tr.st).TidyLedger(t.Context(), "demo", nil))
		if n := len(list(t, tr.mem, ledgerDir)); n != 1 {
			t.Errorf("%d objects are left", n)
		}
	})
}

// denying does not let anything be deleted.
type denying struct{ storage.Storage }

func (d denying) Delete(_ context.Context, name string) error {
	return &storage.Error{Op: "delete", Name: name, Kind: storage.ErrDenied}
}

// A fault at any operation of a tidy loses no record.
func TestLedgerFaults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := newRepo(t)
		appendMany(t, tr.open(tr.st), ledgerObjects+2)
		for _, mode := range []storagetest.Mode{storagetest.NotDone, storagetest.DoneFailed, storagetest.CrashFirst, storagetest.CrashAfter} {
			tried := 0
			for i := 0; ; i++ {
				m := tr.mem.Clone()
				fault := storagetest.NewFault(m).At(i, mode)
				err := tr.open(fault).TidyLedger(t.Context(), "demo", nil)
				if got := ledgerTexts(t, tr.open(m), "demo"); len(got) != ledgerObjects+2 {
					t.Fatalf("mode %d, operation %d: %d records are left (%v)", mode, i, len(got), err)
				}
				if fault.Hit() == 0 {
					break
				}
				if tried++; err == nil && mode != storagetest.CrashAfter {
					t.Errorf("mode %d, operation %d: the fault is not told", mode, i)
				}
				must0(t, tr.open(m).TidyLedger(t.Context(), "demo", nil))
				if n := len(list(t, m, ledgerDir)); n > 1 {
					t.Errorf("mode %d, operation %d: %d objects after the next tidy", mode, i, n)
				}
			}
			if tried < ledgerObjects {
				t.Errorf("mode %d: only %d operations", mode, tried)
			}
		}
	})
}

// A damaged object hides no other, check names it, and the next tidy removes it. One of a newer version stays.
func TestLedgerDamage(t *testing.T) {
	tr := newRepo(t)
	r := tr.open(tr.st)
	must0(t, r.AppendLedger(t.Context(), "demo", []byte("whole")))
	must0(t, r.AppendLedger(t.Context(), "demo", []byte("broken")))
	must0(t, r.writeObject(t.Context(), ledgerPrefix("demo")+"00000000000000000000000000000007", []byte{9, 1}))
	for _, name := range list(t, tr.mem, ledgerDir) {
		if recs, err := decodeLedgerAt(t, r, name); err == nil && string(recs[0].Data) == "broken" {
			damageObject(t, tr.mem, name, "flip")
		}
	}
	records, err := r.Ledger(t.Context(), "demo")
	var d *DamageError
	var f *FormatError
	if len(records) != 1 || !errors.As(err, &d) || !errors.As(err, &f) {
		t.Errorf("%d records, %v", len(records), err)
	}
	rep := checkAll(t, tr.open(tr.mem))
	if len(rep.Problems) != 1 || rep.Problems[0].Hint != ledgerHint || rep.Problems[0].Object != d.Object {
		t.Errorf("problems: %+v", rep.Problems)
	}
	must0(t, r.TidyLedger(t.Context(), "demo", nil))
	if n := len(list(t, tr.mem, ledgerDir)); n != 2 {
		t.Errorf("%d objects are left", n)
	}
	if _, err := r.Ledger(t.Context(), "demo"); errors.As(err, &d) && d.Object == "x" || !errors.As(err, &f) {
		t.Errorf("after the tidy: %v", err)
	}
}

func decodeLedgerAt(t testing.TB, r *Repository, name string) ([]LedgerRecord, error) {
	data, err := r.readObject(t.Context(), name)
	if err != nil {
		return nil, err
	}
	return decodeLedger(name, data)
}
