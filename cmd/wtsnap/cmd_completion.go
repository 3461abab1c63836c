package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

func (a *app) completionCommand() *cli.Command {
	return &cli.Command{
		Name: "completion", Usage: "print what makes a shell complete commands, flags and names", ArgsUsage: "bash|zsh|fish",
		Description: `Examples:

  wtsnap completion bash > /etc/bash_completion.d/wtsnap
  wtsnap completion zsh > "${fpath[1]}/_wtsnap"
  wtsnap completion fish > ~/.config/fish/completions/wtsnap.fish

Ids of snapshots, names of instances and labels are completed as this machine has last seen them, without a password and
without a request. The scripts ask for them by wtsnap completion suggest -- WORD...`,
		Action: a.action(func(*cli.Context) error {
			args, err := a.arguments(1, -1, "the shell")
			if err != nil {
				return err
			}
			if args[0] == "suggest" {
				a.suggest(args[1:])
				return nil
			}
			if args, err = a.arguments(1, 1, "the shell"); err != nil {
				return err
			}
			shells := map[string]func(*cli.App) string{"bash": bashCompletion, "zsh": zshCompletion, "fish": fishCompletion}
			script, ok := shells[args[0]]
			if !ok {
				return usagef("bash, zsh or fish", "there is no completion for %s", shown(args[0]))
			}
			text := script(a.cli)
			a.result(map[string]string{"shell": args[0], "script": text}, func(w io.Writer) { fmt.Fprint(w, text) })
			return nil
		}),
	}
}

// words lists what may follow a path of commands: subcommands and flags.
func words(app *cli.App, path []*cli.Command) []string {
	commands, flags := app.Commands, app.Flags
	if n := len(path); n > 0 {
		commands, flags = path[n-1].Subcommands, slices.Concat(path[n-1].Flags, app.Flags)
	}
	var out []string
	for _, c := range commands {
		out = append(out, c.Name)
	}
	for _, f := range flags {
		out = append(out, dashed(f.Names()[0]))
	}
	return append(out, "--help")
}

// eachPath calls fn for every path of commands, the empty one first.
func eachPath(app *cli.App, fn func(path []*cli.Command)) {
	fn(nil)
	for _, c := range app.Commands {
		fn([]*cli.Command{c})
		for _, s := range c.Subcommands {
			fn([]*cli.Command{c, s})
		}
	}
}

// caseLines are the branches of a shell's case over the commands typed so far.
func caseLines(app *cli.App, format string) string {
	var b strings.Builder
	eachPath(app, func(path []*cli.Command) {
		fmt.Fprintf(&b, format, strings.Join(names(path), " "), strings.Join(words(app, path), " "))
	})
	return b.String()
}

// valueFlags lists the flags that take a value, so that the value is not taken for a command.
func valueFlags(app *cli.App) string {
	var out []string
	add := func(flags []cli.Flag) {
		for _, f := range flags {
			if takesValue(f) {
				for _, n := range f.Names() {
					out = append(out, dashed(n))
				}
			}
		}
	}
	add(app.Flags)
	for _, c := range app.Commands {
		add(c.Flags)
		for _, s := range c.Subcommands {
			add(s.Flags)
		}
	}
	slices.Sort(out)
	return strings.Join(slices.Compact(out), "|")
}

func commandWords(app *cli.App) string {
	var out []string
	eachPath(app, func(path []*cli.Command) {
		if len(path) > 0 {
			out = append(out, path[len(path)-1].Name)
		}
	})
	slices.Sort(out)
	return strings.Join(slices.Compact(out), "|")
}

func bashCompletion(app *cli.App) string {
	return fmt.Sprintf(`# bash completion of wtsnap
# _wtsnap_names completes what this machine has seen of the repository, if that is what may stand here.
_wtsnap_names() {
	local line=${COMP_LINE:0:COMP_POINT} name typed
	read -ra typed <<< "$line"
	[[ $line == *[[:space:]] ]] && typed+=("")
	((${#typed[@]} > 1)) || return
	local last=${typed[${#typed[@]}-1]}
	local head=${last%%"${last##*[:=]}"}
	[[ $COMP_WORDBREAKS == *:* ]] || head=
	COMPREPLY=()
	while IFS=$'\t' read -r name _; do
		[[ -z $name ]] || COMPREPLY+=("${name#"$head"}")
	done < <("${typed[0]}" completion suggest -- "${typed[@]:1}" 2>/dev/null)
	((${#COMPREPLY[@]})) || return
	compopt +o filenames 2>/dev/null
	return 0
}
_wtsnap() {
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} path= skip= word words i
	for ((i = 1; i < COMP_CWORD; i++)); do
		word=${COMP_WORDS[i]}
		if [[ -n $skip ]]; then skip=; continue; fi
		case $word in
		%[1]s) skip=1 ;;
		-*) ;;
		%[2]s) path="${path:+$path }$word" ;;
		esac
	done
	if [[ -n $skip ]]; then
		_wtsnap_names || COMPREPLY=($(compgen -f -- "$cur"))
		return
	fi
	case $path in
%[3]s	esac
	if [[ $cur != -* && -n $path ]] && _wtsnap_names; then
		compopt -o nospace 2>/dev/null # a colon and a path may follow
		return
	fi
	if [[ $cur == -* || -z $path || $path == key || $path == tag || $path == hold ]]; then
		COMPREPLY=($(compgen -W "$words" -- "$cur"))
	else
		COMPREPLY=($(compgen -f -- "$cur"))
	fi
}
complete -o filenames -F _wtsnap wtsnap
`, valueFlags(app), commandWords(app), caseLines(app, "\t%[1]q) words=%[2]q ;;\n"))
}

