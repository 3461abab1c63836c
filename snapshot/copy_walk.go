package snapshot

import (
	"context"
	"slices"
	"sync"

	"github.com/whole-tale/wtsnap/chunk"
)

// What a copyEvent tells the builder to do.
type copyEventKind uint8

const (
	copyFolderBegins copyEventKind = iota
	copyFolderEnds
	copyEntry   // a node as it is: its content or its pages are in the other repository
	copyContent // parts of a file
)

type copyEvent struct {
	kind   copyEventKind
	path   string
	node   *Node       // of copyContent: of its first event
	parts  []copyPart  // of copyContent
	last   bool        // of copyContent: the file ends with them
	leaves *copyLeaves // of copyFolderBegins: pages that the folder's resemble
}

// A copyPart is a part of a file. Where want is negative its id is that of the other repository, else that of the batch's
// blob of this number.
type copyPart struct {
	Part
	want int
}

// copyLeaves are the pages of a folder that the other repository has, as the walk comes to them.
type copyLeaves struct {
	mu   sync.Mutex
	refs []PageRef
}

func (l *copyLeaves) add(first string, id chunk.ID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := len(l.refs); n == 0 || l.refs[n-1].First < first {
		l.refs = append(l.refs, PageRef{first, id})
	}
}

// near returns the page that holds a name, or would.
func (l *copyLeaves) near(name string) []chunk.ID {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.refs) == 0 {
		return nil
	}
	i, found := slices.BinarySearchFunc(l.refs, name, func(r PageRef, name string) int {
		switch {
		case r.First < name:
			return -1
		case r.First > name:
			return 1
		}
		return 0
	})
	if !found {
		i = max(i-1, 0)
	}
	return []chunk.ID{l.refs[i].ID}
}

// A copyWalk goes through a snapshot and fills batches.
type copyWalk struct {
	*copying
	send  func(*copyBatch) error
	batch *copyBatch
	bound *Bound // of the snapshot
}

func newCopyWalk(k *copying, send func(*copyBatch) error) *copyWalk {
	return &copyWalk{copying: k, send: send, batch: newCopyBatch()}
}

func newCopyBatch() *copyBatch { return &copyBatch{done: make(chan struct{})} }

func (w *copyWalk) flush() error {
	if len(w.batch.events) == 0 {
		return nil
	}
	batch := w.batch
	w.batch = newCopyBatch()
	return w.send(batch)
}

func (w *copyWalk) emit(e copyEvent) error {
	w.batch.events = append(w.batch.events, e)
	if len(w.batch.events) >= copyEvents || w.batch.bytes >= copyBytes {
		return w.flush()
	}
	return nil
}

func (w *copyWalk) root(ctx context.Context, s *Snapshot, pairs []copyPair) error {
	w.bound = s.Bound()
	return w.folder(ctx, "", s.RootNode(), pairs)
}

