package mongo

import (
	"errors"
	"strings"
	"testing"

	"github.com/whole-tale/wtsnap/mongo/internal/mongotest"
	"github.com/whole-tale/wtsnap/snapshot"
)

// TestRestoreGuard: who may restore what into which database.
func TestRestoreGuard(t *testing.T) {
	v, snap, mine := pair(t, 10)
	unknown := mongotest.Start(t, mongotest.Options{})
	unknown.Insert("d.c", item(1, "x"))
	other := mongotest.Start(t, mongotest.Options{})
	other.Load("d.pad")
	other.Insert("d.pad", item(1, "x"))
	other.Insert("d.c", item(1, "x"))
	if other.UUID("d.c") == mine.UUID("d.c") {
		t.Fatal("two collections have one UUID")
	}
	rep, err := snapshot.Backup(t.Context(), v.r, snapshot.BackupOptions{Instance: "other", Sources: []snapshot.SourceSpec{dumped(folderOf(t, other), nil)}, Time: v.now, SampleNights: -1})
	must(t, err)
	if !rep.Snapshot.Complete {
		t.Fatal("incomplete")
	}
	for _, c := range []struct {
		name      string
		to        *mongotest.Server
		own, into string
		refused   string
	}{
		{"its own", mine, "", "", ""},
		{"its own, from another's machine", mine, "other", "", ""},
		{"another's", other, "test", "", `belongs to "other"`},
		{"another's, on its machine", other, "other", "", `belongs to "other"`},
		{"another's, said", other, "test", "other", ""},
		{"another's, said wrong", other, "test", "test", `belongs to "other"`},
		{"unknown, no machine's", mongotest.Start(t, mongotest.Options{}), "other", "", ""},
	} {
		_, _, err := v.restoreTo(c.to.URI(), &Restorer{Mode: Overwrite}, snapshot.RestoreOptions{Snapshot: snap, OwnInstance: c.own, Into: c.into, DryRun: true})
		var guard *snapshot.TargetGuardError
		if (c.refused != "") != errors.As(err, &guard) || guard != nil && !strings.Contains(guard.Reason, c.refused) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	// A database that no dump knows: the machine decides.
	unknown.Drop("d.c")
	unknown.Load("x.y")
	unknown.Load("x.z")
	unknown.Insert("d.c", item(1, "x"))
	for own, want := range map[string]bool{"": false, "test": false, "other": true} {
		_, _, err := v.restoreTo(unknown.URI(), &Restorer{Mode: Overwrite}, snapshot.RestoreOptions{Snapshot: snap, OwnInstance: own, DryRun: true})
		var guard *snapshot.TargetGuardError
		if errors.As(err, &guard) != want {
			t.Errorf("own %q: %v", own, err)
		}
	}
}

// TestRestoreGuardOfCopies: a server that is a copy of another's disk has its UUIDs. Then it matters where dumps were read.
func TestRestoreGuardOfCopies(t *testing.T) {
	v, snap, mine := pair(t, 10)
	save := func(instance string, day int, source snapshot.SourceSpec) *snapshot.Snapshot {
		t.Helper()
		rep, err := snapshot.Backup(t.Context(), v.r, snapshot.BackupOptions{Instance: instance, Sources: []snapshot.SourceSpec{source},
			Time: v.now.AddDate(0, 0, day), Monitor: &recorder{}, SampleNights: -1})
		must(t, err)
		return rep.Snapshot
	}
	refused := func(s *snapshot.Snapshot, into string) string {
		t.Helper()
		_, _, err := v.restoreTo(mine.URI(), &Restorer{Mode: Overwrite}, snapshot.RestoreOptions{Snapshot: s, Into: into, DryRun: true})
		var guard *snapshot.TargetGuardError
		if errors.As(err, &guard) {
			return guard.Reason
		}
		must(t, err)
		return ""
	}
	const unclear = "may belong to any of the instances copy, test"
	save("older", -30, dumped(folderOf(t, mine), nil)) // the name that it had
	clone := save("copy", 1, dumped(folderOf(t, mine), nil))
	for into, want := range map[string]string{"": unclear, "test": "", "copy": "", "third": unclear} {
		if got := refused(snap, into); (want == "") != (got == "") || !strings.Contains(got, want) {
			t.Errorf("into %q: %q, want %q", into, got, want)
		}
	}
	snap = save("test", 2, native(t, SourceOptions{Address: mine.URI()}))
	if got := refused(snap, ""); got != "" {
		t.Errorf("its own, read from it: %q", got)
	}
	if got := refused(clone, ""); !strings.Contains(got, `belongs to "test"`) {
		t.Errorf("the copy's: %q", got)
	}
}
