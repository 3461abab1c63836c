package main

import (
	"github.com/whole-tale/wtsnap/mongo"
	"github.com/whole-tale/wtsnap/snapshot"
)

// mongoTarget gives a restore to a MongoDB, or into an archive for one, what writes to it.
func (a *app) mongoTarget(o *snapshot.RestoreOptions) error {
	switch o.Target.Kind {
	case snapshot.TargetMongodump:
		o.Foreign = mongo.DumpTarget{}
	case snapshot.TargetMongoDB:
		return usagef("wtsnap restore ... --to mongodump:- | mongorestore --archive --uri URI", "this version cannot restore to a running MongoDB")
	}
	return nil
}

// printDocuments prints what became of documents.
func printDocuments(row func(name, text string), rep *snapshot.RestoreReport, o snapshot.RestoreOptions) {
	if o.Target.Kind == snapshot.TargetMongodump {
		text := plural(rep.Files.New, "namespace", "namespaces")
		if !rep.DryRun {
			text += ", " + plural(rep.Documents.Inserted, "document", "documents")
		}
		row("archive", text)
	}
}
