package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/snapshot/localfs"
)

// rereads is how often a file that changes while it is read is read again.
const rereads = 2

// errTorn is the problem of a file that would not hold still.
var errTorn = errors.New("it changed while it was read: what was saved may be a mixture of its states")

// A fileTask is a file to be read.
type fileTask struct {
	f       *openFolder
	slot    *slot
	name    string
	openAs  string
	meta    localfs.Meta // when it was listed
	old     *Node        // what a parent has under that name, or nil
	link    *linkedInode // that it owns, or nil
	counted bool         // an earlier pass has it

	verify *Node // unchanged, as far as the inode tells: only some of it is read, and compared
}

func (t *fileTask) path() string { return joinName(t.f.path, t.name) }

// file reads a file and resolves it, and the names that wait for it. The gate is held shared.
func (k *backupWorker) file(ctx context.Context, t *fileTask) {
	n, err := k.read(ctx, t)
	if ctx.Err() != nil {
		return
	}
	for _, other := range k.finish(t, n, err) {
		k.file(ctx, &other)
		other.f.release()
	}
}

// finish resolves a file that was read, or could not be: then n is nil. It returns the names that waited for it in
// vain. The gate is held shared.
func (b *backup) finish(t *fileTask, n *Node, err error) (unread []fileTask) {
	if err != nil {
		b.problem(t.f.src, t.path(), vanished(err))
	}
	if n != nil {
		b.countFile(t, n)
	}
	t.f.resolve(t.slot, n)
	return b.settle(t, n)
}

// countFile counts a file that is saved.
func (b *backup) countFile(t *fileTask, n *Node) {
	p := b.o.Progress
	if t.counted {
		return
	}
	if s := t.f.src; s.past != nil {
		s.files.Add(1)
		s.bytes.Add(n.Size)
	}
	p.Files.Add(1)
	p.Bytes.Add(n.Size)
	t.f.src.tally.file(t.old, n)
	switch {
	case t.old == nil:
		p.New.Add(1)
	case sameFile(t.old, n):
		p.Unchanged.Add(1)
	default:
		p.Changed.Add(1)
	}
}

// read reads a file in the worker, whatever its size. An error beside a node is a problem with what was saved.
func (k *backupWorker) read(ctx context.Context, t *fileTask) (*Node, error) {
	file, m, err := t.f.dir.OpenFile(t.openAs)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if t.verify != nil {
		err := k.verify(ctx, t, file, &m)
		if err == nil {
			return t.verify, nil
		}
		if !errors.Is(err, errDiffers) {
			return t.verify, fmt.Errorf("reading a sample of it: %w", err)
		}
	}
	for again := 0; ; again++ {
		n, after, err := k.content(ctx, t, file, &m, again < rereads)
		if err != nil {
			return nil, err
		}
		if n == nil { // it changed; nothing was stored
			m = after
			continue
		}
		n.Xattrs, err = file.Xattrs()
		if err != nil {
			err = fmt.Errorf("its extended attributes: %w", err)
		}
		if n.Flags&FlagTorn != 0 {
			err = errors.Join(errTorn, err)
		}
		return n, err
	}
}

// unmoved reports whether a file was not changed between two looks.
func unmoved(a, b *localfs.Meta) bool {
	return a.Size == b.Size && a.MTime == b.MTime && a.CTime == b.CTime
}

