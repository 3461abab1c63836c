package legacy_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/whole-tale/wtsnap/mongo/legacy"
	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/repo/storage"
	"github.com/whole-tale/wtsnap/repo/storage/mem"
	"github.com/whole-tale/wtsnap/repo/storage/storagetest"
	"github.com/whole-tale/wtsnap/snapshot"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// homes is a tar archive with n files; link adds a hard link.
func homes(t *testing.T, n int, link bool) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for i := range n {
		text := strings.Repeat(fmt.Sprintf("line %d\n", i), 2000+i)
		must(t, w.WriteHeader(&tar.Header{Name: fmt.Sprintf("./mnt/homes/u%d/notes", i), Mode: 0o644, Size: int64(len(text)), Typeflag: tar.TypeReg,
			ModTime: time.Unix(1500000000, 0), Uid: 1000 + i, Uname: fmt.Sprint("u", i)}))
		_, err := w.Write([]byte(text))
		must(t, err)
	}
	if link {
		must(t, w.WriteHeader(&tar.Header{Name: "./mnt/homes/u0/link", Linkname: "./mnt/homes/u0/notes", Typeflag: tar.TypeLink}))
	}
	must(t, w.Close())
	must(t, z.Close())
	return b.Bytes()
}

// dump is what mongodump --gzip --archive wrote.
func dump(t *testing.T) []byte {
	data, err := os.ReadFile(filepath.Join("..", "testdata", "3.2.22.oplog.archive.gz"))
	must(t, err)
	return data
}

type world struct {
	t  *testing.T
	r  *repo.Repository
	st *mem.Storage
}

func newWorld(t *testing.T) *world {
	key, err := repo.NewKeyFile()
	must(t, err)
	r, err := repo.Init(t.Context(), storagetest.NewReferee(t, mem.New()), repo.InitOptions{Password: key})
	must(t, err)
	t.Cleanup(func() {
		rep, err := r.Check(context.Background(), repo.CheckOptions{References: snapshot.References(snapshot.TreeLoader(r)), ReadShare: 1})
		if err != nil || len(rep.Problems) > 0 {
			t.Errorf("check at the end: %v, %v", err, rep)
		}
	})
	return &world{t, r, mem.New()}
}

func (w *world) put(name string, data []byte) {
	_, err := w.st.Put(w.t.Context(), name, data)
	must(w.t, err)
}

func (w *world) find(o legacy.Options) []*legacy.Night {
	w.t.Helper()
	nights, _, err := legacy.Find(w.t.Context(), w.st, "WT")
	must(w.t, err)
	must(w.t, legacy.Mark(w.t.Context(), w.r, nights, o))
	return nights
}

func (w *world) run(st storage.Storage, o legacy.Options) []string {
	w.t.Helper()
	nights := w.find(o)
	for _, n := range nights {
		if n.State == legacy.Left {
			must(w.t, legacy.Import(w.t.Context(), w.r, st, n, o, nil, &snapshot.Progress{}))
		}
	}
	return states(nights)
}

func states(nights []*legacy.Night) (out []string) {
	for _, n := range nights {
		out = append(out, n.Instance+" "+n.Date.Format("0102")+" "+string(n.State))
	}
	return out
}

func (w *world) same(got []string, want ...string) {
	w.t.Helper()
	if !slices.Equal(got, want) {
		w.t.Fatalf("%q, want %q", got, want)
	}
}

var options = legacy.Options{Place: "box:WT", Strip: 2}

