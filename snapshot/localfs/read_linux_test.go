package localfs

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

const nobody = 65534

// asUser runs body as an ordinary user: in this process, or, where this is root's, in another one.
func asUser(t *testing.T, body func(t *testing.T)) {
	t.Helper()
	if os.Geteuid() != 0 {
		body(t)
		return
	}
	// The test binary lies in a folder that only root may enter.
	dir, err := os.MkdirTemp("", "localfs-test-*")
	must(t, err)
	defer os.RemoveAll(dir)
	must(t, os.Chmod(dir, 0o755))
	self, err := os.ReadFile("/proc/self/exe")
	must(t, err)
	bin := filepath.Join(dir, "localfs.test")
	must(t, os.WriteFile(bin, self, 0o755))
	cmd := exec.Command(bin, "-test.run=^"+t.Name()+"$", "-test.v", "-test.count=1")
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody, Groups: []uint32{nobody, nobody - 1}}}
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("--- PASS: "+t.Name())) {
		t.Errorf("as user %d: %v\n%s", nobody, err, out)
	}
}

// fileSystems runs body on each kind of file system that the machine has to offer.
func fileSystems(t *testing.T, body func(t *testing.T, dir string)) {
	t.Run("tmp", func(t *testing.T) { body(t, t.TempDir()) })
	t.Run("shm", func(t *testing.T) {
		dir, err := os.MkdirTemp("/dev/shm", "localfs-test-*")
		if err != nil {
			t.Skipf("no second file system to test on: %v", err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		body(t, dir)
	})
}

func TestTypes(t *testing.T) {
	fileSystems(t, func(t *testing.T, dir string) {
		r := openRoot(t, dir)
		create(t, r, "file", "content")
		must(t, r.Mkdir("dir"))
		must(t, r.Symlink("nowhere", "symlink"))
		must(t, r.Mknod("fifo", TypeFIFO, 0))
		must(t, r.Mknod("socket", TypeSocket, 0))
		want := []Entry{{"dir", TypeDir}, {"fifo", TypeFIFO}, {"file", TypeFile}, {"socket", TypeSocket}, {"symlink", TypeSymlink}}
		null, loop := MakeRDev(1, 3), MakeRDev(7, 300) // a minor beyond 8 bits
		err := r.Mknod("char", TypeCharDevice, null)
		if what, rest := SplitPrivilege(err); what == SkippedDevices && rest == nil {
			t.Logf("devices are not tested: %v", err)
		} else {
			must(t, err)
			must(t, r.Mknod("block", TypeBlockDevice, loop))
			want = append([]Entry{{"block", TypeBlockDevice}, {"char", TypeCharDevice}}, want...)
		}
		d := openDir(t, dir)
		entries, err := d.Entries(nil)
		must(t, err)
		for i := range entries {
			if entries[i].Type == TypeUnknown {
				entries[i].Type = want[i].Type // the file system does not say
			}
		}
		if diff := cmp.Diff(want, entries); diff != "" {
			t.Fatal(diff)
		}
		for _, e := range entries {
			m, err := d.Stat(e.Name)
			must(t, err)
			if m.Type != e.Type {
				t.Errorf("%s is a %v", e.Name, m.Type)
			}
			if rdev := map[string]uint64{"char": null, "block": loop}[e.Name]; m.RDev != rdev {
				t.Errorf("%s: device %x, want %x", e.Name, m.RDev, rdev)
			}
			if root, err := r.Lstat(e.Name); err != nil || root != m {
				t.Errorf("Root.Lstat(%s): %+v, %v; Dir.Stat: %+v", e.Name, root, err, m)
			}
			if _, err := d.XattrsOf(e.Name); err != nil {
				t.Errorf("attributes of %s: %v", e.Name, err)
			}
			want := *mine(e.Type, 0o640, 1_234_567_890_123_456_789)
			must(t, r.Apply(e.Name, &want, nil, ApplyOptions{}))
			got, err := d.Stat(e.Name)
			must(t, err)
			if got.MTime != want.MTime || e.Type != TypeSymlink && got.Mode != want.Mode {
				t.Errorf("%s: %+v", e.Name, got)
			}
			if e.Type != TypeFile {
				var typ *TypeError
				if _, _, err := d.OpenFile(e.Name); !errors.As(err, &typ) && !errors.Is(err, ErrSymlink) {
					t.Errorf("%s opened as a file: %v", e.Name, err)
				}
			}
			wrong := want
			if wrong.Type = TypeFile; e.Type == TypeFile {
				wrong.Type = TypeDir
			}
			var typ *TypeError
			if err := r.Apply(e.Name, &wrong, nil, ApplyOptions{}); !errors.As(err, &typ) {
				t.Errorf("%s as %v: %v", e.Name, wrong.Type, err)
			}
		}
	})
}

func TestTypesUnprivileged(t *testing.T) {
	asUser(t, func(t *testing.T) {
		r := openRoot(t, t.TempDir())
		err := r.Mknod("null", TypeCharDevice, MakeRDev(1, 3))
		var priv *PrivilegeError
		if !errors.As(err, &priv) || priv.What != SkippedDevices {
			t.Errorf("device: %v", err)
		}
		must(t, r.Mknod("fifo", TypeFIFO, 0))
		must(t, r.Mknod("socket", TypeSocket, 0))
	})
}

func TestUnreadable(t *testing.T) {
	asUser(t, func(t *testing.T) {
		dir := t.TempDir()
		r := openRoot(t, dir)
		create(t, r, "file", "secret")
		must(t, r.Mkdir("dir"))
		must(t, r.Apply("file", mine(TypeFile, 0, 1), nil, ApplyOptions{}))
		must(t, r.Apply("dir", mine(TypeDir, 0, 1), nil, ApplyOptions{}))
		defer r.MakeWritable("dir") // or it could not be cleaned up
		d := openDir(t, dir)
		if _, _, err := d.OpenFile("file"); !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "file") {
			t.Errorf("file: %v", err)
		}
		if _, err := d.OpenDir("dir"); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("folder: %v", err)
		}
		if m, err := d.Stat("file"); err != nil || m.Size != 6 {
			t.Errorf("stat: %+v, %v", m, err)
		}
		// Somebody else's file is read although its access time cannot be spared.
		f, _, err := openDir(t, "/etc").OpenFile("passwd")
		must(t, err)
		f.Close()
	})
}

func TestAccessTimeStays(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	must(t, os.WriteFile(path, []byte("x"), 0o600))
	old := []unix.Timespec{{Sec: 1000}, {Sec: 2000}}
	must(t, unix.UtimesNanoAt(unix.AT_FDCWD, path, old, 0))
	f, _, err := openDir(t, dir).OpenFile("file")
	must(t, err)
	_, err = io.ReadAll(f)
	must(t, err)
	f.Close()
	var st unix.Stat_t
	must(t, unix.Stat(path, &st))
	if st.Atim.Sec != 1000 {
		t.Errorf("access time %d", st.Atim.Sec)
	}
	// Nor does a restore invent one.
	r := openRoot(t, dir)
	must(t, r.Apply("file", mine(TypeFile, 0o600, 5), nil, ApplyOptions{}))
	must(t, unix.Stat(path, &st))
	if st.Atim.Sec != 1000 {
		t.Errorf("access time after Apply %d", st.Atim.Sec)
	}
}

// A FIFO that took a file's place between Stat and OpenFile must not make the backup wait for a writer.
func TestFIFOReplacedFile(t *testing.T) {
	dir := t.TempDir()
	must(t, unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600))
	var typ *TypeError
	if _, _, err := openDir(t, dir).OpenFile("fifo"); !errors.As(err, &typ) || typ.Got != TypeFIFO {
		t.Errorf("read: %v", err)
	}
	r := openRoot(t, dir)
	if _, _, err := r.OpenFile("fifo"); !errors.As(err, &typ) || typ.Got != TypeFIFO {
		t.Errorf("read below a root: %v", err)
	}
	if f, _, err := r.OpenWrite("fifo"); !errors.As(err, &typ) || typ.Got != TypeFIFO {
		t.Errorf("write: %v, %v", f, err)
	}
}

// A folder that is swapped for a symbolic link after it was listed is not entered.
func TestFolderBecomesSymlink(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Mkdir(filepath.Join(dir, "sub"), 0o700))
	d := openDir(t, dir)
	if m, err := d.Stat("sub"); err != nil || m.Type != TypeDir {
		t.Fatal(m, err)
	}
	sub, err := d.OpenDir("sub")
	must(t, err)
	defer sub.Close()
	must(t, os.Rename(filepath.Join(dir, "sub"), filepath.Join(dir, "moved")))
	must(t, os.Symlink("/etc", filepath.Join(dir, "sub")))
	if _, err := d.OpenDir("sub"); !errors.Is(err, ErrSymlink) {
		t.Errorf("entered: %v", err)
	}
	if _, err := sub.Stat("passwd"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the open folder leads elsewhere: %v", err)
	}
	if x, err := d.XattrsOf("sub"); err != nil || len(x) > 0 {
		t.Errorf("%v, %v", x, err)
	}
}

