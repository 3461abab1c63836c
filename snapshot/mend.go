package snapshot

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/index"
	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/repo/storage"
)

// MendedTag is given to snapshots that were stored anew without their damaged parts.
const MendedTag = "repaired"

// A MendPlan says which snapshots are damaged, and what storing them anew without their damaged parts would leave out.
type MendPlan struct {
	Snapshots []*MendedSnapshot // damaged ones, oldest first
	Whole     int               // others
	r         *repo.Repository
	lost      func(chunk.ID) bool
	clean     map[chunk.ID]bool // folders of which everything is there
}

// A MendedSnapshot is a damaged snapshot.
type MendedSnapshot struct {
	Ref       repo.SnapshotRef
	Snapshot  *Snapshot        // nil: its manifest cannot be read
	Lost      []string         // paths of what is left out, the first of them
	Files     int64            // that are left out, as far as they can be counted
	Folders   int64            // that cannot be read to their end
	Bytes     int64            // of the files
	Mended    repo.SnapshotRef // once it is stored anew
	sources   map[string]*Source
	unreached error // why its manifest cannot be read
}

// PlanMend looks for snapshots that are damaged: in what the index and a listing of packs tell, and in folders that cannot be
// read. Packs with changed bytes must have been given up before (repo.RepairPacks). Nothing is changed.
func PlanMend(ctx context.Context, r *repo.Repository) (*MendPlan, error) {
	p := &MendPlan{r: r, clean: map[chunk.ID]bool{}}
	var err error
	if p.lost, err = r.Losses(ctx); err != nil {
		return nil, err
	}
	refs, err := r.Snapshots(ctx)
	if err != nil {
		return nil, err
	}
	notes, err := r.Annotations(ctx)
	if err != nil {
		return nil, err
	}
	for _, ref := range refs {
		snap, err := loadSnapshot(ctx, r, ref)
		if errors.Is(err, storage.ErrNotExist) {
			continue
		}
		m := &MendedSnapshot{Ref: ref, Snapshot: snap, sources: map[string]*Source{}}
		if damage := (*repo.DamageError)(nil); errors.As(err, &damage) {
			m.unreached = err
			p.Snapshots = append(p.Snapshots, m)
			continue
		}
		if err != nil {
			return nil, err
		}
		snap.Notes = notes[ref.ID]
		if _, err := p.mend(ctx, m, nil); err != nil {
			return nil, fmt.Errorf("snapshot %s: %w", ref.ID.Short(), err)
		}
		if m.Files+m.Folders == 0 {
			p.Whole++
			continue
		}
		p.Snapshots = append(p.Snapshots, m)
	}
	return p, nil
}

// Mend stores the damaged snapshots anew without their damaged parts, incomplete and with the tag MendedTag, and forgets the
// originals after that: until a prune frees them they can be brought back. Manifests that cannot be read are put aside.
func (p *MendPlan) Mend(ctx context.Context) (err error) {
	s, err := p.r.Begin(ctx, repo.SessionOptions{Instance: "repair of snapshots"})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close(context.WithoutCancel(ctx))) }()
	for _, m := range p.Snapshots {
		if m.Snapshot == nil {
			if err = p.r.NoteRemoval(ctx, []repo.SnapshotRef{m.Ref}, "cannot be read"); err == nil {
				err = p.r.PutAside(ctx, m.Ref)
			}
		} else {
			err = p.store(ctx, s, m)
		}
		if err != nil {
			return fmt.Errorf("snapshot %s: %w", m.Ref.ID.Short(), err)
		}
	}
	return nil
}

