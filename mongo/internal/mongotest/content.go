package mongotest

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// Create makes a collection, a view or a time series, with options as the command create takes them.
func (s *Server) Create(ns string, options bson.D) {
	s.tb.Helper()
	db, name, _ := strings.Cut(ns, ".")
	s.st.mu.Lock()
	defer s.st.mu.Unlock()
	defer s.st.notify()
	if err := s.st.create(db, name, options); err != nil {
		s.tb.Fatalf("mongotest: creating %s: %v", ns, err)
	}
}

// CreateIndexes makes indexes, given as the command createIndexes takes them.
func (s *Server) CreateIndexes(ns string, specs ...bson.D) {
	s.tb.Helper()
	s.st.mu.Lock()
	defer s.st.mu.Unlock()
	defer s.st.notify()
	for _, spec := range specs {
		if err := s.st.createIndex(s.st.must(ns), rawOf(spec)); err != nil {
			s.tb.Fatalf("mongotest: an index of %s: %v", ns, err)
		}
	}
}

// Insert stores documents as a client would, each at a time of its own, and makes the collection where there is none.
func (s *Server) Insert(ns string, docs ...any) {
	s.tb.Helper()
	s.write(ns, docs, insertOptions{})
}

// Load stores documents exactly as they are, without a trace in the oplog.
func (s *Server) Load(ns string, docs ...bson.Raw) {
	s.tb.Helper()
	db, name, _ := strings.Cut(ns, ".")
	s.st.mu.Lock()
	defer s.st.mu.Unlock()
	c := s.st.find(db, name)
	if c == nil {
		s.st.tick()
		c = s.st.add(db, name, "collection", nil)
	}
	for _, d := range docs {
		if err := s.st.insert(c, d, insertOptions{verbatim: true}, nil, bson.Timestamp{}); err != nil {
			s.tb.Fatalf("mongotest: loading %s: %v", ns, err)
		}
	}
}

func (s *Server) write(ns string, docs []any, o insertOptions) {
	s.tb.Helper()
	db, name, _ := strings.Cut(ns, ".")
	s.st.mu.Lock()
	defer s.st.mu.Unlock()
	defer s.st.notify()
	if s.st.find(db, name) == nil {
		if err := s.st.create(db, name, nil); err != nil {
			s.tb.Fatalf("mongotest: creating %s: %v", ns, err)
		}
	}
	for _, d := range docs {
		if err := s.st.insert(s.st.must(ns), rawOf(d), o, nil, bson.Timestamp{}); err != nil {
			s.tb.Fatalf("mongotest: inserting into %s: %v", ns, err)
		}
	}
}

// Update updates the document of an _id with operators, or replaces it, and says in the oplog which.
func (s *Server) Update(ns string, id, update any) {
	s.tb.Helper()
	s.st.mu.Lock()
	defer s.st.mu.Unlock()
	defer s.st.notify()
	c := s.st.must(ns)
	rec := c.byID[key(rawOf(bson.D{{Key: "_id", Value: id}}).Lookup("_id"))]
	if rec == nil {
		s.tb.Fatalf("mongotest: %s has no document %v", ns, id)
	}
	u := rawOf(update)
	doc, err := s.st.apply(c, rec.doc, bson.RawValue{Type: bson.TypeEmbeddedDocument, Value: u}, false, false)
	if err != nil {
		s.tb.Fatalf("mongotest: updating %s: %v", ns, err)
	}
	s.st.update(c, rec, doc, u, nil, bson.Timestamp{})
}

// Delete deletes the document of an _id.
func (s *Server) Delete(ns string, id any) {
	s.tb.Helper()
	s.st.mu.Lock()
	defer s.st.mu.Unlock()
	defer s.st.notify()
	c := s.st.must(ns)
	rec := c.byID[key(rawOf(bson.D{{Key: "_id", Value: id}}).Lookup("_id"))]
	if rec == nil {
		s.tb.Fatalf("mongotest: %s has no document %v", ns, id)
	}
	s.st.delete(c, rec, nil, bson.Timestamp{})
}

