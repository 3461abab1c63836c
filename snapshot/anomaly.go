package snapshot

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/whole-tale/wtsnap/repo"
)

// A night in which much more was rewritten, deleted or turned into noise than in all nights before is what an encrypting
// or a vandalising program leaves behind, or a mistake. Such a snapshot is saved as any other, but what is older is then
// all that there is of the state before: no rule forgets anything of the instance until a person says that it is fine.
// docs/decisions/0016-anomalies.md has the reasons and the simulated figures.

const (
	// anomalyNights is how many nights a source must have been compared before any can be unlike them, and
	// anomalyHistory how many it remembers.
	anomalyNights  = 7
	anomalyHistory = 30
	// anomalyLeastFiles and anomalyLeastBytes are what must be affected at least: small sources change as a whole.
	anomalyLeastFiles = 100
	anomalyLeastBytes = 32 << 20
	// A share is unusual above all of: its floor, anomalyAbove times the largest one of the history, and the median of the history
	// plus anomalyDeviations deviations (1.4826 times the median absolute deviation).
	rewrittenFloor    = 0.25
	deletedFloor      = 0.25
	denseFloor        = 0.10
	anomalyAbove      = 1.5
	anomalyDeviations = 10
)

// A Changes are what a night did to a source, against the snapshot before: what the manifest records of it.
type Changes struct {
	New       int64 `json:"new"`        // files
	Changed   int64 `json:"changed"`    // files whose content, mode, owner, time or extended attributes are others
	Rewritten int64 `json:"rewritten"`  // of these, files whose content is another
	Removed   int64 `json:"removed"`    // files that are no longer at their path
	NewBytes  int64 `json:"new_bytes"`  // of the new files
	BlobBytes int64 `json:"blob_bytes"` // of the blobs that the repository did not have
	// DenseBytes are of those blobs what looks like noise, so that it can't be compressed; DenseRewritten are of these what
	// lies in files that were there before.
	DenseBytes     int64 `json:"dense_bytes"`
	DenseRewritten int64 `json:"dense_rewritten"`
	// BeforeFiles and BeforeBytes are what the source had.
	BeforeFiles int64 `json:"before_files"`
	BeforeBytes int64 `json:"before_bytes"`
	// History are the shares of the nights before, newest first.
	History []ChangeShares `json:"history,omitempty"`
}

// ChangeShares are a night's shares of what was there before, in millionths.
type ChangeShares struct {
	Rewritten int64 `json:"r"` // of the files, those with another content
	Deleted   int64 `json:"d"` // of the files, those that are gone, and not only elsewhere
	Dense     int64 `json:"n"` // of the bytes, noise in the place of something else
}

const millionth = 1e6

func shareOf(part, whole int64) int64 {
	if whole <= 0 {
		return 0
	}
	return int64(math.Round(millionth * float64(max(part, 0)) / float64(whole)))
}

// gone is how many files are no longer there, but for those that lie elsewhere now: new files whose bytes the repository
// had already.
func (c *Changes) gone() int64 {
	known := 1.0
	if c.NewBytes > 0 {
		known = 1 - min(1, float64(c.BlobBytes)/float64(c.NewBytes))
	}
	return max(0, c.Removed-int64(float64(c.New)*known))
}

// noise is how many bytes of noise took the place of something else: in files that were there before, and in new ones as
// far as others went for them, as where a program writes a.doc.locked for a.doc.
func (c *Changes) noise() int64 {
	fresh := max(0, c.DenseBytes-c.DenseRewritten)
	if c.New > 0 {
		fresh = int64(float64(fresh) * min(1, float64(c.gone())/float64(c.New)))
	} else {
		fresh = 0
	}
	return c.DenseRewritten + fresh
}

func (c *Changes) shares() ChangeShares {
	return ChangeShares{shareOf(c.Rewritten, c.BeforeFiles), shareOf(c.gone(), c.BeforeFiles), shareOf(c.noise(), c.BeforeBytes)}
}

// AnomalyKind says in what a night was unlike the others.
type AnomalyKind string

// The kinds of anomalies.
const (
	AnomalyRewritten AnomalyKind = "rewritten"
	AnomalyDeleted   AnomalyKind = "deleted"
	AnomalyDense     AnomalyKind = "dense"
)

