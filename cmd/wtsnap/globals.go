package main

import (
	"cmp"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/whole-tale/wtsnap/cmd/wtsnap/spelling"
	"github.com/whole-tale/wtsnap/repo/storage/cache"
	"github.com/whole-tale/wtsnap/repo/storage/limit"
	"github.com/whole-tale/wtsnap/snapshot"
)

// globalFlags hold for every command and may be written before or behind it.
func globalFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "repo", Aliases: []string{"r"}, EnvVars: []string{"WTSNAP_REPO"},
			Usage: "the repository: a `FOLDER`, remote:path of rclone, or :backend,option=value:path"},
		&cli.StringFlag{Name: "password-file", Aliases: []string{"p"}, EnvVars: []string{"WTSNAP_PASSWORD_FILE"},
			Usage: "read the repository's password from `FILE`"},
		&cli.StringFlag{Name: "password-command", EnvVars: []string{"WTSNAP_PASSWORD_COMMAND"},
			Usage: "run `COMMAND` by the shell; the first line that it prints is the password"},
		&cli.StringFlag{Name: "instance", EnvVars: []string{"WTSNAP_INSTANCE"},
			Usage: "the `NAME` under which this machine's snapshots are kept; chooses snapshots elsewhere"},
		&cli.StringFlag{Name: "config", EnvVars: []string{"WTSNAP_CONFIG"},
			Usage: "the configuration `FILE` (default: ~/.config/wtsnap/wtsnap.toml, then /etc/wtsnap/wtsnap.toml); \"none\" reads none"},
		&cli.StringFlag{Name: "rclone-config", EnvVars: []string{"RCLONE_CONFIG"},
			Usage: "rclone's configuration `FILE`"},
		&cli.StringFlag{Name: "cache-dir", EnvVars: []string{"WTSNAP_CACHE_DIR"},
			Usage: "keep a sealed copy of the index, the folders and what changes of remote repositories in `FOLDER`; \"none\" keeps none"},
		&cli.GenericFlag{Name: "cache-size", EnvVars: []string{"WTSNAP_CACHE_SIZE"}, Value: newValue(parseSize),
			Usage: "let the copy of a repository take at most `SIZE` (default: 4GiB, at most a quarter of what the disk has left)"},
		&cli.GenericFlag{Name: "bwlimit", EnvVars: []string{"WTSNAP_BWLIMIT"}, Value: newValue(limit.ParseTimetable),
			Usage: "bound the bandwidth by rclone's `TIMETABLE`: 10M, 1M:500k (up:down) or \"08:00,512k 19:00,off\""},
		&cli.GenericFlag{Name: "connections", EnvVars: []string{"WTSNAP_CONNECTIONS"}, Value: newValue(parsePositive),
			Usage: "send at most `N` requests at a time"},
		&cli.GenericFlag{Name: "retry-for", EnvVars: []string{"WTSNAP_RETRY_FOR"}, Value: newValue(snapshot.ParseDuration),
			Usage: "try a request again for this `LONG` while the remote fails (default: 15min)"},
		&cli.GenericFlag{Name: "memory", EnvVars: []string{"WTSNAP_MEMORY"}, Value: newValue(parseSize),
			Usage: "use at most about `SIZE` of memory"},
		&cli.BoolFlag{Name: "json", EnvVars: []string{"WTSNAP_JSON"},
			Usage: "print one JSON document, and nothing else, on standard output"},
		&cli.GenericFlag{Name: "progress", EnvVars: []string{"WTSNAP_PROGRESS"}, Value: newValue(parseProgress),
			Usage: "show progress as `KIND`: auto, bar, plain, json (one object a line) or none; on standard error"},
		&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, EnvVars: []string{"WTSNAP_QUIET"},
			Usage: "print errors only"},
		&cli.BoolFlag{Name: "verbose", Aliases: []string{"v"}, EnvVars: []string{"WTSNAP_VERBOSE"},
			Usage: "print more"},
	}
}

// otherVariables are those that no flag reads.
var otherVariables = []string{"WTSNAP_PASSWORD", "WTSNAP_TO_PASSWORD", "WTSNAP_FROM_PASSWORD"}