// content reads and stores a file that is m. If it changed meanwhile and may be read again, the node is nil; a small file
// has then not been stored.
func (k *backupWorker) content(ctx context.Context, t *fileTask, file *localfs.File, m *localfs.Meta, again bool) (n *Node, after localfs.Meta, err error) {
	extents, err := extentsOf(file, m)
	if err != nil {
		return nil, after, err
	}
	c := newContent(k.backup, t)
	small := m.Size <= int64(cap(k.buf))
	if small {
		data, cut, err := k.readSmall(file, extents)
		if err != nil {
			return nil, after, err
		}
		if after, err = file.Meta(); err != nil || again && !unmoved(m, &after) {
			return nil, after, err
		}
		if cut < 0 {
			cut = m.Size
		}
		if err := k.storeSmall(ctx, c, data, extents, cut); err != nil {
			return nil, after, err
		}
	} else {
		if err := k.stream(ctx, c, file, extents, m.Size); err != nil {
			return nil, after, err
		}
		if after, err = file.Meta(); err != nil {
			return nil, after, err
		}
	}
	n = &Node{Name: t.name, Meta: *m}
	if !unmoved(m, &after) {
		n.Flags |= FlagTorn
	}
	return n, after, c.list.Finish(n)
}

// extentsOf returns where a file holds data. One that is not sparse is not asked.
func extentsOf(file *localfs.File, m *localfs.Meta) ([]localfs.Extent, error) {
	if m.Size == 0 {
		return nil, nil
	}
	if m.Sparse() {
		return file.Extents(m.Size)
	}
	return []localfs.Extent{{Offset: 0, Length: m.Size}}, nil
}

// readSmall reads all extents, one after the other, into the worker's buffer. cut is where the file ended meanwhile, or
// -1.
func (k *backupWorker) readSmall(file *localfs.File, extents []localfs.Extent) (data []byte, cut int64, err error) {
	buf := k.buf[:0]
	for _, e := range extents {
		n, err := file.ReadAt(buf[len(buf):len(buf)+int(e.Length)], e.Offset)
		buf = buf[:len(buf)+n]
		k.o.Progress.Read.Add(int64(n))
		if err == io.EOF {
			return buf, e.Offset + int64(n), nil
		}
		if err != nil {
			return nil, 0, err
		}
	}
	return buf, -1, nil
}

// storeSmall stores what readSmall read of a file of size bytes.
func (k *backupWorker) storeSmall(ctx context.Context, c *content, data []byte, extents []localfs.Extent, size int64) error {
	for _, e := range extents {
		if e.Offset >= size {
			break
		}
		if err := c.holeUpTo(e.Offset); err != nil {
			return err
		}
		e.Length = min(e.Length, size-e.Offset)
		for rest := data[:e.Length]; len(rest) > 0; {
			n := k.split.Split(rest)
			if err := c.store(ctx, k, rest[:n]); err != nil {
				return err
			}
			rest = rest[n:]
		}
		data = data[e.Length:]
	}
	return c.holeUpTo(size)
}

// stream reads and stores a file piece by piece.
func (k *backupWorker) stream(ctx context.Context, c *content, file *localfs.File, extents []localfs.Extent, size int64) error {
	for _, e := range extents {
		if err := c.holeUpTo(e.Offset); err != nil {
			return err
		}
		k.split.Reset(io.NewSectionReader(file, e.Offset, e.Length))
		for {
			data, err := k.split.Next(k.buf)
			if err == io.EOF {
				break
			}
			if err == nil {
				err = ctx.Err()
			}
			if err != nil {
				return err
			}
			k.o.Progress.Read.Add(int64(len(data)))
			if err := c.store(ctx, k, data); err != nil {
				return err
			}
		}
		if c.off < e.Offset+e.Length { // the file was cut
			return nil
		}
	}
	return c.holeUpTo(size)
}

// content gathers the parts of one file, in order.
type content struct {
	list  *ListBuilder
	tally *tally   // of the source
	align *aligner // nil: there is nothing to compare with
	keep  bool     // it is likely to change again
	off   int64
}

func newContent(b *backup, t *fileTask) *content {
	c := &content{list: NewListBuilder(b.putTree)}
	if t.f != nil {
		c.tally = &t.f.src.tally
	}
	if t.old != nil {
		c.align, c.keep = newAligner(b, t.old), true
	}
	return c
}

