package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/snapshot/localfs"
)

// A BadPathError says that a path in a snapshot cannot be meant: a usage error.
type BadPathError struct {
	Path   string
	Reason string
}

func (e *BadPathError) Error() string {
	return fmt.Sprintf("path %q in the snapshot: %s", e.Path, e.Reason)
}

// CleanPath brings a user's path into the form that this package uses: names joined by single slashes, without one at
// either end, "" for the root. Names are raw bytes. ".." and zero bytes are refused.
func CleanPath(path string) (string, error) {
	if strings.IndexByte(path, 0) >= 0 {
		return "", &BadPathError{path, "it contains a zero byte"}
	}
	names := strings.Split(path, "/")
	kept := names[:0]
	for _, name := range names {
		switch name {
		case "", ".":
		case "..":
			return "", &BadPathError{path, `".." has no meaning there`}
		default:
			kept = append(kept, name)
		}
	}
	return strings.Join(kept, "/"), nil
}

// joinPath joins a folder's path and a name; "" is the root.
func joinPath(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}

// TreeLoader returns the function that reads a repository's tree pages, through its cache where it has one.
func TreeLoader(r *repo.Repository) LoadFunc {
	return func(ctx context.Context, id chunk.ID) ([]byte, error) {
		data, err := r.Blob(ctx, id)
		if err != nil {
			return nil, &loadError{err}
		}
		return data, nil
	}
}

// A loadError marks what the repository said, so that it is not taken for a page that cannot be decoded.
type loadError struct{ err error }

func (e *loadError) Error() string { return e.err.Error() }
func (e *loadError) Unwrap() error { return e.err }

// treeDamage sorts an error of reading a tree page: damage comes back as a *repo.DamageError, which concerns one folder
// or file and is reported; everything else (the backend does not answer, the caller gave up) ends the operation.
func treeDamage(err error) (damage *repo.DamageError, fatal error) {
	if errors.As(err, &damage) {
		return damage, nil
	}
	var load *loadError
	if errors.As(err, &load) {
		return nil, load.err
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return nil, err
	}
	return &repo.DamageError{Kind: repo.DamageTree, Object: "tree page", Detail: "cannot be understood", Err: err,
		Hint: "wtsnap check names the snapshots that it affects"}, nil
}

// isLoad reports whether err is what the repository said of a tree page.
func isLoad(err error) bool {
	var load *loadError
	return errors.As(err, &load)
}

// RootNode returns the node of a snapshot's root: the folder that holds the labels.
func (s *Snapshot) RootNode() *Node {
	return &Node{Meta: localfs.Meta{Type: localfs.TypeDir, Mode: 0o755, MTime: s.Time.UnixNano(), Size: s.Bytes, Nlink: 1},
		Subtree: s.Root}
}

// Lookup returns the node at path. Where there is none the error is found by errors.Is(err, fs.ErrNotExist) and names
// the first part of the path that is missing. Symbolic links on the way are not followed.
func Lookup(ctx context.Context, r *repo.Repository, s *Snapshot, path string) (*Node, error) {
	clean, err := CleanPath(path)
	if err != nil {
		return nil, err
	}
	load := TreeLoader(r)
	n, at := s.RootNode(), ""
	for rest := clean; rest != ""; {
		var name string
		name, rest, _ = strings.Cut(rest, "/")
		if !n.IsDir() {
			return nil, fmt.Errorf("looking up %q: %q is a %v: %w", clean, at, n.Type, fs.ErrNotExist)
		}
		at = joinPath(at, name)
		n, err = LookupNode(ctx, load, n.Subtree, name)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("looking up %q: no %q in the snapshot: %w", clean, at, fs.ErrNotExist)
		}
		if err != nil {
			return nil, fmt.Errorf("looking up %q: %w", clean, errTree(err))
		}
	}
	return n, nil
}

// errTree makes the error of a tree page one that callers understand.
func errTree(err error) error {
	damage, fatal := treeDamage(err)
	if damage != nil {
		return damage
	}
	return fatal
}

// WalkFunc is called for each entry. Where err is not nil, the folder n at path, for which WalkFunc was called before,
// cannot be read (to its end); err is a *repo.DamageError, and returning nil goes on behind it. Returning fs.SkipDir for
// a folder skips what it holds. Any other error ends the walk. n stays valid and must not be changed.
type WalkFunc func(path string, n *Node, err error) error

// Walk visits everything below the folder top, in the order of the names' bytes, a folder before what it holds; top
// itself is not visited. Paths begin with prefix, which is the path of top.
//
// Memory: for each level of folders one page of nodes for each level of pages.
func Walk(ctx context.Context, load LoadFunc, top *Node, prefix string, fn WalkFunc) error {
	c := NewFolderCursor(load, top.Subtree)
	for {
		n, err := c.Next(ctx)
		if err != nil {
			damage, fatal := treeDamage(err)
			if fatal != nil {
				return fatal
			}
			if err := fn(prefix, top, damage); err != nil && !errors.Is(err, fs.SkipDir) {
				return err
			}
			return nil
		}
		if n == nil {
			return nil
		}
		path := joinPath(prefix, n.Name)
		switch err := fn(path, n, nil); {
		case errors.Is(err, fs.SkipDir) && n.IsDir():
			continue
		case err != nil:
			return err
		}
		if !n.IsDir() {
			continue
		}
		if err := ctx.Err(); err != nil { // what is cached is loaded all the same
			return err
		}
		if damage := tooDeep(path); damage != nil {
			err = fn(path, n, damage)
		} else {
			err = Walk(ctx, load, n, path, fn)
		}
		if err != nil && !errors.Is(err, fs.SkipDir) {
			return err
		}
	}
}
