package repo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"time"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/index"
	"github.com/whole-tale/wtsnap/repo/storage"
)

const (
	// DefaultGrace is the least time between condemning a pack and removing it: a nightly prune frees
	// what the night before condemned, and no restore runs for that long on an old index.
	DefaultGrace = 20 * time.Hour
	// MinGrace is the shortest grace but for 0, which says that nobody else is active.
	MinGrace = time.Hour
	// DefaultMaxUnused is the share of unused bytes, in percent, that prune leaves where it is.
	DefaultMaxUnused = 5
	// smallPack is the size below which packs are worth merging, and mergePacks how many it takes.
	smallPack  = packBytes / 4
	mergePacks = 12
)

// References calls visit for every blob that a snapshot refers to, trees and data alike, with the ids
// of trees before what they hold. Where visit returns false the blob was visited before, and what a
// tree holds need not be visited again. It is called for one snapshot at a time; it may call visit
// concurrently. An error means that what the snapshot refers to is not fully known.
type References func(ctx context.Context, manifest []byte, visit func(kind index.Kind, id chunk.ID) bool) error

// PruneOptions are the options of PlanPrune.
type PruneOptions struct {
	References References
	// MaxUnused is the share of unused bytes, in percent of the used ones, that may stay. Negative means
	// DefaultMaxUnused.
	MaxUnused float64
	// MaxRepack bounds the bytes that are rewritten; 0 means no bound.
	MaxRepack int64
	// MaxPacks bounds the packs that are rewritten, and those that are removed: each costs calls, and some backends count
	// these. What is left is for a later prune. 0 means no bound, and so does a Grace of 0.
	MaxPacks int
	// Grace is the least time between condemning and removing; 0 means that nobody else is active, and
	// that everything is removed at once.
	Grace time.Duration
	// Until is when nothing more is to be rewritten: what is not done by then is left to a later prune. Zero: no such time.
	Until time.Time
	Level chunk.Level
}

// PrunePlan says what a prune would do. It is made without changing anything but the prune's lease.
type PrunePlan struct {
	Snapshots   int
	Used        PackTotals // packs that stay as they are
	Repack      PackTotals // packs whose used blobs are written anew, and which are then condemned
	Condemn     PackTotals // packs without a used blob
	Orphans     PackTotals // packs that no index lists
	Sweep       PackTotals // packs condemned before, removed now
	Later       PackTotals // packs condemned before, removed by a later prune
	Absolved    int        // packs condemned before that are in use again
	RepackBytes int64      // bytes that repacking writes, about
	UnusedLeft  int64      // unused bytes that stay in packs that stay
	Forgotten   int        // forgotten snapshots that can't be brought back any more after this
	NextSweep   time.Time  // from when on what is condemned now can be removed

	r       *Repository
	o       PruneOptions
	start   time.Time // before the leases were read
	lease   *lease
	index   *index.Index
	stored  map[index.PackID]int64    // sizes of packs that are there
	used    *index.Set[index.BlobRef] // one copy of each blob
	keep    []index.PackID
	repack  []index.PackRef
	condemn []index.PackID // unused and orphans
	sweep   []sweepList
	later   []condemnedList
	merge   []index.SegmentID // to be merged
	end     index.BlobRef     // of what the plan knows; a session of this process may add to the index
	dead    []string          // leases that are dead, and condemned lists that can't be read: names
}

// PackTotals counts packs.
type PackTotals struct {
	Packs int   `json:"packs"`
	Bytes int64 `json:"bytes"`
}

func (t *PackTotals) add(bytes int64) { t.Packs++; t.Bytes += bytes }

// sweepList is a condemned list that can be acted on.
type sweepList struct {
	condemnedList
	remove []index.PackID // those that nothing needs
	partly bool           // there are more: the list stays
}

// PruneReport says what a prune did.
type PruneReport struct {
	Kept, Repacked, Condemned, Deleted PackTotals
	Rewritten                          int64 // bytes that repacking stored
	UnusedLeft                         int64
	NextSweep                          time.Time // zero: nothing is left to remove
}

