package snapshot

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
)

// A SourceSpec is one source of a backup, as ParseSource reads it.
type SourceSpec struct {
	Label string
	Kind  SourceKind // SourceFolder stands for a file as well, until it is looked at
	Path  string     // of a folder, a file or an archive; "-" = standard input; of SourceStdin the name that it gets
	// Address is what the user wrote of a SourceMongo: a connection string or mongodump:PATH. It may hold a password and
	// is never shown; Path is the same without one.
	Address string
	Guard   Guard
	// Exclude leaves out of this source what the run's options do not already. It may be nil.
	Exclude *ExcludeOptions
	// Stream, where it is set, yields the source's entries, and Path is only for people. Package mongo sets it.
	Stream StreamSource
}

// A StreamSource yields entries that no file system holds: the collections of a database, the members of an archive.
type StreamSource interface {
	// Save hands every entry to the sink and returns when it has. It may use the sink from several goroutines. An entry
	// that cannot be read is reported to the sink (Sink.Problem) and left out; an error ends the source, whose entries
	// so far are kept in a snapshot that is not complete.
	Save(ctx context.Context, sink *Sink) error
}

// Guard is what must be so for a source to be saved, besides that it did not shrink (GuardError).
type Guard struct {
	MountPoint string // a path that a file system must be mounted at; "" = none
	Sentinel   string // a file, relative to the source, that must be there; "" = none
	Calm       bool   // no night of the source is an anomaly
}

// ParseSource reads [LABEL=]SOURCE, where SOURCE is the path of a folder or a file, tar:FILE, tar:-, stdin:NAME, or of a
// MongoDB mongodb://..., mongodb+srv://... or mongodump:PATH. The last ones need a Stream, which package mongo makes from
// their Address.
//
// What precedes the first "=" is the label if there is no slash in it. A path with "=" in its first name, or one that
// starts like another kind of source, is written ./PATH. The label defaults to the base name.
func ParseSource(s string) (SourceSpec, error) {
	label, rest, labelled := strings.Cut(s, "=")
	whole := s
	s = RedactURI(s) // from here on for people
	if !labelled || strings.Contains(label, "/") {
		label, rest, labelled = "", whole, false
	}
	if labelled {
		if err := checkLabel(label); err != nil {
			return SourceSpec{}, fmt.Errorf("source %q: %w", s, err)
		}
	}
	spec := SourceSpec{Label: label, Kind: SourceFolder, Path: rest}
	scheme, arg, ok := strings.Cut(rest, ":")
	if !ok || strings.Contains(scheme, "/") {
		scheme = ""
	}
	base := ""
	switch scheme {
	case "tar":
		spec.Kind, spec.Path, base = SourceTar, arg, filepath.Base(arg)
		if arg == "-" && !labelled {
			return spec, fmt.Errorf("source %q: an archive from standard input needs a label: LABEL=tar:-", s)
		}
	case "stdin":
		spec.Kind, spec.Path, base = SourceStdin, arg, arg
		if err := checkName(arg); err != nil {
			return spec, fmt.Errorf("source %q: the name that the stream gets: %w", s, err)
		}
	case "mongodb", "mongodb+srv", "mongodump":
		spec.Kind, spec.Address, spec.Path, base = SourceMongo, rest, RedactURI(rest), "mongo"
		if arg == "" || scheme != "mongodump" && !strings.HasPrefix(arg, "//") {
			return spec, fmt.Errorf("source %q: it names nothing", spec.Path)
		}
	default:
		if strings.HasPrefix(arg, "//") {
			return spec, fmt.Errorf("source %q: unknown kind %q (a folder of that name is written ./%s)", s, scheme, RedactURI(rest))
		}
		base = filepath.Base(rest)
		if base == "." || base == ".." {
			abs, err := filepath.Abs(rest)
			if err != nil {
				return spec, fmt.Errorf("source %q: %w", s, err)
			}
			base = filepath.Base(abs)
		}
	}
	if spec.Path == "" {
		return spec, fmt.Errorf("source %q: it names nothing", s)
	}
	if !labelled {
		if checkLabel(base) != nil {
			return spec, fmt.Errorf("source %q: %q cannot be its label (letters, digits, '.', '_' and '-' can); "+
				"give it one: LABEL=%s", s, base, rest)
		}
		spec.Label = base
	}
	return spec, nil
}

// checkLabel refuses what cannot be a label.
func checkLabel(label string) error {
	if label == "" || label == "." || label == ".." || len(label) > 255 {
		return fmt.Errorf("%q cannot be a label", label)
	}
	for _, c := range []byte(label) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '.', c == '_', c == '-':
		default:
			return fmt.Errorf("%q cannot be a label: only letters, digits, '.', '_' and '-' can be in one", label)
		}
	}
	return nil
}

// CheckSources refuses sources that cannot be saved together: equal labels, standard input twice.
func CheckSources(specs []SourceSpec) error {
	labels := map[string]bool{}
	stdin := ""
	for _, s := range specs {
		if err := checkLabel(s.Label); err != nil {
			return err
		}
		if labels[s.Label] {
			return fmt.Errorf("two sources have the label %q; give one another: LABEL=%s", s.Label, s.Path)
		}
		labels[s.Label] = true
		if s.ReadsStdin() {
			if stdin != "" {
				return fmt.Errorf("the sources %q and %q both read standard input", stdin, s.Label)
			}
			stdin = s.Label
		}
	}
	if len(specs) == 0 {
		return errors.New("there is no source to save")
	}
	return nil
}

// ReadsStdin reports whether the source is what comes on standard input.
func (s *SourceSpec) ReadsStdin() bool {
	return s.Kind == SourceMongo && s.Address == "mongodump:-" ||
		s.Stream == nil && (s.Kind == SourceStdin || s.Kind == SourceTar && s.Path == "-")
}
