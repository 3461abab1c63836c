package cache

import (
	"cmp"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A Surveyed is how a cache's folder stands.
type Surveyed struct {
	Files   int
	Bytes   int64
	Checked int      // files whose bytes were compared with their checksums
	Damaged []string // those that are not what was written; the next who asks for them asks the storage instead
}

// Survey looks at the files of a cache's folder, which may be absent, and reads the newest of them, up to so many bytes. It
// changes nothing.
func Survey(dir string, most int64) (s Surveyed, err error) {
	var files []file
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			if os.IsNotExist(err) {
				return nil
			}
			return err
		}
		if !d.Type().IsRegular() || strings.HasPrefix(d.Name(), tempPrefix) {
			return nil
		}
		fi, err := d.Info()
		if err != nil {
			return nil // another process has removed it
		}
		files = append(files, file{path, fi.Size(), fi.ModTime()})
		s.Files++
		s.Bytes += fi.Size()
		return nil
	})
	if err != nil {
		return s, err
	}
	slices.SortFunc(files, func(a, b file) int { return cmp.Or(b.time.Compare(a.time), cmp.Compare(a.path, b.path)) })
	for _, f := range files {
		if most -= f.size; most < 0 {
			break
		}
		if err := checkFile(f.path); err == nil {
			s.Checked++
		} else if !os.IsNotExist(err) {
			s.Checked++
			s.Damaged = append(s.Damaged, f.path)
		}
	}
	return s, nil
}

func checkFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	return verify(f, fi.Size()-trailer)
}
