package mongotest

import (
	"slices"
	"strconv"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// cursor is a query that goes on.
type cursor struct {
	id        int64
	ns        string
	session   string
	noTimeout bool

	coll       *collection // nil: docs is all there is
	pos        int         // the number of the next record since the collection began
	docs       []bson.Raw
	filter     bson.Raw
	min, max   bson.Raw // bounds of _id
	projection bson.Raw
	at         bson.Timestamp // reads at this time; zero: what is there now
	left       int            // of a limit; 0: none
	skip       int
	tailable   bool
	await      bool
}

// snapshotTime is the time that a command asked to read at; zero for none.
func (r *request) snapshotTime() (at bson.Timestamp, err error) {
	level, _ := r.body.Lookup("readConcern", "level").StringValueOK()
	if level != "snapshot" {
		return at, nil
	}
	if r.s.o.Role == Standalone {
		return at, errorf(123, "NotAReplicaSet", "node needs to be a replica set member to use read concern")
	}
	if !r.s.atLeast(5, 0) {
		return at, errorf(72, "InvalidOptions", "readConcern level snapshot is only valid in multi-statement transactions")
	}
	r.s.st.mu.RLock()
	defer r.s.st.mu.RUnlock()
	if t, i, ok := r.body.Lookup("readConcern", "atClusterTime").TimestampOK(); ok {
		at = bson.Timestamp{T: t, I: i}
	} else {
		at = r.s.st.now
	}
	if after(r.s.st.oldest, at) {
		return at, SnapshotTooOld
	}
	return at, nil
}

// resolve finds the collection of a command, as it is, or was at a time. nil means that there is none, which reads take for empty.
func (r *request) resolve(name string, at bson.Timestamp) (*collection, error) {
	st := r.s.st
	now := st.find(r.db, name)
	if at.IsZero() {
		return now, nil
	}
	if now != nil && now.capped() {
		return nil, errorf(246, "SnapshotUnavailable", "Reading from non-replicated or capped collections with readConcern snapshot is not supported: %s", now.ns())
	}
	if now != nil && now.kind != "collection" && now.indexes == nil {
		return now, nil
	}
	if r.s.atLeast(7, 0) {
		return st.findAt(r.db, name, at), nil
	}
	if now != nil && after(now.spans[len(now.spans)-1].from, at) {
		return nil, errorf(246, "SnapshotUnavailable", "Unable to read from a snapshot due to pending collection catalog changes; please retry the operation.")
	}
	return now, nil
}

func (r *request) find() (any, error) {
	b := r.body
	name, ok := b.Lookup("find").StringValueOK()
	if !ok || name == "" {
		return nil, errorf(73, "InvalidNamespace", "Failed to parse namespace element")
	}
	at, err := r.snapshotTime()
	if err != nil {
		return nil, err
	}
	c := &cursor{ns: r.db + "." + name, at: at, session: r.session(), noTimeout: truthy(b.Lookup("noCursorTimeout")),
		tailable: truthy(b.Lookup("tailable")), await: truthy(b.Lookup("awaitData")), skip: int(number(b.Lookup("skip"))), left: int(number(b.Lookup("limit")))}
	single := truthy(b.Lookup("singleBatch")) || c.left < 0
	c.left = max(c.left, -c.left)
	c.filter, _ = b.Lookup("filter").DocumentOK()
	c.projection, _ = b.Lookup("projection").DocumentOK()
	c.min, _ = b.Lookup("min").DocumentOK()
	c.max, _ = b.Lookup("max").DocumentOK()
	sort, _ := b.Lookup("sort").DocumentOK()
	size := r.s.o.Window
	if v := b.Lookup("batchSize"); v.Type != 0 {
		size = int(number(v))
	}
	if _, err := match(rawOf(bson.D{}), c.filter); c.filter != nil && err != nil {
		return nil, err
	}
	st := r.s.st
	st.mu.RLock()
	coll, err := r.resolve(name, at)
	if err == nil && c.tailable && (coll == nil || !coll.capped()) {
		err = errorf(2, "BadValue", "error processing query: tailable cursor requested on non capped collection")
	}
	if err != nil {
		st.mu.RUnlock()
		return nil, err
	}
	c.coll = coll
	if coll != nil {
		c.pos = coll.base
	}
	direction, _ := b.Lookup("hint").DocumentOK()
	reversed := direction != nil && number(direction.Lookup("$natural")) < 0
	_, byID := b.Lookup("hint", "_id").AsInt64OK()
	if byID && len(sort) == 0 {
		sort = direction
	}
	switch {
	case coll != nil && coll.kind != "collection" && coll.indexes == nil:
		docs, err := r.viewDocuments(coll, at, 0)
		if err != nil {
			st.mu.RUnlock()
			return nil, err
		}
		c.coll, c.docs = nil, docs
		if len(sort) > 5 {
			c.docs = slices.Clone(docs)
			sortDocuments(c.docs, sort)
		}
	case coll != nil && c.filter != nil && at.IsZero() && !reversed && len(sort) <= 5 && coll.byIDs(c.filter) != nil:
		c.coll, c.docs = nil, coll.byIDs(c.filter)
	case coll != nil && (len(sort) > 5 || reversed):
		docs := coll.documents(at)
		if c.filter != nil {
			docs = slices.DeleteFunc(docs, func(d bson.Raw) bool { ok, _ := match(d, c.filter); return !ok || !c.within(d) })
		}
		if reversed {
			slices.Reverse(docs)
		} else {
			sortDocuments(docs, sort)
		}
		c.coll, c.docs = nil, docs
	}
	st.mu.RUnlock()
	return r.batch(c, "firstBatch", size, single, time.Time{})
}

// byIDs are the documents that a query for one or more _ids can have at most, as the index finds them; nil where the query
// is another one.
func (c *collection) byIDs(filter bson.Raw) []bson.Raw {
	want, err := filter.LookupErr("_id")
	if err != nil || want.Type == bson.TypeRegex || want.Type == bson.TypeNull {
		return nil
	}
	ids := []bson.RawValue{want}
	if want.Type == bson.TypeEmbeddedDocument {
		op, err := want.Document().IndexErr(0)
		if err != nil || op.Key() != "$in" || op.Value().Type != bson.TypeArray {
			return nil
		}
		ids, _ = op.Value().Array().Values()
	}
	out := []bson.Raw{}
	seen := map[string]bool{}
	for _, id := range ids {
		k := key(id)
		if r := c.byID[k]; r != nil && !seen[k] {
			seen[k] = true
			out = append(out, r.doc)
		}
	}
	return out
}

func (r *request) session() string {
	return string(r.body.Lookup("lsid", "id").Value)
}

// within applies min and max.
func (c *cursor) within(doc bson.Raw) bool {
	if c.min != nil && compare(doc.Lookup("_id"), c.min.Lookup("_id")) < 0 {
		return false
	}
	return c.max == nil || compare(doc.Lookup("_id"), c.max.Lookup("_id")) < 0
}

// next is the next document, nil at the end. The store is locked for reading.
func (c *cursor) next() (bson.Raw, error) {
	for {
		var doc bson.Raw
		if c.coll == nil {
			if len(c.docs) == 0 {
				return nil, nil
			}
			doc = c.docs[0]
			c.docs = c.docs[1:]
		} else {
			if c.pos < c.coll.base {
				return nil, errorf(136, "CappedPositionLost", "CollectionScan died due to position in capped collection being deleted")
			}
			if c.pos-c.coll.base >= len(c.coll.records) {
				return nil, nil
			}
			rec := c.coll.records[c.pos-c.coll.base]
			c.pos++
			if doc = rec.doc; !c.at.IsZero() {
				doc = rec.visible(c.at)
			}
			if doc == nil {
				continue
			}
		}
		if (c.min != nil || c.max != nil) && !c.within(doc) {
			continue
		}
		if len(c.filter) > 5 {
			ok, err := match(doc, c.filter)
			if err != nil {
				return nil, err
			}
			if !ok {
				continue
			}
		}
		if c.skip > 0 {
			c.skip--
			continue
		}
		if len(c.projection) > 5 {
			doc = project(doc, c.projection)
		}
		return doc, nil
	}
}

// maxReply bounds the documents of a batch, but for the first, which may be larger.
const maxReply = 16 << 20

// batch fills a reply from a cursor. A tailable cursor that awaits data waits until a deadline.
func (r *request) batch(c *cursor, name string, size int, single bool, deadline time.Time) (any, error) {
	st := r.s.st
	b := make([]byte, replyRoom, 1<<12)
	doc := start(&b)
	cur := field(&b, bson.TypeEmbeddedDocument, "cursor")
	list := field(&b, bson.TypeArray, name)
	n, bytes, done := 0, 0, false
	var keyText []byte
	// Room for what is certain to come spares the copying of growing slices.
	if c.coll != nil && size > 1000 {
		st.mu.RLock()
		room := int(min(maxReply, c.coll.bytes)) + 1<<12
		st.mu.RUnlock()
		b = slices.Grow(b, room)
	}
	for {
		st.mu.RLock()
		if err := r.check(c); err != nil {
			st.mu.RUnlock()
			r.s.forget(c)
			return nil, err
		}
		for n < size && !done {
			d, err := c.peek()
			if err != nil {
				st.mu.RUnlock()
				r.s.forget(c)
				return nil, err
			}
			if d == nil {
				done = !c.tailable
				break
			}
			if n > 0 && bytes+len(d) > maxReply {
				c.push(d)
				break
			}
			keyText = strconv.AppendInt(keyText[:0], int64(n), 10)
			b = append(b, byte(bson.TypeEmbeddedDocument))
			b = append(append(b, keyText...), 0)
			b = append(b, d...)
			n++
			bytes += len(d)
			if c.left > 0 {
				if c.left--; c.left == 0 {
					done = true
				}
			}
		}
		changed := st.changed
		st.mu.RUnlock()
		if n > 0 || !c.await || size == 0 || deadline.IsZero() || !r.waitFor(changed, deadline) {
			break
		}
	}
	end(&b, list)
	id := int64(0)
	if !done && !single {
		id = r.s.keep(c)
	} else {
		r.s.forget(c)
	}
	b = append(append(b, byte(bson.TypeInt64)), "id\x00"...)
	b = le.AppendUint64(b, uint64(id))
	b = append(append(b, byte(bson.TypeString)), "ns\x00"...)
	b = le.AppendUint32(b, uint32(len(c.ns)+1))
	b = append(append(b, c.ns...), 0)
	if !c.at.IsZero() && name == "firstBatch" {
		b = append(append(b, byte(bson.TypeTimestamp)), "atClusterTime\x00"...)
		b = append(b, tsBytes(c.at)...)
	}
	end(&b, cur)
	for _, e := range append(bson.D{{Key: "ok", Value: 1.0}}, r.s.times()...) {
		raw := rawOf(bson.D{e})
		b = append(b, raw[4:len(raw)-1]...)
	}
	end(&b, doc)
	return b, nil
}

func start(b *[]byte) int {
	*b = append(*b, 0, 0, 0, 0)
	return len(*b) - 4
}

func field(b *[]byte, t bson.Type, name string) int {
	*b = append(append(append(*b, byte(t)), name...), 0)
	return start(b)
}

func end(b *[]byte, at int) {
	*b = append(*b, 0)
	le.PutUint32((*b)[at:], uint32(len(*b)-at))
}

func (c *cursor) peek() (bson.Raw, error) { return c.next() }

// push gives a document back that did not fit. Its filters have been applied.
func (c *cursor) push(d bson.Raw) {
	if c.coll != nil {
		c.pos--
		return
	}
	c.docs = append([]bson.Raw{d}, c.docs...)
}

// check says what became of a cursor's collection and its time.
func (r *request) check(c *cursor) error {
	st := r.s.st
	if !c.at.IsZero() {
		if after(st.oldest, c.at) {
			return SnapshotTooOld
		}
		if r.s.atLeast(7, 0) {
			return nil
		}
	}
	if c.coll == nil || slices.Contains(st.current, c.coll) && c.coll.ns() == c.ns {
		return nil
	}
	return errorf(175, "QueryPlanKilled", "collection renamed or dropped: %s", c.ns)
}

// waitFor waits for a write, and says whether there was one in time.
func (r *request) waitFor(changed chan struct{}, deadline time.Time) bool {
	t := time.NewTimer(time.Until(deadline))
	defer t.Stop()
	select {
	case <-changed:
		r.s.mu.Lock()
		defer r.s.mu.Unlock()
		return !r.m.down
	case <-t.C:
		return false
	}
}

func (s *Server) keep(c *cursor) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.id == 0 {
		s.cursorN++
		c.id = s.cursorN<<20 | 0x7a5
		s.cursors[c.id] = c
	}
	return c.id
}

