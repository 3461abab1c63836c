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

// Recoverable says of which times a state can be made from what a capture has, given all snapshots of its instance: in each
// stretch of it, from the end of the first dump on that ends there. waiting are stretches that no dump ends in, which are of
// no use without one.
func (m *MongoInfo) Recoverable(snaps []*Snapshot) (spans, waiting []MongoSpan) {
	for _, span := range m.Spans {
		var first Timestamp
		for _, s := range snaps {
			for _, src := range s.Sources {
				d := src.Mongo
				if !s.Complete || d == nil || d.Role != MongoDump || d.Consistency == MongoNone || d.End.IsZero() || !m.SameSet(d) {
					continue
				}
				if d.End.Compare(span.From) >= 0 && d.End.Compare(span.To) <= 0 && (first.IsZero() || d.End.Compare(first) < 0) {
					first = d.End
				}
			}
		}
		if first.IsZero() {
			waiting = append(waiting, span)
		} else {
			spans = append(spans, MongoSpan{first, span.To})
		}
	}
	return spans, waiting
}

// SameSet reports whether two sources may be of one replica set: an unknown one may be any.
func (m *MongoInfo) SameSet(o *MongoInfo) bool {
	return m == nil || o == nil || m.Set == "" || o.Set == "" || m.Set == o.Set
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
