package alert

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-smtp"

	"github.com/whole-tale/wtsnap/cmd/wtsnap/config"
	"github.com/whole-tale/wtsnap/cmd/wtsnap/job"
	"github.com/whole-tale/wtsnap/snapshot"
)

var quick = Teller{Waits: []time.Duration{0, time.Millisecond, time.Millisecond}}

// receiver is an HTTP server that remembers what it was sent.
type receiver struct {
	*httptest.Server
	mu   sync.Mutex
	got  []string // path and body
	fail int      // how many requests to refuse
	code int
}

func newReceiver(t *testing.T) *receiver {
	r := &receiver{code: http.StatusServiceUnavailable}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.fail > 0 {
			r.fail--
			w.WriteHeader(r.code)
			return
		}
		r.got = append(r.got, req.Method+" "+req.URL.Path+" "+string(body))
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) take() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	got := r.got
	r.got = nil
	return got
}

func (r *receiver) refuse(n, code int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fail, r.code = n, code
}

// webhook is the notifier's URL of a receiver.
func (r *receiver) webhook(path string) *config.Secret {
	return &config.Secret{Text: "generic+" + r.URL + path}
}

func report(exit int, end time.Time) *job.Report {
	r := &job.Report{Job: "nightly", Instance: "production", Start: end.Add(-time.Hour), End: end, Status: job.OK, Exit: exit}
	s := job.Step{Name: "backup", Status: job.OK, Exit: exit, Seconds: 3600}
	switch exit {
	case 0:
	case 3:
		s.Status, s.Message = job.Warning, "2 files could not be read"
	default:
		s.Status, s.Message, s.Hint = job.Failed, "a source is empty", "mount it"
	}
	r.Status = s.Status
	r.Steps = []job.Step{s}
	return r
}

// TestFortnight: each trouble is told once, its end too, and nothing else.
func TestFortnight(t *testing.T) {
	web := newReceiver(t)
	dir := t.TempDir()
	alerts := map[string]*config.Alert{
		"ops":   {Name: "ops", Notify: web.webhook("/ops")},
		"all":   {Name: "all", Notify: web.webhook("/all"), On: []config.Event{config.OnSuccess, config.OnWarning, config.OnFailure, config.OnRecovery}},
		"other": {Name: "other", Notify: web.webhook("/other"), Jobs: []string{"weekly"}},
		"nag":   {Name: "nag", Notify: web.webhook("/nag"), On: []config.Event{config.OnFailure}, Repeat: snapshot.Span{Days: 2}},
	}
	night := time.Date(2026, 11, 1, 3, 0, 0, 0, time.UTC)
	for i, c := range []struct {
		exit int
		want string // who is told what
	}{
		{0, "all:done"}, {0, "all:done"}, {14, "all:failed nag:failed ops:failed"}, {14, ""}, {14, "nag:failed"}, {5, "all:failed nag:failed ops:failed"},
		{0, "all:works again ops:works again"}, {0, "all:done"}, {3, "all:ended with warnings"}, {3, ""}, {0, "all:done"}, {1, "all:failed nag:failed ops:failed"},
		{3, "all:works again ops:works again"}, {0, "all:done"},
	} {
		now := night.AddDate(0, 0, i)
		s, err := LoadState(dir, "nightly")
		if err != nil {
			t.Fatal(err)
		}
		r := report(c.exit, now)
		m := MessageOf(r, s, "fileserver")
		s.Note(r)
		if err := quick.Deliver(context.Background(), alerts, s, m); err != nil {
			t.Fatal(err)
		}
		if err := s.Save(dir); err != nil {
			t.Fatal(err)
		}
		var told []string
		for _, got := range web.take() {
			who := strings.TrimPrefix(strings.Fields(got)[1], "/")
			what := ""
			for _, w := range []string{"done", "failed", "works again", "ended with warnings"} {
				if strings.Contains(got, "backup job "+w) {
					what = w
				}
			}
			told = append(told, who+":"+what)
			if c.exit != 0 && (!strings.Contains(got, r.Steps[0].Message) || !strings.Contains(got, "fileserver")) {
				t.Errorf("night %d: the message does not say why: %s", i+1, got)
			}
		}
		if got := strings.Join(told, " "); got != c.want {
			t.Errorf("night %d, exit %d: told %q, want %q", i+1, c.exit, got, c.want)
		}
	}
}

