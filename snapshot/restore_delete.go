package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/whole-tale/wtsnap/snapshot/localfs"
)

// TargetGuardError refuses a restore that would most likely destroy what the user wants to keep. Nothing was changed.
type TargetGuardError struct {
	Target string
	Reason string
	Hint   string // what to do
}

func (e *TargetGuardError) Error() string {
	return fmt.Sprintf("restore to %q refused: %s", e.Target, e.Reason)
}

// A Doomed is an entry that Delete removes, with all that is below it.
type Doomed struct {
	Path    string       `json:"path"` // relative to the target
	Type    localfs.Type `json:"-"`
	Entries int64        `json:"entries"` // itself and those below
	Bytes   int64        `json:"bytes"`   // of regular files
}

// A DeletePlan lists what Delete removes, or would remove.
type DeletePlan struct {
	List     []Doomed `json:"list"`
	Entries  int64    `json:"entries"`  // that are removed
	Bytes    int64    `json:"bytes"`    // of regular files among them
	Existing int64    `json:"existing"` // all entries of the target below the restored folders
	// Refused says why the deletion needs the user's explicit consent (Yes); "" = it does not. A dry run tells it, a
	// real one ends with it.
	Refused string `json:"refused,omitempty"`
	// Kept counts entries that are not in the snapshot and stay all the same: what is mounted below the target, and what
	// is in folders that the snapshot holds in part only.
	Kept int64 `json:"kept"`
}

// A deletion is a plan with what it takes to carry it out.
type deletion struct {
	DeletePlan
	groups  []doomedGroup
	wanted  int64 // entries of the snapshot that were seen
	damaged bool
}

// A doomedGroup is what goes from one folder.
type doomedGroup struct {
	rel  string
	node *Node // the folder, which gets its time back; nil: has no metadata in the snapshot
	list []Doomed
}

// guardTarget checks the target folder before anything is done, and says whether it exists.
func (rs *restore) guardTarget(dir string) (existed bool, err error) {
	m, err := localfs.Stat(dir)
	if errors.Is(err, os.ErrNotExist) {
		if link, err := localfs.Lstat(dir); err == nil && link.Type == localfs.TypeSymlink {
			return false, fmt.Errorf("restore: the target %q is a symbolic link to nothing", dir)
		}
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("restore: %w", err)
	}
	if m.Type != localfs.TypeDir {
		return false, fmt.Errorf("restore: the target %q is a %v, not a folder", dir, m.Type)
	}
	own, from := rs.o.OwnInstance, rs.o.Snapshot.Instance
	if own == "" || own == from || rs.o.Into == own {
		return true, nil
	}
	d, err := localfs.OpenDir(dir)
	if err != nil {
		return false, fmt.Errorf("restore: %w", err)
	}
	defer d.Close()
	entries, err := d.Entries(nil)
	if err != nil {
		return false, fmt.Errorf("restore: %w", err)
	}
	if len(entries) > 0 {
		return false, &TargetGuardError{Target: dir,
			Reason: fmt.Sprintf("the snapshot is of instance %q, this machine is %q, and the folder is not empty", from, own),
			Hint:   fmt.Sprintf("restore to an empty folder, or say --into %s if this folder is meant", own)}
	}
	return true, nil
}

// guardDelete decides whether a deletion may go on without the user's consent.
func (rs *restore) guardDelete(dir string, plan *deletion) error {
	rs.rep.Delete = &plan.DeletePlan
	real, err := filepath.Abs(dir)
	if err == nil {
		real, err = filepath.EvalSymlinks(real)
	}
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	home, _ := os.UserHomeDir() // none: nothing to protect
	if home != "" {
		if h, err := filepath.EvalSymlinks(home); err == nil {
			home = h
		}
	}
	s := rs.o.Snapshot
	never := false
	switch {
	case real == "/":
		plan.Refused, never = "deleting is never done in /", true
	case home != "" && (real == home || strings.HasPrefix(home+"/", real+"/")):
		plan.Refused = "the folder is, or holds, your own home"
	case real == "/root" || real == "/home":
		plan.Refused = "the folder holds homes"
	case !s.Complete || s.Checkpoint:
		plan.Refused = "the snapshot is not complete, so that files which it lacks may well exist in the source"
	case plan.wanted == 0 && plan.Entries > 0:
		plan.Refused = "the snapshot holds nothing at this path"
	case plan.Entries*2 > plan.Existing:
		plan.Refused = fmt.Sprintf("%d of %d entries would be deleted", plan.Entries, plan.Existing)
	}
	if plan.Refused == "" || rs.o.DryRun || rs.o.Yes && !never {
		return nil
	}
	hint := "look at what a dry run lists (--dry-run), and say --yes if it is meant"
	if never {
		hint = "restore without --delete"
	}
	return &TargetGuardError{Target: dir, Reason: plan.Refused, Hint: hint}
}

