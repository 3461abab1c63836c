package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/whole-tale/wtsnap/cmd/wtsnap-bench/bound"
	"github.com/whole-tale/wtsnap/cmd/wtsnap-bench/corpus"
	"github.com/whole-tale/wtsnap/cmd/wtsnap-bench/measure"
	"github.com/whole-tale/wtsnap/cmd/wtsnap-bench/report"
	"github.com/whole-tale/wtsnap/cmd/wtsnap-bench/tool"
)

func runCommand(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("run", flag.ContinueOnError)
	sizeName := flags.String("size", "small", "tiny, small (300 MB of homes) or full (2 GB, 40,000 files)")
	seed := flags.Uint64("seed", 1, "the same seed makes the same corpora")
	runs := flags.Int("runs", 3, "medians are taken of this many runs")
	nights := flags.Int("nights", 3, "nights of changes in each run")
	corpora := flags.String("corpora", "homes,dump", "`names` of the corpora")
	tools := flags.String("tools", "wtsnap,restic,borg,kopia,rustic", "`names` of the programs; those that are not here are left out")
	paths := map[string]string{}
	flags.Func("program", "`NAME=PATH` of a program that is not in PATH; may be repeated", func(s string) error {
		name, path, ok := strings.Cut(s, "=")
		if !ok {
			return errors.New("want NAME=PATH")
		}
		paths[name] = path
		return nil
	})
	dir := flags.String("dir", "", "make corpora and repositories in a folder of their own below this `folder`, and remove it\n"+
		"in the end (default /dev/shm if there is room, else the folder for temporary files)")
	targets := flags.String("targets", "", "`folder` for restores (default /dev/shm if there is room, else as -dir)")
	jsonFile := flags.String("json", "", "write all figures to this `file`")
	if err := parse(flags, stderr, args); err != nil {
		return err
	}
	size, err := corpus.ParseSize(*sizeName)
	if err != nil {
		return err
	}
	if *runs < 1 || *nights < 1 {
		return errors.New("at least one run and one night are needed")
	}
	b := &bench{ctx: ctx, log: stderr, size: size, seed: *seed, runs: *runs, nights: *nights}
	if err := b.find(strings.Split(*tools, ","), paths); err != nil {
		return err
	}
	if err := b.places(*dir, *targets); err != nil {
		return err
	}
	err = errors.Join(b.measure(strings.Split(*corpora, ",")), b.clean())
	if len(b.report.Samples) == 0 {
		return err
	}
	if *jsonFile != "" {
		err = errors.Join(err, writeJSON(*jsonFile, &b.report))
	}
	return errors.Join(err, b.report.Markdown(stdout)) // also of a run that was interrupted
}

// bench is one call of run. What fails for one program is noted in the report; errors are for what stops everything.
type bench struct {
	ctx     context.Context
	log     io.Writer
	size    corpus.Size
	seed    uint64
	runs    int
	nights  int
	helper  []string
	tools   []*tool.Tool
	dir     string // of our own, for corpora, repositories and caches
	targets string // of our own, for restores
	xattrs  bool   // whether targets can have extended attributes
	report  report.Report
}

func (b *bench) find(names []string, paths map[string]string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	b.helper = []string{self, helperName}
	if paths["wtsnap"] == "" { // the one that was built with us
		if built := filepath.Join(filepath.Dir(self), "wtsnap"); exists(built) {
			paths["wtsnap"] = built
		}
	}
	found, missing, err := tool.Find(b.ctx, names, paths)
	if err != nil {
		return err
	}
	b.tools = found
	b.report = report.Report{Schema: 1, Started: time.Now().UTC(), Machine: machine(), Size: b.size.Name, Seed: b.seed,
		Runs: b.runs, Nights: b.nights}
	for _, t := range found {
		b.report.Tools = append(b.report.Tools, report.Tool{Name: t.Name, Version: t.Version, Options: t.Options})
	}
	for _, m := range missing {
		text := fmt.Sprintf("%s is not here (%s)", m.Name, m.Hint)
		b.report.Missing = append(b.report.Missing, text)
		fmt.Fprintln(b.log, "wtsnap-bench:", text)
	}
	if len(found) == 0 {
		return errors.New("no program to measure")
	}
	return nil
}

// measure makes the corpora anew for each run and takes the programs through all steps, one step after the other with
// the programs in turn, so that all of them see the same files, the same caches of the system and the same neighbours.
func (b *bench) measure(names []string) error {
	for _, name := range names {
		t, err := newTree(b.ctx, name, filepath.Join(b.dir, name), b.seed, b.size)
		if err != nil {
			return err
		}
		for run := 1; run <= b.runs; run++ {
			if err := b.run(t, run); err != nil {
				return fmt.Errorf("run %d, %s: %w", run, name, err)
			}
		}
	}
	return nil
}

func (b *bench) run(t tree, run int) error {
	if err := t.Make(b.ctx); err != nil {
		return err
	}
	if run == 1 {
		files, err := measure.List(t.Dir())
		if err != nil {
			return err
		}
		b.report.Corpora = append(b.report.Corpora, report.Corpus{Name: t.Name(), Files: len(files), Bytes: files.Bytes()})
	}
	r := &round{bench: b, tree: t, run: run, failed: map[string]bool{}}
	defer r.clean()
	r.prepare()
	r.step(report.FirstBackup, tool.Backup, 0)
	r.step(report.UnchangedNight, tool.Backup, 0)
	r.step(report.FirstRestore, tool.Restore, 0)
	for night := 1; night <= b.nights; night++ {
		if err := b.night(t, run, night); err != nil {
			return err
		}
		r.step(report.Night, tool.Backup, night)
	}
	r.step(report.Restore, tool.Restore, 0)
	r.whole()
	if t.Part() != "" {
		r.step(report.RestorePart, tool.RestorePart, 0)
	}
	r.step(report.Check, tool.Check, 0)
	r.step(report.Prune, tool.Prune, 0)
	if run == 1 {
		r.step(report.AfterPrune, tool.Restore, 0)
	}
	return b.ctx.Err()
}

// night changes the corpus and computes the bound, which is the same in every run.
func (b *bench) night(t tree, run, night int) error {
	keep := filepath.Join(b.dir, "old")
	defer os.RemoveAll(keep)
	changes, err := t.Night(b.ctx, night, keep)
	if err != nil || run > 1 {
		return err
	}
	least, err := bound.Of(b.ctx, pairs(t, changes))
	if err != nil {
		return err
	}
	c := &b.report.Corpora[len(b.report.Corpora)-1]
	c.Bounds = append(c.Bounds, least)
	fmt.Fprintf(b.log, "%-6s night %d: %d files changed, bound %.2f MB\n", t.Name(), night, len(changes), float64(least.Bytes)/1e6)
	return nil
}
