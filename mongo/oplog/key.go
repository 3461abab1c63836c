package oplog

import (
	"encoding/binary"
	"math"
	"math/big"
	"strconv"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// keyOf returns what stands for an _id: equal for values that a server's _id index takes for equal, such as 1 and 1.0.
func keyOf(id element) string { return string(appendKey(nil, id)) }

func appendKey(dst []byte, e element) []byte {
	switch e.typ {
	case bson.TypeInt32, bson.TypeInt64:
		n, _ := e.integer()
		return appendIntKey(dst, n)
	case bson.TypeDouble:
		return appendFloatKey(dst, float(e.value))
	case bson.TypeDecimal128:
		return appendDecimalKey(dst, e.value)
	case bson.TypeSymbol:
		return append(append(dst, byte(bson.TypeString)), e.value...)
	case bson.TypeEmbeddedDocument, bson.TypeArray:
		dst = append(dst, byte(e.typ))
		_ = each(e.value, func(e element) error {
			dst = append(append(append(dst, 1), e.name...), 0)
			dst = appendKey(dst, e)
			return nil
		})
		return append(dst, 0)
	}
	return append(append(dst, byte(e.typ)), e.value...)
}

func appendIntKey(dst []byte, n int64) []byte {
	return binary.BigEndian.AppendUint64(append(dst, byte(bson.TypeInt64)), uint64(n))
}

func appendFloatKey(dst []byte, f float64) []byte {
	if f == math.Trunc(f) && f >= -1<<63 && f < 1<<63 {
		return appendIntKey(dst, int64(f))
	}
	if f != f {
		f = math.NaN() // there are many
	}
	return binary.BigEndian.AppendUint64(append(dst, byte(bson.TypeDouble)), math.Float64bits(f))
}

func appendDecimalKey(dst, value []byte) []byte {
	d := bson.NewDecimal128(binary.LittleEndian.Uint64(value[8:]), binary.LittleEndian.Uint64(value))
	switch {
	case d.IsNaN():
		return appendFloatKey(dst, math.NaN())
	case d.IsInf() != 0:
		return appendFloatKey(dst, math.Inf(d.IsInf()))
	}
	n, exp, err := d.BigInt()
	if err != nil {
		return append(append(dst, byte(bson.TypeDecimal128)), value...)
	}
	ten := big.NewInt(10)
	for n.Sign() != 0 { // 1.50 is 1.5
		q, r := new(big.Int).QuoRem(n, ten, new(big.Int))
		if r.Sign() != 0 {
			break
		}
		n, exp = q, exp+1
	}
	if n.Sign() == 0 {
		return appendIntKey(dst, 0)
	}
	scale := new(big.Int).Exp(ten, big.NewInt(int64(max(exp, -exp))), nil)
	exact := new(big.Rat).SetInt(n)
	if exp < 0 {
		exact.Quo(exact, new(big.Rat).SetInt(scale))
	} else {
		exact.Mul(exact, new(big.Rat).SetInt(scale))
	}
	if exact.IsInt() && exact.Num().IsInt64() {
		return appendIntKey(dst, exact.Num().Int64())
	}
	if f, same := exact.Float64(); same {
		return appendFloatKey(dst, f)
	}
	dst = append(append(dst, byte(bson.TypeDecimal128)), n.String()...)
	return strconv.AppendInt(append(dst, 'E'), int64(exp), 10)
}

func float(value []byte) float64 { return math.Float64frombits(binary.LittleEndian.Uint64(value)) }
