package query

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// doc makes a document of extended JSON.
func doc(t testing.TB, text string) bson.Raw {
	t.Helper()
	raw, err := ParseDocument(text)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// TestMatch is what a server does, by its documentation and its own tests of queries.
func TestMatch(t *testing.T) {
	for _, c := range []struct{ query, yes, no string }{ // documents are separated by |
		{`{}`, `{}|{"a":1}`, ``},
		{`{"a":1}`, `{"a":1}|{"a":1.0}|{"a":{"$numberLong":"1"}}|{"a":{"$numberDecimal":"1.0"}}|{"a":[2,1]}`, `{}|{"a":"1"}|{"a":[[1]]}|{"a":true}|{"b":1}`},
		{`{"a":null}`, `{}|{"a":null}|{"a":[1,null]}|{"a":{"$undefined":true}}`, `{"a":0}|{"a":[]}|{"a":{}}`},
		{`{"a.b":null}`, `{}|{"a":{}}|{"a":1}|{"a":{"b":null}}|{"a":[{"b":1},{}]}`, `{"a":{"b":1}}|{"a":[{"b":1}]}|{"a":[]}|{"a":[1]}`},
		{`{"a":[1,2]}`, `{"a":[1,2]}|{"a":[[1,2]]}`, `{"a":[2,1]}|{"a":[1,2,3]}|{"a":1}`},
		{`{"a":{"b":1,"c":2}}`, `{"a":{"b":1,"c":2}}|{"a":{"b":1.0,"c":2}}|{"a":[{"b":1,"c":2}]}`, `{"a":{"c":2,"b":1}}|{"a":{"b":1}}`},
		{`{"a":{"$eq":{"$oid":"65000003c8d04605312f8088"}}}`, `{"a":{"$oid":"65000003c8d04605312f8088"}}`, `{"a":"65000003c8d04605312f8088"}`},
		{`{"a":{"$ne":1}}`, `{}|{"a":2}|{"a":[2,3]}|{"a":null}`, `{"a":1}|{"a":[1,2]}`},
		{`{"a":{"$ne":null}}`, `{"a":1}|{"a":[]}`, `{}|{"a":null}|{"a":[null]}`},
		{`{"a":{"$gt":1}}`, `{"a":2}|{"a":1.5}|{"a":[0,2]}|{"a":{"$numberDecimal":"1.0000000000000000000000001"}}`, `{"a":1}|{"a":"2"}|{}|{"a":null}|{"a":{"$numberDouble":"NaN"}}`},
		{`{"a":{"$gte":1,"$lt":3}}`, `{"a":1}|{"a":[0,5]}`, `{"a":3}|{"a":0}`}, // a list: each by another element
		{`{"a":{"$lte":null}}`, `{}|{"a":null}`, `{"a":0}`},
		{`{"a":{"$lt":null}}`, ``, `{}|{"a":null}|{"a":0}`},
		{`{"a":{"$lt":"b"}}`, `{"a":"a"}|{"a":"aé"}|{"a":""}`, `{"a":"b"}|{"a":1}`},
		{`{"a":{"$gt":{"$date":"2026-01-01T00:00:00Z"}}}`, `{"a":{"$date":"2026-01-02T00:00:00Z"}}`, `{"a":{"$date":"2025-12-31T00:00:00Z"}}|{"a":{"$timestamp":{"t":1800000000,"i":1}}}`},
		{`{"a":{"$lt":{"$date":"1970-01-01T00:00:00Z"}}}`, `{"a":{"$date":"1960-01-02T00:00:00Z"}}`, `{"a":{"$date":"1971-12-31T00:00:00Z"}}`},
		{`{"a":{"$gt":{"$numberLong":"9007199254740992"}}}`, `{"a":{"$numberLong":"9007199254740993"}}`, `{"a":9007199254740992.0}`},
		{`{"a":{"$gte":{"$numberDouble":"NaN"}}}`, `{"a":{"$numberDouble":"NaN"}}|{"a":{"$numberDecimal":"NaN"}}`, `{"a":1}|{"a":"x"}`},
		{`{"a":{"$lt":{"$numberDouble":"Infinity"}}}`, `{"a":1}|{"a":{"$numberDecimal":"1E+6000"}}`, `{"a":{"$numberDecimal":"Infinity"}}|{"a":{"$numberDouble":"NaN"}}`},
		{`{"a":{"$gt":[1,2]}}`, `{"a":[1,3]}|{"a":[2]}|{"a":[[1,3]]}`, `{"a":[1,2]}|{"a":[1]}|{"a":3}`},
		{`{"a":{"$gt":{"b":1}}}`, `{"a":{"b":2}}|{"a":{"c":0}}|{"a":{"b":"x"}}`, `{"a":{"b":1}}|{"a":{}}|{"a":{"a":9}}`},
		{`{"a":{"$gt":false}}`, `{"a":true}`, `{"a":false}|{"a":1}`},
		{`{"a":{"$gt":{"$binary":{"base64":"AAA=","subType":"00"}}}}`, `{"a":{"$binary":{"base64":"AAAA","subType":"00"}}}|{"a":{"$binary":{"base64":"AAA=","subType":"05"}}}`, `{"a":{"$binary":{"base64":"/w==","subType":"00"}}}`},
		{`{"a":{"$in":[1,"x",null]}}`, `{"a":1}|{"a":"x"}|{}|{"a":[3,"x"]}`, `{"a":2}|{"a":[]}`},
		{`{"a":{"$in":[]}}`, ``, `{}|{"a":1}|{"a":[]}`},
		{`{"a":{"$in":[{"$regularExpression":{"pattern":"^x","options":""}},2]}}`, `{"a":"xy"}|{"a":2}`, `{"a":"yx"}`},
		{`{"a":{"$nin":[1,2]}}`, `{}|{"a":3}|{"a":[3]}`, `{"a":1}|{"a":[3,2]}`},
		{`{"a":{"$exists":true}}`, `{"a":null}|{"a":1}|{"a":[]}`, `{}|{"b":1}`},
		{`{"a.b":{"$exists":false}}`, `{}|{"a":1}|{"a":[]}|{"a":[{"c":1}]}`, `{"a":{"b":null}}|{"a":[{},{"b":1}]}`},
		{`{"a":{"$exists":0}}`, `{}`, `{"a":1}`},
		{`{"a":{"$type":"string"}}`, `{"a":"x"}|{"a":[1,"x"]}`, `{"a":1}|{}`},
		{`{"a":{"$type":["int","null"]}}`, `{"a":1}|{"a":null}`, `{"a":1.5}|{}`},
		{`{"a":{"$type":"number"}}`, `{"a":1}|{"a":1.5}|{"a":{"$numberLong":"1"}}|{"a":{"$numberDecimal":"1"}}`, `{"a":"1"}`},
		{`{"a":{"$type":"array"}}`, `{"a":[]}|{"a":[[1]]}`, `{"a":1}`},
		{`{"a":{"$type":-1}}`, `{"a":{"$minKey":1}}`, `{"a":{"$maxKey":1}}`},
		{`{"a":{"$type":127}}`, `{"a":{"$maxKey":1}}`, `{"a":{"$minKey":1}}`},
		{`{"a":{"$regex":"^ab+c$"}}`, `{"a":"abbc"}|{"a":["x","abc"]}|{"a":"abc\n"}`, `{"a":"ABC"}|{"a":"abc\nx"}|{"a":1}|{}`},
		{`{"a":{"$regex":"^b","$options":"im"}}`, `{"a":"x\nBc"}`, `{"a":"xb"}`},
		{`{"a":{"$options":"s","$regex":"a.b","$ne":"a.b"}}`, `{"a":"a\nb"}`, `{"a":"a.b"}`},
		{`{"a":{"$regularExpression":{"pattern":"x","options":"i"}}}`, `{"a":"aXa"}|{"a":{"$regularExpression":{"pattern":"x","options":"i"}}}`, `{"a":{"$regularExpression":{"pattern":"x","options":""}}}`},
		{`{"a":{"$size":2}}`, `{"a":[1,2]}`, `{"a":[1]}|{"a":2}|{}|{"a":[[1,2],3,4]}`},
		{`{"a.b":{"$size":1}}`, `{"a":[{"b":[]},{"b":[1]}]}`, `{"a":[{"b":[1,2]}]}`},
		{`{"a":{"$size":0}}`, `{"a":[]}`, `{"a":[1]}|{}|{"a":null}`},
		{`{"a":{"$all":[1,2]}}`, `{"a":[2,1,3]}`, `{"a":[1]}|{"a":1}`},
		{`{"a":{"$all":[1]}}`, `{"a":1}|{"a":[1]}`, `{"a":2}`},
		{`{"a":{"$all":[]}}`, ``, `{"a":[]}|{"a":1}|{}`},
		{`{"a":{"$all":[[1,2]]}}`, `{"a":[1,2]}|{"a":[[1,2]]}`, `{"a":[2,1]}`},
		{`{"a":{"$all":[{"$elemMatch":{"b":1,"c":2}},{"$elemMatch":{"b":3}}]}}`, `{"a":[{"b":1,"c":2},{"b":3}]}`, `{"a":[{"b":1,"c":2}]}|{"a":[{"b":1},{"c":2},{"b":3}]}`},
		{`{"a":{"$elemMatch":{"b":1,"c":{"$gt":1}}}}`, `{"a":[{"b":2},{"b":1,"c":2}]}`, `{"a":[{"b":1},{"c":2}]}|{"a":{"b":1,"c":2}}|{"a":[]}`},
		{`{"a":{"$elemMatch":{"$gt":1,"$lt":3}}}`, `{"a":[5,2]}`, `{"a":[1,3]}|{"a":2}|{"a":[[2]]}`},
		{`{"a":{"$elemMatch":{"$not":{"$gt":1}}}}`, `{"a":[5,1]}|{"a":["x"]}`, `{"a":[2,3]}|{"a":[]}|{"a":1}`},
		{`{"a":{"$elemMatch":{"$in":[1,2]}}}`, `{"a":[0,2]}`, `{"a":[3]}|{"a":1}`},
		{`{"a":{"$elemMatch":{"$or":[{"b":1},{"c":2}]}}}`, `{"a":[{"c":2}]}`, `{"a":[{"c":1}]}`},
		{`{"a":{"$not":{"$gt":1}}}`, `{}|{"a":1}|{"a":"x"}`, `{"a":2}|{"a":[0,2]}`},
		{`{"a":{"$not":{"$gt":1,"$lt":5}}}`, `{}|{"a":1}|{"a":7}`, `{"a":2}|{"a":[0,7]}`},
		{`{"a":{"$not":{"$regularExpression":{"pattern":"^x","options":""}}}}`, `{}|{"a":"y"}|{"a":1}`, `{"a":"xy"}`},
		{`{"a":{"$not":{"$not":{"$eq":1}}}}`, `{"a":1}`, `{"a":2}|{}`},
		{`{"$and":[{"a":1},{"b":{"$gt":2}}]}`, `{"a":1,"b":3}`, `{"a":1}|{"a":1,"b":2}`},
		{`{"$or":[{"a":1},{"b":2}],"c":3}`, `{"a":1,"c":3}|{"b":2,"c":3}`, `{"a":1}|{"c":3}`},
		{`{"$nor":[{"a":1},{"b":2}]}`, `{}|{"a":2}`, `{"a":1}|{"b":2}`},
		{`{"$comment":"why","a":1}`, `{"a":1}`, `{"a":2}`},
		{`{"a.b.c":1}`, `{"a":{"b":{"c":1}}}|{"a":[{"b":[{"c":2},{"c":1}]}]}|{"a":{"b":{"c":[1]}}}`, `{"a":{"b":1}}|{"a":[[{"b":{"c":1}}]]}|{"a.b.c":1}`},
		{`{"a.1":2}`, `{"a":[1,2]}|{"a":{"1":2}}|{"a":[{"1":2}]}`, `{"a":[2,1]}|{"a":[2]}`},
		{`{"a.0.b":1}`, `{"a":[{"b":1}]}|{"a":{"0":{"b":1}}}`, `{"a":[{"b":2},{"b":1}]}`},
		{`{"a.0.1":2}`, `{"a":[[1,2]]}`, `{"a":[1,2]}|{"a":[[2,1]]}`},
		{`{"a.00":1}`, `{"a":{"00":1}}`, `{"a":[1]}`},
		{`{"a.b":{"$ne":1}}`, `{}|{"a":[]}|{"a":[{"b":2}]}`, `{"a":[{"b":2},{"b":1}]}`},
		{`{"a":{"$ref":"c","$id":1}}`, `{"a":{"$ref":"c","$id":1}}`, `{"a":{"$ref":"c","$id":2}}`},
		{`{"a":{"$minKey":1}}`, `{"a":{"$minKey":1}}`, `{"a":{"$maxKey":1}}|{}`},
		{`{"a":{}}`, `{"a":{}}`, `{}|{"a":{"b":1}}|{"a":[]}`},
	} {
		q, err := Parse(c.query)
		if err != nil {
			t.Errorf("%s: %v", c.query, err)
			continue
		}
		for want, list := range map[bool]string{true: c.yes, false: c.no} {
			for _, text := range strings.Split(list, "|") {
				if text == "" {
					continue
				}
				if got, err := q.Match(doc(t, text)); err != nil || got != want {
					t.Errorf("%s of %s: %v, %v", c.query, text, got, err)
				}
			}
		}
	}
}

// TestRefuse: what cannot be evaluated is an error that names it.
func TestRefuse(t *testing.T) {
	for query, want := range map[string]string{
		``:                                    "it is empty",
		`[]`:                                  "it is no document",
		`{a: 1}`:                              "names of fields and texts are in double quotes",
		`{"a":1} x`:                           "it is no JSON at byte 9",
		`{"a":{"$oid":"65"}}`:                 "it is no extended JSON",
		`{"$where":"1"}`:                      "$where cannot be used without a server",
		`{"$expr":{}}`:                        "$expr cannot be used",
		`{"$text":{"$search":"x"}}`:           "$text cannot be used",
		`{"a":{"$near":[1,2]}}`:               "a: the operator $near cannot be used",
		`{"a":{"$mod":[2,1]}}`:                "$mod cannot be used",
		`{"a":{"$gt":1,"b":2}}`:               "the operator b",
		`{"$eq":1}`:                           "$eq cannot stand here",
		`{"a":{"$and":[{"b":1}]}}`:            "$and cannot stand here",
		`{"$and":[]}`:                         "at least one query",
		`{"$or":[1]}`:                         "a list of queries",
		`{"$or":{"a":1}}`:                     "$or needs a list",
		`{"a":{"$in":1}}`:                     "$in needs a list",
		`{"a":{"$in":[{"$gt":1}]}}`:           "takes values",
		`{"a":{"$regex":"(?=x)"}}`:            "cannot be used without a server",
		`{"a":{"$regex":"x","$options":"x"}}`: `the option "x"`,
		`{"a":{"$regex":1}}`:                  "needs a text",
		`{"a":{"$options":"i"}}`:              "needs a $regex",
		`{"a":{"$size":-1}}`:                  "number of elements",
		`{"a":{"$size":1.5}}`:                 "number of elements",
		`{"a":{"$type":"text"}}`:              `no type "text"`,
		`{"a":{"$type":0}}`:                   "name or the number",
		`{"a":{"$type":255}}`:                 "name or the number",
		`{"a":{"$type":[]}}`:                  "at least one type",
		`{"a":{"$all":1}}`:                    "needs a list",
		`{"a":{"$all":[{"$gt":1}]}}`:          "or $elemMatch alone",
		`{"a":{"$elemMatch":1}}`:              "needs a query",
		`{"a":{"$not":1}}`:                    "$not needs operators",
		`{"a":{"$not":{}}}`:                   "$not needs operators",
		`{"a":{"$ne":{"$regularExpression":{"pattern":"x","options":""}}}}`:      "takes no expression",
		`{"a":{"$gt":{"$minKey":1}}}`:                                            "takes no value of that type",
		strings.Repeat(`{"$and":[`, 101) + `{"a":1}` + strings.Repeat(`]}`, 101): "deep in one another",
	} {
		if q, err := Parse(query); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, %v", query, q, err)
		}
	}
	q, err := Parse(`{"a":1}`)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := q.Match(bson.Raw("\x09\x00\x00\x00\x02a\x00\x05\x00")); err == nil {
		t.Error("a document that is cut was matched")
	}
}

