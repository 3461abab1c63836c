package mongotest

import (
	"bytes"
	"cmp"
	"fmt"
	"math"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// rank orders BSON's types as the server's sort does.
func rank(t bson.Type) int {
	switch t {
	case bson.TypeMinKey:
		return 0
	case 0, bson.TypeUndefined:
		return 1
	case bson.TypeNull:
		return 2
	case bson.TypeInt32, bson.TypeInt64, bson.TypeDouble, bson.TypeDecimal128:
		return 3
	case bson.TypeString, bson.TypeSymbol:
		return 4
	case bson.TypeEmbeddedDocument:
		return 5
	case bson.TypeArray:
		return 6
	case bson.TypeBinary:
		return 7
	case bson.TypeObjectID:
		return 8
	case bson.TypeBoolean:
		return 9
	case bson.TypeDateTime:
		return 10
	case bson.TypeTimestamp:
		return 11
	case bson.TypeRegex:
		return 12
	case bson.TypeDBPointer:
		return 13
	case bson.TypeJavaScript:
		return 14
	case bson.TypeCodeWithScope:
		return 15
	case bson.TypeMaxKey:
		return 16
	}
	return 17
}

// compare orders two values as the server does.
func compare(a, b bson.RawValue) int {
	if c := cmp.Compare(rank(a.Type), rank(b.Type)); c != 0 {
		return c
	}
	switch rank(a.Type) {
	case 3:
		return compareNumbers(a, b)
	case 4:
		return strings.Compare(text(a), text(b))
	case 5, 6:
		return compareDocuments(bson.Raw(a.Value), bson.Raw(b.Value))
	case 7:
		if len(a.Value) != len(b.Value) {
			return cmp.Compare(len(a.Value), len(b.Value))
		}
		return bytes.Compare(a.Value[4:], b.Value[4:])
	case 10:
		return cmp.Compare(int64(le.Uint64(a.Value)), int64(le.Uint64(b.Value)))
	case 11:
		return cmp.Compare(le.Uint64(a.Value), le.Uint64(b.Value))
	}
	return bytes.Compare(a.Value, b.Value)
}

func text(v bson.RawValue) string {
	if len(v.Value) < 5 {
		return ""
	}
	return string(v.Value[4 : len(v.Value)-1])
}

func compareDocuments(a, b bson.Raw) int {
	ea, _ := a.Elements()
	eb, _ := b.Elements()
	for i := range min(len(ea), len(eb)) {
		va, vb := ea[i].Value(), eb[i].Value()
		if c := cmp.Compare(rank(va.Type), rank(vb.Type)); c != 0 {
			return c
		}
		if c := strings.Compare(ea[i].Key(), eb[i].Key()); c != 0 {
			return c
		}
		if c := compare(va, vb); c != 0 {
			return c
		}
	}
	return cmp.Compare(len(ea), len(eb))
}

func compareNumbers(a, b bson.RawValue) int {
	ia, aInt := integer(a)
	ib, bInt := integer(b)
	if aInt && bInt {
		return cmp.Compare(ia, ib)
	}
	return cmp.Compare(float(a), float(b))
}

func integer(v bson.RawValue) (int64, bool) {
	switch v.Type {
	case bson.TypeInt32:
		return int64(v.Int32()), true
	case bson.TypeInt64:
		return v.Int64(), true
	}
	return 0, false
}

func float(v bson.RawValue) float64 {
	if n, ok := integer(v); ok {
		return float64(n)
	}
	if f, ok := v.DoubleOK(); ok {
		return f
	}
	if d, ok := v.Decimal128OK(); ok {
		var f float64
		if _, err := fmt.Sscanf(d.String(), "%g", &f); err == nil {
			return f
		}
	}
	return math.NaN()
}

// number is the value of a number of any type, 0 for others.
func number(v bson.RawValue) int64 {
	if n, ok := integer(v); ok {
		return n
	}
	if f, ok := v.DoubleOK(); ok {
		return int64(f)
	}
	if b, ok := v.BooleanOK(); ok && b {
		return 1
	}
	return 0
}

// truthy is how the server reads a flag.
func truthy(v bson.RawValue) bool {
	switch v.Type {
	case 0, bson.TypeNull, bson.TypeUndefined:
		return false
	case bson.TypeBoolean:
		return v.Boolean()
	}
	if rank(v.Type) == 3 {
		return float(v) != 0
	}
	return true
}

// key makes equal values of index keys equal strings: numbers of different types are equal.
func key(v bson.RawValue) string {
	switch rank(v.Type) {
	case 3:
		if f := float(v); f == math.Trunc(f) && math.Abs(f) < 1<<53 {
			return fmt.Sprint("n", int64(f))
		}
	case 5, 6:
		var b strings.Builder
		b.WriteByte(byte(v.Type))
		elements, _ := bson.Raw(v.Value).Elements()
		for _, e := range elements {
			inner := key(e.Value())
			fmt.Fprintf(&b, "%q=%d:%s", e.Key(), len(inner), inner)
		}
		return b.String()
	}
	return string(byte(v.Type)) + string(v.Value)
}

// lookups returns the values that a dotted path leads to, arrays walked through as queries do.
func lookups(doc bson.Raw, path string) []bson.RawValue {
	head, rest, dotted := strings.Cut(path, ".")
	v, err := doc.LookupErr(head)
	if err != nil {
		return nil
	}
	if !dotted {
		return []bson.RawValue{v}
	}
	switch v.Type {
	case bson.TypeEmbeddedDocument:
		return lookups(bson.Raw(v.Value), rest)
	case bson.TypeArray:
		out := lookups(bson.Raw(v.Value), rest) // by position
		values, _ := v.Array().Values()
		for _, e := range values {
			if e.Type == bson.TypeEmbeddedDocument {
				out = append(out, lookups(bson.Raw(e.Value), rest)...)
			}
		}
		return out
	}
	return nil
}

// rawOf marshals what tests and replies are made of.
func rawOf(v any) bson.Raw {
	if r, ok := v.(bson.Raw); ok {
		return r
	}
	b, err := bson.Marshal(v)
	if err != nil {
		panic("mongotest: " + err.Error())
	}
	return b
}

// elements are the elements of a document as pairs that can go into another.
func elements(doc bson.Raw) bson.D {
	var d bson.D
	list, _ := doc.Elements()
	for _, e := range list {
		d = append(d, bson.E{Key: e.Key(), Value: e.Value()})
	}
	return d
}

// without leaves fields out.
func without(doc bson.Raw, keys ...string) bson.D {
	d := bson.D{}
	list, _ := doc.Elements()
next:
	for _, e := range list {
		for _, k := range keys {
			if e.Key() == k {
				continue next
			}
		}
		d = append(d, bson.E{Key: e.Key(), Value: e.Value()})
	}
	return d
}
