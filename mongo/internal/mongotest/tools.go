package mongotest

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// ToolsVariable names the folder with ferretdb, mongodump, mongorestore and bsondump that "make test" builds from
// .ci/mongo; URIVariable a real server that tests may use, and fill and empty.
const (
	ToolsVariable = "WTSNAP_MONGO_TOOLS"
	URIVariable   = "WTSNAP_MONGO_URI"
)

// Tool is the path of one of the real tools. The test is skipped where they were not built.
func Tool(tb testing.TB, name string) string {
	tb.Helper()
	dir := os.Getenv(ToolsVariable)
	if dir == "" {
		tb.Skipf("%s is not set: no real %s to compare with (make test builds it)", ToolsVariable, name)
	}
	path := filepath.Join(dir, name)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		tb.Fatalf("%s=%s has no %s", ToolsVariable, dir, name)
	}
	return path
}

// Run runs a real tool and returns what it wrote to both outputs. An exit status other than 0 fails the test.
func Run(tb testing.TB, name string, args ...string) string {
	tb.Helper()
	out, err := exec.CommandContext(tb.Context(), Tool(tb, name), args...).CombinedOutput()
	if err != nil {
		tb.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// ferretWait bounds the start of FerretDB.
const ferretWait = time.Minute

// Ferret starts a FerretDB of its own for the test and returns its URI.
func Ferret(tb testing.TB) string {
	tb.Helper()
	cmd := exec.Command(Tool(tb, "ferretdb"), tb.TempDir())
	in, err := cmd.StdinPipe()
	if err != nil {
		tb.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		tb.Fatalf("starting FerretDB: %v", err)
	}
	kill := time.AfterFunc(ferretWait, func() { cmd.Process.Kill() })
	line, err := bufio.NewReader(out).ReadString('\n')
	kill.Stop()
	tb.Cleanup(func() {
		in.Close() // which ends it
		if err := cmd.Wait(); err != nil && tb.Failed() {
			tb.Logf("FerretDB: %v\n%s", err, stderr.String())
		}
	})
	if err != nil {
		tb.Fatalf("FerretDB did not start: %v\n%s", err, stderr.String())
	}
	return fmt.Sprintf("%s?directConnection=true", strings.TrimSpace(line))
}

// RealURI is the URI of a real server. The test is skipped where none was given.
func RealURI(tb testing.TB) string {
	tb.Helper()
	uri := os.Getenv(URIVariable)
	if uri == "" {
		tb.Skipf("%s is not set: no real server (make test MONGO_URI=...)", URIVariable)
	}
	return uri
}
