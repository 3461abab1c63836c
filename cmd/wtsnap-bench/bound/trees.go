package bound

import (
	"crypto/sha256"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// Trees pairs the files of two versions of a tree: files of the new tree whose content is nowhere in the old one, each
// with the old file of the same path, if there is one.
func Trees(old, new string) ([]Pair, error) {
	oldSizes := map[int64][]string{}
	err := files(old, func(rel string, size int64) error {
		oldSizes[size] = append(oldSizes[size], rel)
		return nil
	})
	if err != nil {
		return nil, err
	}
	known := map[[32]byte]bool{}
	hashed := map[int64]bool{}
	var pairs []Pair
	err = files(new, func(rel string, size int64) error {
		if !hashed[size] {
			hashed[size] = true
			for _, candidate := range oldSizes[size] {
				sum, err := hash(filepath.Join(old, candidate))
				if err != nil {
					return err
				}
				known[sum] = true
			}
		}
		sum, err := hash(filepath.Join(new, rel))
		if err != nil || known[sum] {
			return err
		}
		known[sum] = true
		pair := Pair{New: filepath.Join(new, rel)}
		if info, err := os.Lstat(filepath.Join(old, rel)); err == nil && info.Mode().IsRegular() {
			pair.Old = filepath.Join(old, rel)
		}
		pairs = append(pairs, pair)
		return nil
	})
	return pairs, err
}

// files calls fn for each regular file with content, once for all its links.
func files(root string, fn func(rel string, size int64) error) error {
	type inode struct{ device, number uint64 }
	seen := map[inode]bool{}
	return filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		info, err := entry.Info()
		if err != nil || info.Size() == 0 {
			return err
		}
		stat := info.Sys().(*syscall.Stat_t)
		key := inode{uint64(stat.Dev), uint64(stat.Ino)}
		if seen[key] {
			return nil
		}
		seen[key] = true
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		return fn(rel, info.Size())
	})
}

func hash(path string) (sum [32]byte, err error) {
	f, err := os.Open(path)
	if err != nil {
		return sum, err
	}
	defer f.Close()
	h := sha256.New()
	_, err = io.Copy(h, f)
	h.Sum(sum[:0])
	return sum, err
}
