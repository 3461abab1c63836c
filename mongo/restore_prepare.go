package mongo

import (
	"context"
	"fmt"
	"slices"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/whole-tale/wtsnap/mongo/layout"
	"github.com/whole-tale/wtsnap/snapshot"
)

// prepare drops a collection, where that was decided, and makes it with the options that it had.
func (rs *restore) prepare(ctx context.Context, j *job) error {
	if j.drop {
		_, err := rs.command(ctx, j.db, bson.D{{Key: "drop", Value: j.name}, {Key: "writeConcern", Value: rs.writeConcern()}})
		if err != nil && !isCode(err, errNamespaceNotFound) {
			return abandon(fmt.Errorf("dropping it: %w", err))
		}
		j.there = false
		rs.action(snapshot.OpDelete, j.ns(), 0)
	}
	if j.there {
		return rs.noteBegun(ctx, j)
	}
	rs.action(snapshot.OpCreate, j.ns(), j.Bytes)
	command := append(bson.D{{Key: "create", Value: j.name}}, createOptions(&j.Metadata)...)
	_, err := rs.command(ctx, j.db, append(command, bson.E{Key: "writeConcern", Value: rs.writeConcern()}))
	if err != nil && !isCode(err, errNamespaceExists) { // made by an attempt whose reply was lost
		return abandon(fmt.Errorf("creating it: %w", err))
	}
	// Only now: what an earlier run has noted as begun is all its own.
	return rs.noteBegun(ctx, j)
}

// oldOptions are options of collections that newer servers refuse, and that mean nothing to them.
var oldOptions = []string{"autoIndexId", "flags", "recordIdsReplicated", "uuid", "create", "temp"}

// createOptions are what the command create gets besides the name.
func createOptions(m *layout.Metadata) bson.D {
	var out bson.D
	for _, e := range fields(m.Options) {
		if !slices.Contains(oldOptions, e.Key) {
			out = append(out, e)
		}
	}
	if len(m.Indexes) > 0 {
		// The server makes the index of _id. Where it is special, as with a collation of its own, it must be told.
		id := m.Indexes[0]
		plain := indexName(id) != "_id_" || id.Lookup("clustered").Type != 0
		var spec bson.D
		special := false
		for _, e := range fields(id) {
			switch e.Key {
			case "v", "ns":
				continue
			case "key", "name":
			default:
				special = true
			}
			spec = append(spec, e)
		}
		if special && !plain && !m.IsTimeseries() {
			out = append(out, bson.E{Key: "idIndex", Value: spec})
		}
	}
	return out
}

// fields are a document's elements, for use in another document.
func fields(doc bson.Raw) (out bson.D) {
	list, _ := doc.Elements() // of documents that were parsed before
	for _, e := range list {
		out = append(out, bson.E{Key: e.Key(), Value: e.Value()})
	}
	return out
}

// indexName is "" for an index without a name, which only somebody's own metadata has: the server says so.
func indexName(ix bson.Raw) string {
	name, _ := ix.Lookup("name").StringValueOK()
	return name
}

// oldIndexOptions are what indexes of old servers have and new ones refuse or ignore.
var oldIndexOptions = []string{"v", "ns", "background", "dropDups", "safe"}

// indexes makes a collection's indexes: all with one command, and where that fails one by one, so that one bad index does
// not cost the others.
func (rs *restore) indexes(ctx context.Context, j *job) error {
	if rs.NoIndexes {
		return nil
	}
	var specs []bson.D
	for _, ix := range j.Metadata.Indexes {
		if indexName(ix) == "_id_" || ix.Lookup("clustered").Type != 0 {
			continue
		}
		var spec bson.D
		for _, e := range fields(ix) {
			if !slices.Contains(oldIndexOptions, e.Key) {
				spec = append(spec, e)
			}
		}
		specs = append(specs, spec)
	}
	if len(specs) == 0 {
		return nil
	}
	err := rs.createIndexes(ctx, j, specs)
	if err == nil || len(specs) == 1 && abandonable(err) {
		if err != nil {
			rs.problem(j, fmt.Errorf("its index %v: %w", nameOf(specs[0]), err))
		}
		return nil
	}
	if !abandonable(err) {
		return err
	}
	for _, spec := range specs {
		if err := rs.createIndexes(ctx, j, []bson.D{spec}); abandonable(err) {
			rs.problem(j, fmt.Errorf("its index %v: %w", nameOf(spec), err))
		} else if err != nil {
			return err
		}
	}
	return nil
}

func abandonable(err error) bool {
	_, ok := abandon(err).(*abandonedError)
	return ok
}

func nameOf(spec bson.D) any {
	for _, e := range spec {
		if v, ok := e.Value.(bson.RawValue); ok && e.Key == "name" {
			if name, ok := v.StringValueOK(); ok {
				return name
			}
		}
	}
	return "without a name"
}

func (rs *restore) createIndexes(ctx context.Context, j *job, specs []bson.D) error {
	_, err := rs.command(ctx, j.db, bson.D{{Key: "createIndexes", Value: j.name}, {Key: "indexes", Value: specs},
		{Key: "ignoreUnknownIndexOptions", Value: true}, {Key: "writeConcern", Value: rs.writeConcern()}})
	return err
}

// views makes the views, after the collections that they show.
func (rs *restore) views(ctx context.Context) error {
	for _, j := range rs.jobs {
		if !j.isView() || j.done {
			continue
		}
		if rs.o.DryRun {
			rs.action(snapshot.OpCreate, j.ns(), 0)
			continue
		}
		if err := rs.view(ctx, j); err != nil {
			if !abandonable(err) {
				return fmt.Errorf("restoring the view %s: %w", j.ns(), err)
			}
			j.abandoned = err
			rs.problem(j, err)
		}
	}
	return nil
}

func (rs *restore) view(ctx context.Context, j *job) error {
	options := createOptions(&j.Metadata)
	if j.there && !j.drop {
		there, err := rs.listTarget(ctx, j.db)
		if err != nil {
			return err
		}
		if e := there[j.name]; e != nil && sameFields(e.Options, options) {
			return nil
		}
		if rs.Mode == InsertMissing {
			rs.o.Monitor.Notice(j.ns(), "the view is another one there, and stays as it is")
			return nil
		}
		j.drop = true
	}
	if j.drop {
		if _, err := rs.command(ctx, j.db, bson.D{{Key: "drop", Value: j.name}}); err != nil && !isCode(err, errNamespaceNotFound) {
			return fmt.Errorf("dropping it: %w", err)
		}
	}
	rs.action(snapshot.OpCreate, j.ns(), 0)
	_, err := rs.command(ctx, j.db, append(bson.D{{Key: "create", Value: j.name}}, options...))
	if isCode(err, errNamespaceExists) {
		return nil
	}
	return err
}

// sameFields compares options regardless of their order.
func sameFields(a bson.Raw, b bson.D) bool {
	list, _ := a.Elements()
	if len(list) != len(b) {
		return false
	}
	for _, e := range b {
		if v, ok := e.Value.(bson.RawValue); !ok || !v.Equal(a.Lookup(e.Key)) {
			return false
		}
	}
	return true
}
