package oplog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// An element is one field of a document, as bytes of it.
type element struct {
	typ   bson.Type
	name  []byte
	value []byte
	raw   []byte // type, name and value
}

const (
	emptyDocument = 5       // bytes
	maxDepth      = 250     // of documents in documents; servers allow 180
	maxPadding    = 1500000 // elements that a $set beyond an array's end may add, as on servers
)

var errBroken = errors.New("broken BSON")

// each calls f for the elements of a document that was checked; an error of f ends it.
func each(doc []byte, f func(e element) error) error {
	rest, err := body(doc)
	if err != nil {
		return err
	}
	for len(rest) > 0 {
		var e element
		if e, rest, err = next(rest); err != nil {
			return err
		}
		if err := f(e); err != nil {
			return err
		}
	}
	return nil
}

// body returns the elements of a document.
func body(doc []byte) ([]byte, error) {
	if len(doc) < emptyDocument || uint64(binary.LittleEndian.Uint32(doc)) != uint64(len(doc)) || doc[len(doc)-1] != 0 {
		return nil, errBroken
	}
	return doc[4 : len(doc)-1], nil
}

// next cuts the first element off.
func next(data []byte) (e element, rest []byte, err error) {
	end := bytes.IndexByte(data[1:], 0)
	if end < 0 {
		return e, nil, errBroken
	}
	e.typ, e.name = bson.Type(data[0]), data[1:1+end]
	value := data[end+2:]
	size, err := valueSize(e.typ, value)
	if err != nil {
		return e, nil, err
	}
	e.value, e.raw = value[:size:size], data[:end+2+size]
	return e, value[size:], nil
}

// valueSize returns how many bytes the value at the head of data has; no more than there are.
func valueSize(typ bson.Type, data []byte) (int, error) {
	size := 0
	counted := func(least, more int) { // a 32 bit count of bytes, and more
		if len(data) < 4 {
			size = -1
			return
		}
		n := int(int32(binary.LittleEndian.Uint32(data)))
		if n < least {
			size = -1
			return
		}
		size = n + more
	}
	switch typ {
	case bson.TypeDouble, bson.TypeDateTime, bson.TypeTimestamp, bson.TypeInt64:
		size = 8
	case bson.TypeString, bson.TypeJavaScript, bson.TypeSymbol:
		counted(1, 4)
		if size > 0 && size <= len(data) && data[size-1] != 0 {
			return 0, errBroken
		}
	case bson.TypeEmbeddedDocument, bson.TypeArray, bson.TypeCodeWithScope:
		counted(emptyDocument, 0)
	case bson.TypeBinary:
		counted(0, 5)
	case bson.TypeUndefined, bson.TypeNull, bson.TypeMinKey, bson.TypeMaxKey:
	case bson.TypeObjectID:
		size = 12
	case bson.TypeBoolean:
		size = 1
	case bson.TypeRegex:
		for range 2 {
			end := bytes.IndexByte(data[size:], 0)
			if end < 0 {
				return 0, errBroken
			}
			size += end + 1
		}
	case bson.TypeDBPointer:
		counted(1, 16)
	case bson.TypeInt32:
		size = 4
	case bson.TypeDecimal128:
		size = 16
	default:
		return 0, fmt.Errorf("%w: no type %#x", errBroken, byte(typ))
	}
	if size < 0 || size > len(data) {
		return 0, errBroken
	}
	return size, nil
}

// check refuses a document that is not well-formed, down to its innermost ones.
func check(doc []byte) error { return checkDepth(doc, 0) }

func checkDepth(doc []byte, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("%w: more than %d documents in each other", errBroken, maxDepth)
	}
	return each(doc, func(e element) error {
		switch e.typ {
		case bson.TypeEmbeddedDocument, bson.TypeArray:
			return checkDepth(e.value, depth+1)
		case bson.TypeCodeWithScope:
			if len(e.value) < 8 {
				return errBroken
			}
			n := int(int32(binary.LittleEndian.Uint32(e.value[4:])))
			if n < 1 || 8+n > len(e.value) || e.value[8+n-1] != 0 {
				return errBroken
			}
			return checkDepth(e.value[8+n:], depth+1)
		}
		return nil
	})
}