func (s *Server) forget(c *cursor) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.cursors, c.id)
}

func (r *request) getMore() (any, error) {
	id := number(r.body.Lookup("getMore"))
	r.s.mu.Lock()
	c := r.s.cursors[id]
	r.s.mu.Unlock()
	if c == nil {
		return nil, errorf(43, "CursorNotFound", "cursor id %d not found", id)
	}
	if c.session != r.session() {
		return nil, errorf(50738, "Location50738", "Cannot run getMore on cursor %d, which was created in another session", id)
	}
	size := 1 << 30
	if v := r.body.Lookup("batchSize"); v.Type != 0 {
		size = int(number(v))
	}
	wait := time.Second
	if v := r.body.Lookup("maxTimeMS"); v.Type != 0 {
		wait = time.Duration(number(v)) * time.Millisecond
	}
	return r.batch(c, "nextBatch", size, false, time.Now().Add(wait))
}

func (r *request) killCursors() (any, error) {
	a, _ := r.body.Lookup("cursors").ArrayOK()
	values, _ := a.Values()
	killed, missing := bson.A{}, bson.A{}
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	for _, v := range values {
		if _, ok := r.s.cursors[number(v)]; ok {
			delete(r.s.cursors, number(v))
			killed = append(killed, number(v))
		} else {
			missing = append(missing, number(v))
		}
	}
	return bson.D{{Key: "cursorsKilled", Value: killed}, {Key: "cursorsNotFound", Value: missing}, {Key: "cursorsAlive", Value: bson.A{}}, {Key: "cursorsUnknown", Value: bson.A{}}}, nil
}
