package mongo

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

// blocks are n blocks of random sizes, compressible ones among them.
func blocks(n int) (list [][]byte) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for i := range n {
		b := make([]byte, 1+rnd.IntN(200_000))
		if i%2 == 0 {
			for j := range b {
				b[j] = byte(rnd.Uint32())
			}
		}
		list = append(list, b)
	}
	return list
}

// testSpool is a spool of small segments.
func testSpool(t *testing.T, limit int64) *spool {
	t.Helper()
	s, err := newSpool(t.TempDir(), limit)
	must(t, err)
	s.segment = 500_000
	return s
}

// checkIdle fails the test where a spool holds on to something.
func checkIdle(t *testing.T, s *spool) {
	t.Helper()
	if s.used != 0 {
		t.Errorf("%d bytes of the spool are still reserved", s.used)
	}
	files, err := os.ReadDir(s.dir)
	must(t, err)
	if len(files) > 0 {
		t.Errorf("%d files are left", len(files))
	}
}

// A queue gives back what was put into it, in order, whether there is a spool, none, or one that is too small.
func TestQueue(t *testing.T) {
	for name, limit := range map[string]int64{"no spool": 0, "small": 600_000, "large": 1 << 30} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := testSpool(t, limit)
				q := newQueue(s)
				want := blocks(100)
				full := make(chan struct{})
				produced := make(chan error, 1)
				go func() {
					for i, b := range want {
						if limit == 1<<30 && i == 60 {
							close(full)
						}
						if err := q.put(t.Context(), bytes.Clone(b)); err != nil {
							produced <- err
							return
						}
					}
					q.finish(io.EOF)
					produced <- nil
				}()
				if limit == 1<<30 {
					<-full // nobody has read anything, and the producer did not wait
				}
				got, err := io.ReadAll(q)
				must(t, err)
				must(t, <-produced)
				if !bytes.Equal(bytes.Join(want, nil), got) {
					t.Error("other bytes came out")
				}
				if limit == 1<<30 && s.spilled.Load() == 0 {
					t.Error("the spool was not used")
				}
				q.close()
				checkIdle(t, s)
			})
		})
	}
}

// A reader that takes blocks as fast as it computes is waited for, and the disk spared; one on a slow line is not.
func TestSpoolIsForSlowLines(t *testing.T) {
	for name, c := range map[string]struct {
		blocks        int
		each          time.Duration // that the reader takes
		took, spilled int           // at most: seconds of the producer; at least: blocks in the spool
		none          bool          // of them
	}{
		"computing":          {blocks: 100, each: 100 * time.Millisecond, took: 10, none: true},
		"slow line":          {blocks: 100, each: 2 * time.Second, took: 1, spilled: 90},
		"computing for long": {blocks: 1000, each: 400 * time.Millisecond, took: 61, spilled: 800},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := testSpool(t, 1<<30)
				q := newQueue(s)
				block := make([]byte, 1000)
				done := make(chan time.Duration)
				start := time.Now()
				go func() {
					for range c.blocks {
						if err := q.put(t.Context(), bytes.Clone(block)); err != nil {
							t.Error(err)
						}
					}
					q.finish(io.EOF)
					done <- time.Since(start)
				}()
				ended := make(chan struct{})
				go func() {
					defer close(ended)
					for {
						time.Sleep(c.each)
						if _, err := io.ReadFull(q, make([]byte, len(block))); err != nil {
							return
						}
					}
				}()
				if took := <-done; took > time.Duration(c.took)*time.Second {
					t.Errorf("the server waited for %v", took)
				}
				spilled := int(s.spilled.Load()) / len(block)
				if spilled < c.spilled || c.none && spilled > 0 {
					t.Errorf("%d blocks of %d were spooled", spilled, c.blocks)
				}
				<-ended
				q.close()
				checkIdle(t, s)
			})
		})
	}
}

// What is in the spool is neither readable nor changeable.
func TestSpoolIsSealed(t *testing.T) { synctest.Test(t, testSpoolIsSealed) }

func testSpoolIsSealed(t *testing.T) {
	s := testSpool(t, 1<<30)
	q := newQueue(s)
	secret := bytes.Repeat([]byte("secret document "), 10_000)
	for range 2 * queueBlocks {
		must(t, q.put(t.Context(), bytes.Clone(secret)))
	}
	file := q.last.file
	data := make([]byte, q.last.bytes)
	_, err := file.ReadAt(data, 0)
	must(t, err)
	if len(data) == 0 || bytes.Contains(data, []byte("secret")) {
		t.Errorf("%d bytes in the spool", len(data))
	}
	_, err = file.WriteAt([]byte{data[7] ^ 1}, 7)
	must(t, err)
	q.finish(io.EOF)
	if _, err := io.ReadAll(q); err == nil || err == io.EOF {
		t.Errorf("a changed spool was read: %v", err)
	}
	q.close()
	checkIdle(t, s)
}

// The reader gets an error after all that was put before it; the producer learns that nobody reads.
func TestQueueEnds(t *testing.T) { synctest.Test(t, testQueueEnds) }

func testQueueEnds(t *testing.T) {
	s := testSpool(t, 1<<30)
	q := newQueue(s)
	broken := errors.New("broken")
	for range 10 {
		must(t, q.put(t.Context(), []byte("x")))
	}
	q.finish(broken)
	if got, err := io.ReadAll(q); string(got) != "xxxxxxxxxx" || err != broken {
		t.Errorf("%q, %v", got, err)
	}
	q.close()
	checkIdle(t, s)

	q = newQueue(s)
	for range 10 {
		must(t, q.put(t.Context(), []byte("x")))
	}
	q.close()
	if err := q.put(t.Context(), []byte("x")); err != errQueueClosed {
		t.Errorf("put: %v", err)
	}
	if _, err := q.Read(make([]byte, 1)); err != errQueueClosed {
		t.Errorf("read: %v", err)
	}
	q.finish(nil)
	checkIdle(t, s)

	q = newQueue(testSpool(t, 0))
	for range queueBlocks {
		must(t, q.put(t.Context(), []byte("x")))
	}
	ctx, stop := context.WithCancelCause(t.Context())
	stop(broken)
	if err := q.put(ctx, []byte("x")); err != broken {
		t.Errorf("put without room: %v", err)
	}
}

// A disk that takes nothing leaves the streams as they are without a spool.
func TestSpoolFails(t *testing.T) {
	s := testSpool(t, 1<<30)
	s.dir += "/none"
	var told []error
	s.onFailure = func(err error) { told = append(told, err) }
	q := newQueue(s)
	want := blocks(50)
	go func() {
		for _, b := range want {
			if q.put(t.Context(), bytes.Clone(b)) != nil {
				return
			}
		}
		q.finish(io.EOF)
	}()
	got, err := io.ReadAll(q)
	must(t, err)
	if !bytes.Equal(got, bytes.Join(want, nil)) {
		t.Error("other bytes came out")
	}
	if q.close(); s.used != 0 || len(told) > 1 {
		t.Errorf("%d bytes are reserved; told %v", s.used, told)
	}
	// A queue that nobody reads yet finds out.
	q = newQueue(testSpool(t, 1<<30))
	q.spool.dir += "/none"
	q.spool.onFailure = s.onFailure
	for range queueBlocks {
		must(t, q.put(t.Context(), []byte("x")))
	}
	if _, ok := q.spill([]byte("x")); ok || len(told) == 0 || !errors.Is(told[len(told)-1], os.ErrNotExist) {
		t.Errorf("told %v", told)
	}
}
