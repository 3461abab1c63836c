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

// frameCache keeps the frames that were read last, opened, up to a number of bytes.
type frameCache struct {
	mu    sync.Mutex
	limit int
	size  int
	tick  uint64
	m     map[frameKey]*cachedFrame
	wait  map[frameKey]chan struct{} // closed when the read that is going on has ended
}

type cachedFrame struct {
	opened *openedFrame
	used   uint64
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

// get returns the opened frame, reading it where it is not there. A reader waits for another's read
// of the same frame, but not while it reads a base (depth > 0): chains that form a loop would wait for
// each other. Failures are not kept.
func (c *frameCache) get(ctx context.Context, key frameKey, depth int, read func() (*openedFrame, error)) (*openedFrame, error) {
	for {
		c.mu.Lock()
		if f := c.m[key]; f != nil {
			c.tick++
			f.used = c.tick
			c.mu.Unlock()
			return f.opened, nil
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
	opened, err := read()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.wait[key] == done {
		delete(c.wait, key)
	}
	if err != nil || c.m[key] != nil {
		return opened, err
	}
	c.tick++
	c.m[key] = &cachedFrame{opened: opened, used: c.tick}
	c.size += opened.memory()
	c.evict(key)
	return opened, nil
}

// has reports whether a frame is there.
func (c *frameCache) has(key frameKey) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.m[key] != nil
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
		c.size -= c.m[oldest].opened.memory()
		delete(c.m, oldest)
	}
}
