package mongo

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// A batch is documents in a row, as the array of a command that inserts them.
type batch struct {
	command []byte // its end is missing, and its lengths
	array   int    // where in it the array begins
	docs    []bson.Raw
	bytes   int   // of the documents
	err     error // why there are no more
}

func (b *batch) full(most int) bool { return b.bytes >= insertBytes || len(b.docs) >= most }

// add appends a document.
func (b *batch) add(doc bson.Raw) {
	b.command = append(b.command, byte(bson.TypeEmbeddedDocument))
	b.command = append(strconv.AppendInt(b.command, int64(len(b.docs)), 10), 0)
	at := len(b.command)
	b.command = append(b.command, doc...)
	b.docs = append(b.docs, bson.Raw(b.command[at:len(b.command):len(b.command)]))
	b.bytes += len(doc)
}

// insertion returns the command, which shares the batch's memory. Nothing can be added any more.
func (b *batch) insertion() bson.Raw {
	out := append(b.command, 0)
	binary.LittleEndian.PutUint32(out[b.array:], uint32(len(out)-b.array))
	out = append(out, 0)
	binary.LittleEndian.PutUint32(out, uint32(len(out)))
	b.command = out
	return out
}

// newBatch returns a batch without documents, with the memory of one that is used up, if there is any.
func newBatch(head []byte, used *batch, size int) *batch {
	b := &batch{}
	if used != nil {
		b.command, b.docs = used.command[:0], used.docs[:0]
	} else {
		b.command = make([]byte, 0, len(head)+size+size/8)
	}
	b.command = append(b.command, head...)
	b.array = len(b.command) - 4
	return b
}

// insert inserts documents with one command. It is repeated where the connection is lost; a document that is there
// then already counts as inserted only if it is equal.
func (rs *restore) insert(ctx context.Context, j *job, b *batch) error {
	docs, command := b.docs, b.insertion()
	again := false
	for attempt := 0; ; attempt++ {
		reply, err := rs.s.Client.Database(j.db).RunCommand(ctx, command).Raw()
		if reply != nil && (err == nil || reply.Lookup("writeErrors").Type != 0) && !lostConcern(reply) {
			return rs.settle(ctx, j, docs, reply, again)
		}
		if err == nil {
			err = errors.New("the server cannot say that a majority has what was written")
		} else if !rs.again(ctx, err, attempt) {
			j.failed += int64(len(docs))
			return abandon(fmt.Errorf("inserting documents: %w", err))
		}
		if attempt > maxRetries {
			return err
		}
		again = true
	}
}

// lostConcern reports whether the server wrote, and then stopped being the primary.
func lostConcern(reply bson.Raw) bool {
	code, _ := reply.Lookup("writeConcernError", "code").AsInt64OK()
	for _, c := range retryCodes {
		if int64(c) == code {
			return true
		}
	}
	return false
}

// insertHead builds what a command that inserts documents begins with, up to the length of their array, which is missing
// as the command's is. It is built by hand: through the driver's InsertMany each document would be looked at.
func (rs *restore) insertHead(name string, raw bool) ([]byte, error) {
	head := bson.D{{Key: "insert", Value: name}, {Key: "ordered", Value: false}, {Key: "writeConcern", Value: rs.writeConcern()},
		{Key: "bypassDocumentValidation", Value: true}}
	if rs.keepsZeroTimestamps() {
		head = append(head, bson.E{Key: "bypassEmptyTsReplacement", Value: true})
	}
	if raw {
		head = append(head, bson.E{Key: "rawData", Value: true})
	}
	body, err := bson.Marshal(head)
	if err != nil {
		return nil, err
	}
	out := append(append(body[:len(body)-1], byte(bson.TypeArray)), "documents\x00"...)
	return append(out, 0, 0, 0, 0), nil
}

// keepsZeroTimestamps reports whether the server knows bypassEmptyTsReplacement. Without it, a server puts the time of the
// insertion in place of zero timestamps.
func (rs *restore) keepsZeroTimestamps() bool {
	var major, minor, patch int
	if _, err := fmt.Sscanf(rs.s.Version, "%d.%d.%d", &major, &minor, &patch); err != nil {
		return false
	}
	switch {
	case major >= 8:
		return true
	case minor > 0:
		return false
	case major == 7:
		return patch >= 13
	case major == 6:
		return patch >= 17
	case major == 5:
		return patch >= 29
	}
	return false
}

// settle counts what became of an insertion.
func (rs *restore) settle(ctx context.Context, j *job, docs []bson.Raw, reply bson.Raw, again bool) error {
	bad := map[int]bool{}
	var twice []bson.Raw
	list, _ := reply.Lookup("writeErrors").ArrayOK()
	values, _ := list.Values()
	for _, v := range values {
		e, _ := v.DocumentOK()
		n, ok := e.Lookup("index").AsInt64OK()
		if !ok || n < 0 || n >= int64(len(docs)) || bad[int(n)] {
			return &abandonedError{errors.New("the server's answer to an insertion cannot be understood")}
		}
		i := int(n)
		bad[i] = true
		if code, _ := e.Lookup("code").AsInt64OK(); code == errDuplicateKey {
			twice = append(twice, docs[i])
			continue
		}
		j.failed++
		text, _ := e.Lookup("errmsg").StringValueOK()
		rs.problem(j, fmt.Errorf("the document %s: %s", idText(docs[i]), text))
	}
	fill := !rs.keepsZeroTimestamps()
	for i, doc := range docs {
		if bad[i] {
			continue
		}
		j.inserted++
		j.written += int64(len(doc))
		if fill && hasZeroTimestamp(doc) {
			if err := rs.replace(ctx, j, doc); err != nil {
				return err
			}
		}
	}
	return rs.settleTwice(ctx, j, twice, again)
}

// settleTwice deals with documents that the server refused because of a unique index.
func (rs *restore) settleTwice(ctx context.Context, j *job, docs []bson.Raw, again bool) error {
	fill := !rs.keepsZeroTimestamps()
	for len(docs) > 0 {
		part := docs[:min(len(docs), lookupBatch)]
		docs = docs[len(part):]
		stored, err := rs.stored(ctx, j, part)
		if err != nil {
			return abandon(fmt.Errorf("looking up documents: %w", err))
		}
		for _, doc := range part {
			there, ok := stored[idKey(doc)]
			switch {
			case !ok:
				j.failed++
				rs.problem(j, fmt.Errorf("the document %s: a unique index has its value already", idText(doc)))
			case again && (sameDocument(there, doc) || fill && hasZeroTimestamp(doc)):
				j.inserted++
				j.written += int64(len(doc))
				if !sameDocument(there, doc) {
					if err := rs.replace(ctx, j, doc); err != nil {
						return err
					}
				}
			case sameDocument(there, doc):
				j.equal++
				j.skipped += int64(len(doc))
			default:
				if err := rs.differing(ctx, j, []bson.Raw{doc}); err != nil {
					return err
				}
			}
		}
	}
	return nil
}
