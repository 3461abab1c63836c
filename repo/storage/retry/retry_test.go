package retry_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/whole-tale/wtsnap/repo/storage"
	"github.com/whole-tale/wtsnap/repo/storage/count"
	"github.com/whole-tale/wtsnap/repo/storage/mem"
	"github.com/whole-tale/wtsnap/repo/storage/retry"
	"github.com/whole-tale/wtsnap/repo/storage/storagetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConformance(t *testing.T) {
	storagetest.Run(t, func(*testing.T) storage.Storage { return retry.New(mem.New(), retry.Options{}) })
}

func TestConformanceOverFaults(t *testing.T) {
	// Every third operation fails, in turn before and after it had its effect.
	storagetest.Run(t, func(*testing.T) storage.Storage {
		f := storagetest.NewFault(mem.New())
		for i := range 500 {
			f.At(3*i, storagetest.Mode(i%2))
		}
		return retry.New(f, retry.Options{First: time.Microsecond})
	})
}

func TestPutIsNotRepeatedWhenItWasStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := count.New(mem.New())
		st := retry.New(storagetest.NewFault(calls).At(0, storagetest.DoneFailed), retry.Options{})
		if _, err := st.Put(t.Context(), "packs/ab/1", []byte("data")); err != nil {
			t.Fatal(err)
		}
		if c := calls.Counts(); c.Put != 1 || c.Stat != 1 {
			t.Errorf("%d puts and %d stats, want one of each", c.Put, c.Stat)
		}
	})
}

func TestPutIsRepeatedWhenHalfWasStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		backend := mem.New()
		st := retry.New(halfPut{backend, new(int)}, retry.Options{})
		if _, err := st.Put(t.Context(), "packs/ab/1", []byte("whole")); err != nil {
			t.Fatal(err)
		}
		if got, _ := backend.Get(t.Context(), "packs/ab/1", 0, -1, nil); string(got) != "whole" {
			t.Errorf("stored %q", got)
		}
	})
}

// halfPut stores half the object the first time, and says so.
type halfPut struct {
	*mem.Storage
	calls *int
}

func (h halfPut) Put(ctx context.Context, name string, data []byte) (storage.Info, error) {
	if *h.calls++; *h.calls == 1 {
		_, _ = h.Storage.Put(ctx, name, data[:len(data)/2])
		return storage.Info{}, errors.New("connection reset")
	}
	return h.Storage.Put(ctx, name, data)
}

func TestPermanentErrorsAreNotRepeated(t *testing.T) {
	for _, kind := range []error{storage.ErrNotExist, storage.ErrAuth, storage.ErrQuota, storage.ErrDenied, storage.ErrReadOnly, storage.ErrShort, storage.ErrConfig} {
		synctest.Test(t, func(t *testing.T) {
			calls := 0
			st := retry.New(failing{mem.New(), func() error { calls++; return fmt.Errorf("x: %w", kind) }}, retry.Options{})
			start := time.Now()
			if _, err := st.Stat(t.Context(), "config"); !errors.Is(err, kind) {
				t.Errorf("%v, want %v", err, kind)
			}
			if calls != 1 || time.Since(start) != 0 {
				t.Errorf("%v: %d calls in %v", kind, calls, time.Since(start))
			}
		})
	}
}

type failing struct {
	*mem.Storage
	err func() error
}

func (f failing) Stat(context.Context, string) (storage.Info, error) {
	return storage.Info{}, f.err()
}

func TestGivesUpInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("no route to host")
		var waits []time.Duration
		calls := 0
		st := retry.New(failing{mem.New(), func() error { calls++; return broken }}, retry.Options{
			Total:  5 * time.Minute,
			Notify: func(_, _ string, _ error, wait time.Duration) { waits = append(waits, wait) },
		})
		start := time.Now()
		_, err := st.Stat(t.Context(), "config")
		if !errors.Is(err, broken) {
			t.Errorf("%v, want the last error", err)
		}
		if took := time.Since(start); took > 5*time.Minute || took < time.Minute {
			t.Errorf("gave up after %v", took)
		}
		if calls < 6 || len(waits) != calls-1 {
			t.Errorf("%d calls, %d waits", calls, len(waits))
		}
		for i, w := range waits {
			if most := min(500*time.Millisecond<<i, time.Minute); w > most {
				t.Errorf("wait %d is %v, want at most %v", i, w, most)
			}
		}
	})
}

func TestRetryAfterIsObeyed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		st := retry.New(failing{mem.New(), func() error {
			if calls++; calls == 1 {
				return &storage.Error{Op: "stat", Kind: storage.ErrThrottled, RetryAfter: 42 * time.Second}
			}
			return storage.ErrNotExist
		}}, retry.Options{})
		start := time.Now()
		_, _ = st.Stat(t.Context(), "config")
		if took := time.Since(start); calls != 2 || took != 42*time.Second {
			t.Errorf("%d calls in %v, want the second after 42s", calls, took)
		}
	})
}

