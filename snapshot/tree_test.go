package snapshot

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/snapshot/localfs"
)

var update = flag.Bool("update", false, "write golden files of a new format; never for an existing one")

// A shelf is a place for tree pages, in memory.
type shelf struct {
	h     *chunk.Hasher
	pages map[chunk.ID][]byte
	loads int
}

func newShelf() *shelf {
	return &shelf{h: chunk.NewHasher([32]byte{7}), pages: map[chunk.ID][]byte{}}
}

func (s *shelf) put(data []byte) (chunk.ID, error) {
	id := s.h.Sum(data)
	s.pages[id] = bytes.Clone(data)
	return id, nil
}

func (s *shelf) load(_ context.Context, id chunk.ID) ([]byte, error) {
	s.loads++
	if data, ok := s.pages[id]; ok {
		return data, nil
	}
	return nil, fmt.Errorf("no page %s", id.Short())
}

func (s *shelf) folder(t testing.TB, nodes []*Node) chunk.ID {
	t.Helper()
	b := NewFolderBuilder(s.h, s.put)
	for _, n := range nodes {
		must(t, b.Add(n))
	}
	id, err := b.Finish()
	must(t, err)
	return id
}

func (s *shelf) nodes(t testing.TB, root chunk.ID) (nodes []*Node) {
	t.Helper()
	for n, err := range FolderNodes(t.Context(), s.load, root) {
		must(t, err)
		nodes = append(nodes, n)
	}
	return nodes
}

func idOf(b byte) (id chunk.ID) {
	for i := range id {
		id[i] = b + byte(i)
	}
	return id
}

// sampleNodes are one of everything.
func sampleNodes() []*Node {
	meta := func(t localfs.Type, mode uint32) localfs.Meta {
		return localfs.Meta{Type: t, Mode: mode, UID: 1000, GID: 1000, MTime: 1524268800_123456789, CTime: 1524268800_123456789,
			Dev: 0x801, Ino: 4242, Nlink: 1}
	}
	file := &Node{Name: "a file", Meta: meta(localfs.TypeFile, 0o644), Content: []Part{{ID: idOf(1), Size: 300_000}, {HoleSize: 1 << 40}, {ID: idOf(2), Size: 7}}}
	file.Size, file.CTime, file.BTime, file.Nlink, file.Ino = 300_007+1<<40, 1524268801_000000000, -1, 2, 17
	file.Xattrs = []localfs.Xattr{{Name: "user.a", Value: []byte{}}, {Name: "user.b", Value: []byte("\x00value")}}
	file.Flags = FlagTorn
	empty := &Node{Name: "an empty file", Meta: meta(localfs.TypeFile, 0o4755)}
	empty.UID, empty.GID = 0, math.MaxUint32
	large := &Node{Name: "big\xff\n", Meta: meta(localfs.TypeFile, 0o600), ContentRoot: idOf(3), ContentLevel: 2}
	large.Size = 1 << 50
	folder := &Node{Name: "folder", Meta: meta(localfs.TypeDir, 0o2775), Subtree: idOf(4), Flags: FlagPartial}
	folder.Size = 12345
	link := &Node{Name: "link", Meta: meta(localfs.TypeSymlink, 0o777), Target: "../\xfe"}
	link.Size, link.MTime, link.CTime = 4, math.MaxInt64, math.MinInt64
	block := &Node{Name: "sda", Meta: meta(localfs.TypeBlockDevice, 0o660)}
	block.RDev = localfs.MakeRDev(8, 1)
	char := &Node{Name: "tty", Meta: meta(localfs.TypeCharDevice, 0o620)}
	char.RDev, char.Nlink = localfs.MakeRDev(4, 0), 0
	fifo := &Node{Name: "u fifo", Meta: meta(localfs.TypeFIFO, 0o600)}
	socket := &Node{Name: "v socket", Meta: meta(localfs.TypeSocket, 0o600)}
	socket.Dev, socket.Ino = math.MaxUint64, math.MaxUint64
	return []*Node{file, empty, large, folder, link, block, char, fifo, socket}
}

