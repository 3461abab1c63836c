package mongo

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/whole-tale/wtsnap/mongo/archive"
	"github.com/whole-tale/wtsnap/mongo/layout"
	"github.com/whole-tale/wtsnap/snapshot"
)

// dumped is a source of what mongodump wrote.
func dumped(path string, stdin io.Reader) snapshot.SourceSpec {
	return snapshot.SourceSpec{Label: "mongo", Kind: snapshot.SourceMongo, Path: path, Stream: &DumpSource{Path: path, Stdin: stdin}}
}

// files restores a label and returns its files.
func (v *vault) files(s *snapshot.Snapshot, path string) map[string]string {
	v.t.Helper()
	dir := filepath.Join(v.t.TempDir(), "out")
	_, err := snapshot.Restore(v.t.Context(), v.r, snapshot.RestoreOptions{Snapshot: s, Path: path,
		Target: snapshot.TargetSpec{Kind: snapshot.TargetFolder, Path: dir}, NumericIDs: true})
	must(v.t, err)
	return filesOf(v.t, dir)
}

func filesOf(t testing.TB, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	must(t, filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		must(t, err)
		out[filepath.ToSlash(rel)] = string(readFile(t, path))
		return nil
	}))
	return out
}

// TestDumpSource saves every form of the golden dumps: the snapshot has the folder that the same tool wrote.
func TestDumpSource(t *testing.T) {
	for _, c := range []struct {
		name, dir string
		stdin     bool
		info      snapshot.MongoInfo
		change    func(want map[string]string)
	}{
		{name: "100.10-dir", dir: "100.10-dir", info: snapshot.MongoInfo{Consistency: snapshot.MongoArchiveOplog}},
		{name: "100.10-dir-gz", dir: "100.10-dir", info: snapshot.MongoInfo{Consistency: snapshot.MongoArchiveOplog}},
		{name: "100.10.archive", dir: "100.10-dir", info: snapshot.MongoInfo{Server: "7.0.42", Consistency: snapshot.MongoArchiveOplog}},
		{name: "100.10.archive", dir: "100.10-dir", stdin: true, info: snapshot.MongoInfo{Server: "7.0.42", Consistency: snapshot.MongoArchiveOplog}},
		{name: "100.10.archive.gz", dir: "100.10-dir", info: snapshot.MongoInfo{Server: "7.0.42", Consistency: snapshot.MongoNone},
			change: func(want map[string]string) { delete(want, "oplog.bson") }},
		{name: "3.2.22-dir", dir: "3.2.22-dir", info: snapshot.MongoInfo{Consistency: snapshot.MongoArchiveOplog}},
		{name: "3.2.22.oplog.archive.gz", dir: "3.2.22-dir", stdin: true, info: snapshot.MongoInfo{Server: "3.2.22", Consistency: snapshot.MongoArchiveOplog}},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := newVault(t)
			spec := dumped(golden(c.name), nil)
			if c.stdin {
				spec = dumped("-", bytes.NewReader(readFile(t, golden(c.name))))
			}
			s := v.backup(spec)
			want := filesOf(t, golden(c.dir))
			info := s.Source("mongo").Mongo
			if c.info.Server != "" {
				want[layout.PreludeFile] = string(layout.MarshalPrelude(layout.Versions{Server: info.Server, Tool: info.Tool}))
			}
			if c.change != nil {
				c.change(want)
			}
			if diff := cmp.Diff(want, v.files(s, "mongo")); diff != "" {
				t.Errorf("-dumped +in the snapshot\n%s", diff)
			}
			if info.Role != snapshot.MongoDump || info.Server != c.info.Server || info.Consistency != c.info.Consistency {
				t.Errorf("the manifest says %+v", info)
			}
			d := v.dump(s, "")
			if int64(len(d.Collections())) != info.Collections() {
				t.Errorf("%d collections, and the manifest says %d", len(d.Collections()), info.Collections())
			}
			n, size := int64(0), int64(0)
			for _, col := range d.Collections() {
				docs := d.Documents(t.Context(), &col)
				for _, err := docs.Next(); err == nil; _, err = docs.Next() {
					n++
				}
				must(t, docs.Close())
				size += col.Bytes
			}
			if n == 0 || info.Documents() != n {
				t.Errorf("%d documents, and the manifest says %d", n, info.Documents())
			}
			if strings.HasPrefix(c.name, "100.10") && c.info.Consistency == snapshot.MongoArchiveOplog && (info.Start.IsZero() || info.End.IsZero()) {
				t.Errorf("the oplog's span is %v to %v", info.Start, info.End)
			}
		})
	}
}

// TestDumpSourceAgain saves the same data in another interleaving: nothing new is stored but the manifest.
func TestDumpSourceAgain(t *testing.T) {
	v := newVault(t)
	v.backup(dumped(golden("100.10.archive"), nil))
	rep, _, err := v.try(nil, dumped("-", bytes.NewReader(interleaved(t))))
	must(t, err)
	if rep.Blobs.New > 0 {
		t.Errorf("%d new blobs", rep.Blobs.New)
	}
}

