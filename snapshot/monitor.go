package snapshot

import (
	"sync/atomic"
)

// A Monitor is told what goes wrong with single entries while an operation goes on, and what else its user should know.
// Trouble with one entry never ends a run; the exit code derives from the report's count of problems.
//
// The methods may be called concurrently, must not block for long, and must not call back into the operation. Paths are
// raw bytes as the user would name the entry: of the source in a backup, LABEL/... in a snapshot otherwise.
type Monitor interface {
	// Problem says that an entry could not be read or written, or not as it should be.
	Problem(path string, err error)
	// Notice says something that is no problem of this run.
	Notice(path string, message string)
}

// quiet is the Monitor of those who gave none.
type quiet struct{}

func (quiet) Problem(string, error) {}
func (quiet) Notice(string, string) {}

// maxReported bounds the problems that a report lists. All are counted, and all go to the Monitor.
const maxReported = 1000

// A PathError is a problem with one entry, in a report.
type PathError struct {
	Path  string `json:"path"`
	Error string `json:"error"`
}

// Progress counts what an operation has done so far. The operation adds, and a user interface reads as often as it
// pleases: ten times a second is plenty. The zero value is ready.
type Progress struct {
	TotalFiles, TotalBytes atomic.Int64 // estimates; 0 = unknown yet
	Files, Bytes           atomic.Int64 // done, of regular files; unchanged ones count as done
	Folders                atomic.Int64 // done
	Documents              atomic.Int64 // of databases, done
	New                    atomic.Int64 // files
	Changed                atomic.Int64 // files
	Unchanged              atomic.Int64 // files
	Read                   atomic.Int64 // bytes read from the source or from the repository's blobs
	Transferred            atomic.Int64 // bytes uploaded or downloaded
	Problems               atomic.Int64
	path                   atomic.Pointer[string]
}

// SetPath says which entry is at work: one of them, where there are several.
func (p *Progress) SetPath(path string) { p.path.Store(&path) }

// Path returns an entry that is at work, or was a moment ago.
func (p *Progress) Path() string {
	if s := p.path.Load(); s != nil {
		return *s
	}
	return ""
}
