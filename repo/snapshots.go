package repo

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/whole-tale/wtsnap/repo/storage"
)

const (
	snapshotsDir   = "snapshots/"
	forgottenDir   = "forgotten/"
	annotationsDir = "annotations/"
	timeLayout     = "20060102T150405Z"
)

// SnapshotID names a snapshot: 16 random bytes.
type SnapshotID [16]byte

// String returns 32 hex digits.
func (id SnapshotID) String() string { return hex.EncodeToString(id[:]) }

// Short returns the 8 hex digits that are shown to people.
func (id SnapshotID) Short() string { return hex.EncodeToString(id[:4]) }

// IsZero reports whether id names nothing.
func (id SnapshotID) IsZero() bool { return id == SnapshotID{} }

// ParseSnapshotID is the inverse of String.
func ParseSnapshotID(s string) (SnapshotID, error) {
	raw, err := hex.DecodeString(s)
	if err != nil || len(raw) != 16 {
		return SnapshotID{}, fmt.Errorf("%q is not a snapshot id of 32 hex digits", s)
	}
	return SnapshotID(raw), nil
}

// MarshalText and UnmarshalText make the id a hex string in JSON.
func (id SnapshotID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText is the inverse of MarshalText.
func (id *SnapshotID) UnmarshalText(text []byte) (err error) {
	*id, err = ParseSnapshotID(string(text))
	return err
}

// SnapshotRef is what an object's name says about a snapshot.
type SnapshotRef struct {
	ID       SnapshotID
	Instance string    // a keyed hash of the instance's name, 32 hex digits
	Time     time.Time // UTC, to the second
	Size     int64     // of the manifest object, bytes
}

func (s SnapshotRef) base() string {
	return s.Instance + "/" + s.Time.UTC().Format(timeLayout) + "-" + s.ID.String()
}

// Name is the name of the snapshot's object.
func (s SnapshotRef) Name() string { return snapshotsDir + s.base() }

func (s SnapshotRef) forgottenName() string { return forgottenDir + s.base() }

// canonicalName is the name that an object is sealed for: a forgotten manifest stays the same bytes.
func canonicalName(name string) string {
	if rest, ok := strings.CutPrefix(name, forgottenDir); ok {
		return snapshotsDir + rest
	}
	return name
}

func parseSnapshotName(i storage.Info) (SnapshotRef, error) {
	bad := &DamageError{Kind: DamageDecode, Object: i.Name, Detail: "is not the name of a snapshot", Hint: "remove it if you put it there"}
	dir, file := path.Split(i.Name)
	instance := path.Base(dir)
	stamp, id, ok := strings.Cut(file, "-")
	if raw, err := hex.DecodeString(instance); err != nil || len(raw) != 16 || !ok {
		return SnapshotRef{}, bad
	}
	t, err := time.Parse(timeLayout, stamp)
	if err != nil {
		return SnapshotRef{}, bad
	}
	sid, err := ParseSnapshotID(id)
	if err != nil {
		return SnapshotRef{}, bad
	}
	ref := SnapshotRef{ID: sid, Instance: instance, Time: t, Size: i.Size}
	if canonicalName(i.Name) != ref.Name() {
		return SnapshotRef{}, bad // it would be looked for under another name, and not be found
	}
	return ref, nil
}

// InstanceHash is what stands for an instance in SnapshotRef.Instance.
func (r *Repository) InstanceHash(instance string) string { return r.keys.instanceName(instance) }

// Snapshots lists the snapshots of all instances, oldest first.
func (r *Repository) Snapshots(ctx context.Context) ([]SnapshotRef, error) {
	refs, err := r.listSnapshots(ctx, snapshotsDir)
	if err == nil && r.witness != nil {
		r.witness.Listed(ctx, slices.Clip(refs))
	}
	return refs, err
}

// Forgotten lists the snapshots that were forgotten and not yet swept, oldest first.
func (r *Repository) Forgotten(ctx context.Context) ([]SnapshotRef, error) {
	return r.listSnapshots(ctx, forgottenDir)
}

func (r *Repository) listSnapshots(ctx context.Context, dir string) ([]SnapshotRef, error) {
	var refs []SnapshotRef
	err := r.cached.List(ctx, dir, func(i storage.Info) error {
		ref, err := parseSnapshotName(i)
		refs = append(refs, ref)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listing snapshots: %w", err)
	}
	slices.SortFunc(refs, func(a, b SnapshotRef) int {
		return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(a.ID.String(), b.ID.String()))
	})
	return refs, nil
}

// Manifest reads the payload of a snapshot, forgotten ones included.
func (r *Repository) Manifest(ctx context.Context, ref SnapshotRef) ([]byte, error) {
	if err := checkStored(ref.Name(), ref.Size); err != nil {
		return nil, err
	}
	data, err := r.readObject(ctx, ref.Name())
	if errors.Is(err, storage.ErrNotExist) {
		data, err = r.readObject(ctx, ref.forgottenName())
	}
	if errors.Is(err, storage.ErrNotExist) { // it was forgotten at the first look, and brought back before the second
		data, err = r.readObject(ctx, ref.Name())
	}
	return data, err
}

// snapshotRef names the snapshot of a payload.
func (r *Repository) snapshotRef(p *Payload) (SnapshotRef, error) {
	id := p.ID
	if id.IsZero() {
		raw, err := randomID()
		if err != nil {
			return SnapshotRef{}, err
		}
		id = raw
	}
	return SnapshotRef{ID: id, Instance: r.keys.instanceName(p.Instance), Time: p.Time.UTC().Truncate(time.Second)}, nil
}

// PutAside moves a manifest that cannot be read to the forgotten ones, as it is: there it hinders nobody. Where a good copy is
// among these, as after a forget that was killed, that one stays.
func (r *Repository) PutAside(ctx context.Context, ref SnapshotRef) error {
	data, err := r.st.Get(ctx, ref.Name(), 0, -1, nil)
	if err != nil {
		return fmt.Errorf("reading %s: %w", ref.Name(), err)
	}
	if _, err := r.keys.openObject(ref.Name(), data); err == nil {
		return fmt.Errorf("%s can be read", ref.Name())
	}
	switch _, err := r.readObject(ctx, ref.forgottenName()); {
	case err == nil:
	case !isDamaged(err) && !errors.Is(err, storage.ErrNotExist):
		return err
	default:
		if _, err := r.cached.Put(ctx, ref.forgottenName(), data); err != nil {
			return fmt.Errorf("storing %s: %w", ref.forgottenName(), err)
		}
	}
	if err := r.cached.Delete(ctx, ref.Name()); err != nil {
		return fmt.Errorf("removing %s: %w", ref.Name(), err)
	}
	return nil
}

// Aside lists the manifests among the forgotten ones that cannot be read. Nobody has forgotten them: a repair has put them
// aside.
func (r *Repository) Aside(ctx context.Context) (aside []SnapshotRef, err error) {
	refs, err := r.Forgotten(ctx)
	if err != nil {
		return nil, err
	}
	for _, ref := range refs {
		var damage *DamageError
		_, err := r.readObject(ctx, ref.forgottenName())
		switch {
		case errors.As(err, &damage):
			aside = append(aside, ref)
		case err != nil && !errors.Is(err, storage.ErrNotExist): // swept, or brought back
			return nil, err
		}
	}
	return aside, nil
}

// DropAside removes what PutAside has put aside, once the manifest is there again. Where somebody has forgotten the snapshot
// meanwhile, the manifest among the forgotten ones is that one.
func (r *Repository) DropAside(ctx context.Context, ref SnapshotRef) error {
	_, err := r.readObject(ctx, ref.forgottenName())
	if err == nil || errors.Is(err, storage.ErrNotExist) {
		return nil
	}
	if !isDamaged(err) {
		return err
	}
	if _, err := r.Manifest(ctx, ref); err != nil {
		return err
	}
	if err := r.cached.Delete(ctx, ref.forgottenName()); err != nil {
		return fmt.Errorf("removing the damaged %s: %w", ref.forgottenName(), err)
	}
	return nil
}

// move copies a manifest as it is to another name and then removes the first one. A move that was done
// before is no error. Where sure fails, the copy is taken back.
func (r *Repository) move(ctx context.Context, from, to string, sure func() error) error {
	data, err := r.cached.Get(ctx, from, 0, -1, nil)
	if errors.Is(err, storage.ErrNotExist) {
		if _, serr := r.st.Stat(ctx, to); serr == nil {
			return nil
		}
	}
	if err != nil {
		return fmt.Errorf("reading %s: %w", from, err)
	}
	if _, err := r.keys.openObject(from, data); err != nil {
		return err
	}
	if _, err = r.cached.Put(ctx, to, data); err != nil {
		err = fmt.Errorf("storing %s: %w", to, err)
	}
	if lost := sure(); lost != nil { // after a failure too: it may be stored
		return errors.Join(lost, err, r.cached.Delete(context.WithoutCancel(ctx), to))
	}
	if err != nil {
		return err
	}
	if err := r.cached.Delete(ctx, from); err != nil {
		return fmt.Errorf("removing %s: %w", from, err)
	}
	return nil
}

// smallAhead is how many small objects are read before they are used: they cost a request each.
var smallAhead = ahead{transfers: loadWorkers, bytes: 16 << 20}

// eachManifest reads manifests, several at a time, and calls fn for each in their order. fn's error ends it.
func (r *Repository) eachManifest(ctx context.Context, refs []SnapshotRef, fn func(ref SnapshotRef, data []byte, err error) error) error {
	errs := make([]error, len(refs))
	get := func(ctx context.Context, i int) (data []byte, err error) {
		data, errs[i] = r.Manifest(ctx, refs[i])
		return data, ctx.Err()
	}
	const about = 4 << 10 // bytes of a manifest
	return inOrder(ctx, len(refs), smallAhead, func(int) int64 { return about }, get,
		func(i int, data []byte) error { return fn(refs[i], data, errs[i]) })
}

// Forget takes snapshots out of the list. Until a prune sweeps their data, Undelete brings them back.
func (r *Repository) Forget(ctx context.Context, refs []SnapshotRef) error {
	for _, ref := range refs {
		if err := r.move(ctx, ref.Name(), ref.forgottenName(), func() error { return nil }); err != nil {
			return err
		}
	}
	return nil
}

// Undelete brings forgotten snapshots back. It is a writer: while its lease is there, nothing is swept.
// ErrBusy where a prune is at work.
func (r *Repository) Undelete(ctx context.Context, refs []SnapshotRef) (err error) {
	l, err := r.newLease(ctx, leaseWriter)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.remove(context.WithoutCancel(ctx))) }()
	if err := l.alone(ctx); err != nil {
		return err
	}
	for _, ref := range refs {
		if err := l.check(); err != nil {
			return err
		}
		// A machine that slept between the check and the copy may have slept through a sweep.
		if err := r.move(ctx, ref.forgottenName(), ref.Name(), l.check); errors.Is(err, storage.ErrNotExist) {
			return fmt.Errorf("%s: %w", ref.ID.Short(), ErrSwept)
		} else if err != nil {
			return err
		}
	}
	return nil
}

