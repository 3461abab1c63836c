package localfs

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func openRoot(t testing.TB, path string) *Root {
	t.Helper()
	r, err := OpenRoot(path)
	must(t, err)
	t.Cleanup(func() { r.Close() })
	return r
}

func openDir(t testing.TB, path string) *Dir {
	t.Helper()
	d, err := OpenDir(path)
	must(t, err)
	t.Cleanup(func() { d.Close() })
	return d
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// create makes a file with content below r.
func create(t testing.TB, r *Root, path, content string) {
	t.Helper()
	f, err := r.Create(path)
	must(t, err)
	_, err = f.WriteAt([]byte(content), 0)
	must(t, err)
	must(t, f.Close())
}

func names(entries []Entry) (names []string) {
	for _, e := range entries {
		names = append(names, e.Name)
	}
	return names
}

// mine is metadata that any user may apply.
func mine(typ Type, mode uint32, mtime int64) *Meta {
	return &Meta{Type: typ, Mode: mode, UID: uint32(os.Geteuid()), GID: uint32(os.Getegid()), MTime: mtime}
}

func TestNanos(t *testing.T) {
	for _, c := range []struct{ sec, nsec, want int64 }{
		{0, 0, 0},
		{1, 2, 1_000_000_002},
		{-1, 999_999_999, -1},
		{-1, 0, -1_000_000_000},
		{lastSecond, lastNanos, math.MaxInt64},
		{lastSecond, lastNanos + 1, math.MaxInt64},
		{lastSecond + 1, 0, math.MaxInt64},
		{math.MaxInt64, 0, math.MaxInt64},
		{-lastSecond - 1, second - lastNanos - 1, math.MinInt64},
		{-lastSecond - 1, second - lastNanos, math.MinInt64 + 1},
		{-lastSecond - 1, 0, math.MinInt64},
		{math.MinInt64, 999_999_999, math.MinInt64},
	} {
		if got := nanos(c.sec, c.nsec); got != c.want {
			t.Errorf("nanos(%d, %d) = %d, want %d", c.sec, c.nsec, got, c.want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		ns := rapid.Int64().Draw(t, "ns")
		sec, nsec := seconds(ns)
		if nsec < 0 || nsec >= second || nanos(sec, nsec) != ns {
			t.Fatalf("%d became %d, %d, and that %d", ns, sec, nsec, nanos(sec, nsec))
		}
		if want := time.Unix(0, ns); want.Unix() != sec || int64(want.Nanosecond()) != nsec {
			t.Fatalf("%d became %d, %d", ns, sec, nsec)
		}
	})
}

func TestNames(t *testing.T) {
	long := strings.Repeat("n", 255)
	good := []string{"-rf", "--", " ", "new\nline", "\xff\xfe", "caf\u00e9", "...", ".hidden", "a\\b", "*", long, "\x01\x7f"}
	r := openRoot(t, t.TempDir())
	for _, name := range good {
		must(t, CheckName(name))
		create(t, r, name, name)
	}
	d := openDir(t, r.Name())
	entries, err := d.Entries([]Entry{{Name: "kept"}})
	must(t, err)
	slices.Sort(good)
	if diff := cmp.Diff(append([]string{"kept"}, good...), names(entries)); diff != "" {
		t.Error(diff)
	}
	for _, e := range entries[1:] {
		f, m, err := d.OpenFile(e.Name)
		must(t, err)
		content, err := io.ReadAll(f)
		must(t, err)
		if string(content) != e.Name || m.Size != int64(len(e.Name)) {
			t.Errorf("%q holds %q", e.Name, content)
		}
		f.Close()
	}

	if _, err := r.Create(long + "n"); err == nil {
		t.Error("a name of 256 bytes was made")
	}
	if _, err := d.Stat(long + "n"); err == nil {
		t.Error("a name of 256 bytes was found")
	}
}

// Each operation on a Root refuses each unsafe name, wherever in the path it stands.
func TestUnsafeNames(t *testing.T) {
	outside := t.TempDir()
	must(t, os.Mkdir(filepath.Join(outside, "target"), 0o700))
	must(t, os.WriteFile(filepath.Join(outside, "victim"), nil, 0o600))
	r := openRoot(t, filepath.Join(outside, "target"))
	must(t, r.Mkdir("sub"))
	ops := map[string]func(string) error{
		"Lstat":        func(p string) error { _, err := r.Lstat(p); return err },
		"OpenDir":      func(p string) error { _, err := r.OpenDir(p); return err },
		"OpenFile":     func(p string) error { _, _, err := r.OpenFile(p); return err },
		"Create":       func(p string) error { _, err := r.Create(p); return err },
		"OpenWrite":    func(p string) error { _, _, err := r.OpenWrite(p); return err },
		"MakeWritable": r.MakeWritable,
		"Mkdir":        r.Mkdir,
		"Symlink":      func(p string) error { return r.Symlink("x", p) },
		"ReadLink":     func(p string) error { _, err := r.ReadLink(p); return err },
		"Link from":    func(p string) error { return r.Link(p, "link") },
		"Link to":      func(p string) error { return r.Link("sub", p) },
		"Mknod":        func(p string) error { return r.Mknod(p, TypeFIFO, 0) },
		"Rename from":  func(p string) error { return r.Rename(p, "new") },
		"Rename to":    func(p string) error { return r.Rename("sub", p) },
		"Remove":       r.Remove,
		"RemoveAll":    r.RemoveAll,
		"Apply":        func(p string) error { return r.Apply(p, mine(TypeFile, 0o600, 0), nil, ApplyOptions{}) },
	}
	for name, op := range ops {
		for _, path := range []string{
			".", "..", "../victim", "/etc/passwd", "/", "sub/../../victim", "sub/./x", "sub//x", "sub/", "sub/..", "a\x00b", "sub/a\x00b",
			outside + "/victim",
		} {
			var bad *NameError
			if err := op(path); !errors.As(err, &bad) {
				t.Errorf("%s(%q): %v", name, path, err)
			}
		}
	}
	for _, name := range []string{"Create", "OpenFile", "OpenWrite", "Mkdir", "Symlink", "Remove", "RemoveAll", "Mknod", "Link to"} {
		var bad *NameError
		if err := ops[name](""); !errors.As(err, &bad) {
			t.Errorf("%s of the root itself: %v", name, err)
		}
	}
	d := openDir(t, r.Name())
	for name, op := range map[string]func(string) error{
		"Stat":     func(n string) error { _, err := d.Stat(n); return err },
		"OpenDir":  func(n string) error { _, err := d.OpenDir(n); return err },
		"OpenFile": func(n string) error { _, _, err := d.OpenFile(n); return err },
		"ReadLink": func(n string) error { _, err := d.ReadLink(n); return err },
		"XattrsOf": func(n string) error { _, err := d.XattrsOf(n); return err },
	} {
		for _, path := range []string{"", ".", "..", "../victim", "/etc", "sub/x", "a\x00b"} {
			var bad *NameError
			if err := op(path); !errors.As(err, &bad) {
				t.Errorf("Dir.%s(%q): %v", name, path, err)
			}
		}
	}
	left, err := os.ReadDir(outside)
	must(t, err)
	if len(left) != 2 {
		t.Errorf("outside of the target: %v", left)
	}
}

func TestEntriesAgain(t *testing.T) {
	dir := t.TempDir()
	const n = 2000 // several reads of 64 KiB
	var want []string
	for i := range n {
		name := strings.Repeat(string(rune('a'+i%26)), 40) + string(rune('0'+i%10)) + time.Unix(int64(i), 0).UTC().Format("150405")
		want = append(want, name)
		must(t, os.WriteFile(filepath.Join(dir, name), nil, 0o600))
	}
	slices.Sort(want)
	d := openDir(t, dir)
	first, err := d.Entries(nil)
	must(t, err)
	must(t, os.Remove(filepath.Join(dir, want[0])))
	second, err := d.Entries(nil)
	must(t, err)
	if !slices.Equal(names(first), want) || !slices.Equal(names(second), want[1:]) {
		t.Errorf("%d and %d entries, want %d and %d, in order", len(first), len(second), n, n-1)
	}
}

func TestHardLinks(t *testing.T) {
	outside := t.TempDir()
	must(t, os.WriteFile(filepath.Join(outside, "secret"), nil, 0o600))
	r := openRoot(t, t.TempDir())
	must(t, r.Mkdir("a"))
	must(t, r.Mkdir("b"))
	create(t, r, "a/file", "content")
	must(t, r.Link("a/file", "b/link"))
	m1, err := r.Lstat("a/file")
	must(t, err)
	m2, err := r.Lstat("b/link")
	must(t, err)
	if !m1.SameInode(&m2) || m1.Nlink != 2 {
		t.Errorf("%+v and %+v", m1, m2)
	}
	if err := r.Link("a/file", "b/link"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("link over an entry: %v", err)
	}
	// A link to a symbolic link is a link to the symbolic link, not to where it leads.
	must(t, r.Symlink(filepath.Join(outside, "secret"), "a/sym"))
	must(t, r.Link("a/sym", "b/sym"))
	if m, err := r.Lstat("b/sym"); err != nil || m.Type != TypeSymlink || m.Nlink != 2 {
		t.Errorf("%+v, %v", m, err)
	}
}

func TestLongSymlink(t *testing.T) {
	r := openRoot(t, t.TempDir())
	for _, n := range []int{1, 255, 256, 257, 1023, 1024, 4000} {
		content := strings.Repeat("x", n)
		path := "link"
		must(t, r.Symlink(content, path))
		got, err := openDir(t, r.Name()).ReadLink(path)
		if err != nil || got != content {
			t.Errorf("%d bytes: read %d, %v", n, len(got), err)
		}
		if got, err := r.ReadLink(path); err != nil || got != content {
			t.Errorf("%d bytes: read %d, %v", n, len(got), err)
		}
		must(t, r.Remove(path))
	}
}

// What stands where a folder or file should be is never followed or opened.
func TestSymlinksInTheWay(t *testing.T) {
	outside := t.TempDir()
	must(t, os.WriteFile(filepath.Join(outside, "file"), []byte("untouched"), 0o600))
	before, err := Lstat(filepath.Join(outside, "file"))
	must(t, err)
	r := openRoot(t, t.TempDir())
	must(t, r.Mkdir("real"))
	must(t, r.Symlink(outside, "dir"))
	must(t, r.Symlink(outside, "real/dir"))
	must(t, r.Symlink("real", "inside"))
	must(t, r.Symlink(filepath.Join(outside, "file"), "file"))
	for _, path := range []string{"dir/new", "real/dir/new", "dir/sub/new", "inside/new", "file/new"} {
		for name, op := range map[string]func() error{
			"Create":    func() error { _, err := r.Create(path); return err },
			"Mkdir":     func() error { return r.Mkdir(path) },
			"Symlink":   func() error { return r.Symlink("x", path) },
			"Mknod":     func() error { return r.Mknod(path, TypeFIFO, 0) },
			"Link":      func() error { return r.Link("real", path) },
			"RemoveAll": func() error { return r.RemoveAll(path) },
			"Apply":     func() error { return r.Apply(path, mine(TypeFile, 0o777, 0), nil, ApplyOptions{}) },
			"walk":      func() error { _, err := r.walk(path); return err },
		} {
			if err := op(); !errors.Is(err, ErrSymlink) {
				t.Errorf("%s(%q): %v", name, path, err)
			}
		}
	}
	for name, op := range map[string]func() error{
		"OpenFile":  func() error { _, _, err := r.OpenFile("file"); return err },
		"OpenWrite": func() error { _, _, err := r.OpenWrite("file"); return err },
		"OpenDir":   func() error { _, err := r.OpenDir("dir"); return err },
		"Dir.OpenFile": func() error {
			_, _, err := openDir(t, r.Name()).OpenFile("file")
			return err
		},
		"Dir.OpenDir": func() error { _, err := openDir(t, r.Name()).OpenDir("dir"); return err },
	} {
		if err := op(); !errors.Is(err, ErrSymlink) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Removing or changing the link leaves what it points to alone.
	m := mine(TypeSymlink, 0o777, 5)
	must(t, r.Apply("file", m, nil, ApplyOptions{}))
	if m, err := r.Lstat("file"); err != nil || m.MTime != 5 || m.Type != TypeSymlink {
		t.Errorf("%+v, %v", m, err)
	}
	must(t, r.RemoveAll("dir"))
	must(t, r.Remove("real/dir"))
	must(t, r.RemoveAll("file"))
	after, err := Lstat(filepath.Join(outside, "file"))
	must(t, err)
	if after != before {
		t.Errorf("outside was changed: %+v, before %+v", after, before)
	}
	var typ *TypeError
	create(t, r, "plain", "")
	if _, err := r.OpenDir("plain"); !errors.As(err, &typ) || typ.Got != TypeFile {
		t.Errorf("folder that is a file: %v", err)
	}
	if err := r.Mkdir("plain/sub"); !errors.As(err, &typ) {
		t.Errorf("folder in a file: %v", err)
	}
	if _, _, err := r.OpenWrite("real"); !errors.As(err, &typ) || typ.Got != TypeDir {
		t.Errorf("file that is a folder: %v", err)
	}
}

// The target itself may be a symbolic link: the user named it.
func TestTargetIsSymlink(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Mkdir(filepath.Join(dir, "real"), 0o700))
	must(t, os.Symlink("real", filepath.Join(dir, "link")))
	r := openRoot(t, filepath.Join(dir, "link"))
	create(t, r, "file", "x")
	if _, err := Lstat(filepath.Join(dir, "real/file")); err != nil {
		t.Error(err)
	}
	must(t, r.Apply("", mine(TypeDir, 0o750, 7), nil, ApplyOptions{}))
	if m, err := r.Lstat(""); err != nil || m.Mode != 0o750 || m.MTime != 7 {
		t.Errorf("%+v, %v", m, err)
	}
	if m, err := Stat(filepath.Join(dir, "link")); err != nil || m.Type != TypeDir {
		t.Errorf("%+v, %v", m, err)
	}
}

// An attacker swaps a folder for a symbolic link to the outside, back and forth, while files are made in it.
func TestSymlinkRace(t *testing.T) {
	outside := t.TempDir()
	dir := t.TempDir()
	must(t, os.Mkdir(filepath.Join(dir, "sub"), 0o700))
	must(t, os.Symlink(outside, filepath.Join(dir, "evil")))
	r := openRoot(t, dir)
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				os.Rename(filepath.Join(dir, "sub"), filepath.Join(dir, "away"))
				os.Rename(filepath.Join(dir, "evil"), filepath.Join(dir, "sub"))
				os.Rename(filepath.Join(dir, "sub"), filepath.Join(dir, "evil"))
				os.Rename(filepath.Join(dir, "away"), filepath.Join(dir, "sub"))
			}
		}
	}()
	var made, refused int
	for made < 200 || refused < 200 {
		var err error
		switch (made + refused) % 3 {
		case 0:
			var f *File
			if f, err = r.Create("sub/file"); err == nil {
				f.Close()
			}
			r.RemoveAll("sub/file")
		case 1:
			err = r.Mkdir("sub/folder")
			r.Remove("sub/folder")
		case 2:
			var fd int
			if fd, err = r.walk("sub"); err == nil {
				(&File{fd: fd}).Close()
			}
		}
		if err == nil || errors.Is(err, fs.ErrExist) {
			made++
		} else {
			refused++
		}
		if made+refused > 1_000_000 {
			t.Logf("%d made, %d refused: one kind stayed rare", made, refused)
			break
		}
	}
	close(stop)
	<-done
	if left, err := os.ReadDir(outside); err != nil || len(left) > 0 {
		t.Errorf("escaped: %v, %v", left, err)
	}
	if made == 0 || refused == 0 {
		t.Errorf("%d made, %d refused: no race took place", made, refused)
	}
}

