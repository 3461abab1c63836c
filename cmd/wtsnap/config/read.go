package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"

	"github.com/whole-tale/wtsnap/cmd/wtsnap/spelling"
	"github.com/whole-tale/wtsnap/snapshot"
)

// maxSize bounds a configuration, in bytes.
const maxSize = 4 << 20

// Read reads the configuration at path. The error is an *Error where the text is wrong.
func Read(path string, v Vocabulary) (*Config, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("the configuration: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err != nil {
		return nil, fmt.Errorf("the configuration: %w", err)
	}
	if len(data) > maxSize {
		return nil, fmt.Errorf("the configuration %s is larger than 4 MiB", path)
	}
	return Parse(path, data, v)
}

// Parse is Read of a text; path is for messages.
func Parse(path string, data []byte, v Vocabulary) (*Config, error) {
	var raw map[string]any
	if err := toml.Unmarshal(data, &raw); err != nil {
		p := Problem{Text: err.Error()}
		var d *toml.DecodeError
		if errors.As(err, &d) {
			p.Line, _ = d.Position()
			p.Text = strings.TrimPrefix(d.Error(), "toml: ")
		}
		return nil, &Error{path, []Problem{p}}
	}
	r := &reader{v: v, lines: lines(data)}
	c := r.config(raw)
	c.Path = path
	if len(r.problems) > 0 {
		slices.SortStableFunc(r.problems, func(a, b Problem) int { return a.Line - b.Line })
		return nil, &Error{path, r.problems}
	}
	return c, nil
}

// lines finds on which line each key stands, tables among them; keys are joined by zero bytes.
func lines(data []byte) map[string]int {
	at := map[string]int{}
	var p unstable.Parser
	p.Reset(data)
	var table []string
	note := func(prefix []string, it unstable.Iterator) []string {
		keys := slices.Clone(prefix)
		for it.Next() {
			n := it.Node()
			keys = append(keys, string(n.Data))
			name := strings.Join(keys, "\x00")
			if _, ok := at[name]; !ok {
				at[name] = 1 + bytes.Count(data[:n.Raw.Offset], []byte("\n"))
			}
		}
		return keys
	}
	for p.NextExpression() {
		switch e := p.Expression(); e.Kind {
		case unstable.Table, unstable.ArrayTable:
			table = note(nil, e.Key())
		case unstable.KeyValue:
			note(table, e.Key())
		}
	}
	return at
}

// reader turns decoded TOML into a Config, noting what is wrong.
type reader struct {
	v        Vocabulary
	lines    map[string]int
	problems []Problem
}

// bad notes a problem with the key at path.
func (r *reader) bad(path []string, format string, args ...any) {
	line := 0
	for n := len(path); n > 0 && line == 0; n-- { // an inline table's keys have no line of their own
		line = r.lines[strings.Join(path[:n], "\x00")]
	}
	r.problems = append(r.problems, Problem{line, strings.Join(path, "."), fmt.Sprintf(format, args...)})
}

// below returns the path of a key.
func below(path []string, key string) []string { return append(slices.Clone(path), key) }

// table visits the keys of a table in the order of the file.
func (r *reader) table(path []string, value any, visit func(path []string, key string, value any)) {
	t, ok := value.(map[string]any)
	if !ok {
		r.bad(path, "this is a table: [%s]", strings.Join(path, "."))
		return
	}
	keys := make([]string, 0, len(t))
	for k := range t {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b string) int {
		la, lb := r.lines[strings.Join(below(path, a), "\x00")], r.lines[strings.Join(below(path, b), "\x00")]
		if la != lb {
			return la - lb
		}
		return strings.Compare(a, b)
	})
	for _, k := range keys {
		visit(below(path, k), k, t[k])
	}
}

func (r *reader) unknown(path []string, key string, known []string) {
	text := "there is no such key"
	if near := spelling.Nearest(key, known); near != "" {
		text += "; did you mean " + near + "?"
	}
	r.bad(path, "%s", text)
}

func (r *reader) config(raw map[string]any) *Config {
	c := &Config{Globals: Values{}, Repositories: map[string]Values{}, Elsewhere: map[string]map[string]Values{}, Commands: map[string]Values{}, Jobs: map[string]*Job{},
		Alerts: map[string]*Alert{}, Instances: map[string]*Instance{}}
	r.table(nil, raw, func(path []string, key string, value any) {
		if f, ok := r.v.Globals[key]; ok {
			r.flag(path, key, f, value, c.Globals)
			return
		}
		if flags, ok := r.v.Commands[key]; ok {
			c.Commands[key] = r.flags(path, value, flags)
			return
		}
		switch key {
		case "version":
			if n, ok := value.(int64); !ok || n != 1 {
				r.bad(path, "this program reads version 1")
			}
		case "repositories":
			r.table(path, value, func(path []string, name string, value any) {
				c.Repositories[name], c.Elsewhere[name] = r.repository(path, value)
			})
		case "sources":
			r.table(path, value, func(path []string, label string, value any) {
				c.Sources = append(c.Sources, r.source(path, label, value))
			})
		case "instances":
			r.table(path, value, func(path []string, name string, value any) { c.Instances[name] = r.instance(path, value) })
		case "jobs":
			r.table(path, value, func(path []string, name string, value any) { c.Jobs[name] = r.job(path, name, value) })
		case "alerts":
			r.table(path, value, func(path []string, name string, value any) { c.Alerts[name] = r.alert(path, name, value) })
		default:
			known := []string{"version", "repositories", "sources", "instances", "jobs", "alerts"}
			for name := range r.v.Globals {
				known = append(known, name)
			}
			for name := range r.v.Commands {
				known = append(known, name)
			}
			r.unknown(path, key, known)
		}
	})
	r.names(c)
	return c
}

