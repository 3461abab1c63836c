// Package rclone keeps objects on any backend of rclone. It is the only package
// that imports rclone, which keeps its configuration, its logger and its HTTP
// transport in process globals; what of them this package sets is in config.go.
//
// What rclone leaves open is closed here: an upload is believed only when the
// backend reports its size (and its hash, where there is one without a download);
// where half an object could show under its name, it is uploaded under a
// temporary name and moved; a call that ignores its context is abandoned, with
// the caller's buffers out of its reach.
package rclone

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	_ "github.com/rclone/rclone/backend/all" // every backend is linked in
	"github.com/rclone/rclone/fs"
	"github.com/rclone/rclone/fs/hash"
	"github.com/rclone/rclone/fs/object"
	"github.com/rclone/rclone/fs/walk"

	"github.com/whole-tale/wtsnap/repo/storage"
)

// Options say where the configuration is and who hears of what.
type Options struct {
	// ConfigPath is rclone's configuration file. "" means $RCLONE_CONFIG, or
	// the file that rclone would use. A process uses one.
	ConfigPath string

	// Warn is told, in words for the user, of what will go wrong later: a
	// refreshed token that cannot be stored. nil drops it. It may be called
	// at any time from any goroutine until the process ends.
	Warn func(string)

	// Log is told what rclone logs, for the curious. nil drops it.
	Log func(level, message string)
}

const (
	tempPrefix = ".wtsnap-"
	tempAge    = 24 * time.Hour // a younger temporary object may belong to a writer at work
	handles    = 8192           // known objects; one is below 1 KiB

	cleanupTime = 10 * time.Second // for looking after a failed upload
)

// Storage is a storage.Storage on a backend of rclone.
type Storage struct {
	spec   string
	remote string // the name in the configuration, or "" for a connection string
	cfg    *process
	known  *lru

	mu      sync.Mutex
	opening *opening

	staleMu sync.Mutex
	stale   []string // temporary objects of died writers that a listing showed
}

// Open returns the storage at spec: "remote:path", ":backend,opt=val:path" or a
// folder. It checks the configuration and does not touch the network, which the
// first operation does; a decorator that retries therefore covers it.
func Open(ctx context.Context, spec string, o Options) (*Storage, error) {
	cfg, err := configure(o)
	if err != nil {
		return nil, err
	}
	remote, err := cfg.check(spec)
	if err != nil {
		return nil, err
	}
	cfg.foresee(remote)
	if !strings.HasSuffix(spec, ":") && !strings.HasSuffix(spec, "/") {
		// A folder, not a file: it saves the request that would find out, whose
		// refusal S3 would take for a file.
		spec += "/"
	}
	return &Storage{spec: spec, remote: remote, cfg: cfg, known: newLRU(handles)}, nil
}

// Put uploads and verifies.
func (s *Storage) Put(ctx context.Context, name string, data []byte) (storage.Info, error) {
	if err := storage.CheckPut(name, data); err != nil {
		return storage.Info{}, s.failed("put", name, err)
	}
	in := newUpload(data)
	defer in.revoke()
	var info storage.Info
	err := s.call(ctx, func(ctx context.Context, f fs.Fs) error {
		s.removeStale(ctx, f)
		o, err := s.put(ctx, f, name, data, in)
		if err != nil {
			return err
		}
		s.known.put(name, o)
		info, err = s.info(ctx, f, o)
		return err
	})
	if err != nil {
		s.known.drop(name)
		return storage.Info{}, s.failed("put", name, err)
	}
	return info, nil
}

// put uploads under a temporary name where half an object could be seen.
func (s *Storage) put(ctx context.Context, f fs.Fs, name string, data []byte, in *upload) (fs.Object, error) {
	want := expect(f, in.size())
	if want.kind != hash.None {
		if err := in.sum(&want); err != nil {
			return nil, err
		}
	}
	features := f.Features()
	target := name
	if features.PartialUploads && features.Move != nil {
		dir, _ := path.Split(name)
		target = fmt.Sprintf("%s%s%016x", dir, tempPrefix, rand.Uint64())
	}
	o, err := s.upload(ctx, f, target, want, in)
	if err != nil || target == name {
		return o, err
	}
	moved, err := s.move(ctx, f, o, name, want)
	if err != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
		defer cancel()
		_ = o.Remove(ctx)
	}
	return moved, err
}

