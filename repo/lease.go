package repo

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/whole-tale/wtsnap/index"
	"github.com/whole-tale/wtsnap/repo/storage"
)

// A lease says that a writer or a prune is at work, and which condemned lists it has seen. A condemned
// list says which packs are about to be removed. Together they are all the coordination there is; the
// protocol and why it loses nothing are in docs/format.md, "Garbage collection".

// ProbesDir is where objects lie that only try the storage out. Nothing in a repository refers to one, and whoever finds
// one that is a day old may remove it.
const ProbesDir = "probes/"

const (
	leasesDir    = "leases/"
	condemnedDir = "condemned/"

	leaseWriter = "writer"
	leasePrune  = "prune"
	leaseDone   = "done" // the work is over, and its lease could not be removed: it counts for nothing

	// leaseRenew is how often a lease is renewed, and leaseAlive how old a writer's last renewal may be
	// for it to go on; leaseDead is the age from which others take the lease for abandoned. The gap
	// between the last two is for clocks that differ.
	leaseRenew = 15 * time.Minute
	// leaseList is how long a listing of the leases may take. A former object of a lease stays for longer than that once
	// there is a newer one: a listing need not show what is stored while it goes on, nor what is removed meanwhile, and
	// whoever sees neither would take the lease for none.
	leaseList  = leaseRenew / 2
	leaseAlive = 12 * time.Hour
	leaseDead  = 48 * time.Hour
	// A prune that was killed must not keep the next night's from its work.
	pruneAlive = 2 * time.Hour
	pruneDead  = 20 * time.Hour
)

// leaseRecord is the content of a lease object, JSON, sealed.
type leaseRecord struct {
	ID    string `json:"id"` // 32 hex digits; the object is leases/ID-COUNT
	Count int    `json:"count"`
	Kind  string `json:"kind"`
	// Instance is whose backup it is, if any: the next one of the same instance looks for what a killed one has left.
	Instance string    `json:"instance,omitempty"`
	Host     string    `json:"host"`
	PID      int       `json:"pid"`
	Started  time.Time `json:"started"`
	Renewed  time.Time `json:"renewed"`
	Seen     []string  `json:"seen"` // ids of condemned lists

	asOf   time.Time // when the leases were about to be read; others have been renewed since
	names  []string  // of its objects
	damage error     // it can't be read; ID is its object's name
}

// dead reports whether others may take the lease for abandoned. It goes by the time when it was read: a
// reader that slept since knows nothing of what was renewed meanwhile.
func (l *leaseRecord) dead() bool {
	if l.Kind == leaseDone {
		return true
	}
	if l.Kind == leasePrune && l.damage == nil {
		return l.asOf.Sub(l.Renewed) > pruneDead
	}
	return l.asOf.Sub(l.Renewed) > leaseDead
}

// leaseName is the name of one of a lease's objects.
func leaseName(id string, count int) string { return fmt.Sprintf("%s%s-%d", leasesDir, id, count) }

// lease is this process's own lease.
type lease struct {
	leaseRecord
	r *Repository

	mu     sync.Mutex
	silent time.Time   // when it was last renewed, by the monotonic clock
	lost   error       // a *LeaseError once it was silent for too long; it stays so
	names  []string    // of the objects that are or may be stored
	since  []time.Time // for each of names but the last: when there was a newer one
	stop   func()
}

// newLease reads the condemned lists and stores a lease that has seen them; it is renewed until it is
// removed. A list that appears in between, and those that a prune acts on before the lease is stored, are
// what LoadIndex, which reads the lists again, is for.
func (r *Repository) newLease(ctx context.Context, kind string) (*lease, error) {
	return r.newLeaseOf(ctx, kind, "")
}

// newLeaseOf is newLease for the work of an instance.
func (r *Repository) newLeaseOf(ctx context.Context, kind, instance string) (*lease, error) {
	for {
		lists, err := r.condemnedLists(ctx)
		if err != nil {
			return nil, err
		}
		l, err := r.putLease(ctx, kind, instance, lists)
		if err != nil {
			return nil, err
		}
		if l.silence() < l.alive()/2 {
			l.keepAlive(context.WithoutCancel(ctx))
			return l, nil
		}
		if err := l.remove(ctx); err != nil { // the machine slept while it was stored
			return nil, err
		}
	}
}