// names checks that what is named exists.
func (r *reader) names(c *Config) {
	repository := func(path []string, name string) {
		if _, ok := c.Repositories[name]; name != "" && !ok {
			r.bad(below(path, "repository"), "there is no [repositories.%s]", name)
		}
	}
	for name, j := range c.Jobs {
		path := []string{"jobs", name}
		repository(path, j.Repository)
		for _, step := range j.Steps {
			r.step(below(path, "steps"), c, j, step)
		}
		if where := j.Commands["copy"]["to-repo"]; where != nil {
			r.bad(slices.Concat(path, []string{"copy", "to-repo"}), "the step says where to: \"copy@NAME\"")
		}
		for _, label := range j.Sources {
			if _, ok := c.Source(label); !ok {
				r.bad(below(path, "sources"), "there is no [sources.%s]", label)
			}
		}
		if slices.Contains(j.Steps, "backup") && len(c.Sources) == 0 {
			r.bad(path, "a backup needs a source: [sources.LABEL]")
		}
	}
	for name, i := range c.Instances {
		repository([]string{"instances", name}, i.Repository)
	}
	for name, a := range c.Alerts {
		for _, job := range a.Jobs {
			if _, ok := c.Jobs[job]; !ok {
				r.bad([]string{"alerts", name, "jobs"}, "there is no [jobs.%s]", job)
			}
		}
	}
}

// flags reads a table of flags.
func (r *reader) flags(path []string, value any, flags map[string]Flag) Values {
	out := Values{}
	r.table(path, value, func(path []string, key string, value any) {
		f, ok := flags[key]
		if !ok {
			known := make([]string, 0, len(flags))
			for name := range flags {
				known = append(known, name)
			}
			r.unknown(path, key, known)
			return
		}
		r.flag(path, key, f, value, out)
	})
	return out
}

// flag reads the value of a flag.
func (r *reader) flag(path []string, key string, f Flag, value any, out Values) {
	var texts []string
	switch v := value.(type) {
	case bool:
		if f.Kind != Bool {
			r.bad(path, "this is neither true nor false, but a text")
			return
		}
		texts = []string{strconv.FormatBool(v)}
	case []any:
		if f.Kind != List {
			r.bad(path, "one value can be given, not a list")
			return
		}
		for _, e := range v {
			text, ok := scalar(e)
			if !ok {
				r.bad(path, "the list may hold texts only")
				return
			}
			texts = append(texts, text)
		}
	default:
		text, ok := scalar(v)
		if !ok || f.Kind == Bool {
			r.bad(path, "%s", map[bool]string{true: "write true or false", false: "write a text in quotes"}[f.Kind == Bool])
			return
		}
		texts = []string{text}
	}
	for _, text := range texts {
		if f.Check != nil && f.Kind != Bool {
			if err := f.Check(text); err != nil {
				r.bad(path, "%v", err)
				return
			}
		}
	}
	out[key] = texts
}

// scalar returns the text of a value that has one.
func scalar(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case int64:
		return strconv.FormatInt(v, 10), true
	case float64:
		return strconv.FormatFloat(v, 'g', -1, 64), true
	case time.Time:
		return v.Format(time.RFC3339), true
	case fmt.Stringer: // local dates and times
		return v.String(), true
	}
	return "", false
}

func (r *reader) text(path []string, value any) string {
	s, ok := value.(string)
	if !ok || s == "" {
		r.bad(path, "write a text in quotes")
	}
	return s
}

func (r *reader) texts(path []string, value any) []string {
	if s, ok := value.(string); ok {
		return []string{s}
	}
	list, ok := value.([]any)
	out := []string{}
	for _, e := range list {
		s, isText := e.(string)
		ok = ok && isText && s != ""
		out = append(out, s)
	}
	if !ok {
		r.bad(path, "write a list of texts: [\"...\", \"...\"]")
	}
	return out
}

func (r *reader) span(path []string, value any) snapshot.Span {
	s, err := snapshot.ParseDuration(r.text(path, value))
	if err != nil {
		r.bad(path, "%v", err)
	}
	return s
}

func (r *reader) secret(path []string, value any) *Secret {
	s := &Secret{}
	if text, ok := value.(string); ok {
		if text == "" {
			r.bad(path, "it is empty")
		}
		s.Text = text
		return s
	}
	n := 0
	r.table(path, value, func(path []string, key string, value any) {
		if !slices.Contains(secretKeys, key) {
			r.unknown(path, key, secretKeys)
			return
		}
		*s.field(key) = r.text(path, value)
		n++
	})
	if n != 1 {
		r.bad(path, "write a text, or one of { file = \"...\" }, { command = \"...\" }, { credential = \"...\" }, { env = \"...\" }")
	}
	return s
}
