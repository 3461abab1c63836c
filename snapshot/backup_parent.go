package snapshot

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/repo/storage"
	"github.com/whole-tale/wtsnap/snapshot/localfs"
)

// maxParents bounds how many snapshots a source is compared with: one that was finished, and checkpoints after it.
const maxParents = 3

// A parentSnap is a snapshot that holds an earlier state of a label.
type parentSnap struct {
	snap   *Snapshot
	source Source
	node   *Node // of the label
	recent int64 // ns since 1970, see raceMargin
	pass   bool  // it is what an earlier pass of this run saved
}

// raceMargin is how much older than the beginning of its reading a file's ctime must be for a later change to show in
// it: file systems stamp with the clock of the last timer interrupt. What is younger is read once more.
const raceMargin = 20 * time.Millisecond

// findParents finds for each label the newest finished snapshot of the instance that has it, and the checkpoints after
// that one, newest first. It reads manifests from the newest on until all labels are found.
func findParents(ctx context.Context, r *repo.Repository, o *BackupOptions) (map[string][]*parentSnap, error) {
	refs, err := r.Snapshots(ctx)
	if err != nil {
		return nil, err
	}
	hash := r.InstanceHash(o.Instance)
	refs = slices.DeleteFunc(refs, func(ref repo.SnapshotRef) bool { return ref.Instance != hash })
	slices.Reverse(refs)
	if len(refs) > 0 {
		o.follow(refs[0].Time)
	}

	found := map[string][]*parentSnap{}
	open := map[string]bool{} // labels without a finished parent
	for _, s := range o.Sources {
		open[s.Label] = true
	}
	for batch := 1; len(refs) > 0 && len(open) > 0; batch = min(2*batch, 32) {
		n := min(batch, len(refs))
		snaps, err := loadSome(ctx, r, o.Monitor, refs[:n])
		if err != nil {
			return nil, err
		}
		refs = refs[n:]
		for _, snap := range snaps {
			for label := range open {
				p := newParent(ctx, r, o.Monitor, snap, label)
				if p == nil {
					continue
				}
				if !snap.Checkpoint {
					delete(open, label)
					if len(found[label]) == maxParents {
						found[label] = found[label][:maxParents-1]
					}
				}
				if len(found[label]) < maxParents {
					found[label] = append(found[label], p)
				}
			}
		}
	}
	return found, nil
}

// loadSome reads manifests, newest first. Damaged ones are noticed and left out: the files are read again.
func loadSome(ctx context.Context, r *repo.Repository, mon Monitor, refs []repo.SnapshotRef) ([]*Snapshot, error) {
	snaps := make([]*Snapshot, len(refs))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for i, ref := range refs {
		g.Go(func() error {
			m, err := loadManifest(gctx, r, ref)
			switch {
			case err == nil:
				snaps[i] = &Snapshot{Ref: ref, Manifest: m}
			case gctx.Err() != nil:
				return gctx.Err()
			case !errors.Is(err, storage.ErrNotExist):
				mon.Notice("", fmt.Sprintf("snapshot %s cannot be compared with: %v", ref.ID.Short(), err))
			}
			return nil
		})
	}
	err := g.Wait()
	return slices.DeleteFunc(snaps, func(s *Snapshot) bool { return s == nil }), err
}

// newParent returns nil where the snapshot does not have the label, or cannot be read.
func newParent(ctx context.Context, r *repo.Repository, mon Monitor, snap *Snapshot, label string) *parentSnap {
	src := snap.Source(label)
	if src == nil {
		return nil
	}
	n, err := LookupNode(ctx, r.Blob, snap.Root, label)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil || !n.IsDir() {
		mon.Notice(label, fmt.Sprintf("snapshot %s cannot be compared with: %v", snap.Ref.ID.Short(), err))
		return nil
	}
	return &parentSnap{snap: snap, source: *src, node: n, recent: src.Time.Add(-raceMargin).UnixNano()}
}

// finished returns the parent that holds the whole label, or nil.
func finished(parents []*parentSnap) *parentSnap {
	for _, p := range parents {
		if !p.snap.Checkpoint {
			return p
		}
	}
	return nil
}

