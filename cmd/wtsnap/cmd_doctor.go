package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/whole-tale/wtsnap/cmd/wtsnap/alert"
	"github.com/whole-tale/wtsnap/cmd/wtsnap/config"
	"github.com/whole-tale/wtsnap/cmd/wtsnap/doctor"
	"github.com/whole-tale/wtsnap/cmd/wtsnap/schedule"
	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/repo/storage"
	"github.com/whole-tale/wtsnap/repo/storage/rclone"
	"github.com/whole-tale/wtsnap/snapshot"
)

func (a *app) doctorCommand() *cli.Command {
	return &cli.Command{
		Name: "doctor", Usage: "look for what keeps backups and restores from working",
		Description: `Tries the storage out (an object of 4 KiB is stored, listed, read and removed), and looks at its token and its room, at the clock,
the password, the repository, further ones that jobs use, the sources, the alerts, the timer and the cache. Says what is
wrong and what to do about it. It works before there is a repository, too.

Examples:

  wtsnap doctor
  wtsnap doctor --read-only        on a machine that may only read
  wtsnap doctor -q                 only what is wrong

Exit codes: 0 nothing is wrong, though there may be warnings; else that of the gravest problem, as a backup would end: 5 the
remote's credentials do not work, or end within two weeks; 12, 13, 14; 6 something is late; 1 anything else.`,
		Flags:  []cli.Flag{&cli.BoolFlag{Name: "read-only", Usage: "store nothing: only try to read"}},
		Action: a.action(a.doctor),
	}
}

type doctorDoc struct {
	Worst    doctor.Severity    `json:"worst"`
	Problems int                `json:"problems"`
	Warnings int                `json:"warnings"`
	Findings doctor.Findings    `json:"findings"`
	Latency  map[string]float64 `json:"latency_seconds"`
	Tokens   []tokenDoc         `json:"tokens"`
	Free     *int64             `json:"free_bytes,omitempty"`
	Requests map[string]int64   `json:"requests"`
	Seconds  float64            `json:"seconds"`
}

// tokenDoc is what is known of a token.
type tokenDoc struct {
	Remote  string `json:"remote"`
	Kind    string `json:"kind"`
	Renewed string `json:"renewed,omitempty"`
	Dies    string `json:"dies,omitempty"`
	Stored  bool   `json:"writable"`
}

// doctorPatience is how long a request is tried again, unless --retry-for says otherwise: somebody waits.
const doctorPatience = "15s"

// examination is one run of doctor.
type examination struct {
	*app
	now     time.Time
	found   doctor.Findings
	probed  *doctor.Probed
	tokens  []storage.Token
	free    int64
	latency map[string]float64
}

func (a *app) doctor(c *cli.Context) error {
	start := time.Now()
	if _, err := a.arguments(0, 0, ""); err != nil {
		return err
	}
	if !a.g.retrySet {
		a.g.retryFor, _ = snapshot.ParseDuration(doctorPatience)
		a.g.retrySet = true
	}
	x := &examination{app: a, now: a.now(), free: storage.Unknown, latency: map[string]float64{}}
	x.found.Add(doctor.Versions, doctor.OK, fmt.Sprintf("wtsnap %s, repository format %d, rclone %s, %s %s/%s",
		programVersion(), repo.FormatVersion, rclone.Version(), runtime.Version(), runtime.GOOS, runtime.GOARCH), "")
	x.configuration()
	x.storage(c.Bool("read-only"))
	x.furtherRepositories(c.Bool("read-only"))
	x.sources()
	x.timers()
	x.cache()
	x.found.Sort()
	doc := doctorDoc{Worst: x.found.Worst(), Problems: x.found.Count(doctor.Problem), Warnings: x.found.Count(doctor.Warning), Findings: x.found,
		Latency: x.latency, Tokens: tokenDocs(x.tokens), Requests: a.requests(), Seconds: time.Since(start).Seconds()}
	if x.free != storage.Unknown {
		doc.Free = &x.free
	}
	a.result(doc, func(w io.Writer) { printFindings(w, x.found, a.g.quiet) })
	if code := x.found.Exit(); code != exitOK {
		return &statusError{code, plural(doc.Problems, "problem", "problems") + " found", "what each one says; docs/operations.md has more", nil}
	}
	return nil
}

