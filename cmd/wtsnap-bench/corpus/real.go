package corpus

import (
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
)

// A folder is a folder of the machine with the files directly in it. Whole folders are taken, so that files that belong
// together stay together as in a real home.
type folder struct {
	path  string
	files []realFile
	bytes int64
}

type realFile struct {
	name string
	size int64
	exec bool
}

const (
	maxRealFile    = 2 << 20
	maxRealFolders = 40000
)

// DefaultRoots are the trees of this machine that homes take files from. goRoot and moduleCache may be empty.
func DefaultRoots(goRoot, moduleCache string) []string {
	roots := []string{"/usr/share"}
	if runtime.GOOS == "darwin" {
		roots = append(roots, "/Library")
	}
	if goRoot != "" {
		roots = append(roots, filepath.Join(goRoot, "src"))
	}
	if moduleCache != "" {
		roots = append(roots, moduleCache)
	}
	return roots
}

// realFolders lists the folders below the roots in an order that depends on the random numbers and on the names alone.
// What cannot be read is left out: the generated files make up for it.
func realFolders(rng *rand.Rand, roots []string) []folder {
	var folders []folder
	for _, root := range roots {
		found := 0
		filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || found > maxRealFolders {
				return fs.SkipDir
			}
			if entry.IsDir() {
				if f := readFolder(path); len(f.files) > 0 {
					folders = append(folders, f)
					found++
				}
			}
			return nil
		})
	}
	rng.Shuffle(len(folders), func(i, j int) { folders[i], folders[j] = folders[j], folders[i] })
	return folders
}

func readFolder(path string) folder {
	f := folder{path: path}
	entries, err := os.ReadDir(path)
	if err != nil {
		return f
	}
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil || !info.Mode().IsRegular() || info.Size() > maxRealFile {
			continue
		}
		f.files = append(f.files, realFile{name: entry.Name(), size: info.Size(), exec: info.Mode()&0o100 != 0})
		f.bytes += info.Size()
	}
	return f
}

// split deals the folders to n users until each has its share of bytes and files; every twentieth folder goes to two
// users, as data sets do. It returns for each user its folders.
func split(rng *rand.Rand, folders []folder, bytes, files []int64) [][]folder {
	users := make([][]folder, len(bytes))
	for _, f := range folders {
		copies := 1
		if rng.IntN(20) == 0 {
			copies = 2
		}
		first := rng.IntN(len(users))
		for i := 0; i < len(users) && copies > 0; i++ {
			u := (first + i) % len(users)
			if bytes[u] < f.bytes || files[u] < int64(len(f.files)) {
				continue
			}
			bytes[u] -= f.bytes
			files[u] -= int64(len(f.files))
			users[u] = append(users[u], f)
			copies--
		}
	}
	return users
}
