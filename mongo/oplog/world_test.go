package oplog

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"math/rand"
	"slices"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/whole-tale/wtsnap/mongo/layout"
)

// A world is a server in small: it changes documents the plain way, as bson.D, writes what a server's oplog would say of
// it, and remembers the state after each entry. It shares no code with the fold.
type world struct {
	rng     *rand.Rand
	version int  // of updates' entries: 1 or 2
	uuids   bool // the server knows them
	clock   uint32
	now     bson.Timestamp
	colls   map[string]*worldColl // by namespace
	log     []bson.Raw
	history map[bson.Timestamp]map[string]*worldColl
	locked  map[string]bool // ns and _id that an open transaction has changed
	open    *worldTxn
	serial  int
}

type worldColl struct {
	uuid string
	meta layout.Metadata
	docs []worldDoc
}

type worldDoc struct {
	id    int32
	birth int // tells a document from a later one with the same _id
	doc   bson.D
	raw   bson.Raw
}

type worldTxn struct {
	last  bson.Timestamp
	apply []func()
}

func newWorld(seed int64, version int, uuids bool) *world {
	w := &world{rng: rand.New(rand.NewSource(seed)), version: version, uuids: uuids, clock: 1700000000,
		colls: map[string]*worldColl{}, history: map[bson.Timestamp]map[string]*worldColl{}, locked: map[string]bool{}}
	for _, ns := range []string{"girder.user", "girder.item", "other.tale"} {
		w.create(ns)
	}
	return w
}

func (w *world) tick() bson.Timestamp {
	if w.rng.Intn(3) == 0 {
		w.clock++
		w.now = bson.Timestamp{T: w.clock, I: 1}
	} else {
		w.now = bson.Timestamp{T: w.clock, I: w.now.I + 1}
	}
	return w.now
}

// entry logs one, and remembers the state after it.
func (w *world) entry(fields bson.D) {
	e := append(bson.D{{Key: "ts", Value: w.tick()}, {Key: "t", Value: int64(1)}, {Key: "v", Value: int32(2)}}, fields...)
	w.log = append(w.log, marshal(e))
}

func (w *world) remember() {
	state := map[string]*worldColl{}
	for ns, c := range w.colls {
		copied := *c
		copied.docs = slices.Clone(c.docs)
		copied.meta.Indexes = slices.Clone(c.meta.Indexes)
		state[ns] = &copied
	}
	w.history[w.now] = state
}

func marshal(v any) bson.Raw {
	data, err := bson.Marshal(v)
	if err != nil {
		panic(err)
	}
	return data
}

func split(ns string) (db, name string) {
	for i := range ns {
		if ns[i] == '.' {
			return ns[:i], ns[i+1:]
		}
	}
	return ns, ""
}

// op returns the fields of an operation, for an entry or for an applyOps.
func (w *world) op(kind, ns string, o any, o2 any) bson.D {
	d := bson.D{{Key: "op", Value: kind}, {Key: "ns", Value: ns}}
	if c := w.colls[ns]; w.uuids && c != nil {
		d = append(d, bson.E{Key: "ui", Value: bson.Binary{Subtype: 4, Data: []byte(c.uuid)}})
	}
	d = append(d, bson.E{Key: "o", Value: o})
	if o2 != nil {
		d = append(d, bson.E{Key: "o2", Value: o2})
	}
	return d
}

func (w *world) command(ns string, uuid string, o bson.D) {
	db, _ := split(ns)
	d := bson.D{{Key: "op", Value: "c"}, {Key: "ns", Value: db + ".$cmd"}}
	if w.uuids && uuid != "" {
		d = append(d, bson.E{Key: "ui", Value: bson.Binary{Subtype: 4, Data: []byte(uuid)}})
	}
	w.entry(append(d, bson.E{Key: "o", Value: o}))
	w.remember()
}

func (w *world) create(ns string) {
	w.serial++
	uuid := fmt.Sprintf("%016d", w.serial)
	db, name := split(ns)
	c := &worldColl{uuid: uuid, meta: layout.Metadata{Name: name, Type: layout.TypeCollection, UUID: fmt.Sprintf("%x", uuid)}}
	if !w.uuids {
		c.meta.UUID = ""
	}
	index := marshal(bson.D{{Key: "v", Value: int32(2)}, {Key: "key", Value: bson.D{{Key: "_id", Value: int32(1)}}}, {Key: "name", Value: "_id_"}})
	c.meta.Indexes = []bson.Raw{index}
	w.colls[ns] = c
	w.command(ns, uuid, bson.D{{Key: "create", Value: name}, {Key: "idIndex", Value: index}})
	_ = db
}

