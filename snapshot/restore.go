package snapshot

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/snapshot/exclude"
	"github.com/whole-tale/wtsnap/snapshot/localfs"
)

// RestoreOptions are the options of Restore. Snapshot and Target are required.
type RestoreOptions struct {
	Snapshot *Snapshot
	Path     string // in the snapshot: a folder, whose entries go directly into the target, or a single entry; "" = all
	Target   TargetSpec

	DryRun     bool // change nothing; count and list
	Verify     bool // hash what is there although size and time say that it is right, and hash all that was written
	Delete     bool // remove what the target has and the snapshot has not, below the restored folders
	Yes        bool // the user has seen what Delete will do, or does not want to
	NumericIDs bool // owners by number; otherwise by name, where this machine knows the name
	Sparse     bool // make holes of long runs of zeros that were no holes in the source

	Include  []exclude.Pattern // restore only what one of these matches, and what is below it; none = all
	Exclude  []exclude.Pattern // leave these out; patterns are relative to Path
	OwnerMap *OwnerMap         // nil = no rules

	// OwnInstance is the instance that this machine is configured as, "" where it is none. A snapshot of another one is
	// restored over a folder that is not empty only where Into names OwnInstance.
	OwnInstance string
	Into        string

	// Memory bounds what the restore itself holds, in bytes; 0 means 128 MiB. See the type restore.
	Memory int64
	// Workers is how many ranges are fetched at a time; 0 means as many as Memory has room for, up to 8.
	Workers int

	Stdout   io.Writer     // for the targets that write to standard output
	Foreign  ForeignTarget // for targets of other packages: mongodb://, mongodump:
	Monitor  Monitor       // may be nil
	Progress *Progress     // may be nil
	// OnAction is told of each change, about when it is made; with DryRun, of each that would be. It may be called
	// concurrently, and may be nil.
	OnAction func(a Action)
}

// A ForeignTarget restores to the kinds of targets that this package does not write to itself.
type ForeignTarget interface {
	// RestoreTo does what Restore would do for o.Target. node is what o.Path leads to. An *UnsupportedTargetError says
	// that the kind of target is unknown here, too.
	RestoreTo(ctx context.Context, r *repo.Repository, o RestoreOptions, node *Node) (*RestoreReport, error)
}

// An Op says what happens to an entry of the target.
type Op string

const (
	OpCreate   Op = "create"
	OpUpdate   Op = "update"   // a file's content differs in part
	OpReplace  Op = "replace"  // an entry of another type, or another link, is in its place
	OpMetadata Op = "metadata" // only owner, mode, times or attributes differ
	OpDelete   Op = "delete"
)

// An Action is one change of the target.
type Action struct {
	Op    Op           `json:"op"`
	Path  string       `json:"path"` // relative to the target
	Type  localfs.Type `json:"-"`    // of the entry that there will be; for OpDelete, that there is
	Bytes int64        `json:"bytes"`
}

// RestoredFiles counts regular files.
type RestoredFiles struct {
	New       int64 `json:"new"`
	Updated   int64 `json:"updated"`   // were there with other content
	Unchanged int64 `json:"unchanged"` // content was right; metadata may have been corrected
	Failed    int64 `json:"failed"`
	Verified  int64 `json:"verified"`
}

// RestoredBytes counts bytes.
type RestoredBytes struct {
	Total      int64 `json:"total"`      // content of the selected files, holes included
	Written    int64 `json:"written"`    // to the target
	Downloaded int64 `json:"downloaded"` // of packs of data, as stored
	Skipped    int64 `json:"skipped"`    // were at the target already
	Holes      int64 `json:"holes"`      // neither written nor there
}

// Documents counts what a restore into a MongoDB did.
type Documents struct {
	Inserted    int64 `json:"inserted"`
	Equal       int64 `json:"equal"`       // were there already
	Differ      int64 `json:"differ"`      // were there with other content, and stay so
	Overwritten int64 `json:"overwritten"` // were there with other content
	Failed      int64 `json:"failed"`
}

// A RestoredCollection says what became of a collection of a dump.
type RestoredCollection struct {
	From      string    `json:"from"`      // DB.COLLECTION in the snapshot
	Namespace string    `json:"namespace"` // in the target
	Dropped   bool      `json:"dropped"`   // what was there before
	Documents Documents `json:"documents"`
}

