package main

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/whole-tale/wtsnap/snapshot"
)

func (a *app) dumpCommand() *cli.Command {
	return &cli.Command{
		Name: "dump", Usage: "write a file, or a folder as an archive, to standard output", ArgsUsage: "SNAPSHOT:PATH",
		Description: `Writes the bytes of one file; of a folder, a tar archive.

Examples:

  wtsnap dump latest:homes/alice/notes.txt | less
  wtsnap dump latest:homes/alice | tar -tv
  wtsnap dump latest~1:homes/alice --format zip > alice.zip`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "format", Usage: "write `FORMAT` raw (a file's bytes), tar or zip"},
			&cli.BoolFlag{Name: "to-tar", Usage: "the same as --format tar"},
			atFlag(), incompleteFlag(),
		},
		Action: a.action(a.dump),
	}
}

func (a *app) dump(c *cli.Context) error {
	if a.g.json {
		return usagef("leave --json out", "standard output is for what is dumped, not for JSON")
	}
	format := snapshot.DumpFormat(c.String("format"))
	switch format {
	case snapshot.DumpAuto, snapshot.DumpRaw, snapshot.DumpTar, snapshot.DumpZip:
	default:
		return usagef("--format raw, tar or zip", "there is no format %s", shown(string(format)))
	}
	if c.Bool("to-tar") {
		if format != snapshot.DumpAuto && format != snapshot.DumpTar {
			return usagef("leave one of them out", "--to-tar and --format %s exclude each other", format)
		}
		format = snapshot.DumpTar
	}
	if _, err := a.arguments(1, 1, "what to dump, SNAPSHOT:PATH,"); err != nil {
		return err
	}
	if isTerminal(a.std.out) && (format == snapshot.DumpTar || format == snapshot.DumpZip) {
		return usagef("wtsnap dump ... > FILE", "an archive is nothing for a terminal")
	}
	r, s, path, err := a.openSnapshot(c)
	if err != nil {
		return err
	}
	if err := r.LoadIndex(a.ctx); err != nil {
		return fmt.Errorf("loading the index: %w", err)
	}
	if isTerminal(a.std.out) && format == snapshot.DumpAuto {
		if n, err := snapshot.Lookup(a.ctx, r, s, path); err == nil && n.IsDir() {
			return usagef("wtsnap dump ... > FILE, or wtsnap ls", "an archive is nothing for a terminal")
		}
	}
	rep, err := snapshot.Dump(a.ctx, r, s, path, a.std.out, format)
	if rep != nil {
		a.printProblems(rep.Errors, rep.Problems)
	}
	if err != nil {
		return fmt.Errorf("dumping snapshot %s: %w", s.Ref.ID.Short(), err)
	}
	return restoreStatus(rep, nil)
}
