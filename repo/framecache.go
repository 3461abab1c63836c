package repo

import (
	linked "container/list"
	"context"
	"sync"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/index"
)

// frameKey names a frame by its place.
type frameKey struct {
	pack   index.PackID
	offset uint32
}

// frameCaches keep two kinds of frames: those that one blob of data fills, which is rarely asked for again and takes much
// room, and all others, among them the patches of the blobs around it, which are asked for again and again.
type frameCaches struct{ lone, shared *frameCache }

func newFrameCaches() *frameCaches {
	return &frameCaches{newFrameCache(loneCacheBytes), newFrameCache(sharedCacheBytes)}
}

// of returns the one that a blob's frame belongs in.
func (c *frameCaches) of(loc *index.Location) *frameCache {
	if loc.Kind == index.Data && loc.Encoding != chunk.Patched && loc.Size == loc.FrameSize {
		return c.lone
	}
	return c.shared
}

func (c *frameCaches) has(key frameKey) bool { return c.shared.has(key) || c.lone.has(key) }

func (c *frameCaches) clear() {
	c.lone.clear()
	c.shared.clear()
}

// frameCache keeps the frames that were read last, opened, up to a number of bytes.
type frameCache struct {
	mu    sync.Mutex
	limit int
	size  int
	m     map[frameKey]*linked.Element // of *cachedFrame
	order *linked.List                 // by their last use, the newest first
	wait  map[frameKey]chan struct{}   // closed when the read that is going on has ended
}

type cachedFrame struct {
	key    frameKey
	opened *openedFrame
	size   int
}

func newFrameCache(limit int) *frameCache {
	c := &frameCache{limit: limit}
	c.clear()
	return c
}

func (c *frameCache) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.m, c.wait, c.size, c.order = map[frameKey]*linked.Element{}, map[frameKey]chan struct{}{}, 0, linked.New()
}

// get returns the opened frame, reading it where it is not there. With wait, a reader waits for another's read of the same
// frame. It must not where reading it takes other frames, and it is itself read for one: two chains that form a loop
// would wait for each other. Failures are not kept.
func (c *frameCache) get(ctx context.Context, key frameKey, wait bool, read func() (*openedFrame, error)) (*openedFrame, error) {
	for {
		c.mu.Lock()
		if f := c.m[key]; f != nil {
			c.order.MoveToFront(f)
			c.mu.Unlock()
			return f.Value.(*cachedFrame).opened, nil
		}
		going := c.wait[key]
		if going == nil || !wait {
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
	if wait {
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
	f := &cachedFrame{key, opened, opened.memory()}
	c.m[key] = c.order.PushFront(f)
	c.size += f.size
	c.evict()
	return opened, nil
}

// has reports whether a frame is there.
func (c *frameCache) has(key frameKey) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.m[key] != nil
}

// evict drops the frames that were not used for longest, but for the last one.
func (c *frameCache) evict() {
	for c.size > c.limit && len(c.m) > 1 {
		old := c.order.Remove(c.order.Back()).(*cachedFrame)
		c.size -= old.size
		delete(c.m, old.key)
	}
}
