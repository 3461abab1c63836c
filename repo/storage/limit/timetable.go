package limit

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Rate is a bandwidth in bytes a second, 0 for no limit.
type Rate struct{ Up, Down int64 }

// Timetable is a bandwidth for every minute of the week. The zero value has no limit.
type Timetable struct{ slots []slot }

// slot is in force from its minute on, until the next one.
type slot struct {
	minute int // of the week, from Sunday 00:00
	rate   Rate
}

const (
	day  = 24 * 60
	week = 7 * day
)

// At returns the rate at a time, in the time's own zone.
func (t Timetable) At(at time.Time) Rate {
	if len(t.slots) == 0 {
		return Rate{}
	}
	now := int(at.Weekday())*day + at.Hour()*60 + at.Minute()
	i, found := slices.BinarySearchFunc(t.slots, now, func(s slot, m int) int { return s.minute - m })
	if !found {
		i-- // the slot before; before the first of the week, the last one
	}
	if i < 0 {
		i = len(t.slots) - 1
	}
	return t.slots[i].rate
}

// Limited reports whether there is any limit at any time.
func (t Timetable) Limited() bool {
	return slices.ContainsFunc(t.slots, func(s slot) bool { return s.rate != Rate{} })
}

// Fastest returns the highest rate of the week, 0 where there is no limit at some time.
func (t Timetable) Fastest() Rate {
	if len(t.slots) == 0 {
		return Rate{}
	}
	r := t.slots[0].rate
	most := func(a, b int64) int64 {
		if a == 0 || b == 0 {
			return 0
		}
		return max(a, b)
	}
	for _, s := range t.slots[1:] {
		r = Rate{Up: most(r.Up, s.rate.Up), Down: most(r.Down, s.rate.Down)}
	}
	return r
}

// ParseTimetable reads what rclone takes for --bwlimit: a rate ("10M", "512k",
// "1M:500k" for up and down, "off"), or a timetable of rates from times of the
// day ("08:00,512k 19:00,10M 23:00,off") or of the week ("Mon-00:00,512k
// Fri-23:59,10M Sat-10:00,off"). A number without a unit is in KiB a second; B,
// K, M, G, T and P are binary.
func ParseTimetable(s string) (Timetable, error) {
	s = strings.TrimSpace(s)
	if s == "" {
		return Timetable{}, fmt.Errorf("empty bandwidth limit")
	}
	if _, err := parseWhen(s); err == nil {
		return Timetable{}, fmt.Errorf("bandwidth limit %q: a time, or two rates? (write 08:00,512k or 8k:10k)", s)
	}
	if !strings.ContainsAny(s, " ,") {
		rate, err := parseRate(s)
		if err != nil {
			return Timetable{}, err
		}
		return Timetable{[]slot{{0, rate}}}, nil
	}
	var t Timetable
	for _, field := range strings.Fields(s) {
		when, what, ok := strings.Cut(field, ",")
		if !ok {
			return Timetable{}, fmt.Errorf("bandwidth limit %q: %q has no time (write 08:00,512k)", s, field)
		}
		minutes, err := parseWhen(when)
		if err != nil {
			return Timetable{}, fmt.Errorf("bandwidth limit %q: %w", s, err)
		}
		rate, err := parseRate(what)
		if err != nil {
			return Timetable{}, err
		}
		for _, m := range minutes {
			t.slots = append(t.slots, slot{m, rate})
		}
	}
	slices.SortStableFunc(t.slots, func(a, b slot) int { return a.minute - b.minute })
	for i := 1; i < len(t.slots); i++ {
		if t.slots[i].minute == t.slots[i-1].minute {
			return Timetable{}, fmt.Errorf("bandwidth limit %q: two rates from the same time", s)
		}
	}
	return t, nil
}

var weekdays = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

// parseWhen returns minutes of the week: one for "Mon-08:00", seven for "08:00".
func parseWhen(s string) ([]int, error) {
	name, clock, hasDay := strings.Cut(s, "-")
	if !hasDay {
		clock = s
	}
	at, err := time.Parse("15:04", clock)
	if err != nil || len(clock) != 5 {
		return nil, fmt.Errorf("%q is no time (write 08:00 or Mon-08:00)", s)
	}
	minute := at.Hour()*60 + at.Minute()
	if !hasDay {
		var all []int
		for d := range 7 {
			all = append(all, d*day+minute)
		}
		return all, nil
	}
	name = strings.ToLower(name)
	for d, short := range weekdays {
		if name == short || name == strings.ToLower(time.Weekday(d).String()) {
			return []int{d*day + minute}, nil
		}
	}
	return nil, fmt.Errorf("%q is no day of the week", name)
}

func parseRate(s string) (Rate, error) {
	up, down, both := strings.Cut(s, ":")
	if !both {
		down = up
	}
	var r Rate
	var err error
	if r.Up, err = parseBytes(up); err == nil {
		r.Down, err = parseBytes(down)
	}
	if err != nil {
		return Rate{}, fmt.Errorf("bandwidth %q: %w", s, err)
	}
	return r, nil
}

func parseBytes(s string) (int64, error) {
	if strings.EqualFold(s, "off") {
		return 0, nil
	}
	number, factor := s, float64(1<<10)
	if n := len(s); n > 0 {
		lower := strings.ToLower(s)
		for _, suffix := range []string{"ib", "i"} {
			if trimmed, ok := strings.CutSuffix(lower, suffix); ok && len(trimmed) > 0 && strings.Contains("kmgtp", trimmed[len(trimmed)-1:]) {
				lower = trimmed
				break
			}
		}
		if i := strings.IndexByte("bkmgtp", lower[len(lower)-1]); i >= 0 {
			number, factor = lower[:len(lower)-1], math.Pow(1024, float64(i))
		}
	}
	v, err := strconv.ParseFloat(number, 64)
	if err != nil || math.IsNaN(v) || v < 0 || v*factor > math.MaxInt64/2 {
		return 0, fmt.Errorf("%q is no rate (write 512k, 10M or off)", s)
	}
	if v > 0 && v*factor < 1 {
		return 0, fmt.Errorf("%q is less than a byte a second", s)
	}
	return int64(v * factor), nil
}
