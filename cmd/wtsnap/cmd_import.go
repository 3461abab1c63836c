package main

import (
	"fmt"
	"io"
	"os"
	"path"
	"runtime/debug"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/whole-tale/wtsnap/mongo/legacy"
	"github.com/whole-tale/wtsnap/repo/storage/rclone"
	"github.com/whole-tale/wtsnap/repo/storage/retry"
	"github.com/whole-tale/wtsnap/snapshot"
)

func (a *app) importCommand() *cli.Command {
	return &cli.Command{
		Name: "import", Usage: "make snapshots of the archives of the old scripts", ArgsUsage: "PLACE",
		Description: `Makes a snapshot of each night that PLACE, a folder or remote:path of rclone, has in the layout

  INSTANCE/YYYYMMDD/home-YYYYMMDD.tgz         a tar archive
  INSTANCE/YYYYMMDD/mongodump-YYYYMMDD.tgz    what mongodump --gzip --archive wrote

with its own date, oldest first. Archives are read once, as they are saved; none is changed or deleted. Run again, it goes on
with what is not imported yet. A damaged archive gives an incomplete snapshot of what came before the damage; the others go on.

Examples:

  wtsnap import box:WT --dry-run              what is there
  wtsnap import box:WT                        all instances, by the names of their folders
  wtsnap import box:WT/prod --instance prod   one of them
  wtsnap import /mnt/old/WT --as prod=production --strip-components 2`,
		Flags: []cli.Flag{
			dryRunFlag("list what would be imported, and do nothing"),
			&cli.StringSliceFlag{Name: "as", Usage: "import the instance of the folder OLD as `OLD=NEW`; may be repeated"},
			&cli.StringFlag{Name: "homes", Value: "homes", Usage: "the `LABEL` of the homes: that which backups use today"},
			&cli.StringFlag{Name: "mongo", Value: "mongo", Usage: "the `LABEL` of the MongoDB"},
			&cli.IntFlag{Name: "strip-components", Usage: "leave `N` leading folders of the names in the homes' archives out"},
			&cli.BoolFlag{Name: "again", Usage: "import nights again of which an incomplete snapshot was made"},
		},
		Action: a.action(a.importOld),
	}
}

type importDoc struct {
	Place    string           `json:"place"`
	DryRun   bool             `json:"dry_run"`
	Nights   []nightDoc       `json:"nights"`
	Others   []string         `json:"others"` // files that are none of these archives
	Requests map[string]int64 `json:"requests"`
	Seconds  float64          `json:"seconds"`
}

type nightDoc struct {
	Instance string              `json:"instance"`
	Date     string              `json:"date"`
	State    string              `json:"state"`
	Archives []archiveDoc        `json:"archives"`
	Snapshot string              `json:"snapshot,omitempty"`
	Files    int64               `json:"files"`
	Bytes    snapshot.ByteCounts `json:"bytes"`
	Errors   []string            `json:"errors"`
}

type archiveDoc struct {
	Name string `json:"name"`
	Kind string `json:"kind"`
	Size int64  `json:"size"`
}

func (a *app) importOld(c *cli.Context) error {
	start := time.Now()
	args, err := a.arguments(1, 1, "the place of the archives")
	if err != nil {
		return err
	}
	o := legacy.Options{Place: args[0], Homes: c.String("homes"), Mongo: c.String("mongo"), Strip: c.Int("strip-components"), Again: c.Bool("again"),
		Rename: map[string]string{}, Program: "wtsnap " + programVersion(), Memory: a.g.memory}
	if o.Strip < 0 || o.Homes == o.Mongo {
		return usagef("", "--strip-components is not below 0, and --homes and --mongo are two labels")
	}
	for _, text := range c.StringSlice("as") {
		old, now, ok := strings.Cut(text, "=")
		if !ok || old == "" || now == "" || checkInstance(now) != nil {
			return usagef("--as prod=production", "--as %s: it has not the form OLD=NEW", shown(text))
		}
		o.Rename[old] = now
	}
	o.Host, _ = os.Hostname() // for people only
	if a.g.memory > 0 {
		debug.SetMemoryLimit(a.g.memory)
	}
	r, err := a.openRepo()
	if err != nil {
		return err
	}
	st, err := rclone.Open(a.ctx, o.Place, rclone.Options{ConfigPath: a.g.rcloneConfig, Warn: a.warn, Log: a.rcloneLog})
	if err != nil {
		return fmt.Errorf("opening %s: %w", shownRepo(o.Place), err)
	}
	defer st.Close(a.ctx)
	from := retry.New(st, retry.Options{Notify: a.retrying})
	_, rest, _ := strings.Cut(o.Place, ":")
	if rest == "" {
		rest = o.Place
	}
	alone := a.g.instance
	if alone == "" {
		alone = path.Base(strings.TrimSuffix(rest, "/"))
	}
	nights, others, err := legacy.Find(a.ctx, from, alone)
	if err == nil && len(nights) == 0 {
		err = usagef("name the folder that has INSTANCE/YYYYMMDD/home-YYYYMMDD.tgz", "there are no archives of the old layout in it")
	}
	if err == nil {
		err = legacy.Mark(a.ctx, r, nights, o)
	}
	if err != nil {
		return fmt.Errorf("importing %s: %w", shownRepo(o.Place), err)
	}
	report := func() {
		a.result(newImportDoc(nights, others, o.Place, c.Bool("dry-run"), a.requests(), time.Since(start)), nil)
	}
	if c.Bool("dry-run") {
		report()
		if !a.g.json {
			printNights(a.std.out, nights, others)
		}
		return nil
	}
	if err := r.LoadIndex(a.ctx); err != nil {
		return fmt.Errorf("loading the index: %w", err)
	}
	for _, n := range nights {
		if n.State != legacy.Left {
			continue
		}
		var p snapshot.Progress
		shows := a.startProgress("importing "+shown(n.Instance)+" of "+n.Date.Format("2006-01-02"), &p)
		err = legacy.Import(a.ctx, r, from, n, o, &monitor{a: a}, &p)
		a.endProgress(shows)
		if err != nil {
			break
		}
		if n.Err != nil {
			a.say("wtsnap: " + n.Date.Format("2006-01-02") + " of " + shown(n.Instance) + ": " + a.words(n.Err))
		}
	}
	report()
	if !a.g.json && !a.g.quiet {
		printNights(a.std.out, nights, others)
	}
	return a.importStatus(nights, err)
}

