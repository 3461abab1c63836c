package repo

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/index"
)

const (
	// patchBytes is the size of a patch frame's instructions and literals, in bytes, at which it is closed. A reader of
	// one blob fetches and opens all of it.
	patchBytes = 128 << 10
	// openPatches is how many patch frames of one kind fill at a time.
	openPatches = 32
	// regionBytes is the size of a region of a pack.
	regionBytes = 1 << 20
)

// region is a part of a pack, of regionBytes. Chains that end at whole blobs of one region are ended in the same night, and
// those of the other regions of its window, with which they share the frames of their patches, in the nights after it: else
// frames would be read for a few blobs that have not ended yet, and a night would store a whole window anew.
type region struct {
	pack   index.PackRef
	number uint32
}

func regionOf(loc index.Location) region { return region{loc.Pack, loc.Offset / regionBytes} }

// place is the window of the region, and which of its regions it is.
func (g region) place() (window, nth uint32) {
	const each = maxRange / regionBytes
	return g.number / each, g.number % each
}

// limit is the share of a whole blob's bytes that the deltas on it may take, in 1/1024: 0.36 to 0.74. It differs from window
// to window, and from region to region by what a night or two add, so that it does not come for all in the same night, and is
// the same every night.
func (g region) limit(pack index.PackID) int64 {
	w, nth := g.place()
	return 369 + int64(pack[w%uint32(len(pack))])*320/255 + int64(nth)*23
}

// depth is how many deltas may lie between a blob and a whole one in the region. It differs too.
func (g region) depth(pack index.PackID) int {
	w, nth := g.place()
	return writeDepth + (int(pack[(w+1)%uint32(len(pack))])+int(nth))%(writeDepth+1)
}

// chainEnds decides which chains of deltas are ended by whole blobs.
type chainEnds struct {
	mu      sync.Mutex
	regions map[region]bool // one of their chains was ended by this session
}

// long reports whether a chain costs a restore so much that it should end: the deltas take too large a share of what the
// blob would take if it were whole, and compressed like its root. Once one chain of a region ends, three quarters of that are
// enough for the others. Where a chain is so deep that a delta can only be made against the whole blob, which costs as much as all
// the nights since, a quarter of the whole is too much for that.
func (e *chainEnds) long(c *chain, deep bool) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	long, over := e.check(c, deep)
	if over {
		if e.regions == nil {
			e.regions = map[region]bool{}
		}
		e.regions[regionOf(c.root)] = true
	}
	return long
}

// due is long for a blob that need not be a base: it ends nothing.
func (e *chainEnds) due(c *chain, deep bool) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	long, _ := e.check(c, deep)
	return long
}

// check also reports whether a chain is over its limit, and not only too deep. e.mu is held.
func (e *chainEnds) check(c *chain, deep bool) (long, over bool) {
	root := share(c.root)
	whole := max(root, root*c.size/int64(c.root.Size+1))
	excess := (root + c.bytes - whole) * 1024
	g := regionOf(c.root)
	limit := whole * g.limit(c.root.PackID)
	over = excess > limit || e.regions[g] && excess > limit*3/4
	return over || deep && excess > whole*1024/4, over
}

// patchFrame is a frame of patches that is filling.
type patchFrame struct {
	writer chunk.PatchWriter
	blobs  []index.Blob
	bases  [][]index.Key
	most   int  // bases of a blob
	size   int  // bytes of plaintext
	keep   bool // it is worth a place in the local cache
}

// takes reports whether there is room for one more blob.
func (f *patchFrame) takes(size int, b *deltaBases) bool {
	return f.size+size <= index.MaxFrameSize && (len(f.blobs)+1)*max(f.most, len(b.keys)) <= index.MaxBases
}

// patchShelf holds the frames of patches of one kind that are filling, one a window, for all writers of a session. Its
// methods may be called concurrently.
type patchShelf struct {
	shelf *shelf

	mu    sync.Mutex // held while a frame is closed too: what was added is on the shelf, or here
	open  map[window]*patchFrame
	order []window // of open, as they came
}

// add adds the only blob of a patch to the frame of its window.
func (h *patchShelf) add(ctx context.Context, w *Writer, patch *chunk.PatchWriter, blob index.Blob, b *deltaBases, keep bool) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	at := b.windows[0]
	f := h.open[at]
	if f != nil && !f.takes(int(blob.Size), b) {
		if err := h.close(ctx, w, at); err != nil {
			return err
		}
		f = nil
	}
	if f == nil {
		if len(h.order) >= openPatches {
			if err := h.close(ctx, w, h.order[0]); err != nil {
				return err
			}
		}
		if h.open == nil {
			h.open = map[window]*patchFrame{}
		}
		f = &patchFrame{}
		h.open[at], h.order = f, append(h.order, at)
	}
	f.writer.Join(patch)
	f.blobs, f.bases, f.keep = append(f.blobs, blob), append(f.bases, b.keys), f.keep || keep
	f.most, f.size = max(f.most, len(b.keys)), f.size+int(blob.Size)
	if f.writer.Size() >= patchBytes {
		return h.close(ctx, w, at)
	}
	return nil
}

// closeAll stores the frames that are filling.
func (h *patchShelf) closeAll(ctx context.Context, w *Writer) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for len(h.order) > 0 {
		if err := h.close(ctx, w, h.order[0]); err != nil {
			return err
		}
	}
	return nil
}

// close stores the frame of a window. h.mu is held.
func (h *patchShelf) close(ctx context.Context, w *Writer, g window) error {
	f := h.open[g]
	delete(h.open, g)
	h.order = slices.DeleteFunc(h.order, func(o window) bool { return o == g })
	frame := index.Frame{Encoding: chunk.Patched, Blobs: f.blobs}
	for _, keys := range f.bases { // equally many each: the last one is repeated
		frame.Bases = append(frame.Bases, keys...)
		for range f.most - len(keys) {
			frame.Bases = append(frame.Bases, keys[len(keys)-1])
		}
	}
	return w.addPatch(ctx, h.shelf, frame, &f.writer, f.keep)
}

// addPatch stores a frame of patches.
func (w *Writer) addPatch(ctx context.Context, shelf *shelf, frame index.Frame, patch *chunk.PatchWriter, keep bool) error {
	stored, ok := w.s.codec.EncodePatch(w.stored[:0], patch)
	if w.stored = stored; !ok {
		return fmt.Errorf("verifying compressed data before it is stored: a patch does not decode to what it was; this points to faulty memory")
	}
	return w.addEncoded(ctx, shelf, frame, stored, keep)
}
