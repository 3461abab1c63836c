// Package apart tells what the bytes of a night are made of, and how far each file is from what a perfect delta of it
// would take.
package apart

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/cmd/wtsnap-bench/bound"
	"github.com/whole-tale/wtsnap/index"
	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/repo/storage"
	"github.com/whole-tale/wtsnap/snapshot"
)

const label = "tree"

// A Series saves the nights of a tree, one after the other, in a repository of its own, and looks at each.
type Series struct {
	st   storage.Storage
	r    *repo.Repository
	dir  string
	now  time.Time
	last *snapshot.Snapshot
	ids  map[index.Key]chunk.ID // of everything that was ever saved

	codec   *chunk.Codec
	weights map[index.BlobRef][]int // of the blobs of a frame, by its first
}

// A Part is what some of a night's files take.
type Part struct {
	Files  int   `json:"files"`
	Bound  int64 `json:"bound"`
	Stored int64 `json:"stored"`
	Whole  int   `json:"whole"`  // blobs that are stored whole
	Deltas int   `json:"deltas"` // and as differences
}

// A File is what a file takes.
type File struct {
	Path string `json:"path"`
	New  bool   `json:"new"`
	Size int64  `json:"size"`
	Part
}

// A Night is what a night takes. Stored is the sum of all but the bound.
type Night struct {
	Bound       int64  `json:"bound"`
	Stored      int64  `json:"stored"`
	New         Part   `json:"new"`
	Changed     Part   `json:"changed"`
	Trees       int64  `json:"trees"`       // frames of folders and lists of contents
	Directories int64  `json:"directories"` // of packs, with what seals them
	Padding     int64  `json:"padding"`
	Index       int64  `json:"index"` // segments
	Manifest    int64  `json:"manifest"`
	Files       []File `json:"files"` // the farthest from their bound first
}

// New makes a repository for the nights of the tree at dir. Far: what is read from it costs something.
func New(ctx context.Context, st storage.Storage, dir string, far bool) (*Series, error) {
	password, err := repo.NewKeyFile()
	if err != nil {
		return nil, err
	}
	if _, err := repo.Init(ctx, st, repo.InitOptions{Password: password}); err != nil {
		return nil, err
	}
	r, err := repo.Open(ctx, st, repo.OpenOptions{Password: password, Near: !far})
	return &Series{st: st, r: r, dir: dir, now: time.Date(2025, 3, 1, 3, 0, 0, 0, time.UTC), ids: map[index.Key]chunk.ID{},
		codec: chunk.NewCodec(chunk.LevelDefault)}, err
}

// First saves what there is before the first night.
func (p *Series) First(ctx context.Context) error {
	_, err := p.save(ctx)
	if err != nil {
		return err
	}
	return p.learn(ctx)
}

// Move says that the tree is at another place now, as it is there.
func (p *Series) Move(dir string) { p.dir = dir }

func (p *Series) save(ctx context.Context) (*snapshot.Snapshot, error) {
	p.now = p.now.Add(24 * time.Hour)
	rep, err := snapshot.Backup(ctx, p.r, snapshot.BackupOptions{Instance: "apart", Time: p.now, SampleNights: -1,
		Sources: []snapshot.SourceSpec{{Label: label, Kind: snapshot.SourceFolder, Path: p.dir}}})
	var alarm *snapshot.AnomalyError
	if err != nil && !errors.As(err, &alarm) {
		return nil, err
	}
	p.last = rep.Snapshot
	return rep.Snapshot, nil
}

// learn notes the ids of all that the last snapshot holds.
func (p *Series) learn(ctx context.Context) error {
	load := snapshot.TreeLoader(p.r)
	return snapshot.Walk(ctx, load, p.last.RootNode(), "", func(_ string, n *snapshot.Node, err error) error {
		if err != nil || !n.IsFile() {
			return err
		}
		for part, err := range n.Parts(ctx, load, 0) {
			if err != nil {
				return err
			}
			if !part.IsHole() {
				p.ids[index.KeyOf(part.ID)] = part.ID
			}
		}
		return nil
	})
}

// Night saves a night in which the files of pairs have changed; their paths are relative to the tree.
func (p *Series) Night(ctx context.Context, pairs map[string]bound.Pair) (*Night, error) {
	objects, err := p.objects(ctx)
	if err != nil {
		return nil, err
	}
	packs := map[index.PackID]bool{}
	for _, info := range p.r.Index().Packs() {
		packs[info.ID] = true
	}
	if _, err := p.save(ctx); err != nil {
		return nil, err
	}
	if err := p.learn(ctx); err != nil {
		return nil, err
	}
	n := &Night{}
	p.weights = map[index.BlobRef][]int{}
	if err := p.overhead(ctx, n, objects, packs); err != nil {
		return nil, err
	}
	return n, p.files(ctx, n, packs, pairs)
}

// objects returns the sizes of what the storage holds.
func (p *Series) objects(ctx context.Context) (map[string]int64, error) {
	sizes := map[string]int64{}
	err := p.st.List(ctx, "", func(i storage.Info) error {
		sizes[i.Name] = i.Size
		return nil
	})
	return sizes, err
}

// overhead counts all but the frames of data.
func (p *Series) overhead(ctx context.Context, n *Night, before map[string]int64, packs map[index.PackID]bool) error {
	after, err := p.objects(ctx)
	if err != nil {
		return err
	}
	for name, size := range after {
		if _, old := before[name]; old {
			continue
		}
		n.Stored += size
		switch {
		case strings.HasPrefix(name, "index/"):
			n.Index += size
		case !strings.HasPrefix(name, "packs/"):
			n.Manifest += size
		}
	}
	x := p.r.Index()
	for ref, info := range x.Packs() {
		if packs[info.ID] {
			continue
		}
		var frames []index.Frame
		for _, f := range x.Frames(ref) {
			frames = append(frames, f)
		}
		directory, err := index.AppendFrames([]byte{byte(info.Kind)}, frames)
		if err != nil {
			return err
		}
		seals := int64(len(directory) + 2*repo.Overhead + 8)
		n.Directories += seals
		n.Padding += info.Size - int64(info.DataSize) - seals
		if info.Kind == index.Tree {
			n.Trees += int64(info.DataSize)
		}
	}
	return nil
}

// files counts what each file takes.
func (p *Series) files(ctx context.Context, n *Night, packs map[index.PackID]bool, pairs map[string]bound.Pair) error {
	load := snapshot.TreeLoader(p.r)
	seen := map[index.Key]bool{}
	err := snapshot.Walk(ctx, load, p.last.RootNode(), "", func(path string, node *snapshot.Node, err error) error {
		if err != nil || !node.IsFile() {
			return err
		}
		path = strings.TrimPrefix(path, label+"/")
		f := File{Path: path, Size: node.Size}
		for part, err := range node.Parts(ctx, load, 0) {
			if err != nil {
				return err
			}
			key := index.KeyOf(part.ID)
			if part.IsHole() || seen[key] {
				continue
			}
			loc, ok := p.r.Index().Lookup(key)
			if !ok || packs[loc.PackID] {
				continue
			}
			seen[key] = true
			if err := p.blob(ctx, &f, loc); err != nil {
				return err
			}
		}
		pair, changed := pairs[path]
		if !changed && f.Stored == 0 {
			return nil
		}
		f.New, f.Files = pair.Old == "", 1
		if changed {
			b, err := bound.Of(ctx, []bound.Pair{pair})
			if err != nil {
				return err
			}
			f.Bound = b.Bytes
		}
		n.Bound += f.Bound
		if f.New {
			n.New.add(&f.Part)
		} else {
			n.Changed.add(&f.Part)
		}
		n.Files = append(n.Files, f)
		return nil
	})
	slices.SortFunc(n.Files, func(a, b File) int { return cmp.Compare(b.Stored-b.Bound, a.Stored-a.Bound) })
	return err
}

func (p *Part) add(o *Part) {
	p.Files += o.Files
	p.Bound += o.Bound
	p.Stored += o.Stored
	p.Whole += o.Whole
	p.Deltas += o.Deltas
}

// blob adds a blob's part of its frame: as much of it as the blob would take if it were alone.
func (p *Series) blob(ctx context.Context, f *File, loc index.Location) error {
	if len(loc.Bases) > 0 {
		f.Deltas++
	} else {
		f.Whole++
	}
	frame, first := p.r.Index().FrameOf(loc.Ordinal)
	weights, ok := p.weights[first]
	if !ok {
		for i := range frame.Blobs {
			w, err := p.weigh(ctx, first+index.BlobRef(i))
			if err != nil {
				return err
			}
			weights = append(weights, w)
		}
		p.weights[first] = weights
	}
	sum := 0
	for _, w := range weights {
		sum += w
	}
	f.Stored += int64(frame.Length) * int64(weights[loc.Ordinal-first]) / int64(max(sum, 1))
	return nil
}

// weigh returns what a blob would take in a frame of its own, about.
func (p *Series) weigh(ctx context.Context, ref index.BlobRef) (int, error) {
	key, loc := p.r.Index().At(ref)
	data, err := p.r.Blob(ctx, p.ids[key])
	if err != nil {
		return 0, err
	}
	if loc.Encoding == chunk.Patched {
		var base []byte
		for _, key := range loc.Bases {
			b, err := p.r.Blob(ctx, p.ids[key])
			if err != nil {
				return 0, err
			}
			base = append(base, b...)
		}
		var w chunk.PatchWriter
		ops, literals := w.Add(data, base)
		out, _ := p.codec.Encode(nil, literals)
		return 1 + ops + len(out), nil
	}
	out, _ := p.codec.Encode(nil, data)
	return 1 + len(out), nil
}
