package storagetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/whole-tale/wtsnap/repo/storage"
)

// Rule is asked before every operation that changes something; before is what is
// stored at that moment. It returns why the operation breaks the repository's
// order ("an index names a pack that is not there"), or nil. It must not change
// before, and it must not assume that the operation will succeed.
type Rule func(ctx context.Context, before storage.Storage, op Op) error

// Folders are the names that a repository uses; config is the one object outside them.
var Folders = []string{
	"keys/", "packs/", "index/", "snapshots/", "forgotten/", "annotations/",
	"condemned/", "leases/", "ledger/",
}

// Referee fails the test when a rule is broken. Two rules are always on: an
// object never changes its content, and names lie in Folders. The operation is
// carried out all the same.
type Referee struct {
	storage.Storage
	t     testing.TB
	rules []Rule

	mu   sync.Mutex
	seen int // operations judged
}

// NewReferee returns a referee around st. It fails the test at its end if it had
// nothing to judge, so that no test passes vacuously.
func NewReferee(t testing.TB, st storage.Storage, rules ...Rule) *Referee {
	t.Helper()
	r := newReferee(t, st, rules...)
	t.Cleanup(func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.seen == 0 {
			t.Error("referee: no operation changed anything")
		}
	})
	return r
}

func newReferee(t testing.TB, st storage.Storage, rules ...Rule) *Referee {
	r := &Referee{Storage: st, t: t}
	r.rules = append([]Rule{KnownName, Immutable}, rules...)
	return r
}

// Put judges, then stores.
func (r *Referee) Put(ctx context.Context, name string, data []byte) (storage.Info, error) {
	r.t.Helper()
	r.judge(ctx, Op{Put, name, data})
	return r.Storage.Put(ctx, name, data)
}

// Delete judges, then deletes.
func (r *Referee) Delete(ctx context.Context, name string) error {
	r.t.Helper()
	r.judge(ctx, Op{Delete, name, nil})
	return r.Storage.Delete(ctx, name)
}

func (r *Referee) judge(ctx context.Context, op Op) {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen++
	ctx = context.WithoutCancel(ctx)
	for _, rule := range r.rules {
		if err := rule(ctx, r.Storage, op); err != nil {
			r.t.Errorf("referee: %v: %v", op, err)
		}
	}
}

// KnownName is the rule that names are "config" or lie in Folders.
func KnownName(_ context.Context, _ storage.Storage, op Op) error {
	if op.Name == "config" {
		return nil
	}
	for _, folder := range Folders {
		if strings.HasPrefix(op.Name, folder) {
			return nil
		}
	}
	return errors.New("no such folder in a repository")
}

// Immutable is the rule that an object never changes its content.
func Immutable(ctx context.Context, before storage.Storage, op Op) error {
	if op.Kind != Put {
		return nil
	}
	old, err := before.Get(ctx, op.Name, 0, -1, nil)
	if errors.Is(err, storage.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading the object that is there: %w", err)
	}
	if !bytes.Equal(old, op.Data) {
		return fmt.Errorf("replaces different content (%d bytes)", len(old))
	}
	return nil
}
