package drill

import (
	"cmp"
	"context"
	"fmt"
	"hash/fnv"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/snapshot"
)

// A task is one unit to be drilled.
type task struct {
	snap  *snapshot.Snapshot
	old   bool
	unit  unit
	last  time.Time
	share int64 // bytes
}

// A Plan is what a drill will do.
type Plan struct {
	tasks []task
	units []unit // of the newest snapshot
	old   []unit // of the oldest one, if there is another
}

// Planned is one line of a plan, for people.
type Planned struct {
	Unit  string    `json:"unit"`
	Old   bool      `json:"oldest"`
	Last  time.Time `json:"last_drilled,omitzero"`
	Bytes int64     `json:"bytes"` // at most
}

// Lines are what the plan says.
func (p *Plan) Lines() []Planned {
	out := []Planned{}
	for i := range p.tasks {
		t := &p.tasks[i]
		out = append(out, Planned{t.unit.Path, t.old, t.last, min(t.share, t.unit.size)})
	}
	return out
}

// Largest is how much is restored at a time, in bytes: one unit is removed before the next one comes.
func (p *Plan) Largest() (bytes int64) {
	for i := range p.tasks {
		if t := &p.tasks[i]; !t.unit.collection {
			bytes = max(bytes, min(t.share, t.unit.size))
		}
	}
	return bytes
}

// MakePlan chooses the units: those that are due, the longest due first, as far as the budget goes; a quarter of it is for the
// oldest snapshot. It changes nothing.
func MakePlan(ctx context.Context, r *repo.Repository, o Options) (*Plan, error) {
	o.Every, o.Budget = o.Period(), o.BudgetBytes()
	p := &Plan{}
	budget := o.Budget
	if o.Oldest != nil {
		budget -= o.Budget / 4
	}
	var err error
	if p.units, err = unitsOf(ctx, r, o.Newest, o.Depth); err != nil {
		return nil, err
	}
	if err := known(o.Only, p.units); err != nil {
		return nil, err
	}
	p.tasks = choose(o, p.units, o.Newest, false, budget)
	if o.Oldest != nil {
		if p.old, err = unitsOf(ctx, r, o.Oldest, o.Depth); err != nil {
			return nil, err
		}
		p.tasks = append(p.tasks, choose(o, p.old, o.Oldest, true, o.Budget-budget)...)
	}
	return p, nil
}

// known refuses names of units that there are not.
func known(only []string, units []unit) error {
	for _, name := range only {
		if !slices.ContainsFunc(units, func(u unit) bool { return wanted(u.Path, []string{name}) }) {
			return fmt.Errorf("there is nothing to drill at %q: %w", name, fs.ErrNotExist)
		}
	}
	return nil
}

// wanted reports whether a unit is one of those named, or lies below one.
func wanted(unit string, only []string) bool {
	return slices.ContainsFunc(only, func(name string) bool {
		name = strings.TrimSuffix(name, "/")
		return unit == name || strings.HasPrefix(unit, name+"/")
	})
}

// choose chooses the units of one snapshot and divides the budget among them: at most half of it for collections, which are
// read as a whole, if there are folders too; the rest in equal shares.
func choose(o Options, units []unit, s *snapshot.Snapshot, old bool, budget int64) []task {
	last := lastDrills(o.Ledger, old)
	var collections, folders []task
	for _, u := range units {
		if len(o.Only) > 0 && !wanted(u.Path, o.Only) {
			continue
		}
		t := task{snap: s, old: old, unit: u, last: last[u.Path]}
		switch {
		case !o.All && len(o.Only) == 0 && !due(u.Path, t.last, o.Every, o.Now):
		case u.collection:
			collections = append(collections, t)
		default:
			folders = append(folders, t)
		}
	}
	order := func(tasks []task) {
		slices.SortStableFunc(tasks, func(a, b task) int {
			return cmp.Or(a.last.Compare(b.last), cmp.Compare(spread(a.unit.Path), spread(b.unit.Path)))
		})
	}
	order(collections)
	order(folders)
	left := budget
	if len(folders) > 0 {
		left = budget / 2
	}
	whole := left
	kept := collections[:0]
	for _, t := range collections {
		if t.unit.size <= left {
			left -= t.unit.size
			t.share = t.unit.size
			kept = append(kept, t)
		}
	}
	budget -= whole - left
	bySize := make([]*task, len(folders))
	for i := range folders {
		bySize[i] = &folders[i]
	}
	slices.SortStableFunc(bySize, func(a, b *task) int { return cmp.Compare(a.unit.size, b.unit.size) })
	for i, t := range bySize { // what the small ones do not need is for the large ones
		t.share = budget / int64(len(folders)-i)
		budget -= min(t.share, t.unit.size)
	}
	return append(kept, folders...)
}

// due reports whether a unit must be drilled now so that it is drilled in time although there is a run a day only. Units that
// were drilled together are not all due together again.
func due(unit string, last time.Time, every time.Duration, now time.Time) bool {
	if last.IsZero() {
		return true
	}
	part := 4 + float64(spread(unit)%1000)/500 // of 7: from 4 to 6
	return now.Sub(last) >= time.Duration(float64(every)*part/7)
}

// spread is a number that depends on nothing but a unit's name, and says nothing about it.
func spread(unit string) uint32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(unit))
	return h.Sum32()
}

// coverage compares what was drilled with what was promised. A unit that was never drilled is overdue once drills are older
// than the promise.
func (p *Plan) coverage(o Options, ledger []Record) Coverage {
	c := Coverage{Units: len(p.units), Overdue: []LastDrill{}}
	last := lastDrills(ledger, false)
	first := o.Now
	for _, rec := range ledger {
		if rec.Time.Before(first) {
			first = rec.Time
		}
	}
	for _, u := range p.units {
		at, ok := last[u.Path]
		since := at
		if !ok {
			since = first
		}
		until := since.Add(o.Every)
		if until.Before(o.Now) {
			c.Overdue = append(c.Overdue, LastDrill{u.Path, at})
			continue
		}
		c.InTime++
		if c.Next.IsZero() || until.Before(c.Next) {
			c.Next = until
		}
	}
	slices.SortFunc(c.Overdue, func(a, b LastDrill) int { return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(a.Unit, b.Unit)) })
	return c
}
