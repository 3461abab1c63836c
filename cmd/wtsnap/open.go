package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/whole-tale/wtsnap/cmd/wtsnap/pages"
	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/repo/storage"
	"github.com/whole-tale/wtsnap/repo/storage/cache"
	"github.com/whole-tale/wtsnap/repo/storage/count"
	"github.com/whole-tale/wtsnap/repo/storage/limit"
	"github.com/whole-tale/wtsnap/repo/storage/local"
	"github.com/whole-tale/wtsnap/repo/storage/rclone"
	"github.com/whole-tale/wtsnap/repo/storage/retry"
)

// folderRetry is how long operations in a folder of this machine are tried again: a disk does not come back as a network
// does, but a network file system may.
const folderRetry = 20 * time.Second

// isFolder reports whether a repository's place is a folder of this machine. Everything with a colon is rclone's, unless
// a slash stands before it: ./a:b is a folder.
func isFolder(spec string) bool {
	head, _, colon := strings.Cut(spec, ":")
	return !colon || strings.Contains(head, "/")
}

// backend is where a repository lies, with what is wrapped around it.
type backend struct {
	storage.Storage                 // counted, bounded, repeated
	cached          storage.Storage // the same behind the local cache; nil where there is none
	frames          repo.FrameCache // bases of deltas; nil where there is no cache
	counts          *count.Storage
	remote          *rclone.Storage // nil: a folder
}

// close ends connections.
func (b *backend) close(ctx context.Context) {
	if b.remote != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		_ = b.remote.Close(ctx) // everything was confirmed before
	}
}

// How long nothing may move before a request counts as failed: as long as --retry-for, within these bounds. rclone tries
// some failures again by itself, in which nothing moves either.
const (
	longestStall  = 3 * time.Minute
	shortestStall = 10 * time.Second
)

// openBackend opens the place of the repository.
func (a *app) openBackend() (*backend, error) {
	spec, err := a.g.spec()
	if err != nil {
		return nil, err
	}
	a.backend, err = a.openPlace(spec, a.g.rcloneConfig)
	return a.backend, err
}

// openPlace composes backend, count, retry, limit and cache, from the inside out.
func (a *app) openPlace(spec, rcloneConfig string) (b *backend, err error) {
	b = &backend{}
	retries := retry.Options{Total: a.g.retryFor.Duration(), Notify: a.retrying}
	if !a.g.retrySet {
		retries.Total = 0 // the default of package retry
	} else if retries.Total == 0 {
		retries.Total = 1 // not at all
	}
	if a.g.retrySet && a.g.retryFor.Duration() > 0 { // who does not want to wait long does not want to wait for silence either
		retries.Stall = min(longestStall, max(retries.Total, shortestStall))
	}
	var st storage.Storage
	if isFolder(spec) {
		if st, err = local.Open(spec); err != nil {
			return nil, err
		}
		if !a.g.retrySet {
			retries.Total = folderRetry
		}
	} else {
		b.remote, err = rclone.Open(a.ctx, spec, rclone.Options{ConfigPath: rcloneConfig, Warn: a.warn, Log: a.rcloneLog})
		if err != nil {
			return nil, err
		}
		st = b.remote
	}
	b.counts = count.New(st)
	st = retry.New(b.counts, retries)
	if a.g.bandwidth.Limited() || a.g.connections > 0 {
		st = limit.New(st, limit.Options{Bandwidth: a.g.bandwidth, Connections: a.g.connections})
	}
	b.Storage = st
	if b.remote != nil && a.g.cacheDir != "" {
		dir := cacheOf(a.g.cacheDir, spec)
		most := a.g.cacheBytes()
		b.cached = cache.New(st, cache.Options{Dir: dir, Most: most / 2,
			Prefixes: []string{"index/", "snapshots/", "forgotten/", "annotations/", "ledger/", "packs/"}})
		b.frames = cache.NewFrames(dir+".frames", most/2)
	}
	return b, nil
}

// cacheOf returns the folder of a repository's cache; that of frames lies beside it.
func cacheOf(base, spec string) string {
	sum := sha256.Sum256([]byte(spec)) // a connection string may hold a password: no name of a folder
	return filepath.Join(base, hex.EncodeToString(sum[:12]))
}

// retrying tells of a request that failed and is tried again, where the wait is long enough to be noticed.
func (a *app) retrying(op, name string, err error, wait time.Duration) {
	if a.g.verbose || wait >= 5*time.Second {
		a.note(fmt.Sprintf("%s: trying again in %s: %v", op+" "+name, took(wait), err))
	}
}

func (a *app) rcloneLog(level, text string) {
	if a.g.verbose && level != "DEBUG" {
		a.note("rclone: " + text)
	}
}

// openRepo opens the repository. From then on the garbage collector keeps to --memory.
func (a *app) openRepo() (*repo.Repository, error) {
	if a.g.memory > 0 {
		debug.SetMemoryLimit(a.g.memory)
	}
	b, err := a.openBackend()
	if err != nil {
		return nil, fmt.Errorf("opening the repository: %w", err)
	}
	password, ask, err := a.opener(a.ctx)
	if err != nil {
		return nil, err
	}
	r, err := a.openAt(b, a.g.repo, password, ask)
	if n := len(a.watched); err == nil && n > 0 {
		a.own = a.watched[n-1]
	}
	return r, err
}

// openAt opens the repository that lies in a place, by a password or by what asks for one.
func (a *app) openAt(b *backend, spec string, password []byte, ask asker) (*repo.Repository, error) {
	r, err := repo.Open(a.ctx, b.Storage, repo.OpenOptions{Password: password, Ask: ask, Cached: b.cached, Frames: b.frames, Near: b.remote == nil,
		OnDamage: a.damaged})
	if err != nil {
		err = fmt.Errorf("opening the repository %s: %w", shownRepo(spec), err)
		if errors.Is(err, repo.ErrNoRepository) && a.isRemote(spec) {
			return nil, &statusError{exitNoRepository, err.Error(), "-r " + spec + ":PATH, if the remote " + spec + " of rclone is meant; without a colon it is a folder", err}
		}
		return nil, err
	}
	a.watch(r, spec)
	_ = pages.Unmap()    // where that fails, they stay
	debug.FreeOSMemory() // a password's key derivation took 64 MiB, which nothing needs any more
	return r, nil
}

// isRemote reports whether rclone has a remote of a folder's name.
func (a *app) isRemote(spec string) bool {
	if !isFolder(spec) || strings.Contains(spec, "/") {
		return false
	}
	remotes, _ := rclone.Remotes(rclone.Options{ConfigPath: a.g.rcloneConfig})
	return slices.ContainsFunc(remotes, func(r rclone.Remote) bool { return r.Name == spec })
}

// damaged warns of damage that stops nothing, once.
func (a *app) damaged(e *repo.DamageError) {
	a.mu.Lock()
	known := slices.ContainsFunc(a.damages, func(d *repo.DamageError) bool { return d.Object == e.Object })
	if !known {
		a.damages = append(a.damages, e)
	}
	a.mu.Unlock()
	if !known {
		text := e.Error()
		if e.Hint != "" {
			text += "\n  try: " + e.Hint
		}
		a.warn(text)
	}
}

// noteDamage is the error that a command ends with which has done its work, but for notes that cannot be read.
func (a *app) noteDamage(verb string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.damages) == 0 {
		return nil
	}
	return &statusError{exitDamage, verb + ": " + plural(len(a.damages), "note", "notes") + " of snapshots cannot be read", "what is said above", nil}
}
