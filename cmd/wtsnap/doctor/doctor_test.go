package doctor_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/whole-tale/wtsnap/cmd/wtsnap/doctor"
	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/repo/storage"
	"github.com/whole-tale/wtsnap/repo/storage/cache"
	"github.com/whole-tale/wtsnap/repo/storage/mem"
	"github.com/whole-tale/wtsnap/snapshot"
)

var now = time.Date(2026, 11, 28, 3, 0, 0, 0, time.UTC)

const day = 24 * time.Hour

// spoiled is a storage of which one kind of call fails, or lies.
type spoiled struct {
	storage.Storage
	op  string
	err error // nil: it lies
}

func (s spoiled) Put(ctx context.Context, name string, data []byte) (storage.Info, error) {
	if s.op == "put" {
		return storage.Info{}, s.err
	}
	return s.Storage.Put(ctx, name, data)
}

func (s spoiled) Get(ctx context.Context, name string, offset, length int64, dst []byte) ([]byte, error) {
	out, err := s.Storage.Get(ctx, name, offset, length, dst)
	if s.op == "get" {
		if s.err != nil {
			return dst[:0], s.err
		}
		out[len(out)-1]++
	}
	return out, err
}

func (s spoiled) List(ctx context.Context, prefix string, fn func(storage.Info) error) error {
	if s.op == "list" {
		return s.err
	}
	return s.Storage.List(ctx, prefix, fn)
}

func (s spoiled) Delete(ctx context.Context, name string) error {
	if s.op == "delete" {
		return s.err
	}
	return s.Storage.Delete(ctx, name)
}

func objects(t *testing.T, st storage.Storage) (names []string) {
	t.Helper()
	if err := st.List(t.Context(), "", func(i storage.Info) error { names = append(names, i.Name); return nil }); err != nil {
		t.Fatal(err)
	}
	return names
}

func TestProbe(t *testing.T) {
	auth := &storage.Error{Op: "put", Kind: storage.ErrAuth, Hint: "run: rclone config reconnect box:"}
	for _, c := range []struct {
		name, op string
		err      error
		exit     int
		says     string
		hint     string
		left     int // objects that cannot be removed
	}{
		{"all is well", "", nil, 0, "can be written, listed, read and deleted", "", 0},
		{"credentials", "put", auth, doctor.ExitCredentials, "storing an object", "reconnect box:", 0},
		{"read-only", "put", &storage.Error{Op: "put", Kind: storage.ErrReadOnly}, doctor.ExitFailed, "read-only", "--read-only", 0},
		{"full", "put", &storage.Error{Op: "put", Kind: storage.ErrQuota}, doctor.ExitFailed, "full", "make room", 0},
		{"unreachable", "put", errors.New("no route to host"), doctor.ExitFailed, "no route to host", "firewall", 0},
		{"not listed", "list", nil, doctor.ExitFailed, "is not listed", "", 0},
		{"may not list", "list", &storage.Error{Op: "list", Kind: storage.ErrDenied}, doctor.ExitFailed, "listing", "need to", 0},
		{"other bytes", "get", nil, doctor.ExitFailed, "other bytes", "", 0},
		{"may not read", "get", &storage.Error{Op: "get", Kind: storage.ErrDenied}, doctor.ExitFailed, "reading what was stored", "need to", 0},
		{"may not delete", "delete", &storage.Error{Op: "delete", Kind: storage.ErrDenied}, doctor.ExitFailed, "deleting", "need to", 1},
		{"does not delete", "delete", nil, doctor.ExitFailed, "still there", "", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			st := mem.New()
			p := doctor.Probe(t.Context(), spoiled{st, c.op, c.err})
			if got := p.Exit(); got != c.exit {
				t.Errorf("exit code %d, want %d: %+v", got, c.exit, p.Findings)
			}
			text := fmt.Sprint(p.Findings)
			if !strings.Contains(text, c.says) || !strings.Contains(text, c.hint) {
				t.Errorf("%q and %q are not in %s", c.says, c.hint, text)
			}
			if got := objects(t, st); len(got) != c.left {
				t.Errorf("left behind: %v", got)
			}
			if reached := c.op != "put"; p.Reached != reached {
				t.Errorf("reached: %v", p.Reached)
			}
		})
	}
}