// write makes one change of a document and returns its operation and what applies it. nil: there is nothing to do.
func (w *world) write() (bson.D, func()) {
	ns := w.anyNS()
	if ns == "" {
		return nil, nil
	}
	c := w.colls[ns]
	id := int32(w.rng.Intn(12))
	lock := fmt.Sprint(ns, id)
	if w.locked[lock] {
		return nil, nil
	}
	at := slices.IndexFunc(c.docs, func(d worldDoc) bool { return d.id == id })
	if at < 0 {
		w.serial++
		d := worldDoc{id: id, birth: w.serial, doc: append(bson.D{{Key: "_id", Value: id}}, w.fields(3)...)}
		d.raw = marshal(d.doc)
		return w.op("i", ns, d.raw, nil), func() { c.docs = append(c.docs, d) }
	}
	old := c.docs[at]
	put := func(d worldDoc) func() {
		return func() {
			for i := range c.docs {
				if c.docs[i].id == d.id {
					c.docs[i] = d
				}
			}
		}
	}
	key := bson.D{{Key: "_id", Value: id}}
	switch n := w.rng.Intn(10); {
	case n == 0:
		return w.op("d", ns, key, nil), func() {
			c.docs = slices.DeleteFunc(c.docs, func(d worldDoc) bool { return d.id == id })
		}
	case n == 1:
		d := worldDoc{id: id, birth: old.birth, doc: append(bson.D{{Key: "_id", Value: id}}, w.fields(4)...)}
		d.raw = marshal(d.doc)
		return w.op("u", ns, d.raw, key), put(d)
	}
	d := worldDoc{id: id, birth: old.birth}
	var o bson.D
	if w.version == 1 {
		d.doc, o = w.mutate1(clone(old.doc))
	} else {
		d.doc = w.mutate2(clone(old.doc))
		o = bson.D{{Key: "$v", Value: int32(2)}, {Key: "diff", Value: diffDoc(old.doc, d.doc)}}
	}
	d.raw = marshal(d.doc)
	return w.op("u", ns, o, key), put(d)
}

func (w *world) anyNS() string {
	list := slices.Sorted(maps.Keys(w.colls))
	if len(list) == 0 {
		return ""
	}
	return list[w.rng.Intn(len(list))]
}

// step is one event of the world.
func (w *world) step() {
	switch n := w.rng.Intn(60); {
	case n == 0:
		w.entry(bson.D{{Key: "op", Value: "n"}, {Key: "ns", Value: ""}, {Key: "o", Value: bson.D{{Key: "msg", Value: "periodic noop"}}}})
		w.remember()
	case n < 4 && w.open == nil:
		w.begin()
	case n < 9 && w.open != nil:
		w.finish()
	case n < 13 && w.open == nil:
		w.ddl()
	case n < 16:
		w.together()
	default:
		op, apply := w.write()
		if op != nil {
			apply()
			w.entry(op)
			w.remember()
		}
	}
}

// together is an applyOps that is no transaction, or one in a single entry.
func (w *world) together() {
	ops := bson.A{}
	for range 1 + w.rng.Intn(3) {
		if op, apply := w.write(); op != nil {
			apply()
			ops = append(ops, op)
		}
	}
	d := bson.D{{Key: "op", Value: "c"}, {Key: "ns", Value: "admin.$cmd"}, {Key: "o", Value: bson.D{{Key: "applyOps", Value: ops}}}}
	switch w.rng.Intn(3) {
	case 0:
		d = append(d, previous(bson.Timestamp{}))
	case 1: // statements of a retryable write
		d = append(d, previous(bson.Timestamp{T: 1, I: 1}), bson.E{Key: "multiOpType", Value: int32(1)})
	}
	w.entry(d)
	w.remember()
}

func previous(ts bson.Timestamp) bson.E {
	return bson.E{Key: "prevOpTime", Value: bson.D{{Key: "ts", Value: ts}, {Key: "t", Value: int64(1)}}}
}

