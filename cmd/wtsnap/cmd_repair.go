package main

import (
	"fmt"
	"io"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/whole-tale/wtsnap/repo"
)

type repairIndexDoc struct {
	DryRun     bool             `json:"dry_run"`
	Listed     repo.PackTotals  `json:"listed"`     // packs that the index did not list
	Unreadable []repo.Problem   `json:"unreadable"` // packs whose directory can't be read
	Removed    []string         `json:"removed"`    // damaged segments of the index
	Gone       repo.PackTotals  `json:"gone"`       // packs that the index lists and that are not there
	Requests   map[string]int64 `json:"requests"`
	Seconds    float64          `json:"seconds"`
}

func (a *app) repairCommand() *cli.Command {
	return &cli.Command{
		Name: "repair", Usage: "mend the index",
		Description: `wtsnap repair index lists the packs that the index does not list, from the packs' own directories, and then removes the parts
of the index that are damaged. Packs stay as they are. Without --yes it shows what it would do, and does nothing.

Examples:

  wtsnap check
  wtsnap repair index
  wtsnap repair index --yes`,
		Subcommands: []*cli.Command{
			{Name: "index", Usage: "list packs that the index does not list", Action: a.action(a.repairIndex),
				Flags: []cli.Flag{&cli.BoolFlag{Name: "yes", Usage: "do what is shown"}}},
		},
	}
}

func (a *app) repairIndex(c *cli.Context) error {
	if _, err := a.arguments(0, 0, ""); err != nil {
		return err
	}
	start := time.Now()
	r, err := a.openRepo()
	if err != nil {
		return err
	}
	dryRun := !c.Bool("yes")
	rep, err := r.RepairIndex(a.ctx, dryRun)
	if err != nil {
		return fmt.Errorf("repairing the index: %w", err)
	}
	doc := repairIndexDoc{DryRun: dryRun, Listed: rep.Unlisted, Unreadable: rep.Unreadable, Removed: rep.Damaged, Gone: rep.Gone,
		Requests: a.requests(), Seconds: time.Since(start).Seconds()}
	if doc.Unreadable == nil {
		doc.Unreadable = []repo.Problem{}
	}
	if doc.Removed == nil {
		doc.Removed = []string{}
	}
	a.result(doc, func(w io.Writer) { printRepair(w, rep, dryRun) })
	return nil
}

func printRepair(w io.Writer, rep *repo.IndexRepair, dryRun bool) {
	would := ""
	if dryRun {
		would = "would have "
	}
	if rep.Unlisted.Packs > 0 {
		fmt.Fprintf(w, "%slisted %s, %s\n", would, plural(rep.Unlisted.Packs, "pack", "packs"), size(rep.Unlisted.Bytes))
	}
	for _, name := range rep.Damaged {
		fmt.Fprintf(w, "%sremoved the damaged %s\n", would, name)
	}
	for _, p := range rep.Unreadable {
		fmt.Fprintf(w, "%s: %s\n", p.Object, p.Detail)
	}
	if rep.Gone.Packs > 0 {
		fmt.Fprintf(w, "%s in the index, %s, not there; wtsnap check names what needs them\n",
			plural(rep.Gone.Packs, "pack is", "packs are"), size(rep.Gone.Bytes))
	}
	switch {
	case rep.Unlisted.Packs+len(rep.Damaged) == 0:
		fmt.Fprintln(w, "the index lists every pack; nothing to do")
	case dryRun:
		fmt.Fprintln(w, "nothing was changed; --yes does it")
	}
}
