package snapshot

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/whole-tale/wtsnap/snapshot/exclude"
	"github.com/whole-tale/wtsnap/snapshot/localfs"
)

// estimate sets Progress' totals: from the parents, or, if asked for, by counting. The count goes on beside the run.
func (b *backup) estimate(ctx context.Context) {
	p := b.o.Progress
	whole := true
	var counts sync.WaitGroup
	defer func() {
		if whole {
			b.walkers.Go(func() {
				counts.Wait()
				b.counted.Store(ctx.Err() == nil)
			})
		}
	}()
	for i := range b.o.Sources {
		spec := &b.o.Sources[i]
		if parent := finished(b.parents[spec.Label]); parent != nil {
			p.TotalFiles.Add(parent.source.Files)
			p.TotalBytes.Add(parent.source.Bytes)
		} else if (b.o.Estimate || b.o.bounded()) && spec.Stream == nil && spec.Kind == SourceFolder {
			counts.Add(1)
			b.walkers.Go(func() {
				defer counts.Done()
				b.countSource(ctx, spec)
			})
		} else {
			whole = false
		}
	}
}

func (b *backup) countSource(ctx context.Context, spec *SourceSpec) {
	d, err := localfs.OpenDir(spec.Path)
	if err != nil {
		return // whoever saves it says so
	}
	m, _ := d.Meta()
	b.countFolder(ctx, b.excludes[spec.Label], d, "", m.Dev)
}

// countFolder counts what is to be saved in a folder, and closes it. Nothing of it is reported.
func (b *backup) countFolder(ctx context.Context, x *excluder, d *localfs.Dir, rel string, dev uint64) {
	defer d.Close()
	entries, err := d.Entries(nil)
	if err != nil || x.Caches && isCache(d) {
		return
	}
	for _, e := range entries {
		if ctx.Err() != nil {
			return
		}
		path := joinPath(rel, e.Name)
		if x.excludes(path, e.Type == localfs.TypeDir) {
			continue
		}
		switch e.Type {
		case localfs.TypeDir:
			sub, err := d.OpenDir(e.Name)
			if err != nil {
				continue
			}
			if m, err := sub.Meta(); err != nil || x.OneFileSystem && m.Dev != dev {
				_ = sub.Close()
				continue
			}
			b.countFolder(ctx, x, sub, path, dev)
		case localfs.TypeFile, localfs.TypeUnknown:
			if m, err := d.Stat(e.Name); err == nil && m.Type == localfs.TypeFile && !x.MaxSize.Decide(m.Size).Excluded {
				b.o.Progress.TotalFiles.Add(1)
				b.o.Progress.TotalBytes.Add(m.Size)
			}
		}
	}
}

// Explain says in a sentence why a path would be in a snapshot or not. The path is absolute, relative to the working
// folder, or relative to the source. It looks at the file system but reads nothing but tags of caches.
func Explain(specs []SourceSpec, o ExcludeOptions, path string) (string, error) {
	spec, rel, err := sourceOf(specs, path)
	if err != nil {
		return "", err
	}
	x, err := newExcluder(o, spec.Exclude)
	if err != nil {
		return "", err
	}
	shown := spec.Label
	if rel != "" {
		shown += "/" + rel
	}
	root, err := localfs.Stat(spec.Path)
	if err != nil {
		return "", err
	}
	// From the source downwards, as a walk would.
	at, isDir := "", root.Type == localfs.TypeDir
	names := strings.FieldsFunc(rel, func(r rune) bool { return r == '/' })
	for i, name := range names {
		folder := joinName(spec.Path, at)
		if at == "" {
			folder = spec.Path
		}
		if x.Caches && name != exclude.CacheTag {
			if d, err := localfs.OpenDir(folder); err == nil {
				tagged := isCache(d)
				_ = d.Close()
				if tagged {
					return exclude.InCache(joinPath(spec.Label, at), "--exclude-caches").Explain(shown), nil
				}
			}
		}
		at = joinPath(at, name)
		m, err := localfs.Lstat(joinName(spec.Path, at))
		if err != nil {
			return "", err
		}
		isDir = m.Type == localfs.TypeDir
		if i < len(names)-1 && !isDir {
			return "", fmt.Errorf("%q is no folder", joinName(spec.Path, at))
		}
		d := x.Only.Match(at, isDir)
		if !d.Excluded {
			d = x.matcher.Match(at, isDir)
		}
		if d.Excluded {
			if i < len(names)-1 {
				d.Parent = joinPath(spec.Label, at)
			}
			return d.Explain(shown), nil
		}
		if x.OneFileSystem && m.Dev != root.Dev && (!isDir || i < len(names)-1) {
			return fmt.Sprintf("%q is excluded: %q lies on another file system (--one-file-system)", shown, joinPath(spec.Label, at)), nil
		}
		if d := x.MaxSize.Decide(m.Size); m.Type == localfs.TypeFile && d.Excluded {
			return d.Explain(shown), nil
		}
	}
	return x.matcher.Match(at, isDir).Explain(shown), nil
}

