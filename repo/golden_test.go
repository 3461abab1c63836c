package repo

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/index"
	"github.com/whole-tale/wtsnap/repo/storage/mem"
	"github.com/whole-tale/wtsnap/repo/storage/storagetest"
)

var makeGolden = flag.Bool("make-golden", false, "make testdata/golden-v1; refused where it is there already")

const goldenDir = "testdata/golden-v1"

// golden says what the golden repository must be read as. It lies beside the objects, in golden-v1.json.
type golden struct {
	Format    int                   `json:"format"`
	Passwords []string              `json:"passwords"` // a key file's content, and a password with argon2id
	Snapshots map[string][][]string `json:"snapshots"` // by id: trees of blobs, SHA-256 of each
	Forgotten map[string][][]string `json:"forgotten"`
	Notes     map[string][]string   `json:"notes"`
	Condemned int                   `json:"condemned"` // packs
	Deltas    int                   `json:"deltas"`    // frames
}

func digests(c content) [][]string {
	out := [][]string{}
	for _, blobs := range c {
		tree := []string{}
		for _, b := range blobs {
			sum := sha256.Sum256(b)
			tree = append(tree, hex.EncodeToString(sum[:]))
		}
		out = append(out, tree)
	}
	return out
}

// TestMakeGolden makes the golden repository: go test ./repo -run TestMakeGolden -make-golden. It is made
// once for each version of the format and never edited.
func TestMakeGolden(t *testing.T) {
	if !*makeGolden {
		t.Skip("only with -make-golden")
	}
	if _, err := os.Stat(goldenDir); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("%s is there: a golden repository is never made again (%v)", goldenDir, err)
	}
	ctx := t.Context()
	tr := newRepo(t)
	g := golden{Format: FormatVersion, Passwords: []string{string(tr.pass), "correct horse"},
		Snapshots: map[string][][]string{}, Forgotten: map[string][][]string{}, Notes: map[string][]string{}, Deltas: 1}
	must[KeyInfo](t)(tr.r.AddKey(ctx, []byte(g.Passwords[1]), KDFParams{Time: 1, Memory: 64, Threads: 1}, "second"))

	first := content{append(words("a", "b", "c"), []byte{}, []byte("one"), bytes.Repeat([]byte("text "), 2000)), words("d")}
	second := content{append(words("b", "c", "e"), []byte("two")), words("d")}
	gone := content{words("f", "g")}
	base := word("base", 8000)
	edited := bytes.Clone(base)
	copy(edited[1000:], "changed")

	s1 := tr.backup(append(first, [][]byte{base}))
	g.Snapshots[s1.ID.String()] = digests(append(first, [][]byte{base}))
	w := tr.begin(tr.st)
	trees := []chunk.ID{w.put(second[0]), w.put(second[1])}
	id, _, err := w.w.PutDelta(ctx, index.Data, edited, []chunk.ID{tr.r.Hasher().Sum(base)})
	must0(t, err)
	tree, _, err := w.w.Put(ctx, index.Tree, encodeIDs(treeMagic, []chunk.ID{id}))
	must0(t, err)
	s2 := w.commit(append(trees, tree)...)
	if w.s.Stats().BlobsDelta != 1 {
		t.Fatal("no delta")
	}
	w.close()
	g.Snapshots[s2.ID.String()] = digests(append(second, [][]byte{edited}))
	s3 := tr.backup(gone)
	g.Forgotten[s3.ID.String()] = digests(gone)
	must0(t, tr.r.Annotate(ctx, s1.ID, []byte(`{"note":1}`)))
	must0(t, tr.r.Annotate(ctx, s1.ID, []byte(`{"note":2}`)))
	g.Notes[s1.ID.String()] = []string{`{"note":1}`, `{"note":2}`}
	forget(t, tr.open(tr.st), s3)
	rep, _ := tr.prune(PruneOptions{Grace: MinGrace})
	g.Condemned = rep.Condemned.Packs
	if g.Condemned == 0 {
		t.Fatal("nothing is condemned")
	}
	objects := must[map[string][]byte](t)(storagetest.Content(tr.mem))
	for name, data := range objects {
		path := filepath.Join(goldenDir, filepath.FromSlash(name))
		must0(t, os.MkdirAll(filepath.Dir(path), 0o755))
		must0(t, os.WriteFile(path, data, 0o644))
	}
	text := must[[]byte](t)(json.MarshalIndent(g, "", " "))
	must0(t, os.WriteFile(goldenDir+".json", append(text, '\n'), 0o644))
	t.Logf("%d objects", len(objects))
}

