package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/whole-tale/wtsnap/repo/storage/rclone/rclonetest"
	"github.com/whole-tale/wtsnap/repo/storage/storagetest/faulty"
)

// The program against real servers that fail. Each test ends with the data intact: the next run completes, a check that
// reads everything finds nothing, and the restore is what the source is.

// remote is a repository on a server, with a source to be saved in it.
type remote struct {
	t   *testing.T
	dir string
	env []string
}

func newRemote(t *testing.T, repo string) *remote {
	t.Helper()
	r := &remote{t: t, dir: t.TempDir()}
	// What make sets for tests means nothing to the program, which says so.
	environ := slices.DeleteFunc(os.Environ(), func(e string) bool { return strings.HasPrefix(e, "WTSNAP_") })
	r.env = append(environ, "HOME="+r.path("home"), "TZ=UTC", "WTSNAP_REPO="+repo, "WTSNAP_INSTANCE=web", "WTSNAP_PASSWORD_FILE="+r.path("key"),
		"RCLONE_CONFIG="+r.path("rclone.conf"), "XDG_CACHE_HOME="+r.path("cache"))
	r.write("a", 300_000)
	for i := range 20 {
		r.write(fmt.Sprint("small/", i), 1000+i)
	}
	return r
}

func (r *remote) path(name string) string { return filepath.Join(r.dir, name) }

// write makes a file of the source whose bytes depend on its name and size.
func (r *remote) write(name string, n int) {
	r.t.Helper()
	data := make([]byte, n)
	_, _ = rand.NewChaCha8(sha256.Sum256(fmt.Append(nil, name, n))).Read(data)
	path := r.path("src/" + name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, data, 0o644)); err != nil {
		r.t.Fatal(err)
	}
}

// run runs the program; anything but the exit code fails the test. It returns both outputs.
func (r *remote) run(code int, args ...string) string {
	r.t.Helper()
	c := exec.CommandContext(r.t.Context(), "wtsnap", args...)
	c.Dir, c.Env = r.dir, r.env
	out, err := c.CombinedOutput()
	got := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		got = exit.ExitCode()
	} else if err != nil {
		r.t.Fatal(err)
	}
	if got != code {
		r.t.Fatalf("wtsnap %s: exit code %d, want %d\n%s", strings.Join(args, " "), got, code, out)
	}
	if bytes.Contains(out, []byte("goroutine ")) {
		r.t.Errorf("wtsnap %s: a stack trace\n%s", strings.Join(args, " "), out)
	}
	return string(out)
}

// says fails the test where the program's words are not as expected.
func (r *remote) says(out string, patterns ...string) {
	r.t.Helper()
	for _, p := range patterns {
		if !regexp.MustCompile(p).MatchString(out) {
			r.t.Errorf("no %q in what the program said:\n%s", p, out)
		}
	}
	r.t.Logf("%s", out)
}

// intact is how every test ends.
func (r *remote) intact() {
	r.t.Helper()
	r.run(0, "backup", "src")
	if out := r.run(0, "check", "--read-data"); !strings.Contains(out, "no damage found") {
		r.t.Error(out)
	}
	to := r.path("restored")
	if err := os.RemoveAll(to); err != nil {
		r.t.Fatal(err)
	}
	r.run(0, "restore", "latest:src", "--to", to)
	if want, got := r.files("src"), r.files("restored"); want != got || want == "" {
		r.t.Errorf("the source:\n%s\nrestored:\n%s", want, got)
	}
}

func (r *remote) files(dir string) string {
	r.t.Helper()
	var out strings.Builder
	err := filepath.WalkDir(r.path(dir), func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		rel, _ := filepath.Rel(r.path(dir), path)
		fmt.Fprintf(&out, "%s %d %x\n", rel, len(data), sha256.Sum256(data))
		return err
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return out.String()
}

// serve starts a real server on a folder.
func serve(t *testing.T, kind rclonetest.Kind, dir string) *rclonetest.Server {
	t.Helper()
	s, err := rclonetest.Start(t.Context(), kind, dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Log(err)
		}
	})
	return s
}

