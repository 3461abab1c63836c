package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/whole-tale/wtsnap/snapshot"
)

// sourceDoc is one label of a snapshot.
type sourceDoc struct {
	Label  string    `json:"label"`
	Kind   string    `json:"kind"`
	Path   string    `json:"path"`
	Files  int64     `json:"files"`
	Dirs   int64     `json:"dirs"`
	Bytes  int64     `json:"bytes"`
	Errors int64     `json:"errors"`
	Mongo  *mongoDoc `json:"mongo,omitempty"`
}

func sourceDocs(sources []snapshot.Source) []sourceDoc {
	out := make([]sourceDoc, 0, len(sources))
	for _, s := range sources {
		out = append(out, sourceDoc{s.Label, string(s.Kind), s.Path, s.Files, s.Dirs, s.Bytes, s.Errors, newMongoDoc(s.Mongo)})
	}
	return out
}

// holdDoc says why and until when a snapshot is held.
type holdDoc struct {
	Reason string `json:"reason,omitempty"`
	Since  string `json:"since"`
	Until  string `json:"until,omitempty"`
}

type snapshotDoc struct {
	ID         string      `json:"id"`
	Instance   string      `json:"instance"`
	Time       string      `json:"time"`
	End        string      `json:"end"`
	Sources    []sourceDoc `json:"sources"`
	Tags       []string    `json:"tags"`
	Host       string      `json:"host"`
	Program    string      `json:"program"`
	Complete   bool        `json:"complete"`
	Checkpoint bool        `json:"checkpoint"`
	Parent     string      `json:"parent,omitempty"`
	Bytes      int64       `json:"bytes"`
	Files      int64       `json:"files"`
	Dirs       int64       `json:"dirs"`
	Errors     int64       `json:"errors"`
	Hold       *holdDoc    `json:"hold,omitempty"`
	// Anomalies are in what the snapshot is unlike those before it; AnomalyHolds: nobody has released it.
	Anomalies    []snapshot.Anomaly `json:"anomalies,omitempty"`
	AnomalyHolds bool               `json:"anomaly_holds,omitempty"`
}

func newSnapshotDoc(s *snapshot.Snapshot) snapshotDoc {
	d := snapshotDoc{ID: s.Ref.ID.String(), Instance: s.Instance, Time: utc(s.Time), End: utc(s.End), Sources: sourceDocs(s.Sources),
		Tags: append([]string{}, s.CurrentTags()...), Host: s.Host, Program: s.Program, Complete: s.Complete, Checkpoint: s.Checkpoint,
		Bytes: s.Bytes, Files: s.Files, Dirs: s.Dirs, Errors: s.Errors}
	if !s.Parent.IsZero() {
		d.Parent = s.Parent.String()
	}
	d.Anomalies, d.AnomalyHolds = s.Anomalies, len(s.Unreleased()) > 0
	if h := s.Hold(); h.Active(time.Now()) {
		d.Hold = &holdDoc{Reason: h.Reason, Since: utc(h.Since)}
		if !h.Until.IsZero() {
			d.Hold.Until = utc(h.Until)
		}
	}
	return d
}

