package snapshot

import (
	"slices"
	"testing"

	"github.com/whole-tale/wtsnap/snapshot/exclude"
	"github.com/whole-tale/wtsnap/snapshot/localfs"
)

// What a preview says is what the backup then saves, whatever is left out.
func TestPreview(t *testing.T) {
	v := newVault(t)
	v.fill()
	v.write("home1/cache/"+exclude.CacheTag, "Signature: 8a477f597d28d172789f06886806bc55\n")
	v.write("home1/cache/deep/x", "x")
	v.settle()
	listed := exclude.NewList("list")
	listed.Add("home1")
	listed.Add("home2")
	for _, o := range []ExcludeOptions{
		{Only: listed},
		{Only: listed, Patterns: []exclude.Pattern{{Text: "*.txt"}}},
		{},
		{Patterns: []exclude.Pattern{{Text: "*.txt"}, {Text: "!file7.txt"}, {Text: "/void/"}}},
		{Caches: true, MaxSize: exclude.SizeLimit{Bytes: 1 << 20}, OneFileSystem: true},
	} {
		v.opts.Exclude = o
		rep := v.backup()
		want := []string{}
		must(t, Walk(t.Context(), v.r.Blob, v.node(rep, "homes"), "homes", func(path string, n *Node, err error) error {
			want = append(want, path)
			return err
		}))
		var got []string
		left := 0
		sources, err := Preview(t.Context(), v.options().Sources, o, PreviewOptions{
			Saved: func(path string, _ *localfs.Meta) { got = append(got, path) },
			Left:  func(_, why string) { left++ },
			Wrong: func(path string, err error) { t.Errorf("%s: %v", path, err) },
		})
		must(t, err)
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) || len(want) < 15 {
			t.Errorf("%+v: it would save\n%q\nand the snapshot has\n%q", o, got, want)
		}
		s := sources[0]
		if m := rep.Snapshot.Sources[0]; s.Files != m.Files || s.Bytes != m.Bytes || s.Left != int64(left) || !s.Listed {
			t.Errorf("%+v, and the manifest says %+v", s, m)
		}
		if (left > 0) != (len(o.Patterns) > 0 || o.Caches) {
			t.Errorf("%d entries are left out by %+v", left, o)
		}
	}
}
