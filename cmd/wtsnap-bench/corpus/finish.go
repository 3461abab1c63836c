package corpus

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// finish gives every file of the homes its owner and its time of modification, children before their folder.
func (h *Homes) finish(ctx context.Context) error {
	var paths []string
	err := filepath.WalkDir(h.dir, func(path string, _ fs.DirEntry, err error) error {
		paths = append(paths, path)
		return err
	})
	for i := len(paths) - 1; i >= 0 && err == nil; i-- {
		rel, _ := filepath.Rel(h.dir, paths[i])
		if uid := h.owner(rel); uid != 0 {
			err = own(paths[i], uid)
		}
		if err == nil {
			rng := stream(h.seed, "time %s", rel)
			err = setTime(paths[i], epoch().Add(time.Duration(rng.Int64N(int64(300*24*time.Hour)))))
		}
		if err == nil {
			err = ctx.Err()
		}
	}
	return err
}

// owner is the uid of the user in whose home a file lies, 0 for the folder of the homes itself.
func (h *Homes) owner(rel string) int {
	home, _, _ := strings.Cut(rel, string(filepath.Separator))
	for _, u := range h.users {
		if u.name == home {
			return u.uid
		}
	}
	return 0
}

// own gives a file to a user, where we may. Changing the owner clears the setgid bit, so the mode is set again.
func own(path string, uid int) error {
	if os.Geteuid() != 0 {
		return nil
	}
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if err := os.Lchown(path, uid, uid); err != nil {
		return err
	}
	if info.Mode()&(fs.ModeSetuid|fs.ModeSetgid) != 0 {
		return os.Chmod(path, info.Mode())
	}
	return nil
}

func setTime(path string, t time.Time) error {
	stamp := unix.NsecToTimespec(t.UnixNano())
	return unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{stamp, stamp}, unix.AT_SYMLINK_NOFOLLOW)
}
