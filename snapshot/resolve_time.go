package snapshot

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// A Span is a length of time as people count it: months and years follow the calendar. The zero Span is no time.
type Span struct {
	Months int
	Days   int
	Time   time.Duration // hours and less
}

// IsZero reports whether the span is no time.
func (s Span) IsZero() bool { return s == Span{} }

// Before returns the time that lies a span before t, in t's time zone.
func (s Span) Before(t time.Time) time.Time { return t.AddDate(0, -s.Months, -s.Days).Add(-s.Time) }

// Duration is the span with months of 30 days and days of 24 hours.
func (s Span) Duration() time.Duration {
	return time.Duration(s.Months)*30*24*time.Hour + time.Duration(s.Days)*24*time.Hour + s.Time
}

// String returns what ParseDuration reads.
func (s Span) String() string {
	var b strings.Builder
	put := func(n int, unit string) {
		if n != 0 {
			b.WriteString(strconv.Itoa(n) + unit)
		}
	}
	put(s.Months/12, "y")
	put(s.Months%12, "m")
	put(s.Days, "d")
	put(int(s.Time/time.Hour), "h")
	put(int(s.Time%time.Hour/time.Minute), "min")
	put(int(s.Time%time.Minute/time.Second), "s")
	if b.Len() == 0 {
		return "0s"
	}
	return b.String()
}

// A DurationError says that a length of time cannot be understood: a usage error.
type DurationError struct {
	Text   string
	Reason string
}

func (e *DurationError) Error() string {
	return fmt.Sprintf("%q is no length of time: %s; write 36h, 7d, 1w, 6m (months), 1y, or 90min", e.Text, e.Reason)
}

// spanUnits are the units from the longest to the shortest, the order in which they may follow each other. A lone 0
// needs none.
var spanUnits = []struct {
	name string
	span Span
}{
	{"y", Span{Months: 12}}, {"m", Span{Months: 1}}, {"w", Span{Days: 7}}, {"d", Span{Days: 1}},
	{"h", Span{Time: time.Hour}}, {"min", Span{Time: time.Minute}}, {"s", Span{Time: time.Second}},
}

var spanPart = regexp.MustCompile(`^(\d+)([a-z]+)`)

// maxSpan bounds each number of a span, so that no arithmetic overflows: 1000 years in seconds would.
const maxSpan = 1_000_000

// ParseDuration reads a length of time: numbers with the units y, m (months), w, d, h, min and s, longer ones first,
// such as 36h, 7d, 1w, 6m, 1y or 1y6m. The error is a *DurationError.
func ParseDuration(text string) (Span, error) {
	s := strings.ToLower(strings.TrimSpace(text))
	if s == "0" {
		return Span{}, nil
	}
	if s == "" {
		return Span{}, &DurationError{text, "it is empty"}
	}
	var sum Span
	next := 0
	for s != "" {
		m := spanPart.FindStringSubmatch(s)
		if m == nil {
			return Span{}, &DurationError{text, "it is not made of whole numbers with units"}
		}
		s = s[len(m[0]):]
		n, err := strconv.Atoi(m[1])
		if err != nil || n > maxSpan {
			return Span{}, &DurationError{text, m[1] + " is too large"}
		}
		unit := -1
		for i, u := range spanUnits {
			if u.name == m[2] {
				unit = i
			}
		}
		switch {
		case unit < 0:
			return Span{}, &DurationError{text, "there is no unit " + strconv.Quote(m[2])}
		case unit < next && m[2] == "m":
			return Span{}, &DurationError{text, "m means months, and longer units come first; minutes are min"}
		case unit < next:
			return Span{}, &DurationError{text, "longer units come first, each once"}
		}
		next = unit + 1
		u := spanUnits[unit].span
		sum.Months += n * u.Months
		sum.Days += n * u.Days
		sum.Time += time.Duration(n) * u.Time
	}
	return sum, nil
}

// A TimeError says that a time cannot be understood: a usage error.
type TimeError struct {
	Text   string
	Reason string
}

func (e *TimeError) Error() string {
	return fmt.Sprintf("%q is no time: %s; write \"2026-11-20 03:00\", 2026-11-20 (the end of that day), yesterday, "+
		"\"yesterday 03:00\", 03:00 (today), \"2h ago\" or 2026-11-20T03:00:00Z", e.Text, e.Reason)
}

// Layouts of a point in time. Those without a zone are read in the time zone of now.
var (
	instantLayouts = []string{time.RFC3339Nano, "2006-01-02 15:04:05Z07:00", "2006-01-02 15:04Z07:00", "2006-01-02T15:04Z07:00"}
	localLayouts   = []string{"2006-01-02 15:04:05", "2006-01-02 15:04", "2006-01-02T15:04:05", "2006-01-02T15:04"}
	clockLayouts   = []string{"15:04:05", "15:04"}
)