// Paths longer than any system call takes.
func TestDeep(t *testing.T) {
	r := openRoot(t, t.TempDir())
	name := strings.Repeat("d", 100)
	path := "top"
	must(t, r.Mkdir(path))
	const depth = 100 // 10,000 bytes
	for range depth {
		path += "/" + name
		must(t, r.Mkdir(path))
	}
	create(t, r, path+"/file", "deep")
	must(t, r.Symlink("x", path+"/link"))
	must(t, r.Link(path+"/file", "top/link"))
	must(t, r.Apply(path+"/file", mine(TypeFile, 0o640, 99), nil, ApplyOptions{}))
	if _, err := r.Create(path + "/link/x"); !errors.Is(err, ErrSymlink) {
		t.Errorf("through a link: %v", err)
	}
	f, m, err := r.OpenFile(path + "/file")
	must(t, err)
	f.Close()
	if m.Mode != 0o640 || m.MTime != 99 || m.Nlink != 2 {
		t.Errorf("%+v", m)
	}

	d := openDir(t, r.Name())
	if d, err = d.OpenDir("top"); err != nil {
		t.Fatal(err)
	}
	for range depth {
		sub, err := d.OpenDir(name)
		must(t, err)
		d.Close()
		d = sub
	}
	defer d.Close()
	entries, err := d.Entries(nil)
	if err != nil || !slices.Equal(names(entries), []string{"file", "link"}) {
		t.Errorf("%v, %v", entries, err)
	}

	must(t, r.RemoveAll("top"))
	if _, err := r.Lstat("top"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("still there: %v", err)
	}
	must(t, r.RemoveAll("top")) // no longer an error
}

