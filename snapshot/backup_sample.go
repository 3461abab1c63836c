package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/whole-tale/wtsnap/snapshot/localfs"
)

// Files that lie: a failing disk, a program that sets the mtime back within the clock's resolution, a write through a
// memory map that was not stamped. So each night a part of what looks unchanged is read again and compared with its id.
//
// Which part depends on the path, the piece's number and the night: each piece comes up once in so many nights, and all
// nights have about the same share, large files or small. There are as many nights as SampleNights says, or more, so
// that the share is at most sampleBytes.
const sampleBytes = 256 << 20

// errDiffers says that a file is to be read whole.
var errDiffers = errors.New("it differs from what was stored")

// pathHash continues the hash of a folder's path by a name: FNV-1a.
func pathHash(h uint64, name string) uint64 {
	if h == 0 {
		h = 14695981039346656037
	}
	for i := range len(name) {
		h = (h ^ uint64(name[i])) * 1099511628211
	}
	return (h ^ '/') * 1099511628211
}

// turn reports whether this is the night of a file's piece.
func (s *backupSource) turn(hash uint64, piece int) bool {
	// The finalizer of SplitMix64.
	z := hash + uint64(piece)*0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return (z^z>>31)%s.nights == s.night
}

// sampled reports whether something of an unchanged file is to be read tonight.
func (b *backup) sampled(s *backupSource, t *fileTask, n *Node) bool {
	if s.nights == 0 || n.Size == 0 {
		return false
	}
	if !n.ContentRoot.IsZero() {
		return true // more than MaxInline pieces: the worker looks which
	}
	hash := pathHash(t.f.hash, t.name)
	for i := range n.Content {
		if s.turn(hash, i) && !n.Content[i].IsHole() {
			return true
		}
	}
	return false
}

// verify reads tonight's pieces of an unchanged file. It returns errDiffers if one is not what was stored, or if the file
// has changed since it was listed.
func (k *backupWorker) verify(ctx context.Context, t *fileTask, file *localfs.File, m *localfs.Meta) error {
	if !unmoved(m, &t.meta) || m.Ino != t.meta.Ino {
		return errDiffers
	}
	hash, piece := pathHash(t.f.hash, t.name), 0
	for p, err := range t.verify.Parts(ctx, k.load, 0) {
		if err != nil {
			return errDiffers
		}
		if t.f.src.turn(hash, piece) && !p.IsHole() {
			buf := k.buf
			if int(p.Size) > cap(buf) {
				buf = make([]byte, p.Size) // of a repository with other parameters
			}
			n, err := file.ReadAt(buf[:p.Size], p.Offset)
			k.o.Progress.Read.Add(int64(n))
			if err != nil && err != io.EOF {
				return err
			}
			if k.r.Hasher().Sum(buf[:n]) != p.ID {
				if after, err := file.Meta(); err == nil && unmoved(m, &after) {
					k.o.Monitor.Notice(t.path(), fmt.Sprintf("%v although its size, times and inode are the same; "+
						"it is saved as it is now", errDiffers))
				}
				return errDiffers
			}
		}
		if piece++; ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}
