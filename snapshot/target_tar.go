package snapshot

import (
	"archive/tar"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/whole-tale/wtsnap/snapshot/localfs"
)

// tarArchive writes PAX archives: times to the nanosecond, names of raw bytes, extended attributes and ACLs as
// SCHILY.xattr records, which GNU tar and libarchive read. Holes are written as zeros.
type tarArchive struct {
	*tar.Writer
	rs *restore
}

func newTarArchive(w io.Writer, rs *restore) *tarArchive { return &tarArchive{tar.NewWriter(w), rs} }

func (t *tarArchive) begin(path string, n *Node, link string) error {
	m := t.rs.metaFor(n)
	h := &tar.Header{
		Format:  tar.FormatPAX,
		Name:    path,
		Mode:    int64(n.Mode),
		Uid:     int(m.UID),
		Gid:     int(m.GID),
		ModTime: time.Unix(0, n.MTime),
	}
	if m.UID == n.UID && m.GID == n.GID { // else the names are those of other numbers
		h.Uname, h.Gname = t.rs.owners.uids[n.UID], t.rs.owners.gids[n.GID]
	}
	switch n.Type {
	case localfs.TypeFile:
		h.Typeflag, h.Size = tar.TypeReg, n.Size
	case localfs.TypeDir:
		h.Typeflag, h.Name = tar.TypeDir, path+"/"
		if path == "" {
			h.Name = "./"
		}
	case localfs.TypeSymlink:
		h.Typeflag, h.Linkname = tar.TypeSymlink, n.Target
	case localfs.TypeBlockDevice, localfs.TypeCharDevice:
		h.Typeflag = tar.TypeBlock
		if n.Type == localfs.TypeCharDevice {
			h.Typeflag = tar.TypeChar
		}
		h.Devmajor, h.Devminor = int64(n.RDev>>32), int64(uint32(n.RDev))
	case localfs.TypeFIFO:
		h.Typeflag = tar.TypeFifo
	default:
		return errNotHeld
	}
	if link != "" {
		h.Typeflag, h.Linkname, h.Size = tar.TypeLink, link, 0
	}
	if strings.HasSuffix(h.Name, "/") != (h.Typeflag == tar.TypeDir) {
		return &entryError{fmt.Errorf("a tar archive cannot hold a %v of that name", n.Type)}
	}
	h.PAXRecords = map[string]string{}
	if !utf8.ValidString(h.Name) || !utf8.ValidString(h.Linkname) {
		h.PAXRecords["hdrcharset"] = "BINARY"
	}
	if link == "" {
		for _, x := range n.Xattrs {
			if strings.ContainsAny(x.Name, "=\x00") {
				return &entryError{fmt.Errorf("a tar archive cannot hold the attribute %q", x.Name)}
			}
			h.PAXRecords["SCHILY.xattr."+x.Name] = string(x.Value)
		}
	}
	err := t.WriteHeader(h)
	if err != nil && isHeaderError(err) {
		return &entryError{err}
	}
	return err
}

// isHeaderError tells an entry that the format cannot hold, of which nothing was written, from a failure to write.
func isHeaderError(err error) bool {
	return strings.HasPrefix(err.Error(), "archive/tar: cannot encode header")
}

func (t *tarArchive) end() error { return t.Close() }
