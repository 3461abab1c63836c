package oplog

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/whole-tale/wtsnap/mongo/layout"
)

// A list is a log in memory.
type list []bson.Raw

func (l list) Entries(_ context.Context, from bson.Timestamp) iter.Seq2[bson.Raw, error] {
	return func(yield func(bson.Raw, error) bool) {
		for _, raw := range l {
			if ts, ok := TimestampOf(raw); (!ok || !ts.Before(from)) && !yield(raw, nil) {
				return
			}
		}
	}
}

// entries makes a log: the first entry is a noop at second 100, the others follow, a second each.
func entries(t testing.TB, jsons ...string) (l list) {
	t.Helper()
	for i, json := range append([]string{`"op":"n","ns":"","o":{}`}, jsons...) {
		l = append(l, doc(t, fmt.Sprintf(`{"ts":{"$timestamp":{"t":%d,"i":1}},"v":2,%s}`, 100+i, json)))
	}
	return l
}

func at(second uint32) bson.Timestamp { return bson.Timestamp{T: second, I: 1} }

// A base is a dump of a few collections at second 100.
type base map[string][]string

func (b base) fold(t testing.TB, l Log, meta map[string]string) (map[string]*Result, map[string][]string, error) {
	t.Helper()
	o := Options{Start: at(100), End: at(100), At: at(999)}
	var docs [][]bson.Raw
	for ns, list := range b {
		db, name, _ := strings.Cut(ns, ".")
		m, err := layout.ParseMetadata([]byte(cmpOr(meta[ns], `{"indexes":[{"v":2,"key":{"_id":1},"name":"_id_"}],"collectionName":"`+name+`","type":"collection"}`)))
		if err != nil {
			t.Fatal(err)
		}
		o.Collections = append(o.Collections, Collection{db, name, m})
		var raws []bson.Raw
		for _, json := range list {
			raws = append(raws, doc(t, json))
		}
		docs = append(docs, raws)
	}
	f, err := New(t.Context(), l, o)
	if err != nil {
		return nil, nil, err
	}
	results, out := map[string]*Result{}, map[string][]string{}
	for _, r := range f.Collections() {
		ns := r.DB + "." + r.Name
		results[ns], out[ns] = r, nil
		for d, err := range f.Documents(t.Context(), r, func() iter.Seq2[bson.Raw, error] {
			return func(yield func(bson.Raw, error) bool) {
				for _, d := range docs[r.Base] {
					if !yield(d, nil) {
						return
					}
				}
			}
		}) {
			if err != nil {
				return nil, nil, err
			}
			out[ns] = append(out[ns], d.String())
		}
	}
	return results, out, nil
}

