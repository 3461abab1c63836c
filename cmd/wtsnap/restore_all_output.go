package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/whole-tale/wtsnap/mongo/whole"
	"github.com/whole-tale/wtsnap/snapshot"
)

type allDoc struct {
	Instance      string           `json:"instance"`
	Into          string           `json:"into,omitempty"`
	Parts         []partDoc        `json:"parts"`
	UnknownUsers  []string         `json:"unknown_users"`
	UnknownGroups []string         `json:"unknown_groups"`
	Newer         string           `json:"newer_incomplete,omitempty"`
	Oplog         *mongoTime       `json:"oplog_until,omitempty"`
	Requests      map[string]int64 `json:"requests"`
	Seconds       float64          `json:"seconds"`
}

type partDoc struct {
	Label    string                  `json:"label"`
	Kind     string                  `json:"kind"`
	Snapshot string                  `json:"snapshot"`
	Time     string                  `json:"time"`
	At       *mongoTime              `json:"at,omitempty"`
	Path     string                  `json:"path"`
	Target   string                  `json:"target,omitempty"`
	Default  bool                    `json:"default"` // the target is where the source was
	State    string                  `json:"state"`
	Done     string                  `json:"done,omitempty"` // when an earlier run ended
	Files    int64                   `json:"files"`
	Bytes    int64                   `json:"bytes"`
	Room     *int64                  `json:"room,omitempty"`
	Reason   *jsonError              `json:"reason,omitempty"` // why it is refused, or failed
	Report   *snapshot.RestoreReport `json:"report,omitempty"`
	Seconds  float64                 `json:"seconds"`
}

func newAllDoc(ctx context.Context, p *whole.Plan, o *whole.Options, requests map[string]int64, d time.Duration) allDoc {
	doc := allDoc{Instance: o.Instance, Into: o.Into, Parts: []partDoc{}, UnknownUsers: append([]string{}, p.Unknown.Users...),
		UnknownGroups: append([]string{}, p.Unknown.Groups...), Requests: requests, Seconds: d.Seconds()}
	if p.Newer != nil {
		doc.Newer = p.Newer.Ref.ID.String()
	}
	if !p.Oplog.IsZero() {
		doc.Oplog = &mongoTime{utc(p.Oplog.Time()), p.Oplog.I}
	}
	for _, part := range p.Parts {
		d := partDoc{Label: part.Label, Kind: string(part.Kind), Snapshot: part.Snapshot.Ref.ID.String(), Time: utc(part.Snapshot.Time),
			Path: part.Path, Default: part.Default, State: string(part.State), Files: part.Source.Files, Bytes: part.Source.Bytes,
			Report: part.Report, Seconds: part.Seconds}
		if d.Report != nil && d.Report.Errors == nil {
			d.Report.Errors = []snapshot.PathError{}
		}
		if part.Target.Kind != 0 {
			d.Target = part.Target.String()
		}
		if part.Moment != nil {
			d.At = &mongoTime{utc(part.Moment.At.Time()), part.Moment.At.I}
		}
		if !part.DoneAt.IsZero() {
			d.Done = utc(part.DoneAt)
		}
		if part.Room >= 0 {
			d.Room = &part.Room
		}
		if err := cmp.Or(part.Refused, part.Err); err != nil {
			d.Reason = &jsonError{Code: exitCode(ctx, err), Message: message(err), Hint: hint(err)}
		}
		doc.Parts = append(doc.Parts, d)
	}
	return doc
}

