// Package doctor looks for what will keep a backup, or a restore, from working.
//
// Each examination is a function of what it looks at and returns findings: what is so, how bad that is, and what to do. None
// of them changes anything but Probe, which stores an object of its own and removes it again. What cannot be known is said to
// be unknown, and is no fault.
package doctor

import (
	"slices"
)

// A Severity is how bad a finding is.
type Severity string

// The severities, from the best to the worst.
const (
	OK      Severity = "ok"
	Note    Severity = "note"    // worth knowing
	Warning Severity = "warning" // it will do now, and perhaps not later
	Problem Severity = "problem" // something does not work
)

var severities = []Severity{OK, Note, Warning, Problem}

// The areas that findings are about, in the order in which they are shown.
const (
	Configuration = "configuration"
	Password      = "password"
	Remote        = "remote"
	Token         = "token"
	Room          = "room"
	Clock         = "clock"
	Repository    = "repository"
	Sources       = "sources"
	Alerts        = "alerts"
	Timer         = "timer"
	Cache         = "cache"
	Versions      = "versions"
)

var areas = []string{Versions, Configuration, Password, Remote, Token, Room, Clock, Repository, Sources, Alerts, Timer, Cache}

// A Finding is one thing that was found.
type Finding struct {
	Area     string   `json:"area"`
	Severity Severity `json:"severity"`
	Text     string   `json:"text"`
	Hint     string   `json:"hint,omitempty"` // what to do
	Exit     int      `json:"exit,omitempty"` // of a problem: the code that a backup, or a restore, would end with
}

// Findings are what an examination found.
type Findings []Finding

// Add adds a finding that is no problem.
func (f *Findings) Add(area string, severity Severity, text, hint string) {
	*f = append(*f, Finding{Area: area, Severity: severity, Text: text, Hint: hint})
}

// Problem adds one.
func (f *Findings) Problem(area string, exit int, text, hint string) {
	*f = append(*f, Finding{Area: area, Severity: Problem, Text: text, Hint: hint, Exit: exit})
}

// Sort orders the findings by area.
func (f Findings) Sort() {
	slices.SortStableFunc(f, func(a, b Finding) int { return slices.Index(areas, a.Area) - slices.Index(areas, b.Area) })
}

// Worst is the worst severity of all.
func (f Findings) Worst() Severity {
	worst := 0
	for _, e := range f {
		worst = max(worst, slices.Index(severities, e.Severity))
	}
	return severities[worst]
}

// Count returns how many findings have a severity.
func (f Findings) Count(s Severity) (n int) {
	for _, e := range f {
		if e.Severity == s {
			n++
		}
	}
	return n
}

// The exit codes that a problem can have: those of the commands.
const (
	ExitFailed      = 1
	ExitUsage       = 2
	ExitCredentials = 5
	ExitLate        = 6
	ExitPassword    = 12
	ExitDamage      = 13
	ExitGuard       = 14
)

// Exit is the code of the gravest problem, in the order of docs/exit-codes.md; 0 where there is none.
func (f Findings) Exit() int {
	for _, code := range []int{ExitUsage, ExitDamage, ExitCredentials, ExitGuard, ExitPassword, ExitLate} {
		if slices.ContainsFunc(f, func(e Finding) bool { return e.Severity == Problem && e.Exit == code }) {
			return code
		}
	}
	if f.Worst() == Problem {
		return ExitFailed
	}
	return 0
}