func golden(t *testing.T, name string, data []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if _, err := os.Stat(path); err == nil {
			t.Logf("%s is there already", path)
		} else {
			must(t, os.MkdirAll("testdata", 0o755))
			must(t, os.WriteFile(path, []byte(hex.Dump(data)), 0o644))
		}
	}
	want, err := os.ReadFile(path)
	must(t, err)
	if diff := cmp.Diff(string(want), hex.Dump(data)); diff != "" {
		t.Errorf("%s: the encoding has changed (-want +got):\n%s", name, diff)
	}
}

func TestGoldenPages(t *testing.T) {
	s := newShelf()
	root := s.folder(t, sampleNodes())
	golden(t, "folder_page.hex", s.pages[root])
	if diff := cmp.Diff(sampleNodes(), s.nodes(t, root), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("nodes differ (-want +got):\n%s", diff)
	}

	p := openPage{}
	p.reset(pageFolder, 1)
	for i, name := range []string{"a", "m\xff", "z"} {
		id := idOf(byte(i))
		p.buf = append(appendString(p.buf, name), id[:]...)
		p.count++
	}
	golden(t, "folder_page_level1.hex", p.bytes())

	list := NewListBuilder(s.put)
	for i := range 40 {
		must(t, list.Add(Part{ID: idOf(byte(i) | 1), Size: uint32(1000 + i)}))
	}
	must(t, list.Add(Part{HoleSize: 4096}))
	n := Node{}
	must(t, list.Finish(&n))
	golden(t, "content_page.hex", s.pages[n.ContentRoot])
}

func TestEmptyFolder(t *testing.T) {
	s := newShelf()
	root := s.folder(t, nil)
	if nodes := s.nodes(t, root); len(nodes) != 0 {
		t.Errorf("nodes %v", nodes)
	}
	if _, err := LookupNode(t.Context(), s.load, root, "x"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v", err)
	}
}

// manyNodes makes count empty files with names of a shared form.
func manyNodes(count int) []*Node {
	nodes := make([]*Node, count)
	for i := range nodes {
		n := &Node{Name: fmt.Sprintf("file-%07d", 2*i)}
		n.Type, n.Mode, n.Nlink, n.Ino, n.MTime = localfs.TypeFile, 0o644, 1, uint64(i*7), int64(i)*1e9
		n.CTime = n.MTime
		nodes[i] = n
	}
	return nodes
}

