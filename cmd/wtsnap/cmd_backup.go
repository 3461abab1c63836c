package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/snapshot"
	"github.com/whole-tale/wtsnap/snapshot/exclude"
)

func (a *app) backupCommand() *cli.Command {
	return &cli.Command{
		Name: "backup", Usage: "make a snapshot", ArgsUsage: "[[LABEL=]SOURCE...]",
		Description: `Saves the sources as one snapshot. Each becomes a folder of the snapshot, named by its label, which defaults to the base name of
the path. What is in the repository already is not stored again. Without sources, those of the configuration are saved.

  homes=/srv/homes     a folder, or a file
  old=tar:home.tgz     the entries of a tar archive (tar:- reads it from standard input)
  ledger=stdin:db.sql  standard input, as one file with that name
  mongo=mongodb://...  a MongoDB: all its collections, or those of the database that the address names

Examples:

  wtsnap backup /srv/homes system=/etc
  wtsnap backup homes=/srv/homes --exclude "*.tmp" --exclude-caches --tag nightly
  pg_dump app | wtsnap backup db=stdin:app.sql
  wtsnap backup /srv/homes --exclude-file excludes --dry-run
  wtsnap backup /srv/homes --exclude-file excludes --explain /srv/homes/alice/cache/x
  find /srv/homes -newer stamp -type f -print0 | wtsnap backup new=/srv/homes --files-from0 -
  wtsnap backup --upload-budget 20GiB --window 22:00-06:00    a long first backup, a part each night

With a budget or a window, databases come first, then streams, then the small files of all folders, the largest last. Where
one of them ends, what was saved is a checkpoint, and the next run goes on from there.

Exit codes: 0 all is saved; 3 it is, but for the entries that are named; 4 the budget is used up, or the window is over: a
checkpoint is left, and the next run goes on from there; 14 a source looks empty, or is not what it should be, and was left out,
or the snapshot is unlike those before it and holds retention; 130 interrupted: a checkpoint is left, and the next run goes on
from there.`,
		Flags: append([]cli.Flag{
			&cli.StringSliceFlag{Name: "exclude", Aliases: []string{"e"}, Usage: "leave out what matches `PATTERN` of .gitignore, relative to each source; may be repeated"},
			&cli.StringSliceFlag{Name: "exclude-file", Usage: "read such patterns from `FILE`, one a line"},
			&cli.BoolFlag{Name: "exclude-caches", Usage: "leave out the content of folders that hold a CACHEDIR.TAG"},
			&cli.StringSliceFlag{Name: "files-from", Usage: "save only the paths that `FILE` lists, one a line; - is standard input; may be repeated"},
			&cli.StringSliceFlag{Name: "files-from0", Usage: "the same, each path of `FILE` ended by a zero byte, as find -print0 and wtsnap find -0 write them"},
			sizeFlag("exclude-larger-than", "leave out files larger than `SIZE`"),
			&cli.BoolFlag{Name: "one-file-system", Aliases: []string{"x"}, Usage: "do not enter other file systems"},
			dryRunFlag("list what would be left out, with -v also what would be saved, and do nothing"),
			&cli.StringFlag{Name: "explain", Usage: "say why `PATH` would be in the snapshot or not, and do nothing"},
			&cli.StringSliceFlag{Name: "source", Usage: "of the configured sources, save only the one called `LABEL`; may be repeated"},
			&cli.StringSliceFlag{Name: "tag", Usage: "give the snapshot `TAG`; may be given several times"},
			&cli.StringSliceFlag{Name: "expect-mount", Usage: "refuse a source unless a file system is mounted at `[LABEL=]FOLDER`"},
			&cli.StringSliceFlag{Name: "sentinel", Usage: "refuse a source unless it has `[LABEL=]FILE`, relative to it"},
			&cli.BoolFlag{Name: "allow-shrink", Usage: "a source may have lost most of its files: it is meant to be so"},
			&cli.StringSliceFlag{Name: "anomaly-alarm", Usage: "on or off, `[LABEL=]HOW`: hold retention after a night that is unlike those before (default: on)"},
			&cli.BoolFlag{Name: "reread", Aliases: []string{"force"}, Usage: "read files again that look unchanged"},
			compressionFlag(),
			&cli.StringFlag{Name: "delta", Value: "auto", Usage: "store changed chunks as differences: `HOW` auto, cache (only to what the local cache holds) or off"},
			spanFlag("checkpoint-interval", "store a restorable checkpoint each `LONG` during a long backup (default: 5min; 0: only when interrupted)"),
			&cli.StringFlag{Name: "host", Usage: "the host's `NAME`, for people"},
			&cli.GenericFlag{Name: "time", Value: newValue(parseWhen), Usage: "date the snapshot at `TIME` instead of now"},
		}, append(mongoFlags(), windowFlags("store at most `SIZE` in this run, and leave a checkpoint")...)...),
		Action: a.action(a.backup),
	}
}

