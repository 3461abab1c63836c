package web

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"mime"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/whole-tale/wtsnap/snapshot"
)

const (
	maxRows   = 5000      // entries of a folder, and matches, that a page shows
	maxLook   = 128 << 10 // bytes of a first look at a file
	findLimit = 20 * time.Second
)

// entry shows a folder or a file, or sends it: ?raw a file's bytes, ?zip or ?tar an archive.
func (s *server) entry(w http.ResponseWriter, r *http.Request) {
	snap, err := s.snapshot(r)
	if err != nil {
		s.failed(w, r, "looking for the snapshot", err)
		return
	}
	if err := s.r.LoadIndex(r.Context()); err != nil {
		s.failed(w, r, "loading the index", err)
		return
	}
	at := strings.TrimSuffix(r.PathValue("path"), "/")
	n, err := snapshot.Lookup(r.Context(), s.r, snap, at)
	var bad *snapshot.BadPathError
	if errors.As(err, &bad) {
		err = fmt.Errorf("%w: %w", err, iofs.ErrNotExist)
	}
	if err != nil {
		s.failed(w, r, "reading the snapshot", err)
		return
	}
	q := r.URL.Query()
	switch {
	case q.Has("zip"):
		s.archive(w, r, snap, at, snapshot.DumpZip)
	case q.Has("tar"):
		s.archive(w, r, snap, at, snapshot.DumpTar)
	case q.Has("raw") && n.IsFile():
		s.raw(w, r, n, at)
	case n.IsDir():
		s.folder(w, r, snap, n, at)
	default:
		s.look(w, r, snap, n, at)
	}
}

// about makes the parts of a page that are the same for folders and files.
func about(snap *snapshot.Snapshot, n *snapshot.Node, at string) *view {
	v := &view{Title: shown(at), Snapshot: snap, Self: address(snap, at), Folder: n.IsDir()}
	v.Crumbs = []link{{snap.Instance + ", " + snap.Time.Local().Format("2006-01-02 15:04"), address(snap, "")}}
	if at == "" {
		v.Title = v.Crumbs[0].Name
		return v
	}
	sofar := ""
	for name := range strings.SplitSeq(at, "/") {
		sofar = strings.TrimPrefix(sofar+"/"+name, "/")
		v.Crumbs = append(v.Crumbs, link{shown(name), address(snap, sofar)})
	}
	return v
}

func (s *server) folder(w http.ResponseWriter, r *http.Request, snap *snapshot.Snapshot, n *snapshot.Node, at string) {
	v := about(snap, n, at)
	var folders, others []row
	for c := snapshot.NewFolderCursor(s.load, n.Subtree); ; {
		child, err := c.Next(r.Context())
		if err != nil {
			if s.o.Trouble != nil {
				s.o.Trouble(fmt.Errorf("reading %q: %w", at, err))
			}
			v.Error = "not all of this folder can be read: " + err.Error()
			break
		}
		if child == nil {
			break
		}
		if v.Cut = len(folders)+len(others) >= maxRows; v.Cut {
			break
		}
		line := newRow(snap, child, strings.TrimPrefix(at+"/"+child.Name, "/"))
		if child.IsDir() {
			folders = append(folders, line)
		} else {
			others = append(others, line)
		}
	}
	v.Entries = append(folders, others...)
	s.show(w, http.StatusOK, v)
}

func newRow(snap *snapshot.Snapshot, n *snapshot.Node, at string) row {
	owner := snap.Owners.Users[n.UID]
	if owner == "" {
		owner = strconv.FormatUint(uint64(n.UID), 10)
	}
	return row{Name: n.Name, URL: address(snap, at), Kind: n.Type.String(), Mode: fmt.Sprintf("%04o", n.Mode), Owner: owner,
		Target: n.Target, Size: n.Size, Time: time.Unix(0, n.MTime), Folder: n.IsDir(), File: n.IsFile(),
		Torn: n.Flags&snapshot.FlagTorn != 0}
}

// look shows what a file is, and how it begins if that is text.
func (s *server) look(w http.ResponseWriter, r *http.Request, snap *snapshot.Snapshot, n *snapshot.Node, at string) {
	v := about(snap, n, at)
	detail := newRow(snap, n, at)
	v.Detail = &detail
	if n.IsFile() {
		data := make([]byte, min(n.Size, maxLook))
		err := snapshot.ReadFileAt(r.Context(), s.load, s.load, n, data, 0)
		switch {
		case err != nil:
			s.failed(w, r, "reading the file", err)
			return
		case !isText(data, n.Size > maxLook):
			v.TextNote = "This is not text: save it to look at it."
		default:
			v.Text = string(data)
			if n.Size > maxLook {
				v.TextNote = "This is how it begins; save it to have all of it."
			}
		}
	}
	s.show(w, http.StatusOK, v)
}

// isText reports whether data is UTF-8 that can be shown; its last rune may be cut.
func isText(data []byte, cut bool) bool {
	if cut {
		for i := 0; i < utf8.UTFMax && len(data) > 0 && !utf8.Valid(data); i++ {
			data = data[:len(data)-1]
		}
	}
	return utf8.Valid(data) && bytes.IndexFunc(data, func(r rune) bool {
		return r != '\n' && r != '\t' && r != '\r' && unicode.IsControl(r)
	}) < 0
}

