package web_test

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/whole-tale/wtsnap/repo"
	"github.com/whole-tale/wtsnap/repo/storage"
	"github.com/whole-tale/wtsnap/repo/storage/mem"
	"github.com/whole-tale/wtsnap/snapshot"
	"github.com/whole-tale/wtsnap/snapshot/web"
)

// A site is a repository, its pages, and a browser.
type site struct {
	t   *testing.T
	st  *mem.Storage
	r   *repo.Repository
	src string
	url string
	*http.Client

	mu      sync.Mutex
	trouble []error
}

const token = "a-token"

func newSite(t *testing.T, o web.Options) *site {
	t.Helper()
	key, err := repo.NewKeyFile()
	must(t, err)
	s := &site{t: t, st: mem.New(), src: filepath.Join(t.TempDir(), "src")}
	s.r, err = repo.Init(t.Context(), s.st, repo.InitOptions{Password: key})
	must(t, err)
	must(t, os.Mkdir(s.src, 0o755))
	o.Token, o.Name = token, "/mnt/repo"
	o.Trouble = func(err error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.trouble = append(s.trouble, err)
	}
	h, err := web.Handler(s.r, o)
	must(t, err)
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	jar, err := cookiejar.New(nil)
	must(t, err)
	s.url, s.Client = server.URL, server.Client()
	s.Client.Jar = jar
	return s
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (s *site) write(name, text string) {
	s.t.Helper()
	at := filepath.Join(s.src, name)
	must(s.t, os.MkdirAll(filepath.Dir(at), 0o755))
	must(s.t, os.WriteFile(at, []byte(text), 0o640))
}

func (s *site) backup(instance string) *snapshot.Snapshot {
	s.t.Helper()
	spec, err := snapshot.ParseSource("homes=" + s.src)
	must(s.t, err)
	rep, err := snapshot.Backup(s.t.Context(), s.r, snapshot.BackupOptions{Instance: instance, Sources: []snapshot.SourceSpec{spec}, AllowShrink: true})
	must(s.t, err)
	return rep.Snapshot
}

// get returns the status and the page.
func (s *site) get(at string) (int, string, http.Header) {
	s.t.Helper()
	res, err := s.Get(s.url + at)
	must(s.t, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	must(s.t, err)
	return res.StatusCode, string(body), res.Header
}

// login brings the token.
func (s *site) login() {
	s.t.Helper()
	if code, _, _ := s.get("/?token=" + token); code != http.StatusOK {
		s.t.Fatalf("with the token: %d", code)
	}
}

var href = regexp.MustCompile(`href="([^"]*)"`)

// links returns the addresses of a page's links that lead below a snapshot.
func links(page string) (out []string) {
	for _, m := range href.FindAllStringSubmatch(page, -1) {
		if strings.HasPrefix(m[1], "/s/") {
			out = append(out, strings.ReplaceAll(m[1], "&amp;", "&"))
		}
	}
	return out
}

func TestNobodyComesInWithoutTheToken(t *testing.T) {
	s := newSite(t, web.Options{})
	s.write("secret.txt", "the secret")
	snap := s.backup("prod")
	for _, at := range []string{"/", "/s/" + snap.Ref.ID.String() + "/homes/secret.txt?raw", "/find?q=secret", "/?token=wrong", "/style.css"} {
		if code, page, _ := s.get(at); code != http.StatusForbidden || strings.Contains(page, "secret.txt") || strings.Contains(page, "the secret") {
			t.Errorf("%s: %d\n%s", at, code, page)
		}
	}
	s.login()
	u, err := url.Parse(s.url)
	must(t, err)
	if got := s.Jar.Cookies(u); len(got) != 1 || got[0].Value != token {
		t.Errorf("cookies: %v", got)
	}
	code, page, h := s.get("/")
	if code != http.StatusOK || !strings.Contains(page, "prod") || strings.Contains(page, token) {
		t.Errorf("%d\n%s", code, page)
	}
	if policy := h.Get("Content-Security-Policy"); !strings.Contains(policy, "default-src 'none'") || strings.Contains(policy, "script-src") {
		t.Errorf("policy: %s", policy)
	}
}

// A page's own links lead to everything, whatever bytes the names have, and nothing in a name becomes a part of the page.
func TestAllIsReachedByLinks(t *testing.T) {
	s := newSite(t, web.Options{})
	files := map[string]string{
		"plain.txt": "some text", "a b/c%d?e#f": "odd", "<b>bold</b>\"'": "tags", "\xff\n": "raw bytes", "deep/er/ünï": "letters", "empty": "",
	}
	for name, text := range files {
		s.write(name, text)
	}
	must(t, os.Symlink("plain.txt", filepath.Join(s.src, "link")))
	s.backup("prod")
	s.login()
	found := map[string]bool{}
	visited := map[string]bool{}
	var visit func(at string)
	visit = func(at string) {
		if visited[at] {
			return
		}
		visited[at] = true
		code, page, _ := s.get(at)
		if code != http.StatusOK {
			t.Errorf("%s: %d\n%s", at, code, page)
			return
		}
		if strings.HasSuffix(at, "?raw") {
			found[page] = true
			return
		}
		if strings.Contains(page, "<b>") {
			t.Errorf("%s: a name became a part of the page", at)
		}
		for _, link := range links(page) {
			if !strings.HasSuffix(link, "?zip") && !strings.HasSuffix(link, "?tar") {
				visit(link)
			}
		}
	}
	visit("/")
	for name, text := range files {
		if !found[text] {
			t.Errorf("%q was not reached", name)
		}
	}
	if len(visited) < 2*len(files) || len(s.trouble) > 0 {
		t.Errorf("%d pages, %v", len(visited), s.trouble)
	}
}

func TestSaves(t *testing.T) {
	s := newSite(t, web.Options{})
	long := strings.Repeat("0123456789abcdef", 100_000)
	s.write("alice/long.txt", long)
	s.write("alice/short", "short")
	snap := s.backup("prod")
	s.login()
	base := "/s/" + snap.Ref.ID.Short() + "/homes/alice"
	code, page, h := s.get(base + "/long.txt?raw")
	if code != http.StatusOK || page != long || h.Get("Content-Disposition") != `attachment; filename=long.txt` {
		t.Errorf("%d, %d bytes, %v", code, len(page), h)
	}
	req, err := http.NewRequest(http.MethodGet, s.url+base+"/long.txt?raw", nil)
	must(t, err)
	req.Header.Set("Range", "bytes=1234567-1234599")
	res, err := s.Do(req)
	must(t, err)
	part, err := io.ReadAll(res.Body)
	must(t, err)
	res.Body.Close()
	if res.StatusCode != http.StatusPartialContent || string(part) != long[1234567:1234600] {
		t.Errorf("a range: %d %q", res.StatusCode, part)
	}
	code, page, _ = s.get(base + "/long.txt")
	if code != http.StatusOK || !strings.Contains(page, "0123456789abcdef") || !strings.Contains(page, "This is how it begins") || len(page) > 200<<10 {
		t.Errorf("a look: %d, %d bytes", code, len(page))
	}

	_, page, h = s.get(base + "?zip")
	z, err := zip.NewReader(strings.NewReader(page), int64(len(page)))
	must(t, err)
	var names []string
	for _, f := range z.File {
		names = append(names, f.Name)
	}
	if !slices.Contains(names, "long.txt") || !slices.Contains(names, "short") || !strings.Contains(h.Get("Content-Disposition"), "alice-") {
		t.Errorf("zip: %q %v", names, h)
	}
	_, page, _ = s.get(base + "?tar")
	sizes := map[string]int64{}
	for tr := tar.NewReader(strings.NewReader(page)); ; {
		head, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		must(t, err)
		sizes[filepath.Base(head.Name)] = head.Size
	}
	if sizes["long.txt"] != int64(len(long)) || sizes["short"] != 5 {
		t.Errorf("tar: %v", sizes)
	}
}

func TestFinds(t *testing.T) {
	s := newSite(t, web.Options{})
	s.write("alice/Notes.md", "one")
	s.write("bob/other", "x")
	s.backup("prod")
	s.write("alice/Notes.md", "two, and longer")
	second := s.backup("prod")
	s.login()
	_, page, _ := s.get("/find?q=notes")
	if got := links(page); len(got) != 2 || !strings.Contains(got[0], second.Ref.ID.String()) {
		t.Errorf("both versions, the newer first: %q", got)
	}
	for query, want := range map[string]string{"nothing-like-it": "Nothing was found", "": "Search", "[": "error"} {
		if _, page, _ := s.get("/find?q=" + url.QueryEscape(query)); !strings.Contains(page, want) {
			t.Errorf("%q: no %q in\n%s", query, want, page)
		}
	}
}

func TestWhatIsNotThere(t *testing.T) {
	s := newSite(t, web.Options{Filter: snapshot.Filter{Instance: "prod"}})
	s.write("a", "a")
	other := s.backup("other")
	snap := s.backup("prod")
	s.login()
	if _, page, _ := s.get("/"); strings.Contains(page, other.Ref.ID.Short()) {
		t.Errorf("another instance is shown:\n%s", page)
	}
	for _, at := range []string{"/s/" + snap.Ref.ID.String() + "/homes/none", "/s/ffffffff/", "/s/not-an-id/", "/s/" + other.Ref.ID.String() + "/", "/none"} {
		if code, _, _ := s.get(at); code != http.StatusNotFound {
			t.Errorf("%s: %d", at, code)
		}
	}
	if res, err := s.Post(s.url+"/", "text/plain", strings.NewReader("x")); err != nil || res.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("a post: %v, %v", res, err)
	}
}

// An archive that lacks something must not look whole.
func TestDamage(t *testing.T) {
	s := newSite(t, web.Options{})
	content := make([]byte, 2<<20)
	for i := range content {
		content[i] = byte(i * i >> 3)
	}
	s.write("big", string(content))
	snap := s.backup("prod")
	var packs []string
	must(t, s.st.List(t.Context(), "packs/", func(i storage.Info) error { packs = append(packs, i.Name); return nil }))
	data, err := s.st.Get(t.Context(), packs[0], 0, -1, nil)
	must(t, err)
	for _, name := range packs { // the pack of content is the larger one
		if other, err := s.st.Get(t.Context(), name, 0, -1, nil); err == nil && len(other) > len(data) {
			packs[0], data = name, other
		}
	}
	must(t, s.st.Delete(t.Context(), packs[0]))
	s.login()
	base := "/s/" + snap.Ref.ID.String() + "/homes"
	for _, query := range []string{"?zip", "?tar", "/big?raw"} {
		res, err := s.Get(s.url + base + query)
		if err != nil {
			continue // it broke off before it began
		}
		body, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err == nil && res.StatusCode == http.StatusOK {
			t.Errorf("%s: %d bytes, as if all were well", query, len(body))
		}
		if bytes.Contains(body, content[:1000]) {
			t.Errorf("%s: where does the content come from?", query)
		}
	}
	if len(s.trouble) < 3 {
		t.Errorf("%v", s.trouble)
	}
}
