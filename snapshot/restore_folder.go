package snapshot

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/snapshot/localfs"
)

// toFolder restores to a folder. The main path: guards, the plan of what is deleted, then window by window (see window)
// what is written, then the deletions.
func (rs *restore) toFolder(ctx context.Context, node *Node) error {
	dir := rs.o.Target.Path
	existed, err := rs.guardTarget(dir)
	if err != nil {
		return err
	}
	if !existed && !rs.o.DryRun {
		if err := rs.makeTarget(ctx, dir, node); err != nil {
			return fmt.Errorf("restore: %w", err)
		}
	}
	top := &folder{ready: true, inside: rs.sel.include == nil}
	if existed || !rs.o.DryRun {
		if rs.root, err = localfs.OpenRoot(dir); err != nil {
			return fmt.Errorf("restore: %w", err)
		}
		defer rs.root.Close()
		if top.have, err = rs.root.Lstat(""); err != nil {
			return fmt.Errorf("restore: %w", err)
		}
		if top.fresh, err = rs.isEmpty(""); err != nil {
			return fmt.Errorf("restore: %w", err)
		}
	} else {
		top.fresh = true
	}
	rs.prefix = rs.o.Path
	if !node.IsDir() {
		rs.prefix = parentPath(rs.o.Path)
	}
	var plan *deletion
	if rs.o.Delete && node.IsDir() && existed {
		if plan, err = rs.planDelete(ctx, node); err != nil {
			return err
		}
		if err := rs.guardDelete(dir, plan); err != nil {
			return err
		}
	}
	w := rs.newWindow()
	defer rs.files.closeAll()
	if node.IsDir() {
		if rs.ownsTop(existed, top) {
			top.node = node
		}
		err = w.folder(ctx, top, node)
	} else {
		err = w.entry(ctx, top, node)
	}
	if err == nil {
		err = w.flush(ctx)
	}
	if err == nil && plan != nil {
		err = rs.delete(ctx, plan)
	}
	return err
}

// makeTarget makes the target folder. One that gets no metadata of the snapshot, such as that of a single file, is made as mkdir
// makes it, but that it lets nobody in whom the folders that were above in the source kept out.
func (rs *restore) makeTarget(ctx context.Context, dir string, node *Node) error {
	mode := fs.FileMode(0o777)
	if node.IsDir() && rs.ownsTop(false, &folder{}) {
		mode = 0o700 // until it is finished
	}
	path := rs.o.Path
	if !node.IsDir() {
		path = parentPath(path)
	}
	for ; path != ""; path = parentPath(path) {
		above, err := Lookup(ctx, rs.r, rs.o.Snapshot, path)
		if err != nil {
			return err
		}
		if above.IsDir() {
			mode &= fs.FileMode(above.Mode)
		}
	}
	if err := os.MkdirAll(filepath.Dir(filepath.Clean(dir)), 0o777); err != nil {
		return err
	}
	return os.Mkdir(dir, mode|0o700)
}

// ownsTop says whether the target folder itself gets the metadata of the snapshot's folder. The root of a snapshot has
// none of its own, and a folder that is shared like /tmp keeps what it has.
func (rs *restore) ownsTop(existed bool, top *folder) bool {
	const sticky = 0o1000
	return rs.o.Path != "" && (!existed || top.have.Mode&sticky == 0) && rs.sel.include == nil
}

// A folder is one of the target's, while the walk is in it or its window is not done.
type folder struct {
	parent *folder
	rel    string
	node   *Node // whose metadata it gets; nil: none
	have   localfs.Meta
	fresh  bool // there is nothing in it
	inside bool // an include pattern chose it, or a folder above it
	ready  bool // it is there, or would be
	failed bool // it could not be made
}

// An inode of the source.
type inode struct{ dev, ino uint64 }

// A linkGroup is the first name of a file that has several. It holds on to no node, which would hold on to its page.
type linkGroup struct {
	rel    string
	sum    uint64 // of what all names must agree in
	unseen uint32
	bad    atomic.Bool // the file could not be restored
}

