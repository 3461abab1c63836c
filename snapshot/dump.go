package snapshot

import (
	"context"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/whole-tale/wtsnap/repo"
)

// A DumpFormat says how Dump writes.
type DumpFormat string

const (
	DumpAuto DumpFormat = ""    // a file's bytes; a folder as tar
	DumpRaw  DumpFormat = "raw" // a file's bytes
	DumpTar  DumpFormat = "tar"
	DumpZip  DumpFormat = "zip"
)

// Dump writes what is at path in a snapshot to w: a file's bytes, or a file or folder as an archive, in order. Of a
// single file nothing is left out: missing or damaged data end it with the error, where they are met. Of an archive the
// report names the problems, as a restore's does.
func Dump(ctx context.Context, r *repo.Repository, s *Snapshot, path string, w io.Writer, format DumpFormat) (*RestoreReport, error) {
	o := RestoreOptions{Snapshot: s, Path: path, NumericIDs: true, Stdout: w}
	switch format {
	case DumpAuto, DumpRaw, DumpTar:
		o.Target = TargetSpec{Kind: TargetTar, Stdout: true}
	case DumpZip:
		o.Target = TargetSpec{Kind: TargetZip, Stdout: true}
	default:
		return nil, fmt.Errorf("dump: unknown format %q; want tar or zip", format)
	}
	if format == DumpTar || format == DumpZip {
		return Restore(ctx, r, o)
	}
	if r.Index().Len() == 0 {
		if err := r.LoadIndex(ctx); err != nil {
			return nil, err
		}
	}
	node, err := Lookup(ctx, r, s, path)
	if err != nil {
		return nil, fmt.Errorf("dump: %w", err)
	}
	switch {
	case node.IsFile():
	case node.IsDir() && format == DumpAuto:
		return Restore(ctx, r, o)
	default:
		return nil, fmt.Errorf("dump: %q is a %v, which has no content of its own", path, node.Type)
	}
	return dumpFile(ctx, r, o, node, w)
}

func dumpFile(ctx context.Context, r *repo.Repository, o RestoreOptions, node *Node, w io.Writer) (*RestoreReport, error) {
	var first errorKeeper
	o.Monitor, o.Progress = &first, &Progress{}
	rs := newRestore(r, o, &selection{})
	rs.prefix = parentPath(o.Path)
	out := &countingWriter{w: w, n: &rs.n.written}
	err := rs.stream(ctx, node, func(e *streamed) error {
		if first.err != nil {
			return fmt.Errorf("dump: %q: %w", o.Path, first.err)
		}
		for rest := e.zeros; rest > 0; {
			n, err := out.Write(manyZeros[:min(rest, int64(len(manyZeros)))])
			if err != nil {
				return err
			}
			rest -= int64(n)
		}
		_, err := out.Write(e.data)
		return err
	})
	if err == nil && first.err != nil {
		err = fmt.Errorf("dump: %q: %w", o.Path, first.err)
	}
	if err == nil {
		rs.n.newFiles.Add(1)
		rs.n.total.Add(node.Size)
	}
	return rs.report(), err
}

// errorKeeper is a Monitor that keeps the first problem. It is called by one goroutine.
type errorKeeper struct{ err error }

func (k *errorKeeper) Problem(_ string, err error) {
	if k.err == nil {
		k.err = err
	}
}

func (k *errorKeeper) Notice(string, string) {}

// A countingWriter counts the bytes that went through.
type countingWriter struct {
	w io.Writer
	n *atomic.Int64
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n.Add(int64(n))
	return n, err
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }
