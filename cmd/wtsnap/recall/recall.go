// Package recall remembers, in a file of this machine's cache, which snapshots a run has seen in a repository, so that a shell
// can complete their names without a password and without a request. The file is a hint: it may be old, or missing. It holds ids,
// times, names of instances and labels, and nothing of what was backed up.
package recall

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/whole-tale/wtsnap/snapshot/localfs"
)

const (
	version = 1
	// most bounds the file: nobody looks for an older one by its first letters.
	most = 2000
)

// A Snapshot is one that was seen. Instance is "" and Labels are nil where only its name was.
type Snapshot struct {
	ID       string    `json:"id"`
	Time     time.Time `json:"time"`
	Instance string    `json:"instance,omitempty"`
	Labels   []string  `json:"labels,omitempty"`
}

type file struct {
	Version   int        `json:"version"`
	Snapshots []Snapshot `json:"snapshots"`
}

// Path is the file, in a folder of caches, of the repository at a place.
func Path(dir, place string) string {
	sum := sha256.Sum256([]byte(place)) // a connection string may hold a password: no name of a file
	return filepath.Join(dir, "names-"+hex.EncodeToString(sum[:12])+".json")
}

// Read returns what is remembered, the newest first; nothing where that cannot be read.
func Read(path string) []Snapshot {
	var f file
	data, err := os.ReadFile(path)
	if err != nil || json.Unmarshal(data, &f) != nil || f.Version != version {
		return nil
	}
	return f.Snapshots
}

// Update remembers what a run has seen: all that was listed, and of those that were read what is in them. What was not listed is
// forgotten.
func Update(path string, listed, read []Snapshot) error {
	old := Read(path)
	known := map[string]Snapshot{}
	for _, s := range slices.Concat(old, read) {
		known[s.ID] = s
	}
	next := make([]Snapshot, 0, len(listed))
	for _, s := range listed {
		k := known[s.ID]
		s.Instance, s.Labels, s.Time = cmp.Or(k.Instance, s.Instance), k.Labels, s.Time.UTC()
		next = append(next, s)
	}
	slices.SortStableFunc(next, func(a, b Snapshot) int {
		return cmp.Or(b.Time.Compare(a.Time), strings.Compare(a.ID, b.ID))
	})
	next = next[:min(len(next), most)]
	if slices.EqualFunc(old, next, equal) {
		return nil
	}
	data, err := json.Marshal(file{version, next})
	if err == nil {
		err = os.MkdirAll(filepath.Dir(path), 0o700)
	}
	if err == nil {
		err = localfs.Replace(path, append(data, '\n'), 0o600)
	}
	return err
}

func equal(a, b Snapshot) bool {
	return a.ID == b.ID && a.Time.Equal(b.Time) && a.Instance == b.Instance && slices.Equal(a.Labels, b.Labels)
}
