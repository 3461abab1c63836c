package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// followCmd does what a kit's page says, as somebody would who has a shell, wtsnap, and nothing else: no environment but an
// empty home, a PATH with wtsnap alone, an empty folder, and the shares, if the page wants some: follow PAGE [SHARE...].
func followCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: follow PAGE [SHARE...]")
	}
	root, err := os.MkdirTemp(ts.MkAbs("."), "bare-")
	ts.Check(err)
	home, work, bin := filepath.Join(root, "home"), filepath.Join(root, "work"), filepath.Join(root, "bin")
	for _, dir := range []string{home, work, bin} {
		ts.Check(os.Mkdir(dir, 0o700))
	}
	program, _, _ := strings.Cut(ts.Getenv("PATH"), string(os.PathListSeparator))
	ts.Check(os.Symlink(filepath.Join(program, "wtsnap"), filepath.Join(bin, "wtsnap")))
	for i, share := range args[1:] {
		ts.Check(os.WriteFile(filepath.Join(work, fmt.Sprintf("share-%d", i+1)), []byte(ts.ReadFile(share)), 0o600))
	}
	script := "set -eu\n"
	commands := 0
	for line := range strings.Lines(ts.ReadFile(args[0])) {
		if command, ok := strings.CutPrefix(line, "    "); ok {
			script += command
			commands++
		}
	}
	if commands < 5 {
		ts.Fatalf("the page has %d commands only", commands)
	}
	c := exec.Command("/bin/sh")
	c.Dir, c.Stdin = work, strings.NewReader(script)
	c.Env = []string{"HOME=" + home, "PATH=" + bin}
	out, err := c.CombinedOutput()
	ts.Logf("%s", out)
	if err != nil {
		ts.Fatalf("following %s: %v", args[0], err)
	}
	if !strings.Contains(string(out), "  restored  ") && !strings.Contains(string(out), " done at ") {
		ts.Fatalf("the page restored nothing")
	}
}