// interleaved is golden 100.10.archive with its namespaces one after the other.
func interleaved(t testing.TB) []byte {
	t.Helper()
	a, err := archive.NewReader(bytes.NewReader(readFile(t, golden("100.10.archive"))))
	must(t, err)
	data, order := map[archive.Namespace][]byte{}, []archive.Namespace{}
	for buf := make([]byte, 1<<10); ; {
		e, err := a.Next(buf)
		if err == io.EOF {
			break
		}
		must(t, err)
		if e.Kind == archive.Begin {
			order = append(order, e.Namespace)
		}
		data[e.Namespace] = append(data[e.Namespace], e.Data...)
	}
	var out bytes.Buffer
	w, err := archive.NewWriter(&out, a.Header(), a.Collections())
	must(t, err)
	for i := range order {
		n := order[len(order)-1-i]
		must(t, w.Begin(n))
		_, err := w.Write(data[n])
		must(t, err)
		must(t, w.End())
	}
	return out.Bytes()
}

// TestDumpSourceCut cuts an archive: no part of it becomes a complete snapshot.
func TestDumpSourceCut(t *testing.T) {
	data := readFile(t, golden("100.10.archive"))
	for n := 0; n < len(data); n += 97 {
		v := newVault(t)
		rep, _, err := v.try(nil, dumped("-", bytes.NewReader(data[:n])), folder("homes", golden("3.2.22-dir/d")))
		var source *snapshot.SourceError
		if !errors.As(err, &source) || !errors.Is(err, archive.ErrTruncated) || source.Label != "mongo" {
			t.Fatalf("of %d bytes: %v", n, err)
		}
		if rep.Snapshot == nil || rep.Snapshot.Complete {
			t.Fatalf("of %d bytes: the snapshot is %+v", n, rep.Snapshot)
		}
	}
}

func TestDumpSourceFolders(t *testing.T) {
	gz := string(readFile(t, golden("100.10-dir-gz/girder/item.bson.gz")))
	item := string(readFile(t, golden("100.10-dir/girder/item.bson")))
	meta := string(readFile(t, golden("100.10-dir/girder/item.metadata.json")))
	for _, c := range []struct {
		name     string
		files    map[string]string
		sub      string // the folder that is saved
		want     map[string]string
		problems []string
		err      string
	}{
		{"one database", map[string]string{"girder/item.bson": item, "girder/item.metadata.json": meta}, "girder",
			map[string]string{"girder/item.bson": item, "girder/item.metadata.json": meta}, nil, ""},
		{"other files", map[string]string{"girder/item.bson.gz": gz, "log.gz": gz, "a/b/c": "x"}, "",
			map[string]string{"girder/item.bson": item, "log.gz": gz, "a/b/c": "x"}, nil, ""},
		{"both", map[string]string{"girder/item.bson.gz": gz, "girder/item.bson": item}, "",
			map[string]string{"girder/item.bson": item}, []string{"mongo/girder/item.bson.gz: it is there without"}, ""},
		{"compressed and cut", map[string]string{"girder/item.bson.gz": gz[:len(gz)-9], "girder/other.bson": item}, "",
			map[string]string{"girder/other.bson": item}, []string{"mongo/girder/item.bson: decompressing it: it ends early", "it ended early"}, "girder/item.bson"},
		{"cut", map[string]string{"girder/item.bson": item[:len(item)-1], "girder/other.bson": item}, "",
			map[string]string{"girder/item.bson": item[:len(item)-1], "girder/other.bson": item},
			[]string{"mongo/girder/item.bson: the file ends within a document", "it ended early"}, "girder/item.bson"},
		{"no documents", map[string]string{"girder/item.bson": "no documents", "girder/other.bson": ""}, "",
			map[string]string{"girder/item.bson": "no documents", "girder/other.bson": ""},
			[]string{"document 1", "it ended early"}, "girder/item.bson"},
		{"bad metadata", map[string]string{"girder/item.bson": item, "girder/item.metadata.json": "{"}, "",
			map[string]string{"girder/item.bson": item, "girder/item.metadata.json": "{"}, []string{"saved as it is"}, ""},
		{"no dump", map[string]string{"a": "x"}, "", nil, []string{"no folder that mongodump wrote"}, "no folder that mongodump wrote"},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := newVault(t)
			rep, mon, err := v.try(nil, dumped(filepath.Join(makeFiles(t, c.files), c.sub), nil))
			if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
				t.Fatalf("the error is %v", err)
			}
			if len(mon.problems) != len(c.problems) {
				t.Fatalf("problems: %q", mon.problems)
			}
			for i := range c.problems {
				if !strings.Contains(mon.problems[i], c.problems[i]) {
					t.Errorf("problem %q, want %q", mon.problems[i], c.problems[i])
				}
			}
			if c.want == nil {
				return
			}
			if rep.Snapshot.Complete != (c.err == "") {
				t.Errorf("complete: %v", rep.Snapshot.Complete)
			}
			if diff := cmp.Diff(c.want, v.files(rep.Snapshot, "mongo")); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestDumpSourceLongName(t *testing.T) {
	long := strings.Repeat("ü", 120) // of an old tool, which leaves the name out of the metadata
	var out bytes.Buffer
	n := archive.Namespace{DB: "d", Collection: long}
	w, err := archive.NewWriter(&out, archive.Header{ServerVersion: "3.2.22"}, []archive.Collection{{Namespace: n, Metadata: []byte(`{"options":{},"indexes":[]}`)}})
	must(t, err)
	must(t, w.Begin(n))
	must(t, w.End())
	v := newVault(t)
	s := v.backup(dumped("-", &out))
	if got := v.dump(s, "mongo").Collections(); len(got) != 1 || got[0].Name != long {
		t.Errorf("the collections are %+v", got)
	}
}
