package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A backup is killed with SIGKILL again and again, each time when it has read a little more. All runs together store
// hardly more than the data: what was uploaded is found again, in the midst of one huge file as well as between many.
func TestKilled(t *testing.T) {
	const mib = 1 << 20
	const size = 150 * mib
	data := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(data)
	points := []int{90, 130}
	if os.Getenv("WTSNAP_SLOW") != "" {
		points = nil
		for p := 70; p < 150; p++ {
			points = append(points, p)
		}
	}
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for i := 0; i < size; i += mib {
		name := fmt.Sprintf("d%d/f%d", i/mib%7, i/mib)
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: mib, ModTime: time.Unix(1e9, 0)}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data[i : i+mib]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	program, err := exec.LookPath("wtsnap")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, source string
		input        []byte
	}{{"one file", "s=stdin:x", data}, {"many files", "s=tar:-", archive.Bytes()}} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			run := func(stdin io.Reader, args ...string) *exec.Cmd {
				cmd := exec.Command(program, append([]string{"-r", dir + "/repo", "--instance", "web", "-p", dir + "/key", "-q"}, args...)...)
				cmd.Stdin, cmd.Stderr = stdin, os.Stderr
				return cmd
			}
			must := func(err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}
			must(exec.Command(program, "-r", dir+"/repo", "init", "--new-key-file", dir+"/key").Run())
			for _, point := range points {
				cmd := run(nil, "backup", c.source)
				in, err := cmd.StdinPipe()
				must(err)
				must(cmd.Start())
				_, err = in.Write(c.input[:point*mib]) // it has read all of it but for the pipe's 64 KiB
				must(err)
				must(cmd.Process.Kill())
				if err := cmd.Wait(); err == nil {
					t.Fatal("it was not killed")
				}
			}
			left := packBytes(t, dir+"/repo")
			if left < int64(points[0]-8*16)*mib {
				t.Fatalf("only %d bytes were uploaded before it was killed: this proves nothing", left)
			}
			must(run(bytes.NewReader(c.input), "backup", c.source).Run())
			if sum := packBytes(t, dir+"/repo"); sum > size+size/50 {
				t.Errorf("%d bytes were uploaded for %d, %d of them by runs that were killed", sum, size, left)
			} else {
				t.Logf("%d bytes were uploaded for %d, %d of them by runs that were killed", sum, size, left)
			}
			must(run(nil, "check", "--read-data").Run())
			if c.source == "s=stdin:x" {
				sum := sha256.New()
				cmd := run(nil, "dump", "latest:s/x")
				cmd.Stdout = sum
				must(cmd.Run())
				if want := sha256.Sum256(data); !bytes.Equal(sum.Sum(nil), want[:]) {
					t.Error("it came back as something else")
				}
			}
		})
	}
}

// packBytes sums what is stored of packs.
func packBytes(t *testing.T, repo string) (sum int64) {
	t.Helper()
	err := filepath.WalkDir(repo+"/packs", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasPrefix(d.Name(), ".") || strings.Contains(d.Name(), "tmp") {
			return err
		}
		info, err := d.Info()
		if err == nil {
			sum += info.Size()
		}
		return err
	})
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return sum
}
