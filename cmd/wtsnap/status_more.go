package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/whole-tale/wtsnap/cmd/wtsnap/alert"
	"github.com/whole-tale/wtsnap/cmd/wtsnap/config"
	"github.com/whole-tale/wtsnap/cmd/wtsnap/doctor"
	"github.com/whole-tale/wtsnap/cmd/wtsnap/schedule"
	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/repo/storage"
	"github.com/whole-tale/wtsnap/snapshot"
	"github.com/whole-tale/wtsnap/snapshot/drill"
	"github.com/whole-tale/wtsnap/snapshot/witness"
)

// What status says beside the age of snapshots: proofs, that is checks and drills; retention; and what the storage tells.

// A proof says when something was last proven, and how that went.
type proof struct {
	Time     string  `json:"time,omitempty"`
	Seconds  float64 `json:"age_seconds,omitempty"`
	Promised float64 `json:"promised_seconds,omitempty"`
	Late     bool    `json:"late"`
	Problems int64   `json:"problems"` // what did not come back as saved, or is damaged
	Units    int     `json:"units,omitempty"`
	Overdue  int     `json:"overdue,omitempty"`
	Next     string  `json:"next_overdue,omitempty"`
	Bytes    int64   `json:"bytes,omitempty"` // restored, or read
	Failed   string  `json:"failed,omitempty"`
	// Share is which part of all stored bytes was read within so many seconds, of a check.
	Share  *float64 `json:"share,omitempty"`
	Within int64    `json:"within_seconds,omitempty"`

	at       time.Time
	promised time.Duration
}

// set compares the time of a proof with what was promised. One that never was is late when it could have been for so long: since
// the time of the oldest snapshot.
func (p *proof) set(at time.Time, promised time.Duration, oldest, now time.Time) {
	p.at, p.promised, p.Promised = at, promised, promised.Seconds()
	if !at.IsZero() {
		p.Time, p.Seconds = utc(at), max(0, now.Sub(at).Seconds())
	}
	if at.IsZero() {
		at = oldest
	}
	p.Late = promised > 0 && !at.IsZero() && now.Sub(at) > promised
}

// checked takes what the ledger of checks says: the last check that read data, and the last one that counted what all have read.
func (p *proof) checked(last, covering *repo.CheckRecord) {
	if last != nil {
		p.at, p.Problems, p.Bytes = last.Time, int64(last.Problems), last.Bytes
	}
	if covering != nil && covering.Coverage != nil {
		share := covering.Coverage.Share()
		p.Share, p.Within = &share, covering.Coverage.Within
	}
}

// text says it in words.
func (p *proof) text(now time.Time) string {
	if p.at.IsZero() {
		return "never" + p.promise()
	}
	text := age(max(0, now.Sub(p.at))) + " ago" + p.promise()
	switch {
	case p.Problems > 0:
		text += ": " + number(p.Problems) + " NOT AS SAVED"
	case p.Failed != "":
		text += ", ended early: " + p.Failed
	default:
		text += ": all was as saved"
	}
	if p.Share != nil {
		text += fmt.Sprintf("; %.0f%% of all data was read within %s", 100**p.Share, age(time.Duration(p.Within)*time.Second))
	}
	if p.Units > 0 {
		text += fmt.Sprintf("; %s of %s users and collections in time", number(p.Units-p.Overdue), number(p.Units))
	}
	return text
}

func (p *proof) promise() string {
	switch {
	case p.promised == 0:
		return ""
	case p.Late:
		return " (LATE, promised: " + age(p.promised) + ")"
	}
	return " (promised: " + age(p.promised) + ")"
}

// A heldDoc is a snapshot that no policy forgets.
type heldDoc struct {
	ID     string `json:"id"`
	Reason string `json:"reason"`
	Until  string `json:"until,omitempty"`
}

// A retentionDoc says what becomes of old snapshots.
type retentionDoc struct {
	Policy  string    `json:"policy"` // flags of forget; "" = nothing is forgotten by a job
	Keeps   int       `json:"keeps"`  // of the snapshots that are there
	Forgets int       `json:"forgets"`
	Held    []heldDoc `json:"held"`
}

// text says it in words.
func (r *retentionDoc) text() string {
	text := "no job of the configuration forgets any"
	if r.Policy != "" {
		text = r.Policy + ": keeps " + number(r.Keeps) + ", would forget " + number(r.Forgets)
	}
	if len(r.Held) > 0 {
		text += "; " + number(len(r.Held)) + " held (" + shown(r.Held[0].Reason) + ")"
	}
	return text
}

