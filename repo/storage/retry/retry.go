// Package retry repeats operations that failed for a reason that may pass, and
// ends those that stopped answering.
package retry

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/whole-tale/wtsnap/repo/storage"
)

// Options bound the patience. Zero values are the defaults.
type Options struct {
	Total time.Duration // no new attempt starts after this time; default 15 minutes
	First time.Duration // the wait before the second attempt is between 0 and this, doubled each time; default 500 ms
	Most  time.Duration // the longest such wait; default 1 minute
	Stall time.Duration // an attempt during which nothing moves for this long is ended; default 3 minutes

	// Notify is told of each attempt that failed and will be repeated. It may be nil.
	Notify func(op, name string, err error, wait time.Duration)
}

func (o Options) withDefaults() Options {
	set := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	set(&o.Total, 15*time.Minute)
	set(&o.First, 500*time.Millisecond)
	set(&o.Most, time.Minute)
	set(&o.Stall, 3*time.Minute)
	return o
}

// A GaveUpError ends an operation that failed for as long as it was tried again.
type GaveUpError struct {
	After time.Duration
	Err   error // of the last attempt
}

// Error gives the last attempt's error, and for how long there were some.
func (e *GaveUpError) Error() string {
	after := e.After.Round(time.Second)
	if e.After < 10*time.Second {
		after = e.After.Round(100 * time.Millisecond)
	}
	return fmt.Sprintf("%v (given up after %v)", e.Err, after)
}

// Unwrap gives the last attempt's error.
func (e *GaveUpError) Unwrap() error { return e.Err }

// Storage repeats what failed. An error for which storage.Permanent holds is
// returned at once.
type Storage struct {
	st storage.Storage
	o  Options
}

// New returns a retrying decorator.
func New(st storage.Storage, o Options) *Storage {
	return &Storage{st: st, o: o.withDefaults()}
}

// Put repeats, unless the object turns out to have been stored by an attempt that
// returned an error.
func (s *Storage) Put(ctx context.Context, name string, data []byte) (info storage.Info, err error) {
	tries := 0
	err = s.do(ctx, "put", name, func(ctx context.Context) (err error) {
		if tries++; tries > 1 {
			if there, ok := s.stored(ctx, name, data); ok {
				info = there
				return nil
			}
		}
		info, err = s.st.Put(ctx, name, data)
		return err
	})
	return info, err
}

// stored reports whether the object is there, with the size and, where the
// backend has one, the hash of data.
func (s *Storage) stored(ctx context.Context, name string, data []byte) (storage.Info, bool) {
	info, err := s.st.Stat(ctx, name)
	if err != nil || info.Size != int64(len(data)) {
		return info, false
	}
	match, known := storage.MatchHash(info.Hash, data)
	return info, match || !known
}

// Get repeats.
func (s *Storage) Get(ctx context.Context, name string, offset, length int64, dst []byte) (out []byte, err error) {
	out = dst[:0]
	err = s.do(ctx, "get", name, func(ctx context.Context) (err error) {
		out, err = s.st.Get(ctx, name, offset, length, out)
		return err
	})
	return out, err
}

// Stat repeats.
func (s *Storage) Stat(ctx context.Context, name string) (info storage.Info, err error) {
	err = s.do(ctx, "stat", name, func(ctx context.Context) (err error) {
		info, err = s.st.Stat(ctx, name)
		return err
	})
	return info, err
}

// List repeats, and does not give an object again that an attempt before gave.
func (s *Storage) List(ctx context.Context, prefix string, fn func(storage.Info) error) error {
	var given map[string]struct{} // of attempts that failed; most listings never need it
	var names []string
	var fnErr error
	err := s.do(ctx, "list", prefix, func(ctx context.Context) error {
		if len(names) > 0 {
			if given == nil {
				given = make(map[string]struct{}, len(names))
			}
			for _, name := range names {
				given[name] = struct{}{}
			}
			names = names[:0]
		}
		err := s.st.List(ctx, prefix, func(i storage.Info) error {
			if err := storage.Moved(ctx, 0); err != nil {
				return err
			}
			if _, again := given[i.Name]; again {
				return nil
			}
			names = append(names, i.Name)
			fnErr = fn(i)
			return fnErr
		})
		if fnErr != nil {
			return nil // the caller's wish, not a failure
		}
		return err
	})
	if fnErr != nil {
		return fnErr
	}
	return err
}

// Delete repeats.
func (s *Storage) Delete(ctx context.Context, name string) error {
	return s.do(ctx, "delete", name, func(ctx context.Context) error { return s.st.Delete(ctx, name) })
}

// do runs try until it succeeds, cannot succeed, or the time is up.
func (s *Storage) do(ctx context.Context, op, name string, try func(context.Context) error) error {
	start := time.Now()
	for wait := s.o.First; ; wait = min(2*wait, s.o.Most) {
		err := s.attempt(ctx, op, name, try)
		if err == nil || storage.Permanent(err) {
			return err
		}
		if done := ctx.Err(); done != nil {
			if !errors.Is(err, done) {
				err = &storage.Error{Op: op, Name: name, Err: fmt.Errorf("%w: %w", done, err)}
			}
			return err
		}
		pause := time.Duration(rand.Int64N(int64(wait) + 1)) // full jitter: many writers do not come back together
		pause = max(pause, storage.RetryAfter(err))
		if time.Since(start)+pause > s.o.Total {
			return &GaveUpError{After: time.Since(start), Err: err}
		}
		if s.o.Notify != nil {
			s.o.Notify(op, name, err, pause)
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return &storage.Error{Op: op, Name: name, Err: fmt.Errorf("%w: %w", ctx.Err(), err)}
		}
	}
}

// attempt runs try once, and ends it when nothing moves any more.
func (s *Storage) attempt(ctx context.Context, op, name string, try func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	w := newWatch(s.o.Stall, func() { cancel(errStall) })
	defer w.stop()
	err := try(storage.WithMeter(ctx, w))
	if err != nil && context.Cause(ctx) == errStall {
		return &storage.Error{Op: op, Name: name, Kind: storage.ErrStalled, Err: fmt.Errorf("nothing moved for %v", s.o.Stall)}
	}
	return err
}

var errStall = errors.New("stalled")

// watch calls end when Move was not called for a time.
type watch struct {
	limit time.Duration
	last  atomic.Int64 // when something moved, since start
	start time.Time
	end   func()
	timer *time.Timer
	done  chan struct{}
	quit  chan struct{}
}

func newWatch(limit time.Duration, end func()) *watch {
	w := &watch{limit: limit, start: time.Now(), end: end, done: make(chan struct{}), quit: make(chan struct{})}
	w.timer = time.NewTimer(limit)
	go w.run()
	return w
}

// run sets the timer anew when it fires too early, so that Move costs one store.
func (w *watch) run() {
	defer close(w.done)
	for {
		select {
		case <-w.timer.C:
		case <-w.quit:
			return
		}
		left := w.limit - (time.Since(w.start) - time.Duration(w.last.Load()))
		if left <= 0 {
			w.end()
			return
		}
		w.timer.Reset(left)
	}
}

// Move notes that the operation is alive.
func (w *watch) Move(context.Context, int) error {
	w.last.Store(int64(time.Since(w.start)))
	return nil
}

func (w *watch) stop() {
	w.timer.Stop()
	close(w.quit)
	<-w.done
}