func tokenDocs(tokens []storage.Token) []tokenDoc {
	out := []tokenDoc{}
	for i := range tokens {
		t := &tokens[i]
		d := tokenDoc{Remote: t.Remote, Kind: t.Kind, Stored: t.Stored}
		if !t.Issued.IsZero() {
			d.Renewed = utc(t.Issued)
		}
		if dies := t.Dies(); !dies.IsZero() {
			d.Dies = utc(dies)
		}
		out = append(out, d)
	}
	return out
}

// configuration examines wtsnap.toml, and what it points to.
func (x *examination) configuration() {
	if x.config == nil {
		x.found.Add(doctor.Configuration, doctor.Note, "there is no configuration: only what flags and variables say is looked at", "wtsnap config example prints one")
		return
	}
	x.found.Add(doctor.Configuration, doctor.OK, fmt.Sprintf("%s: %s, %s, %s", shown(x.config.Path), plural(len(x.config.Sources), "source", "sources"),
		plural(len(x.config.Jobs), "job", "jobs"), plural(len(x.config.Alerts), "alert", "alerts")), "")
	if len(x.config.Jobs) > 0 && len(x.config.Alerts) == 0 {
		x.found.Add(doctor.Alerts, doctor.Warning, "no alert is configured: nobody hears of a night that fails", "[alerts.mail] in "+shown(x.config.Path)+"; docs/cli/run.md")
	}
	bad := 0
	for _, name := range sortedKeys(x.config.Alerts) {
		al := x.config.Alerts[name]
		for _, secret := range []*config.Secret{al.Notify, al.Ping} {
			if secret == nil {
				continue
			}
			if _, err := secret.Read(x.ctx); err != nil {
				bad++
				x.found.Problem(doctor.Alerts, exitUsage, fmt.Sprintf("the alert %s: %v", name, err), "correct alerts."+name+" in "+shown(x.config.Path))
			}
		}
	}
	if n := len(x.config.Alerts); n > 0 && bad == 0 {
		x.found.Add(doctor.Alerts, doctor.OK, plural(n, "alert has what it needs", "alerts have what they need")+"; nothing was sent", "")
	}
}

// storage examines the place of the repository, and the repository.
func (x *examination) storage(readOnly bool) {
	if x.g.passwordFile != "" {
		x.found = append(x.found, doctor.Secret(doctor.Password, "the password file", x.g.passwordFile)...)
	}
	b, err := x.openBackend()
	if err != nil {
		f := doctor.Failure(doctor.Remote, "opening the storage", err)
		f.Text, f.Hint = message(err), hint(err)
		if isUsage(err) {
			f.Exit = exitUsage
		}
		x.found = append(x.found, f)
		return
	}
	where := shownRepo(x.g.repo)
	if readOnly {
		x.probed = doctor.Look(x.ctx, b.Storage)
	} else {
		x.probed = doctor.Probe(x.ctx, b.Storage)
	}
	for i := range x.probed.Findings {
		x.probed.Findings[i].Text = where + ": " + x.probed.Findings[i].Text
	}
	x.found = append(x.found, x.probed.Findings...)
	for kind, d := range x.probed.Latency {
		x.latency[kind] = d.Seconds()
	}
	x.credentials()
	if !x.probed.Reached {
		return
	}
	x.room()
	x.clock(b)
	x.repository(b)
}

// credentials examines the tokens of all remotes that the configuration names. They are looked at after the storage was
// used, which renews them.
func (x *examination) credentials() {
	for _, t := range x.placedTokens() {
		x.tokens = append(x.tokens, t.Token)
		x.found = append(x.found, doctor.Tokens([]storage.Token{t.Token}, x.probed.Reached && t.spec == x.g.repo, x.now)...)
	}
}

// remotes are the places on rclone's remotes that the configuration names, this run's first.
func (a *app) remotes() (specs []string) {
	add := func(spec string) {
		if spec != "" && !isFolder(spec) && !slices.Contains(specs, spec) {
			specs = append(specs, spec)
		}
	}
	add(a.g.repo)
	if a.config == nil {
		return specs
	}
	for _, v := range append([]config.Values{a.config.Globals}, valuesOf(a.config.Repositories)...) {
		if len(v["repo"]) > 0 {
			add(v["repo"][0])
		}
	}
	return specs
}

func valuesOf(m map[string]config.Values) (out []config.Values) {
	for _, name := range sortedKeys(m) {
		out = append(out, m[name])
	}
	return out
}

