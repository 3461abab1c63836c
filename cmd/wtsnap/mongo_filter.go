package main

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/whole-tale/wtsnap/mongo"
	"github.com/whole-tale/wtsnap/mongo/query"
	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/snapshot"
)

// readFilter reads --filter, and refuses it where it has no meaning. It is nil without one.
func readFilter(c *cli.Context, o *snapshot.RestoreOptions) (*query.Query, error) {
	if !c.IsSet("filter") {
		return nil, nil
	}
	q, err := query.Parse(c.String("filter"))
	switch kind := o.Target.Kind; {
	case err != nil:
		return nil, usagef("", "--filter: %v", err)
	case kind != snapshot.TargetFolder && kind != snapshot.TargetMongodump && kind != snapshot.TargetMongoDB:
		return nil, usagef("--to FOLDER, --to mongodump:FILE or --to mongodb://...", "documents that --filter chooses cannot be restored to %s", shown(o.Target.String()))
	case c.Bool("drop"):
		return nil, usagef("--insert-missing or --overwrite; or rename with --ns-to", "--drop and --filter exclude each other: what the filter leaves out would be gone")
	}
	for _, name := range []string{"include", "exclude", "delete", "owner-map", "numeric-ids", "sparse"} {
		if c.IsSet(name) {
			return nil, usagef("leave --"+name+" out", "--%s is for files, and --filter for the documents of a MongoDB", name)
		}
	}
	return q, nil
}

// useFilter makes a restore one of the documents that a filter chooses; nil means all. What it returns is not nil where a
// folder gets documents that are made as they are read: chosen, or those of a moment.
func (a *app) useFilter(r *repo.Repository, q *query.Query, o *snapshot.RestoreOptions, m *mongo.Moment) (mongo.Opener, error) {
	folder := o.Target.Kind == snapshot.TargetFolder
	var open mongo.Opener
	if m != nil && folder {
		open = m.Open
	}
	if q == nil {
		return open, nil
	}
	if m == nil {
		d, err := mongo.OpenDump(a.ctx, r, o.Snapshot, o.Path)
		if err != nil {
			return nil, fmt.Errorf("--filter chooses documents of a MongoDB: %w", err)
		}
		if o.Path == "" && folder {
			o.Path = d.Root
		}
	}
	switch t := o.Foreign.(type) {
	case *mongo.Restorer:
		t.Open = mongo.Filtered(t.Open, q, a.g.memory/2)
	case mongo.DumpTarget:
		t.Open = mongo.Filtered(t.Open, q, a.g.memory/2)
		o.Foreign = t
	default:
		return mongo.Filtered(open, q, a.g.memory/2), nil
	}
	return nil, nil
}
