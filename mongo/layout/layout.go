// Package layout knows the folder that `mongodump --out` writes: what its files are called, and what is in those that hold
// no documents. The same layout lies below a MongoDB's label in a snapshot, so this package's names are part of the format
// (docs/format.md). It does no I/O.
//
//	DB/NAME.bson             the documents of a collection, end to end
//	DB/NAME.metadata.json    its options and indexes; a view has only this
//	DB/system.buckets.X.bson the documents of the time series X, whose metadata are X's (servers below 8.3)
//	oplog.bson               the oplog's entries of the time of the dump
//	prelude.json             the versions of the server and of the tool
//
// DB is the database's name as it is. NAME is the collection's name, escaped as in a URL's query; a long one is cut, and
// only the metadata say it in full (FileName).
package layout

import (
	"crypto/sha1"
	"encoding/base64"
	"net/url"
	"strings"
)

// What the names of files end in, and the files at the top.
const (
	DataSuffix     = ".bson"
	MetadataSuffix = ".metadata.json"
	OplogFile      = "oplog.bson"
	PreludeFile    = "prelude.json"
	gzipSuffix     = ".gz"
)

// BucketsPrefix begins the name of the collection that holds the documents of a time series.
const BucketsPrefix = "system.buckets."

// authPrefix begins the collections that hold one database's users and roles. mongodump does not escape it.
const authPrefix = "$admin.system."

const (
	maxName = 238 // bytes of an escaped name; with a suffix and .gz a file name of 255
	cutName = 208 // bytes that stay of a longer one
	hashLen = 27  // of a SHA-1 in base64
	cutMark = "%24"
)

// FileName returns what a collection's files are called, up to the suffix.
func FileName(collection string) string {
	if strings.HasPrefix(collection, authPrefix) {
		return collection
	}
	name := url.QueryEscape(collection)
	if len(name) <= maxName {
		return name
	}
	sum := sha1.Sum([]byte(collection))
	return name[:cutName] + cutMark + base64.RawURLEncoding.EncodeToString(sum[:])
}

// IsCut reports whether a file name is that of a long collection name, which only the metadata say in full.
func IsCut(name string) bool {
	return len(name) == maxName && name[cutName:cutName+len(cutMark)] == cutMark
}

// CollectionName is the inverse of FileName, but for names that are cut: of these it returns what there is. A name that no
// escaping yields is returned as it is: old tools did not escape.
func CollectionName(name string) string {
	if strings.HasPrefix(name, authPrefix) {
		return name
	}
	plain, err := url.QueryUnescape(name)
	if err != nil {
		return name
	}
	return plain
}

// DataPath returns the path of a collection's documents.
func DataPath(db, collection string) string { return db + "/" + FileName(collection) + DataSuffix }

// MetadataPath returns the path of a collection's metadata. That of a time series is asked by its name without
// BucketsPrefix.
func MetadataPath(db, collection string) string {
	return db + "/" + FileName(collection) + MetadataSuffix
}

// A Kind says what a file of the layout is.
type Kind uint8

// The kinds of files.
const (
	KindOther    Kind = iota // not mongodump's
	KindData                 // documents of a collection
	KindMetadata             // of a collection
	KindOplog
	KindPrelude
)

// A File is what a path in the layout says.
type File struct {
	Kind Kind
	DB   string // of data and metadata; of a prelude that lies in a database's folder, that
	Name string // of data and metadata: the collection's name as in the file's name, escaped
	Gzip bool   // the name says that the content is compressed. oplog.bson may be without saying so.
}

// Parse says what the file at a path relative to the dump is.
func Parse(path string) File {
	plain, gzipped := strings.CutSuffix(path, gzipSuffix)
	f := File{Gzip: gzipped}
	db, base, inDB := strings.Cut(plain, "/")
	switch {
	case !inDB && plain == OplogFile:
		f.Kind = KindOplog
	case !inDB && plain == PreludeFile:
		f.Kind = KindPrelude
	case !inDB || db == "" || strings.Contains(base, "/"):
	case base == PreludeFile:
		f.Kind, f.DB = KindPrelude, db
	default:
		name, ok := strings.CutSuffix(base, MetadataSuffix)
		if f.Kind = KindMetadata; !ok {
			name, ok = strings.CutSuffix(base, DataSuffix)
			f.Kind = KindData
		}
		if !ok || name == "" {
			return File{Gzip: gzipped}
		}
		f.DB, f.Name = db, name
	}
	return f
}

// Plain returns a path without the suffix that says that it is compressed.
func Plain(path string) string {
	if f := Parse(path); f.Kind != KindOther && f.Gzip {
		return strings.TrimSuffix(path, gzipSuffix)
	}
	return path
}
