package snapshot

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/bzip2"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/whole-tale/wtsnap/snapshot/localfs"
)

// tarSource is a tar archive, plain or compressed by gzip, zstd or bzip2, which is recognised by its first bytes.
type tarSource struct {
	path  string // "-" = stdin
	stdin io.Reader
}

// Save implements StreamSource.
func (t *tarSource) Save(ctx context.Context, sink *Sink) error {
	r := t.stdin
	if t.path != "-" {
		file, err := os.Open(t.path)
		if err != nil {
			return err
		}
		defer file.Close()
		r = file
	} else {
		r = Interruptible(ctx, r)
	}
	r, done, err := Decompress(r)
	if err != nil {
		return err
	}
	defer done()
	err = saveTar(ctx, sink, r, func(*tar.Header) bool { return true })
	if e, ok := errors.AsType[*afterEndError](err); ok { // every entry was read to its end
		sink.Problem("", e)
		return nil
	}
	return err
}

// An afterEndError is trouble with what comes after an archive's end: padding, and a checksum over all.
type afterEndError struct{ err error }

func (e *afterEndError) Error() string { return "after the end of the archive: " + e.err.Error() }
func (e *afterEndError) Unwrap() error { return e.err }

// A TarReader is a tar archive, as tarSource has one, that comes from anywhere, and counts what it held.
type TarReader struct {
	R     io.Reader
	Strip int // how many leading folders of names are left out, and entries that have no more than those with them

	// What was read, when Save has returned without an error: files by their names, and their bytes. Repeats says that a
	// name came twice, or may have, or that there were hard links, so that a folder has others of both.
	Files, Bytes int64
	Repeats      bool
}

// Save implements StreamSource. A wrong checksum is an error: some entry is not as it was, and nobody knows which.
func (t *TarReader) Save(ctx context.Context, sink *Sink) error {
	r, done, err := Decompress(t.R)
	if err != nil {
		return err
	}
	defer done()
	before := "" // names are in some order of folders: one that comes again at once is seen
	return saveTar(ctx, sink, r, func(h *tar.Header) bool {
		if h.Typeflag == tar.TypeXGlobalHeader {
			return true
		}
		var ok bool
		if h.Name, ok = stripName(h.Name, t.Strip); !ok {
			return false
		}
		switch h.Typeflag {
		case tar.TypeLink:
			t.Repeats = true
			h.Linkname, _ = stripName(h.Linkname, t.Strip)
		case tar.TypeReg, '\x00', tar.TypeCont, tar.TypeGNUSparse:
			t.Repeats = t.Repeats || h.Name == before
			t.Files++
			t.Bytes += h.Size
		}
		before = h.Name
		return true
	})
}

// stripName takes leading folders off a name; ok is false where nothing is left.
func stripName(name string, n int) (rest string, ok bool) {
	if n == 0 {
		return name, true
	}
	rest = strings.TrimLeft(name, "/")
	for strings.HasPrefix(rest, "./") {
		rest = strings.TrimLeft(rest[2:], "/")
	}
	for range n {
		if _, rest, ok = strings.Cut(rest, "/"); !ok {
			return "", false
		}
		rest = strings.TrimLeft(rest, "/")
	}
	return rest, rest != ""
}

// saveTar saves the entries that want takes, which may change their names.
func saveTar(ctx context.Context, sink *Sink, r io.Reader, want func(h *tar.Header) bool) error {
	archive := tar.NewReader(r)
	for {
		h, err := archive.Next()
		if err == io.EOF {
			if _, err := io.Copy(io.Discard, r); err != nil {
				return &afterEndError{err}
			}
			return nil
		}
		if err != nil {
			return err
		}
		if !want(h) {
			continue
		}
		if err := tarEntry(ctx, sink, h, archive); err != nil {
			return err
		}
	}
}

