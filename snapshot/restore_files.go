package snapshot

import (
	"container/list"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"sync/atomic"
	"time"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/snapshot/localfs"
)

// A fileMode says how a file's content comes to its place.
type fileMode uint8

const (
	// fileNew is written under its name. It has mode 0600 and the time of the writing until it is complete.
	fileNew fileMode = iota
	// fileInPlace is changed where its parts differ.
	fileInPlace
	// fileRebuild is written beside the old one, from its parts where they are right, and takes its place when it is
	// complete: for files with other names, which may be none of ours, and for programs, which may be running.
	fileRebuild
)

// errBeginning is the problem of a file that a checkpoint has in part.
var errBeginning = errors.New("the checkpoint has only its beginning: the backup ended before its end")

// A file is one regular file at work.
type file struct {
	rel  string
	node *Node
	have localfs.Meta // of what is there; not for fileNew
	mode fileMode
	open bool // more parts will be planned

	group *linkGroup // of a file with several names; else nil

	left     atomic.Int64 // parts that are not done, and 1 while the file is planned
	changed  atomic.Bool  // something was written
	bad      atomic.Bool  // a part could not be had; the problem is reported
	truncate atomic.Bool  // the end may be a hole

	mu      sync.Mutex // guards what follows
	h       *localfs.File
	refs    int
	place   *list.Element // in the pool
	extents []localfs.Extent
	mapped  bool // extents is valid

	// Of fileRebuild. What this window plans to copy from the old file, the holes in between, and how far the plan has
	// come. Up to clean the old file was found right in earlier windows, and nothing was copied yet.
	copies  []copied
	holes   []localfs.Extent
	planned int64
	clean   int64
	differs bool // the old file has data where there must be a hole
}

// tempName is where a file is rebuilt: beside it, under a name that a later run finds again.
func (f *file) tempName(h *chunk.Hasher) string {
	sum := h.Sum([]byte(f.node.Name))
	return joinPath(parentPath(f.rel), ".wtsnap-"+hex.EncodeToString(sum[:8]))
}

// howToChange chooses between fileInPlace and fileRebuild.
func (rs *restore) howToChange(n *Node, have *localfs.Meta) fileMode {
	if have.Nlink > 1 || have.Mode&0o111 != 0 {
		return fileRebuild
	}
	return fileInPlace
}

// fail notes that the file will not be what it should be. Only the first reason is reported.
func (f *file) fail(rs *restore, err error) {
	if !f.bad.Swap(true) {
		if f.group != nil {
			f.group.bad.Store(true)
		}
		rs.n.failed.Add(1)
		rs.problem(f.rel, err)
	}
}

// A filePool keeps the files that were written to last open, at most max of them but for those in use.
type filePool struct {
	max int
	mu  sync.Mutex
	lru list.List // of *file, the most recent first
}

// acquire opens f for writing, or finds it open. Each acquire needs a release.
func (p *filePool) acquire(rs *restore, f *file) (*localfs.File, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.h == nil {
		h, err := rs.openFile(f)
		if err != nil {
			return nil, err
		}
		f.h = h
		f.refs++
		p.add(f)
		return f.h, nil
	}
	f.refs++
	p.mu.Lock()
	if f.place != nil {
		p.lru.MoveToFront(f.place)
	}
	p.mu.Unlock()
	return f.h, nil
}

func (p *filePool) release(f *file) {
	f.mu.Lock()
	f.refs--
	f.mu.Unlock()
}

// add enters f, whose mu is held, and closes the one that was not used for longest where there are too many.
func (p *filePool) add(f *file) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f.place = p.lru.PushFront(f)
	for e := p.lru.Back(); e != nil && p.lru.Len() > p.max; {
		prev := e.Prev()
		if old := e.Value.(*file); old != f && old.mu.TryLock() {
			if old.refs == 0 {
				old.h.Close()
				old.h, old.place = nil, nil
				p.lru.Remove(e)
			}
			old.mu.Unlock()
		}
		e = prev
	}
}

// take removes f, which nobody uses any more, from the pool, and returns it opened.
func (p *filePool) take(rs *restore, f *file) (*localfs.File, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	h := f.h
	if h == nil {
		return rs.openFile(f)
	}
	p.drop(f)
	return h, nil
}

// discard closes f if it is open.
func (p *filePool) discard(f *file) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.h != nil {
		f.h.Close()
		p.drop(f)
	}
}

