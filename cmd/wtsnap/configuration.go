package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/whole-tale/wtsnap/cmd/wtsnap/config"
	"github.com/whole-tale/wtsnap/cmd/wtsnap/schedule"
	"github.com/whole-tale/wtsnap/snapshot"
	"github.com/whole-tale/wtsnap/snapshot/exclude"
)

// What the configuration can say is what flags can say, by their names; a flag of the command line, or a variable of the
// environment, wins over it.

// neverConfigured are flags that make no sense in a file: they are about one run.
var neverConfigured = []string{"config", "json", "quiet", "verbose", "dry-run", "yes", "explain", "time", "host", "source", "to", "at", "into",
	"all", "map", "to-mongo", "all-instances", "key-file", "incomplete", "coverage"}

// sourceFlags are those of backup that a source of the configuration can have for itself.
var sourceFlags = []string{"exclude", "exclude-file", "exclude-caches", "exclude-larger-than", "one-file-system", "expect-mount", "sentinel", "anomaly-alarm"}

// vocabulary is what the configuration can say.
func (a *app) vocabulary() config.Vocabulary {
	v := config.Vocabulary{Globals: configFlags(a.cli.Flags), Commands: map[string]map[string]config.Flag{}, Source: map[string]config.Flag{}}
	for _, c := range a.cli.Commands {
		if len(c.Subcommands) == 0 && !slices.Contains([]string{"init", "import", "completion", "version", "config", "run", "install-timer", "doctor"}, c.Name) {
			v.Commands[c.Name] = configFlags(c.Flags)
		}
	}
	for _, name := range sourceFlags {
		f := v.Commands["backup"][name]
		switch name {
		case "anomaly-alarm":
			f.Check = checkOnOff
			fallthrough
		case "expect-mount", "sentinel":
			f.Kind = config.Text
		}
		v.Source[name] = f
	}
	return v
}

func configFlags(flags []cli.Flag) map[string]config.Flag {
	out := map[string]config.Flag{}
	for _, f := range flags {
		name := f.Names()[0]
		if slices.Contains(neverConfigured, name) {
			continue
		}
		c := config.Flag{}
		if d, ok := f.(cli.DocGenerationFlag); ok {
			c.Usage = d.GetUsage()
		}
		switch f := f.(type) {
		case *cli.BoolFlag:
			c.Kind = config.Bool
		case *cli.StringSliceFlag:
			c.Kind = config.List
		case *cli.GenericFlag:
			if v, ok := f.Value.(interface{ check(string) error }); ok {
				c.Check = v.check
			}
		}
		switch name {
		case "window":
			c.Check = func(s string) error {
				_, err := schedule.ParseWindow(s)
				return err
			}
		case "exclude":
			c.Check = checkPattern
		case "depth":
			c.Check = checkDepth
		case "tag", "keep-tag":
			c.Check = snapshot.CheckTag
		case "instance":
			c.Check = checkInstance
		}
		out[name] = c
	}
	return out
}

func checkPattern(text string) error {
	_, err := exclude.Compile([]exclude.Pattern{{Text: text, Origin: "the configuration"}})
	return err
}

// configPath returns the configuration to read: the one that is named, or the first that is there of the user's own and
// the machine's. named says that it must be there.
func configPath(flag string) (path string, named bool) {
	switch flag {
	case "none":
		return "", false
	case "":
	default:
		return flag, true
	}
	var places []string
	if dir, err := os.UserConfigDir(); err == nil {
		places = append(places, filepath.Join(dir, "wtsnap", "wtsnap.toml"))
	}
	for _, path := range append(places, "/etc/wtsnap/wtsnap.toml") {
		if f, err := os.Open(path); err == nil { // one that another user's eyes only may see is not this user's
			_ = f.Close()
			return path, false
		}
	}
	return "", false
}

// loadConfig reads the configuration; there may be none.
func (a *app) loadConfig(flag string) error {
	path, named := configPath(flag)
	if path == "" {
		return nil
	}
	c, err := config.Read(path, a.vocabulary())
	if errors.Is(err, fs.ErrNotExist) && named {
		without := "--config none does without"
		if a.line.command.Name == "init" {
			without = "wtsnap init --write-config " + shown(path) + " makes one; " + without
		}
		return usagef(without, "the configuration %s is not there", shown(path))
	}
	if err != nil {
		return &usageError{text: err.Error(), hint: "wtsnap config check --config " + shown(path) + "; --config none does without"}
	}
	a.config = c
	return nil
}