// firstName returns the group of a further name of a file. For the first name it returns nil and enters a new group.
// Names that do not agree, because the file changed between their visits, count as different files.
func (rs *restore) firstName(n *Node, rel string) (known, entered *linkGroup) {
	id, sum := inode{n.Dev, n.Ino}, rs.fingerprint(n)
	if g := rs.links[id]; g != nil && g.sum == sum {
		if g.unseen--; g.unseen == 0 {
			delete(rs.links, id)
		}
		return g, nil
	}
	g := &linkGroup{rel: rel, sum: sum, unseen: n.Nlink - 1}
	rs.links[id] = g
	return nil, g
}

// fingerprint hashes what makes an entry's content.
func (rs *restore) fingerprint(n *Node) uint64 {
	var h maphash.Hash
	h.SetSeed(rs.seed)
	for _, v := range []uint64{uint64(n.Type), uint64(n.Size), uint64(n.MTime), n.RDev} {
		h.Write(binary.LittleEndian.AppendUint64(nil, v))
	}
	h.Write(n.ContentRoot[:])
	for _, p := range n.Content {
		h.Write(p.ID[:])
		h.Write(binary.LittleEndian.AppendUint64(nil, uint64(p.HoleSize)))
	}
	h.WriteString(n.Target)
	return h.Sum64()
}

// folder plans what is below d, which is n in the snapshot.
func (w *window) folder(ctx context.Context, d *folder, n *Node) error {
	c := NewFolderCursor(w.rs.load, n.Subtree)
	for {
		child, err := c.Next(ctx)
		if err != nil {
			damage, fatal := treeDamage(err)
			if fatal != nil {
				return fatal
			}
			w.rs.problem(d.rel, damage)
			break
		}
		if child == nil {
			break
		}
		if err := w.entry(ctx, d, child); err != nil {
			return err
		}
	}
	if d.ready && !d.failed && d.node != nil {
		w.leaves = append(w.leaves, d)
	}
	return nil
}

// entry plans one entry of d.
func (w *window) entry(ctx context.Context, d *folder, n *Node) error {
	rs := w.rs
	rel := joinPath(d.rel, n.Name)
	if err := localfs.CheckName(n.Name); err != nil {
		rs.problem(rel, err)
		return nil
	}
	if rs.sel.excluded(rel, n.IsDir()) {
		return nil
	}
	chosen := rs.sel.included(rel, n.IsDir(), d.inside)
	if err := rs.bound.Count(n); err != nil {
		return err
	}
	if damage := tooDeep(rel); n.IsDir() && damage != nil {
		rs.problem(shortPath(rel), damage)
		return nil
	}
	if n.IsDir() {
		sub := &folder{parent: d, rel: rel, node: n, inside: chosen}
		if chosen {
			if err := rs.makeFolder(sub); err != nil {
				return err
			}
			if sub.failed {
				return nil
			}
		}
		w.cost += planCost
		return w.folder(ctx, sub, n)
	}
	if !chosen {
		return nil
	}
	if err := rs.makeFolder(d); err != nil || d.failed {
		return err
	}
	if err := w.plan(ctx, d, n, rel); err != nil {
		return err
	}
	if w.cost >= rs.planBytes {
		return w.flush(ctx)
	}
	return nil
}

// makeFolder sees to it that a folder and those above it are there. Only an error that ends the run is returned.
func (rs *restore) makeFolder(d *folder) error {
	if d.ready || d.failed {
		return nil
	}
	if err := rs.makeFolder(d.parent); err != nil {
		return err
	}
	if d.parent.failed {
		d.failed = true
		return nil
	}
	d.ready = true
	rs.n.folders.Add(1)
	rs.o.Progress.Folders.Add(1)
	if !d.parent.fresh {
		have, there, err := rs.lookAt(d.rel)
		if err != nil {
			return rs.folderFailed(d, err)
		}
		switch {
		case there && have.Type == localfs.TypeDir:
			d.have = have
			if have.Mode&0o700 != 0o700 && !rs.o.DryRun && !localfs.Privileged() {
				// Refused where it is somebody else's, whose mode may still allow what is needed.
				_ = rs.root.MakeWritable(d.rel)
			}
			return nil
		case there:
			rs.n.replaced.Add(1)
			rs.act(OpReplace, d.rel, localfs.TypeDir, 0)
			if !rs.o.DryRun {
				if err := rs.root.Remove(d.rel); err != nil {
					return rs.folderFailed(d, err)
				}
			}
		default:
			rs.act(OpCreate, d.rel, localfs.TypeDir, 0)
		}
	} else {
		rs.act(OpCreate, d.rel, localfs.TypeDir, 0)
	}
	d.fresh = true
	if rs.o.DryRun {
		return nil
	}
	if err := rs.root.Mkdir(d.rel); err != nil {
		return rs.folderFailed(d, err)
	}
	return nil
}

