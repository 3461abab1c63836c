package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/snapshot/exclude"
	"github.com/whole-tale/wtsnap/snapshot/localfs"
)

// A walker lists one folder.
type walker struct {
	b       *backup
	f       *openFolder
	cursors []pastCursor
	batch   []fileTask
	bytes   int64 // of the batch
	scratch Node
}

// walk opens all entries of a folder and walks its subfolders. It takes over one hold of f.
func (b *backup) walk(ctx context.Context, f *openFolder, cursors []pastCursor) {
	defer f.release()
	b.o.Progress.SetPath(f.path)
	entries, err := f.dir.Entries(nil)
	if err != nil {
		b.problem(f.src, f.path, fmt.Errorf("its entries could not be listed: %w", vanished(err)))
		b.gate.RLock()
		f.node.Flags |= FlagPartial
		b.gate.RUnlock()
	}
	if err == nil {
		for _, rel := range f.src.exclude.absent(f.dir, f.rel, entries) {
			f.src.absent.Add(1)
			b.problem(f.src, joinName(f.src.spec.Path, rel), errAbsent)
		}
	}
	b.walkEntries(ctx, f, cursors, b.uncached(f, entries))
}

func (b *backup) walkEntries(ctx context.Context, f *openFolder, cursors []pastCursor, entries []localfs.Entry) {
	w := walker{b: b, f: f, cursors: cursors}
	for i := range cursors {
		cursors[i].c.onLeaf = f.leaf
	}
	if f.kin != nil {
		f.kin.c.onLeaf = f.leaf
	}
	for _, e := range entries {
		if ctx.Err() != nil {
			return
		}
		w.entry(ctx, e)
		w.wait(ctx)
	}
	w.flush(ctx)
	if ctx.Err() != nil {
		return
	}
	b.gate.RLock()
	f.end()
	b.gate.RUnlock()
}

// uncached leaves only the tag of a folder that is tagged as a cache.
func (b *backup) uncached(f *openFolder, entries []localfs.Entry) []localfs.Entry {
	if !f.src.exclude.Caches {
		return entries
	}
	i, ok := slices.BinarySearchFunc(entries, exclude.CacheTag, func(e localfs.Entry, name string) int { return strings.Compare(e.Name, name) })
	if !ok || !isCache(f.dir) {
		return entries
	}
	return entries[i : i+1]
}

// isCache reports whether a folder is tagged as a cache. A tag that cannot be read does not exclude anything.
func isCache(d *localfs.Dir) bool {
	file, _, err := d.OpenFile(exclude.CacheTag)
	if err != nil {
		return false
	}
	defer file.Close()
	tagged, err := exclude.IsCacheTag(file)
	return err == nil && tagged
}

// wait waits while too many entries of the folder wait for one before them.
func (w *walker) wait(ctx context.Context) {
	for {
		w.f.mu.Lock()
		n := len(w.f.window)
		w.f.mu.Unlock()
		if n < windowLimit {
			return
		}
		w.flush(ctx) // the one they wait for may be in it
		select {
		case <-w.f.room:
		case <-ctx.Done():
			return
		}
	}
}

// flush sends the batch to the workers.
func (w *walker) flush(ctx context.Context) {
	if len(w.batch) == 0 {
		return
	}
	batch := w.batch
	w.batch, w.bytes = nil, 0
	w.expect(batch)
	w.f.hold()
	sent := w.b.send(ctx, func(k *backupWorker) {
		defer w.f.release()
		for i := range batch {
			if ctx.Err() != nil {
				return
			}
			k.file(ctx, &batch[i])
		}
	})
	if !sent {
		w.f.release()
	}
}

// expect says which chunks the files of a batch had.
func (w *walker) expect(batch []fileTask) {
	var ids []chunk.ID
	for i := range batch {
		t := &batch[i]
		old := t.old
		if old == nil && w.b.s.Guesses() {
			old = t.kin
		}
		if old == nil || t.verify != nil {
			continue
		}
		for _, p := range old.Content {
			if !p.IsHole() {
				ids = append(ids, p.ID)
			}
		}
	}
	w.b.s.Expect(ids)
}

func (w *walker) path(name string) string { return joinName(w.f.path, name) }

func (w *walker) problem(name string, err error) {
	w.b.problem(w.f.src, w.path(name), vanished(err))
}

// errVanished is what a user is told of an entry that was listed and is not there any more.
var errVanished = errors.New("it vanished while it was being saved")