func (p *filePool) drop(f *file) {
	p.mu.Lock()
	p.lru.Remove(f.place)
	p.mu.Unlock()
	f.h, f.place = nil, nil
}

// closeAll closes what an ended run left open.
func (p *filePool) closeAll() {
	for e := p.lru.Front(); e != nil; e = e.Next() {
		e.Value.(*file).h.Close()
	}
	p.lru.Init()
}

// openFile opens what is written to: a new file, the file itself, or its copy in the making. f.mu is held.
func (rs *restore) openFile(f *file) (*localfs.File, error) {
	name := f.rel
	switch f.mode {
	case fileInPlace:
		h, have, err := rs.root.OpenWrite(name)
		if err == nil && (!have.SameInode(&f.have) || have.Nlink > 1) {
			h.Close()
			return nil, errors.New("it was replaced while it was restored")
		}
		return h, err
	case fileRebuild:
		name = f.tempName(rs.r.Hasher())
	}
	if !f.changed.Load() {
		h, err := rs.root.Create(name)
		if err == nil {
			f.changed.Store(true)
		}
		if err == nil || !errors.Is(err, fs.ErrExist) || f.mode != fileRebuild {
			return h, err
		}
	}
	h, have, err := rs.root.OpenWrite(name)
	if err == nil && have.Nlink > 1 {
		h.Close()
		return nil, fmt.Errorf("%q has another name", name)
	}
	f.changed.Store(true)
	return h, err
}

// release ends the planning of a file, unless more of its parts come in the next window.
func (w *window) release(ctx context.Context, f *file) error {
	if f.mode == fileRebuild && !f.bad.Load() {
		if err := w.rs.copyOld(ctx, f); err != nil {
			return err
		}
	}
	if f.open {
		return nil
	}
	return w.rs.partDone(f)
}

// partDone counts a part as done, however it ended, and finishes the file after the last one.
func (rs *restore) partDone(f *file) error {
	if f.left.Add(-1) > 0 {
		return nil
	}
	return rs.finishFile(f)
}

// fetch reads the window's blobs in the order in which they lie in the repository, and writes each to its place.
func (w *window) fetch(ctx context.Context) error {
	rs := w.rs
	if len(w.ids) == 0 {
		return nil
	}
	if rs.o.DryRun {
		for i := range w.places {
			p := &w.places[i]
			rs.n.written.Add(int64(p.size))
			p.file.changed.Store(true)
			if err := rs.partDone(p.file); err != nil {
				return err
			}
		}
		return nil
	}
	return rs.r.ReadBlobs(ctx, w.ids, repo.ReadOptions{
		Workers: rs.workers,
		OnDownload: func(bytes int64) {
			rs.n.downloaded.Add(bytes)
			rs.o.Progress.Transferred.Add(bytes)
		},
		OnError: func(i int, err error) error {
			var damage *repo.DamageError
			if !errors.As(err, &damage) {
				return err
			}
			f := w.places[i].file
			f.fail(rs, err)
			return rs.partDone(f)
		},
	}, func(i int, data []byte) error {
		p := &w.places[i]
		f := p.file
		rs.o.Progress.Read.Add(int64(len(data)))
		if !f.bad.Load() {
			if err := rs.writePart(f, p, data); err != nil {
				if end := endsRun(f.rel, err); end != nil {
					return end
				}
				f.fail(rs, err)
			}
		}
		return rs.partDone(f)
	})
}

func (rs *restore) writePart(f *file, p *place, data []byte) error {
	if len(data) != int(p.size) {
		return &repo.DamageError{Kind: repo.DamageTree, Object: "content of " + f.rel,
			Detail: fmt.Sprintf("a part has %d bytes, its blob %d", p.size, len(data))}
	}
	h, err := rs.files.acquire(rs, f)
	if err != nil {
		return err
	}
	defer rs.files.release(f)
	f.changed.Store(true)
	rs.o.Progress.Bytes.Add(int64(len(data)))
	if rs.o.Sparse {
		return rs.writeSparse(f, h, data, p.off)
	}
	n, err := h.WriteAt(data, p.off)
	rs.n.written.Add(int64(n))
	return err
}

const (
	blockSize = 4 << 10
	holeMin   = 32 << 10 // shorter runs of zeros are written
)

var zeroBlock [blockSize]byte

