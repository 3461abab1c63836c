package localfs

import (
	"bytes"
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestTimes(t *testing.T) {
	fileSystems(t, func(t *testing.T, dir string) {
		r := openRoot(t, dir)
		create(t, r, "file", "")
		must(t, r.Symlink("x", "link"))
		for _, ns := range []int64{0, 1, -1, 999_999_999, 1_700_000_000_123_456_789, -1_000_000_000, -86_400_000_000_001, 1 << 62} {
			must(t, r.Apply("file", mine(TypeFile, 0o600, ns), nil, ApplyOptions{}))
			must(t, r.Apply("link", mine(TypeSymlink, 0o777, ns), nil, ApplyOptions{}))
			f, _, err := r.OpenWrite("file")
			must(t, err)
			for _, path := range []string{"file", "link"} {
				if m, err := r.Lstat(path); err != nil || m.MTime != ns {
					t.Errorf("%s: %d, want %d, %v", path, m.MTime, ns, err)
				}
			}
			must(t, f.Apply(mine(TypeFile, 0o600, ns-1), nil, ApplyOptions{}))
			if m, err := f.Meta(); err != nil || m.MTime != ns-1 {
				t.Errorf("through the file: %d, want %d, %v", m.MTime, ns-1, err)
			}
			f.Close()
		}
		// The ends of int64: the file system may clamp, but must not wrap.
		for _, ns := range []int64{math.MinInt64, math.MaxInt64} {
			must(t, r.Apply("file", mine(TypeFile, 0o600, ns), nil, ApplyOptions{}))
			if m, err := r.Lstat("file"); err != nil || (m.MTime < 0) != (ns < 0) || ns > 0 && m.MTime < 1<<62 {
				t.Errorf("%d became %d, %v", ns, m.MTime, err)
			}
		}
		if m, err := r.Lstat("file"); err != nil || m.BTime <= 0 || m.CTime < m.BTime {
			t.Logf("birth time %d, change time %d, %v", m.BTime, m.CTime, err)
		}
	})
}

func TestApplyAsRoot(t *testing.T) {
	if !Privileged() {
		t.Skip("only root may change owners; TestApplyUnprivileged covers the rest")
	}
	access := rawACL(aclEntry{1, 6, ^uint32(0)}, aclEntry{2, 4, 1234}, aclEntry{4, 4, ^uint32(0)}, aclEntry{0x10, 5, ^uint32(0)}, aclEntry{0x20, 0, ^uint32(0)})
	deflt := rawACL(aclEntry{1, 7, ^uint32(0)}, aclEntry{4, 5, ^uint32(0)}, aclEntry{8, 7, 4321}, aclEntry{0x10, 7, ^uint32(0)}, aclEntry{0x20, 1, ^uint32(0)})
	// VFS_CAP_REVISION_2, effective: cap_net_bind_service
	capability := []byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	fileSystems(t, func(t *testing.T, dir string) {
		r := openRoot(t, dir)
		for _, c := range []struct {
			path   string
			m      Meta
			xattrs []Xattr
		}{
			{"setuid", Meta{Type: TypeFile, Mode: 0o6755, UID: 1000, GID: 1001}, nil},
			{"cap", Meta{Type: TypeFile, Mode: 0o755, UID: 1000, GID: 1001}, []Xattr{{"security.capability", capability}}},
			{"acl", Meta{Type: TypeFile, Mode: 0o2650, UID: 1000, GID: 1001}, []Xattr{{aclAccess, access}, {"trusted.t", []byte("\x00bin")}, {"user.u", []byte{}}}},
			{"readonly", Meta{Type: TypeFile, Mode: 0, UID: 1000, GID: 1001}, []Xattr{{"user.long", bytes.Repeat([]byte("x"), 1000)}}},
			{"dir", Meta{Type: TypeDir, Mode: 0o3775, UID: 1000, GID: 1001}, []Xattr{{aclDefault, deflt}, {"user.x", []byte("y")}}},
			{"link", Meta{Type: TypeSymlink, Mode: 0o777, UID: 1000, GID: 1001}, []Xattr{{"trusted.of the link", []byte("z")}}},
			{"fifo", Meta{Type: TypeFIFO, Mode: 0o4606, UID: 1, GID: 2}, []Xattr{{"trusted.f", []byte("z")}}},
			{"sock", Meta{Type: TypeSocket, Mode: 0o2660, UID: 1, GID: 2}, nil},
			{"dev", Meta{Type: TypeCharDevice, Mode: 0o660, UID: 1, GID: 2}, nil},
		} {
			c.m.MTime = -12_345_678_901
			switch c.m.Type {
			case TypeFile:
				create(t, r, c.path, "content")
			case TypeDir:
				must(t, r.Mkdir(c.path))
			case TypeSymlink:
				must(t, r.Symlink("nowhere", c.path))
			default:
				must(t, r.Mknod(c.path, c.m.Type, 0))
			}
			check := func(how string, err error) {
				t.Helper()
				if err != nil {
					t.Errorf("%s, %s: %v", c.path, how, err)
				}
				got, err := r.Lstat(c.path)
				must(t, err)
				if got.Mode != c.m.Mode || got.UID != c.m.UID || got.GID != c.m.GID || got.MTime != c.m.MTime {
					t.Errorf("%s, %s: got %+v, want %+v", c.path, how, got, c.m)
				}
				x, err := openDir(t, dir).XattrsOf(c.path)
				if err != nil || !slices.EqualFunc(x, c.xattrs, func(a, b Xattr) bool { return a.Name == b.Name && bytes.Equal(a.Value, b.Value) }) {
					t.Errorf("%s, %s: attributes %q, %v", c.path, how, x, err)
				}
			}
			check("new", r.Apply(c.path, &c.m, c.xattrs, ApplyOptions{}))
			check("again", r.Apply(c.path, &c.m, c.xattrs, ApplyOptions{}))
			// Other metadata and back: nothing may be left.
			other := c.m
			other.Mode, other.UID, other.GID, other.MTime = 0o700, 7, 8, 9
			var otherXattrs []Xattr
			if c.m.Type == TypeFile {
				otherXattrs = []Xattr{{aclAccess, rawACL(aclEntry{1, 7, ^uint32(0)}, aclEntry{2, 7, 1}, aclEntry{4, 0, ^uint32(0)}, aclEntry{0x10, 0, ^uint32(0)}, aclEntry{0x20, 0, ^uint32(0)})}, {"user.gone", []byte("1")}}
			}
			must(t, r.Apply(c.path, &other, otherXattrs, ApplyOptions{}))
			check("changed back", r.Apply(c.path, &c.m, c.xattrs, ApplyOptions{}))
			if c.m.Type == TypeFile {
				f, _, err := r.OpenWrite(c.path)
				must(t, err)
				_, err = f.WriteAt([]byte("new content"), 0) // clears capabilities
				must(t, err)
				check("through the file", f.Apply(&c.m, c.xattrs, ApplyOptions{}))
				x, err := f.Xattrs()
				if err != nil || len(x) != len(c.xattrs) {
					t.Errorf("%s: %q, %v", c.path, x, err)
				}
				f.Close()
			}
			must(t, r.Apply(c.path, &other, nil, ApplyOptions{NoXattrs: true, NoOwner: true}))
			if m, err := r.Lstat(c.path); err != nil || m.UID != c.m.UID || m.MTime != 9 {
				t.Errorf("%s: owner changed against NoOwner: %+v, %v", c.path, m, err)
			}
			if x, err := openDir(t, dir).XattrsOf(c.path); err != nil || len(x) != len(c.xattrs) {
				t.Errorf("%s: attributes changed against NoXattrs: %q, %v", c.path, x, err)
			}
		}
		// What is made in a folder with a default ACL inherits one, which the snapshot's entry need not have.
		sub := mine(TypeDir, 0o755, 1)
		must(t, r.Apply("dir", sub, []Xattr{{aclDefault, deflt}}, ApplyOptions{}))
		create(t, r, "dir/heir", "")
		must(t, r.Apply("dir/heir", mine(TypeFile, 0o640, 1), nil, ApplyOptions{}))
		d, err := r.OpenDir("dir")
		must(t, err)
		defer d.Close()
		if x, err := d.XattrsOf("heir"); err != nil || len(x) > 0 {
			t.Errorf("inherited ACL is left: %q, %v", x, err)
		}
		if m, err := d.Stat("heir"); err != nil || m.Mode != 0o640 {
			t.Errorf("%+v, %v", m, err)
		}
		if x, err := d.Xattrs(); err != nil || len(x) != 1 {
			t.Errorf("attributes of the folder: %q, %v", x, err)
		}
	})
}

func TestApplyUnprivileged(t *testing.T) {
	asUser(t, func(t *testing.T) {
		r := openRoot(t, t.TempDir())
		create(t, r, "file", "content")
		m := mine(TypeFile, 0o6555, 77)
		m.UID, m.GID = 0, 0
		xattrs := []Xattr{{"security.capability", []byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}}, {"trusted.t", []byte("t")}, {"user.u", []byte("u")}}
		for range 2 { // the second time the file is read-only, and half done
			what, rest := SplitPrivilege(r.Apply("file", m, xattrs, ApplyOptions{}))
			if what != SkippedOwner|SkippedXattrs|SkippedSetID || rest != nil {
				t.Errorf("skipped %v; failed %v", what, rest)
			}
			got, err := r.Lstat("file")
			if err != nil || got.Mode != 0o555 || got.MTime != 77 || int(got.UID) != os.Geteuid() {
				t.Errorf("%+v, %v", got, err)
			}
			x, err := openDir(t, r.Name()).XattrsOf("file")
			if err != nil || len(x) != 1 || x[0].Name != "user.u" {
				t.Errorf("%q, %v", x, err)
			}
			xattrs[2].Value = []byte("changed")
		}
		// A read-only file of one's own is patched.
		f, _, err := r.OpenWrite("file")
		must(t, err)
		_, err = f.WriteAt([]byte("C"), 0)
		must(t, err)
		must(t, f.Apply(mine(TypeFile, 0o400, 78), nil, ApplyOptions{}))
		f.Close()
		if got, err := os.ReadFile(filepath.Join(r.Name(), "file")); err != nil || string(got) != "Content" {
			t.Errorf("%q, %v", got, err)
		}
		if m, err := r.Lstat("file"); err != nil || m.Mode != 0o400 || m.MTime != 78 {
			t.Errorf("%+v, %v", m, err)
		}
		// A group of one's own can be given.
		if groups, err := os.Getgroups(); err != nil || len(groups) < 2 {
			t.Logf("no second group to give a file to: %v, %v", groups, err)
		} else {
			i := slices.IndexFunc(groups, func(g int) bool { return g != os.Getegid() })
			m := mine(TypeFile, 0o2750, 1)
			m.UID, m.GID = 0, uint32(groups[i])
			what, rest := SplitPrivilege(r.Apply("file", m, nil, ApplyOptions{}))
			if got, err := r.Lstat("file"); err != nil || got.GID != m.GID || what != SkippedOwner|SkippedSetID || rest != nil {
				t.Errorf("%+v, %v; skipped %v; failed %v", got, err, what, rest)
			}
		}
		// Somebody else's entry.
		root := openRoot(t, "/")
		what, rest := SplitPrivilege(root.Apply("tmp", &Meta{Type: TypeDir, Mode: 0o700, MTime: 1}, nil, ApplyOptions{}))
		if what != SkippedMode|SkippedTimes || rest != nil {
			t.Errorf("/tmp: skipped %v; failed %v", what, rest)
		}
	})
}

