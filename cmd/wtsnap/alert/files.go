package alert

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"

	"github.com/whole-tale/wtsnap/cmd/wtsnap/job"
)

// Registry holds a job's state as metrics.
func Registry(states ...*State) *prometheus.Registry {
	r := prometheus.NewRegistry()
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		g := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, append([]string{"job", "instance"}, labels...))
		r.MustRegister(g)
		return g
	}
	run := gauge("wtsnap_job_last_run_timestamp_seconds", "When the job's last run began.")
	success := gauge("wtsnap_job_last_success_timestamp_seconds", "When the job's last run that did not fail ended.")
	seconds := gauge("wtsnap_job_duration_seconds", "How long the job's last run took.")
	exit := gauge("wtsnap_job_exit_code", "The exit code of the job's last run.")
	status := gauge("wtsnap_job_failed", "Whether the job's last run failed.")
	step := gauge("wtsnap_job_step_failed", "Whether a step of the job's last run failed.", "step")
	stepSeconds := gauge("wtsnap_job_step_duration_seconds", "How long a step of the job's last run took.", "step")
	for _, s := range states {
		instance := ""
		if s.Last != nil {
			instance = s.Last.Instance
		}
		if !s.LastRun.IsZero() {
			run.WithLabelValues(s.Job, instance).Set(float64(s.LastRun.Unix()))
		}
		if !s.LastSuccess.IsZero() {
			success.WithLabelValues(s.Job, instance).Set(float64(s.LastSuccess.Unix()))
		}
		if s.Last == nil {
			continue
		}
		seconds.WithLabelValues(s.Job, instance).Set(s.Last.End.Sub(s.Last.Start).Seconds())
		exit.WithLabelValues(s.Job, instance).Set(float64(s.Last.Exit))
		status.WithLabelValues(s.Job, instance).Set(truth(s.Last.Status == job.Failed))
		for _, t := range s.Last.Steps {
			step.WithLabelValues(s.Job, instance, t.Name).Set(truth(t.Status == job.Failed))
			stepSeconds.WithLabelValues(s.Job, instance, t.Name).Set(t.Seconds)
		}
	}
	return r
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// WriteTextFile writes a job's metrics where Prometheus' node exporter finds them (its textfile collector).
func WriteTextFile(file string, s *State) error {
	families, err := Registry(s).Gather()
	if err != nil {
		return fmt.Errorf("writing the metrics to %s: %w", file, err)
	}
	var b bytes.Buffer
	for _, f := range families {
		if _, err := expfmt.MetricFamilyToText(&b, f); err != nil {
			return fmt.Errorf("writing the metrics to %s: %w", file, err)
		}
	}
	if err := writeFile(file, b.Bytes(), 0o644); err != nil {
		return fmt.Errorf("writing the metrics to %s: %w", file, err)
	}
	return nil
}

// CheckmkLine is a line of a local check: state, name, metrics, text.
func CheckmkLine(state int, name, metrics, text string) string {
	if metrics == "" {
		metrics = "-"
	}
	return fmt.Sprintf("%d %q %s %s\n", state, name, metrics, strings.ReplaceAll(strings.TrimSpace(text), "\n", `\n`))
}

// WriteCheckmk writes a job's state into a file of Checkmk's spool folder. Behind its maxage, which Checkmk takes from
// the file's name, the service goes stale: late is told by the same means.
func WriteCheckmk(file string, s *State) error {
	state, text := 0, "never ran"
	metrics := ""
	if s.Last != nil {
		switch s.Last.Status {
		case job.Failed:
			state = 2
		case job.Warning:
			state = 1
		}
		text = fmt.Sprintf("%s at %s (exit code %d)", s.Last.Status, s.Last.End.Format(stamp), s.Last.Exit)
		for _, t := range s.Last.Steps {
			if t.Message != "" {
				text += "\n" + t.Name + ": " + t.Message
			}
		}
		metrics = fmt.Sprintf("duration=%.0f|exit=%d", s.Last.End.Sub(s.Last.Start).Seconds(), s.Last.Exit)
	}
	data := "<<<local:sep(0)>>>\n" + CheckmkLine(state, "wtsnap "+s.Job, metrics, text)
	if err := writeFile(file, []byte(data), 0o644); err != nil {
		return fmt.Errorf("writing the state for Checkmk to %s: %w", file, err)
	}
	return nil
}
