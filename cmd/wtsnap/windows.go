package main

import (
	"time"

	"github.com/urfave/cli/v2"

	"github.com/whole-tale/wtsnap/cmd/wtsnap/schedule"
)

// windowFlags are those of commands that may upload much.
func windowFlags(budget string) []cli.Flag {
	return []cli.Flag{
		sizeFlag("upload-budget", budget),
		&cli.StringSliceFlag{Name: "window", Usage: "upload only during `[DAYS ]FROM-TO`, such as 22:00-06:00 or \"sat-sun 00:00-24:00\", in local time; may be repeated"},
		&cli.BoolFlag{Name: "wait", Usage: "wait until the window opens"},
	}
}

// window returns when the window closes that is open now; zero where there is none to heed. It waits for one if asked to.
func (a *app) window(c *cli.Context) (time.Time, error) {
	w, err := schedule.ParseWindows(c.StringSlice("window"))
	if err != nil {
		return time.Time{}, usagef("", "--window: %v", err)
	}
	if len(w) == 0 {
		if c.Bool("wait") {
			return time.Time{}, usagef("--window 22:00-06:00 --wait", "--wait waits for a window, and there is none")
		}
		return time.Time{}, nil
	}
	for said := false; ; said = true {
		now := time.Now().Round(0)
		until, open := w.Until(now)
		if open {
			return until, nil
		}
		next := w.Next(now)
		if !c.Bool("wait") {
			return time.Time{}, &statusError{exitIncomplete, "nothing was done: it is outside of the window " + w.String() + ", which opens at " + when(next),
				"start it then, or let it wait: --wait", nil}
		}
		if !said {
			a.note("waiting for the window " + w.String() + ", which opens at " + when(next))
		}
		// A machine that sleeps meanwhile has a timer that stands still.
		select {
		case <-time.After(min(next.Sub(now), time.Minute)):
		case <-a.ctx.Done():
			return time.Time{}, &statusError{exitInterrupted, "interrupted while waiting for the window; nothing was done", "", nil}
		}
	}
}
