package localfs

import (
	"errors"
	"os"
	"path/filepath"
)

// Replace writes a file as a whole: whoever reads it, also after a power cut, finds what there was, or all of data. Its folder
// must be there.
func Replace(path string, data []byte, mode os.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".wtsnap-*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}
