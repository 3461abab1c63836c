package main

import (
	"fmt"
	"io"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/snapshot"
)

type holdsDoc struct {
	Released  bool     `json:"released"`
	Snapshots []string `json:"snapshots"`
	Reason    string   `json:"reason,omitempty"`
	Until     string   `json:"until,omitempty"`
	// Anomaly: what was released is not a hold of single snapshots, but that of retention after an anomaly.
	Anomaly bool `json:"anomaly,omitempty"`
}

func (a *app) holdCommand() *cli.Command {
	return &cli.Command{
		Name: "hold", Usage: "keep a snapshot from being forgotten", ArgsUsage: "SNAPSHOT...",
		Description: `A held snapshot stays, whatever the rules of forget say, until it is released or its time is over.

After a night that is unlike those before it (much more was rewritten, deleted or encrypted) the rules forget nothing of the
instance until --release-anomaly says that the snapshot is fine: those that are named, or all of the instance.

Examples:

  wtsnap hold latest --reason "audit of 2026" --until 2027-12-31
  wtsnap hold --release 3f12ab34
  wtsnap hold --release-anomaly 3f12ab34 --reason "we moved to the new format"`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "reason", Usage: "`TEXT` that says why"},
			&cli.GenericFlag{Name: "until", Value: newValue(parseUntil), Usage: "hold until `TIME`: 30d (from now), 1y or 2027-12-31"},
			&cli.BoolFlag{Name: "release", Usage: "end the hold"},
			&cli.BoolFlag{Name: "release-anomaly", Usage: "a snapshot that is unlike those before it is fine: let the rules of forget go on"},
			atFlag(), incompleteFlag(),
		},
		Action: a.action(a.hold),
	}
}

func (a *app) hold(c *cli.Context) error {
	least := 1
	if c.Bool("release-anomaly") {
		least = 0
	}
	args, err := a.arguments(least, -1, "the snapshot")
	if err != nil {
		return err
	}
	if err := a.g.needInstance("hold"); err != nil {
		return err
	}
	until, hasUntil := get[time.Time](c, "until")
	release := c.Bool("release")
	switch {
	case release && (hasUntil || c.IsSet("reason")):
		return usagef("leave them out", "--release takes neither a reason nor a time")
	case c.Bool("release-anomaly") && (hasUntil || release):
		return usagef("leave them out", "--release-anomaly takes a reason alone")
	}
	r, err := a.openRepo()
	if err != nil {
		return err
	}
	if c.Bool("release-anomaly") {
		return a.releaseAnomaly(c, r, args)
	}
	sel := a.g.selector(c)
	sel.Instance = a.g.own
	doc := holdsDoc{Released: release, Reason: c.String("reason"), Snapshots: []string{}}
	if hasUntil {
		doc.Until = utc(until)
	}
	var snaps []*snapshot.Snapshot
	for _, spec := range args {
		s, _, err := a.resolve(r, spec, sel)
		if err != nil {
			return err
		}
		snaps = append(snaps, s)
	}
	for _, s := range snaps {
		if release {
			err = snapshot.ReleaseHold(a.ctx, r, s.Ref.ID)
		} else {
			err = snapshot.SetHold(a.ctx, r, s.Ref.ID, doc.Reason, until)
		}
		if err != nil {
			return fmt.Errorf("holding snapshot %s: %w", s.Ref.ID.Short(), err)
		}
		doc.Snapshots = append(doc.Snapshots, s.Ref.ID.String())
	}
	a.done(doc, func(w io.Writer) {
		for _, s := range snaps {
			switch {
			case release:
				fmt.Fprintf(w, "snapshot %s is released\n", s.Ref.ID.Short())
			case hasUntil:
				fmt.Fprintf(w, "snapshot %s is held until %s\n", s.Ref.ID.Short(), when(until))
			default:
				fmt.Fprintf(w, "snapshot %s is held until it is released\n", s.Ref.ID.Short())
			}
		}
	})
	return nil
}

// releaseAnomaly says that snapshots are fine that are unlike those before them: those named, or all of the instance.
func (a *app) releaseAnomaly(c *cli.Context, r *repo.Repository, args []string) error {
	sel := a.g.selector(c)
	sel.Instance = a.g.own
	var snaps []*snapshot.Snapshot
	for _, spec := range args {
		s, _, err := a.resolve(r, spec, sel)
		if err != nil {
			return err
		}
		if len(s.Unreleased()) == 0 {
			return usagef("wtsnap snapshots shows what is", "snapshot %s holds no retention", s.Ref.ID.Short())
		}
		snaps = append(snaps, s)
	}
	if len(args) == 0 {
		all, err := snapshot.List(a.ctx, r, snapshot.Filter{Instance: a.g.own})
		if err != nil {
			return fmt.Errorf("listing the snapshots: %w", err)
		}
		snaps = snapshot.HeldBy(all, a.g.own)
	}
	doc := holdsDoc{Released: true, Anomaly: true, Reason: c.String("reason"), Snapshots: []string{}}
	for _, s := range snaps {
		if err := snapshot.ReleaseAnomaly(a.ctx, r, s.Ref.ID, doc.Reason); err != nil {
			return fmt.Errorf("releasing snapshot %s: %w", s.Ref.ID.Short(), err)
		}
		doc.Snapshots = append(doc.Snapshots, s.Ref.ID.String())
	}
	a.done(doc, func(w io.Writer) {
		for _, s := range snaps {
			fmt.Fprintf(w, "snapshot %s is released: it holds retention no more\n", s.Ref.ID.Short())
		}
		if len(snaps) == 0 {
			fmt.Fprintln(w, "no snapshot holds retention")
		}
	})
	return nil
}
