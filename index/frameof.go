package index

import "github.com/whole-tale/wtsnap/chunk"

// FrameOf returns the frame that holds a copy of a blob, and the ordinal of the
// frame's first blob. Bases is shared with the Index and not to be written to.
func (x *Index) FrameOf(ref BlobRef) (Frame, BlobRef) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	first := uint32(ref)
	for !x.frame.bit(first) {
		first--
	}
	ord := x.frame.group(first)
	e := *x.frames.at(ord)
	p := x.packs.at(x.pack.group(ord))
	f := Frame{Offset: e.place & offsetMask, Encoding: chunk.Encoding(e.place >> offsetBits)}
	f.Length = x.frameEnd(ord, p) - f.Offset
	if x.delta.bit(ord) {
		f.Bases = x.frameBases(ord)
	}
	for blob, more := first, true; more; more = !x.frame.bit(blob) {
		f.Blobs = append(f.Blobs, Blob{*x.keys.at(blob), x.blobEnd(blob, e) - *x.starts.at(blob)})
		blob++
	}
	return f, BlobRef(first)
}
