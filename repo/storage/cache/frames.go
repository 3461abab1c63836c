package cache

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// Frames keeps pieces of objects, sealed by the caller, where the objects as wholes are not worth a copy: the bases that
// the next night's deltas are made against.
//
// They lie in bundles of some MiB, in the order in which they came: what was used together one night is used together
// the next. A bundle is written once, under a name of its own, and read by any number of processes. It is
//
//	the pieces, end to end
//	for each its id (16 bytes), where it begins, its length, its CRC-32C
//	the number of pieces, the CRC-32C of the lines above, the bytes of the pieces, a magic number
//	the trailer that every file of a cache has
//
// A piece that is not what it was is dropped with its bundle. The bundles that were used least recently go first; those
// that this process has used or written stay, so that what is larger than the bound is kept in part rather than driven
// out by itself. The folder may be deleted at any time.
type Frames struct {
	dir  string
	most int64

	mu      sync.Mutex
	loaded  bool
	full    bool // there is no room that could be made
	at      map[[16]byte]framePlace
	bundles map[string]*bundle // by the file's name
	pending []byte
	lines   []byte
	ids     [][16]byte // of pending
}

type framePlace struct {
	b             *bundle // nil: pending
	start, n, sum uint32
}

type bundle struct {
	name string
	used bool // by this process
}

const (
	bundleBytes  = 4 << 20
	bundleSuffix = ".frames"
	lineBytes    = 16 + 4 + 4 + 4
	footerBytes  = 16
	footerMagic  = 0x32627477
)

// NewFrames returns the pieces in dir, which is made when needed; most bounds the folder in bytes. It does not touch
// the folder.
func NewFrames(dir string, most int64) *Frames {
	return &Frames{dir: dir, most: most, at: map[[16]byte]framePlace{}, bundles: map[string]*bundle{}}
}

// Has reports whether a piece is there.
func (c *Frames) Has(id [16]byte) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.load()
	_, ok := c.at[id]
	return ok
}

// Get appends a piece to dst[:0].
func (c *Frames) Get(id [16]byte, dst []byte) ([]byte, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.load()
	p, ok := c.at[id]
	if !ok {
		return dst[:0], false
	}
	if p.b == nil {
		return append(dst[:0], c.pending[p.start:p.start+p.n]...), true
	}
	dst = slices.Grow(dst[:0], int(p.n))[:p.n]
	if err := c.read(p, dst); err != nil {
		c.drop(p.b)
		return dst[:0], false
	}
	c.use(p.b)
	return dst, true
}

func (c *Frames) read(p framePlace, dst []byte) error {
	f, err := os.Open(filepath.Join(c.dir, p.b.name))
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.ReadAt(dst, int64(p.start)); err != nil {
		return err
	}
	if crc32.Checksum(dst, castagnoli) != p.sum {
		return errors.New("wrong checksum")
	}
	return nil
}

// use notes that a bundle is of use.
func (c *Frames) use(b *bundle) {
	if b.used {
		return
	}
	b.used = true
	now := time.Now()
	_ = os.Chtimes(filepath.Join(c.dir, b.name), now, now)
}

// Put keeps a piece, if there is room. It fails silently.
func (c *Frames) Put(id [16]byte, data []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.load()
	if _, ok := c.at[id]; ok || c.full || len(data) == 0 || len(data) > bundleBytes {
		return
	}
	if len(c.pending)+len(data) > bundleBytes {
		c.write()
	}
	p := framePlace{start: uint32(len(c.pending)), n: uint32(len(data)), sum: crc32.Checksum(data, castagnoli)}
	c.pending = append(c.pending, data...)
	c.lines = append(c.lines, id[:]...)
	for _, n := range []uint32{p.start, p.n, p.sum} {
		c.lines = binary.LittleEndian.AppendUint32(c.lines, n)
	}
	c.ids = append(c.ids, id)
	c.at[id] = p
}

// Drop removes a piece that is not what it should be, and what lies with it.
func (c *Frames) Drop(id [16]byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p, ok := c.at[id]; ok && p.b != nil {
		c.drop(p.b)
	}
}

// Flush writes what came last.
func (c *Frames) Flush() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.write()
}

func (c *Frames) drop(b *bundle) {
	_ = os.Remove(filepath.Join(c.dir, b.name))
	c.forget(b)
}

