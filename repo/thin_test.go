package repo

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/index"
	"github.com/whole-tale/wtsnap/repo/storage/mem"
	"github.com/whole-tale/wtsnap/repo/storage/storagetest"
)

// A line of 1 MB/s and 300 ms, or ten times as fast, is nearly full whatever moves much: mostly to nine tenths and more, and
// to three quarters in whatever order things happen. The clock is simulated: only the line takes time.
func TestThinLineIsFull(t *testing.T) {
	const count = 96 // blobs of 1 MiB
	for _, mbps := range []int64{1, 10} {
		t.Run(fmt.Sprintf("%dMBps", mbps), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tr := newRepo(t)
				rate := mbps * 1e6
				thin := storagetest.NewThin(tr.st, storagetest.ThinOptions{Latency: 300 * time.Millisecond, Up: rate, Down: rate})
				r := tr.open(thin)
				var blobs [][]byte
				for i := range uint64(count) {
					blobs = append(blobs, noise(i+1000, 1<<20))
				}
				used := func(what string, up, down float64, run func()) {
					t.Helper()
					thin.Uses()
					start := time.Now()
					run()
					took := time.Since(start).Round(time.Second)
					moreUp, moreDown, most := thin.Uses()
					for _, w := range []struct {
						name string
						use  storagetest.ThinUse
						want float64
					}{{"up", moreUp, up}, {"down", moreDown, down}} {
						if w.want == 0 {
							continue
						}
						got := w.use.Share(rate)
						if mbps > 1 { // a short transfer: its beginning and its end count for more
							w.want -= 0.05
						}
						t.Logf("%s: %.1f %% of the line %s, up to %d transfers at a time, %v", what, 100*got, w.name, most, took)
						if got < w.want || w.use.Bytes < count/3<<20 {
							t.Errorf("%s uses %.1f %% of the line %s for %d bytes, want %.0f %%", what, 100*got, w.name, w.use.Bytes, 100*w.want)
						}
					}
				}
				var ref SnapshotRef
				used("backup", 0.8, 0, func() {
					var err error
					ref, _, err = backupWith(t.Context(), r, content{blobs}, SessionOptions{Level: chunk.LevelFastest})
					must0(t, err)
				})
				used("reading", 0, 0.8, func() {
					r := tr.open(thin)
					must0(t, r.LoadIndex(t.Context()))
					var ids []chunk.ID
					for _, b := range blobs {
						ids = append(ids, r.Hasher().Sum(b))
					}
					n := atomic.Int64{}
					must0(t, r.ReadBlobs(t.Context(), ids, ReadOptions{Workers: 8}, func(int, []byte) error { n.Add(1); return nil }))
					if n.Load() != count {
						t.Errorf("%d blobs read", n.Load())
					}
				})
				used("check", 0, 0.8, func() {
					if rep := checkAll(t, tr.open(thin)); len(rep.Problems) > 0 {
						t.Error(rep.Problems)
					}
				})
				// Every other blob goes: what is left is read and written at the same time.
				half := content{nil}
				for i := 0; i < count; i += 2 {
					half[0] = append(half[0], blobs[i])
				}
				second, _, err := backupWith(t.Context(), r, half, SessionOptions{Level: chunk.LevelFastest})
				must0(t, err)
				forget(t, r, ref)
				used("repack", 0.8, 0.75, func() {
					_, _, err := prune(t.Context(), tr.open(thin), PruneOptions{MaxUnused: 0})
					must0(t, err)
				})
				mustHold(t, tr.open(tr.mem), second, half)
			})
		})
	}
}

