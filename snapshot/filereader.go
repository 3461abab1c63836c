package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/whole-tale/wtsnap/chunk"
	"github.com/whole-tale/wtsnap/repo"
)

// fileBatch is how much of a file is read at a time, in bytes; a part may go beyond.
const fileBatch = 4 << 20

// freeParts is how many parts' memory is kept for later ones, which are of about the same size.
const freeParts = 64

// maxSteps bounds a batch of many holes and small parts.
const maxSteps = 1024

// A FileReader reads the content of one file of a snapshot in order. It reads ahead, so that whoever uses the bytes and
// the backend work at the same time. Missing or damaged data end it with the *repo.DamageError, after all bytes that come
// before them; the error names the file. It is for one goroutine, and must be closed.
//
// Memory: three batches of 4 MiB, less for smaller files, and what repo.ReadBlobs needs for its workers.
type FileReader struct {
	path    string
	cancel  context.CancelFunc
	batches chan *fileData
	free    chan []byte // memory of parts that were read to their end
	ended   error       // why there are no more batches; set before the channel is closed
	cur     fileData
	err     error
}

// A fileData is some bytes of a file, or an error in their place.
type fileData struct {
	next  *fileData // of the same batch
	zeros int64     // of a hole, before data
	data  []byte
	whole []byte // what data was before any of it was read
	err   error
}

// OpenFile returns a reader of n's content from the byte at offset from on. path is for messages. r's index is loaded.
func OpenFile(ctx context.Context, r *repo.Repository, n *Node, path string, from int64) *FileReader {
	ctx, cancel := context.WithCancel(ctx)
	f := &FileReader{path: path, cancel: cancel, batches: make(chan *fileData, 1), free: make(chan []byte, freeParts)}
	if !n.IsFile() {
		f.err = fmt.Errorf("reading %q: it is a %v, which has no content", path, n.Type)
		close(f.batches)
		return f
	}
	go func() {
		defer close(f.batches)
		f.fetch(ctx, r, n, from)
		f.ended = context.Cause(ctx)
	}()
	return f
}

// fetch reads batch after batch.
func (f *FileReader) fetch(ctx context.Context, r *repo.Repository, n *Node, from int64) {
	var steps []*fileData
	var ids []chunk.ID
	var at []int // of ids: the step that each is the data of
	size := int64(0)
	send := func() bool {
		if len(steps) == 0 {
			return true
		}
		if err := readSteps(ctx, r, ids, func(i int) *fileData { return steps[at[i]] }); err != nil {
			steps = []*fileData{{err: err}}
		}
		for i := range steps[1:] {
			steps[i].next = steps[i+1]
		}
		select {
		case f.batches <- steps[0]:
		case <-ctx.Done():
			return false
		}
		steps, ids, at, size = nil, nil, nil, 0
		return true
	}
	for p, err := range n.Parts(ctx, TreeLoader(r), from) {
		if err != nil {
			steps = append(steps, &fileData{err: errTree(err)})
			break
		}
		if len(steps) >= maxSteps && !send() {
			return
		}
		skip := max(from-p.Offset, 0)
		if p.IsHole() {
			steps = append(steps, &fileData{zeros: p.HoleSize - skip})
			continue
		}
		// data says which bytes of the blob are wanted, until they are there.
		at, ids = append(at, len(steps)), append(ids, p.ID)
		data := f.memory(int64(p.Size) - skip)
		steps = append(steps, &fileData{data: data, whole: data})
		if size += int64(p.Size); size >= fileBatch && !send() {
			return
		}
	}
	send()
}

// memory returns n bytes of any content.
func (f *FileReader) memory(n int64) []byte {
	select {
	case b := <-f.free:
		if int64(cap(b)) >= n {
			return b[:n]
		}
	default:
	}
	return make([]byte, n)
}

// release gives the memory of what is read now back.
func (f *FileReader) release() {
	if cap(f.cur.whole) == 0 {
		return
	}
	select {
	case f.free <- f.cur.whole:
	default:
	}
	f.cur.whole = nil
}

// readSteps fills in the data of steps.
func readSteps(ctx context.Context, r *repo.Repository, ids []chunk.ID, step func(i int) *fileData) error {
	if len(ids) == 0 {
		return nil
	}
	return r.ReadBlobs(ctx, ids, repo.ReadOptions{OnError: func(i int, err error) error {
		var damage *repo.DamageError
		if !errors.As(err, &damage) {
			return err
		}
		step(i).err = damage
		return nil
	}}, func(i int, data []byte) error {
		s := step(i)
		skip := len(data) - len(s.data)
		if skip < 0 {
			s.err = &repo.DamageError{Kind: repo.DamageTree, Object: "blob " + ids[i].String(),
				Detail: fmt.Sprintf("it has %d bytes, fewer than a file's part", len(data))}
			return nil
		}
		copy(s.data, data[skip:])
		return nil
	})
}

// Read implements io.Reader.
func (f *FileReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for f.err == nil {
		switch {
		case f.cur.err != nil:
			f.err = fmt.Errorf("reading %q: %w", f.path, f.cur.err)
		case f.cur.zeros > 0:
			n := int(min(f.cur.zeros, int64(len(p))))
			clear(p[:n])
			f.cur.zeros -= int64(n)
			return n, nil
		case len(f.cur.data) > 0:
			n := copy(p, f.cur.data)
			f.cur.data = f.cur.data[n:]
			return n, nil
		case f.cur.next != nil:
			f.release()
			f.cur = *f.cur.next
		default:
			f.release()
			b, ok := <-f.batches
			if !ok {
				if f.err = io.EOF; f.ended != nil {
					f.err = f.ended
				}
				break
			}
			f.cur = *b
		}
	}
	return 0, f.err
}

// Close ends the reading ahead, and waits for it.
func (f *FileReader) Close() error {
	f.cancel()
	for range f.batches { // until fetch has ended
	}
	f.err = errors.Join(f.err, errClosed)
	return nil
}

var errClosed = errors.New("the file is closed")

// ReadFileAt fills p with n's bytes from off on, all of which must be within the file. load reads pages, blob the content's
// blobs: TreeLoader's function, for example, or a cache before it. It reads nothing but what it needs, and nothing ahead.
func ReadFileAt(ctx context.Context, load, blob LoadFunc, n *Node, p []byte, off int64) error {
	end := off + int64(len(p))
	for part, err := range n.Parts(ctx, load, off) {
		if err != nil {
			return errTree(err)
		}
		if part.Offset >= end {
			return nil
		}
		from, to := max(off, part.Offset), min(end, part.Offset+part.Len())
		dst := p[from-off : to-off]
		if part.IsHole() {
			clear(dst)
			continue
		}
		data, err := blob(ctx, part.ID)
		if err != nil {
			return errTree(err)
		}
		if int64(len(data)) != part.Len() {
			return &repo.DamageError{Kind: repo.DamageTree, Object: "blob " + part.ID.String(), Detail: "it has another length than the file says"}
		}
		copy(dst, data[from-part.Offset:])
	}
	return nil
}
