package repo

import (
	"context"
	"slices"
	"sync"
	"time"
)

const (
	// defaultUploads is how many packs may be on their way at a time where the caller sets no bound.
	defaultUploads = 8
	// firstUploads is how many it begins with: while some wait for their answers, the bytes of others move.
	firstUploads = 4
	// nearUploads is the same where the repository is a folder of this machine: there are no answers to wait for, and a disk
	// has no time off, as the next pack is full while one is written.
	nearUploads = 1
	// worthwhile is by how much more bytes must move in a second for one more upload at a time to be kept.
	worthwhile = 1.1
	// firstPause is for how many rounds no more uploads are tried after that was of no use; it doubles.
	firstPause = 4
)

// uploads are the slots of packs on their way. It begins with few, and tries one more at a time as long as that moves
// more bytes: one connection's share of a long line may be small, as it waits for answers or for what was lost to be
// sent again. Where the line is full, or the packs come too slowly, more of them would only take memory.
type uploads struct {
	most int

	mu    sync.Mutex
	limit int
	busy  int
	queue []*uploadWaiter

	// A round is 2*limit uploads that ended while others waited.
	round struct {
		start time.Time
		ended int
		bytes int64
	}
	since time.Time     // when the first of those on their way began
	spent time.Duration // with uploads on their way, until since
	moved int64         // bytes in that time

	settle bool    // the round that goes on began before the limit changed
	tried  bool    // the limit is one higher than it was known to be worthwhile
	rate   float64 // bytes a second with the limit, or with the one below while tried
	pause  int     // rounds to go until another one is tried
	next   int     // the pause after the next failure
}

// uploadWaiter waits for a slot, or for all of them to be free.
type uploadWaiter struct {
	all   bool
	ready chan struct{}
}

func newUploads(most int, near bool) *uploads {
	if most <= 0 {
		most = defaultUploads
	}
	first := firstUploads
	if near {
		first = nearUploads
	}
	return &uploads{most: most, limit: min(most, first), next: firstPause}
}

// acquire takes a slot, in turn.
func (u *uploads) acquire(ctx context.Context) error { return u.wait(ctx, false) }

// idle waits until no upload is on its way. Uploads that ask for a slot later begin later.
func (u *uploads) idle(ctx context.Context) error { return u.wait(ctx, true) }

func (u *uploads) wait(ctx context.Context, all bool) error {
	w := &uploadWaiter{all: all, ready: make(chan struct{})}
	u.mu.Lock()
	u.queue = append(u.queue, w)
	u.grant()
	u.mu.Unlock()
	select {
	case <-w.ready:
		return nil
	case <-ctx.Done():
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if i := slices.Index(u.queue, w); i >= 0 {
		u.queue = slices.Delete(u.queue, i, i+1)
	} else if !all {
		u.leave(time.Now())
	}
	u.grant()
	return ctx.Err()
}

// grant lets those go on whose turn it is; mu is held.
func (u *uploads) grant() {
	for len(u.queue) > 0 {
		w := u.queue[0]
		if w.all && u.busy > 0 || !w.all && u.busy >= u.limit {
			return
		}
		if !w.all {
			if u.busy++; u.busy == 1 {
				u.since = time.Now()
			}
		}
		u.queue = u.queue[1:]
		close(w.ready)
	}
}

// release gives a slot back that was not used.
func (u *uploads) release() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.leave(time.Now())
	u.grant()
}

// leave counts one less on its way; mu is held.
func (u *uploads) leave(now time.Time) {
	if u.busy--; u.busy == 0 {
		u.spent += now.Sub(u.since)
	}
}

// speed returns the bytes a second of all uploads together, over the time in which there were any.
func (u *uploads) speed(now time.Time) float64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	spent := u.spent
	if u.busy > 0 {
		spent += now.Sub(u.since)
	}
	return float64(u.moved) / max(spent.Seconds(), 1e-9)
}

// ended gives a slot back after an upload of so many bytes.
func (u *uploads) ended(bytes int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	now := time.Now()
	u.leave(now)
	u.moved += bytes
	u.note(now, bytes)
	u.grant()
}

// note counts an upload that has ended, and decides at the end of a round.
func (u *uploads) note(now time.Time, bytes int64) {
	r := &u.round
	if len(u.queue) == 0 || u.queue[0].all { // nobody waits: the line is not what it takes so long for
		r.start = time.Time{}
		return
	}
	if r.start.IsZero() {
		r.start, r.ended, r.bytes = now, 0, 0
		return
	}
	r.ended++
	r.bytes += bytes
	if r.ended < 2*u.limit {
		return
	}
	rate := float64(r.bytes) / max(now.Sub(r.start).Seconds(), 1e-9)
	r.start, r.ended, r.bytes = now, 0, 0
	if u.settle {
		u.settle = false
		return
	}
	u.decide(rate)
}

func (u *uploads) decide(rate float64) {
	switch {
	case u.tried && rate < worthwhile*u.rate:
		u.limit--
		u.tried, u.settle = false, true
		u.pause, u.next = u.next, 2*u.next
		return
	case u.tried:
		u.tried, u.next = false, firstPause
	case u.pause > 0:
		u.pause--
	}
	u.rate = rate
	if u.pause == 0 && u.limit < u.most {
		u.limit++
		u.tried, u.settle = true, true
	}
}
