package oplog

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// A fate says what the entries make of a document.
type fate uint8

const (
	patched fate = iota // the document of the dump with updates
	known               // doc, whatever the dump has
	deleted
)

// A change is what the entries so far do to the document of one _id.
type change struct {
	fate    fate
	upsert  bool // patched: without a document in the dump, base is the document
	moved   bool // known: it was deleted and inserted again, and so goes to the end
	doc     bson.Raw
	patches []patch
	order   int64 // of the insertion
	index   int   // of the change in its collection
}

// A patch is an update that waits for its document.
type patch struct {
	ts     bson.Timestamp
	o      bson.Raw
	strict bool
}

// What a change takes in memory besides its documents: the map's share, pointers, the key's header.
const changeBytes, patchBytes = 200, 48

// changes are those of a collection, by the key of the _id.
type changes struct {
	byKey map[string]*change
	next  int64 // of order
	bytes int64
}

// apply adds an entry that inserts, updates or deletes. strict: nothing that it needs may be missing.
func (c *changes) apply(e *Entry, strict bool) error {
	of := e.Object
	if e.Op == Update {
		of = e.Object2
	}
	id, ok := find(of, "_id")
	if !ok {
		return errors.New("it does not say the document's _id")
	}
	return c.applyTo(keyOf(id), id, e, strict)
}

func (c *changes) applyTo(key string, id element, e *Entry, strict bool) error {
	if c.byKey == nil {
		c.byKey = map[string]*change{}
	}
	ch := c.byKey[key]
	if ch == nil {
		ch = &change{index: len(c.byKey)}
		c.byKey[key] = ch
		c.bytes += changeBytes + int64(len(key))
	}
	c.bytes -= ch.size()
	defer func() { c.bytes += ch.size() }()
	switch e.Op {
	case Insert:
		c.set(ch, e.Object)
	case Delete:
		ch.fate, ch.doc, ch.patches, ch.upsert = deleted, nil, nil, false
	default:
		return c.update(ch, id, e, strict)
	}
	return nil
}

// set makes doc the document.
func (c *changes) set(ch *change, doc bson.Raw) {
	if ch.fate == deleted {
		ch.moved = true
	}
	if ch.fate != known {
		c.next++
		ch.order = c.next
	}
	ch.fate, ch.doc, ch.patches, ch.upsert = known, bytes.Clone(doc), nil, false
}

func (c *changes) update(ch *change, id element, e *Entry, strict bool) error {
	kind, err := kindOf(e.Object)
	if err != nil {
		return err
	}
	if ch.fate == deleted && !e.Upsert {
		return errors.New("it updates a document that an earlier entry deleted")
	}
	if kind == replacement {
		doc := e.Object
		if _, ok := find(doc, "_id"); !ok {
			doc = withID(id, doc)
		}
		c.set(ch, doc)
		return nil
	}
	switch ch.fate {
	case deleted:
		c.set(ch, withID(id, nil))
		fallthrough
	case known:
		// All that happened to the document since its insertion is known, in a window too.
		doc, err := applyUpdate(ch.doc, e.Object, true)
		if err != nil {
			return err
		}
		ch.doc = bytes.Clone(doc)
	case patched:
		if e.Upsert && len(ch.patches) == 0 {
			ch.upsert, ch.doc = true, withID(id, nil)
		}
		p := patch{ts: e.Timestamp, o: bytes.Clone(e.Object), strict: strict}
		if n := len(ch.patches); n > 0 && overrides(ch.patches[n-1].o, p.o) {
			p.ts, p.strict = ch.patches[n-1].ts, p.strict || ch.patches[n-1].strict
			ch.patches[n-1] = p
			return nil
		}
		ch.patches = append(ch.patches, p)
	}
	return nil
}

func (ch *change) size() int64 {
	size := int64(len(ch.doc))
	for _, p := range ch.patches {
		size += patchBytes + int64(len(p.o))
	}
	return size
}

// patch returns what the updates make of the dump's document. A failure names the update.
func (ch *change) patch(doc bson.Raw) (bson.Raw, bson.Timestamp, error) {
	for _, p := range ch.patches {
		out, err := applyUpdate(doc, p.o, p.strict)
		if err != nil {
			return nil, p.ts, err
		}
		doc = out
	}
	return doc, bson.Timestamp{}, nil
}

// withID returns a document with an _id at its head.
func withID(id element, doc bson.Raw) bson.Raw {
	var w writer
	at := w.begin()
	w.raw(id)
	if doc != nil {
		_ = each(doc, func(e element) error { w.raw(e); return nil })
	}
	w.end(at)
	return w.buf
}

// overrides reports whether an update sets what the one before it sets, and nothing else, so that it alone will do: the
// updates of counters and times would fill the memory else.
func overrides(before, after bson.Raw) bool {
	diff, ok := find(after, "diff")
	if !ok {
		return sameSets(before, after)
	}
	old, ok := find(before, "diff")
	return ok && sameDiff(old.value, diff.value)
}

func sameSets(a, b []byte) bool {
	set, ok := find(a, "$set")
	set2, ok2 := find(b, "$set")
	_, unset := find(a, "$unset")
	_, unset2 := find(b, "$unset")
	return ok && ok2 && !unset && !unset2 && slices.Equal(names(set.value), names(set2.value))
}

func sameDiff(a, b []byte) bool {
	if !slices.Equal(names(a), names(b)) {
		return false
	}
	array := false
	err := each(a, func(e element) error {
		other, _ := find(b, string(e.name))
		same := false
		switch {
		case string(e.name) == "a" && e.typ == bson.TypeBoolean:
			array, same = true, true
		case array:
			same = len(e.name) > 1 && (e.name[0] == 'u' || e.name[0] == 's' && sameDiff(e.value, other.value))
		case string(e.name) == "u":
			same = slices.Equal(names(e.value), names(other.value))
		case len(e.name) > 0 && e.name[0] == 's':
			same = sameDiff(e.value, other.value)
		}
		if !same {
			return fmt.Errorf("not the same")
		}
		return nil
	})
	return err == nil
}

func names(doc []byte) (list []string) {
	_ = each(doc, func(e element) error {
		list = append(list, string(e.name))
		return nil
	})
	return list
}
