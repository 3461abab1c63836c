package index

import (
	"iter"

	"github.com/whole-tale/wtsnap/chunk"
)

// Condemn makes the blobs of a pack count as absent where there is no other
// copy. The pack need not be known yet: condemned lists are read before the
// index.
func (x *Index) Condemn(id PackID) { x.condemn(id, true) }

// Absolve takes Condemn back.
func (x *Index) Absolve(id PackID) { x.condemn(id, false) }

func (x *Index) condemn(id PackID, yes bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if _, is := x.condemned[id]; is == yes {
		return
	}
	change := 1
	if yes {
		x.condemned[id] = struct{}{}
	} else {
		delete(x.condemned, id)
		change = -1
	}
	if ref, ok := x.findPack(id); ok {
		x.packs.at(uint32(ref)).condemned = yes
		x.condemnedPacks += change
	}
}

// Pack returns what is known of a pack.
func (x *Index) Pack(ref PackRef) PackInfo {
	x.mu.RLock()
	defer x.mu.RUnlock()
	e := x.packs.at(uint32(ref))
	frameEnd, blobEnd := x.frames.n, x.blobs.n
	if int(ref)+1 < x.packs.n {
		next := x.packs.at(uint32(ref) + 1)
		frameEnd, blobEnd = int(next.firstFrame), int(next.firstBlob)
	}
	info := PackInfo{
		ID: e.id, Kind: e.kind, Size: int64(e.size), DataSize: e.dataSize, Condemned: e.condemned,
		FirstFrame: FrameRef(e.firstFrame), Frames: frameEnd - int(e.firstFrame),
		FirstBlob: BlobRef(e.firstBlob), Blobs: blobEnd - int(e.firstBlob),
	}
	if e.hashName > 0 {
		info.Hash = joinHash(x.hashNames[e.hashName-1], x.hashes[e.hash:][:e.hashLen])
	}
	if e.segment != noSegment {
		info.Segments = append(info.Segments, x.segments[e.segment])
		for _, s := range x.more[ref] {
			info.Segments = append(info.Segments, x.segments[s])
		}
	}
	return info
}

// Packs yields the packs in the order they were added, those that are added
// meanwhile included.
func (x *Index) Packs() iter.Seq2[PackRef, PackInfo] {
	return func(yield func(PackRef, PackInfo) bool) {
		for ref := PackRef(0); int(ref) < x.PackCount(); ref++ {
			if !yield(ref, x.Pack(ref)) {
				return
			}
		}
	}
}

// FrameOf returns the frame that holds a copy of a blob, and the first of the
// frame's blobs. The frame is a copy, except that Bases is shared with the Index
// and not to be written to.
func (x *Index) FrameOf(ref BlobRef) (Frame, BlobRef) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	first := uint32(ref)
	for !x.frame.bit(first) {
		first--
	}
	f := x.copyFrame(x.frame.group(first), x.packOf(first))
	f.Blobs = x.appendBlobs(nil, first)
	return f, BlobRef(first)
}

// FirstOf returns the first blob of the frame that holds a copy of a blob.
func (x *Index) FirstOf(ref BlobRef) BlobRef {
	x.mu.RLock()
	defer x.mu.RUnlock()
	for !x.frame.bit(uint32(ref)) {
		ref--
	}
	return ref
}

// Frames yields the frames of a pack in their order. They are copies, except
// that Bases is shared with the Index and not to be written to.
func (x *Index) Frames(ref PackRef) iter.Seq2[FrameRef, Frame] {
	return func(yield func(FrameRef, Frame) bool) {
		first, frames := x.copyFrames(ref)
		for i, f := range frames {
			if !yield(first+FrameRef(i), f) {
				return
			}
		}
	}
}

func (x *Index) copyFrames(ref PackRef) (FrameRef, []Frame) {
	info := x.Pack(ref)
	x.mu.RLock()
	defer x.mu.RUnlock()
	p := x.packs.at(uint32(ref))
	frames := make([]Frame, info.Frames)
	blobs := make([]Blob, 0, info.Blobs)
	for i := range frames {
		frames[i] = x.copyFrame(p.firstFrame+uint32(i), p)
		n := len(blobs)
		blobs = x.appendBlobs(blobs, p.firstBlob+uint32(n))
		frames[i].Blobs = blobs[n:len(blobs):len(blobs)]
	}
	return info.FirstFrame, frames
}

// copyFrame returns a frame of pack p, without its blobs.
func (x *Index) copyFrame(frame uint32, p *packEntry) Frame {
	e := *x.frames.at(frame)
	f := Frame{Offset: e.place & offsetMask, Encoding: chunk.Encoding(e.place >> offsetBits)}
	f.Length = x.frameEnd(frame, p) - f.Offset
	if x.delta.bit(frame) {
		f.Bases = x.frameBases(frame)
	}
	return f
}

// appendBlobs appends the blobs of a frame, given the first.
func (x *Index) appendBlobs(blobs []Blob, blob uint32) []Blob {
	e := *x.frames.at(x.frame.group(blob))
	for more := true; more; more = !x.frame.bit(blob) {
		b := x.blobs.at(blob)
		blobs = append(blobs, Blob{b.key, x.blobEnd(blob, e) - b.start})
		blob++
	}
	return blobs
}
