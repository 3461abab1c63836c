package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/whole-tale/wtsnap/snapshot"
)

const (
	barEvery   = 100 * time.Millisecond
	plainEvery = 30 * time.Second
	jsonEvery  = time.Second
	rateWindow = 10 * time.Second // over which the rate is taken
)

// progress shows how far an operation is, on standard error: as a bar on a terminal, as a line now and then elsewhere,
// or as JSON. It reads the operation's counters; the operation does not wait for it.
type progress struct {
	what   string // "backing up"
	p      *snapshot.Progress
	out    io.Writer
	start  time.Time
	render func(status) // of the plain and the JSON form
	bars   *mpb.Progress
	bar    *mpb.Bar
	stop   chan struct{}
	done   chan struct{}

	mu      sync.Mutex
	history []sample // of the last rateWindow
	now     status
}

type sample struct {
	at    time.Time
	bytes int64
}

// status is what a progress shows.
type status struct {
	Files, TotalFiles int64
	Bytes, TotalBytes int64
	Documents         int64 // of databases
	Transferred       int64
	Problems          int64
	Rate              float64 // bytes a second
	Left              time.Duration
	Elapsed           time.Duration
	Path              string
}

// startProgress begins to show p. The result's end must be called.
func (a *app) startProgress(what string, p *snapshot.Progress) *progress {
	mode := a.g.progress
	if mode == "auto" {
		switch {
		case a.g.quiet:
			mode = "none"
		case isTerminal(a.std.err):
			mode = "bar"
		default:
			mode = "plain"
		}
	}
	s := &progress{what: what, p: p, out: a.std.err, start: time.Now(), stop: make(chan struct{}), done: make(chan struct{})}
	every := barEvery
	switch mode {
	case "none":
		return nil
	case "bar":
		s.startBar()
	case "plain":
		every, s.render = plainEvery, s.plainLine
	case "json":
		every, s.render = jsonEvery, s.jsonLine
	}
	a.mu.Lock()
	a.progress = s
	a.mu.Unlock()
	go s.run(every)
	return s
}

// endProgress ends what is shown; a bar goes from the screen.
func (a *app) endProgress(s *progress) {
	if s == nil {
		return
	}
	a.mu.Lock()
	a.progress = nil
	a.mu.Unlock()
	close(s.stop)
	<-s.done
	if s.bars != nil {
		s.bar.Abort(true)
		s.bars.Wait()
	}
}

// print writes text above the bar.
func (s *progress) print(text string) {
	if s.bars != nil {
		_, _ = io.WriteString(s.bars, text)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	_, _ = io.WriteString(s.out, text)
}

func (s *progress) run(every time.Duration) {
	defer close(s.done)
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-s.stop:
			return
		case <-t.C:
			now := s.update(time.Now())
			if s.render != nil {
				s.render(now)
			} else {
				s.bar.SetTotal(max(now.TotalBytes, now.Bytes), false)
				s.bar.SetCurrent(now.Bytes)
			}
		}
	}
}

// update reads the counters.
func (s *progress) update(at time.Time) status {
	st := status{Files: s.p.Files.Load(), TotalFiles: s.p.TotalFiles.Load(), Bytes: s.p.Bytes.Load(), TotalBytes: s.p.TotalBytes.Load(),
		Documents: s.p.Documents.Load(), Transferred: s.p.Transferred.Load(), Problems: s.p.Problems.Load(), Path: s.p.Path(), Elapsed: at.Sub(s.start)}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.history = append(s.history, sample{at, st.Bytes})
	for len(s.history) > 2 && at.Sub(s.history[1].at) >= rateWindow {
		s.history = s.history[1:]
	}
	first := s.history[0]
	since := at.Sub(first.at)
	moved := st.Bytes - first.bytes
	if len(s.history) == 1 {
		since, moved = st.Elapsed, st.Bytes
	}
	if since > 0 {
		st.Rate = float64(moved) / since.Seconds()
	}
	if st.TotalBytes > st.Bytes && st.Rate > 0 {
		st.Left = time.Duration(float64(st.TotalBytes-st.Bytes) / st.Rate * float64(time.Second))
	}
	s.now = st
	return st
}

func (s *progress) last() status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

// startBar shows two lines: how far, and what is at work.
func (s *progress) startBar() {
	s.bars = mpb.New(mpb.WithOutput(s.out), mpb.WithRefreshRate(barEvery), mpb.WithAutoRefresh(), mpb.WithWidth(28))
	path := mpb.BarFillerFunc(func(w io.Writer, d decor.Statistics) error {
		line := "  " + shown(s.last().Path)
		if s.last().Path == "" {
			line = ""
		}
		_, err := io.WriteString(w, shorten(line, d.AvailableWidth)+"\n")
		return err
	})
	// Of total 0: the bar ends when it is told to, not when the count is reached, which may grow.
	s.bar = s.bars.New(0, mpb.BarStyle().Lbound("[").Filler("=").Tip(">").Padding(" ").Rbound("]"),
		mpb.BarRemoveOnComplete(), mpb.BarBtmExtender(path),
		mpb.PrependDecorators(decor.Any(func(decor.Statistics) string { return s.what + " " })),
		mpb.AppendDecorators(decor.Any(func(decor.Statistics) string { return s.last().text() + s.moved() })))
}

