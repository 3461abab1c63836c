package schedule

import (
	"testing"
	"time"
)

func TestWindows(t *testing.T) {
	zone, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	at := func(s string) time.Time {
		v, err := time.ParseInLocation("2006-01-02 15:04", s, zone)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	// 2026-11-23 is a Monday.
	for _, c := range []struct {
		windows []string
		now     string
		until   string // "": closed
		next    string
	}{
		{[]string{"22:00-06:00"}, "2026-11-23 21:59", "", "2026-11-23 22:00"},
		{[]string{"22:00-06:00"}, "2026-11-23 22:00", "2026-11-24 06:00", "2026-11-24 22:00"},
		{[]string{"22:00-06:00"}, "2026-11-23 05:59", "2026-11-23 06:00", "2026-11-23 22:00"},
		{[]string{"22:00-06:00"}, "2026-11-23 06:00", "", "2026-11-23 22:00"},
		{[]string{"22:00-24:00", "00:00-06:00"}, "2026-11-23 23:00", "2026-11-24 06:00", "2026-11-24 00:00"},
		{[]string{"12:00-13:00", "22:00-06:00"}, "2026-11-23 12:30", "2026-11-23 13:00", "2026-11-23 22:00"},
		{[]string{"20:00-23:00", "22:00-02:00"}, "2026-11-23 20:30", "2026-11-24 02:00", "2026-11-23 22:00"},
		{[]string{"fri 22:00-06:00"}, "2026-11-28 05:00", "2026-11-28 06:00", "2026-12-04 22:00"},
		{[]string{"fri 22:00-06:00"}, "2026-11-23 23:00", "", "2026-11-27 22:00"},
		{[]string{"sat-mon 00:00-24:00"}, "2026-11-22 23:00", "2026-11-24 00:00", "2026-11-23 00:00"},
		{[]string{"Mon,Wednesday 10:00-11:00"}, "2026-11-25 10:10", "2026-11-25 11:00", "2026-11-30 10:00"},
		// The night that has 02:30 twice, and the one that has none.
		{[]string{"22:00-06:00"}, "2026-10-24 23:00", "2026-10-25 06:00", "2026-10-25 22:00"},
		{[]string{"22:00-06:00"}, "2027-03-27 23:00", "2027-03-28 06:00", "2027-03-28 22:00"},
	} {
		w, err := ParseWindows(c.windows)
		if err != nil {
			t.Fatal(err)
		}
		until, open := w.Until(at(c.now))
		if open != (c.until != "") || open && !until.Equal(at(c.until)) {
			t.Errorf("%v at %s: open until %v (%v), want %q", w, c.now, until, open, c.until)
		}
		if next := w.Next(at(c.now)); !next.Equal(at(c.next)) {
			t.Errorf("%v at %s: opens at %v, want %s", w, c.now, next, c.next)
		}
	}
	w, err := ParseWindows([]string{"00:00-12:00", "12:00-24:00"})
	if err != nil {
		t.Fatal(err)
	}
	if until, open := w.Until(at("2026-11-23 13:00")); !open || until.Before(at("2026-11-30 00:00")) {
		t.Errorf("always open: until %v, %v", until, open)
	}
}

func TestBadWindows(t *testing.T) {
	for _, text := range []string{"", "22", "22:00", "22:00-", "22:00-22:00", "24:00-06:00", "22:00-25:00", "foo 22:00-06:00",
		"mon- 22:00-06:00", "mon-fri", "22:00-06:00 mon", "22:0-6:00x"} {
		if w, err := ParseWindow(text); err == nil {
			t.Errorf("%q is taken: %+v", text, w)
		}
	}
}
