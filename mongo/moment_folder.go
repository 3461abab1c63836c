package mongo

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/whole-tale/wtsnap/mongo/layout"
	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/snapshot"
)

// RestoreFolder writes the MongoDB of a moment as mongodump's folder: see FolderTarget.
func (m *Moment) RestoreFolder(ctx context.Context, r *repo.Repository, o snapshot.RestoreOptions) (*snapshot.RestoreReport, error) {
	return FolderTarget{Open: m.Open}.RestoreTo(ctx, r, o, nil)
}

// FolderTarget restores documents that are made as they are read, of a moment or chosen by a filter, to mongodump's folder,
// which mongorestore takes: what the path leads to goes directly into the target's folder, which has to be empty or not
// there yet. The other options that matter are Path, DryRun, OnAction, Progress and Monitor. A dump as it is in a snapshot
// needs no such target.
type FolderTarget struct {
	Open Opener
}

// RestoreTo implements snapshot.ForeignTarget.
func (t FolderTarget) RestoreTo(ctx context.Context, r *repo.Repository, o snapshot.RestoreOptions, _ *snapshot.Node) (*snapshot.RestoreReport, error) {
	began := time.Now()
	rep := &snapshot.RestoreReport{Path: o.Path, Target: o.Target.String(), DryRun: o.DryRun, Documents: &snapshot.Documents{}}
	if list, err := os.ReadDir(o.Target.Path); err == nil && len(list) > 0 {
		return rep, &snapshot.TargetGuardError{Target: o.Target.Path, Reason: "the folder is not empty, and documents that are chosen one by one go into a new one",
			Hint: "name a folder that is not there yet"}
	}
	d, err := t.Open(ctx, r, o.Snapshot, o.Path)
	if err != nil {
		return rep, err
	}
	w := folderWriter{ctx: ctx, d: d, o: &o, rep: rep}
	w.strip, _, _ = strings.Cut(strings.Trim(strings.TrimPrefix(o.Path, d.Root), "/"), "/")
	for i := range d.collections {
		if err := w.collection(&d.collections[i]); err != nil {
			return rep, fmt.Errorf("writing %s: %w", d.collections[i].Namespace(), err)
		}
	}
	if w.strip == "" {
		data := layout.MarshalPrelude(layout.Versions{Server: d.Versions.Server, Tool: d.Versions.Tool})
		err = w.file(layout.PreludeFile, func(out io.Writer) error { _, err := out.Write(data); return err })
	}
	rep.Seconds = time.Since(began).Seconds()
	return rep, err
}

// A folderWriter is one call of RestoreFolder.
type folderWriter struct {
	ctx   context.Context
	d     *Dump
	o     *snapshot.RestoreOptions
	rep   *snapshot.RestoreReport
	strip string // the database whose folder the target is; "" = the target holds those of all
}

func (w *folderWriter) collection(c *Collection) error {
	if c.Metadata.JSON != nil || w.d.Filter == "" {
		if err := w.file(layout.MetadataPath(c.DB, c.Name), func(out io.Writer) error {
			_, err := out.Write(c.Metadata.JSON)
			return err
		}); err != nil || c.Type == layout.TypeView {
			return err
		}
	}
	if w.d.Filter != "" && w.o.DryRun { // nothing else says how many there are
		n, err := w.d.count(w.ctx, c)
		w.rep.Documents.Inserted += n
		if err != nil {
			return err
		}
	}
	return w.file(layout.DataPath(c.DB, c.DataName), func(out io.Writer) error {
		docs := w.d.Documents(w.ctx, c)
		defer docs.Close()
		for {
			doc, err := docs.Next()
			if err == io.EOF {
				return nil
			}
			if err == nil {
				_, err = out.Write(doc)
			}
			if err != nil {
				return err
			}
			w.rep.Documents.Inserted++
		}
	})
}

// file writes one file, which gets its name when it is whole.
func (w *folderWriter) file(path string, write func(out io.Writer) error) error {
	if w.strip != "" {
		path = strings.TrimPrefix(path, w.strip+"/")
	}
	if w.o.OnAction != nil {
		w.o.OnAction(snapshot.Action{Op: snapshot.OpCreate, Path: path})
	}
	w.rep.Files.New++
	if w.o.DryRun {
		return nil
	}
	full := filepath.Join(w.o.Target.Path, filepath.FromSlash(path))
	if err := os.MkdirAll(filepath.Dir(full), 0o700); err != nil {
		return err
	}
	counted := &countingWriter{}
	err := snapshot.WriteNew(full, func(out io.Writer) error {
		counted.w = out
		buffered := bufio.NewWriterSize(counted, 256<<10)
		if err := write(buffered); err != nil {
			return err
		}
		return buffered.Flush()
	})
	w.rep.Bytes.Written += counted.n
	w.rep.Bytes.Total += counted.n
	w.o.Progress.Files.Add(1)
	w.o.Progress.New.Add(1)
	w.o.Progress.Bytes.Add(counted.n)
	return err
}
