package corpus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// nightPart is how much of the homes' bytes a night changes, newPart how much of that is in new files.
const (
	nightPart = 0.01
	newPart   = 0.35
)

// Night changes the homes as the people who live there would in a day. Nights are counted from 1 and must be played in
// order. The earlier version of each changed file is kept in the folder keep; with an empty keep it is lost.
func (h *Homes) Night(ctx context.Context, night int, keep string) ([]Change, error) {
	rng := stream(h.seed, "night %d", night)
	n := &nightly{homes: h, night: night, keep: keep, rng: rng, w: &writer{rng: rng, words: h.words},
		changed: map[string]bool{}, folders: map[string]bool{}}
	if err := n.list(); err != nil {
		return nil, err
	}
	budget := share(n.bytes, nightPart)
	steps := []func() error{
		func() error { return n.add(share(budget, newPart)) },
		func() error { return n.edit(ctx, budget-share(budget, newPart)) },
		n.rename, n.removeSome, n.chmod, n.version, n.finish,
	}
	for _, step := range steps {
		if err := errors.Join(step(), ctx.Err()); err != nil {
			return nil, fmt.Errorf("night %d: %w", night, err)
		}
	}
	return n.changes, nil
}

// nightly is one night's work. A file is touched once a night.
type nightly struct {
	homes   *Homes
	night   int
	keep    string
	rng     *rand.Rand
	w       *writer
	files   []nightFile // with contents, sorted by path
	bytes   int64       // in the files, each inode counted once
	ends    []int64     // files[i] ends at this offset of all files' bytes end to end
	changed map[string]bool
	folders map[string]bool // to be given the night's time
	changes []Change
}

type nightFile struct {
	path  string // relative to the homes
	size  int64
	mode  fs.FileMode
	links uint64
}

func (n *nightly) list() error {
	seen := map[uint64]bool{}
	return filepath.WalkDir(n.homes.dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		stat := info.Sys().(*syscall.Stat_t)
		rel, _ := filepath.Rel(n.homes.dir, path)
		odd := strings.Contains(rel, "/odd/")          // these stay as they are: they are the proof of a restore
		version := strings.Contains(rel, "/versions/") // never edited, by their nature
		if info.Size() < 64 || odd || version || seen[uint64(stat.Ino)] {
			return nil
		}
		seen[uint64(stat.Ino)] = true
		n.files = append(n.files, nightFile{path: rel, size: info.Size(), mode: info.Mode(), links: uint64(stat.Nlink)})
		n.bytes += info.Size()
		n.ends = append(n.ends, n.bytes)
		return nil
	})
}

// pick draws a file that was not touched yet: by its size, so that large files are edited more often, or evenly.
func (n *nightly) pick(bySize bool) (nightFile, bool) {
	for range 100 {
		i := n.rng.IntN(len(n.files))
		if bySize {
			i, _ = slices.BinarySearch(n.ends, 1+n.rng.Int64N(n.bytes))
		}
		if f := n.files[i]; !n.changed[f.path] {
			n.changed[f.path] = true
			return f, true
		}
	}
	return nightFile{}, false
}

func (n *nightly) path(rel string) string { return filepath.Join(n.homes.dir, rel) }

// add writes new files of all kinds.
func (n *nightly) add(budget int64) error {
	kinds := []kind{text, code, table, floats, noise, notebook, table, noise}
	for i := 0; budget > 0; i++ {
		u := n.homes.users[n.rng.IntN(len(n.homes.users))]
		k := kinds[n.rng.IntN(len(kinds))]
		size := min(between(n.rng, 4e3, 1e6), budget)
		rel := filepath.Join(u.name, "new", fmt.Sprintf("night%d-%03d%s", n.night, i, k.extension()))
		if err := n.mkdir(filepath.Dir(rel)); err != nil {
			return err
		}
		if err := os.WriteFile(n.path(rel), n.w.make(k, int(size)), 0o644); err != nil {
			return err
		}
		n.touch(rel)
		n.changes = append(n.changes, Change{Path: rel})
		budget -= size
	}
	return nil
}

// edit changes files until the budget is used up: first some drawn evenly, most of them small, then by size. Edits of
// large files are large and few, as when somebody runs an analysis again: a thousand scattered ones would make every
// program but a delta's upload everything.
func (n *nightly) edit(ctx context.Context, budget int64) error {
	even := 5 + len(n.files)/200
	for i := 0; (i < even || budget > 0) && ctx.Err() == nil; i++ {
		f, ok := n.pick(i >= even)
		if !ok {
			break
		}
		if err := n.save(f); err != nil {
			return err
		}
		used, err := n.editFile(f)
		if err != nil {
			return err
		}
		n.touch(f.path)
		budget -= used
	}
	return nil
}

// save keeps the file as it was.
func (n *nightly) save(f nightFile) error {
	change := Change{Path: f.path}
	if n.keep != "" {
		if err := os.MkdirAll(n.keep, 0o755); err != nil {
			return err
		}
		change.Old = filepath.Join(n.keep, fmt.Sprintf("%06d", len(n.changes)))
		if err := copyFile(n.path(f.path), change.Old, 0o600); err != nil {
			return err
		}
	}
	n.changes = append(n.changes, change)
	return nil
}

