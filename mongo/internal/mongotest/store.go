package mongotest

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"sync"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// A store keeps every version of every document with the time at which it was written.
type store struct {
	s *Server

	mu      sync.RWMutex
	clock   uint32         // the current second
	now     bson.Timestamp // of the last write
	oldest  bson.Timestamp // reads before it fail
	term    int64
	ids     uint64 // of collections and documents that are given one
	current []*collection
	dropped []*collection
	oplog   *collection
	changed chan struct{} // closed by the next write
}

type collection struct {
	db, name string
	kind     string // "collection", "view", "timeseries"
	options  bson.Raw
	uuid     [16]byte
	indexes  []bson.Raw
	spans    []span // where and when it was to be found

	base    int // records that were trimmed from the front
	records []*record
	byID    map[string]*record
	count   int
	bytes   int64
}

// span says under which name a collection was from when until when; until zero means that it still is.
type span struct {
	ns          string
	from, until bson.Timestamp
}

// record is a place in the natural order and what was there.
type record struct {
	id    string
	at    bson.Timestamp
	doc   bson.Raw // nil: deleted
	older []version
}

type version struct {
	at  bson.Timestamp
	doc bson.Raw
}

func newStore(s *Server, start uint32) *store {
	st := &store{s: s, clock: start, now: bson.Timestamp{T: start}, term: 1, changed: make(chan struct{})}
	if s.o.Role == ReplicaSet && !s.o.NoOplog {
		st.oplog = st.add("local", "oplog.rs", "collection", rawOf(bson.D{{Key: "capped", Value: true}, {Key: "size", Value: int64(1 << 30)}}))
		st.oplog.indexes = nil
		st.log(bson.D{{Key: "op", Value: "n"}, {Key: "ns", Value: ""}, {Key: "o", Value: bson.D{{Key: "msg", Value: "initiating set"}}}}, st.tick())
		st.oldest = st.now
	}
	return st
}

func after(a, b bson.Timestamp) bool { return a.Compare(b) > 0 }

// tick is the time of a new write.
func (st *store) tick() bson.Timestamp {
	if st.clock > st.now.T {
		st.now = bson.Timestamp{T: st.clock, I: 1}
	} else {
		st.now.I++
	}
	return st.now
}

// wake wakes those that wait for writes.
func (st *store) wake() {
	st.mu.Lock()
	st.notify()
	st.mu.Unlock()
}

func (st *store) notify() {
	close(st.changed)
	st.changed = make(chan struct{})
}

// newUUID makes one by chance, as servers do: two servers never have the same.
func (st *store) newUUID() (id [16]byte) {
	_, _ = rand.Read(id[:]) // it never fails
	id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80
	return id
}

func (st *store) newObjectID() (id bson.ObjectID) {
	st.ids++
	binary.BigEndian.PutUint32(id[:], st.clock)
	binary.BigEndian.PutUint64(id[4:], st.ids)
	return id
}

func (st *store) find(db, name string) *collection {
	for _, c := range st.current {
		if c.db == db && c.name == name {
			return c
		}
	}
	return nil
}

// findAt finds what had the name at a time.
func (st *store) findAt(db, name string, at bson.Timestamp) *collection {
	ns := db + "." + name
	for _, list := range [][]*collection{st.current, st.dropped} {
		for _, c := range list {
			for _, sp := range c.spans {
				if sp.ns == ns && !after(sp.from, at) && (sp.until.IsZero() || after(sp.until, at)) {
					return c
				}
			}
		}
	}
	return nil
}

// add makes a collection, without a trace in the oplog.
func (st *store) add(db, name, kind string, options bson.Raw) *collection {
	if options == nil {
		options = rawOf(bson.D{})
	}
	c := &collection{db: db, name: name, kind: kind, options: options, byID: map[string]*record{}}
	if kind != "view" {
		c.uuid = st.newUUID()
		c.spans = []span{{ns: db + "." + name, from: st.now}}
		c.indexes = []bson.Raw{st.idIndex(db + "." + name)}
	}
	st.current = append(st.current, c)
	return c
}

func (st *store) idIndex(ns string) bson.Raw {
	d := bson.D{{Key: "v", Value: int32(2)}, {Key: "key", Value: bson.D{{Key: "_id", Value: int32(1)}}}, {Key: "name", Value: "_id_"}}
	if !st.s.atLeast(3, 4) {
		d[0].Value = int32(1)
	}
	if !st.s.atLeast(4, 4) {
		d = append(d, bson.E{Key: "ns", Value: ns})
	}
	return rawOf(d)
}

