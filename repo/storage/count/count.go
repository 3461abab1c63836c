// Package count counts what a storage is asked to do.
package count

import (
	"context"
	"sync/atomic"

	"github.com/whole-tale/wtsnap/repo/storage"
)

// Counts are calls by kind, and bytes. A call counts whether it succeeds or not;
// bytes count when it does.
type Counts struct {
	Put        int64 `json:"put"`
	Get        int64 `json:"get"`
	Stat       int64 `json:"stat"`
	List       int64 `json:"list"`
	Delete     int64 `json:"delete"`
	Failed     int64 `json:"failed"`     // calls that returned an error
	Listed     int64 `json:"listed"`     // objects that listings gave
	Uploaded   int64 `json:"uploaded"`   // bytes
	Downloaded int64 `json:"downloaded"` // bytes
}

// Calls returns the number of calls of any kind.
func (c Counts) Calls() int64 { return c.Put + c.Get + c.Stat + c.List + c.Delete }

// Sub returns what was added since earlier.
func (c Counts) Sub(earlier Counts) Counts {
	return Counts{
		Put:        c.Put - earlier.Put,
		Get:        c.Get - earlier.Get,
		Stat:       c.Stat - earlier.Stat,
		List:       c.List - earlier.List,
		Delete:     c.Delete - earlier.Delete,
		Failed:     c.Failed - earlier.Failed,
		Listed:     c.Listed - earlier.Listed,
		Uploaded:   c.Uploaded - earlier.Uploaded,
		Downloaded: c.Downloaded - earlier.Downloaded,
	}
}

// Storage counts and passes on.
type Storage struct {
	st storage.Storage

	put, get, stat, list, del, failed, listed, uploaded, downloaded atomic.Int64
}

// New returns a counting decorator.
func New(st storage.Storage) *Storage { return &Storage{st: st} }

// Counts returns what was counted so far.
func (s *Storage) Counts() Counts {
	return Counts{
		Put:        s.put.Load(),
		Get:        s.get.Load(),
		Stat:       s.stat.Load(),
		List:       s.list.Load(),
		Delete:     s.del.Load(),
		Failed:     s.failed.Load(),
		Listed:     s.listed.Load(),
		Uploaded:   s.uploaded.Load(),
		Downloaded: s.downloaded.Load(),
	}
}

// note counts a call that ended with err, and n bytes if it succeeded.
func (s *Storage) note(calls, bytes *atomic.Int64, n int, err error) {
	calls.Add(1)
	switch {
	case err != nil:
		s.failed.Add(1)
	case bytes != nil:
		bytes.Add(int64(n))
	}
}

// Put counts.
func (s *Storage) Put(ctx context.Context, name string, data []byte) (storage.Info, error) {
	info, err := s.st.Put(ctx, name, data)
	s.note(&s.put, &s.uploaded, len(data), err)
	return info, err
}

// Get counts.
func (s *Storage) Get(ctx context.Context, name string, offset, length int64, dst []byte) ([]byte, error) {
	out, err := s.st.Get(ctx, name, offset, length, dst)
	s.note(&s.get, &s.downloaded, len(out), err)
	return out, err
}

// Stat counts.
func (s *Storage) Stat(ctx context.Context, name string) (storage.Info, error) {
	info, err := s.st.Stat(ctx, name)
	s.note(&s.stat, nil, 0, err)
	return info, err
}

// List counts as one call, whatever it takes the backend.
func (s *Storage) List(ctx context.Context, prefix string, fn func(storage.Info) error) error {
	err := s.st.List(ctx, prefix, func(i storage.Info) error {
		s.listed.Add(1)
		return fn(i)
	})
	s.note(&s.list, nil, 0, err)
	return err
}

// Delete counts.
func (s *Storage) Delete(ctx context.Context, name string) error {
	err := s.st.Delete(ctx, name)
	s.note(&s.del, nil, 0, err)
	return err
}

// Free asks for the room that is left. It counts as a stat where there is an answer.
func (s *Storage) Free(ctx context.Context) (int64, error) {
	sp, ok := s.st.(storage.Spacer)
	if !ok {
		return storage.Unknown, nil
	}
	free, err := sp.Free(ctx)
	if free != storage.Unknown || err != nil {
		s.note(&s.stat, nil, 0, err)
	}
	return free, err
}
