// Package compare tells whether two trees are the same to a user who gets one back for the other: names, types,
// contents, modes, owners, times of modification to the nanosecond, link targets, hard links among the files of the
// tree, device numbers and extended attributes. Holes, inode numbers and times of access and of change are not compared,
// nor are the attributes of the two root folders themselves.
package compare

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/pkg/xattr"
)

// Kind is what differs.
type Kind string

// The kinds of differences.
const (
	Missing Kind = "missing" // only in the first tree
	Extra   Kind = "extra"   // only in the second tree
	Type    Kind = "type"
	Content Kind = "content"
	Mode    Kind = "mode"
	Owner   Kind = "owner"
	MTime   Kind = "mtime"
	Target  Kind = "target" // of a symlink
	Links   Kind = "links"  // not hard-linked with the same files
	Device  Kind = "device"
	Xattrs  Kind = "xattrs"
)

// Kinds lists all kinds.
func Kinds() []Kind {
	return []Kind{Missing, Extra, Type, Content, Mode, Owner, MTime, Target, Links, Device, Xattrs}
}

// Difference is one of a path, relative to the roots.
type Difference struct {
	Path   string
	Kind   Kind
	Detail string // of the first tree, then of the second
}

// String is a line for a person; odd names are quoted.
func (d Difference) String() string {
	s := fmt.Sprintf("%-8s %s", d.Kind, quote(d.Path))
	if d.Detail != "" {
		s += ": " + d.Detail
	}
	return s
}

func quote(name string) string {
	if q := fmt.Sprintf("%q", name); q != `"`+name+`"` {
		return q
	}
	return name
}

// Result is what was compared and found different. Differences are in the order of the walk.
type Result struct {
	Differences []Difference
	Files       int   // of all types, in the first tree, without its root
	Bytes       int64 // of contents compared
}

// Trees compares the tree at root a with the one at root b. An error means that they could not be compared.
func Trees(a, b string) (*Result, error) {
	c := &comparison{a: a, b: b, firstA: map[inode]string{}, firstB: map[inode]string{}}
	infoA, err := os.Stat(a)
	if err != nil {
		return nil, err
	}
	infoB, err := os.Stat(b)
	if err != nil {
		return nil, err
	}
	if !infoA.IsDir() || !infoB.IsDir() {
		return nil, fmt.Errorf("compare %s with %s: both must be folders", a, b)
	}
	if err := c.folder(""); err != nil {
		return nil, err
	}
	return &c.result, nil
}

type inode struct{ device, number uint64 }

type comparison struct {
	a, b           string
	result         Result
	firstA, firstB map[inode]string // the first path met of each file with several links
	bufA, bufB     [64 << 10]byte
}

func (c *comparison) differ(path string, kind Kind, format string, args ...any) {
	c.result.Differences = append(c.result.Differences, Difference{path, kind, fmt.Sprintf(format, args...)})
}

// folder merges the two sorted listings of a folder. The entries that both have are compared, folders after their
// entries.
func (c *comparison) folder(rel string) error {
	namesA, err := names(filepath.Join(c.a, rel))
	if err != nil {
		return err
	}
	namesB, err := names(filepath.Join(c.b, rel))
	if err != nil {
		return err
	}
	for len(namesA) > 0 || len(namesB) > 0 {
		switch {
		case len(namesB) == 0 || len(namesA) > 0 && namesA[0] < namesB[0]:
			c.result.Files++
			c.differ(filepath.Join(rel, namesA[0]), Missing, "")
			namesA = namesA[1:]
		case len(namesA) == 0 || namesB[0] < namesA[0]:
			c.differ(filepath.Join(rel, namesB[0]), Extra, "")
			namesB = namesB[1:]
		default:
			c.result.Files++
			if err := c.entry(filepath.Join(rel, namesA[0])); err != nil {
				return err
			}
			namesA, namesB = namesA[1:], namesB[1:]
		}
	}
	return nil
}

func names(dir string) ([]string, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	slices.Sort(names)
	return names, err
}

func (c *comparison) entry(rel string) error {
	pathA, pathB := filepath.Join(c.a, rel), filepath.Join(c.b, rel)
	a, err := os.Lstat(pathA)
	if err != nil {
		return err
	}
	b, err := os.Lstat(pathB)
	if err != nil {
		return err
	}
	if a.Mode().Type() != b.Mode().Type() {
		c.differ(rel, Type, "%s, %s", a.Mode().Type(), b.Mode().Type())
		return nil
	}
	if a.IsDir() {
		if err := c.folder(rel); err != nil {
			return err
		}
	}
	c.attributes(rel, a, b)
	if err := c.xattrs(rel); err != nil {
		return err
	}
	switch a.Mode().Type() {
	case 0:
		return c.content(rel, a.Size(), b.Size())
	case fs.ModeSymlink:
		return c.target(rel)
	}
	return nil
}

