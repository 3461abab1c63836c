package oplog

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// A Fold is a dump at a later moment: its collections, and their documents as a stream.
type Fold struct {
	o    Options
	log  Log
	list []*Result
}

// A Result is a collection of a Fold.
type Result struct {
	Collection
	Base    int   // its place in Options.Collections; -1 = the dump has none of its documents
	Changed int64 // entries that changed its documents
	View    bool

	n *coll
}

// maxParts bounds into how many parts a collection's changes are divided, as a power of two.
const maxParts = 16

// New reads the log once. What cannot be folded is a *RefusedError, as far as collections are concerned that are wanted;
// of some of their entries only Documents finds it out.
func New(ctx context.Context, log Log, o Options) (*Fold, error) {
	if o.Memory <= 0 {
		o.Memory = defaultMemory
	}
	o.Memory /= 2 // one half for what the first reading gathers, one for a part that is read again
	if o.At.Before(o.End) {
		return nil, fmt.Errorf("the dump is of %s, which is later than %s", Text(o.End), Text(o.At))
	}
	s := newScan(&o, log)
	if err := s.run(ctx); err != nil {
		return nil, err
	}
	f := &Fold{o: o, log: log}
	return f, f.collect(s)
}

// collect lists what there is at the end.
func (f *Fold) collect(s *scan) error {
	seen := map[string]bool{}
	for _, n := range s.colls {
		if !n.alive || !f.o.wants(n.db, n.name) || n.base < 0 && !f.o.covers(n.db, n.name) {
			continue
		}
		if !n.known {
			return &RefusedError{Timestamp: n.first, Namespace: n.db + "." + n.name,
				Err: errors.New("neither the dump nor the oplog has the beginning of its collection")}
		}
		ns := n.db + "." + n.name
		if seen[ns] {
			return fmt.Errorf("two collections called %s are there at %s", ns, Text(f.o.At))
		}
		seen[ns] = true
		meta, err := n.result()
		if err != nil {
			return err
		}
		f.list = append(f.list, &Result{Collection: Collection{n.db, n.name, meta}, Base: n.base, Changed: n.touched, n: n})
	}
	for db, views := range s.views {
		list, err := views.results(db)
		if err != nil {
			return err
		}
		for _, c := range list {
			if f.o.wants(c.DB, c.Name) && !seen[c.DB+"."+c.Name] {
				f.list = append(f.list, &Result{Collection: c, Base: -1, View: true})
			}
		}
	}
	slices.SortFunc(f.list, func(a, b *Result) int {
		return strings.Compare(a.DB+"\x00"+a.Name, b.DB+"\x00"+b.Name)
	})
	return nil
}

// Collections returns what there is at Options.At, ordered by name.
func (f *Fold) Collections() []*Result { return f.list }

// Unchanged reports whether a collection's documents are those of the dump.
func (r *Result) Unchanged() bool { return r.Base >= 0 && r.Changed == 0 }

// Documents yields a collection's documents, each valid until the next. base yields those of the dump's collection
// Result.Base, as often as it is called; it is not called where there is none. An error of base is passed on, and ends
// the documents unless it is skipped over by the caller's going on. The order is that of the dump, new documents after it
// in the order of their insertion; where the changes do not fit into the memory, it is so within each of several parts.
func (f *Fold) Documents(ctx context.Context, r *Result, base func() iter.Seq2[bson.Raw, error]) iter.Seq2[bson.Raw, error] {
	return func(yield func(bson.Raw, error) bool) {
		if r.View {
			return
		}
		e := emitter{f: f, r: r, base: base, yield: yield}
		if r.Changed > 0 && e.capped() {
			e.trim(ctx)
			return
		}
		e.all(ctx)
	}
}

// An emitter yields a collection's documents.
type emitter struct {
	f     *Fold
	r     *Result
	base  func() iter.Seq2[bson.Raw, error]
	yield func(bson.Raw, error) bool
}

func (e *emitter) all(ctx context.Context) {
	if !e.r.n.skipped {
		e.emit(&e.r.n.changes, 0, 0)
		return
	}
	e.parts(ctx, 0, 0)
}

