package mongo

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/gzip"

	"github.com/whole-tale/wtsnap/mongo/archive"
	"github.com/whole-tale/wtsnap/mongo/internal/mongotest"
	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/snapshot"
)

// toArchive restores to an archive and returns its bytes.
func (v *vault) toArchive(s *snapshot.Snapshot, path string) []byte {
	v.t.Helper()
	var out bytes.Buffer
	rep, err := snapshot.Restore(v.t.Context(), v.r, snapshot.RestoreOptions{Snapshot: s, Path: path, Stdout: &out, Foreign: DumpTarget{},
		Target: snapshot.TargetSpec{Kind: snapshot.TargetMongodump, Stdout: true}})
	must(v.t, err)
	if rep.Problems > 0 || rep.Bytes.Written != int64(out.Len()) {
		v.t.Fatalf("the report is %+v of %d bytes", rep, out.Len())
	}
	return out.Bytes()
}

// TestDumpTarget restores each golden dump to an archive, and saves that again: it is the same folder.
func TestDumpTarget(t *testing.T) {
	for _, name := range []string{"100.10-dir", "100.10.archive", "100.10.archive.gz", "3.2.22-dir", "3.2.22.oplog.archive.gz"} {
		t.Run(name, func(t *testing.T) {
			v := newVault(t)
			s := v.backup(dumped(golden(name), nil))
			want := v.files(s, "mongo")
			data := v.toArchive(s, "")
			got := v.files(v.backup(dumped("-", bytes.NewReader(data))), "mongo")
			delete(want, "prelude.json")
			delete(got, "prelude.json")
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
			a, err := archive.NewReader(bytes.NewReader(data))
			must(t, err)
			special := true
			for buf := make([]byte, 1<<16); ; {
				e, err := a.Next(buf)
				if err == io.EOF {
					break
				}
				must(t, err)
				if !archive.Special(e.Namespace) {
					special = false
				} else if !special {
					t.Errorf("%v comes late", e.Namespace)
				}
			}
		})
	}
}

func TestDumpTargetFile(t *testing.T) {
	v := newVault(t)
	s := v.backup(folder("mongo", golden("100.10-dir")))
	dir := t.TempDir()
	restore := func(o snapshot.RestoreOptions) (*snapshot.RestoreReport, error) {
		o.Snapshot, o.Foreign = s, DumpTarget{}
		return snapshot.Restore(t.Context(), v.r, o)
	}
	parse := func(target string) snapshot.TargetSpec {
		spec, err := snapshot.ParseTarget(target)
		must(t, err)
		return spec
	}
	_, err := restore(snapshot.RestoreOptions{Path: "mongo/girder", Target: parse("mongodump:" + dir + "/a.archive.gz")})
	must(t, err)
	z, err := gzip.NewReader(bytes.NewReader(readFile(t, dir+"/a.archive.gz")))
	must(t, err)
	data, err := io.ReadAll(z)
	must(t, err)
	if !bytes.Equal(data, v.toArchive(s, "mongo/girder")) {
		t.Error("the compressed archive differs from the plain one")
	}
	var listed []string
	rep, err := restore(snapshot.RestoreOptions{Path: "mongo", Target: parse("mongodump:" + dir + "/none"), DryRun: true,
		OnAction: func(a snapshot.Action) { listed = append(listed, a.Path) }})
	must(t, err)
	if len(listed) != 12 || !rep.DryRun || rep.Bytes.Written > 0 || rep.Bytes.Total == 0 {
		t.Errorf("a dry run lists %q, and reports %+v", listed, rep)
	}
	for _, o := range []snapshot.RestoreOptions{{Path: "", Target: parse("mongodump:" + dir + "/none")},
		{Path: "mongo", Delete: true, Target: parse("mongodump:" + dir + "/none")}, {Path: "mongo", Target: parse("mongodump:" + dir)},
		{Path: "mongo", Target: parse("mongodb://x/")}} {
		if _, err := restore(o); err == nil {
			t.Errorf("%+v is done", o)
		}
	}
	files, err := os.ReadDir(dir)
	must(t, err)
	if len(files) != 1 {
		t.Errorf("left behind: %v", files)
	}
}

// TestDumpTargetDamage loses stored data: no file gets its name, and the error names what is damaged.
func TestDumpTargetDamage(t *testing.T) {
	v := newUncheckedVault(t)
	s := v.backup(folder("mongo", golden("3.2.22-dir")))
	v.loseData()
	path := filepath.Join(t.TempDir(), "out")
	_, err := snapshot.Restore(t.Context(), v.r, snapshot.RestoreOptions{Snapshot: s, Foreign: DumpTarget{}, Path: "mongo/girder",
		Target: snapshot.TargetSpec{Kind: snapshot.TargetMongodump, Path: path}})
	var damage *repo.DamageError
	if !errors.As(err, &damage) || !strings.Contains(err.Error(), "mongo/girder/item.bson") {
		t.Errorf("the error is %v", err)
	}
	if _, err := os.Lstat(path); err == nil {
		t.Error("the archive has its name")
	}
}

// TestRealMongorestore: what is restored to an archive or to a folder, the real mongorestore takes into an empty server,
// which then holds what it holds after mongorestore of the dump itself.
func TestRealMongorestore(t *testing.T) {
	mongorestore := func(t *testing.T, args ...string) map[string]string {
		t.Helper()
		s := mongotest.Start(t, mongotest.Options{})
		said := mongotest.Run(t, "mongorestore", append(args, "--uri", s.URI(), "--drop")...)
		if !strings.Contains(said, " 0 document(s) failed") {
			t.Errorf("mongorestore said:\n%s", said)
		}
		return s.State()
	}
	for _, c := range []struct {
		name, dir string
		least     int
		args      []string
	}{{"100.10-dir", "100.10-dir", 9, nil}, {"100.10.archive.gz", "100.10-dir", 9, nil}, {"100.10.archive", "100.10-dir", 9, []string{"--oplogReplay"}},
		{"3.2.22.oplog.archive.gz", "3.2.22-dir", 2, []string{"--oplogReplay"}}} {
		t.Run(c.name, func(t *testing.T) {
			want := mongorestore(t, append(c.args, golden(c.dir))...)
			if len(want) < c.least {
				t.Fatalf("only %d collections", len(want))
			}
			v := newVault(t)
			s := v.backup(dumped(golden(c.name), nil))
			dir := filepath.Join(t.TempDir(), "dump")
			_, err := snapshot.Restore(t.Context(), v.r, snapshot.RestoreOptions{Snapshot: s, Path: "mongo", NumericIDs: true,
				Target: snapshot.TargetSpec{Kind: snapshot.TargetFolder, Path: dir}})
			must(t, err)
			if diff := cmp.Diff(want, mongorestore(t, append(c.args, dir)...)); diff != "" {
				t.Errorf("-dump +restored folder\n%s", diff)
			}
			file := filepath.Join(t.TempDir(), "archive")
			must(t, os.WriteFile(file, v.toArchive(s, "mongo"), 0o600))
			if diff := cmp.Diff(want, mongorestore(t, append(c.args, "--archive="+file)...)); diff != "" {
				t.Errorf("-dump +restored archive\n%s", diff)
			}
		})
	}
}