func TestLargeFolder(t *testing.T) {
	s := newShelf()
	nodes := manyNodes(200_000)
	root := s.folder(t, nodes)
	for id, data := range s.pages {
		page, err := DecodeFolderPage(data)
		must(t, err)
		if len(page.Nodes) > folderPageMax || len(data) > folderPageBytes+maxNode {
			t.Errorf("page %s has %d nodes, %d bytes", id.Short(), len(page.Nodes), len(data))
		}
	}
	i := 0
	for n, err := range FolderNodes(t.Context(), s.load, root) {
		must(t, err)
		if n.Name != nodes[i].Name || n.Ino != nodes[i].Ino {
			t.Fatalf("node %d is %q", i, n.Name)
		}
		i++
	}
	if i != len(nodes) {
		t.Errorf("%d nodes of %d", i, len(nodes))
	}
	s.loads = 0
	n, err := LookupNode(t.Context(), s.load, root, nodes[77_777].Name)
	must(t, err)
	if n.Ino != nodes[77_777].Ino || s.loads > 3 {
		t.Errorf("found inode %d after %d pages", n.Ino, s.loads)
	}
	for _, name := range []string{"a", "file-0000001", "file-0155555", "zzz"} {
		if _, err := LookupNode(t.Context(), s.load, root, name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

// One more name rewrites few pages, wherever it is. The pages it changes are those up to where both cuttings meet again.
func TestInsertionRewritesFewPages(t *testing.T) {
	s := newShelf()
	nodes := manyNodes(50_000)
	s.folder(t, nodes)
	before := len(s.pages)
	rng := rand.New(rand.NewPCG(1, 2))
	total := 0
	const rounds = 50
	for range rounds {
		i := rng.IntN(len(nodes))
		extra := *nodes[i]
		extra.Name += "x"
		s.folder(t, slices.Insert(slices.Clone(nodes), i+1, &extra))
		total += len(s.pages) - before
		before = len(s.pages)
	}
	if total > 5*rounds {
		t.Errorf("%d insertions rewrote %d of %d pages", rounds, total, before)
	}
}

func TestLongContent(t *testing.T) {
	s := newShelf()
	build := func(parts []Part) *Node {
		b := NewListBuilder(s.put)
		for _, p := range parts {
			must(t, b.Add(p))
		}
		n := &Node{}
		must(t, b.Finish(n))
		return n
	}
	var parts []Part
	size := int64(0)
	for i := range 100_000 {
		p := Part{ID: s.h.Sum([]byte{byte(i), byte(i >> 8), byte(i >> 16)}), Size: uint32(1 + i%1000)}
		parts = append(parts, p)
		size += p.Len()
	}
	n := build(parts)
	if n.ContentRoot.IsZero() || n.ContentLevel == 0 || n.Size != size {
		t.Fatalf("root %s at level %d, size %d", n.ContentRoot.Short(), n.ContentLevel, n.Size)
	}
	i, off := 0, int64(0)
	for p, err := range n.Parts(t.Context(), s.load, 0) {
		must(t, err)
		if p.Offset != off || p.Part != parts[i] {
			t.Fatalf("part %d: %+v", i, p)
		}
		i, off = i+1, off+p.Len()
	}
	if off != size {
		t.Errorf("%d bytes of %d", off, size)
	}
	s.loads = 0
	for p, err := range n.Parts(t.Context(), s.load, size/2) {
		must(t, err)
		if p.Offset > size/2 || p.Offset+p.Len() <= size/2 {
			t.Errorf("part at %d of %d bytes for %d", p.Offset, p.Len(), size/2)
		}
		break
	}
	if s.loads > 4 {
		t.Errorf("%d pages for one part", s.loads)
	}
	before := len(s.pages)
	build(slices.Insert(slices.Clone(parts), 31_234, Part{ID: idOf(9), Size: 5}))
	if rewritten := len(s.pages) - before; rewritten > 12 {
		t.Errorf("one more part rewrote %d of %d pages", rewritten, before)
	}
}

func TestContentIsNormal(t *testing.T) {
	b := NewListBuilder(newShelf().put)
	for _, p := range []Part{{}, {HoleSize: 1}, {HoleSize: 2}, {ID: idOf(1), Size: 3}, {}, {HoleSize: 4}} {
		must(t, b.Add(p))
	}
	n := Node{}
	must(t, b.Finish(&n))
	want := []Part{{HoleSize: 3}, {ID: idOf(1), Size: 3}, {HoleSize: 4}}
	if !slices.Equal(n.Content, want) || n.Size != 10 {
		t.Errorf("%d bytes in %v", n.Size, n.Content)
	}
}

// A clone ends with what was added so far and does not disturb the builder.
func TestCloneOfBuilder(t *testing.T) {
	s := newShelf()
	nodes := manyNodes(3000)
	want := s.folder(t, nodes)
	b := NewFolderBuilder(s.h, s.put)
	for i, n := range nodes {
		must(t, b.Add(n))
		if i%500 != 0 {
			continue
		}
		id, err := b.Clone().Finish()
		must(t, err)
		if got := len(s.nodes(t, id)); got != i+1 {
			t.Fatalf("the clone has %d nodes of %d", got, i+1)
		}
	}
	got, err := b.Finish()
	must(t, err)
	if got != want {
		t.Error("cloning changed the tree")
	}
}

func TestBadNodes(t *testing.T) {
	valid := func() *Node { return manyNodes(1)[0] }
	for name, spoil := range map[string]func(n *Node){
		"name empty":        func(n *Node) { n.Name = "" },
		"name with slash":   func(n *Node) { n.Name = "a/b" },
		"name dots":         func(n *Node) { n.Name = ".." },
		"name zero":         func(n *Node) { n.Name = "a\x00" },
		"name long":         func(n *Node) { n.Name = strings.Repeat("x", maxName+1) },
		"mode":              func(n *Node) { n.Mode = 0o10000 },
		"type":              func(n *Node) { n.Type = 0 },
		"flags":             func(n *Node) { n.Flags = 0x80 },
		"size":              func(n *Node) { n.Size = 1 },
		"part too large":    func(n *Node) { n.Content, n.Size = []Part{{ID: idOf(1), Size: chunk.MaxSize + 1}}, chunk.MaxSize+1 },
		"both contents":     func(n *Node) { n.Content, n.ContentRoot, n.Size = []Part{{HoleSize: 1}}, idOf(1), 1 },
		"too many parts":    func(n *Node) { n.Content, n.Size = slices.Repeat([]Part{{HoleSize: 1}}, 33), 33 },
		"xattrs disordered": func(n *Node) { n.Xattrs = []localfs.Xattr{{Name: "b"}, {Name: "a"}} },
		"xattrs large":      func(n *Node) { n.Xattrs = []localfs.Xattr{{Name: "b", Value: make([]byte, maxNode)}} },
		"link to nothing":   func(n *Node) { n.Type = localfs.TypeSymlink },
		"folder, no tree":   func(n *Node) { n.Type = localfs.TypeDir },
	} {
		n := valid()
		spoil(n)
		b := NewFolderBuilder(newShelf().h, newShelf().put)
		if err := b.Add(n); err == nil {
			t.Errorf("%s: stored", name)
		}
		if err := b.Add(valid()); err != nil {
			t.Errorf("%s: then a good one: %v", name, err)
		}
		if err := b.Add(valid()); err == nil {
			t.Errorf("%s: the same name twice", name)
		}
	}
}

// nodeGen makes any valid node.
func nodeGen(name string) *rapid.Generator[*Node] {
	id := rapid.Custom(func(t *rapid.T) chunk.ID {
		id := chunk.ID(rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "id"))
		id[31] |= 1
		return id
	})
	text := func(t *rapid.T, label string, least, most int) string {
		return string(rapid.SliceOfN(rapid.ByteRange(1, 255), least, most).Draw(t, label))
	}
	return rapid.Custom(func(t *rapid.T) *Node {
		n := &Node{Name: name, Flags: NodeFlags(rapid.Uint8Range(0, uint8(knownFlags)).Draw(t, "flags"))}
		n.Type = localfs.Type(rapid.Uint8Range(1, 7).Draw(t, "type"))
		n.Mode = rapid.Uint32Range(0, 0o7777).Draw(t, "mode")
		n.UID, n.GID, n.Nlink = rapid.Uint32().Draw(t, "uid"), rapid.Uint32().Draw(t, "gid"), rapid.Uint32().Draw(t, "nlink")
		n.MTime, n.CTime, n.BTime = rapid.Int64().Draw(t, "mtime"), rapid.Int64().Draw(t, "ctime"), rapid.Int64().Draw(t, "btime")
		n.Dev, n.Ino = rapid.Uint64().Draw(t, "dev"), rapid.Uint64().Draw(t, "ino")
		last := ""
		for range rapid.IntRange(0, 3).Draw(t, "xattrs") {
			last += text(t, "xattr", 1, 5)
			n.Xattrs = append(n.Xattrs, localfs.Xattr{Name: last, Value: rapid.SliceOfN(rapid.Byte(), 0, 9).Draw(t, "value")})
		}
		switch n.Type {
		case localfs.TypeFile:
			if rapid.Bool().Draw(t, "list") {
				n.ContentRoot, n.Size = id.Draw(t, "root"), rapid.Int64Range(1, math.MaxInt64).Draw(t, "size")
				n.ContentLevel = rapid.Uint8Range(0, maxLevel).Draw(t, "level")
				break
			}
			for range rapid.IntRange(0, MaxInline).Draw(t, "parts") {
				p := Part{HoleSize: rapid.Int64Range(1, 1<<50).Draw(t, "hole")}
				if rapid.Bool().Draw(t, "data") {
					p = Part{ID: id.Draw(t, "id"), Size: rapid.Uint32Range(1, chunk.MaxSize).Draw(t, "size")}
				}
				n.Content = append(n.Content, p)
				n.Size += p.Len()
			}
		case localfs.TypeDir:
			n.Subtree, n.Size = id.Draw(t, "subtree"), rapid.Int64Min(0).Draw(t, "size")
		case localfs.TypeSymlink:
			n.Target = text(t, "target", 1, 20)
			n.Size = int64(len(n.Target))
		case localfs.TypeBlockDevice, localfs.TypeCharDevice:
			n.RDev = rapid.Uint64().Draw(t, "rdev")
		}
		return n
	})
}

func TestRoundTripProperty(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s := newShelf()
		var nodes []*Node
		for i := range rapid.IntRange(0, 8).Draw(rt, "count") {
			nodes = append(nodes, nodeGen(fmt.Sprintf("n%d", i)).Draw(rt, "node"))
		}
		b := NewFolderBuilder(s.h, s.put)
		for _, n := range nodes {
			if err := b.Add(n); err != nil {
				rt.Fatal(err)
			}
		}
		root, err := b.Finish()
		if err != nil {
			rt.Fatal(err)
		}
		page, err := DecodeFolderPage(s.pages[root])
		if err != nil {
			rt.Fatal(err)
		}
		for i, n := range nodes {
			if diff := cmp.Diff(n, &page.Nodes[i], cmpopts.EquateEmpty()); diff != "" {
				rt.Fatalf("node %d differs (-want +got):\n%s", i, diff)
			}
		}
	})
}