func TestHangingStorageEnds(t *testing.T) {
	for _, kind := range []storagetest.Kind{storagetest.Put, storagetest.Get, storagetest.Stat, storagetest.List, storagetest.Delete} {
		synctest.Test(t, func(t *testing.T) {
			hang := storagetest.Hang{Storage: mem.New(), Match: func(op storagetest.Op) bool { return op.Kind == kind }}
			st := retry.New(hang, retry.Options{Total: 10 * time.Minute, Stall: time.Minute})
			start := time.Now()
			err := use(t.Context(), st, kind)
			if !errors.Is(err, storage.ErrStalled) {
				t.Errorf("%s: %v, want ErrStalled", kind, err)
			}
			if took := time.Since(start); took > 11*time.Minute {
				t.Errorf("%s ended after %v", kind, took)
			}
		})
	}
}

func TestHangOnceIsRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hangs := 0
		hang := storagetest.Hang{Storage: mem.New(), Match: func(storagetest.Op) bool { hangs++; return hangs == 1 }}
		st := retry.New(hang, retry.Options{Stall: time.Minute})
		if _, err := st.Put(t.Context(), "config", []byte("x")); err != nil {
			t.Fatal(err)
		}
	})
}

func TestSlowIsNotStalled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := retry.New(slow{mem.New()}, retry.Options{Stall: time.Minute})
		start := time.Now()
		if _, err := st.Put(t.Context(), "config", []byte("x")); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took != 50*30*time.Second {
			t.Errorf("took %v: it was repeated or cut short", took)
		}
	})
}

// slow moves a little every half minute.
type slow struct{ *mem.Storage }

func (s slow) Put(ctx context.Context, name string, data []byte) (storage.Info, error) {
	for range 50 {
		time.Sleep(30 * time.Second)
		if err := errors.Join(ctx.Err(), storage.Moved(ctx, 10)); err != nil {
			return storage.Info{}, err
		}
	}
	return s.Storage.Put(ctx, name, data)
}

func TestCancelEndsTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		st := retry.New(failing{mem.New(), func() error { return &storage.Error{Op: "stat", RetryAfter: time.Minute} }}, retry.Options{})
		start := time.Now()
		_, err := st.Stat(ctx, "config")
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 3*time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}

func TestListGivesEachObjectOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		backend := mem.New()
		for i := range 20 {
			if _, err := backend.Put(t.Context(), fmt.Sprintf("index/%02d", i), []byte("x")); err != nil {
				t.Fatal(err)
			}
		}
		st := retry.New(&breakingList{Storage: backend}, retry.Options{})
		seen := map[string]int{}
		if err := st.List(t.Context(), "", func(i storage.Info) error { seen[i.Name]++; return nil }); err != nil {
			t.Fatal(err)
		}
		if len(seen) != 20 {
			t.Errorf("%d objects, want 20", len(seen))
		}
		for name, n := range seen {
			if n != 1 {
				t.Errorf("%s was given %d times", name, n)
			}
		}
	})
}

// breakingList breaks off after 5 and then after 12 objects.
type breakingList struct {
	*mem.Storage
	calls int
}

func (b *breakingList) List(ctx context.Context, prefix string, fn func(storage.Info) error) error {
	b.calls++
	limit := map[int]int{1: 5, 2: 12}[b.calls]
	n := 0
	return b.Storage.List(ctx, prefix, func(i storage.Info) error {
		if n++; n == limit {
			return errors.New("connection reset")
		}
		return fn(i)
	})
}

func TestGetKeepsTheBuffer(t *testing.T) {
	backend := mem.New()
	if _, err := backend.Put(t.Context(), "config", []byte("hello")); err != nil {
		t.Fatal(err)
	}
	st := retry.New(storagetest.NewFault(backend).At(0, storagetest.DoneFailed).At(1, storagetest.NotDone), retry.Options{First: time.Microsecond})
	buf := make([]byte, 3, 100)
	got, err := st.Get(t.Context(), "config", 0, -1, buf)
	if err != nil || !bytes.Equal(got, []byte("hello")) {
		t.Errorf("%q, %v", got, err)
	}
}

func use(ctx context.Context, st storage.Storage, kind storagetest.Kind) (err error) {
	switch kind {
	case storagetest.Put:
		_, err = st.Put(ctx, "config", []byte("x"))
	case storagetest.Get:
		_, err = st.Get(ctx, "config", 0, -1, nil)
	case storagetest.Stat:
		_, err = st.Stat(ctx, "config")
	case storagetest.List:
		err = st.List(ctx, "", func(storage.Info) error { return nil })
	case storagetest.Delete:
		err = st.Delete(ctx, "config")
	}
	return err
}
