package mongo

import (
	"context"
	"fmt"
	"iter"
	"math"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/whole-tale/wtsnap/mongo/layout"
	"github.com/whole-tale/wtsnap/mongo/oplog"
	"github.com/whole-tale/wtsnap/snapshot"
)

// A Log is an oplog that goes on after a dump, for a moment later than the dump's end.
type Log = oplog.Log

// ownLog is the log that a dump has in oplog.bson.
type ownLog struct{ d *Dump }

// Entries implements oplog.Log.
func (l ownLog) Entries(ctx context.Context, _ bson.Timestamp) iter.Seq2[bson.Raw, error] {
	return eachDocument(l.d.Oplog(ctx))
}

// A feed is a collection as it is to be restored: with the oplog of the dump in it.
type feed struct {
	Collection
	documents func(ctx context.Context) iter.Seq2[bson.Raw, error]
}

// plainFeed is a collection as it is in the dump.
func (d *Dump) plainFeed(c *Collection) feed {
	return feed{*c, func(ctx context.Context) iter.Seq2[bson.Raw, error] { return eachDocument(d.Documents(ctx, c)) }}
}

// windowOf is the window of time that a dump's documents are of. Of a folder that was saved as files it is not known, and
// is all of time.
func windowOf(info *snapshot.MongoInfo) (start, end bson.Timestamp) {
	if info == nil || info.End.IsZero() {
		return bson.Timestamp{}, bson.Timestamp{T: math.MaxUint32, I: math.MaxUint32}
	}
	return bson.Timestamp{T: info.Start.T, I: info.Start.I}, bson.Timestamp{T: info.End.T, I: info.End.I}
}

// feeds returns the collections of the dump as they are restored. Where the dump has an oplog.bson, its entries are
// folded into the documents: only then do they belong to one moment.
func (rs *restore) feeds(ctx context.Context) ([]feed, error) {
	if rs.chosen != nil {
		return rs.chosen, nil
	}
	return rs.d.feeds(ctx, rs.o.Path, rs.o.Memory)
}

// feeds returns the collections of a dump, which was opened at a path, at its end.
func (d *Dump) feeds(ctx context.Context, path string, memory int64) ([]feed, error) {
	whole := d
	if !d.Folded && d.Source != nil && d.Root == d.Source.Label && path != d.Root {
		// A part of it needs the oplog of the whole.
		var err error
		if whole, err = OpenDump(ctx, d.r, d.Snapshot, d.Root); err != nil {
			return nil, err
		}
	}
	if whole.oplog == nil {
		return d.plainFeeds(), nil
	}
	return whole.ownFeeds(ctx, within(d.Root, path), memory)
}

func (d *Dump) plainFeeds() (out []feed) {
	for i := range d.collections {
		out = append(out, d.plainFeed(&d.collections[i]))
	}
	return out
}

// ownFeeds folds oplog.bson into the collections of a dump.
func (d *Dump) ownFeeds(ctx context.Context, wants func(db, name string) bool, memory int64) ([]feed, error) {
	start, end := windowOf(d.Info)
	return d.foldedFeeds(ctx, ownLog{d}, oplog.Options{Start: start, End: end, At: end, Wants: wants, Memory: memory})
}

// within chooses the collections that lie in a path of a snapshot, below a dump's root; one may have been created after
// the collections of the dump were listed.
func within(root, path string) func(db, name string) bool {
	rest := strings.Trim(strings.TrimPrefix(path, root), "/")
	in, file, one := strings.Cut(rest, "/")
	f := layout.Parse(in + "/" + file)
	return func(db, name string) bool {
		switch {
		case path == "" || rest == "":
			return true
		case in != db || !one:
			return in == db
		}
		return strings.TrimPrefix(layout.CollectionName(f.Name), layout.BucketsPrefix) == name || f.Name == layout.FileName(name)
	}
}

// foldedFeeds folds a log into a dump. o's Collections and Covers are filled in.
func (d *Dump) foldedFeeds(ctx context.Context, log Log, o oplog.Options) ([]feed, error) {
	list := d.Collections()
	for i := range list {
		o.Collections = append(o.Collections, oplog.Collection{DB: list[i].DB, Name: list[i].Name, Metadata: list[i].Metadata})
	}
	if d.Info != nil {
		var err error
		if o.Covers, err = covers(d.Info); err != nil {
			return nil, err
		}
	}
	fold, err := oplog.New(ctx, log, o)
	if err != nil {
		return nil, fmt.Errorf("bringing the dump to one moment: %w", err)
	}
	var out []feed
	for _, r := range fold.Collections() {
		f := feed{Collection: Collection{DB: r.DB, Name: r.Name, Type: layout.TypeCollection, DataName: r.Name}}
		var base func() iter.Seq2[bson.Raw, error]
		if r.Base >= 0 {
			c := &list[r.Base]
			f.Bytes, f.DataName = c.Bytes, c.DataName
			base = func() iter.Seq2[bson.Raw, error] { return eachDocument(d.Documents(ctx, c)) }
			if r.Unchanged() {
				f.documents = d.plainFeed(c).documents
			}
		}
		if f.documents == nil {
			f.documents = func(ctx context.Context) iter.Seq2[bson.Raw, error] { return fold.Documents(ctx, r, base) }
		}
		f.Metadata = r.Metadata
		switch {
		case r.View || f.Metadata.IsView():
			f.Type = layout.TypeView
		case f.Metadata.IsTimeseries():
			f.Type = layout.TypeTimeseries
		}
		out = append(out, f)
	}
	return out, nil
}
