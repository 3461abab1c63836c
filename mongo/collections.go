package mongo

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"slices"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/mongo/layout"
	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/snapshot"
)

// maxDocument is what the longest entry of an oplog has, in bytes: 16 MiB of document and 16 KiB around it.
const maxDocument = 16<<20 + 16<<10

// A Dump is a MongoDB in a snapshot, or a part of one. Its methods may be used concurrently.
type Dump struct {
	Snapshot *snapshot.Snapshot
	Root     string              // path in the snapshot of the folder that holds the databases' folders
	Source   *snapshot.Source    // whose label Root begins with
	Info     *snapshot.MongoInfo // of Source; nil: a folder of mongodump's that was saved as files
	Versions layout.Versions     // of prelude.json, else of Info; "" = unknown
	// Problems are collections whose metadata could not be read or understood. They are listed none the less.
	Problems []snapshot.PathError
	// Folded says that the documents are those of a moment, with an oplog applied: see Moment.
	Folded bool
	// Filter is the query that the documents were chosen by, see Filtered; "" = all are there.
	Filter string

	r           *repo.Repository
	collections []Collection
	oplog       *snapshot.Node
}

// A Collection is one of a dump's.
type Collection struct {
	DB, Name string
	Type     string          // layout.TypeCollection, TypeView or TypeTimeseries
	Metadata layout.Metadata // its JSON is nil where there is none
	Bytes    int64           // of documents
	// DataName is the collection that the documents are of: Name, or of a time series its buckets; "" where there are no
	// documents, as of a view.
	DataName string

	folded       func(ctx context.Context) iter.Seq2[bson.Raw, error] // instead of data
	data         *snapshot.Node
	dataPath     string // in the snapshot
	metadataPath string
}

// Namespace returns DB.NAME.
func (c *Collection) Namespace() string { return c.DB + "." + c.Name }

// Special reports whether a collection holds users, roles, or the version of their form, which a server does not take like
// other documents.
func (c *Collection) Special() bool {
	switch c.Name {
	case "system.users", "system.roles", "system.version":
		return c.DB == "admin"
	}
	return strings.HasPrefix(c.Name, "$admin.system.")
}

// A NoDumpError says that a path in a snapshot leads to nothing that mongodump would have written.
type NoDumpError struct {
	Path string
	Hint string // what may be meant, or ""
}

func (e *NoDumpError) Error() string {
	text := fmt.Sprintf("%q in the snapshot holds no MongoDB", e.Path)
	if e.Path == "" {
		text = "the snapshot holds no MongoDB"
	}
	if e.Hint != "" {
		text += "; " + e.Hint
	}
	return text
}

// OpenDump lists what lies at path: a whole dump (mongo), a database (mongo/girder), or one collection
// (mongo/girder/user.bson). "" is the only MongoDB of the snapshot. It need not have been saved as one: folders of
// mongodump's among files will do. Where collections lie right below a label, its name is the database's.
//
// It reads all metadata; documents are read when they are asked for. r's index is loaded.
func OpenDump(ctx context.Context, r *repo.Repository, s *snapshot.Snapshot, path string) (*Dump, error) {
	path, err := snapshot.CleanPath(path)
	if err != nil {
		return nil, err
	}
	if path == "" {
		if path, err = onlyDump(s); err != nil {
			return nil, err
		}
	}
	node, err := snapshot.Lookup(ctx, r, s, path)
	if err != nil {
		return nil, err
	}
	d := &Dump{Snapshot: s, r: r}
	l := lister{d: d, ctx: ctx, load: snapshot.TreeLoader(r), found: map[[2]string]*Collection{}}
	if err := l.list(path, node); err != nil {
		return nil, err
	}
	label, _, _ := strings.Cut(path, "/")
	if d.Source = s.Source(label); d.Source != nil && d.Source.Mongo != nil && d.Source.Mongo.Role == snapshot.MongoDump {
		d.Info = d.Source.Mongo
	}
	if err := l.finish(path); err != nil {
		return nil, err
	}
	return d, nil
}

// onlyDump returns the label of the snapshot's MongoDB.
func onlyDump(s *snapshot.Snapshot) (string, error) {
	var labels []string
	for _, src := range s.Sources {
		if src.Mongo != nil && src.Mongo.Role == snapshot.MongoDump {
			labels = append(labels, src.Label)
		}
	}
	switch len(labels) {
	case 0:
		return "", &NoDumpError{}
	case 1:
		return labels[0], nil
	}
	return "", &NoDumpError{Hint: "it holds several: choose one of the paths " + strings.Join(labels, ", ")}
}

