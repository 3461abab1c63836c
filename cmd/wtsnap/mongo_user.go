package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/whole-tale/wtsnap/mongo"
	"github.com/whole-tale/wtsnap/mongo/ownership"
	"github.com/whole-tale/wtsnap/snapshot"
)

// userFlags are the flags of restore for what belongs to one user.
func userFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "user", Usage: "restore only what belongs to `NAME`: the home, the tales' workspaces, and the documents in the MongoDB"},
		&cli.StringSliceFlag{Name: "with", Usage: "restore the user's documents of the optional `COLLECTION`, too; may be repeated"},
		&cli.BoolFlag{Name: "shares", Usage: "with --user and a MongoDB: put the user back into the access lists of others' documents, too"},
		&cli.StringFlag{Name: "files-to", Usage: "with --user and a MongoDB: restore the user's files below `FOLDER`"},
		&cli.BoolFlag{Name: "list-users", Usage: "list the users that --user can name, and do nothing"},
	}
}

// userOptions reads those flags.
func (a *app) userOptions(c *cli.Context) (o mongo.UserOptions, err error) {
	o.User, o.With = c.String("user"), c.StringSlice("with")
	if len(c.StringSlice("map")) > 1 {
		return o, usagef("give one", "--user takes one ownership map, and --map is given twice")
	}
	switch name := strings.Join(c.StringSlice("map"), ""); {
	case name == "":
	case slices.Contains(ownership.Builtins(), name):
		o.Map = ownership.Builtin(name)
	default:
		text, err := os.ReadFile(name)
		if err != nil {
			return o, usagef("", "the ownership map: %v", err)
		}
		if o.Map, err = ownership.Parse(text); err != nil {
			return o, usagef("", "%s: %v", shown(name), err)
		}
	}
	return o, nil
}

// listUsers prints the names of the users in a snapshot, and nothing else of them.
func (a *app) listUsers(c *cli.Context) error {
	o, err := a.userOptions(c)
	if err != nil {
		return err
	}
	r, s, path, err := a.openSnapshot(c)
	if err != nil {
		return err
	}
	if err := r.LoadIndex(a.ctx); err != nil {
		return fmt.Errorf("loading the index: %w", err)
	}
	o.Snapshot, o.Path = s, path
	_, m, src, err := mongo.OpenUsers(a.ctx, r, &o)
	if err != nil {
		return fmt.Errorf("listing users: %w", err)
	}
	type userDoc struct {
		Name string `json:"name"`
		ID   string `json:"id"`
	}
	users := []userDoc{}
	for u, err := range m.Users(a.ctx, src) {
		if err != nil {
			return fmt.Errorf("listing users: %w", err)
		}
		users = append(users, userDoc{u[0], u[1]})
	}
	slices.SortFunc(users, func(a, b userDoc) int { return cmp.Compare(a.Name, b.Name) })
	a.result(map[string]any{"snapshot": s.Ref.ID.String(), "map": m.Name, "users": users}, func(w io.Writer) {
		for _, u := range users {
			fmt.Fprintf(w, "%s  %s\n", u.ID, shown(u.Name))
		}
	})
	return nil
}

type userRestoreDoc struct {
	Snapshot  string           `json:"snapshot"`
	Instance  string           `json:"instance"`
	Time      string           `json:"time"`
	DryRun    bool             `json:"dry_run"`
	Target    string           `json:"target"`
	Map       string           `json:"map"`
	User      userNameDoc      `json:"user"`
	Documents []userCountDoc   `json:"documents"`
	Mongo     *userMongoDoc    `json:"mongo,omitempty"`
	Files     []userFilesDoc   `json:"files"`
	Absent    []userAbsentDoc  `json:"absent"`
	Apart     float64          `json:"seconds_apart"`
	Requests  map[string]int64 `json:"requests"`
	Seconds   float64          `json:"seconds"`
	Problems  int64            `json:"problems"`
	Errors    []jsonProblem    `json:"errors"`
}

type userMongoDoc struct {
	Documents   *snapshot.Documents           `json:"documents"`
	Collections []snapshot.RestoredCollection `json:"collections"`
	Repairs     []mongo.FixCount              `json:"repairs"`
}

type userNameDoc struct {
	Name string `json:"name"`
	ID   string `json:"id"`
}

type userCountDoc struct {
	Namespace string `json:"namespace"`
	Documents int64  `json:"documents"`
	Bytes     int64  `json:"bytes"`
}

type userFilesDoc struct {
	Name string `json:"name"`
	jsonName
	To     string                  `json:"to"` // below the target; "" = not restored
	Bytes  int64                   `json:"bytes"`
	Report *snapshot.RestoreReport `json:"report,omitempty"`
}

type userAbsentDoc struct {
	Name string `json:"name"`
	ID   string `json:"id"`
}

