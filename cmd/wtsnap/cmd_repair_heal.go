package main

import (
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/whole-tale/wtsnap/index"
	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/snapshot"
)

// healDoc is what another copy of the repository gave back.
type healDoc struct {
	Snapshots []healedDoc        `json:"snapshots"`
	Bytes     snapshot.CopyBytes `json:"bytes"`
}

type healedDoc struct {
	ID     string        `json:"id"`
	State  string        `json:"state"`
	Errors []jsonProblem `json:"errors,omitempty"`
}

// unreadablePacks reads all packs and adds those that are damaged to ids.
func (a *app) unreadablePacks(r *repo.Repository, ids []index.PackID) ([]index.PackID, error) {
	rep, err := r.Check(a.ctx, repo.CheckOptions{References: snapshot.References(snapshot.TreeLoader(r)), ReadShare: 1})
	if err != nil {
		return nil, err
	}
	for _, p := range rep.Problems {
		if !strings.HasPrefix(p.Object, "packs/") {
			continue
		}
		id, err := index.ParsePackID(path.Base(p.Object))
		if err != nil || slices.Contains(ids, id) {
			continue
		}
		if _, ok := r.Index().FindPack(id); ok { // what no index lists is no loss
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// heal stores what snapshots lack that another repository has, too. It returns nil where there is none.
func (a *app) heal(r, other *repo.Repository, dryRun bool) (*healDoc, error) {
	if other == nil {
		return nil, nil
	}
	plan, err := snapshot.PlanHeal(a.ctx, r, other)
	if err != nil {
		return nil, err
	}
	doc := &healDoc{Snapshots: []healedDoc{}}
	if !dryRun {
		var p snapshot.Progress
		shows := a.startProgress("healing", &p)
		rep, err := plan.Heal(a.ctx, snapshot.CopyOptions{Uploads: a.uploads(), Progress: &p, Monitor: &monitor{a: a}})
		a.endProgress(shows)
		if err != nil {
			return nil, interruption(a.ctx, err, "healing: interrupted", "run the same command again: what was stored is not stored again")
		}
		doc.Bytes = rep.Bytes
	}
	var left int
	for _, s := range plan.Snapshots {
		d := healedDoc{ID: s.Ref.ID.String(), State: s.State}
		if len(s.Lost) > 0 {
			d.Errors = jsonProblems(s.Lost)
			a.printProblems(s.Lost, int64(len(s.Lost)))
		}
		if !dryRun && s.State != snapshot.HealDone && s.State != snapshot.HealWhole {
			left++
		}
		doc.Snapshots = append(doc.Snapshots, d)
	}
	if left > 0 {
		return doc, &statusError{exitDamage, "healing: " + plural(left, "snapshot", "snapshots") + " could not be healed: the other repository is damaged too",
			"wtsnap check names what is lost; wtsnap repair snapshots stores them without it", nil}
	}
	return doc, nil
}

func printHealed(w io.Writer, d *healDoc, dryRun bool) {
	if d == nil {
		return
	}
	states := map[string]int{}
	for _, s := range d.Snapshots {
		states[s.State]++
	}
	switch {
	case len(d.Snapshots) == 0:
		fmt.Fprintln(w, "the other repository has none of the snapshots: nothing can be healed from there")
	case dryRun:
		fmt.Fprintf(w, "the other repository has %s of those that are here: what they lack would be read from there\n",
			plural(len(d.Snapshots), "snapshot", "snapshots"))
	default:
		fmt.Fprintf(w, "from the other repository: %s healed, %d whole; %s read, %s stored\n",
			plural(states[snapshot.HealDone], "snapshot", "snapshots"), states[snapshot.HealWhole], size(d.Bytes.Read), size(d.Bytes.New))
		fmt.Fprintln(w, "wtsnap check names what is still lost")
	}
}

type mendDoc struct {
	DryRun    bool             `json:"dry_run"`
	Whole     int              `json:"whole"`
	Snapshots []mendedDoc      `json:"snapshots"`
	Requests  map[string]int64 `json:"requests"`
	Seconds   float64          `json:"seconds"`
}

type mendedDoc struct {
	ID       string     `json:"id"`
	Time     string     `json:"time"`
	Instance string     `json:"instance,omitempty"`
	Files    int64      `json:"files"`   // left out
	Folders  int64      `json:"folders"` // that can't be read to their end
	Bytes    int64      `json:"bytes"`
	Lost     []jsonName `json:"lost"`
	Manifest bool       `json:"manifest_lost"` // it can't be read: it is put aside
	New      string     `json:"new,omitempty"`
}

func (a *app) repairSnapshots(c *cli.Context) error {
	if _, err := a.arguments(0, 0, ""); err != nil {
		return err
	}
	start := time.Now()
	r, err := a.openRepo()
	if err != nil {
		return err
	}
	plan, err := snapshot.PlanMend(a.ctx, r)
	if err != nil {
		return fmt.Errorf("repairing snapshots: %w", err)
	}
	dryRun := !c.Bool("yes")
	if !dryRun && len(plan.Snapshots) > 0 {
		if err := plan.Mend(a.ctx); err != nil {
			return fmt.Errorf("repairing snapshots: %w", err)
		}
	}
	doc := mendDoc{DryRun: dryRun, Whole: plan.Whole, Snapshots: []mendedDoc{}, Requests: a.requests(), Seconds: time.Since(start).Seconds()}
	for _, m := range plan.Snapshots {
		d := mendedDoc{ID: m.Ref.ID.String(), Time: utc(m.Ref.Time), Files: m.Files, Folders: m.Folders, Bytes: m.Bytes, Lost: []jsonName{}, Manifest: m.Snapshot == nil}
		if m.Snapshot != nil {
			d.Instance = m.Snapshot.Instance
		}
		if !m.Mended.ID.IsZero() {
			d.New = m.Mended.ID.String()
		}
		for _, path := range m.Lost {
			d.Lost = append(d.Lost, nameOf(path))
		}
		doc.Snapshots = append(doc.Snapshots, d)
	}
	a.result(doc, func(w io.Writer) { printMend(w, plan, dryRun) })
	return nil
}

func printMend(w io.Writer, p *snapshot.MendPlan, dryRun bool) {
	if len(p.Snapshots) == 0 {
		fmt.Fprintf(w, "%s whole; nothing to do (packs with changed bytes count once wtsnap repair packs --read-data --yes has given them up)\n",
			plural(p.Whole, "snapshot is", "snapshots are"))
		return
	}
	for _, m := range p.Snapshots {
		if m.Snapshot == nil {
			fmt.Fprintf(w, "snapshot %s of %s: its manifest can't be read; it goes to the forgotten ones as it is\n", m.Ref.ID.Short(), when(m.Ref.Time))
			continue
		}
		fmt.Fprintf(w, "snapshot %s of %s, %s: without %s, %s", m.Ref.ID.Short(), shown(m.Snapshot.Instance), when(m.Ref.Time),
			plural(m.Files, "file", "files"), size(m.Bytes))
		if m.Folders > 0 {
			fmt.Fprintf(w, ", and the rest of %s", plural(m.Folders, "folder", "folders"))
		}
		if !m.Mended.ID.IsZero() {
			fmt.Fprintf(w, ": stored as %s", m.Mended.ID.Short())
		}
		fmt.Fprintln(w)
		for i, path := range m.Lost {
			if i == maxShown {
				fmt.Fprintf(w, "  and %s more (--json lists up to 1,000)\n", number(m.Files+m.Folders-int64(i)))
				break
			}
			fmt.Fprintln(w, "  "+shown(path))
		}
	}
	if dryRun {
		fmt.Fprintln(w, "nothing was changed; --yes stores them so, incomplete and with the tag "+snapshot.MendedTag+", and forgets the originals.\n"+
			"Heal what can be healed before that: wtsnap repair packs, then a backup, or --from another copy")
		return
	}
	fmt.Fprintln(w, "the originals were forgotten: wtsnap undelete brings them back until a prune frees them")
}

// repairConfig needs no open repository: without its config none opens.
func (a *app) repairConfig(c *cli.Context) error {
	if _, err := a.arguments(0, 0, ""); err != nil {
		return err
	}
	b, err := a.openBackend()
	if err != nil {
		return fmt.Errorf("opening the repository: %w", err)
	}
	password, err := a.password(a.ctx)
	if err != nil {
		return err
	}
	dryRun := !c.Bool("yes")
	made, err := repo.RepairConfig(a.ctx, b.Storage, password, dryRun)
	if err != nil {
		return fmt.Errorf("repairing the config of %s: %w", shownRepo(a.g.repo), err)
	}
	a.result(map[string]bool{"dry_run": dryRun, "made": made}, func(w io.Writer) {
		switch {
		case !made:
			fmt.Fprintln(w, "the config is whole; nothing to do")
		case dryRun:
			fmt.Fprintln(w, "would make the config anew, from what the keys say\nnothing was changed; --yes does it")
		default:
			fmt.Fprintln(w, "made the config anew, from what the keys say; wtsnap check looks at the rest")
		}
	})
	return nil
}
