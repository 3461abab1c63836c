package corpus

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sync/errgroup"
)

// Homes is a folder of home directories.
type Homes struct {
	dir   string
	seed  uint64
	size  Size
	words []string
	users []user
}

type user struct {
	name  string
	uid   int
	bytes int64
	files int64
	real  []folder
}

// shares of a home's bytes and files by what they are; the rest of the bytes is text.
const (
	realBytes, realFiles = 0.30, 0.80
	notebookBytes        = 0.10
	tableBytes           = 0.12
	floatBytes           = 0.22
	noiseBytes           = 0.20
	smallFiles           = 0.08
	largeBytes           = 0.08 // of all homes, in one file
)

// NewHomes plans homes in dir; Make writes them. The roots are searched for real files once, so that homes made again
// by the same value are equal even while the machine's own trees change. No roots, no real files.
func NewHomes(dir string, seed uint64, size Size, roots []string) *Homes {
	h := &Homes{dir: dir, seed: seed, size: size, words: vocabulary(seed)}
	rng := stream(seed, "users")
	names := strings.Fields("alice bob carol dave erin frank grace heidi ivan judy mallory niaj")
	weights, sum := make([]float64, len(names)), 0.0
	for i := range weights {
		weights[i] = 0.6 + rng.Float64()*0.8
		sum += weights[i]
	}
	var bytes, files []int64
	for i, name := range names {
		u := user{name: name, uid: 1001 + i,
			bytes: int64(float64(size.Bytes) * (1 - largeBytes) * weights[i] / sum),
			files: int64(float64(size.Files) * weights[i] / sum)}
		h.users = append(h.users, u)
		bytes = append(bytes, int64(float64(u.bytes)*realBytes))
		files = append(files, int64(float64(u.files)*realFiles))
	}
	for i, folders := range split(rng, realFolders(rng, roots), bytes, files) {
		h.users[i].real = folders
	}
	return h
}

// Name is the label under which the corpus is backed up.
func (h *Homes) Name() string { return "homes" }

// Dir is where the corpus lies.
func (h *Homes) Dir() string { return h.dir }

// Part is the folder that is restored alone: one home of twelve.
func (h *Homes) Part() string { return h.users[5].name }

// Make writes the homes as they are before the first night. The folder must not exist yet.
func (h *Homes) Make(ctx context.Context) error {
	if err := os.Mkdir(h.dir, 0o755); err != nil {
		return err
	}
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i, u := range h.users {
		group.Go(func() error {
			rng := stream(h.seed, "home %s", u.name)
			b := &builder{ctx: groupCtx, root: filepath.Join(h.dir, u.name), w: &writer{rng: rng, words: h.words}, rng: rng}
			return b.home(h, u, i)
		})
	}
	if err := group.Wait(); err != nil {
		return fmt.Errorf("make homes: %w", err)
	}
	return h.finish(ctx)
}

// A builder writes one home. The first error stays and makes all later steps do nothing.
type builder struct {
	ctx   context.Context
	root  string
	w     *writer
	rng   *rand.Rand
	files int64
	err   error
}

func (b *builder) home(h *Homes, u user, index int) error {
	b.file(".profile", b.w.text(800), 0o644)
	b.file(".bash_history", b.w.code(6000), 0o600)
	b.projects(u)
	b.fill("notebooks/analysis", notebook, share(u.bytes, notebookBytes), 20e3, 900e3)
	b.fill("data/table", table, share(u.bytes, tableBytes), 10e3, 4e6)
	b.fill("data/array", floats, share(u.bytes, floatBytes), 100e3, 12e6)
	b.fill("pictures/image", noise, share(u.bytes, noiseBytes), 50e3, 6e6)
	b.fill("notes/note", text, share(u.bytes, 1-realBytes-notebookBytes-tableBytes-floatBytes-noiseBytes), 1e3, 200e3)
	for i := range int64(float64(u.files) * smallFiles) {
		b.file(fmt.Sprintf(".cache/objects/%02x/%06x", i%37, i), b.w.text(20+b.rng.IntN(380)), 0o600)
	}
	switch {
	case index == 3:
		b.large("data/simulation.h5", share(h.size.Bytes, largeBytes))
	case index%4 == 2:
		b.versions(u.files / 20)
	}
	b.oddities(h)
	return b.err
}

func share(n int64, part float64) int64 { return int64(float64(n) * part) }

// projects copies the user's real folders; generated source code stands in for what the machine could not give.
func (b *builder) projects(u user) {
	bytes, files := share(u.bytes, realBytes), share(u.files, realFiles)
	for i, f := range u.real {
		name := filepath.Join("projects", fmt.Sprintf("%s-%d", filepath.Base(f.path), i))
		for _, file := range f.files {
			mode := os.FileMode(0o644)
			if file.exec {
				mode = 0o755
			}
			b.copy(filepath.Join(f.path, file.name), filepath.Join(name, file.name), file.size, mode)
		}
		bytes -= f.bytes
		files -= int64(len(f.files))
	}
	// Leave a little undealt rather than write thousands of tiny files for the last percent.
	for i := int64(0); bytes > share(u.bytes, realBytes)/20 && files > share(u.files, realFiles)/20 && b.err == nil; i++ {
		n := min(between(b.rng, 500, 5*float64(bytes)/float64(files)), bytes)
		b.file(fmt.Sprintf("projects/%s/%s/module_%d.py", b.w.words[i/400], b.w.words[i/20%400], i), b.w.code(int(n)), 0o644)
		bytes -= n
		files--
	}
}

