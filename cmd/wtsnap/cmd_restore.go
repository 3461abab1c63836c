package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/whole-tale/wtsnap/mongo"
	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/snapshot"
	"github.com/whole-tale/wtsnap/snapshot/exclude"
)

func (a *app) restoreCommand() *cli.Command {
	return &cli.Command{
		Name: "restore", Usage: "bring files back", ArgsUsage: "[SNAPSHOT[:PATH]] --to TARGET",
		Description: `Brings a snapshot, or a part of it, back to a target: a folder, tar:FILE, zip:FILE, mongodump:FILE, or tar:- for
standard output. The entries of the folder that PATH names go directly into the target. Only what differs is written, so the
same command finishes a restore that was interrupted. A MongoDB goes into a folder as mongodump writes it, into an archive
for mongorestore, or into a running server.

Examples:

  wtsnap restore --to /tmp/restored                      the latest snapshot, a folder a label
  wtsnap restore latest:homes/alice --to /srv/homes/alice --dry-run
  wtsnap restore --at "2026-11-20 03:00" latest:homes/alice/notes.txt --to .
  wtsnap restore 3f12ab34:homes --to tar:homes.tar.zst
  wtsnap restore latest:homes/alice --to /srv/homes/alice --delete     as it was: removes what was not there
  wtsnap restore latest:mongo/girder --to mongodump:- | mongorestore --archive
  wtsnap restore latest:mongo/girder --to mongodb://localhost/ --dry-run
  wtsnap restore --user alice --to /tmp/alice --dry-run   the home, the tales and the documents of one user
  wtsnap restore --instance production --all --dry-run    everything, to where it was: the plan`,
		Flags: slices.Concat([]cli.Flag{
			&cli.StringFlag{Name: "to", Aliases: []string{"t"}, Usage: "restore to `TARGET`: a folder, tar:FILE, zip:FILE, tar:-, mongodump:FILE or mongodb://HOST/"},
			&cli.StringSliceFlag{Name: "include", Usage: "restore only what matches `PATTERN` of .gitignore, relative to PATH; may be repeated"},
			&cli.StringSliceFlag{Name: "exclude", Aliases: []string{"e"}, Usage: "leave out what matches `PATTERN`; may be repeated"},
			dryRunFlag("say what would be done, and do nothing"),
			&cli.BoolFlag{Name: "verify", Usage: "compare the content of files that look right, and read again what was written"},
			&cli.BoolFlag{Name: "delete", Usage: "remove what is in the target and not in the snapshot; shown first"},
			&cli.BoolFlag{Name: "yes", Aliases: []string{"y"}, Usage: "do not ask before --delete or --all"},
			&cli.StringFlag{Name: "owner-map", Usage: "read from `FILE` who owns what here: lines of user:alice=bob or group:1004=staff"},
			&cli.BoolFlag{Name: "numeric-ids", Usage: "restore owners by number, not by name"},
			&cli.BoolFlag{Name: "sparse", Usage: "make holes of long runs of zeros"},
			&cli.StringFlag{Name: "into", Usage: "this machine's instance `NAME`: a snapshot of another instance may go over what is here"},
			&cli.GenericFlag{Name: "workers", Value: newValue(parsePositive), Usage: "fetch `N` ranges at a time"},
			atFlag(), incompleteFlag(),
		}, allFlags(), userFlags(), mongoRestoreFlags()),
		Action: a.action(a.restore),
	}
}

func (a *app) restoreOptions(c *cli.Context) (o snapshot.RestoreOptions, err error) {
	if c.String("to") == "" {
		example := "--to FOLDER"
		if args := a.line.args; len(args) == 2 {
			example = "wtsnap restore " + shown(args[0]) + " --to " + shown(args[1])
		}
		return o, usagef(example, "restore needs a target")
	}
	if o.Target, err = snapshot.ParseTarget(c.String("to")); err != nil {
		return o, err
	}
	if err := a.mongoTarget(c, &o); err != nil {
		return o, err
	}
	if o.Target.Stdout && a.g.json {
		return o, usagef("leave --json out, or restore to a file", "standard output is for the archive, not for JSON")
	}
	if o.Target.Stdout && isTerminal(a.std.out) {
		return o, usagef("wtsnap restore ... --to "+o.Target.String()+" > FILE", "an archive is nothing for a terminal")
	}
	if err := a.restoreBase(c, &o); err != nil {
		return o, err
	}
	if o.Delete && o.Target.Kind != snapshot.TargetFolder {
		return o, usagef("leave --delete out", "there is nothing to delete in an archive")
	}
	o.Into, o.OwnInstance, o.Stdout = c.String("into"), a.ownInstance(), a.std.out
	if c.IsSet("into") && o.Into != o.OwnInstance && o.Target.Kind != snapshot.TargetMongoDB {
		return o, usagef("--into "+shown(o.OwnInstance), "--into %s: this machine's instance is %s", shown(o.Into), shown(o.OwnInstance))
	}
	return o, nil
}

