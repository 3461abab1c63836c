package alert

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/whole-tale/wtsnap/cmd/wtsnap/config"
	"github.com/whole-tale/wtsnap/cmd/wtsnap/job"
)

// What is wrong beside the job is told once a cause, whatever becomes of the job, and again when it comes again.
func TestNotices(t *testing.T) {
	web := newReceiver(t)
	dir := t.TempDir()
	alerts := map[string]*config.Alert{
		"ops":   {Name: "ops", Notify: web.webhook("/ops")},
		"fails": {Name: "fails", Notify: web.webhook("/fails"), On: []config.Event{config.OnFailure}},
	}
	night := time.Date(2026, 11, 1, 3, 0, 0, 0, time.UTC)
	for i, c := range []struct {
		exit  int
		cause string // of the notice; "" = none
		deaf  bool   // nobody can be told
		want  string
	}{
		{0, "", false, ""}, {0, "14 days", false, "ops:14 days"}, {0, "14 days", false, ""}, {1, "14 days", false, "fails:failed ops:failed"},
		{1, "7 days", false, "ops:7 days"}, {0, "7 days", false, "ops:works again"}, {0, "2 days", true, ""}, {0, "2 days", false, "ops:2 days"},
		{0, "", false, ""}, {0, "2 days", false, "ops:2 days"}, {1, "", false, "fails:failed ops:failed"}, {0, "", false, "ops:works again"},
	} {
		now := night.AddDate(0, 0, i)
		s, err := LoadState(dir, "nightly")
		if err != nil {
			t.Fatal(err)
		}
		r := report(c.exit, now)
		m := MessageOf(r, s, "")
		s.Note(r)
		var notices []Notice
		if c.cause != "" {
			notices = []Notice{{Topic: "token box", Cause: c.cause, Title: "credentials end soon", Text: "within " + c.cause}}
		}
		if c.deaf {
			web.refuse(100, 500)
		}
		err = quick.Deliver(context.Background(), alerts, s, m)
		if err != nil {
			t.Fatal(err)
		}
		if err := quick.DeliverNotices(context.Background(), alerts, s, Notices(notices, "host", now)); (err != nil) != c.deaf {
			t.Errorf("night %d: %v", i+1, err)
		}
		web.refuse(0, 0)
		if err := s.Save(dir); err != nil {
			t.Fatal(err)
		}
		var told []string
		for _, got := range web.take() {
			who := strings.TrimPrefix(strings.Fields(got)[1], "/")
			for _, w := range []string{"failed", "works again", "14 days", "7 days", "2 days"} {
				if strings.Contains(got, "backup job "+w) || strings.Contains(got, "within "+w) {
					told = append(told, who+":"+w)
				}
			}
		}
		if got := strings.Join(told, " "); got != c.want {
			t.Errorf("night %d: told %q, want %q", i+1, got, c.want)
		}
	}
}

// What could not be told is told even where it is over by then.
func TestNoticeOverBeforeItCouldBeTold(t *testing.T) {
	web := newReceiver(t)
	alerts := map[string]*config.Alert{"ops": {Name: "ops", Notify: web.webhook("/ops")}}
	s := &State{Job: "nightly", Sent: map[string]Sent{}}
	web.refuse(100, 500)
	notices := Notices([]Notice{{Topic: "token box", Cause: "refused", Text: "the token of box is refused"}}, "", time.Now())
	if err := quick.DeliverNotices(context.Background(), alerts, s, notices); err == nil {
		t.Error("nobody said that it could not be delivered")
	}
	web.refuse(0, 0)
	for range 2 {
		if err := quick.DeliverNotices(context.Background(), alerts, s, nil); err != nil {
			t.Error(err)
		}
	}
	if got := web.take(); len(got) != 1 || !strings.Contains(got[0], "could not be delivered at") {
		t.Errorf("%q", got)
	}
}

// A job of which nothing failed but that something is late is late, once, and recovers.
func TestLate(t *testing.T) {
	s := &State{Job: "watch", Sent: map[string]Sent{}}
	late := func(exit int) *Message {
		r := report(exit, time.Now())
		m := MessageOf(r, s, "")
		s.Note(r)
		return m
	}
	for i, want := range []config.Event{config.OnLate, config.OnLate, config.OnRecovery, config.OnSuccess, config.OnFailure, config.OnLate, config.OnRecovery} {
		if m := late([]int{6, 6, 0, 0, 1, 6, 0}[i]); m.Event != want {
			t.Errorf("run %d: %s, want %s", i+1, m.Event, want)
		}
	}
}

// The metrics have what the last step of each kind said, also after runs that left it out.
func TestFigures(t *testing.T) {
	at := time.Date(2026, 11, 1, 3, 0, 0, 0, time.UTC)
	doc := func(text string) json.RawMessage { return json.RawMessage(text) }
	s := &State{Job: "nightly", Sent: map[string]Sent{}}
	s.Note(&job.Report{Job: "nightly", Instance: "production", Start: at, End: at, Status: job.OK, Steps: []job.Step{
		{Name: "backup", Status: job.OK, Doc: doc(`{"snapshot":"ab","complete":true,"bytes":{"read":10,"uploaded":20}}`)},
		{Name: "check", Status: job.OK, Doc: doc(`{"problems":[],"bytes_read":30}`)},
		{Name: "drill", Status: job.OK, Doc: doc(`{"report":{"bad":0,"bytes":40,"coverage":{"units":5,"overdue":[{"unit":"homes/alice"}]}}}`)},
	}})
	free := int64(12345)
	s.Figures.Free = &free
	s.Figures.Tokens = []TokenFigures{{"box", at.AddDate(0, 0, 60)}, {"other", time.Time{}}}
	later := at.AddDate(0, 0, 1)
	s.Note(&job.Report{Job: "nightly", Instance: "production", Start: later, End: later, Status: job.Failed, Exit: 1, Steps: []job.Step{
		{Name: "backup", Status: job.Failed, Exit: 1, Doc: doc(`{"bytes":{"read":1}}`)},
		{Name: "drill", Status: job.Skipped},
	}})
	dir := t.TempDir()
	if err := s.Save(dir); err != nil {
		t.Fatal(err)
	}
	s, err := LoadState(dir, "nightly")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "wtsnap.prom")
	if err := WriteTextFile(file, s); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	const labels = `{instance="production",job="nightly"`
	for name, want := range map[string]string{
		"wtsnap_backup_complete": "1", "wtsnap_backup_read_bytes": "10", "wtsnap_backup_uploaded_bytes": "20",
		"wtsnap_check_last_timestamp_seconds": "1.7935020e+09", "wtsnap_check_problems": "0", "wtsnap_check_read_bytes": "30",
		"wtsnap_drill_last_timestamp_seconds": "1.7935020e+09", "wtsnap_drill_mismatches": "0", "wtsnap_drill_units": "5",
		"wtsnap_drill_overdue_units": "1", "wtsnap_drill_restored_bytes": "40", "wtsnap_storage_free_bytes": "12345",
	} {
		line := name + labels + "} " + strings.Replace(want, "1.7935020e+09", "1.793502e+09", 1) + "\n"
		if !strings.Contains(string(text), line) {
			t.Errorf("no %q in\n%s", line, text)
		}
	}
	if !strings.Contains(string(text), "wtsnap_token_expiry_timestamp_seconds"+labels+`,remote="box"} `) || strings.Contains(string(text), `remote="other"`) {
		t.Errorf("the tokens:\n%s", text)
	}
	if strings.Contains(string(text), "alice") {
		t.Error("the metrics name a user")
	}
}
