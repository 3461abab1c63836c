package mongo

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/klauspost/compress/gzip"
	"go.mongodb.org/mongo-driver/v2/bson"
	"golang.org/x/sync/errgroup"

	"github.com/whole-tale/wtsnap/mongo/archive"
	"github.com/whole-tale/wtsnap/mongo/layout"
	"github.com/whole-tale/wtsnap/snapshot"
	"github.com/whole-tale/wtsnap/snapshot/localfs"
)

// A DumpSource saves what mongodump wrote: an archive or a folder, of any age, plain or compressed. In the snapshot it is
// the folder, decompressed, so that what did not change in the database is not stored again.
//
// What is not whole fails: an archive that ends early, or of which a collection's CRC is wrong; a file of a folder that
// cannot be decompressed or holds something else than documents. What came before is in a snapshot that is not complete.
type DumpSource struct {
	Path  string    // a file or a folder; "-" = an archive from Stdin
	Stdin io.Reader // may be nil where Path is not "-"
	// Include and Exclude choose collections; none = all. Long names of a folder, which only the metadata say in full, are
	// matched as far as the files' names have them.
	Include, Exclude []Pattern
}

// takes reports whether a collection is saved. A time series' documents go with it.
func (s *DumpSource) takes(db, name string) bool {
	matches := func(list []Pattern) bool {
		return slices.ContainsFunc(list, func(p Pattern) bool {
			return p.Match(db, name) || p.Match(db, strings.TrimPrefix(name, layout.BucketsPrefix))
		})
	}
	return !matches(s.Exclude) && (len(s.Include) == 0 || matches(s.Include))
}

