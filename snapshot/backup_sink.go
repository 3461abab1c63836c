package snapshot

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/snapshot/localfs"
)

// A Sink takes the entries of a StreamSource, in any order. Contents are cut and stored as they come; the tree of nodes
// is in memory until the source ends, some 500 bytes an entry.
//
// The methods may be called concurrently. Their errors, but for Add's content, end the run: return them.
type Sink struct {
	b     *backup
	src   *backupSource
	dev   uint64 // of hard links: no file system's
	split sync.Pool
	jobs  sync.WaitGroup

	mu    sync.Mutex
	root  *memNode
	inos  uint64
	pages map[chunk.ID]*FolderPage // of the parent, a few
	dirs  map[string]*Node         // folders of the parent
}

// A memNode is an entry in memory. Its node's subtree is not set.
type memNode struct {
	node     Node
	children map[string]*memNode
	link     *memNode // the same file under another name
	old      *Node
	pending  bool // its content is not stored yet
	undated  bool // it gets its time when its content is known
	implied  bool // a folder that no entry describes: it is as old as the newest entry in it
}

// errUnsafePath refuses an entry whose path leads out of the source.
var errUnsafePath = errors.New("its path leads out of the source: it is left out")

func newSink(b *backup, s *backupSource) *Sink {
	h := fnv.New64a()
	h.Write([]byte(s.spec.Label))
	k := &Sink{b: b, src: s, dev: h.Sum64() | 1<<63, pages: map[chunk.ID]*FolderPage{}, dirs: map[string]*Node{}}
	params := b.r.ChunkParams()
	k.split.New = func() any { return chunk.NewSplitter(nil, params) }
	k.root = k.newDir(s.spec.Label)
	return k
}

// newDir returns a folder of which nothing is known.
func (k *Sink) newDir(name string) *memNode {
	m := localfs.Meta{Type: localfs.TypeDir, Mode: 0o755, UID: uint32(os.Getuid()), GID: uint32(os.Getgid()), Nlink: 1}
	return &memNode{node: Node{Name: name, Meta: m}, children: map[string]*memNode{}, implied: true}
}

// Problem reports an entry that could not be read, or not as it should be. The path is relative to the source.
func (k *Sink) Problem(path string, err error) { k.b.problem(k.src, k.shown(path), err) }

// Notice says something that is no problem.
func (k *Sink) Notice(path, message string) { k.b.o.Monitor.Notice(k.shown(path), message) }

func (k *Sink) shown(path string) string { return k.src.spec.Label + "/" + path }

// Owner names the user and the group of an id; "" = unknown.
func (k *Sink) Owner(uid uint32, user string, gid uint32, group string) {
	k.b.owners.add(uid, gid, user, group)
}

// SetMongo sets what the manifest says of a MongoDB. The last call counts; a checkpoint has what was set before it. m is
// not to be changed any more.
func (k *Sink) SetMongo(m *MongoInfo) { k.src.mongo.Store(m) }

// PastMongo returns what the newest finished parent says of its MongoDB, or nil.
func (k *Sink) PastMongo() *MongoInfo {
	if p := finished(k.src.parents); p != nil {
		return p.source.Mongo
	}
	return nil
}

// Progress is where a source counts what the sink cannot see: the documents in its streams, how much there will be.
func (k *Sink) Progress() *Progress { return k.b.o.Progress }

// Reset drops all entries, for a source that must begin anew. No Add may be under way. What was stored is not stored
// again.
func (k *Sink) Reset() {
	k.jobs.Wait()
	k.b.gate.RLock()
	defer k.b.gate.RUnlock()
	k.mu.Lock()
	defer k.mu.Unlock()
	k.uncount(k.root)
	k.root = k.newDir(k.src.spec.Label)
}

// uncount takes the files below m out of the progress.
func (k *Sink) uncount(m *memNode) {
	for _, c := range m.children {
		if c.node.Type == localfs.TypeFile && c.link == nil && !c.pending {
			k.b.o.Progress.Files.Add(-1)
			k.b.o.Progress.Bytes.Add(-c.node.Size)
		}
		k.uncount(c)
	}
}

// Add adds an entry, or replaces one. Its path is relative to the source and slash-separated; empty names and "." are
// dropped, a leading slash too; one with ".." is reported and left out. Folders on the way are made. The last name goes
// into the node, which says everything but the content and its size; content is read to its end, for files only.
//
// An error of content is returned as it is, and the entry left out.
func (k *Sink) Add(ctx context.Context, path string, n Node, content io.Reader) error {
	return k.add(ctx, path, &memNode{node: n}, content, false)
}

