package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/whole-tale/wtsnap/cmd/wtsnap/alert"
	"github.com/whole-tale/wtsnap/cmd/wtsnap/config"
	"github.com/whole-tale/wtsnap/cmd/wtsnap/schedule"
	"github.com/whole-tale/wtsnap/snapshot"
)

// The states of monitoring plugins: https://www.monitoring-plugins.org/doc/guidelines.html. Checkmk's are the same.
const (
	pluginOK       = 0
	pluginWarning  = 1
	pluginCritical = 2
	pluginUnknown  = 3
)

func (a *app) statusCommand() *cli.Command {
	return &cli.Command{
		Name: "status", Usage: "say whether snapshots, checks and drills are as new as promised",
		Description: `Looks at the newest complete snapshot of each instance, and of each of its sources, and compares their age with what is promised:
max-age of [instances.NAME] or of the jobs of the configuration, or --max-age. Says besides which seconds of a MongoDB can be had,
what is kept, when the last check and the last drill were, whether what jobs copy into other
repositories is there, how much is stored, how much room there is, and when the token ends.
It only reads, so another machine can watch.

Examples:

  wtsnap status
  wtsnap status --max-age 26h --instance production
  wtsnap status --nagios

Exit codes: 0 all is as new as promised; 6 something is not; 13 the last drill found what is not as saved, or the repository was
rolled back: it lacks snapshots that this machine has seen there; 14 retention is held.
With --nagios those of monitoring plugins: 0, 1, 2; 3 where the repository cannot be read. With --checkmk 0.`,
		Flags: []cli.Flag{
			spanFlag("max-age", "a complete snapshot is promised at least every `LONG` (default: what the configuration says)"),
			&cli.BoolFlag{Name: "nagios", Usage: "print a line, and end with a code, as Nagios' and Icinga's plugins do"},
			&cli.BoolFlag{Name: "checkmk", Usage: "print a line an instance as Checkmk's local checks do"},
		},
		Action: a.action(a.status),
	}
}

type statusSourceDoc struct {
	Label   string  `json:"label"`
	Newest  string  `json:"newest,omitempty"`
	Time    string  `json:"time,omitempty"`
	Seconds float64 `json:"age_seconds"`
	Late    bool    `json:"late"`
}

type statusInstanceDoc struct {
	Instance  string            `json:"instance"`
	Newest    string            `json:"newest,omitempty"`
	Time      string            `json:"time,omitempty"`
	Seconds   float64           `json:"age_seconds"`
	Promised  float64           `json:"promised_seconds,omitempty"`
	Late      bool              `json:"late"`
	Snapshots int               `json:"snapshots"`
	Oldest    string            `json:"oldest,omitempty"`
	Files     int64             `json:"files"`
	Bytes     int64             `json:"bytes"`
	Sources   []statusSourceDoc `json:"sources"`
	Remarks   []string          `json:"remarks"`
	Oplogs    []sourceDoc       `json:"oplogs,omitempty"`
	Drill     *proof            `json:"drill"`
	Retention *retentionDoc     `json:"retention"`
	// Held are the ids of snapshots that are unlike those before them, and hold retention.
	Held []string `json:"held,omitempty"`
}

type statusDoc struct {
	Late bool `json:"late"`
	// RolledBack: the repository lacks snapshots that this machine has seen there.
	RolledBack bool                `json:"rolled_back"`
	Instances  []statusInstanceDoc `json:"instances"`
	Check      *proof              `json:"check"`
	Storage    *storageDoc         `json:"storage,omitempty"`
	Copies     []*copyState        `json:"copies,omitempty"`
	Tokens     []tokenDoc          `json:"tokens"`
	Requests   map[string]int64    `json:"requests"`
	Seconds    float64             `json:"seconds"`
}

