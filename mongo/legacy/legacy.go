// Package legacy reads what the scripts left that wtsnap replaces: one folder a night with a tar archive of the homes and
// a mongodump archive,
//
//	WT/INSTANCE/YYYYMMDD/home-YYYYMMDD.tgz
//	WT/INSTANCE/YYYYMMDD/mongodump-YYYYMMDD.tgz
//
// (mongodump's is no tar archive, but what mongodump --gzip --archive writes) and makes snapshots of them, with their own
// dates. Nothing of it is changed or deleted.
package legacy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/whole-tale/wtsnap/mongo"
	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/repo/storage"
	"github.com/whole-tale/wtsnap/snapshot"
)

// Tag is what imported snapshots are tagged with.
const Tag = "import"

// An Archive is one file.
type Archive struct {
	Name string // below the place that is imported
	Dump bool   // of a MongoDB; else of homes
	Size int64
}

// A State says what became of a night.
type State string

// The states of a night.
const (
	Left       State = "left"       // to be imported
	Done       State = "done"       // by an earlier run
	Imported   State = "imported"   // by this one
	Incomplete State = "incomplete" // an archive is damaged: what came before the damage is in the snapshot
	Failed     State = "failed"     // nothing was kept; the next run tries it again
)

// A Night is one folder.
type Night struct {
	Instance string
	Date     time.Time // noon of that day, UTC, which is that day everywhere
	Archives []Archive // that of the homes first
	State    State
	Snapshot *snapshot.Snapshot // nil: none
	Report   *snapshot.BackupReport
	Errors   []string
	Err      error
}

// Bytes is the size of the archives.
func (n *Night) Bytes() (sum int64) {
	for _, a := range n.Archives {
		sum += a.Size
	}
	return sum
}

var archiveName = regexp.MustCompile(`^(?:(.+)/)?(\d{8})/(home|homes|mongodump)-(\d{8})\.(?:tgz|tar\.gz|tar|archive|archive\.gz|gz)$`)

// Find lists the nights of a place, of all instances, oldest first, and the names of the files that are none. The place
// has folders of instances, or is one: instance is its name then.
func Find(ctx context.Context, st storage.Storage, instance string) (nights []*Night, others []string, err error) {
	byKey := map[string]*Night{}
	err = st.List(ctx, "", func(i storage.Info) error {
		m := archiveName.FindStringSubmatch(i.Name)
		if m == nil || m[2] != m[4] {
			others = append(others, i.Name)
			return nil
		}
		day, err := time.Parse("20060102", m[2])
		if err != nil {
			others = append(others, i.Name)
			return nil
		}
		of := cmp.Or(path.Base(m[1]), instance)
		if m[1] == "" {
			of = instance
		}
		key := of + "/" + m[2]
		n := byKey[key]
		if n == nil {
			n = &Night{Instance: of, Date: day.Add(12 * time.Hour), State: Left}
			byKey[key] = n
			nights = append(nights, n)
		}
		a := Archive{Name: i.Name, Dump: m[3] == "mongodump", Size: i.Size}
		if at := slices.IndexFunc(n.Archives, func(b Archive) bool { return a.Dump == b.Dump }); at >= 0 {
			others = append(others, i.Name) // a second one of the same kind
			return nil
		}
		n.Archives = append(n.Archives, a)
		return nil
	})
	if err != nil {
		return nil, nil, fmt.Errorf("listing the archives: %w", err)
	}
	for _, n := range nights {
		slices.SortFunc(n.Archives, func(a, b Archive) int { return cmp.Compare(a.Name, b.Name) })
	}
	slices.SortFunc(nights, func(a, b *Night) int { return cmp.Or(a.Date.Compare(b.Date), cmp.Compare(a.Instance, b.Instance)) })
	slices.Sort(others)
	return nights, others, nil
}

// Options say how nights are imported.
type Options struct {
	Place   string            // as the user named it: it is noted in the snapshots
	Homes   string            // the label of homes; "" = homes
	Mongo   string            // the label of MongoDBs; "" = mongo
	Strip   int               // leading folders of names in the homes' archives that are left out
	Rename  map[string]string // of instances
	Again   bool              // import incomplete nights again
	Program string
	Host    string // for people: that which imports
	Memory  int64
}

func (o *Options) label(a Archive) string {
	if a.Dump {
		return cmp.Or(o.Mongo, "mongo")
	}
	return cmp.Or(o.Homes, "homes")
}

// origin is what a source's path says in the manifest: it tells a later run what is done.
func (o *Options) origin(a Archive) string {
	return strings.TrimSuffix(o.Place, "/") + "/" + a.Name
}