// What a machine that died left behind is removed by the next one, and what another one is doing is left alone.
func TestProbesOfTheDead(t *testing.T) {
	st := mem.New()
	young, old := repo.ProbesDir+"00", repo.ProbesDir+"01"
	for _, name := range []string{young, old} {
		if _, err := st.Put(t.Context(), name, []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	p := doctor.Probe(t.Context(), aged{st, old})
	if p.Exit() != 0 {
		t.Error(p.Findings)
	}
	if got := objects(t, st); len(got) != 1 || got[0] != young {
		t.Errorf("%v, want %s alone", got, young)
	}
}

// aged is a storage one object of which is older than it is.
type aged struct {
	storage.Storage
	name string
}

func (a aged) List(ctx context.Context, prefix string, fn func(storage.Info) error) error {
	return a.Storage.List(ctx, prefix, func(i storage.Info) error {
		i.ModTime = time.Now()
		if i.Name == a.name {
			i.ModTime = i.ModTime.Add(-25 * time.Hour)
		}
		return fn(i)
	})
}

func TestTokens(t *testing.T) {
	box := func(age time.Duration) storage.Token {
		return storage.Token{Remote: "box", Kind: "box", Issued: now.Add(-age), Expiry: now.Add(time.Hour - age), Renews: true, Once: true,
			Unused: 60 * day, Path: "/etc/rclone.conf", Stored: true}
	}
	with := func(t storage.Token, change func(*storage.Token)) storage.Token { change(&t); return t }
	for _, c := range []struct {
		name   string
		token  storage.Token
		worked bool
		exit   int
		says   string
	}{
		{"fresh", box(time.Hour), true, 0, "unused, it dies 2027-01-27"},
		{"15 days left", box(45 * day), false, 0, "45 days ago"},
		{"14 days left", box(46 * day), false, 5, "any command that uses box renews it"},
		{"dead", box(61 * day), false, 5, "the token of box died 2026-11-27"},
		{"not writable", with(box(time.Hour), func(t *storage.Token) { t.Stored = false }), true, 5, "make the file writable"},
		{"another's, not writable", with(box(time.Hour), func(t *storage.Token) { t.Stored, t.Once = false, false }), true, 0, "make the file writable"},
		{"for good", with(box(time.Hour), func(t *storage.Token) { t.Unused, t.Once = 0, false }), true, 0, "its provider does not say"},
		{"cannot be renewed", with(box(time.Hour), func(t *storage.Token) { t.Renews, t.Expiry = false, now.Add(30*day) }), true, 0, "ends 2026-12-28"},
		{"cannot be renewed, soon", with(box(time.Hour), func(t *storage.Token) { t.Renews, t.Expiry = false, now.Add(day) }), true, 5, "reconnect"},
		{"garbage", storage.Token{Remote: "box", Problem: "it is no token"}, false, 5, "it is no token"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := doctor.Tokens([]storage.Token{c.token}, c.worked, now)
			if f.Exit() != c.exit || !strings.Contains(fmt.Sprint(f), c.says) {
				t.Errorf("exit code %d, want %d and %q:\n%v", f.Exit(), c.exit, c.says, f)
			}
		})
	}
}

func TestStage(t *testing.T) {
	for left, want := range map[time.Duration]int{15 * day: -1, 14 * day: 14, 8 * day: 14, 7 * day: 7, 3 * day: 7, 2 * day: 2, time.Second: 2, 0: 0, -day: 0} {
		tok := storage.Token{Expiry: now.Add(left)}
		if got := tok.Stage(now); got != want {
			t.Errorf("%v before its end: stage %d, want %d", left, got, want)
		}
	}
	if got := (&storage.Token{}).Stage(now); got != -1 {
		t.Errorf("a token that does not say: %d", got)
	}
}

func TestJobTimer(t *testing.T) {
	systemd := func(enabled, next string) doctor.Systemctl {
		return func(_ context.Context, args ...string) (string, error) {
			switch args[0] {
			case "is-enabled":
				if enabled != "enabled" {
					return enabled + "\n", errors.New("exit status 1")
				}
				return enabled + "\n", nil
			case "show":
				return "NextElapseUSecRealtime=" + next + "\nActiveState=inactive\n", nil
			}
			return "", errors.New(args[0])
		}
	}
	yesterday := now.Add(-20 * time.Hour)
	for _, c := range []struct {
		name string
		ctl  doctor.Systemctl
		last time.Time
		exit int
		says string
	}{
		{"enabled and due", systemd("enabled", "Sun 2026-11-29 02:30:00 UTC"), yesterday, 0, "due Sun 2026-11-29 02:30:00 UTC; it last ran 20 hours ago"},
		{"enabled, never due", systemd("enabled", ""), yesterday, 6, "is enabled, but has no next run"},
		{"disabled", systemd("disabled", ""), yesterday, 6, "is disabled"},
		{"until the next boot", systemd("enabled-runtime", "x"), yesterday, 6, "until the next boot"},
		{"no timer, never ran", systemd("not-found", ""), time.Time{}, 6, "wtsnap install-timer nightly"},
		{"no timer, but cron", systemd("not-found", ""), yesterday, 0, "something else starts it"},
		{"enabled, but late", systemd("enabled", "Sun"), now.Add(-3 * day), 6, "due every 1d, and it last ran 3 days ago"},
		{"no systemd", nil, yesterday, 0, "cannot be seen"},
		{"no systemd, late", nil, now.Add(-3 * day), 6, "3 days ago"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := doctor.JobTimer(t.Context(), c.ctl, doctor.Scheduled{Job: "nightly", Every: day, LastRun: c.last}, now)
			if f.Exit() != c.exit || !strings.Contains(fmt.Sprint(f), c.says) || len(f) != 1 {
				t.Errorf("exit code %d, want %d and one finding with %q:\n%v", f.Exit(), c.exit, c.says, f)
			}
		})
	}
}

