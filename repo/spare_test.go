package repo

import (
	"slices"
	"testing"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/index"
)

// A blob into which something was moved from elsewhere is put off, and then becomes a delta against both.
func TestSpareBases(t *testing.T) {
	ctx := t.Context()
	tr := newRepo(t)
	place, from, other := noise(1, 200_000), noise(2, 300_000), noise(3, 300_000)
	old, _, err := backupOver(ctx, tr.open(tr.st), nil, [][]byte{place, from, other}, SessionOptions{})
	must0(t, err)
	moved := slices.Concat(place[:90_000], from[50_000:170_000], place[90_000:])
	fresh := slices.Concat(place[:50_000], noise(4, 60_000), place[50_000:])

	r := tr.open(tr.st)
	must0(t, r.LoadIndex(ctx))
	for _, id := range old.ids { // they are at hand
		_, err := r.Blob(ctx, id)
		must0(t, err)
	}
	s, err := r.Begin(ctx, SessionOptions{})
	must0(t, err)
	w, another := s.Writer(), s.Writer()
	put := func(w *Writer, data []byte, h Hint, wantAdded, wantOff bool) chunk.ID {
		t.Helper()
		id, added, err := w.PutHinted(ctx, index.Data, data, h)
		must0(t, err)
		if added != wantAdded || w.PutOff() != wantOff {
			t.Fatalf("added %v, put off %v", added, w.PutOff())
		}
		return id
	}
	bases := old.ids[:1]
	id := put(w, moved, Hint{Bases: bases, PutOff: true}, false, true)
	if s.Use(id) {
		t.Fatal("what was put off counts as stored")
	}
	put(w, place, Hint{Bases: bases, PutOff: true}, false, false) // which is there
	put(w, fresh, Hint{Bases: bases, PutOff: true}, false, true)
	put(another, slices.Concat(place[:100], place[200:]), Hint{Bases: bases, PutOff: true}, true, false) // of which nothing is left
	put(w, moved, Hint{Bases: bases, Spare: []chunk.ID{old.ids[2], old.ids[1]}}, true, false)
	put(another, fresh, Hint{Bases: bases}, true, false) // another one may be the one who stores it
	put(w, fresh, Hint{Bases: bases, Spare: old.ids[1:]}, false, false)
	manifest, _, err := w.Put(ctx, index.Tree, encodeIDs(treeMagic, []chunk.ID{id}))
	must0(t, err)
	_, err = s.Commit(ctx, Payload{Instance: "a", Time: nextTime(), Data: encodeIDs(manifestMagic, []chunk.ID{manifest})})
	must0(t, err)
	must0(t, s.Close(ctx))
	if st := s.Stats(); st.BlobsNew != 4 || st.BlobsDelta != 3 || st.BytesStored > 70_000 {
		t.Errorf("%+v: want 3 deltas, and little more than the 60,000 bytes that are new", st)
	}
	loc, _ := r.Index().Lookup(index.KeyOf(id))
	if want := []index.Key{index.KeyOf(old.ids[0]), index.KeyOf(old.ids[1])}; !slices.Equal(loc.Bases, want) {
		t.Errorf("bases %v, want %v", loc.Bases, want)
	}
	data, err := tr.open(tr.st).Blob(ctx, id)
	if err != nil || !slices.Equal(data, moved) {
		t.Errorf("%d bytes, %v", len(data), err)
	}
}

// A spare base is not worth reading from a backend, nor a place in a chain that is to end, and ends nothing.
func TestSpareBasesCostLittle(t *testing.T) {
	ctx := t.Context()
	tr := newRepo(t)
	place, from := noise(1, 200_000), noise(2, 300_000)
	old, _, err := backupOver(ctx, tr.open(tr.st), nil, [][]byte{place, from}, SessionOptions{})
	must0(t, err)
	moved := slices.Concat(place[:90_000], from[50_000:170_000], place[90_000:])
	s, err := tr.open(tr.st).Begin(ctx, SessionOptions{})
	must0(t, err)
	_, added, err := s.Writer().PutHinted(ctx, index.Data, moved, Hint{Bases: old.ids[:1], Spare: old.ids[1:]})
	must0(t, err)
	must0(t, s.Close(ctx))
	if st := s.Stats(); !added || st.BlobsDelta != 1 || st.BytesStored < 120_000 {
		t.Errorf("%+v: the spare base was read for it", st)
	}

	loc, _ := s.index.Lookup(index.KeyOf(old.ids[0]))
	costly := chain{bytes: int64(loc.Length), size: int64(loc.Size), root: loc}
	var e chainEnds
	if !e.due(&costly, false) || len(e.regions) > 0 {
		t.Errorf("a costly chain does not end, or a spare base ended it: %v", e.regions)
	}
	if !e.long(&costly, false) || len(e.regions) != 1 {
		t.Errorf("a costly chain does not end its region: %v", e.regions)
	}
}
