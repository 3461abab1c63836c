// Testreport runs go test and prints what it prints without -v, and besides each skipped test with its reason. All
// arguments go to go test; so does the exit status come from it.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
)

func main() {
	cmd := exec.Command("go", append([]string{"test", "-json"}, os.Args[1:]...)...)
	cmd.Stderr = os.Stderr
	output, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "testreport:", err)
		os.Exit(1)
	}
	if err := report(os.Stdout, output); err != nil {
		fmt.Fprintln(os.Stderr, "testreport:", err)
		cmd.Wait()
		os.Exit(1)
	}
	if err := cmd.Wait(); err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) && exit.ExitCode() > 0 {
			os.Exit(exit.ExitCode())
		}
		os.Exit(1)
	}
}

// event is a line of go test -json, as "go doc test2json" describes it.
type event struct {
	Action  string
	Package string
	Test    string
	Output  string
}

type test struct{ pkg, name string }

// report reads the events to their end.
func report(w io.Writer, events io.Reader) error {
	running := map[test][]string{} // the output of tests that have not ended
	var order []test               // in which they were started
	var passed, skipped, failed int
	lines := bufio.NewReader(events)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			break
		}
		var e event
		if json.Unmarshal(line, &e) != nil {
			fmt.Fprintf(w, "%s", line) // not from a test
			continue
		}
		t := test{e.Package, e.Test}
		switch {
		case e.Action == "build-output" || e.Action == "output" && e.Test == "" && e.Output != "PASS\n":
			fmt.Fprint(w, e.Output)
		case e.Test == "" && e.Action == "fail":
			for _, t := range order { // cut short by a panic or by the time limit
				if output, ok := running[t]; ok && t.pkg == e.Package {
					fmt.Fprint(w, strings.Join(output, ""))
					delete(running, t)
				}
			}
		case e.Test == "":
		case e.Action == "run":
			running[t], order = nil, append(order, t)
		case e.Action == "output":
			running[t] = append(running[t], e.Output)
		case e.Action == "pass":
			passed++
			delete(running, t)
		case e.Action == "skip":
			skipped++
			fmt.Fprintf(w, "skip\t%s %s: %s\n", e.Package, e.Test, reason(running[t]))
			delete(running, t)
		case e.Action == "fail":
			failed++
			fmt.Fprint(w, strings.Join(running[t], ""))
			delete(running, t)
		}
	}
	_, err := fmt.Fprintf(w, "%d tests passed, %d skipped, %d failed\n", passed, skipped, failed)
	return err
}

// reason is what a test logged, without the frame that go test puts around it.
func reason(output []string) string {
	var parts []string
	for _, line := range output {
		line = strings.TrimSpace(line)
		if line != "" && !strings.HasPrefix(line, "=== ") && !strings.HasPrefix(line, "--- ") {
			parts = append(parts, line)
		}
	}
	if len(parts) == 0 {
		return "no reason given"
	}
	return strings.Join(parts, " ")
}
