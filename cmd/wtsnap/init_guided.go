package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/whole-tale/wtsnap/cmd/wtsnap/doctor"
	"github.com/whole-tale/wtsnap/cmd/wtsnap/setup"
	"github.com/whole-tale/wtsnap/mongo"
	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/repo/storage"
	"github.com/whole-tale/wtsnap/repo/storage/rclone"
)

// guide is a first minute at a terminal. Its questions change nothing but for what the probe of the storage stores and
// removes again; what they lead to is made when all are answered.
type guide struct {
	a       *app
	b       *backend
	there   bool   // a repository is at that place already
	fresh   string // the topmost folder that the probe made; "" = none
	keyFile string
	config  string
	answers setup.Answers
}

// errNoAnswer ends the questions where the terminal has no more answers.
var errNoAnswer = errors.New("the terminal was closed")

func (a *app) initGuided() (err error) {
	g := &guide{a: a}
	a.say(`This makes a repository, its key and a configuration, and tries them. Return takes what stands in [brackets];
Ctrl-C ends it: nothing stays that is made before the last question.
`)
	defer func() {
		if err != nil {
			g.leaveNothing()
			err = interruption(a.ctx, err, "making a repository: interrupted; nothing was made", "run it again, or say it by flags: wtsnap init --help")
		}
	}()
	for _, ask := range []func() error{g.askWhere, g.askInstance, g.askKey, g.askSources, g.askConfig, g.askAll} {
		if err := ask(); err != nil {
			return err
		}
	}
	return g.make()
}

// line asks for one line; "" is the default.
func (g *guide) line(question, otherwise string) (string, error) {
	if otherwise != "" {
		question += " [" + shown(otherwise) + "]"
	}
	ended := false
	text, err := g.a.atTerminal(question+": ", func(tty *os.File) ([]byte, error) {
		text, err := bufio.NewReader(tty).ReadBytes('\n')
		ended = errors.Is(err, io.EOF) && len(text) == 0
		return text, err
	})
	if err != nil {
		return "", err
	}
	if ended {
		return "", errNoAnswer
	}
	if answer := strings.TrimSpace(string(text)); answer != "" {
		return answer, nil
	}
	return otherwise, nil
}

// until asks until the answer is taken.
func (g *guide) until(question, otherwise string, take func(answer string) error) error {
	for {
		answer, err := g.line(question, otherwise)
		if err != nil {
			return err
		}
		if answer == "" {
			continue
		}
		if err = take(answer); err == nil {
			return nil
		}
		if g.a.ctx.Err() != nil {
			return err
		}
		text := "  " + g.a.words(err)
		if h := hint(err); h != "" {
			text += "\n  try: " + h
		}
		g.a.say(text)
	}
}

func (g *guide) askWhere() error {
	remotes, err := rclone.Remotes(rclone.Options{ConfigPath: g.a.g.rcloneConfig})
	if err != nil {
		return err
	}
	text := "Where should the backup go? A folder on another disk, such as /mnt/backup/wtsnap"
	if len(remotes) > 0 {
		text += ", or a folder of one of rclone's remotes:\n"
		for _, r := range remotes {
			text += fmt.Sprintf("  %s:wtsnap  (%s)\n", shown(r.Name), shown(r.Type))
		}
	} else {
		text += ".\nFor Box, S3, SFTP and the like, make a remote first, with rclone: rclone config\n"
	}
	g.a.say(strings.TrimRight(text, "\n"))
	return g.until("Where", "", g.tryPlace)
}

// tryPlace opens a place and tries all that a backup will do there.
func (g *guide) tryPlace(place string) error {
	a := g.a
	if isFolder(place) {
		abs, err := filepath.Abs(place)
		if err != nil {
			return err
		}
		place = abs
		g.fresh = firstMissing(place)
	}
	if a.backend != nil {
		a.backend.close(a.ctx)
		a.backend = nil
	}
	a.g.repo = place
	b, err := a.openBackend()
	if err != nil {
		return err
	}
	_, err = b.Stat(a.ctx, "config")
	g.there = err == nil
	if err != nil && !errors.Is(err, storage.ErrNotExist) {
		return err
	}
	a.say("trying to write, list, read and delete there ...")
	probed := doctor.Probe(a.ctx, b.Storage)
	if a.ctx.Err() != nil {
		return a.ctx.Err()
	}
	for _, f := range probed.Findings {
		if f.Severity == doctor.Problem {
			g.leaveNothing()
			return usagef(f.Hint, "%s", f.Text)
		}
		a.say("  " + f.Text)
	}
	g.b, g.answers.Repo = b, place
	if g.there {
		a.say("  a repository is there already: this machine can share it")
	}
	return nil
}

