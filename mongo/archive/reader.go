package archive

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc64"
	"io"
	"slices"
	"strings"

	"github.com/klauspost/compress/gzip"
	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/whole-tale/wtsnap/mongo/layout"
)

// ErrTruncated is found (errors.Is) in the error of an archive that ends before it is complete.
var ErrTruncated = errors.New("the archive ends early")

// An EventKind says what Next found.
type EventKind uint8

// The kinds of events. A namespace begins once, has any number of data, and ends once.
const (
	Begin EventKind = iota + 1
	Data
	End // all of its documents came, and their CRC is right
)

// An Event is a step of reading.
type Event struct {
	Kind EventKind
	Namespace
	Data []byte // of Data: bytes of documents, in order, not aligned to them
}

// A Reader reads an archive of any age, plain or compressed by gzip. It is for one goroutine.
//
// Memory: 512 KiB, the prelude, and some hundred bytes a namespace.
type Reader struct {
	r      *bufio.Reader
	header Header
	listed []Collection
	spaces map[Namespace]*space
	err    error

	cur  *space // the block that is being read; nil between blocks
	rest int    // bytes of its current document that are not read yet
	off  int64  // bytes read
}

// A space is a namespace while its documents come.
type space struct {
	Namespace
	crc         uint64
	seen, ended bool
	timeseries  bool
}

// NewReader reads the prelude of the archive in r.
func NewReader(r io.Reader) (*Reader, error) { return newReader(r, 512<<10) }

func newReader(r io.Reader, size int) (*Reader, error) {
	in := bufio.NewReaderSize(r, size)
	head, err := in.Peek(4)
	if len(head) == 0 && err != nil {
		if err == io.EOF {
			err = fmt.Errorf("%w: it is empty", ErrTruncated)
		}
		return nil, err
	}
	if len(head) >= 2 && head[0] == 0x1f && head[1] == 0x8b {
		z, err := gzip.NewReader(in)
		if err != nil {
			return nil, fmt.Errorf("the archive's compression: %w", early(err))
		}
		in = bufio.NewReaderSize(z, size)
	}
	a := &Reader{r: in, spaces: map[Namespace]*space{}}
	if err := a.prelude(); err != nil {
		return nil, fmt.Errorf("the archive's beginning: %w", early(err))
	}
	return a, nil
}

// early makes the end of input the error that it is here.
func early(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return ErrTruncated
	}
	return err
}

// Header returns what the archive says of itself.
func (a *Reader) Header() Header { return a.header }

// Collections returns what the prelude lists, ordered by name: the archive's own order is random. The oplog is one of
// them where there is one.
func (a *Reader) Collections() []Collection { return a.listed }

func (a *Reader) prelude() error {
	first, err := a.word()
	if err != nil {
		return err
	}
	if first != magic {
		return errors.New("it is no archive of mongodump's")
	}
	doc, err := a.document()
	if err != nil {
		return err
	}
	if doc == nil {
		return errors.New("it has no header")
	}
	a.header.Concurrent, _ = doc.Lookup("concurrent_collections").Int32OK()
	version, err := text(doc, "version")
	if err == nil && version != formatVersion {
		err = fmt.Errorf("it has the format version %q, and this program reads %q", version, formatVersion)
	}
	if err == nil {
		a.header.ServerVersion, err = text(doc, "server_version")
	}
	if err == nil {
		a.header.ToolVersion, err = text(doc, "tool_version")
	}
	if err != nil {
		return err
	}
	known := map[Namespace]bool{}
	for {
		doc, err := a.document()
		if err != nil {
			return err
		}
		if doc == nil {
			break
		}
		c := Collection{}
		if c.Namespace, err = namespace(doc); err != nil {
			return err
		}
		metadata, err := text(doc, "metadata")
		if err == nil {
			c.Type, err = text(doc, "type")
		}
		if err != nil {
			return err
		}
		if known[c.Namespace] {
			return fmt.Errorf("%v is in it twice", c.Namespace)
		}
		known[c.Namespace] = true
		c.Metadata = []byte(metadata)
		a.listed = append(a.listed, c)
	}
	slices.SortFunc(a.listed, func(x, y Collection) int { return strings.Compare(x.String(), y.String()) })
	for i := range a.listed {
		c := &a.listed[i]
		n := c.data(a.header.ServerVersion)
		a.spaces[n] = &space{Namespace: n, timeseries: c.Type == layout.TypeTimeseries}
	}
	return nil
}

