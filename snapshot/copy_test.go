package snapshot

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/index"
	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/repo/storage/mem"
	"github.com/whole-tale/wtsnap/repo/storage/storagetest"
)

// A mirror is a vault and another repository that it is copied into.
type mirror struct {
	*vault
	other *depot
}

func newMirror(t testing.TB) *mirror {
	t.Helper()
	return &mirror{newVault(t), newVault(t).depot}
}

// nights makes n snapshots of a folder with links, xattrs, holes and a table of which some rows change each night.
func (m *mirror) nights(n int) (snaps []*Snapshot) {
	m.t.Helper()
	makeHome(m.t, filepath.Join(m.src, "home"))
	table := noise(3<<20, 7)
	for i := range n {
		for j := range 40 {
			copy(table[(i*40+j)*7919%len(table):], fmt.Sprintf("night %d row %d", i, j))
		}
		m.write("table", string(table))
		m.write(fmt.Sprintf("day/%d", i), strings.Repeat(fmt.Sprint("of day ", i, "\n"), 500))
		m.settle()
		snaps = append(snaps, m.backup().Snapshot)
	}
	return snaps
}

// all returns all snapshots of the first repository, with their notes.
func (m *mirror) all() []*Snapshot {
	m.t.Helper()
	snaps, err := List(m.t.Context(), m.r, Filter{})
	must(m.t, err)
	return snaps
}

func (m *mirror) plan() *CopyPlan {
	m.t.Helper()
	p, err := PlanCopy(m.t.Context(), m.r, m.other.r, m.all())
	must(m.t, err)
	return p
}

// copy copies all there is, and must succeed.
func (m *mirror) copy() (*CopyPlan, *CopyReport) {
	m.t.Helper()
	p := m.plan()
	rep, err := p.Copy(m.t.Context(), CopyOptions{})
	must(m.t, err)
	return p, rep
}

// equal compares what both repositories restore of each snapshot.
func (m *mirror) equal(snaps []*Snapshot) {
	m.t.Helper()
	m.other.reopen()
	for _, s := range snaps {
		copied, _, err := Resolve(m.t.Context(), m.other.r, s.Ref.ID.String(), Selector{})
		must(m.t, err)
		a, b := *s.Manifest, *copied.Manifest
		a.Root, b.Root = chunk.ID{}, chunk.ID{}
		x, err := EncodeManifest(&a)
		must(m.t, err)
		y, err := EncodeManifest(&b)
		must(m.t, err)
		if string(x) != string(y) || !s.Ref.Time.Equal(copied.Ref.Time) {
			m.t.Errorf("the manifest was %s, and is %s", x, y)
		}
		was, is := filepath.Join(m.t.TempDir(), "was"), filepath.Join(m.t.TempDir(), "is")
		m.restore(RestoreOptions{Snapshot: s, Path: "homes", Target: to(was)})
		m.other.restore(RestoreOptions{Snapshot: copied, Path: "homes", Target: to(is)})
		sameTrees(m.t, was, is)
	}
}

func (d *depot) stored(prefix string) (n int64) {
	d.t.Helper()
	content, err := storagetest.Content(d.st)
	must(d.t, err)
	for name, data := range content {
		if strings.HasPrefix(name, prefix) {
			n += int64(len(data))
		}
	}
	return n
}

func TestCopy(t *testing.T) {
	m := newMirror(t)
	snaps := m.nights(4)
	p, rep := m.copy()
	if n := p.Count(CopyDone); n != 4 || rep.Lost != 0 {
		t.Fatalf("%d of 4 snapshots were copied, %d things lost", n, rep.Lost)
	}
	if rep.Blobs.Delta < 3 {
		t.Errorf("%d blobs are deltas: those of the table should be", rep.Blobs.Delta)
	}
	// As small as what it is a copy of, but for the padding of other packs.
	if was, is := m.stored("packs/"), m.other.stored("packs/"); is > was+was/8 {
		t.Errorf("%d bytes of packs became %d", was, is)
	}
	m.equal(snaps)

	// The second time nothing is read, and nothing stored.
	p, rep = m.copy()
	if n := p.Count(CopyPresent); n != 4 || rep.Bytes.Read != 0 || rep.Bytes.Uploaded != 0 {
		t.Errorf("again: %d of 4 are there, %+v", n, rep.Bytes)
	}

	// Another night costs what the night did.
	m.write("new", string(noise(50_000, 1)))
	m.settle()
	night := m.backup()
	p, rep = m.copy()
	if p.Count(CopyDone) != 1 || rep.Bytes.Read > 2*50_000 || rep.Bytes.Uploaded > 2*night.Bytes.Uploaded {
		t.Errorf("a night of %d bytes: %+v, %d copied", night.Bytes.Uploaded, rep.Bytes, p.Count(CopyDone))
	}
	m.equal([]*Snapshot{night.Snapshot})
}