// upload puts the bytes and returns the object when the backend confirms them.
// What an upload left that failed and is not the whole object is removed.
func (s *Storage) upload(ctx context.Context, f fs.Fs, name string, want expected, in *upload) (fs.Object, error) {
	hashes := map[hash.Type]string{}
	if want.kind != hash.None {
		hashes[want.kind] = want.sum
	}
	src := object.NewStaticObjectInfo(name, time.Now(), want.size, true, hashes, nil)
	o, err := f.Put(ctx, in.reader(ctx), src)
	if errors.Is(err, fs.ErrorDirNotFound) {
		// The folder is gone that rclone remembers, or the backend does not make it.
		if flush := f.Features().DirCacheFlush; flush != nil {
			flush()
		}
		if err := f.Mkdir(ctx, strings.TrimSuffix(path.Dir(name), ".")); err != nil {
			return nil, err
		}
		o, err = f.Put(ctx, in.reader(ctx), src)
	}
	if err == nil {
		if err = want.check(ctx, o); err == nil {
			return o, nil
		}
	}
	// The error, or what Put says of the object, may be wrong: ask the backend,
	// even when the caller has given up, for half an object must not stay.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
	defer cancel()
	seen, seenErr := f.NewObject(ctx, name)
	switch {
	case seenErr != nil:
		return nil, err
	case want.check(ctx, seen) == nil:
		return seen, nil
	case seen.Size() != want.size:
		_ = seen.Remove(ctx)
	}
	return nil, err
}

// move gives a verified upload its name.
func (s *Storage) move(ctx context.Context, f fs.Fs, o fs.Object, name string, want expected) (fs.Object, error) {
	moved, err := f.Features().Move(ctx, o, name)
	if err == nil {
		return moved, want.check(ctx, moved)
	}
	if ctx.Err() != nil {
		return nil, err
	}
	// Some backends do not move over an object: it has equal content, or it is
	// to be replaced. And some had moved it when the answer was lost.
	there, thereErr := f.NewObject(ctx, name)
	if thereErr != nil {
		return nil, err
	}
	if _, goneErr := f.NewObject(ctx, o.Remote()); errors.Is(goneErr, fs.ErrorObjectNotFound) {
		return there, want.check(ctx, there)
	}
	if err := there.Remove(ctx); err != nil {
		return nil, err
	}
	moved, err = f.Features().Move(ctx, o, name)
	if err != nil {
		return nil, err
	}
	return moved, want.check(ctx, moved)
}

// Get downloads a range.
func (s *Storage) Get(ctx context.Context, name string, offset, length int64, dst []byte) ([]byte, error) {
	if err := storage.CheckName(name); err != nil {
		return dst[:0], s.failed("get", name, err)
	}
	out := newDownload(dst)
	defer out.revoke()
	err := s.call(ctx, func(ctx context.Context, f fs.Fs) error {
		o, cached := s.known.get(name)
		if cached {
			if err := s.read(ctx, o, offset, length, out); err == nil || ctx.Err() != nil {
				return err
			}
			// What was known of the object may be out of date.
			s.known.drop(name)
			out.reset()
		}
		o, err := f.NewObject(ctx, name)
		if err != nil {
			return err
		}
		s.known.put(name, o)
		return s.read(ctx, o, offset, length, out)
	})
	if err != nil {
		return dst[:0], s.failed("get", name, err)
	}
	return out.bytes(), nil
}

func (s *Storage) read(ctx context.Context, o fs.Object, offset, length int64, out *download) error {
	n, err := storage.CheckRange(o.Size(), offset, length)
	if err != nil || n == 0 {
		return err
	}
	var options []fs.OpenOption
	if offset != 0 || n != o.Size() {
		options = append(options, &fs.RangeOption{Start: offset, End: offset + n - 1})
	}
	body, err := o.Open(ctx, options...)
	if err != nil {
		return err
	}
	err = out.fill(ctx, body, n)
	if cerr := body.Close(); err == nil && cerr != nil && !errors.Is(cerr, io.EOF) {
		err = cerr
	}
	return err
}