// word reads four bytes.
func (a *Reader) word() (uint32, error) {
	var b [4]byte
	n, err := io.ReadFull(a.r, b[:])
	a.off += int64(n)
	return binary.LittleEndian.Uint32(b[:]), err
}

// document reads a document that is not data. It returns nil at a terminator.
func (a *Reader) document() (bson.Raw, error) {
	length, err := a.word()
	if err != nil || length == terminator {
		return nil, err
	}
	if err := checkLength(length); err != nil {
		return nil, err
	}
	var buf bytes.Buffer // grows with what is there, not with what length says
	_ = binary.Write(&buf, binary.LittleEndian, length)
	n, err := io.CopyN(&buf, a.r, int64(length)-4)
	a.off += n
	if err != nil {
		return nil, noEOF(err)
	}
	doc := bson.Raw(buf.Bytes())
	if err := doc.Validate(); err != nil {
		return nil, fmt.Errorf("a document cannot be understood: %w", err)
	}
	return doc, nil
}

func checkLength(length uint32) error {
	if length < minDocument || length > maxDocument {
		return fmt.Errorf("a document of %d bytes cannot be", length)
	}
	return nil
}

func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Next returns the next event; the archive's complete end is io.EOF. Data are put into buf, as much as it has room for;
// it must have some. Where the archive is damaged, or ends early, the error says at what byte and in which collection, and
// comes again from later calls.
func (a *Reader) Next(buf []byte) (Event, error) {
	if a.err != nil {
		return Event{}, a.err
	}
	e, err := a.next(buf)
	if err == nil || err == io.EOF {
		a.err = err
		return e, err
	}
	if a.cur != nil {
		err = fmt.Errorf("%v: %w", a.cur.Namespace, err)
	}
	a.err = fmt.Errorf("byte %d of the archive: %w", a.off, early(err))
	if errors.Is(a.err, ErrTruncated) {
		a.err = fmt.Errorf("%w (after %d bytes%s)", ErrTruncated, a.off, a.missing())
	}
	return Event{}, a.err
}

func (a *Reader) next(buf []byte) (Event, error) {
	for {
		if a.cur != nil {
			n, err := a.documents(buf)
			if n > 0 || err != nil {
				return Event{Data, a.cur.Namespace, buf[:n]}, err
			}
			a.cur = nil
			continue
		}
		if _, err := a.r.Peek(1); err != nil {
			if err != io.EOF {
				return Event{}, err
			}
			if a.missing() != "" {
				return Event{}, io.ErrUnexpectedEOF
			}
			return Event{}, io.EOF
		}
		e, err := a.block()
		if e.Kind != 0 || err != nil {
			return e, err
		}
	}
}