// TestUndelivered: what cannot be told is told later, and by others at once.
func TestUndelivered(t *testing.T) {
	web, dead := newReceiver(t), newReceiver(t)
	alerts := map[string]*config.Alert{"a-dead": {Notify: dead.webhook("/secret-token-1234")}, "ops": {Notify: web.webhook("/ops")}}
	s := &State{Job: "nightly", Sent: map[string]Sent{}}
	now := time.Date(2026, 11, 1, 3, 0, 0, 0, time.UTC)
	r := report(1, now)
	m := MessageOf(r, s, "")
	s.Note(r)
	dead.refuse(100, 500)
	err := quick.Deliver(context.Background(), alerts, s, m)
	if err == nil || !strings.Contains(err.Error(), "the alert a-dead could not be delivered") || strings.Contains(err.Error(), "token-1234") {
		t.Errorf("%v", err)
	}
	if got := strings.Join(web.take(), ""); !strings.Contains(got, "a-dead could not be delivered") || strings.Contains(got, "token-1234") {
		t.Errorf("the other alert tells %q", got)
	}
	dead.refuse(0, 0)
	if err := quick.Deliver(context.Background(), alerts, s, nil); err != nil {
		t.Error(err)
	}
	if got := strings.Join(dead.take(), ""); !strings.Contains(got, "could not be delivered at 2026-11-01") || !strings.Contains(got, "a source is empty") {
		t.Errorf("told later: %q", got)
	}
	if got := web.take(); len(got) != 0 {
		t.Errorf("told twice: %q", got)
	}
	dead.refuse(2, 503) // fewer than attempts
	if err := quick.Deliver(context.Background(), alerts, s, &Message{Event: config.OnLate, Cause: "late", Title: "backup is late", Time: now}); err != nil || len(dead.take()) != 1 {
		t.Errorf("two refusals: %v", err)
	}
}

func TestPing(t *testing.T) {
	web := newReceiver(t)
	secret := &config.Secret{Text: web.URL + "/uuid-of-a-check/"}
	ctx := context.Background()
	for _, kind := range []PingKind{PingStart, PingSuccess, PingFailure} {
		web.refuse(1, http.StatusTooManyRequests)
		if err := quick.Ping(ctx, secret, kind, "log of "+string(kind)); err != nil {
			t.Errorf("%q: %v", kind, err)
		}
	}
	if got := strings.Join(web.take(), "; "); got != "POST /uuid-of-a-check/start log of /start; POST /uuid-of-a-check log of ; POST /uuid-of-a-check/fail log of /fail" {
		t.Error(got)
	}
	if err := quick.Ping(ctx, secret, PingFailure, strings.Repeat("x", pingBody)+"the end"); err != nil {
		t.Error(err)
	}
	if got := web.take(); len(got) != 1 || !strings.HasSuffix(got[0], "xthe end") || len(got[0]) > pingBody+100 {
		t.Errorf("a long log: %d", len(got))
	}
	web.refuse(1, http.StatusNotFound) // no such check: another attempt would not help
	if err := quick.Ping(ctx, secret, PingSuccess, ""); err == nil || strings.Contains(err.Error(), "uuid-of") || !strings.Contains(err.Error(), "404") {
		t.Errorf("404: %v", err)
	}
	web.Close()
	if err := quick.Ping(ctx, secret, PingSuccess, ""); err == nil || strings.Contains(err.Error(), "uuid-of") {
		t.Errorf("nobody there: %v", err)
	}
	if err := quick.Ping(ctx, &config.Secret{Text: "ftp://x/y"}, PingSuccess, ""); err == nil {
		t.Error("not a URL of a ping")
	}
}

// mailbox is an SMTP server.
type mailbox struct {
	mu   sync.Mutex
	mail []string
}

func (b *mailbox) NewSession(*smtp.Conn) (smtp.Session, error) { return &mailSession{b: b}, nil }

type mailSession struct {
	b        *mailbox
	from, to string
}

func (s *mailSession) Reset()        {}
func (s *mailSession) Logout() error { return nil }
func (s *mailSession) Mail(from string, _ *smtp.MailOptions) error {
	s.from = from
	return nil
}
func (s *mailSession) Rcpt(to string, _ *smtp.RcptOptions) error {
	s.to = to
	return nil
}
func (s *mailSession) Data(r io.Reader) error {
	text, err := io.ReadAll(r)
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	s.b.mail = append(s.b.mail, s.from+" "+s.to+" "+string(text))
	return err
}

