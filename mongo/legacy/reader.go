package legacy

import (
	"context"
	"io"
	"sync"

	"github.com/whole-tale/wtsnap/repo/storage"
)

// rangeBytes is how much of an archive is asked for at a time.
const rangeBytes = 8 << 20

// A reader reads an object of a storage by ranges, one ahead, so that a connection that breaks costs no more than a range,
// which the storage beneath asks for again.
type reader struct {
	ctx    context.Context // of the import
	cancel context.CancelFunc
	st     storage.Storage
	a      Archive
	next   int64 // that was handed out
	asked  int64
	rest   []byte
	ahead  chan block

	mu  sync.Mutex
	err error // of the storage, which says nothing about the archive
}

type block struct {
	data []byte
	err  error
}

func newReader(ctx context.Context, st storage.Storage, a Archive) *reader {
	r := &reader{st: st, a: a}
	r.ctx, r.cancel = context.WithCancel(ctx)
	return r
}

// close ends what is under way.
func (r *reader) close() {
	r.cancel()
	if r.ahead != nil {
		<-r.ahead
	}
}

// failure is the error that the storage gave, if any.
func (r *reader) failure() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

// ask begins to read the next range.
func (r *reader) ask() {
	n := min(rangeBytes, r.a.Size-r.asked)
	if n <= 0 {
		r.ahead = nil
		return
	}
	c, at := make(chan block, 1), r.asked
	r.asked += n
	r.ahead = c
	go func() {
		data, err := r.st.Get(r.ctx, r.a.Name, at, n, nil)
		c <- block{data, err}
	}()
}

// Read implements io.Reader.
func (r *reader) Read(p []byte) (int, error) {
	if len(r.rest) == 0 {
		if r.ahead == nil && r.asked == 0 {
			r.ask()
		}
		if r.ahead == nil {
			return 0, io.EOF
		}
		b := <-r.ahead
		if b.err != nil {
			r.ahead = nil
			r.asked = r.a.Size
			r.mu.Lock()
			r.err = b.err
			r.mu.Unlock()
			return 0, b.err
		}
		r.rest = b.data
		r.ask()
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	r.next += int64(n)
	return n, nil
}