// planDelete compares the names of the target with those of the snapshot. Nothing is deleted beside the label folders of
// a whole snapshot, nor below a label that was made of something else than a whole folder.
func (rs *restore) planDelete(ctx context.Context, node *Node) (*deletion, error) {
	p := &deletion{}
	if rs.o.Path != "" {
		label, _, _ := strings.Cut(rs.o.Path, "/")
		if !rs.wholeFolder(label) {
			return p, nil
		}
		return p, rs.planDeleteIn(ctx, p, "", node, rs.sel.include == nil)
	}
	err := Walk(ctx, rs.load, node, "", func(label string, n *Node, err error) error {
		if err != nil {
			p.damaged = true
			return nil
		}
		if have, there, err := rs.lookAt(label); err == nil && there && have.Type == localfs.TypeDir &&
			n.IsDir() && rs.wholeFolder(label) && !rs.sel.excluded(label, true) {
			inside := rs.sel.included(label, true, rs.sel.include == nil)
			if err := rs.planDeleteIn(ctx, p, label, n, inside); err != nil {
				return err
			}
		}
		return skipFolder(n)
	})
	return p, err
}

func (rs *restore) wholeFolder(label string) bool {
	src := rs.o.Snapshot.Source(label)
	return src != nil && (src.Kind == SourceFolder || src.Kind == SourceTar)
}

// planDeleteIn plans for one folder that both sides have, and those below it.
func (rs *restore) planDeleteIn(ctx context.Context, p *deletion, rel string, n *Node, inside bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	d, err := rs.root.OpenDir(rel)
	if err != nil {
		rs.problem(rel, fmt.Errorf("nothing was deleted below it: %w", err))
		return nil
	}
	entries, err := d.Entries(nil)
	d.Close()
	if err != nil {
		rs.problem(rel, fmt.Errorf("nothing was deleted below it: %w", err))
		return nil
	}
	p.Existing += int64(len(entries))
	group := doomedGroup{rel: rel, node: n}
	if rel == "" && rs.o.Path == "" {
		group.node = nil
	}
	c := NewFolderCursor(rs.load, n.Subtree)
	child, err := c.Next(ctx)
	for len(entries) > 0 || child != nil {
		if err != nil {
			damage, fatal := treeDamage(err)
			if fatal != nil {
				return fatal
			}
			p.damaged = true
			rs.o.Monitor.Notice(joinPath(rs.prefix, rel), "nothing is deleted below it: "+damage.Error())
			return nil
		}
		switch {
		case child == nil || len(entries) > 0 && entries[0].Name < child.Name:
			if n.Flags&FlagPartial != 0 {
				p.Kept++
			} else if err := rs.doom(p, &group, joinPath(rel, entries[0].Name), inside); err != nil {
				return err
			}
			entries = entries[1:]
			continue
		case len(entries) > 0 && entries[0].Name == child.Name:
			if err := rs.planDeleteAt(ctx, p, joinPath(rel, child.Name), child, inside); err != nil {
				return err
			}
			entries = entries[1:]
		}
		p.wanted++
		child, err = c.Next(ctx)
	}
	if err != nil {
		if _, fatal := treeDamage(err); fatal != nil {
			return fatal
		}
		p.damaged = true
		return nil
	}
	if len(group.list) > 0 {
		p.groups = append(p.groups, group)
	}
	return nil
}

// planDeleteAt plans for an entry that both sides have.
func (rs *restore) planDeleteAt(ctx context.Context, p *deletion, rel string, n *Node, inside bool) error {
	if rs.sel.excluded(rel, n.IsDir()) {
		return nil
	}
	have, there, err := rs.lookAt(rel)
	if err != nil || !there || have.Type != localfs.TypeDir {
		return nil // the restore itself meets it again
	}
	inside = rs.sel.included(rel, n.IsDir(), inside)
	if n.IsDir() {
		return rs.planDeleteIn(ctx, p, rel, n, inside)
	}
	if !inside {
		return nil
	}
	doomed, _, err := rs.measure(rel) // a folder where the snapshot has a file
	if err != nil {
		return nil
	}
	p.Existing += doomed.Entries - 1
	p.Entries += doomed.Entries
	p.Bytes += doomed.Bytes
	p.List = append(p.List, doomed)
	return nil
}

