package main

import (
	"github.com/urfave/cli/v2"

	"github.com/whole-tale/wtsnap/mongo"
	"github.com/whole-tale/wtsnap/snapshot"
)

// mongoTarget gives a restore to a MongoDB, or into an archive for one, what writes to it.
func (a *app) mongoTarget(c *cli.Context, o *snapshot.RestoreOptions) error {
	if o.Target.Kind == snapshot.TargetMongodump {
		o.Foreign = mongo.DumpTarget{}
	}
	return a.mongoURITarget(c, o)
}

// printDocuments prints what became of documents.
func printDocuments(row func(name, text string), rep *snapshot.RestoreReport, o snapshot.RestoreOptions) {
	if o.Target.Kind == snapshot.TargetFolder && rep.Documents != nil && (!rep.DryRun || rep.Documents.Inserted > 0) {
		row("documents", number(rep.Documents.Inserted))
	}
	if o.Target.Kind == snapshot.TargetMongodump {
		text := plural(rep.Files.New, "namespace", "namespaces")
		if !rep.DryRun || rep.Documents.Inserted > 0 {
			text += ", " + plural(rep.Documents.Inserted, "document", "documents")
		}
		row("archive", text)
	}
}