// trim leaves out the oldest documents of a capped collection until the rest fits, as servers do: those before 5.0 do not
// log it. It goes through the documents twice; a capped collection is not large.
func (e *emitter) trim(ctx context.Context) {
	size, hasSize := numberOf(e.r.Metadata.Options, "size")
	limit, hasMax := numberOf(e.r.Metadata.Options, "max")
	var docs, bytes int64
	yield := e.yield
	e.yield = func(doc bson.Raw, err error) bool {
		if err == nil {
			docs, bytes = docs+1, bytes+int64(len(doc))
		}
		return true
	}
	e.all(ctx)
	e.yield = func(doc bson.Raw, err error) bool {
		if err == nil && (hasSize && bytes > size || hasMax && limit > 0 && docs > limit) {
			docs, bytes = docs-1, bytes-int64(len(doc))
			return true
		}
		return yield(doc, err)
	}
	e.all(ctx)
}

func numberOf(doc bson.Raw, name string) (int64, bool) {
	e, ok := find(doc, name)
	n, number := e.integer()
	return n, ok && number
}

// parts yields the documents whose _id's hash ends in the lowest bits of part, in halves where they are too many. It
// reports whether to go on.
func (e *emitter) parts(ctx context.Context, part uint64, bits int) bool {
	s := newScan(&e.f.o, e.f.log)
	s.one, s.bits, s.mask = e.r.n.id, part, 1<<bits-1
	err := s.run(ctx)
	switch {
	case errors.Is(err, errMemory) && bits < maxParts:
		s = nil // its memory is needed
		return e.parts(ctx, part, bits+1) && e.parts(ctx, part|1<<bits, bits+1)
	case err != nil:
		return e.yield(nil, err) && false
	}
	return e.emit(&s.colls[e.r.n.id].changes, part, s.mask)
}

// emit yields the documents of a part with its changes.
func (e *emitter) emit(c *changes, part, mask uint64) bool {
	seen := make([]uint64, (len(c.byKey)+63)/64)
	if e.r.Base >= 0 && e.base != nil {
		for doc, err := range e.base() {
			if err != nil {
				if !e.yield(nil, err) {
					return false
				}
				continue
			}
			if !e.one(c, doc, part, mask, seen) {
				return false
			}
		}
	}
	return e.rest(c, seen)
}

// one yields what a document of the dump has become.
func (e *emitter) one(c *changes, doc bson.Raw, part, mask uint64, seen []uint64) bool {
	if len(c.byKey) == 0 && mask == 0 {
		return e.yield(doc, nil)
	}
	id, ok := find(doc, "_id")
	if !ok { // in collections that were made so by servers of long ago
		return part != 0 || e.yield(doc, nil)
	}
	key := keyOf(id)
	if mask != 0 && hashKey(key)&mask != part {
		return true
	}
	ch := c.byKey[key]
	if ch == nil {
		return e.yield(doc, nil)
	}
	word, bit := ch.index/64, uint64(1)<<(ch.index%64)
	if ch.fate == deleted || ch.fate == known && ch.moved || seen[word]&bit != 0 {
		return true
	}
	seen[word] |= bit
	if ch.fate == known {
		return e.yield(ch.doc, nil)
	}
	out, ts, err := ch.patch(doc)
	if err != nil {
		return e.yield(nil, e.refuse(ts, err))
	}
	return e.yield(out, nil)
}

func (e *emitter) refuse(ts bson.Timestamp, err error) error {
	return &RefusedError{Timestamp: ts, Namespace: e.r.DB + "." + e.r.Name, Err: err}
}

// rest yields the documents that the dump does not have.
func (e *emitter) rest(c *changes, seen []uint64) bool {
	var left []*change
	for _, ch := range c.byKey {
		if ch.fate != deleted && seen[ch.index/64]&(1<<(ch.index%64)) == 0 {
			left = append(left, ch)
		}
	}
	slices.SortFunc(left, func(a, b *change) int {
		if a.order != b.order {
			return int(a.order - b.order)
		}
		return a.index - b.index
	})
	for _, ch := range left {
		switch {
		case ch.fate == known:
			if !e.yield(ch.doc, nil) {
				return false
			}
		case ch.upsert:
			doc, ts, err := ch.patch(ch.doc)
			if err != nil {
				err = e.refuse(ts, err)
			}
			if !e.yield(doc, err) {
				return false
			}
		case !e.capped(): // such forget documents without a word
			err := e.refuse(ch.patches[0].ts, errors.New("it updates a document that is not there"))
			if !e.yield(nil, err) {
				return false
			}
		}
	}
	return true
}

func (e *emitter) capped() bool { return isTrue(e.r.Metadata.Options, "capped") }