// importStatus is the error that an import ends with.
func (a *app) importStatus(nights []*legacy.Night, err error) error {
	if err != nil {
		err = fmt.Errorf("importing: %w", err)
		return interruption(a.ctx, err, "importing: interrupted; the nights that are imported stay", "run the same command again: it goes on")
	}
	failed, incomplete := 0, 0
	for _, n := range nights {
		switch n.State {
		case legacy.Failed:
			failed++
			err = n.Err
		case legacy.Incomplete:
			incomplete++
		}
	}
	switch {
	case failed > 0 && exitCode(a.ctx, err) != exitFailed:
		return fmt.Errorf("importing: %s failed: %w", plural(failed, "night", "nights"), err)
	case failed > 0:
		return &statusError{exitFailed, fmt.Sprintf("importing: %s failed", plural(failed, "night", "nights")), "look at what is named above and run the same command again: it goes on", nil}
	case incomplete > 0:
		return &statusError{exitPartial, fmt.Sprintf("importing: of %s an archive is damaged; what came before the damage is in incomplete snapshots", plural(incomplete, "night", "nights")),
			"bring whole archives and import these nights with --again, or leave it so", nil}
	}
	return nil
}

func newImportDoc(nights []*legacy.Night, others []string, place string, dry bool, requests map[string]int64, d time.Duration) importDoc {
	doc := importDoc{Place: shownRepo(place), DryRun: dry, Nights: []nightDoc{}, Others: append([]string{}, others...), Requests: requests, Seconds: d.Seconds()}
	for _, n := range nights {
		nd := nightDoc{Instance: n.Instance, Date: n.Date.Format("2006-01-02"), State: string(n.State), Archives: []archiveDoc{}, Errors: append([]string{}, n.Errors...)}
		for _, x := range n.Archives {
			kind := "homes"
			if x.Dump {
				kind = "mongo"
			}
			nd.Archives = append(nd.Archives, archiveDoc{x.Name, kind, x.Size})
		}
		if n.Snapshot != nil {
			nd.Snapshot, nd.Files = n.Snapshot.Ref.ID.String(), n.Snapshot.Files
		}
		if n.Report != nil {
			nd.Bytes = n.Report.Bytes
		}
		if n.Err != nil {
			nd.Errors = append(nd.Errors, message(n.Err))
		}
		doc.Nights = append(doc.Nights, nd)
	}
	return doc
}

func printNights(w io.Writer, nights []*legacy.Night, others []string) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	count := map[legacy.State]int{}
	for _, n := range nights {
		count[n.State]++
		id, text := "", ""
		if n.Snapshot != nil {
			id = n.Snapshot.Ref.ID.Short()
			text = plural(n.Snapshot.Files, "file", "files") + ", " + size(n.Snapshot.Bytes)
			if n.Report != nil {
				text += ", " + size(n.Report.Bytes.StoredNew) + " new"
			}
			if n.State == legacy.Done && !n.Snapshot.Complete {
				text += ", incomplete"
			}
		}
		names := ""
		for _, x := range n.Archives {
			names += path.Base(x.Name) + " "
		}
		tableRow(t, shown(n.Instance), n.Date.Format("2006-01-02"), string(n.State), size(n.Bytes()), strings.TrimSpace(names), id, text)
	}
	t.Flush()
	for _, name := range others {
		fmt.Fprintf(w, "  no archive of that layout, and left alone: %s\n", shown(name))
	}
	var parts []string
	for _, s := range []legacy.State{legacy.Left, legacy.Done, legacy.Imported, legacy.Incomplete, legacy.Failed} {
		if count[s] > 0 {
			parts = append(parts, number(count[s])+" "+string(s))
		}
	}
	fmt.Fprintf(w, "%s: %s\n", plural(len(nights), "night", "nights"), strings.Join(parts, ", "))
}
