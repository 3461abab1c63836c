package main

import (
	"bufio"
	"cmp"
	"crypto/sha256"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/snapshot"
	"github.com/whole-tale/wtsnap/snapshot/localfs"
)

func (a *app) findCommand() *cli.Command {
	return &cli.Command{
		Name: "find", Usage: "find files in all snapshots", ArgsUsage: "PATTERN...",
		Description: `Looks for names in every snapshot, and lists each version of what it finds with the snapshots that hold it. Patterns are those
of .gitignore: *.csv matches names, homes/*/notes.txt paths from the label on, ** any number of folders.

Examples:

  wtsnap find notes.txt
  wtsnap find -i "*.IPYNB" --newer 2026-11-01
  wtsnap find "homes/alice/**/data.csv" --snapshot latest`,
		Flags: []cli.Flag{
			&cli.StringSliceFlag{Name: "snapshot", Aliases: []string{"s"}, Usage: "look only in `SNAPSHOT[:PATH]`; may be given several times"},
			&cli.BoolFlag{Name: "ignore-case", Aliases: []string{"i"}, Usage: "take upper and lower case for the same"},
			&cli.StringSliceFlag{Name: "type", Usage: "only entries of `TYPE` file, folder, symlink, fifo, socket, block_device or char_device"},
			sizeFlag("min-size", "only files of at least `SIZE`"),
			sizeFlag("max-size", "only files of at most `SIZE`"),
			&cli.GenericFlag{Name: "newer", Value: newValue(parseWhen), Usage: "only what was modified at `TIME` or later"},
			&cli.GenericFlag{Name: "older", Value: newValue(parseWhen), Usage: "only what was modified before `TIME`"},
			nullFlag(), atFlag(), incompleteFlag(),
		},
		Action: a.action(a.find),
	}
}

// A found is one version of an entry, and where it was found.
type found struct {
	path  string
	node  *snapshot.Node
	snaps []*snapshot.Snapshot // newest first
}

// versionKey tells versions of an entry apart.
type versionKey struct {
	path string
	sum  [32]byte
}

func keyOf(path string, n *snapshot.Node) versionKey {
	h := sha256.New()
	fmt.Fprintln(h, n.Type, n.Size, n.MTime, n.Target, n.ContentRoot)
	for _, p := range n.Content {
		h.Write(p.ID[:])
	}
	if n.IsDir() {
		h.Reset() // a folder is the same as long as it is one
	}
	return versionKey{path, [32]byte(h.Sum(nil))}
}

type foundDoc struct {
	nodeDoc
	Snapshots []string `json:"snapshots"` // newest first
}

