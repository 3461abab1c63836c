package oplog

import (
	"bytes"
	"errors"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// doc makes a document of extended JSON.
func doc(t testing.TB, json string) bson.Raw {
	t.Helper()
	var raw bson.Raw
	if err := bson.UnmarshalExtJSON([]byte(json), false, &raw); err != nil {
		t.Fatalf("%s: %v", json, err)
	}
	return raw
}

func TestApplyUpdate(t *testing.T) {
	for _, c := range []struct{ name, doc, update, want string }{
		{"set in place and at the end", `{"_id":1,"a":1,"b":2}`, `{"$v":1,"$set":{"a":5,"c":3}}`, `{"_id":1,"a":5,"b":2,"c":3}`},
		{"the value's type is the update's", `{"_id":1,"a":1}`, `{"$set":{"a":{"$numberLong":"1"}}}`, `{"_id":1,"a":{"$numberLong":"1"}}`},
		{"unset", `{"_id":1,"a":1,"b":2}`, `{"$v":1,"$unset":{"a":true,"z":true}}`, `{"_id":1,"b":2}`},
		{"dotted", `{"_id":1,"a":{"x":1,"y":2}}`, `{"$v":1,"$set":{"a.x":5,"a.z":6}}`, `{"_id":1,"a":{"x":5,"y":2,"z":6}}`},
		{"the path is created", `{"_id":1}`, `{"$v":1,"$set":{"a.b.c":1,"a.b.d":2}}`, `{"_id":1,"a":{"b":{"c":1,"d":2}}}`},
		{"numbers are names in documents", `{"_id":1}`, `{"$v":1,"$set":{"a.0":1}}`, `{"_id":1,"a":{"0":1}}`},
		{"array element", `{"_id":1,"a":[1,2,3]}`, `{"$v":1,"$set":{"a.1":9}}`, `{"_id":1,"a":[1,9,3]}`},
		{"array end", `{"_id":1,"a":[1]}`, `{"$v":1,"$set":{"a.1":9}}`, `{"_id":1,"a":[1,9]}`},
		{"array padding", `{"_id":1,"a":[1]}`, `{"$v":1,"$set":{"a.3":9}}`, `{"_id":1,"a":[1,null,null,9]}`},
		{"array of documents", `{"_id":1,"a":[{"x":1},{"x":2}]}`, `{"$v":1,"$set":{"a.1.x":5},"$unset":{"a.0.x":true}}`, `{"_id":1,"a":[{},{"x":5}]}`},
		{"unset of an element", `{"_id":1,"a":[1,2]}`, `{"$v":1,"$unset":{"a.0":true}}`, `{"_id":1,"a":[null,2]}`},
		{"unset through a scalar", `{"_id":1,"a":1}`, `{"$v":1,"$unset":{"a.b":true}}`, `{"_id":1,"a":1}`},

		{"diff: u, i, d", `{"_id":1,"a":1,"b":2,"c":3}`, `{"$v":2,"diff":{"d":{"b":false},"u":{"a":7},"i":{"z":1,"y":2}}}`, `{"_id":1,"a":7,"c":3,"z":1,"y":2}`},
		{"diff: i moves to the end", `{"_id":1,"a":1,"b":2}`, `{"$v":2,"diff":{"i":{"a":3}}}`, `{"_id":1,"b":2,"a":3}`},
		{"diff: sub-document", `{"_id":1,"a":{"x":1,"y":{"z":1}}}`, `{"$v":2,"diff":{"sa":{"u":{"x":2},"sy":{"i":{"w":1}}}}}`, `{"_id":1,"a":{"x":2,"y":{"z":1,"w":1}}}`},
		{"diff: array", `{"_id":1,"a":[1,2,3]}`, `{"$v":2,"diff":{"sa":{"a":true,"u1":9}}}`, `{"_id":1,"a":[1,9,3]}`},
		{"diff: shorter", `{"_id":1,"a":[1,2,3]}`, `{"$v":2,"diff":{"sa":{"a":true,"l":1}}}`, `{"_id":1,"a":[1]}`},
		{"diff: longer", `{"_id":1,"a":[1]}`, `{"$v":2,"diff":{"sa":{"a":true,"l":4,"u3":9}}}`, `{"_id":1,"a":[1,null,null,9]}`},
		{"diff: in an element", `{"_id":1,"a":[{"x":1},[1]]}`, `{"$v":2,"diff":{"sa":{"a":true,"s0":{"u":{"x":2}},"s1":{"a":true,"u0":5}}}}`, `{"_id":1,"a":[{"x":2},[5]]}`},
		{"diff: field called a", `{"_id":1,"x":{"a":1}}`, `{"$v":2,"diff":{"sx":{"u":{"a":2}}}}`, `{"_id":1,"x":{"a":2}}`},
		{"diff: fields called d, s, u", `{"_id":1,"d":1,"s":{"s":1},"u":1}`, `{"$v":2,"diff":{"d":{"d":false},"u":{"u":2},"ss":{"u":{"s":2}}}}`, `{"_id":1,"s":{"s":2},"u":2}`},
		{"diff: empty field name", `{"_id":1,"":{"x":1}}`, `{"$v":2,"diff":{"s":{"u":{"x":2}}}}`, `{"_id":1,"":{"x":2}}`},
		{"diff: binary", `{"_id":1,"data":{"x":{"$binary":{"base64":"AAECAw==","subType":"07"}}}}`,
			`{"$v":2,"diff":{"sdata":{"b":{"x":{"o":2,"d":{"$binary":{"base64":"CQkJ","subType":"00"}}}}}}}`,
			`{"_id":1,"data":{"x":{"$binary":{"base64":"AAEJCQk=","subType":"07"}}}}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, strict := range []bool{true, false} {
				before := doc(t, c.doc)
				got, err := applyUpdate(before, doc(t, c.update), strict)
				if err != nil {
					t.Fatal(err)
				}
				if want := doc(t, c.want); !bytes.Equal(got, want) {
					t.Errorf("got %v, want %v", got, want)
				}
				if !bytes.Equal(before, doc(t, c.doc)) {
					t.Error("the document before the update is changed")
				}
			}
		})
	}
}

// TestUnfit applies updates to documents that have later ones already, as in a window, and that should not be there.
func TestUnfit(t *testing.T) {
	for _, c := range []struct{ name, doc, update, want string }{
		{"path through a scalar", `{"_id":1,"a":5}`, `{"$v":1,"$set":{"a.b":1,"c":2}}`, `{"_id":1,"a":5,"c":2}`},
		{"name in an array", `{"_id":1,"a":[1]}`, `{"$v":1,"$set":{"a.b":1}}`, `{"_id":1,"a":[1]}`},
		{"diff of a scalar", `{"_id":1,"a":5}`, `{"$v":2,"diff":{"sa":{"u":{"b":1}},"i":{"c":1}}}`, `{"_id":1,"a":5,"c":1}`},
		{"diff of a field that is gone", `{"_id":1}`, `{"$v":2,"diff":{"sa":{"u":{"b":1}}}}`, `{"_id":1}`},
		{"diff of an array that is a document", `{"_id":1,"a":{}}`, `{"$v":2,"diff":{"sa":{"a":true,"u0":1}}}`, `{"_id":1,"a":{}}`},
		{"diff of an element that is gone", `{"_id":1,"a":[]}`, `{"$v":2,"diff":{"sa":{"a":true,"s0":{"u":{"b":1}}}}}`, `{"_id":1,"a":[null]}`},
		{"removal of a field that is gone", `{"_id":1}`, `{"$v":2,"diff":{"d":{"b":false}}}`, `{"_id":1}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := applyUpdate(doc(t, c.doc), doc(t, c.update), false)
			if err != nil || !bytes.Equal(got, doc(t, c.want)) {
				t.Errorf("got %v, %v, want %s", got, err, c.want)
			}
			if got, err := applyUpdate(doc(t, c.doc), doc(t, c.update), true); !errors.Is(err, errUnfit) {
				t.Errorf("where nothing may be missing: %v, %v", got, err)
			}
		})
	}
}

