package archive

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc64"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/gzip"
	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/whole-tale/wtsnap/mongo/layout"
)

func golden(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// readAll returns the documents of each namespace, reading with a buffer of the given size.
func readAll(data []byte, size int) (*Reader, map[string]string, error) {
	a, err := newReader(bytes.NewReader(data), 4<<10)
	if err != nil {
		return nil, nil, err
	}
	got, ended := map[string]*strings.Builder{}, map[string]bool{}
	buf := make([]byte, size)
	for {
		e, err := a.Next(buf)
		if err == io.EOF {
			break
		}
		if err != nil {
			if _, again := a.Next(buf); again != err {
				return a, nil, fmt.Errorf("the second call returns %v, the first %w", again, err)
			}
			return a, nil, err
		}
		name := e.Namespace.String()
		switch {
		case e.Kind == Begin && got[name] == nil:
			got[name] = &strings.Builder{}
		case e.Kind == Data && got[name] != nil && !ended[name] && len(e.Data) > 0:
			got[name].Write(e.Data)
		case e.Kind == End && got[name] != nil && !ended[name]:
			ended[name] = true
		default:
			return a, nil, fmt.Errorf("unexpected event %+v", e)
		}
	}
	out := map[string]string{}
	for name, b := range got {
		if !ended[name] {
			return a, nil, fmt.Errorf("%s does not end", name)
		}
		out[name] = b.String()
	}
	return a, out, nil
}

// folder returns what a dump's folder holds: documents by namespace, metadata by namespace.
func folder(t *testing.T, dir string) (documents, metadata map[string]string) {
	t.Helper()
	documents, metadata = map[string]string{}, map[string]string{}
	files, err := filepath.Glob(filepath.Join("..", "testdata", dir, "*", "*"))
	if err != nil || len(files) < 4 {
		t.Fatalf("%d files in %s: %v", len(files), dir, err)
	}
	for _, file := range append(files, filepath.Join("..", "testdata", dir, layout.OplogFile)) {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		rel, err := filepath.Rel(filepath.Join("..", "testdata", dir), file)
		if err != nil {
			t.Fatal(err)
		}
		f := layout.Parse(filepath.ToSlash(rel))
		name := Namespace{f.DB, layout.CollectionName(f.Name)}.String()
		switch f.Kind {
		case layout.KindOplog:
			documents[Oplog.String()] = string(data)
		case layout.KindData:
			documents[name] = string(data)
		case layout.KindMetadata:
			metadata[name] = string(data)
		}
	}
	return documents, metadata
}

// TestGolden reads what real tools wrote: the streams are what the same tools write as a folder.
func TestGolden(t *testing.T) {
	for _, c := range []struct {
		file, dir, server string
		oplog             bool
	}{
		{"100.10.archive", "100.10-dir", "7.0.42", true},
		{"100.10.archive.gz", "100.10-dir", "7.0.42", false},
		{"3.2.22.oplog.archive.gz", "3.2.22-dir", "3.2.22", true},
	} {
		for _, size := range []int{1, 3, 100, 1 << 20} {
			t.Run(fmt.Sprintf("%s/%d", c.file, size), func(t *testing.T) {
				a, got, err := readAll(golden(t, c.file), size)
				if err != nil {
					t.Fatal(err)
				}
				if h := a.Header(); h.ServerVersion != c.server || h.ToolVersion == "" || h.Concurrent != 4 {
					t.Errorf("the header is %+v", h)
				}
				documents, metadata := folder(t, c.dir)
				listed := map[string]string{}
				for _, col := range a.Collections() {
					if col.Namespace != Oplog {
						listed[col.String()] = string(col.Metadata)
					}
					if col.Type == layout.TypeView {
						if got[col.String()] != "" {
							t.Errorf("the view %v has documents", col)
						}
						delete(got, col.String())
					}
				}
				if diff := cmp.Diff(metadata, listed); diff != "" {
					t.Errorf("metadata: -folder +archive\n%s", diff)
				}
				if !c.oplog {
					delete(documents, Oplog.String())
				}
				if diff := cmp.Diff(documents, got); diff != "" {
					t.Errorf("-folder +archive\n%s", diff)
				}
			})
		}
	}
}

func plain(t testing.TB, name string) []byte {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(golden(t, name)))
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestTruncated cuts an archive at every byte: no part of it passes for a whole.
func TestTruncated(t *testing.T) {
	data := golden(t, "100.10.archive")
	for n := range data {
		_, _, err := readAll(data[:n], 1<<16)
		if !errors.Is(err, ErrTruncated) {
			t.Fatalf("the first %d of %d bytes: %v", n, len(data), err)
		}
	}
	packed := golden(t, "100.10.archive.gz")
	for n := range packed {
		if _, _, err := readAll(packed[:n], 1<<16); !errors.Is(err, ErrTruncated) {
			t.Fatalf("the first %d of %d compressed bytes: %v", n, len(packed), err)
		}
	}
}

// TestFlipped changes every byte: the documents that are read are right, or there is an error.
func TestFlipped(t *testing.T) {
	data := golden(t, "100.10.archive")
	_, want, err := readAll(data, 1<<16)
	if err != nil {
		t.Fatal(err)
	}
	noticed := 0
	for i := range data {
		for _, bit := range []byte{1, 0x80} {
			if bit == 1 && i%5 != 0 {
				continue // half of the time
			}
			bad := bytes.Clone(data)
			bad[i] ^= bit
			_, got, err := readAll(bad, 1<<16)
			if err != nil {
				noticed++
				continue
			}
			if !cmp.Equal(want, got) {
				t.Fatalf("byte %d changed: other documents pass for right", i)
			}
		}
	}
	if noticed < len(data)/2 {
		t.Errorf("only %d changes in %d bytes were noticed", noticed, len(data))
	}
}

// handmade builds archives that no tool writes.
type handmade struct{ bytes.Buffer }

func newHandmade(listed ...bson.D) *handmade {
	h := &handmade{}
	h.Write([]byte{0x6d, 0xe2, 0x99, 0x81})
	h.doc(bson.D{{Key: "version", Value: "0.1"}})
	for _, d := range listed {
		h.doc(d)
	}
	return h.stop()
}

func (h *handmade) doc(d bson.D) *handmade {
	data, err := bson.Marshal(d)
	if err != nil {
		panic(err)
	}
	h.Write(data)
	return h
}

func (h *handmade) stop() *handmade {
	h.Write([]byte{0xff, 0xff, 0xff, 0xff})
	return h
}

func (h *handmade) block(db, coll string) *handmade {
	return h.doc(bson.D{{Key: "db", Value: db}, {Key: "collection", Value: coll}})
}

func (h *handmade) last(db, coll string, data []byte) *handmade {
	crc := int64(crc64.Checksum(data, ecma))
	return h.doc(bson.D{{Key: "db", Value: db}, {Key: "collection", Value: coll}, {Key: "EOF", Value: true}, {Key: "CRC", Value: crc}}).stop()
}

func listed(db, coll, kind string) bson.D {
	return bson.D{{Key: "db", Value: db}, {Key: "collection", Value: coll}, {Key: "metadata", Value: "{}"}, {Key: "type", Value: kind}}
}

func TestHandmade(t *testing.T) {
	x, err := bson.Marshal(bson.D{{Key: "x", Value: 1}})
	if err != nil {
		t.Fatal(err)
	}
	d := bson.D{{Key: "x", Value: 1}}
	for _, c := range []struct {
		name string
		in   *handmade
		err  string // "" = all is well
		want map[string]string
	}{
		{"nothing in it", newHandmade(), "", map[string]string{}},
		{"interleaved", newHandmade(listed("d", "a", ""), listed("d", "b", "")).block("d", "a").doc(d).stop().block("d", "b").doc(d).stop().
			block("d", "a").doc(d).doc(d).stop().last("d", "b", x).last("d", "a", bytes.Repeat(x, 3)), "",
			map[string]string{"d.a": strings.Repeat(string(x), 3), "d.b": string(x)}},
		{"time series under its name", newHandmade(listed("d", "t", "timeseries")).block("d", "t").stop().last("d", "t", nil), "",
			map[string]string{"d.t": ""}},
		{"time series under its buckets", newHandmade(listed("d", "t", "timeseries")).block("d", "system.buckets.t").stop().
			last("d", "system.buckets.t", nil), "", map[string]string{"d.system.buckets.t": ""}},
		{"not listed", newHandmade().block("d", "a").doc(d).stop().last("d", "a", x), "", map[string]string{"d.a": string(x)}},
		{"not listed and not ended", newHandmade().block("d", "a").doc(d).stop(), "ends early", nil},
		{"listed and not there", newHandmade(listed("d", "a", "")), "without the end of d.a", nil},
		{"wrong CRC", newHandmade().block("d", "a").doc(d).stop().last("d", "a", nil), "CRC", nil},
		{"after the end", newHandmade().block("d", "a").stop().last("d", "a", nil).block("d", "a").stop(), "goes on after its end", nil},
		{"end without beginning", newHandmade(listed("d", "a", "")).last("d", "a", nil), "never began", nil},
		{"twice in the prelude", newHandmade(listed("d", "a", ""), listed("d", "a", "")), "twice", nil},
		{"a database that leads out", newHandmade(listed("..", "a", "")), "cannot be the name", nil},
		{"no collection", newHandmade(listed("d", "", "")), "names no collection", nil},
		{"documents at the end", newHandmade().block("d", "a").stop().doc(bson.D{{Key: "db", Value: "d"}, {Key: "collection", Value: "a"},
			{Key: "EOF", Value: true}}).doc(d).stop(), "documents in the block that ends", nil},
		{"no header", newHandmade().stop(), "no header", nil},
		{"other version", func() *handmade {
			h := &handmade{}
			h.Write([]byte{0x6d, 0xe2, 0x99, 0x81})
			return h.doc(bson.D{{Key: "version", Value: "0.2"}}).stop()
		}(), "version", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, got, err := readAll(c.in.Bytes(), 1<<10)
			switch {
			case c.err == "" && err != nil:
				t.Fatal(err)
			case c.err == "":
				if diff := cmp.Diff(c.want, got); diff != "" {
					t.Error(diff)
				}
			case err == nil || !strings.Contains(err.Error(), c.err):
				t.Errorf("error %v, want one about %q", err, c.err)
			}
		})
	}
}

