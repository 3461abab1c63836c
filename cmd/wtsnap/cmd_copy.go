package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/snapshot"
)

var (
	copyTarget = secondRepo{"to", "the other repository"}
	cutAs      = secondRepo{"from", "the repository to cut as"}
	healSource = secondRepo{"from", "the repository to heal from"}
)

type copiedDoc struct {
	ID       string        `json:"id"`
	Instance string        `json:"instance"`
	Time     string        `json:"time"`
	State    string        `json:"state"`
	Notes    int           `json:"notes"`
	Bytes    int64         `json:"bytes"`
	Files    int64         `json:"files"`
	Errors   []jsonProblem `json:"errors,omitempty"`
}

type copyCounts struct {
	Copied    int `json:"copied"` // with dry_run: to be copied
	Present   int `json:"present"`
	Forgotten int `json:"forgotten"`
	Damaged   int `json:"damaged"`
	Left      int `json:"left"` // neither copied nor looked at: the run ended before
}

type copyRequests struct {
	From map[string]int64 `json:"from"`
	To   map[string]int64 `json:"to"`
}

type copyDoc struct {
	DryRun    bool                `json:"dry_run"`
	From      string              `json:"from"`
	To        string              `json:"to"`
	Snapshots []copiedDoc         `json:"snapshots"`
	Counts    copyCounts          `json:"counts"`
	Bytes     snapshot.CopyBytes  `json:"bytes"`
	Blobs     snapshot.BlobCounts `json:"blobs"`
	Requests  copyRequests        `json:"requests"`
	Seconds   float64             `json:"seconds"`
}

func (a *app) copyCommand() *cli.Command {
	return &cli.Command{
		Name: "copy", Usage: "copy snapshots into another repository", ArgsUsage: "[SNAPSHOT...]",
		Description: `Copies snapshots into another repository, which has a key of its own: a second copy, in another place. Only what is missing
there is read and uploaded, each piece is verified on the way, and what ended early goes on where it ended. Snapshots keep
their ids, times, instances, tags and holds. Without arguments, all complete ones are copied: those of the instance, or all.

Examples:

  wtsnap copy --to-repo /mnt/second --to-password-file ~/second.key
  wtsnap copy latest --to-repo box:second --to-password-file ~/second.key
  wtsnap copy --all --to-repo @offsite --newer          [repositories.offsite] of the configuration
  wtsnap copy --dry-run --to-repo /mnt/second

Make the other repository with wtsnap init --copy-parameters-from, if backups are to go into it directly, too.

Exit codes: 0 all is there; 4 the budget is used up, or the window is over: the next run goes on from there; 13 snapshots
are damaged, and were not copied; 130 interrupted: the next run goes on from there.`,
		Flags: slices.Concat(copyTarget.flags("to-repo", "the other `REPOSITORY`: a folder, remote:path of rclone, or @NAME of the configuration"), []cli.Flag{
			&cli.BoolFlag{Name: "all", Usage: "copy the snapshots of all instances"},
			&cli.StringSliceFlag{Name: "tag", Usage: "only those with `TAG`; several times: with one of them"},
			&cli.BoolFlag{Name: "newer", Usage: "only those that are newer than the newest of their instance in the other repository"},
			atFlag(),
			&cli.BoolFlag{Name: "incomplete", Usage: "copy incomplete snapshots and checkpoints, too"},
			compressionFlag(),
		}, windowFlags("upload at most `SIZE` in this run"), []cli.Flag{dryRunFlag("show what is missing there and do nothing")}),
		Action: a.action(a.copy),
	}
}

