package repo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/repo/storage"
)

// farAway is the storage as a machine sees it that is far away and whose clock is wrong by skew: each call takes up to
// slowest, and what the machine writes of times, and reads of them, is moved.
type farAway struct {
	storage.Storage
	k       *keys
	skew    time.Duration
	slowest time.Duration

	mu  sync.Mutex
	rng *rand.Rand
}

// wait takes the time of a call. A lease is stored and removed at once: who waits for its mutex meanwhile is not taken for
// waiting by a bubble.
func (f *farAway) wait(kind, name string) {
	if strings.HasPrefix(name, leasesDir) && kind != "get" && kind != "list" {
		return
	}
	f.mu.Lock()
	d := time.Duration(f.rng.Int64N(int64(f.slowest)))
	f.mu.Unlock()
	time.Sleep(d)
}

// move moves the times in a lease or a condemned list.
func (f *farAway) move(name string, data []byte, by time.Duration) ([]byte, error) {
	if !strings.HasPrefix(name, leasesDir) && !strings.HasPrefix(name, condemnedDir) {
		return data, nil
	}
	content, err := f.k.openObject(name, data)
	if err != nil {
		return nil, err
	}
	if strings.HasPrefix(name, leasesDir) {
		var l leaseRecord
		if err := json.Unmarshal(content, &l); err != nil {
			return nil, err
		}
		l.Started, l.Renewed = l.Started.Add(by), l.Renewed.Add(by)
		content, err = json.Marshal(l)
	} else {
		var c condemnedList
		if err := json.Unmarshal(content, &c); err != nil {
			return nil, err
		}
		c.Time = c.Time.Add(by)
		content, err = json.Marshal(c)
	}
	if err != nil {
		return nil, err
	}
	return f.k.sealObject(name, content)
}

func (f *farAway) Put(ctx context.Context, name string, data []byte) (storage.Info, error) {
	f.wait("put", name)
	data, err := f.move(name, data, f.skew)
	if err != nil {
		return storage.Info{}, err
	}
	return f.Storage.Put(ctx, name, data)
}

func (f *farAway) Get(ctx context.Context, name string, offset, length int64, dst []byte) ([]byte, error) {
	f.wait("get", name)
	data, err := f.Storage.Get(ctx, name, offset, length, dst)
	if err != nil {
		return data, err
	}
	return f.move(name, data, -f.skew)
}

func (f *farAway) List(ctx context.Context, prefix string, fn func(storage.Info) error) error {
	f.wait("list", prefix)
	return f.Storage.List(ctx, prefix, fn)
}

func (f *farAway) Delete(ctx context.Context, name string) error {
	f.wait("delete", name)
	return f.Storage.Delete(ctx, name)
}

// office is the repository of the load test, and what must be in it.
type office struct {
	t    *testing.T
	tr   *testRepo
	mu   sync.Mutex
	kept map[SnapshotRef]content
	busy int
}

// machine opens the repository as another machine does.
func (o *office) machine(seed uint64, skew time.Duration) *Repository {
	return o.tr.open(&farAway{Storage: o.tr.st, k: o.tr.r.keys, skew: skew, slowest: 4 * time.Minute, rng: rand.New(rand.NewPCG(seed, 1))})
}

// backUp is a writer's night: most of what was there the night before, some of it shared with the others, a little new. It
// keeps two snapshots.
func (o *office) backUp(night, who int, skew time.Duration, mine []SnapshotRef) ([]SnapshotRef, error) {
	ctx := context.Background()
	r := o.machine(uint64(night*10+who), skew)
	var names []string
	for i := range 6 {
		names = append(names, fmt.Sprint("shared", (night/4+i)%12)) // changes each fourth night, for all
	}
	for i := range 4 {
		names = append(names, fmt.Sprint("of", who, "since", night-night%(i+2)))
	}
	c := content{words(names[:5]...), words(names[5:]...)}
	ref, _, err := backupWith(ctx, r, c, SessionOptions{Level: chunk.LevelNone, Uploads: 2, Instance: fmt.Sprint(who)})
	if err != nil {
		return nil, fmt.Errorf("night %d: backup of %d: %w", night, who, err)
	}
	o.mu.Lock()
	o.kept[ref] = c
	o.mu.Unlock()
	if mine = append(mine, ref); len(mine) > 2 {
		o.mu.Lock()
		delete(o.kept, mine[0])
		o.mu.Unlock()
		if err := r.Forget(ctx, mine[:1]); err != nil {
			return nil, fmt.Errorf("night %d: forget of %d: %w", night, who, err)
		}
		mine = mine[1:]
	}
	return mine, nil
}

// whole fails unless every snapshot that is kept holds what it was made of.
func (o *office) whole(night int) {
	r := o.tr.open(o.tr.mem)
	for ref, c := range o.kept {
		if err := holds(context.Background(), r, ref, c); err != nil {
			o.t.Errorf("night %d: snapshot %s: %v", night, ref.ID.Short(), err)
		}
	}
}

// TestLoad lets four machines back up and one prune at once, night after night, with clocks that are wrong by hours and
// calls that take minutes. No snapshot is ever incomplete, and no more is stored than a few nights' worth.
func TestLoad(t *testing.T) {
	nights := 40
	if slow() {
		nights = 2000
	}
	base := newRepo(t)
	synctest.Test(t, func(t *testing.T) {
		o := &office{t: t, tr: base.at(t, base.mem.Clone()), kept: map[SnapshotRef]content{}}
		skews := []time.Duration{0, 5 * time.Hour, -7 * time.Hour, 2 * time.Hour}
		mine := make([][]SnapshotRef, len(skews))
		swept, most := 0, 0
		for night := range nights {
			var wg sync.WaitGroup
			for who, skew := range skews {
				wg.Go(func() {
					time.Sleep(time.Duration((night*7+who*13)%50) * time.Minute)
					var err error
					if mine[who], err = o.backUp(night, who, skew, mine[who]); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Go(func() {
				time.Sleep(time.Duration(night*11%90) * time.Minute)
				rep, _, err := prune(context.Background(), o.machine(uint64(night*10+9), 3*time.Hour), PruneOptions{Grace: DefaultGrace, Level: chunk.LevelNone})
				if errors.Is(err, ErrBusy) {
					o.busy++
				} else if err != nil {
					t.Errorf("night %d: prune: %v", night, err)
				} else {
					swept += rep.Deleted.Packs
				}
			})
			wg.Wait()
			o.whole(night)
			if t.Failed() {
				return
			}
			if night > 10 {
				most = max(most, len(list(t, o.tr.mem, packsDir)))
			}
			time.Sleep(22 * time.Hour)
		}
		if swept < nights {
			t.Errorf("only %d packs were removed in %d nights", swept, nights)
		}
		// Two packs a backup, of what is kept and of what the grace time keeps.
		if limit := 4 * 2 * 8; most > limit {
			t.Errorf("up to %d packs were there, more than %d", most, limit)
		}
		t.Logf("%d nights, %d backups, %d packs removed, at most %d there", nights, nights*len(skews), swept, most)
	})
}