// TestCompare orders values of all types.
func TestCompare(t *testing.T) {
	order := []string{`{"$minKey":1}`, `{"$undefined":true}`, `null`, `{"$numberDouble":"NaN"}`, `{"$numberDouble":"-Infinity"}`, `{"$numberDecimal":"-1E+400"}`,
		`-1.5`, `{"$numberDecimal":"-1E-6000"}`, `0`, `{"$numberDecimal":"1E-6000"}`, `5e-324`, `1`, `{"$numberDecimal":"1.00000000000000000000000000001"}`, `1.0000000000000002`,
		`{"$numberLong":"9007199254740992"}`, `{"$numberLong":"9007199254740993"}`, `1e300`, `{"$numberDecimal":"1E+400"}`, `{"$numberDouble":"Infinity"}`,
		`""`, `"Z"`, `"a"`, `"a\u0000"`, `"é"`, `{}`, `{"a":"x"}`, `{"b":"x"}`, `{"a":{}}`, `[]`, `[1]`, `[1,2]`, `["a"]`, `{"$binary":{"base64":"/w==","subType":"00"}}`, `{"$binary":{"base64":"AAA=","subType":"00"}}`,
		`{"$oid":"650000000000000000000000"}`, `false`, `true`, `{"$date":{"$numberLong":"-1"}}`, `{"$date":{"$numberLong":"1"}}`,
		`{"$timestamp":{"t":1,"i":2}}`, `{"$timestamp":{"t":2,"i":1}}`, `{"$regularExpression":{"pattern":"a","options":""}}`, `{"$code":"a"}`, `{"$maxKey":1}`}
	var values []bson.RawValue
	for _, text := range order {
		values = append(values, doc(t, fmt.Sprintf(`{"v":%s}`, text)).Lookup("v"))
	}
	for i, a := range values {
		for j, b := range values {
			want := min(max(i-j, -1), 1)
			if got := Compare(a, b); got != want {
				t.Errorf("%s with %s: %d, want %d", order[i], order[j], got, want)
			}
		}
	}
}