// encodePage encodes what was decoded: the same bytes, or the decoder is not strict.
func encodePage(p *FolderPage) ([]byte, error) {
	o := openPage{}
	o.reset(pageFolder, int(p.Level))
	var err error
	for i := range p.Nodes {
		if o.buf, err = appendNode(o.buf, &p.Nodes[i], &o.b); err != nil {
			return nil, err
		}
		o.count++
	}
	for _, r := range p.Refs {
		o.buf = append(appendString(o.buf, r.First), r.ID[:]...)
		o.count++
	}
	return o.bytes(), nil
}

func FuzzDecodeFolderPage(f *testing.F) {
	s := newShelf()
	s.folder(f, sampleNodes())
	s.folder(f, manyNodes(10))
	s.folder(f, nil)
	for _, data := range s.pages {
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := DecodeFolderPage(data)
		if err != nil {
			return
		}
		if again, err := encodePage(p); err != nil || !bytes.Equal(again, data) {
			t.Fatalf("decoded, it encodes to other bytes: %v\n%x\n%x", err, data, again)
		}
	})
}

func FuzzDecodeContentPage(f *testing.F) {
	s := newShelf()
	b := NewListBuilder(s.put)
	for i := range 5000 {
		must(f, b.Add(Part{ID: s.h.Sum([]byte{byte(i), byte(i >> 8)}), Size: 1}))
		must(f, b.Add(Part{HoleSize: int64(i%3) << 30}))
	}
	must(f, b.Finish(&Node{}))
	for _, data := range s.pages {
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := DecodeContentPage(data)
		if err != nil {
			return
		}
		o := openPage{}
		o.reset(pageList, int(p.Level))
		for _, part := range p.Parts {
			o.buf = appendPart(o.buf, part)
		}
		for _, r := range p.Refs {
			o.buf = appendRef(o.buf, r)
		}
		o.count = len(p.Parts) + len(p.Refs)
		if !bytes.Equal(o.bytes(), data) {
			t.Fatalf("decoded, it encodes to other bytes:\n%x\n%x", data, o.bytes())
		}
	})
}