// Where --bwlimit leaves an uplink of so many bytes a second or less, so many packs at a time fill it; more would only each
// take longer, and an interruption would lose more of them.
const (
	slowUplink  = 1 << 20
	slowUploads = 2
)

// backupOptions reads the flags. Nothing of them is left to chance: what is wrong is said before anything is done.
func (a *app) backupOptions(c *cli.Context) (o snapshot.BackupOptions, err error) {
	for _, arg := range a.line.args {
		spec, err := snapshot.ParseSource(arg)
		if err != nil {
			return o, &usageError{text: err.Error(), hint: "wtsnap backup --help shows the kinds of sources"}
		}
		o.Sources = append(o.Sources, spec)
	}
	if only := c.StringSlice("source"); len(o.Sources) == 0 || len(only) > 0 {
		if len(o.Sources) > 0 {
			return o, usagef("leave one of them out", "--source chooses among the configured sources, and sources are given besides")
		}
		if o.Sources, err = a.configuredSources(only); err != nil {
			return o, err
		}
	}
	if len(o.Sources) == 0 {
		return o, usagef("wtsnap backup FOLDER", "there is no source to back up")
	}
	if err := snapshot.CheckSources(o.Sources); err != nil {
		return o, &usageError{text: err.Error()}
	}
	if err := a.mongoSources(c, o.Sources); err != nil {
		return o, err
	}
	if o.Exclude, err = excludeOptions(c); err != nil {
		return o, err
	}
	if err := a.filesFrom(c, o.Sources); err != nil {
		return o, err
	}
	if err := guards(c, o.Sources); err != nil {
		return o, err
	}
	o.Tags = c.StringSlice("tag")
	for _, tag := range o.Tags {
		if err := snapshot.CheckTag(tag); err != nil {
			return o, err
		}
	}
	switch c.String("delta") {
	case "auto":
	case "cache":
		o.Delta = repo.DeltaCache
	case "off":
		o.Delta = repo.DeltaOff
	default:
		return o, usagef("--delta auto, --delta cache or --delta off", "--delta %s: there is no such way", shown(c.String("delta")))
	}
	o.Instance, o.Stdin, o.Program = a.g.own, a.std.in, "wtsnap "+programVersion()
	o.AllowShrink, o.ReadAll, o.Memory = c.Bool("allow-shrink"), c.Bool("reread"), a.g.memory
	o.Level, _ = get[chunk.Level](c, "compression")
	o.Time, _ = get[time.Time](c, "time")
	if o.Time.IsZero() && a.clock != nil {
		o.Time = a.clock()
	}
	if span, ok := get[snapshot.Span](c, "checkpoint-interval"); ok {
		if o.CheckpointInterval = span.Duration(); o.CheckpointInterval == 0 {
			o.CheckpointInterval = -1
		}
	}
	if o.Host = c.String("host"); o.Host == "" {
		o.Host, _ = os.Hostname() // for people only
	}
	o.Uploads = a.uploads()
	if budget, ok := get[int64](c, "upload-budget"); ok {
		if o.UploadBudget = budget; budget <= 0 {
			return o, usagef("--upload-budget 20GiB", "--upload-budget %s leaves nothing to store", c.String("upload-budget"))
		}
	}
	return o, nil
}

func excludeOptions(c *cli.Context) (o snapshot.ExcludeOptions, err error) {
	if o.Patterns, err = patternsOf(c.StringSlice("exclude-file"), c.StringSlice("exclude"), "--exclude"); err != nil {
		return o, usagef("", "%v", err)
	}
	if _, err := exclude.Compile(o.Patterns); err != nil {
		return o, err
	}
	o.Caches, o.OneFileSystem = c.Bool("exclude-caches"), c.Bool("one-file-system")
	if n, ok := get[int64](c, "exclude-larger-than"); ok {
		o.MaxSize = exclude.SizeLimit{Bytes: n, Origin: "--exclude-larger-than"}
	}
	return o, nil
}

