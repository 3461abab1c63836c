package mongo

import (
	"context"
	"fmt"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
)

const (
	insertBytes     = 2 << 20
	insertDocuments = 20_000   // a server takes 100,000
	lookupBatch     = 1_000    // documents that are looked up at once
	serverDocument  = 16 << 20 // bytes of a document that a server takes
)

// batches reads a collection's documents, one batch ahead. The channel is closed after the last. What comes back through
// used is used again.
func (rs *restore) batches(ctx context.Context, j *job, most int, used <-chan *batch) <-chan *batch {
	out := make(chan *batch)
	fresh := func(first int) *batch {
		size := max(int(min(j.Bytes, insertBytes)), first)
		select {
		case b := <-used:
			return newBatch(j.head, b, size)
		default:
			return newBatch(j.head, nil, size)
		}
	}
	go func() {
		defer close(out)
		send := func(b *batch) bool {
			if len(b.docs) == 0 && b.err == nil {
				return true
			}
			select {
			case out <- b:
				return true
			case <-ctx.Done():
				return false
			}
		}
		b := &batch{}
		for doc, err := range j.documents(ctx) {
			if err != nil {
				b.err = err
				send(b)
				return
			}
			if len(b.docs) > 0 && b.bytes+len(doc) > insertBytes || b.full(most) {
				if !send(b) {
					return
				}
				b = &batch{}
			}
			if b.command == nil {
				b = fresh(len(doc))
			}
			b.add(doc)
		}
		send(b)
	}()
	return out
}

// documents brings the documents of a collection back, in their order.
func (rs *restore) documents(ctx context.Context, j *job) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	most := insertDocuments
	if j.merges() {
		most = lookupBatch
	}
	var err error
	if j.head, err = rs.insertHead(rs.data(j)); err != nil {
		return err
	}
	used := make(chan *batch, 2)
	ch := rs.batches(ctx, j, most, used)
	defer func() { // its goroutine ends before this does
		cancel()
		for range ch {
		}
	}()
	for b := range ch {
		for _, doc := range b.docs {
			j.total++
			j.bytes += int64(len(doc))
			if rs.o.Verify {
				add(&j.sum, asStored(doc))
			}
		}
		if len(b.docs) > 0 {
			if err := rs.restoreBatch(ctx, j, b); err != nil {
				return err
			}
			rs.o.Progress.Bytes.Add(int64(b.bytes))
			select {
			case used <- b:
			default:
			}
		}
		if b.err != nil {
			if err := ctx.Err(); err != nil {
				return err
			}
			return &abandonedError{b.err}
		}
	}
	return ctx.Err()
}

// restoreBatch brings some documents back. Nothing refers to them when it returns.
func (rs *restore) restoreBatch(ctx context.Context, j *job, b *batch) error {
	docs, missing := b.docs, b.docs
	if j.merges() {
		stored, err := rs.stored(ctx, j, docs)
		if err != nil {
			return abandon(fmt.Errorf("looking up documents: %w", err))
		}
		missing = missing[:0:0]
		var differing []bson.Raw
		for _, doc := range docs {
			there, ok := stored[idKey(doc)]
			switch {
			case !ok:
				missing = append(missing, doc)
			case sameDocument(there, doc):
				j.equal++
				j.skipped += int64(len(doc))
			default:
				differing = append(differing, doc)
				if rs.Mode == Overwrite || j.resumed {
					rs.foresee(j, there, doc)
				}
			}
		}
		if err := rs.differing(ctx, j, differing); err != nil {
			return err
		}
	}
	if rs.o.DryRun {
		j.inserted += int64(len(missing))
		for _, doc := range missing {
			rs.foresee(j, nil, doc)
		}
		return nil
	}
	if len(missing) == 0 {
		return nil
	}
	if len(missing) < len(docs) {
		b = newBatch(j.head, nil, b.bytes)
		for _, doc := range missing {
			b.add(doc)
		}
	}
	return rs.insert(ctx, j, b)
}