// What was copied is what a backup into the other repository relies on, and the other way round.
func TestCopyAndBackup(t *testing.T) {
	m := newMirror(t)
	m.nights(1)
	m.copy()
	direct := &vault{depot: m.other, src: m.src, mon: &recorder{}}
	rep := direct.backup()
	if rep.Files.New != 0 || rep.Files.Changed != 0 || rep.Blobs.New > 2 {
		t.Errorf("a backup after the copy: %+v, %+v", rep.Files, rep.Blobs)
	}
	direct.same(rep)
}

// Where both repositories cut files alike, what was copied and what is backed up directly are the same blobs.
func TestCopyCutAlike(t *testing.T) {
	m := newMirror(t)
	m.nights(2)
	st := newUncheckedVault(t)
	var err error
	st.st = mem.New()
	m.other = &depot{t: t, st: st.st, fault: storagetest.NewFault(st.st), key: st.key}
	m.other.r, err = repo.Init(t.Context(), m.other.fault, repo.InitOptions{Password: st.key, CutAs: m.r})
	must(t, err)
	if _, err := m.other.r.ChangeKey(t.Context(), st.key, repo.KDFParams{}); err != nil {
		t.Fatal(err)
	}
	m.other.reopen()
	if m.other.r.ChunkParams() != m.r.ChunkParams() {
		t.Fatal("the parameters differ")
	}
	m.other.checked()
	m.copy()
	direct := &vault{depot: m.other, src: m.src, mon: &recorder{}, opts: BackupOptions{ReadAll: true}}
	rep := direct.backup()
	if rep.Bytes.Read < 3<<20 || rep.Blobs.New > 2 { // the page that names the labels
		t.Errorf("all was read again: %+v, %+v", rep.Bytes, rep.Blobs)
	}
	direct.same(rep)
}

func TestCopyNotes(t *testing.T) {
	m := newMirror(t)
	m.write("a", "one")
	ctx := t.Context()
	s := m.backup().Snapshot
	must(t, ChangeTags(ctx, m.r, s.Ref.ID, []string{"release"}, nil))
	m.copy()
	must(t, SetHold(ctx, m.r, s.Ref.ID, "court", time.Time{}))
	for range 2 { // what was copied once is not copied again
		p, _ := m.copy()
		if n := p.Snapshots[0].Notes; n > 1 {
			t.Errorf("%d notes to copy", n)
		}
		snaps, err := List(ctx, m.other.r, Filter{})
		must(t, err)
		if len(snaps) != 1 || len(snaps[0].Notes) != 2 || !slices.Equal(snaps[0].CurrentTags(), []string{"release"}) || snaps[0].Hold().Reason != "court" {
			t.Errorf("copied: %+v", snaps)
		}
	}
}

// A snapshot that was forgotten in the other repository is not brought back.
func TestCopyForgotten(t *testing.T) {
	m := newMirror(t)
	m.nights(2)
	m.copy()
	refs, err := m.other.r.Snapshots(t.Context())
	must(t, err)
	must(t, m.other.r.Forget(t.Context(), refs[:1]))
	if p, _ := m.copy(); p.Count(CopyForgotten) != 1 || p.Count(CopyPresent) != 1 {
		t.Errorf("%+v", p.Snapshots)
	}
}

func TestCopyIntoItself(t *testing.T) {
	v := newVault(t)
	v.write("a", "b")
	s := v.backup().Snapshot
	if _, err := PlanCopy(t.Context(), v.r, v.r, []*Snapshot{s}); !errors.Is(err, ErrSameRepository) {
		t.Errorf("%v", err)
	}
}