// AddUndated is Add for a file that has no time of its own, such as the documents of a collection: it gets that of the
// parent's file where the content is the same, else the snapshot's.
func (k *Sink) AddUndated(ctx context.Context, path string, content io.Reader) error {
	n := Node{Meta: localfs.Meta{Type: localfs.TypeFile, Mode: 0o600, UID: uint32(os.Getuid()), GID: uint32(os.Getgid())}}
	n.MTime = k.b.o.Time.UnixNano()
	n.CTime = n.MTime
	return k.add(ctx, path, &memNode{node: n, undated: true}, content, false)
}

// AddSparse is Add for a file that has holes: long runs of zeros in it become holes.
func (k *Sink) AddSparse(ctx context.Context, path string, n Node, content io.Reader) error {
	return k.add(ctx, path, &memNode{node: n}, content, true)
}

func (k *Sink) add(ctx context.Context, path string, m *memNode, content io.Reader, sparse bool) error {
	names, err := splitPath(path)
	if err != nil {
		k.Problem(path, err)
		return nil
	}
	if m.node.Nlink == 0 {
		m.node.Nlink = 1
	}
	m.node.Size = 0
	if m.node.Type == localfs.TypeDir {
		m.children = map[string]*memNode{}
	}
	if len(names) > 0 {
		m.node.Name = names[len(names)-1]
		if err := checkName(m.node.Name); err != nil {
			k.Problem(path, err)
			return nil
		}
	}
	if m.node.Type != localfs.TypeFile {
		k.insert(path, names, m)
		return context.Cause(ctx)
	}
	if content == nil {
		content = strings.NewReader("")
	}
	m.old = k.past(ctx, strings.Join(names, "/"))
	m.pending = true
	t := fileTask{old: m.old}
	a := &assembly{b: k.b, content: newContent(k.b, &t), shows: true}
	a.content.tally = &k.src.tally
	a.content.keep = true // streams are read every night, and change
	split := k.split.Get().(*chunk.Splitter)
	if sparse {
		err = a.sparse(ctx, split, content)
	} else {
		split.Reset(content)
		err = a.pieces(ctx, split)
	}
	split.Reset(nil)
	k.split.Put(split)
	if err != nil {
		a.wait()
		k.b.o.Progress.Bytes.Add(-a.shown)
		return err
	}
	k.insert(path, names, m)
	k.jobs.Add(1)
	a.seal(func() { k.stored(m, a) })
	return context.Cause(ctx)
}

// stored is called when all of a file's parts are stored, with the gate held shared.
func (k *Sink) stored(m *memNode, a *assembly) {
	defer k.jobs.Done()
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := a.content.list.Finish(&m.node); err != nil {
		k.b.fail(err)
		return
	}
	if m.undated && m.old != nil && m.old.IsFile() && sameContentList(m.old, &m.node) {
		m.node.MTime, m.node.CTime = m.old.MTime, m.old.CTime
	}
	m.pending = false
	k.b.o.Progress.Files.Add(1)
}

// Link adds another name for a file that was added before.
func (k *Sink) Link(path, target string) error {
	names, err := splitPath(path)
	if err == nil && len(names) == 0 {
		err = errUnsafePath
	}
	if err == nil {
		err = checkName(names[len(names)-1])
	}
	targets, terr := splitPath(target)
	if err = errors.Join(err, terr); err != nil {
		k.Problem(path, err)
		return nil
	}
	k.b.gate.RLock()
	k.mu.Lock()
	to := k.root
	for _, name := range targets {
		if to = to.children[name]; to == nil {
			break
		}
	}
	if to != nil && to.link != nil {
		to = to.link
	}
	if to != nil {
		if to.node.Ino == 0 {
			k.inos++
			to.node.Ino, to.node.Dev = k.inos, k.dev
		}
		to.node.Nlink++
	}
	k.mu.Unlock()
	k.b.gate.RUnlock()
	if to == nil || to.node.Type == localfs.TypeDir {
		k.Problem(path, fmt.Errorf("it is a hard link to %q, which is no file before it", target))
		return nil
	}
	m := &memNode{node: Node{Name: names[len(names)-1]}, link: to}
	k.insert(path, names, m)
	return nil
}