// restoreBase reads the flags that hold for any target.
func (a *app) restoreBase(c *cli.Context, o *snapshot.RestoreOptions) (err error) {
	patterns := func(flag string) (out []exclude.Pattern, err error) {
		for _, text := range c.StringSlice(flag) {
			out = append(out, exclude.Pattern{Text: text, Origin: "--" + flag})
		}
		_, err = exclude.Compile(out)
		return out, err
	}
	if o.Include, err = patterns("include"); err != nil {
		return err
	}
	if o.Exclude, err = patterns("exclude"); err != nil {
		return err
	}
	if file := c.String("owner-map"); file != "" {
		f, err := os.Open(file)
		if err != nil {
			return usagef("", "the owner map: %v", err)
		}
		o.OwnerMap, err = snapshot.ParseOwnerMap(f)
		f.Close()
		if err != nil {
			return fmt.Errorf("the owner map %s: %w", shown(file), err)
		}
	}
	o.DryRun, o.Verify, o.Delete, o.Yes = c.Bool("dry-run"), c.Bool("verify"), c.Bool("delete"), c.Bool("yes")
	o.NumericIDs, o.Sparse, o.Memory = c.Bool("numeric-ids"), c.Bool("sparse"), a.g.memory
	o.Workers, _ = get[int](c, "workers")
	if a.g.connections > 0 && (o.Workers == 0 || o.Workers > a.g.connections) {
		o.Workers = a.g.connections
	}
	return nil
}

type restoreDoc struct {
	Snapshot string `json:"snapshot"`
	Instance string `json:"instance"`
	Time     string `json:"time"`
	*snapshot.RestoreReport
	Requests map[string]int64 `json:"requests"`
	Errors   []jsonProblem    `json:"errors"`
	Actions  []actionDoc      `json:"actions,omitempty"` // of a dry run
	At       *mongoTime       `json:"at,omitempty"`
}

type actionDoc struct {
	Op string `json:"op"`
	jsonName
	Bytes int64 `json:"bytes"`
}

func (a *app) restore(c *cli.Context) error {
	switch {
	case c.Bool("all"):
		return a.restoreAll(c)
	case c.Bool("list-users"):
		return a.listUsers(c)
	case c.IsSet("user"):
		return a.restoreUser(c)
	}
	if c.IsSet("to-mongo") || c.IsSet("map") {
		return usagef("--all, or --user NAME", "--to-mongo and --map are for the restore of a whole instance, or of what belongs to one user")
	}
	o, err := a.restoreOptions(c)
	if err != nil {
		return err
	}
	filter, err := readFilter(c, &o)
	if err != nil {
		return err
	}
	r, s, path, err := a.openSnapshot(c)
	missing := err
	if is[*snapshot.NotFoundError](err) && c.IsSet("at") { // a server's clock may be behind this machine's
		s, path, err = a.newest(c, r)
	}
	if err != nil {
		return cmp.Or(missing, err)
	}
	o.Snapshot, o.Path = s, path
	if err := r.LoadIndex(a.ctx); err != nil {
		return fmt.Errorf("loading the index: %w", err)
	}
	m, err := a.useMoment(c, r, &o)
	if err != nil {
		return err
	}
	if m == nil && missing != nil {
		return missing
	}
	if o.Delete && m != nil {
		return usagef("leave --delete out", "a MongoDB's moment goes into a new folder: there is nothing to delete")
	}
	if o.Delete && !o.Yes && !o.DryRun {
		if o.Yes, err = a.confirmDelete(r, o); err != nil || !o.Yes {
			return err
		}
	}
	open, err := a.useFilter(r, filter, &o, m)
	if err != nil {
		return err
	}
	return a.doRestore(r, o, m, open)
}

// confirmDelete shows what --delete would remove, and asks.
func (a *app) confirmDelete(r *repo.Repository, o snapshot.RestoreOptions) (bool, error) {
	o.DryRun, o.Monitor = true, &monitor{a: a}
	rep, err := snapshot.Restore(a.ctx, r, o)
	if err != nil {
		return false, fmt.Errorf("restoring snapshot %s: %w", o.Snapshot.Ref.ID.Short(), err)
	}
	if rep.Delete == nil || rep.Delete.Entries == 0 {
		return true, nil
	}
	for i, d := range rep.Delete.List {
		if i == 2*maxShown {
			a.say(fmt.Sprintf("  and %s more", number(len(rep.Delete.List)-i)))
			break
		}
		a.say(fmt.Sprintf("  %s  (%s, %s)", shown(d.Path), plural(d.Entries, "entry", "entries"), size(d.Bytes)))
	}
	if !a.interactive() && rep.Delete.Refused != "" {
		return false, &statusError{exitTargetGuard, "restoring to " + shown(o.Target.Path) + ": refused: " + rep.Delete.Refused, "--dry-run lists what would be deleted; --yes deletes it", nil}
	}
	if !a.interactive() {
		return false, &statusError{exitTargetGuard, fmt.Sprintf("restoring: nothing was done: --delete would remove %s (%s), and there is nobody to ask",
			plural(rep.Delete.Entries, "entry", "entries"), size(rep.Delete.Bytes)), "--dry-run lists them; --yes removes them", nil}
	}
	question := fmt.Sprintf("Not in the snapshot: %s (%s). Remove?", plural(rep.Delete.Entries, "entry", "entries"), size(rep.Delete.Bytes))
	if rep.Delete.Refused != "" {
		question = "Careful: " + rep.Delete.Refused + ". " + question
	}
	if yes, err := a.askYes(question); yes || err != nil {
		return yes, err
	}
	return false, &statusError{exitFailed, "restoring: nothing was done, because you did not agree", "leave --delete out to keep them", nil}
}

