package drill

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/snapshot"
	"github.com/whole-tale/wtsnap/snapshot/localfs"
)

// Problem notes what a restore could not do.
func (p *problems) Problem(path string, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.list = append(p.list, problem{path, err})
}

// Notice drops what is no problem.
func (*problems) Notice(string, string) {}

// recorded compares a restored file with what the snapshot recorded of it: size, time, and the hash of each part.
func (d *runner) recorded(ctx context.Context, path string, n *snapshot.Node) error {
	m, err := localfs.Lstat(path)
	if err != nil {
		return fmt.Errorf("it was not restored: %w", cause(err))
	}
	switch {
	case m.Type != localfs.TypeFile:
		return fmt.Errorf("it came back as a %v", m.Type)
	case m.Size != n.Size:
		return fmt.Errorf("it came back with %d bytes instead of %d", m.Size, n.Size)
	case m.MTime != n.MTime:
		return errors.New("it came back with another modification time")
	case m.Mode&0o777 != n.Mode&0o777:
		return fmt.Errorf("it came back with mode %04o instead of %04o", m.Mode&0o777, n.Mode&0o777)
	}
	f, err := open(path)
	if err != nil {
		return fmt.Errorf("reading what was restored: %w", cause(err))
	}
	defer f.Close()
	var buf []byte
	for p, err := range n.Parts(ctx, snapshot.TreeLoader(d.r), 0) {
		if err != nil {
			return err
		}
		if p.IsHole() {
			if err := zeros(io.NewSectionReader(f, p.Offset, p.HoleSize)); err != nil {
				return fmt.Errorf("the hole at %d: %w", p.Offset, err)
			}
			continue
		}
		buf = append(buf[:0], make([]byte, p.Size)...)
		if _, err := f.ReadAt(buf, p.Offset); err != nil && err != io.EOF {
			return fmt.Errorf("reading what was restored: %w", cause(err))
		}
		if d.hash(buf) != p.ID {
			return fmt.Errorf("the %d bytes at %d are not those that were saved", p.Size, p.Offset)
		}
	}
	return nil
}

func (d *runner) hash(data []byte) chunk.ID { return d.r.Hasher().Sum(data) }

func zeros(r io.Reader) error {
	buf := make([]byte, 64<<10)
	for {
		n, err := r.Read(buf)
		if len(bytes.Trim(buf[:n], "\x00")) > 0 {
			return errors.New("it is not all zeros")
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// live compares a restored file with the file that it was saved from, if that has not changed since.
func (d *runner) live(ctx context.Context, t *task, restored string, f sampled) error {
	root, ok := d.Live[t.unit.label]
	if !ok || f.node.Flags&snapshot.FlagTorn != 0 {
		return nil
	}
	path, err := filepath.EvalSymlinks(root) // as the backup read it
	if err != nil {
		d.rep.Live.Gone++
		return nil
	}
	if t.unit.path(f.rel) != t.unit.label {
		path = filepath.Join(path, filepath.FromSlash(strings.TrimPrefix(t.unit.path(f.rel), t.unit.label+"/")))
	}
	m, err := localfs.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		d.rep.Live.Gone++
		return nil
	case err != nil:
		d.rep.Live.Unread++
		return nil
	case !same(&m, f.node):
		d.rep.Live.Changed++
		return nil
	}
	equal, err := equalFiles(ctx, path, restored)
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		d.rep.Live.Unread++
		return nil
	}
	if equal {
		d.rep.Live.Equal++
		return nil
	}
	after, err := localfs.Lstat(path)
	if err != nil || !same(&after, f.node) || after.CTime != f.node.CTime || after.Ino != f.node.Ino {
		d.rep.Live.Changed++ // while it was read, or before, by a program that set the old time again
		return nil
	}
	return errors.New("the live file has other bytes, although its size and its times say that it did not change")
}

func same(m *localfs.Meta, n *snapshot.Node) bool {
	return m.Type == localfs.TypeFile && m.Size == n.Size && m.MTime == n.MTime
}

// open opens a file to read, and no symbolic link or FIFO that somebody puts in its place.
func open(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
}

func equalFiles(ctx context.Context, a, b string) (bool, error) {
	fa, err := open(a)
	if err != nil {
		return false, err
	}
	defer fa.Close()
	fb, err := open(b)
	if err != nil {
		return false, err
	}
	defer fb.Close()
	x, y := make([]byte, 256<<10), make([]byte, 256<<10)
	for {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		n, errA := io.ReadFull(fa, x)
		k, errB := io.ReadFull(fb, y)
		if n != k || !bytes.Equal(x[:n], y[:k]) {
			return false, nil
		}
		for _, err := range []error{errA, errB} {
			if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
				return false, err
			}
		}
		if errA != nil {
			return true, nil
		}
	}
}

// cause is an error without the path of the scratch folder, which says nothing to anybody.
func cause(err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return e.Err
	}
	return err
}