// guards sets what --expect-mount, --sentinel and --anomaly-alarm ask of the sources.
func guards(c *cli.Context, sources []snapshot.SourceSpec) error {
	for _, flag := range []struct {
		name string
		set  func(*snapshot.Guard, string)
	}{
		{"expect-mount", func(g *snapshot.Guard, v string) { g.MountPoint = v }},
		{"sentinel", func(g *snapshot.Guard, v string) { g.Sentinel = v }},
		{"anomaly-alarm", func(g *snapshot.Guard, v string) { g.Calm = v == "off" }},
	} {
		for _, text := range c.StringSlice(flag.name) {
			label, v, ok := strings.Cut(text, "=")
			if !ok || strings.Contains(label, "/") {
				label, v = "", text
			}
			if v == "" {
				return usagef("", "--%s %s names nothing", flag.name, shown(text))
			}
			if flag.name == "anomaly-alarm" && v != "on" && v != "off" {
				return usagef("", "--%s %s: it is either on or off", flag.name, shown(text))
			}
			found := false
			for i := range sources {
				if label == "" || sources[i].Label == label {
					flag.set(&sources[i].Guard, v)
					found = true
				}
			}
			if !found {
				return usagef("", "--%s %s: no source has the label %s", flag.name, shown(text), shown(label))
			}
		}
	}
	return nil
}

type backupDoc struct {
	Snapshot   string              `json:"snapshot,omitempty"`
	Instance   string              `json:"instance"`
	Time       string              `json:"time,omitempty"`
	Sources    []sourceDoc         `json:"sources"`
	Complete   bool                `json:"complete"`
	Checkpoint bool                `json:"checkpoint"`
	Parent     string              `json:"parent,omitempty"`
	Tags       []string            `json:"tags"`
	Files      snapshot.FileCounts `json:"files"`
	Bytes      snapshot.ByteCounts `json:"bytes"`
	Blobs      snapshot.BlobCounts `json:"blobs"`
	Requests   map[string]int64    `json:"requests"`
	Seconds    float64             `json:"seconds"`
	Problems   int64               `json:"problems"`
	Errors     []jsonProblem       `json:"errors"`
	Stopped    *stoppedDoc         `json:"stopped,omitempty"`
	Anomalies  []snapshot.Anomaly  `json:"anomalies,omitempty"`
}

// stoppedDoc says why a run was ended, and what is left to do.
type stoppedDoc struct {
	Reason     string                `json:"reason"`
	Budget     int64                 `json:"budget,omitempty"`
	Until      string                `json:"until,omitempty"`
	Unfinished []snapshot.Unfinished `json:"unfinished"`
	Left       *snapshot.Remainder   `json:"left,omitempty"`
}

func (a *app) backup(c *cli.Context) error {
	start := time.Now()
	if c.String("explain") == "" && !c.Bool("dry-run") {
		if err := a.g.needInstance("backup"); err != nil {
			return err
		}
	}
	o, err := a.backupOptions(c)
	if err != nil {
		return err
	}
	if path := c.String("explain"); path != "" {
		return a.explain(o, path)
	}
	if c.Bool("dry-run") {
		return a.previewBackup(o)
	}
	if o.Until, err = a.window(c); err != nil {
		return err
	}
	r, err := a.openRepo()
	if err != nil {
		return err
	}
	var p snapshot.Progress
	o.Progress, o.Monitor = &p, &monitor{a: a}
	o.Estimate = a.g.progress == "json" || a.g.progress == "bar" || a.g.progress == "auto" && !a.g.quiet && isTerminal(a.std.err)
	shows := a.startProgress("backing up", &p)
	enough := a.watchRoom(&p)
	rep, err := snapshot.Backup(a.ctx, r, o)
	enough()
	a.endProgress(shows)
	if rep != nil {
		if rep.Snapshot != nil { // else the error says it all
			a.printProblems(rep.Errors, rep.Problems)
			a.learn(rep.Snapshot)
		}
		doc := newBackupDoc(o, rep, a.requests(), time.Since(start))
		text := func(w io.Writer) { printBackup(w, rep, doc) }
		if rep.Snapshot == nil {
			text = nil
		}
		a.done(doc, text)
	}
	if r.DeletesDenied() {
		a.note("this machine may not remove anything here: a prune on one that may removes what this run has left")
	}
	err = interruption(a.ctx, backupStatus(rep, err), "backing up: interrupted before there was anything to make a checkpoint of",
		"run the same command again: what was uploaded is not uploaded again")
	if err != nil {
		if is[*statusError](err) {
			return err
		}
		return fmt.Errorf("backing up: %w", err)
	}
	return nil
}

