package mongo

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// A meter passes a stream of documents on, and looks at it on the way: it counts them, and knows whether they are
// documents at all. What is none is passed on, too.
type meter struct {
	r io.Reader
	// onDoc, where it is set, is called with each document, which is valid during the call.
	onDoc func(doc bson.Raw)

	docs, bytes int64
	err         error  // why these are no documents
	head        []byte // the beginning of one that is not all there; all of it with onDoc
	need        int    // bytes that are still to come of the current one, whose length is known
}

// Read implements io.Reader.
func (m *meter) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	m.bytes += int64(n)
	m.feed(p[:n])
	return n, err
}

func (m *meter) feed(p []byte) {
	for len(p) > 0 && m.err == nil {
		if m.need == 0 {
			n := min(4-len(m.head), len(p))
			m.head = append(m.head, p[:n]...)
			p = p[n:]
			if len(m.head) < 4 {
				return
			}
			length := binary.LittleEndian.Uint32(m.head)
			if length < 5 || length > maxDocument {
				m.err = fmt.Errorf("document %d: %d bytes cannot be its length", m.docs+1, length)
				return
			}
			m.need = int(length) - 4
		}
		n := min(m.need, len(p))
		if m.onDoc != nil {
			m.head = append(m.head, p[:n]...)
		}
		if m.need -= n; m.need == 0 {
			if p[n-1] != 0 {
				m.err = fmt.Errorf("document %d does not end where it should", m.docs+1)
				return
			}
			m.docs++
			if m.onDoc != nil {
				m.onDoc(m.head)
			}
			m.head = m.head[:0]
		}
		p = p[n:]
	}
}

// end returns why what went through are no whole documents.
func (m *meter) end() error {
	if m.err == nil && (m.need > 0 || len(m.head) > 0) {
		return fmt.Errorf("%w, after %d whole ones", errCutDocument, m.docs)
	}
	return m.err
}

// errOplogTime says that an entry of an oplog has no time.
var errOplogTime = errors.New("an entry of the oplog has no time")