func cmpOr(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// TestRefused: what cannot be folded is named, with its timestamp.
func TestRefused(t *testing.T) {
	b := base{"g.c": {`{"_id":1,"a":5}`}}
	const ui = `"ui":{"$binary":{"base64":"AAAAAAAAAAAAAAAAAAAAAA==","subType":"04"}},`
	for _, c := range []struct{ name, entry, ns, why string }{
		{"unknown operator", `"op":"u","ns":"g.c","o":{"$inc":{"a":1}},"o2":{"_id":1}`, "g.c", "$inc"},
		{"unknown version", `"op":"u","ns":"g.c","o":{"$v":3,"diff":{}},"o2":{"_id":1}`, "g.c", "version"},
		{"no document", `"op":"u","ns":"g.c","o":{"$v":1,"$set":{"a":1}},"o2":{"_id":2}`, "g.c", "not there"},
		{"another document", `"op":"u","ns":"g.c","o":{"$v":1,"$set":{"a.b":1}},"o2":{"_id":1}`, "g.c", "not the one"},
		{"no _id", `"op":"i","ns":"g.c","o":{"a":1}`, "g.c", "_id"},
		{"unknown kind", `"op":"q","ns":"g.c","o":{"_id":1}`, "g.c", `"q"`},
		{"unknown command", `"op":"c","ns":"g.$cmd","o":{"importCollection":"c"}`, "g.$cmd", "importCollection"},
		{"unknown collection", `"op":"i","ns":"g.other",` + ui + `"o":{"_id":1}`, "g.other", "beginning"},
		{"rename from nowhere", `"op":"c","ns":"g.$cmd",` + ui + `"o":{"renameCollection":"g.system.resharding.x","to":"g.z"}`, "g.z", "beginning"},
		{"commit of nothing known", `"op":"c","ns":"admin.$cmd","prevOpTime":{"ts":{"$timestamp":{"t":50,"i":1}},"t":1},"o":{"commitTransaction":1}`, "admin.$cmd", "50.1"},
		{"inside a transaction", `"op":"c","ns":"admin.$cmd","o":{"applyOps":[{"op":"u","ns":"g.c","o":{"$inc":{"a":1}},"o2":{"_id":1}}]}`, "g.c", "$inc"},
		{"collMod", `"op":"c","ns":"g.$cmd","o":{"collMod":"c","magic":1}`, "g.$cmd", "magic"},
		{"update after delete", `"op":"c","ns":"admin.$cmd","o":{"applyOps":[{"op":"d","ns":"g.c","o":{"_id":1}},{"op":"u","ns":"g.c","o":{"$v":2,"diff":{}},"o2":{"_id":1}}]}`, "g.c", "deleted"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, docs, err := b.fold(t, entries(t, `"op":"n","ns":"","o":{}`, c.entry), nil)
			var r *RefusedError
			if !errors.As(err, &r) {
				t.Fatalf("folded to %v, %v", docs, err)
			}
			if r.Timestamp != at(102) || r.Namespace != c.ns || !strings.Contains(err.Error(), c.why) {
				t.Errorf("%v", err)
			}
		})
	}
	// Of what nobody asked for nothing is refused.
	_, docs, err := b.fold(t, entries(t, `"op":"u","ns":"config.transactions","o":{"$inc":{"a":1}},"o2":{"_id":1}`,
		`"op":"i","ns":"local.x","o":{}`, `"op":"c","ns":"g.$cmd","o":{"startIndexBuild":"c"}`, `"op":"km","ns":"x","o":{}`), nil)
	if err != nil || !slices.Equal(docs["g.c"], []string{`{"_id": {"$numberInt":"1"},"a": {"$numberInt":"5"}}`}) {
		t.Errorf("%v, %v", docs, err)
	}
}

func TestParseErrors(t *testing.T) {
	for _, json := range []string{`{"op":"i","ns":"a.b","o":{}}`, `{"ts":5,"op":"i"}`, `{"ts":{"$timestamp":{"t":1,"i":1}},"ns":"a.b"}`,
		`{"ts":{"$timestamp":{"t":1,"i":1}},"op":"u","ns":"a.b","o":{}}`, `{"ts":{"$timestamp":{"t":1,"i":1}},"op":"i","ns":"a","o":{}}`,
		`{"ts":{"$timestamp":{"t":1,"i":1}},"op":"i","ns":"a.b","o":5}`, `{"ts":{"$timestamp":{"t":1,"i":1}},"op":"c","ns":"a.$cmd","prevOpTime":5,"o":{}}`} {
		if e, err := Parse(doc(t, json)); err == nil {
			t.Errorf("%s is read as %+v", json, e)
		}
	}
	if _, err := Parse(bson.Raw{5, 0, 0, 0, 1}); err == nil {
		t.Error("broken bytes are an entry")
	}
}