// Save implements snapshot.StreamSource.
//
// Memory: that of archive.Reader.Split and one chunker for each collection whose documents are under way; nothing is kept
// on disk.
func (s *DumpSource) Save(ctx context.Context, sink *snapshot.Sink) error {
	d := &dumpSaver{DumpSource: s, ctx: ctx, sink: sink, databases: map[string]*snapshot.MongoDatabase{}}
	d.info = snapshot.MongoInfo{Role: snapshot.MongoDump, Consistency: snapshot.MongoNone, Include: texts(s.Include), Exclude: texts(s.Exclude)}
	if s.Path == "-" {
		return d.archive(snapshot.Interruptible(ctx, s.Stdin))
	}
	st, err := os.Stat(s.Path)
	if err != nil {
		return err
	}
	if st.IsDir() {
		return d.folder(s.Path)
	}
	f, err := os.Open(s.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	return d.archive(f)
}

func texts(list []Pattern) (out []string) {
	for _, p := range list {
		out = append(out, string(p))
	}
	return out
}

// A dumpSaver is one call of Save.
type dumpSaver struct {
	*DumpSource
	ctx  context.Context // of the call
	sink *snapshot.Sink

	mu        sync.Mutex
	info      snapshot.MongoInfo
	databases map[string]*snapshot.MongoDatabase
}

// archive saves an archive.
func (d *dumpSaver) archive(r io.Reader) error {
	a, err := archive.NewReader(r)
	if err != nil {
		return err
	}
	h := a.Header()
	d.info.Server, d.info.Tool = h.ServerVersion, h.ToolVersion
	views := map[archive.Namespace]bool{}
	for _, c := range a.Collections() {
		if c.Namespace == archive.Oplog || !d.takes(c.DB, c.Collection) {
			continue
		}
		view, err := d.metadata(&c)
		if err != nil {
			return err
		}
		views[c.Namespace] = view
	}
	prelude := layout.MarshalPrelude(layout.Versions{Server: h.ServerVersion, Tool: h.ToolVersion})
	if err := d.add(layout.PreludeFile, strings.NewReader(string(prelude))); err != nil {
		return err
	}
	err = a.Split(d.ctx, func(ctx context.Context, n archive.Namespace, r io.Reader) error {
		if n == archive.Oplog {
			return d.oplog(r, func(m io.Reader) error { return d.add(layout.OplogFile, m) })
		}
		if !d.takes(n.DB, n.Collection) {
			// What nobody reads is checked all the same.
			return nil
		}
		if views[n] {
			// A view's namespace is empty; a folder has no file of its documents.
			in := bufio.NewReaderSize(r, 16)
			if _, err := in.Peek(1); err != nil {
				if err == io.EOF {
					err = nil
				}
				return err
			}
			r = in
		}
		m := &meter{r: r}
		if err := d.add(layout.DataPath(n.DB, n.Collection), m); err != nil {
			return err
		}
		d.count(n.DB, 0, m.docs, m.bytes)
		return nil
	})
	d.finish()
	if errors.Is(err, archive.ErrTruncated) {
		err = &HintError{err, "see what mongodump said, it was ended or had no room, and make the archive anew"}
	}
	return err
}

// metadata saves a collection's metadata, and reports whether it is a view.
func (d *dumpSaver) metadata(c *archive.Collection) (view bool, err error) {
	text := c.Metadata
	m, err := layout.ParseMetadata(text)
	path := layout.MetadataPath(c.DB, c.Collection)
	switch {
	case err != nil:
		d.sink.Problem(path, fmt.Errorf("%w: it is saved as it is", err))
	case layout.IsCut(layout.FileName(c.Collection)):
		if text, err = layout.WithName(text, c.Collection); err != nil {
			return false, err
		}
	}
	d.count(c.DB, 1, 0, 0)
	return c.Type == layout.TypeView || c.Type == "" && m.IsView(), d.add(path, strings.NewReader(string(text)))
}

// add saves a file that has no time of its own.
func (d *dumpSaver) add(path string, r io.Reader) error { return d.sink.AddUndated(d.ctx, path, r) }

// oplog saves the oplog, and notes its span.
func (d *dumpSaver) oplog(r io.Reader, add func(r io.Reader) error) error {
	var start, end snapshot.Timestamp
	var bad error
	m := &meter{r: r, onDoc: func(doc bson.Raw) {
		t, i, ok := doc.Lookup("ts").TimestampOK()
		if !ok {
			bad = errOplogTime
			return
		}
		if end = (snapshot.Timestamp{T: t, I: i}); start.IsZero() {
			start = end
		}
	}}
	if err := add(m); err != nil {
		return err
	}
	if err := cmp.Or(m.end(), bad); err != nil {
		return fmt.Errorf("%s: %w", layout.OplogFile, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.info.Consistency, d.info.Start, d.info.End = snapshot.MongoArchiveOplog, start, end
	return nil
}

// count adds to what the manifest says of a database.
func (d *dumpSaver) count(db string, collections, documents, bytes int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	m := d.databases[db]
	if m == nil {
		m = &snapshot.MongoDatabase{Name: db}
		d.databases[db] = m
	}
	m.Collections, m.Documents, m.Bytes = m.Collections+collections, m.Documents+documents, m.Bytes+bytes
}

// finish tells the sink what the manifest is to say.
func (d *dumpSaver) finish() {
	for _, m := range d.databases {
		d.info.Databases = append(d.info.Databases, *m)
	}
	slices.SortFunc(d.info.Databases, func(a, b snapshot.MongoDatabase) int { return cmp.Compare(a.Name, b.Name) })
	info := d.info
	d.sink.SetMongo(&info)
}

// A dumpFile is a file of a dump's folder.
type dumpFile struct {
	local string
	path  string // in the layout, and in the snapshot
	file  layout.File
}

// folder saves a folder: of a whole dump, or of one database.
func (d *dumpSaver) folder(root string) error {
	files, err := d.listFolder(root)
	if err != nil {
		return err
	}
	var failed []string
	g, ctx := errgroup.WithContext(d.ctx)
	g.SetLimit(4)
	for _, f := range files {
		g.Go(func() error {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			err := d.file(f)
			if err == nil || d.ctx.Err() != nil {
				return err
			}
			d.sink.Problem(f.path, err)
			d.mu.Lock()
			defer d.mu.Unlock()
			failed = append(failed, f.path)
			return nil
		})
	}
	err = g.Wait()
	d.finish()
	if err == nil && len(failed) > 0 {
		slices.Sort(failed)
		err = fmt.Errorf("of the dump %d files are not whole: %s", len(failed), few(failed))
		if len(failed) == 1 {
			err = fmt.Errorf("of the dump a file is not whole: %s", failed[0])
		}
	}
	return err
}

// few names the first of many.
func few(names []string) string {
	const some = 3
	if more := len(names) - some; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:some], ", "), more)
	}
	return strings.Join(names, ", ")
}

