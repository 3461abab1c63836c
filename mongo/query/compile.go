package query

import (
	"fmt"
	"math"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"
)

const maxDepth = 100 // of operators and documents in one another, as on a server

// A compiler makes nodes of documents, and notes which fields they ask for.
type compiler struct{ paths []string }

// document compiles a query, or a part of one.
func (c *compiler) document(doc bson.Raw, depth int) (node, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("operators are more than %d deep in one another", maxDepth)
	}
	var list and
	var err error
	elements(doc, func(key string, v bson.RawValue) bool {
		var n node
		if strings.HasPrefix(key, "$") {
			n, err = c.logical(key, v, depth)
		} else {
			n, err = c.field(key, v, depth)
		}
		list = append(list, n)
		return err == nil
	})
	if err != nil {
		return nil, err
	}
	return list, nil
}

// logical compiles an operator on whole documents.
func (c *compiler) logical(op string, v bson.RawValue, depth int) (node, error) {
	switch op {
	case "$and", "$or", "$nor":
	case "$comment":
		return and{}, nil
	default:
		return nil, c.unknown(op)
	}
	values, err := list(op, v)
	if err != nil {
		return nil, err
	}
	if len(values) == 0 {
		return nil, fmt.Errorf("%s needs a list of at least one query", op)
	}
	var nodes []node
	for _, e := range values {
		if e.Type != bson.TypeEmbeddedDocument {
			return nil, fmt.Errorf("%s needs a list of queries", op)
		}
		n, err := c.document(bson.Raw(e.Value), depth+1)
		if err != nil {
			return nil, err
		}
		nodes = append(nodes, n)
	}
	switch op {
	case "$and":
		return and(nodes), nil
	case "$or":
		return or(nodes), nil
	}
	return not{or(nodes)}, nil
}

// known are the operators, for people.
const known = "$eq $ne $gt $gte $lt $lte $in $nin $exists $type $regex $options $size $all $elemMatch $not $and $or $nor $comment"

func (c *compiler) unknown(op string) error {
	if slices.Contains(strings.Fields(known), op) {
		return fmt.Errorf("%s cannot stand here", op)
	}
	return fmt.Errorf("the operator %s cannot be used without a server; there are %s", op, known)
}

// field compiles a condition on a field.
func (c *compiler) field(name string, v bson.RawValue, depth int) (node, error) {
	c.paths = append(c.paths, name)
	path := strings.Split(name, ".")
	tests, err := c.tests(v, depth)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	var nodes and
	for _, t := range tests {
		nodes = append(nodes, onField(path, t))
	}
	return nodes, nil
}

// onField makes a condition of a test: where the test is negated, no value may be what it says.
func onField(path []string, t test) node {
	switch t := t.(type) {
	case negated:
		return not{onField(path, t.test)}
	case *each:
		var nodes and
		for _, one := range t.tests {
			nodes = append(nodes, onField(path, one))
		}
		return nodes
	}
	return &field{path, t}
}

// tests compiles what stands behind a field: a value, an expression, or operators.
func (c *compiler) tests(v bson.RawValue, depth int) ([]test, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("operators are more than %d deep in one another", maxDepth)
	}
	if !isOperators(v) {
		t, err := value(v)
		return []test{t}, err
	}
	var out []test
	var err error
	doc := bson.Raw(v.Value)
	elements(doc, func(op string, operand bson.RawValue) bool {
		var t test
		if t, err = c.operator(op, operand, doc, depth); err == nil && t != nil {
			out = append(out, t)
		}
		return err == nil
	})
	return out, err
}

// isOperators tells operators from a document that is meant as a value. DBRefs are values.
func isOperators(v bson.RawValue) bool {
	if v.Type != bson.TypeEmbeddedDocument {
		return false
	}
	operators := false
	elements(bson.Raw(v.Value), func(key string, _ bson.RawValue) bool {
		operators = strings.HasPrefix(key, "$") && key != "$ref" && key != "$id" && key != "$db"
		return false
	})
	return operators
}

// value compiles a value that a field is compared with.
func value(v bson.RawValue) (test, error) {
	if v.Type == bson.TypeRegex {
		pattern, options := v.Regex()
		return newExpression(pattern, options, v)
	}
	return &equal{want: v}, nil
}

