package repo

import (
	"context"
	"slices"

	"github.com/whole-tale/wtsnap/index"
)

// soundDeltas are the blobs that are put together and hashed while the pack is in memory that their whole blobs lie in, and
// those whole blobs. Only what is sound is noted: what is not is read again by itself, and then filed as what it is.
type soundDeltas struct {
	b      *batch
	copies []index.BlobRef
	wants  map[index.PackRef][]want // of the packs that are read, in the order of places
	set    *index.Set[index.BlobRef]
}

// planSound plans to read the deltas of packs with what they rest on, and that but once. None are read where the bytes to
// be read are bounded: their frames lie in other packs, too.
func (c *checker) planSound(packs []index.PackRef) *soundDeltas {
	if c.o.Within > 0 {
		packs = nil
	}
	d := &soundDeltas{wants: map[index.PackRef][]want{}, set: index.NewSet[index.BlobRef](c.x.Len())}
	for _, ref := range packs {
		blob := c.x.Pack(ref).FirstBlob
		for _, f := range c.x.Frames(ref) {
			for range f.Blobs {
				if len(f.Bases) > 0 {
					d.copies = append(d.copies, blob)
				}
				blob++
			}
		}
	}
	d.b = &batch{r: c.r, x: c.x, o: ReadOptions{Workers: c.o.Workers, OnError: func(int, error) error { return nil }}}
	d.b.fn = func(i int, _ []byte) error {
		d.set.Add(d.copies[i])
		return nil
	}
	read := map[index.PackRef]bool{}
	for _, ref := range packs {
		read[ref] = true
	}
	wants := slices.DeleteFunc(d.b.planCopies(d.copies), func(w want) bool {
		_, loc := c.x.At(w.root)
		return !read[loc.Pack]
	})
	var last index.FrameRef
	for i, w := range wants {
		_, loc := c.x.At(w.root)
		if i > 0 && loc.Frame == last {
			continue
		}
		last = loc.Frame
		frame, first := c.x.FrameOf(w.root)
		for i := range frame.Blobs {
			blob := first + index.BlobRef(i)
			wants = append(wants, want{root: blob, blob: blob, i: int32(len(d.copies))})
			d.copies = append(d.copies, blob)
		}
	}
	sortWants(wants)
	d.b.begin(wants)
	for len(wants) > 0 {
		_, loc := c.x.At(wants[0].root)
		n := 1
		for ; n < len(wants); n++ {
			if _, next := c.x.At(wants[n].root); next.Pack != loc.Pack {
				break
			}
		}
		d.wants[loc.Pack] = wants[:n]
		wants = wants[n:]
	}
	return d
}

// read puts together the deltas that rest on the blobs of a pack.
func (d *soundDeltas) read(ctx context.Context, ref index.PackRef, file *packFile) (err error) {
	d.b.units(d.wants[ref], func(part []want) {
		if err == nil {
			err = d.b.readUnit(ctx, part, file)
		}
	})
	return err
}

// frame reports whether all n blobs of a frame are known to be sound.
func (d *soundDeltas) frame(first index.BlobRef, n int) bool {
	for i := range n {
		if !d.set.Has(first + index.BlobRef(i)) {
			return false
		}
	}
	return true
}
