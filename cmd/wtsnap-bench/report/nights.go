package report

import (
	"fmt"
	"slices"
	"strconv"
)

// Goals of the nights: the share of its bound that each may upload, and the share of a restore of the same data stored
// whole that a restore after the last of them may take.
const (
	nightGoal   = 1.20
	restoreGoal = 1.30
)

// only returns a report of the samples of a step, of one night if it is not 0.
func (r *Report) only(step Step, night int) *Report {
	part := &Report{}
	for _, s := range r.Samples {
		if s.Step == step && (night == 0 || s.Night == night) {
			part.Samples = append(part.Samples, s)
		}
	}
	return part
}

// measured reports whether wtsnap is among the programs.
func (r *Report) measured() bool {
	return slices.ContainsFunc(r.Tools, func(t Tool) bool { return t.Name == ours })
}

// nights shows what each night uploaded beside its bound.
func (r *Report) nights(p *printer) {
	started := false
	for _, c := range r.Corpora {
		if !r.measured() {
			return
		}
		for i, b := range c.Bounds {
			v, ok, _ := r.only(Night, i+1).value(c.Name, ours, Night, written)
			if !ok || b.Bytes == 0 {
				continue
			}
			if !started {
				started = true
				p.line("## What %s uploads each night\n", ours)
				p.cells("", "uploaded, MB", "bound, MB", "ratio", "goal")
				p.cells("---", "---:", "---:", "---:", "---")
			}
			p.cells(c.Name+", night "+strconv.Itoa(i+1), amount(v, "MB"), amount(float64(b.Bytes), "MB"), fmt.Sprintf("%.2f", v/float64(b.Bytes)),
				judged(v, float64(b.Bytes), nightGoal))
		}
	}
	if started {
		p.line("")
	}
}

// whole shows a restore after the nights beside one of the same data from a repository that holds nothing else.
func (r *Report) whole(p *printer) {
	started := false
	for _, c := range r.Corpora {
		if !r.measured() {
			return
		}
		for _, figure := range []struct {
			name, unit string
			of         func(Sample) float64
			goal       float64
		}{
			{"wall", "s", wall, restoreGoal}, {"CPU", "s", cpu, restoreGoal}, {"downloaded", "MB", downloaded, restoreGoal}, {"peak memory", "MiB", peak, 0},
		} {
			after, ok, _ := r.value(c.Name, ours, Restore, figure.of)
			fresh, also, _ := r.value(c.Name, ours, WholeRestore, figure.of)
			if !ok || !also || fresh == 0 {
				continue
			}
			if !started {
				started = true
				p.line("## A restore after %d nights, beside the same data stored whole\n", r.Nights)
				p.cells("", "after the nights", "stored whole", "ratio", "goal")
				p.cells("---", "---:", "---:", "---:", "---")
			}
			p.cells(c.Name+", "+figure.name+", "+figure.unit, amount(after, figure.unit), amount(fresh, figure.unit), fmt.Sprintf("%.2f", after/fresh),
				judged(after, fresh, figure.goal))
		}
	}
	if started {
		p.line("")
	}
}

func downloaded(s Sample) float64 { return float64(s.Downloaded) }

// judged says whether v is within a goal, which is a share of yard; 0 is no goal.
func judged(v, yard, goal float64) string {
	switch {
	case goal == 0:
		return ""
	case v > goal*yard:
		return fmt.Sprintf("%.2f: missed", goal)
	}
	return fmt.Sprintf("%.2f: met", goal)
}
