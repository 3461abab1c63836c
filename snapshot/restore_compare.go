package snapshot

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"slices"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/snapshot/localfs"
)

// A copied is a part of a file that is rebuilt, to be copied from the old file.
type copied struct {
	id   chunk.ID
	off  int64
	size uint32
}

// compare hashes the parts of the files that are there already, and drops those that are right from what is fetched.
func (w *window) compare(ctx context.Context) error {
	rs := w.rs
	if len(w.ranges) == 0 && len(w.holes) == 0 {
		return nil
	}
	err := parallelWith(ctx, len(w.ranges), 1, newScratch, nil, func(scratch *[]byte, i int) error {
		w.compareRange(&w.ranges[i], scratch)
		return nil
	})
	if err != nil {
		return err
	}
	for i := range w.holes {
		if err := rs.makeHole(&w.holes[i]); err != nil {
			return err
		}
	}
	kept := 0
	for i, id := range w.ids {
		if !id.IsZero() {
			w.ids[kept], w.places[kept] = id, w.places[i]
			kept++
		}
	}
	w.ids, w.places = w.ids[:kept], w.places[:kept]
	return nil
}

func newScratch() *[]byte { return new([]byte) }

// sized returns a slice of the given length, kept in scratch for the next one.
func sized(scratch *[]byte, length uint32) []byte {
	if cap(*scratch) < int(length) {
		*scratch = make([]byte, length)
	}
	return (*scratch)[:length]
}

// compareRange compares a span of places of one file.
func (w *window) compareRange(s *span, scratch *[]byte) {
	rs, f := w.rs, s.file
	if f.bad.Load() {
		return
	}
	old, err := rs.openToRead(f)
	if err != nil {
		f.fail(rs, err)
		return
	}
	defer old.Close()
	var begun *localfs.File // what an earlier run left of the copy
	if f.mode == fileRebuild {
		if h, _, err := rs.root.OpenFile(f.tempName(rs.r.Hasher())); err == nil {
			begun = h
			defer begun.Close()
		}
	}
	for i := s.first; i < s.last; i++ {
		p := &w.places[i]
		buf := sized(scratch, p.size)
		switch {
		case rs.holds(old, buf, p.off, w.ids[i]):
			if f.mode == fileRebuild {
				f.mu.Lock()
				f.copies = append(f.copies, copied{w.ids[i], p.off, p.size})
				f.mu.Unlock()
			}
		case begun != nil && rs.holds(begun, buf, p.off, w.ids[i]):
			f.changed.Store(true)
		default:
			continue
		}
		w.ids[i] = chunk.ID{}
		rs.n.skipped.Add(int64(p.size))
		rs.o.Progress.Bytes.Add(int64(p.size))
		f.left.Add(-1) // never the last one: the file is still held
	}
}

// holds reports whether a file holds the blob at off. What cannot be read is written anew.
func (rs *restore) holds(h *localfs.File, buf []byte, off int64, id chunk.ID) bool {
	n, _ := h.ReadAt(buf, off)
	return n == len(buf) && rs.r.Hasher().Sum(buf) == id
}

func (rs *restore) openToRead(f *file) (*localfs.File, error) {
	h, _, err := rs.root.OpenFile(f.rel)
	if errors.Is(err, fs.ErrPermission) && !rs.o.DryRun && rs.root.MakeWritable(f.rel) == nil {
		h, _, err = rs.root.OpenFile(f.rel)
	}
	return h, err
}

// copyOld copies what the old file holds into the one that is rebuilt, from the first window on that finds a difference.
// Where the old file turns out to hold everything, it stays.
func (rs *restore) copyOld(ctx context.Context, f *file) error {
	copies, holes := f.copies, f.holes
	f.copies, f.holes = nil, nil
	right := f.left.Load() == 1 && !f.differs && !f.changed.Load()
	switch {
	case right && f.open:
		f.clean = f.planned
		return nil
	case right && f.have.Size == f.node.Size && !rs.sharedInode(f.node, &f.have):
		f.mode = fileInPlace
		return nil
	case rs.o.DryRun:
		f.changed.Store(true)
		return nil
	}
	err := rs.copyParts(ctx, f, copies, holes)
	if err == nil {
		return nil
	}
	if end := endsRun(f.rel, err); end != nil {
		return end
	}
	if damage, fatal := treeDamage(err); fatal != nil {
		return fatal
	} else if isLoad(err) {
		err = damage
	}
	f.fail(rs, err)
	return nil
}

func (rs *restore) copyParts(ctx context.Context, f *file, copies []copied, holes []localfs.Extent) error {
	old, err := rs.openToRead(f)
	if err != nil {
		return err
	}
	defer old.Close()
	h, err := rs.files.acquire(rs, f)
	if err != nil {
		return err
	}
	defer rs.files.release(f)
	var scratch []byte
	one := func(c copied) error {
		buf := sized(&scratch, c.size)
		if !rs.holds(old, buf, c.off, c.id) {
			return errors.New("it changed while it was restored")
		}
		n, err := h.WriteAt(buf, c.off)
		rs.n.written.Add(int64(n))
		return err
	}
	if f.clean > 0 {
		for p, err := range f.node.Parts(ctx, rs.load, 0) {
			if err == nil && p.Offset >= f.clean {
				break
			}
			if err == nil && p.IsHole() {
				err = rs.zeroRange(h, p.Offset, p.HoleSize)
			} else if err == nil {
				err = one(copied{p.ID, p.Offset, p.Size})
			}
			if err != nil {
				return err
			}
		}
		f.clean = 0
	}
	for _, hole := range holes { // an earlier run may have left something there
		if err := rs.zeroRange(h, hole.Offset, hole.Length); err != nil {
			return err
		}
	}
	for _, c := range copies {
		if err := one(c); err != nil {
			return err
		}
	}
	return nil
}

// makeHole makes a hole in a file that is there, unless it has one at that place.
func (rs *restore) makeHole(s *span) error {
	f := s.file
	if f.mode == fileRebuild {
		f.holes = append(f.holes, localfs.Extent{Offset: s.off, Length: s.length})
	}
	length := min(s.length, f.have.Size-s.off)
	if length <= 0 || f.bad.Load() {
		return nil
	}
	err := func() error {
		if !f.mapped {
			h, err := rs.openToRead(f)
			if err != nil {
				return err
			}
			f.extents, err = h.Extents(f.have.Size)
			h.Close()
			if err != nil {
				return err
			}
			f.mapped = true
		}
		if len(overlapping(f.extents, s.off, length)) == 0 {
			return nil
		}
		if f.mode == fileRebuild {
			f.differs = true
			return nil
		}
		f.changed.Store(true)
		if rs.o.DryRun {
			return nil
		}
		h, err := rs.files.acquire(rs, f)
		if err != nil {
			return err
		}
		defer rs.files.release(f)
		return h.Zero(s.off, length)
	}()
	if err == nil {
		return nil
	}
	if end := endsRun(f.rel, err); end != nil {
		return end
	}
	f.fail(rs, err)
	return nil
}

// overlapping returns those of a file's extents, which are in order, that have bytes in a range.
func overlapping(extents []localfs.Extent, off, length int64) []localfs.Extent {
	from, _ := slices.BinarySearchFunc(extents, off, func(e localfs.Extent, off int64) int {
		return cmp.Compare(e.Offset+e.Length, off+1)
	})
	to, _ := slices.BinarySearchFunc(extents, off+length, func(e localfs.Extent, end int64) int {
		return cmp.Compare(e.Offset, end)
	})
	return extents[from:max(from, to)]
}
