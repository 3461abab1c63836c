package rclone

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rclone/rclone/fs"
	"github.com/rclone/rclone/fs/config"
	"github.com/rclone/rclone/fs/config/configfile"
	"github.com/rclone/rclone/fs/fspath"
	"github.com/rclone/rclone/lib/atexit"
	"golang.org/x/sys/unix"

	"github.com/whole-tale/wtsnap/repo/storage"
	"github.com/whole-tale/wtsnap/repo/storage/rclone/internal/quiet"
)

// rclone is initialised when this is.
var _ = quiet.Over()

// process is what rclone keeps once a process, as this package sets it:
//
//   - the configuration file and the functions that read and write it, so that a
//     token that a backend refreshed is stored at once, and that a failure to
//     store it reaches the user;
//   - the logger, which goes to Options.Log;
//   - no questions at the terminal;
//   - no signal handler, which some backends install to end the process.
//
// Everything else is in ctx, which each call carries.
type process struct {
	ctx        context.Context // with rclone's settings, never done
	path       string
	file       *configfile.Storage
	serverTime bool

	saving sync.Mutex // one writer of the file at a time

	mu   sync.Mutex
	warn func(string)
	log  func(level, message string)
	skew time.Duration // of this machine's clock before a server's, as rclone noticed it
}

var (
	theMu      sync.Mutex
	theProcess *process

	globals sync.Once               // what is set for good, before anything of rclone runs
	current atomic.Pointer[process] // whom the log handler tells
)

// Timeouts: a connection on which nothing moves is given up after idle. A few
// tries are left to rclone, whose backends count on them to refresh a token or
// to obey a server that asks to wait; the rest is for the decorator that retries.
const (
	connectTimeout = 30 * time.Second
	idleTimeout    = 2 * time.Minute
	tries          = 3
	checkers       = 8
)

// configure sets the process up, once; a second configuration file is refused,
// because rclone writes tokens by the name of the remote alone.
func configure(o Options) (*process, error) {
	theMu.Lock()
	defer theMu.Unlock()
	path, err := configPath(o.ConfigPath)
	if err != nil {
		return nil, err
	}
	if p := theProcess; p != nil {
		if p.path != path {
			return nil, configError("one process uses one rclone configuration: "+p.path+" is in use, not "+path, "")
		}
		p.listen(o)
		return p, nil
	}
	p := &process{path: path, file: &configfile.Storage{}, serverTime: true}
	p.listen(o)
	current.Store(p)
	globals.Do(func() {
		fs.SetLogger(logHandler{})
		atexit.IgnoreSignals()
		global := fs.GetConfig(context.Background())
		global.AskPassword = false
		if o.Log == nil {
			global.LogLevel = fs.LogLevelNotice // it took -vv of our command line for its own
		}
	})
	if err := config.SetConfigPath(path); err != nil {
		return nil, configError("rclone configuration "+path+": "+err.Error(), "")
	}
	config.SetData(p.file)
	// rclone ends the process when it cannot load the file: so try it first.
	if err := p.file.Load(); err != nil && !errors.Is(err, config.ErrorConfigFileNotFound) {
		return nil, loadError(path, err)
	}
	fs.ConfigFileSet = p.set
	ctx, ci := fs.AddConfig(context.Background())
	ci.AskPassword = false
	ci.LowLevelRetries = tries
	ci.UseServerModTime = true // a modification time of the client's costs a request an object on some
	ci.Checkers = checkers
	if ci.ConnectTimeout == fs.Duration(60*time.Second) {
		ci.ConnectTimeout = fs.Duration(connectTimeout)
	}
	if ci.Timeout == fs.Duration(5*time.Minute) {
		ci.Timeout = fs.Duration(idleTimeout)
	}
	p.ctx = ctx
	theProcess = p
	return p, nil
}

// ConfigFile is the file that Options.ConfigPath means: it need not be there.
func ConfigFile(path string) (string, error) { return configPath(path) }

