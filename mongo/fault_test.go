package mongo

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/whole-tale/wtsnap/mongo/internal/mongotest"
	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/repo/storage/storagetest"
	"github.com/whole-tale/wtsnap/snapshot"
)

// dataOf is what a dump has of a collection.
func dataOf(t *testing.T, r *repo.Repository, s *snapshot.Snapshot, db, name string) []byte {
	t.Helper()
	d, err := OpenDump(t.Context(), r, s, "mongo")
	must(t, err)
	return documents(t, d.Documents(t.Context(), d.Collection(db, name)))
}

// every is the distance of the faults that are tried: all where there is time.
func every(n int) int {
	if os.Getenv("WTSNAP_SLOW") != "" {
		return 1
	}
	return n
}

// TestDumpServerDies lets the server die at each command of a dump, for good or for once: a snapshot is complete and has
// everything, or it is none. The next dump is whole.
func TestDumpServerDies(t *testing.T) {
	for _, forever := range []bool{false, true} {
		failed, survived := 0, 0
		for n := 1; ; n++ {
			s := mongotest.Start(t, mongotest.Options{})
			fill(s, 130)
			want := bytes.Join(rawBytes(s.Documents("girder.item")), nil)
			if len(want) == 0 {
				t.Fatal("there are no documents: ", s.Namespaces())
			}
			var count atomic.Int64
			remove := s.OnCommand(func(c mongotest.Call) *mongotest.Outcome {
				if k := count.Add(1); k == int64(n) || forever && k > int64(n) {
					return &mongotest.Outcome{Drop: []mongotest.DropKind{mongotest.DropBefore, mongotest.DropAfter, mongotest.DropInReply}[n%3], Bytes: 40}
				}
				return nil
			})
			v := newVault(t)
			uri := s.URI() + "&serverSelectionTimeoutMS=300"
			rep, _, err := v.try(nil, native(t, SourceOptions{Address: uri}))
			remove()
			switch {
			case err == nil && rep.Snapshot.Complete && rep.Problems == 0:
				survived++
				if !bytes.Equal(dataOf(t, v.r, rep.Snapshot, "girder", "item"), want) {
					t.Errorf("forever %v, command %d: the snapshot is complete, and other documents are in it", forever, n)
				}
			case err == nil && rep.Snapshot.Complete:
				t.Errorf("forever %v, command %d: a complete snapshot with problems: %+v", forever, n, rep.Errors)
			default:
				failed++
				if snap := v.backup(native(t, SourceOptions{Address: uri})); !bytes.Equal(dataOf(t, v.r, snap, "girder", "item"), want) {
					t.Errorf("forever %v, command %d: the next dump has other documents", forever, n)
				}
			}
			if count.Load() < int64(n) {
				break
			}
			if forever {
				n += every(9) - 1 // each costs the time until the server is given up
			} else {
				n += every(3) - 1
			}
		}
		if forever && failed < 2 || !forever && survived < 5 {
			t.Errorf("forever %v: %d failed, %d survived", forever, failed, survived)
		}
	}
}

// faulty is a vault whose storage fails where it is told to.
func faulty(t *testing.T, from *vault) (*vault, *storagetest.Fault) {
	t.Helper()
	f := storagetest.NewFault(from.st)
	v := &vault{t: t, st: from.st, key: from.key, now: from.now}
	var err error
	v.r, err = repo.Open(t.Context(), f, repo.OpenOptions{Password: v.key})
	must(t, err)
	return v, f
}

// TestDumpStorageFails lets the storage fail at each call of a dump: it is said, and the next dump is whole.
func TestDumpStorageFails(t *testing.T) {
	s := mongotest.Start(t, mongotest.Options{})
	fill(s, 130)
	want := bytes.Join(rawBytes(s.Documents("girder.item")), nil)
	for k, mode := range []storagetest.Mode{storagetest.NotDone, storagetest.DoneFailed, storagetest.CrashFirst} {
		failures := 0
		for i := k; ; i += every(3) { // the modes by turns
			v, f := faulty(t, newVault(t))
			f.Reset()
			f.At(i, mode)
			rep, _, err := v.try(nil, native(t, SourceOptions{Address: s.URI()}))
			hit := f.Hit() > 0
			f.Reset()
			if err != nil {
				failures++
			} else if rep.Snapshot.Complete && !bytes.Equal(dataOf(t, v.r, rep.Snapshot, "girder", "item"), want) {
				t.Errorf("mode %v, call %d: other documents are in a complete snapshot", mode, i)
			}
			v, _ = faulty(t, v)
			if snap := v.backup(native(t, SourceOptions{Address: s.URI()})); !bytes.Equal(dataOf(t, v.r, snap, "girder", "item"), want) {
				t.Errorf("mode %v, call %d: the next dump has other documents", mode, i)
			}
			if !hit {
				must(t, err)
				break
			}
		}
		if failures == 0 {
			t.Errorf("mode %v: no failure", mode)
		}
	}
}

