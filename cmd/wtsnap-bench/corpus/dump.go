package corpus

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"
)

// What a night does to the documents of a collection, in natural order.
const (
	updatedPart  = 0.01
	insertedPart = 0.005
	deletedPart  = 0.002
)

// Dump is a folder as mongodump writes it: DIR/girder/COLLECTION.bson with its metadata.
type Dump struct {
	dir   string
	seed  uint64
	size  Size
	words []string
}

// NewDump plans a dump in dir; Make writes it.
func NewDump(dir string, seed uint64, size Size) *Dump {
	return &Dump{dir: dir, seed: seed, size: size, words: vocabulary(seed)}
}

// Name is the label under which the corpus is backed up.
func (d *Dump) Name() string { return "dump" }

// Dir is where the corpus lies.
func (d *Dump) Dir() string { return d.dir }

// Part is empty: nothing of a dump is restored alone.
func (d *Dump) Part() string { return "" }

// collection is how many documents of about how many bytes a collection has.
type collection struct {
	name  string
	part  float64 // of the dump's bytes
	bytes int     // of a document
	write func(*fields)
}

func collections() []collection {
	return []collection{
		{"assetstore", 0.00001, 105, writeAssetstore},
		{"user", 0.004, 510, writeUser},
		{"group", 0.001, 405, writeGroup},
		{"collection", 0.001, 370, writeCollection},
		{"folder", 0.14, 435, writeFolder},
		{"item", 0.36, 395, writeItem},
		{"file", 0.33, 393, writeFile},
		{"job", 0.15, 1440, writeJob},
		{"token", 0.01, 184, writeToken},
	}
}

// Make writes the dump of the evening before the first night. The folder must not exist yet.
func (d *Dump) Make(ctx context.Context) error {
	if err := os.Mkdir(d.dir, 0o755); err != nil {
		return err
	}
	return d.write(ctx, 0)
}

// Night writes the dump of a night, counted from 1, over that of the night before, which is kept in the folder keep.
func (d *Dump) Night(ctx context.Context, night int, keep string) ([]Change, error) {
	if keep != "" {
		if err := os.MkdirAll(keep, 0o755); err != nil {
			return nil, err
		}
	}
	var changes []Change
	for _, c := range collections() {
		change := Change{Path: filepath.Join("girder", c.name+".bson")}
		if keep != "" {
			change.Old = filepath.Join(keep, c.name+".bson")
			if err := os.Rename(filepath.Join(d.dir, change.Path), change.Old); err != nil {
				return nil, err
			}
		}
		changes = append(changes, change)
	}
	return changes, d.write(ctx, night)
}

func (d *Dump) write(ctx context.Context, night int) error {
	if err := os.MkdirAll(filepath.Join(d.dir, "girder"), 0o755); err != nil {
		return err
	}
	for _, c := range collections() {
		path := filepath.Join(d.dir, "girder", c.name)
		if err := errors.Join(d.writeCollection(ctx, c, path+".bson", night), d.writeMetadata(c, path+".metadata.json")); err != nil {
			return fmt.Errorf("dump of %s: %w", c.name, err)
		}
		for _, suffix := range []string{".bson", ".metadata.json"} {
			if err := setTime(path+suffix, nightTime(night)); err != nil {
				return err
			}
		}
	}
	return errors.Join(setTime(filepath.Join(d.dir, "girder"), nightTime(night)), setTime(d.dir, epoch()))
}

func (d *Dump) writeMetadata(c collection, path string) error {
	uuid := make([]byte, 16)
	binary.BigEndian.PutUint64(uuid, stream(d.seed, "uuid %s", c.name).Uint64())
	metadata := fmt.Sprintf(`{"indexes":[{"v":{"$numberInt":"2"},"key":{"_id":{"$numberInt":"1"}},"name":"_id_"}],`+
		`"uuid":"%s","collectionName":"%s","type":"collection"}`, hex.EncodeToString(uuid), c.name)
	return os.WriteFile(path, []byte(metadata), 0o644)
}

// writeCollection plays all nights for each document, which costs little and needs no memory.
func (d *Dump) writeCollection(ctx context.Context, c collection, path string, night int) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	w := bufio.NewWriterSize(f, 1<<20)
	first := max(int(float64(d.size.Dump)*c.part)/c.bytes, 2)
	count := first
	for range night {
		count += max(int(float64(count)*insertedPart), 1)
	}
	events := stream(d.seed, "events %s", c.name).Uint64()
	doc := &fields{dump: d}
	for i, born, next := 0, 0, first; i < count && ctx.Err() == nil; i++ {
		if i == next {
			born++
			next += max(int(float64(next)*insertedPart), 1)
		}
		revision, alive := fate(events, i, born, night)
		if !alive {
			continue
		}
		doc.begin(c.name, i, revision)
		c.write(doc)
		if _, err := w.Write(doc.finish()); err != nil {
			return err
		}
	}
	return errors.Join(w.Flush(), f.Close(), ctx.Err())
}

// fate tells the last night in which document i was updated, 0 for none, and whether it still exists.
func fate(events uint64, i, born, night int) (revision int, alive bool) {
	for n := born + 1; n <= night; n++ {
		switch u := uniform(events + uint64(i)<<8 + uint64(n)); {
		case u < deletedPart:
			return 0, false
		case u < deletedPart+updatedPart:
			revision = n
		}
	}
	return revision, true
}

// uniform spreads a number over [0, 1) (splitmix64, Steele, Lea and Flood, OOPSLA 2014).
func uniform(x uint64) float64 { return float64(mix(x)>>11) / (1 << 53) }

func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// fields writes one document. fixed draws what stays over the life of a document, w what an update changes.
type fields struct {
	document
	dump     *Dump
	fixed    *rand.Rand
	w        writer
	self     objectID
	created  time.Time
	updated  time.Time
	revision int
}

func (f *fields) begin(collection string, i, revision int) {
	key := f.dump.seed
	for _, c := range []byte(collection) {
		key = mix(key ^ uint64(c))
	}
	key ^= uint64(i)
	f.fixed = rand.New(rand.NewPCG(mix(key), 1))
	f.w = writer{rng: f.fixed, words: f.dump.words}
	f.revision = revision
	f.created = epoch().AddDate(-5, 0, 0).Add(time.Duration(i)*7*time.Minute + time.Duration(f.fixed.IntN(400000))*time.Millisecond)
	f.updated = f.created
	if revision > 0 {
		f.updated = nightTime(revision).Add(-time.Duration(f.fixed.IntN(86400000)) * time.Millisecond)
	}
	binary.BigEndian.PutUint32(f.self[:], uint32(f.created.Unix()))
	binary.BigEndian.PutUint64(f.self[4:], mix(uint64(len(collection)))&^0xffffff|uint64(i)&0xffffff)
	f.b, f.open = f.b[:0], f.open[:0]
	f.start()
	f.id("_id", f.self)
}

func (f *fields) finish() []byte {
	f.end()
	return f.b
}
