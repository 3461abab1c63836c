package pages

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// resident is how many KiB of files are mapped and there.
func resident(t *testing.T) (kib int) {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, line, _ := strings.Cut(string(status), "\nRssFile:")
	if _, err := fmt.Sscanf(line, "%d kB", &kib); err != nil {
		t.Fatalf("%v in %s", err, status)
	}
	return kib
}

// The program's file is there as a whole, then only what is in use; the program goes on.
func TestUnmap(t *testing.T) {
	file, err := os.Readlink("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	spans, err := unwritten(f, file)
	if err != nil || len(spans) == 0 {
		t.Fatalf("%x, %v", spans, err)
	}
	for _, s := range spans {
		if _, _, no := unix.Syscall(unix.SYS_MADVISE, s.from, s.to-s.from, unix.MADV_POPULATE_READ); no == unix.EINVAL {
			t.Skip("the kernel cannot map a whole file at once (before 5.14)")
		} else if no != 0 {
			t.Fatal(no)
		}
	}
	before := resident(t)
	if err := Unmap(); err != nil {
		t.Fatal(err)
	}
	if after := resident(t); after >= before {
		t.Errorf("%d KiB of files before, %d after", before, after)
	} else {
		t.Logf("%d KiB of files before, %d after", before, after)
	}
}
