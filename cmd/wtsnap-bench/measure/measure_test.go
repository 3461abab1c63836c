package measure

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// TestMain lets the test program be the helper and the measured program as well.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "measure":
			if err := Helper(os.Args[2:]); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(2)
			}
			os.Exit(0)
		case "work":
			work()
		}
	}
	os.Exit(m.Run())
}

const touched, read = 96 << 20, 5 << 20

func work() {
	memory := make([]byte, touched)
	for i := 0; i < len(memory); i += 4096 {
		memory[i] = 1
	}
	f, err := os.Open("file")
	if err != nil {
		os.Exit(9)
	}
	n, _ := f.Read(memory[:read])
	fmt.Printf("%d %s", n, os.Getenv("NAME"))
	fmt.Fprint(os.Stderr, "last words")
	os.Exit(3)
}

func TestRunMeasures(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), make([]byte, read), 0o644); err != nil {
		t.Fatal(err)
	}
	program, err := filepath.Abs(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	ballast := make([]byte, 400<<20) // must not be counted
	for i := 0; i < len(ballast); i += 4096 {
		ballast[i] = 1
	}
	usage, stdout, err := Run(context.Background(), []string{program, "measure"},
		Command{Args: []string{program, "work"}, Dir: dir, Env: []string{"NAME=value"}})
	var exit *ExitError
	if !errors.As(err, &exit) || exit.Status != 3 || exit.Stderr != "last words" {
		t.Errorf("error %v", err)
	}
	if want := fmt.Sprintf("%d value", read); string(stdout) != want {
		t.Errorf("output %q, want %q", stdout, want)
	}
	if usage.Wall <= 0 || usage.User+usage.System <= 0 {
		t.Errorf("no time passed: %+v", usage)
	}
	if usage.Peak < touched || usage.Peak > 3*touched { // the race detector takes more
		t.Errorf("peak of %d MiB, want a little over %d", usage.Peak>>20, touched>>20)
	}
	if runtime.GOOS == "linux" && (usage.Read < read || usage.Read > read+1<<20) {
		t.Errorf("%d bytes read, want a little over %d", usage.Read, read)
	}
	runtime.KeepAlive(ballast)
}

func TestRunOfAnAbsentProgram(t *testing.T) {
	program, err := filepath.Abs(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = Run(context.Background(), []string{program, "measure"}, Command{Args: []string{"/nowhere/at/all"}})
	if err == nil || !strings.Contains(err.Error(), "/nowhere/at/all") {
		t.Errorf("error %v", err)
	}
}

func TestAdd(t *testing.T) {
	sum := Usage{1, 2, 3, 400, 5}.Add(Usage{1, 1, 1, 300, 1})
	if want := (Usage{2, 3, 4, 400, 6}); sum != want {
		t.Errorf("got %v, want %v", sum, want)
	}
	if sum := (Usage{Read: -1}).Add(Usage{Read: 7}); sum.Read != -1 {
		t.Errorf("%d bytes read out of an unknown number", sum.Read)
	}
}

func TestWrittenCountsNewAndChangedFiles(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, size int) {
		if err := os.WriteFile(filepath.Join(dir, name), make([]byte, size), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	list := func() Files {
		files, err := List(dir)
		if err != nil {
			t.Fatal(err)
		}
		return files
	}
	write("kept", 1)
	write("grown", 10)
	write("deleted", 100)
	before := list()
	write("grown", 20)
	write("new", 1000)
	write("hints", 10000)
	if err := os.Remove(filepath.Join(dir, "deleted")); err != nil {
		t.Fatal(err)
	}
	after := list()
	if got := after.Bytes(); got != 11021 {
		t.Errorf("%d bytes, want 11021", got)
	}
	if got := after.Written(before, func(path string) bool { return path == "hints" }); got != 1020 {
		t.Errorf("%d bytes written, want 1020", got)
	}
}