func TestPaths(t *testing.T) {
	q, err := Parse(`{"b.c":1,"$or":[{"a":{"$elemMatch":{"x":1}}},{"$and":[{"b.c":{"$gt":1}}]}]}`)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"a", "b.c"}; !slices.Equal(q.Paths(), want) {
		t.Errorf("%v, want %v", q.Paths(), want)
	}
}

// FuzzParse: no text makes it panic, and what is accepted matches its own canonical form.
func FuzzParse(f *testing.F) {
	for _, s := range []string{`{}`, `{"a":{"$gt":1}}`, `{"$or":[{"a.0.b":{"$in":[1,null]}},{"c":{"$elemMatch":{"$not":{"$type":"int"}}}}]}`,
		`{"a":{"$regex":"^x$","$options":"i"}}`, `{"a":{"$all":[{"$elemMatch":{"b":1}}]}}`, `{"a":{"$numberDecimal":"1E-6176"}}`, `{"a":{"$size":1}}`} {
		f.Add(s, []byte{5, 0, 0, 0, 0})
	}
	f.Fuzz(func(t *testing.T, text string, data []byte) {
		q, err := Parse(text)
		if err != nil {
			return
		}
		again, err := Compile(q.Raw())
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range []bson.Raw{data, q.Raw()} {
			one, err1 := q.Match(d)
			two, err2 := again.Match(d)
			if one != two || (err1 == nil) != (err2 == nil) {
				t.Errorf("%v, %v and %v, %v", one, err1, two, err2)
			}
		}
		not, err := Parse(`{"$nor":[` + text + `]}`)
		if err != nil {
			return // too deep by now
		}
		one, err := q.Match(data)
		if two, _ := not.Match(data); err == nil && one == two {
			t.Errorf("%s and its opposite both say %v", text, one)
		}
	})
}

// FuzzMatch: no document makes it panic.
func FuzzMatch(f *testing.F) {
	var queries []*Query
	for _, s := range []string{`{"a":{"$gt":1}}`, `{"a.b":{"$in":[null,"x"]},"c":{"$exists":true}}`, `{"a.0":{"$size":1}}`, `{"a":{"$elemMatch":{"$lt":{"x":[1]}}}}`,
		`{"a":{"$gte":{"$numberDecimal":"1.5"}}}`, `{"a":{"$type":"array"}}`, `{"a":{"$lt":{"$binary":{"base64":"AA==","subType":"00"}}}}`, `{"a":{"$eq":{"$code":"x","$scope":{"a":1}}}}`,
		`{"a":{"$lt":{"$date":{"$numberLong":"1"}}}}`, `{"a":{"$not":{"$regex":"x"}}}`} {
		q, err := Parse(s)
		if err != nil {
			f.Fatal(err)
		}
		queries = append(queries, q)
		f.Add([]byte(q.Raw()))
	}
	f.Add([]byte(doc(f, `{"a":[{"b":"x"},[1]],"c":{"$numberDecimal":"NaN"}}`)))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, q := range queries {
			_, _ = q.Match(data)
		}
	})
}