// listFolder lists a folder's files.
func (d *dumpSaver) listFolder(root string) (files []dumpFile, err error) {
	if root, err = filepath.Abs(root); err != nil {
		return nil, err
	}
	base := filepath.Base(root)
	ofDatabase := false // the folder is a database's: its name becomes part of the paths
	if root, err = filepath.EvalSymlinks(root); err != nil {
		return nil, err
	}
	err = filepath.WalkDir(root, func(local string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.IsDir() {
			return d.ctx.Err()
		}
		rel, err := filepath.Rel(root, local)
		if err != nil {
			return err
		}
		f := dumpFile{local: local, path: filepath.ToSlash(rel)}
		f.file = layout.Parse(f.path)
		if f.file.Kind == layout.KindOther && !strings.Contains(f.path, "/") {
			k := layout.Parse("db/" + f.path).Kind
			ofDatabase = ofDatabase || k == layout.KindData || k == layout.KindMetadata
		}
		if !e.Type().IsRegular() {
			d.sink.Problem(f.path, errors.New("it is no regular file: it is left out"))
			return nil
		}
		files = append(files, f)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if !ofDatabase {
		base = ""
	}
	known, taken := 0, map[string]bool{}
	// A plain file comes before a compressed one of the same name, and wins.
	slices.SortFunc(files, func(a, b dumpFile) int { return cmp.Compare(a.path, b.path) })
	kept := files[:0]
	for _, f := range files {
		f.path = path.Join(base, f.path)
		f.file = layout.Parse(f.path)
		switch f.file.Kind {
		case layout.KindOther:
			d.sink.Notice(f.path, "it is not mongodump's: it is saved as it is")
		case layout.KindData, layout.KindMetadata:
			known++
		}
		if f.file.Name != "" && !d.takes(f.file.DB, layout.CollectionName(f.file.Name)) {
			continue
		}
		f.path = layout.Plain(f.path)
		if taken[f.path] {
			d.sink.Problem(f.path+".gz", errors.New("it is there without .gz as well: it is left out"))
			continue
		}
		taken[f.path] = true
		kept = append(kept, f)
	}
	if known == 0 {
		return nil, errors.New("it is no folder that mongodump wrote: there is no DATABASE/COLLECTION.bson in it")
	}
	return kept, nil
}

// file saves one file. An error is about it, or ends the run where the sink returned it.
func (d *dumpSaver) file(f dumpFile) error {
	file, err := os.Open(f.local)
	if err != nil {
		return err
	}
	defer file.Close()
	m, err := localfs.Stat(f.local)
	if err != nil {
		return err
	}
	node := snapshot.Node{Meta: localfs.Meta{Type: localfs.TypeFile, Mode: m.Mode, UID: m.UID, GID: m.GID, MTime: m.MTime, CTime: m.CTime, Nlink: 1}}
	in := bufio.NewReaderSize(file, 64<<10)
	var r io.Reader = in
	if f.file.Kind != layout.KindOther && (f.file.Gzip || f.file.Kind == layout.KindOplog && isGzip(in)) {
		z, err := gzip.NewReader(in)
		if err != nil {
			return fmt.Errorf("decompressing it: %w", notEOF(err))
		}
		r = &gunzip{z}
	}
	add := func(r io.Reader) error { return d.sink.Add(d.ctx, f.path, node, r) }
	switch f.file.Kind {
	case layout.KindOplog:
		return d.oplog(r, add)
	case layout.KindData:
		m := &meter{r: r}
		if err := add(m); err != nil {
			return err
		}
		d.count(f.file.DB, d.own(f), m.docs, m.bytes)
		return m.end()
	case layout.KindMetadata, layout.KindPrelude:
		data, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		return d.described(f, data, add)
	}
	return add(r)
}

// described saves a file that says something about the dump.
func (d *dumpSaver) described(f dumpFile, data []byte, add func(r io.Reader) error) error {
	if f.file.Kind == layout.KindPrelude {
		if v, err := layout.ParsePrelude(data); err != nil {
			d.sink.Problem(f.path, fmt.Errorf("%w: it is saved as it is", err))
		} else {
			d.mu.Lock()
			d.info.Server, d.info.Tool = v.Server, v.Tool
			d.mu.Unlock()
		}
		return add(strings.NewReader(string(data)))
	}
	if _, err := layout.ParseMetadata(data); err != nil {
		d.sink.Problem(f.path, fmt.Errorf("%w: it is saved as it is", err))
	}
	d.count(f.file.DB, 1, 0, 0)
	return add(strings.NewReader(string(data)))
}

// own reports, as 0 or 1, whether documents are a collection of their own: those without metadata, but for a time series'.
func (d *dumpSaver) own(f dumpFile) int64 {
	dir, name := filepath.Dir(f.local), strings.TrimPrefix(f.file.Name, layout.BucketsPrefix)
	for _, n := range []string{f.file.Name, name} {
		for _, suffix := range []string{layout.MetadataSuffix, layout.MetadataSuffix + ".gz"} {
			if _, err := os.Lstat(filepath.Join(dir, n+suffix)); err == nil {
				return 0
			}
		}
	}
	return 1
}

// isGzip tells a compressed oplog from a plain one, of which the name says nothing: a document may be as long as gzip's
// magic says, but its fifth byte is the type of a field.
func isGzip(in *bufio.Reader) bool {
	head, _ := in.Peek(5)
	return len(head) == 5 && string(head[:3]) == "\x1f\x8b\x08" && head[3]|head[4] == 0
}

// A gunzip makes the early end of a compressed file the error that it is.
type gunzip struct{ z *gzip.Reader }

func (g *gunzip) Read(p []byte) (int, error) {
	n, err := g.z.Read(p)
	if err != nil && err != io.EOF {
		err = fmt.Errorf("decompressing it: %w", notEOF(err))
	}
	return n, err
}

func notEOF(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return errors.New("it ends early")
	}
	return err
}
