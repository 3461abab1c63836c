package oplog

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/whole-tale/wtsnap/mongo/layout"
)

// systemViews is the collection in which a database's views are documents {_id: "db.view", viewOn, pipeline, collation}.
// A dump has their metadata instead.
const systemViews = "system.views"

// A viewList is a database's views, by name.
type viewList struct{ byName map[string]*view }

type view struct {
	base   *Collection // of the dump; nil or changed: doc says what the view is
	doc    bson.Raw    // of system.views
	edited bool
}

func (c *catalog) viewsOf(db string) *viewList {
	if c.views[db] == nil {
		c.views[db] = &viewList{byName: map[string]*view{}}
	}
	return c.views[db]
}

func (v *viewList) add(b Collection) {
	doc := edit(withID(stringElement("_id", b.DB+"."+b.Name), nil), nil, elements(b.Metadata.Options)...)
	v.byName[b.Name] = &view{base: &b, doc: doc}
}

func elements(doc bson.Raw) (list []element) {
	if len(doc) > 0 {
		_ = each(doc, func(e element) error { list = append(list, e); return nil })
	}
	return list
}

func (v *viewList) create(db, name string, spec bson.Raw) {
	doc := withID(stringElement("_id", db+"."+name), edit(spec, []string{"create", "lsid", "$db", "writeConcern"}))
	v.byName[name] = &view{doc: doc, edited: true}
}

// drop reports whether there was such a view.
func (v *viewList) drop(name string) bool {
	_, ok := v.byName[name]
	delete(v.byName, name)
	return ok
}

// apply follows an entry of system.views. Time series below 8.3 have a view each, which says nothing that their buckets
// do not.
func (v *viewList) apply(e *Entry) error {
	of := e.Object
	if e.Op == Update {
		of = e.Object2
	}
	id, _ := find(of, "_id")
	full, ok := id.str()
	name, ok2 := strings.CutPrefix(full, e.DB+".")
	if !ok || !ok2 {
		return fmt.Errorf("a view without a name")
	}
	old := v.byName[name]
	doc := e.Object
	switch e.Op {
	case Delete:
		delete(v.byName, name)
		return nil
	case Update:
		kind, err := kindOf(doc)
		if err != nil {
			return err
		}
		if kind != replacement {
			if old == nil {
				return nil // of a time series, or one that is dropped later
			}
			if doc, err = applyUpdate(old.doc, doc, false); err != nil {
				return err
			}
		}
	}
	on, _ := find(doc, "viewOn")
	if source, _ := on.str(); strings.HasPrefix(source, layout.BucketsPrefix) {
		return nil
	}
	v.byName[name] = &view{doc: slices.Clone(doc), edited: true}
	return nil
}

// results returns the views as collections, by name.
func (v *viewList) results(db string) (list []Collection, err error) {
	for _, name := range slices.Sorted(maps.Keys(v.byName)) {
		w := v.byName[name]
		if !w.edited {
			list = append(list, *w.base)
			continue
		}
		m := layout.Metadata{Options: edit(w.doc, []string{"_id"}), Indexes: []bson.Raw{}, Name: name, Type: layout.TypeView}
		if m.JSON, err = layout.MarshalMetadata(&m); err != nil {
			return nil, err
		}
		list = append(list, Collection{DB: db, Name: name, Metadata: m})
	}
	return list, nil
}
