package mongo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"slices"
	"strings"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/whole-tale/wtsnap/mongo/layout"
	"github.com/whole-tale/wtsnap/mongo/ownership"
	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/snapshot"
)

// UserOptions are the options of FindUser.
type UserOptions struct {
	Snapshot *snapshot.Snapshot
	Path     string         // of the MongoDB in the snapshot; "" = its only one
	User     string         // a name, or the digits of the _id
	Map      *ownership.Map // nil = the built-in one that fits best
	With     []string       // optional collections of the map that are restored, too
	Open     Opener         // of the MongoDB; nil = OpenDump
	Count    bool           // count all documents, and not only what is needed to find them: reads every collection
}

// UserData is what of a snapshot belongs to one user.
type UserData struct {
	Dump  *Dump
	Owned *ownership.Owned
	Files []UserFiles
	// Absent are places where the map expects files and the snapshot has none.
	Absent []ownership.Place
	// Documents and Home are when the documents and the first of the files were read; zero = unknown.
	Documents, Home time.Time

	r   *repo.Repository
	src *dumpSource
}

// UserFiles is a folder or a file of a snapshot that belongs to a user.
type UserFiles struct {
	Name string // of the map: home, tale
	To   string // path below a target folder
	Path string // in the snapshot
	Node *snapshot.Node
	// Origin is where it was when it was saved, or "" where the manifest does not say.
	Origin string
}

// maxGap is how far the reading of documents and of files may be apart before somebody should look.
const maxGap = 6 * time.Hour

// Apart reports how far apart in time the documents and the home were read, and whether that is too far.
func (u *UserData) Apart() (gap time.Duration, far bool) {
	if u.Documents.IsZero() || u.Home.IsZero() {
		return 0, false
	}
	gap = u.Home.Sub(u.Documents).Abs()
	return gap, gap > maxGap
}

// OpenUsers opens the MongoDB of a snapshot, and the map for it.
func OpenUsers(ctx context.Context, r *repo.Repository, o *UserOptions) (*Dump, *ownership.Map, ownership.Source, error) {
	d, err := o.Open.orOpenDump()(ctx, r, o.Snapshot, o.Path)
	if err != nil {
		return nil, nil, nil, err
	}
	src, err := newDumpSource(ctx, d)
	if err != nil {
		return nil, nil, nil, err
	}
	m := o.Map
	if m == nil {
		best := 0
		for _, name := range ownership.Builtins() {
			if b := ownership.Builtin(name); b.Fits(src) > best {
				m, best = b, b.Fits(src)
			}
		}
		if m == nil {
			m = ownership.Builtin("girder")
		}
	}
	if m, err = m.For(src); err != nil {
		return nil, nil, nil, err
	}
	return d, m, src, nil
}

// FindUser finds a user's documents and files in a snapshot. It changes nothing. r's index is loaded.
//
// Memory: the ids of the user's documents (package ownership), and one reader of documents.
func FindUser(ctx context.Context, r *repo.Repository, o UserOptions) (*UserData, error) {
	d, m, src, err := OpenUsers(ctx, r, &o)
	if err != nil {
		return nil, err
	}
	u := &UserData{Dump: d, r: r, src: src.(*dumpSource)}
	if u.Owned, err = m.Resolve(ctx, src, o.User, o.With); err != nil {
		return nil, err
	}
	if o.Count {
		if err := u.Owned.Count(ctx, src); err != nil {
			return nil, err
		}
	}
	if d.Source != nil {
		u.Documents = d.Source.Time
	}
	if d.Info != nil && !d.Info.End.IsZero() {
		u.Documents = d.Info.End.Time()
	}
	return u, u.findFiles(ctx)
}

// findFiles looks for the places of the map below the labels of files, and one level deeper.
func (u *UserData) findFiles(ctx context.Context) error {
	roots, err := u.roots(ctx)
	if err != nil {
		return err
	}
	for _, p := range u.Owned.Places {
		f, err := u.findPlace(ctx, p, roots)
		if err != nil {
			return err
		}
		if f == nil {
			u.Absent = append(u.Absent, p)
			continue
		}
		u.Files = append(u.Files, *f)
		if src := u.Dump.Snapshot.Source(label(f.Path)); src != nil && u.Home.IsZero() {
			u.Home = src.Time
		}
	}
	return nil
}

func label(path string) string {
	label, _, _ := strings.Cut(path, "/")
	return label
}

// roots lists the folders below which files may lie.
func (u *UserData) roots(ctx context.Context) (roots []string, err error) {
	const most = 64
	var deeper []string
	for _, s := range u.Dump.Snapshot.Sources {
		if s.Kind == snapshot.SourceMongo || s.Label == label(u.Dump.Root) {
			continue
		}
		n, err := snapshot.Lookup(ctx, u.r, u.Dump.Snapshot, s.Label)
		if err != nil {
			return nil, err
		}
		if !n.IsDir() {
			continue
		}
		roots = append(roots, s.Label)
		err = snapshot.Walk(ctx, snapshot.TreeLoader(u.r), n, s.Label, func(path string, n *snapshot.Node, err error) error {
			switch {
			case err != nil:
				return err
			case !n.IsDir():
				return nil
			case len(n.Name) > 1 && len(deeper) < most:
				deeper = append(deeper, path)
			}
			return fs.SkipDir
		})
		if err != nil {
			return nil, err
		}
	}
	return append(roots, deeper...), nil
}

