package archive

import (
	"context"
	"io"
	"sync"

	"golang.org/x/sync/errgroup"
)

const (
	splitBuffer  = 256 << 10
	splitBuffers = 32
)

// Split reads the archive to its end and calls fn for every namespace when it begins, each in a goroutine of its own. The
// documents that fn reads end with io.EOF only when all have come and their CRC is right; where the archive is damaged or
// ends early, with its error. fn need not read to the end. Its error ends the whole, as does that of the archive; Split
// returns the first of them, when all fns have returned.
//
// fn must not wait for another namespace: they are read as the archive has them, and share 8 MiB of buffers.
//
// Memory: these buffers, and what fn has for each namespace that has begun and not ended; mongodump dumps four at a time
// by default.
func (a *Reader) Split(ctx context.Context, fn func(ctx context.Context, n Namespace, documents io.Reader) error) error {
	g, ctx := errgroup.WithContext(ctx)
	free := make(chan []byte, splitBuffers)
	for range splitBuffers {
		free <- nil // made when they are needed
	}
	open := map[Namespace]*stream{}
	read := func() error {
		for {
			var buf []byte
			select {
			case buf = <-free:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			if buf == nil {
				buf = make([]byte, splitBuffer)
			}
			e, err := a.Next(buf[:cap(buf)])
			if err == io.EOF {
				return nil
			}
			if err != nil {
				return err
			}
			s := open[e.Namespace]
			if e.Kind == Data && s.put(e.Data) {
				continue
			}
			free <- buf // which has room for all
			switch e.Kind {
			case Begin:
				s := newStream(free)
				open[e.Namespace] = s
				g.Go(func() error {
					defer s.leave()
					return fn(ctx, e.Namespace, s)
				})
			case End:
				s.end(io.EOF)
				delete(open, e.Namespace)
			}
		}
	}
	err := read()
	if err != nil {
		for _, s := range open {
			s.end(err)
		}
		// The error of the archive comes first, unless it is that of a fn.
		g.Go(func() error { return err })
	}
	if werr := g.Wait(); err == nil || ctxEnded(ctx, err) {
		err = werr
	}
	return err
}

// ctxEnded reports whether err only says that ctx ended.
func ctxEnded(ctx context.Context, err error) bool {
	return ctx.Err() != nil && err == context.Cause(ctx)
}

// A stream is the queue of a namespace's buffers. It has no bound of its own: the number of buffers bounds all of them.
type stream struct {
	free chan<- []byte

	mu    sync.Mutex
	ready sync.Cond
	queue [][]byte
	err   error // after the queue
	left  bool  // nobody reads any more

	cur  []byte // the reader's: what it was handed
	rest []byte // of cur
}

func newStream(free chan<- []byte) *stream {
	s := &stream{free: free}
	s.ready.L = &s.mu
	return s
}

// put takes a buffer over, unless nobody wants it.
func (s *stream) put(data []byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.left {
		return false
	}
	s.queue = append(s.queue, data)
	s.ready.Signal()
	return true
}

func (s *stream) end(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
	s.ready.Signal()
}

// leave gives all buffers back.
func (s *stream) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.left = true
	if s.cur != nil {
		s.free <- s.cur
		s.cur = nil
	}
	for _, b := range s.queue {
		s.free <- b
	}
	s.queue = nil
}

// Read implements io.Reader.
func (s *stream) Read(p []byte) (int, error) {
	for len(s.rest) == 0 {
		s.mu.Lock()
		if s.cur != nil {
			s.free <- s.cur // which has room for all
			s.cur = nil
		}
		for len(s.queue) == 0 && s.err == nil {
			s.ready.Wait()
		}
		if len(s.queue) == 0 {
			err := s.err
			s.mu.Unlock()
			return 0, err
		}
		s.cur = s.queue[0]
		s.queue[0] = nil
		s.queue = s.queue[1:]
		s.rest = s.cur
		s.mu.Unlock()
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}