// doRestore restores; with a moment, what a MongoDB was then. Where open is not nil, documents that it yields go into a
// folder.
func (a *app) doRestore(r *repo.Repository, o snapshot.RestoreOptions, m *mongo.Moment, open mongo.Opener) error {
	var mu sync.Mutex
	var actions []actionDoc
	lines := o.DryRun || a.g.verbose
	o.OnAction = func(act snapshot.Action) {
		if !lines && act.Op != snapshot.OpDelete {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		switch {
		case a.g.json && o.DryRun:
			actions = append(actions, actionDoc{string(act.Op), nameOf(act.Path), act.Bytes})
		case a.g.json || a.g.quiet && !o.DryRun:
		case o.DryRun:
			fmt.Fprintf(a.std.out, "%-8s %s\n", act.Op, shown(act.Path))
		default:
			a.say(fmt.Sprintf("%-8s %s", act.Op, shown(act.Path)))
		}
	}
	var p snapshot.Progress
	o.Progress, o.Monitor = &p, &monitor{a: a}
	start := time.Now()
	shows := a.startProgress("restoring", &p)
	do := snapshot.Restore
	if open != nil {
		do = func(ctx context.Context, r *repo.Repository, o snapshot.RestoreOptions) (*snapshot.RestoreReport, error) {
			return mongo.FolderTarget{Open: open}.RestoreTo(ctx, r, o, nil)
		}
	}
	rep, err := do(a.ctx, r, o)
	a.endProgress(shows)
	if rep != nil {
		a.printProblems(rep.Errors, rep.Problems)
		doc := restoreDoc{o.Snapshot.Ref.ID.String(), o.Snapshot.Instance, utc(o.Snapshot.Time), rep, a.requests(), jsonProblems(rep.Errors), actions, nil}
		if m != nil {
			doc.At = &mongoTime{utc(m.At.Time()), m.At.I}
		}
		text := a.std.out
		if o.Target.Stdout {
			text = a.std.err
		}
		a.result(doc, nil)
		if err == nil && !a.g.json && !a.g.quiet {
			printRestore(text, rep, o, m, time.Since(start))
		}
	}
	if err != nil {
		err = fmt.Errorf("restoring snapshot %s: %w", o.Snapshot.Ref.ID.Short(), err)
		return interruption(a.ctx, err, "restoring: interrupted; what was written stays", "run the same command again: it writes only what is missing")
	}
	return restoreStatus(rep, nil)
}

func printRestore(w io.Writer, rep *snapshot.RestoreReport, o snapshot.RestoreOptions, m *mongo.Moment, d time.Duration) {
	s := o.Snapshot
	what := s.Ref.ID.Short()
	if rep.Path != "" {
		what += ":" + shown(rep.Path)
	}
	verb := "restored"
	if rep.DryRun {
		verb = "would restore"
	}
	at := when(s.Time)
	if m != nil {
		at = "as of " + momentText(m.At)
	}
	fmt.Fprintf(w, "%s %s of %s, %s, to %s\n", verb, what, shown(s.Instance), at, shown(o.Target.String()))
	if o.Target.Kind == snapshot.TargetMongoDB {
		printMongoRestore(w, rep)
		fmt.Fprintf(w, "  %-11s %s\n", "took", took(d))
		return
	}
	row := func(name, text string) { fmt.Fprintf(w, "  %-9s %s\n", name, text) }
	text := fmt.Sprintf("%s new, %s changed, %s as they were", number(rep.Files.New), number(rep.Files.Updated), number(rep.Files.Unchanged))
	if rep.Files.Failed > 0 {
		text += ", " + number(rep.Files.Failed) + " failed"
	}
	if rep.Documents != nil {
		printDocuments(row, rep, o)
	} else {
		row("files", text)
	}
	row("bytes", fmt.Sprintf("%s in all, %s written, %s downloaded", size(rep.Bytes.Total), size(rep.Bytes.Written), size(rep.Bytes.Downloaded)))
	if d := rep.Delete; d != nil && d.Entries > 0 {
		row("removed", fmt.Sprintf("%s, %s", plural(d.Entries, "entry", "entries"), size(d.Bytes)))
		if rep.DryRun && d.Refused != "" {
			row("", "refused without --yes: "+d.Refused)
		}
	}
	for _, lack := range rep.Lacks {
		row("lacking", fmt.Sprintf("%s of %s", lack.What, plural(lack.Count, "entry", "entries")))
	}
	row("took", took(d))
}