func (st *store) remove(c *collection, at bson.Timestamp) {
	st.current = slices.DeleteFunc(st.current, func(o *collection) bool { return o == c })
	c.end(at)
	st.dropped = append(st.dropped, c)
}

func (c *collection) end(at bson.Timestamp) {
	if n := len(c.spans); n > 0 {
		c.spans[n-1].until = at
	}
}

func (c *collection) ns() string { return c.db + "." + c.name }

func (c *collection) capped() bool { return truthy(c.options.Lookup("capped")) }

func (r *record) visible(at bson.Timestamp) bson.Raw {
	if !after(r.at, at) {
		return r.doc
	}
	for i := len(r.older) - 1; i >= 0; i-- {
		if !after(r.older[i].at, at) {
			return r.older[i].doc
		}
	}
	return nil
}

func (c *collection) put(id string, doc bson.Raw, at bson.Timestamp) {
	r := &record{id: id, at: at, doc: doc}
	c.records = append(c.records, r)
	c.byID[id] = r
	c.count++
	c.bytes += int64(len(doc))
	if c.capped() {
		most, maxDocs := number(c.options.Lookup("size")), number(c.options.Lookup("max"))
		for len(c.records) > 1 && (c.bytes > most || maxDocs > 0 && int64(c.count) > maxDocs) {
			c.trim()
		}
	}
}

// trim takes the first record of a capped collection away.
func (c *collection) trim() {
	r := c.records[0]
	c.records = c.records[1:]
	c.base++
	if r.doc != nil {
		c.count--
		c.bytes -= int64(len(r.doc))
		delete(c.byID, r.id)
	}
}

// set makes a new version, nil for a deletion.
func (c *collection) set(r *record, doc bson.Raw, at bson.Timestamp) {
	r.older = append(r.older, version{r.at, r.doc})
	c.bytes += int64(len(doc)) - int64(len(r.doc))
	r.at, r.doc = at, doc
	if doc == nil {
		c.count--
		delete(c.byID, r.id)
	}
}

// documents are all documents of a collection, at a time, or now where it is zero.
func (c *collection) documents(at bson.Timestamp) []bson.Raw {
	var out []bson.Raw
	for _, r := range c.records {
		doc := r.doc
		if !at.IsZero() {
			doc = r.visible(at)
		}
		if doc != nil {
			out = append(out, doc)
		}
	}
	return out
}

// unique checks the unique indexes for a document that is to be stored, besides self.
func (c *collection) unique(doc bson.Raw, self *record) *Error {
	for _, ix := range c.indexes {
		if !truthy(ix.Lookup("unique")) {
			continue
		}
		keys := indexKey(doc, ix)
		for _, r := range c.records {
			if r != self && r.doc != nil && indexKey(r.doc, ix) == keys {
				return duplicateKey(c.ns(), ix, doc)
			}
		}
	}
	return nil
}

func indexKey(doc, index bson.Raw) string {
	var b strings.Builder
	list, _ := index.Lookup("key").Document().Elements()
	for _, e := range list {
		if v := lookups(doc, e.Key()); len(v) > 0 {
			k := key(v[0])
			fmt.Fprintf(&b, "%d:%s", len(k), k)
		}
		b.WriteByte('|')
	}
	return b.String()
}

func duplicateKey(ns string, index, doc bson.Raw) *Error {
	value := bson.D{}
	var shown []string
	list, _ := index.Lookup("key").Document().Elements()
	for _, e := range list {
		var v any
		if found := lookups(doc, e.Key()); len(found) > 0 {
			v = found[0]
			shown = append(shown, e.Key()+": "+found[0].String())
		}
		value = append(value, bson.E{Key: e.Key(), Value: v})
	}
	return &Error{Code: 11000, Name: "DuplicateKey",
		Message: fmt.Sprintf("E11000 duplicate key error collection: %s index: %s dup key: { %s }", ns, index.Lookup("name").StringValue(), strings.Join(shown, ", ")),
		extra:   bson.D{{Key: "keyPattern", Value: index.Lookup("key")}, {Key: "keyValue", Value: value}}}
}
