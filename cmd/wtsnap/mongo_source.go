package main

import (
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/whole-tale/wtsnap/mongo"
	"github.com/whole-tale/wtsnap/snapshot"
)

// mongoSources gives the sources that are MongoDBs, or dumps of one, what reads them.
func (a *app) mongoSources(c *cli.Context, sources []snapshot.SourceSpec) error {
	for i := range sources {
		s := &sources[i]
		if s.Kind != snapshot.SourceMongo {
			continue
		}
		if path, ok := strings.CutPrefix(s.Address, "mongodump:"); ok {
			s.Stream = &mongo.DumpSource{Path: path, Stdin: a.std.in}
			continue
		}
		return usagef("mongodump --archive --uri URI | wtsnap backup mongo=mongodump:-",
			"source %s: this build does not read a running MongoDB", shown(s.Path))
	}
	return nil
}
