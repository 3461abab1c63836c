package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/term"

	"github.com/whole-tale/wtsnap/repo"
)

// maxPassword bounds what is read of a password file: who names a video by mistake should hear of it.
const maxPassword = 64 << 10

// password returns the repository's password from where the flags, the environment, systemd or the terminal has it. What was
// typed once is not asked for again.
func (a *app) password(ctx context.Context) ([]byte, error) {
	password, ask, err := a.opener(ctx)
	if ask == nil {
		return password, err
	}
	if typed, ok := a.typed[a.g.repo]; ok {
		return typed, nil
	}
	return ask(0)
}

// opener returns the repository's password, or, where somebody has to be asked, what asks.
func (a *app) opener(ctx context.Context) (password []byte, ask asker, err error) {
	if password, err = a.givenPassword(ctx); password != nil || err != nil {
		return password, nil, err
	}
	if a.interactive() {
		return nil, a.asking(a.g.repo), nil
	}
	return nil, nil, usagef("-p FILE, or export WTSNAP_PASSWORD_FILE=FILE", "no password: neither a file, a command nor WTSNAP_PASSWORD is set, and there is no terminal to ask at")
}

// givenPassword returns the password that the flags, the environment or systemd have, nil where none does.
func (a *app) givenPassword(ctx context.Context) ([]byte, error) {
	switch {
	case a.g.passwordFile != "":
		return readPasswordFile(a.g.passwordFile)
	case a.g.passwordCommand != "":
		return runPasswordCommand(ctx, a.g.passwordCommand)
	case os.Getenv("WTSNAP_PASSWORD") != "":
		return []byte(os.Getenv("WTSNAP_PASSWORD")), nil
	}
	if dir := os.Getenv("CREDENTIALS_DIRECTORY"); dir != "" {
		file := filepath.Join(dir, "wtsnap-password")
		if _, err := os.Stat(file); err == nil {
			return readPasswordFile(file)
		}
	}
	return nil, nil
}

// tries is how often a password may be typed, as of ssh.
const tries = 3

// An asker asks for a password, after so many that were wrong.
type asker func(wrong int) ([]byte, error)

// asking asks for the password of a repository at the terminal, unless it was typed before in this run.
func (a *app) asking(spec string) asker {
	return func(wrong int) ([]byte, error) {
		if typed, ok := a.typed[spec]; ok && wrong == 0 {
			return typed, nil
		}
		delete(a.typed, spec)
		if wrong == tries {
			return nil, repo.ErrWrongPassword
		}
		prompt := "password of " + shownRepo(spec) + ": "
		if wrong > 0 {
			prompt = "wrong password, once more\n" + prompt
		}
		text, err := a.ask(prompt)
		if err == nil {
			a.typed[spec] = text
		}
		return text, err
	}
}

// newPassword is password for a repository, or a key, that is to be made: at a terminal it asks twice.
func (a *app) newPassword(ctx context.Context, of string) ([]byte, error) {
	first, err := a.ask("new password of " + of + ": ")
	if err != nil {
		return nil, err
	}
	second, err := a.ask("the same again: ")
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(first, second) {
		return nil, usagef("type the same password twice", "the two passwords differ")
	}
	return first, nil
}

// terminal opens the user's terminal, which is not always what standard input is: pg_dump | wtsnap backup. It is nil where
// nobody sits: neither standard input nor standard error is one.
func (a *app) terminal() *os.File {
	if !isTerminal(a.std.in) && !isTerminal(a.std.err) {
		return nil
	}
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return nil
	}
	return tty
}

// interactive reports whether there is somebody to ask.
func (a *app) interactive() bool {
	tty := a.terminal()
	if tty != nil {
		_ = tty.Close()
	}
	return tty != nil
}

// ask reads a password at the terminal.
func (a *app) ask(prompt string) ([]byte, error) {
	text, err := a.atTerminal(prompt, func(tty *os.File) ([]byte, error) {
		text, err := term.ReadPassword(int(tty.Fd()))
		fmt.Fprintln(tty)
		return text, err
	})
	if err != nil {
		return nil, fmt.Errorf("asking for the password: %w", err)
	}
	if len(text) == 0 {
		return nil, usagef("type a password", "the password is empty")
	}
	return text, nil
}

