package mongo

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/whole-tale/wtsnap/mongo/internal/mongotest"
	"github.com/whole-tale/wtsnap/snapshot"
)

// mixed makes a collection whose _ids are of several types, in no order.
func mixed(s *mongotest.Server, n int) {
	for i := range n {
		id := any(int32(i * 7919 % n))
		switch i % 5 {
		case 1:
			id = fmt.Sprint("id", i*7919%n)
		case 2:
			id = bson.ObjectID{1, byte(i >> 8), byte(i)}
		case 3:
			id = bson.D{{Key: "a", Value: i}}
		}
		s.Insert("girder.mixed", bson.D{{Key: "_id", Value: id}, {Key: "bio", Value: biography(i)}})
	}
}

// In the order of _id a collection is the same whether one cursor reads it or several do, and every document is there once.
func TestRanges(t *testing.T) {
	s := mongotest.Start(t, mongotest.Options{})
	mixed(s, 6000)
	s.Insert("girder.empty", doc(1))
	s.Delete("girder.empty", int32(1))
	v := newVault(t)
	var streams []string
	for _, ranges := range []int64{1 << 40, 1} {
		snap := v.backup(native(t, SourceOptions{Address: s.URI(), Order: snapshot.MongoByID, ranges: ranges}))
		files := v.files(snap, "mongo")
		streams = append(streams, files["girder/mixed.bson"])
		if m := snap.Source("mongo").Mongo; m.Order != snapshot.MongoByID || m.Documents() != 6000 || m.Consistency != snapshot.MongoSnapshot {
			t.Errorf("%+v", m)
		}
	}
	if streams[0] != streams[1] {
		t.Error("several cursors give another stream than one")
	}
	reads := 0
	for _, c := range s.Calls("find") {
		if c.Collection == "mixed" && c.Body.Lookup("max").Type == bson.TypeEmbeddedDocument {
			reads++
		}
	}
	if reads < 2 {
		t.Errorf("%d ranges were read", reads)
	}
	var want, got []string
	for _, d := range s.Documents("girder.mixed") {
		want = append(want, string(d))
	}
	for _, d := range window(t, streams[0]) {
		got = append(got, string(d))
	}
	slices.Sort(want)
	slices.Sort(got)
	if !bytes.Equal([]byte(strings.Join(want, "")), []byte(strings.Join(got, ""))) {
		t.Errorf("%d documents, want %d, or others", len(got), len(want))
	}
}

// What goes wrong in one of the ranges makes the collection be read again.
func TestRangeFails(t *testing.T) {
	for n := 2; n <= 12; n += 2 {
		s := mongotest.Start(t, mongotest.Options{})
		mixed(s, 5000)
		s.Fail("find", "girder.mixed", n, mongotest.Outcome{Error: mongotest.Interrupted})
		v := newVault(t)
		snap := v.backup(native(t, SourceOptions{Address: s.URI(), Order: snapshot.MongoByID, ranges: 1}))
		if m := snap.Source("mongo").Mongo; m.Documents() != 5000 {
			t.Errorf("failure %d: %+v", n, m)
		}
	}
}