// A RestoredUpdate says what became of an update that was to be made after the documents.
type RestoredUpdate struct {
	Name      string `json:"name,omitempty"`
	Namespace string `json:"namespace"`
	Filter    string `json:"filter"` // as they are written, without the secrets that were filled in
	Update    string `json:"update"`
	Expected  string `json:"expected"` // how many documents
	Matched   int64  `json:"matched"`  // that the filter means; in a dry run, would mean
	Changed   int64  `json:"changed"`  // that were not as the update makes them
	Inserted  int64  `json:"inserted"` // because there was none
	Done      bool   `json:"done"`     // never in a dry run
	Failed    bool   `json:"failed"`   // the number is not the expected one, or the server refused it
}

// A Lack says of how many entries something could not be restored for lack of privilege, or because the target cannot
// hold it.
type Lack struct {
	What  string `json:"what"`
	Count int64  `json:"count"`
}

// RestoreReport says what a restore did, or, of a dry run, would have done.
type RestoreReport struct {
	Path      string        `json:"path"`
	Target    string        `json:"target"`
	DryRun    bool          `json:"dry_run"`
	Files     RestoredFiles `json:"files"`
	Folders   int64         `json:"folders"` // made or corrected, and found as they should be
	Symlinks  int64         `json:"symlinks"`
	HardLinks int64         `json:"hard_links"` // further names of files
	Specials  int64         `json:"specials"`   // devices, FIFOs, sockets
	Metadata  int64         `json:"metadata"`   // entries of which only metadata were corrected
	Replaced  int64         `json:"replaced"`   // entries that were of another type, or other links
	Bytes     RestoredBytes `json:"bytes"`
	Documents *Documents    `json:"documents,omitempty"`
	// Collections are those of a dump that were restored into a MongoDB, without views.
	Collections []RestoredCollection `json:"collections,omitempty"`
	Existing    int64                `json:"-"` // of them, how many were there and not empty before
	// Updates are those that were made after the documents, in their order.
	Updates  []RestoredUpdate `json:"updates,omitempty"`
	Delete   *DeletePlan      `json:"delete,omitempty"`
	Lacks    []Lack           `json:"lacks,omitempty"` // said once a kind, not once a file
	Problems int64            `json:"problems"`        // entries that are not, or not quite, what the snapshot holds
	Damaged  int64            `json:"damaged"`         // those of them for which stored data are missing or damaged
	Errors   []PathError      `json:"errors"`          // the first of the problems
	Seconds  float64          `json:"seconds"`
}

// maxRestoreErrors bounds the problems that a report lists; all are counted, and told to the monitor.
const maxRestoreErrors = 1000

// DiskFullError ends a restore: the target's file system, or the user's quota, is full.
type DiskFullError struct {
	Path string
	Err  error
}

func (e *DiskFullError) Error() string {
	return fmt.Sprintf("restore: writing %q: %v; what was written stays: make room and run the same command again, which fetches only what is missing",
		e.Path, e.Err)
}

func (e *DiskFullError) Unwrap() error { return e.Err }

// Restore brings what o.Path leads to back to o.Target. Trouble with one entry is reported and does not end it; the
// backend failing, the target being full, and ctx do. The report comes with an error, too, as far as it got. The caller
// has opened r; the index is loaded here if it is not yet.
//
// To a folder: only what differs is written, and mtimes are set last, so that a restore that ended early, for whatever
// reason, is completed by running it again. No symbolic link in the target is followed.
func Restore(ctx context.Context, r *repo.Repository, o RestoreOptions) (*RestoreReport, error) {
	start := time.Now()
	if o.Monitor == nil {
		o.Monitor = quiet{}
	}
	if o.Progress == nil {
		o.Progress = &Progress{}
	}
	clean, err := CleanPath(o.Path)
	if err != nil {
		return nil, err
	}
	o.Path = clean
	s, err := newSelection(o.Include, o.Exclude)
	if err != nil {
		return nil, err
	}
	if r.Index().Len() == 0 {
		if err := r.LoadIndex(ctx); err != nil {
			return nil, err
		}
	}
	node, err := Lookup(ctx, r, o.Snapshot, o.Path)
	if err != nil {
		return nil, fmt.Errorf("restore: %w", err)
	}
	if s.include == nil && s.exclude == nil { // else nobody knows yet
		o.Progress.TotalBytes.Store(node.Size)
		if o.Path == "" {
			o.Progress.TotalFiles.Store(o.Snapshot.Files)
		}
	}
	rs := newRestore(r, o, s)
	switch o.Target.Kind {
	case TargetFolder:
		err = rs.toFolder(ctx, node)
	case TargetTar, TargetZip:
		err = rs.toArchive(ctx, node)
	default:
		if o.Foreign == nil {
			return nil, &UnsupportedTargetError{o.Target}
		}
		return o.Foreign.RestoreTo(ctx, r, o, node)
	}
	rep := rs.report()
	rep.Seconds = time.Since(start).Seconds()
	return rep, err
}

