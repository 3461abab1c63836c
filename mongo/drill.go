package mongo

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// A MalformedError says that a stream of documents came whole, and does not hold documents.
type MalformedError struct {
	Document int64 // which one, from 1
	Err      error
}

func (e *MalformedError) Error() string { return fmt.Sprintf("document %d: %v", e.Document, e.Err) }
func (e *MalformedError) Unwrap() error { return e.Err }

// Malformed tells it from the errors of reading.
func (e *MalformedError) Malformed() bool { return true }

// CountDocuments reads the documents of a collection as a dump has them, end to end, decodes each one to its last field, and
// counts them. The error is a *MalformedError where the bytes are no documents, else that of r.
func CountDocuments(ctx context.Context, r io.Reader) (n int64, err error) {
	in := bufio.NewReaderSize(r, 1<<20)
	var doc []byte
	for {
		if n%1024 == 0 && ctx.Err() != nil {
			return n, context.Cause(ctx)
		}
		var head [4]byte
		if _, err := io.ReadFull(in, head[:]); err == io.EOF {
			return n, nil
		} else if err != nil {
			return n, cutOff(n, err)
		}
		size := binary.LittleEndian.Uint32(head[:])
		if size < 5 || size > maxDocument {
			return n, &MalformedError{n + 1, fmt.Errorf("it cannot have %d bytes", size)}
		}
		if cap(doc) < int(size) {
			doc = make([]byte, size)
		}
		doc = doc[:size]
		copy(doc, head[:])
		if _, err := io.ReadFull(in, doc[4:]); err != nil {
			return n, cutOff(n, err)
		}
		if err := bson.Raw(doc).Validate(); err != nil {
			return n, &MalformedError{n + 1, err}
		}
		n++
	}
}

// cutOff makes of an end in the middle of a document what it is.
func cutOff(n int64, err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return &MalformedError{n + 1, errors.New("it is cut off")}
	}
	return err
}
