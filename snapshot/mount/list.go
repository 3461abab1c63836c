package mount

import (
	"context"
	"maps"
	"slices"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/whole-tale/wtsnap/snapshot"
)

// idsName is the folder of links by id. An instance of that name is shown as "ids " with a space behind it.
const idsName = "ids"

// timeLayout makes names that sort by time, in local time as all commands show it, without characters that shells mind.
const timeLayout = "2006-01-02_15-04-05"

// A listing is the snapshots as of one moment. It is never changed.
type listing struct {
	read      time.Time
	instances map[string]map[string]*snapshot.Snapshot // by name in the root, then by name of the snapshot
	latest    map[string]string                        // by name in the root: name of the newest complete snapshot
	ids       map[string]string                        // short id: where it leads
}

func instanceName(instance string) string {
	if instance == idsName {
		return instance + " "
	}
	return instance
}

func newListing(snaps []*snapshot.Snapshot) *listing {
	l := &listing{read: time.Now(), instances: map[string]map[string]*snapshot.Snapshot{}, latest: map[string]string{}, ids: map[string]string{}}
	snapshot.SortSnapshots(snaps)
	for _, s := range snaps {
		instance := instanceName(s.Instance)
		name := s.Time.Local().Format(timeLayout) + "_" + s.Ref.ID.Short()
		if l.instances[instance] == nil {
			l.instances[instance] = map[string]*snapshot.Snapshot{}
		}
		l.instances[instance][name] = s
		l.ids[s.Ref.ID.Short()] = "../" + instance + "/" + name
		if s.Complete {
			l.latest[instance] = name
		}
	}
	return l
}

// snapshots returns the list of snapshots, read again if it is old.
func (f *filesystem) snapshots(ctx context.Context) (*listing, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.list != nil && time.Since(f.list.read) < f.o.Refresh {
		return f.list, nil
	}
	snaps, err := snapshot.List(ctx, f.r, f.o.Filter)
	switch {
	case err != nil && f.list == nil && len(snaps) == 0:
		return nil, err
	case err != nil && len(snaps) == 0: // what was there still is, most likely
		f.trouble(err)
		return f.list, nil
	case err != nil: // some manifests cannot be read
		f.trouble(err)
	}
	if f.list != nil { // new snapshots lie in packs that the index has not heard of
		if err := f.r.LoadIndex(ctx); err != nil {
			f.trouble(err)
			return f.list, nil
		}
	}
	f.list = newListing(snaps)
	return f.list, nil
}

// An entry of a folder that is in no snapshot.
type entry struct {
	target  string                            // of a link
	s       *snapshot.Snapshot                // of a snapshot's folder
	entries func(l *listing) map[string]entry // of another such folder
}

func (e *entry) mode() uint32 {
	if e.target != "" {
		return syscall.S_IFLNK
	}
	return syscall.S_IFDIR
}

// A listNode is a folder that is in no snapshot. Its entries may be others a minute later.
type listNode struct {
	fs.Inode
	f       *filesystem
	entries func(l *listing) map[string]entry
}

// instances are the entries of the root.
func instances(l *listing) map[string]entry {
	m := map[string]entry{idsName: {entries: ids}}
	for name := range l.instances {
		m[name] = entry{entries: func(l *listing) map[string]entry { return l.snapshotsOf(name) }}
	}
	return m
}

// snapshotsOf are the entries of an instance's folder.
func (l *listing) snapshotsOf(instance string) map[string]entry {
	m := map[string]entry{}
	for name, s := range l.instances[instance] {
		m[name] = entry{s: s}
	}
	if name, ok := l.latest[instance]; ok {
		m["latest"] = entry{target: name}
	}
	return m
}

// ids are the entries of the folder of links by id.
func ids(l *listing) map[string]entry {
	m := map[string]entry{}
	for id, target := range l.ids {
		m[id] = entry{target: target}
	}
	return m
}

// current returns the folder's entries as of now.
func (n *listNode) current(ctx context.Context) (map[string]entry, syscall.Errno) {
	l, err := n.f.snapshots(ctx)
	if err != nil {
		return nil, n.f.failed("the list of snapshots", err)
	}
	return n.entries(l), 0
}

// Readdir implements fs.NodeReaddirer.
func (n *listNode) Readdir(ctx context.Context) (fs.DirStream, syscall.Errno) {
	entries, errno := n.current(ctx)
	if errno != 0 {
		return nil, errno
	}
	var list []fuse.DirEntry
	for _, name := range slices.Sorted(maps.Keys(entries)) {
		e := entries[name]
		list = append(list, fuse.DirEntry{Name: name, Mode: e.mode()})
	}
	return fs.NewListDirStream(list), 0
}

// Lookup implements fs.NodeLookuper.
func (n *listNode) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	entries, errno := n.current(ctx)
	if errno != 0 {
		return nil, errno
	}
	e, ok := entries[name]
	if !ok {
		return nil, syscall.ENOENT
	}
	out.SetEntryTimeout(n.f.o.Refresh)
	out.SetAttrTimeout(n.f.o.Refresh)
	out.Mode = e.mode() | 0o555
	var child fs.InodeEmbedder
	switch {
	case e.s != nil:
		top := &node{f: n.f, s: e.s, n: e.s.RootNode()}
		top.attr(&out.Attr)
		child = top
	case e.entries != nil:
		child = &listNode{f: n.f, entries: e.entries}
	default:
		child = &fs.MemSymlink{Data: []byte(e.target)}
	}
	return n.NewInode(ctx, child, fs.StableAttr{Mode: e.mode()}), 0
}

// Getattr implements fs.NodeGetattrer.
func (*listNode) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	out.Mode = syscall.S_IFDIR | 0o555
	return 0
}
