// Package cache mirrors objects in a local folder.
//
// The folder holds nothing that the storage does not: it may be deleted at any
// time, and when it fails in any way, the storage is asked instead. Objects are
// kept as they are, sealed by the caller. A file is the object's bytes and a
// trailer with their checksum, so that a file torn by a power cut is noticed; a
// file changed on purpose is for the caller's seal to find, who then asks again
// with storage.CacheBypass, which also drops it.
package cache

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/whole-tale/wtsnap/repo/storage"
)

// Options say what is kept where.
type Options struct {
	Dir string // one folder for one repository, made when needed; "" keeps nothing

	// Prefixes are the folders whose objects are kept ("index/"). Others are
	// kept when the operation's context says storage.CacheWhole.
	Prefixes []string

	// Largest is the size in bytes beyond which an object is not kept; 0 means 64 MiB.
	Largest int64

	// Most bounds the folder in bytes; 0 means 1 GiB. The objects used least
	// recently go first.
	Most int64
}

const (
	trailer    = 16 // magic, CRC-32C, size
	magic      = 0x31637477
	tempPrefix = ".tmp-"
	tempAge    = time.Hour
	touchAfter = time.Hour // an object's use is noted once an hour: a write for each read would be dear
)

// Storage answers from the folder what it can.
type Storage struct {
	st storage.Storage
	o  Options

	mu       sync.Mutex
	verified map[string]int64 // objects whose checksum was right, with their sizes
	used     int64            // bytes in the folder; valid when scanned
	scanned  bool
	reading  map[string]chan struct{} // objects that are being read from the storage; closed at the end
}

// New returns a caching decorator. It does not touch the folder.
func New(st storage.Storage, o Options) *Storage {
	if o.Largest == 0 {
		o.Largest = 64 << 20
	}
	if o.Most == 0 {
		o.Most = 1 << 30
	}
	return &Storage{st: st, o: o, verified: make(map[string]int64), reading: make(map[string]chan struct{})}
}

// Put stores, then keeps.
func (s *Storage) Put(ctx context.Context, name string, data []byte) (storage.Info, error) {
	info, err := s.st.Put(ctx, name, data)
	switch {
	case err != nil:
		s.remove(name) // what is stored now is unknown
	case s.keeps(ctx, name):
		s.keep(name, data)
	default:
		s.remove(name)
	}
	return info, err
}

// Get answers from the folder, or reads the whole object and keeps it.
func (s *Storage) Get(ctx context.Context, name string, offset, length int64, dst []byte) ([]byte, error) {
	if storage.CachingOf(ctx) == storage.CacheBypass {
		s.remove(name)
		return s.st.Get(ctx, name, offset, length, dst)
	}
	if ctx.Err() != nil || storage.CheckName(name) != nil || !s.keeps(ctx, name) {
		return s.st.Get(ctx, name, offset, length, dst)
	}
	for {
		if out, err, ok := s.read(name, offset, length, dst); ok {
			return out, err
		}
		done, mine := s.begin(name)
		if mine {
			break
		}
		select { // another one reads the same object
		case <-done:
			if !s.Holds(name) { // it failed, or the object is not to be kept
				return s.st.Get(ctx, name, offset, length, dst)
			}
		case <-ctx.Done():
			return dst[:0], &storage.Error{Op: "get", Name: name, Err: ctx.Err()}
		}
	}
	defer s.end(name)
	if offset == 0 && length < 0 {
		out, err := s.st.Get(ctx, name, 0, -1, dst)
		if err == nil {
			s.keep(name, out)
		}
		return out, err
	}
	whole, err := s.st.Get(ctx, name, 0, -1, nil)
	if err != nil {
		return dst[:0], err
	}
	s.keep(name, whole)
	n, err := storage.CheckRange(int64(len(whole)), offset, length)
	if err != nil {
		return dst[:0], &storage.Error{Op: "get", Name: name, Err: err}
	}
	return append(dst[:0], whole[offset:offset+n]...), nil
}

