package snapshot

import (
	"context"

	"github.com/whole-tale/wtsnap/snapshot/exclude"
	"github.com/whole-tale/wtsnap/snapshot/localfs"
)

// A Previewed source is what a backup would save of one.
type Previewed struct {
	Label   string `json:"label"`
	Listed  bool   `json:"listed"` // else it is a stream or a database, of which only reading tells
	Files   int64  `json:"files"`
	Folders int64  `json:"folders"`
	Bytes   int64  `json:"bytes"`
	Left    int64  `json:"excluded"` // entries; what is below a folder is not looked at
}

// PreviewOptions are what Preview tells while it goes on; each function may be nil. Paths begin with the label.
type PreviewOptions struct {
	Saved func(path string, m *localfs.Meta) // an entry that would be in the snapshot
	Left  func(path, why string)             // one that would not, and why, in a sentence
	Wrong func(path string, err error)       // one that cannot be looked at
}

// Preview says what a backup would save of its sources as they are now. It reads folders, and tags of caches, but no files, and
// needs no repository. An error is that a source cannot be looked at, or that ctx ended.
func Preview(ctx context.Context, specs []SourceSpec, all ExcludeOptions, o PreviewOptions) ([]Previewed, error) {
	out := make([]Previewed, len(specs))
	for i := range specs {
		spec := &specs[i]
		out[i].Label = spec.Label
		if spec.Stream != nil || spec.Kind != SourceFolder && spec.Kind != SourceFile {
			continue
		}
		x, err := newExcluder(all, spec.Exclude)
		if err != nil {
			return out[:i], err
		}
		m, err := localfs.Stat(spec.Path)
		if err != nil {
			return out[:i], err
		}
		p := previewer{x: x, label: spec.Label, dev: m.Dev, PreviewOptions: o, n: &out[i]}
		out[i].Listed = true
		if m.Type != localfs.TypeDir {
			p.saved("", &m)
			continue
		}
		d, err := localfs.OpenDir(spec.Path)
		if err != nil {
			return out[:i], err
		}
		p.folder(ctx, d, "")
		if ctx.Err() != nil {
			return out, context.Cause(ctx)
		}
	}
	return out, nil
}

// A previewer walks a source as a backup does, but that it reads no files.
type previewer struct {
	PreviewOptions
	x     *excluder
	label string
	dev   uint64
	n     *Previewed
}

func (p *previewer) path(rel string) string {
	if rel == "" {
		return p.label
	}
	return p.label + "/" + rel
}

func (p *previewer) saved(rel string, m *localfs.Meta) {
	switch m.Type {
	case localfs.TypeDir:
		p.n.Folders++
	case localfs.TypeFile:
		p.n.Files++
		p.n.Bytes += m.Size
	}
	if p.Saved != nil {
		p.Saved(p.path(rel), m)
	}
}

func (p *previewer) left(rel, why string) {
	p.n.Left++
	if p.Left != nil {
		p.Left(p.path(rel), why)
	}
}

func (p *previewer) wrong(rel string, err error) {
	if p.Wrong != nil {
		p.Wrong(p.path(rel), vanished(err))
	}
}

// folder looks at what is in a folder, and closes it.
func (p *previewer) folder(ctx context.Context, d *localfs.Dir, rel string) {
	defer d.Close()
	entries, err := d.Entries(nil)
	if err != nil {
		p.wrong(rel, err)
	}
	for _, rel := range p.x.absent(d, rel, entries) {
		p.wrong(rel, errAbsent)
	}
	cached := p.x.Caches && isCache(d)
	for _, e := range entries {
		if ctx.Err() != nil {
			return
		}
		path := joinPath(rel, e.Name)
		m, err := d.Stat(e.Name)
		if err != nil {
			p.wrong(path, err)
			continue
		}
		p.entry(ctx, d, path, &e, &m, cached)
	}
}

// entry decides about one entry, in the order in which a backup does.
func (p *previewer) entry(ctx context.Context, d *localfs.Dir, path string, e *localfs.Entry, m *localfs.Meta, cached bool) {
	isDir := m.Type == localfs.TypeDir
	if p.x.Only.Match(path, isDir).Excluded {
		return // who lists what is saved knows what is not
	}
	if cached && e.Name != exclude.CacheTag {
		p.left(path, exclude.InCache(parentPath(p.path(path)), "--exclude-caches").Explain(p.path(path)))
		return
	}
	if decision := p.x.matcher.Match(path, isDir); decision.Excluded {
		p.left(path, decision.Explain(p.path(path)))
		return
	}
	if decision := p.x.MaxSize.Decide(m.Size); m.Type == localfs.TypeFile && decision.Excluded {
		p.left(path, decision.Explain(p.path(path)))
		return
	}
	p.saved(path, m)
	if !isDir {
		return
	}
	if p.x.OneFileSystem && m.Dev != p.dev {
		p.left(path+"/", "\""+p.path(path)+"/\" is excluded: it lies on another file system (--one-file-system)")
		return
	}
	sub, err := d.OpenDir(e.Name)
	if err != nil {
		p.wrong(path, err)
		return
	}
	p.folder(ctx, sub, path)
}
