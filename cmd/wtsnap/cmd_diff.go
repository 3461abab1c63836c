package main

import (
	"bufio"
	"fmt"
	"io"

	"github.com/urfave/cli/v2"

	"github.com/whole-tale/wtsnap/snapshot"
)

type changeDoc struct {
	jsonName
	Change   string   `json:"change"` // added, removed, content, type or metadata
	Old      *nodeDoc `json:"old,omitempty"`
	New      *nodeDoc `json:"new,omitempty"`
	BytesNew int64    `json:"bytes_new,omitempty"` // in chunks that the old version does not have
}

type diffHead struct {
	From lsHead `json:"from"`
	To   lsHead `json:"to"`
}

type diffTail struct {
	Added    snapshot.DiffCount `json:"added"`
	Removed  snapshot.DiffCount `json:"removed"`
	Content  snapshot.DiffCount `json:"content"`
	Type     snapshot.DiffCount `json:"type"`
	Metadata snapshot.DiffCount `json:"metadata"`
	Bytes    struct {
		Added   int64 `json:"added"`
		Removed int64 `json:"removed"`
		Changed int64 `json:"changed"`
	} `json:"bytes"`
}

func (a *app) diffCommand() *cli.Command {
	return &cli.Command{
		Name: "diff", Usage: "compare two snapshots", ArgsUsage: "SNAPSHOT[:PATH] [SNAPSHOT[:PATH]]",
		Description: `Lists what differs between two snapshots, or parts of them; the second defaults to the latest, with the path of the first.

  + added   - removed   M content changed   T became something else   U owner, mode, time or attributes only (--metadata)

Examples:

  wtsnap diff latest~1
  wtsnap diff 3f12ab34:homes/alice 99887766:homes/alice --metadata`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "metadata", Usage: "list the entries of which only metadata differ, too"},
			atFlag(), incompleteFlag(),
		},
		Action: a.action(a.diff),
	}
}

func (a *app) diff(c *cli.Context) error {
	args, err := a.arguments(1, 2, "the snapshot to compare with")
	if err != nil {
		return err
	}
	first, err := snapshot.ParseSpec(args[0])
	if err != nil {
		return err
	}
	second := "latest:" + first.Path
	if len(args) > 1 {
		second = args[1]
		if s, err := snapshot.ParseSpec(second); err != nil {
			return err
		} else if !s.HasPath && first.HasPath {
			second += ":" + first.Path
		}
	}
	r, err := a.openRepo()
	if err != nil {
		return err
	}
	sel := a.g.selector(c)
	from, fromPath, err := a.resolve(r, args[0], sel)
	if err != nil {
		return err
	}
	to, toPath, err := a.resolve(r, second, sel)
	if err != nil {
		return err
	}
	if err := r.LoadIndex(a.ctx); err != nil {
		return fmt.Errorf("loading the index: %w", err)
	}
	if a.g.json {
		head := diffHead{lsHead{from.Ref.ID.String(), from.Instance, utc(from.Time), nameOf(fromPath).Path},
			lsHead{to.Ref.ID.String(), to.Instance, utc(to.Time), nameOf(toPath).Path}}
		if a.stream, err = startStream(a.std.out, head, "changes"); err != nil {
			return err
		}
	}
	out := bufio.NewWriter(a.std.out)
	stats, err := snapshot.Diff(a.ctx, r, snapshot.DiffSide{Snapshot: from, Path: fromPath}, snapshot.DiffSide{Snapshot: to, Path: toPath},
		func(ch snapshot.Change) error {
			if ch.Kind == snapshot.ChangeMetadata && !c.Bool("metadata") {
				return nil
			}
			if a.g.json {
				return a.stream.add(newChangeDoc(from, to, ch))
			}
			_, err := io.WriteString(out, changeLine(ch)+"\n")
			return err
		})
	tail := diffTail{Added: stats.Added, Removed: stats.Removed, Content: stats.Content, Type: stats.Type, Metadata: stats.Metadata}
	tail.Bytes.Added, tail.Bytes.Removed, tail.Bytes.Changed = stats.BytesAdded, stats.BytesRemoved, stats.BytesChanged
	a.result(tail, func(io.Writer) {
		if err == nil {
			printDiffStats(out, stats)
		}
	})
	out.Flush()
	if err != nil {
		return fmt.Errorf("comparing snapshots %s and %s: %w", from.Ref.ID.Short(), to.Ref.ID.Short(), err)
	}
	return nil
}

func newChangeDoc(from, to *snapshot.Snapshot, ch snapshot.Change) changeDoc {
	d := changeDoc{jsonName: nameOf(ch.Path), Change: string(ch.Kind), BytesNew: ch.BytesNew}
	if ch.Old != nil {
		n := newNodeDoc(from, ch.Path, ch.Old)
		d.Old = &n
	}
	if ch.New != nil {
		n := newNodeDoc(to, ch.Path, ch.New)
		d.New = &n
	}
	return d
}

func changeLine(ch snapshot.Change) string {
	sign := map[snapshot.ChangeKind]string{snapshot.ChangeAdded: "+", snapshot.ChangeRemoved: "-", snapshot.ChangeContent: "M",
		snapshot.ChangeType: "T", snapshot.ChangeMetadata: "U"}[ch.Kind]
	n := ch.New
	if n == nil {
		n = ch.Old
	}
	path := ch.Path
	if path == "" {
		path = "."
	}
	line := sign + " " + shown(path)
	if n.IsDir() {
		line += "/"
	}
	if ch.Kind == snapshot.ChangeContent && n.IsFile() {
		line += fmt.Sprintf("  (%s, %s in changed chunks)", size(n.Size), size(ch.BytesNew))
	}
	return line
}

func printDiffStats(w io.Writer, st snapshot.DiffStats) {
	line := func(what string, c snapshot.DiffCount, bytes int64, of string) {
		if c.Sum() == 0 {
			return
		}
		text := plural(c.Files, "file", "files")
		if c.Folders > 0 {
			text += ", " + plural(c.Folders, "folder", "folders")
		}
		if c.Others > 0 {
			text += ", " + plural(c.Others, "other", "others")
		}
		if bytes > 0 {
			text += ", " + size(bytes) + of
		}
		fmt.Fprintf(w, "%-14s %s\n", what, text)
	}
	if st == (snapshot.DiffStats{}) {
		fmt.Fprintln(w, "no differences")
		return
	}
	line("added", st.Added, st.BytesAdded, "")
	line("removed", st.Removed, st.BytesRemoved, "")
	line("changed", st.Content, st.BytesChanged, " in changed chunks")
	line("type changed", st.Type, 0, "")
	line("metadata only", st.Metadata, 0, "")
}
