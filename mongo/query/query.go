package query

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// A Query is a filter. It is not changed after it was made, and may be used by several goroutines.
type Query struct {
	raw   bson.Raw
	root  node
	paths []string
}

// An Error says what is wrong with the text of a query or of another document.
type Error struct {
	Text   string // what was written
	Reason string
}

func (e *Error) Error() string {
	text := e.Text
	if text == "" {
		return e.Reason
	}
	if len(text) > 200 {
		text = text[:200] + "..."
	}
	return fmt.Sprintf("%s: %s", text, e.Reason)
}

// Parse makes a query of extended JSON, relaxed or canonical.
func Parse(text string) (*Query, error) {
	doc, err := ParseDocument(text)
	if err != nil {
		return nil, err
	}
	q, err := Compile(doc)
	if err != nil {
		return nil, &Error{text, err.Error()}
	}
	return q, nil
}

// ParseDocument makes a document of extended JSON. The error is an *Error.
func ParseDocument(text string) (bson.Raw, error) {
	if strings.TrimSpace(text) == "" {
		return nil, &Error{Reason: "it is empty: write {\"FIELD\": VALUE}"}
	}
	// The driver's reader stops at the end of the document, and says little of mistakes.
	var any json.RawMessage
	if err := json.Unmarshal([]byte(text), &any); err != nil {
		return nil, &Error{text, jsonReason(text, err)}
	}
	if !bytes.HasPrefix(bytes.TrimSpace(any), []byte("{")) {
		return nil, &Error{text, "it is no document: write {\"FIELD\": VALUE}"}
	}
	// Into pairs, which keep their order.
	var d bson.D
	if err := bson.UnmarshalExtJSON(any, false, &d); err != nil {
		return nil, &Error{text, "it is no extended JSON: " + strings.TrimPrefix(err.Error(), "invalid JSON input: ")}
	}
	raw, err := bson.Marshal(d)
	if err != nil {
		return nil, &Error{text, "it is no extended JSON: " + err.Error()}
	}
	return raw, nil
}

func jsonReason(text string, err error) string {
	if e, ok := errors.AsType[*json.SyntaxError](err); ok && e.Offset > 0 && int(e.Offset) <= len(text) {
		return fmt.Sprintf("it is no JSON at byte %d: %v (names of fields and texts are in double quotes)", e.Offset, e)
	}
	return fmt.Sprintf("it is no JSON: %v", err)
}

// Compile makes a query of BSON.
func Compile(doc bson.Raw) (*Query, error) {
	if err := doc.Validate(); err != nil {
		return nil, fmt.Errorf("the query cannot be understood: %w", err)
	}
	c := &compiler{}
	root, err := c.document(doc, 0)
	if err != nil {
		return nil, err
	}
	slices.Sort(c.paths)
	return &Query{raw: doc, root: root, paths: slices.Compact(c.paths)}, nil
}

// Raw is the query for a server.
func (q *Query) Raw() bson.Raw { return q.raw }

// Paths are the fields that the query asks for, sorted.
func (q *Query) Paths() []string { return q.paths }

// Match reports whether a document is one of those that the query means. The error is that the document is not BSON.
func (q *Query) Match(doc bson.Raw) (bool, error) {
	// Once for all: what reads it afterwards may then trust its length, and those of its elements.
	if err := doc.Validate(); err != nil {
		return false, fmt.Errorf("a document cannot be understood: %w", err)
	}
	return q.root.match(doc), nil
}
