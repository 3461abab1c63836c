package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"github.com/whole-tale/wtsnap/cmd/wtsnap/config"
	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/snapshot"
	"github.com/whole-tale/wtsnap/snapshot/witness"
)

// std are the process's standard streams.
type std struct {
	in       io.Reader
	out, err io.Writer
}

func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// app is one run of the program.
type app struct {
	ctx       context.Context // of the run: the commands' functions are its methods
	std       std
	g         *globals
	line      *commandLine
	cli       *cli.App
	clock     func() time.Time     // what holds for now where ages are compared; nil: the machine's
	config    *config.Config       // nil: there is none
	repoName  string               // @NAME, where the repository is one of the configuration's further ones
	ownKey    bool                 // that one's password comes from the configuration, whatever the variables say
	broken    map[string]error     // configured sources that cannot be saved now, by label
	backend   *backend             // nil until it is opened
	watched   []*witness.Witness   // what this machine has seen of the repositories
	own       *witness.Witness     // of the run's own repository; nil until that is opened
	read      []*snapshot.Snapshot // whose manifests the run has read, of that one
	damages   []*repo.DamageError  // that have stopped nothing; guarded by mu
	accepting bool                 // what is missing is meant to be
	lacking   []witness.Missing    // what the last step of a job found to be missing
	second    *backend             // of commands that know another repository; nil until it is opened
	room      atomic.Int64         // bytes that the storage had room for, and one more; 0: nobody asked, or it did not tell
	typed     map[string][]byte    // passwords that were typed at the terminal, by repository
	doc       any                  // the JSON document, but for schema and error
	stream    *stream              // the JSON document, where it is written while the command goes on; doc is then its end

	mu       sync.Mutex
	progress *progress // the one that is shown, if any: what else goes to standard error must not tear it
}

// run does what args say and returns the exit code.
func run(ctx context.Context, s std, args []string) int { return newApp(ctx, s).main(args) }

// main is run of an app that has been made.
func (a *app) main(args []string) int {
	s := a.std
	code, err := a.do(args)
	wantJSON := a.g != nil && a.g.json || a.g == nil && wantsJSON(args)
	if err != nil && err != errNothingAsked {
		a.printError(err)
	}
	if wantJSON && (err != nil || a.doc != nil || a.stream != nil) {
		if werr := a.writeJSON(err, code); werr != nil {
			fmt.Fprintln(s.err, "wtsnap:", werr)
			return max(code, exitFailed)
		}
	}
	return code
}

// now is the time that ages are compared with.
func (a *app) now() time.Time {
	if a.clock != nil {
		return a.clock()
	}
	return time.Now()
}

func newApp(ctx context.Context, s std) *app {
	a := &app{ctx: ctx, std: s, typed: map[string][]byte{}}
	a.cli = a.newCLI()
	return a
}

// do is run, but that it prints neither the error nor the JSON document.
func (a *app) do(args []string) (code int, err error) {
	err = a.dispatch(args)
	a.remember()
	for _, b := range []*backend{a.backend, a.second} {
		if b != nil {
			b.close(a.ctx)
		}
	}
	return exitCode(a.ctx, err), err
}

// wantsJSON looks for --json where the command line could not be understood.
func wantsJSON(args []string) bool {
	for _, arg := range args[1:] {
		if arg == "--" {
			return false
		}
		if arg == "--json" || arg == "--json=true" {
			return true
		}
	}
	return os.Getenv("WTSNAP_JSON") == "true" || os.Getenv("WTSNAP_JSON") == "1"
}

func (a *app) writeJSON(err error, code int) error {
	var failure *jsonError
	if err != nil {
		failure = &jsonError{Code: code, Message: a.words(err), Hint: hint(err), Details: details(err)}
	}
	if a.stream != nil {
		return a.stream.finish(a.doc, failure)
	}
	return writeDocument(a.std.out, a.doc, failure)
}

// words are an error's message; an interruption is called one.
func (a *app) words(err error) string {
	if context.Cause(a.ctx) == errInterrupted && errors.Is(err, context.Canceled) && !is[*statusError](err) {
		return "interrupted"
	}
	return message(err)
}

func (a *app) printError(err error) {
	if is[pluginExit](err) {
		return
	}
	text := "wtsnap: " + printable(a.words(err))
	if h := hint(err); h != "" {
		text += "\n  try: " + printable(h)
	}
	fmt.Fprintln(a.std.err, text)
	if e, ok := errors.AsType[*snapshot.AmbiguousError](err); ok {
		snapshotTable(e.Matches, e.Matches).write(a.std.err)
	}
}

// dispatch finds the command and runs it.
func (a *app) dispatch(args []string) error {
	line, err := parseArgs(a.cli, args)
	if err != nil {
		return err
	}
	a.line = line
	if line.help {
		a.printHelp(line)
		return nil
	}
	if line.command == nil {
		if len(line.given) > 0 {
			return usagef("wtsnap --help", "no command was given")
		}
		a.printStart()
		return errNothingAsked
	}
	return a.cli.RunContext(a.ctx, line.flags)
}

// errNothingAsked makes a script that forgot its arguments fail; the start page says the rest.
var errNothingAsked error = &usageError{text: "no command was given"}