// TestRestoreStorageFails lets the storage fail at each call of a restore: it is said, and run again the restore ends like
// one that nothing befell.
func TestRestoreStorageFails(t *testing.T) {
	v, _, from := pair(t, 400)
	from.Insert("e.other", item(1, "x"))
	snap := v.backup(dumped(folderOf(t, from), nil))
	want := stateOf(from)
	failures := 0
	for i := 0; ; i++ {
		s := mongotest.Start(t, mongotest.Options{})
		w, f := faulty(t, v)
		f.Reset()
		f.At(i, storagetest.NotDone)
		rep, _, err := w.restoreTo(s.URI(), &Restorer{}, snapshot.RestoreOptions{Snapshot: snap, Workers: 1})
		hit := f.Hit() > 0
		f.Reset()
		if err != nil || rep.Problems > 0 {
			failures++
			w, _ = faulty(t, v)
			w.restored(s.URI(), &Restorer{}, snapshot.RestoreOptions{Snapshot: snap})
		}
		if diff := cmp.Diff(want, stateOf(s)); diff != "" {
			t.Errorf("call %d: %s", i, diff)
		}
		if !hit {
			must(t, err)
			break
		}
	}
	if failures < 3 {
		t.Errorf("%d failures", failures)
	}
}

// TestRestoreProcessDies ends the context, as a signal does, at each command of a restore in each mode, and runs it again.
func TestRestoreProcessDies(t *testing.T) {
	v, _, from := pair(t, 120)
	from.CreateIndexes("d.c", bson.D{{Key: "key", Value: bson.D{{Key: "v", Value: 1}}}, {Key: "name", Value: "v_1"}})
	snap := v.backup(dumped(folderOf(t, from), nil))
	want := stateOf(from)
	for _, mode := range []RestoreMode{RefuseExisting, DropExisting, InsertMissing, Overwrite} {
		ended := 0
		for n := 1; ; n++ {
			s := mongotest.Start(t, mongotest.Options{})
			if mode == DropExisting || mode == Overwrite {
				s.Insert("d.c", item(7, "another"))
			}
			ctx, cancel := context.WithCancel(t.Context())
			hit := cutAt(s, n, cancel)
			o := snapshot.RestoreOptions{Snapshot: snap, Target: snapshot.TargetSpec{Kind: snapshot.TargetMongoDB, Path: s.URI()}, Workers: 1}
			o.Foreign, o.Monitor = &Restorer{Mode: mode}, &recorder{}
			_, err := snapshot.Restore(ctx, v.r, o)
			cancel()
			if err != nil {
				ended++
				v.restored(s.URI(), &Restorer{Mode: mode}, snapshot.RestoreOptions{Snapshot: snap})
			}
			got := stateOf(s)
			if err == nil {
				delete(got, journalDB+"."+journalName) // only the journal stays
			}
			if mode == Overwrite {
				got["d.c"] = want["d.c"] // with the indexes that it had
				if len(s.Documents("d.c")) != 120 {
					t.Errorf("command %d: %d documents", n, len(s.Documents("d.c")))
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("mode %d, command %d: %s", mode, n, diff)
			}
			if !hit() {
				must(t, err)
				break
			}
		}
		if ended < 5 {
			t.Errorf("mode %d: ended %d times", mode, ended)
		}
	}
}

// FuzzDocuments: no bytes make the reader of documents panic, and what it yields are the bytes that came.
func FuzzDocuments(f *testing.F) {
	doc, err := bson.Marshal(bson.D{{Key: "_id", Value: 1}, {Key: "a", Value: bson.A{"x", nil, 1.5}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(doc))
	f.Add(append(append([]byte{}, doc...), doc[:9]...))
	f.Add([]byte{5, 0, 0, 0, 0, 255, 255, 255, 127, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		d := &Documents{path: "x", in: bufio.NewReader(bytes.NewReader(data))}
		var all []byte
		for {
			doc, err := d.Next()
			if err == io.EOF {
				if !bytes.Equal(all, data) {
					t.Errorf("%d of %d bytes, and no error", len(all), len(data))
				}
				break
			}
			all = append(all, doc...)
			if err != nil {
				break
			}
			_, _, _ = idKey(doc), idText(doc), asStored(doc)
			_, _ = hasZeroTimestamp(doc), hasDollar(doc)
			add(new([2]uint64), doc)
			_ = fingerprintOf(doc)
		}
		if !bytes.HasPrefix(data, all) {
			t.Error("other bytes than those that came")
		}
	})
}

// TestRestoreInterrupted: whatever the server answered last, a restore that is stopped while it waits for another attempt says
// that it was stopped.
func TestRestoreInterrupted(t *testing.T) {
	v, snap, _ := pair(t, 10)
	s := mongotest.Start(t, mongotest.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	answered := make(chan struct{})
	var once sync.Once
	s.OnCommand(func(c mongotest.Call) *mongotest.Outcome {
		if c.Name != "insert" || c.DB != "d" {
			return nil
		}
		once.Do(func() { close(answered) })
		return &mongotest.Outcome{Error: mongotest.NotWritablePrimary}
	})
	go func() {
		<-answered
		cancel()
	}()
	_, err := snapshot.Restore(ctx, v.r, snapshot.RestoreOptions{Snapshot: snap, Monitor: &recorder{}, Foreign: &Restorer{pause: time.Hour},
		Target: snapshot.TargetSpec{Kind: snapshot.TargetMongoDB, Path: s.URI()}})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	wrapped := interrupted(ctx, errors.New("not primary"))
	if !errors.Is(wrapped, context.Canceled) || !strings.Contains(wrapped.Error(), "not primary") || interrupted(t.Context(), io.EOF) != io.EOF || interrupted(ctx, nil) != nil {
		t.Errorf("error %v", wrapped)
	}
}