func (a *app) copy(c *cli.Context) error {
	start := time.Now()
	var o snapshot.CopyOptions
	var err error
	if c.String("to-repo") == "" {
		return usagef("--to-repo FOLDER, or export WTSNAP_TO_REPO=...", "the repository to copy to was not named")
	}
	if c.Bool("all") && (a.line.given["instance"] || len(a.line.args) > 0) {
		return usagef("leave one of them out", "--all copies the snapshots of all instances, and some were chosen besides")
	}
	if budget, ok := get[int64](c, "upload-budget"); ok {
		if o.UploadBudget = budget; budget <= 0 {
			return usagef("--upload-budget 20GiB", "--upload-budget %s leaves nothing to store", c.String("upload-budget"))
		}
	}
	o.Level, _ = get[chunk.Level](c, "compression")
	o.Uploads = a.uploads()
	if o.Until, err = a.window(c); err != nil {
		return err
	}
	from, err := a.openRepo()
	if err != nil {
		return err
	}
	to, place, err := copyTarget.open(a, c, "to-repo")
	if err != nil {
		return fmt.Errorf("the repository to copy to: %w", err)
	}
	snaps, broken, err := a.snapshotsToCopy(c, from, to)
	if err != nil {
		return err
	}
	plan, err := snapshot.PlanCopy(a.ctx, from, to, snaps)
	if errors.Is(err, snapshot.ErrSameRepository) {
		return usagef("name another one, such as one made by wtsnap init -r FOLDER", "the repository to copy to is the one to copy from")
	}
	if err != nil {
		return fmt.Errorf("copying: %w", err)
	}
	if a.repoCutsElsewhere(from, to) && plan.Count(snapshot.CopyNew) > 0 {
		a.note("the two repositories cut files at different places: backups made into " + shownRepo(place) + " directly would not share what is copied " +
			"(wtsnap init --copy-parameters-from makes one that cuts alike)")
	}
	doc := copyDoc{DryRun: c.Bool("dry-run"), From: shownRepo(a.g.repo), To: shownRepo(place)}
	if !doc.DryRun {
		var rep *snapshot.CopyReport
		if rep, err = a.runCopy(plan, o); rep != nil {
			doc.Bytes, doc.Blobs = rep.Bytes, rep.Blobs
		}
		err = copyStatus(plan, interruption(a.ctx, err, "copying: interrupted", "run the same command again: it goes on from there, and uploads nothing twice"))
	}
	doc.fill(plan)
	doc.Requests, doc.Seconds = copyRequests{requestsOf(a.backend), requestsOf(a.second)}, time.Since(start).Seconds()
	a.done(doc, func(w io.Writer) { printCopy(w, plan, doc) })
	return errors.Join(err, broken, a.noteDamage("copying"))
}

// uploads is how many packs may be on their way at a time: 0 = the default.
func (a *app) uploads() int {
	if up := a.g.bandwidth.Fastest().Up; a.g.connections == 0 && up > 0 && up <= slowUplink {
		return slowUploads
	}
	return a.g.connections
}

// repoCutsElsewhere reports whether equal content is cut differently in the two repositories.
func (a *app) repoCutsElsewhere(from, to *repo.Repository) bool {
	return from.ChunkParams() != to.ChunkParams()
}

func (a *app) runCopy(plan *snapshot.CopyPlan, o snapshot.CopyOptions) (*snapshot.CopyReport, error) {
	var p snapshot.Progress
	o.Progress, o.Monitor = &p, &monitor{a: a}
	shows := a.startProgress("copying", &p)
	rep, err := plan.Copy(a.ctx, o)
	a.endProgress(shows)
	for _, s := range plan.Snapshots {
		a.printProblems(s.Lost, int64(len(s.Lost)))
	}
	if err != nil && !is[*snapshot.StoppedError](err) && a.ctx.Err() == nil {
		err = fmt.Errorf("copying: %w", err)
	}
	return rep, err
}

// snapshotsToCopy chooses the snapshots. broken names those whose manifest cannot be read.
func (a *app) snapshotsToCopy(c *cli.Context, from, to *repo.Repository) (snaps []*snapshot.Snapshot, broken, err error) {
	sel := a.g.selector(c)
	all, broken := snapshot.List(a.ctx, from, snapshot.Filter{})
	if broken != nil {
		if broken = fmt.Errorf("listing the snapshots: %w", broken); !is[*repo.DamageError](broken) {
			return nil, nil, broken
		}
	}
	byID := map[repo.SnapshotID]*snapshot.Snapshot{}
	for _, s := range all {
		byID[s.Ref.ID] = s
	}
	if len(a.line.args) > 0 {
		for _, arg := range a.line.args {
			s, path, err := a.resolve(from, arg, sel)
			if err != nil {
				return nil, nil, err
			}
			if path != "" {
				return nil, nil, usagef("leave :PATH out", "%s: whole snapshots are copied", shown(arg))
			}
			if with := byID[s.Ref.ID]; with != nil { // with its notes
				s = with
			}
			if !slices.ContainsFunc(snaps, func(o *snapshot.Snapshot) bool { return o.Ref.ID == s.Ref.ID }) {
				snaps = append(snaps, s)
			}
		}
		return snaps, nil, nil
	}
	instance := a.g.own
	if c.Bool("all") {
		instance = ""
	}
	snaps = chooseSnapshots(all, instance, sel.At, c.StringSlice("tag"), nil)
	if !c.Bool("incomplete") {
		snaps = slices.DeleteFunc(snaps, func(s *snapshot.Snapshot) bool { return !s.Complete || s.Checkpoint })
	}
	if c.Bool("newer") {
		refs, err := to.Snapshots(a.ctx)
		if err != nil {
			return nil, nil, fmt.Errorf("listing the snapshots of the repository to copy to: %w", err)
		}
		newest := map[string]time.Time{}
		for _, ref := range refs { // oldest first
			newest[ref.Instance] = ref.Time
		}
		snaps = slices.DeleteFunc(snaps, func(s *snapshot.Snapshot) bool { return !s.Ref.Time.After(newest[to.InstanceHash(s.Instance)]) })
	}
	return snaps, broken, nil
}

