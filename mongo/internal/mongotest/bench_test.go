package mongotest

import (
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// BenchmarkInsert inserts documents of 169 bytes with commands of 3 MB, as a restore does.
func BenchmarkInsert(b *testing.B) {
	db := connect(b, Start(b, Options{NoOplog: true}).URI()).Database("d")
	n := 0
	for b.Loop() {
		docs := make(bson.A, 18_000)
		for i := range docs {
			docs[i] = bson.D{{Key: "_id", Value: n}, {Key: "s", Value: strings.Repeat("x", 140)}}
			n++
		}
		command := rawOf(bson.D{{Key: "insert", Value: "c"}, {Key: "ordered", Value: false}, {Key: "documents", Value: docs}})
		b.SetBytes(int64(len(command)))
		ok(b, db.RunCommand(b.Context(), command).Err())
	}
}
