package mongo

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/whole-tale/wtsnap/chunk"
)

const (
	blockBytes  = 1 << 20  // of a stream that are handed on at a time, but for larger documents
	queueBlocks = 4        // of a stream in memory
	segmentMin  = 64 << 20 // bytes of a file of the spool
	segmentsMax = 256      // files of the spool, about

	// A reader that only computes takes a block in less than patience; spooling would cost time that it lacks. A slow line
	// does not, and then nobody waits again until what was spooled is read. All streams together wait for patienceTotal
	// at most, since a server remembers the moment of a snapshot for 300 seconds.
	patience      = 500 * time.Millisecond
	patienceTotal = time.Minute
)

// A spool takes what a server yields faster than the repository takes it, up to a number of bytes on disk, so that no
// cursor waits for a slow remote for long. It is shared by all streams of a dump.
//
// What it writes is compressed and sealed (AES-256-GCM) with a key that is in memory only, in files that have no name any
// more: neither a crash nor a stolen disk leaves documents behind.
type spool struct {
	dir     string
	limit   int64
	segment int64
	seal    cipher.AEAD
	codec   *chunk.Codec
	nonce   atomic.Uint64
	waited  atomic.Int64 // nanoseconds that streams waited for room in memory, before they took to the disk
	spilled atomic.Int64 // bytes of documents that went through it, ever
	blocks  sync.Pool    // of *[]byte: blocks that were read
	// onFailure, where it is set, is told once why the disk takes no more. The streams go on without it.
	onFailure func(error)

	mu     sync.Mutex
	used   int64
	failed bool
}

// newSpool makes a spool of at most limit bytes below dir; 0 = none.
func newSpool(dir string, limit int64) (*spool, error) {
	s := &spool{dir: dir, limit: limit, segment: max(segmentMin, limit/segmentsMax), codec: chunk.NewCodec(chunk.LevelFastest)}
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	s.seal, err = cipher.NewGCM(block)
	return s, err
}

// block returns an empty block.
func (s *spool) block() []byte {
	if b, ok := s.blocks.Get().(*[]byte); ok {
		return (*b)[:0]
	}
	return make([]byte, 0, blockBytes+blockBytes/4)
}

func (s *spool) recycle(block []byte) {
	if cap(block) >= blockBytes && cap(block) <= 2*blockBytes {
		s.blocks.Put(&block)
	}
}

// reserve takes n bytes of the spool's room, or says that there are none.
func (s *spool) reserve(n int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed || s.used+n > s.limit {
		return false
	}
	s.used += n
	return true
}

// fail gives the spool up for what is written from now on, and n bytes back.
func (s *spool) fail(err error, n int64) {
	s.mu.Lock()
	first := !s.failed
	s.failed = true
	s.used -= n
	s.mu.Unlock()
	if first && s.onFailure != nil {
		s.onFailure(err)
	}
}

func (s *spool) release(n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used -= n
}

// A queue is a stream of blocks from one goroutine to another: some in memory, then as many in the spool as fit.
type queue struct {
	spool *spool

	mu     sync.Mutex
	moved  *sync.Cond
	items  []queued
	memory int   // blocks in memory
	behind int   // blocks in the spool
	err    error // that the stream ends with, io.EOF or worse
	closed bool  // nobody reads any more

	last *segment // that is written to; the producer's

	block []byte // that Read is in; the reader's
	rest  []byte // of it
}

// A queued is a block: in memory, or sealed in a segment.
type queued struct {
	data     []byte
	segment  *segment
	offset   int64
	length   int // sealed
	size     int // plain
	encoding chunk.Encoding
	nonce    uint64
}

// A segment is a file of the spool.
type segment struct {
	file  *os.File
	bytes int64
	uses  int  // blocks in it that are not read yet
	full  bool // nothing is added any more
}

func newQueue(s *spool) *queue {
	q := &queue{spool: s}
	q.moved = sync.NewCond(&q.mu)
	return q
}

// errQueueClosed is put's where nobody reads any more.
var errQueueClosed = errors.New("nobody reads the stream any more")

// put hands on a block, which belongs to the queue from then on. It waits for room in memory: a little, and where the spool
// has none either, as long as it takes.
func (q *queue) put(ctx context.Context, block []byte) error {
	wake := func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		q.moved.Broadcast()
	}
	stop := context.AfterFunc(ctx, wake)
	defer stop()
	var began time.Time // of the wait, zero before
	var timer *time.Timer
	tried := q.spool.limit == 0
	q.mu.Lock()
	defer q.mu.Unlock()
	for {
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case q.closed:
			return errQueueClosed
		case q.memory < queueBlocks:
			q.memory++
			q.items = append(q.items, queued{data: block})
			q.moved.Broadcast()
			if timer != nil && !tried {
				q.spool.waited.Add(int64(time.Since(began)))
			}
			return nil
		}
		switch {
		case tried:
		case timer == nil && q.behind == 0 && q.spool.waited.Load() < int64(patienceTotal):
			began, timer = time.Now(), time.AfterFunc(patience, wake)
			defer timer.Stop()
		case timer == nil || time.Since(began) >= patience:
			if timer != nil {
				q.spool.waited.Add(int64(time.Since(began)))
			}
			if done, err := q.spillLocked(block); done || err != nil {
				return err
			}
			tried = true // this block waits for memory
			continue
		}
		q.moved.Wait()
	}
}

