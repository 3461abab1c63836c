package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/whole-tale/wtsnap/cmd/wtsnap/recall"
	"github.com/whole-tale/wtsnap/snapshot"
)

// learn notes snapshots whose manifests this run has read.
func (a *app) learn(snaps ...*snapshot.Snapshot) { a.read = append(a.read, snaps...) }

// rememberNames keeps the names of what the run has seen for the shell's completion. Whatever fails is no trouble of the run's.
func (a *app) rememberNames() {
	if a.own == nil || a.g.cacheDir == "" {
		return
	}
	refs, names := a.own.There()
	if refs == nil {
		return
	}
	var listed, read []recall.Snapshot
	for _, ref := range refs {
		listed = append(listed, recall.Snapshot{ID: ref.ID.String(), Time: ref.Time, Instance: names[ref.Instance]})
	}
	for _, s := range a.read {
		r := recall.Snapshot{ID: s.Ref.ID.String(), Time: s.Ref.Time, Instance: s.Instance}
		for _, src := range s.Sources {
			r.Labels = append(r.Labels, src.Label)
		}
		read = append(read, r)
	}
	_ = recall.Update(recall.Path(a.g.cacheDir, placeOf(a.g.repo)), listed, read)
}

// A suggestion is a word that may follow on the command line, and what it is.
type suggestion struct {
	Word string `json:"word"`
	Text string `json:"text,omitempty"`
}

// suggest prints the names that may stand for the last of the words of an unfinished command line, and nothing where none are
// known. It reads this machine's files only: no password is asked for, and no request is made.
func (a *app) suggest(words []string) {
	var list []suggestion
	if len(words) > 0 {
		list = suggestions(newApp(a.ctx, std{strings.NewReader(""), io.Discard, io.Discard}), words)
	}
	a.result(map[string][]suggestion{"suggestions": append([]suggestion{}, list...)}, func(w io.Writer) {
		for _, s := range list {
			fmt.Fprintf(w, "%s\t%s\n", s.Word, s.Text)
		}
	})
}

// suggestions is suggest by an app that is used for nothing else.
func suggestions(sub *app, words []string) []suggestion {
	before, word := words[:len(words)-1], words[len(words)-1]
	head, flag := "", ""
	if name, value, ok := strings.Cut(word, "="); ok && strings.HasPrefix(word, "--") {
		head, flag, word = name+"=", strings.TrimLeft(name, "-"), value
	}
	var g *globals
	capture := sub.action(func(*cli.Context) error {
		g = sub.g
		return nil
	})
	eachPath(sub.cli, func(path []*cli.Command) {
		if n := len(path); n > 0 && path[n-1].Action != nil {
			path[n-1].Action = capture
		}
	})
	if err := sub.dispatch(append([]string{"wtsnap"}, before...)); err != nil && len(before) > 0 && head == "" { // its last word may want a value
		n := len(before) - 1
		if flag = strings.TrimLeft(before[n], "-"); flag == before[n] {
			return nil
		}
		_ = sub.dispatch(append([]string{"wtsnap"}, before[:n]...))
	}
	if g == nil || g.repo == "" || g.cacheDir == "" {
		return nil
	}
	k := known{recall.Read(recall.Path(g.cacheDir, placeOf(g.repo))), g}
	var list []suggestion
	switch {
	case flag == "instance" || flag == "into":
		list = k.instances()
	case flag == "source":
		list = k.labels("", func(recall.Snapshot) bool { return true })
	case flag != "" || strings.HasPrefix(word, "-"):
	default:
		list = k.arguments(sub.line.command, word)
	}
	list = slices.DeleteFunc(list, func(s suggestion) bool { return !strings.HasPrefix(s.Word, word) || shown(s.Word) != s.Word })
	for i := range list {
		list[i].Word = head + list[i].Word
	}
	return list
}

// known is what this machine has seen of a repository, the newest first.
type known struct {
	snaps []recall.Snapshot
	g     *globals
}

// arguments are the snapshots that a command takes, or what is in the one that was typed.
func (k *known) arguments(c *cli.Command, word string) (list []suggestion) {
	switch {
	case c.Name == "history":
		for _, s := range k.labels("", k.ofInstance) {
			list = append(list, suggestion{s.Word + "/", s.Text})
		}
	case !takesNames(c):
	case strings.Contains(word, ":"):
		name, _, _ := strings.Cut(word, ":")
		in := k.ofInstance
		if !strings.HasPrefix(name, "latest") {
			in = func(s recall.Snapshot) bool { return name != "" && strings.HasPrefix(s.ID, strings.ToLower(name)) }
		}
		return k.labels(name+":", in)
	default:
		for _, s := range k.snaps {
			if k.g.instance == "" || s.Instance == k.g.instance {
				list = append(list, suggestion{s.ID[:8], strings.TrimSpace(when(s.Time) + "  " + s.Instance + "  " + strings.Join(s.Labels, ", "))})
			}
		}
		if len(list) > 0 && c.Name != "snapshots" {
			list = append([]suggestion{{"latest", "the newest complete snapshot"}}, list...)
		}
	}
	return list
}

// takesNames reports whether a command's arguments are names that are known here.
func takesNames(c *cli.Command) bool {
	return strings.Contains(c.ArgsUsage, "SNAPSHOT") || c.Name == "snapshots" || c.Name == "history"
}

// ofInstance reports whether "latest" may mean a snapshot, or one before it.
func (k *known) ofInstance(s recall.Snapshot) bool {
	return k.g.own == "" || s.Instance == k.g.own
}

func (k *known) instances() (list []suggestion) {
	seen := map[string]bool{"": true}
	for _, s := range k.snaps {
		if !seen[s.Instance] {
			seen[s.Instance] = true
			list = append(list, suggestion{s.Instance, "newest seen: " + when(s.Time)})
		}
	}
	return list
}

// labels are those of the snapshots that are chosen, behind a beginning of the word.
func (k *known) labels(head string, in func(recall.Snapshot) bool) (list []suggestion) {
	seen := map[string]bool{}
	for _, s := range k.snaps {
		if !in(s) {
			continue
		}
		for _, label := range s.Labels {
			if !seen[label] {
				seen[label] = true
				list = append(list, suggestion{head + label, "of " + s.Instance})
			}
		}
	}
	return list
}
