package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/whole-tale/wtsnap/cmd/wtsnap/spelling"
)

// A usageError is a mistake in the command line, in an environment variable or in a file that these name.
type usageError struct {
	text string
	hint string
}

func (e *usageError) Error() string { return e.text }

func usagef(hint, format string, args ...any) error {
	return &usageError{fmt.Sprintf(format, args...), hint}
}

// commandLine is a command line in order: urfave/cli takes global flags before the command only, and no flag behind an
// argument, while people write both.
type commandLine struct {
	command *cli.Command    // nil: none was given
	name    string          // "wtsnap key add"
	flags   []string        // for urfave/cli: program, global flags, commands, flags
	globals []string        // the global flags among them
	args    []string        // the rest
	given   map[string]bool // flags by their first names
	help    bool
}

// parser sorts a command line by the flags and commands of an app.
type parser struct {
	app   *cli.App
	path  []*cli.Command
	out   commandLine
	local []string
	glob  []string
}

// parseArgs sorts args, whose first is the program's name. Flags may be anywhere before "--", behind the name of their
// command or, global ones, before it. The error is a usageError.
func parseArgs(app *cli.App, args []string) (*commandLine, error) {
	p := &parser{app: app, out: commandLine{given: map[string]bool{}}}
	rest := args[1:]
	for len(rest) > 0 {
		token := rest[0]
		rest = rest[1:]
		switch {
		case token == "--":
			p.out.args = append(p.out.args, rest...)
			rest = nil
		case len(token) > 1 && token[0] == '-':
			left, err := p.flag(token, rest)
			if err != nil {
				return nil, err
			}
			rest = left
		default:
			if err := p.word(token); err != nil {
				return nil, err
			}
		}
	}
	if len(p.path) > 0 {
		p.out.command = p.path[len(p.path)-1]
		if sub := p.out.command.Subcommands; len(sub) > 0 && p.out.command.Action == nil && !p.out.help {
			return nil, usagef("wtsnap "+p.out.command.Name+" --help", "%s needs a command: %s", p.out.command.Name, commandNames(sub))
		}
	}
	p.out.name = strings.TrimSpace(app.Name + " " + strings.Join(names(p.path), " "))
	p.out.globals = p.glob
	p.out.flags = append(append([]string{args[0]}, p.glob...), names(p.path)...)
	p.out.flags = append(p.out.flags, p.local...)
	return &p.out, nil
}

func names(path []*cli.Command) []string {
	var out []string
	for _, c := range path {
		out = append(out, c.Name)
	}
	return out
}

func commandNames(commands []*cli.Command) string {
	var out []string
	for _, c := range commands {
		if !c.Hidden {
			out = append(out, c.Name)
		}
	}
	return strings.Join(out, ", ")
}

// word takes the name of a command, or an argument.
func (p *parser) word(token string) error {
	commands, of := p.app.Commands, ""
	if n := len(p.path); n > 0 {
		commands, of = p.path[n-1].Subcommands, p.path[n-1].Name+" "
		if len(commands) == 0 {
			p.out.args = append(p.out.args, token)
			return nil
		}
	}
	if token == "help" {
		p.out.help = true
		return nil
	}
	var known []string
	for _, c := range commands {
		if c.HasName(token) {
			p.path = append(p.path, c)
			return nil
		}
		if !c.Hidden {
			known = append(known, c.Name)
		}
	}
	hint := "wtsnap " + of + "--help"
	if near := spelling.Nearest(token, known); near != "" {
		hint = "wtsnap " + of + near
	}
	return usagef(hint, "there is no command %s%s", of, shown(token))
}

// flag takes a flag and, where it needs one, its value; it returns what is left.
func (p *parser) flag(token string, rest []string) ([]string, error) {
	name, value, hasValue := strings.Cut(strings.TrimLeft(token, "-"), "=")
	if name == "help" || name == "h" {
		p.out.help = true
		return rest, nil
	}
	f, global := p.lookup(name)
	if f == nil && !strings.HasPrefix(token, "--") {
		if left, ok, err := p.cluster(token[1:], rest); ok || err != nil {
			return left, err
		}
	}
	if f == nil {
		return nil, p.unknownFlag(token, name)
	}
	if !takesValue(f) {
		if !hasValue {
			value = "true"
		}
		return rest, p.add(f, global, value)
	}
	if !hasValue {
		if len(rest) == 0 || p.isFlag(rest[0]) {
			return nil, usagef("wtsnap "+p.commandName()+"--help", "flag %s needs a value", dashed(name))
		}
		value, rest = rest[0], rest[1:]
	}
	return rest, p.add(f, global, value)
}

