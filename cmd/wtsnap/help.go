package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"
)

const startPage = `wtsnap keeps encrypted, deduplicated snapshots of folders on any storage that rclone knows.

Three commands to begin with, here with a folder as the repository:

  export WTSNAP_REPO=/mnt/backup/repo WTSNAP_INSTANCE=laptop
  wtsnap init --new-key-file ~/wtsnap.key      make the repository, and a key (keep a copy of it elsewhere)
  export WTSNAP_PASSWORD_FILE=~/wtsnap.key
  wtsnap backup ~/Documents                    make a snapshot
  wtsnap restore latest --to /tmp/restored     bring it back

wtsnap --help lists all commands, wtsnap COMMAND --help explains one.
`

const places = `Sources:   a folder or a file   homes=/srv/homes   /etc/fstab      (the label defaults to the base name)
           a tar archive        old=tar:home.tgz   old=tar:-       (- is standard input)
           one stream           ledger=stdin:NAME
Snapshots: an id or its first digits, latest, latest~2 (the third newest); :PATH behind it for a part,
           such as latest:homes/alice
Targets:   a folder, tar:FILE, zip:FILE, or tar:- for standard output
Times:     "2026-11-20 03:00", 2026-11-20 (the end of that day), yesterday, "2h ago", 2026-11-20T03:00:00Z
Durations: 36h, 7d, 1w, 6m (months), 1y, 90min
`

// printStart is what wtsnap says without arguments.
func (a *app) printStart() { fmt.Fprint(a.std.out, startPage) }

// printHelp explains a command, or all of them.
func (a *app) printHelp(line *commandLine) {
	w, cmd := a.std.out, line.command
	if cmd == nil {
		fmt.Fprint(w, "wtsnap: deduplicating encrypted backups to any storage\n\nUsage: wtsnap COMMAND [FLAGS] [ARGUMENTS], flags anywhere\n\n")
		printCommands(w, a.cli.Commands)
		fmt.Fprintf(w, "\n%s\nGlobal flags, before or behind the command, each with its environment variable:\n", places)
		printFlags(w, a.cli.Flags)
		fmt.Fprint(w, "\nThe password may also be in WTSNAP_PASSWORD, or in systemd's $CREDENTIALS_DIRECTORY/wtsnap-password.\n"+
			"Exit codes: 0 complete, 1 failed, 2 usage, 3 some entries could not be saved, 4 ended early, 5 credentials,\n"+
			"10 no repository, 11 busy, 12 wrong password, 13 damage, 14 source guard, 15 target guard, 130 interrupted\n")
		return
	}
	fmt.Fprintf(w, "%s: %s\n\nUsage: ", line.name, cmd.Usage)
	if len(cmd.Subcommands) > 0 && cmd.Action == nil {
		fmt.Fprintf(w, "%s %s\n\n", line.name, strings.ReplaceAll(commandNames(cmd.Subcommands), ", ", "|"))
		printCommands(w, cmd.Subcommands)
		if cmd.Description != "" {
			fmt.Fprintf(w, "\n%s\n", strings.TrimSpace(cmd.Description))
		}
		return
	}
	fmt.Fprintf(w, "%s\n", strings.TrimSpace(line.name+" "+cmd.ArgsUsage))
	if cmd.Description != "" {
		fmt.Fprintf(w, "\n%s\n", strings.TrimSpace(cmd.Description))
	}
	if len(cmd.Subcommands) > 0 {
		fmt.Fprintf(w, "\nCommands, behind %s:\n", line.name)
		printCommands(w, cmd.Subcommands)
	}
	if len(cmd.Flags) > 0 {
		fmt.Fprint(w, "\nFlags:\n")
		printFlags(w, cmd.Flags)
	}
	fmt.Fprint(w, "\nGlobal flags (wtsnap --help): -r/--repo, -p/--password-file, --instance, --json, -q, -v and others\n")
}

func printCommands(w io.Writer, commands []*cli.Command) {
	width := 0
	for _, c := range commands {
		width = max(width, len(c.Name))
	}
	for _, c := range commands {
		if !c.Hidden {
			fmt.Fprintf(w, "  %-*s  %s\n", width, c.Name, c.Usage)
		}
	}
}

// printFlags lists flags in two columns; the name of a value is what stands in backticks.
func printFlags(w io.Writer, flags []cli.Flag) {
	type row struct{ left, right string }
	var rows []row
	width := 0
	for _, f := range flags {
		d, ok := f.(cli.DocGenerationFlag)
		if !ok {
			continue
		}
		usage, placeholder := d.GetUsage(), ""
		if before, rest, ok := strings.Cut(usage, "`"); ok {
			name, after, _ := strings.Cut(rest, "`")
			placeholder = " " + name
			usage = before + name + after
		}
		left := "    "
		for _, n := range f.Names() {
			if len(n) == 1 {
				left = "-" + n + ", "
			}
		}
		left += dashed(f.Names()[0]) + placeholder
		if env := d.GetEnvVars(); len(env) > 0 {
			usage += " [$" + env[0] + "]"
		}
		rows = append(rows, row{left, usage})
		width = max(width, len(left))
	}
	width = min(width, 30)
	for _, r := range rows {
		lines := wrap(r.right, 118-width-4)
		if len(r.left) > width {
			fmt.Fprintf(w, "  %s\n", r.left)
			r.left = ""
		}
		for i, line := range lines {
			if i > 0 {
				r.left = ""
			}
			fmt.Fprintf(w, "  %-*s  %s\n", width, r.left, line)
		}
	}
}

// wrap breaks text at spaces.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		if line != "" && len(line)+1+len(word) > width {
			lines = append(lines, line)
			line = ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}
