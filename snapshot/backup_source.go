package snapshot

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/whole-tale/wtsnap/snapshot/localfs"
)

// A backupSource is a source while it is saved.
type backupSource struct {
	spec    *SourceSpec
	kind    SourceKind
	place   *slot // in the root
	parents []*parentSnap
	exclude *excluder
	began   time.Time
	dev     uint64 // of the root
	links   linkTable
	inodes  inodeTable

	night, nights uint64 // of the sample; nights 0: none is taken

	limit    int64       // files that are larger are put off
	past     *parentSnap // what the pass before saved; nil in the first one
	later    later       // put off, and not saved yet
	finished bool        // nothing more of it comes
	said     sync.Map    // problems, so that each is said in one pass only; where there may be several

	seen    atomic.Int64 // regular files, readable or not
	matched atomic.Int64 // of these, those that the finished parent has at the same path
	files   atomic.Int64 // saved
	dirs    atomic.Int64
	bytes   atomic.Int64

	absent   atomic.Int64 // listed, and not there
	tally    tally
	problems atomic.Int64
	mongo    atomic.Pointer[MongoInfo]

	// How it ended. Written under backup.mu.
	missing error // it could not be saved at all
	refused error // its guard refused it
	cut     error // why it ended before its end
}

func (b *backup) newSource(spec *SourceSpec, parents []*parentSnap) *backupSource {
	s := &backupSource{spec: spec, kind: spec.Kind, parents: parents, exclude: b.excludes[spec.Label]}
	if p := finished(parents); p != nil && b.o.SampleNights > 0 && !b.o.ReadAll {
		s.nights = max(uint64(b.o.SampleNights), uint64(p.source.Bytes/sampleBytes))
		s.night = uint64(b.o.Time.Unix()/86400) % s.nights
	}
	return s
}

// begin makes a source one that checkpoints tell of.
func (b *backup) begin(s *backupSource) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s.began = time.Now()
	b.begun = append(b.begun, s)
}

// describe returns the source's line of the manifest.
func (s *backupSource) describe() Source {
	return Source{Label: s.spec.Label, Kind: s.kind, Path: s.spec.Path, Files: s.files.Load(), Dirs: s.dirs.Load(),
		Bytes: s.bytes.Load(), Errors: s.problems.Load(), Time: s.began.UTC(), Mongo: s.mongo.Load(), Change: s.change()}
}

// removed returns how many files the finished parent had that are gone.
func (s *backupSource) removed() int64 {
	if p := finished(s.parents); p != nil {
		return max(0, p.source.Files-s.matched.Load())
	}
	return 0
}

// save saves one source and puts it into the root, or notes why not. Where a part of it was put off, the next pass goes
// on. An error ends the run.
func (b *backup) save(ctx context.Context, s *backupSource) error {
	var (
		n       *Node
		missing *SourceError
		refused *GuardError
	)
	place := s.place
	err := b.before(s)
	if err == nil {
		switch {
		case s.spec.Stream != nil:
			n, err = b.saveStream(ctx, s, place, s.spec.Stream)
		case s.kind == SourceTar:
			n, err = b.saveStream(ctx, s, place, &tarSource{path: s.spec.Path, stdin: b.o.Stdin})
		case s.kind == SourceStdin:
			n, err = b.saveStream(ctx, s, place, &stdinSource{name: s.spec.Path, r: b.o.Stdin, time: b.o.Time})
		case s.kind == SourceFolder:
			n, err = b.savePath(ctx, s, place)
		default:
			err = &SourceError{s.spec.Label, s.spec.Path, fmt.Errorf("nothing here saves a source of the kind %q", s.kind)}
		}
	}
	if err == nil && s.later.files.Load() > 0 {
		b.putOff(s, n)
		return nil
	}
	if err == nil && s.cut == nil {
		err = b.after(s)
	}
	b.mu.Lock()
	switch {
	case errors.As(err, &missing):
		s.missing = missing
	case errors.As(err, &refused):
		s.refused = refused
	}
	b.mu.Unlock()
	if err != nil && s.missing == nil && s.refused == nil {
		return err
	}
	if err != nil {
		n = nil
	}
	if s.missing != nil && s.problems.Load() == 0 {
		b.problem(s, s.spec.Path, missing.Err)
	}
	b.gate.RLock()
	b.root.resolve(place, n)
	b.gate.RUnlock()
	s.finished = true
	return context.Cause(ctx)
}

// savePath saves a folder, or a file as the only entry of a folder.
func (b *backup) savePath(ctx context.Context, s *backupSource, place *slot) (*Node, error) {
	path := s.spec.Path
	gone := func(err error) (*Node, error) { return nil, &SourceError{s.spec.Label, path, vanishedSource(err)} }
	m, err := localfs.Stat(path)
	if err != nil {
		return gone(err)
	}
	folder, openAs := path, ""
	if m.Type != localfs.TypeDir {
		real, err := filepath.EvalSymlinks(path)
		if err != nil {
			return gone(err)
		}
		s.kind, folder, openAs = SourceFile, filepath.Dir(real), filepath.Base(real)
	}
	d, err := localfs.OpenDir(folder)
	if err != nil {
		return gone(err)
	}
	if m, err = d.Meta(); err != nil {
		_ = d.Close()
		return gone(err)
	}
	f := b.newFolder(s, Node{Name: s.spec.Label, Meta: m})
	f.path, f.dir, f.openAs, f.done = path, d, openAs, make(chan struct{})
	f.hold()
	s.dev = m.Dev
	var old past
	var cursors []pastCursor
	parents := s.parents
	if s.past != nil {
		parents = append([]*parentSnap{s.past}, parents...)
		f.before = s.past.node
		s.later.files.Store(0)
		s.later.bytes.Store(0)
		s.links.abandon()
	}
	for _, p := range parents {
		old.nodes[old.n], old.from[old.n] = p.node, p
		old.n++
		cursors = append(cursors, pastCursor{p: p, c: NewFolderCursor(b.load, p.node.Subtree)})
	}
	w := walker{b: b, f: f}
	if openAs == "" {
		f.node.Xattrs = w.xattrs("", &m, &old, d.Xattrs)
	} else {
		f.path = filepath.Dir(path)
	}
	b.gate.RLock()
	b.root.mu.Lock()
	place.part = f
	b.root.mu.Unlock()
	b.gate.RUnlock()
	b.walkers.Go(func() {
		if openAs == "" {
			b.walk(ctx, f, cursors)
			return
		}
		defer f.release()
		b.walkEntries(ctx, f, cursors, []localfs.Entry{{Name: filepath.Base(path)}})
	})
	select {
	case <-f.done:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if openAs != "" && s.files.Load() == 0 && s.problems.Load() > 0 {
		return gone(errors.New("it could not be read"))
	}
	if only := s.exclude.Only; only != nil && s.absent.Load() >= int64(only.Len()) {
		return gone(errors.New("nothing of what is listed is there"))
	}
	b.owners.add(f.node.UID, f.node.GID, "", "")
	return &f.node, nil
}

// vanishedSource says in a user's words that a source is not there.
func vanishedSource(err error) error {
	if v := vanished(err); v != errVanished {
		return v
	}
	return errors.New("there is no such file or folder")
}