// store puts a piece, in a worker.
func (c *content) store(ctx context.Context, k *backupWorker, data []byte) error {
	id, added, err := k.put(data, repo.Hint{Bases: c.align.bases(ctx, len(data)), Keep: c.keep})
	if err != nil {
		return err
	}
	if added {
		c.tally.blob(data, c.align != nil)
	}
	c.align.placed(ctx, id, len(data))
	if c.align != nil {
		base, rest, ok := k.ended()
		c.align.tell(c.align.off, base, rest, ok)
	}
	return c.add(Part{ID: id, Size: uint32(len(data))})
}

func (c *content) add(p Part) error {
	c.off += p.Len()
	return c.list.Add(p)
}

func (c *content) holeUpTo(off int64) error {
	if off <= c.off {
		return nil
	}
	c.align.skip(off - c.off)
	return c.add(Part{HoleSize: off - c.off})
}

// readLarge reads a file of several chunks, in a goroutine of its own; its chunks are stored by the workers.
func (b *backup) readLarge(ctx context.Context, split *chunk.Splitter, t *fileTask) {
	file, m, err := t.f.dir.OpenFile(t.openAs)
	if err != nil {
		b.finishUnread(ctx, split, t, err)
		return
	}
	defer file.Close()
	b.o.Progress.SetPath(t.path())
	a := &assembly{b: b, content: newContent(b, t)}
	t.f.at(t.slot, &partialFile{a, Node{Name: t.name, Meta: m}})
	var after localfs.Meta
	extents, err := extentsOf(file, &m)
	if err == nil {
		err = a.read(ctx, split, file, extents, m.Size)
	}
	if err == nil {
		after, err = file.Meta()
	}
	n := &Node{Name: t.name, Meta: m}
	if err == nil {
		var xerr error
		if n.Xattrs, xerr = file.Xattrs(); xerr != nil {
			b.problem(t.f.src, t.path(), fmt.Errorf("its extended attributes: %w", xerr))
		}
		if !unmoved(&m, &after) {
			n.Flags |= FlagTorn
			b.problem(t.f.src, t.path(), errTorn)
		}
	}
	a.wait()
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		b.finishUnread(ctx, split, t, err)
		return
	}
	b.gate.RLock()
	err = a.content.list.Finish(n)
	if err != nil {
		b.gate.RUnlock()
		b.fail(err)
		return
	}
	unread := b.finish(t, n, nil)
	b.gate.RUnlock()
	b.readOthers(ctx, split, unread)
}

// finishUnread resolves a large file that could not be read.
func (b *backup) finishUnread(ctx context.Context, split *chunk.Splitter, t *fileTask, err error) {
	if ctx.Err() != nil {
		return
	}
	b.gate.RLock()
	unread := b.finish(t, nil, err)
	b.gate.RUnlock()
	b.readOthers(ctx, split, unread)
}

func (b *backup) readOthers(ctx context.Context, split *chunk.Splitter, tasks []fileTask) {
	for i := range tasks {
		b.readLarge(ctx, split, &tasks[i])
		tasks[i].f.release()
	}
}

// An assembly puts the parts of a file in order that the workers store in any order. Not more of them wait than chunks
// are on their way.
type assembly struct {
	b       *backup
	content *content // its list is guarded by mu, the rest belongs to the reader
	cut     int      // pieces so far
	like    chunk.Effort

	mu    sync.Mutex
	ready map[int]Part // stored, but not the next
	next  int          // to be added
	then  func()       // what to do when all are
	jobs  sync.WaitGroup

	shows bool  // the progress has the parts, not only the whole file
	shown int64 // bytes of parts
}

// read cuts a file and hands the pieces out.
func (a *assembly) read(ctx context.Context, split *chunk.Splitter, r io.ReaderAt, extents []localfs.Extent, size int64) error {
	for _, e := range extents {
		a.holeUpTo(e.Offset)
		split.Reset(io.NewSectionReader(r, e.Offset, e.Length))
		if err := a.pieces(ctx, split); err != nil {
			return err
		}
		if a.content.off < e.Offset+e.Length { // the file was cut
			return nil
		}
	}
	a.holeUpTo(size)
	return nil
}

