package storagetest

import (
	"context"
	"errors"
	"sync"

	"github.com/whole-tale/wtsnap/repo/storage"
)

// ErrFault is the error of an operation that was made to fail. It is of no kind:
// a retry may help.
var ErrFault = errors.New("fault put in by the test")

// Mode says what a fault does to its operation.
type Mode int

const (
	NotDone    Mode = iota // the operation has no effect and fails
	DoneFailed             // the operation has its effect and fails all the same
	CrashFirst             // no effect, and every later operation fails too
	CrashAfter             // the operation succeeds, every later one fails
)

// Fault counts and records operations, and makes chosen ones fail.
type Fault struct {
	st storage.Storage

	mu      sync.Mutex
	faults  map[int]Mode
	match   func(Op) bool
	record  bool
	ops     []Op
	n       int
	hit     int
	crashed bool
}

// NewFault returns a decorator that lets everything through.
func NewFault(st storage.Storage) *Fault {
	return &Fault{st: st, faults: make(map[int]Mode)}
}

// At makes operation number i fail, counted from 0 since NewFault or Reset
// over the operations that Only lets through.
func (f *Fault) At(i int, m Mode) *Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults[i] = m
	return f
}

// Only restricts counting and failing to the operations that match, for example
// op.Kind.Changes(). A crash stops the others too.
func (f *Fault) Only(match func(Op) bool) *Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.match = match
	return f
}

// Record keeps every operation, with what was put, for Ops.
func (f *Fault) Record() *Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.record = true
	return f
}

// Reset forgets faults, crash, count and record.
func (f *Fault) Reset() {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.faults)
	f.ops, f.n, f.hit, f.crashed = nil, 0, 0, false
}

// Ops returns the recorded operations that had an effect or could have had one, in order.
func (f *Fault) Ops() []Op {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]Op(nil), f.ops...)
}

// Count returns the number of operations counted.
func (f *Fault) Count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.n
}

// Hit returns how many faults were met: a loop over operation numbers ends at 0.
func (f *Fault) Hit() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.hit
}

// do runs one operation, unless it is to fail.
func (f *Fault) do(ctx context.Context, op Op, run func() error) error {
	if err := ctx.Err(); err != nil {
		return &storage.Error{Op: string(op.Kind), Name: op.Name, Err: err}
	}
	mode, faulty, crashed := f.next(op)
	if crashed || faulty && (mode == NotDone || mode == CrashFirst) {
		return &storage.Error{Op: string(op.Kind), Name: op.Name, Err: ErrFault}
	}
	if faulty && mode == DoneFailed {
		if err := run(); err != nil {
			return err
		}
		return &storage.Error{Op: string(op.Kind), Name: op.Name, Err: ErrFault}
	}
	return run()
}

func (f *Fault) next(op Op) (mode Mode, faulty, crashed bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.crashed {
		return 0, false, true
	}
	if f.match == nil || f.match(op) {
		mode, faulty = f.faults[f.n]
		f.n++
	}
	if faulty {
		f.hit++
		f.crashed = mode == CrashFirst || mode == CrashAfter
	}
	if f.record && (!faulty || mode == DoneFailed || mode == CrashAfter) {
		op.Data = append([]byte(nil), op.Data...)
		f.ops = append(f.ops, op)
	}
	return mode, faulty, false
}

// Put may fail.
func (f *Fault) Put(ctx context.Context, name string, data []byte) (info storage.Info, err error) {
	err = f.do(ctx, Op{Put, name, data}, func() (err error) {
		info, err = f.st.Put(ctx, name, data)
		return err
	})
	return info, err
}

// Get may fail.
func (f *Fault) Get(ctx context.Context, name string, offset, length int64, dst []byte) ([]byte, error) {
	err := f.do(ctx, Op{Get, name, nil}, func() (err error) {
		dst, err = f.st.Get(ctx, name, offset, length, dst)
		return err
	})
	return dst, err
}

// Stat may fail.
func (f *Fault) Stat(ctx context.Context, name string) (info storage.Info, err error) {
	err = f.do(ctx, Op{Stat, name, nil}, func() (err error) {
		info, err = f.st.Stat(ctx, name)
		return err
	})
	return info, err
}

// List may fail; with DoneFailed, after the last object.
func (f *Fault) List(ctx context.Context, prefix string, fn func(storage.Info) error) error {
	return f.do(ctx, Op{List, prefix, nil}, func() error { return f.st.List(ctx, prefix, fn) })
}

// Delete may fail.
func (f *Fault) Delete(ctx context.Context, name string) error {
	return f.do(ctx, Op{Delete, name, nil}, func() error { return f.st.Delete(ctx, name) })
}

// Hang is a storage whose chosen operations never answer: they return when ctx is done.
type Hang struct {
	storage.Storage
	Match func(Op) bool // nil for all operations
}

func (h Hang) wait(ctx context.Context, op Op) error {
	if h.Match != nil && !h.Match(op) {
		return nil
	}
	<-ctx.Done()
	return &storage.Error{Op: string(op.Kind), Name: op.Name, Err: ctx.Err()}
}

// Put may hang.
func (h Hang) Put(ctx context.Context, name string, data []byte) (storage.Info, error) {
	if err := h.wait(ctx, Op{Put, name, data}); err != nil {
		return storage.Info{}, err
	}
	return h.Storage.Put(ctx, name, data)
}

// Get may hang.
func (h Hang) Get(ctx context.Context, name string, offset, length int64, dst []byte) ([]byte, error) {
	if err := h.wait(ctx, Op{Get, name, nil}); err != nil {
		return dst[:0], err
	}
	return h.Storage.Get(ctx, name, offset, length, dst)
}

// Stat may hang.
func (h Hang) Stat(ctx context.Context, name string) (storage.Info, error) {
	if err := h.wait(ctx, Op{Stat, name, nil}); err != nil {
		return storage.Info{}, err
	}
	return h.Storage.Stat(ctx, name)
}

// List may hang.
func (h Hang) List(ctx context.Context, prefix string, fn func(storage.Info) error) error {
	if err := h.wait(ctx, Op{List, prefix, nil}); err != nil {
		return err
	}
	return h.Storage.List(ctx, prefix, fn)
}

// Delete may hang.
func (h Hang) Delete(ctx context.Context, name string) error {
	if err := h.wait(ctx, Op{Delete, name, nil}); err != nil {
		return err
	}
	return h.Storage.Delete(ctx, name)
}
