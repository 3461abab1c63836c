// Wtsnap-bench measures wtsnap beside restic, borg and others on corpora that it makes.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/whole-tale/wtsnap/cmd/wtsnap-bench/measure"
)

const usage = `wtsnap-bench measures wtsnap beside restic, borg and others.

  wtsnap-bench run                 make corpora, measure, print a table
  wtsnap-bench thin                how well a thin line to an S3 server is used
  wtsnap-bench mongo               dump and restore beside mongodump and mongorestore
  wtsnap-bench corpus DIR          make one corpus and nothing else
  wtsnap-bench compare A B         tell what differs between two trees
  wtsnap-bench apart               what the bytes of nights are made of
  wtsnap-bench bundles OLD NEW     what bundles of small files would store
  wtsnap-bench bound OLD NEW       what a perfect delta between two trees would upload

Each command explains its flags with -h. Exit codes: 0 done (compare: the trees are equal), 1 failed (compare: they
differ), 2 usage.
`

// errUsage is a command line that makes no sense; what is wrong was printed already.
var errUsage = errors.New("usage")

// errDiffer is two trees that are not equal; how was printed already.
var errDiffer = errors.New("the trees differ")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := command(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	switch {
	case err == nil:
	case errors.Is(err, errUsage):
		os.Exit(2)
	case errors.Is(err, errDiffer):
		os.Exit(1)
	default:
		fmt.Fprintln(os.Stderr, "wtsnap-bench:", err)
		os.Exit(1)
	}
}

func command(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	if len(args) == 0 {
		fmt.Fprint(stderr, usage)
		return errUsage
	}
	switch name, args := args[0], args[1:]; name {
	case "run":
		return runCommand(ctx, args, stdout, stderr)
	case "thin":
		return thinCommand(ctx, args, stdout, stderr)
	case "mongo":
		return mongoCommand(ctx, args, stdout, stderr)
	case "corpus":
		return corpusCommand(ctx, args, stderr)
	case "compare":
		return compareCommand(args, stdout, stderr)
	case "apart":
		return apartCommand(ctx, args, stdout, stderr)
	case "bundles":
		return bundlesCommand(args, stdout, stderr)
	case "bound":
		return boundCommand(ctx, args, stdout, stderr)
	case helperName: // how run starts what it measures
		return measure.Helper(args)
	case "help", "-h", "-help", "--help":
		fmt.Fprint(stdout, usage)
		return nil
	default:
		fmt.Fprintf(stderr, "wtsnap-bench: unknown command %q\n\n%s", name, usage)
		return errUsage
	}
}

const helperName = "measure"

// parse reads flags and as many arguments as are named in the synopsis.
func parse(flags *flag.FlagSet, stderr io.Writer, args []string, names ...string) error {
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprintf(stderr, "usage: wtsnap-bench %s [flags]", flags.Name())
		for _, name := range names {
			fmt.Fprintf(stderr, " %s", name)
		}
		fmt.Fprintln(stderr)
		flags.PrintDefaults()
	}
	if err := flags.Parse(args); err != nil {
		return errUsage
	}
	if flags.NArg() != len(names) {
		flags.Usage()
		return errUsage
	}
	return nil
}
