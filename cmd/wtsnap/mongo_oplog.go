package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/whole-tale/wtsnap/mongo"
	"github.com/whole-tale/wtsnap/snapshot"
)

// mongoCommand holds what is done with a MongoDB besides backup and restore.
func (a *app) mongoCommand() *cli.Command {
	return &cli.Command{
		Name: "mongo", Usage: "follow a MongoDB's oplog, or compare it with a snapshot",
		Description: `What there is for a MongoDB besides backup and restore. Examples:

  wtsnap mongo oplog mongodb://db1,db2/?replicaSet=rs1           follow the oplog until stopped
  wtsnap mongo oplog --once mongodb://db1,db2/?replicaSet=rs1    store what is new, for a timer
  wtsnap restore --at "2026-11-20 03:00:00" latest:mongo --to mongodb://...
  wtsnap mongo verify latest:mongo mongodb://db1,db2/?replicaSet=rs1    does the database have what the snapshot has?`,
		Subcommands: []*cli.Command{a.mongoOplogCommand(), a.mongoVerifyCommand()},
	}
}

func (a *app) mongoOplogCommand() *cli.Command {
	return &cli.Command{
		Name: "oplog", Usage: "store what happens in a MongoDB between its backups", ArgsUsage: "[URI]",
		Description: `Follows the oplog of a replica set and stores it in slices, so that restore --at brings back the state of any second since
the oldest dump. It survives elections and lost connections, and goes on where the last run ended. Without a URI it takes
the MongoDB of the configuration.`,
		Flags: []cli.Flag{
			spanFlag("every", "store a slice each `LONG` (default: 10min)"),
			sizeFlag("slice-size", "store a slice when it has `SIZE`, which is in memory until then (default: 64MiB)"),
			&cli.BoolFlag{Name: "once", Usage: "store what is new, and end"},
			&cli.StringFlag{Name: "label", Value: mongo.OplogLabel, Usage: "keep the slices under the label `NAME`: one for each replica set"},
			&cli.StringFlag{Name: "read-preference", Usage: "read the member of the replica set that `MODE[:TAG=VALUE,...]` says: primary, secondary, nearest..."},
			&cli.StringFlag{Name: "mongo-member", Usage: "read `HOST[:PORT]`, and no other"},
			&cli.StringFlag{Name: "mongo-password-file", Usage: "take the password of the MongoDB's user from `FILE`"},
			&cli.StringFlag{Name: "host", Usage: "say that the slices were stored by `NAME` (default: this machine's name)"},
		},
		Action: a.action(a.mongoOplog),
	}
}

type spanDoc struct {
	From mongoTime `json:"from"`
	To   mongoTime `json:"to"`
}

func spanDocs(list []snapshot.MongoSpan) []spanDoc {
	out := make([]spanDoc, 0, len(list))
	for _, s := range list {
		out = append(out, spanDoc{mongoTime{utc(s.From.Time()), s.From.I}, mongoTime{utc(s.To.Time()), s.To.I}})
	}
	return out
}

type followDoc struct {
	Snapshot string           `json:"snapshot,omitempty"`
	Instance string           `json:"instance"`
	Label    string           `json:"label"`
	Slices   int64            `json:"slices"`
	Dropped  int64            `json:"dropped"`
	Entries  int64            `json:"entries"`
	Bytes    int64            `json:"bytes"`
	Uploaded int64            `json:"uploaded"`
	Spans    []spanDoc        `json:"spans"`
	Gaps     []spanDoc        `json:"gaps"`
	Seconds  float64          `json:"seconds"`
	Requests map[string]int64 `json:"requests"`
}

// mongoAddress returns the address that is given, or that of the configuration's only MongoDB.
func (a *app) mongoAddress(command string, given []string) (string, error) {
	found := given
	if len(found) == 0 {
		sources, err := a.configuredSources(nil)
		if err != nil {
			return "", err
		}
		for _, s := range sources {
			if s.Kind == snapshot.SourceMongo && !strings.HasPrefix(s.Address, "mongodump:") {
				found = append(found, s.Address)
			}
		}
	}
	switch {
	case len(found) == 0:
		return "", usagef(command+" mongodb://HOST/?replicaSet=NAME", "no MongoDB is named, and the configuration has none")
	case len(found) > 1:
		return "", usagef(command+" URI", "the configuration has %d MongoDBs, and none was chosen", len(found))
	case !strings.HasPrefix(found[0], "mongodb://") && !strings.HasPrefix(found[0], "mongodb+srv://"):
		return "", usagef(command+" mongodb://HOST/?replicaSet=NAME", "%s is no address of a MongoDB", shown(snapshot.RedactURI(found[0])))
	}
	return found[0], nil
}

