package snapshot

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/whole-tale/wtsnap/repo"
)

// noteVersion is the version of the notes that this program writes, and the newest that it reads.
const noteVersion = 1

// note is one annotation: what it changes. All that is not set stays as it was.
type note struct {
	Version int      `json:"version"`
	Add     []string `json:"add_tags,omitempty"`
	Remove  []string `json:"remove_tags,omitempty"`
	Hold    *Hold    `json:"hold,omitempty"`
	Release bool     `json:"release,omitempty"` // ends a hold
	// ReleaseAnomaly says that a person finds the snapshot fine; Why is what the person said.
	ReleaseAnomaly bool   `json:"release_anomaly,omitempty"`
	Why            string `json:"why,omitempty"`
}

// A Hold keeps a snapshot from being forgotten by a policy or without being asked for.
type Hold struct {
	Reason string    `json:"reason,omitempty"`
	Since  time.Time `json:"since"`
	Until  time.Time `json:"until,omitzero"` // zero: until it is released
}

// Active reports whether h holds at the time now. A nil Hold does not.
func (h *Hold) Active(now time.Time) bool {
	return h != nil && (h.Until.IsZero() || now.Before(h.Until))
}

func (h *Hold) reason(zone *time.Location) string {
	text := "held"
	if !h.Until.IsZero() {
		text += " until " + h.Until.In(zone).Format("2006-01-02 15:04")
	}
	if h.Reason != "" {
		text += ": " + h.Reason
	}
	return text
}

// decodeNote reads a note; one of a newer version is an error.
func decodeNote(data []byte) (note, error) {
	var n note
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&n); err != nil {
		return n, err
	}
	if n.Version != noteVersion {
		return n, fmt.Errorf("a note of version %d", n.Version)
	}
	return n, nil
}

// CurrentTags returns the snapshot's tags, with what was added and removed since the backup, sorted.
func (s *Snapshot) CurrentTags() []string {
	tags := slices.Clone(s.Tags)
	for _, a := range s.Notes {
		n, err := decodeNote(a.Data)
		if err != nil {
			continue
		}
		tags = slices.DeleteFunc(tags, func(tag string) bool { return slices.Contains(n.Remove, tag) })
		tags = append(tags, n.Add...)
	}
	slices.Sort(tags)
	return slices.Compact(tags)
}

// Hold returns the newest hold, which may be over, or nil where there is none. A note that cannot be read may be a hold,
// so it counts as one.
func (s *Snapshot) Hold() *Hold {
	var hold *Hold
	for _, a := range s.Notes {
		n, err := decodeNote(a.Data)
		switch {
		case a.Damage != nil:
			hold = &Hold{Reason: "it has a damaged note, which may have been a hold", Since: a.Time}
		case err != nil:
			hold = &Hold{Reason: "it has a note that this version of wtsnap cannot read", Since: a.Time}
		case n.Hold != nil:
			hold = n.Hold
		case n.Release:
			hold = nil
		}
	}
	return hold
}

// A TagError says that a tag cannot be one: a usage error.
type TagError struct {
	Tag    string
	Reason string
}

func (e *TagError) Error() string { return fmt.Sprintf("tag %q: %s", e.Tag, e.Reason) }

// CheckTag returns nil for a valid tag: up to 128 bytes of UTF-8 without spaces, commas and control characters.
func CheckTag(tag string) error {
	switch {
	case tag == "":
		return &TagError{tag, "it is empty"}
	case len(tag) > 128:
		return &TagError{tag, "it is longer than 128 bytes"}
	case !utf8.ValidString(tag):
		return &TagError{tag, "it is not UTF-8"}
	case strings.ContainsFunc(tag, func(r rune) bool { return r == ',' || unicode.IsSpace(r) || !unicode.IsPrint(r) }):
		return &TagError{tag, "it contains a space, a comma or a control character"}
	}
	return nil
}

// ChangeTags adds tags to a snapshot and removes others. Adding what is there and removing what is not change nothing.
func ChangeTags(ctx context.Context, r *repo.Repository, id repo.SnapshotID, add, remove []string) error {
	for _, tag := range slices.Concat(add, remove) {
		if err := CheckTag(tag); err != nil {
			return err
		}
	}
	if len(add)+len(remove) == 0 {
		return errors.New("no tag to add or to remove")
	}
	return annotate(ctx, r, id, note{Add: add, Remove: remove})
}

// SetHold holds a snapshot, in place of an earlier hold. until may be zero.
func SetHold(ctx context.Context, r *repo.Repository, id repo.SnapshotID, reason string, until time.Time) error {
	return annotate(ctx, r, id, note{Hold: &Hold{Reason: reason, Since: time.Now().UTC().Truncate(time.Second), Until: until.UTC()}})
}

// ReleaseAnomaly says that a snapshot which is unlike those before it is fine: it holds nothing any more.
func ReleaseAnomaly(ctx context.Context, r *repo.Repository, id repo.SnapshotID, why string) error {
	return annotate(ctx, r, id, note{ReleaseAnomaly: true, Why: why})
}

// ReleaseHold ends a snapshot's hold.
func ReleaseHold(ctx context.Context, r *repo.Repository, id repo.SnapshotID) error {
	return annotate(ctx, r, id, note{Release: true})
}

// copyNote adds a note of one snapshot to another. A damaged one becomes what it counts for, a hold.
func copyNote(ctx context.Context, r *repo.Repository, id repo.SnapshotID, a repo.Annotation) error {
	if a.Damage != nil {
		return SetHold(ctx, r, id, "a note of the snapshot that it was made of is damaged, and may have been a hold", time.Time{})
	}
	return r.CopyAnnotation(ctx, id, a)
}

func annotate(ctx context.Context, r *repo.Repository, id repo.SnapshotID, n note) error {
	n.Version = noteVersion
	data, err := json.Marshal(n)
	if err != nil {
		return err
	}
	return r.Annotate(ctx, id, data)
}