// cluster takes several one-letter flags behind one dash, and a value right behind its flag.
func (p *parser) cluster(letters string, rest []string) (left []string, ok bool, err error) {
	for i := range len(letters) {
		f, _ := p.lookup(letters[i : i+1])
		if f == nil {
			return nil, false, nil
		}
		if takesValue(f) {
			break
		}
	}
	for i := range len(letters) {
		f, global := p.lookup(letters[i : i+1])
		if takesValue(f) {
			value := letters[i+1:]
			if value == "" {
				left, err := p.flag("-"+letters[i:i+1], rest)
				return left, true, err
			}
			return rest, true, p.add(f, global, value)
		}
		if err := p.add(f, global, "true"); err != nil {
			return nil, false, err
		}
	}
	return rest, true, nil
}

// add hands a flag on in the form --name=value.
func (p *parser) add(f cli.Flag, global bool, value string) error {
	name := f.Names()[0]
	if p.out.given[name] && takesValue(f) && !repeats(f) {
		return usagef("", "flag %s is given twice", dashed(name))
	}
	p.out.given[name] = true
	text := "--" + name + "=" + value
	if global {
		p.glob = append(p.glob, text)
	} else {
		p.local = append(p.local, text)
	}
	return nil
}

// lookup finds a flag of the commands so far, or a global one.
func (p *parser) lookup(name string) (f cli.Flag, global bool) {
	for _, c := range slices.Backward(p.path) {
		if f := findFlag(c.Flags, name); f != nil {
			return f, false
		}
	}
	return findFlag(p.app.Flags, name), true
}

func findFlag(flags []cli.Flag, name string) cli.Flag {
	for _, f := range flags {
		if slices.Contains(f.Names(), name) {
			return f
		}
	}
	return nil
}

// isFlag reports whether a token is surely meant as a flag, and no value.
func (p *parser) isFlag(token string) bool {
	if len(token) < 2 || token[0] != '-' {
		return false
	}
	name, _, _ := strings.Cut(strings.TrimLeft(token, "-"), "=")
	f, _ := p.lookup(name)
	return f != nil
}

func takesValue(f cli.Flag) bool {
	d, ok := f.(cli.DocGenerationFlag)
	return !ok || d.TakesValue()
}

func repeats(f cli.Flag) bool {
	d, ok := f.(cli.DocGenerationSliceFlag)
	return ok && d.IsSliceFlag()
}

func (p *parser) commandName() string {
	if len(p.path) == 0 {
		return ""
	}
	return strings.Join(names(p.path), " ") + " "
}

func (p *parser) unknownFlag(token, name string) error {
	var known []string
	flags := slices.Clone(p.app.Flags)
	for _, c := range p.path {
		flags = append(flags, c.Flags...)
	}
	for _, f := range flags {
		known = append(known, f.Names()...)
	}
	hint := "wtsnap " + p.commandName() + "--help"
	if near := spelling.Nearest(name, known); near != "" {
		hint = dashed(near)
	} else if len(p.path) == 0 {
		for _, c := range p.app.Commands {
			var own []string
			for _, f := range c.Flags {
				own = append(own, f.Names()...)
			}
			if near := spelling.Nearest(name, own); near != "" {
				hint = fmt.Sprintf("write %s behind its command, such as: wtsnap %s %[1]s", dashed(near), c.Name)
				break
			}
		}
	}
	of := strings.TrimSpace("wtsnap " + p.commandName())
	text, _, _ := strings.Cut(token, "=")
	return usagef(hint, "unknown flag %s of %s", shown(text), of)
}

func dashed(name string) string {
	if len(name) == 1 {
		return "-" + name
	}
	return "--" + name
}