// begin logs the parts of a transaction that is finished later; its documents are locked until then.
func (w *world) begin() {
	w.open = &worldTxn{}
	prepared := w.rng.Intn(2) == 0
	for part := range 1 + w.rng.Intn(3) {
		ops := bson.A{}
		for range 1 + w.rng.Intn(3) {
			op, apply := w.write()
			if op == nil {
				continue
			}
			e, _ := first(marshal(op[len(op)-1].Value)) // its _id, of o2 or of o
			ns := op[1].Value.(string)
			id, _ := e.integer()
			w.locked[fmt.Sprint(ns, id)] = true
			ops = append(ops, op)
			w.open.apply = append(w.open.apply, apply)
		}
		o := bson.D{{Key: "applyOps", Value: ops}}
		if prepared && part > 0 {
			o = append(o, bson.E{Key: "prepare", Value: true})
		} else {
			o = append(o, bson.E{Key: "partialTxn", Value: true})
		}
		w.entry(bson.D{{Key: "op", Value: "c"}, {Key: "ns", Value: "admin.$cmd"}, {Key: "lsid", Value: bson.D{}},
			{Key: "txnNumber", Value: int64(1)}, {Key: "o", Value: o}, previous(w.open.last)})
		w.open.last = w.now
		w.remember()
		if prepared && part > 0 {
			return
		}
	}
}

// finish commits or aborts the open transaction.
func (w *world) finish() {
	o := bson.D{{Key: "commitTransaction", Value: int32(1)}}
	switch w.rng.Intn(3) {
	case 0:
		o = bson.D{{Key: "abortTransaction", Value: int32(1)}}
		w.open.apply = nil
	case 1:
		o = bson.D{{Key: "applyOps", Value: bson.A{}}, {Key: "count", Value: int64(3)}}
	}
	for _, apply := range w.open.apply {
		apply()
	}
	w.entry(bson.D{{Key: "op", Value: "c"}, {Key: "ns", Value: "admin.$cmd"}, {Key: "lsid", Value: bson.D{}},
		{Key: "txnNumber", Value: int64(1)}, {Key: "o", Value: o}, previous(w.open.last)})
	w.open, w.locked = nil, map[string]bool{}
	w.remember()
}

func (w *world) ddl() {
	ns := w.anyNS()
	db, name := split(ns)
	all := []string{"girder.user", "girder.item", "other.tale", "girder.new", "other.new"}
	other := all[w.rng.Intn(len(all))]
	c := w.colls[ns]
	switch n := w.rng.Intn(9); {
	case n < 2 && w.colls[other] == nil:
		w.create(other)
	case n == 2 && c != nil:
		delete(w.colls, ns)
		w.command(ns, c.uuid, bson.D{{Key: "drop", Value: name}})
	case n == 3 && c != nil && other != ns && w.uuids:
		target := w.colls[other]
		o := bson.D{{Key: "renameCollection", Value: ns}, {Key: "to", Value: other}}
		if target != nil {
			o = append(o, bson.E{Key: "dropTarget", Value: bson.Binary{Subtype: 4, Data: []byte(target.uuid)}})
		}
		delete(w.colls, ns)
		w.colls[other] = c
		_, c.meta.Name = split(other)
		w.command(ns, c.uuid, o)
	case n == 4 && w.rng.Intn(4) == 0:
		for ns := range w.colls {
			if d, _ := split(ns); d == db {
				delete(w.colls, ns)
			}
		}
		if db != "" {
			w.command(db+".x", "", bson.D{{Key: "dropDatabase", Value: int32(1)}})
		}
	case c != nil:
		w.indexDDL(ns, name, c)
	}
}