func (r *Repository) putLease(ctx context.Context, kind, instance string, lists []condemnedList) (*lease, error) {
	id, err := randomID()
	if err != nil {
		return nil, err
	}
	host, _ := os.Hostname() // a label for people; empty is fine
	l := &lease{r: r, leaseRecord: leaseRecord{ID: hex.EncodeToString(id[:]), Kind: kind, Instance: instance, Host: host, PID: os.Getpid(),
		Started: time.Now().UTC()}}
	if err := l.renew(ctx, lists); err != nil {
		_ = l.remove(context.WithoutCancel(ctx)) // it may be stored
		return nil, err
	}
	return l, nil
}

// renew stores the lease anew, as having seen lists too, and removes its former objects. A lease that
// is lost stays so: whoever took it for abandoned may have removed something meanwhile.
func (l *lease) renew(ctx context.Context, lists []condemnedList) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.names) > 0 { // not the first time
		if err := l.checkLocked(); err != nil {
			return err
		}
	}
	now := time.Now()
	next := l.leaseRecord
	next.Renewed, next.Seen = now.UTC(), slices.Clone(l.Seen)
	for _, list := range lists {
		if !slices.Contains(next.Seen, list.ID) {
			next.Seen = append(next.Seen, list.ID)
		}
	}
	l.Count++ // for a failed attempt too: it may be stored, and no name is used twice
	next.Count = l.Count
	data, err := json.Marshal(next)
	if err != nil {
		return err
	}
	name := leaseName(l.ID, next.Count)
	l.names = append(l.names, name)
	if err := l.r.writeObject(ctx, name, data); err != nil {
		return fmt.Errorf("renewing the lease: %w", err)
	}
	l.leaseRecord, l.silent = next, now
	for len(l.since) < len(l.names)-1 {
		l.since = append(l.since, time.Now())
	}
	for len(l.since) > 0 && time.Since(l.since[0]) > leaseList {
		if err := l.r.st.Delete(ctx, l.names[0]); err != nil {
			l.r.noteDenied(err)
			return nil // the newest one counts; the next renewal or remove tries again
		}
		l.names, l.since = l.names[1:], l.since[1:]
	}
	return nil
}

// keepAlive renews the lease from time to time until it is removed.
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
	return l.checkLocked()
}

func (l *lease) alive() time.Duration {
	if l.Kind == leasePrune {
		return pruneAlive
	}
	return leaseAlive
}

func (l *lease) checkLocked() error {
	if silent := l.silence(); l.lost == nil && silent > l.alive() {
		l.lost = &LeaseError{Silent: silent}
	}
	return l.lost
}

// silence is how long ago the lease was renewed. The caller holds mu, or has told nobody of the lease yet.
func (l *lease) silence() time.Duration { return sinceAwake(l.silent) }

// sinceAwake is how long ago t was, the time that this machine slept included.
func sinceAwake(t time.Time) time.Duration {
	// Round(0) drops the monotonic clock, which stands still while a machine sleeps.
	return max(time.Since(t), time.Now().Round(0).Sub(t.Round(0)))
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
	for len(l.names) > 0 {
		err := l.r.st.Delete(ctx, l.names[0])
		if l.r.noteDenied(err) {
			return l.finishLocked(ctx)
		}
		if err != nil {
			return fmt.Errorf("removing the lease: %w", err)
		}
		l.names, l.since = l.names[1:], l.since[min(1, len(l.since)):]
	}
	return nil
}

