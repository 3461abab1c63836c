package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/snapshot/exclude"
	"github.com/whole-tale/wtsnap/snapshot/localfs"
)

// A Query says what Find looks for: entries that match one of the patterns and all that is set besides.
type Query struct {
	// Patterns are in gitignore syntax: *.csv matches names, homes/*/x paths from the label on, **/ any number of
	// folders, a slash at the end folders only. None = everything.
	Patterns   []string
	IgnoreCase bool
	Path       string         // look only below this path; "" = everywhere
	Types      []localfs.Type // none = all
	MinSize    int64          // bytes, of files; 0 = no bound
	MaxSize    int64          // bytes, of files; 0 = no bound
	NewerThan  time.Time      // mtime at or after; zero = no bound
	OlderThan  time.Time      // mtime before; zero = no bound
}

// maxBarren bounds how many folders without a match Find remembers: 64 MiB.
const maxBarren = 1 << 20

// Find calls fn for each entry of each snapshot that the query takes: snapshot after snapshot, in the order of the
// names' bytes. A folder that held no match in one snapshot is not read again in the others. Damaged folders do not end
// the search: they are passed to fn with the error and without a match. fn may return ErrStop.
//
// The error is an *exclude.PatternError where a pattern cannot match anything.
func Find(ctx context.Context, r *repo.Repository, snaps []*Snapshot, q Query,
	fn func(s *Snapshot, path string, n *Node, err error) error) error {
	f, err := newFinder(r, q)
	if err != nil {
		return err
	}
	for _, s := range snaps {
		top, err := Lookup(ctx, r, s, f.q.Path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("snapshot %s: %w", s.Ref.ID.Short(), err)
		}
		f.bound = s.Bound()
		f.found = func(path string, n *Node, err error) error { return fn(s, path, n, err) }
		if !top.IsDir() {
			if f.match(f.q.Path, top) {
				err = fn(s, f.q.Path, top, nil)
			}
		} else {
			_, err = f.folder(ctx, f.q.Path, top)
		}
		if errors.Is(err, ErrStop) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("snapshot %s: %w", s.Ref.ID.Short(), err)
		}
	}
	return nil
}

type finder struct {
	load    LoadFunc
	q       Query
	matcher *exclude.Matcher
	byPath  bool // whether an entry matches may depend on where it lies
	barren  map[barrenKey]struct{}
	found   func(path string, n *Node, err error) error
	bound   *Bound // of the snapshot
}

// A barrenKey names a folder by its content, and by its path where that matters.
type barrenKey struct {
	id   chunk.ID
	path string
}

func newFinder(r *repo.Repository, q Query) (*finder, error) {
	f := &finder{load: TreeLoader(r), q: q, barren: map[barrenKey]struct{}{}}
	path, err := CleanPath(q.Path)
	if err != nil {
		return nil, err
	}
	f.q.Path = path
	var patterns []exclude.Pattern
	for _, text := range q.Patterns {
		if strings.HasPrefix(text, "!") {
			text = `\` + text // a name, not the opposite of one
		}
		if strings.Contains(strings.TrimSuffix(text, "/"), "/") {
			f.byPath = true
		}
		if q.IgnoreCase {
			text = lower(text)
		}
		patterns = append(patterns, exclude.Pattern{Text: text, Origin: "the command line"})
	}
	f.matcher, err = exclude.Compile(patterns)
	return f, err
}

// folder reports whether there is a match below top.
func (f *finder) folder(ctx context.Context, path string, top *Node) (bool, error) {
	key := barrenKey{id: top.Subtree}
	if f.byPath {
		key.path = path
	}
	if _, ok := f.barren[key]; ok {
		return false, nil
	}
	any := false
	c := NewFolderCursor(f.load, top.Subtree)
	for {
		n, err := c.Next(ctx)
		if err != nil {
			damage, fatal := treeDamage(err)
			if fatal != nil {
				return false, fatal
			}
			return true, f.found(path, top, damage)
		}
		if n == nil {
			break
		}
		if err := f.bound.Count(n); err != nil {
			return true, err
		}
		at := joinPath(path, n.Name)
		if f.match(at, n) {
			any = true
			if err := f.found(at, n, nil); err != nil {
				return true, err
			}
		}
		if !n.IsDir() {
			continue
		}
		below, err := true, ctx.Err()
		if damage := tooDeep(at); err == nil && damage != nil {
			err = f.found(at, n, damage)
		} else if err == nil {
			below, err = f.folder(ctx, at, n)
		}
		if err != nil {
			return true, err
		}
		any = any || below
	}
	if !any && len(f.barren) < maxBarren {
		f.barren[key] = struct{}{}
	}
	return any, nil
}

func (f *finder) match(path string, n *Node) bool {
	q := &f.q
	switch {
	case len(q.Types) > 0 && !slices.Contains(q.Types, n.Type),
		(q.MinSize > 0 || q.MaxSize > 0) && !n.IsFile(),
		q.MinSize > 0 && n.Size < q.MinSize,
		q.MaxSize > 0 && n.Size > q.MaxSize,
		!q.NewerThan.IsZero() && n.MTime < q.NewerThan.UnixNano(),
		!q.OlderThan.IsZero() && n.MTime >= q.OlderThan.UnixNano():
		return false
	}
	if len(q.Patterns) == 0 {
		return true
	}
	if q.IgnoreCase {
		path = lower(path)
	}
	return f.matcher.Match(path, n.IsDir()).Excluded
}

// lower is strings.ToLower for names, which may be no UTF-8.
func lower(s string) string {
	if utf8.ValidString(s) {
		return strings.ToLower(s)
	}
	b := []byte(s)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}
