package oplog

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"strconv"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// errUnfit says that an update was made for another document than the one it is applied to.
var errUnfit = errors.New("the document is not the one that the update was made for")

// An updateKind says how an update's o is to be read.
type updateKind uint8

const (
	replacement updateKind = iota // o is the document
	operators                     // $set and $unset: servers up to 4.4
	delta                         // $v:2: a tree of differences
)

// kindOf says what an update is, and refuses those that this package cannot apply.
func kindOf(o bson.Raw) (updateKind, error) {
	head, ok := first(o)
	if !ok || len(head.name) == 0 || head.name[0] != '$' {
		return replacement, nil
	}
	version := int64(1)
	if v, ok := find(o, "$v"); ok {
		n, number := v.integer()
		if !number || n < 0 || n > 2 {
			return 0, fmt.Errorf("an update of the unknown version %v", bson.RawValue{Type: v.typ, Value: v.value})
		}
		version = n
	}
	if version == 2 {
		if diff, ok := find(o, "diff"); !ok || diff.typ != bson.TypeEmbeddedDocument {
			return 0, errors.New("an update of version 2 without a diff")
		}
		return delta, each(o, func(e element) error {
			if name := string(e.name); name != "$v" && name != "diff" {
				return fmt.Errorf("an update with the unknown field %q", name)
			}
			return nil
		})
	}
	return operators, each(o, func(e element) error {
		switch name := string(e.name); name {
		case "$v":
		case "$set", "$unset":
			if e.typ != bson.TypeEmbeddedDocument {
				return fmt.Errorf("an update whose %s is no document", name)
			}
		default:
			return fmt.Errorf("an update with the unknown operator %q", name)
		}
		return nil
	})
}

// applyUpdate returns the document after an update that is no replacement. strict: a document that the update does not
// fit is an error (errUnfit); else such parts are left out, for they are about to be overwritten by a later entry that
// the document has already.
func applyUpdate(doc, o bson.Raw, strict bool) (bson.Raw, error) {
	kind, err := kindOf(o)
	if err != nil {
		return nil, err
	}
	if kind == delta {
		diff, _ := find(o, "diff")
		p := patcher{strict: strict}
		if err := p.document(doc, diff.value); err != nil {
			return nil, err
		}
		return bson.Raw(p.buf), nil
	}
	err = each(o, func(op element) error {
		if string(op.name) == "$v" {
			return nil
		}
		return each(op.value, func(e element) error {
			c := change1{unset: string(op.name) == "$unset", value: e, strict: strict}
			out, err := c.apply(doc, bytes.Split(e.name, []byte(".")))
			doc = out
			return err
		})
	})
	return doc, err
}

// A change1 is one path of a $set or an $unset.
type change1 struct {
	writer
	unset  bool
	value  element
	strict bool
}

func (c *change1) apply(doc []byte, path [][]byte) (bson.Raw, error) {
	if err := c.into(doc, path, false); err != nil {
		if err == errUnfit && !c.strict {
			return doc, nil
		}
		return nil, err
	}
	return c.buf, nil
}

// into writes a document, or an array, with the change at the path in it.
func (c *change1) into(doc []byte, path [][]byte, array bool) error {
	index := -1
	if array {
		var ok bool
		if index, ok = arrayIndex(path[0]); !ok {
			if c.unset {
				c.buf = append(c.buf, doc...)
				return nil
			}
			return errUnfit
		}
	}
	at := c.begin()
	found, n := false, 0
	err := each(doc, func(e element) error {
		here := !found && (array && n == index || !array && bytes.Equal(e.name, path[0]))
		n++
		switch {
		case !here:
			c.raw(e)
		case len(path) == 1:
			c.leaf(e.name, array)
		case e.isDocument():
			c.head(e.typ, e.name)
			if err := c.into(e.value, path[1:], e.typ == bson.TypeArray); err != nil {
				return err
			}
		case c.unset:
			c.raw(e)
		default:
			return errUnfit
		}
		found = found || here
		return nil
	})
	if err != nil {
		return err
	}
	if !found && !c.unset {
		name := path[0]
		if array {
			if index-n > maxPadding {
				return fmt.Errorf("an update that sets element %d of an array of %d", index, n)
			}
			for ; n < index; n++ {
				c.head(bson.TypeNull, indexName(n))
			}
			name = indexName(n)
		}
		c.create(name, path[1:])
	}
	c.end(at)
	return nil
}

