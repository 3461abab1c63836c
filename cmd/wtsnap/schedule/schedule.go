// Package schedule says when jobs are due.
//
// A schedule is the five fields of cron(5), one of cron's words such as @daily, or a time of the day. Times are of the
// machine's zone; where a clock is put forward over a due time, the job is due right behind the gap, and where it is put
// back, a job of that hour is due once.
package schedule

import (
	"fmt"
	"hash/fnv"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
)

// A Schedule says when a job is due. The zero Schedule is never due.
type Schedule struct {
	text   string
	fields string // of cron
	cron   cron.Schedule
}

// Parse reads "30 2 * * *", "@daily" or "02:30".
func Parse(text string) (Schedule, error) {
	spec := strings.TrimSpace(text)
	if at, err := time.Parse("15:04", spec); err == nil {
		spec = fmt.Sprintf("%d %d * * *", at.Minute(), at.Hour())
	}
	if fields, ok := words[strings.ToLower(spec)]; ok {
		spec = fields
	}
	if f := strings.Fields(spec); len(f) == 5 {
		spec = strings.Join(append(f[:4], sunday(f[4])), " ")
	}
	c, err := cron.ParseStandard(spec)
	if err != nil || strings.HasPrefix(spec, "@") || strings.HasPrefix(spec, "TZ=") || strings.HasPrefix(spec, "CRON_TZ=") {
		return Schedule{}, fmt.Errorf("%q is no schedule: write a time of the day (\"02:30\"), five fields of cron (\"30 2 * * 1-5\") or @daily", text)
	}
	return Schedule{text, spec, c}, nil
}

// sunday writes the day 7 of crontab(5) as 0, which is all that the library knows.
func sunday(field string) string {
	parts := strings.Split(field, ",")
	for i, p := range parts {
		if p == "7" {
			parts[i] = "0"
		} else if from, ok := strings.CutSuffix(p, "-7"); ok {
			parts[i] = from + "-6,0"
		}
	}
	return strings.Join(parts, ",")
}

// String returns what Parse read.
func (s Schedule) String() string { return s.text }

// IsZero reports whether the schedule is never due.
func (s Schedule) IsZero() bool { return s.cron == nil }

// Next returns the first time after t at which the job is due, or the zero time.
func (s Schedule) Next(t time.Time) time.Time {
	if s.cron == nil {
		return time.Time{}
	}
	// cron.Next leaves out what falls into the hour that summer time takes away; so it counts in clock readings.
	naive := time.Date(t.Year(), t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), time.UTC)
	for {
		if naive = s.cron.Next(naive); naive.IsZero() {
			return naive
		}
		at := time.Date(naive.Year(), naive.Month(), naive.Day(), naive.Hour(), naive.Minute(), naive.Second(), 0, t.Location())
		if at.After(t) {
			return at
		}
	}
}

// Missed returns the last time at which the job was due in (since, until], or the zero time.
func (s Schedule) Missed(since, until time.Time) time.Time {
	var last time.Time
	if s.cron == nil || since.IsZero() {
		return last
	}
	// A schedule may be due each minute and the machine have been off for a year: halve the gap until few are left.
	const few = 1000
	for from := since; ; {
		n := 0
		at := s.Next(from)
		for ; !at.IsZero() && !at.After(until) && n < few; n++ {
			last = at
			at = s.Next(at)
		}
		if n < few {
			return last
		}
		from = last
		if gap := until.Sub(from) / 2; gap > time.Hour {
			if middle := s.Next(from.Add(gap)); !middle.IsZero() && !middle.After(until) {
				last, from = middle, middle
			}
		}
	}
}

// Interval is the longest time between two times of the next runs after t, with which an age can be compared.
func (s Schedule) Interval(t time.Time) time.Duration {
	var longest time.Duration
	at := s.Next(t)
	for range 32 {
		next := s.Next(at)
		if next.IsZero() {
			break
		}
		longest = max(longest, next.Sub(at))
		at = next
	}
	return longest
}

// Jitter is a part of most that is the same for the same name and time: machines that share a schedule do not all come at
// once, and a restart changes nothing.
func Jitter(name string, at time.Time, most time.Duration) time.Duration {
	if most <= 0 {
		return 0
	}
	h := fnv.New64a()
	fmt.Fprintf(h, "%s %d", name, at.Unix())
	return time.Duration(h.Sum64() % uint64(most))
}
