package unit

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/whole-tale/wtsnap/cmd/wtsnap/schedule"
)

func options(t *testing.T) *Options {
	t.Helper()
	s, err := schedule.Parse("02:30")
	if err != nil {
		t.Fatal(err)
	}
	return &Options{Job: "nightly", Program: "/bin/true", Config: "/etc/wtsnap/wtsnap.toml", Schedule: s, Jitter: 20 * time.Minute, Timeout: 10 * time.Hour,
		Password: "/etc/wtsnap/pass%word", Read: []string{"/srv/homes", "/srv/homes/", "/srv", "relative", "/mnt/my backup"},
		Write: []string{"/var/lib/wtsnap"}, OnFailure: []string{"mail@%n.service"}}
}

func TestUnits(t *testing.T) {
	o := options(t)
	service := o.Service()
	for _, want := range []string{
		"ExecStart=/bin/true --config=/etc/wtsnap/wtsnap.toml run nightly\n", "RequiresMountsFor=\"/mnt/my backup\" /srv\n",
		"LoadCredential=wtsnap-password:/etc/wtsnap/pass%%word\nEnvironment=WTSNAP_PASSWORD_FILE=%d/wtsnap-password\n", "TimeoutStartSec=36600s\n",
		"ProtectSystem=strict\n", "ReadWritePaths=/var/lib/wtsnap\n", "PrivateTmp=yes\n", "OnFailure=mail@%n.service\n", "StateDirectory=wtsnap\n",
	} {
		if !strings.Contains(service, want) {
			t.Errorf("the service lacks %q:\n%s", want, service)
		}
	}
	timer := o.Timer()
	for _, want := range []string{"OnCalendar=*-*-* 02:30:00\n", "Persistent=yes\n", "RandomizedDelaySec=1200s\n", "WantedBy=timers.target\n"} {
		if !strings.Contains(timer, want) {
			t.Errorf("the timer lacks %q:\n%s", want, timer)
		}
	}
	o.Hooks, o.Temporary, o.Homes, o.Timeout = true, true, true, 0
	service = o.Service()
	for _, not := range []string{"CapabilityBoundingSet", "SystemCallFilter", "PrivateTmp", "ProtectHome", "TimeoutStartSec=36600s"} {
		if strings.Contains(service, not) {
			t.Errorf("with hooks, temporary files and homes the service has %s", not)
		}
	}
	o.User = true
	if service = o.Service(); strings.Contains(service, "Protect") || strings.Contains(service, "network-online") || strings.Contains(service, "LoadCredential") {
		t.Errorf("a user's own service:\n%s", service)
	}
}

func TestWords(t *testing.T) {
	for in, want := range map[string]string{"plain": "plain", "50%": "50%%", "a b": `"a b"`, `q"\`: `"q\"\\"`, "$HOME": `"$$HOME"`} {
		if got := words([]string{in}); got != want {
			t.Errorf("%q is %s, want %s", in, got, want)
		}
	}
}

// TestSystemd: systemd reads the units without a word, and finds little to object to.
func TestSystemd(t *testing.T) {
	program, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skipf("systemd, which is asked, is not installed: %v", err)
	}
	for name, change := range map[string]func(*Options){
		"plain": func(*Options) {}, "with hooks": func(o *Options) { o.Hooks = true }, "of a user": func(o *Options) { o.User = true },
	} {
		o := options(t)
		o.OnFailure = nil // there is no such unit here
		change(o)
		dir := t.TempDir()
		serviceName, timerName := o.Names()
		service, timer := filepath.Join(dir, serviceName), filepath.Join(dir, timerName)
		for file, text := range map[string]string{service: o.Service(), timer: o.Timer()} {
			if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		out, err := exec.Command(program, "verify", "--man=no", service, timer).CombinedOutput()
		if err != nil || strings.Contains(string(out), dir) {
			t.Errorf("%s: verify: %v\n%s", name, err, out)
		}
		if name != "plain" {
			continue
		}
		out, err = exec.Command(program, "security", "--offline=yes", "--no-pager", service).CombinedOutput()
		m := regexp.MustCompile(`Overall exposure level for .*: ([0-9.]+)`).FindSubmatch(out)
		if m == nil {
			t.Skipf("this systemd does not judge units offline: %v: %s", err, out)
		}
		if level, err := strconv.ParseFloat(string(m[1]), 64); err != nil || level > 4 {
			t.Errorf("%s: the exposure level is %s; 10 is the worst\n%s", name, m[1], out)
		} else {
			t.Logf("exposure level %s", m[1])
		}
	}
}
