package main

import (
	"fmt"
	"io"

	"github.com/whole-tale/wtsnap/snapshot"
	"github.com/whole-tale/wtsnap/snapshot/localfs"
)

type previewDoc struct {
	DryRun   bool                 `json:"dry_run"`
	Sources  []snapshot.Previewed `json:"sources"`
	Excluded []excludedDoc        `json:"excluded"` // the first 1000
	Errors   []jsonProblem        `json:"errors"`
}

type excludedDoc struct {
	jsonName
	Reason string `json:"reason"`
}

// previewBackup says what a backup would save and leave out.
func (a *app) previewBackup(o snapshot.BackupOptions) error {
	doc := previewDoc{DryRun: true, Excluded: []excludedDoc{}, Errors: []jsonProblem{}}
	lines := io.Writer(a.std.out)
	if a.g.json || a.g.quiet {
		lines = io.Discard
	}
	var problems []snapshot.PathError
	p := snapshot.PreviewOptions{
		Left: func(path, why string) {
			if len(doc.Excluded) < 1000 {
				doc.Excluded = append(doc.Excluded, excludedDoc{nameOf(path), why})
			}
			fmt.Fprintln(lines, printable(why))
		},
		Wrong: func(path string, err error) {
			problems = append(problems, snapshot.PathError{Path: path, Error: err.Error()})
			a.say("wtsnap: " + shown(path) + ": " + err.Error())
		},
	}
	if a.g.verbose {
		p.Saved = func(path string, m *localfs.Meta) {
			if m.Type == localfs.TypeDir {
				path += "/"
			}
			fmt.Fprintln(lines, shown(path))
		}
	}
	sources, err := snapshot.Preview(a.ctx, o.Sources, o.Exclude, p)
	if err != nil {
		return fmt.Errorf("looking at what would be saved: %w", err)
	}
	doc.Sources, doc.Errors = sources, jsonProblems(problems)
	a.done(doc, func(w io.Writer) {
		fmt.Fprintln(w, "would save")
		for _, s := range sources {
			if !s.Listed {
				fmt.Fprintf(w, "  %-9s (what it has is known only when it is read)\n", shown(s.Label))
				continue
			}
			fmt.Fprintf(w, "  %-9s %s, %s", shown(s.Label), plural(s.Files, "file", "files"), size(s.Bytes))
			if s.Left > 0 {
				fmt.Fprintf(w, "; %s left out", plural(s.Left, "entry", "entries"))
			}
			fmt.Fprintln(w)
		}
	})
	if len(problems) > 0 {
		return &statusError{exitPartial, "looking at what would be saved: " + plural(len(problems), "entry", "entries") + " could not be looked at", "", nil}
	}
	return nil
}