// Collections returns the dump's collections, ordered by database and name.
func (d *Dump) Collections() []Collection { return d.collections }

// Collection returns the one with a name, or nil.
func (d *Dump) Collection(db, name string) *Collection {
	i, ok := slices.BinarySearchFunc(d.collections, [2]string{db, name}, func(c Collection, want [2]string) int {
		return cmp.Or(cmp.Compare(c.DB, want[0]), cmp.Compare(c.Name, want[1]))
	})
	if !ok {
		return nil
	}
	return &d.collections[i]
}

// Documents returns a reader of a collection's documents, as they are stored: those of a time series are its buckets, and
// oplog.bson is not folded into them. One without documents has an empty reader. It must be closed.
func (d *Dump) Documents(ctx context.Context, c *Collection) *Documents {
	if c.folded != nil {
		docs := &Documents{path: c.dataPath}
		docs.pull, docs.stop = iter.Pull2(c.folded(ctx))
		return docs
	}
	if c.data == nil {
		return &Documents{path: c.dataPath, in: bufio.NewReader(strings.NewReader(""))}
	}
	return d.open(ctx, c.data, c.dataPath)
}

// Oplog returns a reader of the entries in oplog.bson, or nil where the dump has none. It must be closed.
func (d *Dump) Oplog(ctx context.Context) *Documents {
	if d.oplog == nil {
		return nil
	}
	return d.open(ctx, d.oplog, joinPath(d.Root, layout.OplogFile))
}

func (d *Dump) open(ctx context.Context, n *snapshot.Node, path string) *Documents {
	return openDocuments(ctx, d.r, n, path)
}

func openDocuments(ctx context.Context, r *repo.Repository, n *snapshot.Node, path string) *Documents {
	f := snapshot.OpenFile(ctx, r, n, path, 0)
	return &Documents{path: path, in: bufio.NewReaderSize(f, 256<<10), file: f}
}

func joinPath(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}

// A lister builds a Dump.
type lister struct {
	d       *Dump
	ctx     context.Context
	load    snapshot.LoadFunc
	found   map[[2]string]*Collection // by database and name of the file
	prelude *snapshot.Node
	// Files of metadata, read at the end all at once.
	metadata []*snapshot.Node
	of       []*Collection
}

// list finds out what path leads to.
func (l *lister) list(path string, n *snapshot.Node) error {
	up := func(path string) (dir, base string) {
		i := strings.LastIndexByte(path, '/')
		return path[:max(i, 0)], path[i+1:]
	}
	dir, base := up(path)
	if !n.IsDir() {
		root, db := up(dir)
		l.d.Root = root
		f := layout.Parse(db + "/" + base)
		if dir == "" || f.Gzip || f.Kind != layout.KindData && f.Kind != layout.KindMetadata || root == "" && base == layout.OplogFile {
			return &NoDumpError{Path: path, Hint: compressedHint(base)}
		}
		return l.one(dir, db, base)
	}
	// A folder is a database's where its files are: at the top of a dump there are only folders and two known files.
	inside := false
	err := l.each(n, path, func(child *snapshot.Node) error {
		inside = inside || !child.IsDir() && layout.Parse("db/"+child.Name).Kind != layout.KindOther &&
			layout.Parse(child.Name).Kind == layout.KindOther
		return nil
	})
	if err != nil {
		return err
	}
	if inside {
		l.d.Root = dir
		return l.database(path, base, n)
	}
	l.d.Root = path
	return l.each(n, path, func(child *snapshot.Node) error {
		switch layout.Parse(child.Name).Kind {
		case layout.KindOplog:
			if child.IsFile() {
				l.d.oplog = child
			}
		case layout.KindPrelude:
			if child.IsFile() {
				l.prelude = child
			}
		}
		if child.IsDir() {
			return l.database(joinPath(path, child.Name), child.Name, child)
		}
		return nil
	})
}

func compressedHint(name string) string {
	if strings.HasSuffix(name, ".gz") {
		return "it is compressed: save such dumps with mongo=mongodump:FOLDER"
	}
	return ""
}

// one lists a single collection: the file at dir/base and the other one that belongs to it.
func (l *lister) one(dir, db, base string) error {
	n, err := snapshot.Lookup(l.ctx, l.d.r, l.d.Snapshot, dir)
	if err != nil {
		return err
	}
	name := strings.TrimPrefix(layout.Parse(db+"/"+base).Name, layout.BucketsPrefix)
	return l.each(n, dir, func(child *snapshot.Node) error {
		f := layout.Parse(db + "/" + child.Name)
		if strings.TrimPrefix(f.Name, layout.BucketsPrefix) != name {
			return nil
		}
		return l.file(dir, child, f)
	})
}

