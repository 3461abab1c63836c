package rclone_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	rcloneconfig "github.com/rclone/rclone/fs/config"

	"github.com/whole-tale/wtsnap/repo/storage"
	"github.com/whole-tale/wtsnap/repo/storage/rclone"
)

func TestLinkingRcloneIsQuiet(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, env := range [][]string{nil, {"HOME=" + t.TempDir()}} {
		cmd := exec.Command(exe, "-test.list=^$")
		cmd.Env = append([]string{"PATH=/nowhere"}, env...)
		cmd.Dir = t.TempDir()
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		if err := cmd.Run(); err != nil {
			t.Fatal(err)
		}
		if stderr.Len() != 0 {
			t.Errorf("environment %q: on standard error:\n%s", env, stderr.String())
		}
		for _, e := range env {
			left, err := os.ReadDir(strings.TrimPrefix(e, "HOME="))
			if err != nil || len(left) != 0 {
				t.Errorf("left in the home: %v, %v", left, err)
			}
		}
	}
}

func TestUnknownRemote(t *testing.T) {
	path := config(t, "[one]\ntype = local\n\n[two]\ntype = s3\nsecret_access_key = hidden\n")
	t.Setenv("RCLONE_CONFIG_THREE_TYPE", "local")
	_, err := rclone.Open(t.Context(), "nine:x", rclone.Options{ConfigPath: path})
	if !errors.Is(err, storage.ErrConfig) {
		t.Fatalf("%v, want ErrConfig", err)
	}
	text := fmt.Sprint(err, " ", storage.Hint(err))
	for _, want := range []string{"nine", "one, three, two", path} {
		if !strings.Contains(text, want) {
			t.Errorf("%q does not name %q", text, want)
		}
	}
	if strings.Contains(text, "hidden") {
		t.Errorf("%q shows a value", text)
	}
	if _, err := rclone.Open(t.Context(), "three:/tmp", rclone.Options{ConfigPath: path}); err != nil {
		t.Errorf("a remote from the environment: %v", err)
	}
}

func TestNoConfiguration(t *testing.T) {
	rclone.Forget()
	t.Cleanup(rclone.Forget)
	path := filepath.Join(t.TempDir(), "none.conf")
	_, err := rclone.Open(t.Context(), "box:x", rclone.Options{ConfigPath: path})
	if !errors.Is(err, storage.ErrConfig) || !strings.Contains(fmt.Sprint(err), path) || !strings.Contains(storage.Hint(err), "rclone config") {
		t.Errorf("%v (%s)", err, storage.Hint(err))
	}
}

func TestBadSpecs(t *testing.T) {
	path := config(t, "[odd]\ntype = nosuchbackend\n")
	for _, spec := range []string{":nosuchbackend:x", "odd:x", "a,b=\"c:x", ":local,=x:"} {
		_, err := rclone.Open(t.Context(), spec, rclone.Options{ConfigPath: path})
		if !errors.Is(err, storage.ErrConfig) {
			t.Errorf("%q: %v, want ErrConfig", spec, err)
		}
	}
	_, err := rclone.Open(t.Context(), ":nosuch,pass=topsecret:x", rclone.Options{ConfigPath: path})
	if err == nil || strings.Contains(err.Error(), "topsecret") {
		t.Errorf("the error shows the secret: %v", err)
	}
}

func TestSecondConfigurationIsRefused(t *testing.T) {
	path := config(t, "[one]\ntype = local\n")
	if _, err := rclone.Open(t.Context(), "one:/tmp", rclone.Options{ConfigPath: path}); err != nil {
		t.Fatal(err)
	}
	if _, err := rclone.Open(t.Context(), "one:/tmp", rclone.Options{ConfigPath: path + "2"}); !errors.Is(err, storage.ErrConfig) {
		t.Errorf("%v, want ErrConfig", err)
	}
}

func TestRootIsAFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	st := open(t, ":local:"+path, rclone.Options{})
	if _, err := st.Stat(t.Context(), "config"); !errors.Is(err, storage.ErrConfig) {
		t.Errorf("%v, want ErrConfig", err)
	}
}

func TestEncryptedConfiguration(t *testing.T) {
	dir := t.TempDir()
	var sealed bytes.Buffer
	if err := rcloneconfig.SetConfigPassword("right"); err != nil {
		t.Fatal(err)
	}
	err := rcloneconfig.Encrypt(strings.NewReader("[home]\ntype = alias\nremote = "+dir+"\n"), &sealed)
	rcloneconfig.ClearConfigPassword()
	if err != nil {
		t.Fatal(err)
	}
	path := config(t, sealed.String())
	for _, c := range []struct{ pass, want, hint string }{
		{"", "is encrypted", "set RCLONE_CONFIG_PASS"},
		{"wrong", "password does not open", "check RCLONE_CONFIG_PASS"},
	} {
		t.Setenv("RCLONE_CONFIG_PASS", c.pass)
		_, err := rclone.Open(t.Context(), "home:x", rclone.Options{ConfigPath: path})
		if !errors.Is(err, storage.ErrConfig) || !strings.Contains(fmt.Sprint(err), c.want) || !strings.Contains(storage.Hint(err), c.hint) {
			t.Errorf("password %q: %v (%s)", c.pass, err, storage.Hint(err))
		}
	}
	t.Setenv("RCLONE_CONFIG_PASS", "right")
	t.Cleanup(rcloneconfig.ClearConfigPassword)
	st := open(t, "home:repo", rclone.Options{ConfigPath: path})
	if _, err := st.Put(t.Context(), "config", []byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "repo", "config")); err != nil {
		t.Error(err)
	}
}

