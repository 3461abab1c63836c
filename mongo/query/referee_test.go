package query

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"
	driver "go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/whole-tale/wtsnap/mongo/internal/mongotest"
)

// wrong is where FerretDB 1.24 answers otherwise than a MongoDB server does: for queries that match one expression, of
// documents that match another. Each is in MongoDB's manual.
var wrong = []struct{ query, doc *regexp.Regexp }{
	// A list with no documents in it lacks no field of theirs.
	{regexp.MustCompile(`^{"a\.b":(null|{"\$[gl]te":null})}`), regexp.MustCompile(`"a": \[`)},
	// A document is equal to a list's element, and $elemMatch takes queries of elements.
	{regexp.MustCompile(`{"a":.*{("[bc0]".*)?}`), regexp.MustCompile(`"a": \[{`)},
	// $elemMatch means the elements, and never the list.
	{regexp.MustCompile(`\$elemMatch":{"\$eq":\[`), regexp.MustCompile(`"a": \[`)},
	// $all of one value is that value.
	{regexp.MustCompile(`\$all":\[{`), regexp.MustCompile(`"a": {`)},
	// A number names a list's element, and a field of the documents in it.
	{regexp.MustCompile(`{"a\.0":1}`), regexp.MustCompile(`"a": \[{"0"`)},
}

// TestAsFerretDB asks an independent server the same questions.
func TestAsFerretDB(t *testing.T) {
	uri := mongotest.Ferret(t)
	client, err := driver.Connect(options.Client().ApplyURI(uri))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Disconnect(t.Context())
	coll := client.Database("q").Collection("c")
	// It stores no lists in lists.
	values := []string{`1`, `2.0`, `{"$numberLong":"3"}`, `1.5`, `"a"`, `"ab"`, `"A"`, `""`, `null`, `true`, `false`, `[]`, `[1]`, `[1,2]`, `[2,1]`, `["a",1]`, `[null]`,
		`{}`, `{"b":1}`, `{"b":2,"c":1}`, `{"b":null}`, `{"b":[1,2]}`, `{"b":{"c":1}}`, `[{"b":1}]`, `[{"b":1},{"b":2,"c":1}]`, `[{"c":1},{}]`, `[{"b":[1]},{"b":[]}]`, `{"0":1}`, `[{"0":1}]`,
		`{"$oid":"65000003c8d04605312f8088"}`, `{"$date":"2026-01-01T00:00:00Z"}`, `{"$binary":{"base64":"AAE=","subType":"00"}}`, `{"$timestamp":{"t":1,"i":2}}`}
	var docs []bson.Raw
	for i, v := range append(slices.Clone(values), "") {
		text := fmt.Sprintf(`{"_id":%d,"a":%s,"n":%d}`, i, v, i%4)
		if v == "" {
			text = fmt.Sprintf(`{"_id":%d,"n":1}`, i)
		}
		docs = append(docs, doc(t, text))
	}
	if _, err := coll.InsertMany(t.Context(), docs); err != nil {
		t.Fatal(err)
	}
	var queries []string
	for _, v := range values {
		queries = append(queries, fmt.Sprintf(`{"a":%s}`, v), fmt.Sprintf(`{"a":{"$ne":%s}}`, v), fmt.Sprintf(`{"a.b":%s}`, v), fmt.Sprintf(`{"a":{"$in":[%s,2]}}`, v), fmt.Sprintf(`{"a":{"$nin":[%s,2]}}`, v),
			fmt.Sprintf(`{"a":{"$all":[%s]}}`, v), fmt.Sprintf(`{"a":{"$not":{"$eq":%s}}}`, v), fmt.Sprintf(`{"a":{"$elemMatch":{"$eq":%s}}}`, v))
		for _, op := range []string{"$gt", "$gte", "$lt", "$lte"} {
			queries = append(queries, fmt.Sprintf(`{"a":{"%s":%s}}`, op, v), fmt.Sprintf(`{"a.b":{"%s":%s}}`, op, v))
		}
	}
	for _, name := range []string{"double", "string", "object", "array", "binData", "objectId", "bool", "date", "null", "int", "timestamp", "long", "number"} {
		queries = append(queries, fmt.Sprintf(`{"a":{"$type":%q}}`, name), fmt.Sprintf(`{"a.b":{"$type":%q}}`, name))
	}
	queries = append(queries, `{"a":{"$exists":true}}`, `{"a":{"$exists":false}}`, `{"a.b":{"$exists":true}}`, `{"a.b":{"$exists":false}}`, `{"a.0":{"$exists":true}}`, `{"a":{"$size":0}}`, `{"a":{"$size":2}}`, `{"a.b":{"$size":1}}`,
		`{"a":{"$regex":"^a"}}`, `{"a":{"$regex":"^a","$options":"i"}}`, `{"a":{"$not":{"$regex":"b$"}}}`, `{"a":{"$type":["string","int"]}}`, `{"a.0":1}`, `{"a.1":2}`, `{"a.0.b":1}`, `{"a.b.c":1}`, `{"a.b.0":1}`,
		`{"a":{"$elemMatch":{"b":1}}}`, `{"a":{"$elemMatch":{"b":2,"c":1}}}`, `{"a":{"$elemMatch":{"$gt":1,"$lt":3}}}`, `{"a":{"$elemMatch":{"b":{"$exists":true}}}}`, `{"a":{"$all":[1,2]}}`, `{"a":{"$all":[]}}`,
		`{"$and":[{"a":1},{"n":{"$gte":1}}]}`, `{"$or":[{"a":1},{"n":2}]}`, `{"$nor":[{"a":{"$type":"array"}},{"n":2}]}`, `{"n":{"$gt":1,"$lt":3},"a":{"$ne":null}}`, `{"a":{"$not":{"$gt":1,"$lt":3}}}`)
	asked, refused := 0, 0
	for _, text := range queries {
		q, err := Parse(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		cursor, err := coll.Find(t.Context(), q.Raw(), options.Find().SetProjection(bson.D{{Key: "_id", Value: 1}}).SetBatchSize(1000))
		var list []struct {
			ID int `bson:"_id"`
		}
		if err == nil {
			err = cursor.All(t.Context(), &list)
		}
		if _, ok := errors.AsType[driver.ServerError](err); ok {
			refused++
			continue
		}
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		asked++
		var theirs, ours []int
		for _, d := range list {
			theirs = append(theirs, d.ID)
		}
		for i, d := range docs {
			if ok, err := q.Match(d); err != nil {
				t.Fatal(err)
			} else if ok {
				ours = append(ours, i)
			}
		}
		slices.Sort(theirs)
		if slices.Equal(theirs, ours) {
			continue
		}
		var diff []string
		for i, d := range docs {
			switch a, b := slices.Contains(ours, i), slices.Contains(theirs, i); {
			case a != b && isWrong(text, d):
			case a && !b:
				diff = append(diff, "ours only: "+d.String())
			case b && !a:
				diff = append(diff, "theirs only: "+d.String())
			}
		}
		if diff != nil {
			t.Errorf("%s\n\t%s", text, strings.Join(diff, "\n\t"))
		}
	}
	t.Logf("%d queries compared, %d that it cannot answer", asked, refused)
	if asked < 400 {
		t.Errorf("only %d queries were compared", asked)
	}
}

func isWrong(text string, d bson.Raw) bool {
	for _, w := range wrong {
		if w.query.MatchString(text) && w.doc.MatchString(d.String()) {
			return true
		}
	}
	return false
}