// ParseTime reads a point in time as a user writes it, relative to now and in its time zone. A day alone (2026-11-20,
// today, yesterday) means its end, so that the newest snapshot at or before it is the last one of that day. A minute
// without seconds means its beginning. The error is a *TimeError.
func ParseTime(text string, now time.Time) (time.Time, error) {
	s := strings.Join(strings.Fields(text), " ")
	if s == "" {
		return time.Time{}, &TimeError{text, "it is empty"}
	}
	upper, lower := strings.ToUpper(s), strings.ToLower(s)
	for _, layout := range instantLayouts {
		if t, err := time.Parse(layout, upper); err == nil {
			return t, nil
		}
	}
	for _, layout := range localLayouts {
		if t, err := time.ParseInLocation(layout, upper, now.Location()); err == nil {
			return t, nil
		}
	}
	if t, ok := parseZoned(upper, now.Location()); ok {
		return t, nil
	}
	if lower == "now" {
		return now, nil
	}
	if length, ok := strings.CutSuffix(lower, " ago"); ok {
		span, err := parseAgo(length)
		if err != nil {
			return time.Time{}, &TimeError{text, err.Error()}
		}
		return span.Before(now), nil
	}
	day, clock, hasClock := strings.Cut(lower, " ")
	if isClock(day) && !hasClock {
		day, clock, hasClock = "today", day, true
	}
	start, ok := startOfDay(day, now)
	if !ok {
		return time.Time{}, &TimeError{text, "it is none of the forms that are understood"}
	}
	if !hasClock {
		return start.AddDate(0, 0, 1).Add(-time.Nanosecond), nil
	}
	for _, layout := range clockLayouts {
		if c, err := time.Parse(layout, clock); err == nil {
			y, m, d := start.Date()
			return time.Date(y, m, d, c.Hour(), c.Minute(), c.Second(), 0, now.Location()), nil
		}
	}
	return time.Time{}, &TimeError{text, fmt.Sprintf("%q is no time of day", clock)}
}

// ParseSince is ParseTime of what is to begin at that time: a day alone means its beginning.
func ParseSince(text string, now time.Time) (time.Time, error) {
	if start, ok := startOfDay(strings.ToLower(strings.TrimSpace(text)), now); ok {
		return start, nil
	}
	return ParseTime(text, now)
}

// parseZoned reads a time with a zone behind it, as times are shown: UTC, a number of hours, or the name of what local time
// is at that time. Other names mean different zones to different people.
func parseZoned(s string, local *time.Location) (time.Time, bool) {
	at := strings.LastIndexByte(s, ' ')
	if at < 0 {
		return time.Time{}, false
	}
	zone := s[at+1:]
	for _, layout := range localLayouts {
		for _, hours := range []string{" -0700", " -07:00"} {
			if t, err := time.Parse(layout+hours, s); err == nil {
				return t, true
			}
		}
		if zone == "UTC" || zone == "GMT" || zone == "Z" {
			if t, err := time.Parse(layout, s[:at]); err == nil {
				return t, true
			}
		}
		t, err := time.ParseInLocation(layout, s[:at], local)
		for _, shift := range []time.Duration{0, time.Hour, -time.Hour} { // an hour that the clocks show twice
			if t := t.Add(shift); err == nil && t.Format(layout+" MST") == s {
				return t, true
			}
		}
	}
	return time.Time{}, false
}

func isClock(s string) bool { return strings.Contains(s, ":") }

// startOfDay reads today, yesterday or a date.
func startOfDay(day string, now time.Time) (time.Time, bool) {
	y, m, d := now.Date()
	switch day {
	case "today":
	case "yesterday":
		d--
	default:
		t, err := time.Parse(time.DateOnly, day)
		if err != nil {
			return time.Time{}, false
		}
		y, m, d = t.Date()
	}
	return time.Date(y, m, d, 0, 0, 0, 0, now.Location()), true
}

// parseAgo reads the length of "2h ago" and also "3 days ago".
func parseAgo(s string) (Span, error) {
	number, word, ok := strings.Cut(s, " ")
	if ok {
		long := map[string]string{"second": "s", "minute": "min", "hour": "h", "day": "d", "week": "w", "month": "m", "year": "y"}
		if unit, known := long[strings.TrimSuffix(word, "s")]; known {
			s = number + unit
		}
	}
	return ParseDuration(s)
}
