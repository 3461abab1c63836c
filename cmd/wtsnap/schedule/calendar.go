package schedule

import (
	"fmt"
	"strconv"
	"strings"
)

// words are cron's words and the fields that they stand for.
var words = map[string]string{"@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *", "@monthly": "0 0 1 * *", "@weekly": "0 0 * * 0",
	"@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@hourly": "0 * * * *"}

var dayNames = []string{"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"}

var monthNames = []string{"", "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"}

// Calendar returns the schedule as systemd's calendar events (systemd.time(7)), of which any is due. There are two where
// a day of the month and a day of the week are given: cron means either.
func (s Schedule) Calendar() []string {
	f := strings.Fields(s.fields)
	if len(f) != 5 {
		return nil
	}
	clock := fmt.Sprintf("%s:%s:00", numbers(f[1], nil, 2), numbers(f[0], nil, 2))
	month, day := numbers(f[3], monthNames, 2), numbers(f[2], nil, 2)
	byDay := "*-" + month + "-" + day + " " + clock
	if open(f[4]) {
		return []string{byDay}
	}
	byWeek := weekdays(f[4]) + " *-" + month + "-* " + clock
	if open(f[2]) {
		return []string{byWeek}
	}
	return []string{byDay, byWeek}
}

func open(field string) bool { return field == "*" || field == "?" }

// numbers translates a field of numbers: 1-5/2 is 01..05/2.
func numbers(field string, names []string, digits int) string {
	if open(field) {
		return "*"
	}
	number := func(text string) string {
		for i, name := range names {
			if name != "" && strings.EqualFold(name, text) {
				text = strconv.Itoa(i)
			}
		}
		if n, err := strconv.Atoi(text); err == nil {
			return fmt.Sprintf("%0*d", digits, n)
		}
		return text
	}
	var out []string
	for _, part := range strings.Split(field, ",") {
		span, step, stepped := strings.Cut(part, "/")
		from, to, ranged := strings.Cut(span, "-")
		switch {
		case open(span):
			first := "00"
			if names != nil {
				first = "01"
			}
			part = first
		case ranged:
			part = number(from) + ".." + number(to)
		default:
			part = number(span)
		}
		if stepped {
			part += "/" + step
		} else if open(span) {
			return "*"
		}
		out = append(out, part)
	}
	return strings.Join(out, ",")
}

// weekdays translates the days of a week: systemd knows them by names and without steps.
func weekdays(field string) string {
	var due [7]bool
	day := func(text string) int {
		for i, name := range dayNames {
			if strings.EqualFold(name, text) {
				return i
			}
		}
		n, _ := strconv.Atoi(text)
		return n
	}
	for _, part := range strings.Split(field, ",") {
		span, step, stepped := strings.Cut(part, "/")
		from, to, ranged := strings.Cut(span, "-")
		first, last, by := day(from), day(from), 1
		if ranged {
			last = day(to)
		}
		if open(span) {
			first, last = 0, 6
		} else if stepped && !ranged {
			last = 6
		}
		if stepped {
			by, _ = strconv.Atoi(step)
		}
		for d := first; d <= last && by > 0; d += by {
			due[d%7] = true
		}
	}
	var out []string
	for d := range due {
		if due[d] {
			out = append(out, dayNames[d])
		}
	}
	return strings.Join(out, ",")
}