func (l *lister) database(dir, db string, n *snapshot.Node) error {
	return l.each(n, dir, func(child *snapshot.Node) error {
		return l.file(dir, child, layout.Parse(db+"/"+child.Name))
	})
}

// each calls fn for the entries of a folder.
func (l *lister) each(n *snapshot.Node, path string, fn func(child *snapshot.Node) error) error {
	return snapshot.Walk(l.ctx, l.load, n, path, func(_ string, child *snapshot.Node, err error) error {
		if err != nil {
			return err
		}
		if err := fn(child); err != nil {
			return err
		}
		if child.IsDir() {
			return fs.SkipDir
		}
		return nil
	})
}

// file takes one file of a database's folder.
func (l *lister) file(dir string, n *snapshot.Node, f layout.File) error {
	if !n.IsFile() || f.Gzip || f.Kind != layout.KindData && f.Kind != layout.KindMetadata {
		if f.Gzip && (f.Kind == layout.KindData || f.Kind == layout.KindMetadata) {
			return &NoDumpError{Path: joinPath(dir, n.Name), Hint: compressedHint(n.Name)}
		}
		return nil
	}
	key := [2]string{f.DB, f.Name}
	c := l.found[key]
	if c == nil {
		c = &Collection{DB: f.DB, Name: layout.CollectionName(f.Name), Type: layout.TypeCollection}
		l.found[key] = c
	}
	path := joinPath(dir, n.Name)
	if f.Kind == layout.KindData {
		c.data, c.dataPath, c.Bytes, c.DataName = n, path, n.Size, c.Name
		return nil
	}
	c.metadataPath = path
	l.metadata, l.of = append(l.metadata, n), append(l.of, c)
	return nil
}

// finish reads the metadata and orders what was found.
func (l *lister) finish(path string) error {
	d := l.d
	texts, err := readSmall(l.ctx, d.r, append(l.metadata, l.prelude))
	if err != nil {
		return err
	}
	for i, c := range l.of {
		err := texts[i].err
		if err == nil {
			c.Metadata, err = layout.ParseMetadata(texts[i].data)
		}
		if err != nil {
			d.Problems = append(d.Problems, snapshot.PathError{Path: c.metadataPath, Error: err.Error()})
			continue
		}
		switch {
		case c.Metadata.IsView():
			c.Type = layout.TypeView
		case c.Metadata.IsTimeseries():
			c.Type = layout.TypeTimeseries
		}
		if c.Metadata.Name != "" {
			c.Name = c.Metadata.Name
			if c.data != nil {
				c.DataName = c.Name
			}
		}
	}
	if d.Info != nil {
		d.Versions = layout.Versions{Server: d.Info.Server, Tool: d.Info.Tool}
	}
	if p := texts[len(l.of)]; l.prelude != nil && p.err == nil {
		if v, err := layout.ParsePrelude(p.data); err == nil {
			d.Versions = v
		}
	}
	l.joinTimeseries()
	for _, c := range l.found {
		d.collections = append(d.collections, *c)
	}
	slices.SortFunc(d.collections, func(a, b Collection) int { return cmp.Or(cmp.Compare(a.DB, b.DB), cmp.Compare(a.Name, b.Name)) })
	for i := range d.collections {
		if c := &d.collections[i]; i > 0 && c.Namespace() == d.collections[i-1].Namespace() && c.DB == d.collections[i-1].DB {
			return fmt.Errorf("%q in the snapshot: two files are of the collection %s", path, c.Namespace())
		}
	}
	if len(d.collections) == 0 && d.Info == nil && d.oplog == nil {
		return &NoDumpError{Path: path}
	}
	return nil
}

// joinTimeseries gives time series the documents of their buckets.
func (l *lister) joinTimeseries() {
	for key, c := range l.found {
		name, ok := strings.CutPrefix(key[1], layout.BucketsPrefix)
		if !ok || c.data == nil || c.metadataPath != "" {
			continue
		}
		if t := l.found[[2]string{key[0], name}]; t != nil && t.Type == layout.TypeTimeseries && t.data == nil {
			t.data, t.dataPath, t.Bytes, t.DataName = c.data, c.dataPath, c.Bytes, layout.BucketsPrefix+t.Name
			delete(l.found, key)
		}
	}
}