// operator compiles one operator; all are those beside it. A nil test says that another one deals with it.
func (c *compiler) operator(op string, v bson.RawValue, all bson.Raw, depth int) (test, error) {
	switch op {
	case "$eq":
		return &equal{want: v}, nil
	case "$ne":
		if v.Type == bson.TypeRegex {
			return nil, fmt.Errorf("$ne takes no expression: write {\"$not\": ...}")
		}
		return negated{&equal{want: v}}, nil
	case "$gt", "$gte", "$lt", "$lte":
		return newOrdered(op, v)
	case "$in", "$nin":
		return newAmong(op, v)
	case "$exists":
		if truthy(v) {
			return exists{}, nil
		}
		return negated{exists{}}, nil
	case "$type":
		return newOfType(v)
	case "$regex":
		return newRegex(v, all)
	case "$options":
		if lookup(all, "$regex").Type == 0 {
			return nil, fmt.Errorf("$options needs a $regex")
		}
		return nil, nil
	case "$size":
		n, ok := whole(v)
		if !ok || n < 0 || n > math.MaxInt32 {
			return nil, fmt.Errorf("$size needs a number of elements")
		}
		return &sized{n: int(n)}, nil
	case "$all":
		return c.all(v, depth)
	case "$elemMatch":
		return c.elemMatch(v, depth)
	case "$not":
		return c.not(v, depth)
	}
	return nil, c.unknown(op)
}

func newOrdered(op string, v bson.RawValue) (test, error) {
	switch v.Type {
	case bson.TypeRegex, bson.TypeMinKey, bson.TypeMaxKey, bson.TypeUndefined:
		return nil, fmt.Errorf("%s takes no value of that type", op)
	}
	return &ordered{want: v, less: op[1] == 'l', greater: op[1] == 'g', same: strings.HasSuffix(op, "e")}, nil
}

func newAmong(op string, v bson.RawValue) (test, error) {
	values, err := list(op, v)
	if err != nil {
		return nil, err
	}
	t := &among{}
	for _, e := range values {
		if isOperators(e) {
			return nil, fmt.Errorf("%s takes values, and no operators", op)
		}
		one, err := value(e)
		if err != nil {
			return nil, err
		}
		t.values = append(t.values, one)
	}
	if op == "$nin" {
		return negated{t}, nil
	}
	return t, nil
}

// typeNames are the types by the names that queries have for them.
var typeNames = map[string][]bson.Type{
	"double": {bson.TypeDouble}, "string": {bson.TypeString}, "object": {bson.TypeEmbeddedDocument}, "array": {bson.TypeArray},
	"binData": {bson.TypeBinary}, "undefined": {bson.TypeUndefined}, "objectId": {bson.TypeObjectID}, "bool": {bson.TypeBoolean},
	"date": {bson.TypeDateTime}, "null": {bson.TypeNull}, "regex": {bson.TypeRegex}, "dbPointer": {bson.TypeDBPointer},
	"javascript": {bson.TypeJavaScript}, "symbol": {bson.TypeSymbol}, "javascriptWithScope": {bson.TypeCodeWithScope},
	"int": {bson.TypeInt32}, "timestamp": {bson.TypeTimestamp}, "long": {bson.TypeInt64}, "decimal": {bson.TypeDecimal128},
	"minKey": {bson.TypeMinKey}, "maxKey": {bson.TypeMaxKey},
	"number": {bson.TypeDouble, bson.TypeInt32, bson.TypeInt64, bson.TypeDecimal128},
}

func newOfType(v bson.RawValue) (test, error) {
	values := []bson.RawValue{v}
	if v.Type == bson.TypeArray {
		var err error
		if values, err = list("$type", v); err != nil {
			return nil, err
		}
	}
	t := &ofType{}
	for _, e := range values {
		if name, ok := e.StringValueOK(); ok {
			types := typeNames[name]
			if types == nil {
				return nil, fmt.Errorf("$type: there is no type %q", name)
			}
			t.types = append(t.types, types...)
			continue
		}
		n, ok := whole(e)
		known := false
		for _, types := range typeNames {
			known = known || len(types) == 1 && int64(types[0]) == n&0xff && (n > 0 && n <= 0x7f || n == -1)
		}
		if !ok || !known {
			return nil, fmt.Errorf("$type needs the name or the number of a type, or a list of them")
		}
		t.types = append(t.types, bson.Type(n&0xff))
	}
	if len(t.types) == 0 {
		return nil, fmt.Errorf("$type needs at least one type")
	}
	return t, nil
}

func newRegex(v bson.RawValue, all bson.Raw) (test, error) {
	options := ""
	if o := lookup(all, "$options"); o.Type != 0 {
		var ok bool
		if options, ok = o.StringValueOK(); !ok {
			return nil, fmt.Errorf("$options is a text, such as \"i\"")
		}
	}
	if pattern, own, ok := v.RegexOK(); ok {
		if own != "" && options != "" {
			return nil, fmt.Errorf("options are both in $regex and in $options")
		}
		return newExpression(pattern, own+options, v)
	}
	pattern, ok := v.StringValueOK()
	if !ok {
		return nil, fmt.Errorf("$regex needs a text")
	}
	return newExpression(pattern, options, bson.RawValue{})
}

