// Package bound computes what a perfect delta of each changed file would upload: the size of zstd --patch-from of the
// new version against the old one, and of zstd of each new file. Renamed files, copies and new hard links cost nothing,
// nor do names and attributes: no backup can reach the bound, only come near it.
package bound

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"sync/atomic"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"
)

// Pair is a changed file. Old is empty for a new one.
type Pair struct{ Old, New string }

// Bound is the lower bound of one night.
type Bound struct {
	Bytes    int64  `json:"bytes"`
	NewBytes int64  `json:"new_bytes"` // the part of Bytes that is in new files
	Files    int    `json:"files"`
	Program  string `json:"program"`
}

// Of computes the bound with the zstd program where there is one, else with the Go library.
func Of(ctx context.Context, pairs []Pair) (Bound, error) {
	size, name := withLibrary, "the Go library klauspost/compress (raw dictionary, level better)"
	workers := runtime.GOMAXPROCS(0)
	if program, err := exec.LookPath("zstd"); err == nil {
		size, name = withProgram(program), "the zstd program, level 3"
	}
	return sum(ctx, pairs, size, name, workers)
}

type sizer func(ctx context.Context, pair Pair) (int64, error)

func sum(ctx context.Context, pairs []Pair, size sizer, name string, workers int) (Bound, error) {
	var total, added atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(workers)
	for _, pair := range pairs {
		group.Go(func() error {
			n, err := size(ctx, pair)
			if err != nil {
				return fmt.Errorf("bound of %q: %w", pair.New, err)
			}
			total.Add(n)
			if pair.Old == "" {
				added.Add(n)
			}
			return nil
		})
	}
	err := group.Wait()
	return Bound{Bytes: total.Load(), NewBytes: added.Load(), Files: len(pairs), Program: name}, err
}

// withProgram runs zstd. --patch-from sets the window to the size of the files, up to 2 GB.
func withProgram(program string) sizer {
	return func(ctx context.Context, pair Pair) (int64, error) {
		args := []string{"-3", "-q", "-c", "--single-thread"}
		if info, err := os.Stat(pair.Old); pair.Old != "" && err == nil && info.Size() > 0 {
			args = append(args, "--patch-from="+pair.Old)
		}
		cmd := exec.CommandContext(ctx, program, append(args, "--", pair.New)...)
		var counted counter
		var stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &counted, &stderr
		if err := cmd.Run(); err != nil {
			return 0, fmt.Errorf("%w: %s", err, bytes.TrimSpace(stderr.Bytes()))
		}
		return int64(counted), nil
	}
}

// withLibrary holds both versions in memory.
func withLibrary(_ context.Context, pair Pair) (int64, error) {
	content, err := os.ReadFile(pair.New)
	if err != nil {
		return 0, err
	}
	options := []zstd.EOption{zstd.WithEncoderLevel(zstd.SpeedBetterCompression), zstd.WithEncoderConcurrency(1)}
	if pair.Old != "" {
		old, err := os.ReadFile(pair.Old)
		if err != nil {
			return 0, err
		}
		if len(old) >= 8 {
			window := zstd.MinWindowSize
			for window < len(old)+len(content) && window < zstd.MaxWindowSize {
				window *= 2
			}
			options = append(options, zstd.WithEncoderDictRaw(1, old), zstd.WithWindowSize(window))
		}
	}
	var counted counter
	encoder, err := zstd.NewWriter(&counted, options...)
	if err != nil {
		return 0, err
	}
	_, err = io.Copy(encoder, bytes.NewReader(content))
	err = errors.Join(err, encoder.Close())
	return int64(counted), err
}

type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}
