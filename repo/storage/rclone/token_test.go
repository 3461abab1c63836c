package rclone_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/whole-tale/wtsnap/repo/storage"
	"github.com/whole-tale/wtsnap/repo/storage/rclone"
)

func TestTokens(t *testing.T) {
	at := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	token := func(refresh string, extra string) string {
		return fmt.Sprintf(`{"access_token":"secret","token_type":"bearer","refresh_token":%q,"expiry":%q%s}`, refresh, at.Format(time.RFC3339), extra)
	}
	path := config(t, strings.Join([]string{
		"[box]\ntype = box\ntoken = " + token("r", ""),
		"[told]\ntype = box\ntoken = " + token("r", `,"expires_in":4200`),
		"[once]\ntype = box\ntoken = " + token("", ""),
		"[server]\ntype = box\nbox_config_file = /x.json\ntoken = " + token("", ""),
		"[microsoft]\ntype = onedrive\ntoken = " + token("r", ""),
		"[other]\ntype = dropbox\ntoken = " + token("r", ""),
		"[bad]\ntype = dropbox\ntoken = {}",
		"[secret]\ntype = crypt\nremote = box:wtsnap",
		"[both]\ntype = union\nupstreams = secret:a microsoft:b:ro both:",
		"[folders]\ntype = combine\nupstreams = \"a=box:x\" \"b=other:y\"",
		"[s3]\ntype = s3\n",
	}, "\n\n"))
	get := func(spec string) []storage.Token {
		t.Helper()
		got, err := rclone.Tokens(spec, rclone.Options{ConfigPath: path})
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(fmt.Sprint(got), "secret ") {
			t.Errorf("a token is shown: %v", got)
		}
		return got
	}
	box := storage.Token{Remote: "box", Kind: "box", Issued: at.Add(-time.Hour), Expiry: at, Renews: true, Once: true, Unused: 60 * 24 * time.Hour,
		Path: path, Stored: true}
	with := func(change func(*storage.Token)) storage.Token { b := box; change(&b); return b }
	for spec, want := range map[string][]storage.Token{
		"box:x":  {box},
		"told:x": {with(func(t *storage.Token) { t.Remote, t.Issued = "told", at.Add(-70*time.Minute) })},
		"once:x": {with(func(t *storage.Token) {
			t.Remote, t.Renews, t.Once, t.Unused, t.Issued = "once", false, false, 0, time.Time{}
		})},
		"server:x": {with(func(t *storage.Token) { t.Remote, t.Once, t.Unused, t.Issued = "server", false, 0, time.Time{} })},
		"other:x":  {with(func(t *storage.Token) { t.Remote, t.Kind, t.Once, t.Unused = "other", "dropbox", false, 0 })},
		"bad:x":    {{Remote: "bad", Kind: "dropbox", Path: path, Stored: true, Problem: "it is no token as rclone writes it"}},
		"secret:":  {box},
		"both:": {with(func(t *storage.Token) {
			t.Remote, t.Kind, t.Once, t.Unused = "microsoft", "onedrive", false, 90*24*time.Hour
		}), box},
		"s3:x":    nil,
		":local:": nil,
	} {
		if diff := cmp.Diff(want, get(spec)); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", spec, diff)
		}
	}
	if got := get("folders:"); len(got) != 2 || got[0].Remote != "box" || got[1].Remote != "other" {
		t.Errorf("combine: %v", got)
	}
}

// A server says in each answer what time it is.
func TestClockSkew(t *testing.T) {
	for off, want := range map[time.Duration]time.Duration{-30 * time.Minute: 30 * time.Minute, 30 * time.Minute: -30 * time.Minute, time.Minute: 0} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Date", time.Now().Add(off).UTC().Format(http.TimeFormat))
			http.NotFound(w, r)
		}))
		rclone.Forget()
		st := open(t, webdavSpec(server.URL), rclone.Options{})
		if _, known := st.ClockSkew(); known {
			t.Error("known before anything was asked")
		}
		_ = list(t, st) // there is nothing
		skew, known := st.ClockSkew()
		if !known || (skew-want).Abs() > time.Minute {
			t.Errorf("%v, %v: want %v", skew, known, want)
		}
		server.Close()
	}
	rclone.Forget()
	st := open(t, t.TempDir(), rclone.Options{})
	if err := list(t, st); err != nil {
		t.Fatal(err)
	}
	if _, known := st.ClockSkew(); known {
		t.Error("a folder has no clock")
	}
}