// TestCatalog follows what entries make of collections' metadata, in the forms of servers of all ages.
func TestCatalog(t *testing.T) {
	meta := map[string]string{
		"g.c":    `{"options":{"capped":true,"size":{"$numberInt":"100"},"max":{"$numberInt":"3"}},"indexes":[{"v":1,"key":{"_id":1},"name":"_id_","ns":"g.c"}]}`,
		"g.w":    `{"options":{"viewOn":"c","pipeline":[]},"indexes":[],"collectionName":"w","type":"view"}`,
		"g.gone": `{"options":{"viewOn":"c","pipeline":[]},"indexes":[],"collectionName":"gone","type":"view"}`,
	}
	b := base{"g.c": {`{"_id":1}`, `{"_id":2}`, `{"_id":3}`}, "g.w": nil, "g.gone": nil, "h.x": {`{"_id":1}`}}
	results, docs, err := b.fold(t, entries(t,
		`"op":"i","ns":"g.system.indexes","o":{"v":1,"key":{"a":1},"name":"a_1","ns":"g.c"}`,
		`"op":"i","ns":"g.c","o":{"_id":4}`,
		`"op":"u","ns":"g.c","o":{"$set":{"x":1}},"o2":{"_id":0}`,
		`"op":"c","ns":"g.$cmd","o":{"collMod":"c","index":{"keyPattern":{"a":1},"expireAfterSeconds":60},"validator":{"a":1},"validationLevel":"off","usePowerOf2Sizes":true}`,
		`"op":"i","ns":"g.system.views","o":{"_id":"g.v","viewOn":"c","pipeline":[{"$match":{}}]}`,
		`"op":"u","ns":"g.system.views","o":{"$v":1,"$set":{"viewOn":"d"}},"o2":{"_id":"g.w"}`,
		`"op":"d","ns":"g.system.views","o":{"_id":"g.gone"}`,
		`"op":"c","ns":"g.$cmd","o":{"create":"system.buckets.ts","validator":{"x":1},"clusteredIndex":true,"timeseries":{"timeField":"t","metaField":"m"},"expireAfterSeconds":5}`,
		`"op":"i","ns":"g.system.views","o":{"_id":"g.ts","viewOn":"system.buckets.ts","pipeline":[]}`,
		`"op":"i","ns":"g.system.buckets.ts","o":{"_id":1,"control":{}}`,
		`"op":"c","ns":"g.$cmd","o":{"createIndexes":"system.buckets.ts","v":2,"key":{"meta":1,"meta.k":-1,"control.min.t":1,"control.max.t":1},"name":"i"}`,
		`"op":"c","ns":"g.$cmd","o":{"collMod":"system.buckets.ts","timeseries":{"granularity":"hours"},"expireAfterSeconds":"off"}`,
		`"op":"c","ns":"h.$cmd","o":{"renameCollection":"h.x","to":"k.y","dropTarget":true}`,
		`"op":"c","ns":"g.$cmd","o":{"create":"clustered","clusteredIndex":{"v":2,"key":{"_id":1},"name":"_id_","unique":true}}`,
		`"op":"c","ns":"g.$cmd","o":{"create":"tmp"}`,
		`"op":"c","ns":"g.$cmd","o":{"drop":"tmp"}`,
		`"op":"u","b":true,"ns":"k.y","o":{"$set":{"n":1}},"o2":{"_id":7}`,
	), meta)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"g.c":         `{"options":{"capped":true,"size":{"$numberInt":"100"},"max":{"$numberInt":"3"},"validator":{"a":{"$numberInt":"1"}},"validationLevel":"off"},"indexes":[{"v":{"$numberInt":"1"},"key":{"_id":{"$numberInt":"1"}},"name":"_id_","ns":"g.c"},{"v":{"$numberInt":"1"},"key":{"a":{"$numberInt":"1"}},"name":"a_1","ns":"g.c","expireAfterSeconds":{"$numberInt":"60"}}]}`,
		"g.v":         `{"options":{"viewOn":"c","pipeline":[{"$match":{}}]},"indexes":[],"collectionName":"v","type":"view"}`,
		"g.w":         `{"options":{"viewOn":"d","pipeline":[]},"indexes":[],"collectionName":"w","type":"view"}`,
		"g.ts":        `{"options":{"timeseries":{"timeField":"t","metaField":"m","granularity":"hours"}},"indexes":[{"v":{"$numberInt":"2"},"key":{"m":{"$numberInt":"1"},"m.k":{"$numberInt":"-1"},"t":{"$numberInt":"1"}},"name":"i"}],"collectionName":"ts","type":"timeseries"}`,
		"g.clustered": `{"options":{"clusteredIndex":{"v":{"$numberInt":"2"},"key":{"_id":{"$numberInt":"1"}},"name":"_id_","unique":true}},"indexes":[{"v":{"$numberInt":"2"},"key":{"_id":{"$numberInt":"1"}},"name":"_id_","unique":true,"clustered":true}],"collectionName":"clustered","type":"collection"}`,
		"k.y":         `{"indexes":[{"v":{"$numberInt":"2"},"key":{"_id":{"$numberInt":"1"}},"name":"_id_"}],"collectionName":"y","type":"collection"}`,
	}
	for ns, json := range want {
		if r := results[ns]; r == nil {
			t.Errorf("%s is not there", ns)
		} else if got := string(r.Metadata.JSON); got != json {
			t.Errorf("%s:\n got %s\nwant %s", ns, got, json)
		}
	}
	if len(results) != len(want) {
		t.Errorf("%d collections", len(results))
	}
	if got := fmt.Sprint(docs["g.c"]); strings.Contains(got, `"1"`) || !strings.Contains(got, `"4"`) || len(docs["g.c"]) != 3 {
		t.Errorf("the capped collection has %s", got)
	}
	if len(docs["g.ts"]) != 1 || len(docs["k.y"]) != 2 {
		t.Errorf("%v", docs)
	}
}

