package reader

import (
	"archive/tar"
	"encoding/hex"
	"fmt"
	"io"
	"path"
)

// WriteTar writes a snapshot as a tar archive: PAX, with extended attributes as SCHILY.xattr, hard links within the
// snapshot, and holes as zeros. Sockets are left out, as in any archive.
func (r *Repository) WriteTar(w io.Writer, s Snapshot) error {
	root, err := hex.DecodeString(s.Root)
	if err != nil {
		return err
	}
	t := tarWriter{r: r, w: tar.NewWriter(w), seen: map[[2]uint64]string{}}
	if err := t.folder(root, ""); err != nil {
		return err
	}
	return t.w.Close()
}

type tarWriter struct {
	r    *Repository
	w    *tar.Writer
	seen map[[2]uint64]string // the names of files with hard links, by device and inode
}

func (t *tarWriter) folder(root []byte, name string) error {
	return t.r.folder(root, -1, func(n node) error {
		if err := t.node(n, path.Join(name, n.name)); err != nil {
			return fmt.Errorf("%q: %w", path.Join(name, n.name), err)
		}
		return nil
	})
}

func (t *tarWriter) node(n node, name string) error {
	h := &tar.Header{
		Name: name, Mode: int64(n.mode), Uid: int(n.uid), Gid: int(n.gid),
		ModTime: n.mtime.time(), Format: tar.FormatPAX, PAXRecords: map[string]string{},
	}
	for _, x := range n.xattrs {
		h.PAXRecords["SCHILY.xattr."+x.name] = x.value
	}
	switch n.kind {
	case typeFile:
		h.Typeflag, h.Size = tar.TypeReg, int64(n.size)
	case typeFolder:
		h.Typeflag, h.Name = tar.TypeDir, name+"/"
	case typeSymlink:
		h.Typeflag, h.Linkname = tar.TypeSymlink, n.target
	case typeBlockDevice, typeCharDevice:
		h.Typeflag = tar.TypeBlock
		if n.kind == typeCharDevice {
			h.Typeflag = tar.TypeChar
		}
		h.Devmajor, h.Devminor = int64(n.device>>32), int64(n.device&(1<<32-1))
	case typeFIFO:
		h.Typeflag = tar.TypeFifo
	case typeSocket:
		return nil
	}
	if n.nlink > 1 && n.kind != typeFolder {
		inode := [2]uint64{n.dev, n.ino}
		if first, ok := t.seen[inode]; ok {
			h.Typeflag, h.Size, h.Linkname = tar.TypeLink, 0, first
			h.PAXRecords = nil
			return t.w.WriteHeader(h)
		}
		t.seen[inode] = name
	}
	if err := t.w.WriteHeader(h); err != nil {
		return err
	}
	switch n.kind {
	case typeFile:
		return t.r.content(n, t.part)
	case typeFolder:
		return t.folder(n.root, name)
	}
	return nil
}

func (t *tarWriter) part(p part) error {
	if p.id == nil {
		_, err := io.CopyN(t.w, zeros{}, int64(p.size))
		return err
	}
	content, err := t.r.blob(kindData, p.id)
	if err != nil {
		return err
	}
	if uint64(len(content)) != p.size {
		return fmt.Errorf("blob %x has another size than its part", p.id)
	}
	_, err = t.w.Write(content)
	return err
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}
