package mongo

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/klauspost/compress/gzip"
	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/whole-tale/wtsnap/mongo/archive"
	"github.com/whole-tale/wtsnap/mongo/layout"
	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/snapshot"
)

// DumpTarget restores to an archive that mongorestore takes: a file, compressed where its name ends in .gz, or standard
// output. A folder needs no such target: what is in the snapshot is mongodump's folder already.
//
// It implements snapshot.ForeignTarget for snapshot.TargetMongodump alone.
type DumpTarget struct {
	Open Opener // nil = OpenDump
}

// RestoreTo implements snapshot.ForeignTarget. What cannot be read ends it: an archive without the end of a collection is
// one that mongorestore refuses, and a file does not get its name.
//
// Memory: three readers of snapshot.FileReader's size.
func (target DumpTarget) RestoreTo(ctx context.Context, r *repo.Repository, o snapshot.RestoreOptions, _ *snapshot.Node) (*snapshot.RestoreReport, error) {
	t := o.Target
	switch {
	case t.Kind != snapshot.TargetMongodump:
		return nil, &snapshot.UnsupportedTargetError{Target: t}
	case o.Delete:
		return nil, &snapshot.TargetSpecError{Target: t.String(), Reason: "there is nothing to delete in an archive"}
	case len(o.Include)+len(o.Exclude) > 0:
		return nil, &snapshot.TargetSpecError{Target: t.String(), Reason: "no patterns of files choose what is in it; " +
			"name a database or a collection (SNAPSHOT:mongo/girder), or give mongorestore --nsInclude and --nsExclude"}
	case t.Stdout && o.Stdout == nil && !o.DryRun:
		return nil, &snapshot.TargetSpecError{Target: t.String(), Reason: "there is no standard output to write to"}
	}
	began := time.Now()
	d, err := target.Open.orOpenDump()(ctx, r, o.Snapshot, o.Path)
	if err != nil {
		return nil, err
	}
	w := &dumpWriter{ctx: ctx, d: d, o: &o}
	w.rep = snapshot.RestoreReport{Path: o.Path, Target: t.String(), DryRun: o.DryRun, Documents: &snapshot.Documents{}}
	for _, p := range d.Problems {
		o.Monitor.Problem(p.Path, fmt.Errorf("%s: it goes into the archive as it is", p.Error))
		w.rep.Problems++
		w.rep.Errors = append(w.rep.Errors, p)
	}
	switch {
	case o.DryRun:
		err = w.list()
	case t.Stdout:
		err = w.write(o.Stdout)
	default:
		err = snapshot.WriteNew(t.Path, w.write)
	}
	w.rep.Seconds = time.Since(began).Seconds()
	if err != nil {
		err = fmt.Errorf("writing %s: %w", t, err)
	}
	return &w.rep, err
}

// A dumpWriter is one call of RestoreTo.
type dumpWriter struct {
	ctx context.Context // of the call
	d   *Dump
	o   *snapshot.RestoreOptions
	rep snapshot.RestoreReport
}

// list says what would be written.
func (w *dumpWriter) list() error {
	for _, c := range w.d.Collections() {
		w.begin(c.Namespace(), c.Bytes)
		if w.d.Filter != "" { // nothing else says how many there are
			n, err := w.d.count(w.ctx, &c)
			w.rep.Documents.Inserted += n
			if err != nil {
				return err
			}
		}
	}
	if w.d.oplog != nil {
		w.begin(archive.Oplog.String(), w.d.oplog.Size)
	}
	return nil
}

func (w *dumpWriter) begin(what string, bytes int64) {
	if w.o.OnAction != nil {
		w.o.OnAction(snapshot.Action{Op: snapshot.OpCreate, Path: what, Bytes: bytes})
	}
	w.rep.Bytes.Total += bytes
	w.rep.Files.New++
	w.o.Progress.Files.Add(1)
	w.o.Progress.New.Add(1)
}

// write writes the archive.
func (w *dumpWriter) write(out io.Writer) error {
	counted := &countingWriter{w: out}
	buffered := bufio.NewWriterSize(counted, 1<<20)
	var err error
	if w.o.Target.Compression == snapshot.CompressGzip {
		z := gzip.NewWriter(buffered)
		if err = w.namespaces(z); err == nil {
			err = z.Close()
		}
	} else {
		err = w.namespaces(buffered)
	}
	if err == nil {
		err = buffered.Flush()
	}
	w.rep.Bytes.Written = counted.n
	return err
}