// leaf writes what is at the end of the path.
func (c *change1) leaf(name []byte, array bool) {
	switch {
	case !c.unset:
		c.named(name, c.value)
	case array: // an element's place stays
		c.head(bson.TypeNull, name)
	}
}

// create writes a new field, with the documents that lead to the value.
func (c *change1) create(name []byte, path [][]byte) {
	if len(path) == 0 {
		c.named(name, c.value)
		return
	}
	c.head(bson.TypeEmbeddedDocument, name)
	at := c.begin()
	c.create(path[0], path[1:])
	c.end(at)
}

func arrayIndex(name []byte) (int, bool) {
	if len(name) == 0 || len(name) > 9 {
		return 0, false
	}
	for _, c := range name {
		if c < '0' || c > '9' {
			return 0, false
		}
	}
	n, err := strconv.Atoi(string(name))
	return n, err == nil
}

// A patcher applies a $v:2 diff. Its layout, for a document:
//
//	{d: {name: false, ...}, u: {name: value, ...}, i: {name: value, ...}, b: {name: {o: offset, d: bytes}}, sNAME: diff, ...}
//
// d removes, u sets in place, i sets at the end, b replaces a binary value from the offset on, s is the diff of a
// document or an array in it. For an array:
//
//	{a: true, l: length, uN: value, sN: diff, ...}
//
// in the order of the indices; where l is not there the length is not cut.
type patcher struct {
	writer
	strict bool
}

// A fieldDiff is what a diff does to one field.
type fieldDiff struct {
	section byte // d, u, i, b, s
	e       element
	done    bool
}

