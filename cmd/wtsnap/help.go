package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"
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

const places = `Sources:   [LABEL=]SOURCE; the label defaults to the base name
           a folder or a file   homes=/srv/homes   /etc/fstab
           a tar archive        old=tar:home.tgz   old=tar:- (standard input)
           one stream           ledger=stdin:NAME
           a MongoDB            mongo=mongodb://HOST/
Snapshots: an id or its first digits, latest, latest~2 (the third newest);
           :PATH behind it for a part, such as latest:homes/alice
Targets:   a folder, tar:FILE, zip:FILE, or tar:- for standard output
Times:     "2026-11-20 03:00", 2026-11-20 (the end of that day), yesterday,
           "2h ago", 2026-11-20T03:00:00Z
Durations: 36h, 7d, 1w, 6m (months), 1y, 90min
`

// printStart is what wtsnap says without arguments.
func (a *app) printStart() { fmt.Fprint(a.std.out, startPage) }

// printHelp explains a command, or all of them.
func (a *app) printHelp(line *commandLine) {
	w, cmd := a.std.out, line.command
	width := a.width()
	if cmd == nil {
		fmt.Fprint(w, "wtsnap: deduplicating encrypted backups to any storage\n\nUsage: wtsnap COMMAND [FLAGS] [ARGUMENTS], flags anywhere\n\n")
		printCommands(w, a.cli.Commands)
		fmt.Fprintf(w, "\n%s\nGlobal flags, before or behind the command, each with its environment variable:\n", places)
		printFlags(w, a.cli.Flags, width)
		fmt.Fprintf(w, "\n%s\n%s\n", fill("The password may also be in WTSNAP_PASSWORD, or in systemd's $CREDENTIALS_DIRECTORY/wtsnap-password.", width),
			fill("Exit codes: 0 complete, 1 failed, 2 usage, 3 some entries could not be saved, 4 ended early, 5 credentials, "+
				"10 no repository, 11 busy, 12 wrong password, 13 damage, 14 source guard, 15 target guard, 130 interrupted", width))
		return
	}
	fmt.Fprintf(w, "%s: %s\n\nUsage: ", line.name, cmd.Usage)
	if len(cmd.Subcommands) > 0 && cmd.Action == nil {
		fmt.Fprintf(w, "%s %s\n\n", line.name, strings.ReplaceAll(commandNames(cmd.Subcommands), ", ", "|"))
		printCommands(w, cmd.Subcommands)
		if cmd.Description != "" {
			fmt.Fprintf(w, "\n%s\n", fill(strings.TrimSpace(cmd.Description), width))
		}
		return
	}
	fmt.Fprintf(w, "%s\n", strings.TrimSpace(line.name+" "+cmd.ArgsUsage))
	if cmd.Description != "" {
		fmt.Fprintf(w, "\n%s\n", fill(strings.TrimSpace(cmd.Description), width))
	}
	if len(cmd.Subcommands) > 0 {
		fmt.Fprintf(w, "\nCommands, behind %s:\n", line.name)
		printCommands(w, cmd.Subcommands)
	}
	if len(cmd.Flags) > 0 {
		fmt.Fprint(w, "\nFlags:\n")
		printFlags(w, cmd.Flags, width)
	}
	fmt.Fprintf(w, "\n%s\n", fill("Global flags (wtsnap --help): -r/--repo, -p/--password-file, --instance, --json, -q, -v and others", width))
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
func printFlags(w io.Writer, flags []cli.Flag, columns int) {
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
	width = min(width, 30, columns/3)
	for _, r := range rows {
		lines := wrap(r.right, max(columns-2-width-4, 20))
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

// helpColumns is how wide help is where nothing says how wide the terminal is.
const helpColumns = 120

// width is how many columns help may take: those of the terminal, and no more than are easy to read.
func (a *app) width() int {
	if f, ok := a.std.out.(*os.File); ok {
		if columns, _, err := term.GetSize(int(f.Fd())); err == nil && columns > 0 {
			return min(columns, helpColumns)
		}
	}
	return helpColumns
}

// fill breaks the paragraphs of a text anew. Of lines that are set in, which are examples and tables, only the second column is
// broken.
func fill(text string, columns int) string {
	var out, paragraph []string
	end := func() {
		if len(paragraph) > 0 {
			out = append(out, wrap(strings.Join(paragraph, " "), columns)...)
			paragraph = nil
		}
	}
	for _, line := range strings.Split(text, "\n") {
		if line != "" && line[0] != ' ' {
			paragraph = append(paragraph, line)
			continue
		}
		end()
		out = append(out, fillRow(line, columns)...)
	}
	end()
	return strings.Join(out, "\n")
}

// fillRow breaks the last column of a line, below itself, or below the line where there is no room for it.
func fillRow(line string, columns int) []string {
	const least, below = 20, 6
	gap := strings.LastIndex(line, "  ")
	left := ""
	if gap > 0 {
		left = strings.TrimRight(line[:gap], " ")
	}
	if len(line) <= columns || left == "" {
		return []string{line}
	}
	at := gap + 2
	out := []string{left}
	if columns-at < least {
		at = below
	} else {
		out = nil
	}
	for _, part := range wrap(line[gap+2:], columns-at) {
		head := strings.Repeat(" ", at)
		if len(out) == 0 {
			head = line[:gap+2]
		}
		out = append(out, head+part)
	}
	return out
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