// insert puts an entry into the tree.
func (k *Sink) insert(path string, names []string, m *memNode) {
	k.b.gate.RLock()
	defer k.b.gate.RUnlock()
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(names) == 0 {
		if m.children != nil { // the source's own folder
			m.children, m.node.Name = k.root.children, k.root.node.Name
			k.root = m
		}
		return
	}
	at := k.root
	for _, name := range names[:len(names)-1] {
		next := at.children[name]
		if next == nil {
			next = k.newDir(name)
			at.children[name] = next
		}
		if at = next; at.children == nil {
			k.Problem(path, fmt.Errorf("%q on its path is no folder: it is left out", name))
			return
		}
	}
	name := names[len(names)-1]
	if was := at.children[name]; was != nil && was.children != nil && m.children != nil {
		m.children = was.children
	}
	at.children[name] = m
}

// splitPath returns the names of a relative path. The empty path is the source itself.
func splitPath(path string) ([]string, error) {
	if len(path) > maxSavedPath {
		return nil, errLong
	}
	var names []string
	for name := range strings.SplitSeq(path, "/") {
		switch name {
		case "", ".":
		case "..":
			return nil, errUnsafePath
		default:
			names = append(names, name)
		}
	}
	return names, nil
}

// past returns what the newest parent has at a path, or nil.
func (k *Sink) past(ctx context.Context, path string) *Node {
	if len(k.src.parents) == 0 {
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.pastLocked(ctx, path)
}

func (k *Sink) pastLocked(ctx context.Context, path string) *Node {
	if path == "" {
		return k.src.parents[0].node
	}
	if n, ok := k.dirs[path]; ok {
		return n
	}
	dir, name := "", path
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		dir, name = path[:i], path[i+1:]
	}
	up := k.pastLocked(ctx, dir)
	if up == nil || !up.IsDir() {
		return nil
	}
	n, err := k.lookup(ctx, up.Subtree, name)
	if err != nil {
		return nil
	}
	if n.IsDir() {
		k.dirs[path] = n
	}
	return n
}

// lookup is LookupNode with the pages that were decoded last.
func (k *Sink) lookup(ctx context.Context, root chunk.ID, name string) (*Node, error) {
	const few = 32
	return lookupNode(root, name, func(id chunk.ID, level int, first string) (*FolderPage, error) {
		if p := k.pages[id]; p != nil {
			return p, nil
		}
		p, err := loadFolderPage(ctx, k.b.load, id, level, first)
		if err != nil {
			return nil, err
		}
		if len(k.pages) == few {
			clear(k.pages)
		}
		k.pages[id] = p
		return p, nil
	})
}

// partial implements partialFolder.
func (k *Sink) partial(context.Context) (*Node, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.build(k.root, "", true)
}

// finish stores the tree when all contents are stored.
func (k *Sink) finish(ctx context.Context) (*Node, error) {
	k.b.gate.RLock()
	defer k.b.gate.RUnlock()
	k.mu.Lock()
	defer k.mu.Unlock()
	k.count(ctx, k.root, "")
	return k.build(k.root, "", false)
}

// count does at the end what a walk does on the way.
func (k *Sink) count(ctx context.Context, m *memNode, path string) {
	p := k.b.o.Progress
	for name, c := range m.children {
		n, old := &c.node, c.old
		if c.link != nil {
			n, old = &c.link.node, nil
			if len(k.src.parents) > 0 {
				old = k.pastLocked(ctx, joinPath(path, name))
			}
		}
		k.b.owners.add(n.UID, n.GID, "", "")
		switch {
		case c.children != nil:
			k.src.dirs.Add(1)
			k.count(ctx, c, joinPath(path, name))
		case n.Type == localfs.TypeFile:
			k.src.seen.Add(1)
			k.src.files.Add(1)
			k.src.bytes.Add(n.Size)
			k.src.tally.file(old, n)
			switch {
			case old == nil:
				p.New.Add(1)
				continue
			case sameFile(old, n):
				p.Unchanged.Add(1)
			default:
				p.Changed.Add(1)
			}
			k.src.matched.Add(1)
		}
	}
}

