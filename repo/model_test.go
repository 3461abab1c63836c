package repo

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/index"
	"github.com/whole-tale/wtsnap/repo/storage"
	"github.com/whole-tale/wtsnap/repo/storage/mem"
	"github.com/whole-tale/wtsnap/repo/storage/storagetest"
)

// The model of these tests: a manifest is a list of tree ids, a tree is "tree" and a list of data ids.

const treeMagic = "tree"

func encodeIDs(head string, ids []chunk.ID) []byte {
	out := []byte(head)
	for _, id := range ids {
		out = append(out, id[:]...)
	}
	return out
}

func decodeIDs(head string, data []byte) ([]chunk.ID, error) {
	rest, ok := bytes.CutPrefix(data, []byte(head))
	if !ok || len(rest)%len(chunk.ID{}) != 0 {
		return nil, &DamageError{Kind: DamageTree, Object: "tree", Detail: "is no list of ids"}
	}
	var ids []chunk.ID
	for len(rest) > 0 {
		ids = append(ids, chunk.ID(rest[:32]))
		rest = rest[32:]
	}
	return ids, nil
}

const manifestMagic = "manifest"

// references is the References of the model.
func references(r *Repository) References {
	return func(ctx context.Context, manifest []byte, visit func(index.Kind, chunk.ID) bool) error {
		trees, err := decodeIDs(manifestMagic, manifest)
		if err != nil {
			return err
		}
		var errs []error
		for _, tree := range trees {
			if !visit(index.Tree, tree) {
				continue
			}
			data, err := r.Blob(ctx, tree)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			ids, err := decodeIDs(treeMagic, data)
			if err != nil {
				return err
			}
			for _, id := range ids {
				visit(index.Data, id)
			}
		}
		return errors.Join(errs...)
	}
}

// content is what a snapshot of the model holds: trees of blobs.
type content [][][]byte

// blobs returns the blobs of all trees.
func (c content) blobs() [][]byte { return slices.Concat(c...) }

// word returns a blob of n bytes that depends on name alone; half of it compresses.
func word(name string, n int) []byte {
	var seed [32]byte
	copy(seed[:], name)
	binary.LittleEndian.PutUint64(seed[24:], uint64(len(name)))
	for i, c := range []byte(name) {
		seed[i%24] ^= c + byte(i)
	}
	out := make([]byte, n)
	_, _ = rand.NewChaCha8(seed).Read(out[:n/2])
	for i := n / 2; i < n; i++ {
		out[i] = 'x'
	}
	copy(out, name)
	return out
}

// words returns one blob of about 300 bytes for each name.
func words(names ...string) [][]byte {
	var out [][]byte
	for _, n := range names {
		out = append(out, word(n, 300+len(n)))
	}
	return out
}

// testRepo is a repository in memory, watched by a referee, and checked at the end of its test.
type testRepo struct {
	t    testing.TB
	mem  *mem.Storage    // what is really there
	st   storage.Storage // mem behind the referee
	r    *Repository
	pass []byte

	mu       sync.Mutex
	expected func(Problem) bool // problems that the test named
}

var keyFile = sync.OnceValues(NewKeyFile)

// newRepo makes a repository whose order of writes is watched and that is checked with every byte
// read when the test ends.
func newRepo(t testing.TB) *testRepo {
	t.Helper()
	pass, err := keyFile()
	if err != nil {
		t.Fatal(err)
	}
	tr := &testRepo{t: t, mem: mem.New(), pass: pass}
	tr.st = storagetest.NewReferee(t, tr.mem, tr.writeOrder)
	r, err := Init(t.Context(), tr.st, InitOptions{Password: pass, Label: "first"})
	if err != nil {
		t.Fatal(err)
	}
	tr.r = r
	t.Cleanup(func() { tr.checkAtEnd() })
	return tr
}

// expect names the problems that the check at the end may find.
func (tr *testRepo) expect(kinds ...string) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.expected = func(p Problem) bool { return slices.Contains(kinds, p.Kind) }
}

func (tr *testRepo) checkAtEnd() {
	tr.t.Helper()
	if tr.t.Failed() || tr.t.Skipped() {
		return
	}
	rep := checkAll(tr.t, tr.open(tr.mem))
	for _, p := range rep.Problems {
		if tr.expected == nil || !tr.expected(p) {
			tr.t.Errorf("check at the end: %+v", p)
		}
	}
}

// checkAll checks everything, every byte read. An error of the check fails the test.
func checkAll(t testing.TB, r *Repository) *CheckReport {
	t.Helper()
	rep, err := r.Check(context.Background(), CheckOptions{References: references(r), ReadShare: 1})
	if err != nil {
		t.Fatalf("check: %v", err)
	}
	return rep
}

// open returns the repository as another process would see it, on st. It saves the key derivation.
func (tr *testRepo) open(st storage.Storage) *Repository { return reopen(tr.r, st) }

func reopen(r *Repository, st storage.Storage) *Repository {
	r = &Repository{st: st, cached: st, loading: make(chan struct{}, 1), config: r.config, master: r.master, key: r.key, keys: r.keys,
		frames: newFrameCaches(), index: index.New(), segments: map[index.SegmentID]bool{}}
	r.stage = newStage(r, &OpenOptions{})
	return r
}

// at returns the test repository with other objects in it; the referee's rules hold there as well.
func (tr *testRepo) at(t testing.TB, m *mem.Storage) *testRepo {
	c := tr.bare(t, m)
	c.st = storagetest.NewReferee(t, m, c.writeOrder)
	return c
}

// bare is at without a referee, for repositories that are damaged.
func (tr *testRepo) bare(t testing.TB, m *mem.Storage) *testRepo {
	c := &testRepo{t: t, mem: m, st: m, pass: tr.pass}
	c.r = reopen(tr.r, m)
	k := *tr.r.keys
	k.codec = chunk.NewCodec(chunk.LevelFastest) // its pools belong to a synctest bubble
	c.r.keys = &k
	return c
}

// writeOrder is the referee's rule for a repository: a segment is put only when its packs are there, a
// manifest only when all that it refers to is listed and there, and a pack is removed only when no
// segment lists it.
func (tr *testRepo) writeOrder(ctx context.Context, before storage.Storage, op storagetest.Op) error {
	if tr.r == nil { // Init
		return nil
	}
	k := tr.r.keys
	switch {
	case op.Kind == storagetest.Put && strings.HasPrefix(op.Name, indexDir):
		packs, err := openSegment(k, op.Name, op.Data)
		if err != nil {
			return err
		}
		for _, p := range packs {
			i, err := before.Stat(ctx, packName(p.ID))
			if err != nil {
				return fmt.Errorf("an index segment before its pack: %w", err)
			}
			if i.Size != p.Size {
				return fmt.Errorf("a pack of %d bytes listed with %d", i.Size, p.Size)
			}
		}
	case op.Kind == storagetest.Put && strings.HasPrefix(op.Name, snapshotsDir):
		manifest, err := k.openObject(op.Name, op.Data)
		if err != nil {
			return err
		}
		if err := tr.whole(ctx, before, manifest); err != nil {
			return fmt.Errorf("a manifest before what it refers to: %w", err)
		}
	case op.Kind == storagetest.Delete && strings.HasPrefix(op.Name, packsDir):
		return forEachSegment(ctx, before, k, func(name string, p index.Pack) error {
			if packName(p.ID) == op.Name {
				return fmt.Errorf("a pack is removed while segment %s lists it", name)
			}
			return nil
		})
	}
	return nil
}

// whole returns nil if everything that the manifest refers to can be read from st.
func (tr *testRepo) whole(ctx context.Context, st storage.Storage, manifest []byte) error {
	_, err := readContent(ctx, reopen(tr.r, st), manifest)
	return err
}

func openSegment(k *keys, name string, data []byte) ([]index.Pack, error) {
	plain, err := k.openObject(name, data)
	if err != nil {
		return nil, err
	}
	return index.DecodeSegment(plain)
}

func forEachSegment(ctx context.Context, st storage.Storage, k *keys, fn func(name string, p index.Pack) error) error {
	return st.List(ctx, indexDir, func(i storage.Info) error {
		data, err := st.Get(ctx, i.Name, 0, -1, nil)
		if err != nil {
			return err
		}
		packs, err := openSegment(k, i.Name, data)
		if err != nil {
			return nil // damaged by the test
		}
		for _, p := range packs {
			if err := fn(i.Name, p); err != nil {
				return err
			}
		}
		return nil
	})
}

