package snapshot

import (
	"fmt"
	"path/filepath"
	"slices"

	"github.com/whole-tale/wtsnap/snapshot/localfs"
)

// shrinkLeast is how many files a parent must have had for half of them to count.
const shrinkLeast = 100

// A GuardError says why a source was not saved although it could have been: it does not look like itself. A disk that
// is not mounted must not become the newest snapshot, for which older ones are forgotten.
type GuardError struct {
	Label, Path string
	Reason      string
	Before, Now int64 // files, where the source shrank
}

func (e *GuardError) Error() string {
	return fmt.Sprintf("source %s (%q) refused: %s", e.Label, e.Path, e.Reason)
}

// before looks at a source before it is read.
func (b *backup) before(s *backupSource) error {
	g := &s.spec.Guard
	refuse := func(format string, args ...any) error {
		return &GuardError{Label: s.spec.Label, Path: s.spec.Path, Reason: fmt.Sprintf(format, args...)}
	}
	if g.MountPoint != "" {
		mounted, err := localfs.IsMountPoint(g.MountPoint)
		if err != nil {
			return refuse("the file system expected at %q: %v", g.MountPoint, err)
		}
		if !mounted {
			return refuse("no file system is mounted at %q", g.MountPoint)
		}
	}
	if g.Sentinel != "" {
		if _, err := localfs.Stat(filepath.Join(s.spec.Path, g.Sentinel)); err != nil {
			return refuse("its sentinel file %q: %v", g.Sentinel, vanishedSource(err))
		}
	}
	return nil
}

// after compares what was found with the parent.
func (b *backup) after(s *backupSource) error {
	p := finished(s.parents)
	if p == nil || b.o.AllowShrink {
		return nil
	}
	if err := mongoGuard(s, p.source.Mongo, s.mongo.Load()); err != nil {
		return err
	}
	before, now := p.source.Files, s.seen.Load()
	switch {
	case before > 0 && now == 0:
		return &GuardError{s.spec.Label, s.spec.Path, fmt.Sprintf("no file is left of %d (--allow-shrink if that was meant)", before), before, now}
	case before > 0 && p.source.Bytes > 0 && s.bytes.Load() == 0: // such as a dump whose program failed at once
		return &GuardError{s.spec.Label, s.spec.Path, fmt.Sprintf("not a byte is left of %d (--allow-shrink if that was meant)", p.source.Bytes), before, now}
	case before > shrinkLeast && now < (before+1)/2:
		return &GuardError{s.spec.Label, s.spec.Path, fmt.Sprintf("only %d files are left of %d (--allow-shrink if that was meant)", now, before), before, now}
	}
	return nil
}

// mongoLeast is how many collections a parent must have had for half of them to count.
const mongoLeast = 10

// mongoGuard compares a dump with the one before, unless other namespaces were asked for: then it is meant to differ.
func mongoGuard(s *backupSource, was, is *MongoInfo) error {
	if was == nil || is == nil || !slices.Equal(was.Include, is.Include) || !slices.Equal(was.Exclude, is.Exclude) {
		return nil
	}
	refuse := func(before, now int64, format string, args ...any) error {
		return &GuardError{s.spec.Label, s.spec.Path, fmt.Sprintf(format, args...) + " (--allow-shrink if that was meant)", before, now}
	}
	there := map[string]bool{}
	for _, db := range is.Databases {
		there[db.Name] = true
	}
	for _, db := range was.Databases {
		if db.Documents > 0 && !there[db.Name] {
			return refuse(db.Collections, 0, "the database %q is gone, which had %d collections", db.Name, db.Collections)
		}
	}
	if before, now := was.Collections(), is.Collections(); before >= mongoLeast && now < (before+1)/2 {
		return refuse(before, now, "only %d collections are left of %d", now, before)
	}
	before, now := was.Documents(), is.Documents()
	switch {
	case before > 0 && now == 0:
		return refuse(before, now, "no document is left of %d", before)
	case before > shrinkLeast && now < (before+1)/2:
		return refuse(before, now, "only %d documents are left of %d", now, before)
	}
	return nil
}
