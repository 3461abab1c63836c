package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"syscall"

	"github.com/whole-tale/wtsnap/snapshot/localfs"
)

// makeOther makes a symbolic link, device, FIFO or socket. What is in its place gives way in one step, by renaming.
// Only an error that ends the run is returned.
func (rs *restore) makeOther(o *other) error {
	if o.node.Type == localfs.TypeSymlink {
		rs.n.symlinks.Add(1)
	} else {
		rs.n.specials.Add(1)
	}
	same, err := rs.isOther(o)
	if err == nil && same {
		var c dirCache
		defer c.close()
		return rs.correct(o, &c)
	}
	if err == nil {
		err = rs.replaceWith(o, func(rel string) error {
			var err error
			if o.node.Type == localfs.TypeSymlink {
				err = rs.root.Symlink(o.node.Target, rel)
			} else {
				err = rs.root.Mknod(rel, o.node.Type, o.node.RDev)
			}
			if err != nil {
				return err
			}
			rs.applied(o.rel, rs.root.Apply(rel, rs.metaFor(o.node), o.node.Xattrs, localfs.ApplyOptions{}))
			return nil
		})
	}
	return rs.settle(o.rel, err)
}

// settle reports an error with an entry, and returns one that ends the run.
func (rs *restore) settle(rel string, err error) error {
	if err == nil {
		return nil
	}
	if end := endsRun(rel, err); end != nil {
		return end
	}
	var missing *localfs.PrivilegeError
	if errors.As(err, &missing) {
		rs.lack(missing.What.String())
		return nil
	}
	rs.problem(rel, err)
	return nil
}

// isOther reports whether the right thing is there, metadata aside.
func (rs *restore) isOther(o *other) (bool, error) {
	if !o.there || o.have.Type != o.node.Type || o.have.RDev != o.node.RDev {
		return false, nil
	}
	if o.node.Type != localfs.TypeSymlink {
		return true, nil
	}
	target, err := rs.root.ReadLink(o.rel)
	return target == o.node.Target, err
}

// replaceWith calls make for the entry's place, or, where something is there, for a place beside it, from where it is
// renamed into its own.
func (rs *restore) replaceWith(o *other, make func(rel string) error) error {
	if !o.there {
		rs.act(OpCreate, o.rel, o.node.Type, 0)
		if rs.o.DryRun {
			return nil
		}
		return make(o.rel)
	}
	rs.n.replaced.Add(1)
	rs.act(OpReplace, o.rel, o.node.Type, 0)
	if o.have.Type == localfs.TypeDir {
		if err := rs.clear(o.rel, &o.have); err != nil || rs.o.DryRun {
			return err
		}
		return make(o.rel)
	}
	if rs.o.DryRun {
		return nil
	}
	f := file{rel: o.rel, node: o.node}
	temp := f.tempName(rs.r.Hasher())
	err := make(temp)
	if errors.Is(err, fs.ErrExist) { // left by a run that was interrupted
		if err = rs.root.Remove(temp); err == nil {
			err = make(temp)
		}
	}
	if err != nil {
		return err
	}
	if err := rs.root.Rename(temp, o.rel); err != nil {
		_ = rs.root.Remove(temp)
		return err
	}
	return nil
}

// makeLink makes a further name of a file.
func (rs *restore) makeLink(o *other) error {
	rs.n.hardLinks.Add(1)
	g := o.group
	if g.bad.Load() {
		rs.problem(o.rel, fmt.Errorf("it is a link to %q, which could not be restored", joinPath(rs.prefix, g.rel)))
		return nil
	}
	first, there, err := rs.lookAt(g.rel)
	if err != nil {
		return rs.settle(o.rel, err)
	}
	if !there && !rs.o.DryRun {
		rs.problem(o.rel, fmt.Errorf("it is a link to %q, which could not be restored", joinPath(rs.prefix, g.rel)))
		return nil
	}
	if there && o.there && first.SameInode(&o.have) {
		return nil
	}
	err = rs.replaceWith(o, func(rel string) error { return rs.root.Link(g.rel, rel) })
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EMLINK) || errors.Is(err, syscall.EXDEV) || errors.Is(err, errors.ErrUnsupported) {
		if o.node.IsFile() {
			rs.lack("hard links, restored as copies")
			err = rs.replaceWith(o, func(rel string) error { return rs.copyFile(g.rel, rel, o.node) })
		}
	}
	return rs.settle(o.rel, err)
}

