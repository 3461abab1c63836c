// Package mem keeps objects in memory, for tests.
package mem

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/hex"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/whole-tale/wtsnap/repo/storage"
)

// Storage is a storage.Storage in memory.
type Storage struct {
	mu      sync.RWMutex
	objects map[string]object
}

type object struct {
	data []byte
	time time.Time
	hash string
}

// New returns an empty storage.
func New() *Storage {
	return &Storage{objects: make(map[string]object)}
}

// Put stores a copy of data.
func (s *Storage) Put(ctx context.Context, name string, data []byte) (storage.Info, error) {
	err := ctx.Err()
	if err == nil {
		err = storage.CheckPut(name, data)
	}
	if err != nil {
		return storage.Info{}, &storage.Error{Op: "put", Name: name, Err: err}
	}
	sum := md5.Sum(data)
	o := object{bytes.Clone(data), time.Now(), "md5:" + hex.EncodeToString(sum[:])}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.objects[name] = o
	return o.info(name), nil
}

// Get copies a range of the object.
func (s *Storage) Get(ctx context.Context, name string, offset, length int64, dst []byte) ([]byte, error) {
	o, err := s.object(ctx, name)
	if err == nil {
		length, err = storage.CheckRange(int64(len(o.data)), offset, length)
	}
	if err != nil {
		return dst[:0], &storage.Error{Op: "get", Name: name, Err: err}
	}
	return append(dst[:0], o.data[offset:offset+length]...), nil
}

// Stat describes the object.
func (s *Storage) Stat(ctx context.Context, name string) (storage.Info, error) {
	o, err := s.object(ctx, name)
	if err != nil {
		return storage.Info{}, &storage.Error{Op: "stat", Name: name, Err: err}
	}
	return o.info(name), nil
}

// List gives the objects below prefix as they were when it was called, by name.
func (s *Storage) List(ctx context.Context, prefix string, fn func(storage.Info) error) error {
	if err := storage.CheckPrefix(prefix); err != nil {
		return &storage.Error{Op: "list", Name: prefix, Err: err}
	}
	s.mu.RLock()
	var infos []storage.Info
	for name, o := range s.objects {
		if strings.HasPrefix(name, prefix) {
			infos = append(infos, o.info(name))
		}
	}
	s.mu.RUnlock()
	sort.Slice(infos, func(i, j int) bool { return infos[i].Name < infos[j].Name })
	for _, info := range infos {
		if err := ctx.Err(); err != nil {
			return &storage.Error{Op: "list", Name: prefix, Err: err}
		}
		if err := fn(info); err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		return &storage.Error{Op: "list", Name: prefix, Err: err}
	}
	return nil
}

// Delete forgets the object.
func (s *Storage) Delete(ctx context.Context, name string) error {
	err := ctx.Err()
	if err == nil {
		err = storage.CheckName(name)
	}
	if err != nil {
		return &storage.Error{Op: "delete", Name: name, Err: err}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.objects, name)
	return nil
}

// Clone returns an independent copy.
func (s *Storage) Clone() *Storage {
	s.mu.RLock()
	defer s.mu.RUnlock()
	c := New()
	for name, o := range s.objects {
		c.objects[name] = o
	}
	return c
}

// Len returns the number of objects.
func (s *Storage) Len() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.objects)
}

func (s *Storage) object(ctx context.Context, name string) (object, error) {
	if err := ctx.Err(); err != nil {
		return object{}, err
	}
	if err := storage.CheckName(name); err != nil {
		return object{}, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	o, ok := s.objects[name]
	if !ok {
		return object{}, storage.ErrNotExist
	}
	return o, nil
}

// info describes o; objects are never changed in place, so sharing data is safe.
func (o object) info(name string) storage.Info {
	return storage.Info{Name: name, Size: int64(len(o.data)), ModTime: o.time, Hash: o.hash}
}
