// Package witness remembers, in a file of this machine, the newest complete snapshot of each instance that it has seen in a
// repository, and tells when the repository no longer shows it. Whoever holds a backend can put an older state back, or hide
// what is new: everything that is then shown is genuine and whole, so that nothing in the repository gives it away.
//
// No rule ever forgets the newest complete snapshot of an instance. So it stays until a newer one is complete, or until
// somebody removes it by name, which a ledger of the repository tells (repo.Removal). Where neither is so, it was taken away.
//
// The file is only ever a hint: without it nothing is compared, and whoever deletes it is not warned.
package witness

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/repo/storage"
	"github.com/whole-tale/wtsnap/snapshot"
	"github.com/whole-tale/wtsnap/snapshot/localfs"
)

const (
	fileVersion = 1
	// skew is how far the clocks of two machines may differ: a removal that was noted so long before a snapshot was seen does
	// not explain its absence.
	skew = 24 * time.Hour
	// maxLost bounds the lost snapshots that are remembered of an instance: the newest ones.
	maxLost = 16
)

// file is what is stored.
type file struct {
	Version    int                  `json:"version"`
	Repository string               `json:"repository"` // its id
	Instances  map[string]*instance `json:"instances"`  // by the hash of the name, as in the names of snapshots
}

type instance struct {
	Name   string `json:"name"`
	Newest *seen  `json:"newest,omitempty"` // the newest complete snapshot
	Lost   []seen `json:"lost,omitempty"`   // those whose absence nothing has explained yet
	// Settled are the records of removals that have explained an absence: they explain no other one.
	Settled []string `json:"settled,omitempty"`
}

// seen is a snapshot that was there.
type seen struct {
	ID   repo.SnapshotID `json:"id"`
	Time time.Time       `json:"time"` // of the snapshot
	Seen time.Time       `json:"seen"` // by this machine's clock, for the first time
}

func (s *seen) ref(hash string) repo.SnapshotRef {
	return repo.SnapshotRef{ID: s.ID, Instance: hash, Time: s.Time}
}

// A Missing is a snapshot that the repository does not show any more.
type Missing struct {
	Ref       repo.SnapshotRef
	Instance  string
	Seen      time.Time
	Forgotten bool // it is among the forgotten ones, and nobody has noted that it was named
}

// Detail says what is wrong.
func (m *Missing) Detail() string {
	what := "snapshot " + m.Ref.ID.Short() + " of " + m.Instance + ", the newest complete one when this machine saw it on " +
		m.Seen.Local().Format("2006-01-02 15:04 MST")
	if m.Forgotten {
		return what + ", was forgotten, which no rule does, and nobody has noted that it was meant"
	}
	return what + ", is not there any more, and nothing of wtsnap has removed it: the repository was rolled back to an older state, or somebody deletes in it"
}

// Accept is the command that takes what is there for all that there should be.
const Accept = "wtsnap check --accept-rollback"

// Hint says what to do.
func (m *Missing) Hint() string {
	if m.Forgotten {
		return "wtsnap undelete " + m.Ref.ID.Short() + " brings it back; if it was meant: " + Accept
	}
	return "bring the newer state back: from the storage's old versions or trash, or by wtsnap copy from a second repository; if it was meant: " + Accept
}

// String says it for people, with what to do in a second line.
func (m *Missing) String() string { return m.Detail() + "\n  try: " + m.Hint() }

// A Witness is a repo.Witness with a file.
type Witness struct {
	r    *repo.Repository
	path string
	now  func() time.Time
	tell func(Missing)

	mu    sync.Mutex
	file  file
	there map[string][]repo.SnapshotRef // of the last listing, and what was stored since; by instance, oldest first
	told  map[repo.SnapshotID]bool
	lost  []Missing // of the last listing
	dirty bool
	whole bool // there was listed, whatever was stored since
}

// Path is the file in dir that remembers the repository with an id at a place. Copies of a repository that lie at different
// places are looked at for themselves: they need not be equally new.
func Path(dir, id, place string) string {
	sum := sha256.Sum256([]byte(id + "\x00" + place)) // a connection string may hold a password: no name of a file
	return filepath.Join(dir, "seen-"+hex.EncodeToString(sum[:12])+".json")
}

// Open reads what is remembered and has the repository watched. tell is called for each snapshot that is missed, once. An
// error says that the file cannot be read: what it knew is then lost, and the next Save writes it anew.
func Open(r *repo.Repository, path string, now func() time.Time, tell func(Missing)) (*Witness, error) {
	w := &Witness{r: r, path: path, now: now, tell: tell, told: map[repo.SnapshotID]bool{}}
	var err error
	w.file, err = read(path, r.ID())
	r.Watch(w)
	return w, err
}

