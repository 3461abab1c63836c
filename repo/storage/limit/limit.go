// Package limit bounds the bandwidth and the number of operations at once.
package limit

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/whole-tale/wtsnap/repo/storage"
)

// Options are the bounds. The zero value has none.
type Options struct {
	Bandwidth   Timetable
	Connections int // operations at once; 0 for any number
}

// Storage waits where that keeps the bounds. Where the implementation below
// reports its bytes with storage.Moved, they flow evenly; else the wait comes
// after the operation, and the rate is right on average. A retrying decorator
// belongs below, so that waiting is no stall.
type Storage struct {
	st    storage.Storage
	slots chan struct{}
	up    *bucket
	down  *bucket
}

// New returns a limiting decorator.
func New(st storage.Storage, o Options) *Storage {
	s := &Storage{st: st}
	if o.Connections > 0 {
		s.slots = make(chan struct{}, o.Connections)
	}
	s.up = &bucket{rate: func(t time.Time) int64 { return o.Bandwidth.At(t).Up }}
	s.down = &bucket{rate: func(t time.Time) int64 { return o.Bandwidth.At(t).Down }}
	return s
}

// Put takes a slot and uploads at the rate.
func (s *Storage) Put(ctx context.Context, name string, data []byte) (info storage.Info, err error) {
	err = s.with(ctx, "put", name, s.up, func(ctx context.Context) (n int, err error) {
		info, err = s.st.Put(ctx, name, data)
		return len(data), err
	})
	return info, err
}

// Get takes a slot and downloads at the rate.
func (s *Storage) Get(ctx context.Context, name string, offset, length int64, dst []byte) (out []byte, err error) {
	out = dst[:0]
	err = s.with(ctx, "get", name, s.down, func(ctx context.Context) (n int, err error) {
		out, err = s.st.Get(ctx, name, offset, length, dst)
		return len(out), err
	})
	return out, err
}

// Stat takes a slot.
func (s *Storage) Stat(ctx context.Context, name string) (info storage.Info, err error) {
	err = s.with(ctx, "stat", name, nil, func(ctx context.Context) (n int, err error) {
		info, err = s.st.Stat(ctx, name)
		return 0, err
	})
	return info, err
}

// List takes no slot: its callback may need one.
func (s *Storage) List(ctx context.Context, prefix string, fn func(storage.Info) error) error {
	return s.st.List(ctx, prefix, fn)
}

// Delete takes a slot.
func (s *Storage) Delete(ctx context.Context, name string) error {
	return s.with(ctx, "delete", name, nil, func(ctx context.Context) (int, error) { return 0, s.st.Delete(ctx, name) })
}

func (s *Storage) with(ctx context.Context, op, name string, b *bucket, run func(context.Context) (int, error)) error {
	if s.slots != nil {
		select {
		case s.slots <- struct{}{}:
			defer func() { <-s.slots }()
		case <-ctx.Done():
			return &storage.Error{Op: op, Name: name, Err: ctx.Err()}
		}
	}
	if b == nil {
		_, err := run(ctx)
		return err
	}
	m := &meter{b: b}
	n, err := run(storage.WithMeter(ctx, m))
	if err != nil {
		return err
	}
	// What was not paced on the way is paced now. The operation has succeeded:
	// a context that is done ends the wait and nothing else.
	if rest := int64(n) - m.paced.Load(); rest > 0 {
		_ = b.take(ctx, rest)
	}
	return nil
}

// meter paces one operation's bytes.
type meter struct {
	b     *bucket
	paced atomic.Int64
}

func (m *meter) Move(ctx context.Context, n int) error {
	m.paced.Add(int64(n))
	return m.b.take(ctx, int64(n))
}

// bucket gives out bytes at a rate that may change with time. Each taker is told
// when its bytes are due, and the next one comes after it, so that many takers
// share the rate evenly.
type bucket struct {
	rate func(time.Time) int64 // bytes a second at a time; 0 for no limit

	mu   sync.Mutex
	next time.Time // when the bytes given out so far have flowed
}

// burst is how far the flow may lag behind and be made up for.
const burst = 100 * time.Millisecond

// slice is the longest wait for one step, after which the rate is looked up
// again: a timetable may have become more generous meanwhile.
const slice = time.Second

func (b *bucket) take(ctx context.Context, n int64) error {
	for n > 0 {
		wait, got := b.reserve(time.Now(), n)
		if wait > 0 {
			timer := time.NewTimer(wait)
			select {
			case <-timer.C:
			case <-ctx.Done():
				timer.Stop()
				return ctx.Err()
			}
			// Waiting in turn is no stall: say so to the meters further in.
			if err := storage.Moved(ctx, 0); err != nil {
				return err
			}
		}
		n -= got
	}
	return nil
}

// reserve books up to n bytes, at most a slice's worth, and says how long to wait for them.
func (b *bucket) reserve(now time.Time, n int64) (wait time.Duration, got int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	rate := b.rate(now)
	if rate <= 0 {
		b.next = now
		return 0, n
	}
	got = max(1, min(n, int64(float64(rate)*slice.Seconds())))
	if lag := now.Add(-burst); b.next.Before(lag) {
		b.next = lag
	}
	b.next = b.next.Add(time.Duration(float64(got) / float64(rate) * float64(time.Second)))
	return b.next.Sub(now), got
}