// Stat asks the backend.
func (s *Storage) Stat(ctx context.Context, name string) (storage.Info, error) {
	if err := storage.CheckName(name); err != nil {
		return storage.Info{}, s.failed("stat", name, err)
	}
	var info storage.Info
	err := s.call(ctx, func(ctx context.Context, f fs.Fs) error {
		o, err := f.NewObject(ctx, name)
		if err != nil {
			s.known.drop(name)
			return err
		}
		s.known.put(name, o)
		info, err = s.info(ctx, f, o)
		return err
	})
	if err != nil {
		return storage.Info{}, s.failed("stat", name, err)
	}
	return info, nil
}

// List uses the backend's recursive listing where it has one, and reads several
// folders at once where not.
func (s *Storage) List(ctx context.Context, prefix string, fn func(storage.Info) error) error {
	if err := storage.CheckPrefix(prefix); err != nil {
		return s.failed("list", prefix, err)
	}
	dir := strings.TrimSuffix(prefix, "/")
	var mu sync.Mutex
	var fnErr error // what fn returned, to be passed on as it is
	over := false   // after return, an abandoned listing must not call fn
	seen := make(map[string]struct{})
	err := s.call(ctx, func(ctx context.Context, f fs.Fs) error {
		err := walk.ListR(ctx, f, dir, true, -1, walk.ListObjects, func(entries fs.DirEntries) error {
			if err := storage.Moved(ctx, 0); err != nil {
				return err
			}
			infos, err := s.infos(ctx, f, entries)
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			if !f.Features().DuplicateFiles {
				clear(seen) // one name twice, if at all, is in one answer
			}
			for _, info := range infos {
				if _, twice := seen[info.Name]; twice {
					continue
				}
				seen[info.Name] = struct{}{}
				if err := ctx.Err(); err != nil {
					return err
				}
				if over || fnErr != nil {
					return fs.ErrorListAborted
				}
				if fnErr = fn(info); fnErr != nil {
					return fnErr
				}
			}
			return nil
		})
		return s.noFolder(ctx, f, dir, err)
	})
	mu.Lock()
	defer mu.Unlock()
	over = true
	if fnErr != nil {
		return fnErr
	}
	if err != nil {
		return s.failed("list", prefix, err)
	}
	return nil
}

// noFolder turns the error of listing what is no folder into none.
func (s *Storage) noFolder(ctx context.Context, f fs.Fs, dir string, err error) error {
	if err == nil || errors.Is(err, fs.ErrorDirNotFound) {
		return nil
	}
	if dir != "" && ctx.Err() == nil {
		if _, e := f.NewObject(ctx, dir); e == nil {
			return nil
		}
	}
	return err
}

func (s *Storage) infos(ctx context.Context, f fs.Fs, entries fs.DirEntries) ([]storage.Info, error) {
	infos := make([]storage.Info, 0, len(entries))
	for _, e := range entries {
		o, ok := e.(fs.Object)
		if !ok {
			continue
		}
		name := o.Remote()
		if storage.CheckName(name) != nil {
			s.noteStale(ctx, o)
			continue
		}
		info, err := s.info(ctx, f, o)
		if err != nil {
			return nil, err
		}
		s.known.put(name, o)
		infos = append(infos, info)
	}
	return infos, nil
}

// Delete looks the object up, unless it is known, and removes it.
func (s *Storage) Delete(ctx context.Context, name string) error {
	if err := storage.CheckName(name); err != nil {
		return s.failed("delete", name, err)
	}
	err := s.call(ctx, func(ctx context.Context, f fs.Fs) error {
		if o, ok := s.known.get(name); ok {
			s.known.drop(name)
			err := o.Remove(ctx)
			if err == nil && !f.Features().DuplicateFiles || ctx.Err() != nil {
				return err
			}
		}
		for {
			o, err := f.NewObject(ctx, name)
			if err == nil {
				err = o.Remove(ctx)
			}
			// Some backends hold several objects of one name: two writers made them.
			if err != nil || !f.Features().DuplicateFiles {
				return err
			}
		}
	})
	if err != nil && !notExist(err) {
		return s.failed("delete", name, err)
	}
	return nil
}