func TestMail(t *testing.T) {
	box := &mailbox{}
	server := smtp.NewServer(box)
	server.Domain = "localhost"
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	t.Cleanup(func() {
		_ = server.Close()
		<-done
	})
	secret := &config.Secret{Text: fmt.Sprintf("smtp://%s/?from=wtsnap@example.org&to=ops@example.org&auth=None&encryption=None&useStartTLS=no", l.Addr())}
	alerts := map[string]*config.Alert{"mail": {Notify: secret}}
	s := &State{Job: "nightly", Sent: map[string]Sent{}}
	r := report(14, time.Date(2026, 11, 1, 3, 0, 0, 0, time.UTC))
	if err := quick.Deliver(context.Background(), alerts, s, MessageOf(r, s, "fileserver")); err != nil {
		t.Fatal(err)
	}
	box.mu.Lock()
	defer box.mu.Unlock()
	if len(box.mail) != 1 {
		t.Fatalf("%d mails", len(box.mail))
	}
	for _, want := range []string{"wtsnap@example.org ops@example.org", "backup job failed: production: nightly", "a source is empty", "try: mount it"} {
		if !strings.Contains(box.mail[0], want) {
			t.Errorf("the mail lacks %q: %s", want, box.mail[0])
		}
	}
}

func TestFiles(t *testing.T) {
	dir := t.TempDir()
	s := &State{Job: "nightly"}
	good, bad := report(0, time.Unix(1800000000, 0).UTC()), report(14, time.Unix(1800086400, 0).UTC())
	s.Note(good)
	s.Note(bad)
	prom, check := filepath.Join(dir, "x.prom"), filepath.Join(dir, "90000_wtsnap")
	if err := WriteTextFile(prom, s); err != nil {
		t.Fatal(err)
	}
	if err := WriteCheckmk(check, s); err != nil {
		t.Fatal(err)
	}
	text, _ := os.ReadFile(prom)
	for _, want := range []string{
		`wtsnap_job_last_success_timestamp_seconds{instance="production",job="nightly"} 1.8e+09`,
		`wtsnap_job_last_run_timestamp_seconds{instance="production",job="nightly"} 1.8000828e+09`,
		`wtsnap_job_exit_code{instance="production",job="nightly"} 14`,
		`wtsnap_job_step_failed{instance="production",job="nightly",step="backup"} 1`, "# HELP wtsnap_job_failed ", "# TYPE wtsnap_job_failed gauge",
	} {
		if !strings.Contains(string(text), want+"\n") && !strings.Contains(string(text), want) {
			t.Errorf("the metrics lack %q:\n%s", want, text)
		}
	}
	text, _ = os.ReadFile(check)
	if want := "<<<local:sep(0)>>>\n2 \"wtsnap nightly\" duration=3600|exit=14 failed at "; !strings.HasPrefix(string(text), want) || bytes.Count(text, []byte("\n")) != 2 {
		t.Errorf("for Checkmk: %q", text)
	}
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if info, err := e.Info(); err != nil || info.Mode().Perm() != 0o644 || strings.HasPrefix(e.Name(), ".") {
			t.Errorf("%s: %v, %v", e.Name(), info.Mode(), err)
		}
	}
	if len(entries) != 2 {
		t.Errorf("%d files", len(entries))
	}
	if err := WriteTextFile(filepath.Join(dir, "none", "x"), s); err == nil {
		t.Error("a missing folder is no error")
	}
}

func TestState(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "job-n.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := LoadState(dir, "n")
	if err == nil || s == nil || s.Job != "n" {
		t.Fatalf("a broken file: %v, %v", s, err)
	}
	s.Note(report(1, time.Unix(1, 0)))
	s.Note(report(1, time.Unix(100, 0)))
	if err := s.Save(dir); err != nil {
		t.Fatal(err)
	}
	got, err := LoadState(dir, "n")
	if err != nil || !got.Failing.Equal(time.Unix(1, 0)) || !got.LastSuccess.IsZero() || got.Last.Exit != 1 {
		t.Errorf("%+v, %v", got, err)
	}
}
