package drill

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/whole-tale/wtsnap/repo"
)

// A Record is what a drill writes into the repository's ledger of drills, as JSON.
type Record struct {
	Version  int           `json:"version"` // 1
	Instance string        `json:"instance"`
	Time     time.Time     `json:"time"` // when the drill ended
	Every    time.Duration `json:"every_ns"`
	Newest   string        `json:"newest"`           // id
	Oldest   string        `json:"oldest,omitempty"` // id
	Drilled  []Drilled     `json:"drilled"`
	Wrong    []Drilled     `json:"wrong,omitempty"` // units of which something did not come back as it was
	Bad      int64         `json:"mismatches"`
	Bytes    int64         `json:"bytes"`
	Units    int           `json:"units"` // of the newest snapshot
	Overdue  int           `json:"overdue"`
	Next     time.Time     `json:"next_overdue,omitzero"`
	Failed   string        `json:"failed,omitempty"` // the drill ended early
}

// Drilled is one unit that was drilled and came back as it was.
type Drilled struct {
	Unit      string    `json:"unit"`
	Old       bool      `json:"oldest,omitempty"`
	Files     int64     `json:"files"`
	Bytes     int64     `json:"bytes"`
	Documents int64     `json:"documents,omitempty"`
	Time      time.Time `json:"time,omitzero"` // where it differs from the record's
}

const recordVersion = 1

// record is what is written of a report.
func (rep *Report) record(o Options) Record {
	rec := Record{Version: recordVersion, Instance: o.Newest.Instance, Time: o.Now.UTC(), Every: o.Every, Newest: o.Newest.Ref.ID.String(),
		Bad: rep.Bad, Bytes: rep.Bytes, Units: rep.Coverage.Units, Overdue: len(rep.Coverage.Overdue), Next: rep.Coverage.Next}
	if o.Oldest != nil {
		rec.Oldest = o.Oldest.Ref.ID.String()
	}
	for _, u := range rep.Units {
		d := Drilled{Unit: u.Path, Old: u.Old, Files: u.Files, Bytes: u.Bytes, Documents: u.Documents}
		switch {
		case u.Bad > 0:
			rec.Wrong = append(rec.Wrong, d)
		case u.Skipped == "":
			rec.Drilled = append(rec.Drilled, d)
		}
	}
	return rec
}

// wrongFor is how long a unit counts as wrong that was not drilled again: it may have gone.
const wrongFor = 30 * 24 * time.Hour

// StillWrong returns the units of which something did not come back as it was the last time that they were drilled.
func StillWrong(ledger []Record, now time.Time) (units []string) {
	type key struct {
		unit string
		old  bool
	}
	wrong := map[key]bool{}
	for _, rec := range ledger {
		for _, u := range rec.Drilled {
			delete(wrong, key{u.Unit, u.Old})
		}
		for _, u := range rec.Wrong {
			if now.Sub(rec.Time) < wrongFor {
				wrong[key{u.Unit, u.Old}] = true
			}
		}
	}
	for k := range wrong {
		units = append(units, k.unit)
	}
	slices.Sort(units)
	return slices.Compact(units)
}

// Records reads the ledger of drills, those of one instance, or all where it is "". What cannot be read is told by the error,
// which comes beside the rest.
func Records(ctx context.Context, r *repo.Repository, instance string) ([]Record, error) {
	raw, bad := r.Ledger(ctx, repo.LedgerDrill)
	out := make([]Record, 0, len(raw))
	for _, e := range raw {
		rec, err := decode(e.Data)
		if err != nil {
			bad = errors.Join(bad, err)
			continue
		}
		if instance == "" || rec.Instance == instance {
			out = append(out, rec)
		}
	}
	return out, bad
}

func decode(data []byte) (rec Record, err error) {
	if err := json.Unmarshal(data, &rec); err != nil {
		return rec, fmt.Errorf("a record of the drills cannot be understood: %w", err)
	}
	if rec.Version != recordVersion {
		return rec, fmt.Errorf("a record of the drills has version %d, this program reads %d", rec.Version, recordVersion)
	}
	return rec, nil
}

// Write notes a drill in the repository, and tidies the ledger up. failed says why the drill ended early, or "".
func Write(ctx context.Context, r *repo.Repository, o Options, rep *Report, failed string) error {
	o.Every = o.Period()
	rec := rep.record(o)
	rec.Failed = failed
	data, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	if err := r.AppendLedger(ctx, repo.LedgerDrill, data); err != nil {
		return fmt.Errorf("noting the drill: %w", err)
	}
	if err := r.TidyLedger(ctx, repo.LedgerDrill, Keep(o.Now)); err != nil {
		return fmt.Errorf("tidying up the ledger of drills: %w", err)
	}
	return nil
}

// keepFor is how long records are worth having that say nothing about a unit that a newer one does not say.
const keepFor = 90 * 24 * time.Hour

// Keep returns which records of the ledger are still worth having: those of the last 90 days, and the newest of each instance
// and unit.
func Keep(now time.Time) func([]repo.LedgerRecord) []repo.LedgerRecord {
	return func(all []repo.LedgerRecord) []repo.LedgerRecord {
		type key struct {
			instance, unit string
			old            bool
		}
		said := map[key]bool{}
		var kept []repo.LedgerRecord
		for _, e := range slices.Backward(all) {
			rec, err := decode(e.Data)
			news := err != nil || now.Sub(rec.Time) < keepFor // what cannot be understood is a newer program's
			for _, u := range slices.Concat(rec.Drilled, rec.Wrong) {
				k := key{rec.Instance, u.Unit, u.Old}
				news = news || !said[k]
				said[k] = true
			}
			if k := (key{instance: rec.Instance}); err == nil && !said[k] { // the last one, whatever it did
				said[k], news = true, true
			}
			if news {
				kept = append(kept, e)
			}
		}
		slices.Reverse(kept)
		return kept
	}
}

// lastDrills returns when each unit was last drilled.
func lastDrills(ledger []Record, old bool) map[string]time.Time {
	out := map[string]time.Time{}
	for _, rec := range ledger {
		for _, u := range rec.Drilled {
			at := u.Time
			if at.IsZero() {
				at = rec.Time
			}
			if u.Old == old && at.After(out[u.Unit]) {
				out[u.Unit] = at
			}
		}
	}
	return out
}
