package snapshot

import (
	"cmp"
	"fmt"
	"strings"
	"time"
)

// MongoInfo is what a manifest says of a source that is a MongoDB, or what was captured of one. It is part of the format.
type MongoInfo struct {
	Role        MongoRole        `json:"role"`
	Server      string           `json:"server,omitempty"` // version of the server; "" = unknown
	Tool        string           `json:"tool,omitempty"`   // version of the tool that made an archive or a folder
	Set         string           `json:"set,omitempty"`    // replica set
	Member      string           `json:"member,omitempty"` // host:port that was read, where it was one member
	Consistency MongoConsistency `json:"consistency"`
	Start       Timestamp        `json:"start,omitzero"`  // of the window of time that the documents are of; zero = unknown
	End         Timestamp        `json:"end,omitzero"`    // equal to Start where all documents are of one moment
	Loose       []string         `json:"loose,omitempty"` // namespaces that the consistency does not cover
	Order       MongoOrder       `json:"order,omitempty"`
	Databases   []MongoDatabase  `json:"databases,omitempty"` // ordered by name
	Include     []string         `json:"include,omitempty"`   // patterns of namespaces that were asked for; none = all
	Exclude     []string         `json:"exclude,omitempty"`
	Spans       []MongoSpan      `json:"spans,omitempty"` // of an oplog: without a gap each, oldest first
}

// A MongoDatabase counts what a dump has of one database.
type MongoDatabase struct {
	Name        string `json:"name"`
	Collections int64  `json:"collections"` // views included
	Documents   int64  `json:"documents"`
	Bytes       int64  `json:"bytes"` // of documents
}

// MongoRole says what a source of the kind SourceMongo holds.
type MongoRole string

// The roles of MongoDB sources.
const (
	MongoDump  MongoRole = "dump"  // collections, in mongodump's folder layout
	MongoOplog MongoRole = "oplog" // slices of the oplog
)

// MongoConsistency says what ties the collections of a dump together.
type MongoConsistency string

// The kinds of consistency.
const (
	MongoSnapshot     MongoConsistency = "snapshot"      // all documents are as of one cluster time, Start = End
	MongoWindow       MongoConsistency = "oplog"         // oplog.bson has Start..End: folded into the documents it gives End
	MongoArchiveOplog MongoConsistency = "archive-oplog" // the same, as mongodump --oplog made it
	MongoNone         MongoConsistency = "none"          // each collection is as of another moment
)

// MongoOrder is the order of a dump's documents.
type MongoOrder string

// The orders of documents.
const (
	MongoNatural MongoOrder = "natural" // as the member stores them: stable on one member, different on another
	MongoByID    MongoOrder = "_id"
)

// Documents returns how many documents a dump has.
func (m *MongoInfo) Documents() (n int64) {
	for _, db := range m.Databases {
		n += db.Documents
	}
	return n
}

// Collections returns how many collections a dump has, views included.
func (m *MongoInfo) Collections() (n int64) {
	for _, db := range m.Databases {
		n += db.Collections
	}
	return n
}

// A Timestamp is a point of a replica set's history: seconds since 1970 and a counter within the second.
type Timestamp struct {
	T uint32 `json:"t"`
	I uint32 `json:"i"`
}

// IsZero makes omitzero work. The zero Timestamp stands for an unknown one.
func (t Timestamp) IsZero() bool { return t == Timestamp{} }

// Compare orders timestamps.
func (t Timestamp) Compare(u Timestamp) int {
	return cmp.Or(cmp.Compare(t.T, u.T), cmp.Compare(t.I, u.I))
}

// Time returns the second that t is in.
func (t Timestamp) Time() time.Time { return time.Unix(int64(t.T), 0).UTC() }

// String returns seconds and counter, as 1700000000.1.
func (t Timestamp) String() string { return fmt.Sprintf("%d.%d", t.T, t.I) }

// secretOptions are parts of the names of a connection string's options whose values are nobody's business.
var secretOptions = []string{"password", "authmechanismproperties", "secret", "token"}

// RedactURI returns a connection string without its secrets: for messages and for the manifest. It hides too much rather
// than too little where the string is not well-formed, as with an "@" or a "/" in a password.
func RedactURI(uri string) string {
	scheme, rest, ok := strings.Cut(uri, "://")
	if !ok {
		return uri
	}
	rest, query, hasQuery := strings.Cut(rest, "?")
	if hasQuery && strings.LastIndexByte(query, '@') > strings.LastIndexByte(query, '=') && !strings.Contains(rest, "@") {
		rest, query, hasQuery = rest+"?"+query, "", false // a "?" in a password
	}
	if at := strings.LastIndexByte(rest, '@'); at >= 0 {
		if user, _, ok := strings.Cut(rest[:at], ":"); ok {
			rest = user + ":***" + rest[at:]
		}
	}
	if hasQuery {
		options := strings.FieldsFunc(query, func(r rune) bool { return r == '&' || r == ';' })
		for i, o := range options {
			name, _, _ := strings.Cut(o, "=")
			for _, secret := range secretOptions {
				if strings.Contains(strings.ToLower(name), secret) {
					options[i] = name + "=***"
				}
			}
		}
		rest += "?" + strings.Join(options, "&")
	}
	return scheme + "://" + rest
}
