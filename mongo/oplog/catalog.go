package oplog

import (
	"encoding/hex"
	"fmt"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/whole-tale/wtsnap/mongo/layout"
)

// A Collection is one of a dump, or of what a fold makes of it. A time series has its own name, without
// layout.BucketsPrefix; its documents are the buckets.
type Collection struct {
	DB, Name string
	Metadata layout.Metadata
}

// configCollections are those of the database config that a dump has.
var configCollections = map[string]bool{"chunks": true, "collections": true, "databases": true, "settings": true,
	"shards": true, "tags": true, "version": true}

// Dumped reports whether mongodump would save a collection, by its name alone.
func Dumped(db, name string) bool {
	switch {
	case db == "local" || strings.HasPrefix(db, "__mdb_internal") || strings.Contains(name, "$"):
		return false
	case db == "config":
		return configCollections[name]
	case db == "admin":
		return name != "system.keys" && name != "system.profile" && name != "system.views"
	case strings.HasPrefix(name, "system."):
		return name == "system.js"
	}
	return true
}

// A coll is one collection, from its creation to its end: a name may belong to several one after the other. The server's
// UUID tells them apart where it has one.
type coll struct {
	id       int // by which another scan of the same log finds it
	db, name string
	uuid     string // 16 bytes, or "" = not known yet
	base     int    // in Options.Collections; -1 = none of its documents are in the dump
	known    bool   // the dump has it, or its creation was seen
	alive    bool
	meta     layout.Metadata
	edited   bool           // meta's JSON is not up to date
	first    bson.Timestamp // of the entries, where the collection is not known
	changes  changes
	skipped  bool // some changes were not gathered
	touched  int64
}

// A catalog is what collections there are at a moment of the log.
type catalog struct {
	colls  []*coll
	byUUID map[string]*coll
	byName map[string]*coll
	views  map[string]*viewList // by database
}

func newCatalog(list []Collection) *catalog {
	c := &catalog{byUUID: map[string]*coll{}, byName: map[string]*coll{}, views: map[string]*viewList{}}
	for i, b := range list {
		if b.Metadata.IsView() {
			c.viewsOf(b.DB).add(b)
			continue
		}
		n := c.add(b.DB, realName(b.Name))
		n.base, n.known, n.meta = i, true, b.Metadata
		if id, err := hex.DecodeString(b.Metadata.UUID); err == nil && len(id) == 16 && !b.Metadata.IsTimeseries() {
			n.uuid = string(id)
			c.byUUID[n.uuid] = n
		}
	}
	return c
}

// realName is a collection's name for the user.
func realName(name string) string { return strings.TrimPrefix(name, layout.BucketsPrefix) }

func (c *catalog) add(db, name string) *coll {
	n := &coll{id: len(c.colls), db: db, name: name, base: -1, alive: true}
	c.colls = append(c.colls, n)
	c.byName[db+"."+name] = n
	return n
}

// find returns the collection that an entry is about, or nil.
func (c *catalog) find(db, name, uuid string) *coll {
	n := c.byName[db+"."+realName(name)]
	if uuid == "" {
		return n
	}
	if u := c.byUUID[uuid]; u != nil {
		return u
	}
	if n != nil && n.uuid == "" { // the dump, or an entry before, did not say it
		n.uuid = uuid
		c.byUUID[uuid] = n
		return n
	}
	return nil
}

// ghost returns the collection that an entry is about, which neither the dump nor the log knows: it was dropped before the
// dump came to it, or something is missing.
func (c *catalog) ghost(e *Entry, db, name string) *coll {
	if n := c.find(db, name, e.UUID); n != nil {
		return n
	}
	holder := c.byName[db+"."+realName(name)]
	n := c.add(db, realName(name))
	n.first, n.uuid = e.Timestamp, e.UUID
	if e.UUID != "" {
		c.byUUID[e.UUID] = n
		if holder != nil { // one that comes later, or was before
			c.byName[db+"."+realName(name)] = holder
		}
	} else if e.Op == Insert { // servers that do not log the creation of collections
		n.known, n.edited = true, true
		n.meta = layout.Metadata{Indexes: []bson.Raw{idIndex(db, n.name)}, Name: n.name, Type: layout.TypeCollection}
	}
	return n
}

func (c *catalog) remove(n *coll) {
	if n == nil {
		return
	}
	n.alive, n.changes = false, changes{}
	if c.byUUID[n.uuid] == n {
		delete(c.byUUID, n.uuid)
	}
	if key := n.db + "." + n.name; c.byName[key] == n {
		delete(c.byName, key)
	}
}

