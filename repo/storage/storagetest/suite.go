package storagetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/whole-tale/wtsnap/repo/storage"
)

// Run checks that the storages that open returns keep the contract of
// storage.Storage. Each call of open gives a new and empty storage.
func Run(t *testing.T, open func(t *testing.T) storage.Storage) {
	t.Helper()
	for _, c := range []struct {
		name string
		run  func(*testing.T, storage.Storage)
	}{
		{"Empty", testEmpty},
		{"PutGet", testPutGet},
		{"Ranges", testRanges},
		{"Again", testAgain},
		{"Replace", testReplace},
		{"List", testList},
		{"ListStops", testListStops},
		{"ListAndDelete", testListAndDelete},
		{"Delete", testDelete},
		{"Names", testNames},
		{"Large", testLarge},
		{"Buffers", testBuffers},
		{"Concurrent", testConcurrent},
		{"Cancelled", testCancelled},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, open(t)) })
	}
}

func testEmpty(t *testing.T, st storage.Storage) {
	ctx := t.Context()
	for _, prefix := range []string{"", "packs/", "snapshots/none/"} {
		if got := names(t, st, prefix); len(got) != 0 {
			t.Errorf("list %q of an empty storage: %q", prefix, got)
		}
	}
	if _, err := st.Get(ctx, "packs/ab/missing", 0, -1, nil); !errors.Is(err, storage.ErrNotExist) || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("get of a missing object: %v, want ErrNotExist, and not fs.ErrNotExist, which is of paths in a snapshot", err)
	}
	if _, err := st.Get(ctx, "missing", 3, 4, nil); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("get of a range of a missing object: %v, want ErrNotExist", err)
	}
	if _, err := st.Stat(ctx, "missing"); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("stat of a missing object: %v, want ErrNotExist", err)
	}
	if err := st.Delete(ctx, "packs/ab/missing"); err != nil {
		t.Errorf("delete of a missing object: %v", err)
	}
}

func testPutGet(t *testing.T, st storage.Storage) {
	ctx := t.Context()
	for _, o := range []struct {
		name string
		size int
	}{
		{"config", 1},
		{"keys/0123456789abcdef", 200},
		{"packs/ab/abcdef", 70_001},
		{"snapshots/my.home-1/20261120T030000Z-0a0b", 3000},
		{"snapshots/" + strings.Repeat("i", 100) + "/" + strings.Repeat("f", 64), 5},
	} {
		want := random(o.size)
		info, err := st.Put(ctx, o.name, want)
		if err != nil {
			t.Fatalf("put %s: %v", o.name, err)
		}
		if info.Name != o.name || info.Size != int64(o.size) {
			t.Errorf("put %s says %q with %d bytes", o.name, info.Name, info.Size)
		}
		got, err := st.Get(ctx, o.name, 0, -1, nil)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("get %s: %d bytes, %v; put %d", o.name, len(got), err, len(want))
		}
		stat, err := st.Stat(ctx, o.name)
		if err != nil || stat.Name != o.name || stat.Size != int64(o.size) {
			t.Errorf("stat %s: %+v, %v", o.name, stat, err)
		}
		checkHash(t, stat, want)
		checkHash(t, info, want)
		// A folder of the name's first part is no object.
		if folder, _, ok := strings.Cut(o.name, "/"); ok {
			if _, err := st.Stat(ctx, folder); !errors.Is(err, storage.ErrNotExist) {
				t.Errorf("stat of the folder %s: %v, want ErrNotExist", folder, err)
			}
		}
	}
}