// firstMissing is the topmost folder of a path that does not exist, or "".
func firstMissing(path string) (missing string) {
	for {
		if _, err := os.Lstat(path); err == nil || filepath.Dir(path) == path {
			return missing
		}
		missing, path = path, filepath.Dir(path)
	}
}

// leaveNothing removes the folders that the probe made, if nothing is in them.
func (g *guide) leaveNothing() {
	if g.fresh == "" || g.there {
		return
	}
	var dirs []string
	_ = filepath.WalkDir(g.fresh, func(path string, e os.DirEntry, err error) error {
		if err == nil && e.IsDir() {
			dirs = append(dirs, path)
		}
		return nil
	})
	for i := len(dirs) - 1; i >= 0; i-- {
		_ = os.Remove(dirs[i])
	}
}

func (g *guide) askInstance() error {
	name, _ := os.Hostname() // none: no suggestion
	name, _, _ = strings.Cut(name, ".")
	if g.a.g.own != "" {
		name = g.a.g.own
	}
	return g.until("The name under which this machine's (or installation's) snapshots are kept", name, func(answer string) error {
		g.answers.Instance = answer
		return checkInstance(answer)
	})
}

// ownFolder is where this user's configuration is.
func ownFolder() string {
	if dir, err := os.UserConfigDir(); err == nil && os.Getuid() != 0 {
		return filepath.Join(dir, "wtsnap")
	}
	return "/etc/wtsnap"
}

func (g *guide) askKey() error {
	if g.there {
		return g.until("The file with the key, or the password, of that repository", "", func(answer string) error {
			password, err := readPasswordFile(answer)
			if err == nil {
				g.keyFile, err = filepath.Abs(answer)
			}
			if err == nil {
				_, err = repo.Open(g.a.ctx, g.b.Storage, repo.OpenOptions{Password: password, Near: g.b.remote == nil})
			}
			return err
		})
	}
	return g.until("A new key is made. The file for it", freeName(filepath.Join(ownFolder(), "wtsnap.key")), func(answer string) error {
		var err error
		if g.keyFile, err = filepath.Abs(answer); err != nil {
			return err
		}
		return mustNotExist(g.keyFile)
	})
}

// mustNotExist refuses names of files that are there, or whose folder cannot be written.
func mustNotExist(path string) error {
	if _, err := os.Lstat(path); err == nil {
		return usagef("name a file that does not exist", "%s is there already and is not overwritten", shown(path))
	}
	return nil
}

// freeName is a name that nothing has: of name.ext also name-2.ext.
func freeName(path string) string {
	ext := filepath.Ext(path)
	for n, name := 2, path; ; n++ {
		if mustNotExist(name) == nil {
			return name
		}
		name = strings.TrimSuffix(path, ext) + "-" + strconv.Itoa(n) + ext
	}
}

