// Package report holds what a run of the benchmark measured and renders it as Markdown.
package report

import (
	"cmp"
	"slices"
	"time"

	"github.com/whole-tale/wtsnap/cmd/wtsnap-bench/bound"
	"github.com/whole-tale/wtsnap/cmd/wtsnap-bench/measure"
	"github.com/whole-tale/wtsnap/cmd/wtsnap-bench/tool"
)

// Report is a whole run. It is also the JSON document.
type Report struct {
	Schema  int       `json:"schema"` // 1
	Started time.Time `json:"started"`
	Machine string    `json:"machine"`
	Size    string    `json:"size"`
	Seed    uint64    `json:"seed"`
	Runs    int       `json:"runs"`
	Nights  int       `json:"nights"`
	Dir     string    `json:"dir"`     // where corpora and repositories lay
	Targets string    `json:"targets"` // where restores went
	Tools   []Tool    `json:"tools"`
	Missing []string  `json:"missing,omitempty"` // programs that were not here, with a hint
	Corpora []Corpus  `json:"corpora"`
	Samples []Sample  `json:"samples"`
}

// Tool is a program that was measured.
type Tool struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Options string `json:"options"`
}

// Corpus is what was backed up, before the first night.
type Corpus struct {
	Name   string        `json:"name"`
	Files  int           `json:"files"`
	Bytes  int64         `json:"bytes"`
	Bounds []bound.Bound `json:"bounds"` // of each night
}

// Step is a measured step of a run.
type Step string

// The steps, in the order of a run.
const (
	FirstBackup    Step = "first backup"
	UnchangedNight Step = "unchanged night"
	FirstRestore   Step = "restore before the nights"
	Night          Step = "night"
	Restore        Step = "restore"
	WholeRestore   Step = "restore of the same data stored whole" // only of wtsnap, which stores deltas
	RestorePart    Step = "restore of one home"
	Check          Step = "check, every byte read"
	Prune          Step = "forget all but one, prune"
	AfterPrune     Step = "restore after prune" // compared, not measured
)

// Sample is one program's measurement of one step in one run.
type Sample struct {
	Run     int    `json:"run"`
	Corpus  string `json:"corpus"`
	Tool    string `json:"tool"`
	Step    Step   `json:"step"`
	Night   int    `json:"night,omitempty"`
	Stored  int64  `json:"stored"`  // bytes in the repository afterwards
	Written int64  `json:"written"` // bytes of files that are new or changed in the repository
	measure.Usage
	tool.Figures
	Differences map[string]int `json:"differences,omitempty"` // between source and restored, by kind
	Examples    []string       `json:"examples,omitempty"`    // of differences
	Error       string         `json:"error,omitempty"`
}

// value is a figure of one program: the median over the runs of the mean within each run. ok is false where there is
// none, failed where the step ended with an error in some run.
func (r *Report) value(corpus, tool string, step Step, of func(Sample) float64) (v float64, ok, failed bool) {
	sums, counts := map[int]float64{}, map[int]int{}
	for _, s := range r.Samples {
		if s.Corpus != corpus || s.Tool != tool || s.Step != step {
			continue
		}
		if s.Error != "" {
			return 0, false, true
		}
		x := of(s)
		if x < 0 {
			return 0, false, false
		}
		sums[s.Run] += x
		counts[s.Run]++
	}
	var values []float64
	for run, sum := range sums {
		values = append(values, sum/float64(counts[run]))
	}
	if len(values) == 0 {
		return 0, false, false
	}
	return median(values), true, false
}

func median(values []float64) float64 {
	slices.SortFunc(values, cmp.Compare)
	n := len(values)
	if n%2 == 1 {
		return values[n/2]
	}
	return (values[n/2-1] + values[n/2]) / 2
}

// bound is the mean of a corpus's nights, 0 if it is not known.
func (r *Report) bound(corpus string) float64 {
	var sum float64
	for _, c := range r.Corpora {
		if c.Name == corpus && len(c.Bounds) > 0 {
			for _, b := range c.Bounds {
				sum += float64(b.Bytes)
			}
			return sum / float64(len(c.Bounds))
		}
	}
	return 0
}