func TestRemoveAllWide(t *testing.T) {
	r := openRoot(t, t.TempDir())
	must(t, r.Mkdir("t"))
	create(t, r, "kept", "")
	// Deep folders with siblings, and names that the mover takes itself.
	path := "t"
	for i := range 120 {
		for _, side := range []string{"side", "file", ".wtsnap-remove-1", ".wtsnap-remove-2"} {
			if side == "file" || side == ".wtsnap-remove-2" {
				create(t, r, path+"/"+side, "")
			} else {
				must(t, r.Mkdir(path+"/"+side))
				create(t, r, path+"/"+side+"/x", "")
			}
		}
		path += "/" + string(rune('a'+i%26))
		must(t, r.Mkdir(path))
	}
	must(t, r.RemoveAll("t"))
	d := openDir(t, r.Name())
	if entries, err := d.Entries(nil); err != nil || !slices.Equal(names(entries), []string{"kept"}) {
		t.Errorf("left: %v, %v", entries, err)
	}
}

func TestFileReadWrite(t *testing.T) {
	r := openRoot(t, t.TempDir())
	f, err := r.Create("f")
	must(t, err)
	if _, err := r.Create("f"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("second Create: %v", err)
	}
	data := bytes.Repeat([]byte("0123456789"), 30_000)
	if n, err := f.WriteAt(data[1000:], 1000); n != len(data)-1000 || err != nil {
		t.Fatal(n, err)
	}
	_, err = f.WriteAt(data[:1000], 0)
	must(t, err)
	must(t, f.Sync())
	must(t, f.Close())
	if _, err := f.WriteAt(data, 0); err == nil {
		t.Error("write to a closed file")
	}

	f, m, err := r.OpenWrite("f")
	must(t, err)
	defer f.Close()
	if m.Mode != 0o600 || m.Size != int64(len(data)) {
		t.Errorf("%+v", m)
	}
	got, err := io.ReadAll(f)
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("read %d bytes, %v", len(got), err)
	}
	buf := make([]byte, 20)
	if n, err := f.ReadAt(buf, int64(len(data))-10); n != 10 || err != io.EOF {
		t.Errorf("ReadAt the end: %d, %v", n, err)
	}
	must(t, f.Truncate(1000))
	if m, err := f.Meta(); err != nil || m.Size != 1000 {
		t.Errorf("%+v, %v", m, err)
	}
	must(t, r.Rename("f", "g"))
	if _, err := r.Lstat("f"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after Rename: %v", err)
	}
	if _, _, err := openDir(t, r.Name()).OpenFile("f"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("open what is not there: %v", err)
	}
}