func (a *app) status(c *cli.Context) error {
	start := time.Now()
	nagios, checkmk := c.Bool("nagios"), c.Bool("checkmk")
	if _, err := a.arguments(0, 0, ""); err != nil {
		return err
	}
	if nagios && checkmk || a.g.json && (nagios || checkmk) {
		return usagef("leave all but one of them out", "--json, --nagios and --checkmk exclude each other")
	}
	list, m, err := a.statuses(c)
	if err != nil && nagios {
		fmt.Fprintf(a.std.out, "WTSNAP UNKNOWN - %s\n", printable(a.words(err)))
		return pluginExit(pluginUnknown)
	}
	if err != nil {
		return err
	}
	doc := newStatusDoc(list, m, a.requests(), time.Since(start))
	switch {
	case nagios:
		return a.nagios(list, m)
	case checkmk:
		for _, s := range list {
			state, text := m.plugin(&s)
			fmt.Fprint(a.std.out, alert.CheckmkLine(state, "wtsnap "+s.Instance, fmt.Sprintf("age=%.0f", s.Age.Seconds()), text))
		}
		m.checkmk(a.std.out, list)
		return nil
	}
	a.result(doc, func(w io.Writer) { printStatus(w, list, m) })
	return m.statusEnd(list)
}

// statuses reads the snapshots and compares them with what is promised.
func (a *app) statuses(c *cli.Context) ([]snapshot.InstanceStatus, *more, error) {
	r, err := a.openRepo()
	if err != nil {
		return nil, nil, err
	}
	snaps, err := snapshot.List(a.ctx, r, snapshot.Filter{Instance: a.g.instance})
	a.learn(snaps...)
	if err != nil {
		return nil, nil, fmt.Errorf("listing the snapshots: %w", err)
	}
	promised, expected := a.promises()
	if span, ok := get[snapshot.Span](c, "max-age"); ok {
		for _, s := range snaps {
			promised[s.Instance] = span.Duration()
		}
		for name := range promised {
			promised[name] = span.Duration()
		}
		if a.g.own != "" {
			promised[a.g.own] = span.Duration()
		}
	}
	list := snapshot.Status(snaps, promised, expected, a.now())
	if a.g.instance != "" {
		list = slices.DeleteFunc(list, func(s snapshot.InstanceStatus) bool { return s.Instance != a.g.instance })
	}
	return list, a.gather(r, snaps, list, !c.Bool("nagios") && !c.Bool("checkmk")), nil
}

// promises are what the configuration says of instances in this repository: how old their newest snapshot may be, and
// which sources they have.
func (a *app) promises() (ages map[string]time.Duration, sources map[string][]string) {
	ages, sources = map[string]time.Duration{}, map[string][]string{}
	if a.config == nil {
		return ages, sources
	}
	repository := strings.TrimPrefix(a.repoName, "@")
	for _, j := range a.config.Jobs {
		name := cmpOr(j.Instance, a.g.own)
		if name == "" || !j.Does("backup", repository) && !j.Does("copy", repository) {
			continue
		}
		age := a.promisedBy(j)
		if age == 0 {
			continue
		}
		ages[name] = max(ages[name], age)
		labels := j.Sources
		if len(labels) == 0 {
			for i := range a.config.Sources {
				labels = append(labels, a.config.Sources[i].Label)
			}
		}
		sources[name] = append(sources[name], labels...)
	}
	for name, i := range a.config.Instances {
		if i.Repository == repository && !i.MaxAge.IsZero() {
			ages[name] = i.MaxAge.Duration()
		}
	}
	return ages, sources
}

// promisedBy is how old the newest snapshot may be that a job makes, or copies; 0: it says nothing.
func (a *app) promisedBy(j *config.Job) time.Duration {
	age := j.MaxAge.Duration()
	if s, err := schedule.Parse(j.Schedule); age == 0 && err == nil { // one missed run is late
		age = 3 * s.Interval(a.now()) / 2
	}
	return age
}

