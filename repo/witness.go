package repo

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"time"

	"github.com/whole-tale/wtsnap/repo/storage"
)

// A Witness remembers, outside of the repository, which snapshots there were. Whoever holds the backend can show an older
// state of the repository, in which everything is genuine and whole: nothing that lies in it gives that away.
//
// Its methods may be called from several goroutines.
type Witness interface {
	// Listed is called with each listing of the snapshots, oldest first, before anybody uses it. It must not change refs.
	Listed(ctx context.Context, refs []SnapshotRef)
	// Complete is called for a complete snapshot of an instance that was read, or was stored by this process.
	Complete(ref SnapshotRef, instance string, stored bool)
	// Problems are the snapshots that it has seen, that the last listing lacks, and whose absence nothing explains.
	Problems() []Problem
}

// Watch has a witness look at what the backend shows. It must be called before the repository is used.
func (r *Repository) Watch(w Witness) { r.witness = w }

// NoteComplete tells the witness, if there is one, of a complete snapshot.
func (r *Repository) NoteComplete(ref SnapshotRef, instance string, stored bool) {
	if r.witness != nil {
		r.witness.Complete(ref, instance, stored)
	}
}

// Has reports whether a snapshot is among the snapshots, or among the forgotten ones, by asking for its object: a listing may
// be older than what is there.
func (r *Repository) Has(ctx context.Context, ref SnapshotRef) (there, forgotten bool, err error) {
	// A snapshot that is moved meanwhile is at its new name before it leaves the old one.
	for _, name := range []string{ref.Name(), ref.forgottenName(), ref.Name()} {
		_, err := r.st.Stat(ctx, name)
		switch {
		case err == nil:
			return name == ref.Name(), name != ref.Name(), nil
		case !errors.Is(err, storage.ErrNotExist):
			return false, false, fmt.Errorf("looking for %s: %w", name, err)
		}
	}
	return false, false, nil
}

// A Removal is a snapshot that somebody took out of the repository on purpose, although no rule would have. The ledger of
// removals tells it to the witnesses of all machines.
type Removal struct {
	Record string      // id of the record that tells it, 32 hex digits
	Ref    SnapshotRef // without its size
	Time   time.Time   // by the clock of who did it
	Why    string
}

// removalRecord is a record of the ledger of removals.
type removalRecord struct {
	Version   int      `json:"version"`   // 1
	Snapshots []string `json:"snapshots"` // INSTANCE/TIME-ID
	Why       string   `json:"why,omitempty"`
	Host      string   `json:"host,omitempty"` // for people
}

const (
	removalVersion = 1
	// removalsKept is how long removals are worth telling: a machine that has not looked for longer asks its user.
	removalsKept = 5 * 366 * 24 * time.Hour
)

// NoteRemoval tells everybody that snapshots are taken out of the repository on purpose.
func (r *Repository) NoteRemoval(ctx context.Context, refs []SnapshotRef, why string) error {
	if len(refs) == 0 {
		return nil
	}
	rec := removalRecord{Version: removalVersion, Why: why}
	rec.Host, _ = os.Hostname()
	for _, ref := range refs {
		rec.Snapshots = append(rec.Snapshots, ref.base())
	}
	data, err := json.Marshal(rec)
	if err == nil {
		err = r.AppendLedger(ctx, LedgerRemoved, data)
	}
	if err != nil {
		return fmt.Errorf("noting that snapshots are removed on purpose: %w", err)
	}
	old := time.Now().Add(-removalsKept)
	return r.TidyLedger(ctx, LedgerRemoved, func(all []LedgerRecord) []LedgerRecord {
		return slices.DeleteFunc(all, func(rec LedgerRecord) bool { return rec.Time.Before(old) })
	})
}

// Removals returns what was taken out on purpose. Records that cannot be read are left out: they explain nothing.
func (r *Repository) Removals(ctx context.Context) ([]Removal, error) {
	records, err := r.Ledger(ctx, LedgerRemoved)
	if err != nil && !isFiled(err) {
		return nil, err
	}
	var out []Removal
	for _, rec := range records {
		var doc removalRecord
		if json.Unmarshal(rec.Data, &doc) != nil || doc.Version != removalVersion {
			continue
		}
		for _, base := range doc.Snapshots {
			if ref, err := parseSnapshotName(storage.Info{Name: path.Join(snapshotsDir, base)}); err == nil {
				out = append(out, Removal{Record: hex.EncodeToString(rec.ID[:]), Ref: ref, Time: rec.Time, Why: doc.Why})
			}
		}
	}
	return out, nil
}

// ForgetNamed is Forget of snapshots that were chosen by name, not by a rule: it tells all witnesses first.
func (r *Repository) ForgetNamed(ctx context.Context, refs []SnapshotRef, why string) error {
	if err := r.NoteRemoval(ctx, refs, why); err != nil {
		return err
	}
	return r.Forget(ctx, refs)
}
