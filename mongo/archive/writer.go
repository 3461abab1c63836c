package archive

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc64"
	"io"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// A Writer writes an archive that mongorestore takes: one namespace after the other. After an error it cannot be used any
// more. It is for one goroutine, and does not buffer.
type Writer struct {
	w     io.Writer
	space Namespace
	crc   uint64
	need  int     // bytes that the current document still has
	head  [4]byte // its length, of which have bytes came
	have  int
}

// NewWriter writes the prelude. Collections that hold users, roles and their version come first among the namespaces
// (Special); mongorestore wants them so.
func NewWriter(w io.Writer, h Header, collections []Collection) (*Writer, error) {
	out := binary.LittleEndian.AppendUint32(nil, magic)
	out, err := appendDocument(out, bson.D{{Key: "concurrent_collections", Value: h.Concurrent}, {Key: "version", Value: formatVersion},
		{Key: "server_version", Value: h.ServerVersion}, {Key: "tool_version", Value: h.ToolVersion}})
	if err != nil {
		return nil, err
	}
	for _, c := range collections {
		out, err = appendDocument(out, bson.D{{Key: "db", Value: c.DB}, {Key: "collection", Value: c.Collection},
			{Key: "metadata", Value: string(c.Metadata)}, {Key: "size", Value: int32(0)}, {Key: "type", Value: c.Type}})
		if err != nil {
			return nil, fmt.Errorf("the metadata of %v: %w", c.Namespace, err)
		}
	}
	a := &Writer{w: w}
	return a, a.write(binary.LittleEndian.AppendUint32(out, terminator))
}

// Special reports whether a namespace has to come before all others: one that holds users, roles or their version.
func Special(n Namespace) bool {
	switch n.Collection {
	case "system.users", "system.roles", "system.version":
		return n.DB == "admin"
	case "$admin.system.users", "$admin.system.roles", "$admin.system.version":
		return true
	}
	return false
}

func appendDocument(dst []byte, d bson.D) ([]byte, error) {
	data, err := bson.Marshal(d)
	if err == nil && len(data) > maxDocument {
		err = fmt.Errorf("%d bytes are more than an archive can hold", len(data))
	}
	return append(dst, data...), err
}

func (a *Writer) write(p []byte) error {
	_, err := a.w.Write(p)
	return err
}

func (a *Writer) header(eof bool, crc uint64) error {
	out, err := appendDocument(nil, bson.D{{Key: "db", Value: a.space.DB}, {Key: "collection", Value: a.space.Collection},
		{Key: "EOF", Value: eof}, {Key: "CRC", Value: int64(crc)}})
	if err != nil {
		return err
	}
	if eof {
		out = binary.LittleEndian.AppendUint32(out, terminator)
	}
	return a.write(out)
}

// Begin begins a namespace. One without documents, a view for example, is begun and ended, too.
func (a *Writer) Begin(n Namespace) error {
	a.space, a.crc, a.need, a.have = n, 0, 0, 0
	return a.header(false, 0)
}

// Write writes bytes of the namespace's documents. Those that cannot be documents are refused: they would spoil all that
// follows.
func (a *Writer) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		if a.need == 0 {
			n := copy(a.head[a.have:], rest)
			rest, a.have = rest[n:], a.have+n
			if a.have < len(a.head) {
				break
			}
			length := binary.LittleEndian.Uint32(a.head[:])
			if err := checkLength(length); err != nil {
				return 0, fmt.Errorf("%v: %w", a.space, err)
			}
			a.need, a.have = int(length)-len(a.head), 0
			continue
		}
		n := min(a.need, len(rest))
		a.need -= n
		if a.need == 0 && rest[n-1] != 0 {
			return 0, fmt.Errorf("%v: %w", a.space, errNoEnd)
		}
		rest = rest[n:]
	}
	a.crc = crc64.Update(a.crc, ecma, p)
	return a.w.Write(p)
}

// End ends the namespace.
func (a *Writer) End() error {
	if a.need > 0 || a.have > 0 {
		return fmt.Errorf("%v: %w", a.space, errors.New("its last document is cut"))
	}
	if err := a.write(binary.LittleEndian.AppendUint32(nil, terminator)); err != nil {
		return err
	}
	return a.header(true, a.crc)
}