// Whatever storage operation a copy is interrupted at, it goes on from there, and uploads little twice.
func TestCopyInterrupted(t *testing.T) {
	m := newMirror(t)
	for i := range 10 {
		m.random(fmt.Sprintf("f/%02d", i), 1<<20)
	}
	m.random("large", 26<<20)
	s := m.backup().Snapshot
	for _, stop := range []int64{2, 5, 9} { // reads
		ctx, cancel := context.WithCancel(t.Context())
		var reads int64
		hook := func(name string) {
			if strings.HasPrefix(name, "packs/") && atomic.AddInt64(&reads, 1) == stop {
				cancel()
			}
		}
		m.hook.get.Store(&hook)
		m.other.reopen()
		rep, err := m.plan().Copy(ctx, CopyOptions{})
		cancel()
		m.hook.get.Store(nil)
		if err == nil && stop > 5 {
			break // little was left to do
		}
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("interrupted at read %d: %v, %+v", stop, err, rep)
		}
		snaps, err := List(t.Context(), m.other.r, Filter{})
		must(t, err)
		for _, c := range snaps {
			if !c.Checkpoint || c.Parent != s.Ref.ID {
				t.Errorf("left: %+v", c)
			}
		}
	}
	m.other.reopen()
	m.copy()
	snaps, err := List(t.Context(), m.other.r, Filter{})
	must(t, err)
	if len(snaps) != 1 || snaps[0].Checkpoint {
		t.Errorf("%d snapshots in the end", len(snaps))
	}
	if n := m.other.stored("packs/"); n > 38<<20 {
		t.Errorf("36 MiB were stored as %d bytes", n)
	}
	m.equal([]*Snapshot{s})
}

// A budget ends a copy with a checkpoint, from which the next one goes on without reading what is there.
func TestCopyBudget(t *testing.T) {
	m := newMirror(t)
	m.random("a", 4<<20)
	m.random("b/large", 32<<20)
	s := m.backup().Snapshot
	var read, uploaded int64
	for n := 0; ; n++ {
		m.other.reopen()
		rep, err := m.plan().Copy(t.Context(), CopyOptions{UploadBudget: 10 << 20})
		read += rep.Bytes.Read
		uploaded += rep.Bytes.Uploaded
		if err == nil {
			break
		}
		if rep.Stopped == nil || rep.Stopped.Reason != StopBudget || rep.Bytes.Uploaded > 20<<20 || n > 10 {
			t.Fatalf("run %d: %v, %+v", n, err, rep)
		}
	}
	if read > 108<<20 || uploaded > 38<<20 {
		t.Errorf("%d bytes were read and %d uploaded for 36 MiB", read, uploaded)
	}
	m.equal([]*Snapshot{s})
}

// What is damaged is named and not copied; the others are.
func TestCopyDamaged(t *testing.T) {
	m := newMirror(t)
	m.vault = newUncheckedVault(t)
	m.write("small", "as it was")
	m.settle()
	whole := m.backup().Snapshot
	m.random("dir/lost", 300<<10)
	m.settle()
	m.backup()
	before, err := storagetest.Content(m.st)
	must(t, err)
	for _, id := range m.packsOf(index.Data) {
		if name := "packs/" + id[:1] + "/" + id; len(before[name]) > 200<<10 {
			must(t, m.st.Delete(t.Context(), name))
		}
	}
	m.reopen()
	p := m.plan()
	rep, err := p.Copy(t.Context(), CopyOptions{})
	must(t, err)
	if p.Snapshots[0].State != CopyDone || p.Snapshots[1].State != CopyDamaged || rep.Lost != 1 || p.Snapshots[1].Lost[0].Path != "homes/dir/lost" {
		t.Errorf("%+v, %+v", p.Snapshots[0], p.Snapshots[1])
	}
	refs, err := m.other.r.Snapshots(t.Context())
	must(t, err)
	if len(refs) != 1 || refs[0].ID != whole.Ref.ID {
		t.Errorf("the other repository has %v", refs)
	}
}

// Every call of the other repository's storage may fail: the copy then fails, and the next one succeeds.
func TestCopyFaults(t *testing.T) {
	m := newMirror(t)
	m.write("a", "one")
	m.random("b", 200<<10)
	snaps := []*Snapshot{m.backup().Snapshot}
	for _, mode := range []storagetest.Mode{storagetest.NotDone, storagetest.DoneFailed, storagetest.CrashAfter} {
		for i := 0; ; i++ {
			other := newVault(t).depot
			n := &mirror{vault: m.vault, other: other}
			p := n.plan()
			other.fault.Reset()
			other.fault.At(i, mode)
			_, err := p.Copy(t.Context(), CopyOptions{})
			hit := other.fault.Hit() > 0
			other.fault.Reset()
			other.reopen()
			if !hit {
				if err != nil {
					t.Fatal(err)
				}
				break
			}
			n.copy()
			if i%5 == 0 {
				n.equal(snaps)
			}
		}
	}
}
