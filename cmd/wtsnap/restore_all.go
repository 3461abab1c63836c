package main

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/whole-tale/wtsnap/mongo"
	"github.com/whole-tale/wtsnap/mongo/whole"
	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/snapshot"
)

// allFlags are the flags of restore for a whole instance.
func allFlags() []cli.Flag {
	return []cli.Flag{
		&cli.BoolFlag{Name: "all", Usage: "restore all that an instance has saved: each label to where it was, or to where --map says; the plan is shown first"},
		&cli.StringSliceFlag{Name: "map", Usage: "with --all: restore `LABEL=TARGET` there, or not at all (LABEL=none); may be repeated. With --user: the ownership map, girder, wholetale or a file (default: the one that fits)"},
		&cli.StringFlag{Name: "to-mongo", Usage: "with --all: restore the MongoDB to `URI`"},
	}
}

// restoreAll brings a whole instance back.
func (a *app) restoreAll(c *cli.Context) error {
	start := time.Now()
	o, spec, err := a.allOptions(c)
	if err != nil {
		return err
	}
	r, err := a.openRepo()
	if err != nil {
		return err
	}
	if err := r.LoadIndex(a.ctx); err != nil {
		return fmt.Errorf("loading the index: %w", err)
	}
	if err := a.allInstance(c, r, spec, &o); err != nil {
		return err
	}
	p, err := whole.NewPlan(a.ctx, r, o)
	if err != nil {
		return fmt.Errorf("planning the restore of %s: %w", shown(o.Instance), err)
	}
	doc := func() { a.result(newAllDoc(a.ctx, p, &o, a.requests(), time.Since(start)), nil) }
	doc()
	refused := p.Refused()
	if !a.g.json && (!a.g.quiet || c.Bool("dry-run") || refused != nil) {
		printAllPlan(a.std.out, p, &o)
	}
	if refused != nil {
		return fmt.Errorf("restoring %s: nothing was done: %w", shown(o.Instance), refused)
	}
	if c.Bool("dry-run") || p.Left() == 0 {
		return nil
	}
	if err := a.confirmAll(c, p); err != nil {
		return err
	}
	err = p.Run(a.ctx, r, func(part *whole.Part, do func(*snapshot.Progress)) {
		var progress snapshot.Progress
		shows := a.startProgress("restoring "+shown(part.Label), &progress)
		do(&progress)
		a.endProgress(shows)
		if part.Report != nil {
			a.printProblems(part.Report.Errors, part.Report.Problems)
		}
		if part.Err != nil && a.ctx.Err() == nil {
			a.say("wtsnap: " + shown(part.Label) + ": " + a.words(part.Err))
		}
	})
	doc()
	if !a.g.json && !a.g.quiet {
		printAll(a.std.out, p, time.Since(start))
	}
	return a.allStatus(p, err)
}

// allOptions reads the flags.
func (a *app) allOptions(c *cli.Context) (o whole.Options, spec snapshot.Spec, err error) {
	for _, name := range []string{"to", "include", "exclude", "delete", "user", "with", "shares", "files-to", "list-users", "filter"} {
		if c.IsSet(name) {
			hint := "leave --" + name + " out"
			if name == "to" {
				hint = "--map LABEL=" + c.String("to") + " for one label; --to-mongo for the MongoDB; or leave --all out"
			}
			return o, spec, usagef(hint, "--all and --%s exclude each other", name)
		}
	}
	args, err := a.arguments(0, 1, "")
	if err != nil {
		return o, spec, err
	}
	if len(args) > 0 {
		if spec, err = snapshot.ParseSpec(args[0]); err != nil {
			return o, spec, err
		}
		if spec.HasPath {
			return o, spec, usagef("leave :"+spec.Path+" out; --map LABEL=none leaves a label out", "--all restores all of a snapshot, not a part")
		}
	}
	o.Targets = map[string]string{}
	for _, text := range c.StringSlice("map") {
		label, target, ok := strings.Cut(text, "=")
		if !ok || label == "" || target == "" {
			return o, spec, usagef("--map homes=/mnt/homes", "--map %s: it has not the form LABEL=TARGET", shown(text))
		}
		if _, twice := o.Targets[label]; twice {
			return o, spec, usagef("", "--map names the label %s twice", shown(label))
		}
		o.Targets[label] = target
	}
	if o.ToMongo = c.String("to-mongo"); o.ToMongo != "" && o.ToMongo != whole.LeftOut {
		if t, err := snapshot.ParseTarget(o.ToMongo); err != nil || t.Kind != snapshot.TargetMongoDB {
			return o, spec, usagef("--to-mongo mongodb://HOST/", "--to-mongo %s is no address of a MongoDB", shown(snapshot.RedactURI(o.ToMongo)))
		}
	}
	if err := a.restoreBase(c, &o.Base); err != nil {
		return o, spec, err
	}
	o.Base.Verify, o.Base.DryRun = c.Bool("verify") || !c.IsSet("verify"), false
	o.Base.Monitor = &monitor{a: a}
	t, err := a.mongoRestorer(c)
	if err != nil {
		return o, spec, err
	}
	if file := c.String("transform"); file != "" {
		text, err := os.ReadFile(file)
		if err != nil {
			return o, spec, usagef("", "the updates of --transform: %v", err)
		}
		o.Variant = string(text)
	}
	o.Mongo, o.Incomplete, o.Into = *t, c.Bool("incomplete"), c.String("into")
	dir, err := stateDir()
	if err != nil {
		return o, spec, err
	}
	o.Journal = filepath.Join(dir, "restores.json")
	return o, spec, nil
}