func TestOwners(t *testing.T) {
	var o Owners
	for range 2 { // asked, then known
		if got := o.UserName(0); got != "root" {
			t.Errorf("user 0 is %q", got)
		}
		if id, ok := o.UserID("root"); id != 0 || !ok {
			t.Errorf("root is %d, %v", id, ok)
		}
		group := o.GroupName(0)
		if id, ok := o.GroupID(group); group == "" || id != 0 || !ok {
			t.Errorf("group 0 is %q, which is %d, %v", group, id, ok)
		}
		if got := o.UserName(3_999_999_999); got != "" {
			t.Errorf("unknown user is %q", got)
		}
		if _, ok := o.UserID("no such user"); ok {
			t.Error("unknown user has an id")
		}
		if _, ok := o.GroupID(""); ok {
			t.Error("no name has an id")
		}
	}
}

func TestSplitPrivilege(t *testing.T) {
	priv := &PrivilegeError{SkippedOwner | SkippedXattrs, fs.ErrPermission}
	both := &applyError{io.ErrUnexpectedEOF, priv}
	for _, c := range []struct {
		err  error
		what Skipped
		rest error
	}{
		{nil, 0, nil},
		{io.EOF, 0, io.EOF},
		{priv, priv.What, nil},
		{both, priv.What, io.ErrUnexpectedEOF},
		{&applyError{rest: io.EOF}, 0, io.EOF},
	} {
		if what, rest := SplitPrivilege(c.err); what != c.what || rest != c.rest {
			t.Errorf("%v: %v, %v", c.err, what, rest)
		}
	}
	if !errors.Is(both, io.ErrUnexpectedEOF) || !errors.Is(both, fs.ErrPermission) {
		t.Error("a joined error hides one of the two")
	}
	if got, want := priv.What.String(), "owners and groups, privileged extended attributes"; got != want {
		t.Errorf("%q", got)
	}
}