func (c *comparison) attributes(rel string, a, b fs.FileInfo) {
	statA, statB := a.Sys().(*syscall.Stat_t), b.Sys().(*syscall.Stat_t)
	if a.Mode() != b.Mode() && a.Mode().Type() != fs.ModeSymlink { // a symlink's mode has no meaning
		c.differ(rel, Mode, "%v, %v", a.Mode(), b.Mode())
	}
	if statA.Uid != statB.Uid || statA.Gid != statB.Gid {
		c.differ(rel, Owner, "%d:%d, %d:%d", statA.Uid, statA.Gid, statB.Uid, statB.Gid)
	}
	if !a.ModTime().Equal(b.ModTime()) {
		const layout = "2006-01-02 15:04:05.000000000"
		c.differ(rel, MTime, "%s, %s", a.ModTime().UTC().Format(layout), b.ModTime().UTC().Format(layout))
	}
	if a.Mode()&fs.ModeDevice != 0 && statA.Rdev != statB.Rdev {
		c.differ(rel, Device, "%#x, %#x", statA.Rdev, statB.Rdev)
	}
	if !a.IsDir() {
		first, second := first(c.firstA, statA, rel), first(c.firstB, statB, rel)
		if first != second {
			c.differ(rel, Links, "linked with %s, with %s", quote(first), quote(second))
		}
	}
}

// first returns the first path at which a file was met: rel itself for one without other links.
func first(met map[inode]string, stat *syscall.Stat_t, rel string) string {
	if stat.Nlink < 2 {
		return rel
	}
	key := inode{uint64(stat.Dev), uint64(stat.Ino)}
	if path, ok := met[key]; ok {
		return path
	}
	met[key] = rel
	return rel
}

func (c *comparison) target(rel string) error {
	a, err := os.Readlink(filepath.Join(c.a, rel))
	if err != nil {
		return err
	}
	b, err := os.Readlink(filepath.Join(c.b, rel))
	if err == nil && a != b {
		c.differ(rel, Target, "%q, %q", a, b)
	}
	return err
}

func (c *comparison) content(rel string, sizeA, sizeB int64) error {
	if sizeA != sizeB {
		c.differ(rel, Content, "%d bytes, %d bytes", sizeA, sizeB)
		return nil
	}
	a, err := os.Open(filepath.Join(c.a, rel))
	if err != nil {
		return err
	}
	defer a.Close()
	b, err := os.Open(filepath.Join(c.b, rel))
	if err != nil {
		return err
	}
	defer b.Close()
	for offset := int64(0); ; {
		n, errA := io.ReadFull(a, c.bufA[:])
		m, errB := io.ReadFull(b, c.bufB[:])
		if !bytes.Equal(c.bufA[:n], c.bufB[:m]) {
			c.differ(rel, Content, "differs within %d bytes after byte %d", len(c.bufA), offset)
			return nil
		}
		offset += int64(n)
		c.result.Bytes += int64(n)
		for _, err := range []error{errA, errB} {
			if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
				return err
			}
		}
		if errA != nil || errB != nil {
			return nil
		}
	}
}

func (c *comparison) xattrs(rel string) error {
	a, err := readXattrs(filepath.Join(c.a, rel))
	if err != nil {
		return err
	}
	b, err := readXattrs(filepath.Join(c.b, rel))
	if err == nil && a != b {
		c.differ(rel, Xattrs, "{%s}, {%s}", a, b)
	}
	return err
}

// readXattrs returns all extended attributes as one text. Labels that the system sets by itself are left out.
func readXattrs(path string) (string, error) {
	list, err := xattr.LList(path)
	if err != nil {
		if unsupported(err) {
			return "", nil
		}
		return "", err
	}
	slices.Sort(list)
	var b strings.Builder
	for _, name := range list {
		if name == "security.selinux" {
			continue
		}
		value, err := xattr.LGet(path, name)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&b, "%s=%q ", name, value)
	}
	return strings.TrimSuffix(b.String(), " "), nil
}

// unsupported tells that a file, or its file system, has no extended attributes at all.
func unsupported(err error) bool {
	return errors.Is(err, syscall.ENOTSUP) || errors.Is(err, syscall.EPERM)
}
