// Package whole brings all that an instance has saved back: files, folders and MongoDBs, each label from the newest
// snapshot that has it, to where it was or where the caller says.
//
// A plan is made first, which reads and asks and changes nothing; it holds every reason why the restore may not begin. A
// journal on this machine says which parts are done, so that a restore that ended early goes on where it was.
package whole

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/whole-tale/wtsnap/mongo"
	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/snapshot"
	"github.com/whole-tale/wtsnap/snapshot/localfs"
)

// LeftOut is the target of a label that is not to be restored.
const LeftOut = "none"

// Options say what is restored and where to. Instance and Journal are required.
type Options struct {
	Instance   string             // whose
	Snapshot   *snapshot.Snapshot // only what this one has; nil = each label from the newest that has it
	At         time.Time          // nothing later; zero = the newest
	AtExactly  snapshot.Timestamp // the same for a MongoDB whose oplog is stored; zero = a dump as it is
	Incomplete bool               // let incomplete snapshots and checkpoints count

	OwnInstance string // that this machine is; "" = none yet
	Into        string // that it is said to be

	Targets map[string]string       // by label: a folder, an archive, a mongodb:// address, or LeftOut
	ToMongo string                  // the target of the only MongoDB that Targets does not name
	Mongo   mongo.Restorer          // how MongoDBs are restored
	Base    snapshot.RestoreOptions // owner map, workers, memory and the like; targets and snapshots are set here
	Variant string                  // what else makes a restore of a MongoDB another one: the text of its updates
	Journal string                  // the file that says what is done
}

// A State says how far a part is.
type State string

// The states of a part.
const (
	Planned  State = "planned"
	Begun    State = "begun"    // an earlier run did not end; what is there is not written again
	Done     State = "done"     // by an earlier run
	Restored State = "restored" // by this one
	Failed   State = "failed"
	Skipped  State = "left_out" // the caller wants it so
	Waiting  State = "not_begun"
)

// A Part is one label.
type Part struct {
	Label    string
	Kind     snapshot.SourceKind
	Snapshot *snapshot.Snapshot
	Source   *snapshot.Source
	Path     string // in the snapshot
	Target   snapshot.TargetSpec
	Default  bool // the target is where the source was
	State    State
	DoneAt   time.Time     // of an earlier run
	Refused  error         // why the restore may not begin; nil = it may
	Moment   *mongo.Moment // nil: as the snapshot has it
	Room     int64         // bytes that the target's file system has left; -1 = unknown

	Report  *snapshot.RestoreReport // of this run; nil: it did not begin
	Err     error
	Seconds float64

	key string
}

// A Plan is what a restore will do.
type Plan struct {
	Parts   []*Part            // in the order in which they are restored
	Unknown Owners             // who owns files there, and is nobody here
	Newer   *snapshot.Snapshot // an incomplete snapshot that is newer than all of these; nil: none
	Oplog   snapshot.Timestamp // up to which the stored oplog leads a MongoDB beyond its dump; zero: not at all
	o       Options
	journal *journal
}

// Owners are names.
type Owners struct{ Users, Groups []string }

// NewPlan finds out what there is to restore, and whether that may begin: see Refused. It changes nothing.
func NewPlan(ctx context.Context, r *repo.Repository, o Options) (*Plan, error) {
	p := &Plan{o: o}
	var err error
	if p.journal, err = readJournal(o.Journal); err != nil {
		return nil, err
	}
	snaps := []*snapshot.Snapshot{o.Snapshot}
	if o.Snapshot == nil {
		if snaps, err = snapshot.List(ctx, r, snapshot.Filter{Instance: o.Instance}); err != nil && len(snaps) == 0 {
			return nil, err
		}
	}
	p.choose(snaps)
	if len(p.Parts) == 0 {
		return nil, p.nothing(snaps)
	}
	for label := range o.Targets {
		if !slices.ContainsFunc(p.Parts, func(q *Part) bool { return q.Label == label }) {
			return nil, &TargetError{Label: label, Reason: "the snapshots have no such label", Hint: "it has " + strings.Join(p.labels(), ", ")}
		}
	}
	for _, part := range p.Parts {
		if err := p.target(ctx, r, part); err != nil {
			part.Refused = err
		}
	}
	p.overlaps()
	for _, part := range p.Parts {
		if part.Refused == nil && part.State != Skipped {
			part.Refused = p.look(ctx, r, part)
		}
	}
	p.sort()
	p.owners()
	p.reach(ctx, r)
	return p, ctx.Err()
}