func (a *app) mongoOplog(c *cli.Context) error {
	source, err := mongoOptions(c)
	if err != nil {
		return err
	}
	o := mongo.FollowOptions{Password: source.Password, ReadPreference: source.ReadPreference, Member: source.Member,
		Instance: a.g.own, Label: c.String("label"), Once: c.Bool("once"), Program: "wtsnap " + programVersion(), Monitor: &monitor{a: a}}
	args, err := a.arguments(0, 1, "")
	if err != nil {
		return err
	}
	if o.Address, err = a.mongoAddress("wtsnap mongo oplog", args); err != nil {
		return err
	}
	if err := a.g.needInstance("mongo oplog"); err != nil {
		return err
	}
	if span, ok := get[snapshot.Span](c, "every"); ok {
		o.Every = span.Duration()
	}
	o.Slice, _ = get[int64](c, "slice-size")
	if err := snapshot.CheckSources([]snapshot.SourceSpec{{Label: o.Label, Path: o.Label}}); err != nil {
		return usagef("", "--label: %v", err)
	}
	if o.Host = c.String("host"); o.Host == "" {
		o.Host, _ = os.Hostname() // for people only
	}
	r, err := a.openRepo()
	if err != nil {
		return err
	}
	stored := int64(0)
	o.OnSlice = func(rep *mongo.FollowReport) {
		if !o.Once && a.g.verbose {
			a.say(fmt.Sprintf("%s: %s, up to %s", o.Label, plural(rep.Entries-stored, "entry", "entries"), when(lastOf(rep.Spans))))
		}
		stored = rep.Entries
	}
	if !o.Once && !a.g.quiet {
		every := snapshot.Span{Time: cmp.Or(o.Every, mongo.DefaultEvery)}
		a.say(fmt.Sprintf("following the oplog of %s until stopped: a slice is stored every %s (-v shows each)", snapshot.RedactURI(o.Address), every))
	}
	start := time.Now()
	rep, err := mongo.Follow(a.ctx, r, o)
	if rep != nil {
		doc := followDoc{Instance: o.Instance, Label: o.Label, Slices: rep.Slices, Dropped: rep.Dropped, Entries: rep.Entries, Bytes: rep.Bytes,
			Uploaded: rep.Uploaded, Spans: spanDocs(rep.Spans), Gaps: spanDocs(rep.Gaps), Seconds: time.Since(start).Seconds(), Requests: a.requests()}
		if rep.Snapshot != nil {
			doc.Snapshot = rep.Snapshot.Ref.ID.String()
		}
		a.done(doc, func(w io.Writer) {
			if err == nil {
				printFollow(w, rep)
			}
		})
	}
	switch {
	case err != nil:
		return fmt.Errorf("following the oplog of %s: %w", snapshot.RedactURI(o.Address), err)
	case len(rep.Gaps) > 0:
		var gaps []string
		for _, g := range rep.Gaps {
			gaps = append(gaps, when(g.From.Time())+" to "+when(g.To.Time()))
		}
		return &statusError{exitPartial, "following the oplog: the server had dropped entries before they were stored: it has a gap from " + strings.Join(gaps, " and from "),
			"make a dump now: wtsnap backup mongo=URI; run this more often, or give the server a larger oplog", nil}
	}
	return context.Cause(withoutInterruption(a.ctx))
}

// withoutInterruption is a context that has ended only if that was not what the user asked for: to stop a capture is the
// way to end it.
func withoutInterruption(ctx context.Context) context.Context {
	if context.Cause(ctx) == errInterrupted {
		return context.WithoutCancel(ctx)
	}
	return ctx
}

func lastOf(spans []snapshot.MongoSpan) time.Time {
	if len(spans) == 0 {
		return time.Time{}
	}
	return spans[len(spans)-1].To.Time()
}

func printFollow(w io.Writer, rep *mongo.FollowReport) {
	if rep.Slices == 0 {
		fmt.Fprintln(w, "nothing new in the oplog")
	} else {
		fmt.Fprintf(w, "stored %s of the oplog: %s, %s, %s uploaded\n", plural(rep.Slices, "slice", "slices"), plural(rep.Entries, "entry", "entries"),
			size(rep.Bytes), size(rep.Uploaded))
	}
	if rep.Dropped > 0 {
		fmt.Fprintf(w, "dropped %s that no dump needs any more\n", plural(rep.Dropped, "slice", "slices"))
	}
	for _, s := range rep.Spans {
		fmt.Fprintf(w, "  without a gap from %s to %s\n", when(s.From.Time()), when(s.To.Time()))
	}
}

// oplogRemark says which times can be restored of what a snapshot captured, where it is a capture; snaps are all snapshots.
func oplogRemark(s *snapshot.Snapshot, snaps []*snapshot.Snapshot) string {
	if !s.HoldsOplog() {
		return ""
	}
	var can, cannot []string
	for _, src := range s.Sources {
		spans, waiting := src.Mongo.Recoverable(ofInstance(snaps, s.Instance))
		for _, span := range spans {
			can = append(can, when(span.From.Time())+" to "+when(span.To.Time()))
		}
		for _, span := range waiting {
			cannot = append(cannot, when(span.From.Time())+" to "+when(span.To.Time()))
		}
	}
	var out []string
	if len(can) > 0 {
		out = append(out, "every second from "+strings.Join(can, " and from "))
	}
	if len(cannot) > 0 {
		out = append(out, "without a dump to begin with: "+strings.Join(cannot, " and "))
	}
	return strings.Join(out, "; ")
}

// ofInstance returns the snapshots of an instance.
func ofInstance(snaps []*snapshot.Snapshot, instance string) []*snapshot.Snapshot {
	return slices.DeleteFunc(slices.Clone(snaps), func(s *snapshot.Snapshot) bool { return s.Instance != instance })
}

// addRecoverable adds to the sources of a capture which times can be restored.
func addRecoverable(docs []sourceDoc, s *snapshot.Snapshot, snaps []*snapshot.Snapshot) []sourceDoc {
	for i, src := range s.Sources {
		if s.HoldsOplog() && docs[i].Mongo != nil {
			spans, _ := src.Mongo.Recoverable(ofInstance(snaps, s.Instance))
			list := spanDocs(spans)
			docs[i].Mongo.Recoverable = &list
		}
	}
	return docs
}
