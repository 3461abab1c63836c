package rclonetest

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha1"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"mime"
	"mime/multipart"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Box is a server that answers like box.com as far as rclone's backend for it asks: folders, files, uploads, the account,
// and tokens. It is reached through a proxy, so that the backend talks to the hosts that it always talks to.
//
// A refresh token is good for one use; its answer brings the next one.
type Box struct {
	web   *httptest.Server // TLS, for all hosts
	proxy *http.Server
	where string // of the proxy
	ca    string // a file: whom to trust

	mu      sync.Mutex
	items   map[string]*boxItem
	next    int
	access  string
	refresh string        // "" = revoked
	until   time.Time     // of the access token
	expires time.Duration // of those to come
	quota   int64         // bytes; 0 = plenty
	rate    int           // calls a window; 0 = any number
	window  time.Duration
	began   time.Time // of the window
	calls   int       // in the window
	page    int
	spoil   func(http.ResponseWriter, *http.Request) bool
	counts  BoxCounts
}

// BoxCounts are what a Box was asked.
type BoxCounts struct {
	Calls     int // answered
	Throttled int // refused for being too many
	Refreshes int // tokens given for a refresh token
	Refused   int // refresh tokens that were used before, or revoked
	Pages     int // of listings that were not the first
}

type boxItem struct {
	id, name, parent string
	folder           bool
	data             []byte
	modified         time.Time
}

// NewBox starts a server; dir holds its certificate.
func NewBox(dir string) (*Box, error) {
	b := &Box{items: map[string]*boxItem{"0": {id: "0", folder: true}}, next: 1, page: 1000, expires: time.Hour}
	b.newTokens()
	cert, ca, err := certificate("api.box.com", "upload.box.com", "app.box.com", "dl.boxcloud.com")
	if err != nil {
		return nil, err
	}
	b.ca = filepath.Join(dir, "box-ca.pem")
	if err := os.WriteFile(b.ca, ca, 0o600); err != nil {
		return nil, err
	}
	b.web = httptest.NewUnstartedServer(http.HandlerFunc(b.serve))
	b.web.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	b.web.StartTLS()
	listen, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.web.Close()
		return nil, err
	}
	b.where = "http://" + listen.Addr().String()
	b.proxy = &http.Server{Handler: http.HandlerFunc(b.connect)}
	go b.proxy.Serve(listen) // ends with Close
	return b, nil
}

// Close ends the server.
func (b *Box) Close() {
	b.proxy.Close()
	b.web.CloseClientConnections()
	b.web.Close()
}

// Env is what a process needs in its environment to reach the server. Go looks at it when it first connects.
func (b *Box) Env() map[string]string {
	return map[string]string{"HTTPS_PROXY": b.where, "SSL_CERT_FILE": b.ca}
}

// Section is the server's part of an rclone configuration, as a remote of the name, with the tokens that are good now.
func (b *Box) Section(name string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return fmt.Sprintf("[%s]\ntype = box\ntoken = {\"access_token\":%q,\"token_type\":\"bearer\",\"refresh_token\":%q,\"expiry\":%q}\n",
		name, b.access, b.refresh, b.until.Format(time.RFC3339))
}

// Refresh returns the refresh token that is good now.
func (b *Box) Refresh() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.refresh
}

// Expire lets the time of the access token be over, and those to come last for as long as d.
func (b *Box) Expire(d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.until, b.expires = time.Now().Add(-time.Minute), d
}

// Revoke makes all tokens useless, as a user does who takes the program's rights away. Login gives it new ones.
func (b *Box) Revoke() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.access, b.refresh = rand.Text(), ""
}

// Login makes new tokens; Section tells them.
func (b *Box) Login() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.newTokens()
}

// Limit refuses calls beyond n a window, with the time to wait; 0 for no limit.
func (b *Box) Limit(n int, window time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.rate, b.window, b.began = n, window, time.Time{}
}

// Quota bounds what is stored to what is there and so many bytes more; negative for no bound.
func (b *Box) Quota(more int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.quota = 0; more >= 0 {
		b.quota = b.used() + more
	}
}

// Page sets how many entries a listing has at a time.
func (b *Box) Page(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.page = n
}

// Spoil lets fn answer in the server's stead where it returns true; nil ends that.
func (b *Box) Spoil(fn func(http.ResponseWriter, *http.Request) bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.spoil = fn
}

// Counts returns what was asked so far.
func (b *Box) Counts() BoxCounts {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.counts
}

func (b *Box) newTokens() {
	b.access, b.refresh, b.until = rand.Text(), rand.Text(), time.Now().Add(b.expires)
}

func (b *Box) used() (n int64) {
	for _, i := range b.items {
		n += int64(len(i.data))
	}
	return n
}

