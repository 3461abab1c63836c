package exclude

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

func compile(t testing.TB, lines ...string) *Matcher {
	t.Helper()
	m, err := Compile(patterns(lines...))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func patterns(lines ...string) []Pattern {
	var p []Pattern
	for i, l := range lines {
		p = append(p, Pattern{l, fmt.Sprintf("list:%d", i+1)})
	}
	return p
}

func TestExplain(t *testing.T) {
	m := compile(t, "*.tmp", "!keep.tmp", "/cache/", "*~")
	for _, c := range []struct {
		path string
		dir  bool
		want string
	}{
		{"a/b.txt", false, `"a/b.txt" is included: no pattern matches it`},
		{"a/b.tmp", false, `"a/b.tmp" is excluded by "*.tmp" (list:1)`},
		{"a/keep.tmp", false, `"a/keep.tmp" is included by "!keep.tmp" (list:2)`},
		{"cache", false, `"cache" is included: no pattern matches it`},
		{"cache", true, `"cache" is excluded by "/cache/" (list:3)`},
		{"cache/x/keep.tmp", false, `"cache/x/keep.tmp" is excluded: its parent folder "cache" is excluded by "/cache/" (list:3)`},
		{"a/cache/x", false, `"a/cache/x" is included: no pattern matches it`},
	} {
		if got := m.Explain(c.path, c.dir).Explain(c.path); got != c.want {
			t.Errorf("got  %s\nwant %s", got, c.want)
		}
	}
}

func TestLastListDecides(t *testing.T) {
	file, err := ParseFile(strings.NewReader("\ufeff# comment\r\n\r\n*.log\r\n  \n\\#x\ntrail  \nkeep\\ "), "ex")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range file {
		got = append(got, p.Origin+"="+p.Text)
	}
	if want := `ex:3=*.log ex:5=\#x ex:6=trail   ex:7=keep\ `; strings.Join(got, " ") != want {
		t.Fatalf("parsed %q, want %q", strings.Join(got, " "), want)
	}
	m, err := Compile(append(file, Pattern{"!a.log", "--exclude"}, Pattern{"# a comment in a flag", "--exclude"}))
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{"b.log": true, "a.log": false, "#x": true, "trail": true, "keep ": true, "keep": false} {
		if m.Match(path, false).Excluded != want {
			t.Errorf("%q: excluded %v, want %v", path, !want, want)
		}
	}
	if r := m.Match("b.log", false).Rule; r.Origin != "ex:3" {
		t.Errorf("origin %q", r.Origin)
	}
}

func TestBadPatterns(t *testing.T) {
	for _, text := range []string{
		"!", "/", "//", "a//b", "//a", "a//", "./a", "a/../b", "..", "!/", "a[", "[", "[]", "[!]", "a[b", "[[:alpha:]", "[[:none:]]",
		"a\\", "foo\\/", "a\x00b", "**//a", "[/]",
	} {
		_, err := Compile([]Pattern{{"ok", "f:1"}, {text, "f:2"}})
		var bad *PatternError
		if !errors.As(err, &bad) || bad.Origin != "f:2" || bad.Text != text || !strings.Contains(err.Error(), "f:2") {
			t.Errorf("%q: %v", text, err)
		}
	}
	if _, err := ParseFile(iotest.ErrReader(io.ErrClosedPipe), "f"); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("read error: %v", err)
	}
}

func TestNothingToExclude(t *testing.T) {
	for _, m := range []*Matcher{nil, compile(t), compile(t, "", "# x", "   ")} {
		if d := m.Explain("a/b", false); d.Excluded || d.Rule != nil {
			t.Errorf("%v", d)
		}
	}
}

// A pattern made for it must not take exponential time.
func TestHostilePattern(t *testing.T) {
	m := compile(t, "**/a*a*a*a*a*a*a*a*a*a*/**/b*b*b*b*b*b*b*c")
	path := strings.Repeat(strings.Repeat("a", 50)+"/", 20) + strings.Repeat("b", 200)
	if m.Match(path, false).Excluded {
		t.Error("matched")
	}
}