// longDocument is one of n bytes.
func longDocument(n int) []byte {
	data := make([]byte, n)
	binary.LittleEndian.PutUint32(data, uint32(n))
	data[4] = 0x05 // binary
	copy(data[5:], "b\x00")
	binary.LittleEndian.PutUint32(data[7:], uint32(n-13))
	return data
}

func TestDocumentLengths(t *testing.T) {
	for _, c := range []struct {
		size int
		ok   bool
	}{{5, true}, {14, true}, {16 << 20, true}, {maxDocument, true}, {maxDocument + 1, false}, {4, false}} {
		doc := make([]byte, max(c.size, 5))
		if c.size > 14 {
			doc = longDocument(c.size)
		}
		binary.LittleEndian.PutUint32(doc, uint32(c.size))
		h := newHandmade().block("d", "a")
		h.Write(doc)
		h.stop().last("d", "a", doc)
		_, got, err := readAll(h.Bytes(), 64<<10)
		if c.ok != (err == nil) {
			t.Errorf("a document of %d bytes: %v", c.size, err)
		}
		if c.ok && got["d.a"] != string(doc) {
			t.Errorf("a document of %d bytes comes back as %d bytes", c.size, len(got["d.a"]))
		}
	}
}

// rewrite writes what a reads once more.
func rewrite(a *Reader, documents map[string]string, step int) ([]byte, error) {
	var out bytes.Buffer
	w, err := NewWriter(&out, a.Header(), a.Collections())
	if err != nil {
		return nil, err
	}
	for n := range a.spaces {
		if err := w.Begin(n); err != nil {
			return nil, err
		}
		for data := documents[n.String()]; len(data) > 0; {
			k := min(step, len(data))
			if _, err := io.WriteString(w, data[:k]); err != nil {
				return nil, err
			}
			data = data[k:]
		}
		if err := w.End(); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), nil
}

