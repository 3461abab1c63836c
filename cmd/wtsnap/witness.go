package main

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/whole-tale/wtsnap/cmd/wtsnap/alert"
	"github.com/whole-tale/wtsnap/cmd/wtsnap/config"
	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/snapshot/witness"
)

// watch compares what a repository shows with what this machine has seen of it, and warns where that was more.
func (a *app) watch(r *repo.Repository, spec string) {
	if strings.Contains(spec, "version_at=") { // a view of what was at a time: it is meant to be old
		return
	}
	dir, err := statePath()
	if err != nil {
		return // a service without a home: there is no place to remember anything in
	}
	w, err := witness.Open(r, witness.Path(dir, r.ID(), placeOf(spec)), a.now, func(m witness.Missing) {
		if !a.accepting {
			a.warn(m.String())
		}
	})
	if err != nil {
		a.warn(err.Error() + "; it remembers anew from now on")
	}
	a.watched = append(a.watched, w)
}

// placeOf is where a repository lies, from whichever folder it is named.
func placeOf(spec string) string {
	if isFolder(spec) {
		if abs, err := filepath.Abs(spec); err == nil {
			return abs
		}
	}
	return spec
}

// remember stores what the run has seen.
func (a *app) remember() {
	a.rememberNames()
	for _, w := range a.watched {
		if err := w.Save(); err != nil {
			a.note(err.Error() + ": it will not notice if they are taken away")
		}
	}
}

// missing is what the repositories of this run lack that this machine has seen there.
func (a *app) missing() (out []witness.Missing) {
	for _, w := range a.watched {
		out = append(out, w.Missing()...)
	}
	return out
}

// missingNotices tells of it beside how a job ended.
func missingNotices(list []witness.Missing) (notices []alert.Notice) {
	for _, m := range list {
		notices = append(notices, alert.Notice{Topic: "roll-back " + m.Ref.ID.String(), Event: config.OnFailure, Title: "the repository is older than it was",
			Cause: "roll-back", Text: strings.ReplaceAll(m.String(), "\n  try: ", "\ntry: ")})
	}
	return notices
}

// acceptRollback takes what is missing for removed on purpose, and returns the names of its objects.
func (a *app) acceptRollback(r *repo.Repository) ([]string, error) {
	a.accepting = true
	defer func() { a.accepting = false }()
	if _, err := r.Snapshots(a.ctx); err != nil {
		return nil, fmt.Errorf("accepting what is there: %w", err)
	}
	names := []string{}
	for _, w := range a.watched {
		lost, err := w.Accept(a.ctx)
		if err != nil {
			a.warn(err.Error() + "; only this machine knows that it was meant")
		}
		for _, m := range lost {
			names = append(names, m.Ref.Name())
		}
	}
	return names, nil
}
