package snapshot

import (
	"fmt"
	"sync/atomic"

	"github.com/whole-tale/wtsnap/repo"
)

// How deep folders may lie. What goes through a tree calls itself for each level and holds the path of each, so that a
// repository that was made for it, in which a hundred megabytes of folders lie in each other, would end it by its stack or by
// its memory. The measure is the path: no system call takes one of more than 4096 bytes, and a program that goes further down
// folder by folder is rare, and mostly an error.
const (
	// maxSavedPath is how long the path of a folder may be, from its label on, for a backup to enter it. Bytes.
	maxSavedPath = 8 << 10
	// maxReadPath is how long it may be for a reader to enter it. Readers take what a backup has saved.
	maxReadPath = 2 * maxSavedPath
	// maxReadDepth is the same as a number of folders, for those who do not know paths.
	maxReadDepth = maxReadPath / 2
)

// tooDeep is the damage that a folder is which lies deeper than any backup saves, else nil.
func tooDeep(path string) *repo.DamageError {
	if len(path) <= maxReadPath {
		return nil
	}
	return &repo.DamageError{Kind: repo.DamageTree, Object: "folder " + shortPath(path),
		Detail: fmt.Sprintf("its path has %d bytes: no backup saves what lies deeper than %d", len(path), maxSavedPath),
		Hint:   "somebody has made this snapshot to harm who reads it; what lies less deep can be had"}
}

// shortPath leaves the middle of a very long path out.
func shortPath(path string) string {
	const whole, ends = 4096, 200
	if len(path) <= whole {
		return path
	}
	return path[:ends] + "..." + path[len(path)-ends:]
}

// errDeep is what a backup says of a folder that it does not enter.
var errDeep = fmt.Errorf("it lies too deep: its path has more than %d bytes, and what is in it is not saved", maxSavedPath)

// errLong is what a backup says of an entry of an archive that it leaves out.
var errLong = fmt.Errorf("its path has more than %d bytes", maxSavedPath)

// A Bound ends what goes through the paths of a snapshot that has more of them than it says: forty folders, each of which holds
// the next one twice, have a trillion paths in a few kilobytes. It may be used by several goroutines.
type Bound struct {
	name        string
	mostFiles   int64
	mostFolders int64
	files       atomic.Int64
	folders     atomic.Int64
}

const (
	// boundSlack is what a snapshot may have beyond four times what it says, and boundMost what nothing has.
	boundSlack = 1 << 16
	boundMost  = 1 << 34
)

// Bound returns a new one for one way through the snapshot, or a part of it.
func (s *Snapshot) Bound() *Bound {
	most := func(n int64) int64 { return 4*min(max(n, 0), boundMost/4) + boundSlack }
	return &Bound{name: "snapshot " + s.Ref.ID.Short(), mostFiles: most(s.Files), mostFolders: most(s.Dirs)}
}

// Count is told of each entry; a *repo.DamageError ends the way.
func (b *Bound) Count(n *Node) error {
	what, most, count := "files", b.mostFiles, &b.files
	switch {
	case n.IsDir():
		what, most, count = "folders", b.mostFolders, &b.folders
	case !n.IsFile():
		return nil
	}
	if count.Add(1) <= most {
		return nil
	}
	return &repo.DamageError{Kind: repo.DamageTree, Object: b.name,
		Detail: fmt.Sprintf("it has more than %d %s, many more than it says: its folders hold each other many times over", most, what),
		Hint:   "somebody has made this snapshot to harm who reads it: take another one"}
}
