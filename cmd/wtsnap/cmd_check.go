package main

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/snapshot"
)

type checkDoc struct {
	Packs     int              `json:"packs"`
	Blobs     int              `json:"blobs"`
	Snapshots int              `json:"snapshots"`
	PacksRead int              `json:"packs_read"`
	BytesRead int64            `json:"bytes_read"`
	Orphans   repo.PackTotals  `json:"orphans"`
	Condemned repo.PackTotals  `json:"condemned"`
	Coverage  *repo.Coverage   `json:"coverage,omitempty"`
	Accepted  []string         `json:"accepted,omitempty"`
	Problems  []repo.Problem   `json:"problems"`
	Requests  map[string]int64 `json:"requests"`
	Seconds   float64          `json:"seconds"`
}

func (a *app) checkCommand() *cli.Command {
	return &cli.Command{
		Name: "check", Usage: "look for damage",
		Description: `Follows every snapshot to every blob it needs, and looks whether the packs that hold them are there with the right size and, where
the storage tells it, the right hash. --read-data reads and verifies every byte besides. What was read when is noted in the
repository, so that --read-data-within goes on from there, on any machine. A repository that lacks the newest snapshot that this
machine has seen there, although nobody has removed it, has been rolled back: that is a problem, too.

Examples:

  wtsnap check
  wtsnap check --read-data
  wtsnap check --read-data-subset 5%      a random twentieth
  wtsnap check --read-data-subset 2/7     the second of seven parts: one a day reads everything in a week
  wtsnap check --read-data-within 30d     what it takes so that runs like this one read everything within 30 days
  wtsnap check --read-data-within 30d --read-data-budget 20GiB
  wtsnap check --accept-rollback          after you have put an older copy of the repository back`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "read-data", Usage: "read and verify all data"},
			&cli.GenericFlag{Name: "read-data-subset", Value: newValue(parseSubset), Usage: "read and verify a `PART`: 5% or 2/7"},
			spanFlag("read-data-within", "read and verify so much that runs like this one read everything within `LONG`, what waits longest first"),
			&cli.GenericFlag{Name: "read-data-budget", Value: newValue(parseReadBudget), Usage: "with --read-data-within: read at most `SIZE` in this run"},
			&cli.BoolFlag{Name: "accept-rollback", Usage: "take the snapshots that are there for all that there should be, whatever this machine has seen before"},
		},
		Action: a.action(a.check),
	}
}

// shownPaths is how many paths of a snapshot are shown that damage affects; --json has more.
const shownPaths = 20

// maxCheckWorkers bounds the packs that a check reads at a time: each lies in memory, whatever --connections says.
const maxCheckWorkers = 8

func (a *app) check(c *cli.Context) error {
	start := time.Now()
	if _, err := a.arguments(0, 0, ""); err != nil {
		return err
	}
	part, hasPart := get[subset](c, "read-data-subset")
	if hasPart && c.Bool("read-data") {
		return usagef("leave one of them out", "--read-data and --read-data-subset exclude each other")
	}
	within, hasWithin := get[snapshot.Span](c, "read-data-within")
	budget, hasBudget := get[int64](c, "read-data-budget")
	switch {
	case hasWithin && (hasPart || c.Bool("read-data")):
		return usagef("leave one of them out", "--read-data-within chooses what to read, and so does another flag")
	case hasWithin && within.Duration() < time.Hour:
		return usagef("--read-data-within 30d", "--read-data-within %s is too short: at least 1h", within)
	case hasBudget && !hasWithin:
		return usagef("--read-data-within 30d", "--read-data-budget goes with --read-data-within")
	}
	r, err := a.openRepo()
	if err != nil {
		return err
	}
	var accepted []string
	if c.Bool("accept-rollback") {
		if accepted, err = a.acceptRollback(r); err != nil {
			return err
		}
	}
	load := snapshot.TreeLoader(r)
	o := repo.CheckOptions{References: snapshot.References(load), Paths: snapshot.LostPaths(load), ReadShare: part.share, Part: part.part, Parts: part.parts,
		Within: within.Duration(), ReadBudget: budget, Record: true}
	if c.Bool("read-data") {
		o.ReadShare = 1
	}
	o.Workers = min(a.g.connections, maxCheckWorkers)
	var p snapshot.Progress
	o.OnPack = func(done, total int, bytes int64) {
		p.TotalFiles.Store(int64(total))
		p.Files.Store(int64(done))
		p.Bytes.Add(bytes)
	}
	shows := a.startProgress("checking", &p)
	rep, err := r.Check(a.ctx, o)
	a.endProgress(shows)
	if err != nil {
		return fmt.Errorf("checking the repository: %w", err)
	}
	for _, w := range a.watched {
		w.Learn(a.ctx)
	}
	doc := checkDoc{rep.Packs, rep.Blobs, rep.Snapshots, rep.PacksRead, rep.BytesRead, rep.Orphans, rep.Condemned, rep.Coverage, accepted,
		append([]repo.Problem{}, rep.Problems...), a.requests(), time.Since(start).Seconds()}
	a.result(doc, func(w io.Writer) { printCheck(w, doc, o) })
	if err := rep.Unrecorded; err != nil && hasWithin {
		return errors.Join(checkStatus(rep, nil), fmt.Errorf("%w; the next run reads the same again", err))
	} else if err != nil {
		a.note(fmt.Sprintf("%v: --read-data-within will not count it", err))
	}
	return checkStatus(rep, nil)
}

