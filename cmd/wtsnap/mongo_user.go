package main

import (
	"fmt"
	"io"
	"os"
	"slices"
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
		&cli.StringFlag{Name: "map", Usage: "an ownership map says what belongs to a user: girder, wholetale or `FILE` (default: the one that fits)"},
		&cli.StringSliceFlag{Name: "with", Usage: "restore the user's documents of the optional `COLLECTION`, too; may be repeated"},
		&cli.BoolFlag{Name: "list-users", Usage: "list the users that --user can name, and do nothing"},
	}
}

// userOptions reads those flags.
func (a *app) userOptions(c *cli.Context) (o mongo.UserOptions, err error) {
	o.User, o.With = c.String("user"), c.StringSlice("with")
	switch name := c.String("map"); {
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
	slices.SortFunc(users, func(a, b userDoc) int { return cmpText(a.Name, b.Name) })
	a.result(map[string]any{"snapshot": s.Ref.ID.String(), "map": m.Name, "users": users}, func(w io.Writer) {
		for _, u := range users {
			fmt.Fprintf(w, "%s  %s\n", u.ID, shown(u.Name))
		}
	})
	return nil
}

func cmpText(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
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
	Files     []userFilesDoc   `json:"files"`
	Absent    []userAbsentDoc  `json:"absent"`
	Apart     float64          `json:"seconds_apart"`
	Requests  map[string]int64 `json:"requests"`
	Seconds   float64          `json:"seconds"`
	Problems  int64            `json:"problems"`
	Errors    []jsonProblem    `json:"errors"`
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
	uo.Snapshot, uo.Path, uo.Count = s, path, o.DryRun
	u, err := mongo.FindUser(a.ctx, r, uo)
	if err != nil {
		return fmt.Errorf("looking for what belongs to %s: %w", shown(uo.User), err)
	}
	var p snapshot.Progress
	o.Snapshot, o.Progress, o.Monitor = s, &p, &monitor{a: a}
	shows := a.startProgress("restoring", &p)
	rep, err := u.RestoreFolder(a.ctx, o)
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

// checkUserTarget refuses what has no meaning for one user.
func checkUserTarget(c *cli.Context, o *snapshot.RestoreOptions) error {
	if o.Target.Kind != snapshot.TargetFolder {
		return usagef("--to FOLDER", "what belongs to a user cannot be restored to %s", shown(o.Target.String()))
	}
	for _, name := range []string{"include", "exclude", "delete"} {
		if c.IsSet(name) {
			return usagef("leave --"+name+" out", "--user and --%s exclude each other", name)
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
	title := func(first *bool, text string) string {
		if !*first {
			return ""
		}
		*first = false
		return text
	}
	first := true
	for _, n := range rep.Documents {
		fmt.Fprintf(w, "  %-9s %s: %s, %s\n", title(&first, "documents"), shown(n.String()), number(n.Documents), size(n.Bytes))
	}
	first = true
	for i, f := range u.Files {
		text := size(f.Node.Size)
		if i < len(rep.Files) {
			n := rep.Files[i].Files
			text = fmt.Sprintf("%s, %s new, %s changed, %s as they were", text, number(n.New), number(n.Updated), number(n.Unchanged))
		}
		fmt.Fprintf(w, "  %-9s %s to %s: %s\n", title(&first, "files"), shown(f.Path), shown(f.To), text)
	}
	printAbsent(w, u)
	if gap, _ := u.Apart(); !u.Home.IsZero() {
		fmt.Fprintf(w, "  %-9s documents %s, home %s (%s apart)\n", "times", when(u.Documents), when(u.Home), took(gap))
	}
	fmt.Fprintf(w, "  %-9s %s\n", "took", took(d))
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
