package mongo

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/whole-tale/wtsnap/mongo/internal/mongotest"
	"github.com/whole-tale/wtsnap/mongo/transform"
	"github.com/whole-tale/wtsnap/snapshot"
)

// updates reads updates, as a file of --transform has them, with a secret.
func updates(t *testing.T, text string) []transform.Statement {
	t.Helper()
	f, err := transform.Parse([]byte("[values]\nsecret = { env = \"X\" }\n" + text))
	must(t, err)
	list, err := f.Fill(func(string, string) (string, error) { return "hush", nil })
	must(t, err)
	return list
}

func anUpdate(filter, update, matches, more string) string {
	return fmt.Sprintf("[[update]]\nnamespace = \"d.c\"\nfilter = '%s'\nupdate = '%s'\nmatches = %s\n%s\n", filter, update, matches, more)
}

// TestRestoreUpdates makes updates after a restore of each mode; the dry run foresees what each means.
func TestRestoreUpdates(t *testing.T) {
	list := updates(t, anUpdate(`{"_id":{"$lt":5}}`, `{"$set":{"w":"${secret}"}}`, "5", "")+
		anUpdate(`{"v":"old"}`, `{"$set":{"x":1}}`, `"0.."`, "")+
		anUpdate(`{"v":"new"}`, `{"$set":{"x":2}}`, `"0.."`, "")+
		anUpdate(`{"_id":"made"}`, `{"$set":{"y":"${secret}"}}`, "1", "upsert = true")+
		anUpdate(`{"_id":7}`, `{"$set":{"y":1}}`, "2", "")) // which is not so
	for _, c := range []struct {
		mode RestoreMode
		want []int64 // documents that each update means
	}{
		{InsertMissing, []int64{6, 48, 3, 0, 1}}, // -1 is new, and lower than 5, too
		{Overwrite, []int64{6, 50, 1, 0, 1}},
		{DropExisting, []int64{5, 50, 0, 0, 1}},
	} {
		v, snap, s := pair(t, 50)
		s.Delete("d.c", 3)
		s.Update("d.c", 4, item(4, "new"))
		s.Update("d.c", 20, item(20, "new"))
		s.Insert("d.c", item(-1, "new"))
		wrong := 0 // updates that mean another number than they should
		for i, n := range c.want {
			if e := list[i].Expected; !e.Has(n) && !list[i].Upsert {
				wrong++
			}
		}
		before := stateOf(s)
		for _, dry := range []bool{true, false} {
			rep, mon, err := v.restoreTo(s.URI(), &Restorer{Mode: c.mode, Updates: list}, snapshot.RestoreOptions{Snapshot: snap, DryRun: dry})
			must(t, err)
			var got []int64
			for _, u := range rep.Updates {
				got = append(got, u.Matched)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("mode %d, dry %v: -want +got\n%s", c.mode, dry, diff)
			}
			if wrong == 0 || len(mon.problems) != wrong || rep.Problems != int64(wrong) || !rep.Updates[4].Failed || rep.Updates[4].Done || rep.Updates[1].Done == dry {
				t.Errorf("mode %d, dry %v: %v, %+v", c.mode, dry, mon.problems, rep.Updates)
			}
			if text := fmt.Sprint(mon.problems, rep); strings.Contains(text, "hush") {
				t.Errorf("the secret was said: %s", text)
			}
			if dry {
				if diff := cmp.Diff(before, stateOf(s)); diff != "" {
					t.Errorf("mode %d: trying changed something: %s", c.mode, diff)
				}
			} else if rep.Updates[3].Inserted != 1 || rep.Updates[1].Changed != c.want[1] {
				t.Errorf("%+v", rep.Updates)
			}
		}
		after := stateOf(s)
		if !strings.Contains(fmt.Sprint(s.Documents("d.c")), `"y": "hush"`) {
			t.Error("nothing was changed")
		}
		if c.mode != DropExisting { // whoever runs it again finds nothing to change
			_, _, err := v.restoreTo(s.URI(), &Restorer{Mode: c.mode, Updates: list}, snapshot.RestoreOptions{Snapshot: snap})
			must(t, err)
			if diff := cmp.Diff(after, stateOf(s)); diff != "" {
				t.Errorf("mode %d, again: %s", c.mode, diff)
			}
		}
	}
}

