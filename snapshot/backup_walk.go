package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sort"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/snapshot/exclude"
	"github.com/whole-tale/wtsnap/snapshot/localfs"
)

// An openFolder is a folder that is being saved. Its entries are opened in the order of their names, resolved in any
// order, and added to its pages in order again; whoever resolves the last one finishes it.
type openFolder struct {
	b    *backup
	src  *backupSource
	up   *openFolder // nil: of a label, or the root
	slot *slot       // in up
	path string      // as the user would name it
	rel  string      // relative to the source's root
	hash uint64      // of rel
	node Node        // its own; the subtree is set when it is finished

	// openAs is, in a source that is one file, the name to open: the user's name may be a symbolic link.
	openAs string
	dir    *localfs.Dir
	users  atomic.Int32 // who still needs dir: the walker, and each job

	mu       sync.Mutex
	builder  *FolderBuilder
	window   []*slot // opened and not added yet
	listed   bool    // all entries were opened
	finished bool
	size     int64         // bytes of the files below
	room     chan struct{} // a token each time the window shrinks, at most one
	leaves   []PageRef     // the parent's pages of nodes, as far as the walk has come: bases of deltas
	uid, gid uint32        // of the entry before, so that not each one goes to the table of owners
	owned    bool
	done     chan struct{} // closed when it is finished; nil if nobody waits
}

// A slot is the place of an entry in its folder. It is guarded by the folder's mu.
type slot struct {
	done bool
	node *Node         // where done: nil leaves the entry out
	part partialFolder // of a folder that is at work, else nil
}

// A partialFolder can say at any time what of it is finished. The gate is held exclusively.
type partialFolder interface {
	// partial returns a folder's node, whose pages are stored, or nil if there is nothing yet.
	partial() (*Node, error)
}

func (b *backup) newFolder(src *backupSource, node Node) *openFolder {
	f := &openFolder{b: b, src: src, node: node, room: make(chan struct{}, 1)}
	f.builder = NewFolderBuilder(b.r.Hasher(), f.put)
	return f
}

// put stores a page of the folder, as a delta against the parent's page at its place where there is one.
func (f *openFolder) put(data []byte) (chunk.ID, error) {
	var bases []chunk.ID
	if len(f.leaves) > 0 && data[2] == 0 {
		first := firstName(data)
		i := sort.Search(len(f.leaves), func(i int) bool { return f.leaves[i].First > first })
		bases = append(bases, f.leaves[max(i-1, 0)].ID)
	}
	return f.b.putPage(data, bases)
}

// firstName returns the name of the first node of an encoded page of level 0.
func firstName(page []byte) string {
	d := decoder{data: page, pos: pageHeader}
	d.byte()
	d.uvarint()
	return string(d.bytes(maxName, ""))
}

// open makes a place for an entry that is resolved later.
func (f *openFolder) open(p partialFolder) *slot {
	s := &slot{part: p}
	f.place(s)
	return s
}

// place makes a place that another may resolve already.
func (f *openFolder) place(s *slot) {
	f.b.gate.RLock()
	f.mu.Lock()
	f.window = append(f.window, s)
	f.mu.Unlock()
	f.b.gate.RUnlock()
}

// push adds an entry that is known at once. It keeps nothing of n but what it refers to.
func (f *openFolder) push(n *Node) {
	f.b.gate.RLock()
	f.mu.Lock()
	if len(f.window) == 0 {
		f.add(n)
	} else {
		c := *n
		f.window = append(f.window, &slot{done: true, node: &c})
	}
	f.mu.Unlock()
	f.b.gate.RUnlock()
}

// resolve says what an entry is; nil leaves it out. The gate is held shared.
func (f *openFolder) resolve(s *slot, n *Node) {
	f.mu.Lock()
	s.done, s.node, s.part = true, n, nil
	f.advance()
	f.mu.Unlock()
}

// end says that all entries were opened. The gate is held shared.
func (f *openFolder) end() {
	f.mu.Lock()
	f.listed = true
	f.advance()
	f.mu.Unlock()
}

// advance adds what is resolved, and finishes the folder if that was all. f.mu is held, and the gate shared.
func (f *openFolder) advance() {
	n := 0
	for n < len(f.window) && f.window[n].done {
		if node := f.window[n].node; node != nil {
			f.add(node)
		}
		f.window[n] = nil
		n++
	}
	if f.window = f.window[n:]; n > 0 {
		select {
		case f.room <- struct{}{}:
		default:
		}
	}
	if len(f.window) > 0 || !f.listed || f.finished {
		return
	}
	id, err := f.builder.Finish()
	if err != nil {
		f.b.fail(err)
		return
	}
	f.finished = true
	f.node.Subtree, f.node.Size = id, f.size
	f.b.o.Progress.Folders.Add(1)
	if f.up != nil {
		f.up.resolve(f.slot, &f.node) // locks are taken upwards only
	}
	if f.done != nil {
		close(f.done)
	}
}

