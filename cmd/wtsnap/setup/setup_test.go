package setup

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestSuggest(t *testing.T) {
	root := t.TempDir()
	for _, p := range []string{"home/alice/x", "srv/homes/bob/x", "srv/data/x/y", "mnt/homes/lost+found/x"} {
		if err := os.MkdirAll(filepath.Join(root, p), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(root, "srv/empty"), 0o755); err != nil {
		t.Fatal(err)
	}
	want := []string{"homes=/home", "data=/srv/data", "homes2=/srv/homes"}
	if got := Suggest(root); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if got := Suggest(filepath.Join(root, "nothing")); len(got) != 0 {
		t.Errorf("%q", got)
	}
}

func TestParseSources(t *testing.T) {
	dir := t.TempDir()
	got, err := ParseSources([]string{"homes=" + dir, "mongo=mongodb://h/", "/etc"})
	if err != nil || len(got) != 3 || got[0].From != dir || got[1].From != "mongodb://h/" || got[2].Label != "etc" || got[2].From != "/etc" {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range [][]string{{"a=/nowhere/at/all"}, {"x=stdin:y"}, {"x=tar:-"}, {"a=/etc", "a=/usr"}} {
		if got, err := ParseSources(bad); err == nil {
			t.Errorf("%q: %+v", bad, got)
		}
	}
}

func TestConfiguration(t *testing.T) {
	got := string(Configuration(Answers{Repo: `a"b`, Instance: "web", PasswordFile: "/k", Sources: []Source{
		{Label: "mongo", File: "/f"}, {Label: "a b", From: "/srv/ä", Mount: true}}}))
	for _, want := range []string{`repo = "a\"b"`, "from = { file = \"/f\" }", "[sources.\"a b\"]", "expect-mount = \"/srv/ä\"", "[jobs.nightly]"} {
		if !strings.Contains(got, want) {
			t.Errorf("%s is missing in:\n%s", want, got)
		}
	}
}

func TestMongoDB(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	if got := MongoDB(address); got != "mongodb://"+address+"/" {
		t.Errorf("%q", got)
	}
	l.Close()
	if got := MongoDB(address); got != "" {
		t.Errorf("nobody answers, and got %q", got)
	}
}