func (a *app) snapshotsCommand() *cli.Command {
	return &cli.Command{
		Name: "snapshots", Usage: "list the snapshots", ArgsUsage: "[ID...]",
		Description: `Lists the snapshots, oldest first: all of them, those of --instance, or those whose ids begin with the digits given.

Examples:

  wtsnap snapshots
  wtsnap snapshots --instance web --tag release
  wtsnap snapshots --newest 1 --group-by host,labels
  wtsnap snapshots --label mongo --since 2026-11-01
  wtsnap snapshots --forgotten              those that wtsnap undelete can bring back`,
		Flags: []cli.Flag{
			atFlag(),
			&cli.GenericFlag{Name: "since", Value: newValue(parseSince), Usage: "only snapshots at or after `TIME`: \"2026-11-20 03:00\", 2026-11-20 (its beginning), \"2h ago\""},
			&cli.StringSliceFlag{Name: "tag", Usage: "only those with `TAG`; several times: with one of them"},
			&cli.StringSliceFlag{Name: "label", Usage: "only those that have the source called `LABEL`; several times: one of them"},
			&cli.StringSliceFlag{Name: "host", Usage: "only those of the host's `NAME`; several times: of one of them"},
			&cli.GenericFlag{Name: "newest", Value: newValue(parsePositive), Usage: "only the newest `N`, of each group or else of each instance"},
			&cli.GenericFlag{Name: "group-by", Value: newValue(snapshot.ParseGroupKeys), Usage: "list them in groups of the same `KEYS`: instance, host, labels, tags, day, month, year, or several with commas"},
			&cli.BoolFlag{Name: "forgotten", Usage: "list the forgotten ones that can still be brought back"},
		},
		Action: a.action(func(c *cli.Context) error {
			r, err := a.openRepo()
			if err != nil {
				return err
			}
			var snaps []*snapshot.Snapshot
			if c.Bool("forgotten") {
				refs, ferr := r.Forgotten(a.ctx)
				if ferr != nil {
					return fmt.Errorf("listing the forgotten snapshots: %w", ferr)
				}
				snaps, err = snapshot.Load(a.ctx, r, refs)
			} else {
				snaps, err = snapshot.List(a.ctx, r, snapshot.Filter{Instance: a.g.instance})
			}
			if err != nil {
				err = fmt.Errorf("listing the snapshots: %w", err)
				if len(snaps) == 0 {
					return err
				}
			}
			a.learn(snaps...)
			snapshot.SortSnapshots(snaps)
			if err := noSuchID(snaps, a.line.args); err != nil {
				return err
			}
			at, _ := get[time.Time](c, "at")
			all := slices.Clone(snaps)
			snaps = chooseSnapshots(snaps, a.g.instance, at, c.StringSlice("tag"), a.line.args)
			snaps = narrow(c, snaps)
			a.listSnapshots(c, snaps, all)
			return errors.Join(err, a.noteDamage("listing the snapshots"))
		}),
	}
}

// noSuchID is the error of ids that are typed and begin none.
func noSuchID(snaps []*snapshot.Snapshot, ids []string) error {
	for _, id := range ids {
		if !slices.ContainsFunc(snaps, func(s *snapshot.Snapshot) bool { return strings.HasPrefix(s.Ref.ID.String(), strings.ToLower(id)) }) {
			return &statusError{exitFailed, fmt.Sprintf("listing the snapshots: no id begins with %s", shown(id)), "wtsnap snapshots, which lists all", nil}
		}
	}
	return nil
}

// narrow leaves the snapshots that --since, --label and --host mean.
func narrow(c *cli.Context, snaps []*snapshot.Snapshot) []*snapshot.Snapshot {
	since, _ := get[time.Time](c, "since")
	hosts, labels := c.StringSlice("host"), c.StringSlice("label")
	return slices.DeleteFunc(snaps, func(s *snapshot.Snapshot) bool {
		return !since.IsZero() && s.Time.Before(since) ||
			len(hosts) > 0 && !slices.Contains(hosts, s.Host) ||
			len(labels) > 0 && !slices.ContainsFunc(s.Sources, func(src snapshot.Source) bool { return slices.Contains(labels, src.Label) })
	})
}

type groupDoc struct {
	By        map[snapshot.GroupKey]string `json:"by"`
	Snapshots []string                     `json:"snapshots"`
}

type snapshotsDoc struct {
	Snapshots []snapshotDoc `json:"snapshots"`
	Groups    *[]groupDoc   `json:"groups,omitempty"`
}

// listSnapshots prints snaps, which are some of all, in the groups that the flags say, and of each only so many.
func (a *app) listSnapshots(c *cli.Context, snaps, all []*snapshot.Snapshot) {
	keys, grouped := get[[]snapshot.GroupKey](c, "group-by")
	newest, few := get[int](c, "newest")
	groups := []snapshot.Group{{Snapshots: snaps}}
	if grouped {
		groups = snapshot.GroupBy(snaps, keys)
	} else if few {
		groups = snapshot.GroupBy(snaps, []snapshot.GroupKey{snapshot.ByInstance})
	}
	shownOnes := map[*snapshot.Snapshot]bool{}
	for i, g := range groups {
		if few {
			groups[i].Snapshots = g.Snapshots[max(0, len(g.Snapshots)-newest):]
		}
		for _, s := range groups[i].Snapshots {
			shownOnes[s] = true
		}
	}
	snaps = slices.DeleteFunc(slices.Clone(snaps), func(s *snapshot.Snapshot) bool { return !shownOnes[s] })
	doc := snapshotsDoc{Snapshots: make([]snapshotDoc, 0, len(snaps))}
	for _, s := range snaps {
		d := newSnapshotDoc(s)
		d.Sources = addRecoverable(d.Sources, s, all)
		doc.Snapshots = append(doc.Snapshots, d)
	}
	if !grouped {
		a.result(doc, func(w io.Writer) { printSnapshots(w, snaps, all) })
		return
	}
	doc.Groups = &[]groupDoc{}
	for _, g := range groups {
		d := groupDoc{map[snapshot.GroupKey]string{}, []string{}}
		for i, k := range keys {
			d.By[k] = g.Values[i]
		}
		for _, s := range g.Snapshots {
			d.Snapshots = append(d.Snapshots, s.Ref.ID.String())
		}
		*doc.Groups = append(*doc.Groups, d)
	}
	a.result(doc, func(w io.Writer) { printGroups(w, keys, groups, all) })
}

