package drill

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"strings"

	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/snapshot"
)

// A unit is what somebody would miss as a whole.
type unit struct {
	Path       string // label/user; of files that belong to nobody in particular label/.
	label      string
	node       *snapshot.Node
	size       int64 // bytes of its files
	collection bool  // of a MongoDB: it is decoded
	loose      bool  // only the files of the folder itself
	single     bool  // it is a file
}

// root is the path in the snapshot that the unit is restored from.
func (u *unit) root() string { return strings.TrimSuffix(u.Path, "/.") }

// path returns the path in the snapshot of a file of the unit.
func (u *unit) path(rel string) string {
	if u.single {
		return u.Path
	}
	return path.Join(u.root(), rel)
}

const bsonSuffix = ".bson"

// unitsOf returns the units of a snapshot: of a folder what lies depth folders below it (1, where nothing is said), of a
// MongoDB each collection, and of everything else the source itself. What lies above that depth is a unit for each folder.
func unitsOf(ctx context.Context, r *repo.Repository, s *snapshot.Snapshot, depth map[string]int) (out []unit, err error) {
	load := snapshot.TreeLoader(r)
	for i := range s.Sources {
		src := &s.Sources[i]
		node, err := snapshot.Lookup(ctx, r, s, src.Label)
		if errors.Is(err, fs.ErrNotExist) {
			continue // nothing of it was saved
		}
		if err != nil {
			return nil, err
		}
		e := enumerator{ctx: ctx, load: load, label: src.Label, mongo: src.Kind == snapshot.SourceMongo}
		switch {
		case !node.IsDir():
			e.out = []unit{{Path: src.Label, label: src.Label, node: node, size: node.Size, single: true}}
		case e.mongo:
			err = e.folder(src.Label, node, 2)
		default:
			err = e.folder(src.Label, node, max(depth[src.Label], 1))
		}
		if err != nil {
			return nil, err
		}
		out = append(out, e.out...)
	}
	return out, nil
}

// enumerator finds the units of one source.
type enumerator struct {
	ctx   context.Context
	load  snapshot.LoadFunc
	label string
	mongo bool
	out   []unit
}

// folder adds what lies depth folders below a folder.
func (e *enumerator) folder(at string, node *snapshot.Node, depth int) error {
	loose, bytes := false, int64(0)
	c := snapshot.NewFolderCursor(e.load, node.Subtree)
	for {
		n, err := c.Next(e.ctx)
		if err != nil {
			return err
		}
		if n == nil {
			break
		}
		full := at + "/" + n.Name
		switch {
		case e.mongo && n.IsFile() && strings.HasSuffix(n.Name, bsonSuffix):
			e.out = append(e.out, unit{Path: full, label: e.label, node: n, size: n.Size, collection: true})
		case n.IsDir() && depth > 1:
			if err := e.folder(full, n, depth-1); err != nil {
				return err
			}
		case n.IsDir():
			e.out = append(e.out, unit{Path: full, label: e.label, node: n, size: n.Size})
		case n.IsFile():
			loose = true
			bytes += n.Size
		}
	}
	if loose {
		e.out = append(e.out, unit{Path: at + "/.", label: e.label, node: node, size: bytes, loose: true})
	}
	return nil
}
