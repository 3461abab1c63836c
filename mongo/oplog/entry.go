package oplog

import (
	"fmt"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// An Op says what an entry does.
type Op string

// The kinds of entries that change what a dump has. Others are of the servers among themselves.
const (
	Insert  Op = "i"
	Update  Op = "u"
	Delete  Op = "d"
	Command Op = "c"
	Noop    Op = "n"
)

// skippedOps are entries that change no document of a dump, besides noops: the oldest servers' databases, keys of
// global indexes, contents of containers, key material.
var skippedOps = map[Op]bool{"db": true, "xi": true, "xd": true, "ci": true, "cu": true, "cd": true, "km": true}

// An Entry is one of the oplog. Its documents are parts of the bytes that it was parsed from.
type Entry struct {
	Timestamp bson.Timestamp
	Op        Op
	DB        string
	Name      string   // of the collection; "$cmd" of commands
	UUID      string   // 16 bytes of the collection's; "" = the server is too old to say
	Object    bson.Raw // o
	Object2   bson.Raw // o2: of updates which document
	Upsert    bool     // b: an update inserts where there is no document
	Previous  bson.Timestamp
	Linked    bool // a part of a transaction, of which Previous is the part before; zero = it is the first
}

// Namespace returns DB and Name as a server writes them.
func (e *Entry) Namespace() string { return e.DB + "." + e.Name }

// Parse reads an entry. It keeps raw.
func Parse(raw bson.Raw) (Entry, error) {
	if err := check(raw); err != nil {
		return Entry{}, fmt.Errorf("an oplog entry: %w", err)
	}
	e, err := parse(raw)
	if err != nil {
		return e, fmt.Errorf("the oplog entry %s: %w", Text(e.Timestamp), err)
	}
	if e.Timestamp.IsZero() {
		return e, fmt.Errorf("an oplog entry without a timestamp")
	}
	return e, nil
}

// TimestampOf returns an entry's timestamp, and looks at nothing else.
func TimestampOf(raw bson.Raw) (bson.Timestamp, bool) {
	e, ok := find(raw, "ts")
	if !ok {
		return bson.Timestamp{}, false
	}
	return e.timestamp()
}

// IsNoop reports whether an entry says no more than that time has passed. It looks at nothing else.
func IsNoop(raw bson.Raw) bool {
	e, _ := find(raw, "op")
	op, _ := e.str()
	return Op(op) == Noop
}

// Text writes a timestamp as seconds and counter, 1700000000.1.
func Text(ts bson.Timestamp) string { return fmt.Sprintf("%d.%d", ts.T, ts.I) }

// parse reads an entry, or one of an applyOps, which has no timestamp, from a document that was checked.
func parse(raw bson.Raw) (e Entry, err error) {
	ns, separately, object := "", false, false
	err = each(raw, func(f element) error {
		ok := true
		switch string(f.name) {
		case "ts":
			e.Timestamp, ok = f.timestamp()
		case "op":
			var op string
			op, ok = f.str()
			e.Op = Op(op)
		case "ns":
			ns, ok = f.str()
		case "ui":
			if e.UUID = uuidOf(f); e.UUID == "" {
				ok = f.typ == bson.TypeNull
			}
		case "o":
			e.Object, ok, object = bson.Raw(f.value), f.typ == bson.TypeEmbeddedDocument, true
		case "o2":
			if f.typ == bson.TypeEmbeddedDocument {
				e.Object2 = bson.Raw(f.value)
			}
		case "b":
			var n int64
			n, ok = f.integer()
			e.Upsert = n != 0
		case "prevOpTime":
			e.Linked = true
			if f.typ == bson.TypeTimestamp {
				e.Previous, _ = f.timestamp()
			} else if ts, found := find(f.value, "ts"); f.typ == bson.TypeEmbeddedDocument && found {
				e.Previous, ok = ts.timestamp()
			} else {
				ok = false
			}
		case "multiOpType":
			n, _ := f.integer()
			separately = n == 1
		}
		if !ok {
			return fmt.Errorf("its field %q has the type %s", f.name, f.typ)
		}
		return nil
	})
	if separately { // the statements of one retryable write: prevOpTime ties them, but each stands for itself
		e.Linked, e.Previous = false, bson.Timestamp{}
	}
	e.DB, e.Name, _ = strings.Cut(ns, ".")
	switch {
	case err != nil:
	case e.Op == "":
		err = fmt.Errorf("it has no op")
	case e.changes() && (!object || e.DB == "" || e.Name == ""):
		err = fmt.Errorf("an entry of the kind %q needs a namespace and an object", e.Op)
	case e.Op == Update && e.Object2 == nil:
		err = fmt.Errorf("an update that does not say of which document")
	}
	return e, err
}

func (e *Entry) changes() bool {
	return e.Op == Insert || e.Op == Update || e.Op == Delete || e.Op == Command
}

// uuidOf returns the bytes of a UUID, or "".
func uuidOf(e element) string {
	if e.typ != bson.TypeBinary || len(e.value) != 5+16 || e.value[4] != 3 && e.value[4] != 4 {
		return ""
	}
	return string(e.value[5:])
}
