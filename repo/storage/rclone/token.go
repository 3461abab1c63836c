package rclone

import (
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/rclone/rclone/fs"
	"github.com/rclone/rclone/fs/fspath"

	"github.com/whole-tale/wtsnap/repo/storage"
)

// Version is that of the rclone which is linked in.
func Version() string { return fs.Version }

const day = 24 * time.Hour

// unused says after how long without use the providers let a refresh token die, as their documents have it.
var unused = map[string]time.Duration{
	"box":          60 * day,  // https://developer.box.com/guides/api-calls/permissions-and-errors/expiration/
	"onedrive":     90 * day,  // https://learn.microsoft.com/entra/identity-platform/refresh-tokens
	"drive":        180 * day, // https://developers.google.com/identity/protocols/oauth2#expiration
	"googlephotos": 180 * day,
}

// accessLife is how long an access token lives where the token does not tell: an hour is what nearly all providers give.
const accessLife = time.Hour

// Tokens returns what the configuration knows of the tokens of a place, and of the remotes that it wraps. It does not touch
// the network. There is none where the place needs none.
func Tokens(spec string, o Options) ([]storage.Token, error) {
	p, err := configure(o)
	if err != nil {
		return nil, err
	}
	remote, err := p.check(spec)
	if err != nil {
		return nil, err
	}
	var out []storage.Token
	seen := map[string]bool{}
	for queue := []string{remote}; len(queue) > 0; queue = queue[1:] {
		name := queue[0]
		if name == "" || seen[name] || !p.file.HasSection(name) {
			continue
		}
		seen[name] = true
		if text := p.value(name, "token"); text != "" {
			out = append(out, p.token(name, text))
		}
		queue = append(queue, p.wrapped(name)...)
	}
	return out, nil
}

// wrapped are the remotes that a remote passes its requests on to.
func (p *process) wrapped(name string) (out []string) {
	specs := []string{p.value(name, "remote")}
	for _, part := range strings.Fields(p.value(name, "upstreams")) { // of union, or with a folder of combine before it
		if _, after, ok := strings.Cut(part, "="); ok {
			part = after
		}
		specs = append(specs, part)
	}
	for _, spec := range specs {
		if inner, err := fspath.Parse(strings.Trim(spec, `"`)); err == nil && spec != "" {
			out = append(out, inner.Name)
		}
	}
	return out
}

// token reads what a token tells of itself.
func (p *process) token(name, text string) storage.Token {
	t := storage.Token{Remote: name, Kind: p.value(name, "type"), Path: p.path, Stored: writable(p.path)}
	var raw struct {
		Access  string    `json:"access_token"`
		Refresh string    `json:"refresh_token"`
		Expiry  time.Time `json:"expiry"`
		Seconds int64     `json:"expires_in"`
	}
	if err := json.Unmarshal([]byte(text), &raw); err != nil || raw.Access == "" && raw.Refresh == "" {
		t.Problem = "it is no token as rclone writes it"
		return t
	}
	t.Expiry = raw.Expiry
	switch {
	case raw.Expiry.IsZero():
	case raw.Seconds > 0:
		t.Issued = raw.Expiry.Add(-time.Duration(raw.Seconds) * time.Second)
	case raw.Refresh != "":
		t.Issued = raw.Expiry.Add(-accessLife)
	}
	// Box's own applications and the client credentials flow make a new one from a key that does not end.
	if p.value(name, "box_config_file") != "" || p.value(name, "config_credentials") != "" || p.value(name, "client_credentials") == "true" {
		t.Renews = true
		return t
	}
	if raw.Refresh != "" {
		t.Renews, t.Unused, t.Once = true, unused[t.Kind], t.Kind == "box"
	}
	return t
}

// timeless are the backends that no answer of which has a Date: rclone speaks HTTP to all others.
var timeless = []string{"local", "sftp", "ftp", "smb", "hdfs", "memory", "storj"}

// ClockSkew is by how much this machine's clock is ahead of the server's (behind it, where it is negative), as far as answers
// have told since the process began. It is 0 within five minutes; known is false where the protocol has no clock, or nothing
// has been asked.
func (s *Storage) ClockSkew() (skew time.Duration, known bool) {
	s.mu.Lock()
	o := s.opening
	s.mu.Unlock()
	if o == nil {
		return 0, false
	}
	select {
	case <-o.done:
	default:
		return 0, false
	}
	if o.err != nil {
		return 0, false
	}
	info := fs.FindFromFs(fs.UnWrapFs(o.f))
	s.cfg.mu.Lock()
	defer s.cfg.mu.Unlock()
	return s.cfg.skew, info != nil && !slices.Contains(timeless, info.Name)
}
