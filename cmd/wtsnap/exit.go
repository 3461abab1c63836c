package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/whole-tale/wtsnap/cmd/wtsnap/spelling"
	"github.com/whole-tale/wtsnap/mongo/ownership"
	"github.com/whole-tale/wtsnap/mongo/query"
	"github.com/whole-tale/wtsnap/mongo/transform"
	"github.com/whole-tale/wtsnap/mongo/whole"
	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/repo/storage"
	"github.com/whole-tale/wtsnap/repo/storage/retry"
	"github.com/whole-tale/wtsnap/snapshot"
	"github.com/whole-tale/wtsnap/snapshot/exclude"
	"github.com/whole-tale/wtsnap/snapshot/mount"
)

// The exit codes; docs/exit-codes.md tells what to do about each.
const (
	exitOK           = 0
	exitFailed       = 1
	exitUsage        = 2
	exitPartial      = 3 // a snapshot, or a restored folder, that lacks some entries
	exitIncomplete   = 4
	exitCredentials  = 5
	exitLate         = 6
	exitNoRepository = 10
	exitBusy         = 11
	exitPassword     = 12
	exitDamage       = 13
	exitSourceGuard  = 14
	exitTargetGuard  = 15
	exitInterrupted  = 130
)

// A statusError is how a run ended that made what it was to make, but not all of it: its report has been printed.
type statusError struct {
	code int
	text string
	hint string
	err  error // what else went wrong; may be nil
}

func (e *statusError) Error() string {
	if e.err != nil {
		return e.text + ": " + e.err.Error()
	}
	return e.text
}

func (e *statusError) Unwrap() error { return e.err }

// A pluginExit is the exit code of a monitoring plugin, which is not one of ours; standard output says why.
type pluginExit int

func (e pluginExit) Error() string { return fmt.Sprintf("state %d", int(e)) }

// exitCode is the only place that turns errors into exit codes. The gravest of several counts: an interruption, a
// mistake in the command line, then damage, credentials, guards, the password, no repository, busy, the rest.
func exitCode(ctx context.Context, err error) int {
	if err == nil {
		return exitOK
	}
	if e, ok := errors.AsType[pluginExit](err); ok {
		return int(e)
	}
	if errors.Is(err, errInterrupted) || context.Cause(ctx) == errInterrupted && isCanceled(err) {
		return exitInterrupted
	}
	if isUsage(err) {
		return exitUsage
	}
	for _, rule := range []struct {
		code int
		is   bool
	}{
		{exitDamage, is[*repo.DamageError](err)},
		{exitCredentials, errors.Is(err, storage.ErrAuth)},
		{exitSourceGuard, is[*snapshot.GuardError](err) || is[*snapshot.AnomalyError](err) || is[*snapshot.HeldError](err)},
		{exitTargetGuard, is[*snapshot.TargetGuardError](err)},
		{exitPassword, errors.Is(err, repo.ErrWrongPassword)},
		{exitNoRepository, errors.Is(err, repo.ErrNoRepository)},
		{exitBusy, errors.Is(err, repo.ErrBusy)},
		{exitIncomplete, is[*snapshot.StoppedError](err)},
	} {
		if rule.is {
			return rule.code
		}
	}
	if e, ok := errors.AsType[*statusError](err); ok {
		return e.code
	}
	return exitFailed
}

