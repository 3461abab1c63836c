package whole

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/repo/storage/cache"
	"github.com/whole-tale/wtsnap/snapshot"
	"github.com/whole-tale/wtsnap/snapshot/localfs"
)

// A journal is a file of this machine that says which parts were begun, and which are done. Whether it is right is not
// taken on trust: what is done must also be there, see Plan.look.
type journal struct {
	path  string
	Parts map[string]*entry `json:"parts"`
}

type entry struct {
	Label    string    `json:"label"` // for people
	Snapshot string    `json:"snapshot"`
	Target   string    `json:"target"` // without secrets
	Begun    time.Time `json:"begun"`
	Done     time.Time `json:"done,omitzero"`
}

func readJournal(path string) (*journal, error) {
	j := &journal{path: path, Parts: map[string]*entry{}}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return j, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading what earlier restores did: %w", err)
	}
	if err := json.Unmarshal(data, j); err != nil {
		return nil, fmt.Errorf("reading what earlier restores did: %s: %w; remove it to begin anew", path, err)
	}
	return j, nil
}

// keyOf tells restores apart.
func (p *Plan) keyOf(r *repo.Repository, part *Part) string {
	target := part.Target.Path
	if part.Target.Kind != snapshot.TargetMongoDB {
		if abs, err := filepath.Abs(target); err == nil {
			target = abs
		}
	}
	h := sha256.New()
	fmt.Fprintf(h, "%q\x00%s\x00%q\x00%d\x00%q", r.ID(), part.Snapshot.Ref.ID, part.Path, part.Target.Kind, target)
	if part.Moment != nil {
		fmt.Fprintf(h, "\x00%s", part.Moment.At)
	}
	if part.Target.Kind == snapshot.TargetMongoDB {
		t := &p.o.Mongo
		fmt.Fprintf(h, "\x00%d\x00%q\x00%q\x00%q\x00%q\x00%v\x00%v", t.Mode, t.From, t.To, t.Include, t.Exclude, t.NoIndexes, t.NoUsers)
		fmt.Fprintf(h, "\x00%q", p.o.Variant)
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

func (j *journal) begin(part *Part) error {
	if e := j.Parts[part.key]; e != nil {
		e.Done = time.Time{}
		return j.write()
	}
	j.Parts[part.key] = &entry{Label: part.Label, Snapshot: part.Snapshot.Ref.ID.String(), Target: part.Target.String(), Begun: time.Now().UTC().Truncate(time.Second)}
	return j.write()
}

func (j *journal) done(part *Part) error {
	j.Parts[part.key].Done = time.Now().UTC().Truncate(time.Second)
	return j.write()
}

// write replaces the file, so that no half of it is ever read.
func (j *journal) write() error {
	data, err := json.MarshalIndent(j, "", "  ")
	if err == nil {
		err = localfs.Replace(j.path, append(data, '\n'), 0o600)
	}
	if err != nil {
		return fmt.Errorf("noting what is done: %w", err)
	}
	return nil
}

// room is how many bytes a file system has left; -1: nobody knows.
func room(dir string) int64 {
	if n, ok := cache.Free(dir); ok {
		return n
	}
	return -1
}
