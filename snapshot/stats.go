package snapshot

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/index"
	"github.com/whole-tale/wtsnap/repo"
)

// Stats say how much a repository holds, and what it takes to hold it. Sizes are bytes.
type Stats struct {
	Instances []InstanceStats `json:"instances"` // by name
	Snapshots int             `json:"snapshots"`
	Files     int64           `json:"files"`   // of all snapshots, each counted in each
	Logical   int64           `json:"logical"` // what restoring all snapshots would write
	Packs     PackStats       `json:"packs"`
	Blobs     BlobStats       `json:"blobs"`
	// Stored is what the packs take. Of it, Unused is in frames, or shares of frames, that no snapshot needs; a prune
	// can free it, and Condemned is on its way out.
	Stored    int64 `json:"stored"`
	Unused    int64 `json:"unused"`
	Condemned int64 `json:"condemned"`
	// Dedup is Logical by the size of the blobs that snapshots need: 10 means that each byte is kept once for ten times
	// that it was saved. Compression is the size of all blobs by what their packs take. 0 where there is nothing.
	Dedup       float64 `json:"dedup_ratio"`
	Compression float64 `json:"compression_ratio"`
}

// InstanceStats are those of one instance.
type InstanceStats struct {
	Instance  string    `json:"instance"`
	Snapshots int       `json:"snapshots"`
	Complete  int       `json:"complete"`
	Oldest    time.Time `json:"oldest"`
	Newest    time.Time `json:"newest"`
	Files     int64     `json:"files"`   // of the newest snapshot
	Bytes     int64     `json:"bytes"`   // of the newest snapshot
	Logical   int64     `json:"logical"` // of all snapshots
}

// PackStats count packs by what they hold.
type PackStats struct {
	Data  repo.PackTotals `json:"data"`
	Trees repo.PackTotals `json:"trees"`
}

// BlobStats count blobs, each once.
type BlobStats struct {
	Count     int64 `json:"count"`
	Bytes     int64 `json:"bytes"` // plaintext
	UsedCount int64 `json:"used_count"`
	UsedBytes int64 `json:"used_bytes"` // plaintext of those that a snapshot needs, bases of deltas included
	Deltas    int64 `json:"deltas"`     // blobs that are stored as differences
	// DeltaBytes is their plaintext, DeltaStored what it takes, and DeltaSaved about how much more it would take had they
	// been stored whole and compressed like the blobs that are.
	DeltaBytes  int64 `json:"delta_bytes"`
	DeltaStored int64 `json:"delta_stored"`
	DeltaSaved  int64 `json:"delta_saved"`
}

// GatherStats reads the index and every folder of every snapshot, each folder once. Snapshots that cannot be read to
// their end are named by the error, which comes beside the rest; what only they need then counts as unused.
func GatherStats(ctx context.Context, r *repo.Repository) (*Stats, error) {
	if err := r.LoadIndex(ctx); err != nil {
		return nil, err
	}
	snaps, bad := List(ctx, r, Filter{})
	if snaps == nil && bad != nil {
		return nil, bad
	}
	st := &Stats{Snapshots: len(snaps)}
	st.addInstances(snaps)
	x := r.Index()
	used := index.NewSet[index.BlobRef](x.Len())
	references := References(TreeLoader(r))
	visit := func(_ index.Kind, id chunk.ID) bool { return useBlob(x, used, index.KeyOf(id)) }
	for _, s := range snaps {
		payload, err := EncodeManifest(s.Manifest)
		if err == nil {
			err = references(ctx, payload, visit)
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil && bad == nil {
			bad = fmt.Errorf("snapshot %s: %w", s.Ref.ID.Short(), err)
		}
	}
	st.addPacks(x, used)
	return st, bad
}

// useBlob marks a blob and the bases it needs, and reports whether it was new.
func useBlob(x *index.Index, used *index.Set[index.BlobRef], key index.Key) bool {
	loc, ok := x.Lookup(key)
	if !ok {
		return true
	}
	if !used.Add(loc.Ordinal) {
		return false
	}
	for _, base := range loc.Bases {
		useBlob(x, used, base)
	}
	return true
}

func (st *Stats) addInstances(snaps []*Snapshot) {
	byName := map[string]*InstanceStats{}
	for _, s := range snaps { // oldest first
		i, ok := byName[s.Instance]
		if !ok {
			i = &InstanceStats{Instance: s.Instance, Oldest: s.Time}
			byName[s.Instance] = i
		}
		i.Snapshots++
		if s.Complete && !s.Checkpoint && !s.HoldsOplog() {
			i.Complete++
		}
		i.Newest, i.Files, i.Bytes = s.Time, s.Files, s.Bytes
		i.Logical += s.Bytes
		st.Logical += s.Bytes
		st.Files += s.Files
	}
	st.Instances = []InstanceStats{}
	for _, i := range byName {
		st.Instances = append(st.Instances, *i)
	}
	slices.SortFunc(st.Instances, func(a, b InstanceStats) int { return cmp.Compare(a.Instance, b.Instance) })
}

// addPacks adds up the index.
func (st *Stats) addPacks(x *index.Index, used *index.Set[index.BlobRef]) {
	// By kind: the bytes of blobs, and what they are stored as; of whole ones and of deltas.
	var plain, stored [2][index.Tree + 1]int64
	for ref, p := range x.Packs() {
		totals := &st.Packs.Data
		if p.Kind == index.Tree {
			totals = &st.Packs.Trees
		}
		totals.Packs++
		totals.Bytes += p.Size
		st.Stored += p.Size
		if p.Condemned {
			st.Condemned += p.Size
		}
		blob := p.FirstBlob
		for _, f := range x.Frames(ref) {
			var all, need int64
			for _, b := range f.Blobs {
				size := int64(b.Size)
				all += size + 1 // one byte more, so that empty blobs count
				st.Blobs.Count++
				st.Blobs.Bytes += size
				if len(f.Bases) > 0 {
					st.Blobs.Deltas++
				}
				if used.Has(blob) {
					need += size + 1
					st.Blobs.UsedCount++
					st.Blobs.UsedBytes += size
				}
				blob++
			}
			delta := min(len(f.Bases), 1)
			plain[delta][p.Kind] += int64(f.Size())
			stored[delta][p.Kind] += int64(f.Length)
			if !p.Condemned {
				st.Unused += int64(f.Length) * (all - need) / all
			}
		}
	}
	for kind, n := range plain[1] {
		st.Blobs.DeltaBytes += n
		st.Blobs.DeltaStored += stored[1][kind]
		if whole := plain[0][kind]; whole > 0 {
			st.Blobs.DeltaSaved += max(0, int64(float64(n)*quotient(stored[0][kind], whole))-stored[1][kind])
		}
	}
	st.Dedup = quotient(st.Logical, st.Blobs.UsedBytes)
	st.Compression = quotient(st.Blobs.Bytes, st.Stored)
}

func quotient(a, b int64) float64 {
	if b == 0 {
		return 0
	}
	return float64(a) / float64(b)
}
