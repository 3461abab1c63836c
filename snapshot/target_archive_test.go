package snapshot

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"github.com/whole-tale/wtsnap/index"
	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/repo/storage/storagetest"
)

// tarNames restores into a tar archive and returns its names. There must be no problems.
func tarNames(t *testing.T, d *depot, o RestoreOptions) []string {
	t.Helper()
	o.Target, o.Stdout = TargetSpec{Kind: TargetTar, Stdout: true}, io.Discard
	d.restore(o)
	return tarNamesOf(t, d, o)
}

func tarNamesOf(t *testing.T, d *depot, o RestoreOptions) (names []string) {
	t.Helper()
	var out bytes.Buffer
	o.Target, o.Stdout = TargetSpec{Kind: TargetTar, Stdout: true}, &out
	_, err := Restore(t.Context(), d.r, o)
	must(t, err)
	r := tar.NewReader(&out)
	for {
		h, err := r.Next()
		if err == io.EOF {
			return names
		}
		must(t, err)
		names = append(names, h.Name)
	}
}

func regularFiles(names []string) (files []string) {
	for _, name := range names {
		if !strings.HasSuffix(name, "/") {
			files = append(files, name)
		}
	}
	return files
}

func TestRestoreTar(t *testing.T) {
	src := t.TempDir() + "/alice"
	makeHome(t, src)
	d := newDepot(t).checked()
	s := d.save(map[string]string{"homes": src})
	dir := t.TempDir()
	for _, name := range []string{"a.tar", "a.tar.gz", "a.tar.zst"} {
		target, err := ParseTarget("tar:" + dir + "/" + name)
		must(t, err)
		o := RestoreOptions{Snapshot: s, Path: "homes", Target: target, NumericIDs: true, Memory: 1}
		rep := d.restore(o)
		f, err := os.Open(dir + "/" + name)
		must(t, err)
		defer f.Close()
		if info, err := f.Stat(); err != nil || info.Size() != rep.Bytes.Written {
			t.Errorf("%s: %d bytes reported, %d written", name, rep.Bytes.Written, info.Size())
		}
		args := []string{"--numeric-owner", "--xattrs", "--xattrs-include=*", "-p", "-S"}
		var in io.Reader = f
		switch target.Compression {
		case CompressGzip:
			args = append(args, "-z")
		case CompressZstd:
			dec, err := zstd.NewReader(f)
			must(t, err)
			defer dec.Close()
			in = dec
		}
		if _, err := exec.LookPath("tar"); err != nil {
			t.Skipf("no tar to read it back: %v", err)
		}
		out := t.TempDir()
		cmd := exec.CommandContext(t.Context(), "tar", append(args, "-C", out, "-x", "-f", "-")...)
		cmd.Stdin = in
		if text, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("tar: %v\n%s", err, text)
		}
		// tar knows nothing of the holes.
		want, got := listing(t, src, true), listing(t, out, true)
		for _, m := range []map[string]string{want, got} {
			for path, line := range m {
				if before, after, ok := strings.Cut(line, " data "); ok {
					m[path] = before + after[strings.LastIndexByte(after, ' '):]
				}
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 3 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

func TestRestoreZip(t *testing.T) {
	src := t.TempDir() + "/alice"
	makeHome(t, src)
	d := newDepot(t).checked()
	s := d.save(map[string]string{"homes": src})
	name := t.TempDir() + "/a.zip"
	rep := d.restore(RestoreOptions{Snapshot: s, Path: "homes", Target: TargetSpec{Kind: TargetZip, Path: name}, NumericIDs: true})
	if rep.Files.New == 0 || len(rep.Lacks) == 0 {
		t.Errorf("%+v", rep)
	}
	z, err := zip.OpenReader(name)
	must(t, err)
	defer z.Close()
	seen := 0
	for _, f := range z.File {
		path := src + "/" + f.Name
		info, err := os.Lstat(path)
		must(t, err)
		seen++
		if f.Mode() != info.Mode() {
			t.Errorf("%q: mode %v, want %v", f.Name, f.Mode(), info.Mode())
		}
		if got, want := f.Modified.Unix(), info.ModTime().Unix(); got != want && info.ModTime().Unix() > 0 {
			t.Errorf("%q: time %d, want %d", f.Name, got, want)
		}
		r, err := f.Open()
		must(t, err)
		got, err := io.ReadAll(r)
		must(t, err)
		var want []byte
		switch {
		case info.Mode().IsRegular():
			want, err = os.ReadFile(path)
		case info.Mode()&os.ModeSymlink != 0:
			var target string
			target, err = os.Readlink(path)
			want = []byte(target)
		}
		must(t, err)
		if !bytes.Equal(got, want) {
			t.Errorf("%q: %d bytes differ from %d", f.Name, len(got), len(want))
		}
	}
	all := listing(t, src, false)
	notHeld := 0
	for _, line := range all {
		if strings.HasPrefix(line, "FIFO") || strings.HasPrefix(line, "character") {
			notHeld++
		}
	}
	if seen != len(all)-1-notHeld {
		t.Errorf("%d entries of %d", seen, len(all)-1-notHeld)
	}
	if unzip, err := exec.LookPath("unzip"); err != nil {
		t.Logf("not tested with unzip: %v", err)
	} else if text, err := exec.CommandContext(t.Context(), unzip, "-tq", name).CombinedOutput(); err != nil {
		t.Errorf("unzip: %v\n%s", err, text)
	}
}

func TestArchivesAreWholeOrNotThere(t *testing.T) {
	src := t.TempDir()
	for i := range 20 {
		write(t, fmt.Sprintf("%s/%d", src, i), bytesOf(uint64(i), 1<<20))
	}
	d := newDepot(t).checked()
	s := d.save(map[string]string{"l": src})
	for _, kind := range []string{"tar:", "zip:"} {
		dir := t.TempDir()
		write(t, dir+"/out", []byte("older archive"))
		target, err := ParseTarget(kind + dir + "/out")
		must(t, err)
		o := RestoreOptions{Snapshot: s, Path: "l", Target: target, Memory: 1}
		d.reopen()
		must(t, d.r.LoadIndex(t.Context()))
		d.fault.Reset()
		d.fault.Only(func(op storagetest.Op) bool { return op.Kind == storagetest.Get })
		for i := 3; i < 100; i++ {
			d.fault.At(i, storagetest.NotDone)
		}
		if _, err := Restore(t.Context(), d.r, o); !errors.Is(err, storagetest.ErrFault) {
			t.Errorf("%s a failing backend: %v", kind, err)
		}
		d.fault.Reset()
		d.fault.Only(nil)
		ctx, cancel := context.WithCancel(t.Context())
		o.OnAction = func(a Action) {
			if a.Path == "5" {
				cancel()
			}
		}
		if _, err := Restore(ctx, d.r, o); !errors.Is(err, context.Canceled) {
			t.Errorf("%s interrupted: %v", kind, err)
		}
		if got, err := os.ReadFile(dir + "/out"); err != nil || string(got) != "older archive" {
			t.Errorf("%s: a failed restore replaced the archive: %v", kind, err)
		}
		o.OnAction, o.DryRun = nil, true
		if rep := d.restore(o); rep.Files.New != 20 || rep.Bytes.Downloaded != 0 {
			t.Errorf("%s dry run: %+v", kind, rep)
		}
		if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
			t.Errorf("%s: left behind: %v, %v", kind, entries, err)
		}
	}
}

func TestDump(t *testing.T) {
	src := t.TempDir()
	write(t, src+"/f", bytesOf(1, 10<<20))
	write(t, src+"/g", bytesOf(2, 100))
	write(t, src+"/hole", nil)
	must(t, os.Truncate(src+"/hole", 200_000))
	must(t, os.Symlink("f", src+"/link"))
	d := newDepot(t)
	s := d.save(map[string]string{"l": src})
	for _, name := range []string{"f", "g", "hole"} {
		var out bytes.Buffer
		_, err := Dump(t.Context(), d.r, s, "l/"+name, &out, DumpAuto)
		must(t, err)
		if want, err := os.ReadFile(src + "/" + name); err != nil || !bytes.Equal(out.Bytes(), want) {
			t.Errorf("%s: %d bytes that differ", name, out.Len())
		}
	}
	var out bytes.Buffer
	_, err := Dump(t.Context(), d.r, s, "l", &out, DumpAuto)
	must(t, err)
	names := []string{}
	for r := tar.NewReader(&out); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		must(t, err)
		names = append(names, h.Name)
	}
	if diff := cmp.Diff([]string{"./", "f", "g", "hole", "link"}, names); diff != "" {
		t.Error(diff)
	}
	out.Reset()
	_, err = Dump(t.Context(), d.r, s, "l/g", &out, DumpZip)
	must(t, err)
	if z, err := zip.NewReader(bytes.NewReader(out.Bytes()), int64(out.Len())); err != nil || len(z.File) != 1 || z.File[0].Name != "g" {
		t.Errorf("a zip of one file: %v", err)
	}
	if _, err = Dump(t.Context(), d.r, s, "l/link", &out, DumpAuto); err == nil {
		t.Error("dumped a symbolic link")
	}
	if _, err = Dump(t.Context(), d.r, s, "l", &out, DumpRaw); err == nil {
		t.Error("dumped a folder's bytes")
	}
	for pack := range d.packs(index.Data) {
		must(t, d.st.Delete(t.Context(), pack))
	}
	d.reopen()
	var damaged *repo.DamageError
	for _, name := range []string{"f", "g"} {
		if _, err = Dump(t.Context(), d.r, s, "l/"+name, io.Discard, DumpAuto); !errors.As(err, &damaged) {
			t.Errorf("%s without its data: %v", name, err)
		}
	}
	rep, err := Dump(t.Context(), d.r, s, "l", io.Discard, DumpTar)
	if err != nil || rep.Damaged != 2 || rep.Files.Failed != 2 {
		t.Errorf("a tar without data: %v, %+v", err, rep)
	}
}
