package main

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// toolsVariable names the folder with the programs that "make test" builds for the tests with MongoDBs.
const toolsVariable = "WTSNAP_MONGO_TOOLS"

// mongodCmd starts a server that lives until the script ends, and sets a variable to its URI: mongod URI ARGUMENT... The
// server is mongotestd, or with -ferretdb FerretDB. The condition mongotools says whether they were built.
func mongodCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: mongod VARIABLE ARGUMENT...")
	}
	dir := os.Getenv(toolsVariable)
	if dir == "" {
		ts.Fatalf("%s is not set", toolsVariable)
	}
	program, rest := "mongotestd", args[1:]
	if len(rest) > 0 && rest[0] == "-ferretdb" {
		program, rest = "ferretdb", []string{ts.MkAbs(rest[1])}
	}
	cmd := exec.Command(filepath.Join(dir, program), rest...)
	in, err := cmd.StdinPipe()
	ts.Check(err)
	out, err := cmd.StdoutPipe()
	ts.Check(err)
	ts.Check(cmd.Start())
	ts.Defer(func() {
		in.Close()
		_ = cmd.Wait() // it ends with its input
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	ts.Check(err)
	ts.Setenv(args[0], strings.TrimSpace(line))
}

// toolCmd runs one of MongoDB's own tools: tool mongodump ARGUMENT...
func toolCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: tool PROGRAM ARGUMENT...")
	}
	ts.Check(ts.Exec(filepath.Join(os.Getenv(toolsVariable), args[0]), args[1:]...))
}