// doom plans to remove an entry that the snapshot does not have.
func (rs *restore) doom(p *deletion, group *doomedGroup, rel string, inside bool) error {
	have, there, err := rs.lookAt(rel)
	if err != nil || !there {
		return nil
	}
	isDir := have.Type == localfs.TypeDir
	if rs.sel.excluded(rel, isDir) || !rs.sel.included(rel, isDir, inside) {
		return nil
	}
	doomed, mounted, err := rs.measure(rel)
	if err != nil {
		rs.problem(rel, fmt.Errorf("not deleted: %w", err))
		return nil
	}
	p.Existing += doomed.Entries - 1
	if mounted {
		p.Kept += doomed.Entries
		rs.o.Monitor.Notice(joinPath(rs.prefix, rel), "not deleted: another file system is mounted there, or below it")
		return nil
	}
	p.Entries += doomed.Entries
	p.Bytes += doomed.Bytes
	p.List = append(p.List, doomed)
	group.list = append(group.list, doomed)
	return nil
}

// measure counts an entry and what is below it, and says whether a file system is mounted anywhere there.
func (rs *restore) measure(rel string) (d Doomed, mounted bool, err error) {
	m, err := rs.root.Lstat(rel)
	if err != nil {
		return d, false, err
	}
	d = Doomed{Path: rel, Type: m.Type, Entries: 1}
	if m.Type == localfs.TypeFile {
		d.Bytes = m.Size
	}
	if m.Type != localfs.TypeDir {
		return d, false, nil
	}
	above, err := rs.root.Lstat(parentPath(rel))
	if err != nil {
		return d, false, err
	}
	if above.Dev != m.Dev {
		return d, true, nil
	}
	dir, err := rs.root.OpenDir(rel)
	if errors.Is(err, os.ErrPermission) {
		return d, false, nil // it is counted as one; removing it may give us the right to look into it
	}
	if err != nil {
		return d, false, err
	}
	mounted, err = measureIn(dir, m.Dev, &d)
	return d, mounted, err
}

// measureIn counts what is in dir, which it closes.
func measureIn(dir *localfs.Dir, dev uint64, d *Doomed) (mounted bool, err error) {
	defer dir.Close()
	entries, err := dir.Entries(nil)
	if err != nil {
		return false, err
	}
	for _, e := range entries {
		m, err := dir.Stat(e.Name)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return false, err
		}
		if m.Dev != dev {
			return true, nil
		}
		d.Entries++
		if m.Type == localfs.TypeFile {
			d.Bytes += m.Size
		}
		if m.Type != localfs.TypeDir {
			continue
		}
		sub, err := dir.OpenDir(e.Name)
		if errors.Is(err, os.ErrPermission) {
			continue
		}
		if err != nil {
			return false, err
		}
		if mounted, err := measureIn(sub, dev, d); mounted || err != nil {
			return mounted, err
		}
	}
	return false, nil
}

// removeTree removes an entry with what is below it, unless a file system is mounted there.
func (rs *restore) removeTree(rel string) error {
	if rs.o.DryRun {
		return nil
	}
	_, mounted, err := rs.measure(rel)
	if err != nil {
		return err
	}
	if mounted {
		return errors.New("not deleted: another file system is mounted there, or below it")
	}
	return rs.root.RemoveAll(rel)
}

// delete carries the plan out, after all that the snapshot holds is there. Where stored data were found to be damaged,
// nothing is deleted: what looks superfluous may be all that is left.
func (rs *restore) delete(ctx context.Context, p *deletion) error {
	rs.mu.Lock()
	damaged := p.damaged || rs.rep.Damaged > 0
	rs.mu.Unlock()
	if damaged && p.Entries > 0 {
		rs.problem("", errors.New("nothing was deleted, because the snapshot is damaged"))
		return nil
	}
	for _, g := range p.groups {
		if !rs.o.DryRun && !localfs.Privileged() {
			// Refused where the folder is somebody else's, whose mode may still allow what is needed.
			_ = rs.root.MakeWritable(g.rel)
		}
		for _, d := range g.list {
			if err := ctx.Err(); err != nil {
				return err
			}
			rs.act(OpDelete, d.Path, d.Type, d.Bytes)
			if err := rs.removeTree(d.Path); err != nil {
				rs.problem(d.Path, err)
			}
		}
		if g.node != nil && !rs.o.DryRun { // the deletions have changed its time
			rs.applied(g.rel, rs.root.Apply(g.rel, rs.metaFor(g.node), g.node.Xattrs, localfs.ApplyOptions{}))
		}
	}
	return nil
}

// skipFolder is what a WalkFunc returns to stay on one level.
func skipFolder(n *Node) error {
	if n.IsDir() {
		return fs.SkipDir
	}
	return nil
}
