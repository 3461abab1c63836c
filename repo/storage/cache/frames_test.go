package cache

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func pieceID(n int) (id [16]byte) {
	binary.BigEndian.PutUint64(id[:], uint64(n))
	return id
}

// piece has its number in all of its bytes.
func piece(n, size int) []byte {
	out := make([]byte, size)
	for i := range out {
		out[i] = byte(n + i*7)
	}
	return out
}

// wants fails the test unless exactly the given pieces of from..to are there.
func (p *pieces) wants(c *Frames, from, to int, there bool) {
	p.t.Helper()
	for n := from; n < to; n++ {
		got, ok := c.Get(pieceID(n), nil)
		if ok != there || ok && !bytes.Equal(got, piece(n, p.size)) {
			p.t.Fatalf("piece %d: there %v, %d bytes; want it there: %v", n, ok, len(got), there)
		}
		if c.Has(pieceID(n)) != there {
			p.t.Fatalf("piece %d: Has is not %v", n, there)
		}
	}
}

// pieces is a folder of equal pieces.
type pieces struct {
	t    *testing.T
	dir  string
	size int
}

func newPieces(t *testing.T, size int) *pieces {
	return &pieces{t, filepath.Join(t.TempDir(), "frames"), size}
}

func (p *pieces) put(c *Frames, from, to int) {
	for n := from; n < to; n++ {
		c.Put(pieceID(n), piece(n, p.size))
	}
}

func (p *pieces) bytes() (sum int64) {
	p.t.Helper()
	entries, err := os.ReadDir(p.dir)
	if err != nil {
		p.t.Fatal(err)
	}
	for _, e := range entries {
		fi, err := e.Info()
		if err != nil {
			p.t.Fatal(err)
		}
		sum += fi.Size()
	}
	return sum
}

// age makes all bundles as old as if they had been used n days ago.
func (p *pieces) age(n int) {
	p.t.Helper()
	names, _ := filepath.Glob(filepath.Join(p.dir, "*"))
	if len(names) == 0 {
		p.t.Fatal("there is nothing")
	}
	for _, name := range names {
		if fi, err := os.Stat(name); err != nil || time.Since(fi.ModTime()) > 12*time.Hour {
			continue // it was made older before
		}
		then := time.Now().Add(-time.Duration(n) * 24 * time.Hour)
		if err := os.Chtimes(name, then, then); err != nil {
			p.t.Fatal(err)
		}
	}
}

func TestFramesStay(t *testing.T) {
	p := newPieces(t, 100_000)
	a := NewFrames(p.dir, 1<<30)
	p.wants(a, 0, 1, false)
	p.put(a, 0, 100) // two bundles are full
	p.wants(a, 0, 100, true)
	b := NewFrames(p.dir, 1<<30)
	p.wants(b, 0, 80, true)
	p.wants(b, 90, 100, false) // not flushed
	a.Flush()
	p.put(b, 95, 120)
	b.Flush()
	p.wants(NewFrames(p.dir, 1<<30), 0, 120, true)
}

func TestFramesKeepWithinTheirBound(t *testing.T) {
	const most = 20 << 20
	p := newPieces(t, 100_000)
	first := NewFrames(p.dir, most)
	p.put(first, 0, 1000) // 100 MB
	first.Flush()
	if n := p.bytes(); n > most || n < most*3/4 {
		t.Fatalf("%d bytes, the bound is %d", n, most)
	}
	// What came first stays: the next night wants it first.
	second := NewFrames(p.dir, most)
	p.wants(second, 0, 150, true)
	p.wants(second, 300, 1000, false)
}

func TestFramesUsedLeastRecentlyGo(t *testing.T) {
	const most = 20 << 20
	p := newPieces(t, 100_000)
	for i := range 4 { // a bundle each
		c := NewFrames(p.dir, most)
		p.put(c, 40*i, 40*i+40)
		c.Flush()
		p.age(10 - i)
	}
	used := NewFrames(p.dir, most)
	p.wants(used, 0, 1, true) // the oldest is used again
	c := NewFrames(p.dir, most)
	p.put(c, 1000, 1040)
	c.Flush()
	p.put(c, 2000, 2040)
	c.Flush()
	p.wants(NewFrames(p.dir, most), 0, 40, true)
	p.wants(NewFrames(p.dir, most), 40, 80, false)
	p.wants(NewFrames(p.dir, most), 80, 160, true)
	p.wants(NewFrames(p.dir, most), 1000, 1040, true)
	if n := p.bytes(); n > most {
		t.Errorf("%d bytes, the bound is %d", n, most)
	}
}

