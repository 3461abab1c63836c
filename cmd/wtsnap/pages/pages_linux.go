package pages

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Unmap unmaps the pages of the program's file. They come back one by one where they are needed.
func Unmap() error {
	file, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("looking for the program's file: %w", err)
	}
	smaps, err := os.Open("/proc/self/smaps")
	if err != nil {
		return fmt.Errorf("looking at what is mapped: %w", err)
	}
	spans, err := unwritten(smaps, file)
	if err := errors.Join(err, smaps.Close()); err != nil {
		return fmt.Errorf("looking at what is mapped: %w", err)
	}
	for _, s := range spans {
		if _, _, no := unix.Syscall(unix.SYS_MADVISE, s.from, s.to-s.from, unix.MADV_DONTNEED); no != 0 {
			return fmt.Errorf("unmapping pages of %s: %w", file, no)
		}
	}
	return nil
}