// readContent reads all that a manifest refers to.
func readContent(ctx context.Context, r *Repository, manifest []byte) (content, error) {
	if err := r.LoadIndex(ctx); err != nil {
		return nil, err
	}
	trees, err := decodeIDs(manifestMagic, manifest)
	if err != nil {
		return nil, err
	}
	c := make(content, len(trees))
	for i, tree := range trees {
		data, err := r.Blob(ctx, tree)
		if err != nil {
			return nil, fmt.Errorf("tree %d: %w", i, err)
		}
		ids, err := decodeIDs(treeMagic, data)
		if err != nil {
			return nil, err
		}
		c[i] = make([][]byte, len(ids))
		err = r.ReadBlobs(ctx, ids, ReadOptions{}, func(j int, data []byte) error {
			if c[i][j] != nil {
				return fmt.Errorf("blob %d handed out twice", j)
			}
			c[i][j] = append([]byte{}, data...)
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("data of tree %d: %w", i, err)
		}
		for j := range ids {
			if c[i][j] == nil {
				return nil, fmt.Errorf("blob %d was not handed out", j)
			}
			if r.Hasher().Sum(c[i][j]) != ids[j] {
				return nil, fmt.Errorf("blob %d has wrong bytes", j)
			}
		}
	}
	return c, nil
}

// putContent puts blobs and trees and returns the manifest.
func putContent(ctx context.Context, s *Session, c content) ([]byte, error) {
	w := s.Writer()
	var trees []chunk.ID
	for _, blobs := range c {
		var ids []chunk.ID
		for _, b := range blobs {
			id, _, err := w.Put(ctx, index.Data, b)
			if err != nil {
				return nil, err
			}
			ids = append(ids, id)
		}
		id, _, err := w.Put(ctx, index.Tree, encodeIDs(treeMagic, ids))
		if err != nil {
			return nil, err
		}
		trees = append(trees, id)
	}
	return encodeIDs(manifestMagic, trees), nil
}

// snapTime makes every snapshot of a test later than the one before.
var snapTime = struct {
	sync.Mutex
	n int
}{}

func nextTime() time.Time {
	snapTime.Lock()
	defer snapTime.Unlock()
	snapTime.n++
	return time.Date(2026, 11, 1, 0, 0, snapTime.n, 0, time.UTC)
}

// backup stores c as a snapshot of instance "a".
func backup(ctx context.Context, r *Repository, c content) (ref SnapshotRef, err error) {
	ref, _, err = backupWith(ctx, r, c, SessionOptions{Level: chunk.LevelFastest})
	return ref, err
}

func backupWith(ctx context.Context, r *Repository, c content, o SessionOptions) (ref SnapshotRef, st SessionStats, err error) {
	s, err := r.Begin(ctx, o)
	if err != nil {
		return ref, st, fmt.Errorf("begin: %w", err)
	}
	defer func() {
		st = s.Stats()
		err = errors.Join(err, s.Close(context.WithoutCancel(ctx)))
	}()
	manifest, err := putContent(ctx, s, c)
	if err != nil {
		return ref, st, fmt.Errorf("put: %w", err)
	}
	ref, err = s.Commit(ctx, Payload{Instance: "a", Time: nextTime(), Data: manifest})
	if err != nil {
		return ref, st, fmt.Errorf("commit: %w", err)
	}
	return ref, st, nil
}

func (tr *testRepo) backup(c content) SnapshotRef {
	tr.t.Helper()
	ref, err := backup(context.Background(), tr.open(tr.st), c)
	if err != nil {
		tr.t.Fatalf("backup: %v", err)
	}
	return ref
}

// prune plans and executes.
func prune(ctx context.Context, r *Repository, o PruneOptions) (rep *PruneReport, plan *PrunePlan, err error) {
	if o.References == nil {
		o.References = references(r)
	}
	plan, err = r.PlanPrune(ctx, o)
	if err != nil {
		return nil, nil, fmt.Errorf("planning: %w", err)
	}
	defer func() { err = errors.Join(err, plan.Close(context.WithoutCancel(ctx))) }()
	rep, err = plan.Execute(ctx)
	return rep, plan, err
}

func (tr *testRepo) prune(o PruneOptions) (*PruneReport, *PrunePlan) {
	tr.t.Helper()
	rep, plan, err := prune(context.Background(), tr.open(tr.st), o)
	if err != nil {
		tr.t.Fatalf("prune: %v", err)
	}
	return rep, plan
}

// mustHold fails unless the snapshot holds c.
func mustHold(t testing.TB, r *Repository, ref SnapshotRef, want content) {
	t.Helper()
	if err := holds(context.Background(), r, ref, want); err != nil {
		t.Errorf("snapshot %s: %v", ref.ID.Short(), err)
	}
}

func holds(ctx context.Context, r *Repository, ref SnapshotRef, want content) error {
	manifest, err := r.Manifest(ctx, ref)
	if err != nil {
		return err
	}
	got, err := readContent(ctx, r, manifest)
	if err != nil {
		return err
	}
	if len(got) != len(want) {
		return fmt.Errorf("%d trees, want %d", len(got), len(want))
	}
	for i := range want {
		if !slices.EqualFunc(got[i], want[i], bytes.Equal) {
			return fmt.Errorf("tree %d has other blobs", i)
		}
	}
	return nil
}

// list returns the names below a folder.
func list(t testing.TB, st storage.Storage, dir string) []string {
	t.Helper()
	var names []string
	if err := st.List(context.Background(), dir, func(i storage.Info) error {
		names = append(names, i.Name)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	return names
}

// slow reports whether the larger budgets are asked for.
func slow() bool { return os.Getenv("WTSNAP_SLOW") != "" }

// budget is n, or many times that in the slow tier.
func budget(n int) int {
	if slow() {
		return n * 20
	}
	return n
}
