package mongo

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/whole-tale/wtsnap/mongo/internal/mongotest"
	"github.com/whole-tale/wtsnap/mongo/query"
	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/snapshot"
)

// filtered opens dumps of which a filter leaves some documents.
func filtered(t *testing.T, open Opener, filter string) Opener {
	t.Helper()
	q, err := query.Parse(filter)
	must(t, err)
	return Filtered(open, q, 0)
}

// TestFilter restores what a filter means into a server, a folder and an archive: the same documents, and no others.
func TestFilter(t *testing.T) {
	from := mongotest.Start(t, mongotest.Options{})
	for i := range 1000 {
		from.Insert("d.c", bson.D{{Key: "_id", Value: i}, {Key: "n", Value: i % 10}, {Key: "tags", Value: bson.A{fmt.Sprint("t", i%7)}}})
		from.Insert("d.other", bson.D{{Key: "_id", Value: i}, {Key: "n", Value: "text"}})
	}
	from.CreateIndexes("d.c", bson.D{{Key: "key", Value: bson.D{{Key: "n", Value: 1}}}, {Key: "name", Value: "n_1"}})
	v := newVault(t)
	snap := v.backup(dumped(folderOf(t, from), nil))
	filter := `{"n": {"$gte": 8}, "tags": "t3"}`
	var want []byte
	n := int64(0)
	for _, d := range from.Documents("d.c") {
		if d.Lookup("n").Int32() >= 8 && d.Lookup("_id").Int32()%7 == 3 {
			want = append(want, d...)
			n++
		}
	}
	if n < 10 {
		t.Fatal("too few are meant")
	}
	for _, dry := range []bool{true, false} {
		s := mongotest.Start(t, mongotest.Options{})
		docs := v.restored(s.URI(), &Restorer{Open: filtered(t, nil, filter)}, snapshot.RestoreOptions{Snapshot: snap, DryRun: dry, Verify: true})
		if docs.Inserted != n {
			t.Errorf("dry %v: %+v, want %d", dry, docs, n)
		}
		if got := bytes.Join(rawBytes(s.Documents("d.c")), nil); !dry && (!bytes.Equal(got, want) || len(s.Documents("d.other")) > 0 || len(s.Indexes("d.c")) != 2) {
			t.Errorf("the server has other documents, or other indexes: %d bytes, want %d", len(got), len(want))
		}
		dir := filepath.Join(t.TempDir(), "out")
		o := snapshot.RestoreOptions{Snapshot: snap, Path: "mongo", DryRun: dry, Target: snapshot.TargetSpec{Kind: snapshot.TargetFolder, Path: dir}, Progress: &snapshot.Progress{}, Monitor: &recorder{}}
		rep, err := FolderTarget{Open: filtered(t, nil, filter)}.RestoreTo(t.Context(), v.r, o, nil)
		must(t, err)
		if got, err := os.ReadFile(filepath.Join(dir, "d", "c.bson")); rep.Documents.Inserted != n || !dry && (err != nil || !bytes.Equal(got, want)) {
			t.Errorf("dry %v: %+v, %v", dry, rep.Documents, err)
		}
		var archive bytes.Buffer
		o.Target, o.Stdout = snapshot.TargetSpec{Kind: snapshot.TargetMongodump, Stdout: true}, &archive
		rep, err = DumpTarget{Open: filtered(t, nil, filter)}.RestoreTo(t.Context(), v.r, o, nil)
		must(t, err)
		if rep.Documents.Inserted != n || !dry && bytes.Count(archive.Bytes(), []byte("tags")) != int(n) {
			t.Errorf("dry %v: %+v", dry, rep.Documents)
		}
	}
}

// TestFilterFoldsTheOplog: a filter sees the documents as they are at the end of the dump, and what is in an archive needs
// no oplog beside it.
func TestFilterFoldsTheOplog(t *testing.T) {
	v := newVault(t)
	snap := v.backup(dumped(golden("100.10-dir"), nil))
	whole, err := OpenDump(t.Context(), v.r, snap, "mongo")
	must(t, err)
	late := func(ctx context.Context, r *repo.Repository, s *snapshot.Snapshot, path string) (*Dump, error) {
		return whole, nil
	}
	d, err := filtered(t, late, `{"lowerName": "file-1"}`)(t.Context(), v.r, snap, "mongo")
	must(t, err)
	if d.Oplog(t.Context()) != nil || len(d.Collections()) < 5 {
		t.Errorf("%+v", d)
	}
	for _, c := range d.Collections() {
		if c.Special() || c.Type == "view" {
			t.Errorf("%s is there", c.Namespace())
		}
	}
	if _, err := filtered(t, nil, `{}`)(t.Context(), v.r, snap, "mongo/girder/vw.metadata.json"); err == nil {
		t.Error("a view has documents")
	}
}

func rawBytes(list []bson.Raw) (out [][]byte) {
	for _, d := range list {
		out = append(out, d)
	}
	return out
}
