package main

import (
	"github.com/urfave/cli/v2"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/snapshot"
)

// Flags that several commands have.

func atFlag() cli.Flag {
	return &cli.GenericFlag{Name: "at", Value: newValue(parseWhen),
		Usage: "only snapshots at or before `TIME`: \"2026-11-20 03:00\", 2026-11-20 (its end), yesterday, \"2h ago\""}
}

func incompleteFlag() cli.Flag {
	return &cli.BoolFlag{Name: "incomplete", Usage: "let latest count checkpoints and incomplete snapshots, too"}
}

func compressionFlag() cli.Flag {
	return &cli.GenericFlag{Name: "compression", EnvVars: []string{"WTSNAP_COMPRESSION"}, Value: newValue(chunk.ParseLevel),
		Usage: "how hard to compress: `LEVEL` none, fastest, default, better or best"}
}

func dryRunFlag(usage string) cli.Flag {
	return &cli.BoolFlag{Name: "dry-run", Aliases: []string{"n"}, Usage: usage}
}

func nullFlag() cli.Flag {
	return &cli.BoolFlag{Name: "null", Aliases: []string{"0"}, Usage: "print paths only, as they are, each ended by a zero byte (for xargs -0)"}
}

func spanFlag(name, usage string) *cli.GenericFlag {
	return &cli.GenericFlag{Name: name, Value: newValue(snapshot.ParseDuration), Usage: usage}
}

func sizeFlag(name, usage string) *cli.GenericFlag {
	return &cli.GenericFlag{Name: name, Value: newValue(parseSize), Usage: usage}
}

func countFlag(name, usage string) *cli.GenericFlag {
	return &cli.GenericFlag{Name: name, Value: newValue(parseCount), Usage: usage}
}