// finishLocked says of a lease that this machine may not remove that the work is over: it holds nothing up any more, and
// the next prune on a machine that may removes its objects.
func (l *lease) finishLocked(ctx context.Context) error {
	last := l.leaseRecord
	l.Count++
	last.Count, last.Kind = l.Count, leaseDone
	l.names, l.since = nil, nil
	data, err := json.Marshal(last)
	if err != nil {
		return err
	}
	if err := l.r.writeObject(ctx, fmt.Sprintf("%s%s-%d", leasesDir, l.ID, last.Count), data); err != nil {
		return fmt.Errorf("ending the lease: %w", err)
	}
	return nil
}

// leases reads all leases; of one that is just being renewed, the newest object. A lease that can't be
// read may be anybody's: it counts as a live prune's, and so holds up whatever removes things, until the
// backend says that it is too old for that. Where the backend has no times, a person must remove it.
func (r *Repository) leases(ctx context.Context) ([]leaseRecord, error) {
	asOf := time.Now()
	byID := map[string]leaseRecord{}
	objects, damaged, err := r.readAll(ctx, leasesDir, func(string) bool { return true })
	if err != nil {
		return nil, fmt.Errorf("reading leases: %w", err)
	}
	for _, o := range objects {
		var l leaseRecord
		if err := strictJSON(o.content, &l); err != nil || l.ID == "" {
			damaged = append(damaged, damagedObject{o.Info, &DamageError{Kind: DamageDecode, Object: o.Name, Detail: "is no lease", Err: err}})
			continue
		}
		old := byID[l.ID]
		l.names = append(old.names, o.Name)
		if old.Count > l.Count {
			old.names, l = l.names, old
		}
		byID[l.ID] = l
	}
	var out []leaseRecord
	for _, l := range byID {
		out = append(out, l)
	}
	for _, d := range damaged {
		l := leaseRecord{ID: path.Base(d.Name), Kind: leasePrune, Renewed: d.ModTime, damage: d.err, names: []string{d.Name}}
		if d.ModTime.IsZero() {
			l.Renewed = time.Now()
		}
		out = append(out, l)
	}
	for i := range out {
		out[i].asOf = asOf
	}
	slices.SortFunc(out, func(a, b leaseRecord) int { return strings.Compare(a.ID, b.ID) })
	return out, nil
}

// busy returns ErrBusy if another prune's lease is live.
func busy(leases []leaseRecord, own string) error {
	for _, l := range leases {
		if l.Kind == leasePrune && l.ID != own && !l.dead() {
			if l.damage != nil {
				return fmt.Errorf("%w, or was: %w", ErrBusy, l.damage)
			}
			return fmt.Errorf("%w (on %s since %s)", ErrBusy, l.Host, l.Started.Format(time.RFC3339))
		}
	}
	return nil
}

// alone makes the lease hold up every sweep that is planned from now on, and returns ErrBusy if a prune
// is at work already.
func (l *lease) alone(ctx context.Context) error {
	l.unsee() // as one that has seen no condemned list
	if err := l.renew(ctx, nil); err != nil {
		return err
	}
	others, err := l.r.leases(ctx)
	if err != nil {
		return err
	}
	for _, o := range others {
		if o.Kind == leaseDone && o.Host == l.Host { // a run of this machine could not remove its lease: neither can this one
			l.r.denied.Store(true)
		}
	}
	return busy(others, l.ID)
}

// condemnedList is the content of a condemned object.
type condemnedList struct {
	ID    string    `json:"id"`
	Time  time.Time `json:"time"` // by the clock of the prune that wrote it
	Packs []string  `json:"packs"`
	// Damaged: the packs are condemned because they can't be read. They are not absolved where a snapshot
	// needs them; the list stays until none does, so that writers store anew what was in them.
	Damaged bool `json:"damaged,omitempty"`
	packs   []index.PackID
	name    string
}

// condemnedLists reads the condemned lists, in the order of their times. What can't be read is left out:
// a list that a writer has not seen is not acted on while the writer lives, and none that a prune can't
// read is acted on by it.
func (r *Repository) condemnedLists(ctx context.Context) ([]condemnedList, error) {
	lists, _, err := r.condemnedAndDamaged(ctx)
	return lists, err
}