// folder goes through a folder and all below it, unless a pair says that the other repository has the same.
func (w *copyWalk) folder(ctx context.Context, path string, n *Node, pairs []copyPair) error {
	for _, p := range pairs {
		if p.from != nil && p.to != nil && p.from.Subtree == n.Subtree && (!p.checkpoint || p.to.Flags&FlagPartial == 0) &&
			w.useFolder(ctx, p.to.Subtree, 0) {
			same := *n
			same.Subtree = p.to.Subtree
			w.o.Progress.Bytes.Add(n.Size)
			return w.emit(copyEvent{kind: copyEntry, path: path, node: &same})
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	leaves := &copyLeaves{}
	if err := w.emit(copyEvent{kind: copyFolderBegins, path: path, node: n, leaves: leaves}); err != nil {
		return err
	}
	cursors := w.cursors(pairs, leaves)
	c := NewFolderCursor(w.loadFrom, n.Subtree)
	for {
		child, err := c.Next(ctx)
		if err != nil {
			damage, fatal := treeDamage(err)
			if fatal != nil {
				return fatal
			}
			w.lose(path, damage)
			break
		}
		if child == nil {
			break
		}
		at := joinPath(path, child.Name)
		var below []copyPair
		for i := range cursors {
			if p := cursors[i].seek(ctx, child.Name); p.from != nil && p.to != nil {
				below = append(below, p)
			}
		}
		if err := w.child(ctx, at, child, below); err != nil {
			return err
		}
	}
	return w.emit(copyEvent{kind: copyFolderEnds, path: path})
}

func (w *copyWalk) child(ctx context.Context, path string, n *Node, pairs []copyPair) error {
	if err := w.bound.Count(n); err != nil {
		return err
	}
	dirs := slices.DeleteFunc(slices.Clone(pairs), func(p copyPair) bool { return !p.from.IsDir() || !p.to.IsDir() })
	switch {
	case n.IsDir() && tooDeep(path) != nil:
		w.lose(shortPath(path), tooDeep(path))
		return nil
	case n.IsDir():
		return w.folder(ctx, path, n, dirs)
	case n.IsFile():
		return w.file(ctx, path, n, pairs)
	}
	return w.emit(copyEvent{kind: copyEntry, path: path, node: n})
}

// file lists a file's parts, unless a pair says that the other repository has the same.
func (w *copyWalk) file(ctx context.Context, path string, n *Node, pairs []copyPair) error {
	if n.Size == 0 && n.ContentRoot.IsZero() && len(n.Content) == 0 {
		return w.emit(copyEvent{kind: copyEntry, path: path, node: n})
	}
	for _, p := range pairs {
		if !p.from.IsFile() || !p.to.IsFile() {
			continue
		}
		if sameContentList(p.from, n) && p.to.Size == n.Size && useContent(ctx, w.s, w.loadTo, p.to) {
			same := *n
			same.Content, same.ContentRoot, same.ContentLevel = p.to.Content, p.to.ContentRoot, p.to.ContentLevel
			w.o.Progress.Files.Add(1)
			w.o.Progress.Bytes.Add(n.Size)
			return w.emit(copyEvent{kind: copyEntry, path: path, node: &same})
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		w.learn(ctx, p)
	}
	const some = 256 // parts in an event
	e := copyEvent{kind: copyContent, path: path, node: n}
	for part, err := range n.Parts(ctx, w.loadFrom, 0) {
		if err != nil {
			damage, fatal := treeDamage(err)
			if fatal != nil {
				return fatal
			}
			w.lose(path, damage)
			break
		}
		e.parts = append(e.parts, w.part(part.Part))
		if len(e.parts) == some || w.batch.bytes >= copyBytes {
			if err := w.emit(e); err != nil {
				return err
			}
			e = copyEvent{kind: copyContent, path: path}
		}
	}
	e.last = true
	return w.emit(e)
}

// part finds a part in the other repository, or has it copied.
func (w *copyWalk) part(p Part) copyPart {
	if p.IsHole() {
		return copyPart{p, -1}
	}
	if id, ok := w.knows(p.ID); ok {
		return copyPart{Part{ID: id, Size: p.Size}, -1}
	}
	w.batch.ids = append(w.batch.ids, p.ID)
	w.batch.bytes += int64(p.Size)
	return copyPart{p, len(w.batch.ids) - 1}
}

// learn takes the ids of a file's parts from an earlier version of it, which was copied part by part.
func (w *copyWalk) learn(ctx context.Context, p copyPair) {
	if p.from.ContentRoot.IsZero() != p.to.ContentRoot.IsZero() && !p.checkpoint {
		return
	}
	next := make(chan Part)
	stop := make(chan struct{})
	var g sync.WaitGroup
	g.Go(func() {
		defer close(next)
		for part, err := range p.to.Parts(ctx, w.loadTo, 0) {
			if err != nil {
				return
			}
			select {
			case next <- part.Part:
			case <-stop:
				return
			}
		}
	})
	for part, err := range p.from.Parts(ctx, w.loadFrom, 0) {
		to, ok := <-next
		if err != nil || !ok || to.Len() != part.Len() || to.IsHole() != part.IsHole() {
			break
		}
		if !part.IsHole() {
			w.know(part.ID, to.ID)
		}
	}
	close(stop)
	g.Wait()
}

// useFolder relies on a page of a folder of the other repository, and on all below it. It reports false where something is
// not there.
func (w *copyWalk) useFolder(ctx context.Context, id chunk.ID, depth int) bool {
	if depth > maxReadDepth+maxLevel || !w.s.Use(id) {
		return false
	}
	if _, ok := w.sound[id]; ok {
		return true
	}
	data, err := w.loadTo(ctx, id)
	if err != nil {
		return false
	}
	page, err := DecodeFolderPage(data)
	if err != nil {
		return false
	}
	for _, ref := range page.Refs {
		if !w.useFolder(ctx, ref.ID, depth+1) {
			return false
		}
	}
	for i := range page.Nodes {
		n := &page.Nodes[i]
		if n.IsDir() && !w.useFolder(ctx, n.Subtree, depth+1) || n.IsFile() && !useContent(ctx, w.s, w.loadTo, n) {
			return false
		}
	}
	w.sound[id] = struct{}{}
	return true
}

// A copyCursor goes through a folder in both repositories.
type copyCursor struct {
	from, to   nodeSeeker
	checkpoint bool
}

func (w *copyWalk) cursors(pairs []copyPair, leaves *copyLeaves) (list []copyCursor) {
	for i, p := range pairs {
		c := copyCursor{nodeSeeker{c: NewFolderCursor(w.loadFrom, p.from.Subtree)}, nodeSeeker{c: NewFolderCursor(w.loadTo, p.to.Subtree)}, p.checkpoint}
		if i == len(pairs)-1 {
			c.to.c.onLeaf = leaves.add
		}
		list = append(list, c)
	}
	return list
}

// seek returns what there is under a name. Names must ascend from call to call.
func (c *copyCursor) seek(ctx context.Context, name string) copyPair {
	return copyPair{c.from.seek(ctx, name), c.to.seek(ctx, name), c.checkpoint}
}

// A nodeSeeker finds nodes of a folder in the order of their names. What cannot be read is not there.
type nodeSeeker struct {
	c    *FolderCursor
	next *Node
	end  bool
}

func (s *nodeSeeker) seek(ctx context.Context, name string) *Node {
	for !s.end && (s.next == nil || s.next.Name < name) {
		n, err := s.c.Next(ctx)
		s.next, s.end = n, n == nil || err != nil
	}
	if s.end || s.next.Name != name {
		return nil
	}
	return s.next
}
