package snapshot

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/repo/storage"
)

// ManifestVersion is the newest version of the manifest that this program reads. It writes the oldest one that can say
// what is to be said: 3 where it says what a night did to a source, 2 where a source is a MongoDB, else 1.
const ManifestVersion = 3

// A Manifest says what a snapshot is: its root folder, what it was made of, and how that went.
type Manifest struct {
	Instance   string          `json:"instance"`
	Time       time.Time       `json:"time"` // when the backup began; UTC
	End        time.Time       `json:"end"`
	Host       string          `json:"host,omitempty"`
	Program    string          `json:"program,omitempty"` // name and version
	Root       chunk.ID        `json:"-"`                 // root page of the folder that holds the labels
	Sources    []Source        `json:"sources"`           // ordered by label
	Tags       []string        `json:"tags,omitempty"`    // as of the backup; annotations may have changed them
	Complete   bool            `json:"complete"`          // every source was saved to its end
	Checkpoint bool            `json:"checkpoint,omitempty"`
	Parent     repo.SnapshotID `json:"parent,omitzero"` // the newest one that a source was compared with
	Errors     int64           `json:"errors"`          // entries that could not be saved, or not as they should be
	Files      int64           `json:"files"`           // regular files; a hard-linked one counts once a name
	Dirs       int64           `json:"dirs"`
	Bytes      int64           `json:"bytes"` // of regular files, holes included
	Owners     Owners          `json:"owners,omitzero"`
	Anomalies  []Anomaly       `json:"anomalies,omitempty"` // since version 3: in what it is unlike the snapshots before
}

// SourceKind says what kind of thing a source is. It is part of the format.
type SourceKind string

// The kinds of sources.
const (
	SourceFolder SourceKind = "folder"
	SourceFile   SourceKind = "file"
	SourceTar    SourceKind = "tar"
	SourceStdin  SourceKind = "stdin"
	SourceMongo  SourceKind = "mongo"
)

// A Source is one label of a snapshot.
type Source struct {
	Label  string     `json:"label"`
	Kind   SourceKind `json:"kind"`
	Path   string     `json:"path"` // as the user gave it, for people: invalid UTF-8 is replaced
	Files  int64      `json:"files"`
	Dirs   int64      `json:"dirs"`
	Bytes  int64      `json:"bytes"`
	Errors int64      `json:"errors"`
	Time   time.Time  `json:"time,omitzero"`    // of the machine, when the reading of this source began; UTC
	Mongo  *MongoInfo `json:"mongo,omitempty"`  // since version 2
	Change *Changes   `json:"change,omitempty"` // since version 3: against the snapshot before
}

// Owners are the names of the users and groups that own entries of the snapshot, by number. Numbers without a name are
// missing.
type Owners struct {
	Users  map[uint32]string `json:"users,omitempty"`
	Groups map[uint32]string `json:"groups,omitempty"`
}

// IsZero makes omitzero work.
func (o Owners) IsZero() bool { return len(o.Users) == 0 && len(o.Groups) == 0 }

// manifestJSON is the stored form: the version comes first, ids are hex.
type manifestJSON struct {
	Version int    `json:"version"`
	RootHex string `json:"root"`
	*Manifest
}

// EncodeManifest returns the bytes that a session stores.
func EncodeManifest(m *Manifest) ([]byte, error) {
	c := *m
	c.Time, c.End = c.Time.UTC(), c.End.UTC()
	if c.Sources == nil {
		c.Sources = []Source{}
	}
	data, err := json.Marshal(manifestJSON{c.version(), c.Root.String(), &c})
	if err != nil {
		return nil, fmt.Errorf("encoding the manifest: %w", err)
	}
	return data, nil
}

// version returns the oldest version that has every field that m uses.
func (m *Manifest) version() int {
	v := 1
	for i := range m.Sources {
		if m.Sources[i].Mongo != nil {
			v = max(v, 2)
		}
		if m.Sources[i].Change != nil {
			v = max(v, 3)
		}
	}
	if len(m.Anomalies) > 0 {
		v = max(v, 3)
	}
	return v
}

