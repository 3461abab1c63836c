package mongotest

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// sizes are what statistics say of a collection.
func (st *store) sizes(c *collection) bson.D {
	average := int64(0)
	if c.count > 0 {
		average = c.bytes / int64(c.count)
	}
	return bson.D{{Key: "ns", Value: c.ns()}, {Key: "size", Value: c.bytes}, {Key: "count", Value: int64(c.count)}, {Key: "avgObjSize", Value: average},
		{Key: "storageSize", Value: c.bytes}, {Key: "capped", Value: c.capped()}, {Key: "nindexes", Value: int32(len(c.indexes))}}
}

func (r *request) stats() (any, error) {
	st := r.s.st
	st.mu.RLock()
	defer st.mu.RUnlock()
	if name, ok := r.body.Index(0).Value().StringValueOK(); ok {
		c := st.find(r.db, name)
		if c == nil {
			return bson.D{{Key: "ns", Value: r.db + "." + name}, {Key: "size", Value: int32(0)}, {Key: "count", Value: int32(0)}}, nil
		}
		return st.sizes(c), nil
	}
	var n, objects, size int64
	for _, c := range st.current {
		if c.db == r.db {
			n++
			objects += int64(c.count)
			size += c.bytes
		}
	}
	return bson.D{{Key: "db", Value: r.db}, {Key: "collections", Value: n}, {Key: "objects", Value: objects}, {Key: "dataSize", Value: size}}, nil
}

func (r *request) count() (any, error) {
	name, _ := r.body.Lookup("count").StringValueOK()
	query, _ := r.body.Lookup("query").DocumentOK()
	st := r.s.st
	st.mu.RLock()
	defer st.mu.RUnlock()
	c := st.find(r.db, name)
	if c == nil {
		return bson.D{{Key: "n", Value: int32(0)}}, nil
	}
	n := int64(c.count)
	if len(query) > 5 || c.kind != "collection" && c.indexes == nil {
		docs := c.documents(bson.Timestamp{})
		if c.kind != "collection" && c.indexes == nil {
			var err error
			if docs, err = r.viewDocuments(c, bson.Timestamp{}, 0); err != nil {
				return nil, err
			}
		}
		n = 0
		for _, d := range docs {
			ok, err := match(d, query)
			if len(query) > 5 && err != nil {
				return nil, err
			}
			if ok || len(query) <= 5 {
				n++
			}
		}
	}
	if skip := number(r.body.Lookup("skip")); skip > 0 {
		n = max(0, n-skip)
	}
	if limit := number(r.body.Lookup("limit")); limit > 0 {
		n = min(n, limit)
	}
	return bson.D{{Key: "n", Value: int32(n)}}, nil
}

func (r *request) distinct() (any, error) {
	name, _ := r.body.Lookup("distinct").StringValueOK()
	query, _ := r.body.Lookup("query").DocumentOK()
	path, _ := r.body.Lookup("key").StringValueOK()
	at, err := r.snapshotTime()
	if err != nil {
		return nil, err
	}
	st := r.s.st
	st.mu.RLock()
	defer st.mu.RUnlock()
	c, err := r.resolve(name, at)
	if err != nil {
		return nil, err
	}
	values := bson.A{}
	if c != nil {
		seen := map[string]bool{}
		for _, d := range c.documents(at) {
			if len(query) > 5 {
				if ok, err := match(d, query); err != nil {
					return nil, err
				} else if !ok {
					continue
				}
			}
			for _, v := range lookups(d, path) {
				if k := key(v); !seen[k] {
					seen[k] = true
					values = append(values, v)
				}
			}
		}
	}
	return bson.D{{Key: "values", Value: values}}, nil
}