// store stores one snapshot anew.
func (p *MendPlan) store(ctx context.Context, s *repo.Session, m *MendedSnapshot) error {
	again := &MendedSnapshot{Ref: m.Ref, Snapshot: m.Snapshot, sources: map[string]*Source{}}
	root, err := p.mend(ctx, again, &mendStore{p: p, s: s, w: s.Writer(), used: map[chunk.ID]bool{}})
	if err != nil {
		return err
	}
	man := *m.Snapshot.Manifest
	man.Root, man.Complete, man.Parent = root, false, m.Ref.ID
	man.Errors += again.Files + again.Folders
	man.Files -= again.Files
	man.Bytes -= again.Bytes
	man.Tags = append(slices.Clone(man.Tags), MendedTag)
	man.Sources = slices.Clone(man.Sources)
	for i := range man.Sources {
		if lost := again.sources[man.Sources[i].Label]; lost != nil {
			man.Sources[i].Files -= lost.Files
			man.Sources[i].Bytes -= lost.Bytes
			man.Sources[i].Errors += lost.Errors
		}
	}
	data, err := EncodeManifest(&man)
	if err != nil {
		return err
	}
	if m.Mended, err = s.Commit(ctx, repo.Payload{Instance: man.Instance, Time: man.Time, Data: data}); err != nil {
		return err
	}
	for _, n := range m.Snapshot.Notes { // its tags and holds are the new one's
		if err := copyNote(ctx, p.r, m.Mended.ID, n); err != nil {
			return err
		}
	}
	return p.r.ForgetNamed(ctx, []repo.SnapshotRef{m.Ref}, "stored anew without what is lost")
}

// mend goes through a snapshot and returns the root without what is lost, which it notes in m. Without a store it only looks.
func (p *MendPlan) mend(ctx context.Context, m *MendedSnapshot, st *mendStore) (chunk.ID, error) {
	w := &mender{p: p, m: m, st: st, load: TreeLoader(p.r)}
	n, _, err := w.folder(ctx, "", m.Snapshot.RootNode())
	if err != nil {
		return chunk.ID{}, err
	}
	return n.Subtree, nil
}

// A mender goes through one snapshot.
type mender struct {
	p    *MendPlan
	m    *MendedSnapshot
	st   *mendStore // nil: nothing is stored
	load LoadFunc
}

// leave notes that something is left out.
func (w *mender) leave(path string, files, folders, bytes int64) {
	if len(w.m.Lost) < maxReported {
		w.m.Lost = append(w.m.Lost, cmp.Or(path, "/"))
	}
	w.m.Files, w.m.Folders, w.m.Bytes = w.m.Files+files, w.m.Folders+folders, w.m.Bytes+bytes
	label, _, _ := strings.Cut(path, "/")
	s := w.m.sources[label]
	if s == nil {
		s = &Source{}
		w.m.sources[label] = s
	}
	s.Files, s.Bytes, s.Errors = s.Files+files, s.Bytes+bytes, s.Errors+files+folders
}

// folder returns a folder without what is lost below it, and whether that is anything.
func (w *mender) folder(ctx context.Context, path string, n *Node) (*Node, bool, error) {
	if w.p.clean[n.Subtree] {
		if w.st != nil {
			return n, false, w.st.folder(ctx, n.Subtree)
		}
		return n, false, nil
	}
	before := w.m.Files + w.m.Folders
	f := &mendedFolder{w: w, path: path, whole: true}
	f.b = NewFolderBuilder(w.p.r.Hasher(), func(data []byte) (chunk.ID, error) {
		if w.st == nil {
			return w.p.r.Hasher().Sum(data), nil
		}
		id, _, err := w.st.w.Put(ctx, index.Tree, data)
		return id, err
	})
	if err := f.page(ctx, n.Subtree, anyLevel); err != nil {
		return nil, false, err
	}
	if w.m.Files+w.m.Folders == before {
		w.p.clean[n.Subtree] = true
		if w.st != nil {
			return n, false, w.st.folder(ctx, n.Subtree)
		}
		return n, false, nil
	}
	id, err := f.b.Finish()
	if err != nil {
		return nil, false, err
	}
	mended := *n
	mended.Subtree, mended.Size = id, f.size
	if !f.whole {
		mended.Flags |= FlagPartial
	}
	return &mended, true, nil
}

// mendedFolder is a folder that is put together without what is lost.
type mendedFolder struct {
	w     *mender
	path  string
	b     *FolderBuilder
	size  int64
	whole bool // nothing in itself is left out
}

