package snapshot

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/repo/storage"
)

// A Spec is a snapshot as the user names it: [ID | latest | latest~N][:PATH].
type Spec struct {
	ID      string // prefix of an id, lower case; "" = latest
	Back    int    // N of latest~N
	Path    string // cleaned; "" = everything
	HasPath bool   // a path was given, although it may be "" when cleaned
}

func (s Spec) String() string {
	text := s.ID
	if text == "" {
		text = "latest"
		if s.Back > 0 {
			text += "~" + strconv.Itoa(s.Back)
		}
	}
	if s.HasPath {
		text += ":" + s.Path
	}
	return text
}

// A SpecError says that the name of a snapshot cannot be understood: a usage error.
type SpecError struct {
	Text   string
	Reason string
}

func (e *SpecError) Error() string {
	return fmt.Sprintf("%q names no snapshot: %s; write an id or its first digits, latest or latest~2, and :PATH behind it "+
		"for a part of it", e.Text, e.Reason)
}

// ParseSpec reads a Spec. "" is latest. The error is a *SpecError or a *PathError.
func ParseSpec(text string) (Spec, error) {
	var s Spec
	name, path, hasPath := strings.Cut(text, ":")
	if hasPath {
		clean, err := CleanPath(path)
		if err != nil {
			return s, err
		}
		s.Path, s.HasPath = clean, true
	}
	base, back, hasBack := strings.Cut(name, "~")
	switch {
	case hasBack && base == "latest":
		n, err := strconv.Atoi(back)
		if err != nil || n < 0 || back[0] == '+' {
			return s, &SpecError{text, "behind ~ belongs a number"}
		}
		s.Back = n
	case name == "" || name == "latest":
	case len(name) > 32:
		return s, &SpecError{text, "an id has 32 digits"}
	default:
		s.ID = strings.ToLower(name)
		if strings.Trim(s.ID, "0123456789abcdef") != "" {
			return s, &SpecError{text, "it is neither an id (hexadecimal digits) nor latest"}
		}
	}
	return s, nil
}

// A Selector narrows which snapshots a Spec may mean.
type Selector struct {
	Instance string    // only snapshots of this one; "" = see Own
	Own      string    // the instance of this machine: latest is its, where several share the repository
	At       time.Time // only snapshots at or before; zero = all
	// Incomplete makes latest count checkpoints and incomplete snapshots, too.
	Incomplete bool
}

// A NotFoundError says that no snapshot is meant by what the user wrote.
type NotFoundError struct {
	Spec   string
	Reason string
	Hint   string // may be empty
}

func (e *NotFoundError) Error() string { return fmt.Sprintf("no snapshot %s: %s", e.Spec, e.Reason) }

// An AmbiguousError says that the first digits of an id are those of several snapshots.
type AmbiguousError struct {
	Prefix  string
	Matches []*Snapshot // oldest first
}

func (e *AmbiguousError) Error() string {
	return fmt.Sprintf("%q is the beginning of %d snapshots' ids", e.Prefix, len(e.Matches))
}

// An InstanceError says that several instances share the repository and none was chosen.
type InstanceError struct {
	Instances []string // sorted
}

func (e *InstanceError) Error() string {
	return fmt.Sprintf("%d instances share the repository (%s), and none was chosen", len(e.Instances), strings.Join(e.Instances, ", "))
}

// Resolve finds the one snapshot that spec means, and the path behind it. latest counts complete snapshots only, unless
// sel says otherwise; an id may be that of any snapshot. Notes of the snapshot are not read.
//
// Errors: *SpecError, *PathError, *NotFoundError, *AmbiguousError, *InstanceError, and those of the repository.
func Resolve(ctx context.Context, r *repo.Repository, spec string, sel Selector) (*Snapshot, string, error) {
	s, err := ParseSpec(spec)
	if err != nil {
		return nil, "", err
	}
	refs, err := r.Snapshots(ctx)
	if err != nil {
		return nil, "", err
	}
	var snap *Snapshot
	if s.ID != "" {
		snap, err = resolveID(ctx, r, refs, s, sel)
	} else {
		snap, err = resolveLatest(ctx, r, refs, s, sel)
	}
	return snap, s.Path, err
}

// narrow applies the selector's instance and time.
func (sel Selector) narrow(r *repo.Repository, refs []repo.SnapshotRef) []repo.SnapshotRef {
	refs = slices.Clone(refs)
	if sel.Instance != "" {
		hash := r.InstanceHash(sel.Instance)
		refs = slices.DeleteFunc(refs, func(ref repo.SnapshotRef) bool { return ref.Instance != hash })
	}
	if !sel.At.IsZero() {
		refs = slices.DeleteFunc(refs, func(ref repo.SnapshotRef) bool { return ref.Time.After(sel.At) })
	}
	return refs
}

func resolveID(ctx context.Context, r *repo.Repository, all []repo.SnapshotRef, s Spec, sel Selector) (*Snapshot, error) {
	matches := MatchID(sel.narrow(r, all), s.ID)
	switch len(matches) {
	case 1:
		return loadSnapshot(ctx, r, matches[0])
	case 0:
		e := &NotFoundError{Spec: s.ID, Reason: "no id begins with these digits", Hint: "wtsnap snapshots lists what is there"}
		if len(MatchID(all, s.ID)) > 0 {
			e.Reason = "the one with this id is of another instance, or was made later than the time asked for"
		} else if forgotten, err := r.Forgotten(ctx); err != nil {
			return nil, err
		} else if len(MatchID(forgotten, s.ID)) > 0 {
			e.Reason, e.Hint = "it was forgotten", "wtsnap undelete "+s.ID+" brings it back, unless a prune has freed its space"
		}
		return nil, e
	}
	snaps, err := Load(ctx, r, matches)
	if len(snaps) == 0 && err != nil {
		return nil, err
	}
	return nil, &AmbiguousError{Prefix: s.ID, Matches: snaps}
}