// An excluder decides what of one source is left out.
type excluder struct {
	ExcludeOptions
	matcher *exclude.Matcher
}

// newExcluder joins what holds for all sources with what holds for one; of the rules, the last that matches decides.
func newExcluder(all ExcludeOptions, one *ExcludeOptions) (*excluder, error) {
	x := &excluder{ExcludeOptions: all}
	if one == nil {
		one = &ExcludeOptions{}
	}
	x.Patterns = slices.Concat(all.Patterns, one.Patterns)
	x.Caches = all.Caches || one.Caches
	x.OneFileSystem = all.OneFileSystem || one.OneFileSystem
	if one.MaxSize.Bytes > 0 {
		x.MaxSize = one.MaxSize
	}
	x.Only = cmp.Or(one.Only, all.Only)
	var err error
	x.matcher, err = exclude.Compile(x.Patterns)
	return x, err
}

func (x *excluder) excludes(path string, isDir bool) bool {
	return x.Only.Match(path, isDir).Excluded || len(x.Patterns) > 0 && x.matcher.Match(path, isDir).Excluded
}

// sourceOf returns the source that a path is in, and the rest of the path.
func sourceOf(specs []SourceSpec, path string) (*SourceSpec, string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, "", err
	}
	for i := range specs {
		s := &specs[i]
		if s.Stream != nil || s.Kind != SourceFolder && s.Kind != SourceFile {
			continue
		}
		root, err := filepath.Abs(s.Path)
		if err != nil {
			return nil, "", err
		}
		if abs == root {
			return s, "", nil
		}
		if rel, ok := strings.CutPrefix(abs, strings.TrimSuffix(root, "/")+"/"); ok {
			return s, rel, nil
		}
	}
	for i := range specs { // relative to a source, or LABEL/...
		s := &specs[i]
		if s.Stream != nil || s.Kind != SourceFolder || filepath.IsAbs(path) {
			continue
		}
		for _, rel := range []string{filepath.Clean(path), strings.TrimPrefix(filepath.Clean(path), s.Label+"/")} {
			if _, err := localfs.Lstat(filepath.Join(s.Path, rel)); err == nil {
				return s, rel, nil
			}
		}
	}
	return nil, "", fmt.Errorf("%q is in none of the sources", path)
}

// absent returns what the list of a source names in a folder, or below it, and what is not there.
func (x *excluder) absent(d *localfs.Dir, rel string, entries []localfs.Entry) []string {
	return x.Only.Absent(rel, func(name string) (there, isDir bool) {
		i, there := slices.BinarySearchFunc(entries, name, func(e localfs.Entry, name string) int { return strings.Compare(e.Name, name) })
		if !there {
			return false, false
		}
		if entries[i].Type != localfs.TypeUnknown {
			return true, entries[i].Type == localfs.TypeDir
		}
		m, err := d.Stat(name)
		return err == nil, m.Type == localfs.TypeDir
	})
}

// errAbsent is what a user is told of a listed entry that is not there.
var errAbsent = errors.New("it is listed, and there is no such file or folder")

// Excluded returns what decides, by names alone, whether a path of a source (relative to it) is left out.
func Excluded(all ExcludeOptions, spec *SourceSpec) (func(path string, isDir bool) bool, error) {
	x, err := newExcluder(all, spec.Exclude)
	if err != nil {
		return nil, err
	}
	return x.excludes, nil
}