// nothing says why there is nothing to restore.
func (p *Plan) nothing(snaps []*snapshot.Snapshot) error {
	e := &snapshot.NotFoundError{Spec: "of " + p.o.Instance, Hint: "wtsnap snapshots lists what is there", Reason: "the repository has none of that instance"}
	if len(snaps) > 0 {
		e.Reason = "none of its snapshots is complete, or none is old enough"
		e.Hint = "wtsnap snapshots lists what is there; --incomplete takes incomplete ones, too"
	}
	return e
}

// choose makes a part of each label: the newest snapshot that has it.
func (p *Plan) choose(snaps []*snapshot.Snapshot) {
	seen := map[string]bool{}
	for _, s := range slices.Backward(snaps) {
		if s.HoldsOplog() || !p.o.At.IsZero() && s.Time.After(p.o.At) {
			continue
		}
		if p.o.Snapshot == nil && !s.Complete && !p.o.Incomplete {
			if len(p.Parts) == 0 && p.Newer == nil {
				p.Newer = s
			}
			continue
		}
		for i := range s.Sources {
			src := &s.Sources[i]
			if seen[src.Label] || src.Mongo != nil && src.Mongo.Role != snapshot.MongoDump {
				continue
			}
			seen[src.Label] = true
			p.Parts = append(p.Parts, &Part{Label: src.Label, Kind: src.Kind, Snapshot: s, Source: src, Path: src.Label, State: Planned, Room: -1})
		}
	}
	slices.SortFunc(p.Parts, func(a, b *Part) int { return cmp.Compare(a.Label, b.Label) })
}

func (p *Plan) labels() (out []string) {
	for _, part := range p.Parts {
		out = append(out, part.Label)
	}
	return out
}

// A TargetError says that a label has no target, or one that cannot be meant: a usage error.
type TargetError struct {
	Label  string
	Reason string
	Hint   string
}

func (e *TargetError) Error() string { return fmt.Sprintf("%s: %s", e.Label, e.Reason) }

// target decides where a part goes.
func (p *Plan) target(ctx context.Context, r *repo.Repository, part *Part) (err error) {
	text, given := p.o.Targets[part.Label]
	isMongo := part.Kind == snapshot.SourceMongo
	if !given && isMongo && p.o.ToMongo != "" {
		if n := p.unnamedMongos(); n > 1 {
			return &TargetError{part.Label, fmt.Sprintf("--to-mongo is for one MongoDB, and there are %d", n), "--map " + part.Label + "=mongodb://..."}
		}
		text, given = p.o.ToMongo, true
	}
	switch {
	case text == LeftOut:
		part.State = Skipped
		return nil
	case given:
	case isMongo:
		return &TargetError{part.Label, "it is a MongoDB, and nothing says where it goes", "--to-mongo mongodb://HOST/, or --map " + part.Label +
			"=FOLDER for mongorestore, or --map " + part.Label + "=none to leave it out"}
	case part.Kind != snapshot.SourceFolder && part.Kind != snapshot.SourceFile || !filepath.IsAbs(part.Source.Path) ||
		strings.ContainsRune(part.Source.Path, utf8.RuneError):
		return &TargetError{part.Label, fmt.Sprintf("it was read from %q, which is no place to restore to", part.Source.Path),
			"--map " + part.Label + "=FOLDER, or --map " + part.Label + "=none to leave it out"}
	default:
		part.Default = true
		if text = filepath.Clean(part.Source.Path); part.Kind == snapshot.SourceFile {
			text = filepath.Dir(text)
		}
	}
	if part.Target, err = snapshot.ParseTarget(text); err != nil {
		return &TargetError{part.Label, err.Error(), "--map " + part.Label + "=FOLDER"}
	}
	switch k := part.Target.Kind; {
	case part.Target.Stdout:
		return &TargetError{part.Label, "of several parts none goes to standard output", "--map " + part.Label + "=FOLDER"}
	case !isMongo && (k == snapshot.TargetMongoDB || k == snapshot.TargetMongodump):
		return &TargetError{part.Label, "it is no MongoDB", "--map " + part.Label + "=FOLDER"}
	}
	if part.Kind == snapshot.SourceFile {
		if part.Path, err = onlyEntry(ctx, r, part); err != nil {
			return err
		}
	}
	if isMongo && !p.o.AtExactly.IsZero() {
		part.Moment, err = mongo.FindMoment(ctx, r, p.o.Instance, part.Label, p.o.AtExactly)
		if errors.Is(err, mongo.ErrNoOplog) {
			err = nil
		}
		if err == nil && part.Moment != nil {
			part.Moment.Memory = p.o.Base.Memory / 2
			part.Snapshot = part.Moment.Dump
			part.Source = part.Snapshot.Source(part.Label)
		}
	}
	return err
}