// An open folder or file is read through its inode even where its name is gone.
func TestRemovedWhileOpen(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Mkdir(filepath.Join(dir, "sub"), 0o700))
	must(t, os.WriteFile(filepath.Join(dir, "file"), []byte("x"), 0o600))
	d := openDir(t, dir)
	sub, err := d.OpenDir("sub")
	must(t, err)
	defer sub.Close()
	f, _, err := d.OpenFile("file")
	must(t, err)
	defer f.Close()
	must(t, os.Remove(filepath.Join(dir, "sub")))
	must(t, os.Remove(filepath.Join(dir, "file")))
	if entries, err := sub.Entries(nil); err != nil && !errors.Is(err, fs.ErrNotExist) || len(entries) > 0 {
		t.Errorf("%v, %v", entries, err)
	}
	if m, err := f.Meta(); err != nil || m.Nlink != 0 {
		t.Errorf("%+v, %v", m, err)
	}
	if _, err := d.Stat("file"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

func TestLeasedFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	must(t, os.WriteFile(path, []byte("content"), 0o600))
	holder, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	defer holder.Close()
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, unix.SIGIO) // the kernel asks the holder to give the lease up
	defer signal.Stop(asked)
	if _, err := unix.FcntlInt(holder.Fd(), unix.F_SETLEASE, unix.F_WRLCK); err != nil {
		t.Skipf("the file system takes no leases: %v", err)
	}
	done := make(chan error, 1)
	go func() {
		<-asked
		_, err := unix.FcntlInt(holder.Fd(), unix.F_SETLEASE, unix.F_UNLCK)
		done <- err
	}()
	f, _, err := openDir(t, dir).OpenFile("file")
	must(t, err)
	defer f.Close()
	must(t, <-done)
	if got, err := io.ReadAll(f); err != nil || string(got) != "content" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestSparse(t *testing.T) {
	const block = 64 << 10
	fileSystems(t, func(t *testing.T, dir string) {
		r := openRoot(t, dir)
		data := bytes.Repeat([]byte("d"), block)
		for _, c := range []struct {
			name string
			at   []int64 // blocks with data
			size int64
			want []Extent
		}{
			{"empty", nil, 0, nil},
			{"hole", nil, 10 * block, nil},
			{"full", []int64{0, 1, 2}, 3 * block, []Extent{{0, 3 * block}}},
			{"begin", []int64{0}, 4 * block, []Extent{{0, block}}},
			{"end", []int64{3}, 4 * block, []Extent{{3 * block, block}}},
			{"middle", []int64{2, 3, 7}, 12*block + 5, []Extent{{2 * block, 2 * block}, {7 * block, block}}},
		} {
			f, err := r.Create(c.name)
			must(t, err)
			for _, at := range c.at {
				_, err := f.WriteAt(data, at*block)
				must(t, err)
			}
			must(t, f.Truncate(c.size))
			m, err := f.Meta()
			must(t, err)
			if want := c.size > int64(len(c.at))*block; m.Sparse() != want {
				t.Errorf("%s: sparse is %v: %+v", c.name, m.Sparse(), m)
			}
			if got, err := f.Extents(c.size); err != nil || !slices.Equal(got, c.want) {
				t.Errorf("%s: extents %v, %v, want %v", c.name, got, err, c.want)
			}
			// Extents do not move the place to read from.
			if got, err := io.ReadAll(f); err != nil || int64(len(got)) != c.size {
				t.Errorf("%s: read %d bytes, %v", c.name, len(got), err)
			}
			f.Close()
		}
		f, _, err := r.OpenWrite("full")
		must(t, err)
		defer f.Close()
		must(t, f.Zero(block, block))
		must(t, f.Zero(10, 0))
		got, err := io.ReadAll(f)
		want := slices.Concat(data, make([]byte, block), data)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("after Zero: %d bytes, %v", len(got), err)
		}
		if got, err := f.Extents(3 * block); err != nil || !slices.Equal(got, []Extent{{0, block}, {2 * block, block}}) {
			t.Errorf("extents after Zero: %v, %v", got, err)
		}
		// A file that shrank since its size was taken.
		must(t, f.Truncate(block))
		if got, err := f.Extents(3 * block); err != nil || !slices.Equal(got, []Extent{{0, block}}) {
			t.Errorf("extents after Truncate: %v, %v", got, err)
		}
	})
}

