package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/whole-tale/wtsnap/cmd/wtsnap-bench/bound"
	"github.com/whole-tale/wtsnap/cmd/wtsnap-bench/corpus"
	"github.com/whole-tale/wtsnap/cmd/wtsnap-bench/measure"
	"github.com/whole-tale/wtsnap/cmd/wtsnap-bench/report"
	"github.com/whole-tale/wtsnap/cmd/wtsnap-bench/tool"
)

// mongoCommand measures how wtsnap dumps and restores a MongoDB, beside MongoDB's own tools, over the server of the tests.
func mongoCommand(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("mongo", flag.ContinueOnError)
	sizeName := flags.String("size", "small", "tiny, small (90 MB of documents) or full (620 MB)")
	seed := flags.Uint64("seed", 1, "the same seed makes the same documents")
	runs := flags.Int("runs", 3, "medians are taken of this many runs")
	nights := flags.Int("nights", 1, "nights of changes in each run")
	tools := flags.String("mongo-tools", "", "`folder` with mongodump, mongorestore and mongotestd (default $WTSNAP_MONGO_TOOLS, else build/mongo)")
	program := flags.String("wtsnap", "", "`path` of wtsnap (default the one beside this program)")
	dir := flags.String("dir", "", "work in a folder of our own below this `folder`, and remove it in the end\n"+
		"(default /dev/shm if there is room, else the folder for temporary files)")
	jsonFile := flags.String("json", "", "write all figures to this `file`")
	if err := parse(flags, stderr, args); err != nil {
		return err
	}
	size, err := corpus.ParseSize(*sizeName)
	if err != nil {
		return err
	}
	if *runs < 1 || *nights < 1 {
		return errors.New("at least one run and one night are needed")
	}
	size.Bytes = 0 // there are no homes
	b := &bench{ctx: ctx, log: stderr, size: size, seed: *seed, runs: *runs, nights: *nights}
	m := &mongoBench{bench: b}
	if m.programs, err = mongoTools(*tools); err != nil {
		return err
	}
	paths := map[string]string{}
	if *program != "" {
		paths["wtsnap"] = *program
	}
	if err := b.find([]string{"wtsnap"}, paths); err != nil {
		return err
	}
	if err := b.places(*dir, *dir); err != nil {
		return err
	}
	m.report = report.Mongo{Schema: 1, Started: b.report.Started, Machine: machine(), Size: size.Name, Seed: *seed, Runs: *runs, Nights: *nights,
		Dir: b.report.Dir, Wtsnap: b.tools[0].Version, Tools: m.programs}
	for m.run = 1; m.run <= *runs && err == nil; m.run++ {
		err = m.once()
	}
	err = errors.Join(err, b.clean())
	if len(m.report.Samples) == 0 {
		return err
	}
	if *jsonFile != "" {
		err = errors.Join(err, writeJSON(*jsonFile, &m.report))
	}
	return errors.Join(err, m.report.Markdown(stdout))
}

// mongoBench is one call of mongoCommand.
type mongoBench struct {
	*bench
	programs string // the folder of MongoDB's tools
	run      int
	report   report.Mongo
}

// once is one run, from an empty repository to the last restore.
func (m *mongoBench) once() error {
	t := corpus.NewDump(filepath.Join(m.dir, "dump"), m.seed, m.size)
	if err := t.Make(m.ctx); err != nil {
		return err
	}
	defer os.RemoveAll(t.Dir())
	work := filepath.Join(m.dir, "work")
	if err := os.Mkdir(work, 0o700); err != nil {
		return err
	}
	defer os.RemoveAll(work)
	if m.run == 1 {
		files, err := measure.List(t.Dir())
		if err != nil {
			return err
		}
		m.report.Bytes = files.Bytes()
	}
	w := &mongoWork{mongoBench: m, tree: t, dir: work,
		job: tool.Job{Step: tool.Init, Repo: filepath.Join(work, "repo"), Cache: filepath.Join(work, "cache")}}
	if err := errors.Join(os.Mkdir(w.job.Repo, 0o700), os.Mkdir(w.job.Cache, 0o700)); err != nil {
		return err
	}
	if _, err := w.wtsnap("init", "--new-key-file", w.keyFile()); err != nil {
		return err
	}
	if err := w.dumps(0, report.WtsnapFirst, report.DumpFolder, report.DumpArchive, report.DumpGzip, report.WtsnapUnchanged); err != nil {
		return err
	}
	if err := w.restores(report.WtsnapRestore, report.RestoreArchive, report.RestoreArchive4, report.RestoreGzip, report.RestoreGzip4); err != nil {
		return err
	}
	for night := 1; night <= m.nights; night++ {
		if err := m.night(t, night); err != nil {
			return err
		}
		if err := w.dumps(night, report.WtsnapNight, report.DumpGzip); err != nil {
			return err
		}
	}
	return w.restores(report.WtsnapRestored)
}