func TestUnknownUpdates(t *testing.T) {
	for _, update := range []string{`{"$v":3,"diff":{}}`, `{"$v":2,"$set":{"a":1}}`, `{"$v":2,"diff":{},"x":1}`, `{"$inc":{"a":1}}`,
		`{"$v":1,"$push":{"a":1}}`, `{"$set":5}`, `{"$v":2,"diff":{"q":{}}}`, `{"$v":2,"diff":{"u":5}}`, `{"$v":"1","$set":{}}`,
		`{"$v":2,"diff":{"sa":{"a":true,"x1":1}}}`, `{"$v":2,"diff":{"sa":{"a":true,"u2":1,"u1":1}}}`,
		`{"$v":2,"diff":{"sa":{"a":true,"l":-1}}}`, `{"$v":2,"diff":{"sa":{"a":true,"l":2000000000}}}`,
		`{"$v":2,"diff":{"u":{"a":1},"d":{"a":false}}}`, `{"$v":1,"$set":{"a.9999999":1}}`} {
		if got, err := applyUpdate(doc(t, `{"_id":1,"a":[1,2,3]}`), doc(t, update), false); err == nil {
			t.Errorf("%s makes %v", update, got)
		}
	}
}

func TestKeys(t *testing.T) {
	key := func(json string) string {
		e, _ := first(doc(t, `{"_id":`+json+`}`))
		return keyOf(e)
	}
	for _, same := range [][]string{
		{`1`, `{"$numberLong":"1"}`, `1.0`, `{"$numberDouble":"1.0"}`, `{"$numberDecimal":"1"}`, `{"$numberDecimal":"1.000"}`, `{"$numberDecimal":"0.1E1"}`},
		{`0`, `{"$numberDouble":"-0.0"}`, `{"$numberDecimal":"0E10"}`, `{"$numberDecimal":"-0"}`},
		{`0.5`, `{"$numberDecimal":"0.50"}`},
		{`{"$numberDouble":"NaN"}`, `{"$numberDecimal":"NaN"}`},
		{`{"$numberDouble":"-Infinity"}`, `{"$numberDecimal":"-Infinity"}`},
		{`{"a":1,"b":[2]}`, `{"a":{"$numberLong":"1"},"b":[2.0]}`},
		{`"x"`, `{"$symbol":"x"}`},
	} {
		for _, other := range same[1:] {
			if key(same[0]) != key(other) {
				t.Errorf("%s and %s have different keys", same[0], other)
			}
		}
	}
	different := []string{`1`, `2`, `"1"`, `true`, `null`, `{"a":1}`, `{"b":1}`, `[1]`, `{"0":1}`, `0.1`, `{"$numberDecimal":"0.1"}`,
		`{"$numberDecimal":"9999999999999999999999"}`, `{"$numberDecimal":"1E6000"}`, `{"$numberDecimal":"1E-6000"}`,
		`{"$oid":"000000000000000000000001"}`, `{"$date":1}`, `{"$timestamp":{"t":0,"i":1}}`, `{"$minKey":1}`,
		`{"$binary":{"base64":"AQ==","subType":"00"}}`, `{"$binary":{"base64":"AQ==","subType":"05"}}`}
	seen := map[string]string{}
	for _, v := range different {
		if old, ok := seen[key(v)]; ok {
			t.Errorf("%s and %s have the same key", v, old)
		}
		seen[key(v)] = v
	}
}
