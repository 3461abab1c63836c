package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/whole-tale/wtsnap/mongo"
	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/repo/storage/cache"
	"github.com/whole-tale/wtsnap/snapshot"
	"github.com/whole-tale/wtsnap/snapshot/drill"
)

func (a *app) drillCommand() *cli.Command {
	return &cli.Command{
		Name: "drill", Usage: "restore a sample and prove that it is what was saved", ArgsUsage: "[LABEL/USER...]",
		Description: `Restores files of every user who has not been drilled for some days, and of every collection's turn, from the newest and the
oldest complete snapshot, into a folder that it removes again; compares them with the hashes that were recorded, and with the
live files that have not changed since. What was drilled when is noted in the repository.

Examples:

  wtsnap drill
  wtsnap drill --budget 10GiB --every 1w
  wtsnap drill homes/alice           this user now
  wtsnap drill --coverage            who was drilled when, and what is overdue; nothing is restored

Exit codes: 0 all came back as it was; 13 something did not; 6 something has not been drilled for longer than --every.`,
		Flags: []cli.Flag{
			sizeFlag("budget", "restore and decode at most `SIZE` (default: 1GiB)"),
			spanFlag("every", "drill every user and every collection at least once every `LONG` (default: 1w)"),
			&cli.StringSliceFlag{Name: "depth", Usage: "the users of a source are the folders so deep below it, `LABEL=N` (default: 1); may be repeated"},
			&cli.StringFlag{Name: "scratch", Usage: "restore into a folder below `FOLDER` (default: the cache's of systemd, else the temporary one)"},
			&cli.BoolFlag{Name: "no-live", Usage: "do not compare with the live files"},
			&cli.BoolFlag{Name: "all", Usage: "drill those that are not due as well"},
			&cli.BoolFlag{Name: "coverage", Usage: "say who was drilled when and what is overdue, and restore nothing"},
			dryRunFlag("say what would be drilled"),
		},
		Action: a.action(a.drill),
	}
}

type drillDoc struct {
	Instance string            `json:"instance"`
	Newest   string            `json:"newest"`
	Oldest   string            `json:"oldest,omitempty"`
	Budget   int64             `json:"budget"`
	Every    float64           `json:"every_seconds"`
	DryRun   bool              `json:"dry_run"`
	Plan     []drill.Planned   `json:"plan,omitempty"`
	Report   *drill.Report     `json:"report,omitempty"`
	Coverage *drill.Coverage   `json:"coverage,omitempty"` // of --coverage
	Drilled  []drill.LastDrill `json:"drilled,omitempty"`  // of --coverage
	Requests map[string]int64  `json:"requests"`
	Seconds  float64           `json:"seconds"`
}

// checkDepth refuses what says no depth.
func checkDepth(text string) error {
	_, _, err := parseDepth(text)
	return err
}

func parseDepth(text string) (label string, n int, err error) {
	label, digits, ok := strings.Cut(text, "=")
	n, err = strconv.Atoi(digits)
	if !ok || label == "" || err != nil || n < 1 || n > 16 {
		return "", 0, fmt.Errorf("%q says no depth: write LABEL=N, such as homes=2", text)
	}
	return label, n, nil
}

// drillOptions are what the flags say.
func (a *app) drillOptions(c *cli.Context) (o drill.Options, err error) {
	o = drill.Options{Now: a.now(), All: c.Bool("all"), Only: a.line.args, Documents: mongo.CountDocuments, Memory: a.g.memory / 2}
	if n, ok := get[int64](c, "budget"); ok {
		if o.Budget = n; n <= 0 {
			return o, usagef("--budget 1GiB", "--budget %s leaves nothing to restore", c.String("budget"))
		}
	}
	if span, ok := get[snapshot.Span](c, "every"); ok {
		if o.Every = span.Duration(); o.Every <= 0 {
			return o, usagef("--every 1w", "--every %s is no time", c.String("every"))
		}
	}
	o.Depth = map[string]int{}
	for _, text := range c.StringSlice("depth") {
		label, n, err := parseDepth(text)
		if err != nil {
			return o, usagef("", "--depth: %v", err)
		}
		o.Depth[label] = n
	}
	for i, name := range o.Only {
		if o.Only[i], err = snapshot.CleanPath(name); err != nil || o.Only[i] == "" {
			return o, usagef("homes/alice", "%s is no path in a snapshot", shown(name))
		}
	}
	return o, nil
}

