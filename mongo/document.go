package mongo

import (
	"encoding/binary"
	"math"
	"strconv"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// idKey makes _ids that a server takes for equal equal: those of numbers of different types.
func idKey(doc bson.Raw) string {
	v, err := doc.LookupErr("_id")
	if err != nil {
		return ""
	}
	switch v.Type {
	case bson.TypeInt32, bson.TypeInt64, bson.TypeDouble:
		f, ok := v.DoubleOK()
		if !ok {
			n, _ := v.AsInt64OK()
			return "n" + strconv.FormatInt(n, 10)
		}
		if f == math.Trunc(f) && math.Abs(f) < 1<<63 {
			return "n" + strconv.FormatInt(int64(f), 10)
		}
	}
	return string(byte(v.Type)) + string(v.Value)
}

// idText shows a document's _id to people.
func idText(doc bson.Raw) string {
	v, err := doc.LookupErr("_id")
	if err != nil {
		return "without an _id"
	}
	return shortText(v)
}

func shortText(v bson.RawValue) string {
	text := v.String()
	if len(text) > 100 {
		text = text[:100] + "..."
	}
	return text
}

// asStored returns a document as a server stores it: with _id in front. The document itself is returned where it is so
// already.
func asStored(doc bson.Raw) bson.Raw {
	first, err := doc.IndexErr(0)
	if err != nil || first.Key() == "_id" {
		return doc
	}
	id, err := doc.LookupErr("_id")
	if err != nil {
		return doc
	}
	list, err := doc.Elements()
	if err != nil {
		return doc
	}
	out := append(make(bson.Raw, 0, len(doc)), doc[:4]...)
	out = append(append(out, byte(id.Type)), "_id\x00"...)
	out = append(out, id.Value...)
	moved := false
	for _, e := range list {
		if e.Key() == "_id" && !moved {
			moved = true
			continue
		}
		out = append(out, e...)
	}
	return append(out, 0)
}

func sameDocument(stored, doc bson.Raw) bool {
	return string(stored) == string(doc) || string(stored) == string(asStored(doc))
}

// hasZeroTimestamp reports whether a server would fill in a field at the top.
func hasZeroTimestamp(doc bson.Raw) bool {
	list, _ := doc.Elements()
	for _, e := range list {
		v := e.Value()
		if v.Type == bson.TypeTimestamp && e.Key() != "_id" && binary.LittleEndian.Uint64(v.Value) == 0 {
			return true
		}
	}
	return false
}

func hasDollar(doc bson.Raw) bool {
	list, _ := doc.Elements()
	for _, e := range list {
		if strings.HasPrefix(e.Key(), "$") {
			return true
		}
	}
	return false
}
