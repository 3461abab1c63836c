package report

import (
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/whole-tale/wtsnap/cmd/wtsnap-bench/bound"
	"github.com/whole-tale/wtsnap/cmd/wtsnap-bench/measure"
)

// Mongo is a run beside MongoDB's own tools. It is also the JSON document.
type Mongo struct {
	Schema  int           `json:"schema"` // 1
	Started time.Time     `json:"started"`
	Machine string        `json:"machine"`
	Size    string        `json:"size"`
	Seed    uint64        `json:"seed"`
	Runs    int           `json:"runs"`
	Nights  int           `json:"nights"`
	Dir     string        `json:"dir"`
	Wtsnap  string        `json:"wtsnap"`  // its version
	Tools   string        `json:"tools"`   // the folder with MongoDB's
	Bytes   int64         `json:"bytes"`   // of documents, before the first night
	Bounds  []bound.Bound `json:"bounds"`  // of each night
	Samples []MongoSample `json:"samples"` // in the order in which they were taken
}

// MongoSample is the measurement of one thing that was done, in one run.
type MongoSample struct {
	Run    int     `json:"run"`
	Way    Way     `json:"way"`
	Night  int     `json:"night,omitempty"`
	Server float64 `json:"server_cpu"` // seconds of all cores that the server took meanwhile
	Bytes  int64   `json:"bytes"`      // written by a dump: into the repository, or into folder or archive
	Order  bool    `json:"order"`      // of a restore: the documents have the order of the dump
	measure.Usage
}

// A Way is one of the ways to dump or to restore.
type Way string

// The ways. Those of mongorestore read the archive with or without gzip, with one or four inserting workers a
// collection; four collections at a time are everybody's default.
const (
	WtsnapFirst     Way = "wtsnap, first backup"
	WtsnapUnchanged Way = "wtsnap, unchanged night"
	WtsnapNight     Way = "wtsnap, changed night"
	DumpFolder      Way = "mongodump to a folder"
	DumpArchive     Way = "mongodump --archive"
	DumpGzip        Way = "mongodump --archive --gzip"
	WtsnapRestore   Way = "wtsnap restore"
	WtsnapRestored  Way = "wtsnap restore, after the nights"
	RestoreArchive  Way = "mongorestore --archive"
	RestoreArchive4 Way = "mongorestore --archive, 4 workers"
	RestoreGzip     Way = "mongorestore --archive --gzip"
	RestoreGzip4    Way = "mongorestore --archive --gzip, 4 workers"
)

// mongoGoal is what one of wtsnap's ways may take of a peer's time and processor time; 0 is no goal.
type mongoGoal struct {
	way, peer Way
	wall, cpu float64
}

func mongoGoals() []mongoGoal {
	return []mongoGoal{
		{WtsnapFirst, DumpGzip, 1, 1. / 3},
		{WtsnapFirst, DumpFolder, 0, 0},
		{WtsnapUnchanged, DumpGzip, 1, 1. / 3},
		{WtsnapUnchanged, DumpFolder, 1, 1. / 3},
		{WtsnapNight, DumpGzip, 1, 1. / 3},
		{WtsnapNight, DumpFolder, 0, 0},
		{WtsnapRestore, RestoreArchive, 0.5, 1. / 3},
		{WtsnapRestore, RestoreArchive4, 0.5, 1. / 3},
		{WtsnapRestore, RestoreGzip, 0.5, 1. / 3},
		{WtsnapRestore, RestoreGzip4, 0.5, 1. / 3},
	}
}

// value is a figure of one way: the median over the runs of the mean within each; ok is false where there is none.
func (m *Mongo) value(way Way, of func(MongoSample) float64) (v float64, ok bool) {
	sums, counts := map[int]float64{}, map[int]int{}
	for _, s := range m.Samples {
		if s.Way == way {
			sums[s.Run] += of(s)
			counts[s.Run]++
		}
	}
	var values []float64
	for run, sum := range sums {
		values = append(values, sum/float64(counts[run]))
	}
	if len(values) == 0 {
		return 0, false
	}
	return median(values), true
}

func mongoWall(s MongoSample) float64   { return s.Wall }
func mongoCPU(s MongoSample) float64    { return s.User + s.System }
func mongoPeak(s MongoSample) float64   { return float64(s.Peak) }
func mongoServer(s MongoSample) float64 { return s.Server }
func mongoBytes(s MongoSample) float64  { return float64(s.Bytes) }

