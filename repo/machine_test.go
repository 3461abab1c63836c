package repo

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/whole-tale/wtsnap/chunk"
)

// machine is a repository and the model of it: what each snapshot holds.
type machine struct {
	tr        *testRepo
	snapshots map[SnapshotRef]content
	forgotten map[SnapshotRef]content
	notes     map[SnapshotID]int
	open      *writer // a session that is under way
	trees     []chunk.ID
	content   content
	t         *testing.T
	ran       map[string]int
}

func (m *machine) draw(rt *rapid.T) content {
	var c content
	for range rapid.IntRange(1, 3).Draw(rt, "trees") {
		names := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a", "b", "c", "d", "e", "f", "g", "h"}), 0, 5, rapid.ID).Draw(rt, "blobs")
		c = append(c, words(names...))
	}
	return c
}

func (m *machine) pick(rt *rapid.T, from map[SnapshotRef]content) SnapshotRef {
	refs := slices.SortedFunc(maps.Keys(from), func(a, b SnapshotRef) int { return a.Time.Compare(b.Time) })
	return refs[rapid.IntRange(0, len(refs)-1).Draw(rt, "snapshot")]
}

func (m *machine) check() error {
	r := m.tr.open(m.tr.mem)
	refs, err := r.Snapshots(m.t.Context())
	if err != nil {
		return err
	}
	if len(refs) != len(m.snapshots) {
		return fmt.Errorf("%d snapshots, the model has %d", len(refs), len(m.snapshots))
	}
	for ref, c := range m.snapshots {
		if err := holds(m.t.Context(), r, ref, c); err != nil {
			return fmt.Errorf("snapshot %s: %w", ref.ID.Short(), err)
		}
	}
	notes, err := r.Annotations(m.t.Context())
	if err != nil {
		return err
	}
	for ref := range m.snapshots {
		if len(notes[ref.ID]) != m.notes[ref.ID] {
			return fmt.Errorf("snapshot %s has %d notes, the model %d", ref.ID.Short(), len(notes[ref.ID]), m.notes[ref.ID])
		}
	}
	rep, err := r.Check(m.t.Context(), CheckOptions{References: references(r), ReadShare: 1})
	if err != nil {
		return err
	}
	if len(rep.Problems) > 0 {
		return fmt.Errorf("check: %+v", rep.Problems)
	}
	return nil
}

// step does one thing to the repository and to the model.
func (m *machine) step(rt *rapid.T) error {
	ctx := m.t.Context()
	r := m.tr.open(m.tr.st)
	what := rapid.SampledFrom([]string{"backup", "backup", "begin", "commit", "forget", "undelete", "prune", "prune", "prune all",
		"annotate", "wait", "repair", "merge", "abandon"}).Draw(rt, "step")
	switch what {
	case "backup":
		c := m.draw(rt)
		ref, err := backup(ctx, r, c)
		if err != nil {
			return err
		}
		m.snapshots[ref] = c
	case "begin":
		if m.open != nil {
			return nil
		}
		m.open = m.tr.begin(m.tr.st)
		m.content, m.trees = m.draw(rt), nil
		for _, blobs := range m.content {
			id, err := m.open.tryPut(blobs)
			if err != nil {
				return err
			}
			m.trees = append(m.trees, id)
		}
	case "commit":
		if m.open == nil {
			return nil
		}
		w := m.open
		m.open = nil
		ref, err := w.s.Commit(ctx, w.payload(m.trees...))
		if err := errors.Join(err, w.s.Close(ctx)); err != nil {
			return err
		}
		m.snapshots[ref] = m.content
	case "abandon":
		if m.open == nil {
			return nil
		}
		w := m.open
		m.open = nil
		return w.s.Close(ctx)
	case "forget":
		if len(m.snapshots) == 0 {
			return nil
		}
		ref := m.pick(rt, m.snapshots)
		if err := r.Forget(ctx, []SnapshotRef{ref}); err != nil {
			return err
		}
		m.forgotten[ref] = m.snapshots[ref]
		delete(m.snapshots, ref)
	case "undelete":
		if len(m.forgotten) == 0 {
			return nil
		}
		return m.undelete(rt, r)
	case "prune", "prune all":
		o := PruneOptions{Grace: MinGrace, MaxUnused: float64(rapid.SampledFrom([]int{0, 5, 50}).Draw(rt, "unused")), Level: chunk.LevelNone}
		if what == "prune all" {
			if m.open != nil {
				return nil // it says that nobody else is active
			}
			o.Grace = 0
		}
		if _, _, err := prune(ctx, r, o); err != nil {
			return err
		}
		for what == "prune all" && len(m.forgotten) > 0 { // mostly too late
			if err := m.undelete(rt, r); err != nil {
				return err
			}
		}
	case "annotate":
		if len(m.snapshots) == 0 {
			return nil
		}
		ref := m.pick(rt, m.snapshots)
		m.notes[ref.ID]++
		if err := r.Annotate(ctx, ref.ID, []byte("n")); err != nil {
			return err
		}
	case "wait":
		time.Sleep(time.Duration(rapid.IntRange(1, 100).Draw(rt, "minutes")) * time.Minute)
	case "merge":
		before := len(list(m.t, m.tr.mem, indexDir))
		if err := mergeAll(ctx, r); err != nil {
			return err
		}
		if before > 1 && len(list(m.t, m.tr.mem, indexDir)) == 1 {
			what = "merge of several"
		}
	case "repair":
		if _, err := r.RepairIndex(ctx, false); err != nil {
			return err
		}
	}
	m.ran[what]++
	return nil
}

// undelete brings a forgotten snapshot back, if a prune has not swept it.
func (m *machine) undelete(rt *rapid.T, r *Repository) error {
	ref := m.pick(rt, m.forgotten)
	switch err := r.Undelete(m.t.Context(), []SnapshotRef{ref}); {
	case errors.Is(err, ErrSwept):
		m.ran["undelete of what was swept"]++
	case err != nil:
		return err
	default:
		m.snapshots[ref] = m.forgotten[ref]
		m.ran["undelete"]++
	}
	delete(m.forgotten, ref)
	return nil
}

// The state machine: anything in any order, compared with the model after each step.
func TestStateMachine(t *testing.T) {
	base := newRepo(t)
	ran := map[string]int{}
	if slow() {
		must0(t, flag.Set("rapid.checks", "3000"))
	}
	rapid.Check(t, func(rt *rapid.T) {
		var failure error
		synctest.Test(t, func(t *testing.T) {
			m := &machine{t: t, tr: base.at(t, base.mem.Clone()), snapshots: map[SnapshotRef]content{}, forgotten: map[SnapshotRef]content{},
				notes: map[SnapshotID]int{}, ran: ran}
			m.tr.backup(nil)
			m.snapshots[must[[]SnapshotRef](t)(m.tr.open(m.tr.st).Snapshots(t.Context()))[0]] = nil
			for range rapid.IntRange(1, 40).Draw(rt, "steps") {
				if failure = m.step(rt); failure == nil {
					failure = m.check()
				}
				if failure != nil {
					break
				}
			}
			if m.open != nil {
				if err := m.open.s.Close(t.Context()); failure == nil {
					failure = err
				}
			}
		})
		if failure != nil {
			rt.Fatal(failure)
		}
	})
	t.Logf("%v", ran)
	for _, what := range []string{"undelete", "undelete of what was swept", "commit", "prune all", "repair", "merge of several"} {
		if ran[what] == 0 {
			t.Errorf("no %s: the walks are vacuous", what)
		}
	}
}
