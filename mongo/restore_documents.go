package mongo

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
)

const (
	insertBytes     = 3 << 20
	insertDocuments = 20_000   // a server takes 100,000
	lookupBatch     = 1_000    // documents that are looked up at once
	serverDocument  = 16 << 20 // bytes of a document that a server takes
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

// idKey makes _ids that a server takes for equal equal: those of numbers of different types.
func idKey(doc bson.Raw) string {
	v, err := doc.LookupErr("_id")
	if err != nil {
		return ""
	}
	switch v.Type {
	case bson.TypeInt32, bson.TypeInt64, bson.TypeDouble:
		f, ok := v.DoubleOK()
		if !ok {
			n, _ := v.AsInt64OK()
			return "n" + strconv.FormatInt(n, 10)
		}
		if f == math.Trunc(f) && math.Abs(f) < 1<<63 {
			return "n" + strconv.FormatInt(int64(f), 10)
		}
	}
	return string(byte(v.Type)) + string(v.Value)
}

// idText shows a document's _id to people.
func idText(doc bson.Raw) string {
	v, err := doc.LookupErr("_id")
	if err != nil {
		return "without an _id"
	}
	return shortText(v)
}

func shortText(v bson.RawValue) string {
	text := v.String()
	if len(text) > 100 {
		text = text[:100] + "..."
	}
	return text
}

// asStored returns a document as a server stores it: with _id in front. The document itself is returned where it is so
// already.
func asStored(doc bson.Raw) bson.Raw {
	first, err := doc.IndexErr(0)
	if err != nil || first.Key() == "_id" {
		return doc
	}
	id, err := doc.LookupErr("_id")
	if err != nil {
		return doc
	}
	list, err := doc.Elements()
	if err != nil {
		return doc
	}
	out := append(make(bson.Raw, 0, len(doc)), doc[:4]...)
	out = append(append(out, byte(id.Type)), "_id\x00"...)
	out = append(out, id.Value...)
	moved := false
	for _, e := range list {
		if e.Key() == "_id" && !moved {
			moved = true
			continue
		}
		out = append(out, e...)
	}
	return append(out, 0)
}

func sameDocument(stored, doc bson.Raw) bool {
	return string(stored) == string(doc) || string(stored) == string(asStored(doc))
}

// hasZeroTimestamp reports whether a server would fill in a field at the top.
func hasZeroTimestamp(doc bson.Raw) bool {
	list, _ := doc.Elements()
	for _, e := range list {
		v := e.Value()
		if v.Type == bson.TypeTimestamp && e.Key() != "_id" && binary.LittleEndian.Uint64(v.Value) == 0 {
			return true
		}
	}
	return false
}

func hasDollar(doc bson.Raw) bool {
	list, _ := doc.Elements()
	for _, e := range list {
		if strings.HasPrefix(e.Key(), "$") {
			return true
		}
	}
	return false
}

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
