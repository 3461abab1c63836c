package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/whole-tale/wtsnap/cmd/wtsnap-bench/compare"
	"github.com/whole-tale/wtsnap/cmd/wtsnap-bench/measure"
	"github.com/whole-tale/wtsnap/cmd/wtsnap-bench/report"
	"github.com/whole-tale/wtsnap/cmd/wtsnap-bench/tool"
)

// A round is one run over one corpus. A program that fails in a step is left out of the later ones.
type round struct {
	*bench
	tree   tree
	run    int
	steps  int // done so far
	number int // of backups so far
	failed map[string]bool
}

func (r *round) place(t *tool.Tool, what string) string { return filepath.Join(r.dir, t.Name+"-"+what) }

// prepare makes an empty repository for each program.
func (r *round) prepare() {
	for _, t := range r.tools {
		err := errors.Join(os.Mkdir(r.place(t, "repo"), 0o700), os.Mkdir(r.place(t, "cache"), 0o700))
		if err == nil {
			_, err = r.commands(t, r.job(t, tool.Init), nil)
		}
		if err != nil {
			r.note(report.Sample{Tool: t.Name, Step: "init", Error: err.Error()})
		}
	}
}

func (r *round) clean() {
	for _, t := range r.tools {
		os.RemoveAll(r.place(t, "repo"))
		os.RemoveAll(r.place(t, "cache"))
		os.RemoveAll(r.place(t, "whole-repo"))
		os.RemoveAll(r.place(t, "whole-cache"))
	}
	os.RemoveAll(r.tree.Dir())
}

func (r *round) job(t *tool.Tool, step tool.Step) tool.Job {
	return tool.Job{Step: step, Source: r.tree.Dir(), Part: r.tree.Part(), Repo: r.place(t, "repo"), Cache: r.place(t, "cache"),
		Target: filepath.Join(r.targets, t.Name), Number: r.number}
}

// step takes every program through one step. Who is first changes from step to step and from run to run.
func (r *round) step(name report.Step, step tool.Step, night int) {
	if step == tool.Backup {
		r.number++
	}
	r.steps++
	for i := range r.tools {
		t := r.tools[(i+r.steps+r.run)%len(r.tools)]
		if r.failed[t.Name] || r.ctx.Err() != nil {
			continue
		}
		s := report.Sample{Tool: t.Name, Step: name, Night: night}
		if err := r.sample(t, r.job(t, step), &s); err != nil {
			s.Error = err.Error()
		}
		if r.ctx.Err() == nil {
			r.note(s)
		}
	}
}

// whole restores what is there now from a repository that never held anything else: what a restore would take if there
// had been no nights, and no deltas.
func (r *round) whole() {
	for _, t := range r.tools {
		if t.Name != "wtsnap" || r.failed[t.Name] || r.ctx.Err() != nil {
			continue
		}
		j := r.job(t, tool.Init)
		j.Repo, j.Cache = r.place(t, "whole-repo"), r.place(t, "whole-cache")
		s := report.Sample{Tool: t.Name, Step: report.WholeRestore}
		err := errors.Join(os.Mkdir(j.Repo, 0o700), os.Mkdir(j.Cache, 0o700))
		for _, j.Step = range []tool.Step{tool.Init, tool.Backup} {
			if err == nil {
				_, err = r.commands(t, j, nil)
			}
		}
		if err == nil {
			j.Step = tool.Restore
			err = r.sample(t, j, &s)
		}
		if err = errors.Join(err, os.RemoveAll(j.Repo), os.RemoveAll(j.Cache)); err != nil {
			s.Error = err.Error()
		}
		if r.ctx.Err() == nil {
			r.note(s)
		}
	}
}

// sample does one step with one program and compares what it restored.
func (r *round) sample(t *tool.Tool, j tool.Job, s *report.Sample) error {
	restores := j.Step == tool.Restore || j.Step == tool.RestorePart
	if restores {
		if err := os.Mkdir(j.Target, 0o755); err != nil {
			return err
		}
		defer os.RemoveAll(j.Target)
	}
	before, err := measure.List(j.Repo)
	if err != nil {
		return err
	}
	unix.Sync() // nobody pays for what another one wrote
	if s.Usage, err = r.commands(t, j, s); err != nil {
		return err
	}
	after, err := measure.List(j.Repo)
	if err != nil {
		return err
	}
	s.Stored = after.Bytes()
	s.Written = after.Written(before, t.Internal)
	if restores {
		return r.compare(t, j, s)
	}
	return nil
}

// commands runs a job's commands; their figures go into the sample, if there is one.
func (r *round) commands(t *tool.Tool, j tool.Job, s *report.Sample) (measure.Usage, error) {
	var sum measure.Usage
	for _, command := range t.Commands(j) {
		dir := command.Dir
		if dir == "" {
			dir = j.Cache
		}
		usage, output, err := measure.Run(r.ctx, r.helper,
			measure.Command{Args: append([]string{t.Program}, command.Args...), Dir: dir, Env: t.Env(j)})
		var exit *measure.ExitError
		if errors.As(err, &exit) && slices.Contains(command.Accept, exit.Status) {
			err = nil
		}
		if err != nil {
			return sum, fmt.Errorf("%s %s: %w", t.Name, command.Args[0], err)
		}
		sum = sum.Add(usage)
		t.Learn(j, output)
		if s != nil {
			if s.Figures, err = t.Figures(output); err != nil {
				return sum, fmt.Errorf("%s %s: figures: %w", t.Name, command.Args[0], err)
			}
		}
	}
	return sum, nil
}

func (r *round) compare(t *tool.Tool, j tool.Job, s *report.Sample) error {
	source := j.Source
	if j.Step == tool.RestorePart {
		source = filepath.Join(source, j.Part)
	}
	result, err := compare.Trees(source, t.Restored(j))
	if err != nil {
		return err
	}
	s.Differences = map[string]int{}
	for _, d := range result.Differences {
		if d.Kind == compare.Xattrs && !r.xattrs {
			continue
		}
		if s.Differences[string(d.Kind)]++; s.Differences[string(d.Kind)] <= 2 {
			s.Examples = append(s.Examples, d.String())
		}
	}
	return nil
}

// note keeps a sample and tells how it went.
func (r *round) note(s report.Sample) {
	s.Run, s.Corpus = r.run, r.tree.Name()
	r.report.Samples = append(r.report.Samples, s)
	step := string(s.Step)
	if s.Night > 0 {
		step = fmt.Sprintf("%s %d", step, s.Night)
	}
	where := fmt.Sprintf("%-6s run %d/%d  %-26s %-7s", s.Corpus, s.Run, r.runs, step, s.Tool)
	if s.Error != "" {
		r.failed[s.Tool] = true
		fmt.Fprintf(r.log, "%s failed: %s\n", where, s.Error)
		return
	}
	different := 0
	for _, n := range s.Differences {
		different += n
	}
	fmt.Fprintf(r.log, "%s %7.2f s %7.2f s CPU %5d MiB %9.2f MB written", where, s.Wall, s.User+s.System, s.Peak>>20, float64(s.Written)/1e6)
	if different > 0 {
		fmt.Fprintf(r.log, "  %d differences", different)
	}
	fmt.Fprintln(r.log)
}
