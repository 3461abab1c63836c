package snapshot

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestRecoverable: a stretch of an oplog is of use from the first dump on that ends in it.
func TestRecoverable(t *testing.T) {
	at := func(t uint32) Timestamp { return Timestamp{T: t, I: 1} }
	dump := func(end uint32, change func(m *Manifest, i *MongoInfo)) *Snapshot {
		i := &MongoInfo{Role: MongoDump, Set: "rs0", Consistency: MongoSnapshot, Start: at(end), End: at(end)}
		m := Manifest{Complete: true, Sources: []Source{{Label: "homes"}, {Label: "mongo", Mongo: i}}}
		if change != nil {
			change(&m, i)
		}
		return &Snapshot{Manifest: &m}
	}
	captured := &MongoInfo{Role: MongoOplog, Set: "rs0", Spans: []MongoSpan{{at(100), at(200)}, {at(300), at(400)}, {at(500), at(600)}}}
	for name, c := range map[string]struct {
		snaps        []*Snapshot
		can, waiting []MongoSpan
	}{
		"no dump":            {nil, nil, captured.Spans},
		"two in one stretch": {[]*Snapshot{dump(180, nil), dump(150, nil)}, []MongoSpan{{at(150), at(200)}}, captured.Spans[1:]},
		"at both ends":       {[]*Snapshot{dump(100, nil), dump(400, nil)}, []MongoSpan{{at(100), at(200)}, {at(400), at(400)}}, captured.Spans[2:]},
		"in a gap":           {[]*Snapshot{dump(250, nil), dump(99, nil), dump(601, nil)}, nil, captured.Spans},
		"of no use": {[]*Snapshot{
			dump(150, func(m *Manifest, _ *MongoInfo) { m.Complete = false }),
			dump(350, func(_ *Manifest, i *MongoInfo) { i.Consistency = MongoNone }),
			dump(550, func(_ *Manifest, i *MongoInfo) { i.Set = "other" }),
		}, nil, captured.Spans},
		"of an unknown set": {[]*Snapshot{dump(550, func(_ *Manifest, i *MongoInfo) { i.Set = "" })}, []MongoSpan{{at(550), at(600)}}, captured.Spans[:2]},
	} {
		can, waiting := captured.Recoverable(c.snaps)
		if diff := cmp.Diff([2][]MongoSpan{c.can, c.waiting}, [2][]MongoSpan{can, waiting}); diff != "" {
			t.Errorf("%s: -want +got\n%s", name, diff)
		}
	}
}