func (w *world) indexDDL(ns, name string, c *worldColl) {
	field := string(rune('a' + w.rng.Intn(3)))
	index := bson.D{{Key: "v", Value: int32(2)}, {Key: "key", Value: bson.D{{Key: field, Value: int32(1)}}}, {Key: "name", Value: field + "_1"}}
	has := slices.IndexFunc(c.meta.Indexes, func(i bson.Raw) bool { return i.Lookup("name").StringValue() == field+"_1" })
	switch {
	case has >= 0:
		c.meta.Indexes = slices.Delete(slices.Clone(c.meta.Indexes), has, has+1)
		w.command(ns, c.uuid, bson.D{{Key: "dropIndexes", Value: name}, {Key: "index", Value: field + "_1"}})
	case w.rng.Intn(2) == 0:
		c.meta.Indexes = append(slices.Clone(c.meta.Indexes), marshal(index))
		w.command(ns, c.uuid, append(bson.D{{Key: "createIndexes", Value: name}}, index...))
	default:
		w.command(ns, c.uuid, bson.D{{Key: "startIndexBuild", Value: name}, {Key: "indexes", Value: bson.A{index}}})
		if w.rng.Intn(2) == 0 {
			w.command(ns, c.uuid, bson.D{{Key: "abortIndexBuild", Value: name}, {Key: "indexes", Value: bson.A{index}}})
			return
		}
		c.meta.Indexes = append(slices.Clone(c.meta.Indexes), marshal(index))
		w.command(ns, c.uuid, bson.D{{Key: "commitIndexBuild", Value: name}, {Key: "indexes", Value: bson.A{index}}})
	}
}

// Entries implements Log.
func (w *world) Entries(_ context.Context, from bson.Timestamp) iter.Seq2[bson.Raw, error] {
	return func(yield func(bson.Raw, error) bool) {
		buf := make([]byte, 0, 1024) // used again, as a reader would
		for _, raw := range w.log {
			if ts, _ := TimestampOf(raw); ts.Before(from) {
				continue
			}
			clear(buf)
			buf = append(buf[:0], raw...)
			if !yield(buf, nil) {
				return
			}
		}
	}
}

// A worldDump is what a dump took.
type worldDump struct {
	start, end bson.Timestamp
	list       []Collection
	docs       [][]bson.Raw
}

// dump takes everything as of one moment.
func (w *world) dump(at bson.Timestamp) *worldDump {
	d := &worldDump{start: at, end: at}
	for ns, c := range w.history[at] {
		d.add(ns, c, rawDocs(c.docs))
	}
	return d
}

func rawDocs(list []worldDoc) (docs []bson.Raw) {
	for _, d := range list {
		docs = append(docs, d.raw)
	}
	return docs
}

func (d *worldDump) add(ns string, c *worldColl, docs []bson.Raw) {
	db, name := split(ns)
	meta := c.meta
	meta.JSON, _ = layout.MarshalMetadata(&meta)
	d.list = append(d.list, Collection{db, name, meta})
	d.docs = append(d.docs, docs)
}

// torn takes the collections as of some moment of a window, and each document as of another.
func (w *world) torn(moments []bson.Timestamp) *worldDump {
	d := &worldDump{start: moments[0], end: moments[len(moments)-1]}
	some := func() map[string]*worldColl { return w.history[moments[w.rng.Intn(len(moments))]] }
	for ns, c := range some() {
		var docs []bson.Raw
		for id := range int32(12) {
			births := map[int]bool{}
			for range 2 {
				for _, now := range some() {
					if now.uuid != c.uuid {
						continue
					}
					for _, doc := range now.docs {
						if doc.id == id && !births[doc.birth] && (len(births) == 0 || w.rng.Intn(2) == 0) {
							births[doc.birth] = true
							docs = append(docs, doc.raw)
						}
					}
				}
			}
		}
		d.add(ns, c, docs)
	}
	return d
}

func (d *worldDump) documents(i int) func() iter.Seq2[bson.Raw, error] {
	return func() iter.Seq2[bson.Raw, error] {
		return func(yield func(bson.Raw, error) bool) {
			for _, doc := range d.docs[i] {
				if !yield(slices.Clone(doc), nil) {
					return
				}
			}
		}
	}
}

func clone(d bson.D) bson.D {
	out := slices.Clone(d)
	for i := range out {
		switch v := out[i].Value.(type) {
		case bson.D:
			out[i].Value = clone(v)
		case bson.A:
			out[i].Value = cloneArray(v)
		}
	}
	return out
}

func cloneArray(a bson.A) bson.A {
	out := slices.Clone(a)
	for i := range out {
		switch v := out[i].(type) {
		case bson.D:
			out[i] = clone(v)
		case bson.A:
			out[i] = cloneArray(v)
		}
	}
	return out
}

