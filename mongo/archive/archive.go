// Package archive reads and writes the archives of `mongodump --archive`: the documents of many collections in one stream,
// in blocks that take turns.
//
//	6d e2 99 81                 magic
//	BSON                        Header
//	BSON ...                    one Collection each
//	ff ff ff ff
//	blocks up to the end:
//	    BSON {db, collection, EOF, CRC}
//	    documents, none where EOF is true
//	    ff ff ff ff
//
// A namespace is complete when a block with EOF came whose CRC (CRC-64, ECMA's polynomial, of all its documents) is right;
// an archive is when all its collections are and it ends between two blocks. So a Reader knows of a mongodump that died in
// a pipe, whose exit code the shell hides. Version 3.2 leaves out what is false, 0 or "".
//
// The format is mongo-tools' common/archive/spec.md. Nothing here does I/O beyond io.Reader and io.Writer.
package archive

import (
	"fmt"
	"hash/crc64"
	"strconv"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/whole-tale/wtsnap/mongo/layout"
)

const (
	magic = 0x8199e26d
	// terminator ends a list of documents, where the length of one would be.
	terminator = 0xffffffff
	// maxDocument is what the longest entry of an oplog has, in bytes: 16 MiB of document and 16 KiB around it.
	maxDocument = 16<<20 + 16<<10
	minDocument = 5
	// formatVersion is what mongodump writes since it has archives.
	formatVersion = "0.1"
)

var ecma = crc64.MakeTable(crc64.ECMA)

// A Namespace is a collection of a database. That of the oplog has no DB.
type Namespace struct{ DB, Collection string }

func (n Namespace) String() string {
	if n.DB == "" {
		return n.Collection
	}
	return n.DB + "." + n.Collection
}

// Oplog is the namespace of the oplog's entries.
var Oplog = Namespace{"", "oplog"}

// Header is what an archive says of itself.
type Header struct {
	Concurrent    int32 // collections that were dumped at a time
	ServerVersion string
	ToolVersion   string
}

// A Collection is what an archive's prelude says of one.
type Collection struct {
	Namespace
	Metadata []byte // the content of its metadata file (package layout); none of the oplog
	Type     string // as of listCollections; "" where the tool was too old to say
}

// data returns the namespace that a collection's documents come under. Those of a time series come under its buckets
// collection, from servers of 8.3 on under its own name.
func (c *Collection) data(server string) Namespace {
	if c.Type == layout.TypeTimeseries && !Viewless(server) {
		return Namespace{c.DB, layout.BucketsPrefix + c.Collection}
	}
	return c.Namespace
}

// Viewless reports whether a server of a version keeps time series without buckets collections that show.
func Viewless(version string) bool {
	first, rest, _ := strings.Cut(version, ".")
	second, _, _ := strings.Cut(rest, ".")
	major, err := strconv.Atoi(first)
	if err != nil {
		return false
	}
	minor, _ := strconv.Atoi(second)
	return major > 8 || major == 8 && minor >= 3
}

// text returns a string field; a missing one is "".
func text(doc bson.Raw, key string) (string, error) {
	v := doc.Lookup(key)
	if v.IsZero() {
		return "", nil
	}
	s, ok := v.StringValueOK()
	if !ok {
		return "", fmt.Errorf("its field %q is no string", key)
	}
	return s, nil
}

// namespace reads the fields db and collection.
func namespace(doc bson.Raw) (n Namespace, err error) {
	if n.DB, err = text(doc, "db"); err != nil {
		return n, err
	}
	if n.Collection, err = text(doc, "collection"); err != nil {
		return n, err
	}
	switch {
	case n.Collection == "":
		return n, fmt.Errorf("it names no collection")
	case n.DB == "." || n.DB == ".." || strings.ContainsAny(n.DB, "/\\\x00"):
		return n, fmt.Errorf("%q cannot be the name of a database", n.DB)
	case n.DB == "" && n != Oplog:
		return n, fmt.Errorf("the collection %q is of no database", n.Collection)
	}
	return n, nil
}
