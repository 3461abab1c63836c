package mongotest

import (
	"fmt"
	"slices"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"
)

type insertOptions struct {
	bypassValidation bool
	bypassTimestamps bool
	verbatim         bool // change nothing, check nothing: loading test data
}

// insert stores a document. The store is locked; at is zero where the write has a time of its own.
func (st *store) insert(c *collection, doc bson.Raw, o insertOptions, tx *Tx, at bson.Timestamp) *Error {
	if c.kind == "view" {
		return errorf(166, "CommandNotSupportedOnView", "Namespace %s is a view, not a collection", c.ns())
	}
	if c.kind == "timeseries" && c.indexes == nil {
		if b := st.find(c.db, "system.buckets."+c.name); b != nil {
			return st.insert(b, st.bucket(c, doc), insertOptions{bypassValidation: true}, tx, at)
		}
	}
	if !o.verbatim {
		if len(doc) > maxDocument {
			return errorf(2, "BadValue", "object to insert too large. size in bytes: %d, max size: %d", len(doc), maxDocument)
		}
		var err *Error
		if doc, err = st.fix(c, doc, o.bypassTimestamps); err != nil {
			return err
		}
		if v, ok := c.options.Lookup("validator").DocumentOK(); ok && !o.bypassValidation && !strings.HasPrefix(c.name, "system.buckets.") {
			if ok, _ := match(doc, v); !ok && c.options.Lookup("validationAction").String() != `"warn"` {
				return errorf(121, "DocumentValidationFailure", "Document failed validation")
			}
		}
	}
	id := ""
	if v, err := doc.LookupErr("_id"); err != nil {
		st.ids++
		id = fmt.Sprint("@", st.ids) // the oplog and its like have no _id
	} else if id = key(v); c.byID[id] != nil {
		return duplicateKey(c.ns(), rawOf(bson.D{{Key: "key", Value: bson.D{{Key: "_id", Value: 1}}}, {Key: "name", Value: "_id_"}}), doc)
	}
	if err := c.unique(doc, nil); err != nil {
		return err
	}
	if at.IsZero() {
		at = st.tick()
	}
	c.put(id, doc, at)
	if st.oplog == nil && tx == nil || o.verbatim || unlogged(c.db, c.name) {
		return nil
	}
	d := st.entry("i", c, doc)
	if st.s.atLeast(5, 0) {
		if v, err := doc.LookupErr("_id"); err == nil {
			d = append(d, bson.E{Key: "o2", Value: bson.D{{Key: "_id", Value: v}}})
		}
	}
	st.record(tx, c, d, at)
	return nil
}

// fix does what a server does to a document before it stores it: _id first, one made where there is none, and zero
// timestamps of top-level fields filled in. Anything else stays as it is, byte for byte.
func (st *store) fix(c *collection, doc bson.Raw, keepTimestamps bool) (bson.Raw, *Error) {
	list, err := doc.Elements()
	if err != nil {
		return nil, errorf(22, "InvalidBSON", "%v", err)
	}
	at := -1
	zero := false
	for i, e := range list {
		v := e.Value()
		if e.Key() == "_id" && at < 0 {
			at = i
			switch v.Type {
			case bson.TypeArray, bson.TypeRegex, bson.TypeUndefined:
				return nil, errorf(2, "BadValue", "The '_id' value cannot be of type %s", typeName(v.Type))
			}
			continue
		}
		if v.Type == bson.TypeTimestamp && le.Uint64(v.Value) == 0 {
			zero = zero || !keepTimestamps
		}
	}
	if c.db == "local" && at < 0 {
		return doc, nil
	}
	if at == 0 && !zero {
		return doc, nil
	}
	out := bson.D{}
	if at >= 0 {
		out = append(out, bson.E{Key: "_id", Value: list[at].Value()})
	} else {
		out = append(out, bson.E{Key: "_id", Value: st.newObjectID()})
	}
	for i, e := range list {
		v := e.Value()
		switch {
		case i == at:
		case v.Type == bson.TypeTimestamp && le.Uint64(v.Value) == 0 && !keepTimestamps:
			out = append(out, bson.E{Key: e.Key(), Value: bson.Timestamp{T: st.clock, I: st.now.I + 1}})
		default:
			out = append(out, bson.E{Key: e.Key(), Value: v})
		}
	}
	return rawOf(out), nil
}

