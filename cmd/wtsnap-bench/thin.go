package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/whole-tale/wtsnap/cmd/wtsnap-bench/corpus"
	"github.com/whole-tale/wtsnap/cmd/wtsnap-bench/measure"
	"github.com/whole-tale/wtsnap/cmd/wtsnap-bench/tool"
)

// thinCommand measures how well programs use a thin line to a real S3 server: what they moved, against what the line could
// have moved in the time that they took.
func thinCommand(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("thin", flag.ContinueOnError)
	latency := flags.Duration("latency", 300*time.Millisecond, "answer `time` of the line")
	rate := flags.Int64("rate", 1e6, "`bytes` a second each way")
	size := flags.Int64("bytes", 60e6, "`size` of each corpus")
	nights := flags.Int("nights", 3, "nights of changes")
	corpora := flags.String("corpora", "homes,dump", "`names` of the corpora")
	tools := flags.String("tools", "wtsnap,restic", "`names` of the programs: wtsnap, restic")
	seed := flags.Uint64("seed", 1, "the same seed makes the same corpora")
	if err := parse(flags, stderr, args); err != nil {
		return err
	}
	b := &bench{ctx: ctx, log: stderr, seed: *seed, size: corpus.Size{Name: "thin", Files: int(*size / 50_000), Bytes: *size, Dump: *size}}
	if err := b.find(strings.Split(*tools, ","), map[string]string{}); err != nil {
		return err
	}
	for _, t := range b.tools {
		if t.Name != "wtsnap" && t.Name != "restic" {
			return fmt.Errorf("%s: only wtsnap and restic speak to the S3 server", t.Name)
		}
	}
	if err := b.places("", ""); err != nil {
		return err
	}
	th := &thin{bench: b, out: stdout, latency: *latency, rate: *rate, nights: *nights}
	return errors.Join(th.measure(strings.Split(*corpora, ",")), b.clean())
}

// thin is one call of thinCommand.
type thin struct {
	*bench
	out     io.Writer
	latency time.Duration
	rate    int64
	nights  int
}

func (th *thin) measure(names []string) error {
	fmt.Fprintf(th.out, "A line of %v and %.1f MB/s each way to an S3 server; %s.\n", th.latency, float64(th.rate)/1e6, machine())
	for _, name := range names {
		t, err := newTree(th.ctx, name, filepath.Join(th.dir, name), th.seed, th.size)
		if err != nil {
			return err
		}
		fmt.Fprintf(th.out, "\n| %s | program | s | MB up | MB down | of the line |\n| --- | --- | ---: | ---: | ---: | ---: |\n", name)
		for _, program := range th.tools {
			if err := th.program(t, program); err != nil {
				return fmt.Errorf("%s, %s: %w", name, program.Name, err)
			}
		}
	}
	return nil
}

// thinStep is a row of the table.
type thinStep struct {
	name  string
	step  tool.Step
	night int  // the night to be played before; 0 for none
	cold  bool // without what the program keeps on this machine
}

// program takes one program through its steps over a line of its own.
func (th *thin) program(t tree, program *tool.Tool) error {
	if err := t.Make(th.ctx); err != nil {
		return err
	}
	defer os.RemoveAll(t.Dir())
	serve := filepath.Join(th.dir, program.Name+"-server")
	if err := os.MkdirAll(filepath.Join(serve, "bucket"), 0o700); err != nil {
		return err
	}
	defer os.RemoveAll(serve)
	l, err := startLine(th.ctx, serve, th.latency, th.rate)
	if err != nil {
		return err
	}
	j := tool.Job{Step: tool.Init, Source: t.Dir(), Part: t.Part(), Cache: filepath.Join(th.dir, program.Name+"-cache"),
		Target: filepath.Join(th.targets, program.Name), Repo: l.Spec}
	if program.Name == "restic" {
		j.Repo = "s3:http://" + l.Addr + "/bucket/repo"
	}
	steps := []thinStep{{"init", tool.Init, 0, true}, {"first backup", tool.Backup, 0, false}, {"unchanged night", tool.Backup, 0, false},
		{"restore", tool.Restore, 0, false}}
	for n := range th.nights {
		steps = append(steps, thinStep{fmt.Sprintf("night %d", n+1), tool.Backup, n + 1, false})
	}
	steps = append(steps, thinStep{"restore on a new machine", tool.Restore, 0, true}, thinStep{"check, every byte read", tool.Check, 0, true},
		thinStep{"forget all but one, prune", tool.Prune, 0, false})
	for _, s := range steps {
		if err := th.step(t, program, j, s, l); err != nil {
			return errors.Join(err, l.stop())
		}
	}
	return l.stop()
}

