package main

import (
	"fmt"
	"io"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/whole-tale/wtsnap/snapshot"
)

type holdsDoc struct {
	Released  bool     `json:"released"`
	Snapshots []string `json:"snapshots"`
	Reason    string   `json:"reason,omitempty"`
	Until     string   `json:"until,omitempty"`
}

func (a *app) holdCommand() *cli.Command {
	return &cli.Command{
		Name: "hold", Usage: "keep a snapshot from being forgotten", ArgsUsage: "SNAPSHOT...",
		Description: `A held snapshot stays, whatever the rules of forget say, until it is released or its time is over.

Examples:

  wtsnap hold latest --reason "audit of 2026" --until 2027-12-31
  wtsnap hold --release 3f12ab34`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "reason", Usage: "`TEXT` that says why"},
			&cli.GenericFlag{Name: "until", Value: newValue(parseUntil), Usage: "hold until `TIME`: 30d (from now), 1y or 2027-12-31"},
			&cli.BoolFlag{Name: "release", Usage: "end the hold"},
			atFlag(), incompleteFlag(),
		},
		Action: a.action(a.hold),
	}
}

func (a *app) hold(c *cli.Context) error {
	args, err := a.arguments(1, -1, "the snapshot")
	if err != nil {
		return err
	}
	if err := a.g.needInstance("hold"); err != nil {
		return err
	}
	until, hasUntil := get[time.Time](c, "until")
	release := c.Bool("release")
	if release && (hasUntil || c.IsSet("reason")) {
		return usagef("leave them out", "--release takes neither a reason nor a time")
	}
	r, err := a.openRepo()
	if err != nil {
		return err
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
