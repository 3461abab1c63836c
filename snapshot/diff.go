package snapshot

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/snapshot/localfs"
)

// A ChangeKind says how an entry differs between two snapshots.
type ChangeKind string

// The kinds of changes.
const (
	ChangeAdded    ChangeKind = "added"
	ChangeRemoved  ChangeKind = "removed"
	ChangeContent  ChangeKind = "content"  // of a file, the target of a symbolic link, or a device's numbers
	ChangeType     ChangeKind = "type"     // such as a file where a folder was
	ChangeMetadata ChangeKind = "metadata" // owner, mode, mtime or extended attributes, and nothing else
)

// A Change is one entry that differs.
type Change struct {
	Kind ChangeKind
	Path string // relative to what is compared; "" = that itself
	Old  *Node  // nil where it was added
	New  *Node  // nil where it was removed
	// BytesNew are the bytes of a file's parts in New that Old does not have: what changed, in chunks.
	BytesNew int64
}

// DiffStats counts differences.
type DiffStats struct {
	Added, Removed, Content, Type, Metadata DiffCount
	BytesAdded                              int64 // sizes of added files
	BytesRemoved                            int64 // sizes of removed files
	BytesChanged                            int64 // of changed files, the bytes of chunks that the old ones do not have
}

// DiffCount counts entries of one kind of change.
type DiffCount struct {
	Files   int64 `json:"files"`
	Folders int64 `json:"folders"`
	Others  int64 `json:"others"` // links, devices, FIFOs, sockets
}

// Sum is the number of entries.
func (c DiffCount) Sum() int64 { return c.Files + c.Folders + c.Others }

func (c *DiffCount) add(n *Node) {
	switch n.Type {
	case localfs.TypeFile:
		c.Files++
	case localfs.TypeDir:
		c.Folders++
	default:
		c.Others++
	}
}

// A DiffSide is one of the two things that Diff compares.
type DiffSide struct {
	Snapshot *Snapshot
	Path     string // "" = everything
}

// Diff compares two snapshots, or parts of them, and calls fn for each entry that differs, in the order of the names'
// bytes, a folder before what it holds. Folders that are the same object in the repository are not read.
//
// Inode numbers, change times, birth times and numbers of links are no differences: they change with every restore. Nor
// is a folder's mtime, which says no more than that its entries changed.
func Diff(ctx context.Context, r *repo.Repository, from, to DiffSide, fn func(Change) error) (DiffStats, error) {
	d := differ{load: TreeLoader(r), fn: fn, from: from.Snapshot.Bound(), to: to.Snapshot.Bound()}
	a, err := Lookup(ctx, r, from.Snapshot, from.Path)
	if err != nil {
		return d.stats, err
	}
	b, err := Lookup(ctx, r, to.Snapshot, to.Path)
	if err != nil {
		return d.stats, err
	}
	return d.stats, d.pair(ctx, "", a, b)
}

type differ struct {
	load     LoadFunc
	fn       func(Change) error
	from, to *Bound
	stats    DiffStats
}

// pair compares two entries of one name.
func (d *differ) pair(ctx context.Context, path string, a, b *Node) error {
	if err := cmp.Or(d.from.Count(a), d.to.Count(b)); err != nil {
		return err
	}
	if a.Type != b.Type {
		d.stats.Type.add(b)
		if err := d.fn(Change{Kind: ChangeType, Path: path, Old: a, New: b}); err != nil {
			return err
		}
		if err := d.below(ctx, path, a, false); err != nil {
			return err
		}
		return d.below(ctx, path, b, true)
	}
	fresh, same, err := d.content(ctx, a, b)
	if err != nil {
		return fmt.Errorf("comparing %q: %w", path, err)
	}
	switch {
	case !same:
		d.stats.Content.add(b)
		d.stats.BytesChanged += fresh
		if err := d.fn(Change{Kind: ChangeContent, Path: path, Old: a, New: b, BytesNew: fresh}); err != nil {
			return err
		}
	case !sameMetadata(a, b):
		d.stats.Metadata.add(b)
		if err := d.fn(Change{Kind: ChangeMetadata, Path: path, Old: a, New: b}); err != nil {
			return err
		}
	}
	if a.IsDir() && a.Subtree != b.Subtree {
		if damage := tooDeep(path); damage != nil {
			return damage
		}
		return d.folders(ctx, path, a, b)
	}
	return nil
}