func read(path, id string) (file, error) {
	none := file{Version: fileVersion, Repository: id, Instances: map[string]*instance{}}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return none, nil
	}
	var f file
	if err == nil {
		err = json.Unmarshal(data, &f)
	}
	if err == nil && f.Version != fileVersion {
		err = fmt.Errorf("it has version %d, this program reads %d", f.Version, fileVersion)
	}
	if err != nil {
		return none, fmt.Errorf("reading which snapshots this machine has seen: %w", err)
	}
	if f.Repository != id || f.Instances == nil {
		return none, nil
	}
	for hash, i := range f.Instances {
		if i == nil {
			delete(f.Instances, hash)
		}
	}
	return f, nil
}

// Listed compares a listing with what is remembered.
func (w *Witness) Listed(ctx context.Context, refs []repo.SnapshotRef) {
	w.mu.Lock()
	w.there, w.lost, w.whole = map[string][]repo.SnapshotRef{}, nil, true
	for _, ref := range refs {
		w.there[ref.Instance] = append(w.there[ref.Instance], ref)
	}
	var news []Missing
	for _, hash := range slices.Sorted(maps.Keys(w.file.Instances)) {
		w.compare(ctx, hash, w.file.Instances[hash])
	}
	for _, m := range w.lost {
		if !w.told[m.Ref.ID] {
			w.told[m.Ref.ID] = true
			news = append(news, m)
		}
	}
	w.mu.Unlock()
	for _, m := range news {
		if w.tell != nil {
			w.tell(m)
		}
	}
}

// There returns what the last listing has, and what was stored since, and the names of the instances that are known, by their
// hashes; nil where nothing was listed.
func (w *Witness) There() (refs []repo.SnapshotRef, names map[string]string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.whole {
		return nil, nil
	}
	names = map[string]string{}
	for hash, i := range w.file.Instances {
		names[hash] = i.Name
	}
	for _, hash := range slices.Sorted(maps.Keys(w.there)) {
		refs = append(refs, w.there[hash]...)
	}
	return refs, names
}

// has reports whether the last listing has a snapshot.
func (w *Witness) has(ref repo.SnapshotRef) bool {
	return slices.ContainsFunc(w.there[ref.Instance], func(r repo.SnapshotRef) bool { return r.ID == ref.ID })
}

// compare looks for what is remembered of an instance. What cannot be found out, because the backend is out of reach, is left
// as it is.
func (w *Witness) compare(ctx context.Context, hash string, i *instance) {
	c := &comparison{w: w, hash: hash, instance: i, used: map[string]bool{}}
	var lost []seen
	for _, s := range i.Lost {
		switch {
		case !w.has(s.ref(hash)):
			if c.verdict(ctx, s) != removed {
				lost = append(lost, s)
			}
		case i.Newest == nil || s.Time.After(i.Newest.Time): // it is back
			i.Newest, w.dirty = &s, true
		}
	}
	if n := i.Newest; n != nil && !w.has(n.ref(hash)) {
		newer, _, known := w.newest(ctx, hash, n.Time)
		switch {
		case newer != nil:
			i.Newest, w.dirty = &seen{newer.ID, newer.Time.UTC(), w.now().UTC()}, true
		case known:
			switch c.verdict(ctx, *n) {
			case removed:
				i.Newest, w.dirty = nil, true
			case missed:
				i.Newest, lost = nil, append(lost, *n)
			}
		}
	}
	if lost = lost[max(0, len(lost)-maxLost):]; !slices.Equal(lost, i.Lost) {
		i.Lost, w.dirty = lost, true
	}
	if !c.unsure {
		i.settle(c.removals, c.used)
	}
}

// comparison is what is found out about what is remembered of an instance.
type comparison struct {
	w        *Witness
	hash     string
	instance *instance
	removals []repo.Removal
	used     map[string]bool // records that explain something
	unsure   bool
}

// What became of a snapshot that a listing lacks.
const (
	unknown = iota // it is there, or that cannot be found out now
	removed        // somebody named it
	missed         // nothing explains it
)

// verdict finds out what became of a snapshot, and notes those that are missed.
func (c *comparison) verdict(ctx context.Context, s seen) int {
	there, forgotten, err := c.w.r.Has(ctx, s.ref(c.hash))
	if err == nil && !there { // else the listing was older
		c.removals, err = c.w.r.Removals(ctx) // after that: they are noted before
	}
	if err != nil || there {
		c.unsure = true
		return unknown
	}
	explained := false
	for _, r := range c.removals {
		// It was named itself, or one that had taken its place.
		if r.Ref.Instance == c.hash && (r.Ref.ID == s.ID || r.Ref.Time.After(s.Time)) && r.Time.After(s.Seen.Add(-skew)) &&
			!slices.Contains(c.instance.Settled, r.Record) {
			explained, c.used[r.Record] = true, true
		}
	}
	if explained {
		return removed
	}
	c.w.lost = append(c.w.lost, Missing{Ref: s.ref(c.hash), Instance: c.instance.Name, Seen: s.Seen, Forgotten: forgotten})
	return missed
}