// An Anomaly is a share of a source that is far from what it was in the nights before.
type Anomaly struct {
	Label string      `json:"label"`
	Kind  AnomalyKind `json:"kind"`
	Share float64     `json:"share"` // from 0 to 1
	Usual float64     `json:"usual"` // the largest share of the nights before
	Count int64       `json:"count"` // files, or bytes where Kind is AnomalyDense
	Of    int64       `json:"of"`
}

// String says it in words.
func (a *Anomaly) String() string {
	what := map[AnomalyKind]string{
		AnomalyRewritten: "of its files have another content",
		AnomalyDeleted:   "of its files are gone",
		AnomalyDense:     "of its bytes were replaced by what looks encrypted",
	}[a.Kind]
	return fmt.Sprintf("%s: %.0f%% %s, %.2g%% at most in the nights before", a.Label, 100*a.Share, what, 100*a.Usual)
}

// anomalies compares a night with the history of its source.
func (c *Changes) anomalies(label string) []Anomaly {
	if c == nil || len(c.History) < anomalyNights {
		return nil
	}
	var out []Anomaly
	now := c.shares()
	for _, m := range []struct {
		kind      AnomalyKind
		share     func(ChangeShares) int64
		count, of int64
		least     int64
		floor     float64
	}{
		{AnomalyRewritten, func(s ChangeShares) int64 { return s.Rewritten }, c.Rewritten, c.BeforeFiles, anomalyLeastFiles, rewrittenFloor},
		{AnomalyDeleted, func(s ChangeShares) int64 { return s.Deleted }, c.gone(), c.BeforeFiles, anomalyLeastFiles, deletedFloor},
		{AnomalyDense, func(s ChangeShares) int64 { return s.Dense }, c.noise(), c.BeforeBytes, anomalyLeastBytes, denseFloor},
	} {
		var history []float64
		for _, h := range c.History {
			history = append(history, float64(m.share(h))/millionth)
		}
		share := float64(m.share(now)) / millionth
		if m.count < m.least || share <= m.floor || share <= limitOf(history) {
			continue
		}
		out = append(out, Anomaly{label, m.kind, share, slices.Max(history), m.count, m.of})
	}
	return out
}

