package schedule

import (
	"fmt"
	"strings"
	"time"
)

// A Window is a part of each day, or of some days of the week, by the clock of the machine's zone: "22:00-06:00",
// "sat-sun 00:00-24:00". One across midnight belongs to the day on which it begins.
type Window struct {
	text       string
	days       [7]bool // by time.Weekday
	start, end int     // minutes of the day; end <= start: of the next one
}

var shortDays = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

// ParseWindow reads "[DAYS ]HH:MM-HH:MM", where DAYS are days and ranges of them with commas: "mon-fri", "sat,sun".
func ParseWindow(text string) (Window, error) {
	bad := fmt.Errorf("%q is no window: write 22:00-06:00, or \"mon-fri 22:00-06:00\"", text)
	w := Window{text: strings.TrimSpace(text)}
	clock := w.text
	if i := strings.LastIndexByte(w.text, ' '); i >= 0 {
		if !w.parseDays(strings.ReplaceAll(w.text[:i], " ", "")) {
			return Window{}, bad
		}
		clock = w.text[i+1:]
	} else {
		w.days = [7]bool{true, true, true, true, true, true, true}
	}
	from, to, ok := strings.Cut(clock, "-")
	var ok1, ok2 bool
	w.start, ok1 = parseClock(from)
	w.end, ok2 = parseClock(to)
	if !ok || !ok1 || !ok2 || w.start == w.end || w.start == dayMinutes {
		return Window{}, bad
	}
	return w, nil
}

const dayMinutes = 24 * 60

func parseClock(s string) (minute int, ok bool) {
	if s == "24:00" {
		return dayMinutes, true
	}
	t, err := time.Parse("15:04", s)
	return t.Hour()*60 + t.Minute(), err == nil
}

func (w *Window) parseDays(list string) bool {
	day := func(s string) int {
		for d, name := range shortDays {
			if s = strings.ToLower(s); s == name || s == strings.ToLower(time.Weekday(d).String()) {
				return d
			}
		}
		return -1
	}
	for part := range strings.SplitSeq(list, ",") {
		from, to, isRange := strings.Cut(part, "-")
		if !isRange {
			to = from
		}
		first, last := day(from), day(to)
		if first < 0 || last < 0 {
			return false
		}
		for d := first; ; d = (d + 1) % 7 {
			w.days[d] = true
			if d == last {
				break
			}
		}
	}
	return true
}

// String returns what ParseWindow read.
func (w Window) String() string { return w.text }

// of returns when the window opens and closes that belongs to a day of the calendar.
func (w *Window) of(year int, month time.Month, day int, zone *time.Location) (start, end time.Time, ok bool) {
	ok = w.days[time.Date(year, month, day, 12, 0, 0, 0, zone).Weekday()]
	start = time.Date(year, month, day, 0, w.start, 0, 0, zone)
	if w.end <= w.start {
		day++
	}
	return start, time.Date(year, month, day, 0, w.end, 0, 0, zone), ok
}

// Windows are several of them. Those that touch or overlap are as one.
type Windows []Window

// ParseWindows reads several windows.
func ParseWindows(texts []string) (w Windows, err error) {
	for _, text := range texts {
		one, err := ParseWindow(text)
		if err != nil {
			return nil, err
		}
		w = append(w, one)
	}
	return w, nil
}

// String lists them.
func (w Windows) String() string {
	var texts []string
	for _, one := range w {
		texts = append(texts, one.text)
	}
	return strings.Join(texts, ", ")
}

// farDays is how many days ahead a window is looked for: those that never close end there.
const farDays = 9

// each calls fn for every window of the days around t.
func (w Windows) each(t time.Time, fn func(start, end time.Time)) {
	year, month, day := t.Date()
	for d := -1; d <= farDays; d++ {
		for i := range w {
			if start, end, ok := w[i].of(year, month, day+d, t.Location()); ok && end.After(start) {
				fn(start, end)
			}
		}
	}
}

// Until returns when the window that is open at t closes; open is false where none is.
func (w Windows) Until(t time.Time) (until time.Time, open bool) {
	until = t
	for grown := true; grown; {
		grown = false
		w.each(t, func(start, end time.Time) {
			if !start.After(until) && end.After(until) {
				until, grown = end, true
			}
		})
	}
	return until, until.After(t)
}

// Next returns when the next window opens after t: zero where there is none.
func (w Windows) Next(t time.Time) (next time.Time) {
	w.each(t, func(start, _ time.Time) {
		if start.After(t) && (next.IsZero() || start.Before(next)) {
			next = start
		}
	})
	return next
}
