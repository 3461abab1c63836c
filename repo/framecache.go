package repo

import (
	"context"
	"sync"

	"github.com/whole-tale/wtsnap/index"
)

// frameKey names a frame by its place.
type frameKey struct {
	pack   index.PackID
	offset uint32
}

// frameCache keeps the plaintext of frames that were read last, up to a number of bytes.
type frameCache struct {
	mu    sync.Mutex
	limit int
	size  int
	tick  uint64
	m     map[frameKey]*cachedFrame
	wait  map[frameKey]chan struct{} // closed when the read that is going on has ended
}

type cachedFrame struct {
	plain []byte
	used  uint64
}

func newFrameCache(limit int) *frameCache {
	c := &frameCache{limit: limit}
	c.clear()
	return c
}

func (c *frameCache) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.m, c.wait, c.size = map[frameKey]*cachedFrame{}, map[frameKey]chan struct{}{}, 0
}

// get returns the frame's plaintext, reading it where it is not there. A reader waits for another's read
// of the same frame, but not while it reads a base (depth > 0): chains that form a loop would wait for
// each other. Failures are not kept.
func (c *frameCache) get(ctx context.Context, key frameKey, depth int, read func() ([]byte, error)) ([]byte, error) {
	for {
		c.mu.Lock()
		if f := c.m[key]; f != nil {
			c.tick++
			f.used = c.tick
			c.mu.Unlock()
			return f.plain, nil
		}
		going := c.wait[key]
		if going == nil || depth > 0 {
			break
		}
		c.mu.Unlock()
		select {
		case <-going:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	done := make(chan struct{})
	defer close(done)
	if depth == 0 {
		c.wait[key] = done
	}
	c.mu.Unlock()
	plain, err := read()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.wait[key] == done {
		delete(c.wait, key)
	}
	if err != nil || c.m[key] != nil {
		return plain, err
	}
	c.tick++
	c.m[key] = &cachedFrame{plain: plain, used: c.tick}
	c.size += len(plain)
	c.evict(key)
	return plain, nil
}

// evict drops the frames that were not used for longest, but for keep.
func (c *frameCache) evict(keep frameKey) {
	for c.size > c.limit && len(c.m) > 1 {
		oldest := keep
		for k, f := range c.m {
			if k != keep && (oldest == keep || f.used < c.m[oldest].used) {
				oldest = k
			}
		}
		c.size -= len(c.m[oldest].plain)
		delete(c.m, oldest)
	}
}