// fields returns n fields of different names.
func (w *world) fields(n int) (d bson.D) {
	for _, i := range w.rng.Perm(6)[:n] {
		d = append(d, bson.E{Key: string(rune('a' + i)), Value: w.value(2)})
	}
	return d
}

func (w *world) value(depth int) any {
	n := 9
	if depth == 0 {
		n = 6
	}
	switch w.rng.Intn(n) {
	case 0:
		return int32(w.rng.Intn(10))
	case 1:
		return int64(w.rng.Intn(10))
	case 2:
		return w.rng.Float64()
	case 3:
		return fmt.Sprint("s", w.rng.Intn(100))
	case 4:
		return nil
	case 5:
		return bson.Binary{Subtype: 0, Data: []byte{byte(w.rng.Intn(256))}}
	case 6:
		var a bson.A
		for range w.rng.Intn(4) {
			a = append(a, w.value(depth-1))
		}
		if a == nil {
			a = bson.A{}
		}
		return a
	default:
		var d bson.D
		for _, i := range w.rng.Perm(4)[:w.rng.Intn(4)] {
			d = append(d, bson.E{Key: string(rune('p' + i)), Value: w.value(depth - 1)})
		}
		if d == nil {
			d = bson.D{}
		}
		return d
	}
}

// mutate1 sets and unsets a few paths, and says so in a $v:1 update.
func (w *world) mutate1(d bson.D) (bson.D, bson.D) {
	set, unset := bson.D{}, bson.D{}
	used := map[string]bool{"_id": true}
	for range 1 + w.rng.Intn(3) {
		i := w.rng.Intn(len(d) + 1)
		if i == len(d) {
			name := string(rune('a' + w.rng.Intn(8)))
			if !used[name] && !slices.ContainsFunc(d, func(e bson.E) bool { return e.Key == name }) {
				v := w.value(2)
				d, set = append(d, bson.E{Key: name, Value: v}), append(set, bson.E{Key: name, Value: v})
				used[name] = true
			}
			continue
		}
		if used[d[i].Key] {
			continue
		}
		used[d[i].Key] = true
		path := d[i].Key
		switch v := d[i].Value.(type) {
		case bson.D:
			if name := string(rune('p' + w.rng.Intn(5))); w.rng.Intn(2) == 0 {
				at := slices.IndexFunc(v, func(e bson.E) bool { return e.Key == name })
				value := w.value(1)
				switch {
				case at < 0:
					d[i].Value, set = append(v, bson.E{Key: name, Value: value}), append(set, bson.E{Key: path + "." + name, Value: value})
				case w.rng.Intn(2) == 0:
					v[at].Value, set = value, append(set, bson.E{Key: path + "." + name, Value: value})
				default:
					d[i].Value, unset = slices.Delete(v, at, at+1), append(unset, bson.E{Key: path + "." + name, Value: true})
				}
				continue
			}
		case bson.A:
			if at := w.rng.Intn(len(v) + 2); w.rng.Intn(2) == 0 {
				for len(v) < at+1 {
					v = append(v, nil)
				}
				v[at] = w.value(1)
				d[i].Value, set = v, append(set, bson.E{Key: fmt.Sprint(path, ".", at), Value: v[at]})
				continue
			}
		}
		if w.rng.Intn(3) == 0 {
			d, unset = slices.Delete(d, i, i+1), append(unset, bson.E{Key: path, Value: true})
			continue
		}
		d[i].Value = w.value(2)
		set = append(set, bson.E{Key: path, Value: d[i].Value})
	}
	o := bson.D{{Key: "$v", Value: int32(1)}}
	if len(set) > 0 || len(unset) == 0 {
		o = append(o, bson.E{Key: "$set", Value: set})
	}
	if len(unset) > 0 {
		o = append(o, bson.E{Key: "$unset", Value: unset})
	}
	return d, o
}

// mutate2 changes a document anywhere; diffDoc says how.
func (w *world) mutate2(d bson.D) bson.D {
	for range 1 + w.rng.Intn(3) {
		i := w.rng.Intn(len(d) + 1)
		switch {
		case i == len(d):
			name := string(rune('a' + w.rng.Intn(8)))
			if !slices.ContainsFunc(d, func(e bson.E) bool { return e.Key == name }) {
				d = append(d, bson.E{Key: name, Value: w.value(2)})
			}
		case d[i].Key == "_id":
		case w.rng.Intn(4) == 0:
			d = slices.Delete(d, i, i+1)
		default:
			d[i].Value = w.mutateValue(d[i].Value)
		}
	}
	return d
}

