package main

import (
	"errors"

	"github.com/whole-tale/wtsnap/mongo"
	"github.com/whole-tale/wtsnap/snapshot"
)

// mongoDoc is what JSON documents say of a source that is a MongoDB.
type mongoDoc struct {
	Role        string             `json:"role"`
	Server      string             `json:"server,omitempty"`
	Tool        string             `json:"tool,omitempty"`
	Set         string             `json:"set,omitempty"`
	Member      string             `json:"member,omitempty"`
	Consistency string             `json:"consistency"`
	Start       *mongoTime         `json:"start,omitempty"`
	End         *mongoTime         `json:"end,omitempty"`
	Loose       []string           `json:"loose,omitempty"`
	Order       string             `json:"order,omitempty"`
	Collections int64              `json:"collections"`
	Documents   int64              `json:"documents"`
	Databases   []mongoDatabaseDoc `json:"databases"`
	Include     []string           `json:"include,omitempty"`
	Exclude     []string           `json:"exclude,omitempty"`
	Spans       []spanDoc          `json:"spans,omitempty"`
	Recoverable *[]spanDoc         `json:"recoverable,omitempty"`
}

type mongoTime struct {
	Time      string `json:"time"`
	Increment uint32 `json:"increment"`
}

type mongoDatabaseDoc struct {
	Name        string `json:"name"`
	Collections int64  `json:"collections"`
	Documents   int64  `json:"documents"`
	Bytes       int64  `json:"bytes"`
}

func newMongoDoc(m *snapshot.MongoInfo) *mongoDoc {
	if m == nil {
		return nil
	}
	at := func(t snapshot.Timestamp) *mongoTime {
		if t.IsZero() {
			return nil
		}
		return &mongoTime{utc(t.Time()), t.I}
	}
	d := &mongoDoc{Role: string(m.Role), Server: m.Server, Tool: m.Tool, Set: m.Set, Member: m.Member, Consistency: string(m.Consistency),
		Start: at(m.Start), End: at(m.End), Loose: m.Loose, Order: string(m.Order), Collections: m.Collections(), Documents: m.Documents(),
		Databases: []mongoDatabaseDoc{}, Include: m.Include, Exclude: m.Exclude}
	for _, db := range m.Databases {
		d.Databases = append(d.Databases, mongoDatabaseDoc(db))
	}
	if len(m.Spans) > 0 {
		d.Spans = spanDocs(m.Spans)
	}
	return d
}

// mongoSummary is the line of a backup's report about a MongoDB.
func mongoSummary(m *snapshot.MongoInfo) string {
	text := plural(m.Documents(), "document", "documents") + " in " + plural(m.Collections(), "collection", "collections")
	switch m.Consistency {
	case snapshot.MongoSnapshot:
		text += ", all as of " + when(m.End.Time())
	case snapshot.MongoWindow, snapshot.MongoArchiveOplog:
		text += ", with the oplog up to " + when(m.End.Time())
	case snapshot.MongoNone:
		text += ", each collection as of another moment"
	}
	return text
}

// mongoHint is what the user can do about an error of a MongoDB, or "".
func mongoHint(err error) string {
	if old, ok := errors.AsType[*mongo.TooOldError](err); ok {
		return "let its own tools read it: " + old.Command + " | wtsnap backup mongo=mongodump:-"
	}
	if e, ok := errors.AsType[*mongo.HintError](err); ok {
		return e.Hint
	}
	return ""
}
