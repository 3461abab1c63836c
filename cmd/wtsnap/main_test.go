package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/whole-tale/wtsnap/mongo/ownership/girdertest"
	"golang.org/x/net/webdav"
)

// TestMain makes the test binary also the programs that scripts run.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"wtsnap":    main,
		"wtsnapat":  atMain,
		"unpower":   unpowerMain,
		"interrupt": interruptMain,
		"grow":      growMain,
		"visit":     visitMain,
	})
}

// TestScripts runs every script: one a command and an exit code at least.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			set := map[string]string{"HOME": e.WorkDir + "/home", "TZ": "UTC", "WTSNAP_REPO": e.WorkDir + "/repo", "WTSNAP_INSTANCE": "web",
				"WTSNAP_PASSWORD_FILE": e.WorkDir + "/key", "RCLONE_CONFIG": e.WorkDir + "/rclone.conf", "XDG_CACHE_HOME": e.WorkDir + "/cache"}
			var err error
			if set["GOLDEN"], err = filepath.Abs("../../mongo/testdata"); err != nil {
				return err
			}
			for name, v := range set {
				e.Setenv(name, v)
			}
			e.Values[serverKey{}] = &faultyServer{}
			return os.Mkdir(e.WorkDir+"/home", 0o755)
		},
		Condition: func(cond string) (bool, error) {
			switch cond {
			case "mounted":
				return mountable.Load(), nil
			case "fuse":
				f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
				if err == nil {
					f.Close()
				}
				return err == nil && os.Getuid() == 0, nil
			case "mongotools":
				return os.Getenv(toolsVariable) != "", nil
			}
			return false, fmt.Errorf("unknown condition %s", cond)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exitsCmd, "noise": noiseCmd, "oddnames": oddNamesCmd, "same": sameCmd, "damage": damageCmd, "replace": replaceCmd,
			"server": serverCmd, "tmpfs": tmpfsCmd, "idof": idOfCmd, "weekday": weekdayCmd, "mongod": mongodCmd, "tool": toolCmd,
			"wholetale": wholeTaleCmd, "follow": followCmd,
		},
	})
}

// wholeTaleCmd makes the dump of a Whole Tale's database with some users, and their homes: wholetale DUMP HOMES LOGIN...
func wholeTaleCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: wholetale DUMP HOMES LOGIN...")
	}
	c := girdertest.New(args[2:]...)
	ts.Check(c.WriteTo(ts.MkAbs(args[0])))
	for _, u := range c.Users {
		home := filepath.Join(ts.MkAbs(args[1]), u.Login[:1], u.Login)
		ts.Check(os.MkdirAll(home, 0o755))
		ts.Check(os.WriteFile(filepath.Join(home, "notes.txt"), []byte("of "+u.Login+"\n"), 0o644))
	}
}

// exitsCmd runs a program and compares its exit code: exits 12 wtsnap snapshots.
func exitsCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM ARGUMENT...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
	if out := ts.ReadFile("stderr"); strings.Contains(out, "goroutine ") || strings.Contains(out, "panic") {
		ts.Fatalf("a stack trace on standard error")
	}
}

// weekdayCmd sets a variable to the day of the week in some days: weekday NAME DAYS.
func weekdayCmd(ts *testscript.TestScript, _ bool, args []string) {
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	ts.Setenv(args[0], strings.ToLower(time.Now().UTC().AddDate(0, 0, n).Format("Mon")))
}

// noiseCmd makes files of random bytes that differ by name: noise BYTES FILE...
func noiseCmd(ts *testscript.TestScript, _ bool, args []string) {
	n, err := strconv.Atoi(args[0])
	ts.Check(err)
	for _, name := range args[1:] {
		var seed [32]byte
		copy(seed[:], name)
		data := make([]byte, n)
		_, _ = rand.NewChaCha8(seed).Read(data)
		ts.Check(os.MkdirAll(filepath.Dir(ts.MkAbs(name)), 0o755))
		ts.Check(os.WriteFile(ts.MkAbs(name), data, 0o644))
	}
}

// oddNamesCmd makes files whose names hold a newline, an escape sequence and bytes that are no UTF-8, in a folder.
func oddNamesCmd(ts *testscript.TestScript, _ bool, args []string) {
	dir := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(dir, 0o755))
	for _, name := range []string{"two\nlines", "\x1b[31mred", "not\xffutf8", "-rf", "plain"} {
		ts.Check(os.WriteFile(filepath.Join(dir, name), []byte(name), 0o644))
	}
}