// restoreUser restores what belongs to one user.
func (a *app) restoreUser(c *cli.Context) error {
	start := time.Now()
	o, err := a.restoreOptions(c)
	if err != nil {
		return err
	}
	uo, err := a.userOptions(c)
	if err != nil {
		return err
	}
	if err := checkUserTarget(c, &o); err != nil {
		return err
	}
	r, s, path, err := a.openSnapshot(c)
	if err != nil {
		return err
	}
	if err := r.LoadIndex(a.ctx); err != nil {
		return fmt.Errorf("loading the index: %w", err)
	}
	uo.Snapshot, uo.Path, uo.Count = s, path, o.DryRun && o.Target.Kind == snapshot.TargetFolder
	label, _, _ := strings.Cut(path, "/")
	m, err := a.momentOf(c, r, s, label)
	if err != nil {
		return err
	}
	if m != nil {
		uo.Open = m.Open
	}
	u, err := mongo.FindUser(a.ctx, r, uo)
	if err != nil {
		return fmt.Errorf("looking for what belongs to %s: %w", shown(uo.User), err)
	}
	var p snapshot.Progress
	o.Snapshot, o.Progress, o.Monitor = s, &p, &monitor{a: a}
	shows := a.startProgress("restoring", &p)
	rep, err := restoreUserTo(a.ctx, c, u, o)
	a.endProgress(shows)
	if rep == nil {
		return err
	}
	a.printProblems(rep.Errors, rep.Problems)
	doc := newUserRestoreDoc(u, rep, &o)
	doc.Requests, doc.Seconds = a.requests(), time.Since(start).Seconds()
	if err != nil {
		a.result(doc, nil)
		err = fmt.Errorf("restoring what belongs to %s: %w", shown(u.Owned.Name), err)
		return interruption(a.ctx, err, "restoring: interrupted; what was written stays", "run the same command again: it writes only what is missing")
	}
	a.result(doc, func(w io.Writer) { printUser(w, u, rep, &o, time.Since(start)) })
	if gap, far := u.Apart(); far {
		a.say(fmt.Sprintf("the home and the documents were read %s apart: what one has the other may lack", took(gap.Round(time.Minute))))
	}
	return restoreStatus(&snapshot.RestoreReport{Problems: rep.Problems, Damaged: rep.Damaged}, nil)
}

// restoreUserTo restores to the kind of target that o names.
func restoreUserTo(ctx context.Context, c *cli.Context, u *mongo.UserData, o snapshot.RestoreOptions) (*mongo.UserReport, error) {
	if o.Target.Kind == snapshot.TargetFolder {
		return u.RestoreFolder(ctx, o)
	}
	t := o.Foreign.(*mongo.Restorer)
	rep, err := u.RestoreURI(ctx, o, mongo.UserTarget{Options: t.Options, Shares: c.Bool("shares"), Overwrite: t.Mode == mongo.Overwrite})
	if below := c.String("files-to"); err == nil && below != "" {
		o.Target, o.Foreign = snapshot.TargetSpec{Kind: snapshot.TargetFolder, Path: below}, nil
		err = u.RestoreFiles(ctx, o, rep)
	}
	return rep, err
}

// checkUserTarget refuses what has no meaning for one user.
func checkUserTarget(c *cli.Context, o *snapshot.RestoreOptions) error {
	bad := []string{"include", "exclude", "delete", "drop", "insert-missing", "ns-include", "ns-exclude", "ns-from", "ns-to", "no-indexes", "no-users", "transform", "filter"}
	switch o.Target.Kind {
	case snapshot.TargetFolder:
		bad = append(bad, "shares", "files-to")
	case snapshot.TargetMongoDB:
	default:
		return usagef("--to FOLDER or --to mongodb://HOST/", "what belongs to a user cannot be restored to %s", shown(o.Target.String()))
	}
	for _, name := range bad {
		if c.IsSet(name) {
			return usagef("leave --"+name+" out", "--user to %s and --%s exclude each other", shown(o.Target.String()), name)
		}
	}
	return nil
}