func tarEntry(ctx context.Context, sink *Sink, h *tar.Header, r io.Reader) error {
	n := Node{Meta: localfs.Meta{Mode: uint32(h.Mode) & 0o7777, UID: uint32(h.Uid), GID: uint32(h.Gid), Nlink: 1}}
	n.MTime = tarTime(h.ModTime)
	if n.CTime = n.MTime; !h.ChangeTime.IsZero() {
		n.CTime = tarTime(h.ChangeTime)
	}
	sparse := h.Typeflag == tar.TypeGNUSparse
	for key, value := range h.PAXRecords {
		if name, ok := strings.CutPrefix(key, "SCHILY.xattr."); ok && name != "" {
			n.Xattrs = append(n.Xattrs, localfs.Xattr{Name: name, Value: []byte(value)})
		}
		sparse = sparse || strings.HasPrefix(key, "GNU.sparse.")
	}
	slices.SortFunc(n.Xattrs, func(a, b localfs.Xattr) int { return strings.Compare(a.Name, b.Name) })
	switch h.Typeflag {
	case tar.TypeReg, '\x00', tar.TypeCont, tar.TypeGNUSparse:
		n.Type = localfs.TypeFile
		sink.Owner(n.UID, h.Uname, n.GID, h.Gname)
		if sparse {
			return sink.AddSparse(ctx, h.Name, n, r)
		}
		return sink.Add(ctx, h.Name, n, r)
	case tar.TypeLink:
		return sink.Link(h.Name, h.Linkname)
	case tar.TypeSymlink:
		n.Type, n.Target = localfs.TypeSymlink, h.Linkname
	case tar.TypeDir:
		n.Type = localfs.TypeDir
	case tar.TypeFifo:
		n.Type = localfs.TypeFIFO
	case tar.TypeChar, tar.TypeBlock:
		if n.Type = localfs.TypeCharDevice; h.Typeflag == tar.TypeBlock {
			n.Type = localfs.TypeBlockDevice
		}
		n.RDev = localfs.MakeRDev(uint32(h.Devmajor), uint32(h.Devminor))
	case tar.TypeXGlobalHeader: // its records are in the headers that follow
		return nil
	default:
		sink.Problem(h.Name, fmt.Errorf("an entry of the unknown type %q: it is left out", h.Typeflag))
		return nil
	}
	sink.Owner(n.UID, h.Uname, n.GID, h.Gname)
	return sink.Add(ctx, h.Name, n, nil)
}

func tarTime(t time.Time) int64 {
	if t.Before(time.Unix(0, -1<<63)) || t.After(time.Unix(0, 1<<63-1)) {
		return 0
	}
	return t.UnixNano()
}

// Decompress looks at the first bytes of a stream, and returns what is in it: of gzip, zstd, bzip2, or the stream itself. The
// function is to be called when it was read.
func Decompress(in io.Reader) (io.Reader, func(), error) {
	r := bufio.NewReaderSize(in, 1<<20)
	none := func() {}
	magic, err := r.Peek(6)
	if err != nil && err != io.EOF {
		return nil, none, err
	}
	switch {
	case len(magic) == 0:
		return nil, none, errors.New("it is empty, not an archive")
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(r)
		return z, none, err
	case bytes.HasPrefix(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20))
		if err != nil {
			return nil, none, err
		}
		return z, z.Close, nil
	case bytes.HasPrefix(magic, []byte("BZh")):
		return bzip2.NewReader(r), none, nil
	case bytes.HasPrefix(magic, []byte{0xfd, '7', 'z', 'X', 'Z', 0}):
		return nil, none, errors.New("it is compressed by xz, which is not read here: pass it through `xz -dc FILE | ...=tar:-`")
	}
	return r, none, nil
}

// stdinSource is one stream.
type stdinSource struct {
	name string
	r    io.Reader
	time time.Time
}

// Save implements StreamSource.
func (s *stdinSource) Save(ctx context.Context, sink *Sink) error {
	n := Node{Meta: localfs.Meta{Type: localfs.TypeFile, Mode: 0o600, UID: uint32(os.Getuid()), GID: uint32(os.Getgid()), Nlink: 1}}
	n.MTime = s.time.UnixNano()
	n.CTime = n.MTime
	return sink.Add(ctx, s.name, n, Interruptible(ctx, s.r))
}

// Interruptible returns a reader that fails when ctx ends, even while r waits for input. A Read of r that never returns
// keeps its goroutine: standard input cannot be interrupted, and the process is about to end.
func Interruptible(ctx context.Context, r io.Reader) io.Reader {
	i := &interruptibleReader{ctx: ctx.Done(), cause: func() error { return context.Cause(ctx) },
		full: make(chan inputBlock), empty: make(chan []byte, 1)}
	i.empty <- make([]byte, 256<<10)
	go func() {
		for {
			select {
			case buf := <-i.empty:
				n, err := r.Read(buf[:cap(buf)])
				select {
				case i.full <- inputBlock{buf[:n], err}:
				case <-i.ctx:
					return
				}
				if err != nil {
					return
				}
			case <-i.ctx:
				return
			}
		}
	}()
	return i
}

type inputBlock struct {
	data []byte
	err  error
}

type interruptibleReader struct {
	ctx   <-chan struct{}
	cause func() error
	full  chan inputBlock
	empty chan []byte
	block inputBlock
	rest  []byte
}

func (i *interruptibleReader) Read(p []byte) (int, error) {
	for len(i.rest) == 0 {
		if i.block.err != nil {
			return 0, i.block.err
		}
		if i.block.data != nil {
			i.empty <- i.block.data
			i.block.data = nil
		}
		select {
		case i.block = <-i.full:
			i.rest = i.block.data
		case <-i.ctx:
			return 0, i.cause()
		}
	}
	n := copy(p, i.rest)
	i.rest = i.rest[n:]
	return n, nil
}
