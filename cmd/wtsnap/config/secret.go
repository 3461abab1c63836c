package config

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// A Secret is a text that should not stand in the configuration itself: it says where the text is found. Exactly one
// field is set. What it holds is never printed.
type Secret struct {
	Text       string // the text after all
	File       string // the first line of a file
	Command    string // the first line that a command of the shell prints
	Credential string // the first line of a systemd credential, or else of a Docker secret, of that name
	Env        string // an environment variable
}

// maxSecret bounds a secret, in bytes.
const maxSecret = 64 << 10

// secretKeys are the ways to name a secret, in the order of Secret's fields.
var secretKeys = []string{"text", "file", "command", "credential", "env"}

func (s *Secret) field(key string) *string {
	switch key {
	case "file":
		return &s.File
	case "command":
		return &s.Command
	case "credential":
		return &s.Credential
	case "env":
		return &s.Env
	}
	return &s.Text
}

// String says where the secret is, and not what it is.
func (s *Secret) String() string {
	for _, key := range secretKeys[1:] {
		if v := *s.field(key); v != "" {
			return key + " " + v
		}
	}
	return "(in the configuration)"
}

// GoString keeps %#v from printing the text.
func (s *Secret) GoString() string { return s.String() }

// dockerSecrets is where Docker Swarm mounts them.
const dockerSecrets = "/run/secrets"

// Read returns the text.
func (s *Secret) Read(ctx context.Context) (string, error) {
	var (
		text []byte
		err  error
	)
	switch {
	case s.Text != "":
		return s.Text, nil
	case s.File != "":
		text, err = readSecretFile(s.File)
	case s.Command != "":
		text, err = runSecretCommand(ctx, s.Command)
	case s.Env != "":
		text = []byte(os.Getenv(s.Env))
	default:
		err = fmt.Errorf("neither $CREDENTIALS_DIRECTORY nor %s has it", dockerSecrets)
		for _, dir := range []string{os.Getenv("CREDENTIALS_DIRECTORY"), dockerSecrets} {
			if dir == "" {
				continue
			}
			got, rerr := readSecretFile(filepath.Join(dir, s.Credential))
			if rerr == nil || !errors.Is(rerr, os.ErrNotExist) {
				text, err = got, rerr
				break
			}
		}
	}
	if err != nil {
		return "", fmt.Errorf("reading the secret (%s): %w", s, err)
	}
	line, _, _ := bytes.Cut(text, []byte("\n"))
	if line = bytes.TrimSuffix(line, []byte("\r")); len(line) == 0 {
		return "", fmt.Errorf("reading the secret (%s): it is empty", s)
	}
	return string(line), nil
}

func readSecretFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err == nil && len(text) > maxSecret {
		err = fmt.Errorf("%s is larger than 64 KiB", name)
	}
	return text, err
}

func runSecretCommand(ctx context.Context, command string) ([]byte, error) {
	var out, errs bytes.Buffer
	c := exec.CommandContext(ctx, "/bin/sh", "-c", command)
	c.Stdout, c.Stderr = &out, &errs
	if err := c.Run(); err != nil {
		line, _, _ := strings.Cut(strings.TrimSpace(errs.String()), "\n")
		return nil, fmt.Errorf("%w (it said: %q)", err, line)
	}
	return out.Bytes(), nil
}