func newExpression(pattern, options string, self bson.RawValue) (test, error) {
	flags := syntax.Perl
	for _, o := range options {
		switch o {
		case 'i':
			flags |= syntax.FoldCase
		case 'm':
			flags &^= syntax.OneLine
		case 's':
			flags |= syntax.DotNL
		case 'u': // texts are UTF-8 anyway
		default:
			return nil, fmt.Errorf("the option %q of an expression cannot be used without a server; there are i, m, s and u", string(o))
		}
	}
	tree, err := syntax.Parse(pattern, flags)
	if err != nil {
		return nil, fmt.Errorf("the expression %q cannot be used without a server: %w", pattern, err)
	}
	re, err := regexp.Compile(endings(tree).String())
	if err != nil {
		return nil, fmt.Errorf("the expression %q cannot be used without a server: %w", pattern, err)
	}
	return &expression{re: re, self: self}, nil
}

// endings lets $ match before a newline that ends the text, as PCRE does.
func endings(re *syntax.Regexp) *syntax.Regexp {
	if re.Op == syntax.OpEndText && re.Flags&syntax.WasDollar != 0 {
		end := &syntax.Regexp{Op: syntax.OpEndText}
		newline := &syntax.Regexp{Op: syntax.OpLiteral, Rune: []rune{'\n'}}
		maybe := &syntax.Regexp{Op: syntax.OpQuest, Sub: []*syntax.Regexp{newline}}
		return &syntax.Regexp{Op: syntax.OpConcat, Sub: []*syntax.Regexp{maybe, end}}
	}
	for i, sub := range re.Sub {
		re.Sub[i] = endings(sub)
	}
	return re
}

func (c *compiler) all(v bson.RawValue, depth int) (test, error) {
	values, err := list("$all", v)
	if err != nil {
		return nil, err
	}
	if len(values) == 0 {
		return never{}, nil
	}
	t := &each{}
	for _, e := range values {
		var one test
		switch {
		case !isOperators(e):
			one, err = value(e)
		case lookup(bson.Raw(e.Value), "$elemMatch").Type != 0:
			var some []test
			if some, err = c.tests(e, depth+1); err == nil && len(some) != 1 {
				err = fmt.Errorf("$all takes values, or $elemMatch alone")
			} else if err == nil {
				one = some[0]
			}
		default:
			err = fmt.Errorf("$all takes values, or $elemMatch alone")
		}
		if err != nil {
			return nil, err
		}
		t.tests = append(t.tests, one)
	}
	return t, nil
}

func (c *compiler) elemMatch(v bson.RawValue, depth int) (test, error) {
	if v.Type != bson.TypeEmbeddedDocument {
		return nil, fmt.Errorf("$elemMatch needs a query")
	}
	inner := &compiler{} // its fields are those of elements
	first := ""
	elements(bson.Raw(v.Value), func(key string, _ bson.RawValue) bool { first = key; return false })
	if isOperators(v) && first != "$and" && first != "$or" && first != "$nor" && first != "$comment" {
		tests, err := inner.tests(v, depth+1)
		if tests == nil {
			tests = []test{}
		}
		return &anElement{tests: tests}, err
	}
	q, err := inner.document(bson.Raw(v.Value), depth+1)
	return &anElement{query: q}, err
}

func (c *compiler) not(v bson.RawValue, depth int) (test, error) {
	if v.Type == bson.TypeRegex {
		t, err := value(v)
		return negated{t}, err
	}
	if !isOperators(v) {
		return nil, fmt.Errorf("$not needs operators, or an expression")
	}
	tests, err := c.tests(v, depth+1)
	return negated{&each{tests: tests}}, err
}

func list(op string, v bson.RawValue) (out []bson.RawValue, err error) {
	if v.Type != bson.TypeArray {
		return nil, fmt.Errorf("%s needs a list", op)
	}
	elements(bson.Raw(v.Value), func(_ string, e bson.RawValue) bool { out = append(out, e); return true })
	return out, nil
}

// whole is a whole number of any type.
func whole(v bson.RawValue) (int64, bool) {
	if n, ok := integer(v); ok {
		return n, true
	}
	f, ok := v.DoubleOK()
	return int64(f), ok && f == math.Trunc(f) && math.Abs(f) < 1<<53
}

// truthy is how a server reads a flag.
func truthy(v bson.RawValue) bool {
	switch {
	case isNull(v):
		return false
	case v.Type == bson.TypeBoolean:
		return v.Boolean()
	case rank(v.Type) == rankNumber:
		return isNaN(v) || float(v) != 0
	}
	return true
}