func (a *app) drill(c *cli.Context) error {
	start := time.Now()
	o, err := a.drillOptions(c)
	if err != nil {
		return err
	}
	if c.Bool("coverage") && (c.Bool("dry-run") || c.Bool("all") || len(o.Only) > 0) {
		return usagef("leave the others out", "--coverage drills nothing, so that it goes with none of --dry-run, --all and names")
	}
	r, err := a.openRepo()
	if err != nil {
		return err
	}
	if err := a.drillSnapshots(c, r, &o); err != nil {
		return err
	}
	if o.Ledger, err = drill.Records(a.ctx, r, o.Newest.Instance); err != nil {
		if len(o.Ledger) == 0 && !is[*repo.DamageError](err) {
			return fmt.Errorf("reading what was drilled before: %w", err)
		}
		a.warn("reading what was drilled before: " + message(err))
	}
	if err := r.LoadIndex(a.ctx); err != nil {
		return fmt.Errorf("reading the index: %w", err)
	}
	doc := drillDoc{Instance: o.Newest.Instance, Newest: o.Newest.Ref.ID.String(), Budget: o.BudgetBytes(), Every: o.Period().Seconds()}
	if o.Oldest != nil {
		doc.Oldest = o.Oldest.Ref.ID.String()
	}
	switch {
	case c.Bool("coverage"):
		return a.drillCoverage(r, o, doc, start)
	case c.Bool("dry-run"):
		return a.drillPlan(r, o, doc, start)
	}
	if !c.Bool("no-live") {
		o.Live = a.liveSources(o.Newest)
	}
	rep, err := a.drillNow(c, r, o)
	doc.Report, doc.Requests, doc.Seconds = rep, a.requests(), time.Since(start).Seconds()
	if rep != nil {
		a.done(doc, func(w io.Writer) { a.printDrill(w, &o, doc) })
	}
	return drillStatus(rep, err)
}

// drillSnapshots finds the newest and the oldest complete snapshot.
func (a *app) drillSnapshots(c *cli.Context, r *repo.Repository, o *drill.Options) error {
	newest, _, err := snapshot.Resolve(a.ctx, r, "latest", a.g.selector(c))
	if err != nil {
		return fmt.Errorf("looking for the newest snapshot: %w", err)
	}
	o.Newest = newest
	all, err := snapshot.List(a.ctx, r, snapshot.Filter{Instance: newest.Instance})
	if err != nil {
		return fmt.Errorf("listing the snapshots: %w", err)
	}
	for _, s := range all {
		if s.Complete && !s.Checkpoint && !s.HoldsOplog() {
			if s.Ref.ID != newest.Ref.ID {
				o.Oldest = s
			}
			return nil
		}
	}
	return nil
}

// liveSources are where the sources of this machine's own instance are.
func (a *app) liveSources(s *snapshot.Snapshot) map[string]string {
	live := map[string]string{}
	if s.Instance != a.ownInstance() {
		return live
	}
	for i := range s.Sources {
		src := &s.Sources[i]
		if src.Kind != snapshot.SourceFolder && src.Kind != snapshot.SourceFile {
			continue
		}
		path := src.Path
		if a.config != nil {
			if configured, ok := a.config.Source(src.Label); ok {
				if spec, err := a.configuredSource(&configured); err == nil && spec.Kind == snapshot.SourceFolder {
					path = spec.Path
				}
			}
		}
		if abs, err := filepath.Abs(path); err == nil {
			if _, err := os.Lstat(abs); err == nil {
				live[src.Label] = abs
			}
		}
	}
	return live
}

// scratchRoom is what the disk must have left beside what is restored, in bytes.
const scratchRoom = 64 << 20