// writeSparse writes data but for its long runs of zero blocks, aligned to the file's blocks.
func (rs *restore) writeSparse(f *file, h *localfs.File, data []byte, off int64) error {
	write := func(from, to int) error {
		n, err := h.WriteAt(data[from:to], off+int64(from))
		rs.n.written.Add(int64(n))
		return err
	}
	begin := int(-off & (blockSize - 1)) // of the first whole block
	written := 0                         // up to here all is dealt with
	for i := begin; i+blockSize <= len(data); {
		j := i
		for j+blockSize <= len(data) && string(data[j:j+blockSize]) == string(zeroBlock[:]) {
			j += blockSize
		}
		if j-i < holeMin {
			i = max(j, i+blockSize)
			continue
		}
		if err := write(written, i); err != nil {
			return err
		}
		if f.mode != fileNew {
			if err := rs.zeroRange(h, off+int64(i), int64(j-i)); err != nil {
				return err
			}
		}
		f.truncate.Store(true)
		rs.n.holes.Add(int64(j - i))
		written, i = j, j
	}
	return write(written, len(data))
}

// zeroRange makes a range of a file that has content read as zeros. What lies beyond its end will be a hole anyway.
func (rs *restore) zeroRange(h *localfs.File, off, length int64) error {
	m, err := h.Meta()
	if err != nil {
		return err
	}
	return h.Zero(off, min(length, m.Size-off))
}

// finishFile gives a file whose parts are all done its size and metadata, the time last of all. Only an error that ends
// the run is returned.
func (rs *restore) finishFile(f *file) error {
	err := rs.finish(f)
	if err == nil {
		return nil
	}
	if end := endsRun(f.rel, err); end != nil {
		return end
	}
	f.fail(rs, err)
	return nil
}

func (rs *restore) finish(f *file) error {
	n := f.node
	if f.bad.Load() {
		if !rs.o.DryRun {
			rs.finishBad(f)
		}
		return nil
	}
	if f.mode == fileInPlace && !f.changed.Load() && f.have.Size == n.Size {
		rs.files.discard(f)
		rs.countFile(f)
		var c dirCache
		defer c.close()
		return rs.correct(&other{rel: f.rel, node: n, have: f.have, there: true}, &c)
	}
	if rs.o.DryRun {
		rs.countFile(f)
		return nil
	}
	h, err := rs.files.take(rs, f)
	if err != nil {
		return err
	}
	defer h.Close()
	if f.truncate.Load() || f.mode != fileNew && f.have.Size != n.Size || f.mode == fileRebuild {
		if err := h.Truncate(n.Size); err != nil {
			return err
		}
	}
	rs.applied(f.rel, h.Apply(rs.metaFor(n), n.Xattrs, localfs.ApplyOptions{}))
	if f.mode == fileRebuild {
		if err := rs.root.Rename(f.tempName(rs.r.Hasher()), f.rel); err != nil {
			return err
		}
	}
	rs.countFile(f)
	return nil
}

// finishBad leaves what could be had of a damaged file: with its owner and mode, so that its owner can salvage it, but
// not with its time, so that nothing takes it for the file of the snapshot. An old file is left alone.
func (rs *restore) finishBad(f *file) {
	if f.mode == fileRebuild {
		rs.files.discard(f)
		if f.changed.Load() {
			_ = rs.root.Remove(f.tempName(rs.r.Hasher())) // the next run overwrites it
		}
		return
	}
	if !f.changed.Load() {
		rs.files.discard(f)
		return
	}
	h, err := rs.files.take(rs, f)
	if err != nil {
		return // its problem is reported
	}
	defer h.Close()
	m := *rs.metaFor(f.node)
	m.MTime = time.Now().UnixNano()
	rs.applied(f.rel, h.Apply(&m, f.node.Xattrs, localfs.ApplyOptions{}))
}

func (rs *restore) countFile(f *file) {
	if f.bad.Load() {
		return
	}
	p := rs.o.Progress
	p.SetPath(f.rel)
	p.Files.Add(1)
	switch {
	case f.mode == fileNew:
		rs.n.newFiles.Add(1)
		p.New.Add(1)
	case f.changed.Load() || f.have.Size != f.node.Size:
		rs.n.updated.Add(1)
		p.Changed.Add(1)
		rs.act(OpUpdate, f.rel, localfs.TypeFile, f.node.Size)
	default:
		rs.n.unchanged.Add(1)
		p.Unchanged.Add(1)
	}
}

// metaFor returns a node's metadata with the owner that it has on this machine.
func (rs *restore) metaFor(n *Node) *localfs.Meta {
	m := n.Meta
	m.UID, m.GID = rs.owners.resolve(n.UID, n.GID)
	return &m
}
