package snapshot

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/index"
	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/snapshot/localfs"
)

// referenceWalkers is how many tree pages References loads at a time: enough to hide a backend's answer time.
const referenceWalkers = 8

// maxTreeErrors bounds how many damaged pages References names.
const maxTreeErrors = 1000

// A TreeError says that a folder, or the list of a file's parts, cannot be read in a snapshot.
type TreeError struct {
	Snapshot string // instance and time
	Path     string // LABEL/...; "" = the root
	ID       chunk.ID
	Err      error
}

func (e *TreeError) Error() string {
	return fmt.Sprintf("snapshot %s: /%s: %v", e.Snapshot, e.Path, e.Err)
}

func (e *TreeError) Unwrap() error { return e.Err }

// References returns what prune and check need to know what a snapshot refers to. It goes on past pages that cannot be
// read; the error then joins one *TreeError each. load is mostly Repository.Blob. visit is called concurrently.
func References(load LoadFunc) repo.References {
	return func(ctx context.Context, manifest []byte, visit func(kind index.Kind, id chunk.ID) bool) error {
		m, err := DecodeManifest(manifest)
		if err != nil {
			return err
		}
		w := refWalk{load: load, visit: visit, name: m.Instance + " of " + m.Time.UTC().Format("2006-01-02 15:04:05Z")}
		g, gctx := errgroup.WithContext(ctx)
		g.SetLimit(referenceWalkers)
		w.g = g
		w.folder(gctx, "", m.Root, anyLevel)
		err = g.Wait()
		return errors.Join(err, ctx.Err(), errors.Join(w.bad...))
	}
}

type refWalk struct {
	load  LoadFunc
	visit func(kind index.Kind, id chunk.ID) bool
	name  string
	g     *errgroup.Group

	mu  sync.Mutex
	bad []error
}

func (w *refWalk) damaged(path string, id chunk.ID, err error) {
	if damage, _ := treeDamage(err); damage != nil { // a page that cannot be understood is one, too
		err = damage
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.bad) < maxTreeErrors {
		w.bad = append(w.bad, &TreeError{w.name, path, id, err})
	}
}

// spawn runs f in another goroutine if one is free, else here: the depth of the calls is that of the tree.
func (w *refWalk) spawn(ctx context.Context, f func()) {
	if ctx.Err() != nil || w.g.TryGo(func() error { f(); return ctx.Err() }) {
		return
	}
	f()
}

// anyLevel is the level of a root page: it says which one it has. The pages below have one less each.
const anyLevel = -1

// folder visits a page of a folder, of a level, and all below it.
func (w *refWalk) folder(ctx context.Context, path string, id chunk.ID, level int) {
	if ctx.Err() != nil || !w.visit(index.Tree, id) {
		return
	}
	data, err := w.load(ctx, id)
	if err == nil {
		var page *FolderPage
		if page, err = DecodeFolderPage(data); err == nil {
			err = checkLevel(level, page.Level)
		}
		if err == nil {
			w.entries(ctx, path, page)
		}
	}
	if err != nil && ctx.Err() == nil {
		w.damaged(path, id, err)
	}
}

// checkLevel refuses a page that is not of the level that the page above it asks for: pages that lie in each other without
// end have no level.
func checkLevel(want int, got uint8) error {
	if want != anyLevel && want != int(got) {
		return fmt.Errorf("level %d where %d belongs", got, want)
	}
	return nil
}

func (w *refWalk) entries(ctx context.Context, path string, page *FolderPage) {
	for _, ref := range page.Refs {
		w.spawn(ctx, func() { w.folder(ctx, path, ref.ID, int(page.Level)-1) })
	}
	for i := range page.Nodes {
		n := &page.Nodes[i]
		switch {
		case n.IsDir():
			at := joinPath(path, n.Name)
			if damage := tooDeep(at); damage != nil {
				w.damaged(shortPath(at), n.Subtree, damage)
				continue
			}
			w.spawn(ctx, func() { w.folder(ctx, at, n.Subtree, anyLevel) })
		case !n.ContentRoot.IsZero():
			w.list(ctx, joinPath(path, n.Name), n.ContentRoot, anyLevel)
		}
		for _, p := range n.Content {
			if !p.IsHole() {
				w.visit(index.Data, p.ID)
			}
		}
	}
}