// begin says that an object is about to be read from the storage, unless another one is at it: then the channel is closed
// when that one has ended.
func (s *Storage) begin(name string) (done chan struct{}, mine bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if done := s.reading[name]; done != nil {
		return done, false
	}
	s.reading[name] = make(chan struct{})
	return nil, true
}

func (s *Storage) end(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.reading[name])
	delete(s.reading, name)
}

// Holds reports whether the folder has an object that a Get would be answered from, unless it turns out to be damaged.
func (s *Storage) Holds(name string) bool {
	if s.o.Dir == "" || storage.CheckName(name) != nil {
		return false
	}
	fi, err := os.Lstat(s.path(name))
	return err == nil && fi.Mode().IsRegular()
}

// Stat asks the storage.
func (s *Storage) Stat(ctx context.Context, name string) (storage.Info, error) {
	info, err := s.st.Stat(ctx, name)
	if errors.Is(err, storage.ErrNotExist) {
		s.remove(name)
	}
	return info, err
}

// List asks the storage, and drops what it does not list or lists with another size.
func (s *Storage) List(ctx context.Context, prefix string, fn func(storage.Info) error) error {
	kept := s.kept(prefix)
	err := s.st.List(ctx, prefix, func(i storage.Info) error {
		if size, ok := kept[i.Name]; ok && size == i.Size {
			delete(kept, i.Name)
		}
		return fn(i)
	})
	if err != nil {
		return err
	}
	for name := range kept {
		s.remove(name)
	}
	return nil
}

// Delete deletes in both places.
func (s *Storage) Delete(ctx context.Context, name string) error {
	s.remove(name)
	return s.st.Delete(ctx, name)
}

func (s *Storage) keeps(ctx context.Context, name string) bool {
	if s.o.Dir == "" {
		return false
	}
	switch storage.CachingOf(ctx) {
	case storage.CacheWhole:
		return true
	case storage.CacheBypass:
		return false
	}
	for _, p := range s.o.Prefixes {
		if strings.HasPrefix(name, p) {
			return true
		}
	}
	return false
}

func (s *Storage) path(name string) string {
	return filepath.Join(s.o.Dir, filepath.FromSlash(name))
}