func configPath(path string) (string, error) {
	if path == "" {
		path = os.Getenv("RCLONE_CONFIG")
	}
	if path == "" {
		path = config.GetConfigPath()
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", configError("rclone configuration "+path+": "+err.Error(), "")
	}
	return abs, nil
}

func configError(text, hint string) error {
	return &storage.Error{Op: "open", Kind: storage.ErrConfig, Err: errors.New(text), Hint: hint}
}

func loadError(path string, err error) error {
	text := err.Error()
	switch {
	case strings.Contains(text, "not allowed to ask for password"):
		return configError("the rclone configuration "+path+" is encrypted", "set RCLONE_CONFIG_PASS to its password")
	case strings.Contains(text, "unable to decrypt"), strings.Contains(text, "incorrect password"):
		return configError("the password does not open the rclone configuration "+path, "check RCLONE_CONFIG_PASS")
	}
	return configError("cannot read the rclone configuration "+path+": "+text, "")
}

func (p *process) listen(o Options) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if o.Warn != nil {
		p.warn = o.Warn
	}
	if o.Log != nil {
		p.log = o.Log
	}
}

// check returns the remote that spec names, or why there is none.
func (p *process) check(spec string) (remote string, err error) {
	parsed, err := fspath.Parse(spec)
	if err != nil {
		return "", configError(fmt.Sprintf("%q is no rclone remote: %v", redact(spec), err), "write remote:path, :backend,option=value:path, or a folder")
	}
	_, _, _, _, err = fs.ParseRemote(spec)
	switch {
	case errors.Is(err, fs.ErrorNotFoundInConfigFile):
		return "", p.unknown(parsed.Name)
	case err != nil:
		return "", configError(fmt.Sprintf("%s: %v", redact(spec), err), "")
	}
	if strings.HasPrefix(parsed.Name, ":") {
		return "", nil
	}
	return parsed.Name, nil
}

func (p *process) unknown(name string) error {
	names := p.file.GetSectionList()
	names = slices.DeleteFunc(names, func(n string) bool { return n == "DEFAULT" })
	for _, e := range os.Environ() {
		if n, ok := strings.CutPrefix(e, "RCLONE_CONFIG_"); ok {
			if n, _, ok := strings.Cut(n, "_TYPE="); ok {
				names = append(names, strings.ToLower(n))
			}
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	if _, err := os.Stat(p.path); err != nil {
		return configError(fmt.Sprintf("no remote %q: there is no rclone configuration at %s", name, p.path), "run: rclone config, or name the file with --rclone-config")
	}
	known := "it has none"
	if len(names) > 0 {
		known = "it has " + strings.Join(names, ", ")
	}
	return configError(fmt.Sprintf("no remote %q in %s", name, p.path), known)
}

func (p *process) value(remote, key string) string {
	v, _ := p.file.GetValue(remote, key)
	return v
}

// set stores one value of a remote, which a backend refreshed: an OAuth token.
// It replaces rclone's own function, which tries for seconds and then only logs.
func (p *process) set(remote, key, value string) error {
	p.saving.Lock()
	defer p.saving.Unlock()
	p.file.SetValue(remote, key, value)
	if err := p.save(remote, key, value); err != nil {
		p.tell(fmt.Sprintf("%s: %v", p.lost(remote, key), err))
	}
	return nil
}

// save writes the file anew beside the old one, or into the old one where that
// is all that is allowed: a single file mounted into a container.
func (p *process) save(remote, key, value string) error {
	text, err := p.file.Serialize()
	if err != nil {
		return err
	}
	if p.value(remote, key) != value {
		// Someone else wrote the file, and Serialize read it again.
		p.file.SetValue(remote, key, value)
		if text, err = p.file.Serialize(); err != nil {
			return err
		}
	}
	var out bytes.Buffer
	if err := config.Encrypt(strings.NewReader(text), &out); err != nil {
		return err
	}
	path := p.path
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	if err := replaceFile(path, out.Bytes()); err == nil {
		return nil
	}
	return overwriteFile(path, out.Bytes())
}

func replaceFile(path string, data []byte) (err error) {
	fi, err := os.Stat(path)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	_, err = f.Write(data)
	if err == nil {
		err = keepOwner(f, fi)
	}
	if err == nil {
		err = f.Chmod(fi.Mode().Perm())
	}
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	return err
}

func overwriteFile(path string, data []byte) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}()
	if _, err := f.WriteAt(data, 0); err != nil {
		return err
	}
	if err := f.Truncate(int64(len(data))); err != nil {
		return err
	}
	return f.Sync()
}