// restore is one call of Restore.
//
// Memory, beside the index and the frames of trees that the repository keeps (16 MiB): the plan of one window, and for
// each of the workers a range of a pack, a frame and its bases; for each CPU one blob that is compared; and what must
// stay until the end:
//
//	plan + workers * 7 MiB + CPUs * 1 MiB + (150 B + path) for each file with several links of which not all were seen
//
// That is what is alive; how much garbage Go's collector lets pass beside it is the program's setting (GOGC, GOMEMLIMIT).
// Memory limits the first two: a quarter to the plan, at least 1 MiB, and a half to the workers, at least one. The plan
// is a window of the tree, in tree order: planCost bytes an entry and partCost bytes a part, whatever the number of
// files. A window's data are read in the order in which they lie in the repository; that is the tree's order, mostly, so
// that neighbouring windows have few frames in common.
type restore struct {
	r      *repo.Repository
	o      RestoreOptions
	load   LoadFunc
	sel    *selection
	bound  *Bound
	owners *owners
	prefix string // snapshot path of what the target's paths are relative to

	planBytes int64
	workers   int

	root  *localfs.Root // nil where the target does not exist in a dry run
	links map[inode]*linkGroup
	seed  maphash.Seed // of fingerprints
	files filePool

	n struct {
		newFiles, updated, unchanged, failed, verified     atomic.Int64
		folders, symlinks, hardLinks, specials             atomic.Int64
		metadata, replaced                                 atomic.Int64
		total, written, downloaded, skipped, holes, damage atomic.Int64
	}
	mu    sync.Mutex // guards what follows
	rep   RestoreReport
	lacks map[string]int64
}

// newRestore prepares a call. o's defaults are set.
func newRestore(r *repo.Repository, o RestoreOptions, sel *selection) *restore {
	rs := &restore{r: r, o: o, bound: o.Snapshot.Bound(), load: TreeLoader(r), sel: sel, links: map[inode]*linkGroup{}, seed: maphash.MakeSeed(),
		owners: newOwners(o.OwnerMap, o.Snapshot.Owners.Users, o.Snapshot.Owners.Groups, o.NumericIDs, systemAccounts())}
	rs.rep = RestoreReport{Path: o.Path, Target: o.Target.String(), DryRun: o.DryRun}
	rs.budget(o.Memory, o.Workers)
	return rs
}

const (
	defaultMemory = 128 << 20
	workerCost    = 14 << 20 // a window of a pack, and the deltas on it after a month of nights
	maxWorkers    = 8
	planCost      = 640 // a Node with its strings, a file's state
	partCost      = 24 + 32 + 16
)

// budget divides the memory.
func (rs *restore) budget(memory int64, workers int) {
	if memory <= 0 {
		memory = defaultMemory
	}
	rs.planBytes = max(memory/4, 1<<20)
	most := int(min(max(memory/2/workerCost, 1), maxWorkers))
	if workers <= 0 {
		workers = maxWorkers
	}
	rs.workers = min(workers, max(most, 1))
	rs.files.max = 128
}

// cpus is how many goroutines do work that is not waiting for the backend.
func cpus() int { return max(runtime.GOMAXPROCS(0), 1) }

// problem reports trouble with the entry at a path relative to the target.
func (rs *restore) problem(rel string, err error) {
	full := joinPath(rs.prefix, rel)
	var damage *repo.DamageError
	rs.mu.Lock()
	rs.rep.Problems++
	if errors.As(err, &damage) {
		rs.rep.Damaged++
	}
	if len(rs.rep.Errors) < maxRestoreErrors {
		rs.rep.Errors = append(rs.rep.Errors, PathError{full, err.Error()})
	}
	rs.mu.Unlock()
	rs.o.Progress.Problems.Add(1)
	rs.o.Monitor.Problem(full, err)
}

// lack counts what could not be restored and is said once a kind.
func (rs *restore) lack(what string) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if rs.lacks == nil {
		rs.lacks = map[string]int64{}
	}
	rs.lacks[what]++
}