// night changes the documents; the bound is the same in every run.
func (m *mongoBench) night(t *corpus.Dump, night int) error {
	keep := filepath.Join(m.dir, "old")
	defer os.RemoveAll(keep)
	changes, err := t.Night(m.ctx, night, keep)
	if err != nil || m.run > 1 {
		return err
	}
	least, err := bound.Of(m.ctx, pairs(t, changes))
	m.report.Bounds = append(m.report.Bounds, least)
	return err
}

// mongoWork is a run at work.
type mongoWork struct {
	*mongoBench
	tree *corpus.Dump
	dir  string
	job  tool.Job
	home string // address of the server that is dumped
}

// dumps dumps the documents of the tree, in each of the ways, from one server.
func (w *mongoWork) dumps(night int, ways ...report.Way) (err error) {
	server, err := startMongo(w.ctx, filepath.Join(w.programs, "mongotestd"), w.tree.Dir(), w.home)
	if err != nil {
		return err
	}
	w.home = server.Address
	defer func() { err = errors.Join(err, server.stop()) }()
	for _, way := range ways {
		if err := w.sample(way, night, server, w.dump); err != nil {
			return fmt.Errorf("%s: %w", way, err)
		}
	}
	return nil
}

// restores restores what was dumped last, in each of the ways, into servers of their own.
func (w *mongoWork) restores(ways ...report.Way) error {
	for _, way := range ways {
		if err := w.restoreInto(way); err != nil {
			return fmt.Errorf("%s: %w", way, err)
		}
	}
	return nil
}

func (w *mongoWork) restoreInto(way report.Way) (err error) {
	server, err := startMongo(w.ctx, filepath.Join(w.programs, "mongotestd"), "", "")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.stop()) }()
	return w.sample(way, 0, server, w.restore)
}

// sample measures one way.
func (w *mongoWork) sample(way report.Way, night int, server *mongoServer, do func(report.Way, *mongoServer, *report.MongoSample) error) error {
	unix.Sync() // nobody pays for what another one wrote
	before, err := server.cpu()
	if err != nil {
		return err
	}
	s := report.MongoSample{Run: w.run, Way: way, Night: night, Server: -before}
	if err := do(way, server, &s); err != nil {
		return err
	}
	w.report.Samples = append(w.report.Samples, s)
	fmt.Fprintf(w.log, "run %d/%d  %-42s %7.2f s %7.2f s CPU %7.2f s the server's %5d MiB %9.2f MB written\n", w.run, w.runs, way,
		s.Wall, s.User+s.System, s.Server, s.Peak>>20, float64(s.Bytes)/1e6)
	return nil
}

// finish ends the measurement of the server; what follows does not count.
func finish(server *mongoServer, s *report.MongoSample) error {
	after, err := server.cpu()
	s.Server += after
	return err
}

// archive is where an archive lies.
func (w *mongoWork) archive(gzip bool) string {
	if gzip {
		return filepath.Join(w.dir, "archive.gz")
	}
	return filepath.Join(w.dir, "archive")
}

func (w *mongoWork) dump(way report.Way, server *mongoServer, s *report.MongoSample) (err error) {
	folder := filepath.Join(w.dir, "folder")
	defer os.RemoveAll(folder)
	written := folder
	switch way {
	case report.DumpFolder:
		s.Usage, err = w.tool("mongodump", "--uri", server.URI, "--out", folder)
	case report.DumpArchive:
		written = w.archive(false)
		s.Usage, err = w.tool("mongodump", "--uri", server.URI, "--archive="+written)
	case report.DumpGzip:
		written = w.archive(true)
		s.Usage, err = w.tool("mongodump", "--uri", server.URI, "--gzip", "--archive="+written)
	default:
		var before, after measure.Files
		if before, err = measure.List(w.job.Repo); err != nil {
			return err
		}
		if s.Usage, err = w.wtsnap("backup", "--json", "mongo="+server.URI); err != nil {
			return err
		}
		if after, err = measure.List(w.job.Repo); err != nil {
			return err
		}
		s.Bytes = after.Written(before, nil)
		return finish(server, s)
	}
	if err == nil {
		err = finish(server, s)
	}
	if err != nil {
		return err
	}
	files, err := measure.List(written)
	s.Bytes = files.Bytes()
	return err
}

