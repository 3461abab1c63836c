package rclone_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/whole-tale/wtsnap/repo/storage/rclone"
)

func TestRefreshedTokenIsStoredInAFileThatCannotBeReplaced(t *testing.T) {
	// As a single file that is mounted into a container: no file can be made beside it.
	p := newProvider(t)
	fd, err := unix.MemfdCreate("rclone.conf", unix.MFD_ALLOW_SEALING)
	if err != nil {
		t.Skipf("no memfd: %v", err)
	}
	f := os.NewFile(uintptr(fd), "rclone.conf")
	defer f.Close()
	if _, err := f.WriteString(p.remotes()); err != nil {
		t.Fatal(err)
	}
	path := fmt.Sprintf("/proc/self/fd/%d", fd)
	rclone.Forget()
	t.Cleanup(rclone.Forget)
	var warnings []string
	o := rclone.Options{ConfigPath: path, Warn: func(s string) { warnings = append(warnings, s) }}
	if err := list(t, open(t, "gcs:bucket/repo", o)); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil || !strings.Contains(string(text), "next1") || len(warnings) != 0 {
		t.Errorf("%v, warnings %q, stored:\n%s", err, warnings, text)
	}

	// And now nothing can be written at all.
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_WRITE|unix.F_SEAL_GROW|unix.F_SEAL_SHRINK); err != nil {
		t.Skipf("no seals: %v", err)
	}
	rclone.Forget()
	if err := list(t, open(t, "box:repo", o)); err == nil {
		t.Log("Box itself was reached with an invented token")
	}
	if len(warnings) != 1 {
		t.Fatalf("warnings %q, want one", warnings)
	}
	for _, want := range []string{"refreshed token of box", path, "only once", "make the file writable"} {
		if !strings.Contains(warnings[0], want) {
			t.Errorf("warning %q does not say %q", warnings[0], want)
		}
	}
}
