package repo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/whole-tale/wtsnap/index"
	"github.com/whole-tale/wtsnap/repo/storage"
)

// How a session stores packs and lists them.

// newPack returns an empty builder, with the buffer of a pack that has been uploaded if there is one.
func (s *Session) newPack(kind index.Kind) *packBuilder {
	b := &packBuilder{kind: kind, buf: s.buffers.pop()}
	if b.buf == nil {
		b.buf = make([]byte, 0, packBytes) // what is not written to takes no memory
	}
	return b
}

// bufferStack holds buffers that nobody uses. A sync.Pool would let go of those that are not used for two collections, and
// others would be made, before these are collected: packs are what most of the memory goes to.
type bufferStack struct {
	mu   sync.Mutex
	free [][]byte
}

// pop returns an empty buffer, or nil.
func (s *bufferStack) pop() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.free)
	if n == 0 {
		return nil
	}
	buf := s.free[n-1]
	s.free[n-1] = nil
	s.free = s.free[:n-1]
	return buf[:0]
}

func (s *bufferStack) push(buf []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.free = append(s.free, buf)
}

// ship uploads a pack in the background; it waits while too many are on their way.
func (s *Session) ship(ctx context.Context, b *packBuilder) error {
	if err := s.slots.acquire(ctx); err != nil {
		return err
	}
	s.start(b)
	return nil
}

// start finishes a pack and uploads it in the background. The caller gives its upload slot away.
func (s *Session) start(b *packBuilder) {
	go func() {
		defer func() { s.slots.ended(int64(len(b.buf))) }()
		frames := b.planned()
		pack, err := b.finish(s.r.keys)
		if err == nil {
			s.stats.planned.Add(pack.Size - frames)
			err = s.upload(pack, b.buf)
		}
		if err != nil {
			_ = s.fail(err)
		}
		s.buffers.push(b.buf)
	}()
}

func (s *Session) upload(pack index.Pack, file []byte) error {
	if s.failed() != nil {
		return nil
	}
	st := s.r.st
	if pack.Kind == index.Tree {
		st = s.r.cached
	}
	info, err := st.Put(s.ctx, packName(pack.ID), file)
	if err != nil {
		return fmt.Errorf("storing a pack: %w", err)
	}
	pack.Hash = info.Hash
	condemned, err := s.register(pack)
	if err != nil {
		return err
	}
	if condemned {
		// A prune found it before this process had the answer of its upload, and the lease may have seen
		// that: nothing would save it any more. The same frames go into a pack of another name.
		again := &packBuilder{kind: pack.Kind}
		again.absorb(&packBuilder{kind: pack.Kind, buf: file, frames: slices.Clone(pack.Frames)})
		if pack, err = again.finish(s.r.keys); err != nil {
			return err
		}
		return s.upload(pack, again.buf)
	}
	s.stats.packs.Add(1)
	s.stats.stored.Add(pack.Size)
	s.mu.Lock()
	s.packs = append(s.packs, pack)
	var full []index.Pack
	if len(s.packs) >= segmentPacks {
		full, s.packs = s.packs, nil
	}
	s.mu.Unlock()
	if s.o.OnUpload != nil {
		s.o.OnUpload(pack.Size)
	}
	return s.list(s.ctx, full)
}

// register makes a stored pack's blobs known to this process, and relied upon, unless the pack is
// condemned already.
func (s *Session) register(pack index.Pack) (condemned bool, err error) {
	ref, err := s.index.AddPack(index.SegmentID{}, pack)
	if err != nil {
		return false, fmt.Errorf("pack %s: %w", pack.ID, err)
	}
	info := s.index.Pack(ref)
	if info.Condemned {
		return true, nil
	}
	for i := range info.Blobs {
		s.used.add(info.FirstBlob + index.BlobRef(i))
	}
	for _, f := range pack.Frames {
		for _, b := range f.Blobs {
			s.pending.remove(b.Key)
		}
	}
	return false, nil
}

// list stores an index segment for packs. Where it fails they are kept for another attempt.
func (s *Session) list(ctx context.Context, packs []index.Pack) error {
	if len(packs) == 0 {
		return nil
	}
	if err := s.lease.check(); err != nil {
		s.r.distrust()
		return err // others may have removed packs that no index listed
	}
	id, err := s.r.writeSegment(ctx, packs)
	if err != nil {
		s.mu.Lock()
		s.packs = append(s.packs, packs...)
		s.mu.Unlock()
	}
	if lost := s.lease.check(); lost != nil { // after a failure too: the segment may be stored
		return errors.Join(lost, err, s.unlist(context.WithoutCancel(ctx), id, packs))
	}
	return err
}

// unlist removes the segment that was stored by a machine that slept just before, if a prune has found
// its packs meanwhile.
func (s *Session) unlist(ctx context.Context, id index.SegmentID, packs []index.Pack) error {
	lists, err := s.r.condemnedLists(ctx)
	if err != nil {
		return err
	}
	for _, p := range packs {
		_, err := s.r.st.Stat(ctx, packName(p.ID))
		found := slices.ContainsFunc(lists, func(l condemnedList) bool { return slices.Contains(l.packs, p.ID) })
		switch {
		case err != nil && !errors.Is(err, storage.ErrNotExist):
			return err
		case err != nil || found:
			return s.r.cached.Delete(ctx, segmentName(id))
		}
	}
	return nil
}
