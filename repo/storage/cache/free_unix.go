//go:build linux || darwin || freebsd

package cache

import (
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Free returns how many bytes the file system of dir, which need not exist, has left for its user.
func Free(dir string) (int64, bool) {
	for {
		var s unix.Statfs_t
		err := unix.Statfs(dir, &s)
		if err == nil {
			return int64(s.Bavail) * int64(s.Bsize), true
		}
		if up := filepath.Dir(dir); os.IsNotExist(err) && up != dir {
			dir = up
			continue
		}
		return 0, false
	}
}