// configure sets the flags that neither the command line nor the environment has set.
func (a *app) configure(c *cli.Context) error {
	if err := a.loadConfig(c.String("config")); err != nil || a.config == nil {
		return err
	}
	globals := a.config.Globals
	command := a.line.command.Name
	var there config.Values // flags of this command in the repository that was chosen by its name
	repository := c.String("repo")
	if name, ok := strings.CutPrefix(repository, "@"); ok {
		a.repoName = repository
		other, ok := a.config.Repositories[name]
		if !ok {
			return usagef("", "there is no [repositories.%s] in %s", name, shown(a.config.Path))
		}
		merged := config.Values{}
		for key, values := range globals {
			if !strings.HasPrefix(key, "password-") || !hasPasswordKey(other) {
				merged[key] = values
			}
		}
		for key, values := range other {
			merged[key] = values
		}
		globals, there = merged, a.config.Elsewhere[name][command]
		a.ownKey = hasPasswordKey(other)
		if len(globals["repo"]) == 0 {
			return usagef("", "[repositories.%s] in %s names no repo", name, shown(a.config.Path))
		}
		if err := c.Set("repo", globals["repo"][0]); err != nil {
			return err
		}
	}
	passwordGiven := os.Getenv("WTSNAP_PASSWORD") != "" || c.IsSet("password-file") || c.IsSet("password-command")
	if a.ownKey { // the variables are about the main one's
		passwordGiven = a.line.given["password-file"] || a.line.given["password-command"]
		for _, key := range []string{"password-file", "password-command"} {
			if passwordGiven {
				a.ownKey = false
			} else if err := c.Set(key, one(globals, key)); err != nil {
				return err
			}
		}
	}
	if err := a.setFlags(c, globals, func(key string) bool { return !(passwordGiven && strings.HasPrefix(key, "password-")) }); err != nil {
		return err
	}
	// Rules that are spelled out, and snapshots that are named, stand for themselves.
	rules := len(a.line.args) == 0 && !givenRule(a.line.given)
	for _, values := range []config.Values{there, a.config.Commands[command]} {
		err := a.setFlags(c, values, func(key string) bool { return command != "forget" || !strings.HasPrefix(key, "keep-") || rules })
		if err != nil {
			return err
		}
		rules = rules && !hasRule(values)
	}
	return nil
}

func hasPasswordKey(v config.Values) bool {
	return v["password-file"] != nil || v["password-command"] != nil
}

func givenRule(given map[string]bool) bool { return slices.ContainsFunc(sortedKeys(given), isRule) }

func hasRule(values config.Values) bool { return slices.ContainsFunc(sortedKeys(values), isRule) }

func isRule(flag string) bool { return strings.HasPrefix(flag, "keep-") }

func (a *app) setFlags(c *cli.Context, values config.Values, want func(key string) bool) error {
	for key, texts := range values {
		if c.IsSet(key) || !want(key) {
			continue
		}
		for _, text := range texts {
			if err := c.Set(key, text); err != nil {
				return usagef("", "%s: %s: %v", shown(a.config.Path), key, err)
			}
		}
	}
	return nil
}

// configuredSources are the sources of the configuration, or those of them that are named.
func (a *app) configuredSources(only []string) (specs []snapshot.SourceSpec, err error) {
	if a.config == nil || len(a.config.Sources) == 0 {
		if len(only) > 0 {
			return nil, usagef("", "--source %s: no configuration names a source", shown(only[0]))
		}
		return nil, nil
	}
	for _, label := range only {
		if _, ok := a.config.Source(label); !ok {
			return nil, usagef("", "--source %s: there is no [sources.%[1]s] in %s", shown(label), shown(a.config.Path))
		}
	}
	for i := range a.config.Sources {
		s := &a.config.Sources[i]
		if len(only) > 0 && !slices.Contains(only, s.Label) {
			continue
		}
		spec, err := a.configuredSource(s)
		if err != nil {
			return nil, usagef("", "%s: sources.%s: %v", shown(a.config.Path), s.Label, err)
		}
		specs = append(specs, spec)
	}
	return specs, nil
}

func (a *app) configuredSource(s *config.Source) (snapshot.SourceSpec, error) {
	from, err := s.From.Read(a.ctx)
	if err != nil {
		return snapshot.SourceSpec{}, err
	}
	spec, err := snapshot.ParseSource(s.Label + "=" + from)
	if err != nil {
		return spec, err
	}
	one := func(key string) string {
		if v := s.Values[key]; len(v) > 0 {
			return v[0]
		}
		return ""
	}
	if err := a.broken[s.Label]; err != nil {
		spec.Stream = brokenSource{err}
	}
	spec.Guard = snapshot.Guard{MountPoint: one("expect-mount"), Sentinel: one("sentinel"), Calm: one("anomaly-alarm") == "off"}
	x := &snapshot.ExcludeOptions{Caches: one("exclude-caches") == "true", OneFileSystem: one("one-file-system") == "true"}
	origin := "[sources." + s.Label + "]"
	if x.Patterns, err = patternsOf(s.Values["exclude-file"], s.Values["exclude"], origin); err != nil {
		return spec, err
	}
	if text := one("exclude-larger-than"); text != "" {
		n, err := parseSize(text)
		if err != nil {
			return spec, err
		}
		x.MaxSize = exclude.SizeLimit{Bytes: n, Origin: origin}
	}
	spec.Exclude = x
	return spec, nil
}

func checkOnOff(s string) error {
	if s != "on" && s != "off" {
		return fmt.Errorf("%q is neither on nor off", s)
	}
	return nil
}

// A brokenSource cannot be saved; the snapshot without it is incomplete.
type brokenSource struct{ err error }

// Save fails.
func (s brokenSource) Save(context.Context, *snapshot.Sink) error { return s.err }

// patternsOf reads exclude patterns, those of files first.
func patternsOf(files, texts []string, origin string) (patterns []exclude.Pattern, err error) {
	for _, file := range files {
		f, err := os.Open(file)
		if err != nil {
			return nil, fmt.Errorf("the exclude file: %w", err)
		}
		more, err := exclude.ParseFile(f, file)
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("the exclude file %s: %w", shown(file), err)
		}
		patterns = append(patterns, more...)
	}
	for _, text := range texts {
		patterns = append(patterns, exclude.Pattern{Text: text, Origin: origin})
	}
	return patterns, nil
}