// copyFile makes a copy where the target's file system refuses a link.
func (rs *restore) copyFile(from, to string, n *Node) error {
	src, m, err := rs.root.OpenFile(from)
	if err != nil {
		return err
	}
	defer src.Close()
	extents, err := src.Extents(m.Size)
	if err != nil {
		return err
	}
	dst, err := rs.root.Create(to)
	if err != nil {
		return err
	}
	defer dst.Close()
	buf := make([]byte, 256<<10)
	for _, e := range extents {
		for off, end := e.Offset, e.Offset+e.Length; off < end; {
			part := buf[:min(int64(len(buf)), end-off)]
			if n, err := src.ReadAt(part, off); n < len(part) {
				return err
			}
			n, err := dst.WriteAt(part, off)
			rs.n.written.Add(int64(n))
			if err != nil {
				return err
			}
			off += int64(len(part))
		}
	}
	if err := dst.Truncate(m.Size); err != nil {
		return err
	}
	rs.applied(to, dst.Apply(rs.metaFor(n), n.Xattrs, localfs.ApplyOptions{}))
	return nil
}

// A dirCache keeps the folder open whose entries were looked at last.
type dirCache struct {
	rel string
	dir *localfs.Dir
}

func (c *dirCache) close() {
	if c.dir != nil {
		c.dir.Close()
		c.dir = nil
	}
}

func (c *dirCache) open(root *localfs.Root, rel string) (*localfs.Dir, error) {
	if c.dir != nil && c.rel == rel {
		return c.dir, nil
	}
	c.close()
	d, err := root.OpenDir(rel)
	if err == nil {
		c.rel, c.dir = rel, d
	}
	return d, err
}

// correctAll corrects the metadata of entries whose content is right.
func (rs *restore) correctAll(ctx context.Context, all []other) error {
	return parallelWith(ctx, len(all), 64, func() *dirCache { return &dirCache{} }, (*dirCache).close,
		func(c *dirCache, i int) error { return rs.correct(&all[i], c) })
}

// correct corrects the metadata of an entry whose content is right. One that needs nothing is not touched: its time of
// change would make the next backup look at it.
func (rs *restore) correct(o *other, c *dirCache) error {
	if !rs.differs(o, c) {
		return nil
	}
	rs.n.metadata.Add(1)
	rs.act(OpMetadata, o.rel, o.node.Type, 0)
	if !rs.o.DryRun {
		rs.applied(o.rel, rs.root.Apply(o.rel, rs.metaFor(o.node), o.node.Xattrs, localfs.ApplyOptions{}))
	}
	return nil
}

// differs reports whether the metadata of what is there are not those that there should be.
func (rs *restore) differs(o *other, c *dirCache) bool {
	if !sameMeta(&o.have, rs.metaFor(o.node)) {
		return true
	}
	have, err := rs.xattrsOf(o.rel, c)
	return err != nil || !sameXattrs(have, o.node.Xattrs)
}

func (rs *restore) xattrsOf(rel string, c *dirCache) ([]localfs.Xattr, error) {
	d, err := c.open(rs.root, parentPath(rel))
	if err != nil {
		return nil, err
	}
	if rel == "" {
		return d.Xattrs()
	}
	return d.XattrsOf(rel[strings.LastIndexByte(rel, '/')+1:])
}

func sameMeta(have, want *localfs.Meta) bool {
	return have.Type == want.Type && (have.Mode == want.Mode || want.Type == localfs.TypeSymlink) &&
		have.UID == want.UID && have.GID == want.GID && have.MTime == want.MTime
}

// sameXattrs compares attributes, both ordered by name. Those that the system gives on its own may be there in addition.
func sameXattrs(have, want []localfs.Xattr) bool {
	for _, h := range have {
		i, found := slices.BinarySearchFunc(want, h.Name, func(x localfs.Xattr, name string) int { return strings.Compare(x.Name, name) })
		switch {
		case found && string(want[i].Value) != string(h.Value):
			return false
		case found:
			want = append(want[:i:i], want[i+1:]...)
		case strings.HasPrefix(h.Name, "user.") || strings.HasPrefix(h.Name, "trusted.") ||
			strings.HasPrefix(h.Name, "system.posix_acl_") || h.Name == "security.capability":
			return false
		}
	}
	return len(want) == 0
}

// finishFolder gives a folder its metadata. Nothing below it changes any more. A folder that was there counts as
// corrected where it was not right before; what this run has changed itself is put right in silence.
func (rs *restore) finishFolder(d *folder) error {
	if !d.fresh {
		var c dirCache
		defer c.close()
		o := other{rel: d.rel, node: d.node, have: d.have, there: true}
		if rs.differs(&o, &c) {
			return rs.correct(&o, &c)
		}
		if rs.o.DryRun {
			return nil
		}
		now, err := rs.root.Lstat(d.rel)
		if err != nil {
			return rs.settle(d.rel, err)
		}
		if sameMeta(&now, rs.metaFor(d.node)) {
			return nil
		}
	}
	if !rs.o.DryRun {
		rs.applied(d.rel, rs.root.Apply(d.rel, rs.metaFor(d.node), d.node.Xattrs, localfs.ApplyOptions{}))
	}
	return nil
}
