// Package drill proves that what was saved comes back.
//
// A drill restores a sample of the newest and of the oldest complete snapshot of an instance with the code that a restore
// uses, reads what lies on the disk then, and compares it with the hashes that the snapshot recorded and with the live files
// that have not changed since. Collections of a MongoDB are decoded to their last document, and their documents are compared with
// what the manifest counted.
//
// The sample is stratified: a unit is what somebody would miss as a whole - a user's folder, a collection - and each unit is
// to be drilled within a span of time, a week mostly. A ledger in the repository says which unit was drilled when, so that
// any machine goes on where another one ended, and can tell what is overdue. Within a unit, files are drawn at random from
// all classes of size. What a drill restores is bounded in bytes, lies in a folder of its own that nobody else can read, and is
// removed before the next unit comes.
package drill

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/snapshot"
)

// Options are the options of Run. Newest and Scratch are required.
type Options struct {
	Newest *snapshot.Snapshot // of the instance, complete
	Oldest *snapshot.Snapshot // nil where it is the same
	Ledger []Record           // what earlier drills did, of this instance

	Every  time.Duration // each unit is to be drilled so often; 0 = a week
	Budget int64         // bytes of content to restore, or to decode; 0 = 1 GiB
	Depth  map[string]int
	Only   []string // units, or folders above them; none = those that are due
	All    bool     // those that are not due as well

	// Live is where a source's files are on this machine, by label. What is not there is not compared.
	Live map[string]string
	// Documents reads a stream of BSON documents to its end and counts them.
	Documents func(ctx context.Context, r io.Reader) (int64, error)

	Scratch string // a folder of the drill's own
	Memory  int64  // of a restore
	Now     time.Time
	Rand    *rand.Rand                       // nil: seeded by chance
	OnUnit  func(done, all int, bytes int64) // after each unit; may be nil
}

const (
	defaultEvery  = 7 * 24 * time.Hour
	defaultBudget = 1 << 30
)

// Period is within which span of time each unit is to be drilled.
func (o *Options) Period() time.Duration {
	if o.Every == 0 {
		return defaultEvery
	}
	return o.Every
}

// BudgetBytes is how much may be restored and decoded.
func (o *Options) BudgetBytes() int64 {
	if o.Budget == 0 {
		return defaultBudget
	}
	return o.Budget
}

// A Mismatch is something that did not come back as it was.
type Mismatch struct {
	Unit   string `json:"unit"`
	Path   string `json:"path"` // in the snapshot; "" = the unit as a whole
	Error  string `json:"error"`
	Damage bool   `json:"damage"` // stored data are missing or damaged
}

// A Unit is what a drill did about one unit.
type Unit struct {
	Path      string `json:"unit"`
	Snapshot  string `json:"snapshot"` // id
	Old       bool   `json:"oldest"`   // of the oldest snapshot
	Files     int64  `json:"files"`
	Bytes     int64  `json:"bytes"`
	Documents int64  `json:"documents,omitempty"`
	Bad       int64  `json:"mismatches"`
	Skipped   string `json:"skipped,omitempty"` // why nothing of it was tried
}

// Live counts what was compared with files of this machine.
type Live struct {
	Equal   int64 `json:"equal"`
	Changed int64 `json:"changed"` // size or time differ, or it was changed in a way that keeps them
	Gone    int64 `json:"gone"`
	Unread  int64 `json:"unread"` // could not be read here
}

// A Report is what a drill found.
type Report struct {
	Units       []Unit     `json:"units"`
	Files       int64      `json:"files"`
	Bytes       int64      `json:"bytes"` // restored or decoded
	Documents   int64      `json:"documents"`
	Collections int64      `json:"collections"`
	Live        Live       `json:"live"`
	Mismatches  []Mismatch `json:"mismatches"` // the first of them
	Bad         int64      `json:"bad"`        // all of them
	Damaged     int64      `json:"damaged"`    // those for which stored data are missing or damaged
	Coverage    Coverage   `json:"coverage"`   // with this drill
}

// maxMismatches bounds what a report lists.
const maxMismatches = 1000

// runner is one call of Run.
type runner struct {
	Options
	r   *repo.Repository
	rep *Report
}

// Run drills what is due. r's index is loaded. An error means that the drill could not be done to its end; what was done until
// then is in the report. What did not come back as it was is no error, but in the report.
func Run(ctx context.Context, r *repo.Repository, o Options) (*Report, error) {
	o.Every, o.Budget = o.Period(), o.BudgetBytes()
	if o.Rand == nil {
		o.Rand = rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	}
	d := &runner{Options: o, r: r, rep: &Report{Units: []Unit{}, Mismatches: []Mismatch{}}}
	p, err := MakePlan(ctx, r, o)
	if err != nil {
		return d.rep, err
	}
	for i := range p.tasks {
		if err = d.unit(ctx, &p.tasks[i], i); err != nil {
			break
		}
		if o.OnUnit != nil {
			o.OnUnit(i+1, len(p.tasks), d.rep.Bytes)
		}
	}
	d.counts(o.Newest, false, p.units)
	if o.Oldest != nil {
		d.counts(o.Oldest, true, p.old)
	}
	d.rep.Coverage = p.coverage(o, append(slices.Clone(o.Ledger), d.rep.record(o)))
	return d.rep, err
}

