package localfs

import (
	"errors"
	"io"

	"golang.org/x/sys/unix"
)

// A File is an open regular file. It must be closed. ReadAt and WriteAt may be called concurrently.
//
// It stands in for os.File, which costs three more calls and a finalizer for each of millions of small files.
type File struct {
	fd   int
	name string
	pos  int64 // of Read
}

// newFile takes over fd, which it closes if it is not a regular file.
func newFile(fd int, name string) (*File, Meta, error) {
	var m Meta
	if err := statFD(fd, &m); err != nil {
		unix.Close(fd)
		return nil, m, pathError("stat", name, err)
	}
	if m.Type != TypeFile {
		unix.Close(fd)
		return nil, m, &TypeError{name, m.Type, TypeFile}
	}
	return &File{fd: fd, name: name}, m, nil
}

// Name returns the name that the file was opened with.
func (f *File) Name() string { return f.name }

// Close closes the file.
func (f *File) Close() error {
	err := unix.Close(f.fd)
	f.fd = -1
	if err == unix.EINTR { // closed all the same
		err = nil
	}
	return pathError("close", f.name, err)
}

// Meta returns the file's metadata as they are now.
func (f *File) Meta() (Meta, error) {
	var m Meta
	err := statFD(f.fd, &m)
	return m, pathError("stat", f.name, err)
}

// Xattrs returns the file's extended attributes, ordered by name. A file system that has none is not an error.
func (f *File) Xattrs() ([]Xattr, error) {
	x, err := readXattrs(target{fd: f.fd})
	return x, pathError("xattrs", f.name, err)
}

// Read reads on from where the last Read ended. ReadAt and Extents do not move that place.
func (f *File) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	n, err := f.pread(p, f.pos)
	f.pos += int64(n)
	if n == 0 && err == nil {
		err = io.EOF
	}
	return n, err
}

// ReadAt is io.ReaderAt.
func (f *File) ReadAt(p []byte, off int64) (int, error) {
	var done int
	for done < len(p) {
		n, err := f.pread(p[done:], off+int64(done))
		done += n
		if err != nil {
			return done, err
		}
		if n == 0 {
			return done, io.EOF
		}
	}
	return done, nil
}

func (f *File) pread(p []byte, off int64) (int, error) {
	const most = 1 << 30 // some systems refuse more at once
	p = p[:min(len(p), most)]
	for {
		n, err := unix.Pread(f.fd, p, off)
		switch {
		case err == nil:
			return n, nil
		case err == unix.EINTR:
		case err == unix.EAGAIN: // a file system that heeds O_NONBLOCK
			if err := unix.SetNonblock(f.fd, false); err != nil {
				return 0, pathError("read", f.name, err)
			}
		default:
			return 0, pathError("read", f.name, err)
		}
	}
}

// WriteAt is io.WriterAt. A full disk is syscall.ENOSPC (errors.Is).
func (f *File) WriteAt(p []byte, off int64) (int, error) {
	const most = 1 << 30
	var done int
	for done < len(p) {
		n, err := unix.Pwrite(f.fd, p[done:min(len(p), done+most)], off+int64(done))
		if n > 0 {
			done += n
		}
		switch {
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			if err := unix.SetNonblock(f.fd, false); err != nil {
				return done, pathError("write", f.name, err)
			}
		case err != nil:
			return done, pathError("write", f.name, err)
		case n == 0:
			return done, pathError("write", f.name, io.ErrShortWrite)
		}
	}
	return done, nil
}

// Truncate sets the size. What is added is a hole.
func (f *File) Truncate(size int64) error {
	for {
		if err := unix.Ftruncate(f.fd, size); err != unix.EINTR {
			return pathError("truncate", f.name, err)
		}
	}
}

// Zero makes a range read as zeros: as a hole where the file system can, else by writing. The size stays as it is; the
// range must lie within it.
func (f *File) Zero(off, length int64) error {
	if length <= 0 {
		return nil
	}
	err := punchHole(f.fd, off, length)
	if err == nil || !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.ENOSYS) {
		return pathError("punch hole", f.name, err)
	}
	zeros := make([]byte, min(length, 64<<10))
	for length > 0 {
		n, err := f.WriteAt(zeros[:min(length, int64(len(zeros)))], off)
		if err != nil {
			return err
		}
		off, length = off+int64(n), length-int64(n)
	}
	return nil
}

// Sync puts the file's data on the disk.
func (f *File) Sync() error {
	for {
		if err := unix.Fsync(f.fd); err != unix.EINTR {
			return pathError("sync", f.name, err)
		}
	}
}

// Extents returns where a file of the given size holds data, in order. Without holes, or where the file system cannot
// tell, that is one extent (none for an empty file). See Meta.Sparse for the test that costs nothing.
func (f *File) Extents(size int64) ([]Extent, error) {
	var extents []Extent
	for off := int64(0); off < size; {
		data, err := seek(f.fd, off, unix.SEEK_DATA)
		if err == unix.ENXIO { // only a hole is left
			break
		}
		if off == 0 && (err == unix.EINVAL || err == unix.EOPNOTSUPP || err == unix.ENOTTY) {
			return []Extent{{0, size}}, nil
		}
		if err != nil {
			return nil, pathError("seek", f.name, err)
		}
		if data >= size {
			break
		}
		hole, err := seek(f.fd, data, unix.SEEK_HOLE)
		if err == unix.ENXIO { // truncated in between
			break
		}
		if err != nil {
			return nil, pathError("seek", f.name, err)
		}
		hole = min(hole, size)
		if hole <= data { // no file system does that; it must not make us loop
			hole = size
		}
		extents = append(extents, Extent{data, hole - data})
		off = hole
	}
	return extents, nil
}

func seek(fd int, off int64, whence int) (int64, error) {
	for {
		n, err := unix.Seek(fd, off, whence)
		if err != unix.EINTR {
			return n, err
		}
	}
}
