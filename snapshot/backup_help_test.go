package snapshot

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/whole-tale/wtsnap/index"
	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/repo/storage"
	"github.com/whole-tale/wtsnap/repo/storage/mem"
	"github.com/whole-tale/wtsnap/repo/storage/storagetest"
	"github.com/whole-tale/wtsnap/snapshot/localfs"
)

// A vault is a repository that Backup saves a folder into. Its storage is refereed, and it is checked at the end.
type vault struct {
	*depot
	src  string
	mon  *recorder
	opts BackupOptions // of every backup; Sources default to src as "homes"
	hook *hookStorage
}

// A hookStorage calls a function before each object is stored, or read.
type hookStorage struct {
	storage.Storage
	put, get atomic.Pointer[func(name string)]
}

func (h *hookStorage) Get(ctx context.Context, name string, offset, length int64, dst []byte) ([]byte, error) {
	if f := h.get.Load(); f != nil {
		(*f)(name)
	}
	return h.Storage.Get(ctx, name, offset, length, dst)
}

func (h *hookStorage) Put(ctx context.Context, name string, data []byte) (storage.Info, error) {
	if f := h.put.Load(); f != nil {
		(*f)(name)
	}
	return h.Storage.Put(ctx, name, data)
}

// onPack calls f once, before the next pack is stored, which waits for it.
func (h *hookStorage) onPack(f func()) {
	var once sync.Once
	hook := func(name string) {
		if strings.HasPrefix(name, "packs/") {
			once.Do(f)
		}
	}
	h.put.Store(&hook)
}

func newVault(t testing.TB) *vault {
	t.Helper()
	v := newUncheckedVault(t)
	v.checked()
	return v
}

// newUncheckedVault is for tests that damage the repository.
func newUncheckedVault(t testing.TB) *vault {
	t.Helper()
	key, err := repo.NewKeyFile()
	must(t, err)
	d := &depot{t: t, st: mem.New(), key: key}
	hook := &hookStorage{Storage: storagetest.NewReferee(t, d.st)}
	d.fault = storagetest.NewFault(hook)
	d.r, err = repo.Init(t.Context(), d.fault, repo.InitOptions{Password: key})
	must(t, err)
	v := &vault{depot: d, src: filepath.Join(t.TempDir(), "src"), mon: &recorder{}, hook: hook}
	must(t, os.Mkdir(v.src, 0o755))
	return v
}

// write makes a file below the source, and the folders on its way.
func (v *vault) write(name, content string) string {
	v.t.Helper()
	path := filepath.Join(v.src, name)
	must(v.t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(v.t, os.WriteFile(path, []byte(content), 0o644))
	return path
}

func (v *vault) options() BackupOptions {
	o := v.opts
	if o.Sources == nil {
		o.Sources = []SourceSpec{{Label: "homes", Kind: SourceFolder, Path: v.src}}
	}
	o.Instance, o.Monitor, o.Progress = "inst", v.mon, &Progress{}
	if o.SampleNights == 0 {
		o.SampleNights = -1
	}
	return o
}

// checkpointing lets backups make the next checkpoint as soon as the last one is made, however fast the machine is.
func (v *vault) checkpointing() {
	ticks, done := make(chan time.Time), make(chan struct{})
	v.opts.ticks = ticks
	var ticking sync.WaitGroup
	ticking.Go(func() {
		for {
			select {
			case ticks <- time.Time{}:
			case <-done:
				return
			}
		}
	})
	v.t.Cleanup(func() {
		close(done)
		ticking.Wait()
	})
}

// try runs a backup.
func (v *vault) try(ctx context.Context) (*BackupReport, error) {
	v.t.Helper()
	v.mon.reset()
	return Backup(ctx, v.r, v.options())
}

// backup runs a backup that must succeed, with as many problems as are named.
func (v *vault) backup(problems ...string) *BackupReport {
	v.t.Helper()
	rep, err := v.try(v.t.Context())
	must(v.t, err)
	got := v.mon.problems()
	if len(got) != len(problems) || int64(len(got)) != rep.Problems || rep.Problems != rep.Snapshot.Errors {
		v.t.Fatalf("problems: %q, want %q (report: %d, manifest: %d)", got, problems, rep.Problems, rep.Snapshot.Errors)
	}
	for i := range got {
		if !strings.Contains(got[i], problems[i]) {
			v.t.Fatalf("problem %q, want %q", got[i], problems[i])
		}
	}
	return rep
}

// same restores a snapshot's label and compares it with the source.
func (v *vault) same(rep *BackupReport) {
	v.t.Helper()
	out := filepath.Join(v.t.TempDir(), "out")
	v.restore(RestoreOptions{Snapshot: rep.Snapshot, Path: "homes", Target: to(out)})
	sameTrees(v.t, v.src, out)
}

// node returns what a snapshot has at a path, label first.
func (v *vault) node(rep *BackupReport, path string) *Node {
	v.t.Helper()
	n := &Node{Subtree: rep.Snapshot.Root}
	var err error
	for name := range strings.SplitSeq(path, "/") {
		n, err = LookupNode(v.t.Context(), v.r.Blob, n.Subtree, name)
		if err != nil {
			v.t.Fatalf("%s in %s: %v", name, path, err)
		}
	}
	return n
}

func (v *vault) counts(rep *BackupReport, want FileCounts) {
	v.t.Helper()
	if rep.Files != want {
		v.t.Errorf("files %+v, want %+v", rep.Files, want)
	}
}

// settle waits until what was written so far is older than raceMargin, by the clock that stamps files.
func (v *vault) settle() {
	v.t.Helper()
	begin := time.Now().Add(raceMargin)
	for probe := filepath.Join(v.t.TempDir(), "probe"); ; {
		must(v.t, os.WriteFile(probe, nil, 0o600))
		m, err := localfs.Lstat(probe)
		must(v.t, err)
		if m.CTime > begin.UnixNano() {
			return
		}
		must(v.t, os.Remove(probe))
	}
}

// A recorder is a Monitor for tests. hook is called for each problem and notice.
type recorder struct {
	mu      sync.Mutex
	list    []string
	notices []string
}

func (r *recorder) reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list, r.notices = nil, nil
}

func (r *recorder) Problem(path string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list = append(r.list, fmt.Sprintf("%s: %v", path, err))
}

func (r *recorder) Notice(path, message string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.notices = append(r.notices, path+": "+message)
}

func (r *recorder) problems() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.list...)
}

func wantError[E error](t testing.TB, err error) (target E) {
	t.Helper()
	if !errors.As(err, &target) {
		t.Fatalf("error %v (%T), want a %T", err, err, target)
	}
	return target
}

// noise is n bytes that do not compress, the same for the same seed.
func noise(n int, seed uint64) []byte {
	rng := rand.New(rand.NewPCG(seed, 1))
	data := make([]byte, 0, n+8)
	for len(data) < n {
		data = binary.LittleEndian.AppendUint64(data, rng.Uint64())
	}
	return data[:n]
}

// packsOf returns the packs of a kind that the index lists.
func (v *vault) packsOf(kind index.Kind) (packs []string) {
	for _, p := range v.r.Index().Packs() {
		if p.Kind == kind {
			packs = append(packs, p.ID.String())
		}
	}
	return packs
}