// serveFaulty starts a real server, and a proxy before it. dir is what the server keeps.
func serveFaulty(t *testing.T, kind rclonetest.Kind) (r *remote, p *faulty.Proxy, dir string) {
	t.Helper()
	dir = t.TempDir()
	if kind == rclonetest.S3 {
		if err := os.Mkdir(filepath.Join(dir, "bucket"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s := serve(t, kind, dir)
	p, err := faulty.New("http://" + s.Addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	r = newRemote(t, rclonetest.Spec(kind, strings.TrimPrefix(p.URL, "http://")))
	r.run(0, "init", "--new-key-file", "key")
	r.run(0, "backup", "src")
	r.write("b", 2_000_000)
	r.write("small/new", 5000)
	return r, p, dir
}

func TestFaultyRemotes(t *testing.T) {
	any := faulty.Method("")
	packs := func(r *http.Request) bool { return r.Method == "PUT" && strings.Contains(r.URL.Path, "/packs/") }
	for i, c := range []struct {
		name  string
		times int // requests that are spoiled; -1 for all
		match faulty.Match
		fault faulty.Fault
		flags []string
		code  int
		says  []string
	}{
		{"throttled", 2, packs, faulty.Answer(429, "Retry-After", "1"), nil, 0, nil},
		{"burst of 5xx", 7, any, faulty.Answer(503), nil, 0, nil},
		{"uploads cut", 2, packs, faulty.CutUpload, nil, 0, nil},
		{"partial objects", 2, packs, faulty.HalfUpload, nil, 0, nil},
		{"stored, but 502", 2, packs, faulty.DoneFailed, nil, 0, nil},
		{"downloads cut", 3, faulty.Method("GET"), faulty.CutDownload, []string{"--cache-dir", "none"}, 0, nil},
		{"throttled for good", -1, any, faulty.Answer(429, "Retry-After", "1"), []string{"--retry-for", "1s"}, 1,
			[]string{`the storage asks for fewer requests`, `given up after`, `try: run it again later`}},
		{"down for good", -1, any, faulty.Answer(503), []string{"--retry-for", "1s"}, 1, []string{`^wtsnap: .*503`, `given up after`, `try: run it again later`}},
		{"uploads cut for good", -1, packs, faulty.CutUpload, []string{"--retry-for", "1s"}, 1, []string{`storing a pack`, `given up after`, `try: run it again later`}},
		{"partial objects for good", -1, packs, faulty.HalfUpload, []string{"--retry-for", "1s"}, 1, []string{`given up after`}},
		{"full", -1, packs, faulty.Answer(507), nil, 1, []string{`storing a pack`, `the storage is full`, `try: free space there`, `forget`}},
		{"never answers", -1, packs, faulty.Hang, []string{"--retry-for", "1s"}, 1, []string{`the storage stopped answering`, `try: run it again later`}},
	} {
		kinds := []rclonetest.Kind{rclonetest.S3, rclonetest.WebDAV}
		if os.Getenv("WTSNAP_SLOW") == "" { // each fault with one of them
			kinds = kinds[i%2 : i%2+1]
		}
		for _, kind := range kinds {
			t.Run(fmt.Sprint(c.name, " ", kind), func(t *testing.T) {
				t.Parallel()
				r, p, _ := serveFaulty(t, kind)
				p.Next(c.times, c.match, c.fault)
				out := r.run(c.code, append([]string{"backup", "src"}, c.flags...)...)
				r.says(out, c.says...)
				if p.Met() == 0 {
					t.Error("no request was spoiled")
				}
				p.Next(0, nil, nil)
				r.intact()
			})
		}
	}
}

// Every request beyond so many a window is refused: it takes longer, and no more than that.
func TestRateLimitedRemote(t *testing.T) {
	t.Parallel()
	r, p, _ := serveFaulty(t, rclonetest.S3)
	var throttled atomic.Int64
	p.Next(-1, faulty.Method(""), faulty.RateLimit(12, time.Second, func() { throttled.Add(1) }))
	before := p.Seen()
	r.run(0, "backup", "src")
	seen := p.Seen() - before
	if n := throttled.Load(); n == 0 || int(n) > seen/2 {
		t.Errorf("%d of %d requests were refused: too many were sent while the server asked to wait", n, seen)
	}
	p.Next(0, nil, nil)
	r.intact()
}

// A listing has pages of 1000 objects; none of them is missed.
func TestPagedListings(t *testing.T) {
	t.Parallel()
	r, _, dir := serveFaulty(t, rclonetest.S3)
	const orphans = 2345
	for i := range orphans {
		name := fmt.Sprintf("%x", sha256.Sum256(fmt.Append(nil, i)))
		path := filepath.Join(dir, "bucket", "repo", "packs", name[:1], name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(name), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	again := filepath.Join(t.TempDir(), "again") // the first server remembers what was in its folders, by their names
	if err := os.Symlink(dir, again); err != nil {
		t.Fatal(err)
	}
	s := serve(t, rclonetest.S3, again)
	r.env = append(r.env, "WTSNAP_REPO="+rclonetest.Spec(rclonetest.S3, s.Addr))
	r.says(r.run(0, "check"), fmt.Sprintf(`%s packs .* that no index lists`, number(orphans)))
	r.run(0, "prune", "--grace", "0")
	if out := r.run(0, "check"); strings.Contains(out, "no index lists") {
		t.Errorf("after a prune:\n%s", out)
	}
	r.intact()
}

// A listing that lags behind shows what was there before, and not what was just put. Nothing is lost by it, and nothing
// is taken for damaged once it has caught up.
func TestLaggingListings(t *testing.T) {
	t.Parallel()
	r, p, _ := serveFaulty(t, rclonetest.S3)
	lag := &faulty.Lag{}
	p.Next(-1, faulty.Method(""), lag.Fault)
	r.run(0, "backup", "src") // its lease, packs, index and manifest are not listed
	if lag.Hidden() < 4 {
		t.Fatalf("%d objects are hidden", lag.Hidden())
	}
	r.write("c", 500_000)
	r.run(0, "backup", "src") // does not find the one before
	r.run(0, "forget", "--keep-last", "1", "--prune")
	r.run(0, "check")
	lag.Show()
	if out := r.run(0, "snapshots"); strings.Count(out, "web") < 2 {
		t.Errorf("the snapshots that were not listed:\n%s", out)
	}
	r.run(0, "prune")
	p.Next(0, nil, nil)
	r.intact()
}

// serveBox starts what answers like Box, with a remote "box" in the configuration.
func serveBox(t *testing.T) (*remote, *rclonetest.Box) {
	t.Helper()
	b, err := rclonetest.NewBox(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	r := newRemote(t, "box:backups/wtsnap")
	for k, v := range b.Env() {
		r.env = append(r.env, k+"="+v)
	}
	r.login(b)
	r.run(0, "init", "--new-key-file", "key")
	r.run(0, "backup", "src")
	r.write("b", 2_000_000)
	return r, b
}

func (r *remote) login(b *rclonetest.Box) {
	r.t.Helper()
	if err := os.WriteFile(r.path("rclone.conf"), []byte(b.Section("box")), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

func (r *remote) config() string {
	r.t.Helper()
	text, err := os.ReadFile(r.path("rclone.conf"))
	if err != nil {
		r.t.Fatal(err)
	}
	return string(text)
}

func TestBox(t *testing.T) {
	t.Parallel()
	r, b := serveBox(t)
	b.Page(2)
	r.intact()
	if b.Counts().Pages == 0 {
		t.Error("no listing had a second page")
	}
	b.Page(1000)
	before := b.Counts().Calls
	r.run(0, "backup", "src")
	if calls := b.Counts().Calls - before; calls > 60 {
		t.Errorf("an unchanged night takes %d calls of Box", calls)
	} else {
		t.Logf("an unchanged night takes %d calls of Box", calls)
	}
}

// Tokens that end in the middle of the run are refreshed, each refresh token is used once, and the newest is in the
// configuration when the run ends, however often that was.
func TestBoxTokensExpire(t *testing.T) {
	t.Parallel()
	r, b := serveBox(t)
	b.Expire(11 * time.Second) // the client takes one of 10 seconds and less for expired already
	r.login(b)
	for range 3 {
		r.write("b", 2_000_000+int(b.Counts().Refreshes))
		r.run(0, "backup", "src")
		b.Expire(11 * time.Second)
		if !strings.Contains(r.config(), b.Refresh()) {
			t.Errorf("the configuration does not hold the newest refresh token %s:\n%s", b.Refresh(), r.config())
		}
		// As if time had passed: the token in the file is over.
		r.login(b)
	}
	if c := b.Counts(); c.Refreshes < 3 || c.Refused != 0 {
		t.Errorf("%+v", c)
	}
	r.intact()
}

func TestBoxTokenRevoked(t *testing.T) {
	t.Parallel()
	r, b := serveBox(t)
	b.Expire(time.Hour)
	r.login(b)
	b.Revoke()
	for _, args := range [][]string{{"backup", "src"}, {"snapshots"}, {"check"}, {"prune"}} {
		out := r.run(5, args...)
		r.says(out, `the storage refuses the credentials`, `try: run: rclone config reconnect box:`)
		if strings.Contains(out, "https://") || strings.Count(out, "\n") > 3 {
			t.Errorf("words for a log, not for a person:\n%s", out)
		}
	}
	b.Login()
	r.login(b)
	r.intact()
}

// A token that is revoked in the middle of a run ends it with 5, and what was stored is used by the next run.
func TestBoxTokenRevokedInTheMiddle(t *testing.T) {
	t.Parallel()
	r, b := serveBox(t)
	r.write("large", 40_000_000)
	var uploads atomic.Int64
	b.Spoil(func(_ http.ResponseWriter, q *http.Request) bool {
		if q.Method == http.MethodPost && q.Host == "upload.box.com" && uploads.Add(1) == 4 {
			b.Revoke()
		}
		return false
	})
	r.says(r.run(5, "backup", "src"), `refuses the credentials`, `try: `)
	b.Spoil(nil)
	b.Login()
	r.login(b)
	r.intact()
}

// A configuration that cannot be written is told of while there is time.
func TestBoxTokenNotStored(t *testing.T) {
	t.Parallel()
	r, b := serveBox(t)
	b.Expire(time.Hour)
	r.login(b)
	conf := r.path("conf/rclone.conf")
	if err := errors.Join(os.Mkdir(r.path("conf"), 0o755), os.Rename(r.path("rclone.conf"), conf), os.Chmod(conf, 0o400),
		os.Chmod(r.path("conf"), 0o500)); err != nil {
		t.Fatal(err)
	}
	c := exec.CommandContext(t.Context(), "unpower", "wtsnap", "backup", "src") // root would write all the same
	c.Dir, c.Env = r.dir, append(r.env, "RCLONE_CONFIG="+conf, "WTSNAP_CACHE_DIR=none")
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	r.says(string(out), `cannot be stored`, `Box takes a refresh token only once`, `make the file writable`)
	if strings.Contains(string(out), b.Refresh()) {
		t.Error("the token is shown")
	}
	if err := errors.Join(os.Chmod(r.path("conf"), 0o755), os.Chmod(conf, 0o644)); err != nil {
		t.Fatal(err)
	}
}

// Box counts the calls of a minute and answers 429 beyond a thousand; here the minute has a second.
func TestBoxRateLimit(t *testing.T) {
	t.Parallel()
	r, b := serveBox(t)
	b.Limit(17, time.Second)
	before := b.Counts()
	r.run(0, "backup", "src")
	c := b.Counts()
	if c.Throttled == before.Throttled || c.Throttled-before.Throttled > (c.Calls-before.Calls)/2 {
		t.Errorf("%d calls were refused and %d answered", c.Throttled-before.Throttled, c.Calls-before.Calls)
	}
	b.Limit(0, 0)
	r.intact()
}

// A full account is told of before it is full, and when it is; nothing is lost, and with room the next run completes.
func TestBoxIsFull(t *testing.T) {
	t.Parallel()
	r, b := serveBox(t)
	b.Quota(1_000_000)
	out := r.run(1, "backup", "src")
	r.says(out, `the storage has room for 977 KiB only`, `the storage is full`, `try: free space there`)
	r.run(0, "snapshots")
	r.run(0, "check")
	b.Quota(-1)
	r.intact()
	if out := r.run(0, "backup", "src"); strings.Contains(out, "room") {
		t.Errorf("words on the room where there is plenty:\n%s", out)
	}
}

// What a doctor says of Box: that it works, how old the token is, and, once the token is good for nothing, what to do.
func TestBoxDoctor(t *testing.T) {
	t.Parallel()
	r, b := serveBox(t)
	r.says(r.run(0, "doctor"), `remote +ok +box:backups/wtsnap: can be written, listed, read and deleted`, `token +ok +the token of box was renewed about .* ago; unused, it dies 20`,
		`note +Box takes a refresh token only once`, `room +ok`, `clock +ok +this machine's clock agrees with the server's`, `cache +ok`)
	// 50 days without use: before the remote is asked it is about to die, and asking renews it.
	b.Expire(time.Hour)
	r.login(b)
	old := regexp.MustCompile(`"expiry":"[^"]*"`).ReplaceAllString(r.config(), `"expiry":"`+time.Now().UTC().AddDate(0, 0, -50).Format(time.RFC3339)+`"`)
	if err := os.WriteFile(r.path("rclone.conf"), []byte(old), 0o600); err != nil {
		t.Fatal(err)
	}
	r.says(r.run(0, "doctor"), `token +ok +the token of box was renewed about a minute ago`)
	if !strings.Contains(r.config(), b.Refresh()) {
		t.Error("the new token is not in the configuration")
	}
	b.Quota(1000)
	r.says(r.run(1, "doctor"), `remote +PROBLEM +box:backups/wtsnap: storing an object: .*the storage is full`, `try: .*free space`)
	b.Quota(10_000_000)
	r.says(r.run(1, "doctor"), `room +PROBLEM +the storage has room for 9.5 MiB only`)
	b.Quota(-1)
	b.Revoke()
	out := r.run(5, "doctor")
	r.says(out, `remote +PROBLEM .*refuses the credentials`, `try: run: rclone config reconnect box:`)
	if strings.Contains(out, "access_token") {
		t.Error("the token is shown")
	}
	b.Login()
	r.login(b)
	r.intact()
}

// A run keeps the tokens of all remotes of the configuration alive, and tells 14, 7 and 2 days before the end of one that it
// cannot renew, each once.
func TestTokensAreKeptAliveAndWarnedOf(t *testing.T) {
	t.Parallel()
	r := newRemote(t, "")
	r.env = append(r.env, "WTSNAP_REPO="+r.path("repo"))
	r.run(0, "init", "--new-key-file", "key")
	var mu sync.Mutex
	var told []string
	renewed, refuse := 0, false
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		body, _ := io.ReadAll(q.Body)
		mu.Lock()
		defer mu.Unlock()
		switch {
		case q.URL.Path == "/hook":
			told = append(told, string(body))
		case q.URL.Path == "/token" && refuse:
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprint(w, `{"error":"invalid_grant","error_description":"Refresh token has expired"}`)
		case q.URL.Path == "/token":
			renewed++
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprintf(w, `{"access_token":"new","token_type":"Bearer","refresh_token":"next%d","expires_in":3600}`, renewed)
		default:
			http.NotFound(w, q)
		}
	}))
	t.Cleanup(server.Close)
	config := fmt.Sprintf(`repo = %q
[repositories.second]
repo = "second:bucket/repo"
[repositories.third]
repo = "third:x"
[sources.src]
from = "src"
[jobs.nightly]
steps = ["backup"]
[alerts.ops]
notify = "generic+%s/hook"
text-file = %q
`, r.path("repo"), server.URL, r.path("wtsnap.prom"))
	if err := os.WriteFile(r.path("wtsnap.toml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	days := func(n float64) string {
		return time.Now().UTC().Add(time.Duration(n * 24 * float64(time.Hour))).Format(time.RFC3339)
	}
	// night runs the job where the third remote's token, which cannot be renewed, ends in some days.
	night := func(left float64, refused bool, want string) {
		t.Helper()
		second := fmt.Sprintf("[second]\ntype = google cloud storage\nendpoint = %s\ntoken_url = %s/token\nclient_id = a\nclient_secret = b\n"+
			"token = {\"access_token\":\"x\",\"token_type\":\"Bearer\",\"refresh_token\":\"old\",\"expiry\":%q}\n", server.URL, server.URL, days(-50))
		third := fmt.Sprintf("[third]\ntype = dropbox\ntoken = {\"access_token\":\"x\",\"token_type\":\"bearer\",\"expiry\":%q}\n", days(left))
		if err := os.WriteFile(r.path("rclone.conf"), []byte(second+"\n"+third), 0o600); err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		told, refuse = nil, refused
		before := renewed
		mu.Unlock()
		r.run(0, "--config", "wtsnap.toml", "run", "nightly")
		mu.Lock()
		defer mu.Unlock()
		if want == "" && len(told) != 0 || want != "" && (len(told) != 1 || !strings.Contains(told[0], want)) {
			t.Errorf("%v days before the end: told %q, want %q", left, told, want)
		}
		if next := fmt.Sprint("next", before+1); !refused && (renewed != before+1 || !strings.Contains(r.config(), `"refresh_token":"`+next+`"`)) {
			t.Errorf("the token was not renewed, or is not in the configuration:\n%s", r.config())
		}
	}
	night(15, false, "")
	night(13.5, false, "the token of third cannot be renewed, and ends")
	night(13, false, "")
	night(6.5, false, "(within 7 days)")
	night(3, false, "")
	night(1.9, false, "(within 2 days)")
	night(0.5, false, "")
	night(-1, false, "the credentials of third have ended")
	night(-2, false, "")
	night(60, false, "") // somebody has logged in again
	night(13, false, "(within 14 days)")
	night(12, true, "the credentials of second are refused")
	night(11, true, "")
	night(60, false, "")
	text, err := os.ReadFile(r.path("wtsnap.prom"))
	if err != nil || !strings.Contains(string(text), `wtsnap_token_expiry_timestamp_seconds{instance="web",job="nightly",remote="third"}`) {
		t.Errorf("%v\n%s", err, text)
	}
}

// An upload that fails for good leaves nothing of itself: no half object and no temporary one on the server, and no file here.
func TestFailedUploadLeavesNothing(t *testing.T) {
	t.Parallel()
	for _, fault := range []struct {
		name  string
		fault faulty.Fault
	}{{"cut", faulty.CutUpload}, {"half", faulty.HalfUpload}, {"full", faulty.Answer(507)}} {
		t.Run(fault.name, func(t *testing.T) {
			t.Parallel()
			r, p, dir := serveFaulty(t, rclonetest.WebDAV)
			tmp := r.path("tmp")
			if err := os.Mkdir(tmp, 0o755); err != nil {
				t.Fatal(err)
			}
			r.env = append(r.env, "TMPDIR="+tmp)
			before := objectsBelow(t, dir)
			p.Next(-1, func(q *http.Request) bool { return q.Method == "PUT" && strings.Contains(q.URL.Path, "/packs/") }, fault.fault)
			r.run(1, "backup", "src", "--retry-for", "1s")
			if p.Met() == 0 {
				t.Fatal("no upload failed")
			}
			p.Next(0, nil, nil)
			for _, name := range objectsBelow(t, dir) {
				if !slices.Contains(before, name) && !strings.Contains(name, "/leases/") {
					t.Errorf("left on the server: %s", name)
				}
			}
			if left := objectsBelow(t, tmp); len(left) != 0 {
				t.Errorf("left in the temporary folder: %v", left)
			}
			r.intact()
		})
	}
}

func objectsBelow(t *testing.T, dir string) (names []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			names = append(names, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}
