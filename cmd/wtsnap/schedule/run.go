package schedule

import (
	"context"
	"sync"
	"time"
)

// A Job is what Run runs.
type Job struct {
	Name     string
	Schedule Schedule
	Jitter   time.Duration // each run begins up to so much after it is due
	LastRun  time.Time     // when it last began; zero: never, so nothing was missed
	Run      func(ctx context.Context)
}

// recheck bounds a wait: a machine that was suspended, or whose clock was set, is noticed.
const recheck = time.Minute

// Run runs each job whenever it is due, until ctx ends, and returns when the last one has. A job that was due while
// nobody was there is made up for once, at once. A job that is due while it is running is not run a second time; it is
// made up for as well. Due is called with each job's next time, and may be nil.
func Run(ctx context.Context, jobs []Job, due func(name string, at time.Time)) {
	var wg sync.WaitGroup
	for _, j := range jobs {
		wg.Go(func() { j.loop(ctx, due) })
	}
	wg.Wait()
}

func (j *Job) loop(ctx context.Context, due func(string, time.Time)) {
	last := j.LastRun
	if last.IsZero() {
		last = time.Now()
	}
	for ctx.Err() == nil {
		at := j.Schedule.Missed(last, time.Now())
		if at.IsZero() {
			if at = j.Schedule.Next(time.Now()); at.IsZero() {
				<-ctx.Done()
				return
			}
			at = at.Add(Jitter(j.Name, at, j.Jitter))
		}
		if due != nil {
			due(j.Name, at)
		}
		if !sleepUntil(ctx, at) {
			return
		}
		last = time.Now()
		j.Run(ctx)
	}
}

// sleepUntil waits for a time of the machine's clock.
func sleepUntil(ctx context.Context, at time.Time) bool {
	for {
		wait := time.Until(at.Round(0)) // by the clock on the wall: the other one stands still while a machine sleeps
		if wait <= 0 {
			return ctx.Err() == nil
		}
		t := time.NewTimer(min(wait, recheck))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return false
		}
	}
}
