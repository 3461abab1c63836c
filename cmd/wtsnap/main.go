// Command wtsnap makes deduplicating encrypted backups to any backend of rclone.
//
// Each command has a file: options, flags, one call, print. What they share: args.go brings flags and arguments into
// order, globals.go reads what holds for every command, open.go opens the repository, exit.go turns errors and reports
// into exit codes and words, output.go prints, progress.go shows how far an operation is.
package main

import (
	"context"
	"os"
)

func main() {
	ctx, stop := withSignals(context.Background())
	code := run(ctx, std{os.Stdin, os.Stdout, os.Stderr}, os.Args)
	stop()
	os.Exit(code)
}
