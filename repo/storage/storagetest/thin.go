package storagetest

import (
	"context"
	"sync"
	"time"

	"github.com/whole-tale/wtsnap/repo/storage"
)

// ThinOptions say what a line is like.
type ThinOptions struct {
	Latency  time.Duration // of each operation, besides its bytes
	Up, Down int64         // bytes a second of all operations together; 0 for no limit
	Each     int64         // bytes a second of one operation at most, as over a line that loses packets; 0 for no limit
}

// Thin is a storage behind a line that takes its time, shared by all operations. It is meant for the clock of
// testing/synctest, under which computing takes no time: what a test measures then is how well the line is used, and
// nothing else.
type Thin struct {
	st storage.Storage
	o  ThinOptions

	mu       sync.Mutex
	up, down way
	now      int
	most     int
}

// way is one direction of a line.
type way struct {
	rate int64
	next time.Time // when what was taken so far has moved
	use  ThinUse
}

// large is from how many bytes on an operation counts in ThinUse.
const large = 64 << 10

// ThinUse is what large operations have moved in one direction, and from when to when.
type ThinUse struct {
	Bytes       int64
	First, Last time.Time
}

// Share is the part of the line's bandwidth that was used from the first to the last byte.
func (u ThinUse) Share(rate int64) float64 {
	return float64(u.Bytes) / (float64(rate) * u.Last.Sub(u.First).Seconds())
}

// NewThin returns the decorator.
func NewThin(st storage.Storage, o ThinOptions) *Thin {
	return &Thin{st: st, o: o, up: way{rate: o.Up}, down: way{rate: o.Down}}
}

// Uses returns how the line was used since the last call, and how many operations moved bytes at once at most.
func (t *Thin) Uses() (up, down ThinUse, most int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	up, down, most = t.up.use, t.down.use, t.most
	t.up.use, t.down.use, t.most = ThinUse{}, ThinUse{}, t.now
	return up, down, most
}

// book takes n bytes' time of one direction and returns when they have moved.
func (t *Thin) book(w *way, n int64, counts bool) time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	begin := now
	if w.rate > 0 {
		if w.next.After(now) {
			begin = w.next
		}
		w.next = begin.Add(duration(n, w.rate))
		now = w.next
	}
	if counts {
		if w.use.Bytes == 0 {
			w.use.First = begin
		}
		w.use.Bytes += n
		w.use.Last = now
	}
	return now
}

func duration(n, rate int64) time.Duration {
	return time.Duration(float64(n) / float64(rate) * float64(time.Second))
}

func sleep(ctx context.Context, until time.Time) error {
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// move lets n bytes pass in steps, so that operations share the line.
func (t *Thin) move(ctx context.Context, w *way, n int64) error {
	counts := n >= large
	t.mu.Lock()
	t.now++
	t.most = max(t.most, t.now)
	t.mu.Unlock()
	defer func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.now--
	}()
	own := time.Now()
	for n > 0 {
		step := min(n, storage.MoveStep)
		n -= step
		if err := storage.Moved(ctx, int(step)); err != nil {
			return err
		}
		until := t.book(w, step, counts)
		if t.o.Each > 0 {
			if own = own.Add(duration(step, t.o.Each)); own.After(until) {
				until = own
			}
		}
		if err := sleep(ctx, until); err != nil {
			return err
		}
	}
	return nil
}

func (t *Thin) wait(ctx context.Context, op Kind, name string) error {
	if err := sleep(ctx, time.Now().Add(t.o.Latency)); err != nil {
		return &storage.Error{Op: string(op), Name: name, Err: err}
	}
	return nil
}

// Put takes the latency and the time of the bytes.
func (t *Thin) Put(ctx context.Context, name string, data []byte) (storage.Info, error) {
	if err := t.wait(ctx, Put, name); err != nil {
		return storage.Info{}, err
	}
	if err := t.move(ctx, &t.up, int64(len(data))); err != nil {
		return storage.Info{}, &storage.Error{Op: string(Put), Name: name, Err: err}
	}
	return t.st.Put(ctx, name, data)
}

// Get takes the latency and the time of the bytes.
func (t *Thin) Get(ctx context.Context, name string, offset, length int64, dst []byte) ([]byte, error) {
	if err := t.wait(ctx, Get, name); err != nil {
		return dst[:0], err
	}
	out, err := t.st.Get(ctx, name, offset, length, dst)
	if err != nil {
		return out, err
	}
	if err := t.move(ctx, &t.down, int64(len(out))); err != nil {
		return out, &storage.Error{Op: string(Get), Name: name, Err: err}
	}
	return out, nil
}

// Stat takes the latency.
func (t *Thin) Stat(ctx context.Context, name string) (storage.Info, error) {
	if err := t.wait(ctx, Stat, name); err != nil {
		return storage.Info{}, err
	}
	return t.st.Stat(ctx, name)
}

// List takes the latency once.
func (t *Thin) List(ctx context.Context, prefix string, fn func(storage.Info) error) error {
	if err := t.wait(ctx, List, prefix); err != nil {
		return err
	}
	return t.st.List(ctx, prefix, fn)
}

// Delete takes the latency.
func (t *Thin) Delete(ctx context.Context, name string) error {
	if err := t.wait(ctx, Delete, name); err != nil {
		return err
	}
	return t.st.Delete(ctx, name)
}