func (r *request) listDatabases() (any, error) {
	filter, _ := r.body.Lookup("filter").DocumentOK()
	names := truthy(r.body.Lookup("nameOnly"))
	st := r.s.st
	st.mu.RLock()
	defer st.mu.RUnlock()
	sizes := map[string]int64{"admin": 0, "config": 0, "local": 0}
	if r.s.o.Role == Mongos {
		delete(sizes, "local")
	}
	for _, c := range st.current {
		sizes[c.db] += c.bytes
	}
	var sorted []string
	for db := range sizes {
		sorted = append(sorted, db)
	}
	slices.Sort(sorted)
	list := bson.A{}
	var total int64
	for _, db := range sorted {
		d := bson.D{{Key: "name", Value: db}}
		if !names {
			d = append(d, bson.E{Key: "sizeOnDisk", Value: sizes[db]}, bson.E{Key: "empty", Value: sizes[db] == 0})
		}
		if filter != nil {
			if ok, err := match(rawOf(d), filter); err != nil {
				return nil, err
			} else if !ok {
				continue
			}
		}
		total += sizes[db]
		list = append(list, d)
	}
	if names {
		return bson.D{{Key: "databases", Value: list}}, nil
	}
	return bson.D{{Key: "databases", Value: list}, {Key: "totalSize", Value: total}}, nil
}

// listing is a collection as listCollections shows it.
func (s *Server) listing(c *collection, nameOnly bool) bson.D {
	d := bson.D{{Key: "name", Value: c.name}}
	if s.atLeast(3, 4) {
		d = append(d, bson.E{Key: "type", Value: c.kind})
	}
	if nameOnly {
		return d
	}
	d = append(d, bson.E{Key: "options", Value: c.options})
	if s.atLeast(3, 4) {
		info := bson.D{{Key: "readOnly", Value: c.kind == "view"}}
		if s.atLeast(3, 6) && c.indexes != nil || strings.HasPrefix(c.name, "system.buckets.") {
			info = append(info, bson.E{Key: "uuid", Value: bson.Binary{Subtype: 4, Data: c.uuid[:]}})
		}
		d = append(d, bson.E{Key: "info", Value: info})
		if len(c.indexes) > 0 {
			d = append(d, bson.E{Key: "idIndex", Value: c.indexes[0]})
		}
	}
	return d
}

func (r *request) listCollections() (any, error) {
	filter, _ := r.body.Lookup("filter").DocumentOK()
	st := r.s.st
	st.mu.RLock()
	var docs []bson.Raw
	for _, c := range st.current {
		if c.db != r.db {
			continue
		}
		d := rawOf(r.s.listing(c, false))
		if filter != nil {
			if ok, err := match(d, filter); err != nil {
				st.mu.RUnlock()
				return nil, err
			} else if !ok {
				continue
			}
		}
		if truthy(r.body.Lookup("nameOnly")) {
			d = rawOf(r.s.listing(c, true))
		}
		docs = append(docs, d)
	}
	st.mu.RUnlock()
	return r.list("$cmd.listCollections", docs)
}

func (r *request) list(name string, docs []bson.Raw) (any, error) {
	size := cmp.Or(r.s.o.Window, 101)
	if v := r.body.Lookup("cursor", "batchSize"); v.Type != 0 {
		size = int(number(v))
	}
	return r.batch(&cursor{ns: r.db + "." + name, docs: docs, session: r.session()}, "firstBatch", size, false, time.Time{})
}

func (r *request) listIndexes() (any, error) {
	name, _ := r.body.Lookup("listIndexes").StringValueOK()
	st := r.s.st
	st.mu.RLock()
	c := st.find(r.db, name)
	var indexes []bson.Raw
	if c != nil {
		indexes = slices.Clone(c.indexes)
	}
	st.mu.RUnlock()
	switch {
	case c == nil:
		return nil, errorf(26, "NamespaceNotFound", "ns does not exist: %s.%s", r.db, name)
	case c.kind == "view":
		return nil, errorf(166, "CommandNotSupportedOnView", "Namespace %s is a view, not a collection", c.ns())
	case c.kind == "timeseries" && c.indexes == nil:
		st.mu.RLock()
		if b := st.find(r.db, "system.buckets."+name); b != nil {
			indexes = slices.Clone(b.indexes)
		}
		st.mu.RUnlock()
	}
	return r.list(name, indexes)
}