func (r *Repository) condemnedAndDamaged(ctx context.Context) (lists []condemnedList, damaged []damagedObject, err error) {
	r.mu.Lock()
	known := r.lists // no list ever changes: each is read once
	r.mu.Unlock()
	objects, damaged, err := r.readAll(ctx, condemnedDir, func(name string) bool {
		_, ok := known[name]
		return !ok
	})
	if err != nil {
		return nil, nil, fmt.Errorf("reading the condemned lists: %w", err)
	}
	now := map[string]condemnedList{}
	for _, o := range objects {
		if c, ok := known[o.Name]; ok {
			lists, now[o.Name] = append(lists, c), c
			continue
		}
		c := condemnedList{name: o.Name}
		err := strictJSON(o.content, &c)
		for _, p := range c.Packs {
			id, perr := index.ParsePackID(p)
			err = errors.Join(err, perr)
			c.packs = append(c.packs, id)
		}
		if err != nil || condemnedDir+c.ID != o.Name {
			damaged = append(damaged, damagedObject{o.Info, &DamageError{Kind: DamageDecode, Object: o.Name, Detail: "is no condemned list", Err: err}})
			continue
		}
		lists, now[o.Name] = append(lists, c), c
	}
	r.mu.Lock()
	r.lists = now
	r.mu.Unlock()
	slices.SortStableFunc(lists, func(a, b condemnedList) int { return a.Time.Compare(b.Time) })
	return lists, damaged, nil
}

// object is a sealed object that was read and opened.
type object struct {
	storage.Info
	content []byte
}

// damagedObject is one that could not be opened.
type damagedObject struct {
	storage.Info
	err error
}

// readAll reads every object below a folder, in the order of their names, but for the content of those
// that are not wanted. An object that vanishes
// between the listing and its reading may have been replaced by one under a new name, so that the
// folder is listed again.
func (r *Repository) readAll(ctx context.Context, dir string, want func(name string) bool) (objects []object, damaged []damagedObject, err error) {
	for attempt := 0; ; attempt++ {
		objects, damaged, err = r.readListed(ctx, dir, want)
		if !errors.Is(err, storage.ErrNotExist) && !errors.Is(err, errListedLong) || attempt == 49 {
			return objects, damaged, err
		}
	}
}

// errListedLong says that leases may have been renewed twice while they were listed.
var errListedLong = fmt.Errorf("the listing took longer than %s", leaseList)

func (r *Repository) readListed(ctx context.Context, dir string, want func(name string) bool) (objects []object, damaged []damagedObject, err error) {
	var infos []storage.Info
	start := time.Now()
	err = r.st.List(ctx, dir, func(i storage.Info) error {
		infos = append(infos, i)
		return nil
	})
	if err == nil && dir == leasesDir && sinceAwake(start) > leaseList {
		err = errListedLong
	}
	if err != nil {
		return nil, nil, err
	}
	slices.SortFunc(infos, func(a, b storage.Info) int { return strings.Compare(a.Name, b.Name) })
	total := int64(0)
	for _, i := range infos {
		if !want(i.Name) {
			objects = append(objects, object{Info: i})
			continue
		}
		content, err := r.readCoordination(ctx, i, &total)
		if isDamaged(err) {
			damaged = append(damaged, damagedObject{i, err})
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		objects = append(objects, object{i, content})
	}
	return objects, damaged, nil
}

// readCoordination reads a condemned list or a lease. total is what those that were read hold: together they are bounded, too.
func (r *Repository) readCoordination(ctx context.Context, i storage.Info, total *int64) ([]byte, error) {
	if err := checkStored(i.Name, i.Size); err != nil {
		return nil, err
	}
	data, err := r.st.Get(ctx, i.Name, 0, -1, nil)
	if err != nil {
		return nil, err
	}
	content, err := r.keys.openObject(i.Name, data)
	if err != nil {
		return nil, err
	}
	if *total += int64(len(content)); *total > maxObject {
		return nil, &DamageError{Kind: DamageSize, Object: i.Name, Detail: "with those before it, it holds more than is read together", Hint: whatToDo(i.Name)}
	}
	return content, nil
}