func testRanges(t *testing.T, st storage.Storage) {
	ctx := t.Context()
	data := random(10_000)
	put(t, st, "packs/ab/range", data)
	size := int64(len(data))
	for _, r := range []struct{ offset, length int64 }{
		{0, size}, {0, 1}, {size - 1, 1}, {1, size - 1}, {5000, 100}, {0, 0}, {size, 0},
		{size, -1}, {9999, -1}, {1, -1}, {0, -1},
	} {
		got, err := st.Get(ctx, "packs/ab/range", r.offset, r.length, nil)
		end := size
		if r.length >= 0 {
			end = r.offset + r.length
		}
		if err != nil || !bytes.Equal(got, data[r.offset:end]) {
			t.Errorf("get offset %d length %d: %d bytes, %v", r.offset, r.length, len(got), err)
		}
	}
	for _, r := range []struct{ offset, length int64 }{
		{0, size + 1}, {size - 1, 2}, {size, 1}, {size + 1, 0}, {size + 1, -1}, {size * 2, 5},
	} {
		if got, err := st.Get(ctx, "packs/ab/range", r.offset, r.length, nil); !errors.Is(err, storage.ErrShort) {
			t.Errorf("get offset %d length %d of %d bytes: %d bytes, %v; want ErrShort", r.offset, r.length, size, len(got), err)
		}
	}
	if _, err := st.Get(ctx, "packs/ab/range", -1, 5, nil); err == nil {
		t.Error("get with a negative offset succeeded")
	}
}

func testAgain(t *testing.T, st storage.Storage) {
	data := random(5000)
	for range 3 {
		put(t, st, "index/same", data)
	}
	if got := get(t, st, "index/same"); !bytes.Equal(got, data) {
		t.Error("content changed by putting it again")
	}
	if got := names(t, st, ""); !slices.Equal(got, []string{"index/same"}) {
		t.Errorf("after three puts of one object: %q", got)
	}
}

func testReplace(t *testing.T, st storage.Storage) {
	put(t, st, "leases/a", random(5000))
	want := random(700)
	put(t, st, "leases/a", want)
	if got := get(t, st, "leases/a"); !bytes.Equal(got, want) {
		t.Errorf("replaced object has %d bytes, want the %d new ones", len(got), len(want))
	}
}

func testList(t *testing.T, st storage.Storage) {
	want := map[string]int64{}
	for i := range 40 {
		id := fmt.Sprintf("%02x/%02x%04d", i*5, i*5, i)
		for _, folder := range []string{"packs/", "packs2/"} {
			want[folder+id] = int64(i + 1)
		}
	}
	want["config"] = 9
	want["index/x"] = 7
	want["snapshots/a/1"] = 1
	want["snapshots/a/2"] = 2
	want["snapshots/ab/1"] = 3
	for name, size := range want {
		put(t, st, name, random(int(size)))
	}
	for _, prefix := range []string{"", "packs/", "packs2/", "packs/05/", "index/", "snapshots/", "snapshots/a/", "snap/", "index/x/"} {
		got := map[string]int64{}
		err := st.List(t.Context(), prefix, func(i storage.Info) error {
			if _, twice := got[i.Name]; twice {
				t.Errorf("list %q gives %s twice", prefix, i.Name)
			}
			got[i.Name] = i.Size
			return nil
		})
		if err != nil {
			t.Fatalf("list %q: %v", prefix, err)
		}
		below := map[string]int64{}
		for name, size := range want {
			if strings.HasPrefix(name, prefix) {
				below[name] = size
			}
		}
		if diff := cmp.Diff(below, got); diff != "" {
			t.Errorf("list %q (-want +got):\n%s", prefix, diff)
		}
	}
}

func testListStops(t *testing.T, st storage.Storage) {
	for i := range 10 {
		put(t, st, fmt.Sprintf("index/%d", i), random(3))
	}
	stop := errors.New("stop")
	calls := 0
	err := st.List(t.Context(), "index/", func(storage.Info) error {
		calls++
		return stop
	})
	if err != stop || calls != 1 {
		t.Errorf("list whose callback fails: %v after %d calls, want the callback's error after 1", err, calls)
	}
}

