// Mutants leaves one step of the protocol out of the code at a time, as of docs/format.md, "Garbage collection", and runs
// the tests: each has to be noticed. The sources stay as they are; go test is given other ones by an overlay.
//
//	go run ./.ci/mutants [NAME]    those whose names contain NAME
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// mutant is a change of a file that breaks something.
type mutant struct {
	name, file string
	old, new   string // the old text is there once
	run        string // the tests that are run
}

func main() {
	part := strings.Join(os.Args[1:], " ")
	ran, survived := 0, 0
	for _, m := range mutants {
		if !strings.Contains(m.name, part) {
			continue
		}
		ran++
		start := time.Now()
		test, err := m.try()
		switch took := time.Since(start).Round(time.Second); {
		case err != nil:
			fmt.Fprintf(os.Stderr, "mutants: %s: %v\n", m.name, err)
			os.Exit(1)
		case test == "":
			survived++
			fmt.Printf("NOT NOTICED (%s): %s\n", took, m.name)
		default:
			fmt.Printf("noticed by %s (%s): %s\n", test, took, m.name)
		}
	}
	fmt.Printf("%d tried, %d not noticed\n", ran, survived)
	if survived > 0 || ran == 0 {
		os.Exit(1)
	}
}

var failed = regexp.MustCompile(`(?m)^--- FAIL: (\w+)|^panic: |^\s+panic: `)

// try returns the name of a test that fails.
func (m *mutant) try() (test string, err error) {
	source, err := os.ReadFile(m.file)
	if err != nil {
		return "", err
	}
	if n := bytes.Count(source, []byte(m.old)); n != 1 {
		return "", fmt.Errorf("%s has its text %d times: bring .ci/mutants/table.go up to date", m.file, n)
	}
	dir, err := os.MkdirTemp("", "mutant")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	path, err := filepath.Abs(m.file)
	if err != nil {
		return "", err
	}
	broken, overlay := filepath.Join(dir, "broken.go"), filepath.Join(dir, "overlay.json")
	text, err := json.Marshal(map[string]map[string]string{"Replace": {path: broken}})
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(broken, bytes.Replace(source, []byte(m.old), []byte(m.new), 1), 0o600); err != nil {
		return "", err
	}
	if err := os.WriteFile(overlay, text, 0o600); err != nil {
		return "", err
	}
	out, err := exec.Command("go", "test", "-overlay", overlay, "-vet", "off", "-failfast", "-timeout", "10m", "-run", m.run,
		"./"+filepath.Dir(m.file)).CombinedOutput()
	if err == nil {
		if bytes.Contains(out, []byte("no tests to run")) {
			return "", fmt.Errorf("no test is called %s", m.run)
		}
		return "", nil
	}
	found := failed.FindSubmatch(out)
	if found == nil { // it does not compile
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	if len(found[1]) == 0 {
		return "a panic", nil
	}
	return string(found[1]), nil
}
