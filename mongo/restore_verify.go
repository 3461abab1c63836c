package mongo

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// add adds a document to a sum that does not depend on the order.
func add(sum *[2]uint64, doc bson.Raw) {
	h := sha256.Sum256(doc)
	sum[0] += binary.LittleEndian.Uint64(h[0:])
	sum[1] += binary.LittleEndian.Uint64(h[8:])
}

// verify compares what is there now with the dump: the number of documents, and with --verify their content.
func (rs *restore) verify(ctx context.Context, j *job) error {
	if j.failed > 0 || j.differ > 0 || j.merges() && !j.resumed {
		return rs.verifyMerged(ctx, j)
	}
	if j.isCapped() {
		return nil // it has let go of what did not fit
	}
	if !rs.o.Verify {
		n, err := rs.count(ctx, j)
		if err != nil {
			return abandon(fmt.Errorf("counting its documents: %w", err))
		}
		if n == j.total {
			return nil
		}
	}
	n, sum, err := rs.sumOfTarget(ctx, j)
	switch {
	case err != nil:
		return abandon(fmt.Errorf("reading its documents again: %w", err))
	case n != j.total:
		rs.problem(j, fmt.Errorf("it has %d documents, and the snapshot %d: somebody writes to it", n, j.total))
	case rs.o.Verify && sum != j.sum:
		rs.problem(j, errors.New("its documents are not those of the snapshot: somebody writes to it, or they were damaged on the way"))
	}
	return nil
}

func (j *job) isCapped() bool {
	capped, _ := j.Metadata.Options.Lookup("capped").BooleanOK()
	return capped
}

func (rs *restore) sumOfTarget(ctx context.Context, j *job) (n int64, sum [2]uint64, err error) {
	name, raw := rs.data(j)
	command := bson.D{{Key: "find", Value: name}}
	if raw {
		command = append(command, bson.E{Key: "rawData", Value: true})
	}
	cur, err := rs.s.Client.Database(j.db).RunCommandCursor(ctx, command)
	if err != nil {
		return 0, sum, err
	}
	defer cur.Close(ctx)
	for cur.Next(ctx) {
		n++
		add(&sum, cur.Current)
	}
	return n, sum, cur.Err()
}

// verifyMerged looks each document up again, where --verify asks for it: the collection may have others besides.
func (rs *restore) verifyMerged(ctx context.Context, j *job) error {
	if !rs.o.Verify {
		return nil
	}
	var missing, differ int64
	for b := range rs.batches(ctx, j, lookupBatch, nil) {
		if b.err != nil {
			return nil // reported before
		}
		stored, err := rs.stored(ctx, j, b.docs)
		if err != nil {
			return abandon(fmt.Errorf("reading its documents again: %w", err))
		}
		for _, doc := range b.docs {
			if there, ok := stored[idKey(doc)]; !ok {
				missing++
			} else if !sameDocument(there, doc) {
				differ++
			}
		}
	}
	if missing+differ > j.failed+j.differ {
		rs.problem(j, fmt.Errorf("of the snapshot's documents %d are missing and %d differ now: somebody writes to it", missing, differ))
	}
	return nil
}
