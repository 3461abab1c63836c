package repo

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/whole-tale/wtsnap/index"
)

// A check may read a part of the packs in each run, such that every pack is read within some time, and no run reads more
// than a budget. What was read when lies in the ledger "check", so that any machine goes on where another one ended. A
// pack that a prune has rewritten is a new pack: it is due when it has been there for that time.

// CheckRecord is what a check that read packs leaves in the ledger. Its JSON is part of the format.
type CheckRecord struct {
	Version  int       `json:"version"` // 1
	Host     string    `json:"host,omitempty"`
	Packs    []byte    `json:"packs"` // read whole and as they were stored: the first 16 bytes of each id
	Bytes    int64     `json:"bytes"` // read
	Problems int       `json:"problems"`
	Coverage *Coverage `json:"coverage,omitempty"` // as of the end of the run; of runs that were asked for one
	Time     time.Time `json:"-"`                  // of the record
}

const (
	checkRecordVersion = 1
	// packPrefix is how many bytes of a pack's id a record has.
	packPrefix = 16
	// MinReadBudget is the least byte budget of a check: the largest pack must fit.
	MinReadBudget = 64 << 20
	// firstInterval is how far apart runs are taken to be before there are any.
	firstInterval = 24 * time.Hour
	// clocksDiffer is how far in the future a record may lie; what lies further was written by a wrong clock, and tells nothing.
	clocksDiffer = 12 * time.Hour
)

// Coverage says which share of the stored bytes has been read and found whole, and how lately.
type Coverage struct {
	Within  int64      `json:"within_seconds"` // the time in which every pack is to be read
	All     PackTotals `json:"all"`
	Read    PackTotals `json:"read"`    // within that time
	New     PackTotals `json:"new"`     // not read yet, but known for less than that time
	Overdue PackTotals `json:"overdue"` // neither
	// Oldest is when the pack was last read whose reading lies back longest, of those that were ever read.
	Oldest time.Time `json:"oldest,omitzero"`
	// Full is when each pack will have been read once within that time, if runs go on as they do. Zero: it is so, but for
	// new packs, or a budget is too small.
	Full     time.Time `json:"full,omitzero"`
	Interval int64     `json:"interval_seconds"` // between runs, as seen
	Budget   int64     `json:"budget_bytes,omitempty"`
	// Needed is how many bytes each run must read, and Takes how long everything takes with the budget, in seconds.
	Needed int64 `json:"needed_bytes"`
	Takes  int64 `json:"takes_seconds,omitempty"`
	// TooSmall: the budget does not suffice.
	TooSmall bool `json:"too_small,omitempty"`
}

// Share is which part of all bytes was read within the time, from 0 to 1.
func (c *Coverage) Share() float64 {
	if c.All.Bytes == 0 {
		return 1
	}
	return float64(c.Read.Bytes) / float64(c.All.Bytes)
}

type packKey [packPrefix]byte

func packKeyOf(id index.PackID) packKey { return packKey(id[:packPrefix]) }

// packReads is what the ledger tells.
type packReads struct {
	last    map[packKey]time.Time // when a pack was last read
	began   time.Time             // of the first record; zero: none
	runs    []time.Time           // of records with a coverage, in order
	records []CheckRecord
}

// readsOf reads records; one of a newer version tells nothing.
func readsOf(records []LedgerRecord) packReads {
	reads := packReads{last: map[packKey]time.Time{}}
	for _, rec := range records {
		var c CheckRecord
		if json.Unmarshal(rec.Data, &c) != nil || c.Version != checkRecordVersion {
			continue
		}
		c.Time = rec.Time
		if reads.began.IsZero() {
			reads.began = c.Time
		}
		if c.Coverage != nil {
			reads.runs = append(reads.runs, c.Time)
		}
		for p := c.Packs; len(p) >= packPrefix; p = p[packPrefix:] {
			reads.last[packKey(p[:packPrefix])] = c.Time // records come in the order of their times
		}
		reads.records = append(reads.records, c)
	}
	return reads
}

// interval is how far apart the last runs were: the median.
func (reads *packReads) interval() time.Duration {
	var gaps []time.Duration
	runs := reads.runs[max(0, len(reads.runs)-9):]
	for i := 1; i < len(runs); i++ {
		gaps = append(gaps, runs[i].Sub(runs[i-1]))
	}
	if len(gaps) == 0 {
		return firstInterval
	}
	slices.Sort(gaps)
	return max(gaps[len(gaps)/2], time.Minute)
}

// readCandidate is a pack that a run may read.
type readCandidate struct {
	ref    index.PackRef
	id     index.PackID
	size   int64
	stored time.Time // by the backend's clock; zero: it does not tell
}

// since is from when on the time counts in which a pack must be read: its last reading, or from when on anybody knew of
// it while there was a ledger.
func (reads *packReads) since(c *readCandidate, now time.Time) (since time.Time, read bool) {
	if t, ok := reads.last[packKeyOf(c.id)]; ok && t.Before(now.Add(clocksDiffer)) {
		return t, true
	}
	began := reads.began
	if began.IsZero() || began.After(now) {
		began = now
	}
	if c.stored.After(began) && c.stored.Before(now) {
		return c.stored, false
	}
	return began, false
}