// page takes over what a page of the folder has, and the pages below it.
func (f *mendedFolder) page(ctx context.Context, id chunk.ID, level int) error {
	var page *FolderPage
	var err error = &repo.DamageError{Kind: repo.DamageBlobGone, Object: "page " + id.Short(), Detail: "it is lost"}
	if !f.w.p.lost(id) {
		var data []byte
		if data, err = f.w.load(ctx, id); err == nil {
			page, err = DecodeFolderPage(data)
		}
		if err == nil {
			err = checkLevel(level, page.Level)
		}
	}
	if err != nil {
		if _, fatal := treeDamage(err); fatal != nil {
			return fatal
		}
		f.whole = false
		f.w.leave(f.path, 0, 1, 0)
		return nil
	}
	for _, ref := range page.Refs {
		if err := f.page(ctx, ref.ID, int(page.Level)-1); err != nil {
			return err
		}
	}
	for i := range page.Nodes {
		if err := f.node(ctx, &page.Nodes[i]); err != nil {
			return err
		}
	}
	return ctx.Err()
}

func (f *mendedFolder) node(ctx context.Context, n *Node) error {
	w, at := f.w, joinPath(f.path, n.Name)
	switch {
	case n.IsDir() && tooDeep(at) != nil:
		f.whole = false
		w.leave(at, 0, 1, 0)
		return nil
	case n.IsDir():
		sub, _, err := w.folder(ctx, at, n)
		if err != nil {
			return err
		}
		n = sub
	case n.IsFile() && misses(ctx, w.load, n, w.p.lost):
		if ctx.Err() != nil {
			return ctx.Err()
		}
		f.whole = false
		w.leave(at, 1, 0, n.Size)
		return nil
	case n.IsFile() && w.st != nil:
		if err := w.st.content(ctx, n); err != nil {
			return err
		}
	}
	f.size += n.Size * countedSize(n.Type)
	if err := f.b.Add(n); err != nil {
		return fmt.Errorf("%q: %w", at, err)
	}
	return nil
}

// A mendStore relies on what stays.
type mendStore struct {
	p    *MendPlan
	s    *repo.Session
	w    *repo.Writer
	used map[chunk.ID]bool // tree pages, with all below
}

// use relies on a blob, which is stored again where it lies only in packs that are about to be removed.
func (st *mendStore) use(ctx context.Context, kind index.Kind, id chunk.ID) error {
	if st.s.Use(id) {
		return nil
	}
	data, err := st.p.r.Blob(ctx, id)
	if err == nil {
		_, _, err = st.w.Put(ctx, kind, data)
	}
	return err
}

func (st *mendStore) content(ctx context.Context, n *Node) error {
	for _, p := range n.Content {
		if !p.IsHole() {
			if err := st.use(ctx, index.Data, p.ID); err != nil {
				return err
			}
		}
	}
	if n.ContentRoot.IsZero() {
		return nil
	}
	return st.list(ctx, n.ContentRoot)
}

// page relies on a page of a tree, and returns it.
func (st *mendStore) page(ctx context.Context, id chunk.ID) ([]byte, error) {
	if err := st.use(ctx, index.Tree, id); err != nil {
		return nil, err
	}
	return st.p.r.Blob(ctx, id)
}

func (st *mendStore) list(ctx context.Context, id chunk.ID) error {
	if st.used[id] {
		return nil
	}
	data, err := st.page(ctx, id)
	if err != nil {
		return err
	}
	page, err := DecodeContentPage(data)
	if err != nil {
		return err
	}
	if err := st.content(ctx, &Node{Content: page.Parts}); err != nil {
		return err
	}
	for _, ref := range page.Refs {
		if err := st.list(ctx, ref.ID); err != nil {
			return err
		}
	}
	st.used[id] = true
	return nil
}

func (st *mendStore) folder(ctx context.Context, id chunk.ID) error {
	if st.used[id] {
		return nil
	}
	data, err := st.page(ctx, id)
	if err != nil {
		return err
	}
	page, err := DecodeFolderPage(data)
	if err != nil {
		return err
	}
	for _, ref := range page.Refs {
		if err := st.folder(ctx, ref.ID); err != nil {
			return err
		}
	}
	for i := range page.Nodes {
		switch n := &page.Nodes[i]; {
		case n.IsDir():
			err = st.folder(ctx, n.Subtree)
		case n.IsFile():
			err = st.content(ctx, n)
		}
		if err != nil {
			return err
		}
	}
	st.used[id] = true
	return nil
}
