package snapshot

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/whole-tale/wtsnap/snapshot/exclude"
)

// A ListedPath is a path of a list, and where it stands.
type ListedPath struct {
	Path string
	List string
	Line int
}

// A ListError says what is wrong with a list of paths.
type ListError struct {
	List   string
	Line   int // 0: with all of it
	Reason string
	Hint   string
}

func (e *ListError) Error() string {
	where := fmt.Sprintf("the list %q", e.List)
	if e.Line > 0 {
		where += fmt.Sprintf(", line %d", e.Line)
	}
	return where + ": " + e.Reason
}

// maxListedPath is how long a line of a list may be: no system opens a longer path.
const maxListedPath = 64 << 10

// ReadPaths reads a list of paths, one a line, or each ended by a zero byte. They are taken as they are: nothing is a pattern, a
// comment or quoted. Empty lines, and the carriage returns of other systems' editors, do not count. An error is a *ListError, or
// that of reading.
func ReadPaths(r io.Reader, name string, zero bool) ([]ListedPath, error) {
	end := byte('\n')
	if zero {
		end = 0
	}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxListedPath)
	lines.Split(func(data []byte, atEOF bool) (int, []byte, error) {
		if i := bytes.IndexByte(data, end); i >= 0 {
			return i + 1, data[:i], nil
		}
		if atEOF && len(data) > 0 {
			return len(data), data, nil
		}
		return 0, nil, nil
	})
	var out []ListedPath
	n := 0
	for lines.Scan() {
		n++
		line := lines.Text()
		if !zero {
			line = strings.TrimSuffix(line, "\r")
		}
		if !zero && strings.IndexByte(line, 0) >= 0 {
			return nil, &ListError{name, n, "it has a zero byte, which no path has", "--files-from0, if zero bytes end the paths"}
		}
		if line != "" {
			out = append(out, ListedPath{line, name, n})
		}
	}
	switch err := lines.Err(); {
	case err == bufio.ErrTooLong && zero:
		return nil, &ListError{name, n + 1, fmt.Sprintf("it is longer than %d KiB", maxListedPath>>10), "--files-from, if the paths stand one a line"}
	case err == bufio.ErrTooLong:
		return nil, &ListError{name, n + 1, fmt.Sprintf("it is longer than %d KiB", maxListedPath>>10), "--files-from0, if zero bytes end the paths"}
	case err != nil:
		return nil, fmt.Errorf("reading the list %q: %w", name, err)
	case len(out) == 0:
		return nil, &ListError{name, 0, "it names nothing", "look at what makes it; without a list all of the source is saved"}
	}
	return out, nil
}

// SaveOnly makes folders among the sources save only what is listed. Paths are absolute, or relative to the working folder, and
// each is in one of the sources, of each of which something is listed. An error is a *ListError, or that of the file system.
func SaveOnly(specs []SourceSpec, paths []ListedPath) error {
	cwd, err := os.Getwd()
	if err != nil {
		return fmt.Errorf("looking for the working folder: %w", err)
	}
	type root struct {
		spec   *SourceSpec
		places []string // its path, and what that is with symbolic links resolved
		list   *exclude.List
	}
	var roots []root
	for i := range specs {
		if s := &specs[i]; s.Kind == SourceFolder && s.Stream == nil {
			r := root{s, []string{absolute(cwd, s.Path)}, exclude.NewList(paths[0].List)}
			if real, err := filepath.EvalSymlinks(r.places[0]); err == nil && real != r.places[0] {
				r.places = append(r.places, real)
			}
			roots = append(roots, r)
		}
	}
	for _, p := range paths {
		found := false
		for _, r := range roots {
			if rel, ok := below(absolute(cwd, p.Path), r.places); ok {
				r.list.Add(rel)
				found = true
			}
		}
		if !found {
			return &ListError{p.List, p.Line, fmt.Sprintf("%q is in none of the sources", absolute(cwd, p.Path)),
				"paths are absolute, or relative to the working folder; files=/ is a source that has them all"}
		}
	}
	for _, r := range roots {
		if r.list.Empty() {
			return &ListError{paths[0].List, 0, fmt.Sprintf("it names nothing of the source %s (%q)", r.spec.Label, r.spec.Path), "leave the source out"}
		}
		var x ExcludeOptions
		if r.spec.Exclude != nil {
			x = *r.spec.Exclude
		}
		x.Only = r.list
		r.spec.Exclude = &x
	}
	return nil
}

func absolute(cwd, path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(cwd, path)
}

// below returns a path relative to the first of the places that it is in.
func below(path string, places []string) (string, bool) {
	for _, place := range places {
		if path == place {
			return "", true
		}
		if rel, ok := strings.CutPrefix(path, strings.TrimSuffix(place, "/")+"/"); ok {
			return rel, true
		}
	}
	return "", false
}