// sameCmd compares two trees: names, kinds, modes, contents, targets of links.
func sameCmd(ts *testscript.TestScript, neg bool, args []string) {
	a, b := describe(ts, args[0]), describe(ts, args[1])
	if (a == b) == neg {
		ts.Fatalf("%s:\n%s\n%s:\n%s", args[0], a, args[1], b)
	}
	if a == "" {
		ts.Fatalf("%s is empty: nothing was compared", args[0])
	}
}

func describe(ts *testscript.TestScript, dir string) string {
	var out strings.Builder
	root := ts.MkAbs(dir)
	ts.Check(filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		if rel == "." {
			return nil
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		fmt.Fprintf(&out, "%q %v", rel, info.Mode())
		switch {
		case info.Mode().IsRegular():
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(&out, " %d %x", info.ModTime().UnixNano(), sha256.Sum256(data))
		case info.Mode()&fs.ModeSymlink != 0:
			target, _ := os.Readlink(path)
			fmt.Fprintf(&out, " %q", target)
		}
		out.WriteByte('\n')
		return nil
	}))
	return out.String()
}

// damageCmd flips a byte in the middle of the largest object below a folder, truncates it or removes it:
// damage flip|truncate|remove FOLDER.
func damageCmd(ts *testscript.TestScript, _ bool, args []string) {
	var largest string
	var most int64
	ts.Check(filepath.WalkDir(ts.MkAbs(args[1]), func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		info, err := e.Info()
		if err == nil && info.Size() > most {
			largest, most = path, info.Size()
		}
		return err
	}))
	if largest == "" {
		ts.Fatalf("nothing to damage")
	}
	switch args[0] {
	case "flip":
		data, err := os.ReadFile(largest)
		ts.Check(err)
		data[len(data)/2] ^= 1
		ts.Check(os.WriteFile(largest, data, 0o644))
	case "truncate":
		ts.Check(os.Truncate(largest, most/2))
	case "remove":
		ts.Check(os.Remove(largest))
	default:
		ts.Fatalf("no such damage")
	}
}

// replaceCmd changes text in a file: replace FILE OLD NEW.
func replaceCmd(ts *testscript.TestScript, _ bool, args []string) {
	old := ts.ReadFile(args[0])
	changed := strings.ReplaceAll(old, args[1], args[2])
	if changed == old {
		ts.Fatalf("%s does not hold %q", args[0], args[1])
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(changed), 0o644))
}

// idOfCmd sets a variable to the first 32 hex digits behind "snapshot":" or "id":" on standard output: idof VARIABLE.
func idOfCmd(ts *testscript.TestScript, _ bool, args []string) {
	out := ts.ReadFile("stdout")
	for _, key := range []string{`"snapshot":"`, `"id":"`} {
		if _, rest, ok := strings.Cut(out, key); ok && len(rest) > 32 {
			ts.Setenv(args[0], rest[:32])
			return
		}
	}
	ts.Fatalf("no id on standard output")
}

// serverCmd starts a WebDAV server over a folder, or changes how it behaves:
//
//	server start FOLDER     sets $DAV to a connection string
//	server ok|fail|denied|full
//	server failafter N      fails once N more requests were answered
func serverCmd(ts *testscript.TestScript, _ bool, args []string) {
	s := ts.Value(serverKey{}).(*faultyServer)
	if args[0] == "start" {
		dir := ts.MkAbs(args[1])
		ts.Check(os.MkdirAll(dir, 0o755))
		s.behave(http.StatusOK, 0)
		s.dav = &webdav.Handler{FileSystem: webdav.Dir(dir), LockSystem: webdav.NewMemLS()}
		web := httptest.NewServer(s)
		ts.Defer(web.Close)
		ts.Setenv("DAV", ":webdav,url='"+web.URL+"':r")
		return
	}
	status := map[string]int{"ok": http.StatusOK, "nodelete": http.StatusForbidden, "fail": http.StatusInternalServerError, "failafter": http.StatusInternalServerError,
		"denied": http.StatusUnauthorized, "full": http.StatusInsufficientStorage, "hangafter": hangs}[args[0]]
	if status == 0 || s.dav == nil {
		ts.Fatalf("no such behaviour, or no server")
	}
	left := 0
	if len(args) > 1 {
		var err error
		left, err = strconv.Atoi(args[1])
		ts.Check(err)
	}
	s.behave(status, left)
}