func (p *patcher) document(doc, diff []byte) error {
	fields := map[string]*fieldDiff{}
	var added []*fieldDiff // u, then i
	add := func(section byte, name []byte, e element) error {
		if fields[string(name)] != nil {
			return fmt.Errorf("a diff that has the field %q twice", name)
		}
		f := &fieldDiff{section: section, e: e}
		fields[string(name)] = f
		if section == 'i' || section == 'u' {
			added = append(added, f)
		}
		return nil
	}
	var inserts []byte
	err := each(diff, func(e element) error {
		if e.typ != bson.TypeEmbeddedDocument {
			return fmt.Errorf("a diff whose section %q is no document", e.name)
		}
		switch name := string(e.name); name {
		case "d", "u", "b":
			return each(e.value, func(f element) error { return add(name[0], f.name, f) })
		case "i":
			inserts = e.value
			return nil
		default:
			if name == "" || name[0] != 's' {
				return fmt.Errorf("a diff with the unknown section %q", name)
			}
			return add('s', e.name[1:], e)
		}
	})
	if err == nil && inserts != nil {
		err = each(inserts, func(f element) error { return add('i', f.name, f) })
	}
	if err != nil {
		return err
	}
	at := p.begin()
	err = each(doc, func(e element) error {
		f := fields[string(e.name)]
		if f == nil {
			p.raw(e)
			return nil
		}
		if f.section != 'i' {
			f.done = true
		}
		switch f.section {
		case 'u':
			p.raw(f.e)
		case 'b':
			return p.binary(e, f.e)
		case 's':
			return p.sub(e, f.e.value)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, f := range added {
		if !f.done {
			p.raw(f.e)
		}
	}
	for name, f := range fields {
		if p.strict && !f.done && (f.section == 's' || f.section == 'b' || f.section == 'd') {
			return fmt.Errorf("%w: it has no field %q", errUnfit, name)
		}
	}
	p.end(at)
	return nil
}

// sub writes a field or an element of an array, changed by a diff.
func (p *patcher) sub(e element, diff []byte) error {
	array := false
	if head, ok := first(diff); ok {
		array = string(head.name) == "a" && head.typ == bson.TypeBoolean
	}
	switch {
	case array && e.typ == bson.TypeArray:
		p.head(e.typ, e.name)
		return p.array(e.value, diff)
	case !array && e.typ == bson.TypeEmbeddedDocument:
		p.head(e.typ, e.name)
		return p.document(e.value, diff)
	case p.strict:
		return fmt.Errorf("%w: its field %q has the type %s", errUnfit, e.name, e.typ)
	}
	p.raw(e)
	return nil
}

// binary writes a binary value whose bytes from an offset on are others.
func (p *patcher) binary(e, change element) error {
	offset, ok := find(change.value, "o")
	n, number := offset.integer()
	data, has := find(change.value, "d")
	if change.typ != bson.TypeEmbeddedDocument || !ok || !number || n < 0 || !has || data.typ != bson.TypeBinary {
		return fmt.Errorf("a diff of the binary field %q that is none", e.name)
	}
	if e.typ != bson.TypeBinary || n > int64(len(e.value)-5) {
		if p.strict {
			return fmt.Errorf("%w: its field %q has no byte %d", errUnfit, e.name, n)
		}
		p.raw(e)
		return nil
	}
	p.head(e.typ, e.name)
	size := int(n) + len(data.value) - 5
	p.buf = append(p.buf, byte(size), byte(size>>8), byte(size>>16), byte(size>>24), e.value[4])
	p.buf = append(append(p.buf, e.value[5:5+n]...), data.value[5:]...)
	return nil
}

// array writes an array, changed by a diff.
func (p *patcher) array(array, diff []byte) error {
	length := -1
	var changes []element
	var indices []int
	err := each(diff, func(e element) error {
		switch name := e.name; {
		case string(name) == "a":
		case string(name) == "l":
			n, ok := e.integer()
			if !ok || n < 0 || n > math.MaxInt32 {
				return errors.New("a diff that resizes an array to no length")
			}
			length = int(n)
		case len(name) > 1 && (name[0] == 'u' || name[0] == 's' && e.typ == bson.TypeEmbeddedDocument):
			i, ok := arrayIndex(name[1:])
			if !ok || len(indices) > 0 && i <= indices[len(indices)-1] {
				return fmt.Errorf("a diff of an array with the element %q at this place", name)
			}
			changes, indices = append(changes, e), append(indices, i)
		default:
			return fmt.Errorf("a diff of an array with the unknown section %q", name)
		}
		return nil
	})
	if err != nil {
		return err
	}
	at, n := p.begin(), 0
	rest, err := body(array)
	if err != nil {
		return err
	}
	for ; len(rest) > 0 && (length < 0 || n < length); n++ {
		var e element
		if e, rest, err = next(rest); err != nil {
			return err
		}
		if len(indices) == 0 || indices[0] != n {
			p.raw(e)
			continue
		}
		c := changes[0]
		changes, indices = changes[1:], indices[1:]
		if c.name[0] == 'u' {
			p.named(e.name, c)
		} else if err := p.sub(e, c.value); err != nil {
			return err
		}
	}
	missing := length - n
	if k := len(indices); k > 0 {
		missing = max(missing, indices[k-1]+1-n)
	}
	if missing > maxPadding {
		return fmt.Errorf("a diff that makes an array of %d elements %d longer", n, missing)
	}
	for ; n < length || len(indices) > 0; n++ {
		if len(indices) == 0 || indices[0] != n {
			p.head(bson.TypeNull, indexName(n))
			continue
		}
		c := changes[0]
		changes, indices = changes[1:], indices[1:]
		switch {
		case c.name[0] == 'u':
			p.named(indexName(n), c)
		case p.strict:
			return fmt.Errorf("%w: an array in it has no element %d", errUnfit, n)
		default:
			p.head(bson.TypeNull, indexName(n))
		}
	}
	p.end(at)
	return nil
}
