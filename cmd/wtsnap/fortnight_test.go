package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-smtp"
)

// atMain is the program on a day that a test chooses: AT is what its clock shows when it starts.
func atMain() {
	at, err := time.Parse(time.RFC3339, os.Getenv("AT"))
	if err != nil {
		fmt.Fprintln(os.Stderr, "AT:", err)
		os.Exit(99)
	}
	start := time.Now()
	ctx, stop := withSignals(context.Background())
	a := newApp(ctx, std{os.Stdin, os.Stdout, os.Stderr})
	a.clock = func() time.Time { return at.Add(time.Since(start)) }
	code := a.main(os.Args)
	stop()
	os.Exit(code)
}

// ops are those who are told: by a webhook and by mail.
type ops struct {
	mu   sync.Mutex
	told map[string][]string // titles, by the way that they came
}

var titles = regexp.MustCompile(`(backup job failed|backup job works again|backup is late|the credentials of [a-z]+ [a-z ]+)`)

func (o *ops) tell(by, text string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.told[by] = append(o.told[by], titles.FindString(text))
}

func (o *ops) take(by string) []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	told := o.told[by]
	delete(o.told, by)
	return told
}

// NewSession takes a mail.
func (o *ops) NewSession(*smtp.Conn) (smtp.Session, error) { return &opsMail{o}, nil }

type opsMail struct{ o *ops }

func (*opsMail) Reset()                               {}
func (*opsMail) Logout() error                        { return nil }
func (*opsMail) Mail(string, *smtp.MailOptions) error { return nil }
func (*opsMail) Rcpt(string, *smtp.RcptOptions) error { return nil }
func (m *opsMail) Data(r io.Reader) error {
	text, err := io.ReadAll(r)
	m.o.tell("mail", string(text))
	return err
}

// newOps starts the servers, and returns the part of a configuration that leads to them.
func newOps(t *testing.T) (*ops, string) {
	t.Helper()
	o := &ops{told: map[string][]string{}}
	web := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) {
		body, _ := io.ReadAll(q.Body)
		o.tell("web", string(body))
	}))
	t.Cleanup(web.Close)
	mail := smtp.NewServer(o)
	mail.Domain = "localhost"
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- mail.Serve(l) }()
	t.Cleanup(func() {
		_ = mail.Close()
		<-done
	})
	return o, fmt.Sprintf("[alerts.web]\nnotify = \"generic+%s/hook\"\n[alerts.mail]\n"+
		"notify = \"smtp://%s/?from=wtsnap@example.org&to=ops@example.org&auth=None&encryption=None&useStartTLS=no\"\n", web.URL, l.Addr())
}

// fortnight is a machine that is backed up each night, and another one that watches.
type fortnight struct {
	*remote
	ops *ops
	day time.Time
}

// at runs a program at a time of the day and returns its exit code and what it said.
func (f *fortnight) at(clock, who string, args ...string) (int, string) {
	f.t.Helper()
	hour, err := time.Parse("15:04", clock)
	if err != nil {
		f.t.Fatal(err)
	}
	at := f.day.Add(time.Duration(hour.Hour())*time.Hour + time.Duration(hour.Minute())*time.Minute)
	c := exec.CommandContext(f.t.Context(), "wtsnapat", append([]string{"--config", f.path("wtsnap.toml")}, args...)...)
	c.Dir, c.Env = f.dir, append(f.env, "AT="+at.Format(time.RFC3339), "XDG_STATE_HOME="+f.path("state-"+who))
	out, err := c.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		f.t.Fatal(err)
	}
	return c.ProcessState.ExitCode(), string(out)
}

// expect runs a job that must end with a code, and after which both ways must have told just what is wanted.
func (f *fortnight) expect(clock, who, job string, code int, want ...string) {
	f.t.Helper()
	got, out := f.at(clock, who, "run", job)
	if got != code {
		f.t.Errorf("%s %s, %s: exit code %d, want %d\n%s", f.day.Format(time.DateOnly), clock, job, got, code, out)
	}
	for _, by := range []string{"web", "mail"} {
		if told := f.ops.take(by); !slices.Equal(told, want) {
			f.t.Errorf("%s %s, %s: told by %s: %q, want %q\n%s", f.day.Format(time.DateOnly), clock, job, by, told, want, out)
		}
	}
}