// printAllPlan shows what would be restored where, and what is worth a thought before.
func printAllPlan(w io.Writer, p *whole.Plan, o *whole.Options) {
	head := "plan: instance " + shown(o.Instance)
	if o.Into != "" && o.Into != o.Instance {
		head += " into " + shown(o.Into)
	}
	fmt.Fprintf(w, "%s, in this order\n", head)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, part := range p.Parts {
		target := "-"
		if part.Target.Kind != 0 {
			target = shown(part.Target.String())
			if part.Kind == snapshot.SourceFile {
				target = shown(part.Target.String() + "/" + part.Path[strings.LastIndexByte(part.Path, '/')+1:])
			}
		}
		at := when(part.Snapshot.Time)
		if part.Moment != nil {
			at = "as of " + momentText(part.Moment.At)
		}
		tableRow(t, shown(part.Label), part.Snapshot.Ref.ID.Short(), at, partSize(part), target, partState(part))
	}
	t.Flush()
	note := func(text string) { fmt.Fprintln(w, "  note: "+text) }
	for _, part := range p.Parts {
		if part.State == whole.Planned && part.Room >= 0 && part.Room < part.Source.Bytes && part.Refused == nil {
			note(fmt.Sprintf("%s has %s, and there is room for %s at its target", shown(part.Label), size(part.Source.Bytes), size(part.Room)))
		}
	}
	for _, u := range o.Mongo.Updates {
		text := u.Name
		if text == "" {
			text = u.Filter
		}
		fmt.Fprintf(w, "  update %s %s: %s expected, %s\n", shown(u.Namespace()), shown(text), u.Expected, shown(u.Update.Update))
	}
	if s := p.Newer; s != nil {
		note(fmt.Sprintf("%s of %s is newer, but incomplete: --incomplete takes it", s.Ref.ID.Short(), when(s.Time)))
	}
	if !p.Oplog.IsZero() {
		note(fmt.Sprintf("the stored oplog leads the MongoDB further: --at %s is %s", p.Oplog, when(p.Oplog.Time())))
	}
	for kind, names := range map[string][]string{"users": p.Unknown.Users, "groups": p.Unknown.Groups} {
		if len(names) > 0 {
			note(fmt.Sprintf("this machine does not know the %s %s; what is theirs goes by number: make them first, or --owner-map", kind, few(names)))
		}
	}
}

// tableRow writes a row without the empty cells at its end, which would be blanks.
func tableRow(w io.Writer, cells ...string) {
	for len(cells) > 0 && cells[len(cells)-1] == "" {
		cells = cells[:len(cells)-1]
	}
	fmt.Fprintf(w, "  %s\n", strings.Join(cells, "\t"))
}

// few names the first of many.
func few(names []string) string {
	const most = 5
	text := make([]string, 0, most)
	for _, n := range names[:min(len(names), most)] {
		text = append(text, shown(n))
	}
	out := strings.Join(text, ", ")
	if n := len(names) - most; n > 0 {
		out += fmt.Sprintf(" and %d more", n)
	}
	return out
}

func partSize(part *whole.Part) string {
	if m := part.Source.Mongo; m != nil {
		return plural(m.Documents(), "document", "documents") + ", " + size(part.Source.Bytes)
	}
	return plural(part.Source.Files, "file", "files") + ", " + size(part.Source.Bytes)
}

// partState is how far a part is, for people.
func partState(part *whole.Part) string {
	switch {
	case part.Refused != nil:
		var guard *snapshot.TargetGuardError
		if errors.As(part.Refused, &guard) {
			return "refused: " + guard.Reason
		}
		return "refused: " + message(part.Refused)
	case part.State == whole.Done:
		return "done at " + when(part.DoneAt)
	case part.State == whole.Begun:
		return "goes on where it was"
	case part.State == whole.Skipped:
		return "left out"
	case part.Default:
		return "as it was"
	}
	return ""
}

// printAll is the report at the end.
func printAll(w io.Writer, p *whole.Plan, d time.Duration) {
	fmt.Fprintln(w, "restored")
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, part := range p.Parts {
		text := ""
		switch rep := part.Report; {
		case part.State == whole.Failed && part.Err != nil:
			text = message(part.Err)
		case part.State == whole.Failed:
			text = message(restoreStatus(rep, nil))
		case rep != nil && part.Target.Kind == snapshot.TargetMongoDB:
			text = fmt.Sprintf("%s in %s, %s as they were", plural(rep.Documents.Inserted, "document", "documents"), plural(len(rep.Collections), "collection", "collections"),
				number(rep.Documents.Equal))
		case rep != nil && rep.Documents != nil:
			text = plural(rep.Documents.Inserted, "document", "documents")
		case rep != nil:
			text = fmt.Sprintf("%s new, %s changed, %s as they were; %s", number(rep.Files.New), number(rep.Files.Updated), number(rep.Files.Unchanged), size(rep.Bytes.Total))
		}
		if rep := part.Report; rep != nil && part.State == whole.Restored {
			for _, lack := range rep.Lacks {
				text += fmt.Sprintf("; lacking %s of %s", lack.What, plural(lack.Count, "entry", "entries"))
			}
		}
		lasted := ""
		if part.Report != nil || part.Err != nil {
			lasted = took(seconds(part.Seconds))
		}
		tableRow(t, shown(part.Label), strings.ReplaceAll(string(part.State), "_", " "), printable(text), lasted)
	}
	t.Flush()
	for _, part := range p.Parts {
		if part.Report == nil {
			continue
		}
		for i := range part.Report.Updates {
			fmt.Fprintf(w, "  update %s\n", updateText(&part.Report.Updates[i], false))
		}
	}
	fmt.Fprintf(w, "  took %s\n", took(d))
}