// A pastCursor follows a walk through one parent's folder.
type pastCursor struct {
	p     *parentSnap
	c     *FolderCursor
	head  *Node // nil: at the end
	begun bool
	passed
}

// seek returns the node called name, or nil. Names come in ascending order.
func (c *pastCursor) seek(ctx context.Context, b *backup, path, name string) *Node {
	for !c.begun || c.head != nil && c.head.Name < name {
		c.begun = true
		if c.head != nil {
			if ring := c.of(c.head.Type); ring != nil {
				ring.add(c.head)
			}
		}
		n, err := c.c.Next(ctx)
		if err != nil && ctx.Err() == nil {
			b.o.Monitor.Notice(path, fmt.Sprintf("snapshot %s cannot be compared with here: %v", c.p.snap.Ref.ID.Short(), err))
		}
		c.head = n
	}
	if c.head != nil && c.head.Name == name {
		return c.head
	}
	return nil
}

// A past is what parents know of an entry: nodes of the same name and type, checkpoints first.
type past struct {
	nodes [maxParents + 1]*Node
	from  [maxParents + 1]*parentSnap
	n     int
	whole bool // the finished parent has a file of that name
}

// lookup asks all cursors for an entry.
func lookup(ctx context.Context, b *backup, cursors []pastCursor, path, name string, t localfs.Type) (old past) {
	for i := range cursors {
		c := &cursors[i]
		n := c.seek(ctx, b, path, name)
		if n == nil || n.Type != t {
			continue
		}
		old.nodes[old.n], old.from[old.n] = n, c.p
		old.n++
		old.whole = old.whole || !c.p.snap.Checkpoint
	}
	return old
}

// any returns a node that the entry can be compared with, or nil. One of which only the beginning was saved has nothing
// that is not found without it.
func (o *past) any() *Node {
	for _, n := range o.nodes[:o.n] {
		if !n.IsFile() || n.Flags&FlagPartial == 0 {
			return n
		}
	}
	return nil
}

// before returns what the pass before has saved of the entry, or nil.
func (o *past) before() *Node {
	if o.n > 0 && o.from[0].pass {
		return o.nodes[0]
	}
	return nil
}

// sameContent reports whether a file's content can be taken from old without reading it, as far as the inode tells:
// size, mtime and inode are the same, and ctime is, or its change is explained by other metadata. Where only the
// extended attributes can explain it, it asks for them. fresh are the attributes now; nil where they are as in old.
func sameContent(old *Node, m *localfs.Meta, recent int64, xattrs func() ([]localfs.Xattr, error)) (same, asked bool, fresh []localfs.Xattr, err error) {
	if old.Size != m.Size || old.MTime != m.MTime || old.Ino != m.Ino || old.Flags&(FlagTorn|FlagPartial) != 0 || old.CTime >= recent {
		return false, false, nil, nil
	}
	if old.CTime == m.CTime {
		return true, false, nil, nil
	}
	fresh, err = xattrs()
	if err != nil {
		return false, true, nil, err
	}
	explained := old.Mode != m.Mode || old.UID != m.UID || old.GID != m.GID || old.Nlink != m.Nlink ||
		!slices.EqualFunc(old.Xattrs, fresh, sameXattr)
	return explained, true, fresh, nil
}

func sameXattr(a, b localfs.Xattr) bool { return a.Name == b.Name && slices.Equal(a.Value, b.Value) }

// sameFile reports whether nothing of a file has changed that a user would see.
func sameFile(a, b *Node) bool {
	return a.Size == b.Size && a.MTime == b.MTime && a.Mode == b.Mode && a.UID == b.UID && a.GID == b.GID &&
		sameContentList(a, b) && slices.EqualFunc(a.Xattrs, b.Xattrs, sameXattr)
}

// sameContentList reports whether two files have the same bytes, cut in the same places.
func sameContentList(a, b *Node) bool {
	return a.Size == b.Size && a.ContentRoot == b.ContentRoot && slices.Equal(a.Content, b.Content)
}