// Drop drops a collection, Rename renames one, DropDatabase drops all of a database.
func (s *Server) Drop(ns string) {
	s.st.mu.Lock()
	defer s.st.mu.Unlock()
	defer s.st.notify()
	s.st.drop(s.st.must(ns))
}

func (s *Server) Rename(from, to string, dropTarget bool) {
	s.tb.Helper()
	s.st.mu.Lock()
	defer s.st.mu.Unlock()
	defer s.st.notify()
	db, name, _ := strings.Cut(to, ".")
	if err := s.st.rename(s.st.must(from), db, name, dropTarget); err != nil {
		s.tb.Fatalf("mongotest: renaming %s: %v", from, err)
	}
}

func (s *Server) DropDatabase(db string) {
	s.st.mu.Lock()
	defer s.st.mu.Unlock()
	defer s.st.notify()
	s.st.dropDatabase(db)
}

// AppendOplog appends an entry that nothing was done for; ts, t, v and wall are added.
func (s *Server) AppendOplog(entry bson.D) bson.Timestamp {
	s.st.mu.Lock()
	defer s.st.mu.Unlock()
	defer s.st.notify()
	at := s.st.tick()
	s.st.log(entry, at)
	return at
}

// TrimOplog removes the entries before a time, as a small oplog does.
func (s *Server) TrimOplog(before bson.Timestamp) {
	s.st.mu.Lock()
	defer s.st.mu.Unlock()
	defer s.st.notify()
	for o := s.st.oplog; len(o.records) > 0 && after(before, o.records[0].at); {
		o.trim()
	}
}

// Oplog are the entries that there are.
func (s *Server) Oplog() []bson.Raw { return s.Documents("local.oplog.rs") }

// Documents are a collection's documents in natural order; none where there is no such collection.
func (s *Server) Documents(ns string) []bson.Raw { return s.DocumentsAt(ns, bson.Timestamp{}) }

// DocumentsAt are the documents that a collection had at a time.
func (s *Server) DocumentsAt(ns string, at bson.Timestamp) []bson.Raw {
	db, name, _ := strings.Cut(ns, ".")
	s.st.mu.RLock()
	defer s.st.mu.RUnlock()
	c := s.st.find(db, name)
	if !at.IsZero() {
		c = s.st.findAt(db, name, at)
	}
	if c == nil {
		return nil
	}
	return c.documents(at)
}

// Indexes are a collection's indexes, _id_ first.
func (s *Server) Indexes(ns string) []bson.Raw {
	s.st.mu.RLock()
	defer s.st.mu.RUnlock()
	return slices.Clone(s.st.must(ns).indexes)
}

// CollectionOptions are the options of a collection or view.
func (s *Server) CollectionOptions(ns string) bson.Raw {
	s.st.mu.RLock()
	defer s.st.mu.RUnlock()
	return s.st.must(ns).options
}

// UUID is a collection's.
func (s *Server) UUID(ns string) [16]byte {
	s.st.mu.RLock()
	defer s.st.mu.RUnlock()
	return s.st.must(ns).uuid
}

// Namespaces are all namespaces, sorted; without those of local, config and system.views.
func (s *Server) Namespaces() []string {
	s.st.mu.RLock()
	defer s.st.mu.RUnlock()
	var out []string
	for _, c := range s.st.current {
		if c.db != "local" && c.db != "config" && c.name != "system.views" {
			out = append(out, c.ns())
		}
	}
	slices.Sort(out)
	return out
}

