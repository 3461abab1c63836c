package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// errInterrupted is the cause of the context's end when the user, or the system, asked for it.
var errInterrupted = errors.New("interrupted")

// withSignals returns a context that ends with errInterrupted at the first SIGINT, SIGTERM or SIGHUP. At the second one
// the process ends at once.
func withSignals(parent context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(parent)
	signals := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // as nohup has it
		signals = append(signals, syscall.SIGHUP)
	}
	c := make(chan os.Signal, 2)
	signal.Notify(c, signals...)
	done := make(chan struct{})
	go func() {
		defer close(done)
		select {
		case <-c:
		case <-ctx.Done():
			return
		}
		cancel(errInterrupted)
		if _, again := <-c; again {
			fmt.Fprintln(os.Stderr, "wtsnap: interrupted twice: ended at once; the next run goes on with what was stored")
			os.Exit(exitInterrupted)
		}
	}()
	return ctx, func() {
		signal.Stop(c)
		cancel(nil)
		close(c)
		<-done
	}
}