func TestWriter(t *testing.T) {
	for _, name := range []string{"100.10.archive.gz", "3.2.22.oplog.archive.gz"} {
		for _, step := range []int{1, 7, 1 << 20} {
			a, want, err := readAll(plain(t, name), 1<<16)
			if err != nil {
				t.Fatal(err)
			}
			data, err := rewrite(a, want, step)
			if err != nil {
				t.Fatal(err)
			}
			b, got, err := readAll(data, 1<<16)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(a.Collections(), b.Collections()); diff != "" {
				t.Error(diff)
			}
			if a.Header() != b.Header() {
				t.Errorf("the header %+v becomes %+v", a.Header(), b.Header())
			}
		}
	}
}

func TestWriterRefuses(t *testing.T) {
	doc := longDocument(100)
	for _, bad := range [][]byte{doc[:99], doc[:3], append(bytes.Clone(doc), 1), {4, 0, 0, 0, 0}, append([]byte{6, 0, 0, 0}, 1, 1)} {
		w, err := NewWriter(io.Discard, Header{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		err = w.Begin(Namespace{"d", "a"})
		if err == nil {
			_, err = w.Write(bad)
		}
		if err == nil {
			err = w.End()
		}
		if err == nil {
			t.Errorf("%x is written", bad)
		}
	}
}

// TestSplit reads many collections that take turns.
func TestSplit(t *testing.T) {
	const collections, rounds = 20, 60
	h := newHandmade()
	want := map[string]string{}
	for round := range rounds {
		for c := range collections {
			name := fmt.Sprint("c", c)
			doc := longDocument(20 + (round*7919+c*104729)%30000)
			h.block("d", name)
			h.Write(doc)
			h.stop()
			want["d."+name] += string(doc)
		}
	}
	for c := range collections {
		name := fmt.Sprint("c", c)
		h.last("d", name, []byte(want["d."+name]))
	}
	split := func(data []byte, fn func(n Namespace, r io.Reader) error) error {
		a, err := NewReader(bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		return a.Split(t.Context(), func(_ context.Context, n Namespace, r io.Reader) error { return fn(n, r) })
	}
	var mu sync.Mutex
	got := map[string]string{}
	err := split(h.Bytes(), func(n Namespace, r io.Reader) error {
		if n.Collection == "c7" {
			_, err := io.ReadFull(r, make([]byte, 10)) // and no more
			return err
		}
		data, err := io.ReadAll(r)
		mu.Lock()
		defer mu.Unlock()
		got[n.String()] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	delete(want, "d.c7")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error("the streams differ")
	}

	own := errors.New("no more")
	if err := split(h.Bytes(), func(n Namespace, r io.Reader) error {
		if n.Collection == "c3" {
			return own
		}
		_, err := io.Copy(io.Discard, r)
		if err == nil && n.Collection == "c19" {
			t.Error("a stream ended well although the whole did not")
		}
		return err
	}); !errors.Is(err, own) {
		t.Errorf("the error of a stream comes back as %v", err)
	}

	ended := 0
	if err := split(h.Bytes()[:h.Len()-40], func(_ Namespace, r io.Reader) error {
		_, err := io.Copy(io.Discard, r)
		if err == nil {
			mu.Lock()
			ended++
			mu.Unlock()
			return nil
		}
		if !errors.Is(err, ErrTruncated) {
			t.Errorf("a stream that is cut ends with %v", err)
		}
		return err
	}); !errors.Is(err, ErrTruncated) || ended != collections-1 {
		t.Errorf("of an archive that is cut %d collections ended: %v", ended, err)
	}
}

func FuzzReader(f *testing.F) {
	f.Add(golden(f, "100.10.archive"))
	f.Add(newHandmade(listed("d", "a", "")).block("d", "a").doc(bson.D{{Key: "x", Value: "y"}}).stop().Bytes())
	f.Add(newHandmade(listed("d", "t", "timeseries")).block("d", "t").stop().last("d", "t", nil).Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		a, want, err := readAll(data, 1<<12)
		if err != nil {
			return
		}
		again, err := rewrite(a, want, 1<<12)
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		_, got, err := readAll(again, 1<<12)
		if err != nil {
			t.Fatalf("what was written cannot be read: %v", err)
		}
		if !cmp.Equal(want, got) {
			t.Fatal("what was written differs")
		}
	})
}

func BenchmarkReader(b *testing.B) {
	h := newHandmade().block("d", "a")
	for range 1 << 18 {
		h.Write(longDocument(414))
	}
	data := h.stop().Bytes()
	buf := make([]byte, splitBuffer)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		a, err := NewReader(bytes.NewReader(data))
		for err == nil {
			_, err = a.Next(buf)
		}
		if !errors.Is(err, ErrTruncated) {
			b.Fatal(err)
		}
	}
}