// limitOf is up to where a share is like those of the history.
func limitOf(history []float64) float64 {
	mid := median(history)
	off := make([]float64, len(history))
	for i, h := range history {
		off[i] = math.Abs(h - mid)
	}
	return max(anomalyAbove*slices.Max(history), mid+anomalyDeviations*1.4826*median(off))
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// An AnomalyError says that a snapshot was saved, is unlike the ones before, and holds retention.
type AnomalyError struct {
	Snapshot  repo.SnapshotID
	Parent    repo.SnapshotID // the newest one that it was compared with
	Anomalies []Anomaly
}

func (e *AnomalyError) Error() string {
	return fmt.Sprintf("snapshot %s was saved, but it is unlike those before: %s; no rule forgets anything of this instance until it is released",
		e.Snapshot.Short(), describeAnomalies(e.Anomalies))
}

func describeAnomalies(list []Anomaly) string {
	var texts []string
	for i := range list {
		texts = append(texts, list[i].String())
	}
	return strings.Join(texts, "; ")
}

// Unreleased returns the anomalies of a snapshot that nobody has released.
func (s *Snapshot) Unreleased() []Anomaly {
	if len(s.Anomalies) == 0 {
		return nil
	}
	for _, a := range s.Notes {
		if n, err := decodeNote(a.Data); err == nil && n.ReleaseAnomaly {
			return nil
		}
	}
	return s.Anomalies
}

// HeldBy returns the snapshots whose anomalies hold the retention of an instance, oldest first.
func HeldBy(snaps []*Snapshot, instance string) []*Snapshot {
	var held []*Snapshot
	for _, s := range snaps {
		if s.Instance == instance && !s.Checkpoint && len(s.Unreleased()) > 0 {
			held = append(held, s)
		}
	}
	SortSnapshots(held)
	return held
}

// A HeldError says that nothing of an instance is forgotten by rules, and why.
type HeldError struct {
	Instance  string
	Snapshots []*Snapshot // at least one
}

func (e *HeldError) Error() string {
	s := e.Snapshots[0]
	text := fmt.Sprintf("snapshot %s of %s is unlike those before it: %s", s.Ref.ID.Short(), s.Time.Local().Format("2006-01-02 15:04"), describeAnomalies(s.Unreleased()))
	if n := len(e.Snapshots) - 1; n > 0 {
		text += fmt.Sprintf("; and %d more", n)
	}
	return fmt.Sprintf("nothing of %s is forgotten: %s", e.Instance, text)
}

// tally counts what a run does to a source, for Changes. It may be nil.
type tally struct {
	fresh, changed, rewritten              atomic.Int64
	freshBytes, blobs, dense, denseChanged atomic.Int64
}

// file counts a file that is saved; old is what the parent has at its path.
func (t *tally) file(old, n *Node) {
	switch {
	case t == nil:
	case old == nil:
		t.fresh.Add(1)
		t.freshBytes.Add(n.Size)
	case !sameFile(old, n):
		t.changed.Add(1)
		if !sameContentList(old, n) {
			t.rewritten.Add(1)
		}
	}
}

// blob counts a blob that was added to the repository.
func (t *tally) blob(data []byte, changed bool) {
	if t == nil {
		return
	}
	t.blobs.Add(int64(len(data)))
	if dense(data) {
		t.dense.Add(int64(len(data)))
		if changed {
			t.denseChanged.Add(int64(len(data)))
		}
	}
}

// change says what the run did to a source so far. Nil where nothing finished is there to compare with. Of a run that goes
// on from checkpoints, what was done before them counts too.
func (s *backupSource) change() *Changes {
	p := finished(s.parents)
	if p == nil {
		return nil
	}
	t := &s.tally
	c := &Changes{New: t.fresh.Load(), Changed: t.changed.Load(), Rewritten: t.rewritten.Load(), Removed: s.removed(), NewBytes: t.freshBytes.Load(),
		BlobBytes: t.blobs.Load(), DenseBytes: t.dense.Load(), DenseRewritten: t.denseChanged.Load(),
		BeforeFiles: p.source.Files, BeforeBytes: p.source.Bytes}
	if newest := s.parents[0]; newest != p && newest.source.Change != nil {
		was := newest.source.Change
		c.New += was.New
		c.Changed += was.Changed
		c.Rewritten += was.Rewritten
		c.NewBytes += was.NewBytes
		c.BlobBytes += was.BlobBytes
		c.DenseBytes += was.DenseBytes
		c.DenseRewritten += was.DenseRewritten
	}
	if was := p.source.Change; was != nil {
		c.History = append([]ChangeShares{was.shares()}, was.History...)
		c.History = c.History[:min(len(c.History), anomalyHistory)]
	}
	return c
}

// anomalies returns in what the sources that were saved to their end are unlike what they were.
func (b *backup) anomalies(results []*backupSource) []Anomaly {
	var out []Anomaly
	for _, s := range results {
		if s.missing != nil || s.refused != nil || s.cut != nil || s.spec.Guard.Calm {
			continue
		}
		for _, a := range s.change().anomalies(s.spec.Label) {
			if a.Kind == AnomalyDeleted && b.o.AllowShrink {
				continue
			}
			out = append(out, a)
		}
	}
	return out
}

const (
	// denseLeast is the length from which bytes tell whether they are noise, and denseSample how many of a blob are looked at.
	denseLeast  = 512
	denseSample = 8 << 10
	// denseSlack is how far from noise's the entropy of a sample may be, in bits a byte.
	denseSlack = 0.25
)

// dense reports whether data looks like noise, as encrypted and compressed data do: whether the entropy of its bytes, of a
// sample of them, is that of random ones. n random bytes are expected to show 8 - 255/(2 n ln 2) bits each (Miller 1955).
func dense(data []byte) bool {
	if len(data) < denseLeast {
		return false
	}
	if len(data) > denseSample { // the beginning and the end may be headers
		from := (len(data) - denseSample) / 2
		data = data[from : from+denseSample]
	}
	var counts [256]int
	for _, b := range data {
		counts[b]++
	}
	var sum float64
	for _, n := range counts {
		if n > 0 {
			sum += float64(n) * math.Log2(float64(n))
		}
	}
	n := float64(len(data))
	entropy := math.Log2(n) - sum/n
	return entropy >= 8-255/(2*n*math.Ln2)-denseSlack
}