func sortedKeys[V any](m map[string]V) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func (x *examination) room() {
	x.free = x.app.free(x.ctx)
	switch {
	case x.free == storage.Unknown:
		x.found.Add(doctor.Room, doctor.Note, "the storage does not tell how much room it has", "")
	case x.free < leastRoom:
		x.found.Problem(doctor.Room, exitFailed, "the storage has room for "+size(x.free)+" only", "make room there, or raise the quota; wtsnap forget and wtsnap prune free what is no longer needed")
	default:
		severity, hint := doctor.OK, ""
		if x.free < littleRoom {
			severity, hint = doctor.Warning, "raise the quota before it is full; wtsnap forget and wtsnap prune free what is no longer needed"
		}
		x.found.Add(doctor.Room, severity, "the storage has room for "+size(x.free), hint)
	}
}

// littleRoom is worth a warning: a prune may need some to write packs anew before old ones go.
const littleRoom = 1 << 30

func (x *examination) clock(b *backend) {
	switch {
	case b.remote != nil:
		skew, known := b.remote.ClockSkew()
		x.found = append(x.found, doctor.ClockSkew(skew, known, "the server's")...)
	case !x.probed.Stored.IsZero():
		x.found = append(x.found, doctor.ClockSkew(x.probed.At.Sub(x.probed.Stored), true, "the file system's")...)
	default:
		x.found = append(x.found, doctor.ClockSkew(0, false, "")...)
	}
}

// repository examines what is there.
func (x *examination) repository(b *backend) {
	password, ask, err := x.opener(x.ctx)
	if err != nil {
		code := exitFailed
		if isUsage(err) {
			code = exitUsage
		}
		if _, e := b.Stat(x.ctx, "config"); errors.Is(e, storage.ErrNotExist) {
			x.found.Add(doctor.Repository, doctor.Note, "there is no repository at "+shownRepo(x.g.repo)+" yet", "wtsnap init makes one")
			return
		}
		x.found.Problem(doctor.Password, code, message(err), hint(err))
		return
	}
	r, err := repo.Open(x.ctx, b.Storage, repo.OpenOptions{Password: password, Ask: ask, Cached: b.cached, Near: b.remote == nil})
	switch {
	case errors.Is(err, repo.ErrNoRepository):
		x.found.Add(doctor.Repository, doctor.Note, "there is no repository at "+shownRepo(x.g.repo)+" yet", "wtsnap init makes one; check -r if there should be one")
		return
	case errors.Is(err, repo.ErrWrongPassword):
		x.found.Problem(doctor.Password, exitPassword, "the password does not open the repository", hint(err))
		return
	case err != nil:
		x.found.Problem(doctor.Repository, exitCode(x.ctx, err), "opening it: "+message(err), hint(err))
		return
	}
	x.found.Add(doctor.Password, doctor.OK, "the password opens the repository", "")
	snaps, err := snapshot.List(x.ctx, r, snapshot.Filter{Instance: x.g.instance})
	if err != nil {
		x.found.Problem(doctor.Repository, exitCode(x.ctx, err), "listing the snapshots: "+message(err), hint(err))
		return
	}
	promised, expected := x.promises()
	list := snapshot.Status(snaps, promised, expected, x.now)
	if len(list) == 0 {
		x.found.Add(doctor.Repository, doctor.Note, "repository "+r.ID()[:8]+" has no snapshot yet", "wtsnap backup")
	}
	for i := range list {
		s := &list[i]
		text := shown(s.Instance) + ": " + instanceText(s)
		switch {
		case s.Late:
			x.found.Problem(doctor.Repository, exitLate, text, "look at the log of the job that makes these backups")
		case s.Future:
			x.found.Add(doctor.Repository, doctor.Warning, text, "compare the clocks of the machines that back up")
		default:
			x.found.Add(doctor.Repository, doctor.OK, text, "")
		}
	}
	x.proofs(x.gather(r, snaps, list, false), list)
}