// attachment says under which name a browser saves what follows.
func attachment(w http.ResponseWriter, name string) {
	w.Header().Set("Content-Disposition", mime.FormatMediaType("attachment", map[string]string{"filename": strings.ToValidUTF8(name, "_")}))
	w.Header().Set("Content-Type", "application/octet-stream")
}

// raw sends a file, or the range of it that a browser goes on with.
func (s *server) raw(w http.ResponseWriter, r *http.Request, n *snapshot.Node, at string) {
	attachment(w, path.Base(at))
	f := &seeker{ctx: r.Context(), s: s, n: n, at: at}
	defer f.Close()
	http.ServeContent(w, r, "", time.Unix(0, n.MTime), f)
	if f.err != nil && s.o.Trouble != nil {
		s.o.Trouble(f.err)
	}
}

// A seeker reads a file from wherever it was set to. It lives for one request.
type seeker struct {
	ctx context.Context
	s   *server
	n   *snapshot.Node
	at  string
	off int64
	f   *snapshot.FileReader
	err error
}

func (k *seeker) Seek(off int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		off += k.off
	case io.SeekEnd:
		off += k.n.Size
	}
	if off < 0 {
		return 0, errors.New("a place before the file's beginning")
	}
	if off != k.off {
		k.Close()
	}
	k.off = off
	return off, nil
}

func (k *seeker) Read(p []byte) (int, error) {
	if k.f == nil {
		k.f = snapshot.OpenFile(k.ctx, k.s.r, k.n, k.at, k.off)
	}
	n, err := k.f.Read(p)
	k.off += int64(n)
	if err != nil && err != io.EOF && k.ctx.Err() == nil {
		k.err = err
	}
	return n, err
}

func (k *seeker) Close() {
	if k.f != nil {
		_ = k.f.Close() // it was only read
		k.f = nil
	}
}

// archive sends a folder or a file as an archive. Once it has begun a browser can only be told that it broke off.
func (s *server) archive(w http.ResponseWriter, r *http.Request, snap *snapshot.Snapshot, at string, format snapshot.DumpFormat) {
	name := path.Base(at)
	if at == "" {
		name = snap.Instance
	}
	attachment(w, name+"-"+snap.Time.Local().Format("2006-01-02")+"."+string(format))
	rep, err := snapshot.Dump(r.Context(), s.r, snap, at, w, format)
	switch {
	case err == nil && (rep == nil || rep.Problems == 0):
		return
	case err == nil:
		err = fmt.Errorf("%d entries of the archive of %q are not as in the snapshot", rep.Problems, at)
	}
	if s.o.Trouble != nil && r.Context().Err() == nil {
		s.o.Trouble(err)
	}
	panic(http.ErrAbortHandler) // so that it does not look whole
}

// find looks for names in all snapshots.
func (s *server) find(w http.ResponseWriter, r *http.Request) {
	v := &view{Title: "Search", Query: strings.TrimSpace(r.URL.Query().Get("q"))}
	if v.Query == "" {
		s.show(w, http.StatusOK, v)
		return
	}
	pattern := v.Query
	if !strings.ContainsAny(pattern, "*?[/") {
		pattern = "*" + pattern + "*"
	}
	ctx, cancel := context.WithTimeout(r.Context(), findLimit)
	defer cancel()
	snaps, err := s.snapshots(ctx)
	if err == nil {
		err = s.r.LoadIndex(ctx)
	}
	if err != nil {
		s.failed(w, r, "searching", err)
		return
	}
	// The newest snapshot that has a version of something is the one to look at; older versions are other rows.
	slices.Reverse(snaps)
	type version struct {
		instance, path string
		size, mtime    int64
	}
	seen := map[version]bool{}
	err = snapshot.Find(ctx, s.r, snaps, snapshot.Query{Patterns: []string{pattern}, IgnoreCase: true},
		func(snap *snapshot.Snapshot, at string, n *snapshot.Node, err error) error {
			if err != nil {
				if s.o.Trouble != nil {
					s.o.Trouble(fmt.Errorf("reading %q: %w", at, err))
				}
				return nil
			}
			is := version{snap.Instance, at, n.Size, n.MTime}
			if n.IsDir() {
				is = version{snap.Instance, at, -1, 0}
			}
			if seen[is] {
				return nil
			}
			if len(v.Matches) >= maxRows {
				v.Note = "There is more: say it more exactly."
				return snapshot.ErrStop
			}
			seen[is] = true
			line := newRow(snap, n, at)
			line.Name, line.In = at, snap.Instance+", "+snap.Time.Local().Format("2006-01-02 15:04")
			v.Matches = append(v.Matches, line)
			return nil
		})
	switch {
	case errors.Is(err, context.DeadlineExceeded) && r.Context().Err() == nil:
		v.Note = "It took too long to look at all snapshots; these were found until then."
	case err != nil:
		s.failed(w, r, "searching", err)
		return
	case len(v.Matches) == 0:
		v.Note = "Nothing was found."
	}
	s.show(w, http.StatusOK, v)
}

// shown is a name as a page shows it: what is not text, or would not be seen, is escaped.
func shown(name string) string {
	for _, r := range name {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return strconv.Quote(name)
		}
	}
	return name
}
