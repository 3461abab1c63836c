package mongo_test

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/whole-tale/wtsnap/mongo"
)

func TestCountDocuments(t *testing.T) {
	var good []byte
	for i := range 3000 {
		doc, err := bson.Marshal(bson.D{{Key: "_id", Value: i}, {Key: "in", Value: bson.D{{Key: "text", Value: "x"}}}})
		if err != nil {
			t.Fatal(err)
		}
		good = append(good, doc...)
	}
	one := len(good) / 3000
	flip := bytes.Clone(good)
	flip[len(good)-one/2] ^= 0xff
	long := bytes.Clone(good[:one])
	long[3] = 0x7f
	for _, c := range []struct {
		name  string
		data  []byte
		count int64
		bad   bool
	}{
		{"whole", good, 3000, false},
		{"empty", nil, 0, false},
		{"cut off", good[:len(good)-1], 2999, true},
		{"cut in a length", good[:one+2], 1, true},
		{"a byte is another", flip, 2999, true},
		{"a length that cannot be", long, 0, true},
	} {
		n, err := mongo.CountDocuments(t.Context(), bytes.NewReader(c.data))
		var malformed *mongo.MalformedError
		if n != c.count || errors.As(err, &malformed) != c.bad || (err != nil) != c.bad {
			t.Errorf("%s: %d documents, %v; want %d", c.name, n, err, c.count)
		}
	}
	fails := errors.New("no route to host")
	if _, err := mongo.CountDocuments(t.Context(), failing{fails}); !errors.Is(err, fails) {
		t.Errorf("%v, want the reader's error", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := mongo.CountDocuments(ctx, bytes.NewReader(good)); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want the context's", err)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }
