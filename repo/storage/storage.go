// Package storage is the contract between a repository and the place that
// holds its bytes: whole objects under slash-separated names, written once.
//
// The packages below it implement the contract (mem, local, rclone) or add one
// behaviour to another implementation (retry, limit, count, cache). The suite
// in storagetest decides whether an implementation keeps it.
package storage

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// Info describes a stored object.
type Info struct {
	Name    string
	Size    int64     // bytes
	ModTime time.Time // when it was stored, by the backend's clock; zero if unknown
	Hash    string    // "md5:hex", where the backend has one without reading the object; else ""
}

// Storage holds objects. Implementations are safe for concurrent use.
//
// For whoever implements it:
//
//   - Every method returns soon after ctx is done, with an error for which
//     errors.Is(err, ctx.Err()) holds, and touches none of the caller's buffers
//     after it has returned.
//   - Names and prefixes are checked with CheckName and CheckPrefix; a bad one
//     is ErrName.
//   - Errors are found with errors.Is: ErrNotExist, ErrShort, ErrAuth, ErrQuota,
//     ErrThrottled, ErrReadOnly, ErrDenied. What is none of these may pass when
//     tried again.
//   - An operation that succeeded is seen by every later one of the same process.
//   - Bytes that move are reported with Moved as they move, where the
//     implementation sees them; a decorator may wait in there.
type Storage interface {
	// Put stores data as the object name. The object becomes visible whole or
	// not at all. Putting equal content again is no error. A Put that failed
	// may have stored the object all the same. Objects are written once: a Put
	// over other content replaces it, but neither may be left when it fails,
	// and other content of the same size may be taken for the same content.
	// Who needs a changed object needs a new name.
	// Empty objects are refused, because some backends cannot hold them.
	Put(ctx context.Context, name string, data []byte) (Info, error)

	// Get appends length bytes of the object, from offset on, to dst[:0] and
	// returns the result. A negative length means up to the end, which is
	// ErrTooLarge where it takes more than MaxWhole. An object that ends before offset+length (or before offset) is ErrShort.
	// After an error the content of dst is undefined.
	Get(ctx context.Context, name string, offset, length int64, dst []byte) ([]byte, error)

	// Stat describes the object.
	Stat(ctx context.Context, name string) (Info, error)

	// List calls fn for every object below the folder prefix ("packs/"; ""
	// for all), recursively, in no particular order, one call at a time. A
	// prefix that does not exist has no objects. An error of fn ends the
	// listing and is returned as it is. fn may call other methods. Whether
	// objects stored or deleted during the listing show up is unspecified, but
	// no other object is left out: a listing is complete or fails.
	List(ctx context.Context, prefix string, fn func(Info) error) error

	// Delete removes the object. An absent object is not an error.
	Delete(ctx context.Context, name string) error
}

// maxName is the longest name in bytes; maxPart the longest part between slashes.
// Encrypted names grow, and the narrowest backends allow 255 bytes.
const (
	maxName = 512
	maxPart = 128
)

// CheckName returns nil for a valid object name: parts of [A-Za-z0-9._-]
// between single slashes, none of which starts with a dot. Names with such a
// part are free for an implementation's temporary files.
func CheckName(name string) error {
	if name == "" || len(name) > maxName {
		return fmt.Errorf("%w: %q", ErrName, name)
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == "" || part[0] == '.' || len(part) > maxPart || !plain(part) {
			return fmt.Errorf("%w: %q", ErrName, name)
		}
	}
	return nil
}

// CheckPrefix returns nil for a valid folder prefix: "" or a valid name and a slash.
func CheckPrefix(prefix string) error {
	if prefix == "" {
		return nil
	}
	folder, ok := strings.CutSuffix(prefix, "/")
	if !ok {
		return fmt.Errorf("%w: prefix %q does not end with a slash", ErrName, prefix)
	}
	return CheckName(folder)
}

// CheckPut returns nil where name and data may be stored.
func CheckPut(name string, data []byte) error {
	if err := CheckName(name); err != nil {
		return err
	}
	if len(data) == 0 {
		return fmt.Errorf("%w: %s", ErrEmpty, name)
	}
	return nil
}

// MaxWhole is how many bytes an object has at most that is read to its end
// without its length being known, in bytes: a larger one was put there by
// somebody to fill the memory of who reads it.
const MaxWhole = 320 << 20

// CheckRange returns the number of bytes to read of an object of size bytes,
// or ErrShort where it does not hold them.
func CheckRange(size, offset, length int64) (int64, error) {
	if offset < 0 {
		return 0, fmt.Errorf("%w: negative offset %d", ErrShort, offset)
	}
	if offset > size {
		return 0, fmt.Errorf("%w: %d bytes, offset %d asked for", ErrShort, size, offset)
	}
	if length < 0 {
		if size-offset > MaxWhole {
			return 0, fmt.Errorf("%w: %d bytes, at most %d are read as a whole", ErrTooLarge, size-offset, MaxWhole)
		}
		return size - offset, nil
	}
	if length > size-offset {
		return 0, fmt.Errorf("%w: %d bytes, %d from offset %d asked for", ErrShort, size, length, offset)
	}
	return length, nil
}

func plain(part string) bool {
	for i := range len(part) {
		c := part[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '.', c == '_', c == '-':
		default:
			return false
		}
	}
	return true
}