// Whatever is damaged is not given out, and goes.
func TestDamagedFramesGo(t *testing.T) {
	for _, damage := range []struct {
		name string
		do   func([]byte) []byte
	}{
		{"a piece", func(b []byte) []byte { b[500] ^= 1; return b }},
		{"the lines", func(b []byte) []byte { b[10*1000+3] ^= 1; return b }},
		{"the number", func(b []byte) []byte { b[len(b)-trailer-footerBytes] ^= 4; return b }},
		{"cut", func(b []byte) []byte { return b[:len(b)/2] }},
		{"cut short", func(b []byte) []byte { return b[:10] }},
		{"empty", func([]byte) []byte { return nil }},
		{"longer", func(b []byte) []byte { return append(b, make([]byte, 100)...) }},
	} {
		t.Run(damage.name, func(t *testing.T) {
			p := newPieces(t, 1000)
			c := NewFrames(p.dir, 1<<30)
			p.put(c, 0, 10)
			c.Flush()
			names, _ := filepath.Glob(filepath.Join(p.dir, "*"))
			data, err := os.ReadFile(names[0])
			if err == nil {
				err = os.WriteFile(names[0], damage.do(data), 0o600)
			}
			if err != nil || len(names) != 1 {
				t.Fatal(len(names), err)
			}
			again := NewFrames(p.dir, 1<<30)
			p.wants(again, 0, 1, false)
			p.wants(again, 1, 10, false) // with the whole bundle
			if left, _ := filepath.Glob(filepath.Join(p.dir, "*")); len(left) > 0 {
				t.Errorf("it is still there: %s", left)
			}
			p.put(again, 0, 10)
			again.Flush()
			p.wants(NewFrames(p.dir, 1<<30), 0, 10, true)
		})
	}
}

func TestDroppedFramesGo(t *testing.T) {
	p := newPieces(t, 1000)
	c := NewFrames(p.dir, 1<<30)
	p.put(c, 0, 10)
	c.Flush()
	c.Drop(pieceID(3))
	p.wants(c, 0, 10, false)
	p.wants(NewFrames(p.dir, 1<<30), 0, 10, false)
}

func TestFramesFolderGoneAtAnyTime(t *testing.T) {
	p := newPieces(t, 1000)
	c := NewFrames(p.dir, 1<<30)
	p.put(c, 0, 10)
	c.Flush()
	p.put(c, 20, 30)
	if err := os.RemoveAll(p.dir); err != nil {
		t.Fatal(err)
	}
	p.wants(c, 0, 10, false)
	p.wants(c, 20, 30, true)
	c.Flush()
	p.wants(NewFrames(p.dir, 1<<30), 20, 30, true)
}

// Where nothing can be written nothing is kept, and nothing fails.
func TestFramesWithoutAFolder(t *testing.T) {
	p := newPieces(t, 1000)
	if err := os.WriteFile(p.dir, []byte("a file"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := NewFrames(p.dir, 1<<30)
	p.put(c, 0, 10)
	c.Flush()
	p.put(c, 10, 20)
	c.Flush()
	p.wants(c, 0, 20, false)
}

// FuzzFrames reads bundles of arbitrary lines with the right checksums, and arbitrary files.
func FuzzFrames(f *testing.F) {
	line := binary.LittleEndian.AppendUint32(append(make([]byte, 16), 0, 0, 0, 0), 5)
	f.Add([]byte("piece"), binary.LittleEndian.AppendUint32(line, crc32.Checksum([]byte("piece"), castagnoli)), uint32(1), uint32(5))
	f.Add([]byte{}, []byte{}, uint32(1<<31), uint32(1<<31))
	f.Fuzz(func(t *testing.T, data, lines []byte, n, size uint32) {
		for _, right := range []bool{true, false} {
			dir := t.TempDir()
			file := append(bytes.Clone(data), lines...)
			if right {
				n, size = uint32(len(lines)/lineBytes), uint32(len(data))
			}
			for _, v := range []uint32{n, crc32.Checksum(lines, castagnoli), size, footerMagic} {
				file = binary.LittleEndian.AppendUint32(file, v)
			}
			if err := write(filepath.Join(dir, "0123456789abcdef"+bundleSuffix), file); err != nil {
				t.Fatal(err)
			}
			c := NewFrames(dir, 1<<20)
			for rest := lines; len(rest) >= lineBytes; rest = rest[lineBytes:] {
				got, ok := c.Get([16]byte(rest[:16]), nil)
				if ok && !bytes.Contains(data, got) {
					t.Errorf("a piece that is not in the file")
				}
			}
		}
	})
}
