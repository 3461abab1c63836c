package rclone_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/whole-tale/wtsnap/repo/storage"
	"github.com/whole-tale/wtsnap/repo/storage/rclone"
	"github.com/whole-tale/wtsnap/repo/storage/retry"
	"github.com/whole-tale/wtsnap/repo/storage/storagetest"
)

// proxy stands before a server and spoils some requests.
type proxy struct {
	*httptest.Server
	through *httputil.ReverseProxy

	done chan struct{} // ends hanging requests: a server does not notice that a client left which it does not read

	mu     sync.Mutex
	spoil  func(http.ResponseWriter, *http.Request, http.Handler)
	method string
	left   int
	met    int
}

func newProxy(t *testing.T, target string) *proxy {
	t.Helper()
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{done: make(chan struct{})}
	p.through = &httputil.ReverseProxy{
		// The host stays the proxy's: S3 signs it.
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(u); r.Out.Host = r.In.Host },
		// A client that went away, or a request that was cut, is part of the test.
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}
	p.Server = httptest.NewServer(http.HandlerFunc(p.serve))
	p.Config.ErrorLog = nil
	t.Cleanup(func() {
		close(p.done)
		p.CloseClientConnections()
		p.Close()
	})
	return p
}

func (p *proxy) serve(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	spoil := p.spoil
	if p.left == 0 || r.Method != p.method {
		spoil = nil
	} else {
		p.left--
		p.met++
	}
	p.mu.Unlock()
	if spoil == nil {
		p.through.ServeHTTP(w, r)
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	go func() {
		select {
		case <-p.done:
			cancel()
		case <-ctx.Done():
		}
	}()
	r = r.WithContext(ctx)
	spoil(w, r, p.through)
}

// next spoils the next n requests with the method.
func (p *proxy) next(n int, method string, spoil func(http.ResponseWriter, *http.Request, http.Handler)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.spoil, p.method, p.left, p.met = spoil, method, n, 0
}

func (p *proxy) hit() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.met
}

func answer(code int, header ...string) func(http.ResponseWriter, *http.Request, http.Handler) {
	return func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		_, _ = io.Copy(io.Discard, r.Body)
		for i := 0; i+1 < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(code)
	}
}

// cutUpload lets the server have half of the body, as a connection lost on the
// way would.
func cutUpload(w http.ResponseWriter, r *http.Request, _ http.Handler) {
	_, _ = io.CopyN(io.Discard, r.Body, r.ContentLength/2)
	hangUp(w)
}

// halfUpload gives the server a whole request with half of the bytes, so that it
// stores a partial object, and answers with an error.
func halfUpload(w http.ResponseWriter, r *http.Request, next http.Handler) {
	half := r.Clone(r.Context())
	half.Body = io.NopCloser(io.LimitReader(r.Body, r.ContentLength/2))
	half.ContentLength = r.ContentLength / 2
	half.Header.Del("Content-Md5")
	next.ServeHTTP(httptest.NewRecorder(), half)
	hangUp(w)
}

// cutDownload sends half of the answer's body.
func cutDownload(w http.ResponseWriter, r *http.Request, next http.Handler) {
	rec := httptest.NewRecorder()
	next.ServeHTTP(rec, r)
	for k, v := range rec.Header() {
		w.Header()[k] = v
	}
	w.WriteHeader(rec.Code)
	_, _ = w.Write(rec.Body.Bytes()[:rec.Body.Len()/2])
	if f, ok := w.(http.Flusher); ok {
		f.Flush()
	}
	hangUp(w)
}

func hangUp(w http.ResponseWriter) {
	panic(http.ErrAbortHandler)
}

// storedButFailed does what was asked and says that it did not.
func storedButFailed(w http.ResponseWriter, r *http.Request, next http.Handler) {
	next.ServeHTTP(httptest.NewRecorder(), r)
	w.WriteHeader(http.StatusBadGateway)
}

func hang(_ http.ResponseWriter, r *http.Request, _ http.Handler) {
	_, _ = io.Copy(io.Discard, r.Body)
	<-r.Context().Done()
}

// hangHalfway takes a part of the upload and then no more.
func hangHalfway(_ http.ResponseWriter, r *http.Request, _ http.Handler) {
	_, _ = io.CopyN(io.Discard, r.Body, 1000)
	<-r.Context().Done()
}

