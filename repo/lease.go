package repo

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/whole-tale/wtsnap/index"
	"github.com/whole-tale/wtsnap/repo/storage"
)

// A lease says that a writer or a prune is at work, and which condemned lists it has seen. A condemned
// list says which packs are about to be removed. Together they are all the coordination there is; the
// protocol and why it loses nothing are in docs/format.md, "Garbage collection".
const (
	leasesDir    = "leases/"
	condemnedDir = "condemned/"

	leaseWriter = "writer"
	leasePrune  = "prune"

	// leaseRenew is how often a lease is renewed, and leaseAlive how old a writer's last renewal may be
	// for it to go on; leaseDead is the age from which others take the lease for abandoned. The gap
	// between the last two is for clocks that differ.
	leaseRenew = 15 * time.Minute
	leaseAlive = 12 * time.Hour
	leaseDead  = 48 * time.Hour
)

// leaseRecord is the content of a lease object, JSON, sealed.
type leaseRecord struct {
	ID      string    `json:"id"` // 32 hex digits; the object is leases/ID-COUNT
	Count   int       `json:"count"`
	Kind    string    `json:"kind"`
	Host    string    `json:"host"`
	PID     int       `json:"pid"`
	Started time.Time `json:"started"`
	Renewed time.Time `json:"renewed"`
	Seen    []string  `json:"seen"` // ids of condemned lists
}

// dead reports whether others may take the lease for abandoned.
func (l *leaseRecord) dead(now time.Time) bool { return now.Sub(l.Renewed) > leaseDead }

// lease is this process's own lease.
type lease struct {
	leaseRecord
	r *Repository

	mu     sync.Mutex
	silent time.Time // when it was last renewed, by the monotonic clock
	name   string    // of the object that is stored now
	stop   func()
}

// newLease reads the condemned lists and stores a lease that has seen them. A machine that sleeps in
// between could miss a list and a whole sweep of it; then it starts again.
func (r *Repository) newLease(ctx context.Context, kind string) (*lease, error) {
	for {
		start := time.Now().Round(0) // without the monotonic clock, which stands still during sleep
		lists, err := r.condemnedLists(ctx)
		if err != nil {
			return nil, err
		}
		l, err := r.putLease(ctx, kind, lists)
		if err != nil {
			return nil, err
		}
		if time.Now().Round(0).Sub(start) < MinGrace/2 {
			return l, nil
		}
		if err := l.remove(ctx); err != nil {
			return nil, err
		}
	}
}

func (r *Repository) putLease(ctx context.Context, kind string, lists []condemnedList) (*lease, error) {
	id, err := randomID()
	if err != nil {
		return nil, err
	}
	host, _ := os.Hostname() // a label for people; empty is fine
	l := &lease{r: r, leaseRecord: leaseRecord{ID: hex.EncodeToString(id[:]), Kind: kind, Host: host, PID: os.Getpid(),
		Started: time.Now().UTC()}}
	if err := l.renew(ctx, lists); err != nil {
		return nil, err
	}
	return l, nil
}

// renew stores the lease anew, as having seen lists too, and removes its former object.
func (l *lease) renew(ctx context.Context, lists []condemnedList) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, list := range lists {
		if !slices.Contains(l.Seen, list.ID) {
			l.Seen = append(l.Seen, list.ID)
		}
	}
	now := time.Now()
	next := l.leaseRecord
	next.Count, next.Renewed = l.Count+1, now.UTC()
	data, err := json.Marshal(next)
	if err != nil {
		return err
	}
	name := fmt.Sprintf("%s%s-%d", leasesDir, l.ID, next.Count)
	if err := l.r.writeObject(ctx, name, data); err != nil {
		return fmt.Errorf("renewing the lease: %w", err)
	}
	old := l.name
	l.leaseRecord, l.silent, l.name = next, now, name
	if old != "" {
		if err := l.r.st.Delete(ctx, old); err != nil {
			return fmt.Errorf("renewing the lease: %w", err)
		}
	}
	return nil
}

// keepAlive renews the lease from time to time until ctx is done or the lease is removed.
func (l *lease) keepAlive(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	l.stop = func() { cancel(); <-done }
	go func() {
		defer close(done)
		t := time.NewTicker(leaseRenew)
		defer t.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-t.C:
				_ = l.renew(ctx, nil) // check decides whether too much time has passed
			}
		}
	}()
}

