package snapshot

import (
	"context"
	"slices"
	"strings"

	"github.com/whole-tale/wtsnap/repo"
)

// HoldsOplog reports whether a snapshot is nothing but what was captured of an oplog. There is one for each instance and
// label, and each capture replaces the one before: it is no backup of its own, and never the newest snapshot of anything.
func (m *Manifest) HoldsOplog() bool {
	return len(m.Sources) > 0 && !slices.ContainsFunc(m.Sources, func(s Source) bool { return s.Mongo == nil || s.Mongo.Role != MongoOplog })
}

// A MongoSpan is a stretch of time.
type MongoSpan struct {
	From Timestamp `json:"from"`
	To   Timestamp `json:"to"`
}

// Keep adds a file as the newest finished parent has it, without reading it. It returns false where the parent does not
// have it, or something of its content is not in the repository.
func (k *Sink) Keep(ctx context.Context, path string) (bool, error) {
	names, err := splitPath(path)
	if err != nil || len(names) == 0 {
		return false, err
	}
	k.b.gate.RLock()
	old := k.past(ctx, strings.Join(names, "/"))
	ok := old != nil && old.IsFile() && useContent(ctx, k.b.s, k.b.load, old)
	k.b.gate.RUnlock()
	if !ok {
		return false, context.Cause(ctx)
	}
	m := &memNode{node: *old, old: old}
	m.node.Nlink, m.node.Ino, m.node.Dev = 1, 0, 0
	k.insert(path, names, m)
	k.b.o.Progress.Files.Add(1)
	k.b.o.Progress.Bytes.Add(old.Size)
	return true, context.Cause(ctx)
}

// replaced are the snapshots that a new one takes the place of.
func (o *BackupOptions) replaced() (refs []repo.SnapshotRef) {
	for _, s := range o.Replaces {
		refs = append(refs, s.Ref)
	}
	return refs
}
