package layout

import (
	"bytes"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

// golden names the metadata files of real dumps; testdata/README says where they are from.
func golden(t testing.TB) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("..", "testdata", "*-dir", "*", "*"+MetadataSuffix))
	if err != nil || len(files) < 10 {
		t.Fatalf("only %d metadata files are here (%v)", len(files), err)
	}
	return files
}

func TestFileName(t *testing.T) {
	long := strings.Repeat("é", 119)
	for _, c := range []struct{ collection, file string }{
		{"user", "user"},
		{"system.users", "system.users"},
		{"a/b.c d%é", "a%2Fb.c+d%25%C3%A9"},
		{"a+b", "a%2Bb"},
		{"$admin.system.roles", "$admin.system.roles"},
		{"oplog.$main", "oplog.%24main"},
		{strings.Repeat("x", 238), strings.Repeat("x", 238)},
		{strings.Repeat("x", 239), strings.Repeat("x", 208) + "%24Nq75d-cu3iRxNs-ce3Tvf9gagoU"},
	} {
		if got := FileName(c.collection); got != c.file {
			t.Errorf("FileName(%q) = %q, want %q", c.collection, got, c.file)
		}
		if !IsCut(FileName(c.collection)) {
			if got := CollectionName(c.file); got != c.collection {
				t.Errorf("CollectionName(%q) = %q, want %q", c.file, got, c.collection)
			}
		}
	}
	a, b := FileName(long+"a"), FileName(long+"b")
	if len(a) != 238 || !IsCut(a) || a == b || a[:208] != b[:208] {
		t.Errorf("long names become %q and %q", a, b)
	}
	// Names that no escaping yields are names of old tools.
	for _, raw := range []string{"50%", "a b", "x%zz"} {
		if got := CollectionName(raw); got != raw {
			t.Errorf("CollectionName(%q) = %q", raw, got)
		}
	}
}

func TestParse(t *testing.T) {
	for path, want := range map[string]File{
		"girder/user.bson":                {KindData, "girder", "user", false},
		"girder/user.bson.gz":             {KindData, "girder", "user", true},
		"girder/user.metadata.json":       {KindMetadata, "girder", "user", false},
		"girder/user.metadata.json.gz":    {KindMetadata, "girder", "user", true},
		"girder/system.buckets.t.bson":    {KindData, "girder", "system.buckets.t", false},
		"girder/prelude.json":             {KindPrelude, "girder", "", false},
		"prelude.json.gz":                 {KindPrelude, "", "", true},
		"oplog.bson":                      {KindOplog, "", "", false},
		"girder/oplog.bson":               {KindData, "girder", "oplog", false},
		"girder/.bson":                    {},
		"girder/x/user.bson":              {},
		"user.bson":                       {},
		"girder/readme.txt.gz":            {KindOther, "", "", true},
		"girder/a.metadata.json.bson":     {KindData, "girder", "a.metadata.json", false},
		"girder/$admin.system.users.bson": {KindData, "girder", "$admin.system.users", false},
	} {
		if got := Parse(path); got != want {
			t.Errorf("Parse(%q) = %+v, want %+v", path, got, want)
		}
	}
	if p := Plain("girder/user.bson.gz"); p != "girder/user.bson" {
		t.Errorf("Plain: %q", p)
	}
	if p := Plain("notes.gz"); p != "notes.gz" {
		t.Errorf("Plain changes a file that is not of the layout into %q", p)
	}
}

// TestMetadataOfDumps reads what real tools wrote and writes it again: today's tools' bytes are equal.
func TestMetadataOfDumps(t *testing.T) {
	exact := 0
	for _, file := range golden(t) {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		m, err := ParseMetadata(data)
		if err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		base := strings.TrimSuffix(filepath.Base(file), MetadataSuffix)
		if m.Name != "" && FileName(m.Name) != base {
			t.Errorf("%s: the name %q would be the file %q", file, m.Name, FileName(m.Name))
		}
		if len(m.Indexes) == 0 && !m.IsView() {
			t.Errorf("%s has no index", file)
		}
		if m.Type == "" {
			continue
		}
		exact++
		again, err := MarshalMetadata(&m)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(data), string(again)); diff != "" {
			t.Errorf("%s: -mongodump +wtsnap\n%s", file, diff)
		}
	}
	if exact < 8 {
		t.Errorf("only %d files were compared", exact)
	}
}

