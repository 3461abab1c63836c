package oplog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"iter"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// A Log yields the entries of an oplog, as often as it is asked.
type Log interface {
	// Entries yields the entries from a timestamp on, in their order, each valid until the next. An entry may come twice
	// in a row, as at the joint of two slices. An error ends them.
	Entries(ctx context.Context, from bson.Timestamp) iter.Seq2[bson.Raw, error]
}

// Options say what is folded, and up to when.
type Options struct {
	Collections []Collection // of the dump
	// Start and End are the window of time that the dump's documents are of; equal where they are of one moment.
	Start, End bson.Timestamp
	At         bson.Timestamp // the result is what entries up to this one, included, make of the dump; not before End
	// Covers reports whether the dump has the collections of a name, if there are any; nil = Dumped. Entries of others
	// are left out.
	Covers func(db, name string) bool
	// Wants reports whether a collection is asked for; nil = all.
	Wants  func(db, name string) bool
	Memory int64 // bytes; 0 = 256 MiB
}

const defaultMemory = 256 << 20

func (o *Options) covers(db, name string) bool {
	if o.Covers != nil {
		return o.Covers(db, name)
	}
	return Dumped(db, name)
}

func (o *Options) wants(db, name string) bool { return o.Wants == nil || o.Wants(db, name) }

// A RefusedError names an entry that cannot be folded.
type RefusedError struct {
	Timestamp bson.Timestamp
	Namespace string
	Err       error
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("the oplog entry %s (%s) cannot be applied: %v", Text(e.Timestamp), e.Namespace, e.Err)
}
func (e *RefusedError) Unwrap() error { return e.Err }

// errMemory says that the changes of a part do not fit into the memory.
var errMemory = errors.New("the changed documents do not fit into the memory that the fold may use")

// A scan goes through the log once, follows the catalog, and gathers the changes of some collections.
type scan struct {
	*catalog
	o   *Options
	log Log
	// one, where it is not negative, is the id of the only collection to gather, of which only the _ids are whose hash
	// ends in bits.
	one     int
	bits    uint64
	mask    uint64
	used    int64 // bytes of changes
	pending pending
	last    bson.Timestamp
}

func newScan(o *Options, log Log) *scan {
	return &scan{catalog: newCatalog(o.Collections), o: o, log: log, one: -1, pending: pending{parts: map[bson.Timestamp]*part{}}}
}

func (s *scan) run(ctx context.Context) error {
	for raw, err := range s.log.Entries(ctx, s.o.Start) {
		if err != nil {
			return err
		}
		ts, ok := TimestampOf(raw)
		switch {
		case !ok:
			return errors.New("an oplog entry without a timestamp")
		case ts.After(s.o.At):
			return nil
		case ts.Before(s.o.Start) || ts.Equal(s.last):
			continue
		case ts.Before(s.last):
			return fmt.Errorf("the oplog entry %s comes after %s", Text(ts), Text(s.last))
		}
		s.last = ts
		e, err := Parse(raw)
		if err != nil {
			return err
		}
		if s.o.Start.Equal(s.o.End) && !ts.After(s.o.End) {
			// Its effects are in the dump, unless it is a part of a transaction that is committed later.
			if !s.opens(&e) {
				continue
			}
		}
		if err := s.entry(ctx, &e); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// entry follows one entry.
func (s *scan) entry(ctx context.Context, e *Entry) error {
	var err error
	switch {
	case e.Op == Noop || skippedOps[e.Op]:
	case e.Op == Command:
		if head, ok := first(e.Object); ok && transactional[string(head.name)] {
			return s.transaction(ctx, e, string(head.name))
		}
		err = s.command(e)
	case e.changes():
		err = s.document(e)
	default:
		err = fmt.Errorf("its kind %q is unknown here", e.Op)
	}
	return refused(e, err)
}

// refused names the entry, once.
func refused(e *Entry, err error) error {
	var r *RefusedError
	if err == nil || errors.As(err, &r) || errors.Is(err, errMemory) {
		return err
	}
	return &RefusedError{Timestamp: e.Timestamp, Namespace: e.Namespace(), Err: err}
}

// document follows an entry that changes a document.
func (s *scan) document(e *Entry) error {
	if e.Name == systemViews {
		return s.viewsOf(e.DB).apply(e)
	}
	if e.Name == "system.indexes" { // servers up to 4.0
		return s.oldIndex(e)
	}
	var n *coll
	if !s.o.covers(e.DB, realName(e.Name)) {
		if n = s.find(e.DB, e.Name, e.UUID); n != nil {
			n.skipped = true
		}
		return nil
	}
	n = s.ghost(e, e.DB, e.Name)
	n.touched++
	if !s.gathers(n) {
		n.skipped = true
		return nil
	}
	return s.gather(n, e)
}

// oldIndex follows the creation of an index as a document of system.indexes.
func (s *scan) oldIndex(e *Entry) error {
	ns, _ := find(e.Object, "ns")
	full, ok := ns.str()
	name := ""
	if len(full) > len(e.DB) {
		name = full[len(e.DB)+1:]
	}
	if e.Op != Insert || !ok || name == "" {
		return errors.New("a change of system.indexes that creates none")
	}
	if n := s.find(e.DB, name, ""); n != nil && n.known {
		return n.addIndex(bytes.Clone(e.Object))
	}
	return nil
}

func (s *scan) gathers(n *coll) bool {
	if s.one >= 0 {
		return n.id == s.one
	}
	return n.known && !n.skipped && s.o.wants(n.db, n.name)
}

func (s *scan) gather(n *coll, e *Entry) error {
	if s.mask != 0 {
		id, ok := find(e.Object, "_id")
		if e.Op == Update {
			id, ok = find(e.Object2, "_id")
		}
		if ok && hashKey(keyOf(id))&s.mask != s.bits {
			return nil
		}
	}
	before := n.changes.bytes
	err := n.changes.apply(e, e.Timestamp.After(s.o.End))
	s.used += n.changes.bytes - before
	if err == nil && s.used > s.o.Memory {
		err = s.shrink()
	}
	return err
}

// shrink gives up the collection with the most changes: it gets scans of its own later.
func (s *scan) shrink() error {
	if s.one >= 0 {
		return errMemory
	}
	for s.used > s.o.Memory {
		var most *coll
		for _, n := range s.colls {
			if most == nil || n.changes.bytes > most.changes.bytes {
				most = n
			}
		}
		if most == nil || most.changes.bytes == 0 {
			return nil
		}
		s.used -= most.changes.bytes
		most.changes, most.skipped = changes{}, true
	}
	return nil
}

func hashKey(key string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(key))
	v := h.Sum64()
	return v ^ v>>32
}