// drillNow drills, and notes that it did.
func (a *app) drillNow(c *cli.Context, r *repo.Repository, o drill.Options) (rep *drill.Report, err error) {
	base := c.String("scratch")
	if base == "" {
		if base, _, _ = strings.Cut(os.Getenv("CACHE_DIRECTORY"), ":"); base == "" {
			base = os.TempDir()
		}
	}
	plan, err := drill.MakePlan(a.ctx, r, o)
	if err != nil {
		return nil, a.drillError(err)
	}
	if free, ok := cache.Free(base); ok && free < plan.Largest()+scratchRoom {
		return nil, &statusError{exitFailed, fmt.Sprintf("drilling: %s has %s left, and up to %s are restored at a time", shown(base), size(free), size(plan.Largest())),
			"--scratch FOLDER on another disk, or a smaller --budget", nil}
	}
	path, remove, err := drill.NewScratch(base)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, remove()) }()
	o.Scratch = path
	var p snapshot.Progress
	o.OnUnit = func(done, all int, bytes int64) {
		p.Files.Store(int64(done))
		p.TotalFiles.Store(int64(all))
		p.Bytes.Store(bytes)
	}
	shows := a.startProgress("drilling", &p)
	rep, err = drill.Run(a.ctx, r, o)
	a.endProgress(shows)
	failed := ""
	if err != nil {
		err = a.drillError(err)
		failed = a.words(err)
	}
	if a.ctx.Err() != nil {
		return rep, err
	}
	return rep, errors.Join(err, drill.Write(a.ctx, r, o, rep, failed))
}

// drillError makes a usage error of a name that means nothing.
func (a *app) drillError(err error) error {
	if errors.Is(err, fs.ErrNotExist) && len(a.line.args) > 0 {
		return usagef("wtsnap drill --coverage lists what there is", "%s", strings.TrimSuffix(err.Error(), ": "+fs.ErrNotExist.Error()))
	}
	return err
}

// drillStatus turns the report of a drill and its error into the error that the command ends with.
func drillStatus(rep *drill.Report, err error) error {
	switch {
	case err != nil:
		return err
	case rep.Bad > 0:
		text := "drilling: " + plural(rep.Bad, "thing", "things") + " did not come back as saved"
		if rep.Damaged > 0 {
			text += "; for " + number(rep.Damaged) + " of them stored data are missing or damaged"
		}
		return &statusError{exitDamage, text, "-v names the files; wtsnap check --read-data says what is damaged; docs/operations.md has more", nil}
	}
	return overdueStatus(&rep.Coverage)
}

func overdueStatus(c *drill.Coverage) error {
	if len(c.Overdue) == 0 {
		return nil
	}
	return &statusError{exitLate, "drilling: " + plural(len(c.Overdue), "user or collection is", "users or collections are") + " overdue",
		"a larger --budget, or run it more often", nil}
}

func (a *app) drillCoverage(r *repo.Repository, o drill.Options, doc drillDoc, start time.Time) error {
	list, c, err := drill.Covered(a.ctx, r, o)
	if err != nil {
		return fmt.Errorf("looking at what was drilled: %w", err)
	}
	doc.Coverage, doc.Drilled, doc.Requests, doc.Seconds = &c, list, a.requests(), time.Since(start).Seconds()
	overdue := map[string]bool{}
	for _, u := range c.Overdue {
		overdue[u.Unit] = true
	}
	a.result(doc, func(w io.Writer) {
		t := newTable("DRILLED LAST", "WHAT", "")
		for _, u := range list {
			at, state := "never", ""
			if !u.Time.IsZero() {
				at = when(u.Time)
			}
			if overdue[u.Unit] {
				state = "OVERDUE"
			}
			t.add(at, shown(u.Unit), state)
		}
		t.write(w)
		fmt.Fprintln(w, coverageText(&o, &c))
	})
	return overdueStatus(&c)
}

