package main

import (
	"fmt"
	"io"
	"path"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/whole-tale/wtsnap/index"
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
		Name: "repair", Usage: "mend the index, heal what is damaged",
		Description: `In this order: repair index, repair packs, a backup or another copy of the repository, and repair snapshots for what is left.

wtsnap repair index lists the packs that the index does not list, from the packs' own directories, and then removes the parts
of the index that are damaged. Packs stay as they are.

wtsnap repair packs gives packs up that are damaged or gone: what can be read in them is stored anew, and the next backup
stores what cannot, if the sources still have it. --from heals at once from another copy of the repository, made by wtsnap
copy. Without names it finds packs that are gone or have another size; --read-data finds those with changed bytes, too.

wtsnap repair snapshots stores damaged snapshots anew without what is lost, and forgets the originals.

Without --yes they show what they would do, and do nothing.

Examples:

  wtsnap check --read-data
  wtsnap repair index --yes
  wtsnap repair packs packs/3/3f0c… --yes && wtsnap backup homes=/srv/homes && wtsnap check
  wtsnap repair packs --read-data --yes --from /mnt/second --from-password-file ~/second.key
  wtsnap repair snapshots                                  what would be left out`,
		Subcommands: []*cli.Command{
			{Name: "packs", Usage: "give up packs that are damaged or gone", ArgsUsage: "[PACK...]", Action: a.action(a.repairPacks),
				Flags: append([]cli.Flag{&cli.BoolFlag{Name: "yes", Usage: "do what is shown"},
					&cli.BoolFlag{Name: "read-data", Usage: "read all packs, to find those with changed bytes"}},
					healSource.flags("from", "heal from `REPOSITORY`, which has copies of the snapshots: a folder, remote:path of rclone, or @NAME of the configuration")...)},
			{Name: "snapshots", Usage: "store damaged snapshots anew without what is lost", Action: a.action(a.repairSnapshots),
				Flags: []cli.Flag{&cli.BoolFlag{Name: "yes", Usage: "do what is shown"}}},
			{Name: "config", Usage: "make a lost config anew", Action: a.action(a.repairConfig),
				Flags: []cli.Flag{&cli.BoolFlag{Name: "yes", Usage: "do what is shown"}}},
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

type repairPacksDoc struct {
	DryRun   bool             `json:"dry_run"`
	Packs    []string         `json:"packs"`  // given up
	Saved    int              `json:"saved"`  // blobs of them that can be read, or that other packs hold
	Lost     int              `json:"lost"`   // blobs that can't be had
	Stored   int64            `json:"stored"` // bytes
	Healed   *healDoc         `json:"healed,omitempty"`
	Requests map[string]int64 `json:"requests"`
	Seconds  float64          `json:"seconds"`
}

func (a *app) repairPacks(c *cli.Context) error {
	args, err := a.arguments(0, -1, "")
	if err != nil {
		return err
	}
	var ids []index.PackID
	for _, arg := range args {
		id, err := index.ParsePackID(path.Base(arg))
		if err != nil {
			return usagef("name it as wtsnap check does, packs/3/3f0c...", "%q is not the name of a pack", arg)
		}
		ids = append(ids, id)
	}
	start := time.Now()
	r, err := a.openRepo()
	if err != nil {
		return err
	}
	var other *repo.Repository
	if c.String("from") != "" {
		if other, _, err = healSource.open(a, c, "from"); err != nil {
			return fmt.Errorf("the repository to heal from: %w", err)
		}
	}
	if other != nil && other.ID() == r.ID() {
		return usagef("name another copy, made by wtsnap copy", "the repository to heal from is this one")
	}
	if c.Bool("read-data") {
		if ids, err = a.unreadablePacks(r, ids); err != nil {
			return fmt.Errorf("looking for damaged packs: %w", err)
		}
	}
	dryRun := !c.Bool("yes")
	rep, err := r.RepairPacks(a.ctx, ids, dryRun)
	if err != nil {
		return fmt.Errorf("repairing packs: %w", err)
	}
	heal, status := a.heal(r, other, dryRun)
	if heal == nil && status != nil {
		return fmt.Errorf("healing: %w", status)
	}
	doc := repairPacksDoc{DryRun: dryRun, Packs: []string{}, Saved: rep.Saved, Lost: rep.Lost, Stored: rep.Stored,
		Healed: heal, Requests: a.requests(), Seconds: time.Since(start).Seconds()}
	for _, id := range rep.Packs {
		doc.Packs = append(doc.Packs, id.String())
	}
	a.result(doc, func(w io.Writer) {
		defer printHealed(w, heal, dryRun)
		switch {
		case len(rep.Packs) == 0 && c.Bool("read-data"):
			fmt.Fprintln(w, "every pack was read, and none is damaged")
			return
		case len(rep.Packs) == 0:
			fmt.Fprintln(w, "every pack of the index is there with its size; nothing to do (wtsnap repair packs --read-data reads them all)")
			return
		case dryRun:
			fmt.Fprintf(w, "would give up %s\n", plural(len(rep.Packs), "pack", "packs"))
		default:
			fmt.Fprintf(w, "gave up %s; stored %s anew\n", plural(len(rep.Packs), "pack", "packs"), size(rep.Stored))
		}
		for _, id := range doc.Packs {
			fmt.Fprintln(w, "  "+id)
		}
		fmt.Fprintf(w, "of their blobs %d can be had, %d are lost\n", rep.Saved, rep.Lost)
		switch {
		case dryRun:
			fmt.Fprintln(w, "nothing was changed; --yes does it")
		case rep.Lost > 0 && heal == nil:
			fmt.Fprintln(w, "back up now: that stores what the sources still have; then wtsnap check names what is lost")
		}
	})
	return status
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
	case rep.Unlisted.Packs+len(rep.Damaged)+rep.Gone.Packs == 0:
		fmt.Fprintln(w, "the index lists every pack; nothing to do")
	case dryRun && rep.Unlisted.Packs+len(rep.Damaged) > 0:
		fmt.Fprintln(w, "nothing was changed; --yes does it")
	}
}