// proofs examines when drills and checks were, as status does.
func (x *examination) proofs(m *more, list []snapshot.InstanceStatus) {
	add := func(what, hint string, p *proof) {
		text := what + " " + p.text(x.now)
		switch {
		case p.Problems > 0:
			x.found.Problem(doctor.Repository, exitDamage, text, "wtsnap check; wtsnap drill -v; docs/operations.md has more")
		case p.Late:
			x.found.Problem(doctor.Repository, exitLate, text, hint)
		case p.at.IsZero():
			x.found.Add(doctor.Repository, doctor.Note, text, hint)
		default:
			x.found.Add(doctor.Repository, doctor.OK, text, "")
		}
	}
	for i := range list {
		if list[i].Newest != nil {
			add(shown(list[i].Instance)+": last drill:", "wtsnap drill, or as a job's step: steps = [..., \"drill\"]", m.drills[list[i].Instance])
		}
	}
	for _, s := range m.copies {
		text := shown(s.Instance) + " in " + s.Repository + ": " + s.text()
		switch {
		case s.err != nil: // what is wrong there is said of that repository
		case s.Late:
			x.found.Problem(doctor.Repository, exitLate, text, "look at the log of the job that copies there")
		default:
			x.found.Add(doctor.Repository, doctor.OK, text, "")
		}
	}
	if len(list) > 0 {
		add("last check that read data:", "wtsnap check --read-data-within 30d, as a job's step: [check] read-data-within = \"30d\"", m.check)
	}
}

// sources examines what the configuration wants saved.
func (x *examination) sources() {
	if x.config == nil {
		return
	}
	all := snapshot.ExcludeOptions{}
	values := x.config.Commands["backup"]
	all.Patterns, _ = patternsOf(values["exclude-file"], values["exclude"], "[backup]")
	for i := range x.config.Sources {
		s := &x.config.Sources[i]
		spec, err := x.configuredSource(s)
		if err != nil {
			x.found.Problem(doctor.Sources, exitUsage, fmt.Sprintf("source %s: %v", s.Label, err), "correct sources."+s.Label+" in "+shown(x.config.Path))
			continue
		}
		excluded, err := snapshot.Excluded(all, &spec)
		if err != nil {
			x.found.Problem(doctor.Sources, exitUsage, fmt.Sprintf("source %s: %v", s.Label, err), "")
			continue
		}
		x.found = append(x.found, doctor.Source(x.ctx, &spec, excluded)...)
	}
}

// timers examines what starts the jobs.
func (x *examination) timers() {
	if x.config == nil {
		return
	}
	ctl := doctor.FindSystemctl()
	for _, name := range sortedKeys(x.config.Jobs) {
		j := x.config.Jobs[name]
		s, err := schedule.Parse(j.Schedule)
		if err != nil {
			continue // it is run by hand
		}
		scheduled := doctor.Scheduled{Job: name, Every: s.Interval(x.now)}
		if dir := stateFolder(); dir != "" {
			if state, err := alert.LoadState(dir, name); err == nil {
				scheduled.LastRun = state.LastRun
			}
		}
		x.found = append(x.found, doctor.JobTimer(x.ctx, ctl, scheduled, x.now)...)
	}
}

// cache examines the copy of what is remote.
func (x *examination) cache() {
	switch {
	case x.g.repo == "" || isFolder(x.g.repo):
		return
	case x.g.cacheDir == "":
		x.found.Add(doctor.Cache, doctor.Note, "there is no cache: everything is read from the remote each time", "--cache-dir FOLDER keeps one")
		return
	}
	dir := cacheOf(x.g.cacheDir, x.g.repo)
	x.found = append(x.found, doctor.CacheFolder(x.g.cacheDir, []string{dir, dir + ".frames"}, x.g.cacheBytes(), size)...)
}

// printFindings prints what was found; quiet leaves out what is as it should be.
func printFindings(w io.Writer, found doctor.Findings, quiet bool) {
	area := ""
	for _, f := range found {
		if quiet && (f.Severity == doctor.OK || f.Severity == doctor.Note) {
			continue
		}
		head := f.Area
		if head == area {
			head = ""
		}
		area = f.Area
		word := string(f.Severity)
		if f.Severity == doctor.Problem {
			word = "PROBLEM"
		}
		fmt.Fprintf(w, "%-14s%-9s%s\n", head, word, printable(f.Text))
		if f.Hint != "" {
			fmt.Fprintf(w, "%23stry: %s\n", "", printable(f.Hint))
		}
	}
	if quiet {
		return
	}
	p, n := found.Count(doctor.Problem), found.Count(doctor.Warning)
	if p == 0 {
		fmt.Fprintf(w, "\nno problem was found, %s\n", plural(n, "warning", "warnings"))
	} else {
		fmt.Fprintf(w, "\n%s, %s\n", plural(p, "problem", "problems"), plural(n, "warning", "warnings"))
	}
}

// stateFolder is stateDir that makes nothing; "" where there is none.
func stateFolder() string {
	dir, err := statePath()
	if err != nil {
		return ""
	}
	if _, err := os.Stat(dir); err != nil {
		return ""
	}
	return dir
}
