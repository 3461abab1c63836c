package chunk

import (
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// Encoding is the form in which a blob's plaintext is stored. Its values are
// part of the repository format.
type Encoding uint8

const (
	Raw       Encoding = 0 // the plaintext itself
	Zstd      Encoding = 1 // one zstd frame
	ZstdDelta Encoding = 2 // one zstd frame with a raw dictionary: the plaintext of the bases, end to end
	Patched   Encoding = 3 // a patch: pieces of bases and new bytes, for several blobs
)

// String returns the encoding's name.
func (e Encoding) String() string {
	switch e {
	case Raw:
		return "raw"
	case Zstd:
		return "zstd"
	case ZstdDelta:
		return "zstd-delta"
	case Patched:
		return "patch"
	}
	return fmt.Sprintf("encoding %d", uint8(e))
}

// Level says how much effort compression takes. It is the writer's choice and
// is not stored.
type Level uint8

const (
	LevelDefault Level = iota
	LevelFastest
	LevelBetter
	LevelBest
	LevelNone // everything is stored raw
)

// String returns the name that ParseLevel takes.
func (l Level) String() string {
	switch l {
	case LevelDefault:
		return "default"
	case LevelFastest:
		return "fastest"
	case LevelBetter:
		return "better"
	case LevelBest:
		return "best"
	case LevelNone:
		return "none"
	}
	return fmt.Sprintf("level %d", uint8(l))
}

// ParseLevel returns the level of that name.
func ParseLevel(name string) (Level, error) {
	for l := LevelDefault; l <= LevelNone; l++ {
		if l.String() == name {
			return l, nil
		}
	}
	return 0, fmt.Errorf("unknown compression level %q: want none, fastest, default, better or best", name)
}

func (l Level) zstd() zstd.EncoderLevel {
	switch l {
	case LevelFastest:
		return zstd.SpeedFastest
	case LevelBetter:
		return zstd.SpeedBetterCompression
	case LevelBest:
		return zstd.SpeedBestCompression
	}
	return zstd.SpeedDefault
}

// delta is the level for deltas of which source and base fit into a window. The
// small hash tables of zstd's lower levels forget most of a large base ("better"
// made deltas of a document dump a third of the size that "default" did), but
// clearing large ones costs more than all else where the base is small.
func (l Level) delta(window int) zstd.EncoderLevel {
	switch {
	case l == LevelBest:
		return zstd.SpeedBestCompression
	case window <= smallDelta, l == LevelFastest && window <= fastDelta:
		return zstd.SpeedDefault
	}
	return zstd.SpeedBetterCompression
}

const (
	// minGain is the part of its size, one in so many, that a blob must shrink
	// by to be worth decompressing.
	minGain = 32

	// A zstd frame costs 9 bytes or more; what is this short is not tried.
	minCompress = 32

	// Windows of encoders. One chunk and a run of small blobs fit into
	// plainWindow. A delta's window covers its base and itself; there is a pool
	// for each power of two, as an encoder's window is fixed and its memory.
	plainWindow     = 2 << 20
	smallDelta      = 256 << 10
	fastDelta       = 2 << 20
	minDeltaWinBits = 18
	maxDeltaWinBits = 24
	deltaWindows    = maxDeltaWinBits - minDeltaWinBits + 1

	// sampleParts pieces of samplePart bytes tell noise from the rest.
	sampleParts = 8
	samplePart  = 1 << 10

	// DecodeSlack is room behind the output, in bytes, that Decode makes where it
	// is not there: it lets the decoder copy in strides.
	DecodeSlack = 64
)

// MaxDelta bounds what EncodeDelta takes: source and base together, in bytes.
const MaxDelta = 1 << maxDeltaWinBits

// ErrCorrupt is in the chain of every error of Codec.Decode: the stored bytes
// are not what an encoder made of a blob of that size and those bases.
var ErrCorrupt = errors.New("stored blob is corrupt")

// Codec compresses and decompresses blobs. It may be used from several
// goroutines at once. Each call runs on the caller's goroutine alone, with an
// encoder or decoder from a pool: about 4 MiB for an encoder at LevelDefault,
// 40 MiB at LevelBest; a delta's encoder adds its window and its index of the
// base (8 MiB); a decoder is below 1 MiB.
type Codec struct {
	level  Level
	encs   sync.Pool               // of *zstd.Encoder
	fast   sync.Pool               // the same at LevelFastest, for EncodeLike
	noise  sync.Pool               // the same, for what can only gain by matches
	deltas [deltaWindows]sync.Pool // of *deltaEncoder
	decs   sync.Pool               // of *zstd.Decoder
}

// NewCodec returns a Codec that compresses at the given level. Every Codec
// decodes what any other encoded.
func NewCodec(level Level) *Codec {
	c := &Codec{level: level}
	c.encs.New = func() any { return newEncoder(level.zstd(), plainWindow, true) }
	c.fast.New = func() any { return newEncoder(zstd.SpeedFastest, plainWindow, true) }
	c.noise.New = func() any { return newEncoder(level.zstd(), plainWindow, false) }
	for i := range c.deltas {
		window := 1 << (minDeltaWinBits + i)
		c.deltas[i].New = func() any {
			return &deltaEncoder{zstd: newEncoder(level.delta(window), window, true)}
		}
	}
	c.decs.New = func() any {
		d, err := zstd.NewReader(nil,
			zstd.WithDecoderConcurrency(1),
			zstd.WithDecoderLowmem(true),
			zstd.WithDecodeAllCapLimit(true))
		if err != nil {
			panic("chunk: " + err.Error()) // only for options out of range
		}
		return d
	}
	return c
}

// newEncoder returns an encoder of frames without checksum, as what reads them
// verifies the blob's id, and with their content size. Literals says whether
// they are entropy coded even where no match was found: float arrays have none.
func newEncoder(level zstd.EncoderLevel, window int, literals bool) *zstd.Encoder {
	e, err := zstd.NewWriter(nil,
		zstd.WithEncoderConcurrency(1),
		zstd.WithEncoderLevel(level),
		zstd.WithWindowSize(window),
		zstd.WithLowerEncoderMem(true),
		zstd.WithSingleSegment(true),
		zstd.WithEncoderCRC(false),
		zstd.WithAllLitEntropyCompression(literals))
	if err != nil {
		panic("chunk: " + err.Error()) // only for options out of range
	}
	return e
}

// Encode appends src to dst, compressed if that saves at least 1 byte in 32,
// and raw otherwise. The slices must not overlap.
func (c *Codec) Encode(dst, src []byte) (out []byte, enc Encoding) {
	return c.EncodeLike(dst, src, nil)
}

// EncodeLike is Encode for a blob of a stream, of which e, if it is not nil,
// knows what its other blobs were like. At LevelDefault it compresses at
// LevelFastest where that costs no bytes.
func (c *Codec) EncodeLike(dst, src []byte, e *Effort) (out []byte, enc Encoding) {
	if c.level == LevelNone || len(src) < minCompress {
		return append(dst, src...), Raw
	}
	start := len(dst)
	switch random := LooksRandom(src); {
	case random:
		out = encode(&c.noise, dst, src)
	case e == nil || c.level != LevelDefault:
		out = encode(&c.encs, dst, src)
	default:
		out = c.encodeLike(dst, src, e)
	}
	if !pays(len(out)-start, len(src)) {
		return append(out[:start], src...), Raw
	}
	return out, Zstd
}

// encodeLike compresses at the level that e says, or at both.
func (c *Codec) encodeLike(dst, src []byte, e *Effort) []byte {
	both, fastest := e.next()
	if !both {
		if fastest {
			return encode(&c.fast, dst, src)
		}
		return encode(&c.encs, dst, src)
	}
	start := len(dst)
	dst = encode(&c.encs, dst, src)
	regular := len(dst) - start
	dst = encode(&c.fast, dst, src)
	fast := len(dst) - start - regular
	e.learn(fast, regular)
	if fast < regular {
		regular = copy(dst[start:], dst[start+regular:])
	}
	return dst[:start+regular]
}

// encode appends what an encoder of a pool makes of src to dst.
func encode(pool *sync.Pool, dst, src []byte) []byte {
	dst = slices.Grow(dst, len(src)+len(src)/256+minCompress)
	e := pool.Get().(*zstd.Encoder)
	defer pool.Put(e)
	return e.EncodeAll(src, dst)
}

// pays reports whether n bytes are enough of a saving over size.
func pays(n, size int) bool { return n <= size-size/minGain }

// LooksRandom reports whether the bytes of a sample of p are so evenly spread
// that entropy coding cannot shrink p by the part that pays: their chi-square is
// within five standard deviations of what uniform bytes have (255, variance
// 510). The entropy then lacks at most chi2/(2 n ln 2), 0.03 bits a byte.
func LooksRandom(p []byte) bool {
	const n = sampleParts * samplePart
	if len(p) < 2*n {
		return false
	}
	var count [256]uint32
	stride := len(p) / sampleParts
	for i := range sampleParts {
		for _, b := range p[i*stride : i*stride+samplePart] {
			count[b]++
		}
	}
	var squares uint64
	for _, c := range count {
		squares += uint64(c) * uint64(c)
	}
	chi2 := float64(squares)*256/n - n
	return chi2 < 255+5*22.6
}

// EncodeDelta appends to dst a delta that Decode turns into src, given base
// again. It reports false, and returns dst as it was, when the delta is no
// smaller than Encode would demand, when there is no base, when src and base
// together exceed MaxDelta, and at LevelNone.
//
// Base is searched best up to 2 MiB; of what lies farther from its end, the
// encoder's index has forgotten more and more (at LevelBest, from 8 MiB on).
//
// Whether a delta that is not tiny beats src compressed by itself, only Encode
// can tell.
func (c *Codec) EncodeDelta(dst, src, base []byte) (out []byte, ok bool) {
	total := len(src) + len(base)
	if c.level == LevelNone || len(src) < minCompress || len(base) == 0 || total > MaxDelta {
		return dst, false
	}
	pool := &c.deltas[max(bits.Len(uint(total-1)), minDeltaWinBits)-minDeltaWinBits]
	e := pool.Get().(*deltaEncoder)
	start := len(dst)
	out = e.encode(dst, src, base)
	pool.Put(e)
	if !pays(len(out)-start, len(src)) {
		return out[:start], false
	}
	return out, true
}

// deltaEncoder encodes against one base after the other. It works as a stream:
// setting a dictionary resets the library's stream encoder at once, so
// EncodeAll, which has one of its own, would index the base twice; and a new
// encoder for each delta would clear and collect 10 MiB each time. The base
// stays reachable until the next delta, or until the pool is cleared.
type deltaEncoder struct {
	zstd *zstd.Encoder
	out  []byte
}

func (e *deltaEncoder) Write(p []byte) (int, error) {
	e.out = append(e.out, p...)
	return len(p), nil
}

func (e *deltaEncoder) encode(dst, src, base []byte) []byte {
	e.out = dst
	err := e.zstd.ResetWithOptions(e, zstd.WithEncoderDictRaw(0, base))
	if err == nil {
		e.zstd.ResetContentSize(e, int64(len(src)))
		_, err = e.zstd.Write(src)
	}
	if err == nil {
		err = e.zstd.Close()
	}
	if err != nil {
		panic("chunk: encode delta: " + err.Error()) // Write above does not fail, nor does the encoder
	}
	out := e.out
	e.out = nil
	return out
}

// Decode appends to dst the size bytes of plaintext that src is an encoding of.
// For ZstdDelta, base is the plaintext of the bases, end to end; otherwise it
// is ignored. Whatever src says, dst grows by no more than append would grow it
// for size bytes and a few more. After an error the result is dst.
func (c *Codec) Decode(dst, src []byte, enc Encoding, base []byte, size int) ([]byte, error) {
	switch {
	case size < 0:
		return dst, fmt.Errorf("decode blob: size %d: %w", size, ErrCorrupt)
	case enc == Raw:
		if len(src) != size {
			return dst, fmt.Errorf("decode raw blob: %d bytes, not %d: %w", len(src), size, ErrCorrupt)
		}
		return append(dst, src...), nil
	case enc != Zstd && enc != ZstdDelta:
		return dst, fmt.Errorf("decode blob: unknown %v: %w", enc, ErrCorrupt)
	}

	d := c.decs.Get().(*zstd.Decoder)
	defer c.decs.Put(d)
	if enc == ZstdDelta {
		if err := d.ResetWithOptions(nil, zstd.WithDecoderDictRaw(0, base)); err != nil {
			return dst, fmt.Errorf("decode blob: base of %d bytes: %w: %w", len(base), ErrCorrupt, err)
		}
		defer d.ResetWithOptions(nil, zstd.WithDecoderDictDelete()) // lets go of the base
	}
	// The decoder is limited to the capacity it is given.
	end := len(dst) + size
	dst = slices.Grow(dst, size+DecodeSlack)
	out, err := d.DecodeAll(src, dst[:len(dst):end+DecodeSlack])
	if err != nil {
		return dst, fmt.Errorf("decode %v blob of %d bytes: %w: %w", enc, size, ErrCorrupt, err)
	}
	if len(out) != end {
		return dst, fmt.Errorf("decode %v blob: %d bytes, not %d: %w", enc, len(out)-len(dst), size, ErrCorrupt)
	}
	return dst[:end], nil
}