// read answers from the folder; ok is false where it cannot.
func (s *Storage) read(name string, offset, length int64, dst []byte) (out []byte, err error, ok bool) {
	f, err := os.Open(s.path(name))
	if err != nil {
		return dst[:0], nil, false
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil || !fi.Mode().IsRegular() {
		return dst[:0], nil, false
	}
	size := fi.Size() - trailer
	n, rangeErr := storage.CheckRange(size, offset, length)
	s.mu.Lock()
	sure := s.verified[name] == size
	s.mu.Unlock()
	if !sure {
		if err := verify(f, size); err != nil {
			s.remove(name)
			return dst[:0], nil, false
		}
		s.mu.Lock()
		s.verified[name] = size
		s.mu.Unlock()
	}
	if rangeErr != nil {
		return dst[:0], &storage.Error{Op: "get", Name: name, Err: rangeErr}, true
	}
	if int64(cap(dst)) < n {
		dst = make([]byte, n)
	}
	if got, _ := f.ReadAt(dst[:n], offset); int64(got) != n {
		return dst[:0], nil, false
	}
	if time.Since(fi.ModTime()) > touchAfter {
		now := time.Now()
		_ = os.Chtimes(f.Name(), now, now)
	}
	return dst[:n], nil, true
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func verify(f *os.File, size int64) error {
	if size <= 0 {
		return errors.New("too short")
	}
	var t [trailer]byte
	if _, err := f.ReadAt(t[:], size); err != nil {
		return err
	}
	sum := crc32.New(castagnoli)
	if _, err := io.Copy(sum, io.NewSectionReader(f, 0, size)); err != nil {
		return err
	}
	if t != seal(size, sum.Sum32()) {
		return errors.New("wrong checksum")
	}
	return nil
}

func seal(size int64, sum uint32) (t [trailer]byte) {
	binary.LittleEndian.PutUint32(t[0:], magic)
	binary.LittleEndian.PutUint32(t[4:], sum)
	binary.LittleEndian.PutUint64(t[8:], uint64(size))
	return t
}

// keep writes the object to the folder, and makes room. It fails silently.
func (s *Storage) keep(name string, data []byte) {
	size := int64(len(data))
	if size == 0 || size > s.o.Largest || size > s.o.Most {
		s.remove(name)
		return
	}
	path := s.path(name)
	old, _ := os.Stat(path)
	if err := write(path, data); err != nil {
		s.remove(name)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.verified[name] = size
	if !s.scanned {
		s.evict() // which counts what is there
		return
	}
	s.used += size + trailer
	if old != nil {
		s.used -= old.Size()
	}
	if s.used > s.o.Most {
		s.evict()
	}
}

func write(path string, data []byte) error {
	dir := filepath.Dir(path)
	temp := filepath.Join(dir, fmt.Sprintf("%s%016x", tempPrefix, rand.Uint64()))
	open := func() (*os.File, error) { return os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600) }
	f, err := open()
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		f, err = open()
	}
	if err != nil {
		return err
	}
	t := seal(int64(len(data)), crc32.Checksum(data, castagnoli))
	_, err = f.Write(data)
	if err == nil {
		_, err = f.Write(t[:])
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		_ = os.Remove(temp)
	}
	return err
}

func (s *Storage) remove(name string) {
	if s.o.Dir == "" || storage.CheckName(name) != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.verified, name)
	s.removeFile(s.path(name))
}

// removeFile removes a file of the folder; s.mu is held.
func (s *Storage) removeFile(path string) {
	fi, err := os.Lstat(path)
	if err != nil || fi.IsDir() {
		return
	}
	if os.Remove(path) == nil && s.scanned {
		s.used -= fi.Size()
	}
}

// kept returns the sizes of the objects below prefix that are in the folder.
func (s *Storage) kept(prefix string) map[string]int64 {
	out := make(map[string]int64)
	if s.o.Dir == "" || storage.CheckPrefix(prefix) != nil {
		return out
	}
	for _, f := range s.files(s.path(strings.TrimSuffix(prefix, "/"))) {
		rel, err := filepath.Rel(s.o.Dir, f.path)
		if err == nil {
			out[filepath.ToSlash(rel)] = f.size - trailer
		}
	}
	return out
}

type file struct {
	path string
	size int64
	time time.Time
}

// files returns the objects below dir, and removes temporary files of the dead.
func (s *Storage) files(dir string) []file {
	var out []file
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil // whatever cannot be read is not there
		}
		if !d.Type().IsRegular() {
			return nil
		}
		fi, err := d.Info()
		if err != nil {
			return nil
		}
		if strings.HasPrefix(d.Name(), tempPrefix) {
			if time.Since(fi.ModTime()) > tempAge {
				_ = os.Remove(path)
			}
			return nil
		}
		out = append(out, file{path, fi.Size(), fi.ModTime()})
		return nil
	})
	return out
}

// evict counts the folder and brings it down to nine tenths of its bound when it
// is beyond it; s.mu is held.
func (s *Storage) evict() {
	files := s.files(s.o.Dir)
	s.scanned, s.used = true, 0
	for _, f := range files {
		s.used += f.size
	}
	if s.used <= s.o.Most {
		return
	}
	slices.SortFunc(files, func(a, b file) int { return a.time.Compare(b.time) })
	for _, f := range files {
		if s.used <= s.o.Most/10*9 {
			return
		}
		if rel, err := filepath.Rel(s.o.Dir, f.path); err == nil {
			delete(s.verified, filepath.ToSlash(rel))
		}
		s.removeFile(f.path)
	}
}