func (a *app) drillPlan(r *repo.Repository, o drill.Options, doc drillDoc, start time.Time) error {
	plan, err := drill.MakePlan(a.ctx, r, o)
	if err != nil {
		return a.drillError(err)
	}
	doc.DryRun, doc.Plan, doc.Requests, doc.Seconds = true, plan.Lines(), a.requests(), time.Since(start).Seconds()
	a.result(doc, func(w io.Writer) {
		if len(doc.Plan) == 0 {
			fmt.Fprintln(w, "nothing is due")
			return
		}
		t := newTable("WHAT", "OF", "AT MOST", "DRILLED LAST").alignRight(2)
		for _, l := range doc.Plan {
			of, last := "the newest", "never"
			if l.Old {
				of = "the oldest"
			}
			if !l.Last.IsZero() {
				last = when(l.Last)
			}
			t.add(shown(l.Unit), of, size(l.Bytes), last)
		}
		t.write(w)
	})
	return nil
}

// coverageText says in a line how well the promise is kept.
func coverageText(o *drill.Options, c *drill.Coverage) string {
	text := fmt.Sprintf("%s of %s were drilled in time (every %s)", number(c.InTime), number(c.Units), age(o.Period()))
	if len(c.Overdue) > 0 {
		text += ", " + number(len(c.Overdue)) + " are OVERDUE"
	} else if !c.Next.IsZero() {
		text += ", the next is due by " + when(c.Next)
	}
	return text
}

// shownOverdue is how many units a report names; --coverage and --json have all.
const shownOverdue = 10

func (a *app) printDrill(w io.Writer, o *drill.Options, d drillDoc) {
	rep := d.Report
	units := map[bool]int{}
	skipped := 0
	for i := range rep.Units {
		units[rep.Units[i].Old]++
		if rep.Units[i].Skipped != "" {
			skipped++
		}
	}
	fmt.Fprintf(w, "drilled %s: %s, %s in %s\n", shown(d.Instance), plural(rep.Files, "file", "files"), size(rep.Bytes), took(seconds(d.Seconds)))
	fmt.Fprintf(w, "  newest    %s, %s: %s\n", o.Newest.Ref.ID.Short(), when(o.Newest.Time), plural(units[false], "user or collection", "users or collections"))
	if o.Oldest != nil {
		fmt.Fprintf(w, "  oldest    %s, %s: %s\n", o.Oldest.Ref.ID.Short(), when(o.Oldest.Time), plural(units[true], "user or collection", "users or collections"))
	}
	if rep.Collections > 0 {
		fmt.Fprintf(w, "  decoded   %s, %s\n", plural(rep.Collections, "collection", "collections"), plural(rep.Documents, "document", "documents"))
	}
	if l := rep.Live; l != (drill.Live{}) {
		fmt.Fprintf(w, "  live      %s as they are now, %s changed since, %s gone", number(l.Equal), number(l.Changed), number(l.Gone))
		if l.Unread > 0 {
			fmt.Fprintf(w, ", %s cannot be read", number(l.Unread))
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintf(w, "  coverage  %s\n", coverageText(o, &rep.Coverage))
	for i, u := range rep.Coverage.Overdue {
		if i == shownOverdue {
			fmt.Fprintf(w, "            and %s\n", number(len(rep.Coverage.Overdue)-i))
			break
		}
		fmt.Fprintf(w, "            %s\n", shown(u.Unit))
	}
	if skipped > 0 {
		fmt.Fprintf(w, "  skipped   %s: the budget of %s is too small for any of their files\n", number(skipped), size(d.Budget))
	}
	for i := range rep.Units {
		if u := &rep.Units[i]; u.Bad > 0 {
			fmt.Fprintf(w, "%s: %s did not come back as saved, of %s\n", shown(u.Path), plural(u.Bad, "thing", "things"), u.Snapshot[:8])
		}
	}
	for _, m := range rep.Mismatches {
		if a.g.verbose {
			fmt.Fprintf(w, "  %s: %s\n", shown(m.Path), printable(m.Error))
		}
	}
	if rep.Bad == 0 && len(rep.Units) > skipped {
		fmt.Fprintln(w, "all of it came back as it was saved")
	} else if len(rep.Units) == 0 {
		fmt.Fprintln(w, "nothing is due")
	}
}
