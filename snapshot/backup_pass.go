package snapshot

import (
	"cmp"
	"context"
	"math"
	"slices"
	"sync/atomic"
)

// A run that may be stopped saves what is most valuable first: databases, other streams, then the small files of all
// folders, then larger ones, the largest last. It walks the folders several times for that: each pass puts files off that
// are larger than its limit and that no parent has. Where it has put files off, what it saved becomes the parent of the
// next pass, as checkpoints are of the next run, and folders in which nothing was put off are taken from it as they are.
// So nothing has to be remembered meanwhile, however many files there are.
var passLimits = []int64{16 << 20, 1 << 30, math.MaxInt64}

// later counts the files that a pass puts off.
type later struct{ files, bytes atomic.Int64 }

// limits are the largest files of each pass.
func (o *BackupOptions) limits() []int64 {
	if o.bounded() {
		return passLimits
	}
	return passLimits[len(passLimits)-1:]
}

// rank says what is saved first, among sources whose labels come in any order.
func (o *BackupOptions) rank(s *SourceSpec) int {
	switch {
	case s.Kind == SourceMongo:
		return 0
	case o.bounded() && (s.Stream != nil || s.Kind != SourceFolder): // who writes into a pipe should not have to wait
		return 1
	}
	return 2
}

// byRank returns the sources in the order in which they are saved.
func (o *BackupOptions) byRank(sources []*backupSource) []*backupSource {
	sorted := slices.Clone(sources)
	slices.SortStableFunc(sorted, func(a, b *backupSource) int { return cmp.Compare(o.rank(a.spec), o.rank(b.spec)) })
	return sorted
}

// passes saves the sources, in as many passes as it takes.
func (b *backup) passes(ctx, store context.Context, sources []*backupSource) error {
	if b.late() { // finding the parents took its time
		return context.Cause(ctx)
	}
	for pass, limit := range b.o.limits() {
		if pass > 0 {
			// The pages of the pass before are read in this one.
			if _, err := b.checkpoint(store); err != nil {
				return err
			}
		}
		var left []*backupSource
		for _, s := range sources {
			s.limit = limit
			if pass == 0 {
				b.begin(s)
			}
			if err := b.save(ctx, s); err != nil {
				return err
			}
			if !s.finished {
				left = append(left, s)
			}
		}
		if sources = left; len(sources) == 0 {
			return nil
		}
	}
	return nil
}

// putOff notes what a pass of a source has saved, where it lacks files that were put off.
func (b *backup) putOff(s *backupSource, n *Node) {
	c := *n
	s.past = &parentSnap{snap: &Snapshot{Manifest: &Manifest{Checkpoint: true}}, node: &c,
		recent: s.began.Add(-raceMargin).UnixNano(), pass: true}
	b.gate.RLock()
	b.root.mu.Lock()
	s.place.part = storedFolder{&c}
	b.root.mu.Unlock()
	b.gate.RUnlock()
}

// A storedFolder is what a pass has saved.
type storedFolder struct{ node *Node }

func (f storedFolder) partial(context.Context) (*Node, error) { return f.node, nil }

// rest adds to a folder's pages what the pass before has after the last entry of this one.
func (f *openFolder) rest(ctx context.Context, c *FolderBuilder) (size int64, err error) {
	if f.before == nil {
		return 0, nil
	}
	last := c.last
	for n, err := range FolderNodes(ctx, f.b.load, f.before.Subtree) {
		if err != nil {
			return size, err
		}
		if n.Name <= last {
			continue
		}
		if err := c.Add(n); err != nil {
			return size, err
		}
		size += n.Size * countedSize(n.Type)
	}
	return size, nil
}

// lacking marks a folder, and those that it lies in, as one of which something was put off.
func (f *openFolder) lacking() {
	for ; f != nil && f.src != nil; f = f.up {
		f.b.gate.RLock()
		f.mu.Lock()
		known := f.lacks
		f.lacks = true
		f.node.Flags |= FlagPartial
		f.mu.Unlock()
		f.b.gate.RUnlock()
		if known {
			return
		}
	}
}

// putsOff reports whether a file is left to a later pass.
func (w *walker) putsOff(ctx context.Context, t *fileTask, old *past) bool {
	s := w.f.src
	if t.meta.Size <= s.limit {
		return false
	}
	if n, err := w.known(ctx, t, old); n != nil || err != nil {
		return false
	}
	s.later.files.Add(1)
	s.later.bytes.Add(t.meta.Size)
	w.f.lacking()
	return true
}
