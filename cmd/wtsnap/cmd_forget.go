package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/snapshot"
)

var keepRules = []string{"last", "hourly", "daily", "weekly", "monthly", "yearly"}

func (a *app) forgetCommand() *cli.Command {
	flags := []cli.Flag{spanFlag("keep-within", "keep all that are at most `LONG` older than the newest (default, if nothing else is asked for: 1w)"),
		countFlag("keep-last", "keep the last `N`")}
	for _, rule := range keepRules[1:] {
		period := map[string]string{"hourly": "hours", "daily": "days", "weekly": "weeks", "monthly": "months", "yearly": "years"}[rule]
		flags = append(flags, countFlag("keep-"+rule, "keep the newest of each of the last `N` "+period+" in which there is one; all = of every one"))
	}
	flags = append(flags,
		&cli.StringSliceFlag{Name: "keep-tag", Usage: "keep those with `TAG`; may be given several times"},
		&cli.BoolFlag{Name: "all-instances", Usage: "apply the rules to every instance, each by itself"},
		dryRunFlag("show each decision and its reason, and do nothing"),
		&cli.BoolFlag{Name: "prune", Usage: "then free their space, as wtsnap prune does"},
	)
	return &cli.Command{
		Name: "forget", Usage: "take old snapshots out of the list", ArgsUsage: "[SNAPSHOT...]",
		Description: `Keeps what the rules ask for and forgets the rest, or forgets the snapshots named. The newest complete snapshot of an instance is
never forgotten by rules, nor one that is held; a checkpoint goes when a newer snapshot is complete. What was forgotten
comes back by wtsnap undelete until a prune has freed its space.

Examples:

  wtsnap forget --keep-daily 7 --keep-weekly 5 --keep-monthly 12 --dry-run
  wtsnap forget --keep-within 1m --keep-tag release --prune
  wtsnap forget 3f12ab34`,
		Flags:  append(flags, pruneFlags()...),
		Action: a.action(a.forget),
	}
}

func policyFlags(c *cli.Context) (p snapshot.Policy, set bool, err error) {
	var spanSet bool
	p.Within, spanSet = get[snapshot.Span](c, "keep-within")
	counts := map[string]*int{"last": &p.Last, "hourly": &p.Hourly, "daily": &p.Daily, "weekly": &p.Weekly, "monthly": &p.Monthly, "yearly": &p.Yearly}
	set = spanSet
	for _, rule := range keepRules {
		n, ok := get[int](c, "keep-"+rule)
		*counts[rule] = n
		set = set || ok
	}
	p.Tags = c.StringSlice("keep-tag")
	for _, tag := range p.Tags {
		if err := snapshot.CheckTag(tag); err != nil {
			return p, true, err
		}
	}
	set = set || len(p.Tags) > 0
	if set && p.IsZero() {
		return p, set, usagef("--keep-last 1 keeps the newest one alone", "the rules keep nothing")
	}
	return p, set, nil
}

type decisionDoc struct {
	ID       string   `json:"id"`
	Instance string   `json:"instance"`
	Time     string   `json:"time"`
	Reasons  []string `json:"reasons"`
}

type forgetDoc struct {
	DryRun    bool          `json:"dry_run"`
	Policy    string        `json:"policy,omitempty"`
	Forgotten []decisionDoc `json:"forgotten"`
	Kept      []decisionDoc `json:"kept"`
	Prune     *pruneDoc     `json:"prune,omitempty"`
	// Requests and Seconds are of the whole run.
	Requests map[string]int64 `json:"requests"`
	Seconds  float64          `json:"seconds"`
}

