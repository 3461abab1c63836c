// Package faulty puts a proxy before an HTTP server that spoils some of the requests, as servers, their front ends and
// networks do: what a client of S3 or WebDAV meets, and not what a mock of our own interface would say.
package faulty

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strconv"
	"sync"
	"time"
)

// A Fault answers a request in the server's stead, or asks the server (next) and spoils what it says.
type Fault func(w http.ResponseWriter, r *http.Request, next http.Handler)

// A Match says which requests a fault is for.
type Match func(*http.Request) bool

// Method matches requests by their method; "" matches all.
func Method(method string) Match {
	return func(r *http.Request) bool { return method == "" || r.Method == method }
}

// Proxy is the server that clients connect to.
type Proxy struct {
	*httptest.Server
	through *httputil.ReverseProxy
	done    chan struct{} // ends hanging requests: a server does not notice that a client left which it does not read

	mu    sync.Mutex
	match Match
	fault Fault
	left  int
	met   int
	seen  int
}

// New starts a proxy before the server at target, a URL.
func New(target string) (*Proxy, error) {
	u, err := url.Parse(target)
	if err != nil {
		return nil, err
	}
	p := &Proxy{done: make(chan struct{})}
	p.through = &httputil.ReverseProxy{
		// The host stays the proxy's: S3 signs it.
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(u); r.Out.Host = r.In.Host },
		// A client that went away, or a request that was cut, is part of the test.
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}
	p.Server = httptest.NewServer(http.HandlerFunc(p.serve))
	return p, nil
}

// Close cuts all connections, and ends what hangs.
func (p *Proxy) Close() {
	close(p.done)
	p.CloseClientConnections()
	p.Server.Close()
}

func (p *Proxy) serve(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.seen++
	fault := p.fault
	if p.left == 0 || fault == nil || !p.match(r) {
		fault = nil
	} else {
		p.left--
		p.met++
	}
	p.mu.Unlock()
	if fault == nil {
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
	fault(w, r.WithContext(ctx), p.through)
}

// Next spoils the next n requests that match; a negative n spoils all of them until the next call. n = 0 spoils none.
func (p *Proxy) Next(n int, match Match, fault Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.match, p.fault, p.left, p.met = match, fault, n, 0
}

// Met returns how many requests were spoiled since Next.
func (p *Proxy) Met() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.met
}

// Seen returns how many requests came so far.
func (p *Proxy) Seen() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen
}

// Answer takes the request and does not do it: a status with headers, in pairs.
func Answer(code int, header ...string) Fault {
	return func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		_, _ = io.Copy(io.Discard, r.Body)
		for i := 0; i+1 < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(code)
	}
}

// CutUpload lets the server have half of the body, as a connection lost on the way would.
func CutUpload(_ http.ResponseWriter, r *http.Request, _ http.Handler) {
	_, _ = io.CopyN(io.Discard, r.Body, r.ContentLength/2)
	hangUp()
}

// HalfUpload gives the server a whole request with half of the bytes, so that it stores a partial object, and hangs up.
func HalfUpload(_ http.ResponseWriter, r *http.Request, next http.Handler) {
	half := r.Clone(r.Context())
	half.Body = io.NopCloser(io.LimitReader(r.Body, r.ContentLength/2))
	half.ContentLength = r.ContentLength / 2
	half.Header.Del("Content-Md5")
	next.ServeHTTP(httptest.NewRecorder(), half)
	hangUp()
}

// CutDownload sends half of the answer's body.
func CutDownload(w http.ResponseWriter, r *http.Request, next http.Handler) {
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
	hangUp()
}

func hangUp() { panic(http.ErrAbortHandler) }

// DoneFailed does what was asked and says that it did not.
func DoneFailed(w http.ResponseWriter, r *http.Request, next http.Handler) {
	next.ServeHTTP(httptest.NewRecorder(), r)
	w.WriteHeader(http.StatusBadGateway)
}

// Hang takes the request and never answers.
func Hang(_ http.ResponseWriter, r *http.Request, _ http.Handler) {
	_, _ = io.Copy(io.Discard, r.Body)
	<-r.Context().Done()
}

// HangHalfway takes a part of the upload and then no more.
func HangHalfway(_ http.ResponseWriter, r *http.Request, _ http.Handler) {
	_, _ = io.CopyN(io.Discard, r.Body, 1000)
	<-r.Context().Done()
}

// RateLimit returns a fault that lets n requests a window through and refuses the others with the time to wait, in whole
// seconds. throttled counts the refused ones.
func RateLimit(n int, window time.Duration, throttled func()) Fault {
	var mu sync.Mutex
	var began time.Time
	count := 0
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		mu.Lock()
		now := time.Now()
		if now.Sub(began) >= window {
			began, count = now, 0
		}
		count++
		over := count > n
		mu.Unlock()
		if !over {
			next.ServeHTTP(w, r)
			return
		}
		throttled()
		Answer(http.StatusTooManyRequests, "Retry-After", strconv.Itoa(int(window.Seconds())+1))(w, r, next)
	}
}

// Lag hides objects from S3's listings that were put since it began: they can be read, but not yet found.
type Lag struct {
	mu   sync.Mutex
	keys map[string]bool // not listed
}

// Fault is what the requests go through; it sees puts and changes listings.
func (l *Lag) Fault(w http.ResponseWriter, r *http.Request, next http.Handler) {
	if r.Method == http.MethodPut {
		_, key, _ := cutKey(r.URL.Path)
		l.mu.Lock()
		if l.keys == nil {
			l.keys = map[string]bool{}
		}
		l.keys[key] = true
		l.mu.Unlock()
	}
	_, key, _ := cutKey(r.URL.Path)
	if r.Method != http.MethodGet || key != "" {
		next.ServeHTTP(w, r)
		return
	}
	rec := httptest.NewRecorder()
	next.ServeHTTP(rec, r)
	body := rec.Body.Bytes()
	l.mu.Lock()
	for hidden := range l.keys {
		body = cutOut(body, "<Contents>", "<Key>"+hidden+"</Key>", "</Contents>")
	}
	l.mu.Unlock()
	for k, v := range rec.Header() {
		w.Header()[k] = v
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(rec.Code)
	_, _ = w.Write(body)
}

// Hidden returns how many objects are hidden.
func (l *Lag) Hidden() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.keys)
}

// Show ends the lag of all objects that were put so far.
func (l *Lag) Show() {
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.keys)
}

// cutKey splits /bucket/key.
func cutKey(path string) (bucket, key string, ok bool) {
	for i := 1; i < len(path); i++ {
		if path[i] == '/' {
			return path[1:i], path[i+1:], true
		}
	}
	return path, "", false
}

// cutOut removes the part from begin to end that holds what, if there is one.
func cutOut(text []byte, begin, what, end string) []byte {
	at := bytes.Index(text, []byte(what))
	if at < 0 {
		return text
	}
	from := bytes.LastIndex(text[:at], []byte(begin))
	to := bytes.Index(text[at:], []byte(end))
	if from < 0 || to < 0 {
		return text
	}
	return append(append([]byte{}, text[:from]...), text[at+to+len(end):]...)
}
