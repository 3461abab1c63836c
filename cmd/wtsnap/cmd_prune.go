package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/snapshot"
)

// pruneFlags are those of prune, and of forget with --prune.
func pruneFlags() []cli.Flag {
	return []cli.Flag{
		&cli.GenericFlag{Name: "max-unused", Value: newValue(parsePercent),
			Usage: fmt.Sprintf("leave up to `PERCENT` of what is used as unused space, to rewrite less (default: %d%%)", repo.DefaultMaxUnused)},
		sizeFlag("max-repack-size", "rewrite at most `SIZE` in this run"),
		&cli.GenericFlag{Name: "max-packs", Value: newValue(parseCount),
			Usage: "rewrite at most `N` packs, and remove at most N, in this run: where the storage counts calls"},
		spanFlag("grace", "remove what is no longer needed only `LONG` after a prune found it out (default: 20h); "+
			"0 says that nobody else uses the repository now, and frees everything at once"),
		compressionFlag(),
	}
}

// pruneWindow takes the budget and the window of prune into its options.
func (a *app) pruneWindow(c *cli.Context, o *repo.PruneOptions) (err error) {
	if budget, ok := get[int64](c, "upload-budget"); ok && (o.MaxRepack == 0 || budget < o.MaxRepack) {
		if o.MaxRepack = budget; budget <= 0 {
			return usagef("--upload-budget 5GiB", "--upload-budget %s leaves nothing to write", c.String("upload-budget"))
		}
	}
	o.Until, err = a.window(c)
	return err
}

func pruneOptions(c *cli.Context) (repo.PruneOptions, error) {
	o := repo.PruneOptions{MaxUnused: -1, Grace: repo.DefaultGrace}
	if p, ok := get[float64](c, "max-unused"); ok {
		o.MaxUnused = p
	}
	o.MaxRepack, _ = get[int64](c, "max-repack-size")
	if g, ok := get[snapshot.Span](c, "grace"); ok {
		o.Grace = g.Duration()
		if o.Grace > 0 && o.Grace < repo.MinGrace {
			return o, usagef("--grace 0, if nobody else uses the repository", "--grace %s is too short: %s is the least", g, took(repo.MinGrace))
		}
	}
	if o.MaxPacks, _ = get[int](c, "max-packs"); o.MaxPacks > 0 && o.Grace == 0 {
		return o, usagef("leave one of them out", "--max-packs and --grace 0 exclude each other")
	}
	o.Level, _ = get[chunk.Level](c, "compression")
	return o, nil
}

type prunePacks struct {
	Kept      int `json:"kept"`
	Repacked  int `json:"repacked"`
	Condemned int `json:"condemned"` // removed by a later prune
	Deleted   int `json:"deleted"`
}

type pruneBytes struct {
	Reclaimed  int64 `json:"reclaimed"` // freed now
	Repacked   int64 `json:"repacked"`  // written anew
	Later      int64 `json:"later"`     // freed by a later prune
	UnusedLeft int64 `json:"unused_left"`
}

type pruneDoc struct {
	DryRun    bool             `json:"dry_run"`
	Packs     prunePacks       `json:"packs"`
	Bytes     pruneBytes       `json:"bytes"`
	Snapshots int              `json:"snapshots"`
	NextSweep string           `json:"next_sweep,omitempty"` // from when on a prune frees what this one found
	Requests  map[string]int64 `json:"requests"`
	Seconds   float64          `json:"seconds"`
}

func (a *app) pruneCommand() *cli.Command {
	return &cli.Command{
		Name: "prune", Usage: "free the space of what no snapshot needs",
		Description: `Finds out what no snapshot needs any more, shows the plan, and carries it out. Backups and restores may go on meanwhile: that is
why data are removed in two steps, a grace time apart, by two prunes. --grace 0 does both at once where nobody else is
active.

Examples:

  wtsnap prune
  wtsnap prune --dry-run
  wtsnap prune --grace 0                    nobody else uses the repository now
  wtsnap prune --window 22:00-06:00         what is not rewritten by then is left to the next one`,
		Flags: slices.Concat(pruneFlags(), windowFlags("rewrite at most `SIZE` in this run"), []cli.Flag{dryRunFlag("show the plan and do nothing")}),
		Action: a.action(func(c *cli.Context) error {
			if _, err := a.arguments(0, 0, ""); err != nil {
				return err
			}
			o, err := pruneOptions(c)
			if err != nil {
				return err
			}
			if err := a.pruneWindow(c, &o); err != nil {
				return err
			}
			r, err := a.openRepo()
			if err != nil {
				return err
			}
			doc, err := a.prune(r, o, c.Bool("dry-run"))
			if doc != nil {
				a.result(doc, nil)
			}
			return err
		}),
	}
}

// prune plans, shows the plan, and carries it out.
func (a *app) prune(r *repo.Repository, o repo.PruneOptions, dryRun bool) (doc *pruneDoc, err error) {
	start := time.Now()
	o.References = snapshot.References(snapshot.TreeLoader(r))
	plan, err := r.PlanPrune(a.ctx, o)
	if err != nil {
		return nil, fmt.Errorf("pruning: %w", err)
	}
	defer func() { err = errors.Join(err, plan.Close(context.WithoutCancel(a.ctx))) }()
	text := a.std.out
	if a.g.json || a.g.quiet {
		text = io.Discard
	}
	printPlan(text, plan, o.Grace)
	if plan.RepackBytes > 0 {
		if text := roomForRepack(a.free(a.ctx), plan.RepackBytes); text != "" {
			a.warn(text)
		}
	}
	doc = planDoc(plan, o.Grace)
	if !dryRun {
		rep, err := plan.Execute(a.ctx)
		if err != nil {
			return nil, fmt.Errorf("pruning: %w", err)
		}
		doc = reportDoc(plan, rep)
		printPruned(text, doc, rep.NextSweep)
	}
	doc.Requests, doc.Seconds = a.requests(), time.Since(start).Seconds()
	return doc, nil
}