// PlanPrune takes the prune's lease and finds out what can be removed. ErrBusy: another prune is at
// work. The plan must be closed; Execute may be called once before.
func (r *Repository) PlanPrune(ctx context.Context, o PruneOptions) (p *PrunePlan, err error) {
	if o.MaxUnused < 0 {
		o.MaxUnused = DefaultMaxUnused
	}
	if o.Grace != 0 && o.Grace < MinGrace {
		return nil, fmt.Errorf("a grace time of %s is too short: at least %s, or 0 if nobody else uses the repository", o.Grace, MinGrace)
	}
	l, err := r.newLease(ctx, leasePrune)
	if err != nil {
		return nil, err
	}
	p = &PrunePlan{r: r, o: o, lease: l}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.Close(context.WithoutCancel(ctx)))
			p = nil
		}
	}()
	p.start = time.Now()
	// Lists before leases: a writer that has no lease yet when the leases are read will read all of these lists before it
	// relies on anything. Leases before snapshots: a writer whose lease is gone by now has stored its manifest.
	lists, damaged, err := r.condemnedAndDamaged(ctx)
	if err != nil {
		return p, err
	}
	leases, err := r.leases(ctx)
	if err != nil {
		return p, err
	}
	if err := busy(leases, l.ID); err != nil {
		return p, err
	}
	for _, other := range leases {
		if other.dead() {
			p.dead = append(p.dead, other.names...)
		}
	}
	for _, d := range damaged {
		p.dead = append(p.dead, d.Name) // nobody can act on it; what it named is found again
	}
	if err := p.mark(ctx, lists); err != nil {
		return p, err
	}
	if err := p.choose(ctx, leases, lists); err != nil {
		return p, err
	}
	doomed, err := p.doomed(ctx, p.goneBySweep())
	p.Forgotten = len(doomed)
	return p, err
}

// Close gives up the prune's lease.
func (p *PrunePlan) Close(ctx context.Context) error { return p.lease.remove(ctx) }