// findPlace looks for a place, first where the root has the place's name in its own.
func (u *UserData) findPlace(ctx context.Context, p ownership.Place, roots []string) (*UserFiles, error) {
	roots = slices.Clone(roots)
	slices.SortStableFunc(roots, func(a, b string) int {
		return cmp.Compare(boolInt(strings.Contains(b, p.Name)), boolInt(strings.Contains(a, p.Name)))
	})
	for _, path := range p.Paths {
		candidates := []string{strings.TrimPrefix(path, "/")}
		if !strings.HasPrefix(path, "/") {
			candidates = candidates[:0]
			for _, root := range roots {
				candidates = append(candidates, joinPath(root, path))
			}
		}
		for _, at := range candidates {
			n, err := snapshot.Lookup(ctx, u.r, u.Dump.Snapshot, at)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return nil, err
			}
			f := &UserFiles{Name: p.Name, To: p.Name, Path: at, Node: n}
			if !p.User {
				f.To = joinPath(p.Name, p.ID)
			}
			if src := u.Dump.Snapshot.Source(label(at)); src != nil && src.Kind == snapshot.SourceFolder && strings.HasPrefix(src.Path, "/") {
				f.Origin = strings.TrimSuffix(src.Path, "/") + strings.TrimPrefix(at, src.Label)
			}
			return f, nil
		}
	}
	return nil, nil
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// A dumpSource gives a dump's documents to package ownership, with the dump's own oplog in them.
type dumpSource struct{ feeds []feed }

func newDumpSource(ctx context.Context, d *Dump) (*dumpSource, error) {
	all := d.plainFeeds()
	if d.oplog != nil {
		var err error
		if all, err = d.ownFeeds(ctx, nil, 0); err != nil {
			return nil, err
		}
	}
	s := &dumpSource{}
	for _, f := range all {
		if f.Type == layout.TypeCollection && !f.Special() {
			s.feeds = append(s.feeds, f)
		}
	}
	return s, nil
}

// Namespaces implements ownership.Source.
func (s *dumpSource) Namespaces() (out []ownership.Namespace) {
	for i := range s.feeds {
		out = append(out, ownership.Namespace{DB: s.feeds[i].DB, Collection: s.feeds[i].Name})
	}
	return out
}

// Documents implements ownership.Source.
func (s *dumpSource) Documents(ctx context.Context, n ownership.Namespace) iter.Seq2[bson.Raw, error] {
	for i := range s.feeds {
		if f := &s.feeds[i]; f.DB == n.DB && f.Name == n.Collection {
			return f.documents(ctx)
		}
	}
	return func(func(bson.Raw, error) bool) {}
}

// owned returns the user's part of the collections that have one.
func (u *UserData) owned() (out []feed) {
	for _, f := range u.src.feeds {
		match := u.Owned.Match(ownership.Namespace{DB: f.DB, Collection: f.Name})
		if match == nil {
			continue
		}
		all := f.documents
		f.documents = func(ctx context.Context) iter.Seq2[bson.Raw, error] {
			return func(yield func(bson.Raw, error) bool) {
				for doc, err := range all(ctx) {
					ok := err != nil
					if err == nil {
						ok, err = match(doc)
					}
					if (ok || err != nil) && !yield(doc, err) || err != nil {
						return
					}
				}
			}
		}
		out = append(out, f)
	}
	return out
}

// UserReport says what a restore of a user did, or, of a dry run, would have done.
type UserReport struct {
	Documents []ownership.Count
	Files     []*snapshot.RestoreReport // in the order of UserData.Files
	Mongo     *snapshot.RestoreReport   // of a restore into a MongoDB
	Fixes     []FixCount                // of the same

	Problems int64
	Damaged  int64
	Errors   []snapshot.PathError
}

// RestoreFolder brings a user's documents and files back below the folder that o.Target names: documents as mongodump's
// folder in mongo, files in folders that the map names. o's Snapshot and Path are set here. Trouble with one file is in
// the report; documents that cannot be read end it.
func (u *UserData) RestoreFolder(ctx context.Context, o snapshot.RestoreOptions) (*UserReport, error) {
	rep := &UserReport{}
	if o.DryRun {
		rep.Documents = u.Owned.Counts
	} else if err := u.writeDocuments(ctx, o.Target.Path+"/mongo", rep); err != nil {
		return rep, err
	}
	return rep, u.RestoreFiles(ctx, o, rep)
}

// RestoreFiles brings the user's files back below the folder that o.Target names.
func (u *UserData) RestoreFiles(ctx context.Context, o snapshot.RestoreOptions, rep *UserReport) error {
	below := o.Target.Path
	o.Snapshot = u.Dump.Snapshot
	for _, f := range u.Files {
		o.Path = f.Path
		o.Target = snapshot.TargetSpec{Kind: snapshot.TargetFolder, Path: below + "/" + f.To}
		one, err := snapshot.Restore(ctx, u.r, o)
		if one != nil {
			rep.Files = append(rep.Files, one)
			rep.Problems, rep.Damaged, rep.Errors = rep.Problems+one.Problems, rep.Damaged+one.Damaged, append(rep.Errors, one.Errors...)
		}
		if err != nil {
			return fmt.Errorf("restoring %s: %w", f.Path, err)
		}
	}
	return nil
}