func TestInvalidUTF8(t *testing.T) {
	m := compile(t, "\xff*", "caf?", "n[\x80-\xff]")
	for path, want := range map[string]bool{"\xff\xfe": true, "caf\xe9": true, "café": false, "n\xe9": true, "new\nline": false} {
		if m.Match(path, false).Excluded != want {
			t.Errorf("%q: want %v", path, want)
		}
	}
}

func TestSizeLimit(t *testing.T) {
	if (SizeLimit{}).Decide(1 << 60).Excluded {
		t.Error("the zero value excludes")
	}
	l := SizeLimit{100, "--exclude-larger-than"}
	if l.Decide(100).Excluded || !l.Decide(101).Excluded {
		t.Error("limit is not the largest included size")
	}
	if got, want := l.Decide(101).Explain("x"), `"x" is excluded by "larger than 100 bytes" (--exclude-larger-than)`; got != want {
		t.Errorf("%s", got)
	}
}

func TestCacheTag(t *testing.T) {
	for content, want := range map[string]bool{
		"Signature: 8a477f597d28d172789f06886806bc55":              true,
		"Signature: 8a477f597d28d172789f06886806bc55\n# by test\n": true,
		"Signature: 8a477f597d28d172789f06886806bc5":               false,
		" Signature: 8a477f597d28d172789f06886806bc55":             false,
		"signature: 8a477f597d28d172789f06886806bc55":              false,
		"": false,
	} {
		if got, err := IsCacheTag(strings.NewReader(content)); got != want || err != nil {
			t.Errorf("%q: %v, %v", content, got, err)
		}
	}
	if _, err := IsCacheTag(iotest.ErrReader(io.ErrClosedPipe)); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("read error: %v", err)
	}
	if d := InCache("a/.cache", "--exclude-caches"); !d.Excluded || !strings.Contains(d.Explain("a/.cache/x"), `"a/.cache"`) {
		t.Errorf("%v", d)
	}
}

// benchPatterns are 50 of what backup users write.
var benchPatterns = strings.Fields(`
	*.tmp *.swp *~ *.bak *.o *.pyc *.class *.log .DS_Store Thumbs.db desktop.ini __pycache__/ node_modules/ .cache/
	.Trash-*/ .venv/ venv/ .tox/ .mypy_cache/ .pytest_cache/ .ipynb_checkpoints/ core.[0-9]* lost+found/ .nfs* *.iso
	*.vmdk *.qcow2 /proc/ /sys/ /dev/ /run/ /tmp/ /var/tmp/ /var/cache/ /home/*/.local/share/Trash/ **/Cache/**
	**/.gradle/caches/ Downloads/*.part build/ dist/ target/debug/ .git/objects/pack/tmp_* *.sock /swapfile
	*/.config/*/Cache/ .npm/ .cargo/registry/ .rustup/ !important.log !keep.bak`)

func BenchmarkMatch(b *testing.B) {
	if len(benchPatterns) != 50 {
		b.Fatalf("%d patterns", len(benchPatterns))
	}
	m := compile(b, benchPatterns...)
	var paths []string
	for i := range 1000 {
		paths = append(paths, fmt.Sprintf("home/user%d/projects/run-%d/output/result_%d.csv", i%12, i%31, i))
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if m.Match(paths[i%len(paths)], false).Excluded {
			b.Fatal("excluded")
		}
	}
}

// FuzzMatch looks for panics, and for patterns whose decision depends on how they are filed.
func FuzzMatch(f *testing.F) {
	f.Add("*.c", "a/b.c", false)
	f.Add("a/**/[!b]\\?", "a/x/c?", true)
	f.Add("!/**/x**/", "y/x1", true)
	f.Fuzz(func(t *testing.T, text, path string, isDir bool) {
		m, err := Compile([]Pattern{{text, "fuzz"}})
		if err != nil || len(m.rules) == 0 {
			return
		}
		r := m.rules[0]
		if got := m.Match(path, isDir); (got.Rule != nil) != r.matches(path, path[strings.LastIndexByte(path, '/')+1:], isDir) {
			t.Errorf("pattern %q, path %q, folder %v: %v", text, path, isDir, got)
		}
	})
}