// State describes everything but local, config and UUIDs: two servers with equal states hold the same. Documents count
// in any order, indexes too. Users and roles belong to it.
func (s *Server) State() map[string]string {
	s.st.mu.RLock()
	defer s.st.mu.RUnlock()
	out := map[string]string{}
	for _, c := range s.st.current {
		if c.db == "local" || c.db == "config" || c.name == "system.views" {
			continue
		}
		var sums []string
		for _, d := range c.documents(bson.Timestamp{}) {
			sum := sha256.Sum256(d)
			sums = append(sums, hex.EncodeToString(sum[:]))
		}
		slices.Sort(sums)
		var indexes []string
		for _, ix := range c.indexes {
			if strings.HasPrefix(c.name, "system.buckets.") && ix.Lookup("name").StringValue() == "_id_" {
				continue // old dumps name it; servers have none
			}
			d := without(ix, "ns")
			byKey := func(a, b bson.E) int { return strings.Compare(a.Key, b.Key) }
			slices.SortFunc(d, byKey)
			if i := slices.IndexFunc(d, func(e bson.E) bool { return e.Key == "weights" }); i >= 0 { // mongorestore shuffles them
				var w bson.D
				if v, ok := d[i].Value.(bson.RawValue); ok && v.Unmarshal(&w) == nil {
					slices.SortFunc(w, byKey)
					d[i].Value = w
				}
			}
			indexes = append(indexes, rawText(rawOf(d)))
		}
		slices.Sort(indexes)
		all := sha256.Sum256([]byte(strings.Join(sums, "")))
		out[c.ns()] = fmt.Sprintf("%s %s indexes %s: %d documents %x", c.kind, rawText(c.options), strings.Join(indexes, " "), len(sums), all[:8])
	}
	return out
}

func rawText(d bson.Raw) string {
	b, err := bson.MarshalExtJSON(d, true, false)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// LoadFolder loads a folder that mongodump wrote, not compressed: collections, options and indexes as they are.
func (s *Server) LoadFolder(tb testing.TB, dir string) {
	tb.Helper()
	found := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		rest, ok := strings.CutSuffix(path, ".metadata.json")
		if err != nil || !ok {
			return err
		}
		found++
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		var meta bson.Raw
		if err := bson.UnmarshalExtJSON(text, false, &meta); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		name, err := url.QueryUnescape(filepath.Base(rest))
		if err != nil {
			return err
		}
		if given, ok := meta.Lookup("collectionName").StringValueOK(); ok {
			name = given
		}
		return s.loadCollection(filepath.Base(filepath.Dir(path)), name, rest, meta)
	})
	if err == nil && found == 0 {
		err = fs.ErrNotExist
	}
	if err != nil {
		tb.Fatalf("mongotest: loading %s: %v", dir, err)
	}
}

func (s *Server) loadCollection(db, name, path string, meta bson.Raw) error {
	s.st.mu.Lock()
	defer s.st.mu.Unlock()
	defer s.st.notify()
	options := bson.D{}
	if o, ok := meta.Lookup("options").DocumentOK(); ok {
		options = elements(o)
	}
	if err := s.st.create(db, name, options); err != nil {
		return err
	}
	c := s.st.find(db, name)
	if c.kind == "timeseries" && c.indexes == nil {
		c = s.st.find(db, "system.buckets."+name)
		path = filepath.Join(filepath.Dir(path), "system.buckets."+url.QueryEscape(name))
	}
	if indexes, ok := meta.Lookup("indexes").ArrayOK(); ok && c.kind != "view" {
		values, _ := indexes.Values()
		c.indexes = nil
		for _, v := range values {
			c.indexes = append(c.indexes, slices.Clone(bson.Raw(v.Value)))
		}
	}
	if id, ok := meta.Lookup("uuid").StringValueOK(); ok {
		if b, err := hex.DecodeString(id); err == nil {
			copy(c.uuid[:], b)
		}
	}
	if c.kind == "view" {
		return nil
	}
	b, err := os.ReadFile(path + ".bson")
	if err != nil {
		return err
	}
	for len(b) > 0 {
		doc, rest, err := cutDocument(b)
		if err != nil {
			return fmt.Errorf("%s.bson: %w", path, err)
		}
		if err := s.st.insert(c, doc, insertOptions{verbatim: true}, nil, bson.Timestamp{}); err != nil {
			return err
		}
		b = rest
	}
	return nil
}
