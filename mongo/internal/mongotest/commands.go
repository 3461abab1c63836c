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
