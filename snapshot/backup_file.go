package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync/atomic"

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
	kin     *Node        // without old: what it probably resembles, or nil
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
			if err := c.store(ctx, k, rest[:n], true); err != nil {
				return err
			}
			rest = rest[n:]
		}
		data = data[e.Length:]
	}
	if err := c.holeUpTo(size); err != nil {
		return err
	}
	return c.settle(k)
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
			if err := c.store(ctx, k, data, false); err != nil {
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
	tally *tally      // of the source
	align *aligner    // nil: there is nothing to compare with
	keep  bool        // it is likely to change again
	fresh bool        // there is no old version
	guess atomic.Bool // it is compared with a kin, and has had nothing in common with it so far
	off   int64

	parts []Part      // from the first piece that was put off on
	late  []latePiece // what was put off
}

// A latePiece is a piece of a file that has little in common with what was at its place. It is put once more when it is known
// which old chunks are not in the new version: something may have been moved from there.
type latePiece struct {
	at    int // in the parts
	part  Part
	data  []byte
	buf   *[]byte // that data lies in, where it is an assembly's
	bases []chunk.ID
}

func newContent(b *backup, t *fileTask) *content {
	c := &content{list: NewListBuilder(b.putTree), fresh: t.old == nil}
	if t.f != nil {
		c.tally = &t.f.src.tally
	}
	if t.old != nil {
		c.align, c.keep = newAligner(b, t.old), true
	} else if t.kin != nil {
		c.align, c.keep = newAligner(b, t.kin), true
		c.guess.Store(true)
	}
	return c
}

// store puts a piece, in a worker. Where the data stays as it is until settle is called, it may be put off until then.
func (c *content) store(ctx context.Context, k *backupWorker, data []byte, stays bool) error {
	h := c.hint(ctx, data)
	h.PutOff = stays && c.align != nil && !h.Guess
	id, added, err := k.put(data, h)
	if err != nil {
		return err
	}
	if added {
		c.tally.blob(data, !c.fresh)
	}
	c.align.placed(ctx, id, len(data))
	part := Part{ID: id, Size: uint32(len(data))}
	if c.align != nil {
		base, rest, ok := k.ended()
		c.tell(c.align.off, base, rest, ok)
		if k.putOff() {
			c.late = append(c.late, latePiece{at: len(c.parts), part: part, data: data, bases: h.Bases})
		}
	}
	return c.add(part)
}

// hint says what is known of a piece.
func (c *content) hint(ctx context.Context, data []byte) repo.Hint {
	return repo.Hint{Bases: c.align.bases(ctx, len(data)), Guess: c.guess.Load(), Keep: c.keep}
}

// tell says where the delta of a piece that ends at off ended in its bases. It may be called by any goroutine.
func (c *content) tell(off int64, base chunk.ID, rest int, ok bool) {
	if ok {
		c.guess.Store(false)
	}
	c.align.tell(off, base, rest, ok)
}

// settle puts what was put off.
func (c *content) settle(k *backupWorker) error {
	for i := range c.late {
		if err := c.putLate(k, &c.late[i], c.align.gone(true), nil); err != nil {
			return err
		}
	}
	for _, p := range c.parts {
		if err := c.list.Add(p); err != nil {
			return err
		}
	}
	c.parts, c.late = nil, nil
	return nil
}

// putLate puts a piece for good, in a worker.
func (c *content) putLate(k *backupWorker, l *latePiece, gone []chunk.ID, like *chunk.Effort) error {
	_, added, err := k.put(l.data, repo.Hint{Bases: l.bases, Spare: without(gone, l.bases), Keep: c.keep, Like: like})
	if added {
		c.tally.blob(l.data, !c.fresh)
	}
	return err
}

// without returns the ids that are not among others.
func without(ids, others []chunk.ID) (rest []chunk.ID) {
	for _, id := range ids {
		if !slices.Contains(others, id) {
			rest = append(rest, id)
		}
	}
	return rest
}

func (c *content) add(p Part) error {
	c.off += p.Len()
	if len(c.late) > 0 {
		c.parts = append(c.parts, p)
		return nil
	}
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
	a := &assembly{b: b, content: newContent(b, t), patient: true}
	t.f.at(t.slot, &partialFile{a, Node{Name: t.name, Meta: m}})
	var after localfs.Meta
	extents, err := extentsOf(file, &m)
	if err == nil {
		err = a.read(ctx, split, file, extents, m.Size)
	}
	if err == nil {
		err = a.settle(ctx, true)
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
	a.abandon()
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