func (a *app) explain(o snapshot.BackupOptions, path string) error {
	text, err := snapshot.Explain(o.Sources, o.Exclude, path)
	if err != nil {
		return fmt.Errorf("explaining %s: %w", shown(path), err)
	}
	a.result(map[string]string{"path": nameOf(path).Path, "explanation": text}, func(w io.Writer) { fmt.Fprintln(w, printable(text)) })
	return nil
}

func newBackupDoc(o snapshot.BackupOptions, rep *snapshot.BackupReport, requests map[string]int64, took time.Duration) backupDoc {
	d := backupDoc{Instance: o.Instance, Sources: sourceDocs(rep.Sources), Tags: append([]string{}, o.Tags...), Files: rep.Files, Bytes: rep.Bytes,
		Blobs: rep.Blobs, Requests: requests, Seconds: took.Seconds(), Problems: rep.Problems, Errors: jsonProblems(rep.Errors)}
	if s := rep.Snapshot; s != nil {
		d.Snapshot, d.Time, d.Complete, d.Checkpoint = s.Ref.ID.String(), utc(s.Time), s.Complete, s.Checkpoint
		d.Anomalies = s.Anomalies
		if !s.Parent.IsZero() {
			d.Parent = s.Parent.String()
		}
	}
	if e := rep.Stopped; e != nil {
		d.Stopped = &stoppedDoc{Reason: e.Reason, Budget: e.Budget, Unfinished: append([]snapshot.Unfinished{}, rep.Unfinished...), Left: rep.Left}
		if !e.Until.IsZero() {
			d.Stopped.Until = utc(e.Until)
		}
	}
	return d
}

func printBackup(w io.Writer, rep *snapshot.BackupReport, d backupDoc) {
	s := rep.Snapshot
	what := "snapshot"
	switch {
	case s.Checkpoint:
		what = "checkpoint"
	case !s.Complete:
		what = "incomplete snapshot"
	}
	fmt.Fprintf(w, "%s %s of %s, %s\n", what, s.Ref.ID.Short(), shown(s.Instance), when(s.Time))
	row := func(name, text string) { fmt.Fprintf(w, "  %-9s %s\n", name, text) }
	for _, src := range rep.Sources {
		row(shown(src.Label), plural(src.Files, "file", "files")+", "+size(src.Bytes))
		if src.Mongo != nil {
			row("", mongoSummary(src.Mongo))
		}
	}
	files := fmt.Sprintf("%s new, %s changed, %s unchanged", number(rep.Files.New), number(rep.Files.Changed), number(rep.Files.Unchanged))
	if !s.Checkpoint { // which cannot know
		files += ", " + number(rep.Files.Removed) + " removed"
	}
	row("files", files)
	row("bytes", fmt.Sprintf("%s read, %s new, %s uploaded", size(rep.Bytes.Read), size(rep.Bytes.StoredNew), size(rep.Bytes.Uploaded)))
	for _, u := range rep.Unfinished {
		text := "not begun"
		if u.State == "unfinished" {
			text = "not finished"
			if u.Later > 0 {
				text += "; large files, " + plural(u.Later, "file", "files") + " of " + size(u.Bytes) + ", come last"
			}
		}
		row("missing", shown(u.Label)+": "+text)
	}
	if l := rep.Left; l != nil {
		row("left", "about "+plural(l.Files, "file", "files")+", "+size(l.Bytes)+" as they are")
	}
	row("took", fmt.Sprintf("%s, %s", took(seconds(d.Seconds)), plural(sumRequests(d.Requests), "call of the storage", "calls of the storage")))
}
