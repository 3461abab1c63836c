// Package setup writes a machine's first configuration, and finds what is likely to be saved there.
package setup

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/whole-tale/wtsnap/snapshot"
)

// Answers are what a first configuration says.
type Answers struct {
	Repo         string
	Instance     string
	PasswordFile string
	RcloneConfig string // "" = none is needed
	Sources      []Source
}

// A Source is what is saved under one label.
type Source struct {
	Label string
	From  string
	File  string // that holds From, which is a secret; "" = it stands in the configuration
	Mount bool   // a file system is mounted there, and is expected to be
}

var bareKey = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)

// text is a string of TOML.
func text(s string) string {
	var b bytes.Buffer
	e := json.NewEncoder(&b) // whose strings TOML takes
	e.SetEscapeHTML(false)
	_ = e.Encode(s) // strings always can be
	return strings.TrimSpace(b.String())
}

// Configuration writes wtsnap.toml.
func Configuration(a Answers) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "# wtsnap.toml, made by wtsnap init. \"wtsnap config example\" shows what else can stand here.\n\n")
	fmt.Fprintf(&b, "repo = %s\npassword-file = %s\n", text(a.Repo), text(a.PasswordFile))
	if a.RcloneConfig != "" {
		fmt.Fprintf(&b, "rclone-config = %s # must be writable: tokens are renewed in it\n", text(a.RcloneConfig))
	}
	fmt.Fprintf(&b, "instance = %s\n", text(a.Instance))
	for _, s := range a.Sources {
		label := s.Label
		if !bareKey.MatchString(label) {
			label = text(label)
		}
		fmt.Fprintf(&b, "\n[sources.%s]\n", label)
		if s.File != "" {
			fmt.Fprintf(&b, "from = { file = %s }\n", text(s.File))
			continue
		}
		fmt.Fprintf(&b, "from = %s\n", text(s.From))
		if s.Mount {
			fmt.Fprintf(&b, "expect-mount = %s\n", text(s.From))
		}
		if !strings.Contains(s.From, ":") {
			fmt.Fprintf(&b, "exclude-caches = true\n")
		}
	}
	b.WriteString(`
[forget]
keep-within = "1w"
keep-weekly = 5

[check]
read-data-within = "30d"

[jobs.nightly]
steps = ["backup", "forget", "prune", "check", "drill"]
schedule = "02:30"
jitter = "20min"
max-age = "30h"

# Who hears of a night that failed: "wtsnap config example" shows mail, Slack, ntfy, pings and monitors.
`)
	return b.Bytes()
}

// ParseSources reads LABEL=SOURCE, as backup takes them.
func ParseSources(texts []string) (out []Source, err error) {
	var specs []snapshot.SourceSpec
	for _, t := range texts {
		spec, err := snapshot.ParseSource(t)
		if err != nil {
			return nil, err
		}
		from := t
		if rest, ok := strings.CutPrefix(t, spec.Label+"="); ok {
			from = rest
		}
		if strings.HasSuffix(from, ":-") || strings.HasPrefix(from, "stdin:") {
			return nil, fmt.Errorf("%q: a job has no standard input", t)
		}
		if !strings.Contains(from, ":") {
			if from, err = filepath.Abs(from); err != nil {
				return nil, err
			}
			if _, err := os.Stat(from); err != nil {
				return nil, fmt.Errorf("%q: %w", t, err)
			}
		}
		specs = append(specs, spec)
		out = append(out, Source{Label: spec.Label, From: from, Mount: isMount(from)})
	}
	return out, snapshot.CheckSources(specs)
}

// isMount reports whether another file system is mounted at a folder.
func isMount(dir string) bool {
	here, err := device(dir)
	if err != nil {
		return false
	}
	above, err := device(filepath.Dir(dir))
	return err == nil && here != above
}

// Suggest finds what is likely to be saved, below root, which is "/" but in tests.
func Suggest(root string) (out []string) {
	taken := map[string]bool{}
	add := func(label, path string) {
		if entries, err := os.ReadDir(filepath.Join(root, path)); err != nil || !slices.ContainsFunc(entries, func(e os.DirEntry) bool { return e.Name() != "lost+found" }) {
			return
		}
		for n := 2; taken[label]; n++ {
			label = fmt.Sprintf("%s%d", strings.TrimRight(label, "0123456789"), n)
		}
		taken[label] = true
		out = append(out, label+"="+filepath.Join("/", path))
	}
	add("homes", "mnt/homes")
	add("homes", "home")
	for _, parent := range []string{"srv"} {
		entries, _ := os.ReadDir(filepath.Join(root, parent)) // none: nothing to suggest
		for _, e := range entries {
			if e.IsDir() && snapshotLabel(e.Name()) {
				add(e.Name(), filepath.Join(parent, e.Name()))
			}
		}
	}
	return out
}

func snapshotLabel(name string) bool { return bareKey.MatchString(name) }

// MongoDB returns the address of a MongoDB that answers on this machine, or "".
func MongoDB(address string) string {
	c, err := net.DialTimeout("tcp", address, 300*time.Millisecond)
	if err != nil {
		return ""
	}
	_ = c.Close()
	return "mongodb://" + address + "/"
}