// DecodeManifest is the inverse of EncodeManifest. It refuses unknown versions and fields: whoever adds a field that an
// older program must not overlook raises the version, whoever adds another one raises it too.
func DecodeManifest(data []byte) (*Manifest, error) {
	var version struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(data, &version); err != nil {
		return nil, fmt.Errorf("decoding a manifest: %w", err)
	}
	if version.Version < 1 || version.Version > ManifestVersion {
		return nil, fmt.Errorf("decoding a manifest: it has version %d, this program reads 1 to %d", version.Version, ManifestVersion)
	}
	m := manifestJSON{Manifest: &Manifest{}}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&m); err != nil {
		return nil, fmt.Errorf("decoding a manifest: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("decoding a manifest: there is something after its end")
	}
	if m.Manifest == nil {
		return nil, errors.New("decoding a manifest: it is empty")
	}
	root, err := chunk.ParseID(m.RootHex)
	if err != nil {
		return nil, fmt.Errorf("decoding a manifest: the root: %w", err)
	}
	m.Root = root
	if need := m.version(); need > version.Version {
		return nil, fmt.Errorf("decoding a manifest: it has version %d and a field of version %d", version.Version, need)
	}
	return m.Manifest, nil
}

// Source returns the source with the given label, or nil.
func (m *Manifest) Source(label string) *Source {
	for i := range m.Sources {
		if m.Sources[i].Label == label {
			return &m.Sources[i]
		}
	}
	return nil
}

// A Snapshot is a manifest, what its object's name says, and what was noted about it later.
type Snapshot struct {
	Ref repo.SnapshotRef
	*Manifest
	Notes []repo.Annotation // oldest first
}

// A Filter chooses snapshots. The zero Filter takes all.
type Filter struct {
	Instance string // "" = of all instances
}

// List returns the snapshots that the filter takes, checkpoints and incomplete ones included, oldest first. Those whose
// manifest cannot be read are left out and named by the error, which comes beside the others.
func List(ctx context.Context, r *repo.Repository, f Filter) ([]*Snapshot, error) {
	refs, err := r.Snapshots(ctx)
	if err != nil {
		return nil, err
	}
	if f.Instance != "" {
		hash := r.InstanceHash(f.Instance)
		refs = slices.DeleteFunc(refs, func(ref repo.SnapshotRef) bool { return ref.Instance != hash })
	}
	return Load(ctx, r, refs)
}

// Load reads the manifests of refs and what was noted about them. Errors are as of List.
func Load(ctx context.Context, r *repo.Repository, refs []repo.SnapshotRef) ([]*Snapshot, error) {
	if len(refs) == 0 {
		return nil, nil
	}
	notes, err := r.Annotations(ctx)
	if err != nil {
		return nil, err
	}
	var (
		mu    sync.Mutex
		snaps []*Snapshot
		bad   []error
	)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for _, ref := range refs {
		g.Go(func() error {
			m, err := loadManifest(gctx, r, ref)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case errors.Is(err, storage.ErrNotExist): // forgotten and swept meanwhile
			case err != nil:
				bad = append(bad, fmt.Errorf("snapshot %s: %w", ref.ID.Short(), err))
			default:
				snaps = append(snaps, &Snapshot{Ref: ref, Manifest: m, Notes: notes[ref.ID]})
			}
			return gctx.Err()
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	slices.SortFunc(snaps, func(a, b *Snapshot) int {
		return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(a.Ref.ID.String(), b.Ref.ID.String()))
	})
	return snaps, errors.Join(bad...)
}

func loadManifest(ctx context.Context, r *repo.Repository, ref repo.SnapshotRef) (*Manifest, error) {
	data, err := r.Manifest(ctx, ref)
	if err != nil {
		return nil, err
	}
	m, err := DecodeManifest(data)
	if err == nil && m.Finished() {
		r.NoteComplete(ref, m.Instance, false)
	}
	return m, err
}

// Finished reports whether a snapshot is complete and holds what was to be saved: no checkpoint, and no capture of an oplog.
// No rule ever forgets the newest one of an instance.
func (m *Manifest) Finished() bool { return m.Complete && !m.Checkpoint && !m.HoldsOplog() }
