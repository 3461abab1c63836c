package main

import (
	"fmt"
	"io"

	"github.com/urfave/cli/v2"

	"github.com/whole-tale/wtsnap/snapshot"
)

func (a *app) statsCommand() *cli.Command {
	return &cli.Command{
		Name: "stats", Usage: "say how much is stored, and what it takes",
		Description: `Adds up all snapshots: what restoring them would write, what they take in the repository, and how much of that a prune can free.

Example:

  wtsnap stats`,
		Action: a.action(func(*cli.Context) error {
			if _, err := a.arguments(0, 0, ""); err != nil {
				return err
			}
			r, err := a.openRepo()
			if err != nil {
				return err
			}
			st, err := snapshot.GatherStats(a.ctx, r)
			if st != nil {
				a.result(st, func(w io.Writer) { printStats(w, st) })
			}
			if err != nil {
				return fmt.Errorf("gathering figures: %w", err)
			}
			return nil
		}),
	}
}

func printStats(w io.Writer, st *snapshot.Stats) {
	t := newTable("INSTANCE", "SNAPSHOTS", "OLDEST", "NEWEST", "FILES", "SIZE", "ALL SNAPSHOTS").alignRight(1, 4, 5, 6)
	for _, i := range st.Instances {
		t.add(shown(i.Instance), number(i.Snapshots), i.Oldest.Local().Format("2006-01-02 15:04"), i.Newest.Local().Format("2006-01-02 15:04"),
			number(i.Files), size(i.Bytes), size(i.Logical))
	}
	t.write(w)
	fmt.Fprintln(w)
	row := func(name, value, remark string) { fmt.Fprintf(w, "%-14s %10s  %s\n", name, value, remark) }
	row("all snapshots", size(st.Logical), "what restoring each of them would write")
	row("kept once", size(st.Blobs.UsedBytes), fmt.Sprintf("%s; each byte serves %.1f times", plural(st.Blobs.UsedCount, "blob", "blobs"), st.Dedup))
	row("stored", size(st.Stored), fmt.Sprintf("%s of data, %s of trees; compressed %.2f times",
		plural(st.Packs.Data.Packs, "pack", "packs"), plural(st.Packs.Trees.Packs, "pack", "packs"), st.Compression))
	if st.Blobs.Deltas > 0 {
		row("deltas", size(st.Blobs.DeltaStored), fmt.Sprintf("of that: %s of %s; whole, about %s more",
			plural(st.Blobs.Deltas, "blob", "blobs"), size(st.Blobs.DeltaBytes), size(st.Blobs.DeltaSaved)))
	}
	row("unused", size(st.Unused), "a prune can free most of it")
	if st.Condemned > 0 {
		row("on its way out", size(st.Condemned), "a prune frees it when its time has come")
	}
}
