package mongo

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/whole-tale/wtsnap/mongo/layout"
	"github.com/whole-tale/wtsnap/snapshot"
)

func (v *vault) dump(s *snapshot.Snapshot, path string) *Dump {
	v.t.Helper()
	d, err := OpenDump(v.t.Context(), v.r, s, path)
	must(v.t, err)
	if len(d.Problems) > 0 {
		v.t.Fatalf("problems: %v", d.Problems)
	}
	return d
}

// names lists collections as NAME:TYPE:BYTES.
func names(d *Dump) (out []string) {
	for _, c := range d.Collections() {
		out = append(out, fmt.Sprintf("%s:%s:%d", c.Namespace(), c.Type, c.Bytes))
	}
	return out
}

func TestDump(t *testing.T) {
	v := newVault(t)
	s := v.backup(folder("mongo", golden("100.10-dir")), folder("old", golden("3.2.22-dir")), folder("girder", golden("3.2.22-dir/girder")))
	d := v.dump(s, "mongo")
	want := []string{"admin.system.users:collection:194", "admin.system.version:collection:104", "girder.a/b.c d%é:collection:0",
		"girder.cap:collection:0", "girder.coll:collection:0", "girder.empty:collection:0", "girder.item:collection:8030",
		"girder.tsx:timeseries:60", "girder.types:collection:1874", "girder.val:collection:0", "girder.vw:view:0"}
	if diff := cmp.Diff(want, names(d)); diff != "" {
		t.Error(diff)
	}
	for _, c := range d.Collections() {
		base := golden("100.10-dir/" + c.DB + "/" + layout.FileName(c.Name))
		if diff := cmp.Diff(string(readFile(t, base+layout.MetadataSuffix)), string(c.Metadata.JSON)); diff != "" {
			t.Errorf("%s: %s", c.Namespace(), diff)
		}
		got := documents(t, d.Documents(t.Context(), &c))
		var want []byte
		switch c.Type {
		case layout.TypeView:
			if c.DataName != "" {
				t.Errorf("the view's documents are of %q", c.DataName)
			}
		case layout.TypeTimeseries:
			want = readFile(t, golden("100.10-dir/girder/system.buckets.tsx.bson"))
			if c.DataName != "system.buckets.tsx" {
				t.Errorf("the time series' documents are of %q", c.DataName)
			}
		default:
			want = readFile(t, base+layout.DataSuffix)
		}
		if string(got) != string(want) || int64(len(got)) != c.Bytes {
			t.Errorf("%s: %d bytes of documents differ from the %d that were dumped", c.Namespace(), len(got), len(want))
		}
		if c.Special() != (c.DB == "admin") {
			t.Errorf("%s: special %v", c.Namespace(), c.Special())
		}
	}
	if got := documents(t, d.Oplog(t.Context())); string(got) != string(readFile(t, golden("100.10-dir/oplog.bson"))) || len(got) == 0 {
		t.Errorf("the oplog has %d bytes", len(got))
	}
	if c := d.Collection("girder", "item"); c == nil || len(c.Metadata.Indexes) != 10 || d.Collection("girder", "none") != nil {
		t.Errorf("girder.item is %+v", c)
	}

	for path, want := range map[string][]string{
		"/mongo/admin/": {"admin.system.users:collection:194", "admin.system.version:collection:104"},
		"mongo/girder/a%2Fb.c+d%25%C3%A9.metadata.json": {"girder.a/b.c d%é:collection:0"},
		"mongo/girder/item.bson":                        {"girder.item:collection:8030"},
		"mongo/girder/system.buckets.tsx.bson":          {"girder.tsx:timeseries:60"},
		"mongo/girder/tsx.metadata.json":                {"girder.tsx:timeseries:60"},
		"old":                                           {"d.c:collection:29", "girder.item:collection:162780"},
		"old/d":                                         {"d.c:collection:29"},
		"girder":                                        {"girder.item:collection:162780"},
		"girder/item.bson":                              {"girder.item:collection:162780"},
	} {
		if diff := cmp.Diff(want, names(v.dump(s, path))); diff != "" {
			t.Errorf("%s: %s", path, diff)
		}
	}
	for path, want := range map[string]string{
		"mongo/oplog.bson":      "no MongoDB",
		"mongo/girder/none":     "no \"mongo/girder/none\"",
		"none":                  "no \"none\"",
		"":                      "no MongoDB", // both are folders of files
		"mongo/girder/../admin": "no meaning",
	} {
		if d, err := OpenDump(t.Context(), v.r, s, path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is %v, with the error %v", path, d, err)
		}
	}
	_, err := OpenDump(t.Context(), v.r, s, "mongo/girder/none")
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what is not there: %v", err)
	}
}