// create begins a collection. One that the dump has as it was later keeps what the dump says of it; its documents are all
// in the log.
func (c *catalog) create(e *Entry, db, name string, spec bson.Raw) error {
	n := c.find(db, name, e.UUID)
	if n != nil && e.UUID == "" && !n.known {
		c.remove(n)
		n = nil
	}
	if n == nil {
		n = c.add(db, realName(name))
		if n.uuid = e.UUID; e.UUID != "" {
			c.byUUID[e.UUID] = n
		}
	}
	n.base, n.changes, n.skipped = -1, changes{}, false
	if !n.known {
		n.known, n.edited = true, true
		n.meta = createdMetadata(db, name, e.UUID, spec)
	}
	return nil
}

func (c *catalog) dropDatabase(db string) {
	for _, n := range c.colls {
		if n.alive && n.db == db {
			c.remove(n)
		}
	}
	delete(c.views, db)
}

// rename moves a collection.
func (c *catalog) rename(e *Entry) error {
	head, _ := first(e.Object)
	from, ok := head.str()
	target, ok2 := find(e.Object, "to")
	to, ok3 := target.str()
	if !ok || !ok2 || !ok3 {
		return fmt.Errorf("a renameCollection that does not say what")
	}
	db, name, _ := strings.Cut(from, ".")
	n := c.ghost(e, db, name)
	if drop, ok := find(e.Object, "dropTarget"); ok {
		if uuid := uuidOf(drop); uuid != "" {
			c.remove(c.byUUID[uuid])
		} else if isTrue(e.Object, "dropTarget") && c.byName[to] != n {
			c.remove(c.byName[to])
		}
	}
	if key := n.db + "." + n.name; c.byName[key] == n {
		delete(c.byName, key)
	}
	n.db, n.name, _ = strings.Cut(to, ".")
	n.name = realName(n.name)
	c.byName[n.db+"."+n.name] = n
	n.renamed()
	return nil
}

// command follows what a command does to collections and their indexes. Transactions are not here.
func (c *catalog) command(e *Entry) error {
	head, ok := first(e.Object)
	if !ok {
		return fmt.Errorf("a command without a name")
	}
	name, _ := head.str()
	switch verb := string(head.name); verb {
	case "create":
		if view, ok := find(e.Object, "viewOn"); ok && view.typ == bson.TypeString {
			c.viewsOf(e.DB).create(e.DB, name, e.Object)
			return nil
		}
		if name == systemViews {
			return nil
		}
		return c.create(e, e.DB, name, e.Object)
	case "drop":
		if name == systemViews {
			delete(c.views, e.DB)
			return nil
		}
		if c.viewsOf(e.DB).drop(name) {
			return nil
		}
		c.remove(c.find(e.DB, name, e.UUID))
	case "dropDatabase":
		c.dropDatabase(e.DB)
	case "renameCollection":
		return c.rename(e)
	case "emptycapped":
		if n := c.find(e.DB, name, e.UUID); n != nil {
			n.base, n.changes = -1, changes{}
		}
	case "collMod":
		if n := c.find(e.DB, name, e.UUID); n != nil && n.known {
			return n.collMod(e.Object)
		}
	case "createIndexes":
		return c.index(e, name, func(n *coll) error { return n.addIndex(edit(e.Object, []string{"createIndexes"})) })
	case "commitIndexBuild":
		return c.indexes(e, name, (*coll).addIndex)
	case "abortIndexBuild":
		return c.indexes(e, name, (*coll).abortIndex)
	case "dropIndexes", "deleteIndexes", "dropIndex", "deleteIndex":
		return c.index(e, name, func(n *coll) error { return n.dropIndexes(e.Object) })
	default:
		if !skippedCommands[verb] {
			return fmt.Errorf("the command %q is unknown here", verb)
		}
	}
	return nil
}

// skippedCommands change nothing that a dump has.
var skippedCommands = map[string]bool{"startIndexBuild": true, "setMultikeyMetadata": true, "dropIdent": true,
	"dbCheck": true, "modifyCollectionShardingIndexCatalog": true, "createDatabaseMetadata": true,
	"dropDatabaseMetadata": true, "beginTransaction": true}

// index changes the indexes of a collection that is known.
func (c *catalog) index(e *Entry, name string, change func(n *coll) error) error {
	if n := c.find(e.DB, name, e.UUID); n != nil && n.known {
		return change(n)
	}
	return nil
}

// indexes changes several indexes.
func (c *catalog) indexes(e *Entry, name string, change func(n *coll, spec bson.Raw) error) error {
	return c.index(e, name, func(n *coll) error {
		list, ok := find(e.Object, "indexes")
		if !ok || list.typ != bson.TypeArray {
			return fmt.Errorf("an index build that does not say which indexes")
		}
		return each(list.value, func(spec element) error { return change(n, bson.Raw(spec.value)) })
	})
}
