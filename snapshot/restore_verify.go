package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/whole-tale/wtsnap/snapshot/localfs"
)

// verify reads the window's files again and hashes them, but for those that compare has just found right.
func (w *window) verify(ctx context.Context) error {
	rs := w.rs
	return parallelWith(ctx, len(w.files), 1, newScratch, nil, func(scratch *[]byte, i int) error {
		f := w.files[i]
		if f.open || f.bad.Load() {
			return nil
		}
		if f.mode == fileInPlace && !f.changed.Load() && f.have.Size == f.node.Size {
			rs.n.verified.Add(1)
			return nil
		}
		err := rs.verifyFile(ctx, f, scratch)
		var load *loadError
		switch {
		case err == nil:
			rs.n.verified.Add(1)
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.As(err, &load):
			damage, fatal := treeDamage(err)
			if fatal != nil {
				return fatal
			}
			f.fail(rs, damage)
		default:
			f.fail(rs, fmt.Errorf("verifying: %w", err))
		}
		return nil
	})
}

func (rs *restore) verifyFile(ctx context.Context, f *file, scratch *[]byte) error {
	h, m, err := rs.root.OpenFile(f.rel)
	if errors.Is(err, fs.ErrPermission) {
		return nil // complete, and by the snapshot's mode not readable for us
	}
	if err != nil {
		return err
	}
	defer h.Close()
	if m.Size != f.node.Size {
		return fmt.Errorf("it has %d bytes instead of %d", m.Size, f.node.Size)
	}
	var extents []localfs.Extent
	if m.Sparse() {
		if extents, err = h.Extents(m.Size); err != nil {
			return err
		}
	} else {
		extents = []localfs.Extent{{Offset: 0, Length: m.Size}}
	}
	for p, err := range f.node.Parts(ctx, rs.load, 0) {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		if p.IsHole() {
			if err := verifyHole(h, extents, p.Offset, p.HoleSize, scratch); err != nil {
				return err
			}
			continue
		}
		buf := sized(scratch, p.Size)
		if n, err := h.ReadAt(buf, p.Offset); n < len(buf) {
			return err
		}
		if rs.r.Hasher().Sum(buf) != p.ID {
			return fmt.Errorf("the %d bytes at %d are not those of the snapshot", p.Size, p.Offset)
		}
	}
	return nil
}

func verifyHole(h *localfs.File, extents []localfs.Extent, off, length int64, scratch *[]byte) error {
	for _, e := range overlapping(extents, off, length) {
		from, to := max(e.Offset, off), min(e.Offset+e.Length, off+length)
		for from < to {
			buf := sized(scratch, uint32(min(64<<10, to-from)))
			if n, err := h.ReadAt(buf, from); n < len(buf) {
				return err
			}
			if slices.ContainsFunc(buf, func(b byte) bool { return b != 0 }) {
				return fmt.Errorf("the hole at %d is not all zeros", off)
			}
			from += int64(len(buf))
		}
	}
	return nil
}
