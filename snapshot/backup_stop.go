package snapshot

import (
	"context"
	"time"

	"github.com/dustin/go-humanize"
)

// Why a backup ended before its end although nothing went wrong.
const (
	StopBudget = "budget" // UploadBudget is used up
	StopWindow = "window" // the time is Until
)

// A StoppedError says that a backup ended because it was told not to upload more, or longer.
type StoppedError struct {
	Reason string    // StopBudget or StopWindow
	Budget int64     // bytes
	Until  time.Time // the end of the window
}

func (e *StoppedError) Error() string {
	if e.Reason == StopWindow {
		return "the window ended at " + e.Until.Local().Format("15:04")
	}
	return "the upload budget of " + humanize.IBytes(uint64(e.Budget)) + " is used up"
}

const (
	// windowGrace is how long after the end of a window the checkpoint may still be on its way.
	windowGrace = 5 * time.Minute
	// longestDrain is how much earlier than at its end a window may be left, to upload what is under way.
	longestDrain = 10 * time.Minute
	drainMargin  = 5 * time.Second
)

// spend ends the run where its budget is used up: what packs have is counted when it is put into them, on its way or not,
// so that the checkpoint adds only its own trees, and what the workers have in hand.
func (b *backup) spend() {
	if b.o.UploadBudget > 0 && b.s.Stats().BytesPlanned >= b.o.UploadBudget {
		b.halt(&StoppedError{Reason: StopBudget, Budget: b.o.UploadBudget})
	}
}

// watch ends the run in time for the window: what is under way is then uploaded before the window's end.
func (b *backup) watch(ctx context.Context, stop <-chan struct{}) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for !b.late() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		case <-stop:
			return
		}
	}
}

// late ends the run where there is no more time than it takes to upload what is under way.
func (b *backup) late() bool {
	if b.o.Until.IsZero() {
		return false
	}
	drain := min(b.s.Drain(), longestDrain)
	if drain > 0 {
		drain += drainMargin
	}
	// Round(0) drops the monotonic clock, which stands still while a machine sleeps.
	late := b.o.Until.Sub(time.Now().Round(0)) <= drain
	if late {
		b.halt(&StoppedError{Reason: StopWindow, Until: b.o.Until})
	}
	return late
}

// bounded reports whether the run may be ended by what its options say.
func (o *BackupOptions) bounded() bool { return o.UploadBudget > 0 || !o.Until.IsZero() }

// Unfinished is a source of which a checkpoint lacks something.
type Unfinished struct {
	Label string `json:"label"`
	State string `json:"state"` // unfinished, or waiting: not begun
	// Later are its files that were put off because they are large.
	Later int64 `json:"later_files"`
	Bytes int64 `json:"later_bytes"` // of these
}

// unfinished lists what a run that was stopped did not come to.
func (b *backup) unfinished() (list []Unfinished) {
	begun := map[string]*backupSource{}
	b.mu.Lock()
	for _, s := range b.begun {
		begun[s.spec.Label] = s
	}
	b.mu.Unlock()
	for i := range b.o.Sources {
		label := b.o.Sources[i].Label
		s := begun[label]
		switch {
		case s == nil:
			list = append(list, Unfinished{Label: label, State: "waiting"})
		case !s.finished:
			u := Unfinished{Label: label, State: "unfinished"}
			u.Later, u.Bytes = s.later.files.Load(), s.later.bytes.Load()
			list = append(list, u)
		}
	}
	return list
}

// A Remainder estimates what is left to do; zero where nothing is known.
type Remainder struct {
	Files int64 `json:"files"`
	Bytes int64 `json:"bytes"`
}

// remainder compares what is done with the totals that estimate found.
func (b *backup) remainder() *Remainder {
	p := b.o.Progress
	r := &Remainder{p.TotalFiles.Load() - p.Files.Load(), p.TotalBytes.Load() - p.Bytes.Load()}
	if !b.counted.Load() || r.Files <= 0 || r.Bytes < 0 {
		return nil
	}
	return r
}