func (w *world) mutateValue(v any) any {
	switch v := v.(type) {
	case bson.D:
		if len(v) > 0 && w.rng.Intn(3) > 0 {
			return w.mutate2(v)
		}
	case bson.A:
		switch n := w.rng.Intn(4); {
		case n == 0 && len(v) > 0:
			return v[:w.rng.Intn(len(v))]
		case n == 1:
			return append(v, w.value(1))
		case n == 2 && len(v) > 0:
			i := w.rng.Intn(len(v))
			v[i] = w.mutateValue(v[i])
			return v
		}
	}
	return w.value(2)
}

func equalValues(a, b any) bool {
	return slices.Equal(marshal(bson.D{{Key: "", Value: a}}), marshal(bson.D{{Key: "", Value: b}}))
}

// diffDoc is what a server's $v:2 says of a change of a document of which fields may have been moved to the end.
func diffDoc(old, now bson.D) bson.D {
	deleted, updated, inserted, sub := bson.D{}, bson.D{}, bson.D{}, bson.D{}
	at, in := map[string]int{}, map[string]bool{}
	for i, e := range old {
		at[e.Key] = i
	}
	last := -1
	for _, e := range now {
		in[e.Key] = true
		i, ok := at[e.Key]
		if !ok || i < last || len(inserted) > 0 { // new, or removed and set again
			inserted = append(inserted, e)
			continue
		}
		if last = i; equalValues(old[i].Value, e.Value) {
			continue
		}
		if d := diffValue(old[i].Value, e.Value); d != nil {
			sub = append(sub, bson.E{Key: "s" + e.Key, Value: d})
		} else {
			updated = append(updated, e)
		}
	}
	for _, e := range old {
		if !in[e.Key] {
			deleted = append(deleted, bson.E{Key: e.Key, Value: false})
		}
	}
	var out bson.D
	for _, s := range []struct {
		name string
		d    bson.D
	}{{"d", deleted}, {"u", updated}, {"i", inserted}} {
		if len(s.d) > 0 {
			out = append(out, bson.E{Key: s.name, Value: s.d})
		}
	}
	if out = append(out, sub...); out == nil {
		out = bson.D{}
	}
	return out
}

func diffValue(old, now any) any {
	switch a := old.(type) {
	case bson.D:
		if b, ok := now.(bson.D); ok {
			return diffDoc(a, b)
		}
	case bson.A:
		b, ok := now.(bson.A)
		if !ok {
			return nil
		}
		out := bson.D{{Key: "a", Value: true}}
		if len(b) < len(a) {
			out = append(out, bson.E{Key: "l", Value: int32(len(b))})
		}
		for i, v := range b {
			switch {
			case i >= len(a):
				out = append(out, bson.E{Key: fmt.Sprint("u", i), Value: v})
			case equalValues(a[i], v):
			default:
				if d := diffValue(a[i], v); d != nil {
					out = append(out, bson.E{Key: fmt.Sprint("s", i), Value: d})
				} else {
					out = append(out, bson.E{Key: fmt.Sprint("u", i), Value: v})
				}
			}
		}
		return out
	}
	return nil
}

// foldTo runs the fold and returns its collections' documents by namespace.
func foldTo(t testing.TB, w *world, d *worldDump, at bson.Timestamp, memory int64) (map[string]*Result, map[string][]bson.Raw) {
	t.Helper()
	f, err := New(context.Background(), w, Options{Collections: d.list, Start: d.start, End: d.end, At: at, Memory: memory})
	if err != nil {
		t.Fatal(err)
	}
	results, docs := map[string]*Result{}, map[string][]bson.Raw{}
	for _, r := range f.Collections() {
		ns := r.DB + "." + r.Name
		results[ns] = r
		var base func() iter.Seq2[bson.Raw, error]
		if r.Base >= 0 {
			base = d.documents(r.Base)
		}
		for doc, err := range f.Documents(context.Background(), r, base) {
			if err != nil {
				t.Fatalf("%s: %v", ns, err)
			}
			docs[ns] = append(docs[ns], slices.Clone(doc))
		}
	}
	return results, docs
}