func testListAndDelete(t *testing.T, st storage.Storage) {
	for i := range 10 {
		put(t, st, fmt.Sprintf("index/%d", i), random(3))
	}
	err := st.List(t.Context(), "index/", func(i storage.Info) error { return st.Delete(t.Context(), i.Name) })
	if err != nil {
		t.Fatalf("deleting while listing: %v", err)
	}
	if got := names(t, st, ""); len(got) != 0 {
		t.Errorf("left after deleting everything listed: %q", got)
	}
}

func testDelete(t *testing.T, st storage.Storage) {
	ctx := t.Context()
	put(t, st, "packs/ab/1", random(10))
	put(t, st, "packs/ab/2", random(10))
	for range 2 {
		if err := st.Delete(ctx, "packs/ab/1"); err != nil {
			t.Fatalf("delete: %v", err)
		}
	}
	if _, err := st.Stat(ctx, "packs/ab/1"); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("stat after delete: %v, want ErrNotExist", err)
	}
	if _, err := st.Get(ctx, "packs/ab/1", 0, -1, nil); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("get after delete: %v, want ErrNotExist", err)
	}
	if got := names(t, st, "packs/"); !slices.Equal(got, []string{"packs/ab/2"}) {
		t.Errorf("list after delete: %q", got)
	}
	again := random(20)
	put(t, st, "packs/ab/1", again)
	if got := get(t, st, "packs/ab/1"); !bytes.Equal(got, again) {
		t.Error("an object put again after its deletion has other content")
	}
}

func testNames(t *testing.T, st storage.Storage) {
	ctx := t.Context()
	for _, name := range []string{
		"", "/", "/a", "a/", "a//b", ".", "..", "a/../b", ".hidden", "a/.tmp", "a b", "a\nb", "ä", "a\\b", "a:b",
		strings.Repeat("x", 129), strings.Repeat("x/", 300) + "x",
	} {
		_, putErr := st.Put(ctx, name, []byte("x"))
		_, getErr := st.Get(ctx, name, 0, -1, nil)
		_, statErr := st.Stat(ctx, name)
		deleteErr := st.Delete(ctx, name)
		for _, err := range []error{putErr, getErr, statErr, deleteErr} {
			if !errors.Is(err, storage.ErrName) {
				t.Errorf("name %q: %v, want ErrName", name, err)
			}
		}
	}
	for _, prefix := range []string{"packs", "/", "../", "packs/../", "a//"} {
		if err := st.List(ctx, prefix, func(storage.Info) error { return nil }); !errors.Is(err, storage.ErrName) {
			t.Errorf("list %q: %v, want ErrName", prefix, err)
		}
	}
	if _, err := st.Put(ctx, "config", nil); !errors.Is(err, storage.ErrEmpty) {
		t.Errorf("put of an empty object: %v, want ErrEmpty", err)
	}
	if got := names(t, st, ""); len(got) != 0 {
		t.Errorf("refused puts left %q", got)
	}
}

func testLarge(t *testing.T, st storage.Storage) {
	data := random(17 << 20)
	put(t, st, "packs/ff/large", data)
	if got := get(t, st, "packs/ff/large"); !bytes.Equal(got, data) {
		t.Error("a large object came back changed")
	}
	got, err := st.Get(t.Context(), "packs/ff/large", 9<<20, 3<<20, nil)
	if err != nil || !bytes.Equal(got, data[9<<20:12<<20]) {
		t.Errorf("range of a large object: %d bytes, %v", len(got), err)
	}
}

func testBuffers(t *testing.T, st storage.Storage) {
	ctx := t.Context()
	data := random(3000)
	kept := bytes.Clone(data)
	put(t, st, "index/b", data)
	if !bytes.Equal(data, kept) {
		t.Fatal("put changed the caller's bytes")
	}
	clear(data)
	buf := make([]byte, 17, 4000)
	got, err := st.Get(ctx, "index/b", 0, -1, buf)
	if err != nil || !bytes.Equal(got, kept) {
		t.Fatalf("the stored object follows the caller's buffer, or get fails: %v", err)
	}
	if &got[0] != &buf[:1][0] {
		t.Error("get did not use the buffer, which was large enough")
	}
	clear(got)
	if got := get(t, st, "index/b"); !bytes.Equal(got, kept) {
		t.Error("the stored object follows a buffer that get returned")
	}
}

