package oplog

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/whole-tale/wtsnap/mongo/layout"
)

const foldSeeds = 60

// TestFoldExact folds dumps of one moment to later ones: the documents, their bytes, their order and the metadata are what
// the world remembers.
func TestFoldExact(t *testing.T) {
	for seed := range int64(foldSeeds) {
		version, uuids := 1+int(seed%2), seed%3 != 0
		w := newWorld(seed, version, uuids)
		moments := w.live(400)
		compared := 0
		for range 4 {
			i := w.rng.Intn(len(moments) - 1)
			j := i + w.rng.Intn(len(moments)-i)
			compared += w.compare(t, seed, w.dump(moments[i]), moments[j], 0, true)
		}
		if compared == 0 {
			t.Errorf("seed %d compared nothing", seed)
		}
	}
}

// TestFoldWindow folds dumps whose documents are each of another moment.
func TestFoldWindow(t *testing.T) {
	for seed := range int64(foldSeeds) {
		w := newWorld(1000+seed, 2, seed%4 != 0)
		moments := w.live(400)
		for range 3 {
			i := w.rng.Intn(len(moments) - 60)
			window := moments[i : i+60]
			j := i + 59 + w.rng.Intn(len(moments)-i-59)
			w.compare(t, seed, w.torn(window), moments[j], 0, false)
		}
	}
}

// TestFoldWindowOldUpdates is the same with $v:1 updates, after which the order of fields is that of some replay.
func TestFoldWindowOldUpdates(t *testing.T) {
	for seed := range int64(foldSeeds) {
		w := newWorld(2000+seed, 1, true)
		moments := w.live(300)
		i := w.rng.Intn(len(moments) - 60)
		d := w.torn(moments[i : i+60])
		at := moments[i+59+w.rng.Intn(len(moments)-i-59)]
		_, docs := foldTo(t, w, d, at, 0)
		for ns, c := range w.history[at] {
			want := sortedFields(t, rawDocs(c.docs))
			if got := sortedFields(t, docs[ns]); !slices.Equal(got, want) {
				t.Fatalf("seed %d, %s:\n%s", seed, ns, cmp.Diff(want, got))
			}
		}
	}
}

// TestFoldInParts gives the fold too little memory for all changes at once.
func TestFoldInParts(t *testing.T) {
	parts := 0
	for seed := range int64(12) {
		w := newWorld(3000+seed, 2, true)
		moments := w.live(400)
		d := w.dump(moments[20])
		at := moments[len(moments)-1-int(seed)]
		f, err := New(t.Context(), w, Options{Collections: d.list, Start: d.start, End: d.end, At: at, Memory: 8000})
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range f.Collections() {
			if r.n.skipped {
				parts++
			}
		}
		w.compare(t, seed, d, at, 8000, false)
	}
	if parts == 0 {
		t.Error("the memory was enough for everything")
	}
}

// live lets the world go on and returns the moments that it remembers.
func (w *world) live(steps int) []bson.Timestamp {
	for range steps {
		w.step()
	}
	var moments []bson.Timestamp
	for ts := range w.history {
		moments = append(moments, ts)
	}
	slices.SortFunc(moments, bson.Timestamp.Compare)
	return moments
}

// compare folds and returns how many documents were compared.
func (w *world) compare(t *testing.T, seed int64, d *worldDump, at bson.Timestamp, memory int64, ordered bool) (n int) {
	t.Helper()
	results, docs := foldTo(t, w, d, at, memory)
	want := w.history[at]
	for ns := range results {
		if want[ns] == nil {
			t.Fatalf("seed %d, from %s to %s: %s should not be there", seed, Text(d.start), Text(at), ns)
		}
	}
	for ns, c := range want {
		r := results[ns]
		if r == nil {
			t.Fatalf("seed %d, from %s to %s: %s is not there", seed, Text(d.start), Text(at), ns)
		}
		expected, got := rawDocs(c.docs), docs[ns]
		if !ordered {
			slices.SortFunc(expected, func(a, b bson.Raw) int { return bytes.Compare(a[4:], b[4:]) })
			slices.SortFunc(got, func(a, b bson.Raw) int { return bytes.Compare(a[4:], b[4:]) })
		}
		n += len(expected)
		if !slices.EqualFunc(got, expected, func(a, b bson.Raw) bool { return bytes.Equal(a, b) }) {
			t.Fatalf("seed %d, from %s to %s, %s:\n%s", seed, Text(d.start), Text(at), ns, cmp.Diff(texts(expected), texts(got)))
		}
		meta := c.meta
		data, err := layout.MarshalMetadata(&meta)
		if err != nil {
			t.Fatal(err)
		}
		if ordered && string(data) != string(r.Metadata.JSON) {
			t.Fatalf("seed %d, %s:\n%s", seed, ns, cmp.Diff(string(data), string(r.Metadata.JSON)))
		}
	}
	return n
}

func texts(docs []bson.Raw) (list []string) {
	for _, d := range docs {
		list = append(list, d.String())
	}
	return list
}

// sortedFields writes documents with their fields in order, and sorts them.
func sortedFields(t *testing.T, docs []bson.Raw) (list []string) {
	t.Helper()
	var write func(v any) any
	write = func(v any) any {
		switch v := v.(type) {
		case bson.D:
			out := bson.D{}
			for _, e := range v {
				out = append(out, bson.E{Key: e.Key, Value: write(e.Value)})
			}
			slices.SortFunc(out, func(a, b bson.E) int { return bytes.Compare([]byte(a.Key), []byte(b.Key)) })
			return out
		case bson.A:
			out := bson.A{}
			for _, e := range v {
				out = append(out, write(e))
			}
			return out
		}
		return v
	}
	for _, raw := range docs {
		var d bson.D
		if err := bson.Unmarshal(raw, &d); err != nil {
			t.Fatal(err)
		}
		list = append(list, fmt.Sprint(marshal(write(d))))
	}
	slices.Sort(list)
	return list
}
