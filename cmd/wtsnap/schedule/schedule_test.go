package schedule

import (
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	_ "time/tzdata"
)

func berlin(t *testing.T) *time.Location {
	t.Helper()
	zone, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	return zone
}

func TestParse(t *testing.T) {
	for _, bad := range []string{"", "25:00", "nightly", "1 2 3", "61 * * * *", "@never", "2026-01-01", "* * * * * *"} {
		if s, err := Parse(bad); err == nil {
			t.Errorf("Parse(%q) = %v", bad, s)
		}
	}
	from := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC) // a Monday
	for text, want := range map[string]string{
		"02:30": "2026-11-24 02:30", "23:05": "2026-11-23 23:05", "@daily": "2026-11-24 00:00", "30 2 * * 1-5": "2026-11-24 02:30",
		"0 3 * * 0": "2026-11-29 03:00", "*/15 * * * *": "2026-11-23 12:15", " 12:00 ": "2026-11-24 12:00",
	} {
		s, err := Parse(text)
		if got := s.Next(from).Format("2006-01-02 15:04"); err != nil || got != want {
			t.Errorf("%q: next is %s, %v; want %s", text, got, err, want)
		}
	}
	if !(Schedule{}).IsZero() || !(Schedule{}).Next(from).IsZero() || !(Schedule{}).Missed(from, from.AddDate(1, 0, 0)).IsZero() {
		t.Error("the zero schedule is due")
	}
}

// TestSummerTime: a night has one run, whatever is done to the clock.
func TestSummerTime(t *testing.T) {
	s, err := Parse("02:30")
	if err != nil {
		t.Fatal(err)
	}
	zone := berlin(t)
	for _, start := range []time.Time{time.Date(2027, 3, 26, 12, 0, 0, 0, zone), time.Date(2026, 10, 23, 12, 0, 0, 0, zone)} {
		runs := map[string]int{}
		for at, n := s.Next(start), 0; n < 4; at, n = s.Next(at), n+1 {
			runs[at.Format(time.DateOnly)]++
		}
		if len(runs) != 4 {
			t.Errorf("4 runs from %v on: %v", start, runs)
		}
	}
	// Asked behind both of the two hours' times, the run of that night has been.
	second := time.Date(2026, 10, 25, 1, 45, 0, 0, time.UTC).In(zone)
	if got := s.Next(second); got.Format(time.DateOnly) != "2026-10-26" {
		t.Errorf("after %v: %v", second, got)
	}
}

func TestMissed(t *testing.T) {
	since := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		text, until, want string
	}{
		{"02:30", "2026-01-02 02:29", "0001-01-01 00:00"},
		{"02:30", "2026-01-02 02:30", "2026-01-02 02:30"},
		{"02:30", "2026-01-05 12:00", "2026-01-05 02:30"},
		{"* * * * *", "2028-01-05 12:00", "2028-01-05 12:00"},
		{"@yearly", "2029-06-05 12:00", "2029-01-01 00:00"},
		{"0 0 30 2 *", "2029-06-05 12:00", "0001-01-01 00:00"},
	} {
		s, err := Parse(c.text)
		if err != nil {
			t.Fatal(err)
		}
		until, err := time.Parse("2006-01-02 15:04", c.until)
		if err != nil {
			t.Fatal(err)
		}
		if got := s.Missed(since, until).Format("2006-01-02 15:04"); got != c.want {
			t.Errorf("%q until %s: missed %s, want %s", c.text, c.until, got, c.want)
		}
	}
}

func TestInterval(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Duration{"02:30": 24 * time.Hour, "0 3 * * 1-5": 72 * time.Hour, "@hourly": time.Hour} {
		s, err := Parse(text)
		if got := s.Interval(now); err != nil || got != want {
			t.Errorf("%q: %v, %v; want %v", text, got, err, want)
		}
	}
}

func TestJitter(t *testing.T) {
	at := time.Date(2026, 11, 23, 2, 30, 0, 0, time.UTC)
	seen := map[time.Duration]bool{}
	for _, name := range []string{"a", "b", "c", "d"} {
		d := Jitter(name, at, time.Hour)
		if d != Jitter(name, at, time.Hour) || d < 0 || d >= time.Hour {
			t.Errorf("jitter of %s is %v", name, d)
		}
		seen[d] = true
	}
	if len(seen) != 4 || Jitter("a", at, 0) != 0 {
		t.Errorf("%d different ones of 4", len(seen))
	}
}

// TestCalendar: systemd understands what a schedule is translated to, and means the same.
func TestCalendar(t *testing.T) {
	for text, want := range map[string]string{
		"02:30": "*-*-* 02:30:00", "@hourly": "*-*-* *:00:00", "@weekly": "Sun *-*-* 00:00:00", "30 2 * * 1-5": "Mon,Tue,Wed,Thu,Fri *-*-* 02:30:00",
		"*/15 8-18/2 1,15 jan,6 *": "*-01,06-01,15 08..18/2:00/15:00", "0 4 1 * sun": "*-*-01 04:00:00|Sun *-*-* 04:00:00", "5 4 * */3 6,0": "Sun,Sat *-01/3-* 04:05:00",
		"0 3 * * 5-7": "Sun,Fri,Sat *-*-* 03:00:00", "0 3 * * */2": "Sun,Tue,Thu,Sat *-*-* 03:00:00",
	} {
		s, err := Parse(text)
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		if got := strings.Join(s.Calendar(), "|"); got != want {
			t.Errorf("%q is %q, want %q", text, got, want)
		}
		systemd(t, s)
	}
	if (Schedule{}).Calendar() != nil {
		t.Error("the zero schedule has a calendar")
	}
}

// systemd compares the next times of a schedule with systemd's, where its program is.
func systemd(t *testing.T, s Schedule) {
	t.Helper()
	program, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Logf("%v: the comparison with systemd is left out", err)
		return
	}
	const n = 12
	from := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	var theirs []string
	for _, event := range s.Calendar() {
		cmd := exec.Command(program, "calendar", "--iterations=12", "--base-time=2026-11-23 12:00:00 UTC", event)
		cmd.Env = append(os.Environ(), "TZ=UTC", "LC_ALL=C")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("systemd refuses %q: %s", event, out)
			return
		}
		for _, m := range regexp.MustCompile(`(?m)^ *(?:Next elapse|Iter[^:]*): \w+ (\S+ \S+) UTC`).FindAllStringSubmatch(string(out), -1) {
			theirs = append(theirs, m[1])
		}
	}
	slices.Sort(theirs)
	theirs = slices.Compact(theirs)
	at := from
	for i := range n {
		at = s.Next(at)
		if i >= len(theirs) || theirs[i] != at.Format(time.DateTime) {
			t.Errorf("%q, run %d: %v, systemd says %v", s, i, at, theirs)
			return
		}
	}
}
