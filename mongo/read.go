package mongo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	driver "go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"go.mongodb.org/mongo-driver/v2/x/mongo/driver/xoptions"

	"github.com/whole-tale/wtsnap/snapshot"
)

// batchBytes is how much a cursor is asked for at a time. The server's own limit is 16 MiB, and each cursor has a batch in
// memory.
const batchBytes = 4 << 20

// firstBatch is how many documents come at least: the protocol's default.
const firstBatch = 101

// A counter counts the documents of one stream.
type counter struct {
	progress         *snapshot.Progress
	documents, bytes int64
	shown            int64 // documents that the progress has
}

// show hands the count to the progress.
func (n *counter) show() {
	n.progress.Documents.Add(n.documents - n.shown)
	n.shown = n.documents
}

// forget takes the count out of the progress.
func (n *counter) forget() { n.progress.Documents.Add(-n.shown) }

// stream adds a file to the snapshot that produce puts into a queue. served is what ended produce; err is an error of the
// snapshot, which ends the run.
func (d *dump) stream(ctx context.Context, path string, produce func(context.Context, *queue) error) (served, err error) {
	q := newQueue(d.spool)
	pctx, stop := context.WithCancel(ctx)
	defer stop()
	done := make(chan error, 1)
	go func() {
		err := produce(pctx, q)
		if err == nil {
			q.finish(io.EOF)
		} else {
			q.finish(err)
		}
		done <- err
	}()
	err = d.sink.AddUndated(ctx, path, q)
	q.close()
	stop()
	if served = <-done; served != nil && !errors.Is(served, errQueueClosed) {
		return served, nil // which err is, too
	}
	return nil, err
}

// read reads the documents of a collection, at a cluster time or, where that is zero, as they come.
func (d *dump) read(ctx context.Context, q *queue, c *collection, name string, raw bool, at bson.Timestamp, n *counter) error {
	if d.inOrder(c) && c.count > 0 && c.bytes >= d.o.rangesFrom() {
		return d.readRanges(ctx, q, c, name, at, n)
	}
	return d.withSession(ctx, at, func(ctx context.Context) error {
		batch := 0
		if c.count > 0 {
			batch = int(max(firstBatch, batchBytes/max(1, c.bytes/c.count)))
		}
		opts := findOptions(batch, raw)
		if d.inOrder(c) {
			opts = byID(batch)
		}
		cursor, err := d.s.find(ctx, c.db, name, opts.SetNoCursorTimeout(true))
		if hasCode(err, codeAtlas, codeNotImplemented) { // some services do not let a cursor live as long as it is needed
			cursor, err = d.s.find(ctx, c.db, name, opts.SetNoCursorTimeout(false))
		}
		if err != nil {
			return err
		}
		defer closeCursor(ctx, cursor)
		return d.gather(ctx, cursor, n, func(block []byte) error {
			n.show()
			return q.put(ctx, block)
		})
	})
}

// gather reads a cursor to its end, and hands on blocks of whole documents.
func (d *dump) gather(ctx context.Context, cursor *driver.Cursor, n *counter, put func(block []byte) error) error {
	block := d.spool.block()
	for cursor.Next(ctx) {
		doc := cursor.Current
		n.documents++
		n.bytes += int64(len(doc))
		if len(block) > 0 && len(block)+len(doc) > blockBytes {
			if err := put(block); err != nil {
				return err
			}
			block = d.spool.block()
		}
		block = append(block, doc...)
	}
	if err := cursor.Err(); err != nil || len(block) == 0 {
		return err
	}
	return put(block)
}

// findOptions are the options that read a collection in natural order. batch 0 = the server's own.
func findOptions(batch int, raw bool) *options.FindOptionsBuilder {
	opts := options.Find().SetHint(bson.D{{Key: "$natural", Value: 1}})
	if batch > 0 {
		opts.SetBatchSize(int32(batch))
	}
	if raw {
		if err := xoptions.SetInternalFindOptions(opts, "rawData", true); err != nil {
			panic("mongo: the driver knows no rawData: " + err.Error()) // of a pinned version
		}
	}
	return opts
}

// find reads a collection, in a snapshot's session at its cluster time.
func (s *Server) find(ctx context.Context, db, name string, opts *options.FindOptionsBuilder) (*driver.Cursor, error) {
	return s.collection(db, name).Find(ctx, bson.D{}, opts)
}

// closeCursor closes a cursor, also where ctx has ended.
func closeCursor(ctx context.Context, c *driver.Cursor) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	_ = c.Close(ctx) // the server closes it some day
}

// session starts a session that is kept alive: of a snapshot, or to hold a cursor.
func (d *dump) session(isSnapshot bool, at bson.Timestamp) (*driver.Session, error) {
	o := options.Session().SetCausalConsistency(false)
	if isSnapshot {
		o = options.Session().SetSnapshot(true)
		if !at.IsZero() {
			o.SetSnapshotTime(at)
		}
	}
	sess, err := d.s.Client.StartSession(o)
	if err != nil {
		return nil, fmt.Errorf("starting a session: %w", err)
	}
	d.mu.Lock()
	d.sessions[sess] = true
	d.mu.Unlock()
	return sess, nil
}

func (d *dump) endSession(ctx context.Context, sess *driver.Session) {
	d.mu.Lock()
	delete(d.sessions, sess)
	d.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	sess.EndSession(ctx)
}

// keepAlive keeps the sessions alive, and with them their cursors, however long the repository takes. Servers forget a
// session after 30 minutes without a word.
func (d *dump) keepAlive(ctx context.Context) {
	t := time.NewTicker(keepAliveEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			d.refresh(ctx)
		}
	}
}

// refresh says once that the sessions are in use. Errors do not matter: a cursor that is lost says so itself.
func (d *dump) refresh(ctx context.Context) {
	var ids bson.A
	d.mu.Lock()
	for sess := range d.sessions {
		ids = append(ids, sess.ID())
	}
	d.mu.Unlock()
	if len(ids) > 0 {
		_ = d.s.run(ctx, "admin", bson.D{{Key: "refreshSessions", Value: ids}}).Err()
	}
}

// isPassing reports whether an error may be gone when the same is asked again: of a connection, of an election, of a
// cursor that the server gave up.
func isPassing(err error) bool {
	return driver.IsNetworkError(err) || driver.IsTimeout(err) || hasCode(err, codeCursorNotFound, codeQueryPlanKilled, codeInterruptedRepl,
		codeNotPrimary, codeNotPrimaryNoSecondary, codeInterruptedShutdown, codeShutdown, codeCappedPositionLost)
}

// isAnswer reports whether an error is what a server says, and not that none could be asked.
func isAnswer(err error) bool {
	var answer driver.ServerError
	return errors.As(err, &answer)
}