// choose returns the packs to read in a run, those first that wait longest. Without a budget a run reads its part of all, by the time since the last run, and what is due before the next
// one; with it, no more than the budget.
func (reads *packReads) choose(all []readCandidate, within time.Duration, budget int64, now time.Time) []index.PackRef {
	type waiting struct {
		*readCandidate
		since time.Time
		read  bool
	}
	var total, due int64
	list := make([]waiting, 0, len(all))
	passed, interval := firstInterval, reads.interval()
	if n := len(reads.runs); n > 0 {
		passed = min(max(now.Sub(reads.runs[n-1]), 0), within)
	}
	for i := range all {
		w := waiting{readCandidate: &all[i]}
		w.since, w.read = reads.since(w.readCandidate, now)
		list = append(list, w)
		total += w.size
		if w.since.Add(within).Before(now.Add(interval + interval/2)) {
			due += w.size
		}
	}
	quota := max(due, int64(float64(total)*float64(passed)/float64(within))+1)
	if budget > 0 {
		quota = min(quota, budget)
	}
	never := func(w *waiting) int {
		if w.read {
			return 1
		}
		return 0
	}
	slices.SortFunc(list, func(a, b waiting) int {
		return cmp.Or(a.since.Compare(b.since), never(&a)-never(&b), a.stored.Compare(b.stored), slices.Compare(a.id[:], b.id[:]))
	})
	var chosen []index.PackRef
	var sum int64
	for _, w := range list {
		if sum >= quota || budget > 0 && sum+w.size > budget {
			break
		}
		sum += w.size
		chosen = append(chosen, w.ref)
	}
	return chosen
}

// coverage says how far the reading has come, after a run that ends now and is a run of reads.
func (reads *packReads) coverage(all []readCandidate, within time.Duration, budget int64, now time.Time) *Coverage {
	c := &Coverage{Within: int64(within / time.Second), Budget: budget}
	for i := range all {
		size := all[i].size
		c.All.add(size)
		since, read := reads.since(&all[i], now)
		if read && (c.Oldest.IsZero() || since.Before(c.Oldest)) {
			c.Oldest = since
		}
		switch {
		case since.Add(within).Before(now):
			c.Overdue.add(size)
		case read:
			c.Read.add(size)
		default:
			c.New.add(size)
		}
	}
	interval := reads.interval()
	c.Interval = int64(interval / time.Second)
	c.Needed = int64(float64(c.All.Bytes)*min(1, float64(interval)/float64(within))) + 1
	each := c.Needed
	if budget > 0 && budget < c.Needed {
		each = budget
		c.TooSmall = true
		c.Takes = int64(float64(c.All.Bytes) / float64(budget) * interval.Seconds())
	}
	if left := c.Overdue.Bytes + c.New.Bytes; left > 0 && !c.TooSmall && !reads.coveredOnce(within, now, c) {
		runs := (left + each - 1) / each
		c.Full = now.Add(time.Duration(runs) * interval).UTC().Truncate(time.Second)
	}
	return c
}

// coveredOnce reports whether the ledger is old enough for every pack to have been due once, and none is overdue.
func (reads *packReads) coveredOnce(within time.Duration, now time.Time, c *Coverage) bool {
	return c.Overdue.Packs == 0 && !reads.began.IsZero() && now.Sub(reads.began) >= within
}

// note adds a run to what is known.
func (reads *packReads) note(packs []index.PackID, coverage bool, now time.Time) {
	for _, id := range packs {
		reads.last[packKeyOf(id)] = now
	}
	if reads.began.IsZero() {
		reads.began = now
	}
	if coverage {
		reads.runs = append(reads.runs, now)
	}
}

// checkReads reads the ledger of checks. What can't be read of it is as if it had not been written.
func (r *Repository) checkReads(ctx context.Context) (packReads, error) {
	records, err := r.Ledger(ctx, LedgerCheck)
	if err != nil && !isFiled(err) {
		return packReads{}, err
	}
	return readsOf(records), nil
}

// LastCheck returns the newest record of a check that read packs, and the newest with a coverage; nil where there is none.
func (r *Repository) LastCheck(ctx context.Context) (last, covering *CheckRecord, err error) {
	reads, err := r.checkReads(ctx)
	if err != nil {
		return nil, nil, err
	}
	for i := range reads.records {
		last = &reads.records[i]
		if last.Coverage != nil {
			covering = last
		}
	}
	return last, covering, nil
}

// recordCheck appends what was read to the ledger, and drops what that makes worthless.
func (r *Repository) recordCheck(ctx context.Context, rec *CheckRecord, packs []index.PackID, there func(packKey) bool) error {
	rec.Version = checkRecordVersion
	rec.Host, _ = os.Hostname() // a label for people; empty is fine
	slices.SortFunc(packs, func(a, b index.PackID) int { return slices.Compare(a[:], b[:]) })
	for _, id := range packs {
		rec.Packs = append(rec.Packs, id[:packPrefix]...)
	}
	data, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	err = r.AppendLedger(ctx, LedgerCheck, data)
	if err == nil {
		err = r.TidyLedger(ctx, LedgerCheck, func(all []LedgerRecord) []LedgerRecord { return worthKeeping(all, there) })
	}
	if err != nil {
		return fmt.Errorf("recording which packs were read: %w", err)
	}
	return nil
}

// worthKeeping leaves out the records that tell of no pack that is there and that no newer record tells of. The newest
// ones stay, for the intervals between runs, and the first one, for its time.
func worthKeeping(all []LedgerRecord, there func(packKey) bool) []LedgerRecord {
	const newest = 10
	last := readsOf(all).last
	var kept []LedgerRecord
	for i, rec := range all {
		var c CheckRecord
		err := json.Unmarshal(rec.Data, &c)
		worth := i == 0 || i >= len(all)-newest || err != nil || c.Version != checkRecordVersion
		for p := c.Packs; !worth && len(p) >= packPrefix; p = p[packPrefix:] {
			key := packKey(p[:packPrefix])
			worth = there(key) && last[key].Equal(rec.Time)
		}
		if worth {
			kept = append(kept, rec)
		}
	}
	return kept
}