// text is the status in one line: "41%  1.2 GiB of 3 GiB  812 files  95 MiB/s  19s left".
func (st status) text() string {
	var parts []string
	if st.TotalBytes > 0 && st.TotalBytes >= st.Bytes {
		parts = append(parts, fmt.Sprintf("%3d%%", st.Bytes*100/st.TotalBytes), size(st.Bytes)+" of "+size(st.TotalBytes))
	} else {
		parts = append(parts, size(st.Bytes))
	}
	if st.Files > 0 {
		parts = append(parts, plural(st.Files, "file", "files"))
	}
	if st.Documents > 0 {
		parts = append(parts, plural(st.Documents, "document", "documents"))
	}
	if st.Rate >= 1 {
		parts = append(parts, size(int64(st.Rate))+"/s")
	}
	if st.Left > 0 && st.Elapsed > 2*time.Second {
		parts = append(parts, took(max(st.Left.Round(time.Second), time.Second))+" left")
	}
	if st.Problems > 0 {
		parts = append(parts, plural(st.Problems, "problem", "problems"))
	}
	return " " + strings.Join(parts, "  ")
}

func (s *progress) plainLine(st status) {
	s.print("wtsnap: " + s.what + ":" + st.text() + s.moved() + "\n")
}

// moved is what went over the network, of a backup or a copy: what is read waits for it.
func (s *progress) moved() string {
	if n := s.last().Transferred; n > 0 && (s.what == "backing up" || s.what == "copying") {
		return "  " + size(n) + " uploaded"
	}
	return ""
}

// jsonLine writes one object on one line.
func (s *progress) jsonLine(st status) {
	line, err := json.Marshal(struct {
		Schema      int     `json:"schema"`
		Type        string  `json:"type"`
		Operation   string  `json:"operation"`
		Files       int64   `json:"files"`
		TotalFiles  int64   `json:"total_files,omitempty"`
		Bytes       int64   `json:"bytes"`
		TotalBytes  int64   `json:"total_bytes,omitempty"`
		Documents   int64   `json:"documents,omitempty"`
		Transferred int64   `json:"transferred"`
		Problems    int64   `json:"problems"`
		Rate        int64   `json:"rate"` // bytes a second
		Left        float64 `json:"seconds_left,omitempty"`
		Elapsed     float64 `json:"seconds"`
		jsonName
	}{schema, "progress", s.what, st.Files, st.TotalFiles, st.Bytes, st.TotalBytes, st.Documents, st.Transferred, st.Problems, int64(st.Rate),
		st.Left.Round(time.Second).Seconds(), st.Elapsed.Round(time.Millisecond).Seconds(), nameOf(st.Path)})
	if err == nil {
		s.print(string(line) + "\n")
	}
}

// shorten cuts the middle out of a line that is too long for the screen: the end of a path says most.
func shorten(line string, width int) string {
	n := utf8.RuneCountInString(line)
	if width < 8 || n <= width {
		return line
	}
	runes := []rune(line)
	head := (width - 3) / 3
	return string(runes[:head]) + "..." + string(runes[n-(width-3-head):])
}

// monitor gathers what an operation says of single entries.
type monitor struct {
	a       *app
	mu      sync.Mutex
	notices int
}

// maxShown bounds the problems that are listed for people.
const maxShown = 10

// Problem tells of one entry while the operation goes on, if the user wants to know; the report has all of them.
func (m *monitor) Problem(path string, err error) {
	if m.a.g.verbose {
		m.a.say(fmt.Sprintf("wtsnap: %s: %s", shown(path), message(err)))
	}
}

// Notice tells what is no problem.
func (m *monitor) Notice(path string, text string) {
	m.mu.Lock()
	m.notices++
	n := m.notices
	m.mu.Unlock()
	if n > maxShown && !m.a.g.verbose {
		return
	}
	if path != "" {
		text = shown(path) + ": " + text
	}
	m.a.note(text)
}

// printProblems lists the first problems of a report on w, unless the monitor told them already.
func (a *app) printProblems(problems []snapshot.PathError, count int64) {
	if a.g.verbose || count == 0 {
		return
	}
	for i, p := range problems {
		if i == maxShown {
			break
		}
		a.say(fmt.Sprintf("wtsnap: %s: %s", shown(p.Path), p.Error))
	}
	if rest := count - int64(min(len(problems), maxShown)); rest > 0 {
		a.say(fmt.Sprintf("wtsnap: and %s more; -v lists all of them", number(rest)))
	}
}

func jsonProblems(problems []snapshot.PathError) []jsonProblem {
	out := make([]jsonProblem, 0, len(problems))
	for _, p := range problems {
		out = append(out, jsonProblem{nameOf(p.Path), p.Error})
	}
	return out
}
