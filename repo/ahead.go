package repo

import (
	"context"
	"sync"
)

// ahead bounds what is read before it is used.
type ahead struct {
	transfers int   // at a time
	bytes     int64 // of all of them, or one transfer if that is larger
}

// inOrder calls get for 0 to n-1, several at a time, and use with each result, one after the other and in order: while
// one is used, and while the backend thinks, the next ones come. size tells how many bytes get will return. The first
// error ends it. It returns when nothing runs any more.
//
// Memory: what a allows, besides the result in use.
func inOrder(ctx context.Context, n int, a ahead, size func(i int) int64, get func(ctx context.Context, i int) ([]byte, error), use func(i int, data []byte) error) error {
	type result struct {
		data []byte
		err  error
	}
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	started, bytes := 0, int64(0)
	coming := map[int]chan result{}
	for i := range n {
		for started < n && (started == i || started-i < a.transfers && bytes+size(started) <= a.bytes) {
			at, ch := started, make(chan result, 1)
			running.Go(func() {
				data, err := get(ctx, at)
				ch <- result{data, err}
			})
			coming[at] = ch
			bytes += size(at)
			started++
		}
		r := <-coming[i]
		delete(coming, i)
		bytes -= size(i)
		if r.err != nil {
			return r.err
		}
		if err := use(i, r.data); err != nil {
			return err
		}
	}
	return ctx.Err()
}