func newStatusDoc(list []snapshot.InstanceStatus, m *more, requests map[string]int64, took time.Duration) statusDoc {
	doc := statusDoc{RolledBack: len(m.missing) > 0, Instances: []statusInstanceDoc{}, Requests: requests, Seconds: took.Seconds(), Check: m.check, Storage: m.storage,
		Copies: m.copies, Tokens: tokenDocs(m.tokens), Late: m.check.Late || slices.ContainsFunc(m.copies, func(s *copyState) bool { return s.Late })}
	for i := range list {
		s := &list[i]
		d := statusInstanceDoc{Instance: s.Instance, Seconds: s.Age.Seconds(), Promised: s.Promised.Seconds(), Late: s.Late, Snapshots: s.Snapshots,
			Sources: []statusSourceDoc{}, Remarks: append([]string{}, statusRemarks(s)...)}
		if s.Newest != nil {
			d.Newest, d.Time, d.Oldest = s.Newest.Ref.ID.String(), utc(s.Newest.Time), utc(s.Oldest)
			d.Files, d.Bytes = s.Newest.Files, s.Newest.Bytes
		}
		for _, src := range s.Sources {
			e := statusSourceDoc{Label: src.Label, Seconds: src.Age.Seconds(), Late: src.Late}
			if src.Newest != nil {
				e.Newest, e.Time = src.Newest.Ref.ID.String(), utc(src.Newest.Time)
			}
			d.Sources = append(d.Sources, e)
		}
		for _, o := range s.Oplog {
			d.Oplogs = append(d.Oplogs, addRecoverable(sourceDocs(o.Sources), o, s.List)...)
		}
		d.Drill, d.Retention = m.drills[s.Instance], m.retention[s.Instance]
		d.Remarks = append(append(m.lacks(s.Instance), d.Remarks...), m.late(s.Instance)...)
		for _, h := range s.Held {
			d.Held = append(d.Held, h.Ref.ID.String())
		}
		doc.Late = doc.Late || s.Late || d.Drill.Late
		doc.Instances = append(doc.Instances, d)
	}
	return doc
}

// statusRemarks are what is wrong, or strange, about an instance.
func statusRemarks(s *snapshot.InstanceStatus) (out []string) {
	if s.Newest == nil {
		out = append(out, "it has no complete snapshot")
	}
	if s.Latest != nil {
		what := "incomplete"
		if s.Latest.Checkpoint {
			what = "a checkpoint"
		}
		out = append(out, "the newest snapshot, of "+when(s.Latest.Time)+", is "+what)
	}
	for _, h := range s.Held {
		out = append(out, "retention is held: snapshot "+h.Ref.ID.Short()+" of "+when(h.Time)+" is unlike those before it: "+anomalyText(h.Unreleased())+
			" (wtsnap hold --release-anomaly "+h.Ref.ID.Short()+" if it is fine)")
	}
	if s.Future {
		out = append(out, "the newest snapshot is dated into the future: a clock is wrong")
	}
	if s.Newest != nil && s.Newest.Errors > 0 {
		out = append(out, "the newest complete snapshot has "+plural(s.Newest.Errors, "problem", "problems"))
	}
	for _, src := range s.Sources {
		switch {
		case src.Newest == nil:
			out = append(out, "no complete snapshot has "+shown(src.Label))
		case src.Late && src.Newest != s.Newest:
			out = append(out, shown(src.Label)+" was last saved "+age(src.Age)+" ago")
		}
	}
	return out
}

func printStatus(w io.Writer, list []snapshot.InstanceStatus, m *more) {
	if len(list) == 0 {
		fmt.Fprintln(w, "no snapshots, and nothing is promised")
		return
	}
	t := newTable("INSTANCE", "NEWEST COMPLETE", "", "AGE", "PROMISED", "SNAPSHOTS", "STATE").alignRight(3, 4, 5)
	for i := range list {
		s := &list[i]
		id, at, old, promised := "none", "", "", "nothing"
		if s.Newest != nil {
			id, at, old = s.Newest.Ref.ID.Short(), when(s.Newest.Time), age(s.Age)
		}
		if s.Promised > 0 {
			promised = age(s.Promised)
		}
		state := "ok"
		if len(s.Held) > 0 {
			state = "HELD"
		}
		switch {
		case len(m.lacks(s.Instance)) > 0:
			state = "ROLLED BACK"
		case m.drills[s.Instance].Problems > 0:
			state = "NOT AS SAVED"
		case s.Late || m.drills[s.Instance].Late:
			state = "LATE"
		}
		t.add(shown(s.Instance), id, at, old, promised, number(s.Snapshots), state)
	}
	t.write(w)
	for i := range list {
		for _, remark := range append(m.lacks(list[i].Instance), statusRemarks(&list[i])...) {
			fmt.Fprintf(w, "%s: %s\n", shown(list[i].Instance), remark)
		}
	}
	fmt.Fprintln(w)
	m.print(w, list)
}