// Where data come faster than a line takes them, but not at once, it does not wait until three packs are full; of what fits
// into one pack, one goes up, and a folder of this machine gets no packs that are less than full, few of which are in memory
// at a time. The clock is simulated.
func TestFirstPackGoesUpEarly(t *testing.T) {
	const rate, source = 1_000_000, 3_000_000
	full := packBytes * time.Second / source
	for _, c := range []struct {
		name        string
		near, first bool          // of a first backup
		blobs       int           // of 1 MiB
		idle        time.Duration // at most, until the first byte goes up
		least       time.Duration
		packs       int
	}{
		{"first backup", false, true, 64, full / 2, 0, 6},
		{"night of many packs", false, false, 64, full + time.Second, full - time.Second, 6},
		{"night of less than a pack", false, false, 14, full, 0, 2},
		{"first backup into a folder", true, true, 96, 3 * full, 2*full - time.Second, 8},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tr := newRepo(t)
				thin := storagetest.NewThin(tr.st, storagetest.ThinOptions{Latency: 300 * time.Millisecond, Up: rate})
				r := tr.open(thin)
				r.stage = newStage(r, &OpenOptions{Near: c.near})
				s, err := r.Begin(t.Context(), SessionOptions{Level: chunk.LevelFastest})
				must0(t, err)
				if c.first {
					s.StartEarly()
				}
				thin.Uses()
				w, start := s.Writer(), time.Now()
				var ids []chunk.ID
				for i := range c.blobs {
					time.Sleep(time.Second << 20 / source)
					id, _, err := w.Put(t.Context(), index.Data, noise(uint64(i)+1, 1<<20))
					must0(t, err)
					ids = append(ids, id)
				}
				root, _, err := w.Put(t.Context(), index.Tree, encodeIDs(treeMagic, ids))
				must0(t, err)
				_, err = s.Commit(t.Context(), Payload{Instance: "a", Time: nextTime(), Data: encodeIDs(manifestMagic, []chunk.ID{root})})
				must0(t, errors.Join(err, s.Close(t.Context())))
				up, _, _ := thin.Uses()
				idle, share := up.First.Sub(start), float64(up.Bytes)/(rate*time.Since(start).Seconds())
				t.Logf("nothing goes up for %v, then %d packs; %.1f %% of the line used in %v", idle.Round(10*time.Millisecond), s.Stats().Packs, 100*share,
					time.Since(start).Round(time.Second))
				if idle > c.idle || idle < c.least {
					t.Errorf("nothing goes up for %v, want %v to %v", idle, c.least, c.idle)
				}
				if got := int(s.Stats().Packs); got != c.packs {
					t.Errorf("%d packs, want %d", got, c.packs)
				}
				if c.blobs > 16 && !c.near && share < 0.9 {
					t.Errorf("%.1f %% of the line used", 100*share)
				}
				if n := len(s.buffers.free); c.near && n > nearPacks+3 { // with one of folders, one on its way, and another one to try
					t.Errorf("%d packs were in memory", n)
				} else {
					t.Logf("%d packs were in memory", n)
				}
			})
		})
	}
}

// Over a line that gives each connection a fifth or an eighth of itself, uploads become more until it is full; where it
// is full already, they stay as few as they are but for a try now and then.
func TestUploadsGrowWhereItPays(t *testing.T) {
	const rate = 1 << 20
	for _, c := range []struct {
		each        int64
		most        int
		least, want int // at the end: the limit, with one more where another one is being tried
		share       float64
	}{
		{each: 0, most: 8, least: 4, want: 4, share: 0.9},
		{each: rate / 6, most: 8, least: 5, want: 7, share: 0.7},
		{each: rate / 8, most: 8, least: 6, want: 8, share: 0.65},
		{each: rate / 8, most: 5, least: 5, want: 5, share: 0.5},
		{each: rate / 8, most: 1, least: 1, want: 1, share: 0.1},
	} {
		t.Run(fmt.Sprintf("each %d of %d, most %d", c.each, rate, c.most), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				thin := storagetest.NewThin(mem.New(), storagetest.ThinOptions{Latency: 100 * time.Millisecond, Up: rate, Each: c.each})
				u := newUploads(c.most, false)
				var all sync.WaitGroup
				data := make([]byte, 1<<20)
				const packs = 300
				for i := range packs {
					must0(t, u.acquire(t.Context()))
					all.Go(func() {
						if _, err := thin.Put(t.Context(), fmt.Sprintf("packs/%d", i), data); err != nil {
							t.Error(err)
						}
						u.ended(int64(len(data)))
					})
				}
				must0(t, u.idle(t.Context()))
				all.Wait()
				if limit := u.limit; limit < c.least || limit > c.want && !u.tried {
					t.Errorf("%d at a time in the end, want %d to %d", limit, c.least, c.want)
				}
				up, _, most := thin.Uses()
				if got := up.Share(rate); got < c.share {
					t.Errorf("%.1f %% of the line used with up to %d at a time, want %.0f %%", 100*got, most, 100*c.share)
				} else {
					t.Logf("%.1f %% of the line used with up to %d at a time, %d in the end", 100*got, most, u.limit)
				}
			})
		})
	}
}

// Who waits for a slot and gives up leaves the others their turns.
func TestUploadsGiveUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := newUploads(1, false)
		must0(t, u.acquire(t.Context()))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := u.idle(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("idle while an upload is on its way: %v", err)
		}
		if err := u.acquire(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a second slot of one: %v", err)
		}
		u.release()
		must0(t, u.idle(t.Context()))
		must0(t, u.acquire(t.Context()))
		u.ended(1)
		if u.busy != 0 || len(u.queue) != 0 {
			t.Errorf("%d busy, %d wait", u.busy, len(u.queue))
		}
	})
}
