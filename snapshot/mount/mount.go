// Package mount shows snapshots as a read-only file system, through FUSE.
//
// With Options.Top it shows one folder of one snapshot. Otherwise the root holds a folder an instance, in which each
// snapshot has a folder named by its time and the first digits of its id, and the link "latest" leads to the newest
// complete one; "ids" holds a link for each id. The list of snapshots is read again when it is looked at and old: what is made, or forgotten, while the file system is mounted appears and goes. A snapshot's own content never
// changes, and may be cached by the kernel for as long as it likes.
//
// Nothing is written, neither to the repository nor to this machine's disk. Memory: a node for each entry that the kernel
// remembers, blobCacheBytes of content, and per open file that is read in order the two batches of snapshot.FileReader.
package mount

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/snapshot"
)

// Options say what is shown, and how.
type Options struct {
	// Top is the folder of the snapshot Snapshot that is shown; nil: all snapshots that Filter lets through.
	Top      *snapshot.Node
	Snapshot *snapshot.Snapshot
	Filter   snapshot.Filter

	// AllowOther lets other users than the one who mounts in. The modes and owners in the snapshot then say who may read
	// what; without it the one user may read all.
	AllowOther bool
	// Refresh is how old the list of snapshots may get before it is read again. Zero: a minute.
	Refresh time.Duration
	// Name is shown where mounts are listed.
	Name string
	// Mounted is called once, when the file system can be used.
	Mounted func()
	// Trouble is told what could not be read, with its path, and that the file system is still in use when it should end.
	// It may be called by several goroutines at once. Nil: nobody is.
	Trouble func(error)
}

const (
	refresh    = time.Minute
	keep       = time.Hour // how long the kernel may remember an entry of a snapshot
	unmountTry = time.Second
)

// A filesystem is what all nodes share.
type filesystem struct {
	r     *repo.Repository
	load  snapshot.LoadFunc
	o     Options
	blobs *blobCache

	mu   sync.Mutex // guards what follows
	list *listing   // nil: not read yet
}

func (f *filesystem) trouble(err error) {
	if f.o.Trouble != nil {
		f.o.Trouble(err)
	}
}

// Mount shows snapshots of r at the folder dir, which must exist, until ctx ends or somebody unmounts it, and returns
// when it is unmounted: nil in both cases. r's index is loaded.
func Mount(ctx context.Context, r *repo.Repository, dir string, o Options) error {
	if info, err := os.Stat(dir); err != nil {
		return &Error{Dir: dir, Err: err}
	} else if !info.IsDir() {
		return &Error{Dir: dir, Err: syscall.ENOTDIR}
	}
	o.Refresh = cmp.Or(o.Refresh, refresh)
	f := &filesystem{r: r, load: snapshot.TreeLoader(r), o: o, blobs: newBlobCache(r, blobCacheBytes)}
	var root fs.InodeEmbedder = &listNode{f: f, entries: instances}
	if o.Top != nil {
		root = &node{f: f, s: o.Snapshot, n: o.Top}
	} else if _, err := f.snapshots(ctx); err != nil {
		return err
	}
	silent := log.New(io.Discard, "", 0)
	age := keep
	options := []string{"ro"}
	if o.AllowOther {
		options = append(options, "default_permissions")
	}
	server, err := fs.Mount(dir, root, &fs.Options{
		EntryTimeout: &age, AttrTimeout: &age, Logger: silent,
		MountOptions: fuse.MountOptions{AllowOther: o.AllowOther, FsName: o.Name, Name: "wtsnap", Options: options,
			SyncRead: true, MaxReadAhead: 1 << 20, Logger: silent},
	})
	if err != nil {
		return &Error{Dir: dir, Err: err}
	}
	if o.Mounted != nil {
		o.Mounted()
	}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		server.Wait()
	}()
	select {
	case <-gone:
		return nil
	case <-ctx.Done():
	}
	for told := false; ; told = true {
		err := server.Unmount()
		if err == nil {
			<-gone
			return nil
		}
		if !told {
			f.trouble(fmt.Errorf("unmounting %s: it is in use; it goes when nobody uses it any more", dir))
		}
		select {
		case <-gone:
			return nil
		case <-time.After(unmountTry):
		}
	}
}

// An Error says that the file system could not be mounted at Dir.
type Error struct {
	Dir string
	Err error
}

func (e *Error) Error() string { return fmt.Sprintf("mounting at %s: %v", e.Dir, e.Err) }
func (e *Error) Unwrap() error { return e.Err }

// failed tells of what could not be read, and returns what the kernel is told.
func (f *filesystem) failed(path string, err error) syscall.Errno {
	if errors.Is(err, context.Canceled) {
		return syscall.EINTR
	}
	f.trouble(fmt.Errorf("reading %q: %w", path, err))
	return syscall.EIO
}
