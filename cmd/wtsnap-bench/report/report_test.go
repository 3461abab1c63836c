package report

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/whole-tale/wtsnap/cmd/wtsnap-bench/bound"
	"github.com/whole-tale/wtsnap/cmd/wtsnap-bench/measure"
	"github.com/whole-tale/wtsnap/cmd/wtsnap-bench/tool"
)

func example() *Report {
	sample := func(run int, program string, step Step, night int, wall float64, written int64) Sample {
		return Sample{Run: run, Corpus: "homes", Tool: program, Step: step, Night: night, Written: written, Stored: 7e6,
			Usage: measure.Usage{Wall: wall, User: wall, Peak: 64 << 20, Read: 1e6}}
	}
	r := &Report{Schema: 1, Started: time.Unix(1.7e9, 0), Machine: "a machine", Size: "small", Seed: 1, Runs: 3, Nights: 2,
		Targets: "/dev/shm", Missing: []string{"kopia is not here"},
		Tools:   []Tool{{"wtsnap", "1", "defaults"}, {"restic", "2", "defaults"}, {"borg", "3", "defaults"}},
		Corpora: []Corpus{{"homes", 10, 5e6, []bound.Bound{{Bytes: 1e6, NewBytes: 5e5, Program: "zstd"}, {Bytes: 3e6, Program: "zstd"}}}}}
	for run, slow := range []float64{1, 5, 2} {
		r.Samples = append(r.Samples,
			sample(run+1, "wtsnap", FirstBackup, 0, slow, 7e6),
			sample(run+1, "restic", FirstBackup, 0, 4*slow, 8e6),
			sample(run+1, "borg", FirstBackup, 0, 5*slow, 6e6),
			sample(run+1, "wtsnap", Night, 1, 1, 2e6), sample(run+1, "wtsnap", Night, 2, 1, 3e6),
			sample(run+1, "restic", Night, 1, 1, 20e6), sample(run+1, "restic", Night, 2, 1, 30e6),
			sample(run+1, "wtsnap", Restore, 0, 3, 0), sample(run+1, "restic", Restore, 0, 3, 0),
			sample(run+1, "wtsnap", WholeRestore, 0, 2, 0))
		r.Samples[len(r.Samples)-3].Downloaded, r.Samples[len(r.Samples)-1].Downloaded = 5e6, 4e6
	}
	r.Samples[0].Figures = tool.Figures{Requests: map[string]int{"put": 3, "list": 2}}
	broken := sample(2, "borg", Restore, 0, 1, 0)
	broken.Error = "borg extract: exit status 2:\nno such archive"
	r.Samples = append(r.Samples, broken)
	lossy := sample(3, "restic", Restore, 0, 3, 0)
	lossy.Differences, lossy.Examples = map[string]int{"xattrs": 2, "mtime": 1}, []string{"mtime    a: x"}
	r.Samples = append(r.Samples, lossy)
	return r
}

func rendered(t *testing.T, r *Report) string {
	t.Helper()
	var b strings.Builder
	if err := r.Markdown(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestMarkdown(t *testing.T) {
	text := rendered(t, example())
	for _, line := range []string{
		// medians of the runs, ratios to the best peer, the goal
		"| first backup, homes, s | 2.00 (0.25) | 8.00 (1.00) | 10.0 (1.25) |  | 0.70 × best peer: met (0.25) |",
		"| – stored, MB | 7.00 (1.00) | 7.00 (1.00) | 7.00 (1.00) |  | 1.00 × borg: met (1.00) |",
		"| – peak memory, MiB | 64.0 (1.00) | 64.0 (1.00) | 64.0 (1.00) |  |  |",
		// the mean of the nights against the mean of the bounds
		"| – uploaded, MB | 2.50 (0.10) | 25.0 (1.00) |  | 2.00 | 1.20 × bound: missed (1.25) |",
		"| restore after them, homes, s | 3.00 (1.00) | 3.00 (1.00) | failed |  | 0.70 × restic: missed (1.00) |",
		"- wtsnap: yes, in 6 restores",
		// each night, and a restore after them
		"| homes, night 1 | 2.00 | 1.00 | 2.00 | 1.20: missed |",
		"| homes, night 2 | 3.00 | 3.00 | 1.00 | 1.20: met |",
		"| homes, wall, s | 3.00 | 2.00 | 1.50 | 1.30: missed |",
		"| homes, downloaded, MB | 5.00 | 4.00 | 1.25 | 1.30: met |",
		"| homes, peak memory, MiB | 64.0 | 64.0 | 1.00 |  |",
		"- restic: no; in 4 restores 1 × mtime, 2 × xattrs differed. For example:",
		"- borg: nothing was restored",
		"- homes, first backup: 5 (list 2, put 3)",
		"- run 2, homes, borg, restore: borg extract: exit status 2: no such archive",
		"- not measured: kopia is not here",
	} {
		if !strings.Contains(text, line+"\n") {
			t.Errorf("no line %q", line)
		}
	}
	if strings.Contains(text, "dump") {
		t.Error("rows of a corpus that was not measured")
	}
	if t.Failed() {
		t.Log(text)
	}
}

func TestWithoutOurselvesNothingIsMetOrMissed(t *testing.T) {
	r := example()
	r.Tools = r.Tools[1:]
	text := rendered(t, r)
	if strings.Contains(text, ": met") || strings.Contains(text, ": missed") {
		t.Error("a goal is judged without a measurement")
	}
	if want := "| first backup, homes, s | 8.00 (1.00) | 10.0 (1.25) |  | 0.70 × best peer |\n"; !strings.Contains(text, want) {
		t.Errorf("no line %q in\n%s", want, text)
	}
}

func TestAbsentPeerIsReplacedByTheBest(t *testing.T) {
	r := example()
	r.Tools = r.Tools[:2] // borg is the yardstick of what is stored
	if want := "| – stored, MB | 7.00 (1.00) | 7.00 (1.00) |  | 1.00 × best peer: met (1.00) |\n"; !strings.Contains(rendered(t, r), want) {
		t.Errorf("no line %q", want)
	}
}

func TestUnknownFiguresAreLeftOut(t *testing.T) {
	r := example()
	for i := range r.Samples {
		r.Samples[i].Read = -1
		r.Samples[i].Step = RestorePart
	}
	if text := rendered(t, r); strings.Contains(text, "– read") {
		t.Error("bytes read are shown although unknown")
	}
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("full") }

func TestMarkdownReportsAFailedWriter(t *testing.T) {
	if err := example().Markdown(full{}); err == nil {
		t.Error("no error")
	}
}

func TestMedian(t *testing.T) {
	if m := median([]float64{9, 1, 5}); m != 5 {
		t.Errorf("median %v", m)
	}
	if m := median([]float64{9, 1, 5, 3}); m != 4 {
		t.Errorf("median %v", m)
	}
}
