package repo

import (
	"bytes"
	"encoding/binary"
	"errors"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/index"
	"github.com/whole-tale/wtsnap/repo/storage"
)

// bomb makes a sealed object of a few KB, valid but for its size, that decompresses to more than an object of its kind has.
func bomb(t *testing.T, k *keys, name string, size int) []byte {
	t.Helper()
	stored, encoding := k.codec.Encode(nil, make([]byte, size))
	plain := binary.AppendUvarint([]byte{byte(encoding)}, uint64(size))
	plain = append(binary.AppendUvarint(plain, uint64(len(stored))), stored...)
	return must[[]byte](t)(k.seal([]byte{objectVersion}, plain, objectAD(name)))
}

// allocated returns what fn allocates, in bytes.
func allocated(fn func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	fn()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// Whoever has the key can make objects that decompress to a thousand times their size. Every kind of object is refused
// before that is done.
func TestBombs(t *testing.T) {
	k := fixedKeys(t)
	id := strings.Repeat("ab", 16)
	lying := func(name string) []byte { // says that it is small
		stored, encoding := k.codec.Encode(nil, make([]byte, 32<<20))
		plain := binary.AppendUvarint([]byte{byte(encoding)}, 1000)
		plain = append(binary.AppendUvarint(plain, uint64(len(stored))), stored...)
		return must[[]byte](t)(k.seal([]byte{objectVersion}, plain, objectAD(name)))
	}
	for _, name := range []string{indexDir + id, snapshotsDir + id + "/20261101T000000Z-" + id, forgottenDir + id + "/20261101T000000Z-" + id,
		annotationsDir + id + "-1", condemnedDir + id, leasesDir + id + "-1", ledgerDir + "check/" + id, ledgerDir + "drill/" + id} {
		data := bomb(t, k, name, int(objectLimit(name))+1)
		if len(data) > 1<<20 {
			t.Fatalf("%s: %d bytes are no bomb", name, len(data))
		}
		for how, sealed := range map[string][]byte{"honest": data, "lying": lying(name)} {
			var err error
			used := allocated(func() { _, err = k.openObject(name, sealed) })
			if !isDamage(err, DamageDecode) || !strings.Contains(err.Error(), name) {
				t.Errorf("%s %s: %v", how, name, err)
			}
			if used > 4<<20 {
				t.Errorf("%s %s: allocated %d bytes", how, name, used)
			}
		}
		if limit := int(objectLimit(name)); limit <= 16<<20 {
			if got, err := k.openObject(name, bomb(t, k, name, limit)); err != nil || len(got) != limit {
				t.Errorf("%s: the largest is refused: %v", name, err)
			}
		}
	}
}

// A full index segment, whose every blob is a patch with bases of its own, is well below the limit of a segment.
func TestSegmentLimit(t *testing.T) {
	var packs []index.Pack
	rng := noise(7, segmentBlobs*48)
	key := func() (k index.Key) { rng = rng[copy(k[:], rng):]; return k }
	for blobs := 0; blobs < segmentBlobs; {
		p := index.Pack{ID: index.PackID{byte(blobs), byte(blobs >> 8), byte(blobs >> 16)}, Kind: index.Data, Size: 16 << 20}
		for range 1000 {
			f := index.Frame{Offset: uint32(len(p.Frames)) * 1000, Length: 1000, Encoding: chunk.ZstdDelta,
				Bases: []index.Key{key()}, Blobs: []index.Blob{{Key: key(), Size: 100_000}}}
			p.Frames = append(p.Frames, f)
			blobs++
		}
		packs = append(packs, p)
	}
	data := must[[]byte](t)(index.AppendSegment(nil, packs))
	if limit := objectLimit(indexDir + "x"); uint64(len(data)) > limit/4 {
		t.Errorf("a segment of %d bytes, the limit is %d", len(data), limit)
	}
}

// An index segment that is a bomb, or larger than any, fails the load with a hint; check names it and goes on.
func TestBombInTheIndex(t *testing.T) {
	tr := newRepo(t)
	ref := tr.backup(content{words("a")})
	name := indexDir + strings.Repeat("cd", 16)
	for how, data := range map[string][]byte{
		"bomb":  bomb(t, tr.r.keys, name, int(objectLimit(name))+1),
		"large": make([]byte, objectLimit(name)+objectLimit(name)/4+1),
	} {
		m := tr.mem.Clone()
		must[any](t)(m.Put(t.Context(), name, data))
		r := tr.open(m)
		err := r.LoadIndex(t.Context())
		if d, ok := errors.AsType[*DamageError](err); !ok || d.Object != name || d.Hint != indexHint {
			t.Errorf("%s: %v", how, err)
		}
		rep := checkAll(t, tr.open(m))
		if !slices.ContainsFunc(rep.Problems, func(p Problem) bool { return p.Object == name }) {
			t.Errorf("%s: check finds %+v", how, rep.Problems)
		}
		if _, err := tr.open(m).RepairIndex(t.Context(), false); err != nil {
			t.Errorf("%s: repair: %v", how, err)
		}
		if err := holds(t.Context(), tr.open(m), ref, content{words("a")}); err != nil {
			t.Errorf("%s, repaired: %v", how, err)
		}
	}
}

// Records that together are too long for an object are merged into several.
func TestLedgerGroups(t *testing.T) {
	big := make([]byte, maxLedgerRecord/2)
	records := []LedgerRecord{{Data: big}, {Data: []byte("a")}, {Data: []byte("b")}, {Data: big}, {Data: big}}
	var sizes []int
	for g := range ledgerGroups(records) {
		sizes = append(sizes, len(g))
	}
	if !slices.Equal(sizes, []int{1, 2, 1, 1}) {
		t.Errorf("groups of %v", sizes)
	}
}

// A frame that decompresses to more than its blobs is refused, whatever it says.
func TestBombInAFrame(t *testing.T) {
	k := fixedKeys(t)
	stored, encoding := k.codec.Encode(nil, bytes.Repeat([]byte{0}, 64<<20))
	frame := index.Frame{Encoding: encoding, Blobs: []index.Blob{{Size: 100}}}
	sealed := must[[]byte](t)(k.seal(nil, stored, frameAD(nil, index.Data, &frame)))
	var err error
	used := allocated(func() { _, err = openFrame(k, index.Data, &frame, sealed, nil, &frameScratch{}) })
	if err == nil || used > 4<<20 {
		t.Errorf("%v, allocated %d bytes", err, used)
	}
	frame.Blobs[0].Size = index.MaxFrameSize + 1
	p := index.Pack{ID: index.PackID{1}, Kind: index.Data, Size: 1000, Frames: []index.Frame{{Length: 500, Blobs: frame.Blobs}}}
	if p.Validate() == nil {
		t.Error("a blob above the limit is taken")
	}
}

// A directory or a segment that says that it has a million entries, or any number of them, and does not, costs nothing.
func TestBombInADirectory(t *testing.T) {
	frame := index.Frame{Length: 100, Blobs: []index.Blob{{Size: 10}}}
	directory := must[[]byte](t)(index.AppendFrames(nil, []index.Frame{frame}))
	segment := must[[]byte](t)(index.AppendSegment(nil, []index.Pack{{ID: index.PackID{1}, Kind: index.Data, Size: 1000, Frames: []index.Frame{frame}}}))
	for what, data := range map[string][]byte{"directory": directory, "segment": segment} {
		for _, n := range []uint64{1_000_000, 1 << 32, 1 << 62} {
			bad := append(binary.AppendUvarint([]byte{data[0]}, n), data[2:]...)
			var err error
			used := allocated(func() {
				if what == "segment" {
					_, err = index.DecodeSegment(bad)
				} else {
					_, err = index.DecodeFrames(bad)
				}
			})
			if err == nil || used > 1<<20 {
				t.Errorf("a %s of %d entries: %v, allocated %d bytes", what, n, err, used)
			}
		}
	}
}

// What takes more than its kind does is refused before it is read, and stops nothing else.
func TestStoredTooLarge(t *testing.T) {
	tr := newRepo(t)
	ref := tr.backup(content{words("a")})
	ctx := t.Context()
	id := strings.Repeat("cd", 16)
	for _, name := range []string{
		snapshotsDir + ref.Instance + "/20260101T000000Z-" + id, forgottenDir + ref.Instance + "/20260102T000000Z-" + id,
		annotationsDir + ref.ID.String() + "-" + id, leasesDir + id + "-1", keysDir + id,
	} {
		m := tr.mem.Clone()
		limit := objectLimit(name)
		if strings.HasPrefix(name, keysDir) {
			limit = maxKeyObject
		}
		must[any](t)(m.Put(ctx, name, make([]byte, limit+limit/4+1)))
		r := tr.open(m)
		var rep *CheckReport
		used := allocated(func() { rep = checkAll(t, r) })
		if len(rep.Problems) != 1 || rep.Problems[0].Object != name || rep.Problems[0].Kind != DamageSize || rep.Problems[0].Hint == "" {
			t.Errorf("%s: check finds %+v", name, rep.Problems)
		}
		if limit > 1<<20 && used > limit {
			t.Errorf("%s: a check allocates %d bytes", name, used)
		}
		if err := holds(ctx, r, ref, content{words("a")}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := storage.CheckRange(storage.MaxWhole+1, 0, -1); !errors.Is(err, storage.ErrTooLarge) {
		t.Errorf("an object that is too large as a whole: %v", err)
	}
}

// A config that cannot be read is made anew from the keys. Where these cannot be read either, that is poor advice.
func TestOverwrittenConfig(t *testing.T) {
	tr := newRepo(t)
	ctx := t.Context()
	garbage := []byte("overwritten")
	hint := func(m storage.Storage) string {
		_, err := Open(ctx, m, OpenOptions{Password: tr.pass})
		d, ok := errors.AsType[*DamageError](err)
		if !ok || d.Object != configName {
			t.Fatal(err)
		}
		return d.Hint
	}
	m := tr.mem.Clone()
	must[any](t)(m.Put(ctx, configName, garbage))
	if h := hint(m); h != configHint {
		t.Errorf("the config alone: %s", h)
	}
	for _, name := range list(t, m, keysDir) {
		must[any](t)(m.Put(ctx, name, garbage))
	}
	if h := hint(m); h != overwrittenHint {
		t.Errorf("all of it: %s", h)
	}
}