func vanished(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return errVanished
	}
	var p *fs.PathError
	if errors.As(err, &p) && p == err { // the path is said beside it
		return fmt.Errorf("%s: %w", p.Op, p.Err)
	}
	return err
}

func (w *walker) excluded(name string, isDir bool) bool {
	return w.f.src.exclude.excludes(joinPath(w.f.rel, name), isDir)
}

// entry decides what is done with one entry.
func (w *walker) entry(ctx context.Context, e localfs.Entry) {
	if e.Type != localfs.TypeUnknown && w.excluded(e.Name, e.Type == localfs.TypeDir) {
		return
	}
	if e.Type == localfs.TypeDir {
		w.folder(ctx, e.Name)
		return
	}
	name := e.Name
	if w.f.openAs != "" {
		name = w.f.openAs
	}
	m, err := w.f.dir.Stat(name)
	if err != nil {
		w.problem(e.Name, err)
		return
	}
	if e.Type == localfs.TypeUnknown && w.excluded(e.Name, m.Type == localfs.TypeDir) {
		return
	}
	switch m.Type {
	case localfs.TypeDir:
		w.folder(ctx, e.Name)
	case localfs.TypeFile:
		w.file(ctx, e.Name, name, &m)
	default:
		w.other(ctx, e.Name, &m)
	}
}

// folder opens a subfolder and sees to it that it is walked.
func (w *walker) folder(ctx context.Context, name string) {
	b, f := w.b, w.f
	if len(w.path(name)) > maxSavedPath {
		w.closedFolder(ctx, name, errDeep)
		return
	}
	old := lookup(ctx, b, w.cursors, f.path, name, localfs.TypeDir)
	before := old.before()
	if before != nil && before.Flags&FlagPartial == 0 {
		f.push(before)
		return
	}
	d, err := f.dir.OpenDir(name)
	if err != nil {
		w.closedFolder(ctx, name, err)
		return
	}
	m, err := d.Meta()
	if err != nil {
		_ = d.Close()
		w.problem(name, err)
		return
	}
	child := b.newFolder(f.src, Node{Name: name, Meta: m})
	child.path, child.rel, child.hash, child.dir = w.path(name), joinPath(f.rel, name), pathHash(f.hash, name), d
	child.node.Xattrs = w.xattrs(name, &m, &old, d.Xattrs)
	child.before = before
	child.hold()
	child.up, child.slot = f, f.open(child)
	if f.src.exclude.OneFileSystem && m.Dev != f.src.dev {
		b.walkEntries(ctx, child, nil, nil)
		child.release()
		return
	}
	var cursors []pastCursor
	for i := range old.n {
		cursors = append(cursors, pastCursor{p: old.from[i], c: NewFolderCursor(b.load, old.nodes[i].Subtree)})
	}
	if !slices.ContainsFunc(cursors, func(c pastCursor) bool { return !c.p.pass }) {
		if kin, from := w.kin(ctx, name, &m); kin != nil {
			child.kin = &pastCursor{p: from, c: NewFolderCursor(b.load, kin.Subtree)}
		}
	}
	// A folder that no parent has is to be stored, and is not shared out: what is in it belongs together.
	if len(cursors) > 0 && b.tokens.TryAcquire(1) {
		b.walkers.Go(func() {
			defer b.tokens.Release(1)
			b.walk(ctx, child, cursors)
		})
		return
	}
	w.flush(ctx)
	b.walk(ctx, child, cursors)
}

// closedFolder saves what there is of a folder that cannot be opened: its metadata.
func (w *walker) closedFolder(ctx context.Context, name string, cause error) {
	m, err := w.f.dir.Stat(name)
	if err != nil || m.Type != localfs.TypeDir {
		if err == nil {
			cause = fmt.Errorf("it was replaced by a %v while it was being saved", m.Type)
		}
		w.problem(name, cause)
		return
	}
	w.problem(name, cause)
	child := w.b.newFolder(w.f.src, Node{Name: name, Meta: m, Flags: FlagPartial})
	child.path = w.path(name)
	child.up, child.slot = w.f, w.f.open(child)
	w.b.walkEntries(ctx, child, nil, nil)
}

// xattrs returns the extended attributes of an entry that is not a file, from the parent if the inode has not changed.
func (w *walker) xattrs(name string, m *localfs.Meta, old *past, read func() ([]localfs.Xattr, error)) []localfs.Xattr {
	for i := range old.n {
		if n := old.nodes[i]; n.Ino == m.Ino && n.CTime == m.CTime && n.CTime < old.from[i].recent {
			return n.Xattrs
		}
	}
	x, err := read()
	if err != nil {
		w.problem(name, fmt.Errorf("its extended attributes: %w", err))
	}
	return x
}

