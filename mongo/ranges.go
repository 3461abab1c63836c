package mongo

import (
	"context"
	"slices"

	"go.mongodb.org/mongo-driver/v2/bson"
	driver "go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"golang.org/x/sync/errgroup"

	"github.com/whole-tale/wtsnap/snapshot"
)

const (
	rangeBytes   = 8 << 20 // of documents, about, that one reader of a large collection takes at a time
	rangeReaders = 4       // of a large collection
)

// byID are the options that read a collection in the order of _id. The sort is what makes a sharded cluster keep it.
func byID(batch int) *options.FindOptionsBuilder {
	opts := options.Find().SetHint(bson.D{{Key: "_id", Value: 1}}).SetSort(bson.D{{Key: "_id", Value: 1}})
	if batch > 0 {
		opts.SetBatchSize(int32(batch))
	}
	return opts
}

// inOrder reports whether a collection is read in the order of _id: where that is asked for, and its natural order is not
// the same or all that it has.
func (d *dump) inOrder(c *collection) bool {
	return d.o.Order == snapshot.MongoByID && !c.isCapped() && !c.meta.IsTimeseries()
}

// An idRange is a part of a collection between two values of _id, which a reader fills while others are put into the
// snapshot.
type idRange struct {
	min, max bson.Raw // {_id: value}; nil = from the beginning, to the end
	blocks   chan rangeResult
}

type rangeResult struct {
	blocks [][]byte
	err    error
	counter
}

// readRanges reads a large collection by several cursors at a time, each a range of _id, and puts the ranges into the
// queue in their order: what comes out is what one cursor would have given.
//
// The bounds are bounds of the index, which compare values of all types, as conditions of a query would not. Every
// document that is there from the beginning to the end is in exactly one range, whatever is written meanwhile.
//
// Memory: rangeReaders+2 ranges, and a batch of the driver's for each reader.
func (d *dump) readRanges(ctx context.Context, q *queue, c *collection, name string, at bson.Timestamp, n *counter) error {
	step := max(firstBatch, rangeBytes/max(1, c.bytes/c.count))
	g, gctx := errgroup.WithContext(ctx)
	tasks := make(chan *idRange)
	ordered := make(chan *idRange, rangeReaders)
	g.Go(func() error {
		defer close(tasks)
		defer close(ordered)
		return d.cutRanges(gctx, c, name, at, step, func(r *idRange) error {
			select {
			case ordered <- r:
			case <-gctx.Done():
				return context.Cause(gctx)
			}
			select {
			case tasks <- r:
				return nil
			case <-gctx.Done():
				return context.Cause(gctx)
			}
		})
	})
	for range rangeReaders {
		g.Go(func() error {
			return d.withSession(gctx, at, func(ctx context.Context) error {
				for r := range tasks {
					result := d.readRange(ctx, c, name, r, step)
					r.blocks <- result // never waits: it has room for one
					if result.err != nil {
						return result.err
					}
				}
				return nil
			})
		})
	}
	g.Go(func() error {
		for r := range ordered {
			var result rangeResult
			select {
			case result = <-r.blocks:
			case <-gctx.Done():
				return context.Cause(gctx)
			}
			if result.err != nil {
				return result.err
			}
			n.documents += result.documents
			n.bytes += result.bytes
			n.show()
			for _, block := range result.blocks {
				if err := q.put(gctx, block); err != nil {
					return err
				}
			}
		}
		return nil
	})
	return g.Wait()
}

// cutRanges walks along the index of _id in steps of so many keys, which costs a fraction of reading the documents.
func (d *dump) cutRanges(ctx context.Context, c *collection, name string, at bson.Timestamp, step int64, yield func(*idRange) error) error {
	return d.withSession(ctx, at, func(ctx context.Context) error {
		var from bson.Raw
		for {
			opts := byID(0).SetSkip(step).SetLimit(1).SetProjection(bson.D{{Key: "_id", Value: 1}})
			if from != nil {
				opts.SetMin(from)
			}
			cursor, err := d.s.find(ctx, c.db, name, opts)
			if err != nil {
				return err
			}
			var to bson.Raw
			if cursor.Next(ctx) {
				to = slices.Clone(cursor.Current)
			}
			err = cursor.Err()
			closeCursor(ctx, cursor)
			if err != nil {
				return err
			}
			if err := yield(&idRange{min: from, max: to, blocks: make(chan rangeResult, 1)}); err != nil || to == nil {
				return err
			}
			from = to
		}
	})
}

// readRange reads the documents of a range.
func (d *dump) readRange(ctx context.Context, c *collection, name string, r *idRange, step int64) (result rangeResult) {
	opts := byID(int(step) + 1)
	if r.min != nil {
		opts.SetMin(r.min)
	}
	if r.max != nil {
		opts.SetMax(r.max)
	}
	cursor, err := d.s.find(ctx, c.db, name, opts)
	if err != nil {
		return rangeResult{err: err}
	}
	defer closeCursor(ctx, cursor)
	result.err = d.gather(ctx, cursor, &result.counter, func(block []byte) error {
		result.blocks = append(result.blocks, block)
		return nil
	})
	return result
}

// withSession calls f with a session of its own, at a cluster time or not, if the server knows sessions.
func (d *dump) withSession(ctx context.Context, at bson.Timestamp, f func(ctx context.Context) error) error {
	if !d.s.Sessions {
		return f(ctx)
	}
	sess, err := d.session(!at.IsZero(), at)
	if err != nil {
		return err
	}
	defer d.endSession(ctx, sess)
	return f(driver.NewSessionContext(ctx, sess))
}
