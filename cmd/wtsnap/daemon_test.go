package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/whole-tale/wtsnap/cmd/wtsnap/alert"
	"github.com/whole-tale/wtsnap/cmd/wtsnap/job"
)

// TestDaemonAnswers looks at what a health check and Prometheus get.
func TestDaemonAnswers(t *testing.T) {
	dir := t.TempDir()
	s := &alert.State{Job: "nightly"}
	s.Note(&job.Report{Job: "nightly", Instance: "web", Start: time.Unix(1800000000, 0), End: time.Unix(1800000060, 0), Status: job.Failed, Exit: 14})
	if err := s.Save(dir); err != nil {
		t.Fatal(err)
	}
	d := &daemon{dir: dir, jobs: map[string]*daemonJob{"nightly": {Status: job.Failed, Exit: 14, Next: time.Unix(1800090000, 0).UTC()}}}
	server := httptest.NewServer(d.handler())
	defer server.Close()
	for path, want := range map[string]string{
		"/healthz": `{"jobs":{"nightly":{"running":false,"next":"2027-01-16T`,
		"/metrics": `wtsnap_job_exit_code{instance="web",job="nightly"} 14`,
	} {
		resp, err := http.Get(server.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK || !strings.Contains(string(body), want) {
			t.Errorf("%s: %s %q, %v", path, resp.Status, body, err)
		}
	}
}
