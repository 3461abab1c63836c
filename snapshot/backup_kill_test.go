package snapshot

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/repo/storage"
	"github.com/whole-tale/wtsnap/repo/storage/mem"
	"github.com/whole-tale/wtsnap/repo/storage/storagetest"
)

// stored sums the sizes of the packs.
func stored(t *testing.T, st storage.Storage) (sum int64) {
	t.Helper()
	must(t, st.List(t.Context(), "packs/", func(i storage.Info) error {
		sum += i.Size
		return nil
	}))
	return sum
}

// A first backup ends, as by a kill, after each of the changes that it makes to the storage. The next run stores what is
// missing, and no more: packs that are there are not uploaded again, whether an index lists them yet or not.
func TestKilledAtEveryOperation(t *testing.T) {
	for _, c := range []struct {
		name        string
		checkpoints bool
		fill        func(v *vault)
	}{
		{"homes", false, func(v *vault) {
			for i := range 120 {
				v.random(fmt.Sprintf("home%d/%03d", i%7, i), []int{20, 300, 1000}[i%3]<<10)
			}
		}},
		{"one large file", false, func(v *vault) { v.random("large", 54<<20) }},
		{"with checkpoints", true, func(v *vault) {
			for i := range 40 {
				v.random(fmt.Sprintf("home%d/%03d", i%3, i), 50<<10)
			}
			v.random("large", 3<<20)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := newVault(t)
			v.opts.CheckpointInterval = -1
			if c.checkpoints {
				v.opts.CheckpointInterval = 0
				v.checkpointing()
			}
			c.fill(v)
			v.settle()
			base := v.st.Clone()
			v.fault.Reset()
			v.fault.Record()
			v.backup()
			var changes []storagetest.Op
			packs := 0
			for _, op := range v.fault.Ops() {
				if op.Kind.Changes() {
					changes = append(changes, op)
				}
				if op.Kind == storagetest.Put && strings.HasPrefix(op.Name, "packs/") {
					packs++
				}
			}
			if packs < 4 {
				t.Fatalf("%d packs are too few to prove anything", packs)
			}
			whole := stored(t, v.st)
			slack := int64(packs) << 10 // small packs differ by their padding
			step := 1
			if os.Getenv("WTSNAP_SLOW") == "" {
				step = 1 + len(changes)/20
			}
			for n := 0; n <= len(changes); n += step {
				m := base.Clone()
				must(t, storagetest.Replay(m, changes[:n]))
				left := stored(t, m)
				v.again(m)
				if sum := stored(t, m); sum > whole+whole/50+slack {
					t.Errorf("killed after %d of %d changes: %d bytes were uploaded before and %d after, for %d", n, len(changes), left, sum-left, whole)
				}
			}
			t.Logf("killed at one in %d of %d places", step, len(changes)+1)
		})
	}
}

// again runs the backup on what a killed run has left, in a process of its own, as it were, and reads all of it.
func (v *vault) again(m *mem.Storage) {
	v.t.Helper()
	r, err := repo.Open(v.t.Context(), m, repo.OpenOptions{Password: v.key})
	must(v.t, err)
	o := v.options()
	o.CheckpointInterval, o.ticks = -1, nil
	rep, err := Backup(v.t.Context(), r, o)
	must(v.t, err)
	if !rep.Snapshot.Complete || rep.Snapshot.Checkpoint {
		v.t.Fatalf("the next run stored %+v", rep.Snapshot.Manifest)
	}
	r, err = repo.Open(v.t.Context(), m, repo.OpenOptions{Password: v.key})
	must(v.t, err)
	must(v.t, r.LoadIndex(v.t.Context()))
	check, err := r.Check(v.t.Context(), repo.CheckOptions{References: References(TreeLoader(r)), ReadShare: 1})
	must(v.t, err)
	if len(check.Problems) > 0 {
		v.t.Fatalf("check after the next run: %+v", check.Problems)
	}
}