func (p *Plan) unnamedMongos() (n int) {
	for _, part := range p.Parts {
		if _, given := p.o.Targets[part.Label]; !given && part.Kind == snapshot.SourceMongo {
			n++
		}
	}
	return n
}

// onlyEntry is the path of a source that is one file, so that the folder around it keeps what it is.
func onlyEntry(ctx context.Context, r *repo.Repository, part *Part) (string, error) {
	n, err := snapshot.Lookup(ctx, r, part.Snapshot, part.Label)
	if err != nil || !n.IsDir() {
		return part.Label, err
	}
	child, err := snapshot.NewFolderCursor(snapshot.TreeLoader(r), n.Subtree).Next(ctx)
	if err != nil || child == nil {
		return part.Label, err
	}
	return part.Label + "/" + child.Name, nil
}

// overlaps refuses two parts that would write over each other.
func (p *Plan) overlaps() {
	clean := func(part *Part) string {
		abs, err := filepath.Abs(part.Target.Path)
		if err != nil {
			return part.Target.Path
		}
		if part.Kind == snapshot.SourceFile && part.Target.Kind == snapshot.TargetFolder {
			abs = filepath.Join(abs, filepath.Base(part.Path))
		}
		return abs
	}
	for i, a := range p.Parts {
		for _, b := range p.Parts[:i] {
			if a.Target.Kind == 0 || a.Target.Kind != b.Target.Kind || a.Refused != nil {
				continue
			}
			x, y := clean(a), clean(b)
			same := x == y && a.Target.Kind != snapshot.TargetMongoDB
			nested := a.Target.Kind == snapshot.TargetFolder && (x == "/" || y == "/" || strings.HasPrefix(x, y+"/") || strings.HasPrefix(y, x+"/"))
			if same || nested && !(a.Default && b.Default) { // which lay in each other where they were saved
				a.Refused = &TargetError{a.Label, fmt.Sprintf("its target %s overlaps with that of %s", a.Target, b.Label), "--map " + a.Label + "=FOLDER"}
			}
		}
	}
}

// look asks the target what is there.
func (p *Plan) look(ctx context.Context, r *repo.Repository, part *Part) error {
	own, into := p.o.OwnInstance, p.o.Into
	if own != "" && own != p.o.Instance && into != own {
		return &snapshot.TargetGuardError{Target: part.Target.String(), Reason: fmt.Sprintf("the snapshots are of instance %q, and this machine is %q", p.o.Instance, own),
			Hint: fmt.Sprintf("say --into %s if this machine is to become what that one was", own)}
	}
	part.key = p.keyOf(r, part)
	e, known := p.journal.Parts[part.key]
	switch part.Target.Kind {
	case snapshot.TargetMongoDB:
		there, err := p.lookAtMongo(ctx, r, part)
		if known && !e.Done.IsZero() && there {
			part.State, part.DoneAt = Done, e.Done
			return nil
		}
		if known {
			part.State = Begun
		}
		return err
	case snapshot.TargetFolder:
		part.Room = room(part.Target.Path)
		there, err := p.occupied(part)
		if err != nil {
			return err
		}
		switch {
		case known && there && !e.Done.IsZero():
			part.State, part.DoneAt = Done, e.Done
		case known && there:
			part.State = Begun
		case there && part.Default:
			return &snapshot.TargetGuardError{Target: part.Target.Path, Reason: "something is there, and nothing says that it may be written over",
				Hint: fmt.Sprintf("look at it, and say --map %s=%s if it may; --map %[1]s=OTHER restores elsewhere", part.Label, part.Target.Path)}
		}
	default:
		part.Room = room(filepath.Dir(part.Target.Path))
		if known && !e.Done.IsZero() {
			if _, err := localfs.Stat(part.Target.Path); err == nil {
				part.State, part.DoneAt = Done, e.Done
			}
		}
	}
	return nil
}