// Markdown renders the report for people.
func (m *Mongo) Markdown(w io.Writer) error {
	p := &printer{w: w}
	p.line("# wtsnap beside mongodump and mongorestore: size %s, %d runs, %d nights\n", m.Size, m.Runs, m.Nights)
	p.line("%s, on %s. %.1f MB of documents in the tests' server, which keeps them in memory; everything else in %s. Seed %d.\n"+
		"wtsnap %s; MongoDB's tools of %s.\n", m.Started.UTC().Format("2006-01-02"), m.Machine, float64(m.Bytes)/1e6, m.Dir, m.Seed, m.Wtsnap, m.Tools)
	p.line("Medians of the runs (of the nights: of the means over them). CPU is that of the program alone, user and system; what\n" +
		"the server took meanwhile stands beside it. Programs and server share the cores, so that wall times are at least\n" +
		"the sum of both over the cores. mongodump neither compresses (but with --gzip), nor deduplicates, nor encrypts.\n")
	m.table(p, "dump", "written, MB", []Way{WtsnapFirst, WtsnapUnchanged, WtsnapNight, DumpFolder, DumpArchive, DumpGzip})
	m.table(p, "restore into an empty server", "order kept", []Way{WtsnapRestore, WtsnapRestored, RestoreArchive, RestoreArchive4, RestoreGzip, RestoreGzip4})
	m.ratios(p)
	m.nights(p)
	return p.err
}

func (m *Mongo) table(p *printer, title, last string, ways []Way) {
	p.cells(title, "wall, s", "CPU, s", "the server's, s", "peak memory, MiB", last)
	p.cells("---", "---:", "---:", "---:", "---:", "---:")
	for _, way := range ways {
		wall, ok := m.value(way, mongoWall)
		if !ok {
			continue
		}
		cpu, _ := m.value(way, mongoCPU)
		server, _ := m.value(way, mongoServer)
		peak, _ := m.value(way, mongoPeak)
		cell := m.order(way)
		if bytes, _ := m.value(way, mongoBytes); cell == "" {
			cell = amount(bytes, "MB")
		}
		p.cells(string(way), amount(wall, "s"), amount(cpu, "s"), amount(server, "s"), amount(peak, "MiB"), cell)
	}
	p.line("")
}

// order tells of a way to restore whether documents came back in their order; "" of a way to dump.
func (m *Mongo) order(way Way) string {
	switch way {
	case WtsnapRestore, WtsnapRestored, RestoreArchive, RestoreArchive4, RestoreGzip, RestoreGzip4:
	default:
		return ""
	}
	if slices.ContainsFunc(m.Samples, func(s MongoSample) bool { return s.Way == way && !s.Order }) {
		return "no"
	}
	return "yes"
}

// ratios sets wtsnap's ways beside its peers'.
func (m *Mongo) ratios(p *printer) {
	p.cells("", "beside", "wall", "goal", "CPU", "goal")
	p.cells("---", "---", "---:", "---", "---:", "---")
	for _, g := range mongoGoals() {
		wall, ok := m.value(g.way, mongoWall)
		peerWall, there := m.value(g.peer, mongoWall)
		if !ok || !there {
			continue
		}
		cpu, _ := m.value(g.way, mongoCPU)
		peerCPU, _ := m.value(g.peer, mongoCPU)
		p.cells(string(g.way), string(g.peer), fmt.Sprintf("%.2f", wall/peerWall), judged(wall, peerWall, g.wall),
			fmt.Sprintf("%.2f", cpu/peerCPU), judged(cpu, peerCPU, g.cpu))
	}
	p.line("")
}

// nights shows what each night uploads, beside its bound and a compressed archive.
func (m *Mongo) nights(p *printer) {
	started := false
	archive, _ := m.value(DumpGzip, mongoBytes)
	for i, b := range m.Bounds {
		night := &Mongo{}
		for _, s := range m.Samples {
			if s.Night == i+1 {
				night.Samples = append(night.Samples, s)
			}
		}
		v, ok := night.value(WtsnapNight, mongoBytes)
		if !ok || b.Bytes == 0 || archive == 0 {
			continue
		}
		if !started {
			started = true
			p.line("What %s uploads each night, beside the bound of `zstd --patch-from` and the archive of mongodump --gzip:\n", ours)
			p.cells("night", "uploaded, MB", "bound, MB", "ratio", "goal", "of the archive")
			p.cells("---", "---:", "---:", "---:", "---", "---:")
		}
		p.cells(fmt.Sprint(i+1), amount(v, "MB"), amount(float64(b.Bytes), "MB"), fmt.Sprintf("%.2f", v/float64(b.Bytes)),
			judged(v, float64(b.Bytes), nightGoal), fmt.Sprintf("%.1f %%", 100*v/archive))
	}
	if started {
		p.line("")
	}
}
