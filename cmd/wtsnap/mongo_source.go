package main

import (
	"os"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/whole-tale/wtsnap/mongo"
	"github.com/whole-tale/wtsnap/snapshot"
)

// envMongoPassword names the variable that holds the password of a MongoDB whose address has a user and no password.
const envMongoPassword = "WTSNAP_MONGO_PASSWORD"

// mongoFlags are those of commands that read a MongoDB.
func mongoFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "read-preference", Usage: "read the member of a MongoDB's replica set that `MODE[:TAG=VALUE,...]` says: primary, secondary, nearest..."},
		&cli.StringFlag{Name: "mongo-member", Usage: "read `HOST[:PORT]` of a MongoDB's replica set, and no other"},
		&cli.StringFlag{Name: "mongo-password-file", Usage: "take the password of the MongoDB's user from `FILE`"},
		&cli.StringSliceFlag{Name: "ns-include", Usage: "of a MongoDB only the collections that match `DB.COLLECTION`, with * for any text; may be repeated"},
		&cli.StringSliceFlag{Name: "ns-exclude", Usage: "of a MongoDB not the collections that match `DB.COLLECTION`; may be repeated"},
		&cli.StringFlag{Name: "mongo-consistency", Value: "auto", Usage: "make a MongoDB's collections consistent by `HOW` snapshot, oplog, none, or auto: the best that there is"},
		&cli.StringFlag{Name: "mongo-order", Value: "natural", Usage: "read a MongoDB's documents in the `ORDER` natural, as its own tools do, or _id, which is the same on all members"},
		&cli.IntFlag{Name: "mongo-parallel", Usage: "read `N` collections of a MongoDB at a time (default: 4)"},
		sizeFlag("mongo-spool", "let a MongoDB be up to `SIZE` ahead of a slow remote, on disk in the folder for temporary files (default: 2GiB; 0: none)"),
	}
}

// mongoSources gives the sources that are MongoDBs, or dumps of one, what reads them.
func (a *app) mongoSources(c *cli.Context, sources []snapshot.SourceSpec) error {
	for i := range sources {
		s := &sources[i]
		if s.Kind != snapshot.SourceMongo || s.Stream != nil { // one that cannot be saved now has a stream that says so
			continue
		}
		if path, ok := strings.CutPrefix(s.Address, "mongodump:"); ok {
			d := &mongo.DumpSource{Path: path, Stdin: a.std.in}
			var err error
			if d.Include, err = mongo.ParsePatterns(c.StringSlice("ns-include")); err == nil {
				d.Exclude, err = mongo.ParsePatterns(c.StringSlice("ns-exclude"))
			}
			if err != nil {
				return usagef("", "%v", err)
			}
			s.Stream = d
			continue
		}
		o, err := mongoOptions(c)
		if err != nil {
			return err
		}
		o.Address = s.Address
		stream, err := mongo.NewSource(o)
		if err != nil {
			return usagef("", "source %s: %v", shown(s.Path), err)
		}
		s.Stream = stream
	}
	return nil
}

// mongoOptions reads the flags of mongoFlags.
func mongoOptions(c *cli.Context) (o mongo.SourceOptions, err error) {
	o.ReadPreference, o.Member = c.String("read-preference"), c.String("mongo-member")
	o.Include, o.Exclude = c.StringSlice("ns-include"), c.StringSlice("ns-exclude")
	if how := c.String("mongo-consistency"); how != "auto" {
		o.Consistency = snapshot.MongoConsistency(how)
	}
	o.Order = snapshot.MongoOrder(c.String("mongo-order"))
	if o.Parallel = c.Int("mongo-parallel"); o.Parallel < 0 || c.IsSet("mongo-parallel") && o.Parallel == 0 {
		return o, usagef("", "--mongo-parallel %d: at least one collection is read at a time", o.Parallel)
	}
	if n, ok := get[int64](c, "mongo-spool"); ok {
		if o.Spool = n; n == 0 {
			o.Spool = -1
		}
	}
	o.Password, err = mongoPassword(c)
	return o, err
}

// mongoPassword returns the password of a MongoDB's user, or "".
func mongoPassword(c *cli.Context) (string, error) {
	file := c.String("mongo-password-file")
	if file == "" {
		return os.Getenv(envMongoPassword), nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return "", usagef("", "the file of the MongoDB's password: %v", err)
	}
	return strings.TrimRight(string(text), "\r\n"), nil
}
