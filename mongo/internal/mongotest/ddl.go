package mongotest

import (
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"
)

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