type countingWriter struct {
	w io.Writer
	n int64
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// A dumpPart is a namespace that is to be written.
type dumpPart struct {
	archive.Namespace
	bytes int64
	open  func() *Documents // nil: it has none
}

// namespaces writes the prelude and everything else. While one namespace is written, the next ones are read ahead.
func (w *dumpWriter) namespaces(out io.Writer) error {
	listed, parts := w.plan()
	a, err := archive.NewWriter(out, archive.Header{Concurrent: 1, ServerVersion: serverVersion(w.d), ToolVersion: w.d.Versions.Tool}, listed)
	if err != nil {
		return err
	}
	const ahead = 3
	opened := make([]*Documents, len(parts))
	defer func() {
		for _, d := range opened {
			if d != nil {
				_ = d.Close()
			}
		}
	}()
	for i, p := range parts {
		for k := i; k < min(i+ahead, len(parts)); k++ {
			if parts[k].open != nil && opened[k] == nil {
				opened[k] = parts[k].open()
			}
		}
		if err := w.namespace(a, &p, opened[i]); err != nil {
			return err
		}
		if opened[i] != nil {
			_ = opened[i].Close()
			opened[i] = nil
			parts[i].open = nil
		}
	}
	return nil
}

// plan lists the prelude's collections, and the namespaces in their order: users and roles first, the oplog last.
func (w *dumpWriter) plan() (listed []archive.Collection, parts []dumpPart) {
	for i := range w.d.collections {
		c := &w.d.collections[i]
		listed = append(listed, archive.Collection{Namespace: archive.Namespace{DB: c.DB, Collection: c.Name}, Metadata: c.Metadata.JSON,
			Type: c.Metadata.Type})
		p := dumpPart{Namespace: archive.Namespace{DB: c.DB, Collection: c.Name}, bytes: c.Bytes}
		if c.data != nil || c.folded != nil {
			p.Collection = c.DataName
			p.open = func() *Documents { return w.d.Documents(w.ctx, c) }
		} else if c.Type == layout.TypeTimeseries && !archive.Viewless(serverVersion(w.d)) {
			p.Collection = layout.BucketsPrefix + c.Name
		}
		parts = append(parts, p)
	}
	slices.SortStableFunc(parts, func(a, b dumpPart) int {
		switch x, y := archive.Special(a.Namespace), archive.Special(b.Namespace); {
		case x == y:
			return 0
		case x:
			return -1
		}
		return 1
	})
	if w.d.oplog != nil {
		listed = append(listed, archive.Collection{Namespace: archive.Oplog})
		parts = append(parts, dumpPart{Namespace: archive.Oplog, bytes: w.d.oplog.Size, open: func() *Documents { return w.d.Oplog(w.ctx) }})
	}
	return listed, parts
}

// serverVersion is what the archive says of the server. mongorestore 100.18 wants one that it understands, and infers from
// it under what name the documents of a time series come; 0.0.0 stands for an unknown one.
func serverVersion(d *Dump) string {
	if d.Versions.Server != "" {
		return d.Versions.Server
	}
	for i := range d.collections {
		if c := &d.collections[i]; c.Type == layout.TypeTimeseries && c.DataName == c.Name {
			return "8.3.0"
		}
	}
	return "0.0.0"
}

func (w *dumpWriter) namespace(a *archive.Writer, p *dumpPart, d *Documents) error {
	w.begin(p.String(), p.bytes)
	if err := a.Begin(p.Namespace); err != nil {
		return err
	}
	if d != nil {
		m := &meter{r: d.raw()}
		if _, err := io.CopyBuffer(struct{ io.Writer }{&progressWriter{a, w.o.Progress}}, m, make([]byte, 256<<10)); err != nil {
			return err
		}
		if p.Namespace != archive.Oplog {
			w.rep.Documents.Inserted += m.docs
		}
	}
	return a.End()
}

// raw returns a reader of the documents' bytes. Next cannot be called then.
func (d *Documents) raw() io.Reader {
	if d.pull != nil {
		return &pulled{d: d}
	}
	return d.in
}

// pulled are the bytes of documents that are made as they are read.
type pulled struct {
	d    *Documents
	rest bson.Raw
}

func (p *pulled) Read(b []byte) (int, error) {
	for len(p.rest) == 0 {
		var err error
		if p.rest, err = p.d.Next(); err != nil {
			return 0, err
		}
	}
	n := copy(b, p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

type progressWriter struct {
	w io.Writer
	p *snapshot.Progress
}

func (p *progressWriter) Write(b []byte) (int, error) {
	n, err := p.w.Write(b)
	p.p.Bytes.Add(int64(n))
	return n, err
}
