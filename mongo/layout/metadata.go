package layout

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// The types of collections, as listCollections names them.
const (
	TypeCollection = "collection"
	TypeView       = "view"
	TypeTimeseries = "timeseries"
)

// Metadata is what a metadata file says of a collection.
type Metadata struct {
	JSON    []byte     // the file as it is
	Options bson.Raw   // of listCollections, in the server's order; nil if empty
	Indexes []bson.Raw // documents of listIndexes, _id_ first; none for views
	UUID    string     // 32 hex digits; "" = unknown
	Name    string     // of the collection; "" where the tool was too old to say
	Type    string     // "" where the tool was too old to say, see IsView
}

// metadataJSON is the order that mongodump writes.
type metadataJSON struct {
	Options bson.Raw   `bson:"options,omitempty"`
	Indexes []bson.Raw `bson:"indexes"`
	UUID    string     `bson:"uuid,omitempty"`
	Name    string     `bson:"collectionName,omitempty"`
	Type    string     `bson:"type,omitempty"`
}

// MarshalMetadata returns the bytes that mongodump writes for m, whose JSON is not looked at: canonical Extended JSON.
func MarshalMetadata(m *Metadata) ([]byte, error) {
	w := metadataJSON{Options: m.Options, Indexes: m.Indexes, UUID: m.UUID, Name: m.Name, Type: m.Type}
	if len(w.Options) <= emptyDocument {
		w.Options = nil
	}
	if w.Indexes == nil {
		w.Indexes = []bson.Raw{}
	}
	data, err := bson.MarshalExtJSON(w, true, false)
	if err != nil {
		return nil, fmt.Errorf("writing a collection's metadata: %w", err)
	}
	return data, nil
}

const emptyDocument = 5 // bytes

// ParseMetadata reads a metadata file of any age: canonical, relaxed or version 1 of Extended JSON. An empty file says
// nothing, and is no error: mongodump 2.x wrote such for collections without indexes and options.
func ParseMetadata(data []byte) (Metadata, error) {
	m := Metadata{JSON: data}
	if len(bytes.TrimSpace(data)) == 0 {
		return m, nil
	}
	// The driver's parser never ends with some that is no JSON, such as ["v":1].
	if !json.Valid(data) {
		return m, errors.New("reading a collection's metadata: it is no JSON")
	}
	var w metadataJSON
	if err := bson.UnmarshalExtJSON(data, true, &w); err != nil {
		w = metadataJSON{}
		if err := bson.UnmarshalExtJSON(data, false, &w); err != nil {
			return m, fmt.Errorf("reading a collection's metadata: %w", err)
		}
	}
	m.Indexes, m.UUID, m.Name, m.Type = w.Indexes, w.UUID, w.Name, w.Type
	if len(w.Options) > emptyDocument {
		m.Options = w.Options
	}
	return m, nil
}

// IsView reports whether a collection is a view, which has no documents of its own.
func (m *Metadata) IsView() bool {
	return m.Type == TypeView || m.Type == "" && !m.Options.Lookup("viewOn").IsZero()
}

// IsTimeseries reports whether a collection is a time series.
func (m *Metadata) IsTimeseries() bool {
	return m.Type == TypeTimeseries || m.Type == "" && !m.Options.Lookup("timeseries").IsZero()
}

// WithName returns the metadata file of a collection whose name FileName cuts, with the name in it. Old tools left it out.
func WithName(data []byte, collection string) ([]byte, error) {
	m, err := ParseMetadata(data)
	if err != nil || m.Name != "" {
		return data, err
	}
	name, err := json.Marshal(collection)
	if err != nil {
		return nil, err
	}
	body := bytes.TrimSpace(data)
	if len(body) == 0 {
		body = []byte(`{"indexes":[]}`)
	}
	head := bytes.TrimRight(body[:len(body)-1], " \t\r\n")
	out := append([]byte(nil), head...)
	if len(head) > 1 {
		out = append(out, ',')
	}
	out = append(out, `"collectionName":`...)
	return append(append(out, name...), '}'), nil
}

// Versions is what prelude.json says.
type Versions struct {
	Server string `json:"ServerVersion"`
	Tool   string `json:"ToolVersion"`
}

// MarshalPrelude returns the bytes of prelude.json.
func MarshalPrelude(v Versions) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err) // of two strings
	}
	return data
}

// ParsePrelude reads prelude.json.
func ParsePrelude(data []byte) (v Versions, err error) {
	if err := json.Unmarshal(data, &v); err != nil {
		return v, fmt.Errorf("reading %s: %w", PreludeFile, err)
	}
	return v, nil
}