// connect is the proxy: whatever host is asked for, the server is it.
func (b *Box) connect(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodConnect {
		http.Error(w, "only CONNECT", http.StatusMethodNotAllowed)
		return
	}
	server, err := net.Dial("tcp", b.web.Listener.Addr().String())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer server.Close()
	client, buf, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer client.Close()
	if _, err := io.WriteString(client, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(server, bufio.NewReader(buf)) // ends when either side does
		server.Close()
	}()
	_, _ = io.Copy(client, server)
	client.Close()
	<-done
}

func (b *Box) serve(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	spoil := b.spoil
	b.mu.Unlock()
	if spoil != nil && spoil(w, r) {
		return
	}
	if r.URL.Path == "/api/oauth2/token" || r.URL.Path == "/oauth2/token" {
		b.giveToken(w, r)
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if wait, ok := b.admit(); !ok {
		b.counts.Throttled++
		w.Header().Set("Retry-After", strconv.Itoa(wait))
		boxError(w, http.StatusTooManyRequests, "rate_limit_exceeded", "Request rate limit exceeded", nil)
		return
	}
	b.counts.Calls++
	if r.Header.Get("Authorization") != "Bearer "+b.access || time.Now().After(b.until) {
		w.Header().Set("Www-Authenticate", `Bearer realm="Service", error="invalid_token", error_description="The access token provided is invalid."`)
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	path := strings.TrimPrefix(strings.TrimPrefix(r.URL.Path, "/api"), "/2.0")
	parts := strings.Split(strings.Trim(path, "/"), "/")
	switch {
	case path == "/users/me":
		reply(w, http.StatusOK, map[string]any{"type": "user", "id": "1", "space_amount": max(b.quota, 1<<50*boolInt(b.quota == 0)), "space_used": b.used()})
	case r.Method == http.MethodOptions && parts[0] == "files":
		b.preflight(w, r)
	case r.Method == http.MethodPost && parts[0] == "folders":
		b.makeFolder(w, r)
	case r.Method == http.MethodGet && parts[0] == "folders" && len(parts) == 3:
		b.list(w, r, parts[1])
	case r.Method == http.MethodPost && parts[0] == "files":
		b.upload(w, r, parts)
	case parts[0] == "files" && len(parts) >= 2 && (b.items[parts[1]] == nil || b.items[parts[1]].folder):
		boxError(w, http.StatusNotFound, "not_found", "Not Found", nil)
	case r.Method == http.MethodGet && len(parts) == 3:
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader(string(b.items[parts[1]].data)))
	case r.Method == http.MethodGet:
		reply(w, http.StatusOK, b.items[parts[1]].json())
	case r.Method == http.MethodDelete:
		delete(b.items, parts[1])
		w.WriteHeader(http.StatusNoContent)
	case r.Method == http.MethodPut:
		b.change(w, r, b.items[parts[1]])
	default:
		boxError(w, http.StatusNotFound, "not_found", "Not Found: "+r.Method+" "+r.URL.Path, nil)
	}
}

func boolInt(v bool) int64 {
	if v {
		return 1
	}
	return 0
}

// admit counts a call, or says for how many seconds to wait.
func (b *Box) admit() (wait int, ok bool) {
	if b.rate == 0 {
		return 0, true
	}
	now := time.Now()
	if now.Sub(b.began) >= b.window {
		b.began, b.calls = now, 0
	}
	if b.calls++; b.calls <= b.rate {
		return 0, true
	}
	return int(b.window.Seconds()) + 1, false
}

func (b *Box) giveToken(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	_ = r.ParseForm()
	if got := r.PostForm.Get("refresh_token"); got == "" || got != b.refresh {
		b.counts.Refused++
		reply(w, http.StatusBadRequest, map[string]string{"error": "invalid_grant", "error_description": "Refresh token has expired"})
		return
	}
	b.counts.Refreshes++
	b.newTokens()
	reply(w, http.StatusOK, map[string]any{"access_token": b.access, "refresh_token": b.refresh, "token_type": "bearer",
		"expires_in": int(b.expires.Seconds())})
}

type boxParent struct{ ID string }

func (b *Box) child(parent, name string) *boxItem {
	for _, i := range b.items {
		if i.parent == parent && strings.EqualFold(i.name, name) && i.id != "0" {
			return i
		}
	}
	return nil
}

func (b *Box) full(more int64) bool { return b.quota > 0 && b.used()+more > b.quota }

func (b *Box) preflight(w http.ResponseWriter, r *http.Request) {
	var ask struct {
		Name   string
		Parent boxParent
		Size   int64
	}
	_ = json.NewDecoder(r.Body).Decode(&ask)
	if i := b.child(ask.Parent.ID, ask.Name); i != nil {
		boxError(w, http.StatusConflict, "item_name_in_use", "Item with the same name already exists", map[string]any{"conflicts": i.json()})
		return
	}
	if b.full(ask.Size) {
		boxFull(w)
		return
	}
	reply(w, http.StatusOK, map[string]string{})
}

func boxFull(w http.ResponseWriter) {
	boxError(w, http.StatusForbidden, "storage_limit_exceeded", "Account storage limit reached", nil)
}

func (b *Box) add(i *boxItem) *boxItem {
	i.id = strconv.Itoa(b.next)
	b.next++
	b.items[i.id] = i
	return i
}

func (b *Box) makeFolder(w http.ResponseWriter, r *http.Request) {
	var ask struct {
		Name   string
		Parent boxParent
	}
	_ = json.NewDecoder(r.Body).Decode(&ask)
	if i := b.child(ask.Parent.ID, ask.Name); i != nil {
		boxError(w, http.StatusConflict, "item_name_in_use", "Item with the same name already exists", map[string]any{"conflicts": []any{i.json()}})
		return
	}
	reply(w, http.StatusCreated, b.add(&boxItem{name: ask.Name, parent: ask.Parent.ID, folder: true}).json())
}

func (b *Box) list(w http.ResponseWriter, r *http.Request, folder string) {
	var children []*boxItem
	for _, i := range b.items {
		if i.parent == folder && i.id != "0" {
			children = append(children, i)
		}
	}
	slices.SortFunc(children, func(a, b *boxItem) int { return strings.Compare(a.name, b.name) })
	from, _ := strconv.Atoi(r.URL.Query().Get("marker"))
	if from > 0 {
		b.counts.Pages++
	}
	limit := b.page
	if n, err := strconv.Atoi(r.URL.Query().Get("limit")); err == nil {
		limit = min(limit, n)
	}
	answer := map[string]any{"total_count": len(children), "limit": limit}
	entries := []any{}
	for _, i := range children[min(from, len(children)):min(from+limit, len(children))] {
		entries = append(entries, i.json())
	}
	answer["entries"] = entries
	if from+limit < len(children) {
		answer["next_marker"] = strconv.Itoa(from + limit)
	}
	reply(w, http.StatusOK, answer)
}

func (b *Box) upload(w http.ResponseWriter, r *http.Request, parts []string) {
	var ask struct {
		Name     string
		Parent   boxParent
		Modified time.Time `json:"content_modified_at"`
	}
	var data []byte
	b.mu.Unlock() // the client may be slow
	_, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	form := multipart.NewReader(r.Body, params["boundary"])
	for err == nil {
		var p *multipart.Part
		if p, err = form.NextPart(); err != nil {
			break
		}
		if p.FormName() == "attributes" {
			err = json.NewDecoder(p).Decode(&ask)
			continue
		}
		data, err = io.ReadAll(p)
	}
	b.mu.Lock()
	if err != io.EOF {
		boxError(w, http.StatusBadRequest, "bad_request", err.Error(), nil)
		return
	}
	if b.full(int64(len(data))) {
		boxFull(w)
		return
	}
	i := b.child(ask.Parent.ID, ask.Name)
	if len(parts) == 3 { // a new version
		i = b.items[parts[1]]
	} else if i != nil {
		boxError(w, http.StatusConflict, "item_name_in_use", "Item with the same name already exists", map[string]any{"conflicts": i.json()})
		return
	}
	if i == nil {
		i = b.add(&boxItem{name: ask.Name, parent: ask.Parent.ID})
	}
	i.data, i.modified = data, ask.Modified
	reply(w, http.StatusCreated, map[string]any{"total_count": 1, "entries": []any{i.json()}})
}

func (b *Box) change(w http.ResponseWriter, r *http.Request, i *boxItem) {
	var ask struct {
		Name     string
		Parent   boxParent
		Modified time.Time `json:"content_modified_at"`
	}
	_ = json.NewDecoder(r.Body).Decode(&ask)
	if ask.Name != "" {
		i.name = ask.Name
	}
	if ask.Parent.ID != "" {
		i.parent = ask.Parent.ID
	}
	if !ask.Modified.IsZero() {
		i.modified = ask.Modified
	}
	reply(w, http.StatusOK, i.json())
}

func (i *boxItem) json() map[string]any {
	if i.folder {
		return map[string]any{"type": "folder", "id": i.id, "name": i.name, "item_status": "active", "sequence_id": "0"}
	}
	sum := sha1.Sum(i.data)
	when := i.modified.UTC().Format(time.RFC3339)
	return map[string]any{"type": "file", "id": i.id, "name": i.name, "size": len(i.data), "sha1": hex.EncodeToString(sum[:]), "sequence_id": "0",
		"item_status": "active", "created_at": when, "modified_at": when, "content_created_at": when, "content_modified_at": when}
}

func reply(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client may have gone
}

func boxError(w http.ResponseWriter, status int, code, text string, info any) {
	reply(w, status, map[string]any{"type": "error", "status": status, "code": code, "message": text, "context_info": info})
}

// certificate makes one that signs itself, for the hosts.
func certificate(hosts ...string) (tls.Certificate, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	now := time.Now()
	t := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: hosts[0]}, DNSNames: hosts,
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}
