package repo

import (
	"context"
	"strings"
	"sync"

	"github.com/whole-tale/wtsnap/repo/storage"
)

// hangOnce lets the first Get of a pack hang until its context ends.
type hangOnce struct {
	storage.Storage
	once    sync.Once
	started chan struct{}
}

func (h *hangOnce) Get(ctx context.Context, name string, offset, length int64, dst []byte) ([]byte, error) {
	first := false
	if strings.HasPrefix(name, packsDir) {
		h.once.Do(func() { first = true })
	}
	if first {
		close(h.started)
		<-ctx.Done()
		return dst[:0], &storage.Error{Op: "get", Name: name, Err: ctx.Err()}
	}
	return h.Storage.Get(ctx, name, offset, length, dst)
}

// hooked calls before and after functions around operations that change something or read.
type hooked struct {
	storage.Storage
	before func(kind, name string)
	after  func(kind, name string)
}

func (h *hooked) run(kind, name string, f func()) {
	if h.before != nil {
		h.before(kind, name)
	}
	f()
	if h.after != nil {
		h.after(kind, name)
	}
}

func (h *hooked) Put(ctx context.Context, name string, data []byte) (i storage.Info, err error) {
	h.run("put", name, func() { i, err = h.Storage.Put(ctx, name, data) })
	return i, err
}

func (h *hooked) Get(ctx context.Context, name string, offset, length int64, dst []byte) (out []byte, err error) {
	h.run("get", name, func() { out, err = h.Storage.Get(ctx, name, offset, length, dst) })
	return out, err
}

func (h *hooked) List(ctx context.Context, prefix string, fn func(storage.Info) error) (err error) {
	h.run("list", prefix, func() { err = h.Storage.List(ctx, prefix, fn) })
	return err
}

func (h *hooked) Delete(ctx context.Context, name string) (err error) {
	h.run("delete", name, func() { err = h.Storage.Delete(ctx, name) })
	return err
}
