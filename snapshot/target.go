package snapshot

import (
	"fmt"
	"path/filepath"
	"strings"
)

// TargetKind says what a restore writes to.
type TargetKind uint8

const (
	TargetFolder    TargetKind = iota + 1 // a folder of the local file system
	TargetTar                             // a tar archive: a file, or standard output
	TargetZip                             // a zip archive: a file, or standard output
	TargetMongoDB                         // a running MongoDB, named by its URI
	TargetMongodump                       // an archive for mongorestore: a file, or standard output
)

func (k TargetKind) String() string {
	switch k {
	case TargetFolder:
		return "folder"
	case TargetTar:
		return "tar"
	case TargetZip:
		return "zip"
	case TargetMongoDB:
		return "mongodb"
	case TargetMongodump:
		return "mongodump"
	}
	return fmt.Sprintf("target(%d)", uint8(k))
}

// Compression is how a tar or mongodump archive is compressed as a whole; its file's name says it.
type Compression uint8

const (
	CompressNone Compression = iota
	CompressGzip             // .gz, .tgz
	CompressZstd             // .zst, .tzst
)

// TargetSpec is a parsed target of a restore.
type TargetSpec struct {
	Kind        TargetKind
	Path        string // folder, file, or the URI as given; "" when Stdout
	Stdout      bool
	Compression Compression
}

func (t TargetSpec) String() string {
	where := t.Path
	if t.Stdout {
		where = "-"
	}
	switch t.Kind {
	case TargetTar, TargetZip, TargetMongodump:
		return t.Kind.String() + ":" + where
	case TargetMongoDB:
		return RedactURI(where)
	}
	return where
}

// TargetSpecError says that a target cannot be understood; it is a usage error.
type TargetSpecError struct {
	Target string
	Reason string
}

func (e *TargetSpecError) Error() string {
	return fmt.Sprintf("target %q: %s", e.Target, e.Reason)
}

// UnsupportedTargetError says that a target was understood, but that this call was given nothing that can write to it.
type UnsupportedTargetError struct{ Target TargetSpec }

func (e *UnsupportedTargetError) Error() string {
	return fmt.Sprintf("restore to %s: this build cannot write to a %s target", e.Target, e.Target.Kind)
}

// ParseTarget reads a target in the grammar of the command line:
//
//	DIR | mongodb://... | mongodb+srv://... | tar:FILE | tar:- | zip:FILE | zip:- | mongodump:FILE | mongodump:-
//
// A folder whose name looks like one of the others is written ./tar:name. A URL of an unknown scheme is an error and not
// a folder of that name.
func ParseTarget(s string) (TargetSpec, error) {
	if s == "" {
		return TargetSpec{}, &TargetSpecError{s, "it is empty; name a folder, tar:FILE or zip:FILE"}
	}
	if strings.IndexByte(s, 0) >= 0 {
		return TargetSpec{}, &TargetSpecError{s, "it contains a zero byte"}
	}
	if strings.HasPrefix(s, "mongodb://") || strings.HasPrefix(s, "mongodb+srv://") {
		return TargetSpec{Kind: TargetMongoDB, Path: s}, nil
	}
	for prefix, kind := range map[string]TargetKind{"tar:": TargetTar, "zip:": TargetZip, "mongodump:": TargetMongodump} {
		rest, ok := strings.CutPrefix(s, prefix)
		if !ok {
			continue
		}
		switch rest {
		case "":
			return TargetSpec{}, &TargetSpecError{s, "no file after " + prefix + "; - means standard output"}
		case "-":
			return TargetSpec{Kind: kind, Stdout: true}, nil
		}
		t := TargetSpec{Kind: kind, Path: rest}
		switch c := compressionOf(rest); {
		case kind == TargetTar, kind == TargetMongodump && c == CompressGzip: // what mongorestore reads
			t.Compression = c
		}
		return t, nil
	}
	if scheme, _, ok := strings.Cut(s, "://"); ok && !strings.ContainsAny(scheme, "/.") {
		return TargetSpec{}, &TargetSpecError{s, "unknown scheme " + scheme + "://; write ./" + s + " for a folder of that name"}
	}
	return TargetSpec{Kind: TargetFolder, Path: s}, nil
}

func compressionOf(name string) Compression {
	switch strings.ToLower(filepath.Ext(name)) {
	case ".gz", ".tgz":
		return CompressGzip
	case ".zst", ".tzst":
		return CompressZstd
	}
	return CompressNone
}