// check fails if the lease was not renewed for so long that others may take it for abandoned: the
// machine was suspended, or the backend was out of reach.
func (l *lease) check() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	// Round(0) drops the monotonic clock, which stands still while a machine sleeps.
	if silent := max(time.Since(l.silent), time.Now().Round(0).Sub(l.silent.Round(0))); silent > leaseAlive {
		return &LeaseError{Silent: silent}
	}
	return nil
}

// unsee makes the lease one that has seen no condemned list.
func (l *lease) unsee() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.Seen = nil
}

// unseen returns the lists that the lease has not seen.
func (l *lease) unseen(lists []condemnedList) []condemnedList {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(lists), func(c condemnedList) bool { return slices.Contains(l.Seen, c.ID) })
}

// remove ends the lease.
func (l *lease) remove(ctx context.Context) error {
	if l.stop != nil {
		l.stop()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.r.st.Delete(ctx, l.name); err != nil {
		return fmt.Errorf("removing the lease: %w", err)
	}
	return nil
}

// leases reads all leases; of one that is just being renewed, the newest object.
func (r *Repository) leases(ctx context.Context) ([]leaseRecord, error) {
	byID := map[string]leaseRecord{}
	objects, err := r.readAll(ctx, leasesDir)
	if err != nil {
		return nil, fmt.Errorf("reading leases: %w", err)
	}
	for _, o := range objects {
		var l leaseRecord
		if err := strictJSON(o.content, &l); err != nil {
			return nil, &DamageError{Kind: DamageDecode, Object: o.name, Detail: "is no lease", Err: err}
		}
		if old, ok := byID[l.ID]; !ok || old.Count < l.Count {
			byID[l.ID] = l
		}
	}
	var out []leaseRecord
	for _, l := range byID {
		out = append(out, l)
	}
	return out, nil
}

// livePrune returns another prune's lease, if one is live.
func livePrune(leases []leaseRecord, own string) *leaseRecord {
	for _, l := range leases {
		if l.Kind == leasePrune && l.ID != own && !l.dead(time.Now()) {
			return &l
		}
	}
	return nil
}

// condemnedList is the content of a condemned object.
type condemnedList struct {
	ID    string    `json:"id"`
	Time  time.Time `json:"time"` // by the clock of the prune that wrote it
	Packs []string  `json:"packs"`
	packs []index.PackID
	name  string
}

// condemnedLists reads all condemned lists.
func (r *Repository) condemnedLists(ctx context.Context) ([]condemnedList, error) {
	objects, err := r.readAll(ctx, condemnedDir)
	if err != nil {
		return nil, fmt.Errorf("reading the condemned lists: %w", err)
	}
	var lists []condemnedList
	for _, o := range objects {
		c := condemnedList{name: o.name}
		if err := strictJSON(o.content, &c); err != nil {
			return nil, &DamageError{Kind: DamageDecode, Object: o.name, Detail: "is no condemned list", Err: err}
		}
		for _, p := range c.Packs {
			id, err := index.ParsePackID(p)
			if err != nil {
				return nil, &DamageError{Kind: DamageDecode, Object: o.name, Detail: "names a pack wrongly", Err: err}
			}
			c.packs = append(c.packs, id)
		}
		lists = append(lists, c)
	}
	return lists, nil
}

// object is a sealed object that was read and opened.
type object struct {
	name    string
	content []byte
}

// readAll reads every object below a folder, in the order of their names. An object that vanishes
// between the listing and its reading may have been replaced by one under a new name, so that the
// folder is listed again.
func (r *Repository) readAll(ctx context.Context, dir string) ([]object, error) {
	for attempt := 0; ; attempt++ {
		objects, err := r.readListed(ctx, dir)
		if !errors.Is(err, storage.ErrNotExist) || attempt == 9 {
			return objects, err
		}
	}
}

func (r *Repository) readListed(ctx context.Context, dir string) ([]object, error) {
	var names []string
	err := r.st.List(ctx, dir, func(i storage.Info) error {
		names = append(names, i.Name)
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	objects := make([]object, 0, len(names))
	for _, name := range names {
		data, err := r.st.Get(ctx, name, 0, -1, nil)
		if err != nil {
			return nil, err
		}
		content, err := r.keys.openObject(name, data)
		if err != nil {
			return nil, err
		}
		objects = append(objects, object{name, content})
	}
	return objects, nil
}