// provider is an OAuth token endpoint, and the API of a Google storage without objects.
type provider struct {
	*httptest.Server
	mu        sync.Mutex
	refused   bool
	refreshed int
}

func newProvider(t *testing.T) *provider {
	p := &provider{}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		defer p.mu.Unlock()
		w.Header().Set("Content-Type", "application/json")
		switch {
		case r.URL.Path == "/token" && p.refused:
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprint(w, `{"error":"invalid_grant","error_description":"Refresh token has expired"}`)
		case r.URL.Path == "/token":
			p.refreshed++
			fmt.Fprintf(w, `{"access_token":"new","token_type":"Bearer","refresh_token":"next%d","expires_in":3600}`, p.refreshed)
		case strings.HasSuffix(r.URL.Path, "/o"):
			fmt.Fprint(w, `{"kind":"storage#objects","items":[]}`)
		default:
			w.WriteHeader(http.StatusNotFound)
			fmt.Fprint(w, `{"error":{"code":404,"message":"not found"}}`)
		}
	}))
	t.Cleanup(p.Close)
	return p
}

const oldToken = `{"access_token":"old","token_type":"Bearer","refresh_token":"first","expiry":"2020-01-02T03:04:05Z"}`

func (p *provider) remotes() string {
	google := "[gcs]\ntype = google cloud storage\nendpoint = " + p.URL + "\nclient_id = a\nclient_secret = b\n" +
		"token_url = " + p.URL + "/token\ntoken = " + oldToken + "\n\n"
	box := "[box]\ntype = box\nclient_id = a\nclient_secret = b\ntoken_url = " + p.URL + "/token\ntoken = " + oldToken + "\n\n"
	return google + box + "[sealed]\ntype = crypt\nremote = box:inside\npassword = x\n"
}

func list(t *testing.T, st storage.Storage) error {
	t.Helper()
	return st.List(t.Context(), "", func(storage.Info) error { return nil })
}

func TestRefreshedTokenIsStored(t *testing.T) {
	p := newProvider(t)
	path := config(t, p.remotes())
	var warnings []string
	st := open(t, "gcs:bucket/repo", rclone.Options{ConfigPath: path, Warn: func(s string) { warnings = append(warnings, s) }})
	if err := list(t, st); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(text), "token = ")
	line, rest, _ := strings.Cut(after, "\n")
	var token struct {
		Refresh string `json:"refresh_token"`
	}
	if err := json.Unmarshal([]byte(line), &token); err != nil || token.Refresh != "next1" {
		t.Errorf("stored token %q (%v)", line, err)
	}
	if !strings.Contains(rest, "[box]") || !strings.Contains(rest, "first") {
		t.Errorf("the other remotes are not as they were:\n%s", text)
	}
	fi, err := os.Stat(path)
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", fi.Mode(), err)
	}
	left, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(left) != 1 {
		t.Errorf("beside the configuration: %v, %v", left, err)
	}
	if len(warnings) != 0 {
		t.Errorf("warnings: %q", warnings)
	}
}

func TestWarningBeforeTheTokenIsRefreshed(t *testing.T) {
	p := newProvider(t)
	path := config(t, p.remotes())
	var warnings []string
	o := rclone.Options{ConfigPath: path, Warn: func(s string) { warnings = append(warnings, s) }}
	open(t, "sealed:repo", o)
	if len(warnings) != 0 {
		t.Fatalf("warnings with a writable file: %q", warnings)
	}
	// Root may write everywhere, but not in a folder that is gone.
	if err := os.RemoveAll(filepath.Dir(path)); err != nil {
		t.Fatal(err)
	}
	open(t, "sealed:repo", o)
	if len(warnings) != 1 || !strings.Contains(warnings[0], "token of box") {
		t.Errorf("warnings %q, want one on the remote inside", warnings)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.refreshed != 0 {
		t.Error("opening refreshed the token")
	}
}

func TestExpiredToken(t *testing.T) {
	p := newProvider(t)
	p.refused = true
	path := config(t, p.remotes())
	for _, remote := range []string{"gcs:bucket/repo", "box:repo"} {
		st := open(t, remote, rclone.Options{ConfigPath: path})
		name, _, _ := strings.Cut(remote, ":")
		_, putErr := st.Put(t.Context(), "config", []byte("x"))
		_, statErr := st.Stat(t.Context(), "config")
		for _, err := range []error{list(t, st), putErr, statErr} {
			if !errors.Is(err, storage.ErrAuth) {
				t.Errorf("%s: %v, want ErrAuth", name, err)
			}
			if hint := storage.Hint(err); hint != "run: rclone config reconnect "+name+":" {
				t.Errorf("%s: hint %q", name, hint)
			}
		}
	}
}