func TestReadOnlyFoldersUnprivileged(t *testing.T) {
	asUser(t, func(t *testing.T) {
		r := openRoot(t, t.TempDir())
		must(t, r.Mkdir("d"))
		must(t, r.Mkdir("d/e"))
		create(t, r, "d/e/f", "")
		for _, mode := range []uint32{0o555, 0} {
			must(t, r.Apply("d/e", mine(TypeDir, mode, 1), nil, ApplyOptions{}))
			if _, err := r.Create("d/e/g"); !errors.Is(err, fs.ErrPermission) {
				t.Fatalf("a file in a folder of mode %o: %v", mode, err)
			}
			must(t, r.MakeWritable("d/e"))
			create(t, r, "d/e/g", "")
			must(t, r.Remove("d/e/g"))
			// A folder without any right takes its metadata back, also the attributes.
			must(t, r.Apply("d/e", mine(TypeDir, mode, 1), []Xattr{{"user.x", []byte("y")}}, ApplyOptions{}))
			must(t, r.Apply("d/e", mine(TypeDir, mode, 1), []Xattr{{"user.x", []byte("z")}}, ApplyOptions{}))
		}
		must(t, r.Apply("d", mine(TypeDir, 0o500, 1), nil, ApplyOptions{}))
		must(t, r.RemoveAll("d"))
		if _, err := r.Lstat("d"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("still there: %v", err)
		}
	})
}

