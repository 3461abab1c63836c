package repo

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"path"
	"slices"
	"time"

	"github.com/whole-tale/wtsnap/repo/storage"
)

// A ledger is what machines tell each other, and later runs, of what they have done: which packs were read and found
// whole, which restores were proven. Nothing that is stored rests on it. docs/format.md, "Ledgers", has its bytes.
//
// Any number of machines append to a ledger and tidy it at the same time, without locks: an object is a list of records,
// each with a random id; records that several objects list count once; whoever merges objects stores the merged one
// before it deletes the others.
const (
	ledgerDir     = "ledger/"
	ledgerVersion = 1
	// ledgerObjects is how many objects of a kind may pile up before they are merged.
	ledgerObjects = 32
	// maxLedgerRecord bounds a record, in bytes: a hostile length must not make a reader allocate more.
	maxLedgerRecord = 64 << 20
)

// LedgerKind says what a ledger tells of. Kinds that a program does not know are none of its business.
type LedgerKind string

// The kinds of ledgers.
const (
	LedgerCheck LedgerKind = "check" // packs that were read whole, see CheckRecord
	LedgerDrill LedgerKind = "drill" // restores that were tried
	// LedgerRemoved tells which snapshots were taken out on purpose, see Removal.
	LedgerRemoved LedgerKind = "removed"
)

// LedgerRecord is one entry of a ledger.
type LedgerRecord struct {
	ID   [16]byte  // random
	Time time.Time // by the clock of who wrote it; UTC
	Data []byte    // opaque to this package
}

func ledgerPrefix(kind LedgerKind) string { return ledgerDir + string(kind) + "/" }

// AppendLedger adds a record to a ledger, with one call.
func (r *Repository) AppendLedger(ctx context.Context, kind LedgerKind, data []byte) error {
	if len(data) > maxLedgerRecord {
		return fmt.Errorf("a record of %d bytes is too long for the ledger %s", len(data), kind)
	}
	id, err := randomID()
	if err != nil {
		return err
	}
	return r.putLedger(ctx, kind, []LedgerRecord{{ID: id, Time: time.Now().UTC(), Data: data}})
}

func (r *Repository) putLedger(ctx context.Context, kind LedgerKind, records []LedgerRecord) error {
	id, err := randomID()
	if err != nil {
		return err
	}
	return r.writeObject(ctx, ledgerPrefix(kind)+hex.EncodeToString(id[:]), encodeLedger(records))
}

func encodeLedger(records []LedgerRecord) []byte {
	out := []byte{ledgerVersion}
	for _, rec := range records {
		out = append(out, rec.ID[:]...)
		out = binary.LittleEndian.AppendUint64(out, uint64(rec.Time.UnixNano()))
		out = binary.AppendUvarint(out, uint64(len(rec.Data)))
		out = append(out, rec.Data...)
	}
	return out
}

// decodeLedger is the inverse of encodeLedger. Its records alias data.
func decodeLedger(name string, data []byte) ([]LedgerRecord, error) {
	bad := func(detail string) error {
		return &DamageError{Kind: DamageDecode, Object: name, Detail: detail, Hint: ledgerHint}
	}
	if len(data) == 0 {
		return nil, bad("it is empty")
	}
	if data[0] != ledgerVersion {
		return nil, &FormatError{Version: int(data[0]), Supported: ledgerVersion}
	}
	var records []LedgerRecord
	for data = data[1:]; len(data) > 0; {
		if len(data) < 16+8+1 {
			return nil, bad("a record is cut off")
		}
		rec := LedgerRecord{ID: [16]byte(data[:16]), Time: time.Unix(0, int64(binary.LittleEndian.Uint64(data[16:]))).UTC()}
		size, n := binary.Uvarint(data[24:])
		if n <= 0 || size > maxLedgerRecord || size > uint64(len(data)-24-n) {
			return nil, bad("a record's length is wrong")
		}
		rec.Data = data[24+n : 24+n+int(size)]
		data = data[24+n+int(size):]
		records = append(records, rec)
	}
	return records, nil
}

const ledgerHint = "no snapshot needs it: it only tells what was done when; the next check that reads data removes it"

// Ledger reads a ledger, oldest record first. What can't be read is left out, and told by the error, a *DamageError or
// *FormatError each, which comes beside the other records.
func (r *Repository) Ledger(ctx context.Context, kind LedgerKind) ([]LedgerRecord, error) {
	objects, err := r.ledgerObjects(ctx, kind)
	if err != nil {
		return nil, err
	}
	var bad []error
	for _, o := range objects {
		if o.err != nil {
			bad = append(bad, o.err)
		}
	}
	return mergeLedger(objects), errors.Join(bad...)
}

// ledgerObject is an object of a ledger.
type ledgerObject struct {
	name    string
	records []LedgerRecord
	err     error // it can't be read
}

