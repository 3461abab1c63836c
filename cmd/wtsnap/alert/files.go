package alert

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"

	"github.com/whole-tale/wtsnap/cmd/wtsnap/job"
	"github.com/whole-tale/wtsnap/snapshot/localfs"
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
	figures := newFigureGauges(gauge)
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
		figures.set(s, instance)
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

// figureGauges are the metrics of Figures.
type figureGauges struct {
	complete, uploaded, read       *prometheus.GaugeVec
	checked, problems, checkedRead *prometheus.GaugeVec
	drilled, mismatches, drillRead *prometheus.GaugeVec
	units, overdue, token, free    *prometheus.GaugeVec
	copied, copyUploaded, missing  *prometheus.GaugeVec
}

func newFigureGauges(gauge func(name, help string, labels ...string) *prometheus.GaugeVec) *figureGauges {
	return &figureGauges{
		complete:     gauge("wtsnap_backup_complete", "Whether the job's last snapshot is complete."),
		uploaded:     gauge("wtsnap_backup_uploaded_bytes", "What the job's last backup uploaded."),
		read:         gauge("wtsnap_backup_read_bytes", "What the job's last backup read of its sources."),
		checked:      gauge("wtsnap_check_last_timestamp_seconds", "When the job's last check ended."),
		problems:     gauge("wtsnap_check_problems", "How many problems the job's last check found."),
		checkedRead:  gauge("wtsnap_check_read_bytes", "How much stored data the job's last check read."),
		drilled:      gauge("wtsnap_drill_last_timestamp_seconds", "When the job's last drill ended."),
		mismatches:   gauge("wtsnap_drill_mismatches", "How many things did not come back as saved in the job's last drill."),
		drillRead:    gauge("wtsnap_drill_restored_bytes", "What the job's last drill restored and decoded."),
		copied:       gauge("wtsnap_copy_last_timestamp_seconds", "When the job's last copy into another repository ended.", "repository"),
		copyUploaded: gauge("wtsnap_copy_uploaded_bytes", "What that copy uploaded.", "repository"),
		missing:      gauge("wtsnap_copy_missing_snapshots", "How many snapshots that copy left for the next one, or found damaged.", "repository"),
		units:        gauge("wtsnap_drill_units", "How many users and collections the newest snapshot had at the job's last drill."),
		overdue:      gauge("wtsnap_drill_overdue_units", "How many of them had not been drilled in time."),
		token:        gauge("wtsnap_token_expiry_timestamp_seconds", "When a remote's token ends unless it is renewed before.", "remote"),
		free:         gauge("wtsnap_storage_free_bytes", "What the storage had room for at the job's last backup."),
	}
}

func (g *figureGauges) set(s *State, instance string) {
	set := func(v *prometheus.GaugeVec, x float64, labels ...string) {
		v.WithLabelValues(append([]string{s.Job, instance}, labels...)...).Set(x)
	}
	f := &s.Figures
	if b := f.Backup; b != nil {
		set(g.complete, truth(b.Complete))
		set(g.uploaded, float64(b.Uploaded))
		set(g.read, float64(b.Read))
	}
	if c := f.Check; c != nil {
		set(g.checked, float64(c.Time.Unix()))
		set(g.problems, float64(c.Problems))
		set(g.checkedRead, float64(c.Read))
	}
	if d := f.Drill; d != nil {
		set(g.drilled, float64(d.Time.Unix()))
		set(g.mismatches, float64(d.Mismatches))
		set(g.drillRead, float64(d.Bytes))
		set(g.units, float64(d.Units))
		set(g.overdue, float64(d.Overdue))
	}
	for _, c := range f.Copies {
		set(g.copied, float64(c.Time.Unix()), c.Repository)
		set(g.copyUploaded, float64(c.Uploaded), c.Repository)
		set(g.missing, float64(c.Missing), c.Repository)
	}
	for _, t := range f.Tokens {
		if !t.Dies.IsZero() {
			set(g.token, float64(t.Dies.Unix()), t.Remote)
		}
	}
	if f.Free != nil {
		set(g.free, float64(*f.Free))
	}
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
	if err := localfs.Replace(file, b.Bytes(), 0o644); err != nil {
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
	if err := localfs.Replace(file, []byte(data), 0o644); err != nil {
		return fmt.Errorf("writing the state for Checkmk to %s: %w", file, err)
	}
	return nil
}
