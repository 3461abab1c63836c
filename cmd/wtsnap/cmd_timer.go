package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/whole-tale/wtsnap/cmd/wtsnap/config"
	"github.com/whole-tale/wtsnap/cmd/wtsnap/schedule"
	"github.com/whole-tale/wtsnap/cmd/wtsnap/unit"
	"github.com/whole-tale/wtsnap/snapshot"
)

func (a *app) installTimerCommand() *cli.Command {
	return &cli.Command{
		Name: "install-timer", Usage: "let systemd run a job on time", ArgsUsage: "JOB",
		Description: `Writes a service and a timer for a job of the configuration, enables the timer, and says when it comes next. The service may read
every file, and write where the job has to.

Examples:

  wtsnap install-timer nightly
  wtsnap install-timer nightly --print             for configuration management
  wtsnap install-timer nightly --on-failure status-mail@%n.service`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "print", Usage: "print the units and install nothing"},
			&cli.BoolFlag{Name: "user", Usage: "for your own systemd instead of the machine's"},
			&cli.StringSliceFlag{Name: "on-failure", Usage: "start `UNIT` when a run fails; may be repeated"},
			&cli.StringFlag{Name: "unit-dir", Usage: "write the units to `FOLDER` (default: /etc/systemd/system, or your own)"},
		},
		Action: a.action(a.installTimer),
	}
}

type timerDoc struct {
	Service     string `json:"service"`
	Timer       string `json:"timer"`
	ServiceText string `json:"service_text,omitempty"`
	TimerText   string `json:"timer_text,omitempty"`
	Next        string `json:"next,omitempty"`
}

func (a *app) installTimer(c *cli.Context) error {
	args, err := a.arguments(1, 1, "the name of a job")
	if err != nil {
		return err
	}
	j, err := a.jobNamed(args[0])
	if err != nil {
		return err
	}
	o, err := a.unitOptions(c, j)
	if err != nil {
		return err
	}
	service, timer := o.Names()
	if c.Bool("print") {
		doc := timerDoc{Service: service, Timer: timer, ServiceText: o.Service(), TimerText: o.Timer()}
		a.result(doc, func(w io.Writer) {
			fmt.Fprintf(w, "# %s\n%s\n# %s\n%s", service, doc.ServiceText, timer, doc.TimerText)
		})
		return nil
	}
	dir, err := unitDir(c)
	if err != nil {
		return err
	}
	doc := timerDoc{Service: filepath.Join(dir, service), Timer: filepath.Join(dir, timer)}
	for file, text := range map[string]string{doc.Service: o.Service(), doc.Timer: o.Timer()} {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			return fmt.Errorf("installing the timer: %w", err)
		}
	}
	for _, args := range [][]string{{"daemon-reload"}, {"enable", "--now", timer}} {
		if _, err := a.systemctl(c, args...); err != nil {
			return fmt.Errorf("installing the timer: %w", err)
		}
	}
	// A timer can be enabled and still never elapse.
	next, err := a.systemctl(c, "show", "--property=NextElapseUSecRealtime", "--value", timer)
	if err != nil {
		return fmt.Errorf("looking at the timer: %w", err)
	}
	if doc.Next = strings.TrimSpace(next); doc.Next == "" || doc.Next == "0" {
		return &statusError{exitFailed, "installing the timer: " + timer + " is enabled, but systemd has no next run of it", "systemctl status " + timer, nil}
	}
	a.done(doc, func(w io.Writer) {
		fmt.Fprintf(w, "wrote %s\nwrote %s\nenabled; the next run is at %s\n\ntry it now:      systemctl start %s\nlook at its log: journalctl -u %s\n",
			doc.Service, doc.Timer, doc.Next, service, service)
	})
	return nil
}

// systemctl runs systemd's program and returns what it prints.
func (a *app) systemctl(c *cli.Context, args ...string) (string, error) {
	if c.Bool("user") {
		args = append([]string{"--user"}, args...)
	}
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(a.ctx, "systemctl", args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		hint := "--print prints the units, for a machine that has systemd; wtsnap daemon does without it"
		if !errors.Is(err, exec.ErrNotFound) {
			hint = "run it by hand: systemctl " + strings.Join(args, " ")
		}
		return "", &statusError{exitFailed, "systemctl " + strings.Join(args, " "), hint, errors.Join(err, errorText(errs.String()))}
	}
	return out.String(), nil
}