func printPlan(w io.Writer, p *repo.PrunePlan, grace time.Duration) {
	line := func(what string, t repo.PackTotals, remark string) {
		if t.Packs > 0 {
			fmt.Fprintf(w, "  %-8s %8s  %10s  %s\n", what, plural(t.Packs, "pack", "packs"), size(t.Bytes), remark)
		}
	}
	next := "freed by a prune after " + when(p.NextSweep)
	if grace == 0 {
		next = "freed now"
	}
	fmt.Fprintf(w, "plan, with %s:\n", plural(p.Snapshots, "snapshot", "snapshots"))
	line("keep", p.Used, size(p.UnusedLeft)+" of it unused")
	line("rewrite", p.Repack, fmt.Sprintf("%s of it is needed; the rest is %s", size(p.RepackBytes), next))
	line("condemn", p.Condemn, "nothing needs them; "+next)
	line("orphans", p.Orphans, "left by runs that ended early; "+next)
	line("remove", p.Sweep, "condemned before, freed now")
	line("wait", p.Later, "condemned before; their time has not come, a backup is still running, or --max-packs leaves them")
	if p.Absolved > 0 {
		fmt.Fprintf(w, "  %s condemned before: in use again\n", plural(p.Absolved, "pack", "packs"))
	}
	if p.Forgotten > 0 && p.Sweep.Packs > 0 {
		fmt.Fprintf(w, "  forgotten snapshots that need what is removed cannot be brought back afterwards\n")
	}
	if p.Repack.Packs+p.Condemn.Packs+p.Orphans.Packs+p.Sweep.Packs == 0 {
		fmt.Fprintln(w, "  nothing to do")
	}
}

func planDoc(p *repo.PrunePlan, grace time.Duration) *pruneDoc {
	d := &pruneDoc{DryRun: true, Snapshots: p.Snapshots,
		Packs: prunePacks{Kept: p.Used.Packs, Repacked: p.Repack.Packs, Condemned: p.Condemn.Packs + p.Orphans.Packs + p.Repack.Packs, Deleted: p.Sweep.Packs},
		Bytes: pruneBytes{Reclaimed: p.Sweep.Bytes, Repacked: p.RepackBytes, Later: p.Condemn.Bytes + p.Orphans.Bytes + p.Repack.Bytes + p.Later.Bytes,
			UnusedLeft: p.UnusedLeft}}
	if grace == 0 {
		d.Packs.Deleted, d.Packs.Condemned = d.Packs.Deleted+d.Packs.Condemned, 0
		d.Bytes.Reclaimed, d.Bytes.Later = d.Bytes.Reclaimed+d.Bytes.Later, 0
	}
	if d.Bytes.Later > 0 {
		d.NextSweep = utc(p.NextSweep)
	}
	return d
}

func reportDoc(p *repo.PrunePlan, rep *repo.PruneReport) *pruneDoc {
	d := &pruneDoc{Snapshots: p.Snapshots,
		Packs: prunePacks{Kept: rep.Kept.Packs, Repacked: rep.Repacked.Packs, Condemned: rep.Condemned.Packs, Deleted: rep.Deleted.Packs},
		Bytes: pruneBytes{Reclaimed: rep.Deleted.Bytes, Repacked: rep.Rewritten, UnusedLeft: rep.UnusedLeft}}
	if !rep.NextSweep.IsZero() {
		d.NextSweep = utc(rep.NextSweep)
		d.Bytes.Later = rep.Condemned.Bytes + p.Later.Bytes
	}
	return d
}

func printPruned(w io.Writer, d *pruneDoc, next time.Time) {
	fmt.Fprintf(w, "freed now %s", size(d.Bytes.Reclaimed))
	if d.Bytes.Later > 0 {
		fmt.Fprintf(w, "; %s more by the first prune after %s", size(d.Bytes.Later), when(next))
	}
	if d.Bytes.Repacked > 0 {
		fmt.Fprintf(w, "; rewritten %s", size(d.Bytes.Repacked))
	}
	fmt.Fprintf(w, "; left unused %s\n", size(d.Bytes.UnusedLeft))
}

// requests are the calls of the backend so far, by kind.
func (a *app) requests() map[string]int64 {
	return requestsOf(a.backend)
}

func requestsOf(b *backend) map[string]int64 {
	if b == nil {
		return map[string]int64{}
	}
	c := b.counts.Counts()
	return map[string]int64{"put": c.Put, "get": c.Get, "stat": c.Stat, "list": c.List, "delete": c.Delete,
		"uploaded_bytes": c.Uploaded, "downloaded_bytes": c.Downloaded}
}

func sumRequests(m map[string]int64) (n int64) {
	for kind, v := range m {
		if !strings.HasSuffix(kind, "_bytes") {
			n += v
		}
	}
	return n
}
