package query

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"math"
	"math/big"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// rank orders BSON's types as a server's sort does. Types of one rank compare by their values.
func rank(t bson.Type) int {
	switch t {
	case bson.TypeMinKey:
		return 0
	case 0, bson.TypeUndefined:
		return 1
	case bson.TypeNull:
		return 2
	case bson.TypeInt32, bson.TypeInt64, bson.TypeDouble, bson.TypeDecimal128:
		return rankNumber
	case bson.TypeString, bson.TypeSymbol:
		return rankText
	case bson.TypeEmbeddedDocument:
		return rankDocument
	case bson.TypeArray:
		return rankList
	case bson.TypeBinary:
		return rankBinary
	case bson.TypeObjectID:
		return 8
	case bson.TypeBoolean:
		return 9
	case bson.TypeDateTime:
		return rankDate
	case bson.TypeTimestamp:
		return rankTimestamp
	case bson.TypeRegex:
		return 12
	case bson.TypeDBPointer:
		return 13
	case bson.TypeJavaScript:
		return rankCode
	case bson.TypeCodeWithScope:
		return 15
	case bson.TypeMaxKey:
		return 16
	}
	return 17
}

const (
	rankNumber    = 3
	rankText      = 4
	rankDocument  = 5
	rankList      = 6
	rankBinary    = 7
	rankDate      = 10
	rankTimestamp = 11
	rankCode      = 14
)

// Compare orders two values of valid documents as a server's sort does, without a collation: by the kinds of types first.
// Numbers compare by their value, whatever their type; NaN is the least of them.
func Compare(a, b bson.RawValue) int {
	if c := cmp.Compare(rank(a.Type), rank(b.Type)); c != 0 {
		return c
	}
	switch rank(a.Type) {
	case rankNumber:
		return compareNumbers(a, b)
	case rankText, rankCode:
		return bytes.Compare(textOf(a), textOf(b))
	case rankDocument:
		return compareDocuments(bson.Raw(a.Value), bson.Raw(b.Value), true)
	case rankList:
		return compareDocuments(bson.Raw(a.Value), bson.Raw(b.Value), false)
	case rankBinary: // by length first, then by subtype and content
		return cmp.Or(cmp.Compare(len(a.Value), len(b.Value)), bytes.Compare(a.Value[4:], b.Value[4:]))
	case rankDate:
		return cmp.Compare(int64(binary.LittleEndian.Uint64(a.Value)), int64(binary.LittleEndian.Uint64(b.Value)))
	case rankTimestamp:
		return cmp.Compare(binary.LittleEndian.Uint64(a.Value), binary.LittleEndian.Uint64(b.Value))
	}
	return bytes.Compare(a.Value, b.Value)
}

// textOf are the bytes of a text, without its length and its end.
func textOf(v bson.RawValue) []byte { return v.Value[4:max(4, len(v.Value)-1)] }

// compareDocuments compares field by field: the kinds of their types, their names unless they are a list's, their values.
func compareDocuments(a, b bson.Raw, names bool) int {
	ea, _ := a.Elements()
	eb, _ := b.Elements()
	for i := range min(len(ea), len(eb)) {
		va, vb := ea[i].Value(), eb[i].Value()
		if c := cmp.Compare(rank(va.Type), rank(vb.Type)); c != 0 {
			return c
		}
		if names {
			if c := cmp.Compare(ea[i].Key(), eb[i].Key()); c != 0 {
				return c
			}
		}
		if c := Compare(va, vb); c != 0 {
			return c
		}
	}
	return cmp.Compare(len(ea), len(eb))
}

// compareNumbers compares exactly.
func compareNumbers(a, b bson.RawValue) int {
	ia, aInt := integer(a)
	ib, bInt := integer(b)
	if aInt && bInt {
		return cmp.Compare(ia, ib)
	}
	na, nb := isNaN(a), isNaN(b)
	switch {
	case na && nb:
		return 0
	case na:
		return -1
	case nb:
		return 1
	}
	fa, fb := float(a), float(b)
	// A double says which is greater, unless both are near one another, or beyond what it can hold.
	const near = 1e-9
	if !math.IsInf(fa, 0) && !math.IsInf(fb, 0) && math.Abs(fa-fb) > near*max(math.Abs(fa), math.Abs(fb)) && math.Abs(fa)+math.Abs(fb) > 1e-300 {
		return cmp.Compare(fa, fb)
	}
	xa, infA := exact(a)
	xb, infB := exact(b)
	if infA != 0 || infB != 0 {
		return cmp.Compare(infA, infB)
	}
	return xa.Cmp(xb)
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

// float is a number as a double, which may be another one near it.
func float(v bson.RawValue) float64 {
	if n, ok := integer(v); ok {
		return float64(n)
	}
	if f, ok := v.DoubleOK(); ok {
		return f
	}
	x, inf := exact(v)
	if inf != 0 {
		return math.Inf(inf)
	}
	f, _ := x.Float64()
	return f
}

// exact is a number that is not NaN as it is, or the sign of an infinite one.
func exact(v bson.RawValue) (x *big.Rat, inf int) {
	if n, ok := integer(v); ok {
		return new(big.Rat).SetInt64(n), 0
	}
	if f, ok := v.DoubleOK(); ok {
		if math.IsInf(f, 0) {
			return nil, cmp.Compare(f, 0)
		}
		return new(big.Rat).SetFloat64(f), 0
	}
	d := v.Decimal128()
	if inf := d.IsInf(); inf != 0 {
		return nil, inf
	}
	digits, exp, err := d.BigInt()
	if err != nil {
		return new(big.Rat), 0 // NaN, which is dealt with before
	}
	power := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(max(exp, -exp))), nil)
	if exp < 0 {
		return new(big.Rat).SetFrac(digits, power), 0
	}
	return new(big.Rat).SetInt(new(big.Int).Mul(digits, power)), 0
}