// editFile makes one or two edits in a file and returns how many bytes they changed. Half of the programs write in
// place, the others write a new file and rename it; hard-linked files are never written in place.
func (n *nightly) editFile(f nightFile) (used int64, err error) {
	path := n.path(f.path)
	k := kindOf(f.path)
	edits := 1 + n.rng.IntN(2)
	largest := float64(min(max(f.size/4, 33), 512<<10))
	size := func() int { return int(between(n.rng, largest/16, largest)) }
	if f.links == 1 && n.rng.IntN(2) == 0 {
		file, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return 0, err
		}
		defer file.Close()
		for range edits {
			piece := n.w.piece(k, size())
			at := n.rng.Int64N(f.size)
			if n.rng.IntN(4) == 0 {
				at = f.size
				f.size += int64(len(piece))
			}
			piece = piece[:min(int64(len(piece)), max(f.size-at, 1))]
			if _, err := file.WriteAt(piece, at); err != nil {
				return 0, err
			}
			used += int64(len(piece))
		}
		return used, nil
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for range edits {
		at, length := n.rng.IntN(len(content)+1), size()
		if n.rng.IntN(4) == 0 { // move a part of the file to another place in it
			length = min(length, len(content)-at)
			part := slices.Clone(content[at : at+length])
			content = slices.Delete(content, at, at+length)
			content = slices.Insert(content, n.rng.IntN(len(content)+1), part...)
		} else {
			content = slices.Insert(content, at, n.w.piece(k, length)...)
		}
		used += int64(length)
	}
	return used, n.replace(path, content, f.mode)
}

func (n *nightly) replace(path string, content []byte, mode fs.FileMode) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", content, 0o600); err != nil {
		return err
	}
	if err := own(path+".new", int(info.Sys().(*syscall.Stat_t).Uid)); err != nil {
		return err
	}
	if err := os.Chmod(path+".new", mode.Perm()); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// rename moves a few files, as they are, to another folder of their home.
func (n *nightly) rename() error {
	for range 1 + len(n.files)/1000 {
		f, ok := n.pick(false)
		if !ok {
			break
		}
		home, _, _ := strings.Cut(f.path, "/")
		to := filepath.Join(home, "sorted", fmt.Sprintf("night%d", n.night), filepath.Base(f.path))
		if err := n.mkdir(filepath.Dir(to)); err != nil {
			return err
		}
		if err := os.Rename(n.path(f.path), n.path(to)); err != nil {
			return err
		}
		n.folders[filepath.Dir(f.path)] = true
		n.folders[filepath.Dir(to)] = true
	}
	return nil
}

func (n *nightly) removeSome() error {
	for range 1 + len(n.files)/2000 {
		if f, ok := n.pick(false); ok {
			if err := os.Remove(n.path(f.path)); err != nil {
				return err
			}
			n.folders[filepath.Dir(f.path)] = true
		}
	}
	return nil
}

// chmod changes a few modes and no content.
func (n *nightly) chmod() error {
	for range 1 + len(n.files)/2000 {
		if f, ok := n.pick(false); ok {
			if err := os.Chmod(n.path(f.path), f.mode.Perm()^0o020); err != nil {
				return err
			}
		}
	}
	return nil
}

// version adds a version of one user's workspace: hard links to all files in it.
func (n *nightly) version() error {
	var users []string
	for _, u := range n.homes.users {
		if _, err := os.Stat(n.path(filepath.Join(u.name, "tales/workspace"))); err == nil {
			users = append(users, u.name)
		}
	}
	tales := filepath.Join(users[n.night%len(users)], "tales")
	workspace := n.path(filepath.Join(tales, "workspace"))
	return filepath.WalkDir(workspace, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(workspace, path)
		to := filepath.Join(tales, "versions", fmt.Sprintf("night%d", n.night), rel)
		if entry.IsDir() {
			return n.mkdir(to)
		}
		return os.Link(path, n.path(to))
	})
}

// mkdir makes a folder and those above it that are missing.
func (n *nightly) mkdir(rel string) error {
	n.folders[rel] = true
	err := os.Mkdir(n.path(rel), 0o755)
	if errors.Is(err, fs.ErrNotExist) {
		if err := n.mkdir(filepath.Dir(rel)); err != nil {
			return err
		}
		return os.Mkdir(n.path(rel), 0o755)
	}
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	n.folders[filepath.Dir(rel)] = true
	return err
}

// touch notes a file that was written, with its folder, for finish.
func (n *nightly) touch(rel string) {
	n.folders[rel] = true
	n.folders[filepath.Dir(rel)] = true
}

// finish sets owners and times of what was touched.
func (n *nightly) finish() error {
	var paths []string
	for rel := range n.folders {
		paths = append(paths, rel)
	}
	slices.Sort(paths)
	for i, rel := range slices.Backward(paths) {
		if _, err := os.Lstat(n.path(rel)); err != nil {
			continue // renamed or removed later in the same night
		}
		if uid := n.homes.owner(rel); uid != 0 {
			if err := own(n.path(rel), uid); err != nil {
				return err
			}
		}
		if err := setTime(n.path(rel), nightTime(n.night).Add(time.Duration(i)*1234567*time.Nanosecond)); err != nil {
			return err
		}
	}
	return nil
}

func copyFile(from, to string, mode fs.FileMode) error {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(target, source)
	return errors.Join(err, target.Close())
}