// mark finds one copy of every blob that the snapshots reach, and of the bases that these need. The index
// is loaded after the snapshots are listed: it has all that these need, whoever commits meanwhile.
func (p *PrunePlan) mark(ctx context.Context, lists []condemnedList) error {
	refs, err := p.r.Snapshots(ctx)
	if err != nil {
		return err
	}
	p.stored = map[index.PackID]int64{}
	err = p.r.st.List(ctx, packsDir, func(i storage.Info) error {
		if id, err := index.ParsePackID(path.Base(i.Name)); err == nil {
			p.stored[id] = i.Size
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("listing packs: %w", err)
	}
	if err := p.r.LoadIndex(ctx); err != nil {
		return err
	}
	p.index = p.r.Index()
	p.Snapshots = len(refs)
	m := newMarker(p.index, nil)
	m.prefer(p.stored, lists)
	p.used, p.end = m.used, m.end
	return p.r.eachManifest(ctx, refs, func(ref SnapshotRef, data []byte, err error) error {
		if errors.Is(err, storage.ErrNotExist) {
			return nil // forgotten meanwhile
		}
		if err != nil {
			return fmt.Errorf("snapshot %s: %w", ref.ID.Short(), err)
		}
		if err := p.o.References(ctx, data, m.visit); err != nil {
			return fmt.Errorf("snapshot %s: finding out what it needs: %w; nothing is removed while that is unknown "+
				"(wtsnap check says more)", ref.ID.Short(), err)
		}
		if err := m.err(); err != nil {
			return fmt.Errorf("snapshot %s: %w; nothing is removed while it is incomplete", ref.ID.Short(), err)
		}
		return nil
	})
}

// choose decides for each pack.
func (p *PrunePlan) choose(ctx context.Context, leases []leaseRecord, lists []condemnedList) error {
	condemned := p.chooseLists(leases, lists, p.stored)
	stored := p.stored // what is not listed is left in it

	type candidate struct {
		ref          index.PackRef
		id           index.PackID
		used, unused int64
		small        bool
	}
	var candidates []candidate
	var used, unused int64
	for ref, info := range p.index.Packs() {
		if condemned[info.ID] {
			delete(stored, info.ID)
			continue
		}
		delete(stored, info.ID)
		if info.FirstBlob >= p.end {
			continue
		}
		u := p.usedBytes(ref)
		if u == 0 {
			p.Condemn.add(info.Size)
			p.condemn = append(p.condemn, info.ID)
			continue
		}
		// Directory and padding are no waste: a new pack would have as much.
		c := candidate{ref, info.ID, u, max(int64(info.DataSize)-u, 0), info.Size < smallPack}
		used += u
		unused += c.unused
		candidates = append(candidates, c)
	}
	// The packs with the most waste first: the most bytes freed for each that is rewritten.
	slices.SortFunc(candidates, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(b.unused*a.used, a.unused*b.used), slices.Compare(a.id[:], b.id[:]))
	})
	allowed := int64(p.o.MaxUnused / 100 * float64(used))
	small := map[index.Kind]int{}
	for _, c := range candidates {
		if c.small {
			small[p.index.Pack(c.ref).Kind]++
		}
	}
	p.UnusedLeft = unused
	for _, c := range candidates {
		info := p.index.Pack(c.ref)
		wasteful := c.unused > 0 && p.UnusedLeft > allowed
		mergeable := c.small && small[info.Kind] >= mergePacks
		fits := (p.o.MaxRepack == 0 || p.RepackBytes+c.used <= p.o.MaxRepack) && p.below(len(p.repack))
		if (wasteful || mergeable) && fits {
			p.Repack.add(info.Size)
			p.repack = append(p.repack, c.ref)
			p.RepackBytes += c.used
			p.UnusedLeft -= c.unused
			continue
		}
		p.Used.add(info.Size)
		p.keep = append(p.keep, c.id)
	}
	slices.Sort(p.repack) // in their order in the repository: locality survives
	writing := p.o.Grace > 0 && slices.ContainsFunc(leases, func(l leaseRecord) bool { return l.Kind == leaseWriter && !l.dead() })
	for id, size := range stored {
		if condemned[id] || writing { // a writer is at work: what no index lists is mostly its own
			continue
		}
		p.Orphans.add(size)
		p.condemn = append(p.condemn, id)
	}
	slices.SortFunc(p.condemn, func(a, b index.PackID) int { return slices.Compare(a[:], b[:]) })
	if len(p.index.Segments()) > mergeSegments {
		sizes, err := p.r.segmentSizes(ctx)
		if err != nil {
			return err
		}
		p.merge = chooseMerge(sizes)
	}
	p.NextSweep = time.Now().Add(p.o.Grace)
	return nil
}

// goneBySweep returns the packs that Execute will remove, as far as the plan knows.
func (p *PrunePlan) goneBySweep() map[index.PackID]bool {
	gone := map[index.PackID]bool{}
	for _, list := range p.sweep {
		for _, id := range list.remove {
			gone[id] = true
		}
	}
	if p.o.Grace == 0 {
		for _, id := range p.condemn {
			gone[id] = true
		}
		for _, ref := range p.repack {
			gone[p.index.Pack(ref).ID] = true
		}
	}
	return gone
}

