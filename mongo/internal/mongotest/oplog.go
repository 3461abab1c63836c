package mongotest

import (
	"strings"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// log appends an entry to the oplog; op, ns, o and what else is given comes first, as servers have it.
func (st *store) log(entry bson.D, at bson.Timestamp) {
	if st.oplog == nil {
		return
	}
	d := append(bson.D{}, entry...)
	d = append(d, bson.E{Key: "ts", Value: at}, bson.E{Key: "t", Value: st.term})
	if !st.s.atLeast(4, 2) {
		d = append(d, bson.E{Key: "h", Value: int64(at.T)<<20 ^ int64(at.I)*7919})
	}
	d = append(d, bson.E{Key: "v", Value: int64(2)})
	if st.s.atLeast(3, 6) {
		d = append(d, bson.E{Key: "wall", Value: bson.NewDateTimeFromTime(time.Unix(int64(at.T), 0))})
	}
	raw := rawOf(d)
	st.oplog.put(key(bson.RawValue{Type: bson.TypeTimestamp, Value: tsBytes(at)}), raw, at)
}

func tsBytes(at bson.Timestamp) []byte {
	b := le.AppendUint32(nil, at.I)
	return le.AppendUint32(b, at.T)
}

// unlogged says whether writes to a database leave no trace.
func unlogged(db, name string) bool { return db == "local" || name == "system.profile" }

// entry begins an oplog entry on a collection.
func (st *store) entry(op string, c *collection, o any) bson.D {
	ns := c.ns()
	if op == "c" {
		ns = c.db + ".$cmd"
	}
	d := bson.D{{Key: "op", Value: op}, {Key: "ns", Value: ns}}
	if st.s.atLeast(3, 6) && c.kind != "view" {
		d = append(d, bson.E{Key: "ui", Value: bson.Binary{Subtype: 4, Data: c.uuid[:]}})
	}
	return append(d, bson.E{Key: "o", Value: o})
}

// record logs a change, or gathers it where a transaction is open.
func (st *store) record(tx *Tx, c *collection, entry bson.D, at bson.Timestamp) {
	if unlogged(c.db, c.name) {
		return
	}
	if tx != nil {
		tx.ops = append(tx.ops, entry)
		return
	}
	st.log(entry, at)
}

// create makes a collection and logs it. idIndex may be nil.
func (st *store) create(db, name string, options bson.D) *Error {
	if err := checkName(db, name); err != nil {
		return err
	}
	if st.find(db, name) != nil {
		return errorf(48, "NamespaceExists", "Collection %s.%s already exists.", db, name)
	}
	at := st.tick()
	var kept bson.D
	kind := "collection"
	for _, e := range options {
		switch e.Key {
		case "idIndex", "writeConcern", "comment", "lsid", "$db", "$clusterTime", "$readPreference", "txnNumber", "apiVersion", "maxTimeMS":
			continue
		case "viewOn":
			kind = "view"
		case "timeseries":
			kind = "timeseries"
		}
		kept = append(kept, e)
	}
	raw := rawOf(append(bson.D{}, kept...))
	switch kind {
	case "view":
		st.add(db, name, "view", raw)
		views := st.find(db, "system.views")
		if views == nil {
			views = st.add(db, "system.views", "collection", nil)
			st.log(st.entry("c", views, bson.D{{Key: "create", Value: "system.views"}, {Key: "idIndex", Value: st.idIndex(views.ns())}}), at)
			at = st.tick()
		}
		pipeline := raw.Lookup("pipeline")
		doc := rawOf(bson.D{{Key: "_id", Value: db + "." + name}, {Key: "viewOn", Value: raw.Lookup("viewOn")}, {Key: "pipeline", Value: pipeline}})
		views.put(key(doc.Lookup("_id")), doc, at)
		st.log(st.entry("i", views, doc), at)
	case "timeseries":
		c := st.add(db, name, "timeseries", raw)
		if !st.s.atLeast(8, 3) {
			c.spans, c.indexes = nil, nil
			bucket := append(bson.D{{Key: "validator", Value: bson.D{{Key: "$jsonSchema", Value: bson.D{{Key: "required", Value: bson.A{"_id", "control", "data"}}}}}},
				{Key: "clusteredIndex", Value: true}}, kept...)
			b := st.add(db, "system.buckets."+name, "collection", rawOf(bucket))
			b.indexes = nil
			st.log(st.entry("c", b, append(bson.D{{Key: "create", Value: b.name}}, bucket...)), at)
		} else {
			st.log(st.entry("c", c, append(bson.D{{Key: "create", Value: name}}, kept...)), at)
		}
	default:
		c := st.add(db, name, "collection", raw)
		d := append(bson.D{{Key: "create", Value: name}}, kept...)
		if len(c.indexes) > 0 && st.s.atLeast(3, 4) {
			d = append(d, bson.E{Key: "idIndex", Value: c.indexes[0]})
		}
		if !unlogged(db, name) {
			st.log(st.entry("c", c, d), at)
		}
	}
	return nil
}

func checkName(db, name string) *Error {
	switch {
	case db == "" || len(db) > 63 || strings.ContainsAny(db, "/\\. \"$\x00"):
		return errorf(73, "InvalidNamespace", "Invalid database name: '%s'", db)
	case name == "" || strings.HasPrefix(name, ".") || strings.ContainsRune(name, 0) || len(db)+len(name) > 254:
		return errorf(73, "InvalidNamespace", "Invalid collection name: %s", name)
	case strings.Contains(name, "$") && db+"."+name != "local.oplog.$main":
		return errorf(73, "InvalidNamespace", "Invalid collection name: %s", name)
	}
	return nil
}

// drop removes a collection, a view, or a time series with its buckets.
func (st *store) drop(c *collection) {
	at := st.tick()
	count := c.count
	st.remove(c, at)
	switch c.kind {
	case "view":
		if views := st.find(c.db, "system.views"); views != nil {
			if r := views.byID[key(rawOf(bson.D{{Key: "_id", Value: c.ns()}}).Lookup("_id"))]; r != nil {
				st.log(st.entry("d", views, bson.D{{Key: "_id", Value: c.ns()}}), at)
				views.set(r, nil, at)
			}
		}
		return
	case "timeseries":
		if b := st.find(c.db, "system.buckets."+c.name); b != nil {
			st.drop(b)
			return
		}
	}
	if !unlogged(c.db, c.name) {
		st.log(append(st.entry("c", c, bson.D{{Key: "drop", Value: c.name}}), bson.E{Key: "o2", Value: bson.D{{Key: "numRecords", Value: int64(count)}}}), at)
	}
}

func (st *store) dropDatabase(db string) {
	var gone []*collection
	for _, c := range st.current {
		if c.db == db && c != st.oplog && !strings.HasPrefix(c.name, "system.buckets.") {
			gone = append(gone, c)
		}
	}
	for _, c := range gone {
		st.drop(c)
	}
	if db != "local" {
		st.log(bson.D{{Key: "op", Value: "c"}, {Key: "ns", Value: db + ".$cmd"}, {Key: "o", Value: bson.D{{Key: "dropDatabase", Value: int32(1)}}}}, st.tick())
	}
}

func (st *store) rename(c *collection, db, name string, dropTarget bool) *Error {
	if err := checkName(db, name); err != nil {
		return err
	}
	var dropped any = false
	at := st.tick()
	if target := st.find(db, name); target != nil {
		if !dropTarget {
			return errorf(48, "NamespaceExists", "target namespace exists")
		}
		st.remove(target, at)
		dropped = bson.Binary{Subtype: 4, Data: target.uuid[:]}
	}
	o := bson.D{{Key: "renameCollection", Value: c.ns()}, {Key: "to", Value: db + "." + name}, {Key: "stayTemp", Value: false}, {Key: "dropTarget", Value: dropped}}
	st.log(st.entry("c", c, o), at)
	c.end(at)
	c.db, c.name = db, name
	c.spans = append(c.spans, span{ns: c.ns(), from: at})
	return nil
}

func (st *store) createIndex(c *collection, spec bson.Raw) *Error {
	name := spec.Lookup("name").StringValue()
	for _, ix := range c.indexes {
		if ix.Lookup("name").StringValue() == name {
			if key(ix.Lookup("key")) != key(spec.Lookup("key")) {
				return errorf(86, "IndexKeySpecsConflict", "An existing index has the same name as the requested index: %s", name)
			}
			return nil
		}
		if key(ix.Lookup("key")) == key(spec.Lookup("key")) && key(ix.Lookup("collation")) == key(spec.Lookup("collation")) {
			return errorf(85, "IndexOptionsConflict", "Index already exists with a different name: %s", ix.Lookup("name").StringValue())
		}
	}
	v := any(int32(2))
	if given := spec.Lookup("v"); given.Type != 0 {
		v = given
	}
	d := append(bson.D{{Key: "v", Value: v}, {Key: "key", Value: spec.Lookup("key")}, {Key: "name", Value: name}}, without(spec, "v", "key", "name", "ns")...)
	if !st.s.atLeast(4, 4) {
		d = append(d, bson.E{Key: "ns", Value: c.ns()})
	}
	ix := rawOf(d)
	if truthy(ix.Lookup("unique")) {
		seen := map[string]bool{}
		for _, r := range c.records {
			if r.doc == nil {
				continue
			}
			k := indexKey(r.doc, ix)
			if seen[k] {
				return duplicateKey(c.ns(), ix, r.doc)
			}
			seen[k] = true
		}
	}
	c.indexes = append(c.indexes, ix)
	if !unlogged(c.db, c.name) {
		st.log(st.entry("c", c, append(bson.D{{Key: "createIndexes", Value: c.name}}, elements(ix)...)), st.tick())
	}
	return nil
}

func (st *store) dropIndex(c *collection, name string) *Error {
	for i, ix := range c.indexes {
		if ix.Lookup("name").StringValue() != name {
			continue
		}
		if name == "_id_" {
			return errorf(72, "InvalidOptions", "cannot drop _id index")
		}
		c.indexes = append(c.indexes[:i:i], c.indexes[i+1:]...)
		d := st.entry("c", c, bson.D{{Key: "dropIndexes", Value: c.name}, {Key: "index", Value: name}})
		st.log(append(d, bson.E{Key: "o2", Value: ix}), st.tick())
		return nil
	}
	return errorf(27, "IndexNotFound", "index not found with name [%s]", name)
}

// Tx is a transaction: what is written through it becomes visible, and is logged, at one time.
type Tx struct {
	st  *store
	at  bson.Timestamp
	ops []bson.D
}

// TxOptions say how a transaction is logged.
type TxOptions struct {
	PerEntry int  // operations an applyOps entry; 0 = all in one. More entries are chained by prevOpTime
	Prepare  bool // a prepare entry, and a commitTransaction entry after it
	Abort    bool // with Prepare: abortTransaction instead, and nothing is written
}

// Insert, Update and Delete write to collections that exist.
func (tx *Tx) Insert(ns string, docs ...any) {
	for _, d := range docs {
		if err := tx.st.insert(tx.st.must(ns), rawOf(d), insertOptions{}, tx, tx.at); err != nil {
			panic(err)
		}
	}
}

// Replace replaces the document of the same _id.
func (tx *Tx) Replace(ns string, doc any) {
	c := tx.st.must(ns)
	raw := rawOf(doc)
	r := c.byID[key(raw.Lookup("_id"))]
	tx.st.update(c, r, raw, raw, tx, tx.at)
}

func (tx *Tx) Delete(ns string, id any) {
	c := tx.st.must(ns)
	tx.st.delete(c, c.byID[key(rawOf(bson.D{{Key: "_id", Value: id}}).Lookup("_id"))], tx, tx.at)
}

func (st *store) must(ns string) *collection {
	db, name, _ := strings.Cut(ns, ".")
	c := st.find(db, name)
	if c == nil {
		panic("mongotest: no collection " + ns)
	}
	return c
}

// Transaction runs f as one transaction and logs it as a server does. With Abort nothing may be written by f that later
// tests rely on: the entries are logged, and what f wrote is taken back.
func (s *Server) Transaction(o TxOptions, f func(tx *Tx)) {
	st := s.st
	st.mu.Lock()
	defer st.mu.Unlock()
	defer st.notify()
	tx := &Tx{st: st, at: st.tick()}
	before := len(st.dropped)
	f(tx)
	if len(st.dropped) != before {
		panic("mongotest: a transaction that drops")
	}
	per := o.PerEntry
	if per == 0 {
		per = max(1, len(tx.ops))
	}
	st.ids++
	session := bson.D{{Key: "lsid", Value: bson.D{{Key: "id", Value: bson.Binary{Subtype: 4, Data: le.AppendUint64(make([]byte, 8), st.ids)}}}}, {Key: "txnNumber", Value: int64(1)}}
	previous := bson.D{{Key: "ts", Value: bson.Timestamp{}}, {Key: "t", Value: int64(-1)}}
	at := tx.at
	for i := 0; i < len(tx.ops); i += per {
		part := tx.ops[i:min(i+per, len(tx.ops))]
		last := i+per >= len(tx.ops)
		applied := bson.D{{Key: "applyOps", Value: part}}
		switch {
		case !last:
			applied = append(applied, bson.E{Key: "partialTxn", Value: true})
		case o.Prepare:
			applied = append(applied, bson.E{Key: "prepare", Value: true})
		case i > 0:
			applied = append(applied, bson.E{Key: "count", Value: int64(len(tx.ops))})
		}
		entry := append(append(bson.D{}, session...), bson.E{Key: "op", Value: "c"}, bson.E{Key: "ns", Value: "admin.$cmd"}, bson.E{Key: "o", Value: applied},
			bson.E{Key: "prevOpTime", Value: previous})
		st.log(entry, at)
		previous = bson.D{{Key: "ts", Value: at}, {Key: "t", Value: st.term}}
		if !last || o.Prepare {
			at = st.tick()
		}
	}
	if o.Prepare {
		end := bson.D{{Key: "commitTransaction", Value: int32(1)}, {Key: "commitTimestamp", Value: at}}
		if o.Abort {
			end = bson.D{{Key: "abortTransaction", Value: int32(1)}}
		}
		st.log(append(append(bson.D{}, session...), bson.E{Key: "op", Value: "c"}, bson.E{Key: "ns", Value: "admin.$cmd"}, bson.E{Key: "o", Value: end},
			bson.E{Key: "prevOpTime", Value: previous}), at)
	}
	if o.Abort {
		st.undo(tx.at)
		return
	}
	// Visible from the time of the last entry on, not of the first.
	st.move(tx.at, at)
}

// undo takes back the versions written at a time.
func (st *store) undo(at bson.Timestamp) {
	for _, c := range st.current {
		if c == st.oplog {
			continue
		}
		for i := len(c.records) - 1; i >= 0; i-- {
			r := c.records[i]
			if r.at != at {
				continue
			}
			if n := len(r.older); n > 0 {
				back := r.older[n-1]
				r.older = r.older[:n-1]
				if r.doc == nil {
					c.count++
					c.byID[r.id] = r
				}
				c.bytes += int64(len(back.doc)) - int64(len(r.doc))
				r.at, r.doc = back.at, back.doc
				continue
			}
			c.count--
			c.bytes -= int64(len(r.doc))
			delete(c.byID, r.id)
			c.records = append(c.records[:i:i], c.records[i+1:]...)
		}
	}
}

// move gives the versions written at a time a later one.
func (st *store) move(from, to bson.Timestamp) {
	if from == to {
		return
	}
	for _, c := range st.current {
		if c == st.oplog {
			continue
		}
		for _, r := range c.records {
			if r.at == from {
				r.at = to
			}
		}
	}
}
