package mongotest

import (
	"errors"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// sequence are the documents of a field: of a document sequence, or of an array in the body.
func (r *request) sequence(name string) ([]bson.Raw, error) {
	if docs, ok := r.documents[name]; ok {
		return docs, nil
	}
	a, ok := r.body.Lookup(name).ArrayOK()
	if !ok {
		return nil, errorf(40414, "Location40414", "BSON field '%s.%s' is missing but a required field", r.name, name)
	}
	values, err := a.Values()
	if err != nil {
		return nil, errorf(22, "InvalidBSON", "%v", err)
	}
	docs := make([]bson.Raw, len(values))
	for i, v := range values {
		if v.Type != bson.TypeEmbeddedDocument {
			return nil, errorf(14, "TypeMismatch", "BSON field '%s.%s.%d' is the wrong type", r.name, name, i)
		}
		docs[i] = bson.Raw(v.Value)
	}
	return docs, nil
}

// target finds the collection to write to and makes it where there is none. The store is locked.
func (r *request) target(name string) (*collection, *Error) {
	st := r.s.st
	if c := st.find(r.db, name); c != nil {
		return c, nil
	}
	if err := st.create(r.db, name, nil); err != nil {
		return nil, err
	}
	return st.find(r.db, name), nil
}

func writeError(i int, e *Error) bson.D {
	return append(bson.D{{Key: "index", Value: int32(i)}, {Key: "code", Value: e.Code}, {Key: "errmsg", Value: e.Message}}, e.extra...)
}

func (r *request) checkWrite(docs []bson.Raw, limit bool) error {
	if limit && len(docs) > maxBatch || len(docs) == 0 {
		return errorf(16, "InvalidLength", "Write batch sizes must be between 1 and %d. Got %d operations.", maxBatch, len(docs))
	}
	if len(r.body) > maxDocument+16<<10 {
		return errorf(10334, "BSONObjectTooLarge", "BSONObj size: %d is invalid. Size must be between 0 and %d", len(r.body), maxDocument+16<<10)
	}
	return nil
}

func (r *request) insert() (any, error) {
	name, _ := r.body.Lookup("insert").StringValueOK()
	docs, err := r.sequence("documents")
	if err != nil {
		return nil, err
	}
	if err := r.checkWrite(docs, true); err != nil {
		return nil, err
	}
	bypass := r.body.Lookup("bypassEmptyTsReplacement")
	if bypass.Type != 0 && !r.s.keepsZeroTimestamps() {
		return nil, errorf(40415, "Location40415", "BSON field 'insert.bypassEmptyTsReplacement' is an unknown field.")
	}
	o := insertOptions{bypassValidation: truthy(r.body.Lookup("bypassDocumentValidation")), bypassTimestamps: truthy(bypass)}
	ordered := r.body.Lookup("ordered").Type == 0 || truthy(r.body.Lookup("ordered"))
	st := r.s.st
	st.mu.Lock()
	defer st.mu.Unlock()
	defer st.notify()
	c, fail := r.target(name)
	if fail != nil {
		return nil, fail
	}
	if c.kind == "view" {
		return nil, errorf(166, "CommandNotSupportedOnView", "Namespace %s is a view, not a collection", c.ns())
	}
	n := 0
	var failed bson.A
	for i, doc := range docs {
		if e := st.insert(c, doc, o, nil, bson.Timestamp{}); e != nil {
			failed = append(failed, writeError(i, e))
			if ordered {
				break
			}
			continue
		}
		n++
	}
	d := bson.D{{Key: "n", Value: int32(n)}}
	if failed != nil {
		d = append(d, bson.E{Key: "writeErrors", Value: failed})
	}
	return d, nil
}

// keepsZeroTimestamps says whether the server knows bypassEmptyTsReplacement.
func (s *Server) keepsZeroTimestamps() bool {
	switch s.version[0] {
	case 5:
		return s.atLeast(5, 0, 29)
	case 6:
		return s.atLeast(6, 0, 17)
	case 7:
		return s.atLeast(7, 0, 13)
	}
	return s.atLeast(8)
}

// matching are the records that a write's query selects.
func (st *store) matching(c *collection, q bson.Raw, multi bool) ([]*record, error) {
	if id, err := q.LookupErr("_id"); err == nil && !(id.Type == bson.TypeEmbeddedDocument && strings.Contains(id.String(), `"$`)) && id.Type != bson.TypeRegex {
		rec := c.byID[key(id)]
		if rec == nil {
			return nil, nil
		}
		ok, err := match(rec.doc, q)
		if !ok || err != nil {
			return nil, err
		}
		return []*record{rec}, nil
	}
	var out []*record
	for _, rec := range c.records {
		if rec.doc == nil {
			continue
		}
		ok, err := match(rec.doc, q)
		if err != nil {
			return nil, err
		}
		if ok {
			out = append(out, rec)
			if !multi {
				break
			}
		}
	}
	return out, nil
}

// updateOne runs one statement of an update.
func (r *request) updateOne(c *collection, u bson.Raw, keepTimestamps bool) (n, modified int, upserted any, err error) {
	st := r.s.st
	q, _ := u.Lookup("q").DocumentOK()
	multi, upsert := truthy(u.Lookup("multi")), truthy(u.Lookup("upsert"))
	records, err := st.matching(c, q, multi)
	if err != nil {
		return 0, 0, nil, err
	}
	if len(records) == 0 && upsert {
		base := bson.D{}
		for _, e := range elements(q) {
			v := e.Value.(bson.RawValue)
			if !strings.HasPrefix(e.Key, "$") && !(v.Type == bson.TypeEmbeddedDocument && strings.Contains(v.String(), `"$`)) {
				base = append(base, e)
			}
		}
		raw := rawOf(base)
		if v := u.Lookup("u"); v.Type == bson.TypeEmbeddedDocument {
			if list, _ := v.Document().Elements(); len(list) == 0 || !strings.HasPrefix(list[0].Key(), "$") {
				raw = rawOf(bson.D{})
				if id, err := rawOf(base).LookupErr("_id"); err == nil {
					raw = rawOf(bson.D{{Key: "_id", Value: id}})
				}
			}
		}
		doc, e := st.apply(c, raw, u.Lookup("u"), true, keepTimestamps)
		if e == nil {
			if doc, e = st.fix(c, doc, keepTimestamps || u.Lookup("u").Type == bson.TypeArray); e == nil {
				e = st.insert(c, doc, insertOptions{bypassTimestamps: true}, nil, bson.Timestamp{})
			}
		}
		if e != nil {
			return 0, 0, nil, e
		}
		return 1, 0, doc.Lookup("_id"), nil
	}
	for _, rec := range records {
		doc, e := st.apply(c, rec.doc, u.Lookup("u"), false, keepTimestamps)
		if e == nil && len(doc) > maxDocument {
			e = errorf(17419, "Location17419", "Resulting document after update is larger than %d", maxDocument)
		}
		if e == nil {
			e = c.unique(doc, rec)
		}
		if e != nil {
			return n, modified, nil, e
		}
		n++
		if string(doc) == string(rec.doc) {
			continue
		}
		modified++
		logged := doc
		if v := u.Lookup("u"); v.Type == bson.TypeEmbeddedDocument {
			logged = v.Document()
		} else if v.Type == bson.TypeArray {
			logged = rawOf(bson.D{{Key: "$set", Value: 1}}) // logged as a diff
		}
		st.update(c, rec, doc, logged, nil, bson.Timestamp{})
	}
	return n, modified, nil, nil
}

func (r *request) update() (any, error) {
	name, _ := r.body.Lookup("update").StringValueOK()
	updates, err := r.sequence("updates")
	if err != nil {
		return nil, err
	}
	if err := r.checkWrite(updates, true); err != nil {
		return nil, err
	}
	keep := truthy(r.body.Lookup("bypassEmptyTsReplacement"))
	if keep && !r.s.keepsZeroTimestamps() {
		return nil, errorf(40415, "Location40415", "BSON field 'update.bypassEmptyTsReplacement' is an unknown field.")
	}
	ordered := r.body.Lookup("ordered").Type == 0 || truthy(r.body.Lookup("ordered"))
	st := r.s.st
	st.mu.Lock()
	defer st.mu.Unlock()
	defer st.notify()
	c, fail := r.target(name)
	if fail != nil {
		return nil, fail
	}
	var n, modified int
	var failed, upserted bson.A
	for i, u := range updates {
		if u.Lookup("u").Type == bson.TypeArray && !r.s.atLeast(4, 2) {
			return nil, errorf(9, "FailedToParse", "update with a pipeline")
		}
		k, m, id, err := r.updateOne(c, u, keep)
		n, modified = n+k, modified+m
		if id != nil {
			upserted = append(upserted, bson.D{{Key: "index", Value: int32(i)}, {Key: "_id", Value: id}})
		}
		if err != nil {
			var e *Error
			if !errors.As(err, &e) {
				return nil, err
			}
			failed = append(failed, writeError(i, e))
			if ordered {
				break
			}
		}
	}
	d := bson.D{{Key: "n", Value: int32(n)}, {Key: "nModified", Value: int32(modified)}}
	if upserted != nil {
		d = append(d, bson.E{Key: "upserted", Value: upserted})
	}
	if failed != nil {
		d = append(d, bson.E{Key: "writeErrors", Value: failed})
	}
	return d, nil
}

func (r *request) delete() (any, error) {
	name, _ := r.body.Lookup("delete").StringValueOK()
	deletes, err := r.sequence("deletes")
	if err != nil {
		return nil, err
	}
	st := r.s.st
	st.mu.Lock()
	defer st.mu.Unlock()
	defer st.notify()
	n := 0
	if c := st.find(r.db, name); c != nil {
		for _, d := range deletes {
			q, _ := d.Lookup("q").DocumentOK()
			records, err := st.matching(c, q, number(d.Lookup("limit")) == 0)
			if err != nil {
				return nil, err
			}
			for _, rec := range records {
				st.delete(c, rec, nil, bson.Timestamp{})
				n++
			}
		}
	}
	return bson.D{{Key: "n", Value: int32(n)}}, nil
}

func (r *request) findAndModify() (any, error) {
	st := r.s.st
	st.mu.Lock()
	defer st.mu.Unlock()
	defer st.notify()
	c, fail := r.target(r.body.Index(0).Value().StringValue())
	if fail != nil {
		return nil, fail
	}
	q, _ := r.body.Lookup("query").DocumentOK()
	records, err := st.matching(c, q, false)
	if err != nil {
		return nil, err
	}
	var before any
	if len(records) > 0 {
		before = records[0].doc
	}
	if truthy(r.body.Lookup("remove")) {
		if len(records) > 0 {
			st.delete(c, records[0], nil, bson.Timestamp{})
		}
		return bson.D{{Key: "lastErrorObject", Value: bson.D{{Key: "n", Value: int32(len(records))}}}, {Key: "value", Value: before}}, nil
	}
	u := rawOf(bson.D{{Key: "q", Value: q}, {Key: "u", Value: r.body.Lookup("update")}, {Key: "upsert", Value: truthy(r.body.Lookup("upsert"))}})
	n, _, _, err := r.updateOne(c, u, false)
	if err != nil {
		return nil, err
	}
	value := before
	if truthy(r.body.Lookup("new")) && len(records) > 0 {
		value = records[0].doc
	}
	return bson.D{{Key: "lastErrorObject", Value: bson.D{{Key: "n", Value: int32(n)}, {Key: "updatedExisting", Value: before != nil}}}, {Key: "value", Value: value}}, nil
}

// ddl runs f with the store locked.
func (r *request) ddl(f func(st *store) (bson.D, *Error)) (any, error) {
	st := r.s.st
	st.mu.Lock()
	defer st.mu.Unlock()
	defer st.notify()
	d, e := f(st)
	if e != nil {
		return nil, e
	}
	return append(bson.D{}, d...), nil
}

func (r *request) create() (any, error) {
	name, _ := r.body.Lookup("create").StringValueOK()
	for _, e := range elements(r.body)[1:] {
		switch e.Key {
		case "autoIndexId":
			if r.s.atLeast(8, 2) || r.s.atLeast(4, 0) && !truthy(e.Value.(bson.RawValue)) && r.db != "local" {
				return nil, errorf(2, "BadValue", "The autoIndexId option is not allowed")
			}
		case "capped", "size", "max", "viewOn", "pipeline", "collation", "validator", "validationLevel", "validationAction", "storageEngine",
			"indexOptionDefaults", "timeseries", "expireAfterSeconds", "clusteredIndex", "changeStreamPreAndPostImages", "encryptedFields", "flags",
			"idIndex", "writeConcern", "comment", "lsid", "$db", "$clusterTime", "$readPreference", "txnNumber", "maxTimeMS", "temp", "recordIdsReplicated":
		default:
			return nil, errorf(40415, "Location40415", "BSON field 'create.%s' is an unknown field.", e.Key)
		}
	}
	if truthy(r.body.Lookup("capped")) && number(r.body.Lookup("size")) <= 0 {
		return nil, errorf(72, "InvalidOptions", "the 'size' field is required when 'capped' is true")
	}
	if strings.HasPrefix(name, "system.") && !strings.HasPrefix(name, "system.buckets.") && name != "system.js" && name != "system.profile" &&
		r.db != "admin" && r.db != "config" {
		return nil, errorf(73, "InvalidNamespace", "Invalid system namespace: %s.%s", r.db, name)
	}
	return r.ddl(func(st *store) (bson.D, *Error) {
		if bucket, ok := strings.CutPrefix(name, "system.buckets."); ok && truthy(r.body.Lookup("timeseries")) || ok && r.body.Lookup("timeseries").Type != 0 {
			name = bucket // servers make the pair
		}
		return nil, st.create(r.db, name, elements(r.body)[1:])
	})
}

func (r *request) drop() (any, error) {
	name, _ := r.body.Lookup("drop").StringValueOK()
	return r.ddl(func(st *store) (bson.D, *Error) {
		c := st.find(r.db, name)
		if c == nil && r.s.atLeast(7, 0) {
			return nil, nil
		}
		if c == nil {
			return nil, errorf(26, "NamespaceNotFound", "ns not found")
		}
		if strings.HasPrefix(name, "system.") && name != "system.js" && name != "system.profile" && name != "system.views" && !strings.HasPrefix(name, "system.buckets.") {
			return nil, errorf(20, "IllegalOperation", "can't drop system collection %s.%s", r.db, name)
		}
		n := len(c.indexes)
		st.drop(c)
		return bson.D{{Key: "nIndexesWas", Value: int32(n)}, {Key: "ns", Value: r.db + "." + name}}, nil
	})
}

func (r *request) dropDatabase() (any, error) {
	return r.ddl(func(st *store) (bson.D, *Error) {
		if r.db == "admin" || r.db == "local" {
			return nil, errorf(20, "IllegalOperation", "Dropping the '%s' database is prohibited.", r.db)
		}
		st.dropDatabase(r.db)
		return bson.D{{Key: "dropped", Value: r.db}}, nil
	})
}

func (r *request) renameCollection() (any, error) {
	from, _ := r.body.Lookup("renameCollection").StringValueOK()
	to, _ := r.body.Lookup("to").StringValueOK()
	fromDB, fromName, _ := strings.Cut(from, ".")
	toDB, toName, _ := strings.Cut(to, ".")
	return r.ddl(func(st *store) (bson.D, *Error) {
		c := st.find(fromDB, fromName)
		if c == nil {
			return nil, errorf(26, "NamespaceNotFound", "Source collection %s does not exist", from)
		}
		return nil, st.rename(c, toDB, toName, truthy(r.body.Lookup("dropTarget")))
	})
}

var indexOptions = []string{"v", "key", "name", "unique", "sparse", "expireAfterSeconds", "partialFilterExpression", "collation", "weights", "default_language",
	"language_override", "textIndexVersion", "2dsphereIndexVersion", "bits", "min", "max", "bucketSize", "background", "wildcardProjection", "hidden",
	"storageEngine", "dropDups", "clustered", "prepareUnique", "originalSpec"}

func (r *request) createIndexes() (any, error) {
	name, _ := r.body.Lookup("createIndexes").StringValueOK()
	specs, err := r.sequence("indexes")
	if err != nil {
		return nil, err
	}
	ignore := truthy(r.body.Lookup("ignoreUnknownIndexOptions"))
	return r.ddl(func(st *store) (bson.D, *Error) {
		c, fail := r.target(name)
		if fail != nil {
			return nil, fail
		}
		if c.kind == "view" {
			return nil, errorf(166, "CommandNotSupportedOnView", "Namespace %s is a view, not a collection", c.ns())
		}
		if c.kind == "timeseries" && c.indexes == nil {
			c = st.find(r.db, "system.buckets."+name)
		}
		before := len(c.indexes)
		for _, spec := range specs {
			kept := bson.D{}
			for _, e := range elements(spec) {
				known := e.Key == "ns" && !r.s.atLeast(4, 4)
				for _, o := range indexOptions {
					known = known || o == e.Key
				}
				if !known && !ignore {
					return nil, errorf(197, "InvalidIndexSpecificationOption", "The field '%s' is not valid for an index specification. Specification: %s", e.Key, spec)
				}
				if known {
					kept = append(kept, e)
				}
			}
			keys, ok := spec.Lookup("key").DocumentOK()
			if !ok || len(keys) == 5 {
				return nil, errorf(67, "CannotCreateIndex", "Index keys cannot be an empty object.")
			}
			if _, ok := spec.Lookup("name").StringValueOK(); !ok {
				return nil, errorf(9, "FailedToParse", "The 'name' field is a required property of an index specification")
			}
			for _, e := range elements(keys) {
				if kind, ok := e.Value.(bson.RawValue).StringValueOK(); ok && kind == "geoHaystack" && r.s.atLeast(4, 9) {
					return nil, errorf(67, "CannotCreateIndex", "GeoHaystack indexes cannot be created in version 4.9 and above")
				}
			}
			if number(spec.Lookup("v")) == 1 && spec.Lookup("collation").Type != 0 {
				return nil, errorf(67, "CannotCreateIndex", "Invalid index specification: cannot create an index with the 'collation' option and v=1")
			}
			if err := st.createIndex(c, rawOf(kept)); err != nil {
				return nil, err
			}
		}
		return bson.D{{Key: "numIndexesBefore", Value: int32(before)}, {Key: "numIndexesAfter", Value: int32(len(c.indexes))}}, nil
	})
}

func (r *request) dropIndexes() (any, error) {
	name := r.collection()
	return r.ddl(func(st *store) (bson.D, *Error) {
		c := st.find(r.db, name)
		if c == nil {
			return nil, errorf(26, "NamespaceNotFound", "ns not found %s.%s", r.db, name)
		}
		before := len(c.indexes)
		index, _ := r.body.Lookup("index").StringValueOK()
		if index == "*" {
			for len(c.indexes) > 1 {
				if err := st.dropIndex(c, c.indexes[1].Lookup("name").StringValue()); err != nil {
					return nil, err
				}
			}
			return bson.D{{Key: "nIndexesWas", Value: int32(before)}}, nil
		}
		return bson.D{{Key: "nIndexesWas", Value: int32(before)}}, st.dropIndex(c, index)
	})
}

func (r *request) collMod() (any, error) {
	name := r.collection()
	return r.ddl(func(st *store) (bson.D, *Error) {
		c := st.find(r.db, name)
		if c == nil {
			return nil, errorf(26, "NamespaceNotFound", "ns does not exist")
		}
		old := c.options
		changed := bson.D{{Key: "collMod", Value: name}}
		for _, e := range without(r.body, "collMod", "lsid", "$db", "$clusterTime", "$readPreference", "writeConcern", "comment", "txnNumber") {
			changed = append(changed, e)
			if e.Key == "index" {
				spec := bson.Raw(e.Value.(bson.RawValue).Value)
				for i, ix := range c.indexes {
					if key(ix.Lookup("key")) == key(spec.Lookup("keyPattern")) || key(ix.Lookup("name")) == key(spec.Lookup("name")) {
						for _, o := range without(spec, "keyPattern", "name") {
							ix = setPath(ix, o.Key, o.Value.(bson.RawValue))
						}
						c.indexes[i] = ix
					}
				}
				continue
			}
			c.options = setPath(c.options, e.Key, e.Value.(bson.RawValue))
		}
		d := st.entry("c", c, changed)
		st.log(append(d, bson.E{Key: "o2", Value: bson.D{{Key: "collectionOptions_old", Value: old}}}), st.tick())
		return nil, nil
	})
}

// applyOps runs oplog entries, as point-in-time restores of other tools do.
func (r *request) applyOps() (any, error) {
	entries, err := r.sequence("applyOps")
	if err != nil {
		return nil, err
	}
	return r.ddl(func(st *store) (bson.D, *Error) {
		results := bson.A{}
		for _, e := range entries {
			if err := r.applyOne(st, e); err != nil {
				return nil, err
			}
			results = append(results, true)
		}
		return bson.D{{Key: "applied", Value: int32(len(entries))}, {Key: "results", Value: results}}, nil
	})
}

func (r *request) applyOne(st *store, e bson.Raw) *Error {
	db, name, _ := strings.Cut(e.Lookup("ns").StringValue(), ".")
	op, _ := e.Lookup("op").StringValueOK()
	o, _ := e.Lookup("o").DocumentOK()
	c := st.find(db, name)
	if op == "i" || op == "u" || op == "d" {
		if c == nil {
			if op == "d" {
				return nil
			}
			if err := st.create(db, name, nil); err != nil {
				return err
			}
			c = st.find(db, name)
		}
	}
	switch op {
	case "n":
	case "i":
		if rec := c.byID[key(o.Lookup("_id"))]; rec != nil {
			st.update(c, rec, o, o, nil, bson.Timestamp{})
			return nil
		}
		return st.insert(c, o, insertOptions{bypassValidation: true, bypassTimestamps: true}, nil, bson.Timestamp{})
	case "d":
		if rec := c.byID[key(o.Lookup("_id"))]; rec != nil {
			st.delete(c, rec, nil, bson.Timestamp{})
		}
	case "u":
		id := e.Lookup("o2", "_id")
		rec := c.byID[key(id)]
		if rec == nil {
			rec = &record{doc: rawOf(bson.D{{Key: "_id", Value: id}})}
		}
		if d, ok := o.Lookup("diff").DocumentOK(); ok {
			return errorf(2, "BadValue", "applyOps with a diff of %d bytes is not known here", len(d))
		}
		u := without(o, "$v")
		raw := rawOf(u)
		doc, err := st.apply(c, rec.doc, bson.RawValue{Type: bson.TypeEmbeddedDocument, Value: raw}, true, true)
		if err != nil {
			return err
		}
		if rec.id == "" {
			return st.insert(c, doc, insertOptions{bypassValidation: true, bypassTimestamps: true}, nil, bson.Timestamp{})
		}
		st.update(c, rec, doc, raw, nil, bson.Timestamp{})
	case "c":
		return r.applyCommand(st, db, e, o)
	default:
		return errorf(2, "BadValue", "applyOps: unknown op %q", op)
	}
	return nil
}

func (r *request) applyCommand(st *store, db string, e, o bson.Raw) *Error {
	first := o.Index(0)
	name, _ := first.Value().StringValueOK()
	c := st.find(db, name)
	switch first.Key() {
	case "create":
		if c != nil {
			return errorf(48, "NamespaceExists", "Collection already exists: %s.%s", db, name)
		}
		if err := st.create(db, name, elements(o)[1:]); err != nil {
			return err
		}
		if _, ui, ok := e.Lookup("ui").BinaryOK(); ok {
			copy(st.find(db, name).uuid[:], ui)
		}
	case "drop":
		if c != nil {
			st.drop(c)
		}
	case "dropDatabase":
		st.dropDatabase(db)
	case "createIndexes":
		if c == nil {
			return errorf(26, "NamespaceNotFound", "ns does not exist")
		}
		return st.createIndex(c, rawOf(elements(o)[1:]))
	case "commitIndexBuild":
		specs, _ := o.Lookup("indexes").ArrayOK()
		values, _ := specs.Values()
		for _, v := range values {
			if err := st.createIndex(c, bson.Raw(v.Value)); err != nil {
				return err
			}
		}
	case "dropIndexes", "deleteIndexes":
		return st.dropIndex(c, o.Lookup("index").StringValue())
	case "renameCollection":
		fromDB, from, _ := strings.Cut(name, ".")
		toDB, to, _ := strings.Cut(o.Lookup("to").StringValue(), ".")
		if c = st.find(fromDB, from); c == nil {
			return errorf(26, "NamespaceNotFound", "Source collection does not exist")
		}
		return st.rename(c, toDB, to, truthy(o.Lookup("dropTarget")))
	case "applyOps":
		a, _ := o.Lookup("applyOps").ArrayOK()
		values, _ := a.Values()
		for _, v := range values {
			if err := r.applyOne(st, bson.Raw(v.Value)); err != nil {
				return err
			}
		}
	default:
		return errorf(2, "BadValue", "applyOps: unknown command %q", first.Key())
	}
	return nil
}

// mergeAuthz replaces or merges users and roles with those of two temporary collections.
func (r *request) mergeAuthz() (any, error) {
	db, _ := r.body.Lookup("db").StringValueOK()
	return r.ddl(func(st *store) (bson.D, *Error) {
		for from, to := range map[string]string{"tempUsersCollection": "system.users", "tempRolesCollection": "system.roles"} {
			ns, _ := r.body.Lookup(from).StringValueOK()
			if ns == "" {
				continue
			}
			fromDB, fromName, _ := strings.Cut(ns, ".")
			temp := st.find(fromDB, fromName)
			if temp == nil {
				continue
			}
			c := st.find("admin", to)
			if c == nil {
				if err := st.create("admin", to, nil); err != nil {
					return nil, err
				}
				c = st.find("admin", to)
			}
			given := map[string]bool{}
			for _, doc := range temp.documents(bson.Timestamp{}) {
				if db != "" && doc.Lookup("db").StringValue() != db {
					continue
				}
				k := key(doc.Lookup("_id"))
				given[k] = true
				if rec := c.byID[k]; rec != nil {
					st.update(c, rec, doc, doc, nil, bson.Timestamp{})
				} else if err := st.insert(c, doc, insertOptions{}, nil, bson.Timestamp{}); err != nil {
					return nil, err
				}
			}
			if !truthy(r.body.Lookup("drop")) {
				continue
			}
			for _, rec := range append([]*record(nil), c.records...) {
				if rec.doc != nil && !given[rec.id] && (db == "" || rec.doc.Lookup("db").StringValue() == db) {
					st.delete(c, rec, nil, bson.Timestamp{})
				}
			}
		}
		return nil, nil
	})
}

// users keeps users and roles as documents, without checking privileges.
func (r *request) users() (any, error) {
	coll, label := "system.users", "user"
	if strings.HasSuffix(r.name, "Role") || r.name == "rolesInfo" {
		coll, label = "system.roles", "role"
	}
	if strings.HasSuffix(r.name, "Info") {
		st := r.s.st
		st.mu.RLock()
		defer st.mu.RUnlock()
		list := bson.A{}
		if c := st.find("admin", coll); c != nil {
			want := r.body.Index(0).Value()
			name, named := want.StringValueOK()
			for _, doc := range c.documents(bson.Timestamp{}) {
				if doc.Lookup("db").StringValue() == r.db && (!named || doc.Lookup(label).StringValue() == name) ||
					want.Type == bson.TypeEmbeddedDocument && (truthy(want.Document().Lookup("forAllDBs")) || want.Document().Lookup(label).Equal(doc.Lookup(label))) {
					list = append(list, rawOf(without(doc, "credentials")))
				}
			}
		}
		return bson.D{{Key: label + "s", Value: list}}, nil
	}
	name, _ := r.body.Index(0).Value().StringValueOK()
	return r.ddl(func(st *store) (bson.D, *Error) {
		c := st.find("admin", coll)
		if c == nil {
			if err := st.create("admin", coll, nil); err != nil {
				return nil, err
			}
			c = st.find("admin", coll)
		}
		id := r.db + "." + name
		rec := c.byID[key(rawOf(bson.D{{Key: "_id", Value: id}}).Lookup("_id"))]
		switch {
		case strings.HasPrefix(r.name, "create") && rec != nil:
			return nil, errorf(51003, "Location51003", "User \"%s@%s\" already exists", name, r.db)
		case !strings.HasPrefix(r.name, "create") && rec == nil:
			return nil, errorf(11, "UserNotFound", "User '%s@%s' not found", name, r.db)
		}
		if strings.HasPrefix(r.name, "drop") {
			st.delete(c, rec, nil, bson.Timestamp{})
			return nil, nil
		}
		d := bson.D{{Key: "_id", Value: id}, {Key: label, Value: name}, {Key: "db", Value: r.db}}
		if label == "user" {
			d = append(d, bson.E{Key: "credentials", Value: bson.D{{Key: "SCRAM-SHA-256", Value: bson.D{{Key: "iterationCount", Value: int32(15000)},
				{Key: "salt", Value: "c2FsdA=="}, {Key: "storedKey", Value: "a2V5"}, {Key: "serverKey", Value: "a2V5"}}}}})
		}
		for _, field := range []string{"roles", "privileges", "customData"} {
			if v := r.body.Lookup(field); v.Type != 0 {
				d = append(d, bson.E{Key: field, Value: v})
			}
		}
		doc := rawOf(d)
		if rec != nil {
			st.update(c, rec, doc, doc, nil, bson.Timestamp{})
			return nil, nil
		}
		return nil, st.insert(c, doc, insertOptions{}, nil, bson.Timestamp{})
	})
}
