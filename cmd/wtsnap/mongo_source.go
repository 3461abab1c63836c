package main

import (
	"github.com/urfave/cli/v2"

	"github.com/whole-tale/wtsnap/snapshot"
)

// mongoSources gives the sources that are MongoDBs, or dumps of one, what reads them.
func (a *app) mongoSources(c *cli.Context, sources []snapshot.SourceSpec) error {
	for i := range sources {
		if s := &sources[i]; s.Kind == snapshot.SourceMongo {
			return usagef("save the files of `mongodump --out DIR` as a folder, or `mongodump --archive` through stdin:NAME",
				"source %s: this build reads neither a MongoDB nor a mongodump archive", shown(s.Path))
		}
	}
	return nil
}
