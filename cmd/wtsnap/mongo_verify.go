package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/whole-tale/wtsnap/mongo"
	"github.com/whole-tale/wtsnap/snapshot"
)

func (a *app) mongoVerifyCommand() *cli.Command {
	return &cli.Command{
		Name: "verify", Usage: "compare a snapshot with a running MongoDB", ArgsUsage: "[SNAPSHOT[:PATH]] [URI]",
		Description: `Compares a MongoDB in a snapshot with a running one: collections, options, indexes, users and roles, and every document by
its _id and its content. It writes nothing. Without a URI it takes the MongoDB of the configuration. Examples:

  wtsnap mongo verify latest:mongo mongodb://db1,db2/?replicaSet=rs1
  wtsnap mongo verify latest:mongo/girder mongodb://localhost/copy
  wtsnap mongo verify --at "2026-11-20 03:14:07" latest:mongo mongodb://localhost/`,
		Flags: []cli.Flag{
			&cli.StringSliceFlag{Name: "ns-include", Usage: "compare only the collections that match `DB.COLLECTION`, with * for any text; may be repeated"},
			&cli.StringSliceFlag{Name: "ns-exclude", Usage: "leave out the collections that match `DB.COLLECTION`; may be repeated"},
			&cli.StringSliceFlag{Name: "ns-from", Usage: "the collections that match `PATTERN`, such as girder.*, have another name there; may be repeated"},
			&cli.StringSliceFlag{Name: "ns-to", Usage: "the name there, such as copy.*: a `PATTERN` for each --ns-from"},
			&cli.BoolFlag{Name: "no-indexes", Usage: "do not compare indexes"},
			&cli.BoolFlag{Name: "no-users", Usage: "do not compare users and roles"},
			&cli.StringFlag{Name: "mongo-password-file", Usage: "take the password of the MongoDB's user from `FILE`"},
			atFlag(), incompleteFlag(),
		},
		Action: a.action(a.mongoVerify),
	}
}

type verifyDoc struct {
	Snapshot string     `json:"snapshot"`
	Instance string     `json:"instance"`
	Time     string     `json:"time"`
	Path     string     `json:"path"`
	At       *mongoTime `json:"at,omitempty"`
	*mongo.Comparison
	Requests map[string]int64 `json:"requests"`
}

func (a *app) mongoVerify(c *cli.Context) error {
	t, err := a.mongoRestorer(c)
	if err != nil {
		return err
	}
	args, err := a.arguments(0, 2, "")
	if err != nil {
		return err
	}
	isAddress := func(text string) bool { return strings.Contains(text, "://") }
	spec, uris := slices.DeleteFunc(slices.Clone(args), isAddress), slices.DeleteFunc(slices.Clone(args), func(text string) bool { return !isAddress(text) })
	if len(spec) > 1 {
		return usagef("wtsnap mongo verify SNAPSHOT:PATH mongodb://HOST/", "%s is no address of a MongoDB", shown(spec[1]))
	}
	var o snapshot.RestoreOptions
	o.Target.Kind = snapshot.TargetMongoDB
	if o.Target.Path, err = a.mongoAddress("wtsnap mongo verify latest:mongo", uris); err != nil {
		return err
	}
	o.Foreign, o.Memory, o.Monitor = t, a.g.memory, &monitor{a: a}
	a.line.args = spec
	r, s, path, err := a.openSnapshot(c)
	missing := err
	if is[*snapshot.NotFoundError](err) && c.IsSet("at") { // a server's clock may be behind this machine's
		s, path, err = a.newest(c, r)
	}
	if err != nil {
		return cmp.Or(missing, err)
	}
	o.Snapshot, o.Path = s, path
	if err := r.LoadIndex(a.ctx); err != nil {
		return fmt.Errorf("loading the index: %w", err)
	}
	m, err := a.useMoment(c, r, &o)
	if err != nil {
		return err
	}
	if m == nil && missing != nil {
		return missing
	}
	var p snapshot.Progress
	o.Progress = &p
	start := time.Now()
	shows := a.startProgress("comparing", &p)
	rep, err := t.Compare(a.ctx, r, o)
	a.endProgress(shows)
	if err != nil {
		err = fmt.Errorf("comparing snapshot %s with %s: %w", s.Ref.ID.Short(), snapshot.RedactURI(o.Target.Path), err)
		return interruption(a.ctx, err, "comparing: interrupted", "run the same command again")
	}
	doc := verifyDoc{o.Snapshot.Ref.ID.String(), s.Instance, utc(o.Snapshot.Time), path, nil, rep, a.requests()}
	at := when(o.Snapshot.Time)
	if m != nil {
		doc.At = &mongoTime{utc(m.At.Time()), m.At.I}
		at = "as of " + momentText(m.At)
	}
	a.done(doc, func(w io.Writer) {
		fmt.Fprintf(w, "compared %s of %s, %s, with %s\n", shown(strings.TrimSuffix(o.Snapshot.Ref.ID.Short()+":"+path, ":")), shown(s.Instance), at, shown(rep.Target))
		printComparison(w, rep)
		fmt.Fprintf(w, "  took %s\n", took(time.Since(start)))
	})
	return verifyStatus(rep)
}

// verifyStatus is the error that a comparison ends with.
func verifyStatus(rep *mongo.Comparison) error {
	if rep.Equal {
		return nil
	}
	differ, failed := int64(0), int64(0)
	for _, c := range rep.Collections {
		if c.Error != "" {
			failed++
		} else if !c.Equal() {
			differ++
		}
	}
	text := fmt.Sprintf("comparing: %d of %s", differ, plural(int64(len(rep.Collections)), "collection differs", "collections differ"))
	if failed > 0 {
		text += fmt.Sprintf(", and %s not be compared", plural(failed, "one could", "could"))
	}
	return &statusError{exitFailed, text, "wtsnap restore --dry-run says what a restore would change: --insert-missing, --overwrite or --drop", nil}
}

// printComparison prints a line for each collection, and what is to say of it below.
func printComparison(w io.Writer, rep *mongo.Comparison) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "  equal\tdiffer\tmissing\textra\t  collection")
	var notes []string
	for _, c := range rep.Collections {
		d, name := c.Documents, shown(c.Namespace)
		if c.From != "" && c.From != c.Namespace {
			name += " (from " + shown(c.From) + ")"
		}
		fmt.Fprintf(t, "  %s\t%s\t%s\t%s\t  %s\n", number(d.Equal), number(d.Differ), number(d.Missing), number(d.Extra), name)
		note := func(text string) { notes = append(notes, "  "+shown(c.Namespace)+": "+text) }
		switch {
		case c.Error != "":
			note("it could not be compared: " + c.Error)
		case c.From == "":
			note("the snapshot does not have this collection")
		case c.Missing:
			note("the server does not have this collection")
		}
		if len(c.Options) > 0 {
			note("options differ: " + strings.Join(c.Options, ", "))
		}
		for _, text := range c.Indexes {
			note("the index " + text)
		}
		for _, e := range c.Examples {
			note("the document " + e.ID + map[string]string{"differs": " differs", "missing": " is missing", "extra": " is extra"}[e.State])
		}
	}
	d := rep.Documents
	fmt.Fprintf(t, "  %s\t%s\t%s\t%s\t  in all\n", number(d.Equal), number(d.Differ), number(d.Missing), number(d.Extra))
	t.Flush()
	for _, text := range notes {
		fmt.Fprintln(w, text)
	}
}