// makeFiles makes a folder with files.
func makeFiles(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range slices.Sorted(maps.Keys(files)) {
		path := filepath.Join(dir, name)
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		must(t, os.WriteFile(path, []byte(files[name]), 0o600))
	}
	return dir
}

func TestDumpOddFolders(t *testing.T) {
	const doc = "\x05\x00\x00\x00\x00"
	long := strings.Repeat("long", 100)
	v := newVault(t)
	s := v.backup(folder("odd", makeFiles(t, map[string]string{
		"dump/prelude.json":                                   `{"ServerVersion":"7.0.1","ToolVersion":"100.12.0"}`,
		"dump/db/a.bson":                                      doc + doc,
		"dump/db/broken.bson":                                 doc + "\x07\x00\x00\x00\x00",
		"dump/db/broken.metadata.json":                        "{",
		"dump/db/short.bson":                                  doc + "\x05\x00",
		"dump/db/length.bson":                                 doc + "\x00\x00\x00\x00\x00",
		"dump/db/end.bson":                                    "\x05\x00\x00\x00\x01",
		"dump/db/system.buckets.alone.bson":                   doc,
		"dump/db/" + layout.FileName(long) + ".bson":          doc,
		"dump/db/" + layout.FileName(long) + ".metadata.json": `{"indexes":[],"collectionName":"` + long + `"}`,
		"dump/db/notes.txt":                                   "x",
		"dump/db/deeper/x.bson":                               doc,
		"gz/db/a.bson.gz":                                     "x",
		"two/db/a.bson":                                       doc,
		"two/db/b.bson":                                       doc,
		"two/db/b.metadata.json":                              `{"indexes":[],"collectionName":"a"}`,
		"files/a":                                             "x",
	})))
	d, err := OpenDump(t.Context(), v.r, s, "odd/dump")
	must(t, err)
	want := []string{"db.a:collection:10", "db.broken:collection:10", "db.end:collection:5", "db.length:collection:10",
		"db." + long + ":collection:5", "db.short:collection:7", "db.system.buckets.alone:collection:5"}
	if diff := cmp.Diff(want, names(d)); diff != "" {
		t.Error(diff)
	}
	if len(d.Problems) != 1 || d.Problems[0].Path != "odd/dump/db/broken.metadata.json" {
		t.Errorf("problems: %v", d.Problems)
	}
	if d.Versions.Server != "7.0.1" || d.Root != "odd/dump" || d.Info != nil || d.Source.Label != "odd" || d.Oplog(t.Context()) != nil {
		t.Errorf("the dump is %+v", d)
	}
	for name, want := range map[string]string{"broken": "byte 5: the file ends within", "short": "byte 5: the file ends within",
		"length": "byte 5: a document of 0 bytes", "end": "byte 0: a document does not end"} {
		docs := d.Documents(t.Context(), d.Collection("db", name))
		var err error
		for err == nil {
			_, err = docs.Next()
		}
		if err == io.EOF || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "odd/dump/db/"+name+".bson") {
			t.Errorf("%s: %v", name, err)
		}
		must(t, docs.Close())
	}
	for path, want := range map[string]string{"odd/gz": "compressed", "odd/gz/db/a.bson.gz": "compressed", "odd/two": "two files are of the collection db.a",
		"odd/files": "no MongoDB", "odd/files/a": "no MongoDB", "odd/dump/db/notes.txt": "no MongoDB"} {
		if _, err := OpenDump(t.Context(), v.r, s, path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", path, err)
		}
	}
}