func zshCompletion(app *cli.App) string {
	return fmt.Sprintf(`#compdef wtsnap
_wtsnap() {
	local word skip= path_= list
	for word in ${words[2,CURRENT-1]}; do
		if [[ -n $skip ]]; then skip=; continue; fi
		case $word in
		%[1]s) skip=1 ;;
		-*) ;;
		%[2]s) path_="${path_:+$path_ }$word" ;;
		esac
	done
	if [[ $PREFIX != -* && -n $path_ ]]; then
		local row
		local -a names shown
		for row in ${(f)"$(${words[1]} completion suggest -- "${(@)words[2,CURRENT]}" 2>/dev/null)"}; do
			names+=("${row%%%%$'\t'*}")
			shown+=("${row/$'\t'/  }")
		done
		if (( $#names )); then compadd -l -d shown -a names; return; fi
	fi
	if [[ -n $skip ]]; then _files; return; fi
	case $path_ in
%[3]s	esac
	if [[ $PREFIX == -* || -z $path_ || $path_ == key || $path_ == tag || $path_ == hold ]]; then
		compadd -- ${=list}
	else
		_files
	fi
}
_wtsnap "$@"
`, valueFlags(app), commandWords(app), caseLines(app, "\t%[1]q) list=%[2]q ;;\n"))
}

func fishCompletion(app *cli.App) string {
	var b strings.Builder
	b.WriteString(`# fish completion of wtsnap
function __wtsnap_names
	set -l typed (commandline -opc)
	$typed[1] completion suggest -- $typed[2..-1] (commandline -ct) 2>/dev/null
end
`)
	all := strings.ReplaceAll(commandNames(app.Commands), ",", "")
	quote := func(s string) string { return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'" }
	flags := func(condition string, list []cli.Flag) {
		for _, f := range list {
			d, ok := f.(cli.DocGenerationFlag)
			if !ok {
				continue
			}
			fmt.Fprintf(&b, "complete -c wtsnap%s", condition)
			for _, n := range f.Names() {
				if len(n) == 1 {
					fmt.Fprintf(&b, " -s %s", n)
				} else {
					fmt.Fprintf(&b, " -l %s", n)
				}
			}
			if d.TakesValue() {
				b.WriteString(" -r")
			}
			if name := f.Names()[0]; name == "instance" || name == "into" || name == "source" {
				b.WriteString(" -a '(__wtsnap_names)'")
			}
			fmt.Fprintf(&b, " -d %s\n", quote(strings.ReplaceAll(d.GetUsage(), "`", "")))
		}
	}
	flags("", app.Flags)
	for _, c := range app.Commands {
		fmt.Fprintf(&b, "complete -c wtsnap -f -n %s -a %s -d %s\n", quote("not __fish_seen_subcommand_from "+all), c.Name, quote(c.Usage))
		flags(" -n "+quote("__fish_seen_subcommand_from "+c.Name), c.Flags)
		if takesNames(c) {
			fmt.Fprintf(&b, "complete -c wtsnap -n %s -a '(__wtsnap_names)'\n", quote("__fish_seen_subcommand_from "+c.Name))
		}
		for _, s := range c.Subcommands {
			fmt.Fprintf(&b, "complete -c wtsnap -f -n %s -a %s -d %s\n", quote("__fish_seen_subcommand_from "+c.Name), s.Name, quote(s.Usage))
			flags(" -n "+quote("__fish_seen_subcommand_from "+c.Name+"; and __fish_seen_subcommand_from "+s.Name), s.Flags)
			if takesNames(s) {
				fmt.Fprintf(&b, "complete -c wtsnap -n %s -a '(__wtsnap_names)'\n", quote("__fish_seen_subcommand_from "+c.Name+"; and __fish_seen_subcommand_from "+s.Name))
			}
		}
	}
	return b.String()
}
