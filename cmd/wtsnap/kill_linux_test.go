package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
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

// A first backup is killed with SIGKILL at a random moment, and run again, over and over. Both runs together store hardly
// more than one that is not killed. WTSNAP_KILLS says how often.
func TestKilledAtRandom(t *testing.T) {
	const mib = 1 << 20
	const size = 80 * mib
	kills := 1000
	if s := os.Getenv("WTSNAP_KILLS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		kills = n
	} else if os.Getenv("WTSNAP_SLOW") == "" {
		t.Skip("it takes minutes: WTSNAP_KILLS=20 says how often, WTSNAP_SLOW=1 kills 1000 times")
	}
	program, err := exec.LookPath("wtsnap")
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{2}).Read(data)
	homes, large := t.TempDir(), t.TempDir()+"/large"
	for at := 0; at < size; at += mib / 2 {
		file := fmt.Sprintf("%s/home%d/f%d", homes, at/mib%9, at)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, data[at:at+mib/2], 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(large, data, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, source, input string }{{"homes", "homes=" + homes, os.DevNull}, {"one stream", "s=stdin:x", large}} {
		t.Run(c.name, func(t *testing.T) {
			k := randomKills{t: t, dir: t.TempDir(), program: program, source: c.source, input: c.input}
			k.run(kills)
		})
	}
}

// randomKills kills backups of one source.
type randomKills struct {
	t                           *testing.T
	dir, program, source, input string
	in                          *os.File
}

func (k *randomKills) must(err error) {
	k.t.Helper()
	if err != nil {
		k.t.Fatal(err)
	}
}

// command returns one that works on the repository of a number.
func (k *randomKills) command(repo string, args ...string) *exec.Cmd {
	cmd := exec.Command(k.program, append([]string{"-r", repo, "--instance", "web", "-p", k.dir + "/key", "-q"}, args...)...)
	// What it remembers of a repository goes with it: each round is a machine's first.
	cmd.Env = append(os.Environ(), "XDG_CACHE_HOME="+repo+"-cache", "XDG_STATE_HOME="+repo+"-cache", "HOME="+repo+"-cache")
	if k.in != nil {
		k.in.Close() // the command before has ended
	}
	var err error
	k.in, err = os.Open(k.input)
	k.must(err)
	cmd.Stdin, cmd.Stderr = k.in, os.Stderr
	return cmd
}

func (k *randomKills) run(kills int) {
	k.must(exec.Command(k.program, "-r", k.dir+"/empty", "init", "--new-key-file", k.dir+"/key").Run())
	k.must(os.CopyFS(k.dir+"/whole", os.DirFS(k.dir+"/empty")))
	began := time.Now()
	k.must(k.command(k.dir+"/whole", "backup", k.source).Run())
	lasted := time.Since(began)
	whole := packBytes(k.t, k.dir+"/whole")
	rng := rand.New(rand.NewPCG(uint64(kills), 3))
	proved := 0
	for i := range kills {
		repo := k.dir + "/repo"
		k.must(errors.Join(os.RemoveAll(repo), os.RemoveAll(repo+"-cache")))
		k.must(os.CopyFS(repo, os.DirFS(k.dir+"/empty")))
		cmd := k.command(repo, "backup", k.source)
		k.must(cmd.Start())
		kill := time.AfterFunc(time.Duration(rng.Int64N(int64(lasted))), func() { _ = cmd.Process.Kill() }) // it may have ended
		ended := cmd.Wait() == nil
		kill.Stop()
		left := packBytes(k.t, repo)
		k.must(k.command(repo, "backup", k.source).Run())
		if sum := packBytes(k.t, repo); sum > whole+whole/50 {
			k.t.Fatalf("kill %d: %d bytes were uploaded before it and %d after, for %d", i, left, sum-left, whole)
		}
		if !ended && left > 0 {
			proved++
		}
		if i%20 == 0 {
			k.must(k.command(repo, "check", "--read-data").Run())
		}
	}
	k.t.Logf("killed %d times, %d of them when packs were stored", kills, proved)
	if kills >= 100 && proved == 0 {
		k.t.Error("no kill came when a pack was stored: this proves nothing")
	}
}
