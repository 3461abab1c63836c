package snapshot

import (
	"context"

	"github.com/whole-tale/wtsnap/snapshot/localfs"
)

// The kin of a new file is an old one that it probably resembles, by its name: of a file in a new folder, the one of the same
// name in a folder of which the name differs little (a new version of a package, a copy of a project); else the one in the
// same folder of which it does (a dump with a date, a report's next version). Names are compared with those that stand next
// to them in the order of names alone, which the walk comes past anyway. Kin are bases of deltas and nothing else: a wrong
// one costs some time. They have the same owner: how well two files compress each other is seen in the length of a pack, and
// nobody is to find out about another user's files by that (docs/security.md).

// kinSpan is how many entries of either type before a name are compared with it.
const kinSpan = 8

// kinRing holds the last entries of one type that a cursor came past.
type kinRing struct {
	nodes [kinSpan]*Node
	n     int
}

func (r *kinRing) add(n *Node) {
	r.nodes[r.n%kinSpan] = n
	r.n++
}

// passed are the last files and folders that a cursor came past.
type passed struct{ files, folders kinRing }

func (p *passed) of(t localfs.Type) *kinRing {
	switch t {
	case localfs.TypeFile:
		return &p.files
	case localfs.TypeDir:
		return &p.folders
	}
	return nil
}

// kin returns the entry near a name that is most like it, or nil. The cursor was asked for the name just before.
func (c *pastCursor) kin(name string, m *localfs.Meta) (kin *Node, likeness int) {
	ring := c.passed.of(m.Type)
	consider := func(n *Node) {
		if l := alike(n.Name, name); l > likeness && n.Name != name && n.UID == m.UID {
			kin, likeness = n, l
		}
	}
	for i := ring.n - 1; i >= max(ring.n-kinSpan, 0); i-- {
		consider(ring.nodes[i%kinSpan])
	}
	if c.head != nil && c.head.Type == m.Type {
		consider(c.head)
	}
	return kin, likeness
}

// sameShape is more than any number of bytes that two names have in common.
const sameShape = 1 << 20

// alike returns how like two names are: 0 where they are not. Names that differ in numbers alone (of a version, a date, a
// run) are most like each other, the more the later the first number is that differs, and then the nearer. Else it is how many
// bytes they have in common in front and behind, if they begin alike and that is half of the longer one.
func alike(a, b string) int {
	if at, apart, ok := numbersApart(a, b); ok {
		return (1+at)*sameShape + sameShape/(1+apart)
	}
	if len(a) > len(b) {
		a, b = b, a
	}
	n := 0
	for n < len(a) && a[n] == b[n] {
		n++
	}
	behind := 0
	for behind < len(a)-n && a[len(a)-1-behind] == b[len(b)-1-behind] {
		behind++
	}
	if n == 0 || 2*(n+behind) < len(b) {
		return 0
	}
	return n + behind
}

// numbersApart returns where in a the first number is that differs, and by how much, where two names differ in numbers alone.
func numbersApart(a, b string) (at, apart int, ok bool) {
	whole := len(a)
	for len(a) > 0 && len(b) > 0 {
		begin := whole - len(a)
		m, n := leadingNumber(&a), leadingNumber(&b)
		if (m < 0) != (n < 0) {
			return 0, 0, false
		}
		if m >= 0 {
			if apart == 0 && m != n {
				at, apart = begin, max(m-n, n-m)
			}
			continue
		}
		if a[0] != b[0] {
			return 0, 0, false
		}
		a, b = a[1:], b[1:]
	}
	return at, apart, a == b
}

// leadingNumber takes the number from a name that it begins with, or returns -1. Of very long ones the end does not count.
func leadingNumber(s *string) int {
	digits := 0
	for digits < len(*s) && '0' <= (*s)[digits] && (*s)[digits] <= '9' {
		digits++
	}
	if digits == 0 {
		return -1
	}
	n := 0
	for _, d := range (*s)[:min(digits, 9)] {
		n = 10*n + int(d-'0')
	}
	*s = (*s)[digits:]
	return n
}

// kin returns what a new entry of the folder probably resembles, and whose it is, or nil. Names come in ascending order.
func (w *walker) kin(ctx context.Context, name string, m *localfs.Meta) (kin *Node, from *parentSnap) {
	if c := w.f.kin; c != nil {
		if n := c.seek(ctx, w.b, w.f.path, name); n != nil && n.Type == m.Type && n.UID == m.UID {
			return n, c.p
		}
		kin, _ = c.kin(name, m)
		from = c.p
	}
	most := 0
	for i := range w.cursors {
		c := &w.cursors[i]
		if n, likeness := c.kin(name, m); likeness > most && !c.p.pass {
			kin, from, most = n, c.p, likeness
		}
	}
	return kin, from
}
