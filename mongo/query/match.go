package query

import (
	"strconv"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"
)

// A node is a condition on a document.
type node interface{ match(doc bson.Raw) bool }

type and []node

func (list and) match(doc bson.Raw) bool {
	for _, n := range list {
		if !n.match(doc) {
			return false
		}
	}
	return true
}

type or []node

func (list or) match(doc bson.Raw) bool {
	for _, n := range list {
		if n.match(doc) {
			return true
		}
	}
	return false
}

type not struct{ node }

func (n not) match(doc bson.Raw) bool { return !n.node.match(doc) }

// A field is a condition on the values that a path leads to.
type field struct {
	path []string
	test
}

func (f *field) match(doc bson.Raw) bool {
	return !walk(doc, f.path, !f.whole(), func(v bson.RawValue) bool { return !f.holds(v) })
}

// A test is a condition on one value. The zero value of bson.RawValue is a field that is not there.
type test interface {
	holds(v bson.RawValue) bool
	whole() bool // a list is meant as a whole, and not each of its elements, too
}

// inside returns the elements of a document or a list, one after the other. What lies in a document that Validate approves of may
// be too short for any.
func inside(doc bson.Raw) []byte {
	if len(doc) < 5 {
		return nil
	}
	return doc[4 : len(doc)-1]
}

// elements calls fn for the elements of a document or a list until it returns false. It returns false then.
func elements(doc bson.Raw, fn func(key string, v bson.RawValue) bool) bool {
	rest := inside(doc)
	for len(rest) > 0 {
		e, more, ok := bsoncore.ReadElement(rest)
		if !ok {
			return true // not in a valid document
		}
		v := e.Value()
		if !fn(e.Key(), bson.RawValue{Type: bson.Type(v.Type), Value: v.Data}) {
			return false
		}
		rest = more
	}
	return true
}

// lookup finds a field of a document.
func lookup(doc bson.Raw, name string) (found bson.RawValue) {
	rest := inside(doc)
	for len(rest) > 0 {
		e, more, ok := bsoncore.ReadElement(rest)
		if !ok {
			break
		}
		if string(e.KeyBytes()) == name {
			v := e.Value()
			return bson.RawValue{Type: bson.Type(v.Type), Value: v.Data}
		}
		rest = more
	}
	return bson.RawValue{}
}

// walk calls fn for each value that a path leads to, until it returns false. It returns false then.
//
// As a server does it: a list on the way stands for those of its elements that are documents, and for the element whose
// number the path names; a list at its end stands for each of its elements, unless inner is false, and then for itself.
// Where a document lacks the field, fn gets a zero value.
func walk(doc bson.Raw, path []string, inner bool, fn func(v bson.RawValue) bool) bool {
	v := lookup(doc, path[0])
	for path = path[1:]; len(path) > 0 && v.Type == bson.TypeEmbeddedDocument; path = path[1:] {
		v = lookup(bson.Raw(v.Value), path[0])
	}
	switch {
	case v.Type != bson.TypeArray && len(path) > 0:
		return fn(bson.RawValue{})
	case v.Type != bson.TypeArray:
		return fn(v)
	case len(path) > 0:
		return walkList(bson.Raw(v.Value), path, inner, fn)
	case inner && !elements(bson.Raw(v.Value), func(_ string, e bson.RawValue) bool { return fn(e) }):
		return false
	}
	return fn(v)
}

// walkList walks on through the elements of a list.
func walkList(list bson.Raw, path []string, inner bool, fn func(v bson.RawValue) bool) bool {
	index := -1
	if n, err := strconv.Atoi(path[0]); err == nil && strconv.Itoa(n) == path[0] {
		index = n
	}
	i := -1
	return elements(list, func(_ string, e bson.RawValue) bool {
		i++
		if e.Type == bson.TypeEmbeddedDocument && !walk(bson.Raw(e.Value), path, inner, fn) {
			return false
		}
		switch {
		case i != index:
			return true
		case len(path) == 1:
			return fn(e)
		case e.Type == bson.TypeEmbeddedDocument:
			return walk(bson.Raw(e.Value), path[1:], inner, fn)
		case e.Type == bson.TypeArray:
			return walkList(bson.Raw(e.Value), path[1:], inner, fn)
		}
		return true
	})
}