// globals are the values of the global flags.
type globals struct {
	repo            string
	passwordFile    string
	passwordCommand string
	instance        string // as given by the flag: it narrows
	own             string // this machine's: of the flag or the environment
	rcloneConfig    string
	cacheDir        string // "" = none
	cacheSize       int64  // 0 = the default
	bandwidth       limit.Timetable
	connections     int
	retryFor        snapshot.Span
	retrySet        bool
	memory          int64
	json            bool
	progress        string
	quiet           bool
	verbose         bool
}

// readGlobals reads the global flags; given are those of the command line, the others come from the environment. With ownKey the
// variables that name a password count for nothing.
func readGlobals(c *cli.Context, given map[string]bool, ownKey bool) (*globals, error) {
	g := &globals{
		repo: c.String("repo"), rcloneConfig: c.String("rclone-config"), json: c.Bool("json"),
		quiet: c.Bool("quiet"), verbose: c.Bool("verbose"), own: c.String("instance"), progress: "auto",
	}
	if given["instance"] {
		g.instance = g.own
		if g.own == "" {
			return nil, usagef("--instance web", "the instance's name is empty")
		}
	}
	if err := checkInstance(g.own); err != nil {
		return nil, err
	}
	g.bandwidth, _ = get[limit.Timetable](c, "bwlimit")
	g.connections, _ = get[int](c, "connections")
	g.memory, _ = get[int64](c, "memory")
	g.cacheSize, _ = get[int64](c, "cache-size")
	if n := g.cacheSize; n != 0 && n < leastCache {
		return nil, usagef("--cache-size 1GiB, or --cache-dir none", "--cache-size %s is too little: 16 MiB is the least", size(n))
	}
	if n := g.memory; n != 0 && n < 32<<20 {
		return nil, usagef("--memory 128MiB", "--memory %s is too little: 32 MiB is the least", size(n))
	}
	g.retryFor, g.retrySet = get[snapshot.Span](c, "retry-for")
	if p, ok := get[string](c, "progress"); ok {
		g.progress = p
	}
	if g.quiet && g.verbose && given["quiet"] && given["verbose"] {
		return nil, usagef("", "--quiet and --verbose exclude each other")
	}
	var err error
	if g.cacheDir, err = cacheDir(c.String("cache-dir")); err != nil {
		return nil, err
	}
	return g, g.readPasswordFlags(c, given, ownKey)
}

// readPasswordFlags finds out where the password comes from: a flag wins over a variable, and of either kind there may
// be one only.
func (g *globals) readPasswordFlags(c *cli.Context, given map[string]bool, ownKey bool) error {
	file, command := c.String("password-file"), c.String("password-command")
	if given["password-file"] && given["password-command"] {
		return usagef("leave one of them out", "--password-file and --password-command exclude each other")
	}
	if given["password-file"] || given["password-command"] {
		if given["password-file"] {
			g.passwordFile, command = file, ""
		} else {
			g.passwordCommand, file = command, ""
		}
		if g.passwordFile+g.passwordCommand == "" {
			return usagef("", "the name of the password file, or the command, is empty")
		}
		return nil
	}
	var set []string
	for _, name := range []string{"WTSNAP_PASSWORD_FILE", "WTSNAP_PASSWORD_COMMAND", "WTSNAP_PASSWORD"} {
		if os.Getenv(name) != "" {
			set = append(set, name)
		}
	}
	if len(set) > 1 && !ownKey {
		return usagef("unset all but one of them", "%s are both set: which one holds?", strings.Join(set, " and "))
	}
	g.passwordFile, g.passwordCommand = file, command
	return nil
}

// checkInstance refuses names that would confuse people or terminals.
func checkInstance(name string) error {
	if len(name) > 128 || name != "" && shown(name) != name || strings.TrimSpace(name) != name || strings.ContainsAny(name, "/\\") {
		return usagef("", "%s is no name for an instance: up to 128 printable characters, without slashes and spaces around", shown(name))
	}
	return nil
}