// ledgerObjects reads the objects of a ledger. One that vanishes between its listing and its reading was merged into
// another one, so that the folder is listed again.
func (r *Repository) ledgerObjects(ctx context.Context, kind LedgerKind) ([]ledgerObject, error) {
	for attempt := 0; ; attempt++ {
		var infos []storage.Info
		err := r.cached.List(ctx, ledgerPrefix(kind), func(i storage.Info) error { infos = append(infos, i); return nil })
		if err != nil {
			return nil, fmt.Errorf("listing the ledger %s: %w", kind, err)
		}
		slices.SortFunc(infos, func(a, b storage.Info) int { return cmp.Compare(a.Name, b.Name) })
		objects := make([]ledgerObject, len(infos))
		get := func(ctx context.Context, i int) (data []byte, err error) {
			o := &objects[i]
			o.name = infos[i].Name
			if err = checkStored(o.name, infos[i].Size); err == nil {
				data, err = r.getObject(ctx, o.name)
			}
			if o.err = err; isFiled(err) {
				err = nil
			}
			return data, err
		}
		total := 0
		open := func(i int, data []byte) error { // here, so that one at a time is decompressed
			o := &objects[i]
			if o.err != nil {
				return nil
			}
			data, err := r.openGot(ctx, o.name, data)
			if err == nil {
				o.records, err = decodeLedger(o.name, data)
			}
			if total += len(data); err == nil && total > maxObject {
				o.records, err = nil, &DamageError{Kind: DamageSize, Object: o.name, Detail: "with those before it, it holds more than is read together", Hint: ledgerHint}
			}
			if o.err = err; isFiled(err) {
				err = nil
			}
			return err
		}
		err = inOrder(ctx, len(infos), smallAhead, func(i int) int64 { return infos[i].Size }, get, open)
		if errors.Is(err, storage.ErrNotExist) && attempt < 49 {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("reading the ledger %s: %w", kind, err)
		}
		return objects, nil
	}
}

// isFiled reports whether err says that an object is damaged, or of a newer version.
func isFiled(err error) bool {
	var d *DamageError
	var f *FormatError
	return errors.As(err, &d) || errors.As(err, &f)
}

// mergeLedger returns the records of objects, each once, oldest first.
func mergeLedger(objects []ledgerObject) []LedgerRecord {
	seen := map[[16]byte]bool{}
	var all []LedgerRecord
	for _, o := range objects {
		for _, rec := range o.records {
			if !seen[rec.ID] {
				seen[rec.ID] = true
				all = append(all, rec)
			}
		}
	}
	slices.SortFunc(all, func(a, b LedgerRecord) int {
		return cmp.Or(a.Time.Compare(b.Time), slices.Compare(a.ID[:], b.ID[:]))
	})
	return all
}

// TidyLedger merges a ledger's objects where there are many, and removes those that can't be read. keep returns the
// records that are still worth having, of all of them, oldest first. Nil keeps all.
//
// Where the backend does not let objects be deleted, those that say nothing new stay, and count for nothing.
func (r *Repository) TidyLedger(ctx context.Context, kind LedgerKind, keep func([]LedgerRecord) []LedgerRecord) error {
	objects, err := r.ledgerObjects(ctx, kind)
	if err != nil {
		return err
	}
	var names []string // to be removed
	var readable []ledgerObject
	for _, o := range objects {
		var d *DamageError
		switch {
		case errors.As(o.err, &d):
			names = append(names, o.name)
		case o.err == nil: // what a newer program wrote is that one's to merge
			readable = append(readable, o)
		}
	}
	all := mergeLedger(readable)
	kept := all
	if keep != nil {
		kept = keep(slices.Clone(all))
	}
	needed, spare := neededObjects(readable, kept)
	if len(needed) > ledgerObjects {
		for group := range ledgerGroups(kept) {
			if err := r.putLedger(ctx, kind, group); err != nil {
				return fmt.Errorf("merging the ledger %s: %w", kind, err)
			}
		}
		spare = append(spare, needed...)
	}
	for _, name := range append(names, spare...) {
		if err := r.cached.Delete(ctx, name); err != nil {
			if r.noteDenied(err) {
				return nil // it says nothing that another one does not say
			}
			return fmt.Errorf("removing %s, which was merged: %w", name, err)
		}
	}
	return nil
}

// ledgerGroups divides records into what one object can hold each.
func ledgerGroups(records []LedgerRecord) iter.Seq[[]LedgerRecord] {
	return func(yield func([]LedgerRecord) bool) {
		for len(records) > 0 {
			n, size := 1, len(records[0].Data)
			for n < len(records) && size+len(records[n].Data) <= maxLedgerRecord/2 {
				size += len(records[n].Data)
				n++
			}
			if !yield(records[:n]) {
				return
			}
			records = records[n:]
		}
	}
}

// neededObjects tells the objects that list a record worth keeping which no larger one lists from the others.
func neededObjects(objects []ledgerObject, kept []LedgerRecord) (needed, spare []string) {
	want := map[[16]byte]bool{}
	for _, rec := range kept {
		want[rec.ID] = true
	}
	sorted := slices.Clone(objects)
	slices.SortStableFunc(sorted, func(a, b ledgerObject) int { return cmp.Compare(len(b.records), len(a.records)) })
	for _, o := range sorted {
		news := false
		for _, rec := range o.records {
			news = news || want[rec.ID]
			delete(want, rec.ID)
		}
		if news {
			needed = append(needed, o.name)
		} else {
			spare = append(spare, o.name)
		}
	}
	return needed, spare
}

// checkLedgers opens what is in the ledgers, whatever their kinds.
func (c *checker) checkLedgers(ctx context.Context) error {
	var names []string
	if err := c.r.st.List(ctx, ledgerDir, func(i storage.Info) error { names = append(names, i.Name); return nil }); err != nil {
		return fmt.Errorf("listing the ledgers: %w", err)
	}
	for _, name := range names {
		_, err := c.r.readObject(ctx, name)
		if id, herr := hex.DecodeString(path.Base(name)); err == nil && (herr != nil || len(id) != 16) {
			err = &DamageError{Kind: DamageDecode, Object: name, Detail: "is not the name of an object of a ledger"}
		}
		var d *DamageError
		if errors.As(err, &d) && d.Hint == "" {
			d.Hint = ledgerHint
		}
		if err != nil && !errors.Is(err, storage.ErrNotExist) {
			if err := c.damage(name, err); err != nil {
				return err
			}
		}
	}
	return nil
}
