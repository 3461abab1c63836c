// Package web shows snapshots in a browser: their folders, a first look at files, and files and folders to take home.
//
// It only reads. It is made for one user on his own machine: whoever has the token sees everything, so it listens on a
// loopback address unless somebody says otherwise. The token comes once in the address, and is then a cookie that other
// sites cannot send (SameSite=Strict); a page never runs scripts, its own or such as were backed up. What is in a
// snapshot is sent as something to be saved, except for a first look, which is plain text in a page.
package web

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"embed"
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/snapshot"
)

// Options say what is shown.
type Options struct {
	Filter snapshot.Filter // which snapshots
	Name   string          // of the repository, in titles
	Token  string          // what lets a browser in; see NewToken
	// Trouble is told of what could not be read. It may be called by several goroutines at once. Nil: nobody is.
	Trouble func(error)
}

// NewToken returns a new random token.
func NewToken() string { return rand.Text() }

const cookieName = "wtsnap"

//go:embed page.html style.css
var files embed.FS

type server struct {
	r    *repo.Repository
	load snapshot.LoadFunc
	o    Options
	page *template.Template
	css  []byte
}

// Handler returns the pages of r, whose index is loaded.
func Handler(r *repo.Repository, o Options) (http.Handler, error) {
	page, err := template.New("page.html").Funcs(template.FuncMap{
		"size": func(n int64) string { return humanize.IBytes(uint64(max(0, n))) },
		"when": func(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05") },
		"many": func(n int64) string { return humanize.Comma(n) },
		"ago":  humanize.Time,
		"name": shown,
	}).ParseFS(files, "page.html")
	if err != nil {
		return nil, err
	}
	css, err := files.ReadFile("style.css")
	if err != nil {
		return nil, err
	}
	s := &server{r: r, load: snapshot.TreeLoader(r), o: o, page: page, css: css}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", s.list)
	mux.HandleFunc("GET /s/{id}/{path...}", s.entry)
	mux.HandleFunc("GET /find", s.find)
	mux.HandleFunc("GET /style.css", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/css; charset=utf-8")
		_, _ = w.Write(s.css)
	})
	return s.guard(mux), nil
}

// guard lets those in who have the token, and tells browsers to run nothing.
func (s *server) guard(next http.Handler) http.Handler {
	same := func(a string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(s.o.Token)) == 1 }
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-store")
		if token := r.URL.Query().Get("token"); token != "" && same(token) {
			http.SetCookie(w, &http.Cookie{Name: cookieName, Value: token, Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode})
			q := r.URL.Query()
			q.Del("token")
			http.Redirect(w, r, (&url.URL{Path: r.URL.Path, RawPath: r.URL.RawPath, RawQuery: q.Encode()}).String(), http.StatusSeeOther)
			return
		}
		if c, err := r.Cookie(cookieName); err != nil || !same(c.Value) {
			s.fail(w, http.StatusForbidden, errors.New("this browser does not have the token: open the address that wtsnap web printed"))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// view is what the page shows.
type view struct {
	Title     string
	Repo      string
	Error     string
	Instances []instance
	Empty     bool // there is no snapshot

	Snapshot *snapshot.Snapshot // of what follows
	Crumbs   []link
	Self     string // address of the entry
	Folder   bool
	Entries  []row
	Cut      bool // Entries is not all of them
	Text     string
	TextNote string
	Detail   *row

	Query   string
	Matches []row
	Note    string
}

type instance struct {
	Name      string
	Snapshots []snapshotRow
}

type snapshotRow struct {
	*snapshot.Snapshot
	URL, ID, State string
}

type link struct{ Name, URL string }

// row is an entry of a folder, or a match of a search.
type row struct {
	Name, URL, Kind, Mode, Owner string
	Target                       string // of a symbolic link
	Size                         int64
	Time                         time.Time
	Folder, File, Torn           bool
	In                           string // the snapshot, of a match
}

func (s *server) show(w http.ResponseWriter, code int, v *view) {
	v.Repo = s.o.Name
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(code)
	if err := s.page.Execute(w, v); err != nil && s.o.Trouble != nil {
		s.o.Trouble(fmt.Errorf("showing a page: %w", err))
	}
}

func (s *server) fail(w http.ResponseWriter, code int, err error) {
	s.show(w, code, &view{Title: http.StatusText(code), Error: err.Error()})
}

// failed shows what could not be read.
func (s *server) failed(w http.ResponseWriter, r *http.Request, what string, err error) {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		s.fail(w, http.StatusNotFound, err)
		return
	case r.Context().Err() != nil:
		return // nobody waits any more
	}
	if s.o.Trouble != nil {
		s.o.Trouble(fmt.Errorf("%s: %w", what, err))
	}
	s.fail(w, http.StatusInternalServerError, fmt.Errorf("%s: %w", what, err))
}

// snapshots returns the snapshots, oldest first. What cannot be read of them is told.
func (s *server) snapshots(ctx context.Context) ([]*snapshot.Snapshot, error) {
	snaps, err := snapshot.List(ctx, s.r, s.o.Filter)
	if err != nil && len(snaps) > 0 {
		if s.o.Trouble != nil {
			s.o.Trouble(err)
		}
		err = nil
	}
	snapshot.SortSnapshots(snaps)
	return snaps, err
}

func (s *server) list(w http.ResponseWriter, r *http.Request) {
	snaps, err := s.snapshots(r.Context())
	if err != nil {
		s.failed(w, r, "listing the snapshots", err)
		return
	}
	v := &view{Title: "Snapshots", Empty: len(snaps) == 0}
	slices.Reverse(snaps)
	for _, snap := range snaps {
		i := slices.IndexFunc(v.Instances, func(i instance) bool { return i.Name == snap.Instance })
		if i < 0 {
			i, v.Instances = len(v.Instances), append(v.Instances, instance{Name: snap.Instance})
		}
		line := snapshotRow{Snapshot: snap, URL: address(snap, ""), ID: snap.Ref.ID.Short()}
		switch {
		case snap.Checkpoint:
			line.State = "checkpoint"
		case !snap.Complete:
			line.State = "incomplete"
		case snap.Hold() != nil:
			line.State = "held"
		}
		v.Instances[i].Snapshots = append(v.Instances[i].Snapshots, line)
	}
	slices.SortFunc(v.Instances, func(a, b instance) int { return cmp.Compare(a.Name, b.Name) })
	s.show(w, http.StatusOK, v)
}

// address is the address of an entry of a snapshot. Names may be any bytes.
func address(snap *snapshot.Snapshot, path string) string {
	var b strings.Builder
	b.WriteString("/s/" + snap.Ref.ID.String() + "/")
	for i, name := range strings.Split(path, "/") {
		if i > 0 {
			b.WriteByte('/')
		}
		b.WriteString(url.PathEscape(name))
	}
	return b.String()
}

// snapshot finds the snapshot that a request names.
func (s *server) snapshot(r *http.Request) (*snapshot.Snapshot, error) {
	snap, _, err := snapshot.Resolve(r.Context(), s.r, r.PathValue("id"), snapshot.Selector{Incomplete: true})
	var none *snapshot.NotFoundError
	var bad *snapshot.SpecError
	if errors.As(err, &none) || errors.As(err, &bad) {
		return nil, fmt.Errorf("%w: %w", err, fs.ErrNotExist)
	}
	if err == nil && s.o.Filter.Instance != "" && snap.Instance != s.o.Filter.Instance {
		return nil, fmt.Errorf("the snapshot is one of another instance: %w", fs.ErrNotExist)
	}
	return snap, err
}