// folders merges the entries of two folders.
func (d *differ) folders(ctx context.Context, path string, a, b *Node) error {
	ca, cb := NewFolderCursor(d.load, a.Subtree), NewFolderCursor(d.load, b.Subtree)
	na, err := ca.Next(ctx)
	if err != nil {
		return fmt.Errorf("folder %q of the first: %w", path, errTree(err))
	}
	nb, err := cb.Next(ctx)
	for {
		if err != nil {
			return fmt.Errorf("folder %q: %w", path, errTree(err))
		}
		stepA := nb == nil || na != nil && na.Name <= nb.Name
		stepB := na == nil || nb != nil && nb.Name <= na.Name
		switch {
		case na == nil && nb == nil:
			return nil
		case stepA && stepB:
			err = d.pair(ctx, joinPath(path, na.Name), na, nb)
		case stepA:
			err = d.single(ctx, joinPath(path, na.Name), na, false)
		default:
			err = d.single(ctx, joinPath(path, nb.Name), nb, true)
		}
		if err != nil {
			return err
		}
		if stepA {
			na, err = ca.Next(ctx)
		}
		if stepB && err == nil {
			nb, err = cb.Next(ctx)
		}
	}
}

// single reports an entry that only one side has, and all below it.
func (d *differ) single(ctx context.Context, path string, n *Node, added bool) error {
	if err := d.report(path, n, added); err != nil {
		return err
	}
	return d.below(ctx, path, n, added)
}

func (d *differ) report(path string, n *Node, added bool) error {
	c, bound := Change{Kind: ChangeRemoved, Path: path, Old: n}, d.from
	count, sum := &d.stats.Removed, &d.stats.BytesRemoved
	if added {
		c, bound = Change{Kind: ChangeAdded, Path: path, New: n}, d.to
		count, sum = &d.stats.Added, &d.stats.BytesAdded
	}
	if err := bound.Count(n); err != nil {
		return err
	}
	count.add(n)
	if n.IsFile() {
		*sum += n.Size
	}
	return d.fn(c)
}

func (d *differ) below(ctx context.Context, path string, n *Node, added bool) error {
	if !n.IsDir() {
		return nil
	}
	return Walk(ctx, d.load, n, path, func(path string, n *Node, err error) error {
		if err != nil {
			return fmt.Errorf("folder %q: %w", path, err)
		}
		return d.report(path, n, added)
	})
}

// content compares what two entries of one type hold, and counts the bytes of chunks that only b has.
func (d *differ) content(ctx context.Context, a, b *Node) (fresh int64, same bool, err error) {
	switch a.Type {
	case localfs.TypeFile:
		if a.Size == b.Size && a.ContentRoot == b.ContentRoot && equalParts(a.Content, b.Content) {
			return 0, true, nil
		}
		old := map[chunk.ID]struct{}{}
		for p, err := range a.Parts(ctx, d.load, 0) {
			if err != nil {
				return 0, false, errTree(err)
			}
			old[p.ID] = struct{}{}
		}
		for p, err := range b.Parts(ctx, d.load, 0) {
			if err != nil {
				return 0, false, errTree(err)
			}
			if _, ok := old[p.ID]; !ok && !p.IsHole() {
				fresh += p.Len()
			}
		}
		return fresh, false, nil
	case localfs.TypeSymlink:
		return 0, a.Target == b.Target, nil
	case localfs.TypeBlockDevice, localfs.TypeCharDevice:
		return 0, a.RDev == b.RDev, nil
	}
	return 0, true, nil
}

func equalParts(a, b []Part) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

func sameMetadata(a, b *Node) bool {
	if a.Mode != b.Mode || a.UID != b.UID || a.GID != b.GID || !a.IsDir() && a.MTime != b.MTime || len(a.Xattrs) != len(b.Xattrs) {
		return false
	}
	for i := range a.Xattrs {
		if a.Xattrs[i].Name != b.Xattrs[i].Name || !bytes.Equal(a.Xattrs[i].Value, b.Xattrs[i].Value) {
			return false
		}
	}
	return true
}

// ErrStop ends a Diff or a Find early, without an error for its caller.
var ErrStop = errors.New("stop")
