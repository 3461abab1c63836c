package report

import (
	"strings"
	"testing"

	"github.com/whole-tale/wtsnap/cmd/wtsnap-bench/bound"
	"github.com/whole-tale/wtsnap/cmd/wtsnap-bench/measure"
)

func TestMongoMarkdown(t *testing.T) {
	sample := func(run int, way Way, night int, wall, cpu float64, bytes int64, order bool) MongoSample {
		return MongoSample{Run: run, Way: way, Night: night, Server: 0.5, Bytes: bytes, Order: order,
			Usage: measure.Usage{Wall: wall, User: cpu / 2, System: cpu / 2, Peak: 64 << 20}}
	}
	m := &Mongo{Schema: 1, Size: "small", Runs: 3, Nights: 2, Bytes: 9e6, Bounds: []bound.Bound{{Bytes: 1e6}, {Bytes: 2e6}}}
	for run, slow := range []float64{1, 9, 2} {
		m.Samples = append(m.Samples,
			sample(run+1, WtsnapFirst, 0, slow, 2, 5e6, false),
			sample(run+1, WtsnapNight, 1, 1, 1, 1e6, false), sample(run+1, WtsnapNight, 2, 1, 1, 3e6, false),
			sample(run+1, DumpGzip, 0, 4, 8, 5e6, false),
			sample(run+1, WtsnapRestore, 0, 3, 1, 0, true), sample(run+1, RestoreGzip4, 0, 4, 4, 0, run == 0))
	}
	var b strings.Builder
	if err := m.Markdown(&b); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"| wtsnap, first backup | 2.00 | 2.00 | 0.50 | 64.0 | 5.00 |",
		"| wtsnap restore | 3.00 | 1.00 | 0.50 | 64.0 | yes |",
		"| mongorestore --archive --gzip, 4 workers | 4.00 | 4.00 | 0.50 | 64.0 | no |",
		"| wtsnap, first backup | mongodump --archive --gzip | 0.50 | 1.00: met | 0.25 | 0.33: met |",
		"| wtsnap restore | mongorestore --archive --gzip, 4 workers | 0.75 | 0.50: missed | 0.25 | 0.33: met |",
		"| 1 | 1.00 | 1.00 | 1.00 | 1.20: met | 20.0 % |",
		"| 2 | 3.00 | 2.00 | 1.50 | 1.20: missed | 60.0 % |",
	} {
		if !strings.Contains(b.String(), line+"\n") {
			t.Errorf("no line %q", line)
		}
	}
	if strings.Contains(b.String(), string(DumpFolder)) {
		t.Error("what was not measured is shown")
	}
	if t.Failed() {
		t.Log(b.String())
	}
	if err := m.Markdown(full{}); err == nil {
		t.Error("a writer that fails is not noticed")
	}
}