// bucket puts a measurement of a time series into a bucket of its own.
func (st *store) bucket(c *collection, doc bson.Raw) bson.Raw {
	ts := c.options.Lookup("timeseries").Document()
	meta, _ := ts.Lookup("metaField").StringValueOK()
	least, data := bson.D{}, bson.D{}
	var metaValue any
	for _, e := range elements(doc) {
		if e.Key == meta {
			metaValue = e.Value
			continue
		}
		least = append(least, e)
		data = append(data, bson.E{Key: e.Key, Value: bson.D{{Key: "0", Value: e.Value}}})
	}
	out := bson.D{{Key: "_id", Value: st.newObjectID()},
		{Key: "control", Value: bson.D{{Key: "version", Value: int32(1)}, {Key: "min", Value: least}, {Key: "max", Value: least}}}}
	if metaValue != nil {
		out = append(out, bson.E{Key: "meta", Value: metaValue})
	}
	return rawOf(append(out, bson.E{Key: "data", Value: data}))
}

// update gives a record new content. u is the update as it was sent: a replacement, operators, or a pipeline's effect.
func (st *store) update(c *collection, r *record, doc, u bson.Raw, tx *Tx, at bson.Timestamp) {
	if at.IsZero() {
		at = st.tick()
	}
	id := bson.D{{Key: "_id", Value: doc.Lookup("_id")}}
	d := append(st.entry("u", c, st.updateEntry(r.doc, doc, u)), bson.E{Key: "o2", Value: id})
	c.set(r, doc, at)
	st.record(tx, c, d, at)
}

func (st *store) delete(c *collection, r *record, tx *Tx, at bson.Timestamp) {
	if at.IsZero() {
		at = st.tick()
	}
	d := st.entry("d", c, bson.D{{Key: "_id", Value: r.doc.Lookup("_id")}})
	c.set(r, nil, at)
	st.record(tx, c, d, at)
}

// updateEntry is how an update is logged: a replacement whole, operators as $set and $unset, from 4.7 on as a diff.
func (st *store) updateEntry(old, doc, u bson.Raw) any {
	if list, _ := u.Elements(); len(list) == 0 || !strings.HasPrefix(list[0].Key(), "$") {
		return doc
	}
	if st.s.atLeast(4, 7) {
		return bson.D{{Key: "$v", Value: int32(2)}, {Key: "diff", Value: diff(old, doc)}}
	}
	set, unset := bson.D{}, bson.D{}
	v1(old, doc, "", &set, &unset)
	out := bson.D{}
	if st.s.atLeast(3, 6) {
		out = append(out, bson.E{Key: "$v", Value: int32(1)})
	}
	if len(unset) > 0 {
		out = append(out, bson.E{Key: "$unset", Value: unset})
	}
	if len(set) > 0 {
		out = append(out, bson.E{Key: "$set", Value: set})
	}
	return out
}

// v1 writes a change as $set and $unset of dotted paths.
func v1(old, doc bson.Raw, prefix string, set, unset *bson.D) {
	olds, _ := old.Elements()
	for _, e := range olds {
		if _, err := doc.LookupErr(e.Key()); err != nil {
			*unset = append(*unset, bson.E{Key: prefix + e.Key(), Value: true})
		}
	}
	news, _ := doc.Elements()
	for _, e := range news {
		v := e.Value()
		was, err := old.LookupErr(e.Key())
		switch {
		case err == nil && was.Equal(v):
		case err == nil && was.Type == bson.TypeEmbeddedDocument && v.Type == bson.TypeEmbeddedDocument:
			v1(bson.Raw(was.Value), bson.Raw(v.Value), prefix+e.Key()+".", set, unset)
		default:
			*set = append(*set, bson.E{Key: prefix + e.Key(), Value: v})
		}
	}
}