// newCLI makes the description of all commands.
func (a *app) newCLI() *cli.App {
	c := &cli.App{
		Name: "wtsnap", HelpName: "wtsnap", Usage: "deduplicating encrypted backups to any storage",
		Flags: globalFlags(), Writer: a.std.out, ErrWriter: a.std.err, HideHelp: true, HideHelpCommand: true, HideVersion: true,
		DisableSliceFlagSeparator: true, ExitErrHandler: func(*cli.Context, error) {},
		Commands: []*cli.Command{
			a.initCommand(), a.backupCommand(), a.restoreCommand(), a.copyCommand(), a.historyCommand(),
			a.snapshotsCommand(), a.lsCommand(), a.findCommand(), a.diffCommand(), a.dumpCommand(), a.mountCommand(), a.webCommand(),
			a.forgetCommand(), a.undeleteCommand(), a.pruneCommand(), a.checkCommand(), a.repairCommand(), a.statsCommand(),
			a.tagCommand(), a.holdCommand(), a.keyCommand(), a.kitCommand(), a.importCommand(), a.mongoCommand(), a.runCommand(), a.daemonCommand(), a.installTimerCommand(), a.statusCommand(), a.drillCommand(), a.doctorCommand(), a.configCommand(), a.completionCommand(), a.versionCommand(),
		},
	}
	c.OnUsageError = onUsageError
	var prepare func(list []*cli.Command)
	prepare = func(list []*cli.Command) {
		for _, cmd := range list {
			cmd.OnUsageError = onUsageError
			cmd.HideHelp, cmd.HideHelpCommand = true, true
			prepare(cmd.Subcommands)
		}
	}
	prepare(c.Commands)
	return c
}

// Errors of package cli that name a value: on the command line, and in the environment.
var (
	badFlag     = regexp.MustCompile(`^invalid (?:boolean )?value (".*") for flag -([a-z0-9-]+): (.*)$`)
	badBool     = regexp.MustCompile(`^invalid boolean value (".*") for -([a-z0-9-]+): .*$`)
	badVariable = regexp.MustCompile(`^could not parse (".*?") (?:as (bool) value )?from environment variable "([A-Z_]+)" .*?flag [a-z-]+: (.*)$`)
)

// onUsageError takes the errors of package cli: values that a flag or a variable refuses.
func onUsageError(_ *cli.Context, err error, _ bool) error {
	text := strings.ReplaceAll(err.Error(), "\n", " ")
	where, val, why := "", "", ""
	if m := badFlag.FindStringSubmatch(text); m != nil {
		where, val, why = dashed(m[2]), m[1], m[3]
	} else if m := badBool.FindStringSubmatch(text); m != nil {
		where, val, why = dashed(m[2]), m[1], m[1]+" is neither true nor false"
	} else if m := badVariable.FindStringSubmatch(text); m != nil {
		where, val, why = m[3], m[1], m[4]
		if m[2] == "bool" {
			why = val + " is neither true nor false"
		}
	} else {
		return usagef("", "%s", text)
	}
	if strings.Contains(why, val) { // the reason quotes the value itself
		return usagef("", "%s: %s", where, why)
	}
	return usagef("", "%s: %s: %s", where, val, why)
}

// action wraps what a command does: it reads the global flags first.
func (a *app) action(do func(c *cli.Context) error) cli.ActionFunc {
	return func(c *cli.Context) error {
		if readsConfig(a.line) {
			if err := a.configure(c); err != nil {
				return err
			}
		}
		g, err := readGlobals(c, a.line.given, a.ownKey)
		if err != nil {
			return err
		}
		a.g = g
		for _, note := range checkVariables(a.cli, os.Environ()) {
			a.note(note)
		}
		return do(c)
	}
}

// arguments checks how many arguments there are; most < 0 means any number.
func (a *app) arguments(least, most int, want string) ([]string, error) {
	n := len(a.line.args)
	name := a.line.name
	switch {
	case n < least:
		return nil, usagef(name+" --help", "%s is missing", want)
	case most >= 0 && n > most:
		return nil, usagef(name+" --help", "there is nothing to do with %s", shown(a.line.args[most]))
	}
	return a.line.args, nil
}

// result prints what a command found out: doc as JSON where the user wants that, else what text prints, unless doc alone
// was asked for.
func (a *app) result(doc any, text func(w io.Writer)) {
	a.doc = doc
	if !a.g.json && text != nil {
		text(a.std.out)
	}
}

// done is result of a command that is not asked for what it prints: -q silences it.
func (a *app) done(doc any, text func(w io.Writer)) {
	if a.g.quiet {
		text = nil
	}
	a.result(doc, text)
}

// say prints a line on standard error, beside the progress.
func (a *app) say(text string) {
	a.mu.Lock()
	p := a.progress
	a.mu.Unlock()
	text = printable(text) + "\n"
	if p != nil {
		p.print(text)
		return
	}
	_, _ = io.WriteString(a.std.err, text)
}

// note tells what is no error of this run.
func (a *app) note(text string) {
	if !a.g.quiet {
		a.say("wtsnap: note: " + text)
	}
}

// warn tells what will become an error; it is called from any goroutine.
func (a *app) warn(text string) { a.say("wtsnap: warning: " + text) }