func (c *Frames) forget(b *bundle) {
	delete(c.bundles, b.name)
	for id, p := range c.at {
		if p.b == b {
			delete(c.at, id)
		}
	}
}

// write stores the pending pieces as a bundle, or drops them where there is no room.
func (c *Frames) write() {
	if len(c.ids) == 0 {
		return
	}
	data := append(c.pending, c.lines...)
	data = binary.LittleEndian.AppendUint32(data, uint32(len(c.ids)))
	data = binary.LittleEndian.AppendUint32(data, crc32.Checksum(c.lines, castagnoli))
	data = binary.LittleEndian.AppendUint32(data, uint32(len(c.pending)))
	data = binary.LittleEndian.AppendUint32(data, footerMagic)
	b := &bundle{name: fmt.Sprintf("%016x%s", rand.Uint64(), bundleSuffix), used: true}
	kept := c.room(int64(len(data))+trailer) && write(filepath.Join(c.dir, b.name), data) == nil
	if kept {
		c.bundles[b.name] = b
	}
	for _, id := range c.ids {
		if p := c.at[id]; kept {
			p.b = b
			c.at[id] = p
		} else {
			delete(c.at, id)
		}
	}
	c.full = c.full || !kept
	c.pending, c.lines, c.ids = data[:0], c.lines[:0], c.ids[:0]
}

// room removes bundles until there is room for n bytes more. It counts what is there: other processes write as well.
func (c *Frames) room(n int64) bool {
	files := c.files()
	sum := n
	for _, f := range files {
		sum += f.size
	}
	if sum <= c.most {
		return true
	}
	slices.SortFunc(files, func(a, b file) int {
		return cmp.Or(a.time.Compare(b.time), strings.Compare(a.path, b.path))
	})
	for _, f := range files {
		if sum <= c.most {
			return true
		}
		b := c.bundles[filepath.Base(f.path)]
		if b != nil && b.used || os.Remove(f.path) != nil {
			continue
		}
		sum -= f.size
		if b != nil {
			c.forget(b)
		}
	}
	return sum <= c.most
}

// files returns the bundles, and removes temporary files of the dead.
func (c *Frames) files() []file {
	s := Storage{o: Options{Dir: c.dir}}
	return slices.DeleteFunc(s.files(c.dir), func(f file) bool { return !strings.HasSuffix(f.path, bundleSuffix) })
}

// load reads what the bundles hold. One that is damaged is removed.
func (c *Frames) load() {
	if c.loaded {
		return
	}
	c.loaded = true
	for _, f := range c.files() {
		b := &bundle{name: filepath.Base(f.path)}
		lines, err := readLines(f.path, f.size)
		if err != nil {
			_ = os.Remove(f.path)
			continue
		}
		c.bundles[b.name] = b
		for ; len(lines) > 0; lines = lines[lineBytes:] {
			n := func(i int) uint32 { return binary.LittleEndian.Uint32(lines[16+4*i:]) }
			c.at[[16]byte(lines[:16])] = framePlace{b, n(0), n(1), n(2)}
		}
	}
}

// readLines returns the lines of a bundle, all of which name bytes of it.
func readLines(path string, size int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	end := size - trailer - footerBytes
	if end < 0 {
		return nil, errors.New("too short")
	}
	var foot [footerBytes]byte
	if _, err := f.ReadAt(foot[:], end); err != nil {
		return nil, err
	}
	n := func(i int) uint32 { return binary.LittleEndian.Uint32(foot[4*i:]) }
	length := int64(n(0)) * lineBytes
	if n(3) != footerMagic || int64(n(2))+length != end {
		return nil, errors.New("it is no bundle")
	}
	lines := make([]byte, length)
	if _, err := f.ReadAt(lines, int64(n(2))); err != nil {
		return nil, err
	}
	if crc32.Checksum(lines, castagnoli) != n(1) {
		return nil, errors.New("wrong checksum")
	}
	for rest := lines; len(rest) > 0; rest = rest[lineBytes:] {
		if int64(binary.LittleEndian.Uint32(rest[16:]))+int64(binary.LittleEndian.Uint32(rest[20:])) > int64(n(2)) {
			return nil, errors.New("a piece lies beyond its end")
		}
	}
	return lines, nil
}