// useContent tells a session that the snapshot relies on a node's content. It reports false where something of it is not in
// the repository, or its list cannot be read.
func useContent(ctx context.Context, s *repo.Session, load LoadFunc, n *Node) bool {
	if n.ContentRoot.IsZero() {
		return useParts(s, n.Content)
	}
	return useList(ctx, s, load, n.ContentRoot, n.ContentLevel, n.Size)
}

func useParts(s *repo.Session, parts []Part) bool {
	for _, p := range parts {
		if !p.IsHole() && !s.Use(p.ID) {
			return false
		}
	}
	return true
}

func useList(ctx context.Context, s *repo.Session, load LoadFunc, id chunk.ID, level uint8, size int64) bool {
	if !s.Use(id) {
		return false
	}
	page, err := loadContentPage(ctx, load, id, level, size)
	if err != nil || !useParts(s, page.Parts) {
		return false
	}
	for _, ref := range page.Refs {
		if !useList(ctx, s, load, ref.ID, level-1, ref.Size) {
			return false
		}
	}
	return true
}

// inodeTable finds a parent's files by inode: for hard links at new names. It is made when the first one turns up: 16
// bytes a file, and 32 bytes a page of nodes.
type inodeTable struct {
	once  sync.Once
	pages []inodePage
	refs  []inodeRef // ordered by ino

	mu   sync.Mutex
	last uint32 // number of the page that is decoded
	page *FolderPage
}

type inodePage struct {
	id chunk.ID
	p  *parentSnap
}

type inodeRef struct {
	ino  uint64
	page uint32
	node uint32
}

// find returns a node that has the inode and whose content will do, or nil.
func (t *inodeTable) find(ctx context.Context, b *backup, parents []*parentSnap, m *localfs.Meta) *Node {
	t.once.Do(func() {
		for _, p := range parents {
			t.fill(ctx, b, p, p.node.Subtree)
		}
		slices.SortFunc(t.refs, func(a, b inodeRef) int { return cmp.Compare(a.ino, b.ino) })
	})
	t.mu.Lock()
	defer t.mu.Unlock()
	i, _ := slices.BinarySearchFunc(t.refs, m.Ino, func(r inodeRef, ino uint64) int { return cmp.Compare(r.ino, ino) })
	for ; i < len(t.refs) && t.refs[i].ino == m.Ino; i++ {
		ref := t.refs[i]
		page := t.pages[ref.page]
		if t.page == nil || t.last != ref.page {
			data, err := b.load(ctx, page.id)
			if err != nil {
				continue
			}
			if t.page, err = DecodeFolderPage(data); err != nil {
				t.page = nil
				continue
			}
			t.last = ref.page
		}
		n := &t.page.Nodes[ref.node]
		// A link that was added explains the ctime. What else could is not asked for: then the file is read.
		if n.Dev != m.Dev && n.Dev != page.p.node.Dev {
			continue
		}
		same, _, _, _ := sameContent(n, m, page.p.recent, func() ([]localfs.Xattr, error) { return n.Xattrs, nil })
		if same {
			return n
		}
	}
	return nil
}

// fill records the files below a page. What cannot be read is left out: the files are read again.
func (t *inodeTable) fill(ctx context.Context, b *backup, p *parentSnap, id chunk.ID) {
	if ctx.Err() != nil {
		return
	}
	data, err := b.load(ctx, id)
	if err != nil {
		return
	}
	page, err := DecodeFolderPage(data)
	if err != nil {
		return
	}
	for _, ref := range page.Refs {
		t.fill(ctx, b, p, ref.ID)
	}
	number, any := uint32(len(t.pages)), false
	for i := range page.Nodes {
		if n := &page.Nodes[i]; n.IsFile() {
			t.refs = append(t.refs, inodeRef{n.Ino, number, uint32(i)})
			any = true
		}
	}
	if any {
		t.pages = append(t.pages, inodePage{id, p})
	}
	for i := range page.Nodes {
		if n := &page.Nodes[i]; n.IsDir() {
			t.fill(ctx, b, p, n.Subtree)
		}
	}
}