func (a *app) find(c *cli.Context) error {
	q, err := a.query(c)
	if err != nil {
		return err
	}
	r, err := a.openRepo()
	if err != nil {
		return err
	}
	searches, err := a.searches(c, r)
	if err != nil {
		return err
	}
	if err := r.LoadIndex(a.ctx); err != nil {
		return fmt.Errorf("loading the index: %w", err)
	}
	versions := map[versionKey]*found{}
	var damaged error
	for _, s := range searches {
		q.Path = s.path
		err := snapshot.Find(a.ctx, r, s.snaps, q, func(s *snapshot.Snapshot, path string, n *snapshot.Node, err error) error {
			if err != nil {
				damaged = fmt.Errorf("snapshot %s: %s: %w", s.Ref.ID.Short(), shown(path), err)
				a.say("wtsnap: " + message(damaged))
				return nil
			}
			key := keyOf(path, n)
			if versions[key] == nil {
				versions[key] = &found{path: path, node: n}
			}
			if v := versions[key]; len(v.snaps) == 0 || v.snaps[len(v.snaps)-1] != s {
				v.snaps = append(v.snaps, s)
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("searching: %w", err)
		}
	}
	list := make([]*found, 0, len(versions))
	for _, f := range versions {
		list = append(list, f)
	}
	slices.SortFunc(list, func(a, b *found) int {
		return cmp.Or(strings.Compare(a.path, b.path), b.snaps[0].Time.Compare(a.snaps[0].Time), cmp.Compare(b.node.MTime, a.node.MTime))
	})
	a.printFound(list, c.Bool("null"))
	return damaged
}

func (a *app) query(c *cli.Context) (q snapshot.Query, err error) {
	q.IgnoreCase = c.Bool("ignore-case")
	q.MinSize, _ = get[int64](c, "min-size")
	q.MaxSize, _ = get[int64](c, "max-size")
	q.NewerThan, _ = get[time.Time](c, "newer")
	q.OlderThan, _ = get[time.Time](c, "older")
	for _, name := range c.StringSlice("type") {
		t := localfs.TypeUnknown
		for known := localfs.TypeFile; known <= localfs.TypeSocket; known++ {
			if typeName(known) == name {
				t = known
			}
		}
		if t == localfs.TypeUnknown {
			return q, usagef("--type file, folder, symlink, fifo, socket, block_device or char_device", "there is no type %s", shown(name))
		}
		q.Types = append(q.Types, t)
	}
	least := 1
	if len(q.Types) > 0 || q.MinSize > 0 || q.MaxSize > 0 || !q.NewerThan.IsZero() || !q.OlderThan.IsZero() {
		least = 0
	}
	q.Patterns, err = a.arguments(least, -1, "the pattern")
	return q, err
}

// A search is some snapshots and where to look in them.
type search struct {
	snaps []*snapshot.Snapshot
	path  string
}

// searches are the snapshots that --snapshot names, or all of the instance, newest first.
func (a *app) searches(c *cli.Context, r *repo.Repository) ([]search, error) {
	sel := a.g.selector(c)
	var out []search
	for _, spec := range c.StringSlice("snapshot") {
		s, path, err := a.resolve(r, spec, sel)
		if err != nil {
			return nil, err
		}
		out = append(out, search{[]*snapshot.Snapshot{s}, path})
	}
	if len(out) > 0 {
		return out, nil
	}
	snaps, err := snapshot.List(a.ctx, r, snapshot.Filter{Instance: a.g.instance})
	if err != nil {
		return nil, fmt.Errorf("listing the snapshots: %w", err)
	}
	snapshot.SortSnapshots(snaps)
	snaps = chooseSnapshots(snaps, "", sel.At, nil, nil)
	slices.Reverse(snaps)
	return []search{{snaps, ""}}, nil
}

func (a *app) printFound(list []*found, null bool) {
	docs := make([]foundDoc, 0, len(list))
	if a.g.json {
		for _, f := range list {
			d := foundDoc{nodeDoc: newNodeDoc(f.snaps[0], f.path, f.node)}
			for _, s := range f.snaps {
				d.Snapshots = append(d.Snapshots, s.Ref.ID.String())
			}
			docs = append(docs, d)
		}
	}
	a.result(map[string][]foundDoc{"matches": docs}, func(w io.Writer) {
		out := bufio.NewWriter(w)
		defer out.Flush()
		if null {
			last := ""
			for _, f := range list {
				if f.path != last {
					fmt.Fprintf(out, "%s\x00", f.path)
				}
				last = f.path
			}
			return
		}
		if len(list) == 0 {
			fmt.Fprintln(out, "nothing found")
			return
		}
		t := newTable("MODIFIED", "SIZE", "PATH", "IN").alignRight(1)
		for _, f := range list {
			name := shown(f.path)
			if f.node.IsDir() {
				name += "/"
			}
			t.add(time.Unix(0, f.node.MTime).Format("2006-01-02 15:04:05"), size(f.node.Size), name, inSnapshots(f.snaps))
		}
		t.write(out)
	})
}

// inSnapshots names the snapshots that hold a version: the newest and the oldest.
func inSnapshots(snaps []*snapshot.Snapshot) string {
	first := snaps[0].Ref.ID.Short() + " of " + snaps[0].Time.Local().Format("2006-01-02 15:04")
	switch n := len(snaps); n {
	case 1:
		return first
	case 2:
		return first + " and " + snaps[1].Ref.ID.Short()
	default:
		return fmt.Sprintf("%s and %d older, to %s of %s", first, n-1, snaps[n-1].Ref.ID.Short(), snaps[n-1].Time.Local().Format("2006-01-02 15:04"))
	}
}