type storageDoc struct {
	Packs int    `json:"packs"`
	Bytes int64  `json:"bytes"`
	Free  *int64 `json:"free_bytes,omitempty"`
}

// more is what status says beside the age of snapshots.
type more struct {
	now       time.Time
	check     *proof // of the repository
	drills    map[string]*proof
	retention map[string]*retentionDoc
	storage   *storageDoc // nil: it was not asked
	tokens    []storage.Token
	copies    []*copyState
	remarks   []string
	missing   []witness.Missing
}

// lacks are the snapshots that an instance lacks, in words.
func (m *more) lacks(instance string) (out []string) {
	for i := range m.missing {
		if m.missing[i].Instance == instance {
			out = append(out, m.missing[i].Detail())
		}
	}
	return out
}

// gather reads the ledgers, and asks the storage where that is wanted. What cannot be read is a remark: the age of the
// snapshots counts more.
func (a *app) gather(r *repo.Repository, snaps []*snapshot.Snapshot, list []snapshot.InstanceStatus, ask bool) *more {
	m := &more{now: a.now(), missing: a.missing(), drills: map[string]*proof{}, retention: map[string]*retentionDoc{}}
	records, err := drill.Records(a.ctx, r, "")
	if err != nil {
		m.remarks = append(m.remarks, "the ledger of drills: "+message(err))
	}
	drillAges, checkAge := a.proofPromises()
	var oldest time.Time
	for i := range list {
		name := list[i].Instance
		m.drills[name] = drillProof(records, &list[i], drillAges[name], m.now)
		if at := list[i].Oldest; oldest.IsZero() || !at.IsZero() && at.Before(oldest) {
			oldest = at
		}
		m.retention[name] = a.retention(snaps, name, m.now)
	}
	m.check = &proof{}
	last, covering, err := r.LastCheck(a.ctx)
	if err != nil {
		m.remarks = append(m.remarks, "the ledger of checks: "+message(err))
	}
	m.check.checked(last, covering)
	m.check.set(m.check.at, checkAge, oldest, m.now)
	if ask {
		if err := m.ask(a); err != nil {
			m.remarks = append(m.remarks, "asking the storage: "+message(err))
		}
	}
	m.copies = a.copies(snaps, list, m.now)
	return m
}

// ask asks the storage how much there is and how much room, and the configuration about its token.
func (m *more) ask(a *app) error {
	m.storage = &storageDoc{}
	err := a.backend.List(a.ctx, "packs/", func(i storage.Info) error {
		m.storage.Packs++
		m.storage.Bytes += i.Size
		return nil
	})
	if err != nil {
		m.storage = nil
		return err
	}
	if free := a.free(a.ctx); free != storage.Unknown {
		m.storage.Free = &free
	}
	for _, t := range a.placedTokens() {
		if t.spec == a.g.repo {
			m.tokens = append(m.tokens, t.Token)
		}
	}
	return nil
}

// drillProof is what the ledger says of an instance's drills.
func drillProof(records []drill.Record, of *snapshot.InstanceStatus, promised time.Duration, now time.Time) *proof {
	p := &proof{}
	var at time.Time
	own := slices.DeleteFunc(slices.Clone(records), func(rec drill.Record) bool { return rec.Instance != of.Instance })
	p.Problems = int64(len(drill.StillWrong(own, now)))
	for _, rec := range own {
		if rec.Time.Before(at) {
			continue
		}
		at = rec.Time
		p.Units, p.Overdue, p.Bytes, p.Failed, p.Next = rec.Units, rec.Overdue, rec.Bytes, rec.Failed, ""
		if !rec.Next.IsZero() {
			p.Next = utc(rec.Next)
			if rec.Overdue == 0 && now.After(rec.Next) {
				p.Overdue = 1 // at least
			}
		}
	}
	p.set(at, promised, of.Oldest, now)
	p.Late = p.Late || promised > 0 && p.Overdue > 0
	return p
}

// proofPromises are what the configuration says of how old drills, and checks that read data, may be. A job that drills by a
// schedule promises one and a half times the longest time between two runs.
func (a *app) proofPromises() (drills map[string]time.Duration, check time.Duration) {
	drills = map[string]time.Duration{}
	if a.config == nil {
		return drills, 0
	}
	repository := strings.TrimPrefix(a.repoName, "@")
	for _, j := range a.config.Jobs {
		name := cmpOr(j.Instance, a.g.own)
		if name == "" || !j.Does("drill", repository) {
			continue
		}
		if s, err := schedule.Parse(j.Schedule); err == nil {
			drills[name] = max(drills[name], 3*s.Interval(a.now())/2)
		}
	}
	for name, i := range a.config.Instances {
		if i.Repository != repository {
			continue
		}
		if d := i.MaxDrillAge.Duration(); d > 0 {
			drills[name] = d
		}
		if d := i.MaxCheckAge.Duration(); d > 0 && (check == 0 || d < check) {
			check = d
		}
	}
	return drills, check
}

