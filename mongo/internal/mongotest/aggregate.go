package mongotest

import (
	"slices"
	"strings"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// viewDocuments runs a view's pipeline; of a time series it unpacks the buckets.
func (r *request) viewDocuments(c *collection, at bson.Timestamp, depth int) ([]bson.Raw, error) {
	if depth > 20 {
		return nil, errorf(165, "ViewDepthLimitExceeded", "View depth limit exceeded")
	}
	st := r.s.st
	if c.kind == "timeseries" {
		var out []bson.Raw
		meta, _ := c.options.Lookup("timeseries", "metaField").StringValueOK()
		if b := st.find(c.db, "system.buckets."+c.name); b != nil {
			for _, doc := range b.documents(at) {
				columns, _ := doc.Lookup("data").DocumentOK()
				ids, _ := columns.Index(0).Value().DocumentOK()
				rows, _ := ids.Elements()
				for _, row := range rows {
					d := bson.D{}
					for _, column := range elements(columns) {
						if v, err := bson.Raw(column.Value.(bson.RawValue).Value).LookupErr(row.Key()); err == nil {
							d = append(d, bson.E{Key: column.Key, Value: v})
						}
					}
					if v, err := doc.LookupErr("meta"); err == nil && meta != "" {
						d = append(d, bson.E{Key: meta, Value: v})
					}
					out = append(out, rawOf(d))
				}
			}
		}
		return out, nil
	}
	on := st.find(c.db, c.options.Lookup("viewOn").StringValue())
	var docs []bson.Raw
	var err error
	switch {
	case on == nil:
	case on.kind == "collection" || on.indexes != nil:
		docs = on.documents(at)
	default:
		if docs, err = r.viewDocuments(on, at, depth+1); err != nil {
			return nil, err
		}
	}
	stages, _ := c.options.Lookup("pipeline").ArrayOK()
	return r.pipeline(on, docs, stages)
}

func (r *request) aggregate() (any, error) {
	name, isName := r.body.Lookup("aggregate").StringValueOK()
	at, err := r.snapshotTime()
	if err != nil {
		return nil, err
	}
	stages, ok := r.body.Lookup("pipeline").ArrayOK()
	if !ok {
		return nil, errorf(14, "TypeMismatch", "'pipeline' option must be specified as an array")
	}
	c := &cursor{ns: r.db + "." + name, at: at, session: r.session()}
	st := r.s.st
	st.mu.RLock()
	var docs []bson.Raw
	var coll *collection
	if isName {
		if coll, err = r.resolve(name, at); err == nil && coll != nil {
			if coll.kind == "collection" || coll.indexes != nil {
				docs = coll.documents(at)
			} else {
				docs, err = r.viewDocuments(coll, at, 0)
			}
		}
	} else {
		c.ns = r.db + ".$cmd.aggregate"
	}
	if err == nil {
		docs, err = r.pipeline(coll, docs, stages)
	}
	st.mu.RUnlock()
	if err != nil {
		return nil, err
	}
	c.docs = docs
	size := r.s.o.Window
	if v := r.body.Lookup("cursor", "batchSize"); v.Type != 0 {
		size = int(number(v))
	}
	return r.batch(c, "firstBatch", size, false, time.Time{})
}

// pipeline runs the stages that dumping needs: $match, $sort, $limit, $skip, $project, $count, $sample, $collStats,
// $indexStats, $group of everything with $sum, $min and $max, and $bucketAuto by one field.
func (r *request) pipeline(c *collection, docs []bson.Raw, stages bson.RawArray) ([]bson.Raw, error) {
	list, _ := stages.Values()
	for _, s := range list {
		e, err := bson.Raw(s.Value).IndexErr(0)
		if err != nil {
			return nil, errorf(40323, "Location40323", "A pipeline stage specification object must contain exactly one field.")
		}
		v := e.Value()
		spec, _ := v.DocumentOK()
		switch e.Key() {
		case "$match":
			var out []bson.Raw
			for _, d := range docs {
				ok, err := match(d, spec)
				if err != nil {
					return nil, err
				}
				if ok {
					out = append(out, d)
				}
			}
			docs = out
		case "$sort":
			docs = slices.Clone(docs)
			sortDocuments(docs, spec)
		case "$limit":
			docs = docs[:min(len(docs), int(number(v)))]
		case "$skip":
			docs = docs[min(len(docs), int(number(v))):]
		case "$project", "$unset":
			out := make([]bson.Raw, len(docs))
			for i, d := range docs {
				out[i] = project(d, spec)
			}
			docs = out
		case "$sample":
			n := int(number(spec.Lookup("size")))
			var out []bson.Raw
			for i := range min(n, len(docs)) { // evenly spread: tests want no chance
				out = append(out, docs[i*len(docs)/min(n, len(docs))])
			}
			docs = out
		case "$count":
			if n := len(docs); n > 0 {
				docs = []bson.Raw{rawOf(bson.D{{Key: v.StringValue(), Value: int32(n)}})}
			}
		case "$collStats":
			if c == nil {
				return nil, errorf(26, "NamespaceNotFound", "Unable to retrieve storageStats in $collStats stage :: caused by :: Collection not found.")
			}
			d := bson.D{{Key: "ns", Value: c.ns()}, {Key: "host", Value: r.m.addr}, {Key: "storageStats", Value: r.s.st.sizes(c)}, {Key: "count", Value: int32(c.count)}}
			docs = []bson.Raw{rawOf(d)}
		case "$indexStats":
			docs = nil
			for _, ix := range c.indexes {
				docs = append(docs, rawOf(bson.D{{Key: "name", Value: ix.Lookup("name")}, {Key: "key", Value: ix.Lookup("key")}, {Key: "spec", Value: ix}}))
			}
		case "$group":
			out, err := group(docs, spec)
			if err != nil {
				return nil, err
			}
			docs = out
		case "$bucketAuto":
			docs = bucketAuto(docs, spec)
		case "$currentOp", "$listSessions":
			docs = nil
		default:
			return nil, errorf(40324, "Location40324", "Unrecognized pipeline stage name: '%s'", e.Key())
		}
	}
	return docs, nil
}

func group(docs []bson.Raw, spec bson.Raw) ([]bson.Raw, error) {
	by, _ := spec.Lookup("_id").StringValueOK()
	groups := map[string]bson.D{}
	var order []string
	for _, d := range docs {
		id := bson.RawValue{Type: bson.TypeNull}
		if by != "" {
			if found := lookups(d, strings.TrimPrefix(by, "$")); len(found) > 0 {
				id = found[0]
			}
		}
		k := key(id)
		g, ok := groups[k]
		if !ok {
			order = append(order, k)
			g = bson.D{{Key: "_id", Value: id}}
		}
		for i, e := range elements(spec)[1:] {
			acc, err := bson.Raw(e.Value.(bson.RawValue).Value).IndexErr(0)
			if err != nil {
				return nil, errorf(40234, "Location40234", "The field '%s' must be an accumulator object", e.Key)
			}
			v := acc.Value()
			if path, ok := v.StringValueOK(); ok {
				found := lookups(d, strings.TrimPrefix(path, "$"))
				if len(found) == 0 {
					found = []bson.RawValue{{Type: bson.TypeNull}}
				}
				v = found[0]
			}
			if !ok {
				g = append(g, bson.E{Key: e.Key, Value: v})
				continue
			}
			old := g[i+1].Value
			switch acc.Key() {
			case "$sum":
				n := number(v)
				switch o := old.(type) {
				case int64:
					n += o
				case bson.RawValue:
					n += number(o)
				}
				g[i+1].Value = n
			case "$min", "$max":
				if c := compare(v, old.(bson.RawValue)); c < 0 && acc.Key() == "$min" || c > 0 && acc.Key() == "$max" {
					g[i+1].Value = v
				}
			default:
				return nil, errorf(15952, "Location15952", "unknown group operator '%s'", acc.Key())
			}
		}
		groups[k] = g
	}
	var out []bson.Raw
	for _, k := range order {
		out = append(out, rawOf(groups[k]))
	}
	return out, nil
}

func bucketAuto(docs []bson.Raw, spec bson.Raw) []bson.Raw {
	path := strings.TrimPrefix(spec.Lookup("groupBy").StringValue(), "$")
	n := int(number(spec.Lookup("buckets")))
	var values []bson.RawValue
	for _, d := range docs {
		if v := lookups(d, path); len(v) > 0 {
			values = append(values, v[0])
		}
	}
	slices.SortFunc(values, compare)
	n = min(n, len(values))
	var out []bson.Raw
	for i := range n {
		from, to := i*len(values)/n, (i+1)*len(values)/n
		last := values[len(values)-1]
		if to < len(values) {
			last = values[to]
		}
		out = append(out, rawOf(bson.D{{Key: "_id", Value: bson.D{{Key: "min", Value: values[from]}, {Key: "max", Value: last}}}, {Key: "count", Value: int32(to - from)}}))
	}
	return out
}