// block reads the header of a block, and all of one that ends a namespace.
func (a *Reader) block() (e Event, err error) {
	doc, err := a.document()
	if err != nil {
		return e, noEOF(err)
	}
	if doc == nil {
		return e, errors.New("a block has no header")
	}
	n, err := namespace(doc)
	if err != nil {
		return e, fmt.Errorf("a block's header: %w", err)
	}
	last := false
	if v := doc.Lookup("EOF"); !v.IsZero() {
		var ok bool
		if last, ok = v.BooleanOK(); !ok {
			return e, errors.New("a block's header: its field \"EOF\" is no boolean")
		}
	}
	s, begun := a.spaces[n]
	switch {
	case !begun:
		// No prelude listed it: it is expected to end, like all others. It may be a time series whose documents come under
		// its other name.
		other := Namespace{n.DB, layout.BucketsPrefix + n.Collection}
		if plain, ok := strings.CutPrefix(n.Collection, layout.BucketsPrefix); ok {
			other.Collection = plain
		}
		if o := a.spaces[other]; o != nil && o.timeseries && !o.seen {
			delete(a.spaces, other)
		}
		s = &space{Namespace: n}
		a.spaces[n] = s
	case s.ended:
		return e, fmt.Errorf("%v goes on after its end", n)
	}
	if !last {
		a.cur = s
		if !s.seen {
			s.seen = true
			e = Event{Begin, n, nil}
		}
		return e, nil
	}
	if !s.seen {
		return e, fmt.Errorf("%v ends and never began", n)
	}
	if w, err := a.word(); err != nil {
		return e, noEOF(err)
	} else if w != terminator {
		return e, fmt.Errorf("%v has documents in the block that ends it", n)
	}
	crc := int64(0)
	if v := doc.Lookup("CRC"); !v.IsZero() {
		var ok bool
		if crc, ok = v.AsInt64OK(); !ok {
			return e, errors.New("a block's header: its field \"CRC\" is no number")
		}
	}
	if uint64(crc) != s.crc {
		return e, fmt.Errorf("%v is damaged: its documents have the CRC %016x, and the archive says %016x", n, s.crc, uint64(crc))
	}
	s.ended = true
	return Event{End, n, nil}, nil
}

// documents reads documents of the block into buf. 0 and no error is its end.
func (a *Reader) documents(buf []byte) (n int, err error) {
	defer func() {
		a.cur.crc = crc64.Update(a.cur.crc, ecma, buf[:n])
		a.off += int64(n)
	}()
	for n < len(buf) {
		if a.rest > 0 { // a document that the last buffer had no room for, or that is longer than what is at hand
			m, err := io.ReadFull(a.r, buf[n:n+min(a.rest, len(buf)-n)])
			n, a.rest = n+m, a.rest-m
			if err != nil {
				return n, noEOF(err)
			}
			if a.rest == 0 && buf[n-1] != 0 {
				return n, errNoEnd
			}
			continue
		}
		head, err := a.r.Peek(4)
		if err != nil {
			return n, noEOF(err)
		}
		if binary.LittleEndian.Uint32(head) == terminator {
			if n == 0 {
				_, _ = a.r.Discard(4)
				a.off += 4
			}
			return n, nil
		}
		// As many whole documents as are at hand.
		window, _ := a.r.Peek(min(a.r.Buffered(), len(buf)-n))
		whole := 0
		for whole+4 <= len(window) {
			length := binary.LittleEndian.Uint32(window[whole:])
			if length == terminator {
				break
			}
			if err := checkLength(length); err != nil {
				return n, err
			}
			end := whole + int(length)
			if end > len(window) {
				if whole == 0 {
					a.rest = int(length)
				}
				break
			}
			if window[end-1] != 0 {
				return n, errNoEnd
			}
			whole = end
		}
		if whole == 0 && a.rest == 0 { // there is no room for a length
			if n > 0 {
				return n, nil
			}
			a.rest = int(binary.LittleEndian.Uint32(head))
			if err := checkLength(uint32(a.rest)); err != nil {
				return n, err
			}
		}
		copy(buf[n:], window[:whole])
		_, _ = a.r.Discard(whole)
		n += whole
	}
	return n, nil
}

var errNoEnd = errors.New("a document does not end where it should")

// missing names what has not ended yet.
func (a *Reader) missing() string {
	var names []string
	for n, s := range a.spaces {
		if !s.ended {
			names = append(names, n.String())
		}
	}
	if len(names) == 0 {
		return ""
	}
	slices.Sort(names)
	const few = 3
	if more := len(names) - few; more > 0 {
		return fmt.Sprintf(", without the end of %s and %d more", strings.Join(names[:few], ", "), more)
	}
	return ", without the end of " + strings.Join(names, ", ")
}
