package rclone

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/rclone/rclone/fs"
	"github.com/rclone/rclone/fs/hash"

	"github.com/whole-tale/wtsnap/repo/storage"
)

// grace is how long a call may go on after its context is done. Most of rclone
// returns at once; what waits inside a protocol library is abandoned then, and
// ends when its connection times out.
const grace = 3 * time.Second

// opening is a backend that is being opened, once for all who wait for it.
type opening struct {
	done chan struct{}
	f    fs.Fs
	err  error
}

// call opens the backend if need be and runs fn, with rclone's settings in ctx.
func (s *Storage) call(ctx context.Context, fn func(context.Context, fs.Fs) error) error {
	return s.guard(ctx, func(ctx context.Context) error {
		f, err := s.backend(ctx)
		if err != nil {
			return err
		}
		ctx = fs.CopyConfig(ctx, s.cfg.ctx)
		return s.explain(ctx, f, fn(ctx, f))
	})
}

// explain asks again in another way when access is denied without a reason: the
// answer to HEAD has no body, so S3 cannot say there that the key is wrong.
func (s *Storage) explain(ctx context.Context, f fs.Fs, err error) error {
	if err == nil || ctx.Err() != nil || kindOf("stat", err) != storage.ErrDenied {
		return err
	}
	if _, listErr := f.List(ctx, ""); listErr != nil && kindOf("list", listErr) == storage.ErrAuth {
		return listErr
	}
	return err
}

// guard runs fn and returns when it does, or a grace after ctx is done.
func (s *Storage) guard(ctx context.Context, fn func(context.Context) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() {
		defer func() {
			if p := recover(); p != nil {
				done <- fmt.Errorf("rclone: panic: %v", p)
			}
		}()
		done <- fn(ctx)
	}()
	var err error
	select {
	case err = <-done:
	case <-ctx.Done():
		timer := time.NewTimer(grace)
		defer timer.Stop()
		select {
		case err = <-done:
		case <-timer.C:
			err = ctx.Err()
		}
	}
	if err != nil && ctx.Err() != nil && !errors.Is(err, ctx.Err()) {
		err = fmt.Errorf("%w: %w", ctx.Err(), err)
	}
	return err
}

// backend opens the backend once. It outlives the operation that came first, so
// it gets a context of its own; a failure is not kept.
func (s *Storage) backend(ctx context.Context) (fs.Fs, error) {
	s.mu.Lock()
	o := s.opening
	if o == nil {
		o = &opening{done: make(chan struct{})}
		s.opening = o
		go func() {
			defer close(o.done)
			o.f, o.err = fs.NewFs(s.cfg.ctx, s.spec)
			if errors.Is(o.err, fs.ErrorIsFile) {
				o.err = fmt.Errorf("%w: %s is a file", storage.ErrConfig, redact(s.spec))
			}
			if o.err != nil {
				s.mu.Lock()
				if s.opening == o {
					s.opening = nil
				}
				s.mu.Unlock()
			}
		}()
	}
	s.mu.Unlock()
	select {
	case <-o.done:
		return o.f, o.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// upload lends the caller's bytes to rclone until it is revoked: an abandoned
// call that reads on gets an error instead of what the buffer holds by then.
type upload struct {
	mu   sync.Mutex
	data []byte
	gone bool
}

func newUpload(data []byte) *upload { return &upload{data: data} }

func (u *upload) revoke() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.data, u.gone = nil, true
}

func (u *upload) size() int64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	return int64(len(u.data))
}

func (u *upload) sum(e *expected) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.gone {
		return errRevoked
	}
	h, err := hash.NewMultiHasherTypes(hash.NewHashSet(e.kind))
	if err != nil {
		return err
	}
	if _, err := h.Write(u.data); err != nil {
		return err
	}
	e.sum = h.Sums()[e.kind]
	return nil
}

var errRevoked = errors.New("the operation is over")

func (u *upload) reader(ctx context.Context) io.Reader { return &uploadReader{u: u, ctx: ctx} }

type uploadReader struct {
	u   *upload
	ctx context.Context // of this one upload
	pos int
}

// Read copies a step and reports it, which may wait for the bandwidth limit.
func (r *uploadReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := r.copy(p[:min(len(p), storage.MoveStep)])
	if n > 0 {
		if err := storage.Moved(r.ctx, n); err != nil {
			return 0, err
		}
	}
	return n, err
}

func (r *uploadReader) copy(p []byte) (int, error) {
	r.u.mu.Lock()
	defer r.u.mu.Unlock()
	if r.u.gone {
		return 0, errRevoked
	}
	if r.pos >= len(r.u.data) {
		return 0, io.EOF
	}
	n := copy(p, r.u.data[r.pos:])
	r.pos += n
	return n, nil
}

// download collects bytes in the caller's buffer until it is revoked.
type download struct {
	mu   sync.Mutex
	dst  []byte
	gone bool
}

func newDownload(dst []byte) *download { return &download{dst: dst[:0]} }

func (d *download) revoke() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.dst, d.gone = nil, true
}

func (d *download) reset() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.dst = d.dst[:0]
}

func (d *download) bytes() []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.dst
}

// steps holds the buffers between a connection and the caller's memory, which an
// abandoned read must not reach.
var steps = sync.Pool{New: func() any { return new([storage.MoveStep]byte) }}

// fill reads exactly n bytes; that more would come means the object is another one.
func (d *download) fill(ctx context.Context, body io.Reader, n int64) error {
	if err := d.grow(n); err != nil {
		return err
	}
	step := steps.Get().(*[storage.MoveStep]byte)
	defer steps.Put(step)
	for n > 0 {
		got, err := body.Read(step[:min(n, int64(len(step)))])
		if got > 0 {
			if err := d.add(step[:got]); err != nil {
				return err
			}
			n -= int64(got)
			if err := storage.Moved(ctx, got); err != nil {
				return err
			}
		}
		if err == io.EOF && n > 0 {
			return io.ErrUnexpectedEOF
		}
		if err != nil && err != io.EOF {
			return err
		}
	}
	if got, _ := io.ReadFull(body, step[:1]); got != 0 {
		return errors.New("the backend sent more than was asked for")
	}
	return nil
}

func (d *download) grow(n int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.gone {
		return errRevoked
	}
	if int64(cap(d.dst)) < n {
		d.dst = bytes.Clone(d.dst)
		d.dst = append(make([]byte, 0, n), d.dst...)
	}
	return nil
}

func (d *download) add(p []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.gone {
		return errRevoked
	}
	d.dst = append(d.dst, p...)
	return nil
}

// lru remembers what is known of the objects used last.
type lru struct {
	mu   sync.Mutex
	max  int
	tick uint64
	m    map[string]*handle
}

type handle struct {
	o    fs.Object
	used uint64
}

func newLRU(n int) *lru { return &lru{max: n, m: make(map[string]*handle)} }

func (l *lru) get(name string) (fs.Object, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	h, ok := l.m[name]
	if !ok {
		return nil, false
	}
	l.tick++
	h.used = l.tick
	return h.o, true
}

func (l *lru) put(name string, o fs.Object) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tick++
	l.m[name] = &handle{o, l.tick}
	if len(l.m) <= l.max {
		return
	}
	// Drop the older half at once: cheap per put, and no list to keep.
	for name, h := range l.m {
		if h.used+uint64(l.max/2) < l.tick {
			delete(l.m, name)
		}
	}
}

func (l *lru) drop(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.m, name)
}
