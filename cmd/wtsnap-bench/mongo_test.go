package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/whole-tale/wtsnap/cmd/wtsnap-bench/report"
)

// dumping is a program with wtsnap's command line that leaves the work to MongoDB's tools. It is told by its name what to
// do badly.
const dumping = `#!/bin/sh
set -e
case "$1" in
version) echo "wtsnap 1.0" ;;
init) touch "$3" ;;
backup) test -f "$WTSNAP_PASSWORD_FILE"; rm -rf "$WTSNAP_REPO/dump"
	TOOLS/mongodump --quiet --uri "${3#mongo=}" --out "$WTSNAP_REPO/dump" ;;
restore)
	case "$0" in
	*failing) echo "cannot read" >&2; exit 7 ;;
	*lossy) rm "$WTSNAP_REPO/dump/girder/user.bson"; touch "$WTSNAP_REPO/dump/girder/user.bson" ;;
	esac
	TOOLS/mongorestore --quiet --uri "$5" "$WTSNAP_REPO/dump" ;;
*) exit 64 ;;
esac
`

func TestMongoMeasuresAndCompares(t *testing.T) {
	tools := os.Getenv("WTSNAP_MONGO_TOOLS")
	if tools == "" {
		t.Skip("WTSNAP_MONGO_TOOLS is not set: no mongodump to measure (make test builds it)")
	}
	for _, name := range []string{"honest", "lossy", "failing"} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			program := filepath.Join(t.TempDir(), name)
			if err := os.WriteFile(program, []byte(strings.ReplaceAll(dumping, "TOOLS", tools)), 0o755); err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(dir, "figures.json")
			stdout, stderr, err := invoke("mongo", "-size", "tiny", "-runs", "1", "-nights", "1", "-wtsnap", program, "-dir", dir, "-json", file)
			switch name {
			case "lossy":
				if err == nil || !strings.Contains(err.Error(), "other documents came back") {
					t.Errorf("%v\n%s", err, stderr)
				}
			case "failing":
				if err == nil || !strings.Contains(err.Error(), "wtsnap restore: exit status 7: cannot read") {
					t.Errorf("%v\n%s", err, stderr)
				}
			default:
				if err != nil {
					t.Fatalf("%v\n%s", err, stderr)
				}
				checkMongoFigures(t, file)
			}
			if want := "| mongodump --archive --gzip | "; !strings.Contains(stdout, want) {
				t.Errorf("%q is not in\n%s", want, stdout)
			}
			left, err := os.ReadDir(dir)
			if err != nil || len(left) != 1 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}

func checkMongoFigures(t *testing.T, file string) {
	t.Helper()
	var m report.Mongo
	b, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(b, &m)
	}
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Samples) != 13 || len(m.Bounds) != 1 || m.Bounds[0].Bytes < 1000 || m.Bytes < 1e6 {
		t.Errorf("%d samples, bounds %+v, %d bytes", len(m.Samples), m.Bounds, m.Bytes)
	}
	for _, s := range m.Samples {
		if s.Wall <= 0 || s.Peak <= 0 || s.Server < 0 {
			t.Errorf("%+v", s)
		}
		restored := strings.Contains(string(s.Way), "restore")
		if least := int64(300e3); !restored && s.Bytes < least {
			t.Errorf("%s wrote %d bytes", s.Way, s.Bytes)
		}
		if restored && !strings.Contains(string(s.Way), "4 workers") && !s.Order {
			t.Errorf("%s changed the order", s.Way)
		}
	}
}

func TestSameDocuments(t *testing.T) {
	one, two := "\x05\x00\x00\x00\x00", "\x0c\x00\x00\x00\x10a\x00\x01\x00\x00\x00\x00"
	folder := func(content string) string {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "c.bson"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	for _, c := range []struct {
		want, got   string
		order, fail bool
	}{
		{one + two, one + two, true, false},
		{one + two, two + one, false, false},
		{one + two, one, false, true},
		{one + two, one + one, false, true},
		{one + two, one + two[:7], false, true},
	} {
		order, err := sameDocuments(folder(c.want), folder(c.got))
		if order != c.order || err != nil != c.fail {
			t.Errorf("%q and %q: %v, %v", c.want, c.got, order, err)
		}
	}
	if _, err := sameDocuments(t.TempDir(), t.TempDir()); err == nil {
		t.Error("nothing is compared, and nobody says so")
	}
}

func TestMongoSaysWhatIsMissing(t *testing.T) {
	dir := t.TempDir()
	if _, _, err := invoke("mongo", "-mongo-tools", dir); err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("tools that are not there: %v", err)
	}
	if _, _, err := invoke("mongo", "-runs", "0"); err == nil {
		t.Error("no runs")
	}
}