func newUserRestoreDoc(u *mongo.UserData, rep *mongo.UserReport, o *snapshot.RestoreOptions) userRestoreDoc {
	s := u.Dump.Snapshot
	d := userRestoreDoc{Snapshot: s.Ref.ID.String(), Instance: s.Instance, Time: utc(s.Time), DryRun: o.DryRun, Target: o.Target.String(),
		Map: u.Owned.Map.Name, User: userNameDoc{u.Owned.Name, u.Owned.IDText()}, Documents: []userCountDoc{}, Files: []userFilesDoc{},
		Absent: []userAbsentDoc{}, Problems: rep.Problems, Errors: jsonProblems(rep.Errors)}
	for _, n := range rep.Documents {
		d.Documents = append(d.Documents, userCountDoc{n.String(), n.Documents, n.Bytes})
	}
	if rep.Mongo != nil {
		d.Mongo = &userMongoDoc{rep.Mongo.Documents, rep.Mongo.Collections, append([]mongo.FixCount{}, rep.Fixes...)}
	}
	for i, f := range u.Files {
		doc := userFilesDoc{Name: f.Name, jsonName: nameOf(f.Path), To: f.To, Bytes: f.Node.Size}
		if i < len(rep.Files) {
			doc.Report = rep.Files[i]
		}
		d.Files = append(d.Files, doc)
	}
	for _, p := range u.Absent {
		d.Absent = append(d.Absent, userAbsentDoc{p.Name, p.ID})
	}
	gap, _ := u.Apart()
	d.Apart = gap.Seconds()
	return d
}

// printUser prints what belongs to a user. Of documents it prints numbers alone: they have passwords' hashes and keys.
func printUser(w io.Writer, u *mongo.UserData, rep *mongo.UserReport, o *snapshot.RestoreOptions, d time.Duration) {
	s := u.Dump.Snapshot
	verb := "restored"
	if o.DryRun {
		verb = "would restore"
	}
	fmt.Fprintf(w, "%s what belongs to %s (%s) in %s of %s, %s, to %s\n", verb, shown(u.Owned.Name), u.Owned.IDText(), s.Ref.ID.Short(), shown(s.Instance),
		when(s.Time), shown(o.Target.String()))
	row := func(name string, i int, text string) {
		if i > 0 {
			name = ""
		}
		fmt.Fprintf(w, "  %-9s %s\n", name, text)
	}
	for i, n := range rep.Documents {
		row("documents", i, fmt.Sprintf("%s: %s, %s", shown(n.String()), number(n.Documents), size(n.Bytes)))
	}
	if rep.Mongo != nil {
		printUserMongo(row, rep)
	}
	for i, f := range u.Files {
		text := fmt.Sprintf("%s, not restored: --files-to FOLDER, or wtsnap restore %s:%s --to %s", size(f.Node.Size), s.Ref.ID.Short(), shown(f.Path),
			shown(cmp.Or(f.Origin, "FOLDER")))
		if i < len(rep.Files) {
			n := rep.Files[i].Files
			text = fmt.Sprintf("to %s: %s, %s new, %s changed, %s as they were", shown(f.To), size(f.Node.Size), number(n.New), number(n.Updated), number(n.Unchanged))
		}
		row("files", i, shown(f.Path)+" "+text)
	}
	printAbsent(w, u)
	if gap, _ := u.Apart(); !u.Home.IsZero() {
		fmt.Fprintf(w, "  %-9s documents %s, home %s (%s apart)\n", "times", when(u.Documents), when(u.Home), took(gap))
	}
	fmt.Fprintf(w, "  %-9s %s\n", "took", took(d))
}

// printUserMongo prints what became of documents in a MongoDB.
func printUserMongo(row func(name string, i int, text string), rep *mongo.UserReport) {
	i := 0
	for _, c := range rep.Mongo.Collections {
		d := c.Documents
		if d == (snapshot.Documents{}) {
			continue
		}
		text := fmt.Sprintf("%s: %s inserted, %s as they were", shown(c.Namespace), number(d.Inserted), number(d.Equal))
		for _, more := range []struct {
			n    int64
			what string
		}{{d.Differ, "differ and stay"}, {d.Overwritten, "overwritten"}, {d.Failed, "failed"}} {
			if more.n > 0 {
				text += fmt.Sprintf(", %s %s", number(more.n), more.what)
			}
		}
		row("documents", i, text)
		i++
	}
	i = 0
	for _, f := range rep.Fixes {
		if f.Fixed+f.Others+f.Failed == 0 {
			continue
		}
		text := fmt.Sprintf("%s %s: %s put back", shown(f.Namespace), shown(f.Field), number(f.Fixed))
		if f.Others > 0 {
			text += fmt.Sprintf(", %s left to others, who own them", number(f.Others))
		}
		if f.Failed > 0 {
			text += fmt.Sprintf(", %s failed", number(f.Failed))
		}
		row("repairs", i, text)
		i++
	}
}

// printAbsent names what the snapshot has no files of.
func printAbsent(w io.Writer, u *mongo.UserData) {
	counts := map[string]int{}
	var names []string
	for _, p := range u.Absent {
		if counts[p.Name]++; counts[p.Name] == 1 {
			names = append(names, p.Name)
		}
	}
	for _, name := range names {
		fmt.Fprintf(w, "  %-9s no files of %s in this snapshot\n", "absent", plural(counts[name], name, name+"s"))
	}
}