func (g *guide) askSources() error {
	suggested := strings.Join(setup.Suggest("/"), " ")
	g.a.say("What is to be saved? LABEL=FOLDER, several with blanks between them.")
	err := g.until("Folders", suggested, func(answer string) (err error) {
		g.answers.Sources, err = setup.ParseSources(strings.Fields(answer))
		if err != nil {
			return usagef("homes=/srv/homes etc=/etc", "%v", err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	found := setup.MongoDB("localhost:27017")
	question := "A MongoDB, such as mongodb://backup@db1,db2/?replicaSet=rs1, or none"
	if found == "" {
		found = "none"
	}
	return g.until(question, found, func(answer string) error {
		if answer == "none" {
			return nil
		}
		list, err := setup.ParseSources([]string{"mongo=" + answer})
		if err != nil || !strings.HasPrefix(answer, "mongodb") {
			return usagef("mongodb://HOST/, or none", "%s is no address of a MongoDB", shown(answer))
		}
		s, err := mongo.Connect(g.a.ctx, answer, mongo.ConnectOptions{ReadOnly: true, Password: os.Getenv("WTSNAP_MONGO_PASSWORD")})
		if err != nil {
			return err
		}
		g.a.say("  MongoDB " + s.Version + " answers")
		s.Close(g.a.ctx)
		g.answers.Sources = append(g.answers.Sources, list...)
		return nil
	})
}

func (g *guide) askConfig() error {
	return g.until("The configuration's file", freeName(filepath.Join(ownFolder(), "wtsnap.toml")), func(answer string) (err error) {
		if g.config, err = filepath.Abs(answer); err != nil {
			return err
		}
		if err := mustNotExist(g.config); err != nil {
			return err
		}
		if g.config == g.keyFile {
			return usagef("name another file", "the key is to go into that file")
		}
		return nil
	})
}

func (g *guide) askAll() error {
	a := g.a
	if !g.there {
		a.say("This makes the repository " + shownRepo(g.answers.Repo) + ",\n  its key " + shown(g.keyFile) + "\n  and the configuration " + shown(g.config) + ",")
	} else {
		a.say("This makes the configuration " + shown(g.config) + " for the repository " + shownRepo(g.answers.Repo) + ",")
	}
	a.say("  backs a test file up there, restores it, and forgets it.")
	yes, err := a.askYes("Go on?")
	if yes || err != nil {
		return err
	}
	return &statusError{exitFailed, "nothing was made, because you did not agree", "wtsnap init asks again; wtsnap init --help shows how to say it by flags", nil}
}

// make makes what was agreed to. Until the repository is there, what fails leaves nothing.
func (g *guide) make() error {
	a := g.a
	var m made
	var r *repo.Repository
	err := m.folder(filepath.Dir(g.keyFile))
	if err == nil && !g.there {
		if _, err = writeKeyFile(g.keyFile); err == nil {
			m.files = append(m.files, g.keyFile)
		}
	}
	g.answers.PasswordFile = g.keyFile
	if err == nil {
		err = a.placesOf(&g.answers)
	}
	if err == nil {
		err = secretSources(&m, g.config, g.answers.Sources)
	}
	if err == nil {
		err = a.writeConfiguration(&m, g.config, g.answers)
	}
	var password []byte
	if err == nil {
		password, err = readPasswordFile(g.keyFile)
	}
	if err == nil && g.there {
		r, err = repo.Open(a.ctx, g.b.Storage, repo.OpenOptions{Password: password, Near: g.b.remote == nil})
	} else if err == nil {
		r, err = repo.Init(a.ctx, g.b.Storage, repo.InitOptions{Password: password, Label: "first"})
	}
	if err != nil {
		if _, serr := g.b.Stat(a.ctx, "config"); g.there || errors.Is(serr, storage.ErrNotExist) { // else the key may be that of a repository that was made
			m.undo()
		}
		return fmt.Errorf("making the repository: %w", err)
	}
	g.fresh = "" // it is used now
	doc := initDoc{ID: r.ID(), Repository: shownRepo(g.answers.Repo), Format: repo.FormatVersion, KeyFile: g.keyFile, Existed: g.there, Config: g.config}
	if err := tryRepository(a.ctx, r); err != nil {
		return &statusError{exitCode(a.ctx, err), "the repository, its key " + shown(g.keyFile) + " and " + shown(g.config) + " were made, but the test failed", hint(err), err}
	}
	doc.Tested = true
	next := "wtsnap run nightly"
	if path, _ := configPath(""); path != g.config {
		next += " --config " + shown(g.config)
	}
	a.done(doc, func(w io.Writer) {
		printInit(w, doc, next)
		kit := strings.Replace(next, "run nightly", "kit --to kit.html", 1)
		timer := strings.Replace(next, "run nightly", "install-timer nightly", 1)
		fmt.Fprintf(w, "Then: %s   each night from now on\n      %s   the page for the day on which this machine is gone\n", timer, kit)
	})
	return nil
}
