// Package tool knows how each backup program is told to do the steps of the benchmark: encrypted, with the options that
// its documentation recommends, in a repository and with a cache of its own.
package tool

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Step is one thing to do.
type Step string

// The steps.
const (
	Init        Step = "init"
	Backup      Step = "backup"
	Restore     Step = "restore"      // of everything
	RestorePart Step = "restore part" // of one folder of the source
	Check       Step = "check"        // reading all data
	Prune       Step = "prune"        // forget all but the newest snapshot and free the space now
)

// Job is a step with its places.
type Job struct {
	Step   Step
	Source string // the folder that is backed up
	Part   string // the name of the folder in it that is restored alone
	Repo   string
	Cache  string // for the program's cache and configuration
	Target string // an empty folder, for restores
	Number int    // of the backup, counted from 1; in later steps that of the newest
}

// Label is the name of the source within snapshots.
func (j Job) Label() string { return filepath.Base(j.Source) }

// Command is a program to be run for a step.
type Command struct {
	Args   []string // without the program
	Dir    string
	Accept []int // exit codes other than 0 that are no failure
}

// Figures is what a program tells of its own work.
type Figures struct {
	Requests   map[string]int `json:"requests,omitempty"` // backend calls by kind
	Downloaded int64          `json:"downloaded,omitempty"`
	Uploaded   int64          `json:"uploaded,omitempty"`
}

// Tool is a backup program.
type Tool struct {
	Name    string
	Program string // its path
	Version string
	Options string // what it was told, for the reader of the table

	env      func(Job) []string
	commands func(Job) []Command
	restored func(Job) string              // where a restore puts what was at the source, or at the part of it
	learn    func(Job, []byte)             // from a step's output, for later steps; may be nil
	figures  func([]byte) (Figures, error) // may be nil
	internal func(path string) bool        // files of a repository that a remote one keeps for itself; may be nil
}

// Env is the environment of a job's commands.
func (t *Tool) Env(j Job) []string {
	return append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + j.Cache, "LANG=C.UTF-8", "TMPDIR=" + os.TempDir()}, t.env(j)...)
}

// Commands are run one after the other.
func (t *Tool) Commands(j Job) []Command { return t.commands(j) }

// Restored is where a restore put the folder to be compared with the source, or with its part.
func (t *Tool) Restored(j Job) string { return t.restored(j) }

// Learn is given the output of a job's command.
func (t *Tool) Learn(j Job, output []byte) {
	if t.learn != nil {
		t.learn(j, output)
	}
}

// Figures reads what a command printed of its own work; there may be none.
func (t *Tool) Figures(output []byte) (Figures, error) {
	if t.figures == nil {
		return Figures{}, nil
	}
	return t.figures(output)
}

// Internal tells whether a file of the repository does not travel when the repository is remote.
func (t *Tool) Internal(path string) bool { return t.internal != nil && t.internal(path) }

// Missing is a program that is not here.
type Missing struct{ Name, Hint string }

// Find looks for the named programs in PATH, or at the paths given by name: one that is not there is an error.
func Find(ctx context.Context, names []string, paths map[string]string) (found []*Tool, missing []Missing, err error) {
	for _, name := range names {
		known, ok := makers()[name]
		if !ok {
			return nil, nil, fmt.Errorf("unknown program %q: want some of wtsnap, restic, borg, kopia, rustic", name)
		}
		path := paths[name]
		if path == "" {
			path = name
		}
		program, err := exec.LookPath(path)
		if err == nil {
			program, err = filepath.Abs(program)
		}
		if err != nil && paths[name] != "" {
			return nil, nil, fmt.Errorf("%s: %w", name, err)
		}
		if err != nil {
			missing = append(missing, Missing{name, known.hint})
			continue
		}
		t := known.make()
		t.Name, t.Program = name, program
		if t.Version, err = version(ctx, program, known.version); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", program, err)
		}
		found = append(found, t)
	}
	return found, missing, nil
}

type maker struct {
	make    func() *Tool
	version string // the argument that prints it
	hint    string // how to get the program
}

func makers() map[string]maker {
	return map[string]maker{
		"wtsnap": {wtsnap, "version", "make build"},
		"restic": {restic, "version", "apt-get install restic"},
		"borg":   {borg, "--version", "apt-get install borgbackup"},
		"kopia":  {kopia, "--version", "see kopia.io, then put kopia in PATH"},
		"rustic": {rustic, "--version", "see rustic.cli.rs, then put rustic in PATH"},
	}
}

// version is what a program prints of itself after its name.
func version(ctx context.Context, program, argument string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	output, err := exec.CommandContext(ctx, program, argument).Output()
	if err != nil {
		return "", err
	}
	words := strings.Fields(string(output))
	if len(words) > 1 && !strings.ContainsAny(words[0], "0123456789") {
		words = words[1:]
	}
	if len(words) == 0 {
		return "", errors.New("prints no version")
	}
	return strings.TrimSuffix(words[0], ","), nil
}

const password = "correct horse battery staple"

// wtsnapFigures reads the one JSON document that wtsnap prints at the end.
func wtsnapFigures(output []byte) (Figures, error) {
	var document struct {
		Requests map[string]int
		Bytes    struct{ Uploaded, Downloaded int64 }
	}
	if len(output) == 0 {
		return Figures{}, nil
	}
	err := json.Unmarshal(output, &document)
	return Figures{Requests: document.Requests, Downloaded: document.Bytes.Downloaded, Uploaded: document.Bytes.Uploaded}, err
}