// Mark finds the nights that earlier runs have imported, forgotten ones included.
func Mark(ctx context.Context, r *repo.Repository, nights []*Night, o Options) error {
	snaps, err := snapshot.List(ctx, r, snapshot.Filter{})
	if err != nil && len(snaps) == 0 {
		return fmt.Errorf("looking for what is imported already: %w", err)
	}
	forgotten, err := r.Forgotten(ctx)
	if err != nil {
		return fmt.Errorf("looking for what is imported already: %w", err)
	}
	more, err := snapshot.Load(ctx, r, forgotten)
	if err != nil && len(more) == 0 {
		return fmt.Errorf("looking for what is imported already: %w", err)
	}
	done := map[string]*snapshot.Snapshot{}                                                // by origin
	more = slices.DeleteFunc(more, func(s *snapshot.Snapshot) bool { return !s.Complete }) // those that Import itself took back
	for _, s := range append(more, snaps...) {
		if s.Checkpoint || !slices.Contains(s.Tags, Tag) {
			continue
		}
		for _, src := range s.Sources {
			done[s.Instance+"\x00"+src.Path] = s
		}
	}
	for _, n := range nights {
		found := 0
		var s *snapshot.Snapshot
		for _, a := range n.Archives {
			if of := done[o.instance(n)+"\x00"+o.origin(a)]; of != nil {
				s = of
				found++
			}
		}
		// Of an archive that is damaged from the beginning an incomplete snapshot has nothing.
		if s != nil && (s.Complete && found == len(n.Archives) || !s.Complete && !o.Again) {
			n.State, n.Snapshot = Done, s
		}
	}
	return nil
}

func (o *Options) instance(n *Night) string { return cmp.Or(o.Rename[n.Instance], n.Instance) }

// Import makes a snapshot of a night. What is wrong with the archives is in the night; an error ends the run: ctx, or the
// repository. Archives are read as they are saved, and once; nothing is kept on disk.
//
// A damaged or truncated archive gives an incomplete snapshot, which latest never means, with all that came before the
// damage. A place that cannot be read gives none: that night is tried again.
func Import(ctx context.Context, r *repo.Repository, st storage.Storage, n *Night, o Options, monitor snapshot.Monitor, progress *snapshot.Progress) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	b := snapshot.BackupOptions{Instance: o.instance(n), Time: n.Date, Tags: []string{Tag}, AllowShrink: true, Program: o.Program, Host: o.Host, Memory: o.Memory,
		Monitor: monitor, Progress: progress, CheckpointInterval: -1}
	var readers []*reader
	var tars []*snapshot.TarReader
	for _, a := range n.Archives {
		in := newReader(ctx, st, a)
		defer in.close()
		readers = append(readers, in)
		spec := snapshot.SourceSpec{Label: o.label(a), Kind: snapshot.SourceTar, Path: o.origin(a)}
		if a.Dump {
			spec.Kind = snapshot.SourceMongo
			spec.Stream = dump{in}
		} else {
			t := &snapshot.TarReader{R: in, Strip: o.Strip}
			tars = append(tars, t)
			spec.Stream = t
		}
		b.Sources = append(b.Sources, spec)
	}
	rep, err := snapshot.Backup(ctx, r, b)
	n.Report = rep
	var unread error
	for _, in := range readers {
		unread = cmp.Or(unread, in.failure())
	}
	if rep != nil {
		for _, e := range rep.Errors {
			n.Errors = append(n.Errors, e.Path+": "+e.Error)
		}
		n.Snapshot = rep.Snapshot
	}
	switch {
	case context.Cause(ctx) != nil:
		err = context.Cause(ctx)
	case unread != nil: // of no use, and the next run would take it for done
		err = unread
	case err == nil:
		return n.judge(tars, readers, &o)
	case n.Snapshot != nil && isDamage(err):
		n.State = Incomplete
		n.Errors = append(n.Errors, err.Error())
		return nil
	}
	n.State, n.Err = Failed, err
	if n.Snapshot != nil {
		ref := n.Snapshot.Ref
		n.Snapshot = nil
		if ferr := r.ForgetNamed(context.WithoutCancel(ctx), []repo.SnapshotRef{ref}, "an archive that could not be read to its end"); ferr != nil {
			return fmt.Errorf("forgetting what could not be read to its end: %w", ferr)
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// isDamage reports whether an error is about an archive alone.
func isDamage(err error) bool {
	var e *snapshot.SourceError
	return errors.As(err, &e)
}

// judge compares what was saved with what was read.
func (n *Night) judge(tars []*snapshot.TarReader, readers []*reader, o *Options) error {
	n.State = Imported
	if !n.Snapshot.Complete {
		n.State = Incomplete
		return nil
	}
	bad := func(format string, args ...any) {
		n.State = Incomplete
		n.Errors = append(n.Errors, fmt.Sprintf(format, args...))
	}
	for _, in := range readers {
		if in.next != in.a.Size {
			bad("%s: %d of %d bytes were read", in.a.Name, in.next, in.a.Size)
		}
	}
	for _, t := range tars {
		src := n.Snapshot.Source(cmp.Or(o.Homes, "homes"))
		if src != nil && !t.Repeats && src.Errors == 0 && (src.Files != t.Files || src.Bytes != t.Bytes) {
			bad("%s: the archive has %d files of %d bytes, and the snapshot %d of %d", src.Path, t.Files, t.Bytes, src.Files, src.Bytes)
		}
	}
	return nil
}

// A dump is a mongodump archive that is read from a storage.
type dump struct{ in io.Reader }

// Save implements snapshot.StreamSource.
func (d dump) Save(ctx context.Context, sink *snapshot.Sink) error {
	r, done, err := snapshot.Decompress(d.in)
	if err != nil {
		return err
	}
	defer done()
	if err := (&mongo.DumpSource{Path: "-", Stdin: r}).Save(ctx, sink); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, r) // to the checksum
	return err
}