func (a *app) forget(c *cli.Context) error {
	start := time.Now()
	policy, rules, err := policyFlags(c)
	if err != nil {
		return err
	}
	all := c.Bool("all-instances")
	switch {
	case rules && len(a.line.args) > 0:
		return usagef("leave the rules, or the ids, out", "snapshots were named, and rules besides")
	case all && a.g.instance != "":
		return usagef("leave one of them out", "--instance and --all-instances exclude each other")
	case !all:
		if err := a.g.needInstance("forget"); err != nil {
			return err
		}
	}
	o, err := pruneOptions(c)
	if err != nil {
		return err
	}
	r, err := a.openRepo()
	if err != nil {
		return err
	}
	instance := a.g.own
	if all {
		instance = ""
	}
	var decisions []snapshot.Decision
	if len(a.line.args) > 0 {
		decisions, err = a.forgetNamed(r, instance)
	} else {
		decisions, err = a.forgetByPolicy(r, instance, policy)
	}
	if err != nil {
		return err
	}
	doc := newForgetDoc(decisions)
	doc.DryRun = c.Bool("dry-run")
	if len(a.line.args) == 0 {
		doc.Policy = policy.String()
	}
	if err := a.carryOut(r, decisions, doc); err != nil {
		return err
	}
	held := heldBy(decisions)
	if c.Bool("prune") && held == nil {
		if doc.DryRun {
			a.note("what is forgotten in a dry run is still needed: the plan of --prune leaves it out of account")
		}
		doc.Prune, err = a.prune(r, o, doc.DryRun)
	}
	doc.Requests, doc.Seconds = a.requests(), time.Since(start).Seconds()
	a.result(doc, nil)
	if err == nil && held != nil {
		return held
	}
	return cmp.Or(err, a.noteDamage("forgetting"))
}

// heldBy returns a *snapshot.HeldError where an anomaly held the rules up. What was named was meant.
func heldBy(decisions []snapshot.Decision) error {
	var snaps []*snapshot.Snapshot
	for _, d := range decisions {
		if d.Keep {
			snaps = append(snaps, d.Snapshot)
		}
	}
	for _, s := range snaps {
		if held := snapshot.HeldBy(snaps, s.Instance); len(held) > 0 {
			return &snapshot.HeldError{Instance: s.Instance, Snapshots: held}
		}
	}
	return nil
}

// forgetNamed decides to forget the snapshots that the arguments name.
func (a *app) forgetNamed(r *repo.Repository, instance string) ([]snapshot.Decision, error) {
	var out []snapshot.Decision
	seen := map[repo.SnapshotID]bool{}
	var refs []repo.SnapshotRef
	for _, spec := range a.line.args {
		s, path, err := a.resolve(r, spec, snapshot.Selector{Instance: instance, Own: a.g.own})
		if err != nil {
			return nil, err
		}
		if path != "" {
			return nil, usagef("wtsnap forget "+s.Ref.ID.Short(), "a part of a snapshot cannot be forgotten: %s", shown(spec))
		}
		if !seen[s.Ref.ID] {
			seen[s.Ref.ID] = true
			refs = append(refs, s.Ref)
		}
	}
	snaps, err := snapshot.Load(a.ctx, r, refs)
	if err != nil {
		return nil, fmt.Errorf("reading the snapshots: %w", err)
	}
	for _, s := range snaps {
		if h := s.Hold(); h.Active(a.now()) {
			return nil, usagef("wtsnap hold --release "+s.Ref.ID.Short(), "snapshot %s is held: %s", s.Ref.ID.Short(), shown(h.Reason))
		}
		out = append(out, snapshot.Decision{Snapshot: s, Reasons: []string{"named"}})
	}
	return out, nil
}

func (a *app) forgetByPolicy(r *repo.Repository, instance string, policy snapshot.Policy) ([]snapshot.Decision, error) {
	snaps, err := snapshot.List(a.ctx, r, snapshot.Filter{Instance: instance})
	a.learn(snaps...)
	if err != nil {
		return nil, fmt.Errorf("listing the snapshots: %w; nothing is forgotten while some cannot be read", err)
	}
	return snapshot.ApplyPolicy(snaps, policy, a.now()), nil
}

func newForgetDoc(decisions []snapshot.Decision) *forgetDoc {
	doc := &forgetDoc{Forgotten: []decisionDoc{}, Kept: []decisionDoc{}}
	for _, d := range decisions {
		e := decisionDoc{d.Snapshot.Ref.ID.String(), d.Snapshot.Instance, utc(d.Snapshot.Time), d.Reasons}
		if d.Keep {
			doc.Kept = append(doc.Kept, e)
		} else {
			doc.Forgotten = append(doc.Forgotten, e)
		}
	}
	return doc
}