func TestSource(t *testing.T) {
	dir := t.TempDir()
	full, empty := filepath.Join(dir, "full"), filepath.Join(dir, "empty")
	for _, d := range []string{filepath.Join(full, "a/b"), empty} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(full, "a/b/.here"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		spec snapshot.SourceSpec
		exit int
		says string
	}{
		{"whole", snapshot.SourceSpec{Path: full, Guard: snapshot.Guard{Sentinel: "a/b/.here", MountPoint: "/proc"}}, 0, "can be read"},
		{"empty", snapshot.SourceSpec{Path: empty}, 0, "is empty"},
		{"gone", snapshot.SourceSpec{Path: filepath.Join(dir, "gone")}, 1, "no such file"},
		{"not mounted", snapshot.SourceSpec{Path: full, Guard: snapshot.Guard{MountPoint: full}}, 14, "no file system is mounted"},
		{"no sentinel", snapshot.SourceSpec{Path: full, Guard: snapshot.Guard{Sentinel: ".none"}}, 14, "sentinel"},
		{"a stream", snapshot.SourceSpec{Path: "db", Kind: snapshot.SourceStdin}, 0, "is no folder"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.spec.Label = "homes"
			f := doctor.Source(t.Context(), &c.spec, nil)
			if f.Exit() != c.exit || !strings.Contains(fmt.Sprint(f), c.says) {
				t.Errorf("exit code %d, want %d and %q:\n%v", f.Exit(), c.exit, c.says, f)
			}
		})
	}
}

func TestCacheFolder(t *testing.T) {
	dir := t.TempDir()
	size := func(n int64) string { return fmt.Sprint(n) }
	c := cache.New(mem.New(), cache.Options{Dir: filepath.Join(dir, "x"), Prefixes: []string{"index/"}})
	for i := range 3 {
		if _, err := c.Put(t.Context(), fmt.Sprint("index/", i), []byte("some bytes")); err != nil {
			t.Fatal(err)
		}
	}
	look := func() doctor.Findings {
		return doctor.CacheFolder(dir, []string{filepath.Join(dir, "x"), filepath.Join(dir, "x.frames")}, 1<<30, size)
	}
	if f := look(); f.Worst() != doctor.OK || !strings.Contains(fmt.Sprint(f), "in 3 files") {
		t.Error(f)
	}
	if err := os.WriteFile(filepath.Join(dir, "x/index/1"), []byte("some bytes that are not so"), 0o600); err != nil {
		t.Fatal(err)
	}
	if f := look(); f.Worst() != doctor.Warning || !strings.Contains(fmt.Sprint(f), "1 of 3 that were read are damaged") {
		t.Error(f)
	}
	if f := doctor.CacheFolder(filepath.Join(dir, "x/index/0"), nil, 1, size); f.Worst() != doctor.Warning || !strings.Contains(fmt.Sprint(f), "cannot be written") {
		t.Error(f)
	}
}

func TestClockAndSecrets(t *testing.T) {
	if f := doctor.ClockSkew(-7*time.Minute, true, "the server's"); f.Exit() != 1 || !strings.Contains(fmt.Sprint(f), "7m0s behind the server's") {
		t.Error(f)
	}
	if f := doctor.ClockSkew(4*time.Minute, true, "the server's"); f.Worst() != doctor.OK {
		t.Error(f)
	}
	if f := doctor.ClockSkew(0, false, ""); f.Worst() != doctor.Note {
		t.Error(f)
	}
	file := filepath.Join(t.TempDir(), "key")
	for mode, want := range map[os.FileMode]doctor.Severity{0o600: doctor.OK, 0o640: doctor.Warning} {
		if err := errors.Join(os.WriteFile(file, []byte("x"), mode), os.Chmod(file, mode)); err != nil {
			t.Fatal(err)
		}
		if f := doctor.Secret(doctor.Password, "the password file", file); f.Worst() != want {
			t.Errorf("mode %o: %v", mode, f)
		}
	}
}

// The gravest problem decides, as docs/exit-codes.md has it; warnings do not.
func TestExit(t *testing.T) {
	var f doctor.Findings
	f.Add(doctor.Room, doctor.Warning, "x", "")
	if f.Exit() != 0 || f.Worst() != doctor.Warning {
		t.Error(f)
	}
	for _, code := range []int{1, 6, 12, 14, 5, 13, 2} { // each graver than those before
		f.Problem(doctor.Remote, code, "x", "")
		if f.Exit() != code {
			t.Errorf("%d does not outweigh those before it: %d", code, f.Exit())
		}
	}
}
