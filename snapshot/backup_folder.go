package snapshot

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/whole-tale/wtsnap/chunk"
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
	lacks    bool          // a file in it, or below, was put off
	kin      *pastCursor   // the old folder that a new one probably resembles, or nil
	before   *Node         // what the pass before has saved of it, or nil
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
	part partialFolder // of a folder or a large file that is at work, else nil
}

// A partialFolder, or a large file, can say at any time what of it is finished. The gate is held exclusively.
type partialFolder interface {
	// partial returns its node, whose pages are stored, or nil if there is nothing yet.
	partial(ctx context.Context) (*Node, error)
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

// at says what is at work at an entry's place.
func (f *openFolder) at(s *slot, p partialFolder) {
	f.b.gate.RLock()
	f.mu.Lock()
	if !s.done {
		s.part = p
	}
	f.mu.Unlock()
	f.b.gate.RUnlock()
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
	if f.src.past != nil {
		return // what the pass before has is counted
	}
	switch n.Type {
	case localfs.TypeFile:
		f.src.files.Add(1)
		f.src.bytes.Add(n.Size)
	case localfs.TypeDir:
		f.src.dirs.Add(1)
	}
}

// partial implements partialFolder: the pages so far, after them what is finished out of order, and then what the pass
// before has.
func (f *openFolder) partial(ctx context.Context) (*Node, error) {
	if f.finished {
		return &f.node, nil
	}
	c := f.builder.Clone()
	size := f.size
	for _, s := range f.window {
		n := s.node
		if !s.done && s.part != nil {
			var err error
			if n, err = s.part.partial(ctx); err != nil {
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
	rest, err := f.rest(ctx, c)
	if err != nil {
		return nil, err
	}
	size += rest
	id, err := c.Finish()
	if err != nil {
		return nil, err
	}
	n := f.node
	n.Subtree, n.Size, n.Flags = id, size, n.Flags|FlagPartial
	return &n, nil
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