// askYes asks a question whose answer is no unless it is yes.
func (a *app) askYes(question string) (bool, error) {
	text, err := a.atTerminal(question+" [y/N] ", func(tty *os.File) ([]byte, error) {
		return bufio.NewReader(tty).ReadBytes('\n')
	})
	answer := strings.ToLower(string(bytes.TrimSpace(text)))
	return answer == "y" || answer == "yes", err
}

// atTerminal prints a prompt at the terminal and reads the answer, or ends with the run.
func (a *app) atTerminal(prompt string, read func(tty *os.File) ([]byte, error)) ([]byte, error) {
	tty := a.terminal()
	if tty == nil {
		return nil, errors.New("there is no terminal")
	}
	defer tty.Close()
	state, err := term.GetState(int(tty.Fd()))
	if err != nil {
		return nil, err
	}
	fmt.Fprint(tty, printable(prompt))
	type answer struct {
		text []byte
		err  error
	}
	c := make(chan answer, 1)
	go func() {
		text, err := read(tty)
		c <- answer{text, err}
	}()
	select {
	case got := <-c:
		if errors.Is(got.err, io.EOF) { // Ctrl-D: as if nothing had been typed
			got.err = nil
		}
		return got.text, got.err
	case <-a.ctx.Done():
		_ = term.Restore(int(tty.Fd()), state) // the echo comes back
		fmt.Fprintln(tty)
		return nil, context.Cause(a.ctx)
	}
}

// readPasswordFile reads a password, without the line end that editors leave.
func readPasswordFile(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, usagef("", "the password file: %v", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxPassword+1))
	if err != nil {
		return nil, usagef("", "the password file: %v", err)
	}
	if len(text) > maxPassword {
		return nil, usagef("", "the password file %s is larger than 64 KiB", shown(file))
	}
	text = trimLine(text)
	if len(text) == 0 {
		return nil, usagef("", "the password file %s is empty", shown(file))
	}
	return text, nil
}

func trimLine(text []byte) []byte {
	text = bytes.TrimSuffix(text, []byte("\n"))
	return bytes.TrimSuffix(text, []byte("\r"))
}

// runPasswordCommand returns the first line that a command prints.
func runPasswordCommand(ctx context.Context, command string) ([]byte, error) {
	var out, errs bytes.Buffer
	c := exec.CommandContext(ctx, "/bin/sh", "-c", command)
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, &out, &errs
	if err := c.Run(); err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		said := ""
		if line, _, _ := strings.Cut(strings.TrimSpace(errs.String()), "\n"); line != "" {
			said = ": it said " + shown(line)
		}
		return nil, usagef("run it by hand and look at what it says", "the password command failed: %v%s", err, said)
	}
	line, _, _ := bytes.Cut(out.Bytes(), []byte("\n"))
	line = bytes.TrimSuffix(line, []byte("\r"))
	if len(line) == 0 {
		return nil, usagef("run it by hand and look at what it prints", "the password command printed no password")
	}
	return line, nil
}

// writeKeyFile makes a key file at path, which must not exist, and returns its content.
func writeKeyFile(path string) (key []byte, err error) {
	key, err = repo.NewKeyFile()
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		return nil, usagef("name a file that does not exist; -p "+shown(path)+" uses that one as it is", "the key file %s is there already and is not overwritten", shown(path))
	}
	if err != nil {
		return nil, usagef("", "the key file: %v", err)
	}
	_, err = f.Write(append(bytes.Clone(key), '\n'))
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		_ = os.Remove(path)
		return nil, fmt.Errorf("writing the key file: %w", err)
	}
	return key, nil
}

// hasPassword reports whether the password is to be had without asking.
func (a *app) hasPassword() bool {
	if a.g.passwordFile+a.g.passwordCommand+os.Getenv("WTSNAP_PASSWORD") != "" {
		return true
	}
	dir := os.Getenv("CREDENTIALS_DIRECTORY")
	_, err := os.Stat(filepath.Join(dir, "wtsnap-password"))
	return dir != "" && err == nil
}