// MatchID returns the snapshots whose ids begin with the given digits.
func MatchID(refs []repo.SnapshotRef, prefix string) []repo.SnapshotRef {
	var matches []repo.SnapshotRef
	for _, ref := range refs {
		if strings.HasPrefix(ref.ID.String(), prefix) {
			matches = append(matches, ref)
		}
	}
	return matches
}

func loadSnapshot(ctx context.Context, r *repo.Repository, ref repo.SnapshotRef) (*Snapshot, error) {
	m, err := loadManifest(ctx, r, ref)
	if err != nil {
		return nil, fmt.Errorf("snapshot %s: %w", ref.ID.Short(), err)
	}
	return &Snapshot{Ref: ref, Manifest: m}, nil
}

// resolveLatest reads manifests from the newest on until one is the one: mostly the first.
func resolveLatest(ctx context.Context, r *repo.Repository, all []repo.SnapshotRef, s Spec, sel Selector) (*Snapshot, error) {
	if len(all) == 0 {
		return nil, &NotFoundError{Spec: s.String(), Reason: "the repository has none yet", Hint: "wtsnap backup makes one"}
	}
	if sel.Instance == "" {
		instance, err := chooseInstance(ctx, r, all, sel.Own)
		if err != nil {
			return nil, err
		}
		sel.Instance = instance
	}
	refs := sel.narrow(r, all)
	found, incomplete := 0, 0
	for len(refs) > 0 {
		same, err := loadNewest(ctx, r, &refs)
		if err != nil {
			return nil, err
		}
		for _, snap := range slices.Backward(same) {
			if snap.HoldsOplog() {
				continue
			}
			if !snap.Complete && !sel.Incomplete {
				incomplete++
				continue
			}
			if found == s.Back {
				return snap, nil
			}
			found++
		}
	}
	e := &NotFoundError{Spec: s.String(), Hint: "wtsnap snapshots lists what is there"}
	of := "instance " + sel.Instance + " has "
	switch {
	case found > 0:
		e.Reason = fmt.Sprintf("%s%d complete", of, found)
	case incomplete > 0:
		e.Reason = fmt.Sprintf("%sno complete one, but %d incomplete", of, incomplete)
		e.Hint = "name an incomplete one by its id: wtsnap snapshots lists them"
	default:
		e.Reason = of + "none"
	}
	if !sel.At.IsZero() {
		e.Reason += " at or before " + sel.At.Format("2006-01-02 15:04:05 MST")
	}
	return nil, e
}

// loadNewest takes the newest snapshot off the list, with those of the same second, and returns them in their order:
// mostly one.
func loadNewest(ctx context.Context, r *repo.Repository, refs *[]repo.SnapshotRef) ([]*Snapshot, error) {
	list := *refs
	first := len(list) - 1
	for first > 0 && list[first-1].Time.Equal(list[first].Time) {
		first--
	}
	*refs = list[:first]
	var snaps []*Snapshot
	for _, ref := range list[first:] {
		snap, err := loadSnapshot(ctx, r, ref)
		if errors.Is(err, storage.ErrNotExist) {
			continue // forgotten and swept meanwhile
		}
		if err != nil {
			return nil, err
		}
		snaps = append(snaps, snap)
	}
	SortSnapshots(snaps)
	return snaps, nil
}

// SortSnapshots sorts snapshots, oldest first. Times are whole seconds; of two in the same one, that which was compared
// with the other is the newer.
func SortSnapshots(snaps []*Snapshot) {
	type place struct {
		time  int64
		depth int
	}
	byID := map[repo.SnapshotID]*Snapshot{}
	for _, s := range snaps {
		byID[s.Ref.ID] = s
	}
	places := map[*Snapshot]place{}
	for _, s := range snaps {
		depth := 0 // ancestors in the same second
		for p := byID[s.Parent]; p != nil && p.Time.Equal(s.Time) && depth < len(snaps); p = byID[p.Parent] {
			depth++
		}
		places[s] = place{s.Time.UnixNano(), depth}
	}
	slices.SortStableFunc(snaps, func(a, b *Snapshot) int {
		return cmp.Or(cmp.Compare(places[a].time, places[b].time), cmp.Compare(places[a].depth, places[b].depth),
			cmp.Compare(a.Ref.ID.String(), b.Ref.ID.String()))
	})
}

// chooseInstance returns the instance whose snapshots latest means: the only one, or this machine's own.
func chooseInstance(ctx context.Context, r *repo.Repository, refs []repo.SnapshotRef, own string) (string, error) {
	newest := map[string]repo.SnapshotRef{} // by the hash of the instance
	for _, ref := range refs {
		newest[ref.Instance] = ref
	}
	if own != "" {
		if _, ok := newest[r.InstanceHash(own)]; ok || len(newest) > 1 {
			return own, nil
		}
	}
	var names []string
	for _, ref := range newest {
		snap, err := loadSnapshot(ctx, r, ref)
		if err != nil {
			return "", err
		}
		names = append(names, snap.Instance)
	}
	if len(names) == 1 {
		return names[0], nil
	}
	slices.Sort(names)
	return "", &InstanceError{Instances: names}
}
