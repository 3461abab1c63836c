package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/whole-tale/wtsnap/snapshot"
)

func (a *app) tagCommand() *cli.Command {
	sub := func(name, usage string, change func(tags []string) (add, remove []string)) *cli.Command {
		return &cli.Command{
			Name: name, Usage: usage, ArgsUsage: "SNAPSHOT TAG...",
			Flags: []cli.Flag{atFlag(), incompleteFlag()},
			Action: a.action(func(c *cli.Context) error {
				args, err := a.arguments(2, -1, "the snapshot, or the tag,")
				if err != nil {
					return err
				}
				for _, tag := range args[1:] {
					if err := snapshot.CheckTag(tag); err != nil {
						return err
					}
				}
				return a.changeTags(c, args[0], change, args[1:])
			}),
		}
	}
	return &cli.Command{
		Name: "tag", Usage: "add tags to a snapshot, and remove them",
		Description: `Tags are words that snapshots are found by (wtsnap snapshots --tag) and kept by (wtsnap forget --keep-tag). Examples:

  wtsnap tag add latest release-1.4
  wtsnap tag remove 3f12ab34 release-1.3`,
		Subcommands: []*cli.Command{
			sub("add", "add tags to a snapshot", func(tags []string) (add, remove []string) { return tags, nil }),
			sub("remove", "remove tags from a snapshot", func(tags []string) (add, remove []string) { return nil, tags }),
		},
	}
}

func (a *app) changeTags(c *cli.Context, spec string, change func([]string) (add, remove []string), tags []string) error {
	r, err := a.openRepo()
	if err != nil {
		return err
	}
	s, _, err := a.resolve(r, spec, a.g.selector(c))
	if err != nil {
		return err
	}
	add, remove := change(tags)
	if err := snapshot.ChangeTags(a.ctx, r, s.Ref.ID, add, remove); err != nil {
		return fmt.Errorf("changing the tags of snapshot %s: %w", s.Ref.ID.Short(), err)
	}
	notes, err := r.Annotations(a.ctx)
	if err != nil {
		return fmt.Errorf("reading the tags of snapshot %s: %w", s.Ref.ID.Short(), err)
	}
	s.Notes = notes[s.Ref.ID]
	a.done(newSnapshotDoc(s), func(w io.Writer) {
		now := "no tags"
		if tags := s.CurrentTags(); len(tags) > 0 {
			now = strings.Join(tags, ", ")
		}
		fmt.Fprintf(w, "snapshot %s has %s\n", s.Ref.ID.Short(), now)
	})
	return nil
}
