package schedule

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

func parse(t *testing.T, text string) Schedule {
	t.Helper()
	s, err := Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestRun: a fortnight in which a job takes longer than a day once.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now() // a midnight, UTC
		ctx, cancel := context.WithCancel(t.Context())
		var runs []string
		var told int
		n := 0
		done := make(chan struct{})
		go func() {
			defer close(done)
			Run(ctx, []Job{{Name: "nightly", Schedule: parse(t, "02:30"), Run: func(context.Context) {
				runs = append(runs, fmt.Sprintf("%.1f", time.Since(start).Hours()))
				if n++; n == 3 {
					time.Sleep(30 * time.Hour) // over the next night's time
				} else {
					time.Sleep(time.Hour)
				}
			}}}, func(string, time.Time) { told++ })
		}()
		time.Sleep(6 * 24 * time.Hour)
		cancel()
		<-done
		want := []string{"2.5", "26.5", "50.5", "80.5", "98.5", "122.5"}
		if !slices.Equal(runs, want) || told < len(want) {
			t.Errorf("runs at hours %v, want %v", runs, want)
		}
	})
}

func TestRunMissed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now().Add(12 * time.Hour)
		time.Sleep(12 * time.Hour)
		ctx, cancel := context.WithCancel(t.Context())
		var runs []time.Duration
		job := func(name string, last time.Time, jitter time.Duration) Job {
			return Job{Name: name, Schedule: parse(t, "02:30"), LastRun: last, Jitter: jitter, Run: func(context.Context) { runs = append(runs, time.Since(start)) }}
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			Run(ctx, []Job{job("missed", start.Add(-40*time.Hour), 0)}, nil)
		}()
		time.Sleep(24 * time.Hour)
		cancel()
		<-done
		if want := []time.Duration{0, 14*time.Hour + 30*time.Minute}; !slices.Equal(runs, want) {
			t.Errorf("a missed night: runs after %v, want %v", runs, want)
		}
		// Nothing was missed by a job that never ran, nor is anything run after the end.
		runs = nil
		ctx, cancel = context.WithCancel(t.Context())
		done = make(chan struct{})
		go func() {
			defer close(done)
			Run(ctx, []Job{job("new", time.Time{}, time.Hour)}, nil)
		}()
		synctest.Wait()
		if len(runs) != 0 {
			t.Errorf("a job that never ran was made up for")
		}
		cancel()
		<-done
	})
}
