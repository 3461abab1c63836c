package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/whole-tale/wtsnap/cmd/wtsnap-bench/apart"
	"github.com/whole-tale/wtsnap/cmd/wtsnap-bench/bound"
	"github.com/whole-tale/wtsnap/cmd/wtsnap-bench/corpus"
	"github.com/whole-tale/wtsnap/repo/storage/local"
)

func apartCommand(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("apart", flag.ContinueOnError)
	kind := flags.String("kind", "homes", "`what` to save: homes or dump")
	sizeName := flags.String("size", "small", "tiny, small or full")
	seed := flags.Uint64("seed", 1, "the same seed makes the same corpus")
	nights := flags.Int("nights", 7, "nights of changes")
	show := flags.Int("files", 10, "name this many of the files that are farthest from their bound")
	dir := flags.String("dir", "", "work in a folder of its own below this `folder`, and remove it in the end (default /dev/shm if there is room)")
	far := flags.Bool("far", false, "as if the repository were far away, without a cache: old data is read only where that pays")
	trees := flags.String("trees", "", "`OLD,NEW`: two states of a tree, instead of a corpus and its nights")
	if err := parse(flags, stderr, args); err != nil {
		return err
	}
	size, err := corpus.ParseSize(*sizeName)
	if err != nil {
		return err
	}
	b := &bench{ctx: ctx, log: stderr, size: size, seed: *seed}
	if err := b.places(*dir, *dir); err != nil {
		return err
	}
	if *trees != "" {
		old, fresh, ok := strings.Cut(*trees, ",")
		if !ok {
			err = errors.New("-trees wants two folders: OLD,NEW")
		} else {
			err = b.apartTrees(old, fresh, *far, *show, stdout)
		}
		return errors.Join(err, b.clean())
	}
	t, err := newTree(ctx, *kind, filepath.Join(b.dir, *kind), *seed, size)
	if err == nil {
		err = b.apart(t, *nights, *far, *show, stdout)
	}
	return errors.Join(err, b.clean())
}

// apartTrees saves two states of a tree and prints what the second is made of.
func (b *bench) apartTrees(old, fresh string, far bool, show int, stdout io.Writer) error {
	list, err := bound.Trees(old, fresh)
	if err != nil {
		return err
	}
	changed := map[string]bound.Pair{}
	for _, pair := range list {
		rel, err := filepath.Rel(fresh, pair.New)
		if err != nil {
			return err
		}
		changed[rel] = pair
	}
	p, err := b.apartSeries(old, far)
	if err != nil {
		return err
	}
	apartTitle(stdout)
	p.Move(fresh)
	return b.apartNight(p, 1, changed, show, stdout)
}

// apart saves nights of a tree and prints what each is made of.
func (b *bench) apart(t tree, nights int, far bool, show int, stdout io.Writer) error {
	if err := t.Make(b.ctx); err != nil {
		return err
	}
	p, err := b.apartSeries(t.Dir(), far)
	if err != nil {
		return err
	}
	apartTitle(stdout)
	keep := filepath.Join(b.dir, "old")
	for night := 1; night <= nights; night++ {
		changes, err := t.Night(b.ctx, night, keep)
		if err != nil {
			return err
		}
		changed := map[string]bound.Pair{}
		for i, pair := range pairs(t, changes) {
			changed[changes[i].Path] = pair
		}
		if err := errors.Join(b.apartNight(p, night, changed, show, stdout), os.RemoveAll(keep)); err != nil {
			return err
		}
	}
	return nil
}

// apartSeries makes a repository and saves the tree as it is.
func (b *bench) apartSeries(dir string, far bool) (*apart.Series, error) {
	place := filepath.Join(b.dir, "repo")
	if err := os.Mkdir(place, 0o700); err != nil {
		return nil, err
	}
	st, err := local.Open(place)
	if err != nil {
		return nil, err
	}
	p, err := apart.New(b.ctx, st, dir, far)
	if err != nil {
		return nil, err
	}
	return p, p.First(b.ctx)
}

func apartTitle(w io.Writer) {
	fmt.Fprintln(w, "| night | bound | stored | ratio | new files | their bound | changed files | their bound | blobs whole | as deltas | folders | directories | padding | index | manifest |")
	fmt.Fprintln(w, "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
}

func (b *bench) apartNight(p *apart.Series, night int, changed map[string]bound.Pair, show int, stdout io.Writer) error {
	n, err := p.Night(b.ctx, changed)
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "| %d | %d | %d | %.2f | %d | %d | %d | %d | %d | %d | %d | %d | %d | %d | %d |\n", night, n.Bound, n.Stored,
		float64(n.Stored)/float64(n.Bound), n.New.Stored, n.New.Bound, n.Changed.Stored, n.Changed.Bound, n.New.Whole+n.Changed.Whole,
		n.New.Deltas+n.Changed.Deltas, n.Trees, n.Directories, n.Padding, n.Index, n.Manifest)
	for _, f := range n.Files[:min(show, len(n.Files))] {
		fmt.Fprintf(b.log, "  %8d for %8d  %s (%d bytes; %d blobs whole, %d deltas)\n", f.Stored, f.Bound, f.Path, f.Size, f.Whole, f.Deltas)
	}
	return nil
}