func TestMapACL(t *testing.T) {
	acl := rawACL(aclEntry{1, 7, ^uint32(0)}, aclEntry{2, 5, 1000}, aclEntry{8, 4, 1000}, aclEntry{0x10, 7, ^uint32(0)})
	got, err := MapACL(acl, func(id uint32) uint32 { return id + 1 }, func(id uint32) uint32 { return id + 2 })
	must(t, err)
	want := rawACL(aclEntry{1, 7, ^uint32(0)}, aclEntry{2, 5, 1001}, aclEntry{8, 4, 1002}, aclEntry{0x10, 7, ^uint32(0)})
	if !bytes.Equal(got, want) {
		t.Errorf("% x\nwant % x", got, want)
	}
	for _, bad := range [][]byte{nil, {2, 0, 0}, acl[:len(acl)-1], {3, 0, 0, 0}} {
		if _, err := MapACL(bad, nil, nil); err == nil {
			t.Errorf("% x accepted", bad)
		}
	}
}

type aclEntry struct {
	tag, perm uint16
	id        uint32
}

func rawACL(entries ...aclEntry) []byte {
	b := []byte{2, 0, 0, 0}
	for _, e := range entries {
		b = append(b, byte(e.tag), byte(e.tag>>8), byte(e.perm), byte(e.perm>>8), byte(e.id), byte(e.id>>8), byte(e.id>>16), byte(e.id>>24))
	}
	return b
}

func FuzzMapACL(f *testing.F) {
	f.Add(rawACL(aclEntry{1, 7, 0}, aclEntry{2, 5, 1000}))
	f.Add([]byte{2, 0, 0, 0, 1})
	same := func(id uint32) uint32 { return id }
	f.Fuzz(func(t *testing.T, value []byte) {
		if got, err := MapACL(value, same, same); err == nil && !bytes.Equal(got, value) {
			t.Errorf("% x became % x", value, got)
		}
	})
}
