package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/urfave/cli/v2"

	"github.com/whole-tale/wtsnap/cmd/wtsnap/setup"
	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/repo/storage"
	"github.com/whole-tale/wtsnap/repo/storage/rclone"
)

type initDoc struct {
	ID         string `json:"id"`
	Repository string `json:"repository"`
	Format     int    `json:"format"`
	KeyFile    string `json:"key_file,omitempty"`
	Existed    bool   `json:"existed"` // --if-missing: the repository was there
	Config     string `json:"config,omitempty"`
	Kept       bool   `json:"config_existed,omitempty"` // the configuration was there, and is as it was
	Tested     bool   `json:"tested"`                   // a file was backed up and restored
}

func (a *app) initCommand() *cli.Command {
	return &cli.Command{
		Name: "init", Usage: "make a repository",
		Description: `Everything that goes into a repository is encrypted with a key that is made now and locked by your password. Without the
password, or the key file, nobody can read the backup: not you, not us. Keep a copy of it away from this machine.

At a terminal, and without a repository named, it asks for all that a first backup needs, tries the storage, writes the
configuration, and backs a test file up and restores it. Nothing is made before the last question is answered.

Examples:

  wtsnap init                                                    asks
  wtsnap init -r /mnt/backup/repo --new-key-file ~/wtsnap.key    a random key: safest, and fastest to open
  wtsnap init -r box:backups                                     asks for a password
  wtsnap init -r sftp:backups -p ~/password                      takes the password from a file
  wtsnap init --non-interactive --if-missing -r box:wtsnap --instance production --new-key-file /etc/wtsnap/key \
      --source homes=/srv/homes --write-config /etc/wtsnap/wtsnap.toml     for Terraform: twice does nothing more than once`,
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "new-key-file", Usage: "write a random key to `FILE`, which must not exist, and use it as the password; with --if-missing, one that is there is used"},
			&cli.BoolFlag{Name: "if-missing", Usage: "what is there already, the repository, the key file, the configuration, stays as it is, and is no error"},
			&cli.BoolFlag{Name: "non-interactive", Usage: "ask nothing: what is not said by flags or variables is an error"},
			&cli.StringFlag{Name: "write-config", Usage: "write a configuration with a nightly job to `FILE`, which must not exist"},
			&cli.StringSliceFlag{Name: "source", Usage: "with --write-config: save `LABEL=SOURCE`, as backup takes it; may be repeated"},
			&cli.BoolFlag{Name: "test", Usage: "back a test file up and restore it"},
		}, cutAs.flags("copy-parameters-from", "cut files at the same places as `REPOSITORY`: what wtsnap copy brings from there, and what is backed up "+
			"directly, is then stored once")...),
		Action: a.action(a.init),
	}
}

func (a *app) init(c *cli.Context) error {
	if _, err := a.arguments(0, 0, ""); err != nil {
		return err
	}
	if a.g.repo == "" && !c.Bool("non-interactive") && !a.g.json && a.interactive() {
		for _, name := range []string{"new-key-file", "if-missing", "write-config", "source", "test", "copy-parameters-from"} {
			if c.IsSet(name) {
				_, err := a.g.spec() // who says so much only forgot the repository
				return err
			}
		}
		return a.initGuided()
	}
	if c.IsSet("source") && !c.IsSet("write-config") {
		return usagef("--write-config FILE", "--source is for the configuration, and none is to be written")
	}
	var answers setup.Answers
	if path := c.String("write-config"); c.IsSet("write-config") {
		var err error
		if answers, err = a.initAnswers(c, path); err != nil {
			return err
		}
	}
	b, err := a.openBackend()
	if err != nil {
		return fmt.Errorf("making a repository: %w", err)
	}
	r, doc, err := a.initRepository(c, b)
	if err != nil {
		return err
	}
	if path := c.String("write-config"); path != "" {
		if doc.Config, doc.Kept, err = a.initConfig(path, answers, doc.KeyFile); err != nil {
			return err
		}
	}
	if c.Bool("test") {
		if err := tryRepository(a.ctx, r); err != nil {
			return fmt.Errorf("trying the repository: %w", err)
		}
		doc.Tested = true
	}
	next := a.firstStep(doc)
	a.done(doc, func(w io.Writer) { printInit(w, doc, next) })
	return nil
}