// add appends a node to the folder's pages. f.mu is held.
func (f *openFolder) add(n *Node) {
	err := f.builder.Add(n)
	if errors.Is(err, ErrNodeTooLarge) && len(n.Xattrs) > 0 {
		f.b.problem(f.src, joinName(f.path, n.Name), fmt.Errorf("saved without its extended attributes: %w", err))
		c := *n
		c.Xattrs = nil
		err = f.builder.Add(&c)
	}
	switch {
	case err == nil:
	case f.builder.err != nil:
		f.b.fail(err)
		return
	default:
		f.b.problem(f.src, joinName(f.path, n.Name), err)
		return
	}
	if f.src == nil { // the root
		return
	}
	if !f.owned || n.UID != f.uid || n.GID != f.gid {
		f.uid, f.gid, f.owned = n.UID, n.GID, true
		f.b.owners.add(n.UID, n.GID, "", "")
	}
	f.size += n.Size * countedSize(n.Type)
	switch n.Type {
	case localfs.TypeFile:
		f.src.files.Add(1)
		f.src.bytes.Add(n.Size)
	case localfs.TypeDir:
		f.src.dirs.Add(1)
	}
}

// partial implements partialFolder: the pages so far, and after them what is finished out of order.
func (f *openFolder) partial() (*Node, error) {
	if f.finished {
		return &f.node, nil
	}
	c := f.builder.Clone()
	size := f.size
	for _, s := range f.window {
		n := s.node
		if !s.done && s.part != nil {
			var err error
			if n, err = s.part.partial(); err != nil {
				return nil, err
			}
		}
		if n == nil {
			continue
		}
		if err := c.Add(n); err == nil {
			size += n.Size * countedSize(n.Type)
		} else if c.err != nil {
			return nil, err
		}
	}
	id, err := c.Finish()
	if err != nil {
		return nil, err
	}
	n := f.node
	n.Subtree, n.Size, n.Flags = id, size, n.Flags|FlagPartial
	return &n, nil
}

// hold and release count who needs the open folder.
func (f *openFolder) hold() { f.users.Add(1) }

func (f *openFolder) release() {
	if f.users.Add(-1) == 0 && f.dir != nil {
		_ = f.dir.Close() // it was only read
	}
}

// joinName joins a path of the file system and a name.
func joinName(path, name string) string {
	if strings.HasSuffix(path, "/") {
		return path + name
	}
	return path + "/" + name
}

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
	b.walkEntries(ctx, f, cursors, b.uncached(f, entries))
}

func (b *backup) walkEntries(ctx context.Context, f *openFolder, cursors []pastCursor, entries []localfs.Entry) {
	w := walker{b: b, f: f, cursors: cursors}
	for i := range cursors {
		cursors[i].c.onLeaf = f.leaf
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

// leaf notes that the walk has come to a page of the parent.
func (f *openFolder) leaf(first string, id chunk.ID) {
	f.b.gate.RLock()
	defer f.b.gate.RUnlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := len(f.leaves); n == 0 || f.leaves[n-1].First < first {
		f.leaves = append(f.leaves, PageRef{first, id})
	}
}

// uncached leaves only the tag of a folder that is tagged as a cache.
func (b *backup) uncached(f *openFolder, entries []localfs.Entry) []localfs.Entry {
	if !b.o.Exclude.Caches {
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
	return w.b.matcher != nil && w.b.matcher.Match(joinPath(w.f.rel, name), isDir).Excluded
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
	old := lookup(ctx, b, w.cursors, f.path, name, localfs.TypeDir)
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
	child.hold()
	child.up, child.slot = f, f.open(child)
	if b.o.Exclude.OneFileSystem && m.Dev != f.src.dev {
		b.walkEntries(ctx, child, nil, nil)
		child.release()
		return
	}
	var cursors []pastCursor
	for i := range old.n {
		cursors = append(cursors, pastCursor{p: old.from[i], c: NewFolderCursor(b.load, old.nodes[i].Subtree)})
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
	if b.o.Exclude.MaxSize.Decide(m.Size).Excluded {
		return
	}
	f.src.seen.Add(1)
	old := lookup(ctx, b, w.cursors, f.path, name, localfs.TypeFile)
	if old.whole {
		f.src.matched.Add(1)
	}
	t := fileTask{f: f, name: name, openAs: openAs, meta: *m, old: old.any()}
	if m.Nlink > 1 && w.linked(&t) {
		return
	}
	if !b.o.ReadAll {
		n, err := w.known(ctx, &t, &old)
		if err != nil {
			w.problem(name, fmt.Errorf("its extended attributes: %w", err))
		}
		if n != nil {
			if b.sampled(f.src, &t, n) {
				c := *n
				t.verify = &c
			} else {
				w.keep(ctx, &t, n)
				return
			}
		}
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
		same, asked, fresh, err := sameContent(n, &t.meta, old.from[i].recent, read)
		if err != nil {
			return nil, err
		}
		if same && w.b.useContent(ctx, n) {
			return take(n, asked, fresh)
		}
	}
	if t.meta.Nlink > 1 && len(w.f.src.parents) > 0 {
		if n := w.f.src.inodes.find(ctx, w.b, w.f.src.parents, &t.meta); n != nil && w.b.useContent(ctx, n) {
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