// spillLocked puts a block into the spool. It reports false where that takes nothing.
func (q *queue) spillLocked(block []byte) (bool, error) {
	q.mu.Unlock()
	item, ok := q.spill(block)
	q.mu.Lock()
	if !ok {
		return false, nil
	}
	if q.closed {
		item.segment.uses--
		return false, errQueueClosed
	}
	q.items = append(q.items, item)
	q.behind++
	q.moved.Broadcast()
	return true, nil
}

// spill writes a block to the spool. It reports false where that is full, or fails.
func (q *queue) spill(block []byte) (queued, bool) {
	s := q.spool
	packed, encoding := s.codec.Encode(nil, block)
	nonce := s.nonce.Add(1)
	sealed := s.seal.Seal(nil, nonceBytes(nonce), packed, nil)
	if !s.reserve(int64(len(sealed))) {
		return queued{}, false
	}
	if q.last == nil || q.last.bytes >= s.segment {
		q.retire()
		file, err := unnamed(s.dir)
		if err != nil {
			s.fail(err, int64(len(sealed)))
			return queued{}, false
		}
		q.last = &segment{file: file}
	}
	g := q.last
	if _, err := g.file.WriteAt(sealed, g.bytes); err != nil {
		s.fail(err, int64(len(sealed)))
		return queued{}, false
	}
	item := queued{segment: g, offset: g.bytes, length: len(sealed), size: len(block), encoding: encoding, nonce: nonce}
	q.mu.Lock()
	g.bytes += int64(len(sealed))
	g.uses++
	q.mu.Unlock()
	s.spilled.Add(int64(len(block)))
	s.recycle(block)
	return item, true
}

// retire says that nothing is added to the last segment any more.
func (q *queue) retire() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if g := q.last; g != nil {
		g.full = true
		q.dropLocked(g)
		q.last = nil
	}
}

// dropLocked frees a segment that nobody needs any more.
func (q *queue) dropLocked(g *segment) {
	if g.full && g.uses == 0 && g.file != nil {
		_ = g.file.Close()
		g.file = nil
		q.spool.release(g.bytes)
	}
}

func nonceBytes(n uint64) []byte {
	return binary.LittleEndian.AppendUint64(make([]byte, 4, 12), n)
}

// unnamed makes a file that is gone when it is closed, or the process ends.
func unnamed(dir string) (*os.File, error) {
	file, err := os.CreateTemp(dir, "wtsnap-spool-")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(file.Name()); err != nil {
		_ = file.Close()
		return nil, err
	}
	return file, nil
}

// finish says that nothing comes any more: io.EOF, or why.
func (q *queue) finish(err error) {
	q.retire()
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.err == nil {
		q.err = err
	}
	q.moved.Broadcast()
}

// Read implements io.Reader. An error that the stream ended with comes after all that was put before it.
func (q *queue) Read(p []byte) (int, error) {
	for len(q.rest) == 0 {
		q.spool.recycle(q.block)
		q.block = nil
		block, err := q.next()
		if err != nil {
			return 0, err
		}
		q.block, q.rest = block, block
	}
	n := copy(p, q.rest)
	q.rest = q.rest[n:]
	return n, nil
}

func (q *queue) next() ([]byte, error) {
	q.mu.Lock()
	for len(q.items) == 0 && q.err == nil && !q.closed {
		q.moved.Wait()
	}
	if q.closed || len(q.items) == 0 {
		defer q.mu.Unlock()
		if q.err == nil {
			return nil, errQueueClosed
		}
		return nil, q.err
	}
	item := q.items[0]
	q.items[0] = queued{}
	q.items = q.items[1:]
	if item.segment == nil {
		q.memory--
		q.moved.Broadcast()
		q.mu.Unlock()
		return item.data, nil
	}
	q.mu.Unlock()
	block, err := q.load(&item)
	q.mu.Lock()
	defer q.mu.Unlock()
	q.behind--
	item.segment.uses--
	q.dropLocked(item.segment)
	q.moved.Broadcast()
	return block, err
}

func (q *queue) load(item *queued) ([]byte, error) {
	sealed := make([]byte, item.length)
	if _, err := item.segment.file.ReadAt(sealed, item.offset); err != nil {
		return nil, fmt.Errorf("the spool: %w", err)
	}
	packed, err := q.spool.seal.Open(sealed[:0], nonceBytes(item.nonce), sealed, nil)
	if err != nil {
		return nil, fmt.Errorf("the spool gives back other bytes than were put into it: %w", err)
	}
	return q.spool.codec.Decode(q.spool.block(), packed, item.encoding, nil, item.size)
}

// close says that nobody reads any more, and frees what is left, the last segment excepted: finish does that.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	for i := range q.items {
		if g := q.items[i].segment; g != nil {
			g.uses--
			q.dropLocked(g)
		}
	}
	q.items = nil
	q.moved.Broadcast()
}
