package storage

import (
	"errors"
	"time"
)

// The kinds of errors that a caller tells apart, found with errors.Is. An error
// that is none of them is worth another try.
var (
	ErrNotExist  = errors.New("object does not exist")
	ErrShort     = errors.New("object is shorter than expected")
	ErrAuth      = errors.New("the storage refuses the credentials")
	ErrQuota     = errors.New("the storage is full")
	ErrThrottled = errors.New("the storage asks for fewer requests")
	ErrReadOnly  = errors.New("the storage is read-only")
	ErrDenied    = errors.New("the storage denies access")
	ErrStalled   = errors.New("the storage stopped answering")
	ErrName      = errors.New("invalid object name")
	ErrEmpty     = errors.New("empty object")
	ErrTooLarge  = errors.New("object is larger than any that is read as a whole")
	ErrConfig    = errors.New("the storage is not configured correctly")
)

// Error is what went wrong in one operation on one object.
type Error struct {
	Op         string        // "put", "get", "stat", "list", "delete", "open"
	Name       string        // the object or the prefix
	Kind       error         // one of the errors above, or nil
	Err        error         // the cause
	Hint       string        // what the user can do, or ""
	RetryAfter time.Duration // what the backend asked to wait, or 0
}

// Error gives the operation, the object, the kind and the cause.
func (e *Error) Error() string {
	s := e.Op
	if e.Name != "" {
		s += " " + e.Name
	}
	if e.Kind != nil {
		s += ": " + e.Kind.Error()
	}
	if e.Err != nil && e.Err != e.Kind {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap gives the kind and the cause. The cause of ErrNotExist is left out: it may be an fs.ErrNotExist, and an object that is
// lost must not be taken for a path that a snapshot does not have.
func (e *Error) Unwrap() []error {
	if e.Kind == ErrNotExist {
		return []error{ErrNotExist}
	}
	out := make([]error, 0, 2)
	for _, err := range []error{e.Kind, e.Err} {
		if err != nil {
			out = append(out, err)
		}
	}
	return out
}

// Hint returns what the user can do about err, or "".
func Hint(err error) string {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Hint
	}
	return ""
}

// RetryAfter returns how long the backend asked to wait, or 0.
func RetryAfter(err error) time.Duration {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.RetryAfter
	}
	return 0
}

// Permanent reports whether trying again cannot help.
func Permanent(err error) bool {
	for _, kind := range []error{ErrNotExist, ErrShort, ErrAuth, ErrQuota, ErrReadOnly, ErrDenied, ErrName, ErrEmpty, ErrTooLarge, ErrConfig} {
		if errors.Is(err, kind) {
			return true
		}
	}
	return false
}