// differing deals with documents of which others with the same _id are there.
func (rs *restore) differing(ctx context.Context, j *job, docs []bson.Raw) error {
	if rs.Mode != Overwrite && !j.resumed {
		j.differ += int64(len(docs))
		if rs.Mode != InsertMissing {
			for _, doc := range docs {
				j.failed++
				rs.problem(j, fmt.Errorf("the document %s: another one with this _id is there", idText(doc)))
			}
			j.differ -= int64(len(docs))
		}
		return nil
	}
	for _, doc := range docs {
		if !rs.o.DryRun {
			if err := rs.overwrite(ctx, j, doc); err != nil {
				return err
			}
			continue
		}
		j.overwritten++
	}
	return nil
}

// overwrite makes a document of the target what it is in the dump.
func (rs *restore) overwrite(ctx context.Context, j *job, doc bson.Raw) error {
	before := j.failed
	if err := rs.replace(ctx, j, doc); err != nil {
		return err
	}
	if j.failed == before {
		j.overwritten++
		j.written += int64(len(doc))
	}
	return nil
}

// replace replaces a document: with itself as a constant of a pipeline where the server would take it for something
// else, or would change it.
func (rs *restore) replace(ctx context.Context, j *job, doc bson.Raw) error {
	name, raw := rs.data(j)
	var u any = doc
	bypass := rs.keepsZeroTimestamps()
	if hasDollar(doc) || hasZeroTimestamp(doc) && !bypass {
		u = bson.A{bson.D{{Key: "$replaceWith", Value: bson.D{{Key: "$literal", Value: doc}}}}}
	}
	command := bson.D{{Key: "update", Value: name},
		{Key: "updates", Value: bson.A{bson.D{{Key: "q", Value: bson.D{{Key: "_id", Value: doc.Lookup("_id")}}}, {Key: "u", Value: u}}}},
		{Key: "bypassDocumentValidation", Value: true}, {Key: "writeConcern", Value: rs.writeConcern()}}
	if bypass {
		command = append(command, bson.E{Key: "bypassEmptyTsReplacement", Value: true})
	}
	if raw {
		command = append(command, bson.E{Key: "rawData", Value: true})
	}
	reply, err := rs.command(ctx, j.db, command)
	if err != nil {
		if !abandonable(err) {
			return fmt.Errorf("overwriting a document: %w", err)
		}
		j.failed++
		rs.problem(j, fmt.Errorf("the document %s: %w", idText(doc), err))
		return nil
	}
	problem := ""
	if text, ok := reply.Lookup("writeErrors", "0", "errmsg").StringValueOK(); ok {
		problem = text
	} else if n, _ := reply.Lookup("n").AsInt64OK(); n == 0 {
		problem = "it vanished before it could be overwritten"
	}
	if problem != "" {
		j.failed++
		rs.problem(j, fmt.Errorf("the document %s: %s", idText(doc), problem))
	}
	return nil
}

// stored reads the documents of the target that have the _ids of some of the dump's.
func (rs *restore) stored(ctx context.Context, j *job, docs []bson.Raw) (map[string]bson.Raw, error) {
	name, raw := rs.data(j)
	ids := bson.A{}
	for _, doc := range docs {
		if id, err := doc.LookupErr("_id"); err == nil {
			ids = append(ids, id)
		}
	}
	command := bson.D{{Key: "find", Value: name}, {Key: "filter", Value: bson.D{{Key: "_id", Value: bson.D{{Key: "$in", Value: ids}}}}},
		{Key: "batchSize", Value: int32(len(docs) + 1)}}
	if raw {
		command = append(command, bson.E{Key: "rawData", Value: true})
	}
	for attempt := 0; ; attempt++ {
		out, err := rs.fetch(ctx, j.db, command)
		if err == nil || !rs.again(ctx, err, attempt) {
			return out, err
		}
	}
}

func (rs *restore) fetch(ctx context.Context, db string, command bson.D) (map[string]bson.Raw, error) {
	cur, err := rs.s.Client.Database(db).RunCommandCursor(ctx, command, options.RunCmd())
	if err != nil {
		return nil, err
	}
	defer cur.Close(ctx)
	out := map[string]bson.Raw{}
	for cur.Next(ctx) {
		out[idKey(cur.Current)] = append(bson.Raw(nil), cur.Current...)
	}
	return out, cur.Err()
}