// build stores the pages of a folder and all below. unfinished: files that are not stored yet are left out.
func (k *Sink) build(m *memNode, path string, unfinished bool) (*Node, error) {
	var bases []chunk.ID
	if old := k.dirs[path]; old != nil {
		bases = append(bases, old.Subtree)
	} else if path == "" && len(k.src.parents) > 0 {
		bases = append(bases, k.src.parents[0].node.Subtree)
	}
	b := NewFolderBuilder(k.b.r.Hasher(), func(data []byte) (chunk.ID, error) { return k.b.putPage(data, bases) })
	node := m.node
	node.Size = 0
	for _, name := range slices.Sorted(maps.Keys(m.children)) {
		c := m.children[name]
		n := c.node
		if c.link != nil {
			n = c.link.node
			n.Name = name
		}
		switch {
		case c.children != nil:
			sub, err := k.build(c, joinPath(path, name), unfinished)
			if err != nil {
				return nil, err
			}
			n = *sub
		case c.pending || c.link != nil && c.link.pending:
			continue
		}
		if err := b.Add(&n); err != nil {
			if b.err != nil {
				return nil, err
			}
			if !unfinished {
				k.Problem(joinPath(path, name), err)
			}
			continue
		}
		node.Size += n.Size * countedSize(n.Type)
		if m.implied && n.MTime > node.MTime {
			node.MTime, node.CTime = n.MTime, n.MTime
		}
	}
	id, err := b.Finish()
	if err != nil {
		return nil, err
	}
	node.Subtree = id
	if unfinished {
		node.Flags |= FlagPartial
	}
	return &node, nil
}

// countedSize is 1 for what a folder's size counts, else 0.
func countedSize(t localfs.Type) int64 {
	if t == localfs.TypeFile || t == localfs.TypeDir {
		return 1
	}
	return 0
}

// saveStream saves what a source yields.
func (b *backup) saveStream(ctx context.Context, s *backupSource, place *slot, stream StreamSource) (*Node, error) {
	k := newSink(b, s)
	b.gate.RLock()
	b.root.mu.Lock()
	place.part = k
	b.root.mu.Unlock()
	b.gate.RUnlock()
	err := stream.Save(ctx, k)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	k.jobs.Wait()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		if len(k.root.children) == 0 {
			return nil, &SourceError{s.spec.Label, s.spec.Path, vanishedSource(err)}
		}
		b.problem(s, s.spec.Path, fmt.Errorf("it ended early: %w", err))
		b.mu.Lock()
		s.cut = err
		b.mu.Unlock()
	}
	return k.finish(ctx)
}

// seal says that all pieces were handed out, and what to do when all are stored, with the gate held shared.
func (a *assembly) seal(then func()) {
	a.b.gate.RLock()
	defer a.b.gate.RUnlock()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.next == a.cut {
		then()
		return
	}
	a.then = then
}

// sparse hands out a stream in which blocks of zeros are holes.
func (a *assembly) sparse(ctx context.Context, split *chunk.Splitter, r io.Reader) error {
	z := zeroReader{r: r, block: make([]byte, holeBlock)}
	for {
		hole, err := z.zeros()
		if err != nil {
			return err
		}
		a.holeUpTo(a.content.off + hole)
		if z.ended {
			return nil
		}
		split.Reset(&z)
		if err := a.pieces(ctx, split); err != nil {
			return err
		}
	}
}

// holeBlock is the granularity at which zeros in sparse files of archives become holes, in bytes.
const holeBlock = 64 << 10

// A zeroReader splits a stream into runs of zero blocks, and runs of others that Read returns up to their end.
type zeroReader struct {
	r     io.Reader
	block []byte
	data  []byte // of block: read and not passed on
	zero  bool   // data is all zeros
	ended bool
}

// next reads a block if there is none.
func (z *zeroReader) next() error {
	if len(z.data) > 0 || z.ended {
		return nil
	}
	n, err := io.ReadFull(z.r, z.block)
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		err, z.ended = nil, n == 0
	}
	if err != nil {
		return err
	}
	z.data = z.block[:n]
	z.zero = true
	for _, c := range z.data {
		if c != 0 {
			z.zero = false
			break
		}
	}
	return nil
}

// zeros skips zero blocks and returns how many bytes they were.
func (z *zeroReader) zeros() (n int64, err error) {
	for {
		if err := z.next(); err != nil || z.ended || !z.zero {
			return n, err
		}
		n += int64(len(z.data))
		z.data = nil
	}
}

func (z *zeroReader) Read(p []byte) (int, error) {
	if err := z.next(); err != nil {
		return 0, err
	}
	if z.ended || z.zero {
		return 0, io.EOF
	}
	n := copy(p, z.data)
	z.data = z.data[n:]
	return n, nil
}