func pluginState(s *snapshot.InstanceStatus) int {
	switch {
	case s.Late:
		return pluginCritical
	case s.Future || s.Latest != nil || len(s.Held) > 0:
		return pluginWarning
	}
	return pluginOK
}

// instanceText is an instance's state in a line.
func instanceText(s *snapshot.InstanceStatus) string {
	text := "no complete snapshot"
	if s.Newest != nil {
		text = "newest complete snapshot is " + age(s.Age) + " old"
	}
	if s.Promised > 0 {
		text += " (promised: " + age(s.Promised) + ")"
	}
	if r := statusRemarks(s); len(r) > 0 && s.Newest != nil {
		text += "; " + strings.Join(r, "; ")
	}
	return strings.ReplaceAll(text, "|", "/")
}

// plugin is an instance's state for monitoring.
func (m *more) plugin(s *snapshot.InstanceStatus) (state int, text string) {
	state, text = pluginState(s), instanceText(s)
	if lacks := m.lacks(s.Instance); len(lacks) > 0 {
		return pluginCritical, strings.ReplaceAll("ROLLED BACK: "+strings.Join(lacks, "; ")+"; "+text, "|", "/")
	}
	return state, text
}

// nagios prints the state of all instances as a plugin does, and ends with its code.
func (a *app) nagios(list []snapshot.InstanceStatus, m *more) error {
	worst := pluginOK
	var texts, perf []string
	for i := range list {
		s := &list[i]
		state, text := m.plugin(s)
		worst = max(worst, state)
		texts = append(texts, printable(s.Instance)+": "+text)
		limit := ""
		if s.Promised > 0 {
			limit = fmt.Sprintf(";;%.0f", s.Promised.Seconds())
		}
		perf = append(perf, fmt.Sprintf("'age_%s'=%.0fs%s", strings.NewReplacer("'", "''", "=", "_").Replace(printable(s.Instance)), s.Age.Seconds(), limit))
	}
	proofs := func(p *proof, what, key string) {
		if !p.worth() {
			return
		}
		state, text := p.plugin(m.now)
		worst = max(worst, state)
		texts = append(texts, what+" "+text)
		limit := ""
		if p.promised > 0 {
			limit = fmt.Sprintf(";;%.0f", p.Promised)
		}
		perf = append(perf, fmt.Sprintf("'%s'=%.0fs%s", key, p.Seconds, limit))
	}
	for i := range list {
		name := printable(list[i].Instance)
		proofs(m.drills[list[i].Instance], name+": last drill", "drill_age_"+strings.NewReplacer("'", "''", "=", "_").Replace(name))
	}
	proofs(m.check, "last check", "check_age")
	for _, s := range m.copies {
		worst = max(worst, s.plugin())
		texts = append(texts, printable(s.Instance)+" in "+s.Repository+": "+strings.ReplaceAll(s.text(), "|", "/"))
	}
	if len(list) == 0 {
		worst, texts = pluginCritical, []string{"no snapshots"}
	}
	for i := range m.missing {
		if !slices.ContainsFunc(list, func(s snapshot.InstanceStatus) bool { return s.Instance == m.missing[i].Instance }) { // it has none left
			worst, texts = pluginCritical, append(texts, "ROLLED BACK: "+printable(m.missing[i].Detail()))
		}
	}
	word := [...]string{"OK", "WARNING", "CRITICAL"}[worst]
	fmt.Fprintf(a.std.out, "WTSNAP %s - %s | %s\n", word, strings.Join(texts, ", "), strings.Join(perf, " "))
	if worst == pluginOK {
		return nil
	}
	return pluginExit(worst)
}

// age is a duration for people who compare days: 3d4h, 5h10m, 42m.
func age(d time.Duration) string {
	d = d.Round(time.Minute)
	days, hours, minutes := int(d/(24*time.Hour)), int(d/time.Hour)%24, int(d/time.Minute)%60
	switch {
	case days > 0 && hours > 0:
		return fmt.Sprintf("%dd%dh", days, hours)
	case days > 0:
		return fmt.Sprintf("%dd", days)
	case hours > 0 && minutes > 0:
		return fmt.Sprintf("%dh%dm", hours, minutes)
	case hours > 0:
		return fmt.Sprintf("%dh", hours)
	}
	return fmt.Sprintf("%dm", minutes)
}