// A fortnight in which nearly everything goes wrong that can. Each trouble is told once, by every way that was asked for, and
// so is its end; nothing good is lost, although retention goes on in the nights between.
func TestEventfulFortnight(t *testing.T) {
	t.Parallel()
	r, b := serveBox(t)
	o, alerts := newOps(t)
	f := &fortnight{remote: r, ops: o, day: time.Now().UTC().Truncate(24*time.Hour).AddDate(0, 0, -20)}
	for i := range 130 {
		f.write(fmt.Sprintf("alice/f%03d", i), 500+i)
	}
	if err := os.WriteFile(f.path("wtsnap.toml"), []byte(`retry-for = "1s"
[sources.homes]
from = "src"
[forget]
keep-last = 3
[jobs.nightly]
steps = ["backup", "forget", "check", "drill"]
schedule = "02:30"
max-age = "30h"
[jobs.watch]
steps = ["status"]
`+alerts), 0o600); err != nil {
		t.Fatal(err)
	}
	r.run(0, "forget", "latest") // of the helper, dated today
	const (
		failed, works, late = "backup job failed", "backup job works again", "backup is late"
	)
	good := map[int]string{} // what the source was when it was last saved, by day
	trouble := map[int]struct {
		code       int
		begin, end func()
	}{
		3: {1, func() {
			b.Spoil(func(w http.ResponseWriter, _ *http.Request) bool {
				w.WriteHeader(http.StatusServiceUnavailable)
				return true
			})
		}, func() { b.Spoil(nil) }},
		7:  {5, func() { b.Expire(time.Hour); r.login(b); b.Revoke() }, func() { b.Login(); r.login(b) }},
		8:  {14, func() { f.rename("src", "gone"); f.mkdir("src/lost+found") }, func() { f.remove("src"); f.rename("gone", "src") }},
		13: {1, func() { f.write("bob/large", 3_000_000); b.Quota(100_000) }, func() { b.Quota(-1) }},
	}
	for day := 1; day <= 14; day++ {
		f.write(fmt.Sprint("alice/of day ", day), 4000)
		switch bad, ok := trouble[day]; {
		case day == 5: // the machine is off
			f.expect("12:00", "watcher", "watch", 6, late)
			f.expect("18:00", "watcher", "watch", 6)
		case day == 10: // everything is encrypted; somebody looks at it the day after
			f.encrypt()
			f.expect("02:30", "server", "nightly", 14, failed)
			f.expect("12:00", "watcher", "watch", 14, failed)
		case day == 11:
			f.expect("02:30", "server", "nightly", 14) // the same trouble
			f.expect("05:00", "watcher", "watch", 14)
			before := f.snapshotBefore(f.day.AddDate(0, 0, -1))
			r.run(0, "restore", before+":homes", "--to", r.path("src"), "--delete", "--yes")
			if got := f.files("src"); got != good[9] {
				t.Errorf("what was there before the encryption:\n%s\nwas\n%s", got, good[9])
			}
			r.run(0, "hold", "--release-anomaly")
			f.expect("09:00", "server", "nightly", 0, works)
		case ok:
			bad.begin()
			f.expect("02:30", "server", "nightly", bad.code, failed)
			bad.end()
			f.expect("09:00", "server", "nightly", 0, works)
		default:
			f.expect("02:30", "server", "nightly", 0)
		}
		switch day {
		case 5, 10:
		case 6, 11:
			f.expect("12:00", "watcher", "watch", 0, works)
		default:
			f.expect("12:00", "watcher", "watch", 0)
		}
		if day != 5 {
			good[day] = f.files("src")
		}
		f.day = f.day.AddDate(0, 0, 1)
	}
	if out := r.run(0, "check", "--read-data"); !strings.Contains(out, "no damage found") {
		t.Error(out)
	}
	out := r.run(0, "snapshots")
	if n := strings.Count(out, "web"); n != 3 {
		t.Errorf("%d snapshots are kept\n%s", n, out)
	}
	for back, day := range []int{14, 13, 12} {
		to := fmt.Sprint("restored", day)
		r.run(0, "restore", fmt.Sprintf("latest~%d:homes", back), "--to", r.path(to))
		if got := r.files(to); got != good[day] || got == "" {
			t.Errorf("day %d: restored\n%s\nwas\n%s", day, got, good[day])
		}
	}
}

// encrypt makes noise of all files.
func (f *fortnight) encrypt() {
	f.t.Helper()
	for _, path := range objectsBelow(f.t, f.path("src")) {
		fi, err := os.Stat(path)
		if err != nil {
			f.t.Fatal(err)
		}
		data := make([]byte, fi.Size())
		_, _ = rand.NewChaCha8(sha256.Sum256([]byte("ransom " + path))).Read(data)
		if err := os.WriteFile(path, data, 0o644); err != nil {
			f.t.Fatal(err)
		}
	}
}

// snapshotBefore returns the newest snapshot that is older than a time.
func (f *fortnight) snapshotBefore(at time.Time) (id string) {
	f.t.Helper()
	for _, line := range strings.Split(f.run(0, "snapshots"), "\n") {
		if m := regexp.MustCompile(`^([0-9a-f]{8}) +(\d{4}-\d\d-\d\d \d\d:\d\d)`).FindStringSubmatch(line); m != nil && m[2] < at.Format("2006-01-02 15:04") {
			id = m[1] // oldest first
		}
	}
	if id == "" {
		f.t.Fatal("no snapshot is left of before", at)
	}
	return id
}

func (f *fortnight) rename(from, to string) {
	f.t.Helper()
	if err := os.Rename(f.path(from), f.path(to)); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fortnight) remove(name string) {
	f.t.Helper()
	if err := os.RemoveAll(f.path(name)); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fortnight) mkdir(name string) {
	f.t.Helper()
	if err := os.MkdirAll(filepath.Join(f.dir, name), 0o755); err != nil {
		f.t.Fatal(err)
	}
}