// carryOut forgets, unless it is a dry run, and prints what is decided.
func (a *app) carryOut(r *repo.Repository, decisions []snapshot.Decision, doc *forgetDoc) error {
	text := a.std.out
	if a.g.json || a.g.quiet {
		text = io.Discard
	}
	if doc.Policy != "" {
		fmt.Fprintf(text, "rules: %s\n", doc.Policy)
	}
	t := newTable("", "ID", "TIME", "INSTANCE", "REASON")
	var refs []repo.SnapshotRef
	for _, d := range decisions {
		verb := "keep"
		if !d.Keep {
			verb = "forget"
			refs = append(refs, d.Snapshot.Ref)
		}
		if !d.Keep || doc.DryRun || a.g.verbose {
			t.add(verb, d.Snapshot.Ref.ID.Short(), when(d.Snapshot.Time), shown(d.Snapshot.Instance), strings.Join(d.Reasons, "; "))
		}
	}
	if len(t.rows) > 1 {
		t.write(text)
	}
	if doc.DryRun {
		fmt.Fprintf(text, "would forget %s and keep %s\n", plural(len(refs), "snapshot", "snapshots"), number(len(doc.Kept)))
		return nil
	}
	forget := r.Forget
	if doc.Policy == "" {
		forget = func(ctx context.Context, refs []repo.SnapshotRef) error { return r.ForgetNamed(ctx, refs, "named") }
	}
	if err := forget(a.ctx, refs); err != nil {
		return fmt.Errorf("forgetting: %w", err)
	}
	fmt.Fprintf(text, "forgot %s, kept %s\n", plural(len(refs), "snapshot", "snapshots"), number(len(doc.Kept)))
	return nil
}

type undeleteDoc struct {
	Snapshots []string `json:"snapshots"`
}

func (a *app) undeleteCommand() *cli.Command {
	return &cli.Command{
		Name: "undelete", Usage: "bring forgotten snapshots back", ArgsUsage: "ID...",
		Description: `Brings snapshots back that were forgotten, as long as no prune has freed their space.

Examples:

  wtsnap snapshots --forgotten
  wtsnap undelete 3f12ab34
  wtsnap undelete --all`,
		Flags:  []cli.Flag{&cli.BoolFlag{Name: "all", Usage: "bring all of them back (of --instance, if it is given)"}},
		Action: a.action(a.undelete),
	}
}

func (a *app) undelete(c *cli.Context) error {
	all := c.Bool("all")
	least, most := 1, -1
	if all {
		least, most = 0, 0
	}
	args, err := a.arguments(least, most, "the id of a forgotten snapshot (wtsnap snapshots --forgotten lists them)")
	if err != nil {
		return err
	}
	r, err := a.openRepo()
	if err != nil {
		return err
	}
	forgotten, err := r.Forgotten(a.ctx)
	if err != nil {
		return fmt.Errorf("listing the forgotten snapshots: %w", err)
	}
	var refs []repo.SnapshotRef
	if all {
		for _, ref := range forgotten {
			if a.g.instance == "" || ref.Instance == r.InstanceHash(a.g.instance) {
				refs = append(refs, ref)
			}
		}
	}
	for _, id := range args {
		spec, err := snapshot.ParseSpec(id)
		if err != nil {
			return err
		}
		if spec.ID == "" || spec.HasPath {
			return usagef("wtsnap snapshots --forgotten", "%s is no id of a forgotten snapshot", shown(id))
		}
		matches := snapshot.MatchID(forgotten, spec.ID)
		switch {
		case len(matches) == 0:
			return fmt.Errorf("bringing a snapshot back: %w", &snapshot.NotFoundError{Spec: id, Reason: "no forgotten one has an id that begins so",
				Hint: "wtsnap snapshots --forgotten"})
		case len(matches) > 1:
			snaps, err := snapshot.Load(a.ctx, r, matches)
			return errors.Join(&snapshot.AmbiguousError{Prefix: id, Matches: snaps}, err)
		}
		refs = append(refs, matches[0])
	}
	if err := r.Undelete(a.ctx, refs); err != nil {
		return fmt.Errorf("bringing snapshots back: %w", err)
	}
	doc := undeleteDoc{[]string{}}
	for _, ref := range refs {
		doc.Snapshots = append(doc.Snapshots, ref.ID.String())
	}
	a.done(doc, func(w io.Writer) {
		for _, ref := range refs {
			fmt.Fprintf(w, "snapshot %s of %s is back\n", ref.ID.Short(), when(ref.Time))
		}
		if len(refs) == 0 {
			fmt.Fprintln(w, "nothing was forgotten")
		}
	})
	return nil
}
