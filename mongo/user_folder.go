package mongo

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"

	"github.com/whole-tale/wtsnap/mongo/layout"
	"github.com/whole-tale/wtsnap/mongo/ownership"
	"github.com/whole-tale/wtsnap/snapshot"
)

// writeDocuments writes the user's documents as mongodump's folder. What is there of an earlier run is written anew.
func (u *UserData) writeDocuments(ctx context.Context, dir string, rep *UserReport) error {
	for _, f := range u.owned() {
		n := ownership.Namespace{DB: f.DB, Collection: f.Name}
		path := filepath.Join(dir, filepath.FromSlash(layout.DataPath(n.DB, n.Collection)))
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		count := ownership.Count{Namespace: n}
		err := snapshot.WriteNew(path, func(w io.Writer) error {
			out := bufio.NewWriterSize(w, 1<<20)
			for doc, err := range f.documents(ctx) {
				if err != nil {
					return err
				}
				count.Documents++
				count.Bytes += int64(len(doc))
				if _, err := out.Write(doc); err != nil {
					return err
				}
			}
			return out.Flush()
		})
		if err != nil {
			return err
		}
		if count.Documents == 0 {
			if err := os.Remove(path); err != nil {
				return err
			}
			_ = os.Remove(filepath.Dir(path)) // if it is empty
			continue
		}
		rep.Documents = append(rep.Documents, count)
		text := f.Metadata.JSON
		if text == nil && f.Metadata.Indexes != nil { // made by the oplog
			if text, err = layout.MarshalMetadata(&f.Metadata); err != nil {
				return err
			}
		}
		if text != nil {
			meta := filepath.Join(dir, filepath.FromSlash(layout.MetadataPath(n.DB, n.Collection)))
			if err := writeSmall(meta, text); err != nil {
				return err
			}
		}
	}
	if u.Dump.Versions == (layout.Versions{}) {
		return nil
	}
	return writeSmall(filepath.Join(dir, layout.PreludeFile), layout.MarshalPrelude(u.Dump.Versions))
}

func writeSmall(path string, data []byte) error {
	return snapshot.WriteNew(path, func(w io.Writer) error {
		_, err := io.Copy(w, bytes.NewReader(data))
		return err
	})
}
