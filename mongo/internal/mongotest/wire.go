package mongotest

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// The messages of the wire protocol: https://www.mongodb.com/docs/manual/reference/mongodb-wire-protocol/.
const (
	opReply      = 1
	opQuery      = 2004
	opCompressed = 2012
	opMsg        = 2013

	checksumPresent = 1 << 0
	moreToCome      = 1 << 1

	maxDocument = 16 << 20
	maxMessage  = 48_000_000
	maxBatch    = 100_000
)

// request is a command of a client.
type request struct {
	s         *Server
	m         *member
	auth      *authState
	conn      int64
	name      string
	db        string
	body      bson.Raw
	documents map[string][]bson.Raw // of document sequences
	old       bool                  // came as OP_QUERY
	noReply   bool
}

type header struct{ length, id, to, op int32 }

var le = binary.LittleEndian

// serve answers a connection until it ends.
func (m *member) serve(c net.Conn, id int64) {
	defer m.s.wait.Done()
	defer func() {
		c.Close()
		m.s.mu.Lock()
		delete(m.conns, c)
		m.s.mu.Unlock()
	}()
	auth := &authState{}
	in := bufio.NewReaderSize(c, 64<<10)
	for n := int32(1); ; n++ {
		var b [16]byte
		if _, err := io.ReadFull(in, b[:]); err != nil {
			return
		}
		h := header{int32(le.Uint32(b[:])), int32(le.Uint32(b[4:])), int32(le.Uint32(b[8:])), int32(le.Uint32(b[12:]))}
		if h.length < 16 || h.length > maxMessage {
			return
		}
		// Documents are kept as parts of this buffer, so each message has its own.
		msg := make([]byte, h.length-16)
		if _, err := io.ReadFull(in, msg); err != nil {
			return
		}
		r := &request{s: m.s, m: m, auth: auth, conn: id}
		var err error
		switch h.op {
		case opMsg:
			if m.s.wireVersion() < 6 {
				return
			}
			err = r.parseMsg(msg)
		case opQuery:
			err = r.parseQuery(msg)
		default:
			return
		}
		if err != nil {
			return
		}
		reply, o := r.answer()
		if o != nil && (o.Drop == DropBefore || o.Drop == DropAfter) {
			return
		}
		if r.noReply {
			continue
		}
		out := frame(reply, h.id, n, r.old)
		if o != nil && o.Drop == DropInReply {
			c.Write(out[:min(len(out)-1, max(1, o.Bytes))])
			return
		}
		if _, err := c.Write(out); err != nil {
			return
		}
	}
}

// replyRoom is left free at the front of a reply for its header.
const replyRoom = 36

// frame puts the header into the room that a reply left for it.
func frame(reply []byte, to, id int32, old bool) []byte {
	if old {
		le.PutUint32(reply[0:], uint32(len(reply)))
		le.PutUint32(reply[4:], uint32(id))
		le.PutUint32(reply[8:], uint32(to))
		le.PutUint32(reply[12:], opReply)
		le.PutUint32(reply[16:], 8) // AwaitCapable
		le.PutUint64(reply[20:], 0)
		le.PutUint32(reply[28:], 0)
		le.PutUint32(reply[32:], 1)
		return reply
	}
	out := reply[replyRoom-21:]
	le.PutUint32(out[0:], uint32(len(out)))
	le.PutUint32(out[4:], uint32(id))
	le.PutUint32(out[8:], uint32(to))
	le.PutUint32(out[12:], opMsg)
	le.PutUint32(out[16:], 0)
	out[20] = 0
	return out
}

var errMessage = errors.New("malformed message")

func (r *request) parseMsg(b []byte) error {
	if len(b) < 5 {
		return errMessage
	}
	flags := le.Uint32(b)
	b = b[4:]
	if flags&checksumPresent != 0 {
		b = b[:len(b)-4]
	}
	r.noReply = flags&moreToCome != 0
	for len(b) > 0 {
		kind := b[0]
		b = b[1:]
		switch kind {
		case 0:
			doc, rest, err := cutDocument(b)
			if err != nil {
				return err
			}
			r.body, b = doc, rest
		case 1:
			if len(b) < 5 {
				return errMessage
			}
			size := int(le.Uint32(b))
			if size < 5 || size > len(b) {
				return errMessage
			}
			section := b[4:size]
			b = b[size:]
			end := slices.Index(section, 0)
			if end < 0 {
				return errMessage
			}
			name := string(section[:end])
			section = section[end+1:]
			if r.documents == nil {
				r.documents = map[string][]bson.Raw{}
			}
			for len(section) > 0 {
				doc, rest, err := cutDocument(section)
				if err != nil {
					return err
				}
				r.documents[name] = append(r.documents[name], doc)
				section = rest
			}
		default:
			return errMessage
		}
	}
	return r.parseCommand()
}

func (r *request) parseQuery(b []byte) error {
	r.old = true
	if len(b) < 4 {
		return errMessage
	}
	b = b[4:]
	end := slices.Index(b, 0)
	if end < 0 || len(b) < end+9 {
		return errMessage
	}
	db, coll, _ := strings.Cut(string(b[:end]), ".")
	if coll != "$cmd" {
		return fmt.Errorf("queries of %s", coll)
	}
	doc, _, err := cutDocument(b[end+9:])
	if err != nil {
		return err
	}
	if inner, ok := doc.Lookup("$query").DocumentOK(); ok {
		doc = inner
	}
	r.body, r.db = doc, db
	return r.parseCommand()
}

// parseCommand finds the command's name and database, and checks the body.
func (r *request) parseCommand() error {
	if r.body == nil {
		return errMessage
	}
	if err := r.body.Validate(); err != nil {
		return err
	}
	first, err := r.body.IndexErr(0)
	if err != nil {
		return err
	}
	if r.name, err = first.KeyErr(); err != nil {
		return err
	}
	if db, ok := r.body.Lookup("$db").StringValueOK(); ok {
		r.db = db
	}
	return nil
}

// cutDocument takes the first document off.
func cutDocument(b []byte) (doc bson.Raw, rest []byte, err error) {
	if len(b) < 5 {
		return nil, nil, errMessage
	}
	n := int(le.Uint32(b))
	if n < 5 || n > len(b) || b[n-1] != 0 {
		return nil, nil, errMessage
	}
	return bson.Raw(b[:n:n]), b[n:], nil
}
