package main

import (
	"fmt"
	"io"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/whole-tale/wtsnap/snapshot"
)

type historyDoc struct {
	jsonName
	Instance string           `json:"instance"`
	Versions []historyVersion `json:"versions"`
}

// historyVersion is a state that one or several snapshots in a row have.
type historyVersion struct {
	Change    string   `json:"change"`
	Snapshot  string   `json:"snapshot"` // the first that has it
	Time      string   `json:"time"`
	Last      string   `json:"last"`
	LastTime  string   `json:"last_time"`
	Snapshots int      `json:"snapshots"`
	Entry     *nodeDoc `json:"entry,omitempty"` // missing where it was removed
}

func (a *app) historyCommand() *cli.Command {
	return &cli.Command{
		Name: "history", Usage: "list the versions of a file or a folder", ArgsUsage: "PATH",
		Description: `Follows a path, which begins with its label, through all snapshots of the instance, and lists when it changed: new, content,
metadata (mode, owner, times or extended attributes alone), type, removed. A version that several nights have is listed once.
Nothing but folders is read: equal content has equal ids.

Examples:

  wtsnap history homes/alice/thesis.tex
  wtsnap history homes/alice --at 2026-11-01
  wtsnap restore 3f12ab34:homes/alice/thesis.tex --to /tmp/old     one of the versions`,
		Flags: []cli.Flag{atFlag()},
		Action: a.action(func(c *cli.Context) error {
			args, err := a.arguments(1, 1, "the path, such as homes/alice/notes.txt,")
			if err != nil {
				return err
			}
			path, err := snapshot.CleanPath(args[0])
			if err != nil {
				return err
			}
			if path == "" {
				return usagef("wtsnap history LABEL/PATH", "a history is of a path, and this is none")
			}
			r, err := a.openRepo()
			if err != nil {
				return err
			}
			versions, err := snapshot.History(a.ctx, r, a.g.selector(c), path)
			if err != nil {
				err = fmt.Errorf("looking through the snapshots: %w", err)
				if len(versions) == 0 {
					return err
				}
			}
			doc := historyDoc{jsonName: nameOf(path), Instance: versions[0].First.Instance, Versions: []historyVersion{}}
			for _, v := range versions {
				d := historyVersion{Change: v.Change, Snapshot: v.First.Ref.ID.String(), Time: utc(v.First.Time), Last: v.Last.Ref.ID.String(),
					LastTime: utc(v.Last.Time), Snapshots: v.Snapshots}
				if v.Node != nil {
					n := newNodeDoc(v.First, path, v.Node)
					d.Entry = &n
				}
				doc.Versions = append(doc.Versions, d)
			}
			a.result(doc, func(w io.Writer) { historyTable(versions).write(w) })
			return err
		}),
	}
}

func historyTable(versions []snapshot.Version) *table {
	t := newTable("SINCE", "SNAPSHOT", "SIZE", "MODIFIED", "CHANGE", "").alignRight(2)
	for _, v := range versions {
		bytes, modified := "", ""
		if v.Node != nil {
			bytes, modified = size(v.Node.Size), when(time.Unix(0, v.Node.MTime))
		}
		same := ""
		if v.Snapshots > 1 {
			same = plural(v.Snapshots, "snapshot", "snapshots") + ", the last " + v.Last.Ref.ID.Short()
		}
		t.add(when(v.First.Time), v.First.Ref.ID.Short(), bytes, modified, v.Change, same)
	}
	return t
}
