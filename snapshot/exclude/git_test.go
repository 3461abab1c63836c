package exclude

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// git is the reference: an empty repository whose info/exclude holds the patterns, with a tree to ask about.
type git struct {
	dir   string
	paths []string // relative
	isDir map[string]bool
}

func newGit(t *testing.T, paths []string) *git {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		t.Skipf("git, the reference of this test, is not installed: %v", err)
	}
	g := &git{dir: t.TempDir(), isDir: map[string]bool{}}
	g.run(t, nil, "init", "-q")
	for _, p := range paths {
		full := filepath.Join(g.dir, p)
		var err error
		if strings.HasSuffix(p, "/") {
			err = os.MkdirAll(full, 0o700)
		} else if err = os.MkdirAll(filepath.Dir(full), 0o700); err == nil {
			err = os.WriteFile(full, nil, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	err := filepath.WalkDir(g.dir, func(path string, e os.DirEntry, err error) error {
		rel, _ := filepath.Rel(g.dir, path)
		if err != nil || rel == "." {
			return err
		}
		if rel == ".git" {
			return filepath.SkipDir
		}
		g.paths = append(g.paths, rel)
		g.isDir[rel] = e.IsDir()
		return nil
	})
	if err != nil || len(g.paths) < len(paths) {
		t.Fatalf("%d paths, %v", len(g.paths), err)
	}
	return g
}

func (g *git) run(t *testing.T, stdin []byte, args ...string) []byte {
	t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = g.dir
	cmd.Stdin = bytes.NewReader(stdin)
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1", "XDG_CONFIG_HOME="+g.dir, "HOME="+g.dir)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if exit, ok := err.(*exec.ExitError); err != nil && !(ok && exit.ExitCode() == 1 && args[0] == "check-ignore") {
		t.Fatalf("git %s: %v: %s", args[0], err, &stderr)
	}
	return out
}

// decide returns the number of the pattern that decides on each path, 0 for none.
func (g *git) decide(t *testing.T, lines []string) map[string]int {
	t.Helper()
	err := os.WriteFile(filepath.Join(g.dir, ".git/info/exclude"), []byte(strings.Join(lines, "\n")+"\n"), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	stdin := []byte(strings.Join(g.paths, "\x00") + "\x00")
	fields := strings.Split(string(g.run(t, stdin, "check-ignore", "-v", "-n", "-z", "--stdin", "--no-index")), "\x00")
	decided := map[string]int{}
	for ; len(fields) >= 4; fields = fields[4:] { // source, line, pattern, path
		n, _ := strconv.Atoi(fields[1])
		decided[fields[3]] = n
	}
	if len(decided) != len(g.paths) {
		t.Fatalf("git decided on %d of %d paths", len(decided), len(g.paths))
	}
	return decided
}

// compare runs both on all paths and returns how many paths a pattern decided on. What Compile refuses, git must not
// have used, but for empty names between slashes.
func (g *git) compare(t *testing.T, lines []string) (matched int) {
	t.Helper()
	var kept []Pattern
	refused := map[int]bool{}
	for i, l := range lines {
		p := Pattern{l, strconv.Itoa(i + 1)}
		if _, err := Compile([]Pattern{p}); err != nil {
			refused[i+1] = true
			continue
		}
		kept = append(kept, p)
	}
	m, err := Compile(kept)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range g.decide(t, lines) {
		if refused[want] {
			if strings.Contains(lines[want-1], "//") { // an empty name is refused, though git finds a use for some
				return 0
			}
			t.Errorf("patterns %q: refused number %d, which git matches with %q", lines, want, path)
			continue
		}
		d := m.Explain(path, g.isDir[path])
		var got int
		if d.Rule != nil {
			got, _ = strconv.Atoi(d.Rule.Origin)
		}
		if got != want {
			t.Errorf("patterns %q, path %q (folder: %v): decided by %d, git says %d", lines, path, g.isDir[path], got, want)
		}
		if got > 0 {
			matched++
			if d.Excluded == strings.HasPrefix(lines[got-1], "!") {
				t.Errorf("patterns %q, path %q: excluded is %v", lines, path, d.Excluded)
			}
		}
	}
	return matched
}

var tree = func() (paths []string) {
	names := []string{"a", "b", "ab", "foo", "a.c", "x y", ".d", "a]"}
	for _, x := range names {
		paths = append(paths, x+".f", x+"/")
		for _, y := range names {
			paths = append(paths, x+"/"+y+"/", x+"/"+y+"/b.c")
			if y < "b" {
				for _, z := range names[:5] {
					paths = append(paths, x+"/"+y+"/"+z+"/foo")
				}
			}
		}
	}
	return append(paths, "A", "foobar", "foob/bar", "foox/y/bar", "foo/bar", "*", "a*b", "a?b", "a[b", `a\b`, "#c", "!e", "tr ", "tr",
		"t\tr\t", "caf\xc3\xa9", "bad\xffname", "new\nline", "-dash", "0", "9z", "a-b", "a^", "]", "[", "deep/a/b/a/b/a/b/foo", "bar",
		"x/foo1/y", "x/foo1z", "a:b", "al", "_", "a/-", "a/*")
}()

func TestAgainstGitTable(t *testing.T) {
	g := newGit(t, tree)
	for _, lines := range [][]string{
		{"foo"}, {"foo/"}, {"/foo"}, {"/foo/"}, {"a/b"}, {"a/b/"}, {"/a/b"}, {"*.c"}, {"*.f", "!a.f"}, {"*", "!foo"}, {"*", "!*/", "!*.c"},
		{"/*", "!/a"}, {"/*", "!/a/", "/a/*", "!/a/b/"}, {"foo", "!foo/bar"}, {"foo/*", "!foo/bar"}, {"**/foo"}, {"**/a/b"}, {"a/**"},
		{"a/**/foo"}, {"**"}, {"**/"}, {"a/**/"}, {"**/b/**"}, {"a**"}, {"a**/foo"}, {"foo**/bar"}, {"foo**bar"}, {"/foo**/bar"},
		{"x/foo**"}, {"x/foo**/y"}, {"x/f**/y"}, {"*/foo**/y"}, {"a/**b"}, {"a/***/foo"}, {"***/foo"}, {"a/*/foo"}, {"*/b"}, {"*/*/b.c"},
		{"a/**/b/**/foo"}, {"**/**/foo"}, {"?"}, {"??"}, {"a?b"}, {`a\?b`}, {`a\*b`}, {`a\[b`}, {`a\\b`}, {`\*`}, {`\#c`}, {`\!e`}, {"#c"},
		{"!e"}, {"tr "}, {`tr\ `}, {`tr\  `}, {"tr\t"}, {"t\tr\t"}, {"  a"}, {"a "}, {"[ab]"}, {"[!ab]"}, {"[^ab]"}, {"[a-b]"}, {"[]]"}, {"[!]]"},
		{"[]a]*"}, {"a[]]"}, {"[[]"}, {"[a-]b"}, {"a[-a]b"}, {"[[:alpha:]]"}, {"[[:digit:]]*"}, {"[![:alpha:]]*"}, {"[[:upper:]a]"},
		{"[[:punct:]]"}, {"a[[:punct:]]b"}, {"[[:alpha:]"}, {"[[:foo:]]"}, {"[a:]*"}, {"a[[:]b"}, {"[[:al]*"}, {`[\]]`}, {`a[\[]b`},
		{`[\a-\b]`}, {"["}, {"a["}, {"a[b"}, {`a\`}, {"[z-a]"}, {"a[/]b"}, {"a[b/]b"}, {"a?b/*"}, {"a/"}, {"//"}, {"/"}, {"//a"}, {"a//"},
		{"a//b"}, {"./a"}, {"a/./b"}, {"!"}, {"!!e"}, {"", "   "}, {"*a"}, {"*]"}, {"a*c"}, {"a*.c"}, {"*.*"}, {"*/"}, {"!*/", "*"}, {"caf?"}, {"caf??"},
		{"caf\xc3*"}, {"bad\xff*"}, {"bad[\xf0-\xff]name"}, {"new*line"}, {"new?line"}, {"-*"}, {"**\\/foo"}, {"a/**\\/foo"}, {"a/*\\/foo"},
		{"a\\/b"}, {"foo\\/"}, {"deep/**/b/foo"}, {"deep/*/*/*/*/*/*/foo"}, {"deep/**/a/**/foo"}, {"a/b", "!a", "a"}, {"a", "!a", "a/b"},
		{"a/b/", "!a/b/a"}, {"a/b/*", "!a/b/a/"}, {".*"}, {".d/", "!.d/a"}, {"*x y*"}, {"x y/a"}, {"**/.d/foo"}, {"foo/**/bar"}, {"**foo"},
		{"**/*foo"}, {"**/foo*"}, {"**/f?o"}, {"/**"}, {"/**/"}, {"/**/foo"}, {"/*/foo"}, {"*\\"}, {"[!a-z]*"}, {"[--0]"}, {"a[--a]b"},
	} {
		g.compare(t, lines)
	}
}

func TestAgainstGitGenerated(t *testing.T) {
	runs, seed := 300, uint64(1)
	if os.Getenv("WTSNAP_SLOW") != "" {
		runs, seed = 5000, rand.Uint64()
	}
	g := newGit(t, tree)
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	pieces := strings.Split("a|b|ab|foo|.c|.d|c|f|x| |*|*|*|**|**|?|/|/|/|/**/|**/|/**|[ab]|[!a]|[a-f]|[[:alpha:]]|[]a]|\\*|\\a|\\|[|-|bar|!|#", "|")
	var matched int
	for range runs {
		var lines []string
		for range 1 + r.IntN(6) {
			var b strings.Builder
			if r.IntN(4) == 0 {
				b.WriteByte('!')
			}
			for range 1 + r.IntN(6) {
				b.WriteString(pieces[r.IntN(len(pieces))])
			}
			if r.IntN(5) == 0 {
				b.WriteByte('/')
			}
			lines = append(lines, b.String())
		}
		matched += g.compare(t, lines)
		if t.Failed() {
			t.Fatal("stopped at the first list that differs")
		}
	}
	if least := runs * 10; matched < least {
		t.Errorf("the patterns decided on %d paths in all: too few to prove anything", matched)
	}
	t.Log(fmt.Sprint(matched, " decisions by a pattern"))
}