// TestRestoreUpdatesOfOthers: what is not restored is not changed either.
func TestRestoreUpdatesOfOthers(t *testing.T) {
	v, snap, s := pair(t, 5)
	s.Insert("d.other", item(1, "x"))
	before := stateOf(s)
	list := updates(t, strings.Replace(anUpdate(`{"_id":1}`, `{"$set":{"w":"${secret}"}}`, "1", ""), "d.c", "d.other", 1))
	_, _, err := v.restoreTo(s.URI(), &Restorer{Mode: Overwrite, Updates: list}, snapshot.RestoreOptions{Snapshot: snap})
	if e, ok := errors.AsType[*transform.Error](err); !ok || !strings.Contains(e.Error(), "d.other, which is not among what is restored: d.c") {
		t.Error(err)
	}
	if diff := cmp.Diff(before, stateOf(s)); diff != "" {
		t.Error(diff)
	}
}

// TestRestoreUpdatesAgain ends a restore at each command, for good, and runs it again: the end is that of one that was
// never interrupted, the document that an update makes included.
func TestRestoreUpdatesAgain(t *testing.T) {
	list := updates(t, anUpdate(`{"_id":1}`, `{"$set":{"w":"${secret}"}}`, "1", "")+anUpdate(`{"k":"made"}`, `{"$setOnInsert":{"_id":"made"},"$set":{"y":1}}`, "1", "upsert = true")+
		anUpdate(`{"v":"old"}`, `{"$set":{"v":"newer"}}`, `"0.."`, ""))
	v, snap, _ := pair(t, 20)
	for _, mode := range []RestoreMode{RefuseExisting, DropExisting} {
		whole := mongotest.Start(t, mongotest.Options{})
		v.restored(whole.URI(), &Restorer{Mode: mode, Updates: list}, snapshot.RestoreOptions{Snapshot: snap})
		want := stateOf(whole)
		ended := 0
		for n := 1; ; n++ {
			s := mongotest.Start(t, mongotest.Options{})
			if mode == DropExisting {
				s.Insert("d.c", item(99, "x"))
			}
			ctx, cancel := context.WithCancel(t.Context())
			hit := cutAt(s, n, cancel)
			o := snapshot.RestoreOptions{Snapshot: snap, Target: snapshot.TargetSpec{Kind: snapshot.TargetMongoDB, Path: s.URI()}}
			o.Foreign, o.Monitor = &Restorer{Mode: mode, Updates: list}, &recorder{}
			_, err := snapshot.Restore(ctx, v.r, o)
			cancel()
			if !hit() {
				must(t, err)
				break
			}
			if err != nil {
				ended++
				v.restored(s.URI(), &Restorer{Mode: mode, Updates: list}, snapshot.RestoreOptions{Snapshot: snap})
			}
			got := stateOf(s)
			if err == nil {
				delete(got, journalDB+"."+journalName) // only the journal stays
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("mode %d, command %d: %s", mode, n, diff)
			}
		}
		if ended < 8 {
			t.Errorf("mode %d: ended %d times", mode, ended)
		}
	}
}

// cutAt ends a client's work at the nth command from now on, as its death does: before it was run, or after it. The
// function says whether it came that far.
func cutAt(s *mongotest.Server, n int, end func()) (hit func() bool) {
	var count atomic.Int64
	s.OnCommand(func(c mongotest.Call) *mongotest.Outcome {
		if c.Name == "endSessions" || count.Add(1) != int64(n) {
			return nil
		}
		end()
		return &mongotest.Outcome{Drop: []mongotest.DropKind{mongotest.DropBefore, mongotest.DropAfter}[n%2]}
	})
	return func() bool { return count.Load() >= int64(n) }
}