// fill writes files of one kind until their bytes are used up.
func (b *builder) fill(prefix string, k kind, bytes int64, smallest, largest float64) {
	largest = min(largest, float64(bytes)/2+smallest)
	for i := 0; bytes > int64(smallest/2) && b.err == nil; i++ {
		n := min(between(b.rng, smallest, largest), bytes)
		b.file(fmt.Sprintf("%s-%03d%s", prefix, i, k.extension()), b.w.make(k, int(n)), 0o644)
		bytes -= n
	}
}

// between draws a size whose logarithm is evenly spread.
func between(rng *rand.Rand, low, high float64) int64 {
	return int64(low * math.Pow(max(high/low, 1), rng.Float64()))
}

// large writes one file of numbers and text, a piece at a time.
func (b *builder) large(name string, bytes int64) {
	f, err := b.create(name, 0o644)
	for i := 0; err == nil && bytes > 0; i++ {
		k := floats
		if i%4 == 3 {
			k = table
		}
		n := min(bytes, 1<<20)
		_, err = f.Write(b.w.make(k, int(n)))
		bytes -= n
	}
	b.close(f, err)
}

// versions writes a workspace and versions of it as Whole Tale keeps them: each version is a folder of hard links to
// the files as they were, and shares with the next one all but what was edited in between.
func (b *builder) versions(files int64) {
	var names []string
	for i := range files {
		name := fmt.Sprintf("step-%d/result-%d%s", i%5, i, table.extension())
		b.file(filepath.Join("tales/workspace", name), b.w.table(2000+b.rng.IntN(30000)), 0o644)
		names = append(names, name)
	}
	for version := range 3 {
		for _, name := range names {
			b.link(filepath.Join("tales/workspace", name), fmt.Sprintf("tales/versions/v%d/%s", version+1, name))
		}
		for range files / 10 {
			name := filepath.Join("tales/workspace", names[b.rng.IntN(len(names))])
			b.remove(name)
			b.file(name, b.w.table(2000+b.rng.IntN(30000)), 0o644)
		}
	}
}

// oddities are what a backup most easily loses.
func (b *builder) oddities(h *Homes) {
	b.file("odd/empty", nil, 0o644)
	b.file("odd/line\nbreak", []byte("a name of two lines\n"), 0o644)
	b.file("odd/ blank ", []byte("blanks at both ends\n"), 0o644)
	b.file("odd/-r", []byte("looks like an option\n"), 0o644)
	b.file(`odd/back\slash "quotes" $HOME *`, []byte("special to shells\n"), 0o644)
	b.file("odd/größe-尺寸-🙂", []byte("not ASCII\n"), 0o644)
	if runtime.GOOS != "darwin" { // where the file system refuses them
		b.file("odd/latin1-\xe4\xf6\xfc", []byte("not UTF-8\n"), 0o644)
	}
	b.file("odd/read-only", []byte("mode 0400\n"), 0o400)
	b.file("odd/program", []byte("#!/bin/sh\necho hello\n"), 0o750)
	b.symlink("../.profile", "odd/link")
	b.symlink("/nowhere/at all", "odd/dangling")
	b.symlink("../notes", "odd/folder-link")
	b.folder("odd/empty-folder", 0o700)
	b.folder("odd/shared", 0o2775)
	b.file("odd/shared/"+strings.Repeat("long", 60), []byte("240 bytes of name\n"), 0o664)
	b.file("odd/"+strings.Repeat("deep/", 40)+"down", []byte("forty folders down\n"), 0o644)
	b.sparse("odd/sparse.img", max(h.size.Bytes/500, 1<<20))
	b.file("odd/attributes", []byte("has extended attributes\n"), 0o644)
	b.xattr("odd/attributes", "user.comment", "measured on a Monday")
	b.xattr("odd/attributes", "user.bytes", "\x00\x01\xff")
	b.xattr("odd/shared", "user.project", "tale")
}

// sparse writes a file of which three small parts hold data.
func (b *builder) sparse(name string, size int64) {
	f, err := b.create(name, 0o644)
	if err == nil {
		err = f.Truncate(size)
	}
	for i := int64(0); i < 3 && err == nil; i++ {
		_, err = f.WriteAt(b.w.table(5000), i*size/3+int64(b.rng.IntN(100000)))
	}
	b.close(f, err)
}

func (b *builder) close(f *os.File, err error) {
	if f != nil {
		err = errors.Join(err, f.Close())
	}
	if b.err == nil {
		b.err = err
	}
}