// applied sorts the outcome of applying metadata to the entry at rel, and reports whether nothing failed.
func (rs *restore) applied(rel string, err error) bool {
	skipped, rest := localfs.SplitPrivilege(err)
	for bit := localfs.Skipped(1); bit != 0 && bit <= skipped; bit <<= 1 {
		if skipped&bit != 0 {
			rs.lack(bit.String())
		}
	}
	if rest != nil {
		rs.problem(rel, rest)
	}
	return rest == nil
}

func (rs *restore) act(op Op, rel string, t localfs.Type, bytes int64) {
	if rs.o.OnAction != nil {
		rs.o.OnAction(Action{op, rel, t, bytes})
	}
}

// report gathers the counters.
func (rs *restore) report() *RestoreReport {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	rep, n := rs.rep, &rs.n
	rep.Files = RestoredFiles{n.newFiles.Load(), n.updated.Load(), n.unchanged.Load(), n.failed.Load(), n.verified.Load()}
	rep.Folders, rep.Symlinks, rep.HardLinks, rep.Specials = n.folders.Load(), n.symlinks.Load(), n.hardLinks.Load(), n.specials.Load()
	rep.Metadata, rep.Replaced = n.metadata.Load(), n.replaced.Load()
	rep.Bytes = RestoredBytes{n.total.Load(), n.written.Load(), n.downloaded.Load(), n.skipped.Load(), n.holes.Load()}
	for what, count := range rs.lacks {
		rep.Lacks = append(rep.Lacks, Lack{what, count})
	}
	slices.SortFunc(rep.Lacks, func(a, b Lack) int { return int(b.Count - a.Count) })
	return &rep
}

// endsRun turns an error of the target that every further entry would meet into the error that ends the restore, and
// others into nil.
func endsRun(rel string, err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return &DiskFullError{rel, err}
	}
	if errors.Is(err, syscall.EROFS) {
		return fmt.Errorf("restore: writing %q: %w; mount the target for writing", rel, err)
	}
	return nil
}

// selection is what Include and Exclude choose.
type selection struct {
	include *exclude.Matcher // nil: everything
	exclude *exclude.Matcher
}

func newSelection(include, exclud []exclude.Pattern) (*selection, error) {
	var s selection
	var err error
	if len(include) > 0 {
		if s.include, err = exclude.Compile(include); err != nil {
			return nil, err
		}
	}
	if len(exclud) > 0 {
		if s.exclude, err = exclude.Compile(exclud); err != nil {
			return nil, err
		}
	}
	return &s, nil
}

// included reports whether an include pattern chooses the entry; inside says that one chose a folder above it, so that
// only a negated pattern leaves it out.
func (s *selection) included(rel string, isDir, inside bool) bool {
	if s.include == nil {
		return true
	}
	d := s.include.Match(rel, isDir)
	return d.Excluded || inside && d.Rule == nil
}

func (s *selection) excluded(rel string, isDir bool) bool {
	return s.exclude != nil && s.exclude.Match(rel, isDir).Excluded
}

// parallel calls fn for 0 to n-1, in spans of neighbours, on all CPUs, until one fails or ctx ends.
func parallel(ctx context.Context, n int, fn func(i int) error) error {
	return parallelWith(ctx, n, 64, func() struct{} { return struct{}{} }, nil, func(_ struct{}, i int) error { return fn(i) })
}

// parallelWith is parallel with something that each goroutine has for itself: made by begin, and handed to end, which
// may be nil, when its work is over.
func parallelWith[S any](ctx context.Context, n, span int, begin func() S, end func(S), fn func(own S, i int) error) error {
	var next atomic.Int64
	var once sync.Once
	var first error
	var wg sync.WaitGroup
	work := func() {
		own := begin()
		if end != nil {
			defer end(own)
		}
		for {
			from := int(next.Add(int64(span))) - span
			if from >= n {
				return
			}
			for i := from; i < min(from+span, n); i++ {
				err := ctx.Err()
				if err == nil {
					err = fn(own, i)
				}
				if err != nil {
					once.Do(func() { first = err })
					next.Store(int64(n))
					return
				}
			}
		}
	}
	for range min(cpus(), (n+span-1)/span) - 1 {
		wg.Go(work)
	}
	work()
	wg.Wait()
	return first
}

// parentPath is the path of the folder that holds the entry at path; "" is the root.
func parentPath(path string) string {
	return path[:max(strings.LastIndexByte(path, '/'), 0)]
}
