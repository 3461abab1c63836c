package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/urfave/cli/v2"

	"github.com/whole-tale/wtsnap/cmd/wtsnap/alert"
	"github.com/whole-tale/wtsnap/cmd/wtsnap/config"
	"github.com/whole-tale/wtsnap/cmd/wtsnap/job"
	"github.com/whole-tale/wtsnap/cmd/wtsnap/schedule"
)

func (a *app) daemonCommand() *cli.Command {
	return &cli.Command{
		Name: "daemon", Usage: "run the jobs on time, where there is no systemd", ArgsUsage: "[JOB...]",
		Description: `Stays, and runs each job of the configuration that has a schedule, or the jobs named, when it is due: in a container, for example.
A run that was missed, because the machine was off, is made up for at once. SIGTERM ends it; a backup that is going on then
leaves a checkpoint.

Examples:

  wtsnap daemon
  wtsnap daemon nightly --listen :9464      with /healthz and /metrics`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "listen", EnvVars: []string{"WTSNAP_LISTEN"}, Usage: "answer /healthz and /metrics at `ADDRESS`, such as :9464 or 127.0.0.1:9464"},
		},
		Action: a.action(a.daemon),
	}
}

// daemon is what a daemon knows of its jobs.
type daemon struct {
	mu   sync.Mutex
	jobs map[string]*daemonJob
	dir  string
}

type daemonJob struct {
	Running bool       `json:"running"`
	Next    time.Time  `json:"next,omitzero"`
	Last    time.Time  `json:"last_run,omitzero"`
	Status  job.Status `json:"last_status,omitempty"`
	Exit    int        `json:"last_exit"`
}

func (a *app) daemon(c *cli.Context) error {
	if a.config == nil {
		return usagef("--config FILE; wtsnap config example prints one", "there is no configuration, so there is no job to run")
	}
	names := a.line.args
	for _, name := range names {
		j, err := a.jobNamed(name)
		if err != nil {
			return err
		}
		if j.Schedule == "" {
			return usagef("", "the job %s has no schedule in %s, so it is never due", shown(name), shown(a.config.Path))
		}
	}
	if len(names) == 0 {
		for name, j := range a.config.Jobs {
			if j.Schedule != "" {
				names = append(names, name)
			}
		}
		slices.Sort(names)
	}
	if len(names) == 0 {
		return usagef("", "no job in %s has a schedule", shown(a.config.Path))
	}
	dir, err := stateDir()
	if err != nil {
		return err
	}
	d := &daemon{jobs: map[string]*daemonJob{}, dir: dir}
	var jobs []schedule.Job
	for _, name := range names {
		j := a.config.Jobs[name]
		s, err := schedule.Parse(j.Schedule)
		if err != nil {
			return usagef("", "%v", err)
		}
		state, err := alert.LoadState(dir, name)
		if err != nil {
			a.warn(err.Error())
		}
		d.jobs[name] = &daemonJob{Last: state.LastRun}
		if state.Last != nil {
			d.jobs[name].Status, d.jobs[name].Exit = state.Last.Status, state.Last.Exit
		}
		jobs = append(jobs, schedule.Job{Name: name, Schedule: s, Jitter: j.Jitter.Duration(), LastRun: state.LastRun,
			Run: func(context.Context) { a.daemonRun(d, j) }})
	}
	stop, err := a.listen(c.String("listen"), d)
	if err != nil {
		return err
	}
	defer stop()
	schedule.Run(a.ctx, jobs, func(name string, at time.Time) {
		d.mu.Lock()
		d.jobs[name].Next = at
		d.mu.Unlock()
		a.note("job " + name + ": next run at " + when(at))
	})
	return nil // a signal is how it ends
}

// daemonRun runs a job that is due. What goes wrong is told by its alerts and in the log, and never ends the daemon.
func (a *app) daemonRun(d *daemon, j *config.Job) {
	unlock, err := lockJob(d.dir, j.Name)
	if err != nil {
		a.warn(a.words(err))
		return
	}
	defer unlock()
	d.set(j.Name, func(s *daemonJob) { s.Running, s.Last = true, time.Now() })
	sub := &app{ctx: a.ctx, std: a.std, g: a.g, line: a.line, config: a.config, clock: a.clock}
	sub.cli = sub.newCLI()
	rep := sub.runJob(j, d.dir)
	d.set(j.Name, func(s *daemonJob) { s.Running, s.Status, s.Exit = false, rep.Status, rep.Exit })
	if !a.g.quiet {
		printReport(a.std.out, rep)
	}
}

func (d *daemon) set(name string, change func(*daemonJob)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	change(d.jobs[name])
}

// listen serves the daemon's health and its metrics, and returns what ends that.
func (a *app) listen(address string, d *daemon) (stop func(), err error) {
	if address == "" {
		return func() {}, nil
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, usagef("", "--listen: %v", err)
	}
	server := &http.Server{Handler: d.handler(), ReadHeaderTimeout: 10 * time.Second}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			a.warn(fmt.Sprintf("--listen: %v", err))
		}
	}()
	a.note("listening at http://" + l.Addr().String())
	return func() {
		_ = server.Close()
		<-done
	}, nil
}

// handler answers /healthz: 200 as long as the daemon lives, with how its jobs stand; and /metrics.
func (d *daemon) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		d.mu.Lock()
		defer d.mu.Unlock()
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{"schema": schema, "jobs": d.jobs})
	})
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		d.mu.Lock()
		var states []*alert.State
		for name := range d.jobs {
			if s, err := alert.LoadState(d.dir, name); err == nil {
				states = append(states, s)
			}
		}
		d.mu.Unlock()
		promhttp.HandlerFor(alert.Registry(states...), promhttp.HandlerOpts{}).ServeHTTP(w, r)
	})
	return mux
}