func (th *thin) step(t tree, program *tool.Tool, j tool.Job, s thinStep, l *thinLine) error {
	j.Step, j.Number = s.step, s.night+1
	if s.night > 0 {
		keep := filepath.Join(th.dir, "old")
		if _, err := t.Night(th.ctx, s.night, keep); err != nil {
			return err
		}
		if err := os.RemoveAll(keep); err != nil {
			return err
		}
	}
	if s.cold {
		if err := errors.Join(os.RemoveAll(j.Cache), os.MkdirAll(j.Cache, 0o700)); err != nil {
			return err
		}
	}
	if s.step == tool.Restore {
		if err := os.Mkdir(j.Target, 0o755); err != nil {
			return err
		}
		defer os.RemoveAll(j.Target)
	}
	before, err := l.traffic()
	if err != nil {
		return err
	}
	start := time.Now()
	for _, c := range program.Commands(j) {
		dir := c.Dir
		if dir == "" {
			dir = j.Cache
		}
		env := append(program.Env(j), "AWS_ACCESS_KEY_ID="+thinAccess, "AWS_SECRET_ACCESS_KEY="+thinSecret)
		if _, _, err := measure.Run(th.ctx, th.helper, measure.Command{Args: append([]string{program.Program}, c.Args...), Dir: dir, Env: env}); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	took := time.Since(start).Seconds()
	after, err := l.traffic()
	if err != nil {
		return err
	}
	up, down := after.Up-before.Up, after.Down-before.Down
	if _, err := fmt.Fprintf(th.out, "| %s | %s | %.1f | %.2f | %.2f | %.0f %% |\n", s.name, program.Name, took, float64(up)/1e6, float64(down)/1e6,
		100*float64(max(up, down))/(float64(th.rate)*took)); err != nil {
		return err
	}
	if s.step == tool.Restore {
		return th.same(t, program, j)
	}
	return nil
}

// same compares what was restored.
func (th *thin) same(t tree, program *tool.Tool, j tool.Job) error {
	want, err := measure.List(t.Dir())
	if err != nil {
		return err
	}
	got, err := measure.List(program.Restored(j))
	if err != nil {
		return err
	}
	if len(want) != len(got) || want.Bytes() != got.Bytes() {
		return fmt.Errorf("%s restored %d files of %d bytes of %d files of %d bytes", program.Name, len(got), got.Bytes(), len(want), want.Bytes())
	}
	return nil
}

// What the S3 server takes.
const thinAccess, thinSecret = "ACCESS", "SECRET"

// thinLine is the program thinline at work.
type thinLine struct {
	Addr, Spec string

	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

// startLine starts thinline, which lies beside this program.
func startLine(ctx context.Context, dir string, latency time.Duration, rate int64) (*thinLine, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	program := filepath.Join(filepath.Dir(self), "thinline")
	if !exists(program) {
		return nil, fmt.Errorf("%s is not there: make bench-build", program)
	}
	l := &thinLine{cmd: exec.CommandContext(ctx, program, "-latency", latency.String(), "-up", fmt.Sprint(rate), "-down", fmt.Sprint(rate), dir)}
	l.cmd.WaitDelay = 10 * time.Second
	out, err := l.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if l.in, err = l.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	l.out = bufio.NewScanner(out)
	if err := l.cmd.Start(); err != nil {
		return nil, err
	}
	if err := l.answer(l); err != nil {
		return nil, errors.Join(err, l.stop())
	}
	return l, nil
}

// answer reads a line that the program printed.
func (l *thinLine) answer(v any) error {
	if !l.out.Scan() {
		return errors.Join(errors.New("thinline ended"), l.out.Err())
	}
	return json.Unmarshal(l.out.Bytes(), v)
}

// traffic is what went over the line so far.
func (l *thinLine) traffic() (t struct{ Up, Down int64 }, err error) {
	if _, err = io.WriteString(l.in, "\n"); err == nil {
		err = l.answer(&t)
	}
	return t, err
}

func (l *thinLine) stop() error { return errors.Join(l.in.Close(), l.cmd.Wait()) }
