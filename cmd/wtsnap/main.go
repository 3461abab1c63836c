// Command wtsnap makes deduplicating encrypted backups to any backend of rclone.
//
// Each command has a file: options, flags, one call, print. What they share: args.go brings flags and arguments into
// order, globals.go reads what holds for every command, open.go opens the repository, exit.go turns errors and reports
// into exit codes and words, output.go prints, progress.go shows how far an operation is.
package main

import (
	"context"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
)

// How much garbage may pile up, unless GOGC says otherwise: gcPercent of what is alive, and of ballast bytes, which are
// never touched and so take no memory. What is alive is mostly packs and buffers without a pointer in them, which cost
// nothing to collect: with 25 and half the ballast, a first backup of 300 MB collected 12 times instead of 15. Without the
// ballast a small heap would be collected all the time.
const (
	gcPercent = 10
	ballast   = 128 << 20
)

func main() { os.Exit(mainCode()) }

func mainCode() int {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
		defer runtime.KeepAlive(make([]byte, ballast))
	}
	unsetEmpty(os.Environ())
	ctx, stop := withSignals(context.Background())
	code := run(ctx, std{os.Stdin, os.Stdout, os.Stderr}, os.Args)
	stop()
	return code
}

// unsetEmpty takes variables that are empty out of the environment: they count as not set, as everywhere in this field, while
// package cli would take them for the value "", which wins over the configuration.
func unsetEmpty(environ []string) {
	for _, e := range environ {
		if name, value, _ := strings.Cut(e, "="); value == "" && (strings.HasPrefix(name, "WTSNAP_") || name == "RCLONE_CONFIG") {
			_ = os.Unsetenv(name)
		}
	}
}