// chooseLists decides which condemned lists can be acted on, and returns the packs of all of them that
// nothing needs. Packs that are needed again are absolved: they count as any other.
func (p *PrunePlan) chooseLists(leases []leaseRecord, lists []condemnedList, stored map[index.PackID]int64) map[index.PackID]bool {
	condemned := map[index.PackID]bool{}
	for _, list := range lists {
		ready := p.start.Sub(list.Time) >= p.o.Grace
		for _, l := range leases {
			if p.o.Grace > 0 && l.Kind == leaseWriter && !l.dead() && !slices.Contains(l.Seen, list.ID) {
				ready = false
			}
		}
		needed := func(id index.PackID) bool {
			ref, ok := p.index.FindPack(id)
			return ok && p.usedBytes(ref) > 0
		}
		if list.Damaged && slices.ContainsFunc(list.packs, needed) {
			ready = false // no backup has healed it yet
		}
		s := sweepList{condemnedList: list}
		for _, id := range list.packs {
			if !list.Damaged && needed(id) {
				p.Absolved++
				continue
			}
			if condemned[id] {
				continue // an older list has it
			}
			condemned[id] = true
			_, indexed := p.index.FindPack(id)
			_, there := stored[id]
			switch {
			case !indexed && !there: // an earlier prune has removed it
			case ready && p.below(p.Sweep.Packs):
				s.remove = append(s.remove, id)
				p.Sweep.add(stored[id])
			default:
				s.partly = true
				p.Later.add(stored[id])
			}
		}
		if ready {
			p.sweep = append(p.sweep, s)
		} else {
			p.later = append(p.later, list)
		}
	}
	return condemned
}

// below reports whether n packs leave room for one more.
func (p *PrunePlan) below(n int) bool { return p.o.MaxPacks == 0 || p.o.Grace == 0 || n < p.o.MaxPacks }

// usedBytes sums the sealed bytes of a pack's frames that hold a used blob, each in proportion.
func (p *PrunePlan) usedBytes(ref index.PackRef) int64 {
	var sum int64
	blob := p.index.Pack(ref).FirstBlob
	for _, f := range p.index.Frames(ref) {
		var used, all int64
		for _, b := range f.Blobs {
			all += int64(b.Size) + 1
			if p.used.Has(blob) {
				used += int64(b.Size) + 1
			}
			blob++
		}
		sum += (int64(f.Length)*used + all - 1) / all
	}
	return sum
}

// Execute does what the plan says: repack, condemn, sweep, in an order in which an interruption at any
// point leaves nothing but waste.
func (p *PrunePlan) Execute(ctx context.Context) (*PruneReport, error) {
	rep := &PruneReport{}
	condemn := slices.Clone(p.condemn)
	if len(p.repack) > 0 {
		stored, err := p.rewrite(ctx)
		if err != nil {
			return rep, err
		}
		rep.Rewritten = stored
		for _, ref := range p.repack {
			condemn = append(condemn, p.index.Pack(ref).ID)
		}
	}
	rep.Kept, rep.Repacked, rep.UnusedLeft = p.Used, p.Repack, p.UnusedLeft
	if err := p.lease.check(); err != nil {
		return rep, err
	}
	if len(condemn) > 0 {
		list, err := p.r.putCondemned(ctx, condemn, false)
		if err != nil {
			return rep, err
		}
		rep.Condemned = PackTotals{len(condemn), p.Condemn.Bytes + p.Orphans.Bytes + p.Repack.Bytes}
		if p.o.Grace == 0 {
			p.sweep = append(p.sweep, sweepList{condemnedList: list, remove: list.packs})
			p.Sweep.Packs += rep.Condemned.Packs
			p.Sweep.Bytes += rep.Condemned.Bytes
		} else {
			rep.NextSweep = p.NextSweep
		}
	}
	if len(p.later) > 0 && rep.NextSweep.IsZero() {
		rep.NextSweep = p.NextSweep
	}
	if rep.NextSweep.IsZero() && slices.ContainsFunc(p.sweep, func(l sweepList) bool { return l.partly }) {
		rep.NextSweep = p.start // the next one may go on at once
	}
	if err := p.doSweep(ctx); err != nil {
		return rep, err
	}
	for _, name := range p.dead {
		if err := p.remove(ctx, name); err != nil {
			return rep, err
		}
	}
	rep.Deleted = p.Sweep
	return rep, nil
}