// diff writes a change in the format $v:2: d, u, i and s of fields; arrays with a, l, u and s of positions.
func diff(old, doc bson.Raw) bson.D {
	var removed, updated, inserted, inner bson.D
	olds, _ := old.Elements()
	for _, e := range olds {
		if _, err := doc.LookupErr(e.Key()); err != nil {
			removed = append(removed, bson.E{Key: e.Key(), Value: false})
		}
	}
	news, _ := doc.Elements()
	for _, e := range news {
		v := e.Value()
		was, err := old.LookupErr(e.Key())
		switch {
		case err != nil:
			inserted = append(inserted, bson.E{Key: e.Key(), Value: v})
		case was.Equal(v):
		case was.Type == bson.TypeEmbeddedDocument && v.Type == bson.TypeEmbeddedDocument:
			inner = append(inner, bson.E{Key: "s" + e.Key(), Value: diff(bson.Raw(was.Value), bson.Raw(v.Value))})
		case was.Type == bson.TypeArray && v.Type == bson.TypeArray:
			inner = append(inner, bson.E{Key: "s" + e.Key(), Value: arrayDiff(bson.Raw(was.Value), bson.Raw(v.Value))})
		default:
			updated = append(updated, bson.E{Key: e.Key(), Value: v})
		}
	}
	out := bson.D{}
	for _, part := range []struct {
		name string
		d    bson.D
	}{{"d", removed}, {"u", updated}, {"i", inserted}} {
		if len(part.d) > 0 {
			out = append(out, bson.E{Key: part.name, Value: part.d})
		}
	}
	return append(out, inner...)
}

func arrayDiff(old, doc bson.Raw) bson.D {
	out := bson.D{{Key: "a", Value: true}}
	olds, _ := old.Values()
	news, _ := doc.Values()
	if len(news) < len(olds) {
		out = append(out, bson.E{Key: "l", Value: int32(len(news))})
	}
	list, _ := doc.Elements()
	for i, v := range news {
		switch {
		case i < len(olds) && olds[i].Equal(v):
		case i < len(olds) && olds[i].Type == bson.TypeEmbeddedDocument && v.Type == bson.TypeEmbeddedDocument:
			out = append(out, bson.E{Key: "s" + list[i].Key(), Value: diff(bson.Raw(olds[i].Value), bson.Raw(v.Value))})
		default:
			out = append(out, bson.E{Key: "u" + list[i].Key(), Value: v})
		}
	}
	return out
}

