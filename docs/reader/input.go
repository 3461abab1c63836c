package reader

import (
	"encoding/binary"
	"errors"
)

// An input is read from its front. After a failure everything is zero, and err says what was wrong.
type input struct {
	rest []byte
	err  error
}

func (in *input) fail(why string) {
	if in.err == nil {
		in.err = errors.New(why)
	}
	in.rest = nil
}

func (in *input) bytes(n uint64) []byte {
	if n > uint64(len(in.rest)) {
		in.fail("ends too early")
		return nil
	}
	b := in.rest[:n:n]
	in.rest = in.rest[n:]
	return b
}

func (in *input) byte() byte {
	if b := in.bytes(1); b != nil {
		return b[0]
	}
	return 0
}

func (in *input) uvarint() uint64 {
	v, n := binary.Uvarint(in.rest)
	if n <= 0 || n > 1 && in.rest[n-1] == 0 {
		in.fail("a number that is not in its shortest form")
		return 0
	}
	in.rest = in.rest[n:]
	return v
}

// zigzag reads a signed number.
func (in *input) zigzag() int64 {
	v := in.uvarint()
	return int64(v>>1) ^ -int64(v&1)
}

// count reads a number of things of at least one byte each, so that memory for them is there.
func (in *input) count() int {
	n := in.uvarint()
	if n > uint64(len(in.rest)) {
		in.fail("counts more than there is")
		return 0
	}
	return int(n)
}

func (in *input) string() string { return string(in.bytes(in.uvarint())) }

// end fails where something is left over.
func (in *input) end() error {
	if len(in.rest) > 0 {
		in.fail("bytes left over")
	}
	return in.err
}
