package snapshot

import (
	"archive/zip"
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"math"
	"time"

	"github.com/klauspost/compress/flate"

	"github.com/whole-tale/wtsnap/snapshot/localfs"
)

// zipArchive writes zip archives, zip64 where needed. Names are raw bytes; those that are UTF-8 are marked so. Further
// names of a file become copies, holes zeros; owners and times to the second are in extra fields that Info-ZIP reads.
type zipArchive struct {
	z  *zip.Writer
	w  io.Writer // of the entry
	rs *restore
}

func newZipArchive(w io.Writer, rs *restore) *zipArchive {
	z := zip.NewWriter(w)
	z.RegisterCompressor(zip.Deflate, func(w io.Writer) (io.WriteCloser, error) {
		return flate.NewWriter(w, flate.DefaultCompression)
	})
	return &zipArchive{z: z, rs: rs}
}

func (z *zipArchive) begin(path string, n *Node, _ string) error {
	if path == "" { // the folder that all the others are in has no name there
		return nil
	}
	if len(path) >= math.MaxUint16 {
		return &entryError{fmt.Errorf("a zip archive cannot hold a name of %d bytes", len(path))}
	}
	m := z.rs.metaFor(n)
	h := &zip.FileHeader{Name: path, Method: zip.Deflate, Modified: time.Unix(0, n.MTime).UTC(), Extra: zipOwner(m.UID, m.GID)}
	mode := fs.FileMode(n.Mode & 0o777)
	for bit, flag := range map[uint32]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if n.Mode&bit != 0 {
			mode |= flag
		}
	}
	content := ""
	switch n.Type {
	case localfs.TypeFile:
		if n.Size == 0 {
			h.Method = zip.Store
		}
	case localfs.TypeDir:
		mode |= fs.ModeDir
		h.Name += "/"
		h.Method = zip.Store
	case localfs.TypeSymlink:
		mode |= fs.ModeSymlink
		h.Method = zip.Store
		content = n.Target
	default:
		return errNotHeld
	}
	h.SetMode(mode)
	w, err := z.z.CreateHeader(h)
	if err != nil {
		return err
	}
	z.w = w
	if content != "" {
		_, err = io.WriteString(w, content)
	}
	return err
}

// zipOwner is Info-ZIP's "ux" extra field, version 1: uid and gid of four bytes each.
func zipOwner(uid, gid uint32) []byte {
	b := binary.LittleEndian.AppendUint16(nil, 0x7875)
	b = binary.LittleEndian.AppendUint16(b, 11)
	b = append(b, 1, 4)
	b = binary.LittleEndian.AppendUint32(b, uid)
	b = append(b, 4)
	return binary.LittleEndian.AppendUint32(b, gid)
}

func (z *zipArchive) Write(p []byte) (int, error) { return z.w.Write(p) }

func (z *zipArchive) end() error { return z.z.Close() }
