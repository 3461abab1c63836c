package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/whole-tale/wtsnap/repo"
)

// How a version of a file or a folder differs from the one before it.
const (
	HistoryNew      = "new"
	HistoryContent  = "content"  // of a folder: something in it
	HistoryMetadata = "metadata" // mode, owner, times or extended attributes alone
	HistoryType     = "type"     // a file became a folder, say
	HistoryRemoved  = "removed"
)

// A Version is a state of a path that one or several snapshots in a row have.
type Version struct {
	First, Last *Snapshot // the same where only one has it
	Snapshots   int
	Change      string
	Node        *Node // nil: it was removed
}

// History returns the versions of a path in the snapshots of one instance, oldest first. Snapshots that do not have the path's
// label, and incomplete ones without the path, say nothing about it. Only folders' pages are read: what the bytes are is told by
// their ids. The path must be clean and not empty; the error is a *NotFoundError where no snapshot has it. Where
// folders of some snapshots cannot be read, the error joins one for each, beside what the others tell.
func History(ctx context.Context, r *repo.Repository, sel Selector, path string) ([]Version, error) {
	refs, err := r.Snapshots(ctx)
	if err != nil {
		return nil, err
	}
	if sel.Instance == "" && len(refs) > 0 {
		if sel.Instance, err = chooseInstance(ctx, r, refs, sel.Own); err != nil {
			return nil, err
		}
	}
	snaps, err := Load(ctx, r, sel.narrow(r, refs))
	if err != nil {
		return nil, err
	}
	SortSnapshots(snaps)
	label, _, _ := strings.Cut(path, "/")
	var versions []Version
	var bad []error
	for _, s := range snaps {
		if s.Source(label) == nil || s.HoldsOplog() {
			continue
		}
		n, err := Lookup(ctx, r, s, path)
		if damage := (*repo.DamageError)(nil); errors.As(err, &damage) {
			bad = append(bad, fmt.Errorf("snapshot %s: %w", s.Ref.ID.Short(), err))
			continue
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		if err != nil && !s.Complete {
			continue
		}
		versions = follow(versions, s, n)
	}
	if len(versions) == 0 && len(bad) == 0 {
		return nil, &NotFoundError{Spec: "with " + path, Reason: "none has that path", Hint: "a path begins with its label: wtsnap find searches all snapshots"}
	}
	return versions, errors.Join(bad...)
}

// follow adds what the next snapshot has.
func follow(versions []Version, s *Snapshot, n *Node) []Version {
	change := HistoryNew
	if k := len(versions) - 1; k >= 0 {
		last := &versions[k]
		if change = changeOf(last.Node, n); change == "" {
			last.Last = s
			last.Snapshots++
			return versions
		}
	} else if n == nil {
		return nil // it is not there yet
	}
	return append(versions, Version{First: s, Last: s, Snapshots: 1, Change: change, Node: n})
}

// changeOf says how b differs from a; "" = not at all. Either may be nil.
func changeOf(a, b *Node) string {
	switch {
	case a == nil && b == nil:
		return ""
	case a == nil:
		return HistoryNew
	case b == nil:
		return HistoryRemoved
	case a.Type != b.Type:
		return HistoryType
	case !sameContentList(a, b) && a.IsFile(), a.Subtree != b.Subtree, a.Target != b.Target, a.RDev != b.RDev:
		return HistoryContent
	case a.Mode != b.Mode, a.UID != b.UID, a.GID != b.GID, a.MTime != b.MTime, !slices.EqualFunc(a.Xattrs, b.Xattrs, sameXattr):
		return HistoryMetadata
	}
	return ""
}