// A file system that holds no attributes is not an error to read from, and is reported when they are to be set.
func TestNoXattrs(t *testing.T) {
	if x, err := openDir(t, "/proc").XattrsOf("version"); err != nil || len(x) > 0 {
		t.Errorf("%v, %v", x, err)
	}
	r := openRoot(t, "/proc/self")
	what, _ := SplitPrivilege(r.Apply("comm", mine(TypeFile, 0o644, 0), []Xattr{{"user.x", nil}}, ApplyOptions{NoOwner: true}))
	if what&SkippedNoXattr == 0 {
		t.Errorf("skipped %v", what)
	}
}

func TestManyXattrs(t *testing.T) {
	dir, err := os.MkdirTemp("/dev/shm", "localfs-test-*")
	if err != nil {
		t.Skipf("no tmpfs, which holds large attributes: %v", err)
	}
	defer os.RemoveAll(dir)
	r := openRoot(t, dir)
	create(t, r, "file", "")
	var want []Xattr
	for i := range 60 {
		want = append(want, Xattr{"user." + strings.Repeat("n", 50) + string(rune('0'+i)), bytes.Repeat([]byte{byte(i)}, i*37)})
	}
	if what, rest := SplitPrivilege(r.Apply("file", mine(TypeFile, 0o600, 0), want, ApplyOptions{})); what == SkippedNoXattr {
		t.Skipf("tmpfs takes no user attributes before Linux 6.6")
	} else if rest != nil || what != 0 {
		t.Fatal(what, rest)
	}
	f, _, err := r.OpenFile("file")
	must(t, err)
	defer f.Close()
	got, err := f.Xattrs()
	must(t, err)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	byName, err := openDir(t, dir).XattrsOf("file")
	if err != nil || !cmp.Equal(byName, got) {
		t.Errorf("by name: %d, %v", len(byName), err)
	}
}
