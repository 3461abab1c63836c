package snapshot

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/whole-tale/wtsnap/snapshot/localfs"
)

var tarMTime = time.Unix(1_500_000_000, 123_000_000)

// fullArchive makes a PAX archive of everything that one can hold.
func fullArchive(t testing.TB) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	add := func(h tar.Header, content string) {
		h.Format, h.ModTime, h.Size = tar.FormatPAX, tarMTime, int64(len(content))
		h.Uid, h.Gid, h.Uname, h.Gname = 1000, 1001, "alice", "users"
		must(t, w.WriteHeader(&h))
		_, err := io.WriteString(w, content)
		must(t, err)
	}
	add(tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o750}, "")
	add(tar.Header{Name: "./z/late", Typeflag: tar.TypeReg, Mode: 0o644}, "its folder comes later")
	add(tar.Header{Name: "./a/file", Typeflag: tar.TypeReg, Mode: 0o4755, PAXRecords: map[string]string{"SCHILY.xattr.user.x": "1"}}, "content")
	add(tar.Header{Name: "./a/large", Typeflag: tar.TypeReg, Mode: 0o600}, string(noise(3<<20, 8)))
	add(tar.Header{Name: "/abs/file", Typeflag: tar.TypeReg, Mode: 0o644}, "absolute")
	add(tar.Header{Name: "a/link", Typeflag: tar.TypeLink, Linkname: "./a/file"}, "")
	add(tar.Header{Name: "a/link2", Typeflag: tar.TypeLink, Linkname: "a/link"}, "")
	add(tar.Header{Name: "a/symlink", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd", Mode: 0o777}, "")
	add(tar.Header{Name: "a/fifo", Typeflag: tar.TypeFifo, Mode: 0o600}, "")
	add(tar.Header{Name: "a/null", Typeflag: tar.TypeChar, Mode: 0o666, Devmajor: 1, Devminor: 3}, "")
	add(tar.Header{Name: "a/empty", Typeflag: tar.TypeReg, Mode: 0o644}, "")
	add(tar.Header{Name: "a/twice", Typeflag: tar.TypeReg, Mode: 0o644}, "first")
	add(tar.Header{Name: "a/twice", Typeflag: tar.TypeReg, Mode: 0o644}, "second")
	add(tar.Header{Name: "z/", Typeflag: tar.TypeDir, Mode: 0o700}, "")
	must(t, w.Close())
	return buf.Bytes()
}

func TestTarSource(t *testing.T) {
	plain := fullArchive(t)
	var gz bytes.Buffer
	z := gzip.NewWriter(&gz)
	_, err := z.Write(plain)
	must(t, errors.Join(err, z.Close()))
	enc, err := zstd.NewWriter(nil)
	must(t, err)
	zst := enc.EncodeAll(plain, nil)

	for name, data := range map[string][]byte{"plain": plain, "gzip": gz.Bytes(), "zstd": zst} {
		t.Run(name, func(t *testing.T) {
			v := newVault(t)
			path := filepath.Join(t.TempDir(), "archive")
			must(t, os.WriteFile(path, data, 0o644))
			v.opts.Sources = []SourceSpec{{Label: "old", Kind: SourceTar, Path: path}}
			rep := v.backup()
			v.counts(rep, FileCounts{New: 8})
			checkArchive(t, v, rep)
			v.opts.Sources = []SourceSpec{{Label: "old", Kind: SourceTar, Path: "-"}}
			v.opts.Stdin = iotest.OneByteReader(bytes.NewReader(data[:0]))
			if _, err := v.try(t.Context()); wantError[*SourceError](t, err) == nil {
				t.Error("an empty archive")
			}
			v.opts.Stdin = iotest.HalfReader(bytes.NewReader(data))
			rep = v.backup()
			v.counts(rep, FileCounts{Unchanged: 8})
			if rep.Blobs.New != 0 {
				t.Errorf("the same archive made %d blobs", rep.Blobs.New)
			}
		})
	}
}

func checkArchive(t *testing.T, v *vault, rep *BackupReport) {
	t.Helper()
	for path, want := range map[string]string{
		"old":           "folder 0750",
		"old/z":         "folder 0700",
		"old/z/late":    "file 0644",
		"old/a":         "folder 0755", // in no header
		"old/a/file":    "file 4755",
		"old/abs/file":  "file 0644",
		"old/a/symlink": "symbolic link 0777",
		"old/a/fifo":    "FIFO 0600",
		"old/a/null":    "character device 0666",
	} {
		n := v.node(rep, path)
		if got := fmt.Sprintf("%v %04o", n.Type, n.Mode); got != want {
			t.Errorf("%s is a %s, want %s", path, got, want)
		}
		if n.Name != "a" && n.Name != "abs" && path != "old/abs/file" && (n.UID != 1000 || n.GID != 1001 || n.MTime != tarMTime.UnixNano()) {
			t.Errorf("%s: %+v", path, n.Meta)
		}
	}
	file, link, link2 := v.node(rep, "old/a/file"), v.node(rep, "old/a/link"), v.node(rep, "old/a/link2")
	if file.Nlink != 3 || link.Ino != file.Ino || link2.Ino != file.Ino || link.Dev != file.Dev || link.Size != 7 || file.Ino == 0 {
		t.Errorf("hard links: %+v, %+v", file.Meta, link.Meta)
	}
	if len(file.Xattrs) != 1 || file.Xattrs[0].Name != "user.x" {
		t.Errorf("attributes %v", file.Xattrs)
	}
	if n := v.node(rep, "old/a/twice"); n.Size != 6 {
		t.Errorf("the later entry has %d bytes", n.Size)
	}
	if n := v.node(rep, "old/a/null"); n.RDev != localfs.MakeRDev(1, 3) {
		t.Errorf("device %x", n.RDev)
	}
	if u := rep.Snapshot.Owners; u.Users[1000] != "alice" || u.Groups[1001] != "users" {
		t.Errorf("owners %v", u)
	}
	if n := v.node(rep, "old"); n.Size != 3<<20+22+7*3+8+6 {
		t.Errorf("%d bytes", n.Size)
	}
}

func TestHostileArchive(t *testing.T) {
	v := newVault(t)
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, h := range []tar.Header{
		{Name: "../../etc/passwd", Typeflag: tar.TypeReg},
		{Name: "a/../../x", Typeflag: tar.TypeReg},
		{Name: "file", Typeflag: tar.TypeReg},
		{Name: "file/below", Typeflag: tar.TypeReg},
		{Name: "link", Typeflag: tar.TypeLink, Linkname: "../../etc/passwd"},
		{Name: "link2", Typeflag: tar.TypeLink, Linkname: "nowhere"},
		{Name: "noname", Typeflag: tar.TypeSymlink},
	} {
		must(t, w.WriteHeader(&h))
	}
	must(t, w.Close())
	v.opts.Sources = []SourceSpec{{Label: "old", Kind: SourceTar, Path: "-"}}
	v.opts.Stdin = &buf
	rep := v.backup("etc/passwd: its path leads out", "x: its path leads out", "file/below: \"file\" on its path is no folder",
		"link: its path leads out", "link2: it is a hard link to \"nowhere\"", "noname: ")
	if rep.Snapshot.Files != 1 {
		t.Errorf("%d files", rep.Snapshot.Files)
	}
}

func TestTruncatedArchive(t *testing.T) {
	v := newVault(t)
	data := fullArchive(t)
	v.opts.Sources = []SourceSpec{{Label: "old", Kind: SourceTar, Path: "-"}}
	v.opts.Stdin = bytes.NewReader(data[:len(data)/2])
	rep := v.backup("it ended early")
	if rep.Snapshot.Complete || rep.Snapshot.Files != 2 {
		t.Errorf("complete: %v, %d files", rep.Snapshot.Complete, rep.Snapshot.Files)
	}
	v.opts.Stdin = strings.NewReader("this is no archive, whatever it is")
	if _, err := v.try(t.Context()); wantError[*SourceError](t, err) == nil {
		t.Error("no archive was taken")
	}
}

func TestSparseArchive(t *testing.T) {
	data := make([]byte, 5<<20)
	copy(data[1<<20:], "begin")
	copy(data[4<<20+5:], noise(300<<10, 1))
	v := newVault(t)
	v.opts.Sources = []SourceSpec{{Label: "s", Kind: SourceMongo, Path: "a test", Stream: streamFunc(func(ctx context.Context, k *Sink) error {
		return k.AddSparse(ctx, "dir/sparse", Node{Meta: localfs.Meta{Type: localfs.TypeFile, Mode: 0o644}}, bytes.NewReader(data))
	})}}
	rep := v.backup()
	n := v.node(rep, "s/dir/sparse")
	holes := int64(0)
	for _, p := range n.Content {
		holes += p.HoleSize
	}
	if n.Size != 5<<20 || holes < 4<<20 {
		t.Errorf("%d bytes, %d of them in holes: %v", n.Size, holes, n.Content)
	}
	var out bytes.Buffer
	_, err := Dump(t.Context(), v.r, rep.Snapshot, "s/dir/sparse", &out, DumpRaw)
	must(t, err)
	if !bytes.Equal(out.Bytes(), data) {
		t.Error("it came back as something else")
	}
}

type streamFunc func(ctx context.Context, k *Sink) error

func (f streamFunc) Save(ctx context.Context, k *Sink) error { return f(ctx, k) }

// Several streams at once, interleaved: what a mongodump archive is.
func TestConcurrentStreams(t *testing.T) {
	v := newVault(t)
	const streams = 40
	v.opts.Sources = []SourceSpec{{Label: "mongo", Path: "a test", Stream: streamFunc(func(ctx context.Context, k *Sink) error {
		errs := make(chan error, streams)
		var pipes []*io.PipeWriter
		for i := range streams {
			r, w := io.Pipe()
			pipes = append(pipes, w)
			go func() {
				errs <- k.Add(ctx, fmt.Sprintf("db%d/%d.bson", i%3, i), Node{Meta: localfs.Meta{Type: localfs.TypeFile, Mode: 0o600}}, r)
			}()
		}
		for round := range 6 {
			for i, w := range pipes {
				if _, err := w.Write(noise(100_000, uint64(round*streams+i))); err != nil {
					return err
				}
			}
		}
		var all error
		for _, w := range pipes {
			all = errors.Join(all, w.Close())
		}
		for range streams {
			all = errors.Join(all, <-errs)
		}
		return all
	})}}
	rep := v.backup()
	v.counts(rep, FileCounts{New: streams})
	var want, got bytes.Buffer
	for round := range 6 {
		want.Write(noise(100_000, uint64(round*streams+17)))
	}
	_, err := Dump(t.Context(), v.r, rep.Snapshot, "mongo/db2/17.bson", &got, DumpRaw)
	must(t, err)
	if !bytes.Equal(want.Bytes(), got.Bytes()) {
		t.Error("a stream came back as something else")
	}
}

func TestStdinSource(t *testing.T) {
	v := newVault(t)
	v.opts.Sources = []SourceSpec{{Label: "ledger", Kind: SourceStdin, Path: "dump.sql"}}
	data := noise(5<<20, 2)
	v.opts.Stdin = bytes.NewReader(data)
	rep := v.backup()
	n := v.node(rep, "ledger/dump.sql")
	if n.Size != 5<<20 || n.Mode != 0o600 || n.MTime != rep.Snapshot.Time.UnixNano() {
		t.Errorf("%+v", n)
	}
	data = slices.Insert(data, 2<<20, []byte("one more line")...)
	v.opts.Stdin = bytes.NewReader(data)
	rep = v.backup()
	v.counts(rep, FileCounts{Changed: 1})
	if rep.Bytes.Uploaded > 64<<10 || rep.Blobs.Delta == 0 {
		t.Errorf("a small change: %+v, %+v", rep.Bytes, rep.Blobs)
	}
	v.opts.Stdin = io.MultiReader(bytes.NewReader(data[:2<<20]), iotest.ErrReader(errors.New("broken pipe")))
	_, err := v.try(t.Context())
	if e := wantError[*SourceError](t, err); !strings.Contains(e.Error(), "broken pipe") {
		t.Errorf("error %v", err)
	}
}

// Nothing comes from standard input any more; the run can be interrupted all the same.
func TestStdinHangs(t *testing.T) {
	v := newVault(t)
	v.backup()
	v.opts.Sources = []SourceSpec{{Label: "ledger", Kind: SourceStdin, Path: "dump.sql"}}
	r, w := io.Pipe()
	defer w.Close()
	v.opts.Stdin = r
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		_, _ = w.Write(make([]byte, 1000))
		cancel()
	}()
	if _, err := v.try(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}
