package main

import (
	"context"
	"io"
	"os"

	"github.com/urfave/cli/v2"

	"github.com/whole-tale/wtsnap/snapshot"
)

// filesFrom makes the sources save only what the lists of --files-from and --files-from0 name.
func (a *app) filesFrom(c *cli.Context, sources []snapshot.SourceSpec) error {
	var paths []snapshot.ListedPath
	stdin := ""
	for _, s := range sources {
		if s.ReadsStdin() {
			stdin = "the source " + s.Label
		}
	}
	for _, flag := range []string{"files-from", "files-from0"} {
		for _, name := range c.StringSlice(flag) {
			in, shownName := a.std.in, "standard input"
			if name == "-" {
				if stdin != "" {
					return usagef("--"+flag+" FILE", "--%s - and %s both read standard input", flag, stdin)
				}
				stdin = "--" + flag
			} else {
				f, err := os.Open(name)
				if err != nil {
					return usagef("", "--%s: %v", flag, err)
				}
				defer f.Close()
				in, shownName = io.Reader(f), name
			}
			more, err := a.readPaths(in, shownName, flag == "files-from0")
			if err != nil {
				return err
			}
			paths = append(paths, more...)
		}
	}
	if len(paths) == 0 {
		return nil
	}
	return snapshot.SaveOnly(sources, paths)
}

// readPaths reads a list, or ends with the run: what comes on standard input may never come.
func (a *app) readPaths(in io.Reader, name string, zero bool) ([]snapshot.ListedPath, error) {
	type list struct {
		paths []snapshot.ListedPath
		err   error
	}
	read := make(chan list, 1)
	go func() {
		paths, err := snapshot.ReadPaths(in, name, zero)
		read <- list{paths, err}
	}()
	select {
	case l := <-read:
		return l.paths, l.err
	case <-a.ctx.Done():
		return nil, context.Cause(a.ctx)
	}
}
