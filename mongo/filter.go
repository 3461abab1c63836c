package mongo

import (
	"context"
	"fmt"
	"io"
	"iter"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/whole-tale/wtsnap/mongo/layout"
	"github.com/whole-tale/wtsnap/mongo/query"
	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/snapshot"
)

// Filtered is an Opener of dumps that have only the documents that a query means, and of everything else what these need:
// their collections, with options and indexes, also of those of which no document is left. Views, users and roles are left
// out. Where the dump has an oplog it is folded into the documents first, so that they are those of one moment; nil stands
// for OpenDump.
func Filtered(open Opener, q *query.Query, memory int64) Opener {
	return func(ctx context.Context, r *repo.Repository, s *snapshot.Snapshot, path string) (*Dump, error) {
		from, err := open.orOpenDump()(ctx, r, s, path)
		if err != nil {
			return nil, err
		}
		if path == "" {
			path = from.Root
		}
		feeds, err := from.feeds(ctx, path, memory)
		if err != nil {
			return nil, err
		}
		d := *from
		d.Folded, d.Filter, d.collections, d.oplog = true, q.Raw().String(), nil, nil
		for _, f := range feeds {
			if f.Special() || f.Type == layout.TypeView {
				continue
			}
			c := f.Collection
			c.data = nil
			if c.dataPath == "" {
				c.dataPath = joinPath(d.Root, layout.DataPath(c.DB, c.DataName))
			}
			if c.Metadata.JSON == nil && c.Metadata.Indexes != nil { // the oplog made it
				if c.Metadata.JSON, err = layout.MarshalMetadata(&c.Metadata); err != nil {
					return nil, fmt.Errorf("%s: %w", c.Namespace(), err)
				}
			}
			c.folded = func(ctx context.Context) iter.Seq2[bson.Raw, error] {
				return matching(f.documents(ctx), q, f.Namespace())
			}
			d.collections = append(d.collections, c)
		}
		if len(d.collections) == 0 {
			return nil, &NoDumpError{Path: path, Hint: "a filter chooses documents, and there are none"}
		}
		return &d, nil
	}
}

// matching are the documents of a collection that a query means.
func matching(docs iter.Seq2[bson.Raw, error], q *query.Query, ns string) iter.Seq2[bson.Raw, error] {
	return func(yield func(bson.Raw, error) bool) {
		for doc, err := range docs {
			ok := true
			if err == nil {
				if ok, err = q.Match(doc); err != nil {
					err = fmt.Errorf("%s: %w", ns, err)
				}
			}
			if (ok || err != nil) && !yield(doc, err) || err != nil {
				return
			}
		}
	}
}

// count reads the documents of a collection, and counts them.
func (d *Dump) count(ctx context.Context, c *Collection) (n int64, err error) {
	docs := d.Documents(ctx, c)
	defer docs.Close()
	for {
		if _, err := docs.Next(); err == io.EOF {
			return n, ctx.Err()
		} else if err != nil {
			return n, err
		}
		n++
	}
}
