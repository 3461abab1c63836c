package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/whole-tale/wtsnap/cmd/wtsnap-bench/bound"
	"github.com/whole-tale/wtsnap/cmd/wtsnap-bench/compare"
	"github.com/whole-tale/wtsnap/cmd/wtsnap-bench/corpus"
)

// A tree is a corpus that can be made and that changes every night.
type tree interface {
	Name() string
	Dir() string
	Part() string
	Make(context.Context) error
	Night(ctx context.Context, night int, keep string) ([]corpus.Change, error)
}

func newTree(ctx context.Context, name, dir string, seed uint64, size corpus.Size) (tree, error) {
	switch name {
	case "homes":
		return corpus.NewHomes(dir, seed, size, corpus.DefaultRoots(goEnv(ctx, "GOROOT"), goEnv(ctx, "GOMODCACHE"))), nil
	case "dump":
		return corpus.NewDump(dir, seed, size), nil
	}
	return nil, fmt.Errorf("corpus %q: want homes or dump", name)
}

// goEnv asks the go command; without one, homes have fewer real files.
func goEnv(ctx context.Context, name string) string {
	output, err := exec.CommandContext(ctx, "go", "env", name).Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(output))
}

func corpusCommand(ctx context.Context, args []string, stderr io.Writer) error {
	flags := flag.NewFlagSet("corpus", flag.ContinueOnError)
	kind := flags.String("kind", "homes", "`what` to make: homes or dump")
	sizeName := flags.String("size", "small", "tiny, small or full")
	seed := flags.Uint64("seed", 1, "the same seed makes the same corpus")
	nights := flags.Int("nights", 0, "play this many nights of changes")
	if err := parse(flags, stderr, args, "DIR"); err != nil {
		return err
	}
	size, err := corpus.ParseSize(*sizeName)
	if err != nil {
		return err
	}
	t, err := newTree(ctx, *kind, flags.Arg(0), *seed, size)
	if err != nil {
		return err
	}
	if err := t.Make(ctx); err != nil {
		return err
	}
	for night := 1; night <= *nights; night++ {
		if _, err := t.Night(ctx, night, ""); err != nil {
			return err
		}
	}
	return nil
}

func compareCommand(args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("compare", flag.ContinueOnError)
	var names []string
	for _, kind := range compare.Kinds() {
		names = append(names, string(kind))
	}
	ignore := flags.String("ignore", "", "`kinds` of differences that do not count, separated by commas: "+strings.Join(names, ","))
	show := flags.Int("max", 50, "print at most this many differences")
	if err := parse(flags, stderr, args, "A", "B"); err != nil {
		return err
	}
	var ignored []string
	if *ignore != "" {
		ignored = strings.Split(*ignore, ",")
	}
	for _, name := range ignored {
		if !slices.Contains(names, name) {
			fmt.Fprintf(stderr, "wtsnap-bench: unknown kind of difference %q\n", name)
			return errUsage
		}
	}
	result, err := compare.Trees(flags.Arg(0), flags.Arg(1))
	if err != nil {
		return err
	}
	count := 0
	for _, d := range result.Differences {
		if slices.Contains(ignored, string(d.Kind)) {
			continue
		}
		if count++; count <= *show {
			fmt.Fprintln(stdout, d)
		}
	}
	if count > *show {
		fmt.Fprintf(stdout, "and %d more\n", count-*show)
	}
	fmt.Fprintf(stdout, "%d files and folders, %.1f MB compared: %d differences\n", result.Files, float64(result.Bytes)/1e6, count)
	if count > 0 {
		return errDiffer
	}
	return nil
}

func boundCommand(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("bound", flag.ContinueOnError)
	if err := parse(flags, stderr, args, "OLD", "NEW"); err != nil {
		return err
	}
	pairs, err := bound.Trees(flags.Arg(0), flags.Arg(1))
	if err != nil {
		return err
	}
	b, err := bound.Of(ctx, pairs)
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "%d bytes for %d files with new content, %d of them in new files (by %s)\n", b.Bytes, b.Files, b.NewBytes, b.Program)
	return nil
}

// pairs turns a night's changes into what the bound is computed from.
func pairs(t tree, changes []corpus.Change) []bound.Pair {
	var list []bound.Pair
	for _, c := range changes {
		list = append(list, bound.Pair{Old: c.Old, New: filepath.Join(t.Dir(), c.Path)})
	}
	return list
}
