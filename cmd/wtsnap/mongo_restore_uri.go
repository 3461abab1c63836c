package main

import (
	"fmt"
	"io"

	"github.com/urfave/cli/v2"

	"github.com/whole-tale/wtsnap/mongo"
	"github.com/whole-tale/wtsnap/snapshot"
)

// mongoRestoreFlags are the flags of restore that a MongoDB as a target has.
func mongoRestoreFlags() []cli.Flag {
	return []cli.Flag{
		&cli.BoolFlag{Name: "drop", Usage: "MongoDB: drop each collection before it is restored"},
		&cli.BoolFlag{Name: "insert-missing", Usage: "MongoDB: insert the documents that are missing, and leave the others as they are"},
		&cli.BoolFlag{Name: "overwrite", Usage: "MongoDB: insert the documents that are missing, and put back those that differ"},
		&cli.StringSliceFlag{Name: "ns-include", Usage: "MongoDB: restore only the collections that match `DB.COLLECTION`, with * for any text; may be repeated"},
		&cli.StringSliceFlag{Name: "ns-exclude", Usage: "MongoDB: leave out the collections that match `DB.COLLECTION`; may be repeated"},
		&cli.StringSliceFlag{Name: "ns-from", Usage: "MongoDB: rename what matches `PATTERN`, such as girder.*; may be repeated"},
		&cli.StringSliceFlag{Name: "ns-to", Usage: "MongoDB: the new name, such as copy.*; one for each --ns-from"},
		&cli.StringFlag{Name: "mongo-password-file", Usage: "MongoDB: take the password of the user from `FILE`"},
		&cli.BoolFlag{Name: "no-indexes", Usage: "MongoDB: make no indexes but that of _id"},
		&cli.BoolFlag{Name: "no-users", Usage: "MongoDB: leave users and roles out"},
		&cli.StringFlag{Name: "filter", Usage: "MongoDB: restore only the documents that `QUERY` means, in extended JSON, such as '{\"login\": \"alice\"}'"},
		&cli.StringFlag{Name: "transform", Usage: "MongoDB: make the updates that `FILE` lists after the documents, such as those of a domain"},
	}
}

// mongoRestoreOnly are the names of those flags.
var mongoRestoreOnly = []string{"drop", "insert-missing", "overwrite", "ns-from", "ns-to", "no-indexes", "no-users", "ns-include", "ns-exclude", "transform"}

// mongoURITarget fills in what a restore into a running MongoDB needs.
func (a *app) mongoURITarget(c *cli.Context, o *snapshot.RestoreOptions) error {
	if o.Target.Kind != snapshot.TargetMongoDB {
		for _, name := range mongoRestoreOnly {
			if c.IsSet(name) {
				hint := "--to mongodb://HOST/"
				if o.Target.Kind == snapshot.TargetMongodump {
					hint = "name a database or a collection, SNAPSHOT:mongo/girder, or give mongorestore that flag"
				}
				return usagef(hint, "--%s is for a MongoDB, and %s is none", name, shown(o.Target.String()))
			}
		}
		return nil
	}
	for _, name := range []string{"include", "exclude", "delete", "owner-map", "numeric-ids", "sparse"} {
		if c.IsSet(name) {
			return usagef("leave --"+name+" out; --ns-include and --ns-exclude choose collections", "--%s is for files, and %s is a MongoDB", name, shown(o.Target.String()))
		}
	}
	t, err := a.mongoRestorer(c)
	o.Foreign = t
	return err
}

// mongoRestorer reads the flags that say how a MongoDB is restored.
func (a *app) mongoRestorer(c *cli.Context) (*mongo.Restorer, error) {
	t := &mongo.Restorer{From: c.StringSlice("ns-from"), To: c.StringSlice("ns-to"), NoIndexes: c.Bool("no-indexes"), NoUsers: c.Bool("no-users")}
	modes := 0
	for name, mode := range map[string]mongo.RestoreMode{"drop": mongo.DropExisting, "insert-missing": mongo.InsertMissing, "overwrite": mongo.Overwrite} {
		if c.Bool(name) {
			t.Mode = mode
			modes++
		}
	}
	if modes > 1 {
		return nil, usagef("choose one", "--drop, --insert-missing and --overwrite exclude each other")
	}
	if _, err := mongo.ParseRenames(t.From, t.To); err != nil {
		return nil, usagef("", "%v", err)
	}
	var err error
	if t.Include, err = mongo.ParsePatterns(c.StringSlice("ns-include")); err == nil {
		t.Exclude, err = mongo.ParsePatterns(c.StringSlice("ns-exclude"))
	}
	if err != nil {
		return nil, usagef("", "%v", err)
	}
	if t.Options.Password, err = mongoPassword(c); err != nil {
		return nil, err
	}
	if file := c.String("transform"); file != "" {
		if t.Updates, err = a.readTransform(file); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// printMongoRestore prints what a restore into a MongoDB did.
func printMongoRestore(w io.Writer, rep *snapshot.RestoreReport) {
	row := func(name, text string) { fmt.Fprintf(w, "  %-11s %s\n", name, text) }
	text := func(d snapshot.Documents) string {
		out := fmt.Sprintf("%s inserted, %s as they were", number(d.Inserted), number(d.Equal))
		for _, more := range []struct {
			n    int64
			what string
		}{{d.Differ, "differ and stay"}, {d.Overwritten, "overwritten"}, {d.Failed, "failed"}} {
			if more.n > 0 {
				out += fmt.Sprintf(", %s %s", number(more.n), more.what)
			}
		}
		return out
	}
	if rep.DryRun {
		for _, c := range rep.Collections {
			line := text(c.Documents)
			if c.Dropped {
				line = "dropped, " + line
			}
			if c.From != c.Namespace {
				line += " (from " + shown(c.From) + ")"
			}
			fmt.Fprintf(w, "  %s: %s\n", shown(c.Namespace), line)
		}
	}
	row("documents", text(*rep.Documents))
	for i := range rep.Updates {
		row("update", updateText(&rep.Updates[i], rep.DryRun))
	}
	row("collections", number(len(rep.Collections)))
	row("bytes", fmt.Sprintf("%s in all, %s written", size(rep.Bytes.Total), size(rep.Bytes.Written)))
}