// A smallFile is the content of a small file, or why it is not there.
type smallFile struct {
	data []byte
	err  error
}

// readSmall reads small files, most of them at once. Nodes may be nil. Damage is an error of the file; others end it.
func readSmall(ctx context.Context, r *repo.Repository, nodes []*snapshot.Node) ([]smallFile, error) {
	const maxSize, maxWhole = 32 << 20, 1 << 20
	out := make([]smallFile, len(nodes))
	var ids []chunk.ID
	var of []int
	for i, n := range nodes {
		switch {
		case n == nil:
		case n.Size > maxSize:
			out[i].err = fmt.Errorf("%d bytes are too many for such a file", n.Size)
		case n.Size <= maxWhole && len(n.Content) == 1 && !n.Content[0].IsHole():
			ids, of = append(ids, n.Content[0].ID), append(of, i)
		default:
			f := snapshot.OpenFile(ctx, r, n, n.Name, 0)
			data, err := io.ReadAll(f)
			_ = f.Close()
			var damage *repo.DamageError
			if err != nil && !errors.As(err, &damage) {
				return nil, err
			}
			out[i] = smallFile{data, err}
		}
	}
	if len(ids) == 0 {
		return out, nil
	}
	return out, r.ReadBlobs(ctx, ids, repo.ReadOptions{OnError: func(i int, err error) error {
		var damage *repo.DamageError
		if !errors.As(err, &damage) {
			return err
		}
		out[of[i]].err = damage
		return nil
	}}, func(i int, data []byte) error {
		out[of[i]].data = bytes.Clone(data)
		return nil
	})
}

// Documents reads the documents of a file one after the other. It is for one goroutine.
//
// Memory: 256 KiB and the longest document, besides snapshot.FileReader.
type Documents struct {
	path string
	in   *bufio.Reader
	file *snapshot.FileReader
	buf  []byte
	off  int64
	err  error

	pull func() (bson.Raw, error, bool) // instead of a file
	stop func()
}

// Next returns the next document, which is valid until the next call, and io.EOF after the last one. Only its length and
// its end are looked at: bson.Raw.Validate says more. Where stored data are damaged, the error is that of
// snapshot.FileReader; where what was stored is not documents, it names the byte.
func (d *Documents) Next() (bson.Raw, error) {
	if d.pull != nil && d.err == nil {
		doc, err, ok := d.pull()
		switch {
		case !ok:
			err = io.EOF
		case err == nil:
			d.off += int64(len(doc))
			return doc, nil
		}
		d.err = err
	}
	if d.err == nil {
		var doc bson.Raw
		if doc, d.err = d.next(); d.err == nil {
			return doc, nil
		}
		var damage *repo.DamageError
		if d.err != io.EOF && !errors.As(d.err, &damage) {
			d.err = fmt.Errorf("%q: byte %d: %w", d.path, d.off, d.err)
		}
	}
	return nil, d.err
}

func (d *Documents) next() (bson.Raw, error) {
	head, err := d.in.Peek(4)
	if err != nil {
		if len(head) > 0 && err == io.EOF {
			err = errCutDocument
		}
		return nil, err
	}
	length := binary.LittleEndian.Uint32(head)
	if length < 5 || length > maxDocument {
		return nil, fmt.Errorf("a document of %d bytes cannot be", length)
	}
	doc, err := d.take(int(length))
	if err != nil {
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			err = errCutDocument
		}
		return nil, err
	}
	if doc[length-1] != 0 {
		return nil, errors.New("a document does not end where it should")
	}
	d.off += int64(length)
	return doc, nil
}

// take returns the next n bytes: where they lie in the reader's buffer, if they fit into it.
func (d *Documents) take(n int) ([]byte, error) {
	if n <= d.in.Size() {
		b, err := d.in.Peek(n)
		if err == nil {
			_, err = d.in.Discard(n) // which leaves the buffer as it is
		}
		return b, err
	}
	if n > cap(d.buf) {
		d.buf = make([]byte, n+n/4)
	}
	_, err := io.ReadFull(d.in, d.buf[:n])
	return d.buf[:n], err
}

var errCutDocument = errors.New("the file ends within a document")

// Offset returns where in the file the next document begins.
func (d *Documents) Offset() int64 { return d.off }

// Close ends the reading. Next cannot be called any more.
func (d *Documents) Close() error {
	if d.err == nil {
		d.err = errors.New("the reader is closed")
	}
	if d.stop != nil {
		d.stop()
	}
	if d.file == nil {
		return nil
	}
	return d.file.Close()
}