// TestCommitAfterDump commits a transaction whose parts lie before the dump.
func TestCommitAfterDump(t *testing.T) {
	l := entries(t,
		`"op":"c","ns":"admin.$cmd","prevOpTime":{"ts":{"$timestamp":{"t":0,"i":0}},"t":1},"o":{"applyOps":[{"op":"i","ns":"g.c","o":{"_id":2}}],"partialTxn":true}`,
		`"op":"c","ns":"admin.$cmd","prevOpTime":{"ts":{"$timestamp":{"t":101,"i":1}},"t":1},"o":{"applyOps":[{"op":"i","ns":"g.c","o":{"_id":3}}],"prepare":true}`,
		`"op":"i","ns":"g.c","o":{"_id":4}`,
		`"op":"c","ns":"admin.$cmd","prevOpTime":{"ts":{"$timestamp":{"t":102,"i":1}},"t":1},"o":{"commitTransaction":1}`)
	b := Collection{DB: "g", Name: "c"}
	for start, want := range map[uint32]int{100: 3, 101: 3, 102: 3, 103: 2} {
		f, err := New(t.Context(), l, Options{Collections: []Collection{b}, Start: at(start), End: at(start), At: at(999)})
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, err := range f.Documents(t.Context(), f.Collections()[0], func() iter.Seq2[bson.Raw, error] {
			return func(func(bson.Raw, error) bool) {}
		}) {
			if n++; err != nil {
				t.Fatal(err)
			}
		}
		if n != want {
			t.Errorf("from %d: %d documents, want %d", start, n, want)
		}
	}
}

func TestSlices(t *testing.T) {
	s := Slice{at(5), bson.Timestamp{T: 1700000000, I: 12}}
	if got := s.Name(); got != "0000000005.0000000001-1700000000.0000000012.bson" {
		t.Errorf("%s", got)
	}
	if got, err := ParseSlice(s.Name()); err != nil || got != s {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"", "x.bson", "5.1-6.1.bson", "0000000005.0000000001-1700000000.0000000012", "1700000000.0000000012-0000000005.0000000001.bson"} {
		if got, err := ParseSlice(bad); err == nil {
			t.Errorf("%q is read as %v", bad, got)
		}
	}
	list := []Slice{{at(30), at(40)}, {at(10), at(20)}, {at(20), at(25)}, {at(12), at(18)}, {at(40), at(41)}}
	Sort(list)
	if got := Spans(list); !slices.Equal(got, []Span{{at(10), at(25)}, {at(30), at(41)}}) {
		t.Errorf("%v", got)
	}
}

func FuzzParse(f *testing.F) {
	w := newWorld(1, 2, true)
	w.live(100)
	for _, raw := range w.log {
		f.Add([]byte(raw))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := Parse(data)
		if err != nil {
			return
		}
		s := newScan(&Options{Memory: 1 << 20}, list{})
		_ = s.entry(t.Context(), &e)
	})
}

func FuzzApplyUpdate(f *testing.F) {
	f.Add([]byte(doc(f, `{"_id":1,"a":[1,{"b":2}]}`)), []byte(doc(f, `{"$v":2,"diff":{"sa":{"a":true,"l":3,"s1":{"u":{"b":5},"i":{"c":1}}}}}`)))
	f.Add([]byte(doc(f, `{"_id":1,"a":[1,{"b":2}]}`)), []byte(doc(f, `{"$v":1,"$set":{"a.1.b":5,"a.9":1},"$unset":{"x.y":true}}`)))
	f.Add([]byte(doc(f, `{"_id":1,"d":{"$binary":{"base64":"AAECAw==","subType":"07"}}}`)), []byte(doc(f, `{"$v":2,"diff":{"b":{"d":{"o":1,"d":{"$binary":{"base64":"CQ==","subType":"00"}}}}}}`)))
	f.Fuzz(func(t *testing.T, d, o []byte) {
		if check(d) != nil || check(o) != nil {
			return
		}
		for _, strict := range []bool{false, true} {
			kind, err := kindOf(o)
			if err != nil || kind == replacement {
				continue
			}
			got, err := applyUpdate(d, o, strict)
			if err != nil {
				continue
			}
			if err := check(got); err != nil {
				t.Fatalf("%v becomes broken: %v", bson.Raw(d), err)
			}
			if again, err := applyUpdate(got, o, false); err != nil {
				t.Fatalf("applied twice: %v", err)
			} else if kind == operators && !strings.Contains(string(o), ".") && string(again) != string(got) {
				t.Fatalf("a second time it becomes %v instead of %v", again, got)
			}
		}
	})
}
