package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/urfave/cli/v2"

	"github.com/whole-tale/wtsnap/repo"
)

type initDoc struct {
	ID         string `json:"id"`
	Repository string `json:"repository"`
	Format     int    `json:"format"`
	KeyFile    string `json:"key_file,omitempty"`
}

func (a *app) initCommand() *cli.Command {
	return &cli.Command{
		Name: "init", Usage: "make a repository",
		Description: `Everything that goes into a repository is encrypted with a key that is made now and locked by your password. Without the
password, or the key file, nobody can read the backup: not you, not us. Keep a copy of it away from this machine.

Examples:

  wtsnap init -r /mnt/backup/repo --new-key-file ~/wtsnap.key    a random key: safest, and fastest to open
  wtsnap init -r box:backups                                     asks for a password
  wtsnap init -r sftp:backups -p ~/password                      takes the password from a file`,
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "new-key-file", Usage: "write a random key to `FILE`, which must not exist, and use it as the password"},
		}, cutAs.flags("copy-parameters-from", "cut files at the same places as `REPOSITORY`: what wtsnap copy brings from there, and what is backed up "+
			"directly, is then stored once")...),
		Action: a.action(func(c *cli.Context) error {
			if _, err := a.arguments(0, 0, ""); err != nil {
				return err
			}
			b, err := a.openBackend()
			if err != nil {
				return fmt.Errorf("making a repository: %w", err)
			}
			o := repo.InitOptions{Label: "first"}
			if c.String("copy-parameters-from") != "" {
				if o.CutAs, _, err = cutAs.open(a, c, "copy-parameters-from"); err != nil {
					return fmt.Errorf("the repository to cut as: %w", err)
				}
			}
			password, keyFile, err := a.firstPassword(c)
			if err != nil {
				return err
			}
			o.Password = password
			r, err := repo.Init(a.ctx, b.Storage, o)
			if err != nil {
				if keyFile != "" && errors.Is(err, repo.ErrExists) {
					_ = os.Remove(keyFile) // made above, and of no use
				}
				return fmt.Errorf("making a repository at %s: %w", shownRepo(a.g.repo), err)
			}
			doc := initDoc{r.ID(), shownRepo(a.g.repo), repo.FormatVersion, keyFile}
			a.done(doc, func(w io.Writer) { printInit(w, doc, a.firstStep(doc)) })
			return nil
		}),
	}
}

// firstPassword returns the password that locks a new repository, and the key file if one was made.
func (a *app) firstPassword(c *cli.Context) (password []byte, keyFile string, err error) {
	keyFile = c.String("new-key-file")
	if c.IsSet("new-key-file") {
		if keyFile == "" {
			return nil, "", usagef("", "the name of the key file is empty")
		}
		if a.line.given["password-file"] || a.line.given["password-command"] {
			return nil, "", usagef("leave one of them out", "--new-key-file makes the password; another one was given besides")
		}
		password, err = writeKeyFile(keyFile)
		return password, keyFile, err
	}
	if a.hasPassword() {
		password, err = a.password(a.ctx)
		return password, "", err
	}
	if a.interactive() {
		password, err = a.newPassword(a.ctx, shownRepo(a.g.repo))
		return password, "", err
	}
	return nil, "", usagef("--new-key-file FILE", "a new repository needs a password")
}

// firstStep is the command that makes the first snapshot.
func (a *app) firstStep(d initDoc) string {
	if a.config != nil && a.g.repo != "" && len(a.config.Globals["repo"]) > 0 && a.config.Globals["repo"][0] == a.g.repo {
		for name, j := range a.config.Jobs {
			if slices.Contains(j.Steps, "backup") {
				return "wtsnap run " + name
			}
		}
		if len(a.config.Sources) > 0 {
			return "wtsnap backup"
		}
	}
	if d.KeyFile != "" {
		return fmt.Sprintf("wtsnap -r %s -p %s --instance NAME backup FOLDER", d.Repository, shown(d.KeyFile))
	}
	return fmt.Sprintf("wtsnap -r %s --instance NAME backup FOLDER", d.Repository)
}

func printInit(w io.Writer, d initDoc, next string) {
	fmt.Fprintf(w, "made repository %s at %s\n\n", d.ID[:8], d.Repository)
	if d.KeyFile != "" {
		fmt.Fprintf(w, "Its key is in %s. Keep a copy away from this machine (a password manager, paper):\n"+
			"without it nobody can read the backup, and nobody can make another one for it.\n\n", shown(d.KeyFile))
	} else {
		fmt.Fprint(w, "Keep a copy of its password away from this machine: without it nobody can read the backup.\n\n")
	}
	fmt.Fprintf(w, "Next: %s\n", next)
}
