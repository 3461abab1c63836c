package main

import (
	"os"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/whole-tale/wtsnap/repo"
)

// A secondRepo is a repository that a command knows besides its own: its flags have a word in front, --to-repo and
// --to-password-file, and so have the variables, WTSNAP_TO_REPO.
type secondRepo struct {
	word string // "to" or "from"
	what string // "the other repository"
}

func (s secondRepo) variable(name string) string {
	return "WTSNAP_" + strings.ToUpper(s.word) + "_" + name
}

// flags are those that name the repository and what opens it. repoFlag is the flag that names it, mostly "to-repo".
func (s secondRepo) flags(repoFlag, usage string) []cli.Flag {
	var variables []string
	if repoFlag == s.word+"-repo" {
		variables = []string{s.variable("REPO")}
	}
	return []cli.Flag{
		&cli.StringFlag{Name: repoFlag, EnvVars: variables, Usage: usage},
		&cli.StringFlag{Name: s.word + "-password-file", EnvVars: []string{s.variable("PASSWORD_FILE")}, Usage: "read the password of " + s.what + " from `FILE`"},
		&cli.StringFlag{Name: s.word + "-password-command", EnvVars: []string{s.variable("PASSWORD_COMMAND")},
			Usage: "run `COMMAND` by the shell; the first line that it prints is the password of " + s.what},
		&cli.StringFlag{Name: s.word + "-rclone-config", EnvVars: []string{s.variable("RCLONE_CONFIG")},
			Usage: "rclone's configuration `FILE` for " + s.what + ", if it has one of its own"},
	}
}

// open opens the repository that the flags name; @NAME is one of the configuration's further ones.
func (s secondRepo) open(a *app, c *cli.Context, repoFlag string) (*repo.Repository, string, error) {
	spec := c.String(repoFlag)
	file, command, rclone := c.String(s.word+"-password-file"), c.String(s.word+"-password-command"), c.String(s.word+"-rclone-config")
	text := os.Getenv(s.variable("PASSWORD"))
	if name, ok := strings.CutPrefix(spec, "@"); ok {
		if a.config == nil || a.config.Repositories[name] == nil {
			return nil, "", usagef("", "--%s %s: the configuration has no [repositories.%s]", repoFlag, shown(spec), shown(name))
		}
		configured, err := a.furtherPlace(name)
		if err != nil {
			return nil, "", err
		}
		spec = configured.spec
		if file+command+text == "" {
			file, command = configured.file, configured.command
		}
		rclone = cmpOr(rclone, configured.rclone)
	}
	return s.openPlace(a, place{spec, file, command, rclone}, text)
}

// A place is where a repository lies, and what opens it.
type place struct {
	spec, file, command string // the password's file, or the command that prints it
	rclone              string // the path of rclone's configuration; "" = the usual one
}

// furtherPlace is what the configuration says of a further repository. Like -r @NAME it has the main one's password where it has
// none of its own.
func (a *app) furtherPlace(name string) (p place, err error) {
	values := a.config.Repositories[name]
	p.spec, p.rclone = one(values, "repo"), one(values, "rclone-config")
	if p.spec == "" {
		return p, usagef("", "[repositories.%s] in %s names no repo", name, shown(a.config.Path))
	}
	if !hasPasswordKey(values) {
		values = a.config.Globals
	}
	p.file, p.command = one(values, "password-file"), one(values, "password-command")
	return p, nil
}

// openPlace opens the repository that lies in a place; text is its password, if it is known.
func (s secondRepo) openPlace(a *app, p place, text string) (*repo.Repository, string, error) {
	password, ask, err := s.opener(a, p.spec, p.file, p.command, text)
	if err != nil {
		return nil, "", err
	}
	if a.second, err = a.openPlace(p.spec, cmpOr(p.rclone, a.g.rcloneConfig)); err != nil {
		return nil, "", err
	}
	r, err := a.openAt(a.second, p.spec, password, ask)
	return r, p.spec, err
}

func (s secondRepo) opener(a *app, spec, file, command, text string) (password []byte, ask asker, err error) {
	given := 0
	for _, v := range []string{file, command, text} {
		if v != "" {
			given++
		}
	}
	switch {
	case given > 1:
		return nil, nil, usagef("leave all but one of them out", "--%s-password-file, --%[1]s-password-command and %s exclude each other", s.word, s.variable("PASSWORD"))
	case file != "":
		password, err = readPasswordFile(file)
	case command != "":
		password, err = runPasswordCommand(a.ctx, command)
	case text != "":
		password = []byte(text)
	case a.interactive():
		ask = a.asking(spec)
	default:
		err = usagef("--"+s.word+"-password-file FILE, or export "+s.variable("PASSWORD_FILE")+"=FILE",
			"no password of %s: neither a file, a command nor %s is set, and there is no terminal to ask at", s.what, s.variable("PASSWORD"))
	}
	return password, ask, err
}