func (rs *restore) folderFailed(d *folder, err error) error {
	d.failed = true
	if end := endsRun(d.rel, err); end != nil {
		return end
	}
	rs.problem(d.rel, fmt.Errorf("nothing below it was restored: %w", err))
	return nil
}

// lookAt says what is at the target.
func (rs *restore) lookAt(rel string) (have localfs.Meta, there bool, err error) {
	if rs.root == nil {
		return have, false, nil
	}
	have, err = rs.root.Lstat(rel)
	switch {
	case err == nil:
		return have, true, nil
	case errors.Is(err, fs.ErrNotExist):
		return have, false, nil
	}
	return have, false, err
}

// clear makes room for an entry of another type. A folder that is not empty is removed only with Delete.
func (rs *restore) clear(rel string, have *localfs.Meta) error {
	if have.Type == localfs.TypeDir {
		if rs.o.Delete {
			return rs.removeTree(rel)
		}
		empty, err := rs.isEmpty(rel)
		if err != nil {
			return err
		}
		if !empty {
			return errors.New("a folder that is not empty is in its place; delete (--delete) removes it")
		}
	}
	if rs.o.DryRun {
		return nil
	}
	return rs.root.Remove(rel)
}

func (rs *restore) isEmpty(rel string) (bool, error) {
	d, err := rs.root.OpenDir(rel)
	if err != nil {
		return false, err
	}
	defer d.Close()
	entries, err := d.Entries(nil)
	return len(entries) == 0, err
}

// A window is the plan for a stretch of the tree, bounded in memory. Its phases: compare what is at the target, fetch
// and write the data, links and special files, metadata of what was right already, verification, and last the folders
// that the walk has left, for they get their times when nothing in them changes any more.
type window struct {
	rs   *restore
	cost int64 // bytes, estimated

	files  []*file
	ids    []chunk.ID // blobs to fetch, and
	places []place    // where each of them goes
	ranges []span     // of files that are there, to be compared first
	holes  []span     // of such files
	others []other    // symbolic links, devices, FIFOs, sockets
	links  []other    // further names of files
	metas  []other    // whose content is right
	leaves []*folder
}

// A place is a part of a file.
type place struct {
	file *file
	off  int64
	size uint32
}

// A span is a range of window.places that belong to one file, or, where last is 0, a hole of the file.
type span struct {
	file        *file
	first, last int
	off, length int64
}

// An other is an entry that needs no data.
type other struct {
	rel   string
	node  *Node
	have  localfs.Meta
	there bool
	group *linkGroup // of links
}

func (rs *restore) newWindow() *window { return &window{rs: rs} }

// compareSpan is how much of a file one goroutine compares at a time.
const compareSpan = 16 << 20

// plan plans an entry that is no folder.
func (w *window) plan(ctx context.Context, d *folder, n *Node, rel string) error {
	rs := w.rs
	w.cost += planCost + int64(len(rel))
	var have localfs.Meta
	var there bool
	if !d.fresh {
		var err error
		if have, there, err = rs.lookAt(rel); err != nil {
			if n.IsFile() {
				rs.n.failed.Add(1)
			}
			rs.problem(rel, err)
			return nil
		}
	}
	o := other{rel: rel, node: n, have: have, there: there}
	var group *linkGroup
	if n.Nlink > 1 {
		known, entered := rs.firstName(n, rel)
		if known != nil {
			o.group = known
			w.links = append(w.links, o)
			return nil
		}
		group = entered
	}
	if !n.IsFile() {
		w.others = append(w.others, o)
		return nil
	}
	if n.Flags&FlagPartial != 0 {
		rs.n.failed.Add(1)
		rs.problem(rel, errBeginning)
		if there { // it may be whole
			return nil
		}
	}
	rs.n.total.Add(n.Size)
	f := &file{rel: rel, node: n, mode: fileNew, group: group}
	switch {
	case !there:
		rs.act(OpCreate, rel, n.Type, n.Size)
	case have.Type != localfs.TypeFile:
		rs.n.replaced.Add(1)
		rs.act(OpReplace, rel, n.Type, n.Size)
		if err := rs.clear(rel, &have); err != nil {
			if end := endsRun(rel, err); end != nil {
				return end
			}
			f.fail(rs, err)
			return nil
		}
	case have.Size == n.Size && have.MTime == n.MTime && !rs.o.Verify && !rs.sharedInode(n, &have):
		rs.unchanged(n)
		w.metas = append(w.metas, o)
		return nil
	default:
		f.have, f.mode = have, rs.howToChange(n, &have)
	}
	f.left.Store(1) // held until all parts are planned
	w.files = append(w.files, f)
	return w.parts(ctx, f)
}

