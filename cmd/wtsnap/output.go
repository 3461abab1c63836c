package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/dustin/go-humanize"
)

// schema is the version of the JSON documents and of the lines of --progress json. It rises when a field changes its
// meaning or goes, not when one is added.
const schema = 1

// shown returns a name as it may go to a terminal: as it is where every character is printable, else quoted with
// escapes. Names are raw bytes, and one with an escape sequence must not paint the screen.
func shown(name string) string {
	if name == "" || !utf8.ValidString(name) || strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strconv.Quote(name)
	}
	return name
}

// printable escapes what a terminal might obey in a message that may hold names; its lines stay.
func printable(text string) string {
	clean := func(line string) string {
		if utf8.ValidString(line) && !strings.ContainsFunc(line, func(r rune) bool { return !unicode.IsPrint(r) && r != '\t' }) {
			return line
		}
		q := strconv.Quote(line)
		return strings.ReplaceAll(q[1:len(q)-1], `\"`, `"`)
	}
	lines := strings.Split(text, "\n")
	for i := range lines {
		lines[i] = clean(lines[i])
	}
	return strings.Join(lines, "\n")
}

// size is a number of bytes for people.
func size(n int64) string {
	if n < 0 {
		return "-" + humanize.IBytes(uint64(-n))
	}
	return humanize.IBytes(uint64(n))
}

// number is a count for people.
func number[N int | int64](n N) string { return humanize.Comma(int64(n)) }

// plural is a count with its noun: "1 file", "2,000 files".
func plural[N int | int64](n N, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return number(n) + " " + many
}

// when is a time for people: local, with the zone.
func when(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05 MST") }

// took is a duration for people.
func took(d time.Duration) string {
	switch {
	case d < 10*time.Second:
		return fmt.Sprintf("%.1fs", d.Seconds())
	case d < time.Minute:
		return fmt.Sprintf("%.0fs", d.Seconds())
	}
	return strings.TrimSuffix(d.Round(time.Second).String(), "0s")
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// utc is a time in a JSON document.
func utc(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

// A jsonName is a path or a name in a JSON document. JSON holds Unicode only; where the bytes are not UTF-8, Base64
// holds them exactly.
type jsonName struct {
	Path   string `json:"path"`
	Base64 string `json:"path_base64,omitempty"`
}

func nameOf(path string) jsonName {
	n := jsonName{Path: strings.ToValidUTF8(path, "\uFFFD")}
	if n.Path != path {
		n.Base64 = base64.StdEncoding.EncodeToString([]byte(path))
	}
	return n
}

// jsonProblem is an element of "errors".
type jsonProblem struct {
	jsonName
	Error string `json:"error"`
}

// jsonError is what a failed command says of itself.
type jsonError struct {
	Code    int    `json:"code"` // the exit code
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
	// Details are what the kind of error knows, such as the snapshots that an ambiguous id may mean.
	Details any `json:"details,omitempty"`
}

// writeDocument writes the one JSON document of a run: the schema, what the command said, and how it failed.
func writeDocument(w io.Writer, body any, failure *jsonError) error {
	type head struct {
		Schema int `json:"schema"`
	}
	parts := []any{head{schema}}
	if body != nil {
		parts = append(parts, body)
	}
	if failure != nil {
		parts = append(parts, struct {
			Error *jsonError `json:"error"`
		}{failure})
	}
	out := []byte("{")
	for _, p := range parts {
		data, err := json.Marshal(p)
		if err != nil {
			return fmt.Errorf("writing the JSON document: %w", err)
		}
		if len(data) > 2 { // not {}
			if len(out) > 1 {
				out = append(out, ',')
			}
			out = append(out, data[1:len(data)-1]...)
		}
	}
	_, err := w.Write(append(out, "}\n"...))
	return err
}

// A table prints rows in columns.
type table struct {
	rows  [][]string
	right map[int]bool // columns that are aligned to the right
}

func newTable(head ...string) *table { return &table{rows: [][]string{head}, right: map[int]bool{}} }

func (t *table) alignRight(columns ...int) *table {
	for _, c := range columns {
		t.right[c] = true
	}
	return t
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

func (t *table) write(w io.Writer) {
	var widths []int
	for _, row := range t.rows {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	for _, row := range t.rows {
		var line strings.Builder
		for i, cell := range row {
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			if t.right[i] {
				line.WriteString(pad + cell)
			} else {
				line.WriteString(cell + pad)
			}
			if i < len(row)-1 {
				line.WriteString("  ")
			}
		}
		fmt.Fprintln(w, strings.TrimRight(line.String(), " "))
	}
}