// retention says what the configuration's policy makes of an instance's snapshots.
func (a *app) retention(snaps []*snapshot.Snapshot, instance string, now time.Time) *retentionDoc {
	r := &retentionDoc{Held: []heldDoc{}}
	var own []*snapshot.Snapshot
	for _, s := range snaps {
		if s.Instance != instance {
			continue
		}
		own = append(own, s)
		if h := s.Hold(); h.Active(now) {
			d := heldDoc{ID: s.Ref.ID.String(), Reason: h.Reason}
			if !h.Until.IsZero() {
				d.Until = utc(h.Until)
			}
			r.Held = append(r.Held, d)
		}
	}
	r.Keeps = len(own)
	values, ok := a.forgetValues(instance)
	if !ok {
		return r
	}
	policy, text, err := policyOf(values)
	if err != nil {
		return r
	}
	r.Policy, r.Keeps = text, 0
	for _, d := range snapshot.ApplyPolicy(own, policy, now) {
		if d.Keep {
			r.Keeps++
		} else {
			r.Forgets++
		}
	}
	return r
}

// forgetValues are the rules by which a job of the configuration forgets snapshots of an instance.
func (a *app) forgetValues(instance string) (config.Values, bool) {
	if a.config == nil {
		return nil, false
	}
	repository := strings.TrimPrefix(a.repoName, "@")
	for _, name := range sortedKeys(a.config.Jobs) {
		j := a.config.Jobs[name]
		if cmpOr(j.Instance, a.g.own) != instance || !j.Does("forget", repository) {
			continue
		}
		places := []config.Values{a.config.Elsewhere[repository]["forget"], a.config.Commands["forget"]}
		if j.Repository == repository {
			places = slices.Insert(places, 0, j.Commands["forget"])
		}
		values := config.Values{}
		for _, from := range places { // the first that has a rule has them all
			for key, v := range from {
				if isRule(key) {
					values[key] = v
				}
			}
			if len(values) > 0 {
				break
			}
		}
		return values, true
	}
	return nil, false
}

// policyOf makes a policy of the values of flags, and says it as flags.
func policyOf(values config.Values) (p snapshot.Policy, text string, err error) {
	counts := map[string]*int{"keep-last": &p.Last, "keep-hourly": &p.Hourly, "keep-daily": &p.Daily, "keep-weekly": &p.Weekly,
		"keep-monthly": &p.Monthly, "keep-yearly": &p.Yearly}
	var words []string
	for _, key := range sortedKeys(values) {
		for _, v := range values[key] {
			words = append(words, "--"+key+" "+v)
			switch {
			case key == "keep-within":
				p.Within, err = snapshot.ParseDuration(v)
			case key == "keep-tag":
				p.Tags = append(p.Tags, v)
			case counts[key] != nil:
				*counts[key], err = parseCount(v)
			}
			if err != nil {
				return p, "", err
			}
		}
	}
	if len(words) == 0 {
		words = []string{"--keep-within 1w"} // the default policy
	}
	return p, strings.Join(words, " "), nil
}

// late says of an instance, in words, which proofs are late.
func (m *more) late(instance string) (out []string) {
	if p := m.drills[instance]; p != nil && p.Late {
		out = append(out, "its last drill was "+p.text(m.now))
	}
	return out
}

// wrong reports whether something did not come back as it was saved, as far as is known.
func (m *more) wrong() bool {
	for _, p := range m.drills {
		if p.Problems > 0 {
			return true
		}
	}
	return m.check.Problems > 0
}