// initAnswers checks what the configuration is to say, before anything is made.
func (a *app) initAnswers(c *cli.Context, path string) (answers setup.Answers, err error) {
	if path == "" {
		return answers, usagef("", "the name of the configuration is empty")
	}
	if _, err := os.Lstat(path); err == nil && !c.Bool("if-missing") {
		return answers, usagef("--if-missing leaves it as it is", "%s is there already and is not overwritten", shown(path))
	}
	if err := a.g.needInstance("a configuration"); err != nil {
		return answers, err
	}
	if _, err := a.g.spec(); err != nil {
		return answers, err
	}
	if len(c.StringSlice("source")) == 0 {
		return answers, usagef("--source homes=/srv/homes", "a configuration without a source would save nothing")
	}
	if answers.Sources, err = setup.ParseSources(c.StringSlice("source")); err != nil {
		return answers, usagef("--source homes=/srv/homes", "--source: %v", err)
	}
	if !c.IsSet("new-key-file") && a.g.passwordFile == "" {
		return answers, usagef("--new-key-file FILE, or -p FILE", "a configuration names the file that holds the password")
	}
	answers.Repo, answers.Instance = a.g.repo, a.g.own
	return answers, nil
}

// initRepository makes the repository, or, where that is allowed, opens the one that is there.
func (a *app) initRepository(c *cli.Context, b *backend) (*repo.Repository, initDoc, error) {
	doc := initDoc{Repository: shownRepo(a.g.repo), Format: repo.FormatVersion}
	keyFile := c.String("new-key-file")
	fail := func(err error) (*repo.Repository, initDoc, error) {
		return nil, doc, fmt.Errorf("making a repository at %s: %w", shownRepo(a.g.repo), err)
	}
	there := false
	if c.Bool("if-missing") {
		switch _, err := b.Stat(a.ctx, "config"); {
		case err == nil:
			there = true
		case !errors.Is(err, storage.ErrNotExist):
			return fail(err)
		}
		if keyFile != "" {
			_, err := os.Stat(keyFile)
			switch {
			case err == nil:
				a.g.passwordFile, a.g.passwordCommand = keyFile, ""
				doc.KeyFile = keyFile
			case !errors.Is(err, fs.ErrNotExist):
				return nil, doc, usagef("", "the key file: %v", err)
			case there:
				return nil, doc, usagef("bring the key file to "+shown(keyFile), "a repository is at %s already, and a new key would not open it", shownRepo(a.g.repo))
			}
		}
	}
	if there {
		password, ask, err := a.opener(a.ctx)
		if err != nil {
			return nil, doc, err
		}
		r, err := repo.Open(a.ctx, b.Storage, repo.OpenOptions{Password: password, Ask: ask, Near: b.remote == nil})
		if err != nil {
			return nil, doc, fmt.Errorf("opening the repository %s: %w", shownRepo(a.g.repo), err)
		}
		doc.ID, doc.Existed = r.ID(), true
		return r, doc, nil
	}
	o := repo.InitOptions{Label: "first"}
	if c.String("copy-parameters-from") != "" {
		var err error
		if o.CutAs, _, err = cutAs.open(a, c, "copy-parameters-from"); err != nil {
			return nil, doc, fmt.Errorf("the repository to cut as: %w", err)
		}
	}
	password, madeKey, err := a.firstPassword(c, doc.KeyFile != "")
	if err != nil {
		return nil, doc, err
	}
	doc.KeyFile = cmp.Or(madeKey, doc.KeyFile)
	o.Password = password
	r, err := repo.Init(a.ctx, b.Storage, o)
	if err != nil {
		if _, serr := b.Stat(a.ctx, "config"); madeKey != "" && (errors.Is(err, repo.ErrExists) || errors.Is(serr, storage.ErrNotExist)) {
			_ = os.Remove(madeKey) // made above, and of no use
		}
		return fail(err)
	}
	doc.ID = r.ID()
	return r, doc, nil
}

