package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/pkg/xattr"
	"golang.org/x/sys/unix"
)

const memoryFolder = "/dev/shm"

// places makes the folders that everything happens in: in memory where there is room, for a disk makes whoever comes
// second wait for what the first one wrote, and punishes programs that sync. Where memory does not suffice for all of
// it, it may do for the restores.
func (b *bench) places(dir, targets string) error {
	corpus, room := max(b.size.Bytes, b.size.Dump), memoryFree()
	if dir == "" {
		dir = os.TempDir()
		if room > corpus*int64(4+2*len(b.tools)) {
			dir = memoryFolder
		}
	}
	if targets == "" {
		targets = dir
		if room > 2*corpus {
			targets = memoryFolder
		}
	}
	var err error
	if b.dir, err = os.MkdirTemp(dir, "wtsnap-bench-"); err != nil {
		return err
	}
	if b.targets, err = os.MkdirTemp(targets, "wtsnap-bench-"); err != nil {
		return errors.Join(err, os.RemoveAll(b.dir))
	}
	b.xattrs = xattr.Set(b.targets, "user.wtsnap", nil) == nil
	b.report.Dir, b.report.Targets = dir, targets
	if !b.xattrs {
		b.report.Targets += " (which has no extended attributes: these were not compared)"
	}
	return nil
}

func (b *bench) clean() error { return errors.Join(os.RemoveAll(b.dir), os.RemoveAll(b.targets)) }

// memoryFree is how many bytes may be put into the folder in memory, 0 where there is none.
func memoryFree() int64 {
	var stat unix.Statfs_t
	if err := unix.Statfs(memoryFolder, &stat); err != nil {
		return 0
	}
	free := int64(stat.Bavail) * int64(stat.Bsize)
	info, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(info)) {
		var kib int64
		if n, _ := fmt.Sscanf(line, "MemAvailable: %d kB", &kib); n == 1 {
			return min(free, kib<<10-1<<30) // the programs need memory as well
		}
	}
	return 0
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// machine describes what the figures depend on.
func machine() string {
	text := fmt.Sprintf("%d cores, %s/%s", runtime.NumCPU(), runtime.GOOS, runtime.GOARCH)
	if load, err := os.ReadFile("/proc/loadavg"); err == nil {
		if fields := strings.Fields(string(load)); len(fields) > 0 {
			text += ", load " + fields[0] + " before the start"
		}
	}
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return text
	}
	for line := range strings.Lines(string(info)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			return text + ", " + strings.TrimSpace(value)
		}
	}
	return text
}

func writeJSON(path string, document any) error {
	b, err := json.MarshalIndent(document, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o644)
}