// print prints what there is beside the table.
func (m *more) print(w io.Writer, list []snapshot.InstanceStatus) {
	for i := range list {
		s := &list[i]
		fmt.Fprintf(w, "%s:\n", shown(s.Instance))
		for _, src := range s.Sources {
			text := "never saved"
			if src.Newest != nil {
				text = "saved " + age(src.Age) + " ago"
			}
			if src.Late {
				text += " (LATE)"
			}
			fmt.Fprintf(w, "  %-10s %s\n", shown(src.Label), text)
		}
		for _, o := range s.Oplog {
			fmt.Fprintf(w, "  %-10s %s: %s\n", "oplog", labels(o), oplogRemark(o, s.List))
		}
		fmt.Fprintf(w, "  %-10s %s\n", "retention", m.retention[s.Instance].text())
		fmt.Fprintf(w, "  %-10s %s\n", "drill", m.drills[s.Instance].text(m.now))
	}
	fmt.Fprintln(w, "repository:")
	fmt.Fprintf(w, "  %-10s %s\n", "check", m.checkText())
	if st := m.storage; st != nil {
		text := size(st.Bytes) + " in " + plural(st.Packs, "pack", "packs")
		if st.Free != nil {
			text += "; room for " + size(*st.Free)
		}
		fmt.Fprintf(w, "  %-10s %s\n", "size", text)
	}
	for _, s := range m.copies {
		fmt.Fprintf(w, "  %-10s %s: %s\n", "copy", s.Repository, printable(s.Instance+": "+s.text()))
	}
	for i := range m.tokens {
		text := doctor.TokenText(&m.tokens[i], m.now)
		if m.tokens[i].Stage(m.now) >= 0 {
			text += " (SOON)"
		}
		fmt.Fprintf(w, "  %-10s %s\n", "token", text)
	}
	for _, remark := range m.remarks {
		fmt.Fprintf(w, "  %s\n", printable(remark))
	}
}

func (m *more) checkText() string {
	if m.check.at.IsZero() {
		return "no check has read data yet" + m.check.promise()
	}
	return m.check.text(m.now)
}

// plugin says in a line and a state how a proof stands.
func (p *proof) plugin(now time.Time) (state int, text string) {
	switch {
	case p.Problems > 0 || p.Late:
		state = pluginCritical
	case p.Failed != "" || p.Overdue > 0:
		state = pluginWarning
	}
	return state, strings.ReplaceAll(p.text(now), "|", "/")
}

// checkmk prints a line for each proof that there is or that is promised.
func (m *more) checkmk(w io.Writer, list []snapshot.InstanceStatus) {
	for i := range list {
		if p := m.drills[list[i].Instance]; p.worth() {
			state, text := p.plugin(m.now)
			fmt.Fprint(w, alert.CheckmkLine(state, "wtsnap "+list[i].Instance+" drill", fmt.Sprintf("age=%.0f|overdue=%d", p.Seconds, p.Overdue), "last drill "+text))
		}
	}
	for _, s := range m.copies {
		fmt.Fprint(w, alert.CheckmkLine(s.plugin(), "wtsnap "+s.Instance+" copy "+s.Repository, fmt.Sprintf("age=%.0f", s.Seconds), strings.ReplaceAll(s.text(), "|", "/")))
	}
	if m.check.worth() {
		state, text := m.check.plugin(m.now)
		fmt.Fprint(w, alert.CheckmkLine(state, "wtsnap check", fmt.Sprintf("age=%.0f", m.check.Seconds), "last check "+text))
	}
}

// worth reports whether there is something to say of a proof.
func (p *proof) worth() bool { return !p.at.IsZero() || p.promised > 0 }

// statusEnd is what status ends with.
func (m *more) statusEnd(list []snapshot.InstanceStatus) error {
	if len(m.missing) > 0 {
		return &statusError{exitDamage, "the repository was rolled back: it lacks " + plural(len(m.missing), "snapshot", "snapshots") + " that this machine has seen there",
			m.missing[0].Hint(), nil}
	}
	var late []string
	for i := range list {
		if list[i].Late || len(m.late(list[i].Instance)) > 0 {
			late = append(late, shown(list[i].Instance))
		}
	}
	if m.check.Late {
		late = append(late, "the check")
	}
	var unknown error
	for _, s := range m.copies {
		if s.Late {
			late = append(late, "the copy of "+shown(s.Instance)+" in "+s.Repository)
		}
		if s.err != nil && unknown == nil {
			unknown = fmt.Errorf("looking at the copies in %s: %w", s.Repository, s.err)
		}
	}
	switch {
	case m.wrong():
		return &statusError{exitDamage, "the last check or drill found what is not as saved", "wtsnap check; wtsnap drill -v; docs/operations.md has more",
			errorText(lateText(late))}
	case len(late) > 0:
		return &statusError{exitLate, lateText(late), "look at the log of the job that makes these backups: did it run, and how did it end?", nil}
	case unknown != nil:
		return unknown
	}
	for i := range list {
		if s := &list[i]; len(s.Held) > 0 {
			return &snapshot.HeldError{Instance: s.Instance, Snapshots: s.Held}
		}
	}
	return nil
}

func lateText(late []string) string {
	if len(late) == 0 {
		return ""
	}
	return "late: " + strings.Join(late, ", ")
}