// find returns a document's first field of a name.
func find(doc []byte, name string) (element, bool) {
	rest, err := body(doc)
	for err == nil && len(rest) > 0 {
		var e element
		if e, rest, err = next(rest); err == nil && string(e.name) == name {
			return e, true
		}
	}
	return element{}, false
}

// first returns a document's first field.
func first(doc []byte) (element, bool) {
	rest, err := body(doc)
	if err != nil || len(rest) == 0 {
		return element{}, false
	}
	e, _, err := next(rest)
	return e, err == nil
}

// str returns the value of a string.
func (e element) str() (string, bool) {
	if e.typ != bson.TypeString || len(e.value) < 5 {
		return "", false
	}
	return string(e.value[4 : len(e.value)-1]), true
}

// integer returns the value of a number without a fraction, and of a boolean as 0 and 1.
func (e element) integer() (int64, bool) {
	switch e.typ {
	case bson.TypeInt32:
		return int64(int32(binary.LittleEndian.Uint32(e.value))), true
	case bson.TypeInt64:
		return int64(binary.LittleEndian.Uint64(e.value)), true
	case bson.TypeDouble:
		f := float(e.value)
		return int64(f), f == float64(int64(f))
	case bson.TypeBoolean:
		return int64(e.value[0]), true
	}
	return 0, false
}

func (e element) isDocument() bool {
	return e.typ == bson.TypeEmbeddedDocument || e.typ == bson.TypeArray
}

// isTrue reports whether a field is there and true.
func isTrue(doc []byte, name string) bool {
	e, ok := find(doc, name)
	n, number := e.integer()
	return ok && number && n != 0
}

// timestamp returns the value of a timestamp.
func (e element) timestamp() (bson.Timestamp, bool) {
	if e.typ != bson.TypeTimestamp {
		return bson.Timestamp{}, false
	}
	v := binary.LittleEndian.Uint64(e.value)
	return bson.Timestamp{T: uint32(v >> 32), I: uint32(v)}, true
}

// A writer builds a document. What it appends is not checked.
type writer struct{ buf []byte }

// begin starts a document and returns what end needs.
func (w *writer) begin() int {
	at := len(w.buf)
	w.buf = append(w.buf, 0, 0, 0, 0)
	return at
}

func (w *writer) end(at int) {
	w.buf = append(w.buf, 0)
	binary.LittleEndian.PutUint32(w.buf[at:], uint32(len(w.buf)-at))
}

func (w *writer) head(typ bson.Type, name []byte) {
	w.buf = append(append(append(w.buf, byte(typ)), name...), 0)
}

func (w *writer) raw(e element) { w.buf = append(w.buf, e.raw...) }

// named appends e's value under another name.
func (w *writer) named(name []byte, e element) {
	w.head(e.typ, name)
	w.buf = append(w.buf, e.value...)
}

func indexName(i int) []byte { return strconv.AppendInt(nil, int64(i), 10) }

// edit returns a copy of a document with the fields of set in place of its own or at the end, and those of drop left out.
func edit(doc []byte, drop []string, set ...element) bson.Raw {
	var w writer
	at := w.begin()
	used := make([]bool, len(set))
	if len(doc) > 0 {
		_ = each(doc, func(e element) error {
			for _, name := range drop {
				if string(e.name) == name {
					return nil
				}
			}
			for i, s := range set {
				if bytes.Equal(s.name, e.name) {
					used[i] = true
					w.raw(s)
					return nil
				}
			}
			w.raw(e)
			return nil
		})
	}
	for i, s := range set {
		if !used[i] {
			w.raw(s)
		}
	}
	w.end(at)
	return w.buf
}

// newElement makes an element of its parts.
func newElement(typ bson.Type, name string, value []byte) element {
	var w writer
	w.head(typ, []byte(name))
	at := len(w.buf)
	w.buf = append(w.buf, value...)
	return element{typ: typ, name: w.buf[1 : at-1], value: w.buf[at:], raw: w.buf}
}

func stringElement(name, value string) element {
	data := binary.LittleEndian.AppendUint32(nil, uint32(len(value)+1))
	return newElement(bson.TypeString, name, append(append(data, value...), 0))
}