// foresee warns, before it is too late, that the tokens of a remote and of those
// it wraps will be refreshed and cannot be stored.
func (p *process) foresee(remote string) {
	for range 8 {
		if remote == "" || !p.file.HasSection(remote) {
			return
		}
		if p.value(remote, "token") != "" && !writable(p.path) {
			p.tell(p.lost(remote, "token"))
			return
		}
		inner, err := fspath.Parse(p.value(remote, "remote"))
		if err != nil {
			return
		}
		remote = inner.Name
	}
}

// lost says what follows from a token that is not stored.
func (p *process) lost(remote, key string) string {
	if key != "token" {
		return fmt.Sprintf("the new %s of %s cannot be stored in %s", key, remote, p.path)
	}
	when := "when it expires"
	var token struct {
		Expiry  time.Time `json:"expiry"`
		Refresh string    `json:"refresh_token"`
	}
	if json.Unmarshal([]byte(p.value(remote, "token")), &token) == nil && !token.Expiry.IsZero() {
		when = "from " + token.Expiry.Local().Format("2006-01-02 15:04 MST") + " on"
	}
	then := "a run that starts " + when + " may be refused"
	if p.value(remote, "type") == "box" {
		then = "Box takes a refresh token only once, so the next run after this one will be refused, " + when
	}
	return fmt.Sprintf("the refreshed token of %s cannot be stored in %s: %s; make the file writable", remote, p.path, then)
}

func (p *process) tell(text string) {
	p.mu.Lock()
	warn := p.warn
	p.mu.Unlock()
	if warn != nil {
		warn(text)
	}
}

func writable(path string) bool {
	if unix.Access(path, unix.W_OK) == nil {
		return true
	}
	return unix.Access(filepath.Dir(path), unix.W_OK) == nil
}

// wrongTime is how rclone says, once a host, that the Date of an answer is more than five minutes off.
var wrongTime = regexp.MustCompile(`^Time may be set wrong - time from .* is (\S+) different`)

// logHandler passes what rclone logs to Options.Log.
type logHandler struct{}

// Enabled lets everything through; rclone has checked the level.
func (logHandler) Enabled(context.Context, slog.Level) bool { return true }

// Handle passes a record on. One that precedes the end of the process, which
// rclone brings about in a few places, is shown in any case.
func (logHandler) Handle(_ context.Context, r slog.Record) error {
	text := r.Message
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "object" {
			text = a.Value.String() + ": " + text
			return false
		}
		return true
	})
	if r.Level >= fs.SlogLevelCritical {
		fmt.Fprintf(os.Stderr, "wtsnap: rclone: %s\n", text)
		return nil
	}
	p := current.Load()
	p.mu.Lock()
	log := p.log
	if m := wrongTime.FindStringSubmatch(text); m != nil {
		p.skew, _ = time.ParseDuration(m[1])
	}
	p.mu.Unlock()
	if log != nil {
		log(r.Level.String(), text)
	}
	return nil
}

// WithAttrs returns the handler: rclone does not group its records.
func (h logHandler) WithAttrs([]slog.Attr) slog.Handler { return h }

// WithGroup returns the handler.
func (h logHandler) WithGroup(string) slog.Handler { return h }
