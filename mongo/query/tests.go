package query

import (
	"math"
	"regexp"
	"slices"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// perElement is a test that holds for a list if it does for one of its elements, too.
type perElement struct{}

func (perElement) whole() bool { return false }

// onWhole is a test of lists as such.
type onWhole struct{}

func (onWhole) whole() bool { return true }

// negated holds where another test does not.
type negated struct{ test }

func (n negated) holds(v bson.RawValue) bool { return !n.test.holds(v) }

// equal is equality with a value. null is equal to what is not there.
type equal struct {
	perElement
	want bson.RawValue
}

func (t *equal) holds(v bson.RawValue) bool {
	if isNull(t.want) {
		return isNull(v)
	}
	return rank(v.Type) == rank(t.want.Type) && Compare(v, t.want) == 0
}

// isNull reports whether a value is null, undefined, or not there.
func isNull(v bson.RawValue) bool {
	return v.Type == 0 || v.Type == bson.TypeNull || v.Type == bson.TypeUndefined
}

// ordered is a comparison, of values of the same kind alone.
type ordered struct {
	perElement
	want                bson.RawValue
	less, same, greater bool // which outcomes it takes
}

func (t *ordered) holds(v bson.RawValue) bool {
	if isNull(t.want) {
		return t.same && isNull(v)
	}
	if rank(v.Type) != rank(t.want.Type) {
		return false
	}
	if a, b := isNaN(v), isNaN(t.want); a || b {
		return t.same && a && b
	}
	switch c := Compare(v, t.want); {
	case c < 0:
		return t.less
	case c > 0:
		return t.greater
	}
	return t.same
}

// among is equality with one of several values, or a match of one of several expressions.
type among struct {
	perElement
	values []test
}

func (t *among) holds(v bson.RawValue) bool {
	return slices.ContainsFunc(t.values, func(one test) bool { return one.holds(v) })
}

type exists struct{ perElement }

func (exists) holds(v bson.RawValue) bool { return v.Type != 0 }

// ofType holds for values of some types.
type ofType struct {
	perElement
	types []bson.Type
}

func (t *ofType) holds(v bson.RawValue) bool { return v.Type != 0 && slices.Contains(t.types, v.Type) }

// expression holds for texts that a regular expression matches, and for that expression itself.
type expression struct {
	perElement
	re   *regexp.Regexp
	self bson.RawValue // zero where it has no form as a value
}

func (t *expression) holds(v bson.RawValue) bool {
	switch v.Type {
	case bson.TypeString, bson.TypeSymbol:
		return t.re.Match(textOf(v))
	case bson.TypeRegex:
		return v.Equal(t.self)
	}
	return false
}

// sized holds for lists of a length.
type sized struct {
	onWhole
	n int
}

func (t *sized) holds(v bson.RawValue) bool {
	if v.Type != bson.TypeArray {
		return false
	}
	n := 0
	elements(bson.Raw(v.Value), func(string, bson.RawValue) bool { n++; return n <= t.n })
	return n == t.n
}

// anElement holds for lists of which an element satisfies all of several tests, or a query.
type anElement struct {
	onWhole
	tests []test // nil where query is meant
	query node
}

func (t *anElement) holds(v bson.RawValue) bool {
	if v.Type != bson.TypeArray {
		return false
	}
	return !elements(bson.Raw(v.Value), func(_ string, e bson.RawValue) bool {
		if t.query != nil {
			return e.Type != bson.TypeEmbeddedDocument && e.Type != bson.TypeArray || !t.query.match(bson.Raw(e.Value))
		}
		return !every(t.tests, e)
	})
}

func every(list []test, v bson.RawValue) bool {
	return !slices.ContainsFunc(list, func(one test) bool { return !one.holds(v) })
}

// each is a conjunction of tests on one value: as the operand of $not within $elemMatch.
type each struct {
	perElement
	tests []test
}

func (t *each) holds(v bson.RawValue) bool { return every(t.tests, v) }

// never holds for nothing.
type never struct{ perElement }

func (never) holds(bson.RawValue) bool { return false }

func isNaN(v bson.RawValue) bool {
	if f, ok := v.DoubleOK(); ok {
		return math.IsNaN(f)
	}
	d, ok := v.Decimal128OK()
	return ok && d.IsNaN()
}