func (w *mongoWork) restore(way report.Way, server *mongoServer, s *report.MongoSample) (err error) {
	args := []string{"--uri", server.URI, "--archive=" + w.archive(false)}
	if way == report.RestoreGzip || way == report.RestoreGzip4 {
		args = []string{"--uri", server.URI, "--gzip", "--archive=" + w.archive(true)}
	}
	if way == report.RestoreArchive4 || way == report.RestoreGzip4 {
		args = append(args, "--numInsertionWorkersPerCollection", "4")
	}
	if way == report.WtsnapRestore || way == report.WtsnapRestored {
		s.Usage, err = w.wtsnap("restore", "--json", "latest:mongo", "--to", server.URI)
	} else {
		s.Usage, err = w.tool("mongorestore", args...)
	}
	if err == nil {
		err = finish(server, s)
	}
	if err != nil {
		return err
	}
	folder := filepath.Join(w.dir, "restored")
	defer os.RemoveAll(folder)
	if _, err := w.tool("mongodump", "--uri", server.URI, "--out", folder); err != nil {
		return err
	}
	s.Order, err = sameDocuments(w.tree.Dir(), folder)
	return err
}

// keyFile is where the repository's key lies: a random one takes no time, as one from a password does, and nights use it.
func (w *mongoWork) keyFile() string { return filepath.Join(w.dir, "key") }

// wtsnap runs wtsnap over the run's repository.
func (w *mongoWork) wtsnap(args ...string) (measure.Usage, error) {
	env := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + w.job.Cache, "LANG=C.UTF-8", "TMPDIR=" + os.TempDir(), "WTSNAP_REPO=" + w.job.Repo,
		"WTSNAP_INSTANCE=bench", "WTSNAP_CACHE_DIR=" + w.job.Cache}
	if args[0] != "init" {
		env = append(env, "WTSNAP_PASSWORD_FILE="+w.keyFile())
	}
	command := measure.Command{Args: append([]string{w.tools[0].Program}, args...), Dir: w.dir, Env: env}
	usage, _, err := measure.Run(w.ctx, w.helper, command)
	if err != nil {
		return usage, fmt.Errorf("wtsnap %s: %w", args[0], err)
	}
	return usage, nil
}

// tool runs one of MongoDB's tools. mongorestore ends with 0 also where no document could be restored, so that what is
// there must be compared.
func (w *mongoWork) tool(name string, args ...string) (measure.Usage, error) {
	usage, _, err := measure.Run(w.ctx, w.helper, measure.Command{Args: append([]string{filepath.Join(w.programs, name), "--quiet"}, args...),
		Dir: w.dir, Env: []string{"PATH=" + os.Getenv("PATH"), "HOME=" + w.job.Cache, "TMPDIR=" + os.TempDir()}})
	if err != nil {
		return usage, fmt.Errorf("%s: %w", name, err)
	}
	return usage, nil
}

// sameDocuments compares two folders of mongodump's. Other documents are an error; order is false where the same ones
// have another order.
func sameDocuments(want, got string) (order bool, err error) {
	order = true
	files, err := measure.List(want)
	if err != nil {
		return false, err
	}
	compared := 0
	for path := range files {
		if !strings.HasSuffix(path, ".bson") {
			continue
		}
		a, errA := os.ReadFile(filepath.Join(want, path))
		b, errB := os.ReadFile(filepath.Join(got, path))
		if err := errors.Join(errA, errB); err != nil {
			return false, err
		}
		compared++
		if bytes.Equal(a, b) {
			continue
		}
		order = false
		if documentsSum(a) != documentsSum(b) {
			return false, fmt.Errorf("%s: other documents came back than were saved", path)
		}
	}
	if compared == 0 {
		return false, fmt.Errorf("%s: no documents", want)
	}
	return order, nil
}

// documentsSum is a sum over documents that does not depend on their order.
func documentsSum(b []byte) (sum [4]uint64) {
	for len(b) >= 5 {
		n := int(binary.LittleEndian.Uint32(b))
		if n < 5 || n > len(b) {
			break
		}
		h := sha256.Sum256(b[:n])
		for i := range sum {
			sum[i] += binary.LittleEndian.Uint64(h[8*i:])
		}
		b = b[n:]
	}
	sum[0] += uint64(len(b)) // what is no document
	return sum
}