func TestImport(t *testing.T) {
	w := newWorld(t)
	w.put("prod/20180402/home-20180402.tgz", homes(t, 4, true))
	w.put("prod/20180401/home-20180401.tgz", homes(t, 3, false))
	w.put("prod/20180401/mongodump-20180401.tgz", dump(t))
	w.put("dev/20180401/home-20180401.tgz", homes(t, 1, false))
	w.put("prod/20180401/home-20180402.tgz", []byte("of another day"))
	w.put("prod/README", []byte("x"))
	_, others, err := legacy.Find(t.Context(), w.st, "WT")
	must(t, err)
	w.same(others, "prod/20180401/home-20180402.tgz", "prod/README")
	before := w.list()
	w.same(w.run(w.st, options), "dev 0401 imported", "prod 0401 imported", "prod 0402 imported")
	w.same(w.run(w.st, options), "dev 0401 done", "prod 0401 done", "prod 0402 done")
	w.same(w.list(), before...)

	snaps, err := snapshot.List(t.Context(), w.r, snapshot.Filter{Instance: "prod"})
	must(t, err)
	if len(snaps) != 2 || !snaps[0].Complete || snaps[0].Time.Format("2006-01-02 15") != "2018-04-01 12" || snaps[0].Source("mongo").Mongo.Documents() == 0 {
		t.Fatalf("%+v", snaps[0].Manifest)
	}
	n, err := snapshot.Lookup(t.Context(), w.r, snaps[1], "homes/u3/notes")
	if err != nil || n.MTime != 1500000000e9 || n.UID != 1003 {
		t.Fatalf("%+v, %v", n, err)
	}

	// A night that comes later is imported alone; what was forgotten does not come back.
	must(t, w.r.Forget(t.Context(), []repo.SnapshotRef{snaps[0].Ref}))
	w.put("prod/20180403/home-20180403.tgz", homes(t, 4, false))
	w.same(w.run(w.st, options), "dev 0401 done", "prod 0401 done", "prod 0402 done", "prod 0403 imported")
}

func (w *world) list() (names []string) {
	must(w.t, w.st.List(w.t.Context(), "", func(i storage.Info) error {
		names = append(names, fmt.Sprint(i.Name, " ", i.Size))
		return nil
	}))
	slices.Sort(names)
	return names
}

// What is damaged is imported up to the damage, as incomplete; the others go on.
func TestDamage(t *testing.T) {
	whole, mongodump := homes(t, 300, false), dump(t)
	flipped := slices.Clone(whole)
	flipped[len(flipped)-6] ^= 1 // the checksum of gzip
	for name, files := range map[string]map[string][]byte{
		"truncated homes": {"home": whole[:len(whole)/2]},
		"checksum":        {"home": flipped},
		"truncated dump":  {"home": whole, "mongodump": mongodump[:len(mongodump)-20]},
		"no dump":         {"home": whole, "mongodump": []byte("<html>login</html>")},
		"no homes":        {"home": []byte("<html>login</html>" + strings.Repeat(" ", 2000)), "mongodump": mongodump},
		"no archive":      {"home": []byte("<html>login</html>" + strings.Repeat(" ", 2000))},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			for kind, data := range files {
				w.put("prod/20180401/"+kind+"-20180401.tgz", data)
			}
			w.put("prod/20180402/home-20180402.tgz", whole)
			got := w.run(w.st, options)
			if got[0] == "prod 0401 imported" || got[0] == "prod 0401 done" || got[1] != "prod 0402 imported" {
				t.Fatalf("%q", got)
			}
			snaps, err := snapshot.List(t.Context(), w.r, snapshot.Filter{})
			must(t, err)
			for _, s := range snaps {
				if s.Time.Day() == 1 && s.Complete {
					t.Error("a damaged night became a complete snapshot")
				}
			}
			if name != "no archive" {
				if got[0] != "prod 0401 incomplete" {
					t.Errorf("%q", got)
				}
				w.same(w.run(w.st, options), "prod 0401 done", "prod 0402 done")
			}
			again := options
			again.Again = true
			if got := w.run(w.st, again); got[0] == "prod 0401 done" || got[1] != "prod 0402 done" {
				t.Errorf("again: %q", got)
			}
		})
	}
}

type failing struct {
	storage.Storage
	err error
}

func (f failing) Get(context.Context, string, int64, int64, []byte) ([]byte, error) {
	return nil, f.err
}

// A place that fails says nothing about the archive: nothing is kept, and the next run tries it again.
func TestPlaceFails(t *testing.T) {
	w := newWorld(t)
	w.put("prod/20180401/home-20180401.tgz", homes(t, 3, false))
	w.put("prod/20180401/mongodump-20180401.tgz", dump(t))
	w.same(w.run(failing{w.st, errors.New("the line is down")}, options), "prod 0401 failed")
	snaps, err := snapshot.List(t.Context(), w.r, snapshot.Filter{})
	must(t, err)
	if len(snaps) != 0 {
		t.Fatalf("%d snapshots", len(snaps))
	}
	w.same(w.run(w.st, options), "prod 0401 imported")
}
