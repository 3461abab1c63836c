package drill

import (
	"context"
	"io/fs"
	"slices"
	"strings"

	"github.com/whole-tale/wtsnap/snapshot"
	"github.com/whole-tale/wtsnap/snapshot/exclude"
)

// A sampled file is one that was drawn.
type sampled struct {
	rel  string // to the unit
	node *snapshot.Node
}

const (
	// classFiles is how many files of a class of size are drawn at most.
	classFiles = 64
	classes    = 4
)

// class returns the class of size: what goes wrong with files of one part goes wrong otherwise with files of many.
func class(size int64) int {
	switch {
	case size <= 4<<10:
		return 0
	case size <= 256<<10:
		return 1
	case size <= 16<<20:
		return 2
	}
	return 3
}

// choose draws files of a unit, up to its share of the budget, from all classes of size in turn. some says that the unit has
// files with content at all.
func (d *runner) choose(ctx context.Context, t *task) (out []sampled, some bool, err error) {
	if t.unit.single {
		if t.unit.node.Size > t.share {
			return nil, true, nil
		}
		return []sampled{{"", t.unit.node}}, true, nil
	}
	var drawn [classes][]sampled
	var seen [classes]int
	visit := func(rel string, n *snapshot.Node, err error) error {
		if err != nil { // a folder that cannot be read: a mismatch that a restore would meet as well
			d.mismatch(t.unit.Path, t.unit.path(rel), err)
			return nil
		}
		if t.unit.loose && n.IsDir() {
			return fs.SkipDir
		}
		if !n.IsFile() || t.unit.loose && strings.Contains(rel, "/") {
			return nil
		}
		some = true
		if n.Size > t.share {
			return nil
		}
		c := class(n.Size)
		seen[c]++
		switch i := d.Rand.IntN(seen[c]); {
		case len(drawn[c]) < classFiles:
			drawn[c] = append(drawn[c], sampled{rel, n})
		case i < classFiles:
			drawn[c][i] = sampled{rel, n}
		}
		return nil
	}
	if err := snapshot.Walk(ctx, snapshot.TreeLoader(d.r), t.unit.node, "", visit); err != nil {
		return nil, some, err
	}
	left := t.share
	for c := range drawn {
		d.Rand.Shuffle(len(drawn[c]), func(i, j int) { drawn[c][i], drawn[c][j] = drawn[c][j], drawn[c][i] })
	}
	for taken := true; taken; {
		taken = false
		for c := range drawn {
			if len(drawn[c]) == 0 {
				continue
			}
			f := drawn[c][0]
			drawn[c], taken = drawn[c][1:], true
			if f.node.Size <= left {
				left -= f.node.Size
				out = append(out, f)
			}
		}
	}
	slices.SortFunc(out, func(a, b sampled) int { return strings.Compare(a.rel, b.rel) })
	return out, some, nil
}

// patterns are what makes a restore bring back the drawn files alone.
func patterns(files []sampled) []exclude.Pattern {
	out := make([]exclude.Pattern, 0, len(files))
	for _, f := range files {
		out = append(out, exclude.Pattern{Text: "/" + literal(f.rel), Origin: "drill"})
	}
	return out
}

// literal is a pattern that matches a path and nothing else.
func literal(path string) string {
	var b strings.Builder
	for i := range len(path) {
		if strings.IndexByte(`\*?[] `, path[i]) >= 0 {
			b.WriteByte('\\')
		}
		b.WriteByte(path[i])
	}
	return b.String()
}
