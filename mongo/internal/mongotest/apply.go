package mongotest

import (
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"
)

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