// sharedInode reports whether correcting the metadata of what is there would change another file as well, which is a
// link to it and was none in the source.
func (rs *restore) sharedInode(n *Node, have *localfs.Meta) bool {
	uid, gid := rs.owners.resolve(n.UID, n.GID)
	return have.Nlink > 1 && n.Nlink == 1 && (have.Mode != n.Mode || have.UID != uid || have.GID != gid)
}

func (rs *restore) unchanged(n *Node) {
	rs.n.unchanged.Add(1)
	rs.n.skipped.Add(n.Size)
	p := rs.o.Progress
	p.Files.Add(1)
	p.Unchanged.Add(1)
	p.Bytes.Add(n.Size)
}

// parts plans a file's parts. A file whose list of parts is longer than the window has room for goes on in the next.
func (w *window) parts(ctx context.Context, f *file) error {
	rs := w.rs
	first := len(w.places)
	length := int64(0)
	cut := func() {
		if f.mode != fileNew && len(w.places) > first {
			w.ranges = append(w.ranges, span{file: f, first: first, last: len(w.places)})
		}
		first, length = len(w.places), 0
	}
	for p, err := range f.node.Parts(ctx, rs.load, 0) {
		if err != nil {
			damage, fatal := treeDamage(err)
			if fatal != nil {
				return fatal
			}
			f.fail(rs, damage)
			break
		}
		f.planned = p.Offset + p.Len()
		if p.IsHole() {
			rs.n.holes.Add(p.HoleSize)
			rs.o.Progress.Bytes.Add(p.HoleSize)
			if f.mode != fileNew {
				w.holes = append(w.holes, span{file: f, off: p.Offset, length: p.HoleSize})
			}
			f.truncate.Store(true)
			w.cost += partCost
			continue
		}
		f.left.Add(1)
		w.ids = append(w.ids, p.ID)
		w.places = append(w.places, place{f, p.Offset, p.Size})
		w.cost += partCost
		if length += p.Len(); length >= compareSpan {
			cut()
		}
		if w.cost >= rs.planBytes {
			cut()
			f.open = true
			if err := w.flush(ctx); err != nil {
				return err
			}
			f.open = false
			w.files = append(w.files, f)
			w.cost += planCost
			first = 0
		}
	}
	cut()
	return nil
}

// flush carries the window's plan out and empties it.
func (w *window) flush(ctx context.Context) error {
	rs := w.rs
	if err := w.compare(ctx); err != nil {
		return err
	}
	// Files that need no data are done now.
	if err := parallel(ctx, len(w.files), func(i int) error { return w.release(ctx, w.files[i]) }); err != nil {
		return err
	}
	if err := w.fetch(ctx); err != nil {
		return err
	}
	if err := parallel(ctx, len(w.others), func(i int) error { return rs.makeOther(&w.others[i]) }); err != nil {
		return err
	}
	for i := range w.links {
		if err := rs.makeLink(&w.links[i]); err != nil {
			return err
		}
	}
	if err := rs.correctAll(ctx, w.metas); err != nil {
		return err
	}
	if rs.o.Verify && !rs.o.DryRun {
		if err := w.verify(ctx); err != nil {
			return err
		}
	}
	for _, d := range w.leaves {
		if err := rs.finishFolder(d); err != nil {
			return err
		}
	}
	clear(w.files)
	clear(w.others)
	*w = window{rs: rs, files: w.files[:0], ids: w.ids[:0], places: w.places[:0], ranges: w.ranges[:0],
		holes: w.holes[:0], others: w.others[:0], links: w.links[:0], metas: w.metas[:0], leaves: w.leaves[:0]}
	return ctx.Err()
}
