package config

import (
	"bytes"
	"fmt"

	"github.com/pelletier/go-toml/v2"

	"github.com/whole-tale/wtsnap/snapshot"
)

// Redacted is the configuration in the form of its file, without secrets; what it says can be read again. place returns what may
// be shown of a repository's place, which may be a connection string with a password in it.
func (c *Config) Redacted(vocabulary Vocabulary, place func(string) string) map[string]any {
	values := func(v Values, flags map[string]Flag) map[string]any { return v.redacted(flags, place) }
	commands := vocabulary.Commands
	out := values(c.Globals, vocabulary.Globals)
	for name, v := range c.Commands {
		out[name] = values(v, commands[name])
	}
	table := func(name string) map[string]any {
		t, ok := out[name].(map[string]any)
		if !ok {
			t = map[string]any{}
			out[name] = t
		}
		return t
	}
	for name, v := range c.Repositories {
		t := values(v, vocabulary.Globals)
		for command, v := range c.Elsewhere[name] {
			t[command] = values(v, commands[command])
		}
		table("repositories")[name] = t
	}
	for i := range c.Sources {
		s := &c.Sources[i]
		t := values(s.Values, vocabulary.Source)
		t["from"] = s.From.redacted(snapshot.RedactURI)
		s.Hooks.put(t)
		table("sources")[s.Label] = t
	}
	for name, i := range c.Instances {
		t := map[string]any{}
		put(t, "max-age", i.MaxAge)
		put(t, "max-drill-age", i.MaxDrillAge)
		put(t, "max-check-age", i.MaxCheckAge)
		put(t, "repository", i.Repository)
		table("instances")[name] = t
	}
	for name, j := range c.Jobs {
		t := map[string]any{"steps": j.Steps}
		put(t, "schedule", j.Schedule)
		put(t, "jitter", j.Jitter)
		put(t, "timeout", j.Timeout)
		put(t, "max-age", j.MaxAge)
		put(t, "repository", j.Repository)
		put(t, "instance", j.Instance)
		put(t, "sources", j.Sources)
		j.Hooks.put(t)
		for name, v := range j.Commands {
			t[name] = values(v, commands[name])
		}
		table("jobs")[name] = t
	}
	for name, a := range c.Alerts {
		t := map[string]any{}
		if a.Notify != nil {
			t["notify"] = a.Notify.redacted(hideAll)
		}
		if a.Ping != nil {
			t["ping"] = a.Ping.redacted(hideAll)
		}
		put(t, "text-file", a.TextFile)
		put(t, "checkmk", a.Checkmk)
		put(t, "jobs", a.Jobs)
		put(t, "on", a.On)
		put(t, "repeat", a.Repeat)
		table("alerts")[name] = t
	}
	return out
}

func hideAll(string) string { return "***" }

// redacted is where the secret is; of a text that stands in the configuration, what may be shown.
func (s *Secret) redacted(show func(string) string) any {
	if s.Text != "" {
		return show(s.Text)
	}
	for _, key := range secretKeys[1:] {
		if v := *s.field(key); v != "" {
			return map[string]any{key: v}
		}
	}
	return ""
}

func (h *Hooks) put(t map[string]any) {
	if h.Empty() {
		return
	}
	hooks := map[string]any{}
	put(hooks, "before", h.Before)
	put(hooks, "after", h.After)
	put(hooks, "failed", h.Failed)
	put(hooks, "finally", h.Finally)
	put(hooks, "timeout", h.Timeout)
	t["hooks"] = hooks
}

// put sets what is set.
func put(t map[string]any, key string, value any) {
	switch v := value.(type) {
	case string:
		if v != "" {
			t[key] = v
		}
	case snapshot.Span:
		if !v.IsZero() {
			t[key] = v.String()
		}
	case []string:
		if len(v) > 0 {
			t[key] = v
		}
	case []Event:
		if len(v) > 0 {
			t[key] = v
		}
	}
}

// redacted are the values of flags, those that are true or false as such.
func (v Values) redacted(flags map[string]Flag, place func(string) string) map[string]any {
	out := map[string]any{}
	for key, texts := range v {
		switch {
		case key == "repo" && len(texts) == 1:
			out[key] = place(texts[0])
		case len(texts) == 1 && flags[key].Kind == Bool:
			out[key] = texts[0] == "true"
		case len(texts) == 1:
			out[key] = texts[0]
		default:
			out[key] = texts
		}
	}
	return out
}

// Format writes a configuration as TOML.
func Format(doc map[string]any) ([]byte, error) {
	var b bytes.Buffer
	e := toml.NewEncoder(&b)
	e.SetIndentTables(false)
	if err := e.Encode(doc); err != nil {
		return nil, fmt.Errorf("writing the configuration: %w", err)
	}
	return b.Bytes(), nil
}
