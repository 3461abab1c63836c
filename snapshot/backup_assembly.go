package snapshot

import (
	"context"
	"io"
	"slices"
	"sync"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/snapshot/localfs"
)

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

	patient bool        // pieces may be put off
	late    []latePiece // guarded by mu; each holds one of the backup's places for late pieces
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
	if a.overdue() {
		if err := a.settle(ctx, false); err != nil {
			b.buffers.Put(buf)
			return err
		}
	}
	hint := a.content.hint(ctx, data)
	hint.Like = &a.like
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
		if !hint.Guess {
			a.content.align.changed(ctx)
		}
	}
	if err := b.flight.Acquire(ctx, 1); err != nil {
		return err
	}
	hint.PutOff = a.patient && a.content.align != nil && !hint.Guess && b.waiting.TryAcquire(1)
	a.jobs.Add(1)
	sent := b.send(ctx, func(k *backupWorker) {
		defer a.jobs.Done()
		id, added, err := k.put(data, hint)
		if hint.PutOff && k.putOff() {
			a.mu.Lock()
			a.late = append(a.late, latePiece{at: i, part: part, data: data, buf: buf, bases: hint.Bases})
			a.mu.Unlock()
			b.flight.Release(1)
			return
		}
		if hint.PutOff {
			b.waiting.Release(1)
		}
		if added {
			a.content.tally.blob(data, !a.content.fresh)
		}
		if base, rest, ok := k.ended(); len(hint.Bases) > 0 {
			a.content.tell(end, base, rest, ok)
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
		if hint.PutOff {
			b.waiting.Release(1)
		}
		return ctx.Err()
	}
	return nil
}

// lateSpan is for how many pieces one is put off at most: a checkpoint has nothing of the file behind it.
const lateSpan = 1024

// overdue reports whether a piece was put off for long.
func (a *assembly) overdue() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.ContainsFunc(a.late, func(l latePiece) bool { return a.cut-l.at > lateSpan })
}

// settle puts the pieces that were put off, where the file has ended all of them.
func (a *assembly) settle(ctx context.Context, ended bool) error {
	b := a.b
	if ended {
		a.wait() // for those that are still to be put off
	}
	a.mu.Lock()
	late := a.late
	a.late = nil
	a.mu.Unlock()
	if len(late) == 0 {
		return nil
	}
	gone := a.content.align.gone(ended)
	for i, l := range late {
		a.jobs.Add(1)
		sent := b.send(ctx, func(k *backupWorker) {
			defer a.jobs.Done()
			err := a.content.putLate(k, &l, gone, &a.like)
			a.release(&l)
			if err == nil {
				a.done(l.at, l.part)
			}
		})
		if !sent {
			a.jobs.Done()
			for ; i < len(late); i++ {
				a.release(&late[i])
			}
			return ctx.Err()
		}
	}
	return nil
}

// release gives back what a piece held that was put off.
func (a *assembly) release(l *latePiece) {
	a.b.buffers.Put(l.buf)
	a.b.waiting.Release(1)
}

// abandon drops the pieces that were put off: the file could not be read. Nobody works on it any more.
func (a *assembly) abandon() {
	for i := range a.late {
		a.release(&a.late[i])
	}
	a.late = nil
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
