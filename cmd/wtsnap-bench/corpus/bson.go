package corpus

import (
	"encoding/binary"
	"math"
	"time"
)

// document builds one BSON document (bsonspec.org, version 1.1), as far as a dump like Girder's needs it.
type document struct {
	b    []byte
	open []int // where the lengths of the documents being written lie
}

type objectID [12]byte

func (d *document) start() {
	d.open = append(d.open, len(d.b))
	d.b = append(d.b, 0, 0, 0, 0)
}

func (d *document) end() {
	at := d.open[len(d.open)-1]
	d.open = d.open[:len(d.open)-1]
	d.b = append(d.b, 0)
	binary.LittleEndian.PutUint32(d.b[at:], uint32(len(d.b)-at))
}

func (d *document) key(kind byte, name string) {
	d.b = append(d.b, kind)
	d.b = append(d.b, name...)
	d.b = append(d.b, 0)
}

func (d *document) double(name string, v float64) {
	d.key(0x01, name)
	d.b = binary.LittleEndian.AppendUint64(d.b, math.Float64bits(v))
}

func (d *document) string(name, v string) {
	d.key(0x02, name)
	d.b = binary.LittleEndian.AppendUint32(d.b, uint32(len(v)+1))
	d.b = append(append(d.b, v...), 0)
}

func (d *document) object(name string, fields func()) {
	d.key(0x03, name)
	d.start()
	fields()
	d.end()
}

func (d *document) array(name string, elements func()) {
	d.key(0x04, name)
	d.start()
	elements()
	d.end()
}

func (d *document) id(name string, v objectID) {
	d.key(0x07, name)
	d.b = append(d.b, v[:]...)
}

func (d *document) bool(name string, v bool) {
	d.key(0x08, name)
	if v {
		d.b = append(d.b, 1)
	} else {
		d.b = append(d.b, 0)
	}
}

func (d *document) time(name string, v time.Time) {
	d.key(0x09, name)
	d.b = binary.LittleEndian.AppendUint64(d.b, uint64(v.UnixMilli()))
}

func (d *document) null(name string) { d.key(0x0a, name) }

func (d *document) int32(name string, v int32) {
	d.key(0x10, name)
	d.b = binary.LittleEndian.AppendUint32(d.b, uint32(v))
}

func (d *document) int64(name string, v int64) {
	d.key(0x12, name)
	d.b = binary.LittleEndian.AppendUint64(d.b, uint64(v))
}
