package measure

import (
	"io/fs"
	"path/filepath"
	"time"
)

// Files is what a folder holds at a moment, by path relative to it.
type Files map[string]File

// File is one of them.
type File struct {
	Size  int64
	MTime time.Time
}

// List lists the regular files of a folder.
func List(dir string) (Files, error) {
	files := Files{}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		files[rel] = File{info.Size(), info.ModTime()}
		return err
	})
	return files, err
}

// Bytes is the sum of the sizes.
func (f Files) Bytes() int64 {
	var n int64
	for _, file := range f {
		n += file.Size
	}
	return n
}

// Written is how many bytes were written to come from the earlier state to this one: new files, and all of those that
// changed. Files for which ignore is true do not count.
func (f Files) Written(before Files, ignore func(path string) bool) int64 {
	var n int64
	for path, file := range f {
		old, existed := before[path]
		if (!existed || old.Size != file.Size || !old.MTime.Equal(file.MTime)) && (ignore == nil || !ignore(path)) {
			n += file.Size
		}
	}
	return n
}