// errorText makes an error of what a program said, if it said anything.
func errorText(text string) error {
	if text = strings.TrimSpace(text); text == "" {
		return nil
	}
	return errors.New(text)
}

func unitDir(c *cli.Context) (string, error) {
	dir := c.String("unit-dir")
	switch {
	case dir != "":
	case c.Bool("user"):
		base, err := os.UserConfigDir()
		if err != nil {
			return "", fmt.Errorf("installing the timer: %w", err)
		}
		dir = filepath.Join(base, "systemd", "user")
	default:
		dir = "/etc/systemd/system"
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("installing the timer: %w", err)
	}
	return dir, nil
}

// unitOptions are what a job's service needs to know.
func (a *app) unitOptions(c *cli.Context, j *config.Job) (*unit.Options, error) {
	if j.Schedule == "" {
		return nil, usagef("", "the job %s has no schedule in %s, so it is never due", shown(j.Name), shown(a.config.Path))
	}
	if strings.ContainsFunc(j.Name, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_')
	}) {
		return nil, usagef("", "the job's name %s cannot be part of a unit's name: only letters, digits, - and _ can", shown(j.Name))
	}
	s, err := schedule.Parse(j.Schedule)
	if err != nil {
		return nil, usagef("", "%v", err)
	}
	o := &unit.Options{Job: j.Name, Schedule: s, Jitter: j.Jitter.Duration(), Timeout: j.Timeout.Duration(), OnFailure: c.StringSlice("on-failure"),
		User: c.Bool("user"), Hooks: !j.Hooks.Empty()}
	if o.Program, err = os.Executable(); err != nil {
		return nil, err
	}
	if o.Config, err = filepath.Abs(a.config.Path); err != nil {
		return nil, err
	}
	o.Password = a.repositoryPaths(o, j.Repository)
	for _, name := range j.Others() {
		if file := a.repositoryPaths(o, name); file != "" && file != o.Password {
			o.Read = append(o.Read, file)
		}
	}
	a.eachSource(j, func(s *config.Source) {
		o.Hooks = o.Hooks || !s.Hooks.Empty()
		spec, err := snapshot.ParseSource(s.Label + "=" + s.From.Text)
		if s.From.Text != "" && err == nil && (spec.Kind == snapshot.SourceFolder || spec.Kind == snapshot.SourceTar && spec.Path != "-") {
			if path, err := filepath.Abs(spec.Path); err == nil {
				o.Read = append(o.Read, path)
			}
		}
	})
	for _, al := range a.config.Alerts {
		for _, file := range []string{al.TextFile, al.Checkmk} {
			if file != "" {
				o.Write = append(o.Write, filepath.Dir(file))
			}
		}
	}
	for _, path := range append(append([]string{o.Config, o.Program}, o.Read...), o.Write...) {
		o.Temporary = o.Temporary || below(path, "/tmp") || below(path, "/var/tmp")
	}
	for _, path := range o.Write {
		o.Homes = o.Homes || below(path, "/home") || below(path, "/root")
	}
	return o, nil
}

// repositoryPaths adds the paths that a repository of the configuration needs ("": the main one), and returns its password file.
func (a *app) repositoryPaths(o *unit.Options, name string) (password string) {
	values := a.config.Globals
	if name != "" {
		values = a.config.Repositories[name]
	}
	one := func(key string) string {
		v := values[key]
		if v == nil {
			v = a.config.Globals[key]
		}
		if len(v) == 0 || v[0] == "" {
			return ""
		}
		path, _ := filepath.Abs(v[0])
		return path
	}
	if v := values["repo"]; len(v) > 0 && isFolder(v[0]) {
		o.Read = append(o.Read, one("repo"))
		o.Write = append(o.Write, one("repo"))
	}
	if file := one("rclone-config"); file != "" {
		o.Write = append(o.Write, filepath.Dir(file)) // a new token is written beside the file and renamed
	}
	if dir := one("cache-dir"); dir != "" {
		o.Write = append(o.Write, dir)
	}
	return one("password-file")
}

// below reports whether a path is a folder or lies in it.
func below(path, dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }
