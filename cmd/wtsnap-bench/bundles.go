package main

import (
	"crypto/sha256"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

const (
	bundledFile = 64 << 10  // bytes; larger files are no part of a bundle
	bundleBytes = 256 << 10 // bytes at which a bundle ends
)

// bundled is what a tree would be if its small files were bundled: in the order of a walk, in groups that end where the hash
// of a file says so, or with the folder.
type bundled struct {
	files   map[[32]byte]int64
	bundles map[[32]byte]int64
}

// bundle reads the small files of a tree. One in ends ends its group.
func bundle(dir string, ends int) (*bundled, error) {
	b := &bundled{files: map[[32]byte]int64{}, bundles: map[[32]byte]int64{}}
	var ids []byte
	var size int64
	folder := ""
	end := func() {
		if len(ids) > 0 {
			b.bundles[sha256.Sum256(ids)] = size
		}
		ids, size = ids[:0], 0
	}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		info, err := entry.Info()
		if err != nil || info.Size() == 0 || info.Size() >= bundledFile {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if up := filepath.Dir(path); up != folder {
			end()
			folder = up
		}
		id := sha256.Sum256(content)
		b.files[id] = int64(len(content))
		ids, size = append(ids, id[:]...), size+int64(len(content))
		if (int(id[0])<<8|int(id[1]))%ends == 0 || size >= bundleBytes {
			end()
		}
		return nil
	})
	end()
	return b, err
}

// sum returns how many there are, and their bytes, without those that old has.
func sum(blobs, old map[[32]byte]int64) (n int, bytes int64) {
	for id, size := range blobs {
		if _, known := old[id]; !known {
			n, bytes = n+1, bytes+size
		}
	}
	return n, bytes
}

func bundlesCommand(args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("bundles", flag.ContinueOnError)
	ends := flags.Int("files", 16, "this many files a bundle, on average")
	if err := parse(flags, stderr, args, "OLD", "NEW"); err != nil {
		return err
	}
	if *ends < 1 {
		return fmt.Errorf("bundles of %d files: want at least one", *ends)
	}
	old, err := bundle(flags.Arg(0), *ends)
	if err != nil {
		return err
	}
	fresh, err := bundle(flags.Arg(1), *ends)
	if err != nil {
		return err
	}
	row := func(what string, files, bundles map[[32]byte]int64, without *bundled) {
		n, size := sum(files, without.files)
		m, in := sum(bundles, without.bundles)
		fmt.Fprintf(stdout, "%s: %d bytes in %d small files, %d bytes in %d bundles\n", what, size, n, in, m)
	}
	row("all of the old tree", old.files, old.bundles, &bundled{})
	row("new in the new tree", fresh.files, fresh.bundles, old)
	return nil
}