// cacheDir returns where copies of remote objects are kept: what the user says, systemd's folder, or the user's own.
func cacheDir(flag string) (string, error) {
	switch {
	case flag == "none":
		return "", nil
	case flag != "":
		return filepath.Abs(flag)
	case os.Getenv("CACHE_DIRECTORY") != "":
		dir, _, _ := strings.Cut(os.Getenv("CACHE_DIRECTORY"), ":") // systemd separates several by colons
		return dir, nil
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", nil // a service without a home: there is no place, and nothing depends on one
	}
	return filepath.Join(dir, "wtsnap"), nil
}

const (
	leastCache   = 16 << 20
	defaultCache = 4 << 30
)

// cacheBytes is how large the copy of a repository may be. What the disk has left is counted before the cache is used.
func (g *globals) cacheBytes() int64 {
	if g.cacheSize > 0 {
		return g.cacheSize
	}
	if free, ok := cache.Free(g.cacheDir); ok {
		return min(defaultCache, max(free/4, leastCache))
	}
	return defaultCache
}

// checkVariables refuses nothing, but tells of variables that look like ours and are not: mistyped ones would do nothing
// in silence.
func checkVariables(app *cli.App, environ []string) (notes []string) {
	known := map[string]bool{}
	var list []string
	add := func(names ...string) {
		for _, n := range names {
			known[n] = true
			list = append(list, n)
		}
	}
	add(otherVariables...)
	flags := app.Flags
	for _, c := range app.Commands {
		flags = append(flags, c.Flags...)
	}
	for _, f := range flags {
		if d, ok := f.(cli.DocGenerationFlag); ok {
			add(d.GetEnvVars()...)
		}
	}
	for _, e := range environ {
		name, _, _ := strings.Cut(e, "=")
		if !strings.HasPrefix(name, "WTSNAP_") || known[name] {
			continue
		}
		note := "the environment variable " + shown(name) + " means nothing to wtsnap"
		if near := spelling.Nearest(name, list); near != "" {
			note += ": did you mean " + near + "?"
		}
		notes = append(notes, note)
	}
	return notes
}

// needInstance is what commands ask that cannot do without one.
func (g *globals) needInstance(command string) error {
	if g.own == "" {
		return usagef("--instance NAME, or export WTSNAP_INSTANCE=NAME; choose a name that says whose data these are, such as web",
			"%s needs the name of an instance", command)
	}
	return nil
}

// ownInstance is the instance that this machine is where --instance chooses a snapshot: the environment and the
// configuration say it.
func (a *app) ownInstance() string {
	return cmp.Or(a.configuredInstance(), a.g.own)
}

// configuredInstance is the instance that the environment or the configuration says this machine is; "": neither does.
func (a *app) configuredInstance() string {
	if own := os.Getenv("WTSNAP_INSTANCE"); own != "" {
		return own
	}
	if a.config != nil && len(a.config.Globals["instance"]) > 0 {
		return a.config.Globals["instance"][0]
	}
	return ""
}

// selector narrows which snapshots an argument may mean.
func (g *globals) selector(c *cli.Context) snapshot.Selector {
	sel := snapshot.Selector{Instance: g.instance, Own: g.own}
	sel.At, _ = get[time.Time](c, "at")
	sel.Incomplete = c.Bool("incomplete")
	return sel
}

// spec returns the repository's place, or a usage error.
func (g *globals) spec() (string, error) {
	if g.repo == "" {
		return "", usagef("-r FOLDER, -r remote:path, or export WTSNAP_REPO=...", "no repository was named")
	}
	if strings.Trim(g.repo, "0123456789") == "" { // what was a number of days to the scripts of old
		if _, err := os.Stat(g.repo); err != nil {
			return "", usagef("-r FOLDER, or -r remote:path; how long snapshots are kept says wtsnap forget --keep-within "+g.repo+"d; a new folder of that name is ./"+g.repo,
				"there is no repository %s", g.repo)
		}
	}
	return g.repo, nil
}

// shownRepo is a repository's place for messages: connection strings may hold passwords.
func shownRepo(spec string) string {
	if strings.HasPrefix(spec, ":") || strings.Contains(spec, ",") {
		if head, _, ok := strings.Cut(spec, ","); ok && !strings.Contains(head, "/") {
			return shown(head) + ",..."
		}
	}
	return shown(spec)
}
