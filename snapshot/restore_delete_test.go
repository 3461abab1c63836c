package snapshot

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/whole-tale/wtsnap/snapshot/exclude"
)

// rerunAsNobody runs one test of this program as the user nobody.
func rerunAsNobody(t *testing.T, name string) {
	t.Helper()
	self, err := os.Executable()
	must(t, err)
	dir, err := os.MkdirTemp("", "wtsnap-nobody-")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	must(t, os.Chmod(dir, 0o777))
	program := filepath.Join(dir, "test")
	in, err := os.Open(self)
	must(t, err)
	defer in.Close()
	out, err := os.OpenFile(program, os.O_WRONLY|os.O_CREATE, 0o755)
	must(t, err)
	_, err = io.Copy(out, in)
	must(t, err)
	must(t, out.Close())
	must(t, os.Chmod(program, 0o755))
	cmd := exec.CommandContext(t.Context(), program, "-test.run=^"+name+"$", "-test.v")
	cmd.Dir = dir
	cmd.Env = []string{"TMPDIR=" + dir, "HOME=" + dir, "PATH=" + os.Getenv("PATH")}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	text, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(text), "--- PASS: "+name) {
		t.Errorf("%s as nobody: %v\n%s", name, err, text)
	}
}

func TestRestoreDelete(t *testing.T) {
	src, dst := t.TempDir(), t.TempDir()
	for i := range 10 {
		write(t, fmt.Sprintf("%s/sub/%d", src, i), []byte("x"))
	}
	write(t, src+"/conflict", []byte("a file"))
	d := newDepot(t).checked()
	s := d.save(map[string]string{"l": src})
	o := RestoreOptions{Snapshot: s, Path: "l", Target: to(dst)}
	d.restore(o)
	want := listing(t, dst, true)

	write(t, dst+"/extra", []byte("extra"))
	write(t, dst+"/sub/more/deep/er", []byte("more"))
	write(t, dst+"/cache/keep", []byte("kept by pattern"))
	must(t, os.Remove(dst+"/conflict"))
	write(t, dst+"/conflict/full", []byte("in the way"))
	victim := t.TempDir()
	write(t, victim+"/v", []byte("v"))
	must(t, os.Symlink(victim, dst+"/away"))
	o.Exclude = []exclude.Pattern{{Text: "/cache", Origin: "test"}}

	rep, err := Restore(t.Context(), d.r, o) // without Delete, nothing of the user's goes
	must(t, err)
	if rep.Problems != 1 || !strings.Contains(rep.Errors[0].Error, "not empty") || rep.Files.Failed != 1 {
		t.Errorf("without Delete: %+v", rep)
	}

	o.Delete, o.DryRun = true, true
	before := listing(t, dst, true)
	rep = d.restore(o)
	if diff := cmp.Diff(before, listing(t, dst, true)); diff != "" {
		t.Errorf("the dry run changed something:\n%s", diff)
	}
	var planned []string
	for _, doomed := range rep.Delete.List {
		planned = append(planned, fmt.Sprintf("%s %d %d", doomed.Path, doomed.Entries, doomed.Bytes))
	}
	if diff := cmp.Diff([]string{"away 1 0", "conflict 2 10", "extra 1 5", "sub/more 3 4"}, planned); diff != "" {
		t.Errorf("plan (-want +got):\n%s", diff)
	}
	if p := rep.Delete; p.Entries != 7 || p.Bytes != 19 || p.Existing != 10+1+2+1+3+1+1 || p.Refused != "" {
		t.Errorf("plan: %+v", p)
	}
	o.DryRun = false
	d.restore(o)
	got := listing(t, dst, true)
	for name := range got {
		if strings.HasPrefix(name, "cache") {
			delete(got, name)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("after Delete (-want +got):\n%s", diff)
	}
	if !fileExists(dst+"/cache/keep") || !fileExists(victim+"/v") {
		t.Error("too much was deleted")
	}
}

func TestRestoreDeleteGuard(t *testing.T) {
	src := t.TempDir()
	for i := range 3 {
		write(t, fmt.Sprintf("%s/d/%d", src, i), []byte("x"))
	}
	must(t, os.Mkdir(src+"/empty", 0o755))
	d := newDepot(t).checked()
	s := d.save(map[string]string{"l": src})
	partial := *s.Manifest
	partial.Complete = false
	file := *s.Manifest
	file.Sources = []Source{{Label: "l", Kind: SourceFile}}
	home := t.TempDir()
	t.Setenv("HOME", home)
	for _, c := range []struct {
		name   string
		o      RestoreOptions
		dst    string
		extra  int
		refuse bool
		gone   bool
	}{
		{"few", RestoreOptions{Snapshot: s, Path: "l/d"}, "", 2, false, true},
		{"half", RestoreOptions{Snapshot: s, Path: "l/d"}, "", 3, false, true},
		{"more than half", RestoreOptions{Snapshot: s, Path: "l/d"}, "", 4, true, false},
		{"more than half, meant", RestoreOptions{Snapshot: s, Path: "l/d", Yes: true}, "", 4, false, true},
		{"home", RestoreOptions{Snapshot: s, Path: "l/d"}, home, 1, true, false},
		{"home, meant", RestoreOptions{Snapshot: s, Path: "l/d", Yes: true}, home, 1, false, true},
		{"above home", RestoreOptions{Snapshot: s, Path: "l/d"}, filepath.Dir(home), 1, true, false},
		{"incomplete", RestoreOptions{Snapshot: &Snapshot{Manifest: &partial}, Path: "l/d"}, "", 1, true, false},
		{"empty", RestoreOptions{Snapshot: s, Path: "l/empty"}, "", 1, true, false},
		{"a single file", RestoreOptions{Snapshot: s, Path: "l/d/1"}, "", 9, false, false},
		{"a label that is a file", RestoreOptions{Snapshot: &Snapshot{Manifest: &file}, Path: "l"}, "", 1, false, false},
		{"beside the labels", RestoreOptions{Snapshot: s, Path: ""}, "", 1, false, false},
	} {
		dst := c.dst
		if dst == "" {
			dst = t.TempDir()
		}
		c.o.Target, c.o.Delete = to(dst), true
		if c.o.Path == "l/d" {
			for i := range 3 {
				write(t, fmt.Sprintf("%s/%d", dst, i), []byte("old"))
			}
		}
		for i := range c.extra {
			write(t, fmt.Sprintf("%s/extra%d", dst, i), []byte("extra"))
		}
		_, err := Restore(t.Context(), d.r, c.o)
		var guard *TargetGuardError
		if errors.As(err, &guard) != c.refuse || !c.refuse && err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if guard != nil && guard.Hint == "" {
			t.Errorf("%s: no hint", c.name)
		}
		if fileExists(dst+"/extra0") == c.gone {
			t.Errorf("%s: extra0 gone: %v, want %v", c.name, !c.gone, c.gone)
		}
		if c.refuse && c.o.Path == "l/d" {
			if old, err := os.ReadFile(dst + "/1"); err != nil || string(old) != "old" {
				t.Errorf("%s: something was changed before it was refused", c.name)
			}
		}
		os.RemoveAll(dst)
		must(t, os.MkdirAll(home, 0o755))
	}
	var guard *TargetGuardError
	rs := newRestore(d.r, RestoreOptions{Snapshot: s, Yes: true}, &selection{})
	if err := rs.guardDelete("/", &deletion{}); !errors.As(err, &guard) {
		t.Errorf("deleting in /: %v", err)
	}
}

func TestRestoreInstanceGuard(t *testing.T) {
	src := t.TempDir()
	write(t, src+"/f", []byte("x"))
	d := newDepot(t).checked()
	s := d.save(map[string]string{"l": src})
	full := func() string { dst := t.TempDir(); write(t, dst+"/other", nil); return dst }
	for _, c := range []struct {
		name, own, into, dst string
		refuse               bool
	}{
		{"not configured", "", "", full(), false},
		{"own", "inst", "", full(), false},
		{"other, new folder", "web2", "", t.TempDir() + "/new", false},
		{"other, empty folder", "web2", "", t.TempDir(), false},
		{"other, full folder", "web2", "", full(), true},
		{"other, wrong name", "web2", "inst", full(), true},
		{"other, named", "web2", "web2", full(), false},
	} {
		_, err := Restore(t.Context(), d.r, RestoreOptions{Snapshot: s, Path: "l", Target: to(c.dst), OwnInstance: c.own, Into: c.into})
		var guard *TargetGuardError
		if errors.As(err, &guard) != c.refuse || !c.refuse && err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if fileExists(c.dst+"/f") == c.refuse {
			t.Errorf("%s: restored: %v", c.name, c.refuse)
		}
	}
}