// Every later version reads the golden repository of every format.
func TestGolden(t *testing.T) {
	text, err := os.ReadFile(goldenDir + ".json")
	if errors.Is(err, fs.ErrNotExist) {
		t.Skip("no golden repository yet: it is made when format 1 is released")
	}
	must0(t, err)
	var g golden
	must0(t, strictJSON(text, &g))
	m := mem.New()
	err = filepath.WalkDir(goldenDir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(goldenDir, path)
		if err != nil {
			return err
		}
		_, err = m.Put(t.Context(), filepath.ToSlash(name), data)
		return err
	})
	must0(t, err)
	for _, pass := range g.Passwords {
		r, err := Open(t.Context(), m, OpenOptions{Password: []byte(pass)})
		must0(t, err)
		judgeGolden(t, r, &g)
	}
	if _, err := Open(t.Context(), m, OpenOptions{Password: []byte("wrong")}); !errors.Is(err, ErrWrongPassword) {
		t.Errorf("a wrong password: %v", err)
	}
	// It is not only read: a backup and a prune work on it.
	r := must[*Repository](t)(Open(t.Context(), m, OpenOptions{Password: []byte(g.Passwords[0])}))
	ref := must[SnapshotRef](t)(backup(t.Context(), r, newContent))
	_, _, err = prune(t.Context(), reopen(r, m), PruneOptions{})
	must0(t, err)
	mustHold(t, reopen(r, m), ref, newContent)
	if rep := checkAll(t, reopen(r, m)); len(rep.Problems) != 0 {
		t.Errorf("after a backup and a prune: %+v", rep.Problems)
	}
}

func judgeGolden(t *testing.T, r *Repository, g *golden) {
	ctx := context.Background()
	rep := checkAll(t, r)
	if len(rep.Problems) != 0 || rep.Condemned.Packs != g.Condemned || rep.Snapshots != len(g.Snapshots) || rep.PacksRead == 0 {
		t.Errorf("check: %+v", rep)
	}
	deltas := 0
	for ref := range r.Index().Packs() {
		for _, f := range r.Index().Frames(ref) {
			if f.Encoding == chunk.ZstdDelta {
				deltas++
			}
		}
	}
	if deltas != g.Deltas {
		t.Errorf("%d deltas", deltas)
	}
	compare := func(refs []SnapshotRef, want map[string][][]string) {
		if len(refs) != len(want) {
			t.Errorf("%d snapshots, want %d", len(refs), len(want))
		}
		for _, ref := range refs {
			c := must[content](t)(readContent(ctx, r, must[[]byte](t)(r.Manifest(ctx, ref))))
			if !slices.EqualFunc(digests(c), want[ref.ID.String()], slices.Equal) {
				t.Errorf("snapshot %s reads differently", ref.ID)
			}
		}
	}
	compare(must[[]SnapshotRef](t)(r.Snapshots(ctx)), g.Snapshots)
	compare(must[[]SnapshotRef](t)(r.Forgotten(ctx)), g.Forgotten)
	notes := must[map[SnapshotID][]Annotation](t)(r.Annotations(ctx))
	if len(notes) != len(g.Notes) {
		t.Errorf("notes on %d snapshots", len(notes))
	}
	for id, list := range notes {
		var texts []string
		for _, n := range list {
			texts = append(texts, string(n.Data))
		}
		if !slices.Equal(texts, g.Notes[id.String()]) {
			t.Errorf("notes of %s: %q", id, texts)
		}
	}
}
