package snapshot

import (
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/klauspost/compress/zstd"

	"github.com/whole-tale/wtsnap/snapshot/localfs"
)

// An archive is a format that entries are written to one after the other, in tree order.
type archive interface {
	// begin starts an entry; a file's content of n.Size bytes follows by Write. link is the path of an earlier entry that
	// this is a further name of, or "". errNotHeld, wrapped or not, says that the format cannot hold such an entry;
	// errSkipEntry wraps why this one cannot be held. Any other error is that of the writer below.
	begin(path string, n *Node, link string) error
	io.Writer
	// end completes the archive, and does not close what is below.
	end() error
}

// errNotHeld says that an archive's format has no place for a type of entry.
var errNotHeld = errors.New("the archive's format cannot hold it")

// An entryError says why one entry cannot be in the archive.
type entryError struct{ err error }

func (e *entryError) Error() string { return e.err.Error() }
func (e *entryError) Unwrap() error { return e.err }

// toArchive writes a tar or a zip file.
func (rs *restore) toArchive(ctx context.Context, node *Node) error {
	rs.prefix = rs.o.Path
	if !node.IsDir() {
		rs.prefix = parentPath(rs.o.Path)
	}
	t := rs.o.Target
	if rs.o.Delete {
		return &TargetSpecError{t.String(), "there is nothing to delete in an archive"}
	}
	if rs.o.DryRun {
		return rs.writeArchive(ctx, node, io.Discard)
	}
	if t.Stdout {
		if rs.o.Stdout == nil {
			return &TargetSpecError{t.String(), "there is no standard output to write to"}
		}
		return rs.writeArchive(ctx, node, rs.o.Stdout)
	}
	return WriteNew(t.Path, func(w io.Writer) error { return rs.writeArchive(ctx, node, w) })
}

// WriteNew makes the file at path of what write writes. It takes its name, or the place of an older file, when it is
// complete and on the disk: there never is half a file under it.
func WriteNew(path string, write func(w io.Writer) error) (err error) {
	if m, err := localfs.Stat(path); err == nil && m.Type == localfs.TypeDir {
		return fmt.Errorf("restore: %q is a folder", path)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".wtsnap-"+filepath.Base(path)+"-*")
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if err := write(f); err != nil {
		if full := endsRun(path, err); full != nil {
			return fmt.Errorf("restore: writing %q: %w", path, err)
		}
		return err
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	return nil
}

// writeArchive writes node, and what is below it, to w.
func (rs *restore) writeArchive(ctx context.Context, node *Node, w io.Writer) error {
	counted := &countingWriter{w: w, n: &rs.n.written}
	buffered := bufio.NewWriterSize(counted, 1<<20)
	var out io.WriteCloser = nopCloser{buffered}
	var err error
	switch rs.o.Target.Compression {
	case CompressGzip:
		out = gzip.NewWriter(buffered)
	case CompressZstd:
		if out, err = zstd.NewWriter(buffered); err != nil {
			return err
		}
	}
	var a archive
	if rs.o.Target.Kind == TargetZip {
		a = newZipArchive(out, rs)
	} else {
		a = newTarArchive(out, rs)
	}
	if err := rs.feed(ctx, node, a); err != nil {
		return err
	}
	if err := a.end(); err != nil {
		return err
	}
	if err := out.Close(); err != nil {
		return err
	}
	return buffered.Flush()
}

// feed hands the entries to the archive.
func (rs *restore) feed(ctx context.Context, node *Node, a archive) error {
	skip := false // the content of the entry that was begun last
	return rs.stream(ctx, node, func(e *streamed) error {
		if e.begins {
			err := a.begin(e.path, e.node, e.link)
			var bad *entryError
			skip = err != nil
			switch {
			case errors.Is(err, errNotHeld):
				rs.lack(fmt.Sprintf("%vs, which a %v archive does not hold", e.node.Type, rs.o.Target.Kind))
				return nil
			case errors.As(err, &bad):
				rs.problem(e.path, bad.err)
				return nil
			case err != nil:
				return err
			}
			rs.countStreamed(e)
		}
		if skip {
			return nil
		}
		for rest := e.zeros; rest > 0; {
			n := min(rest, int64(len(manyZeros)))
			if _, err := a.Write(manyZeros[:n]); err != nil {
				return err
			}
			rest -= n
		}
		if len(e.data) > 0 {
			if _, err := a.Write(e.data); err != nil {
				return err
			}
		}
		rs.o.Progress.Bytes.Add(e.zeros + int64(len(e.data)))
		return nil
	})
}

var manyZeros [64 << 10]byte

func (rs *restore) countStreamed(e *streamed) {
	p := rs.o.Progress
	switch {
	case e.link != "":
		rs.n.hardLinks.Add(1)
	case e.node.IsFile():
		rs.n.newFiles.Add(1)
		rs.n.total.Add(e.node.Size)
		p.Files.Add(1)
		p.New.Add(1)
	case e.node.IsDir():
		rs.n.folders.Add(1)
		p.Folders.Add(1)
	case e.node.Type == localfs.TypeSymlink:
		rs.n.symlinks.Add(1)
	default:
		rs.n.specials.Add(1)
	}
	rs.act(OpCreate, e.path, e.node.Type, e.node.Size)
}