// Annotation is a note on a snapshot: what is added to it after it was made, such as tags.
type Annotation struct {
	Time time.Time // when it was made; orders the notes of a snapshot
	Data []byte    // opaque to this package
	// Damage says why it cannot be read: there is no Data, and nobody knows what it says. Else nil.
	Damage *DamageError
}

// Annotate adds a note to a snapshot. Notes are never changed; the newest decides.
func (r *Repository) Annotate(ctx context.Context, id SnapshotID, data []byte) error {
	return r.CopyAnnotation(ctx, id, Annotation{Time: time.Now(), Data: data})
}

// CopyAnnotation adds a note that was made earlier, in another repository.
func (r *Repository) CopyAnnotation(ctx context.Context, id SnapshotID, a Annotation) error {
	note, err := randomID()
	if err != nil {
		return err
	}
	content := binary.LittleEndian.AppendUint64(nil, uint64(a.Time.UnixNano()))
	return r.writeObject(ctx, annotationsDir+id.String()+"-"+hex.EncodeToString(note[:]), append(content, a.Data...))
}

// Annotations reads all notes, by snapshot, in the order of their times. One that cannot be read is there with Damage, at the
// time when the backend says that it was stored, or after all others where it does not say.
func (r *Repository) Annotations(ctx context.Context) (map[SnapshotID][]Annotation, error) {
	infos, err := r.annotationInfos(ctx)
	if err != nil {
		return nil, err
	}
	notes := map[SnapshotID][]Annotation{}
	for id, list := range infos {
		for _, info := range list {
			a, err := r.annotation(ctx, info)
			if errors.Is(err, storage.ErrNotExist) {
				continue // swept meanwhile
			}
			if damage := (*DamageError)(nil); errors.As(err, &damage) {
				if damage.Hint == "" {
					damage.Hint = whatToDo(info.Name)
				}
				a, err = Annotation{Time: info.ModTime.UTC(), Damage: damage}, nil
				if info.ModTime.IsZero() {
					a.Time = time.Unix(1<<40, 0).UTC()
				}
				if r.onDamage != nil {
					r.onDamage(damage)
				}
			}
			if err != nil {
				return nil, err
			}
			notes[id] = append(notes[id], a)
		}
		slices.SortStableFunc(notes[id], func(a, b Annotation) int { return a.Time.Compare(b.Time) })
	}
	return notes, nil
}

