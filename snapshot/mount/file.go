package mount

import (
	"bytes"
	"container/list"
	"context"
	"errors"
	"io"
	"sync"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/snapshot"
)

// blobCacheBytes is what blobCache holds at most, in bytes, beside one blob.
const blobCacheBytes = 32 << 20

// inOrder is how many reads must have followed each other until a file is read ahead.
const inOrder = 3

// Open implements fs.NodeOpener.
func (n *node) Open(_ context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	if flags&(syscall.O_WRONLY|syscall.O_RDWR|syscall.O_TRUNC) != 0 {
		return nil, 0, syscall.EROFS
	}
	return &file{n: n}, fuse.FOPEN_KEEP_CACHE, 0
}

// A file is an open file. Who reads in order gets a reader that reads ahead, so that a slow line stays full; who jumps
// about gets the blobs that he touches, so that a few bytes of a large file do not cost megabytes.
type file struct {
	n *node

	mu     sync.Mutex
	next   int64 // where a read that goes on in order would begin
	run    int   // reads so far that went on in order
	reader *snapshot.FileReader
	at     int64 // where reader is
}

// Read implements fs.FileReader.
func (h *file) Read(ctx context.Context, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	h.mu.Lock()
	defer h.mu.Unlock()
	dest = dest[:max(0, min(int64(len(dest)), h.n.n.Size-off))]
	if len(dest) == 0 {
		return fuse.ReadResultData(nil), 0
	}
	if off == h.next {
		h.run++
	} else {
		h.run = 0
	}
	h.next = off + int64(len(dest))
	var err error
	if h.run < inOrder {
		h.stop()
		err = snapshot.ReadFileAt(ctx, h.n.f.load, h.n.f.blobs.get, h.n.n, dest, off)
	} else {
		err = h.readOn(dest, off)
	}
	if err != nil {
		h.stop()
		return nil, h.n.f.failed(h.n.path, err)
	}
	return fuse.ReadResultData(dest), 0
}

// readOn reads with the reader that reads ahead.
func (h *file) readOn(dest []byte, off int64) error {
	if h.reader == nil || h.at != off {
		h.stop()
		// It lives as long as the file is open, not as long as one request.
		h.reader, h.at = snapshot.OpenFile(context.Background(), h.n.f.r, h.n.n, h.n.path, off), off
	}
	got, err := io.ReadFull(h.reader, dest)
	h.at += int64(got)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = io.ErrUnexpectedEOF // dest ends within the file
	}
	return err
}

func (h *file) stop() {
	if h.reader != nil {
		_ = h.reader.Close() // it was only read
		h.reader = nil
	}
}

// Release implements fs.FileReleaser.
func (h *file) Release(context.Context) syscall.Errno {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stop()
	return 0
}

// A blobCache keeps the plaintext of the blobs that were used last. A blob that several ask for at once may be read by
// each of them.
type blobCache struct {
	r    *repo.Repository
	most int

	mu    sync.Mutex // guards what follows
	bytes int
	byID  map[chunk.ID]*list.Element
	used  list.List // of *cachedBlob, the one that was used last in front
}

type cachedBlob struct {
	id   chunk.ID
	data []byte
}

func newBlobCache(r *repo.Repository, most int) *blobCache {
	return &blobCache{r: r, most: most, byID: map[chunk.ID]*list.Element{}}
}

// get returns a blob, which is not to be changed.
func (c *blobCache) get(ctx context.Context, id chunk.ID) ([]byte, error) {
	c.mu.Lock()
	if e, ok := c.byID[id]; ok {
		c.used.MoveToFront(e)
		c.mu.Unlock()
		return e.Value.(*cachedBlob).data, nil
	}
	c.mu.Unlock()
	data, err := c.r.Blob(ctx, id)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.byID[id]; ok {
		return data, nil
	}
	data = bytes.Clone(data) // it may be a piece of a frame, all of which would stay with it
	c.byID[id] = c.used.PushFront(&cachedBlob{id, data})
	c.bytes += len(data)
	for c.bytes > c.most && c.used.Len() > 1 {
		old := c.used.Remove(c.used.Back()).(*cachedBlob)
		delete(c.byID, old.id)
		c.bytes -= len(old.data)
	}
	return data, nil
}