// allInstance settles whose snapshots are restored, and what this machine is.
func (a *app) allInstance(c *cli.Context, r *repo.Repository, spec snapshot.Spec, o *whole.Options) error {
	sel := a.g.selector(c)
	if spec.ID != "" || spec.Back > 0 {
		s, _, err := a.resolve(r, spec.String(), sel)
		if err != nil {
			return err
		}
		o.Snapshot, o.Instance = s, s.Instance
	} else {
		o.At = sel.At
		if text := c.Generic("at").(*value[time.Time]).text; text != "" {
			o.AtExactly = mongo.EndOfSecond(sel.At.Unix())
			if exact, ok := parseOpTime(text); ok {
				o.AtExactly = exact
			}
		}
		sel.At, sel.Incomplete = time.Time{}, true
		s, _, err := a.resolve(r, "latest", sel)
		if err != nil {
			return err
		}
		o.Instance = s.Instance
	}
	if o.OwnInstance = a.ownInstance(); a.line.given["instance"] && o.OwnInstance == a.g.instance {
		o.OwnInstance = a.configuredInstance()
	}
	if o.Into != "" && o.OwnInstance != "" && o.Into != o.OwnInstance {
		return usagef("--into "+shown(o.OwnInstance), "--into %s: this machine's instance is %s", shown(o.Into), shown(o.OwnInstance))
	}
	return nil
}

// confirmAll asks whether the plan is to be carried out.
func (a *app) confirmAll(c *cli.Context, p *whole.Plan) error {
	if c.Bool("yes") {
		return nil
	}
	if !a.interactive() {
		return &statusError{exitTargetGuard, "restoring: nothing was done: a whole instance is restored when the plan was seen, and there is nobody to ask",
			"--dry-run shows the plan; --yes carries it out", nil}
	}
	if a.g.json || a.g.quiet {
		return usagef("--dry-run shows it, --yes carries it out", "the plan is to be confirmed, and --json and --quiet do not show it")
	}
	yes, err := a.askYes(fmt.Sprintf("Restore %s?", plural(p.Left(), "part", "parts")))
	if yes || err != nil {
		return err
	}
	return &statusError{exitFailed, "restoring: nothing was done, because you did not agree", "--map LABEL=TARGET changes where a label goes", nil}
}

// gravity orders exit codes as docs/exit-codes.md says.
var gravity = []int{exitInterrupted, exitUsage, exitDamage, exitCredentials, exitSourceGuard, exitTargetGuard, exitPassword, exitNoRepository, exitBusy,
	exitIncomplete, exitPartial, exitFailed}

// allStatus is the error that the restore ends with.
func (a *app) allStatus(p *whole.Plan, err error) error {
	if a.ctx.Err() != nil {
		err = &statusError{exitInterrupted, "restoring: interrupted; what was written stays", "run the same command again: it goes on from there, and does nothing twice", nil}
		return err
	}
	if err != nil {
		return fmt.Errorf("restoring: %w", err)
	}
	var failed []string
	worst := exitOK
	for _, part := range p.Parts {
		if part.State != whole.Failed {
			continue
		}
		failed = append(failed, shown(part.Label))
		code := exitCode(a.ctx, cmp.Or(part.Err, restoreStatus(part.Report, nil)))
		if worst == exitOK || slices.Index(gravity, code) < slices.Index(gravity, worst) {
			worst = code
		}
	}
	if len(failed) == 0 {
		return nil
	}
	return &statusError{worst, fmt.Sprintf("restoring: %d of %s not wholly restored: %s", len(failed),
		plural(len(p.Parts), "part is", "parts are"), strings.Join(failed, ", ")), "look at what is named above and run the same command again: it does again only what is not done", nil}
}
