package report

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// ours is the program that the others are the peers of.
const ours = "wtsnap"

// Markdown renders the report for people.
func (r *Report) Markdown(w io.Writer) error {
	p := &printer{w: w}
	p.line("# wtsnap beside its peers: size %s, %d runs, %d nights\n", r.Size, r.Runs, r.Nights)
	p.line("%s, on %s. Corpora and repositories in %s, restores to %s. Seed %d.\n",
		r.Started.UTC().Format("2006-01-02"), r.Machine, r.Dir, r.Targets, r.Seed)
	for _, c := range r.Corpora {
		p.line("- %s: %d files, %.1f MB%s", c.Name, c.Files, float64(c.Bytes)/1e6, boundsText(c))
	}
	for _, t := range r.Tools {
		p.line("- %s %s: %s", t.Name, t.Version, t.Options)
	}
	for _, m := range r.Missing {
		p.line("- not measured: %s", m)
	}
	p.line("\nEach cell is the median of the runs (of a night: of the means over the nights), and in brackets its ratio to the\n" +
		"best peer of the row. Less is better everywhere. All programs encrypt.\n")
	r.table(p)
	r.nights(p)
	r.whole(p)
	r.restored(p)
	r.requests(p)
	r.problems(p)
	return p.err
}

// printer writes lines until the first error, and keeps that.
type printer struct {
	w   io.Writer
	err error
}

func (p *printer) line(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format+"\n", args...)
	}
}

func (p *printer) cells(cells ...string) { p.line("| %s |", strings.Join(cells, " | ")) }

func boundsText(c Corpus) string {
	if len(c.Bounds) == 0 {
		return ""
	}
	var nights []string
	for _, b := range c.Bounds {
		nights = append(nights, fmt.Sprintf("%.2f (%.2f of it new files)", float64(b.Bytes)/1e6, float64(b.NewBytes)/1e6))
	}
	return fmt.Sprintf("; bound of each night in MB, by %s: %s", c.Bounds[0].Program, strings.Join(nights, ", "))
}

func (r *Report) table(p *printer) {
	header, rule := []string{""}, []string{"---"}
	for _, t := range r.Tools {
		header, rule = append(header, t.Name), append(rule, "---:")
	}
	p.cells(append(header, "bound", "goal")...)
	p.cells(append(rule, "---:", "---")...)
	for _, row := range rows() {
		if cells := r.cells(row); cells != nil {
			p.cells(cells...)
		}
	}
	p.line("")
}

// cells renders a row; nil where no program has a value.
func (r *Report) cells(row row) []string {
	values := map[string]float64{}
	failed := map[string]bool{}
	least := -1.0
	for _, t := range r.Tools {
		v, ok, bad := r.value(row.corpus, t.Name, row.step, row.of)
		failed[t.Name] = bad
		if !ok {
			continue
		}
		values[t.Name] = v
		if t.Name != ours && (least < 0 || v < least) {
			least = v
		}
	}
	if len(values) == 0 {
		return nil
	}
	cells := []string{row.title + ", " + row.unit}
	for _, t := range r.Tools {
		v, ok := values[t.Name]
		switch {
		case failed[t.Name]:
			cells = append(cells, "failed")
		case !ok:
			cells = append(cells, "")
		case least > 0:
			cells = append(cells, fmt.Sprintf("%s (%.2f)", amount(v, row.unit), v/least))
		default:
			cells = append(cells, amount(v, row.unit))
		}
	}
	bound := 0.0
	boundCell := ""
	if row.yard == withBound {
		if bound = r.bound(row.corpus); bound > 0 {
			boundCell = amount(bound, row.unit)
		}
	}
	return append(cells, boundCell, goal(row, values, least, bound))
}

// goal says what wtsnap shall reach, and whether it did. A peer that was not measured is replaced by the best one.
func goal(row row, values map[string]float64, least, bound float64) string {
	if row.goal == 0 {
		return ""
	}
	yard, against := least, "best peer"
	switch v, measured := values[row.yard]; {
	case row.yard == withBound:
		yard, against = bound, "bound"
	case row.yard != best && measured:
		yard, against = v, row.yard
	}
	text := fmt.Sprintf("%.2f × %s", row.goal, against)
	v, ok := values[ours]
	if !ok || yard <= 0 {
		return text
	}
	verdict := "met"
	if v/yard > row.goal {
		verdict = "missed"
	}
	return fmt.Sprintf("%s: %s (%.2f)", text, verdict, v/yard)
}

func amount(v float64, unit string) string {
	switch unit {
	case "MB":
		v /= 1e6
	case "MiB":
		v /= 1 << 20
	}
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	if v > 0 && v < 0.1 {
		return fmt.Sprintf("%.3f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// restored tells for each program whether what it restored was as the source.
func (r *Report) restored(p *printer) {
	p.line("## Restored as it was\n")
	for _, t := range r.Tools {
		compared := 0
		kinds := map[string]int{}
		var examples []string
		for _, s := range r.Samples {
			if s.Tool != t.Name || s.Error != "" {
				continue
			}
			switch s.Step {
			case FirstRestore, Restore, WholeRestore, RestorePart, AfterPrune:
				compared++
			}
			for kind, n := range s.Differences {
				kinds[kind] += n
			}
			if len(examples) == 0 {
				examples = s.Examples
			}
		}
		switch {
		case compared == 0:
			p.line("- %s: nothing was restored", t.Name)
		case len(kinds) == 0:
			p.line("- %s: yes, in %d restores", t.Name, compared)
		default:
			var parts []string
			for _, kind := range slices.Sorted(maps.Keys(kinds)) {
				parts = append(parts, fmt.Sprintf("%d × %s", kinds[kind], kind))
			}
			p.line("- %s: no; in %d restores %s differed. For example:", t.Name, compared, strings.Join(parts, ", "))
			for _, example := range examples {
				p.line("  - `%s`", example)
			}
		}
	}
	p.line("")
}

// requests shows the backend calls that wtsnap counts itself, of the first run.
func (r *Report) requests(p *printer) {
	started := false
	for _, s := range r.Samples {
		if s.Run != 1 || len(s.Requests) == 0 || s.Step == AfterPrune {
			continue
		}
		if !started {
			started = true
			p.line("## Backend calls of %s\n", ours)
		}
		total := 0
		var parts []string
		for _, kind := range slices.Sorted(maps.Keys(s.Requests)) {
			if strings.HasSuffix(kind, "_bytes") {
				continue
			}
			total += s.Requests[kind]
			parts = append(parts, fmt.Sprintf("%s %d", kind, s.Requests[kind]))
		}
		step := string(s.Step)
		if s.Night > 0 {
			step = fmt.Sprintf("%s %d", step, s.Night)
		}
		p.line("- %s, %s: %d (%s)", s.Corpus, step, total, strings.Join(parts, ", "))
	}
	if started {
		p.line("")
	}
}

func (r *Report) problems(p *printer) {
	started := false
	for _, s := range r.Samples {
		if s.Error == "" {
			continue
		}
		if !started {
			started = true
			p.line("## Failed\n")
		}
		p.line("- run %d, %s, %s, %s: %s", s.Run, s.Corpus, s.Tool, s.Step, strings.ReplaceAll(s.Error, "\n", " "))
	}
}
