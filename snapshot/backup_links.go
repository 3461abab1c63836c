package snapshot

import (
	"sync"
)

// linkTable makes each inode be read once, however many names it has. It holds the inodes that have names which were
// not met yet. Nothing else is locked, nor waited for, while mu is held.
type linkTable struct {
	mu sync.Mutex
	m  map[inodeKey]*linkedInode
}

type inodeKey struct{ dev, ino uint64 }

// A linkedInode is one file with several names. Its first name owns it: is compared with the parent, and is read if need be.
type linkedInode struct {
	key     inodeKey
	left    uint32 // names that were not met yet
	settled bool
	node    *Node      // once settled: nil where the owner could not be read
	waiting []fileTask // names that were met before it was settled
}

// claim returns the file's inode. owner: t is the first name, and must settle it. wait: t will be resolved when it is
// settled. Neither: the inode is settled.
func (l *linkTable) claim(t *fileTask) (i *linkedInode, owner, wait bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	key := inodeKey{t.meta.Dev, t.meta.Ino}
	i = l.m[key]
	if i == nil {
		if l.m == nil {
			l.m = map[inodeKey]*linkedInode{}
		}
		i = &linkedInode{key: key, left: t.meta.Nlink - 1}
		l.m[key] = i
		return i, true, false
	}
	i.left--
	if i.settled {
		l.drop(i)
		return i, false, false
	}
	t.slot = &slot{}
	t.f.hold()
	i.waiting = append(i.waiting, *t)
	return i, false, true
}

// settle says what the inode is, or that nothing is known of it (nil), and returns the names that wait.
func (l *linkTable) settle(i *linkedInode, n *Node) (waiting []fileTask) {
	l.mu.Lock()
	defer l.mu.Unlock()
	i.settled, i.node = true, n
	waiting, i.waiting = i.waiting, nil
	l.drop(i)
	return waiting
}

// drop forgets an inode of which nothing more will come. mu is held.
func (l *linkTable) drop(i *linkedInode) {
	if i.left == 0 {
		delete(l.m, i.key)
	}
}

// abandon lets go of the folders of names that still wait, when the run has ended.
func (l *linkTable) abandon() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, i := range l.m {
		for _, t := range i.waiting {
			t.f.release()
		}
	}
	l.m = nil
}

// node returns the node of a settled inode under t's name, or nil where its content is not t's: it could not be read,
// or changed in between.
func (l *linkTable) node(i *linkedInode, t *fileTask) *Node {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := i.node
	if n == nil || n.MTime != t.meta.MTime || n.Size != t.meta.Size || n.Ino != t.meta.Ino {
		return nil
	}
	c := *n
	c.Name = t.name
	return &c
}

// linked deals with a file of several names. It reports true where another name's content will do, now or later.
func (w *walker) linked(t *fileTask) bool {
	i, owner, wait := w.f.src.links.claim(t)
	switch {
	case owner:
		t.link = i
		return false
	case wait:
		w.f.place(t.slot)
		return true
	}
	n := w.f.src.links.node(i, t)
	if n == nil {
		return false
	}
	w.b.countFile(t, n)
	w.f.push(n)
	return true
}

// settle resolves the names that wait for t's inode, and returns those that must be read on their own, which still hold
// their folders. The gate is held shared.
func (b *backup) settle(t *fileTask, n *Node) (unread []fileTask) {
	if t.link == nil {
		return nil
	}
	links := &t.f.src.links
	waiting := links.settle(t.link, n)
	for i := range waiting {
		other := &waiting[i]
		named := links.node(t.link, other)
		if named == nil {
			unread = append(unread, *other)
			continue
		}
		b.countFile(other, named)
		other.f.resolve(other.slot, named)
		other.f.release()
	}
	return unread
}