// serverKey finds the server among a script's values.
type serverKey struct{}

// hangs stands for no answer at all, until the client goes away.
const hangs = 1

// faultyServer answers with a status instead of serving, unless that is 200 or it has requests left to serve.
type faultyServer struct {
	dav http.Handler

	mu     sync.Mutex
	status int
	left   int
}

func (s *faultyServer) behave(status, left int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status, s.left = status, left
}

func (s *faultyServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	status := s.status
	if s.left > 0 {
		s.left--
		status = http.StatusOK
	}
	s.mu.Unlock()
	write := r.Method == http.MethodPut || r.Method == "MKCOL" || r.Method == "MOVE"
	if status == http.StatusOK || status == http.StatusInsufficientStorage && !write || status == http.StatusForbidden && r.Method != http.MethodDelete {
		s.dav.ServeHTTP(w, r)
		return
	}
	_, _ = io.Copy(io.Discard, r.Body)
	if status == hangs {
		<-r.Context().Done()
		return
	}
	http.Error(w, http.StatusText(status), status)
}

// tmpfsCmd mounts a small file system where that is allowed: tmpfs FOLDER SIZE. The condition [mounted] tells.
func tmpfsCmd(ts *testscript.TestScript, _ bool, args []string) {
	dir := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(dir, 0o755))
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size="+args[1], "tmpfs", dir).CombinedOutput(); err != nil {
		ts.Logf("no file system can be mounted here: %s", bytes.TrimSpace(out))
		return
	}
	mountable.Store(true)
	ts.Defer(func() { _ = exec.Command("umount", dir).Run() })
}

// mountable says whether tmpfsCmd could mount.
var mountable atomic.Bool

// unpowerMain runs a program without root's power to read everything: unpower PROGRAM ARGUMENT...
func unpowerMain() { execAs(os.Args[1:]) }

// growMain appends to a file until it is killed: grow FILE.
func growMain() {
	f, err := os.OpenFile(os.Args[1], os.O_APPEND|os.O_WRONLY, 0)
	for err == nil {
		_, err = f.WriteString("x")
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// interruptMain runs a program, feeds it N bytes of standard input, and sends it a signal once it has taken them:
// interrupt N PROGRAM ARGUMENT...
func interruptMain() {
	n, err := strconv.Atoi(os.Args[1])
	if err != nil {
		panic(err)
	}
	c := exec.Command(os.Args[2], os.Args[3:]...)
	c.Stdout, c.Stderr = os.Stdout, os.Stderr
	in, err := c.StdinPipe()
	if err != nil {
		panic(err)
	}
	if err := c.Start(); err != nil {
		panic(err)
	}
	data := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(data)
	if _, err := in.Write(data); err != nil { // returns when all but a pipe's size was read
		fmt.Fprintln(os.Stderr, "interrupt:", err)
	}
	_ = c.Process.Signal(syscall.SIGINT)
	err = c.Wait()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		os.Exit(exit.ExitCode())
	}
}

// visitMain runs wtsnap web, visits what it says and then PATH, prints that page, and interrupts wtsnap:
//
//	visit PATH wtsnap web ARGUMENT...
func visitMain() {
	c := exec.Command(os.Args[2], os.Args[3:]...)
	c.Stdout = os.Stdout
	messages, err := c.StderrPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		panic(err)
	}
	lines := bufio.NewScanner(messages)
	for lines.Scan() {
		fmt.Fprintln(os.Stderr, lines.Text())
		for _, word := range strings.Fields(lines.Text()) {
			address, token, found := strings.Cut(word, "/?token=")
			if !found {
				continue
			}
			jar, err := cookiejar.New(nil)
			if err != nil {
				panic(err)
			}
			browser := &http.Client{Jar: jar}
			for _, path := range []string{"/?token=" + token, os.Args[1]} {
				res, err := browser.Get(address + path)
				if err != nil {
					panic(err)
				}
				page, err := io.ReadAll(res.Body)
				res.Body.Close()
				fmt.Fprintf(os.Stderr, "%s %v\n%s\n", res.Status, err, page)
			}
			_ = c.Process.Signal(syscall.SIGINT)
		}
	}
	err = c.Wait()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		os.Exit(exit.ExitCode())
	}
}