// pieces hands out what the splitter yields.
func (a *assembly) pieces(ctx context.Context, split *chunk.Splitter) error {
	b := a.b
	for {
		buf := b.buffers.Get().(*[]byte)
		data, err := split.Next(*buf)
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			b.buffers.Put(buf)
			if err == io.EOF {
				return nil
			}
			return err
		}
		*buf = data
		b.o.Progress.Read.Add(int64(len(data)))
		if err := a.piece(ctx, buf); err != nil {
			return err
		}
	}
}

// piece hands out one piece. It takes over buf.
func (a *assembly) piece(ctx context.Context, buf *[]byte) error {
	b, data, i := a.b, *buf, a.cut
	part := Part{Size: uint32(len(data))}
	hint := repo.Hint{Bases: a.content.align.bases(ctx, len(data)), Keep: a.content.keep, Like: &a.like}
	a.cut++
	a.content.off += int64(len(data))
	end := a.content.off
	if a.content.align != nil {
		// To stay aligned the id is needed now. Most pieces of an old file are known.
		part.ID = b.r.Hasher().Sum(data)
		a.content.align.placed(ctx, part.ID, len(data))
		if b.s.Use(part.ID) {
			b.buffers.Put(buf)
			b.gate.RLock()
			a.done(i, part)
			b.gate.RUnlock()
			a.content.align.known()
			return nil
		}
		a.content.align.changed(ctx)
	}
	if err := b.flight.Acquire(ctx, 1); err != nil {
		return err
	}
	a.jobs.Add(1)
	sent := b.send(ctx, func(k *backupWorker) {
		defer a.jobs.Done()
		id, added, err := k.put(data, hint)
		if added {
			a.content.tally.blob(data, a.content.align != nil)
		}
		if base, rest, ok := k.ended(); len(hint.Bases) > 0 {
			a.content.align.tell(end, base, rest, ok)
		}
		b.buffers.Put(buf)
		b.flight.Release(1)
		if err != nil {
			return // the run has ended
		}
		part.ID = id
		a.done(i, part)
	})
	if !sent {
		a.jobs.Done()
		b.flight.Release(1)
		return ctx.Err()
	}
	return nil
}

func (a *assembly) holeUpTo(off int64) {
	if off <= a.content.off {
		return
	}
	hole := Part{HoleSize: off - a.content.off}
	a.content.align.skip(hole.HoleSize)
	a.content.off = off
	a.cut++
	a.b.gate.RLock()
	a.done(a.cut-1, hole)
	a.b.gate.RUnlock()
}

// done takes a part that is stored. The gate is held shared.
func (a *assembly) done(i int, p Part) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.shows {
		a.shown += p.Len()
		a.b.o.Progress.Bytes.Add(p.Len())
	}
	if i != a.next {
		if a.ready == nil {
			a.ready = map[int]Part{}
		}
		a.ready[i] = p
		return
	}
	for ok := true; ok; p, ok = a.ready[a.next] {
		delete(a.ready, a.next)
		if err := a.content.list.Add(p); err != nil {
			a.b.fail(err)
			return
		}
		a.next++
	}
	if a.then != nil && a.next == a.cut {
		a.then()
	}
}

// A partialFile is a large file that is being read. A checkpoint keeps what is stored of it, so that a prune does too.
type partialFile struct {
	a    *assembly
	node Node
}

func (f *partialFile) partial(context.Context) (*Node, error) {
	f.a.mu.Lock()
	defer f.a.mu.Unlock()
	c := f.a.content.list.Clone()
	if c.size == 0 {
		return nil, nil
	}
	n := f.node
	n.Flags |= FlagPartial
	return &n, c.Finish(&n)
}

// wait waits until all pieces that were handed out are stored, or the run has ended.
func (a *assembly) wait() { a.jobs.Wait() }