// list visits a page of a content list, of a level, and all below it.
func (w *refWalk) list(ctx context.Context, path string, id chunk.ID, level int) {
	if ctx.Err() != nil || !w.visit(index.Tree, id) {
		return
	}
	data, err := w.load(ctx, id)
	var page *ContentPage
	if err == nil {
		page, err = DecodeContentPage(data)
	}
	if err == nil {
		err = checkLevel(level, page.Level)
	}
	if err != nil {
		if ctx.Err() == nil {
			w.damaged(path, id, err)
		}
		return
	}
	for _, p := range page.Parts {
		if !p.IsHole() {
			w.visit(index.Data, p.ID)
		}
	}
	for _, ref := range page.Refs {
		w.list(ctx, path, ref.ID, int(page.Level)-1)
	}
}

// LostPaths returns what check needs to name the paths that damage affects: files that miss a part, and folders that cannot
// be read to their end. What lies in such a folder is not named.
func LostPaths(load LoadFunc) repo.LostPaths {
	return func(ctx context.Context, manifest []byte, lost func(chunk.ID) bool, found func(path string)) error {
		m, err := DecodeManifest(manifest)
		if err != nil {
			return err
		}
		w := lostWalk{load: load, lost: lost, found: found, left: maxLostEntries, sound: map[chunk.ID]struct{}{}}
		_, err = w.folder(ctx, "", (&Snapshot{Manifest: m}).RootNode())
		if errors.Is(err, ErrStop) {
			return nil
		}
		return err
	}
}

// maxLostEntries bounds the paths of a snapshot that LostPaths finds. Forty folders, each of which holds the next one
// twice, have 2^40 paths.
const maxLostEntries = 1 << 24

// lostWalk looks for what damage affects. A folder that it does not affect is read once, however often it occurs.
type lostWalk struct {
	load  LoadFunc
	lost  func(chunk.ID) bool
	found func(path string)
	left  int // more paths may be found
	sound map[chunk.ID]struct{}
}

// find tells of a path, and ends the walk where there were enough: ErrStop.
func (w *lostWalk) find(path string) error {
	w.found(path)
	if w.left--; w.left <= 0 {
		return ErrStop
	}
	return nil
}

// folder reports whether the folder top, or something below it, is affected.
func (w *lostWalk) folder(ctx context.Context, path string, top *Node) (bool, error) {
	if _, ok := w.sound[top.Subtree]; ok {
		return false, nil
	}
	hit := false
	c := NewFolderCursor(w.load, top.Subtree)
	for {
		n, err := c.Next(ctx)
		if err != nil {
			if _, fatal := treeDamage(err); fatal != nil {
				return false, fatal
			}
			return true, w.find(path)
		}
		if err := ctx.Err(); err != nil {
			return false, err
		}
		if n == nil {
			break
		}
		at := joinPath(path, n.Name)
		below := false
		switch {
		case n.IsDir() && tooDeep(at) != nil:
			below, err = true, w.find(at)
		case n.IsDir():
			below, err = w.folder(ctx, at, n)
		case n.Type == localfs.TypeFile && misses(ctx, w.load, n, w.lost):
			below, err = true, w.find(at)
		}
		if err != nil {
			return true, err
		}
		hit = hit || below
	}
	if !hit && len(w.sound) < maxBarren {
		w.sound[top.Subtree] = struct{}{}
	}
	return hit, nil
}

// misses reports whether a part of a file, or of the list of its parts, is lost.
func misses(ctx context.Context, load LoadFunc, n *Node, lost func(chunk.ID) bool) bool {
	c := newPartCursor(load, n)
	var size int64
	for {
		p, ok := c.next(ctx)
		if !ok {
			return size < n.Size
		}
		size += p.Len()
		if !p.IsHole() && lost(p.ID) {
			return true
		}
	}
}