// A cursor refuses pages that do not belong where they are.
func TestMisplacedPages(t *testing.T) {
	s := newShelf()
	a := s.folder(t, manyNodes(1))
	list := NewListBuilder(s.put)
	for i := range 40 {
		must(t, list.Add(Part{ID: idOf(byte(i) | 1), Size: 1}))
	}
	n := Node{}
	must(t, list.Finish(&n))
	ref := func(level int, refs ...PageRef) chunk.ID {
		p := openPage{}
		p.reset(pageFolder, level)
		for _, r := range refs {
			p.buf = append(appendString(p.buf, r.First), r.ID[:]...)
			p.count++
		}
		id, _ := s.put(p.bytes())
		return id
	}
	first := manyNodes(1)[0].Name
	for what, root := range map[string]chunk.ID{
		"a list":              n.ContentRoot,
		"a skipped level":     ref(2, PageRef{first, a}),
		"another first name":  ref(1, PageRef{"f", a}),
		"an empty page below": ref(1, PageRef{first, s.folder(t, nil)}),
		"the same page twice": ref(1, PageRef{first, a}, PageRef{first + "x", a}),
	} {
		c, got := NewFolderCursor(s.load, root), 0
		for ; got < 3; got++ {
			n, err := c.Next(t.Context())
			if err != nil {
				break
			}
			if n == nil {
				t.Errorf("%s was read", what)
				break
			}
		}
		if got == 3 {
			t.Errorf("%s was read", what)
		}
	}
	n.Size++
	for _, err := range n.Parts(t.Context(), s.load, 0) {
		if err == nil {
			t.Error("a list of another size was read")
		}
		break
	}
}