func copyStatus(plan *snapshot.CopyPlan, err error) error {
	damaged := plan.Count(snapshot.CopyDamaged)
	switch {
	case is[*snapshot.StoppedError](err):
		return &statusError{exitIncomplete, "copying: ended before the end", "run the same command again: it goes on from there, and uploads nothing twice", err}
	case err != nil || damaged == 0:
		return err
	}
	return &statusError{exitDamage, "copying: " + plural(damaged, "snapshot is", "snapshots are") + " damaged, and not copied",
		"wtsnap check --read-data names all that is damaged; wtsnap repair --help says what can be done", nil}
}

func (d *copyDoc) fill(plan *snapshot.CopyPlan) {
	d.Snapshots = []copiedDoc{}
	for _, s := range plan.Snapshots {
		e := copiedDoc{ID: s.Ref.ID.String(), Instance: s.Instance, Time: utc(s.Time), State: s.State, Notes: s.Notes, Bytes: s.Bytes, Files: s.Files}
		if len(s.Lost) > 0 {
			e.Errors = jsonProblems(s.Lost)
		}
		d.Snapshots = append(d.Snapshots, e)
	}
	d.Counts = copyCounts{Copied: plan.Count(snapshot.CopyDone), Present: plan.Count(snapshot.CopyPresent), Forgotten: plan.Count(snapshot.CopyForgotten),
		Damaged: plan.Count(snapshot.CopyDamaged), Left: plan.Count(snapshot.CopyNew)}
	if d.DryRun {
		d.Counts.Copied, d.Counts.Left = d.Counts.Left, 0
	}
}

func printCopy(w io.Writer, plan *snapshot.CopyPlan, d copyDoc) {
	t := newTable("ID", "TIME", "INSTANCE", "FILES", "SIZE", "").alignRight(3, 4)
	words := map[string]string{snapshot.CopyNew: "not copied yet", snapshot.CopyDone: "copied", snapshot.CopyDamaged: "damaged, not copied",
		snapshot.CopyForgotten: "forgotten there, not copied"}
	if d.DryRun {
		words[snapshot.CopyNew] = "would be copied"
	}
	notes, rows := 0, 0
	for _, s := range plan.Snapshots {
		if s.State == snapshot.CopyPresent {
			notes += s.Notes
			continue
		}
		rows++
		t.add(s.Ref.ID.Short(), when(s.Time), shown(s.Instance), number(s.Files), size(s.Bytes), words[s.State])
	}
	if rows > 0 {
		t.write(w)
	}
	if len(plan.Snapshots) == 0 {
		fmt.Fprintln(w, "there is no snapshot to copy")
		return
	}
	if n := d.Counts.Present; n > 0 {
		fmt.Fprintf(w, "%s there already\n", plural(n, "snapshot is", "snapshots are"))
	}
	if notes > 0 {
		verb := "copied "
		if d.DryRun {
			verb = "would copy "
		}
		fmt.Fprintf(w, "%s%s that they were given since\n", verb, plural(notes, "tag or hold", "tags and holds"))
	}
	if d.DryRun {
		fmt.Fprintln(w, "nothing was changed")
		return
	}
	fmt.Fprintf(w, "%s read, %s new there, %s uploaded; took %s, %s and %s\n", size(d.Bytes.Read), size(d.Bytes.New), size(d.Bytes.Uploaded),
		took(seconds(d.Seconds)), plural(sumRequests(d.Requests.From), "call here", "calls here"), plural(sumRequests(d.Requests.To), "call there", "calls there"))
}