func testConcurrent(t *testing.T, st storage.Storage) {
	ctx := t.Context()
	shared := random(100_000)
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := range 4 {
				name := fmt.Sprintf("packs/%02x/%d-%d", i, w, i)
				data := random(20_000 + w)
				if _, err := st.Put(ctx, name, data); err != nil {
					t.Errorf("put %s: %v", name, err)
				}
				if _, err := st.Put(ctx, "packs/aa/shared", shared); err != nil {
					t.Errorf("put of the shared object: %v", err)
				}
				got, err := st.Get(ctx, name, 0, -1, nil)
				if err != nil || !bytes.Equal(got, data) {
					t.Errorf("get %s: %d bytes, %v", name, len(got), err)
				}
			}
		})
	}
	wg.Wait()
	if got := get(t, st, "packs/aa/shared"); !bytes.Equal(got, shared) {
		t.Errorf("an object put by several at once has %d other bytes", len(got))
	}
	if got := names(t, st, "packs/"); len(got) != 8*4+1 {
		t.Errorf("%d objects after concurrent puts, want 33: %q", len(got), got)
	}
}

func testCancelled(t *testing.T, st storage.Storage) {
	put(t, st, "index/a", random(100))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, putErr := st.Put(ctx, "index/b", random(10))
	_, getErr := st.Get(ctx, "index/a", 0, -1, nil)
	_, statErr := st.Stat(ctx, "index/a")
	listErr := st.List(ctx, "", func(storage.Info) error { return nil })
	deleteErr := st.Delete(ctx, "index/a")
	for i, err := range []error{putErr, getErr, statErr, listErr, deleteErr} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s with a cancelled context: %v", []Kind{Put, Get, Stat, List, Delete}[i], err)
		}
	}
	if got := names(t, st, ""); !slices.Equal(got, []string{"index/a"}) {
		t.Errorf("cancelled operations had an effect: %q", got)
	}
}

// checkHash holds the hash in info, if there is one, against the data.
func checkHash(t *testing.T, info storage.Info, data []byte) {
	t.Helper()
	if info.Hash == "" {
		return
	}
	match, known := storage.MatchHash(info.Hash, data)
	if known && !match {
		t.Errorf("%s: hash %s does not match its bytes", info.Name, info.Hash)
	}
}

func put(t *testing.T, st storage.Storage, name string, data []byte) {
	t.Helper()
	if _, err := st.Put(t.Context(), name, data); err != nil {
		t.Fatalf("put %s: %v", name, err)
	}
}

func get(t *testing.T, st storage.Storage, name string) []byte {
	t.Helper()
	data, err := st.Get(t.Context(), name, 0, -1, nil)
	if err != nil {
		t.Fatalf("get %s: %v", name, err)
	}
	return data
}

func names(t *testing.T, st storage.Storage, prefix string) []string {
	t.Helper()
	var out []string
	err := st.List(t.Context(), prefix, func(i storage.Info) error {
		out = append(out, i.Name)
		return nil
	})
	if err != nil {
		t.Fatalf("list %q: %v", prefix, err)
	}
	slices.Sort(out)
	return out
}

// random returns n bytes that do not repeat between calls.
func random(n int) []byte {
	var seed [32]byte
	for i := 0; i < len(seed); i += 8 {
		v := rand.Uint64()
		for j := range 8 {
			seed[i+j] = byte(v >> (8 * j))
		}
	}
	out := make([]byte, n)
	_, _ = rand.NewChaCha8(seed).Read(out)
	return out
}
