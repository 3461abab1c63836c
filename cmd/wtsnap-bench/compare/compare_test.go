package compare

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pkg/xattr"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// tree makes a folder with one of everything that is compared.
func tree(t *testing.T) string {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	must(t, os.MkdirAll(path("folder/below"), 0o755))
	must(t, os.WriteFile(path("folder/file"), []byte("content"), 0o644))
	must(t, os.WriteFile(path("folder/other"), []byte("content"), 0o644))
	must(t, os.WriteFile(path("large"), make([]byte, 200<<10), 0o644))
	must(t, os.WriteFile(path("new\nline \xff"), nil, 0o600))
	must(t, os.Link(path("folder/file"), path("link")))
	must(t, os.Symlink("folder/file", path("symlink")))
	for _, name := range []string{"folder/below", "folder/file", "folder/other", "folder", "large", "new\nline \xff"} {
		must(t, os.Chtimes(path(name), time.Time{}, time.Unix(1700000000, 123456789)))
	}
	must(t, setTime(path("symlink")))
	return dir
}

func kinds(t *testing.T, a, b string) []string {
	t.Helper()
	result, err := Trees(a, b)
	must(t, err)
	var found []string
	for _, d := range result.Differences {
		found = append(found, string(d.Kind)+" "+d.Path)
	}
	slices.Sort(found)
	return found
}

func TestEqualTreesHaveNoDifferences(t *testing.T) {
	a, b := tree(t), tree(t)
	result, err := Trees(a, b)
	must(t, err)
	if len(result.Differences) > 0 {
		t.Errorf("differences between equal trees: %v", result.Differences)
	}
	if result.Files != 8 || result.Bytes != 3*7+200<<10 {
		t.Errorf("compared %d files, %d bytes", result.Files, result.Bytes)
	}
}

func TestEachKindIsNoticed(t *testing.T) {
	keepTime := func(path string, change func() error) error {
		info, err := os.Lstat(path)
		if err != nil {
			return err
		}
		if err := change(); err != nil {
			return err
		}
		return os.Chtimes(path, time.Time{}, info.ModTime())
	}
	tests := []struct {
		name   string
		change func(dir string) error
		want   string // kinds and paths, separated by commas
		skip   func() string
	}{
		{name: "missing", want: "missing large", change: func(dir string) error { return os.Remove(dir + "/large") }},
		{name: "extra", want: "extra more", change: func(dir string) error { return os.WriteFile(dir+"/more", nil, 0o644) }},
		{name: "type", want: "type large", change: func(dir string) error {
			if err := os.Remove(dir + "/large"); err != nil {
				return err
			}
			return os.Mkdir(dir+"/large", 0o644)
		}},
		{name: "size", want: "content large", change: func(dir string) error {
			return keepTime(dir+"/large", func() error { return os.Truncate(dir+"/large", 100) })
		}},
		{name: "last byte", want: "content large", change: func(dir string) error {
			return keepTime(dir+"/large", func() error {
				f, err := os.OpenFile(dir+"/large", os.O_WRONLY, 0)
				if err != nil {
					return err
				}
				defer f.Close()
				_, err = f.WriteAt([]byte{1}, 200<<10-1)
				return err
			})
		}},
		{name: "mode", want: "mode large", change: func(dir string) error { return os.Chmod(dir+"/large", 0o640) }},
		{name: "setgid", want: "mode folder", change: func(dir string) error { return syscall.Chmod(dir+"/folder", 0o2755) }},
		{name: "owner", want: "owner symlink", change: func(dir string) error { return os.Lchown(dir+"/symlink", -1, 12345) },
			skip: func() string {
				if os.Geteuid() != 0 {
					return "only root gives files away"
				}
				return ""
			}},
		{name: "one nanosecond", want: "mtime folder/below", change: func(dir string) error {
			return os.Chtimes(dir+"/folder/below", time.Time{}, time.Unix(1700000000, 123456788))
		}},
		{name: "target", want: "target symlink", change: func(dir string) error {
			if err := os.Remove(dir + "/symlink"); err != nil {
				return err
			}
			if err := os.Symlink("folder/else", dir+"/symlink"); err != nil {
				return err
			}
			return setTime(dir + "/symlink")
		}},
		{name: "link lost", want: "links link", change: func(dir string) error {
			return keepTime(dir+"/link", func() error {
				if err := os.Remove(dir + "/link"); err != nil {
					return err
				}
				return os.WriteFile(dir+"/link", []byte("content"), 0o644)
			})
		}},
		{name: "linked with another", want: "links link", change: func(dir string) error {
			if err := os.Remove(dir + "/link"); err != nil {
				return err
			}
			return os.Link(dir+"/folder/other", dir+"/link")
		}},
		{name: "xattr", want: "xattrs large", change: func(dir string) error {
			return xattr.Set(dir+"/large", "user.test", []byte("value"))
		}, skip: func() string {
			if err := xattr.Set(t.TempDir(), "user.test", nil); err != nil {
				return "no extended attributes here: " + err.Error()
			}
			return ""
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if test.skip != nil {
				if reason := test.skip(); reason != "" {
					t.Skip(reason)
				}
			}
			a, b := tree(t), tree(t)
			must(t, test.change(b))
			// Adding and removing entries changes the time of their folder, which is the root here.
			if got := strings.Join(kinds(t, a, b), ", "); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestOddNamesStayOnOneLine(t *testing.T) {
	for _, name := range []string{"new\nline", "\xff", "\x1b[31mred"} {
		line := Difference{Path: name, Kind: Missing}.String()
		if strings.Contains(line, name) {
			t.Errorf("%q is printed as it is", name)
		}
	}
	if line := (Difference{Path: "größe", Kind: Mode, Detail: "x"}).String(); line != "mode     größe: x" {
		t.Errorf("plain name printed as %q", line)
	}
}

func TestNoFolderIsAnError(t *testing.T) {
	dir := tree(t)
	for _, other := range []string{dir + "/absent", dir + "/large"} {
		if _, err := Trees(dir, other); err == nil {
			t.Errorf("comparing with %s is no error", other)
		}
	}
}