func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err == nil {
		defer unix.Unmount(dir, unix.MNT_DETACH)
		r := openRoot(t, dir)
		f, err := r.Create("file")
		must(t, err)
		defer f.Close()
		n, err := f.WriteAt(make([]byte, 1<<20), 0)
		if !errors.Is(err, syscall.ENOSPC) || n <= 0 || n >= 1<<20 {
			t.Errorf("wrote %d bytes: %v", n, err)
		}
		if mounted, err := IsMountPoint(dir); err != nil || !mounted {
			t.Errorf("mount point: %v, %v", mounted, err)
		}
		return
	} else {
		t.Logf("no small file system can be mounted (%v): a limit of file size stands in for a full disk", err)
	}
	var old unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_FSIZE, &old))
	must(t, unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 64 << 10, Max: old.Max}))
	defer unix.Setrlimit(unix.RLIMIT_FSIZE, &old)
	signal.Ignore(unix.SIGXFSZ)
	r := openRoot(t, dir)
	f, err := r.Create("file")
	must(t, err)
	defer f.Close()
	if n, err := f.WriteAt(make([]byte, 1<<20), 0); !errors.Is(err, syscall.EFBIG) || n != 64<<10 {
		t.Errorf("wrote %d bytes: %v", n, err)
	}
}

func TestFullDiskUnprivileged(t *testing.T) { asUser(t, TestFullDisk) }

func TestMountPoint(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Symlink("/proc", filepath.Join(dir, "link")))
	for path, want := range map[string]bool{"/proc": true, "/": true, dir: false, filepath.Join(dir, "link"): true, "/etc/passwd": false} {
		if got, err := IsMountPoint(path); err != nil || got != want {
			t.Errorf("%s: %v, %v", path, got, err)
		}
		if got, err := otherDevice(path); err != nil || got != want {
			t.Errorf("%s, by device: %v, %v", path, got, err)
		}
	}
	if _, err := IsMountPoint(filepath.Join(dir, "missing")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
	must(t, os.Mkdir(filepath.Join(dir, "bind"), 0o700))
	if err := unix.Mount(dir, filepath.Join(dir, "bind"), "", unix.MS_BIND, ""); err != nil {
		t.Logf("bind mounts are not tested: %v", err)
		return
	}
	defer unix.Unmount(filepath.Join(dir, "bind"), unix.MNT_DETACH)
	if got, err := IsMountPoint(filepath.Join(dir, "bind")); err != nil || !got {
		t.Errorf("bind mount: %v, %v", got, err)
	}
	// Removing a tree stops at a mount, also at one of the same file system.
	must(t, os.Mkdir(filepath.Join(dir, "mounted"), 0o700))
	must(t, os.WriteFile(filepath.Join(dir, "mounted/file"), nil, 0o600))
	r := openRoot(t, dir)
	must(t, r.Mkdir("tree"))
	must(t, r.Mkdir("tree/at"))
	create(t, r, "tree/z", "")
	must(t, unix.Mount(filepath.Join(dir, "mounted"), filepath.Join(dir, "tree/at"), "", unix.MS_BIND, ""))
	defer unix.Unmount(filepath.Join(dir, "tree/at"), unix.MNT_DETACH)
	if err := r.RemoveAll("tree"); !errors.Is(err, errMounted) {
		t.Errorf("RemoveAll: %v", err)
	}
	if _, err := r.Lstat("mounted/file"); err != nil {
		t.Error(err)
	}
	if _, err := r.Lstat("tree/z"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("RemoveAll did not go on: %v", err)
	}
}

// fstatat stands in for statx on old kernels; both must tell the same.
func TestFstatat(t *testing.T) {
	for _, name := range []string{"null", "shm", "stdin"} {
		d := openDir(t, "/dev")
		want, err := d.Stat(name)
		must(t, err)
		var got Meta
		p, err := unix.BytePtrFromString(name)
		must(t, err)
		must(t, fstatat(d.fd, p, unix.AT_SYMLINK_NOFOLLOW, &got))
		got.BTime = want.BTime
		if got != want {
			t.Errorf("%s: %+v, statx says %+v", name, got, want)
		}
	}
}