// lookAtMongo reports whether something of the dump is there already, and refuses what the restore would refuse.
func (p *Plan) lookAtMongo(ctx context.Context, r *repo.Repository, part *Part) (there bool, err error) {
	check := p.restorer(part)
	check.OnlyCheck = true
	o := p.options(part)
	o.Foreign, o.Progress = check, &snapshot.Progress{}
	rep, err := snapshot.Restore(ctx, r, o)
	if rep != nil {
		there = rep.Existing > 0
	}
	return there, err
}

// occupied reports whether a folder, or the one file that is restored into it, is there and not empty.
func (p *Plan) occupied(part *Part) (bool, error) {
	if part.Kind == snapshot.SourceFile {
		_, err := localfs.Lstat(filepath.Join(part.Target.Path, filepath.Base(part.Path)))
		if isNotExist(err) {
			return false, nil
		}
		return err == nil, err
	}
	m, err := localfs.Stat(part.Target.Path)
	if isNotExist(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if m.Type != localfs.TypeDir {
		return false, &snapshot.TargetGuardError{Target: part.Target.Path, Reason: fmt.Sprintf("it is a %v, and no folder", m.Type), Hint: "--map " + part.Label + "=FOLDER"}
	}
	d, err := localfs.OpenDir(part.Target.Path)
	if err != nil {
		return false, err
	}
	defer d.Close()
	entries, err := d.Entries(nil)
	if err != nil {
		return false, err
	}
	for _, e := range entries {
		if e.Name != "lost+found" { // which a new file system has
			return true, nil
		}
	}
	return false, nil
}

// sort puts the parts in order: single files, such as certificates and configuration, then MongoDBs, then folders, the
// smallest first, so that as much as can be is back as early as can be.
func (p *Plan) sort() {
	rank := func(part *Part) int {
		switch part.Kind {
		case snapshot.SourceFile:
			return 0
		case snapshot.SourceMongo:
			return 1
		}
		return 2
	}
	slices.SortStableFunc(p.Parts, func(a, b *Part) int {
		return cmp.Or(rank(a)-rank(b), cmp.Compare(a.Source.Bytes, b.Source.Bytes), cmp.Compare(a.Label, b.Label))
	})
}

// reach finds out how far the stored oplog leads beyond the dumps, where no time was asked for.
func (p *Plan) reach(ctx context.Context, r *repo.Repository) {
	for _, part := range p.Parts {
		if part.Kind != snapshot.SourceMongo || part.State == Skipped || !p.o.AtExactly.IsZero() || p.o.Snapshot != nil {
			continue
		}
		_, err := mongo.FindMoment(ctx, r, p.o.Instance, part.Label, snapshot.Timestamp{T: math.MaxUint32, I: math.MaxUint32})
		var e *mongo.UnreachableError
		if errors.As(err, &e) && e.Before.Compare(part.Source.Mongo.End) > 0 {
			p.Oplog = e.Before
		}
	}
}

// owners finds names that this machine does not know.
func (p *Plan) owners() {
	if p.o.Base.NumericIDs {
		return
	}
	for _, part := range p.Parts {
		if part.Kind == snapshot.SourceMongo || part.State == Skipped || part.Target.Kind != snapshot.TargetFolder {
			continue
		}
		users, groups := snapshot.UnknownOwners(part.Snapshot, p.o.Base.OwnerMap)
		p.Unknown.Users = append(p.Unknown.Users, users...)
		p.Unknown.Groups = append(p.Unknown.Groups, groups...)
	}
	for _, list := range []*[]string{&p.Unknown.Users, &p.Unknown.Groups} {
		slices.Sort(*list)
		*list = slices.Compact(*list)
	}
}

// Refused joins the reasons why the restore may not begin; nil: it may.
func (p *Plan) Refused() error {
	var all []error
	for _, part := range p.Parts {
		if part.Refused != nil {
			all = append(all, part.Refused)
		}
	}
	return errors.Join(all...)
}

// Left returns how many parts there are to restore.
func (p *Plan) Left() (n int) {
	for _, part := range p.Parts {
		if part.State == Planned || part.State == Begun {
			n++
		}
	}
	return n
}