func TestFaultyServer(t *testing.T) {
	servers := map[string]struct {
		start func(*testing.T) string
		spec  func(string) string
		list  string // the method of listings
	}{
		"webdav": {serveWebDAV, webdavSpec, "PROPFIND"},
		"s3":     {serveS3, s3Spec, "GET"},
	}
	type spoil = func(http.ResponseWriter, *http.Request, http.Handler)
	faults := []struct {
		name   string
		method string // of HTTP; "list" for the server's own
		times  int    // as many as rclone tries, so that it gives up; or one
		spoil  spoil
		done   bool // spoil does what was asked
	}{
		{"put 429", "PUT", 3, answer(429, "Retry-After", "1"), false},
		{"put 500", "PUT", 3, answer(500), false},
		{"put cut", "PUT", 3, cutUpload, false},
		{"put half", "PUT", 2, halfUpload, false},
		{"put stored 502", "PUT", 3, storedButFailed, true},
		{"put hangs", "PUT", 1, hang, false},
		{"put hangs halfway", "PUT", 1, hangHalfway, false},
		{"get 429", "GET", 3, answer(429, "Retry-After", "1"), false},
		{"get 503", "GET", 3, answer(503), false},
		{"get cut", "GET", 3, cutDownload, false},
		{"get hangs", "GET", 1, hang, false},
		{"list 500", "list", 3, answer(500), false},
		{"list cut", "list", 3, cutDownload, false},
		{"list hangs", "list", 1, hang, false},
		{"delete 500", "DELETE", 3, answer(500), false},
		{"delete done 502", "DELETE", 3, storedButFailed, true},
	}
	for name, server := range servers {
		t.Run(name, func(t *testing.T) {
			for _, f := range faults {
				t.Run(strings.ReplaceAll(f.name, " ", "-"), func(t *testing.T) {
					t.Parallel()
					p := newProxy(t, server.start(t))
					backend := open(t, server.spec(p.URL), rclone.Options{})
					st := retry.New(backend, retry.Options{First: time.Millisecond, Most: 10 * time.Millisecond, Stall: 700 * time.Millisecond})
					seed := make([]byte, 300_000)
					_, _ = rand.NewChaCha8([32]byte{1}).Read(seed)
					if _, err := st.Put(t.Context(), "index/first", seed); err != nil {
						t.Fatal(err)
					}
					method := f.method
					if method == "list" {
						method = server.list
					}
					p.next(f.times, method, f.spoil)
					data := bytes.Clone(seed[:200_000])
					if _, err := st.Put(t.Context(), "index/second", data); err != nil {
						t.Fatalf("put: %v", err)
					}
					clear(data) // nothing may read it any more
					got, err := st.Get(t.Context(), "index/first", 1000, 200_000, nil)
					if err != nil || !bytes.Equal(got, seed[1000:201_000]) {
						t.Fatalf("get: %d bytes, %v", len(got), err)
					}
					objects, err := storagetest.Content(st)
					if err != nil {
						t.Fatalf("content: %v", err)
					}
					if len(objects) != 2 || !bytes.Equal(objects["index/second"], seed[:200_000]) {
						t.Errorf("%d objects, the second one has %d bytes", len(objects), len(objects["index/second"]))
					}
					if err := st.Delete(t.Context(), "index/first"); err != nil {
						t.Fatalf("delete: %v", err)
					}
					if _, err := st.Stat(t.Context(), "index/first"); !errors.Is(err, storage.ErrNotExist) {
						t.Errorf("stat after delete: %v", err)
					}
					// One is enough where the deed was done and is found out.
					if hit := p.hit(); hit == 0 || hit != f.times && !f.done {
						t.Errorf("met %d spoiled requests of %d", hit, f.times)
					}
				})
			}
		})
	}
}

func TestPartialObjectIsRemoved(t *testing.T) {
	// Without a retry: the storage itself leaves no half object behind.
	p := newProxy(t, serveWebDAV(t))
	st := open(t, webdavSpec(p.URL), rclone.Options{})
	if _, err := st.Put(t.Context(), "index/first", []byte("x")); err != nil {
		t.Fatal(err)
	}
	p.next(1000, "PUT", halfUpload)
	if _, err := st.Put(t.Context(), "packs/ab/1", make([]byte, 100_000)); err == nil {
		t.Fatal("a put of half the bytes succeeded")
	}
	if info, err := st.Stat(t.Context(), "packs/ab/1"); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("stat of the partial object: %+v, %v", info, err)
	}
	if p.hit() == 0 {
		t.Error("no request was spoiled")
	}
}

func TestStatusKinds(t *testing.T) {
	for _, c := range []struct {
		code int
		want error
	}{
		{401, storage.ErrAuth}, {403, storage.ErrDenied}, {429, storage.ErrThrottled}, {507, storage.ErrQuota},
	} {
		t.Run(fmt.Sprint(c.code), func(t *testing.T) {
			t.Parallel()
			p := newProxy(t, serveWebDAV(t))
			st := open(t, webdavSpec(p.URL), rclone.Options{})
			if _, err := st.Put(t.Context(), "config", []byte("x")); err != nil {
				t.Fatal(err)
			}
			p.next(1000, "PUT", answer(c.code))
			_, err := st.Put(t.Context(), "packs/ab/1", []byte("data"))
			if !errors.Is(err, c.want) {
				t.Errorf("put: %v, want %v", err, c.want)
			}
			if c.want == storage.ErrAuth && storage.Hint(err) == "" {
				t.Errorf("no hint with %v", err)
			}
			p.next(1000, "GET", answer(c.code))
			if _, err := st.Get(t.Context(), "config", 0, -1, nil); !errors.Is(err, c.want) && c.code != 507 {
				t.Errorf("get: %v, want %v", err, c.want)
			}
		})
	}
}

func TestWrongCredentials(t *testing.T) {
	for name, spec := range map[string]string{
		"s3 key":    strings.Replace(s3Spec(serveS3(t)), "SECRET", "WRONG", 1),
		"s3 id":     strings.Replace(s3Spec(serveS3(t)), "ACCESS", "OTHER", 1),
		"sftp user": strings.Replace(sftpSpec(serveSFTP(t)), "user=u", "user=other", 1),
	} {
		t.Run(name, func(t *testing.T) {
			st := open(t, spec, rclone.Options{})
			_, putErr := st.Put(t.Context(), "config", []byte("x"))
			_, getErr := st.Get(t.Context(), "config", 0, -1, nil)
			listErr := st.List(t.Context(), "", func(storage.Info) error { return nil })
			for _, err := range []error{putErr, getErr, listErr} {
				if !errors.Is(err, storage.ErrAuth) {
					t.Errorf("%v, want ErrAuth", err)
				}
				if hint := storage.Hint(err); !strings.Contains(hint, "connection string") {
					t.Errorf("hint %q", hint)
				}
				if strings.Contains(fmt.Sprint(err), "WRONG") {
					t.Errorf("the error shows the secret: %v", err)
				}
			}
		})
	}
}