// unit drills one unit.
func (d *runner) unit(ctx context.Context, t *task, n int) error {
	u := Unit{Path: t.unit.Path, Snapshot: t.snap.Ref.ID.String(), Old: t.old}
	before := d.rep.Bad
	var err error
	if t.unit.collection {
		err = d.collection(ctx, t, &u)
	} else {
		err = d.files(ctx, t, &u, n)
	}
	if err != nil {
		return fmt.Errorf("drilling %s: %w", t.unit.Path, err)
	}
	u.Bad = d.rep.Bad - before
	d.rep.Files += u.Files
	d.rep.Bytes += u.Bytes
	d.rep.Documents += u.Documents
	d.rep.Units = append(d.rep.Units, u)
	return nil
}

// mismatch notes one.
func (d *runner) mismatch(unit, path string, err error) {
	d.rep.Bad++
	_, damage := errors.AsType[*repo.DamageError](err)
	if damage {
		d.rep.Damaged++
	}
	if len(d.rep.Mismatches) < maxMismatches {
		d.rep.Mismatches = append(d.rep.Mismatches, Mismatch{unit, path, err.Error(), damage})
	}
}

// collection decodes a collection to its last document.
func (d *runner) collection(ctx context.Context, t *task, u *Unit) error {
	if t.share < t.unit.node.Size {
		u.Skipped = "it is larger than what is left of the budget"
		return nil
	}
	f := snapshot.OpenFile(ctx, d.r, t.unit.node, t.unit.Path, 0)
	documents, err := d.Documents(ctx, f)
	err = errors.Join(err, f.Close())
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		if damage, ok := errors.AsType[*repo.DamageError](err); ok {
			err = damage
		} else if fatal(err) {
			return err
		}
		d.mismatch(t.unit.Path, t.unit.Path, err)
	}
	u.Files, u.Bytes, u.Documents = 1, t.unit.node.Size, documents
	d.rep.Collections++
	return nil
}

// A decodeError says that the bytes came, and are not what they should be.
type decodeError interface{ Malformed() bool }

// fatal reports whether an error is about the storage, not about what it holds.
func fatal(err error) bool {
	var malformed decodeError
	return !errors.As(err, &malformed)
}

// files restores some of a unit's files into the scratch folder, compares them, and removes them.
func (d *runner) files(ctx context.Context, t *task, u *Unit, n int) (err error) {
	chosen, some, err := d.choose(ctx, t)
	if err != nil {
		return err
	}
	if len(chosen) == 0 {
		if some {
			u.Skipped = "none of its files fits into what is left of the budget"
		}
		return nil
	}
	dir := filepath.Join(d.Scratch, strconv.Itoa(n))
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, removeAll(dir)) }()
	monitor := &problems{}
	o := snapshot.RestoreOptions{Snapshot: t.snap, Path: t.unit.root(), Target: snapshot.TargetSpec{Kind: snapshot.TargetFolder, Path: dir},
		NumericIDs: true, Verify: true, Memory: d.Memory, Monitor: monitor}
	if t.unit.single {
		chosen[0].rel = filepath.Base(t.unit.Path)
	} else {
		o.Include = patterns(chosen)
	}
	if _, err := snapshot.Restore(ctx, d.r, o); err != nil {
		return err
	}
	bad := map[string]bool{}
	for _, p := range monitor.list {
		bad[p.path] = true
		d.mismatch(t.unit.Path, p.path, p.err)
	}
	for _, f := range chosen {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		u.Files++
		u.Bytes += f.node.Size
		path := t.unit.path(f.rel)
		if bad[path] {
			continue
		}
		restored := filepath.Join(dir, filepath.FromSlash(f.rel))
		if err := d.recorded(ctx, restored, f.node); err != nil {
			d.mismatch(t.unit.Path, path, err)
			continue
		}
		if err := d.live(ctx, t, restored, f); err != nil {
			d.mismatch(t.unit.Path, path, err)
		}
	}
	return nil
}

// problems gathers what a restore could not do.
type problems struct {
	mu   sync.Mutex // a restore reports from several goroutines
	list []problem
}

type problem struct {
	path string
	err  error
}

// A Coverage says how well the promise is kept that each unit is drilled every so often.
type Coverage struct {
	Units   int         `json:"units"` // of the newest snapshot
	InTime  int         `json:"in_time"`
	Overdue []LastDrill `json:"overdue"` // the longest first
	// Next is when the next unit will be overdue unless it is drilled before; zero where there is no unit.
	Next time.Time `json:"next_overdue,omitzero"`
}

// A LastDrill says when a unit was drilled last; a zero time: never.
type LastDrill struct {
	Unit string    `json:"unit"`
	Time time.Time `json:"time,omitzero"`
}

// Covered says, for each unit of the newest snapshot, when it was last drilled, ordered by unit, and what is overdue.
func Covered(ctx context.Context, r *repo.Repository, o Options) ([]LastDrill, Coverage, error) {
	o.Every = o.Period()
	units, err := unitsOf(ctx, r, o.Newest, o.Depth)
	if err != nil {
		return nil, Coverage{}, err
	}
	p := &Plan{units: units}
	last := lastDrills(o.Ledger, false)
	list := make([]LastDrill, 0, len(units))
	for _, u := range units {
		list = append(list, LastDrill{u.Path, last[u.Path]})
	}
	slices.SortFunc(list, func(a, b LastDrill) int { return cmp.Compare(a.Unit, b.Unit) })
	return list, p.coverage(o, o.Ledger), nil
}