// annotation reads a note.
func (r *Repository) annotation(ctx context.Context, info storage.Info) (Annotation, error) {
	name := info.Name
	if err := checkStored(name, info.Size); err != nil {
		return Annotation{}, err
	}
	data, err := r.readObject(ctx, name)
	if err != nil {
		return Annotation{}, err
	}
	if len(data) < 8 {
		return Annotation{}, &DamageError{Kind: DamageDecode, Object: name, Detail: "is too short"}
	}
	return Annotation{Time: time.Unix(0, int64(binary.LittleEndian.Uint64(data))).UTC(), Data: data[8:]}, nil
}

// annotationInfos lists the notes' objects by snapshot, in the order of their names. What has another name is no note, as
// Check says.
func (r *Repository) annotationInfos(ctx context.Context) (map[SnapshotID][]storage.Info, error) {
	infos := map[SnapshotID][]storage.Info{}
	err := r.cached.List(ctx, annotationsDir, func(i storage.Info) error {
		head, _, _ := strings.Cut(path.Base(i.Name), "-")
		if id, err := ParseSnapshotID(head); err == nil {
			infos[id] = append(infos[id], i)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("listing annotations: %w", err)
	}
	for _, list := range infos {
		slices.SortFunc(list, func(a, b storage.Info) int { return cmp.Compare(a.Name, b.Name) })
	}
	return infos, nil
}