func is[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

func isCanceled(err error) bool {
	return errors.Is(err, errInterrupted) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || is[*statusError](err)
}

// isUsage reports whether the command line, the environment or the configuration must be corrected.
func isUsage(err error) bool {
	return is[*usageError](err) || is[*snapshot.SpecError](err) || is[*snapshot.BadPathError](err) || is[*snapshot.InstanceError](err) ||
		is[*snapshot.AmbiguousError](err) || is[*snapshot.TimeError](err) || is[*snapshot.DurationError](err) ||
		is[*snapshot.TagError](err) || is[*snapshot.ListError](err) || is[*snapshot.TargetSpecError](err) || is[*snapshot.OwnerMapError](err) ||
		is[*exclude.PatternError](err) || is[*ownership.MapError](err) || is[*transform.Error](err) || is[*query.Error](err) || is[*whole.TargetError](err) || errors.Is(err, storage.ErrConfig)
}

// interruption makes of an error that the user brought about one that says what was kept and what to do; others come back.
func interruption(ctx context.Context, err error, text, hint string) error {
	if err != nil && context.Cause(ctx) == errInterrupted && isCanceled(err) && !is[*statusError](err) {
		return &statusError{exitInterrupted, text, hint, nil}
	}
	return err
}

// backupStatus turns the report of a backup and its error into the error that the command ends with.
func backupStatus(rep *snapshot.BackupReport, err error) error {
	switch {
	case err != nil && rep != nil && rep.Stopped != nil && rep.Snapshot == nil:
		return &statusError{exitIncomplete, "backing up: ended before anything new was saved", "run the same command again, in a window that is long enough", err}
	case err != nil && rep != nil && rep.Snapshot != nil && rep.Snapshot.Checkpoint:
		return &statusError{exitIncomplete, "backing up: ended before the end; checkpoint " + rep.Snapshot.Ref.ID.Short() + " holds what was done",
			"run the same command again: it goes on from there, and uploads nothing twice", err}
	case err != nil:
		return err
	case rep.Problems > 0 || !rep.Snapshot.Complete:
		text := "backing up: snapshot " + rep.Snapshot.Ref.ID.Short() + " was saved with " + plural(rep.Problems, "problem", "problems")
		if !rep.Snapshot.Complete {
			text = "backing up: snapshot " + rep.Snapshot.Ref.ID.Short() + " was saved, but it is incomplete: a source is missing, in part or as a whole"
		}
		return &statusError{exitPartial, text, "look at what is named above; the next backup tries that again", nil}
	}
	return nil
}

// checkStatus turns the report of a check into the error that the command ends with.
func checkStatus(rep *repo.CheckReport, err error) error {
	if err != nil || len(rep.Problems) == 0 {
		return err
	}
	return &statusError{exitDamage, "checking the repository: " + plural(len(rep.Problems), "problem", "problems") + " found",
		"what each problem says; docs/operations.md has more", nil}
}

// restoreStatus turns the report of a restore and its error into the error that the command ends with.
func restoreStatus(rep *snapshot.RestoreReport, err error) error {
	if err != nil || rep == nil || rep.Problems == 0 {
		return err
	}
	text := "restoring: " + plural(rep.Problems, "entry is", "entries are") + " not as in the snapshot"
	if rep.Documents != nil {
		text = "restoring: " + plural(rep.Problems, "thing is", "things are") + " not as in the snapshot"
		if n := rep.Documents.Failed; n > 0 {
			text = "restoring: " + plural(n, "document is", "documents are") + " not as in the snapshot"
		}
	}
	if rep.Damaged > 0 {
		return &statusError{exitDamage, text + "; for " + number(rep.Damaged) + " of them stored data are missing or damaged",
			"wtsnap check --read-data names all that is damaged; an older snapshot may have these files whole", nil}
	}
	failed := int64(0)
	for _, u := range rep.Updates {
		if u.Failed {
			failed++
		}
	}
	if failed > 0 && failed == rep.Problems {
		return &statusError{exitFailed, "restoring: the documents are as in the snapshot, but " + plural(failed, "update is", "updates are") + " not as expected",
			"look at what is named above, correct the file of --transform or the documents, and run the same command again", nil}
	}
	if rep.Documents != nil {
		return &statusError{exitFailed, text, "look at what is named above; what was restored stays, and --insert-missing adds what is missing", nil}
	}
	return &statusError{exitPartial, text, "look at what is named above and run the same command again: it writes only what is missing", nil}
}

// hint is what the user can do about an error, or "".
func hint(err error) string {
	switch {
	case is[*usageError](err):
		e, _ := errors.AsType[*usageError](err)
		return e.hint
	case is[*statusError](err):
		e, _ := errors.AsType[*statusError](err)
		return e.hint
	case is[*snapshot.NotFoundError](err):
		e, _ := errors.AsType[*snapshot.NotFoundError](err)
		return e.Hint
	case is[*snapshot.TargetGuardError](err):
		e, _ := errors.AsType[*snapshot.TargetGuardError](err)
		return e.Hint
	case is[*snapshot.ListError](err):
		e, _ := errors.AsType[*snapshot.ListError](err)
		return e.Hint
	case is[*whole.TargetError](err):
		e, _ := errors.AsType[*whole.TargetError](err)
		return e.Hint
	case is[*snapshot.AnomalyError](err):
		e, _ := errors.AsType[*snapshot.AnomalyError](err)
		return anomalyHint(e.Parent, e.Snapshot)
	case is[*snapshot.HeldError](err):
		e, _ := errors.AsType[*snapshot.HeldError](err)
		return anomalyHint(e.Snapshots[0].Parent, e.Snapshots[0].Ref.ID)
	case is[*snapshot.GuardError](err):
		if e, _ := errors.AsType[*snapshot.GuardError](err); e.Before == 0 {
			return "look at the source: is its file system mounted, is it the right folder?"
		}
		return "look at the source; --allow-shrink if it is meant to be so"
	case mongoHint(err) != "":
		return mongoHint(err)
	case is[*mount.Error](err):
		return mountHint(err)
	case is[*snapshot.InstanceError](err):
		return "--instance NAME"
	case is[*snapshot.AmbiguousError](err):
		return "write more digits"
	case is[*snapshot.UnsupportedTargetError](err):
		return "restore to a folder, tar:FILE or zip:FILE"
	case is[*snapshot.DiskFullError](err):
		return "make room and run the same command again: it writes only what is missing"
	case is[*snapshot.SpecError](err):
		if e, _ := errors.AsType[*snapshot.SpecError](err); strings.Contains(e.Text, "/") && !strings.Contains(e.Text, ":") {
			return "latest:" + e.Text
		} else if name, path, ok := strings.Cut(e.Text, ":"); spelling.Nearest(name, []string{"latest"}) != "" {
			if ok {
				path = ":" + path
			}
			return "latest" + path
		}
	case errors.Is(err, repo.ErrNoRepository):
		return "check -r, or make one there: wtsnap init"
	case errors.Is(err, repo.ErrExists):
		return "use it as it is, or name an empty place"
	case errors.Is(err, repo.ErrWrongPassword):
		return "check the password, or the file that holds it; wtsnap key list works with any of the repository's passwords"
	case errors.Is(err, repo.ErrLastKey):
		return "add another one first: wtsnap key add"
	case errors.Is(err, repo.ErrBusy):
		return "run it again later"
	case errors.Is(err, repo.ErrLeaseLost):
		return "run it again: what was uploaded is used"
	case is[*repo.FormatError](err):
		return "use a newer version of wtsnap"
	case is[*repo.DamageError](err):
		if e, _ := errors.AsType[*repo.DamageError](err); e.Hint != "" {
			return e.Hint
		}
		return "wtsnap check says what is affected"
	}
	if h := storage.Hint(err); h != "" {
		return h
	}
	switch {
	case errors.Is(err, storage.ErrQuota):
		return "make room there; wtsnap forget and wtsnap prune free what is no longer needed"
	case strings.Contains(err.Error(), missingPath+": "+fs.ErrNotExist.Error()):
		return "wtsnap ls lists what is there: a path begins with its label"
	case errors.Is(err, storage.ErrStalled), errors.Is(err, storage.ErrThrottled), is[*retry.GaveUpError](err):
		return "run it again later: nothing that was stored is lost; --retry-for 2h tries for longer"
	}
	return ""
}

// anomalyHint says what to do about a snapshot that holds retention.
func anomalyHint(parent, id repo.SnapshotID) string {
	return "look at what changed: wtsnap diff " + parent.Short() + " " + id.Short() + "; if it is fine: wtsnap hold --release-anomaly " + id.Short()
}

// missingPath is how the error ends that a path is not in a snapshot.
const missingPath = " in the snapshot"

// message is an error in words for people, without the details that only a log wants.
func message(err error) string {
	text := err.Error()
	if e, ok := errors.AsType[*storage.Error](err); ok && e.Kind == storage.ErrConfig && e.Err != nil {
		text = strings.Replace(text, e.Error(), e.Err.Error(), 1)
	}
	if e, ok := errors.AsType[*storage.Error](err); ok && e.Name != "" { // said twice: by who asked, and by the storage
		text = strings.Replace(text, e.Name+": "+e.Op+" "+e.Name+": ", e.Name+": ", 1)
	}
	text = strings.Replace(text, missingPath+": "+fs.ErrNotExist.Error(), missingPath, 1)
	return strings.TrimSpace(text)
}

// details are what the JSON document tells of an error beyond its words.
func details(err error) any {
	if e, ok := errors.AsType[*snapshot.AmbiguousError](err); ok {
		ids := make([]string, 0, len(e.Matches))
		for _, s := range e.Matches {
			ids = append(ids, s.Ref.ID.String())
		}
		return map[string]any{"matches": ids}
	}
	if e, ok := errors.AsType[*snapshot.InstanceError](err); ok {
		return map[string]any{"instances": e.Instances}
	}
	if e, ok := errors.AsType[*repo.DamageError](err); ok {
		return map[string]any{"kind": e.Kind, "object": e.Object}
	}
	return nil
}