// other saves what is neither a folder nor a file.
func (w *walker) other(ctx context.Context, name string, m *localfs.Meta) {
	old := lookup(ctx, w.b, w.cursors, w.f.path, name, m.Type)
	n := Node{Name: name, Meta: *m}
	if m.Type == localfs.TypeSymlink {
		target, err := w.f.dir.ReadLink(name)
		if err != nil {
			w.problem(name, err)
			return
		}
		n.Target = target
	}
	n.Xattrs = w.xattrs(name, m, &old, func() ([]localfs.Xattr, error) { return w.f.dir.XattrsOf(name) })
	w.f.push(&n)
}

// file takes a file's content from a parent or another link, or has it read.
func (w *walker) file(ctx context.Context, name, openAs string, m *localfs.Meta) {
	b, f := w.b, w.f
	if f.src.exclude.MaxSize.Decide(m.Size).Excluded {
		return
	}
	old := lookup(ctx, b, w.cursors, f.path, name, localfs.TypeFile)
	if f.src.past == nil {
		f.src.seen.Add(1)
		if old.whole {
			f.src.matched.Add(1)
		}
	}
	t := fileTask{f: f, name: name, openAs: openAs, meta: *m, old: old.any(), counted: old.before() != nil}
	if w.putsOff(ctx, &t, &old) {
		return
	}
	if m.Nlink > 1 && w.linked(&t) {
		return
	}
	if !b.o.ReadAll || t.counted {
		n, err := w.known(ctx, &t, &old)
		if err != nil {
			w.problem(name, fmt.Errorf("its extended attributes: %w", err))
		}
		if n != nil {
			if !t.counted && b.sampled(f.src, &t, n) {
				c := *n
				t.verify = &c
			} else {
				w.keep(ctx, &t, n)
				return
			}
		}
	}
	if t.old == nil && m.Size > 0 {
		t.kin, _ = w.kin(ctx, name, m)
	}
	t.slot = f.open(nil)
	if m.Size > int64(b.r.ChunkParams().Max) && t.verify == nil {
		w.large(ctx, t)
		return
	}
	if len(w.batch) >= maxBatch || w.bytes+m.Size > batchBytes {
		w.flush(ctx)
	}
	w.batch = append(w.batch, t)
	w.bytes += m.Size
}

// known returns the file's node with content that a parent has, in w.scratch, or nil.
func (w *walker) known(ctx context.Context, t *fileTask, old *past) (*Node, error) {
	read := func() ([]localfs.Xattr, error) { return w.f.dir.XattrsOf(t.openAs) }
	take := func(n *Node, asked bool, fresh []localfs.Xattr) (*Node, error) {
		w.scratch = *n
		w.scratch.Name, w.scratch.Meta = t.name, t.meta
		var err error
		if !asked && n.CTime != t.meta.CTime {
			fresh, err = read()
			asked = true
		}
		if asked {
			w.scratch.Xattrs = fresh
		}
		return &w.scratch, err
	}
	for i := range old.n {
		n := old.nodes[i]
		if w.b.o.ReadAll && !old.from[i].pass {
			break
		}
		same, asked, fresh, err := sameContent(n, &t.meta, old.from[i].recent, read)
		if err != nil {
			return nil, err
		}
		if same && useContent(ctx, w.b.s, w.b.load, n) {
			return take(n, asked, fresh)
		}
	}
	if t.meta.Nlink > 1 && len(w.f.src.parents) > 0 && !w.b.o.ReadAll {
		if n := w.f.src.inodes.find(ctx, w.b, w.f.src.parents, &t.meta); n != nil && useContent(ctx, w.b.s, w.b.load, n) {
			return take(n, false, nil)
		}
	}
	return nil, nil
}

// keep saves a file without reading it.
func (w *walker) keep(ctx context.Context, t *fileTask, n *Node) {
	w.b.countFile(t, n)
	w.f.push(n)
	if t.link != nil {
		c := *n
		w.b.gate.RLock()
		w.b.settle(t, &c)
		w.b.gate.RUnlock()
	}
}

// large starts a reader for a file of several chunks, when one is free.
func (w *walker) large(ctx context.Context, t fileTask) {
	w.flush(ctx)
	select {
	case split := <-w.b.readers:
		w.f.hold()
		w.b.walkers.Go(func() {
			defer func() {
				w.f.release()
				w.b.readers <- split
			}()
			w.b.readLarge(ctx, split, &t)
		})
	case <-ctx.Done():
	}
}
