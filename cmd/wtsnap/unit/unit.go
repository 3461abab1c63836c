// Package unit writes the units by which systemd runs a job: a service that may do what the job needs and little else,
// and a timer. The directives are those of systemd.exec(5), systemd.service(5), systemd.timer(5) and systemd.unit(5).
package unit

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/whole-tale/wtsnap/cmd/wtsnap/schedule"
)

// Options are what the units need to know.
type Options struct {
	Job        string
	Program    string // its path
	Config     string // the configuration's path
	Schedule   schedule.Schedule
	Jitter     time.Duration
	Timeout    time.Duration // of a run; 0 = none
	Password   string        // a file that is handed over as a credential; "" = none
	Read       []string      // paths that must be mounted
	Write      []string      // folders that are written to, besides the units' own
	Hooks      bool          // the job runs commands, of which nobody knows what they need
	Temporary  bool          // something is read or written below /tmp or /var/tmp
	Homes      bool          // something is written below /home, /root or /run/user
	OnFailure  []string      // units that are started when a run fails
	User       bool          // for the user's own systemd
	Containers []string      // units to come up before, such as docker.service
}

// Names are the names of the service and of the timer.
func (o *Options) Names() (service, timer string) {
	return "wtsnap-" + o.Job + ".service", "wtsnap-" + o.Job + ".timer"
}

// section collects the lines of a unit.
type section struct{ strings.Builder }

func (s *section) head(name string) {
	if s.Len() > 0 {
		s.WriteByte('\n')
	}
	s.WriteString("[" + name + "]\n")
}

func (s *section) set(key string, values ...string) {
	for _, v := range values {
		if v != "" {
			s.WriteString(key + "=" + v + "\n")
		}
	}
}

// Service returns the service's text.
func (o *Options) Service() string {
	var s section
	s.head("Unit")
	s.set("Description", "wtsnap: job "+o.Job)
	s.set("Documentation", "https://github.com/whole-tale/wtsnap")
	if !o.User {
		s.set("Wants", "network-online.target")
		s.set("After", strings.Join(append([]string{"network-online.target", "time-sync.target"}, o.Containers...), " "))
	}
	s.set("RequiresMountsFor", words(paths(o.Read)))
	s.set("OnFailure", strings.Join(o.OnFailure, " "))

	s.head("Service")
	s.set("Type", "oneshot")
	s.set("ExecStart", words([]string{o.Program, "--config=" + o.Config, "run", o.Job}))
	s.set("Environment", "WTSNAP_PROGRESS=none")
	if o.Password != "" && !o.User {
		s.set("LoadCredential", "wtsnap-password:"+specifiers(o.Password))
		s.set("Environment", "WTSNAP_PASSWORD_FILE=%d/wtsnap-password")
	}
	s.set("CacheDirectory", "wtsnap")
	s.set("CacheDirectoryMode", "0700")
	s.set("StateDirectory", "wtsnap")
	s.set("StateDirectoryMode", "0700")
	s.set("TimeoutStopSec", "2min") // a stop leaves a checkpoint, which may take 30 seconds
	if o.Timeout > 0 {
		s.set("TimeoutStartSec", seconds(o.Timeout+10*time.Minute)) // the job ends itself; this is for one that hangs
	} else {
		s.set("TimeoutStartSec", "infinity")
	}
	s.set("Nice", "10")
	s.set("IOSchedulingClass", "idle")
	s.set("SuccessExitStatus", "3") // saved, but for what the alerts name
	if !o.User {
		o.harden(&s)
	}
	return s.String()
}

// harden takes away what a backup does not need. It reads every file, whoever owns it, and writes little.
func (o *Options) harden(s *section) {
	s.set("UMask", "0077")
	s.set("NoNewPrivileges", "yes")
	s.set("ProtectSystem", "strict")
	if !o.Homes {
		s.set("ProtectHome", "read-only")
	}
	s.set("ReadWritePaths", words(paths(o.Write)))
	if !o.Temporary {
		s.set("PrivateTmp", "yes")
	}
	for _, key := range []string{"ProtectKernelTunables", "ProtectKernelModules", "ProtectKernelLogs", "ProtectControlGroups", "ProtectClock",
		"ProtectHostname", "RestrictNamespaces", "RestrictRealtime", "RestrictSUIDSGID", "LockPersonality", "MemoryDenyWriteExecute"} {
		s.set(key, "yes")
	}
	s.set("RestrictAddressFamilies", "AF_UNIX AF_INET AF_INET6 AF_NETLINK")
	if o.Hooks {
		return // a hook may stop a service or take a snapshot of a volume
	}
	s.set("CapabilityBoundingSet", "CAP_DAC_READ_SEARCH CAP_DAC_OVERRIDE")
	s.set("PrivateDevices", "yes")
	s.set("SystemCallArchitectures", "native")
	s.set("SystemCallFilter", "@system-service")
	s.set("SystemCallErrorNumber", "EPERM")
}

// Timer returns the timer's text.
func (o *Options) Timer() string {
	var s section
	s.head("Unit")
	s.set("Description", "wtsnap: when the job "+o.Job+" is due ("+o.Schedule.String()+")")
	s.head("Timer")
	s.set("OnCalendar", o.Schedule.Calendar()...)
	if o.Jitter > 0 {
		s.set("RandomizedDelaySec", seconds(o.Jitter))
		s.set("FixedRandomDelay", "yes")
	}
	s.set("Persistent", "yes") // a night that was missed is made up for
	s.head("Install")
	s.set("WantedBy", "timers.target")
	return s.String()
}

func seconds(d time.Duration) string { return fmt.Sprintf("%ds", int64(d.Seconds())) }

// paths are absolute paths, each once, without those that lie in another one.
func paths(list []string) []string {
	var out []string
	for _, p := range list {
		if filepath.IsAbs(p) {
			out = append(out, filepath.Clean(p))
		}
	}
	slices.Sort(out)
	out = slices.Compact(out)
	return slices.DeleteFunc(slices.Clone(out), func(p string) bool {
		return slices.ContainsFunc(out, func(q string) bool { return p != q && strings.HasPrefix(p, strings.TrimSuffix(q, "/")+"/") })
	})
}

// words joins words as systemd splits them.
func words(list []string) string {
	var out []string
	for _, w := range list {
		w = specifiers(w)
		if strings.ContainsAny(w, " \t\"'\\;$") {
			w = `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "$", "$$").Replace(w) + `"`
		}
		out = append(out, w)
	}
	return strings.Join(out, " ")
}

// specifiers keeps systemd from reading a % as one.
func specifiers(s string) string { return strings.ReplaceAll(s, "%", "%%") }