// initConfig writes the configuration.
func (a *app) initConfig(path string, answers setup.Answers, keyFile string) (string, bool, error) {
	if _, err := os.Lstat(path); err == nil {
		return path, true, nil
	}
	var m made
	var err error
	if answers.PasswordFile, err = filepath.Abs(cmp.Or(keyFile, a.g.passwordFile)); err != nil {
		return "", false, err
	}
	if err = a.placesOf(&answers); err == nil {
		err = secretSources(&m, path, answers.Sources)
	}
	if err == nil {
		err = a.writeConfiguration(&m, path, answers)
	}
	if err != nil {
		m.undo()
		return "", false, fmt.Errorf("writing the configuration: %w", err)
	}
	return path, false, nil
}

// placesOf makes the configuration independent of the folder and the user that it is read by.
func (a *app) placesOf(answers *setup.Answers) (err error) {
	if isFolder(answers.Repo) {
		answers.Repo, err = filepath.Abs(answers.Repo)
		return err
	}
	answers.RcloneConfig, err = rclone.ConfigFile(a.g.rcloneConfig)
	return err
}

// firstPassword returns the password that locks a new repository, and the key file if one was made.
func (a *app) firstPassword(c *cli.Context, haveKey bool) (password []byte, keyFile string, err error) {
	if keyFile = c.String("new-key-file"); c.IsSet("new-key-file") && !haveKey {
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
	if !c.Bool("non-interactive") && a.interactive() {
		password, err = a.newPassword(a.ctx, shownRepo(a.g.repo))
		return password, "", err
	}
	return nil, "", usagef("--new-key-file FILE", "a new repository needs a password")
}

// firstStep is the command that makes the first snapshot.
func (a *app) firstStep(d initDoc) string {
	if d.Config != "" {
		return "wtsnap run nightly --config " + shown(d.Config)
	}
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
	instance := shown(cmpOr(a.g.own, "NAME"))
	if d.KeyFile != "" {
		return fmt.Sprintf("wtsnap -r %s -p %s --instance %s backup FOLDER", d.Repository, shown(d.KeyFile), instance)
	}
	return fmt.Sprintf("wtsnap -r %s --instance %s backup FOLDER", d.Repository, instance)
}

func printInit(w io.Writer, d initDoc, next string) {
	switch {
	case d.Existed:
		fmt.Fprintf(w, "repository %s at %s was there, and its key opens it\n", d.ID[:8], d.Repository)
	default:
		fmt.Fprintf(w, "made repository %s at %s\n", d.ID[:8], d.Repository)
	}
	switch {
	case d.Kept:
		fmt.Fprintf(w, "%s was there, and stays as it is\n", shown(d.Config))
	case d.Config != "":
		fmt.Fprintf(w, "wrote %s\n", shown(d.Config))
	}
	if d.Tested {
		fmt.Fprintln(w, "backed a test file up, restored it, and it is the same")
	}
	fmt.Fprintln(w)
	switch {
	case d.Existed:
	case d.KeyFile != "":
		fmt.Fprintf(w, "Its key is in %s.\nKeep a copy away from this machine (a password manager, paper): without it\n"+
			"nobody can read the backup, and nobody can make another one for it.\n\n", shown(d.KeyFile))
	default:
		fmt.Fprint(w, "Keep a copy of its password away from this machine: without it nobody can\nread the backup.\n\n")
	}
	fmt.Fprintf(w, "Next: %s\n", next)
}
