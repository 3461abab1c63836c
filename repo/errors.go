package repo

import (
	"errors"
	"fmt"
	"time"
)

// Errors that a caller can act on; find them with errors.Is.
var (
	// ErrNoRepository: there is no config object at the place.
	ErrNoRepository = errors.New("no repository here")
	// ErrExists: Init found a repository, or something that looks like one.
	ErrExists = errors.New("a repository is here already")
	// ErrWrongPassword: no key object opens with the password.
	ErrWrongPassword = errors.New("wrong password")
	// ErrBusy: another prune is at work. Backups never return it.
	ErrBusy = errors.New("another prune is running")
	// ErrLeaseLost: the session was suspended for so long that a prune may have taken it for dead.
	ErrLeaseLost = errors.New("this run was suspended for too long to be sure of what it relies on")
	// ErrSwept: a forgotten snapshot's data has been freed, it can't be brought back.
	ErrSwept = errors.New("the space of this snapshot has been freed")
	// ErrLastKey: the only key object can't be removed.
	ErrLastKey = errors.New("this is the only key of the repository")
)

// FormatError reports a repository of a format that this program does not read.
type FormatError struct {
	Version   int // what the repository says
	Supported int // the newest that this program reads
}

func (e *FormatError) Error() string {
	return fmt.Sprintf("the repository has format %d, this program reads up to %d", e.Version, e.Supported)
}

// Kinds of damage, as DamageError and check report them.
const (
	DamageMissing  = "missing"   // an object that something refers to is not there
	DamageSize     = "size"      // an object has another size than recorded
	DamageHash     = "hash"      // the bytes of an object are not those that were written
	DamageOpen     = "open"      // a sealed object does not open: changed, or another object's
	DamageDecode   = "decode"    // an opened object can't be decoded
	DamageBlobGone = "no-blob"   // a blob is in no pack of the index
	DamageBlob     = "blob"      // a blob's bytes are not those of its id
	DamageTree     = "tree"      // a folder of a snapshot can't be read
	DamageIndex    = "index"     // index and pack contradict each other
	DamageRollback = "roll-back" // what the backend shows is older than what was seen there before
)

// DamageError reports stored data that is missing or not what was written.
type DamageError struct {
	Kind   string // one of the Damage constants
	Object string // the name of the object, or a blob's id
	Detail string
	Hint   string // what the user can do; may be empty
	Err    error  // the cause, or nil
}

func (e *DamageError) Error() string {
	s := "damaged: " + e.Object + ": " + e.Detail
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

func (e *DamageError) Unwrap() error { return e.Err }

// LeaseError is ErrLeaseLost with the figures.
type LeaseError struct {
	Silent time.Duration // since the lease was last renewed
}

func (e *LeaseError) Error() string {
	return fmt.Sprintf("%v (its lease was last renewed %s ago)", ErrLeaseLost, e.Silent.Round(time.Second))
}

func (e *LeaseError) Unwrap() error { return ErrLeaseLost }