func sampleManifest() *Manifest {
	at := time.Date(2026, 11, 20, 3, 0, 0, 0, time.UTC)
	return &Manifest{Instance: "girder", Time: at, End: at.Add(time.Minute), Host: "db1", Program: "wtsnap 1.0", Root: idOf(5),
		Sources: []Source{{Label: "homes", Kind: SourceFolder, Path: "/srv/homes", Files: 3, Dirs: 2, Bytes: 1 << 40, Errors: 1, Time: at}},
		Tags:    []string{"weekly"}, Complete: true, Parent: repo.SnapshotID{1, 2, 3}, Errors: 1, Files: 3, Dirs: 2, Bytes: 1 << 40,
		Owners: Owners{Users: map[uint32]string{0: "root", 1000: "alice"}, Groups: map[uint32]string{0: "root"}}}
}

func TestGoldenManifest(t *testing.T) {
	data, err := EncodeManifest(sampleManifest())
	must(t, err)
	golden(t, "manifest.hex", data)
	m, err := DecodeManifest(data)
	must(t, err)
	if diff := cmp.Diff(sampleManifest(), m); diff != "" {
		t.Errorf("manifest differs (-want +got):\n%s", diff)
	}
}

// sampleMongoManifest has every field of version 2.
func sampleMongoManifest() *Manifest {
	m := sampleManifest()
	m.Sources = append(m.Sources, Source{Label: "mongo", Kind: SourceMongo, Path: "mongodb://u:***@db1/?replicaSet=rs1", Files: 5, Dirs: 2, Bytes: 9, Time: m.Time,
		Mongo: &MongoInfo{Role: MongoDump, Server: "7.0.42", Tool: "100.10.0", Set: "rs1", Member: "db2:27017", Consistency: MongoWindow,
			Start: Timestamp{1700000000, 1}, End: Timestamp{1700000060, 7}, Order: MongoNatural,
			Databases: []MongoDatabase{{"girder", 2, 300, 9}}, Include: []string{"girder.*"}, Exclude: []string{"girder.token"}}})
	return m
}

func TestGoldenMongoManifest(t *testing.T) {
	data, err := EncodeManifest(sampleMongoManifest())
	must(t, err)
	golden(t, "manifest_v2.hex", data)
	m, err := DecodeManifest(data)
	must(t, err)
	if diff := cmp.Diff(sampleMongoManifest(), m); diff != "" {
		t.Errorf("manifest differs (-want +got):\n%s", diff)
	}
	if _, err := DecodeManifest(bytes.Replace(data, []byte(`"version":2`), []byte(`"version":1`), 1)); err == nil {
		t.Error("a MongoDB in a manifest of version 1 was taken")
	}
}

func TestManifestIsStrict(t *testing.T) {
	data, err := EncodeManifest(sampleManifest())
	must(t, err)
	for from, to := range map[string]string{
		`"version":1`:  `"version":4`,
		`{"version":1`: `{"version":0`,
		`"host":`:      `"hist":`,
		`"root":"05`:   `"root":"5`,
		`"complete":t`: `"complete":"t`,
		`{"version"`:   `{} {"version"`,
	} {
		bad := strings.Replace(string(data), from, to, 1)
		if bad == string(data) {
			t.Fatalf("%q is not in %s", from, data)
		}
		if _, err := DecodeManifest([]byte(bad)); err == nil {
			t.Errorf("%q for %q was taken", to, from)
		}
	}
	if _, err := DecodeManifest(append(data, '{')); err == nil {
		t.Error("something after the end was taken")
	}
}

func FuzzDecodeManifest(f *testing.F) {
	data, err := EncodeManifest(sampleManifest())
	must(f, err)
	f.Add(data)
	data, err = EncodeManifest(sampleMongoManifest())
	must(f, err)
	f.Add(data)
	data, err = EncodeManifest(sampleChangeManifest())
	must(f, err)
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := DecodeManifest(data)
		if err != nil {
			return
		}
		again, err := EncodeManifest(m)
		if err != nil {
			t.Skip() // a time that JSON cannot hold in UTC
		}
		if _, err := DecodeManifest(again); err != nil {
			t.Fatal(err)
		}
	})
}
