package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
)

// A stream is a JSON document whose list is written while it is found out, so that a list of any length needs no memory.
type stream struct {
	w     *bufio.Writer
	items int
}

// startStream writes the document's beginning: the schema, the members of head, and the list's name.
func startStream(w io.Writer, head any, list string) (*stream, error) {
	text, err := json.Marshal(head)
	if err != nil {
		return nil, err
	}
	s := &stream{w: bufio.NewWriter(w)}
	fmt.Fprintf(s.w, `{"schema":%d,`, schema)
	if len(text) > 2 {
		s.w.Write(text[1 : len(text)-1])
		s.w.WriteByte(',')
	}
	fmt.Fprintf(s.w, "%q:[", list)
	return s, nil
}

// add writes an element of the list.
func (s *stream) add(item any) error {
	text, err := json.Marshal(item)
	if err != nil {
		return err
	}
	if s.items > 0 {
		s.w.WriteByte(',')
	}
	s.items++
	_, err = s.w.Write(text)
	return err
}

// finish ends the document: the members of tail, then how the command failed.
func (s *stream) finish(tail any, failure *jsonError) error {
	s.w.WriteByte(']')
	parts := []any{}
	if tail != nil {
		parts = append(parts, tail)
	}
	if failure != nil {
		parts = append(parts, map[string]*jsonError{"error": failure})
	}
	for _, part := range parts {
		text, err := json.Marshal(part)
		if err != nil {
			return err
		}
		if len(text) > 2 {
			s.w.WriteByte(',')
			s.w.Write(text[1 : len(text)-1])
		}
	}
	s.w.WriteString("}\n")
	return s.w.Flush()
}