// printGroups prints a table for each group, below what its snapshots have in common.
func printGroups(w io.Writer, keys []snapshot.GroupKey, groups []snapshot.Group, all []*snapshot.Snapshot) {
	n := 0
	for _, g := range groups {
		var common []string
		for i, k := range keys {
			value := "(none)"
			if g.Values[i] != "" {
				value = shown(g.Values[i])
			}
			common = append(common, string(k)+" "+value)
		}
		fmt.Fprintf(w, "%s: %s\n", strings.Join(common, "; "), plural(len(g.Snapshots), "snapshot", "snapshots"))
		snapshotTable(g.Snapshots, all).write(w)
		fmt.Fprintln(w)
		n += len(g.Snapshots)
	}
	if n == 0 {
		fmt.Fprintln(w, "no snapshots")
		return
	}
	fmt.Fprintf(w, "%s in %s\n", plural(n, "snapshot", "snapshots"), plural(len(groups), "group", "groups"))
}

func chooseSnapshots(snaps []*snapshot.Snapshot, instance string, at time.Time, tags, ids []string) []*snapshot.Snapshot {
	return slices.DeleteFunc(snaps, func(s *snapshot.Snapshot) bool {
		return instance != "" && s.Instance != instance ||
			!at.IsZero() && s.Time.Truncate(time.Second).After(at) ||
			len(tags) > 0 && !slices.ContainsFunc(s.CurrentTags(), func(t string) bool { return slices.Contains(tags, t) }) ||
			len(ids) > 0 && !slices.ContainsFunc(ids, func(id string) bool { return strings.HasPrefix(s.Ref.ID.String(), strings.ToLower(id)) })
	})
}

// printSnapshots prints snaps, which are some of all.
func printSnapshots(w io.Writer, snaps, all []*snapshot.Snapshot) {
	if len(snaps) == 0 {
		fmt.Fprintln(w, "no snapshots")
		return
	}
	snapshotTable(snaps, all).write(w)
	fmt.Fprintf(w, "%s\n", plural(len(snaps), "snapshot", "snapshots"))
}

func snapshotTable(snaps, all []*snapshot.Snapshot) *table {
	t := newTable("ID", "TIME", "INSTANCE", "HOST", "FILES", "SIZE", "SOURCES", "").alignRight(4, 5)
	for _, s := range snaps {
		t.add(s.Ref.ID.Short(), when(s.Time), shown(s.Instance), shown(s.Host), number(s.Files), size(s.Bytes), labels(s), remarks(s, all))
	}
	return t
}

func labels(s *snapshot.Snapshot) string {
	var out []string
	for _, src := range s.Sources {
		out = append(out, shown(src.Label))
	}
	return strings.Join(out, ", ")
}

// anomalyText says in what a snapshot is unlike those before it.
func anomalyText(list []snapshot.Anomaly) string {
	var texts []string
	for i := range list {
		texts = append(texts, printable(list[i].String()))
	}
	return strings.Join(texts, "; ")
}

// remarks are what is particular about a snapshot, one of all.
func remarks(s *snapshot.Snapshot, all []*snapshot.Snapshot) string {
	var out []string
	switch {
	case s.Checkpoint:
		out = append(out, "checkpoint")
	case !s.Complete:
		out = append(out, "incomplete")
	}
	if text := oplogRemark(s, all); text != "" {
		out = append(out, text)
	}
	if s.Errors > 0 {
		out = append(out, plural(s.Errors, "problem", "problems"))
	}
	if a := s.Unreleased(); len(a) > 0 {
		out = append(out, "ANOMALY ("+anomalyText(a)+"): retention is held")
	}
	if h := s.Hold(); h.Active(time.Now()) {
		text := "held"
		if !h.Until.IsZero() {
			text += " until " + h.Until.Local().Format("2006-01-02")
		}
		out = append(out, text)
	}
	for _, tag := range s.CurrentTags() {
		out = append(out, "#"+shown(tag))
	}
	return strings.Join(out, ", ")
}