// HashName returns the hash function of the Info.Hash that this backend gives
// ("sha1"), or "". It may open the backend.
func (s *Storage) HashName(ctx context.Context) (string, error) {
	var name string
	err := s.call(ctx, func(_ context.Context, f fs.Fs) error {
		if kind := hashKind(f); kind != hash.None {
			name = kind.String()
		}
		return nil
	})
	return name, err
}

// Free asks the backend how much room the account has, where it can tell.
func (s *Storage) Free(ctx context.Context) (int64, error) {
	free := int64(storage.Unknown)
	err := s.call(ctx, func(ctx context.Context, f fs.Fs) error {
		about := f.Features().About
		if about == nil {
			return nil
		}
		usage, err := about(ctx)
		if err == nil && usage != nil && usage.Free != nil {
			free = max(*usage.Free, 0)
		}
		return err
	})
	if err != nil {
		return storage.Unknown, s.failed("about", "", err)
	}
	return free, nil
}

// Close ends the backend's connections and background work.
func (s *Storage) Close(ctx context.Context) error {
	s.mu.Lock()
	opening := s.opening
	s.opening = nil
	s.mu.Unlock()
	if opening == nil {
		return nil
	}
	return s.guard(ctx, func(ctx context.Context) error {
		<-opening.done
		if opening.err != nil || opening.f.Features().Shutdown == nil {
			return nil
		}
		return opening.f.Features().Shutdown(ctx)
	})
}

func (s *Storage) info(ctx context.Context, f fs.Fs, o fs.Object) (storage.Info, error) {
	info := storage.Info{Name: o.Remote(), Size: o.Size()}
	if !f.Features().SlowModTime || s.cfg.serverTime {
		info.ModTime = o.ModTime(ctx)
	}
	if kind := hashKind(f); kind != hash.None {
		sum, err := o.Hash(ctx, kind)
		if err != nil && !errors.Is(err, hash.ErrUnsupported) {
			return info, err
		}
		if sum != "" {
			info.Hash = kind.String() + ":" + sum
		}
	}
	return info, nil
}

// hashKind is the backend's hash that costs nothing to ask for.
func hashKind(f fs.Fs) hash.Type {
	if f.Features().SlowHash {
		return hash.None
	}
	have := f.Hashes()
	for _, kind := range []hash.Type{hash.SHA256, hash.SHA1, hash.MD5} {
		if have.Contains(kind) {
			return kind
		}
	}
	return have.GetOne()
}

// expected is what the backend must say of an object.
type expected struct {
	size int64
	kind hash.Type
	sum  string
}

func expect(f fs.Fs, size int64) expected {
	return expected{size: size, kind: hashKind(f)}
}

func (e expected) check(ctx context.Context, o fs.Object) error {
	if o.Size() != e.size {
		return fmt.Errorf("the backend stored %d of %d bytes", o.Size(), e.size)
	}
	if e.kind == hash.None {
		return nil
	}
	sum, err := o.Hash(ctx, e.kind)
	if err != nil || sum == "" {
		return nil // no hash for this object; its size is right
	}
	if sum != e.sum {
		return fmt.Errorf("the backend reports %v %s of what it stored, the bytes sent have %s", e.kind, sum, e.sum)
	}
	return nil
}

// noteStale remembers a temporary object of a died writer.
func (s *Storage) noteStale(ctx context.Context, o fs.Object) {
	if !strings.HasPrefix(path.Base(o.Remote()), tempPrefix) || time.Since(o.ModTime(ctx)) < tempAge {
		return
	}
	s.staleMu.Lock()
	defer s.staleMu.Unlock()
	if !slices.Contains(s.stale, o.Remote()) {
		s.stale = append(s.stale, o.Remote())
	}
}

// removeStale removes them when something is written anyway: a listing must not write.
func (s *Storage) removeStale(ctx context.Context, f fs.Fs) {
	s.staleMu.Lock()
	stale := s.stale
	s.stale = nil
	s.staleMu.Unlock()
	for _, name := range stale {
		if o, err := f.NewObject(ctx, name); err == nil {
			_ = o.Remove(ctx)
		}
	}
}
