package ownership

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/x/bsonx/bsoncore"
)

// A key is a value's type and bytes.
type key string

func keyOf(v bson.RawValue) key {
	return key(string(byte(v.Type)) + string(v.Value))
}

// hexKey is the key of an ObjectID's text.
func hexKey(v bson.RawValue) (key, bool) {
	id, ok := v.ObjectIDOK()
	if !ok {
		return "", false
	}
	text := id.Hex()
	out := binary.LittleEndian.AppendUint32([]byte{byte(bson.TypeString)}, uint32(len(text)+1))
	return key(append(append(out, text...), 0)), true
}

// each calls fn for the values that a path leads to, through documents and lists, until it returns false. It returns
// false then.
func each(doc bson.Raw, path []string, fn func(v bson.RawValue) bool) (bool, error) {
	v, err := doc.LookupErr(path[0])
	if errors.Is(err, bsoncore.ErrElementNotFound) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("a document cannot be understood: %w", err)
	}
	return eachOf(v, path[1:], fn, true)
}

// eachOf goes on at a value. A list's elements are meant, too, but not those of lists within.
func eachOf(v bson.RawValue, path []string, fn func(v bson.RawValue) bool, lists bool) (bool, error) {
	if v.Type == bson.TypeArray && lists {
		elements, err := v.Array().Values()
		if err != nil {
			return false, fmt.Errorf("a document cannot be understood: %w", err)
		}
		for _, e := range elements {
			if more, err := eachOf(e, path, fn, false); !more || err != nil {
				return more, err
			}
		}
	}
	if len(path) == 0 {
		return fn(v), nil
	}
	if doc, ok := v.DocumentOK(); ok {
		return each(doc, path, fn)
	}
	return true, nil
}

// holds reports whether a value is what a condition wants.
func (c *condition) holds(v bson.RawValue, sets []set) bool {
	if c.ref != nil {
		return sets[c.ref.index].has(v)
	}
	switch want := c.want.(type) {
	case string:
		// Without a copy of the text.
		return v.Type == bson.TypeString && len(v.Value) == len(want)+5 && string(v.Value[4:len(v.Value)-1]) == want
	case bool:
		b, ok := v.BooleanOK()
		return ok && b == want
	case int64:
		if n, ok := v.AsInt64OK(); ok && v.Type != bson.TypeDouble {
			return n == want
		}
		f, ok := v.DoubleOK()
		return ok && f == float64(want)
	case float64:
		f, ok := v.AsFloat64OK()
		return ok && f == want
	}
	return false
}

// matches reports whether all conditions of a list hold.
func matches(doc bson.Raw, list []condition, sets []set) (bool, error) {
	for i := range list {
		c := &list[i]
		if c.ref != nil && len(sets[c.ref.index]) == 0 {
			return false, nil
		}
	}
	for i := range list {
		c := &list[i]
		none, err := each(doc, c.path, func(v bson.RawValue) bool { return !c.holds(v, sets) })
		if err != nil || none {
			return false, err
		}
	}
	return true, nil
}

// A set is the values of a ref.
type set map[key]struct{}

func (s set) has(v bson.RawValue) bool {
	_, ok := s[keyOf(v)]
	return ok
}

// gather adds what a document of the user's has in the field of a ref. Null refers to nothing.
func (s set) gather(r *ref, doc bson.Raw) error {
	_, err := each(doc, r.path, func(v bson.RawValue) bool {
		switch {
		case v.Type == bson.TypeNull || v.Type == bson.TypeUndefined || v.Type == bson.TypeArray:
		case r.hex:
			if k, ok := hexKey(v); ok {
				s[k] = struct{}{}
			}
		default:
			s[keyOf(v)] = struct{}{}
		}
		return true
	})
	return err
}

// expand fills in the fields of a path: {login} or {login[0]}, the first letter.
func expand(pattern string, field func(name string) (string, bool)) (string, error) {
	var out bytes.Buffer
	for rest := pattern; rest != ""; {
		before, after, ok := strings.Cut(rest, "{")
		out.WriteString(before)
		if !ok {
			break
		}
		name, tail, ok := strings.Cut(after, "}")
		if !ok || name == "" {
			return "", fmt.Errorf("the path %q has a { that is not closed", pattern)
		}
		first := false
		if plain, cut := strings.CutSuffix(name, "[0]"); cut {
			name, first = plain, true
		}
		text, ok := field(name)
		// A name that leads elsewhere is no file of this user's.
		if !ok || text == "" || text == "." || text == ".." || strings.ContainsAny(text, "/\x00") {
			return "", errNoPath
		}
		if first {
			text = text[:1]
		}
		out.WriteString(text)
		rest = tail
	}
	return out.String(), nil
}

// errNoPath says that a document has not what a path is made of.
var errNoPath = errors.New("the document does not say where its files are")