// apply is a document after an update: a replacement, the operators $set, $unset, $inc, $push, $pull and $rename, or a
// pipeline of $set, $addFields, $unset, $replaceRoot and $replaceWith with constants.
func (st *store) apply(c *collection, doc bson.Raw, u bson.RawValue, upsert, keepTimestamps bool) (bson.Raw, *Error) {
	if u.Type == bson.TypeArray {
		stages, _ := u.Array().Values()
		for _, stage := range stages {
			e, err := bson.Raw(stage.Value).IndexErr(0)
			if err != nil {
				return nil, errorf(40323, "Location40323", "a pipeline stage must have one field")
			}
			v := e.Value()
			switch e.Key() {
			case "$replaceRoot":
				v = v.Document().Lookup("newRoot")
				fallthrough
			case "$replaceWith":
				inner := literal(v)
				if inner.Type != bson.TypeEmbeddedDocument {
					return nil, errorf(40228, "Location40228", "newRoot must be an object")
				}
				doc = bson.Raw(inner.Value)
			case "$set", "$addFields":
				for _, f := range elements(bson.Raw(v.Value)) {
					doc = setPath(doc, f.Key, literal(f.Value.(bson.RawValue)))
				}
			case "$unset":
				if name, ok := v.StringValueOK(); ok {
					doc = unsetPath(doc, name)
					continue
				}
				names, _ := v.Array().Values()
				for _, n := range names {
					doc = unsetPath(doc, n.StringValue())
				}
			default:
				return nil, errorf(40324, "Location40324", "Unrecognized pipeline stage name: '%s'", e.Key())
			}
		}
		return doc, nil
	}
	update := u.Document()
	list, _ := update.Elements()
	if len(list) == 0 || !strings.HasPrefix(list[0].Key(), "$") {
		id, err := update.LookupErr("_id")
		if err != nil {
			old, _ := doc.LookupErr("_id")
			out := bson.D{}
			if old.Type != 0 {
				out = append(out, bson.E{Key: "_id", Value: old})
			}
			update = rawOf(append(out, elements(update)...))
		} else if old, err := doc.LookupErr("_id"); err == nil && compare(id, old) != 0 {
			return nil, errorf(66, "ImmutableField", "the (immutable) field '_id' was found to have been altered")
		}
		return st.fix(c, update, keepTimestamps)
	}
	for _, op := range list {
		for _, f := range elements(bson.Raw(op.Value().Value)) {
			v := f.Value.(bson.RawValue)
			var old bson.RawValue
			if found := lookups(doc, f.Key); len(found) > 0 {
				old = found[0]
			}
			switch op.Key() {
			case "$set":
				doc = setPath(doc, f.Key, v)
			case "$setOnInsert":
				if upsert {
					doc = setPath(doc, f.Key, v)
				}
			case "$unset":
				doc = unsetPath(doc, f.Key)
			case "$inc":
				doc = setPath(doc, f.Key, rawOf(bson.D{{Key: "v", Value: int32(number(old) + number(v))}}).Lookup("v"))
			case "$push", "$addToSet":
				values := bson.A{}
				if old.Type == bson.TypeArray {
					inner, _ := old.Array().Values()
					if op.Key() == "$addToSet" && slices.ContainsFunc(inner, func(e bson.RawValue) bool { return compare(e, v) == 0 }) {
						continue
					}
					for _, e := range inner {
						values = append(values, e)
					}
				}
				doc = setPath(doc, f.Key, rawOf(bson.D{{Key: "v", Value: append(values, v)}}).Lookup("v"))
			case "$pull":
				values := bson.A{}
				if old.Type == bson.TypeArray {
					inner, _ := old.Array().Values()
					for _, e := range inner {
						gone := compare(e, v) == 0
						if e.Type == bson.TypeEmbeddedDocument && v.Type == bson.TypeEmbeddedDocument {
							gone, _ = match(bson.Raw(e.Value), bson.Raw(v.Value))
						}
						if !gone {
							values = append(values, e)
						}
					}
				}
				doc = setPath(doc, f.Key, rawOf(bson.D{{Key: "v", Value: values}}).Lookup("v"))
			case "$rename":
				if old.Type != 0 {
					doc = setPath(unsetPath(doc, f.Key), v.StringValue(), old)
				}
			default:
				return nil, errorf(9, "FailedToParse", "Unknown modifier: %s", op.Key())
			}
		}
	}
	return doc, nil
}

// literal takes {$literal: x} apart; other values are constants here.
func literal(v bson.RawValue) bson.RawValue {
	if v.Type == bson.TypeEmbeddedDocument {
		if inner, err := bson.Raw(v.Value).LookupErr("$literal"); err == nil {
			return inner
		}
	}
	return v
}

func setPath(doc bson.Raw, path string, v bson.RawValue) bson.Raw {
	head, rest, dotted := strings.Cut(path, ".")
	out, found := bson.D{}, false
	for _, e := range elements(doc) {
		if e.Key == head && !found {
			found = true
			old := e.Value.(bson.RawValue)
			switch {
			case !dotted:
				e.Value = v
			case old.Type == bson.TypeEmbeddedDocument || old.Type == bson.TypeArray:
				e.Value = bson.RawValue{Type: old.Type, Value: setPath(bson.Raw(old.Value), rest, v)}
			default:
				e.Value = setPath(rawOf(bson.D{}), rest, v)
			}
		}
		out = append(out, e)
	}
	if !found {
		var inner any = v
		if dotted {
			inner = setPath(rawOf(bson.D{}), rest, v)
		}
		out = append(out, bson.E{Key: head, Value: inner})
	}
	return rawOf(out)
}

func unsetPath(doc bson.Raw, path string) bson.Raw {
	head, rest, dotted := strings.Cut(path, ".")
	out := bson.D{}
	for _, e := range elements(doc) {
		if e.Key == head {
			old := e.Value.(bson.RawValue)
			if !dotted {
				continue
			}
			if old.Type == bson.TypeEmbeddedDocument || old.Type == bson.TypeArray {
				e.Value = bson.RawValue{Type: old.Type, Value: unsetPath(bson.Raw(old.Value), rest)}
			}
		}
		out = append(out, e)
	}
	return rawOf(out)
}
