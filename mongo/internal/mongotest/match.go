package mongotest

import (
	"regexp"
	"slices"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// match says whether a document satisfies a query. Known are equality, dotted paths, the comparisons, $in, $nin, $exists,
// $type, $regex, $not, $size, $elemMatch, $mod, $and, $or, $nor and the keyword required of $jsonSchema; anything else is an error.
func match(doc, query bson.Raw) (bool, error) {
	list, err := query.Elements()
	if err != nil {
		return false, errorf(2, "BadValue", "%v", err)
	}
	for _, e := range list {
		ok, err := matchElement(doc, e.Key(), e.Value())
		if !ok || err != nil {
			return false, err
		}
	}
	return true, nil
}

func matchElement(doc bson.Raw, field string, want bson.RawValue) (bool, error) {
	switch field {
	case "$and", "$or", "$nor":
		values, err := want.Array().Values()
		if err != nil {
			return false, errorf(2, "BadValue", "%s must be an array", field)
		}
		for _, v := range values {
			ok, err := match(doc, bson.Raw(v.Value))
			if err != nil {
				return false, err
			}
			if ok != (field == "$and") {
				return field == "$or", nil
			}
		}
		return field != "$or", nil
	case "$comment":
		return true, nil
	case "$jsonSchema":
		if required, ok := want.Document().Lookup("required").ArrayOK(); ok {
			values, _ := required.Values()
			for _, v := range values {
				if _, err := doc.LookupErr(v.StringValue()); err != nil {
					return false, nil
				}
			}
		}
		return true, nil
	}
	if strings.HasPrefix(field, "$") {
		return false, errorf(2, "BadValue", "unknown top level operator: %s", field)
	}
	got := lookups(doc, field)
	if want.Type == bson.TypeEmbeddedDocument {
		operators, _ := bson.Raw(want.Value).Elements()
		if len(operators) > 0 && strings.HasPrefix(operators[0].Key(), "$") {
			for _, op := range operators {
				ok, err := matchOperator(got, op.Key(), op.Value(), bson.Raw(want.Value))
				if !ok || err != nil {
					return false, err
				}
			}
			return true, nil
		}
	}
	return matchOperator(got, "$eq", want, nil)
}

// any calls f for each value and for the elements of arrays.
func anyOf(values []bson.RawValue, f func(v bson.RawValue) bool) bool {
	for _, v := range values {
		if f(v) {
			return true
		}
		if v.Type == bson.TypeArray {
			inner, _ := v.Array().Values()
			if slices.ContainsFunc(inner, f) {
				return true
			}
		}
	}
	return false
}

func matchOperator(got []bson.RawValue, op string, want bson.RawValue, all bson.Raw) (bool, error) {
	comparison := func(test func(c int) bool) (bool, error) {
		return anyOf(got, func(v bson.RawValue) bool { return rank(v.Type) == rank(want.Type) && test(compare(v, want)) }), nil
	}
	switch op {
	case "$eq":
		if want.Type == bson.TypeRegex {
			pattern, options := want.Regex()
			return matchRegex(got, pattern, options)
		}
		if want.Type == bson.TypeNull && len(got) == 0 {
			return true, nil
		}
		return comparison(func(c int) bool { return c == 0 })
	case "$ne":
		ok, err := matchOperator(got, "$eq", want, nil)
		return !ok, err
	case "$gt", "$gte", "$lt", "$lte":
		if want.Type == bson.TypeMinKey || want.Type == bson.TypeMaxKey { // the only ones that cross types
			return anyOf(got, func(v bson.RawValue) bool {
				c := compare(v, want)
				return c == 0 && strings.HasSuffix(op, "e") || c > 0 && op[1] == 'g' || c < 0 && op[1] == 'l'
			}), nil
		}
		return comparison(func(c int) bool {
			return c == 0 && strings.HasSuffix(op, "e") || c > 0 && op[1] == 'g' || c < 0 && op[1] == 'l'
		})
	case "$in", "$nin":
		values, err := want.Array().Values()
		if err != nil {
			return false, errorf(2, "BadValue", "%s needs an array", op)
		}
		for _, v := range values {
			if ok, err := matchOperator(got, "$eq", v, nil); ok || err != nil {
				return ok == (op == "$in"), err
			}
		}
		return op == "$nin", nil
	case "$exists":
		return (len(got) > 0) == truthy(want), nil
	case "$type":
		return anyOf(got, func(v bson.RawValue) bool {
			if name, ok := want.StringValueOK(); ok {
				return name == typeName(v.Type) || name == "number" && rank(v.Type) == 3
			}
			return int64(v.Type) == number(want)
		}), nil
	case "$regex":
		if pattern, options, ok := want.RegexOK(); ok {
			return matchRegex(got, pattern, options)
		}
		options, _ := all.Lookup("$options").StringValueOK()
		return matchRegex(got, want.StringValue(), options)
	case "$options":
		return true, nil
	case "$not":
		if pattern, options, ok := want.RegexOK(); ok {
			yes, err := matchRegex(got, pattern, options)
			return !yes, err
		}
		list, _ := want.Document().Elements()
		for _, e := range list {
			ok, err := matchOperator(got, e.Key(), e.Value(), want.Document())
			if !ok || err != nil {
				return true, err
			}
		}
		return false, nil
	case "$size":
		for _, v := range got {
			if v.Type == bson.TypeArray {
				inner, _ := v.Array().Values()
				if int64(len(inner)) == number(want) {
					return true, nil
				}
			}
		}
		return false, nil
	case "$elemMatch":
		for _, v := range got {
			if v.Type != bson.TypeArray {
				continue
			}
			inner, _ := v.Array().Values()
			for _, e := range inner {
				if e.Type != bson.TypeEmbeddedDocument {
					continue
				}
				if ok, err := match(bson.Raw(e.Value), want.Document()); ok || err != nil {
					return ok, err
				}
			}
		}
		return false, nil
	case "$mod":
		values, err := want.Array().Values()
		if err != nil || len(values) != 2 || number(values[0]) == 0 {
			return false, errorf(2, "BadValue", "malformed mod")
		}
		return anyOf(got, func(v bson.RawValue) bool {
			return rank(v.Type) == 3 && number(v)%number(values[0]) == number(values[1])
		}), nil
	}
	return false, errorf(2, "BadValue", "unknown operator: %s", op)
}

func matchRegex(got []bson.RawValue, pattern, options string) (bool, error) {
	if options = strings.Map(func(r rune) rune {
		if strings.ContainsRune("ims", r) {
			return r
		}
		return -1
	}, options); options != "" {
		pattern = "(?" + options + ")" + pattern
	}
	re, err := regexp.Compile(pattern)
	if err != nil {
		return false, errorf(51091, "Location51091", "%v", err)
	}
	return anyOf(got, func(v bson.RawValue) bool { return v.Type == bson.TypeString && re.MatchString(text(v)) }), nil
}

func typeName(t bson.Type) string {
	switch t {
	case bson.TypeInt32:
		return "int"
	case bson.TypeInt64:
		return "long"
	case bson.TypeEmbeddedDocument:
		return "object"
	case bson.TypeBoolean:
		return "bool"
	case bson.TypeObjectID:
		return "objectId"
	case bson.TypeBinary:
		return "binData"
	case bson.TypeDateTime:
		return "date"
	case bson.TypeDecimal128:
		return "decimal"
	}
	return t.String()
}

// project applies a find's projection of inclusions or exclusions.
func project(doc, projection bson.Raw) bson.Raw {
	list, _ := projection.Elements()
	if len(list) == 0 {
		return doc
	}
	include, id := false, true
	names := map[string]bool{}
	for _, e := range list {
		if e.Key() == "_id" {
			id = truthy(e.Value())
			if len(list) == 1 && id {
				include = true
			}
			continue
		}
		names[e.Key()] = true
		include = include || truthy(e.Value())
	}
	out := bson.D{}
	for _, e := range elements(doc) {
		if e.Key == "_id" && id || e.Key != "_id" && names[e.Key] == include {
			out = append(out, e)
		}
	}
	return rawOf(out)
}

// sortDocuments sorts by a sort document.
func sortDocuments(docs []bson.Raw, by bson.Raw) {
	list, _ := by.Elements()
	if len(list) == 1 && list[0].Key() == "$natural" {
		if number(list[0].Value()) < 0 {
			slices.Reverse(docs)
		}
		return
	}
	slices.SortStableFunc(docs, func(a, b bson.Raw) int {
		for _, e := range list {
			var va, vb bson.RawValue
			if v := lookups(a, e.Key()); len(v) > 0 {
				va = v[0]
			}
			if v := lookups(b, e.Key()); len(v) > 0 {
				vb = v[0]
			}
			if c := compare(va, vb); c != 0 {
				if number(e.Value()) < 0 {
					return -c
				}
				return c
			}
		}
		return 0
	})
}