func TestMetadataOfOldTools(t *testing.T) {
	data := []byte(`{"options":{"capped":true,"size":{"$numberLong":"1048576"},"f":{"$regex":"^a","$options":"i"}},` +
		`"indexes":[{"v":1,"key":{"_id":1},"name":"_id_","ns":"db.c"},{"v":1,"key":{"n":-1.5},"name":"n"}]}`)
	m, err := ParseMetadata(data)
	if err != nil {
		t.Fatal(err)
	}
	if size, ok := m.Options.Lookup("size").Int64OK(); !ok || size != 1<<20 {
		t.Errorf("size is %v", m.Options.Lookup("size"))
	}
	if len(m.Indexes) != 2 || m.Indexes[0].Lookup("ns").StringValue() != "db.c" {
		t.Errorf("indexes are %v", m.Indexes)
	}
	if m.IsView() || m.IsTimeseries() || m.UUID != "" || m.Name != "" {
		t.Errorf("read %+v", m)
	}
	if m, err := ParseMetadata(nil); err != nil || m.Indexes != nil {
		t.Errorf("an empty file: %+v, %v", m, err)
	}
	if m, err := ParseMetadata([]byte(`{"options":{"viewOn":"item","pipeline":[]},"indexes":[]}`)); err != nil || !m.IsView() {
		t.Errorf("a view without a type: %+v, %v", m, err)
	}
	for _, bad := range []string{"{", "[]", `{"indexes":5}`, `{"options":[1]`, `{"indexes":["v":1]}`} {
		if m, err := ParseMetadata([]byte(bad)); err == nil {
			t.Errorf("%q is read as %+v", bad, m)
		}
	}
}

func TestWithName(t *testing.T) {
	long := strings.Repeat("é\"", 90)
	for _, data := range []string{`{"options":{},"indexes":[]}`, `{}`, ``, " {\"indexes\":[] }\n"} {
		out, err := WithName([]byte(data), long)
		if err != nil {
			t.Fatalf("%q: %v", data, err)
		}
		if m, err := ParseMetadata(out); err != nil || m.Name != long {
			t.Errorf("%q becomes %q: %v", data, out, err)
		}
	}
	data := []byte(`{"indexes":[],"collectionName":"x"}`)
	if out, err := WithName(data, "y"); err != nil || !bytes.Equal(out, data) {
		t.Errorf("a name that is there becomes %q: %v", out, err)
	}
}

func TestPrelude(t *testing.T) {
	const file = `{"ServerVersion":"7.0.42","ToolVersion":"100.12.0"}`
	v, err := ParsePrelude([]byte(file))
	if err != nil || v != (Versions{"7.0.42", "100.12.0"}) {
		t.Fatalf("read %+v, %v", v, err)
	}
	if got := string(MarshalPrelude(v)); got != file {
		t.Errorf("written as %s", got)
	}
	if _, err := ParsePrelude([]byte("{")); err == nil {
		t.Error("half a prelude is read")
	}
}

func FuzzParseMetadata(f *testing.F) {
	for _, file := range golden(f) {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte(`{"options":{"a":{"$binary":"AAA=","$type":"00"}},"indexes":[{"v":1.0}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := ParseMetadata(data)
		if err != nil {
			return
		}
		for _, raw := range append(m.Indexes, m.Options) {
			if raw == nil {
				continue
			}
			if err := raw.Validate(); err != nil {
				t.Fatalf("%s: %v", hex.EncodeToString(raw), err)
			}
		}
		again, err := MarshalMetadata(&m)
		if err != nil {
			return // what JSON cannot hold
		}
		m2, err := ParseMetadata(again)
		if err != nil {
			t.Fatalf("%s becomes %s: %v", data, again, err)
		}
		if len(m2.Indexes) != len(m.Indexes) || m2.Type != m.Type && utf8.ValidString(m.Type) {
			t.Fatalf("%s becomes %s", data, again)
		}
	})
}

func FuzzFileName(f *testing.F) {
	f.Add("user")
	f.Add("a/b.c d%é")
	f.Add(strings.Repeat("%", 300))
	f.Fuzz(func(t *testing.T, name string) {
		file := FileName(name)
		if len(file) > maxName && !strings.HasPrefix(name, authPrefix) {
			t.Fatalf("%q becomes %q", name, file)
		}
		if strings.HasPrefix(name, authPrefix) {
			return
		}
		if strings.ContainsAny(file, "/\x00") || !utf8.ValidString(file) {
			t.Fatalf("%q becomes %q", name, file)
		}
		if !IsCut(file) && CollectionName(file) != name {
			t.Fatalf("%q becomes %q becomes %q", name, file, CollectionName(file))
		}
	})
}