// parseReadBudget reads a size that the largest pack fits into.
func parseReadBudget(s string) (int64, error) {
	n, err := parseSize(s)
	if err == nil && n < repo.MinReadBudget {
		err = fmt.Errorf("%q is too small: a pack may have %s", s, size(repo.MinReadBudget))
	}
	return n, err
}

// printCoverage says how far the reading of all packs has come.
func printCoverage(w io.Writer, c *repo.Coverage) {
	long := func(seconds int64) string { return age(time.Duration(seconds) * time.Second) }
	within := long(c.Within)
	fmt.Fprintf(w, "%.3g%% of %s was read and found whole within %s", 100*c.Share(), size(c.All.Bytes), within)
	if c.New.Packs > 0 {
		fmt.Fprintf(w, "; %s is not due yet", size(c.New.Bytes))
	}
	if c.Overdue.Packs > 0 {
		fmt.Fprintf(w, "; %s is overdue", size(c.Overdue.Bytes))
	}
	if !c.Full.IsZero() {
		fmt.Fprintf(w, "; everything by %s", when(c.Full))
	}
	fmt.Fprintln(w)
	if !c.Oldest.IsZero() {
		fmt.Fprintf(w, "the oldest reading is of %s\n", when(c.Oldest))
	}
	if c.TooSmall {
		fmt.Fprintf(w, "warning: with %s a run, one every %s, everything is read in %s, not in %s: it takes %s a run\n", size(c.Budget),
			long(c.Interval), long(c.Takes), within, size(c.Needed))
	}
}

func printCheck(w io.Writer, d checkDoc, o repo.CheckOptions) {
	fmt.Fprintf(w, "checked %s, %s, %s", plural(d.Snapshots, "snapshot", "snapshots"), plural(d.Packs, "pack", "packs"), plural(d.Blobs, "blob", "blobs"))
	if o.ReadShare > 0 || o.Parts > 0 || d.Coverage != nil {
		fmt.Fprintf(w, "; read %s (%s)", plural(d.PacksRead, "pack", "packs"), size(d.BytesRead))
	}
	fmt.Fprintf(w, " in %s\n", took(seconds(d.Seconds)))
	if d.Coverage != nil {
		printCoverage(w, d.Coverage)
	}
	if d.Orphans.Packs > 0 {
		fmt.Fprintf(w, "%s (%s) that no index lists: left by runs that ended early; wtsnap prune removes them\n",
			plural(d.Orphans.Packs, "pack", "packs"), size(d.Orphans.Bytes))
	}
	for _, name := range d.Accepted {
		fmt.Fprintf(w, "accepted: %s is not there any more\n", name)
	}
	for _, p := range d.Problems {
		fmt.Fprintf(w, "%s: %s: %s\n", p.Kind, printable(p.Object), printable(p.Detail))
		for _, path := range p.Paths[:min(len(p.Paths), shownPaths)] {
			fmt.Fprintf(w, "  lost, wholly or in part: /%s\n", printable(path))
		}
		if more := p.Lost - shownPaths; more > 0 {
			fmt.Fprintf(w, "  and %s\n", plural(more, "other path", "other paths"))
		}
		if p.Hint != "" {
			fmt.Fprintf(w, "  try: %s\n", printable(p.Hint))
		}
	}
	if len(d.Problems) == 0 {
		fmt.Fprintln(w, "no damage found")
	}
}