// settle notes that records have explained something, and drops those that are no more.
func (i *instance) settle(removals []repo.Removal, used map[string]bool) {
	if len(used) == 0 {
		return
	}
	var kept []string
	for _, r := range removals {
		if (used[r.Record] || slices.Contains(i.Settled, r.Record)) && !slices.Contains(kept, r.Record) {
			kept = append(kept, r.Record)
		}
	}
	i.Settled = kept
}

// newest finds the newest complete snapshot of an instance that is no older than a time, and the instance's name. Not known:
// something could not be read.
func (w *Witness) newest(ctx context.Context, hash string, than time.Time) (newest *repo.SnapshotRef, name string, known bool) {
	for _, ref := range slices.Backward(w.there[hash]) {
		if ref.Time.Before(than) {
			break
		}
		data, err := w.r.Manifest(ctx, ref)
		if errors.Is(err, storage.ErrNotExist) {
			continue // forgotten and swept meanwhile
		}
		if err != nil {
			return nil, "", false
		}
		m, err := snapshot.DecodeManifest(data)
		if err != nil {
			return nil, "", false
		}
		if m.Finished() {
			return &ref, m.Instance, true
		}
	}
	return nil, "", true
}

// Complete remembers a snapshot if it is newer than what is remembered, and the repository shows it.
func (w *Witness) Complete(ref repo.SnapshotRef, name string, stored bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	i := w.file.Instances[ref.Instance]
	if i != nil && i.Newest != nil && !ref.Time.After(i.Newest.Time) && (!stored || ref.Time.Before(i.Newest.Time)) {
		return
	}
	switch {
	case stored:
		if w.there == nil {
			w.there = map[string][]repo.SnapshotRef{}
		}
		w.there[ref.Instance] = append(w.there[ref.Instance], ref)
	case !w.has(ref): // a forgotten one, or nothing was listed
		return
	}
	w.remember(ref, name)
}

func (w *Witness) remember(ref repo.SnapshotRef, name string) {
	i := w.file.Instances[ref.Instance]
	if i == nil {
		i = &instance{}
		w.file.Instances[ref.Instance] = i
	}
	i.Name, i.Newest, w.dirty = name, &seen{ref.ID, ref.Time.UTC(), w.now().UTC()}, true
}

// Learn remembers the newest complete snapshot of every instance that the last listing has: of commands that do not read
// their manifests. It reads one an instance, mostly, where there is a newer one than what is remembered.
func (w *Witness) Learn(ctx context.Context) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for hash := range w.there {
		i := w.file.Instances[hash]
		var since time.Time
		if i != nil && i.Newest != nil {
			since = i.Newest.Time.Add(time.Second)
		}
		if ref, name, _ := w.newest(ctx, hash, since); ref != nil {
			w.remember(*ref, name)
		}
	}
}

// Missing returns what the last listing lacks.
func (w *Witness) Missing() []Missing {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.lost)
}

// Problems are what a check reports.
func (w *Witness) Problems() (out []repo.Problem) {
	for _, m := range w.Missing() {
		out = append(out, repo.Problem{Kind: repo.DamageRollback, Object: m.Ref.Name(), Detail: m.Detail(), Hint: m.Hint()})
	}
	return out
}

// Accept takes what the last listing lacks for removed on purpose, and tells all other machines so. Where that cannot be
// stored, this machine alone is told: the error says why.
func (w *Witness) Accept(ctx context.Context) ([]Missing, error) {
	lost := w.Missing()
	var refs []repo.SnapshotRef
	for _, m := range lost {
		refs = append(refs, m.Ref)
	}
	err := w.r.NoteRemoval(ctx, refs, "accepted")
	removals, _ := w.r.Removals(ctx) // where there are none, nothing needs to be settled
	w.mu.Lock()
	defer w.mu.Unlock()
	used := map[string]bool{}
	for _, r := range removals {
		used[r.Record] = slices.ContainsFunc(refs, func(ref repo.SnapshotRef) bool { return ref.ID == r.Ref.ID })
	}
	for _, m := range lost {
		i := w.file.Instances[m.Ref.Instance]
		i.Lost = slices.DeleteFunc(i.Lost, func(s seen) bool { return s.ID == m.Ref.ID })
		i.settle(removals, used)
		w.dirty = true
	}
	w.lost = nil
	return lost, err
}

// Save writes the file, whole or not at all, if there is something new. Of several processes the last one wins: the others
// look again the next time.
func (w *Witness) Save() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.dirty {
		return nil
	}
	data, err := json.MarshalIndent(&w.file, "", "\t")
	if err == nil {
		err = os.MkdirAll(filepath.Dir(w.path), 0o700)
	}
	if err == nil {
		err = localfs.Replace(w.path, append(data, '\n'), 0o600)
	}
	if err != nil {
		return fmt.Errorf("remembering which snapshots this machine has seen: %w", err)
	}
	w.dirty = false
	return nil
}
