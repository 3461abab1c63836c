package rclone

import (
	"os"
	"slices"
	"strings"

	"github.com/rclone/rclone/fs"
	"github.com/rclone/rclone/fs/fspath"
)

// A Remote is a section of rclone's configuration.
type Remote struct {
	Name    string
	Type    string
	Options []Option // in the file's order; the type is none
}

// An Option is a line of a section.
type Option struct {
	Key, Value string
	Secret     bool // a password, a token, or something that tells as much
}

// Remotes lists the remotes of the configuration by name, without their options.
func Remotes(o Options) ([]Remote, error) {
	p, err := configure(o)
	if err != nil {
		return nil, err
	}
	var out []Remote
	for _, name := range p.file.GetSectionList() {
		if t := p.value(name, "type"); t != "" {
			out = append(out, Remote{Name: name, Type: t})
		}
	}
	slices.SortFunc(out, func(a, b Remote) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// Sections returns the remote that spec names and those that it is made of (a crypt's, a union's), the outermost first. A
// connection string without a name has only those.
func Sections(spec string, o Options) ([]Remote, error) {
	p, err := configure(o)
	if err != nil {
		return nil, err
	}
	if _, err := p.check(spec); err != nil {
		return nil, err
	}
	var out []Remote
	var follow func(spec string)
	follow = func(spec string) {
		parsed, err := fspath.Parse(spec)
		if err != nil {
			return
		}
		name := parsed.Name
		if name == "" || slices.ContainsFunc(out, func(r Remote) bool { return r.Name == name }) {
			return
		}
		r := Remote{Name: name, Type: p.value(name, "type")}
		if kind, ok := strings.CutPrefix(name, ":"); ok {
			r.Type = kind
		}
		for _, key := range p.file.GetKeyList(name) {
			if key != "type" {
				r.Options = append(r.Options, Option{Key: key, Value: p.value(name, key)})
			}
		}
		r.fromEnvironment()
		if r.Type == "" {
			return
		}
		for i := range r.Options {
			r.Options[i].Secret = isSecret(r.Type, r.Options[i].Key)
		}
		if !strings.HasPrefix(name, ":") {
			out = append(out, r)
		}
		for _, opt := range r.Options {
			switch opt.Key {
			case "remote":
				follow(opt.Value)
			case "remotes", "upstreams":
				for _, inner := range strings.Fields(opt.Value) {
					if _, path, ok := strings.Cut(inner, "="); ok { // of combine: folder=remote:path
						inner = path
					}
					follow(inner)
				}
			}
		}
		if inner := parsed.Config["remote"]; inner != "" {
			follow(inner)
		}
	}
	follow(spec)
	return out, nil
}

// fromEnvironment adds what RCLONE_CONFIG_NAME_KEY says, which wins over the file.
func (r *Remote) fromEnvironment() {
	prefix := "RCLONE_CONFIG_" + strings.ToUpper(strings.ReplaceAll(r.Name, "-", "_")) + "_"
	for _, e := range os.Environ() {
		name, value, _ := strings.Cut(e, "=")
		key, ok := strings.CutPrefix(name, prefix)
		if !ok {
			continue
		}
		if key = strings.ToLower(key); key == "type" {
			r.Type = value
			continue
		}
		at := slices.IndexFunc(r.Options, func(o Option) bool { return o.Key == key })
		if at < 0 {
			r.Options = append(r.Options, Option{Key: key})
			at = len(r.Options) - 1
		}
		r.Options[at].Value = value
	}
}

// harmless are options that rclone would not show to strangers, and without which a remote cannot be found again.
var harmless = []string{"host", "user", "url", "endpoint", "account", "domain", "client_id", "tenant", "bucket", "region", "server", "share", "remote"}

// isSecret reports whether an option of a backend is better not written down unasked: too much rather than too little.
func isSecret(kind, key string) bool {
	for _, part := range []string{"token", "secret", "pass", "private", "credential", "cookie", "sas", "pem"} {
		if strings.Contains(key, part) {
			return true
		}
	}
	if strings.HasSuffix(key, "_id") || slices.Contains(harmless, key) {
		return false
	}
	info, err := fs.Find(kind)
	if err != nil {
		return true
	}
	for _, opt := range info.Options {
		if opt.Name == key {
			return opt.IsPassword || opt.Sensitive
		}
	}
	return false
}

// HasSecret reports whether a connection string has an option that is a secret.
func HasSecret(spec string) bool {
	parsed, err := fspath.Parse(spec)
	if err != nil {
		return true
	}
	for key := range parsed.Config {
		if isSecret(strings.TrimPrefix(parsed.Name, ":"), key) {
			return true
		}
	}
	return false
}
