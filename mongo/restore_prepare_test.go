package mongo

import (
	"testing"

	"github.com/whole-tale/wtsnap/mongo/layout"
)

// Metadata that somebody has written may have indexes without names, or with others than text: restoring from it does not panic.
func TestIndexesWithoutNames(t *testing.T) {
	for _, text := range []string{
		`{"indexes":[{"v":2,"key":{"_id":1}},{"key":{"a":1}}]}`,
		`{"indexes":[{"v":2,"key":{"_id":1},"name":7},{"key":{"a":1},"name":null}]}`,
	} {
		m, err := layout.ParseMetadata([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		createOptions(&m)
		for _, ix := range m.Indexes {
			if name := indexName(ix); name != "" {
				t.Errorf("%s: an index has the name %q", text, name)
			}
			if name := nameOf(fields(ix)); name != "without a name" {
				t.Errorf("%s: an index has the name %v", text, name)
			}
		}
	}
}
